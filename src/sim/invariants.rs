//! What must be true of every run.

use std::collections::{BTreeMap, BTreeSet};

use super::client::Client;
use super::kerberos::RealmCounts;
use super::network::{Address, Conclusion, TlsCounts, with};
use super::plain;
use super::pump::Pump;
use super::scenario::{Entrance, Speaks, Target};
use super::world::World;
use crate::client_protocol;
use crate::fault::Cause;
use crate::limits;

/// How a run went, for statistics.
#[derive(Debug, Default)]
pub struct RunSummary {
    pub hash: u64,
    /// How each client's tunnel ended.
    pub ends: Vec<&'static str>,
    pub spliced: u64,
    /// How often bulk transfers paused.
    pub pauses: u64,
    pub carried: u64,
    /// Connections that the gateway opened.
    pub dialled: usize,
    /// What happened with Kerberos.
    pub tickets: RealmCounts,
    /// What happened with TLS.
    pub tls: TlsCounts,
}

/// An upstream that accepts within this time, in µs, is not slow.
const SLOW_ACCEPT_US: u64 = 200_000;

/// Connections that one request may cost: three for each of nine addresses, and those pre-challenged for the next one.
const MOST_DIALS_PER_CLIENT: usize = 30;

/// Labels of tunnels that the gateway ended by its own decision: cleanly, but before their end.
const CUT_SHORT: &[&str] = &["idle_timeout", "half_closed_timeout", "drained"];

/// Checks a run after its shard is gone.
///
/// # Errors
/// Everything that is wrong.
pub fn check(world: &World) -> Result<RunSummary, Vec<String>> {
    let mut wrong = Vec::new();
    let mut outcome = RunSummary::default();
    for (number, client) in world.clients.iter().enumerate() {
        let Some(client) = client else { continue };
        let mut view = Checker { world, number, client, end: conclusion_of(client), wrong: Vec::new() };
        view.check();
        outcome.ends.push(view.end.map_or("never_accepted", |end| end.label));
        outcome.carried += view.end.map_or(0, |end| end.bytes.iter().sum());
        wrong.extend(view.wrong.into_iter().map(|what| format!("client {number}: {what}")));
    }
    outcome.pauses = world.metrics.bulk_pauses.get();
    check_plain_http(world, &mut outcome, &mut wrong);
    check_tickets(world, &mut outcome, &mut wrong);
    check_leftovers(world, &mut wrong);
    with(|network| {
        outcome.hash = network.trace.hash();
        outcome.spliced = network.spliced;
        outcome.dialled = network.dialled.len();
        outcome.tls = network.tls_counts;
        wrong.extend(
            network.wrong_in_tls().map(|(id, error)| format!("connection {id}: the gateway broke TLS: {error}")),
        );
    });
    if wrong.is_empty() { Ok(outcome) } else { Err(wrong) }
}

/// Checks what upstreams and the KDC noticed about Kerberos.
fn check_tickets(world: &World, outcome: &mut RunSummary, wrong: &mut Vec<String>) {
    let Some(tickets) = &world.tickets else { return };
    let realm = tickets.realm.borrow();
    wrong.extend(realm.wrong.iter().cloned());
    outcome.tickets = realm.counts;
    // In the order of their connections.
    let mut begun = BTreeSet::new();
    for sent in world.peers.values().flat_map(|peer| &peer.http.with_tickets) {
        if begun.contains(&sent.request) {
            wrong.push(format!("request {} was sent again although its body had begun", sent.request));
        }
        // A body that is kept may be sent again after a refusal, but no other.
        if sent.has_begun && !sent.may_be_repeated {
            begun.insert(sent.request);
        }
    }
}

