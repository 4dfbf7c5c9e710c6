//! A listener in the middle: passes bytes between the gateway and the upstream and notes what it passed on the first
//! connections, so that the demonstration can show the legs as they were on the wire.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::legs::Way;

/// Pieces that are kept; past them nothing is noted any more.
const HEARD_MAX: usize = 16;

/// A piece of the conversation.
pub(super) struct Heard {
    pub at: Instant,
    pub way: Way,
    pub bytes: Vec<u8>,
}

/// The listener; its threads end with the process.
pub(super) struct Tap {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Tap {
    /// Begins to pass connections on to `upstream`.
    pub(super) fn start(upstream: SocketAddr) -> io::Result<Tap> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let tap = Tap { address: listener.local_addr()?, heard: Arc::default() };
        let heard = Arc::clone(&tap.heard);
        thread::Builder::new().name("tap".into()).spawn(move || {
            for gateway in listener.incoming().flatten() {
                // A connection that cannot be passed on is closed, as a proxy that is down would do.
                let _ = pass(gateway, upstream, &heard);
            }
        })?;
        Ok(tap)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was heard so far.
    pub(super) fn take(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn pass(gateway: TcpStream, upstream: SocketAddr, heard: &Arc<Mutex<Vec<Heard>>>) -> io::Result<()> {
    let upstream = TcpStream::connect(upstream)?;
    for stream in [&gateway, &upstream] {
        stream.set_nodelay(true)?;
    }
    let back = (upstream.try_clone()?, gateway.try_clone()?);
    spawn(gateway, upstream, Way::GatewayToUpstream, Arc::clone(heard))?;
    spawn(back.0, back.1, Way::UpstreamToGateway, Arc::clone(heard))
}

fn spawn(mut from: TcpStream, mut to: TcpStream, way: Way, heard: Arc<Mutex<Vec<Heard>>>) -> io::Result<()> {
    thread::Builder::new().name("tap-half".into()).spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            note(&heard, way, bytes);
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        // Already closed is as good.
        let _ = to.shutdown(Shutdown::Write);
    })?;
    Ok(())
}

fn note(heard: &Mutex<Vec<Heard>>, way: Way, bytes: &[u8]) {
    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    if heard.len() < HEARD_MAX {
        heard.push(Heard { at: Instant::now(), way, bytes: bytes.to_vec() });
    }
}
