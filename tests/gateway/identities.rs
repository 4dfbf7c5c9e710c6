//! Several identities: which one a client uses, a guard for each, and Basic where it is allowed.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ntlm_gateway::config::Config;
use ntlm_gateway::gateway::Gateway;
use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use rustix::process::Signal;
use support::client::{Answered, ask, ask_from, connect, connect_name, connect_name_from, echo_through, read_head};
use support::command::{Finished, curl};
use support::gateway::GatewayOptions;
use support::in_process::{self, ACCOUNT, metric};
use support::listener::Listener;
use support::origin::{HttpOrigin, echo_origin};
use support::scratch::{Scratch, wait_for};
use support::squid::{LogLine, LoggedCredentials, Squid, SquidOptions};
use support::tools::skip_for_want_of;

const BOUND: Duration = Duration::from_secs(20);
const TARGET: &str = "echo.test:7";
/// The address of the clients that use the identity ci.
const CI: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Accounts of the domain CORP with their passwords, in addition to [`ACCOUNT`].
const OTHER_ACCOUNTS: [(&str, &str); 4] =
    [("ci", "ci-Secr3t"), ("batch", "batch-S3cret"), ("desk", "d3sk-secret"), ("partner", "P4rtner")];

fn stub_of(personality: Personality) -> StubServer {
    let (domain, user, password) = ACCOUNT;
    let alice = StubOptions::default().account(domain, user, password).personality(personality);
    let all = OTHER_ACCOUNTS.iter().fold(alice, |options, (user, password)| options.account(domain, user, password));
    StubServer::start(all).expect("a stub")
}

fn stub() -> StubServer {
    stub_of(Personality::Plain)
}

/// The entry of an identity with the correct password in a file, and further lines.
fn identity(scratch: &Scratch, name: &str, further: &str) -> String {
    let password = OTHER_ACCOUNTS.iter().find(|known| known.0 == name).expect("a known account").1;
    let file = scratch.write(name, format!("{password}\n"));
    format!("[[identities]]\nname = '{name}'\nuser = 'CORP\\{name}'\npassword_file = '{}'\n{further}\n", file.display())
}

/// A configuration with alice as the default, ci for 127.0.0.2, batch for its own listener and desk for clients that
/// log on.
fn several_identities(scratch: &Scratch, upstream: SocketAddr) -> String {
    let login = scratch.write("login", "let me: in\n");
    let entries = [
        identity(scratch, "ci", "clients = ['127.0.0.2', '127.0.9.0/24']"),
        identity(scratch, "batch", "listen = '127.0.0.4:0'"),
        identity(scratch, "desk", &format!("proxy_user = 'joe'\nproxy_password_file = '{}'", login.display())),
    ];
    format!("upstream = '{upstream}'\nuser = 'CORP\\alice'\nwarm = 0\n{}", entries.concat())
}

/// The number of AUTHENTICATE_MESSAGEs so far, by identity.
fn authenticates(gateway: &Gateway) -> [f64; 4] {
    ["default", "ci", "batch", "desk"].map(|name| metric(gateway, "authenticate_messages_total", &[("identity", name)]))
}

#[track_caller]
fn expect_tunnel(answer: &Answered) {
    assert_eq!(answer.status(), 200, "{}", answer.head);
    assert_eq!(echo_through(&answer.stream, b"as whom?").expect("an echo"), b"as whom?");
}

fn with_login(gateway: SocketAddr, credentials: &str) -> Answered {
    use base64::Engine as _;
    let token = base64::engine::general_purpose::STANDARD.encode(credentials);
    let request = format!("CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\nProxy-Authorization: bAsIc {token}\r\n\r\n");
    ask(gateway, request.as_bytes()).expect("an answer")
}

#[test]
fn login_listener_and_address_select_the_identity_in_that_order() {
    let (stub, scratch) = (stub(), Scratch::new("identities"));
    let gateway = in_process::gateway_of(&several_identities(&scratch, stub.address()));
    let (common, batch) = (gateway.listening()[0], gateway.listening()[1]);
    let from = |source: &str| source.parse::<IpAddr>().expect("an address");

    expect_tunnel(&connect_name(common, TARGET).expect("an answer"));
    assert_eq!(authenticates(&gateway), [1.0, 0.0, 0.0, 0.0]);
    expect_tunnel(&connect_name_from(CI, common, TARGET).expect("an answer"));
    expect_tunnel(&connect_name_from(from("127.0.9.77"), common, TARGET).expect("an answer"));
    expect_tunnel(&connect_name_from(from("127.0.0.3"), common, TARGET).expect("an answer"));
    assert_eq!(authenticates(&gateway), [2.0, 2.0, 0.0, 0.0]);
    expect_tunnel(&connect_name(batch, TARGET).expect("an answer"));
    expect_tunnel(&connect_name_from(CI, batch, TARGET).expect("an answer"));
    assert_eq!(authenticates(&gateway), [2.0, 2.0, 2.0, 0.0], "the listener takes precedence over the address");
    expect_tunnel(&with_login(common, "joe:let me: in"));
    expect_tunnel(&with_login(batch, "joe:let me: in"));
    assert_eq!(authenticates(&gateway), [2.0, 2.0, 2.0, 2.0], "the login takes precedence over the listener");

    // Each account has its own password, so no identity can have authenticated as another.
    assert_eq!((stub.counters().accepted, stub.counters().refused), (8, 0));
    assert_eq!(
        stub.counters().protocol_errors(),
        0,
        "a client's own login must not reach the upstream: {}",
        stub.counters()
    );
    in_process::stop(gateway);
}

