//! Hand-written scenarios.

use std::net::{Ipv4Addr, SocketAddr};

use super::network::{self, Address, Pace, PollTraits, Traits};
use super::plain::{AnswerOddity, Framing, HttpClientOddity};
use super::scenario::{ClientPlan, FlowOddity, Scenario, Target};
use super::{RunSummary, invariants, world};
use crate::auth::FirstLeg;
use crate::limits;
use crate::stub::Personality;
use crate::upstream::WarmSize;

/// Plays a scenario and panics with everything that was wrong. `SIM_TRACE=1` prints the scenario and its events.
pub fn play(scenario: Scenario, seed: u64) -> RunSummary {
    let print = std::env::var_os("SIM_TRACE").is_some();
    super::play(scenario, seed, print).unwrap_or_else(|wrong| {
        let current = std::thread::current();
        let test = current.name().unwrap_or("sim::cases");
        panic!("{wrong}\n    to see its events: SIM_TRACE=1 cargo test --lib {test} -- --nocapture")
    })
}

/// The first upstream accepts after 300 ms. The second is tried in parallel after 250 ms, needs 100 ms, and loses.
#[test]
fn an_upstream_that_lost_a_connection_race_is_not_ejected() {
    let mut scenario =
        (0..).map(Scenario::of).find(|it| it.strict && it.upstreams.len() == 2 && it.clients.len() == 6).unwrap();
    scenario.balance = false;
    scenario.warm = WarmSize::Fixed(0);
    for (upstream, takes_us) in scenario.upstreams.iter_mut().zip([300_000, 100_000]) {
        upstream.resolves_after_us = 0;
        upstream.personality = Personality::Plain;
        upstream.addresses.truncate(1);
        upstream.addresses[0].1 = Address::Accepts(takes_us, takes_us);
    }
    for (client, comes_at_s) in scenario.clients.iter_mut().zip(0..) {
        client.target = Target::ViaUpstream;
        client.arrives_at_us = 1_000_000 * comes_at_s;
    }
    play(scenario, 0);
}

/// A plain HTTP scenario in which every peer behaves, and a client sends a body through an upstream that demands no
/// authentication.
fn scenario_with_a_body_and_no_authentication() -> Scenario {
    let sends_body = |it: &Scenario| {
        let through = it.http_clients.iter().filter(|client| client.target == Target::ViaUpstream);
        through.flat_map(|client| &client.requests).any(|request| request.has_body() && !request.expects_continue)
    };
    let mut scenario = (0..).map(Scenario::of).find(|it| it.strict && sends_body(it)).unwrap();
    scenario.clients.clear();
    scenario.two_identities = false;
    scenario.upstreams.truncate(1);
    scenario.upstreams[0].addresses[0].1 = Address::Accepts(0, 0);
    scenario.upstreams[0].resolves_after_us = 0;
    scenario.upstreams[0].personality = Personality::Open;
    scenario
}

#[test]
fn a_body_reaches_an_upstream_that_demands_no_authentication() {
    play(scenario_with_a_body_and_no_authentication(), 0);
}

#[test]
fn plain_http_successes_reset_an_open_upstreams_faults() {
    let (mut world, mut shard) = world::build(scenario_with_a_body_and_no_authentication(), 0, false);
    let fails = |world: &world::World| world.egress.members[0].upstream.health.failed(0, "a test");
    (1..limits::EJECT_AFTER).for_each(|_| fails(&world));
    world.run(&mut shard).unwrap();
    drop(shard);
    world.settle().unwrap();
    invariants::check(&world).unwrap();
    fails(&world);
    assert!(world.egress.members[0].upstream.health.is_up(), "the successes in between did not reset the count");
    network::install(None);
}

#[test]
fn an_answer_ended_by_close_is_reset_when_the_gateway_stops_in_the_middle() {
    let mut scenario = (0..).map(Scenario::of).find(|it| it.strict && !it.http_clients.is_empty()).unwrap();
    scenario.clients.clear();
    scenario.http_clients.truncate(1);
    scenario.strict = false;
    let client = &mut scenario.http_clients[0];
    (client.http10, client.target, client.arrives_at_us) = (true, Target::DirectAddress, 0);
    client.requests.truncate(1);
    let request = &mut client.requests[0];
    (request.method, request.framing, request.bytes, request.expects_continue) = ("GET", Framing::Nothing, 0, false);
    let answer = &mut request.answer;
    (answer.status, answer.framing, answer.bytes, answer.pause_every) = (200, Framing::ToClose, 3_000, Some(200));
    (answer.early, answer.http10) = (None, false);
    for stop_ms in 0..60 {
        play(Scenario { stop_at_us: Some(stop_ms * 1_000), ..scenario.clone() }, stop_ms);
    }
}

