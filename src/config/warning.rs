//! Warnings: settings that are valid but probably a mistake.
//!
//! A warning does not stop the gateway: `check` prints it, `check --strict` fails, and `run` logs it at the start and
//! at each reload.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use thiserror::Error;

use super::error::write_placed;
use super::exposure::Exposure;
use super::settings::Source;

/// A warning: where, in which setting, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where the setting was given.
    pub source: Source,
    /// The setting's name in the file.
    pub key: String,
    /// What is probably wrong.
    pub advice: Advice,
}

impl Warning {
    /// Whether another warning says the same about the same setting, regardless of their places.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Warning) -> bool {
        (&self.key, &self.advice) == (&other.key, &other.advice)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_placed(out, &self.source, &self.key, &self.advice)
    }
}

/// What is probably wrong, and what to write instead. No variant contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Advice {
    /// An account without a domain.
    #[error(
        r#"{account:?} has no domain, so the proxy will look for a local account; write 'DOMAIN\name' in single quotes (without them, the shell removes the backslash) or name@domain; for a local account, set domain to """#
    )]
    NoDomain {
        /// The account.
        account: String,
    },
    /// A colon, as in `name:password`.
    #[error(
        "{account:?} is followed by a colon, which no Windows account contains; if a password follows, put it into a file for password_file"
    )]
    Colon {
        /// The account up to the colon.
        account: String,
    },
    /// Blanks that are ignored.
    #[error("has leading or trailing blanks, which are ignored")]
    OuterBlanks,
    /// Blanks that are part of the name.
    #[error(r"has a blank next to the backslash or the @, which is sent as part of the name")]
    InnerBlank,
    /// Quotation marks that are part of the name.
    #[error(
        "is in quotation marks, which are sent as part of the name (`docker run --env-file`, for example, keeps them)"
    )]
    Quoted,
    /// `DOMAIN\name@domain`.
    #[error(r"has both a backslash and an @; write either 'DOMAIN\name' or name@domain")]
    TwoForms,
    /// A character that is not allowed in a Windows account.
    #[error("contains the character {0:?}, which no Windows account contains")]
    Character(char),
    /// A password that looks like an NT hash.
    #[error("the password looks like an NT hash; if it is one, use nt_hash_file for its file")]
    LikeHash,
    /// A password with leading or trailing blanks.
    #[error("the password has a leading or trailing blank, which is used as part of it")]
    PasswordBlanks,
    /// See [`Exposure`].
    #[error(transparent)]
    Exposed(#[from] Exposure),
    /// Clients from everywhere, or nearly so.
    #[error(
        "{0} is larger than any private network, so nearly every client that reaches the port may use the account; list the networks of your workloads instead"
    )]
    TooLarge(IpNet),
    /// A network of load balancers larger than any private one.
    #[error(
        "{0} is larger than any private network, so nearly every client could claim another one's address; list the addresses of the load balancers instead"
    )]
    TrustsTooMany(IpNet),
    /// A listener on loopback that answers every client with 403.
    #[error(
        "only this machine can reach {0}, but allow_clients does not include it, so every client gets 403; add 127.0.0.0/8 and ::1 to allow_clients, or use another listening address"
    )]
    LoopbackShutOut(SocketAddr),
    /// A setting for Kerberos without Kerberos.
    #[error("has no effect, because auth does not list kerberos")]
    WithoutKerberos,
    /// A setting for TLS without TLS.
    #[error("has no effect, because no upstream that it is for has https:// in front of its address")]
    WithoutTls,
    /// An upstream without TLS among others with it.
    #[error(
        "{upstream} has no https:// and takes over, without TLS, when the upstreams of its group that have it fail; add https:// or put it into another group"
    )]
    MixedGroup {
        /// The upstream's name.
        upstream: String,
    },
    /// A variable whose name is nearly that of a setting.
    #[error("is not a setting; did you mean {0}?")]
    Variable(String),
}

/// Warnings about an account as it was written. With `has_domain`, the domain is set elsewhere, or missing on purpose.
pub(super) fn of_account(user: &str, has_domain: bool) -> Vec<Advice> {
    let mut found = Vec::new();
    let name = user.trim();
    let shown = name.split_once(':').map_or(name, |(before, _)| before).to_owned();
    if !has_domain && !name.contains(['\\', '@', ':']) {
        found.push(Advice::NoDomain { account: shown.clone() });
    }
    if name.contains(':') {
        found.push(Advice::Colon { account: shown.clone() });
    }
    let mut parts = shown.split(['\\', '@']);
    if parts.any(|part| part != part.trim()) {
        found.push(Advice::InnerBlank);
    }
    found.extend(of_name(user, &shown));
    if name.contains('\\') && shown.contains('@') {
        found.push(Advice::TwoForms);
    }
    found
}

/// Warnings about the separate setting of an account's domain.
pub(super) fn of_domain(text: &str) -> Vec<Advice> {
    of_name(text, text.trim())
}

/// Warnings about the characters of a name; `shown` is the part of `text` that may be shown.
fn of_name(text: &str, shown: &str) -> Vec<Advice> {
    let mut found = Vec::new();
    let name = text.trim();
    if text != name {
        found.push(Advice::OuterBlanks);
    }
    let is_quoted = |quote| name.len() > 1 && name.starts_with(quote) && name.ends_with(quote);
    if ['"', '\'', '`'].into_iter().any(is_quoted) {
        found.push(Advice::Quoted);
    } else if let Some(odd) = shown.chars().find(|character| is_odd(*character, name)) {
        found.push(Advice::Character(odd));
    }
    found
}

