//! The client: one thread and one poll drive thousands of tunnels or request connections, kept in a slab.
//!
//! | file | subject |
//! |---|---|
//! | `pace` | when tunnels start: closed and open loop |
//! | `job` | what each tunnel does |
//! | `opening` | how a tunnel is asked for |
//! | `tunnel` | one tunnel |
//! | `requests` | plain HTTP: when to send requests, and on which connection |
//! | `requester` | one connection for requests |
//! | `answer` | parses answers |
//! | `poller` | the poll and its timer |
//! | `dial` | TCP connections and their source addresses |
//! | `tally` | counts, latencies, errors |
//! | `progress` | the progress line |

mod answer;
mod dial;
mod job;
mod opening;
mod pace;
mod phase;
mod poller;
mod progress;
mod requester;
mod requests;
mod tally;
mod tunnel;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Token};
use slab::Slab;

use crate::results::RunResults;
use crate::scenario::{Load, Scenario};
use dial::Dialler;
use job::Job;
use pace::{NextStart, Pace};
use phase::Phase;
use poller::{Poller, TIMER};
use progress::Progress;
use requests::Requests;
use tally::Failure;
use tunnel::{DriverContext, Tunnel, TunnelStatus};

/// How often to look for tunnels that make no progress.
const SWEEP: Duration = Duration::from_millis(200);
/// If all tunnels are opened first: how long to wait after the last one, until the other side is quiet, before
/// measuring.
const SETTLE: Duration = Duration::from_millis(300);

/// After this many failures the remaining tunnels are verified all at once.
const MANY_FAILURES: u64 = 64;

/// A moment of a run that an observer may want to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The work begins: immediately, or when all tunnels are open and idle.
    WorkBegins,
    /// The work is done; if all tunnels were opened first, they are still open.
    WorkEnds,
}

/// Called at each moment. It may take its time: the driver waits meanwhile.
pub type Observer<'a> = dyn FnMut(Moment) + 'a;

/// Runs a load against `proxies`.
///
/// # Errors
/// If the system has no poll or timer left. Failures of tunnels are part of the results.
pub fn run(load: &Load, proxies: &[SocketAddr], show: bool, observer: &mut Observer<'_>) -> io::Result<RunResults> {
    match load.scenario {
        Scenario::Http => Requests::new(load, proxies, show)?.run(observer),
        _ => Driver::new(load, proxies, show)?.run(observer),
    }
}

struct Driver<'a> {
    context: DriverContext<'a>,
    poller: Poller,
    tunnels: Slab<Tunnel>,
    dialler: Dialler,
    pace: Pace,
    pace_over: bool,
    phase: Phase,
    /// Tunnels that are still waiting for their 200.
    opening: usize,
    /// If all tunnels are opened first: those doing their work.
    working: usize,
    /// Slots that used up their budget.
    again: Vec<usize>,
    /// When a pause ends, with its slot and tunnel number.
    pauses: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    serials: Vec<u64>,
    /// Slots of `hold` whose tunnels have not been verified yet.
    unverified: Vec<usize>,
    work_begun: Instant,
    work: Option<Duration>,
    /// `fairness`: when the bulk transfer begins.
    bulk_from: Option<Instant>,
    progress: Progress,
    begun: Instant,
    next_sweep: Instant,
}

