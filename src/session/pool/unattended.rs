//! Connections that wait for the verdict on an AUTHENTICATE_MESSAGE and have no client.
//!
//! Either the client gave up before the upstream had answered: the answer still tells whether the secret is right, and without it clients
//! that come and go could try a wrong one as often as they like. Or the handshake is the gateway's own, and confirms the secret with a destination
//! that was accepted lately ([`Guard::take_confirmation`](crate::upstream::Guard::take_confirmation)).

use std::sync::Arc;

use mio::{Interest, Token};
use slab::Slab;

use crate::auth::{Handshake, Progress, Request};
use crate::egress::{Hop, verdict};
use crate::event::{Deadline, Endpoint, EventToken, Key, Lane, Readiness};
use crate::limits;
use crate::metrics::Reason407;
use crate::session::Context;
use crate::session::authenticate::nonces;
use crate::session::happy_eyeballs::connect;
use crate::session::head_reader::{Got, HeadReader};
use crate::upstream::{Answer, Asking, Confirmation, Permission, Resolution, Ticket};

/// Marks the keys of these connections, which live beside the slab of tunnels.
const UNATTENDED_INDEX: u32 = 1 << 26;

/// In so many reads a status line has come, even a byte at a time and behind some interim answers.
const READS: u16 = 512;

struct Unattended {
    generation: u32,
    hop: Arc<Hop>,
    upstream: Endpoint,
    deadline: Deadline,
    /// Not sent yet.
    outbox: Vec<u8>,
    stage: Stage,
    /// Others wait for as long as this is held.
    _confirmation: Option<Confirmation>,
}

enum Stage {
    /// A handshake of the gateway's own, on its way to the challenge.
    Asking { handshake: Box<Handshake>, inbox: HeadReader },
    /// The AUTHENTICATE_MESSAGE is out.
    Awaiting { ticket: Ticket, heard: Vec<u8>, reads_left: u16 },
}

/// A shard's connections that wait for a verdict; at most [`limits::UNATTENDED_PER_SHARD`].
#[derive(Default)]
pub struct UnattendedPool {
    connections: Slab<Unattended>,
    next_generation: u32,
}

impl UnattendedPool {
    /// Whether a key is one of this pool's.
    pub fn owns(key: Key) -> bool {
        key.index & UNATTENDED_INDEX != 0
    }

    /// How many there are.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.connections.len()
    }

    fn slot(&self, key: Key) -> Option<usize> {
        let index = (key.index & !UNATTENDED_INDEX) as usize;
        self.connections.get(index).filter(|connection| connection.generation == key.generation).map(|_| index)
    }

    fn is_full(&self, most: usize) -> bool {
        self.connections.len() >= most
    }

    /// The key of the next connection, if there are fewer than `most`.
    fn next_key(&mut self, most: usize) -> Option<Key> {
        if self.is_full(most) {
            return None;
        }
        let index = u32::try_from(self.connections.vacant_key()).ok()?;
        self.next_generation = self.next_generation.wrapping_add(1).max(1);
        Some(Key { index: index | UNATTENDED_INDEX, generation: self.next_generation })
    }
}

/// An AUTHENTICATE_MESSAGE whose client has gone.
pub(in crate::session) struct Orphan {
    pub hop: Arc<Hop>,
    pub upstream: Endpoint,
    pub ticket: Ticket,
    /// What of the request's head is still to be sent.
    pub unsent: Vec<u8>,
    /// What has come of the answer.
    pub heard: Vec<u8>,
    /// When the verdict is given up, in ms.
    pub until_ms: u64,
}

/// Goes on waiting for a verdict without the client.
pub(in crate::session) fn adopt(orphan: Orphan, context: &mut Context) {
    let Orphan { hop, mut upstream, ticket, unsent, heard, until_ms } = orphan;
    // Some places are left for handshakes of the gateway's own, on which everybody may wait.
    let most = limits::UNATTENDED_PER_SHARD - limits::UNATTENDED_RESERVED;
    let Some(key) = context.unattended.next_key(most) else { return };
    let token = Token::from(EventToken { key, lane: Lane::Upstream(0) });
    if context.registry.reregister(&mut upstream.stream, token, Interest::READABLE | Interest::WRITABLE).is_err() {
        return;
    }
    let connection = Unattended {
        generation: key.generation,
        hop,
        upstream,
        deadline: Deadline::UNARMED,
        outbox: unsent,
        stage: Stage::Awaiting { ticket, heard, reads_left: READS },
        _confirmation: None,
    };
    insert(key, connection, until_ms, context);
    // What has come already brings no further event.
    advance(key, context);
}

