//! The accounts and services of a KDC, with their keys.

use std::fmt;

use zeroize::Zeroizing;

use crate::kerberos::crypto::{Etype, Key};
use crate::kerberos::name::{Principal, PrincipalName};

/// An account or a service.
#[derive(Debug)]
pub(super) struct Account {
    pub name: PrincipalName,
    /// The version of its keys.
    pub kvno: u32,
    pub is_revoked: bool,
    secret: Secret,
}

/// What keys come from. No `Debug` shows it.
enum Secret {
    Password {
        password: Zeroizing<String>,
        salt: Vec<u8>,
        /// The keys that were needed so far. It takes a while to make one.
        made: Vec<Key>,
    },
    Random(Vec<Key>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Secret::Password { .. } => "Password",
            Secret::Random(_) => "Random",
        })
    }
}

impl Account {
    pub(super) fn with_password(principal: &Principal, password: &str) -> Account {
        let password = Zeroizing::new(password.to_owned());
        let secret = Secret::Password { password, salt: principal.default_salt(), made: Vec::new() };
        Account { name: principal.name.clone(), kvno: 1, is_revoked: false, secret }
    }

    /// With a key of each etype.
    pub(super) fn with_random_keys(
        name: PrincipalName,
        etypes: &[Etype],
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Account {
        let mut key_of = |etype: &Etype| {
            let mut bytes = Zeroizing::new([0; 32]);
            random(&mut *bytes);
            Key::new(*etype, &bytes[..etype.key_bytes()])
        };
        let keys = etypes.iter().filter_map(&mut key_of).collect();
        Account { name, kvno: 1, is_revoked: false, secret: Secret::Random(keys) }
    }

    /// The key of an etype; `None` if it has none.
    pub(super) fn key(&mut self, etype: Etype) -> Option<Key> {
        match &mut self.secret {
            Secret::Random(keys) => keys.iter().find(|key| key.etype() == etype).cloned(),
            Secret::Password { password, salt, made } => {
                if let Some(key) = made.iter().find(|key| key.etype() == etype) {
                    return Some(key.clone());
                }
                let key = Key::of_password(etype, password, salt, etype.default_iterations());
                made.push(key.clone());
                Some(key)
            }
        }
    }

    /// The salt of its password.
    pub(super) fn salt(&self) -> Option<&[u8]> {
        match &self.secret {
            Secret::Password { salt, .. } => Some(salt),
            Secret::Random(_) => None,
        }
    }

    /// Its random keys, if it has such, the preferred one first.
    pub(super) fn random_keys(&self) -> &[Key] {
        match &self.secret {
            Secret::Password { .. } => &[],
            Secret::Random(keys) => keys,
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Principals {
    accounts: Vec<Account>,
}

impl Principals {
    /// Adds an account, or replaces the one of the same name by one with keys of the next version.
    pub(super) fn put(&mut self, mut account: Account) {
        match self.find(&account.name) {
            None => self.accounts.push(account),
            Some(old) => {
                account.kvno = old.kvno.saturating_add(1);
                *old = account;
            }
        }
    }

    pub(super) fn find(&mut self, name: &PrincipalName) -> Option<&mut Account> {
        self.accounts.iter_mut().find(|account| account.name.is_same(name))
    }

    /// Those with random keys.
    pub(super) fn services(&self) -> impl Iterator<Item = &Account> {
        self.accounts.iter().filter(|account| !account.random_keys().is_empty())
    }
}
