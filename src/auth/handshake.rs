//! One handshake: what it is for, how it is to ask, and how far it has come.

use std::sync::Arc;

use super::credentials::Credentials;
use super::fallback::{Choice, Fallback};
use super::mechanism::{MutualCheck, Scheme, Secrets};
use super::progress::{Due, Tally};
use super::proxy_answer::token_under;
use super::request::Request;
use super::state::{Disclosure, Leg, Opening, State};
use crate::fault::Fault;
use crate::http::{self, ResponseHead};
use crate::limits;
use crate::ntlm::FileTime;

/// One handshake, over as many connections as it takes.
#[derive(Debug)]
pub struct Handshake {
    pub(super) request: Request,
    pub(super) credentials: Arc<Credentials>,
    /// Borrowed from the credentials while a token may have to be made, because they may be withdrawn in the meantime.
    pub(super) secrets: Option<Arc<Secrets>>,
    pub(super) scheme: Scheme,
    pub(super) disclosure: Disclosure,
    pub(super) state: State,
    pub(super) head_limit_bytes: usize,
    /// Field lines that a head may have.
    pub(super) field_limit: usize,
    /// How often the conversation began, on a fresh connection or again on the same one.
    pub(super) beginnings: u8,
    pub(super) legs: u8,
    pub(super) tally: Tally,
    /// Interim answers so far, over all its connections.
    pub(super) interim: u16,
    /// Checks the answer to the final token of the present connection.
    pub(super) mutual_check: Option<MutualCheck>,
    /// When the last final token was made.
    pub(super) token_made_at: FileTime,
    /// The last request on the present connection carries the final token.
    pub(super) has_sent_final_token: bool,
    /// How many final tokens that were refused have been replaced by others of the same mechanism.
    pub(super) retries: u8,
    /// The mechanism in use is not the one that comes first, because that one could not make its token.
    pub(super) has_fallen_back: bool,
    /// Why the mechanism in use is not the one that comes first; `None` if it is.
    pub(super) fallback: Option<Fallback>,
    /// See [`Handshake::bind_to_channel`].
    pub(super) channel_bindings: Option<[u8; 16]>,
    /// Credentials have been sent on the present connection.
    pub(super) has_shown_credentials: bool,
    /// The upstream has answered this very request with a 407 of its own.
    pub(super) demanded: bool,
    /// See [`Handshake::await_demand`].
    pub(super) awaits_demand: bool,
}

impl Handshake {
    /// A handshake that has sent nothing yet. Heads of more than `head_limit_bytes` are a fault.
    pub fn new(request: Request, credentials: Arc<Credentials>, head_limit_bytes: usize) -> Handshake {
        let scheme = credentials.recall_scheme();
        Handshake {
            scheme,
            fallback: credentials.known_fallback(scheme),
            state: State::Ready(credentials.first_leg.into()),
            request,
            credentials,
            secrets: None,
            disclosure: Disclosure::AtOnce,
            head_limit_bytes,
            field_limit: limits::FIELD_LIMIT,
            beginnings: 0,
            legs: 0,
            tally: Tally::default(),
            interim: 0,
            mutual_check: None,
            token_made_at: FileTime::default(),
            has_sent_final_token: false,
            retries: 0,
            has_fallen_back: false,
            channel_bindings: None,
            has_shown_credentials: false,
            demanded: false,
            awaits_demand: false,
        }
    }

    /// The same, for heads of up to `field_limit` field lines.
    #[must_use]
    pub fn with_field_limit(mut self, field_limit: usize) -> Handshake {
        self.field_limit = field_limit;
        self
    }

    /// Ties the next final token to the connection that it goes out on: the MD5 hash of the connection's channel
    /// bindings, if its transport has any. [`Handshake::begin`] forgets it.
    pub fn bind_to_channel(&mut self, channel_bindings: Option<[u8; 16]>) {
        self.channel_bindings = channel_bindings;
    }

