//! Settings as text, each with its source, and their precedence.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Problem};
use super::keys::{self, KEYS, Key};
use super::parse::Placed;
use super::redact;
use super::table_keys::TABLE_KEYS;

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// On the command line; the flag with its dashes.
    Flag(String),
    /// In the environment; the variable's name.
    Env(String),
    /// In the file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The value's line, from 1.
        line: usize,
        /// The value's column in characters, from 1.
        column: usize,
    },
    /// Nowhere: the default.
    Default,
}

impl Source {
    /// The sort key for errors: flags and environment come before the file, missing settings last.
    pub(super) fn order(&self) -> (u8, &Path, usize, usize) {
        match self {
            Source::Flag(_) | Source::Env(_) => (0, Path::new(""), 0, 0),
            Source::File { path, line, column } => (1, path, *line, *column),
            Source::Default => (2, Path::new(""), 0, 0),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag(name) | Source::Env(name) => out.write_str(name),
            Source::File { path, line, column } => write!(out, "{}:{line}:{column}", path.display()),
            Source::Default => out.write_str("default"),
        }
    }
}

/// A setting's text and its source.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    /// The text as given; the entries of a list are joined with commas.
    pub text: String,
    /// Where it was given.
    pub source: Source,
    /// The entries of a list, if each has its own source; otherwise `text` is split.
    parts: Vec<Part>,
}

/// One entry of a list.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// The text without surrounding blanks.
    pub text: String,
    /// Where this entry was given.
    pub source: Source,
}

impl Setting {
    /// A text from one source.
    #[must_use]
    pub fn new(text: impl Into<String>, source: Source) -> Setting {
        Setting { text: text.into(), source, parts: Vec::new() }
    }

    /// A list whose entries have their own sources; `source` is the list's.
    #[must_use]
    pub fn list(parts: Vec<Part>, source: Source) -> Setting {
        let texts: Vec<&str> = parts.iter().map(|part| part.text.as_str()).collect();
        Setting { text: texts.join(","), source, parts }
    }

    /// The values of a flag that was given once or several times.
    #[must_use]
    pub fn joined(texts: &[&str], source: Source) -> Setting {
        match texts {
            [text] => Setting::new(*text, source),
            texts => {
                Setting::list(texts.iter().flat_map(|text| split(text, |_| source.clone())).collect(), source.clone())
            }
        }
    }

    /// The entries of a list.
    pub(super) fn parts(&self) -> Vec<Part> {
        match self.parts.is_empty() {
            true => split(&self.text, |_| self.source.clone()),
            false => self.parts.clone(),
        }
    }

    /// The absolute path that the text names. A relative path in a file is relative to that file's directory, so that a
    /// configuration does not depend on where the gateway is started. From a flag or the environment, it is relative to
    /// the working directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let named = Path::new(self.text.trim());
        let path = match &self.source {
            Source::File { path, .. } => path.parent().unwrap_or(Path::new("")).join(named),
            _ => named.to_owned(),
        };
        // This fails for an empty path, and if the working directory is gone.
        std::path::absolute(&path).unwrap_or(path)
    }

    /// A hint for the error about a path that does not exist.
    pub(super) fn path_help(&self) -> &'static str {
        match &self.source {
            _ if Path::new(self.text.trim()).is_absolute() => "",
            Source::File { .. } => "; a relative path in a file is relative to that file's directory",
            _ => "; a relative path is relative to the working directory",
        }
    }
}

/// Omits the text: it may be a password in the wrong setting.
impl fmt::Debug for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Setting").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Splits a text into entries. `source_at` returns the source of the entry that begins at a byte.
///
/// A URL with a password is not split: the password may contain commas, and no part of it may become an entry that can
/// be shown.
pub(super) fn split(text: &str, source_at: impl Fn(usize) -> Source) -> Vec<Part> {
    let part = |entry: &str, at: usize| Part { text: entry.to_owned(), source: source_at(at) };
    if redact::has_credentials(text) {
        return vec![part(text.trim(), 0)];
    }
    let mut parts = Vec::new();
    let mut at = 0;
    for piece in text.split([',', ' ']) {
        let entry = piece.trim();
        if !entry.is_empty() {
            parts.push(part(entry, at + piece.len() - piece.trim_start().len()));
        }
        // Both separators are one byte long.
        at += piece.len() + 1;
    }
    parts
}

