//! A new password that reaches the gateways before the domain has it.

use std::time::Duration;

use ntlm_gateway::limits;

use super::fleet::{Member, MemberOptions, PATIENCE, Store, file_store, lease_store, upstream};
use crate::support::PASSWORD;
use crate::support::kubernetes::KubernetesApi;
use crate::support::scratch::{Scratch, wait_for};

const NEW: &str = "N3w-battery";

fn rotate(store: Store) {
    let upstream = upstream(Duration::from_millis(5));
    let options =
        || MemberOptions { has_previous: true, ..MemberOptions::new(upstream.address(), PASSWORD, 10, store.clone()) };
    let members = [0, 1].map(|_| Member::start_with(options()));
    let wait_until_all = |bound, part: &str| {
        for member in &members {
            let says = wait_for(bound, || (member.says(part) > 0).then_some(()));
            assert!(says.is_some(), "{:?}: no log line with {part:?}", store.0);
        }
    };
    wait_until_all(PATIENCE, "accepts the credentials of");
    members.iter().for_each(|member| member.rotate(NEW, PASSWORD));
    wait_until_all(PATIENCE, "refuses the present password of");
    // The domain takes both for an hour.
    upstream.add_password("CORP", "alice", NEW);
    wait_until_all(limits::GUARD_BACKOFF + PATIENCE, "accepts the present password of");
    // Without a store each of the two tries it.
    let tries = if store.0.is_empty() { 2 } else { 1 };
    assert_eq!(upstream.counters().refused, tries, "{:?}: {}", store.0, upstream.counters());
}

#[test]
#[ignore = "takes more than a minute; tests/long fleet"]
fn a_new_password_that_came_too_early_is_tried_again_after_a_minute() {
    let (directory, api) = (Scratch::new("guard"), KubernetesApi::start());
    std::thread::scope(|scope| {
        scope.spawn(|| rotate((Vec::new(), Vec::new())));
        scope.spawn(|| rotate((file_store(directory.path()), Vec::new())));
        scope.spawn(|| rotate(lease_store(&api, api.address())));
    });
}
