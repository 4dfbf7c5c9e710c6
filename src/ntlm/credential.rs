//! Accounts, password hashes, and the identity that is used to authenticate.

use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

use super::crypto::{Key, ResponseKey, SecretKey, ntowf_v1, ntowf_v2};
use super::wire::utf16le;

/// The longest user, domain or workstation name, in UTF-16 code units. A UPN has at most 1,024 characters.
const NAME_LIMIT_UNITS: usize = 1024;

/// NTOWFv1, the MD4 hash of a password (MS-NLMP 3.3.1).
///
/// The hash is as good as the password for authentication, so it is never printed. All clones share one memory
/// location, which is overwritten when the last clone is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct NtHash(SecretKey);

/// Why a text is not an NT hash. The error does not contain the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NtHashError {
    /// The text has the wrong length.
    #[error("an NT hash has 32 hexadecimal digits, got {got} characters")]
    Length {
        /// The number of characters.
        got: usize,
    },
    /// A character is not a hexadecimal digit.
    #[error("an NT hash consists of hexadecimal digits; the character at position {position} is not one")]
    Digit {
        /// Its position, counted from 1.
        position: usize,
    },
}

impl NtHash {
    /// The hash of a password.
    #[must_use]
    pub fn from_password(password: &str) -> Self {
        Self(ntowf_v1(password))
    }

    /// Parses 32 hexadecimal digits, in upper or lower case.
    ///
    /// # Errors
    /// [`NtHashError`] if the length or a digit is wrong. It does not reveal the text.
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

    /// The hash as 32 lower-case hexadecimal digits. It is a secret, so show it only on explicit request.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        // Allocate the full capacity, because a growing string would leave copies in memory that are never overwritten.
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

/// Why a text is not an account name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccountError {
    /// The user name, or the domain before a backslash, is empty.
    #[error("the {part} is empty")]
    Empty {
        /// `user name` or `domain`.
        part: &'static str,
    },
    /// A name is too long.
    #[error("the {part} has {got} UTF-16 code units; at most {NAME_LIMIT_UNITS} are allowed")]
    TooLong {
        /// `user name` or `domain`.
        part: &'static str,
        /// Its length in UTF-16 code units.
        got: usize,
    },
    /// A name contains a control character or a backslash.
    #[error("the {part} contains a control character or a backslash")]
    Character {
        /// `user name` or `domain`.
        part: &'static str,
    },
    /// A slash, probably instead of a backslash.
    #[error("the account has a slash, which no Windows account has")]
    Slash,
    /// The account name includes a domain, and a different domain is configured separately.
    #[error("the user name already includes a domain, and the separate domain contradicts it")]
    TwoDomains,
}

/// A user and its domain, as sent in UserName and DomainName.
///
/// It is displayed as `DOMAIN\user`, or as the user alone. A colon and everything after it are not displayed: no
/// Windows account contains a colon, so what follows is probably a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// The domain as written, not converted to upper case. Empty for a UPN and for a local account.
    pub domain: String,
    /// The user as written. For a UPN, the whole `user@domain`.
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
    /// Parses `DOMAIN\user`, `user@domain`, or a plain user, whose domain may be given separately.
    ///
    /// A UPN is not split, and its domain stays empty. The part after the `@` need not be the name of the domain, and
    /// only the server can resolve it.
    ///
    /// # Errors
    /// [`AccountError`] if a part is empty, too long or contains an invalid character, or if a separate domain is given
    /// for a UPN or contradicts the domain in the name.
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

/// How the response to a challenge is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// NTLMv2.
    #[default]
    NtlmV2,
    /// NTLMv1 with extended session security. The NT hash can be recovered from its responses, so use it only for
    /// proxies that do not support NTLMv2.
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

/// An account with its secret, used to authenticate.
///
/// It holds everything that can be computed in advance, without a challenge.
#[derive(Clone)]
pub struct Identity {
    account: Account,
    workstation: String,
    nt_hash: NtHash,
    method: Method,
    target_domain: bool,
    /// Invariant: made of NTOWFv2 of `nt_hash`, `account.user` and `account.domain`.
    response_key: ResponseKey,
    /// Invariant: `account.domain`, `account.user` and `workstation` in UTF-16LE.
    unicode: EncodedNames,
}

/// The three names of an AUTHENTICATE_MESSAGE, encoded in one charset.
#[derive(Clone)]
pub(super) struct EncodedNames {
    pub domain: Vec<u8>,
    pub user: Vec<u8>,
    pub workstation: Vec<u8>,
}

impl Identity {
    /// Creates an identity.
    ///
    /// `workstation` is sent in the Workstation field, truncated to 1,024 UTF-16 code units, because an unusual host
    /// name is no reason to fail. With `target_domain`, the domain in the server's challenge replaces the account's
    /// domain.
    #[must_use]
    pub fn new(account: Account, workstation: &str, nt_hash: NtHash, method: Method, target_domain: bool) -> Self {
        let mut units = 0;
        let fits = |character: &char| {
            units += character.len_utf16();
            units <= NAME_LIMIT_UNITS
        };
        let workstation: String = workstation.chars().take_while(fits).collect();
        Self {
            response_key: ResponseKey::new(&ntowf_v2(nt_hash.key(), &account.user, &account.domain)),
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

    /// The configured domain, empty for a UPN.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.account.domain
    }

    /// The user name.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.account.user
    }

