//! The budget of an account: failed logons over all its secrets, identities and upstreams.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::destination::{Recent, demand_hash, destination_hash};
use super::track::{Attempted, Strike, Track};
use super::verdict::{self, Answer, Verdict};
use super::{Asking, GuardChange, GuardPolicy, GuardState, KnownGood, OnChange, Refusal};
use crate::limits::{self, millis};

/// The accounts of a process. An account outlives the secrets and identities that use it, so that a reload forgets no failed logon.
#[derive(Debug, Default)]
pub struct Accounts {
    policy: GuardPolicy,
    known: Mutex<HashMap<(String, String), Arc<Account>>>,
}

impl Accounts {
    /// No accounts yet.
    pub fn new(policy: GuardPolicy) -> Accounts {
        Accounts { policy, known: Mutex::default() }
    }

    /// The account of a user in a domain; neither's letter case matters.
    pub fn of(&self, domain: &str, user: &str) -> Arc<Account> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= limits::GUARD_ACCOUNTS {
            known.retain(|_, account| Arc::strong_count(account) > 1 || !account.lock().is_idle());
        }
        let name = (domain.to_lowercase(), user.to_lowercase());
        Arc::clone(known.entry(name).or_insert_with(|| Account::new(self.policy)))
    }
}

/// One account.
///
/// A mutex and not a message to an owner: it is held for a few instructions, never over input or output, and the caller needs the
/// answer in order to go on.
pub struct Account {
    policy: GuardPolicy,
    hasher: RandomState,
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Account").finish_non_exhaustive()
    }
}

/// What is known of an account.
#[derive(Default)]
pub(super) struct Inner {
    /// One for each secret at each upstream.
    tracks: Vec<Track>,
    /// Identities that use the account.
    watchers: Vec<Watcher>,
    next_number: u64,
    /// Requests that were answered with a challenge.
    demanding: Recent,
    /// The latest time that anybody has told.
    now_ms: u64,
}

/// An identity that uses the account, with one secret.
struct Watcher {
    number: u64,
    secret: u64,
    tell: OnChange,
}

/// The way to one secret at one upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub secret: u64,
    pub upstream: &'a Arc<str>,
}

/// The answer to a wish to go on.
#[derive(Debug)]
pub(super) enum Decision<T> {
    Go(T),
    Wait,
    No(Refusal),
}

/// What is known of an attempt when it goes out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    pub number: u64,
    pub destination: u64,
    /// The destination is known to demand authentication.
    pub demands: bool,
    pub was_fresh: bool,
}

/// Whether something that others wait for has become free.
type Frees = bool;

impl Account {
    pub(super) fn new(policy: GuardPolicy) -> Arc<Account> {
        Arc::new(Account { policy, hasher: RandomState::new(), inner: Mutex::default() })
    }

