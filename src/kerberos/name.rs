//! Names of clients and services (RFC 4120 §5.2.2, §6.2).

use std::fmt;

use thiserror::Error;

use super::der::{GENERAL_STRING, INTEGER, Reader, SEQUENCE, Writer, context, text};
use super::error::DecodeError;
use crate::limits;

/// name-type: a user, or a host as a client.
pub(super) const NT_PRINCIPAL: i64 = 1;
/// name-type: a service and an instance, such as `krbtgt/REALM`.
pub(super) const NT_SRV_INST: i64 = 2;
/// name-type: a service on a host.
pub(super) const NT_SRV_HST: i64 = 3;
/// name-type: one component that is itself `user@suffix` (RFC 6806 §5).
pub(super) const NT_ENTERPRISE: i64 = 10;

/// The name of a client or a service within its realm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrincipalName {
    pub(super) kind: i64,
    pub(super) components: Vec<String>,
}

/// A client or a service with its realm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// Its name.
    pub name: PrincipalName,
    /// Its realm, as written.
    pub realm: String,
}

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// A component or the realm is empty.
    #[error("a part of the name is empty")]
    Empty,
    /// There is no realm, and none is known.
    #[error("the name has no realm, and no default realm is known")]
    NoRealm,
    /// It is too long.
    #[error(
        "the name is too long: at most {} components of {} bytes are allowed",
        limits::KERBEROS_NAME_COMPONENTS,
        limits::KERBEROS_NAME_BYTES
    )]
    TooLong,
    /// A backslash precedes nothing, or the realm has a character that it cannot have.
    #[error("the name contains a character that is not allowed there")]
    Character,
    /// The domain is not mapped to a realm.
    #[error("no realm is known for the domain")]
    UnknownDomain,
}

impl PrincipalName {
    /// The ticket-granting service of a realm.
    pub fn ticket_granting(realm: &str) -> PrincipalName {
        PrincipalName { kind: NT_SRV_INST, components: vec!["krbtgt".into(), realm.into()] }
    }

    /// A user.
    pub(super) fn of_user(name: &str) -> PrincipalName {
        PrincipalName { kind: NT_PRINCIPAL, components: vec![name.into()] }
    }

    /// A service on a host whose name is known to be one.
    pub fn of_service(service: &str, host: &str) -> PrincipalName {
        PrincipalName { kind: NT_SRV_HST, components: vec![service.into(), host.into()] }
    }

    /// A service on a host, such as `HTTP/proxy.example.com`.
    ///
    /// # Errors
    /// [`NameError`] if a part is empty or too long.
    pub fn service(service: &str, host: &str) -> Result<PrincipalName, NameError> {
        PrincipalName::checked(NT_SRV_HST, vec![service.into(), host.into()])
    }

    /// Its components: `HTTP` and `proxy.example.com`.
    pub fn components(&self) -> &[String] {
        &self.components
    }

    /// The realm whose ticket-granting service this is.
    pub fn ticket_granting_realm(&self) -> Option<&str> {
        match &self.components[..] {
            [service, realm] if service == "krbtgt" => Some(realm),
            _ => None,
        }
    }

    /// Whether it is an enterprise name, which a KDC replaces by the account's own.
    pub(super) fn is_enterprise(&self) -> bool {
        self.kind == NT_ENTERPRISE
    }

    fn checked(kind: i64, components: Vec<String>) -> Result<PrincipalName, NameError> {
        if components.iter().any(String::is_empty) {
            return Err(NameError::Empty);
        }
        let is_long = |component: &String| component.len() > limits::KERBEROS_NAME_BYTES;
        if components.len() > limits::KERBEROS_NAME_COMPONENTS || components.iter().any(is_long) {
            return Err(NameError::TooLong);
        }
        if components.iter().any(|component| component.chars().any(char::is_control)) {
            return Err(NameError::Character);
        }
        Ok(PrincipalName { kind, components })
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.element(SEQUENCE, |out| {
            out.integer(0, self.kind);
            out.element(context(1), |out| {
                out.element(SEQUENCE, |out| {
                    for component in &self.components {
                        out.bytes(GENERAL_STRING, component.as_bytes());
                    }
                });
            });
        });
    }

