//! Names that used to resolve no longer do: the name server denies them, fails, stays silent or is gone itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ntlm_gateway::stub::StubServer;
use rustix::process::Signal;

use crate::machine::{BOUND, assert_flows, vitals};
use crate::stub;
use crate::support::client::{Answered, connect_name, echo_through};
use crate::support::gateway::{Gateway, GatewayOptions};
use crate::support::listener::Listener;
use crate::support::name_server::{DnsAnswer, NameServer};
use crate::support::origin::echo_origin;
use crate::support::scratch::{Scratch, wait_for};
use crate::support::tap::Tap;
use crate::support::tools::{skip_or_fail, skip_without_mounts, skip_without_root};
use crate::support::vitals::assert_nothing_leaked;

const HERE: DnsAnswer = DnsAnswer::Address(Ipv4Addr::LOCALHOST);

/// For one connection attempt, including the name's look-up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// The most that anything takes that need not wait for a name server, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A gateway that uses a name server of the test.
struct NameSetup {
    gateway: Gateway,
    names: NameServer,
    stub: StubServer,
    tap: Tap,
    origin: Listener,
    scratch: Scratch,
}

impl NameSetup {
    /// `None`, with a message, if there can be no name server or mount. The upstream is called `proxy.test`; direct
    /// routes lead to `*.direct.test` and to `local.test`, which is in the hosts file.
    fn start() -> Option<Self> {
        Self::start_with(&format!("{}ms", CONNECT_TIMEOUT.as_millis()))
    }

    /// With another connection time-out.
    fn start_with(connect: &str) -> Option<Self> {
        if skip_without_root() || skip_without_mounts() {
            return None;
        }
        let Some(names) = NameServer::start(&[("proxy.test", HERE), ("known.direct.test", HERE)]) else {
            // Root may bind the port, and on a fresh machine nothing else uses it: required with the tools.
            skip_or_fail("a name server's port is not to be had here");
            return None;
        };
        let (stub, origin, scratch) = (stub(), echo_origin(), Scratch::new("names"));
        let tap = Tap::start(stub.address());
        // Longer than a client waits: a look-up at a silent server hangs and holds a descriptor for the query.
        let servers = format!("nameserver {}\noptions timeout:5 attempts:1\n", names.address());
        let servers = scratch.write("resolv.conf", servers);
        let hosts = scratch.write("hosts", "127.0.0.1 localhost local.test\n");
        let mut options = GatewayOptions::through(tap.address());
        options.upstreams.clear();
        options.mounts = vec![(servers, "/etc/resolv.conf"), (hosts, "/etc/hosts")];
        let config = scratch.write("gateway.toml", configuration(&[tap.address().port()]));
        let args = ["--config", &config.display().to_string(), "--connect-timeout", connect, "--warm", "0"];
        options.args = args.map(String::from).into();
        let setup = Self { gateway: Gateway::start(&options), names, stub, tap, origin, scratch };
        assert_flows(&setup.gateway);
        Some(setup)
    }

    /// Reloads a configuration with these ports of `proxy.test`.
    fn reload(&self, ports: &[u16]) {
        let reloads = || self.gateway.metric("ntlm_gateway_config_reloads_total", &[("outcome", "applied")]);
        let before = reloads().unwrap_or_default();
        self.scratch.write("gateway.toml", configuration(ports));
        self.gateway.signal(Signal::HUP);
        let applied = || reloads().filter(|now| *now > before);
        assert!(wait_for(BOUND, applied).is_some(), "the configuration is not applied");
    }

    /// The response to a direct CONNECT to a name, and how long it took.
    fn straight(&self, host: &str) -> (Answered, Duration) {
        let began = Instant::now();
        let port = self.origin.address().port();
        let answer = connect_name(self.gateway.address(), &format!("{host}:{port}")).expect("an answer");
        (answer, began.elapsed())
    }

    #[track_caller]
    fn assert_straight(&self, host: &str) {
        let (answer, took) = self.straight(host);
        assert_eq!(answer.status(), 200, "{host}: {}", answer.head);
        assert_eq!(echo_through(&answer.stream, b"straight").expect("an echo"), b"straight");
        assert!(took < AT_ONCE, "{host}: {took:?}");
    }

