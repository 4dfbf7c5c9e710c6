//! What reads the requests on one connection and answers them: an upstream's, behind its doorman, or an origin's own.

use std::collections::VecDeque;
use std::time::Duration;

use super::message::{Body, Framing, Head, base, encode};
use super::plan::{AnswerOddity, AnswerPlan, CallerPlan, RequestPlan};
use crate::sim::scenario::USERS;
use crate::stub::{ProxyAction, ProxyContext, ProxySession};

/// Names the request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    pub caller: usize,
    pub number: usize,
}

impl std::fmt::Display for Request {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.caller, self.number)
    }
}

/// What was asked for on one connection.
#[derive(Debug, Default)]
pub struct Desk {
    buffer: Vec<u8>,
    /// As much of it holds no end of a head.
    seen: usize,
    receiving: Option<Receiving>,
    /// An answer to a request that has come whole, or to most of it, is on its way out.
    answering: bool,
    /// Whose proof was shown last.
    proven_as: Option<&'static str>,
    /// The client that an origin has pinned the connection to.
    pinned_to: Option<usize>,
    /// Whose tunnel was asked for last.
    pub asked_for: Option<usize>,
    /// The close ends the last answer.
    pub lasts_to_close: bool,
    /// Requests that were let in and answered.
    pub carried_out: Vec<Request>,
    pub wrong: Vec<String>,
    /// Answers at once where it might wait for the body.
    hasty: bool,
}

/// A request whose body is coming.
#[derive(Debug)]
struct Receiving {
    request: Request,
    body: Body,
    /// The answer, when so many bytes of the body have come; `None`: when all have.
    early: Option<u64>,
    answer: Vec<ProxyAction>,
    /// It comes to something.
    counts: bool,
}

/// What is around a desk.
pub struct Around<'a> {
    pub session: Option<&'a mut ProxySession>,
    pub surroundings: ProxyContext<'a>,
    pub callers: &'a [CallerPlan],
    /// The number of the first of them.
    pub first: usize,
    /// Every other client is of another identity than the rest.
    pub two_identities: bool,
}

impl Desk {
    pub fn new(hasty: bool) -> Desk {
        Desk { hasty, ..Desk::default() }
    }

    /// Nothing is asked and nothing is answered.
    pub fn is_quiet(&self) -> bool {
        self.receiving.is_none() && self.buffer.is_empty() && !self.carried_out.is_empty()
    }

