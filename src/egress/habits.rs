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
    asked_again: AtomicU32,
    /// Its connections are not reused until then, in ms.
    forgetful_until_ms: AtomicU64,
    /// No CONNECT is tried on an authenticated connection until then, in ms.
    no_connect_until_ms: AtomicU64,
    /// When it last answered, in ms; 0 if it has not.
    heard_ms: AtomicU64,
    /// It is known until then, in ms, that it asks for credentials before it has read a body.
    hasty_until_ms: AtomicU64,
    /// How many requests it has served without authentication; counts only while `asks` is false.
    unasked: AtomicU32,
    /// It has asked for authentication at least once.
    asks: AtomicBool,
    /// The lowest age at which a challenge was too old for it, in ms; 0 if none was.
    spoils_ms: AtomicU64,
    /// The destination of the latest request on an authenticated connection that got a 407 and could not be retried.
    unresolved: Mutex<Option<Box<str>>>,
    /// At most [`limits::DESTINATIONS_REMEMBERED`].
    destinations: Mutex<HashMap<Box<str>, Remembered>>,
}

/// What is known about a destination, until then, in ms.
#[derive(Debug)]
struct Remembered {
    asks: Asks,
    until_ms: u64,
}

/// Whether an upstream asks for credentials before it serves requests for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// It does, at least for some requests.
    Yes,
    /// It has served a request with a body without asking.
    No,
    /// Nothing is known, or it is too long ago.
    Unknown,
}

impl Habits {
    /// A request on an authenticated connection was served.
    pub fn kept_is_served(&self) {
        if self.asked_again.load(Ordering::Relaxed) != 0 {
            self.asked_again.store(0, Ordering::Relaxed);
        }
    }

    /// A request on an authenticated connection got a 407 and cannot be retried. The reason shows when a request for
    /// the same destination is answered on a fresh connection.
    pub fn kept_is_asked(&self, destination: &str) {
        *lock(&self.unresolved) = Some(name(destination));
    }

    /// A request was served on a connection that was authenticated for it. `after_407`: the same request had got a 407
    /// on an authenticated connection just before, so the destination was not the reason. After
    /// [`limits::REAUTHENTICATIONS`] such 407s in a row, the upstream's connections are not reused for
    /// [`limits::HABIT_AGE`].
    pub fn fresh_is_served(&self, destination: &str, after_407: bool, now_ms: u64) {
        let resolved = || lock(&self.unresolved).take_if(|other| **other == *name(destination)).is_some();
        if !(after_407 || resolved()) {
            return;
        }
        let times = self.asked_again.fetch_add(1, Ordering::Relaxed) + 1;
        if times >= limits::REAUTHENTICATIONS {
            self.forgetful_until_ms.store(now_ms + millis(limits::HABIT_AGE), Ordering::Relaxed);
            // After that time, a single one is enough.
            self.asked_again.store(limits::REAUTHENTICATIONS - 1, Ordering::Relaxed);
        }
    }

    /// Whether authentication is taken to last for one request only, so that connections are not worth reusing.
    pub fn is_forgetful(&self, now_ms: u64) -> bool {
        now_ms < self.forgetful_until_ms.load(Ordering::Relaxed)
    }

    /// A CONNECT on an authenticated connection got a 407, and was granted after another logon.
    pub fn kept_refuses_connect(&self, now_ms: u64) {
        self.no_connect_until_ms.store(now_ms + millis(limits::HABIT_AGE), Ordering::Relaxed);
    }

    /// Whether a CONNECT may be tried on an authenticated connection.
    pub fn takes_connect_on_kept(&self, now_ms: u64) -> bool {
        now_ms >= self.no_connect_until_ms.load(Ordering::Relaxed)
    }

