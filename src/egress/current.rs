//! The egress that new requests use, and its secrets, which are not kept any longer.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use super::{Egress, Guesses, ListenerUse, LoginError, Logins};
use crate::client_protocol::ShownLogin;

/// The egress that new requests use. When the last clone is dropped, the secrets of the egress are erased.
///
/// A tunnel refers to the egress that it began with for as long as it lasts, which may be days. It holds
/// [`CurrentEgress::egress`], which keeps names, metrics and health alive but no secrets.
#[derive(Clone, Debug)]
pub struct CurrentEgress(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    egress: Arc<Egress>,
    logins: Logins,
    guesses: Arc<Guesses>,
}

/// Why a client is rejected, whatever it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// Its login was not accepted.
    Login(LoginError),
    /// Its listener belonged to an identity that no longer has it.
    ListenerWithdrawn,
}

impl CurrentEgress {
    /// Makes an egress current, with the logins of its identities. `guesses` counts wrong logins across reloads.
    pub fn new(egress: Egress, logins: Logins, guesses: Arc<Guesses>) -> CurrentEgress {
        CurrentEgress(Arc::new(Shared { egress: Arc::new(egress), logins, guesses }))
    }

    /// The egress itself, for a tunnel to refer to. It keeps no secrets alive.
    pub fn egress(&self) -> Arc<Egress> {
        Arc::clone(&self.0.egress)
    }

    /// The identity, by index, that belongs to a client by its login, its listener or its address, in this order;
    /// `None` if it has none of its own. Without configured logins, what the client shows is ignored.
    ///
    /// # Errors
    /// [`ClientError::ListenerWithdrawn`], or [`ClientError::Login`] if the client shows a login that is not accepted.
    pub fn identity_of(
        &self,
        listener: usize,
        client: IpAddr,
        shown: &ShownLogin,
        now_ms: u64,
    ) -> Result<Option<usize>, ClientError> {
        let by_listener = self.identity_of_listener(listener)?;
        let by_login = self.0.logins.identity_of(client, shown, now_ms, &self.0.guesses).map_err(ClientError::Login)?;
        Ok(by_login.or(by_listener).or_else(|| self.identity_of_address(client)))
    }

    /// Checks the login of a client that has not said yet where it wants to go. The login is checked again with the
    /// request, because a reload may come in between.
    ///
    /// # Errors
    /// As for [`CurrentEgress::identity_of`].
    pub fn check_login(
        &self,
        listener: usize,
        client: IpAddr,
        shown: &ShownLogin,
        now_ms: u64,
    ) -> Result<(), ClientError> {
        self.identity_of_listener(listener)?;
        let checked = self.0.logins.check(client, shown, now_ms, &self.0.guesses);
        checked.map(|_| ()).map_err(ClientError::Login)
    }

    fn identity_of_listener(&self, listener: usize) -> Result<Option<usize>, ClientError> {
        match self.listeners.get(listener) {
            Some(ListenerUse::Withdrawn) => Err(ClientError::ListenerWithdrawn),
            Some(ListenerUse::Own(identity)) => Ok(Some(*identity)),
            Some(ListenerUse::Common) | None => Ok(None),
        }
    }
}

impl Deref for CurrentEgress {
    type Target = Egress;

    fn deref(&self) -> &Egress {
        &self.0.egress
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.egress.hops.iter().for_each(|hop| hop.credentials.withdraw());
    }
}
