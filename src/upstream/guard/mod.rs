//! The credential guard: keeps a wrong password from locking an account.
//!
//! ```text
//!               accepted                     refused, or closed twice in a row
//!   Unproven ───────────────▶ Proven ───────────────────▶ Unproven (a confirmation decides)
//!      │ ▲ one attempt at a time                              │
//!      │ └──────────────── the rest is over ──────┐           │
//!      └──────── refused ─────────────────────▶ Refused ◀─────┘ refused
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `verdict` | what an answer says about the secret |
//! | `track` | what is known of one secret at one upstream |
//! | `attempt` | a logon attempt from its sending to its end |
//! | `room` | how many attempts may be unanswered at once |
//! | `suspects` | destinations that the upstream's policy may forbid |
//! | `confirmation` | when the gateway makes a handshake of its own |
//! | `ledger` | the budget of failed logons over everything that uses the account |
//! | `reservation` | how attempts are reserved in a store that several processes share |
//! | `succession` | a password on its way from the previous one to the present one |
//! | `account` | the accounts of a process: the lock of each, and the notification of its watchers |
//! | `destination` | destinations in all their spellings |
//!
//! **Verdicts.** A proxy that rejects a secret answers 407 with Proxy-Authenticate. Any other answer means that the
//! proxy accepted the secret, or did not check it. So an answer counts as *accepted* only if it comes from beyond the
//! proxy's authentication, for a destination that is known to demand it. All other answers are *undecided*: they
//! neither accept nor refuse.
//!
//! **Budget.** Failed attempts, plus unanswered ones that may have failed, number at most [`GuardPolicy::attempts`] in
//! [`GuardPolicy::window`] for an account. An acceptance clears earlier failures with the same secret
//! from that budget; an upstream's own failures count against that upstream until it accepts. Attempts that were sent
//! while the secret was accepted cannot be called back when it is no longer accepted; they count as one batch. How many
//! there can be is limited by what the last round trips needed.
//!
//! **Policy or password.** Some proxies answer 407 to requests that their policy forbids. A destination that is refused
//! while others are accepted becomes a suspect, and nothing is sent for it for a while. Then the gateway confirms the
//! secret with a handshake of its own for a destination that was accepted recently, so clients' requests for other
//! destinations cannot close the guard.
//!
//! Attempts are numbered in the order of sending: an acceptance that was sent before a refusal does not overrule it,
//! and a refusal that was sent before an acceptance is about its destination.

mod account;
mod attempt;
mod confirmation;
mod destination;
mod ledger;
mod reservation;
mod room;
mod succession;
mod suspects;
#[cfg(test)]
mod tests;
mod track;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use crate::limits;

use attempt::Attempted;
use ledger::{At, Outgoing, Ruling};

pub use account::{Account, Accounts};
pub use reservation::{AttemptEnd, Learned, Order, Reservation, SecretDigest, Store, Unreserved, Where, keyed_hash};
pub use verdict::Answer;

/// How many logon attempts the guard allows, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardPolicy {
    /// Most failed logons of an account within `window`; at least 2.
    pub attempts: usize,
    /// The sliding window over which `attempts` counts.
    pub window: Duration,
    /// How long nothing is sent after the first refusal.
    pub backoff: Duration,
    /// Each further rest is this many times as long as the one before, up to `window`.
    pub backoff_factor: u32,
    /// An attempt that has been unanswered for this long no longer holds the next one up. A refusal usually comes at
    /// once; what takes long is the upstream's connection to the origin.
    pub pending_wait: Duration,
    /// Once the last acceptance is older than this, one attempt goes out first and the others wait for its verdict. So
    /// the burst after a quiet night costs one failed logon, not many, if the password has changed.
    pub acceptance_age: Duration,
}

impl GuardPolicy {
    /// How long nothing is sent after so many refusals in a row.
    pub fn rest(&self, refusals: u32) -> Duration {
        let factor = self.backoff_factor.saturating_pow(refusals.saturating_sub(1));
        self.backoff.saturating_mul(factor).min(self.window)
    }

