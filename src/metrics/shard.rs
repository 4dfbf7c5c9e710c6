//! What every turn of an event loop counts: bytes and durations.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::Result;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::Maker;
use crate::relay::Moved;

/// Histogram buckets for the duration of a turn.
const TURN_BUCKETS_NS: [u64; 9] =
    [100_000, 500_000, 1_000_000, 5_000_000, 10_000_000, 50_000_000, 100_000_000, 500_000_000, 1_000_000_000];

/// What one shard counts, in cache lines of its own. Only the shard writes, so that a count is read and written without
/// the locked instruction that an addition to a shared one takes.
#[derive(Default)]
#[repr(align(128))]
pub struct ShardCounts {
    number: usize,
    up: Bytes,
    down: Bytes,
    /// Turns by their duration; the last are longer than all buckets.
    turns: [AtomicU64; TURN_BUCKETS_NS.len() + 1],
    turns_ns: AtomicU64,
}

#[derive(Default)]
struct Bytes {
    copied: AtomicU64,
    spliced: AtomicU64,
}

impl ShardCounts {
    /// Counts bytes forwarded to the upstream.
    #[inline]
    pub fn bytes_up(&self, moved: Moved) {
        self.up.add(moved);
    }

    /// Counts bytes forwarded to the client.
    #[inline]
    pub fn bytes_down(&self, moved: Moved) {
        self.down.add(moved);
    }

    /// Counts a turn of the loop.
    #[inline]
    pub fn turn_took(&self, ns: u64) {
        let bucket = TURN_BUCKETS_NS.iter().position(|most| ns <= *most).unwrap_or(TURN_BUCKETS_NS.len());
        add(&self.turns[bucket], 1);
        add(&self.turns_ns, ns);
    }

    fn histogram(&self) -> Histogram {
        let turns = self.turns.each_ref().map(read);
        let mut sum = 0;
        let buckets = TURN_BUCKETS_NS.iter().zip(turns).map(|(most, turns)| {
            sum += turns;
            let mut bucket = Bucket::default();
            bucket.set_cumulative_count(sum);
            bucket.set_upper_bound(seconds(*most));
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(turns.iter().sum());
        histogram.set_sample_sum(seconds(read(&self.turns_ns)));
        histogram
    }
}

impl Bytes {
    /// Skips zeros: most turns either copy or splice.
    #[inline]
    fn add(&self, moved: Moved) {
        for (count, bytes) in [(&self.copied, moved.copied), (&self.spliced, moved.spliced)] {
            if bytes > 0 {
                add(count, bytes);
            }
        }
    }
}

/// Adds to a count that no other thread writes.
#[inline]
fn add(count: &AtomicU64, more: u64) {
    count.store(read(count).wrapping_add(more), Ordering::Relaxed);
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

#[allow(clippy::cast_precision_loss, reason = "exact up to 104 days")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The families of these counts.
#[derive(Clone)]
pub(super) struct ShardFamilies {
    bytes: Desc,
    turns: Desc,
    shards: Arc<Mutex<Vec<Arc<ShardCounts>>>>,
}

impl ShardFamilies {
    pub(super) fn new(make: &Maker) -> Result<ShardFamilies> {
        let describe = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(format!("ntlm_gateway_{name}"), help.to_owned(), labels, HashMap::new())
        };
        make.keep(Ok(ShardFamilies {
            bytes: describe(
                "bytes_total",
                "Bytes forwarded in tunnels and plain HTTP, by direction (up: to the upstream) and way (splice, copy)",
                &["direction", "way"],
            )?,
            turns: describe(
                "loop_turn_duration_seconds",
                "How long an event loop was busy in one turn: the longest that an event waits",
                &["shard"],
            )?,
            shards: Arc::default(),
        }))
    }

    /// Counts for the shard of this number, which must be the only one that has them.
    pub(super) fn of(&self, number: usize) -> Arc<ShardCounts> {
        let counts = Arc::new(ShardCounts { number, ..ShardCounts::default() });
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&counts));
        counts
    }
}

impl Collector for ShardFamilies {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.bytes, &self.turns]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = [("up", "copy"), ("up", "splice"), ("down", "copy"), ("down", "splice")].map(|(direction, way)| {
            let count = |counts: &ShardCounts| {
                let bytes = if direction == "up" { &counts.up } else { &counts.down };
                read(if way == "copy" { &bytes.copied } else { &bytes.spliced })
            };
            let mut counter = Counter::default();
            #[allow(clippy::cast_precision_loss, reason = "as the library's own counters do it")]
            counter.set_value(shards.iter().map(|counts| count(counts)).sum::<u64>() as f64);
            let mut metric = Metric::from_label(vec![label("direction", direction), label("way", way)]);
            metric.set_counter(counter);
            metric
        });
        let turns = shards.iter().map(|counts| {
            let mut metric = Metric::from_label(vec![label("shard", &counts.number.to_string())]);
            metric.set_histogram(counts.histogram());
            metric
        });
        vec![
            family(&self.bytes, MetricType::COUNTER, bytes.into()),
            family(&self.turns, MetricType::HISTOGRAM, turns.collect()),
        ]
    }
}

fn family(desc: &Desc, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(desc.fq_name.clone());
    family.set_help(desc.help.clone());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn the_bytes_of_all_shards_are_added_up_and_their_turns_are_not() {
        let metrics = Metrics::new().unwrap();
        let shards = [metrics.shard(0), metrics.shard(1)];
        for (shard, copied) in shards.iter().zip([3, 4]) {
            shard.bytes_up(Moved { copied, spliced: 0 });
            shard.bytes_down(Moved { copied: 0, spliced: 100 });
            shard.bytes_down(Moved { copied: 1, spliced: 1 });
        }
        for ns in [0, 100_000, 100_001, 30_000_000, 2_000_000_000] {
            shards[1].turn_took(ns);
        }
        let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
        let expected = "\
# TYPE ntlm_gateway_bytes_total counter
ntlm_gateway_bytes_total{direction=\"down\",way=\"copy\"} 2
ntlm_gateway_bytes_total{direction=\"down\",way=\"splice\"} 202
ntlm_gateway_bytes_total{direction=\"up\",way=\"copy\"} 7
ntlm_gateway_bytes_total{direction=\"up\",way=\"splice\"} 0
# TYPE ntlm_gateway_loop_turn_duration_seconds histogram
ntlm_gateway_loop_turn_duration_seconds_count{shard=\"0\"} 0
ntlm_gateway_loop_turn_duration_seconds_bucket{shard=\"1\",le=\"0.0001\"} 2
ntlm_gateway_loop_turn_duration_seconds_bucket{shard=\"1\",le=\"0.0005\"} 3
ntlm_gateway_loop_turn_duration_seconds_bucket{shard=\"1\",le=\"0.01\"} 3
ntlm_gateway_loop_turn_duration_seconds_bucket{shard=\"1\",le=\"0.05\"} 4
ntlm_gateway_loop_turn_duration_seconds_bucket{shard=\"1\",le=\"1\"} 4
ntlm_gateway_loop_turn_duration_seconds_bucket{shard=\"1\",le=\"+Inf\"} 5
ntlm_gateway_loop_turn_duration_seconds_sum{shard=\"1\"} 2.030200001
ntlm_gateway_loop_turn_duration_seconds_count{shard=\"1\"} 5";
        for line in expected.lines() {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
