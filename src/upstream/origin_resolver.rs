//! Looking up origins' names for tunnels that lead straight to them: on threads of their own, with a short memory.
//!
//! What is remembered needs no thread, and a name keeps one thread however many ask for it, for whichever port and in whichever letter
//! case. A final dot makes another name: the system tries its search domains only without one (resolv.conf(5)), and what it finds with and
//! without may be two different hosts.
//!
//! A name that nobody answers keeps its thread for 10 s and more, so that clients who ask for many of them could take all threads. Therefore
//! a client's share is bounded by what is left for the others ([`limits::LOOKUP_SHARE`]); what is over it waits behind the other clients'
//! names until its askers have given up. A request for a name that is known to hang fails at once.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::HostPort;
use super::resolver::{Resolution, look_up};
use crate::limits;

/// The way to ask. Threads end when they have had nothing to do for a while.
#[derive(Clone)]
pub struct OriginResolver {
    shared: Arc<Shared>,
}

/// Who asks, and for how long the answer is of use.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The client's address: what its names take is its share.
    pub client: IpAddr,
    /// It gives up after this.
    pub patience: Duration,
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It will be answered, or was.
    Taken,
    /// The name is known to hang: nobody answers for it.
    Hangs,
    /// Too many wait already, or no thread can be started.
    Declined,
}

struct Shared {
    system: System,
    state: Mutex<State>,
    /// There is a name in the queue.
    called: Condvar,
}

/// What the machine does for it.
struct System {
    look_up: Box<dyn Fn(&HostPort) -> Resolution + Send + Sync>,
    /// Starts a thread; `false` when it cannot.
    start: Box<dyn Fn(Task) -> bool + Send + Sync>,
}

type Task = Box<dyn FnOnce() + Send>;

/// In small letters, as all writings of a name are one.
type Name = String;

/// One who waits for a name.
struct Waiter {
    port: u16,
    until: Instant,
    answer: Box<dyn FnOnce(Resolution) + Send>,
}

/// A name that is being looked up or is to be.
struct Pending {
    waiters: Vec<Waiter>,
    /// When a thread took it.
    since: Option<Instant>,
}

/// A name that no thread has taken yet, as it was first asked for, and the client that asked first.
struct Queued {
    host: HostPort,
    client: IpAddr,
}

#[derive(Default)]
struct State {
    /// What was found lately, and when; with any port.
    found: HashMap<Name, (Instant, Resolution)>,
    /// Names for which nobody answered, and when that was found out.
    hanging: HashMap<Name, Instant>,
    pending: HashMap<Name, Pending>,
    /// Invariant: empty while `threads` is 0.
    queue: VecDeque<Queued>,
    /// Names that threads are looking up, by the client that asked first.
    under_way: HashMap<IpAddr, usize>,
    /// Their sum.
    busy: usize,
    /// Threads that stand.
    threads: usize,
    /// Threads that are being started, and may fail to.
    starting: usize,
    /// Threads that wait for a name.
    idle: usize,
}

impl Default for OriginResolver {
    /// Looks names up the way the system does, and remembers nothing yet.
    fn default() -> OriginResolver {
        let start = |task| thread::Builder::new().name("names".into()).spawn(task).is_ok();
        OriginResolver::of(System { look_up: Box::new(look_up), start: Box::new(start) })
    }
}

impl OriginResolver {
    fn of(system: System) -> OriginResolver {
        OriginResolver { shared: Arc::new(Shared { system, state: Mutex::default(), called: Condvar::new() }) }
    }

