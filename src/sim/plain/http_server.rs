//! Reads the requests on one connection and answers them: as an upstream, behind its authentication, or as an origin.

use std::collections::VecDeque;
use std::time::Duration;

use super::message::{Body, Framing, Head, base, encode};
use super::plan::{AnswerOddity, AnswerPlan, HttpClientPlan, RequestPlan};
use crate::limits;
use crate::sim::kerberos::{Proxy, ProxySurroundings, has_ticket};
use crate::sim::opening;
use crate::sim::scenario::USERS;
use crate::stub::ProxyAction;

/// Identifies a client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId {
    pub client: usize,
    pub number: usize,
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.client, self.number)
    }
}

/// The server's side of one connection.
#[derive(Debug, Default)]
pub struct HttpServer {
    buffer: Vec<u8>,
    /// How far the buffer has been searched for the end of a head.
    seen: usize,
    pending: Option<PendingRequest>,
    /// An answer is being sent to a request that has arrived completely, or far enough to be answered early.
    answering: bool,
    /// The account of the last AUTHENTICATE_MESSAGE.
    authenticated_as: Option<&'static str>,
    /// The client that authenticated this connection to its origin.
    pinned_to: Option<usize>,
    /// The client of the last CONNECT.
    pub tunnel_for: Option<usize>,
    /// The end of the last answer is the close.
    pub ends_at_close: bool,
    /// Requests that were admitted and answered.
    pub carried_out: Vec<RequestId>,
    /// Requests with bodies and with a ticket of Kerberos.
    pub with_tickets: Vec<WithTicket>,
    pub wrong: Vec<String>,
    /// Answers at once, even where it could wait for the body.
    answers_early: bool,
}

/// A request whose body is still arriving.
#[derive(Debug)]
struct PendingRequest {
    request: RequestId,
    body: Body,
    /// Answer once this many bytes of the body have arrived; `None`: once all of it has.
    early: Option<u64>,
    answer: Vec<ProxyAction>,
    /// It counts as carried out once it is answered; probes and unauthenticated requests do not.
    is_real: bool,
    /// It is the last one in `with_tickets`, and nothing of its body has come.
    is_with_ticket: bool,
}

/// A request with a body whose head has a ticket of Kerberos.
#[derive(Clone, Copy, Debug)]
pub struct WithTicket {
    pub request: RequestId,
    /// The ticket was not accepted, and the body is short enough to be kept.
    pub may_be_repeated: bool,
    /// Something of the body has come.
    pub has_begun: bool,
}

/// What the server needs to know about the rest of the simulation.
pub struct ServerContext<'a> {
    pub proxy: Option<&'a mut Proxy>,
    pub surroundings: ProxySurroundings<'a>,
    pub http_clients: &'a [HttpClientPlan],
    /// The number of the first of them.
    pub first: usize,
    /// Every other client uses the second identity.
    pub two_identities: bool,
}

impl HttpServer {
    pub fn new(answers_early: bool) -> HttpServer {
        HttpServer { answers_early, ..HttpServer::default() }
    }

    /// No request is pending, and at least one was answered.
    pub fn is_idle(&self) -> bool {
        self.pending.is_none() && self.buffer.is_empty() && !self.carried_out.is_empty()
    }

