//! A present secret that is rejected at first, next to the previous one.

use super::*;

const PRESENT: u64 = 2;
const PREVIOUS: u64 = 1;

/// The guards of the two secrets, as an identity has them.
struct Pair {
    present: Arc<Guard>,
    previous: Arc<Guard>,
    accounts: Accounts,
}

impl Pair {
    fn new() -> Pair {
        Pair::with_attempts(3)
    }

    fn with_attempts(attempts: usize) -> Pair {
        let accounts = Accounts::new(GuardPolicy { attempts, ..GuardPolicy::default() });
        let account = || accounts.of("CORP", "svc");
        let present = Guard::replacing(account(), PRESENT, Some(PREVIOUS), |_| {});
        let previous = Guard::of(account(), PREVIOUS, |_| {});
        Pair { present, previous, accounts }
    }

    /// A pair whose previous secret was accepted before the present one came.
    fn rotating() -> Pair {
        let pair = Pair::new();
        go(&pair.previous, 0).settle(0, Answer::Status(200));
        pair
    }

    fn uses_previous(&self, now_ms: u64) -> bool {
        self.present.select_previous(now_ms, &name("u"))
    }

    fn states(&self) -> [GuardState; 2] {
        [state(&self.present), state(&self.previous)]
    }
}

fn wants_confirmation(guard: &Guard) -> bool {
    guard.wants_confirmation(&name("u"))
}

fn enter_after_refusal(guard: &Guard, now_ms: u64) -> DialPermission {
    guard.enter_after_refusal(now_ms, &name("u"), "CONNECT", "origin:443")
}

#[test]
fn clients_use_the_previous_secret_while_the_gateway_tries_the_present_one() {
    let pair = Pair::rotating();
    assert!(pair.uses_previous(1));
    confirm(&pair.present, 2, Answer::Refused);
    assert_eq!(pair.states(), [GuardState::Refused, GuardState::Proven]);
    assert!(pair.uses_previous(3) && !wants_confirmation(&pair.present), "it rests for a minute");
    confirm(&pair.previous, 4, Answer::Status(200));
    assert!(pair.uses_previous(MINUTE_MS + 3));
    confirm(&pair.present, MINUTE_MS + 4, Answer::Status(200));
    assert!(!pair.uses_previous(MINUTE_MS + 5), "the domain has got it");
    go(&pair.present, MINUTE_MS + 6).settle(MINUTE_MS + 6, Answer::Status(200));
}

#[test]
fn a_present_secret_that_is_accepted_at_once_costs_no_failed_logon() {
    let pair = Pair::rotating();
    assert!(pair.uses_previous(1));
    confirm(&pair.present, 2, Answer::Status(200));
    assert!(!pair.uses_previous(3));
    assert!(!wants_confirmation(&pair.previous));
    assert_eq!(pair.states(), [GuardState::Proven, GuardState::Proven]);
}

#[test]
fn without_an_accepted_previous_secret_clients_try_the_present_one() {
    let pair = Pair::new();
    assert!(!pair.uses_previous(0));
    go(&pair.present, 0).settle(0, Answer::Status(200));
    assert!(!pair.uses_previous(1));
}

#[test]
fn a_previous_secret_that_was_never_tried_is_tried_once_the_present_one_is_refused() {
    let pair = Pair::new();
    go(&pair.present, 0).settle(0, Answer::Refused);
    assert!(pair.uses_previous(1), "others wait for what comes of it");
    assert!(matches!(enter_after_refusal(&pair.previous, 1), DialPermission::Wait));
    confirm(&pair.previous, 2, Answer::Status(200));
    assert!(matches!(enter_after_refusal(&pair.previous, 3), DialPermission::Go));
    assert!(pair.uses_previous(3));
}

