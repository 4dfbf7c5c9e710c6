//! Reads from a TCP connection within a deadline.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The time until `until`.
///
/// # Errors
/// `TimedOut` if there is none.
pub(super) fn time_until(until: Instant) -> io::Result<Duration> {
    let rest = until.saturating_duration_since(Instant::now());
    if rest.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(rest) }
}

/// Fills `buffer`. Asks `patience` before each read how long it may take, so that a peer that sends byte after byte
/// gets no more time than one that is silent.
///
/// # Errors
/// Those of `patience` and of the connection, and `UnexpectedEof` if it ends before.
pub(super) fn read_exact(
    stream: &mut TcpStream,
    mut buffer: &mut [u8],
    patience: impl Fn() -> io::Result<Duration>,
) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(patience()?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => buffer = &mut buffer[length..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