/// Runs curl through the gateway, with `credentials` as its proxy login.
fn curl_as(gateway: SocketAddr, credentials: &str) -> Finished {
    let proxy = format!("http://{gateway}");
    let args = ["--verbose", "--proxytunnel", "--proxy", &proxy, "--proxy-user", credentials, "http://hello.test/"];
    curl(BOUND, args)
}

#[test]
fn curl_can_log_on_and_a_wrong_login_never_reaches_the_upstream() {
    require_tools!("curl");
    let (stub, scratch) = (stub(), Scratch::new("identities"));
    let gateway = in_process::gateway_of(&several_identities(&scratch, stub.address()));
    let address = in_process::address(&gateway);
    let page = curl_as(address, "joe:let me: in").expect_success("curl -U").text();
    assert!(page.contains("Hello"), "{page}");
    assert_eq!(authenticates(&gateway), [0.0, 0.0, 0.0, 1.0]);
    for wrong in ["joe:let me out", "joe:", "jim:let me: in"] {
        let refused = curl_as(address, wrong);
        assert_ne!(refused.code, Some(0));
        let stderr = &refused.stderr;
        assert!(
            stderr.contains("< HTTP/1.1 407 ") && stderr.contains("< Proxy-Authenticate: Basic realm="),
            "{stderr}"
        );
    }
    assert_eq!(stub.counters().connections_opened, 1, "a wrong login must not reach the upstream");
    assert_eq!(metric(&gateway, "faults_total", &[("cause", "login_required"), ("side", "downstream")]), 3.0);
    assert_eq!(metric(&gateway, "guard_state", &[("state", "refused")]), 0.0);
    in_process::stop(gateway);
}

#[test]
fn a_client_without_identity_gets_407_if_logins_exist_and_403_otherwise() {
    let (stub, scratch) = (stub(), Scratch::new("identities"));
    let top = format!("upstream = '{}'\nwarm = 0\n", stub.address());
    let ci = identity(&scratch, "ci", "clients = '127.0.0.2'");
    let gateway = in_process::gateway_of(&format!("{top}{ci}"));
    let answer = connect_name(in_process::address(&gateway), TARGET).expect("an answer");
    assert_eq!((answer.status(), answer.field("proxy-authenticate")), (403, None), "{}", answer.head);
    assert_eq!(metric(&gateway, "faults_total", &[("cause", "no_identity"), ("side", "gateway")]), 1.0);
    in_process::stop(gateway);

    let login = scratch.write("login", "let me in");
    let desk = identity(&scratch, "desk", &format!("proxy_user = 'joe'\nproxy_password_file = '{}'", login.display()));
    let gateway = in_process::gateway_of(&format!("{top}{ci}{desk}"));
    let answer = connect_name(in_process::address(&gateway), TARGET).expect("an answer");
    assert_eq!(answer.status(), 407, "{}", answer.head);
    assert!(
        answer.field("proxy-authenticate").is_some_and(|challenge| challenge.starts_with("Basic ")),
        "{}",
        answer.head
    );
    expect_tunnel(&with_login(in_process::address(&gateway), "joe:let me in"));
    assert_eq!(stub.counters().connections_opened, 1);
    in_process::stop(gateway);
}

