//! Hours of clients, upstreams and mishaps on a virtual clock, from a seed.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::sim::rng::Rng;

const TICK_MS: u64 = 50;
const LOOK_MS: u64 = 250;
const HOURS_MS: u64 = 65 * MINUTE_MS;
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
    /// The origin sends a redirection, to a right secret.
    Redirects,
}

const DESTINATIONS: [(&str, Destination); 12] = [
    ("a.test:443", Destination::Normal),
    ("b.test:443", Destination::Normal),
    ("c.test:443", Destination::Normal),
    ("d.test:443", Destination::Normal),
    ("forbidden-1.test:443", Destination::Forbidden),
    ("forbidden-2.test:443", Destination::Forbidden),
    ("forbidden-3.test:443", Destination::Forbidden),
    ("denied.test:22", Destination::DeniedFirst),
    ("exempt.test:443", Destination::Exempt),
    ("redirects.test:80", Destination::Redirects),
    ("black-hole.test:443", Destination::BlackHole),
    ("resets.test:443", Destination::Resets),
];

/// What a seed decides.
#[derive(Debug)]
struct Plan {
    attempts: usize,
    upstreams: usize,
    /// The second upstream rejects every secret.
    one_is_broken: bool,
    balance: bool,
    /// When the secret stops being right, in ms.
    changed_ms: Option<u64>,
    /// How long a refusal takes.
    refusal_ms: u64,
    closes_instead: bool,
    /// Clients in a tick, at the most; a tick in so many has any.
    clients: u64,
    rarely: u64,
    /// The first so many of [`DESTINATIONS`] are asked for.
    destinations: usize,
    /// Refuses everything from then on for a second.
    blip_ms: Option<u64>,
}

impl Plan {
    fn new(rng: &mut Rng) -> Plan {
        Plan {
            attempts: rng.pick(&[2, 3, 3, 4]),
            upstreams: rng.pick(&[1, 1, 2, 4]),
            one_is_broken: rng.once_in(3),
            balance: rng.once_in(2),
            changed_ms: None,
            refusal_ms: rng.pick(&[0, 5, 300, 3_000, 10_000, 30_000]),
            closes_instead: rng.once_in(3),
            clients: rng.pick(&[1, 1, 3, 10]),
            rarely: rng.pick(&[1, 4, 40]),
            destinations: rng.pick(&[1, 3, 5, 8, 10, 12]),
            blip_ms: None,
        }
    }

    fn is_right(&self, now_ms: u64) -> bool {
        self.changed_ms.is_none_or(|changed_ms| now_ms < changed_ms)
    }

    /// What an upstream makes of an attempt, when, and whether it looked at the secret.
    fn judge(&self, upstream: usize, destination: Destination, now_ms: u64, rng: &mut Rng) -> (u64, Answer, bool) {
        let refusal = if self.closes_instead { Answer::Closed } else { Answer::Refused };
        let in_blip = self.blip_ms.is_some_and(|from_ms| (from_ms..from_ms + 1_000).contains(&now_ms));
        let is_broken = self.one_is_broken && upstream == 1;
        let soon_ms = now_ms + rng.within(1..=50);
        match destination {
            Destination::DeniedFirst => (soon_ms, Answer::Status(403), false),
            Destination::Exempt => (soon_ms, Answer::Status(200), false),
            _ if !self.is_right(now_ms) || in_blip || is_broken => (now_ms + self.refusal_ms, refusal, true),
            Destination::Normal => (soon_ms, Answer::Status(200), true),
            Destination::Redirects => (soon_ms, Answer::Status(302), true),
            Destination::Forbidden => (soon_ms, Answer::Refused, true),
            Destination::BlackHole => (now_ms + 60_000, Answer::Status(503), true),
            Destination::Resets => (soon_ms, Answer::Closed, true),
        }
    }
}

/// An attempt that is on its way.
struct OnItsWay {
    due_ms: u64,
    ticket: Ticket,
    answer: Answer,
    is_wrong: bool,
    _confirmation: Option<Confirmation>,
}

struct World<'a> {
    plan: &'a Plan,
    rng: &'a mut Rng,
    guard: Arc<Guard>,
    upstreams: Vec<Arc<str>>,
    on_their_way: Vec<OnItsWay>,
    /// The guard has told something.
    is_called: Arc<AtomicBool>,
    somebody_waits: bool,
    outcome: Outcome,
}

/// What happened.
#[derive(Default)]
struct Outcome {
    /// When a wrong secret was looked at.
    wrong_ms: Vec<u64>,
    /// How many of them were sent before the first of them was answered.
    batch: usize,
    is_answered: bool,
    /// The most attempts at once that had no answer before the secret changed.
    peak: usize,
    /// The longest time in which nobody was served.
    longest_gap_ms: u64,
    served_ms: u64,
    served: u64,
}

