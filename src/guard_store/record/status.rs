//! What an operator is shown of a record. Nothing here changes one.

use super::{Actor, Entry, Known, Outcome, Place, Purpose, Record, Reserved};
use crate::upstream::{GuardPolicy, GuardState};

/// What is known of a secret at an upstream. Times are in ms since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceStatus {
    /// What the next attempt would start from.
    pub state: GuardState,
    /// When the secret was last accepted and rejected, and until when nothing is sent.
    pub known: Known,
    /// When the next attempt may be made if nothing else happens; not later than now if it may be made now.
    pub next_ms: u64,
}

/// The attempts of an account that count against its budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// All of them.
    pub all: usize,
    /// Those with other secrets than those that were asked about.
    pub with_other_secrets: usize,
    /// Reservations that have not been settled: they are under way, or their process has ended.
    pub unsettled: usize,
    /// Attempts that do not count, but are kept for processes that lose the store.
    pub kept_aside: usize,
    /// When fewer count if nothing else happens, in ms since 1970; `None` if none counts.
    pub fewer_at_ms: Option<u64>,
}

impl Record {
    /// What is known of a secret at an upstream, and when it may be tried next.
    pub fn status(&self, place: &Place, actor: &Actor<'_>) -> PlaceStatus {
        let now_ms = actor.now_ms;
        let known = self.known(place);
        let state = match self.at(place) {
            Some(at) if now_ms < at.until_ms => GuardState::Refused,
            Some(at) if self.is_proven(at) => GuardState::Proven,
            _ => GuardState::Unproven,
        };
        let next_ms = match self.clone().reserve(place, Purpose::default(), actor) {
            Reserved::Granted(_) | Reserved::OnlySpare => now_ms,
            Reserved::Wait { until_ms } | Reserved::Denied { until_ms } => until_ms,
        };
        PlaceStatus { state, known, next_ms }
    }

    /// The attempts that count against the budget, `secrets` being the fingerprints of the secrets in use.
    pub fn counted_beside(&self, secrets: &[&str], actor: &Actor<'_>) -> Counted {
        let (policy, now_ms) = (actor.policy, actor.now_ms);
        let all = self.counted(policy, now_ms);
        let mut own = self.clone();
        own.attempts.retain(|entry| secrets.contains(&entry.place.secret.as_str()));
        let counts = |entry: &&Entry| now_ms < entry.counts_until_ms(policy);
        let reserved = |entry: &&Entry| entry.outcome == Outcome::Reserved;
        Counted {
            all,
            with_other_secrets: all.saturating_sub(own.counted(policy, now_ms)),
            unsettled: self.attempts.iter().filter(counts).filter(reserved).count(),
            kept_aside: self.kept_aside(actor),
            fewer_at_ms: self.counted_until(policy, now_ms).first().map(|(end_ms, _)| *end_ms),
        }
    }

