//! The table of all settings: their names in the file, flags, variables, help texts and defaults.
//!
//! The flags, the environment, the file and the documentation are all derived from this table, so that they cannot
//! diverge.

mod bounds;
mod egress;
mod guard;
mod identity;
mod kerberos;
mod process;
#[cfg(test)]
mod tests;
mod timeouts;
mod tls;

use std::fmt;

use super::table_keys::TABLE_KEYS;

/// The prefix of all variables.
pub const ENV_PREFIX: &str = "NTLM_GATEWAY_";

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in the file; `section.name` if it is in a section.
    pub name: &'static str,
    /// Its flag without the dashes. The variable's name is derived from it.
    pub flag: &'static str,
    /// Where it may be set.
    pub places: Places,
    /// The type of its value in the file.
    pub kind: Kind,
    /// The placeholder for the value in the help.
    pub value_name: &'static str,
    /// The heading of the help under which it is listed.
    pub heading: &'static str,
    /// What it does.
    pub help: &'static str,
    /// The value if it is not set.
    pub default: Fallback,
}

/// Where a setting may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// As a flag, in the environment and in the file.
    Everywhere,
    /// Not in the file, because it names the file.
    FlagAndEnv,
    /// Only in the environment: everyone who lists the processes can see a flag.
    EnvOnly,
    /// In an entry of one of the file's tables.
    Table,
}

/// The type of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// Strings, or one string with commas.
    List,
    /// A whole number.
    Integer,
    /// A whole number, or `auto`.
    IntegerOrAuto,
    /// A number with a unit of time.
    Duration,
    /// A number of bytes, with or without a unit.
    Size,
    /// `true` or `false`; its flag alone means `true`.
    Switch,
}

/// What applies if a setting is not set.
#[derive(Clone, Copy)]
pub enum Fallback {
    /// The setting is required; the text says what to do.
    Required(&'static str),
    /// No value.
    Nothing,
    /// A default, as the text to be parsed.
    Value(fn() -> String),
    /// A default that depends on the machine, and its description in the help.
    Machine(&'static str, fn() -> String),
}

impl fmt::Debug for Fallback {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.shown().unwrap_or_default())
    }
}

impl Fallback {
    /// The value, if there is one.
    #[must_use]
    pub fn value(&self) -> Option<String> {
        match self {
            Fallback::Value(value) | Fallback::Machine(_, value) => Some(value()),
            Fallback::Required(_) | Fallback::Nothing => None,
        }
    }

    /// The value as shown in the help.
    #[must_use]
    pub fn shown(&self) -> Option<String> {
        match self {
            Fallback::Value(value) => Some(value()),
            Fallback::Machine(shown, _) => Some((*shown).to_owned()),
            Fallback::Required(_) | Fallback::Nothing => None,
        }
    }
}

impl Key {
    /// The name of its variable.
    #[must_use]
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.flag.replace('-', "_").to_ascii_uppercase())
    }

    /// Whether it may be set in the file.
    #[must_use]
    pub fn in_file(&self) -> bool {
        matches!(self.places, Places::Everywhere | Places::Table)
    }

    /// Whether there is a flag for it.
    #[must_use]
    pub fn has_flag(&self) -> bool {
        matches!(self.places, Places::Everywhere | Places::FlagAndEnv)
    }

    /// Its help text, variable and default.
    #[must_use]
    pub fn help_line(&self) -> String {
        let required = match self.default {
            Fallback::Required(_) => " [required]",
            _ => "",
        };
        let default = self.default.shown().map(|shown| format!(" [default: {shown}]")).unwrap_or_default();
        format!("{} [env: {}]{default}{required}", self.help, self.env())
    }

    /// The ways to set it, for an error's text.
    #[must_use]
    pub fn ways(&self) -> String {
        let Key { name, flag, value_name, .. } = self;
        if self.places == Places::Table {
            return format!("{} = \"{value_name}\" in this entry", name.rsplit('.').next().unwrap_or_default());
        }
        format!("--{flag} {value_name}, {} in the environment, or {name} = \"{value_name}\" in the file", self.env())
    }
}

/// The setting of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().chain(TABLE_KEYS).find(|key| key.name == name)
}

/// The tables of the file that can have several entries (`[[name]]`).
pub const TABLES: [&str; 4] = ["listeners", "identities", "upstreams", "routes"];

/// The table of this name.
#[must_use]
pub fn find_table(name: &str) -> Option<&'static str> {
    TABLES.into_iter().find(|table| *table == name)
}

/// Whether the file has a section of this name.
#[must_use]
pub fn is_section(name: &str) -> bool {
    sections().any(|section| section == name)
}

fn sections() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(|key| key.name.split_once('.').map(|(section, _)| section))
}

/// The name in the file that is most similar to an unknown one, if any is similar.
#[must_use]
pub fn nearest(unknown: &str) -> Option<&'static str> {
    let wanted = unknown.replace('-', "_").to_ascii_lowercase();
    let last = wanted.rsplit('.').next().unwrap_or_default();
    let mut nearest: Option<(&'static str, usize)> = None;
    let mut compare = |name: &'static str, left: &str, right: &str| {
        let distance = strsim::damerau_levenshtein(left, right);
        let near = distance <= left.len().min(right.len()).div_ceil(3);
        if near && nearest.is_none_or(|(_, best)| distance < best) {
            nearest = Some((name, distance));
        }
    };
    let in_table = |table: &str| wanted.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
    if TABLES.into_iter().any(in_table) {
        TABLE_KEYS.iter().for_each(|key| compare(key.name, &wanted, key.name));
        return nearest.map(|(name, _)| name);
    }
    for key in KEYS.iter().filter(|key| key.in_file()) {
        compare(key.name, &wanted, key.name);
    }
    for section in sections().chain(TABLES) {
        compare(section, &wanted, section);
    }
    // Also find a key in the wrong section, or a flag's name used in the file.
    for key in KEYS.iter().filter(|key| key.in_file()) {
        compare(key.name, last, &key.flag.replace('-', "_"));
        compare(key.name, last, key.name.rsplit('.').next().unwrap_or_default());
    }
    nearest.map(|(name, _)| name)
}

/// The settings under each heading of the help, in its order.
const GROUPS: &[&[Key]] = &[
    process::CONFIGURATION,
    process::LISTENING,
    egress::UPSTREAM,
    tls::TLS,
    identity::IDENTITY,
    kerberos::KERBEROS,
    egress::ROUTES,
    guard::GUARD,
    bounds::LIMITS,
    timeouts::TIMEOUTS,
    process::OUTPUT,
];

/// All settings, in the order of the help.
pub static KEYS: &[Key] = &joined::<{ count(GROUPS) }>(GROUPS);

const fn count(groups: &[&[Key]]) -> usize {
    let (mut all, mut group) = (0, 0);
    while group < groups.len() {
        all += groups[group].len();
        group += 1;
    }
    all
}

const fn joined<const COUNT: usize>(groups: &[&[Key]]) -> [Key; COUNT] {
    let mut all = [groups[0][0]; COUNT];
    let (mut place, mut group) = (0, 0);
    while group < groups.len() {
        let mut of_group = 0;
        while of_group < groups[group].len() {
            all[place] = groups[group][of_group];
            (place, of_group) = (place + 1, of_group + 1);
        }
        group += 1;
    }
    all
}
