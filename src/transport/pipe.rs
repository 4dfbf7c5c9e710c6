//! A pipe between two connections: bytes pass through it without a copy into user space.

use std::os::fd::OwnedFd;

use rustix::io::Result;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

use super::Stream;
#[cfg(test)]
use crate::sim::network as simulated;

/// No SPLICE_F_MORE: it holds the tail back for 200 ms in spite of TCP_NODELAY. SPLICE_F_NONBLOCK applies to the pipe;
/// the sockets are non-blocking themselves.
const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// A pipe that is empty or holds exactly the bytes that its borrower put there.
#[derive(Debug)]
pub enum Pipe {
    /// A pipe of the kernel.
    Kernel {
        /// The end that bytes come out of.
        reader: OwnedFd,
        /// The end that bytes go into.
        writer: OwnedFd,
    },
    /// A pipe of a simulated network.
    #[cfg(test)]
    Simulated(simulated::Pipe),
}

impl Pipe {
    /// Opens a pipe of `wanted_bytes`; `None` when the kernel has none of at least `floor_bytes`.
    pub fn open(wanted_bytes: usize, floor_bytes: usize) -> Option<Pipe> {
        #[cfg(test)]
        if let Some(outcome) = simulated::open_pipe() {
            return outcome.map(Pipe::Simulated);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // This fails with EPERM beyond pipe-user-pages-soft or pipe-max-size. The pipe keeps a smaller size then, which
        // may do.
        let _ = fcntl_setpipe_size(&writer, wanted_bytes);
        let size_bytes = fcntl_getpipe_size(&writer).ok()?;
        (size_bytes >= floor_bytes).then_some(Pipe::Kernel { reader, writer })
    }

    /// Splices at most `bytes` from a connection into the pipe; 0 at the end of file. The connection must be one that
    /// [can be spliced](Stream::can_splice).
    ///
    /// # Errors
    /// The connection's error. EAGAIN means that the connection is empty or the pipe is full.
    pub fn fill(&self, from: &Stream, bytes: usize) -> Result<usize> {
        debug_assert!(from.can_splice());
        match self {
            Pipe::Kernel { writer, .. } => splice(from, None, writer, None, bytes, FLAGS),
            #[cfg(test)]
            Pipe::Simulated(tube) => tube.fill(from, bytes),
        }
    }

    /// Splices at most `bytes`, which the pipe holds, to a connection. The connection must be one that
    /// [can be spliced](Stream::can_splice).
    ///
    /// # Errors
    /// The connection's error; EAGAIN when it takes nothing now.
    pub fn empty(&self, to: &Stream, bytes: usize) -> Result<usize> {
        match self {
            Pipe::Kernel { reader, .. } => {
                splice(reader, None, to, None, bytes, FLAGS).inspect(|count| to.spliced(*count))
            }
            #[cfg(test)]
            Pipe::Simulated(tube) => tube.empty(to, bytes),
        }
    }
}
