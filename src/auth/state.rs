//! The states of the handshake.

use std::sync::Arc;

use super::credentials::{BasicCredentials, Credentials, FirstLeg, Secret};
use super::decision::{Asked, BasicUse, Decision, decide, downgraded, with_head};
use super::request::Request;
use super::scheme::Scheme;
use crate::fault::{At, Cause, Fault};
use crate::forward::HeadPurpose;
use crate::http::{self, BodyDiscarder, BodyFraming, HeadEnd};
use crate::limits;
use crate::ntlm::{self, AuthenticateInputs, FileTime};

/// The inputs of an AUTHENTICATE_MESSAGE that are new each time.
#[derive(Clone, Copy)]
pub struct Nonces {
    /// 8 random bytes.
    pub client_challenge: [u8; 8],
    /// 16 random bytes.
    pub exported_session_key: [u8; 16],
    /// Used where the server does not tell its own time.
    pub now: FileTime,
}

/// What came of feeding bytes.
#[derive(Debug)]
pub enum Progress {
    /// More must be read.
    More,
    /// `out` holds a request to be sent on the same connection.
    Send,
    /// The connection is of no more use: dial anew, then [`Handshake::begin`].
    Redial,
    /// The challenge is there; [`Handshake::authenticate`] when the guard allows it.
    Challenged,
    /// The tunnel stands; what was not consumed belongs to it.
    Established,
    /// The upstream answers the request itself, with or without proof: its head was not consumed.
    Answered,
    /// The upstream took the credentials and declined the request; the answer is to be passed on.
    Declined(Declined),
}

/// An upstream's own answer to a CONNECT that it did not grant. Its body follows unconsumed.
#[derive(Debug)]
pub struct Declined {
    /// Not 2xx, and 407 only if it is not the upstream's own.
    pub status: u16,
    /// The reason phrase, made printable.
    pub reason: String,
    /// Its end-to-end fields, each with its CRLF.
    pub fields: Vec<u8>,
    /// How long the body is.
    pub framing: BodyFraming,
}

/// How often the upstream answered 407, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// To a request without credentials, or a NEGOTIATE_MESSAGE that was not looked at.
    pub unprompted: u8,
    /// With a CHALLENGE_MESSAGE.
    pub challenge: u8,
    /// To an AUTHENTICATE_MESSAGE.
    pub refused: u8,
    /// To an AUTHENTICATE_MESSAGE, with a new challenge.
    pub rechallenge: u8,
}

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    Plain,
    Negotiate,
    Authenticate,
    /// The request with its body and without credentials: the upstream has shown that it asks for none, or exempts the destination.
    Bare,
}

impl From<FirstLeg> for Leg {
    fn from(first: FirstLeg) -> Leg {
        match first {
            FirstLeg::Negotiate => Leg::Negotiate,
            FirstLeg::Plain => Leg::Plain,
        }
    }
}

impl Leg {
    pub(super) fn purpose(self) -> HeadPurpose {
        match self {
            Leg::Plain | Leg::Negotiate => HeadPurpose::Challenge,
            Leg::Authenticate | Leg::Bare => HeadPurpose::Answer,
        }
    }
}

#[derive(Debug)]
enum State {
    /// Nothing has been sent on the present connection.
    Ready(Leg),
    /// A request is out.
    Awaiting { sent: Leg, head_end: HeadEnd },
    /// The body of a 407 is read past; then the connection goes on.
    Draining { drain: BodyDiscarder, then: AfterDrain },
    /// The CHALLENGE_MESSAGE of this connection, not answered yet.
    Challenged { challenge: Vec<u8> },
    /// An outcome has been reported.
    Ended,
}

#[derive(Debug)]
enum AfterDrain {
    Answer(Vec<u8>),
    Negotiate,
    Bare,
}

/// When the upstream gets to see credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// From the first leg on, as the configuration has it.
    AtOnce,
    /// When it asks for them: the destination is said to be exempt.
    WhenAsked,
    /// As before, and the body is held back for a while, because nobody knows whether it will ask.
    Tentatively,
}

/// One handshake, over as many connections as it takes.
#[derive(Debug)]
pub struct Handshake {
    request: Request,
    credentials: Arc<Credentials>,
    /// Borrowed from the credentials while an AUTHENTICATE_MESSAGE may have to be made: they may be withdrawn meanwhile.
    secret: Option<Arc<Secret>>,
    scheme: Scheme,
    asks: Asks,
    state: State,
    head_limit_bytes: usize,
    /// Field lines that a head may have.
    field_limit: usize,
    /// Times that NEGOTIATE (or the request without credentials) was sent.
    beginnings: u8,
    legs: u8,
    tally: Tally,
    /// Interim answers so far, over all its connections.
    interim: u16,
    /// The present connection has borne credentials.
    has_shown_credentials: bool,
    /// The upstream has answered this very request with a 407 of its own.
    demanded: bool,
    /// Nothing that needs no challenge is sent before that.
    awaits_demand: bool,
}

