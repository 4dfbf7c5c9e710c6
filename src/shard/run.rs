//! The event loop of a shard: each turn handles the events that the poll reported, then what no event comes for.

mod accept;
#[cfg(test)]
mod drive;
mod eviction;
mod messages;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Poll, Token};

use super::admission::Gate;
use super::listener::Listeners;
use super::message::Message;
use super::queue::Position;
use super::run_queue::RunQueue;
use super::throttle::Throttle;
use crate::event::{self, Alarm, Clock, EventToken, Key, Mailbox, Owner, PollEvents, Sender, Slots, Timers};
use crate::limits::{self, millis};
use crate::metrics::Metrics;
use crate::pool::Pools;
use crate::relay::PipePool;
use crate::route::RouteTicket;
use crate::session::{Admission, Context, Idle, Next, Session, SessionSettings, TurnTime};
use crate::transport::Readiness;
use crate::upstream::{HostPort, LookupClient, LookupReply, OriginResolver};
use accept::Accepting;
use eviction::IdleQueues;

const WAKER: Token = Token(0);
const ALARM: Token = Token(1);
/// The first listener; the others follow.
const FIRST_LISTENER: usize = 2;

/// What a shard is made of.
pub struct ShardOptions {
    /// Its number, for its name and its metrics.
    pub number: usize,
    /// Its listening sockets.
    pub listeners: Listeners,
    /// Admission control.
    pub gate: Arc<Gate>,
    /// The configuration that its sessions use.
    pub settings: SessionSettings,
    /// Most pipes that it lends at once.
    pub pipes: usize,
    /// Looks up the names of origins.
    pub names: OriginResolver,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// When the process's clock began; the same for all shards.
    pub epoch: Instant,
}

/// A session and what the shard keeps about it.
struct Entry {
    session: Session,
    /// Whether it is in the run queue.
    queued: bool,
    admission: Admission,
    /// Its client is known: no PROXY header is awaited.
    is_named: bool,
    /// How it is idle, if it is.
    idle: Option<Idle>,
    /// How often `idle` has changed; outdates entries in the list of those in their grace period.
    idle_changes: u32,
    /// Its position among the idle connections.
    idle_position: Option<Position>,
    /// Its position among the large unfinished heads.
    head_position: Option<Position>,
    /// The size of its buffers in bytes, as counted in the gauge.
    held_bytes: usize,
}

impl Entry {
    /// It was admitted, not accepted to be rejected.
    fn has_place(&self) -> bool {
        self.admission == Admission::Welcome
    }

    /// The client whose connection it is for the gate, if that is known.
    fn gate_client(&self) -> Option<SocketAddr> {
        self.is_named.then(|| self.session.client())
    }

    /// The address under which it is queued. Connections without a known client are nobody's.
    fn queue_address(&self) -> IpAddr {
        self.gate_client().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |client| client.ip().to_canonical())
    }

    /// Whether what the shard keeps about it is up to date.
    fn is_as_noted(&self) -> bool {
        self.session.held_bytes() == self.held_bytes && self.session.idle() == self.idle
    }
}

/// One event loop and its sessions.
pub struct Shard {
    number: usize,
    poll: Poll,
    /// Ends the waiting when a pause of bulk transfers does.
    alarm: Alarm,
    mailbox: Mailbox<Message>,
    listeners: Listeners,
    accepting: Accepting,
    gate: Arc<Gate>,
    sessions: Slots<Entry>,
    idle: IdleQueues,
    /// Limits how often the log mentions evictions.
    eviction_log: Throttle,
    /// Limits how often the other shards are asked for memory.
    memory_requests: Throttle,
    run_queue: RunQueue,
    context: Context,
    clock: Clock,
    /// When the sessions that wait for the guard are called up next, in ms.
    guard_check_ms: u64,
    /// A handshake of the gateway's own is wanted that may not start yet.
    confirmation_pending: bool,
    pipes_reported: i64,
    draining: bool,
}

impl Shard {
    /// A shard that is ready to [`Shard::run`], and the way to send it messages.
    ///
    /// # Errors
    /// When the system has no descriptor for the poll or its waker, or a listener cannot be registered.
    pub fn new(options: ShardOptions) -> io::Result<(Shard, Sender<Message>)> {
        let ShardOptions { number, listeners, gate, settings, pipes, names, metrics, epoch } = options;
        let poll = Poll::new()?;
        let (sender, mailbox) = event::mailbox(poll.registry(), WAKER)?;
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        for (index, listener) in listeners.iter().enumerate() {
            listener.register(poll.registry(), listener_token(index))?;
        }
        let clock = Clock::starting_at(epoch);
        let now_us = clock.now_ns() / 1000;
        let context = Context {
            registry: poll.registry().try_clone()?,
            timers: Timers::new(now_us / 1000),
            scratch: vec![0; limits::SCRATCH_BYTES].into_boxed_slice(),
            spare_buffers: Default::default(),
            pipes: PipePool::new(pipes),
            pools: Pools::default(),
            draining: false,
            nonces: Default::default(),
            counts: metrics.shard(number),
            metrics,
            settings,
            look_up: look_up_with(names, sender.clone()),
            route_ticket: route_tickets_to(sender.clone()),
            address_waiters: Default::default(),
            guard_waiters: Default::default(),
            now: TurnTime::from_us(now_us),
            bulk_pace: Default::default(),
        };
        let shard = Shard {
            number,
            poll,
            alarm,
            mailbox,
            accepting: Accepting::of(listeners.len()),
            listeners,
            gate,
            sessions: Slots::new(Owner::Session),
            idle: IdleQueues::default(),
            eviction_log: Throttle::default(),
            memory_requests: Throttle::default(),
            run_queue: RunQueue::default(),
            context,
            clock,
            guard_check_ms: 0,
            confirmation_pending: false,
            pipes_reported: 0,
            draining: false,
        };
        Ok((shard, sender))
    }

