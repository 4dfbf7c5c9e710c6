//! The text table.

use std::fmt::Write;

use super::figures::{Cell, Figure};
use super::{Comparison, Section};

/// A section as text: one line per figure, one column per candidate.
pub fn table(comparison: &Comparison, section: &Section) -> String {
    let names: Vec<&str> = comparison.candidates.iter().map(|candidate| candidate.name.as_str()).collect();
    let names: Vec<&str> = names
        .into_iter()
        .filter(|name| section.figures.iter().any(|figure| figure.cells.contains_key(*name)))
        .collect();
    let mut rows = vec![std::iter::once(String::new()).chain(names.iter().map(|name| (*name).to_owned())).collect()];
    for figure in &section.figures {
        let label =
            if figure.unit.is_empty() { figure.title.clone() } else { format!("{} [{}]", figure.title, figure.unit) };
        let cells = names.iter().map(|name| text(figure, figure.cells.get(*name), *name == comparison.base));
        rows.push(std::iter::once(label).chain(cells).collect::<Vec<String>>());
    }
    let mut out = format!("\n{} — {} ({} rounds)\n", section.name, section.title, comparison.rounds);
    let columns = names.len() + 1;
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (text, width))| match column {
            0 => format!("  {text:<width$}"),
            _ => format!("  {text:>width$}"),
        });
        let line: String = cells.collect();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// `1,234 ×0.98 (0.95–1.02)`; for the base, `1,234 (1,200–1,300)`.
fn text(figure: &Figure, cell: Option<&Cell>, is_base: bool) -> String {
    let Some(cell) = cell else { return "–".to_owned() };
    match cell.ratio {
        Some(ratio) if !is_base => {
            format!("{} ×{:.2} ({:.2}–{:.2})", number(cell.median), ratio.of_medians, ratio.least, ratio.greatest)
        }
        _ if figure.unit.is_empty() => number(cell.median),
        _ => format!("{} ({}–{})", number(cell.median), number(cell.least), number(cell.greatest)),
    }
}

/// About three significant digits, with thousands separators.
pub fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        let digits = match value.abs() {
            0.0 => 0,
            size if size < 1.0 => 3,
            size if size < 10.0 => 2,
            _ => 1,
        };
        return format!("{value:.digits$}");
    }
    let plain = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (place, digit) in plain.chars().enumerate() {
        if place > 0 && (plain.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_with_thousands_separators() {
        assert_eq!(
            [0.0, 0.0123, 7.5, 99.94, 100.0, 1234567.8, -2000.0].map(number),
            ["0", "0.012", "7.50", "99.9", "100", "1,234,568", "-2,000"]
        );
    }
}
