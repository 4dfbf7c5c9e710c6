//! Messages of other threads.

use super::Shard;
use crate::event::Key;
use crate::limits;
use crate::session::Next;
use crate::shard::message::{Described, Message};

impl Shard {
    /// Handles all messages; `true` to stop.
    pub(super) fn on_messages(&mut self) -> bool {
        let messages: Vec<Message> = self.mailbox.take().collect();
        let mut stop = false;
        for message in messages {
            match message {
                Message::OriginResolved(key, resolution) => {
                    if let Some(entry) = self.sessions.get_mut(key) {
                        entry.session.found(resolution);
                        self.enqueue(key);
                    }
                }
                Message::Routed(key, question, answer) => {
                    // Not if the session has ended, or no longer waits for this answer.
                    if self.sessions.get_mut(key).is_some_and(|entry| entry.session.routed(question, answer)) {
                        self.enqueue(key);
                    }
                }
                Message::UpstreamResolved => {
                    self.context.address_waiters.call_up().into_iter().for_each(|key| self.enqueue(key));
                }
                Message::GuardChanged => self.call_up_guard_waiters(),
                Message::Evict(eviction) => self.evict(eviction),
                Message::HandedOver(accepted) => {
                    self.admit(*accepted);
                    self.gate.has_arrived();
                }
                // Every turn does so when memory is short.
                Message::FreeMemory => {}
                Message::Settings(settings) => {
                    self.context.settings = *settings;
                    self.context.pools.close_usable();
                }
                // The asker may have stopped waiting.
                Message::Ping(answer) => drop(answer.send(self.number)),
                Message::Describe(answer) => drop(answer.send(self.describe())),
                Message::Drain => self.drain(),
                Message::Stop => stop = true,
            }
        }
        stop
    }

    fn drain(&mut self) {
        self.draining = true;
        self.context.draining = true;
        self.gate.balance.close(self.number);
        self.context.pools.close_usable();
        self.accept_last();
        // Between two requests there is nothing to finish.
        let at_rest: Vec<Key> =
            self.sessions.iter().filter(|(_, entry)| entry.session.rests()).map(|(key, _)| key).collect();
        for key in at_rest {
            if let Some(entry) = self.sessions.get_mut(key) {
                entry.session.dismiss(key, &mut self.context);
                self.follow(key, Next::Close);
            }
        }
    }

    /// Bounded, and so takes a few ms at most: about 0.1 µs per session (`benches/runtime.rs`).
    fn describe(&self) -> Described {
        let sessions = self.sessions.iter().take(limits::LISTED_TUNNELS);
        let tunnels: Vec<_> =
            sessions.map(|(key, entry)| entry.session.describe(self.number, key, &self.context)).collect();
        Described { left_out: self.sessions.len() - tunnels.len(), tunnels }
    }
}
