//! Who is waited for, and for how long.

use super::{Exchange, Phase};
use crate::limits::{self, millis};
use crate::session::cx::Cx;

/// Who is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// The client is to send its body, or to read its answer: at a minimum rate.
    Client,
    /// The upstream is to ask for credentials, if it does, before it gets the body; and a client is to send a short
    /// one.
    Demand,
    /// The upstream is to begin its answer.
    Answer,
    /// The upstream is to go on with it.
    More,
}

/// What the session's deadline is about.
#[derive(Debug)]
pub(super) struct Deadline {
    pub waits: Waits,
    /// How much had moved when it was set, in bytes.
    pub moved_before: u64,
}

impl Exchange {
    fn all_moved(&self) -> u64 {
        let (up, down) = (self.up.moved(), self.down.moved());
        up.copied + up.spliced + down.copied + down.spliced
    }

    /// Whether enough has moved since the deadline was set: an exchange that never waits does not set a new one.
    pub(super) fn has_moved_enough(&self) -> bool {
        let floor_bytes = if self.deadline.waits == Waits::Client { limits::BODY_PROGRESS_BYTES } else { 1 };
        self.all_moved() - self.deadline.moved_before >= floor_bytes
    }

    /// Sets the deadline by who is waited for now. A client has its time from when it began to be waited for, whatever
    /// it moves; an upstream has it again with each byte.
    pub(super) fn restart_deadline(&mut self, cx: &mut Cx<'_>) {
        let waits = self.waits_for();
        let moved = self.all_moved() != self.deadline.moved_before;
        if waits != self.deadline.waits || (waits != Waits::Client && moved) {
            self.wait_for(waits, cx);
        }
    }

    pub(super) fn waits_for(&self) -> Waits {
        let takes_body = !self.up.is_read() && !self.up.is_refused() && self.upstream.ready.writable();
        // Until then it is the upstream's turn.
        let was_invited = !self.request.expects_continue() || self.has_interim() || self.up.has_begun();
        match &self.phase {
            _ if !self.down.is_flushed() => Waits::Client,
            Phase::Awaiting(_) if self.is_body_held() => Waits::Demand,
            Phase::Awaiting(_) if takes_body && was_invited => Waits::Client,
            Phase::Awaiting(_) => Waits::Answer,
            Phase::Answering { .. } => Waits::More,
        }
    }

    pub(super) fn wait_for(&mut self, waits: Waits, cx: &mut Cx<'_>) {
        let timeouts = cx.timeouts();
        let wait_ms = match waits {
            Waits::Client => timeouts.body,
            Waits::Demand => millis(limits::HELD_BODY_TIMEOUT),
            Waits::Answer => timeouts.response,
            Waits::More => timeouts.idle,
        };
        self.deadline = Deadline { waits, moved_before: self.all_moved() };
        cx.set_deadline_in(wait_ms);
    }
}
