//! Reloads of the configuration.

use prometheus::{IntCounter, IntGauge};

use super::Maker;

/// The metrics of the configuration.
pub struct ConfigMetrics {
    applied: IntCounter,
    refused: IntCounter,
    last_successful: IntGauge,
    hash: IntGauge,
}

impl ConfigMetrics {
    pub(super) fn new(make: &Maker) -> prometheus::Result<ConfigMetrics> {
        let reloads = make.counters(
            "config_reloads_total",
            "Reloads of the configuration, by outcome: applied, refused",
            &["outcome"],
        )?;
        let last_successful = make.gauge(
            "config_last_reload_successful",
            "1 if the configuration in use is the last one that was read, 0 if that one was rejected",
        )?;
        last_successful.set(1);
        Ok(ConfigMetrics {
            applied: reloads.with_label_values(&["applied"]),
            refused: reloads.with_label_values(&["refused"]),
            last_successful,
            hash: make.gauge(
                "config_hash",
                "A number computed from the settings in use: the same in all processes with the same settings. No secret is part of it",
            )?,
        })
    }

    /// Sets the digest of the configuration in force.
    pub fn started(&self, digest: u64) {
        // A digest has 48 bits.
        self.hash.set(i64::try_from(digest).unwrap_or(i64::MAX));
    }

    /// Counts a reload whose configuration is now in force.
    pub fn applied(&self, digest: u64) {
        self.applied.inc();
        self.last_successful.set(1);
        self.started(digest);
    }

    /// Counts a reload whose configuration was rejected.
    pub fn refused(&self) {
        self.refused.inc();
        self.last_successful.set(0);
    }
}
