//! What is known of one secret at one upstream. Pure: the budget that spans all of them is the account's.

use std::collections::VecDeque;
use std::sync::Arc;

use super::destination::Recent;
use super::{GuardPolicy, GuardState, KnownGood, Refusal};
use crate::limits::{self, millis};

/// One secret at one upstream.
#[derive(Debug)]
pub(super) struct Track {
    pub secret: u64,
    pub upstream: Arc<str>,
    state: State,
    ever_proven: bool,
    /// Refusals in a row that were about the secret.
    strikes: u32,
    room: Room,
    /// Attempts without an answer that were sent after the one that was accepted last, the oldest first. What was sent before it no longer
    /// matters: the secret has been accepted since.
    ahead: VecDeque<Sent>,
    accepted_number: u64,
    refused_number: u64,
    /// Connections that ended without an answer since the last acceptance.
    closes: u32,
    /// When attempts failed, in ms, the oldest first.
    failures_ms: VecDeque<u64>,
    /// How many the account's other upstreams and secrets have had, when this was looked at last.
    pub(super) failures_elsewhere: usize,
    /// When attempts ended without a verdict while the secret was never accepted, in ms; at most [`limits::GUARD_UNDECIDED`].
    undecided_ms: VecDeque<u64>,
    /// Destinations that were refused while others were accepted; at most [`limits::GUARD_SUSPECTS`], the oldest first.
    suspects: Vec<Suspect>,
    accepted_lately: Recent,
    /// Some of them by name, the last one behind the others; at most [`limits::GUARD_KNOWN_GOOD`].
    known_good: Vec<(u64, KnownGood)>,
    /// The handshake that is on its way to its challenge, before anything counts as an attempt.
    scout: Option<Sent>,
    confirmation: Confirmation,
    /// Somebody was told to wait and must be told when that changes.
    pub has_waiters: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unproven,
    /// As of an attempt that was sent then, in ms.
    Proven {
        at_ms: u64,
    },
    Refused {
        until_ms: u64,
    },
}

/// A message that is out.
#[derive(Clone, Copy, Debug)]
struct Sent {
    number: u64,
    at_ms: u64,
    /// 0 for a scout, which has asked for nothing yet.
    destination: u64,
    /// The secret was accepted at the time.
    was_fresh: bool,
}

/// A destination that the upstream's policy may forbid.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    destination: u64,
    refusals: u32,
    until_ms: u64,
    /// The youngest of its refused attempts.
    number: u64,
}

/// How many attempts may be without an answer while the secret is accepted. It doubles with each round trip in which it was too small
/// and shrinks when it is not needed, so that a burst does not find out all at once that the secret has changed.
#[derive(Debug)]
struct Room {
    size: usize,
    /// When it was last too small, or shrank, in ms.
    lacked_ms: Option<u64>,
}

/// The handshake of the gateway's own that tells a policy from a wrong secret.
#[derive(Debug, Default)]
struct Confirmation {
    wanted_ms: Option<u64>,
    running_ms: Option<u64>,
    not_before_ms: u64,
}

/// An attempt that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempted {
    pub number: u64,
    pub sent_ms: u64,
    pub destination: u64,
    /// It was sent while the secret was accepted.
    pub was_fresh: bool,
    /// It was the gateway's own, to confirm the secret.
    pub confirms: bool,
}

/// Whether a refusal closes the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
    None,
    Secret,
}

impl Track {
    pub(super) fn new(secret: u64, upstream: Arc<str>, policy: &GuardPolicy) -> Track {
        Track {
            secret,
            upstream,
            state: State::Unproven,
            ever_proven: false,
            strikes: 0,
            room: Room { size: policy.least_room(), lacked_ms: None },
            ahead: VecDeque::new(),
            accepted_number: 0,
            refused_number: 0,
            closes: 0,
            failures_ms: VecDeque::new(),
            failures_elsewhere: 0,
            undecided_ms: VecDeque::new(),
            suspects: Vec::new(),
            accepted_lately: Recent::default(),
            known_good: Vec::new(),
            scout: None,
            confirmation: Confirmation::default(),
            has_waiters: false,
        }
    }

    pub(super) fn is_of(&self, secret: u64, upstream: &str) -> bool {
        self.secret == secret && *self.upstream == *upstream
    }

    pub(super) fn state(&self) -> GuardState {
        match self.state {
            State::Unproven => GuardState::Unproven,
            State::Proven { .. } => GuardState::Proven,
            State::Refused { .. } => GuardState::Refused,
        }
    }

