//! Connecting to one of several addresses, the next beside those that are slow (RFC 8305 §5).

use std::io;
use std::net::SocketAddr;

use super::Context;
use crate::event::{DIALS, EventToken, Key};
use crate::fault::{At, Cause, Fault};
use crate::limits::{self, millis};
use crate::transport::{Endpoint, Transport};

/// An address, and where it came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub address: SocketAddr,
    /// The upstream's place in the egress; of no meaning for an origin.
    pub member: usize,
    /// The address's place among those of the upstream.
    pub place: usize,
}

/// A connection on its way.
#[derive(Debug)]
pub(super) struct Racer {
    pub endpoint: Endpoint,
    pub candidate: Candidate,
    /// Tells its events from those of the others.
    pub number: u8,
    /// When it set out, in µs.
    pub since_us: u64,
    /// When it is given up, in ms.
    until_ms: u64,
}

/// Connections on their way, in the order in which they set out; at most [`limits::CONNECTION_ATTEMPTS`].
#[derive(Debug)]
pub(super) struct Race {
    racers: Vec<Racer>,
    last_number: u8,
    /// When the next may set out beside these, in ms.
    next_ms: u64,
}

// A number is free while that many are under way.
const _: () = assert!(limits::CONNECTION_ATTEMPTS < DIALS as usize);

impl Race {
    /// Nobody is on the way. `last_number` is that of the tunnel's last connection.
    pub(super) fn new(last_number: u8) -> Race {
        Race { racers: Vec::new(), last_number, next_ms: 0 }
    }

    /// The connection whose events bear this number.
    pub(super) fn endpoint(&mut self, number: u8) -> Option<&mut Endpoint> {
        self.racers.iter_mut().find(|racer| racer.number == number).map(|racer| &mut racer.endpoint)
    }

    /// Nobody is on the way.
    pub(super) fn is_empty(&self) -> bool {
        self.racers.is_empty()
    }

    /// The next may set out.
    pub(super) fn may_launch(&self, now_ms: u64) -> bool {
        self.racers.is_empty() || (now_ms >= self.next_ms && self.racers.len() < limits::CONNECTION_ATTEMPTS)
    }

    /// Begins to connect to a candidate.
    pub(super) fn launch(
        &mut self,
        candidate: Candidate,
        transport: &Transport,
        key: Key,
        context: &Context,
    ) -> io::Result<()> {
        let mut number = (self.last_number + 1) % DIALS;
        while self.racers.iter().any(|racer| racer.number == number) {
            number = (number + 1) % DIALS;
        }
        self.last_number = number;
        let (token, options) = (EventToken::upstream(key, number), context.settings.socket_options());
        let endpoint = transport.connect(candidate.address, token, &options, &context.registry)?;
        let now_ms = context.now_ms();
        self.next_ms = now_ms + millis(limits::CONNECTION_ATTEMPT_DELAY);
        let until_ms = now_ms + context.settings.timeouts.connect;
        self.racers.push(Racer { endpoint, candidate, number, since_us: context.now_us, until_ms });
        Ok(())
    }

    /// One that has arrived, or failed.
    pub(super) fn finished(&mut self) -> Option<(Racer, io::Result<()>)> {
        let mut racers = self.racers.iter_mut().enumerate();
        let (index, outcome) = racers.find_map(|(index, racer)| Some((index, racer.endpoint.connect_outcome()?)))?;
        Some((self.racers.remove(index), outcome))
    }

    /// One that has been on its way for too long is given up; where it was to go, and the fault.
    pub(super) fn overdue(&mut self, now_ms: u64) -> Option<(Candidate, Fault)> {
        let index = self.racers.iter().position(|racer| now_ms >= racer.until_ms)?;
        let candidate = self.racers.remove(index).candidate;
        let detail = format!("{} did not take the connection in time", candidate.address);
        Some((candidate, Fault::new(At::Dial, Cause::ConnectTimeout, detail)))
    }

    /// Whether one is on the way to this upstream.
    pub(super) fn has(&self, member: usize) -> bool {
        self.racers.iter().any(|racer| racer.candidate.member == member)
    }

    /// Whether one to this upstream has arrived in truth, and only its event has not been heard yet.
    pub(super) fn has_arrived(&self, member: usize) -> bool {
        let of_member = |racer: &&Racer| racer.candidate.member == member;
        self.racers.iter().filter(of_member).any(|racer| racer.endpoint.stream.is_connected())
    }

    /// When something is to be done if nobody arrives: give one up, or send the next if there `is_next`. In ms.
    pub(super) fn due_ms(&self, is_next: bool) -> Option<u64> {
        let give_up_ms = self.racers.iter().map(|racer| racer.until_ms).min();
        let launch_ms = (is_next && self.racers.len() < limits::CONNECTION_ATTEMPTS).then_some(self.next_ms);
        give_up_ms.into_iter().chain(launch_ms).min()
    }
}
