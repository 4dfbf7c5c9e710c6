//! Random numbers for AUTHENTICATE_MESSAGEs, fetched from the system in bulk.

use zeroize::Zeroize;

const POOL_BYTES: usize = 1536;

/// Random bytes of the system, each given out once and wiped.
pub struct Entropy {
    pool: Box<[u8; POOL_BYTES]>,
    used: usize,
}

impl Default for Entropy {
    fn default() -> Self {
        Entropy { pool: Box::new([0; POOL_BYTES]), used: POOL_BYTES }
    }
}

impl Entropy {
    /// `N` random bytes, `N` far below the pool's size.
    ///
    /// # Errors
    /// When the system has no randomness to give, which Linux does not say once it is up.
    pub fn take<const N: usize>(&mut self) -> Result<[u8; N], getrandom::Error> {
        if POOL_BYTES - self.used < N {
            getrandom::fill(self.pool.as_mut_slice())?;
            self.used = 0;
        }
        let mut out = [0; N];
        let from = &mut self.pool[self.used..self.used + N];
        out.copy_from_slice(from);
        from.zeroize();
        self.used += N;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_number_comes_twice() {
        let mut entropy = Entropy::default();
        let drawn: HashSet<[u8; 16]> = (0..1_000).map(|_| entropy.take().unwrap()).collect();
        assert_eq!(drawn.len(), 1_000);
    }
}
