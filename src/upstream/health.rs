//! Whether an upstream is worth sending clients to.
//!
//! Clients' own faults eject it: [`limits::EJECT_AFTER`] in a row, or one while it is on probation. Then it rests, is checked, and comes
//! back on probation when the check passes; each ejection that follows without a handshake in between rests twice as long. A
//! client that finds every upstream ejected hurries the check, so that an outage ends within a second of its cause.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::{self, millis};

/// A change that the outside is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// No clients are sent there any more, and why.
    Ejected(String),
    /// A check has passed.
    Returned,
}

/// The health of one upstream, shared by all shards and its checker.
pub struct Health {
    /// What most callers ask, without the lock.
    up: AtomicBool,
    /// Nothing has failed since the last success: one more need not be noted.
    spotless: AtomicBool,
    /// The configuration names it no more.
    retired: AtomicBool,
    inner: Mutex<Inner>,
    on_change: Box<dyn Fn(&HealthChange) + Send + Sync>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Faults in a row.
    failures: u32,
    /// Ejections since the last handshake that went well.
    ejections: u32,
    /// The last check that passed is not confirmed by a handshake yet.
    on_probation: bool,
    down: Option<Down>,
}

#[derive(Debug)]
struct Down {
    why: String,
    last_check_ms: u64,
    next_check_ms: u64,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Health").field("inner", &*self.lock()).finish_non_exhaustive()
    }
}

impl Health {
    /// Up. `on_change` is told of each ejection and each return, from the thread that caused it; it must not block and not call
    /// this.
    pub fn new(on_change: impl Fn(&HealthChange) + Send + Sync + 'static) -> Health {
        Health {
            up: AtomicBool::new(true),
            spotless: AtomicBool::new(true),
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

    /// A handshake went well, or as well as can be said of the upstream alone.
    pub fn succeeded(&self) {
        if self.spotless.load(Ordering::Relaxed) {
            return;
        }
        let mut inner = self.lock();
        if inner.down.is_none() {
            *inner = Inner::default();
            self.spotless.store(true, Ordering::Relaxed);
        }
    }

    /// The configuration names the upstream no more: no further change is told of, and nothing is checked. Tunnels that stand may
    /// keep it for long.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.lock().down = None;
    }

    /// A dial or a handshake failed for a reason that is the upstream's.
    pub fn failed(&self, now_ms: u64, why: &str) {
        let mut inner = self.lock();
        if self.retired.load(Ordering::Relaxed) {
            return;
        }
        self.spotless.store(false, Ordering::Relaxed);
        inner.failures = inner.failures.saturating_add(1);
        if inner.down.is_some() || (inner.failures < limits::EJECT_AFTER && !inner.on_probation) {
            return;
        }
        let rest_ms = rest_ms(inner.ejections);
        inner.ejections = inner.ejections.saturating_add(1);
        inner.on_probation = false;
        inner.down = Some(Down { why: why.to_owned(), last_check_ms: now_ms, next_check_ms: now_ms + rest_ms });
        self.up.store(false, Ordering::Relaxed);
        drop(inner);
        (self.on_change)(&HealthChange::Ejected(why.to_owned()));
    }

    /// A client found nothing else to go to: the next check comes [`limits::CHECK_REST`] after the last one.
    pub fn hurry(&self) {
        if let Some(down) = &mut self.lock().down {
            down.next_check_ms = down.next_check_ms.min(down.last_check_ms + millis(limits::CHECK_REST));
        }
    }

    /// How long until the next check, in ms; `None` while it is up.
    pub fn next_check_in_ms(&self, now_ms: u64) -> Option<u64> {
        self.lock().down.as_ref().map(|down| down.next_check_ms.saturating_sub(now_ms))
    }

    /// A check is over.
    pub fn checked(&self, now_ms: u64, outcome: Result<(), String>) {
        let mut inner = self.lock();
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
            Err(why) => {
                down.why = why;
                down.last_check_ms = now_ms;
                let rest_ms = rest_ms(inner.ejections);
                inner.ejections = inner.ejections.saturating_add(1);
                if let Some(down) = &mut inner.down {
                    down.next_check_ms = now_ms + rest_ms;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rest before the next check, after so many ejections and failed checks.
fn rest_ms(before: u32) -> u64 {
    let longest_ms = millis(limits::CHECK_LONGEST_REST);
    millis(limits::CHECK_REST).saturating_mul(1 << before.min(16)).min(longest_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn health() -> (Health, Arc<Mutex<Vec<HealthChange>>>) {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&changes);
        (Health::new(move |change| told.lock().unwrap().push(change.clone())), changes)
    }

    fn eject(health: &Health, now_ms: u64) {
        (0..limits::EJECT_AFTER).for_each(|_| health.failed(now_ms, "refused"));
    }

    #[test]
    fn only_faults_in_a_row_eject() {
        let (health, changes) = health();
        for _ in 0..10 {
            (1..limits::EJECT_AFTER).for_each(|_| health.failed(0, "refused"));
            health.succeeded();
        }
        assert!(health.is_up());
        eject(&health, 0);
        assert!(!health.is_up());
        assert_eq!(*changes.lock().unwrap(), [HealthChange::Ejected("refused".into())]);
        assert_eq!(health.why_down().as_deref(), Some("refused"));
    }

    #[test]
    fn it_comes_back_by_a_check_and_one_fault_ejects_it_again_for_longer() {
        let (health, changes) = health();
        eject(&health, 0);
        assert_eq!(health.next_check_in_ms(0), Some(1_000));
        health.checked(1_000, Ok(()));
        assert!(health.is_up());
        health.failed(1_100, "closed");
        assert!(!health.is_up());
        assert_eq!(health.next_check_in_ms(1_100), Some(2_000));
        health.checked(3_100, Ok(()));
        health.succeeded();
        eject(&health, 4_000);
        assert_eq!(health.next_check_in_ms(4_000), Some(1_000), "a handshake has made up for what was before");
        assert_eq!(changes.lock().unwrap().len(), 5);
    }

    #[test]
    fn what_the_configuration_names_no_more_is_neither_checked_nor_told_of() {
        let (health, changes) = health();
        eject(&health, 0);
        health.retire();
        health.checked(1_000, Ok(()));
        eject(&health, 2_000);
        assert_eq!(health.next_check_in_ms(2_000), None);
        assert_eq!(changes.lock().unwrap().len(), 1);
    }

    #[test]
    fn checks_become_rare_while_they_fail_unless_a_client_needs_one() {
        let (health, _) = health();
        eject(&health, 0);
        let mut now_ms = 0;
        let mut rests = Vec::new();
        for _ in 0..7 {
            let rest_ms = health.next_check_in_ms(now_ms).unwrap();
            rests.push(rest_ms / 1000);
            now_ms += rest_ms;
            health.checked(now_ms, Err("refused".into()));
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30]);
        health.hurry();
        assert_eq!(health.next_check_in_ms(now_ms), Some(1_000));
    }
}
