//! Whether an upstream is worth sending clients to.
//!
//! Clients' own faults eject it. How much a fault says depends on what failed:
//!
//! | fault | what it says | ejects |
//! |---|---|---|
//! | it takes no connection, or does not answer a request that needs no origin | the upstream is at fault | [`limits::EJECT_AFTER`] in a row |
//! | it fails a request that another upstream then serves | the same | the same |
//! | it fails a request before it has sent a challenge, such as by a close | perhaps only that its policy forbids the destination | when it fails a probe for a name that does not exist, too |
//! | it fails a request for which it is known to have a challenge, or that may be with its origin | the same | when [`limits::EJECT_AFTER`] *destinations* have failed and none has succeeded for [`limits::EJECT_DOUBTFUL_AFTER`] |
//!
//! While it is on probation, one fault of the first three kinds is enough. An ejected upstream rests, is checked, and comes back on probation
//! when the check passes; each ejection that follows without a success in between rests twice as long. A client that finds every upstream
//! ejected hurries the check, and is itself sent to an upstream that still answers, at a bounded rate
//! ([`Health::claim_trial`]): the first success brings it back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::{self, millis};

/// A change that the outside is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// No clients are sent there any more, and why.
    Ejected(String),
    /// A check has passed, or a client was served.
    Returned,
    /// Clients are still sent there, and its checker is to probe it.
    Doubted,
}

/// Why a check did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFailure {
    /// What failed, in words.
    pub why: String,
    /// It answered something before it failed: clients may fare better.
    pub answers: bool,
}

/// The health of one upstream, shared by all shards and its checker.
pub struct Health {
    /// What most callers ask, without the lock.
    up: AtomicBool,
    /// Nothing has failed since the last success: one more need not be noted.
    spotless: AtomicBool,
    /// Some destination is known to be cut off.
    cuts: AtomicBool,
    /// The configuration names it no more.
    retired: AtomicBool,
    inner: Mutex<Inner>,
    on_change: Box<dyn Fn(&HealthChange) + Send + Sync>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Faults of its own in a row.
    failures: u32,
    doubts: Doubts,
    probe: Probe,
    /// Hosts for which it failed before a challenge, and when, the latest last; at most [`limits::HEALTH_SUSPECTS`]. A success elsewhere
    /// changes nothing about them.
    cut_off: Vec<(Box<str>, u64)>,
    /// Ejections since the last success.
    ejections: u32,
    /// The last check that passed is not confirmed by a success yet.
    on_probation: bool,
    down: Option<Down>,
}

/// Faults in a row that came before a challenge.
#[derive(Debug, Default)]
struct Probe {
    faults: u32,
    /// The checker has not probed the upstream yet.
    is_due: bool,
    /// Not before this.
    next_ms: u64,
}

/// Faults since the last success that may be about their destinations.
#[derive(Debug, Default)]
struct Doubts {
    /// When the first came.
    since_ms: u64,
    /// The hosts that were asked for, each once, the latest last; at most [`limits::HEALTH_SUSPECTS`].
    suspects: Vec<Suspect>,
}

#[derive(Debug)]
struct Suspect {
    host: Box<str>,
    /// From when a client that asks for it may try an ejected upstream.
    next_trial_ms: u64,
}

#[derive(Debug)]
struct Down {
    why: String,
    last_check_ms: u64,
    next_check_ms: u64,
    /// As far as is known it takes connections and answers: clients may be sent there while there is nobody else.
    answers: bool,
    /// From when the next client may be whose destination has not failed there.
    next_trial_ms: u64,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Health").field("inner", &*self.lock()).finish_non_exhaustive()
    }
}

impl Doubts {
    /// Takes note of a fault; `true` when so many have failed that the upstream is at fault and not the destinations.
    fn add(&mut self, now_ms: u64, destination: &str) -> bool {
        if self.suspects.is_empty() {
            self.since_ms = now_ms;
        }
        if self.about(destination).is_none() {
            if self.suspects.len() >= limits::HEALTH_SUSPECTS {
                self.suspects.remove(0);
            }
            self.suspects.push(Suspect { host: host_of(destination), next_trial_ms: 0 });
        }
        self.suspects.len() >= limits::EJECT_AFTER as usize
            && now_ms.saturating_sub(self.since_ms) >= millis(limits::EJECT_DOUBTFUL_AFTER)
    }