    /// How many attempts may be unanswered at once on a quiet gateway while the secret is accepted. If all of them
    /// fail, one is left to confirm that the secret is the reason, and one to retry later.
    pub fn batch(&self) -> usize {
        self.attempts.saturating_sub(2).max(1)
    }

    /// How many connections in a row must end without an answer before that may mean that the secret is rejected.
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
            pending_wait: limits::GUARD_PENDING_WAIT,
            acceptance_age: limits::GUARD_ACCEPTANCE_AGE,
        }
    }
}

/// What the guard knows about a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardState {
    /// The secret has not been accepted since the start, since it was changed, or since the last refusal.
    Unproven,
    /// The upstream accepts the secret.
    Proven,
    /// The upstream refused the secret; nothing is sent for a while.
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

/// What is left of an account's budget, and when the secret was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardStatus {
    /// Failed logons that the account may still cause in the current window.
    pub attempts_left: usize,
    /// When the latest accepted attempt was sent, at whichever upstream, in ms of the process's clock.
    pub accepted_ms: Option<u64>,
}

/// A change that is reported to an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardChange {
    /// The state at an upstream has changed.
    State {
        /// The upstream's name.
        upstream: Arc<str>,
        /// Its state now.
        at_upstream: GuardState,
        /// The state over all upstreams: *proven* if one accepts the secret, *refused* if all refuse it.
        overall: GuardState,
        /// How long nothing is sent to this upstream; zero unless its state is *refused*.
        rest: Duration,
        /// Changes may arrive out of order: one with a lower number than an earlier one is out of date.
        number: u64,
    },
    /// A confirmation is wanted: call [`Guard::take_confirmation`].
    WantsConfirmation,
    /// Waiting requests may ask again.
    MayProceed,
}

/// Whether an upstream may be dialled for a request; see [`Guard::enter`].
#[derive(Debug)]
pub enum DialPermission {
    /// Dial.
    Go,
    /// Dial; other requests wait until this one has asked for its attempt, or the scout is dropped.
    Scout(Scout),
    /// Another handshake goes first; ask again after the next change.
    Wait,
    /// Nothing may be sent yet.
    No(Refusal),
}

impl DialPermission {
    fn of(ruling: Ruling<Option<Scout>>) -> DialPermission {
        match ruling {
            Ruling::Go(None) => DialPermission::Go,
            Ruling::Go(Some(scout)) => DialPermission::Scout(scout),
            Ruling::Wait => DialPermission::Wait,
            Ruling::No(refusal) => DialPermission::No(refusal),
        }
    }
}

/// Whether an AUTHENTICATE_MESSAGE may be sent; see [`Guard::ask`].
#[derive(Debug)]
pub enum SendPermission {
    /// Send it, and settle the ticket with the answer.
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
    /// The secret was refused for this destination, but is or was accepted for others.
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

/// The request for which an AUTHENTICATE_MESSAGE is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct AttemptRequest<'a> {
    /// The upstream's name.
    pub upstream: &'a Arc<str>,
    /// The request's method.
    pub method: &'a str,
    /// `host:port` of the origin.
    pub destination: &'a str,
    /// The upstream answered this very request with 407.
    pub challenged: bool,
    /// It is a confirmation, from [`Guard::take_confirmation`].
    pub confirms: bool,
}

/// A destination that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownGood {
    /// `host:port`. Shared, because the same few destinations are accepted again and again.
    pub destination: Arc<str>,
    /// It was accepted for a CONNECT, not for a plain request.
    pub by_connect: bool,
}

/// Called for every change that may let a waiting request go on, on the thread that caused it. It must not block, and
/// must not call the guard.
type OnChange = Arc<dyn Fn(&GuardChange) + Send + Sync>;

/// The guard of one identity: its secret, at all upstreams. Identities with the same account and secret share what is
/// known about it.
pub struct Guard {
    account: Arc<Account>,
    secret: u64,
    /// The secret that this one replaces.
    previous: Option<u64>,
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
    /// The guard of an identity that uses `account` with the secret of this fingerprint ([`Account::fingerprint`]).
    /// `on_change` is called for every change to that secret, on the thread that caused it, until the guard is dropped;
    /// it must not block, and must not call the guard.
    pub fn of(
        account: Arc<Account>,
        secret: u64,
        on_change: impl Fn(&GuardChange) + Send + Sync + 'static,
    ) -> Arc<Guard> {
        Guard::replacing(account, secret, None, on_change)
    }

