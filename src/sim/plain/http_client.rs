//! A plain HTTP client: sends its requests and records the answers.

use super::http_server::RequestId;
use super::message::{Body, Framing, Head, base, encode};
use super::plan::{HttpClientOddity, HttpClientPlan, RequestPlan};
use crate::sim::client::host;
use crate::sim::network::{End, Network};
use crate::sim::opening;
use crate::sim::scenario::{Entrance, Target};

/// How long it waits for a 100 before it sends the body anyway, in µs.
const CONTINUE_WAIT_US: u64 = 1_000_000;

/// A client that has connected.
#[derive(Debug)]
pub struct HttpClient {
    pub plan: HttpClientPlan,
    pub wire: usize,
    number: usize,
    since_us: u64,
    /// The request that is being written.
    pub writing: usize,
    out: Vec<u8>,
    out_head: usize,
    sent: usize,
    paused_until_us: u64,
    continue_at_us: Option<u64>,
    written: u64,
    buffer: Vec<u8>,
    /// How far the buffer has been searched for the end of a head.
    seen: usize,
    pub received: u64,
    /// The answers; the last one may be incomplete.
    pub answers: Vec<Answer>,
    /// How it has ended its direction.
    ended: Option<End>,
    closed: bool,
    pub saw_end: bool,
    pub saw_reset: bool,
    /// It has misbehaved, so the gateway owes it nothing more.
    pub misbehaved: bool,
    /// The listener was already closed.
    pub found_no_listener: bool,
    pub wrong: Vec<String>,
    entrance: Entrance,
    /// What it sends before its first request.
    proxy_header: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The tag of the request that it answers.
    pub tag: Option<String>,
    /// The gateway's fault that it reports.
    pub fault: Option<String>,
    /// The connection ends after it.
    pub closes: bool,
    pub body: Body,
    pub whole: bool,
}

impl HttpClient {
    /// Connects.
    pub fn connect(number: usize, plan: HttpClientPlan, entrance: Entrance, network: &mut Network) -> HttpClient {
        let (from, proxy_header) = opening::proxied(entrance, number, plan.from);
        let wire = network.client_connects(plan.traits, from);
        if entrance == Entrance::Transparent {
            opening::redirect(number, wire, plan.target, number % 2 == 1, network);
        }
        if let Some(HttpClientOddity::Resets(after_us) | HttpClientOddity::Closes(after_us)) = plan.oddity {
            network.wake_in(wire, after_us);
        }
        network.wake_in(wire, 0);
        HttpClient {
            found_no_listener: !network.wires[wire].held,
            wire,
            number,
            since_us: network.now_us,
            writing: 0,
            out: Vec::new(),
            out_head: 0,
            sent: 0,
            paused_until_us: 0,
            continue_at_us: None,
            written: 0,
            buffer: Vec::new(),
            seen: 0,
            received: 0,
            answers: Vec::new(),
            ended: None,
            closed: false,
            saw_end: false,
            saw_reset: false,
            misbehaved: false,
            wrong: Vec::new(),
            entrance,
            proxy_header,
            plan,
        }
    }

    /// The connection is over, at either side.
    pub fn is_done(&self) -> bool {
        self.closed || self.saw_reset
    }

    /// Does everything that is possible now.
    pub fn step(&mut self, network: &mut Network) {
        if self.is_done() || self.misbehaves(network) {
            return;
        }
        self.read(network);
        self.write(network);
        if self.is_done() {
            return;
        }
        let sent_everything = self.writing == self.plan.requests.len();
        if sent_everything && self.plan.half_closes && self.ended.is_none() {
            self.end(End::Fin, network);
        }
        if self.saw_end || (self.is_satisfied() && !self.plan.stays) {
            self.closed = true;
            network.peer_close(self.wire);
        }
    }

    /// It wants nothing more, or will get nothing more.
    fn is_satisfied(&self) -> bool {
        let whole = self.answers.last().is_some_and(|answer| answer.whole);
        whole && (self.answers.len() == self.plan.requests.len() || self.is_told_to_close())
    }

