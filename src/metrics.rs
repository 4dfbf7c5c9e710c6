//! Every metric family in one struct, its label sets resolved up front.
//!
//! The hot paths touch atomics only. Label values come from closed sets (upstream and identity names from the
//! configuration), so that no peer can make a series.

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::fault::{At, Cause, Fault};
use crate::relay::Moved;
use crate::upstream::GuardState;

mod reloads;

pub use reloads::ConfigMetrics;

/// Bounds of the handshake histograms in seconds: from a proxy in the same rack to one that waits for its domain controller.
const HANDSHAKE_BUCKETS_SECONDS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 75.0];

/// Bounds of the loop's turns in seconds.
const TURN_BUCKETS_SECONDS: &[f64] = &[0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];

/// Why an upstream answered 407.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason407 {
    /// To a request without credentials, or a NEGOTIATE_MESSAGE that it did not look at.
    Unprompted,
    /// With a CHALLENGE_MESSAGE, as it should.
    Challenge,
    /// To an AUTHENTICATE_MESSAGE, without a new challenge.
    Refused,
    /// To an AUTHENTICATE_MESSAGE, with a new challenge.
    Rechallenge,
}

impl Reason407 {
    const ALL: [(Reason407, &'static str); 4] = [
        (Reason407::Unprompted, "unprompted"),
        (Reason407::Challenge, "challenge"),
        (Reason407::Refused, "refused"),
        (Reason407::Rechallenge, "rechallenge"),
    ];
}

/// A part of what a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the upstream's addresses.
    Resolve,
    /// The TCP connection.
    Connect,
    /// From the NEGOTIATE_MESSAGE to the whole CHALLENGE_MESSAGE, dialling again included.
    Challenge,
    /// Waiting for the credential guard.
    Guard,
    /// From the AUTHENTICATE_MESSAGE to its answer; the upstream's own way to the origin included.
    Authenticate,
}

impl Phase {
    const ALL: [(Phase, &'static str); 5] = [
        (Phase::Resolve, "resolve"),
        (Phase::Connect, "connect"),
        (Phase::Challenge, "challenge"),
        (Phase::Guard, "guard"),
        (Phase::Authenticate, "authenticate"),
    ];
}

/// Why a warm connection was thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// Nobody wanted it in time.
    Aged,
    /// The upstream closed it, or failed on the way to its challenge.
    Failed,
    /// Clients waited for a challenge meanwhile, perhaps for the helper that this one held.
    Yielded,
    /// The configuration or the credentials' state changed.
    Outdated,
}

impl Discarded {
    /// All causes with their metric labels.
    pub const ALL: [(Discarded, &'static str); 4] = [
        (Discarded::Aged, "aged"),
        (Discarded::Failed, "failed"),
        (Discarded::Yielded, "yielded"),
        (Discarded::Outdated, "outdated"),
    ];
}

/// Where a handshake's connection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Dialled for the request.
    Cold,
    /// Dialled and challenged ahead.
    Warm,
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a tunnel.
    Established,
    /// The upstream took the credentials and refused the request (403, 503 …).
    Declined,
    /// The upstream refused the credentials.
    Refused,
    /// A fault.
    Failed,
}

