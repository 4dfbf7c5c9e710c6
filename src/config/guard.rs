//! The settings of the credential guard.

use std::path::PathBuf;

use super::error::Problem;
use super::parse::Reader;
use super::values::parse_integer;
use crate::guard_store::kubernetes::is_lease_name;

const ATTEMPTS: std::ops::RangeInclusive<usize> = 2..=10;
const MAX_REPLICAS: std::ops::RangeInclusive<usize> = 0..=1000;
const STORES: &[(&str, StoreKind)] =
    &[("memory", StoreKind::Memory), ("file", StoreKind::File), ("kubernetes", StoreKind::Kubernetes)];

/// The settings of the credential guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardConfig {
    /// Failed logons allowed to an account in 30 minutes, from 2 to 10.
    pub attempts: usize,
    /// Where they are counted.
    pub store: GuardStore,
    /// The most processes that share the store and have a share of the attempts while it is out of reach; 0 for none.
    pub max_replicas: usize,
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
        let max_replicas = self.required("guard.max_replicas", |text| Ok(parse_integer(text, MAX_REPLICAS)?));
        let kind = self.choice("guard.store", STORES);
        let lease = self.required("guard.lease", lease_name);
        let directory = self.settings.effective("guard.directory").map(|setting| setting.path());
        let store = match kind? {
            StoreKind::Memory => GuardStore::Memory,
            StoreKind::File => GuardStore::File(directory?),
            StoreKind::Kubernetes => GuardStore::Kubernetes(lease?),
        };
        Some(GuardConfig { attempts: attempts?, store, max_replicas: max_replicas? })
    }
}

fn lease_name(text: &str) -> Result<String, Problem> {
    if is_lease_name(text) { Ok(text.to_owned()) } else { Err(Problem::LeaseName { text: text.to_owned() }) }
}
