//! What is known of one secret at one upstream. Pure; the budget over all tracks is the ledger's.

use std::collections::VecDeque;
use std::sync::Arc;

use super::attempt::{AccountView, Attempted, Failure, Sent, Strike};
use super::confirmation::ConfirmationSchedule;
use super::destination::Recent;
use super::reservation::{Learned, Reservation};
use super::room::Room;
use super::suspects::Suspects;
use super::{GuardPolicy, GuardState, KnownGood, Refusal, rest_until};
use crate::limits::{self, millis};

/// One secret at one upstream.
#[derive(Debug)]
pub(super) struct Track {
    pub secret: u64,
    pub upstream: Arc<str>,
    state: State,
    /// The upstream has accepted the secret at some time.
    ever_accepted: bool,
    /// When the latest accepted attempt was sent, in ms.
    last_accepted_ms: Option<u64>,
    /// Refusals in a row that were about the secret.
    strikes: u32,
    room: Room,
    /// Unanswered attempts that were sent after the last accepted one, the oldest first. Older ones no longer matter:
    /// the secret has been accepted since.
    unanswered: VecDeque<Sent>,
    /// The number of the latest accepted attempt.
    accepted_number: u64,
    /// The number of the latest refused attempt.
    refused_number: u64,
    /// The highest number that the account had assigned when an attempt last failed. Acceptances up to it are in doubt,
    /// at the other upstreams as well.
    failed_after: u64,
    /// Connections that ended without an answer since the last acceptance.
    closes: usize,
    /// The upstream was found to accept no connections: until then a connection that ends says nothing, in ms.
    down_until_ms: u64,
    /// Failed attempts, the oldest first.
    failures: VecDeque<Failure>,
    /// Whether the attempt that ended last failed; if so, whether a connection closed on a client was the reason.
    failed_by_close: Option<bool>,
    /// The next attempt's reservation in the store.
    pub booking: Booking,
    suspects: Suspects,
    accepted_recently: Recent,
    /// A handshake that has not reached its challenge, before anything counts as an attempt.
    scout: Option<Sent>,
    confirmation: ConfirmationSchedule,
    /// A request is waiting and must be woken when it may go on.
    pub has_waiters: bool,
}

/// The reservation of the next attempt, where attempts are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Booking {
    /// None was asked for.
    None,
    /// The store was asked.
    Asked,
    /// The store has granted it.
    Held(Reservation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unproven,
    /// Accepted by the answer to an attempt that was sent then, in ms.
    Proven {
        at_ms: u64,
    },
    Refused {
        until_ms: u64,
    },
}

