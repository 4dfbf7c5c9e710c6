//! Splits bytes into pieces, as a network may do.

/// Splits bytes: a seed of 0 into single bytes, any other into pieces of 1 to `seed` bytes.
pub struct Pieces<'a> {
    rest: &'a [u8],
    longest: u32,
    random: u32,
}

impl<'a> Pieces<'a> {
    /// Splits `bytes` as `seed` decides.
    pub fn new(bytes: &'a [u8], seed: u8) -> Self {
        Self { rest: bytes, longest: u32::from(seed).max(1), random: 0x9e37_79b9 ^ u32::from(seed) }
    }

    /// The bytes that are left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        // xorshift32
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let length = usize::try_from(1 + self.random % self.longest).unwrap_or(1).min(self.rest.len());
        let (piece, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(piece)
    }
}
