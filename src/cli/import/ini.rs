//! The lines of the two configuration formats.

/// A line that sets something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// Its number, from 1.
    pub number: usize,
    /// The section that it is in; empty before the first.
    pub section: &'a str,
    pub key: &'a str,
    pub value: &'a str,
}

/// The lines as cntlm reads them: a name, blanks, and a value that ends at a `#`, or at the second of two quotation
/// marks.
pub(super) fn cntlm(text: &str) -> Vec<Line<'_>> {
    lines(text, |line| {
        let end = line.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(line.len());
        let (key, rest) = line.split_at(end);
        let rest = rest.trim_start();
        let value = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next().unwrap_or_default(),
            None => rest.split('#').next().unwrap_or_default().trim_end(),
        };
        (key, value)
    })
}

/// The lines as px reads them: a name, `=` or `:`, and a value.
pub(super) fn px(text: &str) -> Vec<Line<'_>> {
    lines(text, |line| {
        let (key, value) = line.split_once(['=', ':']).unwrap_or((line, ""));
        (key.trim(), value.trim())
    })
}

fn lines<'a>(text: &'a str, split: impl Fn(&'a str) -> (&'a str, &'a str)) -> Vec<Line<'a>> {
    let mut section = "";
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').trim();
            continue;
        }
        let (key, value) = split(line);
        found.push(Line { number: index + 1, section, key, value });
    }
    found
}