impl Outcome {
    const ALL: [(Outcome, &'static str); 4] = [
        (Outcome::Established, "established"),
        (Outcome::Declined, "declined"),
        (Outcome::Refused, "refused"),
        (Outcome::Failed, "failed"),
    ];
}

/// All families. Cheap to share; one for the whole process.
pub struct Metrics {
    registry: Registry,
    /// Cold and warm.
    handshakes: [Vec<Histogram>; 2],
    phases: Vec<Histogram>,
    reasons_407: Vec<IntCounter>,
    requests: IntCounterVec,
    /// The request that nearly all are: a CONNECT that was granted.
    granted: IntCounter,
    finished: IntCounter,
    faults: IntCounterVec,
    closed: IntCounterVec,
    bytes_up: [IntCounter; 2],
    bytes_down: [IntCounter; 2],
    guard_state: Vec<IntGauge>,
    warm_discarded: Vec<IntCounter>,
    turns: HistogramVec,
    /// Tunnels that are open, from accept to close.
    pub tunnels_open: IntGauge,
    /// Tunnels that have reached the relay.
    pub tunnels_relaying: IntGauge,
    /// As many as may be open.
    pub tunnels_max: IntGauge,
    /// Connections accepted.
    pub accepted: IntCounter,
    /// Tunnels that reached the relay.
    pub established: IntCounter,
    /// Times that accepting rested for want of descriptors, memory or room.
    pub accept_pauses: IntCounter,
    /// Connections dialled to the upstream.
    pub dials: IntCounter,
    /// AUTHENTICATE_MESSAGEs sent.
    pub authenticates: IntCounter,
    /// Addresses that the upstream's name resolves to.
    pub upstream_addresses: IntGauge,
    /// Warm connections that have their challenge.
    pub warm_ready: IntGauge,
    /// Requests that found a warm connection.
    pub warm_hits: IntCounter,
    /// Requests that would have taken one and found none.
    pub warm_misses: IntCounter,
    /// Pipes lent out.
    pub pipes_lent: IntGauge,
    /// Events that came for a slot's earlier owner.
    pub stale_events: IntCounter,
    /// Log lines dropped because their reader stood still.
    pub log_lines_dropped: IntCounter,
    /// What became of the configurations that were read.
    pub config: ConfigMetrics,
}

/// Registers families as they are made.
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
    /// Makes and registers all families. `upstream` and `identity` are the names that their labels bear.
    ///
    /// # Errors
    /// When a name breaks Prometheus' rules or stands twice, which is a mistake of the program.
    pub fn new(upstream: &str, identity: &str) -> prometheus::Result<Metrics> {
        let make = Maker(Registry::new());
        build_info(&make)?;
        let handshakes = make.histograms(
            "handshake_duration_seconds",
            "From the first dial to the upstream to its answer to the request",
            &["upstream", "path", "outcome"],
            HANDSHAKE_BUCKETS_SECONDS,
        )?;
        let phases = make.histograms(
            "handshake_phase_duration_seconds",
            "Parts of the handshake: resolve, connect, challenge, guard, authenticate",
            &["upstream", "phase"],
            HANDSHAKE_BUCKETS_SECONDS,
        )?;
        let reasons = make.counters(
            "407_total",
            "Answers 407 of the upstream by reason: unprompted, challenge, refused, rechallenge",
            &["upstream", "reason"],
        )?;
        let bytes = make.counters(
            "bytes_total",
            "Bytes relayed by direction (up: to the upstream) and way (splice, copy)",
            &["direction", "way"],
        )?;
        let guard = make.gauges(
            "guard_state",
            "State of the credential guard: 1 for the present state (unproven, proven, refused), 0 for the others",
            &["identity", "state"],
        )?;
        let discarded = make.counters(
            "warm_discarded_total",
            "Warm connections thrown away by cause (aged, failed, yielded, outdated)",
            &["cause"],
        )?;
        let requests =
            make.counters("requests_total", "Requests by kind and status class of the answer", &["kind", "status"])?;
        let closed = make.counters("tunnels_closed_total", "Tunnels closed by cause", &["cause"])?;
        let way = |direction: &str| ["copy", "splice"].map(|way| bytes.with_label_values(&[direction, way]));
        let outcomes = |path: &str| -> Vec<Histogram> {
            Outcome::ALL.map(|(_, label)| handshakes.with_label_values(&[upstream, path, label])).into()
        };
        let metrics = Metrics {
            handshakes: [outcomes("cold"), outcomes("warm")],
            phases: Phase::ALL.map(|(_, label)| phases.with_label_values(&[upstream, label])).into(),
            reasons_407: Reason407::ALL.map(|(_, label)| reasons.with_label_values(&[upstream, label])).into(),
            bytes_up: way("up"),
            bytes_down: way("down"),
            warm_discarded: Discarded::ALL.map(|(_, label)| discarded.with_label_values(&[label])).into(),
            guard_state: GuardState::ALL.map(|state| guard.with_label_values(&[identity, state.label()])).into(),
            granted: requests.with_label_values(&["connect", "2xx"]),
            requests,
            finished: closed.with_label_values(&["finished"]),
            closed,
            faults: make.counters("faults_total", "Failures by side, stage and cause", &["side", "stage", "cause"])?,
            turns: make.histograms(
                "loop_turn_duration_seconds",
                "How long a shard's loop was busy in one turn: the lag that an event meets at the most",
                &["shard"],
                TURN_BUCKETS_SECONDS,
            )?,
            tunnels_open: make.gauge("tunnels_open", "Tunnels that are open, from accept to close")?,
            tunnels_relaying: make.gauge("tunnels_relaying", "Tunnels that are relaying bytes")?,
            tunnels_max: make.gauge("tunnels_max", "Tunnels that may be open at once")?,
            accepted: make.counter("accepted_total", "Connections accepted from clients")?,
            established: make.counter("tunnels_opened_total", "Tunnels that were opened through the upstream")?,
            accept_pauses: make
                .counter("accept_pauses_total", "Times that accepting rested for want of descriptors or room")?,
            dials: make.counter("dials_total", "Connections dialled to the upstream")?,
            authenticates: make.counter("authenticate_messages_total", "AUTHENTICATE_MESSAGEs sent")?,
            upstream_addresses: make.gauge("upstream_addresses", "Addresses that the upstream's name resolves to")?,
            warm_ready: make.gauge("warm_connections", "Upstream connections that are dialled and challenged ahead")?,
            warm_hits: make.counter("warm_hits_total", "Requests that found a warm connection")?,
            warm_misses: make
                .counter("warm_misses_total", "Requests that would have taken a warm connection and found none")?,
            pipes_lent: make.gauge("pipes_in_use", "Pipes that splice bulk bytes at the moment")?,
            stale_events: make
                .counter("stale_events_total", "Readiness events that came for an earlier owner of a slot")?,
            log_lines_dropped: make
                .counter("log_lines_dropped_total", "Log lines dropped because their reader stood still")?,
            config: ConfigMetrics::new(&make)?,
            registry: make.0,
        };
        metrics.guard_changed(GuardState::Unproven);
        Ok(metrics)
    }

