//! The credential guard: what keeps a wrong password from locking an account.
//!
//! ```text
//!               accepted                     refused, or no answer twice
//!   Unproven ───────────────▶ Proven ───────────────────▶ Unproven (a handshake of the gateway's own decides)
//!      │ ▲ one attempt at a time                              │
//!      │ └──────────────── the rest is over ──────┐           │
//!      └──────── refused ─────────────────────▶ Refused ◀─────┘ refused
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `verdict` | what an answer says about the secret |
//! | `track` | what is known of one secret at one upstream |
//! | `ledger` | the budget of failed logons, over everything that uses the account |
//! | `account` | the accounts of a process; the lock and the news of each |
//! | `destination` | destinations in all their spellings |
//!
//! **Verdicts.** A proxy that rejects a secret answers 407 with Proxy-Authenticate. Anything else means that the secret was accepted, or not
//! looked at; so only answers that come from behind the authentication, for a destination that is known to demand it, accept. The rest is
//! *undecided*: it neither proves nor refuses.
//!
//! **Budget.** Failed attempts, and those without an answer that may have failed, are at most [`GuardPolicy::attempts`] in
//! [`GuardPolicy::window`] for an account. Only an acceptance at the same upstream takes failures back. What was sent while the secret was accepted
//! cannot be called back when it stops being; it counts as one batch. How much may be on its way then is bounded by what the last round trips needed.
//!
//! **Policy or password.** Some proxies answer 407 to what their policy forbids. A destination that is refused while others are accepted becomes a
//! suspect and gets nothing sent for a while. Then the gateway confirms the secret by a handshake of its own for a destination that was accepted
//! lately: clients' requests for other destinations cannot close the guard.
//!
//! Attempts are numbered in the order of sending: an acceptance that was sent before a refusal does not overrule it, and a refusal that
//! was sent before an acceptance is about its destination.

mod account;
mod destination;
mod ledger;
#[cfg(test)]
mod tests;
mod track;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use crate::limits;

use ledger::{At, Decision, Outgoing};
use track::Attempted;

pub use account::{Account, Accounts};
pub use verdict::Answer;

/// How many attempts the guard allows, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardPolicy {
    /// Failed logons within `window` at the most; at least 2.
    pub attempts: usize,
    /// The sliding window that `attempts` speaks of.
    pub window: Duration,
    /// Rest after the first refusal.
    pub backoff: Duration,
    /// Each further rest is this many times as long, up to `window`.
    pub backoff_factor: u32,
    /// An attempt that has had no answer for so long no longer holds the next one up. A refusal usually comes at once; what takes long is
    /// the upstream's way to the origin.
    pub patience: Duration,
    /// A proof that is older than this, and was not renewed since, is tested by one attempt before all go: the burst after a quiet
    /// night must not find out together that the password has changed.
    pub proof_age: Duration,
}

impl GuardPolicy {
    /// The rest after so many refusals in a row.
    fn rest(&self, refusals: u32) -> Duration {
        let factor = self.backoff_factor.saturating_pow(refusals.saturating_sub(1));
        self.backoff.saturating_mul(factor).min(self.window)
    }

    /// How many attempts may be without an answer on a quiet gateway while the secret is accepted. If they fail, one is left to confirm that it is the
    /// secret, and one to try again.
    fn batch(&self) -> usize {
        self.attempts.saturating_sub(2).max(1)
    }

    /// How many connections in a row may end without an answer before that is taken for a way to reject the secret.
    fn closes(&self) -> usize {
        self.attempts.saturating_sub(1).clamp(1, 2)
    }
}

impl Default for GuardPolicy {
    fn default() -> Self {
        GuardPolicy {
            attempts: limits::GUARD_ATTEMPTS,
            window: limits::GUARD_WINDOW,
            backoff: limits::GUARD_BACKOFF,
            backoff_factor: limits::GUARD_BACKOFF_FACTOR,
            patience: limits::GUARD_PENDING_WAIT,
            proof_age: limits::GUARD_ACCEPTANCE_AGE,
        }
    }
}

/// What the guard knows of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardState {
    /// Nothing has been accepted since the start, the change of the secret, or the last refusal.
    Unproven,
    /// The upstream accepts the secret.
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

