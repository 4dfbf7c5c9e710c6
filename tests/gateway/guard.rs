//! What the credential guard concludes from answers, mostly those of a real Squid that verifies NTLM with `ntlm_auth`.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ntlm_gateway::limits;
use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use rustix::process::Signal;
use support::client::{Answered, ask, connect, connect_name, connect_within, read_head};
use support::command::curl;
use support::gateway::{Gateway, GatewayOptions};
use support::in_process::{self, ACCOUNT, metric};
use support::listener::{BlackHole, Listener};
use support::origin::echo_origin;
use support::scratch::{Scratch, wait_for};
use support::squid::{LoggedCredentials, Squid, SquidOptions};
use support::{PASSWORD, USER};

const BOUND: Duration = Duration::from_secs(30);
const WRONG: &str = "N0t-the-secret";

fn squid_with(extra: String) -> Squid {
    Squid::start(&SquidOptions { extra, ..SquidOptions::default() })
}

/// The number of AUTHENTICATE_MESSAGEs that Squid's helper has rejected.
fn rejected(squid: &Squid) -> usize {
    squid
        .log()
        .iter()
        .filter(|line| line.credentials == LoggedCredentials::Authenticate && line.status == "TCP_DENIED/407")
        .count()
}

fn with_password(squid: &Squid, password: &str) -> Gateway {
    let mut options = GatewayOptions::through(squid.address());
    options.password = password.to_owned();
    Gateway::start(&options)
}

/// An origin that answers every request head with the same bytes.
fn origin_that_sends(answer: String) -> Listener {
    Listener::start(move |mut stream| {
        if read_head(&mut stream).is_ok() {
            // The client compares what arrives, so a failure here shows there.
            let _ = stream.write_all(answer.as_bytes());
        }
    })
}

fn get(gateway: SocketAddr, origin: SocketAddr, padding: usize) -> Answered {
    let pad = "p".repeat(padding);
    let request = format!("GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nX-Pad: {pad}\r\n\r\n");
    ask(gateway, request.as_bytes()).expect("an answer")
}

#[track_caller]
fn expect_served(gateway: &Gateway) {
    let origin = echo_origin();
    let answer = connect_within(BOUND, gateway.address(), origin.address(), b"").expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
}

#[test]
fn answers_sent_before_the_password_is_checked_do_not_open_the_guard() {
    require_tools!("squid", "ntlm_auth");
    let squid = squid_with("request_header_max_size 8 KB".into());
    let gateway = with_password(&squid, WRONG);
    let origin = echo_origin();
    let mut too_large = 0;
    // Within this range there is a padding with which only the AUTHENTICATE leg exceeds the limit.
    for padding in (7_000..8_000).step_by(25) {
        let answer = get(gateway.address(), origin.address(), padding);
        too_large += usize::from(answer.status() == 431);
        let fresh = echo_origin();
        assert_ne!(connect(gateway.address(), fresh.address(), b"").expect("an answer").status(), 200);
    }
    assert!(rejected(&squid) <= 3, "{} wrong passwords", rejected(&squid));
    // With the right password the same requests must receive a 431; otherwise the test shows nothing.
    let right = with_password(&squid, PASSWORD);
    expect_served(&right);
    for padding in (7_000..8_000).step_by(25) {
        too_large += usize::from(get(right.address(), origin.address(), padding).status() == 431);
    }
    assert!(too_large > 0, "no answer was sent before the password was checked");
}

#[test]
fn unreadable_answers_after_an_accepted_logon_do_not_close_the_guard() {
    require_tools!("squid", "ntlm_auth");
    let cookies: String = (0..150).map(|number| format!("Set-Cookie: c{number}=v\r\n")).collect();
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(40);
    let answers = [
        format!("HTTP/1.1 200 OK\r\n{cookies}Content-Length: 0\r\nConnection: close\r\n\r\n"),
        format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\nConnection: close\r\n\r\n", "x".repeat(60_000)),
    ];
    for answer in answers {
        let squid = squid_with("reply_header_max_size 128 KB".into());
        let gateway = with_password(&squid, PASSWORD);
        let origin = origin_that_sends(answer);
        for _ in 0..3 {
            get(gateway.address(), origin.address(), 0);
        }
        expect_served(&gateway);
        assert_eq!(rejected(&squid), 0);
    }
}

