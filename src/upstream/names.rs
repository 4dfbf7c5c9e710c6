//! Looking up origins' names for tunnels that lead straight to them: on threads of their own, with a short memory.
//!
//! What is remembered needs no thread, and a name keeps one thread however many ask for it, so that names whose server does not answer
//! hold up only those who ask for them, as long as there are fewer of them than [`limits::NAME_THREADS`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::HostPort;
use super::resolver::{Resolution, look_up};
use crate::limits;

type Answer = Box<dyn FnOnce(Resolution) + Send>;

type LookUp = fn(&HostPort) -> Resolution;

/// The way to ask. Threads end when they have had nothing to do for a while.
#[derive(Clone)]
pub struct Names {
    shared: Arc<Shared>,
}

struct Shared {
    look_up: LookUp,
    state: Mutex<State>,
    /// There is a name in the queue.
    called: Condvar,
}

#[derive(Default)]
struct State {
    /// What was found lately, and when.
    found: HashMap<HostPort, (Instant, Resolution)>,
    /// Who waits for each name that is being looked up or is to be.
    waiting: HashMap<HostPort, Vec<Answer>>,
    /// Invariant: the sum of those.
    questions: usize,
    /// Names that no thread has taken yet, and since when they are there.
    queue: VecDeque<(Instant, HostPort)>,
    threads: usize,
    /// Threads that wait for a name.
    idle: usize,
}

impl Default for Names {
    /// Looks names up the way the system does, and remembers nothing yet.
    fn default() -> Names {
        Names::looking_up_by(look_up)
    }
}

impl Names {
    fn looking_up_by(look_up: LookUp) -> Names {
        Names { shared: Arc::new(Shared { look_up, state: Mutex::default(), called: Condvar::new() }) }
    }

    /// Asks for a name's addresses; `answer` is called from another thread, or at once if they are remembered. `false` when too many
    /// questions wait already.
    pub fn ask(&self, host: HostPort, answer: impl FnOnce(Resolution) + Send + 'static) -> bool {
        let mut state = self.shared.lock();
        if let Some(resolution) = state.recall(&host) {
            drop(state);
            answer(resolution);
            return true;
        }
        if state.questions >= limits::NAME_QUEUE {
            return false;
        }
        if let Some(others) = state.waiting.get_mut(&host) {
            others.push(Box::new(answer));
        } else {
            if state.idle <= state.queue.len() && !self.start_thread(&mut state) {
                return false;
            }
            state.queue.push_back((Instant::now(), host.clone()));
            state.waiting.insert(host, vec![Box::new(answer)]);
            self.shared.called.notify_one();
        }
        state.questions += 1;
        true
    }

    /// One more thread, if there may be one; `false` when there is none at all.
    fn start_thread(&self, state: &mut State) -> bool {
        if state.threads < limits::NAME_THREADS {
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new().name("names".into()).spawn(move || shared.work());
            state.threads += usize::from(started.is_ok());
        }
        state.threads > 0
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
            let Some((since, host)) = state.queue.pop_front() else {
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
            let resolution = match since.elapsed() < limits::NAME_PATIENCE {
                true => (self.look_up)(&host),
                false => Resolution::Failed("too many names are being looked up".into()),
            };
            let answers = self.lock().looked_up(host, &resolution);
            answers.into_iter().for_each(|answer| answer(resolution.clone()));
            state = self.lock();
        }
    }
}

impl State {
    fn recall(&self, host: &HostPort) -> Option<Resolution> {
        self.found.get(host).filter(|found| is_fresh(found, limits::NAME_AGE)).map(|found| found.1.clone())
    }

