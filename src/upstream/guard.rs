//! The credential guard: what keeps a wrong password from locking an account.
//!
//! ```text
//!               accepted                     refused, or an old proof
//!   Unproven ───────────────▶ Proven ───────────────────▶ Unproven (one canary decides)
//!      │ ▲ one AUTHENTICATE at a time                         │
//!      │ └───────────────── back-off passed ──────┐           │
//!      └──────── refused ─────────────────────▶ Refused ◀─────┘ refused
//! ```
//!
//! Any AUTHENTICATE_MESSAGE goes out with a [`Ticket`]; who gets none waits or gives up. Tickets are numbered in the order of
//! sending, so that a late answer does not overrule a younger one: an acceptance from before a refusal proves nothing any
//! more.
//!
//! A refusal while *proven* may be about the destination and not about the password: some proxies answer 407 to what their
//! policy forbids. So the destination becomes a suspect and gets nothing sent for a while, and the canary that decides
//! about the password goes to another one.
//!
//! An attempt that ends without an answer while the identity has never been proven counts as one that may have failed:
//! the proxy may have told the domain controller before the connection broke.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limits::{self, millis};

/// How many attempts the guard allows, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardPolicy {
    /// Unsuccessful AUTHENTICATE_MESSAGEs within `window` at the most.
    pub attempts: u32,
    /// The sliding window that `attempts` speaks of.
    pub window: Duration,
    /// Rest after the first refusal.
    pub backoff: Duration,
    /// Each further rest is this many times as long, up to `window`.
    pub backoff_factor: u32,
    /// A canary that has had no answer for so long no longer holds the others up: a refusal comes at once, what takes long is
    /// the upstream's own way to the origin.
    pub patience: Duration,
    /// A proof that is older than this, and was not renewed since, is tested by one canary before all go: the burst after a quiet
    /// night must not find out together that the password has changed.
    pub proof_age: Duration,
}

impl GuardPolicy {
    /// The rest after so many refusals in a row.
    fn rest(&self, refusals: u32) -> Duration {
        let factor = self.backoff_factor.saturating_pow(refusals.saturating_sub(1));
        self.backoff.saturating_mul(factor).min(self.window)
    }
}

impl Default for GuardPolicy {
    fn default() -> Self {
        GuardPolicy {
            attempts: limits::GUARD_ATTEMPTS,
            window: limits::GUARD_WINDOW,
            backoff: limits::GUARD_BACKOFF,
            backoff_factor: limits::GUARD_BACKOFF_FACTOR,
            patience: limits::GUARD_PATIENCE,
            proof_age: limits::GUARD_PROOF_AGE,
        }
    }
}

/// What the guard knows of its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardState {
    /// No AUTHENTICATE_MESSAGE has been accepted since the start, the change of the secret, or the last refusal.
    Unproven,
    /// The upstream accepts the identity.
    Proven,
    /// The upstream refused it; nothing is sent for a while.
    Refused,
}

impl GuardState {
    /// All states, in the order of their metric labels.
    pub const ALL: [GuardState; 3] = [GuardState::Unproven, GuardState::Proven, GuardState::Refused];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            GuardState::Unproven => "unproven",
            GuardState::Proven => "proven",
            GuardState::Refused => "refused",
        }
    }
}

/// The answer to a request to send an AUTHENTICATE_MESSAGE.
#[derive(Debug)]
pub enum Permission {
    /// Send it, and tell the ticket what came of it.
    Go(Ticket),
    /// Another handshake is proving the identity; ask again after the next change.
    Wait,
    /// Nothing may be sent yet.
    No(Refusal),
}

/// Why no AUTHENTICATE_MESSAGE may be sent, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The identity was refused.
    Held(Duration),
    /// It was refused for this destination, and is or was accepted for others.
    Barred(Duration),
}

/// The right to send one AUTHENTICATE_MESSAGE. Dropped without an answer, it counts as unanswered.
#[derive(Debug)]
pub struct Ticket {
    guard: Arc<Guard>,
    number: u64,
    destination: u64,
    answered: bool,
}

/// One guard an identity, shared by all shards.
///
/// A mutex and not a message to an owner: it is held for a few instructions, never over input or output, and the caller
/// needs the answer in order to go on.
pub struct Guard {
    policy: GuardPolicy,
    inner: Mutex<Inner>,
    hasher: RandomState,
    on_change: OnChange,
}

/// Told the new state, and how long nothing will be sent.
type OnChange = Box<dyn Fn(GuardState, Duration) + Send + Sync>;

