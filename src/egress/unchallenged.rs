//! What an upstream serves without authentication. The first leg of a request for such a destination may already be
//! waiting for the origin.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::{self, millis};

/// What one upstream serves without authentication, for one identity.
#[derive(Debug, Default)]
pub struct Unchallenged {
    /// It has served something without authentication recently. Read without the lock, because most upstreams never do.
    any: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// When it last served something without authentication, in ms.
    last_ms: u64,
    /// Destinations for which it has sent a challenge since; at most [`limits::CHALLENGED_DESTINATIONS`].
    challenged: HashSet<Box<str>>,
    /// The same, the oldest first.
    order: VecDeque<Box<str>>,
}

impl Unchallenged {
    /// It has answered a request for `destination` (`host:port`) without asking for authentication.
    pub fn served(&self, now_ms: u64, destination: &str) {
        let mut inner = self.lock();
        inner.last_ms = now_ms;
        if inner.challenged.remove(destination) {
            inner.order.retain(|known| **known != *destination);
        }
        self.any.store(true, Ordering::Relaxed);
    }

    /// It has sent a challenge for `destination` (`host:port`).
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

    /// Whether the first leg of a request for `destination` (`host:port`) may already be waiting for the origin: the
    /// upstream has served something without authentication within [`limits::UNCHALLENGED_AGE`], and sent no challenge
    /// for this destination since.
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
    fn a_first_leg_may_wait_for_its_origin_if_requests_were_served_unasked() {
        let unchallenged = Unchallenged::default();
        unchallenged.challenged("a:443");
        assert!(!unchallenged.may_serve(0, "a:443"));
        unchallenged.served(0, "free:443");
        assert!(unchallenged.may_serve(1, "free:443") && unchallenged.may_serve(1, "unknown:443"));
        unchallenged.challenged("a:443");
        assert!(!unchallenged.may_serve(1, "a:443"), "this one requires authentication");
        unchallenged.served(2, "a:443");
        assert!(unchallenged.may_serve(3, "a:443"), "no longer");
        assert!(!unchallenged.may_serve(2 + millis(limits::UNCHALLENGED_AGE), "free:443"));
    }

    #[test]
    fn the_number_of_remembered_destinations_is_bounded() {
        let unchallenged = Unchallenged::default();
        unchallenged.served(0, "free:443");
        (0..3 * limits::CHALLENGED_DESTINATIONS).for_each(|number| unchallenged.challenged(&format!("h{number}:1")));
        let inner = unchallenged.lock();
        assert_eq!(
            (inner.challenged.len(), inner.order.len()),
            (limits::CHALLENGED_DESTINATIONS, limits::CHALLENGED_DESTINATIONS)
        );
    }
}
