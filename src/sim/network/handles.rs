//! What the gateway holds in place of descriptors.

use std::io;
use std::net::{Shutdown, SocketAddr};

use mio::{Interest, Token};
use rustix::io::Errno;

use super::pipe::PipeState;
use super::{Conclusion, MOST_CALLS_PER_TURN, NETWORK, Network, Phase, with};
use crate::sim::trace::NONE;
use crate::transport::{Signs, Stream};

/// The gateway's end of a connection; dropping it closes the connection.
#[derive(Debug)]
pub struct Socket(u32);

/// The gateway's listening socket.
#[derive(Debug)]
pub struct Listener;

/// A pipe of the gateway's.
#[derive(Debug)]
pub struct Pipe(u32);

/// A call is interrupted by a signal once in this many times.
const SIGNALS: u64 = 128;

/// Connects, if this thread has a simulated network.
pub fn connect(address: SocketAddr) -> Option<io::Result<Socket>> {
    NETWORK.with_borrow_mut(|network| network.as_mut().map(|network| network.connect(address)))
}

/// Opens a pipe, if this thread has a simulated network.
pub fn open_pipe() -> Option<Option<Pipe>> {
    NETWORK.with_borrow_mut(|network| network.as_mut().map(Network::open_pipe))
}

impl Network {
    fn open_pipe(&mut self) -> Option<Pipe> {
        let (least, most) = self.pipe_slots?;
        let slots = self.rng.size(least..=most);
        self.pipes.push(PipeState::new(slots));
        u32::try_from(self.pipes.len() - 1).ok().map(Pipe)
    }

    fn is_interrupted(&mut self) -> bool {
        self.calls += 1;
        assert!(self.calls - self.calls_before_turn < MOST_CALLS_PER_TURN, "a turn never ends");
        self.rng.once_in(SIGNALS)
    }
}

impl Socket {
    pub(super) fn of(id: usize) -> Socket {
        Socket(u32::try_from(id).unwrap())
    }

    /// Its index in the network.
    pub fn id(&self) -> usize {
        self.0 as usize
    }

    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        with(|network| {
            if network.is_interrupted() {
                return Err(Errno::INTR.into());
            }
            let outcome = network.wires[self.id()].read(buffer);
            network.after_read(self.id(), "read", outcome).map_err(io::Error::from)
        })
    }

    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        with(|network| {
            if network.is_interrupted() {
                return Err(Errno::INTR.into());
            }
            let outcome = network.wires[self.id()].write(bytes);
            network.after_write(self.id(), "write", outcome).map_err(io::Error::from)
        })
    }

    pub fn take_error(&self) -> Option<io::Error> {
        with(|network| network.wires[self.id()].error.take().map(io::Error::from))
    }

    pub fn is_connected(&self) -> bool {
        with(|network| {
            let wire = &network.wires[self.id()];
            wire.phase != Phase::Connecting && wire.error.is_none()
        })
    }

    pub fn is_silent(&self) -> bool {
        with(|network| {
            let wire = &mut network.wires[self.id()];
            // Asking clears a pending error, as a read does.
            let nothing = wire.error.take().is_none() && wire.rx.is_empty();
            nothing && !wire.rx_ended && wire.phase == Phase::Open
        })
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        assert_eq!(how, Shutdown::Write);
        with(|network| {
            let outcome = network.wires[self.id()].shut();
            network.after_write(self.id(), "shutdown", outcome.map(|()| 0)).map(|_| ()).map_err(io::Error::from)
        })
    }

    pub fn original_destination(&self) -> io::Result<SocketAddr> {
        with(|network| network.wires[self.id()].original).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    pub fn reset_on_close(&self) {
        with(|network| network.wires[self.id()].resets_on_close = true);
    }

    pub fn register(&self, token: Token, interests: Interest) -> io::Result<()> {
        with(|network| {
            let wire = &mut network.wires[self.id()];
            wire.token = Some(token);
            wire.reports_room = interests.is_writable();
            wire.edge = wire.signs() != Signs::default();
        });
        Ok(())
    }

    /// Records how the tunnel of this client ended.
    pub fn conclude(&self, conclusion: Conclusion) {
        with(|network| {
            let bytes: u64 = conclusion.bytes.iter().sum();
            network.trace.note(network.now_us, conclusion.label, self.id(), usize::try_from(bytes).unwrap());
            let before = network.wires[self.id()].concluded.replace(conclusion);
            assert_eq!(before, None, "a tunnel ends once");
        });
    }
}