    /// Opens a tunnel through the upstream, which must take no time.
    #[track_caller]
    fn assert_through(&self) {
        let began = Instant::now();
        let answer = connect_name(self.gateway.address(), "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        assert_eq!(echo_through(&answer.stream, b"through").expect("an echo"), b"through");
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    }

    fn ready(&self) -> (u16, String) {
        self.gateway.admin("/readyz")
    }
}

fn configuration(ports: &[u16]) -> String {
    let addresses: Vec<String> = ports.iter().map(|port| format!("'proxy.test:{port}'")).collect();
    format!(
        "[[upstreams]]\nname = 'proxy'\naddress = [{}]\n\
         [[routes]]\nhost = ['.direct.test', 'local.test']\nto = 'direct'\n\
         [[routes]]\nnetwork = '127.0.0.0/8'\nto = 'direct'\n",
        addresses.join(", ")
    )
}

#[track_caller]
fn assert_reported(answer: &Answered, status: u16, error: &str) {
    let reported = answer.field("proxy-status").unwrap_or_default();
    assert!(answer.status() == status && reported.contains(&format!("error={error}")), "{}", answer.head);
}

/// Each round uses a new name, because results are cached for a while.
#[test]
fn a_direct_request_to_a_name_that_is_gone_fails_in_time_and_later_recovers() {
    let Some(mut setup) = NameSetup::start() else { return };
    let before = vitals(&setup.gateway);
    for (number, (answer, status, error)) in [
        (DnsAnswer::NoSuchName, 502, "dns_error"),
        (DnsAnswer::Failure, 502, "dns_error"),
        (DnsAnswer::Silence, 504, "dns_timeout"),
    ]
    .into_iter()
    .enumerate()
    {
        let host = format!("n{number}.direct.test");
        setup.names.set(&host, HERE);
        setup.names.set_all(Some(answer));
        let (response, took) = setup.straight(&host);
        assert_reported(&response, status, error);
        let due = if answer == DnsAnswer::Silence { CONNECT_TIMEOUT } else { Duration::ZERO };
        assert!(took >= due && took < due + AT_ONCE, "{answer:?}: {took:?}");
        setup.assert_through();
        assert_eq!((setup.ready().0, setup.gateway.admin("/healthz").0), (200, 200));
        setup.names.set_all(None);
        // A look-up of another name does not wait for the one that hangs.
        setup.assert_straight("known.direct.test");
        println!("{answer:?}: {status} {error} after {took:?}");
    }
    setup.names.stop();
    setup.names.set("n3.direct.test", HERE);
    let (response, took) = setup.straight("n3.direct.test");
    assert_reported(&response, 502, "dns_error");
    assert!(took < AT_ONCE, "{took:?}");
    setup.assert_through();
    setup.names.start_again();
    // The name that got no answer is looked up again, too.
    for number in [0, 1, 3] {
        setup.assert_straight(&format!("n{number}.direct.test"));
    }
    assert_nothing_leaked(setup.gateway.admin_address(), before, 0);
}

#[test]
fn names_whose_lookup_hangs_do_not_delay_other_names() {
    let Some(setup) = NameSetup::start() else { return };
    let before = vitals(&setup.gateway);
    setup.assert_straight("known.direct.test");
    for number in 0..16 {
        setup.names.set(&format!("hangs{number}.direct.test"), DnsAnswer::Silence);
        setup.names.set(&format!("later{number}.direct.test"), HERE);
    }
    let queries = setup.names.queries();
    let hanging: Vec<(Answered, Duration)> = std::thread::scope(|scope| {
        // Several clients for each name.
        let clients: Vec<_> = (0..64)
            .map(|number| {
                let setup = &setup;
                scope.spawn(move || setup.straight(&format!("hangs{}.direct.test", number % 16)))
            })
            .collect();
        assert!(wait_for(BOUND, || (setup.names.queries() > queries).then_some(())).is_some(), "no query arrives");
        let began = Instant::now();
        setup.assert_through();
        setup.assert_straight("127.0.0.1");
        setup.assert_straight("local.test");
        setup.assert_straight("known.direct.test");
        for number in 0..16 {
            setup.assert_straight(&format!("later{number}.direct.test"));
        }
        println!("a score of others took {:?}", began.elapsed());
        assert!(began.elapsed() < CONNECT_TIMEOUT, "{:?}", began.elapsed());
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    for (answer, took) in &hanging {
        assert_reported(answer, 504, "dns_timeout");
        assert!(*took >= CONNECT_TIMEOUT && *took < CONNECT_TIMEOUT + AT_ONCE, "{took:?}");
    }
    drop(hanging);
    // A name is not queried again while its look-up hangs; A and AAAA are two queries.
    assert!(setup.names.queries() <= queries + 2 * (16 + 16 + 4), "{}", setup.names.queries() - queries);
    assert_nothing_leaked(setup.gateway.admin_address(), before, 0);
}

/// A different name for each client, as an attacker would do; all from one address, with the default time-out.
#[test]
fn two_hundred_clients_with_hanging_lookups_do_not_starve_others() {
    let Some(setup) = NameSetup::start_with("10s") else { return };
    let before = vitals(&setup.gateway);
    for number in 0..200 {
        setup.names.set(&format!("hangs{number}.direct.test"), DnsAnswer::Silence);
    }
    for number in 0..40 {
        setup.names.set(&format!("later{number}.direct.test"), HERE);
    }
    let queries = setup.names.queries();
    std::thread::scope(|scope| {
        let ask = |number| {
            let setup = &setup;
            move || setup.straight(&format!("hangs{number}.direct.test"))
        };
        let hanging: Vec<_> = (0..200).map(|number| scope.spawn(ask(number))).collect();
        assert!(
            wait_for(BOUND, || (setup.names.queries() >= queries + 200).then_some(())).is_some(),
            "no query arrives"
        );
        for number in 0..40 {
            setup.assert_straight(&format!("later{number}.direct.test"));
        }
        for client in hanging {
            let (answer, _) = client.join().expect("a client");
            assert!(matches!(answer.status(), 502 | 504), "{}", answer.head);
        }
    });
    // By now the gateway knows that none of these names gets an answer.
    let (answer, took) = setup.straight("hangs7.direct.test");
    assert_reported(&answer, 504, "dns_timeout");
    assert!(took < AT_ONCE, "{took:?}");
    assert_nothing_leaked(setup.gateway.admin_address(), before, 0);
}

/// Failed look-ups of the upstream.
fn failures(setup: &NameSetup) -> usize {
    setup.gateway.log().iter().filter(|line| line.contains("cannot resolve the upstream proxy.test")).count()
}

#[test]
fn an_upstream_whose_name_is_gone_keeps_its_last_addresses_across_reloads() {
    let Some(setup) = NameSetup::start() else { return };
    let port = setup.tap.address().port();
    let before = vitals(&setup.gateway);
    let standing = connect_name(setup.gateway.address(), "echo.test:7").expect("a tunnel");
    let stray = crate::support::listener::Refusing::new();
    for (round, answer) in [DnsAnswer::NoSuchName, DnsAnswer::Failure, DnsAnswer::Silence].into_iter().enumerate() {
        setup.names.set_all(Some(answer));
        setup.assert_through();
        // The reload changes the upstream, so its name is looked up again, in vain.
        let more = if round % 2 == 0 { vec![port, stray.address.port()] } else { vec![port] };
        let (queries, failed) = (setup.names.queries(), failures(&setup));
        setup.reload(&more);
        assert!(
            wait_for(BOUND, || (setup.names.queries() > queries).then_some(())).is_some(),
            "{answer:?}: not looked up"
        );
        if answer != DnsAnswer::Silence {
            let in_vain = || (failures(&setup) > failed).then_some(());
            assert!(wait_for(BOUND, in_vain).is_some(), "{answer:?}: found");
        }
        setup.assert_through();
        assert_eq!(setup.ready().0, 200, "{answer:?}");
    }
    // Without names and without the upstream no request is served, and the gateway says so.
    setup.tap.set_down(true);
    let refused = || {
        let answer = connect_name(setup.gateway.address(), "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 502, "{}", answer.head);
        (setup.ready().0 == 503).then_some(())
    };
    assert!(wait_for(BOUND, refused).is_some(), "it is ready without an upstream");
    let (_, why) = setup.ready();
    assert!(why.contains("no upstream is up") && !why.contains("resolve"), "{why}");
    setup.tap.set_down(false);
    assert!(
        wait_for(BOUND, || (setup.ready().0 == 200).then_some(())).is_some(),
        "it is checked at its last known addresses"
    );
    setup.assert_through();
    setup.names.set_all(None);
    assert_eq!(echo_through(&standing.stream, b"still here").expect("an echo"), b"still here");
    drop(standing);
    setup.assert_through();
    assert_nothing_leaked(setup.gateway.admin_address(), before, 0);
    assert_eq!(setup.stub.counters().protocol_errors(), 0, "{}", setup.stub.counters());
}

/// By the periodic refresh alone, which runs every 30 seconds.
#[test]
#[ignore = "waits for look-ups that come every 30 s"]
fn a_failed_refresh_keeps_the_addresses_and_a_successful_one_replaces_them() {
    let Some(setup) = NameSetup::start() else { return };
    let port = setup.tap.address().port();
    setup.names.set_all(Some(DnsAnswer::Failure));
    let failed = wait_for(Duration::from_secs(45), || {
        setup.assert_through();
        std::thread::sleep(Duration::from_millis(100));
        (failures(&setup) > 0).then_some(())
    });
    assert!(failed.is_some(), "its name is never looked up again");
    for _ in 0..20 {
        setup.assert_through();
    }
    assert_eq!(setup.ready().0, 200);
    // It resolves again, to another address.
    let moved = Ipv4Addr::new(127, 0, 5, 2);
    setup.names.set("proxy.test", DnsAnswer::Address(moved));
    setup.names.set_all(None);
    setup.gateway.wait_for_line(&format!("resolves to {}", SocketAddr::new(IpAddr::V4(moved), port)));
}