/// What an identity is told about its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardChange {
    /// The state at an upstream has changed.
    State {
        /// Which upstream, by name.
        upstream: Arc<str>,
        /// Its state now.
        at_upstream: GuardState,
        /// What the states at all upstreams amount to: *proven* where one accepts the secret, *refused* where all refuse it.
        overall: GuardState,
        /// How long nothing is sent to this upstream.
        rest: Duration,
        /// Changes are told in no particular order: one with a lower number than the last is out of date.
        number: u64,
    },
    /// [`Guard::take_confirmation`] has something to do.
    WantsConfirmation,
    /// Those who wait may ask again.
    Freed,
}

/// The answer to a request that wants to be dialled for.
#[derive(Debug)]
pub enum Entry {
    /// Dial.
    Go,
    /// Dial; nobody else will until this one has asked for its attempt, or is dropped.
    Scout(Scout),
    /// Another handshake goes first; ask again after the next change.
    Wait,
    /// Nothing may be sent yet.
    No(Refusal),
}

/// The answer to a request to send an AUTHENTICATE_MESSAGE.
#[derive(Debug)]
pub enum Permission {
    /// Send it, and tell the ticket what came of it.
    Go(Ticket),
    /// Another attempt goes first; ask again after the next change.
    Wait,
    /// Nothing may be sent yet.
    No(Refusal),
}

/// Why no AUTHENTICATE_MESSAGE may be sent, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The secret was refused.
    Held(Duration),
    /// It was refused for this destination, and is or was accepted for others.
    Barred(Duration),
}

impl Refusal {
    fn held(rest_ms: u64) -> Refusal {
        Refusal::Held(Duration::from_millis(rest_ms))
    }

    fn barred(rest_ms: u64) -> Refusal {
        Refusal::Barred(Duration::from_millis(rest_ms))
    }
}

/// What an AUTHENTICATE_MESSAGE is sent for.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The upstream's name.
    pub upstream: &'a Arc<str>,
    /// The request's method.
    pub method: &'a str,
    /// `host:port` of the origin.
    pub destination: &'a str,
    /// This very request was answered with 407.
    pub challenged: bool,
    /// It is the gateway's own, from [`Guard::take_confirmation`].
    pub confirms: bool,
}

/// A destination that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownGood {
    /// `host:port`.
    pub destination: Box<str>,
    /// By CONNECT, and not by a plain request.
    pub by_connect: bool,
}

/// Told every change that may let a waiter go on, from the thread that caused it; it must not block and not call the guard.
type OnChange = Arc<dyn Fn(&GuardChange) + Send + Sync>;

/// The guard of one identity: its secret, at all upstreams. Identities with the same account and secret share what is known.
pub struct Guard {
    account: Arc<Account>,
    secret: u64,
    watcher: u64,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Guard").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.account.unwatch(self.watcher);
    }
}

impl Guard {
    /// The guard of an identity that uses `account` with a secret of this fingerprint ([`Account::fingerprint`]).
    pub fn of(
        account: Arc<Account>,
        secret: u64,
        on_change: impl Fn(&GuardChange) + Send + Sync + 'static,
    ) -> Arc<Guard> {
        let watcher = account.watch(secret, Arc::new(on_change));
        Arc::new(Guard { account, secret, watcher })
    }

    /// What the states at all upstreams amount to. *Refused* lasts until somebody asks again, though its time may be over: see
    /// [`Guard::held`].
    pub fn state(&self) -> GuardState {
        self.account.lock().state_of(self.secret)
    }

    /// Whether an upstream accepted the secret lately, and nothing casts doubt on it since.
    pub fn is_fresh(&self, now_ms: u64, upstream: &Arc<str>) -> bool {
        self.account.is_fresh(self.at(upstream), now_ms)
    }

    /// How long nothing may be sent to an upstream yet, if so.
    pub fn held(&self, now_ms: u64, upstream: &Arc<str>) -> Option<Duration> {
        self.account.lock().existing(self.at(upstream))?.held(now_ms).map(Duration::from_millis)
    }

    /// Whether an upstream has accepted the secret at some time.
    pub fn was_proven(&self, upstream: &Arc<str>) -> bool {
        self.account.lock().existing(self.at(upstream)).is_some_and(track::Track::was_proven)
    }

    /// The upstream takes no connections now. What it closed without an answer before is no sign that it rejects the secret.
    pub fn unreachable(&self, upstream: &Arc<str>) {
        self.account.unreachable(self.at(upstream));
    }

    /// Whether nothing may be sent for this destination yet.
    pub fn refuses(&self, now_ms: u64, upstream: &Arc<str>, method: &str, destination: &str) -> Option<Refusal> {
        let destination = self.account.destination(method, destination);
        self.account.lock().existing(self.at(upstream))?.refuses(now_ms, destination)
    }