    /// How long nothing may be sent yet, if so.
    pub(super) fn held(&self, now_ms: u64) -> Option<u64> {
        match self.state {
            State::Refused { until_ms } => rest_until(until_ms, now_ms),
            _ => None,
        }
    }

    /// Why nothing may be sent for a destination yet, if so.
    pub(super) fn refuses(&self, now_ms: u64, destination: u64) -> Option<Refusal> {
        if let Some(rest_ms) = self.held(now_ms) {
            return Some(Refusal::held(rest_ms));
        }
        let suspect = self.suspects.iter().find(|suspect| suspect.destination == destination)?;
        rest_until(suspect.until_ms, now_ms).map(Refusal::barred)
    }

    /// Whether the secret was accepted lately, and nothing casts doubt on it.
    pub(super) fn is_fresh(&self, policy: &GuardPolicy, now_ms: u64) -> bool {
        let State::Proven { at_ms } = self.state else { return false };
        let overdue = |sent: &Sent| now_ms >= sent.at_ms + millis(policy.patience);
        now_ms < at_ms + millis(policy.proof_age) && !self.ahead.front().is_some_and(overdue)
    }

    pub(super) fn has_room(&mut self, policy: &GuardPolicy, now_ms: u64) -> bool {
        self.room.shrink(policy, now_ms);
        let has_room = self.ahead.len() < self.room.size;
        if !has_room {
            self.room.lacked_ms = Some(now_ms);
        }
        has_room
    }

    /// Waiters need not be called at every acceptance: that would be as many calls as there are waiters, each.
    pub(super) fn has_much_room(&self) -> bool {
        2 * self.ahead.len() <= self.room.size
    }

    /// Attempts that failed within the window.
    pub(super) fn failures(&mut self, policy: &GuardPolicy, now_ms: u64) -> &VecDeque<u64> {
        forget_before(&mut self.failures_ms, policy, now_ms);
        &self.failures_ms
    }

    /// Attempts without an answer that may turn out to have failed.
    pub(super) fn pending(&self, policy: &GuardPolicy, now_ms: u64) -> usize {
        if self.is_fresh(policy, now_ms) { 0 } else { self.ahead.len() }
    }

    /// Attempts without an answer that were made to find out.
    pub(super) fn tries(&self) -> usize {
        self.ahead.iter().filter(|sent| !sent.was_fresh).count()
    }

    /// Whether an attempt for this destination has no answer yet.
    pub(super) fn awaits(&self, destination: u64) -> bool {
        self.ahead.iter().any(|sent| sent.destination == destination)
    }

    /// Whether nothing is left that could matter to a later attempt.
    pub(super) fn is_idle(&self) -> bool {
        self.failures_ms.is_empty() && self.ahead.is_empty() && self.scout.is_none()
    }

    /// Whether another attempt holds the next one up for now.
    pub(super) fn must_wait(&mut self, policy: &GuardPolicy, now_ms: u64) -> bool {
        let recent = |at_ms: u64| now_ms < at_ms + millis(policy.patience);
        let confirmation = &self.confirmation;
        let confirming = confirmation.wanted_ms.or(confirmation.running_ms).is_some_and(recent);
        if confirming || self.ahead.back().is_some_and(|sent| recent(sent.at_ms)) {
            return true;
        }
        forget_before(&mut self.undecided_ms, policy, now_ms);
        let spaced = self.undecided_ms.len() >= limits::GUARD_UNDECIDED;
        let last_ms = self.undecided_ms.back().copied().unwrap_or(0);
        spaced && now_ms < last_ms + millis(limits::GUARD_UNDECIDED_REST)
    }

    /// Whether another handshake is on its way to the challenge that decides.
    pub(super) fn has_scout(&self, policy: &GuardPolicy, now_ms: u64) -> bool {
        self.scout.is_some_and(|scout| now_ms < scout.at_ms + millis(policy.patience))
    }

    pub(super) fn set_scout(&mut self, number: u64, now_ms: u64) {
        self.scout = Some(Sent { number, at_ms: now_ms, destination: 0, was_fresh: false });
    }

    /// `false` if another one has taken its place.
    pub(super) fn end_scout(&mut self, number: u64) -> bool {
        let is_it = self.scout.is_some_and(|scout| scout.number == number);
        if is_it {
            self.scout = None;
        }
        is_it
    }

    /// An attempt goes out.
    pub(super) fn send(&mut self, number: u64, now_ms: u64, destination: u64, was_fresh: bool) {
        if matches!(self.state, State::Refused { .. }) {
            self.state = State::Unproven;
        }
        self.scout = None;
        self.ahead.push_back(Sent { number, at_ms: now_ms, destination, was_fresh });
    }

