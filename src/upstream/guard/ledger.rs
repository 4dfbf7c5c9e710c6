//! What is known of an account: a track for each secret at each upstream, and the budget of failed logons over all
//! tracks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::{AccountView, Attempted, Effect, Failure, Strike};
use super::destination::Recent;
use super::reservation::{Order, Reservation, Where};
use super::track::{Booking, Track};
use super::verdict::Verdict;
use super::{GuardChange, GuardPolicy, GuardState, GuardStatus, KnownGood, OnChange, Refusal};
use crate::limits::{self, millis};

/// What is known of an account.
#[derive(Default)]
pub(super) struct Ledger {
    /// One for each secret at each upstream.
    pub(super) tracks: Vec<Track>,
    /// Identities that use the account.
    pub(super) watchers: Vec<Watcher>,
    /// The highest number assigned so far. Attempts, scouts and watchers share the numbers, so that they show what came
    /// first.
    last_number: u64,
    /// Requests that were answered with a challenge, by hash.
    pub(super) demanding: Recent,
    /// When attempts ended without a verdict since the last acceptance, in ms, the oldest first; at most
    /// [`limits::GUARD_UNDECIDED`].
    pub(super) undecided_ms: VecDeque<u64>,
    /// Secrets for which no canary and no confirmation goes out before a time, in ms.
    pauses: Vec<(u64, u64)>,
    /// The latest time that a caller has passed.
    pub(super) now_ms: u64,
    /// The store, if attempts are reserved in one.
    pub(super) books: Option<Books>,
}

/// An account's side of the store.
#[derive(Debug)]
pub(super) struct Books {
    /// The number of the account.
    pub account: u64,
    /// Whether the store could be reached when it was last tried.
    pub is_reachable: bool,
    /// See [`Account::counted`](super::Account::counted).
    pub counted: Vec<(u64, usize)>,
    /// To be sent before the lock is released.
    pub orders: Vec<Order>,
}

/// An identity that uses the account, with one secret.
pub(super) struct Watcher {
    number: u64,
    pub(super) secret: u64,
    /// The secret that this one replaces.
    pub(super) previous: Option<u64>,
    on_change: OnChange,
}

/// Selects the track of one secret at one upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub secret: u64,
    pub upstream: &'a Arc<str>,
}

/// The answer to a request to dial or to send an attempt.
#[derive(Debug)]
pub(super) enum Ruling<T> {
    Go(T),
    Wait,
    No(Refusal),
}

/// What is known about an attempt when it goes out.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub number: u64,
    pub destination: u64,
    /// The name of the destination, if it is among those that were accepted last.
    pub known_good: Option<Arc<str>>,
    /// The destination is known to demand authentication.
    pub demands: bool,
    /// The secret is accepted now.
    pub sent_while_accepted: bool,
    /// Its reservation in the store.
    pub reservation: Option<Reservation>,
}

/// Whether the budget allows one more attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Budget {
    Free,
    /// Unanswered attempts use it up.
    Pending,
    /// One attempt is left, for an upstream that accepts the secret.
    Reserved,
    /// Failed attempts use it up, until then, in ms.
    SpentUntil(u64),
}

impl Ledger {
    /// Tells an identity of every change to its secret from now on, until [`Ledger::unwatch`] is called with the number
    /// returned.
    pub(super) fn watch(&mut self, secret: u64, previous: Option<u64>, on_change: OnChange) -> u64 {
        let number = self.number();
        self.watchers.push(Watcher { number, secret, previous, on_change });
        number
    }

    pub(super) fn unwatch(&mut self, number: u64) {
        let gone = self.watchers.iter().find(|watcher| watcher.number == number).map(|watcher| watcher.secret);
        self.watchers.retain(|watcher| watcher.number != number);
        if let (Some(secret), Some(books)) = (gone, &mut self.books)
            && !self.watchers.iter().any(|watcher| watcher.secret == secret)
        {
            books.orders.push(Order::Forget { account: books.account, secret });
        }
    }

