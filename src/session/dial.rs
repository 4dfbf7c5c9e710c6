//! The second stage: choosing an upstream and connecting to it.
//!
//! One address is tried after the other, the next beside a slow one; behind the last address of an upstream comes the next
//! upstream of the group. Whoever takes the connection first gets the request.

use std::net::SocketAddr;
use std::sync::Arc;

use super::authenticate::{self, Authenticate};
use super::happy_eyeballs::{Candidate, Race, Racer};
use super::reply::Reply;
use super::{Client, Context, Stage, Step};
use crate::auth::Handshake;
use crate::egress::{Asks, Egress, Hop, Member, OnHop, Tried};
use crate::event::{Endpoint, Key, Seat};
use crate::fault::{At, Cause, Fault, is_exhaustion};
use crate::limits::{CONNECTION_ATTEMPT_DELAY, millis};
use crate::metrics::{Outcome, Path, Phase};
use crate::upstream::{Entry, Refusal, Resolution, Scout, Waiting};

/// What a handshake takes along over all its connections.
#[derive(Debug)]
pub(super) struct Attempt {
    pub handshake: Handshake,
    pub egress: Arc<Egress>,
    pub hop: Arc<Hop>,
    pub wish: Wish,
    /// The place of the hop's upstream in the egress.
    pub member: usize,
    /// What the client sent behind its head.
    pub leftover: Vec<u8>,
    /// When the first dial began, in µs.
    pub started_us: u64,
    /// When the client must have its answer, in ms.
    pub until_ms: u64,
    /// Which of the tunnel's dials the present connection came of.
    pub number: u8,
    /// Whether the present connection was challenged ahead.
    pub path: Path,
    /// Held from the dial to the challenge.
    pub waiting: Option<Waiting>,
    /// The right to dial while others wait for the guard; held until the AUTHENTICATE_MESSAGE goes out.
    pub scout: Option<Scout>,
    /// When the present connection was challenged, in ms, if that was before the client came.
    pub challenged_ms: u64,
    /// The configuration has the upstream asked without credentials first.
    pub plainly: bool,
    /// The request has got a 407 on an authenticated connection and is made again.
    pub asked_on_kept: bool,
    /// Upstreams, by their places, that have failed this request behind its connection, and with what.
    pub failed: Vec<(usize, Box<str>)>,
}

/// Which upstreams will do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// Those of this group,
    pub group: usize,
    /// as this identity, if the client has one of its own,
    pub identity: Option<usize>,
    /// but for these.
    pub tried: Tried,
}

impl Wish {
    /// The next upstream that will do, by its place, and the hop there.
    pub(super) fn next<'a>(&mut self, egress: &'a Egress) -> Option<(usize, &'a Arc<Hop>)> {
        loop {
            let member = egress.choose(self.group, self.tried)?;
            self.tried.insert(member);
            if let Some(hop) = egress.hop(member, self.identity) {
                return Some((member, hop));
            }
        }
    }

    /// An upstream that is ejected as all the others are, to be tried all the same.
    pub(super) fn next_for_trial<'a>(
        &mut self,
        egress: &'a Egress,
        destination: &str,
        now_ms: u64,
    ) -> Option<(usize, &'a Arc<Hop>)> {
        let member = egress.choose_for_trial(self.group, destination, now_ms)?;
        self.tried.insert(member);
        Some((member, egress.hop(member, self.identity)?))
    }

    /// Whether there is one.
    pub(super) fn has_next(&self, egress: &Egress) -> bool {
        egress.choose(self.group, self.tried).is_some()
    }
}

/// Connecting.
#[derive(Debug)]
pub(super) struct Dial {
    attempt: Attempt,
    race: Race,
    /// The upstream whose addresses are being tried, and those.
    member: usize,
    addresses: Arc<[SocketAddr]>,
    preferred: usize,
    tried_addresses: usize,
    /// Upstreams that were tried in this dial, and what they failed with.
    launched: Vec<(usize, Option<String>)>,
    /// Upstreams whose names had not been looked up when their turn came.
    unresolved: Vec<usize>,
    waits_for_addresses: bool,
    /// The guard has not let it dial yet.
    waits_for_guard: bool,
    /// Its places among those that wait for the guard, and for addresses.
    guard_seat: Seat,
    address_seat: Seat,
    last: Option<Fault>,
}

