//! Authenticated upstream connections that are kept between requests and shared between clients.

use crate::support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use support::client;
use support::gateway::{Gateway, GatewayOptions};
use support::in_process::{self, ACCOUNT};
use support::origin::echo_origin;
use support::plain::PlainHttpGateway;
use support::scratch::wait_for;
use support::squid::{LoggedCredentials, Squid, SquidOptions};
use support::web::{Web, request};
use support::wire::Wire;

use ntlm_gateway::stub::{Personality, StubOptions, StubServer};

const GAUGE: &str = "ntlm_gateway_kept_connections";

const BOUND: Duration = Duration::from_secs(20);

/// A proxy that answers with the number of its connection, with a delay for `/slow`: enough for a busy machine to begin
/// several such requests before the first is answered.
fn numbered(settings: &[(&str, &str)]) -> PlainHttpGateway {
    PlainHttpGateway::playing(settings, |wire, asked| {
        if asked.path == "/slow" {
            std::thread::sleep(Duration::from_millis(900));
        }
        let text = asked.connection.to_string();
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()))?;
        Ok(true)
    })
}

/// Waits for this many kept connections: the gateway returns one to the pool shortly after its client has the response.
#[track_caller]
fn expect_kept(setup: &PlainHttpGateway, count: f64) {
    let there = wait_for(BOUND, || (setup.metric(GAUGE, &[]) == count).then_some(()));
    assert!(there.is_some(), "{} are kept, not {count}", setup.metric(GAUGE, &[]));
}

fn authenticates(setup: &PlainHttpGateway) -> usize {
    setup.proxy.seen.authenticates.load(Ordering::Relaxed)
}

/// Sends the same request on this many connections at once.
fn at_once(setup: &PlainHttpGateway, count: usize, path: &str) {
    let mut clients: Vec<Wire> = (0..count).map(|_| setup.client()).collect();
    clients.iter_mut().for_each(|client| client.send(setup.get(path)).expect("send"));
    for client in &mut clients {
        assert_eq!(client.answer("GET").expect("an answer").status(), 200);
    }
}

#[test]
fn connections_are_reused_across_clients_most_recently_used_first() {
    let setup = numbered(&[("warm", "0")]);
    at_once(&setup, 1, "/");
    at_once(&setup, 5, "/slow");
    expect_kept(&setup, 5.0);
    let last = setup.client().ask(setup.get("/")).unwrap().text();
    for _ in 0..10 {
        assert_eq!(setup.client().ask(setup.get("/")).unwrap().text(), last);
    }
    // The guard may have made others of its own, to confirm the secret while the five were unanswered.
    let connections = setup.proxy.seen.connections.load(Ordering::Relaxed);
    assert_eq!(authenticates(&setup), connections, "each connection was authenticated once");
    setup.stop();
}

#[test]
fn no_more_connections_are_kept_than_configured() {
    let setup = numbered(&[("keep", "2")]);
    at_once(&setup, 1, "/");
    at_once(&setup, 8, "/slow");
    expect_kept(&setup, 2.0);
    setup.stop();
    let setup = numbered(&[("keep", "0")]);
    at_once(&setup, 1, "/");
    at_once(&setup, 1, "/");
    assert_eq!((setup.metric(GAUGE, &[]), authenticates(&setup)), (0.0, 2), "0 keeps none");
    setup.stop();
}

#[test]
fn an_unused_kept_connection_is_closed_after_its_timeout() {
    let setup = numbered(&[("timeouts.keep", "2s"), ("warm", "0")]);
    at_once(&setup, 1, "/");
    expect_kept(&setup, 1.0);
    expect_kept(&setup, 0.0);
    at_once(&setup, 1, "/");
    assert_eq!(authenticates(&setup), 2);
    setup.stop();
}

