//! Turns measurements into figures: medians, spreads, and ratios to the base.
//!
//! Machines drift by tens of percent within an hour, so ratios are formed within each round. What is reported is the
//! ratio of the medians, with the least and the greatest ratio of any round.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::measure::Measurement;
use super::plan::{Item, ItemKind, LEG_MS};
use crate::results::Latency;
use crate::scenario::Scenario;

/// The latency of messages beside a bulk transfer.
const BESIDE: &str = "message_beside_bulk";
/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// One line of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    pub key: String,
    pub title: String,
    pub unit: String,
    pub better: Better,
    pub cells: BTreeMap<String, Cell>,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
}

/// The value of one candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
    /// Relative to the base; `None` if it was not measured.
    pub ratio: Option<Ratio>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Ratio of the medians.
    pub of_medians: f64,
    /// Least and greatest ratio of a round.
    pub least: f64,
    pub greatest: f64,
}

struct Kind {
    key: &'static str,
    title: &'static str,
    unit: &'static str,
    better: Better,
    value: fn(&Measurement) -> Option<f64>,
}

const fn lower(
    key: &'static str,
    title: &'static str,
    unit: &'static str,
    value: fn(&Measurement) -> Option<f64>,
) -> Kind {
    Kind { key, title, unit, better: Better::Lower, value }
}

const fn higher(
    key: &'static str,
    title: &'static str,
    unit: &'static str,
    value: fn(&Measurement) -> Option<f64>,
) -> Kind {
    Kind { key, title, unit, better: Better::Higher, value }
}

fn latency<'a>(m: &'a Measurement, name: &str) -> Option<&'a Latency> {
    m.outcome.latencies.get(name)
}

#[allow(clippy::cast_precision_loss, reason = "counts and bytes are far below 2^52")]
fn per(value: Option<f64>, count: u64) -> Option<f64> {
    (count > 0).then_some(value? / count as f64)
}

#[allow(clippy::cast_precision_loss, reason = "counts and bytes are far below 2^52")]
fn grown(before: Option<u64>, after: Option<u64>) -> Option<f64> {
    Some(after? as f64 - before? as f64)
}

const READY: [Kind; 3] = [
    lower("ready_p50", "CONNECT→200, p50", "µs", |m| Some(latency(m, "ready")?.p50_us)),
    lower("ready_p99", "CONNECT→200, p99", "µs", |m| Some(latency(m, "ready")?.p99_us)),
    lower("ready_p999", "CONNECT→200, p99.9", "µs", |m| Some(latency(m, "ready")?.p999_us)),
];
const CPU_PER_TUNNEL: Kind =
    lower("cpu_per_tunnel", "CPU per tunnel", "µs", |m| per(m.cpu_us, m.outcome.tunnels.completed));
const FAILED: Kind = lower("failed", "failed tunnels or requests", "", |m| Some(count(m.outcome.tunnels.failed)));
const THREADS: Kind = lower("threads", "threads", "", |m| Some(count(m.threads?)));

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn count(value: u64) -> f64 {
    value as f64
}

