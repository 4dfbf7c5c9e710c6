//! The same as one JSON object. Its keys are documented, and a test compares them with the documentation.

use serde_json::{Value, json};

use super::show::{IdentityStanding, Standing};
use crate::cli::utc::rfc3339;
use crate::guard_store::PlaceStatus;

/// Incremented when a key changes its meaning or is removed, but not when keys are added.
const SCHEMA: u32 = 1;

pub(super) fn render(standing: &Standing) -> String {
    let object = json!({
        "schema": SCHEMA,
        "store": {"kind": standing.kind, "at": standing.at},
        "now": rfc3339(standing.now_ms),
        "attempts": standing.policy.attempts,
        "window_seconds": standing.policy.window.as_secs(),
        "identities": standing.identities.iter().map(|one| identity(one, standing)).collect::<Vec<_>>(),
    });
    format!("{object}\n")
}

fn identity(identity: &IdentityStanding, standing: &Standing) -> Value {
    let counted = &identity.counted;
    json!({
        "name": identity.name,
        "account": identity.account,
        "attempts_left": identity.left(&standing.policy),
        "counted": counted.all,
        "counted_with_other_secrets": counted.with_other_secrets,
        "counted_without_result": counted.unsettled,
        "kept_aside": counted.kept_aside,
        "next_expires_at": counted.fewer_at_ms.map(rfc3339),
        "cleared_at": time(identity.cleared_ms),
        "upstreams": identity.upstreams.iter().map(|(name, status)| upstream(name, status)).collect::<Vec<_>>(),
    })
}

fn upstream(name: &str, status: &PlaceStatus) -> Value {
    json!({
        "name": name,
        "state": status.state.label(),
        "accepted_at": time(status.known.accepted_ms),
        "rejected_at": time(status.known.struck_ms),
        "not_before": rfc3339(status.next_ms),
    })
}

/// A time, or null for 0, which means never.
fn time(ms: u64) -> Value {
    if ms > 0 { rfc3339(ms).into() } else { Value::Null }
}
