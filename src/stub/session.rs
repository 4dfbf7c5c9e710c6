//! One client's connection to the stub, up to the tunnel: pure, bytes in, [`Step`]s out.
//!
//! ```text
//!            407           NEGOTIATE           right AUTHENTICATE
//!  Stranger ─────▶ Asked ────────────▶ Challenged ────────────▶ Proven ──▶ 200 or page
//!                    ▲                     │ any other request     │ uses left: 0
//!                    └─────────────────────┴───────────────────────┘
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::answer::{Answers, Content, Page, Reply, Step};
use super::behaviour::{Behaviour, Door, Gate, Verdict};
use super::body::BodyReader;
use super::challenger::challenge_in_style;
use super::counters::Counters;
use super::hello_origin::HELLO_PAGE;
use super::origin::{Origin, sink_line};
use super::personality::Personality;
use super::request::{Credentials, Request};
use super::setup::{Issued, Setup};
use super::spnego;
use crate::http::HeadEnd;
use crate::ntlm::{FileTime, MessageType, Method, NegotiateMessage, VerifyError, VerifyOptions};

/// Longest request head in bytes. An AUTHENTICATE_MESSAGE that echoes a TargetInfo of 64 KiB comes to 88 KiB.
pub const REQUEST_HEAD_LIMIT_BYTES: usize = 128 * 1024;

/// What a session is given from outside at each call.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// What the connections share.
    pub setup: &'a Setup,
    /// Where events are counted.
    pub counters: &'a Counters,
    /// The time told in challenges.
    pub now: FileTime,
}

/// One connection, up to the tunnel.
pub struct Session {
    behaviour: Behaviour,
    /// Tells it from all others; its challenges are drawn from it, too.
    id: u64,
    challenges: u64,
    /// When the last challenge was made.
    challenged_at: FileTime,
    buffer: Vec<u8>,
    head_end: HeadEnd,
    standing: Standing,
    /// A request whose body is still coming.
    receiving: Option<(Request, BodyReader)>,
    /// No more input is looked at: an ending is on its way, or the personality has fallen silent.
    deaf: bool,
}

/// What the connection is known by.
enum Standing {
    Stranger,
    Asked,
    Challenged(Arc<Issued>),
    Proven {
        /// `None`: as long as the connection lasts.
        requests_left: Option<u32>,
    },
}

/// What a request has come to.
enum Outcome {
    Admit,
    /// A 407 without a challenge.
    Bare,
    /// A 407 with this token.
    Challenge(Vec<u8>),
    Page(Page),
    Silence,
    Reset,
}

impl Session {
    /// A connection that was just accepted. `id` must be random: ServerChallenges come from it.
    #[must_use]
    pub fn new(personality: Personality, id: u64) -> Session {
        Session {
            behaviour: personality.behaviour(),
            id,
            challenges: 0,
            challenged_at: FileTime::default(),
            buffer: Vec::new(),
            head_end: HeadEnd::request(),
            standing: Standing::Stranger,
            receiving: None,
            deaf: false,
        }
    }

    /// What happens before the client has said anything; to be called once.
    pub fn open(&mut self, steps: &mut VecDeque<Step>) {
        match self.behaviour.door {
            Door::Opens => {}
            Door::Mute => self.deaf = true,
            Door::Closes => {
                self.deaf = true;
                steps.push_back(Step::Close);
            }
        }
    }

    /// A connection on which nothing came for that long is to be closed.
    #[must_use]
    pub fn idle_close(&self) -> Option<Duration> {
        self.behaviour.idle_close
    }

    /// Takes in bytes of the client and appends what is to be done about them.
    ///
    /// After a step that ends the session, nothing is looked at any more.
    pub fn receive(&mut self, bytes: &[u8], around: &Surroundings<'_>, steps: &mut VecDeque<Step>) {
        if self.deaf {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        while !self.deaf && self.advance(around, steps) {}
    }

    /// Deals with one head or one piece of a body; false when more bytes are needed.
    fn advance(&mut self, around: &Surroundings<'_>, steps: &mut VecDeque<Step>) -> bool {
        let Some((request, mut body)) = self.receiving.take() else {
            return self.read_head(around, steps);
        };
        let Ok(taken) = body.feed(&self.buffer) else {
            self.refuse_malformed(around, steps);
            return false;
        };
        self.buffer.drain(..taken);
        around.counters.body_bytes.add(taken as u64);
        if body.is_done() {
            self.answer(&request, &body, around, steps);
            return true;
        }
        self.receiving = Some((request, body));
        false
    }

    fn read_head(&mut self, around: &Surroundings<'_>, steps: &mut VecDeque<Step>) -> bool {
        let request = match self.head_end.find(&self.buffer, REQUEST_HEAD_LIMIT_BYTES) {
            Ok(None) => return false,
            Ok(Some(length)) => {
                let head: Vec<u8> = self.buffer.drain(..length).collect();
                self.head_end = HeadEnd::request();
                Request::read(&head, &self.behaviour).ok()
            }
            Err(_) => None,
        };
        let Some(request) = request else {
            self.refuse_malformed(around, steps);
            return false;
        };
        around.counters.requests.increment();
        if request.client_fields {
            around.counters.client_fields.increment();
        }
        if request.expects_continue && request.has_body() {
            steps.push_back(Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()));
        }
        let body = BodyReader::new(request.framing);
        self.receiving = Some((request, body));
        true
    }

