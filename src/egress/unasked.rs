//! What an upstream serves without asking for authentication: a request for such a destination may wait for its origin from the first leg
//! on.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::{self, millis};

/// What is known of one upstream as one identity.
#[derive(Debug, Default)]
pub struct Unasked {
    /// It has served something unasked lately; without the lock, for most upstreams never do.
    any: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last_ms: u64,
    /// Destinations for which it has sent a challenge since, and their order.
    challenged: HashSet<Box<str>>,
    order: VecDeque<Box<str>>,
}

impl Unasked {
    /// It has answered a request for `destination`, `host:port`, without asking for authentication.
    pub fn served(&self, now_ms: u64, destination: &str) {
        let mut inner = self.lock();
        inner.last_ms = now_ms;
        if inner.challenged.remove(destination) {
            inner.order.retain(|known| **known != *destination);
        }
        self.any.store(true, Ordering::Relaxed);
    }

    /// It has sent a challenge for `destination`.
    pub fn challenged(&self, destination: &str) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut inner = self.lock();
        if !inner.challenged.insert(destination.into()) {
            return;
        }
        inner.order.push_back(destination.into());
        if inner.order.len() > limits::CHALLENGED_DESTINATIONS
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.challenged.remove(&oldest);
        }
    }

    /// Whether the first leg of a request for `destination` may be waiting for its origin.
    pub fn may_serve(&self, now_ms: u64, destination: &str) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let mut inner = self.lock();
        if now_ms.saturating_sub(inner.last_ms) >= millis(limits::UNCHALLENGED_AGE) {
            *inner = Inner::default();
            self.any.store(false, Ordering::Relaxed);
            return false;
        }
        !inner.challenged.contains(destination)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_something_was_served_unasked_lately_may_a_first_leg_wait_for_its_origin() {
        let unasked = Unasked::default();
        unasked.challenged("a:443");
        assert!(!unasked.may_serve(0, "a:443"));
        unasked.served(0, "free:443");
        assert!(unasked.may_serve(1, "free:443") && unasked.may_serve(1, "unknown:443"));
        unasked.challenged("a:443");
        assert!(!unasked.may_serve(1, "a:443"), "this one is asked about");
        unasked.served(2, "a:443");
        assert!(unasked.may_serve(3, "a:443"), "no longer");
        assert!(!unasked.may_serve(2 + millis(limits::UNCHALLENGED_AGE), "free:443"));
    }

    #[test]
    fn the_destinations_that_are_remembered_are_bounded() {
        let unasked = Unasked::default();
        unasked.served(0, "free:443");
        (0..3 * limits::CHALLENGED_DESTINATIONS).for_each(|number| unasked.challenged(&format!("h{number}:1")));
        let inner = unasked.lock();
        assert_eq!(
            (inner.challenged.len(), inner.order.len()),
            (limits::CHALLENGED_DESTINATIONS, limits::CHALLENGED_DESTINATIONS)
        );
    }
}
