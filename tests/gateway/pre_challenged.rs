//! Pre-challenged upstream connections.

use crate::support;

use std::time::{Duration, Instant};

use ntlm_gateway::gateway::Gateway;
use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use support::client::{Answered, connect, connect_name, echo_through};
use support::gateway::GatewayOptions;
use support::in_process::{self, ACCOUNT};
use support::origin::echo_origin;
use support::scratch::wait_for;
use support::squid::{LoggedCredentials, Squid, SquidOptions};
use support::web::Web;
use support::wire::Wire;

const BOUND: Duration = Duration::from_secs(20);
/// The stub's delay, which simulates a round trip to the upstream: long, so that a machine under load adds little.
const LEG: Duration = Duration::from_millis(200);

fn stub(personality: Personality, delay: Duration) -> StubServer {
    let (domain, user, password) = ACCOUNT;
    let options = StubOptions { delay, ..StubOptions::default() };
    StubServer::start(options.account(domain, user, password).personality(personality)).expect("a stub")
}

fn gateway_for(stub: &StubServer, warm: &str) -> Gateway {
    in_process::gateway(&stub.address().to_string(), &[("warm", warm)])
}

fn open(gateway: &Gateway) -> Answered {
    let answer = connect_name(in_process::address(gateway), "echo.test:7").expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    assert_eq!(echo_through(&answer.stream, b"warm?").expect("an echo"), b"warm?");
    answer
}

fn until_ready(gateway: &Gateway, count: i64) {
    let ready = wait_for(BOUND, || (counted(gateway, "warm_connections") == count).then_some(()));
    assert!(ready.is_some(), "{} of {count} are ready", counted(gateway, "warm_connections"));
}

/// The value of a counter or gauge, summed over its labels.
fn counted(gateway: &Gateway, family: &str) -> i64 {
    let name = format!("ntlm_gateway_{family}");
    let sum = support::metrics::sum(&in_process::metrics(gateway), &name, &[]).unwrap_or_default();
    #[allow(clippy::cast_possible_truncation, reason = "a count")]
    let whole = sum as i64;
    whole
}

fn sample(gateway: &Gateway, part: &str) -> f64 {
    let text = in_process::metrics(gateway);
    let line = text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("no {part} in\n{text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a value")
}

