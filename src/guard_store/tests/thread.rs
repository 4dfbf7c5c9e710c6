//! The thread, with a store in memory that misbehaves as it is told.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::super::cell::{Cell, Kept, Reason, Replaced, StoreFault, Version, Watch};
use super::super::worker::{Observer, StoreThread};
use super::policy;
use crate::limits::{self, millis};
use crate::upstream::{
    Accounts, Answer, AttemptRequest, DialPermission, Guard, SecretDigest, SendPermission, Store, Ticket,
};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
pub(super) struct MemoryCell(Arc<Mutex<Memory>>);

#[derive(Default)]
pub(super) struct Memory {
    text: Option<String>,
    version: u64,
    /// It cannot be reached.
    pub(super) is_down: bool,
    /// So many replacements are stored, and fail all the same.
    pub(super) lies: usize,
    /// So many replacements lose a race.
    pub(super) conflicts: usize,
    /// See [`Kept::damaged`].
    pub(super) damaged: usize,
    /// What is reported to the watch, and where the watch will find it.
    reports: Option<Sender<Kept>>,
    reported: Option<Receiver<Kept>>,
}

impl Memory {
    fn kept(&self) -> Kept {
        let version = Version(self.version.to_string());
        Kept { text: self.text.clone(), version, at_ms: 1_800_000_000_000, damaged: self.damaged }
    }
}

impl MemoryCell {
    pub(super) fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap()
    }
}

struct MemoryWatch(Receiver<Kept>);

impl Watch for MemoryWatch {
    fn next(&mut self) -> Result<Kept, StoreFault> {
        self.0.recv().map_err(|_| StoreFault::Unavailable(Reason("nothing is reported any more".into())))
    }
}

impl Cell for MemoryCell {
    fn read(&mut self) -> Result<Kept, StoreFault> {
        let memory = self.0.lock().unwrap();
        if memory.is_down {
            return Err(StoreFault::Unavailable(Reason("it is down".into())));
        }
        Ok(memory.kept())
    }

    fn replace(&mut self, text: &str, version: &Version) -> Result<Replaced, StoreFault> {
        let mut memory = self.0.lock().unwrap();
        if memory.is_down {
            return Err(StoreFault::Unavailable(Reason("it is down".into())));
        }
        if memory.conflicts > 0 {
            memory.conflicts -= 1;
            memory.version += 1;
            return Ok(Replaced::Conflict);
        }
        if *version != Version(memory.version.to_string()) {
            return Ok(Replaced::Conflict);
        }
        let before = memory.kept();
        (memory.text, memory.version, memory.damaged) = (Some(text.into()), memory.version + 1, 0);
        if memory.lies > 0 {
            memory.lies -= 1;
            // Late: it was reported by the watch only now.
            memory.reports.iter().for_each(|reports| reports.send(before.clone()).unwrap());
            return Err(StoreFault::Unavailable(Reason("the answer was lost".into())));
        }
        Ok(Replaced::Yes(Version(memory.version.to_string())))
    }

    fn watch(&self) -> Option<Box<dyn Watch>> {
        let reported = self.0.lock().unwrap().reported.take()?;
        Some(Box::new(MemoryWatch(reported)))
    }
}

struct Faults(Arc<Mutex<Vec<Option<String>>>>);

impl Observer for Faults {
    fn store_state(&self, fault: Option<&StoreFault>) {
        self.0.lock().unwrap().push(fault.map(StoreFault::to_string));
    }
}

/// A process with one identity.
struct Process {
    epoch: Instant,
    guard: Arc<Guard>,
    faults: Arc<Mutex<Vec<Option<String>>>>,
    changed: Arc<(Mutex<u64>, Condvar)>,
    thread: Arc<StoreThread>,
    upstream: Arc<str>,
    _accounts: Accounts,
}

impl Process {
    fn start(cell: &MemoryCell, password: &str) -> Process {
        Process::start_with(Box::new(cell.clone()), password)
    }