#[test]
fn an_upstreams_identity_serves_clients_without_their_own() {
    let (stub, scratch) = (stub(), Scratch::new("identities"));
    let text = format!(
        "user = 'CORP\\alice'\nwarm = 0\n{}{}\
         [[upstreams]]\nname = 'own'\naddress = '{}'\n\
         [[upstreams]]\nname = 'theirs'\naddress = '{}'\ngroup = 'partners'\nidentity = 'partner'\n\
         [[routes]]\nhost = '.partner.test'\nto = 'partners'\n",
        identity(&scratch, "ci", "clients = '127.0.0.2'"),
        identity(&scratch, "partner", "clients = '192.0.2.0/24'"),
        stub.address(),
        stub.address(),
    );
    let gateway = in_process::gateway_of(&text);
    let address = in_process::address(&gateway);
    let authenticates = |upstream, identity| {
        metric(&gateway, "authenticate_messages_total", &[("upstream", upstream), ("identity", identity)])
    };
    expect_tunnel(&connect_name(address, TARGET).expect("an answer"));
    expect_tunnel(&connect_name(address, "echo.partner.test:7").expect("an answer"));
    expect_tunnel(&connect_name_from(CI, address, "echo.partner.test:7").expect("an answer"));
    assert_eq!((authenticates("own", "default"), authenticates("own", "partner")), (1.0, 0.0));
    assert_eq!(
        (authenticates("theirs", "partner"), authenticates("theirs", "ci"), authenticates("theirs", "default")),
        (1.0, 1.0, 0.0)
    );
    assert_eq!((stub.counters().accepted, stub.counters().refused), (3, 0));
    in_process::stop(gateway);
}

/// A gateway with a configuration for a stub, and that stub, where the accounts in `changed` have new passwords.
fn gateway_with_outdated_passwords(
    changed: &[&str],
    config: impl FnOnce(SocketAddr) -> String,
) -> (StubServer, Gateway) {
    let stub = stub();
    changed.iter().for_each(|user| stub.set_password("CORP", user, "changed meanwhile"));
    let gateway = in_process::gateway_of(&config(stub.address()));
    (stub, gateway)
}

#[test]
fn one_identitys_wrong_password_closes_only_its_own_guard() {
    let scratch = Scratch::new("identities");
    let (_stub, gateway) = gateway_with_outdated_passwords(&["ci"], |stub| several_identities(&scratch, stub));
    let address = in_process::address(&gateway);
    let state = |identity, state| metric(&gateway, "guard_state", &[("identity", identity), ("state", state)]);
    for _ in 0..10 {
        assert_eq!(connect_name_from(CI, address, TARGET).expect("an answer").status(), 502);
        expect_tunnel(&connect_name(address, TARGET).expect("an answer"));
    }
    assert_eq!(authenticates(&gateway), [10.0, 1.0, 0.0, 0.0]);
    assert_eq!((state("ci", "refused"), state("default", "proven"), state("batch", "unproven")), (1.0, 1.0, 1.0));
    assert_eq!(in_process::readyz(&gateway).0, 200, "the other identities still work");
    assert_eq!(metric(&gateway, "upstream_up", &[]), 1.0, "a wrong password is not the upstream's fault");
    in_process::stop(gateway);
}

#[test]
fn readiness_ends_when_no_identity_is_accepted_any_more() {
    let scratch = Scratch::new("identities");
    let ci = identity(&scratch, "ci", "clients = '127.0.0.2'");
    let (_stub, gateway) = gateway_with_outdated_passwords(&["alice", "ci"], |stub| {
        format!("upstream = '{stub}'\nuser = 'CORP\\alice'\nwarm = 0\n{ci}")
    });
    let address = in_process::address(&gateway);
    assert_eq!(connect_name(address, TARGET).expect("an answer").status(), 502);
    assert_eq!(in_process::readyz(&gateway).0, 200);
    assert_eq!(connect_name_from(CI, address, TARGET).expect("an answer").status(), 502);
    let (status, why) = in_process::readyz(&gateway);
    assert!(status == 503 && why.contains("refuses the credentials"), "{status} {why}");
    in_process::stop(gateway);
}

