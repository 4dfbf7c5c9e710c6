//! Connecting to one of several addresses, the next beside those that are slow (RFC 8305 §5).
//!
//! TCP connections race. The transport's own handshake is one more step, of the connection that is there first; another
//! one begins its handshake only if that fails.

use std::io;
use std::net::SocketAddr;

use super::cx::Cx;
use super::few::Few;
use crate::event::{DIALS, EventToken};
use crate::fault::{At, Cause, Fault};
use crate::limits::{self, millis};
use crate::transport::{Endpoint, Transport};

/// An address, and where it came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub address: SocketAddr,
    /// The upstream's place in the egress; meaningless for an origin.
    pub member: usize,
    /// The address's place among those of the upstream.
    pub place: usize,
}

/// A connection that is being established.
#[derive(Debug)]
pub(super) struct Racer {
    pub endpoint: Endpoint,
    pub candidate: Candidate,
    /// Distinguishes its events from those of the others.
    pub number: u8,
    /// When it was begun, in µs.
    pub since_us: u64,
    /// When the address took the connection, in µs, if it has.
    pub connected_us: Option<u64>,
    /// The transport's own handshake is under way.
    is_securing: bool,
    /// When it is given up, in ms.
    until_ms: u64,
}

/// Connections that are being established, in the order in which they were begun; at most
/// [`limits::CONNECTION_ATTEMPTS`].
#[derive(Debug, Default)]
pub(super) struct Race {
    racers: Few<Racer>,
    /// When the next may be begun beside these, in ms.
    next_ms: u64,
}

// There is always a free number.
const _: () = assert!(limits::CONNECTION_ATTEMPTS < DIALS as usize);

impl Race {
    /// The connection whose events bear this number.
    pub(super) fn endpoint(&mut self, number: u8) -> Option<&mut Endpoint> {
        self.racers.iter_mut().find(|racer| racer.number == number).map(|racer| &mut racer.endpoint)
    }

    /// No connection is being established.
    pub(super) fn is_empty(&self) -> bool {
        self.racers.is_empty()
    }

    /// The next connection may be begun.
    pub(super) fn may_launch(&self, now_ms: u64) -> bool {
        let has_room = self.racers.len() < limits::CONNECTION_ATTEMPTS;
        self.racers.is_empty() || (now_ms >= self.next_ms && has_room && self.securing().is_none())
    }

    /// Begins a connection.
    pub(super) fn launch(&mut self, candidate: Candidate, transport: &Transport, cx: &mut Cx<'_>) -> io::Result<()> {
        let mut number = cx.client.next_dial();
        while self.racers.iter().any(|racer| racer.number == number) {
            number = cx.client.next_dial();
        }
        let context = &*cx.shard;
        let (token, options) = (EventToken::upstream(cx.key, number), context.settings.socket_options());
        let endpoint = transport.connect(candidate.address, token, &options, &context.registry)?;
        let now_ms = context.now_ms();
        self.next_ms = now_ms + millis(limits::CONNECTION_ATTEMPT_DELAY);
        let until_ms = now_ms + context.settings.timeouts.connect;
        let (since_us, connected_us) = (context.now_us(), None);
        self.racers.push(Racer { endpoint, candidate, number, since_us, connected_us, is_securing: false, until_ms });
        Ok(())
    }

    /// The place of the connection whose own handshake is under way.
    fn securing(&self) -> Option<usize> {
        self.racers.iter().position(|racer| racer.is_securing)
    }

    /// Takes one that is established, or has failed.
    pub(super) fn finished(&mut self, cx: &Cx<'_>) -> Option<(Racer, io::Result<()>)> {
        let mut securing = self.securing();
        for (index, racer) in self.racers.iter_mut().enumerate() {
            if racer.connected_us.is_none() {
                match racer.endpoint.socket_outcome() {
                    None => continue,
                    Some(Ok(())) => (racer.connected_us, racer.until_ms) = (Some(cx.now_us()), u64::MAX),
                    Some(Err(error)) => return Some((self.racers.remove(index)?, Err(error))),
                }
            }
            if securing.is_none() {
                (securing, racer.is_securing) = (Some(index), true);
                racer.until_ms = cx.now_ms() + cx.timeouts().tls;
            }
            if racer.is_securing
                && let Some(outcome) = racer.endpoint.handshake_outcome()
            {
                return Some((self.racers.remove(index)?, outcome));
            }
        }
        None
    }

    /// Gives up one that takes too long; returns where it was to lead, and the fault.
    pub(super) fn overdue(&mut self, now_ms: u64) -> Option<(Candidate, Fault)> {
        let index = self.racers.iter().position(|racer| now_ms >= racer.until_ms)?;
        let Racer { candidate, is_securing, .. } = self.racers.remove(index)?;
        let detail = match is_securing {
            true => format!(
                "{} did not complete the TLS handshake in time; if the port speaks plain HTTP, remove https:// from its \
                 address",
                candidate.address
            ),
            false => format!("{} did not take the connection in time", candidate.address),
        };
        Some((candidate, Fault::new(At::Dial, Cause::ConnectTimeout, detail)))
    }

    /// Whether a connection to this upstream is being established.
    pub(super) fn has(&self, member: usize) -> bool {
        self.racers.iter().any(|racer| racer.candidate.member == member)
    }

    /// Whether a connection to this upstream is established, and only its event has not been delivered yet.
    pub(super) fn has_arrived(&self, member: usize) -> bool {
        let of_member = |racer: &&Racer| racer.candidate.member == member;
        self.racers.iter().filter(of_member).any(|racer| racer.endpoint.stream.is_connected())
    }

    /// When to act if no event comes, in ms: to give a connection up, or to begin the next if there `is_next`.
    pub(super) fn due_ms(&self, is_next: bool) -> Option<u64> {
        let give_up_ms = self.racers.iter().map(|racer| racer.until_ms).min();
        let may_launch = is_next && self.racers.len() < limits::CONNECTION_ATTEMPTS && self.securing().is_none();
        let launch_ms = may_launch.then_some(self.next_ms);
        give_up_ms.into_iter().chain(launch_ms).min()
    }
}
