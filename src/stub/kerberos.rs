//! Kerberos under Negotiate (RFC 4559), as a proxy with a keytab verifies it.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::spnego::{self, NegState};
use crate::kerberos::{AcceptError, Confounder, Keytab, ReplayCache, Timestamp, accept, refusal};

/// How a stub accepts Kerberos.
#[derive(Debug, Clone)]
pub struct StubKerberos {
    /// The keys of its service.
    pub keytab: Keytab,
    /// The personality's own schemes are offered and accepted, too.
    pub with_ntlm: bool,
}

/// The service that all connections share.
pub(super) struct KerberosService {
    keytab: RwLock<Arc<Keytab>>,
    replays: Mutex<ReplayCache>,
    with_ntlm: bool,
}

/// What is in a Negotiate token, and the token that answers it.
pub(super) enum Verdict {
    /// It authenticates the client.
    Accepted {
        /// `None` if the client expects no answer.
        answer: Option<Vec<u8>>,
    },
    /// It does not.
    Refused { error: AcceptError, answer: Vec<u8> },
    /// It contains no token of Kerberos.
    NoKerberos,
}

impl KerberosService {
    pub(super) fn new(options: StubKerberos) -> KerberosService {
        KerberosService {
            keytab: RwLock::new(Arc::new(options.keytab)),
            replays: Mutex::default(),
            with_ntlm: options.with_ntlm,
        }
    }

    /// Whether the personality's own schemes are accepted, too.
    pub(super) fn with_ntlm(&self) -> bool {
        self.with_ntlm
    }

    /// Replaces the keys. The next token is verified with them.
    pub(super) fn set_keytab(&self, keytab: Keytab) {
        *self.keytab.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keytab);
    }

    /// Verifies a token, in SPNEGO or raw.
    pub(super) fn verify(&self, token: &[u8], now: Timestamp, confounder: &Confounder) -> Verdict {
        let Some(initial) = spnego::kerberos_token(token) else { return Verdict::NoKerberos };
        let keytab = Arc::clone(&self.keytab.read().unwrap_or_else(PoisonError::into_inner));
        let accepted = accept(initial.token, &keytab, now, confounder).and_then(|accepted| {
            let mut replays = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
            replays.remember(&accepted, now).map(|()| accepted)
        });
        match accepted {
            Ok(accepted) => {
                let answer = match initial.mechanism {
                    Some(mechanism) => {
                        Some(spnego::response(NegState::AcceptCompleted, mechanism, accepted.reply.as_deref()))
                    }
                    None => accepted.reply,
                };
                Verdict::Accepted { answer }
            }
            Err(error) => {
                let refusal = refusal(initial.token, error, now);
                let answer = match initial.mechanism {
                    Some(mechanism) => spnego::response(NegState::Reject, mechanism, Some(&refusal)),
                    None => refusal,
                };
                Verdict::Refused { error, answer }
            }
        }
    }
}

#[cfg(test)]
#[path = "kerberos_tests.rs"]
mod tests;