    /// Runs until [`Message::Stop`], or after [`Message::Drain`] until the last session has ended.
    ///
    /// # Errors
    /// When the poll or its alarm fails: a bug, or the system is out of memory.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = PollEvents::with_capacity(limits::EVENTS_PER_TURN);
        loop {
            let time_to_wait = self.time_to_wait();
            if let Some(time) = time_to_wait
                && !time.is_zero()
                && self.run_queue.has_only_bulk()
            {
                self.alarm.ring_in(time)?;
            }
            match events.wait(self.poll.registry(), time_to_wait) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let began_ns = self.clock.now_ns();
            self.context.now = TurnTime::from_us(began_ns / 1000);
            let stop = self.turn(events.iter());
            let ended_ns = self.clock.now_ns();
            self.context.counts.turn_took(ended_ns.saturating_sub(began_ns));
            self.turn_ended(began_ns, ended_ns);
            if stop || self.is_drained() {
                self.close_all();
                return Ok(());
            }
        }
    }

    /// One turn: events, new connections, the run queue, deadlines. `true` to stop.
    fn turn(&mut self, events: impl Iterator<Item = (Token, Readiness)>) -> bool {
        let mut stop = false;
        self.accepting.begin_turn();
        for (token, ready) in events {
            match EventToken::read(token) {
                Some(token) => self.on_event(token, ready),
                None if token == WAKER => stop |= self.on_messages(),
                // What it was for is done in every turn.
                None if token == ALARM => {}
                None => self.accepting.learn(token.0.saturating_sub(FIRST_LISTENER)),
            }
        }
        self.end_grace_periods();
        if self.context.is_short_of_memory() {
            self.free_memory();
        }
        if self.accepting.is_wanted() {
            self.accept();
        }
        if !self.run_queue.is_empty() {
            self.run_queued();
        }
        self.run_deadlines();
        if self.checks_guard() && self.context.now_ms() >= self.guard_check_ms {
            self.call_up_guard_waiters();
        }
        if !self.draining && self.context.pools.pre_challenged.wants_more(self.context.now_ms()) {
            let (pools, mut loan) = self.context.pools();
            pools.pre_challenged.refill(&mut loan);
        }
        self.report_pipes();
        stop
    }

    /// A turn that began and ended at these times, in ns, is over.
    #[inline]
    fn turn_ended(&mut self, began_ns: u64, ended_ns: u64) {
        if self.context.bulk_pace.turn_ended(began_ns, ended_ns) {
            self.context.metrics.bulk_pauses.inc();
        }
        // What is left of a pause is counted from now.
        if !self.run_queue.is_empty() {
            self.context.now = TurnTime::from_us(ended_ns / 1000);
        }
    }

    /// How long the poll may wait for events; `None` for as long as it takes.
    fn time_to_wait(&self) -> Option<Duration> {
        if !self.run_queue.is_empty() {
            // A pause is far shorter than any other time that a shard waits for.
            let pause = || self.context.bulk_pace.longest_wait(self.context.now_us());
            return Some(if self.run_queue.has_ready() { Duration::ZERO } else { pause() });
        }
        const NEVER: u64 = u64::MAX;
        let accept_ms = self.accepting.paused_until_ms.unwrap_or(NEVER);
        let guard_ms = if self.checks_guard() { self.guard_check_ms } else { NEVER };
        let grace_ms = self.idle.grace_ends_ms().unwrap_or(NEVER);
        let timer_ms = self.context.timers.next_due_ms().unwrap_or(NEVER);
        match accept_ms.min(guard_ms).min(grace_ms).min(timer_ms) {
            NEVER => None,
            until_ms => Some(Duration::from_millis(until_ms.saturating_sub(self.context.now_ms()))),
        }
    }

    fn on_event(&mut self, token: EventToken, ready: Readiness) {
        let is_current = match token.key.owner() {
            Owner::Session => {
                self.on_session_event(token, ready) || self.context.pools.keep_alive.on_parked_event(token, ready)
            }
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
        let Some(entry) = self.sessions.get_mut(token.key) else { return false };
        if !entry.session.learn(token.lane, ready) {
            return false;
        }
        // A queued session is stepped once, when its turn comes.
        if !entry.queued {
            let next = entry.session.step(token.key, &mut self.context);
            // Most events are a tunnel's, and nothing follows from them.
            if next != Next::Wait || !entry.is_as_noted() {
                self.follow(token.key, next);
            }
        }
        true
    }

    fn run_deadlines(&mut self) {
        let now_ms = self.context.now_ms();
        while let Some(due) = self.context.timers.pop(now_ms) {
            for key in &due {
                self.on_deadline(*key);
            }
            self.context.timers.done(due);
        }
    }

    fn on_deadline(&mut self, key: Key) {
        match key.owner() {
            Owner::Session => {
                if let Some(entry) = self.sessions.get_mut(key) {
                    let next = entry.session.deadline_due(key, &mut self.context);
                    self.follow(key, next);
                }
            }
            Owner::PreChallenged | Owner::KeepAlive | Owner::VerdictWait => {
                let (pools, mut loan) = self.context.pools();
                pools.deadline_due(key, &mut loan);
            }
        }
    }

    /// Does what a session's step asks for.
    fn follow(&mut self, key: Key, next: Next) {
        match next {
            Next::Wait => self.note_changes(key),
            Next::Yield => {
                self.note_changes(key);
                self.enqueue(key);
            }
            Next::Named => self.name_client(key),
            Next::Close => {
                self.leave_idle_queue(key);
                self.queue_if_large(key, false);
                self.count_held(key, 0);
                if let Some(entry) = self.sessions.remove(key) {
                    self.gate.leave(entry.gate_client(), entry.has_place());
                    self.gate.balance.leave(self.number);
                    self.context.metrics.tunnels_open.dec();
                }
            }
        }
    }

    /// Whether the last session has ended after [`Message::Drain`], and none is on its way from another shard.
    fn is_drained(&self) -> bool {
        self.draining && self.sessions.is_empty() && self.gate.balance.connections(self.number) == 0
    }

    fn enqueue(&mut self, key: Key) {
        if let Some(entry) = self.sessions.get_mut(key)
            && !entry.queued
        {
            entry.queued = true;
            self.run_queue.push(key, entry.session.moves_bulk());
        }
    }

    /// Steps the sessions that are in the run queue now; those that yield again wait for the next turn.
    fn run_queued(&mut self) {
        let bulk_is_paused = self.context.bulk_pace.is_paused(self.context.now_us());
        for key in self.run_queue.take(bulk_is_paused) {
            if let Some(entry) = self.sessions.get_mut(key) {
                entry.queued = false;
                let next = entry.session.step(key, &mut self.context);
                self.follow(key, next);
            }
        }
    }

    /// Whether the guard has to be checked from time to time, not only when it changes.
    fn checks_guard(&self) -> bool {
        self.confirmation_pending || !self.context.guard_waiters.is_empty()
    }

    /// Has the sessions that wait for the guard ask again: when it changes, and from time to time, because nothing
    /// reports that one of its waiting times has passed.
    fn call_up_guard_waiters(&mut self) {
        let (pools, mut loan) = self.context.pools();
        self.confirmation_pending = !self.draining && pools.verdict_wait.confirm(&mut loan);
        self.guard_check_ms = self.context.now_ms() + millis(limits::GUARD_RECHECK_INTERVAL);
        self.context.guard_waiters.call_up().into_iter().for_each(|key| self.enqueue(key));
    }

    /// Adds what has changed to the gauge, which all shards share.
    fn report_pipes(&mut self) {
        let lent = i64::try_from(self.context.pipes.lent()).unwrap_or(i64::MAX);
        if lent != self.pipes_reported {
            self.context.metrics.pipes_lent.add(lent - self.pipes_reported);
            self.pipes_reported = lent;
        }
    }

    fn close_all(&mut self) {
        self.context.pools.close_all();
        for (key, mut entry) in self.sessions.take_all() {
            entry.session.cut(key, &mut self.context);
            self.context.metrics.buffered_bytes.sub(i64::try_from(entry.held_bytes).unwrap_or(i64::MAX));
            self.gate.leave(entry.gate_client(), entry.has_place());
            self.gate.balance.leave(self.number);
            self.context.metrics.tunnels_open.dec();
        }
        self.report_pipes();
    }
}

/// Looks up the names of origins; the answers come back as messages to the shard.
fn look_up_with(
    names: OriginResolver,
    sender: Sender<Message>,
) -> Box<dyn Fn(HostPort, Key, LookupClient) -> LookupReply + Send> {
    Box::new(move |host, key, asker| {
        let sender = sender.clone();
        names.ask(host, asker, move |resolution| sender.send(Message::OriginResolved(key, resolution)))
    })
}

/// Tickets for sources of routes; the answers come back as messages to the shard.
fn route_tickets_to(sender: Sender<Message>) -> Box<dyn Fn(Key, u32) -> RouteTicket + Send> {
    Box::new(move |key, question| {
        let sender = sender.clone();
        RouteTicket::new(move |answer| sender.send(Message::Routed(key, question, answer)))
    })
}

fn listener_token(index: usize) -> Token {
    Token(FIRST_LISTENER + index)
}
