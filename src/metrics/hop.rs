//! The metrics of upstreams, and of each upstream with each identity.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::Maker;

/// Histogram buckets for handshakes: from a proxy in the same rack to one that waits for its domain controller.
const HANDSHAKE_BUCKETS_SECONDS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 75.0];

/// Why an upstream answered 407.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason407 {
    /// To a request without credentials, or to a NEGOTIATE_MESSAGE that it ignored.
    Unprompted,
    /// With a CHALLENGE_MESSAGE, as expected.
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

/// A part of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakePhase {
    /// Waiting for the upstream's addresses.
    Resolve,
    /// Establishing the TCP connection.
    Connect,
    /// The TLS handshake.
    Tls,
    /// From the NEGOTIATE_MESSAGE to the complete CHALLENGE_MESSAGE, including further connections.
    Challenge,
    /// Waiting for the credential guard.
    Guard,
    /// From the AUTHENTICATE_MESSAGE to its response, including the upstream's connection to the origin.
    Authenticate,
}

impl HandshakePhase {
    const ALL: [(HandshakePhase, &'static str); 6] = [
        (HandshakePhase::Resolve, "resolve"),
        (HandshakePhase::Connect, "connect"),
        (HandshakePhase::Tls, "tls"),
        (HandshakePhase::Challenge, "challenge"),
        (HandshakePhase::Guard, "guard"),
        (HandshakePhase::Authenticate, "authenticate"),
    ];
}

/// Why a pre-challenged connection was discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// It was not used in time.
    Aged,
    /// The upstream closed it, or failed to send a challenge.
    Failed,
    /// Clients were waiting for a challenge, possibly for the helper that this connection occupied.
    Yielded,
    /// The configuration or the state of the credentials has changed.
    Outdated,
}

impl Discarded {
    /// All causes with their labels.
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
    /// Established for the request.
    Cold,
    /// Pre-challenged.
    Warm,
    /// Authenticated for an earlier request.
    Kept,
}

impl Path {
    const ALL: [(Path, &'static str); 3] = [(Path::Cold, "cold"), (Path::Warm, "warm"), (Path::Kept, "kept")];

    /// The metric label.
    pub fn label(self) -> &'static str {
        Path::ALL.iter().find(|(path, _)| *path == self).map_or("", |(_, label)| label)
    }
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// With a tunnel.
    Established,
    /// The upstream accepted the credentials and declined the request (403, 503 …).
    Declined,
    /// The upstream refused the credentials.
    Refused,
    /// A fault.
    Failed,
}

impl HandshakeOutcome {
    const ALL: [(HandshakeOutcome, &'static str); 4] = [
        (HandshakeOutcome::Established, "established"),
        (HandshakeOutcome::Declined, "declined"),
        (HandshakeOutcome::Refused, "refused"),
        (HandshakeOutcome::Failed, "failed"),
    ];
}

/// The metrics of one upstream with one identity.
#[derive(Clone, Debug)]
pub struct HopMetrics {
    /// By [`Path`].
    handshakes: [Vec<Histogram>; 3],
    requests: [IntCounter; 3],
    phases: Vec<Histogram>,
    reasons_407: Vec<IntCounter>,
    warm_discarded: Vec<IntCounter>,
    /// Connection attempts.
    pub dials: IntCounter,
    /// AUTHENTICATE_MESSAGEs sent.
    pub authenticates: IntCounter,
    /// Pre-challenged connections that have their challenge.
    pub warm_ready: IntGauge,
    /// Pre-challenged connections that the present demand calls for.
    pub warm_wanted: IntGauge,
    /// Authenticated connections that wait for their next request.
    pub kept: IntGauge,
    /// Requests that got a pre-challenged connection.
    pub warm_hits: IntCounter,
    /// Requests that could have used one, but none was available.
    pub warm_misses: IntCounter,
}

impl HopMetrics {
    /// Counts a finished handshake.
    pub fn handshake(&self, path: Path, outcome: HandshakeOutcome, duration_us: u64) {
        let [cold, warm, kept] = &self.handshakes;
        let histograms = match path {
            Path::Cold => cold,
            Path::Warm => warm,
            Path::Kept => kept,
        };
        observe(histograms, HandshakeOutcome::ALL.iter().position(|(known, _)| *known == outcome), duration_us);
    }

