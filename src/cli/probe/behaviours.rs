//! Which of the behaviours that proxies are known for this one shows.

use super::conversation::{Conversation, Event, What};
use super::message::{Answer, Carried, Sent};
use crate::http::BodyFraming;
use crate::ntlm::{AvId, AvPairs, ChallengeMessage, FileTime, NegotiateFlags};

/// Times that differ by more than this make domain controllers refuse, in ticks of 100 ns: five minutes.
const SKEW_LIMIT: u64 = 5 * 60 * 10_000_000;

/// One behaviour: a name for programs and a sentence for people.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Behaviour {
    pub id: &'static str,
    pub what: String,
}

/// A request and its answer.
pub(super) struct Leg<'a> {
    pub sent: &'a Sent,
    pub answer: &'a Answer,
}

/// The answered requests, in their order.
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

/// The CHALLENGE_MESSAGE that came last.
pub(super) fn challenge(events: &[Event]) -> Option<&Carried> {
    let answers = legs(events).into_iter().rev();
    answers.filter_map(|leg| leg.answer.carried.as_ref()).find(|carried| carried.is("CHALLENGE_MESSAGE"))
}

/// All that is shown, in the order of the conversation.
pub(super) fn observe(conversation: &Conversation) -> Vec<Behaviour> {
    let legs = legs(&conversation.events);
    let mut seen = Seen(Vec::new());
    for leg in &legs {
        seen.connection(leg);
        seen.authentication(leg);
    }
    seen.schemes(&legs);
    if asks_first(&legs) {
        seen.add("asks-first", "looks at no NEGOTIATE_MESSAGE before it has asked for one");
    }
    if conversation.open {
        seen.add(
            "open",
            "grants a tunnel without credentials: the account is not asked for from here, or for this target",
        );
    } else if granted_unproved(&legs) {
        seen.add("no-proof", "grants a tunnel without a proof: nothing says whether the password is right");
    }
    if let Some(message) = challenge(&conversation.events).and_then(|carried| carried.message.as_deref()) {
        seen.challenge_message(message, conversation.now);
    }
    seen.0
}

