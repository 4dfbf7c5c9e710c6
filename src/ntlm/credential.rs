//! Accounts, password hashes, and the identity that is proved to the upstream.

use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

use super::crypto::{Key, SecretKey, ntowf_v1, ntowf_v2};
use super::wire::utf16le;

/// The longest user, domain or workstation name, in UTF-16 units. A UPN has at most 1,024 characters.
const NAME_LIMIT_UNITS: usize = 1024;

/// NTOWFv1: the MD4 of a password. It opens every door the password opens, so it is never printed. All clones share one
/// place in memory, which is overwritten when the last of them is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct NtHash(SecretKey);

/// Why text is not a password hash. The text itself is never in here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NtHashError {
    /// The text has the wrong length.
    #[error("an NT hash has 32 hexadecimal digits, got {got} characters")]
    Length {
        /// The number of characters.
        got: usize,
    },
    /// A character is no hexadecimal digit.
    #[error("an NT hash has hexadecimal digits only; the character at position {position} is none")]
    Digit {
        /// Its position, from 1.
        position: usize,
    },
}

impl NtHash {
    /// The hash of a password.
    #[must_use]
    pub fn from_password(password: &str) -> Self {
        Self(ntowf_v1(password))
    }

    /// A hash from its 32 hexadecimal digits, of either case.
    ///
    /// # Errors
    /// [`NtHashError`]; neither variant tells what the text was.
    pub fn from_hex(text: &str) -> Result<Self, NtHashError> {
        let got = text.chars().count();
        if got != 32 {
            return Err(NtHashError::Length { got });
        }
        let mut problem = None;
        let hash = SecretKey::written_by(|key| {
            for (index, character) in text.chars().enumerate() {
                let Some(digit) = character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()) else {
                    problem = Some(NtHashError::Digit { position: index + 1 });
                    return;
                };
                if let Some(byte) = key.get_mut(index / 2) {
                    *byte = *byte << 4 | digit;
                }
            }
        });
        problem.map_or(Ok(Self(hash)), Err)
    }

    /// The hash as 32 lower-case hexadecimal digits: a secret, to be shown only to who asked for it.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        // All room at once: growing would leave copies behind that nobody wipes.
        let mut text = Zeroizing::new(String::with_capacity(32));
        for byte in self.key() {
            for digit in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(u32::from(digit), 16));
            }
        }
        text
    }

    pub(super) fn key(&self) -> &Key {
        &self.0
    }
}

impl fmt::Debug for NtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NtHash(..)")
    }
}

/// Why text is not an account's name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccountError {
    /// The user's name, or the domain before a backslash, is empty.
    #[error("the {part} is empty")]
    Empty {
        /// `user name` or `domain`.
        part: &'static str,
    },
    /// A name is too long.
    #[error("the {part} has {got} UTF-16 units, at most {NAME_LIMIT_UNITS} are allowed")]
    TooLong {
        /// `user name` or `domain`.
        part: &'static str,
        /// Its length.
        got: usize,
    },
    /// A name has a control character or a backslash in it.
    #[error("the {part} has a control character or a backslash in it")]
    Character {
        /// `user name` or `domain`.
        part: &'static str,
    },
    /// A slash where the backslash belongs.
    #[error("the account has a slash, which no Windows account has")]
    Slash,
    /// The account's name says its domain, and another one is given beside it.
    #[error("the user name already says its domain; the separate domain contradicts it")]
    TwoDomains,
}

/// A user and the domain that knows it, as they go into DomainName and UserName.
///
/// It is shown as `DOMAIN\user`, or the user alone. A colon and what is behind it are not shown: no Windows account has a colon, so that a
/// password is likely to stand there.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// The domain as written, not upper-cased; empty for a UPN and for a local account.
    pub domain: String,
    /// The user as written; for a UPN the whole of `user@domain`.
    pub user: String,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.domain.is_empty() { "" } else { "\\" };
        let whole = format!("{}{separator}{}", self.domain, self.user);
        match whole.split_once(':') {
            Some((before, _)) => write!(f, "{before}:…"),
            None => f.write_str(&whole),
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({self})")
    }
}

