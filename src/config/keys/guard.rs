//! Settings of the credential guard.

use super::{Fallback, Key, Kind, Places};
use crate::limits;

pub(super) const GUARD: &[Key] = &[
    Key {
        name: "guard.attempts",
        flag: "guard-attempts",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: "Credential guard",
        help: "The maximum number of failed logons for one account in 30 minutes, from 2 to 10. Keep it at least one \
               below the domain's lockout threshold",
        default: Fallback::Value(|| limits::GUARD_ATTEMPTS.to_string()),
    },
    Key {
        name: "guard.store",
        flag: "guard-store",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "memory|file|kubernetes",
        heading: "Credential guard",
        help: "Where failed logons are counted: memory counts for this process alone and forgets at its end; file \
               counts in guard.directory for all processes of this machine that use it; kubernetes counts in a Lease \
               for all pods that use it",
        default: Fallback::Value(|| "memory".into()),
    },
    Key {
        name: "guard.directory",
        flag: "guard-directory",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "DIRECTORY",
        heading: "Credential guard",
        help: "The directory for --guard-store file. It must be kept across restarts, and the gateway must be able to \
               write to it",
        default: Fallback::Value(|| "/var/lib/ntlm-gateway".into()),
    },
    Key {
        name: "guard.lease",
        flag: "guard-lease",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "NAME",
        heading: "Credential guard",
        help: "The Lease for --guard-store kubernetes, in the pod's namespace. The pod's service account must be able to \
               create, get, update and watch it",
        default: Fallback::Value(|| "ntlm-gateway-guard".into()),
    },
    Key {
        name: "guard.max_replicas",
        flag: "guard-max-replicas",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: "Credential guard",
        help: "While the store is out of reach, each of so many gateways may use its share of the attempts, rounded down; \
               until then it is kept aside. With 0 there are no shares: secrets that are not known to be accepted wait \
               for the store",
        default: Fallback::Value(|| "0".into()),
    },
];