    pub(super) fn is_idle(&mut self, policy: &GuardPolicy) -> bool {
        let now_ms = self.now_ms;
        self.tracks.iter_mut().all(|track| track.is_idle(policy, now_ms))
    }

    pub(super) fn is_accepted(&self, index: usize, policy: &GuardPolicy) -> bool {
        self.is_accepted_at(index, policy, self.now_ms)
    }

    pub(super) fn is_accepted_at(&self, index: usize, policy: &GuardPolicy, now_ms: u64) -> bool {
        self.tracks[index].is_accepted(policy, now_ms, self.failed_elsewhere_after(index))
    }

    /// Assigns the next number.
    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn existing(&self, at: At<'_>) -> Option<&Track> {
        self.tracks.iter().find(|track| track.is_of(at.secret, at.upstream))
    }

    /// The index of a track, which is created if there is none.
    pub(super) fn track(&mut self, at: At<'_>, policy: &GuardPolicy) -> usize {
        if let Some(index) = self.tracks.iter().position(|track| track.is_of(at.secret, at.upstream)) {
            return index;
        }
        if self.tracks.len() >= limits::GUARD_TRACKS {
            let (watchers, now_ms) = (&self.watchers, self.now_ms);
            let is_used = |track: &Track| watchers.iter().any(|other| other.secret == track.secret);
            self.tracks.retain_mut(|track| is_used(track) || !track.is_idle(policy, now_ms));
        }
        self.tracks.push(Track::new(at.secret, Arc::clone(at.upstream), policy));
        self.tracks.len() - 1
    }

    /// Whether a request may be dialled for; with the number of its scout if it has to be one.
    /// `destination` is called only if it matters, which it hardly ever does.
    pub(super) fn enter(
        &mut self,
        index: usize,
        destination: impl Fn() -> u64,
        policy: &GuardPolicy,
    ) -> Ruling<Option<u64>> {
        let now_ms = self.now_ms;
        let track = &self.tracks[index];
        if track.may_refuse()
            && let Some(refusal) = track.refuses(now_ms, destination())
        {
            return self.refuse_or_wait(index, refusal);
        }
        if self.may_send_batch(index, policy) {
            return Ruling::Go(None);
        }
        if self.tracks[index].has_scout(policy, now_ms) {
            self.tracks[index].has_waiters = true;
            return Ruling::Wait;
        }
        self.may_send_canary(index, destination(), policy).map(|()| {
            let number = self.number();
            self.tracks[index].set_scout(number, now_ms);
            Some(number)
        })
    }

    /// Whether an attempt may go out; with its number, whether it goes because the secret is accepted, and its
    /// reservation.
    pub(super) fn ask(
        &mut self,
        index: usize,
        destination: u64,
        confirms: bool,
        policy: &GuardPolicy,
    ) -> Ruling<(u64, bool, Option<Reservation>)> {
        let now_ms = self.now_ms;
        let may_send_batch = self.may_send_batch(index, policy);
        let track = &mut self.tracks[index];
        if confirms {
            let (is_held, is_first) = (track.held(now_ms).is_some(), !track.was_struck());
            let unanswered = self.canaries() + self.batch_at_stake(index, policy);
            if is_held || self.failures_against_confirmation(is_first, policy) + unanswered >= policy.attempts {
                return Ruling::Wait;
            }
            if !self.is_booked_for_confirmation(index) {
                return Ruling::Wait;
            }
        } else if let Some(refusal) = track.refuses(now_ms, destination) {
            return self.refuse_or_wait(index, refusal);
        } else if may_send_batch && !track.has_room(policy, now_ms) {
            track.has_waiters = true;
            if track.is_stuck(now_ms) {
                track.want_confirmation(now_ms);
            }
            return Ruling::Wait;
        } else if !may_send_batch {
            match self.may_send_canary(index, destination, policy) {
                Ruling::Go(()) => {}
                Ruling::Wait => return Ruling::Wait,
                Ruling::No(refusal) => return Ruling::No(refusal),
            }
        }
        let number = self.number();
        let sent_while_accepted = may_send_batch && !confirms;
        let track = &mut self.tracks[index];
        track.send(number, now_ms, destination, sent_while_accepted);
        let reservation = if sent_while_accepted { None } else { track.take_reservation() };
        Ruling::Go((number, sent_while_accepted, reservation))
    }

