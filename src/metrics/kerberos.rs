//! Kerberos: tickets, and exchanges with KDCs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGauge};

use super::Maker;

/// From a KDC beside us to one that is asked only after others have not answered.
const EXCHANGE_BUCKETS_SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0];

/// The kinds of requests, as in [`RequestKind`](crate::kerberos::RequestKind).
const KINDS: [&str; 3] = ["as", "tgs", "renewal"];

/// The outcome of an exchange that has succeeded.
const OK: &str = "ok";

/// What there is of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketMetric {
    /// It is on its way.
    Pending,
    /// It ends at this time, in seconds since 1970.
    Ready(u64),
    /// There is none.
    Failed,
}

/// The metrics of tickets.
#[derive(Clone)]
pub struct KerberosMetrics {
    exchanges: IntCounterVec,
    durations: HistogramVec,
    /// In the order of [`TicketMetric`].
    states: [IntGauge; 3],
    first_end: IntGauge,
    /// By identity and service.
    tickets: Arc<Mutex<HashMap<(String, String), TicketMetric>>>,
}

impl KerberosMetrics {
    pub(super) fn new(make: &Maker) -> prometheus::Result<KerberosMetrics> {
        let exchanges = make.counters(
            "kdc_exchanges_total",
            "Requests to KDCs, by kind (as, tgs, renewal) and outcome: ok, silent, no_kdc, or the name of the KDC's error",
            &["kind", "outcome"],
        )?;
        let durations = make.histograms(
            "kdc_exchange_duration_seconds",
            "Time from a request to the KDC's reply, or until it was given up, by kind",
            &["kind"],
            EXCHANGE_BUCKETS_SECONDS,
        )?;
        for kind in KINDS {
            exchanges.with_label_values(&[kind, OK]);
            durations.with_label_values(&[kind]);
        }
        let states = make.gauges(
            "kerberos_tickets",
            "Kerberos tickets for upstreams, by state: pending, ready, failed",
            &["state"],
        )?;
        Ok(KerberosMetrics {
            exchanges,
            durations,
            states: ["pending", "ready", "failed"].map(|state| states.with_label_values(&[state])),
            first_end: make.gauge(
                "kerberos_ticket_end_timestamp_seconds",
                "When the first of the Kerberos tickets in use ends, in seconds since 1970; 0 if there is none",
            )?,
            tickets: Arc::default(),
        })
    }

    /// Counts a request to a KDC. `outcome` is `None` for a success.
    pub fn asked(&self, kind: &str, outcome: Option<&str>, took: Duration) {
        self.exchanges.with_label_values(&[kind, outcome.unwrap_or(OK)]).inc();
        self.durations.with_label_values(&[kind]).observe(took.as_secs_f64());
    }

    /// The state of an identity's ticket for a service.
    pub fn ticket(&self, identity: &str, service: &str, state: TicketMetric) {
        self.change(|tickets| {
            tickets.insert((identity.to_owned(), service.to_owned()), state);
        });
    }

    /// Removes the tickets of an identity.
    pub fn forget(&self, identity: &str) {
        self.change(|tickets| tickets.retain(|(of, _), _| of != identity));
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<(String, String), TicketMetric>)) {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut tickets);
        let count = |is_it: fn(&TicketMetric) -> bool| {
            i64::try_from(tickets.values().filter(|ticket| is_it(ticket)).count()).unwrap_or(i64::MAX)
        };
        self.states[0].set(count(|ticket| *ticket == TicketMetric::Pending));
        self.states[1].set(count(|ticket| matches!(ticket, TicketMetric::Ready(_))));
        self.states[2].set(count(|ticket| *ticket == TicketMetric::Failed));
        let ends = tickets.values().filter_map(|ticket| match ticket {
            TicketMetric::Ready(end) => Some(*end),
            _ => None,
        });
        self.first_end.set(ends.min().and_then(|end| i64::try_from(end).ok()).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::Registry;

    #[test]
    fn the_first_end_is_that_of_the_tickets_that_are_left() {
        let metrics = KerberosMetrics::new(&Maker(Registry::new())).unwrap();
        metrics.ticket("a", "one", TicketMetric::Ready(50));
        metrics.ticket("b", "one", TicketMetric::Ready(40));
        metrics.ticket("b", "two", TicketMetric::Failed);
        assert_eq!(metrics.first_end.get(), 40);
        assert_eq!(metrics.states.each_ref().map(|state| state.get()), [0, 2, 1]);
        metrics.forget("b");
        assert_eq!((metrics.first_end.get(), metrics.states[2].get()), (50, 0));
        metrics.forget("a");
        assert_eq!(metrics.first_end.get(), 0);
    }
}
