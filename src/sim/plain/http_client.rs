//! A client that speaks plain HTTP: asks one thing after the other and remembers what it was told.

use super::http_server::Request;
use super::message::{Body, Framing, Head, base, encode};
use super::plan::{CallerOddity, CallerPlan, RequestPlan};
use crate::sim::client::host;
use crate::sim::network::{End, Network};
use crate::sim::scenario::Target;

/// How long it waits to be told to go on, in µs.
const INVITATION_US: u64 = 1_000_000;

/// A client that has come.
#[derive(Debug)]
pub struct Caller {
    pub plan: CallerPlan,
    pub wire: usize,
    number: usize,
    since_us: u64,
    /// The request that is being written, and how far.
    pub writing: usize,
    out: Vec<u8>,
    out_head: usize,
    sent: usize,
    rests_until_us: u64,
    invited_at_us: Option<u64>,
    written: u64,
    buffer: Vec<u8>,
    /// As much of it holds no end of a head.
    seen: usize,
    pub received: u64,
    /// Answers, the last of which may not be whole.
    pub answers: Vec<Answer>,
    /// How it has ended its direction.
    ended: Option<End>,
    closed: bool,
    pub heard_end: bool,
    pub heard_reset: bool,
    /// It has done something that excuses whatever follows.
    pub misbehaved: bool,
    /// Nobody listened any more when it came.
    pub is_late: bool,
    pub wrong: Vec<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Whose answer it is.
    pub tag: Option<String>,
    /// The fault that it tells of.
    pub fault: Option<String>,
    /// The connection ends behind it.
    pub closes: bool,
    pub body: Body,
    pub whole: bool,
}

impl Caller {
    /// A client that has just connected.
    pub fn come(number: usize, plan: CallerPlan, network: &mut Network) -> Caller {
        let wire = network.come(plan.traits, plan.from);
        if let Some(CallerOddity::Resets(after_us) | CallerOddity::Closes(after_us)) = plan.oddity {
            network.wake_in(wire, after_us);
        }
        network.wake_in(wire, 0);
        Caller {
            is_late: !network.wires[wire].held,
            wire,
            number,
            since_us: network.now_us,
            writing: 0,
            out: Vec::new(),
            out_head: 0,
            sent: 0,
            rests_until_us: 0,
            invited_at_us: None,
            written: 0,
            buffer: Vec::new(),
            seen: 0,
            received: 0,
            answers: Vec::new(),
            ended: None,
            closed: false,
            heard_end: false,
            heard_reset: false,
            misbehaved: false,
            wrong: Vec::new(),
            plan,
        }
    }

    /// It has seen the end, or has made one.
    pub fn is_done(&self) -> bool {
        self.closed || self.heard_reset
    }

    /// Does what can be done now.
    pub fn step(&mut self, network: &mut Network) {
        if self.is_done() || self.misbehaves(network) {
            return;
        }
        self.hear(network);
        self.write(network);
        if self.is_done() {
            return;
        }
        let wrote_all = self.writing == self.plan.requests.len();
        if wrote_all && self.plan.half_closes && self.ended.is_none() {
            self.end(End::Fin, network);
        }
        if self.heard_end || (self.is_satisfied() && !self.plan.stays) {
            self.closed = true;
            network.peer_close(self.wire);
        }
    }

    /// It wants nothing more, or will get nothing more.
    fn is_satisfied(&self) -> bool {
        let whole = self.answers.last().is_some_and(|answer| answer.whole);
        whole && (self.answers.len() == self.plan.requests.len() || self.is_told_off())
    }

    /// It was told that its connection ends.
    fn is_told_off(&self) -> bool {
        self.answers.last().is_some_and(|answer| answer.closes)
    }

    fn misbehaves(&mut self, network: &mut Network) -> bool {
        let after_us = network.now_us - self.since_us;
        let end = match self.plan.oddity {
            Some(CallerOddity::Resets(at_us)) if after_us >= at_us => End::Reset,
            Some(CallerOddity::Closes(at_us)) if after_us >= at_us => End::Fin,
            Some(CallerOddity::ResetsBehind(after)) if self.written >= after => End::Reset,
            Some(CallerOddity::ClosesBehind(after)) if self.written >= after => End::Fin,
            Some(CallerOddity::HasEnough(after)) if self.received >= after => End::Fin,
            _ => return false,
        };
        self.misbehaved = true;
        self.closed = true;
        if end == End::Reset {
            self.end(end, network);
        } else {
            network.peer_close(self.wire);
        }
        true
    }