    /// A fingerprint of a secret, of use in this process only.
    pub fn fingerprint(&self, secret: impl Hash) -> u64 {
        self.hasher.hash_one(secret)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watch(&self, secret: u64, tell: OnChange) -> u64 {
        let mut inner = self.lock();
        let number = inner.number();
        inner.watchers.push(Watcher { number, secret, tell });
        number
    }

    pub(super) fn unwatch(&self, number: u64) {
        self.lock().watchers.retain(|watcher| watcher.number != number);
    }

    pub(super) fn destination(&self, destination: &str) -> u64 {
        destination_hash(&self.hasher, destination)
    }

    /// Whether a request may be dialled for; with the number of its scout where it is one.
    pub(super) fn enter(&self, at: At<'_>, now_ms: u64, destination: u64) -> Decision<Option<u64>> {
        self.change(at, now_ms, |inner, place| (inner.enter(place, destination, &self.policy), false))
    }

    /// Whether an attempt may go out now.
    pub(super) fn ask(&self, at: At<'_>, now_ms: u64, asking: &Asking<'_>) -> Decision<Outgoing> {
        let destination = self.destination(asking.destination);
        let demand = demand_hash(&self.hasher, at.upstream, asking.method, asking.destination);
        self.change(at, now_ms, |inner, place| {
            if asking.challenged {
                inner.demanding.note(demand, now_ms);
            }
            let demands = inner.demanding.contains(demand, now_ms);
            let decision = inner.ask(place, destination, asking.confirms, &self.policy);
            let outgoing = |(number, was_fresh)| Outgoing { number, destination, demands, was_fresh };
            (decision.map(outgoing), false)
        })
    }

    /// An attempt is over. `demands` as in [`Outgoing`].
    pub(super) fn settle(
        &self,
        at: At<'_>,
        now_ms: u64,
        attempt: &Attempted,
        answer: Answer,
        demands: bool,
        good: KnownGood,
    ) {
        self.change(at, now_ms, |inner, place| {
            let verdict = verdict::of(answer, demands);
            let strike = inner.settle(place, attempt, verdict, good, &self.policy);
            if strike == Strike::Secret {
                inner.close(place, &self.policy);
            }
            let track = &inner.tracks[place];
            ((), verdict != Verdict::Accepted || track.has_much_room())
        });
    }

    /// An attempt ended without an answer, at a time that nobody tells.
    pub(super) fn abandon(&self, at: At<'_>, attempt: &Attempted) {
        let now_ms = self.lock().now_ms;
        self.change(at, now_ms, |inner, place| {
            inner.tracks[place].undecided(attempt, now_ms);
            ((), true)
        });
    }

    /// An attempt was not sent after all.
    pub(super) fn take_back(&self, at: At<'_>, number: u64) {
        let now_ms = self.lock().now_ms;
        self.change(at, now_ms, |inner, place| {
            inner.tracks[place].forget(number);
            ((), true)
        });
    }

    /// A scout is back without having made an attempt, or has made it.
    pub(super) fn end_scout(&self, at: At<'_>, number: u64) {
        let now_ms = self.lock().now_ms;
        self.change(at, now_ms, |inner, place| ((), inner.tracks[place].end_scout(number)));
    }

    pub(super) fn take_confirmation(&self, at: At<'_>, now_ms: u64) -> Option<KnownGood> {
        self.change(at, now_ms, |inner, place| (inner.tracks[place].take_confirmation(now_ms), false))
    }

    pub(super) fn end_confirmation(&self, at: At<'_>) {
        let now_ms = self.lock().now_ms;
        self.change(at, now_ms, |inner, place| {
            inner.tracks[place].end_confirmation();
            ((), true)
        });
    }

    pub(super) fn is_fresh(&self, at: At<'_>, now_ms: u64) -> bool {
        self.lock().existing(at).is_some_and(|track| track.is_fresh(&self.policy, now_ms))
    }

    /// Acts on a track, and tells the watchers of its secret what has changed when the lock is released.
    fn change<T>(&self, at: At<'_>, now_ms: u64, act: impl FnOnce(&mut Inner, usize) -> (T, Frees)) -> T {
        let mut inner = self.lock();
        inner.now_ms = inner.now_ms.max(now_ms);
        let place = inner.track(at, &self.policy);
        let (before, wanted) = (inner.tracks[place].state(), inner.tracks[place].wants_confirmation());
        let (outcome, frees) = act(&mut inner, place);
        let change = inner.news(place, before, wanted, frees);
        let tell = if change.is_some() { inner.told(at.secret) } else { Vec::new() };
        drop(inner);
        if let Some(change) = change {
            tell.iter().for_each(|tell| tell(&change));
        }
        outcome
    }
}

impl Inner {
    fn is_idle(&self) -> bool {
        self.tracks.iter().all(Track::is_idle)
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn existing(&self, at: At<'_>) -> Option<&Track> {
        self.tracks.iter().find(|track| track.is_of(at.secret, at.upstream))
    }

    /// The place of a track; a new one is made where there is none.
    fn track(&mut self, at: At<'_>, policy: &GuardPolicy) -> usize {
        if let Some(place) = self.tracks.iter().position(|track| track.is_of(at.secret, at.upstream)) {
            return place;
        }
        if self.tracks.len() >= limits::GUARD_TRACKS {
            let watchers = &self.watchers;
            self.tracks.retain(|track| !track.is_idle() || watchers.iter().any(|other| other.secret == track.secret));
        }
        self.tracks.push(Track::new(at.secret, Arc::clone(at.upstream), policy));
        self.tracks.len() - 1
    }

    fn enter(&mut self, place: usize, destination: u64, policy: &GuardPolicy) -> Decision<Option<u64>> {
        let now_ms = self.now_ms;
        let track = &self.tracks[place];
        if let Some(refusal) = track.refuses(now_ms, destination) {
            return Decision::No(refusal);
        }
        if track.is_fresh(policy, now_ms) {
            return Decision::Go(None);
        }
        if track.has_scout(policy, now_ms) {
            self.tracks[place].has_waiters = true;
            return Decision::Wait;
        }
        self.may_try(place, destination, policy).map(|()| {
            let number = self.number();
            self.tracks[place].set_scout(number, now_ms);
            Some(number)
        })
    }

    /// The number of the attempt that goes out, and whether it goes because the secret was accepted lately.
    fn ask(&mut self, place: usize, destination: u64, confirms: bool, policy: &GuardPolicy) -> Decision<(u64, bool)> {
        let now_ms = self.now_ms;
        let track = &mut self.tracks[place];
        let fresh = track.is_fresh(policy, now_ms);
        if confirms {
            // It is the way out of waiting for attempts that went out while the secret was accepted: those do not stand in its way.
            let tries: usize = self.tracks.iter().map(Track::tries).sum();
            if self.failures(policy) + tries >= policy.attempts {
                return Decision::Wait;
            }
        } else if let Some(refusal) = track.refuses(now_ms, destination) {
            return Decision::No(refusal);
        } else if fresh && !track.has_room(policy, now_ms) {
            track.has_waiters = true;
            if track.is_stuck(now_ms) {
                track.want_confirmation(now_ms);
            }
            return Decision::Wait;
        } else if !fresh {
            match self.may_try(place, destination, policy) {
                Decision::Go(()) => {}
                Decision::Wait => return Decision::Wait,
                Decision::No(refusal) => return Decision::No(refusal),
            }
        }
        let number = self.number();
        let was_fresh = fresh && !confirms;
        self.tracks[place].send(number, now_ms, destination, was_fresh);
        Decision::Go((number, was_fresh))
    }

    /// Whether one attempt may be made with a secret that is not known to be right.
    fn may_try(&mut self, place: usize, destination: u64, policy: &GuardPolicy) -> Decision<()> {
        let now_ms = self.now_ms;
        let track = &mut self.tracks[place];
        if track.is_stuck(now_ms) {
            track.want_confirmation(now_ms);
        }
        if track.must_wait(policy, now_ms) {
            track.has_waiters = true;
            return Decision::Wait;
        }
        // The last attempt is not for a destination that may never answer.
        let spare = usize::from(track.awaits(destination));
        let Some(until_ms) = self.spent_until(place, spare, policy) else { return Decision::Go(()) };
        let track = &mut self.tracks[place];
        match until_ms {
            // Slow is not refused: the answers that are still to come decide.
            None => {
                track.has_waiters = true;
                Decision::Wait
            }
            Some(until_ms) => {
                track.close(until_ms);
                Decision::No(Refusal::held(until_ms - now_ms))
            }
        }
    }

    fn failures(&mut self, policy: &GuardPolicy) -> usize {
        let now_ms = self.now_ms;
        self.tracks.iter_mut().map(|track| track.failures(policy, now_ms).len()).sum()
    }

    /// `None` while the budget allows an attempt and leaves as many as are to be spared; otherwise until when it does not, which is not known
    /// while attempts are pending.
    fn spent_until(&mut self, place: usize, spare: usize, policy: &GuardPolicy) -> Option<Option<u64>> {
        let now_ms = self.now_ms;
        let attempts = policy.attempts;
        // An upstream that rejects what another one accepts must leave an attempt for the others.
        let share = if self.is_proven_elsewhere(place) { policy.least_room() } else { attempts };
        let pending: Vec<usize> = self.tracks.iter().map(|track| track.pending(policy, now_ms)).collect();
        let mut all_ms: Vec<u64> = Vec::new();
        for track in &mut self.tracks {
            all_ms.extend(track.failures(policy, now_ms));
        }
        all_ms.sort_unstable();
        let own_ms: Vec<u64> = self.tracks[place].failures(policy, now_ms).iter().copied().collect();
        let over = all_ms.len() + pending.iter().sum::<usize>() + spare >= attempts;
        let over_share = own_ms.len() + pending[place] >= share;
        if !over && !over_share {
            return None;
        }
        let expiry = |times_ms: &[u64], most: usize| {
            let oldest = times_ms.len().checked_sub(most)?;
            Some(times_ms[oldest] + millis(policy.window))
        };
        Some(expiry(&all_ms, attempts).max(expiry(&own_ms, share)))
    }

    /// Whether another upstream accepts the same secret.
    fn is_proven_elsewhere(&self, place: usize) -> bool {
        let own = &self.tracks[place];
        let is_other = |track: &&Track| track.secret == own.secret && track.upstream != own.upstream;
        self.tracks.iter().filter(is_other).any(|track| track.state() == GuardState::Proven)
    }

    fn settle(
        &mut self,
        place: usize,
        attempt: &Attempted,
        verdict: Verdict,
        good: KnownGood,
        policy: &GuardPolicy,
    ) -> Strike {
        let now_ms = self.now_ms;
        let others = self.tracks.iter_mut().enumerate().filter(|(other, _)| *other != place);
        let elsewhere = others.map(|(_, track)| track.failures(policy, now_ms).len()).sum();
        let track = &mut self.tracks[place];
        track.failures_elsewhere = elsewhere;
        match verdict {
            Verdict::Accepted => {
                track.accepted(attempt);
                track.remember(attempt.destination, now_ms, good);
                Strike::None
            }
            Verdict::Refused => track.refused(attempt, false, policy, now_ms),
            Verdict::Stale => track.refused(attempt, true, policy, now_ms),
            Verdict::Closed => track.closed(attempt, policy, now_ms),
            Verdict::Undecided => {
                track.undecided(attempt, now_ms);
                Strike::None
            }
        }
    }

    /// Closes the guard after a strike: for the schedule's rest, or until the budget allows an attempt.
    fn close(&mut self, place: usize, policy: &GuardPolicy) {
        let by_schedule_ms = self.now_ms + self.tracks[place].rest_ms(policy);
        let spent_until_ms = self.spent_until(place, 0, policy).flatten().unwrap_or(0);
        self.tracks[place].close(by_schedule_ms.max(spent_until_ms));
    }

    /// What all the tracks of a secret amount to: one upstream that accepts it is enough to serve clients.
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

    fn news(&mut self, place: usize, before: GuardState, wanted: bool, frees: Frees) -> Option<GuardChange> {
        let now_ms = self.now_ms;
        let track = &self.tracks[place];
        let overall = self.state_of(track.secret);
        let (upstream, at_upstream) = (Arc::clone(&track.upstream), track.state());
        let change = if at_upstream != before {
            let rest = Duration::from_millis(track.held(now_ms).unwrap_or(0));
            GuardChange::State { upstream, at_upstream, overall, rest }
        } else if track.wants_confirmation() && !wanted {
            GuardChange::WantsConfirmation
        } else if frees && track.has_waiters {
            GuardChange::Freed
        } else {
            return None;
        };
        self.tracks[place].has_waiters = false;
        Some(change)
    }

    fn told(&self, secret: u64) -> Vec<OnChange> {
        let of_secret = self.watchers.iter().filter(|watcher| watcher.secret == secret);
        of_secret.map(|watcher| Arc::clone(&watcher.tell)).collect()
    }
}

impl<T> Decision<T> {
    fn map<U>(self, make: impl FnOnce(T) -> U) -> Decision<U> {
        match self {
            Decision::Go(value) => Decision::Go(make(value)),
            Decision::Wait => Decision::Wait,
            Decision::No(refusal) => Decision::No(refusal),
        }
    }
}
