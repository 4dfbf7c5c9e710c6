//! Who is at the administration address: few at a time, each for a bounded time.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::limits;

/// One connection.
#[derive(Debug)]
pub(super) struct Visitor {
    stream: TcpStream,
    /// Its next move is the client's: to send its request, or to read its answer.
    pub is_waited_for: AtomicBool,
}

/// Those that are there, the oldest first; never more than [`limits::ADMIN_CONNECTIONS`].
#[derive(Debug, Default)]
pub(super) struct Visitors {
    present: Mutex<Vec<Arc<Visitor>>>,
}

impl Visitors {
    /// Lets a connection in. When all places are taken the oldest one that keeps the gateway waiting has to go: a probe
    /// sends its request at once, so that whoever holds places for nothing cannot make it fail. `None`, and a closed
    /// connection, when all are being answered.
    pub(super) fn enter(&self, stream: TcpStream) -> Option<Arc<Visitor>> {
        let mut present = self.lock();
        if present.len() >= limits::ADMIN_CONNECTIONS {
            let place = present.iter().position(|visitor| visitor.is_waited_for.load(Ordering::Acquire))?;
            // Its thread wakes up with an end of stream or an error. It may have been closed by its client before.
            let _ = present.remove(place).stream.shutdown(Shutdown::Both);
        }
        let visitor = Arc::new(Visitor { stream, is_waited_for: AtomicBool::new(true) });
        present.push(Arc::clone(&visitor));
        Some(visitor)
    }

    /// A connection is over.
    pub(super) fn leave(&self, visitor: &Arc<Visitor>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, visitor));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Visitor>>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visitor {
    /// Reads what there is, until then at the latest.
    pub(super) fn read(&self, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(until)?))?;
        (&self.stream).read(buffer)
    }

    /// Writes all within [`limits::ADMIN_TIMEOUT`].
    pub(super) fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        let until = Instant::now() + limits::ADMIN_TIMEOUT;
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(left(until)?))?;
            match (&self.stream).write(bytes)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => bytes = bytes.get(count..).unwrap_or_default(),
            }
        }
        Ok(())
    }
}

fn left(until: Instant) -> io::Result<std::time::Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}
