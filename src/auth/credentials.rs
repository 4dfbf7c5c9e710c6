//! What a handshake proves, made ready once for all handshakes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::scheme::{KnownScheme, Scheme, SpeaksNtlm};
use crate::ntlm::{ChallengeMessage, Identity, NegotiateOptions, negotiate};

/// What the first request on a cold connection carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstLeg {
    /// The NEGOTIATE_MESSAGE: no leg is wasted on being told that authentication is required.
    #[default]
    Negotiate,
    /// No credentials, for proxies that take NTLM only after they have asked for it.
    Plain,
}

/// An identity with the messages that are the same in every handshake, for one upstream.
///
/// The secret can be withdrawn: then it is wiped although tunnels still refer to the credentials they set out with. A
/// handshake that is under way borrows it until its AUTHENTICATE_MESSAGE is made.
#[derive(Debug)]
pub struct Credentials {
    /// What is sent first.
    pub first_leg: FirstLeg,
    /// The NEGOTIATE_MESSAGE.
    pub negotiate: Vec<u8>,
    /// MsvAvTargetName: the service that is asked, `HTTP/<upstream host>`.
    pub target_name: Option<String>,
    /// The scheme that the upstream took the last time.
    pub(super) scheme: KnownScheme,
    /// Shared by all identities of the upstream.
    speaks_ntlm: Arc<SpeaksNtlm>,
    /// Basic may be sent to an upstream that offers nothing better (RFC 7617).
    allows_basic: bool,
    /// `None` once it is withdrawn. A mutex because shards read it; it is held to copy a pointer.
    secret: Mutex<Option<Arc<Secret>>>,
}

/// What an AUTHENTICATE_MESSAGE or Basic is made of.
#[derive(Debug)]
pub(super) struct Secret {
    pub identity: Identity,
    /// `user:password`, where Basic is allowed.
    pub basic: Option<BasicCredentials>,
}

impl Credentials {
    /// Makes the messages ready for an upstream of the given host name.
    pub fn new(identity: Identity, upstream_host: &str, first_leg: FirstLeg) -> Credentials {
        Credentials {
            first_leg,
            negotiate: negotiate(&identity, &NegotiateOptions::default()),
            target_name: Some(format!("HTTP/{upstream_host}")),
            scheme: KnownScheme::default(),
            speaks_ntlm: Arc::default(),
            allows_basic: false,
            secret: Mutex::new(Some(Arc::new(Secret { identity, basic: None }))),
        }
    }

    /// The same, with the password that Basic may send.
    #[must_use]
    pub fn with_basic(mut self, password: Option<&str>) -> Credentials {
        let slot = self.secret.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(secret) = slot.as_mut().and_then(Arc::get_mut) {
            secret.basic = password.map(|password| BasicCredentials::new(&secret.identity, password));
            self.allows_basic = secret.basic.is_some();
        }
        self
    }

    /// The same, with what is known of the upstream by its other identities.
    #[must_use]
    pub fn with_knowledge(mut self, speaks_ntlm: &Arc<SpeaksNtlm>) -> Credentials {
        self.speaks_ntlm = Arc::clone(speaks_ntlm);
        self
    }

    /// Whether Basic is allowed for an upstream that offers nothing better.
    pub fn allows_basic(&self) -> bool {
        self.allows_basic
    }

    /// Whether the upstream has ever sent a CHALLENGE_MESSAGE: then it gets no Basic, whatever it offers now.
    pub fn withholds_basic(&self) -> bool {
        self.speaks_ntlm.is_known()
    }

    /// Whether a fresh connection needs no challenge.
    pub fn needs_no_challenge(&self) -> bool {
        self.recall_scheme() == Scheme::Basic
    }

    /// The scheme to begin with.
    pub(super) fn recall_scheme(&self) -> Scheme {
        match self.scheme.recall() {
            Scheme::Basic if self.withholds_basic() => Scheme::Ntlm,
            known => known,
        }
    }

    /// The upstream took a scheme as far as to send this CHALLENGE_MESSAGE.
    pub(super) fn challenged(&self, scheme: Scheme, message: &[u8]) {
        self.scheme.remember(scheme);
        if !self.speaks_ntlm.is_known() && ChallengeMessage::decode(message).is_ok() {
            self.speaks_ntlm.note();
        }
    }

    /// Takes the secret out of force. It is wiped at once, or when the handshakes that have borrowed it are past their
    /// AUTHENTICATE_MESSAGE.
    pub fn withdraw(&self) {
        self.slot().take();
    }

    /// Whether the secret has been withdrawn.
    pub fn is_withdrawn(&self) -> bool {
        self.slot().is_none()
    }

    /// Borrows the secret; `None` once it is withdrawn.
    pub(super) fn secret(&self) -> Option<Arc<Secret>> {
        self.slot().clone()
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Secret>>> {
        self.secret.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What Basic sends; overwritten when it is dropped, and never printed.
pub struct BasicCredentials(Zeroizing<Vec<u8>>);

impl BasicCredentials {
    fn new(identity: &Identity, password: &str) -> BasicCredentials {
        let account = [identity.domain(), identity.user()].join("\\");
        let account = account.strip_prefix('\\').unwrap_or(&account);
        // All room at once: growing would leave copies behind that nobody wipes.
        let mut text = Zeroizing::new(Vec::with_capacity(account.len() + 1 + password.len()));
        [account, ":", password].into_iter().for_each(|part| text.extend_from_slice(part.as_bytes()));
        BasicCredentials(text)
    }

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
