//! What a store knows of one account, and the rules by which logon attempts are reserved and settled. Pure: the time is
//! an argument, in ms since 1970 by the store's clock.
//!
//! An attempt is reserved before it goes out, and its reservation counts against the budget like a failed logon until
//! it is settled. So nothing has to be done for a process that ends in between: its reservation stays, and counts.
//! `status` derives from a record what an operator is shown.

mod status;

use serde::{Deserialize, Serialize};

pub use status::{Counted, PlaceStatus};

use crate::limits::{self, millis};
use crate::upstream::{AttemptEnd, GuardPolicy, Unreserved};

/// The secret of an account at an upstream, both as keyed hashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The fingerprint of the secret.
    pub secret: String,
    /// The hash of the upstream's name.
    pub upstream: String,
}

/// One account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Record {
    /// The highest number assigned so far. Attempts are numbered in the order in which they were reserved.
    last: u64,
    /// Attempts that may matter, the oldest first.
    attempts: Vec<Entry>,
    /// What is known of each secret at each upstream, the latest changed last.
    places: Vec<PlaceRecord>,
    /// When an operator has cleared the record last.
    reset_ms: u64,
    /// Processes that may make attempts of their own while they cannot reach the store, at most as many as
    /// [`Shares::members`] says.
    members: Vec<Member>,
}

/// A process with a share of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    owner: u64,
    /// When it was last in touch.
    at_ms: u64,
}

/// The shares of the budget that processes keep for the time when they cannot reach the store.
///
/// A share is kept aside for as long as its process may use it, so the budget holds even if every process is cut off.
/// One attempt is never kept aside: the processes that reach the store can always try a password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Attempts of each process; 0 if there are no shares.
    pub attempts: usize,
    /// How many processes have one.
    pub members: usize,
}

impl Shares {
    /// The shares of a budget among at most so many processes; 0 for no shares.
    pub fn of(budget: usize, max_replicas: usize) -> Shares {
        let attempts = budget.checked_div(max_replicas).unwrap_or(0);
        let members = budget.saturating_sub(1).checked_div(attempts).unwrap_or(0).min(max_replicas);
        Shares { attempts, members }
    }
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    number: u64,
    place: Place,
    /// The process.
    owner: u64,
    /// When it was reserved, or settled if it is settled.
    at_ms: u64,
    outcome: Outcome,
}

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// Reserved: it may be under way, or its process has ended.
    Reserved,
    /// The secret was rejected.
    Failed,
    /// The same, for an attempt that was sent while the secret was still accepted. These count as one batch: they
    /// could not be called back.
    FailedInFlight,
    /// A connection was closed on a client without an answer while the secret was accepted.
    ClosedInFlight,
    /// It ended without a verdict.
    Undecided,
}

/// What is known of a secret at an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceRecord {
    place: Place,
    /// The number of the latest accepted attempt; 0 if none was.
    accepted: u64,
    /// When that was.
    accepted_ms: u64,
    /// The number of the latest rejected attempt; 0 if none was.
    refused: u64,
    /// When the secret was found rejected last; 0 if it was accepted since, or never found so.
    struck_ms: u64,
    /// How often it was found rejected since it was accepted.
    strikes: u32,
    /// Nothing is sent until then.
    until_ms: u64,
}

/// Who acts on a record, when, and by which rules.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// The process: a random number, new at each start.
    pub owner: u64,
    /// The budget and the schedule.
    pub policy: &'a GuardPolicy,
    /// See [`Shares`].
    pub shares: Shares,
    /// The time, in ms since 1970.
    pub now_ms: u64,
    /// By how much the clock of another process may be behind this one, in ms.
    pub clock_error_ms: u64,
}

/// What a reservation is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purpose {
    /// So many attempts of the budget must be left over.
    pub spare: usize,
    /// It is the first handshake of the gateway's own in a doubt: connections that were closed on clients count as one
    /// failure together, because their destinations may have been the reason.
    pub first_confirmation: bool,
}