    /// What came behind the last head that was looked at.
    pub fn has_leftover(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// All of the answer is out; `early` is what has come since.
    pub fn answered(&mut self, early: usize) {
        if std::mem::take(&mut self.answering) && self.receiving.is_none() && early + self.buffer.len() > 0 {
            self.wrong.push("a request came before the last one was answered".into());
        }
    }

    /// Takes in bytes and appends what is to be done about them.
    pub fn receive(&mut self, bytes: &[u8], mut around: Around<'_>, steps: &mut VecDeque<ProxyAction>) {
        self.buffer.extend_from_slice(bytes);
        loop {
            if self.receiving.is_some() {
                if !self.read_body(steps) {
                    return;
                }
            } else {
                let Some(head) = Head::take(&mut self.buffer, &mut self.seen) else { return };
                match head.word(0) {
                    "CONNECT" => self.connect(&head, &mut around, steps),
                    _ => self.request(&head, &mut around, steps),
                }
            }
        }
    }

    fn read_body(&mut self, steps: &mut VecDeque<ProxyAction>) -> bool {
        let Some(receiving) = &mut self.receiving else { return true };
        receiving.body.take(&mut self.buffer);
        let done = receiving.body.is_done();
        if done || receiving.early.is_some_and(|early| receiving.body.bytes >= early) {
            self.answering |= !receiving.answer.is_empty();
            steps.extend(receiving.answer.drain(..));
            if std::mem::take(&mut receiving.counts) {
                self.carried_out.push(receiving.request);
            }
        }
        if let Some(why) = receiving.body.wrong.take() {
            self.wrong.push(format!("request {}: {why}", receiving.request));
        }
        if done {
            self.receiving = None;
        }
        done
    }

    /// The session grants tunnels, or asks for a proof.
    fn connect(&mut self, head: &Head, around: &mut Around<'_>, steps: &mut VecDeque<ProxyAction>) {
        let port = head.word(1).rsplit_once(':').and_then(|(_, port)| port.parse::<usize>().ok());
        // Nobody's, if the gateway asks ahead.
        self.asked_for = port.and_then(|port| port.checked_sub(9_000));
        self.look_at_identity(head, self.asked_for, around);
        if self.pinned_to.is_some() {
            self.wrong.push("a tunnel on a connection that is somebody's own".into());
        }
        match &mut around.session {
            Some(session) => session.receive(&head.without(&[]), &around.surroundings, steps),
            None => self.wrong.push("an origin is asked for a tunnel".into()),
        }
    }

    fn request(&mut self, head: &Head, around: &mut Around<'_>, steps: &mut VecDeque<ProxyAction>) {
        // The gateway's own: to have a connection pre-challenged, or to tell policy from password.
        if let Some(session) = &mut around.session
            && head.get("x-tag").is_none()
            && head.word(1).splitn(4, '/').nth(3) == Some("")
        {
            return session.receive(&head.without(&[]), &around.surroundings, steps);
        }
        if is_confirmation(head) {
            return confirm(head, around, steps);
        }
        let Some((request, plan)) = identify(head, around) else {
            return self.wrong.push(format!("a request of nobody: {}", head.line));
        };
        self.look_at_identity(head, Some(request.caller), around);
        if let Err(why) = look_at(head, request, plan, around.session.is_none()) {
            self.wrong.push(format!("request {request}: {why}"));
        }
        let framing = head.framing(Framing::Nothing).unwrap_or(Framing::Nothing);
        let is_probe = is_probe(head, plan);
        let mut proof = VecDeque::new();
        if let Some(session) = &mut around.session {
            let bare = head.without(&["content-length", "transfer-encoding", "expect", "trailer"]);
            session.receive(&bare, &around.surroundings, &mut proof);
        }
        let admitted = around.session.is_none() || final_status(&proof) == Some(200);
        if admitted {
            self.look_at_pin(request, plan);
        }
        let waits_for_us = head.lists("expect", "100-continue");
        let stays = !proof.iter().any(|step| matches!(step, ProxyAction::Close));
        let (answer, early) = match admitted {
            false => (proof.into(), (self.hasty || waits_for_us).then_some(0)),
            true if is_probe => (answer_to_probe(stays), None),
            true => {
                if waits_for_us && plan.answer.invites && plan.answer.early != Some(0) {
                    steps.push_back(ProxyAction::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()));
                }
                self.lasts_to_close = plan.answer.framing_to(plan.method) == Framing::ToClose;
                (answer(request, plan, stays), plan.answer.early)
            }
        };
        if admitted && !is_probe && framing_differs(framing, plan.framing) {
            self.wrong.push(format!("request {request} is framed as {framing:?} and not as {:?}", plan.framing));
        }
        let body = Body::new(framing, base(request.caller, request.number, false), request.to_string());
        self.receiving = Some(Receiving { request, body, early, answer, counts: admitted && !is_probe });
    }

    /// A proof is for the client that it comes with, and so is all that comes behind it.
    fn look_at_identity(&mut self, head: &Head, client: Option<usize>, around: &Around<'_>) {
        let own = USERS[client.filter(|_| around.two_identities).unwrap_or(0) % 2];
        self.proven_as = head.get("proxy-authorization").and_then(shown_user).or(self.proven_as);
        if let Some(other) = self.proven_as.filter(|other| *other != own) {
            self.wrong.push(format!("client {client:?} is {own}, and goes by {other}: {}", head.line));
        }
    }

