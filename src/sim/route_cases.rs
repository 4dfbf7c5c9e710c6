//! Scenarios with a source of routes that answers as a script says, and with plans of several candidates.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use super::network::{self, Address, PollTraits, with};
use super::routes::RouteScript::{self, AtOnce, GivesUp, Later, Never};
use super::scenario::{ClientOddity, ClientPlan, ORIGINS, Scenario, Target, USERS, UpstreamPlan};
use super::{invariants, world};
use crate::auth::FirstLeg;
use crate::limits;
use crate::metrics::HandshakeOutcome;
use crate::route::{Candidate, Plan};
use crate::stub::Personality;
use crate::upstream::{Answer, AttemptRequest, SendPermission, WarmSize};

/// How a run went.
struct Outcome {
    /// How each client's session ended.
    ends: Vec<&'static str>,
    /// The upstream that the access log names for each of them, by its place before a reload.
    upstreams: Vec<Option<usize>>,
    /// The address that each tunnel leads to.
    tunnels: Vec<Option<SocketAddr>>,
    dialled: Vec<SocketAddr>,
    /// For each upstream: handshakes that succeeded and failed.
    handshakes: Vec<[u64; 2]>,
}

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;

fn group(group: usize) -> Candidate {
    Candidate::Group { group, without_credentials: false }
}

/// An upstream with one address.
fn upstream(place: u8, personality: Personality, address: Address) -> UpstreamPlan {
    UpstreamPlan {
        personality,
        addresses: vec![(SocketAddr::new(Ipv4Addr::new(10, 9, place, 1).into(), 3128), address)],
        group: place.into(),
        resolves_after_us: 0,
        odd_once_in: None,
        idle_close_us: None,
        closes_on_reuse: false,
        first_oddities: Vec::new(),
        tls: None,
    }
}

fn good(place: u8) -> UpstreamPlan {
    upstream(place, Personality::Plain, Address::Accepts(0, 0))
}

fn refusing(place: u8) -> UpstreamPlan {
    upstream(place, Personality::Plain, Address::Refuses(0))
}

/// As many clients as there are scripts, a second apart, that want a tunnel; and upstreams, each
/// in a group of its own.
fn scenario(upstreams: Vec<UpstreamPlan>, scripts: Vec<Vec<RouteScript>>) -> Scenario {
    let is_simple = |it: &Scenario| it.strict && it.http_clients.is_empty() && it.reload_at_us.is_none();
    let mut scenario = (0..).map(Scenario::of).find(|it| is_simple(it) && it.clients.len() == 6).unwrap();
    scenario.clients.truncate(scripts.len());
    scenario.upstreams = upstreams;
    (scenario.warm, scenario.balance, scenario.accept_fails) = (WarmSize::Fixed(0), false, None);
    for (number, client) in scenario.clients.iter_mut().enumerate() {
        *client = ClientPlan {
            arrives_at_us: number as u64 * SECOND,
            target: Target::ViaUpstream,
            early: 0,
            ..client.clone()
        };
    }
    scenario.routes = Some(scripts.into_iter().enumerate().collect());
    scenario
}

/// A scenario with one client and a plan that comes at once. It need not succeed.
fn one_client(upstreams: Vec<UpstreamPlan>, candidates: &[Candidate]) -> Scenario {
    let plan = Plan::of(candidates.iter().copied());
    Scenario { strict: false, ..scenario(upstreams, vec![vec![AtOnce(plan)]]) }
}

fn play(scenario: Scenario) -> Outcome {
    play_with(scenario, |_| ())
}