    /// What the client asked for.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// What it asked for, to be asked for in another way.
    pub fn into_request(self) -> Request {
        self.request
    }

    /// Asks for something else from now on. What the upstream has answered so far was not about this request.
    pub fn retarget(&mut self, request: Request) {
        self.request = request;
        self.demanded = false;
    }

    /// Turns to another upstream and forgets what the last one answered.
    pub fn turn_to(&mut self, credentials: Arc<Credentials>) {
        self.scheme = credentials.recall_scheme();
        self.fallback = credentials.known_fallback(self.scheme);
        self.beginnings = 0;
        self.demanded = false;
        (self.retries, self.has_fallen_back) = (0, false);
        self.credentials = credentials;
        self.secrets = None;
        self.state = State::Ready(self.first_opening());
    }

    /// Lets the upstream demand authentication before a logon attempt that needs no challenge (Basic). Without the
    /// demand its answer would not tell whether the password is right.
    pub fn await_demand(&mut self) {
        self.awaits_demand = true;
    }

    /// Begins with the first mechanism in the list whose token is a logon attempt.
    pub fn begin_with_logon(&mut self) {
        if let Some(scheme) = self.credentials.first_logon_scheme() {
            self.scheme = scheme;
        }
    }

    /// Asks with credentials, as configured.
    pub fn ask_at_once(&mut self) {
        self.ask(Disclosure::AtOnce);
    }

    /// Asks without credentials, and sends them only if the upstream demands it.
    pub fn ask_plainly(&mut self) {
        self.ask(Disclosure::OnDemand);
    }

    /// Asks without credentials and, at first, without the body, because it is not known whether the upstream
    /// asks for credentials here. An upstream that does not could carry out a stand-in as a request of its own.
    pub fn ask_tentatively(&mut self) {
        self.ask(Disclosure::Tentatively);
    }

    fn ask(&mut self, disclosure: Disclosure) {
        self.disclosure = disclosure;
        self.state = State::Ready(self.first_opening());
    }

    pub(super) fn first_opening(&self) -> Opening {
        match self.disclosure {
            // It has been asked for, and no challenge has to be on the same connection.
            Disclosure::AtOnce if self.demanded && self.needs_no_challenge() => Opening::Token,
            Disclosure::AtOnce => self.credentials.first_leg.into(),
            // No challenge is expected, so there is nothing to send a stand-in for.
            _ if self.request.has_stand_in() => Opening::BareRequest,
            _ => Opening::Nothing,
        }
    }

    /// Requests sent so far.
    pub fn legs(&self) -> u8 {
        self.legs
    }

