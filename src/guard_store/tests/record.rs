//! Single rules of a record.

use super::super::record::{Actor, Place, Purpose, Record, Reserved, Shares};
use crate::limits::{self, millis};
use crate::upstream::{AttemptEnd, GuardPolicy};

const NOW_MS: u64 = 1_800_000_000_000;

fn place() -> Place {
    Place { secret: "secret".into(), upstream: "upstream".into() }
}

fn reserve(record: &mut Record, now_ms: u64) -> Reserved {
    let policy = GuardPolicy::default();
    let actor = Actor { owner: 1, policy: &policy, shares: Shares::default(), now_ms, clock_error_ms: 0 };
    record.reserve(&place(), Purpose::default(), &actor)
}

/// A record with as many reservations as the budget has, one after the other, and when the last one was made.
fn exhausted() -> (Record, u64) {
    let (mut record, mut now_ms) = (Record::default(), NOW_MS);
    for number in 1..=3 {
        now_ms += millis(limits::GUARD_PENDING_WAIT);
        assert_eq!(reserve(&mut record, now_ms), Reserved::Granted(number));
    }
    (record, now_ms)
}

#[test]
fn requests_do_not_wait_for_the_outcome_of_attempts_that_lost_their_processes() {
    let (mut record, now_ms) = exhausted();
    let first_ms = NOW_MS + millis(limits::GUARD_PENDING_WAIT);
    let soon_ms = now_ms + millis(limits::GUARD_PENDING_WAIT);
    let answer = reserve(&mut record, soon_ms);
    assert_eq!(answer, Reserved::Wait { until_ms: first_ms + millis(limits::GUARD_OUTCOME_WAIT) });
    let late_ms = now_ms + millis(limits::GUARD_OUTCOME_WAIT);
    let Reserved::Denied { until_ms } = reserve(&mut record, late_ms) else { panic!("the budget is used up") };
    assert!(until_ms >= first_ms + millis(limits::GUARD_WINDOW), "they count as failed");
}

#[test]
fn an_attempt_of_another_process_is_waited_for_as_long_as_their_clocks_may_differ() {
    let policy = GuardPolicy::default();
    let actor =
        |owner, now_ms| Actor { owner, policy: &policy, shares: Shares::default(), now_ms, clock_error_ms: 900 };
    let mut record = Record::default();
    let mut reserve = |actor| record.reserve(&place(), Purpose::default(), &actor);
    assert_eq!(reserve(actor(1, NOW_MS)), Reserved::Granted(1));
    let over_ms = NOW_MS + millis(limits::GUARD_PENDING_WAIT);
    assert_eq!(reserve(actor(2, over_ms)), Reserved::Wait { until_ms: over_ms + 900 });
    assert_eq!(reserve(actor(2, over_ms + 899)), Reserved::Wait { until_ms: over_ms + 900 });
    assert_eq!(reserve(actor(1, over_ms)), Reserved::Granted(2), "its own clock has no error");
}

#[test]
fn a_new_secret_is_tried_twice_while_another_one_is_accepted() {
    let policy = GuardPolicy::default();
    let at_ms = |now_ms| Actor { owner: 1, policy: &policy, shares: Shares::default(), now_ms, clock_error_ms: 0 };
    let (mut record, old) = (Record::default(), Place { secret: "old".into(), ..place() });
    assert_eq!(record.reserve(&old, Purpose::default(), &at_ms(NOW_MS)), Reserved::Granted(1));
    record.settle(&old, 1, AttemptEnd::Accepted, &at_ms(NOW_MS));
    let leaves_one = Purpose { spare: 1, first_confirmation: false };
    let mut now_ms = NOW_MS;
    for number in 2..=3 {
        assert_eq!(record.reserve(&place(), leaves_one, &at_ms(now_ms)), Reserved::Granted(number));
        record.settle(&place(), number, AttemptEnd::Refused { strike: true }, &at_ms(now_ms));
        now_ms += millis(policy.rest(u32::try_from(number).unwrap() - 1));
    }
    let third = record.reserve(&place(), leaves_one, &at_ms(now_ms));
    assert!(matches!(third, Reserved::Denied { .. }), "{third:?}");
    assert!(matches!(record.reserve(&old, Purpose::default(), &at_ms(now_ms)), Reserved::Granted(_)));
}

#[test]
fn a_late_outcome_frees_its_part_of_the_budget() {
    let (mut record, now_ms) = exhausted();
    let late_ms = now_ms + millis(limits::GUARD_OUTCOME_WAIT);
    let policy = GuardPolicy::default();
    let actor = Actor { owner: 1, policy: &policy, shares: Shares::default(), now_ms: late_ms, clock_error_ms: 0 };
    record.settle(&place(), 2, AttemptEnd::Unused, &actor);
    assert_eq!(reserve(&mut record, late_ms), Reserved::Granted(4));
}

#[test]
fn wrong_secrets_leave_an_attempt_for_the_one_that_is_accepted() {
    let (mut record, policy) = (Record::default(), GuardPolicy::default());
    let right = place();
    let at = |now_ms: u64| Actor { owner: 1, policy: &policy, shares: Shares::default(), now_ms, clock_error_ms: 0 };
    let Reserved::Granted(number) = reserve(&mut record, NOW_MS) else { panic!("nothing has failed yet") };
    record.settle(&right, number, AttemptEnd::Accepted, &at(NOW_MS));
    for wrong in 1..=3 {
        let place = Place { secret: format!("wrong {wrong}"), ..place() };
        match record.reserve(&place, Purpose::default(), &at(NOW_MS)) {
            Reserved::Granted(number) if wrong < 3 => {
                record.settle(&place, number, AttemptEnd::Refused { strike: true }, &at(NOW_MS));
            }
            Reserved::Denied { .. } if wrong == 3 => {}
            other => panic!("{wrong}: {other:?}"),
        }
    }
    let later_ms = NOW_MS + 2 * millis(limits::GUARD_ACCEPTANCE_AGE);
    assert!(matches!(reserve(&mut record, later_ms), Reserved::Granted(_)));
}