impl Account {
    /// Reads `DOMAIN\user`, `user@domain`, or a plain user with its domain, if any, given beside it.
    ///
    /// A UPN stays whole and leaves the domain empty, for the part behind the `@` need not be the domain's name: only
    /// the server can resolve it.
    ///
    /// # Errors
    /// [`AccountError`]; a separate domain is an error where the name says another one or is a UPN.
    pub fn parse(name: &str, separate_domain: Option<&str>) -> Result<Self, AccountError> {
        let separate = separate_domain.filter(|domain| !domain.is_empty());
        let contradicts = |own: &str| separate.filter(|domain| !domain.eq_ignore_ascii_case(own));
        let (domain, user, contradiction) = match name.split_once('\\') {
            Some(("", _)) => return Err(AccountError::Empty { part: "domain" }),
            Some((domain, user)) => (domain, user, contradicts(domain)),
            None if name.contains('@') => ("", name, separate),
            None if name.contains('/') => return Err(AccountError::Slash),
            None => (separate.unwrap_or_default(), name, None),
        };
        if contradiction.is_some() {
            return Err(AccountError::TwoDomains);
        }
        if user.is_empty() {
            return Err(AccountError::Empty { part: "user name" });
        }
        check(user, "user name")?;
        check(domain, "domain")?;
        if !domain.is_empty() && [domain, user].iter().any(|part| part.contains('/')) {
            return Err(AccountError::Slash);
        }
        Ok(Self { domain: domain.to_owned(), user: user.to_owned() })
    }
}

fn check(name: &str, part: &'static str) -> Result<(), AccountError> {
    if name.chars().any(|character| character.is_control() || character == '\\') {
        return Err(AccountError::Character { part });
    }
    match name.encode_utf16().count() {
        got if got > NAME_LIMIT_UNITS => Err(AccountError::TooLong { part, got }),
        _ => Ok(()),
    }
}

/// How the password is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// NTLMv2.
    #[default]
    NtlmV2,
    /// NTLMv1 with extended session security. Its answers can be cracked to the NT hash: only for proxies that know
    /// no better.
    NtlmV1Ess,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NtlmV2 => "NTLMv2",
            Self::NtlmV1Ess => "NTLMv1-ESS",
        })
    }
}

/// An account with its secret, ready to be proved again and again.
///
/// What does not depend on the challenge is computed once, here.
#[derive(Clone)]
pub struct Identity {
    account: Account,
    workstation: String,
    nt_hash: NtHash,
    method: Method,
    target_domain: bool,
    /// Invariant: NTOWFv2 of `nt_hash`, `account.user` and `account.domain`.
    ntowf_v2: SecretKey,
    /// Invariant: `account.domain`, `account.user`, `workstation` in UTF-16LE.
    unicode: EncodedNames,
}

/// The three names of an AUTHENTICATE_MESSAGE in one charset.
#[derive(Clone)]
pub(super) struct EncodedNames {
    pub domain: Vec<u8>,
    pub user: Vec<u8>,
    pub workstation: Vec<u8>,
}

impl Identity {
    /// An identity.
    ///
    /// `workstation` goes into the Workstation field: cut to 1,024 UTF-16 units, for an odd host name is no reason to
    /// fail. With `target_domain` the account's domain gives way to the one the server names in its challenge.
    #[must_use]
    pub fn new(account: Account, workstation: &str, nt_hash: NtHash, method: Method, target_domain: bool) -> Self {
        let mut units = 0;
        let fits = |character: &char| {
            units += character.len_utf16();
            units <= NAME_LIMIT_UNITS
        };
        let workstation: String = workstation.chars().take_while(fits).collect();
        Self {
            ntowf_v2: ntowf_v2(nt_hash.key(), &account.user, &account.domain),
            unicode: EncodedNames {
                domain: utf16le(&account.domain),
                user: utf16le(&account.user),
                workstation: utf16le(&workstation),
            },
            account,
            workstation,
            nt_hash,
            method,
            target_domain,
        }
    }

