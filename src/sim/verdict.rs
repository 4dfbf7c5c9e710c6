//! What must be true of every run.

use std::collections::BTreeMap;

use super::client::Client;
use super::network::{Address, Conclusion, with};
use super::plain;
use super::pump::Pump;
use super::scenario::Target;
use super::world::World;
use crate::client_protocol;
use crate::fault::Cause;
use crate::limits;

/// How a run went, for who counts.
#[derive(Debug, Default)]
pub struct Outcome {
    pub hash: u64,
    /// How each client's tunnel ended.
    pub ends: Vec<&'static str>,
    pub spliced: u64,
    pub carried: u64,
}

/// Who takes a connection within this time, in µs, is not slow.
const CONNECTION_ATTEMPT_DELAY_US: u64 = 200_000;

/// Connections that one request may use up: three at each of nine addresses, and those that are warmed for the next.
const MOST_DIALS_PER_CLIENT: usize = 30;

/// Tunnels that these ended were closed by the gateway's own decision, in good order but not at their end.
const CUT_SHORT: &[&str] = &["idle_timeout", "half_closed_timeout", "drained"];

/// Looks at what is left of a run whose shard is gone.
///
/// # Errors
/// Everything that is not as it must be.
pub fn judge(world: &World) -> Result<Outcome, Vec<String>> {
    let mut wrong = Vec::new();
    let mut outcome = Outcome::default();
    for (number, client) in world.clients.iter().enumerate() {
        let Some(client) = client else { continue };
        let mut view = View { world, number, client, end: ended(client), wrong: Vec::new() };
        view.look();
        outcome.ends.push(view.end.map_or("never_accepted", |end| end.label));
        outcome.carried += view.end.map_or(0, |end| end.bytes.iter().sum());
        wrong.extend(view.wrong.into_iter().map(|what| format!("client {number}: {what}")));
    }
    look_at_plain_http(world, &mut outcome, &mut wrong);
    look_at_what_remains(world, &mut wrong);
    with(|network| {
        outcome.hash = network.trace.hash();
        outcome.spliced = network.spliced;
    });
    if wrong.is_empty() { Ok(outcome) } else { Err(wrong) }
}

/// Clients that speak plain HTTP, and what reached the other end.
fn look_at_plain_http(world: &World, outcome: &mut Outcome, wrong: &mut Vec<String>) {
    let mut carried_out = BTreeMap::new();
    for (wire, peer) in &world.peers {
        peer.desk.carried_out.iter().for_each(|request| *carried_out.entry(*request).or_default() += 1);
        wrong.extend(peer.desk.wrong.iter().map(|what| format!("connection {wire}: {what}")));
    }
    for (place, caller) in world.callers.iter().enumerate() {
        let Some(caller) = caller else { continue };
        let number = world.clients.len() + place;
        let (label, faults) = plain::judge(number, caller, &world.scenario, &carried_out);
        outcome.ends.push(label.unwrap_or("never_accepted"));
        wrong.extend(faults);
        for answer in &caller.answers {
            let kind = match (&answer.tag, &answer.fault, answer.whole) {
                (_, Some(_), _) => "answer: a fault",
                (Some(_), None, true) => "answer: whole",
                (Some(_), None, false) => "answer: cut",
                (None, None, _) => "answer: the upstream's own",
            };
            outcome.ends.push(kind);
        }
        outcome.carried += caller.received;
    }
}

fn ended(client: &Client) -> Option<Conclusion> {
    with(|network| network.wires[client.wire].concluded)
}

/// One client and what became of it.
struct View<'a> {
    world: &'a World,
    number: usize,
    client: &'a Client,
    end: Option<Conclusion>,
    wrong: Vec<String>,
}