    fn answer(&mut self, request: &Request, body: &BodyReader, around: &Surroundings<'_>, steps: &mut VecDeque<Step>) {
        let reply = Reply { persists: request.persists, wants_body: request.wants_body };
        let outcome = self.decide(request, around);
        let behaviour = self.behaviour;
        let mut answers = Answers { behaviour: &behaviour, delay: around.setup.delay(), steps };
        let stays = match outcome {
            Outcome::Bare => answers.demand(None, reply),
            Outcome::Challenge(token) => answers.demand(Some(&STANDARD.encode(token)), reply),
            Outcome::Page(page) => answers.page(&page, reply),
            Outcome::Silence => false,
            Outcome::Reset => {
                answers.steps.push_back(Step::Reset);
                false
            }
            Outcome::Admit => match Origin::of_host(&request.host) {
                Some(origin) if request.connect => {
                    around.counters.tunnels_opened.increment();
                    answers.tunnel(origin, std::mem::take(&mut self.buffer));
                    false
                }
                _ => answers.page(&resource(request, body), reply),
            },
        };
        self.deaf = !stays;
    }

    /// Whether the request is let in, and what it gets instead.
    fn decide(&mut self, request: &Request, around: &Surroundings<'_>) -> Outcome {
        match self.behaviour.gate {
            Gate::Shut => return Outcome::Page(Page::error(503, "Service Unavailable", "Out of order.")),
            Gate::Open => return Outcome::Admit,
            Gate::NoCredentials if matches!(request.credentials, Credentials::None) => return Outcome::Admit,
            Gate::NoCredentials => return Outcome::Silence,
            Gate::Proof => {}
        }
        if self.behaviour.rules.exempts_by_name && request.host.split('.').nth(1) == Some("exempt") {
            return if matches!(request.credentials, Credentials::None) { Outcome::Admit } else { Outcome::Silence };
        }
        if self.behaviour.rules.denies_client_fields && request.client_fields {
            return Outcome::Page(Page::error(403, "Forbidden", "A field that belongs to another connection."));
        }
        let outcome = match &request.credentials {
            Credentials::Token(token) => self.hear(token, request, around),
            Credentials::Garbled => {
                around.counters.malformed.increment();
                Outcome::Bare
            }
            Credentials::None if matches!(self.standing, Standing::Proven { .. }) => Outcome::Admit,
            Credentials::None | Credentials::Foreign => {
                around.counters.unprompted.increment();
                Outcome::Bare
            }
        };
        if matches!(outcome, Outcome::Bare) {
            self.standing = Standing::Asked;
        }
        if matches!(outcome, Outcome::Admit) { self.admit(request, around) } else { outcome }
    }