#[test]
fn two_wrong_secrets_cost_the_account_no_more_than_one() {
    for attempts in [2, 3, 5] {
        let pair = Pair::with_attempts(attempts);
        let mut sent_ms = Vec::new();
        for second in 0..2 * 30 * 60 {
            let now_ms = second * 1_000;
            let guard = if pair.uses_previous(now_ms) { &pair.previous } else { &pair.present };
            if let SendPermission::Go(ticket) = ask(guard, now_ms, "u", "origin:443") {
                ticket.settle(now_ms, Answer::Refused);
                sent_ms.push(now_ms);
            }
            for guard in [&pair.present, &pair.previous].into_iter().filter(|guard| wants_confirmation(guard)) {
                confirm(guard, now_ms, Answer::Refused);
                sent_ms.push(now_ms);
            }
        }
        let most =
            sent_ms.iter().map(|from| sent_ms.iter().filter(move |to| (*from..from + 30 * MINUTE_MS).contains(to)));
        assert!(most.map(Iterator::count).max().is_some_and(|most| most <= attempts), "{attempts}: {sent_ms:?}");
    }
}

#[test]
fn a_refused_present_secret_leaves_an_attempt_for_the_previous_one() {
    for attempts in [2, 3, 5] {
        let pair = Pair::with_attempts(attempts);
        go(&pair.previous, 0).settle(0, Answer::Status(200));
        let mut refused = 0;
        // Nobody uses the previous one meanwhile, so nothing clears the failures.
        for second in 0..29 * 60 {
            let now_ms = second * 1_000;
            if pair.uses_previous(now_ms) && wants_confirmation(&pair.present) {
                confirm(&pair.present, now_ms, Answer::Refused);
                refused += 1;
            }
        }
        assert!((1..attempts).contains(&refused), "{refused} of {attempts}");
        let now_ms = 29 * MINUTE_MS;
        assert!(!pair.previous.is_accepted(now_ms, &name("u")), "its acceptance is too old");
        confirm(&pair.previous, now_ms, Answer::Status(200));
        go(&pair.previous, now_ms + 1).settle(now_ms + 1, Answer::Status(200));
    }
}

#[test]
fn the_present_secret_takes_over_when_the_previous_one_is_refused() {
    let pair = Pair::rotating();
    assert!(pair.uses_previous(1));
    confirm(&pair.present, 2, Answer::Refused);
    confirm(&pair.previous, 3, Answer::Status(200));
    // The domain gets the new password and rejects the old one at once.
    go(&pair.previous, 10_000).settle(10_000, Answer::Refused);
    assert!(matches!(enter_after_refusal(&pair.present, 10_001), DialPermission::Wait), "the password or the policy?");
    assert!(pair.uses_previous(10_001), "others wait as well");
    assert_eq!(pair.previous.refuses(10_001, &name("u"), "CONNECT", "origin:443"), None);
    assert!(matches!(ask(&pair.previous, 10_001, "u", "origin:443"), SendPermission::Wait));
    assert!(matches!(ask(&pair.previous, 10_001, "u", "other:443"), SendPermission::Wait));
    confirm(&pair.previous, 10_002, Answer::Refused);
    assert!(!pair.uses_previous(10_003));
    assert!(matches!(enter_after_refusal(&pair.present, 10_003), DialPermission::Wait));
    confirm(&pair.present, 10_004, Answer::Status(200));
    assert!(matches!(enter_after_refusal(&pair.present, 10_005), DialPermission::Go));
    assert_eq!(pair.states(), [GuardState::Proven, GuardState::Refused]);
}

#[test]
fn logons_under_way_do_not_keep_the_present_secret_from_taking_over() {
    let pair = Pair::rotating();
    let fill = |now_ms: u64| {
        let mut sent = Vec::new();
        while let SendPermission::Go(ticket) = ask(&pair.previous, now_ms, "u", "origin:443") {
            sent.push(ticket);
        }
        sent
    };
    for now_ms in 1..5 {
        fill(now_ms).into_iter().for_each(|ticket| ticket.settle(now_ms, Answer::Status(200)));
    }
    assert!(pair.uses_previous(2_000));
    confirm(&pair.present, 2_000, Answer::Refused);
    confirm(&pair.previous, 2_000, Answer::Status(200));
    let mut sent = fill(2_001);
    assert!(sent.len() >= 4, "{}", sent.len());
    sent.pop().unwrap().settle(2_002, Answer::Refused);
    confirm(&pair.previous, 2_300, Answer::Refused);
    confirm(&pair.present, 2_301, Answer::Status(200));
    sent.into_iter().for_each(|ticket| ticket.settle(2_302, Answer::Refused));
    assert!(!pair.uses_previous(2_303));
    assert_eq!(state(&pair.present), GuardState::Proven);
}

