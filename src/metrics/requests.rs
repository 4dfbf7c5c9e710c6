//! Responses to clients by kind of request and class of status.

use prometheus::IntCounter;

use super::Maker;

const KINDS: [&str; 3] = ["connect", "http", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// A counter for each kind and class; all exist from the start, so that counting needs no lock.
pub(super) struct RequestCounters([[IntCounter; CLASSES.len()]; KINDS.len()]);

impl RequestCounters {
    pub(super) fn new(make: &Maker) -> prometheus::Result<RequestCounters> {
        let requests = make.counters(
            "requests_total",
            "Responses to clients, by kind of request and class of status",
            &["kind", "status"],
        )?;
        Ok(RequestCounters(KINDS.map(|kind| CLASSES.map(|class| requests.with_label_values(&[kind, class])))))
    }

    /// Counts a response. An unknown kind counts as `other`.
    pub(super) fn count(&self, kind: &str, status: u16) {
        let place = KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len() - 1);
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        if let Some(counter) = self.0.get(place).and_then(|classes| classes.get(class)) {
            counter.inc();
        }
    }
}
