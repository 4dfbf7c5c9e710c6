//! Several upstreams: if one of them fails, clients reach their destination through another.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use ntlm_gateway::gateway::Gateway;
use ntlm_gateway::limits;
use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use support::client::{Answered, connect_name, echo_through};
use support::command::curl;
use support::gateway::GatewayOptions;
use support::in_process::{self, ACCOUNT, metric};
use support::listener::{BlackHole, Listener, Refusing};
use support::origin::HttpOrigin;
use support::scratch::{Scratch, wait_for};
use support::squid::{Squid, SquidOptions};
use support::tools::{skip_or_fail, skip_without_mounts};

const BOUND: Duration = Duration::from_secs(20);

fn options() -> StubOptions {
    let (domain, user, password) = ACCOUNT;
    StubOptions::default().account(domain, user, password)
}

fn stub(personality: Personality) -> StubServer {
    StubServer::start(options().personality(personality)).expect("a stub")
}

fn stub_on(address: SocketAddr) -> StubServer {
    StubServer::start(StubOptions { listen: address, ..options() }).expect("a stub on this address")
}

/// A gateway that uses the upstreams `first`, `second` …; `top` is prepended to its configuration file.
fn gateway_for(top: &str, upstreams: &[SocketAddr]) -> Gateway {
    let entry = |(name, address)| format!("[[upstreams]]\nname = '{name}'\naddress = '{address}'\n");
    let entries: String = ["first", "second"].into_iter().zip(upstreams).map(entry).collect();
    in_process::gateway_of(&format!("user = 'CORP\\alice'\n{top}\n{entries}"))
}

/// Opens a tunnel, checks that it works, and returns it with the time that it took to open.
#[track_caller]
fn open(gateway: &Gateway) -> (Answered, Duration) {
    let began = Instant::now();
    let answer = connect_name(in_process::address(gateway), "echo.test:7").expect("an answer");
    let took = began.elapsed();
    assert_eq!(answer.status(), 200, "{}", answer.head);
    assert_eq!(echo_through(&answer.stream, b"which way?").expect("an echo"), b"which way?");
    (answer, took)
}

fn upstream_metric(gateway: &Gateway, name: &str, upstream: &str) -> f64 {
    metric(gateway, name, &[("upstream", upstream)])
}

#[track_caller]
fn wait_until_up(gateway: &Gateway, upstream: &str) {
    let up = || (upstream_metric(gateway, "upstream_up", upstream) > 0.0).then_some(());
    assert!(wait_for(BOUND, up).is_some(), "{upstream} does not recover");
}

/// Three clients are served although the first upstream fails; then it is ejected and no longer tried.
#[track_caller]
fn assert_skipped_and_ejected(first: SocketAddr, within: Duration, top: &str) {
    let gateway = assert_skipped(first, within, top);
    assert_eq!(upstream_metric(&gateway, "upstream_up", "first"), 0.0);
    assert_eq!(upstream_metric(&gateway, "upstream_ejections_total", "first"), 1.0);
    in_process::stop(gateway);
}

#[track_caller]
fn assert_skipped(first: SocketAddr, within: Duration, top: &str) -> Gateway {
    let second = stub(Personality::Plain);
    // Checks must authenticate, because most of these upstreams accept connections.
    let top = format!("warm = 0\ncheck = 'handshake'\ncheck_target = 'echo.test:7'\n{top}");
    let gateway = gateway_for(&top, &[first, second.address()]);
    let took: Vec<Duration> = (0..3).map(|_| open(&gateway).1).collect();
    // A pause of a busy machine delays one of them, and does not reach what the gateway would wait without the reason
    // to give up.
    assert!(took.iter().any(|took| *took < within), "{took:?}");
    assert!(took.iter().all(|took| *took < limits::CONNECT_TIMEOUT), "{took:?}");
    assert_eq!(upstream_metric(&gateway, "upstream_up", "second"), 1.0);
    let dials = upstream_metric(&gateway, "dials_total", "first");
    let tunnels: Vec<Answered> = (0..10).map(|_| open(&gateway).0).collect();
    assert_eq!(upstream_metric(&gateway, "dials_total", "first"), dials, "it is not tried again");
    assert_eq!(upstream_metric(&gateway, "upstream_tunnels", "second"), 10.0);
    drop(tunnels);
    assert_eq!(second.counters().protocol_errors(), 0, "{}", second.counters());
    gateway
}

const AT_ONCE: Duration = Duration::from_secs(1);