fn kinds(kind: ItemKind) -> Vec<Kind> {
    let rate = higher("tunnels_per_s", "tunnels per second", "/s", |m| Some(m.outcome.tunnels_per_s()));
    let mut kinds = match kind {
        ItemKind::Setup => std::iter::once(rate).chain(READY).chain([CPU_PER_TUNNEL]).collect(),
        ItemKind::Open => READY.into_iter().chain([CPU_PER_TUNNEL]).collect(),
        ItemKind::Legs => {
            let legs = lower("ready_legs", "CONNECT→200, p50, in round trips", "round trips", |m| {
                Some(latency(m, "ready")?.p50_us / 1000.0 / count(LEG_MS))
            });
            std::iter::once(legs).chain(READY).collect()
        }
        ItemKind::Pingpong => vec![
            higher("messages_per_s", "messages per second", "/s", |m| Some(m.outcome.messages_per_s())),
            lower("message_p50", "round trip, p50", "µs", |m| Some(latency(m, "message")?.p50_us)),
            lower("message_p99", "round trip, p99", "µs", |m| Some(latency(m, "message")?.p99_us)),
            lower("message_p999", "round trip, p99.9", "µs", |m| Some(latency(m, "message")?.p999_us)),
            lower("cpu_per_message", "CPU per message", "µs", |m| per(m.cpu_us, m.outcome.messages)),
        ],
        ItemKind::Fairness => vec![
            lower("message_p99", "round trip alone, p99", "µs", |m| Some(latency(m, "message")?.p99_us)),
            lower("beside_p99", "round trip beside a download, p99", "µs", |m| Some(latency(m, BESIDE)?.p99_us)),
            lower("beside_ratio", "p99 beside a download ÷ alone", "", |m| {
                let alone = Some(latency(m, "message")?.p99_us).filter(|p99_us| *p99_us > 0.0)?;
                Some(latency(m, BESIDE)?.p99_us / alone)
            }),
            lower("beside_p50_ratio", "p50 beside a download ÷ alone", "", |m| {
                let alone = Some(latency(m, "message")?.p50_us).filter(|p50_us| *p50_us > 0.0)?;
                Some(latency(m, BESIDE)?.p50_us / alone)
            }),
            // The messages come back as they were sent; the rest is the download, in half of the time.
            higher("download_mib_per_s", "throughput of the download", "MiB/s", |m| {
                let bytes = count(m.outcome.bytes_down.saturating_sub(m.outcome.bytes_up));
                (m.outcome.work_s > 0.0).then_some(2.0 * bytes / GIB * 1024.0 / m.outcome.work_s)
            }),
        ],
        ItemKind::Http => vec![
            higher("requests_per_s", "requests per second", "/s", |m| m.outcome.requests_per_s()),
            lower("cpu_per_request", "CPU per request", "µs", |m| per(m.cpu_us, m.outcome.requests?.answered)),
            higher("requests_per_cpu_s", "requests per second of CPU", "", |m| {
                let cpu_us = m.cpu_us.filter(|cpu_us| *cpu_us > 0.0)?;
                Some(count(m.outcome.requests?.answered) / cpu_us * 1e6)
            }),
            lower("request_p50", "request to complete answer, p50", "µs", |m| Some(latency(m, "request")?.p50_us)),
            lower("request_p99", "request to complete answer, p99", "µs", |m| Some(latency(m, "request")?.p99_us)),
            lower("request_p999", "request to complete answer, p99.9", "µs", |m| Some(latency(m, "request")?.p999_us)),
            lower("authentications", "authentications per 1,000 requests", "", |m| {
                Some(m.outcome.authentications_per_request()? * 1000.0)
            }),
            THREADS,
        ],
        ItemKind::Bulk => vec![
            higher("mib_per_s", "throughput", "MiB/s", |m| Some(m.outcome.mib_per_s())),
            lower("cpu_per_gib", "CPU per GiB", "ms", |m| {
                let bytes = count(m.outcome.bytes_up.max(m.outcome.bytes_down));
                (bytes > 0.0).then_some(m.cpu_us? / 1000.0 / (bytes / GIB))
            }),
        ],
        ItemKind::Hold => vec![
            lower("rss_per_tunnel", "RSS per idle tunnel", "bytes", |m| {
                per(grown(m.rss_before, m.rss_with_load), m.outcome.tunnels.opened)
            }),
            lower("kernel_per_tunnel", "kernel memory per idle tunnel, with both peers", "bytes", |m| {
                per(grown(Some(m.kernel_before), Some(m.kernel_with_load)), m.outcome.tunnels.opened)
            }),
            lower("idle_cpu", "CPU of one core while all are idle", "%", |m| {
                (m.outcome.work_s > 0.0).then_some(m.cpu_us? / 1e4 / m.outcome.work_s)
            }),
            lower("descriptors", "descriptors", "", |m| Some(count(m.descriptors?))),
            THREADS,
            higher("alive", "alive afterwards", "", |m| Some(count(m.outcome.tunnels.completed))),
        ],
    };
    kinds.push(FAILED);
    kinds
}

