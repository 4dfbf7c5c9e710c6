//! The table of verdicts, the budget, and the distinction between a policy and a wrong secret.

mod simulation;
mod succession;

use std::sync::Mutex;

use super::*;

const MINUTE_MS: u64 = 60_000;

/// Guards of one account, and the changes they have reported.
struct Bench {
    accounts: Accounts,
    changes: Arc<Mutex<Vec<GuardChange>>>,
}

fn name(upstream: &str) -> Arc<str> {
    upstream.into()
}

impl Bench {
    fn new() -> Bench {
        Bench { accounts: Accounts::default(), changes: Arc::default() }
    }

    fn guard(&self, secret: u64) -> Arc<Guard> {
        let changes = Arc::clone(&self.changes);
        Guard::of(self.accounts.of("CORP", "svc"), secret, move |change| changes.lock().unwrap().push(change.clone()))
    }

    /// The changes since the last call.
    fn changes(&self) -> Vec<GuardChange> {
        std::mem::take(&mut *self.changes.lock().unwrap())
    }
}

fn guard() -> Arc<Guard> {
    Bench::new().guard(1)
}

fn request<'a>(upstream: &'a Arc<str>, destination: &'a str, challenged: bool) -> AttemptRequest<'a> {
    AttemptRequest { upstream, method: "CONNECT", destination, challenged, confirms: false }
}

/// On a fresh connection: the request itself was challenged.
fn ask(guard: &Arc<Guard>, now_ms: u64, upstream: &str, destination: &str) -> SendPermission {
    guard.ask(now_ms, &request(&name(upstream), destination, true))
}

fn go_to(guard: &Arc<Guard>, now_ms: u64, destination: &str) -> Ticket {
    match ask(guard, now_ms, "u", destination) {
        SendPermission::Go(ticket) => ticket,
        other => panic!("expected a ticket for {destination} at {now_ms}, got {other:?}"),
    }
}

fn go(guard: &Arc<Guard>, now_ms: u64) -> Ticket {
    go_to(guard, now_ms, "origin:443")
}

fn proven() -> Arc<Guard> {
    let guard = guard();
    go(&guard, 0).settle(0, Answer::Status(200));
    guard
}

/// A guard with an accepted secret and room for several attempts at once.
fn roomy() -> Arc<Guard> {
    let accounts = Accounts::new(GuardPolicy { attempts: 6, ..GuardPolicy::default() });
    let guard = Guard::of(accounts.of("CORP", "svc"), 1, |_| {});
    go(&guard, 0).settle(0, Answer::Status(200));
    guard
}

fn state(guard: &Guard) -> GuardState {
    guard.state()
}

fn confirm(guard: &Arc<Guard>, now_ms: u64, answer: Answer) {
    let upstream = name("u");
    let confirmation = guard.take_confirmation(now_ms, &upstream).expect("a confirmation is wanted");
    let destination = confirmation.good().destination.clone();
    let request = AttemptRequest { confirms: true, ..request(&upstream, &destination, true) };
    match guard.ask(now_ms, &request) {
        SendPermission::Go(ticket) => ticket.settle(now_ms, answer),
        other => panic!("expected a ticket to confirm, got {other:?}"),
    }
}

