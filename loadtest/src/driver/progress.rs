//! The progress line, shown on a terminal only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::tally::Tally;
use crate::scenario::Load;

/// A progress line, which may be hidden.
pub struct Progress {
    bar: Option<ProgressBar>,
    /// The bar's length is a time in milliseconds, not a number of tunnels.
    by_time: bool,
}

impl Progress {
    /// A line for this many tunnels or this much time, as far as known.
    pub fn new(load: &Load, (count, time): (Option<u64>, Option<Duration>), show: bool) -> Progress {
        // indicatif hides the bar by itself if standard error is not a terminal.
        if !show {
            return Progress { bar: None, by_time: false };
        }
        let ends_by_time = time.filter(|_| load.count.is_none());
        let bar = match (ends_by_time, count) {
            (Some(time), _) => ProgressBar::new(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            (None, Some(count)) => ProgressBar::new(count),
            (None, None) => ProgressBar::new_spinner(),
        };
        let style = ProgressStyle::with_template("{prefix:10} {elapsed:>4} [{bar:24}] {msg}");
        let bar = bar.with_prefix(load.scenario.name());
        let bar = match style {
            Ok(style) => bar.with_style(style.progress_chars("=> ")),
            Err(_) => bar,
        };
        Progress { bar: Some(bar), by_time: ends_by_time.is_some() }
    }

    /// Updates the counts.
    pub fn show(&self, tally: &Tally, open: usize) {
        let Some(bar) = &self.bar else { return };
        let tunnels = &tally.tunnels;
        let elapsed_ms = u64::try_from(bar.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ended = tunnels.completed + tunnels.vanished + tunnels.failed;
        bar.set_position(if self.by_time { elapsed_ms } else { ended });
        bar.set_message(format!(
            "{open} open, {} completed, {} failed, {} messages, {} MiB",
            tunnels.completed,
            tunnels.failed,
            tally.messages,
            (tally.bytes_up + tally.bytes_down) >> 20
        ));
    }

    /// Removes the line.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
