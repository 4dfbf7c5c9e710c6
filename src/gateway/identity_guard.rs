//! The guards of an identity's secrets: what distinguishes the secrets, and what is logged about them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::egress_builder::{Builder, account_of, notify};
use super::kerberos::{KeyGuards, key_material, only_keytab};
use crate::config::{IdentityConfig, KerberosIdentity, Logon};
use crate::kerberos::KeyVersion;
use crate::shard::Message;
use crate::upstream::{Account, Guard, GuardChange, GuardState, SecretDigest};

/// Which of an identity's secrets a guard is for.
#[derive(Clone, Copy)]
pub(super) enum SecretRole<'a> {
    /// The only one.
    Only,
    /// The one that replaces the previous one.
    Present,
    Previous(Logon<'a>),
}

/// Logs the state of an account's secret at an upstream, and how long nothing is sent.
type LogGuard = fn(&str, &str, GuardState, Duration);

impl Builder {
    /// A guard whose changes are counted, logged and sent to all shards. The account keeps its failure count, even if
    /// the configuration changes its secret. The metric of the state is the present secret's.
    pub(super) fn guard(&self, config: &IdentityConfig, role: SecretRole<'_>, retired: &Arc<AtomicBool>) -> Arc<Guard> {
        let account = self.accounts.of(config.identity.domain(), config.identity.user());
        let (secret, digest) = match role {
            SecretRole::Previous(logon) => (fingerprint_of(&account, logon), digest_of(logon)),
            SecretRole::Only | SecretRole::Present => (fingerprint(&account, config), secret_digest(config)),
        };
        let previous = match role {
            SecretRole::Present => config.previous().map(|logon| fingerprint_of(&account, logon)),
            SecretRole::Only | SecretRole::Previous(_) => None,
        };
        account.introduce(secret, digest);
        Guard::replacing(account, secret, previous, self.on_guard_change(config, role, Arc::clone(retired)))
    }

    fn on_guard_change(
        &self,
        config: &IdentityConfig,
        role: SecretRole<'_>,
        retired: Arc<AtomicBool>,
    ) -> impl Fn(&GuardChange) + Send + Sync + use<> {
        let notifier = Arc::clone(&self.notifier);
        let counted = (!matches!(role, SecretRole::Previous(_))).then(|| Arc::clone(&self.metrics));
        let (name, shown, log) = (config.name.clone(), account_of(config), role.log());
        let latest = AtomicU64::new(0);
        move |change| {
            if retired.load(Ordering::Relaxed) {
                return;
            }
            if let GuardChange::State { upstream, at_upstream, overall, rest, number } = change {
                if let Some(metrics) = &counted
                    && latest.fetch_max(*number, Ordering::Relaxed) < *number
                {
                    metrics.guard.changed(&name, *overall);
                }
                log(&shown, upstream, *at_upstream, *rest);
            }
            notify(&notifier, || Message::GuardChanged);
        }
    }

    /// The guards of an identity's keys for Kerberos. They have the account's budget in common with NTLM. `guard` is
    /// the identity's own.
    pub(super) fn guards_of(
        &self,
        config: &IdentityConfig,
        kerberos: &KerberosIdentity,
        guard: &Arc<Guard>,
    ) -> KeyGuards {
        let account = self.accounts.of(config.identity.domain(), config.identity.user());
        let mut known = HashMap::from([(KeyVersion::Password, Arc::clone(guard))]);
        // The identity's own guards log and count the changes.
        if let Some(previous) = config.previous() {
            let previous = fingerprint_of(&account, previous);
            let present = Guard::replacing(Arc::clone(&account), fingerprint(&account, config), Some(previous), |_| {});
            known.insert(KeyVersion::Password, present);
            known.insert(KeyVersion::PreviousPassword, Guard::of(Arc::clone(&account), previous, |_| {}));
        }
        let on_change = Arc::new(self.on_guard_change(config, SecretRole::Only, Arc::default()));
        KeyGuards { account, kerberos: kerberos.clone(), on_change, known }
    }
}

impl SecretRole<'_> {
    fn log(self) -> LogGuard {
        match self {
            SecretRole::Only => log_only,
            SecretRole::Present => log_present,
            SecretRole::Previous(_) => log_previous,
        }
    }
}

fn log_present(account: &str, upstream: &str, state: GuardState, rest: Duration) {
    match state {
        GuardState::Proven => log::info!(
            "upstream {upstream} accepts the present password of {account}; the previous one is no longer used there"
        ),
        GuardState::Unproven => {
            log::debug!("the present password of {account} has to be accepted again by upstream {upstream}")
        }
        GuardState::Refused => log::warn!(
            "upstream {upstream} refuses the present password of {account}: the previous one is used there, if it is \
             accepted, until the domain has the present one, which is tried again in {} min",
            rest.as_secs().div_ceil(60)
        ),
    }
}

fn log_previous(account: &str, upstream: &str, state: GuardState, _: Duration) {
    match state {
        GuardState::Proven => log::info!(
            "upstream {upstream} accepts the previous password of {account}, which is used there until the domain has \
             the present one"
        ),
        GuardState::Unproven => {
            log::debug!("the previous password of {account} has to be accepted again by upstream {upstream}")
        }
        GuardState::Refused => log::warn!("upstream {upstream} refuses the previous password of {account}"),
    }
}

fn log_only(account: &str, upstream: &str, state: GuardState, rest: Duration) {
    match state {
        GuardState::Proven => log::info!("upstream {upstream} accepts the credentials of {account}"),
        GuardState::Unproven => {
            log::debug!("the credentials of {account} have to be accepted again by upstream {upstream}")
        }
        GuardState::Refused => log::error!(
            "upstream {upstream} refuses the credentials of {account}: no further attempt for {} min, so that the account is not \
             locked; correct the password: a changed password is tried at once if the account has attempts left",
            rest.as_secs().div_ceil(60)
        ),
    }
}

/// A fingerprint of everything about an identity that an upstream may accept or refuse.
fn fingerprint(account: &Account, config: &IdentityConfig) -> u64 {
    match only_keytab(config) {
        Some((kerberos, version)) => account.fingerprint(&*key_material(kerberos, version)),
        None => fingerprint_of(account, config.present()),
    }
}

fn fingerprint_of(account: &Account, Logon { identity, basic }: Logon<'_>) -> u64 {
    let (method, basic) = (format!("{:?}", identity.method()), basic.map(|password| password.reveal()));
    account.fingerprint((identity.nt_hash().to_hex().as_str(), basic, method, identity.target_domain()))
}

/// The same for a store, where it has to be valid in other processes as well.
pub(crate) fn secret_digest(config: &IdentityConfig) -> SecretDigest {
    match only_keytab(config) {
        Some((kerberos, version)) => SecretDigest::of(&[&key_material(kerberos, version)]),
        None => digest_of(config.present()),
    }
}

fn digest_of(Logon { identity, basic }: Logon<'_>) -> SecretDigest {
    SecretDigest::of(&[
        identity.nt_hash().to_hex().as_bytes(),
        basic.map_or("", |password| password.reveal()).as_bytes(),
        format!("{:?}", identity.method()).as_bytes(),
        &[u8::from(identity.target_domain())],
    ])
}
