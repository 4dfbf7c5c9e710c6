//! Looking up origins' names for tunnels that lead straight to them: on threads of their own, with a short memory.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::HostPort;
use super::resolver::{Resolution, look_up};
use crate::limits;

type Answer = Box<dyn FnOnce(Resolution) + Send>;

/// What was found lately, and when.
type Memory = Mutex<HashMap<HostPort, (Instant, Resolution)>>;

/// The way to ask. The threads end with the last of these.
#[derive(Clone)]
pub struct Names {
    questions: SyncSender<(HostPort, Answer)>,
}

impl Names {
    /// Starts the threads.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start() -> io::Result<Names> {
        let (questions, queue) = mpsc::sync_channel::<(HostPort, Answer)>(limits::NAME_QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let memory: Arc<Memory> = Arc::default();
        for _ in 0..limits::NAME_THREADS {
            let (queue, memory) = (Arc::clone(&queue), Arc::clone(&memory));
            thread::Builder::new().name("names".into()).spawn(move || {
                loop {
                    // The lock is held while waiting: one thread waits, the others wait for it.
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((host, answer)) = next else { return };
                    answer(recall(&memory, host));
                }
            })?;
        }
        Ok(Names { questions })
    }

    /// Asks for a name's addresses; `answer` is called from another thread. `false` when too many questions wait already.
    pub fn ask(&self, host: HostPort, answer: impl FnOnce(Resolution) + Send + 'static) -> bool {
        self.questions.try_send((host, Box::new(answer))).is_ok()
    }
}

/// What is known of a name, or else what is found now.
fn recall(memory: &Memory, host: HostPort) -> Resolution {
    let lock = || memory.lock().unwrap_or_else(PoisonError::into_inner);
    let fresh = |found: &(Instant, Resolution), age: Duration| found.0.elapsed() < age;
    if let Some(found) = lock().get(&host).filter(|found| fresh(found, limits::NAME_AGE)) {
        return found.1.clone();
    }
    let resolution = look_up(&host);
    if matches!(resolution, Resolution::Addresses(_)) {
        let mut known = lock();
        if known.len() >= limits::NAMES_KEPT {
            known.retain(|_, found| fresh(found, limits::NAME_AGE));
        }
        if known.len() < limits::NAMES_KEPT {
            known.insert(host, (Instant::now(), resolution.clone()));
        }
    }
    resolution
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_remembered() {
        let names = Names::start().unwrap();
        let ask = |host: &str| {
            let (answer, answers) = mpsc::channel();
            assert!(names.ask(host.parse().unwrap(), move |resolution| drop(answer.send(resolution))));
            answers.recv_timeout(Duration::from_secs(20)).unwrap()
        };
        let Resolution::Addresses(first) = ask("localhost:80") else { panic!("localhost has no address") };
        let Resolution::Addresses(second) = ask("localhost:80") else { panic!("localhost has no address") };
        assert!(Arc::ptr_eq(&first, &second), "the second answer comes from memory");
        assert!(matches!(ask("no-such-name.invalid:80"), Resolution::Failed(_)));
    }
}
