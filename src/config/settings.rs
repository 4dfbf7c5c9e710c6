//! Settings as text, each with the place it came from, and their order of precedence.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::error::{ConfigError, Problem};
use super::keys::{self, KEYS, Key};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// What was given; the entries of a list are joined with commas.
    pub text: String,
    /// Where.
    pub origin: Origin,
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

impl Settings {
    /// What the environment gives, by `lookup` of a variable's name. An empty variable counts as not set, for that is how
    /// deployment templates leave one out.
    pub(super) fn from_environment(lookup: impl Fn(&str) -> Option<OsString>) -> (Settings, Vec<ConfigError>) {
        let mut settings = Settings::default();
        let mut errors = Vec::new();
        for key in KEYS.iter().filter(|key| key.has_flag()) {
            let origin = Origin::Env(key.env());
            match lookup(&key.env()).filter(|text| !text.is_empty()).map(OsString::into_string) {
                Some(Ok(text)) => settings.give(key, Setting { text, origin }),
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
        let default = || Some(Setting { text: keys::find(name)?.default.value()?, origin: Origin::Default });
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
