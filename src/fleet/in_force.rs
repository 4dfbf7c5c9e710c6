//! How long a fleet's secrets are kept: as long as new requests set out with it.

use std::ops::Deref;
use std::sync::Arc;

use super::Fleet;

/// A fleet that new requests set out with. When the last clone is dropped, the secrets of the fleet are withdrawn.
///
/// Tunnels refer to the fleet they set out with for as long as they last, which may be days; they hold [`InForce::fleet`],
/// which keeps names, metrics and health alive and no secret.
#[derive(Clone, Debug)]
pub struct InForce(Arc<Tenure>);

#[derive(Debug)]
struct Tenure(Arc<Fleet>);

impl InForce {
    /// Puts a fleet in force.
    pub fn new(fleet: Fleet) -> InForce {
        InForce(Arc::new(Tenure(Arc::new(fleet))))
    }

    /// The fleet itself, for a tunnel to refer to.
    pub fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.0.0)
    }
}

impl Deref for InForce {
    type Target = Fleet;

    fn deref(&self) -> &Fleet {
        &self.0.0
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.0.hops.iter().for_each(|hop| hop.credentials.withdraw());
    }
}
