//! Drives one socket: passes received bytes to the session, performs its actions, then runs the tunnel.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::personality::Personality;
use super::proxy_session::{ProxyContext, ProxySession};
use super::response::ProxyAction;
use super::tunnel::{TURN_BYTES, Tunnel, TunnelStatus};
use crate::transport::{Endpoint, Readiness, Stream};

/// The pause between two bytes of a trickle: just long enough for them to arrive separately.
const TRICKLE_PAUSE: Duration = Duration::from_millis(1);

/// How long the stub discards what the client still sends after it has shut down its own direction. Closing a socket
/// with unread bytes would cause a reset, which could destroy the response in flight.
const LINGER: Duration = Duration::from_secs(2);

/// When a connection needs its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextTurn {
    /// When an event arrives for it.
    OnEvent,
    /// When an event arrives for it, and at this moment at the latest.
    OnEventOrAt(Instant),
    /// At once: there is more to do, and no event will follow.
    Immediately,
    /// The connection is over and is to be dropped.
    Never,
}

/// What a turn needs from the event loop.
pub(super) struct TurnContext<'a> {
    pub proxy: ProxyContext<'a>,
    pub now: Instant,
    pub scratch: &'a mut [u8],
}

/// One client's connection.
pub(super) struct Connection {
    endpoint: Endpoint,
    /// The transport's own handshake is complete.
    is_established: bool,
    state: ConnectionState,
    /// It is dropped at this moment, in any state.
    ends_at: Option<Instant>,
}

enum ConnectionState {
    Proxy(Box<Proxying>),
    Tunnel(Box<Tunnel>),
    /// The sending direction has been shut down.
    Lingering {
        until: Instant,
    },
}

struct Proxying {
    session: ProxySession,
    actions: VecDeque<ProxyAction>,
    /// How many bytes of the first action have been written.
    sent: usize,
    /// When the pause of the first action is over, if it has begun.
    resume_at: Option<Instant>,
    /// When bytes were last received.
    received_at: Instant,
}

/// How far the actions have been performed.
enum ActionProgress {
    /// Completely.
    Done,
    /// Until the socket accepted no more.
    Blocked,
    /// As far as one turn may go.
    Yielded,
    /// Up to a pause, which ends then.
    PausedUntil(Instant),
    /// To the end of the session; the connection has a new state.
    NewState(ConnectionState),
    /// To the end of the session; the connection is to be reset.
    Reset,
}

impl Connection {
    /// Takes a connection that was just accepted. `id` must be random, see [`ProxySession::new`].
    pub(super) fn new(endpoint: Endpoint, personality: Personality, id: u64, now: Instant) -> Connection {
        let (mut session, mut actions) = (ProxySession::new(personality, id), VecDeque::new());
        session.open(&mut actions);
        let proxying = Proxying { session, actions, sent: 0, resume_at: None, received_at: now };
        let state = ConnectionState::Proxy(Box::new(proxying));
        Connection { endpoint, is_established: false, state, ends_at: None }
    }

    /// Sets the moment at which it is dropped.
    pub(super) fn end_at(&mut self, moment: Instant) {
        self.ends_at = Some(moment);
    }

    /// Records the readiness that an event reports.
    pub(super) fn learn(&mut self, ready: Readiness) {
        self.endpoint.learn(ready);
    }

    /// The socket, for registration.
    pub(super) fn socket(&mut self) -> &mut Stream {
        &mut self.endpoint.stream
    }

    /// Whether it is a tunnel, or was granted one that has not begun. Called when the connection is dropped.
    pub(super) fn is_tunnel(&self) -> bool {
        match &self.state {
            ConnectionState::Proxy(proxying) => {
                proxying.actions.iter().any(|action| matches!(action, ProxyAction::Tunnel { .. }))
            }
            ConnectionState::Tunnel(_) => true,
            ConnectionState::Lingering { .. } => false,
        }
    }

    /// Does what can be done now, and returns when the next turn is due.
    pub(super) fn turn(&mut self, context: &mut TurnContext<'_>) -> NextTurn {
        if self.ends_at.is_some_and(|moment| moment <= context.now) {
            return NextTurn::Never;
        }
        // A socket error ends this connection only.
        let next = self.advance(context).unwrap_or(NextTurn::Never);
        match (next, self.ends_at) {
            (NextTurn::OnEvent, Some(moment)) => NextTurn::OnEventOrAt(moment),
            (NextTurn::OnEventOrAt(earlier), Some(moment)) => NextTurn::OnEventOrAt(earlier.min(moment)),
            _ => next,
        }
    }

    fn advance(&mut self, context: &mut TurnContext<'_>) -> io::Result<NextTurn> {
        if !self.is_established {
            match self.endpoint.connect_outcome() {
                Some(outcome) => outcome?,
                None => return Ok(NextTurn::OnEvent),
            }
            self.is_established = true;
        }
        loop {
            match &mut self.state {
                ConnectionState::Lingering { until } => return linger(&mut self.endpoint, *until, context),
                ConnectionState::Tunnel(tunnel) => {
                    let turn = tunnel.turn(&mut self.endpoint, context.scratch, context.proxy.counters)?;
                    return Ok(match turn {
                        TunnelStatus::Waiting => NextTurn::OnEvent,
                        TunnelStatus::Yielded => NextTurn::Immediately,
                        TunnelStatus::Finished => NextTurn::Never,
                    });
                }
                ConnectionState::Proxy(proxying) => match proxying.perform(&mut self.endpoint, context)? {
                    ActionProgress::Blocked => return Ok(NextTurn::OnEvent),
                    ActionProgress::Yielded => return Ok(NextTurn::Immediately),
                    ActionProgress::PausedUntil(moment) => return Ok(NextTurn::OnEventOrAt(moment)),
                    ActionProgress::NewState(state) => self.state = state,
                    ActionProgress::Reset => {
                        rustix::net::sockopt::set_socket_linger(&self.endpoint.stream, Some(Duration::ZERO))?;
                        return Ok(NextTurn::Never);
                    }
                    ActionProgress::Done => {
                        if let Some(next) = proxying.receive(&mut self.endpoint, context)? {
                            return Ok(next);
                        }
                    }
                },
            }
        }
    }
}

