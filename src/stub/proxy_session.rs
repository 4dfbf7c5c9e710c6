//! One client's connection to the stub, up to the tunnel: pure, bytes in, [`ProxyAction`]s out.
//!
//! ```text
//!       407           NEGOTIATE           valid AUTHENTICATE
//!  New ─────▶ Asked ────────────▶ Challenged ──────────────▶ Authenticated ──▶ 200 or page
//!               ▲                     │ any other request         │ no requests left
//!               └─────────────────────┴───────────────────────────┘
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::behaviour::{AccessRule, AuthenticateHandling, Behaviour, OnAccept};
use super::body::BodyReader;
use super::challenger::challenge_in_style;
use super::counters::Counters;
use super::hello_origin::HELLO_PAGE;
use super::kerberos::Verdict;
use super::origin::{Origin, sink_line};
use super::personality::Personality;
use super::request::{Accepts, ProxyRequest, RequestCredentials};
use super::response::{Page, PageContent, ProxyAction, ResponseOptions, ResponseWriter};
use super::setup::{IssuedChallenge, Setup};
use super::spnego;
use crate::http::HeadEnd;
use crate::kerberos::{AcceptError, Confounder, Timestamp};
use crate::ntlm::{FileTime, MessageType, Method, NegotiateMessage, VerifyError, VerifyOptions};

/// Longest request head in bytes. With an AUTHENTICATE_MESSAGE that echoes a TargetInfo of 64 KiB, a head has 88 KiB.
pub const REQUEST_HEAD_LIMIT_BYTES: usize = 128 * 1024;

/// What a session needs from outside at each call.
#[derive(Clone, Copy)]
pub struct ProxyContext<'a> {
    /// What all connections share.
    pub setup: &'a Setup,
    /// Where events are counted.
    pub counters: &'a Counters,
    /// The current time, for challenges and their age.
    pub now: FileTime,
}

/// One connection, up to the tunnel.
pub struct ProxySession {
    behaviour: Behaviour,
    /// Distinguishes it from all other connections; its challenges are derived from it, too.
    id: u64,
    /// How many challenges it has sent.
    challenges: u64,
    /// When it sent the last one.
    challenged_at: FileTime,
    buffer: Vec<u8>,
    head_end: HeadEnd,
    auth: AuthState,
    /// The token that answers one of Kerberos, in base64, for the next response.
    service_token: Option<String>,
    /// A request whose body is still coming.
    receiving: Option<(ProxyRequest, BodyReader)>,
    /// Input is ignored: the connection is about to end, or the personality no longer responds.
    finished: bool,
}

/// How far the connection is authenticated.
enum AuthState {
    New,
    Asked,
    Challenged(Arc<IssuedChallenge>),
    Authenticated {
        /// `None`: all requests on the connection.
        requests_left: Option<u32>,
    },
}

/// The response to a request.
enum ProxyResponse {
    /// The request is admitted: a tunnel, or an origin's page.
    Admit,
    /// A 407 without a challenge.
    AuthRequired,
    /// A 407 with this token.
    Challenge(Vec<u8>),
    Page(Page),
    None,
    Reset,
}

impl ProxySession {
    /// Starts the session of a connection that was just accepted. `id` must be random, because ServerChallenges are
    /// derived from it.
    #[must_use]
    pub fn new(personality: Personality, id: u64) -> ProxySession {
        ProxySession {
            behaviour: personality.behaviour(),
            id,
            challenges: 0,
            challenged_at: FileTime::default(),
            buffer: Vec::new(),
            head_end: HeadEnd::request(),
            auth: AuthState::New,
            service_token: None,
            receiving: None,
            finished: false,
        }
    }

    /// Appends what is to be done before the client has sent anything. To be called once.
    pub fn open(&mut self, actions: &mut VecDeque<ProxyAction>) {
        match self.behaviour.on_accept {
            OnAccept::Serve => {}
            OnAccept::Mute => self.finished = true,
            OnAccept::Close => {
                self.finished = true;
                actions.push_back(ProxyAction::Close);
            }
        }
    }

    /// How long nothing may be received before the connection is to be closed; `None`: for ever.
    #[must_use]
    pub fn idle_close(&self) -> Option<Duration> {
        self.behaviour.idle_close
    }