fn kind_of(destination: &str) -> Destination {
    DESTINATIONS.iter().find(|(known, _)| *known == destination).expect("a known destination").1
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, rng: &'a mut Rng) -> World<'a> {
        let accounts = Accounts::new(GuardPolicy { attempts: plan.attempts, ..GuardPolicy::default() });
        let is_called = Arc::new(AtomicBool::new(false));
        let called = Arc::clone(&is_called);
        let guard = Guard::of(accounts.of("CORP", "svc"), 1, move |_| called.store(true, Ordering::Relaxed));
        let upstreams: Vec<Arc<str>> = (0..plan.upstreams).map(|number| format!("u{number}").into()).collect();
        let (on_their_way, outcome) = (Vec::new(), Outcome::default());
        World { plan, rng, guard, upstreams, on_their_way, is_called, somebody_waits: false, outcome }
    }

    fn play(mut self) -> Outcome {
        // One that has never been accepted cannot tell a policy from a wrong secret.
        if self.plan.is_right(0) {
            self.attempt(0, 0, DESTINATIONS[0].0, true, None);
        }
        for tick in 1..HOURS_MS / TICK_MS {
            let now_ms = tick * TICK_MS;
            self.settle(now_ms);
            let looks = self.somebody_waits && now_ms.is_multiple_of(LOOK_MS);
            if self.is_called.swap(false, Ordering::Relaxed) || looks {
                self.somebody_waits = false;
                self.confirm(now_ms);
            }
            if self.rng.once_in(self.plan.rarely) {
                (0..self.rng.within(0..=self.plan.clients)).for_each(|_| self.client(now_ms));
            }
        }
        self.outcome
    }

    fn settle(&mut self, now_ms: u64) {
        let (due, rest) =
            std::mem::take(&mut self.on_their_way).into_iter().partition(|it: &OnItsWay| it.due_ms <= now_ms);
        self.on_their_way = rest;
        for it in due {
            self.outcome.is_answered |= it.is_wrong;
            it.ticket.settle(now_ms, it.answer);
        }
    }

    fn confirm(&mut self, now_ms: u64) {
        for place in 0..self.upstreams.len() {
            let upstream = Arc::clone(&self.upstreams[place]);
            self.somebody_waits |= self.guard.wants_confirmation(&upstream);
            if let Some(confirmation) = self.guard.take_confirmation(now_ms, &upstream) {
                let destination = confirmation.good().destination.clone();
                self.attempt(now_ms, place, &destination, true, Some(confirmation));
            }
        }
    }

    fn client(&mut self, now_ms: u64) {
        let (destination, kind) = self.rng.pick(&DESTINATIONS[..self.plan.destinations]);
        let first = if self.plan.balance { self.rng.below(self.upstreams.len()) } else { 0 };
        let is_open = |place: &usize| {
            let upstream = &self.upstreams[(first + place) % self.upstreams.len()];
            self.guard.refuses(now_ms, upstream, "CONNECT", destination).is_none()
        };
        let Some(place) = (0..self.upstreams.len()).find(is_open) else { return };
        let place = (first + place) % self.upstreams.len();
        let upstream = Arc::clone(&self.upstreams[place]);
        // A fresh connection, unless the secret is accepted and some are pre-challenged.
        let pre_challenged = self.guard.is_fresh(now_ms, &upstream) && self.rng.once_in(2);
        if !pre_challenged && matches!(kind, Destination::DeniedFirst | Destination::Exempt) {
            return;
        }
        let _scout = match self.guard.enter(now_ms, &upstream, "CONNECT", destination) {
            _ if pre_challenged => None,
            Entry::Go => None,
            Entry::Scout(scout) => Some(scout),
            Entry::Wait => return self.somebody_waits = true,
            Entry::No(_) => return,
        };
        self.attempt(now_ms, place, destination, !pre_challenged, None);
    }

    fn attempt(
        &mut self,
        now_ms: u64,
        place: usize,
        destination: &str,
        challenged: bool,
        confirmation: Option<Confirmation>,
    ) {
        let upstream = Arc::clone(&self.upstreams[place]);
        let asking = Asking { confirms: confirmation.is_some(), ..asking(&upstream, destination, challenged) };
        let ticket = match self.guard.ask(now_ms, &asking) {
            Permission::Go(ticket) => ticket,
            Permission::Wait => return self.somebody_waits = true,
            Permission::No(_) => return,
        };
        let (due_ms, answer, looked_at) = self.plan.judge(place, kind_of(destination), now_ms, self.rng);
        let is_wrong = looked_at && !self.plan.is_right(now_ms);
        let outcome = &mut self.outcome;
        if is_wrong {
            outcome.wrong_ms.push(now_ms);
            outcome.batch += usize::from(!outcome.is_answered);
        }
        if kind_of(destination) == Destination::Normal && answer == Answer::Status(200) && confirmation.is_none() {
            outcome.longest_gap_ms = outcome.longest_gap_ms.max(now_ms - outcome.served_ms);
            outcome.served += 1;
            outcome.served_ms = now_ms;
        }
        self.on_their_way.push(OnItsWay { due_ms, ticket, answer, is_wrong, _confirmation: confirmation });
        if self.plan.is_right(now_ms) {
            self.outcome.peak = self.outcome.peak.max(self.on_their_way.len());
        }
    }
}

