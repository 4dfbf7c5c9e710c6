//! Drives one socket: feeds the session, carries out its steps, then plays the tunnel's end.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::answer::Step;
use super::counters::Counters;
use super::personality::Personality;
use super::session::{Session, Surroundings};
use super::tunnel::{TURN_BYTES, Tunnel, Turn};
use crate::event::{Endpoint, Readiness, Stream};

/// Between two bytes of a trickle: the least time that makes them arrive apart.
const TRICKLE_PAUSE: Duration = Duration::from_millis(1);

/// How long what the client still sends is read past after the stub has ended its direction. A close on unread bytes
/// would become a reset and destroy the answer on its way.
const LINGER: Duration = Duration::from_secs(2);

/// What is to be done about a connection next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for an event.
    Event,
    /// Wait for an event, but not beyond this moment.
    Until(Instant),
    /// More work now; no event will tell.
    Again,
    /// Drop it.
    Drop,
}

/// What a turn is given.
pub(super) struct Context<'a> {
    pub around: Surroundings<'a>,
    pub now: Instant,
    pub scratch: &'a mut [u8],
}

/// One client's connection.
pub(super) struct Connection {
    endpoint: Endpoint,
    stage: Stage,
    /// It is dropped at this moment, whatever it is doing.
    ends_at: Option<Instant>,
}

enum Stage {
    Proxy(Box<Proxying>),
    Tunnel(Box<Tunnel>),
    /// The own direction has ended.
    Lingering {
        until: Instant,
    },
}

struct Proxying {
    session: Session,
    steps: VecDeque<Step>,
    /// How much of the first step was carried out, in bytes.
    sent: usize,
    /// When the first step's pause is over, if it has begun.
    resume_at: Option<Instant>,
    heard_at: Instant,
}

/// What came of trying to carry out steps.
enum Carried {
    /// All of them are done.
    All,
    /// The socket takes no more now.
    Blocked,
    /// There was enough for one turn.
    Yielded,
    Paused(Instant),
    /// The stage has changed.
    Moved(Stage),
    Reset,
}

impl Connection {
    /// A connection that was just accepted.
    pub(super) fn new(endpoint: Endpoint, personality: Personality, id: u64, now: Instant) -> Connection {
        let (mut session, mut steps) = (Session::new(personality, id), VecDeque::new());
        session.open(&mut steps);
        let proxying = Proxying { session, steps, sent: 0, resume_at: None, heard_at: now };
        Connection { endpoint, stage: Stage::Proxy(Box::new(proxying)), ends_at: None }
    }

    /// Sets the moment at which it is dropped.
    pub(super) fn end_at(&mut self, moment: Instant) {
        self.ends_at = Some(moment);
    }

    /// Learns what an event says.
    pub(super) fn learn(&mut self, ready: Readiness) {
        self.endpoint.ready.learn(ready);
    }

    /// The socket, to be registered.
    pub(super) fn socket(&mut self) -> &mut Stream {
        &mut self.endpoint.stream
    }

    /// Whether it is a tunnel, or was granted one that it did not live to see; asked when it is dropped.
    pub(super) fn is_tunnel(&self) -> bool {
        match &self.stage {
            Stage::Proxy(proxying) => proxying.steps.iter().any(|step| matches!(step, Step::Tunnel { .. })),
            Stage::Tunnel(_) => true,
            Stage::Lingering { .. } => false,
        }
    }

    /// Does what can be done now.
    pub(super) fn turn(&mut self, context: &mut Context<'_>) -> Next {
        if self.ends_at.is_some_and(|moment| moment <= context.now) {
            return Next::Drop;
        }
        // A socket's error ends the connection and nothing else; what the peer did is its own affair.
        let next = self.step(context).unwrap_or(Next::Drop);
        match (next, self.ends_at) {
            (Next::Event, Some(moment)) => Next::Until(moment),
            (Next::Until(earlier), Some(moment)) => Next::Until(earlier.min(moment)),
            _ => next,
        }
    }

    fn step(&mut self, context: &mut Context<'_>) -> io::Result<Next> {
        loop {
            match &mut self.stage {
                Stage::Lingering { until } => return linger(&mut self.endpoint, *until, context),
                Stage::Tunnel(tunnel) => {
                    let turn = tunnel.turn(&mut self.endpoint, context.scratch, context.around.counters)?;
                    return Ok(match turn {
                        Turn::Waiting => Next::Event,
                        Turn::Yielded => Next::Again,
                        Turn::Finished => Next::Drop,
                    });
                }
                Stage::Proxy(proxying) => match proxying.carry_out(&mut self.endpoint, context)? {
                    Carried::Blocked => return Ok(Next::Event),
                    Carried::Yielded => return Ok(Next::Again),
                    Carried::Paused(moment) => return Ok(Next::Until(moment)),
                    Carried::Moved(stage) => self.stage = stage,
                    Carried::Reset => {
                        rustix::net::sockopt::set_socket_linger(&self.endpoint.stream, Some(Duration::ZERO))?;
                        return Ok(Next::Drop);
                    }
                    Carried::All => {
                        if let Some(next) = proxying.listen(&mut self.endpoint, context)? {
                            return Ok(next);
                        }
                    }
                },
            }
        }
    }
}