    fn about(&mut self, destination: &str) -> Option<&mut Suspect> {
        let host = host_of(destination);
        self.suspects.iter_mut().find(|suspect| suspect.host == host)
    }
}

impl Health {
    /// Up. `on_change` is told of each ejection and each return, from the thread that caused it; it must not block and not call
    /// this.
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

    /// A client was served, or got an answer that is as good as can be said of the upstream alone. Brings an ejected upstream back,
    /// unless it takes no connections: that client's connection is older.
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

    /// The configuration names the upstream no more: no further change is told of, and nothing is checked. Tunnels that stand may
    /// keep it for long.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.lock().down = None;
    }

    /// It took no connection, or left a request without an answer that needs no origin.
    pub fn failed(&self, now_ms: u64, why: &str) {
        self.note(now_ms, why, false, Inner::own_fault);
    }

    /// It failed a request that another upstream then served: the destination was not the reason.
    pub fn failed_alone(&self, now_ms: u64, why: &str) {
        self.note(now_ms, why, true, Inner::own_fault);
    }

    /// It failed a request for `destination`, `host:port`, behind its challenge, which may be its policy for that destination.
    pub fn failed_for(&self, now_ms: u64, destination: &str, why: &str) {
        self.note(now_ms, why, true, |inner| inner.doubts.add(now_ms, destination));
    }

    /// It failed a request for `destination` before its challenge, which may be its policy for that destination: several such faults have
    /// it probed.
    pub fn failed_unheard(&self, now_ms: u64, destination: &str, why: &str) {
        let mut is_due = false;
        self.note(now_ms, why, true, |inner| {
            // For the trials of one that is ejected.
            inner.doubts.add(now_ms, destination);
            inner.note_cut_off(now_ms, destination);
            self.cuts.store(true, Ordering::Relaxed);
            is_due = inner.probe.add(now_ms, inner.on_probation) && inner.down.is_none();
            false
        });
        if is_due {
            (self.on_change)(&HealthChange::Doubted);
        }
    }

    /// Whether it lately ended connections for this destination before a challenge: then a connection that was pre-challenged would only cost
    /// a logon.
    pub fn cuts_off(&self, now_ms: u64, destination: &str) -> bool {
        if !self.cuts.load(Ordering::Relaxed) {
            return false;
        }
        let mut inner = self.lock();
        inner.cut_off.retain(|(_, since_ms)| now_ms < since_ms + millis(limits::CUT_OFF_AGE));
        self.cuts.store(!inner.cut_off.is_empty(), Ordering::Relaxed);
        let host = host_of(destination);
        inner.cut_off.iter().any(|(known, _)| *known == host)
    }

    /// Whether the checker is to ask it for a name that does not exist.
    pub fn wants_probe(&self) -> bool {
        let inner = self.lock();
        inner.probe.is_due && inner.down.is_none()
    }

    /// The probe is over: if the upstream answered it, what failed was about its destinations.
    pub fn probed(&self, now_ms: u64, outcome: Result<(), CheckFailure>) {
        let mut inner = self.lock();
        (inner.probe.is_due, inner.probe.faults) = (false, 0);
        drop(inner);
        if let Err(CheckFailure { why, answers }) = outcome {
            self.note(now_ms, &why, answers, |_| true);
        }
    }

    /// Takes note of a fault and ejects the upstream if `is_enough` says so. `answers` as in [`Down`].
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
        let why_down = why.to_owned();
        inner.down = Some(Down { why: why_down, last_check_ms: now_ms, next_check_ms, answers, next_trial_ms: 0 });
        self.up.store(false, Ordering::Relaxed);
        drop(inner);
        (self.on_change)(&HealthChange::Ejected(why.to_owned()));
    }

    /// How much speaks against sending a client to it although it is ejected; `None` where it is not, or where nothing but a check can
    /// bring it back.
    pub fn trial_rank(&self) -> Option<u32> {
        let inner = self.lock();
        inner.down.as_ref().filter(|down| down.answers).map(|_| inner.ejections)
    }

    /// Claims the right to send one client to it although it is ejected, for want of another upstream. The rate is bounded; a destination
    /// that has failed does not take the turns of the others.
    pub fn claim_trial(&self, now_ms: u64, destination: &str) -> bool {
        let mut inner = self.lock();
        let Inner { doubts, down, .. } = &mut *inner;
        let Some(down) = down.as_mut().filter(|down| down.answers) else { return false };
        // Several may come at once, and the next ones later by as much.
        let (next_ms, rest, burst) = match doubts.about(destination) {
            Some(suspect) => (&mut suspect.next_trial_ms, limits::SUSPECT_TRIAL_INTERVAL, 1),
            None => (&mut down.next_trial_ms, limits::TRIAL_INTERVAL, limits::TRIAL_BURST),
        };
        let is_due = *next_ms <= now_ms + millis(rest * (burst - 1));
        if is_due {
            *next_ms = now_ms.max(*next_ms) + millis(rest);
        }
        is_due
    }

    /// A client found nothing else to go to: the next check comes [`limits::CHECK_DELAY`] after the last one.
    pub fn hurry(&self) {
        if let Some(down) = &mut self.lock().down {
            down.next_check_ms = down.next_check_ms.min(down.last_check_ms + millis(limits::CHECK_DELAY));
        }
    }

    /// How long until the next check, in ms; `None` while it is up.
    pub fn next_check_in_ms(&self, now_ms: u64) -> Option<u64> {
        self.lock().down.as_ref().map(|down| down.next_check_ms.saturating_sub(now_ms))
    }

    /// A check is over.
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
    /// Takes note of a fault; `true` when the upstream is to be probed now.
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
    fn note_cut_off(&mut self, now_ms: u64, destination: &str) {
        let host = host_of(destination);
        self.cut_off.retain(|(known, _)| *known != host);
        if self.cut_off.len() >= limits::HEALTH_SUSPECTS {
            self.cut_off.remove(0);
        }
        self.cut_off.push((host, now_ms));
    }

    /// Takes note of a fault of the upstream's own; `true` when it is one too many.
    fn own_fault(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failures >= limits::EJECT_AFTER || self.on_probation
    }
}

