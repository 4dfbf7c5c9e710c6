//! The whole handshake against an upstream that sends anything at all. The outcome does not depend on how the bytes are cut,
//! all bounds hold, a final token answers a challenge of the same connection, and a body is sent only to an upstream that
//! accepts it.
//!
//! The input is a byte that says how to cut, a byte of options (1: the first request is plain; 2: NTLMv1-ESS; 4: a second
//! handshake follows on the next connection and uses what the first has learned; 8, 16, 32: the request; 64: no credentials
//! unless they are demanded; 128: Basic is allowed), and what the upstream sends:
//!
//! | byte | meaning |
//! |---|---|
//! | 0x1d | the upstream closes; what follows is sent on the next connection |
//! | 0x1e | the upstream waits for the next request |
//! | 0x1a | a CHALLENGE_MESSAGE in base64, with a different nonce for each connection |
//! | 0x1b | the same in SPNEGO |

mod seeds;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ntlm_gateway::auth::{Credentials, FirstLeg, Handshake, Nonces, Progress, Request, Tally};
use ntlm_gateway::fault::{Cause, Fault};
use ntlm_gateway::forward::{ForwardOptions, ForwardRequest};
use ntlm_gateway::http::{
    BodyFraming, FieldStorage, HeadEnd, RequestHead, ResponseHead, decode_token, find_challenge, unfold_field_lines,
};
use ntlm_gateway::limits::HANDSHAKE_CONNECTIONS;
use ntlm_gateway::ntlm::{
    Identity, MessageType, Method, NegotiateOptions, NtHash, ServerChallengeOptions, VerifyOptions, challenge,
    negotiate, verify,
};

use super::pieces::Pieces;
use super::{parties, spnego};

pub use seeds::seeds;

const HEAD_LIMIT_BYTES: usize = 2048;
const AUTHORITY: &str = "origin.test:443";
const NONCES: Nonces =
    Nonces { client_challenge: [0xaa; 8], exported_session_key: [0x55; 16], subkey: [3; 32], now: parties::TIME };

/// Plain HTTP requests. Choice 0 is none of them, but a tunnel.
const REQUESTS: [&str; 4] = [
    "GET http://origin.test/ HTTP/1.1\r\nHost: x\r\nUser-Agent: t\r\nProxy-Authorization: Basic eDp5\r\n\r\n",
    "POST http://origin.test/ HTTP/1.1\r\nHost: x\r\nUser-Agent: t\r\nContent-Length: 5\r\n\r\n",
    "PUT http://origin.test/ HTTP/1.1\r\nHost: x\r\nUser-Agent: t\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\
     Expect: 100-continue\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n",
    "HEAD http://origin.test/ HTTP/1.0\r\nUser-Agent: t\r\n\r\n",
];

/// What the upstream sends on one connection, in one part for each request.
struct Connection {
    turns: Vec<Vec<u8>>,
    closes: bool,
}

/// What happened, in order.
#[derive(Debug, PartialEq)]
enum Event {
    Sent {
        connection: usize,
        request: Vec<u8>,
    },
    Redial,
    Established {
        leftover: Vec<u8>,
    },
    Declined {
        answer: String,
        leftover: Vec<u8>,
    },
    Answered {
        leftover: Vec<u8>,
    },
    Fault(Cause),
    /// The upstream sends no more.
    Stalled,
    /// A request was due before all of a turn had been read. If the rest is read at once, it poisons the connection.
    Early,
}

/// Checks one conversation.
pub fn check(input: &[u8]) {
    let Some(([seed, options], said)) = input.split_first_chunk::<2>() else {
        return;
    };
    let script = script(said);
    let conversations = |cut: Option<u8>| {
        let credentials = credentials(*options);
        let handshakes = if options & 4 == 0 { 1 } else { 2 };
        let mut rest = script.as_slice();
        let mut all = Vec::new();
        for _ in 0..handshakes {
            let conversation = Conversation::hold(rest, &credentials, cut, *options);
            conversation.keeps_its_bounds(rest);
            rest = rest.get(conversation.connection + 1..).filter(|rest| !rest.is_empty()).unwrap_or(&script);
            all.push(conversation);
        }
        all
    };
    let whole = conversations(None);
    let cut = conversations(Some(*seed));
    for (whole, cut) in whole.iter().zip(&cut) {
        if !same(whole, cut) {
            // From here on the next handshake may begin differently.
            break;
        }
    }
}

