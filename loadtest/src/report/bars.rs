//! Bar charts: one figure, one bar per candidate.

use std::fmt::Write;

use super::escape;
use crate::compare::figures::Cell;
use crate::compare::table::number;

/// One bar.
pub struct Bar<'a> {
    pub name: &'a str,
    pub colour: &'static str,
    pub cell: &'a Cell,
    pub is_base: bool,
}

const WIDTH: f64 = 520.0;
const ROW: f64 = 22.0;
/// Where bars start, and where the longest one ends; names are to the left, values to the right.
const LEFT: f64 = 112.0;
const RIGHT: f64 = 268.0;
/// A bar longer than this multiple of the middle one is cut.
const CUT_AT: f64 = 3.0;

/// The chart as SVG.
pub fn bars(rows: &[Bar<'_>], unit: &str) -> String {
    #[allow(clippy::cast_precision_loss, reason = "a handful of rows")]
    let height = rows.len() as f64 * ROW + 4.0;
    let full = full_length(rows);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
    for (place, row) in rows.iter().enumerate() {
        #[allow(clippy::cast_precision_loss, reason = "a handful of rows")]
        let top = place as f64 * ROW + 2.0;
        // Writing to a String cannot fail.
        let _ = write!(svg, "{}", bar(row, top, full, unit));
    }
    svg.push_str("</svg>");
    svg
}

/// The value at the right end: the greatest one that does not dwarf the others, and a bit more if another one does.
fn full_length(rows: &[Bar<'_>]) -> f64 {
    let mut medians: Vec<f64> = rows.iter().map(|row| row.cell.median.max(0.0)).collect();
    medians.sort_by(f64::total_cmp);
    let limit = medians.get(medians.len() / 2).map_or(0.0, |middle| middle * CUT_AT);
    let fitting = medians.iter().copied().filter(|median| *median <= limit).fold(0.0, f64::max);
    match medians.last() {
        Some(greatest) if fitting == 0.0 => *greatest,
        Some(greatest) if *greatest > fitting => fitting * 1.15,
        _ => fitting,
    }
}

fn bar(row: &Bar<'_>, top: f64, full: f64, unit: &str) -> String {
    let scale = |value: f64| if full > 0.0 { (value.max(0.0) / full).min(1.06) * (RIGHT - LEFT) } else { 0.0 };
    let (cell, middle) = (row.cell, top + ROW / 2.0);
    let weight = if row.is_base { " font-weight=\"600\"" } else { "" };
    let mut svg = format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\"{weight}>{}</text>",
        LEFT - 8.0,
        middle + 4.0,
        escape(row.name)
    );
    let is_cut = cell.median > full * 1.06;
    let end = LEFT + scale(cell.median);
    let (high, low) = (top + 4.0, top + ROW - 4.0);
    if is_cut {
        let _ =
            write!(svg, "<path d=\"M{LEFT} {high}H{end}l-5 3.5 5 3.5-5 3.5 5 3.5H{LEFT}z\" fill=\"{}\"/>", row.colour);
    } else {
        let _ = write!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{high}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"/>",
            (end - LEFT).max(1.0),
            low - high,
            row.colour
        );
        let (from, to) = (LEFT + scale(cell.least), LEFT + scale(cell.greatest));
        let _ = write!(
            svg,
            "<path d=\"M{from:.1} {middle}H{to:.1}M{from:.1} {}v6M{to:.1} {}v6\" class=\"spread\"/>",
            middle - 3.0,
            middle - 3.0
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{}\" y=\"{}\"{weight}>{} {}<tspan class=\"ratio\" dx=\"6\">{}</tspan></text>",
        RIGHT + 18.0,
        middle + 4.0,
        number(cell.median),
        escape(unit),
        ratio(row)
    );
    svg
}

fn ratio(row: &Bar<'_>) -> String {
    match row.cell.ratio {
        _ if row.is_base => "base".to_owned(),
        Some(ratio) => {
            format!("×{} ({}–{})", number(ratio.of_medians), number(ratio.least), number(ratio.greatest))
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(median: f64) -> Cell {
        Cell { median, least: median, greatest: median, ratio: None }
    }

    #[test]
    fn a_bar_that_dwarfs_the_others_is_cut() {
        let cells = [cell(10.0), cell(20.0), cell(2000.0)];
        let rows: Vec<Bar<'_>> =
            cells.iter().map(|cell| Bar { name: "x", colour: "#000", cell, is_base: false }).collect();
        assert!((full_length(&rows) - 23.0).abs() < 1e-9);
        assert_eq!(bars(&rows, "µs").matches("l-5 3.5").count(), 1);
        assert!(bars(&rows, "µs").contains("2,000 µs"));
    }

    #[test]
    fn a_chart_of_zeros_contains_no_nan() {
        let cells = [cell(0.0), cell(0.0)];
        let rows: Vec<Bar<'_>> =
            cells.iter().map(|cell| Bar { name: "x", colour: "#000", cell, is_base: false }).collect();
        assert!(!bars(&rows, "").contains("NaN"));
    }
}
