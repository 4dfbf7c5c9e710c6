//! How long requests and watches may take.

use std::time::Duration;

use crate::limits::{KUBERNETES_TIMEOUT, KUBERNETES_WATCH_AGE, KUBERNETES_WATCH_SHORT, KUBERNETES_WATCH_SILENCE};

/// Time limits of a [`super::KubernetesCell`]. The default is what `limits` says; tests use shorter ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Longest time for a request with its whole answer.
    pub request: Duration,
    /// After this, the API ends a watch. In whole seconds.
    pub watch_age: Duration,
    /// A watch that ends earlier than this has failed.
    pub watch_short: Duration,
    /// Longest silence of a watch.
    pub watch_silence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            request: KUBERNETES_TIMEOUT,
            watch_age: KUBERNETES_WATCH_AGE,
            watch_short: KUBERNETES_WATCH_SHORT,
            watch_silence: KUBERNETES_WATCH_SILENCE,
        }
    }
}
