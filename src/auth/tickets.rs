//! The ticket for one service, as a thread keeps it and all shards read it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fault::{Cause, Fault};
use crate::kerberos::{Credential, Timestamp};
use crate::limits;

/// What a thread has of a ticket.
#[derive(Clone, Debug)]
pub enum TicketState {
    /// It is on its way, and there was none before.
    Pending,
    /// The ticket.
    Ready(Arc<Credential>),
    /// There is none, and why.
    Failed(Fault),
}

/// Where a thread publishes the ticket for one service, for the handshakes of all shards.
pub struct TicketSlot {
    /// The mutex is held while a pointer is copied.
    state: Mutex<Published>,
    /// Times of tokens, for the whole process.
    times: Arc<TokenTimes>,
    /// Tells the thread that another ticket is wanted; must not block. `None`: there is no thread.
    wake: Option<Box<dyn Fn() + Send + Sync>>,
}

struct Published {
    state: TicketState,
    /// How many tickets there have been.
    number: u64,
    /// When it was published.
    since: Option<Timestamp>,
    /// When the token was made whose refusal has last led to another ticket.
    asked_for_another: Option<Timestamp>,
    is_replacing: bool,
    /// The service has refused this ticket for good.
    has_given_way: bool,
}

impl fmt::Debug for TicketSlot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TicketSlot").field("state", &self.lock().state).finish_non_exhaustive()
    }
}

impl TicketSlot {
    /// An empty slot. `wake` is called when a ticket was refused and another one is wanted; it must not block.
    pub fn new(times: Arc<TokenTimes>, wake: impl Fn() + Send + Sync + 'static) -> TicketSlot {
        TicketSlot { wake: Some(Box::new(wake)), ..TicketSlot::fixed(times) }
    }

    /// An empty slot for a ticket that nobody replaces.
    pub fn fixed(times: Arc<TokenTimes>) -> TicketSlot {
        let state = Published {
            state: TicketState::Pending,
            number: 0,
            since: None,
            asked_for_another: None,
            is_replacing: false,
            has_given_way: false,
        };
        TicketSlot { state: Mutex::new(state), times, wake: None }
    }

    /// A slot that never has a ticket, and why.
    pub fn without_ticket(why: &'static str) -> TicketSlot {
        let slot = TicketSlot::fixed(Arc::new(TokenTimes::new(0)));
        slot.publish(TicketState::Failed(super::fault(Cause::TicketUnavailable, why)), Timestamp::default());
        slot
    }

    /// Publishes what the thread has now, at the time `now`.
    pub fn publish(&self, state: TicketState, now: Timestamp) {
        let mut published = self.lock();
        if let TicketState::Ready(ticket) = &state
            && !matches!(&published.state, TicketState::Ready(old) if Arc::ptr_eq(old, ticket))
        {
            published.number += 1;
            published.has_given_way = false;
        }
        published.state = state;
        published.since = Some(now);
        published.is_replacing = false;
    }

    /// What there is now.
    pub fn state(&self) -> TicketState {
        self.lock().state.clone()
    }

    /// How many tickets there have been.
    pub fn number(&self) -> u64 {
        self.lock().number
    }

    /// Whether a handshake should wait: there is no ticket yet, or the one that there was is being replaced.
    pub fn is_pending(&self) -> bool {
        let published = self.lock();
        published.is_replacing || matches!(published.state, TicketState::Pending)
    }

    /// The service refused the token that was made at `made_at`. Whether another one can be waited for: a new ticket is
    /// on its way, or has come since. A new ticket is asked for at most once in
    /// [`limits::KERBEROS_REPLACEMENT_INTERVAL`], because a service whose key is wrong refuses every ticket.
    pub fn refused(&self, made_at: Timestamp) -> bool {
        let mut published = self.lock();
        let is_newer = published.since.is_some_and(|since| since > made_at);
        let is_usable = matches!(published.state, TicketState::Ready(_));
        if published.is_replacing || (is_newer && is_usable) {
            return true;
        }
        let is_early = published
            .asked_for_another
            .is_some_and(|last| made_at >= last && made_at.since(last) < limits::KERBEROS_REPLACEMENT_INTERVAL);
        let Some(wake) = self.wake.as_ref().filter(|_| is_usable && !is_early) else { return false };
        published.asked_for_another = Some(made_at);
        published.is_replacing = true;
        drop(published);
        wake();
        true
    }

    /// The service has refused the ticket for good, and other mechanisms are used there until there is another one. The
    /// thread then replaces the ticket early.
    pub fn give_way(&self) {
        let mut published = self.lock();
        let is_new = !std::mem::replace(&mut published.has_given_way, true);
        drop(published);
        if let Some(wake) = self.wake.as_ref().filter(|_| is_new) {
            wake();
        }
    }

    /// Whether the ticket has been refused for good since the last call.
    pub fn take_give_way(&self) -> bool {
        std::mem::take(&mut self.lock().has_given_way)
    }

    /// Whether the thread should replace a ticket that is still valid.
    pub fn wants_another(&self) -> bool {
        self.lock().is_replacing
    }

    /// The time for a token that is made now. No two tokens of the process get the same.
    pub fn token_time(&self, now: Timestamp) -> Timestamp {
        self.times.next(now)
    }

    fn lock(&self) -> MutexGuard<'_, Published> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The times of tokens: services take two tokens with the same ticket and time for a replay.
#[derive(Debug)]
pub struct TokenTimes {
    last_micros: AtomicU64,
    /// Less than a second, so that the gateways of a deployment do not use the same times.
    behind: Duration,
}

impl TokenTimes {
    /// Times that are up to a second behind the clock, by a random number.
    pub fn new(random: u32) -> TokenTimes {
        TokenTimes { last_micros: AtomicU64::new(0), behind: Duration::from_micros(u64::from(random % 1_000_000)) }
    }

    fn next(&self, now: Timestamp) -> Timestamp {
        let wanted = now.minus(self.behind).micros();
        let next = |last: u64| wanted.max(last + 1);
        let last = self.last_micros.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        Timestamp::from_micros(next(last.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::At;
    use std::collections::HashSet;

    #[test]
    fn a_slot_without_a_ticket_waits_and_one_that_has_failed_does_not() {
        let slot = TicketSlot::new(Arc::new(TokenTimes::new(0)), || {});
        assert!(slot.is_pending());
        let fault = Fault::new(At::Authenticate, Cause::TicketUnavailable, "no");
        slot.publish(TicketState::Failed(fault), Timestamp::from_seconds(10));
        assert!(!slot.is_pending() && !slot.wants_another());
        assert!(!slot.refused(Timestamp::from_seconds(9)), "there is no ticket to replace");
    }

    #[test]
    fn no_two_tokens_have_the_same_time_on_any_thread() {
        let times = Arc::new(TokenTimes::new(1_234_567));
        let now = Timestamp::from_seconds(1_800_000_000);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let times = Arc::clone(&times);
                std::thread::spawn(move || (0..1_000).map(|_| times.next(now)).collect::<Vec<_>>())
            })
            .collect();
        let all: Vec<Timestamp> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 4_000);
        assert!(all.iter().all(|time| now.since(*time) < Duration::from_secs(1)));
        // A clock that is set back repeats none either.
        assert!(times.next(Timestamp::from_seconds(5)) > now.minus(Duration::from_secs(1)));
    }
}
