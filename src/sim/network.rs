//! The simulated network of a thread: connections, a listener, pipes, the poll, and the passing of time.
//!
//! The gateway uses it through the handles [`Socket`], [`Listener`] and [`Pipe`], which `transport::Stream`,
//! `transport::Listener` and `transport::Pipe` hold in tests; the simulated world uses it through [`with`]. Nothing
//! here blocks, and all randomness comes from one seed.

mod far_tls;
mod handles;
mod pipe;
mod wire;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::net::SocketAddr;

use mio::Token;
use rustix::io::Errno;

use super::rng::Rng;
use super::trace::{self, NONE, Trace};
use crate::transport::{Readiness, Signs};
pub use far_tls::{TlsCounts, TlsOddity, TlsTraits};
pub use handles::{Listener, Pipe, Socket, connect, open_pipe};
use pipe::PipeState;
pub use wire::{Conclusion, End, Pace, Phase, Traits, Wire};

thread_local! {
    static NETWORK: RefCell<Option<Network>> = const { RefCell::new(None) };
}

/// Installs a network for this thread, or removes it.
pub fn install(network: Option<Network>) {
    NETWORK.set(network);
}

/// Borrows this thread's network.
pub fn with<T>(use_it: impl FnOnce(&mut Network) -> T) -> T {
    NETWORK.with_borrow_mut(|network| use_it(network.as_mut().expect("this thread has a simulated network")))
}

/// Calls that the gateway may make in one turn: one for every few bytes that a tunnel may move in it.
const MOST_CALLS_PER_TURN: u64 = 300_000;

/// How an address reacts to a connection attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Accepts after a delay in µs between these bounds.
    Accepts(u64, u64),
    /// Accepts one connection at once. After that it is unreachable.
    AcceptsOnce,
    /// Refuses after at most this many µs.
    Refuses(u64),
    /// Is unreachable, which `connect` reports at once.
    Unreachable,
    /// Never answers.
    DropsSyns,
    /// The gateway's process is out of descriptors at every other attempt.
    OutOfDescriptors,
}

/// A scheduled action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Arrive(usize),
    CarryIn(usize),
    CarryOut(usize),
    Wake(usize),
    /// A timer of the world's.
    Alarm(u64),
}

/// What the world has to attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The peer of a connection may have something to do.
    Peer(usize),
    /// A timer of the world's own has expired.
    Alarm(u64),
}

/// How the poll behaves.
#[derive(Clone, Copy, Debug)]
pub struct PollTraits {
    /// An event is delayed once in this many times.
    pub delays: u64,
    /// An event is repeated, empty or outdated once in this many turns.
    pub noise: u64,
}

/// The network of one thread.
pub struct Network {
    pub now_us: u64,
    pub trace: Trace,
    pub rng: Rng,
    pub wires: Vec<Wire>,
    pub addresses: BTreeMap<SocketAddr, Address>,
    /// The address of each connection that the gateway opened.
    pub dialled: BTreeMap<usize, SocketAddr>,
    pub poll: PollTraits,
    /// Bounds of a new pipe's slots; `None`: no pipe can be opened.
    pub pipe_slots: Option<(usize, usize)>,
    /// Traits of the connections that the gateway opens.
    pub traits: Vec<Traits>,
    /// Accepting fails once in this many times.
    pub accept_fails: Option<u64>,
    /// Upstreams that were ejected, by index.
    pub ejected: Vec<usize>,
    /// Calls that the gateway has made, and bytes that it has spliced.
    pub calls: u64,
    calls_before_turn: u64,
    pub spliced: u64,
    pub tls_counts: TlsCounts,
    agenda: BinaryHeap<Reverse<(u64, u64, Action)>>,
    next_number: u64,
    backlog: VecDeque<(usize, SocketAddr)>,
    listener_token: Option<Token>,
    /// The poll reports clients in the backlog.
    listener_reported: bool,
    pipes: Vec<PipeState>,
    /// Recent events, to be repeated.
    past: VecDeque<(Token, Signs)>,
}

