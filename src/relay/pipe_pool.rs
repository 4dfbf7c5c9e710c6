//! Pipes for splicing: lent while bulk bytes are in them, kept for the next borrower, never more than a cap.

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use crate::limits;

/// One pipe with nothing in it, or with exactly the bytes that its borrower put there.
#[derive(Debug)]
pub struct Pipe {
    /// Bytes come out here.
    pub reader: OwnedFd,
    /// Bytes go in here.
    pub writer: OwnedFd,
}

/// A shard's pipes.
#[derive(Debug)]
pub struct PipePool {
    kept: Vec<Pipe>,
    lent: usize,
    cap: usize,
    /// Requests to be answered "none" without asking the kernel, after it had none.
    discouraged: u32,
}

/// After the kernel refused a pipe, this many requests are turned down before it is asked again: past
/// `pipe-user-pages-soft`, or out of descriptors, asking at every read would cost more than the splicing saves.
const DISCOURAGED_REQUESTS: u32 = 1000;

impl PipePool {
    /// A pool that lends `cap` pipes at most; 0 means that everything is copied.
    pub fn new(cap: usize) -> PipePool {
        PipePool { kept: Vec::new(), lent: 0, cap, discouraged: 0 }
    }

    /// Lends an empty pipe; `None` when the cap is reached or the kernel has none that is worth it.
    pub fn borrow(&mut self) -> Option<Pipe> {
        if self.lent >= self.cap {
            return None;
        }
        let pipe = match self.kept.pop() {
            Some(pipe) => pipe,
            None => self.open()?,
        };
        self.lent += 1;
        Some(pipe)
    }

    /// Takes an empty pipe back.
    pub fn give_back(&mut self, pipe: Pipe) {
        self.lent -= 1;
        if self.kept.len() < limits::PIPES_KEPT_PER_SHARD {
            self.kept.push(pipe);
        }
    }

    /// Ends a pipe that may still hold bytes: it is closed, because the next borrower must not find them.
    pub fn discard(&mut self, pipe: Pipe) {
        self.lent -= 1;
        drop(pipe);
    }

    /// Pipes that are lent out.
    pub fn lent(&self) -> usize {
        self.lent
    }

    fn open(&mut self) -> Option<Pipe> {
        if self.discouraged > 0 {
            self.discouraged -= 1;
            return None;
        }
        let pipe = open();
        if pipe.is_none() {
            self.discouraged = DISCOURAGED_REQUESTS;
        }
        pipe
    }
}

/// Makes a pipe of a size that is worth it.
fn open() -> Option<Pipe> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    // EPERM past pipe-user-pages-soft, or past pipe-max-size: what counts is the size that came of it.
    let _ = fcntl_setpipe_size(&writer, limits::PIPE_BYTES);
    let size_bytes = fcntl_getpipe_size(&writer).ok()?;
    (size_bytes >= limits::PIPE_FLOOR_BYTES).then_some(Pipe { reader, writer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_holds_and_a_pipe_that_comes_home_is_lent_again() {
        let mut pool = PipePool::new(2);
        let first = pool.borrow().unwrap();
        let second = pool.borrow().unwrap();
        assert!(pool.borrow().is_none());
        pool.give_back(first);
        assert_eq!(pool.lent(), 1);
        let third = pool.borrow().unwrap();
        pool.discard(second);
        pool.discard(third);
        assert_eq!(pool.lent(), 0);
    }

    #[test]
    fn a_discarded_pipe_is_not_lent_again_with_its_bytes() {
        let mut pool = PipePool::new(1);
        let pipe = pool.borrow().unwrap();
        rustix::io::write(&pipe.writer, b"left over").unwrap();
        pool.discard(pipe);
        let next = pool.borrow().unwrap();
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&next.reader, &mut buffer), Err(rustix::io::Errno::AGAIN));
        pool.discard(next);
    }

    #[test]
    fn no_pipes_means_copying() {
        assert!(PipePool::new(0).borrow().is_none());
    }
}