/// Large bodies are spliced, so the answer is cut off while a pipe holds some of it.
#[test]
fn a_client_that_abandons_a_large_answer_leaves_no_pipe_open() {
    let answers_much = |it: &Scenario| {
        let answers = it.http_clients.iter().flat_map(|client| &client.requests).map(|request| request.answer.bytes);
        answers.max().is_some_and(|bytes| bytes > 500_000)
    };
    let mut scenario = (0..).map(Scenario::of).find(|it| it.strict && answers_much(it)).unwrap();
    scenario.clients.clear();
    scenario.http_clients.truncate(1);
    (scenario.strict, scenario.scratch_bytes, scenario.pipes, scenario.pipe_slots) = (false, 65_536, 2, Some((16, 16)));
    let client = &mut scenario.http_clients[0];
    (client.http10, client.target, client.arrives_at_us) = (false, Target::DirectAddress, 0);
    (client.traits.rx_capacity, client.traits.tx_capacity) = (30_000, 30_000);
    client.requests.truncate(1);
    let request = &mut client.requests[0];
    (request.method, request.framing, request.bytes, request.expects_continue) = ("GET", Framing::Nothing, 0, false);
    let answer = &mut request.answer;
    (answer.status, answer.framing, answer.bytes, answer.pause_every) = (200, Framing::Length(600_000), 600_000, None);
    (answer.early, answer.oddity, answer.piece) = (None, None, 600_000);
    let mut spliced = 0;
    for after in (20_000..600_000).step_by(20_000) {
        for oddity in [HttpClientOddity::ResetsAfterWriting(after), HttpClientOddity::StopsReading(after)] {
            let mut scenario = scenario.clone();
            scenario.http_clients[0].oddity = Some(oddity);
            spliced += play(scenario, after).spliced;
        }
    }
    assert!(spliced > 1_000_000, "only {spliced} bytes were spliced");
}

/// The destination is configured to need no credentials, but the upstream demands them, after an interim answer
/// that the client reads in small pieces.
#[test]
fn an_interim_answer_is_complete_although_the_request_moves_to_another_connection() {
    let mut scenario = (0..).map(Scenario::of).find(|it| it.strict && !it.http_clients.is_empty()).unwrap();
    scenario.clients.clear();
    scenario.http_clients.truncate(1);
    scenario.upstreams.truncate(1);
    scenario.upstreams[0].personality = Personality::InformationalFirst;
    let client = &mut scenario.http_clients[0];
    (client.http10, client.target, client.arrives_at_us) = (false, Target::WithoutCredentials, 0);
    client.requests.truncate(1);
    let request = &mut client.requests[0];
    (request.method, request.framing, request.bytes, request.expects_continue) = ("DELETE", Framing::Nothing, 0, false);
    request.answer.early = None;
    for room in 1..200 {
        let mut scenario = scenario.clone();
        scenario.http_clients[0].traits.tx_capacity = room;
        play(scenario, 0);
    }
}

/// A scenario in which every peer behaves and one client sends plain requests through upstreams that accept at once.
pub fn scenario_with_one_plain_client(personalities: &[Personality]) -> Scenario {
    let is_fit = |it: &Scenario| {
        let clients = &it.http_clients;
        it.strict && it.upstreams.len() == 3 && clients.first().is_some_and(|client| client.requests.len() == 3)
    };
    let mut scenario = (0..).map(Scenario::of).find(is_fit).unwrap();
    scenario.clients.clear();
    scenario.http_clients.truncate(1);
    scenario.upstreams.truncate(personalities.len());
    for (upstream, personality) in scenario.upstreams.iter_mut().zip(personalities) {
        (upstream.personality, upstream.resolves_after_us) = (*personality, 0);
        (upstream.idle_close_us, upstream.closes_on_reuse) = (None, false);
        upstream.addresses.truncate(1);
        upstream.addresses[0].1 = Address::Accepts(0, 0);
    }
    (scenario.two_identities, scenario.balance, scenario.warm) = (false, false, WarmSize::Fixed(0));
    let client = &mut scenario.http_clients[0];
    (client.http10, client.target, client.pipelines) = (false, Target::ViaUpstream, false);
    for request in &mut client.requests {
        (request.method, request.framing, request.bytes, request.expects_continue) =
            ("GET", Framing::Nothing, 0, false);
        (request.closes, request.pins_connection, request.filler) = (false, false, 0);
        (request.piece, request.piece_pause_us, request.pause_us) = (1_000, 0, 0);
        let answer = &mut request.answer;
        (answer.status, answer.framing, answer.bytes, answer.http10) = (200, Framing::Length(0), 0, false);
        (answer.early, answer.closes, answer.interim_answers, answer.pause_every) = (None, false, 0, None);
    }
    scenario
}

