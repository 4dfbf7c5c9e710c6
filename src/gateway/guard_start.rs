//! Starts the store behind the credential guard.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::config::{GuardConfig, GuardStore};
use crate::guard_store::kubernetes::{InCluster, KubernetesCell, SERVICE_ACCOUNT_DIRECTORY};
use crate::guard_store::{Cell, FileCell, Observer, StoreFault, StoreThread};
use crate::limits;
use crate::metrics::Metrics;
use crate::upstream::{Accounts, GuardPolicy, Store};

/// The directory of the service account's files, if it is not where Kubernetes mounts it.
const SERVICE_ACCOUNT_VARIABLE: &str = "KUBERNETES_SERVICE_ACCOUNT_DIRECTORY";

/// The store behind the guard, for the life of the process.
pub(super) struct GuardStart {
    policy: GuardPolicy,
    thread: Option<Arc<StoreThread>>,
    fault: Arc<Mutex<Option<String>>>,
}

impl GuardStart {
    /// Starts the store's thread, if there is a store besides the process's memory.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn new(config: &GuardConfig, epoch: Instant, metrics: &Arc<Metrics>) -> io::Result<GuardStart> {
        let policy = policy(config);
        let fault = Arc::default();
        let cell = cell(config).map_err(|fault| io::Error::other(format!("guard.store: {fault}")))?;
        let Some(cell) = cell else { return Ok(GuardStart { policy, thread: None, fault }) };
        metrics.guard.store_up.set(1);
        let watcher = StoreWatcher {
            metrics: Arc::clone(metrics),
            fault: Arc::clone(&fault),
            is_reported: AtomicBool::new(false),
        };
        let thread = StoreThread::start(cell, policy, config.max_replicas, epoch, Box::new(watcher))?;
        Ok(GuardStart { policy, thread: Some(Arc::new(thread)), fault })
    }

    pub(super) fn accounts(&self) -> Accounts {
        match &self.thread {
            Some(thread) => Accounts::with_store(self.policy, Arc::clone(thread) as Arc<dyn Store>),
            None => Accounts::new(self.policy),
        }
    }

    /// Waits until it is known whether the secrets are rejected, so that a gateway that is not ready never says it is.
    pub(super) fn learn(&self) {
        if let Some(thread) = &self.thread {
            thread.flush(limits::GUARD_STORE_START_WAIT);
        }
    }

    /// Gives back what was reserved and is not used.
    pub(super) fn close(&self) {
        if let Some(thread) = &self.thread {
            thread.close(limits::GUARD_STORE_START_WAIT);
        }
    }

    /// Why the store cannot be used, if so.
    pub(super) fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The guard's policy with the configured number of attempts.
pub(crate) fn policy(config: &GuardConfig) -> GuardPolicy {
    GuardPolicy { attempts: config.attempts, ..GuardPolicy::default() }
}

/// The configured store; `None` if failed logons are counted in the process alone.
///
/// # Errors
/// The process does not run in a pod, or its service account is not mounted.
pub(crate) fn cell(config: &GuardConfig) -> Result<Option<Box<dyn Cell>>, StoreFault> {
    Ok(match &config.store {
        GuardStore::Memory => None,
        GuardStore::File(directory) => Some(Box::new(FileCell::new(directory))),
        GuardStore::Kubernetes(lease) => {
            let directory = std::env::var_os(SERVICE_ACCOUNT_VARIABLE);
            let directory = directory.as_ref().map_or(Path::new(SERVICE_ACCOUNT_DIRECTORY), Path::new);
            Some(Box::new(KubernetesCell::new(InCluster::from_environment(directory)?, lease)?))
        }
    })
}

/// Makes the state of the store visible.
struct StoreWatcher {
    metrics: Arc<Metrics>,
    fault: Arc<Mutex<Option<String>>>,
    is_reported: AtomicBool,
}

impl Observer for StoreWatcher {
    fn store_state(&self, fault: Option<&StoreFault>) {
        self.metrics.guard.store_up.set(i64::from(fault.is_none()));
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault.map(StoreFault::to_string);
        match fault {
            Some(fault) if !self.is_reported.swap(true, Ordering::Relaxed) => log::error!(
                "the guard's store is out of reach: {fault}; secrets that are not known to be accepted are not used until it is back"
            ),
            Some(fault) => log::debug!("the guard's store is still out of reach: {fault}"),
            None => {
                self.is_reported.store(false, Ordering::Relaxed);
                log::info!("the guard's store is back");
            }
        }
    }
}