/// The rest before the next check, after so many ejections and failed checks.
fn rest_ms(before: u32) -> u64 {
    let longest_ms = millis(limits::CHECK_MAX_DELAY);
    millis(limits::CHECK_DELAY).saturating_mul(1 << before.min(16)).min(longest_ms)
}

/// The host of `host:port` in the one spelling that is compared.
fn host_of(destination: &str) -> Box<str> {
    let host = destination.rsplit_once(':').map_or(destination, |(host, _)| host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase().into()
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
            let answers = false;
            health.checked(now_ms, Err(CheckFailure { why: "refused".into(), answers }));
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30]);
        health.hurry();
        assert_eq!(health.next_check_in_ms(now_ms), Some(1_000));
    }

    const LATER_MS: u64 = 1_000;

    /// One that has served a client.
    fn serving() -> (Health, Arc<Mutex<Vec<HealthChange>>>) {
        let (health, changes) = health();
        health.succeeded();
        (health, changes)
    }

    #[test]
    fn one_destination_never_ejects_an_upstream_that_has_served_others() {
        let (health, changes) = serving();
        for round in 0..3_000 {
            for spelling in ["blocked.test:443", "BLOCKED.test:443", "blocked.test.:80"] {
                health.failed_for(round * 100, spelling, "closed");
            }
        }
        assert!(health.is_up());
        assert_eq!(*changes.lock().unwrap(), []);
    }

    #[test]
    fn several_destinations_without_a_success_between_them_eject() {
        let (health, _) = serving();
        for (now_ms, destination) in [(0, "a:1"), (10, "b:1"), (20, "c:1"), (LATER_MS - 1, "d:1")] {
            health.failed_for(now_ms, destination, "closed");
        }
        assert!(health.is_up(), "a burst is no outage");
        health.failed_for(LATER_MS, "a:1", "closed");
        assert!(!health.is_up());
    }

    #[test]
    fn a_success_clears_what_destinations_have_failed() {
        let (health, _) = serving();
        for round in 0..20 {
            for destination in ["a:1", "b:1"] {
                health.failed_for(round * LATER_MS, destination, "closed");
            }
            health.succeeded();
        }
        assert!(health.is_up());
    }

    #[test]
    fn faults_before_a_challenge_have_the_upstream_probed_which_decides() {
        let (health, changes) = serving();
        let fail = |now_ms| health.failed_unheard(now_ms, "blocked.test:443", "closed");
        (1..limits::EJECT_AFTER).for_each(|_| fail(0));
        assert!(!health.wants_probe());
        fail(0);
        fail(0);
        assert!(health.wants_probe() && health.is_up());
        assert_eq!(*changes.lock().unwrap(), [HealthChange::Doubted], "called once");
        health.probed(10, Ok(()));
        assert!(!health.wants_probe() && health.is_up());
        (0..100).for_each(|_| fail(20));
        assert!(!health.wants_probe(), "a probe a second");
        fail(LATER_MS);
        assert!(health.wants_probe());
        health.probed(LATER_MS, Err(CheckFailure { why: "closes".into(), answers: true }));
        assert!(!health.is_up());
        assert_eq!(health.why_down().as_deref(), Some("closes"));
    }

    #[test]
    fn a_destination_that_is_cut_off_before_a_challenge_is_remembered_for_a_while_whatever_else_succeeds() {
        let (health, _) = serving();
        assert!(!health.cuts_off(0, "blocked.test:443"));
        health.failed_unheard(0, "blocked.test:443", "closed");
        health.succeeded();
        assert!(health.cuts_off(1, "Blocked.test.:8443") && !health.cuts_off(1, "good.test:443"));
        assert!(!health.cuts_off(millis(limits::CUT_OFF_AGE), "blocked.test:443"));
        (0..1_000).for_each(|number| health.failed_unheard(0, &format!("h{number}:1"), "closed"));
        assert_eq!(health.lock().cut_off.len(), limits::HEALTH_SUSPECTS);
    }

    #[test]
    fn on_probation_one_fault_before_a_challenge_is_enough_for_a_probe() {
        let (health, _) = health();
        eject(&health, 0);
        health.checked(LATER_MS, Ok(()));
        health.failed_unheard(LATER_MS, "a:1", "closed");
        assert!(health.wants_probe());
    }

    #[test]
    fn faults_that_another_upstream_disproves_eject_like_refused_connections() {
        let (health, _) = serving();
        for _ in 0..limits::EJECT_AFTER {
            assert!(health.is_up());
            health.failed_for(0, "a:1", "closed");
            health.failed_alone(0, "closed");
        }
        assert!(!health.is_up());
    }

    #[test]
    fn an_ejected_upstream_that_answers_is_tried_at_a_bounded_rate_and_returns_at_the_first_success() {
        let (health, changes) = serving();
        for (now_ms, destination) in [(0, "a:1"), (0, "b:1"), (LATER_MS, "c:1")] {
            health.failed_for(now_ms, destination, "closed");
        }
        assert_eq!(health.trial_rank(), Some(1));
        let claims = |destination: &str| {
            (0..1_000).filter(|now_ms| health.claim_trial(LATER_MS + now_ms, destination)).count() as u64
        };
        let in_a_second = 1_000 / millis(limits::TRIAL_INTERVAL) + u64::from(limits::TRIAL_BURST);
        assert!((in_a_second - 1..=in_a_second).contains(&claims("good:1")));
        assert_eq!(
            claims("A.:1"),
            1_000 / millis(limits::SUSPECT_TRIAL_INTERVAL),
            "one that failed takes no other's turn"
        );
        health.succeeded();
        assert!(health.is_up() && health.trial_rank().is_none());
        assert_eq!(changes.lock().unwrap().last(), Some(&HealthChange::Returned));
    }

    #[test]
    fn one_that_takes_no_connections_is_left_to_the_checks() {
        let (health, _) = serving();
        eject(&health, 0);
        health.succeeded();
        assert!(!health.is_up(), "what succeeds now was connected before");
        assert!(health.trial_rank().is_none() && !health.claim_trial(0, "a:1"));
        health.checked(1_000, Err(CheckFailure { why: "closes".into(), answers: true }));
        assert!(health.claim_trial(1_000, "a:1"), "it answers again, though not the check");
        health.failed(1_001, "refused");
        assert!(health.trial_rank().is_none());
    }

    #[test]
    fn the_destinations_that_are_remembered_are_bounded() {
        let (health, _) = serving();
        (0..10_000).for_each(|number| health.failed_for(0, &format!("h{number}:1"), "closed"));
        assert_eq!(health.lock().doubts.suspects.len(), limits::HEALTH_SUSPECTS);
    }
}
