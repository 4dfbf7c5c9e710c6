//! Settings as text, each with the place it came from, and their order of precedence.

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
pub enum Origin {
    /// On the command line; the flag with its dashes.
    Flag(String),
    /// In the environment; the variable's name.
    Env(String),
    /// In the file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The value's line, from 1.
        line: usize,
        /// The value's column in characters, from 1.
        column: usize,
    },
    /// Nowhere.
    Default,
}

impl Origin {
    /// What errors are sorted by: what overrides the file comes before it, what was given nowhere comes last.
    pub(super) fn order(&self) -> (u8, &Path, usize, usize) {
        match self {
            Origin::Flag(_) | Origin::Env(_) => (0, Path::new(""), 0, 0),
            Origin::File { path, line, column } => (1, path, *line, *column),
            Origin::Default => (2, Path::new(""), 0, 0),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(name) | Origin::Env(name) => out.write_str(name),
            Origin::File { path, line, column } => write!(out, "{}:{line}:{column}", path.display()),
            Origin::Default => out.write_str("default"),
        }
    }
}

/// A setting's text and where it was given.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    /// What was given; the entries of a list are joined with commas.
    pub text: String,
    /// Where.
    pub origin: Origin,
    /// The entries of a list where each has a place of its own; otherwise `text` is split.
    parts: Vec<Part>,
}

/// One entry of a list.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// Without the blanks around it.
    pub text: String,
    /// Where this entry was given.
    pub origin: Origin,
}

impl Setting {
    /// A text from one place.
    #[must_use]
    pub fn new(text: impl Into<String>, origin: Origin) -> Setting {
        Setting { text: text.into(), origin, parts: Vec::new() }
    }

    /// A list whose entries have places of their own; `origin` is the list's.
    #[must_use]
    pub fn list(parts: Vec<Part>, origin: Origin) -> Setting {
        let texts: Vec<&str> = parts.iter().map(|part| part.text.as_str()).collect();
        Setting { text: texts.join(","), origin, parts }
    }

    /// What one flag was given, once or several times.
    #[must_use]
    pub fn joined(texts: &[&str], origin: Origin) -> Setting {
        match texts {
            [text] => Setting::new(*text, origin),
            texts => {
                Setting::list(texts.iter().flat_map(|text| split(text, |_| origin.clone())).collect(), origin.clone())
            }
        }
    }

    /// The entries of a list.
    pub(super) fn parts(&self) -> Vec<Part> {
        match self.parts.is_empty() {
            true => split(&self.text, |_| self.origin.clone()),
            false => self.parts.clone(),
        }
    }

    /// The absolute path that the text names. A relative one in a file counts from that file's directory, so that a configuration means
    /// the same wherever the gateway is started; one from a flag or the environment counts from the working directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let named = Path::new(self.text.trim());
        let path = match &self.origin {
            Origin::File { path, .. } => path.parent().unwrap_or(Path::new("")).join(named),
            _ => named.to_owned(),
        };
        // It fails for an empty path, and where the working directory is gone.
        std::path::absolute(&path).unwrap_or(path)
    }

    /// What to say of a path that leads to nothing.
    pub(super) fn path_help(&self) -> &'static str {
        match &self.origin {
            _ if Path::new(self.text.trim()).is_absolute() => "",
            Origin::File { .. } => "; a relative path in a file counts from that file's directory",
            _ => "; a relative path counts from the working directory",
        }
    }
}

/// Not the text: it may hold a password that stands in the wrong place.
impl fmt::Debug for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Setting").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// The entries of a text, with `place` giving the origin of each by the byte at which it begins.
///
/// A URL with a password is left whole: the password may have commas, and no part of it may be taken for an entry that can be
/// shown.
pub(super) fn split(text: &str, place: impl Fn(usize) -> Origin) -> Vec<Part> {
    let part = |entry: &str, at: usize| Part { text: entry.to_owned(), origin: place(at) };
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
        // Both separators are one byte.
        at += piece.len() + 1;
    }
    parts
}

/// The settings that were given in one place, or in several of which the higher ones win.
///
/// The password of the environment is none of them: see [`SecretStore`](super::SecretStore).
#[derive(Clone, Debug, Default)]
pub struct Settings {
    given: BTreeMap<&'static str, Setting>,
    /// Given, but in a form that has an error of its own already: not to be called missing as well.
    broken: BTreeSet<&'static str>,
    /// The entries of the file's tables, in their order.
    tables: BTreeMap<&'static str, Vec<Entry>>,
}

/// One entry of a table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it begins.
    pub origin: Origin,
    /// Its settings, as `table.setting`.
    pub settings: Settings,
}

impl Entry {
    /// A name that this entry has, where the setting `key` gives it; otherwise with the place of the entry.
    pub(super) fn named(&self, key: &str, name: String) -> Placed<String> {
        let origin = self.settings.given(key).map_or(&self.origin, |setting| &setting.origin);
        Placed { value: name, origin: origin.clone() }
    }
}

impl Settings {
    /// What the environment gives, by `lookup` of a variable's name. An empty variable counts as not set, for that is how
    /// deployment templates leave one out.
    pub(super) fn from_environment(lookup: impl Fn(&str) -> Option<OsString>) -> (Settings, Vec<ConfigError>) {
        let mut settings = Settings::default();
        let mut errors = Vec::new();
        for key in KEYS.iter().filter(|key| key.has_flag()) {
            let origin = Origin::Env(key.env());
            match lookup(&key.env()).filter(|text| !text.is_empty()).map(OsString::into_string) {
                Some(Ok(text)) => settings.give(key, Setting::new(text, origin)),
                Some(Err(_)) => {
                    settings.mark_broken(key);
                    errors.push(ConfigError { origin, key: key.name.into(), problem: Problem::NotUtf8 });
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

    /// The entries of a table, in their order.
    #[must_use]
    pub fn entries(&self, table: &str) -> &[Entry] {
        self.tables.get(table).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn mark_broken(&mut self, key: &'static Key) {
        self.broken.insert(key.name);
    }

    /// For a file of which it is not known what it gives.
    pub(super) fn mark_all_broken(&mut self) {
        self.broken.extend(KEYS.iter().map(|key| key.name));
        for entry in self.tables.values_mut().flatten() {
            entry.settings.broken.extend(TABLE_KEYS.iter().map(|key| key.name));
        }
    }

    pub(super) fn is_broken(&self, name: &str) -> bool {
        self.broken.contains(name)
    }

    /// The setting of this name, if it was given.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<&Setting> {
        self.given.get(name)
    }

    /// The setting of this name as given, or else its default.
    #[must_use]
    pub fn effective(&self, name: &str) -> Option<Setting> {
        let default = || Some(Setting::new(keys::find(name)?.default.value()?, Origin::Default));
        self.given(name).cloned().or_else(default)
    }

    /// These settings, and those of `lower` that are not among them.
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
