//! What is wrong with a configuration, and where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::redact;
use super::secrets::SecretError;
use super::settings::Origin;
use super::values::ValueError;
use super::warning::Warning;
use crate::ntlm::AccountError;
use crate::route::PatternError;
use crate::upstream::{HostPort, HostPortError};

/// All that is wrong with a configuration; never without an error.
#[derive(Debug)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
}

impl ConfigErrors {
    /// `None` where there are no errors.
    pub(super) fn of(mut errors: Vec<ConfigError>, warnings: Vec<Warning>) -> Option<ConfigErrors> {
        errors.sort_by(|one, other| one.origin.order().cmp(&other.origin.order()));
        (!errors.is_empty()).then_some(ConfigErrors { errors, warnings })
    }

    /// The errors: first those of flags and environment, then the file's in the order of its lines, then what is given nowhere.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.errors.iter()
    }

    /// What is likely to be wrong besides.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// One error a line.
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

/// One thing that is wrong: where, with which setting, and how.
#[derive(Debug)]
pub struct ConfigError {
    /// Where the setting was given.
    pub origin: Origin,
    /// The setting's name in the file, or what stands in its place.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_placed(out, &self.origin, &self.key, &self.problem)
    }
}

/// One line: the place, the setting where the place does not name it, and what is to be said.
pub(super) fn write_placed(
    out: &mut fmt::Formatter<'_>,
    origin: &Origin,
    key: &str,
    what: &dyn fmt::Display,
) -> fmt::Result {
    match origin {
        // These name the setting themselves.
        Origin::Flag(_) | Origin::Env(_) => write!(out, "{origin}: {what}"),
        Origin::File { .. } if key.is_empty() => write!(out, "{origin}: {what}"),
        // A name in the file may hold a line end or what a terminal obeys.
        Origin::File { .. } => write!(out, "{origin}: {}: {what}", key.escape_debug()),
        Origin::Default => write!(out, "{}: {what}", key.escape_debug()),
    }
}

impl std::error::Error for ConfigError {}

/// The whole path of a file; of what is no path but a URL with a password, only what may be shown.
fn whole(path: &Path) -> String {
    redact::shown(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string())
}

