//! A pipe between two connections: bytes go through it without a stop in user space.

use std::os::fd::OwnedFd;

use rustix::io::Result;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

use super::Stream;
#[cfg(test)]
use crate::sim::network as simulated;

/// No SPLICE_F_MORE: it holds the tail back for 200 ms in spite of TCP_NODELAY. SPLICE_F_NONBLOCK speaks for the pipe; the
/// sockets are non-blocking themselves.
const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// One pipe with nothing in it, or with exactly the bytes that its borrower put there.
#[derive(Debug)]
pub enum Pipe {
    /// One of the kernel's.
    Kernel {
        /// Bytes come out here.
        reader: OwnedFd,
        /// Bytes go in here.
        writer: OwnedFd,
    },
    /// One of a simulated network.
    #[cfg(test)]
    Simulated(simulated::Pipe),
}

impl Pipe {
    /// Makes a pipe that holds `wanted_bytes`; `None` when the system has none that holds at least `floor_bytes`.
    pub fn open(wanted_bytes: usize, floor_bytes: usize) -> Option<Pipe> {
        #[cfg(test)]
        if let Some(outcome) = simulated::open_pipe() {
            return outcome.map(Pipe::Simulated);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // EPERM past pipe-user-pages-soft, or past pipe-max-size: what counts is the size that came of it.
        let _ = fcntl_setpipe_size(&writer, wanted_bytes);
        let size_bytes = fcntl_getpipe_size(&writer).ok()?;
        (size_bytes >= floor_bytes).then_some(Pipe::Kernel { reader, writer })
    }

    /// Splices at most `bytes` from a connection into the pipe; 0 at the end of file.
    ///
    /// # Errors
    /// What the connection says. EAGAIN comes of an empty connection and of a full pipe alike.
    pub fn fill(&self, from: &Stream, bytes: usize) -> Result<usize> {
        match self {
            Pipe::Kernel { writer, .. } => splice(from, None, writer, None, bytes, FLAGS),
            #[cfg(test)]
            Pipe::Simulated(tube) => tube.fill(from, bytes),
        }
    }

    /// Splices at most `bytes`, which the pipe holds, to a connection.
    ///
    /// # Errors
    /// What the connection says; EAGAIN when it takes none now.
    pub fn empty(&self, to: &Stream, bytes: usize) -> Result<usize> {
        match self {
            Pipe::Kernel { reader, .. } => splice(reader, None, to, None, bytes, FLAGS),
            #[cfg(test)]
            Pipe::Simulated(tube) => tube.empty(to, bytes),
        }
    }
}
