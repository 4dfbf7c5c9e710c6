//! The gateway with a real Squid as its upstream, which verifies NTLM with Samba's `ntlm_auth`.

use crate::support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use support::PASSWORD;
use support::bytes::{assert_same, pseudo_random};
use support::client::{Answered, connect, connect_within, echo_through};
use support::command::{Finished, curl, run};
use support::gateway::{Gateway, GatewayOptions};
use support::listener::Listener;
use support::origin::{HttpOrigin, echo_origin};
use support::scratch::{Scratch, free_port, wait_for};
use support::squid::{LoggedCredentials, Squid, SquidOptions};
use support::tools::path_of;

const MAX_TIME: Duration = Duration::from_secs(90);
const BULK_BYTES: usize = 20 << 20;

fn squid_and_gateway() -> (Squid, Gateway) {
    let squid = Squid::start(&SquidOptions::default());
    let gateway = Gateway::start(&GatewayOptions::through(squid.address()));
    (squid, gateway)
}

/// Runs curl against the HTTPS origin, through the gateway if there is one, otherwise directly.
fn fetch(origin: &HttpOrigin, gateway: Option<&Gateway>, args: &[&str], path: &str) -> Finished {
    let (certificate, url) = (origin.certificate(), origin.url(path));
    let proxy = gateway.map(Gateway::url);
    let route = proxy.as_deref().map_or(vec!["--noproxy", "*"], |proxy| vec!["--proxy", proxy]);
    let rest = ["--fail", "--cacert", &certificate, &url];
    curl(MAX_TIME, route.into_iter().chain(args.iter().copied()).chain(rest)).expect_success(path)
}

#[test]
fn a_20_mib_download_over_https_arrives_whole() {
    require_tools!("squid", "ntlm_auth", "curl", "openssl", "python3");
    let (squid, gateway) = squid_and_gateway();
    let origin = HttpOrigin::https();
    let path = format!("/bytes/{BULK_BYTES}?seed=20");

    let expected = fetch(&origin, None, &[], &path).stdout;
    assert_eq!(expected.len(), BULK_BYTES);
    assert_same(&fetch(&origin, Some(&gateway), &[], &path).stdout, &expected, "the download");

    let tunnel = wait_for(MAX_TIME, || squid.log().into_iter().find(|line| line.status == "TCP_TUNNEL/200"));
    assert_eq!(tunnel.expect("the tunnel in Squid's log").user, support::USER);
}

#[test]
fn a_20_mib_upload_over_https_arrives_whole() {
    require_tools!("squid", "ntlm_auth", "curl", "openssl", "python3");
    let (_squid, gateway) = squid_and_gateway();
    let origin = HttpOrigin::https();
    let scratch = Scratch::new("upload");
    let file = scratch.write("body", pseudo_random(21, BULK_BYTES)).display().to_string();

    // The sink answers with the length and the SHA-256 of what it received.
    let args = ["--upload-file", &file];
    let expected = fetch(&origin, None, &args, "/sink").text();
    assert!(expected.contains(&format!("\"length\": {BULK_BYTES},")), "{expected}");
    assert_eq!(fetch(&origin, Some(&gateway), &args, "/sink").text(), expected);
}

#[test]
fn two_hundred_concurrent_tunnels_each_carry_their_own_bytes() {
    require_tools!("squid", "ntlm_auth");
    const TUNNELS: u16 = 200;
    let (squid, gateway) = squid_and_gateway();
    let origin = echo_origin();
    let open = || connect(gateway.address(), origin.address(), b"");

    let tunnels: Vec<Answered> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..TUNNELS).map(|_| scope.spawn(open)).collect();
        clients.into_iter().map(|client| client.join().expect("a client's thread").expect("an answer")).collect()
    });
    let failed: Vec<&str> = tunnels.iter().filter(|t| t.status() != 200).map(|t| t.head.as_str()).collect();
    assert!(failed.is_empty(), "{} of {TUNNELS} failed, such as {:?}", failed.len(), failed.first());
    assert_eq!(gateway.metric("ntlm_gateway_tunnels_open", &[]), Some(f64::from(TUNNELS)));

    std::thread::scope(|scope| {
        for (seed, tunnel) in (1_u64..).zip(&tunnels) {
            scope.spawn(move || {
                let bytes = pseudo_random(seed, 100_000);
                assert_same(&echo_through(&tunnel.stream, &bytes).expect("echo"), &bytes, "a tunnel's bytes");
            });
        }
    });

    drop(tunnels);
    let served = || squid.log().iter().filter(|line| line.status == "TCP_TUNNEL/200").count();
    assert!(wait_for(MAX_TIME, || (served() == usize::from(TUNNELS)).then_some(())).is_some(), "{}", served());
    let open = || gateway.metric("ntlm_gateway_tunnels_open", &[]);
    assert!(wait_for(MAX_TIME, || (open() == Some(0.0)).then_some(())).is_some(), "still open: {:?}", open());
}

