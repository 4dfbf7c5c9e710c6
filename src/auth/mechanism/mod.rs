//! The mechanisms: each answers a challenge with a token, has another thread prepare the token, or refuses with a
//! [`Fault`]. And each says whether its tokens count as logon attempts.
//!
//! The conversation around them (407 answers, connections, the order in which mechanisms are tried) belongs to
//! [`Handshake`](super::Handshake). A mechanism has a file of its own with its [`Mechanism`] implementation, one or
//! more arms in [`Scheme`], and a constructor of [`Credentials`](super::Credentials) that puts it into the list.

mod basic;
mod kerberos;
mod ntlm;

#[cfg(test)]
pub(super) mod scripted;

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::sync::Arc;

pub(super) use basic::{Basic, BasicCredentials};
pub(super) use kerberos::Kerberos;
pub use ntlm::SpeaksNtlm;
pub(super) use ntlm::{CHALLENGE_SCHEMES, Ntlm};

use super::fault;
use super::nonces::Nonces;
use crate::fault::{Cause, Fault};
use crate::http::Fields;
use crate::ntlm::{FileTime, Identity};

/// A way to convince an upstream, prepared for one identity and shared by all its handshakes.
///
/// Nothing about one connection is kept here: the conversation holds the challenge, and forgets it with the connection.
pub(super) trait Mechanism: Debug + Send + Sync {
    /// The schemes that it uses, the one to begin with first.
    fn schemes(&self) -> &'static [Scheme];

    /// The token that asks for a challenge, in base64. `None` if no challenge is needed, so that the first token is the
    /// final one.
    fn first_token(&self, _scheme: Scheme) -> Option<&str> {
        None
    }

    /// Reads the token of a 407 that answers the first token. Returns the challenge, and the scheme of the final token.
    ///
    /// # Errors
    /// Why it is not a challenge of this mechanism.
    fn read_challenge(&self, scheme: Scheme, _token: Vec<u8>) -> Result<(Vec<u8>, Scheme), Fault> {
        Err(fault(Cause::ChallengeMalformed, format!("there is no challenge under {}", scheme.name())))
    }

    /// Whether another thread still prepares what the final token is made of.
    fn is_pending(&self) -> bool {
        false
    }

    /// Whether another thread has failed to prepare it, so that [`Mechanism::final_token`] would fail now.
    fn has_failed(&self) -> bool {
        false
    }

    /// Makes the token that the upstream accepts or refuses.
    ///
    /// # Errors
    /// Why no such token is made.
    fn final_token<'a>(&'a self, inputs: &TokenInputs<'a>) -> Result<FinalToken<'a>, Fault>;

    /// Whether a wrong secret in the final token counts as a failed logon, so that the credential guard must allow it.
    fn counts_as_logon(&self) -> bool;

    /// The scheme to try at an upstream that answers 407 with these offers and no challenge. `last` is the scheme that
    /// was in use, perhaps that of another mechanism. `None` if the upstream offers none that is left to try.
    ///
    /// # Errors
    /// Why a scheme that is offered must not be used.
    fn choose(&self, last: Scheme, offers: &Fields<'_>) -> Result<Option<Scheme>, Fault>;

    /// The upstream refused the final token, which was no logon attempt.
    fn refused(&self, _refusal: &Refusal<'_>) -> Refused {
        Refused::default()
    }

    /// The upstream accepted the final token.
    fn accepted(&self) {}

    /// Whether the upstream is likely to accept the next final token, because it accepted the last one.
    fn is_accepted(&self) -> bool {
        true
    }

    /// The upstream refused its token, and the next mechanism in the list has its turn.
    fn give_way(&self) {}

    /// Whether it has given way, and nothing has changed since.
    fn has_given_way(&self) -> bool {
        false
    }

    /// Whether it may be accepted now although another mechanism was, which comes later in the list.
    fn may_try_again(&self) -> bool {
        false
    }

    /// Whether it must not be used with this upstream, whatever was remembered.
    fn is_ruled_out(&self) -> bool {
        false
    }

    /// Gives up secrets of its own that are not among [`Secrets`].
    fn withdraw(&self) {}

    /// Shares what all identities know about the upstream.
    fn share(&mut self, _speaks_ntlm: &Arc<SpeaksNtlm>) {}
}

/// How a final token was refused.
#[derive(Debug)]
pub(super) struct Refusal<'a> {
    /// The upstream's own token, if it sent one.
    pub token: Option<&'a [u8]>,
    /// Whether it offers the scheme. If not, it would refuse any token.
    pub is_offered: bool,
    /// When the final token was made.
    pub made_at: FileTime,
}

