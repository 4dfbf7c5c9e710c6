//! Simulates hours of clients, upstreams and outages on a virtual clock; a seed decides what happens.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::sim::rng::Rng;

const TICK_MS: u64 = 50;
const LOOK_MS: u64 = 250;
const HOURS_MS: u64 = 65 * MINUTE_MS;
const SEEDS: u64 = 8;

/// How upstreams answer requests for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    Normal,
    /// The upstream answers 407 even if the secret is right.
    Forbidden,
    /// The upstream answers 403 before it checks the secret.
    DeniedFirst,
    /// The upstream lets it pass without checking the secret.
    Exempt,
    /// The upstream accepts the secret, and answers 503 after a minute.
    BlackHole,
    /// The upstream accepts the secret, and closes the connection.
    Resets,
    /// The upstream accepts the secret, and the origin sends a redirect.
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
struct Conditions {
    attempts: usize,
    upstreams: usize,
    /// The second upstream rejects every secret.
    one_is_broken: bool,
    balance: bool,
    /// When the secret stops being right, in ms.
    changed_ms: Option<u64>,
    /// How long a refusal takes, in ms.
    refusal_ms: u64,
    closes_instead: bool,
    /// Most clients in a tick.
    clients: u64,
    /// One tick in so many has clients.
    rarely: u64,
    /// How many of [`DESTINATIONS`] clients ask for, from the first one on.
    destinations: usize,
    /// From then on, all upstreams refuse everything for a second, in ms.
    outage_ms: Option<u64>,
}

impl Conditions {
    fn new(rng: &mut Rng) -> Conditions {
        Conditions {
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
            outage_ms: None,
        }
    }

    fn is_right(&self, now_ms: u64) -> bool {
        self.changed_ms.is_none_or(|changed_ms| now_ms < changed_ms)
    }

    /// When an upstream answers an attempt, how, and whether it checked the secret.
    fn judge(&self, upstream: usize, destination: Destination, now_ms: u64, rng: &mut Rng) -> (u64, Answer, bool) {
        let refusal = if self.closes_instead { Answer::Closed } else { Answer::Refused };
        let in_outage = self.outage_ms.is_some_and(|from_ms| (from_ms..from_ms + 1_000).contains(&now_ms));
        let is_broken = self.one_is_broken && upstream == 1;
        let soon_ms = now_ms + rng.within(1..=50);
        match destination {
            Destination::DeniedFirst => (soon_ms, Answer::Status(403), false),
            Destination::Exempt => (soon_ms, Answer::Status(200), false),
            _ if !self.is_right(now_ms) || in_outage || is_broken => (now_ms + self.refusal_ms, refusal, true),
            Destination::Normal => (soon_ms, Answer::Status(200), true),
            Destination::Redirects => (soon_ms, Answer::Status(302), true),
            Destination::Forbidden => (soon_ms, Answer::Refused, true),
            Destination::BlackHole => (now_ms + 60_000, Answer::Status(503), true),
            Destination::Resets => (soon_ms, Answer::Closed, true),
        }
    }
}

/// An unanswered attempt.
struct Unanswered {
    due_ms: u64,
    ticket: Ticket,
    answer: Answer,
    is_wrong: bool,
    _confirmation: Option<Confirmation>,
}

struct World<'a> {
    conditions: &'a Conditions,
    rng: &'a mut Rng,
    guard: Arc<Guard>,
    upstreams: Vec<Arc<str>>,
    unanswered: Vec<Unanswered>,
    /// The guard has reported a change.
    has_changed: Arc<AtomicBool>,
    has_waiting: bool,
    outcome: Outcome,
}

/// What happened.
#[derive(Default)]
struct Outcome {
    /// When attempts were sent with a wrong secret that an upstream checked, in ms.
    wrong_ms: Vec<u64>,
    /// How many of them were sent before the first one was answered.
    batch: usize,
    is_answered: bool,
    /// Most unanswered attempts at once before the secret changed.
    peak: usize,
    /// The longest time in which no client was served, in ms.
    longest_gap_ms: u64,
    served_ms: u64,
    served: u64,
}

fn kind_of(destination: &str) -> Destination {
    DESTINATIONS.iter().find(|(known, _)| *known == destination).expect("a known destination").1
}

