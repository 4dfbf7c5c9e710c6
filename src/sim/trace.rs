//! What happened in a run: as a hash, which must be the same for every run of a seed, and as text for debugging.

/// The record of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    print: bool,
}

impl Trace {
    /// An empty record; each entry is printed if `print` is set.
    pub fn new(print: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, print }
    }

    /// Records an event: at what time, what, on which connection, and a size or other detail.
    pub fn note(&mut self, at_us: u64, what: &str, id: usize, size: usize) {
        for number in [at_us, what.len() as u64, id as u64, size as u64] {
            self.hash = (self.hash ^ number).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        }
        if self.print {
            println!("{at_us:>12} {what:<12} {id:>4} {size}");
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}
