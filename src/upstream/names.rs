//! Looking up origins' names for tunnels that lead straight to them: on threads of their own, with a short memory.
//!
//! What is remembered needs no thread, and a name keeps one thread however many ask for it, for whichever port and in whichever letter
//! case. So names whose server does not answer hold up only those who ask for them, as long as there are fewer of them than
//! [`limits::NAME_THREADS`]. A final dot makes another name: the system tries its search domains only without one (resolv.conf(5)), and
//! what it finds with and without may be two different hosts.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::HostPort;
use super::resolver::{Resolution, look_up};
use crate::limits;

/// The way to ask. Threads end when they have had nothing to do for a while.
#[derive(Clone)]
pub struct Names {
    shared: Arc<Shared>,
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
struct Asker {
    port: u16,
    answer: Box<dyn FnOnce(Resolution) + Send>,
}

#[derive(Default)]
struct State {
    /// What was found lately, and when; with any port.
    found: HashMap<Name, (Instant, Resolution)>,
    /// Who waits for each name that is being looked up or is to be.
    waiting: HashMap<Name, Vec<Asker>>,
    /// Names that no thread has taken yet, as they were first asked for. Invariant: empty while `threads` is 0.
    queue: VecDeque<HostPort>,
    /// Threads that stand.
    threads: usize,
    /// Threads that are being started, and may fail to.
    starting: usize,
    /// Threads that wait for a name.
    idle: usize,
}

impl Default for Names {
    /// Looks names up the way the system does, and remembers nothing yet.
    fn default() -> Names {
        let start = |task| thread::Builder::new().name("names".into()).spawn(task).is_ok();
        Names::of(System { look_up: Box::new(look_up), start: Box::new(start) })
    }
}

impl Names {
    fn of(system: System) -> Names {
        Names { shared: Arc::new(Shared { system, state: Mutex::default(), called: Condvar::new() }) }
    }

    /// Asks for a name's addresses, with the port put in; `answer` is called from another thread, or at once if they are remembered.
    /// `false`, and no answer, when [`limits::NAME_ASKERS`] wait for the name already or [`limits::NAME_QUEUE`] names for a thread, or
    /// when there is no thread and none can be started.
    pub fn ask(&self, host: HostPort, answer: impl FnOnce(Resolution) + Send + 'static) -> bool {
        let name = name_of(&host);
        let asker = Asker { port: host.port(), answer: Box::new(answer) };
        let mut state = self.shared.lock();
        let mut newcomer = None;
        if state.needs_thread(&name) {
            state.starting += 1;
            drop(state);
            newcomer = self.start_thread();
            state = self.shared.lock();
            state.starting -= 1;
            state.threads += usize::from(newcomer.is_some());
        }
        if let Some(resolution) = state.recall(&name) {
            drop(state);
            asker.tell(&resolution);
            return true;
        }
        if let Some(others) = state.waiting.get_mut(&name) {
            let has_room = others.len() < limits::NAME_ASKERS;
            if has_room {
                others.push(asker);
            }
            return has_room;
        }
        if state.threads == 0 || state.queue.len() >= limits::NAME_QUEUE {
            return false;
        }
        state.queue.push_back(host);
        state.waiting.insert(name, vec![asker]);
        self.shared.called.notify_one();
        // Only now, or it would wait for a name like any idle one, and another asker's name would count on it.
        drop(newcomer);
        true
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

impl Asker {
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
            let Some(host) = state.queue.pop_front() else {
                state.idle += 1;
                let waited = self.called.wait_timeout(state, limits::NAME_THREAD_REST);
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
            // Late or not: who has given up does not mind the answer, and the next who asks finds it remembered.
            let resolution = (self.system.look_up)(&host);
            let askers = self.lock().looked_up(name_of(&host), &resolution);
            askers.into_iter().for_each(|asker| asker.tell(&resolution));
            state = self.lock();
        }
    }
}

impl State {
    /// Whether a name that is asked for now wants a look-up for which no thread is free, and one more may be started.
    fn needs_thread(&self, name: &Name) -> bool {
        self.threads + self.starting < limits::NAME_THREADS
            && self.idle <= self.queue.len()
            && !self.waiting.contains_key(name)
            && self.recall(name).is_none()
    }

    fn recall(&self, name: &Name) -> Option<Resolution> {
        self.found.get(name).filter(|found| is_fresh(found, limits::NAME_AGE)).map(|found| found.1.clone())
    }

    /// Remembers what was found, and gives those who wait for it.
    fn looked_up(&mut self, name: Name, resolution: &Resolution) -> Vec<Asker> {
        let askers = self.waiting.remove(&name).unwrap_or_default();
        if matches!(resolution, Resolution::Addresses(_)) {
            if self.found.len() >= limits::NAMES_KEPT {
                self.found.retain(|_, found| is_fresh(found, limits::NAME_AGE));
            }
            // One that is no longer fresh is replaced, whether or not there is room.
            if self.found.len() < limits::NAMES_KEPT || self.found.contains_key(&name) {
                self.found.insert(name, (Instant::now(), resolution.clone()));
            }
        }
        askers
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

fn is_fresh(found: &(Instant, Resolution), age: Duration) -> bool {
    found.0.elapsed() < age
}

#[cfg(test)]
mod tests;
