//! What happened in a run: as a hash, which must be the same for every run of a seed, and as text for debugging.

use crate::transport::Signs;

/// Instead of a connection or a number: there is none, or the call failed.
pub const NONE: usize = usize::MAX;

/// The record of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    print: bool,
}

impl Trace {
    /// An empty record; each entry is printed if `print` is set.
    pub fn new(print: bool) -> Trace {
        if print {
            println!("{:>12} {:<20} {:>10} number", "time in µs", "what", "connection");
        }
        Trace { hash: 0xcbf2_9ce4_8422_2325, print }
    }

    /// Records an event: when, what, on which connection, and a number that depends on the event: bytes, a port, or the
    /// [`bits`] of an event of the poll.
    pub fn note(&mut self, at_us: u64, what: &str, connection: usize, number: usize) {
        for number in [at_us, what.len() as u64, connection as u64, number as u64] {
            self.hash = (self.hash ^ number).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        }
        if self.print {
            let shown = |number: usize| if number == NONE { "-".to_owned() } else { number.to_string() };
            println!("{at_us:>12} {what:<20} {:>10} {}", shown(connection), shown(number));
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// What the poll reports, as a number: 1 readable, 2 writable, 4 read closed, 8 write closed, 16 error.
pub fn bits(signs: &Signs) -> usize {
    let flags = [signs.readable, signs.writable, signs.read_closed, signs.write_closed, signs.error];
    flags.iter().rev().fold(0, |bits, flag| 2 * bits + usize::from(*flag))
}
