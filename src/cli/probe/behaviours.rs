//! Recognises the known behaviours of proxies.

use super::conversation::{Conversation, Event, What};
use super::message::{Answer, Carried, Sent};
use crate::http::BodyFraming;
use crate::ntlm::{AvId, AvPairs, ChallengeMessage, FileTime, NegotiateFlags};

/// Domain controllers refuse logons if the clocks differ by more than this: five minutes, in ticks of 100 ns.
const SKEW_LIMIT: u64 = 5 * 60 * 10_000_000;

/// A behaviour.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Behaviour {
    /// Its identifier, for programs.
    pub id: &'static str,
    /// Its description, for people.
    pub text: String,
}

/// A request and its response.
pub(super) struct Leg<'a> {
    pub sent: &'a Sent,
    pub answer: &'a Answer,
}

/// The answered requests, in order.
pub(super) fn legs(events: &[Event]) -> Vec<Leg<'_>> {
    let mut request = None;
    let mut legs = Vec::new();
    for event in events {
        match &event.what {
            What::Sent(sent) => request = Some(sent),
            What::Answered { answer, .. } => legs.extend(request.take().map(|sent| Leg { sent, answer })),
            _ => {}
        }
    }
    legs
}

/// The last CHALLENGE_MESSAGE.
pub(super) fn challenge(events: &[Event]) -> Option<&Carried> {
    let answers = legs(events).into_iter().rev();
    answers.filter_map(|leg| leg.answer.carried.as_ref()).find(|carried| carried.is("CHALLENGE_MESSAGE"))
}

/// All observed behaviours, in the order of the conversation.
pub(super) fn observe(conversation: &Conversation) -> Vec<Behaviour> {
    let legs = legs(&conversation.events);
    let mut seen = Seen(Vec::new());
    for leg in &legs {
        seen.connection(leg);
        seen.authentication(leg);
    }
    seen.schemes(&legs);
    if asks_first(&legs) {
        seen.add("asks-first", "ignores a NEGOTIATE_MESSAGE unless it has sent a 407 before");
    }
    if conversation.open {
        seen.add(
            "open",
            "opens a tunnel without credentials: no account is needed from this machine, or for this target",
        );
    } else if granted_without_authentication(&legs) {
        seen.add("no-proof", "opens a tunnel without authentication: the password has not been checked");
    }
    if let Some(message) = challenge(&conversation.events).and_then(|carried| carried.message.as_deref()) {
        seen.challenge_message(message, conversation.now);
    }
    seen.0
}

