//! Plain HTTP: keep-alive connections, and when to send requests on them.
//!
//! First every connection is opened and receives one answer. Then the work begins. In a closed loop a connection sends
//! its next request as soon as it has an answer. In an open loop requests start on schedule, on any free connection,
//! and wait if none is free. A connection that the proxy closes cleanly is replaced.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Token};
use slab::Slab;

use super::dial::Dialler;
use super::phase::Phase;
use super::poller::{Poller, TIMER};
use super::progress::Progress;
use super::requester::{RequestSpec, Requester, RequesterStatus};
use super::tally::{Failure, Tally};
use super::{Moment, Observer, SETTLE, SWEEP};
use crate::results::{self, RunResults};
use crate::scenario::Load;

/// Bytes per read.
const SCRATCH_BYTES: usize = 64 * 1024;

/// The client of a plain HTTP run.
pub struct Requests<'a> {
    load: &'a Load,
    spec: RequestSpec,
    tally: Tally,
    scratch: Vec<u8>,
    poller: Poller,
    dialler: Dialler,
    clients: Slab<Requester>,
    /// Slots that can probably send a request.
    free: Vec<usize>,
    /// Open loop: intended starts of requests that are waiting for a free connection.
    backlog: VecDeque<Instant>,
    phase: Phase,
    /// Connections opened.
    dialled: u64,
    /// Requests sent during the work, and requests of any phase that are unanswered.
    sent: u64,
    in_flight: usize,
    requests: results::Requests,
    work_begun: Instant,
    work: Option<Duration>,
    begun: Instant,
    next_sweep: Instant,
    progress: Progress,
}

