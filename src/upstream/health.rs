//! Whether clients are sent to an upstream.
//!
//! Faults on clients' requests eject an upstream. How many it takes depends on what failed:
//!
//! 1. It accepts no connection, or does not answer a request that needs no origin: the upstream is at fault. It is
//!    ejected after [`limits::EJECT_AFTER`] such faults in a row.
//! 2. It fails a request that another upstream then serves: the same.
//! 3. It fails a request before it has sent a challenge, for example by closing the connection: its policy may forbid
//!    the destination. It is ejected if it also fails a probe for a name that does not exist.
//! 4. It fails a request after its challenge, or one that may be waiting for its origin: its policy or the origin may
//!    be the reason. It is ejected when [`limits::EJECT_AFTER`] *destinations* have failed and none has succeeded for
//!    [`limits::EJECT_DOUBTFUL_AFTER`].
//!
//! While an upstream is on probation, one fault of the first three kinds is enough. An ejected upstream rests, is
//! checked, and comes back on probation once a check passes; each further ejection without a success in between rests
//! twice as long. A client that finds every upstream ejected hurries the check. It is itself sent to an upstream that
//! still answers, at a bounded rate ([`Health::claim_trial`]); the first success brings that upstream back.

mod destinations;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limits::{self, millis};

use destinations::{CutOff, Suspects};

/// A change that is reported to the owner of the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// Clients are no longer sent there, and why.
    Ejected(String),
    /// Clients are sent there again: a check has passed, or a client was served.
    Returned,
    /// Clients are still sent there, but the upstream is to be probed.
    Doubted,
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFailure {
    /// What failed, in words.
    pub why: String,
    /// The upstream answered something before it failed, so clients may fare better.
    pub answers: bool,
}

/// The health of one upstream, shared by all shards and its checker.
pub struct Health {
    /// A copy of `down.is_none()`, which most callers read without the lock.
    up: AtomicBool,
    /// Nothing has failed since the last success, so a further success changes nothing.
    spotless: AtomicBool,
    /// `cut_off` may have entries.
    cuts: AtomicBool,
    /// The upstream is no longer in the configuration.
    retired: AtomicBool,
    inner: Mutex<Inner>,
    on_change: Box<dyn Fn(&HealthChange) + Send + Sync>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Consecutive faults of the upstream itself.
    failures: u32,
    suspects: Suspects,
    probe: Probe,
    /// Kept when others succeed.
    cut_off: CutOff,
    /// Ejections and failed checks since the last success.
    ejections: u32,
    /// A check has passed since the last ejection, but no client has been served.
    on_probation: bool,
    down: Option<Down>,
}

/// Consecutive faults that came before a challenge.
#[derive(Debug, Default)]
struct Probe {
    faults: u32,
    /// The checker is to probe the upstream.
    is_due: bool,
    /// The earliest time of the next probe, in ms.
    next_ms: u64,
}

/// An ejected upstream.
#[derive(Debug)]
struct Down {
    why: String,
    last_check_ms: u64,
    next_check_ms: u64,
    /// As far as is known it accepts connections and answers: clients may be sent there while no other upstream is up.
    answers: bool,
    /// How often clients may try it whose destination has not failed there.
    trials: TrialRate,
}

/// Limits how often clients try an ejected upstream.
#[derive(Debug, Default)]
struct TrialRate {
    /// When the next one is due, in ms.
    next_ms: u64,
}

impl TrialRate {
    /// Takes a turn if one is due: one every `rest`, up to `burst` at once after a pause.
    fn claim(&mut self, now_ms: u64, rest: Duration, burst: u32) -> bool {
        let is_due = self.next_ms <= now_ms + millis(rest * (burst - 1));
        if is_due {
            self.next_ms = now_ms.max(self.next_ms) + millis(rest);
        }
        is_due
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Health").field("inner", &*self.lock()).finish_non_exhaustive()
    }
}

impl Health {
    /// Starts as up. `on_change` is called for each change, on the thread that caused it; it must not block, and must
    /// not call this.
    pub fn new(on_change: impl Fn(&HealthChange) + Send + Sync + 'static) -> Health {
        Health {
            up: AtomicBool::new(true),
            spotless: AtomicBool::new(true),
            cuts: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            inner: Mutex::default(),
            on_change: Box::new(on_change),
        }
    }

