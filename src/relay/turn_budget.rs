//! How much a tunnel may move in a turn.

use super::Moved;
use crate::limits::{self, millis};

/// A shard's budget for each half of a tunnel and turn. Each turn of a bulk transfer makes the messages of other
/// tunnels wait, so it is shorter while there are any.
#[derive(Debug, Default)]
pub struct TurnBudget {
    /// Until when small messages are expected, in ms.
    messages_until_ms: u64,
}

impl TurnBudget {
    /// Takes note of what a half has moved in its turn.
    #[inline]
    pub fn moved(&mut self, moved: Moved, now_ms: u64) {
        if moved.copied != 0 && moved.copied <= limits::SMALL_MESSAGE_BYTES {
            self.messages_until_ms = now_ms + millis(limits::MESSAGES_WINDOW);
        }
    }

    /// The most bytes that a half may move in a turn.
    #[inline]
    pub fn bytes(&self, now_ms: u64) -> usize {
        match now_ms < self.messages_until_ms {
            true => limits::TURN_BYTES_BESIDE_MESSAGES,
            false => limits::TURN_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_transfers_move_less_in_a_turn_while_there_are_small_messages() {
        let mut budget = TurnBudget::default();
        let bulk = Moved { copied: 64 * 1024, spliced: 500_000 };
        budget.moved(bulk, 1_000);
        assert_eq!(budget.bytes(1_000), limits::TURN_BYTES);
        budget.moved(Moved { copied: 1_024, spliced: 0 }, 1_000);
        budget.moved(bulk, 1_005);
        assert_eq!(budget.bytes(1_009), limits::TURN_BYTES_BESIDE_MESSAGES);
        assert_eq!(budget.bytes(1_010), limits::TURN_BYTES);
    }
}
