//! A listener between the gateway and the upstream. It passes bytes in both directions and records the first of them,
//! so that the demonstration can show the legs as they were on the wire.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::legs::Direction;

/// The number of pieces that are recorded.
const PIECES_MAX: usize = 16;

/// A piece of the conversation.
pub(super) struct Piece {
    pub at: Instant,
    pub direction: Direction,
    pub bytes: Vec<u8>,
}

/// The listener; its threads end with the process.
pub(super) struct Tap {
    address: SocketAddr,
    recorded: Arc<Mutex<Vec<Piece>>>,
}

impl Tap {
    /// Starts to forward connections to `upstream`.
    pub(super) fn start(upstream: SocketAddr) -> io::Result<Tap> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let tap = Tap { address: listener.local_addr()?, recorded: Arc::default() };
        let recorded = Arc::clone(&tap.recorded);
        thread::Builder::new().name("tap".into()).spawn(move || {
            for gateway in listener.incoming().flatten() {
                // A connection that cannot be forwarded is closed.
                let _ = forward(gateway, upstream, &recorded);
            }
        })?;
        Ok(tap)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes what has been recorded so far.
    pub(super) fn take(&self) -> Vec<Piece> {
        std::mem::take(&mut *self.recorded.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn forward(gateway: TcpStream, upstream: SocketAddr, recorded: &Arc<Mutex<Vec<Piece>>>) -> io::Result<()> {
    let upstream = TcpStream::connect(upstream)?;
    for stream in [&gateway, &upstream] {
        stream.set_nodelay(true)?;
    }
    let back = (upstream.try_clone()?, gateway.try_clone()?);
    spawn(gateway, upstream, Direction::GatewayToUpstream, Arc::clone(recorded))?;
    spawn(back.0, back.1, Direction::UpstreamToGateway, Arc::clone(recorded))
}

fn spawn(
    mut from: TcpStream,
    mut to: TcpStream,
    direction: Direction,
    recorded: Arc<Mutex<Vec<Piece>>>,
) -> io::Result<()> {
    thread::Builder::new().name("tap-half".into()).spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            record(&recorded, direction, bytes);
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        // This fails if the connection is already closed.
        let _ = to.shutdown(Shutdown::Write);
    })?;
    Ok(())
}

fn record(recorded: &Mutex<Vec<Piece>>, direction: Direction, bytes: &[u8]) {
    let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
    if recorded.len() < PIECES_MAX {
        recorded.push(Piece { at: Instant::now(), direction, bytes: bytes.to_vec() });
    }
}
