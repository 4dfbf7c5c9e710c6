//! Scenarios that are not left to chance.

use super::network::{self, Address};
use super::plain::{CallerOddity, Framing};
use super::scenario::{Scenario, Target};
use super::{play, verdict, world};
use crate::limits;
use crate::stub::Personality;

/// The first upstream takes a connection in 300 ms. The second is tried beside it after 250 ms, needs 100 ms, and loses.
#[test]
fn an_upstream_that_was_not_given_its_time_is_not_ejected() {
    let mut scenario =
        (0..).map(Scenario::of).find(|it| it.strict && it.upstreams.len() == 2 && it.clients.len() == 6).unwrap();
    scenario.balance = false;
    scenario.warm = 0;
    for (upstream, takes_us) in scenario.upstreams.iter_mut().zip([300_000, 100_000]) {
        upstream.resolves_after_us = 0;
        upstream.personality = Personality::Plain;
        upstream.addresses.truncate(1);
        upstream.addresses[0].1 = Address::Takes(takes_us, takes_us);
    }
    for (client, comes_at_s) in scenario.clients.iter_mut().zip(0..) {
        client.target = Target::Through;
        client.comes_at_us = 1_000_000 * comes_at_s;
    }
    play(scenario, 0, false).unwrap();
}

/// A scenario of plain HTTP in which everybody behaves, and some client sends a body through the upstream, which asks for no proof.
fn with_a_body_and_without_a_proof() -> Scenario {
    let sends_body = |it: &Scenario| {
        let through = it.callers.iter().filter(|caller| caller.target == Target::Through);
        through.flat_map(|caller| &caller.requests).any(|request| request.has_body() && !request.expects)
    };
    let mut scenario = (0..).map(Scenario::of).find(|it| it.strict && sends_body(it)).unwrap();
    scenario.clients.clear();
    scenario.two_identities = false;
    scenario.upstreams.truncate(1);
    scenario.upstreams[0].addresses[0].1 = Address::Takes(0, 0);
    scenario.upstreams[0].resolves_after_us = 0;
    scenario.upstreams[0].personality = Personality::Open;
    scenario
}

#[test]
fn a_body_reaches_an_upstream_that_asks_for_no_proof() {
    play(with_a_body_and_without_a_proof(), 0, false).unwrap();
}

#[test]
fn an_upstream_that_asks_for_no_proof_makes_up_for_its_faults_by_plain_http() {
    let (mut world, mut shard) = world::build(with_a_body_and_without_a_proof(), 0, false);
    let fails = |world: &world::World| world.egress.members[0].upstream.health.failed(0, "a test");
    (1..limits::EJECT_AFTER).for_each(|_| fails(&world));
    world.run(&mut shard).unwrap();
    drop(shard);
    world.settle().unwrap();
    verdict::judge(&world).unwrap();
    fails(&world);
    assert!(world.egress.members[0].upstream.health.is_up(), "that was not the last of several in a row");
    network::install(None);
}

#[test]
fn an_answer_that_lasts_to_the_close_does_not_seem_whole_when_the_gateway_stops_in_it() {
    let mut scenario = (0..).map(Scenario::of).find(|it| it.strict && !it.callers.is_empty()).unwrap();
    scenario.clients.clear();
    scenario.callers.truncate(1);
    scenario.strict = false;
    let caller = &mut scenario.callers[0];
    (caller.http10, caller.target, caller.comes_at_us) = (true, Target::Address, 0);
    caller.requests.truncate(1);
    let request = &mut caller.requests[0];
    (request.method, request.framing, request.bytes, request.expects) = ("GET", Framing::Nothing, 0, false);
    let answer = &mut request.answer;
    (answer.status, answer.framing, answer.bytes, answer.breath) = (200, Framing::ToClose, 3_000, Some(200));
    (answer.early, answer.http10) = (None, false);
    for stop_ms in 0..60 {
        play(Scenario { stop_at_us: Some(stop_ms * 1_000), ..scenario.clone() }, stop_ms, false).unwrap();
    }
}

/// What is large is spliced, and the answer is cut with bytes of it in a pipe.
#[test]
fn a_client_that_takes_no_more_of_a_large_answer_leaves_no_pipe_behind() {
    let answers_much = |it: &Scenario| {
        let answers = it.callers.iter().flat_map(|caller| &caller.requests).map(|request| request.answer.bytes);
        answers.max().is_some_and(|bytes| bytes > 500_000)
    };
    let mut scenario = (0..).map(Scenario::of).find(|it| it.strict && answers_much(it)).unwrap();
    scenario.clients.clear();
    scenario.callers.truncate(1);
    (scenario.strict, scenario.scratch_bytes, scenario.pipes, scenario.pipe_slots) = (false, 65_536, 2, Some((16, 16)));
    let caller = &mut scenario.callers[0];
    (caller.http10, caller.target, caller.comes_at_us) = (false, Target::Address, 0);
    (caller.traits.rx_capacity, caller.traits.tx_capacity) = (30_000, 30_000);
    caller.requests.truncate(1);
    let request = &mut caller.requests[0];
    (request.method, request.framing, request.bytes, request.expects) = ("GET", Framing::Nothing, 0, false);
    let answer = &mut request.answer;
    (answer.status, answer.framing, answer.bytes, answer.breath) = (200, Framing::Length(600_000), 600_000, None);
    (answer.early, answer.oddity, answer.piece) = (None, None, 600_000);
    let mut spliced = 0;
    for after in (20_000..600_000).step_by(20_000) {
        for oddity in [CallerOddity::ResetsBehind(after), CallerOddity::GoesDeaf(after)] {
            let mut scenario = scenario.clone();
            scenario.callers[0].oddity = Some(oddity);
            spliced += play(scenario, after, false).unwrap().spliced;
        }
    }
    assert!(spliced > 1_000_000, "{spliced} bytes were spliced: nothing is shown");
}

/// The destination is said to need no proof, and the upstream asks for one behind an interim answer that the client takes in pieces.
#[test]
fn an_interim_answer_comes_whole_though_the_request_goes_on_another_connection() {
    let mut scenario = (0..).map(Scenario::of).find(|it| it.strict && !it.callers.is_empty()).unwrap();
    scenario.clients.clear();
    scenario.callers.truncate(1);
    scenario.upstreams.truncate(1);
    scenario.upstreams[0].personality = Personality::InformationalFirst;
    let caller = &mut scenario.callers[0];
    (caller.http10, caller.target, caller.comes_at_us) = (false, Target::Plainly, 0);
    caller.requests.truncate(1);
    let request = &mut caller.requests[0];
    (request.method, request.framing, request.bytes, request.expects) = ("DELETE", Framing::Nothing, 0, false);
    request.answer.early = None;
    for room in 1..200 {
        let mut scenario = scenario.clone();
        scenario.callers[0].traits.tx_capacity = room;
        play(scenario, 0, false).unwrap();
    }
}