    /// An answer has said that the connection ends.
    fn is_told_to_close(&self) -> bool {
        self.answers.last().is_some_and(|answer| answer.closes)
    }

    fn misbehaves(&mut self, network: &mut Network) -> bool {
        let after_us = network.now_us - self.since_us;
        let end = match self.plan.oddity {
            Some(HttpClientOddity::Resets(at_us)) if after_us >= at_us => End::Reset,
            Some(HttpClientOddity::Closes(at_us)) if after_us >= at_us => End::Fin,
            Some(HttpClientOddity::ResetsAfterWriting(after)) if self.written >= after => End::Reset,
            Some(HttpClientOddity::ClosesAfterWriting(after)) if self.written >= after => End::Fin,
            Some(HttpClientOddity::ClosesAfterReading(after)) if self.received >= after => End::Fin,
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

    fn read(&mut self, network: &mut Network) {
        loop {
            if matches!(self.plan.oddity, Some(HttpClientOddity::StopsReading(after)) if self.received >= after) {
                self.misbehaved = true;
                network.shrink_buffers(self.wire);
                break;
            }
            let count = network.peer_read(self.wire, 1 << 16, &mut self.buffer);
            self.received += count as u64;
            if count == 0 {
                break;
            }
        }
        while self.parse_next(network) {}
        let wire = &network.wires[self.wire];
        self.saw_reset |= wire.inbox_reset && wire.inbox.is_empty();
        self.saw_end |= wire.inbox_ended && wire.inbox.is_empty() && !wire.inbox_reset;
        if self.saw_end
            && let Some(answer) = self.answers.last_mut()
        {
            answer.whole |= answer.body.end();
        }
    }

    /// Reads one head or a piece of a body; `false` when more bytes are needed.
    fn parse_next(&mut self, network: &mut Network) -> bool {
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
            self.pause_before(request + 1, network);
            return true;
        }
        let Some(head) = Head::take(&mut self.buffer, &mut self.seen) else { return false };
        let number = self.answers.len();
        let Some(plan) = self.plan.requests.get(number).filter(|_| !self.is_told_to_close()) else {
            self.wrong.push(format!("an answer without a request: {head:?}"));
            return false;
        };
        let status: u16 = head.word(1).parse().unwrap_or(0);
        if (100..200).contains(&status) {
            self.wrong.extend(interim_fault(status, plan, self.plan.http10));
            if status == 100 {
                self.continue_at_us = Some(network.now_us);
            }
            return true;
        }
        match self.answer(&head, status, number) {
            Ok(answer) => self.answers.push(answer),
            Err(why) => self.wrong.push(format!("the answer to request {number}: {why}: {head:?}")),
        }
        // Its body may have arrived already, or be empty.
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
            return Err("chunks for an HTTP/1.0 client".into());
        }
        if head.get("x-hop").is_some() {
            return Err("a hop-by-hop field of the upstream's".into());
        }
        let keeps = match self.plan.http10 {
            true => head.lists("connection", "keep-alive"),
            false => !head.lists("connection", "close"),
        };
        let closes = !keeps || framing == Framing::ToClose;
        let sent_everything = self.writing > number;
        if !closes && !sent_everything {
            return Err("the connection stays open although the request is incomplete".into());
        }
        // Error pages do not carry the pattern.
        let whose = RequestId { client: self.number, number }.to_string();
        let mut body = Body::new(framing, base(self.number, number, true), whose);
        body.any_content = tag.is_none();
        Ok(Answer { status, tag, fault, closes, body, whole: false })
    }

    /// Pauses before the next request.
    fn pause_before(&mut self, next: usize, network: &mut Network) {
        let Some(plan) = self.plan.requests.get(next).filter(|_| !self.plan.pipelines) else { return };
        self.paused_until_us = network.now_us + plan.pause_us;
        network.wake_in(self.wire, plan.pause_us);
    }