    /// Whether attempts may go out without waiting for each other: the secret is accepted, and the budget has room for
    /// one more batch of failures and for a confirmation after it. Without that room a confirmation goes first.
    fn may_send_batch(&mut self, index: usize, policy: &GuardPolicy) -> bool {
        if !self.is_accepted(index, policy) {
            return false;
        }
        if self.tracks.iter().all(Track::has_no_failures) {
            return true;
        }
        let failures = self.failures(policy).len();
        if failures == 0 || failures + policy.batch().min(self.in_flight(index).count() + 1) < policy.attempts {
            return true;
        }
        self.tracks[index].want_confirmation(self.now_ms);
        false
    }

    /// Unanswered attempts that were sent while a secret was in doubt and that no acceptance has followed: like
    /// [`Ledger::failures`], at all upstreams.
    pub(super) fn canaries(&self) -> usize {
        let counted = |track: &Track| track.unanswered_canaries(self.accepted_number(track.secret));
        self.tracks.iter().map(counted).sum()
    }

    /// The numbers of unanswered attempts that were sent while the secret of a track was accepted, at all upstreams.
    fn in_flight(&self, index: usize) -> impl Iterator<Item = u64> {
        let secret = self.tracks[index].secret;
        self.tracks.iter().filter(move |track| track.secret == secret).flat_map(Track::in_flight)
    }

    /// How many failures the attempts in flight can add to the budget: one batch, less what has failed of it already.
    pub(super) fn batch_at_stake(&mut self, index: usize, policy: &GuardPolicy) -> usize {
        let (now_ms, secret) = (self.now_ms, self.tracks[index].secret);
        let Some(newest) = self.in_flight(index).max() else { return 0 };
        let of_secret = self.tracks.iter_mut().filter(|track| track.secret == secret);
        let failed: usize = of_secret.map(|track| track.batch(newest, policy, now_ms)).sum();
        policy.batch().saturating_sub(failed).min(self.in_flight(index).count())
    }

    /// Whether one attempt may go out although the secret is in doubt.
    fn may_send_canary(&mut self, index: usize, destination: u64, policy: &GuardPolicy) -> Ruling<()> {
        let now_ms = self.now_ms;
        let track = &mut self.tracks[index];
        if track.is_stuck(now_ms) {
            track.want_confirmation(now_ms);
        }
        let spaced = self.is_spaced(self.tracks[index].secret);
        let track = &mut self.tracks[index];
        let (must_wait, secret) = (track.must_wait(policy, now_ms), track.secret);
        let mut of_secret = self.tracks.iter().filter(|track| track.secret == secret);
        if spaced || must_wait || self.is_paused(secret) || of_secret.any(|track| track.is_confirming(policy, now_ms)) {
            self.tracks[index].has_waiters = true;
            return Ruling::Wait;
        }
        // The last attempt of the budget is reserved for a destination that is sure to give a verdict.
        let is_unknown = self.is_known(secret) && !self.is_known_good(secret, destination);
        let spare = usize::from(is_unknown || self.tracks[index].is_inconclusive(destination));
        match self.budget(index, spare, policy) {
            Budget::Free if self.is_booked(index, spare, false) => Ruling::Go(()),
            Budget::Free | Budget::Pending => {
                self.tracks[index].has_waiters = true;
                Ruling::Wait
            }
            // If that other upstream cannot confirm the secret soon, there is nothing to keep the attempt for.
            Budget::Reserved => match self.confirm_elsewhere(index, policy) {
                true => {
                    self.tracks[index].has_waiters = true;
                    Ruling::Wait
                }
                false => Ruling::Go(()),
            },
            // The reserved attempt is left, or may be, and a confirmation may use it.
            Budget::SpentUntil(_) if spare > 0 && !self.budget(index, 0, policy).is_spent() => {
                self.tracks[index].want_confirmation(now_ms);
                self.tracks[index].has_waiters = true;
                Ruling::Wait
            }
            // A confirmation that is accepted clears failures.
            Budget::SpentUntil(_) if self.is_being_confirmed(secret) => {
                self.tracks[index].has_waiters = true;
                Ruling::Wait
            }
            Budget::SpentUntil(until_ms) => {
                self.tracks[index].close(until_ms);
                Ruling::No(Refusal::held(until_ms - now_ms))
            }
        }
    }