    /// Bytes arrived behind the last head.
    pub fn has_leftover(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The answer has been sent completely; `early` bytes had arrived by then.
    pub fn answered(&mut self, early: usize) {
        if std::mem::take(&mut self.answering) && self.pending.is_none() && early + self.buffer.len() > 0 {
            self.wrong.push("a request arrived before the last one was answered".into());
        }
    }

    /// Reads bytes and appends the steps that they call for.
    pub fn receive(&mut self, bytes: &[u8], mut context: ServerContext<'_>, steps: &mut VecDeque<ProxyAction>) {
        self.buffer.extend_from_slice(bytes);
        loop {
            if self.pending.is_some() {
                if !self.read_body(steps) {
                    return;
                }
            } else {
                let Some(head) = Head::take(&mut self.buffer, &mut self.seen) else { return };
                match head.word(0) {
                    "CONNECT" => self.connect(&head, &mut context, steps),
                    _ => self.request(&head, &mut context, steps),
                }
            }
        }
    }

    fn read_body(&mut self, steps: &mut VecDeque<ProxyAction>) -> bool {
        let Some(pending) = &mut self.pending else { return true };
        pending.body.take(&mut self.buffer);
        if pending.body.bytes > 0
            && std::mem::take(&mut pending.is_with_ticket)
            && let Some(last) = self.with_tickets.last_mut()
        {
            last.has_begun = true;
        }
        let done = pending.body.is_done();
        if done || pending.early.is_some_and(|early| pending.body.bytes >= early) {
            self.answering |= !pending.answer.is_empty();
            steps.extend(pending.answer.drain(..));
            if std::mem::take(&mut pending.is_real) {
                self.carried_out.push(pending.request);
            }
        }
        if let Some(why) = pending.body.wrong.take() {
            self.wrong.push(format!("request {}: {why}", pending.request));
        }
        if done {
            self.pending = None;
        }
        done
    }

    /// The upstream grants a tunnel or asks for authentication.
    fn connect(&mut self, head: &Head, context: &mut ServerContext<'_>, steps: &mut VecDeque<ProxyAction>) {
        let port = head.word(1).rsplit_once(':').and_then(|(_, port)| port.parse::<usize>().ok());
        // The gateway's own CONNECT, which obtains a challenge in advance, belongs to no client.
        self.tunnel_for = port.and_then(|port| port.checked_sub(9_000));
        if self.pinned_to.is_some() {
            self.wrong.push("a tunnel on a connection that belongs to a client".into());
        }
        match &mut context.proxy {
            Some(proxy) => {
                // The stub knows its origins by name.
                let named = String::from_utf8_lossy(&head.without(&[])).replace(opening::ORIGIN, "silent.test");
                proxy.receive(named.as_bytes(), context.surroundings, steps);
            }
            None => self.wrong.push("an origin received a CONNECT".into()),
        }
        self.check_identity(head, self.tunnel_for, context);
    }

    fn request(&mut self, head: &Head, context: &mut ServerContext<'_>, steps: &mut VecDeque<ProxyAction>) {
        // The gateway's own request: it pre-challenges a connection, or tells a policy from a wrong password.
        if let Some(proxy) = &mut context.proxy
            && head.get("x-tag").is_none()
            && head.word(1).splitn(4, '/').nth(3) == Some("")
        {
            return proxy.receive(&head.without(&[]), context.surroundings, steps);
        }
        if is_confirmation(head) {
            return answer_confirmation(head, context, steps);
        }
        let Some((request, plan)) = find_request(head, context) else {
            return self.wrong.push(format!("a request that no client sent: {}", head.line));
        };
        if let Err(why) = check_head(head, request, plan, context.proxy.is_none()) {
            self.wrong.push(format!("request {request}: {why}"));
        }
        let framing = head.framing(Framing::Nothing).unwrap_or(Framing::Nothing);
        let is_probe = is_probe(head, plan);
        let mut auth_steps = VecDeque::new();
        let (mut own_token, mut verdict_takes) = (None, None);
        if let Some(proxy) = &mut context.proxy {
            let bare = head.without(&["content-length", "transfer-encoding", "expect", "trailer"]);
            proxy.receive(&bare, context.surroundings, &mut auth_steps);
            own_token = proxy.take_reply();
            verdict_takes = proxy.verdict_takes();
        }
        self.check_identity(head, Some(request.client), context);
        let admitted = context.proxy.is_none() || final_status(&auth_steps) == Some(200);
        if admitted {
            self.check_pin(request, plan);
        }
        let waits_for_continue = head.lists("expect", "100-continue");
        let stays = !auth_steps.iter().any(|step| matches!(step, ProxyAction::Close));
        let (answer, early) = match admitted {
            false => (auth_steps.into(), (self.answers_early || waits_for_continue).then_some(0)),
            true if is_probe => (answer_to_probe(stays), None),
            true => {
                if waits_for_continue && plan.answer.sends_100 && plan.answer.early != Some(0) {
                    steps.push_back(ProxyAction::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()));
                }
                self.ends_at_close = plan.answer.framing_to(plan.method) == Framing::ToClose;
                let answer = answer(request, plan, stays, own_token.as_deref().unwrap_or_default());
                (verdict_takes.map(ProxyAction::Wait).into_iter().chain(answer).collect(), plan.answer.early)
            }
        };
        if admitted && !is_probe && framing_differs(framing, plan.framing) {
            self.wrong.push(format!("request {request} is framed as {framing:?} instead of {:?}", plan.framing));
        }
        let body = Body::new(framing, base(request.client, request.number, false), request.to_string());
        let is_with_ticket = !is_probe && head.get("proxy-authorization").is_some_and(has_ticket);
        let is_short = matches!(framing, Framing::Length(length) if length <= limits::BUFFERED_BODY_BYTES as u64);
        let may_be_repeated = is_short && !admitted;
        if is_with_ticket {
            self.with_tickets.push(WithTicket { request, may_be_repeated, has_begun: false });
        }
        let is_real = admitted && !is_probe;
        self.pending = Some(PendingRequest { request, body, early, answer, is_real, is_with_ticket });
    }

