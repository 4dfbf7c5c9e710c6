//! Responses to clients by protocol, kind of request and class of status.

use prometheus::IntCounter;

use super::Maker;

/// The protocols of clients. What is none of them counts as the last.
pub const PROTOCOLS: [&str; 7] = ["http", "socks4", "socks5", "forward", "tls", "tcp", "unknown"];
const KINDS: [&str; 3] = ["connect", "http", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// A counter for each class of status.
type ByClass = [IntCounter; CLASSES.len()];

/// A counter for each protocol, kind and class; all exist from the start, so that counting needs no lock.
pub(super) struct RequestCounters([[ByClass; KINDS.len()]; PROTOCOLS.len()]);

impl RequestCounters {
    pub(super) fn new(make: &Maker) -> prometheus::Result<RequestCounters> {
        let requests = make.counters(
            "requests_total",
            "Responses to clients, by protocol, kind of request and class of status",
            &["protocol", "kind", "status"],
        )?;
        let of = |protocol, kind| CLASSES.map(|class| requests.with_label_values(&[protocol, kind, class]));
        Ok(RequestCounters(PROTOCOLS.map(|protocol| KINDS.map(|kind| of(protocol, kind)))))
    }

    /// Counts a response. An unknown protocol or kind counts as the last.
    pub(super) fn count(&self, protocol: &str, kind: &str, status: u16) {
        let protocol = place(&PROTOCOLS, protocol);
        let kind = place(&KINDS, kind);
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        if let Some(counter) = self.0.get(protocol).and_then(|kinds| kinds.get(kind)?.get(class)) {
            counter.inc();
        }
    }
}

fn place(known: &[&str], wanted: &str) -> usize {
    known.iter().position(|known| *known == wanted).unwrap_or(known.len() - 1)
}
