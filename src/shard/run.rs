//! The event loop.

#[cfg(test)]
mod drive;
mod room;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use prometheus::Histogram;
use slab::Slab;

use super::admission::Gate;
use super::listener::Listeners;
use super::message::{Described, Message};
use super::queue::{IdleQueue, Turn};
use crate::event::{self, EventToken, Key, Mailbox, Owner, Readiness, Sender, Stream, Timers};
use crate::fault::is_exhaustion;
use crate::limits::{self, millis};
use crate::metrics::Metrics;
use crate::pool::Pools;
use crate::relay::PipePool;
use crate::session::{Admission, Arrival, Context, Idle, Next, Session, SessionSettings};
use crate::upstream::{Asked, Asker, HostPort, OriginResolver};

const WAKER: Token = Token(0);
/// The first listener; the others follow.
const FIRST_LISTENER: usize = 1;

/// What a shard is made of.
pub struct ShardOptions {
    /// Which one it is, for its name and its metrics.
    pub number: usize,
    /// Its listening sockets.
    pub listeners: Listeners,
    /// The rule at the door.
    pub gate: Arc<Gate>,
    /// The configuration that its tunnels go by.
    pub settings: SessionSettings,
    /// Pipes that it lends at most.
    pub pipes: usize,
    /// Looks up the names of origins.
    pub names: OriginResolver,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// When the process's clock began; the same for all shards.
    pub epoch: Instant,
}

struct Slot {
    generation: u32,
    session: Session,
    /// It is in the run queue already.
    queued: bool,
    admission: Admission,
    /// How it is idle, if it is.
    idle: Option<Idle>,
    /// Counts the times that this has changed, for entries in `fresh`.
    changes: u32,
    /// Its turn to give way.
    turn: Option<Turn>,
    /// The same of an unfinished head that takes much memory.
    turn_of_head: Option<Turn>,
    /// What its buffers take, in bytes, as counted.
    held_bytes: usize,
}

impl Slot {
    /// It was let in, and is not to be turned away.
    fn has_place(&self) -> bool {
        self.admission == Admission::Welcome
    }
}

/// One event loop and its tunnels.
pub struct Shard {
    number: usize,
    poll: Poll,
    mailbox: Mailbox<Message>,
    listeners: Listeners,
    /// A listener may have more connections than were accepted in the last turn.
    accept_pending: bool,
    /// Accepting rests until then, in ms.
    accept_rests_until_ms: Option<u64>,
    /// The log has heard of a pause; it hears of the next after this, in ms.
    pause_told_until_ms: u64,
    /// The same of connections that gave way.
    give_way_told_until_ms: u64,
    gate: Arc<Gate>,
    slots: Slab<Slot>,
    /// Idle connections with a place, and those that are to be turned away.
    idle: IdleQueue,
    turned_away: IdleQueue,
    last_turn: Turn,
    /// Those that have become idle and have some time yet: until when in ms, and the changes of their slots then.
    fresh: VecDeque<(u64, Key, u32)>,
    /// Those whose unfinished heads take much memory.
    large_heads: IdleQueue,
    /// The other shards are asked for memory after this, in ms.
    memory_asked_until_ms: u64,
    next_generation: u32,
    /// Tunnels that used up their budget, or that a message called up: no event will come for them.
    run_queue: Vec<Key>,
    context: Context,
    epoch: Instant,
    turns: Histogram,
    /// When those who wait for the guard are called up next, in ms.
    guard_look_ms: u64,
    /// A handshake of the gateway's own is wanted that may not begin yet.
    confirms_soon: bool,
    pipes_reported: i64,
    draining: bool,
}