    /// How many handshakes have ended so.
    #[cfg(test)]
    pub fn ended(&self, outcome: HandshakeOutcome) -> u64 {
        let place = HandshakeOutcome::ALL.iter().position(|(known, _)| *known == outcome);
        let of_path = |histograms: &Vec<Histogram>| place.map_or(0, |place| histograms[place].get_sample_count());
        self.handshakes.iter().map(of_path).sum()
    }

    /// Counts a request by the source of its connection.
    pub fn request(&self, path: Path) {
        if let Some((_, counter)) = Path::ALL.iter().zip(&self.requests).find(|((known, _), _)| *known == path) {
            counter.inc();
        }
    }

    /// Counts a finished phase of a handshake.
    pub fn phase(&self, phase: HandshakePhase, duration_us: u64) {
        observe(&self.phases, HandshakePhase::ALL.iter().position(|(known, _)| *known == phase), duration_us);
    }

    /// Counts responses with status 407.
    pub fn answered_407(&self, reason: Reason407, times: u64) {
        if let Some((_, counter)) =
            Reason407::ALL.iter().zip(&self.reasons_407).find(|((known, _), _)| *known == reason)
        {
            counter.inc_by(times);
        }
    }

    /// Counts a discarded pre-challenged connection.
    pub fn warm_discarded(&self, cause: Discarded) {
        let position = Discarded::ALL.iter().position(|(known, _)| *known == cause);
        if let Some(counter) = position.and_then(|index| self.warm_discarded.get(index)) {
            counter.inc();
        }
    }
}

/// The metrics of one upstream.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    /// 1 while clients are sent to it, 0 while it is ejected.
    pub up: IntGauge,
    /// Ejections.
    pub ejections: IntCounter,
    /// Clients that are connected, or connecting, through it.
    pub tunnels: IntGauge,
    /// Resolved addresses.
    pub addresses: IntGauge,
    /// TLS handshakes: with a new session, with a resumed one.
    tls_handshakes: [IntCounter; 2],
}

impl UpstreamMetrics {
    /// Counts a TLS handshake that is complete.
    pub fn secured(&self, is_resumed: bool) {
        let [new, resumed] = &self.tls_handshakes;
        if is_resumed { resumed.inc() } else { new.inc() }
    }
}

pub(super) struct HopFamilies {
    handshakes: HistogramVec,
    phases: HistogramVec,
    reasons_407: IntCounterVec,
    dials: IntCounterVec,
    authenticates: IntCounterVec,
    warm_ready: IntGaugeVec,
    warm_wanted: IntGaugeVec,
    kept: IntGaugeVec,
    requests: IntCounterVec,
    warm_hits: IntCounterVec,
    warm_misses: IntCounterVec,
    warm_discarded: IntCounterVec,
}

impl HopFamilies {
    pub(super) fn new(make: &Maker) -> prometheus::Result<HopFamilies> {
        const HOP: [&str; 2] = ["upstream", "identity"];
        Ok(HopFamilies {
            handshakes: make.histograms(
                "handshake_duration_seconds",
                "Time from the first dial to the upstream's answer to the request",
                &["upstream", "identity", "path", "outcome"],
                HANDSHAKE_BUCKETS_SECONDS,
            )?,
            phases: make.histograms(
                "handshake_phase_duration_seconds",
                "Duration of each phase of a handshake: resolve, connect, tls, challenge, guard, authenticate",
                &["upstream", "identity", "phase"],
                HANDSHAKE_BUCKETS_SECONDS,
            )?,
            reasons_407: make.counters(
                "407_total",
                "407 responses from the upstream, by reason: unprompted, challenge, refused, rechallenge",
                &["upstream", "identity", "reason"],
            )?,
            dials: make.counters("dials_total", "Connections opened to the upstream", &HOP)?,
            authenticates: make.counters("authenticate_messages_total", "AUTHENTICATE_MESSAGEs sent", &HOP)?,
            warm_ready: make.gauges(
                "warm_connections",
                "Upstream connections that are pre-challenged and wait for a request",
                &HOP,
            )?,
            warm_wanted: make.gauges(
                "warm_wanted_connections",
                "Pre-challenged connections that the present demand calls for",
                &HOP,
            )?,
            kept: make.gauges(
                "kept_connections",
                "Authenticated upstream connections that wait for their next request",
                &HOP,
            )?,
            requests: make.counters(
                "upstream_requests_total",
                "Requests sent to the upstream, by the connection they used (cold, warm, kept)",
                &["upstream", "identity", "connection"],
            )?,
            warm_hits: make.counters("warm_hits_total", "Requests that found a pre-challenged connection", &HOP)?,
            warm_misses: make.counters(
                "warm_misses_total",
                "Requests that could have used a pre-challenged connection and found none",
                &HOP,
            )?,
            warm_discarded: make.counters(
                "warm_discarded_total",
                "Pre-challenged connections closed unused, by cause (aged, failed, yielded, outdated)",
                &["upstream", "identity", "cause"],
            )?,
        })
    }