/// The origin answers before any of the body has come. The answer is cut off, or is malformed.
#[test]
fn a_post_is_not_sent_again_when_the_early_answer_to_its_head_is_lost() {
    use AnswerOddity::{Closes, Corrupts, Resets};
    let mut faults = 0;
    for (personality, first) in [
        (Personality::Plain, 0),
        (Personality::AsksFirst, 0),
        (Personality::Http10KeepAlive, 0),
        (Personality::Plain, 1),
        (Personality::Open, 1),
    ] {
        let mut scenario = scenario_with_one_plain_client(&[personality, Personality::Plain]);
        (scenario.strict, scenario.keep, scenario.head_limit_bytes) = (false, 2, 64 * 1024);
        let client = &mut scenario.http_clients[0];
        client.requests.truncate(first + 1);
        let request = &mut client.requests[first];
        (request.method, request.framing, request.bytes) = ("POST", Framing::Chunked, 5);
        (request.expects_continue, request.answer.early) = (true, Some(0));
        for after in 1..100 {
            for oddity in [Closes(after), Resets(after), Corrupts(after)] {
                let mut scenario = scenario.clone();
                scenario.http_clients[0].requests[first].answer.oddity = Some(oddity);
                faults += play(scenario, after).ends.iter().filter(|end| **end == "answer: fault").count();
            }
        }
    }
    assert!(faults > 500, "only {faults} answers were lost");
}

/// The upstream's answer begins, and its head is not complete after the time that a body is held for a demand.
#[test]
fn a_post_is_not_sent_again_when_the_head_of_its_answer_is_incomplete() {
    let mut scenario = scenario_with_one_plain_client(&[Personality::Open, Personality::Plain]);
    (scenario.strict, scenario.keep, scenario.head_limit_bytes) = (false, 2, 64 * 1024);
    let client = &mut scenario.http_clients[0];
    client.requests.truncate(2);
    let request = &mut client.requests[1];
    (request.method, request.framing, request.bytes) = ("POST", Framing::Chunked, 5);
    (request.expects_continue, request.answer.early) = (true, Some(0));
    let mut faults = 0;
    for after in 80..100 {
        let mut scenario = scenario.clone();
        scenario.http_clients[0].requests[1].answer.oddity = Some(AnswerOddity::Corrupts(after));
        for seed in 0..20 {
            faults += play(scenario.clone(), seed).ends.iter().filter(|end| **end == "answer: fault").count();
        }
    }
    assert!(faults > 20, "only {faults} answers were lost");
}

/// The reset is reported to a write of the request's body; the read after it brings an end of file.
#[test]
fn an_answer_that_lasts_to_the_close_is_not_complete_after_a_reset() {
    let mut scenario = scenario_with_one_plain_client(&[Personality::Open]);
    (scenario.strict, scenario.keep, scenario.head_limit_bytes) = (false, 0, 64 * 1024);
    let client = &mut scenario.http_clients[0];
    client.requests.truncate(1);
    let request = &mut client.requests[0];
    (request.method, request.framing, request.bytes) = ("PUT", Framing::Chunked, 20_000);
    (request.piece, request.piece_pause_us) = (500, 300);
    let answer = &mut request.answer;
    (answer.framing, answer.bytes, answer.early) = (Framing::ToClose, 2_000, Some(1_000));
    for after in (100..2_000).step_by(10) {
        scenario.http_clients[0].requests[0].answer.oddity = Some(AnswerOddity::Resets(after));
        play(scenario.clone(), after);
    }
}

/// The first upstream never accepts, so each request connects to the second one beside it. The poll repeats events of
/// connections that are closed. A connection that is wrongly taken for established lasts longer than the handshake may.
#[test]
fn late_events_of_a_closed_connection_do_not_count_for_the_next_one() {
    let mut scenario = scenario_with_one_plain_client(&[Personality::Plain, Personality::Plain]);
    scenario.upstreams[0].addresses[0].1 = Address::DropsSyns;
    (scenario.balance, scenario.keep, scenario.accept_fails) = (true, 0, None);
    scenario.poll = PollTraits { delays: 0, noise: 1 };
    scenario.timeouts.handshake = 10_000;
    scenario.http_clients[0].requests.iter_mut().for_each(|request| request.answer.closes = true);
    for seed in 0..400 {
        play(scenario.clone(), seed);
    }
}

