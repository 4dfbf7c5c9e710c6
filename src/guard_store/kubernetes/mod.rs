//! A text in an annotation of a Lease (`coordination.k8s.io/v1`), which all replicas of a Deployment share.
//!
//! A Lease is what leader election uses: every cluster has it, and the API replaces it only if its `resourceVersion` is
//! the one that was read. There is one Lease for the deployment and not one for each account, because a Role can then
//! name it (`resourceNames`), and because one write carries the operations of all accounts.

mod answer;
mod client;
mod clock;
mod in_cluster;
mod lease;
mod timing;
mod trust;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use answer::Verb;
use client::Client;
pub use in_cluster::{InCluster, SERVICE_ACCOUNT_DIRECTORY, is_lease_name};
pub use lease::ANNOTATION;
use lease::Lease;
pub use timing::Timing;
use watch::LeaseWatch;

use super::cell::{Cell, Kept, Reason, Replaced, StoreFault, Version, Watch};

/// Named in the Lease's `managedFields`.
const FIELD_MANAGER: &str = "ntlm-gateway";

/// A text in an annotation of a Lease. Nothing is sent before the first call.
#[derive(Debug)]
pub struct KubernetesCell {
    client: Arc<Client>,
}

impl KubernetesCell {
    /// A cell in the Lease of this name, in the pod's own namespace.
    ///
    /// # Errors
    /// [`StoreFault::Refused`] if that is not a valid name.
    pub fn new(cluster: InCluster, lease: &str) -> Result<Self, StoreFault> {
        Self::with_timing(cluster, lease, Timing::default())
    }

    /// The same with other time limits.
    ///
    /// # Errors
    /// See [`KubernetesCell::new`].
    pub fn with_timing(cluster: InCluster, lease: &str, timing: Timing) -> Result<Self, StoreFault> {
        if !is_lease_name(lease) {
            return Err(StoreFault::Refused(Reason(format!("{lease:?} is not a valid name of a Lease"))));
        }
        Ok(Self { client: Arc::new(Client::new(cluster, lease, timing)) })
    }

    fn create(&self, text: &str) -> Result<Replaced, StoreFault> {
        let client = &self.client;
        let url = format!("{}?fieldManager={FIELD_MANAGER}", client.url_of_leases());
        let body = Lease::creation(client.lease_name(), client.cluster().namespace(), text);
        let answer = client.send(Verb::Create, &url, Some(&body))?;
        match answer.status {
            200 | 201 => self.written(client.lease_in(&answer)?, text),
            409 => Ok(Replaced::Conflict),
            _ => Err(client.fault(&answer, Verb::Create)),
        }
    }

    fn update(&self, lease: &Lease, text: &str) -> Result<Replaced, StoreFault> {
        let client = &self.client;
        let url = format!("{}?fieldManager={FIELD_MANAGER}", client.url_of_lease());
        let answer = client.send(Verb::Update, &url, Some(&lease.replacement(text)))?;
        match answer.status {
            200 | 201 => self.written(client.lease_in(&answer)?, text),
            // 404: somebody has deleted the Lease.
            409 => Ok(Replaced::Conflict),
            404 if answer.says_that_the_lease_is_missing() => Ok(Replaced::Conflict),
            _ => Err(client.fault(&answer, Verb::Update)),
        }
    }

    fn written(&self, lease: Lease, text: &str) -> Result<Replaced, StoreFault> {
        if lease.text() != Some(text) {
            let text = format!(
                "the Kubernetes API did not keep the annotation {ANNOTATION} of the Lease {}: does an admission \
                 webhook change it?",
                self.client.lease_name(),
            );
            return Err(StoreFault::Refused(Reason(text)));
        }
        let version = Version(lease.version().to_owned());
        self.client.remember(Some(lease));
        Ok(Replaced::Yes(version))
    }
}

impl Cell for KubernetesCell {
    fn read(&mut self) -> Result<Kept, StoreFault> {
        self.client.read()
    }

    fn replace(&mut self, text: &str, version: &Version) -> Result<Replaced, StoreFault> {
        if version.0.is_empty() {
            return self.create(text);
        }
        let mut lease = self.client.remembered(version);
        if lease.is_none() {
            self.client.read()?;
            lease = self.client.remembered(version);
        }
        let replaced = match lease {
            Some(lease) => self.update(&lease, text),
            None => Ok(Replaced::Conflict),
        };
        if !matches!(replaced, Ok(Replaced::Yes(_))) {
            self.client.remember(None);
        }
        replaced
    }

    fn clock_error(&self) -> Duration {
        clock::ERROR
    }

    fn watch(&self) -> Option<Box<dyn Watch>> {
        Some(Box::new(LeaseWatch::new(Arc::clone(&self.client))))
    }
}
