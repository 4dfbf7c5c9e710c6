//! A request on its way through the upstreams of its group: what it takes along from one connection to the next.

use std::sync::Arc;

use super::connection_source::ConnectionSource;
use super::cx::Cx;
use super::route_progress::RouteProgress;
use crate::auth::Handshake;
use crate::egress::{AuthDemand, Egress, Hop, Member, Tried};
use crate::fault::Fault;
use crate::upstream::{ChallengeWait, Scout, Upstream};

/// A request on its way.
#[derive(Debug)]
pub(super) struct Attempt {
    pub handshake: Handshake,
    pub egress: Arc<Egress>,
    pub hop: Arc<Hop>,
    pub choice: HopChoice,
    /// The place of the hop's upstream in `egress`.
    pub member: usize,
    /// What the client sent after its head.
    pub leftover: Vec<u8>,
    /// The other candidates of its plan; `None` if none is left, or as soon as something of the request may have been
    /// sent.
    pub route: Option<Box<RouteProgress>>,
    /// When the first dial began, in µs.
    pub started_us: u64,
    /// When the client must have its answer, in ms.
    pub until_ms: u64,
    /// Tells the present connection from the session's other dials.
    pub number: u8,
    pub source: ConnectionSource,
    /// Held from the dial to the challenge.
    pub waiting: Option<ChallengeWait>,
    /// The right to dial while others wait for the guard; held until the AUTHENTICATE_MESSAGE is sent.
    pub scout: Option<Scout>,
    /// When a pre-challenged connection got its challenge, in ms.
    pub challenged_ms: u64,
    /// The configuration has the upstream asked without credentials first.
    pub without_credentials: bool,
    /// The request was answered with 407 on an authenticated connection and is sent again.
    pub asked_on_kept: bool,
    /// Upstreams that have failed this request after they took its connection, and why.
    pub failed: Vec<(Arc<Upstream>, Box<str>)>,
    /// The present upstream has cut the connection off after a logon that it should have accepted: whether the
    /// destination is the reason, or the upstream is going down, shows when it is asked for another challenge.
    pub cut_off: Option<Fault>,
    /// The fault of a logon that was refused with one secret of the identity, while the other is used. That one must be
    /// known to be accepted, because a request causes one failed logon at most.
    pub refusal: Option<Fault>,
}

/// The upstreams that a request may go through.
#[derive(Clone, Copy, Debug)]
pub(super) struct HopChoice {
    /// Those of this group,
    pub group: usize,
    /// as this identity, if the client has one of its own,
    pub identity: Option<usize>,
    /// except for these.
    pub tried: Tried,
}

impl HopChoice {
    /// The next upstream, by its place, and the hop there.
    pub(super) fn next<'a>(&mut self, egress: &'a Egress) -> Option<(usize, &'a Arc<Hop>)> {
        loop {
            let member = egress.choose(self.group, self.tried)?;
            self.tried.insert(member);
            if let Some(hop) = egress.hop(member, self.identity) {
                return Some((member, hop));
            }
        }
    }

    /// An upstream that is ejected like all the others, for a bounded number of requests.
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

    /// Whether there is a next upstream.
    pub(super) fn has_next(&self, egress: &Egress) -> bool {
        egress.choose(self.group, self.tried).is_some()
    }
}

