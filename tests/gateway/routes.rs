//! Where requests go: through a group of upstreams, straight to their origin, nowhere, or without credentials.

use crate::support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ntlm_gateway::gateway::Gateway;
use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use rustix::process::Signal;
use support::client::{Answered, connect, connect_name, echo_through};
use support::gateway::GatewayOptions;
use support::in_process::{self, ACCOUNT, metric};
use support::listener::{BlackHole, Listener, Refusing};
use support::origin::echo_origin;
use support::scratch::{Scratch, wait_for};
use support::tools::skip_without_mounts;

const BOUND: Duration = Duration::from_secs(20);

fn stub(personality: Personality) -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password).personality(personality)).expect("a stub")
}

/// Two groups and an origin of our own.
struct Rig {
    own: StubServer,
    partners: StubServer,
    origin: Listener,
    gateway: Gateway,
}

/// Which way a tunnel went.
#[derive(Debug, PartialEq, Eq)]
enum Went {
    Own,
    Partners,
    Direct,
    Nowhere(u16, &'static str),
}

impl Rig {
    fn new(top: &str, routes: &str) -> Self {
        let (own, partners) = (stub(Personality::Plain), stub(Personality::Plain));
        let text = format!(
            "user = 'CORP\\alice'\nwarm = 0\n{top}\n\
             [[upstreams]]\nname = 'own'\naddress = '{}'\n\
             [[upstreams]]\nname = 'partner'\naddress = '{}'\ngroup = 'partners'\n{routes}",
            own.address(),
            partners.address()
        );
        Self { own, partners, origin: echo_origin(), gateway: in_process::gateway_of(&text) }
    }

    fn ask(&self, target: &str) -> Answered {
        connect_name(in_process::address(&self.gateway), target).expect("an answer")
    }

    /// Asks for a target and sees which way it went.
    fn way_of(&self, target: &str) -> Went {
        let counts = || (self.own.counters().requests, self.partners.counters().requests);
        let (before, answer) = (counts(), self.ask(target));
        let after = counts();
        match (answer.status(), after.0 > before.0, after.1 > before.1) {
            (200, false, false) => {
                assert_eq!(echo_through(&answer.stream, b"straight?").expect("an echo"), b"straight?");
                Went::Direct
            }
            // Not every target has an origin that the stub plays; what counts is that it was asked.
            (200 | 503, true, false) => Went::Own,
            (200 | 503, false, true) => Went::Partners,
            (status, false, false) => {
                let told = answer.field("proxy-status").unwrap_or_default();
                assert!(!told.contains("next-hop"), "{told}");
                let error = told.split("error=").nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default();
                Went::Nowhere(status, Box::leak(error.to_owned().into_boxed_str()))
            }
            other => panic!("{target}: {other:?}: {}", answer.head),
        }
    }

    #[track_caller]
    fn expect(&self, cases: &[(&str, Went)]) {
        for (target, expected) in cases {
            assert_eq!(self.way_of(target), *expected, "{target}");
        }
    }