    /// Remembers what was found, and gives those who wait for it.
    fn looked_up(&mut self, host: HostPort, resolution: &Resolution) -> Vec<Answer> {
        let answers = self.waiting.remove(&host).unwrap_or_default();
        self.questions -= answers.len();
        if matches!(resolution, Resolution::Addresses(_)) {
            if self.found.len() >= limits::NAMES_KEPT {
                self.found.retain(|_, found| is_fresh(found, limits::NAME_AGE));
            }
            // One that is no longer fresh is replaced, whether or not there is room.
            if self.found.len() < limits::NAMES_KEPT || self.found.contains_key(&host) {
                self.found.insert(host, (Instant::now(), resolution.clone()));
            }
        }
        answers
    }
}

fn is_fresh(found: &(Instant, Resolution), age: Duration) -> bool {
    found.0.elapsed() < age
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{self, Receiver};

    const BOUND: Duration = Duration::from_secs(20);

    fn ask(names: &Names, host: &str) -> Receiver<Resolution> {
        let (answer, answers) = mpsc::channel();
        assert!(names.ask(host.parse().unwrap(), move |resolution| drop(answer.send(resolution))), "{host}");
        answers
    }

    #[test]
    fn a_name_is_looked_up_and_remembered() {
        let names = Names::default();
        let ask = |host| ask(&names, host).recv_timeout(BOUND).unwrap();
        let Resolution::Addresses(first) = ask("localhost:80") else { panic!("localhost has no address") };
        let Resolution::Addresses(second) = ask("localhost:80") else { panic!("localhost has no address") };
        assert!(Arc::ptr_eq(&first, &second), "the second answer comes from memory");
        assert!(matches!(ask("no-such-name.invalid:80"), Resolution::Failed(_)));
    }

    #[test]
    fn names_that_are_not_answered_hold_up_only_those_who_ask_for_them_and_one_thread_each() {
        static GATE: Mutex<()> = Mutex::new(());
        static HANGING: AtomicUsize = AtomicUsize::new(0);
        let names = Names::looking_up_by(|host| {
            if host.host().starts_with("hangs") {
                HANGING.fetch_add(1, Ordering::SeqCst);
                drop(GATE.lock());
            }
            Resolution::Addresses([SocketAddr::from(([127, 0, 0, 1], host.port()))].into())
        });
        let gate = GATE.lock();
        let quick = ask(&names, "remembered.test:1");
        quick.recv_timeout(BOUND).unwrap();
        let hanging = limits::NAME_THREADS - 1;
        let slow: Vec<_> =
            (0..4 * hanging).map(|number| ask(&names, &format!("hangs{}.test:1", number % hanging))).collect();
        ask(&names, "other.test:1").recv_timeout(BOUND).unwrap();
        // With this one no thread is left, and memory still serves.
        let last = ask(&names, "hangs-last.test:1");
        ask(&names, "remembered.test:1").recv_timeout(BOUND).unwrap();
        assert!(HANGING.load(Ordering::SeqCst) <= limits::NAME_THREADS);
        assert!(slow.iter().chain([&last]).all(|answers| answers.try_recv().is_err()));
        drop(gate);
        for answers in slow.iter().chain([&last]) {
            answers.recv_timeout(BOUND).unwrap();
        }
        assert_eq!(HANGING.load(Ordering::SeqCst), limits::NAME_THREADS, "each was looked up once");
        assert_eq!(names.shared.lock().questions, 0);
    }

    #[test]
    fn past_the_bound_a_question_is_declined() {
        static GATE: Mutex<()> = Mutex::new(());
        let names = Names::looking_up_by(|_| {
            drop(GATE.lock());
            Resolution::Failed("late".into())
        });
        let gate = GATE.lock();
        let slow: Vec<_> = (0..limits::NAME_QUEUE).map(|number| ask(&names, &format!("n{number}.test:1"))).collect();
        assert!(!names.ask("one-more.test:1".parse().unwrap(), |_| {}));
        assert!(names.shared.lock().threads <= limits::NAME_THREADS);
        drop(gate);
        for answers in &slow {
            answers.recv_timeout(BOUND).unwrap();
        }
        ask(&names, "one-more.test:1").recv_timeout(BOUND).unwrap();
    }
}