    /// It has asked for authentication (`asked`), or has served a request without.
    pub fn asked_for_authentication(&self, asked: bool) {
        match asked {
            true if self.asks.load(Ordering::Relaxed) => {}
            true => self.asks.store(true, Ordering::Relaxed),
            false => drop(self.unasked.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Whether it seems not to require authentication at all: it has served [`limits::UNCHALLENGED_REQUESTS`] requests
    /// without, and never asked. Then requests need not wait for a scout.
    pub fn grants_unasked(&self) -> bool {
        !self.asks.load(Ordering::Relaxed) && self.unasked.load(Ordering::Relaxed) >= limits::UNCHALLENGED_REQUESTS
    }

    /// A challenge of this age, in ms, was too old.
    pub fn challenge_spoiled(&self, age_ms: u64) {
        let known_ms = self.spoils_ms.load(Ordering::Relaxed);
        if known_ms == 0 || age_ms < known_ms {
            self.spoils_ms.store(age_ms.max(1), Ordering::Relaxed);
        }
    }

    /// How long a challenge may wait for a client, in ms: `most_ms` as configured, or half of the age that was once too
    /// old if that is less.
    pub fn challenge_age_ms(&self, most_ms: u64) -> u64 {
        match self.spoils_ms.load(Ordering::Relaxed) {
            0 => most_ms,
            spoils_ms => most_ms.min(spoils_ms / 2),
        }
    }

    /// It has answered.
    pub fn heard(&self, now_ms: u64) {
        self.heard_ms.store(now_ms.max(1), Ordering::Relaxed);
    }

    /// Whether it has answered within [`limits::RESPONSIVE_AGE`].
    pub fn is_heard_of(&self, now_ms: u64) -> bool {
        let heard_ms = self.heard_ms.load(Ordering::Relaxed);
        heard_ms != 0 && now_ms.saturating_sub(heard_ms) < millis(limits::RESPONSIVE_AGE)
    }

    /// It has asked for credentials before it had received the body.
    pub fn asks_before_body(&self, now_ms: u64) {
        self.hasty_until_ms.store(now_ms + millis(limits::HABIT_AGE), Ordering::Relaxed);
    }

    /// Whether it is known to ask for credentials, if it does, before it has received the body.
    pub fn is_known_to_ask_before_body(&self, now_ms: u64) -> bool {
        now_ms < self.hasty_until_ms.load(Ordering::Relaxed)
    }

    /// It has asked for credentials for a destination.
    pub fn asks(&self, destination: &str, now_ms: u64) {
        self.remember(destination, Asks::Yes, now_ms);
    }

    /// It has served a request with a body for a destination without asking. If it asks for other requests there, that
    /// takes precedence.
    pub fn serves_unasked(&self, destination: &str, now_ms: u64) {
        if self.asks_at(destination, now_ms) != Asks::Yes {
            self.remember(destination, Asks::No, now_ms);
        }
    }

    /// Whether it asks for credentials for a destination.
    pub fn asks_at(&self, destination: &str, now_ms: u64) -> Asks {
        match lock(&self.destinations).get(&name(destination)) {
            Some(remembered) if now_ms < remembered.until_ms => remembered.asks,
            _ => Asks::Unknown,
        }
    }

    fn remember(&self, destination: &str, asks: Asks, now_ms: u64) {
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
            habits.kept_is_asked("blocked.test:80");
            habits.fresh_is_served("other.test:80", false, 0);
        }
        assert!(!habits.is_forgetful(0), "the destination may be the reason");
        for round in 1..=limits::REAUTHENTICATIONS {
            assert!(!habits.is_forgetful(0), "after {round}");
            habits.fresh_is_served("any.test:80", true, 0);
        }
        assert!(habits.is_forgetful(0));
    }

    #[test]
    fn a_407_without_retry_counts_once_the_next_request_is_served() {
        let habits = Habits::default();
        for _ in 0..limits::REAUTHENTICATIONS {
            habits.kept_is_asked("Some.test:80");
            habits.fresh_is_served("some.test:80", false, 0);
        }
        assert!(habits.is_forgetful(0));
    }

    #[test]
    fn reuse_is_tried_again_after_a_while_and_given_up_sooner() {
        let habits = Habits::default();
        (0..limits::REAUTHENTICATIONS).for_each(|_| habits.fresh_is_served("a:80", true, 5));
        assert!(habits.is_forgetful(AGE_MS + 4) && !habits.is_forgetful(AGE_MS + 5));
        habits.fresh_is_served("a:80", true, AGE_MS + 5);
        assert!(habits.is_forgetful(AGE_MS + 5), "a single one is enough now");
        habits.kept_is_served();
        (1..limits::REAUTHENTICATIONS).for_each(|_| habits.fresh_is_served("a:80", true, 3 * AGE_MS));
        assert!(!habits.is_forgetful(3 * AGE_MS), "a request served in between resets the count");
    }

    #[test]
    fn connect_on_reused_connections_is_tried_again_after_a_while() {
        let habits = Habits::default();
        assert!(habits.takes_connect_on_kept(0));
        habits.kept_refuses_connect(7);
        assert!(!habits.takes_connect_on_kept(AGE_MS + 6) && habits.takes_connect_on_kept(AGE_MS + 7));
    }

    #[test]
    fn what_a_destination_requires_is_remembered_for_a_while() {
        let habits = Habits::default();
        habits.serves_unasked("Free.test:80", 0);
        assert_eq!(habits.asks_at("free.test:80", AGE_MS - 1), Asks::No);
        assert_eq!(habits.asks_at("free.test:80", AGE_MS), Asks::Unknown);
        habits.asks("free.test:80", 0);
        habits.serves_unasked("free.test:80", 0);
        assert_eq!(habits.asks_at("free.test:80", 0), Asks::Yes, "it asks for some requests");
        for number in 0..2 * limits::DESTINATIONS_REMEMBERED {
            habits.asks(&format!("{number}.test:80"), 0);
        }
        assert!(lock(&habits.destinations).len() <= limits::DESTINATIONS_REMEMBERED);
    }
}