/// The answer to a request for a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// The attempt may go out; it has this number.
    Granted(u64),
    /// Others are under way: ask again after the next change, and then at the latest.
    Wait {
        /// In ms since 1970.
        until_ms: u64,
    },
    /// Nothing may be sent before then.
    Denied {
        /// In ms since 1970.
        until_ms: u64,
    },
    /// The attempts that are left are reserved for destinations that are sure to give a verdict.
    OnlySpare,
}

/// What other processes have to know of a secret at an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// When it was accepted last; 0 if it never was.
    pub accepted_ms: u64,
    /// When it was found rejected last; 0 if it was accepted since.
    pub struck_ms: u64,
    /// Nothing is sent until then; 0 if it was accepted since.
    pub until_ms: u64,
    /// When the record was cleared last; 0 if it never was.
    pub reset_ms: u64,
}

impl Entry {
    fn counts_until_ms(&self, policy: &GuardPolicy) -> u64 {
        let grace_ms = if self.outcome == Outcome::Reserved { millis(limits::GUARD_RESERVATION_AGE) } else { 0 };
        let grace_ms = grace_ms + millis(limits::GUARD_CLOCK_MARGIN);
        self.at_ms.saturating_add(millis(policy.window)).saturating_add(grace_ms)
    }

    /// Until when it delays the next attempt while its outcome is not known.
    fn delays_until_ms(&self, actor: &Actor<'_>) -> u64 {
        let error_ms = if self.owner == actor.owner { 0 } else { actor.clock_error_ms };
        self.at_ms.saturating_add(millis(actor.policy.pending_wait) + error_ms)
    }

    /// Whether its outcome may come so soon that others wait for it.
    fn is_under_way(&self, now_ms: u64) -> bool {
        self.outcome == Outcome::Reserved && now_ms < self.at_ms.saturating_add(millis(limits::GUARD_OUTCOME_WAIT))
    }
}

impl Member {
    /// It may use its share for one window, and what it sent at the end of it counts for another.
    fn keeps_until_ms(&self, policy: &GuardPolicy) -> u64 {
        self.at_ms.saturating_add(2 * millis(policy.window) + millis(limits::GUARD_CLOCK_MARGIN))
    }
}

impl Record {
    /// Asks for an attempt.
    pub fn reserve(&mut self, place: &Place, purpose: Purpose, actor: &Actor<'_>) -> Reserved {
        let (policy, now_ms) = (actor.policy, actor.now_ms);
        self.forget_old(policy, now_ms);
        if let Some(until_ms) = self.at(place).map(|at| at.until_ms).filter(|until_ms| now_ms < *until_ms) {
            return Reserved::Denied { until_ms };
        }
        if let Some(until_ms) = self.waits_until_ms(place, actor) {
            return Reserved::Wait { until_ms };
        }
        if self.has_budget(place, purpose, purpose.spare, actor) {
            let number = self.push(place, actor.owner, Outcome::Reserved, now_ms);
            self.touch(place);
            return Reserved::Granted(number);
        }
        if purpose.spare > 0 && self.has_budget(place, purpose, 0, actor) {
            return Reserved::OnlySpare;
        }
        match self.under_way_until_ms(now_ms) {
            Some(until_ms) if self.without_those_under_way(now_ms).has_budget(place, purpose, 0, actor) => {
                Reserved::Wait { until_ms }
            }
            _ => Reserved::Denied { until_ms: self.free_at_ms(place, purpose, actor) },
        }
    }

