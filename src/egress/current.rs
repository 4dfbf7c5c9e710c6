//! The egress that new requests set out with, and its secrets, which are kept no longer than that.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use super::{Egress, Guesses, ListenerUse, LoginError, Logins, Shown};

/// A egress that new requests set out with. When the last clone is dropped, the secrets of the egress are withdrawn.
///
/// Tunnels refer to the egress they set out with for as long as they last, which may be days; they hold [`CurrentEgress::egress`],
/// which keeps names, metrics and health alive and no secret.
#[derive(Clone, Debug)]
pub struct CurrentEgress(Arc<Tenure>);

#[derive(Debug)]
struct Tenure {
    egress: Arc<Egress>,
    logins: Logins,
    guesses: Arc<Guesses>,
}

/// Why a client is not served, whatever it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// Its login was not accepted.
    Login(LoginError),
    /// Its listener was taken away from the identity whose clients came in by it.
    ListenerWithdrawn,
}

impl CurrentEgress {
    /// Puts a egress in force, with the logins of its identities; wrong ones are counted with `guesses`.
    pub fn new(egress: Egress, logins: Logins, guesses: Arc<Guesses>) -> CurrentEgress {
        CurrentEgress(Arc::new(Tenure { egress: Arc::new(egress), logins, guesses }))
    }

    /// The egress itself, for a tunnel to refer to.
    pub fn egress(&self) -> Arc<Egress> {
        Arc::clone(&self.0.egress)
    }

    /// The identity that a client is to use, if something about it says so: its login, the listener it came in by, its
    /// address, in this order. What it shows is not looked at where no logins are configured.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn identity_of(
        &self,
        listener: usize,
        client: IpAddr,
        shown: &Shown,
        now_ms: u64,
    ) -> Result<Option<usize>, ClientError> {
        let by_listener = match self.listeners.get(listener) {
            Some(ListenerUse::Withdrawn) => return Err(ClientError::ListenerWithdrawn),
            Some(ListenerUse::Own(identity)) => Some(*identity),
            Some(ListenerUse::Common) | None => None,
        };
        let by_login = self.0.logins.identity_of(client, shown, now_ms, &self.0.guesses).map_err(ClientError::Login)?;
        Ok(by_login.or(by_listener).or_else(|| self.identity_of_address(client)))
    }
}

impl Deref for CurrentEgress {
    type Target = Egress;

    fn deref(&self) -> &Egress {
        &self.0.egress
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.egress.hops.iter().for_each(|hop| hop.credentials.withdraw());
    }
}
