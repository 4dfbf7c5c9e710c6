//! The credential guard.

use prometheus::{IntGauge, IntGaugeVec};

use super::Maker;
use crate::upstream::{GuardState, GuardStatus};

/// The state of the guard for each identity, and of the store behind it.
#[derive(Clone)]
pub struct GuardMetrics {
    states: IntGaugeVec,
    attempts_left: IntGaugeVec,
    accepted: IntGaugeVec,
    previous: IntGaugeVec,
    /// Whether the store can be reached; 1 if failed logons are counted in the process alone.
    pub store_up: IntGauge,
}

impl GuardMetrics {
    pub(super) fn new(make: &Maker) -> prometheus::Result<GuardMetrics> {
        let metrics = GuardMetrics {
            states: make.gauges(
                "guard_state",
                "State of the credential guard: 1 for the current state (unproven, proven, refused), 0 for the others",
                &["identity", "state"],
            )?,
            attempts_left: make.gauges(
                "guard_attempts_left",
                "Failed logons that the identity's account may still cause in the current 30 minutes",
                &["identity"],
            )?,
            accepted: make.gauges(
                "guard_last_accepted_timestamp_seconds",
                "When this process last saw an upstream accept the identity's secret; 0 if it has not yet",
                &["identity"],
            )?,
            previous: make.gauges(
                "guard_previous_secret_in_use",
                "1 while the identity's previous secret is used at an upstream that does not accept the present one, 0 otherwise",
                &["identity"],
            )?,
            store_up: make.gauge(
                "guard_store_up",
                "Whether the store behind the credential guard can be reached; always 1 with guard.store = memory",
            )?,
        };
        metrics.store_up.set(1);
        Ok(metrics)
    }

    /// Sets the state of an identity's guard.
    pub fn changed(&self, identity: &str, state: GuardState) {
        for known in GuardState::ALL {
            self.states.with_label_values(&[identity, known.label()]).set(i64::from(known == state));
        }
    }

    /// Sets what is left of an identity's budget and when its secret was last accepted, in seconds since 1970.
    pub fn status(&self, identity: &str, status: GuardStatus, accepted_seconds: i64) {
        let left = i64::try_from(status.attempts_left).unwrap_or(i64::MAX);
        self.attempts_left.with_label_values(&[identity]).set(left);
        self.accepted.with_label_values(&[identity]).set(accepted_seconds);
    }

    /// Sets whether an identity uses its previous secret.
    pub fn previous_secret(&self, identity: &str, in_use: bool) {
        self.previous.with_label_values(&[identity]).set(i64::from(in_use));
    }

    /// Removes the gauges of an identity.
    pub(super) fn forget(&self, identity: &str) {
        // Each may not exist.
        for known in GuardState::ALL {
            let _ = self.states.remove_label_values(&[identity, known.label()]);
        }
        let _ = self.attempts_left.remove_label_values(&[identity]);
        let _ = self.accepted.remove_label_values(&[identity]);
        let _ = self.previous.remove_label_values(&[identity]);
    }
}