impl Track {
    pub(super) fn new(secret: u64, upstream: Arc<str>, policy: &GuardPolicy) -> Track {
        Track {
            secret,
            upstream,
            state: State::Unproven,
            ever_accepted: false,
            last_accepted_ms: None,
            strikes: 0,
            room: Room::new(policy),
            unanswered: VecDeque::new(),
            accepted_number: 0,
            refused_number: 0,
            failed_after: 0,
            closes: 0,
            down_until_ms: 0,
            failures: VecDeque::new(),
            failed_by_close: None,
            booking: Booking::None,
            suspects: Suspects::default(),
            accepted_recently: Recent::default(),
            scout: None,
            confirmation: ConfirmationSchedule::default(),
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
    pub(super) fn was_accepted(&self) -> bool {
        self.ever_accepted
    }

    /// When the latest accepted attempt was sent, in ms.
    pub(super) fn accepted_ms(&self) -> Option<u64> {
        self.last_accepted_ms
    }

    /// The number up to which this upstream casts doubt on what others accept. An upstream that has never accepted the
    /// secret casts none.
    pub(super) fn failed_after(&self) -> u64 {
        if self.ever_accepted { self.failed_after } else { 0 }
    }

    /// Whether the secret has been found rejected since the last acceptance.
    pub(super) fn was_struck(&self) -> bool {
        self.strikes > 0
    }

    pub(super) fn accepted_number(&self) -> u64 {
        self.accepted_number
    }

    /// How long nothing may be sent, in ms; `None` if the guard is not closed here.
    pub(super) fn held(&self, now_ms: u64) -> Option<u64> {
        match self.state {
            State::Refused { until_ms } => rest_until(until_ms, now_ms),
            _ => None,
        }
    }

    /// Whether there may be destinations for which nothing may be sent yet.
    pub(super) fn may_refuse(&self) -> bool {
        matches!(self.state, State::Refused { .. }) || !self.suspects.is_empty()
    }

    /// Why nothing may be sent for a destination yet, if so.
    pub(super) fn refuses(&self, now_ms: u64, destination: u64) -> Option<Refusal> {
        let held = self.held(now_ms).map(Refusal::held);
        held.or_else(|| self.suspects.rest_ms(destination, now_ms).map(Refusal::barred))
    }

    /// Whether the secret was accepted recently, and nothing casts doubt on it. `failed_after` is the highest of the
    /// other upstreams' for the same secret.
    pub(super) fn is_accepted(&self, policy: &GuardPolicy, now_ms: u64, failed_after: u64) -> bool {
        let State::Proven { at_ms } = self.state else { return false };
        if self.accepted_number <= failed_after {
            return false;
        }
        let overdue = |sent: &Sent| now_ms >= sent.at_ms + millis(policy.pending_wait);
        now_ms < at_ms + millis(policy.acceptance_age) && !self.unanswered.front().is_some_and(overdue)
    }

    /// Whether the secret was accepted, at whatever time, and nothing has cast doubt on it since.
    pub(super) fn is_undoubted(&self, failed_after: u64) -> bool {
        matches!(self.state, State::Proven { .. }) && self.accepted_number > failed_after
    }

    /// Takes what is known of the end of the last attempt: see [`Track::failed_by_close`].
    pub(super) fn take_failure(&mut self) -> Option<bool> {
        self.failed_by_close.take()
    }

    /// Takes the reservation that the store has granted.
    pub(super) fn take_reservation(&mut self) -> Option<Reservation> {
        let Booking::Held(reservation) = self.booking else { return None };
        self.booking = Booking::None;
        Some(reservation)
    }

    /// The store does not grant an attempt before then.
    pub(super) fn denied(&mut self, until_ms: u64) {
        self.booking = Booking::None;
        self.confirmation.cancel();
        self.close(until_ms);
    }

    /// Other processes have used the secret here.
    pub(super) fn learn(&mut self, learned: Learned, now_ms: u64) {
        if let Some((struck_ms, until_ms)) = learned.refused
            && until_ms > now_ms
        {
            // What was accepted since then is known better here.
            let is_newer = if let State::Proven { at_ms } = self.state { at_ms <= struck_ms } else { true };
            if is_newer {
                self.confirmation.cancel();
                self.close(until_ms);
            }
        } else if learned.accepted_ms.is_some() && matches!(self.state, State::Refused { .. }) {
            self.forgive();
        }
    }

    /// Forgets what failed.
    pub(super) fn forgive(&mut self) {
        if matches!(self.state, State::Refused { .. }) {
            self.state = State::Unproven;
        }
        (self.strikes, self.closes) = (0, 0);
        self.failures.clear();
    }

    /// Whether one more attempt may go out beside the unanswered ones while the secret is accepted: only one after a
    /// connection that ended without an answer, because that may have been a refusal.
    pub(super) fn has_room(&mut self, policy: &GuardPolicy, now_ms: u64) -> bool {
        if self.closes > 0 && !self.unanswered.is_empty() {
            return false;
        }
        self.room.has_place(self.unanswered.len(), policy, now_ms)
    }

    /// Whether there is enough room to wake the waiting requests.
    pub(super) fn has_much_room(&self) -> bool {
        self.room.is_half_free(self.unanswered.len())
    }

    /// Whether no attempt has failed within the window; `false` if that is not known without looking at the times.
    pub(super) fn has_no_failures(&self) -> bool {
        self.failures.is_empty()
    }

    /// Attempts that failed within the window, the oldest first.
    pub(super) fn failures(&mut self, policy: &GuardPolicy, now_ms: u64) -> &VecDeque<Failure> {
        while self.failures.front().is_some_and(|failure| now_ms >= failure.at_ms + millis(policy.window)) {
            self.failures.pop_front();
        }
        &self.failures
    }

    /// Failures in the batch of attempt `number`: of attempts that had been sent while the secret was accepted, and
    /// that were not known to have failed when this one was sent.
    pub(super) fn batch(&mut self, number: u64, policy: &GuardPolicy, now_ms: u64) -> usize {
        let in_batch = |failure: &&Failure| failure.sent_while_accepted && number <= failure.after;
        self.failures(policy, now_ms).iter().filter(in_batch).count()
    }

    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Unanswered attempts that were sent while the secret was in doubt, after attempt `number`.
    pub(super) fn unanswered_canaries(&self, number: u64) -> usize {
        self.unanswered.iter().filter(|sent| !sent.sent_while_accepted && sent.number > number).count()
    }

    /// The numbers of unanswered attempts that were sent while the secret was accepted.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = u64> {
        self.unanswered.iter().filter(|sent| sent.sent_while_accepted).map(|sent| sent.number)
    }

    /// Whether nothing is left that could matter to a later attempt.
    pub(super) fn is_idle(&mut self, policy: &GuardPolicy, now_ms: u64) -> bool {
        self.failures(policy, now_ms).is_empty() && self.unanswered.is_empty() && self.scout.is_none()
    }

    /// Whether an attempt for this destination may give no verdict: an earlier one is unanswered, or the upstream's
    /// policy may forbid it.
    pub(super) fn is_inconclusive(&self, destination: u64) -> bool {
        self.suspects.contains(destination) || is_unanswered(&self.unanswered, destination)
    }

    pub(super) fn accepted_recently(&self, destination: u64, now_ms: u64) -> bool {
        self.accepted_recently.contains(destination, now_ms)
    }

    /// Whether a confirmation that is wanted or running holds the next attempt up.
    pub(super) fn is_confirming(&self, policy: &GuardPolicy, now_ms: u64) -> bool {
        self.confirmation.holds_others(policy.pending_wait, now_ms)
    }

    /// Whether an unanswered attempt holds the next one up.
    pub(super) fn must_wait(&self, policy: &GuardPolicy, now_ms: u64) -> bool {
        self.unanswered.back().is_some_and(|sent| now_ms < sent.at_ms + millis(policy.pending_wait))
    }

    /// Whether a scout holds the next request up.
    pub(super) fn has_scout(&self, policy: &GuardPolicy, now_ms: u64) -> bool {
        self.scout.is_some_and(|scout| now_ms < scout.at_ms + millis(policy.pending_wait))
    }

    pub(super) fn set_scout(&mut self, number: u64, now_ms: u64) {
        self.scout = Some(Sent { number, at_ms: now_ms, destination: 0, sent_while_accepted: false });
    }

    /// Ends a scout; `false` if another one has replaced it.
    pub(super) fn end_scout(&mut self, number: u64) -> bool {
        self.scout.take_if(|scout| scout.number == number).is_some()
    }

    /// An attempt goes out.
    pub(super) fn send(&mut self, number: u64, now_ms: u64, destination: u64, sent_while_accepted: bool) {
        if matches!(self.state, State::Refused { .. }) {
            self.state = State::Unproven;
        }
        self.scout = None;
        self.unanswered.push_back(Sent { number, at_ms: now_ms, destination, sent_while_accepted });
    }

    /// An attempt was not sent after all, or is over.
    pub(super) fn forget(&mut self, number: u64) {
        if let Ok(index) = self.unanswered.binary_search_by_key(&number, |sent| sent.number) {
            self.unanswered.remove(index);
        }
    }

    /// The upstream has checked the secret and accepted it. Returns `false` if that says nothing about the present: a
    /// later attempt was refused, or the request was not challenged itself and may have been exempt.
    pub(super) fn accepted(&mut self, attempt: &Attempted) -> bool {
        self.passed(attempt);
        self.suspects.clear(attempt.destination);
        let before_ms = if let State::Proven { at_ms } = self.state { Some(at_ms) } else { None };
        if attempt.number < self.refused_number || (!attempt.challenged && before_ms.is_none()) {
            return false;
        }
        while self.unanswered.front().is_some_and(|sent| sent.number < attempt.number) {
            self.unanswered.pop_front();
        }
        self.accepted_number = self.accepted_number.max(attempt.number);
        self.state = State::Proven { at_ms: before_ms.unwrap_or(0).max(attempt.sent_ms) };
        self.ever_accepted = true;
        self.last_accepted_ms = self.last_accepted_ms.max(Some(attempt.sent_ms));
        (self.strikes, self.closes) = (0, 0);
        self.failures.clear();
        self.confirmation.reset();
        true
    }

    /// The request went through.
    pub(super) fn passed(&mut self, attempt: &Attempted) {
        self.forget(attempt.number);
        self.room.grow(attempt.sent_ms);
    }

    /// The upstream checked the secret and rejected it; `stale`: the challenge may have been too old.
    pub(super) fn refused(
        &mut self,
        attempt: &Attempted,
        stale: bool,
        view: AccountView,
        policy: &GuardPolicy,
        now_ms: u64,
    ) -> Strike {
        self.forget(attempt.number);
        // A later attempt was accepted: this one failed because of its destination.
        if attempt.number < self.accepted_number {
            if !stale {
                self.suspect(attempt, policy, now_ms);
            }
            return Strike::None;
        }
        self.refused_number = self.refused_number.max(attempt.number);
        self.count_failure(attempt, false, view, policy, now_ms);
        if matches!(self.state, State::Refused { .. }) {
            return Strike::None;
        }
        let is_suspect = self.suspects.contains(attempt.destination);
        let was_accepted = matches!(self.state, State::Proven { .. });
        let about_secret = attempt.confirms || !view.is_known || (view.is_known_good && !is_suspect && !stale);
        if about_secret && !was_accepted {
            return self.strike(Strike::Refused);
        }
        if !stale {
            self.suspect(attempt, policy, now_ms);
        }
        self.doubt(now_ms);
        Strike::None
    }

    /// The upstream ended the connection without an answer. Before the secret was ever accepted, that counts as a
    /// refusal. Afterwards the reason is the destination, or the upstream going down, until [`GuardPolicy::closes`] in
    /// a row make it look like a way to reject the secret.
    pub(super) fn closed(
        &mut self,
        attempt: &Attempted,
        view: AccountView,
        policy: &GuardPolicy,
        now_ms: u64,
    ) -> Strike {
        if !view.is_known {
            return self.refused(attempt, false, view, policy, now_ms);
        }
        self.forget(attempt.number);
        if attempt.number < self.accepted_number || now_ms < self.down_until_ms {
            return Strike::None;
        }
        self.count_failure(attempt, !attempt.confirms, view, policy, now_ms);
        self.closes += 1;
        if matches!(self.state, State::Refused { .. }) {
            return Strike::None;
        }
        if attempt.confirms {
            return self.strike(Strike::Closed);
        }
        if self.closes >= policy.closes() || !attempt.sent_while_accepted {
            self.doubt(now_ms);
        }
        Strike::None
    }

    /// The upstream accepts no connections: the secret is not the reason why it closed some without an answer, and
    /// closes more of them for a while.
    pub(super) fn unreachable(&mut self, now_ms: u64) {
        if self.ever_accepted {
            self.down_until_ms = now_ms + millis(limits::GUARD_OUTAGE_GRACE);
            self.failures.retain(|failure| !failure.by_close);
            self.closes = 0;
        }
    }

    /// An attempt ended without a verdict. `many`: [`limits::GUARD_UNDECIDED`] have since the last
    /// acceptance.
    pub(super) fn undecided(&mut self, attempt: &Attempted, many: bool, now_ms: u64) {
        self.forget(attempt.number);
        if attempt.confirms {
            self.confirmation.put_last(attempt.destination);
        } else if many || (self.ever_accepted && !attempt.sent_while_accepted) {
            self.want_confirmation(now_ms);
        }
    }

    /// Closes the guard here until then.
    pub(super) fn close(&mut self, until_ms: u64) {
        self.state = State::Refused { until_ms };
    }

    /// How long the guard closes after the latest strike, in ms.
    pub(super) fn rest_ms(&self, policy: &GuardPolicy) -> u64 {
        millis(policy.rest(self.strikes))
    }

    /// Remembers a destination that was accepted.
    pub(super) fn remember(&mut self, destination: u64, now_ms: u64, good: &KnownGood) {
        self.accepted_recently.note(destination, now_ms);
        self.confirmation.remember(destination, good);
    }

    /// Asks for a confirmation, if there is a destination for it.
    pub(super) fn want_confirmation(&mut self, now_ms: u64) {
        self.confirmation.want(now_ms);
    }

    pub(super) fn wants_confirmation(&self) -> bool {
        self.confirmation.is_wanted()
    }

    /// Whether a wanted confirmation may begin now.
    pub(super) fn may_confirm(&self, now_ms: u64) -> bool {
        self.confirmation.may_begin(self.unanswered.is_empty(), now_ms)
    }

    /// Begins the wanted confirmation, if it may begin now, and returns its destination: preferably one without an
    /// unanswered attempt, and not a suspect.
    pub(super) fn take_confirmation(&mut self, now_ms: u64) -> Option<KnownGood> {
        if !self.may_confirm(now_ms) {
            return None;
        }
        let (unanswered, suspects) = (&self.unanswered, &self.suspects);
        let rank = |destination| (!is_unanswered(unanswered, destination), !suspects.contains(destination));
        self.confirmation.begin(now_ms, rank)
    }

    pub(super) fn is_running(&self) -> bool {
        self.confirmation.is_running()
    }

    /// Whether a confirmation is wanted or running.
    pub(super) fn is_in_confirmation(&self) -> bool {
        self.wants_confirmation() || self.is_running()
    }

    /// The name of a destination, if it is among the latest accepted ones.
    pub(super) fn known_good_name(&self, destination: u64) -> Option<Arc<str>> {
        let known = self.confirmation.known_good().iter().find(|(known, _)| *known == destination);
        known.map(|(_, good)| Arc::clone(&good.destination))
    }

    /// Destinations that were accepted, by hash.
    pub(super) fn known_good(&self) -> Vec<(u64, KnownGood)> {
        self.confirmation.known_good().to_vec()
    }

    /// Remembers a destination for confirmations that was accepted with another secret.
    pub(super) fn borrow_known_good(&mut self, destination: u64, good: &KnownGood) {
        self.confirmation.remember(destination, good);
    }

    /// Ends the rest: something has changed that makes a new attempt worth while at once.
    pub(super) fn reopen(&mut self) {
        if matches!(self.state, State::Refused { .. }) {
            self.state = State::Unproven;
            self.confirmation.reset();
        }
    }

    pub(super) fn end_confirmation(&mut self) {
        self.confirmation.end();
    }

    /// Whether unanswered attempts have held the next one up for so long that a confirmation is to decide.
    pub(super) fn is_stuck(&self, now_ms: u64) -> bool {
        self.unanswered.front().is_some_and(|sent| now_ms >= sent.at_ms + millis(limits::GUARD_RECHECK_INTERVAL))
    }

    fn doubt(&mut self, now_ms: u64) {
        if matches!(self.state, State::Proven { .. }) {
            self.state = State::Unproven;
        }
        self.want_confirmation(now_ms);
    }

    fn strike(&mut self, strike: Strike) -> Strike {
        self.strikes = self.strikes.saturating_add(1);
        self.confirmation.cancel();
        self.suspects.clear_refused_since(self.accepted_number);
        strike
    }

    /// Attempts that had been sent when the first of them failed count as one batch: they could not be called back.
    fn count_failure(
        &mut self,
        attempt: &Attempted,
        by_close: bool,
        view: AccountView,
        policy: &GuardPolicy,
        now_ms: u64,
    ) {
        // A connection closed on a client says nothing about other upstreams.
        if !by_close {
            self.failed_after = view.newest;
        }
        self.failed_by_close = Some(by_close && attempt.sent_while_accepted);
        let sent_while_accepted = attempt.sent_while_accepted;
        let in_batch = view.in_batch + self.batch(attempt.number, policy, now_ms);
        let most = if by_close { policy.attempts } else { policy.batch() };
        if !sent_while_accepted || in_batch < most {
            self.failures.push_back(Failure { at_ms: now_ms, after: view.newest, sent_while_accepted, by_close });
        }
    }

    fn suspect(&mut self, attempt: &Attempted, policy: &GuardPolicy, now_ms: u64) {
        let (destination, number) = (attempt.destination, attempt.number);
        let was_accepted_recently = self.accepted_recently.contains(destination, now_ms);
        self.suspects.add(destination, number, was_accepted_recently, policy, now_ms);
    }
}

fn is_unanswered(unanswered: &VecDeque<Sent>, destination: u64) -> bool {
    unanswered.iter().any(|sent| sent.destination == destination)
}