/// Makes the handshakes of the gateway's own that guards want; each goes to whichever shard asks first. `true` when one is wanted that may
/// not begin yet.
pub fn confirm(context: &mut Context) -> bool {
    let egress = context.settings.egress.egress();
    let mut is_one_left = false;
    for hop in &egress.hops {
        let (guard, upstream) = (&hop.identity.guard, hop.upstream.name());
        if !guard.wants_confirmation(upstream) || context.unattended.is_full(limits::UNATTENDED_PER_SHARD) {
            continue;
        }
        match guard.take_confirmation(context.now_ms(), upstream) {
            None => is_one_left = true,
            // Where it cannot even begin, it is given back, and a client's request decides.
            Some(confirmation) => {
                if begin(hop, confirmation, context).is_none() {
                    guard.unreachable(upstream);
                }
            }
        }
    }
    is_one_left
}

fn begin(hop: &Arc<Hop>, confirmation: Confirmation, context: &mut Context) -> Option<()> {
    let good = confirmation.good();
    let request = match good.by_connect {
        true => Request::connect(good.destination.clone(), Vec::new()),
        false => Request::bare_get(&good.destination)?,
    };
    log::debug!("confirming the credentials at upstream {} by a {}", hop.upstream.name(), request.method());
    let key = context.unattended.next_key(limits::UNATTENDED_PER_SHARD)?;
    let upstream = dial(hop, key, context)?;
    let mut handshake = Box::new(Handshake::new(request, hop.credentials.clone(), context.settings.head_limit_bytes));
    handshake.await_demand();
    let connection = Unattended {
        generation: key.generation,
        hop: Arc::clone(hop),
        upstream,
        deadline: Deadline::UNARMED,
        outbox: Vec::new(),
        stage: Stage::Asking { handshake, inbox: HeadReader::default() },
        _confirmation: Some(confirmation),
    };
    insert(key, connection, context.now_ms() + context.settings.timeouts.handshake, context);
    Some(())
}

fn dial(hop: &Hop, key: Key, context: &Context) -> Option<Endpoint> {
    let Some(Resolution::Addresses(addresses)) = hop.upstream.resolution() else { return None };
    let address = *addresses.get(hop.upstream.preferred()).or(addresses.first())?;
    hop.metrics.dials.inc();
    connect(address, key, 0, context).ok()
}

fn insert(key: Key, mut connection: Unattended, until_ms: u64, context: &mut Context) {
    context.timers.set(key, &mut connection.deadline, until_ms);
    context.unattended.connections.insert(connection);
}

/// Deals with an event; `false` when it came too late.
pub fn on_event(key: Key, ready: Readiness, context: &mut Context) -> bool {
    let Some(index) = context.unattended.slot(key) else { return false };
    if let Some(connection) = context.unattended.connections.get_mut(index) {
        connection.upstream.ready.learn(ready);
    }
    advance(key, context);
    true
}

/// The entry of a connection's deadline has come up: there is no verdict.
pub fn deadline_due(key: Key, context: &mut Context) {
    let now_ms = context.now_ms();
    let Some(index) = context.unattended.slot(key) else { return };
    let Some(connection) = context.unattended.connections.get_mut(index) else { return };
    if context.timers.expired(key, &mut connection.deadline, now_ms) {
        context.unattended.connections.remove(index);
    }
}

/// Closes all, because the gateway ends.
pub fn clear(context: &mut Context) {
    context.unattended.connections.clear();
}

/// What comes of a step.
enum Next {
    Wait,
    /// The AUTHENTICATE_MESSAGE is ready to be sent.
    Awaiting(Ticket),
    /// On a fresh connection.
    Redial,
    Verdict(Answer),
    /// Nothing can be found out.
    Over,
}

fn advance(key: Key, context: &mut Context) {
    let Some(index) = context.unattended.slot(key) else { return };
    loop {
        let Some(connection) = context.unattended.connections.get_mut(index) else { return };
        let next = match &connection.stage {
            Stage::Asking { .. } => ask(index, context),
            Stage::Awaiting { .. } => listen(connection, &mut context.scratch, context.settings.head_limit_bytes),
        };
        let Some(connection) = context.unattended.connections.get_mut(index) else { return };
        match next {
            Next::Wait => return,
            Next::Awaiting(ticket) => {
                connection.stage = Stage::Awaiting { ticket, heard: Vec::new(), reads_left: READS }
            }
            Next::Redial => {
                let hop = Arc::clone(&connection.hop);
                match (dial(&hop, key, context), context.unattended.connections.get_mut(index)) {
                    (Some(fresh), Some(connection)) => connection.upstream = fresh,
                    _ => drop(context.unattended.connections.remove(index)),
                }
                return;
            }
            Next::Verdict(answer) => {
                let connection = context.unattended.connections.remove(index);
                if let Stage::Awaiting { ticket, .. } = connection.stage {
                    if let Answer::Refused = answer {
                        connection.hop.metrics.answered_407(Reason407::Refused, 1);
                    }
                    ticket.settle(context.now_ms(), answer);
                }
                return;
            }
            Next::Over => {
                context.unattended.connections.remove(index);
                return;
            }
        }
    }
}

