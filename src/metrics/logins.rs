//! Logins of clients to the gateway.

use prometheus::IntCounter;

use super::Maker;

/// A counter for each outcome; all exist from the start.
#[derive(Clone)]
pub struct LoginMetrics {
    /// Valid logins.
    pub accepted: IntCounter,
    /// Wrong or malformed logins.
    pub refused: IntCounter,
    /// Logins that were not checked after too many wrong ones.
    pub throttled: IntCounter,
}

impl LoginMetrics {
    pub(super) fn new(make: &Maker) -> prometheus::Result<LoginMetrics> {
        let logins = make.counters(
            "client_logins_total",
            "Logins that clients sent to the gateway, by outcome: accepted, refused, throttled",
            &["outcome"],
        )?;
        let with = |outcome: &str| logins.with_label_values(&[outcome]);
        Ok(LoginMetrics { accepted: with("accepted"), refused: with("refused"), throttled: with("throttled") })
    }
}