/// Checks the plain HTTP clients and what reached the other end.
fn check_plain_http(world: &World, outcome: &mut RunSummary, wrong: &mut Vec<String>) {
    let mut carried_out = BTreeMap::new();
    for (wire, peer) in &world.peers {
        peer.http.carried_out.iter().for_each(|request| *carried_out.entry(*request).or_default() += 1);
        wrong.extend(peer.http.wrong.iter().map(|what| format!("connection {wire}: {what}")));
    }
    for (place, client) in world.http_clients.iter().enumerate() {
        let Some(client) = client else { continue };
        let number = world.clients.len() + place;
        let (label, faults) = plain::check(number, client, &world.scenario, &carried_out);
        outcome.ends.push(label.unwrap_or("never_accepted"));
        wrong.extend(faults);
        for answer in &client.answers {
            let kind = match (&answer.tag, &answer.fault, answer.whole) {
                (_, Some(_), _) => "answer: fault",
                (Some(_), None, true) => "answer: complete",
                (Some(_), None, false) => "answer: truncated",
                (None, None, _) => "answer: the upstream's own",
            };
            outcome.ends.push(kind);
        }
        outcome.carried += client.received;
    }
}

fn conclusion_of(client: &Client) -> Option<Conclusion> {
    with(|network| network.wires[client.wire].concluded)
}

/// One client and how it ended.
struct Checker<'a> {
    world: &'a World,
    number: usize,
    client: &'a Client,
    end: Option<Conclusion>,
    wrong: Vec<String>,
}