    /// A proof was right, now or earlier; what else stands in the way.
    fn admit(&mut self, request: &Request, around: &Surroundings<'_>) -> Outcome {
        if let Standing::Proven { requests_left: Some(left) } = &mut self.standing {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.standing = Standing::Asked;
            }
        }
        if self.behaviour.verdict == Verdict::Forbid {
            around.counters.declined.increment();
            return Outcome::Page(Page::error(403, "Forbidden", "This destination is not for you."));
        }
        if self.behaviour.rules.blocks_by_name && request.host.starts_with("blocked.") {
            around.counters.declined.increment();
            return Outcome::Bare;
        }
        Outcome::Admit
    }

    /// Hears what NTLM message a token bears.
    fn hear(&mut self, token: &[u8], request: &Request, around: &Surroundings<'_>) -> Outcome {
        let Some((message, wrapped)) = spnego::unwrap(token) else {
            around.counters.malformed.increment();
            return Outcome::Bare;
        };
        match MessageType::of(message) {
            Ok(MessageType::Negotiate) => {
                around.counters.negotiates.increment();
                if request.has_body() {
                    around.counters.negotiates_with_body.increment();
                }
                self.negotiate(message, wrapped, around)
            }
            Ok(MessageType::Authenticate) => {
                around.counters.authenticates.increment();
                self.authenticate(message, wrapped, around)
            }
            Ok(MessageType::Challenge) | Err(_) => {
                around.counters.malformed.increment();
                Outcome::Bare
            }
        }
    }

    fn negotiate(&mut self, message: &[u8], wrapped: bool, around: &Surroundings<'_>) -> Outcome {
        let rules = &self.behaviour.rules;
        let unasked = rules.asks_first && matches!(self.standing, Standing::Stranger);
        if rules.never_challenges || unasked {
            return Outcome::Bare;
        }
        match NegotiateMessage::decode(message) {
            Ok(offer) if offer.flags.contains(self.behaviour.needed) => self.challenge(message, wrapped, around),
            Ok(_) => Outcome::Bare,
            Err(_) => {
                around.counters.malformed.increment();
                Outcome::Bare
            }
        }
    }

    fn challenge(&mut self, negotiate: &[u8], wrapped: bool, around: &Surroundings<'_>) -> Outcome {
        let (style, nonce) = (self.behaviour.message, self.next_nonce());
        let Ok(challenge) = challenge_in_style(negotiate, &style, around.setup.names(), nonce, around.now) else {
            around.counters.malformed.increment();
            return Outcome::Bare;
        };
        around.counters.challenges.increment();
        self.challenged_at = around.now;
        let token = if wrapped || style.wrapped { spnego::wrap(&challenge) } else { challenge.clone() };
        let issued = Arc::new(Issued { connection: self.id, negotiate: negotiate.to_vec(), challenge });
        around.setup.issue(&issued);
        self.standing = Standing::Challenged(issued);
        Outcome::Challenge(token)
    }

    fn authenticate(&mut self, message: &[u8], wrapped: bool, around: &Surroundings<'_>) -> Outcome {
        let proof = self.behaviour.proof;
        let options = VerifyOptions { allow_v1_ess: proof.v1_ess, require_mic: proof.require_mic };
        let Standing::Challenged(issued) = std::mem::replace(&mut self.standing, Standing::Asked) else {
            around.counters.unchallenged_authenticates.increment();
            self.count_if_strayed(message, &options, around);
            return if self.behaviour.rules.resets_unchallenged { Outcome::Reset } else { Outcome::Bare };
        };
        match self.behaviour.verdict {
            Verdict::Reset => return Outcome::Reset,
            Verdict::Refuse => {
                around.counters.refused.increment();
                return Outcome::Bare;
            }
            Verdict::Rechallenge => {
                around.counters.refused.increment();
                return self.challenge(&issued.negotiate, wrapped, around);
            }
            Verdict::JustWithin(life) if u128::from(around.now.0 - self.challenged_at.0) * 100 > life.as_nanos() => {
                around.counters.refused.increment();
                return self.challenge(&issued.negotiate, wrapped, around);
            }
            Verdict::Just | Verdict::JustWithin(_) | Verdict::Forbid => {}
        }
        match around.setup.judge(message, &issued, &options) {
            Ok(verified) if (verified.method == Method::NtlmV1Ess) == proof.v1_ess => {
                around.counters.accepted.increment();
                self.standing = Standing::Proven { requests_left: self.behaviour.lasts_requests };
                return Outcome::Admit;
            }
            Err(VerifyError::Malformed(_) | VerifyError::MalformedAvPairs(_)) => around.counters.malformed.increment(),
            Ok(_) | Err(_) => self.count_if_strayed(message, &options, around),
        }
        around.counters.refused.increment();
        Outcome::Bare
    }

    fn count_if_strayed(&self, message: &[u8], options: &VerifyOptions, around: &Surroundings<'_>) {
        if around.setup.strayed(message, self.id, options) {
            around.counters.misplaced_authenticates.increment();
        }
    }

    fn refuse_malformed(&mut self, around: &Surroundings<'_>, steps: &mut VecDeque<Step>) {
        around.counters.malformed.increment();
        self.deaf = true;
        let mut answers = Answers { behaviour: &self.behaviour, delay: around.setup.delay(), steps };
        let page = Page::error(400, "Bad Request", "This is no request that could be read.");
        answers.page(&page, Reply { persists: false, wants_body: true });
    }

    /// SplitMix64 over the id: as random as the id is, and different for every challenge of the connection.
    fn next_nonce(&mut self) -> [u8; 8] {
        self.challenges += 1;
        splitmix(self.id.wrapping_add(self.challenges.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes()
    }
}

/// The output function of SplitMix64: a bijection that spreads every bit.
pub(super) fn splitmix(state: u64) -> u64 {
    let word = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// What a plain HTTP request gets: the origins answer as far as they have anything to say in HTTP.
fn resource(request: &Request, body: &BodyReader) -> Page {
    let label = request.host.split('.').next().unwrap_or_default();
    let content = match (request.connect, label) {
        (false, "hello") => Content::Text(HELLO_PAGE.to_owned()),
        (false, "sink") => Content::Text(sink_line(body.sum())),
        (false, label) if let Some(bytes) = label.strip_prefix("source-").and_then(|count| count.parse().ok()) => {
            Content::Pattern(bytes)
        }
        _ => return Page::error(503, "Service Unavailable", "The stub plays no origin of this name."),
    };
    Page { status: 200, reason: "OK", content }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