/// A proxy that closes each connection at its second request without a response; with a reset for `/reset`.
fn closes_at_the_second() -> PlainHttpGateway {
    PlainHttpGateway::playing(&[("warm", "0")], |wire, asked| {
        if asked.before > 0 {
            if asked.path == "/reset" {
                rustix::net::sockopt::set_socket_linger(&wire.stream, Some(Duration::ZERO))?;
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            return Ok(false);
        }
        wire.request_body(asked.head)?;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        Ok(true)
    })
}

#[test]
fn an_idempotent_request_is_retried_when_a_kept_connection_dies() {
    let setup = closes_at_the_second();
    let mut client = setup.client();
    assert_eq!(client.ask(setup.get("/")).unwrap().text(), "ok");
    for (number, (method, path)) in
        [("GET", "/"), ("GET", "/reset"), ("DELETE", "/"), ("OPTIONS", "/reset")].into_iter().enumerate()
    {
        assert_eq!(client.ask(setup.head(method, path, "")).unwrap().text(), "ok", "{method} {path}");
        assert_eq!(setup.proxy.seen.requests(), 1 + 2 * (number + 1), "retried exactly once");
    }
    assert_eq!(setup.metric("ntlm_gateway_upstream_up", &[]), 1.0);
    setup.stop();
}

#[test]
fn a_non_idempotent_request_is_not_retried() {
    let setup = closes_at_the_second();
    for (fields, body) in [("Content-Length: 5\r\n", "hello"), ("", ""), ("Content-Length: 0\r\n", "")] {
        let mut client = setup.client();
        assert_eq!(client.ask(setup.get("/")).unwrap().text(), "ok");
        let before = setup.proxy.seen.requests();
        let answer = client.ask(format!("{}{body}", setup.head("POST", "/", fields))).unwrap();
        assert_eq!(answer.status(), 502, "{fields}");
        assert!(answer.head.contains("error=connection_terminated"), "{}", answer.head);
        assert_eq!(setup.proxy.seen.requests(), before + 1, "{fields}: once");
    }
    setup.stop();
}

#[test]
fn non_idempotent_requests_use_only_recently_used_kept_connections() {
    let setup = numbered(&[("warm", "0")]);
    let mut client = setup.client();
    let on =
        |client: &mut Wire, method: &str| client.ask(setup.head(method, "/", "Content-Length: 0\r\n")).unwrap().text();
    let first = on(&mut client, "GET");
    assert_eq!(on(&mut client, "POST"), first, "just used");
    std::thread::sleep(ntlm_gateway::limits::KEPT_FRESH + Duration::from_millis(300));
    let second = on(&mut client, "POST");
    assert_ne!(second, first, "its proxy may be closing it");
    assert_eq!(on(&mut client, "POST"), second);
    std::thread::sleep(ntlm_gateway::limits::KEPT_FRESH + Duration::from_millis(300));
    assert_eq!(on(&mut client, "PUT"), second, "an idempotent request may find it closed");
    assert_eq!(authenticates(&setup), 2);
    setup.stop();
}

#[test]
fn non_idempotent_requests_use_only_young_pre_challenged_connections() {
    let stub = StubServer::start(StubOptions::default().account(ACCOUNT.0, ACCOUNT.1, ACCOUNT.2)).unwrap();
    let gateway = in_process::gateway(&stub.address().to_string(), &[("warm", "1"), ("keep", "0")]);
    let ask = |method: &str| {
        let warm = wait_for(Duration::from_secs(5), || {
            (in_process::metric(&gateway, "warm_connections", &[]) == 1.0).then_some(())
        });
        assert!(warm.is_some() || method == "first");
        let method = if method == "first" { "GET" } else { method };
        let request = request(method, "http://hello.test/", "Content-Length: 0\r\n");
        assert_eq!(Wire::connect(in_process::address(&gateway)).ask(request).unwrap().status(), 200);
        in_process::metric(&gateway, "warm_hits_total", &[])
    };
    assert_eq!(ask("first"), 0.0);
    assert_eq!(ask("POST"), 1.0);
    let rest = || std::thread::sleep(ntlm_gateway::limits::KEPT_FRESH + Duration::from_millis(300));
    rest();
    assert_eq!(ask("POST"), 1.0, "too old");
    rest();
    assert_eq!(ask("GET"), 2.0);
    in_process::stop(gateway);
}

/// The proxy may close a pre-challenged connection as it takes a request, several times.
#[test]
fn an_idempotent_request_is_retried_when_a_pre_challenged_connection_dies() {
    let stub = StubServer::start(
        StubOptions::default().account(ACCOUNT.0, ACCOUNT.1, ACCOUNT.2).personality(Personality::ClosesIdle),
    )
    .unwrap();
    let gateway = in_process::gateway(&stub.address().to_string(), &[("warm", "2"), ("keep", "0")]);
    for round in 0..6 {
        let answer =
            Wire::connect(in_process::address(&gateway)).ask(request("GET", "http://hello.test/", "")).unwrap();
        assert_eq!(answer.status(), 200, "round {round}: {}", answer.head);
        // Around the half second after which this upstream closes idle connections.
        std::thread::sleep(Duration::from_millis(480 + 8 * round));
    }
    in_process::stop(gateway);
}

/// A proxy that reads no body after a GET, HEAD, OPTIONS or DELETE: it takes the bytes after such a head as the next
/// request.
#[test]
fn a_body_that_the_proxy_reads_as_a_request_answers_no_other_client() {
    let setup = PlainHttpGateway::playing(&[("warm", "0")], |wire, asked| {
        if asked.path == "/smuggled" {
            // So that its response arrives after the next client's request.
            std::thread::sleep(Duration::from_millis(200));
        }
        let text = if asked.method == "HEAD" { "" } else { asked.path };
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()))?;
        Ok(true)
    });
    let smuggled = setup.get("/smuggled");
    for method in ["GET", "HEAD", "OPTIONS", "DELETE", "get"] {
        assert_eq!(setup.client().ask(setup.get("/before")).unwrap().text(), "/before");
        let mut attacker = setup.client();
        let head = setup.head(method, "/attack", &format!("Content-Length: {}\r\n", smuggled.len()));
        assert_eq!(attacker.ask(format!("{head}{smuggled}")).unwrap().status(), 200, "{method}");
        // The attacker's own next request gets its own response, too.
        for client in [&mut setup.client(), &mut attacker, &mut setup.client()] {
            assert_eq!(client.ask(setup.get("/own")).unwrap().text(), "/own", "behind {method}");
        }
    }
    setup.stop();
}