#[test]
fn a_pre_challenged_connection_saves_one_round_trip() {
    let stub = stub(Personality::Plain, LEG);
    let gateway = gateway_for(&stub, "1");
    let began = Instant::now();
    open(&gateway);
    assert!(began.elapsed() >= 2 * LEG, "{:?}: the first connection is not pre-challenged", began.elapsed());
    let took: Vec<Duration> = (0..10)
        .map(|_| {
            until_ready(&gateway, 1);
            let began = Instant::now();
            let answer = connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
            assert_eq!(answer.status(), 200);
            began.elapsed()
        })
        .collect();
    // The counters below say it of each; a pause of a busy machine does not delay all of them.
    assert!(took.iter().all(|took| *took >= LEG) && took.iter().any(|took| *took < LEG * 2), "{took:?}: one leg");
    assert_eq!(counted(&gateway, "warm_hits_total"), 10);
    assert_eq!(counted(&gateway, "warm_misses_total"), 1);
    assert!(
        (sample(&gateway, r#"handshake_duration_seconds_count{identity="default",outcome="established",path="warm""#)
            - 10.0)
            .abs()
            < 0.1
    );
    assert_eq!(stub.counters().protocol_errors(), 0, "{}", stub.counters());
    in_process::stop(gateway);
}

#[test]
fn nothing_is_pre_challenged_before_demand_or_with_the_pool_off() {
    let stub = stub(Personality::Plain, Duration::ZERO);
    let gateway = gateway_for(&stub, "0");
    for _ in 0..5 {
        open(&gateway);
    }
    assert_eq!(stub.counters().connections_opened, 5);
    in_process::stop(gateway);
    let gateway = gateway_for(&stub, "4");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(stub.counters().connections_opened, 5, "there was no request");
    in_process::stop(gateway);
}

#[test]
fn an_idle_gateway_keeps_no_pre_challenged_connections() {
    let stub = stub(Personality::Plain, Duration::ZERO);
    let gateway = in_process::gateway(&stub.address().to_string(), &[("warm", "3"), ("timeouts.warm", "300ms")]);
    open(&gateway);
    assert!(wait_for(BOUND, || (counted(&gateway, "warm_discarded_total") > 0).then_some(())).is_some());
    until_ready(&gateway, 0);
    assert!((sample(&gateway, r#"warm_discarded_total{cause="aged",identity="default""#) - 1.0).abs() < 0.1);
    let opened = stub.counters().connections_opened;
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(stub.counters().connections_opened, opened, "it must not be dialled again without demand");
    in_process::stop(gateway);
}

#[test]
fn clients_do_not_notice_closed_pre_challenged_connections() {
    let stub = stub(Personality::ClosesIdle, Duration::ZERO);
    let gateway = gateway_for(&stub, "2");
    for round in 0..4 {
        open(&gateway);
        // Before and after the half second at which this upstream closes idle connections.
        std::thread::sleep(Duration::from_millis(300 + 150 * round));
    }
    assert_eq!(stub.counters().protocol_errors(), 0, "{}", stub.counters());
    in_process::stop(gateway);
}

#[test]
fn forty_requests_after_a_password_change_cost_two_attempts() {
    let stub = stub(Personality::Plain, Duration::ZERO);
    let gateway = gateway_for(&stub, "1");
    open(&gateway);
    until_ready(&gateway, 1);
    stub.set_password("CORP", "alice", "changed meanwhile");
    // A new destination each time: a second rejection then shows that the first was not due to the destination.
    for number in 0..40 {
        let answer =
            connect_name(in_process::address(&gateway), &format!("echo.test:{}", 7 + number)).expect("an answer");
        assert_eq!(answer.status(), 502, "{}", answer.head);
    }
    assert_eq!(stub.counters().authenticates, 3, "the accepted one and two more");
    in_process::stop(gateway);
}

#[test]
fn a_forbidden_destination_is_tried_once_and_does_not_close_the_guard() {
    let stub = stub(Personality::Policy407, Duration::ZERO);
    let gateway = gateway_for(&stub, "2");
    open(&gateway);
    for _ in 0..10 {
        let answer = connect_name(in_process::address(&gateway), "blocked.test:443").expect("an answer");
        assert_eq!(answer.status(), 502, "{}", answer.head);
        open(&gateway);
    }
    assert_eq!(stub.counters().declined, 1, "{}", stub.counters());
    in_process::stop(gateway);
}

#[test]
fn connections_to_an_open_upstream_are_not_pre_challenged() {
    let stub = stub(Personality::Open, Duration::ZERO);
    let gateway = gateway_for(&stub, "4");
    for _ in 0..5 {
        open(&gateway);
    }
    assert_eq!(stub.counters().connections_opened, 5);
    in_process::stop(gateway);
}

/// The middle one of the times from CONNECT to 200 that clients at the same time wait for their tunnels.
fn median_wait(gateway: &Gateway, clients: usize, tunnels: usize) -> Duration {
    let client = || -> Vec<Duration> {
        let tunnel = |_| {
            let began = Instant::now();
            let answer = connect_name(in_process::address(gateway), "echo.test:7").expect("an answer");
            let waited = began.elapsed();
            assert_eq!(answer.status(), 200, "{}", answer.head);
            waited
        };
        (0..tunnels).map(tunnel).collect()
    };
    let mut waits: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });
    waits.sort_unstable();
    waits[waits.len() / 2]
}

#[test]
fn by_default_sixteen_clients_wait_one_round_trip_at_the_median() {
    let stub = stub(Personality::Plain, LEG);
    let gateway = in_process::gateway(&stub.address().to_string(), &[("shards", "2")]);
    let median = median_wait(&gateway, 16, 25);
    assert!(median >= LEG, "{median:?}");
    // Clients without a pre-challenged connection wait for two.
    assert!(median <= LEG.mul_f64(1.5), "{median:?}, {}", in_process::metrics(&gateway));
    // As many as the demand needs, and not many more.
    let opened = stub.counters().connections_opened;
    assert!(opened <= 2 * 16 * 25, "{opened} connections for {} tunnels", 16 * 25);
    assert_eq!(stub.counters().protocol_errors(), 0, "{}", stub.counters());
    in_process::stop(gateway);
}

#[test]
fn by_default_the_pool_follows_the_demand_and_empties_when_it_ends() {
    let stub = stub(Personality::Plain, LEG);
    let gateway = in_process::gateway(&stub.address().to_string(), &[("timeouts.warm", "2s")]);
    median_wait(&gateway, 8, 20);
    assert!(counted(&gateway, "warm_wanted_connections") > 0);
    assert!(counted(&gateway, "warm_hits_total") > counted(&gateway, "warm_misses_total"));
    let is_empty = || {
        let held = counted(&gateway, "warm_connections");
        let wanted = counted(&gateway, "warm_wanted_connections");
        (held == 0 && wanted == 0).then_some(())
    };
    assert!(wait_for(BOUND, is_empty).is_some(), "{}", in_process::metrics(&gateway));
    let opened = stub.counters().connections_opened;
    std::thread::sleep(Duration::from_millis(900));
    assert_eq!(stub.counters().connections_opened, opened, "it must not be dialled again without demand");
    in_process::stop(gateway);
}

#[test]
fn by_default_a_few_requests_pre_challenge_nothing() {
    let stub = stub(Personality::Plain, Duration::ZERO);
    let gateway = in_process::gateway(&stub.address().to_string(), &[]);
    for _ in 0..3 {
        open(&gateway);
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(stub.counters().connections_opened, 3);
    in_process::stop(gateway);
}

#[test]
fn fifty_clients_share_a_squid_with_five_helpers_without_failures() {
    require_tools!("squid", "ntlm_auth");
    fifty_clients_share_five_helpers(&["--warm", "8"]);
}

#[test]
fn fifty_clients_share_a_squid_with_five_helpers_by_default() {
    require_tools!("squid", "ntlm_auth");
    fifty_clients_share_five_helpers(&[]);
}

fn fifty_clients_share_five_helpers(args: &[&str]) {
    let squid = Squid::start(&SquidOptions { helpers: 5, ..SquidOptions::default() });
    // Long, because fifty clients may take several seconds on a busy machine.
    const WARM_AGE: Duration = Duration::from_secs(60);
    let mut options = GatewayOptions::through(squid.address());
    options.args = ["--warm-timeout", "60s"].iter().chain(args).copied().map(String::from).collect();
    let gateway = support::gateway::Gateway::start(&options);
    let origin = echo_origin();
    let began = Instant::now();
    let failures: Vec<String> = std::thread::scope(|scope| {
        let client = || {
            for _ in 0..6 {
                let answer = connect(gateway.address(), origin.address(), b"").map_err(|error| error.to_string())?;
                if answer.status() != 200 {
                    return Err(answer.head);
                }
                match echo_through(&answer.stream, b"through five helpers") {
                    Ok(back) if back == b"through five helpers" => {}
                    other => return Err(format!("{other:?}")),
                }
            }
            Ok(())
        };
        let clients: Vec<_> = (0..50).map(|_| scope.spawn(client)).collect();
        clients.into_iter().filter_map(|client| client.join().expect("a client").err()).collect()
    });
    assert!(failures.is_empty(), "{} of 50 clients failed: {:?}", failures.len(), failures.first());
    // Far below the age at which an unused pre-challenged connection releases its helper.
    let took = began.elapsed();
    assert!(took < WARM_AGE / 2, "{took:?}");
    println!("fifty clients with {args:?}: {took:?}");
}

/// A gateway with a pre-challenged pool, and a Squid with rules ahead of its authentication rule.
fn gateway_with_squid(extra: impl Into<String>, args: &[&str]) -> (Squid, support::gateway::Gateway) {
    let squid = Squid::start(&SquidOptions { extra: extra.into(), ..SquidOptions::default() });
    let mut options = GatewayOptions::through(squid.address());
    options.args =
        ["--shards", "1", "--warm", "2", "--keep", "0"].iter().chain(args).copied().map(String::from).collect();
    (squid, support::gateway::Gateway::start(&options))
}

/// Waits until a connection is pre-challenged.
fn until_pre_challenged(gateway: &support::gateway::Gateway) {
    let ready = || gateway.metric("ntlm_gateway_warm_connections", &[]).filter(|count| *count >= 1.0);
    assert!(wait_for(BOUND, ready).is_some(), "{}", gateway.metrics());
}

#[test]
fn pre_challenge_requests_contain_nothing_of_the_clients() {
    require_tools!("squid", "ntlm_auth", "curl");
    let (free, other) = (Web::origin(), Web::origin());
    let port = free.address().port();
    let (squid, gateway) = gateway_with_squid(format!("acl free port {port}\nhttp_access allow free"), &[]);
    let ask = |origin: &Web, number: usize| {
        let fields = format!("Cookie: session={number}\r\nAuthorization: Basic c2VjcmV0\r\n");
        let request = origin.request("GET", &format!("/bytes/5?once={number}"), &fields);
        assert_eq!(Wire::connect(gateway.address()).ask(request).expect("an answer").status(), 200);
    };
    ask(&other, 0);
    for number in 1..=10 {
        until_pre_challenged(&gateway);
        ask(if number % 2 == 0 { &other } else { &free }, number);
    }
    until_pre_challenged(&gateway);
    assert!(gateway.metric("ntlm_gateway_warm_hits_total", &[]) >= Some(9.0), "{}", gateway.metrics());
    for (origin, count) in [(&free, 5), (&other, 6)] {
        let heads = origin.seen.heads();
        assert_eq!(heads.len(), count, "each request is sent once: {heads:#?}");
        let once: std::collections::HashSet<_> = heads.iter().map(|head| head.split(' ').nth(1)).collect();
        assert_eq!(once.len(), count, "{heads:#?}");
    }
    let log = squid.log();
    let pre_challenges: Vec<_> = log
        .iter()
        .filter(|line| line.credentials == LoggedCredentials::Negotiate && line.target.contains("invalid"))
        .collect();
    assert!(pre_challenges.len() >= 10, "{log:#?}");
    assert!(pre_challenges.iter().all(|line| line.method == "CONNECT" && line.target == "ntlm-gateway.invalid:443"));
}

#[test]
fn pre_challenging_works_around_rules_ahead_of_authentication() {
    require_tools!("squid", "ntlm_auth", "curl");
    let origin = Web::origin();
    for (extra, args, method) in [
        ("acl tunnels method CONNECT\nhttp_access deny tunnels", &[][..], "GET"),
        (
            "acl nowhere dstdomain .invalid\nhttp_access allow nowhere",
            &["--check", "handshake", "--check-target", "127.0.0.1:9"],
            "CONNECT",
        ),
    ] {
        let (squid, gateway) = gateway_with_squid(extra, args);
        for _ in 0..4 {
            let answer =
                Wire::connect(gateway.address()).ask(origin.request("GET", "/bytes/5", "")).expect("an answer");
            assert_eq!(answer.status(), 200, "{extra}");
            until_pre_challenged(&gateway);
        }
        assert!(gateway.metric("ntlm_gateway_warm_hits_total", &[]) >= Some(3.0), "{extra}: {}", gateway.metrics());
        let last = squid
            .log()
            .into_iter()
            .rfind(|line| line.credentials == LoggedCredentials::Negotiate)
            .expect("a challenge");
        assert_eq!(last.method, method, "{extra}");
    }
}

#[test]
fn pre_challenging_stops_at_a_proxy_that_answers_without_a_challenge() {
    require_tools!("squid", "ntlm_auth", "curl");
    let origin = Web::origin();
    let (squid, gateway) = gateway_with_squid("acl nowhere dstdomain .invalid\nhttp_access deny nowhere", &[]);
    for _ in 0..10 {
        let answer = Wire::connect(gateway.address()).ask(origin.request("GET", "/bytes/5", "")).expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(gateway.metric("ntlm_gateway_warm_hits_total", &[]).unwrap_or(0.0), 0.0);
    let asked = squid.log().iter().filter(|line| line.target.contains("invalid")).count();
    assert!((1..=4).contains(&asked), "{asked}: {:#?}", squid.log());
}
