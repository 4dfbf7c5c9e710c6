//! A TCP relay in front of an upstream that resets, ends or stalls connections on demand.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use super::listener::Listener;

/// A direction of a connection, seen from the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the gateway sends.
    Up,
    /// What the gateway receives.
    Down,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutKind {
    /// With a RST.
    Reset,
    /// With a FIN, whatever the gateway still sends.
    Finish,
    /// Not at all: nothing is sent and nothing is read any more.
    Stall,
}

/// Makes a connection fail after a number of bytes in one direction.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// The direction in which bytes count.
    pub direction: Direction,
    /// How many bytes pass; with 0 it fails before anything is read.
    pub after: u64,
    /// How it fails.
    pub kind: CutKind,
}

/// A relay in front of one upstream.
pub struct Cutter {
    listener: Listener,
    state: Arc<CutterState>,
}

struct CutterState {
    upstream: SocketAddr,
    /// The cut for the next connections, and for how many of them.
    armed: Mutex<Option<(Cut, usize)>>,
    /// New connections are reset.
    down: AtomicBool,
    open: Mutex<Vec<Weak<RelayedConnection>>>,
    /// Connections that stay open, without reads and writes.
    stalled: Mutex<Vec<Arc<RelayedConnection>>>,
    accepted: AtomicU64,
    /// Bytes that the last connection moved, up and down.
    moved: [AtomicU64; 2],
}

struct RelayedConnection {
    near: TcpStream,
    far: TcpStream,
    over: AtomicBool,
}

impl Cutter {
    /// Relays to `upstream`, without failures until [`Cutter::arm`].
    pub fn start(upstream: SocketAddr) -> Self {
        let state = Arc::new(CutterState {
            upstream,
            armed: Mutex::default(),
            down: AtomicBool::new(false),
            open: Mutex::default(),
            stalled: Mutex::default(),
            accepted: AtomicU64::new(0),
            moved: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        let for_listener = Arc::clone(&state);
        let listener = Listener::start(move |near| relay(near, &for_listener));
        Self { listener, state }
    }

    /// The address that the gateway must use as its upstream.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Makes the next `count` connections fail.
    pub fn arm(&self, cut: Cut, count: usize) {
        *lock(&self.state.armed) = Some((cut, count));
    }

    /// Makes no further connection fail.
    pub fn disarm(&self) {
        *lock(&self.state.armed) = None;
    }

    /// Sets whether new connections are reset at once.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// Resets all connections.
    pub fn reset_all(&self) {
        for pair in std::mem::take(&mut *lock(&self.state.open)) {
            if let Some(pair) = pair.upgrade() {
                pair.end(CutKind::Reset);
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
    // Fails only for a socket that is already closed.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

fn relay(near: TcpStream, state: &CutterState) {
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
    let pair = Arc::new(RelayedConnection { near, far, over: AtomicBool::new(false) });
    {
        let mut open = lock(&state.open);
        open.retain(|pair| pair.strong_count() > 0);
        open.push(Arc::downgrade(&pair));
    }
    // It may have been set to down since the first check.
    if state.down.load(Ordering::SeqCst) {
        return pair.end(CutKind::Reset);
    }
    state.moved.iter().for_each(|moved| moved.store(0, Ordering::SeqCst));
    if cut.is_some_and(|cut| cut.kind == CutKind::Stall) {
        lock(&state.stalled).push(Arc::clone(&pair));
    }
    if let Some(Cut { after: 0, kind, .. }) = cut {
        pair.end(kind);
        return pair.linger(kind);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| pair.pump(Direction::Up, cut, &state.moved[0]));
        pair.pump(Direction::Down, cut, &state.moved[1]);
    });
}

impl RelayedConnection {
    fn end(&self, kind: CutKind) {
        self.over.store(true, Ordering::SeqCst);
        match kind {
            // The RST is sent when the last thread closes the socket. This shutdown only wakes that thread.
            CutKind::Reset => {
                reset(&self.near);
                let _ = self.near.shutdown(Shutdown::Read);
            }
            CutKind::Finish => drop(self.near.shutdown(Shutdown::Write)),
            CutKind::Stall => {}
        }
        reset(&self.far);
        let _ = self.far.shutdown(Shutdown::Both);
    }

    /// After a FIN, discards what the gateway still sends.
    fn linger(&self, kind: CutKind) {
        let mut buffer = [0; 4096];
        while kind == CutKind::Finish && matches!((&self.near).read(&mut buffer), Ok(1..)) {}
    }

    fn pump(&self, direction: Direction, cut: Option<Cut>, moved: &AtomicU64) {
        let (mut from, mut to) = match direction {
            Direction::Up => (&self.near, &self.far),
            Direction::Down => (&self.far, &self.near),
        };
        let cut = cut.filter(|cut| cut.direction == direction);
        let (mut buffer, mut total) = (vec![0; 64 * 1024], 0);
        loop {
            let left = cut.map_or(u64::MAX, |cut| cut.after - total);
            let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match from.read(&mut buffer[..room]) {
                Ok(count) if !self.over.load(Ordering::SeqCst) => count,
                // Passes a reset at one end on to the other.
                Err(_) if !self.over.load(Ordering::SeqCst) => return self.end(CutKind::Reset),
                _ => return,
            };
            if count == 0 {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            // Before they are written, so that a peer that has received them finds them counted.
            moved.fetch_add(count as u64, Ordering::SeqCst);
            total += count as u64;
            if to.write_all(&buffer[..count]).is_err() {
                if !self.over.load(Ordering::SeqCst) {
                    self.end(CutKind::Reset);
                }
                return;
            }
            if let Some(cut) = cut.filter(|cut| cut.after == total) {
                self.end(cut.kind);
                return self.linger(cut.kind);
            }
        }
    }
}
