//! What an upstream's behaviour has shown: how long it keeps a connection authenticated, and for which destinations it
//! asks for credentials.
//!
//! A habit needs evidence, because the reason for a single 407 may be its destination. It is forgotten after
//! [`limits::HABIT_AGE`], because an upstream's configuration may change.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::limits::{self, millis};

/// The habits of an upstream towards one identity, shared by all shards.
#[derive(Debug, Default)]
pub struct Habits {
    /// How many times in a row it has asked for authentication again on an authenticated connection.
    reauthentications: AtomicU32,
    /// Its connections are not reused until then, in ms.
    no_reuse_until_ms: AtomicU64,
    /// No CONNECT is tried on an authenticated connection until then, in ms.
    no_connect_until_ms: AtomicU64,
    /// When it last answered, in ms; 0 if it has not.
    responded_ms: AtomicU64,
    /// It is known until then, in ms, that it asks for credentials before it has read a body.
    challenges_before_body_until_ms: AtomicU64,
    /// How many requests it has served without authentication; counts only while `has_challenged` is false.
    unchallenged_requests: AtomicU32,
    /// It has asked for authentication at least once.
    has_challenged: AtomicBool,
    /// The lowest age at which a challenge was too old for it, in ms; 0 if none was.
    stale_age_ms: AtomicU64,
    /// The destination of the latest request on an authenticated connection that got a 407 and could not be retried.
    unexplained_407: Mutex<Option<Box<str>>>,
    /// At most [`limits::DESTINATIONS_REMEMBERED`].
    destinations: Mutex<HashMap<Box<str>, Remembered>>,
}

/// What is known about a destination, until then, in ms.
#[derive(Debug)]
struct Remembered {
    asks: AuthDemand,
    until_ms: u64,
}

/// Whether an upstream asks for credentials before it serves requests for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthDemand {
    /// It does, at least for some requests.
    Yes,
    /// It has served a request with a body without asking.
    No,
    /// Nothing is known, or it is too long ago.
    Unknown,
}

impl Habits {
    /// A request on an authenticated connection was served.
    pub fn served_on_reuse(&self) {
        if self.reauthentications.load(Ordering::Relaxed) != 0 {
            self.reauthentications.store(0, Ordering::Relaxed);
        }
    }

    /// A request on an authenticated connection got a 407 and cannot be retried. The reason shows when a request for
    /// the same destination is answered on a fresh connection.
    pub fn challenged_on_reuse(&self, destination: &str) {
        *lock(&self.unexplained_407) = Some(name(destination));
    }

    /// A request was served on a connection that was authenticated for it. `after_407`: the same request had got a 407
    /// on an authenticated connection just before, so the destination was not the reason. After
    /// [`limits::REAUTHENTICATIONS`] such 407s in a row, the upstream's connections are not reused for
    /// [`limits::HABIT_AGE`].
    pub fn served_on_fresh(&self, destination: &str, after_407: bool, now_ms: u64) {
        let resolved = || lock(&self.unexplained_407).take_if(|other| **other == *name(destination)).is_some();
        if !(after_407 || resolved()) {
            return;
        }
        let times = self.reauthentications.fetch_add(1, Ordering::Relaxed) + 1;
        if times >= limits::REAUTHENTICATIONS {
            self.no_reuse_until_ms.store(now_ms + millis(limits::HABIT_AGE), Ordering::Relaxed);
            // After that time, a single one is enough.
            self.reauthentications.store(limits::REAUTHENTICATIONS - 1, Ordering::Relaxed);
        }
    }

    /// Whether authentication is taken to last for one request only, so that connections are not worth reusing.
    pub fn authenticates_single_requests(&self, now_ms: u64) -> bool {
        now_ms < self.no_reuse_until_ms.load(Ordering::Relaxed)
    }

