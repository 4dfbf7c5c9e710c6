//! Loops: a gateway that reaches itself rejects requests and says why. Chained gateways work.

use crate::support;

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use support::bytes::pseudo_random;
use support::client::{Answered, ask, connect, connect_name, dial, echo_through};
use support::command::{curl, run};
use support::gateway::{GATEWAY, Gateway, GatewayOptions};
use support::in_process::{self, metric};
use support::listener::Listener;
use support::origin::{HttpOrigin, echo_origin};
use support::scratch::{Scratch, free_port, wait_for};
use support::socks::{ask5, request5};
use support::squid::{Squid, SquidOptions};
use support::tools::skip_without_mounts;

const BOUND: Duration = Duration::from_secs(20);

/// A relay whose target is set after its start. It stands for address translation, such as that of a Kubernetes
/// Service, through which the gateway reaches itself.
struct AddressTranslation {
    listener: Listener,
    far: Arc<OnceLock<SocketAddr>>,
}

impl AddressTranslation {
    fn start() -> Self {
        let far: Arc<OnceLock<SocketAddr>> = Arc::default();
        let known = Arc::clone(&far);
        let listener = Listener::start(move |near| {
            let Some(far) = known.get().and_then(|far| TcpStream::connect(far).ok()) else { return };
            std::thread::scope(|scope| {
                scope.spawn(|| copy_until_end(&near, &far));
                copy_until_end(&far, &near);
            });
        });
        Self { listener, far }
    }
}

fn copy_until_end(mut from: &TcpStream, mut to: &TcpStream) {
    // However the copy ends, pass the end on to the other side.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}

#[test]
fn a_loop_through_a_translated_address_is_detected_on_its_first_pass() {
    let translated = AddressTranslation::start();
    let gateway = in_process::gateway(&translated.listener.address().to_string(), &[("warm", "0")]);
    let address = in_process::address(&gateway);
    translated.far.set(address).expect("set only once");
    let requests = [
        "CONNECT looped.test:443 HTTP/1.1\r\nHost: looped.test:443\r\n\r\n",
        "GET http://looped.test/ HTTP/1.1\r\nHost: looped.test\r\n\r\n",
    ];
    for request in requests {
        let before = metric(&gateway, "accepted_total", &[]);
        let answer = ask(address, request.as_bytes()).expect("an answer");
        assert_eq!(answer.status(), 508, "{}", answer.head);
        let connections = metric(&gateway, "accepted_total", &[]) - before;
        assert!((1.0..=2.0).contains(&connections), "{request}: {connections} connections");
    }
    // The second pass is HTTP, and its Via has the gateway's name: the upstream's 508 is a general failure.
    let before = metric(&gateway, "accepted_total", &[]);
    let replied = ask5(dial(address).expect("a connection"), &request5(b"looped.test", 443)).expect("a reply");
    assert_eq!(replied.code, 1);
    assert!(metric(&gateway, "accepted_total", &[]) - before <= 2.0);
    in_process::stop(gateway);
}

#[test]
fn check_and_run_reject_an_upstream_that_is_the_gateway_itself() {
    let scratch = Scratch::new("own");
    let password = scratch.write("password", "secret\n").display().to_string();
    for (listen, upstream) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "localhost"), ("0.0.0.0", "127.0.0.3")] {
        let port = free_port();
        let (listen, upstream) = (format!("{listen}:{port}"), format!("{upstream}:{port}"));
        for command in ["check", "run"] {
            let ended = run(GATEWAY, BOUND, |arguments| {
                arguments.args([command, "--listen", &listen, "--admin", "127.0.0.1:0", "--upstream", &upstream]);
                arguments.args(["--allow-clients", "127.0.0.0/8", "--user", r"CORP\x", "--password-file", &password]);
            });
            let output = format!("{}{}", ended.text(), ended.stderr);
            assert!(ended.code == Some(1) && output.contains("the gateway itself listens"), "{command}: {output}");
        }
    }
}