    /// An attempt was not sent after all, or is over.
    pub(super) fn forget(&mut self, number: u64) {
        if let Ok(place) = self.ahead.binary_search_by_key(&number, |sent| sent.number) {
            self.ahead.remove(place);
        }
    }

    pub(super) fn accepted(&mut self, attempt: &Attempted) {
        self.forget(attempt.number);
        self.suspects.retain(|suspect| suspect.destination != attempt.destination);
        // Sent before another one was refused: it says nothing about now.
        if attempt.number < self.refused_number {
            return;
        }
        while self.ahead.front().is_some_and(|sent| sent.number < attempt.number) {
            self.ahead.pop_front();
        }
        self.accepted_number = self.accepted_number.max(attempt.number);
        let before_ms = if let State::Proven { at_ms } = self.state { at_ms } else { 0 };
        self.state = State::Proven { at_ms: before_ms.max(attempt.sent_ms) };
        self.ever_proven = true;
        (self.strikes, self.closes) = (0, 0);
        self.failures_ms.clear();
        self.undecided_ms.clear();
        self.confirmation.wanted_ms = None;
        self.confirmation.not_before_ms = 0;
        if self.room.lacked_ms.is_some_and(|lacked_ms| attempt.sent_ms <= lacked_ms) {
            self.room.size += 1;
        }
    }

    /// The upstream looked at the secret and rejected it; `stale` says that the challenge may have been too old.
    pub(super) fn refused(&mut self, attempt: &Attempted, stale: bool, policy: &GuardPolicy, now_ms: u64) -> Strike {
        self.forget(attempt.number);
        // A later one was accepted: this is about the destination.
        if attempt.number < self.accepted_number {
            if !stale {
                self.suspect(attempt, policy, now_ms);
            }
            return Strike::None;
        }
        self.refused_number = self.refused_number.max(attempt.number);
        self.count_failure(attempt.was_fresh, policy, now_ms);
        if matches!(self.state, State::Refused { .. }) {
            return Strike::None;
        }
        let is_suspect = self.suspects.iter().any(|suspect| suspect.destination == attempt.destination);
        let is_known_good = self.accepted_lately.contains(attempt.destination, now_ms);
        let was_proven = matches!(self.state, State::Proven { .. });
        let about_secret = attempt.confirms || !self.ever_proven || (is_known_good && !is_suspect && !stale);
        if about_secret && !was_proven {
            return self.strike();
        }
        if !stale {
            self.suspect(attempt, policy, now_ms);
        }
        self.doubt(now_ms);
        Strike::None
    }

    /// The upstream ended the connection without an answer. Of an attempt that was sent while the secret was accepted that is the destination's
    /// fault, or the upstream's end, until a second one follows with no acceptance in between: then it may be a way to reject the secret.
    pub(super) fn closed(&mut self, attempt: &Attempted, policy: &GuardPolicy, now_ms: u64) -> Strike {
        if !attempt.was_fresh && !matches!(self.state, State::Proven { .. }) {
            return self.refused(attempt, false, policy, now_ms);
        }
        self.forget(attempt.number);
        if attempt.number < self.accepted_number {
            return Strike::None;
        }
        self.count_failure(true, policy, now_ms);
        self.closes += 1;
        if self.closes > 1 {
            self.doubt(now_ms);
        }
        Strike::None
    }

    pub(super) fn undecided(&mut self, attempt: &Attempted, now_ms: u64) {
        self.forget(attempt.number);
        if attempt.was_fresh {
            return;
        }
        if self.ever_proven {
            self.want_confirmation(now_ms);
            return;
        }
        self.undecided_ms.push_back(now_ms);
        if self.undecided_ms.len() > limits::GUARD_UNDECIDED {
            self.undecided_ms.pop_front();
        }
    }

    /// Nothing is sent until then.
    pub(super) fn close(&mut self, until_ms: u64) {
        self.state = State::Refused { until_ms };
    }

    /// How long the guard closes after the last strike, in ms.
    pub(super) fn rest_ms(&self, policy: &GuardPolicy) -> u64 {
        millis(policy.rest(self.strikes))
    }

    /// Remembers a destination that was accepted.
    pub(super) fn remember(&mut self, destination: u64, now_ms: u64, good: KnownGood) {
        self.accepted_lately.note(destination, now_ms);
        match self.known_good.iter().position(|(known, _)| *known == destination) {
            Some(place) if place + 1 == self.known_good.len() => {}
            Some(place) => self.known_good[place..].rotate_left(1),
            None => {
                self.known_good.push((destination, good));
                let surplus = self.known_good.len().saturating_sub(limits::GUARD_KNOWN_GOOD);
                self.known_good.drain(..surplus);
            }
        }
    }