#[test]
fn a_forbidden_destination_does_not_try_the_present_secret_again() {
    let pair = Pair::rotating();
    assert!(pair.uses_previous(1));
    confirm(&pair.present, 2, Answer::Refused);
    confirm(&pair.previous, 3, Answer::Status(200));
    for number in 1..=20 {
        let now_ms = number * 1_000;
        go_to(&pair.previous, now_ms, &format!("forbidden{number}:443")).settle(now_ms, Answer::Refused);
        assert!(matches!(enter_after_refusal(&pair.present, now_ms), DialPermission::Wait));
        confirm(&pair.previous, now_ms, Answer::Status(200));
        assert!(matches!(enter_after_refusal(&pair.present, now_ms), DialPermission::No(_)));
        assert!(pair.uses_previous(now_ms) && !wants_confirmation(&pair.present));
    }
}

#[test]
fn the_previous_secret_serves_where_only_another_upstream_has_the_present_one() {
    let pair = Pair::rotating();
    let (here, there) = (name("u"), name("v"));
    let present_there = pair.present.ask(1, &request(&there, "origin:443", true));
    let SendPermission::Go(ticket) = present_there else { panic!("{present_there:?}") };
    ticket.settle(1, Answer::Status(200));
    assert!(pair.present.select_previous(2, &here) && !pair.present.select_previous(2, &there));
    assert!(!pair.present.select_previous(2 * MINUTE_MS, &here), "what was accepted long ago is no better");
    go(&pair.present, 2 * MINUTE_MS).settle(2 * MINUTE_MS, Answer::Refused);
    confirm(&pair.previous, 2 * MINUTE_MS, Answer::Status(200));
    assert!(pair.present.select_previous(2 * MINUTE_MS + 1, &here));
}

#[test]
fn a_secret_that_was_accepted_is_not_replaced_by_the_previous_one() {
    let pair = Pair::rotating();
    go(&pair.present, 1).settle(1, Answer::Status(200));
    go(&pair.present, 2).settle(2, Answer::Refused);
    confirm(&pair.present, 3, Answer::Refused);
    assert_eq!(state(&pair.present), GuardState::Refused);
    assert!(!pair.uses_previous(4));
}

#[test]
fn answers_without_a_verdict_are_as_rare_for_the_gateways_own_attempts() {
    let pair = Pair::rotating();
    let mut tried = 0;
    for second in 0..30 * 60 {
        let now_ms = second * 1_000;
        if let SendPermission::Go(ticket) = ask(&pair.previous, now_ms, "u", "origin:443") {
            ticket.settle(now_ms, Answer::Status(503));
        }
        if pair.uses_previous(now_ms) && wants_confirmation(&pair.present) {
            confirm(&pair.present, now_ms, Answer::Status(503));
            tried += 1;
        }
    }
    assert!(tried <= limits::GUARD_UNDECIDED + 30, "{tried}");
}

#[test]
fn the_account_keeps_its_budget_over_both_secrets() {
    let pair = Pair::new();
    go(&pair.present, 0).settle(0, Answer::Refused);
    confirm(&pair.previous, 0, Answer::Refused);
    let third = Guard::of(pair.accounts.of("CORP", "svc"), 3, |_| {});
    go(&third, 1).settle(1, Answer::Refused);
    assert!(matches!(ask(&third, 2, "u", "origin:443"), SendPermission::No(_)));
}