impl View<'_> {
    fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    fn look(&mut self) {
        let origins: Vec<&Pump> = self
            .world
            .peers
            .values()
            .filter_map(|peer| peer.tunnel().filter(|(client, _)| *client == self.number).map(|(_, pump)| pump))
            .collect();
        for pump in origins.iter().copied().chain([&self.client.pump]) {
            self.must(pump.wrong.is_none(), || pump.wrong.clone().unwrap_or_default());
        }
        let Some(Conclusion { label, stood, bytes: [bytes_up, bytes_down] }) = self.end else {
            // Accepting may rest when the gateway ends.
            let excused = !self.world.scenario.strict && self.world.scenario.accept_fails.is_some()
                || self.world.scenario.stop_at_us.is_some()
                || self.client.is_late;
            return self.must(excused, || "it was never accepted, or its tunnel never ended".into());
        };
        if label == "gave_way" {
            return self.must(self.world.scenario.may_run_short(), || "it gave way though there was room".into());
        }
        // An upstream may grant more tunnels than one: on a connection that did not live to tell, or one that was to be warm.
        let got = self.client.pump.received;
        let fit = |pump: &&&Pump| (pump.received, pump.written.min(got), pump.heard_end, pump.written);
        let origin = origins.iter().max_by_key(fit).copied();
        if let Some(origin) = origin {
            self.look_at_directions(label, origin);
        }
        if label == "finished" {
            self.look_at_finished(bytes_up, bytes_down, origin);
        }
        if self.world.scenario.strict {
            self.look_at_strict(label, bytes_up, bytes_down, origin);
        }
        if !self.client.pump.misbehaved {
            self.look_at_answer(label, stood);
        }
    }

    /// An end in good order is told only of what has arrived whole.
    fn look_at_directions(&mut self, label: &str, origin: &Pump) {
        let client = &self.client.pump;
        let cut_short = CUT_SHORT.contains(&label);
        self.must(client.received <= origin.written, || "bytes came from nowhere".into());
        self.must(origin.received <= client.written, || "bytes went from nowhere".into());
        let whole_down = origin.said_all && client.received == origin.written;
        let whole_up = client.said_all && origin.received == client.written;
        if client.heard_end && self.client.status == Some(200) && !cut_short {
            self.must(whole_down, || {
                format!("the client takes {} of {} bytes for the whole ({label})", client.received, origin.written)
            });
        }
        if origin.heard_end && origin.received > 0 && !cut_short {
            self.must(whole_up, || {
                format!("the origin takes {} of {} bytes for the whole ({label})", origin.received, client.written)
            });
        }
    }

    fn look_at_finished(&mut self, bytes_up: u64, bytes_down: u64, origin: Option<&Pump>) {
        let (up, down) = (self.client.pump.written, origin.map_or(0, |origin| origin.written));
        self.must(origin.is_some(), || "finished without an origin".into());
        self.must(bytes_up == up, || format!("finished with {bytes_up} of {up} bytes up"));
        self.must(bytes_down == down, || format!("finished with {bytes_down} of {down} bytes down"));
    }

    /// Where everybody behaves, everything arrives.
    fn look_at_strict(&mut self, label: &str, bytes_up: u64, bytes_down: u64, origin: Option<&Pump>) {
        let plan = &self.client.plan;
        let (up, down) = (plan.up.bytes, plan.down.bytes);
        let client = &self.client.pump;
        self.must(label == "finished", || format!("ended as {label} though everybody behaves"));
        self.must(self.client.status == Some(200), || format!("was told {:?}", self.client.status));
        let arrived = (origin.map(|origin| origin.received), client.received);
        self.must(arrived == (Some(up), down), || format!("{arrived:?} arrived of {:?}", (up, down)));
        self.must((bytes_up, bytes_down) == (up, down), || format!("{:?} counted", (bytes_up, bytes_down)));
        let ends = (origin.is_some_and(|origin| origin.heard_end), client.heard_end);
        self.must(ends == (true, true), || format!("ends heard at the origin and the client: {ends:?}"));
    }

    /// Who has behaved hears what has become of its request.
    fn look_at_answer(&mut self, label: &str, stood: bool) {
        let status = self.client.status;
        let denied = self.client.plan.target == Target::Denied;
        self.must(!denied || status != Some(200), || "it came where nobody may go".into());
        if status == Some(200) || label == "drained" {
            return;
        }
        // One that reads a byte at a time is cut off when its time is over.
        let traits = self.client.plan.traits;
        if traits.tx_capacity.min(traits.inbox_capacity) < 200 && !self.world.scenario.strict {
            return;
        }
        // A reset destroys what has not been read.
        if stood && self.client.pump.heard_reset {
            return;
        }
        let cause = Cause::ALL.iter().find(|cause| cause.label() == label);
        let expected = match (label, cause) {
            ("declined", _) => status.filter(|status| [403, 503].contains(status)),
            (_, Some(cause)) => client_protocol::status(*cause),
            _ => None,
        };
        self.must(expected.is_some() && status == expected, || {
            format!("ended as {label}, and the client was told {status:?}: {:?}", self.client.answer)
        });
        self.must(self.client.page().is_some(), || "the page of its answer is not whole".into());
    }
}

