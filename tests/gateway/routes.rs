//! Routes: through a group of upstreams, directly to the origin, denied, or without credentials.

use crate::support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ntlm_gateway::gateway::Gateway;
use ntlm_gateway::limits;
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

/// A gateway with two groups of upstreams, and an origin.
struct RoutedGateway {
    own: StubServer,
    partners: StubServer,
    origin: Listener,
    gateway: Gateway,
}

/// The route that a request took.
#[derive(Debug, PartialEq, Eq)]
enum RouteTaken {
    Own,
    Partners,
    Direct,
    Failed(u16, &'static str),
}

impl RoutedGateway {
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

    /// Requests a tunnel to a target and returns the route that it took.
    fn route_taken(&self, target: &str) -> RouteTaken {
        let counts = || (self.own.counters().requests, self.partners.counters().requests);
        let (before, answer) = (counts(), self.ask(target));
        let after = counts();
        match (answer.status(), after.0 > before.0, after.1 > before.1) {
            (200, false, false) => {
                assert_eq!(echo_through(&answer.stream, b"direct?").expect("an echo"), b"direct?");
                RouteTaken::Direct
            }
            // The stub does not play an origin for every target. It is enough that it received the request.
            (200 | 503, true, false) => RouteTaken::Own,
            (200 | 503, false, true) => RouteTaken::Partners,
            (status, false, false) => {
                let detail = answer.field("proxy-status").unwrap_or_default();
                assert!(!detail.contains("next-hop"), "{detail}");
                let error = detail.split("error=").nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default();
                RouteTaken::Failed(status, Box::leak(error.to_owned().into_boxed_str()))
            }
            other => panic!("{target}: {other:?}: {}", answer.head),
        }
    }

    #[track_caller]
    fn expect(&self, cases: &[(&str, RouteTaken)]) {
        for (target, expected) in cases {
            assert_eq!(self.route_taken(target), *expected, "{target}");
        }
    }

    fn end(self) {
        assert_eq!(self.own.counters().protocol_errors() + self.partners.counters().protocol_errors(), 0);
        in_process::stop(self.gateway);
    }
}

const DENIED: RouteTaken = RouteTaken::Failed(403, "http_request_denied");

#[test]
fn the_first_route_that_matches_host_network_and_port_decides() {
    let setup = RoutedGateway::new(
        "",
        "[[routes]]\nhost = 'echo.exact.example'\nto = 'partners'\n\
         [[routes]]\nhost = ['.partner.example', 'echo.build-*.example.net']\nto = 'partners'\n\
         [[routes]]\nport = [25, '465-587']\nto = 'deny'\n\
         [[routes]]\nhost = '*.secret.example'\nto = 'deny'\n\
         [[routes]]\nnetwork = ['127.0.0.0/8']\nto = 'direct'\n\
         [[routes]]\nhost = 'localhost'\nto = 'direct'\n",
    );
    let (v4, named) = (setup.origin.address().to_string(), format!("LocalHost:{}", setup.origin.address().port()));
    setup.expect(&[
        ("echo.test:7", RouteTaken::Own),
        ("echo.exact.example:7", RouteTaken::Partners),
        ("ECHO.Exact.Example.:7", RouteTaken::Partners),
        ("echo.more.exact.example:7", RouteTaken::Own),
        ("echo.partner.example:443", RouteTaken::Partners),
        ("partner.example:443", RouteTaken::Own),
        ("echo.build-17.example.net:443", RouteTaken::Partners),
        ("echo.build-17.example.net:25", RouteTaken::Partners),
        ("echo.test:25", DENIED),
        ("echo.test:500", DENIED),
        ("echo.test:588", RouteTaken::Own),
        ("echo.very.secret.example:443", DENIED),
        ("127.0.0.1:25", DENIED),
        (&v4, RouteTaken::Direct),
        (&named, RouteTaken::Direct),
    ]);
    let faults = [("cause", "destination_denied"), ("side", "downstream"), ("stage", "read_head")];
    assert_eq!(metric(&setup.gateway, "faults_total", &faults), 4.0);
    setup.end();
}

#[test]
fn no_proxy_connects_directly_to_the_origin() {
    let own_port = echo_origin();
    let top = format!(
        "no_proxy = ['127.0.0.0/9', 'localhost', '.svc', '*.cluster.local', 'echo.test:{}', '[::1]', '10.1.2.3:99']",
        own_port.address().port()
    );
    let setup = RoutedGateway::new(&top, "[[routes]]\nhost = 'deny.svc'\nto = 'deny'\n");
    let (v4, named) = (setup.origin.address().to_string(), format!("localhost:{}", setup.origin.address().port()));
    let unresolved = || RouteTaken::Failed(502, "dns_error");
    setup.expect(&[
        (&v4, RouteTaken::Direct),
        (&named, RouteTaken::Direct),
        ("127.200.0.1:7", RouteTaken::Own),
        ("echo.svc:80", unresolved()),
        ("svc:80", RouteTaken::Own),
        ("echo.some.cluster.local:80", unresolved()),
        ("deny.svc:80", DENIED),
        ("echo.test:7", RouteTaken::Own),
        (&format!("echo.test:{}", own_port.address().port()), unresolved()),
        ("10.1.2.3:98", RouteTaken::Own),
        // Nothing listens there.
        (&format!("[::1]:{}", Refusing::new().address.port()), RouteTaken::Failed(502, "connection_refused")),
    ]);
    setup.end();
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
        std::io::Read::read_exact(&mut &answer.stream, &mut back).expect("the bytes sent after the head");
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
        assert!(began.elapsed() < limits::CONNECT_TIMEOUT, "not the default: {setting}: {:?}", began.elapsed());
        in_process::stop(gateway);
    }
}

