//! An upstream proxy that asks for no proof and honours a half-close, which Squid does not: it closes both directions
//! when one ends. Its tunnels end in the test's own code, so that the test plays the origin.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::client::{PATIENCE, read_head};

/// Answers every request head with 200 and hands the connection to the test's origin.
pub struct OpenUpstream {
    address: SocketAddr,
    closing: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl OpenUpstream {
    /// Starts it; `origin` plays the origin of each tunnel, on a thread of its own.
    pub fn start(origin: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind the open upstream");
        let address = listener.local_addr().expect("address of the open upstream");
        let closing = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&closing);
        let origin = Arc::new(origin);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(stream), origin) = (stream, Arc::clone(&origin)) else {
                    continue;
                };
                std::thread::spawn(move || serve(stream, &*origin));
            }
        });
        Self {
            address,
            closing,
            acceptor: Some(acceptor),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for OpenUpstream {
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

/// Lets one tunnel through. A connection that asks for nothing is a probe and ends here.
fn serve(mut stream: TcpStream, origin: &dyn Fn(TcpStream)) {
    let bounded = stream
        .set_read_timeout(Some(PATIENCE))
        .and(stream.set_write_timeout(Some(PATIENCE)));
    if bounded.is_ok()
        && read_head(&mut stream).is_ok_and(|head| head.starts_with("CONNECT "))
        && stream
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .is_ok()
    {
        origin(stream);
    }
}
