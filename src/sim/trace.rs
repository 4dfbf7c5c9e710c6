//! What happened, as a number that two runs of one seed must share, and as text for whoever looks for a fault.

/// The record of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    prints: bool,
}

impl Trace {
    /// An empty record, printed as it grows if `prints`.
    pub fn new(prints: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, prints }
    }

    /// Notes that something happened.
    pub fn note(&mut self, at_us: u64, what: &str, id: usize, size: usize) {
        for number in [at_us, what.len() as u64, id as u64, size as u64] {
            self.hash = (self.hash ^ number).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        }
        if self.prints {
            println!("{at_us:>12} {what:<12} {id:>4} {size}");
        }
    }

    /// The number.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}