    /// Asks for a handshake of the gateway's own, if there is a destination for it.
    pub(super) fn want_confirmation(&mut self, now_ms: u64) {
        let confirmation = &mut self.confirmation;
        let idle = confirmation.wanted_ms.is_none() && confirmation.running_ms.is_none();
        if idle && now_ms >= confirmation.not_before_ms && !self.known_good.is_empty() {
            confirmation.wanted_ms = Some(now_ms);
        }
    }

    pub(super) fn wants_confirmation(&self) -> bool {
        self.confirmation.wanted_ms.is_some()
    }

    /// Whether attempts without an answer have kept the next one waiting for long enough to find out.
    pub(super) fn is_stuck(&self, now_ms: u64) -> bool {
        self.ahead.front().is_some_and(|sent| now_ms >= sent.at_ms + millis(limits::GUARD_LOOK))
    }

    /// Begins the handshake that is wanted: what to ask for. While others have no answer yet, they may decide without it.
    pub(super) fn take_confirmation(&mut self, now_ms: u64) -> Option<KnownGood> {
        let wanted_ms = self.confirmation.wanted_ms?;
        if !self.ahead.is_empty() && now_ms < wanted_ms + millis(limits::GUARD_LOOK) {
            return None;
        }
        let is_suspect = |hash: u64| self.suspects.iter().any(|suspect| suspect.destination == hash);
        let last_good = self.known_good.iter().rev().find(|(hash, _)| !is_suspect(*hash));
        let (_, good) = last_good.or(self.known_good.last())?;
        let not_before_ms = now_ms + millis(limits::GUARD_CONFIRM_REST);
        self.confirmation = Confirmation { wanted_ms: None, running_ms: Some(now_ms), not_before_ms };
        Some(good.clone())
    }

    pub(super) fn end_confirmation(&mut self) {
        self.confirmation.running_ms = None;
    }

    fn doubt(&mut self, now_ms: u64) {
        if matches!(self.state, State::Proven { .. }) {
            self.state = State::Unproven;
        }
        self.want_confirmation(now_ms);
    }

    fn strike(&mut self) -> Strike {
        self.strikes = self.strikes.saturating_add(1);
        self.confirmation.wanted_ms = None;
        // It was the secret after all, and not those destinations.
        let accepted_number = self.accepted_number;
        self.suspects.retain(|suspect| suspect.number < accepted_number);
        Strike::Secret
    }

    /// What was on its way together when the secret stopped being accepted leaves the account one attempt: by then nothing can call it back,
    /// and the handshake that finds out needs it.
    fn count_failure(&mut self, was_fresh: bool, policy: &GuardPolicy, now_ms: u64) {
        forget_before(&mut self.failures_ms, policy, now_ms);
        if !was_fresh || self.failures_ms.len() + self.failures_elsewhere < policy.least_room() {
            self.failures_ms.push_back(now_ms);
        }
    }

    /// Makes a destination a suspect, or puts off its next try.
    fn suspect(&mut self, attempt: &Attempted, policy: &GuardPolicy, now_ms: u64) {
        let known = self.suspects.iter().position(|suspect| suspect.destination == attempt.destination);
        let refusals = known.map_or(1, |index| self.suspects.remove(index).refusals.saturating_add(1));
        let until_ms = now_ms + millis(policy.rest(refusals));
        let (destination, number) = (attempt.destination, attempt.number);
        self.suspects.push(Suspect { destination, refusals, until_ms, number });
        let surplus = self.suspects.len().saturating_sub(limits::GUARD_SUSPECTS);
        self.suspects.drain(..surplus);
    }
}

impl Room {
    fn shrink(&mut self, policy: &GuardPolicy, now_ms: u64) {
        let age_ms = millis(limits::GUARD_ROOM_AGE);
        while self.size > policy.least_room()
            && let Some(lacked_ms) = self.lacked_ms.filter(|lacked_ms| now_ms >= lacked_ms + age_ms)
        {
            self.size = (self.size / 2).max(policy.least_room());
            self.lacked_ms = Some(lacked_ms + age_ms);
        }
    }
}

fn forget_before(times_ms: &mut VecDeque<u64>, policy: &GuardPolicy, now_ms: u64) {
    while times_ms.front().is_some_and(|at_ms| now_ms >= at_ms + millis(policy.window)) {
        times_ms.pop_front();
    }
}

fn rest_until(until_ms: u64, now_ms: u64) -> Option<u64> {
    until_ms.checked_sub(now_ms).filter(|rest_ms| *rest_ms > 0)
}
