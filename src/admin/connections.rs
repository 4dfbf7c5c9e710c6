//! The connections to the administration address: few at a time, each with a time limit.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::net::{RecvFlags, recv};

use crate::limits;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// Whether the gateway waits for the client to send its request or to read its response.
    pub is_waited_for: AtomicBool,
}

/// The open connections, the oldest first; never more than [`limits::ADMIN_CONNECTIONS`].
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<Vec<Arc<Connection>>>,
}

impl Connections {
    /// Admits a connection. At the limit, the oldest connection that keeps the gateway waiting is closed: a probe sends
    /// its request at once, so clients that occupy connections without using them cannot make a probe fail. One whose
    /// client has sent something that its thread has not read yet is closed only if there is no other, because on a
    /// busy machine that may be a probe. If all are being answered, the new connection is closed instead, and the
    /// result is `None`.
    pub(super) fn admit(&self, stream: TcpStream) -> Option<Arc<Connection>> {
        let mut open = self.lock();
        if open.len() >= limits::ADMIN_CONNECTIONS {
            let is_waited_for = |connection: &Arc<Connection>| connection.is_waited_for.load(Ordering::Acquire);
            let is_idle = |connection: &Arc<Connection>| is_waited_for(connection) && !connection.has_unread();
            let place = open.iter().position(is_idle).or_else(|| open.iter().position(is_waited_for))?;
            // Its thread wakes up with an end of stream or an error. This fails if the client has already closed it.
            let _ = open.remove(place).stream.shutdown(Shutdown::Both);
        }
        let connection = Arc::new(Connection { stream, is_waited_for: AtomicBool::new(true) });
        open.push(Arc::clone(&connection));
        Some(connection)
    }

    /// Removes a connection that has ended.
    pub(super) fn remove(&self, connection: &Arc<Connection>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, connection));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Whether the client has sent something that was not read yet.
    fn has_unread(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(&self.stream, &mut [0_u8; 1], flags).is_ok_and(|(_, count)| count > 0)
    }

    /// Reads what is available; waits until `until` at most.
    pub(super) fn read(&self, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(until)?))?;
        (&self.stream).read(buffer)
    }

    /// Writes all bytes within [`limits::ADMIN_TIMEOUT`].
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_request_that_no_thread_has_read_yet_outlasts_silent_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connections = Connections::default();
        let connect = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (client, connections.admit(listener.accept().unwrap().0).unwrap())
        };
        let (mut probe, asked) = connect();
        probe.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        // Once it has arrived.
        asked.stream.peek(&mut [0]).unwrap();
        let silent: Vec<_> = (0..3 * limits::ADMIN_CONNECTIONS).map(|_| connect()).collect();
        let is_open =
            |connection: &Arc<Connection>| connections.lock().iter().any(|open| Arc::ptr_eq(open, connection));
        assert!(is_open(&asked) && connections.lock().len() == limits::ADMIN_CONNECTIONS);
        assert!(!is_open(&silent[0].1) && is_open(&silent[silent.len() - 1].1), "the oldest are closed");
        // If every client has sent something, the oldest gives way.
        connections.lock().clear();
        let mut eager: Vec<_> = (0..limits::ADMIN_CONNECTIONS).map(|_| connect()).collect();
        for (client, connection) in &mut eager {
            client.write_all(b"G").unwrap();
            connection.stream.peek(&mut [0]).unwrap();
        }
        let (_client, newest) = connect();
        assert!(is_open(&newest) && !is_open(&eager[0].1) && is_open(&eager[1].1));
    }
}