impl<'a> Requests<'a> {
    pub fn new(load: &'a Load, proxies: &[SocketAddr], show: bool) -> io::Result<Requests<'a>> {
        let now = Instant::now();
        Ok(Requests {
            load,
            spec: RequestSpec::new(load),
            tally: Tally::new(),
            scratch: vec![0; SCRATCH_BYTES],
            poller: Poller::new()?,
            dialler: Dialler::new(proxies, load.sources),
            clients: Slab::new(),
            free: Vec::new(),
            backlog: VecDeque::new(),
            phase: Phase::Opening,
            dialled: 0,
            sent: 0,
            in_flight: 0,
            requests: results::Requests::default(),
            work_begun: now,
            work: None,
            begun: now,
            next_sweep: now + SWEEP,
            progress: Progress::new(load, (load.count, load.duration), show),
        })
    }

    pub fn run(mut self, observer: &mut Observer<'_>) -> io::Result<RunResults> {
        (0..self.load.concurrency).for_each(|_| self.dial());
        let mut events = Events::with_capacity(1024);
        loop {
            let now = Instant::now();
            self.advance_phase(now, observer);
            let next_start = self.assign_requests(now);
            if self.phase == Phase::Ending && self.in_flight == 0 {
                break;
            }
            self.sweep(now);
            let when = [next_start, self.phase.until()].into_iter().flatten().fold(self.next_sweep, Instant::min);
            self.poller.wait(when, &mut events)?;
            for event in &events {
                if event.token() != TIMER {
                    self.drive(event.token().0);
                }
            }
        }
        if self.work.is_none() {
            self.end_work(observer);
        }
        self.progress.finish();
        self.tally.tunnels.completed += self.clients.len() as u64;
        let mut outcome = self.tally.finish(self.load, self.work.unwrap_or_default());
        outcome.requests = Some(self.requests);
        Ok(outcome)
    }

    fn dial(&mut self) {
        self.tally.tunnels.begun += 1;
        let number = self.dialled;
        self.dialled += 1;
        let key = self.clients.vacant_key();
        let registered = self.dialler.dial(number).and_then(|mut stream| {
            self.poller.registry().register(&mut stream, Token(key), Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        });
        match registered {
            Ok(stream) => {
                self.clients.insert(Requester::new(stream));
            }
            Err(error) => self.tally.failed(&Failure::io("connecting")(error)),
        }
    }

    /// Moves on to the next phase if it is time.
    fn advance_phase(&mut self, now: Instant, observer: &mut Observer<'_>) {
        match self.phase {
            Phase::Opening if self.clients.iter().all(|(_, client)| client.is_free() && client.answered > 0) => {
                self.phase = Phase::Settling { until: now + SETTLE };
            }
            Phase::Settling { until } if now >= until => {
                observer(Moment::WorkBegins);
                self.work_begun = Instant::now();
                self.phase = Phase::Working { until: self.load.duration.map(|duration| self.work_begun + duration) };
                self.free = self.clients.iter().map(|(key, _)| key).collect();
            }
            Phase::Working { until } => {
                let time_is_up = until.is_some_and(|until| now >= until);
                let all_asked = self.load.count.is_some_and(|count| self.sent >= count);
                // In an open loop every request that was due in time counts, however late it is answered.
                let waits_for_rest = all_asked || self.load.rate.is_some();
                let rest = self.in_flight > 0 || !self.backlog.is_empty();
                if (time_is_up && !(waits_for_rest && rest)) || (all_asked && !rest) || self.clients.is_empty() {
                    self.end_work(observer);
                }
            }
            _ => {}
        }
    }

    fn end_work(&mut self, observer: &mut Observer<'_>) {
        self.work = Some(self.work_begun.elapsed());
        observer(Moment::WorkEnds);
        self.phase = Phase::Ending;
    }

    /// Assigns requests to free connections; returns when the next request is due.
    fn assign_requests(&mut self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Opening => {
                while let Some(key) = self.free.pop() {
                    // Connections that have their first answer wait for the others.
                    if self.clients.get(key).is_some_and(|client| client.answered == 0) {
                        self.send_request(key, now);
                    }
                }
                None
            }
            Phase::Working { until } => {
                let next = self.fill_backlog(now, until);
                while self.has_request(until)
                    && let Some(key) = self.free.pop()
                {
                    let since = self.backlog.pop_front().unwrap_or_else(Instant::now);
                    if self.clients.get(key).is_some_and(Requester::is_free) {
                        self.send_request(key, since);
                    } else if self.load.rate.is_some() {
                        self.backlog.push_front(since);
                    }
                }
                next
            }
            Phase::Settling { .. } | Phase::Ending => None,
        }
    }

    /// Whether a request is waiting for a connection.
    fn has_request(&self, until: Option<Instant>) -> bool {
        if self.load.rate.is_some() {
            return !self.backlog.is_empty();
        }
        let in_time = until.is_none_or(|until| Instant::now() < until);
        in_time && self.load.count.is_none_or(|count| self.sent < count)
    }

    /// Adds the requests that are due in an open loop to the backlog; returns when the next one is due.
    fn fill_backlog(&mut self, now: Instant, until: Option<Instant>) -> Option<Instant> {
        let interval = Duration::from_secs_f64(1.0 / self.load.rate?);
        loop {
            let number = self.sent + self.backlog.len() as u64;
            let ns = interval.as_nanos().saturating_mul(u128::from(number));
            let intended = self.work_begun + Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX));
            if self.load.count.is_some_and(|count| number >= count) || until.is_some_and(|until| intended >= until) {
                return None;
            }
            if intended > now {
                return Some(intended);
            }
            self.backlog.push_back(intended);
        }
    }

    fn send_request(&mut self, key: usize, since: Instant) {
        if let Some(client) = self.clients.get_mut(key) {
            client.send_request(since);
            self.in_flight += 1;
            self.sent += u64::from(self.is_work());
            self.drive(key);
        }
    }

    fn is_work(&self) -> bool {
        matches!(self.phase, Phase::Working { .. })
    }

    /// Drives a connection as far as possible; in a closed loop it sends its next request at once.
    fn drive(&mut self, key: usize) {
        while let Some(client) = self.clients.get_mut(key) {
            match client.drive(&self.spec, &mut self.scratch, &mut self.tally) {
                Ok(RequesterStatus::Wait) => return,
                Ok(RequesterStatus::Free) => return self.free.push(key),
                Ok(RequesterStatus::Answered { since, keeps }) => {
                    let last_activity = client.last_activity;
                    self.in_flight -= 1;
                    let Phase::Working { until } = self.phase else {
                        self.requests.around += 1;
                        return if keeps { self.free.push(key) } else { self.replace(key) };
                    };
                    self.requests.answered += 1;
                    self.tally.latency("request", last_activity - since);
                    if !keeps {
                        return self.replace(key);
                    }
                    if self.load.rate.is_some() || !self.has_request(until) {
                        return self.free.push(key);
                    }
                    if let Some(client) = self.clients.get_mut(key) {
                        client.send_request(Instant::now());
                        self.in_flight += 1;
                        self.sent += 1;
                    }
                }
                Ok(RequesterStatus::Ended) => return self.replace(key),
                Err(failure) => return self.fail(key, &failure),
            }
        }
    }

    /// A connection has ended cleanly.
    fn replace(&mut self, key: usize) {
        self.tally.tunnels.completed += 1;
        self.close(key);
        if self.phase != Phase::Ending {
            self.dial();
        }
    }

    fn fail(&mut self, key: usize, failure: &Failure) {
        self.tally.failed(failure);
        // A connection that never received an answer is not replaced: there may be no proxy.
        let had_answer = self.clients.get(key).is_some_and(|client| client.answered > 0);
        self.close(key);
        if had_answer && self.is_work() {
            self.dial();
        }
    }

    fn close(&mut self, key: usize) {
        let Some(mut client) = self.clients.try_remove(key) else { return };
        if client.is_waiting() {
            self.in_flight -= 1;
        }
        // Closing removes it from the poll as well; this is a precaution.
        let _ = self.poller.registry().deregister(&mut client.stream);
    }

    /// Closes connections that make no progress, and all of them when the run has lasted too long.
    fn sweep(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        self.progress.show(&self.tally, self.clients.len());
        let cut_off = now - self.begun >= self.load.cap;
        let patience = self.load.patience;
        let stands = |client: &Requester| now.saturating_duration_since(client.last_activity) > patience;
        let stuck = self.clients.iter().filter(|(_, client)| !client.is_free() && (cut_off || stands(client)));
        let stuck: Vec<(usize, &'static str)> = stuck.map(|(key, client)| (key, client.activity())).collect();
        for (key, activity) in stuck {
            let failure = if cut_off { Failure::CutOff(activity) } else { Failure::Stalled(activity) };
            self.fail(key, &failure);
        }
        if cut_off {
            self.backlog.clear();
            self.phase = Phase::Ending;
        }
    }
}