impl<'a> Driver<'a> {
    fn new(load: &'a Load, proxies: &[SocketAddr], show: bool) -> io::Result<Driver<'a>> {
        let mut context = DriverContext::new(load);
        (0..100).for_each(|number| context.prepare(&Job::of(load, number)));
        let now = Instant::now();
        let pace = Pace::new(load, now);
        let phase = if load.opens_all_first() { Phase::Opening } else { Phase::Ending };
        Ok(Driver {
            progress: Progress::new(load, pace.extent(), show),
            context,
            poller: Poller::new()?,
            tunnels: Slab::new(),
            dialler: Dialler::new(proxies, load.sources),
            pace,
            pace_over: false,
            phase,
            opening: 0,
            working: 0,
            again: Vec::new(),
            pauses: BinaryHeap::new(),
            serials: Vec::new(),
            unverified: Vec::new(),
            work_begun: now,
            work: None,
            bulk_from: None,
            begun: now,
            next_sweep: now + SWEEP,
        })
    }

    fn run(mut self, observer: &mut Observer<'_>) -> io::Result<RunResults> {
        let opens_all_first = self.context.load.opens_all_first();
        if !opens_all_first {
            observer(Moment::WorkBegins);
            // The observer's time is not part of the run.
            self.begun = Instant::now();
            self.pace = Pace::new(self.context.load, self.begun);
            self.work_begun = self.begun;
        }
        let mut events = Events::with_capacity(1024);
        loop {
            let now = Instant::now();
            let next_start = self.begin_tunnels(now);
            if opens_all_first {
                self.advance_phase(now, observer);
            }
            if self.is_over() {
                break;
            }
            self.sweep(now);
            self.wait(next_start, &mut events)?;
            for event in &events {
                if event.token() != TIMER {
                    self.drive(event.token().0);
                }
            }
            self.resume();
        }
        if !opens_all_first || self.work.is_none() {
            self.work = Some(self.work_begun.elapsed());
            observer(Moment::WorkEnds);
        }
        self.progress.finish();
        let work = self.work.unwrap_or_default();
        Ok(self.context.tally.finish(self.context.load, work))
    }

    fn is_over(&self) -> bool {
        self.tunnels.is_empty() && self.pace_over && matches!(self.phase, Phase::Ending)
    }

    /// Starts the tunnels that are due; returns when the next one is.
    fn begin_tunnels(&mut self, now: Instant) -> Option<Instant> {
        let is_hold = self.context.load.scenario == Scenario::Hold;
        loop {
            let open = if is_hold { self.opening } else { self.tunnels.len() };
            match self.pace.next_start(now, open) {
                NextStart::Now { number, intended } => self.begin(number, intended),
                NextStart::At(when) => return Some(when),
                NextStart::AfterAnEnd => return None,
                NextStart::Done => {
                    self.pace_over = true;
                    return None;
                }
            }
        }
    }

    fn begin(&mut self, number: u64, intended: Instant) {
        self.context.tally.tunnels.begun += 1;
        let key = self.tunnels.vacant_key();
        let registered = self.dialler.dial(number).and_then(|mut stream| {
            self.poller.registry().register(&mut stream, Token(key), Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        });
        match registered {
            Ok(stream) => {
                self.tunnels.insert(Tunnel::new(stream, Job::of(self.context.load, number), number, intended));
                if self.serials.len() <= key {
                    self.serials.resize(key + 1, 0);
                }
                if let Some(serial) = self.serials.get_mut(key) {
                    *serial = number;
                }
                self.opening += 1;
            }
            Err(error) => {
                self.context.tally.failed(&Failure::io("connecting")(error));
                // If the system is out of ports or descriptors, a closed loop would fail a million times a second.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Drives a tunnel as far as possible. A slot may be reused within a batch of events; a tunnel that is driven by
    /// its predecessor's event finds that its socket would block.
    fn drive(&mut self, key: usize) {
        while let Some(tunnel) = self.tunnels.get_mut(key) {
            let was_open = tunnel.is_open();
            let result = tunnel.drive(&mut self.context);
            let opened = !was_open && tunnel.is_open();
            if opened {
                self.opening -= 1;
            }
            match result {
                Ok(TunnelStatus::Wait) => return,
                Ok(TunnelStatus::Again) => return self.again.push(key),
                Ok(TunnelStatus::Pause(pause)) => {
                    let serial = self.serials.get(key).copied().unwrap_or_default();
                    return self.pauses.push(Reverse((Instant::now() + pause, key, serial)));
                }
                Ok(TunnelStatus::Opened) if self.phase == Phase::Opening => {}
                Ok(TunnelStatus::Opened) => tunnel.start_work(),
                Ok(TunnelStatus::Done) => {
                    self.context.tally.tunnels.completed += 1;
                    return self.close(key, false);
                }
                Ok(TunnelStatus::Vanish { reset }) => {
                    self.context.tally.tunnels.vanished += 1;
                    return self.close(key, reset);
                }
                Err(failure) => {
                    self.context.tally.failed(&failure);
                    return self.close(key, false);
                }
            }
        }
    }

    fn close(&mut self, key: usize, reset: bool) {
        if let Some(mut tunnel) = self.tunnels.try_remove(key) {
            if !tunnel.is_open() {
                self.opening -= 1;
            }
            if self.context.load.opens_all_first() && tunnel.is_open() && !tunnel.is_idle() {
                self.working = self.working.saturating_sub(1);
            }
            // Closing removes it from the poll as well; this is a precaution.
            let _ = self.poller.registry().deregister(&mut tunnel.stream);
            if reset {
                dial::reset(tunnel.stream);
            }
        }
    }

    /// Continues tunnels whose pause is over, and those that used up their budget.
    fn resume(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((when, key, serial))) = self.pauses.peek().copied() {
            if when > now {
                break;
            }
            self.pauses.pop();
            if self.serials.get(key) == Some(&serial)
                && let Some(tunnel) = self.tunnels.get_mut(key)
            {
                tunnel.start_work();
                self.drive(key);
            }
        }
        for key in std::mem::take(&mut self.again) {
            self.drive(key);
        }
    }

    /// Moves on to the next phase if it is time.
    fn advance_phase(&mut self, now: Instant, observer: &mut Observer<'_>) {
        match self.phase {
            Phase::Opening if self.pace_over && self.opening == 0 => {
                self.phase = Phase::Settling { until: now + SETTLE };
            }
            Phase::Settling { until } if now >= until => {
                observer(Moment::WorkBegins);
                self.work_begun = Instant::now();
                let until = self.context.load.duration.map(|duration| self.work_begun + duration);
                self.phase = Phase::Working { until };
                let scenario = self.context.load.scenario;
                if matches!(scenario, Scenario::Pingpong | Scenario::Fairness) {
                    self.start_all(|job| *job != Job::Stream);
                }
                if scenario == Scenario::Fairness {
                    self.bulk_from = until.map(|until| self.work_begun + (until - self.work_begun) / 2);
                }
            }
            Phase::Working { until } => {
                if self.bulk_from.is_some_and(|from| now >= from) {
                    self.bulk_from = None;
                    self.context.has_bulk = true;
                    self.start_all(|job| *job == Job::Stream);
                }
                let time_is_up = until.is_some_and(|until| now >= until);
                let hold = self.context.load.scenario == Scenario::Hold;
                if time_is_up || self.tunnels.is_empty() || (hold && until.is_none()) {
                    self.work = Some(self.work_begun.elapsed());
                    observer(Moment::WorkEnds);
                    self.context.stopping = !hold;
                    self.unverified =
                        self.tunnels.iter().filter(|(_, tunnel)| tunnel.is_idle()).map(|(key, _)| key).collect();
                    self.phase = Phase::Ending;
                }
            }
            _ => {}
        }
        if self.phase == Phase::Ending {
            // If a candidate has lost thousands of tunnels, each batch of them would delay the run.
            let many_failed = self.context.tally.tunnels.failed >= MANY_FAILURES;
            let at_once = if many_failed { usize::MAX } else { self.context.load.concurrency };
            while self.working < at_once
                && let Some(key) = self.unverified.pop()
            {
                self.start_working(key);
            }
        }
    }

    fn start_all(&mut self, which: impl Fn(&Job) -> bool) {
        let chosen = self.tunnels.iter().filter(|(_, tunnel)| which(&tunnel.job)).map(|(key, _)| key);
        let keys: Vec<usize> = chosen.collect();
        keys.into_iter().for_each(|key| self.start_working(key));
    }

    fn start_working(&mut self, key: usize) {
        if let Some(tunnel) = self.tunnels.get_mut(key)
            && tunnel.is_idle()
        {
            tunnel.start_work();
            self.working += 1;
            self.drive(key);
        }
    }

    /// Closes tunnels that make no progress, and all of them when the run has lasted too long.
    fn sweep(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        self.progress.show(&self.context.tally, self.tunnels.len());
        let cut_off = now - self.begun >= self.context.load.cap;
        let patience = self.context.load.patience;
        let stuck: Vec<usize> = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| {
                cut_off || (!tunnel.may_idle() && now.saturating_duration_since(tunnel.last_activity) > patience)
            })
            .map(|(key, _)| key)
            .collect();
        for key in stuck {
            let Some(activity) = self.tunnels.get(key).map(Tunnel::activity) else { continue };
            let failure = if cut_off { Failure::CutOff(activity) } else { Failure::Stalled(activity) };
            self.context.tally.failed(&failure);
            self.close(key, false);
        }
        if cut_off {
            self.pace.stop();
            self.phase = Phase::Ending;
        }
    }

    /// Waits for sockets, the next start, the end of a pause, or the next sweep.
    fn wait(&mut self, next_start: Option<Instant>, events: &mut Events) -> io::Result<()> {
        let pause_end = self.pauses.peek().map(|Reverse((when, ..))| *when);
        let when = [next_start, self.phase.until(), self.bulk_from, pause_end]
            .into_iter()
            .flatten()
            .fold(self.next_sweep, Instant::min);
        self.poller.wait(if self.again.is_empty() { when } else { Instant::now() }, events)
    }
}