    fn end(self) {
        assert_eq!(self.own.counters().protocol_errors() + self.partners.counters().protocol_errors(), 0);
        in_process::stop(self.gateway);
    }
}

const DENIED: Went = Went::Nowhere(403, "http_request_denied");

#[test]
fn the_first_route_that_matches_host_network_and_port_decides() {
    let rig = Rig::new(
        "",
        "[[routes]]\nhost = 'echo.exact.example'\nto = 'partners'\n\
         [[routes]]\nhost = ['.partner.example', 'echo.build-*.example.net']\nto = 'partners'\n\
         [[routes]]\nport = [25, '465-587']\nto = 'deny'\n\
         [[routes]]\nhost = '*.secret.example'\nto = 'deny'\n\
         [[routes]]\nnetwork = ['127.0.0.0/8']\nto = 'direct'\n\
         [[routes]]\nhost = 'localhost'\nto = 'direct'\n",
    );
    let (v4, named) = (rig.origin.address().to_string(), format!("LocalHost:{}", rig.origin.address().port()));
    rig.expect(&[
        ("echo.test:7", Went::Own),
        ("echo.exact.example:7", Went::Partners),
        ("ECHO.Exact.Example.:7", Went::Partners),
        ("echo.more.exact.example:7", Went::Own),
        ("echo.partner.example:443", Went::Partners),
        ("partner.example:443", Went::Own),
        ("echo.build-17.example.net:443", Went::Partners),
        ("echo.build-17.example.net:25", Went::Partners),
        ("echo.test:25", DENIED),
        ("echo.test:500", DENIED),
        ("echo.test:588", Went::Own),
        ("echo.very.secret.example:443", DENIED),
        ("127.0.0.1:25", DENIED),
        (&v4, Went::Direct),
        (&named, Went::Direct),
    ]);
    let faults = [("cause", "destination_denied"), ("side", "downstream"), ("stage", "read_head")];
    assert_eq!(metric(&rig.gateway, "faults_total", &faults), 4.0);
    rig.end();
}

#[test]
fn no_proxy_connects_directly_to_the_origin() {
    let own_port = echo_origin();
    let top = format!(
        "no_proxy = ['127.0.0.0/9', 'localhost', '.svc', '*.cluster.local', 'echo.test:{}', '[::1]', '10.1.2.3:99']",
        own_port.address().port()
    );
    let rig = Rig::new(&top, "[[routes]]\nhost = 'deny.svc'\nto = 'deny'\n");
    let (v4, named) = (rig.origin.address().to_string(), format!("localhost:{}", rig.origin.address().port()));
    let unresolved = || Went::Nowhere(502, "dns_error");
    rig.expect(&[
        (&v4, Went::Direct),
        (&named, Went::Direct),
        ("127.200.0.1:7", Went::Own),
        ("echo.svc:80", unresolved()),
        ("svc:80", Went::Own),
        ("echo.some.cluster.local:80", unresolved()),
        ("deny.svc:80", DENIED),
        ("echo.test:7", Went::Own),
        (&format!("echo.test:{}", own_port.address().port()), unresolved()),
        ("10.1.2.3:98", Went::Own),
        // Nobody listens there.
        (&format!("[::1]:{}", Refusing::new().address.port()), Went::Nowhere(502, "connection_refused")),
    ]);
    rig.end();
}

#[test]
fn direct_requests_need_no_upstream_and_no_account() {
    let (dead, origin) = (Refusing::new(), echo_origin());
    let gateway = in_process::gateway(&dead.address.to_string(), &[("no_proxy", "127.0.0.1,localhost")]);
    let address = in_process::address(&gateway);
    for _ in 0..5 {
        assert_eq!(connect_name(address, "echo.test:7").expect("an answer").status(), 502);
        let answer = connect(address, origin.address(), b"and what follows the head").expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        assert_eq!(echo_through(&answer.stream, b"").expect("nothing"), b"");
        let mut back = [0; 25];
        std::io::Read::read_exact(&mut &answer.stream, &mut back).expect("what was sent behind the head");
        assert_eq!(&back, b"and what follows the head");
    }
    assert_eq!(metric(&gateway, "upstream_up", &[]), 0.0);
    in_process::stop(gateway);
}

#[test]
fn a_direct_origin_that_does_not_accept_is_given_up_in_time() {
    let hole = BlackHole::new();
    for (setting, value) in [("timeouts.connect", "400ms"), ("timeouts.handshake", "400ms")] {
        let gateway = in_process::gateway("127.0.0.1:9", &[("no_proxy", "127.0.0.1"), (setting, value)]);
        let began = Instant::now();
        let answer = connect(in_process::address(&gateway), hole.address, b"").expect("an answer");
        assert!(answer.status() == 504 && answer.head.contains("connection_timeout"), "{}", answer.head);
        assert!(began.elapsed() < Duration::from_secs(2), "{setting}: {:?}", began.elapsed());
        in_process::stop(gateway);
    }
}

#[test]
fn link_local_addresses_are_denied_unless_a_route_names_their_network() {
    let metadata = ["169.254.169.254:80", "[fd00:ec2::254]:80", "[fe80::1]:443", "[::ffff:169.254.169.254]:80"];
    for top in ["", "no_proxy = '*'", "no_proxy = '169.254.0.0/16'"] {
        let rig = Rig::new(top, "");
        rig.expect(&metadata.map(|target| (target, DENIED)));
        rig.end();
    }
    let rig = Rig::new("", "[[routes]]\nnetwork = ['169.254.0.0/16', 'fd00:ec2::/32']\nto = 'default'\n");
    rig.expect(&[(metadata[0], Went::Own), (metadata[1], Went::Own), (metadata[2], DENIED), (metadata[3], Went::Own)]);
    rig.end();
}

#[test]
fn names_of_link_local_addresses_are_denied_unless_a_route_names_the_network() {
    if skip_without_mounts() {
        return;
    }
    let (stub, scratch) = (stub(Personality::Plain), Scratch::new("hosts"));
    let hosts = scratch.write("hosts", "127.0.0.1 localhost\n169.254.169.254 metadata.invalid\n");
    let routes = |text: &str| scratch.write("gateway.toml", format!("no_proxy = '.invalid'\n{text}"));
    let file = routes("");
    let mut options = GatewayOptions::through(stub.address());
    options.args = ["--connect-timeout", "500ms", "--config"].map(String::from).into();
    options.args.push(file.display().to_string());
    options.mounts = vec![(hosts, "/etc/hosts")];
    let gateway = support::gateway::Gateway::start(&options);
    let ask = || connect_name(gateway.address(), "metadata.invalid:80").expect("an answer");
    let answer = ask();
    assert!(answer.status() == 403 && answer.head.contains("link-local"), "{}", answer.head);
    routes("[[routes]]\nnetwork = '169.254.0.0/16'\nto = 'direct'\n");
    gateway.signal(Signal::HUP);
    // Whatever becomes of the attempt, it is made.
    let tried = || (ask().status() != 403).then_some(());
    assert!(wait_for(BOUND, tried).is_some(), "it is still denied");
}

#[test]
fn only_exempt_destinations_are_requested_without_credentials() {
    let upstream = stub(Personality::ExemptHangs);
    let address = upstream.address().to_string();
    let hurried = ("timeouts.handshake", "1s");
    let gateway = in_process::gateway(&address, &[hurried, ("warm", "0")]);
    let answer = connect_name(in_process::address(&gateway), "echo.exempt.test:7").expect("an answer");
    assert_eq!(answer.status(), 504, "the trouble that the setting is for: {}", answer.head);
    in_process::stop(gateway);

    let gateway = in_process::gateway(&address, &[hurried, ("without_credentials", "*.exempt.test")]);
    let before = upstream.counters();
    for _ in 0..5 {
        let answer = connect_name(in_process::address(&gateway), "Echo.Exempt.Test:7").expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        assert_eq!(echo_through(&answer.stream, b"exempt").expect("an echo"), b"exempt");
        let answer = connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
    }
    let after = upstream.counters();
    assert_eq!(after.authenticates - before.authenticates, 5, "{after}");
    assert_eq!(after.protocol_errors(), 0, "{after}");
    in_process::stop(gateway);
}

#[test]
fn a_handshake_follows_when_the_upstream_challenges_an_exempt_destination() {
    for personality in [Personality::Plain, Personality::IsaFirst407Closes, Personality::NegotiateOnly] {
        let upstream = stub(personality);
        let gateway = in_process::gateway(&upstream.address().to_string(), &[("without_credentials", "echo.test")]);
        let answer = connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 200, "{personality}: {}", answer.head);
        assert_eq!((upstream.counters().unprompted, upstream.counters().accepted), (1, 1), "{personality}");
        in_process::stop(gateway);
    }
}