    pub(super) fn of(&self, upstream: &str, identity: &str) -> HopMetrics {
        let hop = [upstream, identity];
        let with = |label| [upstream, identity, label];
        let outcomes = |path: &str| -> Vec<Histogram> {
            let of = |label| self.handshakes.with_label_values(&[upstream, identity, path, label]);
            HandshakeOutcome::ALL.map(|(_, label)| of(label)).into()
        };
        HopMetrics {
            handshakes: Path::ALL.map(|(_, label)| outcomes(label)),
            requests: Path::ALL.map(|(_, label)| self.requests.with_label_values(&with(label))),
            kept: self.kept.with_label_values(&hop),
            phases: HandshakePhase::ALL.map(|(_, label)| self.phases.with_label_values(&with(label))).into(),
            reasons_407: Reason407::ALL.map(|(_, label)| self.reasons_407.with_label_values(&with(label))).into(),
            warm_discarded: Discarded::ALL.map(|(_, label)| self.warm_discarded.with_label_values(&with(label))).into(),
            dials: self.dials.with_label_values(&hop),
            authenticates: self.authenticates.with_label_values(&hop),
            warm_ready: self.warm_ready.with_label_values(&hop),
            warm_wanted: self.warm_wanted.with_label_values(&hop),
            warm_hits: self.warm_hits.with_label_values(&hop),
            warm_misses: self.warm_misses.with_label_values(&hop),
        }
    }
}

pub(super) struct UpstreamFamilies {
    up: IntGaugeVec,
    ejections: IntCounterVec,
    tunnels: IntGaugeVec,
    addresses: IntGaugeVec,
    tls_handshakes: IntCounterVec,
}

impl UpstreamFamilies {
    pub(super) fn new(make: &Maker) -> prometheus::Result<UpstreamFamilies> {
        const UPSTREAM: [&str; 1] = ["upstream"];
        Ok(UpstreamFamilies {
            up: make.gauges(
                "upstream_up",
                "1 while clients are sent to the upstream, 0 while it is ejected",
                &UPSTREAM,
            )?,
            ejections: make.counters("upstream_ejections_total", "Times that the upstream was ejected", &UPSTREAM)?,
            tunnels: make.gauges(
                "upstream_tunnels",
                "Clients whose requests or tunnels use the upstream at the moment",
                &UPSTREAM,
            )?,
            addresses: make.gauges(
                "upstream_addresses",
                "Addresses that the upstream's names resolve to",
                &UPSTREAM,
            )?,
            tls_handshakes: make.counters(
                "upstream_tls_handshakes_total",
                "TLS handshakes with the upstream, by session: new, resumed",
                &["upstream", "session"],
            )?,
        })
    }

    pub(super) fn forget(&self, name: &str) {
        for gauges in [&self.up, &self.addresses] {
            // It may not exist.
            let _ = gauges.remove_label_values(&[name]);
        }
    }

    pub(super) fn of(&self, name: &str) -> UpstreamMetrics {
        let label = [name];
        UpstreamMetrics {
            up: self.up.with_label_values(&label),
            ejections: self.ejections.with_label_values(&label),
            tunnels: self.tunnels.with_label_values(&label),
            addresses: self.addresses.with_label_values(&label),
            tls_handshakes: ["new", "resumed"].map(|session| self.tls_handshakes.with_label_values(&[name, session])),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "durations in µs are far below 2^52")]
fn observe(histograms: &[Histogram], index: Option<usize>, duration_us: u64) {
    if let Some(histogram) = index.and_then(|index| histograms.get(index)) {
        histogram.observe(duration_us as f64 / 1e6);
    }
}
