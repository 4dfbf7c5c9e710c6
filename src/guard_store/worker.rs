//! The thread that carries the orders of a process out. It reads and writes the store when something is due, and
//! otherwise sleeps.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::cell::{Cell, Kept, Reason, Replaced, StoreFault, Watch};
use super::desk::{Clocks, Desk, Outcome, document_of};
use super::document::Document;
use super::record::Shares;
use crate::limits::{self, millis};
use crate::upstream::{GuardPolicy, Order, Store};

/// Is told how the store does.
pub trait Observer: Send {
    /// The store can be reached again, or cannot because of this.
    fn store_state(&self, fault: Option<&StoreFault>);
}

/// The store's thread, as the accounts see it. The thread ends when the last of these is dropped.
#[derive(Debug)]
pub struct StoreThread {
    messages: Sender<Message>,
}

#[derive(Debug)]
enum Message {
    Order(Order),
    /// Somebody may have changed the text, which was this at that time. The worker may take the message much later.
    Changed(Kept, Instant),
    /// Changes are not announced at the moment.
    WatchFailed,
    /// Answer once all orders so far were carried out, or could not be.
    Flush(Sender<()>),
    /// The same; what was reserved and is not used is given back first.
    Close(Sender<()>),
}

impl StoreThread {
    /// Starts the thread. `epoch` is the zero of the process's clock. While the store cannot be reached, each of up to
    /// `max_replicas` processes may use its share of the budget; with 0 there are no shares.
    ///
    /// # Errors
    /// The thread cannot be started, or the system has no randomness.
    pub fn start(
        cell: Box<dyn Cell>,
        policy: GuardPolicy,
        max_replicas: usize,
        epoch: Instant,
        observer: Box<dyn Observer>,
    ) -> io::Result<StoreThread> {
        let (messages, inbox) = mpsc::channel();
        let is_watched = match cell.watch() {
            Some(watch) => {
                let changes = messages.clone();
                thread::Builder::new().name("guard-watch".into()).spawn(move || watch_changes(watch, &changes))?;
                true
            }
            None => false,
        };
        let worker = Worker {
            desk: Desk::new(
                policy,
                Shares::of(policy.attempts, max_replicas),
                getrandom::u64()?,
                millis(cell.clock_error()),
            ),
            cell,
            epoch,
            observer,
            is_watched,
            known: None,
            unclear: None,
            retry: None,
            read_ms: 0,
        };
        thread::Builder::new().name("guard-store".into()).spawn(move || worker.run(&inbox))?;
        Ok(StoreThread { messages })
    }

    /// Waits until all orders so far have been carried out, or could not be, but not longer than this.
    pub fn flush(&self, wait: Duration) {
        self.wait_for(Message::Flush, wait);
    }

    /// Gives back what was reserved and is not used, and waits as [`StoreThread::flush`] does.
    pub fn close(&self, wait: Duration) {
        self.wait_for(Message::Close, wait);
    }

    fn wait_for(&self, message: fn(Sender<()>) -> Message, wait: Duration) {
        let (done, is_done) = mpsc::channel();
        if self.messages.send(message(done)).is_ok() {
            // Late or ended: the caller goes on in any case.
            let _ = is_done.recv_timeout(wait);
        }
    }
}

impl Store for StoreThread {
    fn order(&self, order: Order) {
        // This fails only if the thread has ended, in the end of the process.
        let _ = self.messages.send(Message::Order(order));
    }
}

fn watch_changes(mut watch: Box<dyn Watch>, changes: &Sender<Message>) {
    let mut pause = limits::GUARD_STORE_RETRY;
    loop {
        let message = match watch.next() {
            Ok(kept) => {
                pause = limits::GUARD_STORE_RETRY;
                Message::Changed(kept, Instant::now())
            }
            Err(_) => Message::WatchFailed,
        };
        let failed = matches!(message, Message::WatchFailed);
        if changes.send(message).is_err() {
            return;
        }
        if failed {
            thread::sleep(pause);
            pause = (2 * pause).min(limits::GUARD_STORE_RETRY_MAX);
        }
    }
}

