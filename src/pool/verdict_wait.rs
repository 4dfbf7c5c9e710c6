//! Connections without a client that wait for the verdict on an AUTHENTICATE_MESSAGE.
//!
//! Either the client gave up before the upstream had answered, or the handshake's time was over. The answer still says
//! whether the secret is right; if nobody waited for it, clients that come and go, or an upstream whose refusals take
//! longer than a handshake may, could have a wrong one tried as often as they like. Or the handshake is the gateway's
//! own and confirms the secret with a destination that was accepted lately
//! ([`Guard::take_confirmation`](crate::upstream::Guard::take_confirmation)).

use std::io;
use std::sync::Arc;

use super::Loan;
use crate::auth::{Due, Handshake, Progress, Request};
use crate::egress::{Hop, logon_verdict};
use crate::event::{Deadline, EventToken, HeadReader, Key, Owner, ReadOutcome, Slots, Vacancy};
use crate::limits::{self, millis};
use crate::metrics::Reason407;
use crate::transport::{Endpoint, Readiness};
use crate::upstream::{Answer, AttemptRequest, Confirmation, Resolution, SendPermission, Ticket};

/// Reads in which a status line has arrived, even one byte at a time and after some interim answers.
const READS: u16 = 512;

struct Connection {
    hop: Arc<Hop>,
    upstream: Endpoint,
    deadline: Deadline,
    /// Not sent yet.
    outbox: Vec<u8>,
    phase: Phase,
    /// Other requests wait for as long as this is held.
    confirmation: Option<Confirmation>,
}

enum Phase {
    /// A handshake of the gateway's own, up to its challenge.
    Challenge { handshake: Box<Handshake>, inbox: HeadReader },
    /// The AUTHENTICATE_MESSAGE is on its way; `answer` is what has come of the answer.
    Verdict { ticket: Ticket, answer: Vec<u8>, reads_left: u16 },
}

/// What a step of a connection leads to.
enum Advance {
    Wait,
    /// The AUTHENTICATE_MESSAGE is ready to be sent.
    Authenticating(Ticket),
    /// The handshake goes on, on a new connection.
    Redial,
    Verdict(Answer),
    /// No verdict will come.
    Over,
}

/// A shard's connections that wait for a verdict; at most [`limits::VERDICT_WAITS_PER_SHARD`].
pub struct VerdictWaitPool {
    connections: Slots<Connection>,
}

/// An AUTHENTICATE_MESSAGE that no client waits for any more.
pub struct Orphan {
    /// Where it was sent.
    pub hop: Arc<Hop>,
    /// On which connection.
    pub upstream: Endpoint,
    /// The right to have sent it.
    pub ticket: Ticket,
    /// The part of the request's head that is still to be sent.
    pub unsent: Vec<u8>,
    /// The part of the answer that has come.
    pub heard: Vec<u8>,
    /// When the handshake's time is over, in ms of the shard's clock. The verdict is waited for a while longer.
    pub until_ms: u64,
}

impl Default for VerdictWaitPool {
    fn default() -> Self {
        VerdictWaitPool { connections: Slots::new(Owner::VerdictWait) }
    }
}

impl VerdictWaitPool {
    /// Goes on waiting for a verdict without the client.
    pub fn adopt(&mut self, orphan: Orphan, loan: &mut Loan<'_>) {
        let Orphan { hop, mut upstream, ticket, unsent, heard, until_ms } = orphan;
        // Some places are reserved for the gateway's own handshakes: every request may be waiting for one.
        let Some(vacancy) = self.vacancy(limits::VERDICT_WAITS_PER_SHARD - limits::VERDICT_WAITS_RESERVED) else {
            return;
        };
        let key = vacancy.key();
        if upstream.hand_over(EventToken::upstream(key, 0), loan.registry).is_err() {
            return;
        }
        let mut deadline = Deadline::UNARMED;
        loan.timers.set(key, &mut deadline, late_verdict_ms(until_ms, loan));
        vacancy.insert(Connection {
            hop,
            upstream,
            deadline,
            outbox: unsent,
            phase: Phase::Verdict { ticket, answer: heard, reads_left: READS },
            confirmation: None,
        });
        // What has come already brings no further event.
        self.advance(key, loan);
    }

    /// Starts the gateway's own handshakes that guards want; each is started by the shard that asks first. `true` when
    /// one is wanted that may not start yet.
    pub fn confirm(&mut self, loan: &mut Loan<'_>) -> bool {
        let egress = loan.egress.egress();
        let mut is_one_left = false;
        for hop in &egress.hops {
            let (guard, upstream) = (&hop.identity.guard, hop.upstream.name());
            if !guard.wants_confirmation(upstream) || self.is_full(limits::VERDICT_WAITS_PER_SHARD) {
                continue;
            }
            match guard.take_confirmation(loan.now_ms, upstream) {
                None => is_one_left = true,
                Some(confirmation) => {
                    if self.begin(hop, confirmation, loan).is_none() {
                        // It is given back, and a client's request decides.
                        guard.unreachable(upstream);
                    }
                }
            }
        }
        is_one_left
    }