/// Whether a NEGOTIATE_MESSAGE was answered with a 407 without a challenge, and a later one with the same scheme was
/// not.
pub(super) fn asks_first(legs: &[Leg<'_>]) -> bool {
    let negotiates = || legs.iter().filter(|leg| leg.sent.carries("NEGOTIATE_MESSAGE"));
    let scheme = |leg: &Leg<'_>| leg.sent.carried.as_ref().map(|carried| (carried.scheme.clone(), carried.spnego));
    let bare = negotiates().find(|leg| leg.answer.status == 407 && leg.answer.carried.is_none());
    bare.is_some_and(|bare| negotiates().any(|leg| leg.answer.carried.is_some() && scheme(leg) == scheme(bare)))
}

/// Whether the last response is 2xx, and its request had no AUTHENTICATE_MESSAGE and no ticket.
fn granted_without_authentication(legs: &[Leg<'_>]) -> bool {
    let granted = |leg: &Leg<'_>| (200..300).contains(&leg.answer.status);
    legs.last().is_some_and(|leg| granted(leg) && !leg.sent.authenticates())
}

struct Seen(Vec<Behaviour>);

impl Seen {
    /// Adds a behaviour the first time it is seen.
    fn add(&mut self, id: &'static str, text: impl Into<String>) {
        if !self.0.iter().any(|known| known.id == id) {
            self.0.push(Behaviour { id, text: text.into() });
        }
    }

    fn connection(&mut self, Leg { answer, .. }: &Leg<'_>) {
        let demands = answer.status == 407;
        if demands && answer.carried.is_none() && !answer.persists {
            self.add(
                "first-407-closes",
                "closes the connection after a 407 without a challenge; the next request needs a new connection",
            );
        }
        if demands && answer.carried.is_some() && !answer.persists {
            self.add("challenge-with-close", "closes the connection after its challenge: no handshake can succeed");
        }
        if answer.http10 {
            self.add("http-1.0", "responds with HTTP/1.0");
        }
        let says = |name| answer.values(name).next().is_some();
        if demands && says("proxy-connection") && !says("connection") {
            self.add(
                "proxy-connection-only",
                "announces only in Proxy-Connection whether it keeps the connection open",
            );
        }
        match answer.framing.filter(|_| demands) {
            Some(BodyFraming::Length(length)) if length > 0 => {
                self.add("407-body-length", format!("sends a page of {length} bytes with its 407 (Content-Length)"));
            }
            Some(BodyFraming::Chunked) => self.add("407-body-chunked", "sends a chunked page with its 407"),
            Some(BodyFraming::CloseDelimited) => {
                self.add("407-body-to-close", "sends a page with its 407 that ends with the close of the connection");
            }
            _ => {}
        }
    }

    fn authentication(&mut self, Leg { sent, answer }: &Leg<'_>) {
        let page = String::from_utf8_lossy(&answer.body);
        if page.contains("NTLM authentication requires a persistent connection") {
            self.add(
                "squid-no-keep-alive",
                "says “NTLM authentication requires a persistent connection”: a Squid without `auth_param ntlm keep_alive on` or \
                 with client_persistent_connections off, or a device in between that closes connections",
            );
        }
        if answer.carried.as_ref().is_some_and(|carried| carried.spnego && carried.scheme.eq_ignore_ascii_case("NTLM"))
        {
            self.add("spnego-under-ntlm", "responds with a SPNEGO token under the scheme NTLM");
        }
        if answer.status == 401 && (answer.offers("NTLM") || answer.offers("Negotiate")) {
            let cookie = answer.values("set-cookie").find(|cookie| cookie.starts_with("BCSI-C"));
            let name = cookie.and_then(|cookie| cookie.split('=').next());
            let cookie = name.map(|name| format!(", and sets the cookie {name}")).unwrap_or_default();
            self.add("transparent-401", format!("sends a 401 as if it were the origin (transparent mode){cookie}"));
        }
        if sent.carries("AUTHENTICATE_MESSAGE") && answer.status == 407 && answer.carried.is_some() {
            self.add("rechallenge", "responds to the AUTHENTICATE_MESSAGE with a new challenge, which is a refusal");
        }
    }

    /// The offered schemes, and the one that was used.
    fn schemes(&mut self, legs: &[Leg<'_>]) {
        let Some(answer) = legs.iter().map(|leg| leg.answer).find(|answer| !answer.offers.is_empty()) else {
            return;
        };
        self.add("offers", format!("offers {}", answer.offers.join(", ")));
        if answer.offers("Negotiate") && !answer.offers("NTLM") {
            self.add("negotiate-only", "offers Negotiate but not NTLM; Negotiate can carry NTLM messages");
        }
        let used =
            legs.iter().rev().filter(|leg| leg.answer.carried.is_some()).find_map(|leg| leg.sent.carried.as_ref());
        // A ticket says nothing about NTLM.
        let carries_ntlm = |used: &&Carried| used.scheme.eq_ignore_ascii_case("Negotiate") && used.message.is_some();
        if let Some(used) = used.filter(carries_ntlm) {
            let form = if used.spnego { "in SPNEGO" } else { "without SPNEGO" };
            self.add("ntlm-in-negotiate", format!("accepts NTLM messages under Negotiate, {form}"));
        }
    }

    fn challenge_message(&mut self, message: &[u8], now: FileTime) {
        let Ok(challenge) = ChallengeMessage::decode(message) else {
            self.add("challenge-malformed", "sends a malformed CHALLENGE_MESSAGE");
            return;
        };
        if challenge.flags.contains(NegotiateFlags::KEY_EXCH) {
            self.add("key-exchange", "selects KEY_EXCH: the AUTHENTICATE_MESSAGE contains a session key");
        }
        if !challenge.flags.contains(NegotiateFlags::UNICODE) {
            self.add("oem-strings", "selects OEM strings: names are sent in ASCII");
        }
        let Some(list) = challenge.target_info else {
            self.add("no-target-info", "sends no TargetInfo");
            return;
        };
        for pair in AvPairs::new(list).flatten().filter(|pair| pair.id == AvId::Timestamp) {
            self.add("timestamp", "sends its time, which is used in the response, and a MIC is sent");
            if pair.file_time().is_ok_and(|time| time.0.abs_diff(now.0) > SKEW_LIMIT) {
                self.add("clock-skew", "its clock differs from this machine's by more than five minutes");
            }
        }
    }
}