impl Network {
    pub fn new(rng: Rng, trace: Trace) -> Network {
        Network {
            now_us: 0,
            trace,
            rng,
            wires: Vec::new(),
            addresses: BTreeMap::new(),
            dialled: BTreeMap::new(),
            poll: PollTraits { delays: 4, noise: 8 },
            pipe_slots: None,
            traits: Vec::new(),
            accept_fails: None,
            ejected: Vec::new(),
            calls: 0,
            calls_before_turn: 0,
            spliced: 0,
            tls_counts: TlsCounts::default(),
            agenda: BinaryHeap::new(),
            next_number: 0,
            backlog: VecDeque::new(),
            listener_token: None,
            listener_reported: false,
            pipes: Vec::new(),
            past: VecDeque::new(),
        }
    }

    fn schedule(&mut self, delay_us: u64, action: Action) {
        self.next_number += 1;
        self.agenda.push(Reverse((self.now_us + delay_us, self.next_number, action)));
    }

    /// When the next action is due, in µs.
    pub fn next_us(&self) -> Option<u64> {
        self.agenda.peek().map(|Reverse((at_us, ..))| *at_us)
    }

    /// Runs the next action that is due; `None` if none is.
    pub fn run_due(&mut self) -> Option<Option<Call>> {
        let at_us = self.next_us().filter(|at_us| *at_us <= self.now_us)?;
        let Reverse((_, _, action)) = self.agenda.pop()?;
        debug_assert!(at_us <= self.now_us);
        Some(match action {
            Action::Arrive(id) => {
                self.arrive(id);
                Some(Call::Peer(id))
            }
            Action::CarryIn(id) => {
                let wire = &mut self.wires[id];
                wire.moving_in = false;
                let goes_on = wire.carry_in(&mut self.rng);
                self.trace.note(self.now_us, "carry in", id, self.wires[id].rx.len());
                if goes_on {
                    self.carry_in(id);
                }
                self.wake(id);
                None
            }
            Action::CarryOut(id) => {
                let wire = &mut self.wires[id];
                wire.moving_out = false;
                let goes_on = wire.carry_out(&mut self.rng);
                self.trace.note(self.now_us, "carry out", id, self.wires[id].inbox.len());
                if goes_on {
                    self.carry_out(id);
                }
                self.wake(id);
                None
            }
            Action::Wake(id) => {
                self.wires[id].waking = false;
                Some(Call::Peer(id))
            }
            Action::Alarm(what) => Some(Call::Alarm(what)),
        })
    }

    /// A connection attempt of the gateway's reaches its address.
    fn arrive(&mut self, id: usize) {
        let wire = &mut self.wires[id];
        if !wire.held || wire.phase != Phase::Connecting {
            return;
        }
        match self.addresses[&self.dialled[&id]] {
            Address::Refuses(_) => wire.die(Errno::CONNREFUSED),
            _ => {
                wire.phase = Phase::Open;
                wire.edge = true;
            }
        }
        self.trace.note(self.now_us, "arrive", id, 0);
    }

    fn carry_in(&mut self, id: usize) {
        if !self.wires[id].moving_in {
            self.wires[id].moving_in = true;
            let delay_us = self.wires[id].traits.pace.delay_us(&mut self.rng);
            self.schedule(delay_us, Action::CarryIn(id));
        }
    }

    fn carry_out(&mut self, id: usize) {
        if !self.wires[id].moving_out {
            self.wires[id].moving_out = true;
            let delay_us = self.wires[id].traits.pace.delay_us(&mut self.rng);
            self.schedule(delay_us, Action::CarryOut(id));
        }
    }

    fn wake(&mut self, id: usize) {
        if !self.wires[id].waking {
            self.wires[id].waking = true;
            let delay_us = self.rng.within(0..=20);
            self.schedule(delay_us, Action::Wake(id));
        }
    }

    /// Schedules a timer of the world's.
    pub fn alarm(&mut self, delay_us: u64, what: u64) {
        self.schedule(delay_us, Action::Alarm(what));
    }

    /// Wakes a connection's peer later.
    pub fn wake_in(&mut self, id: usize, delay_us: u64) {
        self.schedule(delay_us, Action::Wake(id));
    }

