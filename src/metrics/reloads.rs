//! Reloads of the configuration.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

use super::Maker;

/// The metrics of the configuration. A scrape has either all changes of a reload or none.
#[derive(Clone)]
pub struct ConfigMetrics {
    reloads: IntCounterVec,
    applied: IntCounter,
    refused: IntCounter,
    last_successful: IntGauge,
    hash: IntGauge,
    /// Held while a reload is counted and while the families are collected.
    changing: Arc<Mutex<()>>,
}

impl ConfigMetrics {
    pub(super) fn new(make: &Maker) -> prometheus::Result<ConfigMetrics> {
        let reloads = IntCounterVec::new(
            Opts::new(
                "ntlm_gateway_config_reloads_total",
                "Reloads of the configuration, by outcome: applied, refused",
            ),
            &["outcome"],
        )?;
        let last_successful = IntGauge::new(
            "ntlm_gateway_config_last_reload_successful",
            "1 if the configuration in use is the last one that was read, 0 if that one was rejected",
        )?;
        last_successful.set(1);
        make.keep(Ok(ConfigMetrics {
            applied: reloads.with_label_values(&["applied"]),
            refused: reloads.with_label_values(&["refused"]),
            reloads,
            last_successful,
            hash: IntGauge::new(
                "ntlm_gateway_config_hash",
                "A number computed from the settings in use: the same in all processes with the same settings. No secret is part of it",
            )?,
            changing: Arc::default(),
        }))
    }

    /// Sets the digest of the configuration in force.
    pub fn started(&self, digest: u64) {
        self.at_once(|| self.set_hash(digest));
    }

    /// Counts a reload whose configuration is now in force.
    pub fn applied(&self, digest: u64) {
        self.at_once(|| {
            self.applied.inc();
            self.last_successful.set(1);
            self.set_hash(digest);
        });
    }

    /// Counts a reload whose configuration was rejected.
    pub fn refused(&self) {
        self.at_once(|| {
            self.refused.inc();
            self.last_successful.set(0);
        });
    }

    fn set_hash(&self, digest: u64) {
        // A digest has 48 bits.
        self.hash.set(i64::try_from(digest).unwrap_or(i64::MAX));
    }

    fn at_once<T>(&self, action: impl FnOnce() -> T) -> T {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        action()
    }

    fn collectors(&self) -> [&dyn Collector; 3] {
        [&self.reloads, &self.last_successful, &self.hash]
    }
}

impl Collector for ConfigMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.collectors().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.at_once(|| self.collectors().into_iter().flat_map(Collector::collect).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::Registry;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Applied and refused reloads, whether the last one was successful, and the digest.
    fn scrape(registry: &Registry) -> (f64, f64, f64, f64) {
        let families = registry.gather();
        let value = |name: &str, outcome: Option<&str>| {
            let family = families.iter().find(|family| family.name() == name).unwrap();
            let metrics = family.get_metric().iter();
            let mut values = metrics.filter(|metric| outcome == metric.get_label().first().map(|label| label.value()));
            let metric = values.next().unwrap();
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        (
            value("ntlm_gateway_config_reloads_total", Some("applied")),
            value("ntlm_gateway_config_reloads_total", Some("refused")),
            value("ntlm_gateway_config_last_reload_successful", None),
            value("ntlm_gateway_config_hash", None),
        )
    }

    #[test]
    fn a_scrape_has_all_changes_of_a_reload_or_none() {
        let registry = Registry::new();
        let metrics = ConfigMetrics::new(&Maker(registry.clone())).unwrap();
        assert_eq!(scrape(&registry), (0.0, 0.0, 1.0, 0.0));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for digest in 1.. {
                    metrics.refused();
                    metrics.applied(digest);
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            let torn = (0..2_000).map(|_| scrape(&registry)).find(|&(applied, refused, successful, digest)| {
                (successful == 1.0) != (applied == refused) || digest != applied
            });
            stop.store(true, Ordering::Relaxed);
            assert_eq!(torn, None);
        });
    }
}
