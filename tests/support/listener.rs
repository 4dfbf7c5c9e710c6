//! A TCP server that plays a part written in the test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::client::PATIENCE;

/// A listening socket that hands each connection to the test's code; closed when dropped.
pub struct Listener {
    address: SocketAddr,
    closing: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on a loopback port. `part` plays each connection on a thread of its own, which ends with it; its
    /// reads and writes are bounded by [`PATIENCE`].
    pub fn start(part: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a loopback port");
        let address = listener.local_addr().expect("address of a bound socket");
        let closing = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&closing);
        let part = Arc::new(part);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(stream), part) = (stream, Arc::clone(&part)) else { continue };
                std::thread::spawn(move || {
                    if bound(&stream).is_ok() {
                        part(stream);
                    }
                });
            }
        });
        Self { address, closing, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // Wakes the acceptor, which then sees that it is to end.
        if TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok()
            && let Some(acceptor) = self.acceptor.take()
        {
            let _ = acceptor.join();
        }
    }
}

fn bound(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)
}
