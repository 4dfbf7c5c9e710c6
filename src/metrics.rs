//! All metric families in one struct, with their label sets resolved in advance.
//!
//! The hot paths only touch atomics. Label values come from closed sets (the names of upstreams and identities come
//! from the configuration), so peers cannot create series.

mod hop;

use std::sync::Arc;

pub use hop::{Discarded, HandshakeOutcome, HandshakePhase, HopMetrics, Path, Reason407, UpstreamMetrics};

use hop::{HopFamilies, UpstreamFamilies};
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
pub use requests::PROTOCOLS;
use requests::RequestCounters;
use shard::ShardFamilies;

use crate::fault::{At, Cause, Fault};

mod guard;
mod kerberos;
mod logins;
mod reloads;
mod requests;
mod shard;
mod tls;

pub use guard::GuardMetrics;
pub use kerberos::{KerberosMetrics, TicketMetric};
pub use logins::LoginMetrics;
pub use reloads::ConfigMetrics;
pub use shard::ShardCounts;
pub use tls::{CertificateOwner, TlsMetrics};

/// All metric families; there is one instance in a process.
pub struct Metrics {
    registry: Registry,
    hops: HopFamilies,
    upstreams: UpstreamFamilies,
    /// The credential guard.
    pub guard: GuardMetrics,
    requests: RequestCounters,
    logins: LoginMetrics,
    finished: IntCounter,
    faults: IntCounterVec,
    closed: IntCounterVec,
    shards: ShardFamilies,
    /// Open client connections, from accept to close.
    pub tunnels_open: IntGauge,
    /// Tunnels that are relaying.
    pub tunnels_relaying: IntGauge,
    /// The limit of [`Metrics::tunnels_open`].
    pub tunnels_max: IntGauge,
    /// Connections accepted from clients.
    pub accepted: IntCounter,
    /// Tunnels that have been established.
    pub established: IntCounter,
    /// Pauses in accepting for lack of descriptors, memory or places.
    pub accept_pauses: IntCounter,
    /// The size of the buffers of all connections.
    pub buffered_bytes: IntGauge,
    /// The limit of [`Metrics::buffered_bytes`].
    pub buffered_bytes_max: IntGauge,
    /// Pipes that are lent.
    pub pipes_lent: IntGauge,
    /// Turns after which bulk transfers paused.
    pub bulk_pauses: IntCounter,
    /// Events for an earlier owner of a slot.
    pub stale_events: IntCounter,
    /// Log lines dropped because their reader stalled.
    pub log_lines_dropped: IntCounter,
    /// Kerberos tickets.
    pub kerberos: KerberosMetrics,
    /// See [`TlsMetrics`].
    pub tls: TlsMetrics,
    /// Reloads of the configuration.
    pub config: ConfigMetrics,
}

/// Creates and registers metric families.
struct Maker(Registry);