#[test]
fn an_upstream_that_refuses_connections_is_skipped() {
    let first = Refusing::new();
    assert_skipped_and_ejected(first.address, AT_ONCE, "");
}

#[test]
fn an_upstream_that_drops_connection_attempts_is_skipped_within_a_second() {
    let first = BlackHole::new();
    assert_skipped_and_ejected(first.address, AT_ONCE, "");
}

#[test]
fn an_upstream_that_closes_every_connection_is_skipped() {
    let first = stub(Personality::ClosesOnAccept);
    assert_skipped_and_ejected(first.address(), AT_ONCE, "");
}

#[test]
fn an_upstream_that_never_answers_is_skipped_after_the_connect_timeout() {
    let first = stub(Personality::Silent);
    // It applies to the second as well, which must be able to keep to it on a busy machine.
    assert_skipped_and_ejected(first.address(), Duration::from_secs(2) + AT_ONCE, "timeouts.connect = '2s'");
}

#[test]
fn an_upstream_that_does_not_speak_http_is_skipped() {
    let first = Listener::start(|mut stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\nand so on").and_then(|()| stream.read(&mut [0; 1024]));
    });
    assert_skipped_and_ejected(first.address(), AT_ONCE, "");
}

#[test]
fn an_upstream_that_breaks_off_the_handshake_is_skipped() {
    for personality in [Personality::ChallengeThenClose, Personality::LyingLengths] {
        let first = stub(personality);
        assert_skipped_and_ejected(first.address(), AT_ONCE, "");
    }
}

#[test]
fn an_upstream_that_resets_instead_of_rejecting_is_skipped_and_not_retried() {
    let first = stub(Personality::ResetsMidHandshake);
    let gateway = assert_skipped(first.address(), AT_ONCE, "");
    assert_eq!(first.counters().authenticates, 1, "the reset may be a rejection: {}", first.counters());
    assert_eq!(upstream_metric(&gateway, "upstream_up", "first"), 1.0);
    in_process::stop(gateway);
}

#[test]
fn an_upstream_that_offers_no_usable_scheme_is_skipped() {
    let first = stub(Personality::BasicOnly);
    assert_skipped_and_ejected(first.address(), AT_ONCE, "");
}

