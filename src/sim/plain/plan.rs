//! What a seed decides about plain HTTP requests and their answers.

use std::net::SocketAddr;

use super::message::Framing;
use crate::sim::network::Traits;
use crate::sim::rng::Rng;
use crate::sim::scenario::{Target, bearable, magnitude, target, traits};

/// One client.
#[derive(Clone, Debug)]
pub struct HttpClientPlan {
    pub from: SocketAddr,
    pub arrives_at_us: u64,
    pub traits: Traits,
    pub target: Target,
    /// It speaks HTTP/1.0, and may ask to keep its connection open.
    pub http10: bool,
    /// It sends the next request without waiting for an answer.
    pub pipelines: bool,
    /// It closes its sending direction after its last request.
    pub half_closes: bool,
    /// It lets the gateway close the connection.
    pub stays: bool,
    pub requests: Vec<RequestPlan>,
    pub oddity: Option<HttpClientOddity>,
}

/// How a client misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpClientOddity {
    /// Resets or closes its connection after this many µs.
    Resets(u64),
    Closes(u64),
    /// Resets or closes its connection after writing this many bytes.
    ResetsAfterWriting(u64),
    ClosesAfterWriting(u64),
    /// Closes it after reading this many bytes.
    ClosesAfterReading(u64),
    /// Stops reading after this many bytes.
    StopsReading(u64),
    /// Stops writing after this many bytes.
    StopsWriting(u64),
}

/// One request.
#[derive(Clone, Debug)]
pub struct RequestPlan {
    pub method: &'static str,
    pub framing: Framing,
    pub bytes: usize,
    /// Written in pieces of `piece` bytes, with a pause of `piece_pause_us` between them.
    pub piece: usize,
    pub piece_pause_us: u64,
    /// The client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    pub closes: bool,
    /// Length of a filler field that makes the head longer.
    pub filler: usize,
    pub pause_us: u64,
    /// The client authenticates to its origin with a connection-bound scheme.
    pub pins_connection: bool,
    pub answer: AnswerPlan,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct AnswerPlan {
    pub status: u16,
    pub framing: Framing,
    pub bytes: usize,
    pub piece: usize,
    /// Bytes between two pauses; `None`: no pauses.
    pub pause_every: Option<usize>,
    pub trailer: bool,
    /// Interim answers before it.
    pub interim_answers: usize,
    /// A client that waits for a 100 gets one.
    pub sends_100: bool,
    /// Answer once this many bytes of the request's body have arrived.
    pub early: Option<u64>,
    pub closes: bool,
    pub http10: bool,
    pub delay_us: u64,
    pub oddity: Option<AnswerOddity>,
}

/// How the answer goes wrong, after this many bytes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerOddity {
    Resets(u64),
    Closes(u64),
    Stalls(u64),
    /// Corrupts a byte of the head or of the framing.
    Corrupts(u64),
}

impl RequestPlan {
    /// It may be repeated on another connection, however far it has got.
    pub fn is_repeatable(&self) -> bool {
        !matches!(self.method, "POST" | "PUT")
    }

    pub fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::Nothing | Framing::Length(0))
    }
}

impl AnswerPlan {
    /// How the body is framed in reply to this method.
    pub fn framing_to(&self, method: &str) -> Framing {
        if method == "HEAD" || matches!(self.status, 204 | 304) { Framing::Nothing } else { self.framing }
    }
}

/// Plans the clients; `first` is the number of the first one.
pub fn http_clients(
    rng: &mut Rng,
    strict: bool,
    bulky: bool,
    connections: &[Traits],
    first: usize,
    arrive_early: bool,
) -> Vec<HttpClientPlan> {
    (0..rng.size(1..=3))
        .map(|place| {
            let traits = traits(rng, bulky);
            let most = connections.iter().chain([&traits]).map(bearable).min().unwrap_or(1);
            let http10 = rng.once_in(8);
            let count = rng.size(1..=5);
            // Only large bodies are spliced.
            let cap = if bulky { 600_000 } else { rng.pick(&[150_000, 3_000, 3_000, 3_000, 3_000]) };
            let most = (most / count).min(cap).max(1);
            let requests = (0..count).map(|_| request(rng, strict, http10, most)).collect();
            let port = 40_000 + u16::try_from(first + place).unwrap();
            let pipelines = !http10 && rng.once_in(4);
            let latest_us = if arrive_early || rng.once_in(2) { 2_000 } else { 600_000 };
            HttpClientPlan {
                from: SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), port),
                arrives_at_us: rng.within(0..=latest_us),
                traits,
                target: target(rng, strict),
                http10,
                pipelines,
                half_closes: rng.once_in(6),
                stays: rng.once_in(2),
                requests,
                oddity: (!strict && rng.once_in(4)).then(|| oddity(rng, most as u64)),
            }
        })
        .collect()
}