#[test]
fn clients_that_give_up_on_a_black_hole_do_not_close_the_guard() {
    require_tools!("squid", "ntlm_auth");
    let squid = squid_with(String::new());
    let gateway = with_password(&squid, PASSWORD);
    let black_hole = BlackHole::new();
    for _ in 0..3 {
        let given_up = connect_within(Duration::from_millis(300), gateway.address(), black_hole.address, b"");
        assert!(given_up.is_err(), "the black hole answered");
    }
    let began = Instant::now();
    expect_served(&gateway);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn clients_that_give_up_before_the_verdict_do_not_multiply_attempts() {
    require_tools!("squid", "ntlm_auth");
    let squid = squid_with(String::new());
    let gateway = with_password(&squid, WRONG);
    let until = Instant::now() + BOUND;
    // Forty, and on a busy machine more: until one of them stays long enough for an attempt.
    for number in 0.. {
        if number >= 40 && (rejected(&squid) > 0 || Instant::now() > until) {
            break;
        }
        let origin = echo_origin();
        let mut stream = TcpStream::connect(gateway.address()).expect("the gateway");
        let target = origin.address();
        write!(stream, "POST http://{target}/ HTTP/1.1\r\nHost: {target}\r\nContent-Length: 100000\r\n\r\nabc")
            .expect("write");
        // Gives the gateway time to authenticate; then the client resets the connection in the middle of its body.
        std::thread::sleep(Duration::from_millis(30));
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a reset");
    }
    assert!((1..=3).contains(&rejected(&squid)), "{} wrong passwords: {:#?}", rejected(&squid), squid.log());
}

#[test]
fn a_407_from_an_origin_or_a_policy_does_not_close_the_guard() {
    require_tools!("squid", "ntlm_auth");
    let (first, second) = (echo_origin(), echo_origin());
    let ports = format!("{} {}", first.address().port(), second.address().port());
    let squid = squid_with(format!(
        "acl forbidden port {ports}\nacl blocked dstdomain .blocked.test\n\
         http_access deny forbidden authenticated\nhttp_access deny blocked authenticated"
    ));
    let gateway = with_password(&squid, PASSWORD);
    expect_served(&gateway);

    let own_407 = "HTTP/1.1 407 Not Here\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmine";
    for _ in 0..2 {
        let origin = origin_that_sends(own_407.into());
        let mut answer = get(gateway.address(), origin.address(), 0);
        assert_eq!(answer.status(), 407, "the origin's answer must reach the client: {}", answer.head);
        let mut body = [0; 4];
        answer.stream.read_exact(&mut body).expect("its body");
        assert_eq!(&body, b"mine");
        expect_served(&gateway);
    }
    for _ in 0..3 {
        for target in ["a.blocked.test:443", "A.blocked.test:443", "a.blocked.test.:443", "b.blocked.test:443"] {
            assert_eq!(connect_name(gateway.address(), target).expect("an answer").status(), 502, "{target}");
            expect_served(&gateway);
        }
        for origin in [&first, &second] {
            assert_eq!(connect(gateway.address(), origin.address(), b"").expect("an answer").status(), 502);
            expect_served(&gateway);
        }
    }
    assert_eq!(rejected(&squid), 4, "one for each forbidden destination: {:#?}", squid.log());
}

#[test]
fn clients_that_wait_for_the_guard_occupy_no_helper_of_the_proxy() {
    require_tools!("squid", "ntlm_auth", "curl", "python3");
    // Waiting clients would keep the helpers until the first client's attempt no longer delays them. A busy machine may
    // be that slow as well, but not each time.
    let mut waits = Vec::new();
    let is_short = |wait: &Duration| *wait < limits::GUARD_PENDING_WAIT.mul_f64(0.75);
    while waits.len() < 3 && !waits.last().is_some_and(is_short) {
        waits.push(wait_beside_clients_that_wait_for_the_guard());
    }
    assert!(waits.last().is_some_and(is_short), "{waits:?}");
}

/// How long a client of the proxy waits while thirty clients of the gateway wait for the verdict about its password.
fn wait_beside_clients_that_wait_for_the_guard() -> Duration {
    let squid = Squid::start(&SquidOptions { helpers: 5, ..SquidOptions::default() });
    let gateway = with_password(&squid, PASSWORD);
    let (black_hole, origin) = (BlackHole::new(), support::origin::HttpOrigin::http());
    std::thread::scope(|scope| {
        let first = || connect_within(Duration::from_secs(1), gateway.address(), black_hole.address, b"");
        let first_client = scope.spawn(first);
        assert!(
            wait_for(BOUND, || (squid.count(LoggedCredentials::Negotiate) > 0).then_some(())).is_some(),
            "the first client does not authenticate"
        );
        let waiting: Vec<_> =
            (0..30).map(|_| scope.spawn(|| connect(gateway.address(), origin.address(), b""))).collect();
        let began = Instant::now();
        let login = format!("CORP\\{USER}:{PASSWORD}");
        let proxy = format!("http://{}", squid.address());
        let args = ["--proxy-ntlm", "--proxy", &proxy, "--proxy-user", &login, "--fail", &origin.url("/bytes/10")];
        curl(BOUND, args).expect_success("a client that does not use the gateway");
        let waited = began.elapsed();
        assert!(first_client.join().expect("the first client").is_err(), "the black hole answered");
        for client in waiting {
            assert_eq!(client.join().expect("a client").expect("an answer").status(), 200);
        }
        waited
    })
}

#[test]
fn nine_identities_of_one_account_share_one_budget() {
    require_tools!("squid", "ntlm_auth");
    let (squid, scratch) = (squid_with(String::new()), Scratch::new("one-account"));
    let entry = |number: usize| {
        let password = scratch.write(&format!("password-{number}"), format!("{WRONG}-{number}"));
        let domain = ["CORP", "corp", "Corp"][number % 3];
        format!(
            "[[identities]]\nname = 'i{number}'\nuser = '{domain}\\alice'\npassword_file = '{}'\nclients = ['127.0.1.{number}']\n",
            password.display()
        )
    };
    let identities: String = (1..=9).map(entry).collect();
    let gateway = in_process::gateway_of(&format!("upstream = '{}'\n{identities}", squid.address()));
    let origin = echo_origin();
    std::thread::scope(|scope| {
        for number in 1..=9 {
            let (gateway, target) = (in_process::address(&gateway), origin.address().to_string());
            scope.spawn(move || {
                let from = format!("127.0.1.{number}").parse().expect("an address");
                support::client::connect_name_from(from, gateway, &target).expect("an answer")
            });
        }
    });
    assert!((1..=3).contains(&rejected(&squid)), "{} wrong passwords", rejected(&squid));
    in_process::stop(gateway);
}

#[test]
fn a_secret_that_alternates_between_wrong_values_has_one_budget() {
    require_tools!("squid", "ntlm_auth");
    let squid = squid_with(String::new());
    let gateway = with_password(&squid, WRONG);
    for round in 0..12 {
        let origin = echo_origin();
        assert_eq!(connect(gateway.address(), origin.address(), b"").expect("an answer").status(), 502);
        gateway.write_password(if round % 2 == 0 { "N0t-this-one-either" } else { WRONG });
        gateway.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(150));
    }
    // Written in pieces, as an editor might.
    for length in 1..8 {
        gateway.write_password(&"wrong-too"[..length]);
        gateway.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(100));
        let origin = echo_origin();
        assert_eq!(connect(gateway.address(), origin.address(), b"").expect("an answer").status(), 502);
    }
    assert!((2..=3).contains(&rejected(&squid)), "{} wrong passwords", rejected(&squid));
}

