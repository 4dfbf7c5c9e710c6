//! Errors of a configuration, with their places.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::kerberos::KerberosProblem;
use super::redact;
use super::secrets::SecretError;
use super::settings::Source;
use super::tls::TlsProblem;
use super::values::ValueError;
use super::warning::Warning;
use crate::ntlm::AccountError;
use crate::route::PatternError;
use crate::upstream::{HostPort, HostPortError};

/// All errors of a configuration, at least one, and its warnings.
#[derive(Debug)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
}

impl ConfigErrors {
    /// `None` if there are no errors.
    pub(super) fn of(mut errors: Vec<ConfigError>, warnings: Vec<Warning>) -> Option<ConfigErrors> {
        errors.sort_by(|one, other| one.source.order().cmp(&other.source.order()));
        (!errors.is_empty()).then_some(ConfigErrors { errors, warnings })
    }

    /// The errors: first those of flags and environment, then those of the file in the order of its lines, then missing
    /// settings.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.errors.iter()
    }

    /// The warnings.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// One error per line.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            write!(out, "{line_end}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// An error: where, in which setting, and what.
#[derive(Debug)]
pub struct ConfigError {
    /// Where the setting was given.
    pub source: Source,
    /// The setting's name in the file.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_placed(out, &self.source, &self.key, &self.problem)
    }
}

/// Writes a line with the place, the setting if the place does not name it, and the message.
pub(super) fn write_placed(
    out: &mut fmt::Formatter<'_>,
    source: &Source,
    key: &str,
    what: &dyn fmt::Display,
) -> fmt::Result {
    match source {
        // These already name the setting.
        Source::Flag(_) | Source::Env(_) => write!(out, "{source}: {what}"),
        Source::File { .. } if key.is_empty() => write!(out, "{source}: {what}"),
        // A name in the file may contain line ends or control characters.
        Source::File { .. } => write!(out, "{source}: {}: {what}", key.escape_debug()),
        Source::Default => write!(out, "{}: {what}", key.escape_debug()),
    }
}

impl std::error::Error for ConfigError {}

/// The absolute path of a file, redacted in case it is a URL with a password.
fn absolute(path: &Path) -> String {
    redact::shown(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string())
}