impl std::fmt::Debug for Guard {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Guard").field("state", &self.state()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// When attempts that count were made, in ms, the oldest first; at most `policy.attempts`.
    attempts_ms: Vec<u64>,
    /// Refusals in a row.
    refusals: u32,
    ever_proven: bool,
    next_number: u64,
    /// Tickets whose messages have no answer yet.
    unanswered: u32,
    /// The youngest ticket that was refused, and the youngest that was accepted.
    refused_number: u64,
    accepted_number: u64,
    /// Destinations that were refused while others were accepted; at most [`limits::GUARD_SUSPECTS`], the oldest first.
    suspects: Vec<Suspect>,
}

/// A destination that may be forbidden by the upstream's policy.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    destination: u64,
    refusals: u32,
    until_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unproven { canary: Option<Canary> },
    Proven { at_ms: u64 },
    Refused { until_ms: u64 },
}

/// The handshake that is proving the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Canary {
    number: u64,
    sent_ms: u64,
}

impl Guard {
    /// A guard in the state *unproven*. `on_change` is called after every change that may let a waiter go on, from the
    /// thread that caused it; it must not block and not call the guard.
    pub fn new(policy: GuardPolicy, on_change: impl Fn(GuardState, Duration) + Send + Sync + 'static) -> Arc<Guard> {
        let inner = Inner {
            state: State::Unproven { canary: None },
            attempts_ms: Vec::new(),
            refusals: 0,
            ever_proven: false,
            next_number: 1,
            unanswered: 0,
            refused_number: 0,
            accepted_number: 0,
            suspects: Vec::new(),
        };
        let hasher = RandomState::new();
        Arc::new(Guard { policy, inner: Mutex::new(inner), hasher, on_change: Box::new(on_change) })
    }

    /// The present state. *Refused* lasts until somebody asks again, though its time may be over: see [`Guard::held`].
    pub fn state(&self) -> GuardState {
        match self.lock().state {
            State::Unproven { .. } => GuardState::Unproven,
            State::Proven { .. } => GuardState::Proven,
            State::Refused { .. } => GuardState::Refused,
        }
    }

    /// How long nothing may be sent for any destination yet, if so.
    pub fn held(&self, now_ms: u64) -> Option<Duration> {
        self.lock().held(now_ms)
    }

    /// Whether nothing may be sent for this destination yet; lets a newcomer give up before it dials.
    pub fn refuses(&self, now_ms: u64, destination: &str) -> Option<Refusal> {
        let destination = self.hasher.hash_one(destination);
        self.lock().refuses(now_ms, destination)
    }

    /// Asks to send one AUTHENTICATE_MESSAGE with a request for `destination` (`host:port`).
    pub fn ask(self: &Arc<Guard>, now_ms: u64, destination: &str) -> Permission {
        let destination = self.hasher.hash_one(destination);
        let mut inner = self.lock();
        if let Some(refusal) = inner.refuses(now_ms, destination) {
            return Permission::No(refusal);
        }
        match inner.state {
            State::Proven { at_ms } if now_ms < at_ms + millis(self.policy.proof_age) => {}
            State::Unproven { canary: Some(canary) } if now_ms < canary.sent_ms + millis(self.policy.patience) => {
                return Permission::Wait;
            }
            _ => {
                if let Some(until_ms) = inner.budget_spent_until(&self.policy, now_ms) {
                    // Slow is not refused: the answers that are still to come decide.
                    if inner.unanswered > 0 {
                        return Permission::Wait;
                    }
                    inner.state = State::Refused { until_ms };
                    drop(inner);
                    let rest = Duration::from_millis(until_ms - now_ms);
                    (self.on_change)(GuardState::Refused, rest);
                    return Permission::No(Refusal::Held(rest));
                }
                inner.state = State::Unproven { canary: Some(Canary { number: inner.next_number, sent_ms: now_ms }) };
                if !inner.ever_proven {
                    inner.count_attempt(&self.policy, now_ms);
                }
            }
        }
        let number = inner.next_number;
        inner.next_number += 1;
        inner.unanswered += 1;
        Permission::Go(Ticket { guard: Arc::clone(self), number, destination, answered: false })
    }

    fn accepted(&self, number: u64, destination: u64, now_ms: u64) {
        let mut inner = self.lock();
        inner.unanswered -= 1;
        inner.suspects.retain(|suspect| suspect.destination != destination);
        if number <= inner.refused_number {
            inner.end_canary(number);
            return;
        }
        let changed = !matches!(inner.state, State::Proven { .. });
        inner.state = State::Proven { at_ms: now_ms };
        inner.ever_proven = true;
        inner.refusals = 0;
        inner.attempts_ms.clear();
        inner.accepted_number = inner.accepted_number.max(number);
        drop(inner);
        if changed {
            (self.on_change)(GuardState::Proven, Duration::ZERO);
        }
    }