    fn write(&mut self, network: &mut Network) {
        while self.ended.is_none() && !self.is_told_to_close() && network.now_us >= self.paused_until_us {
            let Some(plan) = self.plan.requests.get(self.writing) else { return };
            if self.out.is_empty() {
                let answered = self.answers.iter().filter(|answer| answer.whole).count();
                if answered < self.writing && !self.plan.pipelines {
                    return;
                }
                let (request, head) = encode_request(self.number, &self.plan, self.writing, self.entrance);
                let before = std::mem::take(&mut self.proxy_header);
                (self.out, self.out_head) = ([&before[..], &request].concat(), before.len() + head);
                self.continue_at_us = None;
            }
            let mut limit = self.out.len();
            if plan.expects_continue && self.continue_at_us.is_none_or(|at_us| network.now_us < at_us) {
                limit = self.out_head;
            }
            if let Some(
                HttpClientOddity::StopsWriting(after)
                | HttpClientOddity::ResetsAfterWriting(after)
                | HttpClientOddity::ClosesAfterWriting(after),
            ) = self.plan.oddity
            {
                let left = usize::try_from(after.saturating_sub(self.written)).unwrap();
                limit = limit.min(self.sent + left);
                self.misbehaved |= left == 0;
            }
            let most = (limit - self.sent).min(plan.piece.max(1));
            let count = network.peer_write(self.wire, &self.out[self.sent..self.sent + most]);
            if count == 0 {
                self.misbehaves(network);
                return;
            }
            self.wrote(count, network);
        }
    }

    fn wrote(&mut self, count: usize, network: &mut Network) {
        let plan = &self.plan.requests[self.writing];
        (self.sent, self.written) = (self.sent + count, self.written + count as u64);
        if self.sent == self.out_head && plan.expects_continue && self.continue_at_us.is_none() {
            self.continue_at_us = Some(network.now_us + CONTINUE_WAIT_US);
            network.wake_in(self.wire, CONTINUE_WAIT_US);
        }
        if plan.piece_pause_us > 0 {
            self.paused_until_us = network.now_us + plan.piece_pause_us;
            network.wake_in(self.wire, plan.piece_pause_us);
        }
        if self.sent == self.out.len() {
            (self.sent, self.writing) = (0, self.writing + 1);
            self.out.clear();
        }
    }
}

/// What is wrong with an interim answer, if anything.
fn interim_fault(status: u16, plan: &RequestPlan, http10: bool) -> Option<String> {
    match status {
        _ if http10 => Some(format!("{status} for an HTTP/1.0 client")),
        100 if !plan.expects_continue => Some("100 for a client that did not ask for it".into()),
        100 | 102 | 103 => None,
        _ => Some(format!("an unexpected interim answer: {status}")),
    }
}

/// The request in bytes, and the length of its head.
fn encode_request(client: usize, plan: &HttpClientPlan, number: usize, entrance: Entrance) -> (Vec<u8>, usize) {
    let request = &plan.requests[number];
    let tag = RequestId { client, number };
    let authority = format!("{}:{}", plain_host(client, plan.target), 9_000 + client);
    let version = if plan.http10 { "HTTP/1.0" } else { "HTTP/1.1" };
    // To its origin, as far as it knows, or to a proxy.
    let proxy_form = if entrance == Entrance::Transparent { String::new() } else { format!("http://{authority}") };
    let mut head = format!(
        "{} {proxy_form}/to/{tag} {version}\r\nHost: {authority}\r\nX-Tag: {tag}\r\nX-Hop: 1\r\n",
        request.method
    );
    if request.filler > 0 {
        head += &format!("X-Filler: {}\r\n", "f".repeat(request.filler));
    }
    if request.pins_connection {
        head += "Authorization: NTLM TlRMTVNTUAADAAAA\r\n";
    }
    if request.expects_continue {
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
    let content = base(client, number, false);
    out.extend(encode(request.framing, content, request.bytes, request.piece, trailer.as_deref()));
    (out, length)
}

/// The host that a client asks for: the only one of the stub's origins that answers plain requests.
fn plain_host(number: usize, target: Target) -> String {
    host(number, target).replace("silent.", "hello.")
}