#[test]
fn a_reload_that_changes_one_identity_keeps_the_guards_of_the_others() {
    let (stub, scratch) = (stub(), Scratch::new("identities"));
    stub.set_password("CORP", "ci", "the new one");
    stub.set_password("CORP", "partner", "unknown to all");
    let text = |ci: &str, extra: &str| {
        let partner = identity(&scratch, "partner", "clients = '127.0.0.3'");
        scratch.write("gateway.toml", format!("warm = 0\n{extra}{ci}{partner}"))
    };
    let ci = identity(&scratch, "ci", "clients = '127.0.0.2'");
    let file = text(&ci, "");
    let mut options = GatewayOptions::through(stub.address());
    options.args = vec!["--config".into(), file.display().to_string()];
    let gateway = support::gateway::Gateway::start(&options);
    let from =
        |last: u8| connect_name_from(IpAddr::from([127, 0, 0, last]), gateway.address(), TARGET).expect("an answer");
    let state = |identity: &str| {
        let of = |state| gateway.metric("ntlm_gateway_guard_state", &[("identity", identity), ("state", state)]);
        ["unproven", "proven", "refused"].into_iter().find(|state| of(state) == Some(1.0))
    };
    let open_tunnel = from(1);
    expect_tunnel(&open_tunnel);
    assert_eq!((from(2).status(), from(3).status()), (502, 502));
    assert_eq!((state("default"), state("ci"), state("partner")), (Some("proven"), Some("refused"), Some("refused")));

    scratch.write("ci", "the new one\n");
    gateway.signal(Signal::HUP);
    assert!(wait_for(BOUND, || (state("ci") == Some("unproven")).then_some(())).is_some(), "{:?}", state("ci"));
    expect_tunnel(&from(2));
    let held = from(3);
    assert!(held.status() == 502 && held.head.contains("not tried again"), "{}", held.head);
    assert_eq!((state("default"), state("ci"), state("partner")), (Some("proven"), Some("proven"), Some("refused")));
    assert_eq!(stub.counters().refused, 2, "one each, before the reload");

    // Without ci, its clients use the default identity.
    text("", "");
    gateway.signal(Signal::HUP);
    assert!(wait_for(BOUND, || state("ci").is_none().then_some(())).is_some(), "{:?}", state("ci"));
    let before = gateway.metric("ntlm_gateway_authenticate_messages_total", &[("identity", "default")]);
    expect_tunnel(&from(2));
    let after = gateway.metric("ntlm_gateway_authenticate_messages_total", &[("identity", "default")]);
    assert_eq!(after, before.map(|count| count + 1.0));
    expect_tunnel(&open_tunnel);
}

#[test]
fn a_reload_does_not_give_a_listener_to_another_identity() {
    let (stub, scratch) = (stub(), Scratch::new("identities"));
    let [ci_port, batch_port] = [(); 2].map(|()| support::scratch::free_port());
    let entry = |name, port: u16| identity(&scratch, name, &format!("listen = '127.0.0.1:{port}'"));
    let (ci, batch) = (entry("ci", ci_port), entry("batch", batch_port));
    let file = scratch.write("gateway.toml", format!("warm = 0\n{ci}{batch}"));
    let mut options = GatewayOptions::through(stub.address());
    options.args = vec!["--config".into(), file.display().to_string()];
    let gateway = support::gateway::Gateway::start(&options);
    let counted = |identity| gateway.metric("ntlm_gateway_authenticate_messages_total", &[("identity", identity)]);
    let expect_own = |round: f64| {
        for (name, port) in [("ci", ci_port), ("batch", batch_port)] {
            expect_tunnel(&connect_name(SocketAddr::from(([127, 0, 0, 1], port)), TARGET).expect("an answer"));
            assert_eq!(counted(name), Some(round), "{name}");
        }
    };
    expect_own(1.0);
    // Another order, and one more listener, which takes effect only after a restart.
    let desk = entry("desk", support::scratch::free_port());
    scratch.write("gateway.toml", format!("warm = 0\n{desk}{batch}{ci}"));
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("listen has changed; this takes effect at the next start");
    let applied =
        || gateway.metric("ntlm_gateway_config_reloads_total", &[("outcome", "applied")]).filter(|n| *n >= 1.0);
    assert!(wait_for(BOUND, applied).is_some());
    expect_own(2.0);
    // The watched file takes the listener from ci.
    scratch.write("gateway.toml", format!("warm = 0\n{batch}"));
    gateway.signal(Signal::HUP);
    let line = gateway.wait_for_line("no longer belongs to an identity");
    assert!(line.contains(" WARN ") && line.contains(&format!("127.0.0.1:{ci_port} ")), "{line}");
    let ask = || connect_name(SocketAddr::from(([127, 0, 0, 1], ci_port)), TARGET).expect("an answer").status();
    assert!(wait_for(BOUND, || (ask() == 403).then_some(())).is_some(), "{}", ask());
    assert_eq!(counted("default").unwrap_or_default(), 0.0);
    gateway.wait_for_line("end=listener_withdrawn");
}

/// A configuration with alice as the default, the common listener `common`, and further entries.
fn with_entries(common: SocketAddr, upstream: SocketAddr, entries: &[String]) -> Config {
    let entries = entries.concat();
    in_process::config_of(&format!(
        "listen = '{common}'\nupstream = '{upstream}'\nuser = 'CORP\\alice'\nwarm = 0\n{entries}"
    ))
}

