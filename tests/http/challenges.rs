//! Challenges for requests with a body: with proxies that treat methods and destinations differently, the result is the
//! same as with curl's own NTLM, and the gateway sends no request of its own to any origin.

use crate::support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::bytes::pseudo_random;
use support::command::curl;
use support::gateway::{Gateway, GatewayOptions};
use support::in_process;
use support::listener::Listener;
use support::squid::{LoggedCredentials, Squid, SquidOptions};
use support::web::{Web, checksum, demand};
use support::wire::{Wire, field};
use support::{PASSWORD, USER};

/// Starts Squid with rules that precede the authentication rule.
fn squid_with(extra: impl Into<String>) -> (Squid, Gateway) {
    let squid = Squid::start(&SquidOptions { extra: extra.into(), ..SquidOptions::default() });
    let mut options = GatewayOptions::through(squid.address());
    options.args = ["--shards", "1", "--warm", "0"].map(String::from).into();
    (squid, Gateway::start(&options))
}

/// The response of the origin's `/sink` to a body.
fn sink_answer(body: &[u8]) -> String {
    format!("POST {} {:016x}\n", body.len(), checksum(body))
}

/// A POST request with a length or with chunks.
fn post(origin: &Web, path: &str, body: &[u8], chunked: bool) -> Vec<u8> {
    let fields = match chunked {
        true => "Transfer-Encoding: chunked\r\n".to_owned(),
        false => format!("Content-Length: {}\r\n", body.len()),
    };
    let head = origin.request("POST", path, &fields).into_bytes();
    match chunked {
        true => [&head[..], format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n0\r\n\r\n"].concat(),
        false => [&head[..], body].concat(),
    }
}

/// curl's own NTLM gets 200 for a POST. Through the gateway, each kind of body arrives exactly once.
fn assert_posts_work_as_with_curl(squid: &Squid, gateway: &Gateway) {
    let origin = Web::origin();
    let (proxy, url) = (format!("http://{}", squid.address()), origin.url("/sink"));
    let account = format!("{USER}:{PASSWORD}");
    let args = ["--noproxy", "", "--proxy", &proxy, "--proxy-ntlm", "--proxy-user", &account, "-d", "hello", &url];
    assert_eq!(curl(Duration::from_secs(30), args).expect_success("curl --proxy-ntlm").text(), sink_answer(b"hello"));

    let origin = Web::origin();
    let large = pseudo_random(7, 300_000);
    let bodies = [(&b"hello"[..], false), (&large, false), (&large, true), (b"hello", true)];
    for (number, (body, chunked)) in bodies.into_iter().enumerate() {
        let began = Instant::now();
        let mut client = Wire::connect(gateway.address());
        client.wait_at_most(Duration::from_secs(30));
        let answer = client.ask(post(&origin, "/sink", body, chunked)).expect("an answer");
        assert_eq!(answer.text(), sink_answer(body), "{chunked}: {}", answer.head);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let heads = origin.seen.heads();
        assert_eq!(heads.len(), number + 1, "each is sent once, and nothing else: {heads:#?}");
        assert!(heads.iter().all(|head| head.starts_with("POST ")), "{heads:#?}");
    }
}

#[test]
fn a_post_works_where_squid_exempts_get_and_head_from_authentication() {
    require_tools!("squid", "ntlm_auth", "curl");
    let (squid, gateway) = squid_with("acl reading method GET HEAD\nhttp_access allow reading");
    assert_posts_work_as_with_curl(&squid, &gateway);
    let origin = Web::origin();
    for method in ["GET", "HEAD"] {
        let answer = Wire::connect(gateway.address()).ask(origin.request(method, "/bytes/5", "")).expect("an answer");
        assert_eq!(answer.status(), 200, "{method}");
    }
    assert_eq!(origin.seen.requests(), 2, "each is sent once: {:#?}", origin.seen.heads());
}

#[test]
fn a_post_works_where_squid_forbids_head() {
    require_tools!("squid", "ntlm_auth", "curl");
    let (squid, gateway) = squid_with("acl heads method HEAD\nhttp_access deny heads");
    assert_posts_work_as_with_curl(&squid, &gateway);
    let answer = Wire::connect(gateway.address()).ask(Web::origin().request("HEAD", "/bytes/5", ""));
    assert_eq!(answer.expect("an answer").status(), 403, "Squid's own answer");
}

#[test]
fn a_post_works_where_squid_never_answers_a_head() {
    require_tools!("squid", "ntlm_auth", "curl");
    // It answers at the end of its input.
    let extra = "external_acl_type stalling children-max=1 children-startup=1 ttl=0 %METHOD /usr/bin/tail\n\
        acl stalls external stalling\nacl heads method HEAD\nhttp_access deny heads stalls";
    let (squid, gateway) = squid_with(extra);
    assert_posts_work_as_with_curl(&squid, &gateway);
}

/// A proxy that sends a body with its 407 to a HEAD request, and the origin in one.
fn sends_pages_to_head(seen: Arc<AtomicUsize>) -> Listener {
    Listener::start(move |stream| {
        // The peer may close at any time.
        let _ = serve_pages(&mut Wire::on(stream), &seen);
    })
}

fn serve_pages(wire: &mut Wire, seen: &AtomicUsize) -> io::Result<()> {
    let mut authenticated = false;
    while let Some(head) = wire.head()? {
        let body = wire.request_body(&head)?;
        let credentials = field(&head, "proxy-authorization").unwrap_or_default().to_owned();
        authenticated |= credentials.contains("TlRMTVNTUAAD");
        if !authenticated {
            let asks = demand(407, "Proxy-Authenticate", credentials.contains("TlRMTVNTUAAB"));
            wire.send(asks.replace("Content-Length: 0\r\n\r\n", "Content-Length: 4\r\n\r\npage"))?;
            continue;
        }
        seen.fetch_add(1, Ordering::Relaxed);
        let text = sink_answer(&body);
        let content = if head.starts_with("HEAD ") { "" } else { &*text };
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{content}", text.len()))?;
    }
    Ok(())
}

#[test]
fn post_and_head_work_when_the_proxy_sends_a_body_with_its_407_to_head() {
    let seen = Arc::new(AtomicUsize::new(0));
    let proxy = sends_pages_to_head(Arc::clone(&seen));
    let gateway = in_process::gateway(&proxy.address().to_string(), &[("warm", "0"), ("keep", "0")]);
    let (origin, large) = (Web::origin(), pseudo_random(3, 100_000));
    let mut made = 0;
    for body in [&b"hello"[..], &large, b""] {
        let mut client = Wire::connect(in_process::address(&gateway));
        let answer = client.ask(post(&origin, "/sink", body, false)).expect("an answer");
        assert_eq!(answer.text(), sink_answer(body), "{}", answer.head);
        let answer = client.ask(origin.request("HEAD", "/", "")).expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        made += 2;
        assert_eq!(seen.load(Ordering::Relaxed), made, "each is sent once");
    }
    in_process::stop(gateway);
}

#[test]
fn a_request_to_a_destination_that_squid_exempts_is_sent_once() {
    require_tools!("squid", "ntlm_auth");
    let (free, other) = (Web::origin(), Web::origin());
    let port = free.address().port();
    let (squid, gateway) = squid_with(format!("acl free port {port}\nhttp_access allow free"));
    let large = pseudo_random(9, 300_000);
    // The gateway knows that Squid challenges before it reads a body.
    let answer = Wire::connect(gateway.address()).ask(post(&other, "/sink", &large, false)).expect("an answer");
    assert_eq!(answer.text(), sink_answer(&large));
    for (number, (body, chunked)) in
        [(&large[..], true), (&large, false), (b"hello", false), (b"", false), (b"x", true)].into_iter().enumerate()
    {
        let mut client = Wire::connect(gateway.address());
        client.wait_at_most(Duration::from_secs(30));
        let answer = client.ask(post(&free, "/sink", body, chunked)).expect("an answer");
        assert_eq!(answer.text(), sink_answer(body), "{chunked}: {}", answer.head);
        let heads = free.seen.heads();
        assert_eq!(heads.len(), number + 1, "sent once: {heads:#?}");
    }
    for method in ["DELETE", "PUT", "GET"] {
        let before = free.seen.requests();
        assert_eq!(
            Wire::connect(gateway.address()).ask(free.request(method, "/", "")).expect("an answer").status(),
            404
        );
        assert_eq!(free.seen.requests(), before + 1, "{method}");
    }
    assert_eq!(squid.count(LoggedCredentials::Authenticate), 1, "{:#?}", squid.log());
}

/// An upstream that asks for the body but not for credentials.
#[test]
fn a_received_body_is_sent_when_the_upstream_answers_100_continue() {
    let proxy = Listener::start(|stream| {
        let mut wire = Wire::on(stream);
        while let Ok(Some(head)) = wire.head() {
            let body = wire.send("HTTP/1.1 100 Continue\r\n\r\n").and_then(|()| wire.request_body(&head));
            let Ok(body) = body else { return };
            let text = sink_answer(&body);
            if wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())).is_err() {
                return;
            }
        }
    });
    let gateway = in_process::gateway(&proxy.address().to_string(), &[("warm", "0"), ("keep", "0")]);
    let body = pseudo_random(1, 1000);
    let mut late = 0;
    for number in 0..3 {
        let origin = format!("http://origin-{number}.test/");
        let head = support::web::request("POST", &origin, "Transfer-Encoding: chunked\r\n");
        let whole = [head.as_bytes(), b"3e8\r\n", &body, b"\r\n0\r\n\r\n"].concat();
        let began = Instant::now();
        let answer = Wire::connect(in_process::address(&gateway)).ask(whole).expect("an answer");
        assert_eq!(answer.text(), sink_answer(&body), "{}", answer.head);
        late += u32::from(began.elapsed() >= ntlm_gateway::limits::HELD_BODY_TIMEOUT);
    }
    // A busy machine may delay one.
    assert!(late <= 1, "{late} of three: no need to wait");
    in_process::stop(gateway);
}

