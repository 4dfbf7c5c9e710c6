//! Hours of clients, upstreams and mishaps on a virtual clock, from a seed.

use super::*;
use crate::sim::rng::Rng;

const TICK_MS: u64 = 100;
const HOURS_MS: u64 = 70 * MINUTE_MS;
const SEEDS: u64 = 8;

/// What becomes of a request for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    Normal,
    /// The upstream answers 407 to a right secret too.
    Forbidden,
    /// The upstream answers 403 before it looks at the secret.
    DeniedFirst,
    /// The upstream lets it pass without a look at the secret.
    Exempt,
    /// The upstream answers 503 after a minute, to a right secret.
    BlackHole,
    /// The upstream closes the connection behind a right secret.
    Resets,
}

const DESTINATIONS: [(&str, Destination); 10] = [
    ("a.test:443", Destination::Normal),
    ("b.test:443", Destination::Normal),
    ("c.test:443", Destination::Normal),
    ("d.test:443", Destination::Normal),
    ("forbidden-1.test:443", Destination::Forbidden),
    ("forbidden-2.test:443", Destination::Forbidden),
    ("denied.test:22", Destination::DeniedFirst),
    ("exempt.test:443", Destination::Exempt),
    ("black-hole.test:443", Destination::BlackHole),
    ("resets.test:443", Destination::Resets),
];

/// What a seed decides.
#[derive(Debug)]
struct Plan {
    /// When the secret stops being right, in ms.
    changed_ms: Option<u64>,
    /// How long a refusal takes.
    refusal_ms: u64,
    closes_instead: bool,
    /// Clients in a tick, at the most.
    clients: u64,
    /// The first so many of [`DESTINATIONS`] are asked for.
    destinations: usize,
    /// Refuses everything from then on for a second.
    blip_ms: Option<u64>,
}

impl Plan {
    fn new(rng: &mut Rng) -> Plan {
        Plan {
            changed_ms: None,
            refusal_ms: rng.pick(&[0, 5, 300, 3_000, 10_000, 30_000]),
            closes_instead: rng.once_in(3),
            clients: rng.pick(&[1, 1, 3, 20]),
            destinations: rng.pick(&[1, 3, 5, 8, 10]),
            blip_ms: None,
        }
    }

    fn is_right(&self, now_ms: u64) -> bool {
        self.changed_ms.is_none_or(|changed_ms| now_ms < changed_ms)
    }
}

/// An attempt that is on its way.
struct OnItsWay {
    due_ms: u64,
    ticket: Ticket,
    answer: Answer,
    _confirmation: Option<Confirmation>,
}

/// What happened.
#[derive(Default)]
struct Outcome {
    /// When a wrong secret was looked at.
    wrong_ms: Vec<u64>,
    /// Attempts without an answer when the secret changed.
    in_flight: usize,
    /// The longest time in which no normal destination was served while somebody asked for one.
    longest_gap_ms: u64,
    served: u64,
}

/// What the upstream makes of an attempt, when, and whether it looked at the secret.
fn judge(plan: &Plan, destination: Destination, now_ms: u64, rng: &mut Rng) -> (u64, Answer, bool) {
    let refusal = if plan.closes_instead { Answer::Closed } else { Answer::Refused };
    let in_blip = plan.blip_ms.is_some_and(|from_ms| (from_ms..from_ms + 1_000).contains(&now_ms));
    let soon_ms = now_ms + rng.within(1..=50);
    match destination {
        Destination::DeniedFirst => (soon_ms, Answer::Status(403), false),
        Destination::Exempt => (soon_ms, Answer::Status(200), false),
        _ if !plan.is_right(now_ms) || in_blip => (now_ms + plan.refusal_ms, refusal, true),
        Destination::Normal => (soon_ms, Answer::Status(200), true),
        Destination::Forbidden => (soon_ms, Answer::Refused, true),
        Destination::BlackHole => (now_ms + 60_000, Answer::Status(503), true),
        Destination::Resets => (soon_ms, Answer::Closed, true),
    }
}

fn kind_of(destination: &str) -> Destination {
    DESTINATIONS.iter().find(|(known, _)| *known == destination).expect("a known destination").1
}