impl Handshake {
    /// A handshake that has sent nothing yet. Heads of more than `head_limit_bytes` are a fault.
    pub fn new(request: Request, credentials: Arc<Credentials>, head_limit_bytes: usize) -> Handshake {
        let scheme = credentials.recall_scheme();
        let state = State::Ready(credentials.first_leg.into());
        Handshake {
            request,
            credentials,
            secret: None,
            scheme,
            asks: Asks::AtOnce,
            state,
            head_limit_bytes,
            field_limit: limits::FIELD_LIMIT,
            beginnings: 0,
            legs: 0,
            tally: Tally::default(),
            interim: 0,
            has_shown_credentials: false,
            demanded: false,
            awaits_demand: false,
        }
    }

    /// The same, for heads of up to so many field lines.
    #[must_use]
    pub fn with_field_limit(mut self, field_limit: usize) -> Handshake {
        self.field_limit = field_limit;
        self
    }

    fn first_leg(&self) -> Leg {
        match self.asks {
            Asks::AtOnce => self.credentials.first_leg.into(),
            // There is no challenge to be got.
            _ if self.request.has_stand_in() => Leg::Bare,
            _ => Leg::Plain,
        }
    }

    /// What the client asked for.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Requests sent so far.
    pub fn legs(&self) -> u8 {
        self.legs
    }

    /// Answers 407 so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The answers that were not taken before, to be counted.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// The AUTHENTICATE_MESSAGE is out and not answered.
    pub fn awaits_verdict(&self) -> bool {
        matches!(self.state, State::Awaiting { sent: Leg::Authenticate, .. })
    }

    /// The request that is out is the client's own, head and all: its body, if it has one, is to follow now.
    pub fn awaits_body(&self) -> bool {
        matches!(self.state, State::Awaiting { sent: Leg::Authenticate | Leg::Bare, .. })
    }

    /// The request that is out may be answered only when the upstream has reached the origin, or has failed to.
    pub fn awaits_origin(&self) -> bool {
        match self.state {
            State::Awaiting { sent: Leg::Plain, .. } if self.asks != Asks::AtOnce => true,
            _ => self.awaits_verdict() || self.may_be_under_way(),
        }
    }

    /// The request that is out without a proof is the client's whole request, and must not be made twice: an upstream that
    /// asks nobody may be carrying it out.
    pub fn may_be_under_way(&self) -> bool {
        matches!(self.state, State::Awaiting { sent: Leg::Plain | Leg::Negotiate, .. })
            && !self.request.is_idempotent()
            && !self.request.has_stand_in()
    }

    /// Whether the present connection has borne credentials, be it a NEGOTIATE_MESSAGE that the upstream did not care for.
    pub fn has_shown_credentials(&self) -> bool {
        self.has_shown_credentials
    }

    /// What it asked for, to be asked for in another way.
    pub fn into_request(self) -> Request {
        self.request
    }

    /// Asks for something else from now on. What the upstream has answered so far named no target.
    pub fn retarget(&mut self, request: Request) {
        self.request = request;
        self.demanded = false;
    }

    /// Whether the upstream has demanded authentication for this very request.
    pub fn is_demanded(&self) -> bool {
        self.demanded
    }

    /// Whether the upstream is asked without credentials first, because it exempts the destination.
    pub fn is_exempt(&self) -> bool {
        self.asks != Asks::AtOnce
    }

    /// Lets the upstream demand authentication before a password is sent that needs no challenge (Basic): only then does its answer tell
    /// whether the password is right.
    pub fn await_demand(&mut self) {
        self.awaits_demand = true;
    }

    /// Asks with credentials, as the configuration has it.
    pub fn ask_at_once(&mut self) {
        self.asks = Asks::AtOnce;
        self.state = State::Ready(self.first_leg());
    }

    /// Asks without credentials, and with them only if the upstream demands it.
    pub fn ask_plainly(&mut self) {
        self.asks = Asks::WhenAsked;
        self.state = State::Ready(self.first_leg());
    }

    /// Asks without credentials and, at first, without the body: nobody knows yet whether the upstream asks for credentials
    /// here. A stand-in could be carried out as a request of its own by one that does not.
    pub fn ask_tentatively(&mut self) {
        self.asks = Asks::Tentatively;
        self.state = State::Ready(self.first_leg());
    }