/// A stub that verifies, and a gateway in front of it.
fn stub_and_gateway(
    personality: Personality,
    settings: &[(&str, &str)],
) -> (StubServer, ntlm_gateway::gateway::Gateway) {
    let (domain, user, password) = ACCOUNT;
    let options = StubOptions::default().account(domain, user, password).personality(personality);
    let stub = StubServer::start(options).expect("start the stub");
    let gateway = in_process::gateway(&stub.address().to_string(), settings);
    (stub, gateway)
}

#[test]
fn requests_authenticate_again_where_the_proxy_forgets_authentication() {
    for personality in [Personality::Forgets, Personality::PerRequestAuth] {
        let (stub, gateway) = stub_and_gateway(personality, &[("warm", "0")]);
        let mut client = Wire::connect(in_process::address(&gateway));
        for number in 0..20 {
            let answer = client.ask(request("GET", "http://hello.test/", "")).unwrap();
            assert_eq!(answer.status(), 200, "{personality}, request {number}: {}", answer.head);
        }
        let counts = stub.counters();
        in_process::stop(gateway);
        assert_eq!((counts.protocol_errors(), counts.refused), (0, 0), "{personality}: {counts}");
        match personality {
            Personality::Forgets => assert_eq!(counts.authenticates, 10, "one for two requests: {counts}"),
            _ => {
                assert_eq!(counts.authenticates, 20, "{counts}");
                let bound = u64::from(ntlm_gateway::limits::REAUTHENTICATIONS);
                assert!(counts.unprompted <= bound, "known after {bound}: {counts}");
            }
        }
    }
}

#[test]
fn a_forbidden_destination_does_not_stop_keep_alive_for_others() {
    let (stub, gateway) = stub_and_gateway(Personality::Policy407, &[("warm", "0")]);
    let ask = |host: &str| {
        Wire::connect(in_process::address(&gateway)).ask(request("GET", &format!("http://{host}/"), "")).unwrap()
    };
    assert_eq!(ask("hello.test").status(), 200);
    assert_eq!(ask("blocked.test").status(), 502);
    for _ in 0..10 {
        assert_eq!(ask("hello.test").status(), 200);
    }
    let counts = stub.counters();
    in_process::stop(gateway);
    // One for the first, one for the forbidden one, one by which the gateway confirms the secret, and one for the first
    // request after that.
    assert!(counts.authenticates <= 4, "{counts}");
}

