//! The way to an upstream, listened to: what the gateway sends is kept, and what the upstream answers can be held back.

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
    state: Arc<State>,
}

struct State {
    upstream: SocketAddr,
    /// What the last connection sent.
    heard: Mutex<Vec<u8>>,
    /// Answers wait.
    held: Mutex<bool>,
    let_go: Condvar,
    /// New connections are closed.
    down: AtomicBool,
    accepted: AtomicUsize,
}

impl Tap {
    /// Relays to `upstream`.
    pub fn start(upstream: SocketAddr) -> Self {
        let state = Arc::new(State {
            upstream,
            heard: Mutex::default(),
            held: Mutex::new(false),
            let_go: Condvar::new(),
            down: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
        });
        let seen = Arc::clone(&state);
        Self { listener: Listener::start(move |near| seen.relay(&near)), state }
    }

    /// Where the gateway is to go.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Whether new connections are closed at once.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// Whether answers wait.
    pub fn hold(&self, held: bool) {
        *self.state.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        self.state.let_go.notify_all();
    }

    /// The last NTLM message that the last connection has sent, if it has sent one.
    pub fn last_message(&self) -> Option<Vec<u8>> {
        let heard = self.state.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&heard);
        let mut fields = text.lines().filter_map(|line| line.strip_prefix("Proxy-Authorization: NTLM "));
        fields.next_back().and_then(|token| STANDARD.decode(token.trim()).ok())
    }
}

impl State {
    fn relay(&self, near: &TcpStream) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            return;
        }
        let Ok(far) = TcpStream::connect_timeout(&self.upstream, PATIENCE) else { return };
        let _ = far.set_nodelay(true);
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                self.pump(near, &far, |bytes| {
                    self.heard.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
                });
            });
            self.pump(&far, near, |_| {
                let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = self.let_go.wait_timeout_while(held, PATIENCE, |held| *held);
            });
        });
    }

    /// Moves bytes one way until an end or a failure, which is passed on as an end.
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