    /// The request that is out is to show whether the upstream asks for credentials; its body waits, if it is long.
    pub fn is_trial(&self) -> bool {
        self.asks == Asks::Tentatively && matches!(self.state, State::Awaiting { sent: Leg::Bare, .. })
    }

    /// Turns to another upstream: what the last one said is forgotten.
    pub fn turn_to(&mut self, credentials: Arc<Credentials>) {
        self.scheme = credentials.recall_scheme();
        self.beginnings = 0;
        self.demanded = false;
        self.credentials = credentials;
        self.secret = None;
        self.state = State::Ready(self.first_leg());
    }

    /// The form in which messages go out.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Nothing has been sent on the present connection.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// The challenge is there and has not been answered.
    pub fn is_challenged(&self) -> bool {
        matches!(self.state, State::Challenged { .. })
    }

    /// Writes the request for a fresh connection to `out`. Whatever was known of an earlier connection is forgotten, its
    /// challenge above all.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        let leg = match &self.state {
            State::Ready(Leg::Negotiate) if self.scheme == Scheme::Basic && self.awaits_demand && !self.demanded => {
                Leg::Plain
            }
            State::Ready(leg) => *leg,
            // It has asked for credentials after all.
            State::Awaiting { sent: Leg::Bare, .. } => {
                self.asks = Asks::AtOnce;
                self.first_leg()
            }
            _ => Leg::Negotiate,
        };
        self.beginnings += 1;
        self.secret = self.credentials.secret();
        if self.scheme == Scheme::Basic && leg == Leg::Negotiate {
            self.state = State::Challenged { challenge: Vec::new() };
            return;
        }
        let message = self.credentials.negotiate.as_slice();
        match leg {
            Leg::Plain | Leg::Bare => self.request.write(None, leg.purpose(), out),
            _ => {
                let wrapped = self.scheme.wrap_first(message);
                let token = wrapped.as_deref().unwrap_or(message);
                self.request.write(Some((self.scheme.name(), token)), HeadPurpose::Challenge, out);
            }
        }
        self.sent(leg);
    }

    /// Writes the request with the AUTHENTICATE_MESSAGE to `out`.
    ///
    /// # Errors
    /// [`Cause::ChallengeMalformed`] when the challenge cannot be answered, or when there is none.
    pub fn authenticate(&mut self, nonces: &Nonces, out: &mut Vec<u8>) -> Result<(), Fault> {
        let State::Challenged { challenge } = std::mem::replace(&mut self.state, State::Ended) else {
            return Err(fault(Cause::ChallengeMalformed, "there is no challenge to answer"));
        };
        let Some(secret) = self.secret.take() else {
            let detail = "a reload replaced the credentials while the request was under way, and not by others for it";
            return Err(fault(Cause::CredentialsWithdrawn, detail));
        };
        if self.scheme == Scheme::Basic {
            // Another handshake may have seen a challenge while this one waited.
            if self.credentials.withholds_basic() {
                return Err(downgraded("Basic"));
            }
            let basic = secret.basic.as_ref().map(BasicCredentials::reveal).unwrap_or_default();
            self.request.write(Some((self.scheme.name(), basic)), HeadPurpose::Answer, out);
            self.sent(Leg::Authenticate);
            return Ok(());
        }
        let inputs = AuthenticateInputs {
            client_challenge: nonces.client_challenge,
            exported_session_key: nonces.exported_session_key,
            now: nonces.now,
            target_name: self.credentials.target_name.as_deref(),
            channel_bindings: None,
        };
        let message = ntlm::authenticate(&secret.identity, &self.credentials.negotiate, &challenge, &inputs)
            .map_err(|error| fault(Cause::ChallengeMalformed, format!("the challenge cannot be answered: {error}")))?;
        let wrapped = self.scheme.wrap_answer(&message);
        let token = wrapped.as_deref().unwrap_or(&message);
        self.request.write(Some((self.scheme.name(), token)), HeadPurpose::Answer, out);
        self.sent(Leg::Authenticate);
        Ok(())
    }

    /// Takes bytes that the upstream sent, all that were not consumed before first. Returns how many were consumed; the rest
    /// is to be fed again with what comes after it, or belongs to the tunnel or to the body of the declined request.
    ///
    /// # Errors
    /// The fault that ends the handshake.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, Progress), Fault> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            match &mut self.state {
                State::Awaiting { head_end, sent } => {
                    let sent = *sent;
                    let found = head_end.find(rest, self.head_limit_bytes);
                    let Some(length) = found.map_err(|error| fault(Cause::ResponseHeadTooLarge, error.to_string()))?
                    else {
                        return Ok((used, Progress::More));
                    };
                    let asked = Asked {
                        request: &self.request,
                        sent,
                        scheme: self.scheme,
                        basic: match self.credentials.allows_basic() {
                            false => BasicUse::NotAllowed,
                            true if self.credentials.withholds_basic() => BasicUse::Withheld,
                            true => BasicUse::Allowed,
                        },
                    };
                    let decision = with_head(&rest[..length], self.field_limit, |head| decide(head, &asked))??;
                    if let Decision::Answered = decision {
                        self.end();
                        return Ok((used, Progress::Answered));
                    }
                    used += length;
                    if let Some(progress) = self.follow(decision)? {
                        return Ok((used, progress));
                    }
                }
                State::Draining { drain, then } => {
                    let drained = match (drain.feed(rest), then) {
                        (Ok(drained), _) => drained,
                        // The body of an answer that is not the client's: the connection is not worth reading it.
                        (Err(_), AfterDrain::Bare) => return Ok((bytes.len(), self.again_bare()?)),
                        (Err(error), _) => return Err(drain_fault(error)),
                    };
                    used += drained.consumed;
                    if !drained.done {
                        return Ok((used, Progress::More));
                    }
                    let poisoned = used < bytes.len();
                    let progress = self.drained(poisoned, out)?;
                    return Ok((used, progress));
                }
                State::Ready(_) | State::Challenged { .. } if rest.is_empty() => return Ok((used, Progress::More)),
                // Nothing was asked, yet something came: whatever it answers, it is not our next request.
                State::Ready(_) | State::Challenged { .. } => {
                    return Ok((bytes.len(), self.again(Cause::ResponseMalformed, "bytes that answer no request")?));
                }
                State::Ended => return Ok((used, Progress::More)),
            }
        }
    }

    /// The upstream has ended the connection.
    ///
    /// # Errors
    /// The fault that ends the handshake, when dialling anew is no remedy.
    pub fn closed(&mut self) -> Result<Progress, Fault> {
        match &self.state {
            State::Awaiting { sent: Leg::Authenticate, .. } => Err(fault(
                Cause::UpstreamClosed,
                "the upstream closed the connection without an answer to AUTHENTICATE",
            )),
            _ if self.may_be_under_way() => Err(fault(
                Cause::UpstreamClosed,
                "the upstream closed the connection without an answer to a request that must not be made twice",
            )),
            // Nobody has asked for credentials yet.
            State::Awaiting { sent: Leg::Plain | Leg::Bare, .. } if self.asks != Asks::AtOnce => {
                self.check_beginnings(Cause::UpstreamClosed, CLOSED)?;
                self.state = State::Ready(self.first_leg());
                Ok(Progress::Redial)
            }
            // Whether the body was whole no longer matters: all that it was waiting for has gone.
            _ => self.again(Cause::UpstreamClosed, CLOSED),
        }
    }

    /// An outcome has been reported: the secret is not needed any more, however long the exchange may last.
    fn end(&mut self) {
        self.state = State::Ended;
        self.secret = None;
    }

    fn sent(&mut self, leg: Leg) {
        if leg == Leg::Bare {
            self.secret = None;
        }
        self.legs = self.legs.saturating_add(1);
        self.has_shown_credentials = match leg {
            Leg::Plain => false,
            Leg::Bare => self.has_shown_credentials,
            Leg::Negotiate | Leg::Authenticate => true,
        };
        self.state = State::Awaiting { sent: leg, head_end: HeadEnd::response() };
    }

    /// Carries a decision out; `None` when the next bytes may be looked at.
    fn follow(&mut self, decision: Decision) -> Result<Option<Progress>, Fault> {
        match decision {
            Decision::Skip => {
                self.interim += 1;
                if self.interim > limits::HANDSHAKE_INTERIM_ANSWERS {
                    return Err(fault(Cause::ResponseMalformed, "the upstream sends 1xx answers without end"));
                }
                if let State::Awaiting { head_end, .. } = &mut self.state {
                    *head_end = HeadEnd::response();
                }
                Ok(None)
            }
            Decision::Answered => Ok(Some(Progress::Answered)),
            Decision::NoProof { framing } => match framing {
                Some(framing) => Ok(self.drain(framing, AfterDrain::Bare)),
                None => self.again_bare().map(Some),
            },
            Decision::Established => {
                self.end();
                Ok(Some(Progress::Established))
            }
            Decision::Declined(declined) => {
                self.end();
                Ok(Some(Progress::Declined(declined)))
            }
            Decision::Refused { rechallenged, detail } => {
                self.end();
                // It may have been Basic, of which the upstream thinks better by now.
                self.credentials.scheme.forget_basic();
                match rechallenged {
                    true => self.tally.rechallenge += 1,
                    false => self.tally.refused += 1,
                }
                Err(fault(Cause::CredentialsRefused, detail))
            }
            Decision::Challenge { token, framing, scheme } => {
                self.demanded = true;
                self.tally.challenge = self.tally.challenge.saturating_add(1);
                self.credentials.challenged(self.scheme, &token);
                self.scheme = scheme;
                match framing {
                    Some(framing) => Ok(self.drain(framing, AfterDrain::Answer(token))),
                    None => self
                        .again(Cause::HandshakeBroken, "the upstream sends its challenge and closes the connection")
                        .map(Some),
                }
            }
            Decision::AskedForBasic { framing } => {
                self.demanded = true;
                self.tally.unprompted = self.tally.unprompted.saturating_add(1);
                self.scheme = Scheme::Basic;
                self.credentials.scheme.remember(self.scheme);
                match framing {
                    Some(framing) => Ok(self.drain(framing, AfterDrain::Answer(Vec::new()))),
                    None => self.again(Cause::HandshakeBroken, ASKED_AGAIN).map(Some),
                }
            }
            Decision::AskedAgain { framing, scheme } => {
                self.demanded = true;
                self.scheme = scheme;
                self.tally.unprompted = self.tally.unprompted.saturating_add(1);
                match framing {
                    Some(framing) => Ok(self.drain(framing, AfterDrain::Negotiate)),
                    None => self.again(Cause::HandshakeBroken, ASKED_AGAIN).map(Some),
                }
            }
        }
    }

    fn drain(&mut self, framing: BodyFraming, then: AfterDrain) -> Option<Progress> {
        self.state = State::Draining { drain: BodyDiscarder::new(framing, limits::DISCARD_LIMIT_BYTES), then };
        None
    }

    /// The body of a 407 is behind us. Bytes after it would be taken for the next answer: such a connection is dropped.
    fn drained(&mut self, poisoned: bool, out: &mut Vec<u8>) -> Result<Progress, Fault> {
        let State::Draining { then, .. } = std::mem::replace(&mut self.state, State::Ended) else {
            return Ok(Progress::More);
        };
        if poisoned {
            return self.again(Cause::ResponseMalformed, "the upstream sends bytes behind the body of its 407");
        }
        match then {
            AfterDrain::Answer(challenge) => {
                self.state = State::Challenged { challenge };
                Ok(Progress::Challenged)
            }
            AfterDrain::Bare => {
                self.state = State::Ready(Leg::Bare);
                self.begin(out);
                Ok(Progress::Send)
            }
            AfterDrain::Negotiate => {
                self.check_beginnings(Cause::HandshakeBroken, ASKED_AGAIN)?;
                self.begin(out);
                Ok(Progress::Send)
            }
        }
    }

    /// Gives the connection up and asks for another, unless too many have been used up already.
    fn again(&mut self, cause: Cause, detail: &'static str) -> Result<Progress, Fault> {
        self.check_beginnings(cause, detail)?;
        self.state = State::Ready(Leg::Negotiate);
        Ok(Progress::Redial)
    }

    /// The same, for the request with its body and without credentials.
    fn again_bare(&mut self) -> Result<Progress, Fault> {
        let progress = self.again(Cause::HandshakeBroken, ASKED_AGAIN)?;
        self.state = State::Ready(Leg::Bare);
        Ok(progress)
    }

    /// Whether it has not used up too many connections yet.
    pub fn may_begin_again(&self) -> bool {
        self.beginnings < limits::HANDSHAKE_CONNECTIONS
    }

    fn check_beginnings(&self, cause: Cause, detail: &'static str) -> Result<(), Fault> {
        if self.may_begin_again() {
            return Ok(());
        }
        Err(fault(cause, format!("{detail}; gave up after {} attempts", self.beginnings)))
    }
}

const CLOSED: &str = "the upstream closed the connection in the middle of the handshake";

const ASKED_AGAIN: &str = "the upstream asks for authentication and answers a NEGOTIATE_MESSAGE with no challenge";

fn drain_fault(error: http::DiscardError) -> Fault {
    let cause = match error {
        http::DiscardError::TooLarge { .. } => Cause::ResponseBodyTooLarge,
        _ => Cause::ResponseMalformed,
    };
    fault(cause, format!("the body of the upstream's 407: {error}"))
}

pub(super) fn fault(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(At::Authenticate, cause, detail)
}