#[test]
fn an_upstream_name_that_does_not_resolve_is_skipped() {
    let second = stub(Personality::Plain);
    let gateway = in_process::gateway(&format!("no-such-proxy.invalid:3128,{}", second.address()), &[]);
    for _ in 0..5 {
        let (_tunnel, took) = open(&gateway);
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    in_process::stop(gateway);
}

#[test]
fn an_upstreams_dead_address_is_skipped_and_the_working_one_is_preferred() {
    let (dead, hole, alive) = (Refusing::new(), BlackHole::new(), stub(Personality::Plain));
    for first in [dead.address, hole.address] {
        let upstreams = format!("[[upstreams]]\nname = 'only'\naddress = ['{first}', '{}']", alive.address());
        let gateway = in_process::gateway_of(&format!("user = 'CORP\\alice'\nwarm = 0\n{upstreams}"));
        let (_tunnel, took) = open(&gateway);
        assert!(took < limits::CONNECT_TIMEOUT, "{took:?}");
        let dials = upstream_metric(&gateway, "dials_total", "only");
        assert_eq!(dials, 2.0);
        (0..5).for_each(|_| drop(open(&gateway)));
        // Ten if each had tried the dead address first. On a busy machine the working one may be so slow that the next
        // address is tried as well.
        let more = upstream_metric(&gateway, "dials_total", "only") - dials;
        assert!((5.0..8.0).contains(&more), "expected the working address first, but there were {more} dials");
        assert_eq!(upstream_metric(&gateway, "upstream_up", "only"), 1.0);
        assert_eq!(upstream_metric(&gateway, "upstream_addresses", "only"), 2.0);
        in_process::stop(gateway);
    }
}

#[test]
fn an_upstream_that_recovers_takes_its_place_in_the_order_again() {
    let place = Refusing::new();
    let (first, second) = (stub_on(place.address), stub(Personality::Plain));
    let gateway = gateway_for("", &[place.address, second.address()]);
    open(&gateway);
    assert_eq!(first.stop().tunnels_opened, 1);
    for _ in 0..20 {
        open(&gateway);
    }
    assert_eq!(upstream_metric(&gateway, "upstream_up", "first"), 0.0);
    assert_eq!(second.counters().tunnels_opened, 20);
    let first = stub_on(place.address);
    let began = Instant::now();
    wait_until_up(&gateway, "first");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    for _ in 0..10 {
        open(&gateway);
    }
    assert_eq!((first.counters().tunnels_opened, second.counters().tunnels_opened), (10, 20));
    in_process::stop(gateway);
}

#[test]
fn clients_do_not_notice_when_pre_challenged_connections_die() {
    let (first, second) = (stub(Personality::Plain), stub(Personality::Plain));
    let gateway = gateway_for("warm = 4", &[first.address(), second.address()]);
    for _ in 0..6 {
        open(&gateway);
    }
    let ready = || (upstream_metric(&gateway, "warm_connections", "first") >= 1.0).then_some(());
    assert!(wait_for(BOUND, ready).is_some(), "no connection is pre-challenged");
    drop(first);
    for _ in 0..10 {
        open(&gateway);
    }
    assert_eq!(second.counters().tunnels_opened, 10);
    in_process::stop(gateway);
}

#[test]
fn clients_fail_fast_while_all_upstreams_are_down_until_one_recovers() {
    let places = [Refusing::new(), Refusing::new()];
    let addresses = places.each_ref().map(|place| place.address);
    let stubs = addresses.map(stub_on);
    let gateway = gateway_for("", &addresses);
    open(&gateway);
    drop(stubs);
    let ask = || connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
    let down = || {
        let answer = ask();
        assert_eq!(answer.status(), 502, "{}", answer.head);
        answer.field("proxy-status").is_some_and(|status| status.contains("no upstream is up")).then_some(())
    };
    assert!(wait_for(BOUND, down).is_some(), "they are never reported as down");
    // Long enough for checks to become rare if client requests did not trigger them.
    let until = Instant::now() + Duration::from_secs(6);
    let mut waits = Vec::new();
    while Instant::now() < until {
        let began = Instant::now();
        let answer = ask();
        let (took, detail) = (began.elapsed(), answer.field("proxy-status").unwrap_or_default());
        assert!(answer.status() == 502 && detail.contains("error=destination_unavailable"), "{}", answer.head);
        assert!(detail.contains("first: ") && detail.contains("second: "), "{detail}");
        waits.push(took);
        std::thread::sleep(Duration::from_millis(50));
    }
    waits.sort_unstable();
    assert!(waits[waits.len() / 2] < Duration::from_millis(300), "{waits:?}");
    let (status, why) = in_process::readyz(&gateway);
    assert!(status == 503 && why.starts_with("no upstream is up; "), "{status} {why}");

    let _second = stub_on(addresses[1]);
    let began = Instant::now();
    let served = || (ask().status() == 200).then_some(());
    assert!(wait_for(BOUND, served).is_some(), "no recovery");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(in_process::readyz(&gateway).0, 200);
    in_process::stop(gateway);
}

#[test]
fn a_handshake_check_restores_only_an_upstream_that_authenticates() {
    let first = stub(Personality::ClosesOnAccept);
    let gateway = gateway_for("warm = 0\ncheck = 'handshake'\ncheck_target = 'echo.test:7'", &[first.address()]);
    let ask = || connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer").status();
    while upstream_metric(&gateway, "upstream_up", "first") > 0.0 {
        assert_eq!(ask(), 502);
    }
    // It accepts connections, but its checks still fail.
    let taken = first.counters().connections_opened;
    assert!(wait_for(BOUND, || (first.counters().connections_opened >= taken + 2).then_some(())).is_some());
    assert_eq!(upstream_metric(&gateway, "upstream_up", "first"), 0.0);
    first.set_personality(Personality::Plain);
    wait_until_up(&gateway, "first");
    assert_eq!(first.counters().accepted, 1, "by the check");
    assert_eq!(metric(&gateway, "guard_state", &[("state", "proven")]), 1.0);
    open(&gateway);
    in_process::stop(gateway);
}

#[test]
fn handshake_checks_stay_within_the_guards_budget_for_wrong_passwords() {
    let first = stub(Personality::ClosesOnAccept);
    let (domain, user, _) = ACCOUNT;
    first.set_password(domain, user, "changed meanwhile");
    let gateway = gateway_for("warm = 0\ncheck = 'handshake'\ncheck_target = 'echo.test:7'", &[first.address()]);
    let ask = || connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
    for round in 0..3 {
        first.set_personality(Personality::ClosesOnAccept);
        // Once the guard is closed the gateway no longer dials, so only the first round can eject it.
        while round == 0 && upstream_metric(&gateway, "upstream_up", "first") > 0.0 {
            assert_eq!(ask().status(), 502);
        }
        first.set_personality(Personality::Plain);
        wait_until_up(&gateway, "first");
        for _ in 0..20 {
            let answer = ask();
            assert!(answer.status() == 502 && answer.head.contains("not tried again"), "{}", answer.head);
        }
    }
    assert_eq!(first.counters().authenticates, 1, "{}", first.counters());
    assert_eq!(in_process::readyz(&gateway).0, 503);
    in_process::stop(gateway);
}

#[test]
fn balance_follows_the_weights_and_redistributes_a_dead_upstreams_share() {
    let (light, heavy, dead) = (stub(Personality::Plain), stub(Personality::Plain), Refusing::new());
    let entry = |name: &str, weight, address: SocketAddr| {
        format!("[[upstreams]]\nname = '{name}'\naddress = '{address}'\nweight = {weight}\n")
    };
    let two = entry("light", 1, light.address()) + &entry("heavy", 3, heavy.address());
    let three = entry("dead", 4, dead.address) + &two;
    for upstreams in [two, three] {
        let gateway = in_process::gateway_of(&format!("user = 'CORP\\alice'\norder = 'balance'\n{upstreams}"));
        let before = (light.counters().tunnels_opened, heavy.counters().tunnels_opened);
        let tunnels: Vec<Answered> = (0..40).map(|_| open(&gateway).0).collect();
        let after = (light.counters().tunnels_opened, heavy.counters().tunnels_opened);
        assert_eq!((after.0 - before.0, after.1 - before.1), (10, 30));
        let open = |upstream| upstream_metric(&gateway, "upstream_tunnels", upstream);
        assert_eq!((open("light"), open("heavy"), open("dead")), (10.0, 30.0, 0.0));
        drop(tunnels);
        let all_gone = || (open("light") + open("heavy") == 0.0).then_some(());
        assert!(wait_for(BOUND, all_gone).is_some(), "closed tunnels are still counted");
        in_process::stop(gateway);
    }
}

#[test]
fn a_thousand_clients_get_tunnels_while_one_of_two_upstreams_dies() {
    const CLIENTS: usize = 1000;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("descriptors");
    let threads = NonZeroUsize::new(2).expect("two");
    let [first, second] = [(); 2].map(|()| StubServer::start(StubOptions { threads, ..options() }).expect("a stub"));
    let mut options = GatewayOptions::through(first.address());
    options.upstreams.push(second.address().to_string());
    options.args = ["--order", "balance"].map(String::from).into();
    let gateway = support::gateway::Gateway::start(&options);
    let (address, opened, go) = (gateway.address(), AtomicUsize::new(0), Barrier::new(CLIENTS));
    let failures: Vec<String> = std::thread::scope(|scope| {
        let client = || {
            go.wait();
            let answer = connect_name(address, "echo.test:7").map_err(|error| error.to_string());
            opened.fetch_add(1, Ordering::Relaxed);
            answer.and_then(|answer| if answer.status() == 200 { Ok(()) } else { Err(answer.head) })
        };
        let spawn =
            |_| std::thread::Builder::new().stack_size(128 * 1024).spawn_scoped(scope, client).expect("a thread");
        let clients: Vec<_> = (0..CLIENTS).map(spawn).collect();
        let under_way = || (opened.load(Ordering::Relaxed) >= CLIENTS / 5).then_some(());
        assert!(wait_for(BOUND, under_way).is_some());
        drop(first);
        clients.into_iter().filter_map(|client| client.join().expect("a client").err()).collect()
    });
    assert!(failures.is_empty(), "{} of {CLIENTS} failed: {:?}", failures.len(), failures.first());
    assert_eq!(second.counters().protocol_errors(), 0, "{}", second.counters());
}

#[test]
fn curl_does_not_notice_when_one_of_two_squids_is_killed() {
    require_tools!("squid", "ntlm_auth", "curl", "openssl", "python3");
    let (mut first, second) = (Squid::start(&SquidOptions::default()), Squid::start(&SquidOptions::default()));
    let origin = HttpOrigin::https();
    let mut options = GatewayOptions::through(first.address());
    options.upstreams.push(second.address().to_string());
    let gateway = support::gateway::Gateway::start(&options);
    let (proxy, certificate, url) = (gateway.url(), origin.certificate(), origin.url("/bytes/1000?seed=4"));
    let fetch = || {
        let args = ["--fail", "--proxy", &proxy, "--cacert", &certificate, &url];
        curl(BOUND, args).expect_success("through two Squids").stdout
    };
    let expected = fetch();
    let mut got = 1;
    for round in 0..30 {
        if round == 15 {
            first.kill();
        }
        assert_eq!(fetch(), expected, "round {round}");
        got += 1;
    }
    let granted = |squid: &Squid| squid.log().iter().filter(|line| line.status == "TCP_TUNNEL/200").count();
    let both = || (granted(&second) >= 15 && granted(&first) + granted(&second) >= got - 1).then_some(());
    assert!(wait_for(BOUND, both).is_some(), "{} and {}", granted(&first), granted(&second));
}

/// A name server that answers queries for A records late, with a delay per name, and has no other records.
struct SlowNameServer {
    address: Ipv4Addr,
    ended: Arc<AtomicBool>,
}

impl SlowNameServer {
    /// `None` where its port may not be taken.
    fn start(names: &'static [(&'static str, Ipv4Addr, Duration)]) -> Option<Self> {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 53, high.clamp(1, 254), low.clamp(1, 254));
        let socket = UdpSocket::bind((address, 53)).ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while !seen.load(Ordering::Acquire) {
                let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
                let (question, socket) = (question[..length].to_vec(), socket.try_clone().expect("a socket"));
                std::thread::spawn(move || {
                    let known = names.iter().find(|(name, _, _)| asks_for(&question, name));
                    known.inspect(|(_, _, after)| std::thread::sleep(*after));
                    let _ = socket.send_to(&dns_answer(&question, known.map(|(_, address, _)| *address)), from);
                });
            }
        });
        Some(Self { address, ended })
    }
}