    // The peers' side.

    /// A client connects; it is reset if the listener is closed.
    pub fn client_connects(&mut self, traits: Traits, from: SocketAddr) -> usize {
        let id = self.wires.len();
        self.wires.push(Wire::new(traits, Phase::Open));
        self.trace.note(self.now_us, "client comes", id, usize::from(from.port()));
        if self.listener_token.is_none() {
            let wire = &mut self.wires[id];
            wire.close();
            wire.reset_peer();
            return id;
        }
        self.backlog.push_back((id, from));
        id
    }

    /// A peer writes; returns how many bytes it could.
    pub fn peer_write(&mut self, id: usize, bytes: &[u8]) -> usize {
        if self.wires[id].tls.is_some() {
            return self.write_secured(id, bytes);
        }
        let wire = &mut self.wires[id];
        if wire.sent_end.is_some() {
            return 0;
        }
        let count = bytes.len().min(wire.traits.sent_capacity.saturating_sub(wire.sent.len()));
        wire.sent.push(&bytes[..count]);
        if count > 0 {
            self.trace.note(self.now_us, "peer writes", id, count);
            self.carry_in(id);
        }
        count
    }

    /// A peer reads at most `most` bytes.
    pub fn peer_read(&mut self, id: usize, most: usize, into: &mut Vec<u8>) -> usize {
        if self.wires[id].tls.is_some() {
            return self.read_secured(id, most, into);
        }
        let wire = &mut self.wires[id];
        let bytes = wire.inbox.front(most);
        let count = bytes.len();
        into.extend_from_slice(bytes);
        wire.inbox.drop_front(count);
        if count > 0 {
            self.trace.note(self.now_us, "peer reads", id, count);
            self.carry_out(id);
        }
        count
    }

    /// A peer ends its direction, or resets the connection, which discards some of the data in flight.
    pub fn peer_end(&mut self, id: usize, end: End) {
        if end == End::Fin && self.wires[id].sent_end.is_none() {
            self.say_goodbye(id);
        }
        self.end_raw(id, end);
    }

    fn end_raw(&mut self, id: usize, end: End) {
        let wire = &mut self.wires[id];
        if wire.sent_end == Some(End::Reset) || wire.sent_end == Some(end) {
            return;
        }
        wire.sent_end = Some(end);
        if end == End::Reset {
            let kept = self.rng.size(0..=wire.sent.len());
            wire.sent.truncate(kept);
            wire.peer_closed = true;
        }
        self.trace.note(self.now_us, if end == End::Fin { "peer ends" } else { "peer resets" }, id, 0);
        self.carry_in(id);
    }

    /// A peer closes its socket.
    pub fn peer_close(&mut self, id: usize) {
        let unread = !self.wires[id].inbox.is_empty() || self.unread(id) > 0;
        self.peer_end(id, if unread { End::Reset } else { End::Fin });
        self.wires[id].peer_closed = true;
        self.carry_out(id);
    }

    /// Shrinks the buffers of a connection, so that data backs up into the gateway.
    pub fn shrink_buffers(&mut self, id: usize) {
        let wire = &mut self.wires[id];
        wire.traits.inbox_capacity = wire.traits.inbox_capacity.min(wire.inbox.len().max(1));
        wire.traits.tx_capacity = wire.traits.tx_capacity.min(wire.tx.len().max(100));
    }

    // The poll's side.