#[test]
fn a_port_that_a_reload_takes_from_its_identity_rejects_clients() {
    let (stub, scratch) = (stub(), Scratch::new("identities"));
    let [common, own, moved] = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], support::scratch::free_port())));
    let entry = |name, address: SocketAddr| identity(&scratch, name, &format!("listen = '{address}'"));
    let config = |entries: &[String]| with_entries(common, stub.address(), entries);
    let gateway = Gateway::start(&config(&[entry("ci", own)]), || {}).expect("a gateway");
    let counted = || {
        ["default", "ci", "batch"].map(|name| metric(&gateway, "authenticate_messages_total", &[("identity", name)]))
    };
    let reload = |config: &Config| gateway.reconfigure(config).map(drop).expect("a reload");
    let withdrawn = || metric(&gateway, "faults_total", &[("cause", "listener_withdrawn"), ("side", "gateway")]);
    let ask_own = || connect_name(own, TARGET).expect("an answer");

    expect_tunnel(&ask_own());
    // The identity of a connected client is checked again with each request.
    let mut connected = ask(own, b"GET http://hello.test/ HTTP/1.1\r\nHost: hello.test\r\n\r\n").expect("an answer");
    let length = connected.field("content-length").and_then(|length| length.parse().ok()).expect("a length");
    connected.stream.read_exact(&mut vec![0; length]).expect("the page");
    let before = counted();
    assert!(before[0] < 1.0 && before[1] > 0.0, "{before:?}");

    // The listener is removed or moved, or the whole identity is removed.
    let ci = identity(&scratch, "ci", "clients = '192.0.2.0/24'");
    for (round, entries) in [vec![ci], vec![entry("ci", moved)], vec![]].into_iter().enumerate() {
        reload(&config(&entries));
        let answer = ask_own();
        assert_eq!(answer.status(), 403, "round {round}: {}", answer.head);
        assert!(
            answer.field("proxy-status").is_some_and(|status| status.contains("from its identity")),
            "{}",
            answer.head
        );
        let by_get = ask(own, b"GET http://hello.test/ HTTP/1.1\r\nHost: hello.test\r\n\r\n").expect("an answer");
        assert_eq!(by_get.status(), 403);
        assert_eq!(withdrawn(), 2.0 * (round + 1) as f64);
    }
    connected.stream.write_all(b"GET http://hello.test/ HTTP/1.1\r\nHost: hello.test\r\n\r\n").expect("a request");
    assert!(read_head(&mut connected.stream).expect("an answer").starts_with("HTTP/1.1 403 "));
    assert_eq!(counted(), before, "no request was served there");
    expect_tunnel(&connect_name(common, TARGET).expect("an answer"));

    // The listener goes to another identity, becomes a common one on purpose, and goes back.
    reload(&config(&[entry("batch", own)]));
    expect_tunnel(&ask_own());
    let mut for_all = config(&[]);
    for_all.common_listen.push(own);
    reload(&for_all);
    expect_tunnel(&ask_own());
    reload(&config(&[entry("ci", own)]));
    expect_tunnel(&ask_own());
    let rise = [0, 1, 2].map(|place| counted()[place] - before[place]);
    assert_eq!(rise, [2.0, 1.0, 1.0]);
    in_process::stop(gateway);
}

#[test]
fn an_undecodable_basic_login_never_uses_the_default_identity() {
    let (stub, scratch) = (stub(), Scratch::new("identities"));
    let gateway = in_process::gateway_of(&several_identities(&scratch, stub.address()));
    let address = in_process::address(&gateway);
    let show = |gateway, value: &[u8]| {
        let head = format!("CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\nProxy-Authorization: ");
        ask(gateway, &[head.as_bytes(), value, b"\r\n\r\n"].concat()).expect("an answer")
    };
    // No base64, no UTF-8, no colon, empty.
    for value in [b"Basic ~~~~".as_slice(), b"Basic /zp4", b"Basic am9l", b"Basic ", b"Basic"] {
        let answer = show(address, value);
        assert_eq!(answer.status(), 407, "{}", answer.head);
        assert!(
            answer.field("proxy-authenticate").is_some_and(|challenge| challenge.starts_with("Basic ")),
            "{}",
            answer.head
        );
    }
    assert_eq!(authenticates(&gateway), [0.0; 4]);
    assert_eq!(metric(&gateway, "client_logins_total", &[("outcome", "refused")]), 5.0);
    in_process::stop(gateway);

    // Where no login is configured, a client's credentials are not meant for the gateway.
    let gateway = in_process::gateway(&stub.address().to_string(), &[]);
    expect_tunnel(&show(in_process::address(&gateway), b"Basic am9l"));
    in_process::stop(gateway);
}