fn stub(personality: Personality) -> StubServer {
    let (domain, user, password) = ACCOUNT;
    let options = StubOptions::default().account(domain, user, password).personality(personality);
    StubServer::start(options).expect("a stub")
}

#[test]
fn a_rejecting_upstream_next_to_an_accepting_one_does_not_close_the_guard() {
    let (good, broken) = (stub(Personality::Plain), stub(Personality::Refuses));
    let entry = |name: &str, address| format!("[[upstreams]]\nname = '{name}'\naddress = '{address}'\n");
    let upstreams = entry("broken", broken.address()) + &entry("good", good.address());
    let gateway = in_process::gateway_of(&format!("user = 'CORP\\alice'\norder = 'balance'\nwarm = 0\n{upstreams}"));
    let mut failed = Vec::new();
    for number in 0..100 {
        let answer =
            connect_name(in_process::address(&gateway), &format!("echo.test:{}", 7 + number)).expect("an answer");
        failed.extend((answer.status() != 200).then_some((number, answer.head)));
    }
    // Until one upstream has accepted, nothing shows that the other one is at fault.
    assert!(failed.len() <= 1, "{failed:?}");
    assert!(broken.counters().refused <= 2, "one attempt must be left for the other upstream: {}", broken.counters());
    in_process::stop(gateway);
}

#[test]
fn a_proxy_that_resets_instead_of_rejecting_costs_at_most_three_attempts() {
    let stub = stub(Personality::Plain);
    let gateway = in_process::gateway(&stub.address().to_string(), &[("warm", "2")]);
    let open =
        |number: u16| connect_name(in_process::address(&gateway), &format!("echo.test:{number}")).expect("an answer");
    assert_eq!(open(7).status(), 200);
    let before = stub.counters().authenticates;
    stub.set_personality(Personality::ResetsMidHandshake);
    let mut accepted = 0;
    for number in 0..60 {
        accepted += u64::from(open(8 + number).status() == 200);
        std::thread::sleep(Duration::from_millis(20));
    }
    // Only on connections that were pre-challenged before the change.
    assert!(accepted <= 2, "{accepted} were accepted");
    let tried = stub.counters().authenticates - before - accepted;
    assert!((1..=3).contains(&tried), "{tried} attempts: {}", stub.counters());
    in_process::stop(gateway);
}

#[test]
fn a_stale_pre_challenged_connection_is_replaced_with_the_guard_open() {
    let stub = stub(Personality::StaleChallenges);
    let gateway = in_process::gateway(&stub.address().to_string(), &[("warm", "4"), ("timeouts.warm", "20s")]);
    let open = || connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
    let ready = |count: f64| wait_for(BOUND, || (metric(&gateway, "warm_connections", &[]) >= count).then_some(()));
    assert_eq!(open().status(), 200);
    for _ in 0..2 {
        // Takes as many connections at once as can be stale at once.
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            clients.into_iter().for_each(|client| assert_eq!(client.join().expect("a client").status(), 200));
        });
        ready(1.0);
        std::thread::sleep(Duration::from_millis(700));
    }
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        clients.into_iter().for_each(|client| assert_eq!(client.join().expect("a client").status(), 200));
    });
    assert!(stub.counters().refused >= 1, "no challenge was stale: {}", stub.counters());
    assert_eq!(metric(&gateway, "guard_state", &[("state", "proven")]), 1.0);
    in_process::stop(gateway);
}