/// Whether a character in a name is probably a mistake: it is forbidden in sAMAccountName ([MS-ADA3] and "Naming
/// conventions in Active Directory"), invisible, or a typographic quotation mark. A user principal name may contain
/// more characters.
fn is_odd(character: char, name: &str) -> bool {
    let is_principal = name.contains('@') && !name.contains('\\');
    let forbidden = if is_principal { "\"<>|" } else { "\"[];|=,+*?<>" };
    let invisible = matches!(character, '\u{a0}' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}' | '\u{feff}');
    let typeset = matches!(character, '\u{2018}'..='\u{201f}' | '\u{ab}' | '\u{bb}' | '\u{2216}' | '\u{ff3c}');
    forbidden.contains(character) || invisible || typeset
}

/// Whether a network is larger than 10.0.0.0/8 and fc00::/7, the largest private ones.
pub(super) fn is_too_large(network: &IpNet) -> bool {
    match network {
        IpNet::V4(network) => network.prefix_len() < 8,
        IpNet::V6(network) => network.prefix_len() < 7,
    }
}

/// Whether all clients of a listener on loopback are excluded. Connections to an address in 127.0.0.0/8 come from
/// 127.0.0.1, unless the client binds to another address.
pub(super) fn shuts_out_loopback(listener: SocketAddr, allowed: &[IpNet]) -> bool {
    let own = listener.ip().to_canonical();
    let usual = match own {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    own.is_loopback()
        && !allowed.is_empty()
        && !allowed.iter().any(|network| [own, usual].iter().any(|ip| network.contains(ip)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(user: &str) -> Vec<Advice> {
        of_account(user, false)
    }

    #[test]
    fn correct_accounts_are_not_warned_about() {
        for user in [
            r"CORP\svc-egress",
            "svc-egress@corp.example",
            r"corp.example\svc_1",
            r"CORP\Jörg O'Neil",
            r"CORP\svc$",
            "a+b@corp.example",
        ] {
            assert_eq!(advice(user), [], "{user}");
        }
        assert_eq!(of_account("svc", true), [], "the domain is set elsewhere");
        for domain in ["CORP", "", "corp.example"] {
            assert_eq!(of_domain(domain), [], "{domain}");
        }
    }

    #[test]
    fn an_account_that_lost_its_backslash_is_warned_about() {
        for user in ["CORPsvc-egress", "svc", "CORP.svc"] {
            assert_eq!(advice(user), [Advice::NoDomain { account: user.into() }]);
        }
    }

    #[test]
    fn a_password_behind_a_colon_is_warned_about_and_not_shown() {
        for (user, account) in [
            (r"CORP\svc:s3cret", r"CORP\svc"),
            ("svc:s3cret", "svc"),
            (r"svc:s3\cret", "svc"),
            ("svc:s3@cret", "svc"),
            ("svc@corp:s3c*ret", "svc@corp"),
        ] {
            assert_eq!(advice(user), [Advice::Colon { account: account.into() }], "{user}");
        }
    }

    #[test]
    fn blanks_quotes_and_unusual_characters_are_warned_about() {
        for (user, expected) in [
            (r"CORP\svc ", Advice::OuterBlanks),
            (" svc@corp", Advice::OuterBlanks),
            (r"CORP\ svc", Advice::InnerBlank),
            ("svc @corp", Advice::InnerBlank),
            (r"'CORP\svc'", Advice::Quoted),
            ("\"svc@corp\"", Advice::Quoted),
            ("‘CORP\\svc’", Advice::Character('‘')),
            ("CORP\\svc\u{200b}", Advice::Character('\u{200b}')),
            (r"CORP\svc,", Advice::Character(',')),
            (r"CORP\svc@corp.example", Advice::TwoForms),
        ] {
            assert_eq!(advice(user), [expected], "{user}");
        }
        assert_eq!(of_domain("CORP "), [Advice::OuterBlanks]);
        assert_eq!(of_domain("\"CORP\""), [Advice::Quoted]);
        assert_eq!(of_domain("CORP\u{a0}X"), [Advice::Character('\u{a0}')]);
    }

    #[test]
    fn networks_larger_than_private_ones_are_warned_about() {
        for text in ["0.0.0.0/0", "::/0", "128.0.0.0/1", "0.0.0.0/7", "2000::/3"] {
            assert!(is_too_large(&text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.0/8", "fc00::/7", "192.0.2.1/32", "100.64.0.0/10"] {
            assert!(!is_too_large(&text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_loopback_listener_needs_loopback_among_the_allowed_clients() {
        let shut_out = |listener: &str, allowed: &[&str]| {
            let allowed: Vec<IpNet> = allowed.iter().map(|network| network.parse().unwrap()).collect();
            shuts_out_loopback(listener.parse().unwrap(), &allowed)
        };
        assert!(shut_out("127.0.0.1:3128", &["10.0.0.0/8"]));
        assert!(shut_out("[::1]:3128", &["10.0.0.0/8", "127.0.0.0/8"]));
        assert!(shut_out("[::ffff:127.0.0.1]:3128", &["10.0.0.0/8", "::1/128"]));
        for (listener, allowed) in [
            ("127.0.0.1:3128", "127.0.0.0/8"),
            ("127.0.0.2:1", "127.0.0.1/32"),
            ("[::1]:1", "::1/128"),
            ("0.0.0.0:1", "10.0.0.0/8"),
        ] {
            assert!(!shut_out(listener, &[allowed]), "{listener} {allowed}");
        }
        assert!(!shut_out("127.0.0.1:3128", &[]), "without a list, nobody is excluded");
    }
}
