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
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The most that anything takes that need not wait for a name server, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A gateway that uses a name server of the test.
struct Named {
    gateway: Gateway,
    names: NameServer,
    stub: StubServer,
    tap: Tap,
    origin: Listener,
    scratch: Scratch,
}

impl Named {
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
        let named = Self { gateway: Gateway::start(&options), names, stub, tap, origin, scratch };
        assert_flows(&named.gateway);
        Some(named)
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
fn assert_told(answer: &Answered, status: u16, error: &str) {
    let told = answer.field("proxy-status").unwrap_or_default();
    assert!(answer.status() == status && told.contains(&format!("error={error}")), "{}", answer.head);
}

/// Each round uses a new name, because results are cached for a while.
#[test]
fn a_direct_request_to_a_name_that_is_gone_fails_in_time_and_later_recovers() {
    let Some(mut named) = Named::start() else { return };
    let before = vitals(&named.gateway);
    for (number, (answer, status, error)) in [
        (DnsAnswer::NoSuchName, 502, "dns_error"),
        (DnsAnswer::Failure, 502, "dns_error"),
        (DnsAnswer::Silence, 504, "dns_timeout"),
    ]
    .into_iter()
    .enumerate()
    {
        let host = format!("n{number}.direct.test");
        named.names.set(&host, HERE);
        named.names.set_all(Some(answer));
        let (told, took) = named.straight(&host);
        assert_told(&told, status, error);
        let due = if answer == DnsAnswer::Silence { CONNECT_TIMEOUT } else { Duration::ZERO };
        assert!(took >= due && took < due + AT_ONCE, "{answer:?}: {took:?}");
        named.assert_through();
        assert_eq!((named.ready().0, named.gateway.admin("/healthz").0), (200, 200));
        named.names.set_all(None);
        // A look-up of another name does not wait for the one that hangs.
        named.assert_straight("known.direct.test");
        println!("{answer:?}: {status} {error} after {took:?}");
    }
    named.names.stop();
    named.names.set("n3.direct.test", HERE);
    let (told, took) = named.straight("n3.direct.test");
    assert_told(&told, 502, "dns_error");
    assert!(took < AT_ONCE, "{took:?}");
    named.assert_through();
    named.names.start_again();
    // The name that got no answer is looked up again, too.
    for number in [0, 1, 3] {
        named.assert_straight(&format!("n{number}.direct.test"));
    }
    assert_nothing_leaked(named.gateway.admin_address(), before, 0);
}

#[test]
fn names_whose_lookup_hangs_do_not_delay_other_names() {
    let Some(named) = Named::start() else { return };
    let before = vitals(&named.gateway);
    named.assert_straight("known.direct.test");
    for number in 0..16 {
        named.names.set(&format!("hangs{number}.direct.test"), DnsAnswer::Silence);
        named.names.set(&format!("later{number}.direct.test"), HERE);
    }
    let queries = named.names.queries();
    let hanging: Vec<(Answered, Duration)> = std::thread::scope(|scope| {
        // Several clients for each name.
        let clients: Vec<_> = (0..64)
            .map(|number| {
                let named = &named;
                scope.spawn(move || named.straight(&format!("hangs{}.direct.test", number % 16)))
            })
            .collect();
        assert!(wait_for(BOUND, || (named.names.queries() > queries).then_some(())).is_some(), "no query arrives");
        let began = Instant::now();
        named.assert_through();
        named.assert_straight("127.0.0.1");
        named.assert_straight("local.test");
        named.assert_straight("known.direct.test");
        for number in 0..16 {
            named.assert_straight(&format!("later{number}.direct.test"));
        }
        println!("a score of others took {:?}", began.elapsed());
        assert!(began.elapsed() < CONNECT_TIMEOUT, "{:?}", began.elapsed());
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    for (answer, took) in &hanging {
        assert_told(answer, 504, "dns_timeout");
        assert!(*took >= CONNECT_TIMEOUT && *took < CONNECT_TIMEOUT + AT_ONCE, "{took:?}");
    }
    drop(hanging);
    // A name is not queried again while its look-up hangs; A and AAAA are two queries.
    assert!(named.names.queries() <= queries + 2 * (16 + 16 + 4), "{}", named.names.queries() - queries);
    assert_nothing_leaked(named.gateway.admin_address(), before, 0);
}

/// A different name for each client, as an attacker would do; all from one address, with the default time-out.
#[test]
fn two_hundred_clients_with_hanging_lookups_do_not_starve_others() {
    let Some(named) = Named::start_with("10s") else { return };
    let before = vitals(&named.gateway);
    for number in 0..200 {
        named.names.set(&format!("hangs{number}.direct.test"), DnsAnswer::Silence);
    }
    for number in 0..40 {
        named.names.set(&format!("later{number}.direct.test"), HERE);
    }
    let queries = named.names.queries();
    std::thread::scope(|scope| {
        let ask = |number| {
            let named = &named;
            move || named.straight(&format!("hangs{number}.direct.test"))
        };
        let hanging: Vec<_> = (0..200).map(|number| scope.spawn(ask(number))).collect();
        assert!(
            wait_for(BOUND, || (named.names.queries() >= queries + 200).then_some(())).is_some(),
            "no query arrives"
        );
        for number in 0..40 {
            named.assert_straight(&format!("later{number}.direct.test"));
        }
        for client in hanging {
            let (answer, _) = client.join().expect("a client");
            assert!(matches!(answer.status(), 502 | 504), "{}", answer.head);
        }
    });
    // By now the gateway knows that none of these names gets an answer.
    let (answer, took) = named.straight("hangs7.direct.test");
    assert_told(&answer, 504, "dns_timeout");
    assert!(took < AT_ONCE, "{took:?}");
    assert_nothing_leaked(named.gateway.admin_address(), before, 0);
}

/// Failed look-ups of the upstream.
fn failures(named: &Named) -> usize {
    named.gateway.log().iter().filter(|line| line.contains("cannot resolve the upstream proxy.test")).count()
}

#[test]
fn an_upstream_whose_name_is_gone_keeps_its_last_addresses_across_reloads() {
    let Some(named) = Named::start() else { return };
    let port = named.tap.address().port();
    let before = vitals(&named.gateway);
    let standing = connect_name(named.gateway.address(), "echo.test:7").expect("a tunnel");
    let stray = crate::support::listener::Refusing::new();
    for (round, answer) in [DnsAnswer::NoSuchName, DnsAnswer::Failure, DnsAnswer::Silence].into_iter().enumerate() {
        named.names.set_all(Some(answer));
        named.assert_through();
        // The reload changes the upstream, so its name is looked up again, in vain.
        let more = if round % 2 == 0 { vec![port, stray.address.port()] } else { vec![port] };
        let (queries, failed) = (named.names.queries(), failures(&named));
        named.reload(&more);
        assert!(
            wait_for(BOUND, || (named.names.queries() > queries).then_some(())).is_some(),
            "{answer:?}: not looked up"
        );
        if answer != DnsAnswer::Silence {
            let in_vain = || (failures(&named) > failed).then_some(());
            assert!(wait_for(BOUND, in_vain).is_some(), "{answer:?}: found");
        }
        named.assert_through();
        assert_eq!(named.ready().0, 200, "{answer:?}");
    }
    // Without names and without the upstream no request is served, and the gateway says so.
    named.tap.set_down(true);
    let refused = || {
        let answer = connect_name(named.gateway.address(), "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 502, "{}", answer.head);
        (named.ready().0 == 503).then_some(())
    };
    assert!(wait_for(BOUND, refused).is_some(), "it is ready without an upstream");
    let (_, why) = named.ready();
    assert!(why.contains("no upstream is up") && !why.contains("resolve"), "{why}");
    named.tap.set_down(false);
    assert!(
        wait_for(BOUND, || (named.ready().0 == 200).then_some(())).is_some(),
        "it is checked at its last known addresses"
    );
    named.assert_through();
    named.names.set_all(None);
    assert_eq!(echo_through(&standing.stream, b"still here").expect("an echo"), b"still here");
    drop(standing);
    named.assert_through();
    assert_nothing_leaked(named.gateway.admin_address(), before, 0);
    assert_eq!(named.stub.counters().protocol_errors(), 0, "{}", named.stub.counters());
}

/// By the periodic refresh alone, which runs every 30 seconds.
#[test]
#[ignore = "waits for look-ups that come every 30 s"]
fn a_failed_refresh_keeps_the_addresses_and_a_successful_one_replaces_them() {
    let Some(named) = Named::start() else { return };
    let port = named.tap.address().port();
    named.names.set_all(Some(DnsAnswer::Failure));
    let failed = wait_for(Duration::from_secs(45), || {
        named.assert_through();
        std::thread::sleep(Duration::from_millis(100));
        (failures(&named) > 0).then_some(())
    });
    assert!(failed.is_some(), "its name is never looked up again");
    for _ in 0..20 {
        named.assert_through();
    }
    assert_eq!(named.ready().0, 200);
    // It resolves again, to another address.
    let moved = Ipv4Addr::new(127, 0, 5, 2);
    named.names.set("proxy.test", DnsAnswer::Address(moved));
    named.names.set_all(None);
    named.gateway.wait_for_line(&format!("resolves to {}", SocketAddr::new(IpAddr::V4(moved), port)));
}
