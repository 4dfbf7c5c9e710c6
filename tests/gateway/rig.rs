//! Tests of the test environment itself: curl, which supports NTLM, talks to Squid directly.

use crate::support;

use std::time::Duration;

use support::bytes::{assert_same, pseudo_random};
use support::client::echo_through;
use support::command::curl;
use support::metrics;
use support::origin::{HttpOrigin, echo_origin};
use support::squid::{LoggedCredentials, Squid, SquidOptions};
use support::{PASSWORD, USER};

const MAX_TIME: Duration = Duration::from_secs(60);

/// Fetches a page through a tunnel of Squid with curl's own NTLM, and returns the status of the CONNECT.
fn connect_status(squid: &Squid, user: &str, password: &str, origin: &HttpOrigin) -> String {
    let (proxy, user) = (format!("http://{}", squid.address()), format!("{user}:{password}"));
    let (certificate, url) = (origin.certificate(), origin.url("/bytes/1000"));
    let args = ["--proxy", &proxy, "--proxy-ntlm", "--proxy-user", &user, "--cacert", &certificate];
    let args = args.into_iter().chain(["--output", "/dev/null", "--write-out", "%{http_connect}", &url]);
    curl(MAX_TIME, args).text()
}

#[test]
fn squid_accepts_the_right_password_and_rejects_a_wrong_one() {
    require_tools!("squid", "ntlm_auth", "curl", "openssl", "python3");
    let squid = Squid::start(&SquidOptions::default());
    let origin = HttpOrigin::https();

    assert_eq!(connect_status(&squid, USER, "wrong", &origin), "407");
    assert_eq!(squid.count(LoggedCredentials::Authenticate), 1, "{:#?}", squid.log());
    assert_eq!(connect_status(&squid, USER, PASSWORD, &origin), "200");

    let log = squid.log_with_tunnels(1);
    assert_eq!(squid.count(LoggedCredentials::Negotiate), 2, "{log:#?}");
    assert_eq!(squid.count(LoggedCredentials::Authenticate), 2, "{log:#?}");
    let tunnel = log.last().expect("the last request");
    assert_eq!((tunnel.user.as_str(), tunnel.status.as_str()), (USER, "TCP_TUNNEL/200"), "{log:#?}");
    assert_eq!((tunnel.method.as_str(), &tunnel.target), ("CONNECT", &origin.address().to_string()), "{log:#?}");
}

#[test]
fn squid_listens_on_the_same_port_after_a_restart() {
    require_tools!("squid", "ntlm_auth", "curl", "openssl", "python3");
    let mut squid = Squid::start(&SquidOptions::default());
    let origin = HttpOrigin::https();
    assert_eq!(connect_status(&squid, USER, PASSWORD, &origin), "200");
    squid.stop();
    assert_eq!(connect_status(&squid, USER, PASSWORD, &origin), "000");
    squid.restart();
    assert_eq!(connect_status(&squid, USER, PASSWORD, &origin), "200");
}

#[test]
fn the_https_origin_sends_seeded_bytes_and_reports_what_it_received() {
    require_tools!("curl", "openssl", "python3");
    let origin = HttpOrigin::https();
    let certificate = origin.certificate();
    let get = |path: &str| curl(MAX_TIME, ["--cacert", &certificate, &origin.url(path)]).expect_success(path);
    let first = get("/bytes/100000?seed=7").stdout;
    assert_eq!(first.len(), 100_000);
    assert_same(&get("/slow/100000?seed=7&seconds=0.2").stdout, &first, "the same seed");
    assert_ne!(get("/bytes/100000?seed=8").stdout, first);

    let sink = origin.url("/sink");
    let answer = curl(MAX_TIME, ["--cacert", &certificate, "--data-binary", "abc", &sink]).expect_success(&sink);
    // SHA-256 of "abc", FIPS 180-4.
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(answer.text(), format!(r#"{{"length": 3, "sha256": "{sha256}"}}"#));
}

#[test]
fn the_echo_origin_returns_every_byte() {
    let origin = echo_origin();
    let stream = std::net::TcpStream::connect(origin.address()).expect("connect to the echo origin");
    let bytes = pseudo_random(1, 4 << 20);
    assert_same(&echo_through(&stream, &bytes).expect("echo"), &bytes, "echo");
}

#[test]
fn metrics_are_summed_over_the_samples_that_carry_the_labels() {
    let text = "# HELP a_total x\n# TYPE a_total counter\na_total{r=\"x\",s=\"1\"} 2\na_total{r=\"x\",s=\"2\"} 3\n\
                a_total{r=\"y\"} 5\nb 7\nab 9\n";
    assert_eq!(metrics::sum(text, "a_total", &[("r", "x")]), Some(5.0));
    assert_eq!(metrics::sum(text, "a_total", &[("s", "2"), ("r", "x")]), Some(3.0));
    assert_eq!(metrics::sum(text, "a_total", &[]), Some(10.0));
    assert_eq!(metrics::sum(text, "b", &[]), Some(7.0));
    assert_eq!(metrics::sum(text, "c", &[]), None);
}
