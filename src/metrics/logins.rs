//! What became of the logins that clients showed to the gateway.

use prometheus::IntCounter;

use super::Maker;

/// A counter for each outcome; all are there from the start.
#[derive(Clone)]
pub struct LoginMetrics {
    /// Somebody's.
    pub accepted: IntCounter,
    /// Nobody's, or not to be decoded.
    pub refused: IntCounter,
    /// Not looked at after too many wrong ones.
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