    /// The 407 answers so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The 407 answers since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// The mechanism in use, if more than one is listed.
    pub fn choice(&self) -> Option<Choice<'_>> {
        self.credentials.has_choice().then(|| Choice {
            first: self.credentials.first_scheme(),
            used: self.scheme,
            fallback: self.fallback.as_ref(),
        })
    }

    /// A fault of this handshake that says, too, why its mechanism is not the one that is listed first.
    #[must_use]
    pub fn explained(&self, fault: Fault) -> Fault {
        match self.choice() {
            Some(choice) if choice.fallback.is_some() => {
                Fault::new(fault.at, fault.cause, format!("{}; it used {choice}", fault.detail))
            }
            _ => fault,
        }
    }

    /// The scheme in use.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Checks that the upstream has authenticated too, if the mechanism demands it. `head` is that of its answer to the
    /// final token. The handshake does this itself for a CONNECT; the answer to a plain HTTP request is read by its
    /// owner.
    ///
    /// # Errors
    /// Why the upstream has not.
    pub fn check_answer(&self, head: &ResponseHead<'_>) -> Result<(), Fault> {
        let Some(MutualCheck(check)) = &self.mutual_check else { return Ok(()) };
        check(token_under(self.scheme.name(), head).or_else(|| {
            // RFC 9110 §11.7.3: where Squid has it.
            let mut infos = http::challenges_in(&head.fields, http::FieldName::ProxyAuthenticationInfo);
            infos.find(|info| info.is(self.scheme.name())).and_then(|info| info.token68)
        }))
    }

    /// Whether the final token is out and is no logon attempt.
    pub fn awaits_verdict_on_ticket(&self) -> bool {
        self.awaits_verdict() && !self.credentials.mechanism(self.scheme).counts_as_logon()
    }

    /// Whether the final token that is out may well be refused although it is no logon attempt: the upstream has not
    /// accepted the last one.
    pub fn is_token_doubtful(&self) -> bool {
        self.awaits_verdict_on_ticket() && !self.credentials.mechanism(self.scheme).is_accepted()
    }

    /// The upstream has answered the request otherwise than with 407.
    pub fn was_granted(&self) {
        if self.has_sent_final_token {
            self.credentials.mechanism(self.scheme).accepted();
        }
    }

    /// Nothing has been sent on the present connection.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// The final token is due.
    pub fn is_challenged(&self) -> bool {
        matches!(self.state, State::TokenDue { .. })
    }

    /// What the final token waits for; `None` if it is not due.
    pub fn due(&self) -> Option<Due> {
        let mechanism = self.credentials.mechanism(self.scheme);
        self.is_challenged().then(|| match () {
            () if mechanism.is_pending() => Due::Pending,
            () if mechanism.counts_as_logon() => Due::LogonAttempt,
            () => Due::Token,
        })
    }

    /// Whether the scheme in use needs no challenge: its first token is the final one.
    pub fn needs_no_challenge(&self) -> bool {
        self.credentials.mechanism(self.scheme).first_token(self.scheme).is_none()
    }

    /// The final token is out and not answered.
    pub fn awaits_verdict(&self) -> bool {
        matches!(self.state, State::Awaiting { leg: Leg::FinalToken, .. })
    }

    /// The request that is out is the client's own, head and all: its body, if it has one, is to follow now.
    pub fn awaits_body(&self) -> bool {
        matches!(self.state, State::Awaiting { leg, .. } if leg.is_whole())
    }

    /// The upstream may answer the request that is out only when it has reached the origin, or has failed to.
    pub fn awaits_origin(&self) -> bool {
        match self.state {
            State::Awaiting { leg: Leg::Nothing, .. } if self.disclosure != Disclosure::AtOnce => true,
            _ => self.awaits_verdict() || self.may_be_under_way(),
        }
    }

    /// The request that is out is the client's whole request although it is not authenticated, and must not be made
    /// twice. An upstream that asks nobody for credentials may be carrying it out.
    pub fn may_be_under_way(&self) -> bool {
        matches!(self.state, State::Awaiting { leg: Leg::Nothing | Leg::FirstToken, .. })
            && !self.request.is_idempotent()
            && !self.request.has_stand_in()
    }

    /// The request that is out is to show whether the upstream asks for credentials; its body waits, if it is long.
    pub fn is_trial(&self) -> bool {
        self.disclosure == Disclosure::Tentatively
            && matches!(self.state, State::Awaiting { leg: Leg::BareRequest, .. })
    }

    /// Whether credentials have been sent on the present connection, even if only a first token that the upstream
    /// ignored.
    pub fn has_shown_credentials(&self) -> bool {
        self.has_shown_credentials
    }

    /// Whether the upstream has demanded authentication for this very request.
    pub fn is_demanded(&self) -> bool {
        self.demanded
    }

    /// Whether the upstream is asked without credentials first, because it exempts the destination.
    pub fn is_exempt(&self) -> bool {
        self.disclosure != Disclosure::AtOnce
    }

    /// Whether it may begin once more.
    pub fn may_begin_again(&self) -> bool {
        self.beginnings < limits::HANDSHAKE_CONNECTIONS
    }
}