fn script(said: &[u8]) -> Vec<Connection> {
    let identity = parties::identity(Method::NtlmV2, false);
    let offer = negotiate(&identity, &NegotiateOptions::default());
    let connections: Vec<&[u8]> = said.split(|&byte| byte == 0x1d).take(8).collect();
    let mut script = Vec::new();
    for (number, said) in connections.iter().enumerate() {
        let [.., nonce] = number.to_be_bytes();
        let server = ServerChallengeOptions { server_challenge: [nonce; 8], ..parties::server(Some(parties::TIME)) };
        let message = challenge(&offer, &server).expect("a server of our own answers");
        let turns = said.split(|&byte| byte == 0x1e).map(|turn| expanded(turn, &message)).collect();
        script.push(Connection { turns, closes: number + 1 < connections.len() });
    }
    script
}

fn expanded(turn: &[u8], message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for byte in turn {
        match byte {
            0x1a => bytes.extend_from_slice(STANDARD.encode(message).as_bytes()),
            0x1b => bytes.extend_from_slice(STANDARD.encode(spnego::wrapped(message)).as_bytes()),
            _ => bytes.push(*byte),
        }
    }
    bytes
}

fn credentials(options: u8) -> Arc<Credentials> {
    let first_leg = if options & 1 == 0 { FirstLeg::Negotiate } else { FirstLeg::Plain };
    let password = (options & 128 != 0).then_some(parties::PASSWORD);
    Arc::new(Credentials::new(identity(options), "proxy.test", first_leg).with_basic(password))
}

fn identity(options: u8) -> Identity {
    let method = if options & 2 == 0 { Method::NtlmV2 } else { Method::NtlmV1Ess };
    parties::identity(method, false)
}

fn request(options: u8) -> Request {
    let number = usize::from(options >> 3 & 7) % (REQUESTS.len() + 1);
    let Some(text) = number.checked_sub(1).and_then(|number| REQUESTS.get(number)) else {
        return Request::connect(AUTHORITY, b"User-Agent: t\r\n".to_vec());
    };
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(text.as_bytes(), &mut storage).expect("a request of our own is accepted");
    let request = ForwardRequest::of(&head, &ForwardOptions::default()).expect("a request of our own is accepted");
    Request::Forward(Arc::new(request))
}