/// Plays a scenario whose world `prepare` changes.
fn play_with(scenario: Scenario, prepare: impl FnOnce(&world::World)) -> Outcome {
    let shown = format!("{:?}", scenario.routes);
    let (mut world, mut shard) = world::build(scenario, 0, std::env::var_os("SIM_TRACE").is_some());
    let handshakes = |world: &world::World| -> Vec<[u64; 2]> {
        let outcomes = [HandshakeOutcome::Established, HandshakeOutcome::Failed];
        let metrics =
            (0..world.scenario.upstreams.len()).map(|place| world.metrics.hop(&format!("u{place}"), USERS[0]));
        metrics.map(|metrics| outcomes.map(|outcome| metrics.ended(outcome))).collect()
    };
    let before = handshakes(&world);
    prepare(&world);
    world.run(&mut shard).unwrap();
    let remains = shard.remains();
    drop(shard);
    world.settle().unwrap();
    let summary = invariants::check(&world).unwrap_or_else(|wrong| panic!("{}\n{shown}", wrong.join("\n")));
    assert!(remains.is_empty(), "{remains:?}");
    let counted = handshakes(&world).into_iter().zip(before);
    let handshakes = counted.map(|(after, before)| [after[0] - before[0], after[1] - before[1]]).collect();
    let concluded = |wire: usize| with(|network| network.wires[wire].concluded);
    let upstreams =
        world.clients.iter().flatten().map(|client| concluded(client.wire).and_then(|end| end.hop)).collect();
    let tunnel_of = |client: usize| {
        let mut peers = world.peers.iter();
        let (wire, _) = peers.find(|(_, peer)| peer.tunnel().is_some_and(|(number, _)| number == client))?;
        with(|network| network.dialled.get(wire).copied())
    };
    let tunnels = (0..world.clients.len()).map(tunnel_of).collect();
    let dialled = with(|network| network.dialled.values().copied().collect());
    network::install(None);
    Outcome { ends: summary.ends, upstreams, tunnels, dialled, handshakes }
}

fn is_origin(address: &SocketAddr) -> bool {
    ORIGINS.iter().any(|origin| address.ip().to_string() == *origin)
}

#[test]
fn a_plan_may_come_at_once_or_later() {
    let (through, straight) = (Plan::only(group(1)), Plan::only(Candidate::Direct));
    let scripts = vec![
        vec![AtOnce(through.clone())],
        vec![AtOnce(straight.clone())],
        vec![Later(vec![(400 * MS, through)])],
        vec![Later(vec![(400 * MS, straight)])],
    ];
    let outcome = play(scenario(vec![good(0), good(1)], scripts));
    assert_eq!(outcome.ends, ["finished"; 4]);
    assert_eq!(outcome.upstreams, [Some(1), None, Some(1), None]);
}

#[test]
fn a_source_that_gives_no_answer_costs_the_client_a_bounded_time() {
    let scenario = scenario(vec![good(0)], vec![vec![GivesUp], vec![Never], vec![AtOnce(Plan::only(group(0)))]]);
    let outcome = play(Scenario { strict: false, ..scenario.clone() });
    assert_eq!(outcome.ends, ["route_unavailable", "route_unavailable", "finished"]);
    assert_eq!(outcome.upstreams, [None, None, Some(0)]);
    // An answer just in time is used, and one that is late is not.
    let limit_us = 1_000 * limits::millis(limits::ROUTE_TIMEOUT);
    let after = |after_us| vec![Later(vec![(after_us, Plan::only(group(0)))])];
    let scripts = [after(limit_us - 200 * MS), after(limit_us + 200 * MS)];
    let scenario = Scenario { routes: Some(scripts.into_iter().enumerate().collect()), strict: false, ..scenario };
    let outcome = play(Scenario { clients: scenario.clients[..2].to_vec(), ..scenario });
    assert_eq!(outcome.ends, ["finished", "route_unavailable"]);
}

#[test]
fn an_answer_for_a_client_that_is_gone_does_not_reach_the_next_one_in_its_slot() {
    let scripts = vec![
        vec![Later(vec![(1_500 * MS, Plan::only(Candidate::Deny))])],
        vec![Later(vec![(2_500 * MS, Plan::only(group(0)))])],
    ];
    let mut scenario = Scenario { strict: false, ..scenario(vec![good(0)], scripts) };
    // The second client comes at 1 s.
    scenario.clients[0].oddity = Some(ClientOddity::Resets(500 * MS));
    let outcome = play(scenario);
    assert_eq!(outcome.ends, ["client_gone", "finished"]);
    assert_eq!(outcome.upstreams, [None, Some(0)]);
}

