//! A relay in front of an upstream that records what the gateway sends and can hold back the upstream's answers.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::client::PATIENCE;
use super::listener::Listener;

/// A relay in front of one upstream.
pub struct Tap {
    listener: Listener,
    state: Arc<TapState>,
}

struct TapState {
    upstream: SocketAddr,
    /// The bytes that the last connection sent.
    recorded: Mutex<Vec<u8>>,
    /// Answers are held back.
    held: Mutex<bool>,
    released: Condvar,
    /// New connections are closed.
    down: AtomicBool,
    accepted: AtomicUsize,
}

impl Tap {
    /// Relays to `upstream`.
    pub fn start(upstream: SocketAddr) -> Self {
        let state = Arc::new(TapState {
            upstream,
            recorded: Mutex::default(),
            held: Mutex::new(false),
            released: Condvar::new(),
            down: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
        });
        let seen = Arc::clone(&state);
        Self { listener: Listener::start(move |near| seen.relay(&near)), state }
    }

    /// The address that the gateway must use as its upstream.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Sets whether new connections are closed at once.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// Sets whether answers are held back.
    pub fn hold(&self, held: bool) {
        *self.state.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        self.state.released.notify_all();
    }

    /// How many bytes the last connection has sent.
    pub fn bytes_sent(&self) -> usize {
        self.state.recorded.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The last NTLM message that the last connection has sent, if any.
    pub fn last_message(&self) -> Option<Vec<u8>> {
        let recorded = self.state.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&recorded);
        let mut fields = text.lines().filter_map(|line| line.strip_prefix("Proxy-Authorization: NTLM "));
        fields.next_back().and_then(|token| STANDARD.decode(token.trim()).ok())
    }
}

impl TapState {
    fn relay(&self, near: &TcpStream) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            return;
        }
        let Ok(far) = TcpStream::connect_timeout(&self.upstream, PATIENCE) else { return };
        let _ = far.set_nodelay(true);
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clear();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                self.pump(near, &far, |bytes| {
                    self.recorded.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
                });
            });
            self.pump(&far, near, |_| {
                let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = self.released.wait_timeout_while(held, PATIENCE, |held| *held);
            });
        });
    }

    /// Copies bytes in one direction until an end or a failure, and passes either on as an end.
    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream, before: impl Fn(&[u8])) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            before(&buffer[..count]);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