impl Dial {
    /// Dials a fresh connection for a handshake that may have used up others.
    pub(super) fn anew(mut attempt: Attempt, key: Key, client: &mut Client, context: &mut Context) -> Step {
        attempt.path = Path::Cold;
        attempt.catch_up(client, context);
        let race = Race::new(attempt.number);
        let member = attempt.member;
        let dial = Box::new(Dial {
            attempt,
            race,
            member,
            addresses: Arc::default(),
            preferred: 0,
            tried_addresses: 0,
            launched: Vec::new(),
            unresolved: Vec::new(),
            waits_for_addresses: false,
            waits_for_guard: true,
            guard_seat: Seat::default(),
            address_seat: Seat::default(),
            last: None,
        });
        dial.knock(key, client, context)
    }

    /// Dials if the guard lets it; otherwise waits for its next change, or goes to the next upstream.
    fn knock(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        match self.enter(context) {
            Ok(true) => {
                self.waits_for_guard = false;
                self.turn_to(self.member);
                let shortage = &self.attempt.hop.upstream.helper_pressure;
                self.attempt.waiting = Some(shortage.client_waits(context.now_ms()));
                self.go_on(key, client, context)
            }
            // Rather than wait here for what others find out.
            Ok(false) if self.attempt.is_accepted_elsewhere(context.now_ms()) => {
                Dial::elsewhere(self.attempt, key, client, context)
            }
            Ok(false) => {
                context.guard_waiters.join(key, &mut self.guard_seat);
                client.set_deadline(key, context, self.attempt.until_ms);
                Step::Wait(Stage::Dial(self))
            }
            Err(_) if self.attempt.wish.has_next(&self.attempt.egress) => {
                Dial::elsewhere(self.attempt, key, client, context)
            }
            Err(refusal) => Reply::to_fault(authenticate::refusal_fault(refusal), client, context),
        }
    }

    /// Whether the guard lets it dial now.
    fn enter(&mut self, context: &Context) -> Result<bool, Refusal> {
        let Attempt { hop, handshake, scout, .. } = &mut self.attempt;
        if scout.is_some() || handshake.is_exempt() || hop.habits.grants_unasked() {
            return Ok(true);
        }
        let (method, destination) = (handshake.request().method(), handshake.request().origin());
        match hop.identity.guard.enter(context.now_ms(), hop.upstream.name(), method, destination) {
            Entry::Go => Ok(true),
            Entry::Scout(granted) => {
                *scout = Some(granted);
                // Its answer is to decide about the secret.
                handshake.await_demand();
                Ok(true)
            }
            Entry::Wait => Ok(false),
            Entry::No(refusal) => Err(refusal),
        }
    }

    /// Leaves the upstream that a handshake failed with for the next one.
    pub(super) fn elsewhere(mut attempt: Attempt, key: Key, client: &mut Client, context: &mut Context) -> Step {
        let egress = Arc::clone(&attempt.egress);
        if let Some((member, hop)) = attempt.wish.next(&egress) {
            attempt.move_to(member, hop, client, context.now_ms());
        }
        Dial::anew(attempt, key, client, context)
    }

