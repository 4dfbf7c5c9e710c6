//! Destinations that failed at an upstream, by host: either may be at fault.

use super::TrialRate;
use crate::limits::{self, millis};

/// Hosts that failed since the upstream's last success, the latest last; at most [`limits::HEALTH_SUSPECTS`].
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// When the first one failed, in ms.
    since_ms: u64,
    suspects: Vec<Suspect>,
}

#[derive(Debug)]
struct Suspect {
    host: Box<str>,
    /// How often clients that ask for it may try an ejected upstream.
    trials: TrialRate,
}

impl Suspects {
    /// Records a failed destination; `true` when so many have failed, over so long a time, that the upstream is at
    /// fault.
    pub(super) fn add(&mut self, now_ms: u64, destination: &str) -> bool {
        if self.suspects.is_empty() {
            self.since_ms = now_ms;
        }
        if self.trials_of(destination).is_none() {
            if self.suspects.len() >= limits::HEALTH_SUSPECTS {
                self.suspects.remove(0);
            }
            self.suspects.push(Suspect { host: host_of(destination), trials: TrialRate::default() });
        }
        self.suspects.len() >= limits::EJECT_AFTER as usize
            && now_ms.saturating_sub(self.since_ms) >= millis(limits::EJECT_DOUBTFUL_AFTER)
    }

    /// The rate of trials for a destination; `None` if it is no suspect.
    pub(super) fn trials_of(&mut self, destination: &str) -> Option<&mut TrialRate> {
        let host = host_of(destination);
        self.suspects.iter_mut().find(|suspect| suspect.host == host).map(|suspect| &mut suspect.trials)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.suspects.len()
    }
}

/// Hosts for which the upstream failed before it had sent a challenge, and when, in ms, the latest last; at most
/// [`limits::HEALTH_SUSPECTS`], each for [`limits::CUT_OFF_AGE`].
#[derive(Debug, Default)]
pub(super) struct CutOff(Vec<(Box<str>, u64)>);

impl CutOff {
    pub(super) fn add(&mut self, now_ms: u64, destination: &str) {
        let host = host_of(destination);
        self.0.retain(|(known, _)| *known != host);
        if self.0.len() >= limits::HEALTH_SUSPECTS {
            self.0.remove(0);
        }
        self.0.push((host, now_ms));
    }

    pub(super) fn expire(&mut self, now_ms: u64) {
        self.0.retain(|(_, since_ms)| now_ms < since_ms + millis(limits::CUT_OFF_AGE));
    }

    pub(super) fn contains(&self, destination: &str) -> bool {
        let host = host_of(destination);
        self.0.iter().any(|(known, _)| *known == host)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The host of `host:port`, in the spelling that is compared.
fn host_of(destination: &str) -> Box<str> {
    let host = destination.rsplit_once(':').map_or(destination, |(host, _)| host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase().into()
}
