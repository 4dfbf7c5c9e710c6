//! A password on its way from the previous one to the present one.
//!
//! While the domain has not got the new password yet, an upstream rejects the *present* secret and accepts the
//! *previous* one. Clients then use the previous one there, and the gateway tries the present one with handshakes of
//! its own (confirmations), for destinations that were accepted with the previous one. So no client's request is spent
//! on finding out, and a destination that the upstream's policy forbids says nothing about the present secret.
//!
//! Both secrets share the account's budget. A rejected one leaves an attempt for its counterpart, and an acceptance
//! with one clears the failures of the other, as it does at the domain controller.

use std::sync::Arc;

use super::attempt::{Failure, Strike};
use super::ledger::{At, Budget, Ledger, Ruling, Watcher};
use super::track::Track;
use super::{GuardPolicy, GuardState, KnownGood, Refusal};
use crate::limits::{self, millis};

impl Ledger {
    /// The secrets that replace a secret, or that it replaces.
    fn counterparts(&self, secret: u64) -> Vec<u64> {
        let of_watcher = |watcher: &Watcher| {
            let is_present = watcher.secret == secret;
            let present = (watcher.previous == Some(secret)).then_some(watcher.secret);
            watcher.previous.filter(|_| is_present).or(present)
        };
        self.watchers.iter().filter_map(of_watcher).collect()
    }

    /// The numbers of the latest accepted attempt with a secret or one of its counterparts.
    pub(super) fn accepted_number(&self, secret: u64) -> u64 {
        let counterparts = self.counterparts(secret);
        let of_account = |track: u64| track == secret || counterparts.contains(&track);
        let accepted = self.tracks.iter().filter(|track| of_account(track.secret));
        accepted.map(Track::accepted_number).max().unwrap_or(0)
    }

    /// Whether clients use the previous secret at this upstream.
    pub(super) fn uses_previous(&self, present: At<'_>, previous: u64, policy: &GuardPolicy, now_ms: u64) -> bool {
        let before = self.tracks.iter().position(|track| track.is_of(previous, present.upstream));
        let is_accepted = before.is_some_and(|before| self.is_accepted_at(before, policy, now_ms));
        let before = before.map(|before| &self.tracks[before]);
        let serves = before.is_some_and(|track| match track.state() {
            GuardState::Proven => true,
            GuardState::Unproven => track.is_in_confirmation(),
            GuardState::Refused => false,
        });
        match self.existing(present) {
            // Once the present secret has been accepted, the previous one has had its time.
            Some(track) if track.was_accepted() => false,
            Some(track) if track.held(now_ms).is_some() => {
                let is_untried = !self.is_known(previous) && before.is_none_or(|track| track.held(now_ms).is_none());
                serves || is_untried
            }
            _ if self.state_of(present.secret) == GuardState::Proven => is_accepted,
            _ => serves,
        }
    }

    /// Turns a request away, unless it is not known yet whether the secret or the destination is the reason and the
    /// request could be made with the other secret.
    pub(super) fn refuse_or_wait<T>(&mut self, index: usize, refusal: Refusal) -> Ruling<T> {
        if !self.is_under_review(index, refusal) {
            return Ruling::No(refusal);
        }
        self.tracks[index].has_waiters = true;
        Ruling::Wait
    }

    /// Why nothing may be sent for a destination yet, if so.
    pub(super) fn refuses(&self, at: At<'_>, destination: u64, now_ms: u64) -> Option<Refusal> {
        let index = self.tracks.iter().position(|track| track.is_of(at.secret, at.upstream))?;
        let refusal = self.tracks[index].refuses(now_ms, destination)?;
        (!self.is_under_review(index, refusal)).then_some(refusal)
    }

    fn is_under_review(&self, index: usize, refusal: Refusal) -> bool {
        let track = &self.tracks[index];
        let is_about_destination = matches!(refusal, Refusal::Barred(_));
        is_about_destination && track.is_in_confirmation() && !self.counterparts(track.secret).is_empty()
    }

    /// Asks for a handshake of the gateway's own with the present secret, if one may be made: clients use the previous
    /// one.
    pub(super) fn try_present(&mut self, index: usize, previous: u64, policy: &GuardPolicy) {
        let (secret, upstream) = (self.tracks[index].secret, Arc::clone(&self.tracks[index].upstream));
        let before = self.tracks.iter().position(|track| track.is_of(previous, &upstream));
        let known_good = before.map(|before| self.tracks[before].known_good()).unwrap_or_default();
        let track = &self.tracks[index];
        let is_idle = track.held(self.now_ms).is_none() && track.unanswered() == 0 && !track.is_in_confirmation();
        if is_idle && !self.is_spaced(secret) && self.budget(index, 0, policy) == Budget::Free {
            self.confirm_by(index, &known_good);
        }
    }

