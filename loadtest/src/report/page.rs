//! The page: its sections and style.

use std::fmt::Write;

use ntlm_gateway::calendar;

use super::bars::{Bar, bars};
use super::captions::{ABOUT_CPU, AT_A_GLANCE, HOW_TO_READ, explain};
use super::costs::{Cost, write_costs};
use super::curves::{Line, curves, duration};
use super::{Input, colour, escape};
use crate::compare::figures::{Better, Cell, Figure};
use crate::compare::table::number;
use crate::compare::{Comparison, Section};
use crate::results::RunResults;

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, 'DejaVu Sans', sans-serif; color: #1c1c1c; background: #fff; margin: 0 auto; max-width: 1120px;
  padding: 24px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 36px 0 4px; border-top: 1px solid #ddd;
  padding-top: 20px; } h3 { font-size: 14px; margin: 12px 0 2px; }
p { max-width: 78ch; margin: 6px 0; } .quiet { color: #5a5a5a; } .title { font-weight: 600; }
table { border-collapse: collapse; margin: 12px 0; width: 100%; } th, td { padding: 5px 10px; text-align: right;
  border-bottom: 1px solid #e4e4e4; vertical-align: top; white-space: nowrap; } th:first-child, td:first-child { text-align: left;
  white-space: normal; } td small { display: block; color: #5a5a5a; } td .good { color: #00694d; } td .bad { color: #a83c00; }
.base { background: #f4f4f4; }
.charts { columns: 2; column-gap: 32px; } .charts > div { break-inside: avoid; padding: 8px 0 2px; } .charts h3 { margin-top: 0; }
@media (max-width: 900px) { .charts { columns: 1; } }
svg { width: 100%; height: auto; display: block; font: 12px system-ui, 'DejaVu Sans', sans-serif; }
svg .ratio, svg .axis { fill: #5a5a5a; font-size: 11px; } svg .grid { stroke: #e4e4e4; fill: none; }
svg .line { fill: none; stroke-width: 2; } svg .leader { fill: none; stroke-width: .7; }
svg .spread { stroke: #1c1c1c; stroke-width: 1; fill: none; }
.key span { display: inline-block; margin-right: 18px; } .key i { display: inline-block; width: 11px; height: 11px;
  margin-right: 6px; } dt { font-weight: 600; float: left; clear: left; min-width: 140px; } dd { margin: 0 0 2px 150px; }
.note { background: #fff6e5; border-left: 3px solid #e69f00; padding: 6px 12px; margin: 8px 0; }
";

/// The whole page.
pub fn page(inputs: &[Input], costs: &[Cost]) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>ntlm-gateway load tests</title><style>{STYLE}</style></head><body>"
    );
    for input in inputs {
        match input {
            Input::Comparison(comparison) => write_comparison(&mut out, comparison),
            Input::Run { file, outcome } => write_run(&mut out, file, outcome),
        }
    }
    if !costs.is_empty() {
        write_costs(&mut out, costs);
    }
    out.push_str("</body></html>\n");
    out
}

// Writing to a String cannot fail, so the results of write! are dropped throughout.

fn write_comparison(out: &mut String, comparison: &Comparison) {
    let Comparison { machine, rounds, shards, base, started_unix_s, version, .. } = comparison;
    let _ = write!(
        out,
        "<h1>Proxies side by side</h1><p class=\"quiet\">{}, {} rounds, {} thread(s) per candidate; {} CPUs ({}), Linux {}; \
         harness {}. Everything ran on this machine, over the loopback.</p>",
        date(*started_unix_s),
        rounds,
        shards,
        machine.cpus,
        escape(&machine.model),
        escape(&machine.kernel),
        escape(version)
    );
    out.push_str("<dl>");
    for candidate in &comparison.candidates {
        let mark = if candidate.name == *base { " (the base of all ratios)" } else { "" };
        let _ = write!(out, "<dt>{}</dt><dd>{}{mark}</dd>", escape(&candidate.name), escape(&candidate.what));
    }
    for missing in &comparison.left_out {
        let _ = write!(
            out,
            "<dt>{}</dt><dd class=\"quiet\">left out: {}</dd>",
            escape(&missing.name),
            escape(&missing.what)
        );
    }
    out.push_str("</dl>");
    write_summary_table(out, comparison);
    let _ = write!(out, "<h3>How to read this</h3><p>{HOW_TO_READ}</p><p>{ABOUT_CPU}</p>");
    if !comparison.faults.is_empty() {
        out.push_str("<div class=\"note\"><b>Faults of the gateway in these measurements</b><br>");
        for fault in &comparison.faults {
            let _ = write!(out, "{}<br>", escape(fault));
        }
        out.push_str("</div>");
    }
    for part in &comparison.sections {
        section(out, comparison, part);
    }
}

/// The table at the top.
fn write_summary_table(out: &mut String, comparison: &Comparison) {
    let rows: Vec<(&str, &Figure)> = AT_A_GLANCE
        .iter()
        .filter_map(|(part, key, caption)| {
            let section = comparison.sections.iter().find(|section| section.name == *part)?;
            Some((*caption, section.figures.iter().find(|figure| figure.key == *key)?))
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    out.push_str("<h2>At a glance</h2><table><tr><th></th>");
    for candidate in &comparison.candidates {
        let _ = write!(out, "<th>{}</th>", escape(&candidate.name));
    }
    out.push_str("</tr>");
    for (caption, figure) in rows {
        let better = if figure.better == Better::Lower { "lower is better" } else { "higher is better" };
        let _ = write!(out, "<tr><td>{caption} <span class=\"quiet\">[{}; {better}]</span></td>", escape(&figure.unit));
        for candidate in &comparison.candidates {
            let is_base = candidate.name == comparison.base;
            out.push_str(&summary_cell(figure.better, figure.cells.get(&candidate.name), is_base));
        }
        out.push_str("</tr>");
    }
    let _ = write!(
        out,
        "</table><p class=\"quiet\">Medians; below them the ratio to {}. “–”: not measurable without a process.</p>",
        escape(&comparison.base)
    );
}

fn summary_cell(better: Better, cell: Option<&Cell>, is_base: bool) -> String {
    let Some(cell) = cell else { return "<td>–</td>".to_owned() };
    let value = number(cell.median);
    match cell.ratio {
        _ if is_base => format!("<td class=\"base\">{value}<small>base</small></td>"),
        Some(ratio) => {
            let gain = if better == Better::Lower { 1.0 / ratio.of_medians } else { ratio.of_medians };
            let class = match gain {
                gain if gain >= 1.05 => "good",
                gain if gain <= 0.95 => "bad",
                _ => "",
            };
            format!("<td>{value}<small class=\"{class}\">×{}</small></td>", number(ratio.of_medians))
        }
        None => format!("<td>{value}</td>"),
    }
}

fn section(out: &mut String, comparison: &Comparison, part: &Section) {
    let _ = write!(
        out,
        "<h2>{}</h2><p class=\"title\">{}</p><p>{}</p>",
        escape(&part.name),
        escape(&part.title),
        explain(&part.name)
    );
    failures(out, part);
    out.push_str("<div class=\"charts\">");
    for (name, heading) in [
        ("ready", "Time to open a tunnel"),
        ("message", "Round trip of a message"),
        ("message_beside_bulk", "Round trip of a message beside a download"),
        ("request", "Time from a request to its complete answer"),
    ] {
        let wanted = match part.name.split([':', '-']).next() {
            Some("pingpong") => "message",
            Some("fairness") => "message_beside_bulk",
            Some("http") => "request",
            _ => "ready",
        };
        if name != wanted || part.name.starts_with("bulk") || part.name.starts_with("hold") {
            continue;
        }
        let lines: Vec<Line<'_>> = comparison
            .candidates
            .iter()
            .enumerate()
            .map(|(place, candidate)| {
                let own = part.measurements.iter().filter(|measurement| measurement.candidate == candidate.name);
                let rounds = own.filter_map(|measurement| measurement.outcome.latencies.get(name)).collect();
                Line { name: &candidate.name, colour: colour(place), rounds }
            })
            .collect();
        let _ = write!(out, "<div><h3>{heading}</h3>{}</div>", curves(&lines));
    }
    // The curve shows these percentiles already.
    let told_by_curve = |figure: &&Figure| !figure.key.ends_with("_p99") && figure.key != "failed";
    for figure in part.figures.iter().filter(told_by_curve) {
        chart(out, comparison, figure);
    }
    out.push_str("</div>");
}

fn chart(out: &mut String, comparison: &Comparison, figure: &Figure) {
    let rows: Vec<Bar<'_>> = comparison
        .candidates
        .iter()
        .enumerate()
        .filter_map(|(place, candidate)| {
            let cell = figure.cells.get(&candidate.name)?;
            let is_base = candidate.name == comparison.base;
            Some(Bar { name: &candidate.name, colour: colour(place), cell, is_base })
        })
        .collect();
    let better = if figure.better == Better::Lower { "lower is better" } else { "higher is better" };
    let _ = write!(
        out,
        "<div><h3>{} <span class=\"quiet\">({better})</span></h3>{}</div>",
        escape(&figure.title),
        bars(&rows, &figure.unit)
    );
}

/// Failures by candidate and kind, over all rounds.
fn failures(out: &mut String, part: &Section) {
    let mut kinds: Vec<(String, u64)> = Vec::new();
    for measurement in &part.measurements {
        for (kind, count) in &measurement.outcome.errors {
            let text = format!("{}: {kind}", measurement.candidate);
            match kinds.iter_mut().find(|(known, _)| *known == text) {
                Some((_, sum)) => *sum += count,
                None => kinds.push((text, *count)),
            }
        }
    }
    if kinds.is_empty() {
        return;
    }
    out.push_str("<div class=\"note\"><b>Failed tunnels or requests</b> (all rounds together)<br>");
    for (kind, count) in kinds {
        let _ = write!(out, "{} × {count}<br>", escape(&kind));
    }
    out.push_str("</div>");
}

fn write_run(out: &mut String, file: &str, outcome: &RunResults) {
    let tunnels = &outcome.tunnels;
    let _ = write!(
        out,
        "<h1>Run: {}</h1><p class=\"quiet\">{}; {:.1} s</p><p>{} tunnels begun, {} opened, {} completed, {} vanished on \
         purpose, <b>{} failed</b>; {} messages; {} bytes up, {} down ({} MiB/s). The client used {:.2} s of CPU.</p>",
        outcome.load.scenario.name(),
        escape(file),
        outcome.elapsed_s,
        tunnels.begun,
        tunnels.opened,
        tunnels.completed,
        tunnels.vanished,
        tunnels.failed,
        outcome.messages,
        outcome.bytes_up,
        outcome.bytes_down,
        number(outcome.mib_per_s()),
        outcome.client_cpu_s
    );
    if let (Some(requests), Some(rate)) = (&outcome.requests, outcome.requests_per_s()) {
        let _ = write!(
            out,
            "<p>Plain HTTP: “tunnels” are the client's connections. {} requests answered ({}/s), {} before and after",
            requests.answered,
            number(rate),
            requests.around
        );
        if let Some(count) = requests.authentications {
            let _ = write!(out, "; {count} authentications");
        }
        out.push_str(".</p>");
    }
    if let Some(cpu_s) = outcome.proxy_cpu_s {
        let _ = write!(out, "<p>The proxy used {cpu_s:.2} s of CPU.</p>");
    }
    for (kind, count) in &outcome.errors {
        let _ = write!(out, "<div class=\"note\">{} × {count}</div>", escape(kind));
    }
    let _ = write!(
        out,
        "<table><tr><th>Latency</th><th>count</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th></tr>"
    );
    for (name, latency) in &outcome.latencies {
        let _ = write!(out, "<tr><td>{}</td><td>{}</td>", escape(name), latency.count);
        for us in [latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us] {
            let _ = write!(out, "<td>{}</td>", duration(us));
        }
        out.push_str("</tr>");
    }
    let lines: Vec<Line<'_>> = outcome
        .latencies
        .iter()
        .enumerate()
        .map(|(place, (name, latency))| Line { name, colour: colour(place), rounds: vec![latency] })
        .collect();
    let _ = write!(out, "</table><div class=\"charts\"><div>{}</div></div>", curves(&lines));
    if !outcome.checks.is_empty() {
        out.push_str("<h3>The gateway's metrics compared with the client's counts</h3>");
        for check in &outcome.checks {
            let class = if check.holds { "quiet" } else { "note" };
            let _ = write!(out, "<div class=\"{class}\">{}</div>", escape(&check.to_string()));
        }
    }
}

/// Seconds since 1970 as a date in UTC.
fn date(unix_s: u64) -> String {
    let (year, month, day) = calendar::date(i64::try_from(unix_s / 86_400).unwrap_or_default());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", unix_s % 86_400 / 3600, unix_s % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_formatted_as_dates() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_700_000_000), "2023-11-14 22:13 UTC");
    }
}