/// How a setting is wrong. No variant carries a secret.
#[derive(Debug, Error)]
pub enum Problem {
    /// The configuration file cannot be read.
    #[error("cannot read {}: {source}; it must be the path of a TOML file", absolute(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The configuration file is too long.
    #[error("{} is longer than {limit_bytes} bytes and cannot be a configuration", absolute(path))]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The maximum length in characters.
        limit_bytes: usize,
    },
    /// The file is not valid TOML.
    #[error("{0}")]
    Syntax(String),
    /// The file has an unknown setting.
    #[error("unknown setting{}", nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default())]
    Unknown {
        /// The most similar known name.
        nearest: Option<&'static str>,
    },
    /// A variable with the gateway's prefix is not a setting.
    #[error("unknown setting{}", nearest.as_ref().map_or_else(
        || "; `ntlm-gateway run --help` lists the variables".into(),
        |nearest| format!("; did you mean {nearest}?"),
    ))]
    UnknownVariable {
        /// The most similar variable.
        nearest: Option<String>,
    },
    /// The file has a setting that is not allowed there.
    #[error("cannot be set in the file; {0}")]
    Misplaced(&'static str),
    /// The file's value has the wrong type.
    #[error("must be {expected}, but is {got}")]
    WrongType {
        /// The expected type.
        expected: &'static str,
        /// The actual type.
        got: &'static str,
    },
    /// A variable of the environment is not UTF-8.
    #[error("the value is not UTF-8")]
    NotUtf8,
    /// A setting without a default is not given.
    #[error("not given; {purpose} with {ways}")]
    Missing {
        /// The purpose of the setting.
        purpose: &'static str,
        /// The ways to set it.
        ways: String,
    },
    /// Not one of the allowed words.
    #[error("{text:?} is not one of {choices}")]
    Choice {
        /// The given value.
        text: String,
        /// The allowed values.
        choices: String,
    },
    /// Not a listening address.
    #[error("{text:?} is not a listening address; write ADDR:PORT with an IP address, for example {example}")]
    Address {
        /// The given value.
        text: String,
        /// A valid example.
        example: &'static str,
    },
    /// Two listeners on one address.
    #[error("{address} is given twice; the other one is {other}")]
    SameAddress {
        /// The address.
        address: std::net::SocketAddr,
        /// The other setting that has it, and its place.
        other: String,
    },
    /// A listener on one address, and another on all addresses with the same port.
    #[error("{address} conflicts with {other}: one of them covers all addresses of this machine")]
    Overlapping {
        /// The address.
        address: std::net::SocketAddr,
        /// The other address, the setting that has it, and its place.
        other: String,
    },
    /// Not a network.
    #[error("{0:?} is not a network; write an address and a prefix length, for example 10.0.0.0/8 or 2001:db8::/32")]
    Network(String),
    /// A list without entries.
    #[error("the list is empty; {0}")]
    EmptyList(&'static str),
    /// Listening beyond loopback without restricting the clients.
    #[error(
        "{address} can be reached from other machines, and every client that reaches it would use {account}. Set \
         allow_clients to the networks of your clients (--allow-clients 10.0.0.0/8), or listen on loopback only \
         (127.0.0.1:{})",
        address.port()
    )]
    OpenListener {
        /// The listener beyond loopback.
        address: std::net::SocketAddr,
        /// The account that the clients would use.
        account: String,
    },
    /// Not a valid name for the Workstation field.
    #[error("must have from 1 to {limit} characters and no control characters")]
    Workstation {
        /// The maximum length in characters.
        limit: usize,
    },
    /// Not a valid name for the Via field.
    #[error(
        "{text:?} is not a valid name for Via; write up to {limit} letters, digits and characters such as - . _, without blanks"
    )]
    ViaName {
        /// The given value.
        text: String,
        /// The maximum length in bytes.
        limit: usize,
    },
    /// Not a time that the kernel accepts: it takes whole seconds.
    #[error("{text:?} is not a whole number of seconds up to 32767")]
    WholeSeconds {
        /// The given value.
        text: String,
    },
    /// An upstream that is the gateway itself.
    #[error(
        "{upstream} is {address}, where the gateway itself listens, so every request would come back; set it to the corporate proxy"
    )]
    OwnAddress {
        /// The upstream as configured.
        upstream: HostPort,
        /// The gateway's own address.
        address: std::net::SocketAddr,
    },
    /// A listener's target that is the gateway itself.
    #[error("{target} is {address}, where the gateway itself listens, so every connection would come back")]
    OwnTarget {
        /// The target as configured.
        target: HostPort,
        /// The gateway's own address.
        address: std::net::SocketAddr,
    },
    /// A listener's target that is not a valid destination.
    #[error("{text:?} is not a destination: {error}; write HOST:PORT")]
    Target {
        /// The given value.
        text: String,
        /// What is wrong with it.
        error: String,
    },
    /// Not a valid name for an identity, an upstream or a group.
    #[error("{text:?} is not a valid name; write up to 64 letters, digits and punctuation characters, without blanks")]
    Name {
        /// The given value.
        text: String,
    },
    /// Not a valid name for a client's login. It is not repeated, because a password may follow the colon.
    #[error(
        "must be up to 64 letters, digits and punctuation characters, without blanks and colons; put its password into a file"
    )]
    LoginName,
    /// Not a valid name for a Lease.
    #[error(
        "{text:?} is not a valid name for a Lease; write up to 253 lower-case letters, digits, - and ., beginning and \
         ending with a letter or digit"
    )]
    LeaseName {
        /// The given value.
        text: String,
    },
    /// Two entries with the same name.
    #[error("the name {name} is used twice, but names must be unique; the other one is at {other}")]
    Twice {
        /// The name.
        name: String,
        /// Where the first one is.
        other: Source,
    },
    /// A password in the wrong setting.
    #[error(
        "looks like a URL with a password, so its value is not shown; set the account with user, and put its password into a \
         file for password_file"
    )]
    Credentials,
    /// Too many entries.
    #[error("there are more than {max}")]
    TooMany {
        /// The most allowed.
        max: usize,
    },
    /// Two settings that exclude each other.
    #[error("cannot be combined with the file's table; {0}")]
    Together(&'static str),
    /// Two settings of an entry that exclude each other.
    #[error("cannot be combined with {0}")]
    Conflict(&'static str),
    /// A setting that requires another.
    #[error("requires {0}")]
    Requires(&'static str),
    /// Basic with a secret that is not a password.
    #[error("requires the password itself, in a file; set {0}")]
    BasicNeedsPassword(&'static str),
    /// See [`KerberosProblem`].
    #[error(transparent)]
    Kerberos(Box<KerberosProblem>),
    /// See [`TlsProblem`].
    #[error(transparent)]
    Tls(Box<TlsProblem>),
    /// See [`PatternError`].
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// See [`HostPortError`].
    #[error(transparent)]
    HostPort(#[from] HostPortError),
    /// See [`ValueError`].
    #[error(transparent)]
    Value(#[from] ValueError),
    /// See [`AccountError`].
    #[error(r"{0}; write 'DOMAIN\name', in single quotes, or 'name@domain'")]
    Account(#[from] AccountError),
    /// See [`SecretError`].
    #[error(transparent)]
    Secret(#[from] SecretError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_stays_on_one_line_whatever_the_name_in_the_file() {
        let source = Source::File { path: "g.toml".into(), line: 1, column: 1 };
        let error = ConfigError { source, key: "a\nb\u{1b}[2J".into(), problem: Problem::Unknown { nearest: None } };
        assert_eq!(error.to_string(), r"g.toml:1:1: a\nb\u{1b}[2J: unknown setting");
    }
}
