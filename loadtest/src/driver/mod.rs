//! The client: one thread and one poll, thousands of tunnels or of connections with requests in a slab.
//!
//! | file | subject |
//! |---|---|
//! | `pace` | when tunnels begin: closed and open loop |
//! | `job` | what each of them does |
//! | `conn` | one tunnel |
//! | `requests` | plain HTTP: when requests are sent, on which connection |
//! | `requester` | one connection that requests go over |
//! | `answer` | what comes back on it |
//! | `waiter` | the poll and its timer |
//! | `dial` | TCP connections and their source addresses |
//! | `tally` | counts, latencies, errors |
//! | `progress` | the line that shows it going on |

mod answer;
mod conn;
mod dial;
mod job;
mod pace;
mod phase;
mod progress;
mod requester;
mod requests;
mod tally;
mod waiter;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Token};
use slab::Slab;

use crate::outcome::Outcome;
use crate::scenario::{Load, Scenario};
use conn::{Common, Conn, Next};
use dial::Dialler;
use job::Job;
use pace::{Pace, Turn};
use phase::Phase;
use progress::Progress;
use requests::Requests;
use tally::Failure;
use waiter::{TIMER, Waiter};

/// How often tunnels are looked through for those that stand still.
const SWEEP: Duration = Duration::from_millis(200);
/// After the last tunnel of a crowd has opened, nothing is measured until the other side has come to rest.
const SETTLE: Duration = Duration::from_millis(300);

/// When so many tunnels of a crowd have failed, the rest are put to the proof all at once.
const LOST_MANY: u64 = 64;

/// A moment of a run at which a bystander may want to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The work begins: at once, or when all tunnels of the crowd are open and idle.
    WorkBegins,
    /// The work is done; a crowd's tunnels are still open.
    WorkEnds,
}

/// Is told of moments. It may take its time: the driver stands still meanwhile.
pub type Observer<'a> = dyn FnMut(Moment) + 'a;

/// Runs a load against `proxies`.
///
/// # Errors
/// When the system has no poll or timer left. Whatever happens to tunnels is in the outcome.
pub fn run(load: &Load, proxies: &[SocketAddr], show: bool, observer: &mut Observer<'_>) -> io::Result<Outcome> {
    match load.scenario {
        Scenario::Http => Requests::new(load, proxies, show)?.run(observer),
        _ => Driver::new(load, proxies, show)?.run(observer),
    }
}

struct Driver<'a> {
    common: Common<'a>,
    waiter: Waiter,
    conns: Slab<Conn>,
    dialler: Dialler,
    pace: Pace,
    pace_over: bool,
    phase: Phase,
    /// Tunnels that have not got their 200.
    opening: usize,
    /// Tunnels that do their work, of a crowd.
    working: usize,
    /// Slots whose budget was used up.
    again: Vec<usize>,
    /// When a pause ends, of which slot and tunnel.
    pauses: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    serials: Vec<u64>,
    /// Slots of `hold` that are yet to be proven alive.
    to_prove: Vec<usize>,
    work_begun: Instant,
    work: Option<Duration>,
    progress: Progress,
    begun: Instant,
    next_sweep: Instant,
}

