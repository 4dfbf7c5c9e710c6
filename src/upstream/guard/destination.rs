//! Destinations as the guard distinguishes them: by a keyed hash that ignores letter case and a final dot.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher};

use crate::limits;

/// Hashes `host:port`. All spellings of a destination have the same hash. A tunnel and plain HTTP are two destinations,
/// because proxies have separate rules for them.
pub(super) fn destination_hash(hasher: &impl BuildHasher, by_connect: bool, destination: &str) -> u64 {
    let mut state = hasher.build_hasher();
    by_connect.hash(&mut state);
    write_folded(&mut state, destination);
    state.finish()
}

/// Hashes a request to an upstream, the method included, because proxies exempt destinations by method, too.
pub(super) fn demand_hash(hasher: &impl BuildHasher, upstream: &str, method: &str, destination: &str) -> u64 {
    let mut state = hasher.build_hasher();
    upstream.hash(&mut state);
    method.hash(&mut state);
    write_folded(&mut state, destination);
    state.finish()
}

fn write_folded(state: &mut impl Hasher, destination: &str) {
    let (host, port) = destination.rsplit_once(':').unwrap_or((destination, ""));
    let host = host.strip_suffix('.').unwrap_or(host);
    // In pieces, because the hasher takes as long for a byte as for eight.
    let mut folded = [0; 64];
    for piece in host.as_bytes().chunks(folded.len()) {
        let folded = &mut folded[..piece.len()];
        folded.copy_from_slice(piece);
        folded.make_ascii_lowercase();
        state.write(folded);
    }
    state.write_u8(b':');
    state.write(port.as_bytes());
}

/// Recently noted hashes: at most [`limits::GUARD_RECENT`], each for [`limits::GUARD_RECENT_AGE`]; the oldest are
/// dropped first.
#[derive(Debug, Default)]
pub(super) struct Recent {
    seen_ms: HashMap<u64, u64>,
    order: VecDeque<u64>,
}

impl Recent {
    pub(super) fn note(&mut self, hash: u64, now_ms: u64) {
        if self.seen_ms.insert(hash, now_ms).is_some() {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > limits::GUARD_RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen_ms.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, hash: u64, now_ms: u64) -> bool {
        let recently = |seen_ms: &u64| now_ms < seen_ms + limits::millis(limits::GUARD_RECENT_AGE);
        self.seen_ms.get(&hash).is_some_and(recently)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::RandomState;

    #[test]
    fn all_spellings_of_a_destination_have_one_hash() {
        let hasher = RandomState::new();
        let hash = |destination| destination_hash(&hasher, true, destination);
        for spelling in ["A.Blocked.Test:443", "a.blocked.test.:443", "A.BLOCKED.TEST.:443"] {
            assert_eq!(hash(spelling), hash("a.blocked.test:443"), "{spelling}");
        }
        for other in ["a.blocked.test:80", "b.blocked.test:443", "blocked.test:443", "a.blocked.test4:43"] {
            assert_ne!(hash(other), hash("a.blocked.test:443"), "{other}");
        }
        assert_ne!(demand_hash(&hasher, "u", "GET", "a:80"), demand_hash(&hasher, "u", "POST", "a:80"));
    }

    #[test]
    fn recent_hashes_are_bounded_and_expire() {
        let mut recent = Recent::default();
        for hash in 0..2 * limits::GUARD_RECENT as u64 {
            recent.note(hash, 5);
        }
        assert_eq!(recent.seen_ms.len(), limits::GUARD_RECENT);
        assert!(!recent.contains(0, 6), "pushed out");
        let last = 2 * limits::GUARD_RECENT as u64 - 1;
        let age_ms = limits::millis(limits::GUARD_RECENT_AGE);
        assert!(recent.contains(last, 4 + age_ms) && !recent.contains(last, 5 + age_ms));
    }
}