    /// Records how a reserved attempt ended.
    pub fn settle(&mut self, place: &Place, number: u64, end: AttemptEnd, actor: &Actor<'_>) {
        let (policy, now_ms) = (actor.policy, actor.now_ms);
        self.forget_old(policy, now_ms);
        self.attempts.retain(|entry| entry.number != number);
        match end {
            AttemptEnd::Unused => {}
            AttemptEnd::Accepted => self.accepted(place, number, now_ms),
            AttemptEnd::Refused { strike } => {
                // Older than the last acceptance: it failed because of its destination.
                if number > self.at(place).map_or(0, |at| at.accepted) {
                    self.insert(Entry {
                        number,
                        place: place.clone(),
                        owner: actor.owner,
                        at_ms: now_ms,
                        outcome: Outcome::Failed,
                    });
                    self.refused(place, number, strike, policy, now_ms);
                }
            }
            AttemptEnd::Undecided => {
                if !self.is_known(&place.secret) {
                    self.insert(Entry {
                        number,
                        place: place.clone(),
                        owner: actor.owner,
                        at_ms: now_ms,
                        outcome: Outcome::Undecided,
                    });
                }
            }
        }
        self.bound();
    }

    /// Records how an attempt ended that was reserved in a record that has been lost since.
    pub fn settle_lost(&mut self, place: &Place, end: AttemptEnd, actor: &Actor<'_>) {
        match end {
            AttemptEnd::Accepted => self.note(place, Unreserved::Accepted { sent_ms: 0 }, actor),
            AttemptEnd::Unused => {}
            AttemptEnd::Refused { .. } | AttemptEnd::Undecided => self.settle(place, self.last + 1, end, actor),
        }
    }

    /// Records what happened to an attempt without a reservation. Times are by the store's clock.
    pub fn note(&mut self, place: &Place, what: Unreserved, actor: &Actor<'_>) {
        let (policy, now_ms) = (actor.policy, actor.now_ms);
        self.forget_old(policy, now_ms);
        match what {
            Unreserved::Failed { by_close, strike } => {
                let outcome = if by_close { Outcome::ClosedInFlight } else { Outcome::FailedInFlight };
                let number = self.push(place, actor.owner, outcome, now_ms);
                self.refused(place, number, strike, policy, now_ms);
            }
            Unreserved::Accepted { sent_ms } => {
                let before = self.attempts.iter().filter(|entry| entry.at_ms < sent_ms).map(|entry| entry.number);
                let number = before.max().unwrap_or(0);
                self.accepted(place, number, now_ms);
            }
        }
        self.bound();
    }

    /// Counts an attempt of which nothing is known but that it may have been made.
    pub fn assume_failed(&mut self, now_ms: u64) {
        let nowhere = Place { secret: String::new(), upstream: String::new() };
        self.push(&nowhere, 0, Outcome::Failed, now_ms);
        self.bound();
    }

    /// The process is in touch: its share is renewed, or it gets one if the budget has room for it.
    pub fn join(&mut self, actor: &Actor<'_>) {
        self.members.retain(|member| actor.now_ms < member.keeps_until_ms(actor.policy));
        if let Some(member) = self.members.iter_mut().find(|member| member.owner == actor.owner) {
            member.at_ms = actor.now_ms;
            return;
        }
        let counted = self.count(None, Purpose::default(), actor.policy, actor.now_ms);
        let own = self.counted_of(actor.owner, actor.policy, actor.now_ms);
        let unused = actor.shares.attempts.saturating_sub(own);
        let has_room = counted + self.kept_aside(actor) + unused <= actor.policy.attempts;
        if has_room && self.members.len() < actor.shares.members {
            self.members.push(Member { owner: actor.owner, at_ms: actor.now_ms });
        }
    }

    /// Whether a process has a share.
    pub fn has_joined(&self, owner: u64) -> bool {
        self.members.iter().any(|member| member.owner == owner)
    }

    /// The process ends and makes no attempt any more.
    pub fn leave(&mut self, owner: u64) {
        self.members.retain(|member| member.owner != owner);
    }

    /// Attempts of one process that count.
    pub fn counted_of(&self, owner: u64, policy: &GuardPolicy, now_ms: u64) -> usize {
        let counts = |entry: &&Entry| {
            entry.owner == owner
                && matches!(entry.outcome, Outcome::Reserved | Outcome::Failed)
                && now_ms < entry.counts_until_ms(policy)
        };
        self.attempts.iter().filter(counts).count()
    }

