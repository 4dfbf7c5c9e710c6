//! What a stage is stepped with.

use super::context::Context;
use super::record::Record;
use crate::client_protocol::ClientProtocol;
use crate::event::{DIALS, Deadline, Key};
use crate::limits::{self, millis};
use crate::timeouts::TimeoutsMs;
use crate::transport::Endpoint;

/// The client's side of a session: the same at every stage.
#[derive(Debug)]
pub(super) struct Client {
    pub endpoint: Endpoint,
    pub record: Record,
    pub deadline: Deadline,
    /// How it asks for a destination and is told the outcome.
    pub protocol: ClientProtocol,
    /// The number of the session's latest connection to an upstream or an origin.
    pub last_dial: u8,
    /// That connection has the options of one that lasts.
    pub lasts: bool,
    /// The number of a connection that the session has put into a pool, and whose events still carry it.
    pub parked: Option<u8>,
    /// The poll reports when the client's connection takes more, because it has been full.
    pub awaits_room: bool,
}

impl Client {
    /// The number of the session's next connection. It differs from those of the connections before, so that a late
    /// event of one of them is not taken for one of the next.
    pub(super) fn next_dial(&mut self) -> u8 {
        self.last_dial = (self.last_dial + 1) % DIALS;
        if self.parked == Some(self.last_dial) {
            self.last_dial = (self.last_dial + 1) % DIALS;
        }
        self.lasts = false;
        self.last_dial
    }
}

/// The session's key and client, and what all sessions of the shard share.
pub(super) struct Cx<'a> {
    pub key: Key,
    pub client: &'a mut Client,
    pub shard: &'a mut Context,
}

impl Cx<'_> {
    /// The time of this turn in ms.
    #[inline]
    pub(super) fn now_ms(&self) -> u64 {
        self.shard.now_ms()
    }

    /// The time of this turn in µs.
    #[inline]
    pub(super) fn now_us(&self) -> u64 {
        self.shard.now_us()
    }

    #[inline]
    pub(super) fn timeouts(&self) -> &TimeoutsMs {
        &self.shard.settings.timeouts
    }

    /// Sets the session's one deadline.
    #[inline]
    pub(super) fn set_deadline(&mut self, at_ms: u64) {
        self.shard.timers.set(self.key, &mut self.client.deadline, at_ms);
    }

    /// The session has a connection to an upstream or an origin: has it stepped out of turn once that has lasted for a
    /// while, so that the connection gets the options of one that lasts.
    #[inline]
    pub(super) fn notice_if_it_lasts(&mut self) {
        let at_ms = self.now_ms() + millis(limits::LASTING_CONNECTION_AGE);
        self.shard.timers.wake_by(self.key, &mut self.client.deadline, at_ms);
    }

    /// As [`Cx::set_deadline`], so many ms from now.
    #[inline]
    pub(super) fn set_deadline_in(&mut self, wait_ms: u64) {
        self.set_deadline(self.now_ms() + wait_ms);
    }
}
