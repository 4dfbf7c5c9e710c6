//! `ntlm-gateway guard reset`: forgets what was counted for accounts that an administrator has unlocked.

use std::fmt::Write;

use super::store::{OpenStore, account_of};
use crate::config::{Config, IdentityConfig};
use crate::guard_store::{AccountName, Actor, Document};

/// What was cleared.
struct Cleared {
    /// For each account, how many attempts had counted; `None` if the store knew nothing of it.
    counted: Vec<Option<usize>>,
    /// Accounts of other configurations.
    others: usize,
}

pub(super) fn run(config: &Config, mut open: OpenStore, names: &[&str], all: bool) -> Result<String, String> {
    let chosen = choose(config, names, all)?;
    let mut accounts: Vec<(String, AccountName)> = Vec::new();
    for identity in chosen {
        let shown = identity.identity.account().to_string();
        if !accounts.iter().any(|(known, _)| known.to_lowercase() == shown.to_lowercase()) {
            accounts.push((shown, account_of(identity)));
        }
    }
    let act = |document: &mut Document, actor: &Actor<'_>| clear(document, &accounts, all, actor);
    let cleared = if all { open.store.change_or_begin(act) } else { open.store.change(act) };
    let cleared = cleared.map_err(|fault| fault.to_string())?;
    Ok(report(&accounts, &cleared))
}

fn choose<'c>(config: &'c Config, names: &[&str], all: bool) -> Result<Vec<&'c IdentityConfig>, String> {
    if all {
        return Ok(config.identities.iter().collect());
    }
    let find = |name: &&str| {
        config.identities.iter().find(|identity| identity.name == *name).ok_or_else(|| {
            let known: Vec<&str> = config.identities.iter().map(|identity| identity.name.as_str()).collect();
            format!("--identity: there is no identity {name:?}; the configured ones are {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}

/// Clears the accounts. One that is not in the document gets a record all the same: gateways that knew it from a
/// document that was lost learn of the reset by it.
fn clear(document: &mut Document, accounts: &[(String, AccountName)], all: bool, actor: &Actor<'_>) -> Cleared {
    let now_ms = actor.now_ms;
    let salt = document.salt().to_owned();
    let hashes: Vec<String> = accounts.iter().map(|(_, account)| account.hash(&salt)).collect();
    let counted = |hash: &String| document.existing(hash).map(|record| record.counted(actor.policy, now_ms));
    let counted: Vec<Option<usize>> = hashes.iter().map(counted).collect();
    let mut others = 0;
    if all {
        let total = document.records().map(|record| record.reset(now_ms)).count();
        others = total - counted.iter().flatten().count();
    }
    hashes.iter().for_each(|hash| document.record(hash).reset(now_ms));
    Cleared { counted, others }
}

fn report(accounts: &[(String, AccountName)], cleared: &Cleared) -> String {
    let mut out = String::new();
    for ((account, _), counted) in accounts.iter().zip(&cleared.counted) {
        // Writing to a string cannot fail.
        let _ = match counted {
            None => writeln!(out, "{account}: cleared; the store knew nothing of it"),
            Some(1) => writeln!(out, "{account}: cleared; 1 attempt had been counted"),
            Some(count) => writeln!(out, "{account}: cleared; {count} attempts had been counted"),
        };
    }
    if cleared.others > 0 {
        let _ = writeln!(out, "accounts of other configurations: {} cleared", cleared.others);
    }
    out.push_str("Gateways whose requests wait for the account notice within two seconds.\n");
    out
}