impl Proxying {
    /// Reads once and lets the session hear it; `None` when something was heard.
    fn listen(&mut self, endpoint: &mut Endpoint, context: &mut Context<'_>) -> io::Result<Option<Next>> {
        if endpoint.ready.readable() {
            match endpoint.read(context.scratch)? {
                Some(0) => return Ok(Some(Next::Drop)),
                Some(count) => {
                    context.around.counters.bytes_received.add(count as u64);
                    let bytes = context.scratch.get(..count).unwrap_or_default();
                    self.session.receive(bytes, &context.around, &mut self.steps);
                    self.heard_at = context.now;
                    return Ok(None);
                }
                None => {}
            }
        }
        Ok(Some(match self.session.idle_close().map(|limit| self.heard_at + limit) {
            None => Next::Event,
            Some(moment) if moment <= context.now => Next::Drop,
            Some(moment) => Next::Until(moment),
        }))
    }

    fn carry_out(&mut self, endpoint: &mut Endpoint, context: &Context<'_>) -> io::Result<Carried> {
        let (counters, now) = (context.around.counters, context.now);
        loop {
            let done = match self.steps.front_mut() {
                None => return Ok(Carried::All),
                Some(Step::Send(bytes)) => {
                    self.sent += send(endpoint, bytes.get(self.sent..).unwrap_or_default(), counters)?;
                    self.sent == bytes.len()
                }
                Some(Step::Repeat { block, offset, bytes }) => {
                    repeat(endpoint, block, offset, bytes, counters)?;
                    if *bytes > 0 && endpoint.ready.writable() {
                        return Ok(Carried::Yielded);
                    }
                    *bytes == 0
                }
                Some(Step::Wait(pause)) => {
                    let pause = *pause;
                    if let Some(moment) = self.still_pausing(pause, now) {
                        return Ok(Carried::Paused(moment));
                    }
                    true
                }
                Some(Step::Trickle(bytes)) => {
                    let length = bytes.len();
                    let byte: Option<[u8; 1]> = bytes.get(self.sent).map(|byte| [*byte]);
                    if let Some(moment) = self.still_pausing(TRICKLE_PAUSE, now) {
                        return Ok(Carried::Paused(moment));
                    }
                    let count = send(endpoint, byte.as_ref().map_or(&[], |byte| byte), counters)?;
                    self.sent += count;
                    self.resume_at = None;
                    if self.sent < length && count > 0 {
                        continue;
                    }
                    self.sent == length
                }
                Some(Step::Tunnel { .. } | Step::Close | Step::Reset) => return self.end(endpoint, now),
            };
            if !done {
                return Ok(Carried::Blocked);
            }
            self.steps.pop_front();
            self.sent = 0;
            self.resume_at = None;
        }
    }

    /// The end of the pause of the first step, if it is not over; the first call begins it.
    fn still_pausing(&mut self, pause: Duration, now: Instant) -> Option<Instant> {
        let moment = *self.resume_at.get_or_insert(now + pause);
        (moment > now).then_some(moment)
    }

    /// Carries out the step that ends the session.
    fn end(&mut self, endpoint: &mut Endpoint, now: Instant) -> io::Result<Carried> {
        Ok(match self.steps.pop_front() {
            Some(Step::Tunnel { origin, early }) => Carried::Moved(Stage::Tunnel(Box::new(Tunnel::new(origin, early)))),
            Some(Step::Reset) => Carried::Reset,
            _ => {
                endpoint.stream.shutdown(Shutdown::Write)?;
                Carried::Moved(Stage::Lingering { until: now + LINGER })
            }
        })
    }
}

fn linger(endpoint: &mut Endpoint, until: Instant, context: &mut Context<'_>) -> io::Result<Next> {
    // Bounded: a client that never stops sending is cut off by the clock, and yields in between.
    for _ in 0..16 {
        if until <= context.now {
            return Ok(Next::Drop);
        }
        match endpoint.read(context.scratch)? {
            None => return Ok(Next::Until(until)),
            Some(0) => return Ok(Next::Drop),
            Some(count) => context.around.counters.bytes_received.add(count as u64),
        }
    }
    Ok(Next::Again)
}

fn send(endpoint: &mut Endpoint, bytes: &[u8], counters: &Counters) -> io::Result<usize> {
    if !endpoint.ready.writable() || bytes.is_empty() {
        return Ok(0);
    }
    let count = endpoint.write(bytes)?;
    counters.bytes_sent.add(count as u64);
    Ok(count)
}

/// Writes until all is written, the socket takes no more, or the turn's share is used up.
fn repeat(
    endpoint: &mut Endpoint,
    block: &[u8],
    offset: &mut usize,
    left: &mut u64,
    counters: &Counters,
) -> io::Result<()> {
    let mut budget = TURN_BYTES;
    while *left > 0 && budget > 0 && endpoint.ready.writable() {
        let rest = block.get(*offset..).unwrap_or_default();
        let length = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX)).min(budget);
        let count = send(endpoint, rest.get(..length).unwrap_or_default(), counters)?;
        *offset = (*offset + count) % block.len().max(1);
        budget -= count;
        if *left != u64::MAX {
            *left -= count as u64;
        }
    }
    Ok(())
}
