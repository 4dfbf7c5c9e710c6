//! Log lines on standard error, as text or JSON. Logging never blocks a shard.
//!
//! ```text
//!   log! ─▶ filter ─▶ format ─▶ the thread's buffer ─▶ writer thread ─▶ standard error
//!                                    └─ full: the line is dropped and counted
//! ```
//!
//! If the reader of standard error stalls, its pipe fills up. Then the writer thread waits, not the event loops.

use std::cell::{Cell, OnceCell};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use env_logger::{Builder, Logger as Filter};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::config::LogFormat;
use crate::limits;
use format::LineFormat;
use lines::{Buffer, Lines};
use stamp::Stamp;
use withheld::Withheld;

mod address;
mod entry;
mod format;
mod journal;
mod lines;
mod stamp;
mod withheld;

pub(crate) use entry::log_field_name;
pub use entry::{Entry, FieldName, Fields};

/// How long [`flush`] waits for a writer that makes no progress.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static DROPPED: AtomicU64 = AtomicU64::new(0);
static INSTALLED: OnceLock<Arc<Logger>> = OnceLock::new();

/// The number of lines dropped since the start because too many waited to be written.
#[must_use]
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Starts logging to standard error. `RUST_LOG`, if set, takes precedence over `level`; it has the syntax of
/// `env_logger`: `info,ntlm_gateway::auth=trace`. Lines that would show a secret are left out.
///
/// # Errors
/// The writer thread cannot be started, or a logger is already installed.
pub fn init(format: LogFormat, level: LevelFilter) -> io::Result<LogGuard> {
    let format = LineFormat::new(format, journal::has_standard_error());
    let lines = Lines::written_to(io::stderr(), limits::LOG_WAITING_BYTES, &DROPPED)?;
    let mut builder = Builder::new();
    match std::env::var("RUST_LOG") {
        Ok(filters) if !filters.is_empty() => builder.parse_filters(&filters),
        _ => builder.filter_level(level),
    };
    let logger = Arc::new(Logger { filter: builder.build(), format, lines });
    let level = logger.filter.filter();
    log::set_boxed_logger(Box::new(Withheld(Arc::clone(&logger)))).map_err(io::Error::other)?;
    log::set_max_level(level);
    let _ = INSTALLED.set(logger);
    Ok(LogGuard(()))
}

/// Logs an entry, if the line is wanted. It is written straight into the thread's buffer, without `fmt`, which `log!`
/// needs.
pub fn entry(target: &'static str, level: Level, message: &'static str, entry: &impl Entry) {
    match INSTALLED.get() {
        Some(logger) => {
            let is_wanted = |args: std::fmt::Arguments<'_>| {
                logger.filter.matches(&Record::builder().target(target).level(level).args(args).build())
            };
            if is_wanted(format_args!("{message}")) {
                let stamp = Stamp::at(stamp::now_ms());
                logger.add(|out| entry::append(out, logger.format, stamp.text(), (level, target), message, entry));
            }
        }
        None if log::log_enabled!(target: target, level) => entry::log(target, level, message, entry),
        None => {}
    }
}

/// Waits until the lines logged so far are written, for one second at most.
pub fn flush() {
    if let Some(logger) = INSTALLED.get() {
        logger.lines.flush(FLUSH_TIMEOUT);
    }
}

/// Calls [`flush`] when dropped. Keep it until the end of the program.
#[derive(Debug)]
#[must_use = "the last lines are lost if it is dropped too early"]
pub struct LogGuard(());

impl Drop for LogGuard {
    fn drop(&mut self) {
        flush();
    }
}

thread_local! {
    /// Where a line of `log!` is put together.
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// This thread's lines for the writer.
    static BUFFER: OnceCell<Arc<Buffer>> = const { OnceCell::new() };
}

/// A longer line than this does not leave its buffer behind.
const LINE_BYTES: usize = 4096;

struct Logger {
    filter: Filter,
    format: LineFormat,
    lines: Arc<Lines>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.filter.matches(record) {
            return;
        }
        // Taken, because to display a value may log a line itself. A thread that ends has none any more.
        let mut line = LINE.try_with(Cell::take).unwrap_or_default();
        line.clear();
        format::line(&mut line, self.format, Stamp::at(stamp::now_ms()).text(), record);
        self.add(|out| out.extend_from_slice(&line));
        if line.capacity() <= LINE_BYTES {
            let _ = LINE.try_with(|kept| kept.set(line));
        }
    }

    fn flush(&self) {}
}

impl Logger {
    /// Adds a line to this thread's buffer.
    fn add(&self, append: impl FnOnce(&mut Vec<u8>)) {
        let mut append = Some(append);
        let mut add_to = |buffer: &Buffer| append.take().map(|append| self.lines.add(buffer, append));
        if BUFFER.try_with(|buffer| add_to(buffer.get_or_init(|| self.lines.buffer()))).is_err() {
            add_to(self.lines.last_lines());
        }
    }
}