    /// What other processes may still use of their shares.
    fn kept_aside(&self, actor: &Actor<'_>) -> usize {
        let others = self
            .members
            .iter()
            .filter(|member| member.owner != actor.owner && actor.now_ms < member.keeps_until_ms(actor.policy));
        let unused = |member: &Member| {
            actor.shares.attempts.saturating_sub(self.counted_of(member.owner, actor.policy, actor.now_ms))
        };
        others.map(unused).sum()
    }

    /// Forgets everything: an operator has unlocked the account.
    pub fn reset(&mut self, now_ms: u64) {
        *self = Record {
            last: self.last,
            reset_ms: now_ms.max(self.reset_ms.saturating_add(1)),
            members: std::mem::take(&mut self.members),
            ..Record::default()
        };
    }

    /// What is known of a secret at an upstream.
    pub fn known(&self, place: &Place) -> Known {
        let known = Known { reset_ms: self.reset_ms, ..Known::default() };
        self.at(place).map_or(known, |at| Known {
            accepted_ms: at.accepted_ms,
            struck_ms: at.struck_ms,
            until_ms: at.until_ms,
            ..known
        })
    }

    /// How many attempts count against the budget.
    pub fn counted(&self, policy: &GuardPolicy, now_ms: u64) -> usize {
        self.count(None, Purpose::default(), policy, now_ms)
    }