    fn end(&mut self, end: End, network: &mut Network) {
        self.ended = Some(end);
        network.peer_end(self.wire, end);
    }

    fn hear(&mut self, network: &mut Network) {
        loop {
            if matches!(self.plan.oddity, Some(CallerOddity::GoesDeaf(after)) if self.received >= after) {
                self.misbehaved = true;
                network.narrow(self.wire);
                break;
            }
            let count = network.peer_read(self.wire, 1 << 16, &mut self.buffer);
            self.received += count as u64;
            if count == 0 {
                break;
            }
        }
        while self.understand(network) {}
        let wire = &network.wires[self.wire];
        self.heard_reset |= wire.inbox_reset && wire.inbox.is_empty();
        self.heard_end |= wire.inbox_ended && wire.inbox.is_empty() && !wire.inbox_reset;
        if self.heard_end
            && let Some(answer) = self.answers.last_mut()
        {
            answer.whole |= answer.body.end();
        }
    }

    /// One head, or one piece of a body; `false` when more must come.
    fn understand(&mut self, network: &mut Network) -> bool {
        if let Some(answer) = self.answers.last_mut().filter(|answer| !answer.whole) {
            answer.body.take(&mut self.buffer);
            if let Some(why) = answer.body.wrong.take() {
                self.wrong.push(why);
            }
            answer.whole = answer.body.is_done();
            if !answer.whole {
                return false;
            }
            let (status, request) = (answer.status, self.answers.len() - 1);
            network.trace.note(network.now_us, "answered", self.wire, usize::from(status));
            self.think(request + 1, network);
            return true;
        }
        let Some(head) = Head::take(&mut self.buffer, &mut self.seen) else { return false };
        let number = self.answers.len();
        let Some(plan) = self.plan.requests.get(number).filter(|_| !self.is_told_off()) else {
            self.wrong.push(format!("an answer that was not asked for: {head:?}"));
            return false;
        };
        let status: u16 = head.word(1).parse().unwrap_or(0);
        if (100..200).contains(&status) {
            self.wrong.extend(interim_fault(status, plan, self.plan.http10));
            if status == 100 {
                self.invited_at_us = Some(network.now_us);
            }
            return true;
        }
        match self.answer(&head, status, number) {
            Ok(answer) => self.answers.push(answer),
            Err(why) => self.wrong.push(format!("the answer to request {number}: {why}: {head:?}")),
        }
        // Its body may be there, or it may have none.
        !self.answers.is_empty()
    }

    fn answer(&self, head: &Head, status: u16, number: usize) -> Result<Answer, String> {
        let plan = &self.plan.requests[number];
        let tag = head.get("x-answer").map(str::to_owned);
        let fault =
            head.get("proxy-status").and_then(|value| value.split_once("error=")).map(|(_, error)| error.into());
        let bodiless = plan.method == "HEAD" || matches!(status, 204 | 304);
        let said = head.framing(Framing::ToClose)?;
        let framing = if bodiless { Framing::Nothing } else { said };
        if framing == Framing::Chunked && self.plan.http10 {
            return Err("chunks for a client that knows none".into());
        }
        if head.get("x-hop").is_some() {
            return Err("a field of the upstream's connection".into());
        }
        let keeps = match self.plan.http10 {
            true => head.lists("connection", "keep-alive"),
            false => !head.lists("connection", "close"),
        };
        let closes = !keeps || framing == Framing::ToClose;
        let wrote_all = self.writing > number;
        if !closes && !wrote_all {
            return Err("the connection is to go on, and the request has not come whole".into());
        }
        // A page of the gateway's or of the upstream's own is no pattern.
        let whose = Request { caller: self.number, number }.to_string();
        let mut body = Body::new(framing, base(self.number, number, true), whose);
        body.any = tag.is_none();
        Ok(Answer { status, tag, fault, closes, body, whole: false })
    }

    /// Before the next request there is a pause.
    fn think(&mut self, next: usize, network: &mut Network) {
        let Some(plan) = self.plan.requests.get(next).filter(|_| !self.plan.pipelines) else { return };
        self.rests_until_us = network.now_us + plan.thinks_us;
        network.wake_in(self.wire, plan.thinks_us);
    }