/// What is to be made of a refusal.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Another token may be accepted.
    pub may_retry: bool,
    /// What the upstream says about it.
    pub why: Option<String>,
}

/// What a final token is made of.
pub(super) struct TokenInputs<'a> {
    pub scheme: Scheme,
    pub secrets: &'a Secrets,
    /// `None` if the mechanism needs none.
    pub challenge: Option<&'a [u8]>,
    pub nonces: Nonces,
    /// The MD5 hash of the connection's channel bindings, if its transport has any.
    pub channel_bindings: Option<[u8; 16]>,
}

/// The token that the upstream accepts or refuses.
pub(super) struct FinalToken<'a> {
    pub bytes: Cow<'a, [u8]>,
    /// For a mechanism by which the upstream authenticates as well.
    pub mutual_check: Option<MutualCheck>,
}

impl<'a> From<Cow<'a, [u8]>> for FinalToken<'a> {
    fn from(bytes: Cow<'a, [u8]>) -> FinalToken<'a> {
        FinalToken { bytes, mutual_check: None }
    }
}

/// Checks the upstream's own token, which comes with the answer to the final token.
pub(super) struct MutualCheck(pub Box<CheckToken>);

type CheckToken = dyn Fn(Option<&str>) -> Result<(), Fault> + Send + Sync;

impl Debug for MutualCheck {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("MutualCheck")
    }
}

/// The secrets of all mechanisms of an identity, withdrawn together.
#[derive(Debug)]
pub(super) struct Secrets {
    pub identity: Identity,
    /// Present if Basic is allowed.
    pub basic: Option<BasicCredentials>,
}

/// The form in which tokens are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// `NTLM <message>`.
    #[default]
    Ntlm,
    /// `Negotiate <message>`, as browsers send it if they have no Kerberos ticket.
    NegotiateRaw,
    /// `Negotiate <SPNEGO token with the message>`.
    NegotiateSpnego,
    /// `Basic <user:password>`: the password itself.
    Basic,
    /// `Negotiate <SPNEGO token with an AP-REQ>`.
    Kerberos,
    /// For tests.
    #[cfg(test)]
    Scripted,
}

/// Every scheme with its name in Proxy-Authorization and Proxy-Authenticate. Its place is its number.
const TABLE: &[(Scheme, &str)] = &[
    (Scheme::Ntlm, "NTLM"),
    (Scheme::NegotiateRaw, "Negotiate"),
    (Scheme::NegotiateSpnego, "Negotiate"),
    (Scheme::Basic, "Basic"),
    (Scheme::Kerberos, "Negotiate"),
    #[cfg(test)]
    (Scheme::Scripted, "Scripted"),
];

const _: () = {
    let mut number = 0;
    while number < TABLE.len() {
        assert!(TABLE[number].0 as usize == number, "the rows are in the order of the enum");
        number += 1;
    }
};

impl Scheme {
    /// Its name in the log, where Kerberos and NTLM under Negotiate differ.
    pub fn label(self) -> &'static str {
        if self == Scheme::Kerberos { "Kerberos" } else { self.name() }
    }

    /// The name of its mechanism: NTLM has several schemes.
    pub fn mechanism(self) -> &'static str {
        match self {
            Scheme::NegotiateRaw | Scheme::NegotiateSpnego => Scheme::Ntlm.name(),
            scheme => scheme.label(),
        }
    }

    /// The scheme's name in Proxy-Authorization and Proxy-Authenticate.
    pub fn name(self) -> &'static str {
        TABLE[self.number()].1
    }

    pub(super) fn number(self) -> usize {
        self as usize
    }

    pub(super) fn of_number(number: usize) -> Scheme {
        TABLE.get(number).map(|(scheme, _)| *scheme).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_found_again_by_its_number() {
        for (scheme, name) in TABLE {
            assert_eq!((Scheme::of_number(scheme.number()), scheme.name()), (*scheme, *name));
        }
        assert_eq!(Scheme::of_number(TABLE.len()), Scheme::Ntlm);
    }
}