#[test]
fn only_the_first_answer_to_a_question_counts() {
    // In one turn of the shard, or in two.
    for second_at_us in [100 * MS, 150 * MS] {
        let twice = |plans: [Candidate; 2]| {
            vec![Later([100 * MS, second_at_us].into_iter().zip(plans.map(Plan::only)).collect())]
        };
        let scripts = vec![twice([group(0), Candidate::Deny]), twice([Candidate::Deny, group(0)])];
        let outcome = play(Scenario { strict: false, ..scenario(vec![good(0)], scripts) });
        assert_eq!(outcome.ends, ["finished", "destination_denied"]);
    }
}

/// The late second answer to the first request comes while the second request waits for its own.
#[test]
fn a_second_answer_does_not_decide_about_the_next_request_of_the_connection() {
    let is_fit = |it: &Scenario| it.strict && it.http_clients.first().is_some_and(|client| client.requests.len() > 1);
    let mut scenario = (0..).map(Scenario::of).find(is_fit).unwrap();
    let first = scenario.clients.len();
    scenario.http_clients.truncate(1);
    scenario.upstreams = vec![good(0)];
    let client = &mut scenario.http_clients[0];
    (client.http10, client.pipelines, client.target, client.arrives_at_us) = (false, false, Target::ViaUpstream, 0);
    client.requests.truncate(2);
    for request in &mut client.requests {
        request.method = "GET";
        (request.framing, request.bytes, request.expects_continue) = (super::plain::Framing::Nothing, 0, false);
        (request.closes, request.pause_us, request.pins_connection) = (false, 0, false);
        let answer = &mut request.answer;
        (answer.status, answer.framing, answer.bytes) = (200, super::plain::Framing::Length(10), 10);
        (answer.closes, answer.http10, answer.early, answer.delay_us) = (false, false, None, 0);
    }
    let through = || Plan::only(group(0));
    let mut scripts: BTreeMap<usize, Vec<RouteScript>> = (0..first).map(|of| (of, vec![AtOnce(through())])).collect();
    let twice = Later(vec![(100 * MS, through()), (10 * SECOND, Plan::only(Candidate::Deny))]);
    scripts.insert(first, vec![twice, Later(vec![(9 * SECOND + 990 * MS, through())])]);
    scenario.routes = Some(scripts);
    // The scenario is strict: both requests have to be answered.
    play(scenario);
}

#[test]
fn a_request_falls_back_to_the_next_candidate_if_the_first_cannot_be_reached() {
    let unreachable = [Address::Refuses(5_000), Address::Unreachable, Address::DropsSyns];
    for address in unreachable {
        let dead = upstream(0, Personality::Plain, address);
        for (second, expected) in [(group(1), Some(1)), (Candidate::Direct, None)] {
            let outcome = play(one_client(vec![dead.clone(), good(1)], &[group(0), second]));
            assert_eq!(
                (&outcome.ends[..], &outcome.upstreams[..]),
                (&["finished"][..], &[expected][..]),
                "{address:?}"
            );
            assert_eq!(outcome.handshakes, [[0, 1], [u64::from(expected.is_some()), 0]], "{address:?}");
            assert_eq!(outcome.dialled.iter().any(is_origin), expected.is_none(), "{address:?}");
        }
        let scenario = one_client(vec![good(0)], &[Candidate::Direct, group(0)]);
        let outcome = play(Scenario { origin: address, ..scenario });
        assert_eq!((&outcome.ends[..], &outcome.upstreams[..]), (&["finished"][..], &[Some(0)][..]), "{address:?}");
    }
}

#[test]
fn candidates_are_tried_in_their_order_and_the_last_fault_is_reported() {
    let upstreams = vec![refusing(0), refusing(1), upstream(2, Personality::Plain, Address::DropsSyns)];
    let outcome = play(one_client(upstreams, &[group(1), group(0), group(2)]));
    assert_eq!((&outcome.ends[..], &outcome.upstreams[..]), (&["connect_timeout"][..], &[Some(2)][..]));
    assert_eq!(
        outcome.dialled.iter().map(|address| address.to_string()).collect::<Vec<_>>(),
        ["10.9.1.1:3128", "10.9.0.1:3128", "10.9.2.1:3128"]
    );
}

