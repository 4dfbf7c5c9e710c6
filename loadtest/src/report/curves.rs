//! Percentile curves: how long the slowest took, one line per candidate.

use std::fmt::Write;

use super::escape;
use crate::compare::table::number;
use crate::results::Latency;

/// One line, which merges its rounds.
pub struct Line<'a> {
    pub name: &'a str,
    pub colour: &'static str,
    pub rounds: Vec<&'a Latency>,
}

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 410.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 240.0;
/// Marks of the axis, spaced by the logarithm of the remaining fraction.
const MARKS: [(f64, &str); 6] =
    [(0.0, "0"), (50.0, "50"), (90.0, "90"), (99.0, "99"), (99.9, "99.9"), (99.99, "99.99")];
/// Points of a line between two marks.
const POINTS: u32 = 8;
/// Least distance between two names at the ends of lines.
const LABEL_ROW: f64 = 14.0;

/// The chart as SVG; empty if there is nothing to show.
pub fn curves(lines: &[Line<'_>]) -> String {
    let drawn: Vec<(usize, Vec<(f64, f64)>)> = lines
        .iter()
        .enumerate()
        .map(|(place, line)| (place, points(line)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let values = || drawn.iter().flat_map(|(_, points)| points.iter().map(|(_, us)| *us));
    let least = values().fold(f64::INFINITY, f64::min).max(0.1);
    let greatest = values().fold(0.0, f64::max);
    if greatest <= 0.0 {
        return String::new();
    }
    let (low, high) = (decade_below(least), decade_above(greatest));
    let y = |us: f64| BOTTOM - (us.max(low).log10() - low.log10()) / (high.log10() - low.log10()) * (BOTTOM - TOP);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    grid(&mut svg, low, high, &y);
    let mut labels = Vec::new();
    for (place, points) in &drawn {
        let Some(line) = lines.get(*place) else { continue };
        let path: String = points
            .iter()
            .enumerate()
            .map(|(number, (x, us))| format!("{}{x:.1} {:.1}", if number == 0 { "M" } else { "L" }, y(*us)))
            .collect();
        let _ = write!(svg, "<path d=\"{path}\" class=\"line\" stroke=\"{}\"/>", line.colour);
        if let Some((x, us)) = points.last() {
            labels.push((y(*us), *x, line));
        }
    }
    names(&mut svg, labels);
    svg.push_str("</svg>");
    svg
}

/// The position of a percentile on the axis: each further nine is one step.
fn x_of(percentile: f64) -> f64 {
    let last = MARKS.last().map_or(99.99, |(percentile, _)| *percentile);
    let steps = |percentile: f64| -((100.0 - percentile) / 100.0).log10();
    LEFT + steps(percentile.min(last)) / steps(last) * (RIGHT - LEFT)
}

/// The points of a line: at each percentile the median of the rounds, as far as the sample is large enough.
fn points(line: &Line<'_>) -> Vec<(f64, f64)> {
    let count = line.rounds.iter().map(|latency| latency.count).max().unwrap_or(0);
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let furthest = 100.0 - 100.0 / (count.max(1) as f64);
    let pairs = MARKS.iter().zip(MARKS.iter().skip(1));
    let steps = pairs.flat_map(|((from, _), (to, _))| {
        let (from, to) = (x_of(*from), x_of(*to));
        (0..POINTS).map(move |step| from + (to - from) * f64::from(step) / f64::from(POINTS))
    });
    let xs = steps.chain([RIGHT]).map(|x| (x, percentile_at(x)));
    xs.take_while(|(_, percentile)| *percentile <= furthest + 1e-9)
        .filter_map(|(x, percentile)| {
            let mut values: Vec<f64> = line.rounds.iter().filter_map(|latency| value_at(latency, percentile)).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).map(|us| (x, *us))
        })
        .collect()
}

/// The inverse of [`x_of`].
fn percentile_at(x: f64) -> f64 {
    let last = MARKS.last().map_or(99.99, |(percentile, _)| *percentile);
    let steps = -((100.0 - last) / 100.0).log10() * (x - LEFT) / (RIGHT - LEFT);
    100.0 - 100.0 * 10f64.powf(-steps)
}

/// The value of a latency's curve at a percentile, interpolated linearly.
fn value_at(latency: &Latency, percentile: f64) -> Option<f64> {
    let after = latency.curve.iter().position(|[at, _]| *at >= percentile).unwrap_or(latency.curve.len() - 1);
    let [to, high] = *latency.curve.get(after)?;
    let [from, low] = after.checked_sub(1).and_then(|before| latency.curve.get(before)).copied().unwrap_or([to, high]);
    let part = if to > from { ((percentile - from) / (to - from)).clamp(0.0, 1.0) } else { 1.0 };
    Some(low + (high - low) * part)
}

fn decade_below(us: f64) -> f64 {
    10f64.powf(us.log10().floor())
}

fn decade_above(us: f64) -> f64 {
    10f64.powf((us.log10() + 1e-9).ceil()).max(decade_below(us) * 10.0)
}

fn grid(svg: &mut String, low: f64, high: f64, y: &dyn Fn(f64) -> f64) {
    let mut us = low;
    while us <= high * 1.01 {
        let place = y(us);
        let _ = write!(
            svg,
            "<path d=\"M{LEFT} {place:.1}H{RIGHT}\" class=\"grid\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" \
             class=\"axis\">{}</text>",
            LEFT - 6.0,
            place + 4.0,
            duration(us)
        );
        us *= 10.0;
    }
    for (percentile, label) in MARKS {
        let x = x_of(percentile);
        let _ = write!(
            svg,
            "<path d=\"M{x:.1} {TOP}V{BOTTOM}\" class=\"grid\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" \
             class=\"axis\">{label}</text>",
            BOTTOM + 16.0
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" class=\"axis\">percentile</text>",
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 34.0
    );
}

/// Names at the ends of their lines, moved apart if they would overlap.
fn names(svg: &mut String, mut labels: Vec<(f64, f64, &Line<'_>)>) {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = 0.0f64;
    for (wanted, x, line) in labels {
        let place = wanted.max(free);
        free = place + LABEL_ROW;
        let _ = write!(
            svg,
            "<path d=\"M{x:.1} {wanted:.1}L{} {place:.1}\" class=\"leader\" stroke=\"{}\"/><text x=\"{}\" y=\"{:.1}\" \
             fill=\"{}\">{}</text>",
            RIGHT + 6.0,
            line.colour,
            RIGHT + 9.0,
            place + 4.0,
            line.colour,
            escape(line.name)
        );
    }
}

/// A duration in a suitable unit.
pub fn duration(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{} µs", number(us)),
        us if us < 1e6 => format!("{} ms", number(us / 1e3)),
        us => format!("{} s", number(us / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nine_takes_the_same_width_of_the_axis() {
        let step = x_of(99.0) - x_of(90.0);
        assert!((x_of(99.9) - x_of(99.0) - step).abs() < 1e-6);
        assert!((percentile_at(x_of(97.5)) - 97.5).abs() < 1e-6);
    }

    #[test]
    fn a_line_ends_where_the_sample_is_too_small() {
        let latency = |count| Latency {
            count,
            mean_us: 5.0,
            min_us: 1.0,
            p50_us: 5.0,
            p90_us: 9.0,
            p99_us: 9.9,
            p999_us: 10.0,
            max_us: 10.0,
            curve: vec![[0.0, 1.0], [50.0, 5.0], [90.0, 9.0], [100.0, 10.0]],
        };
        let (few, many) = (latency(10), latency(1_000_000));
        let line = |latency| Line { name: "x", colour: "#000", rounds: vec![latency] };
        let end = |latency| points(&line(latency)).last().map(|(x, _)| *x).unwrap();
        assert!((end(&few) - x_of(90.0)).abs() < 1.0);
        assert!((end(&many) - RIGHT).abs() < 1.0);
        assert!(!curves(&[line(&many)]).contains("NaN"));
    }
}
