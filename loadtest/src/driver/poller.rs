//! A poll with a precise timer: its own time-out is in milliseconds, too coarse for an open loop.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

/// The timer's token; connections use their slot's number.
pub const TIMER: Token = Token(usize::MAX);

/// A poll and its timer.
pub struct Poller {
    poll: Poll,
    timer: OwnedFd,
}

impl Poller {
    pub fn new() -> io::Result<Poller> {
        let poll = Poll::new()?;
        let timer =
            rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Poller { poll, timer })
    }

    pub fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Waits for sockets, at most until `when`.
    pub fn wait(&mut self, when: Instant, events: &mut Events) -> io::Result<()> {
        let now = Instant::now();
        let mut timeout = Some(Duration::from_secs(1));
        if when <= now {
            timeout = Some(Duration::ZERO);
        } else {
            let wait = when - now;
            let value = Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(wait.subsec_nanos()),
            };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        }
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            result => result,
        }
    }
}