    /// The account.
    #[must_use]
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// The configured domain; empty for a UPN.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.account.domain
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.account.user
    }

    /// The workstation.
    #[must_use]
    pub fn workstation(&self) -> &str {
        &self.workstation
    }

    /// How the password is proved.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// Whether the server's domain is used instead of the configured one.
    #[must_use]
    pub const fn target_domain(&self) -> bool {
        self.target_domain
    }

    /// The password's hash.
    #[must_use]
    pub const fn nt_hash(&self) -> &NtHash {
        &self.nt_hash
    }

    pub(super) fn ntowf_v2(&self) -> &Key {
        &self.ntowf_v2
    }

    pub(super) const fn unicode(&self) -> &EncodedNames {
        &self.unicode
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("account", &self.account)
            .field("workstation", &self.workstation)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(domain: &str, user: &str) -> Account {
        Account { domain: domain.to_owned(), user: user.to_owned() }
    }

    #[test]
    fn the_three_ways_to_write_an_account() {
        assert_eq!(Account::parse("CORP\\svc", None), Ok(account("CORP", "svc")));
        assert_eq!(Account::parse("svc@corp.example", None), Ok(account("", "svc@corp.example")));
        assert_eq!(Account::parse("svc", Some("CORP")), Ok(account("CORP", "svc")));
        assert_eq!(Account::parse("svc", None), Ok(account("", "svc")));
        assert_eq!(Account::parse("CORP\\svc@x", None), Ok(account("CORP", "svc@x")));
    }

    #[test]
    fn a_slash_for_a_backslash_is_refused() {
        for (name, domain) in [("CORP/svc", None), ("svc/x", Some("CORP")), ("CORP/svc:s3cret", None), ("A\\b/c", None)]
        {
            assert_eq!(Account::parse(name, domain), Err(AccountError::Slash), "{name}");
        }
        assert!(Account::parse("HTTP/gw@CORP.EXAMPLE", None).is_ok(), "a principal may have one");
    }

    #[test]
    fn what_is_behind_a_colon_is_not_shown() {
        for (account, shown) in [
            (account("CORP", "svc"), "CORP\\svc"),
            (account("", "svc@corp"), "svc@corp"),
            (account("CORP", "svc:s3cret"), "CORP\\svc:…"),
            (account("svc:s3", "cret"), "svc:…"),
            (account("", "svc:s3@cret"), "svc:…"),
        ] {
            assert_eq!(account.to_string(), shown);
            assert_eq!(format!("{account:?}"), format!("Account({shown})"));
        }
    }

    #[test]
    fn two_different_domains_are_refused_and_the_same_twice_is_not() {
        assert_eq!(Account::parse("CORP\\svc", Some("corp")), Ok(account("CORP", "svc")));
        assert_eq!(Account::parse("CORP\\svc", Some("LAB")), Err(AccountError::TwoDomains));
        assert_eq!(Account::parse("svc@corp.example", Some("LAB")), Err(AccountError::TwoDomains));
    }

    #[test]
    fn empty_overlong_and_odd_names_are_refused() {
        assert_eq!(Account::parse("", None), Err(AccountError::Empty { part: "user name" }));
        assert_eq!(Account::parse("CORP\\", None), Err(AccountError::Empty { part: "user name" }));
        assert_eq!(Account::parse("\\svc", None), Err(AccountError::Empty { part: "domain" }));
        assert_eq!(Account::parse("A\\B\\c", None), Err(AccountError::Character { part: "user name" }));
        assert_eq!(Account::parse("svc\n", None), Err(AccountError::Character { part: "user name" }));
        let long = "x".repeat(1025);
        assert_eq!(Account::parse(&long, None), Err(AccountError::TooLong { part: "user name", got: 1025 }));
    }

    #[test]
    fn a_hash_reads_from_hex_and_from_the_password_alike() {
        let hash = NtHash::from_password("Password");
        assert_eq!(NtHash::from_hex("a4f49c406510bdcab6824ee7c30fd852"), Ok(hash.clone()));
        assert_eq!(NtHash::from_hex("A4F49C406510BDCAB6824EE7C30FD852"), Ok(hash.clone()));
        assert_eq!(hash.to_hex().as_str(), "a4f49c406510bdcab6824ee7c30fd852");
    }

    #[test]
    fn a_bad_hash_is_named_without_being_told() {
        assert_eq!(NtHash::from_hex("secret"), Err(NtHashError::Length { got: 6 }));
        let error = NtHash::from_hex("a4f49c406510bdcab6824ee7c30fd85x").unwrap_err();
        assert_eq!(error, NtHashError::Digit { position: 32 });
        assert!(!error.to_string().contains("a4f4"));
        assert!(NtHash::from_hex("ä4f49c406510bdcab6824ee7c30fd85").is_err());
    }

    #[test]
    fn debug_shows_names_and_no_secret() {
        let identity = Identity::new(account("CORP", "svc"), "WS", NtHash::from_password("qa"), Method::NtlmV2, false);
        assert_eq!(
            format!("{identity:?} {:?}", identity.nt_hash()),
            r#"Identity { account: Account(CORP\svc), workstation: "WS", .. } NtHash(..)"#
        );
    }

    #[test]
    fn an_overlong_workstation_is_cut_between_characters() {
        let name = "x".repeat(1023) + "\u{10428}";
        let identity = Identity::new(account("", "svc"), &name, NtHash::from_password("qa"), Method::NtlmV2, false);
        assert_eq!(identity.workstation().len(), 1023);
    }
}
