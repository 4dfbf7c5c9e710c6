//! What a handshake proves, made ready once for all handshakes.

use super::scheme::KnownScheme;
use crate::ntlm::{Identity, NegotiateOptions, negotiate};
use zeroize::Zeroizing;

/// What the first request on a cold connection carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstLeg {
    /// The NEGOTIATE_MESSAGE: no leg is wasted on being told that authentication is required.
    #[default]
    Negotiate,
    /// No credentials, for proxies that take NTLM only after they have asked for it.
    Plain,
}

/// An identity with the messages that are the same in every handshake.
#[derive(Debug)]
pub struct Credentials {
    /// Who is proved.
    pub identity: Identity,
    /// What is sent first.
    pub first_leg: FirstLeg,
    /// The NEGOTIATE_MESSAGE.
    pub negotiate: Vec<u8>,
    /// MsvAvTargetName: the service that is asked, `HTTP/<upstream host>`.
    pub target_name: Option<String>,
    /// `user:password`, where it may be sent to an upstream that offers nothing better (Basic, RFC 7617).
    pub basic: Option<BasicCredentials>,
    /// The scheme that the upstream took the last time.
    pub scheme: KnownScheme,
}

impl Credentials {
    /// Makes the messages ready for an upstream of the given host name.
    pub fn new(identity: Identity, upstream_host: &str, first_leg: FirstLeg) -> Credentials {
        let negotiate = negotiate(&identity, &NegotiateOptions::default());
        let target_name = Some(format!("HTTP/{upstream_host}"));
        Credentials { identity, first_leg, negotiate, target_name, basic: None, scheme: KnownScheme::default() }
    }

    /// The same, with the password that Basic may send.
    #[must_use]
    pub fn with_basic(mut self, password: Option<&str>) -> Credentials {
        self.basic = password.map(|password| {
            let account = match self.identity.domain() {
                "" => self.identity.user().to_owned(),
                domain => format!("{domain}\\{}", self.identity.user()),
            };
            BasicCredentials(Zeroizing::new(format!("{account}:{password}").into_bytes()))
        });
        self
    }
}

/// What Basic sends; overwritten when it is dropped, and never printed.
pub struct BasicCredentials(Zeroizing<Vec<u8>>);

impl BasicCredentials {
    /// `user:password`.
    pub(super) fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for BasicCredentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("BasicCredentials")
    }
}