    /// A CONNECT on an authenticated connection got a 407, and was granted after another logon.
    pub fn refused_connect_on_reuse(&self, now_ms: u64) {
        self.no_connect_until_ms.store(now_ms + millis(limits::HABIT_AGE), Ordering::Relaxed);
    }

    /// Whether a CONNECT may be tried on an authenticated connection.
    pub fn may_reuse_for_connect(&self, now_ms: u64) -> bool {
        now_ms >= self.no_connect_until_ms.load(Ordering::Relaxed)
    }

    /// It has asked for authentication (`asked`), or has served a request without.
    pub fn asked_for_authentication(&self, asked: bool) {
        match asked {
            true if self.has_challenged.load(Ordering::Relaxed) => {}
            true => self.has_challenged.store(true, Ordering::Relaxed),
            false => drop(self.unchallenged_requests.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Whether it seems not to require authentication at all: it has served [`limits::UNCHALLENGED_REQUESTS`] requests
    /// without, and never asked. Then requests need not wait for a scout.
    pub fn serves_unchallenged(&self) -> bool {
        !self.has_challenged.load(Ordering::Relaxed)
            && self.unchallenged_requests.load(Ordering::Relaxed) >= limits::UNCHALLENGED_REQUESTS
    }

    /// A challenge of this age, in ms, was too old.
    pub fn challenge_was_stale(&self, age_ms: u64) {
        let known_ms = self.stale_age_ms.load(Ordering::Relaxed);
        if known_ms == 0 || age_ms < known_ms {
            self.stale_age_ms.store(age_ms.max(1), Ordering::Relaxed);
        }
    }

    /// How long a challenge may wait for a client, in ms: `most_ms` as configured, or half of the age that was once too
    /// old if that is less.
    pub fn challenge_age_ms(&self, most_ms: u64) -> u64 {
        match self.stale_age_ms.load(Ordering::Relaxed) {
            0 => most_ms,
            stale_age_ms => most_ms.min(stale_age_ms / 2),
        }
    }

    /// It has answered.
    pub fn responded(&self, now_ms: u64) {
        self.responded_ms.store(now_ms.max(1), Ordering::Relaxed);
    }

    /// Whether it has answered within [`limits::RESPONSIVE_AGE`].
    pub fn is_responsive(&self, now_ms: u64) -> bool {
        let responded_ms = self.responded_ms.load(Ordering::Relaxed);
        responded_ms != 0 && now_ms.saturating_sub(responded_ms) < millis(limits::RESPONSIVE_AGE)
    }

    /// It has asked for credentials before it had received the body.
    pub fn challenged_before_body(&self, now_ms: u64) {
        self.challenges_before_body_until_ms.store(now_ms + millis(limits::HABIT_AGE), Ordering::Relaxed);
    }

    /// Whether it is known to ask for credentials, if it does, before it has received the body.
    pub fn challenges_before_body(&self, now_ms: u64) -> bool {
        now_ms < self.challenges_before_body_until_ms.load(Ordering::Relaxed)
    }

    /// It has asked for credentials for a destination.
    pub fn challenged_for(&self, destination: &str, now_ms: u64) {
        self.remember(destination, AuthDemand::Yes, now_ms);
    }

    /// It has served a request with a body for a destination without asking. If it asks for other requests there, that
    /// takes precedence.
    pub fn served_unchallenged(&self, destination: &str, now_ms: u64) {
        if self.auth_demand(destination, now_ms) != AuthDemand::Yes {
            self.remember(destination, AuthDemand::No, now_ms);
        }
    }

    /// Whether it asks for credentials for a destination.
    pub fn auth_demand(&self, destination: &str, now_ms: u64) -> AuthDemand {
        match lock(&self.destinations).get(&name(destination)) {
            Some(remembered) if now_ms < remembered.until_ms => remembered.asks,
            _ => AuthDemand::Unknown,
        }
    }

    fn remember(&self, destination: &str, asks: AuthDemand, now_ms: u64) {
        let mut destinations = lock(&self.destinations);
        let name = name(destination);
        if destinations.len() >= limits::DESTINATIONS_REMEMBERED && !destinations.contains_key(&name) {
            destinations.retain(|_, remembered| now_ms < remembered.until_ms);
            if destinations.len() >= limits::DESTINATIONS_REMEMBERED {
                // All may go: a forgotten destination costs one round trip.
                destinations.clear();
            }
        }
        destinations.insert(name, Remembered { asks, until_ms: now_ms + millis(limits::HABIT_AGE) });
    }
}

/// A destination in lower case, because hosts are case-insensitive (RFC 9110 §4.2.3).
fn name(destination: &str) -> Box<str> {
    destination.to_ascii_lowercase().into()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE_MS: u64 = limits::HABIT_AGE.as_secs() * 1000;

    #[test]
    fn a_407_on_a_reused_connection_counts_once_a_fresh_one_is_served() {
        let habits = Habits::default();
        for _ in 0..10 {
            habits.challenged_on_reuse("blocked.test:80");
            habits.served_on_fresh("other.test:80", false, 0);
        }
        assert!(!habits.authenticates_single_requests(0), "the destination may be the reason");
        for round in 1..=limits::REAUTHENTICATIONS {
            assert!(!habits.authenticates_single_requests(0), "after {round}");
            habits.served_on_fresh("any.test:80", true, 0);
        }
        assert!(habits.authenticates_single_requests(0));
    }

    #[test]
    fn a_407_without_retry_counts_once_the_next_request_is_served() {
        let habits = Habits::default();
        for _ in 0..limits::REAUTHENTICATIONS {
            habits.challenged_on_reuse("Some.test:80");
            habits.served_on_fresh("some.test:80", false, 0);
        }
        assert!(habits.authenticates_single_requests(0));
    }

    #[test]
    fn reuse_is_tried_again_after_a_while_and_given_up_sooner() {
        let habits = Habits::default();
        (0..limits::REAUTHENTICATIONS).for_each(|_| habits.served_on_fresh("a:80", true, 5));
        assert!(habits.authenticates_single_requests(AGE_MS + 4) && !habits.authenticates_single_requests(AGE_MS + 5));
        habits.served_on_fresh("a:80", true, AGE_MS + 5);
        assert!(habits.authenticates_single_requests(AGE_MS + 5), "a single one is enough now");
        habits.served_on_reuse();
        (1..limits::REAUTHENTICATIONS).for_each(|_| habits.served_on_fresh("a:80", true, 3 * AGE_MS));
        assert!(!habits.authenticates_single_requests(3 * AGE_MS), "a request served in between resets the count");
    }

    #[test]
    fn connect_on_reused_connections_is_tried_again_after_a_while() {
        let habits = Habits::default();
        assert!(habits.may_reuse_for_connect(0));
        habits.refused_connect_on_reuse(7);
        assert!(!habits.may_reuse_for_connect(AGE_MS + 6) && habits.may_reuse_for_connect(AGE_MS + 7));
    }

    #[test]
    fn what_a_destination_requires_is_remembered_for_a_while() {
        let habits = Habits::default();
        habits.served_unchallenged("Free.test:80", 0);
        assert_eq!(habits.auth_demand("free.test:80", AGE_MS - 1), AuthDemand::No);
        assert_eq!(habits.auth_demand("free.test:80", AGE_MS), AuthDemand::Unknown);
        habits.challenged_for("free.test:80", 0);
        habits.served_unchallenged("free.test:80", 0);
        assert_eq!(habits.auth_demand("free.test:80", 0), AuthDemand::Yes, "it asks for some requests");
        for number in 0..2 * limits::DESTINATIONS_REMEMBERED {
            habits.challenged_for(&format!("{number}.test:80"), 0);
        }
        assert!(lock(&habits.destinations).len() <= limits::DESTINATIONS_REMEMBERED);
    }
}