    fn begin(&mut self, hop: &Arc<Hop>, confirmation: Confirmation, loan: &mut Loan<'_>) -> Option<()> {
        let good = confirmation.good();
        let request = match good.by_connect {
            true => Request::connect(&*good.destination, Vec::new()),
            false => Request::bare_get(&good.destination)?,
        };
        log::debug!("confirming the credentials at upstream {} with a {}", hop.upstream.name(), request.method());
        let vacancy = self.vacancy(limits::VERDICT_WAITS_PER_SHARD)?;
        let key = vacancy.key();
        let upstream = dial(hop, key, loan)?;
        let mut handshake = Box::new(Handshake::new(request, hop.credentials.clone(), loan.head_limit_bytes));
        handshake.begin_with_logon();
        handshake.await_demand();
        let mut deadline = Deadline::UNARMED;
        loan.timers.set(key, &mut deadline, loan.now_ms + loan.timeouts.handshake);
        vacancy.insert(Connection {
            hop: Arc::clone(hop),
            upstream,
            deadline,
            outbox: Vec::new(),
            phase: Phase::Challenge { handshake, inbox: HeadReader::default() },
            confirmation: Some(confirmation),
        });
        Some(())
    }

    /// Handles an event; `false` when it is stale.
    pub(super) fn on_event(&mut self, key: Key, ready: Readiness, loan: &mut Loan<'_>) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        connection.upstream.learn(ready);
        self.advance(key, loan);
        true
    }

    pub(super) fn deadline_due(&mut self, key: Key, loan: &mut Loan<'_>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if !loan.timers.expired(key, &mut connection.deadline, loan.now_ms) {
            return;
        }
        match (&connection.phase, connection.confirmation.take()) {
            // The confirmation has failed, but its attempt may still be refused.
            (Phase::Verdict { .. }, Some(_)) => {
                let until_ms = late_verdict_ms(loan.now_ms, loan);
                loan.timers.set(key, &mut connection.deadline, until_ms);
            }
            _ => drop(self.connections.remove(key)),
        }
    }

    pub(super) fn clear(&mut self) {
        self.connections.take_all().for_each(drop);
    }

    fn advance(&mut self, key: Key, loan: &mut Loan<'_>) {
        while let Some(connection) = self.connections.get_mut(key) {
            match connection.advance(loan) {
                Advance::Wait => return,
                Advance::Authenticating(ticket) => {
                    connection.phase = Phase::Verdict { ticket, answer: Vec::new(), reads_left: READS };
                }
                Advance::Redial => {
                    match dial(&connection.hop, key, loan) {
                        Some(upstream) => connection.moves_to(upstream),
                        None => drop(self.connections.remove(key)),
                    }
                    return;
                }
                Advance::Verdict(answer) => {
                    let Some(Connection { hop, phase, confirmation, .. }) = self.connections.remove(key) else {
                        return;
                    };
                    if let Phase::Verdict { ticket, .. } = phase {
                        if let Answer::Refused = answer {
                            hop.metrics.answered_407(Reason407::Refused, 1);
                        }
                        ticket.settle(loan.now_ms, answer);
                    }
                    // Not before the verdict is known: nobody must find neither.
                    drop(confirmation);
                    return;
                }
                Advance::Over => {
                    self.connections.remove(key);
                    return;
                }
            }
        }
    }

    fn is_full(&self, most: usize) -> bool {
        self.connections.len() >= most
    }

    /// A free slot if there are fewer than `most` connections.
    fn vacancy(&mut self, most: usize) -> Option<Vacancy<'_, Connection>> {
        if self.is_full(most) {
            return None;
        }
        self.connections.vacancy()
    }

    /// How many connections there are.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.connections.len()
    }
}

impl Connection {
    fn advance(&mut self, loan: &mut Loan<'_>) -> Advance {
        match &self.phase {
            Phase::Challenge { .. } => self.authenticate(loan),
            Phase::Verdict { .. } => self.listen(loan.scratch, loan.head_limit_bytes),
        }
    }

    /// The handshake goes on there. What the last connection left must not be taken for a part of the next challenge.
    fn moves_to(&mut self, upstream: Endpoint) {
        self.upstream = upstream;
        self.outbox.clear();
        if let Phase::Challenge { inbox, .. } = &mut self.phase {
            *inbox = HeadReader::default();
        }
    }

