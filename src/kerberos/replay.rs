//! Replay detection (RFC 4120 §3.2.3): a service remembers the authenticators that it has accepted, for as long as they
//! could be accepted again.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::acceptor::{AcceptError, Accepted};
use super::time::Timestamp;
use crate::limits;

/// What identifies an authenticator: ctime with cusec, and a hash of the client's name.
type Seen = (u64, u64);

/// The authenticators that were accepted lately.
///
/// Two generations: when the younger one has lasted as long as any of its entries can matter, or is full, it becomes
/// the older one, and the older one is forgotten. So the memory is bounded, at the price that a service that accepts
/// more than [`limits::KERBEROS_REPLAYS`] tokens within ten minutes remembers them for a shorter time.
#[derive(Debug, Default)]
pub struct ReplayCache {
    names: RandomState,
    younger: HashSet<Seen>,
    older: HashSet<Seen>,
    began: Timestamp,
}

impl ReplayCache {
    /// Remembers an authenticator that was accepted at the time `now`.
    ///
    /// # Errors
    /// [`AcceptError::Repeated`] if it was remembered before.
    pub fn remember(&mut self, accepted: &Accepted, now: Timestamp) -> Result<(), AcceptError> {
        // An authenticator may be ahead of our clock by the permitted difference, and be late by the same.
        let lifetime = limits::KERBEROS_CLOCK_SKEW * 2;
        if self.younger.len() >= limits::KERBEROS_REPLAYS || now.since(self.began) > lifetime {
            self.older = std::mem::take(&mut self.younger);
            self.began = now;
        }
        let client = (&accepted.client.realm, accepted.client.name.components());
        let seen = (accepted.time.micros(), self.names.hash_one(client));
        match self.older.contains(&seen) || !self.younger.insert(seen) {
            true => Err(AcceptError::Repeated),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kerberos::Principal;

    fn accepted(client: &str, micros: u64) -> Accepted {
        Accepted {
            client: Principal::parse(client, Some("EXAMPLE.COM")).unwrap(),
            time: Timestamp::from_micros(micros),
            channel_bindings: [0; 16],
            end: Timestamp::MAX,
            reply: None,
        }
    }

    #[test]
    fn an_authenticator_is_accepted_once_while_it_could_be_accepted() {
        let (mut cache, start) = (ReplayCache::default(), Timestamp::from_seconds(1_800_000_000));
        let mut remember = |client: &str, micros: u64, after: u64| {
            cache.remember(&accepted(client, micros), start.plus(Duration::from_secs(after)))
        };
        assert_eq!(remember("alice", 1, 0), Ok(()));
        assert_eq!(remember("alice", 1, 0), Err(AcceptError::Repeated));
        assert_eq!(remember("alice", 2, 0), Ok(()), "another microsecond");
        assert_eq!(remember("bob", 1, 0), Ok(()), "another client");
        assert_eq!(remember("bob", 3, 601), Ok(()));
        assert_eq!(remember("alice", 1, 602), Err(AcceptError::Repeated), "it is in the older generation");
        assert_eq!(remember("alice", 1, 1300), Ok(()), "it is forgotten: its time is over long ago");
    }

    #[test]
    fn the_number_of_remembered_authenticators_is_bounded() {
        let (mut cache, now) = (ReplayCache::default(), Timestamp::from_seconds(1_800_000_000));
        let count = 2 * limits::KERBEROS_REPLAYS as u64 + 2;
        for micros in 0..count {
            assert_eq!(cache.remember(&accepted("alice", micros), now), Ok(()));
        }
        assert!(cache.younger.len() + cache.older.len() <= 2 * limits::KERBEROS_REPLAYS);
        assert_eq!(cache.remember(&accepted("alice", count - 1), now), Err(AcceptError::Repeated));
    }
}