#[test]
fn an_origins_own_407s_do_not_stop_keep_alive() {
    let setup = PlainHttpGateway::playing(&[("warm", "0")], |wire, asked| {
        let line = if asked.path == "/asks" { "407 Not a proxy's" } else { "200 OK" };
        wire.send(format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nok"))?;
        Ok(true)
    });
    let mut client = setup.client();
    for _ in 0..2 * ntlm_gateway::limits::REAUTHENTICATIONS {
        assert_eq!(client.ask(setup.get("/")).unwrap().status(), 200);
        assert_eq!(client.ask(setup.get("/asks")).unwrap().status(), 407, "the origin's answer");
    }
    assert_eq!(client.ask(setup.get("/")).unwrap().status(), 200);
    assert_eq!(authenticates(&setup), 1, "one connection for all");
    setup.stop();
}

#[test]
fn many_forbidden_destinations_do_not_stop_keep_alive_for_others() {
    let (stub, gateway) = stub_and_gateway(Personality::Policy407, &[("warm", "0")]);
    let ask = |host: &str| {
        Wire::connect(in_process::address(&gateway)).ask(request("GET", &format!("http://{host}/"), "")).unwrap()
    };
    for round in 0..2 * ntlm_gateway::limits::REAUTHENTICATIONS {
        assert_eq!(ask("hello.test").status(), 200);
        assert_eq!(ask(&format!("blocked.n{round}.test")).status(), 502);
        assert_eq!(ask("hello.test").status(), 200);
    }
    let before = stub.counters().authenticates;
    for _ in 0..10 {
        assert_eq!(ask("hello.test").status(), 200);
    }
    assert_eq!(stub.counters().authenticates, before, "its connections are kept: {}", stub.counters());
    in_process::stop(gateway);
}

#[test]
fn a_proxy_that_reads_the_body_before_rejecting_credentials_is_not_misjudged() {
    let setup = PlainHttpGateway::playing(&[("warm", "0")], |wire, asked| {
        wire.send("HTTP/1.1 100 Continue\r\n\r\n")?;
        wire.request_body(asked.head)?;
        wire.send(support::web::demand(407, "Proxy-Authenticate", false))?;
        Ok(true)
    });
    let fields = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    for _ in 0..10 {
        let answer = setup.client().ask(format!("{}hello", setup.head("POST", "/", fields))).unwrap();
        assert_eq!(answer.status(), 502, "{}", answer.head);
    }
    assert!(authenticates(&setup) <= 3, "a rejected password is not retried endlessly: {}", authenticates(&setup));
    setup.stop();
}

#[test]
fn unauthenticated_connections_are_not_kept_for_authenticated_requests() {
    let (stub, gateway) = stub_and_gateway(Personality::HangsOnCredentials, &[("without_credentials", "hello.test")]);
    for _ in 0..3 {
        let mut client = Wire::connect(in_process::address(&gateway));
        assert_eq!(client.ask(request("GET", "http://hello.test/", "")).unwrap().status(), 200);
    }
    assert_eq!(support::metrics::sum(&in_process::metrics(&gateway), GAUGE, &[]).unwrap_or(0.0), 0.0);
    assert_eq!(stub.counters().requests, 3);
    in_process::stop(gateway);
}

#[test]
fn a_tunnel_on_a_kept_connection_needs_no_new_authentication() {
    require_tools!("squid", "ntlm_auth");
    let squid = Squid::start(&SquidOptions::default());
    let options = GatewayOptions::through(squid.address());
    let gateway =
        Gateway::start(&GatewayOptions { args: ["--warm", "0", "--shards", "1"].map(str::to_owned).into(), ..options });
    let (origin, echo) = (Web::origin(), echo_origin());
    for round in 1..=3 {
        let answer = Wire::connect(gateway.address()).ask(origin.request("GET", "/bytes/5", "")).unwrap();
        assert_eq!(answer.status(), 200);
        let tunnel = client::connect(gateway.address(), echo.address(), b"").unwrap();
        assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
        assert_eq!(client::echo_through(&tunnel.stream, b"there and back").unwrap(), b"there and back");
        // The tunnel keeps the connection for itself, so each round needs one.
        assert_eq!(squid.count(LoggedCredentials::Negotiate), round, "{:#?}", squid.log());
    }
    assert_eq!(gateway.metric("ntlm_gateway_authenticate_messages_total", &[]), Some(3.0));
}

#[test]
fn a_tunnel_on_a_kept_connection_authenticates_again_when_challenged() {
    let (stub, gateway) = stub_and_gateway(Personality::PerRequestAuth, &[("warm", "0")]);
    let address = in_process::address(&gateway);
    for _ in 0..4 {
        assert_eq!(Wire::connect(address).ask(request("GET", "http://hello.test/", "")).unwrap().status(), 200);
        let tunnel = client::connect_name(address, "echo.test:7").unwrap();
        assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
        assert_eq!(client::echo_through(&tunnel.stream, b"there and back").unwrap(), b"there and back");
    }
    let counts = stub.counters();
    in_process::stop(gateway);
    assert_eq!((counts.protocol_errors(), counts.refused), (0, 0), "{counts}");
}

#[test]
fn a_connection_from_an_old_configuration_is_not_kept_after_a_reload() {
    let proxy = Web::proxy();
    let options = GatewayOptions::through(proxy.address());
    let gateway =
        Gateway::start(&GatewayOptions { args: ["--warm", "0", "--shards", "1"].map(str::to_owned).into(), ..options });
    let mut client = Wire::connect(gateway.address());
    client.send(proxy.request("GET", "/pause/1500", "")).unwrap();
    assert!(wait_for(Duration::from_secs(5), || (proxy.seen.requests() == 1).then_some(())).is_some());
    gateway.write_password("another");
    gateway.signal(Signal::HUP);
    let reloaded = || gateway.metric("ntlm_gateway_config_reloads_total", &[("outcome", "applied")]);
    assert!(
        wait_for(Duration::from_secs(5), || reloaded().filter(|count| *count >= 1.0)).is_some(),
        "{}",
        gateway.metrics()
    );
    assert_eq!(client.answer("GET").unwrap().status(), 200);
    assert_eq!(gateway.metric(GAUGE, &[]).unwrap_or(0.0), 0.0);
    assert_eq!(client.ask(proxy.request("GET", "/bytes/5", "")).unwrap().status(), 200);
    assert_eq!(proxy.seen.authenticates.load(Ordering::Relaxed), 2, "authenticated again with the new password");
}