    /// Asks to dial for a request, so that whoever has to wait does so before a helper of the proxy waits for it.
    pub fn enter(self: &Arc<Guard>, now_ms: u64, upstream: &Arc<str>, method: &str, destination: &str) -> Entry {
        let destination = self.account.destination(method, destination);
        match self.account.enter(self.at(upstream), now_ms, destination) {
            Decision::Go(None) => Entry::Go,
            Decision::Go(Some(number)) => {
                Entry::Scout(Scout { guard: Arc::clone(self), upstream: Arc::clone(upstream), number })
            }
            Decision::Wait => Entry::Wait,
            Decision::No(refusal) => Entry::No(refusal),
        }
    }

    /// Asks to send one AUTHENTICATE_MESSAGE.
    pub fn ask(self: &Arc<Guard>, now_ms: u64, asking: &Asking<'_>) -> Permission {
        match self.account.ask(self.at(asking.upstream), now_ms, asking) {
            Decision::Wait => Permission::Wait,
            Decision::No(refusal) => Permission::No(refusal),
            Decision::Go(Outgoing { number, destination, demands, was_fresh }) => Permission::Go(Ticket {
                guard: Arc::clone(self),
                upstream: Arc::clone(asking.upstream),
                attempt: Attempted {
                    number,
                    sent_ms: now_ms,
                    destination,
                    was_fresh,
                    confirms: asking.confirms,
                    challenged: asking.challenged,
                },
                demands,
                good: KnownGood { destination: asking.destination.into(), by_connect: asking.method == "CONNECT" },
                settled: false,
            }),
        }
    }

    /// Whether a handshake of the gateway's own is wanted at an upstream, now or soon.
    pub fn wants_confirmation(&self, upstream: &Arc<str>) -> bool {
        self.account.lock().existing(self.at(upstream)).is_some_and(track::Track::wants_confirmation)
    }

    /// The handshake of the gateway's own that is wanted at an upstream and may begin now: whoever gets it makes it.
    pub fn take_confirmation(self: &Arc<Guard>, now_ms: u64, upstream: &Arc<str>) -> Option<Confirmation> {
        let good = self.account.take_confirmation(self.at(upstream), now_ms)?;
        Some(Confirmation { guard: Arc::clone(self), upstream: Arc::clone(upstream), good })
    }

    fn at<'a>(&self, upstream: &'a Arc<str>) -> At<'a> {
        At { secret: self.secret, upstream }
    }
}

/// The right to dial while others wait. Given back by dropping it.
#[derive(Debug)]
pub struct Scout {
    guard: Arc<Guard>,
    upstream: Arc<str>,
    number: u64,
}

impl Drop for Scout {
    fn drop(&mut self) {
        self.guard.account.end_scout(self.guard.at(&self.upstream), self.number);
    }
}

/// The handshake of the gateway's own that decides about the secret. Others wait until it is dropped.
#[derive(Debug)]
pub struct Confirmation {
    guard: Arc<Guard>,
    upstream: Arc<str>,
    good: KnownGood,
}

impl Confirmation {
    /// What to ask for.
    pub fn good(&self) -> &KnownGood {
        &self.good
    }
}

impl Drop for Confirmation {
    fn drop(&mut self) {
        self.guard.account.end_confirmation(self.guard.at(&self.upstream));
    }
}

/// The right to send one AUTHENTICATE_MESSAGE. Dropped without an answer, it tells nothing.
#[derive(Debug)]
pub struct Ticket {
    guard: Arc<Guard>,
    upstream: Arc<str>,
    attempt: Attempted,
    demands: bool,
    good: KnownGood,
    settled: bool,
}

impl Ticket {
    /// The attempt is over.
    pub fn settle(mut self, now_ms: u64, answer: Answer) {
        self.settled = true;
        let good = KnownGood { destination: std::mem::take(&mut self.good.destination), ..self.good };
        let at = self.guard.at(&self.upstream);
        self.guard.account.settle(at, now_ms, &self.attempt, answer, self.demands, good);
    }

    /// No AUTHENTICATE_MESSAGE was sent: the challenge could not be answered.
    pub fn unused(mut self) {
        self.settled = true;
        self.guard.account.take_back(self.guard.at(&self.upstream), self.attempt.number);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.guard.account.abandon(self.guard.at(&self.upstream), &self.attempt);
        }
    }
}
