//! Clients that press on a gateway, whatever it answers.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::client::connect_name;

/// How long clients pause after an answer: each for another time, so that there is always one that asks.
const SHORTEST_PAUSE_MS: u64 = 500;
const LONGEST_PAUSE_MS: u64 = 2_500;

/// Enough for a client; there are hundreds.
const STACK_BYTES: usize = 128 * 1024;

/// Clients of one gateway, each on a thread. They end when this is dropped.
pub struct Crowd {
    tally: Arc<Tally>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Tally {
    ends: AtomicBool,
    served: AtomicUsize,
    not_served: AtomicUsize,
}

impl Crowd {
    /// Starts so many clients. All of them connect at once, and again after each answer and a pause: to `target`, or to
    /// the echo server of a stub.
    pub fn start(gateway: SocketAddr, clients: usize, target: Option<&str>) -> Self {
        let tally = Arc::new(Tally::default());
        let start = |number: usize| {
            let tally = Arc::clone(&tally);
            let target = target.map_or_else(|| format!("echo.test:{}", 1_000 + number % 8), str::to_owned);
            let press = move || press(gateway, &target, &tally);
            thread::Builder::new().stack_size(STACK_BYTES).spawn(press).expect("a thread")
        };
        let clients = (0..clients).map(start).collect();
        Self { tally, clients }
    }

    /// How many requests got a tunnel.
    pub fn served(&self) -> usize {
        self.tally.served.load(Ordering::Relaxed)
    }

    /// How many got something else, or no answer.
    pub fn not_served(&self) -> usize {
        self.tally.not_served.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.tally.ends.store(true, Ordering::Relaxed);
        self.clients.iter().for_each(|client| client.thread().unpark());
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

fn press(gateway: SocketAddr, target: &str, tally: &Tally) {
    let hasher = RandomState::new();
    for round in 0_u64.. {
        if tally.ends.load(Ordering::Relaxed) {
            return;
        }
        let is_served = connect_name(gateway, target).is_ok_and(|answer| answer.status() == 200);
        let count = if is_served { &tally.served } else { &tally.not_served };
        count.fetch_add(1, Ordering::Relaxed);
        let spread_ms = hasher.hash_one(round) % (LONGEST_PAUSE_MS - SHORTEST_PAUSE_MS);
        thread::park_timeout(Duration::from_millis(SHORTEST_PAUSE_MS + spread_ms));
    }
}
