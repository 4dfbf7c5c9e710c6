//! How far a run has come whose connections are all opened before any of them works.

use std::time::Instant;

/// Where such a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Each connection gets its first answer.
    Opening,
    /// What the opening stirred up comes to rest.
    Settling { until: Instant },
    /// `hold`: idle; `pingpong` and `http`: at it.
    Working { until: Option<Instant> },
    /// `hold`: each one is proven alive; `pingpong`: last messages; `http`: requests that are under way come to their end. Also what
    /// a load that does not open all first is in all along.
    Ending,
}

impl Phase {
    /// When it ends, if by time.
    pub fn until(self) -> Option<Instant> {
        match self {
            Phase::Settling { until } => Some(until),
            Phase::Working { until } => until,
            Phase::Opening | Phase::Ending => None,
        }
    }
}