    fn look_at_pin(&mut self, request: Request, plan: &RequestPlan) {
        if self.pinned_to.is_some_and(|owner| owner != request.caller) {
            self.wrong.push(format!("request {request} on a connection that is another's own"));
        }
        if plan.pins {
            self.pinned_to = Some(request.caller);
        }
    }
}

/// Whose AUTHENTICATE_MESSAGE it is, if it is one.
fn shown_user(credentials: &str) -> Option<&'static str> {
    let token = crate::http::decode_token(credentials.split_once(' ')?.1).ok()?;
    let wide = |user: &str| user.bytes().flat_map(|letter| [letter, 0]).collect::<Vec<u8>>();
    let shows = |name: &[u8]| token.windows(name.len()).any(|window| window == name);
    USERS.into_iter().find(|user| shows(&wide(user)) || shows(user.as_bytes()) || shows(user.to_uppercase().as_bytes()))
}

/// Whose request it is.
fn identify<'a>(head: &Head, around: &Around<'a>) -> Option<(Request, &'a RequestPlan)> {
    let (caller, number) = head.word(1).rsplit_once("/to/")?.1.split_once('.')?;
    let request = Request { caller: caller.parse().ok()?, number: number.parse().ok()? };
    let callers: &'a [CallerPlan] = around.callers;
    let plan = callers.get(request.caller.checked_sub(around.first)?)?.requests.get(request.number)?;
    Some((request, plan))
}

/// The gateway's own, to confirm its secret: with nothing of a client's in it.
fn is_confirmation(head: &Head) -> bool {
    let is_root = head.word(1).strip_prefix("http://").is_some_and(|rest| rest.find('/') == Some(rest.len() - 1));
    let is_bare = ["x-tag", "authorization", "cookie", "via"].iter().all(|name| head.get(name).is_none());
    head.word(0) == "HEAD" && is_root && is_bare
}

fn confirm(head: &Head, around: &mut Around<'_>, steps: &mut VecDeque<ProxyAction>) {
    let Some(session) = &mut around.session else { return };
    let mut proof = VecDeque::new();
    session.receive(&head.without(&[]), &around.surroundings, &mut proof);
    match final_status(&proof) {
        Some(200) => steps.extend(answer_to_probe(false)),
        _ => steps.extend(proof),
    }
}

/// Fetches a challenge in the place of a HEAD, or of a request that has a body.
fn is_probe(head: &Head, plan: &RequestPlan) -> bool {
    let is_empty = || plan.has_body() && head.framing(Framing::Nothing) == Ok(Framing::Length(0));
    (plan.method == "HEAD" && head.word(0) == "GET") || is_empty()
}

/// No body and an empty one are the same.
fn framing_differs(one: Framing, other: Framing) -> bool {
    let plain = |framing| if framing == Framing::Length(0) { Framing::Nothing } else { framing };
    plain(one) != plain(other)
}

/// Whether a head says what its client said, and nothing that was for the gateway.
fn look_at(head: &Head, request: Request, plan: &RequestPlan, to_origin: bool) -> Result<(), String> {
    let must = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {head:?}")) };
    must(head.word(0) == plan.method || (!to_origin && is_probe(head, plan)), "another method")?;
    must(head.word(2) == "HTTP/1.1", "another version")?;
    must(head.get("x-tag") == Some(&request.to_string()), "another's field")?;
    must(head.get("x-hop").is_none() && head.get("te").is_none(), "a field of the client's connection")?;
    must(head.get("via").is_some_and(|via| via.ends_with("ntlm-gateway")), "no Via")?;
    must(plan.expects || head.get("expect").is_none(), "an expectation of nobody's")?;
    must(plan.pins == head.get("authorization").is_some(), "another's authorization")?;
    let port = 9_000 + request.caller;
    must(head.get("host").is_some_and(|host| host.ends_with(&format!(":{port}"))), "another's host")?;
    must(head.word(1).starts_with('/') == to_origin, "the other form of target")?;
    must(!to_origin || head.get("proxy-authorization").is_none(), "a proof for an origin")?;
    head.framing(Framing::Nothing).map(drop)
}