    /// Asks for a name's addresses, with the port put in; `answer` is called from another thread, or at once if they are remembered. No
    /// answer comes when the asker's patience ends first, or when the question is not [`Asked::Taken`]: declined when
    /// [`limits::LOOKUP_WAITERS`] wait for the name already, when the queue of [`limits::LOOKUP_QUEUE`] names has no room left for this
    /// client, or when there is no thread and none can be started.
    pub fn ask(&self, host: HostPort, asker: Asker, answer: impl FnOnce(Resolution) + Send + 'static) -> Asked {
        let name = name_of(&host);
        let now = Instant::now();
        let waiter = Waiter { port: host.port(), until: now + asker.patience, answer: Box::new(answer) };
        let mut state = self.shared.lock();
        let mut newcomer = None;
        if state.needs_thread(&name, asker.client) {
            state.starting += 1;
            drop(state);
            newcomer = self.start_thread();
            state = self.shared.lock();
            state.starting -= 1;
            state.threads += usize::from(newcomer.is_some());
        }
        if let Some(resolution) = state.recall(&name) {
            drop(state);
            waiter.tell(&resolution);
            return Asked::Taken;
        }
        if state.hangs(&name, now, asker.patience) {
            return Asked::Hangs;
        }
        if let Some(pending) = state.pending.get_mut(&name) {
            if pending.waiters.len() >= limits::LOOKUP_WAITERS {
                return Asked::Declined;
            }
            pending.waiters.push(waiter);
            return Asked::Taken;
        }
        if state.threads == 0 || !state.has_room_for(asker.client, now) {
            return Asked::Declined;
        }
        state.queue.push_back(Queued { host, client: asker.client });
        state.pending.insert(name, Pending { waiters: vec![waiter], since: None });
        self.shared.called.notify_one();
        // Only now, or it would wait for a name like any idle one, and another asker's name would count on it.
        drop(newcomer);
        Asked::Taken
    }

    /// A thread that sets to work when what is returned is dropped; `None` when none can be started. Takes long on a busy machine, so
    /// not to be called with the state locked.
    fn start_thread(&self) -> Option<Sender<()>> {
        let (hold, held) = mpsc::channel::<()>();
        let shared = Arc::clone(&self.shared);
        let task = move || {
            // Comes to an error when the other end is dropped.
            let _ = held.recv();
            shared.work();
        };
        (self.shared.system.start)(Box::new(task)).then_some(hold)
    }
}

impl Waiter {
    fn tell(self, found: &Resolution) {
        (self.answer)(at_port(found, self.port));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks names up until there are none for a while.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            let Some(Queued { host, client }) = state.take_next(Instant::now()) else {
                state.idle += 1;
                let waited = self.called.wait_timeout(state, limits::LOOKUP_THREAD_IDLE);
                let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state = woken;
                state.idle -= 1;
                if timeout.timed_out() && state.queue.is_empty() {
                    state.threads -= 1;
                    return;
                }
                continue;
            };
            drop(state);
            let began = Instant::now();
            // Late or not: who has given up does not mind the answer, and the next who asks finds it remembered.
            let resolution = (self.system.look_up)(&host);
            let waiters = self.lock().looked_up(name_of(&host), client, &resolution, began.elapsed());
            waiters.into_iter().for_each(|waiter| waiter.tell(&resolution));
            state = self.lock();
            // With this name's thread several clients' shares have grown.
            if state.idle > 0 && !state.queue.is_empty() {
                self.called.notify_all();
            }
        }
    }
}

impl State {
    /// Whether one more name of this client may be looked up now: the more are under way, the smaller is each client's share.
    fn may_start(&self, client: IpAddr) -> bool {
        let free = limits::LOOKUP_THREADS.saturating_sub(self.busy);
        free > 0 && self.under_way.get(&client).copied().unwrap_or_default() < free * limits::LOOKUP_SHARE
    }

    /// Whether a name that is asked for now wants a look-up for which no thread is free, and one more may be started.
    fn needs_thread(&self, name: &Name, client: IpAddr) -> bool {
        self.threads + self.starting < limits::LOOKUP_THREADS
            && (self.threads == 0 || self.may_start(client))
            && self.idle <= self.queue.iter().filter(|queued| self.may_start(queued.client)).count()
            && !self.pending.contains_key(name)
            && self.recall(name).is_none()
    }

    /// Takes the name that is to be looked up next: of the client that has the fewest under way. Names whose askers have given up are
    /// dropped.
    fn take_next(&mut self, now: Instant) -> Option<Queued> {
        self.drop_given_up(now);
        let of = |client: &IpAddr| self.under_way.get(client).copied().unwrap_or_default();
        let startable = self.queue.iter().enumerate().filter(|(_, queued)| self.may_start(queued.client));
        let (place, _) = startable.min_by_key(|(place, queued)| (of(&queued.client), *place))?;
        let queued = self.queue.remove(place)?;
        *self.under_way.entry(queued.client).or_default() += 1;
        self.busy += 1;
        if let Some(pending) = self.pending.get_mut(&name_of(&queued.host)) {
            pending.since = Some(now);
        }
        Some(queued)
    }

