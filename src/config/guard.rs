//! The settings of the credential guard.

use std::path::PathBuf;

use super::error::{ConfigError, Problem};
use super::parse::Reader;
use super::values::parse_integer;
use crate::guard_store::kubernetes::is_lease_name;

const ATTEMPTS: std::ops::RangeInclusive<usize> = 2..=10;
const STORES: &[(&str, StoreKind)] =
    &[("memory", StoreKind::Memory), ("file", StoreKind::File), ("kubernetes", StoreKind::Kubernetes)];

/// The settings of the credential guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardConfig {
    /// Failed logons allowed to an account in 30 minutes, from 2 to 10.
    pub attempts: usize,
    /// Where they are counted.
    pub store: GuardStore,
}

/// Where failed logons are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardStore {
    /// In the process, which forgets them at its end.
    Memory,
    /// In a directory of this machine, an absolute path.
    File(PathBuf),
    /// In a Lease of the pod's namespace, by its name.
    Kubernetes(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreKind {
    Memory,
    File,
    Kubernetes,
}

impl Reader<'_> {
    pub(super) fn guard(&mut self) -> Option<GuardConfig> {
        let attempts = self.required("guard.attempts", |text| Ok(parse_integer(text, ATTEMPTS)?));
        let kind = self.choice("guard.store", STORES);
        let lease = self.required("guard.lease", lease_name);
        let directory = self.settings.given("guard.directory").cloned();
        let store = match (kind?, directory) {
            (StoreKind::Memory, None) => GuardStore::Memory,
            (StoreKind::Kubernetes, None) => GuardStore::Kubernetes(lease?),
            (StoreKind::File, Some(directory)) => GuardStore::File(directory.path()),
            (StoreKind::File, None) => {
                return self.required("guard.store", |_| Err(Problem::Requires("guard.directory")));
            }
            // Somebody believes that the count survives a restart.
            (StoreKind::Memory | StoreKind::Kubernetes, Some(directory)) => {
                let problem = Problem::Requires("guard.store = \"file\"");
                self.note(ConfigError { source: directory.source, key: "guard.directory".into(), problem });
                return None;
            }
        };
        Some(GuardConfig { attempts: attempts?, store })
    }
}

fn lease_name(text: &str) -> Result<String, Problem> {
    if is_lease_name(text) { Ok(text.to_owned()) } else { Err(Problem::LeaseName { text: text.to_owned() }) }
}