    fn refused(&self, number: u64, destination: u64, now_ms: u64) {
        let mut inner = self.lock();
        inner.unanswered -= 1;
        if number < inner.accepted_number {
            return;
        }
        inner.refused_number = inner.refused_number.max(number);
        let was_counted = inner.has_canary(number) && !inner.ever_proven;
        if !was_counted {
            inner.count_attempt(&self.policy, now_ms);
        }
        let was_suspect = inner.suspects.iter().any(|suspect| suspect.destination == destination);
        let next = match inner.state {
            State::Proven { .. } => {
                inner.refusals = 1;
                inner.suspect(&self.policy, destination, now_ms);
                GuardState::Unproven
            }
            // It says again what it said before, and nothing of the password.
            State::Unproven { .. } if was_suspect => {
                inner.suspect(&self.policy, destination, now_ms);
                GuardState::Unproven
            }
            State::Unproven { .. } => {
                inner.refusals += 1;
                GuardState::Refused
            }
            // Sent before the guard closed: it is counted, but it is no further strike.
            State::Refused { .. } => GuardState::Refused,
        };
        inner.state = match next {
            GuardState::Refused => State::Refused { until_ms: inner.closed_until(&self.policy, now_ms) },
            _ => State::Unproven { canary: None },
        };
        let rest = match inner.state {
            State::Refused { until_ms } => Duration::from_millis(until_ms - now_ms),
            _ => Duration::ZERO,
        };
        drop(inner);
        (self.on_change)(next, rest);
    }

    fn unanswered(&self, number: u64) {
        let mut inner = self.lock();
        inner.unanswered -= 1;
        if inner.end_canary(number) {
            drop(inner);
            (self.on_change)(GuardState::Unproven, Duration::ZERO);
        }
    }

