//! Lines on their way to standard error: every thread has a buffer, and the writer's thread empties them.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;
use std::{io, mem};

use crate::limits;

/// The lines of all threads that are not written yet.
pub(super) struct Lines {
    buffers: Mutex<Vec<Arc<Buffer>>>,
    /// For lines of threads that end and have no buffer of their own any more.
    last_lines: Arc<Buffer>,
    /// The size of all lines in the buffers, and being written.
    waiting_bytes: AtomicUsize,
    limit_bytes: usize,
    dropped: &'static AtomicU64,
    writer: OnceLock<Thread>,
    /// The writer looks for lines only after it has been woken.
    writer_sleeps: AtomicBool,
    rounds: Mutex<Rounds>,
    round_ended: Condvar,
}

/// The lines of one thread that the writer has not taken. Nobody but the two wants its lock, so hardly ever does one of
/// them wait for it. Buffers of different threads share no line of the processor's cache.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Buffer(Mutex<Vec<u8>>);

/// Rounds of the writer, in each of which it writes what was in the buffers when the round began.
#[derive(Default)]
struct Rounds {
    /// How many were asked for.
    asked: u64,
    /// The last of those that has ended.
    ended: u64,
    /// Threads that wait for one.
    waiters: usize,
}

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Starts the writer. At most `limit_bytes` of lines wait for it; what does not fit is dropped and counted.
    ///
    /// # Errors
    /// The writer's thread cannot be started.
    pub(super) fn written_to(
        to: impl Write + Send + 'static,
        limit_bytes: usize,
        dropped: &'static AtomicU64,
    ) -> io::Result<Arc<Lines>> {
        let last_lines = Arc::new(Buffer::default());
        let lines = Arc::new(Lines {
            buffers: Mutex::new(vec![Arc::clone(&last_lines)]),
            last_lines,
            waiting_bytes: AtomicUsize::new(0),
            limit_bytes,
            dropped,
            writer: OnceLock::new(),
            writer_sleeps: AtomicBool::new(false),
            rounds: Mutex::default(),
            round_ended: Condvar::new(),
        });
        let of_writer = Arc::clone(&lines);
        thread::Builder::new().name("log".into()).spawn(move || of_writer.run_writer(to))?;
        Ok(lines)
    }

    /// A buffer for another thread; the writer forgets it once it is empty and nobody else has it.
    pub(super) fn buffer(&self) -> Arc<Buffer> {
        let buffer = Arc::new(Buffer::default());
        self.buffers().push(Arc::clone(&buffer));
        buffer
    }

    /// The buffer of threads that have none.
    pub(super) fn last_lines(&self) -> &Buffer {
        &self.last_lines
    }

    /// Adds a line that `append` appends. It must not log anything itself.
    pub(super) fn add(&self, buffer: &Buffer, append: impl FnOnce(&mut Vec<u8>)) {
        let mut waiting = buffer.lock();
        let start = waiting.len();
        append(&mut waiting);
        let bytes = waiting.len().saturating_sub(start);
        if self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.limit_bytes {
            waiting.truncate(start);
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        // The writer notes that it sleeps, and then looks into every buffer once more. One of the two has had the lock
        // first: either the writer finds this line, or its note is seen here.
        drop(waiting);
        if self.writer_sleeps.load(Ordering::Relaxed) {
            self.wake_writer();
        }
    }

    #[cold]
    fn wake_writer(&self) {
        if self.writer_sleeps.swap(false, Ordering::Relaxed)
            && let Some(writer) = self.writer.get()
        {
            writer.unpark();
        }
    }

    /// Waits until the lines added so far are written; `false` on a time-out.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let mut rounds = self.rounds();
        rounds.asked += 1;
        rounds.waiters += 1;
        let wanted = rounds.asked;
        self.wake_writer();
        let waited = self.round_ended.wait_timeout_while(rounds, timeout, |rounds| rounds.ended < wanted);
        let (mut rounds, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        rounds.waiters -= 1;
        !waited.timed_out()
    }

    /// What the writer's thread does for as long as the process lives.
    ///
    /// To wake the writer for every line took a sixth of the CPU that a busy gateway spends on a tunnel. So lines are
    /// collected for a moment, and it looks for them by itself a few times before it lets itself be woken. After a
    /// round in which it wrote very much, it does not pause, because the buffers could fill up meanwhile.
    fn run_writer(&self, mut to: impl Write) {
        let _ = self.writer.set(thread::current());
        let (mut full, mut spare) = (Vec::new(), Vec::new());
        loop {
            let mut bytes = 0;
            for _ in 0..limits::LOG_POLLS {
                thread::sleep(limits::LOG_BATCH_DELAY);
                bytes = self.write_round(&mut to, &mut full, &mut spare);
                while bytes >= self.limit_bytes / 4 {
                    bytes = self.write_round(&mut to, &mut full, &mut spare);
                }
                if bytes > 0 {
                    break;
                }
            }
            if bytes == 0 {
                self.sleep();
            }
        }
    }

    /// Writes what is in the buffers, and returns how many bytes that is.
    fn write_round(&self, to: &mut impl Write, full: &mut Vec<Vec<u8>>, spare: &mut Vec<Vec<u8>>) -> usize {
        let asked = self.rounds().asked;
        self.take(full, spare);
        let bytes = full.iter().map(Vec::len).sum();
        for lines in full.iter() {
            // If standard error is closed, there is nowhere to report the failure.
            let _ = to.write_all(lines).and_then(|()| to.flush());
        }
        for mut lines in full.drain(..) {
            lines.clear();
            lines.shrink_to(limits::LOG_BUFFER_BYTES);
            spare.push(lines);
        }
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let mut rounds = self.rounds();
        rounds.ended = asked;
        // To notify nobody is a system call all the same.
        if rounds.waiters > 0 {
            self.round_ended.notify_all();
        }
        bytes
    }

    /// Takes the lines out of all buffers, and leaves empty ones.
    fn take(&self, full: &mut Vec<Vec<u8>>, spare: &mut Vec<Vec<u8>>) {
        let mut buffers = self.buffers();
        for buffer in buffers.iter() {
            let mut waiting = buffer.lock();
            if !waiting.is_empty() {
                full.push(mem::replace(&mut *waiting, spare.pop().unwrap_or_default()));
            }
        }
        // Nothing comes any more from a thread that has ended.
        buffers.retain(|buffer| Arc::strong_count(buffer) > 1 || !buffer.lock().is_empty());
        spare.truncate(buffers.len());
    }

    /// Waits until there is a line, or somebody asks for a round.
    fn sleep(&self) {
        self.writer_sleeps.store(true, Ordering::Relaxed);
        let has_lines = self.buffers().iter().any(|buffer| !buffer.lock().is_empty());
        let Rounds { asked, ended, .. } = *self.rounds();
        if has_lines || ended < asked {
            self.writer_sleeps.store(false, Ordering::Relaxed);
        }
        while self.writer_sleeps.load(Ordering::Relaxed) {
            thread::park();
        }
    }

    fn buffers(&self) -> MutexGuard<'_, Vec<Arc<Buffer>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rounds(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    const LIMIT_BYTES: usize = 1000;
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A writer that reports each write and blocks until it gets a permit.
    struct BlockingWriter {
        begun: Sender<Vec<u8>>,
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

    /// Lines with a blocking writer, what it writes, and where it gets its permits from.
    fn with_blocking_writer(dropped: &'static AtomicU64) -> (Arc<Lines>, Receiver<Vec<u8>>, Sender<()>) {
        let ((begun, writes), (permit, permits)) = (channel(), channel());
        let lines = Lines::written_to(BlockingWriter { begun, permits }, LIMIT_BYTES, dropped).unwrap();
        (lines, writes, permit)
    }

    fn add(lines: &Lines, buffer: &Buffer, text: impl AsRef<[u8]>) {
        lines.add(buffer, |out| out.extend_from_slice(text.as_ref()));
    }

    #[test]
    fn a_stalled_reader_costs_lines_but_no_time() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        let (lines, writes, permit) = with_blocking_writer(&DROPPED);
        let buffer = lines.buffer();
        add(&lines, &buffer, "0\n");
        assert_eq!(writes.recv().unwrap(), b"0\n");
        add(&lines, &buffer, "1\n");
        add(&lines, &buffer, [b'x'; LIMIT_BYTES]);
        add(&lines, &buffer, "2\n");
        assert_eq!(DROPPED.load(Ordering::Relaxed), 1);
        assert!(!lines.flush(Duration::from_millis(1)), "nothing is written yet");

        permit.send(()).unwrap();
        assert_eq!(writes.recv().unwrap(), b"1\n2\n", "waiting lines are written at once");
        permit.send(()).unwrap();
        assert!(lines.flush(PATIENCE));
    }

    #[test]
    fn waiting_lines_are_limited_in_bytes_over_all_threads_and_dropped_ones_are_counted() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        let (lines, writes, permit) = with_blocking_writer(&DROPPED);
        let buffers = [lines.buffer(), lines.buffer()];
        add(&lines, &buffers[0], "first\n");
        assert_eq!(writes.recv().unwrap(), b"first\n");
        for number in 0..20 {
            add(&lines, &buffers[number % 2], [b'x'; 300]);
        }
        add(&lines, &buffers[0], "short\n");
        assert_eq!(DROPPED.load(Ordering::Relaxed), 17);
        (0..3).for_each(|_| permit.send(()).unwrap());
        let written = [writes.recv().unwrap().len(), writes.recv().unwrap().len()];
        assert_eq!(written, [606, 300], "one write for each thread");
        assert!(lines.flush(PATIENCE));
        add(&lines, &buffers[1], [b'x'; 300]);
        assert_eq!(writes.recv().unwrap().len(), 300, "there is room again");
        assert_eq!(DROPPED.load(Ordering::Relaxed), 17);
    }

    #[test]
    fn the_writer_does_not_pause_while_there_is_very_much_to_write() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        const ROUNDS: u32 = 100;
        let (lines, writes, permit) = with_blocking_writer(&DROPPED);
        let buffer = lines.buffer();
        add(&lines, &buffer, [b'x'; LIMIT_BYTES / 2]);
        let rounds_take = || {
            let began = Instant::now();
            for _ in 0..ROUNDS {
                writes.recv().unwrap();
                add(&lines, &buffer, [b'x'; LIMIT_BYTES / 2]);
                permit.send(()).unwrap();
            }
            began.elapsed()
        };
        // On a busy machine, other work may take as long as the pauses would.
        let fewest = (0..5).map(|_| rounds_take()).min().unwrap();
        assert_eq!(DROPPED.load(Ordering::Relaxed), 0);
        assert!(fewest < limits::LOG_BATCH_DELAY * ROUNDS / 2, "{fewest:?}");
    }

    #[test]
    fn a_line_wakes_the_writer_if_it_sleeps() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        let (lines, writes, permit) = with_blocking_writer(&DROPPED);
        let buffer = lines.buffer();
        for _ in 0..3 {
            let until = Instant::now() + PATIENCE;
            while !lines.writer_sleeps.load(Ordering::Relaxed) {
                assert!(Instant::now() < until, "the writer does not fall asleep");
                thread::yield_now();
            }
            add(&lines, &buffer, "line\n");
            assert_eq!(writes.recv_timeout(PATIENCE).unwrap(), b"line\n");
            permit.send(()).unwrap();
        }
    }

    #[test]
    fn a_closed_standard_error_blocks_nothing() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        let (lines, _writes, permit) = with_blocking_writer(&DROPPED);
        drop(permit);
        add(&lines, lines.last_lines(), "lost\n");
        assert!(lines.flush(PATIENCE));
    }

    #[test]
    fn no_line_is_lost_when_many_threads_write_lines_and_end() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        const THREADS: usize = 50;
        const LINES: usize = 20;
        let (written, writes) = channel();
        struct Collector(Sender<Vec<u8>>);
        impl Write for Collector {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::written_to(Collector(written), 1 << 20, &DROPPED).unwrap();
        thread::scope(|scope| {
            for number in 0..THREADS {
                let lines = &lines;
                scope.spawn(move || {
                    let buffer = lines.buffer();
                    for line in 0..LINES {
                        // Some come while the writer sleeps.
                        thread::sleep(Duration::from_millis((number * line % 7) as u64 * 20));
                        add(lines, &buffer, format!("{number} {line}\n"));
                    }
                });
            }
        });
        assert!(lines.flush(PATIENCE));
        let all: Vec<u8> = writes.try_iter().flatten().collect();
        let text = String::from_utf8(all).unwrap();
        let mut expected = [0; THREADS];
        for line in text.lines() {
            let (thread, number) = line.split_once(' ').unwrap();
            let expected = &mut expected[thread.parse::<usize>().unwrap()];
            assert_eq!(number.parse(), Ok(*expected), "the lines of a thread keep their order");
            *expected += 1;
        }
        assert_eq!(expected, [LINES; THREADS]);
        lines.take(&mut Vec::new(), &mut Vec::new());
        assert_eq!(lines.buffers().len(), 1, "the buffers of threads that have ended are forgotten");
    }
}