    /// Reads the content of a `[number] PrincipalName`.
    pub(super) fn read(mut field: Reader<'_>) -> Result<PrincipalName, DecodeError> {
        const WHAT: DecodeError = DecodeError::TooMuch { what: "components of a name" };
        let mut name = field.enter(SEQUENCE)?;
        let kind = name.integer(0)?;
        let mut strings = name.enter(context(1))?.enter(SEQUENCE)?;
        let mut components = Vec::new();
        while let Some(component) = strings.optional(GENERAL_STRING)? {
            if components.len() == limits::KERBEROS_NAME_COMPONENTS || component.len() > limits::KERBEROS_NAME_BYTES {
                return Err(WHAT);
            }
            components.push(text(component)?.to_owned());
        }
        match components.is_empty() {
            true => Err(DecodeError::Missing { tag: INTEGER }),
            false => Ok(PrincipalName { kind, components }),
        }
    }

    /// Whether both name the same principal. The type of a name does not matter (RFC 4120 §6.2).
    pub fn is_same(&self, other: &PrincipalName) -> bool {
        self.components == other.components
    }
}

/// With a backslash before each `/`, `@` and `\` within a component.
impl fmt::Display for PrincipalName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, component) in self.components.iter().enumerate() {
            if index > 0 {
                out.write_str("/")?;
            }
            for letter in component.chars() {
                match letter {
                    '/' | '@' | '\\' => write!(out, "\\{letter}")?,
                    _ if letter.is_control() => write!(out, "{}", letter.escape_default())?,
                    _ => write!(out, "{letter}")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}@{}", self.name, self.realm.escape_default())
    }
}

impl Principal {
    /// Reads `user@REALM`, `host/name@REALM`, or either without a realm, which is then `default_realm`. A backslash
    /// makes the next character part of a component. `user@suffix@REALM` is an enterprise name.
    ///
    /// # Errors
    /// [`NameError`] if it is no such name.
    pub fn parse(text: &str, default_realm: Option<&str>) -> Result<Principal, NameError> {
        let mut parts = vec![vec![String::new()]];
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            let last_part = parts.last_mut().ok_or(NameError::Empty)?;
            match letter {
                '@' => parts.push(vec![String::new()]),
                '/' => last_part.push(String::new()),
                _ => {
                    let letter = if letter == '\\' { letters.next().ok_or(NameError::Character)? } else { letter };
                    last_part.last_mut().ok_or(NameError::Empty)?.push(letter);
                }
            }
        }
        let (kind, components, realm) = match <[_; 3]>::try_from(parts) {
            Ok([user, suffix, realm]) => {
                (NT_ENTERPRISE, vec![format!("{}@{}", user.join("/"), suffix.join("/"))], realm.join("/"))
            }
            Err(parts) => match <[_; 2]>::try_from(parts) {
                Ok([name, realm]) => (NT_PRINCIPAL, name, realm.join("/")),
                Err(mut parts) if parts.len() == 1 => {
                    (NT_PRINCIPAL, parts.swap_remove(0), default_realm.ok_or(NameError::NoRealm)?.to_owned())
                }
                Err(_) => return Err(NameError::Character),
            },
        };
        Ok(Principal { name: PrincipalName::checked(kind, components)?, realm: checked_realm(realm)? })
    }

    /// The client for an account as Windows writes it: `domain` and `user`, or `user@suffix` without a domain.
    /// `realm_of` is the realm of a domain, either of `CORP` or `corp.example.com`; `realm` that of everybody else.
    ///
    /// A suffix that is not the realm is part of an enterprise name, which the KDC resolves.
    ///
    /// # Errors
    /// [`NameError`] if the realm is unknown, or it is no name.
    pub fn of_account(
        domain: &str,
        user: &str,
        realm: Option<&str>,
        realm_of: impl Fn(&str) -> Option<String>,
    ) -> Result<Principal, NameError> {
        let name = |kind, name: &str| PrincipalName::checked(kind, vec![name.to_owned()]);
        if !domain.is_empty() {
            // A name with a dot is the realm in another case.
            let dotted = || domain.contains('.').then(|| domain.to_uppercase());
            let realm = realm_of(domain).or_else(|| realm.map(str::to_owned)).or_else(dotted);
            let realm = checked_realm(realm.ok_or(NameError::UnknownDomain)?)?;
            return Ok(Principal { name: name(NT_PRINCIPAL, user)?, realm });
        }
        match user.rsplit_once('@') {
            None => Principal::parse(user, realm),
            Some((before, suffix)) => {
                let of_suffix = realm_of(suffix);
                match (of_suffix, realm) {
                    (Some(realm), _) => Ok(Principal { name: Principal::parse(before, Some(&realm))?.name, realm }),
                    (None, Some(realm)) if !realm.eq_ignore_ascii_case(suffix) => {
                        Ok(Principal { name: name(NT_ENTERPRISE, user)?, realm: checked_realm(realm.to_owned())? })
                    }
                    (None, Some(realm)) => Principal::parse(before, Some(realm)),
                    (None, None) => Principal::parse(before, Some(&suffix.to_uppercase())),
                }
            }
        }
    }

    /// The salt of its key where the KDC names none (RFC 4120 §4): realm and components without separators.
    pub(super) fn default_salt(&self) -> Vec<u8> {
        let components = self.name.components.iter().map(String::as_str);
        std::iter::once(self.realm.as_str()).chain(components).collect::<String>().into_bytes()
    }
}