    /// Whether the store has granted the next attempt. If it was not asked yet, it is.
    fn is_booked(&mut self, index: usize, spare: usize, first_confirmation: bool) -> bool {
        let failed_after = self.failed_elsewhere_after(index);
        let Some(books) = &mut self.books else { return true };
        let track = &mut self.tracks[index];
        match track.booking {
            Booking::Held(_) => true,
            // A secret that has only not been used for a while may be used although the store is out of reach: nothing
            // speaks against it, and an outage of the store must not become one of the gateway.
            _ if !books.is_reachable && track.is_undoubted(failed_after) => true,
            Booking::Asked => false,
            Booking::None => {
                track.booking = Booking::Asked;
                let at = Where { account: books.account, secret: track.secret, upstream: Arc::clone(&track.upstream) };
                books.orders.push(Order::Reserve { at, spare, first_confirmation });
                false
            }
        }
    }

    /// Whether the store has granted a confirmation.
    pub(super) fn is_booked_for_confirmation(&mut self, index: usize) -> bool {
        let is_first = !self.tracks[index].was_struck();
        // Of all processes together, too, one attempt must be left for the secret that is in use.
        let spare = usize::from(self.has_serving_counterpart(index));
        self.is_booked(index, spare, is_first)
    }

    /// See [`Guard::status`](super::Guard::status).
    pub(super) fn status(&mut self, secret: u64, policy: &GuardPolicy) -> GuardStatus {
        let here = self.failures(policy).len();
        let now_ms = self.now_ms;
        let in_store = |books: &Books| books.counted.iter().find(|(until_ms, _)| now_ms < *until_ms).map(|step| step.1);
        let counted = self.books.as_ref().and_then(in_store).unwrap_or(0).max(here);
        let of_secret = self.tracks.iter().filter(|track| track.secret == secret);
        GuardStatus {
            attempts_left: policy.attempts.saturating_sub(counted),
            accepted_ms: of_secret.filter_map(Track::accepted_ms).max(),
        }
    }

    /// Forgets what failed here, and what it delays elsewhere.
    pub(super) fn forgive(&mut self, index: usize) {
        self.tracks[index].forgive();
        self.undecided_ms.clear();
        self.pauses.clear();
    }

    /// Tells the store how an attempt ended, as far as it has to know.
    pub(super) fn report(&mut self, index: usize, attempt: &Attempted, effect: Effect) {
        let Some(books) = &mut self.books else { return };
        let track = &self.tracks[index];
        let at = Where { account: books.account, secret: track.secret, upstream: Arc::clone(&track.upstream) };
        match attempt.reservation {
            Some(reservation) => books.orders.push(Order::Settle { at, reservation, end: effect.end() }),
            None => {
                let event = effect.event(attempt.sent_ms);
                books.orders.extend(event.map(|event| Order::Note { at, event }));
            }
        }
    }

    /// Gives a reservation back.
    pub(super) fn give_back(&mut self, at: Where, reservation: Reservation, end: super::AttemptEnd) {
        if let Some(books) = &mut self.books {
            books.orders.push(Order::Settle { at, reservation, end });
        }
    }

