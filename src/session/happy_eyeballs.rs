//! Connecting to one of several addresses, the next beside those that are slow (RFC 8305 §5).

use std::io;
use std::net::SocketAddr;

use super::cx::Cx;
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
    /// When it is given up, in ms.
    until_ms: u64,
}

/// Connections that are being established, in the order in which they were begun; at most
/// [`limits::CONNECTION_ATTEMPTS`].
#[derive(Debug, Default)]
pub(super) struct Race {
    racers: Vec<Racer>,
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
        self.racers.is_empty() || (now_ms >= self.next_ms && self.racers.len() < limits::CONNECTION_ATTEMPTS)
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
        self.racers.push(Racer { endpoint, candidate, number, since_us: context.now_us(), until_ms });
        Ok(())
    }

    /// Takes one that is established, or has failed.
    pub(super) fn finished(&mut self) -> Option<(Racer, io::Result<()>)> {
        let mut racers = self.racers.iter_mut().enumerate();
        let (index, outcome) = racers.find_map(|(index, racer)| Some((index, racer.endpoint.connect_outcome()?)))?;
        Some((self.racers.remove(index), outcome))
    }

    /// Gives up one that takes too long; returns where it was to lead, and the fault.
    pub(super) fn overdue(&mut self, now_ms: u64) -> Option<(Candidate, Fault)> {
        let index = self.racers.iter().position(|racer| now_ms >= racer.until_ms)?;
        let candidate = self.racers.remove(index).candidate;
        let detail = format!("{} did not take the connection in time", candidate.address);
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
        let launch_ms = (is_next && self.racers.len() < limits::CONNECTION_ATTEMPTS).then_some(self.next_ms);
        give_up_ms.into_iter().chain(launch_ms).min()
    }
}