/// One step towards the challenge, and its answer.
fn ask(index: usize, context: &mut Context) -> Next {
    let Context { unattended, scratch, .. } = context;
    let Some(connection) = unattended.connections.get_mut(index) else { return Next::Over };
    let Unattended { hop, upstream, outbox, stage, .. } = connection;
    let Stage::Asking { handshake, inbox, .. } = stage else { return Next::Over };
    if !handshake.is_challenged() {
        if !upstream.ready.writable() && !upstream.ready.readable() {
            return Next::Wait;
        }
        if handshake.is_ready() {
            if !matches!(upstream.stream.take_error(), Ok(None)) {
                hop.identity.guard.unreachable(hop.upstream.name());
                return Next::Over;
            }
            handshake.begin(outbox);
        }
        if flush(upstream, outbox).is_err() {
            return Next::Over;
        }
        match hear_challenge(upstream, inbox, handshake, outbox, scratch) {
            Ok(Progress::Challenged) => {}
            Ok(Progress::Redial) => return Next::Redial,
            Ok(Progress::More) => return Next::Wait,
            // It asks for nothing, or fails: a client's request decides.
            _ => return Next::Over,
        }
    }
    let hop = Arc::clone(hop);
    answer(&hop, index, context)
}

/// Reads until there is a challenge, or nothing more to read.
fn hear_challenge(
    upstream: &mut Endpoint,
    inbox: &mut HeadReader,
    handshake: &mut Handshake,
    outbox: &mut Vec<u8>,
    scratch: &mut [u8],
) -> Result<Progress, ()> {
    while upstream.ready.readable() {
        let got = inbox.read(upstream, scratch, |bytes| match handshake.receive(bytes, outbox) {
            Ok((used, progress)) => (used, Ok(progress)),
            Err(_) => (0, Err(())),
        });
        match got {
            Ok(Got::Blocked | Got::Bytes(Ok(Progress::More))) => {}
            Ok(Got::Bytes(Ok(Progress::Send))) => flush(upstream, outbox).map_err(drop)?,
            Ok(Got::Bytes(progress)) => return progress,
            Ok(Got::End) | Err(_) => return handshake.closed().map_err(drop),
        }
    }
    Ok(Progress::More)
}

fn answer(hop: &Arc<Hop>, index: usize, context: &mut Context) -> Next {
    let now_ms = context.now_ms();
    let nonces = nonces(context);
    let Some(connection) = context.unattended.connections.get_mut(index) else { return Next::Over };
    let Stage::Asking { handshake, .. } = &mut connection.stage else { return Next::Over };
    let asking = Asking {
        upstream: hop.upstream.name(),
        method: handshake.request().method(),
        destination: handshake.request().origin(),
        challenged: handshake.is_demanded(),
        confirms: true,
    };
    let Permission::Go(ticket) = hop.identity.guard.ask(now_ms, &asking) else { return Next::Over };
    match nonces.and_then(|nonces| handshake.authenticate(&nonces, &mut connection.outbox)) {
        Ok(()) => {
            hop.metrics.authenticates.inc();
            Next::Awaiting(ticket)
        }
        Err(_) => {
            ticket.unused();
            Next::Over
        }
    }
}

/// One step towards the verdict.
fn listen(connection: &mut Unattended, scratch: &mut [u8], limit_bytes: usize) -> Next {
    let Unattended { upstream, outbox, stage, .. } = connection;
    let Stage::Awaiting { heard, reads_left, .. } = stage else { return Next::Over };
    // The answer may be there though the upstream takes no more.
    let _ = flush(upstream, outbox);
    loop {
        if let Some(answer) = verdict::so_far(heard) {
            return Next::Verdict(answer);
        }
        if heard.len() >= limit_bytes || *reads_left == 0 {
            return Next::Verdict(verdict::unread(heard));
        }
        *reads_left -= 1;
        if !upstream.ready.readable() {
            return Next::Wait;
        }
        match upstream.read(scratch) {
            Ok(None) => return Next::Wait,
            Ok(Some(0)) | Err(_) => return Next::Verdict(verdict::cut_off(heard)),
            Ok(Some(count)) => heard.extend_from_slice(&scratch[..count]),
        }
    }
}

fn flush(upstream: &mut Endpoint, outbox: &mut Vec<u8>) -> std::io::Result<()> {
    if !outbox.is_empty() && upstream.ready.writable() {
        let sent = upstream.write(outbox)?;
        outbox.drain(..sent);
    }
    Ok(())
}