    /// Nothing was sent after all: the attempt is taken back.
    fn unused(&self, number: u64) {
        let mut inner = self.lock();
        inner.unanswered -= 1;
        if inner.end_canary(number) {
            if !inner.ever_proven {
                inner.attempts_ms.pop();
            }
            drop(inner);
            (self.on_change)(GuardState::Unproven, Duration::ZERO);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn count_attempt(&mut self, policy: &GuardPolicy, now_ms: u64) {
        self.attempts_ms.push(now_ms);
        let surplus = self.attempts_ms.len().saturating_sub(policy.attempts as usize);
        self.attempts_ms.drain(..surplus);
    }

    fn held(&self, now_ms: u64) -> Option<Duration> {
        match self.state {
            State::Refused { until_ms } => rest_until(until_ms, now_ms),
            _ => None,
        }
    }

    fn refuses(&self, now_ms: u64, destination: u64) -> Option<Refusal> {
        let barred = |suspect: &&Suspect| suspect.destination == destination;
        let held = self.held(now_ms).map(Refusal::Held);
        held.or_else(|| rest_until(self.suspects.iter().find(barred)?.until_ms, now_ms).map(Refusal::Barred))
    }

    /// Makes a destination a suspect, or puts off its next try once more.
    fn suspect(&mut self, policy: &GuardPolicy, destination: u64, now_ms: u64) {
        let known = self.suspects.iter().position(|suspect| suspect.destination == destination);
        let refusals = known.map_or(1, |index| self.suspects.remove(index).refusals.saturating_add(1));
        let until_ms = now_ms + millis(policy.rest(refusals));
        self.suspects.push(Suspect { destination, refusals, until_ms });
        let surplus = self.suspects.len().saturating_sub(limits::GUARD_SUSPECTS);
        self.suspects.drain(..surplus);
    }

    fn has_canary(&self, number: u64) -> bool {
        matches!(self.state, State::Unproven { canary: Some(canary) } if canary.number == number)
    }

    /// Frees the canary's place if `number` holds it.
    fn end_canary(&mut self, number: u64) -> bool {
        let held = self.has_canary(number);
        if held {
            self.state = State::Unproven { canary: None };
        }
        held
    }

    /// Until when no further attempt fits into the window, if none does now.
    fn budget_spent_until(&self, policy: &GuardPolicy, now_ms: u64) -> Option<u64> {
        let oldest = self.attempts_ms.len().checked_sub(policy.attempts as usize)?;
        let until_ms = self.attempts_ms[oldest] + millis(policy.window);
        (until_ms > now_ms).then_some(until_ms)
    }

    /// Until when the guard stays closed after a refusal at `now_ms`.
    fn closed_until(&self, policy: &GuardPolicy, now_ms: u64) -> u64 {
        let by_backoff = now_ms + millis(policy.rest(self.refusals));
        by_backoff.max(self.budget_spent_until(policy, now_ms).unwrap_or(0))
    }
}

impl Ticket {
    /// The upstream took the AUTHENTICATE_MESSAGE: it answered with anything but a 407.
    pub fn accepted(mut self, now_ms: u64) {
        self.answered = true;
        self.guard.accepted(self.number, self.destination, now_ms);
    }

    /// No AUTHENTICATE_MESSAGE was sent: the challenge could not be answered.
    pub fn unused(mut self) {
        self.answered = true;
        self.guard.unused(self.number);
    }

    /// The upstream answered the AUTHENTICATE_MESSAGE with a 407.
    pub fn refused(mut self, now_ms: u64) {
        self.answered = true;
        self.guard.refused(self.number, self.destination, now_ms);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.guard.unanswered(self.number);
        }
    }
}

fn rest_until(until_ms: u64, now_ms: u64) -> Option<Duration> {
    until_ms.checked_sub(now_ms).filter(|rest_ms| *rest_ms > 0).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const MINUTE_MS: u64 = 60_000;

    fn guard() -> Arc<Guard> {
        Guard::new(GuardPolicy::default(), |_, _| {})
    }

    fn go(guard: &Arc<Guard>, now_ms: u64) -> Ticket {
        go_to(guard, now_ms, "origin:443")
    }

    fn go_to(guard: &Arc<Guard>, now_ms: u64, destination: &str) -> Ticket {
        match guard.ask(now_ms, destination) {
            Permission::Go(ticket) => ticket,
            other => panic!("expected a ticket, got {other:?}"),
        }
    }

    #[test]
    fn while_unproven_one_goes_and_the_others_wait() {
        let guard = guard();
        let canary = go(&guard, 0);
        assert!(matches!(guard.ask(0, "origin:443"), Permission::Wait));
        canary.accepted(1);
        let _together = (go(&guard, 1), go(&guard, 1), go(&guard, 1));
    }

    #[test]
    fn a_wrong_password_under_load_is_tried_three_times_in_thirty_minutes() {
        let guard = guard();
        let mut sent_ms = Vec::new();
        // A thousand clients a second for two hours.
        for second in 0..7_200 {
            let now_ms = second * 1_000;
            for _ in 0..1_000 {
                if let Permission::Go(ticket) = guard.ask(now_ms, "origin:443") {
                    sent_ms.push(now_ms);
                    ticket.refused(now_ms);
                }
            }
        }
        for window in sent_ms.windows(4) {
            assert!(window[3] - window[0] >= 30 * MINUTE_MS, "{window:?}");
        }
        assert_eq!(sent_ms[..4], [0, MINUTE_MS, 6 * MINUTE_MS, 31 * MINUTE_MS]);
    }

    #[test]
    fn attempts_without_an_answer_are_bounded_too() {
        let guard = guard();
        let sent = (0..1_000).filter(|_| matches!(guard.ask(5, "origin:443"), Permission::Go(_))).count();
        assert_eq!(sent, 3);
        assert_eq!(guard.state(), GuardState::Refused);
        assert!(matches!(guard.ask(30 * MINUTE_MS + 5, "origin:443"), Permission::Go(_)));
    }

    #[test]
    fn a_ticket_that_was_not_used_is_no_attempt() {
        let guard = guard();
        for now_ms in 0..100 {
            go(&guard, now_ms).unused();
        }
        assert_eq!(guard.state(), GuardState::Unproven);
        go(&guard, 200).accepted(200);
    }

    #[test]
    fn once_proven_lost_connections_close_nothing() {
        let guard = guard();
        go(&guard, 0).accepted(0);
        for _ in 0..100 {
            drop(go(&guard, 1));
        }
        assert_eq!(guard.state(), GuardState::Proven);
    }

    #[test]
    fn a_refusal_after_proof_lets_one_canary_decide() {
        let guard = guard();
        go(&guard, 0).accepted(0);
        let in_flight = go(&guard, 1);
        go_to(&guard, 1, "other:443").refused(2);
        assert_eq!(guard.state(), GuardState::Unproven);
        let canary = go(&guard, 3);
        assert!(matches!(guard.ask(3, "origin:443"), Permission::Wait));
        // Sent before the refusal: proves nothing about now.
        in_flight.accepted(3);
        assert!(matches!(guard.ask(3, "origin:443"), Permission::Wait));
        canary.accepted(3);
        assert_eq!(guard.state(), GuardState::Proven);
    }

    #[test]
    fn a_refusal_that_is_older_than_the_proof_is_ignored() {
        let guard = guard();
        go(&guard, 0).accepted(0);
        let old = go(&guard, 1);
        go(&guard, 2).accepted(2);
        old.refused(3);
        assert_eq!(guard.state(), GuardState::Proven);
    }

    #[test]
    fn the_guard_tells_of_every_change_that_can_free_a_waiter() {
        let changes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&changes);
        let guard = Guard::new(GuardPolicy::default(), move |_, _| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        drop(go(&guard, 0));
        assert_eq!(changes.load(Ordering::Relaxed), 1, "unanswered");
        go(&guard, 0).refused(0);
        assert_eq!(changes.load(Ordering::Relaxed), 2, "refused");
        go(&guard, 30 * MINUTE_MS).accepted(30 * MINUTE_MS);
        assert_eq!(changes.load(Ordering::Relaxed), 3, "accepted");
    }

    #[test]
    fn a_canary_without_an_answer_holds_the_others_up_for_a_moment_only() {
        let guard = guard();
        let slow = go(&guard, 0);
        assert!(matches!(guard.ask(1_999, "origin:443"), Permission::Wait));
        go(&guard, 2_000).accepted(2_100);
        assert_eq!(guard.state(), GuardState::Proven);
        slow.accepted(70_000);
        assert_eq!(guard.state(), GuardState::Proven);
    }

    #[test]
    fn answers_that_are_slow_are_waited_for_and_not_taken_for_refusals() {
        let guard = guard();
        let mut tickets: Vec<Ticket> = (0..3).map(|number| go(&guard, number * 2_000)).collect();
        assert!(matches!(guard.ask(60_000, "origin:443"), Permission::Wait));
        assert_eq!(guard.held(60_000), None, "a newcomer may dial");
        tickets.remove(0).accepted(61_000);
        go(&guard, 61_000).accepted(61_100);
        drop(tickets);
        assert_eq!(guard.state(), GuardState::Proven);
    }

    #[test]
    fn after_a_quiet_time_one_canary_finds_out_whether_the_password_still_holds() {
        let guard = guard();
        go(&guard, 0).accepted(0);
        let night_ms = 8 * 60 * MINUTE_MS;
        let canary = go(&guard, night_ms);
        let waiting = (0..1_000).filter(|_| matches!(guard.ask(night_ms, "origin:443"), Permission::Wait)).count();
        assert_eq!(waiting, 1_000);
        canary.refused(night_ms);
        assert!(matches!(guard.ask(night_ms, "origin:443"), Permission::No(Refusal::Held(_))));
        assert!(guard.held(night_ms + MINUTE_MS).is_none(), "the time is over, though nobody has asked yet");
    }

    #[test]
    fn a_forbidden_destination_is_left_alone_and_closes_nothing_for_the_others() {
        let guard = guard();
        go(&guard, 0).accepted(0);
        let mut sent_to_forbidden = 0;
        // An hour in which both are asked for every second.
        for second in 0..3_600 {
            let now_ms = second * 1_000;
            if let Permission::Go(ticket) = guard.ask(now_ms, "forbidden:443") {
                sent_to_forbidden += 1;
                ticket.refused(now_ms);
            }
            go(&guard, now_ms).accepted(now_ms);
        }
        // At once, after one minute, five, twenty-five, and then every thirty.
        assert_eq!(sent_to_forbidden, 4);
    }

    #[test]
    fn a_forbidden_destination_alone_keeps_to_the_schedule_too() {
        let guard = guard();
        go(&guard, 0).accepted(0);
        let mut sent_ms = Vec::new();
        for second in 0..7_200 {
            let now_ms = second * 1_000;
            if let Permission::Go(ticket) = guard.ask(now_ms, "forbidden:443") {
                sent_ms.push(now_ms);
                ticket.refused(now_ms);
            }
        }
        for window in sent_ms.windows(4) {
            assert!(window[3] - window[0] >= 30 * MINUTE_MS, "{window:?}");
        }
    }

    #[test]
    fn another_destination_tells_the_password_from_the_policy() {
        let guard = guard();
        go(&guard, 0).accepted(0);
        go_to(&guard, 1, "forbidden:443").refused(1);
        assert!(matches!(guard.ask(2, "forbidden:443"), Permission::No(Refusal::Barred(_))));
        go_to(&guard, 2, "other:443").refused(2);
        assert_eq!(guard.state(), GuardState::Refused, "two destinations refused in a row: it is the password");
    }
}
