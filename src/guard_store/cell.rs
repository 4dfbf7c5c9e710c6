//! A place that keeps one text for several processes, and replaces it only if nobody else has replaced it meanwhile.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::limits;

/// Keeps one text. Everything here may block, so it is called on the store's own threads only.
pub trait Cell: Send {
    /// Reads the text.
    ///
    /// # Errors
    /// See [`StoreFault`].
    fn read(&mut self) -> Result<Kept, StoreFault>;

    /// Replaces the text that has this version. Once this returns [`Replaced::Yes`], the new text survives the end of
    /// this process and is what every other process reads.
    ///
    /// # Errors
    /// See [`StoreFault`]. The text may have been replaced all the same: read it before the next attempt.
    fn replace(&mut self, text: &str, version: &Version) -> Result<Replaced, StoreFault>;

    /// How often the text may be read while requests wait for it to change.
    fn poll_interval(&self) -> Duration {
        limits::GUARD_STORE_POLL
    }

    /// By how much the times that two processes read from the store's clock at the same moment may differ.
    fn clock_error(&self) -> Duration {
        Duration::ZERO
    }

    /// Something that waits for changes on a thread of its own; `None` if the text has to be read again and again.
    fn watch(&self) -> Option<Box<dyn Watch>> {
        None
    }
}

/// Waits for changes of a text.
pub trait Watch: Send {
    /// Blocks until the text has been changed by anyone, this process included, or for some minutes. May return too
    /// often, and may miss a change that happened before the call.
    ///
    /// # Errors
    /// See [`StoreFault`]. The caller waits before it calls again.
    fn next(&mut self) -> Result<Kept, StoreFault>;
}

/// A text as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The text; `None` if there is none yet.
    pub text: Option<String>,
    /// Its version, for [`Cell::replace`].
    pub version: Version,
    /// What the store's clock said, in ms since 1970. All processes that share a store share its clock.
    pub at_ms: u64,
    /// Later texts that were damaged, because a process or the machine was ended while it wrote. They are gone with the
    /// next [`Cell::replace`].
    pub damaged: usize,
}

/// Which of its states a text was in. Opaque, different for every store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version(pub String);

/// Whether a text was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It was replaced, and has this version now.
    Yes(Version),
    /// Somebody else has replaced it in the meantime: read it again.
    Conflict,
}

/// Why a store could not read or replace its text.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StoreFault {
    /// It cannot be reached, is overloaded, or failed; a later attempt may succeed.
    #[error("{0}")]
    Unavailable(Reason),
    /// It must not be asked again before so many milliseconds are over.
    #[error("{reason}; it asks for a pause of {pause_ms} ms")]
    Overloaded {
        /// What it said.
        reason: Reason,
        /// The pause it asks for, in ms.
        pause_ms: u64,
    },
    /// It denies access, is not set up, or is full: somebody has to change something.
    #[error("{0}")]
    Refused(Reason),
}

/// What went wrong, in words for the log: what, where, and what to do. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(pub String);

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}