impl<'a> World<'a> {
    fn new(conditions: &'a Conditions, rng: &'a mut Rng) -> World<'a> {
        let accounts = Accounts::new(GuardPolicy { attempts: conditions.attempts, ..GuardPolicy::default() });
        let has_changed = Arc::new(AtomicBool::new(false));
        let changed = Arc::clone(&has_changed);
        let guard = Guard::of(accounts.of("CORP", "svc"), 1, move |_| changed.store(true, Ordering::Relaxed));
        let upstreams: Vec<Arc<str>> = (0..conditions.upstreams).map(|number| format!("u{number}").into()).collect();
        let (unanswered, outcome) = (Vec::new(), Outcome::default());
        World { conditions, rng, guard, upstreams, unanswered, has_changed, has_waiting: false, outcome }
    }

    fn play(mut self) -> Outcome {
        // Before the first acceptance, the guard cannot distinguish a policy from a wrong secret.
        if self.conditions.is_right(0) {
            self.attempt(0, 0, DESTINATIONS[0].0, true, None);
        }
        for tick in 1..HOURS_MS / TICK_MS {
            let now_ms = tick * TICK_MS;
            self.settle(now_ms);
            let looks = self.has_waiting && now_ms.is_multiple_of(LOOK_MS);
            if self.has_changed.swap(false, Ordering::Relaxed) || looks {
                self.has_waiting = false;
                self.confirm(now_ms);
            }
            if self.rng.once_in(self.conditions.rarely) {
                (0..self.rng.within(0..=self.conditions.clients)).for_each(|_| self.client(now_ms));
            }
        }
        self.outcome
    }

    fn settle(&mut self, now_ms: u64) {
        let (due, rest) =
            std::mem::take(&mut self.unanswered).into_iter().partition(|attempt: &Unanswered| attempt.due_ms <= now_ms);
        self.unanswered = rest;
        for attempt in due {
            self.outcome.is_answered |= attempt.is_wrong;
            attempt.ticket.settle(now_ms, attempt.answer);
        }
    }

    fn confirm(&mut self, now_ms: u64) {
        for index in 0..self.upstreams.len() {
            let upstream = Arc::clone(&self.upstreams[index]);
            self.has_waiting |= self.guard.wants_confirmation(&upstream);
            if let Some(confirmation) = self.guard.take_confirmation(now_ms, &upstream) {
                let destination = confirmation.good().destination.clone();
                self.attempt(now_ms, index, &destination, true, Some(confirmation));
            }
        }
    }

    fn client(&mut self, now_ms: u64) {
        let (destination, kind) = self.rng.pick(&DESTINATIONS[..self.conditions.destinations]);
        let first = if self.conditions.balance { self.rng.below(self.upstreams.len()) } else { 0 };
        let is_open = |index: &usize| {
            let upstream = &self.upstreams[(first + index) % self.upstreams.len()];
            self.guard.refuses(now_ms, upstream, "CONNECT", destination).is_none()
        };
        let Some(index) = (0..self.upstreams.len()).find(is_open) else { return };
        let index = (first + index) % self.upstreams.len();
        let upstream = Arc::clone(&self.upstreams[index]);
        // A fresh connection, unless the secret is accepted and some are pre-challenged.
        let pre_challenged = self.guard.is_accepted(now_ms, &upstream) && self.rng.once_in(2);
        if !pre_challenged && matches!(kind, Destination::DeniedFirst | Destination::Exempt) {
            return;
        }
        let _scout = match self.guard.enter(now_ms, &upstream, "CONNECT", destination) {
            _ if pre_challenged => None,
            DialPermission::Go => None,
            DialPermission::Scout(scout) => Some(scout),
            DialPermission::Wait => return self.has_waiting = true,
            DialPermission::No(_) => return,
        };
        self.attempt(now_ms, index, destination, !pre_challenged, None);
    }

    fn attempt(
        &mut self,
        now_ms: u64,
        index: usize,
        destination: &str,
        challenged: bool,
        confirmation: Option<Confirmation>,
    ) {
        let upstream = Arc::clone(&self.upstreams[index]);
        let request =
            AttemptRequest { confirms: confirmation.is_some(), ..request(&upstream, destination, challenged) };
        let ticket = match self.guard.ask(now_ms, &request) {
            SendPermission::Go(ticket) => ticket,
            SendPermission::Wait => return self.has_waiting = true,
            SendPermission::No(_) => return,
        };
        let (due_ms, answer, checked) = self.conditions.judge(index, kind_of(destination), now_ms, self.rng);
        let is_wrong = checked && !self.conditions.is_right(now_ms);
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
        self.unanswered.push(Unanswered { due_ms, ticket, answer, is_wrong, _confirmation: confirmation });
        if self.conditions.is_right(now_ms) {
            self.outcome.peak = self.outcome.peak.max(self.unanswered.len());
        }
    }
}