#[test]
fn two_hundred_concurrent_https_transfers_of_one_curl_arrive_whole() {
    require_tools!("squid", "ntlm_auth", "curl", "openssl", "python3");
    let (_squid, gateway) = squid_and_gateway();
    let origin = HttpOrigin::https();
    let scratch = Scratch::new("parallel");
    let fetch_all = |name: &str, gateway| {
        std::fs::create_dir(scratch.join(name)).expect("mkdir");
        let output = scratch.join(name).join("#1").display().to_string();
        let args = ["--parallel", "--parallel-immediate", "--parallel-max", "200", "--output", &output];
        fetch(&origin, gateway, &args, "/bytes/50000?seed=[1-200]");
    };
    fetch_all("direct", None);
    fetch_all("through", Some(&gateway));
    for seed in 1..=200 {
        let read = |name: &str| std::fs::read(scratch.join(name).join(seed.to_string())).expect("a transfer's file");
        assert_same(&read("through"), &read("direct"), "a transfer");
    }
}

#[test]
fn two_hundred_concurrent_clients_cause_one_wrong_password_attempt() {
    require_tools!("squid", "ntlm_auth");
    const CLIENTS: usize = 200;
    const WRONG: &str = "N0t-the-secret";
    let squid = Squid::start(&SquidOptions::default());
    let mut options = GatewayOptions::through(squid.address());
    options.password = WRONG.to_owned();
    let mut gateway = Gateway::start(&options);
    let origin = echo_origin();
    let request = || connect_within(Duration::from_secs(45), gateway.address(), origin.address(), b"");
    let expect_refusal = |answer: std::io::Result<Answered>| {
        let answer = answer.expect("an HTTP answer within the client's time-out");
        assert_eq!(answer.status(), 502, "{}", answer.head);
        let reason = answer.field("Proxy-Status").unwrap_or_default();
        assert!(reason.starts_with("ntlm-gateway;") && reason.contains("error="), "{}", answer.head);
    };

    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(request)).collect();
        for client in clients {
            expect_refusal(client.join().expect("a client's thread"));
        }
    });
    // A new client is rejected without another attempt.
    expect_refusal(request());

    let attempts = squid.count(LoggedCredentials::Authenticate);
    assert_eq!(attempts, 1, "attempts with the wrong password in Squid's log: {:#?}", squid.log());
    assert_eq!(gateway.metric("ntlm_gateway_407_total", &[("reason", "refused")]), Some(1.0));
    assert_ne!(gateway.admin("/readyz").0, 200, "ready although the upstream rejects its identity");
    assert_eq!(gateway.admin("/healthz").0, 200);
    assert!(gateway.is_running());
    let exposed: Vec<String> = gateway.log().into_iter().filter(|line| line.contains(WRONG)).collect();
    assert!(exposed.is_empty() && !gateway.metrics().contains(WRONG), "the secret is exposed: {exposed:?}");
}

#[test]
fn a_forbidden_destination_does_not_affect_others_or_the_account() {
    require_tools!("squid", "ntlm_auth");
    let (allowed, forbidden) = (echo_origin(), echo_origin());
    // A deny rule that ends in an authentication ACL makes Squid send 407 to an authenticated user.
    let port = forbidden.address().port();
    let extra = format!("acl forbidden port {port}\nhttp_access deny forbidden authenticated");
    let squid = Squid::start(&SquidOptions { extra, ..SquidOptions::default() });
    let gateway = Gateway::start(&GatewayOptions::through(squid.address()));
    let ask = |origin: &Listener| connect(gateway.address(), origin.address(), b"").expect("an answer");

    assert_eq!(ask(&allowed).status(), 200);
    for _ in 0..5 {
        let refused = ask(&forbidden);
        assert_eq!(refused.status(), 502, "{}", refused.head);
        assert!(refused.field("Proxy-Status").is_some(), "{}", refused.head);
        assert_eq!(ask(&allowed).status(), 200, "the other destinations fail as well");
    }
    let log = squid.log();
    let attempts = log
        .iter()
        .filter(|line| line.credentials == LoggedCredentials::Authenticate && line.status.ends_with("/407"))
        .count();
    assert!(attempts <= 5, "{attempts} attempts for five requests: {log:#?}");
}