#[test]
fn a_group_whose_upstreams_are_all_ejected_is_passed_over_without_a_dial() {
    // They accept connections, so that clients may be sent there on trial.
    let eject = |world: &world::World| {
        let health = &world.upstream(0).health;
        (0..limits::EJECT_AFTER).for_each(|_| health.failed_where_another_served(0, "a test"));
    };
    let outcome = play_with(one_client(vec![good(0), good(1)], &[group(0), group(1)]), eject);
    assert_eq!((&outcome.ends[..], &outcome.upstreams[..]), (&["finished"][..], &[Some(1)][..]));
    assert_eq!(outcome.handshakes, [[0, 0], [1, 0]]);
    assert_eq!(outcome.dialled.len(), 1, "{:?}", outcome.dialled);
    // Without an alternative, the ejected upstream is tried.
    for candidates in [&[group(0)][..], &[group(0), Candidate::Deny]] {
        let outcome = play_with(one_client(vec![good(0)], candidates), eject);
        assert_eq!((&outcome.ends[..], &outcome.upstreams[..]), (&["finished"][..], &[Some(0)][..]));
    }
}

#[test]
fn nothing_falls_back_once_an_upstream_may_have_seen_the_request() {
    let seen = [
        Personality::ClosesOnAccept,
        Personality::ResetsMidHandshake,
        Personality::Silent,
        Personality::BasicOnly,
        Personality::Unavailable,
        Personality::Refuses,
    ];
    for personality in seen {
        let odd = upstream(0, personality, Address::Accepts(0, 0));
        let outcome = play(one_client(vec![odd, good(1)], &[group(0), group(1), Candidate::Direct]));
        assert_ne!(outcome.ends, ["finished"], "{personality}");
        assert_eq!(outcome.upstreams, [Some(0)], "{personality}");
        assert_eq!(outcome.handshakes[1], [0, 0], "{personality}");
        assert!(!outcome.dialled.iter().any(is_origin), "{personality}");
    }
    // Nor when the handshake needs a second connection, which is not accepted.
    for personality in [Personality::IsaFirst407Closes, Personality::BodyToClose] {
        let odd = upstream(0, personality, Address::AcceptsOnce);
        let scenario = one_client(vec![odd, good(1)], &[group(0), group(1), Candidate::Direct]);
        let outcome = play(Scenario { first_leg: FirstLeg::Plain, ..scenario });
        assert_eq!(outcome.ends, ["connect_unreachable"], "{personality}");
        assert_eq!((&outcome.upstreams[..], outcome.handshakes[1]), (&[Some(0)][..], [0, 0]), "{personality}");
        assert!(!outcome.dialled.iter().any(is_origin), "{personality}");
    }
}

#[test]
fn nothing_falls_back_when_the_credentials_are_refused() {
    let scenario = one_client(vec![good(0), good(1)], &[group(0), group(1), Candidate::Direct]);
    let outcome = play(Scenario { right_password: false, ..scenario });
    assert_eq!((&outcome.ends[..], &outcome.upstreams[..]), (&["credentials_refused"][..], &[Some(0)][..]));
    assert!(!outcome.dialled.iter().any(is_origin));
}

#[test]
fn a_denial_ends_the_plan() {
    let upstreams = || vec![refusing(0), good(1)];
    let outcome = play(one_client(upstreams(), &[group(0), Candidate::Deny, group(1), Candidate::Direct]));
    assert_eq!((&outcome.ends[..], &outcome.upstreams[..]), (&["destination_denied"][..], &[None][..]));
    assert_eq!(outcome.handshakes, [[0, 1], [0, 0]]);
    let outcome = play(one_client(upstreams(), &[Candidate::Deny, group(1)]));
    assert_eq!(outcome.ends, ["destination_denied"]);
    assert!(outcome.dialled.is_empty(), "{:?}", outcome.dialled);
}