impl Checker<'_> {
    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    fn check(&mut self) {
        let origins: Vec<&Pump> = self
            .world
            .peers
            .values()
            .filter_map(|peer| peer.tunnel().filter(|(client, _)| *client == self.number).map(|(_, pump)| pump))
            .collect();
        for pump in origins.iter().copied().chain([&self.client.pump]) {
            self.require(pump.wrong.is_none(), || pump.wrong.clone().unwrap_or_default());
        }
        let Some(Conclusion { label, was_established, bytes: [bytes_up, bytes_down], .. }) = self.end else {
            // A paused listener may leave clients unaccepted when the gateway stops.
            let excused = !self.world.scenario.strict && self.world.scenario.accept_fails.is_some()
                || self.world.scenario.stop_at_us.is_some()
                || self.client.found_no_listener;
            return self.require(excused, || "it was never accepted, or its tunnel never ended".into());
        };
        if label == "gave_way" {
            return self.require(self.world.scenario.may_run_short(), || "it gave way although there was room".into());
        }
        // An upstream may grant more than one tunnel: on a connection that died before its answer was seen, or on one
        // that was to be pre-challenged.
        let got = self.client.pump.received;
        let fit = |pump: &&&Pump| (pump.received, pump.written.min(got), pump.saw_end, pump.written);
        let origin = origins.iter().max_by_key(fit).copied();
        if let Some(origin) = origin {
            self.check_directions(label, origin);
        }
        if label == "finished" {
            self.check_finished(bytes_up, bytes_down, origin);
        }
        if self.world.scenario.strict {
            self.check_strict(label, bytes_up, bytes_down, origin);
        }
        if !self.client.pump.misbehaved {
            self.check_answer(label, was_established, origin.is_some());
        }
    }

    /// A clean end is only signalled if everything arrived.
    fn check_directions(&mut self, label: &str, origin: &Pump) {
        let client = &self.client.pump;
        let cut_short = CUT_SHORT.contains(&label);
        self.require(client.received <= origin.written, || "the client received more than the origin sent".into());
        self.require(origin.received <= client.written, || "the origin received more than the client sent".into());
        let whole_down = origin.ended_cleanly && client.received == origin.written;
        let whole_up = client.ended_cleanly && origin.received == client.written;
        if client.saw_end && self.client.is_open() && !cut_short {
            self.require(whole_down, || {
                format!("the client saw a clean end after {} of {} bytes ({label})", client.received, origin.written)
            });
        }
        if origin.saw_end && origin.received > 0 && !cut_short {
            self.require(whole_up, || {
                format!("the origin saw a clean end after {} of {} bytes ({label})", origin.received, client.written)
            });
        }
    }

    fn check_finished(&mut self, bytes_up: u64, bytes_down: u64, origin: Option<&Pump>) {
        let up = self.client.pump.written + self.client.prelude();
        let down = origin.map_or(0, |origin| origin.written);
        self.require(origin.is_some(), || "finished without an origin".into());
        self.require(bytes_up == up, || format!("finished with {bytes_up} of {up} bytes up"));
        self.require(bytes_down == down, || format!("finished with {bytes_down} of {down} bytes down"));
    }

    /// If every peer behaves, everything arrives.
    fn check_strict(&mut self, label: &str, bytes_up: u64, bytes_down: u64, origin: Option<&Pump>) {
        let plan = &self.client.plan;
        let (up, down) = (plan.up.bytes, plan.down.bytes);
        let client = &self.client.pump;
        self.require(label == "finished", || format!("ended as {label} although every peer behaves"));
        self.require(self.client.is_open(), || format!("received status {:?}", self.client.status));
        let arrived = (origin.map(|origin| origin.received), client.received);
        self.require(arrived == (Some(up), down), || format!("{arrived:?} arrived of {:?}", (up, down)));
        let counted = (up + self.client.prelude(), down);
        self.require((bytes_up, bytes_down) == counted, || format!("{:?} counted", (bytes_up, bytes_down)));
        let ends = (origin.is_some_and(|origin| origin.saw_end), client.saw_end);
        self.require(ends == (true, true), || format!("end seen by the origin and the client: {ends:?}"));
    }

    /// A client that behaves learns how its request ended.
    fn check_answer(&mut self, label: &str, was_established: bool, reached_origin: bool) {
        let status = self.client.status;
        let denied = matches!(self.client.plan.target, Target::Denied | Target::MetadataAddress);
        self.require(!denied || !reached_origin && status != Some(200), || "it reached a denied destination".into());
        if status == Some(200) || label == "drained" {
            return;
        }
        // A client that reads a byte at a time is cut off when its time is up.
        let traits = self.client.plan.traits;
        if traits.tx_capacity.min(traits.inbox_capacity) < 200 && !self.world.scenario.strict {
            return;
        }
        // Of its request nothing has come when its time is up, only the PROXY header.
        if label == "silent" && self.world.scenario.entrance == Entrance::ProxyHeader {
            return;
        }
        // A reset discards unread data.
        if was_established && self.client.pump.saw_reset {
            return;
        }
        let cause = Cause::ALL.iter().find(|cause| cause.label() == label);
        if !self.client.plan.speaks.is_told() {
            return self.check_untold(label, cause, was_established);
        }
        let speaks = self.client.speaks();
        let expected = match (speaks, label, cause) {
            (Speaks::Http, "declined", _) => status.filter(|status| [403, 503].contains(status)),
            (Speaks::Http, _, Some(cause)) => client_protocol::status(*cause),
            (Speaks::Socks4a, ..) => Some(91),
            (Speaks::Socks5, "declined", _) => status.filter(|code| [2, 4].contains(code)),
            (Speaks::Socks5, _, Some(cause)) => client_protocol::socks_reply(*cause).map(u16::from),
            (_, _, None) | (Speaks::Tls | Speaks::Tcp | Speaks::Nothing, ..) => None,
        };
        self.require(expected.is_some() && status == expected, || {
            format!("ended as {label}, but the client received {status:?}: {:?}", self.client.answer)
        });
        let is_complete = speaks != Speaks::Http || self.client.page().is_some();
        self.require(is_complete, || "its error page is incomplete".into());
    }
}