    /// Receives bytes of the client and appends what is to be done about them. After an action that ends the session,
    /// input is ignored.
    pub fn receive(&mut self, bytes: &[u8], context: &ProxyContext<'_>, actions: &mut VecDeque<ProxyAction>) {
        if self.finished {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        while !self.finished && self.advance(context, actions) {}
    }

    /// Processes one head or one piece of a body. Returns `false` if more bytes are needed, or after an error.
    fn advance(&mut self, context: &ProxyContext<'_>, actions: &mut VecDeque<ProxyAction>) -> bool {
        let Some((request, mut body)) = self.receiving.take() else {
            return self.read_head(context, actions);
        };
        let Ok(taken) = body.feed(&self.buffer) else {
            self.refuse_malformed(context, actions);
            return false;
        };
        self.buffer.drain(..taken);
        context.counters.body_bytes.add(taken as u64);
        if body.is_done() {
            self.answer(&request, &body, context, actions);
            return true;
        }
        self.receiving = Some((request, body));
        false
    }

    fn read_head(&mut self, context: &ProxyContext<'_>, actions: &mut VecDeque<ProxyAction>) -> bool {
        let request = match self.head_end.find(&self.buffer, REQUEST_HEAD_LIMIT_BYTES) {
            Ok(None) => return false,
            Ok(Some(length)) => {
                let head: Vec<u8> = self.buffer.drain(..length).collect();
                self.head_end = HeadEnd::request();
                ProxyRequest::read(&head, &self.behaviour, accepts(context)).ok()
            }
            Err(_) => None,
        };
        let Some(request) = request else {
            self.refuse_malformed(context, actions);
            return false;
        };
        if request.client_fields {
            context.counters.client_fields.increment();
        }
        if request.expects_continue && request.has_body() {
            actions.push_back(ProxyAction::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()));
        }
        let body = BodyReader::new(request.framing);
        self.receiving = Some((request, body));
        true
    }

    fn answer(
        &mut self,
        request: &ProxyRequest,
        body: &BodyReader,
        context: &ProxyContext<'_>,
        actions: &mut VecDeque<ProxyAction>,
    ) {
        context.counters.requests.increment();
        let options = ResponseOptions { persists: request.persists, wants_body: request.wants_body };
        let response = self.decide(request, context);
        let behaviour = self.behaviour;
        let (delay, accepts, negotiate) = (context.setup.delay(), accepts(context), self.service_token.take());
        let mut answers = ResponseWriter { behaviour: &behaviour, delay, actions, accepts, negotiate };
        let stays = match response {
            ProxyResponse::AuthRequired => answers.auth_required(None, options),
            ProxyResponse::Challenge(token) => answers.auth_required(Some(&STANDARD.encode(token)), options),
            ProxyResponse::Page(page) => answers.page(&page, options),
            ProxyResponse::None => false,
            ProxyResponse::Reset => {
                answers.actions.push_back(ProxyAction::Reset);
                false
            }
            ProxyResponse::Admit => match Origin::of_host(&request.host) {
                Some(origin) if request.connect => {
                    context.counters.tunnels_opened.increment();
                    answers.tunnel(origin, std::mem::take(&mut self.buffer));
                    false
                }
                _ => answers.page(&resource(request, body), options),
            },
        };
        self.finished = !stays;
    }

    /// Decides whether a request is admitted, or what the response is.
    fn decide(&mut self, request: &ProxyRequest, context: &ProxyContext<'_>) -> ProxyResponse {
        match self.behaviour.access {
            AccessRule::Unavailable => {
                return ProxyResponse::Page(Page::error(503, "Service Unavailable", "Out of order."));
            }
            AccessRule::Open => return ProxyResponse::Admit,
            AccessRule::NoCredentials if matches!(request.credentials, RequestCredentials::None) => {
                return ProxyResponse::Admit;
            }
            AccessRule::NoCredentials => return ProxyResponse::None,
            AccessRule::Authenticated => {}
        }
        if self.behaviour.rules.exempts_by_name && request.host.split('.').nth(1) == Some("exempt") {
            return if matches!(request.credentials, RequestCredentials::None) {
                ProxyResponse::Admit
            } else {
                ProxyResponse::None
            };
        }
        if self.behaviour.rules.denies_client_fields && request.client_fields {
            return ProxyResponse::Page(Page::error(403, "Forbidden", "A field that belongs to another connection."));
        }
        let response = match &request.credentials {
            RequestCredentials::Token(token) => self.process_token(token, request, context),
            RequestCredentials::Ticket(token) => self.process_ticket(token, request, context),
            RequestCredentials::Garbled => {
                context.counters.malformed.increment();
                ProxyResponse::AuthRequired
            }
            RequestCredentials::None if matches!(self.auth, AuthState::Authenticated { .. }) => ProxyResponse::Admit,
            RequestCredentials::None | RequestCredentials::Foreign => {
                context.counters.unprompted.increment();
                ProxyResponse::AuthRequired
            }
        };
        if matches!(response, ProxyResponse::AuthRequired) {
            self.auth = AuthState::Asked;
        }
        if matches!(response, ProxyResponse::Admit) { self.admit(request, context) } else { response }
    }

