//! A service that tickets are wanted for, and the name by which the KDC knows it.

use std::sync::Arc;

use super::dns;
use super::exchange::TicketError;
use super::realms::Realms;
use crate::auth::TicketSlot;
use crate::kerberos::PrincipalName;

/// A service that tickets are wanted for.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: PrincipalName,
    /// Its realm, if the configuration says so.
    pub realm: Option<String>,
    /// Whether the KDC knows it by the canonical name of its host.
    pub canonicalize: bool,
    /// Where its ticket is published.
    pub slot: Arc<TicketSlot>,
}

/// The name of a service at the KDC, and its realm if that is known.
pub type ServicePrincipal = (PrincipalName, Option<String>);

impl Service {
    /// The name by which the KDC knows the service. Its realm is that of the configuration, or else the one that
    /// krb5.conf has for its host. Blocking, if the name of the host is to be canonicalized, and bounded in time.
    ///
    /// # Errors
    /// [`TicketError::Canonical`] if the canonical name cannot be looked up.
    pub fn principal(&self, realms: &Realms) -> Result<ServicePrincipal, TicketError> {
        let name = match (self.canonicalize, self.name.components()) {
            (true, [service, host]) => {
                let canonical =
                    dns::canonical_name(host).map_err(|why| TicketError::Canonical { host: host.clone(), why })?;
                PrincipalName::of_service(service, &canonical)
            }
            _ => self.name.clone(),
        };
        let host = name.components().get(1);
        let mapped = host.and_then(|host| realms.conf.realm_of_host(host)).map(str::to_owned);
        Ok((name, self.realm.clone().or(mapped)))
    }
}