/// The figures of one item, relative to the candidate `base`.
pub fn figures(item: &Item, measurements: &[Measurement], base: &str) -> Vec<Figure> {
    let mut figures: Vec<Figure> =
        kinds(item.kind).into_iter().map(|kind| figure(&kind, kind.value, measurements, base)).collect();
    if item.load.scenario == Scenario::Hold {
        figures.extend(without_direct(measurements, base));
    }
    figures
}

fn figure(
    kind: &Kind,
    value: impl Fn(&Measurement) -> Option<f64>,
    measurements: &[Measurement],
    base: &str,
) -> Figure {
    // Candidate → round → value.
    let mut values: BTreeMap<&str, BTreeMap<usize, f64>> = BTreeMap::new();
    for measurement in measurements {
        if let Some(value) = value(measurement).filter(|value| value.is_finite()) {
            values.entry(&measurement.candidate).or_default().insert(measurement.round, value);
        }
    }
    let base = values.get(base).cloned().unwrap_or_default();
    let cells = values.iter().filter_map(|(name, rounds)| Some(((*name).to_owned(), cell(rounds, &base)?))).collect();
    Figure {
        key: kind.key.to_owned(),
        title: kind.title.to_owned(),
        unit: kind.unit.to_owned(),
        better: kind.better,
        cells,
    }
}

fn cell(rounds: &BTreeMap<usize, f64>, base: &BTreeMap<usize, f64>) -> Option<Cell> {
    let (least, greatest) = ends(rounds.values().copied())?;
    let median = median(rounds.values().copied())?;
    let pairs = rounds.iter().filter_map(|(round, value)| Some((*value, *base.get(round)?)));
    let ratios = pairs.filter(|(_, base)| *base > 0.0).map(|(value, base)| value / base);
    let ratio = ends(ratios).and_then(|(least, greatest)| {
        let base = self::median(base.values().copied()).filter(|base| *base > 0.0)?;
        Some(Ratio { of_medians: median / base, least, greatest })
    });
    Some(Cell { median, least, greatest, ratio })
}

/// Kernel memory without the client's and the stub's own sockets, which `direct` measures.
fn without_direct(measurements: &[Measurement], base: &str) -> Option<Figure> {
    let gross = |m: &Measurement| per(grown(Some(m.kernel_before), Some(m.kernel_with_load)), m.outcome.tunnels.opened);
    let direct = median(measurements.iter().filter(|m| m.candidate == "direct").filter_map(gross))?;
    let kind = lower("kernel_net_per_tunnel", "kernel memory per idle tunnel, without both peers", "bytes", |_| None);
    let others: Vec<Measurement> = measurements.iter().filter(|m| m.candidate != "direct").cloned().collect();
    Some(figure(&kind, |m| Some(gross(m)? - direct), &others, base))
}

fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |ends, value| match ends {
        None => Some((value, value)),
        Some((least, greatest)) => Some((f64::min(least, value), f64::max(greatest, value))),
    })
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 { Some(upper) } else { Some((values.get(middle - 1)? + upper) / 2.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_compares_medians_and_its_spread_compares_rounds() {
        let of = |values: &[f64]| values.iter().copied().enumerate().collect::<BTreeMap<_, _>>();
        let cell = cell(&of(&[10.0, 40.0, 30.0]), &of(&[10.0, 20.0, 30.0])).unwrap();
        assert_eq!((cell.median, cell.least, cell.greatest), (30.0, 10.0, 40.0));
        assert_eq!(cell.ratio, Some(Ratio { of_medians: 1.5, least: 1.0, greatest: 2.0 }));
    }

    #[test]
    fn a_round_without_a_base_has_no_ratio() {
        let cell = cell(&BTreeMap::from([(0, 5.0), (1, 6.0)]), &BTreeMap::from([(1, 3.0)])).unwrap();
        assert_eq!(cell.ratio.map(|ratio| (ratio.least, ratio.greatest)), Some((2.0, 2.0)));
        assert_eq!(super::cell(&BTreeMap::from([(0, 5.0)]), &BTreeMap::new()).unwrap().ratio, None);
    }

    #[test]
    fn the_median_of_an_even_count_is_the_mean_of_the_middle_two() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}