/// Calls `look` with the final head of an answer to one request, if it can be read; 1xx are skipped.
fn with_answer<T>(bytes: &[u8], look: impl Fn(&ResponseHead<'_>) -> T) -> Option<T> {
    let mut rest = bytes;
    loop {
        let length = HeadEnd::response().find(rest, usize::MAX).ok()??;
        let mut head = rest[..length].to_vec();
        unfold_field_lines(&mut head);
        let mut storage = FieldStorage::new();
        let head = ResponseHead::parse(&head, &mut storage).ok()?;
        if !head.is_informational() {
            return Some(look(&head));
        }
        rest = &rest[length..];
    }
}

/// One handshake, used as a session uses it.
struct Conversation {
    handshake: Handshake,
    request: Request,
    negotiate: Vec<u8>,
    may_use_basic: bool,
    cut: Option<u8>,
    events: Vec<Event>,
    connection: usize,
    /// What has been received on the present connection.
    heard: Vec<u8>,
    /// What of it came since the last request was sent.
    answer: Vec<u8>,
    /// The upstream exempts the destination.
    exempt: bool,
    /// An upstream has answered without asking for authentication.
    served: bool,
    /// The last demand offered something better than Basic.
    better: bool,
    tally: Tally,
}

/// What follows a turn.
enum After {
    NextTurn,
    NextConnection,
    End,
}

/// Whether an answer demands authentication at the proxy. A 407 without Proxy-Authenticate is the origin's.
fn demands(head: &ResponseHead<'_>) -> bool {
    head.status == 407 && head.fields.has("proxy-authenticate")
}

impl Conversation {
    fn hold(script: &[Connection], credentials: &Arc<Credentials>, cut: Option<u8>, options: u8) -> Self {
        let request = request(options);
        let mut conversation = Self {
            handshake: Handshake::new(request.clone(), Arc::clone(credentials), HEAD_LIMIT_BYTES),
            request,
            negotiate: negotiate(&identity(options), &NegotiateOptions::default()),
            may_use_basic: options & 128 != 0,
            cut,
            events: Vec::new(),
            connection: 0,
            heard: Vec::new(),
            answer: Vec::new(),
            exempt: options & 64 != 0,
            served: false,
            better: false,
            tally: Tally::default(),
        };
        if conversation.exempt {
            conversation.handshake.ask_plainly();
        }
        for (number, connection) in script.iter().enumerate() {
            conversation.connection = number;
            conversation.heard.clear();
            conversation.answer.clear();
            match conversation.on_one_connection(connection) {
                After::NextConnection => {}
                _ => break,
            }
        }
        conversation.tally = conversation.handshake.tally();
        conversation.makes_no_token_without_a_challenge();
        conversation
    }

    fn on_one_connection(&mut self, connection: &Connection) -> After {
        let mut out = Vec::new();
        self.handshake.begin(&mut out);
        if self.handshake.is_challenged() {
            // Basic needs no challenge.
            assert!(out.is_empty());
            if let end @ (After::End | After::NextConnection) = self.authenticate() {
                return end;
            }
        } else {
            self.sent(out, false);
        }
        let mut unused = Vec::new();
        for turn in &connection.turns {
            match self.take_turn(turn, &mut unused) {
                After::NextTurn => {}
                after => return after,
            }
        }
        if !connection.closes {
            self.events.push(Event::Stalled);
            return After::End;
        }
        match self.handshake.closed() {
            Ok(Progress::Redial) => self.redial(),
            Ok(progress) => panic!("a close is no {progress:?}"),
            Err(fault) => self.failed(&fault),
        }
    }

    fn take_turn(&mut self, turn: &[u8], unused: &mut Vec<u8>) -> After {
        let mut pieces = Pieces::new(turn, self.cut.unwrap_or_default());
        loop {
            let piece = if self.cut.is_some() {
                pieces.next()
            } else {
                (unused.is_empty() || !turn.is_empty()).then_some(turn)
            };
            let Some(piece) = piece else {
                return After::NextTurn;
            };
            let rest = if self.cut.is_some() { pieces.rest() } else { &[] };
            unused.extend_from_slice(piece);
            self.heard.extend_from_slice(piece);
            self.answer.extend_from_slice(piece);
            let mut out = Vec::new();
            let (used, progress) = match self.handshake.receive(unused, &mut out) {
                Ok(received) => received,
                Err(fault) => return self.failed(&fault),
            };
            assert!(used <= unused.len(), "more was consumed than there was");
            unused.drain(..used);
            self.note_answer();
            assert_eq!(out.is_empty(), !matches!(progress, Progress::Send), "a request comes with Send and only then");
            match progress {
                Progress::More if self.cut.is_some() => {}
                Progress::More => return After::NextTurn,
                Progress::Redial => return self.redial(),
                Progress::Answered | Progress::Established | Progress::Declined(_) => {
                    return self.ended(progress, [&**unused, rest].concat());
                }
                Progress::Send | Progress::Challenged => {
                    assert!(unused.is_empty(), "a connection with bytes behind the body is used again");
                    if !out.is_empty() {
                        self.sent(out, false);
                    }
                    if !rest.is_empty() {
                        self.events.push(Event::Early);
                        return After::End;
                    }
                    return if self.handshake.is_challenged() { self.authenticate() } else { After::NextTurn };
                }
            }
        }
    }

    /// Notes what the upstream asks for.
    fn note_answer(&mut self) {
        let better = |head: &ResponseHead<'_>| {
            ["NTLM", "Negotiate"].iter().any(|scheme| find_challenge(&head.fields, scheme).is_some())
        };
        match with_answer(&self.answer, |head| demands(head).then(|| better(head))) {
            Some(Some(better)) => self.better = better,
            Some(None) => self.served = true,
            None => {}
        }
    }

    fn authenticate(&mut self) -> After {
        let mut out = Vec::new();
        match self.handshake.authenticate(&NONCES, &mut out) {
            Ok(()) => {
                assert!(self.handshake.awaits_verdict());
                self.sent(out, true);
                After::NextTurn
            }
            Err(fault) => {
                assert!(out.is_empty(), "a request is sent although the token failed");
                self.failed(&fault)
            }
        }
    }

    fn redial(&mut self) -> After {
        self.events.push(Event::Redial);
        After::NextConnection
    }

    fn failed(&mut self, fault: &Fault) -> After {
        let shown = format!("{fault:?} {}", fault.cause.label());
        let hash = NtHash::from_password(parties::PASSWORD).to_hex();
        assert!(!shown.contains(hash.as_str()), "a fault shows the hash");
        let given = self.heard.windows(parties::PASSWORD.len()).any(|window| window == parties::PASSWORD.as_bytes());
        let shown = format!("{shown} {:?}", self.handshake);
        assert!(given || !shown.contains(parties::PASSWORD), "the password is shown");
        self.events.push(Event::Fault(fault.cause));
        After::End
    }

    fn ended(&mut self, progress: Progress, leftover: Vec<u8>) -> After {
        assert_eq!(matches!(progress, Progress::Answered), self.request.forward().is_some());
        self.events.push(match progress {
            Progress::Declined(declined) => {
                assert!(!matches!(declined.status, 200..=299));
                assert!(!declined.reason.contains(|letter: char| letter.is_control()));
                Event::Declined { answer: format!("{declined:?}"), leftover }
            }
            Progress::Answered => {
                let found = HeadEnd::response().find(&leftover, usize::MAX);
                assert!(matches!(found, Ok(Some(_))), "the head of the answer was consumed");
                assert_ne!(
                    with_answer(&leftover, demands),
                    Some(true),
                    "a demand for authentication is taken for the answer"
                );
                Event::Answered { leftover }
            }
            _ => Event::Established { leftover },
        });
        After::End
    }

    /// What is sent is one head for the same target, and has an AUTHENTICATE_MESSAGE only if the final token is due.
    fn sent(&mut self, sent: Vec<u8>, is_final: bool) {
        assert_eq!(HeadEnd::request().find(&sent, usize::MAX), Ok(Some(sent.len())));
        let mut storage = FieldStorage::new();
        let head = RequestHead::parse(&sent, &mut storage).expect("what is sent can be read");
        let target = match &self.request {
            Request::Connect { .. } => AUTHORITY,
            Request::Forward(request) => request.target(),
        };
        let of_head = self.request.method() == "HEAD" && head.method == "GET" && !is_final;
        assert_eq!((head.method, head.target_text), (if of_head { "GET" } else { self.request.method() }, target));
        assert_eq!(head.fields.get("user-agent"), Some(&b"t"[..]));
        self.announces_no_body_too_early(&head, is_final);
        if let Some(password) = spnego::sent_token(&sent, "Basic") {
            assert!(
                is_final && self.may_use_basic,
                "the password is sent although the configuration does not allow it"
            );
            assert!(!self.better, "the password is sent to an upstream that offers something better");
            assert_eq!(password, format!("Domain\\User:{}", parties::PASSWORD).into_bytes());
        } else {
            self.carries_the_token_that_is_due(&sent, is_final);
        }
        self.answer.clear();
        self.events.push(Event::Sent { connection: self.connection, request: sent });
    }

    /// A body is announced with the final token, or if no authentication is asked for, together with all that depends on it.
    fn announces_no_body_too_early(&self, head: &RequestHead<'_>, is_final: bool) {
        let Request::Forward(request) = &self.request else {
            assert_eq!((head.framing, self.handshake.awaits_body()), (BodyFraming::None, is_final));
            return;
        };
        let whole = head.framing == request.framing() && head.method == request.method();
        let without_token = whole && !is_final && request.has_stand_in();
        assert_eq!(self.handshake.awaits_body(), is_final || without_token);
        if !request.has_stand_in() {
            assert_eq!(head.framing, request.framing());
            return;
        }
        let empty = if request.method() == "HEAD" { BodyFraming::None } else { BodyFraming::Length(0) };
        assert!(whole || head.framing == empty);
        let bare = (self.served || self.exempt) && !head.fields.has("proxy-authorization");
        assert!(
            whole == (is_final || (without_token && bare)),
            "the whole request is sent to an upstream that may ask for authentication"
        );
        for name in ["expect", "upgrade", "trailer"] {
            assert!(whole || !head.fields.has(name), "{name} is sent without a body");
        }
    }

    fn carries_the_token_that_is_due(&self, sent: &[u8], is_final: bool) {
        let token = ["NTLM", "Negotiate"].iter().find_map(|scheme| spnego::sent_token(sent, scheme));
        let signature = |token: &Vec<u8>| token.windows(8).position(|window| window == b"NTLMSSP\0");
        let message = token.as_ref().and_then(|token| token.get(signature(token)?..));
        match (is_final, message.map(MessageType::of)) {
            (true, Some(Ok(MessageType::Authenticate))) => {
                self.answers_a_challenge_of_this_connection(&token.unwrap_or_default())
            }
            (false, None | Some(Ok(MessageType::Negotiate))) => {}
            (_, message) => panic!("{message:?} is sent, final token due: {is_final}"),
        }
    }

    fn answers_a_challenge_of_this_connection(&self, token: &[u8]) {
        let message = if token.starts_with(b"NTLMSSP\0") { Some(token) } else { spnego::response_token(token) };
        let message = message.expect("a final token is raw or a NegTokenResp");
        let hash = parties::right_hash();
        let options = VerifyOptions { allow_v1_ess: true, require_mic: false };
        let answers =
            |challenge: &[u8]| verify(message, &self.negotiate, challenge, |_, _| Some(&hash), &options).is_ok();
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
        let tokens = self.heard.split(|byte| !is_base64(byte)).filter(|run| run.len() >= 40);
        let messages = tokens.filter_map(|run| decode_token(str::from_utf8(run).ok()?).ok());
        let answered = messages.filter(|token| answers(token) || spnego::response_token(token).is_some_and(answers));
        assert_ne!(answered.count(), 0, "a token for a challenge that did not come on this connection");
    }

    /// Without a challenge no token is made.
    fn makes_no_token_without_a_challenge(&mut self) {
        if !self.handshake.is_challenged() {
            let mut out = Vec::new();
            assert!(self.handshake.authenticate(&NONCES, &mut out).is_err());
            assert!(out.is_empty());
        }
    }

    fn keeps_its_bounds(&self, script: &[Connection]) {
        let sent = self.events.iter().filter(|event| matches!(event, Event::Sent { .. })).count();
        assert_eq!(usize::from(self.handshake.legs()), sent);
        assert!(sent <= usize::from(HANDSHAKE_CONNECTIONS) + 1, "{sent} requests for one tunnel");
        assert!(self.connection < script.len());
        let Tally { refused, rechallenge, .. } = self.tally;
        assert!(refused + rechallenge <= 1, "a handshake is refused once");
        let ends = |event: &Event| !matches!(event, Event::Sent { .. } | Event::Redial);
        assert!(!self.events.iter().rev().skip(1).any(ends), "something happens after the end");
    }
}

/// Asserts that two ways of cutting have the same outcome; false if one of them had to stop early.
fn same(whole: &Conversation, cut: &Conversation) -> bool {
    use Event::{Early, Fault, Redial};
    match (cut.events.split_last(), whole.events.get(cut.events.len().saturating_sub(1))) {
        (Some((Early, before)), _) => {
            // Another request may have gone out before the poison was read.
            let before = match before.split_last() {
                Some((Event::Sent { .. }, earlier)) if whole.events.get(..before.len()) != Some(before) => earlier,
                _ => before,
            };
            assert_eq!(whole.events.get(..before.len()), Some(before));
            let poisoned = whole.events.get(before.len());
            assert!(matches!(poisoned, Some(Redial | Fault(Cause::ResponseMalformed))), "{poisoned:?}");
            false
        }
        // The last attempt: there are no attempts left before the poison is read.
        (Some((Fault(Cause::HandshakeBroken), before)), Some(Fault(Cause::ResponseMalformed))) => {
            assert_eq!(whole.events.get(..before.len()), Some(before));
            false
        }
        _ => {
            assert_eq!(whole.events, cut.events, "the outcome depends on how the bytes are cut");
            assert_eq!(whole.tally, cut.tally);
            true
        }
    }
}
