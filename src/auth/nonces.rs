//! What a token needs that is new each time. A [`Handshake`](super::Handshake) takes it as an argument; [`NonceSource`]
//! is where the gateway gets it from.

use std::time::{SystemTime, UNIX_EPOCH};

use zeroize::Zeroize;

use crate::fault::{At, Cause, Fault};
use crate::ntlm::FileTime;

const POOL_BYTES: usize = 3584;

/// The inputs of a token that are new each time.
#[derive(Clone, Copy)]
pub struct Nonces {
    /// 8 random bytes.
    pub client_challenge: [u8; 8],
    /// 16 random bytes.
    pub exported_session_key: [u8; 16],
    /// 32 random bytes.
    pub subkey: [u8; 32],
    /// The current time, used if the server does not send its own.
    pub now: FileTime,
}

/// Random bytes, fetched from the system in bulk, each used once and wiped.
pub struct NonceSource {
    pool: Box<[u8; POOL_BYTES]>,
    used: usize,
    /// Makes the nonces instead.
    #[cfg(test)]
    script: Option<Box<dyn FnMut() -> Nonces + Send>>,
}

impl Default for NonceSource {
    fn default() -> Self {
        NonceSource {
            pool: Box::new([0; POOL_BYTES]),
            used: POOL_BYTES,
            #[cfg(test)]
            script: None,
        }
    }
}

impl NonceSource {
    /// Nonces and times that can be repeated.
    #[cfg(test)]
    pub(crate) fn scripted(script: impl FnMut() -> Nonces + Send + 'static) -> NonceSource {
        NonceSource { script: Some(Box::new(script)), ..NonceSource::default() }
    }

    /// Nonces for one token that is sent now.
    ///
    /// # Errors
    /// [`Cause::ResourcesExhausted`] when the system has no random numbers, which does not happen on Linux once it is
    /// up.
    pub fn draw(&mut self) -> Result<Nonces, Fault> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return Ok(script());
        }
        let no_randomness = |error| {
            let detail = format!("the system has no random numbers: {error}");
            Fault::new(At::Authenticate, Cause::ResourcesExhausted, detail)
        };
        let client_challenge = self.take().map_err(no_randomness)?;
        let exported_session_key = self.take().map_err(no_randomness)?;
        let subkey = self.take().map_err(no_randomness)?;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = FileTime::from_unix(since_1970.as_secs(), since_1970.subsec_nanos());
        Ok(Nonces { client_challenge, exported_session_key, subkey, now })
    }

    /// `N` random bytes, `N` far below the pool's size.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], getrandom::Error> {
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
        let mut source = NonceSource::default();
        let drawn: HashSet<[u8; 16]> = (0..1_000).map(|_| source.take().unwrap()).collect();
        assert_eq!(drawn.len(), 1_000);
    }
}