impl Drop for SlowNameServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

fn asks_for(question: &[u8], name: &str) -> bool {
    let mut labels = Vec::new();
    for label in name.split('.') {
        labels.push(u8::try_from(label.len()).expect("a short label"));
        labels.extend_from_slice(label.as_bytes());
    }
    question.get(12..).is_some_and(|rest| rest.to_ascii_lowercase().starts_with(&labels))
}

/// RFC 1035 §4: repeats the question and appends the address if it asks for one that exists.
fn dns_answer(question: &[u8], address: Option<Ipv4Addr>) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).expect("the end of the name") + 5;
    let wants_address = question[end - 4..end] == [0, 1, 0, 1];
    let found = address.filter(|_| wants_address);
    let mut answer = question[..end].to_vec();
    // A response, recursion available; NXDOMAIN for an unknown name.
    (answer[2], answer[3]) = (0x81, if address.is_some() { 0x80 } else { 0x83 });
    answer[6..12].copy_from_slice(&[0, u8::from(found.is_some()), 0, 0, 0, 0]);
    if let Some(address) = found {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    answer
}

#[test]
fn a_client_waits_until_the_first_upstream_name_resolves() {
    const SECOND: Duration = Duration::from_secs(1);
    static NAMES: &[(&str, Ipv4Addr, Duration)] = &[
        ("dead-proxy", Ipv4Addr::new(127, 0, 0, 1), SECOND),
        ("slow-proxy", Ipv4Addr::new(127, 0, 0, 1), Duration::from_secs(3)),
    ];
    if skip_without_mounts() {
        return;
    }
    let Some(names) = SlowNameServer::start(NAMES) else {
        skip_or_fail("the port of a name server is not available");
        return;
    };
    let (scratch, dead, alive) = (Scratch::new("names"), Refusing::new(), stub(Personality::Plain));
    let resolv = scratch.write("resolv.conf", format!("nameserver {}\noptions timeout:10 attempts:1\n", names.address));
    // The slower name comes first: the client starts to wait for it before the other has resolved.
    let mut options = GatewayOptions::through(alive.address());
    options.upstreams =
        vec![format!("slow-proxy.test:{}", alive.address().port()), format!("dead-proxy.test:{}", dead.address.port())];
    options.mounts = vec![(resolv, "/etc/resolv.conf")];
    let began = Instant::now();
    let gateway = support::gateway::Gateway::start(&options);
    let answer = connect_name(gateway.address(), "echo.test:7").expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    let took = began.elapsed();
    assert!(took >= 2 * SECOND && took < 9 * SECOND, "{took:?}");
}