/// The most within any 30 minutes.
fn most_in_a_window(times_ms: &[u64]) -> usize {
    let within = |from: &u64| times_ms.iter().filter(|at_ms| (*from..from + 30 * MINUTE_MS).contains(at_ms)).count();
    times_ms.iter().map(within).max().unwrap_or(0)
}

#[test]
fn a_wrong_secret_costs_no_more_than_the_budget_in_any_thirty_minutes_over_any_seed() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let plan = Plan { changed_ms: Some(0), ..Plan::new(&mut rng) };
        let outcome = World::new(&plan, &mut rng).play();
        assert!(most_in_a_window(&outcome.wrong_ms) <= plan.attempts, "seed {seed}: {:?} {plan:?}", outcome.wrong_ms);
        assert!(!outcome.wrong_ms.is_empty(), "seed {seed} shows nothing: {plan:?}");
    }
}

#[test]
fn a_secret_that_becomes_wrong_costs_what_was_on_its_way_and_the_rest_of_the_budget_over_any_seed() {
    for seed in 0..2 * SEEDS {
        let mut rng = Rng::new(1_000 + seed);
        let plan = Plan { changed_ms: Some(rng.within(1..=20) * MINUTE_MS), ..Plan::new(&mut rng) };
        let outcome = World::new(&plan, &mut rng).play();
        // What goes out before the first refusal is there cannot be known to be wrong: as much as load had made room for.
        let room = (outcome.peak + 1) * plan.upstreams.max(2) + plan.attempts;
        assert!(outcome.batch <= room, "seed {seed}: {} at once of {room}: {plan:?}", outcome.batch);
        let later_ms = &outcome.wrong_ms[outcome.batch..];
        let most = most_in_a_window(later_ms);
        assert!(most <= plan.attempts, "seed {seed}: {most}: {:?} {plan:?}", outcome.wrong_ms);
        let until_ms = outcome.wrong_ms.first().map_or(0, |first_ms| first_ms + 30 * MINUTE_MS);
        let soon = later_ms.iter().filter(|at_ms| **at_ms < until_ms).count();
        assert!(soon < plan.attempts, "seed {seed}: {soon} after {}: {:?} {plan:?}", outcome.batch, outcome.wrong_ms);
        let quiet = plan.clients == 1 && plan.rarely == 40 && plan.upstreams == 1;
        let in_all = most_in_a_window(&outcome.wrong_ms);
        assert!(!quiet || in_all <= plan.attempts, "seed {seed}: {in_all}: {:?} {plan:?}", outcome.wrong_ms);
    }
}

#[test]
fn a_right_secret_is_never_held_by_what_destinations_do_over_any_seed() {
    for seed in 0..2 * SEEDS {
        let mut rng = Rng::new(2_000 + seed);
        let plan = Plan::new(&mut rng);
        // Two attempts are few for four upstreams: what is forbidden at one and cut off at another may use them up.
        let attempts = if plan.upstreams > 1 { plan.attempts.max(3) } else { plan.attempts };
        let plan = Plan { attempts, ..plan };
        let outcome = World::new(&plan, &mut rng).play();
        // The longest that a destination may take, and the time between two requests for a normal one.
        let bound_ms = 65_000 + 20 * TICK_MS * plan.rarely * plan.destinations as u64;
        assert!(outcome.longest_gap_ms <= bound_ms, "seed {seed}: {} ms: {plan:?}", outcome.longest_gap_ms);
        assert!(outcome.served > 50, "seed {seed}: {} served: {plan:?}", outcome.served);
    }
}

#[test]
fn a_right_secret_is_back_a_minute_after_a_blip_over_any_seed() {
    for seed in 0..2 * SEEDS {
        let mut rng = Rng::new(3_000 + seed);
        let plan =
            Plan { blip_ms: Some(10 * MINUTE_MS), one_is_broken: false, closes_instead: false, ..Plan::new(&mut rng) };
        // With two attempts there is none left for after a minute, and each upstream beyond the second may take one.
        let (attempts, refusal_ms) = (plan.attempts.max(3), plan.refusal_ms.min(300));
        let (upstreams, destinations) = (plan.upstreams.min(2), plan.destinations.min(8));
        let plan = Plan { attempts, refusal_ms, upstreams, destinations, ..plan };
        let outcome = World::new(&plan, &mut rng).play();
        let bound_ms = 130_000 + 20 * TICK_MS * plan.rarely * plan.destinations as u64;
        assert!(outcome.longest_gap_ms <= bound_ms, "seed {seed}: {} ms: {plan:?}", outcome.longest_gap_ms);
    }
}
