//! A listening socket of the API that can be closed and opened again.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::super::scratch::free_port;
use super::{Shared, connection};

/// An address of the API. Its clients are cut off while it is closed, and those of other doors are not.
pub struct Door {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Mutex<Option<Acceptor>>,
}

struct Acceptor {
    closing: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    thread: JoinHandle<()>,
}

impl Door {
    /// Listens on a loopback port that is free.
    pub(super) fn open(shared: &Arc<Shared>) -> Self {
        loop {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            if let Ok(listener) = TcpListener::bind(address) {
                let acceptor = Mutex::new(Some(accept(listener, shared)));
                return Self { address, shared: Arc::clone(shared), acceptor };
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses connections, and closes those that are open.
    pub fn close(&self) {
        let Some(acceptor) = self.acceptor.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        acceptor.closing.store(true, Ordering::Release);
        // It waits for a connection.
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
        acceptor.thread.join().expect("the acceptor ends");
        for connection in acceptor.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }

    /// Accepts connections again, on the same port.
    pub fn reopen(&self) {
        let mut acceptor = self.acceptor.lock().unwrap_or_else(PoisonError::into_inner);
        if acceptor.is_none() {
            let listener = TcpListener::bind(self.address).expect("the port is still free");
            *acceptor = Some(accept(listener, &self.shared));
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

fn accept(listener: TcpListener, shared: &Arc<Shared>) -> Acceptor {
    let closing = Arc::new(AtomicBool::new(false));
    let connections = Arc::new(Mutex::new(Vec::new()));
    let (seen, kept, shared) = (Arc::clone(&closing), Arc::clone(&connections), Arc::clone(shared));
    let thread = std::thread::spawn(move || {
        for stream in listener.incoming() {
            if seen.load(Ordering::Acquire) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let Ok(copy) = stream.try_clone() else { continue };
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
            let (shared, closing) = (Arc::clone(&shared), Arc::clone(&seen));
            std::thread::spawn(move || {
                let _ = connection::serve(stream, &shared, &closing);
            });
        }
    });
    Acceptor { closing, connections, thread }
}
