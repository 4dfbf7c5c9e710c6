//! Which mechanism a handshake uses, and why it is not the one that is listed first.

use std::fmt;
use std::sync::Arc;

use super::mechanism::Scheme;
use crate::fault::{Cause, Fault};
use crate::http::{self, Fields};

/// Why a mechanism is used that is not the first in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The kind of reason.
    pub cause: Cause,
    /// The reason, with what the upstream offers if it was asked.
    pub why: Arc<str>,
}

impl Fallback {
    /// The mechanism before it could not make its token.
    pub(super) fn without_token(fault: &Fault) -> Fallback {
        Fallback { cause: fault.cause, why: fault.detail.as_ref().into() }
    }

    /// The upstream refused the token of the mechanism before it. `said` is the status line, and what the upstream's
    /// own token says.
    pub(super) fn refused(before: Scheme, said: &str, offers: &Fields<'_>) -> Fallback {
        let offered = http::offered_schemes(offers);
        let why = format!("the upstream refused the {} token: {said}; it offers: {offered}", before.mechanism());
        Fallback { cause: Cause::CredentialsRefused, why: why.into() }
    }

    /// The upstream does not offer the scheme of the mechanism before it.
    pub(super) fn not_offered(before: Scheme, offers: &Fields<'_>) -> Fallback {
        let offered = http::offered_schemes(offers);
        let why = format!("the upstream does not offer {}; it offers: {offered}", before.name());
        Fallback { cause: Cause::SchemeNotOffered, why: why.into() }
    }
}

/// The mechanism that a handshake uses, of several that are listed.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    pub(super) first: Scheme,
    pub(super) used: Scheme,
    pub(super) fallback: Option<&'a Fallback>,
}

impl Choice<'_> {
    /// The name of the mechanism.
    pub fn mechanism(&self) -> &'static str {
        self.used.mechanism()
    }

    /// Why it is not the first in the list, if it is not.
    pub fn fallback(&self) -> Option<&Fallback> {
        self.fallback
    }

    /// A number that differs between mechanisms, and between the kinds of reasons for one; never 0.
    pub fn number(&self) -> usize {
        let cause = self.fallback.map_or(0, |fallback| fallback.cause as usize + 1);
        (self.used.number() + 1) * (Cause::ALL.len() + 1) + cause
    }
}

/// `Kerberos`, or `NTLM instead of Kerberos: the reason`.
impl fmt::Display for Choice<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.mechanism())?;
        match self.fallback {
            Some(fallback) => write!(out, " instead of {}: {}", self.first.mechanism(), fallback.why),
            None => Ok(()),
        }
    }
}