fn look_at_what_remains(world: &World, wrong: &mut Vec<String>) {
    let metrics = &world.metrics;
    let mut gauges = vec![
        ("tunnels_open", metrics.tunnels_open.get()),
        ("tunnels_relaying", metrics.tunnels_relaying.get()),
        ("pipes_in_use", metrics.pipes_lent.get()),
    ];
    for hop in &world.egress.hops {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        gauges.push(("warm_connections", hop.metrics.warm_ready.get()));
        gauges.push(("kept_connections", hop.metrics.kept.get()));
        gauges.push(("upstream_tunnels", hop.upstream_metrics.tunnels.get()));
        gauges.push(("clients on an upstream", count(hop.upstream.open())));
        gauges.push(("clients that wait for a challenge", count(hop.upstream.helper_pressure.waiting())));
    }
    with(|network| {
        gauges.push(("sockets", i64::try_from(network.sockets_held()).unwrap_or(i64::MAX)));
        gauges.push(("pipes", i64::try_from(network.pipes_open()).unwrap_or(i64::MAX)));
    });
    let quick = |place: &usize| {
        let addresses = &world.scenario.upstreams[*place].addresses;
        addresses
            .iter()
            .all(|(_, address)| matches!(address, Address::Takes(_, most_us) if *most_us < CONNECTION_ATTEMPT_DELAY_US))
    };
    let blamed = with(|network| network.ejected.iter().copied().find(quick));
    if let Some(place) = blamed.filter(|_| world.scenario.strict) {
        wrong.push(format!("upstream {place} was ejected, and it always answers at once"));
    }
    if let Some(id) = with(|network| network.wires.iter().position(|wire| wire.destroyed)) {
        wrong.push(format!("connection {id} is reset behind the end of what it was sent"));
    }
    let dialled = with(|network| network.dialled.len());
    let requests: usize = world.scenario.callers.iter().map(|caller| caller.requests.len()).sum();
    let requests = requests + world.clients.len();
    if dialled > MOST_DIALS_PER_CLIENT * (requests + 1) {
        wrong.push(format!("{dialled} connections were made for {requests} requests"));
    }
    let left = gauges.into_iter().filter(|(_, value)| *value != 0);
    wrong.extend(left.map(|(name, value)| format!("{name} is {value} at the end")));
    let counts = world.counters.counts();
    if counts.protocol_errors() > 0 {
        wrong.push(format!("the upstreams were wronged: {counts}"));
    }
    let accounts = world.egress.identities.len() as u64;
    if counts.accepted == 0 && counts.refused > accounts * limits::GUARD_ATTEMPTS as u64 {
        wrong.push(format!("{} refused proofs: the account is locked", counts.refused));
    }
    // What was on its way when the password changed cannot be called back.
    if let Some((refused_before, in_flight)) = world.at_change {
        let refused = counts.refused - refused_before;
        if refused > accounts * limits::GUARD_ATTEMPTS as u64 + in_flight {
            wrong
                .push(format!("{refused} refused proofs after the password changed, {in_flight} of them on their way"));
        }
    }
}
