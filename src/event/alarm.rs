//! An alarm for times that are shorter than a poll can wait.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Ends the waiting of a poll after a time in microseconds. `epoll_wait` itself waits for whole milliseconds, and Linux
/// has had a call for shorter times since 5.11 only.
pub struct Alarm {
    timer: OwnedFd,
}

impl Alarm {
    /// An alarm that wakes the poll of `registry` with `token`.
    ///
    /// # Errors
    /// When the system has no descriptor left for it.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Alarm> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Alarm { timer })
    }

    /// Rings once after this time, and no longer at an earlier one. It is not read: setting it again is what makes the
    /// poll report it again.
    ///
    /// # Errors
    /// A bug.
    pub fn ring_in(&self, time: Duration) -> io::Result<()> {
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let time = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            // Zero would switch the alarm off.
            tv_nsec: time.subsec_nanos().max(1).into(),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: never, it_value: time })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use mio::Poll;

    use super::*;
    use crate::event::PollEvents;

    #[test]
    fn it_rings_each_time_it_is_set_and_sooner_than_a_poll_could_wait() {
        let poll = Poll::new().unwrap();
        let alarm = Alarm::new(poll.registry(), Token(7)).unwrap();
        let mut events = PollEvents::with_capacity(8);
        let mut waited = Vec::new();
        for _ in 0..50 {
            let began = Instant::now();
            alarm.ring_in(Duration::from_micros(100)).unwrap();
            events.wait(poll.registry(), Some(Duration::from_secs(5))).unwrap();
            assert_eq!(events.iter().map(|(token, _)| token).collect::<Vec<_>>(), [Token(7)]);
            waited.push(began.elapsed());
        }
        waited.sort();
        assert!(waited[0] >= Duration::from_micros(100), "{waited:?}");
        assert!(waited[0] < Duration::from_millis(1), "{waited:?}");
        assert!(waited[49] < Duration::from_secs(5), "{waited:?}");
    }

    #[test]
    fn it_does_not_ring_at_an_earlier_time_that_it_was_set_to() {
        let poll = Poll::new().unwrap();
        let alarm = Alarm::new(poll.registry(), Token(7)).unwrap();
        alarm.ring_in(Duration::from_millis(20)).unwrap();
        alarm.ring_in(Duration::from_secs(60)).unwrap();
        let mut events = PollEvents::with_capacity(8);
        events.wait(poll.registry(), Some(Duration::from_millis(100))).unwrap();
        assert_eq!(events.iter().count(), 0);
    }
}
