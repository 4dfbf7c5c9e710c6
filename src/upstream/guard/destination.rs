//! Destinations as the guard distinguishes them: by a keyed hash that ignores letter case and a final dot.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

use crate::limits;

/// Hashes `host:port`. All spellings of a destination have the same hash. A tunnel and plain HTTP are two destinations,
/// because proxies have separate rules for them.
pub(super) fn destination_hash(hasher: &impl BuildHasher, by_connect: bool, destination: &str) -> u64 {
    let mut state = hasher.build_hasher();
    write_folded(&mut state, u8::from(by_connect), destination);
    state.finish()
}

/// Hashes a request to an upstream, the method included, because proxies exempt destinations by method, too.
/// `destination` is the hash of the destination, which distinguishes CONNECT from all other methods.
pub(super) fn demand_hash(hasher: &impl BuildHasher, upstream: &str, method: &str, destination: u64) -> u64 {
    let mut state = hasher.build_hasher();
    upstream.hash(&mut state);
    state.write_u64(destination);
    if method != "CONNECT" {
        method.hash(&mut state);
    }
    state.finish()
}

/// Hashes `kind` and the destination. The hasher takes as long for a byte as for eight, so a destination of the usual
/// length is put together first.
fn write_folded(state: &mut impl Hasher, kind: u8, destination: &str) {
    let port_at = destination.bytes().rposition(|byte| byte == b':').unwrap_or(destination.len());
    let (host, port) = destination.as_bytes().split_at(port_at);
    let host = host.strip_suffix(b".").unwrap_or(host);
    let mut folded = [kind; 64];
    let length = 1 + host.len() + port.len();
    if let Some(room) = folded.get_mut(1..length) {
        let (of_host, of_port) = room.split_at_mut(host.len());
        of_host.copy_from_slice(host);
        of_host.make_ascii_lowercase();
        of_port.copy_from_slice(port);
        state.write(&folded[..length]);
    } else {
        state.write_u8(kind);
        host.iter().for_each(|byte| state.write_u8(byte.to_ascii_lowercase()));
        state.write(port);
    }
}

/// Recently noted hashes: at most [`limits::GUARD_RECENT`], each for [`limits::GUARD_RECENT_AGE`]; the oldest are
/// dropped first.
#[derive(Debug, Default)]
pub(super) struct Recent {
    seen_ms: HashMap<u64, u64, BuildHasherDefault<Hashed>>,
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

/// Hashes a key that is a hash already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::RandomState;

    #[test]
    fn all_spellings_of_a_destination_have_one_hash() {
        let hasher = RandomState::new();
        let hash = |destination: &str| destination_hash(&hasher, true, destination);
        for spelling in ["A.Blocked.Test:443", "a.blocked.test.:443", "A.BLOCKED.TEST.:443"] {
            assert_eq!(hash(spelling), hash("a.blocked.test:443"), "{spelling}");
        }
        let long = |end: &str| format!("{}.Test{end}", "Long.".repeat(20));
        assert_eq!(hash(&long(":443")), hash(&long(".:443").to_ascii_uppercase()));
        assert_ne!(hash(&long(":443")), hash(&long(":444")));
        for other in ["a.blocked.test:80", "b.blocked.test:443", "blocked.test:443", "a.blocked.test4:43"] {
            assert_ne!(hash(other), hash("a.blocked.test:443"), "{other}");
        }
        let demand = |upstream, method, destination| demand_hash(&hasher, upstream, method, hash(destination));
        for other in [("u", "POST", "a:80"), ("v", "GET", "a:80"), ("u", "GET", "b:80"), ("u", "CONNECT", "a:80")] {
            assert_ne!(demand("u", "GET", "a:80"), demand(other.0, other.1, other.2), "{other:?}");
        }
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
