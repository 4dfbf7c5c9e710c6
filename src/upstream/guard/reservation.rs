//! How an account reserves its attempts in a store that it shares with other processes.
//!
//! The account sends [`Order`]s, which must not block, and the store answers through [`Account`](super::Account), on a
//! thread of its own. While a secret is accepted nothing is reserved.

use std::sync::{Arc, Weak};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::Account;

/// A store as its accounts see it.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Takes an order. Orders are carried out in this sequence, on another thread.
    fn order(&self, order: Order);
}

/// What an account wants of its store.
#[derive(Debug)]
pub enum Order {
    /// From now on there is this account.
    Account {
        /// Its number in this process.
        account: u64,
        /// Its domain, as configured.
        domain: String,
        /// Its user, as configured.
        user: String,
        /// Where the answers go.
        answers: Weak<Account>,
    },
    /// The account has this secret.
    Secret {
        /// Its account.
        account: u64,
        /// [`Account::fingerprint`].
        secret: u64,
        /// What the store makes its fingerprint of.
        digest: SecretDigest,
    },
    /// No identity uses the secret any more. Attempts with it may still be under way.
    Forget {
        /// Its account.
        account: u64,
        /// [`Account::fingerprint`].
        secret: u64,
    },
    /// The secret is going to be used at this upstream: tell what is known.
    Expect(Where),
    /// Reserve an attempt; the answer is [`Account::granted`] or [`Account::denied`], possibly much later.
    Reserve {
        /// For this secret and upstream.
        at: Where,
        /// So many attempts must be left over.
        spare: usize,
        /// It is the first confirmation in a doubt.
        first_confirmation: bool,
    },
    /// A reserved attempt is over.
    Settle {
        /// What it was reserved for.
        at: Where,
        /// The reservation.
        reservation: Reservation,
        /// How it ended.
        end: AttemptEnd,
    },
    /// An attempt without a reservation failed, or was accepted although the secret was in doubt.
    Note {
        /// The secret and upstream.
        at: Where,
        /// What happened.
        event: Unreserved,
    },
}

/// A secret of an account at an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Where {
    /// The number of the account.
    pub account: u64,
    /// [`Account::fingerprint`].
    pub secret: u64,
    /// The upstream's name.
    pub upstream: Arc<str>,
}

/// A reserved attempt, as the store names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its number in the account's record.
    pub number: u64,
    /// Distinguishes this record from one that was made after it was lost.
    pub record: u64,
}

/// How a reserved attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The secret was accepted.
    Accepted,
    /// The secret was rejected.
    Refused {
        /// The guard closes.
        strike: bool,
    },
    /// It ended without a verdict.
    Undecided,
    /// It was not sent.
    Unused,
}

/// What happened to an attempt without a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreserved {
    /// It failed, and counts.
    Failed {
        /// The connection was closed on a client, without an answer.
        by_close: bool,
        /// The guard closes.
        strike: bool,
    },
    /// It was accepted; it was sent then, in ms of the process's clock.
    Accepted {
        /// See above.
        sent_ms: u64,
    },
}

/// What a store knows of a secret at an upstream. Times are in ms of the process's clock; those before its start are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// When some process saw it accepted last.
    pub accepted_ms: Option<u64>,
    /// When some process found it rejected last, unless it was accepted since, and until when nothing is sent.
    pub refused: Option<(u64, u64)>,
}

/// A secret on its way to its fingerprint: a hash of everything about it that an upstream may accept or reject.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretDigest(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for SecretDigest {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("SecretDigest")
    }
}

impl SecretDigest {
    /// [`keyed_hash`] of the parts of a secret.
    pub fn of(parts: &[&[u8]]) -> SecretDigest {
        SecretDigest(Zeroizing::new(keyed_hash(b"ntlm-gateway guard secret", parts)))
    }

    /// The digest, which is as secret as the secret.
    pub fn reveal(&self) -> &[u8] {
        &*self.0
    }
}

/// HMAC-SHA-256 over parts, each with its length, so that no two lists of parts are the same bytes.
pub fn keyed_hash(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