/// The settings from one source, or merged from several by their precedence.
///
/// The password from the environment is not among them: see [`SecretStore`](super::SecretStore).
#[derive(Clone, Debug, Default)]
pub struct Settings {
    given: BTreeMap<&'static str, Setting>,
    /// Settings whose form already has an error, so that they are not reported as missing as well.
    broken: BTreeSet<&'static str>,
    /// The entries of the file's tables, in order.
    tables: BTreeMap<&'static str, Vec<Entry>>,
}

/// One entry of a table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it begins.
    pub source: Source,
    /// Its settings, named `table.setting`.
    pub settings: Settings,
}

impl Entry {
    /// The entry's name with its source: the setting `key` if it is given, otherwise the entry.
    pub(super) fn named(&self, key: &str, name: String) -> Placed<String> {
        let source = self.settings.given(key).map_or(&self.source, |setting| &setting.source);
        Placed { value: name, source: source.clone() }
    }
}

impl Settings {
    /// Reads the settings from the environment with `lookup`. An empty variable counts as not set, because deployment
    /// templates often omit a value that way.
    pub(super) fn from_environment(lookup: impl Fn(&str) -> Option<OsString>) -> (Settings, Vec<ConfigError>) {
        let mut settings = Settings::default();
        let mut errors = Vec::new();
        for key in KEYS.iter().filter(|key| key.has_flag()) {
            let source = Source::Env(key.env());
            match lookup(&key.env()).filter(|text| !text.is_empty()).map(OsString::into_string) {
                Some(Ok(text)) => settings.give(key, Setting::new(text, source)),
                Some(Err(_)) => {
                    settings.mark_broken(key);
                    errors.push(ConfigError { source, key: key.name.into(), problem: Problem::NotUtf8 });
                }
                None => {}
            }
        }
        (settings, errors)
    }

    /// Adds a setting.
    pub fn give(&mut self, key: &'static Key, setting: Setting) {
        self.given.insert(key.name, setting);
    }

    pub(super) fn give_entry(&mut self, table: &'static str, entry: Entry) {
        self.tables.entry(table).or_default().push(entry);
    }

    /// The entries of a table, in order.
    #[must_use]
    pub fn entries(&self, table: &str) -> &[Entry] {
        self.tables.get(table).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn mark_broken(&mut self, key: &'static Key) {
        self.broken.insert(key.name);
    }

    /// Used for a file whose content could not be read completely.
    pub(super) fn mark_all_broken(&mut self) {
        self.broken.extend(KEYS.iter().map(|key| key.name));
        for entry in self.tables.values_mut().flatten() {
            entry.settings.broken.extend(TABLE_KEYS.iter().map(|key| key.name));
        }
    }

    pub(super) fn is_broken(&self, name: &str) -> bool {
        self.broken.contains(name)
    }

    /// The setting of this name, if given.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<&Setting> {
        self.given.get(name)
    }

    /// The setting of this name as given, or its default.
    #[must_use]
    pub fn effective(&self, name: &str) -> Option<Setting> {
        let default = || Some(Setting::new(keys::find(name)?.default.value()?, Source::Default));
        self.given(name).cloned().or_else(default)
    }

    /// Merges these settings with those of `lower`, which has a lower precedence.
    #[must_use]
    pub fn over(mut self, lower: Settings) -> Settings {
        for (name, setting) in lower.given {
            self.given.entry(name).or_insert(setting);
        }
        for (table, entries) in lower.tables {
            self.tables.entry(table).or_insert(entries);
        }
        self.broken.extend(lower.broken);
        self
    }
}