    /// Whether a request that was refused with the counterpart of this secret may be made with it. It must not be a
    /// second failed logon, so it waits until the secret is known to be accepted.
    pub(super) fn enter_after_refusal(&mut self, index: usize, destination: u64, policy: &GuardPolicy) -> Ruling<()> {
        let (now_ms, upstream) = (self.now_ms, Arc::clone(&self.tracks[index].upstream));
        let track = &self.tracks[index];
        if let Some(refusal) = track.refuses(now_ms, destination).filter(|_| track.held(now_ms).is_none()) {
            return Ruling::No(refusal);
        }
        if self.is_accepted(index, policy) {
            return Ruling::Go(());
        }
        let counterparts = self.counterparts(self.tracks[index].secret);
        let is_of = |secret: u64| secret == self.tracks[index].secret || counterparts.contains(&secret);
        let mut here = self.tracks.iter().filter(|track| *track.upstream == *upstream && is_of(track.secret));
        if here.any(Track::is_in_confirmation) {
            self.tracks[index].has_waiters = true;
            return Ruling::Wait;
        }
        Ruling::No(Refusal::held(self.tracks[index].held(now_ms).unwrap_or(0)))
    }

    /// An attempt for a destination was refused. If the secret is found rejected, or was never accepted, its
    /// counterpart decides with a handshake of the gateway's own:
    /// - a previous secret that is accepted is accepted once more, which clears the failure;
    /// - of two secrets that were never accepted, the other may be the right one;
    /// - if the previous one is no longer accepted, the domain has got the present one.
    pub(super) fn offer_counterpart(
        &mut self,
        index: usize,
        strike: Strike,
        refused: (u64, KnownGood),
        policy: &GuardPolicy,
    ) {
        let track = &self.tracks[index];
        let (secret, was_accepted) = (track.secret, track.was_accepted());
        if strike == Strike::None && was_accepted {
            return;
        }
        let (upstream, mut known_good) = (Arc::clone(&track.upstream), track.known_good());
        if known_good.is_empty() {
            known_good.push(refused);
        }
        for counterpart in self.counterparts(secret) {
            let other = self.track(At { secret: counterpart, upstream: &upstream }, policy);
            let is_known = self.tracks.iter().any(|track| track.secret == counterpart && track.was_accepted());
            let is_wanted = match self.tracks[other].state() {
                // In a store, failures of the other secret are not cleared.
                GuardState::Proven => self.books.is_none(),
                GuardState::Unproven => was_accepted || !is_known,
                GuardState::Refused => was_accepted || self.tracks[other].held(self.now_ms).is_none(),
            };
            if is_wanted && self.may_confirm(other, policy) {
                self.tracks[other].reopen();
                self.confirm_by(other, &known_good);
            }
        }
    }

    /// Whether the budget allows a confirmation; see [`Ledger::ask`].
    fn may_confirm(&mut self, index: usize, policy: &GuardPolicy) -> bool {
        let (is_first, unanswered) = (!self.tracks[index].was_struck(), self.canaries());
        let share = self.share_of_secret(index, policy);
        let is_within_share = share.is_none_or(|(most, failed_ms)| failed_ms.len() < most);
        let at_stake = self.batch_at_stake(index, policy);
        let failures = self.failures_against_confirmation(is_first, policy);
        is_within_share && failures + unanswered + at_stake < policy.attempts
    }

    fn confirm_by(&mut self, index: usize, known_good: &[(u64, KnownGood)]) {
        let now_ms = self.now_ms;
        let track = &mut self.tracks[index];
        if track.known_good().is_empty() {
            known_good.iter().for_each(|(destination, good)| track.borrow_known_good(*destination, good));
        }
        track.want_confirmation(now_ms);
    }

    /// How many failed attempts with one secret the budget allows, if that is fewer than for the account, and the times
    /// of those that there were, in ms, the oldest first.
    pub(super) fn share_of_secret(&mut self, index: usize, policy: &GuardPolicy) -> Option<(usize, Vec<u64>)> {
        if !self.has_serving_counterpart(index) {
            return None;
        }
        let (now_ms, secret) = (self.now_ms, self.tracks[index].secret);
        let of_secret = self.tracks.iter_mut().filter(|track| track.secret == secret);
        let mut failures: Vec<Failure> = Vec::new();
        of_secret.for_each(|track| failures.extend(track.failures(policy, now_ms)));
        let mut failed_ms: Vec<u64> = failures.iter().map(|failure| failure.at_ms).collect();
        failed_ms.sort_unstable();
        Some((policy.attempts - 1, failed_ms))
    }

    /// Whether the counterpart of a track's secret is accepted where this one was not.
    pub(super) fn has_serving_counterpart(&self, index: usize) -> bool {
        let secret = self.tracks[index].secret;
        let counterparts = self.counterparts(secret);
        let serves = |track: &Track| {
            let accepts_this = |own: &Track| own.is_of(secret, &track.upstream) && own.was_accepted();
            counterparts.contains(&track.secret)
                && track.state() == GuardState::Proven
                && !self.tracks.iter().any(accepts_this)
        };
        !counterparts.is_empty() && self.tracks.iter().any(serves)
    }

    /// Whether attempts with a secret that was never accepted are spaced, because many of them had no verdict: such an
    /// answer may hide a failed logon.
    pub(super) fn is_spaced(&self, secret: u64) -> bool {
        let last_ms = self.undecided_ms.back().copied().unwrap_or(0);
        !self.is_known(secret)
            && self.undecided_ms.len() >= limits::GUARD_UNDECIDED
            && self.now_ms < last_ms + millis(limits::GUARD_UNDECIDED_INTERVAL)
    }
}