    fn drop_given_up(&mut self, now: Instant) {
        let pending = &mut self.pending;
        self.queue.retain(|queued| {
            let name = name_of(&queued.host);
            let waits = pending.get(&name).is_some_and(|of| of.waiters.iter().any(|waiter| waiter.until > now));
            if !waits {
                pending.remove(&name);
            }
            waits
        });
    }

    /// Whether the queue takes one more name of this client: as with threads, less of it the fuller it is.
    fn has_room_for(&mut self, client: IpAddr, now: Instant) -> bool {
        if self.queue.len() >= limits::LOOKUP_QUEUE {
            self.drop_given_up(now);
        }
        let free = limits::LOOKUP_QUEUE.saturating_sub(self.queue.len());
        free > 0 && self.queue.iter().filter(|queued| queued.client == client).count() < free * limits::LOOKUP_SHARE
    }

    fn recall(&self, name: &Name) -> Option<Resolution> {
        self.found.get(name).filter(|found| is_fresh(found.0, limits::RESOLVED_AGE)).map(|found| found.1.clone())
    }

    /// Whether the name has been looked up for longer than an asker should have to wait, or nobody answered for it lately.
    fn hangs(&self, name: &Name, now: Instant, patience: Duration) -> bool {
        let long = patience.min(limits::LOOKUP_HUNG_AFTER);
        let since = self.pending.get(name).and_then(|pending| pending.since);
        since.is_some_and(|since| now.saturating_duration_since(since) >= long)
            || self.hanging.get(name).is_some_and(|found_out| is_fresh(*found_out, limits::LOOKUP_HUNG_AGE))
    }

    /// Remembers what was found, and gives those who wait for it.
    fn looked_up(&mut self, name: Name, client: IpAddr, resolution: &Resolution, took: Duration) -> Vec<Waiter> {
        if let Some(under_way) = self.under_way.get_mut(&client) {
            *under_way -= 1;
            self.busy -= 1;
            if *under_way == 0 {
                self.under_way.remove(&client);
            }
        }
        let waiters = self.pending.remove(&name).map(|pending| pending.waiters).unwrap_or_default();
        let now = Instant::now();
        match resolution {
            Resolution::Addresses(_) => {
                self.hanging.remove(&name);
                remember(&mut self.found, name, (now, resolution.clone()), |found| {
                    is_fresh(found.0, limits::RESOLVED_AGE)
                });
            }
            Resolution::Failed(_) if took >= limits::LOOKUP_HUNG_AFTER => {
                remember(&mut self.hanging, name, now, |found_out| is_fresh(*found_out, limits::LOOKUP_HUNG_AGE));
            }
            Resolution::Failed(_) => {}
        }
        waiters
    }
}

/// One that is no longer fresh is replaced, whether or not there is room.
fn remember<T>(known: &mut HashMap<Name, T>, name: Name, value: T, is_fresh: impl Fn(&T) -> bool) {
    if known.len() >= limits::RESOLVED_NAMES {
        known.retain(|_, value| is_fresh(value));
    }
    if known.len() < limits::RESOLVED_NAMES || known.contains_key(&name) {
        known.insert(name, value);
    }
}

fn name_of(host: &HostPort) -> Name {
    host.host().to_ascii_lowercase()
}

/// Leaves the rest of each address as it is, as an IPv6 one's scope.
fn at_port(found: &Resolution, port: u16) -> Resolution {
    match found {
        Resolution::Addresses(addresses) if addresses.iter().any(|address| address.port() != port) => {
            let mut addresses = addresses.to_vec();
            addresses.iter_mut().for_each(|address| address.set_port(port));
            Resolution::Addresses(addresses.into())
        }
        found => found.clone(),
    }
}

fn is_fresh(since: Instant, age: Duration) -> bool {
    since.elapsed() < age
}

#[cfg(test)]
mod tests;