#[test]
fn an_exempt_destination_stays_exempt_at_the_next_upstream() {
    let (second, closing) = (stub(Personality::ExemptHangs), stub(Personality::ClosesOnAccept));
    for first in [Refusing::new().address, closing.address()] {
        let upstreams = format!("{first},{}", second.address());
        let settings = [("timeouts.handshake", "2s"), ("without_credentials", ".exempt.test")];
        let gateway = in_process::gateway(&upstreams, &settings);
        let answer = connect_name(in_process::address(&gateway), "echo.exempt.test:7").expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        in_process::stop(gateway);
    }
    assert_eq!(second.counters().negotiates, 0, "{}", second.counters());
}

#[test]
fn an_exempt_destination_that_does_not_answer_is_not_the_upstreams_fault() {
    // It answers nothing to anybody, as a proxy does while it waits for an origin.
    let (silent, second) = (stub(Personality::Silent), stub(Personality::Plain));
    let upstreams = format!("{},{}", silent.address(), second.address());
    let settings =
        [("timeouts.handshake", "600ms"), ("timeouts.connect", "200ms"), ("without_credentials", ".exempt.test")];
    let gateway = in_process::gateway(&upstreams, &settings);
    for _ in 0..4 {
        let answer = connect_name(in_process::address(&gateway), "echo.exempt.test:7").expect("an answer");
        assert_eq!(answer.status(), 504, "{}", answer.head);
    }
    assert_eq!(metric(&gateway, "upstream_ejections_total", &[]), 0.0);
    in_process::stop(gateway);
}

