//! The configured store, and how it names the accounts and secrets of a configuration.

use std::path::Path;

use crate::config::{Config, GuardStore, IdentityConfig};
use crate::gateway::{guard_start, kdc_logon, secret_digest};
use crate::guard_store::{self, AccountName, DirectStore, Place};
use crate::upstream::SecretDigest;

/// A store, with its name for people and programs.
pub(in crate::cli) struct OpenStore {
    pub store: DirectStore,
    /// As in `guard.store`.
    pub kind: &'static str,
    /// The directory or the Lease.
    pub at: String,
}

/// Opens the configured store; `None` if there is none besides the memory of each gateway. Nothing is read yet.
pub(in crate::cli) fn open(config: &Config) -> Result<Option<OpenStore>, String> {
    let (kind, at) = match &config.guard.store {
        GuardStore::Memory => return Ok(None),
        GuardStore::File(directory) => ("file", directory.display().to_string()),
        GuardStore::Kubernetes(lease) => ("kubernetes", lease.clone()),
    };
    let cell = guard_start::cell(&config.guard).map_err(|fault| format!("guard.store: {fault}"))?;
    let accounts = config.identities.iter().map(account_of).collect();
    let policy = guard_start::policy(&config.guard);
    let Some(cell) = cell else { return Ok(None) };
    let store = DirectStore::new(cell, policy, config.guard.max_replicas, accounts);
    let store = store.map_err(|error| format!("the system has no randomness: {error}"))?;
    Ok(Some(OpenStore { store, kind, at }))
}

/// A directory that is not there yet would be created for the user who runs the command, where the gateway could not
/// write to it.
pub(super) fn require_directory(store: &GuardStore) -> Result<(), String> {
    let missing = |directory: &&Path| !directory.is_dir();
    let directory = if let GuardStore::File(directory) = store { Some(directory.as_path()) } else { None };
    match directory.filter(missing) {
        Some(directory) => Err(format!(
            "guard.directory {} is not a directory: no gateway has counted there yet, or it is the wrong path",
            directory.display()
        )),
        None => Ok(()),
    }
}

/// The account of an identity, by which the store counts.
pub(super) fn account_of(identity: &IdentityConfig) -> AccountName {
    let identity = &identity.identity;
    AccountName { domain: identity.domain().to_owned(), user: identity.user().to_owned() }
}

/// An account with its secret.
#[derive(Clone)]
pub(in crate::cli) struct StoredSecret {
    account: AccountName,
    digest: SecretDigest,
}

impl StoredSecret {
    pub(in crate::cli) fn of(identity: &IdentityConfig) -> StoredSecret {
        StoredSecret { account: account_of(identity), digest: secret_digest(identity) }
    }

    /// What an identity with Kerberos logs on with to the KDCs of its realm, and how the store names those.
    pub(in crate::cli) fn for_kdc(identity: &IdentityConfig) -> Option<(String, StoredSecret)> {
        let (upstream, digest) = kdc_logon(identity)?;
        Some((upstream, StoredSecret { account: account_of(identity), digest }))
    }

    /// How a document with this salt names the account.
    pub(in crate::cli) fn account(&self, salt: &str) -> String {
        self.account.hash(salt)
    }

    /// How it names the secret at an upstream.
    pub(in crate::cli) fn place(&self, salt: &str, upstream: &str) -> Place {
        let fingerprint = guard_store::fingerprint(&self.digest, salt, &self.account(salt));
        guard_store::place(salt, &fingerprint, upstream)
    }
}
