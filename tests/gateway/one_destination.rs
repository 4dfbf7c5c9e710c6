//! A destination that the upstream cuts off by policy is that destination's failure; the upstream stays in use for all others.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use support::client::{connect, connect_name};
use support::gateway::{Gateway, GatewayOptions};
use support::in_process::{self, ACCOUNT, metric};
use support::listener::Listener;
use support::origin::echo_origin;
use support::scratch::wait_for;
use support::squid::{Squid, SquidOptions};

const BOUND: Duration = Duration::from_secs(20);

/// Squid resets the client's connection for `blocked.test`, whatever credentials the request carries.
const RESETS: &str = "acl blocked dstdomain .blocked.test\ndeny_info TCP_RESET blocked\nhttp_access deny blocked";

/// Who resets connections for `blocked.test`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resets {
    /// Squid, by its first rule: at the first leg, or at the second on a connection that was pre-challenged.
    Squid,
    /// A filter on the way to Squid, at the second leg.
    BehindLogon,
}

/// A filter in front of a proxy that cuts connections on which an AUTHENTICATE_MESSAGE goes to `blocked.test`.
fn filter(proxy: SocketAddr) -> Listener {
    Listener::start(move |mut near| {
        let Ok(mut far) = TcpStream::connect(proxy) else { return };
        let (Ok(mut back_from), Ok(mut back_to)) = (far.try_clone(), near.try_clone()) else { return };
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut back_from, &mut back_to);
            let _ = back_to.shutdown(Shutdown::Both);
        });
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = near.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..count]).to_lowercase();
            // Base64 of "NTLMSSP\0" and the first byte of the MessageType 3, in small letters.
            let is_blocked = text.contains(".blocked.test") || text.contains(" blocked.test");
            if (is_blocked && text.contains("tlrmtvntuaad")) || far.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = (near.shutdown(Shutdown::Both), far.shutdown(Shutdown::Both));
    })
}

struct Rig {
    _squids: Vec<Squid>,
    _filters: Vec<Listener>,
    gateway: Gateway,
    origin: Listener,
}

