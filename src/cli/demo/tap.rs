//! A listener between the gateway and the upstream or the KDC. It passes bytes in both directions and records the first
//! of them, so that the demonstration can show the legs as they were on the wire.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

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
    recorded: Arc<Recorded>,
}

/// What was recorded, and the announcement of more.
#[derive(Default)]
struct Recorded {
    pieces: Mutex<Vec<Piece>>,
    more: Condvar,
}

impl Tap {
    /// Starts to forward connections to `upstream`. `directions` are those to it and back.
    pub(super) fn start(upstream: SocketAddr, directions: [Direction; 2]) -> io::Result<Tap> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let tap = Tap { address: listener.local_addr()?, recorded: Arc::default() };
        let recorded = Arc::clone(&tap.recorded);
        thread::Builder::new().name("tap".into()).spawn(move || {
            for gateway in listener.incoming().flatten() {
                // A connection that cannot be forwarded is closed.
                let _ = forward(gateway, upstream, directions, &recorded);
            }
        })?;
        Ok(tap)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes what has been recorded so far.
    pub(super) fn take(&self) -> Vec<Piece> {
        std::mem::take(&mut *self.recorded.pieces.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for a piece that is the last one, for `bound` at most, and takes what has been recorded.
    pub(super) fn take_until(&self, bound: Duration, is_last: impl Fn(&[u8]) -> bool) -> Vec<Piece> {
        let pieces = self.recorded.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let is_incomplete = |pieces: &mut Vec<Piece>| !pieces.iter().any(|piece| is_last(&piece.bytes));
        let waited = self.recorded.more.wait_timeout_while(pieces, bound, is_incomplete);
        let (mut pieces, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *pieces)
    }
}

fn forward(
    gateway: TcpStream,
    upstream: SocketAddr,
    [there, back_again]: [Direction; 2],
    recorded: &Arc<Recorded>,
) -> io::Result<()> {
    let upstream = TcpStream::connect(upstream)?;
    for stream in [&gateway, &upstream] {
        stream.set_nodelay(true)?;
    }
    let back = (upstream.try_clone()?, gateway.try_clone()?);
    spawn(gateway, upstream, there, Arc::clone(recorded))?;
    spawn(back.0, back.1, back_again, Arc::clone(recorded))
}

fn spawn(mut from: TcpStream, mut to: TcpStream, direction: Direction, recorded: Arc<Recorded>) -> io::Result<()> {
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

fn record(recorded: &Recorded, direction: Direction, bytes: &[u8]) {
    let mut pieces = recorded.pieces.lock().unwrap_or_else(PoisonError::into_inner);
    if pieces.len() < PIECES_MAX {
        pieces.push(Piece { at: Instant::now(), direction, bytes: bytes.to_vec() });
        recorded.more.notify_all();
    }
}