#[test]
fn an_open_upstream_recovers_from_its_faults_like_any_other() {
    let upstream = stub(Personality::Open);
    let gateway = in_process::gateway(&upstream.address().to_string(), &[]);
    for _ in 0..5 {
        for _ in 0..2 {
            upstream.set_personality(Personality::ClosesOnAccept);
            assert_eq!(connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer").status(), 502);
        }
        upstream.set_personality(Personality::Open);
        let answer = connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 200, "two faults and no more in a row: {}", answer.head);
    }
    assert_eq!(metric(&gateway, "upstream_ejections_total", &[]), 0.0);
    in_process::stop(gateway);
}

#[test]
fn a_reload_changes_routes_and_keeps_open_tunnels() {
    let (stub, origin, scratch) = (stub(Personality::Plain), echo_origin(), Scratch::new("routes"));
    let file = scratch.write("gateway.toml", "no_proxy = '127.0.0.1'\n");
    let mut options = GatewayOptions::through(stub.address());
    options.args = vec!["--config".into(), file.display().to_string()];
    let gateway = support::gateway::Gateway::start(&options);
    let ask = |origin: SocketAddr| connect(gateway.address(), origin, b"").expect("an answer");
    let direct = ask(origin.address());
    let through = connect_name(gateway.address(), "echo.test:7").expect("an answer");
    assert_eq!((direct.status(), through.status()), (200, 200));
    for (round, to, status) in [(1.0, "deny", 403), (2.0, "default", 503), (3.0, "direct", 200)] {
        scratch.write("gateway.toml", format!("[[routes]]\nhost = '127.0.0.1'\nto = '{to}'\n"));
        gateway.signal(Signal::HUP);
        let applied =
            || gateway.metric("ntlm_gateway_config_reloads_total", &[("outcome", "applied")]).filter(|n| *n >= round);
        assert!(wait_for(BOUND, applied).is_some(), "{to}");
        assert_eq!(ask(origin.address()).status(), status, "{to}");
        for tunnel in [&direct, &through] {
            assert_eq!(echo_through(&tunnel.stream, b"still here").expect("an echo"), b"still here");
        }
    }
}