    fn start_with(cell: Box<dyn Cell>, password: &str) -> Process {
        let (epoch, faults) = (Instant::now(), Arc::default());
        let observer = Box::new(Faults(Arc::clone(&faults)));
        let thread = StoreThread::start(cell, policy(3), 0, epoch, observer).unwrap();
        let thread = Arc::new(thread);
        let accounts = Accounts::with_store(policy(3), Arc::clone(&thread) as Arc<dyn Store>);
        let account = accounts.of("CORP", "svc");
        let secret = account.fingerprint(password);
        account.introduce(secret, SecretDigest::of(&[password.as_bytes()]));
        let changed: Arc<(Mutex<u64>, Condvar)> = Arc::default();
        let notify = Arc::clone(&changed);
        let guard = Guard::of(account, secret, move |_| {
            *notify.0.lock().unwrap() += 1;
            notify.1.notify_all();
        });
        let upstream: Arc<str> = "proxy:8080".into();
        guard.expect(&upstream);
        thread.flush(PATIENCE);
        Process { epoch, guard, faults, changed, thread, upstream, _accounts: accounts }
    }

    fn now_ms(&self) -> u64 {
        millis(self.epoch.elapsed())
    }

    /// Asks for an attempt, as a session does: again after each change of the guard.
    fn attempt(&self) -> Result<Ticket, String> {
        let until = Instant::now() + PATIENCE;
        let request = AttemptRequest {
            upstream: &self.upstream,
            method: "CONNECT",
            destination: "example.com:443",
            challenged: true,
            confirms: false,
        };
        while Instant::now() < until {
            let seen = *self.changed.0.lock().unwrap();
            let scout = match self.guard.enter(self.now_ms(), &self.upstream, "CONNECT", "example.com:443") {
                DialPermission::No(refusal) => return Err(format!("{refusal:?}")),
                DialPermission::Wait => {
                    self.wait(seen);
                    continue;
                }
                DialPermission::Go => None,
                DialPermission::Scout(scout) => Some(scout),
            };
            match self.guard.ask(self.now_ms(), &request) {
                SendPermission::Go(ticket) => return Ok(ticket),
                SendPermission::No(refusal) => return Err(format!("{refusal:?}")),
                SendPermission::Wait => {
                    drop(scout);
                    self.wait(seen);
                }
            }
        }
        Err("no answer in time".into())
    }

    fn wait(&self, seen: u64) {
        let count = self.changed.0.lock().unwrap();
        let limit = limits::GUARD_RECHECK_INTERVAL;
        drop(self.changed.1.wait_timeout_while(count, limit, |count| *count == seen).unwrap());
    }
}

#[test]
fn a_restarted_process_does_not_try_a_secret_that_is_known_to_be_rejected() {
    let cell = MemoryCell::default();
    let first = Process::start(&cell, "wrong");
    first.attempt().unwrap().settle(first.now_ms(), Answer::Refused);
    first.thread.flush(PATIENCE);
    let second = Process::start(&cell, "wrong");
    assert!(second.guard.held(second.now_ms(), &second.upstream).is_some(), "it knows before the first request");
    assert!(second.attempt().unwrap_err().contains("Held"));
    let other = Process::start(&cell, "another");
    assert!(other.attempt().is_ok(), "another secret is tried at once");
}

#[test]
fn a_reservation_whose_answer_was_lost_is_recognised_and_used() {
    let cell = MemoryCell::default();
    let process = Process::start(&cell, "right");
    cell.0.lock().unwrap().lies = 1;
    process.attempt().unwrap().settle(process.now_ms(), Answer::Status(200));
    process.thread.flush(PATIENCE);
    let text = cell.0.lock().unwrap().text.clone().unwrap();
    assert!(!text.contains("reserved"), "it was not reserved twice: {text}");
    let told = process.faults.lock().unwrap().clone();
    assert!(matches!(&told[..], [Some(fault), None] if fault.contains("lost")), "{told:?}");
}

#[test]
fn a_request_goes_soon_after_the_attempt_of_another_process_that_it_waited_for() {
    // A busy machine may be late, but not each time.
    let mut waits = Vec::new();
    let is_soon = |wait: &Duration| *wait < limits::GUARD_STORE_POLL / 2;
    while waits.len() < 3 && !waits.last().is_some_and(is_soon) {
        waits.push(wait_after_the_attempt_of_another_process(waits.len()));
    }
    assert!(waits.last().is_some_and(is_soon), "{waits:?}");
}

fn wait_after_the_attempt_of_another_process(round: usize) -> Duration {
    let scratch = std::env::temp_dir().join(format!("ntlm-gateway-soon-{}-{round}", std::process::id()));
    let [first, second] = [0, 1].map(|_| Process::start_with(Box::new(super::super::FileCell::new(&scratch)), "right"));
    let ticket = first.attempt().unwrap();
    let took = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| second.attempt().map(|_| Instant::now()));
        // It asks, and is told to wait.
        std::thread::sleep(Duration::from_millis(250));
        let settled = Instant::now();
        ticket.settle(first.now_ms(), Answer::Status(200));
        waiting.join().unwrap().unwrap().saturating_duration_since(settled)
    });
    let _ = std::fs::remove_dir_all(&scratch);
    took
}