#[test]
fn an_upstreams_new_address_is_used_without_a_restart() {
    if skip_without_mounts() {
        return;
    }
    let scratch = Scratch::new("hosts");
    let old = stub_on(SocketAddr::from(([127, 0, 3, 1], 0)));
    let port = old.address().port();
    let new = stub_on(SocketAddr::from(([127, 0, 3, 2], port)));
    let hosts = scratch.write("hosts", "127.0.0.1 localhost\n");
    let mut options = GatewayOptions::through(old.address());
    options.upstreams = vec![format!("moving-proxy.invalid:{port}")];
    options.args = ["--warm", "0"].map(String::from).into();
    options.mounts = vec![(hosts.clone(), "/etc/hosts")];
    let gateway = support::gateway::Gateway::start(&options);
    let ask = || connect_name(gateway.address(), "echo.test:7").expect("an answer").status();
    assert_eq!(ask(), 502, "the name does not exist yet");

    // Written in place, because the mount is bound to the file and not to its name.
    std::fs::write(&hosts, "127.0.0.1 localhost\n127.0.3.1 moving-proxy.invalid\n").expect("the hosts");
    assert!(wait_for(Duration::from_secs(60), || (ask() == 200).then_some(())).is_some(), "the name never resolves");
    assert_eq!(new.counters().connections_opened, 0);

    std::fs::write(&hosts, "127.0.0.1 localhost\n127.0.3.2 moving-proxy.invalid\n").expect("the hosts");
    let moved = || (ask() == 200 && new.counters().tunnels_opened > 0).then_some(());
    assert!(wait_for(Duration::from_secs(60), moved).is_some(), "the new address is never used");
    let before = old.counters().tunnels_opened;
    assert!((0..5).all(|_| ask() == 200));
    assert_eq!(old.counters().tunnels_opened, before);
}

