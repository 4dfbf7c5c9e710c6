//! What was given to the probe, for the lines of the configuration that it suggests.

use std::path::PathBuf;

use super::advice::Line;
use crate::config::{Config, Entry, Setting, Settings};

/// What was given.
#[derive(Debug)]
pub(super) struct Given {
    pub secret: SecretPlace,
    /// The lines that Kerberos needs.
    pub kerberos: Vec<Line>,
}

impl Given {
    /// What the settings give for the first identity at the first upstream.
    pub(super) fn of(config: &Config, settings: &Settings) -> Given {
        let identity = &config.identities[0];
        let named = |entry: &&Entry| {
            entry.settings.given("identities.name").is_some_and(|name| name.text.trim() == identity.name)
        };
        let (of_identity, prefix) = match settings.entries("identities").iter().find(named) {
            Some(entry) => (&entry.settings, "identities."),
            None => (settings, ""),
        };
        let given = |name: &str| of_identity.given(&format!("{prefix}{name}"));
        let upstream = config.first_upstream();
        let kerberos = match upstream.mechanisms_of(identity).kerberos {
            true => kerberos_lines(config, settings, given),
            false => Vec::new(),
        };
        Given { secret: SecretPlace::of(given), kerberos }
    }
}

/// The lines of Kerberos. `given` returns a setting of the identity.
fn kerberos_lines<'a>(config: &Config, settings: &Settings, given: impl Fn(&str) -> Option<&'a Setting>) -> Vec<Line> {
    let upstream = config.first_upstream();
    let text = |setting: &Setting| setting.text.trim().to_owned();
    let path = |setting: &Setting| setting.path().display().to_string();
    let list = |setting: &Setting| setting.text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>();
    let flag = |name| settings.given(name).filter(|setting| text(setting) == "true").map(|_| Line::new(name, true));
    let mut auth = vec!["kerberos"];
    auth.extend(upstream.mechanisms_of(&config.identities[0]).ntlm.then_some("ntlm"));
    let spn = Some(upstream.service()).filter(|spn| !spn.is_of_host);
    let spn =
        spn.map(|spn| [Some(spn.name.to_string()), spn.realm].into_iter().flatten().collect::<Vec<_>>().join("@"));
    let lines = [
        Some(Line::new("auth", auth)),
        given("keytab").map(|setting| Line::new("keytab", path(setting))),
        given("principal").map(|setting| Line::new("principal", text(setting))),
        spn.map(|spn| Line::new("spn", spn)),
        settings.given("kerberos.realm").map(|setting| Line::new("kerberos.realm", text(setting))),
        settings.given("kerberos.kdc").map(|setting| Line::new("kerberos.kdc", list(setting))),
        settings.given("kerberos.krb5_conf").map(|setting| Line::new("kerberos.krb5_conf", path(setting))),
        flag("kerberos.canonicalize"),
        flag("kerberos.allow_rc4"),
    ];
    lines.into_iter().flatten().collect()
}

/// The place of a secret, without the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SecretPlace {
    PasswordFile(PathBuf),
    NtHashFile(PathBuf),
    Descriptor(String),
    Environment,
}

impl SecretPlace {
    /// The place that the identity's settings give.
    fn of<'a>(given: impl Fn(&str) -> Option<&'a Setting>) -> SecretPlace {
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
