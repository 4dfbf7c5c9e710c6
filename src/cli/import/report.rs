//! What became of each line of a configuration.

use std::fmt::Write;

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in the new configuration.
    Imported,
    /// It is, but not as it was; or something is missing without which the gateway does not start.
    Decide,
    /// It has no counterpart.
    Dropped,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Outcome::Imported => "imported",
            Outcome::Decide => "decide",
            Outcome::Dropped => "dropped",
        }
    }
}

/// One line of the report. It never contains a value that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// The line in the file; 0 for what is not there at all.
    pub line: usize,
    /// The name of the setting.
    pub key: String,
    pub outcome: Outcome,
    pub text: String,
}

/// The notes on a configuration.
#[derive(Default)]
pub(super) struct Report {
    pub notes: Vec<Note>,
}

impl Report {
    pub fn note(&mut self, line: usize, key: &str, outcome: Outcome, text: impl Into<String>) {
        self.notes.push(Note { line, key: key.to_owned(), outcome, text: text.into() });
    }

    /// Whether nothing was imported.
    pub fn is_empty(&self) -> bool {
        self.notes.iter().all(|note| note.outcome != Outcome::Imported)
    }

    /// The report as text, in the order of the file, with a summary.
    pub fn text(&self, file: &str) -> String {
        let mut notes: Vec<&Note> = self.notes.iter().collect();
        notes.sort_by_key(|note| if note.line == 0 { usize::MAX } else { note.line });
        let width = notes.iter().map(|note| note.key.len()).max().unwrap_or_default();
        let mut out = String::new();
        for Note { line, key, outcome, text } in notes {
            let place = if *line == 0 { file.to_owned() } else { format!("{file}:{line}") };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{place}: {:8} {key:width$}  {}", outcome.label(), text);
        }
        let count = |wanted: Outcome| self.notes.iter().filter(|note| note.outcome == wanted).count();
        let (imported, decide) = (count(Outcome::Imported), count(Outcome::Decide));
        let _ = writeln!(out, "{imported} imported, {decide} to decide, {} dropped", count(Outcome::Dropped));
        out
    }
}