impl Network {
    /// The gateway has read, so more data may arrive.
    fn after_read(&mut self, id: usize, what: &'static str, outcome: Result<usize, Errno>) -> Result<usize, Errno> {
        self.trace.note(self.now_us, what, id, outcome.unwrap_or(NONE));
        let wire = &self.wires[id];
        if outcome.is_ok() && (!wire.sent.is_empty() || wire.sent_end.is_some()) {
            self.carry_in(id);
        }
        outcome
    }

    /// The gateway has written, or ended its direction.
    fn after_write(&mut self, id: usize, what: &'static str, outcome: Result<usize, Errno>) -> Result<usize, Errno> {
        self.trace.note(self.now_us, what, id, outcome.unwrap_or(NONE));
        if outcome.is_ok() {
            self.carry_out(id);
        }
        outcome
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The network may already be gone while a failed test unwinds.
        NETWORK.with_borrow_mut(|network| {
            let Some(network) = network.as_mut() else { return };
            let id = self.id();
            network.trace.note(network.now_us, "close", id, 0);
            let wire = &mut network.wires[id];
            if wire.phase == Phase::Connecting {
                wire.phase = Phase::Dead;
            }
            if wire.close() {
                wire.reset_peer();
                network.wake(id);
            } else {
                network.carry_out(id);
                network.carry_in(id);
            }
        });
    }
}

impl Listener {
    pub fn register(&self, token: Token) -> io::Result<()> {
        with(|network| {
            network.listener_token = Some(token);
            network.listener_reported = true;
        });
        Ok(())
    }

    pub fn set_reported(&self, is_reported: bool) -> io::Result<()> {
        with(|network| network.listener_reported = is_reported);
        Ok(())
    }

    pub fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        with(|network| {
            if !network.backlog.is_empty()
                && let Some(times) = network.accept_fails
                && network.rng.once_in(times)
            {
                return Err(network.rng.pick(&[Errno::MFILE, Errno::NFILE, Errno::INTR]).into());
            }
            let (id, from) = network.backlog.pop_front().ok_or(io::Error::from(Errno::AGAIN))?;
            network.trace.note(network.now_us, "accept", id, 0);
            Ok((Socket::of(id), from))
        })
    }
}

/// Clients that were not accepted are reset.
impl Drop for Listener {
    fn drop(&mut self) {
        NETWORK.with_borrow_mut(|network| {
            let Some(network) = network.as_mut() else { return };
            network.listener_token = None;
            for (id, _) in std::mem::take(&mut network.backlog) {
                let wire = &mut network.wires[id];
                wire.resets_on_close = true;
                wire.close();
                wire.reset_peer();
                network.wake(id);
            }
        });
    }
}

impl Pipe {
    pub fn fill(&self, from: &Stream, bytes: usize) -> rustix::io::Result<usize> {
        let Stream::Simulated(socket) = from else { unreachable!("a pipe of the same network") };
        with(|network| {
            if network.is_interrupted() {
                return Err(Errno::INTR);
            }
            let Network { wires, pipes, rng, .. } = network;
            let outcome = wires[socket.id()].splice(&mut pipes[self.0 as usize], bytes, rng);
            network.spliced += outcome.unwrap_or(0) as u64;
            network.after_read(socket.id(), "splice in", outcome)
        })
    }

    pub fn empty(&self, to: &Stream, bytes: usize) -> rustix::io::Result<usize> {
        let Stream::Simulated(socket) = to else { unreachable!("a pipe of the same network") };
        with(|network| {
            if network.is_interrupted() {
                return Err(Errno::INTR);
            }
            let pipe = &mut network.pipes[self.0 as usize];
            // The borrower tracks how many bytes the pipe holds.
            assert_eq!(pipe.front(usize::MAX).len(), bytes, "the borrower's count of a pipe's bytes is wrong");
            let outcome = network.wires[socket.id()].write(pipe.front(bytes));
            pipe.gone(outcome.unwrap_or(0));
            network.after_write(socket.id(), "splice out", outcome)
        })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        NETWORK.with_borrow_mut(|network| {
            if let Some(network) = network.as_mut() {
                network.pipes[self.0 as usize].open = false;
            }
        });
    }
}