    /// One step of the handshake, up to the AUTHENTICATE_MESSAGE.
    fn authenticate(&mut self, loan: &mut Loan<'_>) -> Advance {
        let Connection { hop, upstream, outbox, phase, .. } = self;
        let Phase::Challenge { handshake, inbox } = phase else { return Advance::Over };
        if !handshake.is_challenged() {
            if handshake.is_ready() {
                match upstream.connect_outcome() {
                    None => return Advance::Wait,
                    Some(Ok(())) => {
                        if let Some(is_resumed) = upstream.stream.is_resumed() {
                            hop.upstream_metrics.secured(is_resumed);
                        }
                    }
                    Some(Err(_)) => {
                        hop.identity.guard.unreachable(hop.upstream.name());
                        return Advance::Over;
                    }
                }
                handshake.begin(outbox);
            }
            if flush(upstream, outbox).is_err() {
                return Advance::Over;
            }
            match hear_challenge(upstream, inbox, handshake, outbox, loan.scratch) {
                Ok(Progress::Challenged) => {}
                Ok(Progress::Redial) => return Advance::Redial,
                Ok(Progress::More) => return Advance::Wait,
                // The upstream does not ask for credentials, or fails: a client's request decides.
                _ => return Advance::Over,
            }
        }
        answer_challenge(hop, handshake, upstream.channel_bindings(), outbox, loan)
    }

    /// One step towards the verdict.
    fn listen(&mut self, scratch: &mut [u8], limit_bytes: usize) -> Advance {
        let Connection { upstream, outbox, phase, .. } = self;
        let Phase::Verdict { answer, reads_left, .. } = phase else { return Advance::Over };
        // The answer may have come even if the upstream takes no more.
        let _ = flush(upstream, outbox);
        loop {
            if let Some(verdict) = logon_verdict::so_far(answer) {
                return Advance::Verdict(verdict);
            }
            if answer.len() >= limit_bytes || *reads_left == 0 {
                return Advance::Verdict(logon_verdict::unread(answer));
            }
            *reads_left -= 1;
            if !upstream.ready.readable() {
                return Advance::Wait;
            }
            match upstream.read(scratch) {
                Ok(None) => return Advance::Wait,
                Ok(Some(0)) | Err(_) => return Advance::Verdict(logon_verdict::cut_off(answer)),
                Ok(Some(count)) => answer.extend_from_slice(&scratch[..count]),
            }
        }
    }
}

/// Until when the verdict on an attempt is waited for whose handshake has until `until_ms`.
fn late_verdict_ms(until_ms: u64, loan: &Loan<'_>) -> u64 {
    until_ms.max(loan.now_ms) + millis(limits::GUARD_LATE_VERDICT_WAIT)
}

/// Reads until the challenge has come, or there is nothing more to read.
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
            Ok(ReadOutcome::Blocked | ReadOutcome::Bytes(Ok(Progress::More))) => {}
            Ok(ReadOutcome::Bytes(Ok(Progress::Send))) => flush(upstream, outbox).map_err(drop)?,
            Ok(ReadOutcome::Bytes(progress)) => return progress,
            Ok(ReadOutcome::End) | Err(_) => return handshake.closed().map_err(drop),
        }
    }
    Ok(Progress::More)
}

/// Puts the AUTHENTICATE_MESSAGE into `outbox` if the guard allows it.
fn answer_challenge(
    hop: &Hop,
    handshake: &mut Handshake,
    channel_bindings: Option<[u8; 16]>,
    outbox: &mut Vec<u8>,
    loan: &mut Loan<'_>,
) -> Advance {
    // A ticket that the upstream accepts says nothing about the secret.
    if handshake.due() != Some(Due::LogonAttempt) {
        return Advance::Over;
    }
    let nonces = loan.nonces.draw();
    handshake.bind_to_channel(channel_bindings);
    let asking = AttemptRequest {
        upstream: hop.upstream.name(),
        method: handshake.request().method(),
        destination: handshake.request().origin(),
        challenged: handshake.is_demanded(),
        confirms: true,
    };
    let SendPermission::Go(ticket) = hop.identity.guard.ask(loan.now_ms, &asking) else { return Advance::Over };
    match nonces.and_then(|nonces| handshake.authenticate(&nonces, outbox)) {
        Ok(()) => {
            hop.metrics.authenticates.inc();
            Advance::Authenticating(ticket)
        }
        Err(_) => {
            ticket.unused();
            Advance::Over
        }
    }
}

fn dial(hop: &Hop, key: Key, loan: &Loan<'_>) -> Option<Endpoint> {
    let Some(Resolution::Addresses(addresses)) = hop.upstream.resolution() else { return None };
    let address = *addresses.get(hop.upstream.preferred()).or(addresses.first())?;
    hop.metrics.dials.inc();
    let (transport, token) = (hop.upstream.transport(), EventToken::upstream(key, 0));
    transport.connect(address, token, &loan.socket_options, loan.registry).ok()
}

fn flush(upstream: &mut Endpoint, outbox: &mut Vec<u8>) -> io::Result<()> {
    if !outbox.is_empty() && upstream.ready.writable() {
        let sent = upstream.write(outbox)?;
        outbox.drain(..sent);
    }
    Ok(())
}