    /// Credentials, and all requests after them on the connection, belong to the client's own identity.
    fn check_identity(&mut self, head: &Head, client: Option<usize>, context: &ServerContext<'_>) {
        let own = USERS[client.filter(|_| context.two_identities).unwrap_or(0) % 2];
        let user = match head.get("proxy-authorization") {
            // The name is encrypted in the ticket.
            Some(credentials) if has_ticket(credentials) => context.proxy.as_ref().and_then(|it| it.user_of_ticket()),
            credentials => credentials.and_then(user_of),
        };
        self.authenticated_as = user.or(self.authenticated_as);
        if let Some(other) = self.authenticated_as.filter(|other| *other != own) {
            self.wrong.push(format!("client {client:?} belongs to {own} but uses {other}: {}", head.line));
        }
    }

    fn check_pin(&mut self, request: RequestId, plan: &RequestPlan) {
        if self.pinned_to.is_some_and(|owner| owner != request.client) {
            self.wrong.push(format!("request {request} on a connection that belongs to another client"));
        }
        if plan.pins_connection {
            self.pinned_to = Some(request.client);
        }
    }
}

/// The user in an AUTHENTICATE_MESSAGE, if the credentials are one.
fn user_of(credentials: &str) -> Option<&'static str> {
    let token = crate::http::decode_token(credentials.split_once(' ')?.1).ok()?;
    let wide = |user: &str| user.bytes().flat_map(|letter| [letter, 0]).collect::<Vec<u8>>();
    let shows = |name: &[u8]| token.windows(name.len()).any(|window| window == name);
    USERS.into_iter().find(|user| shows(&wide(user)) || shows(user.as_bytes()) || shows(user.to_uppercase().as_bytes()))
}

/// The client's request that a head belongs to, with its plan.
fn find_request<'a>(head: &Head, context: &ServerContext<'a>) -> Option<(RequestId, &'a RequestPlan)> {
    let (client, number) = head.word(1).rsplit_once("/to/")?.1.split_once('.')?;
    let request = RequestId { client: client.parse().ok()?, number: number.parse().ok()? };
    let http_clients: &'a [HttpClientPlan] = context.http_clients;
    let plan = http_clients.get(request.client.checked_sub(context.first)?)?.requests.get(request.number)?;
    Some((request, plan))
}

/// The gateway's own request that confirms its password; it must carry nothing of a client's.
fn is_confirmation(head: &Head) -> bool {
    let is_root = head.word(1).strip_prefix("http://").is_some_and(|rest| rest.find('/') == Some(rest.len() - 1));
    let is_bare = ["x-tag", "authorization", "cookie", "via"].iter().all(|name| head.get(name).is_none());
    head.word(0) == "HEAD" && is_root && is_bare
}

fn answer_confirmation(head: &Head, context: &mut ServerContext<'_>, steps: &mut VecDeque<ProxyAction>) {
    let Some(proxy) = &mut context.proxy else { return };
    let mut auth_steps = VecDeque::new();
    proxy.receive(&head.without(&[]), context.surroundings, &mut auth_steps);
    match final_status(&auth_steps) {
        Some(200) => steps.extend(answer_to_probe(false)),
        _ => steps.extend(auth_steps),
    }
}

/// Whether a request only obtains the challenge for a HEAD, or for a request with a body.
fn is_probe(head: &Head, plan: &RequestPlan) -> bool {
    let is_empty = || plan.has_body() && head.framing(Framing::Nothing) == Ok(Framing::Length(0));
    (plan.method == "HEAD" && head.word(0) == "GET") || is_empty()
}

/// No body and an empty body are equivalent.
fn framing_differs(one: Framing, other: Framing) -> bool {
    let plain = |framing| if framing == Framing::Length(0) { Framing::Nothing } else { framing };
    plain(one) != plain(other)
}

/// Whether a head carries what its client sent, and nothing that was meant for the gateway.
fn check_head(head: &Head, request: RequestId, plan: &RequestPlan, to_origin: bool) -> Result<(), String> {
    let require = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {head:?}")) };
    require(head.word(0) == plan.method || (!to_origin && is_probe(head, plan)), "wrong method")?;
    require(head.word(2) == "HTTP/1.1", "wrong version")?;
    require(head.get("x-tag") == Some(&request.to_string()), "another request's tag")?;
    require(head.get("x-hop").is_none() && head.get("te").is_none(), "a hop-by-hop field of the client's")?;
    require(head.get("via").is_some_and(|via| via.ends_with("ntlm-gateway")), "no Via")?;
    require(plan.expects_continue || head.get("expect").is_none(), "an Expect that no client sent")?;
    require(plan.pins_connection == head.get("authorization").is_some(), "wrong Authorization")?;
    let port = 9_000 + request.client;
    require(head.get("host").is_some_and(|host| host.ends_with(&format!(":{port}"))), "wrong Host")?;
    require(head.word(1).starts_with('/') == to_origin, "wrong form of target")?;
    require(!to_origin || head.get("proxy-authorization").is_none(), "credentials for an origin")?;
    head.framing(Framing::Nothing).map(drop)
}