impl<'a> Driver<'a> {
    fn new(load: &'a Load, proxies: &[SocketAddr], show: bool) -> io::Result<Driver<'a>> {
        let mut common = Common::new(load);
        (0..100).for_each(|number| common.prepare(&Job::of(load, number)));
        let now = Instant::now();
        let pace = Pace::new(load, now);
        let phase = if load.opens_all_first() { Phase::Opening } else { Phase::Ending };
        Ok(Driver {
            progress: Progress::new(load, pace.extent(), show),
            common,
            waiter: Waiter::new()?,
            conns: Slab::new(),
            dialler: Dialler::new(proxies, load.sources),
            pace,
            pace_over: false,
            phase,
            opening: 0,
            working: 0,
            again: Vec::new(),
            pauses: BinaryHeap::new(),
            serials: Vec::new(),
            to_prove: Vec::new(),
            work_begun: now,
            work: None,
            begun: now,
            next_sweep: now + SWEEP,
        })
    }

    fn run(mut self, observer: &mut Observer<'_>) -> io::Result<Outcome> {
        let crowd = self.common.load.opens_all_first();
        if !crowd {
            observer(Moment::WorkBegins);
            // What the observer took is no part of the run.
            self.begun = Instant::now();
            self.pace = Pace::new(self.common.load, self.begun);
            self.work_begun = self.begun;
        }
        let mut events = Events::with_capacity(1024);
        loop {
            let now = Instant::now();
            let next_start = self.begin_tunnels(now);
            if crowd {
                self.crowd_turn(now, observer);
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
        if !crowd || self.work.is_none() {
            self.work = Some(self.work_begun.elapsed());
            observer(Moment::WorkEnds);
        }
        self.progress.finish();
        let work = self.work.unwrap_or_default();
        Ok(self.common.tally.finish(self.common.load, work))
    }

    fn is_over(&self) -> bool {
        self.conns.is_empty() && self.pace_over && matches!(self.phase, Phase::Ending)
    }

    /// Begins what is due; when the next one is.
    fn begin_tunnels(&mut self, now: Instant) -> Option<Instant> {
        let crowd = self.common.load.scenario == Scenario::Hold;
        loop {
            let open = if crowd { self.opening } else { self.conns.len() };
            match self.pace.turn(now, open) {
                Turn::Begin { number, intended } => self.begin(number, intended),
                Turn::At(when) => return Some(when),
                Turn::WhenOneEnds => return None,
                Turn::Over => {
                    self.pace_over = true;
                    return None;
                }
            }
        }
    }

    fn begin(&mut self, number: u64, intended: Instant) {
        self.common.tally.tunnels.begun += 1;
        let key = self.conns.vacant_key();
        let registered = self.dialler.dial(number).and_then(|mut stream| {
            self.waiter.registry().register(&mut stream, Token(key), Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        });
        match registered {
            Ok(stream) => {
                self.conns.insert(Conn::new(stream, Job::of(self.common.load, number), number, intended));
                if self.serials.len() <= key {
                    self.serials.resize(key + 1, 0);
                }
                if let Some(serial) = self.serials.get_mut(key) {
                    *serial = number;
                }
                self.opening += 1;
            }
            Err(error) => {
                self.common.tally.failed(&Failure::io("connecting")(error));
                // A system that is out of ports or descriptors would fail a closed loop a million times a second.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Lets a tunnel go on as far as it can. Slots may be reused within one batch of events; a tunnel that is driven by
    /// its predecessor's event finds that its socket would block.
    fn drive(&mut self, key: usize) {
        while let Some(conn) = self.conns.get_mut(key) {
            let was_open = conn.is_open();
            let result = conn.drive(&mut self.common);
            let opened = !was_open && conn.is_open();
            if opened {
                self.opening -= 1;
            }
            match result {
                Ok(Next::Wait) => return,
                Ok(Next::Again) => return self.again.push(key),
                Ok(Next::Pause(pause)) => {
                    let serial = self.serials.get(key).copied().unwrap_or_default();
                    return self.pauses.push(Reverse((Instant::now() + pause, key, serial)));
                }
                Ok(Next::Opened) if self.phase == Phase::Opening => {}
                Ok(Next::Opened) => conn.begin_work(),
                Ok(Next::Done) => {
                    self.common.tally.tunnels.completed += 1;
                    return self.close(key, false);
                }
                Ok(Next::Vanish { reset }) => {
                    self.common.tally.tunnels.vanished += 1;
                    return self.close(key, reset);
                }
                Err(failure) => {
                    self.common.tally.failed(&failure);
                    return self.close(key, false);
                }
            }
        }
    }

    fn close(&mut self, key: usize, reset: bool) {
        if let Some(mut conn) = self.conns.try_remove(key) {
            if !conn.is_open() {
                self.opening -= 1;
            }
            if self.common.load.opens_all_first() && conn.is_open() && !conn.is_idle() {
                self.working = self.working.saturating_sub(1);
            }
            // Closing takes it out of the poll as well; this is for a kernel that says otherwise.
            let _ = self.waiter.registry().deregister(&mut conn.stream);
            if reset {
                dial::reset(conn.stream);
            }
        }
    }

    /// Tunnels whose pause is over, and those whose budget was used up.
    fn resume(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((when, key, serial))) = self.pauses.peek().copied() {
            if when > now {
                break;
            }
            self.pauses.pop();
            if self.serials.get(key) == Some(&serial)
                && let Some(conn) = self.conns.get_mut(key)
            {
                conn.begin_work();
                self.drive(key);
            }
        }
        for key in std::mem::take(&mut self.again) {
            self.drive(key);
        }
    }

    /// Moves a crowd on.
    fn crowd_turn(&mut self, now: Instant, observer: &mut Observer<'_>) {
        match self.phase {
            Phase::Opening if self.pace_over && self.opening == 0 => {
                self.phase = Phase::Settling { until: now + SETTLE };
            }
            Phase::Settling { until } if now >= until => {
                observer(Moment::WorkBegins);
                self.work_begun = Instant::now();
                let until = self.common.load.duration.map(|duration| self.work_begun + duration);
                self.phase = Phase::Working { until };
                if self.common.load.scenario == Scenario::Pingpong {
                    let keys: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
                    keys.into_iter().for_each(|key| self.put_to_work(key));
                }
            }
            Phase::Working { until } => {
                let time_is_up = until.is_some_and(|until| now >= until);
                let hold = self.common.load.scenario == Scenario::Hold;
                if time_is_up || self.conns.is_empty() || (hold && until.is_none()) {
                    self.work = Some(self.work_begun.elapsed());
                    observer(Moment::WorkEnds);
                    self.common.stopping = !hold;
                    self.to_prove = self.conns.iter().filter(|(_, conn)| conn.is_idle()).map(|(key, _)| key).collect();
                    self.phase = Phase::Ending;
                }
            }
            _ => {}
        }
        if self.phase == Phase::Ending {
            // A candidate that has lost thousands would keep the run waiting for each batch of them.
            let lost_many = self.common.tally.tunnels.failed >= LOST_MANY;
            let at_once = if lost_many { usize::MAX } else { self.common.load.concurrency };
            while self.working < at_once
                && let Some(key) = self.to_prove.pop()
            {
                self.put_to_work(key);
            }
        }
    }

    fn put_to_work(&mut self, key: usize) {
        if let Some(conn) = self.conns.get_mut(key)
            && conn.is_idle()
        {
            conn.begin_work();
            self.working += 1;
            self.drive(key);
        }
    }

    /// Ends tunnels that stand still, and all of them when the run has lasted too long.
    fn sweep(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        self.progress.show(&self.common.tally, self.conns.len());
        let cut_off = now - self.begun >= self.common.load.cap;
        let patience = self.common.load.patience;
        let stuck: Vec<usize> = self
            .conns
            .iter()
            .filter(|(_, conn)| cut_off || (!conn.may_rest() && now.saturating_duration_since(conn.touched) > patience))
            .map(|(key, _)| key)
            .collect();
        for key in stuck {
            let Some(doing) = self.conns.get(key).map(Conn::doing) else { continue };
            let failure = if cut_off { Failure::CutOff(doing) } else { Failure::StoodStill(doing) };
            self.common.tally.failed(&failure);
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
        let when =
            [next_start, self.phase.until(), pause_end].into_iter().flatten().fold(self.next_sweep, Instant::min);
        self.waiter.wait(if self.again.is_empty() { when } else { Instant::now() }, events)
    }
}
