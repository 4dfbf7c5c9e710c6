//! A destination that the upstream's policy cuts off fails alone. The upstream stays in use for all others.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ntlm_gateway::limits;
use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use support::client::{connect, connect_name};
use support::gateway::{Gateway, GatewayOptions};
use support::in_process::{self, ACCOUNT, metric};
use support::listener::Listener;
use support::origin::echo_origin;
use support::scratch::wait_for;
use support::squid::{Squid, SquidOptions};

const BOUND: Duration = Duration::from_secs(20);

/// Makes Squid reset the client's connection for `blocked.test`, whatever credentials the request carries.
const RESET_RULES: &str = "acl blocked dstdomain .blocked.test\ndeny_info TCP_RESET blocked\nhttp_access deny blocked";

/// What resets connections for `blocked.test`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ResetBy {
    /// Squid, by its first rule: at the first leg, or at the second on a pre-challenged connection.
    Squid,
    /// A filter in front of Squid, at the second leg.
    Filter,
}

/// Whether a piece of what a client sends holds an AUTHENTICATE_MESSAGE.
fn has_logon(piece: &[u8]) -> bool {
    // Base64 of "NTLMSSP\0" and the first byte of MessageType 3.
    piece.windows(12).any(|window| window == b"TlRMTVNTUAAD")
}

/// Relays a connection to a proxy until `cuts` says of what the client sends that the connection is to be cut.
fn relay(mut near: TcpStream, proxy: SocketAddr, cuts: impl Fn(&[u8]) -> bool) {
    let Ok(mut far) = TcpStream::connect(proxy) else { return };
    let (Ok(mut back_from), Ok(mut back_to)) = (far.try_clone(), near.try_clone()) else { return };
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut back_from, &mut back_to);
        let _ = back_to.shutdown(Shutdown::Both);
    });
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = near.read(&mut buffer) {
        if cuts(&buffer[..count]) || far.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (near.shutdown(Shutdown::Both), far.shutdown(Shutdown::Both));
}

/// A filter in front of a proxy. It cuts a connection that carries an AUTHENTICATE_MESSAGE for `blocked.test`.
fn filter(proxy: SocketAddr) -> Listener {
    Listener::start(move |near| {
        relay(near, proxy, |piece| {
            let text = String::from_utf8_lossy(piece).to_lowercase();
            has_logon(piece) && (text.contains(".blocked.test") || text.contains(" blocked.test"))
        });
    })
}

struct BlockedDestination {
    _squids: Vec<Squid>,
    _filters: Vec<Listener>,
    gateway: Gateway,
    origin: Listener,
}

impl BlockedDestination {
    fn new(squids: usize, resets: ResetBy, args: &[&str]) -> Self {
        let extra = if resets == ResetBy::Squid { RESET_RULES } else { "" };
        let start = |_| Squid::start(&SquidOptions { extra: extra.to_owned(), ..SquidOptions::default() });
        let squids: Vec<Squid> = (0..squids).map(start).collect();
        let filters: Vec<Listener> = match resets {
            ResetBy::Squid => Vec::new(),
            ResetBy::Filter => squids.iter().map(|squid| filter(squid.address())).collect(),
        };
        let addresses = match resets {
            ResetBy::Squid => squids.iter().map(Squid::address).collect::<Vec<_>>(),
            ResetBy::Filter => filters.iter().map(Listener::address).collect(),
        };
        let mut options = GatewayOptions::through(addresses[0]);
        options.upstreams = addresses.iter().map(ToString::to_string).collect();
        options.args = args.iter().map(ToString::to_string).collect();
        Self { gateway: Gateway::start(&options), origin: echo_origin(), _filters: filters, _squids: squids }
    }

    fn good(&self) -> u16 {
        connect(self.gateway.address(), self.origin.address(), b"").map_or(0, |answer| answer.status())
    }

    fn blocked(&self, host: &str) -> u16 {
        connect_name(self.gateway.address(), host).map_or(0, |answer| answer.status())
    }

    fn ejections(&self) -> f64 {
        self.gateway.metric("ntlm_gateway_upstream_ejections_total", &[]).unwrap_or_default()
    }
}