#[test]
fn requests_fall_back_to_the_next_upstream_when_the_first_is_silent() {
    let mute = Listener::start(|stream| {
        let mut wire = Wire::on(stream);
        while wire.some().is_ok_and(|bytes| !bytes.is_empty()) {}
    });
    let proxy = Web::proxy();
    for method in ["POST", "HEAD", "DELETE"] {
        // It applies to the second as well.
        let settings = [("warm", "0"), ("timeouts.challenge", "2s")];
        let gateway = in_process::gateway(&format!("{},{}", mute.address(), proxy.address()), &settings);
        let fields = if method == "POST" { "Content-Length: 5\r\n" } else { "" };
        let body = if method == "POST" { "hello" } else { "" };
        let began = Instant::now();
        let request = format!("{}{body}", proxy.request(method, "/sink", fields));
        let answer = Wire::connect(in_process::address(&gateway)).ask(request).expect("an answer");
        assert_eq!(answer.status(), 200, "{method}: {}", answer.head);
        assert!(began.elapsed() < ntlm_gateway::limits::CHALLENGE_TIMEOUT, "{method}: {:?}", began.elapsed());
        in_process::stop(gateway);
    }
    assert_eq!(proxy.seen.requests(), 3, "each is sent once: {:#?}", proxy.seen.heads());
}