    /// Every place of which something is known.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().map(|at| &at.place)
    }

    /// Whether nothing is left that could matter.
    pub fn is_idle(&self, policy: &GuardPolicy, now_ms: u64) -> bool {
        self.attempts.iter().all(|entry| entry.counts_until_ms(policy) <= now_ms)
            && self.places.iter().all(|at| at.until_ms <= now_ms)
    }

    /// When anything happened last.
    pub fn latest_ms(&self) -> u64 {
        let attempts = self.attempts.iter().map(|entry| entry.at_ms);
        let places = self.places.iter().map(|at| at.accepted_ms.max(at.struck_ms));
        attempts.chain(places).max().unwrap_or(0).max(self.reset_ms)
    }

    fn at(&self, place: &Place) -> Option<&PlaceRecord> {
        self.places.iter().find(|at| at.place == *place)
    }

    /// The record of a place, which becomes the latest changed.
    fn touch(&mut self, place: &Place) -> &mut PlaceRecord {
        let new = || PlaceRecord {
            place: place.clone(),
            accepted: 0,
            accepted_ms: 0,
            refused: 0,
            struck_ms: 0,
            strikes: 0,
            until_ms: 0,
        };
        let at = self.places.iter().position(|at| at.place == *place).map(|index| self.places.remove(index));
        let index = self.places.len();
        self.places.push(at.unwrap_or_else(new));
        &mut self.places[index]
    }

    fn push(&mut self, place: &Place, owner: u64, outcome: Outcome, at_ms: u64) -> u64 {
        self.last += 1;
        self.attempts.push(Entry { number: self.last, place: place.clone(), owner, at_ms, outcome });
        self.last
    }

    /// An entry from a record that has been lost keeps its number out of the way of those of this record.
    fn insert(&mut self, entry: Entry) {
        self.last = self.last.max(entry.number);
        self.attempts.push(entry);
    }

    fn accepted(&mut self, place: &Place, number: u64, now_ms: u64) {
        self.last = self.last.max(number);
        let at = self.touch(place);
        // A later attempt was rejected: this says nothing about the present.
        if number < at.refused {
            return;
        }
        at.accepted = at.accepted.max(number);
        at.accepted_ms = now_ms;
        (at.struck_ms, at.strikes, at.until_ms) = (0, 0, 0);
        self.attempts.retain(|entry| entry.outcome != Outcome::Undecided);
    }

    fn refused(&mut self, place: &Place, number: u64, strike: bool, policy: &GuardPolicy, now_ms: u64) {
        let at = self.touch(place);
        at.refused = at.refused.max(number);
        // Several processes may find out at the same time: that is one finding.
        let is_held = now_ms < at.until_ms;
        if strike && !is_held {
            at.strikes = at.strikes.saturating_add(1);
            at.struck_ms = now_ms;
            at.until_ms = now_ms + millis(policy.rest(at.strikes));
        }
    }

    /// Whether some upstream has accepted the secret at some time.
    pub fn is_known(&self, secret: &str) -> bool {
        self.places.iter().any(|at| at.place.secret == secret && at.accepted_ms > 0)
    }

    /// Whether nothing casts doubt on the last acceptance here.
    fn is_proven(&self, at: &PlaceRecord) -> bool {
        let failed = |entry: &Entry| entry.place == at.place && entry.outcome != Outcome::Reserved;
        at.accepted_ms > 0
            && at.refused <= at.accepted
            && !self.attempts.iter().any(|entry| failed(entry) && entry.number > at.accepted)
    }

    /// Why the next attempt has to wait although the budget may allow it.
    fn waits_until_ms(&self, place: &Place, actor: &Actor<'_>) -> Option<u64> {
        let now_ms = actor.now_ms;
        let is_known = self.is_known(&place.secret);
        let struck = |at: &&PlaceRecord| at.place.secret == place.secret && at.accepted_ms > 0 && at.struck_ms > 0;
        // By then a short outage of the domain controller is over.
        let paused = self.places.iter().filter(struck).map(|at| at.struck_ms + millis(limits::GUARD_CONFIRM_INTERVAL));
        // Many answers without a verdict may hide failed logons until the secret has been accepted once.
        let undecided = || self.attempts.iter().filter(|entry| entry.outcome == Outcome::Undecided);
        let spaced = (!is_known && undecided().count() >= limits::GUARD_UNDECIDED)
            .then(|| undecided().map(|entry| entry.at_ms).max())
            .flatten()
            .map(|last_ms| last_ms + millis(limits::GUARD_UNDECIDED_INTERVAL));
        // One at a time, unless the secret is accepted: a rejection usually comes at once.
        let is_proven = self.at(place).is_some_and(|at| self.is_proven(at));
        let others = self.attempts.iter().filter(|entry| entry.place == *place && entry.is_under_way(now_ms));
        let behind = others.map(|entry| entry.delays_until_ms(actor)).max().filter(|_| !is_proven);
        paused.max().max(spaced).max(behind).filter(|until_ms| now_ms < *until_ms)
    }

    /// Whether one more attempt leaves `spare` others.
    fn has_budget(&self, place: &Place, purpose: Purpose, spare: usize, actor: &Actor<'_>) -> bool {
        let (policy, now_ms) = (actor.policy, actor.now_ms);
        // What is rejected here must leave one attempt for what is accepted elsewhere: for the same secret at another
        // upstream besides the spare ones, and for another secret at least one.
        let proven = self.places.iter().filter(|at| at.place != *place && self.is_proven(at));
        let (same, other): (Vec<_>, Vec<_>) = proven.partition(|at| at.place.secret == place.secret);
        let kept = (usize::from(!same.is_empty()) + spare).max(usize::from(!other.is_empty()));
        // Wrong secrets, such as those given to `probe`, must not use up what the accepted one needs later.
        let is_proven = self.at(place).is_some_and(|at| self.is_proven(at));
        let kept_of_all = spare.max(usize::from(!is_proven && !other.is_empty()));
        self.count(None, purpose, policy, now_ms) + self.kept_aside(actor) + kept_of_all < policy.attempts
            && self.count(Some(place), purpose, policy, now_ms) + kept < policy.attempts
    }

    /// Attempts that failed or may fail: all of the account that no acceptance of the same secret has cleared, or those
    /// of one place that no acceptance there has cleared.
    fn count(&self, only: Option<&Place>, purpose: Purpose, policy: &GuardPolicy, now_ms: u64) -> usize {
        let cleared = |entry: &Entry| {
            let clears = |at: &&PlaceRecord| match only {
                Some(place) => at.place == *place,
                None => at.place.secret == entry.place.secret,
            };
            self.places.iter().filter(clears).map(|at| at.accepted).max().unwrap_or(0)
        };
        let (mut alone, mut failed_in_flight, mut closed_in_flight) = (0, 0, 0);
        for entry in &self.attempts {
            let is_elsewhere = only.is_some_and(|place| entry.place != *place);
            if is_elsewhere || now_ms >= entry.counts_until_ms(policy) || entry.number <= cleared(entry) {
                continue;
            }
            match entry.outcome {
                Outcome::Reserved | Outcome::Failed => alone += 1,
                Outcome::FailedInFlight => failed_in_flight += 1,
                Outcome::ClosedInFlight => closed_in_flight += 1,
                Outcome::Undecided => {}
            }
        }
        let closes = if purpose.first_confirmation { 1 } else { policy.attempts };
        alone + failed_in_flight.min(policy.batch()) + closed_in_flight.min(closes)
    }

    fn under_way_until_ms(&self, now_ms: u64) -> Option<u64> {
        let under_way = self.attempts.iter().filter(|entry| entry.is_under_way(now_ms));
        under_way.map(|entry| entry.at_ms + millis(limits::GUARD_OUTCOME_WAIT)).min()
    }

    fn without_those_under_way(&self, now_ms: u64) -> Record {
        let mut without = self.clone();
        without.attempts.retain(|entry| !entry.is_under_way(now_ms));
        without
    }

    /// When the budget allows an attempt again if nothing more happens.
    fn free_at_ms(&self, place: &Place, purpose: Purpose, actor: &Actor<'_>) -> u64 {
        let (policy, now_ms) = (actor.policy, actor.now_ms);
        let attempts = self.attempts.iter().map(|entry| entry.counts_until_ms(policy));
        let mut ends_ms: Vec<u64> =
            attempts.chain(self.members.iter().map(|member| member.keeps_until_ms(policy))).collect();
        ends_ms.sort_unstable();
        let is_free = |at_ms: &u64| self.has_budget(place, purpose, 0, &Actor { now_ms: *at_ms, ..*actor });
        ends_ms.into_iter().find(is_free).unwrap_or(now_ms + millis(policy.window))
    }

    fn forget_old(&mut self, policy: &GuardPolicy, now_ms: u64) {
        // Times in the future are errors of a clock; they must not count for longer than the window.
        for entry in &mut self.attempts {
            entry.at_ms = entry.at_ms.min(now_ms);
        }
        for member in &mut self.members {
            member.at_ms = member.at_ms.min(now_ms);
        }
        let longest_ms = now_ms + millis(policy.window);
        self.places.iter_mut().for_each(|at| at.until_ms = at.until_ms.min(longest_ms));
        self.attempts.retain(|entry| now_ms < entry.counts_until_ms(policy));
    }

    /// Keeps the record small. What is dropped first is what matters least.
    fn bound(&mut self) {
        let accepted = |place: &Place| self.at(place).map_or(0, |at| at.accepted);
        let matters: Vec<bool> = self.attempts.iter().map(|entry| entry.number > accepted(&entry.place)).collect();
        let mut matters = matters.into_iter();
        self.attempts.retain(|entry| matters.next().unwrap_or(true) || entry.outcome == Outcome::Reserved);
        for of_many in [Outcome::Undecided, Outcome::FailedInFlight, Outcome::ClosedInFlight] {
            let count = self.attempts.iter().filter(|entry| entry.outcome == of_many).count();
            let mut surplus = count.saturating_sub(limits::GUARD_UNDECIDED);
            self.attempts.retain(|entry| {
                let is_surplus = surplus > 0 && entry.outcome == of_many;
                surplus -= usize::from(is_surplus);
                !is_surplus
            });
        }
        let surplus = self.attempts.len().saturating_sub(limits::GUARD_STORED_ATTEMPTS);
        self.attempts.drain(..surplus);
        let surplus = self.places.len().saturating_sub(limits::GUARD_STORED_PLACES);
        self.places.drain(..surplus);
    }
}