    /// Whether clients are sent there.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Why it is ejected, if it is.
    pub fn why_down(&self) -> Option<String> {
        self.lock().down.as_ref().map(|down| down.why.clone())
    }

    /// A client was served, or got the best answer that the upstream can give without its origin. Brings an ejected
    /// upstream back, unless it accepts no connections: then that client was connected before.
    pub fn succeeded(&self) {
        if self.spotless.load(Ordering::Relaxed) {
            return;
        }
        let mut inner = self.lock();
        if inner.down.as_ref().is_some_and(|down| !down.answers) || self.retired.load(Ordering::Relaxed) {
            return;
        }
        let was_down = inner.down.is_some();
        *inner = Inner { cut_off: std::mem::take(&mut inner.cut_off), ..Inner::default() };
        self.spotless.store(true, Ordering::Relaxed);
        self.up.store(true, Ordering::Relaxed);
        drop(inner);
        if was_down {
            (self.on_change)(&HealthChange::Returned);
        }
    }

    /// The upstream is no longer in the configuration: no change is reported any more, and nothing is checked.
    /// Established tunnels may still refer to it for a long time.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.lock().down = None;
    }

    /// It accepted no connection, or did not answer a request that needs no origin.
    pub fn failed(&self, now_ms: u64, why: &str) {
        self.note(now_ms, why, false, Inner::own_fault);
    }

    /// It failed a request that another upstream then served: the destination was not the reason.
    pub fn failed_where_another_served(&self, now_ms: u64, why: &str) {
        self.note(now_ms, why, true, Inner::own_fault);
    }

    /// It failed a request for `destination` (`host:port`) after its challenge. The reason may be its policy for that
    /// destination.
    pub fn failed_after_challenge(&self, now_ms: u64, destination: &str, why: &str) {
        self.note(now_ms, why, true, |inner| inner.suspects.add(now_ms, destination));
    }

    /// It failed a request for `destination` (`host:port`) before it sent a challenge. The reason may be its policy for
    /// that destination; [`limits::EJECT_AFTER`] such faults in a row lead to a probe.
    pub fn failed_before_challenge(&self, now_ms: u64, destination: &str, why: &str) {
        let mut is_due = false;
        self.note(now_ms, why, true, |inner| {
            // For the rate of trials, in case it is ejected.
            inner.suspects.add(now_ms, destination);
            inner.cut_off.add(now_ms, destination);
            self.cuts.store(true, Ordering::Relaxed);
            is_due = inner.probe.add(now_ms, inner.on_probation) && inner.down.is_none();
            false
        });
        if is_due {
            (self.on_change)(&HealthChange::Doubted);
        }
    }

    /// Whether it recently failed requests for this destination before it sent a challenge. A pre-challenged connection
    /// would then only waste a logon.
    pub fn cuts_off(&self, now_ms: u64, destination: &str) -> bool {
        if !self.cuts.load(Ordering::Relaxed) {
            return false;
        }
        let mut inner = self.lock();
        inner.cut_off.expire(now_ms);
        self.cuts.store(!inner.cut_off.is_empty(), Ordering::Relaxed);
        inner.cut_off.contains(destination)
    }

    /// Whether it is to be probed: asked for a name that does not exist.
    pub fn wants_probe(&self) -> bool {
        let inner = self.lock();
        inner.probe.is_due && inner.down.is_none()
    }

    /// A probe is over. If the upstream answered it, the reason for the faults was their destinations; otherwise it is
    /// ejected.
    pub fn probed(&self, now_ms: u64, outcome: Result<(), CheckFailure>) {
        let mut inner = self.lock();
        (inner.probe.is_due, inner.probe.faults) = (false, 0);
        drop(inner);
        if let Err(CheckFailure { why, answers }) = outcome {
            self.note(now_ms, &why, answers, |_| true);
        }
    }

    /// Records a fault, and ejects the upstream if `is_enough` says so. `answers` as in [`Down`].
    fn note(&self, now_ms: u64, why: &str, answers: bool, is_enough: impl FnOnce(&mut Inner) -> bool) {
        let mut inner = self.lock();
        if self.retired.load(Ordering::Relaxed) {
            return;
        }
        self.spotless.store(false, Ordering::Relaxed);
        let is_enough = is_enough(&mut inner);
        if let Some(down) = &mut inner.down {
            down.answers &= answers;
            return;
        }
        if !is_enough {
            return;
        }
        let next_check_ms = now_ms + rest_ms(inner.ejections);
        inner.ejections = inner.ejections.saturating_add(1);
        inner.on_probation = false;
        let (why_down, trials) = (why.to_owned(), TrialRate::default());
        inner.down = Some(Down { why: why_down, last_check_ms: now_ms, next_check_ms, answers, trials });
        self.up.store(false, Ordering::Relaxed);
        drop(inner);
        (self.on_change)(&HealthChange::Ejected(why.to_owned()));
    }

    /// Ejections and failed checks since the last success: of several ejected upstreams, the one with the fewest is
    /// tried. `None` if it is up, or if only a check can bring it back.
    pub fn trial_rank(&self) -> Option<u32> {
        let inner = self.lock();
        inner.down.as_ref().filter(|down| down.answers).map(|_| inner.ejections)
    }

    /// Claims the right to send one client to it although it is ejected, because no other upstream is up. The rate is
    /// bounded ([`limits::TRIAL_INTERVAL`]). A destination that has failed has a lower rate of its own
    /// ([`limits::SUSPECT_TRIAL_INTERVAL`]), so it does not take the turns of others.
    pub fn claim_trial(&self, now_ms: u64, destination: &str) -> bool {
        let mut inner = self.lock();
        let Inner { suspects, down, .. } = &mut *inner;
        let Some(down) = down.as_mut().filter(|down| down.answers) else { return false };
        match suspects.trials_of(destination) {
            Some(trials) => trials.claim(now_ms, limits::SUSPECT_TRIAL_INTERVAL, 1),
            None => down.trials.claim(now_ms, limits::TRIAL_INTERVAL, limits::TRIAL_BURST),
        }
    }

    /// A client found no upstream that is up: the next check follows [`limits::CHECK_DELAY`] after the last one.
    pub fn hurry(&self) {
        if let Some(down) = &mut self.lock().down {
            down.next_check_ms = down.next_check_ms.min(down.last_check_ms + millis(limits::CHECK_DELAY));
        }
    }

    /// How long until the next check, in ms; `None` while it is up.
    pub fn next_check_in_ms(&self, now_ms: u64) -> Option<u64> {
        self.lock().down.as_ref().map(|down| down.next_check_ms.saturating_sub(now_ms))
    }

    /// A check is over. If it passed, the upstream comes back on probation.
    pub fn checked(&self, now_ms: u64, outcome: Result<(), CheckFailure>) {
        let mut inner = self.lock();
        let rest_ms = rest_ms(inner.ejections);
        let Some(down) = &mut inner.down else { return };
        match outcome {
            Ok(()) => {
                inner.down = None;
                inner.failures = 0;
                inner.on_probation = true;
                self.up.store(true, Ordering::Relaxed);
                drop(inner);
                (self.on_change)(&HealthChange::Returned);
            }
            Err(failure) => {
                (down.why, down.answers) = (failure.why, failure.answers);
                down.last_check_ms = now_ms;
                down.next_check_ms = now_ms + rest_ms;
                inner.ejections = inner.ejections.saturating_add(1);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe {
    /// Records a fault; `true` when the upstream is to be probed now.
    fn add(&mut self, now_ms: u64, on_probation: bool) -> bool {
        self.faults = self.faults.saturating_add(1);
        let is_due = (on_probation || self.faults >= limits::EJECT_AFTER) && !self.is_due && now_ms >= self.next_ms;
        if is_due {
            (self.is_due, self.next_ms) = (true, now_ms + millis(limits::CHECK_DELAY));
        }
        is_due
    }
}

impl Inner {
    /// Records a fault of the upstream itself; `true` when it is to be ejected.
    fn own_fault(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failures >= limits::EJECT_AFTER || self.on_probation
    }
}

/// The rest before the next check, in ms, after so many ejections and failed checks.
fn rest_ms(before: u32) -> u64 {
    let longest_ms = millis(limits::CHECK_MAX_DELAY);
    millis(limits::CHECK_DELAY).saturating_mul(1 << before.min(16)).min(longest_ms)
}