impl Maker {
    fn keep<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> prometheus::Result<C> {
        let collector = made?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.keep(IntCounter::new(format!("ntlm_gateway_{name}"), help))
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.keep(IntGauge::new(format!("ntlm_gateway_{name}"), help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.keep(IntCounterVec::new(Opts::new(format!("ntlm_gateway_{name}"), help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.keep(IntGaugeVec::new(Opts::new(format!("ntlm_gateway_{name}"), help), labels))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(format!("ntlm_gateway_{name}"), help).buckets(buckets.to_vec());
        self.keep(HistogramVec::new(options, labels))
    }
}

impl Metrics {
    /// Creates and registers all families.
    ///
    /// # Errors
    /// A name is invalid or not unique, which is a bug.
    pub fn new() -> prometheus::Result<Metrics> {
        let make = Maker(Registry::new());
        build_info(&make)?;
        let closed = make.counters("tunnels_closed_total", "Client connections that ended, by cause", &["cause"])?;
        Ok(Metrics {
            hops: HopFamilies::new(&make)?,
            upstreams: UpstreamFamilies::new(&make)?,
            guard: GuardMetrics::new(&make)?,
            shards: ShardFamilies::new(&make)?,
            requests: RequestCounters::new(&make)?,
            logins: LoginMetrics::new(&make)?,
            finished: closed.with_label_values(&["finished"]),
            closed,
            faults: make.counters(
                "faults_total",
                "Failures, by the client's protocol, side, stage and cause",
                &["protocol", "side", "stage", "cause"],
            )?,
            tunnels_open: make.gauge("tunnels_open", "Client connections that are open, from accept to close")?,
            tunnels_relaying: make.gauge("tunnels_relaying", "Tunnels that are established at the moment")?,
            tunnels_max: make.gauge("tunnels_max", "Maximum number of client connections")?,
            accepted: make.counter("accepted_total", "Connections accepted from clients")?,
            established: make.counter(
                "tunnels_opened_total",
                "Tunnels established, through an upstream or directly to their origin",
            )?,
            accept_pauses: make.counter(
                "accept_pauses_total",
                "Times that accepting paused because descriptors or memory ran out, or too many rejected connections \
                 were open",
            )?,
            buffered_bytes: make
                .gauge("buffered_bytes", "Bytes that requests and responses in progress hold in buffers")?,
            buffered_bytes_max: make.gauge("buffered_bytes_max", "The limit of buffered_bytes; 0 if there is none")?,
            pipes_lent: make.gauge("pipes_in_use", "Pipes that hold bulk data at the moment")?,
            bulk_pauses: make.counter(
                "bulk_pauses_total",
                "How often bulk transfers paused for a moment to leave an event loop to small messages and requests",
            )?,
            stale_events: make.counter("stale_events_total", "Events for a connection that no longer existed")?,
            log_lines_dropped: make.counter(
                "log_lines_dropped_total",
                "Log lines dropped because standard error was not read fast enough",
            )?,
            kerberos: KerberosMetrics::new(&make)?,
            tls: TlsMetrics::new(&make)?,
            config: ConfigMetrics::new(&make)?,
            registry: make.0,
        })
    }

    /// The metrics of an upstream with an identity, by their names.
    pub fn hop(&self, upstream: &str, identity: &str) -> HopMetrics {
        self.hops.of(upstream, identity)
    }

    /// The metrics of an upstream.
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        self.upstreams.of(name)
    }

    /// Removes the gauges of an upstream that is no longer configured; its counters stay.
    pub fn forget_upstream(&self, name: &str) {
        self.upstreams.forget(name);
        self.tls.forget(name);
    }

    /// Removes the gauges of an identity that is no longer configured.
    pub fn forget_identity(&self, name: &str) {
        self.kerberos.forget(name);
        self.guard.forget(name);
    }

    /// Counts a response to a client.
    pub fn request(&self, protocol: &str, kind: &str, status: u16) {
        self.requests.count(protocol, kind, status);
    }

    /// The metrics of client logins.
    pub fn logins(&self) -> LoginMetrics {
        self.logins.clone()
    }

    /// Counts a fault of a client with this protocol.
    pub fn fault(&self, protocol: &str, fault: &Fault) {
        let (side, stage, cause) = (fault.cause.culprit().label(), fault.at.label(), fault.cause.label());
        self.faults.with_label_values(&[protocol, side, stage, cause]).inc();
    }

    /// The number of faults with this cause at this stage, with any protocol.
    pub fn faults(&self, at: At, cause: Cause) -> u64 {
        let labels = |protocol| [protocol, cause.culprit().label(), at.label(), cause.label()];
        PROTOCOLS.iter().map(|protocol| self.faults.with_label_values(&labels(protocol)).get()).sum()
    }

    /// Counts a closed client connection.
    pub fn closed(&self, cause: &str) {
        if cause == "finished" {
            self.finished.inc();
            return;
        }
        self.closed.with_label_values(&[cause]).inc();
    }

    /// The counts of the shard of this number; to be asked for once.
    pub fn shard(&self, number: usize) -> Arc<ShardCounts> {
        self.shards.of(number)
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// A family is inconsistent, which is a bug.
    pub fn encode(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(32 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn build_info(make: &Maker) -> prometheus::Result<()> {
    let options = Opts::new("ntlm_gateway_build_info", "Always 1; the label has the version")
        .const_label("version", env!("CARGO_PKG_VERSION"));
    make.keep(Gauge::with_opts(options))?.set(1.0);
    make.0.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
}