    /// What its buffers take, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.attempt.held_bytes()
    }

    pub(super) fn endpoint(&mut self, number: u8) -> Option<&mut Endpoint> {
        self.race.endpoint(number)
    }

    pub(super) fn step(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if client.endpoint.ready.reset() {
            return self.client_gone(context);
        }
        if self.waits_for_guard {
            return self.knock(key, client, context);
        }
        if self.waits_for_addresses {
            let Some(member) = self.take_resolved() else {
                self.list(key, context);
                return Step::Wait(Stage::Dial(self));
            };
            self.waits_for_addresses = false;
            self.attempt.hop.metrics.phase(Phase::Resolve, context.now_us - self.attempt.started_us);
            self.turn_to(member);
        }
        self.go_on(key, client, context)
    }

    /// One of the upstreams that were waited for and of whose names something is known now.
    fn take_resolved(&mut self) -> Option<usize> {
        let egress = &self.attempt.egress;
        let is_known = |member: &usize| egress.members.get(*member).is_none_or(|of| of.upstream.resolution().is_some());
        let position = self.unresolved.iter().position(is_known)?;
        Some(self.unresolved.remove(position))
    }

    /// Asks to be stepped when something new is known of an upstream's name.
    fn list(&mut self, key: Key, context: &mut Context) {
        context.address_waiters.join(key, &mut self.address_seat);
    }

    pub(super) fn expired(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        let now_ms = context.now_ms();
        if self.waits_for_guard {
            self.launched.clear();
            return self.give_up(authenticate::guard_timeout(), client, context);
        }
        if self.waits_for_addresses {
            let late = || fault(Cause::ResolveTimeout, "the upstream's name was not resolved in time");
            let fault = self.last.take().unwrap_or_else(late);
            return self.give_up(fault, client, context);
        }
        while let Some((candidate, fault)) = self.race.overdue(now_ms) {
            self.note(candidate.member, fault);
        }
        if now_ms >= self.attempt.until_ms {
            let late = || fault(Cause::ConnectTimeout, "the upstream did not take the connection in time");
            let fault = self.last.take().unwrap_or_else(late);
            return self.give_up(fault, client, context);
        }
        self.go_on(key, client, context)
    }

    /// Sees who has arrived, and sends as many on their way as may be.
    fn go_on(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        while let Some((racer, outcome)) = self.race.finished() {
            match outcome {
                Ok(()) => return self.connected(racer, key, client, context),
                Err(error) => self.note(racer.candidate.member, Fault::dial_io(racer.candidate.address, &error)),
            }
        }
        while self.race.may_launch(context.now_ms()) {
            let Some(candidate) = self.next_candidate() else { break };
            let hop = self.attempt.egress.hop(candidate.member, self.attempt.wish.identity);
            hop.into_iter().for_each(|hop| hop.metrics.dials.inc());
            if let Err(error) = self.race.launch(candidate, key, context) {
                let fault = Fault::dial_io(candidate.address, &error);
                if !is_exhaustion(&error) {
                    self.note(candidate.member, fault);
                } else if self.race.is_empty() {
                    return self.give_up(fault, client, context);
                } else {
                    // It is ours, and no fault of the upstream.
                    self.launched.retain(|(tried, _)| *tried != candidate.member);
                    self.last = Some(fault);
                }
            }
        }
        if self.race.is_empty() {
            return self.nobody_left(key, client, context);
        }
        let is_next = self.tried_addresses < self.addresses.len() || self.attempt.wish.has_next(&self.attempt.egress);
        let due_ms = self.race.due_ms(is_next).unwrap_or(self.attempt.until_ms);
        client.set_deadline(key, context, due_ms.min(self.attempt.until_ms));
        Step::Wait(Stage::Dial(self))
    }

    /// The next address of the present upstream, or the first of the next one.
    fn next_candidate(&mut self) -> Option<Candidate> {
        loop {
            if self.tried_addresses < self.addresses.len() {
                let place = (self.preferred + self.tried_addresses) % self.addresses.len();
                self.tried_addresses += 1;
                let address = *self.addresses.get(place)?;
                return Some(Candidate { address, member: self.member, place });
            }
            let egress = Arc::clone(&self.attempt.egress);
            let (member, _) = self.attempt.wish.next(&egress)?;
            self.turn_to(member);
        }
    }

    /// Begins with an upstream's addresses, as far as they are known.
    fn turn_to(&mut self, member: usize) {
        self.member = member;
        (self.tried_addresses, self.addresses) = (0, Arc::default());
        let Some(upstream) = self.attempt.egress.members.get(member).map(|member| &member.upstream) else { return };
        match upstream.resolution() {
            Some(Resolution::Addresses(addresses)) => {
                self.launched.push((member, None));
                self.preferred = upstream.preferred();
                self.addresses = addresses;
            }
            Some(Resolution::Failed(why)) => {
                let detail = format!("the name of the upstream {} does not resolve: {why}", upstream.name());
                self.launched.push((member, None));
                self.note(member, fault(Cause::ResolveFailed, detail));
            }
            None => self.unresolved.push(member),
        }
    }

    /// Every address of every upstream has failed, but for those whose names are still being looked up.
    fn nobody_left(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if self.unresolved.is_empty() {
            let none = || fault(Cause::ResolveFailed, "the upstream's name has no address");
            let fault = self.last.take().unwrap_or_else(none);
            return self.give_up(fault, client, context);
        }
        self.waits_for_addresses = true;
        self.list(key, context);
        let at_ms = context.now_ms() + context.settings.timeouts.connect;
        client.set_deadline(key, context, at_ms.min(self.attempt.until_ms));
        Step::Wait(Stage::Dial(self))
    }

    fn connected(self: Box<Self>, winner: Racer, key: Key, client: &mut Client, context: &mut Context) -> Step {
        let member = winner.candidate.member;
        self.blame(Some(member), context);
        let mut attempt = self.attempt;
        // Who was only slower will do, should the winner fail later on.
        for (slower, _) in self.launched.iter().filter(|(tried, why)| *tried != member && why.is_none()) {
            attempt.wish.tried.remove(*slower);
        }
        if member != attempt.member
            && let Some(hop) = attempt.egress.hop(member, attempt.wish.identity).cloned()
        {
            attempt.move_to(member, &hop, client, context.now_ms());
            attempt.waiting = Some(hop.upstream.helper_pressure.client_waits(context.now_ms()));
        }
        attempt.number = winner.number;
        attempt.hop.upstream.reached(winner.candidate.place);
        attempt.hop.metrics.phase(Phase::Connect, context.now_us - winner.since_us);
        Authenticate::begin(attempt, winner.endpoint, key, client, context)
    }

    /// Something went wrong with an upstream.
    fn note(&mut self, member: usize, fault: Fault) {
        if let Some((_, why)) = self.launched.iter_mut().find(|(tried, _)| *tried == member) {
            *why = Some(fault.detail.to_string());
        }
        if let Some(hop) = self.attempt.egress.hop(member, self.attempt.wish.identity) {
            hop.identity.guard.unreachable(hop.upstream.name());
        }
        self.last = Some(fault);
    }

    /// Tells the health of those upstreams that were tried, and did not take the connection.
    fn blame(&self, winner: Option<usize>, context: &Context) {
        let members = &self.attempt.egress.members;
        let is_up = |member: usize| members.get(member).is_some_and(|member| member.upstream.health.is_up());
        let winners_place = self.launched.iter().position(|(member, _)| Some(*member) == winner);
        for (place, (member, why)) in self.launched.iter().enumerate() {
            let why = match why {
                _ if Some(*member) == winner => continue,
                // A loop that lags must not take its own delay for the upstreams'.
                _ if self.race.has_arrived(*member) => continue,
                Some(why) if !self.race.has(*member) => why.clone(),
                // Who set out behind the winner was not given its time.
                _ if winners_place.is_some_and(|winner| place > winner) => continue,
                // Being slower than another is a fault only while there is that other.
                _ if winner.is_some_and(|winner| !is_up(winner)) => continue,
                _ => format!("took longer than {} ms to take a connection", millis(CONNECTION_ATTEMPT_DELAY)),
            };
            if let Some(member) = members.get(*member) {
                member.upstream.health.failed(context.now_ms(), &why);
            }
        }
    }

    fn give_up(self: Box<Self>, fault: Fault, client: &mut Client, context: &mut Context) -> Step {
        if fault.cause != Cause::ResourcesExhausted {
            self.blame(None, context);
        }
        let duration_us = client.handshake_us(self.attempt.started_us, context);
        self.attempt.hop.metrics.handshake(Path::Cold, Outcome::Failed, u64::from(duration_us));
        client.record.handshake_us = duration_us;
        client.record.legs = self.attempt.handshake.legs();
        Reply::to_fault(fault, client, context)
    }

    fn client_gone(self: Box<Self>, context: &Context) -> Step {
        let duration_us = context.now_us - self.attempt.started_us;
        self.attempt.hop.metrics.handshake(Path::Cold, Outcome::Failed, duration_us);
        Step::end(context.fault(fault(Cause::ClientGone, "the client reset its connection")))
    }
}