#[test]
fn link_local_addresses_are_denied_unless_a_route_names_their_network() {
    let metadata = ["169.254.169.254:80", "[fd00:ec2::254]:80", "[fe80::1]:443", "[::ffff:169.254.169.254]:80"];
    for top in ["", "no_proxy = '*'", "no_proxy = '169.254.0.0/16'"] {
        let setup = RoutedGateway::new(top, "");
        setup.expect(&metadata.map(|target| (target, DENIED)));
        setup.end();
    }
    let setup = RoutedGateway::new("", "[[routes]]\nnetwork = ['169.254.0.0/16', 'fd00:ec2::/32']\nto = 'default'\n");
    setup.expect(&[
        (metadata[0], RouteTaken::Own),
        (metadata[1], RouteTaken::Own),
        (metadata[2], DENIED),
        (metadata[3], RouteTaken::Own),
    ]);
    setup.end();
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
    // Whether the attempt succeeds does not matter, only that it is made.
    let tried = || (ask().status() != 403).then_some(());
    assert!(wait_for(BOUND, tried).is_some(), "it is still denied");
}

#[test]
fn only_exempt_destinations_are_requested_without_credentials() {
    let upstream = stub(Personality::ExemptHangs);
    let address = upstream.address().to_string();
    let short_timeout = ("timeouts.handshake", "3s");
    let gateway = in_process::gateway(&address, &[short_timeout, ("warm", "0")]);
    let answer = connect_name(in_process::address(&gateway), "echo.exempt.test:7").expect("an answer");
    assert_eq!(answer.status(), 504, "the problem that the setting solves: {}", answer.head);
    in_process::stop(gateway);

    let gateway = in_process::gateway(&address, &[short_timeout, ("without_credentials", "*.exempt.test")]);
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
    let refusing = Refusing::new();
    for first in [refusing.address, closing.address()] {
        let upstreams = format!("{first},{}", second.address());
        let settings = [("timeouts.handshake", "5s"), ("without_credentials", ".exempt.test")];
        let gateway = in_process::gateway(&upstreams, &settings);
        let answer = connect_name(in_process::address(&gateway), "echo.exempt.test:7").expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        in_process::stop(gateway);
    }
    assert_eq!(second.counters().negotiates, 0, "{}", second.counters());
}

#[test]
fn an_exempt_destination_that_does_not_answer_is_not_the_upstreams_fault() {
    // Never answers, like a proxy that is waiting for an origin.
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
        assert_eq!(answer.status(), 200, "there are never more than two faults in a row: {}", answer.head);
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