#[test]
fn logins_from_an_address_are_throttled_after_five_wrong_ones() {
    let (stub, scratch) = (stub(), Scratch::new("identities"));
    let config = || in_process::config_of(&several_identities(&scratch, stub.address()));
    let gateway = Gateway::start(&config(), || {}).expect("a gateway");
    let address = in_process::address(&gateway);
    let outcomes = |outcome| metric(&gateway, "client_logins_total", &[("outcome", outcome)]);
    for guess in 0..5 {
        assert_eq!(with_login(address, &format!("joe:guess {guess}")).status(), 407);
    }
    // From now on the response is the same for right and wrong logins of any user, and a reload does not change that.
    for (round, credentials) in ["joe:guess 5", "jim:x", "joe:let me: in", "joe:let me: in"].into_iter().enumerate() {
        let answer = with_login(address, credentials);
        assert_eq!((answer.status(), answer.field("retry-after")), (429, Some("10")), "{}", answer.head);
        if round == 2 {
            gateway.reconfigure(&config()).expect("a reload");
        }
    }
    assert_eq!((outcomes("refused"), outcomes("throttled"), outcomes("accepted")), (5.0, 4.0, 0.0));
    assert_eq!(metric(&gateway, "faults_total", &[("cause", "login_throttled"), ("side", "downstream")]), 4.0);
    // Neither other addresses nor requests without a login from the same address are affected.
    let joe = b"CONNECT echo.test:7 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic am9lOmxldCBtZTogaW4=\r\n\r\n";
    expect_tunnel(&ask_from([127, 0, 0, 3].into(), address, joe).expect("an answer"));
    expect_tunnel(&connect_name(address, TARGET).expect("an answer"));
    assert_eq!(authenticates(&gateway), [1.0, 0.0, 0.0, 1.0]);
    in_process::stop(gateway);
}

/// A proxy that accepts Basic from one user and echoes. It counts its requests and those with Basic credentials.
struct BasicProxy {
    listener: Listener,
    requests: Arc<AtomicUsize>,
    authenticates: Arc<AtomicUsize>,
}

impl BasicProxy {
    /// `offer` is the challenge in its 407.
    fn start(credentials: &str, offer: &'static str) -> Self {
        use base64::Engine as _;
        let expected =
            format!("Proxy-Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(credentials));
        let (requests, authenticates) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen_requests, seen_authenticates) = (Arc::clone(&requests), Arc::clone(&authenticates));
        let listener = Listener::start(move |mut stream| {
            while let Ok(head) = read_head(&mut stream) {
                seen_requests.fetch_add(1, Ordering::Relaxed);
                if head.contains("Proxy-Authorization: Basic ") {
                    seen_authenticates.fetch_add(1, Ordering::Relaxed);
                }
                if !head.contains(&expected) {
                    let answer =
                        format!("HTTP/1.1 407 Who\r\nProxy-Authenticate: {offer}\r\nContent-Length: 4\r\n\r\nWho?");
                    let _ = stream.write_all(answer.as_bytes());
                    continue;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..length]);
                }
                return;
            }
        });
        Self { listener, requests, authenticates }
    }

    fn authenticates(&self) -> usize {
        self.authenticates.load(Ordering::Relaxed)
    }
}

/// A gateway with the identity alice, her password in a file, and Basic allowed or not.
fn gateway_as_alice(upstream: SocketAddr, password: &str, allow_basic: bool, further: &str) -> Gateway {
    let scratch = Scratch::new("basic");
    let file = scratch.write("password", password);
    let text = format!("[[identities]]\nname = 'alice'\nuser = 'CORP\\alice'\npassword_file = '{}'\n", file.display());
    in_process::gateway_of(&format!("upstream = '{upstream}'\n{further}\n{text}allow_basic = {allow_basic}\n"))
}

#[test]
fn basic_is_used_only_where_allowed_and_nothing_better_is_offered() {
    let (_, _, password) = ACCOUNT;
    let proxy = BasicProxy::start(&format!("CORP\\alice:{password}"), "Basic realm=\"proxy\"");
    let gateway = gateway_as_alice(proxy.listener.address(), password, false, "");
    let answer = connect_name(in_process::address(&gateway), TARGET).expect("an answer");
    let detail = answer.field("proxy-status").unwrap_or_default();
    assert!(answer.status() == 502 && detail.contains("it offers: Basic"), "{}", answer.head);
    assert_eq!(proxy.authenticates(), 0, "the password must not be sent");
    in_process::stop(gateway);

    let gateway = gateway_as_alice(proxy.listener.address(), password, true, "");
    for _ in 0..5 {
        expect_tunnel(&connect_name(in_process::address(&gateway), TARGET).expect("an answer"));
    }
    assert_eq!(proxy.authenticates(), 5);
    let first = proxy.requests.load(Ordering::Relaxed);
    expect_tunnel(&connect_name(in_process::address(&gateway), TARGET).expect("an answer"));
    assert_eq!(proxy.requests.load(Ordering::Relaxed), first + 1, "one request, because the scheme is known by now");
    in_process::stop(gateway);

    // A proxy that offers NTLM as well as Basic. The stub counts credentials of other schemes as protocol errors.
    let better = stub_of(Personality::ChallengesNotFirst);
    let gateway = gateway_as_alice(better.address(), password, true, "");
    expect_tunnel(&connect_name(in_process::address(&gateway), TARGET).expect("an answer"));
    assert_eq!(better.counters().protocol_errors(), 0, "{}", better.counters());
    in_process::stop(gateway);
}

