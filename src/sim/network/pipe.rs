//! A simulated pipe, whose capacity is counted in slots, not in bytes.

use std::collections::VecDeque;

use super::wire::Buffer;

/// The state of a pipe.
#[derive(Debug)]
pub struct PipeState {
    held: Buffer,
    /// Bytes in each occupied slot.
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

    /// Moves one piece into a slot; returns its length.
    pub fn take(&mut self, from: &mut Buffer, most: usize) -> usize {
        let count = from.pour(&mut self.held, most);
        self.pieces.push_back(count);
        count
    }

    pub fn front(&self, most: usize) -> &[u8] {
        self.held.front(most)
    }

    /// Removes bytes that have gone out, which frees their slots.
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