/// How a setting is wrong. No variant carries a secret.
#[derive(Debug, Error)]
pub enum Problem {
    /// The configuration file cannot be read.
    #[error("cannot read {}: {source}; give the path of a TOML file, or leave it out", whole(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration file is far too long to be one.
    #[error("{} is longer than {limit_bytes} bytes and cannot be a configuration", whole(path))]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The longest allowed.
        limit_bytes: usize,
    },
    /// The file is no TOML.
    #[error("{0}")]
    Syntax(String),
    /// The file has a setting that there is none of.
    #[error("unknown setting{}", nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default())]
    Unknown {
        /// The known name that comes nearest.
        nearest: Option<&'static str>,
    },
    /// A variable with the gateway's prefix is no setting.
    #[error("unknown setting{}", nearest.as_ref().map_or_else(
        || "; `ntlm-gateway run --help` lists the variables".into(),
        |nearest| format!("; did you mean {nearest}?"),
    ))]
    UnknownVariable {
        /// The variable that comes nearest.
        nearest: Option<String>,
    },
    /// The file has a setting that is known, but must not be given there.
    #[error("cannot be given in the file; {0}")]
    Misplaced(&'static str),
    /// The file's value has the wrong type.
    #[error("must be {expected}, but is {got}")]
    WrongType {
        /// The type to write.
        expected: &'static str,
        /// The type found.
        got: &'static str,
    },
    /// A variable of the environment is not UTF-8.
    #[error("the value is not UTF-8")]
    NotUtf8,
    /// A setting that has no default is not given.
    #[error("not given; {purpose} with {ways}")]
    Missing {
        /// What it is for.
        purpose: &'static str,
        /// The ways to give it.
        ways: String,
    },
    /// Not one of a few words.
    #[error("{text:?} is none of {choices}")]
    Choice {
        /// What was given.
        text: String,
        /// What may be given.
        choices: String,
    },
    /// Not an address to listen on.
    #[error("{text:?} is no address to listen on; write ADDR:PORT with an IP address, for example {example}")]
    Address {
        /// What was given.
        text: String,
        /// A right one.
        example: &'static str,
    },
    /// Two listeners on one address.
    #[error("{address} is given twice; the other is {other}")]
    SameAddress {
        /// The address.
        address: std::net::SocketAddr,
        /// The setting that has it as well, and its place.
        other: String,
    },
    /// A listener on one address, and another on all addresses with the same port.
    #[error("{address} and {other} cannot both be listened on: one of them is on all addresses of this machine")]
    Overlapping {
        /// The address.
        address: std::net::SocketAddr,
        /// The other one, the setting that has it and its place.
        other: String,
    },
    /// Not a network.
    #[error("{0:?} is no network; write an address and a prefix length, for example 10.0.0.0/8 or 2001:db8::/32")]
    Network(String),
    /// A list without an entry.
    #[error("the list is empty; {0}")]
    EmptyList(&'static str),
    /// Listening beyond loopback without a word on who may come.
    #[error(
        "{address} can be reached from other machines, and the gateway lends out an identity: whoever reaches the port \
         uses {account}. Give allow_clients the networks that may (--allow-clients 10.0.0.0/8), or listen on loopback \
         only (127.0.0.1:{})",
        address.port()
    )]
    OpenListener {
        /// The listener beyond loopback.
        address: std::net::SocketAddr,
        /// The account lent out.
        account: String,
    },
    /// Not a name for the Workstation field.
    #[error("must have from 1 to {limit} characters and no control characters")]
    Workstation {
        /// The longest allowed.
        limit: usize,
    },
    /// Not a name for the Via field.
    #[error("{text:?} is no name for Via; write up to {limit} letters, digits and signs such as - . _, without blanks")]
    ViaName {
        /// What was given.
        text: String,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// A time that the kernel takes in whole seconds.
    #[error("{text:?} is no whole number of seconds up to 32767")]
    WholeSeconds {
        /// What was given.
        text: String,
    },
    /// An upstream that is the gateway itself.
    #[error(
        "{upstream} is {address}, where the gateway itself listens: every request would come back; name the corporate proxy"
    )]
    OwnAddress {
        /// As configured.
        upstream: HostPort,
        /// What it means here.
        address: std::net::SocketAddr,
    },
    /// Not a name for an identity, an upstream or a group.
    #[error("{text:?} is no name; write up to 64 letters, digits and signs, without blanks")]
    Name {
        /// What was given.
        text: String,
    },
    /// Not a name for a client's login. It is not repeated: the password may stand behind the colon.
    #[error("must be up to 64 letters, digits and signs without blanks and colons; its password goes into a file")]
    LoginName,
    /// Two of one name.
    #[error("there are two called {name}; give each a name of its own; the other is at {other}")]
    Twice {
        /// The name.
        name: String,
        /// Where the first is.
        other: Origin,
    },
    /// A password in a setting that is not for one.
    #[error(
        "has the form of a URL with a password in it, and is therefore not shown; name the account with user, and put its \
         password into a file for password_file"
    )]
    Credentials,
    /// More entries than can be.
    #[error("there are more than {max}")]
    TooMany {
        /// The most allowed.
        max: usize,
    },
    /// Two settings that exclude each other.
    #[error("cannot be given together with the file's table; {0}")]
    Together(&'static str),
    /// A setting that is nothing without another.
    #[error("needs {0} too")]
    NeedsToo(&'static str),
    /// Basic with a secret that is no password.
    #[error("needs the password itself, from a file: give it with password_file")]
    BasicNeedsPassword,
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
    fn an_error_stays_on_its_line_whatever_the_name_in_the_file() {
        let origin = Origin::File { path: "g.toml".into(), line: 1, column: 1 };
        let error = ConfigError { origin, key: "a\nb\u{1b}[2J".into(), problem: Problem::Unknown { nearest: None } };
        assert_eq!(error.to_string(), r"g.toml:1:1: a\nb\u{1b}[2J: unknown setting");
    }
}