#[test]
fn the_guard_limits_wrong_passwords_with_basic_as_with_ntlm() {
    let proxy = BasicProxy::start("CORP\\alice:another", "Basic realm=\"proxy\"");
    let gateway = gateway_as_alice(proxy.listener.address(), ACCOUNT.2, true, "");
    for _ in 0..20 {
        assert_eq!(connect_name(in_process::address(&gateway), TARGET).expect("an answer").status(), 502);
    }
    assert_eq!(proxy.authenticates(), 1);
    assert_eq!(metric(&gateway, "guard_state", &[("state", "refused")]), 1.0);
    in_process::stop(gateway);
}

#[test]
fn a_basic_upstream_passes_the_handshake_check() {
    let proxy = Arc::new(BasicProxy::start(&format!("CORP\\alice:{}", ACCOUNT.2), "Basic realm=\"proxy\""));
    let broken = Arc::new(AtomicBool::new(false));
    // A relay in front of the proxy that can be cut.
    let (through, is_broken) = (proxy.listener.address(), Arc::clone(&broken));
    let relay = Listener::start(move |client| {
        if is_broken.load(Ordering::Acquire) {
            return;
        }
        let proxy = std::net::TcpStream::connect(through).expect("the proxy");
        let copy = |mut from: std::net::TcpStream, mut to: std::net::TcpStream| {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        };
        let (from, to) = (client.try_clone().expect("a socket"), proxy.try_clone().expect("a socket"));
        let there = std::thread::spawn(move || copy(from, to));
        copy(proxy, client);
        let _ = there.join();
    });
    let check = format!("check = 'handshake'\ncheck_target = '{TARGET}'");
    let gateway = gateway_as_alice(relay.address(), ACCOUNT.2, true, &check);
    let ask = || connect_name(in_process::address(&gateway), TARGET).expect("an answer");
    expect_tunnel(&ask());
    broken.store(true, Ordering::Release);
    let down = || {
        ask();
        (metric(&gateway, "upstream_up", &[]) < 1.0).then_some(())
    };
    assert!(wait_for(BOUND, down).is_some(), "it is never ejected");
    broken.store(false, Ordering::Release);
    assert!(wait_for(BOUND, || (ask().status() == 200).then_some(())).is_some(), "it never recovers");
    in_process::stop(gateway);
}

/// Forwards everything to a proxy until `strips` is set; then it answers in the proxy's place and offers only Basic.
struct Stripper {
    listener: Listener,
    strips: Arc<AtomicBool>,
    /// Requests that contained the password.
    basic: Arc<AtomicUsize>,
}

impl Stripper {
    fn before(proxy: SocketAddr) -> Self {
        let (strips, basic) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (does_strip, seen) = (Arc::clone(&strips), Arc::clone(&basic));
        let listener = Listener::start(move |mut client| {
            if does_strip.load(Ordering::Acquire) {
                while let Ok(head) = read_head(&mut client) {
                    let shown = head.contains("Proxy-Authorization: Basic ");
                    seen.fetch_add(usize::from(shown), Ordering::AcqRel);
                    let answer = match shown {
                        true => "HTTP/1.1 200 OK\r\n\r\n",
                        false => {
                            "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n"
                        }
                    };
                    let _ = client.write_all(answer.as_bytes());
                }
                return;
            }
            let Ok(proxy) = std::net::TcpStream::connect(proxy) else { return };
            let copy = |mut from: std::net::TcpStream, mut to: std::net::TcpStream| {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            };
            let (from, to) = (client.try_clone().expect("a socket"), proxy.try_clone().expect("a socket"));
            let there = std::thread::spawn(move || copy(from, to));
            copy(proxy, client);
            let _ = there.join();
        });
        Self { listener, strips, basic }
    }
}

