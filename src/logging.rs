//! Log lines on standard error, as text or JSON. Logging never blocks a shard.
//!
//! ```text
//!   log! ─▶ filter ─▶ format ─▶ bounded queue ─▶ writer thread ─▶ standard error
//!                                    └─ full: the line is dropped and counted
//! ```
//!
//! The lines of the access log are formatted by the writer thread ([`Entry`]).
//!
//! If the reader of standard error stalls, its pipe fills up. Then the writer thread waits, not the event loops.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use env_logger::{Builder, Logger as Filter};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::config::LogFormat;
use crate::limits;
use entry::{Deferred, Stamped};
use format::LineFormat;
use stamp::Stamp;
use withheld::Withheld;

mod address;
mod entry;
mod format;
mod journal;
mod stamp;
mod withheld;

pub(crate) use entry::log_field_name;
pub use entry::{Entry, FieldName, Fields};

/// How long [`flush`] waits for a writer that makes no progress.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The most bytes in one write. More than the capacity of a pipe would gain nothing.
const BATCH_BYTES: usize = 64 * 1024;

static DROPPED: AtomicU64 = AtomicU64::new(0);
static PROGRESS: OnceLock<Arc<Progress>> = OnceLock::new();
static INSTALLED: OnceLock<Arc<Logger>> = OnceLock::new();

/// The number of lines dropped since the start because the queue was full.
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
    let limits = (limits::LOG_QUEUE_LINES, limits::LOG_QUEUE_BYTES);
    let (queue, progress) = start_writer(io::stderr(), format, limits, &DROPPED)?;
    let mut builder = Builder::new();
    match std::env::var("RUST_LOG") {
        Ok(filters) if !filters.is_empty() => builder.parse_filters(&filters),
        _ => builder.filter_level(level),
    };
    let logger = Arc::new(Logger { filter: builder.build(), format, queue });
    let level = logger.filter.filter();
    log::set_boxed_logger(Box::new(Withheld(Arc::clone(&logger)))).map_err(io::Error::other)?;
    log::set_max_level(level);
    let _ = PROGRESS.set(progress);
    let _ = INSTALLED.set(logger);
    Ok(LogGuard(()))
}

/// Logs what `entry` returns, if the line is wanted. The writer thread formats it, so the caller's thread has a tenth
/// of the work that `log!` would be.
pub fn entry<E: Entry>(target: &'static str, level: Level, message: &'static str, entry: impl FnOnce() -> E) {
    match INSTALLED.get() {
        Some(logger) => {
            let is_wanted = |args: fmt::Arguments<'_>| {
                logger.filter.matches(&Record::builder().target(target).level(level).args(args).build())
            };
            if is_wanted(format_args!("{message}")) {
                let line = Stamped { ms: stamp::now_ms(), target, level, message, entry: entry() };
                logger.queue.send(Queued::Deferred(Box::new(line)));
            }
        }
        None if log::log_enabled!(target: target, level) => entry::log(target, level, message, &entry()),
        None => {}
    }
}

