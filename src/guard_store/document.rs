//! The document that a store keeps: the records of all accounts, and what their hashes are keyed with.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

use super::record::{Place, Record};
use crate::limits;
use crate::upstream::{GuardPolicy, SecretDigest, keyed_hash};

/// The version of the document's form.
const FORM: u32 = 1;

/// Random bytes of a salt.
const SALT_BYTES: usize = 16;

/// Everything that a store knows. No secret, name, client or destination is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    form: u32,
    /// Random, in hexadecimal digits; made with the document. It keys all hashes.
    salt: String,
    accounts: BTreeMap<String, Record>,
}

/// Why a text is no document.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DocumentError {
    /// It is no JSON of the expected form.
    #[error("it cannot be read: {0}")]
    Syntax(String),
    /// It was written by another version of the gateway.
    #[error("it has form {0}, which this version of the gateway does not know")]
    Form(u32),
}

impl Document {
    /// An empty document.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new() -> Result<Document, getrandom::Error> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt)?;
        Ok(Document { form: FORM, salt: hex(&salt), accounts: BTreeMap::new() })
    }

    /// Reads a document.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub fn read(text: &str) -> Result<Document, DocumentError> {
        let document: Document =
            serde_json::from_str(text).map_err(|error| DocumentError::Syntax(error.to_string()))?;
        if document.form == FORM { Ok(document) } else { Err(DocumentError::Form(document.form)) }
    }

    /// The document as one line, of at most [`limits::GUARD_DOCUMENT_BYTES`]: accounts of which nothing counts any more
    /// are dropped, the oldest first, and then others.
    pub fn write(&mut self, policy: &GuardPolicy, now_ms: u64) -> String {
        loop {
            let text = serde_json::to_string(self).unwrap_or_default();
            if text.len() <= limits::GUARD_DOCUMENT_BYTES {
                return text;
            }
            let age = |(name, record): (&String, &Record)| {
                (!record.is_idle(policy, now_ms), record.latest_ms(), name.clone())
            };
            let Some((_, _, oldest)) = self.accounts.iter().map(age).min() else { return text };
            self.accounts.remove(&oldest);
        }
    }

    /// What makes this document different from one that was made after it was lost.
    pub fn salt(&self) -> &str {
        &self.salt
    }

    /// The record of an account, which is created if there is none.
    pub fn record(&mut self, account: &str) -> &mut Record {
        self.accounts.entry(account.to_owned()).or_default()
    }

    /// The record of an account, if there is one.
    pub fn existing(&self, account: &str) -> Option<&Record> {
        self.accounts.get(account)
    }

    /// The records of all accounts.
    pub fn records(&mut self) -> impl Iterator<Item = &mut Record> {
        self.accounts.values_mut()
    }

    /// Counts so many attempts for every account, these among them: they may have been in documents that were lost.
    pub fn assume_lost(&mut self, accounts: &[String], attempts: usize, now_ms: u64) {
        for account in accounts {
            self.record(account);
        }
        for record in self.accounts.values_mut() {
            (0..attempts).for_each(|_| record.assume_failed(now_ms));
        }
    }
}

/// The name under which the document keeps an account: a keyed hash of domain and user, both in lower case.
pub fn account_hash(salt: &str, domain: &str, user: &str) -> String {
    short_hash(salt, &[b"account", domain.to_lowercase().as_bytes(), user.to_lowercase().as_bytes()])
}

/// A secret at an upstream, as the document names it.
pub fn place(salt: &str, fingerprint: &str, upstream: &str) -> Place {
    Place { secret: fingerprint.to_owned(), upstream: short_hash(salt, &[b"upstream", upstream.as_bytes()]) }
}

/// The fingerprint of a secret: PBKDF2 with HMAC-SHA-256, salted with the document's salt and the account. Takes some
/// milliseconds.
pub fn fingerprint(secret: &SecretDigest, salt: &str, account: &str) -> String {
    let salt = [salt.as_bytes(), b":", account.as_bytes()].concat();
    let mut derived = Zeroizing::new([0; 16]);
    pbkdf2::pbkdf2_hmac::<Sha256>(secret.reveal(), &salt, limits::GUARD_FINGERPRINT_ROUNDS, &mut *derived);
    hex(&*derived)
}

fn short_hash(salt: &str, parts: &[&[u8]]) -> String {
    hex(&keyed_hash(salt.as_bytes(), parts)[..8])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