/// The most of these times within any 30 minutes.
fn most_in_a_window(times_ms: &[u64]) -> usize {
    let within = |from: &u64| times_ms.iter().filter(|at_ms| (*from..from + 30 * MINUTE_MS).contains(at_ms)).count();
    times_ms.iter().map(within).max().unwrap_or(0)
}

#[test]
fn for_any_seed_a_wrong_secret_never_exceeds_the_budget() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let conditions = Conditions { changed_ms: Some(0), ..Conditions::new(&mut rng) };
        let outcome = World::new(&conditions, &mut rng).play();
        assert!(
            most_in_a_window(&outcome.wrong_ms) <= conditions.attempts,
            "seed {seed}: {:?} {conditions:?}",
            outcome.wrong_ms
        );
        assert!(!outcome.wrong_ms.is_empty(), "seed {seed} tests nothing: {conditions:?}");
    }
}

#[test]
fn for_any_seed_a_secret_that_becomes_wrong_costs_one_batch_and_the_budget() {
    for seed in 0..2 * SEEDS {
        let mut rng = Rng::new(1_000 + seed);
        let conditions = Conditions { changed_ms: Some(rng.within(1..=20) * MINUTE_MS), ..Conditions::new(&mut rng) };
        let outcome = World::new(&conditions, &mut rng).play();
        // Attempts that go out before the first refusal arrives cannot be prevented: as many as load had made room for.
        let room = (outcome.peak + 1) * conditions.upstreams.max(2) + conditions.attempts;
        assert!(outcome.batch <= room, "seed {seed}: {} at once of {room}: {conditions:?}", outcome.batch);
        let later_ms = &outcome.wrong_ms[outcome.batch..];
        let most = most_in_a_window(later_ms);
        assert!(most <= conditions.attempts, "seed {seed}: {most}: {:?} {conditions:?}", outcome.wrong_ms);
        let until_ms = outcome.wrong_ms.first().map_or(0, |first_ms| first_ms + 30 * MINUTE_MS);
        let soon = later_ms.iter().filter(|at_ms| **at_ms < until_ms).count();
        assert!(
            soon < conditions.attempts,
            "seed {seed}: {soon} after {}: {:?} {conditions:?}",
            outcome.batch,
            outcome.wrong_ms
        );
        let quiet = conditions.clients == 1 && conditions.rarely == 40 && conditions.upstreams == 1;
        let in_all = most_in_a_window(&outcome.wrong_ms);
        assert!(
            !quiet || in_all <= conditions.attempts,
            "seed {seed}: {in_all}: {:?} {conditions:?}",
            outcome.wrong_ms
        );
    }
}

#[test]
fn for_any_seed_destinations_never_close_the_guard_for_a_right_secret() {
    for seed in 0..2 * SEEDS {
        let mut rng = Rng::new(2_000 + seed);
        let conditions = Conditions::new(&mut rng);
        // A budget of two is too small for several upstreams: a destination forbidden at one and reset at another may
        // use it up.
        let attempts = if conditions.upstreams > 1 { conditions.attempts.max(3) } else { conditions.attempts };
        let conditions = Conditions { attempts, ..conditions };
        let outcome = World::new(&conditions, &mut rng).play();
        // The slowest answer, and the time between two requests for a normal destination.
        let bound_ms = 65_000 + 20 * TICK_MS * conditions.rarely * conditions.destinations as u64;
        assert!(outcome.longest_gap_ms <= bound_ms, "seed {seed}: {} ms: {conditions:?}", outcome.longest_gap_ms);
        assert!(outcome.served > 50, "seed {seed}: {} served: {conditions:?}", outcome.served);
    }
}

#[test]
fn for_any_seed_a_right_secret_recovers_a_minute_after_an_outage() {
    for seed in 0..2 * SEEDS {
        let mut rng = Rng::new(3_000 + seed);
        let conditions = Conditions {
            outage_ms: Some(10 * MINUTE_MS),
            one_is_broken: false,
            closes_instead: false,
            ..Conditions::new(&mut rng)
        };
        // A budget of two leaves no attempt for the retry after a minute, and each upstream beyond the second may use
        // one.
        let (attempts, refusal_ms) = (conditions.attempts.max(3), conditions.refusal_ms.min(300));
        let (upstreams, destinations) = (conditions.upstreams.min(2), conditions.destinations.min(8));
        let conditions = Conditions { attempts, refusal_ms, upstreams, destinations, ..conditions };
        let outcome = World::new(&conditions, &mut rng).play();
        let bound_ms = 130_000 + 20 * TICK_MS * conditions.rarely * conditions.destinations as u64;
        assert!(outcome.longest_gap_ms <= bound_ms, "seed {seed}: {} ms: {conditions:?}", outcome.longest_gap_ms);
    }
}