#[test]
fn a_change_reported_late_does_not_hide_a_write_whose_answer_was_lost() {
    let cell = MemoryCell::default();
    let (reports, reported) = mpsc::channel();
    cell.0.lock().unwrap().reports = Some(reports);
    cell.0.lock().unwrap().reported = Some(reported);
    let process = Process::start(&cell, "right");
    cell.0.lock().unwrap().lies = 1;
    process.attempt().unwrap().settle(process.now_ms(), Answer::Status(200));
    process.thread.flush(PATIENCE);
    let text = cell.0.lock().unwrap().text.clone().unwrap();
    assert!(!text.contains("reserved"), "it was reserved twice: {text}");
}

#[test]
fn lost_races_are_run_again_at_once() {
    let cell = MemoryCell::default();
    let process = Process::start(&cell, "right");
    cell.0.lock().unwrap().conflicts = 20;
    process.attempt().unwrap().settle(process.now_ms(), Answer::Status(200));
    assert!(process.faults.lock().unwrap().is_empty());
}

#[test]
fn an_attempt_waits_while_the_store_is_out_of_reach() {
    let cell = MemoryCell::default();
    let process = Process::start(&cell, "right");
    cell.0.lock().unwrap().is_down = true;
    let permission = process.guard.enter(process.now_ms(), &process.upstream, "CONNECT", "example.com:443");
    assert!(matches!(permission, DialPermission::Wait));
    process.thread.flush(PATIENCE);
    let permission = process.guard.enter(process.now_ms(), &process.upstream, "CONNECT", "example.com:443");
    assert!(matches!(permission, DialPermission::Wait), "not without the store");
    cell.0.lock().unwrap().is_down = false;
    assert!(process.attempt().is_ok());
}

#[test]
fn what_is_reserved_and_unused_is_given_back_at_the_end() {
    let cell = MemoryCell::default();
    let process = Process::start(&cell, "right");
    let permission = process.guard.enter(process.now_ms(), &process.upstream, "CONNECT", "example.com:443");
    assert!(matches!(permission, DialPermission::Wait));
    process.thread.flush(PATIENCE);
    let stored = || cell.0.lock().unwrap().text.clone().unwrap();
    assert!(stored().contains("reserved"), "{}", stored());
    process.thread.close(PATIENCE);
    assert!(!stored().contains("reserved"), "{}", stored());
}

#[test]
fn the_document_holds_no_name_and_nothing_of_the_secret() {
    let cell = MemoryCell::default();
    let process = Process::start(&cell, "Pa55word");
    process.attempt().unwrap().settle(process.now_ms(), Answer::Refused);
    process.thread.flush(PATIENCE);
    let text = cell.0.lock().unwrap().text.clone().unwrap();
    for name in ["CORP", "corp", "svc", "Pa55word", "example.com", "proxy", "8080"] {
        assert!(!text.contains(name), "{name} in {text}");
    }
}

#[test]
fn an_attempt_with_a_secret_that_was_replaced_meanwhile_is_settled() {
    let cell = MemoryCell::default();
    let Process { epoch, guard, thread, upstream, _accounts, .. } = {
        let process = Process::start(&cell, "wrong");
        let ticket = process.attempt().unwrap();
        let account = process._accounts.of("CORP", "svc");
        let secret = account.fingerprint("right");
        account.introduce(secret, SecretDigest::of(&[b"right"]));
        let process = Process { guard: Guard::of(account, secret, |_| {}), ..process };
        ticket.settle(process.now_ms(), Answer::Refused);
        process
    };
    thread.flush(PATIENCE);
    let text = cell.0.lock().unwrap().text.clone().unwrap();
    assert!(text.contains("failed") && !text.contains("reserved"), "{text}");
    let now_ms = millis(epoch.elapsed());
    guard.expect(&upstream);
    assert!(matches!(guard.enter(now_ms, &upstream, "CONNECT", "example.com:443"), DialPermission::Wait));
    thread.flush(PATIENCE);
    let now_ms = millis(epoch.elapsed());
    let permission = guard.enter(now_ms, &upstream, "CONNECT", "example.com:443");
    assert!(matches!(permission, DialPermission::Scout(_)), "{permission:?}");
}