    /// The connection is authenticated, now or before, but the personality may still deny the request.
    fn admit(&mut self, request: &ProxyRequest, context: &ProxyContext<'_>) -> ProxyResponse {
        if let AuthState::Authenticated { requests_left: Some(left) } = &mut self.auth {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.auth = AuthState::Asked;
            }
        }
        if self.behaviour.authenticate_handling == AuthenticateHandling::Forbid {
            context.counters.declined.increment();
            return ProxyResponse::Page(Page::error(403, "Forbidden", "This destination is not for you."));
        }
        if self.behaviour.rules.blocks_by_name && request.host.starts_with("blocked.") {
            context.counters.declined.increment();
            return ProxyResponse::AuthRequired;
        }
        ProxyResponse::Admit
    }

    /// Verifies a token of Kerberos.
    fn process_ticket(&mut self, token: &[u8], request: &ProxyRequest, context: &ProxyContext<'_>) -> ProxyResponse {
        let Some(service) = context.setup.kerberos() else { return ProxyResponse::AuthRequired };
        let now = Timestamp::from_micros(context.now.unix_micros());
        let answer = match service.verify(token, now, &self.next_confounder()) {
            Verdict::NoKerberos if service.with_ntlm() && self.behaviour.offers.scheme == Some("Negotiate") => {
                return self.process_token(token, request, context);
            }
            Verdict::NoKerberos => {
                context.counters.tickets_refused.increment();
                return ProxyResponse::AuthRequired;
            }
            Verdict::Refused { error, answer } => {
                context.counters.tickets_refused.increment();
                context.counters.tickets_repeated.add(u64::from(error == AcceptError::Repeated));
                self.service_token = Some(STANDARD.encode(answer));
                return ProxyResponse::AuthRequired;
            }
            Verdict::Accepted { answer } => answer,
        };
        match self.behaviour.authenticate_handling {
            AuthenticateHandling::Reset => return ProxyResponse::Reset,
            AuthenticateHandling::Refuse | AuthenticateHandling::Rechallenge => {
                context.counters.tickets_refused.increment();
                return ProxyResponse::AuthRequired;
            }
            AuthenticateHandling::Verify | AuthenticateHandling::VerifyWithin(_) | AuthenticateHandling::Forbid => {}
        }
        context.counters.tickets_accepted.increment();
        self.auth = AuthState::Authenticated { requests_left: self.behaviour.requests_per_logon };
        self.service_token = answer.map(|answer| STANDARD.encode(answer));
        ProxyResponse::Admit
    }

    /// Processes the NTLM message in a token.
    fn process_token(&mut self, token: &[u8], request: &ProxyRequest, context: &ProxyContext<'_>) -> ProxyResponse {
        let Some((message, wrapped)) = spnego::unwrap(token) else {
            context.counters.malformed.increment();
            return ProxyResponse::AuthRequired;
        };
        match MessageType::of(message) {
            Ok(MessageType::Negotiate) => {
                context.counters.negotiates.increment();
                if request.has_body() {
                    context.counters.negotiates_with_body.increment();
                }
                self.negotiate(message, wrapped, context)
            }
            Ok(MessageType::Authenticate) => {
                context.counters.authenticates.increment();
                self.authenticate(message, wrapped, context)
            }
            Ok(MessageType::Challenge) | Err(_) => {
                context.counters.malformed.increment();
                ProxyResponse::AuthRequired
            }
        }
    }

    fn negotiate(&mut self, message: &[u8], wrapped: bool, context: &ProxyContext<'_>) -> ProxyResponse {
        let rules = &self.behaviour.rules;
        let is_unasked = rules.asks_first && matches!(self.auth, AuthState::New);
        if rules.never_challenges || is_unasked {
            return ProxyResponse::AuthRequired;
        }
        match NegotiateMessage::decode(message) {
            Ok(offer) if offer.flags.contains(self.behaviour.required_flags) => {
                self.challenge(message, wrapped, context)
            }
            Ok(_) => ProxyResponse::AuthRequired,
            Err(_) => {
                context.counters.malformed.increment();
                ProxyResponse::AuthRequired
            }
        }
    }

    fn challenge(&mut self, negotiate: &[u8], wrapped: bool, context: &ProxyContext<'_>) -> ProxyResponse {
        let (style, nonce) = (self.behaviour.message, self.next_nonce());
        let Ok(challenge) = challenge_in_style(negotiate, &style, context.setup.names(), nonce, context.now) else {
            context.counters.malformed.increment();
            return ProxyResponse::AuthRequired;
        };
        context.counters.challenges.increment();
        self.challenged_at = context.now;
        let token = if wrapped || style.wrapped { spnego::wrap(&challenge) } else { challenge.clone() };
        let issued = Arc::new(IssuedChallenge { connection: self.id, negotiate: negotiate.to_vec(), challenge });
        context.setup.remember(&issued);
        self.auth = AuthState::Challenged(issued);
        ProxyResponse::Challenge(token)
    }

    fn authenticate(&mut self, message: &[u8], wrapped: bool, context: &ProxyContext<'_>) -> ProxyResponse {
        let rules = self.behaviour.authenticate;
        let options = VerifyOptions { allow_v1_ess: rules.v1_ess, require_mic: rules.require_mic };
        let AuthState::Challenged(issued) = std::mem::replace(&mut self.auth, AuthState::Asked) else {
            context.counters.unchallenged_authenticates.increment();
            self.count_if_misplaced(message, &options, context);
            return if self.behaviour.rules.resets_unchallenged {
                ProxyResponse::Reset
            } else {
                ProxyResponse::AuthRequired
            };
        };
        match self.behaviour.authenticate_handling {
            AuthenticateHandling::Reset => return ProxyResponse::Reset,
            AuthenticateHandling::Refuse => {
                context.counters.refused.increment();
                return ProxyResponse::AuthRequired;
            }
            AuthenticateHandling::Rechallenge => {
                context.counters.refused.increment();
                return self.challenge(&issued.negotiate, wrapped, context);
            }
            AuthenticateHandling::VerifyWithin(life)
                if u128::from(context.now.0 - self.challenged_at.0) * 100 > life.as_nanos() =>
            {
                context.counters.refused.increment();
                return self.challenge(&issued.negotiate, wrapped, context);
            }
            AuthenticateHandling::Verify | AuthenticateHandling::VerifyWithin(_) | AuthenticateHandling::Forbid => {}
        }
        match context.setup.verify(message, &issued, &options) {
            Ok(verified) if (verified.method == Method::NtlmV1Ess) == rules.v1_ess => {
                context.counters.accepted.increment();
                self.auth = AuthState::Authenticated { requests_left: self.behaviour.requests_per_logon };
                return ProxyResponse::Admit;
            }
            Err(VerifyError::Malformed(_) | VerifyError::MalformedAvPairs(_)) => context.counters.malformed.increment(),
            Ok(_) | Err(_) => self.count_if_misplaced(message, &options, context),
        }
        context.counters.refused.increment();
        ProxyResponse::AuthRequired
    }

    fn count_if_misplaced(&self, message: &[u8], options: &VerifyOptions, context: &ProxyContext<'_>) {
        if context.setup.is_misplaced(message, self.id, options) {
            context.counters.misplaced_authenticates.increment();
        }
    }

    fn refuse_malformed(&mut self, context: &ProxyContext<'_>, actions: &mut VecDeque<ProxyAction>) {
        context.counters.malformed.increment();
        self.finished = true;
        let (delay, accepts) = (context.setup.delay(), accepts(context));
        let mut answers = ResponseWriter { behaviour: &self.behaviour, delay, actions, accepts, negotiate: None };
        let page = Page::error(400, "Bad Request", "The request is malformed.");
        answers.page(&page, ResponseOptions { persists: false, wants_body: true });
    }

    fn next_confounder(&mut self) -> Confounder {
        let mut confounder = Confounder::default();
        confounder.as_chunks_mut::<8>().0.iter_mut().for_each(|half| *half = self.next_nonce());
        confounder
    }

    /// SplitMix64 over the id: as random as the id, and different for each challenge of the connection.
    fn next_nonce(&mut self) -> [u8; 8] {
        self.challenges += 1;
        splitmix(self.id.wrapping_add(self.challenges.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes()
    }
}

/// What the stub accepts, and so offers.
fn accepts(context: &ProxyContext<'_>) -> Accepts {
    match context.setup.kerberos() {
        None => Accepts::NTLM,
        Some(service) => Accepts { ntlm: service.with_ntlm(), kerberos: true },
    }
}

/// The output function of SplitMix64: a bijection that spreads every bit.
pub(super) fn splitmix(state: u64) -> u64 {
    let word = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// The page for a plain HTTP request, from those origins that can answer one.
fn resource(request: &ProxyRequest, body: &BodyReader) -> Page {
    let label = request.host.split('.').next().unwrap_or_default();
    let content = match (request.connect, label) {
        (false, "hello") => PageContent::Text(HELLO_PAGE.to_owned()),
        (false, "sink") => PageContent::Text(sink_line(body.sum())),
        (false, label) if let Some(bytes) = label.strip_prefix("source-").and_then(|count| count.parse().ok()) => {
            PageContent::Pattern(bytes)
        }
        _ => return Page::error(503, "Service Unavailable", "The stub has no origin with this name."),
    };
    Page { status: 200, reason: "OK", content }
}

#[cfg(test)]
#[path = "proxy_session_tests.rs"]
mod tests;