    /// As [`Guard::of`], for a secret that replaces the one of the fingerprint `previous`, which is used where this one
    /// is not accepted yet.
    pub fn replacing(
        account: Arc<Account>,
        secret: u64,
        previous: Option<u64>,
        on_change: impl Fn(&GuardChange) + Send + Sync + 'static,
    ) -> Arc<Guard> {
        let watcher = account.watch(secret, previous, Arc::new(on_change));
        Arc::new(Guard { account, secret, previous, watcher })
    }

    /// Whether clients have to use the previous secret at an upstream, because it does not accept this one yet.
    pub fn uses_previous(&self, now_ms: u64, upstream: &Arc<str>) -> bool {
        self.previous.is_some_and(|previous| self.account.uses_previous(self.at(upstream), previous, now_ms))
    }

    /// As [`Guard::uses_previous`], for a client's request: then the gateway also tries this secret, if it is time.
    pub fn select_previous(&self, now_ms: u64, upstream: &Arc<str>) -> bool {
        let Some(previous) = self.previous else { return false };
        let uses_previous = self.account.uses_previous(self.at(upstream), previous, now_ms);
        if uses_previous {
            self.account.try_present(self.at(upstream), previous, now_ms);
        }
        uses_previous
    }

    /// The state over all upstreams, see [`GuardChange::State`]. It stays *refused* after the rest is over, until the
    /// next attempt; see [`Guard::held`].
    pub fn state(&self) -> GuardState {
        self.account.lock().state_of(self.secret)
    }

    /// Whether there is a store, and it is out of reach.
    pub fn lacks_store(&self) -> bool {
        self.account.lacks_store()
    }

    /// What is left of the budget, and when the secret was accepted.
    pub fn status(&self, now_ms: u64) -> GuardStatus {
        self.account.status(self.secret, now_ms)
    }

    /// Whether an upstream accepted the secret recently ([`GuardPolicy::acceptance_age`]) and nothing has cast doubt on
    /// it since.
    pub fn is_accepted(&self, now_ms: u64, upstream: &Arc<str>) -> bool {
        self.account.is_accepted(self.at(upstream), now_ms)
    }

    /// The secret is going to be used at this upstream: learns from the store what is known of it, if there is one.
    pub fn expect(&self, upstream: &Arc<str>) {
        self.account.expect(self.at(upstream));
    }

    /// How long nothing may be sent to an upstream; `None` if the guard is not closed there.
    pub fn held(&self, now_ms: u64, upstream: &Arc<str>) -> Option<Duration> {
        self.account.lock().existing(self.at(upstream))?.held(now_ms).map(Duration::from_millis)
    }

    /// Whether an upstream has accepted the secret at some time.
    pub fn was_accepted(&self, upstream: &Arc<str>) -> bool {
        self.account.lock().existing(self.at(upstream)).is_some_and(track::Track::was_accepted)
    }

    /// The upstream accepts no connections now. Connections that it closed without an answer are then no sign that it
    /// rejects the secret.
    pub fn unreachable(&self, upstream: &Arc<str>) {
        self.account.unreachable(self.at(upstream));
    }

    /// Why nothing may be sent for this destination (`host:port`) yet, if so.
    pub fn refuses(&self, now_ms: u64, upstream: &Arc<str>, method: &str, destination: &str) -> Option<Refusal> {
        self.account.refuses(self.at(upstream), now_ms, method, destination)
    }

    /// Asks to dial for a request. A request that has to wait does so before it dials, so that it occupies no helper of
    /// the proxy meanwhile.
    pub fn enter(
        self: &Arc<Guard>,
        now_ms: u64,
        upstream: &Arc<str>,
        method: &str,
        destination: &str,
    ) -> DialPermission {
        let scout = |number| Scout { guard: Arc::clone(self), upstream: Arc::clone(upstream), number };
        let ruling = self.account.enter(self.at(upstream), now_ms, method, destination);
        DialPermission::of(ruling.map(|number| number.map(scout)))
    }