impl Rig {
    fn new(squids: usize, resets: Resets, args: &[&str]) -> Self {
        let extra = if resets == Resets::Squid { RESETS } else { "" };
        let start = |_| Squid::start(&SquidOptions { extra: extra.to_owned(), ..SquidOptions::default() });
        let squids: Vec<Squid> = (0..squids).map(start).collect();
        let filters: Vec<Listener> = match resets {
            Resets::Squid => Vec::new(),
            Resets::BehindLogon => squids.iter().map(|squid| filter(squid.address())).collect(),
        };
        let ways = match resets {
            Resets::Squid => squids.iter().map(Squid::address).collect::<Vec<_>>(),
            Resets::BehindLogon => filters.iter().map(Listener::address).collect(),
        };
        let mut options = GatewayOptions::through(ways[0]);
        options.upstreams = ways.iter().map(ToString::to_string).collect();
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

/// A blocked request every 0.3 s beside good ones, then blocked ones alone.
#[track_caller]
fn serves_all_others(squids: usize, resets: Resets, order: &str) {
    let rig = Rig::new(squids, resets, &["--order", order]);
    assert_eq!(rig.good(), 200);
    let ended = AtomicBool::new(false);
    let (asked, failed) = std::thread::scope(|scope| {
        let good = scope.spawn(|| {
            let (mut asked, mut failed) = (0, 0);
            while !ended.load(Ordering::Acquire) {
                asked += 1;
                failed += usize::from(rig.good() != 200);
                std::thread::sleep(Duration::from_millis(5));
            }
            (asked, failed)
        });
        let blocked: Vec<u16> = (0..12)
            .map(|number| {
                std::thread::sleep(Duration::from_millis(300));
                // The port and the letter case make no other destination.
                rig.blocked(["blocked.test:443", "Blocked.TEST:8443"][number % 2])
            })
            .collect();
        ended.store(true, Ordering::Release);
        assert_eq!(blocked, [502; 12]);
        good.join().expect("a client")
    });
    assert!(asked > 50 && failed == 0, "{failed} of {asked} good requests failed");
    for _ in 0..8 {
        assert_eq!(rig.blocked("blocked.test:443"), 502);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(rig.good(), 200, "after blocked requests alone");
    assert_eq!(rig.ejections(), 0.0);
}

#[test]
fn a_destination_that_squid_resets_does_not_eject_a_single_squid() {
    require_tools!("squid", "ntlm_auth");
    serves_all_others(1, Resets::Squid, "failover");
}

#[test]
fn a_destination_cut_off_after_the_logon_does_not_eject_a_single_squid() {
    require_tools!("squid", "ntlm_auth");
    serves_all_others(1, Resets::BehindLogon, "failover");
}

#[test]
fn a_destination_that_two_squids_reset_ejects_neither() {
    require_tools!("squid", "ntlm_auth");
    serves_all_others(2, Resets::Squid, "failover");
    serves_all_others(2, Resets::Squid, "balance");
    for order in ["failover", "balance"] {
        serves_all_others(2, Resets::BehindLogon, order);
    }
}

#[test]
fn many_blocked_hosts_do_not_keep_a_good_request_from_a_single_squid() {
    require_tools!("squid", "ntlm_auth");
    let rig = Rig::new(1, Resets::Squid, &[]);
    assert_eq!(rig.good(), 200);
    for round in 0..4 {
        let began = Instant::now();
        // Long enough to look like an outage: nothing succeeds meanwhile.
        for number in 0.. {
            rig.blocked(&format!("h{number}.blocked.test:443"));
            if began.elapsed() > Duration::from_millis(1_500) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(rig.good(), 200, "round {round}");
    }
}

fn stub() -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub")
}

/// No connection alone brings it back.
const BY_HANDSHAKE: [(&str, &str); 3] = [("warm", "0"), ("check", "handshake"), ("check_target", "echo.test:7")];

#[test]
fn an_ejected_single_upstream_is_tried_at_a_bounded_rate_until_it_works() {
    let upstream = stub();
    let gateway = in_process::gateway(&upstream.address().to_string(), &BY_HANDSHAKE);
    let ask = |host: &str| connect_name(in_process::address(&gateway), host).expect("an answer");
    assert_eq!(ask("echo.test:7").status(), 200);
    upstream.set_personality(Personality::BasicOnly);
    let is_up = || metric(&gateway, "upstream_up", &[]) > 0.0;
    let down = || {
        assert_eq!(ask("echo.failed.test:7").status(), 502);
        (!is_up()).then_some(())
    };
    assert!(wait_for(BOUND, down).is_some(), "it is never ejected");
    // Clients are told at once, but for those that try it: for a destination that has failed, one a second.
    let dials = || metric(&gateway, "dials_total", &[]);
    let (before, began) = (dials(), Instant::now());
    while began.elapsed() < Duration::from_millis(1_200) {
        assert_eq!(ask("echo.failed.test:7").status(), 502);
    }
    // Each tries a few connections.
    let tried = dials() - before;
    assert!((1.0..=8.0).contains(&tried), "{tried} connections");

    // No check comes for a while: the last one has just failed.
    let failed = || upstream.counters().connections_opened;
    let known = failed();
    assert!(wait_for(BOUND, || (failed() > known).then_some(())).is_some(), "no check");
    upstream.set_personality(Personality::Plain);
    let began = Instant::now();
    let served = || (ask("echo.other.test:7").status() == 200).then_some(());
    assert!(wait_for(BOUND, served).is_some(), "no client is sent there");
    assert!(began.elapsed() < Duration::from_millis(800), "{:?}", began.elapsed());
    assert!(is_up());
    in_process::stop(gateway);
}

#[test]
fn clients_do_not_notice_an_upstream_that_breaks_after_its_challenge() {
    let (broken, whole) = (stub(), stub());
    let upstreams = [&broken, &whole].map(|stub| SocketAddr::to_string(&stub.address())).join(",");
    let gateway = in_process::gateway(&upstreams, &BY_HANDSHAKE);
    let ask = || connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer").status();
    for personality in [Personality::ClosesOnAccept, Personality::Plain] {
        broken.set_personality(personality);
        assert_eq!(ask(), 200);
    }
    broken.set_personality(Personality::ResetsMidHandshake);
    assert!((0..10).all(|_| ask() == 200));
    in_process::stop(gateway);
}

#[test]
fn a_check_ejects_a_single_upstream_that_fails_before_its_challenge() {
    for personality in [Personality::ClosesOnAccept, Personality::LyingLengths, Personality::BasicOnly] {
        let upstream = stub();
        let gateway = in_process::gateway(&upstream.address().to_string(), &BY_HANDSHAKE);
        let ask = || connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer").status();
        assert_eq!(ask(), 200);
        let proofs = upstream.counters().authenticates;
        upstream.set_personality(personality);
        let down = || {
            assert_eq!(ask(), 502, "{personality}");
            (metric(&gateway, "upstream_up", &[]) == 0.0).then_some(())
        };
        assert!(wait_for(Duration::from_secs(3), down).is_some(), "{personality} is never ejected");
        assert_eq!(upstream.counters().authenticates, proofs, "{personality}: a probe proves nothing");
        in_process::stop(gateway);
    }
}