#[test]
fn an_upstream_name_that_resolves_to_the_gateway_itself_is_not_used() {
    if skip_without_mounts() {
        return;
    }
    let scratch = Scratch::new("hosts");
    let hosts = scratch.write("hosts", "127.0.0.1 localhost\n");
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut options = GatewayOptions::through(listen);
    options.listen = listen;
    options.upstreams = vec![format!("moving-proxy.invalid:{}", listen.port())];
    options.mounts = vec![(hosts.clone(), "/etc/hosts")];
    let gateway = Gateway::start(&options);
    // Written in place, because the mount is bound to the file and not to its name.
    std::fs::write(&hosts, "127.0.0.1 localhost moving-proxy.invalid\n").expect("the hosts");
    gateway.wait_for_line("the gateway itself listens; this address is not used");
    let reported = || {
        let answer = connect_name(gateway.address(), "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 502, "{}", answer.head);
        answer.head.contains("leads to the gateway itself").then_some(())
    };
    assert!(wait_for(BOUND, reported).is_some(), "the loop is not reported");
    let none_open = || (gateway.metric("ntlm_gateway_tunnels_open", &[]) == Some(0.0)).then_some(());
    assert!(wait_for(BOUND, none_open).is_some(), "tunnels are left open");
}

/// Two chained gateways; the second uses a real Squid.
fn chained_gateways() -> (Squid, [Gateway; 2]) {
    let squid = Squid::start(&SquidOptions::default());
    let second = Gateway::start(&GatewayOptions::through(squid.address()));
    let first = Gateway::start(&GatewayOptions::through(second.address()));
    (squid, [first, second])
}

#[test]
fn two_chained_gateways_forward_plain_http_and_tunnels() {
    require_tools!("squid", "ntlm_auth", "curl", "python3");
    let (_squid, [first, _second]) = chained_gateways();
    let (origin, echo) = (HttpOrigin::http(), echo_origin());
    let proxy = first.url();
    let fetch = |path: &str, further: &[&str]| {
        let url = origin.url(path);
        let args = ["--noproxy", "", "--fail", "--proxy", &proxy].into_iter().chain(further.iter().copied());
        curl(BOUND, args.chain([url.as_str()])).expect_success(path).text()
    };
    let headers = fetch("/headers", &[]).to_lowercase();
    let names = headers.matches("1.1 ntlm-gateway-").count();
    assert_eq!(names, 2, "{headers}");
    assert!(fetch("/sink", &["--data-binary", "abc"]).contains("\"length\": 3,"));
    let tunnel = connect(first.address(), echo.address(), b"").expect("an answer");
    assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
    let bytes = pseudo_random(3, 100_000);
    assert_eq!(echo_through(&tunnel.stream, &bytes).expect("an echo"), bytes);
}

/// The gateway's name in the Via field of an answer.
fn name_of(gateway: SocketAddr, origin: &str) -> String {
    let request = format!("GET http://{origin}/headers HTTP/1.1\r\nHost: {origin}\r\n\r\n");
    let answer: Answered = ask(gateway, request.as_bytes()).expect("an answer");
    let via = answer.field("via").unwrap_or_default().to_owned();
    via.rsplit(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn the_via_name_is_unique_to_the_process_unless_configured() {
    let web = support::web::Web::proxy();
    let (upstream, origin) = (web.address().to_string(), web.address().to_string());
    let names = |further: &[(&str, &str)]| {
        let gateway = in_process::gateway(&upstream, further);
        let names = [(); 2].map(|()| name_of(in_process::address(&gateway), &origin));
        in_process::stop(gateway);
        names
    };
    let ([first, again], [other, _]) = (names(&[]), names(&[]));
    assert_eq!(first, again);
    assert_ne!(first, other);
    let digits = first.strip_prefix("ntlm-gateway-").unwrap_or_default();
    assert!(digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{first}");
    assert_eq!(names(&[("via_name", "egress-7")])[0], "egress-7");
}