    /// The highest number up to which another upstream casts doubt on what this one accepts.
    fn failed_elsewhere_after(&self, index: usize) -> u64 {
        let own = &self.tracks[index];
        let is_other = |(other, track): &(usize, &Track)| *other != index && track.secret == own.secret;
        let others = self.tracks.iter().enumerate().filter(is_other).map(|(_, track)| track.failed_after());
        others.max().unwrap_or(0)
    }

    /// Failed attempts of the account, the oldest first. Failures before the same secret or its counterpart was
    /// accepted, by any upstream, do not count: an accepted logon clears them at the domain controller, too.
    fn failures(&mut self, policy: &GuardPolicy) -> Vec<Failure> {
        let now_ms = self.now_ms;
        let mut all: Vec<Failure> = Vec::new();
        for index in 0..self.tracks.len() {
            let accepted_number = self.accepted_number(self.tracks[index].secret);
            let failures = self.tracks[index].failures(policy, now_ms).iter();
            all.extend(failures.filter(|failure| failure.after > accepted_number));
        }
        all.sort_unstable_by_key(|failure| failure.at_ms);
        all
    }

    /// Failures that count against a confirmation. Until one has failed (`is_first`), connections that were closed on
    /// clients count as one failure together: their destinations may have been the reason.
    pub(super) fn failures_against_confirmation(&mut self, is_first: bool, policy: &GuardPolicy) -> usize {
        let failures = self.failures(policy);
        if !is_first {
            return failures.len();
        }
        let closes = failures.iter().filter(|failure| failure.by_close && failure.sent_while_accepted).count();
        failures.len() - closes + closes.min(1)
    }

    /// Whether the budget allows one more attempt and leaves `spare` others.
    pub(super) fn budget(&mut self, index: usize, spare: usize, policy: &GuardPolicy) -> Budget {
        let now_ms = self.now_ms;
        // An upstream that rejects a secret that another one accepts must leave one attempt for the others.
        let reserve = usize::from(self.is_proven_elsewhere(index));
        let share = policy.attempts - reserve;
        let is_accepted: Vec<bool> = (0..self.tracks.len()).map(|track| self.is_accepted(track, policy)).collect();
        let pending = |track: usize| if is_accepted[track] { 0 } else { self.tracks[track].unanswered() };
        let (own_pending, all_pending) = (pending(index), (0..self.tracks.len()).map(pending).sum::<usize>());
        let secret = self.tracks[index].secret;
        let of_secret = (0..self.tracks.len()).filter(|track| self.tracks[*track].secret == secret);
        let secret_pending: usize = of_secret.map(pending).sum();
        let accepted = self.tracks.iter().zip(&is_accepted).filter(|(_, is_accepted)| **is_accepted);
        let in_flight = accepted.map(|(track, _)| track.in_flight().count()).sum();
        let at_stake = self.batch_at_stake(index, policy).min(in_flight);
        let all_ms: Vec<u64> = self.failures(policy).iter().map(|failure| failure.at_ms).collect();
        let own_ms: Vec<u64> =
            self.tracks[index].failures(policy, now_ms).iter().map(|failure| failure.at_ms).collect();
        let over = all_ms.len() + all_pending + at_stake + spare >= policy.attempts;
        let over_share = own_ms.len() + own_pending + spare >= share;
        // A secret whose counterpart is accepted must leave one attempt for that one.
        let (most, secret_ms) = self.share_of_secret(index, policy).unwrap_or((usize::MAX, Vec::new()));
        let over_secret = secret_ms.len() + secret_pending + spare >= most;
        if !over && !over_share && !over_secret {
            let is_reserved = all_ms.len() + all_pending + spare + reserve >= policy.attempts;
            return if is_reserved { Budget::Reserved } else { Budget::Free };
        }
        let expiry = |times_ms: &[u64], most: usize| {
            let oldest = (times_ms.len() + spare).checked_sub(most)?;
            Some(times_ms.get(oldest)? + millis(policy.window))
        };
        match expiry(&all_ms, policy.attempts).max(expiry(&own_ms, share)).max(expiry(&secret_ms, most)) {
            // A slow answer is no refusal: wait for it.
            None => Budget::Pending,
            Some(until_ms) => Budget::SpentUntil(until_ms),
        }
    }

