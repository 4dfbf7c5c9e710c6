//! `report`: the output of `run` and `compare` as a self-contained page.
//!
//! | file | subject |
//! |---|---|
//! | `page` | the page: its sections and style |
//! | `captions` | explains each measurement |
//! | `bars`, `curves` | the charts, as inline SVG |
//! | `costs` | the history of instruction counts |
//! | `picture` | a screenshot of the page |

mod bars;
mod captions;
mod costs;
mod curves;
mod page;
mod picture;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use crate::arguments::ReportOptions;
use crate::compare::Comparison;
use crate::results::RunResults;

/// One input file.
enum Input {
    Comparison(Box<Comparison>),
    Run { file: String, outcome: Box<RunResults> },
}

/// Reads the files, writes the page, takes the screenshot.
pub fn run(options: &ReportOptions) -> Result<ExitCode, Box<dyn Error>> {
    let inputs = options.files.iter().map(|path| read(path)).collect::<Result<Vec<Input>, _>>()?;
    let costs = options.costs.as_deref().map(costs::read).transpose()?.unwrap_or_default();
    fs::write(&options.html, page::page(&inputs, &costs))?;
    println!("page in {}", options.html.display());
    if let Some(png) = &options.png {
        picture::take(&options.html, png)?;
        println!("screenshot in {}", png.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<Input, Box<dyn Error>> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read(path).map_err(|error| failed(&error))?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    if value.get("kind").and_then(Value::as_str) == Some("compare") {
        return Ok(Input::Comparison(Box::new(serde_json::from_value(value).map_err(|error| failed(&error))?)));
    }
    let outcome = serde_json::from_value(value)
        .map_err(|error| failed(&format_args!("neither a comparison nor the results of a run: {error}")))?;
    Ok(Input::Run { file: path.display().to_string(), outcome: Box::new(outcome) })
}

/// Escapes text for HTML and SVG.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, letter| {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(letter),
        }
        out
    })
}

/// The candidates' colours, which most colour-blind readers can tell apart (Okabe and Ito).
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#b2a300"];

fn colour(place: usize) -> &'static str {
    COLOURS.get(place % COLOURS.len()).copied().unwrap_or("#000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_the_page() {
        assert_eq!(escape("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
