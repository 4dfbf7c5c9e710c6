//! Plain `http://` through the gateway and a real Squid that verifies NTLM, on authenticated connections that are kept
//! and shared.

use crate::support;

use std::time::Duration;

use support::bytes::{assert_same, pseudo_random};
use support::command::{Finished, curl};
use support::gateway::{Gateway, GatewayOptions};
use support::origin::HttpOrigin;
use support::scratch::Scratch;
use support::squid::{LoggedCredentials, Squid, SquidOptions};

const MAX_TIME: Duration = Duration::from_secs(90);
const BODY_BYTES: usize = 1 << 20;

fn squid_and_gateway() -> (Squid, Gateway) {
    let squid = Squid::start(&SquidOptions::default());
    let gateway = Gateway::start(&GatewayOptions::through(squid.address()));
    (squid, gateway)
}

/// Runs curl to the origin, through the gateway if there is one.
fn fetch(origin: &HttpOrigin, gateway: Option<&Gateway>, args: &[&str], path: &str) -> Finished {
    let url = origin.url(path);
    let proxy = gateway.map(Gateway::url);
    let way = proxy.as_deref().map_or(vec!["--noproxy", "*"], |proxy| vec!["--noproxy", "", "--proxy", proxy]);
    curl(MAX_TIME, way.into_iter().chain(args.iter().copied()).chain([url.as_str()])).expect_success(path)
}

#[test]
fn bodies_of_every_kind_arrive_complete_in_both_directions() {
    require_tools!("squid", "ntlm_auth", "curl", "python3");
    let (_squid, gateway) = squid_and_gateway();
    let origin = HttpOrigin::http();
    let scratch = Scratch::new("upload");
    let file = scratch.write("body", pseudo_random(31, BODY_BYTES)).display().to_string();
    let (data, chunked) = (format!("@{file}"), "Transfer-Encoding: chunked");

    let path = format!("/bytes/{BODY_BYTES}?seed=30");
    let expected = fetch(&origin, None, &[], &path).stdout;
    assert_same(&fetch(&origin, Some(&gateway), &[], &path).stdout, &expected, "GET");
    for args in [
        &["--data-binary", &data] as &[&str],
        &["--data-binary", &data, "--header", chunked],
        &["--data-binary", &data, "--header", "Expect: 100-continue"],
        &["--upload-file", &file],
        &["--http1.0", "--data-binary", &data],
    ] {
        let expected = fetch(&origin, None, args, "/sink").text();
        assert!(expected.contains(&format!("\"length\": {BODY_BYTES},")), "{expected}");
        assert_eq!(fetch(&origin, Some(&gateway), args, "/sink").text(), expected, "{args:?}");
    }
    let head = fetch(&origin, Some(&gateway), &["--head"], &path).text();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains(&format!("Content-Length: {BODY_BYTES}")), "{head}");
}

#[test]
fn fifty_requests_on_one_connection_need_one_handshake() {
    require_tools!("squid", "ntlm_auth", "curl", "python3");
    let (squid, gateway) = squid_and_gateway();
    let origin = HttpOrigin::http();
    let urls: Vec<String> = (0..50).map(|number| origin.url(&format!("/bytes/100?seed={number}"))).collect();
    let proxy = gateway.url();
    let write_out = ["--noproxy", "", "--proxy", &proxy, "--write-out", "%{num_connects} "];
    let mut args: Vec<&str> = write_out.into();
    for url in &urls {
        args.extend(["--output", "/dev/null", url.as_str()]);
    }
    let connects = curl(MAX_TIME, args).expect_success("fifty requests").text();
    assert_eq!(connects.split_whitespace().filter(|count| *count == "1").count(), 1, "{connects}");
    assert_eq!(squid.count(LoggedCredentials::Authenticate), 1, "one handshake");
    assert_eq!(gateway.metric("ntlm_gateway_authenticate_messages_total", &[]), Some(1.0));
    let kept = gateway.metric("ntlm_gateway_upstream_requests_total", &[("connection", "kept")]);
    assert_eq!(kept, Some(49.0));
}

#[test]
fn the_access_log_has_the_traceparent_of_plain_requests_if_it_is_valid() {
    require_tools!("squid", "ntlm_auth", "curl", "python3");
    let (_squid, gateway) = squid_and_gateway();
    let origin = HttpOrigin::http();
    let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (number, trace, logged) in [(1, valid, valid), (2, "00-0af7651916cd43dd-b7ad6b7169203331-01", "-")] {
        let path = format!("/bytes/{number}?seed=1");
        fetch(&origin, Some(&gateway), &["--header", &format!("traceparent: {trace}")], &path);
        let line = gateway.wait_for_line(&format!("traceparent={logged}"));
        assert!(line.contains("method=GET "), "{line}");
    }
}
