//! What a handshake proves, made ready once for all handshakes.

use super::scheme::KnownScheme;
use crate::ntlm::{Identity, NegotiateOptions, negotiate};

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
    /// The scheme that the upstream took the last time.
    pub scheme: KnownScheme,
}

impl Credentials {
    /// Makes the messages ready for an upstream of the given host name.
    pub fn new(identity: Identity, upstream_host: &str, first_leg: FirstLeg) -> Credentials {
        let negotiate = negotiate(&identity, &NegotiateOptions::default());
        let target_name = Some(format!("HTTP/{upstream_host}"));
        Credentials { identity, first_leg, negotiate, target_name, scheme: KnownScheme::default() }
    }
}
