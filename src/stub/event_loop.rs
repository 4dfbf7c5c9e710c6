//! The event loop of one thread: a listener, a slab of connections, a heap of timers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::connection::{Connection, NextTurn, TurnContext};
use super::counters::Counters;
use super::proxy_session::{ProxyContext, splitmix};
use super::server::Shared;
use crate::event::{EventToken, Key, Lane, Mailbox, Sender, mailbox};
use crate::ntlm::FileTime;
use crate::transport::{Endpoint, Readiness};

const LISTENER: Token = Token(0);
const MAILBOX: Token = Token(1);

/// Events taken from the kernel in one turn.
const EVENTS_PER_TURN: usize = 1024;
/// Connections accepted in one turn, so that a burst of new ones does not starve the established ones.
const ACCEPTS_PER_TURN: usize = 256;
/// How long accepting pauses after the process ran out of descriptors or memory.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Size of one read.
const SCRATCH_BYTES: usize = 256 * 1024;

/// The only message to a loop.
pub(super) struct Stop;

/// A connection, and the generation that distinguishes it from earlier ones in its slot.
struct Slot {
    generation: u32,
    connection: Connection,
    /// Its earliest timer.
    wakes_at: Option<Instant>,
}

/// The event loop of one thread.
pub(super) struct EventLoop {
    poll: Poll,
    listener: TcpListener,
    mailbox: Mailbox<Stop>,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    slots: Slab<Slot>,
    generation: u32,
    /// The ids of connections are derived from it.
    seed: u64,
    /// When connections need a turn, by slot and generation. Timers of connections that have ended stay until they
    /// expire.
    timers: BinaryHeap<Reverse<(Instant, u32, u32)>>,
    /// Connections that have more to do and get no further event.
    run_queue: Vec<Key>,
    /// When to accept next, if connections may be waiting.
    accept_at: Option<Instant>,
    scratch: Vec<u8>,
}

impl EventLoop {
    /// Creates a loop for `listener`, and the sender that stops it.
    ///
    /// # Errors
    /// If the kernel has no descriptors left, or no randomness.
    pub(super) fn new(
        mut listener: TcpListener,
        shared: Arc<Shared>,
        counters: Arc<Counters>,
    ) -> io::Result<(EventLoop, Sender<Stop>)> {
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let (sender, mailbox) = mailbox(poll.registry(), MAILBOX)?;
        let event_loop = EventLoop {
            poll,
            listener,
            mailbox,
            shared,
            counters,
            slots: Slab::new(),
            generation: 0,
            seed: getrandom::u64().map_err(io::Error::other)?,
            timers: BinaryHeap::new(),
            run_queue: Vec::new(),
            accept_at: None,
            scratch: vec![0; SCRATCH_BYTES],
        };
        Ok((event_loop, sender))
    }

    /// Runs until it is told to stop, then drops all connections.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        loop {
            if let Err(error) = self.poll.poll(&mut events, self.poll_timeout())
                && error.kind() != io::ErrorKind::Interrupted
            {
                return;
            }
            if self.mailbox.take().next().is_some() {
                return;
            }
            let now = Instant::now();
            for event in &events {
                if event.token() == LISTENER {
                    self.accept_at = Some(now);
                } else if let Some(token) = EventToken::read(event.token()) {
                    self.turn(token.key, Some(Readiness::of_event(event)), now);
                }
            }
            for key in std::mem::take(&mut self.run_queue) {
                self.turn(key, None, now);
            }
            self.run_timers(now);
            if self.accept_at.is_some_and(|moment| moment <= now) {
                self.accept(now);
            }
        }
    }

    fn poll_timeout(&self) -> Option<Duration> {
        if !self.run_queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let moment = self.timers.peek().map(|Reverse((moment, ..))| *moment);
        let first = [moment, self.accept_at].into_iter().flatten().min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    fn run_timers(&mut self, now: Instant) {
        while let Some(Reverse((moment, index, generation))) = self.timers.peek().copied() {
            if moment > now {
                return;
            }
            self.timers.pop();
            let key = Key { index, generation };
            if let Some(slot) = self.slot(key)
                && slot.wakes_at == Some(moment)
            {
                slot.wakes_at = None;
                self.turn(key, None, now);
            }
        }
    }

    /// The slot of `key`, if it still belongs to the same connection.
    fn slot(&mut self, key: Key) -> Option<&mut Slot> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)
    }

    fn turn(&mut self, key: Key, learnt: Option<Readiness>, now: Instant) {
        let Some(slot) = self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation) else {
            return;
        };
        if let Some(ready) = learnt {
            slot.connection.learn(ready);
        }
        let proxy = ProxyContext { setup: &self.shared.setup, counters: &self.counters, now: file_time() };
        match slot.connection.turn(&mut TurnContext { proxy, now, scratch: &mut self.scratch }) {
            NextTurn::OnEvent => {}
            NextTurn::Immediately => self.run_queue.push(key),
            NextTurn::OnEventOrAt(moment) => {
                if slot.wakes_at.is_none_or(|earlier| moment < earlier) {
                    slot.wakes_at = Some(moment);
                    self.timers.push(Reverse((moment, key.index, key.generation)));
                }
            }
            NextTurn::Never => {
                self.counters.tunnels_closed.add(u64::from(slot.connection.is_tunnel()));
                self.counters.connections_closed.increment();
                self.slots.remove(key.index as usize);
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        self.accept_at = None;
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                // A connection that cannot be registered is dropped, and so closed.
                Ok((stream, _)) => drop(self.admit(stream, now)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => {
                    self.accept_at = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
        self.accept_at = Some(now);
    }

    fn admit(&mut self, stream: mio::net::TcpStream, now: Instant) -> io::Result<()> {
        stream.set_nodelay(true)?;
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let endpoint = match &self.shared.tls {
            Some(config) => Endpoint::accept_tls(stream.into(), Arc::clone(config))?,
            None => Endpoint { stream: stream.into(), ready: Readiness::HOPEFUL },
        };
        let mut connection = Connection::new(endpoint, self.shared.personality(), splitmix(self.seed), now);
        if let Some(lifetime) = self.shared.lifetime {
            connection.end_at(now + lifetime);
        }
        let entry = self.slots.vacant_entry();
        let index = u32::try_from(entry.key()).map_err(io::Error::other)?;
        let key = Key { index, generation: self.generation };
        let token = EventToken { key, lane: Lane::Downstream };
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(connection.socket(), token.into(), both)?;
        entry.insert(Slot { generation: self.generation, connection, wakes_at: None });
        self.counters.connections_opened.increment();
        self.turn(key, None, now);
        Ok(())
    }
}

/// Whether an error of `accept` concerns only the connection that was to be accepted, and not the next one.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// The present time.
pub(super) fn file_time() -> FileTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    FileTime::from_unix(since.as_secs(), since.subsec_nanos())
}
