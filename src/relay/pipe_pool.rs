//! Pipes for splicing: lent while bytes are in them, kept for the next borrower, and limited in number.

use crate::limits;
use crate::transport::Pipe;

/// A shard's pipes.
#[derive(Debug)]
pub struct PipePool {
    kept: Vec<Pipe>,
    lent: usize,
    cap: usize,
    /// How many requests are still declined without asking the kernel, after it had no pipe.
    discouraged: u32,
}

/// After the kernel refused a pipe, this many requests are declined before it is asked again. Beyond
/// `pipe-user-pages-soft`, or without descriptors, asking at every read would cost more than splicing saves.
const DISCOURAGED_REQUESTS: u32 = 1000;

impl PipePool {
    /// A pool that lends at most `cap` pipes; with 0 everything is copied.
    pub fn new(cap: usize) -> PipePool {
        PipePool { kept: Vec::new(), lent: 0, cap, discouraged: 0 }
    }

    /// Lends an empty pipe; `None` if the cap is reached or the kernel has no pipe of a useful size.
    #[inline]
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
    #[inline]
    pub fn give_back(&mut self, pipe: Pipe) {
        self.lent -= 1;
        if self.kept.len() < limits::SPARE_PIPES_PER_SHARD {
            self.kept.push(pipe);
        }
    }

    /// Closes a pipe that may still hold bytes: the next borrower must not get them.
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
        let pipe = Pipe::open(limits::PIPE_BYTES, limits::PIPE_MIN_BYTES);
        if pipe.is_none() {
            self.discouraged = DISCOURAGED_REQUESTS;
        }
        pipe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_holds_and_a_returned_pipe_is_lent_again() {
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
        let Pipe::Kernel { writer, .. } = &pipe else { panic!("not the kernel's") };
        rustix::io::write(writer, b"left over").unwrap();
        pool.discard(pipe);
        let next = pool.borrow().unwrap();
        let mut buffer = [0; 16];
        let Pipe::Kernel { reader, .. } = &next else { panic!("not the kernel's") };
        assert_eq!(rustix::io::read(reader, &mut buffer), Err(rustix::io::Errno::AGAIN));
        pool.discard(next);
    }

    #[test]
    fn a_pool_without_pipes_lends_none() {
        assert!(PipePool::new(0).borrow().is_none());
    }
}