/// A proxy that closes the connection on any request without credentials.
#[test]
fn requests_work_when_the_proxy_closes_on_requests_without_credentials() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let proxy = Listener::start(move |stream| {
        let mut wire = Wire::on(stream.try_clone().expect("a second handle"));
        // The first bytes decide: without credentials the connection is closed.
        let mut first = [0; 4096];
        let length = stream.peek(&mut first).unwrap_or(0);
        if String::from_utf8_lossy(&first[..length]).contains("Proxy-Authorization") {
            let _ = serve_pages(&mut wire, &counted);
        }
    });
    let gateway = in_process::gateway(&proxy.address().to_string(), &[("warm", "0"), ("keep", "0")]);
    let (origin, large) = (Web::origin(), pseudo_random(3, 100_000));
    for (number, body) in [&large[..], b"hello", &large, b""].into_iter().enumerate() {
        let answer =
            Wire::connect(in_process::address(&gateway)).ask(post(&origin, "/sink", body, false)).expect("an answer");
        assert_eq!(answer.text(), sink_answer(body), "{}", answer.head);
        assert_eq!(seen.load(Ordering::Relaxed), number + 1, "each is sent once");
    }
    let answer = Wire::connect(in_process::address(&gateway)).ask(origin.request("HEAD", "/", "")).expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    in_process::stop(gateway);
}

#[test]
fn a_short_body_is_resent_when_an_exempt_destination_is_challenged_after_all() {
    let proxy = Web::proxy();
    let settings = [("warm", "0"), ("keep", "0"), ("without_credentials", "127.0.0.1")];
    let gateway = in_process::gateway(&proxy.address().to_string(), &settings);
    for _ in 0..2 {
        let request = post(&proxy, "/sink", b"hello", false);
        let answer = Wire::connect(in_process::address(&gateway)).ask(request).expect("an answer");
        assert_eq!(answer.text(), sink_answer(b"hello"), "{}", answer.head);
    }
    assert_eq!(proxy.seen.requests(), 2, "each is sent once");
    in_process::stop(gateway);
}

/// A proxy that reads the body before it asks for credentials.
#[test]
fn a_long_post_works_when_the_proxy_reads_the_body_before_its_407() {
    let proxy = Web::proxy();
    let gateway = in_process::gateway(&proxy.address().to_string(), &[("warm", "0"), ("keep", "0")]);
    let large = pseudo_random(5, 200_000);
    for chunked in [false, true] {
        let mut client = Wire::connect(in_process::address(&gateway));
        client.wait_at_most(Duration::from_secs(20));
        let answer = client.ask(post(&proxy, "/sink", &large, chunked)).expect("an answer");
        assert_eq!(answer.text(), sink_answer(&large), "{}", answer.head);
    }
    assert_eq!(proxy.seen.requests(), 2, "each is sent once");
    in_process::stop(gateway);
}

#[test]
fn the_second_post_to_a_destination_is_not_preceded_by_a_trial_request() {
    require_tools!("squid", "ntlm_auth");
    let (squid, gateway) = squid_with("");
    let origin = Web::origin();
    for _ in 0..3 {
        let answer = Wire::connect(gateway.address()).ask(post(&origin, "/sink", b"hello", false)).expect("an answer");
        assert_eq!(answer.text(), sink_answer(b"hello"));
        // Then the connection is too old for a non-idempotent request.
        std::thread::sleep(ntlm_gateway::limits::KEPT_FRESH + Duration::from_millis(300));
    }
    let log = squid.log();
    assert_eq!(
        log.iter().filter(|line| line.credentials == LoggedCredentials::None && line.status.ends_with("/407")).count(),
        1,
        "{log:#?}"
    );
    assert_eq!(squid.count(LoggedCredentials::Authenticate), 3, "{log:#?}");
}