    /// Fetches events: those that are due, with a few delayed, repeated or empty.
    pub fn poll_events(&mut self) -> Vec<(Token, Readiness)> {
        self.calls_before_turn = self.calls;
        let mut events = Vec::new();
        for wire in &mut self.wires {
            let Some(token) = wire.token.filter(|_| wire.held && wire.edge) else { continue };
            if self.poll.delays > 0 && self.rng.once_in(self.poll.delays) {
                continue;
            }
            wire.edge = false;
            let signs = wire.signs();
            if signs != Signs::default() {
                events.push((token, signs));
            }
        }
        if self.poll.noise > 0 && self.rng.once_in(self.poll.noise) {
            self.add_noise(&mut events);
        }
        self.rng.shuffle(&mut events);
        for (token, signs) in &events {
            let wire = self.wires.iter().position(|wire| wire.token == Some(*token)).unwrap_or(NONE);
            self.trace.note(self.now_us, "event", wire, trace::bits(signs));
            self.past.push_back((*token, *signs));
        }
        while self.past.len() > 8 {
            self.past.pop_front();
        }
        let mut events: Vec<_> = events.into_iter().map(|(token, signs)| (token, Readiness::of_signs(signs))).collect();
        if let Some(token) = self.reported_listener() {
            events.push((token, Readiness::of_signs(Signs { readable: true, ..Signs::default() })));
        }
        events
    }

    fn add_noise(&mut self, events: &mut Vec<(Token, Signs)>) {
        match self.rng.within(0..=3) {
            0 => {
                let twice: Vec<_> = events.iter().take(2).copied().collect();
                events.extend(twice);
            }
            // Of sockets that have since been closed or registered again; a reported end is not taken back.
            1 => {
                let mut again: Vec<_> = self.past.iter().copied().collect();
                again.retain(|(token, _)| !self.wires.iter().any(|wire| wire.held && wire.token == Some(*token)));
                events.extend(again);
            }
            2 => {
                for wire in self.wires.iter_mut().filter(|wire| wire.held) {
                    let signs = wire.signs();
                    if let Some(token) = wire.token
                        && signs != Signs::default()
                    {
                        events.push((token, signs));
                    }
                }
            }
            // Readable, although everything has been read.
            _ => {
                let open = self.wires.iter().filter(|wire| wire.held && wire.phase == Phase::Open);
                let nothing = Signs { readable: true, ..Signs::default() };
                events.extend(open.filter_map(|wire| Some((wire.token?, nothing))));
            }
        }
    }

    /// Whether an event is due, even if it may be delayed.
    pub fn has_edge(&self) -> bool {
        self.reported_listener().is_some()
            || self.wires.iter().any(|wire| wire.held && wire.edge && wire.token.is_some())
    }

    /// The listener's token, if clients are pending and the poll is to report them.
    fn reported_listener(&self) -> Option<Token> {
        self.listener_token.filter(|_| self.listener_reported && !self.backlog.is_empty())
    }

    /// Clients that have not been accepted.
    pub fn unaccepted(&self) -> usize {
        self.backlog.len()
    }

    /// Pipes that the gateway holds.
    pub fn pipes_open(&self) -> usize {
        self.pipes.iter().filter(|pipe| pipe.open).count()
    }

    /// Sockets that the gateway holds.
    pub fn sockets_held(&self) -> usize {
        self.wires.iter().filter(|wire| wire.held).count() - self.backlog.len()
    }
}

impl Network {
    fn connect(&mut self, address: SocketAddr) -> io::Result<Socket> {
        let rule = self.addresses.get(&address).copied().unwrap_or(Address::Refuses(0));
        let id = self.wires.len();
        self.trace.note(self.now_us, "connect", id, usize::from(address.port()));
        let delay_us = match rule {
            Address::AcceptsOnce if !self.dialled.values().any(|earlier| *earlier == address) => 0,
            Address::Unreachable | Address::AcceptsOnce => return Err(Errno::HOSTUNREACH.into()),
            Address::OutOfDescriptors if self.rng.once_in(2) => return Err(Errno::MFILE.into()),
            Address::OutOfDescriptors => 0,
            Address::DropsSyns => u64::MAX,
            Address::Accepts(least, most) => self.rng.within(least..=most),
            Address::Refuses(most) => self.rng.within(0..=most),
        };
        let traits = self.rng.pick(&self.traits);
        self.wires.push(Wire::new(traits, Phase::Connecting));
        self.dialled.insert(id, address);
        // On one machine the connection is established when `connect` returns.
        match delay_us {
            0 => {
                self.arrive(id);
                self.wake(id);
            }
            u64::MAX => {}
            _ => self.schedule(delay_us, Action::Arrive(id)),
        }
        Ok(Socket::of(id))
    }
}
