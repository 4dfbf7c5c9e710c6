//! How many instructions the gateway has taken over time: `tests/costs/history.tsv`.

use std::fmt::Write;
use std::path::Path;

use super::escape;
use crate::compare::table::number;

const WIDTH: f64 = 260.0;
const HEIGHT: f64 = 44.0;
/// Room for the line's ends.
const MARGIN: f64 = 4.0;

/// What a unit of work took, from the first count to the latest.
#[derive(Debug, PartialEq)]
pub struct Cost {
    what: String,
    counts: Vec<Count>,
}

#[derive(Debug, PartialEq)]
struct Count {
    date: String,
    instructions: f64,
    why: String,
}

/// Reads the table: a line of headings, then a row for each change of a count, in the order of time.
///
/// # Errors
/// When the file cannot be read, or a row does not have the four fields.
pub fn read(path: &Path) -> Result<Vec<Cost>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map_err(|row| format!("{}: row {row} is not date, what, instructions, why", path.display()))
}

/// As [`read`]; the error is the number of the row.
fn parse(text: &str) -> Result<Vec<Cost>, usize> {
    let mut costs: Vec<Cost> = Vec::new();
    for (row, line) in text.lines().enumerate().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [date, what, instructions, why] = fields[..] else { return Err(row + 1) };
        let instructions = instructions.parse().map_err(|_| row + 1)?;
        let count = Count { date: date.to_owned(), instructions, why: why.to_owned() };
        match costs.iter_mut().find(|cost| cost.what == what) {
            Some(cost) => cost.counts.push(count),
            None => costs.push(Cost { what: what.to_owned(), counts: vec![count] }),
        }
    }
    Ok(costs)
}

/// The section of the page.
pub fn write_costs(out: &mut String, costs: &[Cost]) {
    out.push_str(
        "<h1>Instructions over time</h1><p>What an event loop executes in user space for one unit of work, counted by \
         callgrind. Unlike times, these counts do not depend on the machine's load. The scale of a line begins at \
         0.</p><table><tr><th></th><th>first</th><th>latest</th><th></th><th>over time</th></tr>",
    );
    for cost in costs {
        let (Some(first), Some(latest)) = (cost.counts.first(), cost.counts.last()) else { continue };
        let percent = (latest.instructions / first.instructions - 1.0) * 100.0;
        let class = if percent <= 0.0 { "good" } else { "bad" };
        let _ = write!(
            out,
            "<tr><td>{}<small>{}</small></td><td>{}<small>{}</small></td><td>{}<small>{}</small></td>\
             <td><span class=\"{class}\">{percent:+.1} %</span></td><td>{}</td></tr>",
            escape(&cost.what),
            escape(&latest.why),
            number(first.instructions),
            escape(&first.date),
            number(latest.instructions),
            escape(&latest.date),
            line(&cost.counts)
        );
    }
    out.push_str("</table>");
}

/// The counts as steps; a point says its date, its count and why it changed.
#[allow(clippy::cast_precision_loss, reason = "a table has few rows")]
fn line(counts: &[Count]) -> String {
    let greatest = counts.iter().map(|count| count.instructions).fold(1.0, f64::max);
    let step = (WIDTH - 2.0 * MARGIN) / (counts.len().max(2) - 1) as f64;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" style=\"width:{WIDTH}px\">");
    let mut path = String::new();
    let mut points = String::new();
    for (place, count) in counts.iter().enumerate() {
        let x = MARGIN + step * place as f64;
        let y = HEIGHT - MARGIN - count.instructions / greatest * (HEIGHT - 2.0 * MARGIN);
        let _ = write!(path, "{}{x:.1} {y:.1}", if place == 0 { "M" } else { "L" });
        let _ = write!(
            points,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#0072b2\"><title>{}: {}, {}</title></circle>",
            escape(&count.date),
            number(count.instructions),
            escape(&count.why)
        );
    }
    let _ = write!(
        svg,
        "<path d=\"M{MARGIN} {0}H{1}\" class=\"grid\"/><path d=\"{path}\" class=\"line\" stroke=\"#0072b2\"/>{points}</svg>",
        HEIGHT - MARGIN,
        WIDTH - MARGIN
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "date\twhat\tinstructions\twhy\n\
        2026-01-01\ta <message>\t2000\tfirst count\n\
        2026-01-02\ta tunnel\t68100\tfirst count\n\
        2026-01-03\ta <message>\t1500\tfewer calls\n";

    #[test]
    fn a_change_of_a_count_is_shown_in_percent_of_the_first() {
        let mut page = String::new();
        write_costs(&mut page, &parse(TABLE).unwrap());
        assert!(page.contains("a &lt;message&gt;<small>fewer calls</small></td><td>2,000"), "{page}");
        assert!(page.contains("<td>1,500<small>2026-01-03</small></td><td><span class=\"good\">-25.0 %"), "{page}");
        assert!(page.contains("68,100"), "{page}");
        assert_eq!(page.matches("<circle").count(), 3, "{page}");
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named() {
        assert_eq!(parse(&format!("{TABLE}2026-01-04\ta tunnel\tmany\twhy")), Err(5));
        assert_eq!(parse(&format!("{TABLE}2026-01-04\ta tunnel\t1")), Err(5));
    }
}
