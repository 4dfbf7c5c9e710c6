//! Clients that log on to the gateway: checking their logins, limiting wrong guesses.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::client_protocol::ShownLogin;
use crate::limits::{self, millis};
use crate::metrics::LoginMetrics;
use crate::ntlm::NtHash;

/// Why a login was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// There is no such user with this password.
    Wrong,
    /// The credentials cannot be decoded.
    Unreadable,
    /// It was not checked, because too many earlier logins from the address were wrong.
    Throttled,
}

/// The configured logins.
#[derive(Debug, Default)]
pub struct Logins(Vec<Known>);

#[derive(Debug)]
struct Known {
    user: String,
    password: NtHash,
    /// The index of its identity in the egress.
    identity: usize,
}

impl Logins {
    /// Adds a login for an identity, by index.
    pub fn add(&mut self, user: &str, password: NtHash, identity: usize) {
        self.0.push(Known { user: user.to_owned(), password, identity });
    }

    /// Whether there are no logins.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The identity, by index, of the login that a client shows; `None` if it shows none, or if no logins are
    /// configured.
    ///
    /// # Errors
    /// [`LoginError`], which also counts against the client's address unless it is [`LoginError::Throttled`].
    pub(super) fn identity_of(
        &self,
        client: IpAddr,
        shown: &ShownLogin,
        now_ms: u64,
        guesses: &Guesses,
    ) -> Result<Option<usize>, LoginError> {
        let found = self.check(client, shown, now_ms, guesses)?;
        if found.is_some() {
            guesses.metrics.accepted.inc();
        }
        Ok(found)
    }

    /// As [`Logins::identity_of`], before there is a request: a login counts as accepted with its request.
    pub(super) fn check(
        &self,
        client: IpAddr,
        shown: &ShownLogin,
        now_ms: u64,
        guesses: &Guesses,
    ) -> Result<Option<usize>, LoginError> {
        if self.is_empty() || matches!(shown, ShownLogin::Nothing) {
            return Ok(None);
        }
        if guesses.is_throttled(client, now_ms) {
            guesses.metrics.throttled.inc();
            return Err(LoginError::Throttled);
        }
        let (found, error) = match shown {
            ShownLogin::Login { user, password } => (self.find(user, password), LoginError::Wrong),
            _ => (None, LoginError::Unreadable),
        };
        match found {
            Some(identity) => Ok(Some(identity)),
            None => {
                guesses.metrics.refused.inc();
                guesses.wrong(client, now_ms);
                Err(error)
            }
        }
    }

    /// Compares hashes, and always with all entries, so that the time it takes reveals nothing about the password.
    fn find(&self, user: &str, password: &str) -> Option<usize> {
        let shown = NtHash::from_password(password);
        self.0.iter().fold(None, |found, known| {
            let fits = (known.password == shown) & (known.user == user);
            found.or(fits.then_some(known.identity))
        })
    }
}

/// Counts wrong logins per client address, over all shards and across reloads.
///
/// An address may send [`limits::LOGIN_ATTEMPTS`] wrong logins at once, and then one every [`limits::LOGIN_INTERVAL`].
/// All others are rejected without being checked, right or wrong, so that the answer reveals nothing. Right logins do
/// not count. At most [`limits::LOGIN_ADDRESSES`] addresses are remembered.
pub struct Guesses {
    /// When each address may send [`limits::LOGIN_ATTEMPTS`] wrong logins again, in ms. Each wrong login moves it by
    /// [`limits::LOGIN_INTERVAL`].
    recovered_ms: Mutex<HashMap<IpAddr, u64>>,
    /// The size of `recovered_ms`. While it is 0, which is the usual case, the lock is not taken.
    remembered: AtomicUsize,
    metrics: LoginMetrics,
}

impl std::fmt::Debug for Guesses {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Guesses").field("remembered", &self.remembered).finish_non_exhaustive()
    }
}

impl Guesses {
    /// Starts without wrong logins.
    pub fn new(metrics: LoginMetrics) -> Guesses {
        Guesses { recovered_ms: Mutex::default(), remembered: AtomicUsize::new(0), metrics }
    }

    fn is_throttled(&self, client: IpAddr, now_ms: u64) -> bool {
        if self.remembered.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let burst_ms = u64::from(limits::LOGIN_ATTEMPTS - 1) * millis(limits::LOGIN_INTERVAL);
        self.lock().get(&source(client)).is_some_and(|recovered_ms| *recovered_ms > now_ms + burst_ms)
    }