    /// Whether another upstream accepts the same secret.
    fn is_proven_elsewhere(&self, index: usize) -> bool {
        let own = &self.tracks[index];
        let is_other = |track: &&Track| track.secret == own.secret && track.upstream != own.upstream;
        self.tracks.iter().filter(is_other).any(|track| track.state() == GuardState::Proven)
    }

    /// Asks the upstreams that accept a track's secret to confirm it; `false` if none is about to.
    fn confirm_elsewhere(&mut self, index: usize, policy: &GuardPolicy) -> bool {
        let (secret, now_ms) = (self.tracks[index].secret, self.now_ms);
        let accepting = |track: &&mut Track| track.secret == secret && track.state() == GuardState::Proven;
        self.tracks.iter_mut().filter(accepting).for_each(|track| track.want_confirmation(now_ms));
        self.tracks.iter().any(|track| track.secret == secret && track.is_confirming(policy, now_ms))
    }

    /// Records the verdict on an attempt, and closes the guard if that is about the secret; returns whether it is.
    pub(super) fn settle(
        &mut self,
        index: usize,
        attempt: &Attempted,
        verdict: Verdict,
        good: &KnownGood,
        policy: &GuardPolicy,
    ) -> Strike {
        let now_ms = self.now_ms;
        let secret = self.tracks[index].secret;
        let others =
            self.tracks.iter_mut().enumerate().filter(|(other, track)| *other != index && track.secret == secret);
        let in_batch = others.map(|(_, track)| track.batch(attempt.number, policy, now_ms)).sum();
        let view = AccountView {
            newest: self.last_number,
            in_batch,
            is_known: self.is_known(secret),
            is_known_good: self.is_known_good(secret, attempt.destination),
        };
        let track = &mut self.tracks[index];
        let strike = match verdict {
            Verdict::Accepted => {
                if track.accepted(attempt) {
                    track.remember(attempt.destination, now_ms, good);
                    self.undecided_ms.clear();
                }
                Strike::None
            }
            Verdict::Passed => {
                track.passed(attempt);
                Strike::None
            }
            Verdict::Refused => track.refused(attempt, false, view, policy, now_ms),
            Verdict::Stale => track.refused(attempt, true, view, policy, now_ms),
            Verdict::Closed => track.closed(attempt, view, policy, now_ms),
            Verdict::Undecided => {
                self.undecided(index, attempt, policy);
                Strike::None
            }
        };
        if strike != Strike::None {
            self.close(index, strike, policy);
        }
        if matches!(verdict, Verdict::Refused | Verdict::Closed) {
            self.offer_counterpart(index, strike, (attempt.destination, good.clone()), policy);
        }
        strike
    }

    /// Records that an attempt ended without a verdict.
    pub(super) fn undecided(&mut self, index: usize, attempt: &Attempted, policy: &GuardPolicy) {
        let now_ms = self.now_ms;
        while self.undecided_ms.front().is_some_and(|at_ms| now_ms >= at_ms + millis(policy.window)) {
            self.undecided_ms.pop_front();
        }
        self.undecided_ms.push_back(now_ms);
        let many = self.undecided_ms.len() >= limits::GUARD_UNDECIDED;
        if self.undecided_ms.len() > limits::GUARD_UNDECIDED {
            self.undecided_ms.pop_front();
        }
        self.tracks[index].undecided(attempt, many, now_ms);
    }

