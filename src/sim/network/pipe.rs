//! A simulated pipe: full by slots and not by bytes.

use std::collections::VecDeque;

use super::wire::Buffer;

/// A pipe.
#[derive(Debug)]
pub struct PipeState {
    held: Buffer,
    /// Bytes in each slot that is taken.
    pieces: VecDeque<usize>,
    slots: usize,
    pub open: bool,
}

impl PipeState {
    pub fn new(slots: usize) -> PipeState {
        PipeState { held: Buffer::default(), pieces: VecDeque::new(), slots, open: true }
    }

    pub fn is_full(&self) -> bool {
        self.pieces.len() >= self.slots
    }

    /// Takes a piece into a slot; returns its length.
    pub fn take(&mut self, from: &mut Buffer, most: usize) -> usize {
        let count = from.pour(&mut self.held, most);
        self.pieces.push_back(count);
        count
    }

    pub fn front(&self, most: usize) -> &[u8] {
        self.held.front(most)
    }

    /// Bytes have gone out; their slots become free.
    pub fn gone(&mut self, mut count: usize) {
        self.held.drop_front(count);
        while let Some(piece) = self.pieces.front_mut().filter(|_| count > 0) {
            let part = count.min(*piece);
            *piece -= part;
            count -= part;
            if *piece == 0 {
                self.pieces.pop_front();
            }
        }
    }
}
