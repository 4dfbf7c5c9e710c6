//! Tokens that cannot be mistaken for those of an earlier owner of the same slot.

use mio::Token;

/// Names one tunnel of one shard for as long as it lives, and nothing afterwards.
///
/// Slots are used again, generations are not (until 2^32 tunnels later): events, timers and messages that carry a key
/// whose generation does not match its slot are stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The slot.
    pub index: u32,
    /// Which owner of the slot; never 0.
    pub generation: u32,
}

/// Which socket of a tunnel an event speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The client's connection.
    Downstream,
    /// The connection to the upstream, with the number of the dial modulo [`DIALS`], so that a late event of a connection
    /// that was given up is not taken for one of its successor.
    Upstream(u8),
}

/// Dials of one tunnel that are told apart.
pub const DIALS: u8 = 7;

/// What a readiness event is about, as it is carried through the kernel: `generation:32 | index:29 | lane:3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventToken {
    /// The tunnel.
    pub key: Key,
    /// Its socket.
    pub lane: Lane,
}

impl From<EventToken> for Token {
    fn from(token: EventToken) -> Token {
        let lane = match token.lane {
            Lane::Downstream => 0,
            Lane::Upstream(attempt) => 1 + usize::from(attempt % DIALS),
        };
        Token((token.key.generation as usize) << 32 | (token.key.index as usize) << 3 | lane)
    }
}

impl EventToken {
    /// Reads a token back; `None` for one of the shard's own (listeners, waker): those are below 2^32, and no generation is 0.
    pub fn read(token: Token) -> Option<EventToken> {
        let generation = u32::try_from(token.0 >> 32).ok().filter(|generation| *generation != 0)?;
        let index = u32::try_from((token.0 & 0xffff_ffff) >> 3).ok()?;
        let lane = match u8::try_from(token.0 & 7).ok()?.checked_sub(1) {
            None => Lane::Downstream,
            Some(attempt) => Lane::Upstream(attempt),
        };
        Some(EventToken { key: Key { index, generation }, lane })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_as_it_was_written() {
        for generation in [1, 7, u32::MAX] {
            for index in [0, 1, 9_999, (1 << 29) - 1] {
                for lane in [Lane::Downstream, Lane::Upstream(0), Lane::Upstream(1), Lane::Upstream(6)] {
                    let token = EventToken { key: Key { index, generation }, lane };
                    assert_eq!(EventToken::read(Token::from(token)), Some(token));
                }
            }
        }
    }

    #[test]
    fn the_shards_own_tokens_are_nobodys() {
        assert_eq!(EventToken::read(Token(0)), None);
        assert_eq!(EventToken::read(Token((1 << 32) - 1)), None);
    }
}
