//! What is known of a socket's readiness under edge-triggered notification.

use std::io;

use super::Stream;

/// What the kernel last said that a socket can do.
///
/// Registration is edge-triggered: the kernel speaks once for each change, so a bit stays set until the socket itself
/// answered EAGAIN (or gave less than was asked, which says the same). The other half of the classic pair, what is
/// *wanted* of the socket, is not kept: it follows from the tunnel's stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness(u8);

impl Readiness {
    const READABLE: u8 = 1;
    const WRITABLE: u8 = 2;
    const READ_CLOSED: u8 = 4;
    const RESET: u8 = 8;

    /// A socket of which nothing is known yet: worth a try both ways.
    pub const HOPEFUL: Readiness = Readiness(Self::READABLE | Self::WRITABLE);

    /// A socket that still connects.
    pub const NOTHING: Readiness = Readiness(0);

    /// Reads what an event says.
    pub fn of_event(event: &mio::event::Event) -> Readiness {
        Readiness::of_signs(Signs {
            readable: event.is_readable(),
            writable: event.is_writable(),
            read_closed: event.is_read_closed(),
            write_closed: event.is_write_closed(),
            error: event.is_error(),
        })
    }

    /// Reads the signs of an event.
    pub fn of_signs(signs: Signs) -> Readiness {
        let mut bits = 0;
        if signs.readable {
            bits |= Self::READABLE;
        }
        if signs.writable {
            bits |= Self::WRITABLE;
        }
        if signs.read_closed {
            bits |= Self::READ_CLOSED | Self::READABLE;
        }
        // EPOLLERR or EPOLLHUP: both ways are at an end; a read or write tells why.
        if signs.error || (signs.read_closed && signs.write_closed) {
            bits |= Self::RESET | Self::READABLE | Self::WRITABLE;
        }
        Readiness(bits)
    }

    /// Adds what was learnt to what was known.
    pub fn learn(&mut self, more: Readiness) {
        self.0 |= more.0;
    }

    /// A read is worth a try.
    pub fn readable(self) -> bool {
        self.0 & Self::READABLE != 0
    }

    /// A write is worth a try.
    pub fn writable(self) -> bool {
        self.0 & Self::WRITABLE != 0
    }

    /// The peer has ended its direction; reads will come to an end of file.
    pub fn read_closed(self) -> bool {
        self.0 & Self::READ_CLOSED != 0
    }

    /// The connection is gone both ways (reset, or shut down by both sides).
    pub fn reset(self) -> bool {
        self.0 & Self::RESET != 0
    }

    /// The socket had nothing more to read. A pending end of file is never forgotten: no second edge will tell of it.
    pub fn read_exhausted(&mut self) {
        if !self.read_closed() {
            self.0 &= !Self::READABLE;
        }
    }

    /// The socket itself said EAGAIN to a read.
    pub fn read_blocked(&mut self) {
        self.0 &= !Self::READABLE;
    }

    /// The socket itself said EAGAIN to a write, or took less than it was given.
    pub fn write_blocked(&mut self) {
        self.0 &= !Self::WRITABLE;
    }
}

/// What an event says, in mio's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// There is something to read, or a read tells why not.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The peer has ended its direction, or both are at an end.
    pub read_closed: bool,
    /// Our own direction is at an end.
    pub write_closed: bool,
    /// The connection has met an error.
    pub error: bool,
}

/// A connection together with what is known of its readiness.
#[derive(Debug)]
pub struct Endpoint {
    /// The connection; closed when this is dropped.
    pub stream: Stream,
    /// What is known of it.
    pub ready: Readiness,
}

impl Endpoint {
    /// Reads once into `buffer` and keeps the readiness true.
    ///
    /// `Ok(None)`: nothing to read now. `Ok(Some(0))`: the peer has ended its direction.
    ///
    /// # Errors
    /// What the socket says, EAGAIN and EINTR excepted.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        use io::Read;
        loop {
            match self.stream.read(buffer) {
                Ok(count) => {
                    if count != 0 && count < buffer.len() {
                        self.ready.read_exhausted();
                    }
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.read_blocked();
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes once from `bytes` and keeps the readiness true; returns how many bytes were taken, 0 when none can be now.
    ///
    /// # Errors
    /// What the socket says, EAGAIN and EINTR excepted.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use io::Write;
        loop {
            match self.stream.write(bytes) {
                Ok(count) => {
                    if count < bytes.len() {
                        self.ready.write_blocked();
                    }
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.write_blocked();
                    return Ok(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_file_that_was_announced_survives_a_short_read() {
        let mut ready = Readiness(Readiness::READABLE | Readiness::READ_CLOSED);
        ready.read_exhausted();
        assert!(ready.readable());
        ready.read_blocked();
        assert!(!ready.readable());
    }

    #[test]
    fn a_short_read_ends_readability_when_no_end_was_announced() {
        let mut ready = Readiness::HOPEFUL;
        ready.read_exhausted();
        assert!(!ready.readable());
        assert!(ready.writable());
    }
}
