//! Resolves names of origins for direct connections, on threads of its own, with a short-lived cache.
//!
//! A cached name needs no thread. A name that is being looked up occupies one thread, however many requests wait for
//! it, for whichever port and in whichever letter case. A name with a final dot is another name: the system applies its
//! search domains only to names without one (resolv.conf(5)), so the two may be different hosts.
//!
//! A name that no name server answers for occupies its thread for 10 s or more. A client that asks for many of them
//! could occupy all threads, so each client's share is bounded by what is left for the others
//! ([`limits::LOOKUP_SHARE`]). Names beyond the share wait behind other clients' names, until their askers have given
//! up. A request for a name that is known to hang fails at once.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::HostPort;
use super::resolver::{Resolution, look_up};
use crate::limits;

/// The resolver, shared by all shards. Its threads are started on demand and end after [`limits::LOOKUP_THREAD_IDLE`]
/// without work.
#[derive(Clone)]
pub struct OriginResolver {
    shared: Arc<Shared>,
}

/// The client that asks, and how long it needs the answer.
#[derive(Clone, Copy, Debug)]
pub struct LookupClient {
    /// The client's address. Names that it asks for count against its share.
    pub client: IpAddr,
    /// The client gives up after this.
    pub patience: Duration,
}

/// Whether a name will be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupReply {
    /// The answer will come, or has come already.
    Accepted,
    /// The name is known to hang: no name server answers for it.
    Hangs,
    /// Too many requests are waiting already, or no thread can be started.
    Declined,
}

struct Shared {
    system: System,
    state: Mutex<State>,
    /// Signals a name in the queue.
    called: Condvar,
}

/// What the operating system does; replaced in tests.
struct System {
    look_up: Box<dyn Fn(&HostPort) -> Resolution + Send + Sync>,
    /// Starts a thread; `false` if that fails.
    start: Box<dyn Fn(Task) -> bool + Send + Sync>,
}

type Task = Box<dyn FnOnce() + Send>;

/// A name in lower case, so that all spellings are one name.
type Name = String;

/// A request that waits for a name.
struct Waiter {
    port: u16,
    until: Instant,
    answer: Box<dyn FnOnce(Resolution) + Send>,
}

/// A name that is queued or being looked up.
struct Pending {
    waiters: Vec<Waiter>,
    /// When a thread took it; `None` while it is queued.
    since: Option<Instant>,
}

/// A queued name as it was first asked for, and the client that asked first.
struct Queued {
    host: HostPort,
    client: IpAddr,
}

#[derive(Default)]
struct State {
    /// The cache: what was found, and when, with the port of the first request.
    found: HashMap<Name, (Instant, Resolution)>,
    /// Names for which no name server answered, and when that was found out.
    hanging: HashMap<Name, Instant>,
    pending: HashMap<Name, Pending>,
    /// Invariant: empty while `threads` is 0.
    queue: VecDeque<Queued>,
    /// How many names threads are looking up for each client, which is the one that asked first.
    under_way: HashMap<IpAddr, usize>,
    /// Their sum.
    busy: usize,
    /// Threads that are running.
    threads: usize,
    /// Threads that are being started, which may fail.
    starting: usize,
    /// Running threads that wait for a name.
    idle: usize,
}

impl Default for OriginResolver {
    /// Resolves names as the system does, and starts with an empty cache.
    fn default() -> OriginResolver {
        let start = |task| thread::Builder::new().name("names".into()).spawn(task).is_ok();
        OriginResolver::of(System { look_up: Box::new(look_up), start: Box::new(start) })
    }
}

impl OriginResolver {
    fn of(system: System) -> OriginResolver {
        OriginResolver { shared: Arc::new(Shared { system, state: Mutex::default(), called: Condvar::new() }) }
    }

    /// Asks for a name's addresses, with the port of `host`. `answer` is called from another thread, or at once if the
    /// name is cached. It is not called if the asker's patience ends first, or if the result is not
    /// [`LookupReply::Accepted`].
    ///
    /// The request is [`LookupReply::Declined`] when [`limits::LOOKUP_WAITERS`] requests wait for the name already,
    /// when the queue of [`limits::LOOKUP_QUEUE`] names has no room left for this client, or when no thread runs and
    /// none can be started.
    pub fn ask(
        &self,
        host: HostPort,
        asker: LookupClient,
        answer: impl FnOnce(Resolution) + Send + 'static,
    ) -> LookupReply {
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
            waiter.answer(&resolution);
            return LookupReply::Accepted;
        }
        if state.hangs(&name, now, asker.patience) {
            return LookupReply::Hangs;
        }
        if let Some(pending) = state.pending.get_mut(&name) {
            if pending.waiters.len() >= limits::LOOKUP_WAITERS {
                return LookupReply::Declined;
            }
            pending.waiters.push(waiter);
            return LookupReply::Accepted;
        }
        if state.threads == 0 || !state.has_room_for(asker.client, now) {
            return LookupReply::Declined;
        }
        state.queue.push_back(Queued { host, client: asker.client });
        state.pending.insert(name, Pending { waiters: vec![waiter], since: None });
        self.shared.called.notify_one();
        // Only now: earlier, it would be idle, and another client's name would count on it.
        drop(newcomer);
        LookupReply::Accepted
    }

    /// Starts a thread that begins to work when the returned sender is dropped; `None` if that fails. This takes long
    /// on a busy machine, so the state must not be locked.
    fn start_thread(&self) -> Option<Sender<()>> {
        let (hold, held) = mpsc::channel::<()>();
        let shared = Arc::clone(&self.shared);
        let task = move || {
            // Returns an error when the sender is dropped.
            let _ = held.recv();
            shared.work();
        };
        (self.shared.system.start)(Box::new(task)).then_some(hold)
    }
}