    fn wrong(&self, client: IpAddr, now_ms: u64) {
        let mut recovered_ms = self.lock();
        let client = source(client);
        if recovered_ms.len() >= limits::LOGIN_ADDRESSES && !recovered_ms.contains_key(&client) {
            recovered_ms.retain(|_, recovered_ms| *recovered_ms > now_ms);
            // Replace the one that would be forgotten first.
            if recovered_ms.len() >= limits::LOGIN_ADDRESSES
                && let Some(next) = recovered_ms.iter().min_by_key(|entry| *entry.1).map(|entry| *entry.0)
            {
                recovered_ms.remove(&next);
            }
        }
        let own = recovered_ms.entry(client).or_insert(now_ms);
        *own = (*own).max(now_ms) + millis(limits::LOGIN_INTERVAL);
        self.remembered.store(recovered_ms.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u64>> {
        self.recovered_ms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one client: an IPv4 address, or an IPv6 /64 network, because one machine may use all of its
/// addresses.
fn source(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        own => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{FieldStorage, RequestHead};
    use crate::metrics::Metrics;
    use zeroize::Zeroizing;

    const REST_MS: u64 = limits::LOGIN_INTERVAL.as_secs() * 1000;

    fn shown(fields: &str) -> ShownLogin {
        let head = format!("CONNECT a.test:443 HTTP/1.1\r\n{fields}\r\n");
        let mut storage = FieldStorage::new();
        ShownLogin::read(&RequestHead::parse(head.as_bytes(), &mut storage).unwrap().fields)
    }

    fn logins() -> (Logins, Guesses) {
        let mut logins = Logins::default();
        logins.add("joe", NtHash::from_password("let me: in"), 3);
        (logins, Guesses::new(Metrics::new().unwrap().logins()))
    }

    fn login(user: &str, password: &str) -> ShownLogin {
        ShownLogin::Login { user: Zeroizing::new(user.into()), password: Zeroizing::new(password.into()) }
    }

    #[test]
    fn a_login_is_read_whatever_the_case_of_its_scheme_and_its_spaces() {
        for value in ["Basic am9lOmxldCBtZTogaW4=", "bAsIc   am9lOmxldCBtZTogaW4=", "basic\tam9lOmxldCBtZTogaW4"] {
            let ShownLogin::Login { user, password } = shown(&format!("Proxy-Authorization: {value}\r\n")) else {
                panic!("{value}");
            };
            assert_eq!((user.as_str(), password.as_str()), ("joe", "let me: in"));
        }
    }

    #[test]
    fn credentials_of_other_schemes_are_not_for_the_gateway() {
        for fields in [
            "",
            "Proxy-Authorization: NTLM TlRM\r\n",
            "Proxy-Authorization: Bearer x\r\n",
            "Proxy-Authorization: basically x\r\n",
        ] {
            assert!(matches!(shown(fields), ShownLogin::Nothing), "{fields}");
        }
    }

    #[test]
    fn basic_credentials_that_cannot_be_decoded_are_rejected() {
        // No token, no base64, no colon, no UTF-8, and no space after the scheme.
        for value in ["Basic", "Basic ", "Basic !!", "Basic am9l", "Basic /zp4", "Basic:am9lOng=", "Basic am9lOng= x"] {
            assert!(matches!(shown(&format!("Proxy-Authorization: {value}\r\n")), ShownLogin::Unreadable), "{value}");
        }
        let twice = "Proxy-Authorization: Basic am9lOng=\r\nProxy-Authorization: Basic am9lOng=\r\n";
        assert!(matches!(shown(twice), ShownLogin::Unreadable));
        let (logins, guesses) = logins();
        let client = "10.0.0.1".parse().unwrap();
        assert_eq!(logins.identity_of(client, &ShownLogin::Unreadable, 0, &guesses), Err(LoginError::Unreadable));
        assert_eq!(Logins::default().identity_of(client, &ShownLogin::Unreadable, 0, &guesses), Ok(None));
    }

    #[test]
    fn after_five_wrong_logins_an_address_gets_one_check_every_ten_seconds() {
        let (logins, guesses) = logins();
        let ask = |client: &str, shown: &ShownLogin, now_ms| {
            logins.identity_of(client.parse().unwrap(), shown, now_ms, &guesses)
        };
        let (wrong, right) = (login("joe", "x"), login("joe", "let me: in"));
        for _ in 0..limits::LOGIN_ATTEMPTS {
            assert_eq!(ask("10.0.0.1", &right, 0), Ok(Some(3)), "right logins do not count");
            assert_eq!(ask("10.0.0.1", &wrong, 0), Err(LoginError::Wrong));
        }
        assert_eq!(ask("10.0.0.1", &wrong, REST_MS - 1), Err(LoginError::Throttled));
        assert_eq!(
            ask("10.0.0.1", &right, REST_MS - 1),
            Err(LoginError::Throttled),
            "otherwise a guess would be confirmed"
        );
        assert_eq!(ask("10.0.0.2", &right, 0), Ok(Some(3)), "other addresses are not affected");
        assert_eq!(ask("10.0.0.1", &ShownLogin::Nothing, 0), Ok(None));
        assert_eq!(ask("10.0.0.1", &right, REST_MS), Ok(Some(3)));
        let looked_at = (REST_MS..REST_MS * 100)
            .step_by(10)
            .filter(|now_ms| ask("10.0.0.1", &wrong, *now_ms) == Err(LoginError::Wrong));
        assert_eq!(looked_at.count(), 99);
    }

    #[test]
    fn addresses_of_an_ipv6_64_network_count_together_and_are_bounded() {
        let (logins, guesses) = logins();
        let wrong = login("joe", "x");
        let of_one = |host: u128| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | host));
        let refused =
            (0..100).filter(|host| logins.identity_of(of_one(*host), &wrong, 0, &guesses) == Err(LoginError::Wrong));
        assert_eq!(refused.count(), limits::LOGIN_ATTEMPTS as usize);
        for network in 0..20_000 {
            let _ = logins.identity_of(of_one(network << 64), &wrong, 0, &guesses);
        }
        assert!(guesses.lock().len() <= limits::LOGIN_ADDRESSES);
        assert!(guesses.is_throttled(of_one(1), 0), "the address with the most wrong logins is not forgotten");
    }
}