impl Checker<'_> {
    /// A client that talks to its origin, as far as it knows, gets an alert or a reset if there is no tunnel, and never
    /// an end that looks like its origin's.
    fn check_untold(&mut self, label: &str, cause: Option<&Cause>, was_established: bool) {
        if was_established || label == "finished" || CUT_SHORT.contains(&label) {
            return;
        }
        let status = self.client.status;
        let (expected, is_told) =
            match (self.client.plan.speaks, cause.and_then(|cause| client_protocol::status(*cause))) {
                (Speaks::Tls, Some(403)) => ("an alert: access denied", status == Some(49)),
                (Speaks::Tls, _) if label == "declined" => {
                    ("an alert", status.is_some_and(|alert| [49, 80].contains(&alert)))
                }
                (Speaks::Tls, _) if label == Cause::RequestMalformed.label() => {
                    ("an alert: decode error", status == Some(50))
                }
                (Speaks::Tls, _) => ("an alert: internal error", status == Some(80)),
                _ => ("a reset", self.client.pump.saw_reset),
            };
        self.require(is_told, || format!("ended as {label}, but the client received {status:?} and not {expected}"));
    }
}

fn check_leftovers(world: &World, wrong: &mut Vec<String>) {
    let metrics = &world.metrics;
    let mut gauges = vec![
        ("tunnels_open", metrics.tunnels_open.get()),
        ("tunnels_relaying", metrics.tunnels_relaying.get()),
        ("pipes_in_use", metrics.pipes_lent.get()),
    ];
    for hop in &world.egress.hops {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        gauges.push(("warm_connections", hop.metrics.warm_ready.get()));
        gauges.push(("warm_wanted_connections", hop.metrics.warm_wanted.get()));
        gauges.push(("kept_connections", hop.metrics.kept.get()));
        gauges.push(("upstream_tunnels", hop.upstream_metrics.tunnels.get()));
        gauges.push(("clients of an upstream", count(hop.upstream.open())));
        gauges.push(("clients waiting for a challenge", count(hop.upstream.helper_pressure.waiting())));
    }
    with(|network| {
        gauges.push(("sockets", i64::try_from(network.sockets_held()).unwrap_or(i64::MAX)));
        gauges.push(("pipes", i64::try_from(network.pipes_open()).unwrap_or(i64::MAX)));
    });
    let quick = |place: &usize| {
        let addresses = &world.scenario.upstreams[*place].addresses;
        addresses
            .iter()
            .all(|(_, address)| matches!(address, Address::Accepts(_, most_us) if *most_us < SLOW_ACCEPT_US))
    };
    let blamed = with(|network| network.ejected.iter().copied().find(quick));
    if let Some(place) = blamed.filter(|_| world.scenario.strict) {
        wrong.push(format!("upstream {place} was ejected, although it always accepts at once"));
    }
    if let Some(id) = with(|network| network.wires.iter().position(|wire| wire.destroyed)) {
        wrong.push(format!("connection {id} was reset after a clean end"));
    }
    let dialled = with(|network| network.dialled.len());
    let requests: usize = world.scenario.http_clients.iter().map(|client| client.requests.len()).sum();
    let requests = requests + world.clients.len();
    if dialled > MOST_DIALS_PER_CLIENT * (requests + 1) {
        wrong.push(format!("{dialled} connections were made for {requests} requests"));
    }
    let left = gauges.into_iter().filter(|(_, value)| *value != 0);
    wrong.extend(left.map(|(name, value)| format!("{name} is {value} at the end")));
    let counts = world.counters.counts();
    if counts.protocol_errors() > 0 {
        wrong.push(format!("the gateway broke the protocol towards an upstream: {counts}"));
    }
    let (accounts, refused_in_all) = (world.egress.identities.len() as u64, world.refused_logons());
    let logons = world.tickets.as_ref().map_or(0, |tickets| tickets.realm.borrow().counts.logons);
    if counts.accepted + logons == 0 && refused_in_all > accounts * limits::GUARD_ATTEMPTS as u64 {
        wrong.push(format!("{refused_in_all} refused logons: the account is locked"));
    }
    // Messages in flight when the password changed cannot be called back.
    if let Some((refused_before, in_flight)) = world.at_password_change {
        let refused = refused_in_all - refused_before;
        if refused > accounts * limits::GUARD_ATTEMPTS as u64 + in_flight {
            wrong.push(format!(
                "{refused} refused logons after the password changed, of which {in_flight} were in flight"
            ));
        }
    }
}