impl Attempt {
    /// What its buffers take, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.leftover.capacity() + self.handshake.request().held_bytes()
    }

    /// Whether the present connection is one on which the upstream asks for no further proof, as far as is known: its last
    /// request went without credentials for another reason than that they were to be withheld.
    pub(super) fn is_proven(&self) -> bool {
        self.path == Path::Kept || self.handshake.has_shown_credentials()
    }

    /// Decides how a request with a body, or a HEAD, is begun on a cold connection: with a stand-in only where the upstream is
    /// known to ask for credentials, because elsewhere that may be carried out.
    pub(super) fn choose_first_leg(&mut self, now_ms: u64) {
        let request = self.handshake.request();
        if !request.has_stand_in() || self.plainly {
            return;
        }
        match self.hop.habits.asks_at(&request.demand_key(), now_ms) {
            Asks::Yes => self.handshake.ask_at_once(),
            Asks::No => self.handshake.ask_plainly(),
            // A GET in its place does no harm, and tells a mute upstream in time.
            Asks::Unknown if !request.has_body() && !self.hop.habits.is_heard_of(now_ms) => {
                self.handshake.ask_at_once()
            }
            Asks::Unknown => self.handshake.ask_tentatively(),
        }
    }

    /// Moves a request whose credentials a reload has withdrawn over to the present egress, to the same upstream as the same
    /// identity. Where they are gone it stays, and fails when it comes to authenticate.
    fn catch_up(&mut self, client: &mut Client, context: &Context) {
        let present = &context.settings.egress;
        if !self.hop.credentials.is_withdrawn() {
            return;
        }
        let name_of = |own: usize| self.egress.identities.get(own).map(|identity| &identity.name);
        let own = self.wish.identity.map(|own| {
            let name = name_of(own);
            present.identities.iter().position(|identity| Some(&identity.name) == name)
        });
        let is_same = |member: &Member| member.upstream.name() == self.hop.upstream.name();
        let Some(place) = present.members.iter().position(is_same) else { return };
        let (Some(member), false) = (present.members.get(place), own == Some(None)) else { return };
        let mut tried = Tried::default();
        tried.insert(place);
        let wish = Wish { group: member.group, identity: own.flatten(), tried };
        if let Some(hop) = present.hop(place, wish.identity) {
            (self.egress, self.wish) = (present.egress(), wish);
            self.move_to(place, hop, client, context.now_ms());
        }
    }

    /// Whether the present upstream has accepted the secret lately.
    pub(super) fn is_fresh(&self, now_ms: u64) -> bool {
        self.hop.identity.guard.is_fresh(now_ms, self.hop.upstream.name())
    }

    /// Whether the next upstream has accepted the secret lately.
    pub(super) fn is_accepted_elsewhere(&self, now_ms: u64) -> bool {
        let mut wish = self.wish;
        let next = wish.next(&self.egress);
        next.is_some_and(|(_, hop)| hop.identity.guard.is_fresh(now_ms, hop.upstream.name()))
    }

    /// Whether the next upstream accepts the secret, and the present one has always refused it: then it is the present one that is wrong.
    pub(super) fn is_accepted_elsewhere_only(&self) -> bool {
        let mut wish = self.wish;
        let next = wish.next(&self.egress);
        let accepts = |hop: &Hop| hop.identity.guard.was_proven(hop.upstream.name());
        !accepts(&self.hop) && next.is_some_and(|(_, hop)| accepts(hop))
    }

    /// Until when the upstream may leave the present leg without an answer, in ms. Only one that may be waiting for its origin has all the
    /// time there is.
    pub(super) fn leg_until_ms(&self, context: &Context) -> u64 {
        let (now_ms, timeouts) = (context.now_ms(), &context.settings.timeouts);
        let may_wait_for_origin = self.handshake.is_challenged()
            || self.handshake.awaits_origin()
            || self.hop.unasked.may_serve(now_ms, self.handshake.request().origin());
        let wait_ms = match self.wish.has_next(&self.egress) {
            _ if may_wait_for_origin => return self.until_ms,
            true => timeouts.challenge.min(timeouts.connect),
            false => timeouts.challenge,
        };
        self.until_ms.min(now_ms + wait_ms)
    }

    /// Tells the health of the present upstream about a fault behind the connection.
    pub(super) fn blame(&mut self, fault: &Fault, now_ms: u64) {
        let health = &self.hop.upstream.health;
        match fault.cause {
            // An answer that does not come may be waiting for the origin.
            Cause::HandshakeTimeout if self.handshake.awaits_origin() => {}
            Cause::HandshakeTimeout | Cause::ChallengeTimeout => health.failed(now_ms, &fault.detail),
            _ => {
                let origin = self.handshake.request().origin();
                match self.handshake.awaits_origin() {
                    true => health.failed_for(now_ms, origin, &fault.detail),
                    false => health.failed_unheard(now_ms, origin, &fault.detail),
                }
                self.failed.push((self.member, (&*fault.detail).into()));
            }
        }
    }

    /// The present upstream serves the request: those that failed it before had no reason in its destination.
    pub(super) fn blame_those_that_failed(&mut self, now_ms: u64) {
        for (member, why) in std::mem::take(&mut self.failed) {
            if member != self.member
                && let Some(member) = self.egress.members.get(member)
            {
                member.upstream.health.failed_alone(now_ms, &why);
            }
        }
    }

    /// Goes on with another upstream; what the last one said is forgotten.
    fn move_to(&mut self, member: usize, hop: &Arc<Hop>, client: &mut Client, now_ms: u64) {
        self.member = member;
        self.hop = Arc::clone(hop);
        self.scout = None;
        self.handshake.turn_to(Arc::clone(&hop.credentials));
        self.choose_first_leg(now_ms);
        client.record.on_hop = Some(OnHop::new(hop));
    }
}

fn fault(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(At::Dial, cause, detail)
}