struct Worker {
    cell: Box<dyn Cell>,
    desk: Desk,
    epoch: Instant,
    observer: Box<dyn Observer>,
    /// Changes are announced.
    is_watched: bool,
    /// The text as it was read last, and when, in ms of the process's clock.
    known: Option<(Kept, u64)>,
    /// What a failed attempt to replace the text may have made of it.
    unclear: Option<(Document, String, Outcome)>,
    /// Set while the store is out of reach.
    retry: Option<Retry>,
    /// When the store was read last, in ms of the process's clock.
    read_ms: u64,
}

/// What there is to do with the store.
enum Work {
    Nothing,
    Write,
    /// What is written depends on what is there now.
    ReadAndWrite,
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    at_ms: u64,
    pause: Duration,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let first = match self.sleep_ms() {
                Some(0) => inbox.try_recv().map_err(|error| match error {
                    mpsc::TryRecvError::Empty => RecvTimeoutError::Timeout,
                    mpsc::TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
                Some(wait_ms) => inbox.recv_timeout(Duration::from_millis(wait_ms)),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let first = match first {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut flushes = Vec::new();
            for message in first.into_iter().chain(inbox.try_iter()) {
                self.take(message, &mut flushes);
            }
            self.work(!flushes.is_empty());
            if self.retry.is_some() {
                self.desk.grant_from_shares(self.now_ms());
            }
            // Giving back makes orders of its own.
            while let Ok(message) = inbox.try_recv() {
                self.take(message, &mut flushes);
            }
            if self.desk.is_due(self.now_ms()) && !flushes.is_empty() {
                self.work(false);
            }
            flushes.into_iter().for_each(|done| {
                let _ = done.send(());
            });
        }
    }

    fn take(&mut self, message: Message, flushes: &mut Vec<Sender<()>>) {
        match message {
            Message::Order(order) => {
                if matches!(order, Order::Expect(_)) {
                    self.read_ms = 0;
                }
                self.desk.take(order);
            }
            Message::Changed(kept, at) => {
                self.is_watched = true;
                // A change may be reported late. While it is not known what became of a write, only a read tells.
                let is_clear = self.unclear.as_ref().is_none_or(|(_, text, _)| kept.text.as_ref() == Some(text));
                if is_clear {
                    self.learn(kept, millis(at.saturating_duration_since(self.epoch)));
                }
            }
            Message::WatchFailed => self.is_watched = false,
            Message::Flush(done) => flushes.push(done),
            Message::Close(done) => {
                self.desk.release(u64::MAX, self.now_ms());
                self.desk.leave();
                flushes.push(done);
            }
        }
    }

    fn now_ms(&self) -> u64 {
        millis(self.epoch.elapsed())
    }

    /// How long nothing has to be done unless an order comes.
    fn sleep_ms(&self) -> Option<u64> {
        let now_ms = self.now_ms();
        if let Some(retry) = self.retry {
            return Some(retry.at_ms.saturating_sub(now_ms));
        }
        if self.desk.is_due(now_ms) {
            return Some(0);
        }
        let poll_ms = self.poll_ms().map(|interval_ms| self.read_ms + interval_ms);
        let next_ms = self.desk.next_ms().into_iter().chain(poll_ms).min()?;
        Some(next_ms.saturating_sub(now_ms).max(1))
    }

    /// How often the store has to be read in case that others change it.
    fn poll_ms(&self) -> Option<u64> {
        let has_held = self.desk.has_held(self.now_ms());
        if self.desk.has_requests() || self.read_ms == 0 {
            Some(millis(self.cell.poll_interval()))
        } else if has_held && !self.is_watched {
            Some(millis(limits::GUARD_STORE_POLL))
        } else if has_held {
            Some(millis(limits::GUARD_STORE_POLL_WATCHED))
        } else {
            None
        }
    }

    /// Reads and writes what is due.
    fn work(&mut self, is_flushed: bool) {
        let now_ms = self.now_ms();
        if self.retry.is_some_and(|retry| now_ms < retry.at_ms) {
            return;
        }
        let unused_since_ms = now_ms.checked_sub(millis(limits::GUARD_UNUSED_RESERVATION));
        if let Some(since_ms) = unused_since_ms {
            self.desk.release(since_ms, now_ms);
        }
        let done = match self.next_work(now_ms, is_flushed) {
            Work::Nothing => return,
            Work::Write => self.write(),
            Work::ReadAndWrite => self.read().and_then(|()| self.write()),
        };
        match done {
            Ok(()) => self.succeeded(),
            Err(fault) => self.failed(&fault),
        }
    }

    fn next_work(&self, now_ms: u64, is_flushed: bool) -> Work {
        let is_write_due = self.desk.is_due(now_ms);
        let is_poll_due = self.poll_ms().is_some_and(|interval_ms| now_ms >= self.read_ms + interval_ms);
        if is_poll_due || self.retry.is_some() {
            return Work::ReadAndWrite;
        }
        // What is denied must be denied by what is in the store now.
        let is_stale = now_ms > self.read_ms + millis(limits::GUARD_RECHECK_INTERVAL);
        let must_read = self.known.is_none() || (is_stale && self.desk.has_request_due(now_ms));
        match must_read {
            true if is_write_due || is_flushed => Work::ReadAndWrite,
            _ if is_write_due => Work::Write,
            _ => Work::Nothing,
        }
    }

    fn read(&mut self) -> Result<(), StoreFault> {
        let kept = self.cell.read()?;
        let own_ms = self.now_ms();
        self.read_ms = own_ms.max(1);
        self.learn(kept, own_ms);
        Ok(())
    }

    /// The text was this at that time.
    fn learn(&mut self, kept: Kept, own_ms: u64) {
        let clocks = Clocks { store_ms: kept.at_ms, own_ms };
        if let Some((document, text, outcome)) = self.unclear.take()
            && kept.text.as_ref() == Some(&text)
        {
            self.desk.stored(outcome, &document, clocks);
        }
        let is_new = self.known.as_ref().is_none_or(|(known, _)| known.text != kept.text);
        if is_new
            && kept.text.is_some()
            && let Ok(document) = document_of(&kept)
        {
            self.desk.tell(&document, clocks);
        }
        self.known = Some((kept, own_ms));
    }

    /// Carries out what is due on the text as it was read last, and again if others were faster.
    fn write(&mut self) -> Result<(), StoreFault> {
        for _ in 0..limits::GUARD_STORE_CONFLICTS {
            if !self.desk.is_due(self.now_ms()) {
                return Ok(());
            }
            let Some((kept, read_ms)) = &self.known else { return Ok(()) };
            let own_ms = self.now_ms();
            let clocks = Clocks { store_ms: kept.at_ms + own_ms.saturating_sub(*read_ms), own_ms };
            let mut document = document_of(kept)?;
            let before = kept.text.clone();
            let outcome = self.desk.apply(&mut document, kept.damaged, clocks);
            let text = document.write(self.desk.policy(), clocks.store_ms);
            if before.as_ref() == Some(&text) {
                self.desk.stored(outcome, &document, clocks);
                return Ok(());
            }
            match self.cell.replace(&text, &kept.version) {
                Ok(Replaced::Yes(version)) => {
                    let own_ms = self.now_ms();
                    let clocks = Clocks { store_ms: clocks.store_ms + own_ms.saturating_sub(clocks.own_ms), own_ms };
                    let kept = Kept { text: Some(text), version, at_ms: clocks.store_ms, damaged: 0 };
                    self.desk.stored(outcome, &document, clocks);
                    self.learn(kept, own_ms);
                }
                Ok(Replaced::Conflict) => self.read()?,
                Err(fault) => {
                    self.unclear = Some((document, text, outcome));
                    return Err(fault);
                }
            }
        }
        Err(StoreFault::Unavailable(Reason(format!(
            "others changed the guard's document {} times in a row",
            limits::GUARD_STORE_CONFLICTS
        ))))
    }

    fn succeeded(&mut self) {
        if self.retry.take().is_some() {
            self.observer.store_state(None);
            self.desk.tell_reachable(true, self.now_ms());
        }
    }

    fn failed(&mut self, fault: &StoreFault) {
        let before = self.retry;
        let pause =
            before.map_or(limits::GUARD_STORE_RETRY, |retry| (2 * retry.pause).min(limits::GUARD_STORE_RETRY_MAX));
        let asked_ms = if let StoreFault::Overloaded { pause_ms, .. } = fault { *pause_ms } else { 0 };
        let wait_ms = millis(pause).max(asked_ms.min(millis(limits::GUARD_STORE_RETRY_MAX)));
        self.retry = Some(Retry { at_ms: self.now_ms() + wait_ms, pause });
        self.observer.store_state(Some(fault));
        if before.is_none() {
            self.desk.tell_reachable(false, self.now_ms());
        }
    }
}