#[test]
fn no_candidate_leads_to_a_metadata_service() {
    for candidates in
        [&[group(0)][..], &[Candidate::Direct], &[group(0), Candidate::Direct], &[Candidate::Direct, group(0)]]
    {
        let mut scenario = one_client(vec![good(0)], candidates);
        scenario.clients[0].target = Target::MetadataAddress;
        let outcome = play(scenario);
        assert_eq!(outcome.ends, ["destination_denied"], "{candidates:?}");
        assert!(outcome.dialled.is_empty(), "{candidates:?}: {:?}", outcome.dialled);
    }
    // By a name, on a candidate that is not the first.
    let mut scenario = one_client(vec![refusing(0), good(1)], &[group(0), Candidate::Direct, group(1)]);
    scenario.clients[0].target = Target::DirectName(0);
    scenario.names_lead_to = Some("169.254.169.254");
    let outcome = play(scenario);
    assert_eq!(outcome.ends, ["destination_denied"]);
    assert_eq!(outcome.handshakes, [[0, 1], [0, 0]]);
}

#[test]
fn a_name_on_a_direct_route_does_not_lead_to_an_address_that_the_routes_deny() {
    for denied in ["10.66.0.1", "::ffff:10.66.0.1", "127.0.0.1", "0.0.0.0", "2001:db8::66", "::ffff:0.0.0.0"] {
        let mut scenario = one_client(vec![good(0)], &[Candidate::Direct]);
        scenario.clients[0].target = Target::DirectName(0);
        scenario.names_lead_to = Some(denied);
        let outcome = play(scenario);
        assert_eq!(outcome.ends, ["destination_denied"], "{denied}");
        assert!(outcome.dialled.is_empty(), "{denied}: {:?}", outcome.dialled);
    }
}

/// A reload comes while a client waits for its plan: the plan is about the egress before.
#[test]
fn a_plan_that_comes_after_a_reload_leads_where_it_did_before() {
    let through = |place| Plan::only(group(place));
    // After the reload, the second upstream has the number of the first, and the pool has connections to it.
    let scripts = vec![
        vec![AtOnce(through(0))],
        vec![Later(vec![(3_300 * MS, through(0))])],
        vec![AtOnce(through(0))],
        vec![AtOnce(through(0))],
    ];
    let mut scenario = scenario(vec![good(0), good(1)], scripts);
    (scenario.warm, scenario.first_leg) = (WarmSize::Fixed(2), FirstLeg::Negotiate);
    (scenario.reload_at_us, scenario.reload_reverses) = (Some(500 * MS), true);
    scenario.poll = PollTraits { delays: 0, noise: 0 };
    for (client, arrives_ms) in scenario.clients.iter_mut().zip([0, 200, 1_000, 2_000]) {
        client.arrives_at_us = arrives_ms * MS;
    }
    let [first, second] = [0, 1].map(|place| Some(scenario.upstreams[place].addresses[0].0));
    let outcome = play(scenario);
    assert_eq!(outcome.ends, ["finished"; 4]);
    assert_eq!(outcome.tunnels, [first, first, second, second]);
    assert_eq!(outcome.handshakes, [[2, 0], [2, 0]]);
}