/// The final status among what a session has to say.
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

/// What nobody may be told: the request was not made yet.
fn answer_to_probe(stays: bool) -> Vec<ProxyAction> {
    let ending = if stays { "" } else { "Connection: close\r\n" };
    let head = format!("HTTP/1.1 200 OK\r\nX-Answer: to a probe\r\nContent-Length: 8\r\n{ending}\r\nnobody's");
    let mut steps = vec![ProxyAction::Send(head.into_bytes())];
    steps.extend((!stays).then_some(ProxyAction::Close));
    steps
}

/// The answer that is planned, as steps.
fn answer(request: Request, plan: &RequestPlan, stays: bool) -> Vec<ProxyAction> {
    let AnswerPlan { oddity, delay_us, .. } = plan.answer;
    let framing = plan.answer.framing_to(plan.method);
    let closes = plan.answer.closes || !stays || framing == Framing::ToClose;
    let head = answer_head(request, plan, closes);
    let trailer = (plan.answer.trailer && framing == Framing::Chunked).then(|| request.to_string());
    let bytes = if framing == Framing::Nothing { 0 } else { plan.answer.bytes };
    let content = base(request.caller, request.number, true);
    let mut bytes = [head.clone(), encode(framing, content, bytes, plan.answer.piece, trailer.as_deref())].concat();
    let mut steps = Vec::new();
    if delay_us > 0 {
        steps.push(ProxyAction::Wait(Duration::from_micros(delay_us)));
    }
    let mut ending = closes.then_some(ProxyAction::Close);
    match oddity {
        Some(AnswerOddity::Garbles(at)) => garble(&mut bytes, head.len(), at, framing),
        Some(AnswerOddity::Resets(after) | AnswerOddity::Closes(after) | AnswerOddity::Stalls(after))
            if after < bytes.len() as u64 =>
        {
            bytes.truncate(usize::try_from(after).unwrap());
            ending = match oddity {
                Some(AnswerOddity::Resets(_)) => Some(ProxyAction::Reset),
                Some(AnswerOddity::Closes(_)) if framing != Framing::ToClose || bytes.len() < head.len() => {
                    Some(ProxyAction::Close)
                }
                // Nobody could tell its early end from its end.
                Some(AnswerOddity::Closes(_)) => Some(ProxyAction::Reset),
                _ => Some(ProxyAction::Wait(Duration::from_secs(900))),
            };
        }
        _ => {}
    }
    for (place, piece) in bytes.chunks(plan.answer.breath.unwrap_or(usize::MAX)).enumerate() {
        if place > 0 {
            steps.push(ProxyAction::Wait(Duration::from_micros(2_000)));
        }
        steps.push(ProxyAction::Send(piece.to_vec()));
    }
    steps.extend(ending);
    steps
}

/// Breaks the syntax where that cannot be overlooked.
fn garble(bytes: &mut [u8], head: usize, at: u64, framing: Framing) {
    let at = usize::try_from(at).unwrap();
    if at < head {
        bytes[at] = 0;
    } else if framing == Framing::Chunked {
        bytes[head] = b'x';
    }
}

fn answer_head(request: Request, plan: &RequestPlan, closes: bool) -> Vec<u8> {
    let AnswerPlan { status, framing, http10, hints, .. } = plan.answer;
    let mut head = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n".repeat(hints);
    let version = if http10 { "HTTP/1.0" } else { "HTTP/1.1" };
    head += &format!("{version} {status} Whatever\r\nX-Answer: {request}\r\nX-Hop: 1\r\n");
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