/// Five logons through `proxy` by NTLM, then 407s without it. No password is sent, whatever the request and after any
/// reload, until the operator gives the upstream another name.
fn assert_never_downgrades_to_basic(proxy: SocketAddr, target: &str, url: &str) {
    let (stripper, scratch) = (Stripper::before(proxy), Scratch::new("downgrade"));
    let text = |name: &str, ci_password: &str| {
        let alice = scratch.write("alice", ACCOUNT.2);
        let ci = scratch.write("ci", ci_password);
        let entry = |name: &str, file: &std::path::Path, further: &str| {
            format!(
                "[[identities]]\nname = '{name}'\nuser = 'CORP\\{name}'\npassword_file = '{}'\nallow_basic = true\n{further}\n",
                file.display()
            )
        };
        let upstream = format!("[[upstreams]]\nname = '{name}'\naddress = '{}'\n", stripper.listener.address());
        format!("warm = 0\n{}{}{upstream}", entry("alice", &alice, ""), entry("ci", &ci, "clients = '127.0.0.2'"))
    };
    let gateway = in_process::gateway_of(&text("first", OTHER_ACCOUNTS[0].1));
    let address = in_process::address(&gateway);
    let ci = || connect_name_from(CI, address, target).expect("an answer");
    let get = || ask(address, format!("GET {url} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("an answer");
    for _ in 0..5 {
        assert_eq!(connect_name(address, target).expect("an answer").status(), 200);
    }

    stripper.strips.store(true, Ordering::Release);
    let answer = connect_name(address, target).expect("an answer");
    let detail = answer.field("proxy-status").unwrap_or_default();
    assert!(answer.status() == 502 && detail.contains("not sent as Basic"), "{}", answer.head);
    assert_eq!(metric(&gateway, "faults_total", &[("cause", "scheme_downgraded"), ("side", "upstream")]), 1.0);
    assert_eq!([ci().status(), get().status()], [502, 502], "other identities must not downgrade either");
    gateway.reconfigure(&in_process::config_of(&text("first", "another"))).expect("a reload");
    assert_eq!([ci().status(), get().status(), connect_name(address, target).expect("an answer").status()], [502; 3]);
    assert_eq!(stripper.basic.load(Ordering::Acquire), 0, "the password must not be sent");

    // Under another name the password is sent, so the check above could have failed.
    gateway.reconfigure(&in_process::config_of(&text("second", "another"))).expect("a reload");
    assert_eq!(connect_name(address, target).expect("an answer").status(), 200);
    assert_eq!(stripper.basic.load(Ordering::Acquire), 1);
    in_process::stop(gateway);
}

#[test]
fn an_upstream_that_spoke_ntlm_never_receives_the_password_as_basic() {
    assert_never_downgrades_to_basic(stub().address(), TARGET, "http://hello.test/");
}

#[test]
fn a_stripped_407_in_front_of_a_real_squid_receives_no_password() {
    require_tools!("squid", "ntlm_auth");
    let squid = Squid::start(&SquidOptions::default());
    let origin = echo_origin();
    let target = origin.address().to_string();
    assert_never_downgrades_to_basic(squid.address(), &target, &format!("http://{target}/"));
}

#[test]
fn a_real_squid_accepts_basic_and_sees_a_wrong_password_once() {
    require_tools!("squid", "openssl", "curl", "python3");
    if !std::path::Path::new("/usr/lib/squid/basic_ncsa_auth").exists() {
        skip_for_want_of("Squid's basic_ncsa_auth");
        return;
    }
    let (domain, user, password) = ACCOUNT;
    let users = vec![(format!("{domain}\\{user}"), password.to_owned())];
    let squid = Squid::start(&SquidOptions { basic: Some(users), ..SquidOptions::default() });
    let origin = echo_origin();
    let others = || squid.log().iter().filter(|line| line.credentials == LoggedCredentials::Other).count();

    let mut options = GatewayOptions::through(squid.address());
    options.args = ["--allow-basic"].map(String::from).into();
    let gateway = support::gateway::Gateway::start(&options);
    let answer = connect(gateway.address(), origin.address(), b"").expect("an answer");
    expect_tunnel(&answer);
    drop(answer);
    gateway.wait_for_line("scheme=Basic");
    let https = HttpOrigin::https();
    let (certificate, proxy, url) = (https.certificate(), gateway.url(), https.url("/bytes/100?seed=1"));
    curl(BOUND, ["--fail", "--cacert", &certificate, "--proxy", &proxy, &url]).expect_success("through Basic");
    // Squid logs a tunnel when it closes.
    let granted = |line: &&LogLine| line.user.contains(user) && line.status == "TCP_TUNNEL/200";
    let both = || (squid.log().iter().filter(granted).count() == 2).then_some(());
    assert!(wait_for(BOUND, both).is_some(), "{:?}", squid.log());
    assert!(gateway.log().iter().all(|line| !line.contains(password)));

    let before = others();
    options.password = "N0t-the-secret".into();
    let gateway = support::gateway::Gateway::start(&options);
    for _ in 0..10 {
        assert_eq!(connect(gateway.address(), origin.address(), b"").expect("an answer").status(), 502);
    }
    assert!(wait_for(BOUND, || (others() > before).then_some(())).is_some());
    assert_eq!(others(), before + 1);

    options.args.clear();
    let gateway = support::gateway::Gateway::start(&options);
    let answer = connect(gateway.address(), origin.address(), b"").expect("an answer");
    assert!(answer.head.contains("it offers: Basic"), "{}", answer.head);
    assert_eq!(others(), before + 1);
}
