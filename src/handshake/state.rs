//! The states of the handshake.

use std::sync::Arc;

use super::credentials::{BasicCredentials, Credentials, FirstLeg, Secret};
use super::request::Request;
use super::scheme::{Scheme, response_token};
use crate::fault::{At, Cause, Fault};
use crate::forward::HeadFor;
use crate::http::{self, BodyDrain, BodyFraming, FieldStorage, HeadEnd, ResponseHead};
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
enum Leg {
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
    fn purpose(self) -> HeadFor {
        match self {
            Leg::Plain | Leg::Negotiate => HeadFor::Challenge,
            Leg::Authenticate | Leg::Bare => HeadFor::Answer,
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
    Draining { drain: BodyDrain, then: AfterDrain },
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

/// One handshake, over as many connections as it takes.
#[derive(Debug)]
pub struct Handshake {
    request: Request,
    credentials: Arc<Credentials>,
    /// Borrowed from the credentials while an AUTHENTICATE_MESSAGE may have to be made: they may be withdrawn meanwhile.
    secret: Option<Arc<Secret>>,
    scheme: Scheme,
    /// The upstream exempts the destination: credentials are sent only if it asks for them all the same.
    exempt: bool,
    state: State,
    head_limit_bytes: usize,
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
            exempt: false,
            state,
            head_limit_bytes,
            beginnings: 0,
            legs: 0,
            tally: Tally::default(),
            interim: 0,
            has_shown_credentials: false,
            demanded: false,
            awaits_demand: false,
        }
    }

    fn first_leg(&self) -> Leg {
        match self.exempt {
            // There is no challenge to be got, and the request is not to be carried out twice.
            true if !self.request.is_harmless() => Leg::Bare,
            true => Leg::Plain,
            false => self.credentials.first_leg.into(),
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
            State::Awaiting { sent: Leg::Plain, .. } => self.exempt,
            _ => self.awaits_verdict(),
        }
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
        self.exempt
    }

    /// Lets the upstream demand authentication before a password is sent that needs no challenge (Basic): only then does its answer tell
    /// whether the password is right.
    pub fn await_demand(&mut self) {
        self.awaits_demand = true;
    }

    /// Asks without credentials, and with them only if the upstream demands it.
    pub fn ask_plainly(&mut self) {
        self.exempt = true;
        self.state = State::Ready(self.first_leg());
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
                self.request.write(Some((self.scheme.name(), token)), HeadFor::Challenge, out);
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
            self.request.write(Some((self.scheme.name(), basic)), HeadFor::Answer, out);
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
        self.request.write(Some((self.scheme.name(), token)), HeadFor::Answer, out);
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
                    let decision = with_head(&rest[..length], |head| decide(head, &asked))??;
                    if let Decision::Answered = decision {
                        self.end();
                        return Ok((used, Progress::Answered));
                    }
                    used += length;
                    if let Some(progress) = self.follow(decision)? {
                        return Ok((used, progress));
                    }
                }
                State::Draining { drain, .. } => {
                    let drained = drain.feed(rest).map_err(drain_fault)?;
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
            // Nobody has asked for credentials yet.
            State::Awaiting { sent: Leg::Plain | Leg::Bare, .. } if self.exempt => {
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
                None => self.again(Cause::HandshakeBroken, ASKED_AGAIN).map(|progress| {
                    self.state = State::Ready(Leg::Bare);
                    Some(progress)
                }),
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
        self.state = State::Draining { drain: BodyDrain::new(framing, limits::DRAIN_LIMIT_BYTES), then };
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

const TRANSPARENT: &str = "the upstream asks with 401 and WWW-Authenticate, as an origin would: it is set up as a transparent proxy \
    (Blue Coat with BCSI cookies does so); use its explicit proxy port";

/// What an answer means, as far as it can be told from the answer and what was sent.
enum Decision {
    Skip,
    Answered,
    /// The upstream asks for no proof, and has not seen the client's request.
    NoProof {
        framing: Option<BodyFraming>,
    },
    Established,
    Declined(Declined),
    /// `framing` is `None` when the connection will not go on.
    Challenge {
        token: Vec<u8>,
        framing: Option<BodyFraming>,
        /// The form that the answer is to have.
        scheme: Scheme,
    },
    /// Nothing better than Basic is offered, and the identity allows it.
    AskedForBasic {
        framing: Option<BodyFraming>,
    },
    AskedAgain {
        framing: Option<BodyFraming>,
        /// What to try next.
        scheme: Scheme,
    },
    Refused {
        rechallenged: bool,
        detail: String,
    },
}

/// What an answer is judged by.
struct Asked<'a> {
    request: &'a Request,
    sent: Leg,
    scheme: Scheme,
    basic: BasicUse,
}

/// What becomes of an offer of Basic where nothing better is offered.
#[derive(Clone, Copy)]
enum BasicUse {
    /// The identity does not allow it.
    NotAllowed,
    Allowed,
    /// The identity allows it, and the upstream is known to speak NTLM.
    Withheld,
}

fn decide(head: &ResponseHead<'_>, asked: &Asked<'_>) -> Result<Decision, Fault> {
    let framing = head
        .framing(asked.request.response_to(asked.sent.purpose()))
        .map_err(|error| fault(Cause::ResponseMalformed, error.to_string()))?;
    if asked.request.forward().is_some() && (head.status != 407 || !is_of_proxy(head)) {
        return Ok(decide_forward(head, framing, asked));
    }
    match head.status {
        _ if head.is_informational() => Ok(Decision::Skip),
        200..=299 => Ok(Decision::Established),
        401 => Err(fault(Cause::TransparentProxy, TRANSPARENT)),
        407 if is_of_proxy(head) || asked.sent != Leg::Authenticate => decide_407(head, framing, asked),
        status => {
            let mut fields = Vec::new();
            http::copy_end_to_end_fields(&head.fields, &mut fields);
            let reason = String::from_utf8_lossy(head.reason).chars().filter(|letter| !letter.is_control()).collect();
            Ok(Decision::Declined(Declined { status, reason, fields, framing }))
        }
    }
}

/// Whether a 407 is the proxy's own: one without Proxy-Authenticate (RFC 9110 §15.5.8) comes from the origin.
pub fn is_of_proxy(head: &ResponseHead<'_>) -> bool {
    head.fields.get("proxy-authenticate").is_some()
}

/// An answer to a plain HTTP request that asks for no proof, or for no further one.
fn decide_forward(head: &ResponseHead<'_>, framing: BodyFraming, asked: &Asked<'_>) -> Decision {
    let for_challenge = asked.sent.purpose() == HeadFor::Challenge;
    match head.is_informational() {
        true if for_challenge => Decision::Skip,
        false if for_challenge && !asked.request.is_harmless() => {
            let persists = head.persists() && framing != BodyFraming::ToClose;
            Decision::NoProof { framing: persists.then_some(framing) }
        }
        _ => Decision::Answered,
    }
}

fn decide_407(head: &ResponseHead<'_>, framing: BodyFraming, asked: &Asked<'_>) -> Result<Decision, Fault> {
    let Asked { sent, scheme, basic, .. } = *asked;
    let persists = head.persists() && framing != BodyFraming::ToClose;
    let framing = persists.then_some(framing);
    let of = |name| http::find_challenge(&head.fields, name);
    let token = of(scheme.name()).and_then(|challenge| challenge.token68);
    match (sent, token) {
        (Leg::Authenticate, token) => {
            let status_line = format!("407 {}", String::from_utf8_lossy(head.reason).escape_debug());
            Ok(Decision::Refused {
                rechallenged: token.is_some(),
                detail: format!("the upstream refused the credentials: {status_line}"),
            })
        }
        (Leg::Negotiate, Some(token)) => {
            let token = http::decode_token(token).map_err(|error| {
                fault(
                    Cause::ChallengeMalformed,
                    format!("the challenge under {} is not base64: {error}", scheme.name()),
                )
            })?;
            let (token, scheme) = ntlm_message(token, scheme)?;
            Ok(Decision::Challenge { token, framing, scheme })
        }
        _ => {
            let (ntlm, negotiate) = (of("NTLM").is_some(), of("Negotiate").is_some());
            if ntlm || negotiate {
                return Ok(Decision::AskedAgain { framing, scheme: scheme.after_refusal(ntlm, negotiate) });
            }
            let offered = http::offered(&head.fields);
            match basic {
                BasicUse::Allowed if of("Basic").is_some() => return Ok(Decision::AskedForBasic { framing }),
                BasicUse::Withheld if of("Basic").is_some() => return Err(downgraded(&offered)),
                _ => {}
            }
            Err(fault(
                Cause::SchemeNotOffered,
                format!("the upstream offers neither NTLM nor Negotiate; it offers: {offered}"),
            ))
        }
    }
}

/// The NTLM message in a token. Some proxies send SPNEGO under NTLM's name; what they would take for an answer is anybody's
/// guess, so that is a fault of its own.
///
/// The second is the form that the answer is to have: that of the challenge.
fn ntlm_message(token: Vec<u8>, scheme: Scheme) -> Result<(Vec<u8>, Scheme), Fault> {
    const SIGNATURE: &[u8] = b"NTLMSSP\0";
    if token.starts_with(SIGNATURE) {
        let raw = if scheme == Scheme::Ntlm { Scheme::Ntlm } else { Scheme::NegotiateRaw };
        return Ok((token, raw));
    }
    let looks_like_spnego = matches!(token.first(), Some(0x60 | 0xa1));
    match (scheme, response_token(&token)) {
        (Scheme::Ntlm, _) if looks_like_spnego => {
            Err(fault(Cause::ChallengeMalformed, "the upstream sends a SPNEGO token under the scheme NTLM"))
        }
        (Scheme::NegotiateRaw | Scheme::NegotiateSpnego, Some(message)) if message.starts_with(SIGNATURE) => {
            Ok((message.to_vec(), Scheme::NegotiateSpnego))
        }
        _ => Err(fault(Cause::ChallengeMalformed, format!("the token under {} holds no NTLM message", scheme.name()))),
    }
}

/// The upstream spoke NTLM before and now offers only what would give the password away.
fn downgraded(offered: &str) -> Fault {
    let detail = format!(
        "the upstream authenticated with NTLM before and now offers: {offered}; the password is not sent as Basic, because the \
         offer may have been altered on the way. If the upstream gave NTLM up, restart the gateway or rename the upstream"
    );
    fault(Cause::SchemeDowngraded, detail)
}

/// Parses a head, unfolding its lines where that is what it takes.
fn with_head<T>(bytes: &[u8], look: impl Fn(&ResponseHead<'_>) -> T) -> Result<T, Fault> {
    let refused = match ResponseHead::parse(bytes, &mut FieldStorage::new()) {
        Ok(head) => return Ok(look(&head)),
        Err(error) => error,
    };
    let mut unfolded = bytes.to_vec();
    if http::unfold_field_lines(&mut unfolded)
        && let Ok(head) = ResponseHead::parse(&unfolded, &mut FieldStorage::new())
    {
        return Ok(look(&head));
    }
    Err(fault(Cause::ResponseMalformed, format!("the upstream's answer is malformed: {refused}")))
}

fn drain_fault(error: http::DrainError) -> Fault {
    let cause = match error {
        http::DrainError::TooLarge { .. } => Cause::ResponseBodyTooLarge,
        _ => Cause::ResponseMalformed,
    };
    fault(cause, format!("the body of the upstream's 407: {error}"))
}

fn fault(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(At::Authenticate, cause, detail)
}
