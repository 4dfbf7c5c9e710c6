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
    /// The youngest number when an attempt failed last: what was accepted before is in doubt, at the other upstreams as well.
    failed_after: u64,
    /// Connections that ended without an answer since the last acceptance.
    closes: usize,
    /// It was found to take no connections: until then a connection that ends says nothing, in ms.
    down_until_ms: u64,
    /// Attempts that failed, the oldest first.
    failures: VecDeque<Failure>,
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

/// An attempt that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub at_ms: u64,
    /// The youngest number of all at the time.
    pub after: u64,
    /// It was on its way already when the secret stopped being accepted.
    pub was_fresh: bool,
    /// A client's connection ended without an answer.
    pub by_close: bool,
}

/// What the account knows when an attempt fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    /// The youngest number of all.
    pub newest: u64,
    /// Failures of the same secret at other upstreams that were on their way together with it.
    pub in_batch: usize,
    /// Some upstream has accepted the secret.
    pub is_known: bool,
    /// Some upstream has lately accepted it for this destination.
    pub is_known_good: bool,
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
    /// The request itself had been answered with a challenge.
    pub challenged: bool,
}

/// Whether an answer closes the guard at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
    None,
    /// By a 407.
    Refused,
    /// By a connection that ended without an answer.
    Closed,
}