    fn write(&mut self, network: &mut Network) {
        while self.ended.is_none() && !self.is_told_off() && network.now_us >= self.rests_until_us {
            let Some(plan) = self.plan.requests.get(self.writing) else { return };
            if self.out.is_empty() {
                let answered = self.answers.iter().filter(|answer| answer.whole).count();
                if answered < self.writing && !self.plan.pipelines {
                    return;
                }
                (self.out, self.out_head) = write_down(self.number, &self.plan, self.writing);
                self.invited_at_us = None;
            }
            let mut limit = self.out.len();
            if plan.expects && self.invited_at_us.is_none_or(|at_us| network.now_us < at_us) {
                limit = self.out_head;
            }
            if let Some(
                CallerOddity::FallsSilent(after)
                | CallerOddity::ResetsBehind(after)
                | CallerOddity::ClosesBehind(after),
            ) = self.plan.oddity
            {
                let left = usize::try_from(after.saturating_sub(self.written)).unwrap();
                limit = limit.min(self.sent + left);
                self.misbehaved |= left == 0;
            }
            let most = (limit - self.sent).min(plan.piece.max(1));
            let count = network.peer_write(self.wire, &self.out[self.sent..self.sent + most]);
            if count == 0 {
                return self.misbehave_late(network);
            }
            self.wrote(count, network);
        }
    }

    fn wrote(&mut self, count: usize, network: &mut Network) {
        let plan = &self.plan.requests[self.writing];
        (self.sent, self.written) = (self.sent + count, self.written + count as u64);
        if self.sent == self.out_head && plan.expects && self.invited_at_us.is_none() {
            self.invited_at_us = Some(network.now_us + INVITATION_US);
            network.wake_in(self.wire, INVITATION_US);
        }
        if plan.rest_us > 0 {
            self.rests_until_us = network.now_us + plan.rest_us;
            network.wake_in(self.wire, plan.rest_us);
        }
        if self.sent == self.out.len() {
            (self.sent, self.writing) = (0, self.writing + 1);
            self.out.clear();
        }
    }

    fn misbehave_late(&mut self, network: &mut Network) {
        self.misbehaves(network);
    }
}

/// What is wrong with an interim answer, if anything is.
fn interim_fault(status: u16, plan: &RequestPlan, http10: bool) -> Option<String> {
    match status {
        _ if http10 => Some(format!("{status} for a client that knows of none")),
        100 if !plan.expects => Some("100 for a client that does not wait for it".into()),
        100 | 102 | 103 => None,
        _ => Some(format!("an interim answer of {status}")),
    }
}

/// A request as it is written, and the length of its head.
fn write_down(caller: usize, plan: &CallerPlan, number: usize) -> (Vec<u8>, usize) {
    let request = &plan.requests[number];
    let tag = Request { caller, number };
    let authority = format!("{}:{}", plain_host(caller, plan.target), 9_000 + caller);
    let version = if plan.http10 { "HTTP/1.0" } else { "HTTP/1.1" };
    let mut head = format!(
        "{} http://{authority}/to/{tag} {version}\r\nHost: {authority}\r\nX-Tag: {tag}\r\nX-Hop: 1\r\n",
        request.method
    );
    if request.filler > 0 {
        head += &format!("X-Filler: {}\r\n", "f".repeat(request.filler));
    }
    if request.pins {
        head += "Authorization: NTLM TlRMTVNTUAADAAAA\r\n";
    }
    if request.expects {
        head += "Expect: 100-continue\r\n";
    }
    match request.framing {
        Framing::Length(length) => head += &format!("Content-Length: {length}\r\n"),
        Framing::Chunked => head += "Transfer-Encoding: chunked\r\nTrailer: X-Trail\r\n",
        Framing::Nothing | Framing::ToClose => {}
    }
    head += match (request.closes, plan.http10) {
        (true, _) => "Connection: close, X-Hop, TE\r\nTE: trailers\r\n",
        (false, true) => "Connection: keep-alive, X-Hop\r\n",
        (false, false) => "Connection: X-Hop\r\n",
    };
    let mut out = (head + "\r\n").into_bytes();
    let length = out.len();
    let trailer = (number % 2 == 1).then(|| tag.to_string());
    let content = base(caller, number, false);
    out.extend(encode(request.framing, content, request.bytes, request.piece, trailer.as_deref()));
    (out, length)
}

/// The host that a client asks for. The session knows its upstream's origins by name, and has something to say only as this one.
fn plain_host(number: usize, target: Target) -> String {
    host(number, target).replace("silent.", "hello.")
}
