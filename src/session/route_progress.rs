//! How far a request has come on its plan.

use std::sync::Arc;

use crate::client_protocol::Target;
use crate::egress::Egress;
use crate::fault::{Cause, Fault};
use crate::route::{Candidate, Plan};

/// The candidates that are left for a request, and what applies to all of them.
#[derive(Debug)]
pub(super) struct RouteProgress {
    /// The candidates that have not been tried.
    pub plan: Plan,
    /// The egress that the plan is about. A reload in the meantime does not change the plan.
    pub egress: Arc<Egress>,
    /// The identity, by index, that the client has of its own.
    pub identity: Option<usize>,
    /// The destination, as the plan was asked for.
    pub target: Target,
    /// When the client must have its answer, in ms.
    pub until_ms: u64,
}

impl RouteProgress {
    /// Whether a candidate is left that leads somewhere.
    pub(super) fn has_alternative(&self) -> bool {
        self.plan.next().is_some_and(|candidate| candidate != Candidate::Deny)
    }

    /// Whether the next candidate is tried after this fault of the present one, of whose connections none was
    /// established. Only a candidate that cannot be reached is passed over: not one that denies the destination, one
    /// whose credentials are in doubt, or one for which the gateway itself lacks something.
    pub(super) fn falls_back(&self, fault: &Fault, now_ms: u64) -> bool {
        let is_unreachable = matches!(
            fault.cause,
            Cause::UpstreamsDown
                | Cause::ResolveFailed
                | Cause::ResolveTimeout
                | Cause::ConnectRefused
                | Cause::ConnectUnreachable
                | Cause::ConnectTimeout
        );
        is_unreachable && self.plan.next().is_some() && now_ms < self.until_ms
    }
}