/// A NEGOTIATE_MESSAGE was answered with a bare 407, and one of the same scheme later was not.
pub(super) fn asks_first(legs: &[Leg<'_>]) -> bool {
    let negotiates = || legs.iter().filter(|leg| leg.sent.carries("NEGOTIATE_MESSAGE"));
    let scheme = |leg: &Leg<'_>| leg.sent.carried.as_ref().map(|carried| (carried.scheme.clone(), carried.spnego));
    let bare = negotiates().find(|leg| leg.answer.status == 407 && leg.answer.carried.is_none());
    bare.is_some_and(|bare| negotiates().any(|leg| leg.answer.carried.is_some() && scheme(leg) == scheme(bare)))
}

/// The last answer is 2xx and no AUTHENTICATE_MESSAGE was needed for it.
fn granted_unproved(legs: &[Leg<'_>]) -> bool {
    let granted = |leg: &Leg<'_>| (200..300).contains(&leg.answer.status);
    legs.last().is_some_and(|leg| granted(leg) && !leg.sent.carries("AUTHENTICATE_MESSAGE"))
}

struct Seen(Vec<Behaviour>);

impl Seen {
    /// Each behaviour is told once, as it was first seen.
    fn add(&mut self, id: &'static str, what: impl Into<String>) {
        if !self.0.iter().any(|known| known.id == id) {
            self.0.push(Behaviour { id, what: what.into() });
        }
    }

    fn connection(&mut self, Leg { answer, .. }: &Leg<'_>) {
        let demands = answer.status == 407;
        if demands && answer.carried.is_none() && !answer.persists {
            self.add(
                "first-407-closes",
                "closes the connection after a 407 without a challenge; the next request is dialled anew",
            );
        }
        if demands && answer.carried.is_some() && !answer.persists {
            self.add("challenge-with-close", "closes the connection with its challenge: no handshake can succeed");
        }
        if answer.http10 {
            self.add("http-1.0", "answers in HTTP/1.0");
        }
        let says = |name| answer.values(name).next().is_some();
        if demands && says("proxy-connection") && !says("connection") {
            self.add("proxy-connection-only", "tells what becomes of the connection in Proxy-Connection only");
        }
        match answer.framing.filter(|_| demands) {
            Some(BodyFraming::Length(length)) if length > 0 => {
                self.add("407-body-length", format!("sends a page of {length} bytes with its 407, by Content-Length"));
            }
            Some(BodyFraming::Chunked) => self.add("407-body-chunked", "sends a chunked page with its 407"),
            Some(BodyFraming::CloseDelimited) => {
                self.add("407-body-to-close", "sends a page with its 407 that lasts to the close of the connection");
            }
            _ => {}
        }
    }

    fn authentication(&mut self, Leg { sent, answer }: &Leg<'_>) {
        let page = String::from_utf8_lossy(&answer.body);
        if page.contains("NTLM authentication requires a persistent connection") {
            self.add(
                "squid-no-keep-alive",
                "says “NTLM authentication requires a persistent connection”: Squid without `auth_param ntlm keep_alive on` or \
                 with client_persistent_connections off, or something between that cuts connections",
            );
        }
        if answer.carried.as_ref().is_some_and(|carried| carried.spnego && carried.scheme.eq_ignore_ascii_case("NTLM"))
        {
            self.add("spnego-under-ntlm", "answers under the scheme NTLM with a SPNEGO token");
        }
        if answer.status == 401 && (answer.offers("NTLM") || answer.offers("Negotiate")) {
            let cookie = answer.values("set-cookie").find(|cookie| cookie.starts_with("BCSI-C"));
            let name = cookie.and_then(|cookie| cookie.split('=').next());
            let cookie = name.map(|name| format!(", and sets the cookie {name}")).unwrap_or_default();
            self.add("transparent-401", format!("asks with 401 as if it were the origin (transparent mode){cookie}"));
        }
        if sent.carries("AUTHENTICATE_MESSAGE") && answer.status == 407 && answer.carried.is_some() {
            self.add("rechallenge", "answers the AUTHENTICATE_MESSAGE with a new challenge: refused");
        }
    }

    /// What is offered, and what of it was spoken.
    fn schemes(&mut self, legs: &[Leg<'_>]) {
        let Some(answer) = legs.iter().map(|leg| leg.answer).find(|answer| !answer.offers.is_empty()) else {
            return;
        };
        self.add("offers", format!("offers {}", answer.offers.join(", ")));
        if answer.offers("Negotiate") && !answer.offers("NTLM") {
            self.add("negotiate-only", "offers Negotiate and not NTLM; NTLM messages can travel in it");
        }
        let spoken =
            legs.iter().rev().filter(|leg| leg.answer.carried.is_some()).find_map(|leg| leg.sent.carried.as_ref());
        if let Some(spoken) = spoken.filter(|spoken| spoken.scheme.eq_ignore_ascii_case("Negotiate")) {
            let form = if spoken.spnego { "in SPNEGO" } else { "bare" };
            self.add("ntlm-in-negotiate", format!("takes NTLM messages under Negotiate, {form}"));
        }
    }

    fn challenge_message(&mut self, message: &[u8], now: FileTime) {
        let Ok(challenge) = ChallengeMessage::decode(message) else {
            self.add("challenge-malformed", "sends a CHALLENGE_MESSAGE that cannot be read");
            return;
        };
        if challenge.flags.contains(NegotiateFlags::KEY_EXCH) {
            self.add("key-exchange", "selects KEY_EXCH: a session key is sent along");
        }
        if !challenge.flags.contains(NegotiateFlags::UNICODE) {
            self.add("oem-strings", "selects OEM strings: names are sent in ASCII");
        }
        let Some(list) = challenge.target_info else {
            self.add("no-target-info", "sends no TargetInfo");
            return;
        };
        for pair in AvPairs::new(list).flatten().filter(|pair| pair.id == AvId::Timestamp) {
            self.add("timestamp", "tells its time: that time is used, and a MIC is sent");
            if pair.file_time().is_ok_and(|time| time.0.abs_diff(now.0) > SKEW_LIMIT) {
                self.add("clock-skew", "its clock and this machine's differ by more than five minutes");
            }
        }
    }
}
