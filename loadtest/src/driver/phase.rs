//! Phases of a run that opens all its connections before they do their work.

use std::time::Instant;

/// The phase of such a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Each connection gets its first answer.
    Opening,
    /// Waits until the effects of opening have settled.
    Settling { until: Instant },
    /// `hold`: idle; the others: working.
    Working { until: Option<Instant> },
    /// `hold`: each tunnel is verified; `pingpong` and `fairness`: last messages; `http`: requests in flight are completed. Other
    /// scenarios are always in this phase.
    Ending,
}

impl Phase {
    /// When it ends, if it ends by time.
    pub fn until(self) -> Option<Instant> {
        match self {
            Phase::Settling { until } => Some(until),
            Phase::Working { until } => until,
            Phase::Opening | Phase::Ending => None,
        }
    }
}