/// The second client waits for the first one's logon, then passes its upstream over for one that accepts the account. A
/// reload in the meantime has given that one the number of the first.
#[test]
fn an_upstream_that_was_passed_over_is_used_after_the_next_despite_a_reload() {
    let mut upstreams = vec![
        upstream(0, Personality::Slow, Address::Accepts(0, 0)),
        upstream(1, Personality::ClosesOnAccept, Address::Accepts(0, 0)),
    ];
    upstreams[1].group = 0;
    let scripts = vec![vec![AtOnce(Plan::only(group(0)))]; 2];
    let mut scenario = Scenario { strict: false, ..scenario(upstreams, scripts) };
    scenario.clients[1].arrives_at_us = 100 * MS;
    (scenario.reload_at_us, scenario.reload_reverses) = (Some(300 * MS), true);
    let [first, second] = [0, 1].map(|place| scenario.upstreams[place].addresses[0].0);
    let outcome = play_with(scenario, |world| {
        // It is brought back by its check, after the reload.
        let second = world.upstream(1);
        (0..limits::EJECT_AFTER).for_each(|_| second.health.failed(0, "a test"));
        let upstream = second.name();
        let asked =
            AttemptRequest { upstream, method: "CONNECT", destination: "a:443", challenged: true, confirms: false };
        let SendPermission::Go(ticket) = world.egress.identities[0].guard.ask(0, &asked) else { panic!("it may go") };
        ticket.settle(0, Answer::Status(200));
    });
    assert_eq!(outcome.ends, ["finished"; 2]);
    assert_eq!(outcome.tunnels, [Some(first); 2]);
    let dials = outcome.dialled.iter().filter(|address| **address == second).count();
    assert_eq!(dials, usize::from(limits::HANDSHAKE_CONNECTIONS), "the second upstream is asked once");
}

/// A scenario of a seed, with plans that begin with two groups that cannot be reached. `script` makes the source's
/// answer from a client's number and plan.
fn with_unreachable_candidates(seed: u64, script: impl Fn(usize, Plan) -> RouteScript) -> Scenario {
    let mut scenario = Scenario::of(seed);
    let targets = scenario.clients.iter().map(|client| client.target);
    let targets = targets.chain(scenario.http_clients.iter().map(|client| client.target));
    let script = |(number, target): (usize, Target)| {
        let last = match target {
            Target::DirectAddress | Target::DirectName(_) => Candidate::Direct,
            Target::Denied | Target::MetadataAddress => Candidate::Deny,
            Target::ViaUpstream => group(0),
            Target::WithoutCredentials => Candidate::Group { group: 0, without_credentials: true },
        };
        (number, vec![script(number, Plan::of([group(1), group(2), last]))])
    };
    scenario.routes = Some(targets.enumerate().map(script).collect());
    for (place, address) in [(1, Address::Refuses(30_000)), (2, Address::Unreachable)] {
        scenario.upstreams.push(upstream(place, Personality::Plain, address));
    }
    scenario
}

fn play_seed(seed: u64, scenario: Scenario) {
    let print = std::env::var_os("SIM_TRACE").is_some();
    super::play(scenario, seed, print).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
}

#[test]
fn every_byte_arrives_by_whichever_candidate_can_be_reached() {
    let after_ms = |seed: u64, client: usize| (seed + client as u64) % 7 * 20;
    let mut played = 0;
    for seed in 0..400 {
        let scenario = with_unreachable_candidates(seed, |client, plan| match client % 3 {
            0 => AtOnce(plan),
            _ => Later(vec![(after_ms(seed, client) * MS, plan)]),
        });
        if scenario.strict {
            play_seed(seed, scenario);
            played += 1;
        }
    }
    assert!(played > 100, "only {played}");
}

/// Clients go away, upstreams misbehave, the configuration is reloaded and the gateway stops, while the source answers
/// late, twice, or not at all.
#[test]
fn whatever_a_source_of_routes_does_clients_learn_how_it_ended_and_nothing_leaks() {
    let mut played = 0;
    for seed in 0..600 {
        let scenario = with_unreachable_candidates(seed, |client, plan| {
            let late_ms = (seed * 31 + client as u64 * 17) % 1_000;
            match (seed + client as u64) % 5 {
                0 => AtOnce(plan),
                1 => Later(vec![(late_ms * MS, plan)]),
                2 => Later(vec![(late_ms * MS, plan), (late_ms * MS / 2, Plan::only(Candidate::Deny))]),
                3 => Never,
                _ => GivesUp,
            }
        });
        if !scenario.strict {
            play_seed(seed, Scenario { reload_reverses: seed % 2 == 0, ..scenario });
            played += 1;
        }
    }
    assert!(played > 200, "only {played}");
}