fn tunnel_of(gateway: &support::gateway::Gateway) -> Answered {
    let answer = connect_name(gateway.address(), "echo.test:7").expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    answer
}

#[test]
fn a_reload_adds_and_removes_upstreams_and_keeps_open_tunnels() {
    let stubs = [(); 3].map(|()| stub(Personality::Plain));
    let scratch = Scratch::new("reload");
    let write = |named: &[(&str, usize)]| {
        let entry = |(name, stub): &(&str, usize)| {
            format!("[[upstreams]]\nname = '{name}'\naddress = '{}'\n", stubs[*stub].address())
        };
        scratch.write("gateway.toml", named.iter().map(entry).collect::<String>())
    };
    let file = write(&[("a", 0)]);
    let mut options = GatewayOptions::through(stubs[0].address());
    options.upstreams.clear();
    options.args = vec!["--config".into(), file.display().to_string()];
    let gateway = support::gateway::Gateway::start(&options);
    let mut tunnels: Vec<Answered> = vec![tunnel_of(&gateway)];
    let mut reload = |named: &[(&str, usize)], round: f64, goes_to: usize| {
        write(named);
        gateway.signal(Signal::HUP);
        let applied =
            || gateway.metric("ntlm_gateway_config_reloads_total", &[("outcome", "applied")]).filter(|n| *n >= round);
        assert!(wait_for(BOUND, applied).is_some(), "{named:?}");
        let before = stubs.each_ref().map(|stub| stub.counters().tunnels_opened);
        tunnels.push(tunnel_of(&gateway));
        let after = stubs.each_ref().map(|stub| stub.counters().tunnels_opened);
        let mut expected = before;
        expected[goes_to] += 1;
        assert_eq!(after, expected, "{named:?}");
        for tunnel in &tunnels {
            assert_eq!(echo_through(&tunnel.stream, b"still here").expect("an echo"), b"still here");
        }
    };
    // Added in front, removed, moved under the same name, and all in another order.
    reload(&[("b", 1), ("a", 0)], 1.0, 1);
    reload(&[("a", 0)], 2.0, 0);
    reload(&[("a", 2)], 3.0, 2);
    reload(&[("c", 1), ("a", 2), ("b", 0)], 4.0, 1);
    let up = |upstream| gateway.metric("ntlm_gateway_upstream_up", &[("upstream", upstream)]);
    assert_eq!([up("a"), up("b"), up("c")], [Some(1.0); 3]);
    reload(&[("a", 2)], 5.0, 2);
    assert_eq!([up("a"), up("b"), up("c")], [Some(1.0), None, None], "removed upstreams have no metrics");
    // The identity has not changed, so the guard keeps its state.
    assert_eq!(gateway.metric("ntlm_gateway_guard_state", &[("state", "proven")]), Some(1.0));
}
