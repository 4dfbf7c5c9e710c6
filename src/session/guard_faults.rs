//! The faults of requests that the credential guard does not let log on.

use std::time::Duration;

use crate::fault::{At, Cause, Fault};
use crate::upstream::{Guard, Refusal};

/// The request waited for the guard for too long.
pub(super) fn timed_out(guard: &Guard) -> Fault {
    if guard.lacks_store() {
        let detail = "the secret is not known to be accepted, and the guard's store, in which a logon attempt is reserved, \
                      is out of reach";
        return At::Authenticate.fault(Cause::GuardStoreUnavailable, detail);
    }
    At::Authenticate
        .fault(Cause::GuardTimeout, "the request had to wait for another logon attempt, which took too long")
}

/// The guard lets nothing go for now.
pub(super) fn refused(refusal: Refusal) -> Fault {
    let minutes = |rest: Duration| rest.as_secs().div_ceil(60);
    match refusal {
        Refusal::Held(rest) => {
            let detail = format!(
                "the upstream refused the gateway's credentials; to keep the account from being locked they are not tried again for {} min, \
                 or until the secret changes",
                minutes(rest)
            );
            At::Authenticate.fault(Cause::CredentialsHeld, detail)
        }
        Refusal::Barred(rest) => {
            let detail = format!(
                "the upstream refused the credentials for this destination, which its policy may forbid, and takes them for others; \
                 not tried again for {} min",
                minutes(rest)
            );
            At::Authenticate.fault(Cause::DestinationHeld, detail)
        }
    }
}