    /// How many attempts count and until when if nothing else happens: at first, after that, and so on until none does.
    /// Times are in ms since 1970.
    pub fn counted_until(&self, policy: &GuardPolicy, now_ms: u64) -> Vec<(u64, usize)> {
        let mut ends_ms: Vec<u64> = self.attempts.iter().map(|entry| entry.counts_until_ms(policy)).collect();
        ends_ms.sort_unstable();
        let mut steps = Vec::new();
        let mut count = self.counted(policy, now_ms);
        for end_ms in ends_ms.into_iter().filter(|end_ms| now_ms < *end_ms) {
            let fewer = self.counted(policy, end_ms);
            if fewer < count {
                steps.push((end_ms, count));
                count = fewer;
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::super::Shares;
    use super::*;
    use crate::limits::{self, millis};
    use crate::upstream::{AttemptEnd, Unreserved};

    const NOW_MS: u64 = 1_800_000_000_000;
    const MINUTE_MS: u64 = 60_000;
    const POLICY: GuardPolicy = GuardPolicy {
        attempts: 3,
        window: limits::GUARD_WINDOW,
        backoff: limits::GUARD_BACKOFF,
        backoff_factor: limits::GUARD_BACKOFF_FACTOR,
        pending_wait: limits::GUARD_PENDING_WAIT,
        acceptance_age: limits::GUARD_ACCEPTANCE_AGE,
    };

    fn place(secret: &str) -> Place {
        Place { secret: secret.into(), upstream: "proxy".into() }
    }

    fn at(now_ms: u64) -> Actor<'static> {
        Actor { owner: 1, policy: &POLICY, shares: Shares::default(), now_ms, clock_error_ms: 0 }
    }

    /// Makes an attempt that is over at once.
    fn attempt(record: &mut Record, place: &Place, end: AttemptEnd, now_ms: u64) {
        let reserved = record.reserve(place, Purpose::default(), &at(now_ms));
        let Reserved::Granted(number) = reserved else { panic!("{reserved:?}") };
        record.settle(place, number, end, &at(now_ms));
    }

    #[test]
    fn the_status_follows_rejection_acceptance_and_reset() {
        let (mut record, place) = (Record::default(), place("a"));
        let status = |record: &Record, now_ms| record.status(&place, &at(now_ms));
        assert_eq!(
            status(&record, NOW_MS),
            PlaceStatus { state: GuardState::Unproven, known: Known::default(), next_ms: NOW_MS }
        );
        attempt(&mut record, &place, AttemptEnd::Refused { strike: true }, NOW_MS);
        let refused = status(&record, NOW_MS + 1);
        let until_ms = NOW_MS + millis(limits::GUARD_BACKOFF);
        assert_eq!((refused.state, refused.next_ms), (GuardState::Refused, until_ms));
        assert_eq!((refused.known.struck_ms, refused.known.until_ms), (NOW_MS, until_ms));
        let rested = status(&record, until_ms);
        assert_eq!((rested.state, rested.next_ms), (GuardState::Unproven, until_ms));
        attempt(&mut record, &place, AttemptEnd::Accepted, until_ms);
        let proven = status(&record, until_ms);
        assert_eq!((proven.state, proven.known.accepted_ms), (GuardState::Proven, until_ms));
        attempt(&mut record, &place, AttemptEnd::Refused { strike: false }, until_ms + 1);
        assert_eq!(status(&record, until_ms + 2).state, GuardState::Unproven, "something speaks against it");
        record.reset(until_ms + 3);
        let reset = status(&record, until_ms + 3);
        assert_eq!((reset.state, reset.known.reset_ms), (GuardState::Unproven, until_ms + 3));
    }

    #[test]
    fn attempts_with_other_secrets_and_unsettled_ones_are_counted_separately() {
        let mut record = Record::default();
        assert_eq!(record.counted_beside(&["a"], &at(NOW_MS)), Counted::default());
        attempt(&mut record, &place("old"), AttemptEnd::Refused { strike: true }, NOW_MS);
        attempt(&mut record, &place("a"), AttemptEnd::Refused { strike: true }, NOW_MS + MINUTE_MS);
        record.reserve(&place("new"), Purpose::default(), &at(NOW_MS + 2 * MINUTE_MS));
        let counted = record.counted_beside(&["a"], &at(NOW_MS + 5 * MINUTE_MS));
        assert_eq!((counted.all, counted.with_other_secrets, counted.unsettled), (3, 2, 1));
        let ends_ms = counted.fewer_at_ms.unwrap();
        assert_eq!(ends_ms, NOW_MS + millis(POLICY.window) + millis(limits::GUARD_CLOCK_MARGIN));
        let counts: Vec<usize> =
            record.counted_until(&POLICY, NOW_MS + 5 * MINUTE_MS).iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [3, 2, 1]);
        let later = record.counted_beside(&["a"], &at(ends_ms));
        assert_eq!((later.all, later.with_other_secrets), (2, 1), "the oldest no longer counts");
        let spent = record.status(&place("fourth"), &at(NOW_MS + 5 * MINUTE_MS));
        assert_eq!((spent.state, spent.next_ms), (GuardState::Unproven, ends_ms), "the budget is used up until then");
    }

    #[test]
    fn rejections_of_one_batch_count_once_and_end_with_the_last_of_them() {
        let (mut record, place) = (Record::default(), place("a"));
        let failed = Unreserved::Failed { by_close: false, strike: false };
        record.note(&place, failed, &at(NOW_MS));
        record.note(&place, failed, &at(NOW_MS + MINUTE_MS));
        let counted = record.counted_beside(&["a"], &at(NOW_MS + MINUTE_MS));
        let ends_ms = NOW_MS + MINUTE_MS + millis(POLICY.window) + millis(limits::GUARD_CLOCK_MARGIN);
        assert_eq!((counted.all, counted.fewer_at_ms), (1, Some(ends_ms)));
    }

    #[test]
    fn shares_of_other_processes_are_kept_aside() {
        let mut record = Record::default();
        let shares = Shares::of(3, 3);
        record.join(&Actor { shares, ..at(NOW_MS) });
        let counted = record.counted_beside(&["a"], &Actor { owner: 2, shares, ..at(NOW_MS) });
        assert_eq!((counted.all, counted.kept_aside), (0, 1));
    }
}
