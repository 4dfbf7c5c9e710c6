//! When the gateway makes a handshake of its own to distinguish a policy from a wrong secret, and for which
//! destination.

use std::time::Duration;

use super::KnownGood;
use crate::limits::{self, millis};

/// The confirmations of one secret at one upstream: one at a time, and none within [`limits::GUARD_CONFIRM_INTERVAL`]
/// of the last one unless an attempt was accepted in between.
#[derive(Debug, Default)]
pub(super) struct ConfirmationSchedule {
    /// Since when one is wanted, in ms.
    wanted_ms: Option<u64>,
    /// Since when one is running, in ms.
    running_ms: Option<u64>,
    /// The next one may be asked for from then on, in ms.
    not_before_ms: u64,
    /// Destinations that were accepted, by hash, the latest last; at most [`limits::GUARD_KNOWN_GOOD`].
    known_good: Vec<(u64, KnownGood)>,
}

impl ConfirmationSchedule {
    /// Asks for a confirmation, unless one is wanted or running, it is too soon, or there is no destination for it.
    pub(super) fn want(&mut self, now_ms: u64) {
        let is_idle = self.wanted_ms.is_none() && self.running_ms.is_none();
        if is_idle && now_ms >= self.not_before_ms && !self.known_good.is_empty() {
            self.wanted_ms = Some(now_ms);
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted_ms.is_some()
    }

    pub(super) fn is_running(&self) -> bool {
        self.running_ms.is_some()
    }

    /// Whether one has been wanted or running for less than `patience`.
    pub(super) fn holds_others(&self, patience: Duration, now_ms: u64) -> bool {
        let since_ms = self.wanted_ms.or(self.running_ms);
        since_ms.is_some_and(|since_ms| now_ms < since_ms + millis(patience))
    }

    /// Whether a wanted one may begin. While other attempts are unanswered it waits for
    /// [`limits::GUARD_RECHECK_INTERVAL`]: their answers may decide without it.
    pub(super) fn may_begin(&self, nothing_unanswered: bool, now_ms: u64) -> bool {
        let waited = |wanted_ms: u64| now_ms >= wanted_ms + millis(limits::GUARD_RECHECK_INTERVAL);
        self.wanted_ms.is_some_and(|wanted_ms| nothing_unanswered || waited(wanted_ms))
    }

    /// Begins a confirmation and returns its destination: the one with the highest rank, the latest accepted of several
    /// that rank equal. A destination that was accepted by CONNECT ranks above an otherwise equal one.
    pub(super) fn begin<R: Ord>(&mut self, now_ms: u64, rank: impl Fn(u64) -> R) -> Option<KnownGood> {
        let full_rank = |(destination, good): &&(u64, KnownGood)| (rank(*destination), good.by_connect);
        let (_, good) = self.known_good.iter().max_by_key(full_rank)?;
        let good = good.clone();
        (self.wanted_ms, self.running_ms) = (None, Some(now_ms));
        self.not_before_ms = now_ms + millis(limits::GUARD_CONFIRM_INTERVAL);
        Some(good)
    }

    pub(super) fn end(&mut self) {
        self.running_ms = None;
    }

    /// The secret was found to be rejected: there is nothing left to confirm.
    pub(super) fn cancel(&mut self) {
        self.wanted_ms = None;
    }

    /// An attempt was accepted: there is nothing left to confirm, and new doubt may be confirmed at once.
    pub(super) fn reset(&mut self) {
        self.wanted_ms = None;
        self.not_before_ms = 0;
    }

    /// The destinations that were accepted.
    pub(super) fn known_good(&self) -> &[(u64, KnownGood)] {
        &self.known_good
    }

    /// Remembers a destination that was accepted.
    pub(super) fn remember(&mut self, destination: u64, good: &KnownGood) {
        match self.known_good.iter().position(|(known, _)| *known == destination) {
            Some(index) => self.known_good[index..].rotate_left(1),
            None => {
                self.known_good.push((destination, good.clone()));
                let surplus = self.known_good.len().saturating_sub(limits::GUARD_KNOWN_GOOD);
                self.known_good.drain(..surplus);
            }
        }
    }

    /// A destination gave no verdict: all others are tried before it next time.
    pub(super) fn put_last(&mut self, destination: u64) {
        if let Some(index) = self.known_good.iter().position(|(known, _)| *known == destination) {
            self.known_good[..=index].rotate_right(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(destinations: &[(u64, bool)]) -> ConfirmationSchedule {
        let mut schedule = ConfirmationSchedule::default();
        for (destination, by_connect) in destinations {
            schedule.remember(*destination, &good(*destination, *by_connect));
        }
        schedule
    }

    fn good(destination: u64, by_connect: bool) -> KnownGood {
        KnownGood { destination: destination.to_string().into(), by_connect }
    }

    #[test]
    fn the_latest_accepted_destination_confirms_unless_another_ranks_higher() {
        let mut schedule = schedule(&[(1, true), (2, true), (3, false)]);
        assert_eq!(schedule.begin(0, |_| ()), Some(good(2, true)), "CONNECT first");
        assert_eq!(schedule.begin(0, |destination| destination == 1), Some(good(1, true)));
        schedule.remember(1, &good(1, true));
        assert_eq!(schedule.begin(0, |_| ()), Some(good(1, true)));
        schedule.put_last(1);
        assert_eq!(schedule.begin(0, |_| ()), Some(good(2, true)));
    }

    #[test]
    fn confirmations_keep_their_distance_until_an_attempt_is_accepted() {
        let mut schedule = schedule(&[(1, true)]);
        schedule.want(0);
        assert!(schedule.may_begin(true, 0) && !schedule.may_begin(false, 0));
        assert!(schedule.may_begin(false, millis(limits::GUARD_RECHECK_INTERVAL)));
        schedule.begin(0, |_| ());
        schedule.end();
        schedule.want(1);
        assert!(!schedule.is_wanted(), "too soon");
        schedule.reset();
        schedule.want(1);
        assert!(schedule.is_wanted());
    }

    #[test]
    fn without_a_known_destination_no_confirmation_is_wanted() {
        let mut schedule = ConfirmationSchedule::default();
        schedule.want(0);
        assert!(!schedule.is_wanted());
    }
}
