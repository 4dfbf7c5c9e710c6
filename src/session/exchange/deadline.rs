//! Who is waited for, and for how long.

use super::Exchange;
use crate::event::Key;
use crate::limits::{self, millis};
use crate::session::{Client, Context};

/// Who is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nobody yet.
    Unset,
    /// The client is to send its body, or to read its answer: at a minimum rate.
    ForClient,
    /// The upstream is to ask for credentials, if it does, before it gets the body; and a client is to send a short one.
    ForDemand,
    /// The upstream is to begin its answer.
    ForAnswer,
    /// The upstream is to go on with it.
    ForMore,
}

impl Exchange {
    pub(super) fn all_moved(&self) -> u64 {
        let (up, down) = (self.up.moved(), self.down.moved());
        up.copied + up.spliced + down.copied + down.spliced
    }

    /// Sets the deadline by who is waited for now. A client has its time from when it began to be waited for, whatever it
    /// moves; an upstream has it anew with each byte.
    pub(super) fn restart_deadline(&mut self, key: Key, client: &mut Client, context: &mut Context) {
        let waits = self.waits_for();
        let moved = self.all_moved() != self.moved_at_wait;
        if waits != self.waits || (waits != Waits::ForClient && moved) {
            self.wait_for(waits, key, client, context);
        }
    }

    pub(super) fn waits_for(&self) -> Waits {
        let takes_body = !self.up.is_read() && !self.up_broken && self.upstream.ready.writable();
        // Until then it is the upstream's turn.
        let was_invited = !self.request.expects_continue() || self.interim || self.up.has_begun();
        match &self.answer {
            _ if !self.down.is_flushed() => Waits::ForClient,
            None if self.is_body_held() => Waits::ForDemand,
            None if takes_body && was_invited => Waits::ForClient,
            None => Waits::ForAnswer,
            Some(_) => Waits::ForMore,
        }
    }

    pub(super) fn wait_for(&mut self, waits: Waits, key: Key, client: &mut Client, context: &mut Context) {
        let timeouts = &context.settings.timeouts;
        let wait_ms = match waits {
            Waits::ForClient => timeouts.body,
            Waits::ForDemand => millis(limits::HELD_BODY_TIMEOUT),
            Waits::ForAnswer | Waits::Unset => timeouts.response,
            Waits::ForMore => timeouts.idle,
        };
        (self.waits, self.moved_at_wait) = (waits, self.all_moved());
        client.set_deadline(key, context, context.now_ms() + wait_ms);
    }
}