impl Waiter {
    fn answer(self, found: &Resolution) {
        (self.answer)(at_port(found, self.port));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks up names from the queue until it has been empty for [`limits::LOOKUP_THREAD_IDLE`].
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
            // Even if every asker has given up meanwhile: the next one finds the answer in the cache.
            let resolution = (self.system.look_up)(&host);
            let waiters = self.lock().looked_up(name_of(&host), client, &resolution, began.elapsed());
            waiters.into_iter().for_each(|waiter| waiter.answer(&resolution));
            state = self.lock();
            // This thread is free again, so several clients' shares have grown.
            if state.idle > 0 && !state.queue.is_empty() {
                self.called.notify_all();
            }
        }
    }
}

impl State {
    /// Whether one more name of this client may be looked up now: the fewer threads are free, the smaller is each
    /// client's share.
    fn may_start(&self, client: IpAddr) -> bool {
        let free = limits::LOOKUP_THREADS.saturating_sub(self.busy);
        free > 0 && self.under_way.get(&client).copied().unwrap_or_default() < free * limits::LOOKUP_SHARE
    }

    /// Whether a request for this name needs one more thread, and one may be started.
    fn needs_thread(&self, name: &Name, client: IpAddr) -> bool {
        self.threads + self.starting < limits::LOOKUP_THREADS
            && (self.threads == 0 || self.may_start(client))
            && self.idle <= self.queue.iter().filter(|queued| self.may_start(queued.client)).count()
            && !self.pending.contains_key(name)
            && self.recall(name).is_none()
    }

    /// Takes the next name from the queue: of the client for which the fewest names are being looked up. Names that all
    /// askers have given up are dropped.
    fn take_next(&mut self, now: Instant) -> Option<Queued> {
        self.drop_abandoned(now);
        let of = |client: &IpAddr| self.under_way.get(client).copied().unwrap_or_default();
        let startable = self.queue.iter().enumerate().filter(|(_, queued)| self.may_start(queued.client));
        let (index, _) = startable.min_by_key(|(index, queued)| (of(&queued.client), *index))?;
        let queued = self.queue.remove(index)?;
        *self.under_way.entry(queued.client).or_default() += 1;
        self.busy += 1;
        if let Some(pending) = self.pending.get_mut(&name_of(&queued.host)) {
            pending.since = Some(now);
        }
        Some(queued)
    }

    fn drop_abandoned(&mut self, now: Instant) {
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

    /// Whether the queue has room for one more name of this client: the fuller the queue, the smaller is each client's
    /// share.
    fn has_room_for(&mut self, client: IpAddr, now: Instant) -> bool {
        if self.queue.len() >= limits::LOOKUP_QUEUE {
            self.drop_abandoned(now);
        }
        let free = limits::LOOKUP_QUEUE.saturating_sub(self.queue.len());
        free > 0 && self.queue.iter().filter(|queued| queued.client == client).count() < free * limits::LOOKUP_SHARE
    }

    fn recall(&self, name: &Name) -> Option<Resolution> {
        self.found.get(name).filter(|found| is_fresh(found.0, limits::RESOLVED_AGE)).map(|found| found.1.clone())
    }

    /// Whether the lookup has taken longer than this asker would wait, or no name server answered for the name
    /// recently.
    fn hangs(&self, name: &Name, now: Instant, patience: Duration) -> bool {
        let long = patience.min(limits::LOOKUP_HUNG_AFTER);
        let since = self.pending.get(name).and_then(|pending| pending.since);
        since.is_some_and(|since| now.saturating_duration_since(since) >= long)
            || self.hanging.get(name).is_some_and(|found_out| is_fresh(*found_out, limits::LOOKUP_HUNG_AGE))
    }

    /// Records the outcome of a lookup and returns the requests that wait for it.
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

/// Adds an entry to a table of at most [`limits::RESOLVED_NAMES`]. If the table is full, expired entries make room; if
/// there are none, the entry is not added.
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

/// The addresses with another port; everything else, such as an IPv6 scope, stays.
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