#[test]
fn an_origin_that_squid_cannot_reach_is_an_error_and_not_a_rejection() {
    require_tools!("squid", "ntlm_auth");
    let (_squid, gateway) = squid_and_gateway();
    let nobody = ([127, 0, 0, 1], free_port()).into();
    for _ in 0..3 {
        let answer = connect(gateway.address(), nobody, b"").expect("an answer");
        assert!((500..600).contains(&answer.status()), "{}", answer.head);
    }
    let origin = echo_origin();
    assert_eq!(connect(gateway.address(), origin.address(), b"").expect("an answer").status(), 200);
}

#[test]
fn promtool_reports_nothing_about_the_metrics() {
    require_tools!("squid", "ntlm_auth", "promtool");
    let (_squid, gateway) = squid_and_gateway();
    let origin = echo_origin();
    let answer = connect(gateway.address(), origin.address(), b"").expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    assert_same(&echo_through(&answer.stream, b"hello").expect("echo"), b"hello", "the tunnel");
    // A failure as well, so that its metrics have samples.
    connect(gateway.address(), ([127, 0, 0, 1], free_port()).into(), b"").expect("an answer");

    let text = gateway.metrics();
    assert!(text.contains("\nntlm_gateway_"), "{text}");
    let scratch = Scratch::new("promtool");
    let file = scratch.write("metrics", &text);
    let check = run(path_of("promtool"), Duration::from_secs(30), |command| {
        command.args(["check", "metrics"]).stdin(File::open(&file).expect("open the metrics"));
    });
    let output = format!("{}{}", check.text(), check.stderr);
    assert!(check.code == Some(0) && output.is_empty(), "promtool exited with {:?} and printed:\n{output}", check.code);
}

#[test]
fn bytes_after_the_connect_head_reach_the_origin_before_later_ones() {
    require_tools!("squid", "ntlm_auth");
    let (_squid, gateway) = squid_and_gateway();
    let origin = echo_origin();
    for length in [1, 517, 4096, 200_000] {
        // A TLS client that does not wait for the 200 sends the header of a record, then its content.
        let mut leftover = pseudo_random(9, length);
        for (byte, head) in leftover.iter_mut().zip([0x16, 0x03, 0x01]) {
            *byte = head;
        }
        let mut answer = connect(gateway.address(), origin.address(), &leftover).expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        let later = pseudo_random(10, 3000);
        answer.stream.write_all(&later).expect("write into the tunnel");
        let mut back = vec![0; leftover.len() + later.len()];
        answer.stream.read_exact(&mut back).expect("the echo");
        assert_same(&back, &[leftover, later].concat(), "leftover and later bytes");
    }
}

#[test]
fn no_byte_is_lost_when_the_origin_closes_after_sending() {
    require_tools!("squid", "ntlm_auth");
    let (_squid, gateway) = squid_and_gateway();
    let bytes = pseudo_random(11, 5 << 20);
    let sent = bytes.clone();
    let origin = Listener::start(move |mut stream: TcpStream| {
        // The client compares what arrives, so a failure here shows there.
        let _ = stream.write_all(&sent);
    });
    let mut answer = connect(gateway.address(), origin.address(), b"").expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    // Long enough for the origin's close to reach the gateway while it still buffers bytes.
    std::thread::sleep(Duration::from_millis(300));
    let mut back = Vec::new();
    answer.stream.read_to_end(&mut back).expect("the origin's bytes and its end");
    assert_same(&back, &bytes, "what the origin sent before it closed");
}

#[test]
fn the_correct_password_appears_in_no_log_or_metric() {
    require_tools!("squid", "ntlm_auth");
    let squid = Squid::start(&SquidOptions::default());
    let mut options = GatewayOptions::through(squid.address());
    options.env.push(("RUST_LOG".to_owned(), "trace".to_owned()));
    let gateway = Gateway::start(&options);
    let origin = echo_origin();
    assert_eq!(connect(gateway.address(), origin.address(), b"").expect("an answer").status(), 200);
    let exposed: Vec<String> = gateway.log().into_iter().filter(|line| line.contains(PASSWORD)).collect();
    assert!(exposed.is_empty(), "{exposed:?}");
    assert!(!gateway.metrics().contains(PASSWORD));
}
