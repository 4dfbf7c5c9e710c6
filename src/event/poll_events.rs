//! Waiting for events.

use std::io;
use std::time::Duration;

use mio::{Registry, Token};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::transport::Readiness;

/// The events of one turn.
///
/// mio registers the sockets. Waiting is done here, because mio does it through the C library's `epoll_wait`, which is
/// a cancellation point: to enter and to leave one takes longer than everything else around the system call.
pub struct PollEvents(Vec<epoll::Event>);

impl PollEvents {
    /// With room for this many events.
    pub fn with_capacity(events: usize) -> PollEvents {
        PollEvents(Vec::with_capacity(events))
    }

    /// Waits for events of what is registered, without end if there is no `timeout`. There may be none after that.
    ///
    /// # Errors
    /// A bug, or the system is out of memory.
    pub fn wait(&mut self, registry: &Registry, timeout: Option<Duration>) -> io::Result<()> {
        self.0.clear();
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        epoll::wait(registry, spare_capacity(&mut self.0), timeout.as_ref())?;
        Ok(())
    }

    /// What has happened.
    pub fn iter(&self) -> impl Iterator<Item = (Token, Readiness)> + '_ {
        self.0.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            #[allow(clippy::cast_possible_truncation, reason = "it was a usize when it was registered")]
            (Token(data.u64() as usize), Readiness::of_flags(flags))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll};

    use super::*;

    /// Something that happens to a socket or to its peer.
    type Action = fn(&UnixStream, &mut Option<UnixStream>);

    #[test]
    fn an_event_means_what_it_means_to_mio() {
        let actions: [Action; 5] = [
            |_, _| {},
            // Fails after the peer has ended its direction.
            |_, peer| drop(peer.as_mut().unwrap().write_all(b"x")),
            |_, peer| peer.as_ref().unwrap().shutdown(Shutdown::Write).unwrap(),
            |socket, _| socket.shutdown(Shutdown::Write).unwrap(),
            |_, peer| *peer = None,
        ];
        for (first, second) in
            (0..actions.len()).flat_map(|first| (0..actions.len()).map(move |second| (first, second)))
        {
            let (socket, peer) = UnixStream::pair().unwrap();
            let mut peer = Some(peer);
            let mut polls = [Poll::new().unwrap(), Poll::new().unwrap()];
            for poll in &mut polls {
                let interests = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(1 << 40 | 7), interests).unwrap();
            }
            actions[first](&socket, &mut peer);
            if peer.is_some() {
                actions[second](&socket, &mut peer);
            }
            let mut expected = Events::with_capacity(8);
            polls[0].poll(&mut expected, None).unwrap();
            let mut events = PollEvents::with_capacity(8);
            events.wait(polls[1].registry(), None).unwrap();
            let expected = expected.iter().map(|event| (event.token(), Readiness::of_event(event)));
            assert_eq!(events.iter().collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{first} {second}");
        }
    }

    #[test]
    fn waiting_ends_with_no_events_after_the_timeout() {
        let poll = Poll::new().unwrap();
        let mut events = PollEvents::with_capacity(8);
        events.wait(poll.registry(), Some(Duration::from_millis(1))).unwrap();
        assert_eq!(events.iter().count(), 0);
    }
}