/// Sends a blocked request every 0.3 s alongside good ones, then blocked ones alone.
#[track_caller]
fn assert_other_destinations_work(squids: usize, resets: ResetBy, order: &str) {
    let setup = BlockedDestination::new(squids, resets, &["--order", order]);
    assert_eq!(setup.good(), 200);
    let (ended, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let asked_enough = || (asked.load(Ordering::Acquire) > 50).then_some(());
    let failed = std::thread::scope(|scope| {
        let good = scope.spawn(|| {
            let mut failed = 0;
            while !ended.load(Ordering::Acquire) {
                asked.fetch_add(1, Ordering::AcqRel);
                failed += usize::from(setup.good() != 200);
                std::thread::sleep(Duration::from_millis(5));
            }
            failed
        });
        let blocked: Vec<u16> = (0..12)
            .map(|number| {
                std::thread::sleep(Duration::from_millis(300));
                // Another port or letter case is still the same destination.
                setup.blocked(["blocked.test:443", "Blocked.TEST:8443"][number % 2])
            })
            .collect();
        wait_for(BOUND, asked_enough);
        ended.store(true, Ordering::Release);
        assert_eq!(blocked, [502; 12]);
        good.join().expect("a client")
    });
    assert!(asked_enough().is_some() && failed == 0, "{failed} of {asked:?} good requests failed");
    for _ in 0..8 {
        assert_eq!(setup.blocked("blocked.test:443"), 502);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(setup.good(), 200, "after blocked requests alone");
    assert_eq!(setup.ejections(), 0.0);
}

#[test]
fn a_destination_that_squid_resets_does_not_eject_a_single_squid() {
    require_tools!("squid", "ntlm_auth");
    assert_other_destinations_work(1, ResetBy::Squid, "failover");
}

#[test]
fn a_destination_cut_off_after_the_logon_does_not_eject_a_single_squid() {
    require_tools!("squid", "ntlm_auth");
    assert_other_destinations_work(1, ResetBy::Filter, "failover");
}

#[test]
fn a_destination_that_two_squids_reset_ejects_neither() {
    require_tools!("squid", "ntlm_auth");
    assert_other_destinations_work(2, ResetBy::Squid, "failover");
    assert_other_destinations_work(2, ResetBy::Squid, "balance");
    for order in ["failover", "balance"] {
        assert_other_destinations_work(2, ResetBy::Filter, order);
    }
}

#[test]
fn many_blocked_hosts_do_not_keep_a_good_request_from_a_single_squid() {
    require_tools!("squid", "ntlm_auth");
    let setup = BlockedDestination::new(1, ResetBy::Squid, &[]);
    assert_eq!(setup.good(), 200);
    for round in 0..4 {
        let began = Instant::now();
        // Long enough to look like an outage, because nothing succeeds in between.
        for number in 0.. {
            setup.blocked(&format!("h{number}.blocked.test:443"));
            if began.elapsed() > Duration::from_millis(1_500) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(setup.good(), 200, "round {round}");
    }
}

fn stub() -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub")
}

/// With these settings a successful connection alone does not restore an upstream.
const HANDSHAKE_CHECK: [(&str, &str); 3] = [("warm", "0"), ("check", "handshake"), ("check_target", "echo.test:7")];

#[test]
fn an_ejected_single_upstream_is_tried_at_a_bounded_rate_until_it_works() {
    let upstream = stub();
    let gateway = in_process::gateway(&upstream.address().to_string(), &HANDSHAKE_CHECK);
    let ask = |host: &str| connect_name(in_process::address(&gateway), host).expect("an answer");
    assert_eq!(ask("echo.test:7").status(), 200);
    upstream.set_personality(Personality::BasicOnly);
    let is_up = || metric(&gateway, "upstream_up", &[]) > 0.0;
    let down = || {
        assert_eq!(ask("echo.failed.test:7").status(), 502);
        (!is_up()).then_some(())
    };
    assert!(wait_for(BOUND, down).is_some(), "it is never ejected");
    // Clients fail at once, except those that try the upstream: one a second for a destination that has failed.
    let dials = || metric(&gateway, "dials_total", &[]);
    let (before, began) = (dials(), Instant::now());
    let tried = wait_for(BOUND, || {
        assert_eq!(ask("echo.failed.test:7").status(), 502);
        let tried = dials() - before;
        (tried >= 1.0 && began.elapsed() >= Duration::from_millis(1_200)).then_some(tried)
    });
    // Each of these tries a few connections.
    let (tried, seconds) = (tried.expect("a client that tries it"), began.elapsed().as_secs_f64());
    assert!(tried <= 8.0 * seconds / 1.2, "{tried} connections in {seconds:.1} s");

    // The next check is some time away, because the last one has just failed.
    let opened = || upstream.counters().connections_opened;
    let known = opened();
    assert!(wait_for(BOUND, || (opened() > known).then_some(())).is_some(), "no check");
    upstream.set_personality(Personality::Plain);
    let began = Instant::now();
    let served = || (ask("echo.other.test:7").status() == 200).then_some(());
    assert!(wait_for(BOUND, served).is_some(), "no client is sent to the upstream");
    assert!(began.elapsed() < 2 * limits::CHECK_DELAY, "{:?}", began.elapsed());
    assert!(is_up());
    in_process::stop(gateway);
}

#[test]
fn clients_do_not_notice_an_upstream_that_breaks_after_its_challenge() {
    let (broken, healthy) = (stub(), stub());
    let upstreams = [&broken, &healthy].map(|stub| SocketAddr::to_string(&stub.address())).join(",");
    let gateway = in_process::gateway(&upstreams, &HANDSHAKE_CHECK);
    let ask = || connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer").status();
    for personality in [Personality::ClosesOnAccept, Personality::Plain] {
        broken.set_personality(personality);
        assert_eq!(ask(), 200);
    }
    broken.set_personality(Personality::ResetsMidHandshake);
    assert!((0..10).all(|_| ask() == 200));
    in_process::stop(gateway);
}

/// What a relay in front of a proxy cuts off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cuts {
    /// Connections that carry an AUTHENTICATE_MESSAGE.
    Logons,
    /// The same, and every connection after the first of them: the proxy is going down.
    EverythingAfterALogon,
}

/// A relay in front of a proxy, which begins to cut connections off when the flag is set.
fn cutting_relay(proxy: SocketAddr, cuts: Cuts) -> (Listener, Arc<AtomicBool>) {
    let (begun, is_down) = (Arc::new(AtomicBool::new(false)), AtomicBool::new(false));
    let seen = Arc::clone(&begun);
    let listener = Listener::start(move |near| {
        if is_down.load(Ordering::Acquire) {
            return;
        }
        relay(near, proxy, |piece| {
            let is_cut = seen.load(Ordering::Acquire) && has_logon(piece);
            if is_cut {
                is_down.store(cuts == Cuts::EverythingAfterALogon, Ordering::Release);
            }
            is_cut
        });
    });
    (listener, begun)
}

/// A gateway before a relay that cuts connections off, and a second proxy that has not accepted the account yet.
/// Returns the status of a request once the relay cuts, and the logons at the second proxy.
fn behind_a_cutting_relay(cuts: Cuts) -> (u16, u64) {
    let (first, second) = (stub(), stub());
    let (relay, begun) = cutting_relay(first.address(), cuts);
    let upstreams = [relay.address(), second.address()].map(|address| address.to_string()).join(",");
    let gateway = in_process::gateway(&upstreams, &HANDSHAKE_CHECK);
    let ask = || connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer").status();
    assert_eq!(ask(), 200);
    begun.store(true, Ordering::Release);
    let status = ask();
    in_process::stop(gateway);
    (status, second.counters().authenticates)
}

#[test]
fn a_proxy_that_goes_down_behind_a_logon_costs_no_client_its_tunnel() {
    assert_eq!(behind_a_cutting_relay(Cuts::EverythingAfterALogon), (200, 1));
}

#[test]
fn a_destination_cut_off_after_its_logon_is_not_tried_at_an_untried_proxy() {
    assert_eq!(behind_a_cutting_relay(Cuts::Logons), (502, 0));
}

#[test]
fn a_check_ejects_a_single_upstream_that_fails_before_its_challenge() {
    for personality in [Personality::ClosesOnAccept, Personality::LyingLengths, Personality::BasicOnly] {
        let upstream = stub();
        let gateway = in_process::gateway(&upstream.address().to_string(), &HANDSHAKE_CHECK);
        let ask = || connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer").status();
        assert_eq!(ask(), 200);
        let authenticates = upstream.counters().authenticates;
        upstream.set_personality(personality);
        let down = || {
            assert_eq!(ask(), 502, "{personality}");
            (metric(&gateway, "upstream_up", &[]) == 0.0).then_some(())
        };
        assert!(wait_for(BOUND, down).is_some(), "{personality} is never ejected");
        assert_eq!(upstream.counters().authenticates, authenticates, "{personality}: a check must not authenticate");
        in_process::stop(gateway);
    }
}
