//! Which mechanism was last reported for a hop, so that the log has a line for each change and not for each request.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::auth::Choice;

/// The number of the choice that was reported last.
#[derive(Debug, Default)]
pub struct ReportedChoice(AtomicUsize);

impl ReportedChoice {
    /// Whether a choice differs from the one that was reported last. From now on it is that one.
    pub fn is_news(&self, choice: &Choice<'_>) -> bool {
        // Most requests make the same choice, and then no cache line is written that all shards share.
        self.0.load(Ordering::Relaxed) != choice.number()
            && self.0.swap(choice.number(), Ordering::Relaxed) != choice.number()
    }
}