    /// A handshake has ended.
    pub fn handshake(&self, path: Path, outcome: Outcome, duration_us: u64) {
        let [cold, warm] = &self.handshakes;
        let histograms = if path == Path::Warm { warm } else { cold };
        observe(histograms, Outcome::ALL.iter().position(|(known, _)| *known == outcome), duration_us);
    }

    /// A phase of a handshake has ended.
    pub fn phase(&self, phase: Phase, duration_us: u64) {
        observe(&self.phases, Phase::ALL.iter().position(|(known, _)| *known == phase), duration_us);
    }

    /// The upstream answered 407, so many times.
    pub fn answered_407(&self, reason: Reason407, times: u64) {
        if let Some((_, counter)) =
            Reason407::ALL.iter().zip(&self.reasons_407).find(|((known, _), _)| *known == reason)
        {
            counter.inc_by(times);
        }
    }

    /// A request has been answered, by whomever.
    pub fn request(&self, kind: &str, status: u16) {
        if (kind, status) == ("connect", 200) {
            self.granted.inc();
            return;
        }
        let class = match status {
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.requests.with_label_values(&[kind, class]).inc();
    }

    /// Something failed.
    pub fn fault(&self, fault: &Fault) {
        self.faults.with_label_values(&[fault.cause.culprit().label(), fault.at.label(), fault.cause.label()]).inc();
    }

    /// How often a cause struck at a stage so far.
    pub fn faults(&self, at: At, cause: Cause) -> u64 {
        self.faults.with_label_values(&[cause.culprit().label(), at.label(), cause.label()]).get()
    }

    /// A tunnel was closed.
    pub fn closed(&self, cause: &str) {
        if cause == "finished" {
            self.finished.inc();
            return;
        }
        self.closed.with_label_values(&[cause]).inc();
    }

    /// Bytes were relayed to the upstream.
    pub fn bytes_up(&self, moved: Moved) {
        add(&self.bytes_up, moved);
    }

    /// Bytes were relayed to the client.
    pub fn bytes_down(&self, moved: Moved) {
        add(&self.bytes_down, moved);
    }

    /// A warm connection was thrown away.
    pub fn warm_discarded(&self, cause: Discarded) {
        let position = Discarded::ALL.iter().position(|(known, _)| *known == cause);
        if let Some(counter) = position.and_then(|index| self.warm_discarded.get(index)) {
            counter.inc();
        }
    }

    /// The guard has changed its state.
    pub fn guard_changed(&self, state: GuardState) {
        for (known, gauge) in GuardState::ALL.iter().zip(&self.guard_state) {
            gauge.set(i64::from(*known == state));
        }
    }

    /// The histogram of a shard's turns.
    pub fn turns_of_shard(&self, shard: usize) -> Histogram {
        self.turns.with_label_values(&[&shard.to_string()])
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// When a family breaks the format, which is a mistake of the program.
    pub fn encode(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(32 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn build_info(make: &Maker) -> prometheus::Result<()> {
    let options = Opts::new("ntlm_gateway_build_info", "Always 1; the labels tell the version")
        .const_label("version", env!("CARGO_PKG_VERSION"));
    make.keep(Gauge::with_opts(options))?.set(1.0);
    make.0.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
}

#[allow(clippy::cast_precision_loss, reason = "durations in µs are far below 2^52")]
fn observe(histograms: &[Histogram], index: Option<usize>, duration_us: u64) {
    if let Some(histogram) = index.and_then(|index| histograms.get(index)) {
        histogram.observe(duration_us as f64 / 1e6);
    }
}

/// Most steps move bytes one way and by one means; the other counters are left in peace.
fn add(counters: &[IntCounter; 2], moved: Moved) {
    for (counter, bytes) in counters.iter().zip([moved.copied, moved.spliced]) {
        if bytes > 0 {
            counter.inc_by(bytes);
        }
    }
}