impl Attempt {
    /// The size of its buffers in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.leftover.capacity() + self.handshake.request().held_bytes()
    }

    /// Whether the present connection is authenticated as far as is known: its last request went out without
    /// credentials only because they were not asked for.
    pub(super) fn is_authenticated(&self) -> bool {
        self.source == ConnectionSource::Kept || self.handshake.has_shown_credentials()
    }

    /// Whether there is another upstream to go to.
    pub(super) fn has_next(&self) -> bool {
        self.choice.has_next(&self.egress)
    }

    /// Decides what a request with a body, or a HEAD, sends first on a cold connection. A stand-in is sent only to an
    /// upstream that is known to ask for credentials: another one might carry it out.
    pub(super) fn choose_first_leg(&mut self, now_ms: u64) {
        let request = self.handshake.request();
        if !request.has_stand_in() || self.without_credentials {
            return;
        }
        match self.hop.habits.auth_demand(&request.demand_key(), now_ms) {
            AuthDemand::Yes => self.handshake.ask_at_once(),
            AuthDemand::No => self.handshake.ask_plainly(),
            // A GET instead does no harm, and shows a silent upstream in time.
            AuthDemand::Unknown if !request.has_body() && !self.hop.habits.is_responsive(now_ms) => {
                self.handshake.ask_at_once()
            }
            AuthDemand::Unknown => self.handshake.ask_tentatively(),
        }
    }

    /// Moves a request whose credentials a reload has withdrawn to the present configuration: to the same upstream as
    /// the same identity. Where they are gone it stays, and fails when it comes to authenticate.
    pub(super) fn follow_reload(&mut self, cx: &mut Cx<'_>) {
        if !self.hop.credentials.is_withdrawn() {
            return;
        }
        let present = &cx.shard.settings.egress;
        let name_of = |own: usize| self.egress.identities.get(own).map(|identity| &identity.name);
        let own = self.choice.identity.map(|own| {
            let name = name_of(own);
            present.identities.iter().position(|identity| Some(&identity.name) == name)
        });
        let is_same = |member: &Member| member.upstream.name() == self.hop.upstream.name();
        let Some(place) = present.members.iter().position(is_same) else { return };
        let (Some(member), false) = (present.members.get(place), own == Some(None)) else { return };
        let mut choice = HopChoice { group: member.group, identity: own.flatten(), tried: Tried::default() };
        choice.tried.insert(place);
        // An upstream that the reload has changed may be tried again.
        for (other, member) in present.members.iter().enumerate() {
            if self.egress.place_of(&member.upstream).is_some_and(|before| self.choice.tried.contains(before)) {
                choice.tried.insert(other);
            }
        }
        if let Some(hop) = present.hop(place, choice.identity).map(|hop| hop.in_use(cx.now_ms())).cloned() {
            (self.egress, self.choice) = (present.egress(), choice);
            self.move_to(place, &hop, cx);
        }
    }

    /// Whether the present upstream has accepted the secret lately.
    pub(super) fn is_fresh(&self, now_ms: u64) -> bool {
        self.hop.identity.guard.is_accepted(now_ms, self.hop.upstream.name())
    }

    /// Whether the next upstream has accepted the secret lately.
    pub(super) fn is_accepted_elsewhere(&self, now_ms: u64) -> bool {
        let mut choice = self.choice;
        let next = choice.next(&self.egress).map(|(_, hop)| hop.in_use(now_ms));
        next.is_some_and(|hop| hop.identity.guard.is_accepted(now_ms, hop.upstream.name()))
    }

    /// Whether the next upstream accepts the secret and the present one never has: then it is the present one that is
    /// wrong.
    pub(super) fn is_accepted_elsewhere_only(&self) -> bool {
        let mut choice = self.choice;
        let next = choice.next(&self.egress);
        !self.hop.was_accepted() && next.is_some_and(|(_, hop)| hop.was_accepted())
    }

    /// Uses the secret that a request has to use now at the present upstream; returns whether that is the other one.
    pub(super) fn follow_secret(&mut self, cx: &mut Cx<'_>) -> bool {
        if self.refusal.is_some() {
            return false;
        }
        let present = self.egress.hop(self.member, self.choice.identity);
        let in_use = present.filter(|hop| hop.previous.is_some()).map(|hop| hop.in_use(cx.now_ms()));
        let Some(other) = in_use.filter(|hop| !Arc::ptr_eq(hop, &self.hop)).cloned() else { return false };
        self.move_to(self.member, &other, cx);
        true
    }

    /// The present upstream with the other secret of the identity, if a request may be made with that after a refusal.
    /// It may once, and the previous secret is of no use where the present one was accepted.
    pub(super) fn other_secret(&self) -> Option<Arc<Hop>> {
        if self.refusal.is_some() {
            return None;
        }
        let present = self.egress.hop(self.member, self.choice.identity)?;
        let previous = present.previous.as_ref()?;
        let is_present = Arc::ptr_eq(present, &self.hop);
        if is_present && present.identity.guard.was_accepted(present.upstream.name()) {
            return None;
        }
        Some(Arc::clone(if is_present { previous } else { present }))
    }

    /// Whether the logon that was sent may be refused, and the request then made with the other secret.
    pub(super) fn may_be_repeated(&self) -> bool {
        self.other_secret().is_some()
    }

    /// Turns to the other secret after a refusal.
    pub(super) fn fall_back_to(&mut self, other: &Arc<Hop>, refusal: Fault, cx: &mut Cx<'_>) {
        log::debug!("{}: {refusal}; on with the identity's other secret", self.hop.upstream.name());
        self.move_to(self.member, other, cx);
        self.refusal = Some(refusal);
    }

    /// Until when the upstream may leave the present leg unanswered, in ms. An upstream that may be waiting for the
    /// origin has all the time there is.
    pub(super) fn leg_until_ms(&self, cx: &Cx<'_>) -> u64 {
        let (now_ms, timeouts) = (cx.now_ms(), cx.timeouts());
        let may_wait_for_origin = self.handshake.is_challenged()
            || self.handshake.awaits_origin()
            || self.hop.unchallenged.may_serve(now_ms, self.handshake.request().origin());
        let wait_ms = match self.has_next() {
            _ if may_wait_for_origin => return self.until_ms,
            true => timeouts.challenge.min(timeouts.connect),
            false => timeouts.challenge,
        };
        self.until_ms.min(now_ms + wait_ms)
    }

    /// Turns to the next upstream, if there is one.
    pub(super) fn move_on(&mut self, cx: &mut Cx<'_>) {
        let egress = Arc::clone(&self.egress);
        if let Some((member, hop)) = self.choice.next(&egress) {
            self.move_to(member, hop.in_use(cx.now_ms()), cx);
        }
    }

    /// An upstream was only passed over: it may still be used should the present one fail.
    pub(super) fn may_still_use(&mut self, upstream: &Arc<Upstream>) {
        if let Some(place) = self.egress.place_of(upstream) {
            self.choice.tried.remove(place);
        }
    }

    /// Turns to another upstream; what the last one said is forgotten.
    pub(super) fn move_to(&mut self, member: usize, hop: &Arc<Hop>, cx: &mut Cx<'_>) {
        self.member = member;
        self.hop = Arc::clone(hop);
        (self.scout, self.cut_off) = (None, None);
        self.handshake.turn_to(Arc::clone(&hop.credentials));
        self.choose_first_leg(cx.now_ms());
        cx.goes_to(hop);
    }
}
