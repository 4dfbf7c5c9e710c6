//! The way to an upstream, which fails on demand: a TCP relay that resets, ends or stalls its connections.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use super::listener::Listener;

/// Seen from the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What the gateway sends.
    Up,
    /// What the gateway gets.
    Down,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By a RST.
    Reset,
    /// By a FIN, whatever the gateway still sends.
    Finish,
    /// Not at all: nothing comes and nothing is read any more.
    Stall,
}

/// A connection that is to fail once so many bytes have passed one way.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Whose bytes count.
    pub way: Way,
    /// How many pass; 0 fails before anything is read.
    pub after: u64,
    /// What happens then.
    pub how: How,
}

/// A relay in front of one upstream.
pub struct Cutter {
    listener: Listener,
    state: Arc<State>,
}

struct State {
    upstream: SocketAddr,
    /// For connections to come, and for how many of them.
    armed: Mutex<Option<(Cut, usize)>>,
    /// New connections are reset.
    down: AtomicBool,
    living: Mutex<Vec<Weak<Pair>>>,
    /// Nobody reads or writes them, but they are open.
    stalled: Mutex<Vec<Arc<Pair>>>,
    accepted: AtomicU64,
    /// Bytes that the last connection moved, up and down.
    moved: [AtomicU64; 2],
}

struct Pair {
    near: TcpStream,
    far: TcpStream,
    over: AtomicBool,
}

impl Cutter {
    /// Relays to `upstream`, faithfully until told otherwise.
    pub fn start(upstream: SocketAddr) -> Self {
        let state = Arc::new(State {
            upstream,
            armed: Mutex::default(),
            down: AtomicBool::new(false),
            living: Mutex::default(),
            stalled: Mutex::default(),
            accepted: AtomicU64::new(0),
            moved: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        let for_listener = Arc::clone(&state);
        let listener = Listener::start(move |near| relay(near, &for_listener));
        Self { listener, state }
    }

    /// Where the gateway is to go.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The next `count` connections fail so.
    pub fn arm(&self, cut: Cut, count: usize) {
        *lock(&self.state.armed) = Some((cut, count));
    }

    /// No further connection fails.
    pub fn disarm(&self) {
        *lock(&self.state.armed) = None;
    }

    /// Whether new connections are reset at once.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// Resets all connections.
    pub fn reset_all(&self) {
        for pair in std::mem::take(&mut *lock(&self.state.living)) {
            if let Some(pair) = pair.upgrade() {
                pair.end(How::Reset);
            }
        }
    }

    /// Connections so far.
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Bytes that the last connection has moved, up and down.
    pub fn moved(&self) -> (u64, u64) {
        (self.state.moved[0].load(Ordering::SeqCst), self.state.moved[1].load(Ordering::SeqCst))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reset(stream: &TcpStream) {
    // It can only fail for a socket that is gone.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

fn relay(near: TcpStream, state: &State) {
    state.accepted.fetch_add(1, Ordering::SeqCst);
    let far = TcpStream::connect_timeout(&state.upstream, Duration::from_secs(5));
    let (false, Ok(far)) = (state.down.load(Ordering::SeqCst), far) else { return reset(&near) };
    let _ = far.set_nodelay(true);
    let cut = {
        let mut armed = lock(&state.armed);
        let cut = armed.filter(|(_, left)| *left > 0).map(|(cut, _)| cut);
        *armed = armed.map(|(cut, left)| (cut, left.saturating_sub(1)));
        cut
    };
    let pair = Arc::new(Pair { near, far, over: AtomicBool::new(false) });
    {
        let mut living = lock(&state.living);
        living.retain(|pair| pair.strong_count() > 0);
        living.push(Arc::downgrade(&pair));
    }
    // It may have been told to go down between the first look and now.
    if state.down.load(Ordering::SeqCst) {
        return pair.end(How::Reset);
    }
    state.moved.iter().for_each(|moved| moved.store(0, Ordering::SeqCst));
    if cut.is_some_and(|cut| cut.how == How::Stall) {
        lock(&state.stalled).push(Arc::clone(&pair));
    }
    if let Some(Cut { after: 0, how, .. }) = cut {
        pair.end(how);
        return pair.linger(how);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| pair.pump(Way::Up, cut, &state.moved[0]));
        pair.pump(Way::Down, cut, &state.moved[1]);
    });
}

impl Pair {
    fn end(&self, how: How) {
        self.over.store(true, Ordering::SeqCst);
        match how {
            // The RST itself goes out when the last thread lets go of the socket; this wakes it and sends nothing.
            How::Reset => {
                reset(&self.near);
                let _ = self.near.shutdown(Shutdown::Read);
            }
            How::Finish => drop(self.near.shutdown(Shutdown::Write)),
            How::Stall => {}
        }
        reset(&self.far);
        let _ = self.far.shutdown(Shutdown::Both);
    }

    /// Reads past what the gateway still sends on a connection that was ended towards it.
    fn linger(&self, how: How) {
        let mut buffer = [0; 4096];
        while how == How::Finish && matches!((&self.near).read(&mut buffer), Ok(1..)) {}
    }

    fn pump(&self, way: Way, cut: Option<Cut>, moved: &AtomicU64) {
        let (mut from, mut to) = match way {
            Way::Up => (&self.near, &self.far),
            Way::Down => (&self.far, &self.near),
        };
        let cut = cut.filter(|cut| cut.way == way);
        let (mut buffer, mut total) = (vec![0; 64 * 1024], 0);
        loop {
            let left = cut.map_or(u64::MAX, |cut| cut.after - total);
            let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match from.read(&mut buffer[..room]) {
                Ok(count) if !self.over.load(Ordering::SeqCst) => count,
                // A reset at either end is one at the other.
                Err(_) if !self.over.load(Ordering::SeqCst) => return self.end(How::Reset),
                _ => return,
            };
            if count == 0 {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            if to.write_all(&buffer[..count]).is_err() {
                if !self.over.load(Ordering::SeqCst) {
                    self.end(How::Reset);
                }
                return;
            }
            total += count as u64;
            moved.fetch_add(count as u64, Ordering::SeqCst);
            if let Some(cut) = cut.filter(|cut| cut.after == total) {
                self.end(cut.how);
                return self.linger(cut.how);
            }
        }
    }
}
