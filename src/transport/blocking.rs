//! A connection for a thread that may wait: that of a health check or of `probe`.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Endpoint, Readiness, Signs, Transport};

/// A connection whose calls wait, each no longer than its caller allows; closed when this is dropped.
#[derive(Debug)]
pub struct BlockingStream {
    endpoint: Endpoint,
}

impl BlockingStream {
    /// Connects within `timeout`.
    ///
    /// # Errors
    /// The connection's error; `TimedOut` when the time is up.
    pub fn connect(transport: &Transport, address: SocketAddr, timeout: Duration) -> io::Result<BlockingStream> {
        let until = Instant::now() + timeout;
        let endpoint = transport.open(address)?;
        BlockingStream::complete(endpoint, until)
    }

    /// Waits until a connection that has been begun is complete.
    pub(super) fn complete(endpoint: Endpoint, until: Instant) -> io::Result<BlockingStream> {
        let mut stream = BlockingStream { endpoint };
        let mut wanted = PollFlags::OUT;
        loop {
            stream.wait(wanted, until)?;
            if let Some(outcome) = stream.endpoint.connect_outcome() {
                return outcome.map(|()| stream);
            }
            // What is missing is the peer's part of the transport's own handshake.
            wanted = PollFlags::IN;
        }
    }

    /// Reads once; returns how many bytes came, 0 when the peer has ended its direction.
    ///
    /// # Errors
    /// The connection's error; `TimedOut` when nothing came before `until`.
    pub fn read(&mut self, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
        loop {
            if self.endpoint.ready.readable()
                && let Some(count) = self.endpoint.read(buffer)?
            {
                return Ok(count);
            }
            self.wait(PollFlags::IN, until)?;
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The connection's error; `TimedOut` when not all of it could be written before `until`.
    pub fn write_all(&mut self, mut bytes: &[u8], until: Instant) -> io::Result<()> {
        while !bytes.is_empty() || self.endpoint.stream.has_unsent() {
            if !self.endpoint.ready.writable() {
                self.wait(PollFlags::OUT, until)?;
            }
            let count = self.endpoint.write(bytes)?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// See [`super::Stream::channel_bindings`].
    pub fn channel_bindings(&self) -> Option<[u8; 16]> {
        self.endpoint.channel_bindings()
    }

    /// The connection, for a loop.
    #[cfg(test)]
    pub fn into_endpoint(self) -> Endpoint {
        self.endpoint
    }

    /// Ends the direction of this end.
    #[cfg(test)]
    pub fn end(&mut self) -> io::Result<()> {
        self.endpoint.stream.shutdown(std::net::Shutdown::Write)
    }

    /// The transport for tests below it.
    #[cfg(test)]
    pub(super) fn framed(&mut self) -> &mut super::framed::Framed {
        match &mut self.endpoint.stream {
            super::Stream::Framed(framed) => framed,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for one of the `wanted` signs and takes note of what came.
    fn wait(&mut self, wanted: PollFlags, until: Instant) -> io::Result<()> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            let mut sockets = [PollFd::new(&self.endpoint.stream, wanted)];
            match poll(&mut sockets, Some(&left)) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out")),
                Ok(_) => {
                    let came = sockets[0].revents();
                    let has_hung_up = came.contains(PollFlags::HUP);
                    self.endpoint.learn(Readiness::of_signs(Signs {
                        readable: came.contains(PollFlags::IN),
                        writable: came.contains(PollFlags::OUT),
                        read_closed: has_hung_up,
                        write_closed: has_hung_up,
                        error: came.contains(PollFlags::ERR),
                    }));
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
