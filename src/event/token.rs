//! Keys and tokens that are never confused with those of an earlier user of the same slot.
//!
//! A token carries through the kernel what an event is about:
//!
//! ```text
//!   63           32 31   29 28            3 2    0
//!   ┌──────────────┬───────┬───────────────┬──────┐
//!   │  generation  │ owner │     slot      │ lane │
//!   └──────────────┴───────┴───────────────┴──────┘
//!                   ╰──── Key::index ─────╯
//! ```

use mio::Token;

/// Bits of [`Key::index`] that number a slot; the owner is above them.
const SLOT_BITS: u32 = 26;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;

/// Whose slab a key belongs to. A shard has one slab for each, and [`Key::owner`] decides which one an event or a
/// deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Owner {
    /// A client's connection, with the upstream connections that it uses.
    Session = 0,
    /// An upstream connection that has its challenge, or is waiting for it, before any client needs it.
    PreChallenged = 1,
    /// An authenticated upstream connection between two requests.
    KeepAlive = 2,
    /// An upstream connection that waits for the verdict on a logon attempt without a client.
    VerdictWait = 3,
}

impl Owner {
    /// All of them.
    pub const ALL: [Owner; 4] = [Owner::Session, Owner::PreChallenged, Owner::KeepAlive, Owner::VerdictWait];
}

/// Identifies one value of one of a shard's slabs for as long as it lives, and nothing afterwards.
///
/// Slots are reused, generations are not (until 2^32 later): an event, timer or message whose key has another
/// generation than its slot is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The owner and the slot.
    pub index: u32,
    /// Which use of the slot; never 0.
    pub generation: u32,
}

impl Key {
    /// The key of a slot; `None` for a slot beyond the 2^26 that an owner may have.
    pub fn new(owner: Owner, slot: usize, generation: u32) -> Option<Key> {
        let slot = u32::try_from(slot).ok().filter(|slot| *slot <= SLOT_MASK)?;
        Some(Key { index: (owner as u32) << SLOT_BITS | slot, generation })
    }

    /// The owner of the slab.
    pub fn owner(self) -> Owner {
        match self.index >> SLOT_BITS {
            1 => Owner::PreChallenged,
            2 => Owner::KeepAlive,
            3 => Owner::VerdictWait,
            // No key is made with other bits than those of an owner.
            _ => Owner::Session,
        }
    }

    /// The slot in the owner's slab.
    pub fn slot(self) -> usize {
        (self.index & SLOT_MASK) as usize
    }
}

/// The connection that an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The client's connection.
    Downstream,
    /// The connection to the upstream, with the number of the dial modulo [`DIALS`]: a late event of an abandoned
    /// connection is not taken for one of its successor.
    Upstream(u8),
}

/// How many dials of one session have different tokens.
pub const DIALS: u8 = 7;

/// What a readiness event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventToken {
    /// Whose event it is.
    pub key: Key,
    /// The connection.
    pub lane: Lane,
}

impl From<EventToken> for Token {
    fn from(token: EventToken) -> Token {
        let lane = match token.lane {
            Lane::Downstream => 0,
            Lane::Upstream(dial) => 1 + usize::from(dial % DIALS),
        };
        Token((token.key.generation as usize) << 32 | (token.key.index as usize) << 3 | lane)
    }
}

impl EventToken {
    /// The token of the client's connection.
    pub fn downstream(key: Key) -> EventToken {
        EventToken { key, lane: Lane::Downstream }
    }

    /// The token of an upstream connection with the number of its dial.
    pub fn upstream(key: Key, dial: u8) -> EventToken {
        EventToken { key, lane: Lane::Upstream(dial) }
    }

    /// Reads a token back; `None` for one of the shard's own (listeners, waker), which are below 2^32: no generation is
    /// 0.
    pub fn read(token: Token) -> Option<EventToken> {
        let generation = u32::try_from(token.0 >> 32).ok().filter(|generation| *generation != 0)?;
        let index = u32::try_from((token.0 & 0xffff_ffff) >> 3).ok()?;
        let lane = match u8::try_from(token.0 & 7).ok()?.checked_sub(1) {
            None => Lane::Downstream,
            Some(dial) => Lane::Upstream(dial),
        };
        Some(EventToken { key: Key { index, generation }, lane })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const SLOTS: [usize; 4] = [0, 1, 9_999, (1 << SLOT_BITS) - 1];

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
    fn a_key_gives_back_its_owner_and_its_slot_even_from_a_token() {
        for owner in Owner::ALL {
            for slot in SLOTS {
                let key = Key::new(owner, slot, 7).unwrap();
                let read = EventToken::read(Token::from(EventToken::upstream(key, 3))).unwrap().key;
                assert_eq!((read.owner(), read.slot(), read.generation), (owner, slot, 7));
            }
        }
    }

    #[test]
    fn the_index_ranges_of_owners_do_not_overlap_and_fit_a_token() {
        let mut owner_of_index = HashMap::new();
        for owner in Owner::ALL {
            for slot in SLOTS {
                let index = Key::new(owner, slot, 1).unwrap().index;
                assert!(index < 1 << 29, "{owner:?} {slot}: {index} does not fit the token");
                assert_eq!(owner_of_index.insert(index, owner), None, "{owner:?} {slot}");
            }
        }
        // A range lies between its first and its last slot, so that it is enough to compare those.
        let mut ranges = Owner::ALL.map(|owner| SLOTS.map(|slot| Key::new(owner, slot, 1).unwrap().index));
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0][3] < pair[1][0]), "{ranges:?}");
    }

    #[test]
    fn a_slot_beyond_an_owners_range_has_no_key() {
        for owner in Owner::ALL {
            assert_eq!(Key::new(owner, 1 << SLOT_BITS, 1), None);
            assert_eq!(Key::new(owner, usize::MAX, 1), None);
        }
    }

    #[test]
    fn the_shards_own_tokens_are_nobodys() {
        assert_eq!(EventToken::read(Token(0)), None);
        assert_eq!(EventToken::read(Token((1 << 32) - 1)), None);
    }
}