fn play(plan: &Plan, rng: &mut Rng) -> Outcome {
    // One that has never been accepted cannot tell a policy from a wrong secret.
    let (guard, upstream) = (guard(), name("u"));
    if plan.is_right(0) {
        go_to(&guard, 0, DESTINATIONS[0].0).settle(0, Answer::Status(200));
    }
    let mut on_their_way: Vec<OnItsWay> = Vec::new();
    let (mut outcome, mut served_ms) = (Outcome::default(), 0);
    for now_ms in (0..HOURS_MS).step_by(usize::try_from(TICK_MS).expect("small")) {
        if plan.changed_ms.is_some_and(|changed_ms| (now_ms..now_ms + TICK_MS).contains(&changed_ms)) {
            outcome.in_flight = on_their_way.len();
        }
        let (due, rest) = on_their_way.into_iter().partition(|it: &OnItsWay| it.due_ms <= now_ms);
        on_their_way = rest;
        for it in due {
            it.ticket.settle(now_ms, it.answer);
        }
        let confirmation = guard.take_confirmation(now_ms, &upstream);
        let own = confirmation.map(|confirmation| (confirmation.good().destination.to_string(), Some(confirmation)));
        let clients = (0..rng.within(0..=plan.clients))
            .map(|_| (rng.pick(&DESTINATIONS[..plan.destinations]).0.to_owned(), None));
        for (destination, confirmation) in own.into_iter().chain(clients.collect::<Vec<_>>()) {
            let kind = kind_of(&destination);
            let is_own = confirmation.is_some();
            // A fresh connection, unless the secret is accepted and some are pre-challenged.
            let pre_challenged = !is_own && guard.is_fresh(now_ms, &upstream) && rng.once_in(2);
            let never_challenged = matches!(kind, Destination::DeniedFirst | Destination::Exempt);
            if !pre_challenged && never_challenged {
                continue;
            }
            let scout = match guard.enter(now_ms, &upstream, &destination) {
                _ if is_own || pre_challenged => None,
                Entry::Go => None,
                Entry::Scout(scout) => Some(scout),
                Entry::Wait | Entry::No(_) => continue,
            };
            let asking = Asking { confirms: is_own, ..asking(&upstream, &destination, !pre_challenged) };
            if let Permission::Go(ticket) = guard.ask(now_ms, &asking) {
                let (due_ms, answer, looked_at) = judge(plan, kind, now_ms, rng);
                if looked_at && !plan.is_right(now_ms) {
                    outcome.wrong_ms.push(now_ms);
                }
                if kind == Destination::Normal && answer == Answer::Status(200) {
                    outcome.longest_gap_ms = outcome.longest_gap_ms.max(now_ms - served_ms);
                    outcome.served += 1;
                    served_ms = now_ms;
                }
                on_their_way.push(OnItsWay { due_ms, ticket, answer, _confirmation: confirmation });
            }
            drop(scout);
        }
    }
    outcome
}

/// The most within any 30 minutes.
fn most_in_a_window(times_ms: &[u64]) -> usize {
    let within = |from: &u64| times_ms.iter().filter(|at_ms| (*from..from + 30 * MINUTE_MS).contains(at_ms)).count();
    times_ms.iter().map(within).max().unwrap_or(0)
}

#[test]
fn a_wrong_secret_costs_three_failed_logons_in_any_thirty_minutes_over_any_seed() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let plan = Plan { changed_ms: Some(0), ..Plan::new(&mut rng) };
        let outcome = play(&plan, &mut rng);
        assert!(most_in_a_window(&outcome.wrong_ms) <= 3, "seed {seed}: {:?} {plan:?}", outcome.wrong_ms);
    }
}

#[test]
fn a_secret_that_becomes_wrong_costs_no_more_than_was_on_its_way_over_any_seed() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(1_000 + seed);
        let plan = Plan { changed_ms: Some(rng.within(1..=20) * MINUTE_MS), ..Plan::new(&mut rng) };
        let outcome = play(&plan, &mut rng);
        // What goes out in the round trip in which the first refusal comes back is bounded by the same room as what was in flight.
        let room = 2 * outcome.in_flight.max(outcome.burst(&plan));
        let most = most_in_a_window(&outcome.wrong_ms);
        assert!(most <= 3.max(room + 1), "seed {seed}: {most} of {room}: {:?} {plan:?}", outcome.wrong_ms);
    }
}

impl Outcome {
    /// How many went out at once right after the change: the room that load had made.
    fn burst(&self, plan: &Plan) -> usize {
        let changed_ms = plan.changed_ms.unwrap_or(0);
        let first = self.wrong_ms.first().copied().unwrap_or(0);
        self.wrong_ms.iter().filter(|at_ms| **at_ms == first && *at_ms - changed_ms < 5_000).count()
    }
}

#[test]
fn a_right_secret_is_never_held_by_what_destinations_do_over_any_seed() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(2_000 + seed);
        let plan = Plan::new(&mut rng);
        let outcome = play(&plan, &mut rng);
        // The longest that a destination may take, and a bit for those that are not asked for all the time.
        let bound_ms = if plan.destinations > 8 { 80_000 } else { 15_000 };
        assert!(outcome.longest_gap_ms <= bound_ms, "seed {seed}: {} ms: {plan:?}", outcome.longest_gap_ms);
        assert!(outcome.served > 1_000, "seed {seed}: {} served: {plan:?}", outcome.served);
    }
}

#[test]
fn a_right_secret_is_back_after_a_blip_as_the_schedule_says_over_any_seed() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(3_000 + seed);
        let plan = Plan { blip_ms: Some(10 * MINUTE_MS), refusal_ms: 5, closes_instead: false, ..Plan::new(&mut rng) };
        let outcome = play(&plan, &mut rng);
        assert!(outcome.longest_gap_ms <= 32 * MINUTE_MS, "seed {seed}: {} ms: {plan:?}", outcome.longest_gap_ms);
        // A quiet gateway has one attempt on its way when the blip comes.
        if plan.clients == 1 && plan.destinations <= 3 {
            assert!(outcome.longest_gap_ms <= 75_000, "seed {seed}: {} ms: {plan:?}", outcome.longest_gap_ms);
        }
    }
}
