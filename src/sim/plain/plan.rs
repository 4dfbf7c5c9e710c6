//! What a seed decides of requests and their answers.

use std::net::SocketAddr;

use super::message::Framing;
use crate::sim::network::Traits;
use crate::sim::rng::Rng;
use crate::sim::scenario::{Target, bearable, magnitude, target, traits};

/// One client.
#[derive(Clone, Debug)]
pub struct CallerPlan {
    pub from: SocketAddr,
    pub comes_at_us: u64,
    pub traits: Traits,
    pub target: Target,
    /// It speaks HTTP/1.0, and may ask for its connection to be kept.
    pub http10: bool,
    /// It does not wait for an answer before it sends the next request.
    pub pipelines: bool,
    /// It ends its direction behind its last request.
    pub half_closes: bool,
    /// It leaves it to the gateway to close.
    pub stays: bool,
    pub requests: Vec<RequestPlan>,
    pub oddity: Option<CallerOddity>,
}

/// What a client does that it should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerOddity {
    /// Resets its connection after so many µs, or closes it.
    Resets(u64),
    Closes(u64),
    /// Resets its connection when so many bytes are written, or closes it.
    ResetsBehind(u64),
    ClosesBehind(u64),
    /// Closes it when so many bytes have come.
    HasEnough(u64),
    /// Reads nothing after that many bytes.
    GoesDeaf(u64),
    /// Writes nothing after that many bytes.
    FallsSilent(u64),
}

/// One request.
#[derive(Clone, Debug)]
pub struct RequestPlan {
    pub method: &'static str,
    pub framing: Framing,
    pub bytes: usize,
    /// Written in pieces of so many bytes, each so many µs behind the last.
    pub piece: usize,
    pub rest_us: u64,
    /// The client waits to be told to go on.
    pub expects: bool,
    pub closes: bool,
    /// Bytes of a field that makes its head longer.
    pub filler: usize,
    pub thinks_us: u64,
    /// It proves itself to its origin by a scheme that proves a connection.
    pub pins: bool,
    pub answer: AnswerPlan,
}

/// The answer to it.
#[derive(Clone, Debug)]
pub struct AnswerPlan {
    pub status: u16,
    pub framing: Framing,
    pub bytes: usize,
    pub piece: usize,
    /// There is a pause behind each so many bytes of it.
    pub breath: Option<usize>,
    pub trailer: bool,
    /// Interim answers before it.
    pub hints: usize,
    /// It tells a client that waits to go on.
    pub invites: bool,
    /// It comes when so much of the request's body has.
    pub early: Option<u64>,
    pub closes: bool,
    pub http10: bool,
    pub delay_us: u64,
    pub oddity: Option<AnswerOddity>,
}

/// What goes wrong with it, when so many of its bytes are out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerOddity {
    Resets(u64),
    Closes(u64),
    Stalls(u64),
    /// Some byte there is another than it should be, in the head or in the framing.
    Garbles(u64),
}

impl RequestPlan {
    /// It may be made again on another connection, however far it has come.
    pub fn is_repeatable(&self) -> bool {
        !matches!(self.method, "POST" | "PUT")
    }

    pub fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::Nothing | Framing::Length(0))
    }
}

impl AnswerPlan {
    /// How its body is framed, if the request was of this method.
    pub fn framing_to(&self, method: &str) -> Framing {
        if method == "HEAD" || matches!(self.status, 204 | 304) { Framing::Nothing } else { self.framing }
    }
}

/// Who comes; `first` is the number of the first.
pub fn callers(rng: &mut Rng, strict: bool, bulky: bool, ways: &[Traits], first: usize, soon: bool) -> Vec<CallerPlan> {
    (0..rng.size(1..=3))
        .map(|place| {
            let traits = traits(rng, bulky);
            let most = ways.iter().chain([&traits]).map(bearable).min().unwrap_or(1);
            let http10 = rng.once_in(8);
            let count = rng.size(1..=5);
            // Only what is large is spliced.
            let cap = if bulky { 600_000 } else { rng.pick(&[150_000, 3_000, 3_000, 3_000, 3_000]) };
            let most = (most / count).min(cap).max(1);
            let requests = (0..count).map(|_| request(rng, strict, http10, most)).collect();
            let port = 40_000 + u16::try_from(first + place).unwrap();
            let pipelines = !http10 && rng.once_in(4);
            let latest_us = if soon || rng.once_in(2) { 2_000 } else { 600_000 };
            CallerPlan {
                from: SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), port),
                comes_at_us: rng.within(0..=latest_us),
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

fn oddity(rng: &mut Rng, most: u64) -> CallerOddity {
    let (after_us, after) = (rng.within(0..=200_000), rng.within(0..=2 * most + 600));
    rng.pick(&[
        CallerOddity::Resets(after_us),
        CallerOddity::Closes(after_us),
        CallerOddity::ResetsBehind(after),
        CallerOddity::ClosesBehind(after),
        CallerOddity::HasEnough(after),
        CallerOddity::GoesDeaf(after),
        CallerOddity::FallsSilent(after),
    ])
}

/// Bytes of a body: of any magnitude, but mostly a large one where that can be.
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
    let expects = !http10 && bytes > 0 && rng.once_in(5);
    let longest_us = if rng.once_in(6) { 12_000_000 } else { 100_000 };
    RequestPlan {
        method,
        framing,
        bytes,
        piece: magnitude(rng, bytes.max(400)).max(bytes / 40 + 12),
        rest_us: if rng.once_in(2) { 0 } else { rng.within(0..=10_000) },
        expects,
        closes: rng.once_in(12),
        filler: if rng.once_in(6) { rng.size(0..=most.min(3_000)) } else { 0 },
        thinks_us: if rng.once_in(2) { 0 } else { rng.within(0..=longest_us) },
        pins: rng.once_in(25),
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
        let kinds = [AnswerOddity::Resets, AnswerOddity::Closes, AnswerOddity::Stalls, AnswerOddity::Garbles];
        rng.pick(&kinds)(after)
    });
    AnswerPlan {
        status,
        framing,
        bytes,
        piece: magnitude(rng, bytes.max(1)).max(bytes / 40 + 1),
        breath: rng.once_in(3).then(|| magnitude(rng, bytes.max(200)).max(bytes / 8 + 60)),
        trailer: rng.once_in(3),
        hints: if rng.once_in(8) { rng.size(1..=2) } else { 0 },
        invites: !rng.once_in(5),
        early: (body > 0 && rng.once_in(6)).then(|| rng.within(0..=body - 1)),
        closes: rng.once_in(8),
        http10,
        delay_us: if rng.once_in(2) { 0 } else { rng.within(0..=30_000) },
        oddity: odd,
    }
}