/// Waits until the lines logged so far are written, for one second at most.
pub fn flush() {
    if let Some(progress) = PROGRESS.get() {
        progress.wait(FLUSH_TIMEOUT);
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
    /// Where a line is put together.
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A longer line than this does not leave its buffer behind.
const LINE_BYTES: usize = 4096;

struct Logger {
    filter: Filter,
    format: LineFormat,
    queue: LineQueue,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.write(record, |out, time| format::line(out, self.format, time, record));
    }

    fn flush(&self) {}
}

impl Logger {
    /// Queues what `format` makes of a record, if it is wanted.
    fn write(&self, record: &Record<'_>, format: impl FnOnce(&mut Vec<u8>, &[u8])) {
        if !self.filter.matches(record) {
            return;
        }
        // Taken, because to display a value may log a line itself. A thread that ends has none any more.
        let mut line = LINE.try_with(Cell::take).unwrap_or_default();
        line.clear();
        format(&mut line, Stamp::at(stamp::now_ms()).text());
        self.queue.send(Queued::Text(line.as_slice().into()));
        if line.capacity() <= LINE_BYTES {
            let _ = LINE.try_with(|kept| kept.set(line));
        }
    }
}

/// A line in the queue.
enum Queued {
    /// The whole line.
    Text(Box<[u8]>),
    /// What the writer makes a line of.
    Deferred(Box<dyn Deferred>),
}

impl Queued {
    /// The memory that it takes, in bytes.
    fn bytes(&self) -> usize {
        match self {
            Queued::Text(line) => line.len(),
            Queued::Deferred(line) => line.bytes(),
        }
    }

    fn append_to(&self, batch: &mut Vec<u8>, format: LineFormat) {
        match self {
            Queued::Text(line) => batch.extend_from_slice(line),
            Queued::Deferred(line) => line.append(batch, format),
        }
    }
}

/// The sending end of the queue.
struct LineQueue {
    lines: SyncSender<Queued>,
    limit_bytes: usize,
    progress: Arc<Progress>,
    dropped: &'static AtomicU64,
}

impl LineQueue {
    /// Queues one line.
    fn send(&self, line: Queued) {
        let (waiting, bytes) = (&self.progress.waiting_bytes, line.bytes());
        let fits = waiting.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.limit_bytes;
        if fits && self.lines.try_send(line).is_ok() {
            self.progress.queued.fetch_add(1, Ordering::Release);
        } else {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The progress of the writer.
#[derive(Default)]
struct Progress {
    queued: AtomicU64,
    /// The size of the lines in the queue.
    waiting_bytes: AtomicUsize,
    written: Mutex<Written>,
    moved_on: Condvar,
}

#[derive(Default)]
struct Written {
    lines: u64,
    /// Threads that wait for more.
    waiters: usize,
}

impl Progress {
    fn add_written(&self, lines: u64) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.lines += lines;
        // To notify nobody is a system call all the same.
        if written.waiters > 0 {
            self.moved_on.notify_all();
        }
    }

    /// Waits until the lines queued so far are written; `false` on a time-out.
    fn wait(&self, timeout: Duration) -> bool {
        let queued = self.queued.load(Ordering::Acquire);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.waiters += 1;
        let waited = self.moved_on.wait_timeout_while(written, timeout, |written| written.lines < queued);
        let (mut written, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        written.waiters -= 1;
        !waited.timed_out()
    }
}

/// Starts the writer thread; it ends when the queue is dropped.
fn start_writer(
    to: impl Write + Send + 'static,
    format: LineFormat,
    (lines, limit_bytes): (usize, usize),
    dropped: &'static AtomicU64,
) -> io::Result<(LineQueue, Arc<Progress>)> {
    let (queue, waiting) = sync_channel(lines);
    let progress = Arc::new(Progress::default());
    let of_writer = Arc::clone(&progress);
    thread::Builder::new().name("log".into()).spawn(move || write_lines(&waiting, to, format, &of_writer))?;
    Ok((LineQueue { lines: queue, limit_bytes, progress: Arc::clone(&progress), dropped }, progress))
}

fn write_lines(waiting: &Receiver<Queued>, mut to: impl Write, format: LineFormat, progress: &Progress) {
    let (mut behind, mut batch) = (false, Vec::new());
    while let Some(first) = next_line(waiting, behind) {
        batch.clear();
        batch.shrink_to(BATCH_BYTES);
        let (mut lines, mut bytes, mut next) = (0, 0, Some(first));
        while let Some(line) = next {
            line.append_to(&mut batch, format);
            (lines, bytes) = (lines + 1, bytes + line.bytes());
            next = if batch.len() < BATCH_BYTES { waiting.try_recv().ok() } else { None };
        }
        behind = batch.len() >= BATCH_BYTES;
        progress.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        // If standard error is closed, there is nowhere to report the failure.
        let _ = to.write_all(&batch).and_then(|()| to.flush());
        progress.add_written(lines);
    }
}

/// The next line, with others behind it if there are any; `None` when there will be none.
///
/// To wake this thread for every line took a sixth of the CPU that a busy gateway spends on a tunnel. So lines are
/// collected for a moment, and this looks for them by itself a few times before it lets itself be woken. While it is
/// `behind`, with more than one write in the queue, a pause would limit the throughput.
fn next_line(waiting: &Receiver<Queued>, behind: bool) -> Option<Queued> {
    if behind && let Ok(line) = waiting.try_recv() {
        return Some(line);
    }
    for _ in 0..limits::LOG_POLLS {
        thread::sleep(limits::LOG_BATCH_DELAY);
        match waiting.try_recv() {
            Ok(line) => return Some(line),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
    }
    let line = waiting.recv().ok()?;
    thread::sleep(limits::LOG_BATCH_DELAY);
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A writer that reports each write and blocks until it gets a permit.
    struct BlockingWriter {
        begun: mpsc::Sender<Vec<u8>>,
        permits: Receiver<()>,
    }

    impl Write for BlockingWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.begun.send(bytes.to_vec()).unwrap();
            self.permits.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(text: impl AsRef<[u8]>) -> Queued {
        Queued::Text(text.as_ref().into())
    }

    fn blocking_writer() -> (BlockingWriter, Receiver<Vec<u8>>, mpsc::Sender<()>) {
        let ((begun, writes), (permit, permits)) = (mpsc::channel(), mpsc::channel());
        (BlockingWriter { begun, permits }, writes, permit)
    }

    #[test]
    fn a_stalled_reader_costs_lines_but_no_time() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        let (writer, writes, permit) = blocking_writer();
        let (queue, progress) = start_writer(writer, LineFormat::Text, (4, 1000), &DROPPED).unwrap();
        queue.send(line(b"0\n"));
        assert_eq!(writes.recv().unwrap(), b"0\n");
        for number in 1..=6 {
            queue.send(line(format!("{number}\n")));
        }
        assert_eq!(DROPPED.load(Ordering::Relaxed), 2);
        assert!(!progress.wait(Duration::from_millis(1)), "nothing is written yet");

        permit.send(()).unwrap();
        assert_eq!(writes.recv().unwrap(), b"1\n2\n3\n4\n", "queued lines are written at once");
        permit.send(()).unwrap();
        assert!(progress.wait(Duration::from_secs(60)));
    }

    #[test]
    fn the_queue_is_limited_in_bytes_and_dropped_lines_are_counted() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        let (writer, writes, permit) = blocking_writer();
        let (queue, progress) = start_writer(writer, LineFormat::Text, (1000, 1000), &DROPPED).unwrap();
        queue.send(line(b"first\n"));
        assert_eq!(writes.recv().unwrap(), b"first\n");
        for _ in 0..20 {
            queue.send(line([b'x'; 300]));
        }
        queue.send(line(b"short\n"));
        assert_eq!(DROPPED.load(Ordering::Relaxed), 17);
        for _ in 0..2 {
            permit.send(()).unwrap();
        }
        assert_eq!(writes.recv().unwrap().len(), 906);
        assert!(progress.wait(Duration::from_secs(60)));
        queue.send(line([b'x'; 300]));
        assert_eq!(writes.recv().unwrap().len(), 300, "there is room again");
        assert_eq!(DROPPED.load(Ordering::Relaxed), 17);
    }

    #[test]
    fn the_writer_does_not_pause_while_it_is_behind() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        const BATCHES: usize = 100;
        let (queue, progress) = start_writer(io::sink(), LineFormat::Text, (BATCHES, usize::MAX), &DROPPED).unwrap();
        let began = std::time::Instant::now();
        for _ in 0..BATCHES {
            queue.send(line([b'x'; BATCH_BYTES]));
        }
        assert!(progress.wait(Duration::from_secs(60)));
        assert_eq!(DROPPED.load(Ordering::Relaxed), 0);
        let with_pauses = limits::LOG_BATCH_DELAY * u32::try_from(BATCHES).unwrap();
        assert!(began.elapsed() < with_pauses, "{:?}", began.elapsed());
    }

    #[test]
    fn a_closed_standard_error_blocks_nothing() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        let (writer, _writes, permit) = blocking_writer();
        drop(permit);
        let (queue, progress) = start_writer(writer, LineFormat::Text, (4, 1000), &DROPPED).unwrap();
        queue.send(line(b"lost\n"));
        assert!(progress.wait(Duration::from_secs(60)));
    }
}