impl Proxying {
    /// Reads once and passes the bytes to the session. `None` if something was received; otherwise when the next turn
    /// is due.
    fn receive(&mut self, endpoint: &mut Endpoint, context: &mut TurnContext<'_>) -> io::Result<Option<NextTurn>> {
        if endpoint.ready.readable() {
            match endpoint.read(context.scratch)? {
                Some(0) => return Ok(Some(NextTurn::Never)),
                Some(count) => {
                    context.proxy.counters.bytes_received.add(count as u64);
                    let bytes = context.scratch.get(..count).unwrap_or_default();
                    self.session.receive(bytes, &context.proxy, &mut self.actions);
                    self.received_at = context.now;
                    return Ok(None);
                }
                None => {}
            }
        }
        Ok(Some(match self.session.idle_close().map(|limit| self.received_at + limit) {
            None => NextTurn::OnEvent,
            Some(moment) if moment <= context.now => NextTurn::Never,
            Some(moment) => NextTurn::OnEventOrAt(moment),
        }))
    }

    fn perform(&mut self, endpoint: &mut Endpoint, context: &TurnContext<'_>) -> io::Result<ActionProgress> {
        let (counters, now) = (context.proxy.counters, context.now);
        loop {
            let done = match self.actions.front_mut() {
                None => return Ok(ActionProgress::Done),
                Some(ProxyAction::Send(bytes)) => {
                    self.sent += send(endpoint, bytes.get(self.sent..).unwrap_or_default(), counters)?;
                    self.sent == bytes.len()
                }
                Some(ProxyAction::Repeat { block, offset, bytes }) => {
                    repeat(endpoint, block, offset, bytes, counters)?;
                    if *bytes > 0 && endpoint.ready.writable() {
                        return Ok(ActionProgress::Yielded);
                    }
                    *bytes == 0
                }
                Some(ProxyAction::Wait(pause)) => {
                    let pause = *pause;
                    if let Some(moment) = self.still_pausing(pause, now) {
                        return Ok(ActionProgress::PausedUntil(moment));
                    }
                    true
                }
                Some(ProxyAction::Trickle(bytes)) => {
                    let length = bytes.len();
                    let byte: Option<[u8; 1]> = bytes.get(self.sent).map(|byte| [*byte]);
                    if let Some(moment) = self.still_pausing(TRICKLE_PAUSE, now) {
                        return Ok(ActionProgress::PausedUntil(moment));
                    }
                    let count = send(endpoint, byte.as_ref().map_or(&[], |byte| byte), counters)?;
                    self.sent += count;
                    self.resume_at = None;
                    if self.sent < length && count > 0 {
                        continue;
                    }
                    self.sent == length
                }
                Some(ProxyAction::Tunnel { .. } | ProxyAction::Close | ProxyAction::Reset) => {
                    return self.end(endpoint, now);
                }
            };
            if !done {
                return Ok(ActionProgress::Blocked);
            }
            self.actions.pop_front();
            self.sent = 0;
            self.resume_at = None;
        }
    }

    /// When the pause of the first action ends; `None` if it is over. The first call begins the pause.
    fn still_pausing(&mut self, pause: Duration, now: Instant) -> Option<Instant> {
        let moment = *self.resume_at.get_or_insert(now + pause);
        (moment > now).then_some(moment)
    }

    /// Performs the action that ends the session.
    fn end(&mut self, endpoint: &mut Endpoint, now: Instant) -> io::Result<ActionProgress> {
        Ok(match self.actions.pop_front() {
            Some(ProxyAction::Tunnel { origin, early }) => {
                ActionProgress::NewState(ConnectionState::Tunnel(Box::new(Tunnel::new(origin, early))))
            }
            Some(ProxyAction::Reset) => ActionProgress::Reset,
            _ => {
                endpoint.stream.shutdown(Shutdown::Write)?;
                ActionProgress::NewState(ConnectionState::Lingering { until: now + LINGER })
            }
        })
    }
}

fn linger(endpoint: &mut Endpoint, until: Instant, context: &mut TurnContext<'_>) -> io::Result<NextTurn> {
    // Bounded, so that a client that never stops sending yields to others, and is dropped at `until`.
    for _ in 0..16 {
        if until <= context.now {
            return Ok(NextTurn::Never);
        }
        match endpoint.read(context.scratch)? {
            None => return Ok(NextTurn::OnEventOrAt(until)),
            Some(0) => return Ok(NextTurn::Never),
            Some(count) => context.proxy.counters.bytes_received.add(count as u64),
        }
    }
    Ok(NextTurn::Immediately)
}

fn send(endpoint: &mut Endpoint, bytes: &[u8], counters: &Counters) -> io::Result<usize> {
    if !endpoint.ready.writable() || bytes.is_empty() {
        return Ok(0);
    }
    let count = endpoint.write(bytes)?;
    counters.bytes_sent.add(count as u64);
    Ok(count)
}

/// Writes until all is written, the socket accepts no more, or [`TURN_BYTES`] are written.
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