impl Shard {
    /// A shard that is ready to [`Shard::run`], and the way to tell it things.
    ///
    /// # Errors
    /// When the system has no descriptor for the poll or its waker, or a listener cannot be registered.
    pub fn new(options: ShardOptions) -> io::Result<(Shard, Sender<Message>)> {
        let ShardOptions { number, mut listeners, gate, settings, pipes, names, metrics, epoch } = options;
        let poll = Poll::new()?;
        let (sender, mailbox) = event::mailbox(poll.registry(), WAKER)?;
        for (index, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener, Token(FIRST_LISTENER + index), Interest::READABLE)?;
        }
        let now_us = micros_since(epoch);
        let context = Context {
            registry: poll.registry().try_clone()?,
            timers: Timers::new(now_us / 1000),
            scratch: vec![0; limits::SCRATCH_BYTES].into_boxed_slice(),
            pipes: PipePool::new(pipes),
            pools: Pools::default(),
            draining: false,
            nonces: Default::default(),
            metrics,
            settings,
            look_up: look_up_by(names, sender.clone()),
            address_waiters: Default::default(),
            guard_waiters: Default::default(),
            now_us,
        };
        let turns = context.metrics.turns_of_shard(number);
        let shard = Shard {
            number,
            poll,
            mailbox,
            listeners,
            accept_pending: false,
            accept_rests_until_ms: None,
            pause_told_until_ms: 0,
            give_way_told_until_ms: 0,
            gate,
            slots: Slab::new(),
            idle: IdleQueue::default(),
            turned_away: IdleQueue::default(),
            last_turn: 0,
            fresh: VecDeque::new(),
            large_heads: IdleQueue::default(),
            memory_asked_until_ms: 0,
            next_generation: 1,
            run_queue: Vec::new(),
            context,
            epoch,
            turns,
            guard_look_ms: 0,
            confirms_soon: false,
            pipes_reported: 0,
            draining: false,
        };
        Ok((shard, sender))
    }

    /// Turns until [`Message::Stop`], or after [`Message::Drain`] until the last tunnel has ended.
    ///
    /// # Errors
    /// When the poll itself fails, which is a mistake of the program or the end of the system's memory.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(limits::EVENTS_PER_TURN);
        loop {
            match self.poll.poll(&mut events, self.time_to_wait()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let began = Instant::now();
            self.context.now_us = micros_since_at(self.epoch, began);
            let stop = self.turn(events.iter().map(|event| (event.token(), Readiness::of_event(event))));
            self.turns.observe(began.elapsed().as_secs_f64());
            if stop || (self.draining && self.slots.is_empty()) {
                self.cut_all();
                return Ok(());
            }
        }
    }

    /// One turn: events, new connections, those whose turn had to wait, deadlines. `true` to stop.
    fn turn(&mut self, events: impl Iterator<Item = (Token, Readiness)>) -> bool {
        let mut stop = false;
        for (token, ready) in events {
            match EventToken::read(token) {
                Some(token) => self.on_event(token, ready),
                None if token == WAKER => stop |= self.on_messages(),
                None => self.accept_pending = true,
            }
        }
        self.queue_fresh();
        if self.context.is_short_of_memory() {
            self.free_memory();
        }
        self.accept();
        self.run_queued();
        self.run_deadlines();
        if self.looks_at_guard() && self.context.now_ms() >= self.guard_look_ms {
            self.call_guard_waiters();
        }
        if !self.draining {
            let (pools, mut loan) = self.context.pools();
            pools.pre_challenged.refill(&mut loan);
        }
        self.report_pipes();
        stop
    }

    /// The gauge is shared by all shards: each adds what has changed with itself.
    fn report_pipes(&mut self) {
        let lent = i64::try_from(self.context.pipes.lent()).unwrap_or(i64::MAX);
        if lent != self.pipes_reported {
            self.context.metrics.pipes_lent.add(lent - self.pipes_reported);
            self.pipes_reported = lent;
        }
    }

    fn time_to_wait(&self) -> Option<Duration> {
        if !self.run_queue.is_empty() || (self.accept_pending && self.accept_rests_until_ms.is_none()) {
            return Some(Duration::ZERO);
        }
        let now_ms = self.context.now_ms();
        let rest = self.accept_rests_until_ms.map(|until_ms| until_ms.saturating_sub(now_ms));
        let look = self.looks_at_guard().then(|| self.guard_look_ms.saturating_sub(now_ms));
        let fresh = self.fresh.front().map(|(until_ms, ..)| until_ms.saturating_sub(now_ms));
        let wait_ms = [rest, look, fresh, self.context.timers.next_ms(now_ms)].into_iter().flatten().min()?;
        Some(Duration::from_millis(wait_ms))
    }

    fn on_event(&mut self, token: EventToken, ready: Readiness) {
        let is_current = match token.key.owner() {
            Owner::Session => self.on_session_event(token, ready),
            Owner::PreChallenged | Owner::KeepAlive | Owner::VerdictWait => {
                let (pools, mut loan) = self.context.pools();
                pools.on_event(token.key, ready, &mut loan)
            }
        };
        if !is_current {
            self.context.metrics.stale_events.inc();
        }
    }

    /// Handles an event of a session; `false` when it is stale.
    fn on_session_event(&mut self, token: EventToken, ready: Readiness) -> bool {
        let Some(slot) = live(&mut self.slots, token.key) else { return false };
        if !slot.session.learn(token.lane, ready) {
            return false;
        }
        // A queued session is stepped once, in its turn.
        if !slot.queued {
            let next = slot.session.step(token.key, &mut self.context);
            self.follow(token.key, next);
        }
        true
    }

    fn follow(&mut self, key: Key, next: Next) {
        match next {
            Next::Wait => self.look_after(key),
            Next::Yield => {
                self.look_after(key);
                self.enqueue(key);
            }
            Next::Close => {
                self.leave_queue(key);
                self.queue_if_large(key, false);
                self.count_held(key, 0);
                let slot = self.slots.remove(key.index as usize);
                self.gate.leave(slot.session.client(), slot.has_place());
                self.context.metrics.tunnels_open.dec();
            }
        }
    }

    fn enqueue(&mut self, key: Key) {
        if let Some(slot) = live(&mut self.slots, key)
            && !slot.queued
        {
            slot.queued = true;
            self.run_queue.push(key);
        }
    }

    /// Steps those that were queued before this turn's end; those that yield again wait for the next.
    fn run_queued(&mut self) {
        for key in std::mem::take(&mut self.run_queue) {
            if let Some(slot) = live(&mut self.slots, key) {
                slot.queued = false;
                let next = slot.session.step(key, &mut self.context);
                self.follow(key, next);
            }
        }
    }

    fn run_deadlines(&mut self) {
        let now_ms = self.context.now_ms();
        while let Some(due) = self.context.timers.pop(now_ms) {
            for key in &due {
                self.deadline_due(*key);
            }
            self.context.timers.done(due);
        }
    }

    fn deadline_due(&mut self, key: Key) {
        match key.owner() {
            Owner::Session => {
                if let Some(slot) = live(&mut self.slots, key) {
                    let next = slot.session.deadline_due(key, &mut self.context);
                    self.follow(key, next);
                }
            }
            Owner::PreChallenged | Owner::KeepAlive | Owner::VerdictWait => {
                let (pools, mut loan) = self.context.pools();
                pools.deadline_due(key, &mut loan);
            }
        }
    }

    fn looks_at_guard(&self) -> bool {
        self.confirms_soon || !self.context.guard_waiters.is_empty()
    }

    /// Those who wait for the guard ask again: at its changes, and now and then because its patience ends silently.
    fn call_guard_waiters(&mut self) {
        let (pools, mut loan) = self.context.pools();
        self.confirms_soon = !self.draining && pools.verdict_wait.confirm(&mut loan);
        self.guard_look_ms = self.context.now_ms() + millis(limits::GUARD_RECHECK_INTERVAL);
        self.context.guard_waiters.call_up().into_iter().for_each(|key| self.enqueue(key));
    }

    fn on_messages(&mut self) -> bool {
        let messages: Vec<Message> = self.mailbox.take().collect();
        let mut stop = false;
        for message in messages {
            match message {
                Message::Found(key, resolution) => {
                    if let Some(slot) = live(&mut self.slots, key) {
                        slot.session.found(resolution);
                        self.enqueue(key);
                    }
                }
                Message::Resolved => {
                    self.context.address_waiters.call_up().into_iter().for_each(|key| self.enqueue(key));
                }
                Message::GuardChanged => self.call_guard_waiters(),
                Message::GiveWay(room) => self.give_way(room),
                // The turn sees to it.
                Message::FreeMemory => {}
                Message::Settings(settings) => {
                    self.context.settings = *settings;
                    self.context.pools.close_usable();
                }
                // Who asked may have stopped waiting.
                Message::Ping(answer) => drop(answer.send(self.number)),
                Message::Describe(answer) => drop(answer.send(self.describe())),
                Message::Drain => self.drain(),
                Message::Stop => stop = true,
            }
        }
        stop
    }

    /// Takes in what waits in the kernel, so that nobody who got through to us is reset, then closes the door.
    fn drain(&mut self) {
        self.draining = true;
        self.context.draining = true;
        self.context.pools.close_usable();
        self.accept_rests_until_ms = None;
        self.accept_pending = true;
        while self.accept_pending && self.accept_rests_until_ms.is_none() {
            self.accept();
        }
        self.accept_pending = false;
        self.accept_rests_until_ms = None;
        self.listeners.clear();
        // Clients between two requests are in the middle of nothing.
        let resting: Vec<Key> = self.slots.iter().filter(|(_, slot)| slot.session.rests()).filter_map(key_of).collect();
        for key in resting {
            if let Some(slot) = live(&mut self.slots, key) {
                slot.session.dismiss(key, &mut self.context);
                self.follow(key, Next::Close);
            }
        }
    }

    fn accept(&mut self) {
        if let Some(until_ms) = self.accept_rests_until_ms {
            if self.context.now_ms() < until_ms {
                return;
            }
            self.accept_rests_until_ms = None;
            self.accept_pending = true;
        }
        if !self.accept_pending {
            return;
        }
        self.accept_pending = false;
        for index in 0..self.listeners.len() {
            if !self.accept_from(index) {
                self.accept_pending = true;
            }
        }
    }

    /// Accepts from one listener; `false` when it may have more.
    fn accept_from(&mut self, index: usize) -> bool {
        for _ in 0..limits::ACCEPTS_PER_TURN {
            if self.gate.is_overcrowded() {
                self.pause_accepting("max_tunnels is exceeded by those who wait to be told so");
                return false;
            }
            match self.listeners[index].accept() {
                Ok((stream, peer)) => self.admit(stream, peer, index),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if is_exhaustion(&error) && self.free_descriptors() => {}
                Err(error) if is_exhaustion(&error) => {
                    self.pause_accepting(&error.to_string());
                    return false;
                }
                // The client gave up while it waited (ECONNABORTED), or a signal came: on to the next.
                Err(_) => {}
            }
        }
        false
    }

    fn pause_accepting(&mut self, why: &str) {
        let pause_ms = millis(limits::ACCEPT_PAUSE);
        self.accept_rests_until_ms = Some(self.context.now_ms() + pause_ms);
        self.context.metrics.accept_pauses.inc();
        // Said once a while and not at every pause.
        if self.context.now_ms() >= self.pause_told_until_ms {
            self.pause_told_until_ms = self.context.now_ms() + millis(limits::ACCEPT_PAUSE_LOG_INTERVAL);
            log::warn!("accepting pauses for {pause_ms} ms at a time: {why}");
        }
    }

    fn admit(&mut self, mut stream: Stream, from: std::net::SocketAddr, listener: usize) {
        self.context.metrics.accepted.inc();
        let generation = self.next_generation;
        self.next_generation = self.next_generation.wrapping_add(1).max(1);
        let entry = self.slots.vacant_entry();
        let Ok(index) = u32::try_from(entry.key()) else { return };
        let key = Key { index, generation };
        let token = Token::from(EventToken::downstream(key));
        if let Err(error) = self.context.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)
        {
            log::warn!("a client's connection cannot be watched and is closed: {error}");
            return;
        }
        let entered = self.gate.enter(from, self.number, self.context.now_ms());
        let admission = entered.admission;
        let arrival = Arrival { from, listener, admission };
        self.context.metrics.tunnels_open.inc();
        let session = Session::new(key, stream, arrival, &mut self.context);
        let slot = entry.insert(Slot {
            generation,
            session,
            queued: false,
            admission,
            idle: None,
            changes: 0,
            turn: None,
            turn_of_head: None,
            held_bytes: 0,
        });
        let next = slot.session.step(key, &mut self.context);
        self.follow(key, next);
        match entered.gives_way {
            Some(room) if room.shard == self.number => self.give_way(room),
            Some(room) => self.gate.ask(room),
            None => {}
        }
    }

    /// Takes a few ms at the most, because it is bounded: about 0.1 µs a tunnel (`benches/runtime.rs`).
    fn describe(&self) -> Described {
        let state = |(index, slot): (usize, &Slot)| {
            // It was made from a `u32`.
            let key = Key { index: u32::try_from(index).unwrap_or(u32::MAX), generation: slot.generation };
            slot.session.describe(self.number, key, &self.context)
        };
        let tunnels: Vec<_> = self.slots.iter().take(limits::LISTED_TUNNELS).map(state).collect();
        Described { left_out: self.slots.len() - tunnels.len(), tunnels }
    }

    fn cut_all(&mut self) {
        self.context.pools.close_all();
        for (index, mut slot) in std::mem::take(&mut self.slots) {
            if let Some(key) = key_of((index, &slot)) {
                slot.session.cut(key, &mut self.context);
            }
            self.context.metrics.buffered_bytes.sub(i64::try_from(slot.held_bytes).unwrap_or(i64::MAX));
            self.gate.leave(slot.session.client(), slot.has_place());
            self.context.metrics.tunnels_open.dec();
        }
        self.report_pipes();
    }
}

fn key_of((index, slot): (usize, &Slot)) -> Option<Key> {
    Some(Key { index: u32::try_from(index).ok()?, generation: slot.generation })
}

/// Answers come back as messages to the shard.
fn look_up_by(names: OriginResolver, sender: Sender<Message>) -> Box<dyn Fn(HostPort, Key, Asker) -> Asked + Send> {
    Box::new(move |host, key, asker| {
        let sender = sender.clone();
        names.ask(host, asker, move |resolution| sender.send(Message::Found(key, resolution)))
    })
}

/// The slot of a key, if its tunnel still lives.
fn live(slots: &mut Slab<Slot>, key: Key) -> Option<&mut Slot> {
    slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)
}

fn micros_since(epoch: Instant) -> u64 {
    micros_since_at(epoch, Instant::now())
}

fn micros_since_at(epoch: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(epoch).as_micros()).unwrap_or(u64::MAX)
}