    /// As [`Guard::enter`], for a request that was refused with the secret before or after this one. It must not be a
    /// second failed logon, so it waits until it is known whether this secret is accepted.
    pub fn enter_after_refusal(
        &self,
        now_ms: u64,
        upstream: &Arc<str>,
        method: &str,
        destination: &str,
    ) -> DialPermission {
        let destination = self.account.destination(method, destination);
        let ruling = self.account.enter_after_refusal(self.at(upstream), now_ms, destination);
        DialPermission::of(ruling.map(|()| None))
    }

    /// Asks to send one AUTHENTICATE_MESSAGE.
    pub fn ask(self: &Arc<Guard>, now_ms: u64, request: &AttemptRequest<'_>) -> SendPermission {
        match self.account.ask(self.at(request.upstream), now_ms, request) {
            Ruling::Wait => SendPermission::Wait,
            Ruling::No(refusal) => SendPermission::No(refusal),
            Ruling::Go(Outgoing { number, destination, known_good, demands, sent_while_accepted, reservation }) => {
                SendPermission::Go(Ticket {
                    guard: Arc::clone(self),
                    upstream: Arc::clone(request.upstream),
                    attempt: Attempted {
                        number,
                        sent_ms: now_ms,
                        destination,
                        sent_while_accepted,
                        confirms: request.confirms,
                        challenged: request.challenged,
                        reservation,
                    },
                    demands,
                    good: KnownGood {
                        destination: known_good.unwrap_or_else(|| request.destination.into()),
                        by_connect: request.method == "CONNECT",
                    },
                    settled: false,
                })
            }
        }
    }

    /// Whether a confirmation is wanted at an upstream, now or soon.
    pub fn wants_confirmation(&self, upstream: &Arc<str>) -> bool {
        self.account.lock().existing(self.at(upstream)).is_some_and(track::Track::wants_confirmation)
    }

    /// Takes the confirmation that is wanted at an upstream and may begin now. The caller has to make the handshake.
    pub fn take_confirmation(self: &Arc<Guard>, now_ms: u64, upstream: &Arc<str>) -> Option<Confirmation> {
        let good = self.account.take_confirmation(self.at(upstream), now_ms)?;
        Some(Confirmation { guard: Arc::clone(self), upstream: Arc::clone(upstream), good })
    }

    fn at<'a>(&self, upstream: &'a Arc<str>) -> At<'a> {
        At { secret: self.secret, upstream }
    }
}

/// The right to dial while other requests wait. Dropping it gives it back.
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

/// A handshake of the gateway's own that decides about the secret. Other requests wait until it is dropped.
#[derive(Debug)]
pub struct Confirmation {
    guard: Arc<Guard>,
    upstream: Arc<str>,
    good: KnownGood,
}

impl Confirmation {
    /// The destination to ask for.
    pub fn good(&self) -> &KnownGood {
        &self.good
    }
}

impl Drop for Confirmation {
    fn drop(&mut self) {
        self.guard.account.end_confirmation(self.guard.at(&self.upstream));
    }
}

/// The right to send one AUTHENTICATE_MESSAGE. Dropping it without an answer counts as undecided.
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
    /// The attempt is over, with this answer.
    pub fn settle(mut self, now_ms: u64, answer: Answer) {
        self.settled = true;
        let at = self.guard.at(&self.upstream);
        self.guard.account.settle(at, now_ms, &self.attempt, answer, self.demands, &self.good);
    }

    /// No AUTHENTICATE_MESSAGE was sent, because the challenge could not be answered. The attempt does not count.
    pub fn unused(mut self) {
        self.settled = true;
        self.guard.account.take_back(self.guard.at(&self.upstream), &self.attempt);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.guard.account.abandon(self.guard.at(&self.upstream), &self.attempt);
        }
    }
}

/// How long it is until `until_ms`; `None` once it is reached.
fn rest_until(until_ms: u64, now_ms: u64) -> Option<u64> {
    until_ms.checked_sub(now_ms).filter(|rest_ms| *rest_ms > 0)
}