fn oddity(rng: &mut Rng, most: u64) -> HttpClientOddity {
    let (after_us, after) = (rng.within(0..=200_000), rng.within(0..=2 * most + 600));
    rng.pick(&[
        HttpClientOddity::Resets(after_us),
        HttpClientOddity::Closes(after_us),
        HttpClientOddity::ResetsAfterWriting(after),
        HttpClientOddity::ClosesAfterWriting(after),
        HttpClientOddity::ClosesAfterReading(after),
        HttpClientOddity::StopsReading(after),
        HttpClientOddity::StopsWriting(after),
    ])
}

/// A body's length: of any magnitude, but usually large if `most` is large.
fn amount(rng: &mut Rng, most: usize) -> usize {
    if most > 200_000 && !rng.once_in(3) { rng.size(most / 3..=most) } else { magnitude(rng, most) }
}

fn request(rng: &mut Rng, strict: bool, http10: bool, most: usize) -> RequestPlan {
    let method = rng.pick(&["GET", "GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE"]);
    let with_body = matches!(method, "POST" | "PUT");
    let bytes = if with_body && !rng.once_in(8) { amount(rng, most) } else { 0 };
    let framing = match with_body {
        false => Framing::Nothing,
        true if !http10 && rng.once_in(2) => Framing::Chunked,
        true => Framing::Length(bytes as u64),
    };
    let expects_continue = !http10 && bytes > 0 && rng.once_in(5);
    let longest_us = if rng.once_in(6) { 12_000_000 } else { 100_000 };
    RequestPlan {
        method,
        framing,
        bytes,
        piece: magnitude(rng, bytes.max(400)).max(bytes / 40 + 12),
        piece_pause_us: if rng.once_in(2) { 0 } else { rng.within(0..=10_000) },
        expects_continue,
        closes: rng.once_in(12),
        filler: if rng.once_in(6) { rng.size(0..=most.min(3_000)) } else { 0 },
        pause_us: if rng.once_in(2) { 0 } else { rng.within(0..=longest_us) },
        pins_connection: rng.once_in(25),
        answer: answer(rng, strict, bytes as u64, most),
    }
}

fn answer(rng: &mut Rng, strict: bool, body: u64, most: usize) -> AnswerPlan {
    let status = rng.pick(&[200, 200, 200, 200, 204, 304, 404, 500]);
    let bytes = if rng.once_in(6) || matches!(status, 204 | 304) { 0 } else { amount(rng, most) };
    let http10 = rng.once_in(10);
    let framing = match rng.within(0..=5) {
        _ if matches!(status, 204 | 304) => Framing::Nothing,
        0 => Framing::ToClose,
        1 | 2 if !http10 => Framing::Chunked,
        _ => Framing::Length(bytes as u64),
    };
    let odd = (!strict && rng.once_in(6)).then(|| {
        let after = rng.within(0..=bytes as u64 + 150);
        let kinds = [AnswerOddity::Resets, AnswerOddity::Closes, AnswerOddity::Stalls, AnswerOddity::Corrupts];
        rng.pick(&kinds)(after)
    });
    AnswerPlan {
        status,
        framing,
        bytes,
        piece: magnitude(rng, bytes.max(1)).max(bytes / 40 + 1),
        pause_every: rng.once_in(3).then(|| magnitude(rng, bytes.max(200)).max(bytes / 8 + 60)),
        trailer: rng.once_in(3),
        interim_answers: if rng.once_in(8) { rng.size(1..=2) } else { 0 },
        sends_100: !rng.once_in(5),
        early: (body > 0 && rng.once_in(6)).then(|| rng.within(0..=body - 1)),
        closes: rng.once_in(8),
        http10,
        delay_us: if rng.once_in(2) { 0 } else { rng.within(0..=30_000) },
        oddity: odd,
    }
}