    /// Closes the guard after a strike: for the rest that the schedule says, or longer until the budget allows an
    /// attempt.
    fn close(&mut self, index: usize, strike: Strike, policy: &GuardPolicy) {
        let by_schedule_ms = self.now_ms + self.tracks[index].rest_ms(policy);
        let spent_until_ms =
            if let Budget::SpentUntil(until_ms) = self.budget(index, 0, policy) { until_ms } else { 0 };
        self.tracks[index].close(by_schedule_ms.max(spent_until_ms));
        // Canaries for other upstreams wait a moment: by then a short outage of the domain controller is over.
        if strike == Strike::Refused && self.tracks[index].was_accepted() {
            let secret = self.tracks[index].secret;
            self.pauses.retain(|(paused, _)| *paused != secret);
            self.pauses.push((secret, self.now_ms + millis(limits::GUARD_CONFIRM_INTERVAL)));
        }
    }

    fn is_being_confirmed(&self, secret: u64) -> bool {
        self.tracks.iter().any(|track| track.secret == secret && (track.is_running() || track.wants_confirmation()))
    }

    /// Whether some upstream has accepted the secret at some time.
    pub(super) fn is_known(&self, secret: u64) -> bool {
        self.tracks.iter().any(|track| track.secret == secret && track.was_accepted())
    }

    /// Whether some upstream has recently accepted the secret for a destination.
    fn is_known_good(&self, secret: u64, destination: u64) -> bool {
        let mut of_secret = self.tracks.iter().filter(|track| track.secret == secret);
        of_secret.any(|track| track.accepted_recently(destination, self.now_ms))
    }

    /// Whether an upstream that used to accept the secret has just rejected it.
    pub(super) fn is_paused(&self, secret: u64) -> bool {
        self.pauses.iter().any(|(paused, until_ms)| *paused == secret && self.now_ms < *until_ms)
    }

    /// The state of a secret over all its tracks: *proven* if one upstream accepts it, which is enough to serve
    /// clients; *refused* if all upstreams that were asked reject it.
    pub(super) fn state_of(&self, secret: u64) -> GuardState {
        let of_secret = || self.tracks.iter().filter(|track| track.secret == secret).map(Track::state);
        if of_secret().any(|state| state == GuardState::Proven) {
            GuardState::Proven
        } else if of_secret().next().is_some() && of_secret().all(|state| state == GuardState::Refused) {
            GuardState::Refused
        } else {
            GuardState::Unproven
        }
    }

    /// What has changed for the watchers of a track. `before` and `wanted` are its state, and whether it wanted a
    /// confirmation, before the change; `frees` says that waiting requests may be able to go on.
    pub(super) fn change_since(
        &mut self,
        index: usize,
        before: GuardState,
        wanted: bool,
        frees: bool,
    ) -> Option<GuardChange> {
        let now_ms = self.now_ms;
        let track = &self.tracks[index];
        let at_upstream = track.state();
        let change = if at_upstream != before {
            let (upstream, overall) = (Arc::clone(&track.upstream), self.state_of(track.secret));
            let rest = Duration::from_millis(track.held(now_ms).unwrap_or(0));
            GuardChange::State { upstream, at_upstream, overall, rest, number: self.number() }
        } else if track.wants_confirmation() && (!wanted || track.may_confirm(now_ms)) {
            GuardChange::WantsConfirmation
        } else if frees && track.has_waiters {
            GuardChange::MayProceed
        } else {
            return None;
        };
        self.tracks[index].has_waiters = false;
        Some(change)
    }

    /// The callbacks of the identities that use a secret.
    pub(super) fn callbacks(&self, secret: u64) -> Vec<OnChange> {
        let of_secret = self.watchers.iter().filter(|watcher| watcher.secret == secret);
        of_secret.map(|watcher| Arc::clone(&watcher.on_change)).collect()
    }
}

impl Budget {
    fn is_spent(self) -> bool {
        matches!(self, Budget::SpentUntil(_))
    }
}

impl<T> Ruling<T> {
    pub(super) fn map<U>(self, make: impl FnOnce(T) -> U) -> Ruling<U> {
        match self {
            Ruling::Go(value) => Ruling::Go(make(value)),
            Ruling::Wait => Ruling::Wait,
            Ruling::No(refusal) => Ruling::No(refusal),
        }
    }
}
