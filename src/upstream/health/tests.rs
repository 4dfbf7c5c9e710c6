//! What ejects an upstream, and what brings it back.

use super::*;
use std::sync::Arc;

fn health() -> (Health, Arc<Mutex<Vec<HealthChange>>>) {
    let changes = Arc::new(Mutex::new(Vec::new()));
    let reported = Arc::clone(&changes);
    (Health::new(move |change| reported.lock().unwrap().push(change.clone())), changes)
}

fn eject(health: &Health, now_ms: u64) {
    (0..limits::EJECT_AFTER).for_each(|_| health.failed(now_ms, "refused"));
}

#[test]
fn only_consecutive_faults_eject() {
    let (health, changes) = health();
    for _ in 0..10 {
        (1..limits::EJECT_AFTER).for_each(|_| health.failed(0, "refused"));
        health.succeeded();
    }
    assert!(health.is_up());
    eject(&health, 0);
    assert!(!health.is_up());
    assert_eq!(*changes.lock().unwrap(), [HealthChange::Ejected("refused".into())]);
    assert_eq!(health.why_down().as_deref(), Some("refused"));
}

#[test]
fn a_check_brings_it_back_and_one_fault_ejects_it_again_for_longer() {
    let (health, changes) = health();
    eject(&health, 0);
    assert_eq!(health.next_check_in_ms(0), Some(1_000));
    health.checked(1_000, Ok(()));
    assert!(health.is_up());
    health.failed(1_100, "closed");
    assert!(!health.is_up());
    assert_eq!(health.next_check_in_ms(1_100), Some(2_000));
    health.checked(3_100, Ok(()));
    health.succeeded();
    eject(&health, 4_000);
    assert_eq!(health.next_check_in_ms(4_000), Some(1_000), "a success clears earlier ejections");
    assert_eq!(changes.lock().unwrap().len(), 5);
}

#[test]
fn a_retired_upstream_is_neither_checked_nor_reported() {
    let (health, changes) = health();
    eject(&health, 0);
    health.retire();
    health.checked(1_000, Ok(()));
    eject(&health, 2_000);
    assert_eq!(health.next_check_in_ms(2_000), None);
    assert_eq!(changes.lock().unwrap().len(), 1);
}

#[test]
fn failing_checks_become_rare_unless_a_client_needs_one() {
    let (health, _) = health();
    eject(&health, 0);
    let mut now_ms = 0;
    let mut rests = Vec::new();
    for _ in 0..7 {
        let rest_ms = health.next_check_in_ms(now_ms).unwrap();
        rests.push(rest_ms / 1000);
        now_ms += rest_ms;
        let answers = false;
        health.checked(now_ms, Err(CheckFailure { why: "refused".into(), answers }));
    }
    assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30]);
    health.hurry();
    assert_eq!(health.next_check_in_ms(now_ms), Some(1_000));
}

const LATER_MS: u64 = 1_000;

/// The health of an upstream that has served a client.
fn serving() -> (Health, Arc<Mutex<Vec<HealthChange>>>) {
    let (health, changes) = health();
    health.succeeded();
    (health, changes)
}

#[test]
fn a_single_destination_never_ejects_an_upstream() {
    let (health, changes) = serving();
    for round in 0..3_000 {
        for spelling in ["blocked.test:443", "BLOCKED.test:443", "blocked.test.:80"] {
            health.failed_after_challenge(round * 100, spelling, "closed");
        }
    }
    assert!(health.is_up());
    assert_eq!(*changes.lock().unwrap(), []);
}

#[test]
fn several_failing_destinations_without_a_success_eject() {
    let (health, _) = serving();
    for (now_ms, destination) in [(0, "a:1"), (10, "b:1"), (20, "c:1"), (LATER_MS - 1, "d:1")] {
        health.failed_after_challenge(now_ms, destination, "closed");
    }
    assert!(health.is_up(), "a short burst does not eject");
    health.failed_after_challenge(LATER_MS, "a:1", "closed");
    assert!(!health.is_up());
}

#[test]
fn a_success_clears_the_failed_destinations() {
    let (health, _) = serving();
    for round in 0..20 {
        for destination in ["a:1", "b:1"] {
            health.failed_after_challenge(round * LATER_MS, destination, "closed");
        }
        health.succeeded();
    }
    assert!(health.is_up());
}