/// When attempts go out, in ms, if a hundred clients a second ask and each attempt is answered as `answer` says for its
/// client.
fn press(guard: &Arc<Guard>, seconds: u64, mut answer: impl FnMut(u64) -> (&'static str, Answer)) -> Vec<u64> {
    let mut sent_ms = Vec::new();
    for second in 0..seconds {
        let now_ms = second * 1_000;
        for client in 0..100 {
            let (destination, answer) = answer(client);
            if let SendPermission::Go(ticket) = ask(guard, now_ms, "u", destination) {
                sent_ms.push(now_ms);
                ticket.settle(now_ms, answer);
            }
        }
    }
    sent_ms
}

fn assert_budget(sent_ms: &[u64]) {
    for window in sent_ms.windows(4) {
        assert!(window[3] - window[0] >= 30 * MINUTE_MS, "{window:?}");
    }
}

// The table of verdicts.

/// Each row: an answer from an upstream that has challenged this very request, and the state after it, from *unproven*
/// and from *proven*.
const ROWS: [(Answer, GuardState, GuardState); 12] = [
    (Answer::Status(200), GuardState::Proven, GuardState::Proven),
    (Answer::Status(101), GuardState::Proven, GuardState::Proven),
    (Answer::Status(304), GuardState::Proven, GuardState::Proven),
    (Answer::Status(404), GuardState::Proven, GuardState::Proven),
    (Answer::Status(407), GuardState::Unproven, GuardState::Proven),
    (Answer::Status(302), GuardState::Unproven, GuardState::Proven),
    (Answer::Status(403), GuardState::Unproven, GuardState::Proven),
    (Answer::Status(431), GuardState::Unproven, GuardState::Proven),
    (Answer::Status(503), GuardState::Unproven, GuardState::Proven),
    (Answer::Refused, GuardState::Refused, GuardState::Unproven),
    (Answer::Closed, GuardState::Refused, GuardState::Proven),
    (Answer::Nothing, GuardState::Unproven, GuardState::Proven),
];

/// On a keep-alive connection there is no attempt, and so no verdict.
#[test]
fn the_table_of_verdicts_holds_from_unproven_and_from_proven() {
    let upstream = name("u");
    for (answer, from_unproven, from_proven) in ROWS {
        for (method, challenged) in [("CONNECT", true), ("GET", true), ("CONNECT", false), ("GET", false)] {
            let shown = format!("{answer:?} to {method}, {}", if challenged { "cold" } else { "pre-challenged" });
            let request = AttemptRequest { method, ..request(&upstream, "origin:443", challenged) };
            let settle = |guard: &Arc<Guard>, now_ms| match guard.ask(now_ms, &request) {
                SendPermission::Go(ticket) => ticket.settle(now_ms, answer),
                other => panic!("{shown}: {other:?}"),
            };
            let guard = guard();
            settle(&guard, 0);
            // The first acceptance counts only if the request itself was challenged.
            let accepts = from_unproven == GuardState::Proven && !challenged;
            let expected = if accepts { GuardState::Unproven } else { from_unproven };
            assert_eq!(state(&guard), expected, "{shown}, while unproven");
            let guard = proven();
            settle(&guard, 1);
            assert_eq!(state(&guard), from_proven, "{shown}, while proven");
        }
    }
}

#[test]
fn no_status_counts_as_accepted_unless_the_destination_demands_authentication() {
    let upstream = name("u");
    for (method, destination) in [("CONNECT", "exempt:443"), ("GET", "origin:443"), ("POST", "exempt:80")] {
        for (answer, ..) in ROWS.iter().filter(|(answer, ..)| matches!(answer, Answer::Status(_))) {
            let guard = guard();
            // Another request was challenged; this one goes out on a connection that was challenged before it came.
            go(&guard, 0).settle(1, Answer::Status(403));
            let request = AttemptRequest { method, ..request(&upstream, destination, false) };
            let SendPermission::Go(ticket) = guard.ask(2, &request) else { panic!("a ticket") };
            ticket.settle(3, *answer);
            assert_eq!(state(&guard), GuardState::Unproven, "{answer:?} to {method} {destination}");
        }
    }
}

#[test]
fn an_answer_on_a_pre_challenged_connection_renews_an_acceptance_only() {
    let upstream = name("u");
    let pre_challenged = |guard: &Arc<Guard>, now_ms| {
        let request = request(&upstream, "ORIGIN.:443", false);
        let SendPermission::Go(ticket) = guard.ask(now_ms, &request) else { panic!("a ticket") };
        ticket.settle(now_ms, Answer::Status(200));
    };
    let guard = guard();
    go(&guard, 0).settle(1, Answer::Status(502));
    pre_challenged(&guard, 2);
    assert_eq!(state(&guard), GuardState::Unproven, "the request may have been exempt");
    go(&guard, 3).settle(4, Answer::Status(200));
    pre_challenged(&guard, 50_000);
    assert!(guard.is_accepted(100_000, &upstream), "renewed");
}

#[test]
fn a_dropped_ticket_is_undecided() {
    let guard = guard();
    drop(go(&guard, 0));
    assert_eq!(state(&guard), GuardState::Unproven);
    go(&guard, 1).settle(1, Answer::Status(200));
    for _ in 0..5 {
        drop(go(&guard, 2));
    }
    assert_eq!(state(&guard), GuardState::Proven);
}

// The budget.

#[test]
fn a_wrong_password_under_load_is_tried_three_times_in_thirty_minutes() {
    let guard = guard();
    let sent_ms = press(&guard, 7_200, |_| ("origin:443", Answer::Refused));
    assert_budget(&sent_ms);
    assert_eq!(sent_ms[..4], [0, MINUTE_MS, 6 * MINUTE_MS, 31 * MINUTE_MS]);
}

#[test]
fn a_proxy_that_closes_instead_of_refusing_gets_three_attempts() {
    assert_budget(&press(&guard(), 7_200, |_| ("origin:443", Answer::Closed)));
}

#[test]
fn answers_sent_before_the_password_is_checked_do_not_widen_the_budget() {
    let mixed = |client: u64| {
        if client.is_multiple_of(2) { ("a:443", Answer::Status(431)) } else { ("b:443", Answer::Refused) }
    };
    let guard = guard();
    let mut refused_ms = Vec::new();
    for second in 0..7_200 {
        for client in 0..100 {
            let (destination, answer) = mixed(client);
            if let SendPermission::Go(ticket) = ask(&guard, second * 1_000, "u", destination) {
                refused_ms.extend((answer == Answer::Refused).then_some(second * 1_000));
                ticket.settle(second * 1_000, answer);
            }
        }
    }
    assert_budget(&refused_ms);
}

#[test]
fn undecided_attempts_go_out_ten_times_at_once_and_then_once_a_minute() {
    let sent_ms = press(&guard(), 600, |_| ("origin:443", Answer::Status(403)));
    assert_eq!(sent_ms.iter().filter(|at_ms| **at_ms == 0).count(), limits::GUARD_UNDECIDED);
    for pair in sent_ms[limits::GUARD_UNDECIDED - 1..].windows(2) {
        assert_eq!(pair[1] - pair[0], MINUTE_MS);
    }
}

#[test]
fn an_unused_ticket_does_not_count_as_an_attempt() {
    let guard = guard();
    for now_ms in 0..100 {
        go(&guard, now_ms).unused();
    }
    go(&guard, 200).settle(200, Answer::Status(200));
    assert_eq!(state(&guard), GuardState::Proven);
}

#[test]
fn an_account_has_one_budget_over_secrets_spellings_and_upstreams() {
    let bench = Bench::new();
    let mut sent = 0;
    for (number, (domain, user)) in [("CORP", "svc"), ("corp", "SVC"), ("Corp", "Svc")].into_iter().enumerate() {
        for secret in 0..4 {
            let guard = Guard::of(bench.accounts.of(domain, user), secret, |_| {});
            for upstream in ["u", "v"] {
                if let SendPermission::Go(ticket) = ask(&guard, number as u64, upstream, "origin:443") {
                    sent += 1;
                    ticket.settle(1, Answer::Refused);
                }
            }
        }
    }
    assert_eq!(sent, 3);
}

#[test]
fn a_new_secret_is_tried_at_once_and_a_refused_one_stays_refused() {
    let bench = Bench::new();
    let (first, second) = (bench.guard(1), bench.guard(2));
    go(&first, 0).settle(0, Answer::Refused);
    assert!(matches!(ask(&first, 1, "u", "origin:443"), SendPermission::No(Refusal::Held(_))));
    go(&second, 1).settle(1, Answer::Refused);
    drop((first, second));
    let first = bench.guard(1);
    assert!(
        matches!(ask(&first, 2, "u", "origin:443"), SendPermission::No(Refusal::Held(_))),
        "the refusal is remembered"
    );
    let right = bench.guard(3);
    go(&right, 2).settle(2, Answer::Status(200));
    assert_eq!(state(&right), GuardState::Proven);
}

#[test]
fn unanswered_attempts_count_but_slow_ones_let_the_next_one_go() {
    let guard = guard();
    let slow = ["a:443", "b:443", "c:443"];
    let tickets: Vec<Ticket> = (0..3).map(|number| go_to(&guard, number as u64 * 2_000, slow[number])).collect();
    assert!(matches!(ask(&guard, 1_000_000, "u", "origin:443"), SendPermission::Wait));
    assert_eq!(guard.held(1_000_000, &name("u")), None, "a slow answer is no refusal");
    for ticket in tickets {
        ticket.settle(1_000_000, Answer::Status(200));
    }
    go(&guard, 1_000_001).settle(1_000_001, Answer::Status(200));
    assert_eq!(state(&guard), GuardState::Proven);
}

#[test]
fn slow_destinations_at_the_start_hold_others_only_until_they_answer() {
    let slow = guard();
    let tickets: Vec<Ticket> =
        (0..3).map(|number| go_to(&slow, number * 2_000, &format!("black-hole-{number}:443"))).collect();
    for ticket in tickets {
        ticket.settle(75_000, Answer::Status(503));
    }
    go(&slow, 75_000).settle(75_010, Answer::Status(200));
    assert_eq!(state(&slow), GuardState::Proven);
}

#[test]
fn a_slow_destination_leaves_one_attempt_for_others() {
    let guard = guard();
    let _first = go_to(&guard, 0, "black-hole:443");
    let _second = go_to(&guard, 2_000, "Black-Hole:443");
    assert!(matches!(ask(&guard, 60_000, "u", "black-hole:443"), SendPermission::Wait));
    go(&guard, 60_000).settle(60_010, Answer::Status(200));
    assert_eq!(state(&guard), GuardState::Proven);
    go_to(&guard, 60_020, "black-hole:443").settle(60_030, Answer::Status(503));
}

#[test]
fn the_budget_holds_even_if_refusals_take_a_minute() {
    for delay_ms in [10_000, 30_000, 70_000] {
        let guard = proven();
        let (mut pending, mut sent) = (Vec::new(), Vec::new());
        for step in 1..20_000 {
            let now_ms = step * 250;
            if let Some(confirmation) = guard.take_confirmation(now_ms, &name("u")) {
                let upstream = name("u");
                let request = AttemptRequest { confirms: true, ..request(&upstream, "origin:443", true) };
                if let SendPermission::Go(ticket) = guard.ask(now_ms, &request) {
                    pending.push((now_ms + delay_ms, ticket, Some(confirmation)));
                    sent.push(now_ms);
                }
            }
            if let SendPermission::Go(ticket) = ask(&guard, now_ms, "u", "origin:443") {
                pending.push((now_ms + delay_ms, ticket, None));
                sent.push(now_ms);
            }
            let (due, rest) = pending.into_iter().partition(|(at_ms, ..)| *at_ms <= now_ms);
            let due: Vec<(u64, Ticket, Option<Confirmation>)> = due;
            pending = rest;
            for (_, ticket, _confirmation) in due {
                ticket.settle(now_ms, Answer::Refused);
            }
            if now_ms >= 29 * MINUTE_MS {
                break;
            }
        }
        assert!(sent.len() <= 3, "{sent:?} with refusals after {delay_ms} ms");
    }
}

#[test]
fn two_closes_in_a_row_cast_doubt_on_an_accepted_secret() {
    let guard = proven();
    go_to(&guard, 1, "a:443").settle(1, Answer::Closed);
    assert_eq!(state(&guard), GuardState::Proven, "the destination may be the reason");
    go_to(&guard, 2, "b:443").settle(2, Answer::Closed);
    assert_eq!(state(&guard), GuardState::Unproven);
    confirm(&guard, 3, Answer::Closed);
    assert!(guard.held(4, &name("u")).is_some_and(|rest| rest > Duration::from_secs(29 * 60)), "three have failed");
}

#[test]
fn connections_closed_by_a_dying_upstream_do_not_count() {
    let guard = roomy();
    let in_flight: Vec<Ticket> = (0..4).map(|_| go(&guard, 1)).collect();
    let mut in_flight = in_flight.into_iter();
    in_flight.by_ref().take(2).for_each(|ticket| ticket.settle(2, Answer::Closed));
    guard.unreachable(&name("u"));
    in_flight.for_each(|ticket| ticket.settle(3, Answer::Closed));
    assert!(guard.held(4, &name("u")).is_none());
    // The upstream is back.
    go(&guard, 3_000).settle(3_001, Answer::Status(200));
    assert_eq!(state(&guard), GuardState::Proven);
}

#[test]
fn an_acceptance_between_closes_clears_them() {
    let guard = proven();
    for now_ms in 1..100 {
        go_to(&guard, now_ms, "reset:443").settle(now_ms, Answer::Closed);
        go(&guard, now_ms).settle(now_ms, Answer::Status(200));
    }
    assert_eq!(state(&guard), GuardState::Proven);
}

#[test]
fn after_a_close_one_attempt_goes_out_at_a_time() {
    let guard = roomy();
    go(&guard, 1).settle(2, Answer::Closed);
    let next = go(&guard, 3);
    assert!(matches!(ask(&guard, 3, "u", "origin:443"), SendPermission::Wait), "the close may have been a refusal");
    next.settle(4, Answer::Status(200));
    let _together = (go(&guard, 5), go(&guard, 5), go(&guard, 5));
}

/// A close at an upstream that has accepted the secret, and a refusal at one that has not.
fn closed_here_and_refused_there() -> Arc<Guard> {
    let guard = proven();
    go(&guard, 1).settle(1, Answer::Closed);
    match ask(&guard, 2, "other", "origin:443") {
        SendPermission::Go(ticket) => ticket.settle(2, Answer::Refused),
        other => panic!("the budget has room for it: {other:?}"),
    }
    assert_eq!(state(&guard), GuardState::Proven);
    guard
}

#[test]
fn the_last_attempt_of_the_budget_confirms_an_accepted_secret() {
    let guard = closed_here_and_refused_there();
    assert!(matches!(ask(&guard, 3, "u", "origin:443"), SendPermission::Wait));
    confirm(&guard, 4, Answer::Refused);
    for minute in 0..29 {
        for upstream in ["u", "other", "third"] {
            let permission = ask(&guard, minute * MINUTE_MS + 10_000, upstream, "origin:443");
            assert!(!matches!(permission, SendPermission::Go(_)), "a fourth attempt to {upstream} after {minute} min");
        }
    }
    let guard = closed_here_and_refused_there();
    assert!(matches!(ask(&guard, 3, "u", "origin:443"), SendPermission::Wait));
    confirm(&guard, 4, Answer::Status(200));
    go(&guard, 5).settle(5, Answer::Status(200));
}

#[test]
fn an_upstream_that_accepts_the_secret_confirms_it_before_others_use_up_the_budget() {
    let guard = closed_here_and_refused_there();
    assert!(matches!(ask(&guard, 3, "third", "origin:443"), SendPermission::Wait));
    confirm(&guard, 4, Answer::Status(200));
    match ask(&guard, 5, "third", "origin:443") {
        SendPermission::Go(ticket) => ticket.settle(5, Answer::Refused),
        other => panic!("an acceptance clears what failed before it: {other:?}"),
    }
    go(&guard, 6).settle(6, Answer::Status(200));
}

#[test]
fn an_attempt_sent_after_a_close_is_not_of_its_batch() {
    let guard = proven();
    go(&guard, 1).settle(1, Answer::Closed);
    go(&guard, 2).settle(2, Answer::Refused);
    match ask(&guard, 3_000, "other", "origin:443") {
        SendPermission::Go(ticket) => ticket.settle(3_000, Answer::Refused),
        other => panic!("the budget has room for it: {other:?}"),
    }
    assert!(!matches!(ask(&guard, 6_000, "third", "origin:443"), SendPermission::Go(_)), "three have failed");
}

#[test]
fn a_slow_attempt_elsewhere_does_not_close_the_guard_for_unknown_destinations() {
    let guard = proven();
    let SendPermission::Go(slow) = ask(&guard, 1, "other", "origin:443") else { panic!("the budget is free") };
    go_to(&guard, 2, "forbidden:443").settle(2, Answer::Refused);
    assert!(matches!(ask(&guard, 3_000, "u", "unknown:443"), SendPermission::Wait), "it waits for the slow one");
    assert!(guard.held(3_000, &name("u")).is_none());
    confirm(&guard, 3_001, Answer::Status(200));
    go_to(&guard, 3_002, "unknown:443").settle(3_003, Answer::Status(200));
    slow.settle(60_000, Answer::Refused);
}

#[test]
fn an_upstream_that_alone_rejects_a_secret_closes_only_for_itself() {
    let (guard, mut sent) = (guard(), Vec::new());
    for second in 0..7_200 {
        let now_ms = second * 1_000;
        for _ in 0..20 {
            match ask(&guard, now_ms, "good", "origin:443") {
                SendPermission::Go(ticket) => ticket.settle(now_ms, Answer::Status(200)),
                other => panic!("the good upstream is closed at {now_ms}: {other:?}"),
            }
            if let SendPermission::Go(ticket) = ask(&guard, now_ms, "broken", "origin:443") {
                sent.push(now_ms);
                ticket.settle(now_ms, Answer::Refused);
            }
        }
    }
    assert_eq!(state(&guard), GuardState::Proven);
    for window in sent.windows(3) {
        assert!(window[2] - window[0] >= 30 * MINUTE_MS, "one attempt must be left for the others: {window:?}");
    }
}

#[test]
fn with_a_budget_of_two_two_attempts_go_out() {
    let accounts = Accounts::new(GuardPolicy { attempts: 2, ..GuardPolicy::default() });
    let guard = Guard::of(accounts.of("CORP", "svc"), 1, |_| {});
    let sent_ms = press(&guard, 7_200, |_| ("origin:443", Answer::Refused));
    for window in sent_ms.windows(3) {
        assert!(window[2] - window[0] >= 30 * MINUTE_MS, "{window:?}");
    }
}

// Order of answers.

#[test]
fn while_unproven_one_attempt_goes_out_and_the_others_wait() {
    let guard = guard();
    let canary = go(&guard, 0);
    assert!(matches!(ask(&guard, 0, "u", "origin:443"), SendPermission::Wait));
    canary.settle(1, Answer::Status(200));
    let _next = go(&guard, 1);
    let guard = roomy();
    let _together = (go(&guard, 1), go(&guard, 1), go(&guard, 1));
}

#[test]
fn an_acceptance_sent_before_a_refusal_does_not_overrule_it() {
    let guard = roomy();
    let in_flight = go(&guard, 1);
    go_to(&guard, 1, "other:443").settle(2, Answer::Refused);
    assert_eq!(state(&guard), GuardState::Unproven);
    in_flight.settle(3, Answer::Status(200));
    assert_eq!(state(&guard), GuardState::Unproven);
    confirm(&guard, 3, Answer::Status(200));
    assert_eq!(state(&guard), GuardState::Proven);
}

#[test]
fn a_refusal_sent_before_an_acceptance_is_about_its_destination() {
    let guard = roomy();
    let old = go_to(&guard, 1, "forbidden:443");
    go(&guard, 2).settle(2, Answer::Status(200));
    old.settle(3, Answer::Refused);
    assert_eq!(state(&guard), GuardState::Proven);
    assert!(matches!(ask(&guard, 4, "u", "forbidden:443"), SendPermission::No(Refusal::Barred(_))));
}

#[test]
fn after_a_quiet_time_one_attempt_checks_the_password_first() {
    let guard = proven();
    let night_ms = 8 * 60 * MINUTE_MS;
    let canary = go(&guard, night_ms);
    let waiting =
        (0..1_000).filter(|_| matches!(ask(&guard, night_ms, "u", "origin:443"), SendPermission::Wait)).count();
    assert_eq!(waiting, 1_000);
    canary.settle(night_ms, Answer::Refused);
    confirm(&guard, night_ms, Answer::Refused);
    assert!(matches!(ask(&guard, night_ms, "u", "origin:443"), SendPermission::No(Refusal::Held(_))));
}

#[test]
fn a_burst_soon_after_an_acceptance_sends_one_attempt_first() {
    let guard = proven();
    let burst: Vec<Ticket> = (0..1_000)
        .filter_map(|_| match ask(&guard, 30_000, "u", "origin:443") {
            SendPermission::Go(ticket) => Some(ticket),
            _ => None,
        })
        .collect();
    assert_eq!(burst.len(), 1);
    burst.into_iter().for_each(|ticket| ticket.settle(30_001, Answer::Refused));
    confirm(&guard, 30_002, Answer::Refused);
    assert!(guard.held(30_003, &name("u")).is_some());
}

#[test]
fn a_burst_of_clients_is_served_within_a_few_round_trips() {
    let guard = proven();
    let (mut served, mut round_trips) = (0, 0);
    while served < 1_000 {
        round_trips += 1;
        let now_ms = 100 + round_trips * 20;
        let round: Vec<Ticket> = (served..1_000)
            .map_while(|_| match ask(&guard, now_ms, "u", "origin:443") {
                SendPermission::Go(ticket) => Some(ticket),
                _ => None,
            })
            .collect();
        served += round.len();
        round.into_iter().for_each(|ticket| ticket.settle(now_ms + 20, Answer::Status(200)));
    }
    assert!(round_trips <= 10, "{round_trips} round trips");
}

// Before the dial.

#[test]
fn while_unproven_one_request_dials_and_the_others_wait_for_its_verdict() {
    let (guard, upstream) = (guard(), name("u"));
    let enter = |now_ms| guard.enter(now_ms, &upstream, "CONNECT", "origin:443");
    let DialPermission::Scout(scout) = enter(0) else { panic!("the first may dial") };
    assert!(matches!(enter(1), DialPermission::Wait));
    let ticket = go(&guard, 5);
    drop(scout);
    assert!(matches!(enter(6), DialPermission::Wait), "its attempt is unanswered");
    ticket.settle(7, Answer::Status(200));
    assert!(matches!(enter(7), DialPermission::Go));
}

#[test]
fn a_dropped_or_slow_scout_lets_the_next_request_dial() {
    let bench = Bench::new();
    let (guard, upstream) = (bench.guard(1), name("u"));
    let enter = |now_ms| guard.enter(now_ms, &upstream, "CONNECT", "origin:443");
    let scout = enter(0);
    assert!(matches!(enter(1_999), DialPermission::Wait));
    let second = enter(2_000);
    assert!(matches!((&scout, &second), (DialPermission::Scout(_), DialPermission::Scout(_))));
    assert!(matches!(enter(2_001), DialPermission::Wait));
    drop(scout);
    assert!(matches!(enter(2_002), DialPermission::Wait), "the second scout is still out");
    drop(second);
    assert_eq!(bench.changes(), [GuardChange::MayProceed], "waiting requests are woken");
    assert!(matches!(enter(2_003), DialPermission::Scout(_)));
}

#[test]
fn a_closed_guard_lets_no_request_dial() {
    let (guard, upstream) = (guard(), name("u"));
    go(&guard, 0).settle(0, Answer::Refused);
    assert!(matches!(guard.enter(1, &upstream, "CONNECT", "origin:443"), DialPermission::No(Refusal::Held(_))));
    assert!(
        matches!(guard.enter(1, &name("v"), "CONNECT", "origin:443"), DialPermission::Scout(_)),
        "the guard is closed at one upstream only"
    );
}

// Policy or password.

/// Asks for each forbidden destination, and for one that is not, every second for an hour. Returns how many attempts
/// went out for the forbidden ones.
fn forbidden_hour(guard: &Arc<Guard>, forbidden: &[&str]) -> usize {
    let mut sent = 0;
    for second in 1..3_600 {
        let now_ms = second * 1_000;
        for destination in forbidden {
            if let SendPermission::Go(ticket) = ask(guard, now_ms, "u", destination) {
                sent += 1;
                ticket.settle(now_ms, Answer::Refused);
                confirm(guard, now_ms, Answer::Status(200));
            }
        }
        go(guard, now_ms).settle(now_ms, Answer::Status(200));
    }
    sent
}

#[test]
fn a_forbidden_destination_is_rarely_tried_and_does_not_close_the_guard() {
    // At once, after one minute, five, twenty-five, and then every thirty.
    assert_eq!(forbidden_hour(&proven(), &["forbidden:443"]), 4);
}

#[test]
fn forbidden_destinations_in_any_spelling_do_not_close_the_guard() {
    let guard = proven();
    assert_eq!(forbidden_hour(&guard, &["a.blocked.test:443", "A.blocked.test:443", "a.blocked.test.:443"]), 4);
    assert_eq!(forbidden_hour(&proven(), &["a.blocked.test:443", "b.blocked.test:443"]), 8);
}

#[test]
fn a_confirmation_distinguishes_the_password_from_the_policy() {
    let bench = Bench::new();
    let guard = bench.guard(1);
    go(&guard, 0).settle(0, Answer::Status(200));
    go_to(&guard, 1, "forbidden:443").settle(1, Answer::Refused);
    assert!(
        bench
            .changes()
            .iter()
            .any(|change| matches!(change, GuardChange::State { at_upstream: GuardState::Unproven, .. }))
    );
    assert!(matches!(ask(&guard, 2, "u", "new:443"), SendPermission::Wait), "a confirmation decides first");
    confirm(&guard, 3, Answer::Refused);
    assert_eq!(state(&guard), GuardState::Refused);
}

#[test]
fn a_short_outage_of_the_domain_controller_costs_a_minute() {
    let guard = proven();
    go(&guard, 1_000).settle(1_000, Answer::Refused);
    confirm(&guard, 1_001, Answer::Refused);
    let rest = guard.held(1_001, &name("u")).expect("the guard is closed");
    assert_eq!(rest, Duration::from_secs(60));
    go(&guard, 61_001).settle(61_002, Answer::Status(200));
    assert_eq!(state(&guard), GuardState::Proven);
}

#[test]
fn a_short_outage_under_load_costs_a_minute() {
    let guard = proven();
    // Under load there is room for many attempts at once.
    let origin = |number: u64| format!("origin-{number}:443");
    for now_ms in 1..2_000 {
        let tickets: Vec<Ticket> = (0..50)
            .map_while(|number| match ask(&guard, now_ms, "u", &origin(number)) {
                SendPermission::Go(ticket) => Some(ticket),
                _ => None,
            })
            .collect();
        tickets.into_iter().for_each(|ticket| ticket.settle(now_ms, Answer::Status(200)));
    }
    let in_flight: Vec<Ticket> = (0..40).map(|number| go_to(&guard, 2_000, &origin(number))).collect();
    in_flight.into_iter().for_each(|ticket| ticket.settle(2_001, Answer::Refused));
    assert!(guard.take_confirmation(2_002, &name("u")).is_none(), "the refusals have decided already");
    assert_eq!(guard.held(2_001, &name("u")), Some(Duration::from_secs(60)));
    go(&guard, 62_001).settle(62_002, Answer::Status(200));
    assert_eq!(state(&guard), GuardState::Proven);
}

#[test]
fn a_stale_challenge_has_no_consequence_if_the_secret_is_confirmed() {
    let guard = roomy();
    let stale = [go(&guard, 1), go(&guard, 1)];
    stale.into_iter().for_each(|ticket| ticket.settle(2, Answer::Stale));
    confirm(&guard, 300, Answer::Status(200));
    assert_eq!(state(&guard), GuardState::Proven);
    go(&guard, 301).settle(301, Answer::Status(200));
}

#[test]
fn after_an_undecided_confirmation_clients_attempts_decide() {
    let guard = proven();
    go_to(&guard, 1, "forbidden:443").settle(1, Answer::Refused);
    drop(guard.take_confirmation(2, &name("u")).expect("a confirmation is wanted"));
    go(&guard, 3).settle(3, Answer::Status(200));
    assert_eq!(state(&guard), GuardState::Proven);
}

#[test]
fn the_guard_reports_every_change_that_may_free_a_waiting_request() {
    let bench = Bench::new();
    let guard = bench.guard(1);
    let first = go(&guard, 0);
    assert!(matches!(ask(&guard, 0, "u", "origin:443"), SendPermission::Wait));
    drop(first);
    assert_eq!(bench.changes(), [GuardChange::MayProceed], "undecided");
    go(&guard, 1).settle(1, Answer::Status(200));
    let proven = |change: &GuardChange| matches!(change, GuardChange::State { overall: GuardState::Proven, .. });
    assert!(matches!(bench.changes().as_slice(), [change] if proven(change)));
    go(&guard, 2).settle(2, Answer::Status(200));
    assert_eq!(bench.changes(), [], "no request waits");
}

/// A store that grants nothing.
#[derive(Debug)]
struct Silent;

impl Store for Silent {
    fn order(&self, _: Order) {}
}

#[test]
fn attempts_are_left_again_once_those_in_the_store_have_expired() {
    let accounts = Accounts::with_store(GuardPolicy::default(), Arc::new(Silent));
    let account = accounts.of("CORP", "svc");
    let guard = Guard::of(Arc::clone(&account), 1, |_| {});
    account.counted(vec![(10 * MINUTE_MS, 3), (20 * MINUTE_MS, 1)]);
    let left = [0, 10, 19, 20].map(|minutes| guard.status(minutes * MINUTE_MS).attempts_left);
    assert_eq!(left, [0, 2, 2, 3]);
}