fn checked_realm(realm: String) -> Result<String, NameError> {
    if realm.is_empty() {
        return Err(NameError::Empty);
    }
    if realm.len() > limits::KERBEROS_NAME_BYTES {
        return Err(NameError::TooLong);
    }
    match realm.chars().any(|letter| letter.is_control() || matches!(letter, '/' | ':' | '@')) {
        true => Err(NameError::Character),
        false => Ok(realm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Principal::parse(text, Some("DEFAULT")).map_or_else(|error| format!("{error:?}"), |name| name.to_string())
    }

    #[test]
    fn names_are_read_as_they_are_shown() {
        for (text, expected) in [
            ("alice@EXAMPLE.COM", "alice@EXAMPLE.COM"),
            ("alice", "alice@DEFAULT"),
            ("HTTP/proxy.example.com@EXAMPLE.COM", "HTTP/proxy.example.com@EXAMPLE.COM"),
            (r"a\/b\@c@R", r"a\/b\@c@R"),
            ("alice@corp.example@EXAMPLE.COM", r"alice\@corp.example@EXAMPLE.COM"),
            ("", "Empty"),
            ("alice@", "Empty"),
            ("a//b@R", "Empty"),
            (r"a\", "Character"),
            ("a@b@c@d", "Character"),
            ("a@B:C", "Character"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        assert_eq!(Principal::parse("alice", None), Err(NameError::NoRealm));
        assert_eq!(shown(&"a".repeat(5000)), "TooLong");
    }

    #[test]
    fn an_account_of_windows_becomes_a_principal() {
        let of = |domain: &str, user: &str, realm: Option<&str>| {
            let realm_of = |domain: &str| domain.eq_ignore_ascii_case("corp").then(|| "CORP.EXAMPLE".to_owned());
            Principal::of_account(domain, user, realm, realm_of)
        };
        assert_eq!(of("CORP", "alice", None).unwrap().to_string(), "alice@CORP.EXAMPLE");
        assert_eq!(of("OTHER", "alice", None), Err(NameError::UnknownDomain));
        assert_eq!(of("OTHER", "alice", Some("R")).unwrap().to_string(), "alice@R");
        assert_eq!(of("other.example", "alice", None).unwrap().to_string(), "alice@OTHER.EXAMPLE");
        assert_eq!(of("", "alice@r.example", Some("R.EXAMPLE")).unwrap().to_string(), "alice@R.EXAMPLE");
        assert_eq!(of("", "alice@r.example", None).unwrap().to_string(), "alice@R.EXAMPLE");
        assert_eq!(of("", "alice@corp", None).unwrap().to_string(), "alice@CORP.EXAMPLE");
        let enterprise = of("", "alice@mail.example", Some("R.EXAMPLE")).unwrap();
        assert!(enterprise.name.is_enterprise());
        assert_eq!(enterprise.name.components(), ["alice@mail.example"]);
    }

    #[test]
    fn a_name_is_read_from_what_was_written() {
        let name = PrincipalName::service("HTTP", "proxy.test").unwrap();
        let mut writer = Writer::with_capacity(64);
        name.write(&mut writer);
        let bytes = writer.into_bytes();
        assert_eq!(PrincipalName::read(Reader::new(&bytes)), Ok(name));
    }
}