/// One client for each time, in µs, which asks the upstreams for a tunnel. All peers are quick, and an upstream writes
/// 200 bytes at once.
pub fn scenario_with_tunnels(upstreams: usize, times_us: &[u64]) -> Scenario {
    let is_fit = |it: &Scenario| it.strict && it.upstreams.len() == 3 && it.http_clients.is_empty();
    let mut scenario = (0..).map(Scenario::of).find(is_fit).unwrap();
    let (rx_capacity, tx_capacity, inbox_capacity, sent_capacity) = (4_096, 4_096, 4_096, 200);
    let pace = Pace::AT_ONCE;
    let traits = Traits { pace, rx_capacity, tx_capacity, inbox_capacity, sent_capacity, reset_discards: true };
    (scenario.strict, scenario.traits, scenario.accept_fails) = (false, vec![traits], None);
    (scenario.warm, scenario.first_leg, scenario.timeouts.handshake) =
        (WarmSize::Fixed(0), FirstLeg::Negotiate, 20_000);
    scenario.upstreams.truncate(upstreams);
    for upstream in &mut scenario.upstreams {
        (upstream.personality, upstream.resolves_after_us) = (Personality::Plain, 0);
        upstream.addresses.truncate(1);
        upstream.addresses[0].1 = Address::Accepts(0, 0);
    }
    let prototype = ClientPlan { target: Target::ViaUpstream, traits, filler: 0, ..scenario.clients[0].clone() };
    let client = |(number, arrives_at_us): (u16, &u64)| {
        let from = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 40_000 + number);
        ClientPlan { from, arrives_at_us: *arrives_at_us, ..prototype.clone() }
    };
    scenario.clients = (0..).zip(times_us).map(client).collect();
    scenario
}

/// The second client's logon is never answered. The third one's waits for it, so the gateway confirms the password
/// itself, and the upstream cuts that connection off after the challenge, before the end of the head.
#[test]
fn a_confirmation_answers_the_challenge_of_its_own_connection() {
    let mut scenario = scenario_with_tunnels(1, &[0, 50_000, 600_000]);
    // In the middle of a value, so that what comes next could be the rest of it.
    scenario.traits[0].sent_capacity = 374;
    let (silent, cut) = (FlowOddity::StopsWriting(402), FlowOddity::Closes(200));
    scenario.upstreams[0].first_oddities = vec![None, Some(silent), None, Some(cut), None];
    for seed in 0..50 {
        play(scenario.clone(), seed);
    }
}

/// The refusal of the second client's logon is lost, as far as the gateway can tell. Then two upstreams refuse a logon
/// each at the same time.
#[test]
fn a_changed_password_costs_no_more_than_the_budget_if_a_refusal_is_lost() {
    let mut scenario = scenario_with_tunnels(2, &[0, 50_000, 100_000, 100_000]);
    (scenario.balance, scenario.password_changes_at_us) = (true, Some(30_000));
    scenario.upstreams[0].first_oddities = vec![None, Some(FlowOddity::Resets(403))];
    for seed in 0..200 {
        play(scenario.clone(), seed);
    }
}

/// The upstream answers after two seconds each time: with the challenge in time, with the refusal too late.
#[test]
fn refusals_after_the_handshake_timed_out_count_against_the_budget() {
    let mut scenario = scenario_with_tunnels(1, &[0, 3_200_000, 6_400_000, 9_600_000, 12_800_000]);
    (scenario.right_password, scenario.timeouts.handshake, scenario.timeouts.challenge) = (false, 3_000, 10_000);
    scenario.upstreams[0].personality = Personality::Slow;
    for seed in 0..20 {
        let ends = play(scenario.clone(), seed).ends;
        assert_eq!(ends.iter().filter(|end| **end == "handshake_timeout").count(), 1, "{ends:?}");
    }
}

/// The first upstream refuses after its handshake's time is over; the two others have refused at once by then. Nothing
/// is left for the fourth client.
#[test]
fn an_unanswered_attempt_stays_pending_after_its_handshake_timed_out() {
    let mut scenario = scenario_with_tunnels(3, &[0, 2_100_000, 2_200_000, 3_100_000]);
    (scenario.right_password, scenario.timeouts.handshake, scenario.timeouts.challenge) = (false, 3_000, 10_000);
    (scenario.balance, scenario.upstreams[0].personality) = (true, Personality::Slow);
    for seed in 0..20 {
        let ends = play(scenario.clone(), seed).ends;
        let refused = ends.iter().filter(|end| **end == "credentials_refused").count();
        assert_eq!(refused, 2, "{ends:?}");
    }
}