/// The final status in a session's output.
fn final_status(steps: &VecDeque<ProxyAction>) -> Option<u16> {
    let mut bytes: Vec<u8> = steps
        .iter()
        .filter_map(|step| match step {
            ProxyAction::Send(bytes) | ProxyAction::Trickle(bytes) => Some(&bytes[..]),
            _ => None,
        })
        .flatten()
        .copied()
        .collect();
    loop {
        let status = Head::take(&mut bytes, &mut 0)?.word(1).parse().ok()?;
        if status >= 200 {
            return Some(status);
        }
    }
}

/// No client may see this answer: its request has not been sent yet.
fn answer_to_probe(stays: bool) -> Vec<ProxyAction> {
    let ending = if stays { "" } else { "Connection: close\r\n" };
    let head = format!("HTTP/1.1 200 OK\r\nX-Answer: to a probe\r\nContent-Length: 8\r\n{ending}\r\nnobody's");
    let mut steps = vec![ProxyAction::Send(head.into_bytes())];
    steps.extend((!stays).then_some(ProxyAction::Close));
    steps
}

/// The planned answer, as steps. `own_token` is a field of its head.
fn answer(request: RequestId, plan: &RequestPlan, stays: bool, own_token: &str) -> Vec<ProxyAction> {
    let AnswerPlan { oddity, delay_us, .. } = plan.answer;
    let framing = plan.answer.framing_to(plan.method);
    let closes = plan.answer.closes || !stays || framing == Framing::ToClose;
    let head = answer_head(request, plan, closes, own_token);
    let trailer = (plan.answer.trailer && framing == Framing::Chunked).then(|| request.to_string());
    let bytes = if framing == Framing::Nothing { 0 } else { plan.answer.bytes };
    let content = base(request.client, request.number, true);
    let mut bytes = [head.clone(), encode(framing, content, bytes, plan.answer.piece, trailer.as_deref())].concat();
    let mut steps = Vec::new();
    if delay_us > 0 {
        steps.push(ProxyAction::Wait(Duration::from_micros(delay_us)));
    }
    let mut ending = closes.then_some(ProxyAction::Close);
    match oddity {
        Some(AnswerOddity::Corrupts(at)) => corrupt(&mut bytes, head.len(), at, framing),
        Some(AnswerOddity::Resets(after) | AnswerOddity::Closes(after) | AnswerOddity::Stalls(after))
            if after < bytes.len() as u64 =>
        {
            bytes.truncate(usize::try_from(after).unwrap());
            ending = match oddity {
                Some(AnswerOddity::Resets(_)) => Some(ProxyAction::Reset),
                Some(AnswerOddity::Closes(_)) if framing != Framing::ToClose || bytes.len() < head.len() => {
                    Some(ProxyAction::Close)
                }
                // An early close would look like the end of the body.
                Some(AnswerOddity::Closes(_)) => Some(ProxyAction::Reset),
                _ => Some(ProxyAction::Wait(Duration::from_secs(900))),
            };
        }
        _ => {}
    }
    for (place, piece) in bytes.chunks(plan.answer.pause_every.unwrap_or(usize::MAX)).enumerate() {
        if place > 0 {
            steps.push(ProxyAction::Wait(Duration::from_micros(2_000)));
        }
        steps.push(ProxyAction::Send(piece.to_vec()));
    }
    steps.extend(ending);
    steps
}

/// Corrupts a byte where the gateway has to notice it.
fn corrupt(bytes: &mut [u8], head: usize, at: u64, framing: Framing) {
    let at = usize::try_from(at).unwrap();
    if at < head {
        bytes[at] = 0;
    } else if framing == Framing::Chunked {
        bytes[head] = b'x';
    }
}

fn answer_head(request: RequestId, plan: &RequestPlan, closes: bool, own_token: &str) -> Vec<u8> {
    let AnswerPlan { status, framing, http10, interim_answers, .. } = plan.answer;
    let mut head = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n".repeat(interim_answers);
    let version = if http10 { "HTTP/1.0" } else { "HTTP/1.1" };
    head += &format!("{version} {status} Whatever\r\nX-Answer: {request}\r\nX-Hop: 1\r\n{own_token}");
    match framing {
        Framing::Length(length) => head += &format!("Content-Length: {length}\r\n"),
        Framing::Chunked => head += "Transfer-Encoding: chunked\r\nTrailer: X-Trail\r\n",
        Framing::Nothing | Framing::ToClose => {}
    }
    head += match (closes, http10) {
        (true, _) => "Connection: close, X-Hop\r\n",
        (false, true) => "Connection: keep-alive, X-Hop\r\n",
        (false, false) => "Connection: X-Hop\r\n",
    };
    (head + "\r\n").into_bytes()
}