#[test]
fn faults_before_a_challenge_lead_to_a_probe_which_decides() {
    let (health, changes) = serving();
    let fail = |now_ms| health.failed_before_challenge(now_ms, "blocked.test:443", "closed");
    (1..limits::EJECT_AFTER).for_each(|_| fail(0));
    assert!(!health.wants_probe());
    fail(0);
    fail(0);
    assert!(health.wants_probe() && health.is_up());
    assert_eq!(*changes.lock().unwrap(), [HealthChange::Doubted], "reported once");
    health.probed(10, Ok(()));
    assert!(!health.wants_probe() && health.is_up());
    (0..100).for_each(|_| fail(20));
    assert!(!health.wants_probe(), "at most one probe a second");
    fail(LATER_MS);
    assert!(health.wants_probe());
    health.probed(LATER_MS, Err(CheckFailure { why: "closes".into(), answers: true }));
    assert!(!health.is_up());
    assert_eq!(health.why_down().as_deref(), Some("closes"));
}

#[test]
fn a_cut_off_destination_is_remembered_even_if_others_succeed() {
    let (health, _) = serving();
    assert!(!health.cuts_off(0, "blocked.test:443"));
    health.failed_before_challenge(0, "blocked.test:443", "closed");
    health.succeeded();
    assert!(health.cuts_off(1, "Blocked.test.:8443") && !health.cuts_off(1, "good.test:443"));
    assert!(!health.cuts_off(millis(limits::CUT_OFF_AGE), "blocked.test:443"));
    (0..1_000).for_each(|number| health.failed_before_challenge(0, &format!("h{number}:1"), "closed"));
    assert_eq!(health.lock().cut_off.len(), limits::HEALTH_SUSPECTS);
}

#[test]
fn on_probation_one_fault_before_a_challenge_is_enough_for_a_probe() {
    let (health, _) = health();
    eject(&health, 0);
    health.checked(LATER_MS, Ok(()));
    health.failed_before_challenge(LATER_MS, "a:1", "closed");
    assert!(health.wants_probe());
}

#[test]
fn faults_on_requests_that_another_upstream_serves_eject() {
    let (health, _) = serving();
    for _ in 0..limits::EJECT_AFTER {
        assert!(health.is_up());
        health.failed_after_challenge(0, "a:1", "closed");
        health.failed_where_another_served(0, "closed");
    }
    assert!(!health.is_up());
}

#[test]
fn an_ejected_upstream_that_answers_is_tried_rarely_until_a_success() {
    let (health, changes) = serving();
    for (now_ms, destination) in [(0, "a:1"), (0, "b:1"), (LATER_MS, "c:1")] {
        health.failed_after_challenge(now_ms, destination, "closed");
    }
    assert_eq!(health.trial_rank(), Some(1));
    let claims = |destination: &str| {
        (0..1_000).filter(|now_ms| health.claim_trial(LATER_MS + now_ms, destination)).count() as u64
    };
    let in_a_second = 1_000 / millis(limits::TRIAL_INTERVAL) + u64::from(limits::TRIAL_BURST);
    assert!((in_a_second - 1..=in_a_second).contains(&claims("good:1")));
    assert_eq!(
        claims("A.:1"),
        1_000 / millis(limits::SUSPECT_TRIAL_INTERVAL),
        "a failed destination has a rate of its own"
    );
    health.succeeded();
    assert!(health.is_up() && health.trial_rank().is_none());
    assert_eq!(changes.lock().unwrap().last(), Some(&HealthChange::Returned));
}

#[test]
fn an_upstream_that_accepts_no_connections_comes_back_by_a_check_only() {
    let (health, _) = serving();
    eject(&health, 0);
    health.succeeded();
    assert!(!health.is_up(), "that client was connected before the ejection");
    assert!(health.trial_rank().is_none() && !health.claim_trial(0, "a:1"));
    health.checked(1_000, Err(CheckFailure { why: "closes".into(), answers: true }));
    assert!(health.claim_trial(1_000, "a:1"), "it answers again, though the check fails");
    health.failed(1_001, "refused");
    assert!(health.trial_rank().is_none());
}

#[test]
fn the_number_of_remembered_destinations_is_bounded() {
    let (health, _) = serving();
    (0..10_000).for_each(|number| health.failed_after_challenge(0, &format!("h{number}:1"), "closed"));
    assert_eq!(health.lock().suspects.len(), limits::HEALTH_SUSPECTS);
}
