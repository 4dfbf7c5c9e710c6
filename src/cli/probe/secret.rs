//! Where the secret comes from, for the lines of the configuration.

use std::path::PathBuf;

use super::advice::Line;
use crate::config::{Entry, IdentityConfig, Settings};

/// The place of a secret, without the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SecretPlace {
    PasswordFile(PathBuf),
    NtHashFile(PathBuf),
    Descriptor(String),
    Environment,
}

impl SecretPlace {
    /// The place that the settings give for an identity.
    pub(super) fn of(identity: &IdentityConfig, settings: &Settings) -> SecretPlace {
        let named = |entry: &&Entry| {
            entry.settings.given("identities.name").is_some_and(|name| name.text.trim() == identity.name)
        };
        let (settings, prefix) = match settings.entries("identities").iter().find(named) {
            Some(entry) => (&entry.settings, "identities."),
            None => (settings, ""),
        };
        let given = |name: &str| settings.given(&format!("{prefix}{name}"));
        if let Some(setting) = given("password_file") {
            SecretPlace::PasswordFile(setting.path())
        } else if let Some(setting) = given("nt_hash_file") {
            SecretPlace::NtHashFile(setting.path())
        } else if let Some(setting) = given("password_fd") {
            SecretPlace::Descriptor(setting.text.clone())
        } else {
            SecretPlace::Environment
        }
    }

    /// The identifier for programs: the name of the setting, if there is one.
    pub(super) fn id(&self) -> &'static str {
        match self {
            SecretPlace::PasswordFile(_) => "password_file",
            SecretPlace::NtHashFile(_) => "nt_hash_file",
            SecretPlace::Descriptor(_) => "password_fd",
            SecretPlace::Environment => "environment",
        }
    }

    /// The path, if it is a file.
    pub(super) fn path(&self) -> Option<String> {
        match self {
            SecretPlace::PasswordFile(path) | SecretPlace::NtHashFile(path) => Some(path.display().to_string()),
            SecretPlace::Descriptor(_) | SecretPlace::Environment => None,
        }
    }

    /// The line for the configuration. A descriptor and the environment have none, because another process will read
    /// the file.
    pub(super) fn line(&self) -> Option<Line> {
        self.path().map(|path| Line::new(self.id(), path))
    }
}
