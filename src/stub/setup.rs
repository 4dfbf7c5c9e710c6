//! What all connections of a stub share: its names, its accounts, and recent challenges.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use super::kerberos::{KerberosService, StubKerberos};
use crate::ntlm::{NtHash, Verified, VerifyError, VerifyOptions, verify};

/// How many challenges are remembered, to recognise an AUTHENTICATE_MESSAGE that was sent on the wrong connection.
const RECENT_CHALLENGES: usize = 128;

/// An account that may authenticate to the stub.
#[derive(Debug, Clone)]
pub struct StubAccount {
    /// The domain, in any letter case.
    pub domain: String,
    /// The user, in any letter case.
    pub user: String,
    /// The password's hash.
    pub nt_hash: NtHash,
}

/// The names in a CHALLENGE_MESSAGE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerNames {
    /// NetBIOS name of the domain; also the TargetName.
    pub domain: String,
    /// NetBIOS name of the computer.
    pub computer: String,
    /// DNS name of the domain.
    pub dns_domain: String,
    /// DNS name of the computer.
    pub dns_computer: String,
}

impl ServerNames {
    /// Derives the DNS names from the NetBIOS names: `CORP` and `PROXY` get `corp.test` and `proxy.corp.test`.
    #[must_use]
    pub fn new(domain: &str, computer: &str) -> ServerNames {
        let dns_domain = format!("{}.test", domain.to_lowercase());
        let dns_computer = format!("{}.{dns_domain}", computer.to_lowercase());
        ServerNames { domain: domain.to_owned(), computer: computer.to_owned(), dns_domain, dns_computer }
    }
}

/// A challenge, the NEGOTIATE_MESSAGE it answers, and its connection.
pub(super) struct IssuedChallenge {
    pub connection: u64,
    pub negotiate: Vec<u8>,
    pub challenge: Vec<u8>,
}

/// What all sessions share, on any thread.
pub struct Setup {
    names: ServerNames,
    delay: Duration,
    accounts: RwLock<Vec<StubAccount>>,
    recent: Mutex<VecDeque<Arc<IssuedChallenge>>>,
    kerberos: Option<KerberosService>,
}

impl Setup {
    /// Creates a setup. `delay` passes before every response and simulates a round trip.
    #[must_use]
    pub fn new(names: ServerNames, accounts: Vec<StubAccount>, delay: Duration) -> Setup {
        Setup { names, delay, accounts: RwLock::new(accounts), recent: Mutex::default(), kerberos: None }
    }

    /// Accepts Kerberos, too, or instead of NTLM.
    #[must_use]
    pub fn with_kerberos(mut self, kerberos: StubKerberos) -> Setup {
        self.kerberos = Some(KerberosService::new(kerberos));
        self
    }

    /// The service that verifies Kerberos; `None` if it is not accepted.
    pub(super) fn kerberos(&self) -> Option<&KerberosService> {
        self.kerberos.as_ref()
    }

    /// Changes the password of an account, or adds the account. The next AUTHENTICATE_MESSAGE is verified with it.
    pub fn set_password(&self, domain: &str, user: &str, nt_hash: NtHash) {
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|account| !(same(&account.domain, domain) && same(&account.user, user)));
        accounts.push(StubAccount { domain: domain.to_owned(), user: user.to_owned(), nt_hash });
    }

    /// The same, but the passwords that the account has had so far remain valid, as the previous one does in Active
    /// Directory for an hour.
    pub fn add_password(&self, domain: &str, user: &str, nt_hash: NtHash) {
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        accounts.push(StubAccount { domain: domain.to_owned(), user: user.to_owned(), nt_hash });
    }

    pub(super) fn names(&self) -> &ServerNames {
        &self.names
    }

    pub(super) fn delay(&self) -> Duration {
        self.delay
    }

    /// Remembers a challenge that is being sent.
    pub(super) fn remember(&self, issued: &Arc<IssuedChallenge>) {
        let mut recent = self.recent();
        if recent.len() == RECENT_CHALLENGES {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(issued));
    }

    /// Verifies an AUTHENTICATE_MESSAGE as the answer to `issued`.
    ///
    /// # Errors
    /// If it is malformed, or not a valid answer for any account.
    pub(super) fn verify(
        &self,
        authenticate: &[u8],
        issued: &IssuedChallenge,
        options: &VerifyOptions,
    ) -> Result<Verified, VerifyError> {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        let with_password = |number: usize| {
            let lookup = |user: &str, domain: &str| {
                let mut meant = accounts.iter().filter(|account| self.is_meant(account, user, domain));
                meant.nth(number).map(|account| &account.nt_hash)
            };
            verify(authenticate, &issued.negotiate, &issued.challenge, lookup, options)
        };
        let first = with_password(0);
        (1..accounts.len())
            .fold(first, |so_far, number| so_far.or_else(|error| with_password(number).map_err(|_| error)))
    }

    /// Whether an AUTHENTICATE_MESSAGE that was received on `connection` is a valid answer to a recent challenge of
    /// another connection. This takes a verification for each remembered challenge, so call it only for messages that
    /// failed.
    pub(super) fn is_misplaced(&self, authenticate: &[u8], connection: u64, options: &VerifyOptions) -> bool {
        let others: Vec<_> = self.recent().iter().filter(|issued| issued.connection != connection).cloned().collect();
        others.iter().any(|issued| self.verify(authenticate, issued, options).is_ok())
    }

    /// Whether the names in a message mean this account. A UPN arrives as the user, with an empty domain; a domain has
    /// two names.
    fn is_meant(&self, account: &StubAccount, user: &str, domain: &str) -> bool {
        let (user, domain) = match user.rsplit_once('@') {
            Some((name, realm)) if domain.is_empty() => (name, realm),
            _ => (user, domain),
        };
        let own_domain = same(&account.domain, &self.names.domain);
        let domain_known = same(&account.domain, domain) || own_domain && same(&self.names.dns_domain, domain);
        same(&account.user, user) && domain_known
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Arc<IssuedChallenge>>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(domain: &str, user: &str) -> StubAccount {
        StubAccount { domain: domain.into(), user: user.into(), nt_hash: NtHash::from_password("x") }
    }

    #[test]
    fn an_account_is_found_by_each_of_its_names() {
        let setup = Setup::new(ServerNames::new("CORP", "PROXY"), Vec::new(), Duration::ZERO);
        let alice = account("CORP", "alice");
        for (user, domain) in [("alice", "CORP"), ("ALICE", "corp"), ("alice@corp.test", ""), ("alice", "corp.TEST")] {
            assert!(setup.is_meant(&alice, user, domain), "{domain} {user}");
        }
        for (user, domain) in [("alice", ""), ("alice", "OTHER"), ("bob", "CORP"), ("alice@other.test", "")] {
            assert!(!setup.is_meant(&alice, user, domain), "{domain} {user}");
        }
        assert!(!setup.is_meant(&account("OTHER", "alice"), "alice", "corp.test"));
    }
}