impl Track {
    pub(super) fn new(secret: u64, upstream: Arc<str>, policy: &GuardPolicy) -> Track {
        Track {
            secret,
            upstream,
            state: State::Unproven,
            ever_proven: false,
            strikes: 0,
            room: Room { size: policy.batch(), lacked_ms: None },
            ahead: VecDeque::new(),
            accepted_number: 0,
            refused_number: 0,
            failed_after: 0,
            closes: 0,
            down_until_ms: 0,
            failures: VecDeque::new(),
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

    /// Whether the upstream has accepted the secret at some time.
    pub(super) fn was_proven(&self) -> bool {
        self.ever_proven
    }

    /// Until which number this upstream casts doubt on what others accept. One that has never accepted the secret says nothing of them.
    pub(super) fn failed_after(&self) -> u64 {
        if self.ever_proven { self.failed_after } else { 0 }
    }

    /// Whether it has been found out since the last acceptance that the secret is rejected.
    pub(super) fn was_struck(&self) -> bool {
        self.strikes > 0
    }

    pub(super) fn accepted_number(&self) -> u64 {
        self.accepted_number
    }

    /// How long nothing may be sent yet, if so, in ms.
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

    /// Whether the secret was accepted lately, and nothing casts doubt on it. `failed_after` is the youngest of what other upstreams say of the
    /// same secret.
    pub(super) fn is_fresh(&self, policy: &GuardPolicy, now_ms: u64, failed_after: u64) -> bool {
        let State::Proven { at_ms } = self.state else { return false };
        if self.accepted_number <= failed_after {
            return false;
        }
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
    pub(super) fn failures(&mut self, policy: &GuardPolicy, now_ms: u64) -> &VecDeque<Failure> {
        while self.failures.front().is_some_and(|failure| now_ms >= failure.at_ms + millis(policy.window)) {
            self.failures.pop_front();
        }
        &self.failures
    }

    /// Failures that were on their way when the secret stopped being accepted.
    pub(super) fn batch(&mut self, policy: &GuardPolicy, now_ms: u64) -> usize {
        self.failures(policy, now_ms).iter().filter(|failure| failure.was_fresh).count()
    }

    /// Attempts without an answer.
    pub(super) fn pending(&self) -> usize {
        self.ahead.len()
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
    pub(super) fn is_idle(&mut self, policy: &GuardPolicy, now_ms: u64) -> bool {
        self.failures(policy, now_ms).is_empty() && self.ahead.is_empty() && self.scout.is_none()
    }

    /// Whether an attempt for this destination may never be answered, or was refused while others were accepted.
    pub(super) fn may_tell_nothing(&self, destination: u64) -> bool {
        self.suspects.iter().any(|suspect| suspect.destination == destination) || self.awaits(destination)
    }

    pub(super) fn accepted_lately(&self, destination: u64, now_ms: u64) -> bool {
        self.accepted_lately.contains(destination, now_ms)
    }

    /// Whether a handshake of the gateway's own is under way, or about to be.
    pub(super) fn is_confirming(&self, policy: &GuardPolicy, now_ms: u64) -> bool {
        let since_ms = self.confirmation.wanted_ms.or(self.confirmation.running_ms);
        since_ms.is_some_and(|since_ms| now_ms < since_ms + millis(policy.patience))
    }

    /// Whether another attempt holds the next one up for now.
    pub(super) fn must_wait(&self, policy: &GuardPolicy, now_ms: u64) -> bool {
        self.ahead.back().is_some_and(|sent| now_ms < sent.at_ms + millis(policy.patience))
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

    /// The upstream has looked at the secret and taken it; `false` where that says nothing about now.
    pub(super) fn accepted(&mut self, attempt: &Attempted) -> bool {
        self.passed(attempt);
        self.suspects.retain(|suspect| suspect.destination != attempt.destination);
        // Sent before another one was refused; or the request itself was not challenged, and may have been exempted for what it is.
        let is_proven = matches!(self.state, State::Proven { .. });
        if attempt.number < self.refused_number || (!attempt.challenged && !is_proven) {
            return false;
        }
        while self.ahead.front().is_some_and(|sent| sent.number < attempt.number) {
            self.ahead.pop_front();
        }
        self.accepted_number = self.accepted_number.max(attempt.number);
        let before_ms = if let State::Proven { at_ms } = self.state { at_ms } else { 0 };
        self.state = State::Proven { at_ms: before_ms.max(attempt.sent_ms) };
        self.ever_proven = true;
        (self.strikes, self.closes) = (0, 0);
        self.failures.clear();
        self.confirmation.wanted_ms = None;
        self.confirmation.not_before_ms = 0;
        true
    }

    /// The request went through.
    pub(super) fn passed(&mut self, attempt: &Attempted) {
        self.forget(attempt.number);
        if self.room.lacked_ms.is_some_and(|lacked_ms| attempt.sent_ms <= lacked_ms) {
            self.room.size += 1;
        }
    }

    /// The upstream looked at the secret and rejected it; `stale` says that the challenge may have been too old.
    pub(super) fn refused(
        &mut self,
        attempt: &Attempted,
        stale: bool,
        tally: Tally,
        policy: &GuardPolicy,
        now_ms: u64,
    ) -> Strike {
        self.forget(attempt.number);
        // A later one was accepted: this is about the destination.
        if attempt.number < self.accepted_number {
            if !stale {
                self.suspect(attempt, policy, now_ms);
            }
            return Strike::None;
        }
        self.refused_number = self.refused_number.max(attempt.number);
        self.count_failure(attempt, false, tally, policy, now_ms);
        if matches!(self.state, State::Refused { .. }) {
            return Strike::None;
        }
        let is_suspect = self.suspects.iter().any(|suspect| suspect.destination == attempt.destination);
        let was_proven = matches!(self.state, State::Proven { .. });
        let about_secret = attempt.confirms || !tally.is_known || (tally.is_known_good && !is_suspect && !stale);
        if about_secret && !was_proven {
            return self.strike(Strike::Refused);
        }
        if !stale {
            self.suspect(attempt, policy, now_ms);
        }
        self.doubt(now_ms);
        Strike::None
    }

    /// The upstream ended the connection without an answer. Once the secret has been accepted that is the destination's fault, or the upstream's
    /// end, until as many have followed without an acceptance as may be on their way: then it may be a way to reject the secret.
    pub(super) fn closed(&mut self, attempt: &Attempted, tally: Tally, policy: &GuardPolicy, now_ms: u64) -> Strike {
        if !tally.is_known {
            return self.refused(attempt, false, tally, policy, now_ms);
        }
        self.forget(attempt.number);
        if attempt.number < self.accepted_number || now_ms < self.down_until_ms {
            return Strike::None;
        }
        self.count_failure(attempt, !attempt.confirms, tally, policy, now_ms);
        self.closes += 1;
        if matches!(self.state, State::Refused { .. }) {
            return Strike::None;
        }
        if attempt.confirms {
            return self.strike(Strike::Closed);
        }
        if self.closes >= policy.closes() || !attempt.was_fresh {
            self.doubt(now_ms);
        }
        Strike::None
    }

    /// The upstream takes no connections: what it closed without an answer, and closes for a while, it did not close because of the secret.
    pub(super) fn unreachable(&mut self, now_ms: u64) {
        if self.ever_proven {
            self.down_until_ms = now_ms + millis(limits::GUARD_OUTAGE_GRACE);
            self.failures.retain(|failure| !failure.by_close);
            self.closes = 0;
        }
    }

    /// No verdict. `many` says that too many in a row had none.
    pub(super) fn undecided(&mut self, attempt: &Attempted, many: bool, now_ms: u64) {
        self.forget(attempt.number);
        if attempt.confirms {
            self.put_last(attempt.destination);
        } else if many || (self.ever_proven && !attempt.was_fresh) {
            self.want_confirmation(now_ms);
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

    /// Whether a handshake that is wanted may begin: while others have no answer yet, they may decide without it.
    pub(super) fn may_confirm(&self, now_ms: u64) -> bool {
        let waited = |wanted_ms: u64| now_ms >= wanted_ms + millis(limits::GUARD_RECHECK_INTERVAL);
        self.confirmation.wanted_ms.is_some_and(|wanted_ms| self.ahead.is_empty() || waited(wanted_ms))
    }

    /// Whether attempts without an answer have kept the next one waiting for long enough to find out.
    pub(super) fn is_stuck(&self, now_ms: u64) -> bool {
        self.ahead.front().is_some_and(|sent| now_ms >= sent.at_ms + millis(limits::GUARD_RECHECK_INTERVAL))
    }

    /// Begins the handshake that is wanted: what to ask for. Rather what is neither forbidden nor without an answer, and by CONNECT.
    pub(super) fn take_confirmation(&mut self, now_ms: u64) -> Option<KnownGood> {
        if !self.may_confirm(now_ms) {
            return None;
        }
        let is_suspect = |hash: u64| self.suspects.iter().any(|suspect| suspect.destination == hash);
        let worth = |(hash, good): &&(u64, KnownGood)| (!self.awaits(*hash), !is_suspect(*hash), good.by_connect);
        // The last of several that are equal: the one that was accepted last.
        let (_, good) = self.known_good.iter().max_by_key(worth)?;
        let good = good.clone();
        let not_before_ms = now_ms + millis(limits::GUARD_CONFIRM_INTERVAL);
        self.confirmation = Confirmation { wanted_ms: None, running_ms: Some(now_ms), not_before_ms };
        Some(good)
    }

    /// A destination that could not confirm the secret is asked for again after all others.
    fn put_last(&mut self, destination: u64) {
        if let Some(place) = self.known_good.iter().position(|(known, _)| *known == destination) {
            self.known_good[..=place].rotate_right(1);
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.confirmation.running_ms.is_some()
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

    fn strike(&mut self, strike: Strike) -> Strike {
        self.strikes = self.strikes.saturating_add(1);
        self.confirmation.wanted_ms = None;
        // It was the secret after all, and not those destinations.
        let accepted_number = self.accepted_number;
        self.suspects.retain(|suspect| suspect.number < accepted_number);
        strike
    }

    /// Attempts that were on their way together when the secret stopped being accepted count as one batch: nothing could call them back.
    fn count_failure(&mut self, attempt: &Attempted, by_close: bool, tally: Tally, policy: &GuardPolicy, now_ms: u64) {
        // What is closed to a client says nothing of other upstreams.
        if !by_close {
            self.failed_after = tally.newest;
        }
        let was_fresh = attempt.was_fresh;
        let in_batch = tally.in_batch + self.batch(policy, now_ms);
        let most = if by_close { policy.attempts } else { policy.batch() };
        if !was_fresh || in_batch < most {
            self.failures.push_back(Failure { at_ms: now_ms, after: tally.newest, was_fresh, by_close });
        }
    }

    /// Makes a destination a suspect, or puts off its next try. One that was accepted lately may have refused a single request: it is tried
    /// once more at once.
    fn suspect(&mut self, attempt: &Attempted, policy: &GuardPolicy, now_ms: u64) {
        let known = self.suspects.iter().position(|suspect| suspect.destination == attempt.destination);
        let first = u32::from(!self.accepted_lately.contains(attempt.destination, now_ms));
        let refusals = known.map_or(first, |index| self.suspects.remove(index).refusals.saturating_add(1));
        let until_ms = if refusals == 0 { now_ms } else { now_ms + millis(policy.rest(refusals)) };
        let (destination, number) = (attempt.destination, attempt.number);
        self.suspects.push(Suspect { destination, refusals, until_ms, number });
        let surplus = self.suspects.len().saturating_sub(limits::GUARD_SUSPECTS);
        self.suspects.drain(..surplus);
    }
}

impl Room {
    fn shrink(&mut self, policy: &GuardPolicy, now_ms: u64) {
        let age_ms = millis(limits::GUARD_ROOM_HALF_LIFE);
        while self.size > policy.batch()
            && let Some(lacked_ms) = self.lacked_ms.filter(|lacked_ms| now_ms >= lacked_ms + age_ms)
        {
            self.size = (self.size / 2).max(policy.batch());
            self.lacked_ms = Some(lacked_ms + age_ms);
        }
    }
}

fn rest_until(until_ms: u64, now_ms: u64) -> Option<u64> {
    until_ms.checked_sub(now_ms).filter(|rest_ms| *rest_ms > 0)
}