    /// The workstation name.
    #[must_use]
    pub fn workstation(&self) -> &str {
        &self.workstation
    }

    /// How the responses are computed.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// Whether the domain in the server's challenge is used instead of the configured one.
    #[must_use]
    pub const fn target_domain(&self) -> bool {
        self.target_domain
    }

    /// The hash of the password.
    #[must_use]
    pub const fn nt_hash(&self) -> &NtHash {
        &self.nt_hash
    }

    pub(super) fn response_key(&self) -> &ResponseKey {
        &self.response_key
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
    fn an_account_can_be_written_in_three_ways() {
        assert_eq!(Account::parse("CORP\\svc", None), Ok(account("CORP", "svc")));
        assert_eq!(Account::parse("svc@corp.example", None), Ok(account("", "svc@corp.example")));
        assert_eq!(Account::parse("svc", Some("CORP")), Ok(account("CORP", "svc")));
        assert_eq!(Account::parse("svc", None), Ok(account("", "svc")));
        assert_eq!(Account::parse("CORP\\svc@x", None), Ok(account("CORP", "svc@x")));
    }

    #[test]
    fn a_slash_instead_of_a_backslash_is_rejected() {
        for (name, domain) in [("CORP/svc", None), ("svc/x", Some("CORP")), ("CORP/svc:s3cret", None), ("A\\b/c", None)]
        {
            assert_eq!(Account::parse(name, domain), Err(AccountError::Slash), "{name}");
        }
        assert!(Account::parse("HTTP/gw@CORP.EXAMPLE", None).is_ok(), "a principal may contain a slash");
    }

    #[test]
    fn text_after_a_colon_is_not_displayed() {
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
    fn contradicting_domains_are_rejected_and_equal_ones_accepted() {
        assert_eq!(Account::parse("CORP\\svc", Some("corp")), Ok(account("CORP", "svc")));
        assert_eq!(Account::parse("CORP\\svc", Some("LAB")), Err(AccountError::TwoDomains));
        assert_eq!(Account::parse("svc@corp.example", Some("LAB")), Err(AccountError::TwoDomains));
    }

    #[test]
    fn empty_overlong_and_invalid_names_are_rejected() {
        assert_eq!(Account::parse("", None), Err(AccountError::Empty { part: "user name" }));
        assert_eq!(Account::parse("CORP\\", None), Err(AccountError::Empty { part: "user name" }));
        assert_eq!(Account::parse("\\svc", None), Err(AccountError::Empty { part: "domain" }));
        assert_eq!(Account::parse("A\\B\\c", None), Err(AccountError::Character { part: "user name" }));
        assert_eq!(Account::parse("svc\n", None), Err(AccountError::Character { part: "user name" }));
        let long = "x".repeat(1025);
        assert_eq!(Account::parse(&long, None), Err(AccountError::TooLong { part: "user name", got: 1025 }));
    }

    #[test]
    fn a_hash_from_hex_equals_the_hash_of_the_password() {
        let hash = NtHash::from_password("Password");
        assert_eq!(NtHash::from_hex("a4f49c406510bdcab6824ee7c30fd852"), Ok(hash.clone()));
        assert_eq!(NtHash::from_hex("A4F49C406510BDCAB6824EE7C30FD852"), Ok(hash.clone()));
        assert_eq!(hash.to_hex().as_str(), "a4f49c406510bdcab6824ee7c30fd852");
    }

    #[test]
    fn the_error_for_an_invalid_hash_does_not_reveal_it() {
        assert_eq!(NtHash::from_hex("secret"), Err(NtHashError::Length { got: 6 }));
        let error = NtHash::from_hex("a4f49c406510bdcab6824ee7c30fd85x").unwrap_err();
        assert_eq!(error, NtHashError::Digit { position: 32 });
        assert!(!error.to_string().contains("a4f4"));
        assert!(NtHash::from_hex("ä4f49c406510bdcab6824ee7c30fd85").is_err());
    }

    #[test]
    fn debug_output_contains_names_but_no_secret() {
        let identity = Identity::new(account("CORP", "svc"), "WS", NtHash::from_password("qa"), Method::NtlmV2, false);
        assert_eq!(
            format!("{identity:?} {:?}", identity.nt_hash()),
            r#"Identity { account: Account(CORP\svc), workstation: "WS", .. } NtHash(..)"#
        );
    }

    #[test]
    fn an_overlong_workstation_is_truncated_between_characters() {
        let name = "x".repeat(1023) + "\u{10428}";
        let identity = Identity::new(account("", "svc"), &name, NtHash::from_password("qa"), Method::NtlmV2, false);
        assert_eq!(identity.workstation().len(), 1023);
    }
}
