//! The program as users start it: its output, its errors, and its behaviour at resource limits.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ntlm_gateway::stub::{StubOptions, StubServer};
use support::client::{ask, connect_name, connect_within, echo_through};
use support::command::{Finished, run};
use support::gateway::{GATEWAY, Gateway, GatewayOptions};
use support::in_process::ACCOUNT;
use support::scratch::{Scratch, wait_for};
use support::tools::skip_without_mounts;

const BOUND: Duration = Duration::from_secs(30);

fn run_gateway(args: &[&str]) -> Finished {
    run(GATEWAY, BOUND, |command| {
        command.args(args).env_remove("RUST_LOG");
    })
}

fn stub() -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub")
}

/// Asserts that `output` contains `parts` in this order.
fn assert_in_order(output: &str, parts: &[&str]) {
    let mut rest = output;
    for part in parts {
        let (_, behind) =
            rest.split_once(part).unwrap_or_else(|| panic!("{part:?} is missing or out of order in\n{output}"));
        rest = behind;
    }
}

#[test]
fn the_demo_shows_every_leg_and_exits() {
    let began = Instant::now();
    let output = run_gateway(&["demo", "--once"]).expect_success("demo --once").text();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let parts = [
        "client → gateway    CONNECT hello.demo:80",
        "gateway → upstream",
        "<NEGOTIATE_MESSAGE, ",
        "upstream → gateway  HTTP/1.1 407",
        "<CHALLENGE_MESSAGE, ",
        "<AUTHENTICATE_MESSAGE, ",
        "upstream → gateway  HTTP/1.1 200",
        "gateway → client    HTTP/1.1 200",
        "Hello from behind the proxy.",
        "ntlm_gateway_tunnels_opened_total: 0 → 1",
    ];
    assert_in_order(&output, &parts);
}

#[test]
fn the_demo_of_kerberos_shows_the_tickets_and_a_tunnel_without_a_407() {
    let output = run_gateway(&["demo", "--kerberos", "--once"]).expect_success("demo --kerberos --once").text();
    let parts = [
        "gateway → KDC       AS-REQ from alice, without pre-authentication",
        "KDC → gateway       KRB-ERROR: the KDC asks for pre-authentication (KDC_ERR_PREAUTH_REQUIRED, 25)",
        "gateway → KDC       AS-REQ from alice, with an encrypted time stamp",
        "KDC → gateway       AS-REP: ticket for krbtgt/DEMO.TEST@DEMO.TEST",
        "gateway → KDC       TGS-REQ for HTTP/proxy.demo.test",
        "KDC → gateway       TGS-REP: ticket for HTTP/proxy.demo.test@DEMO.TEST",
        "client → gateway    CONNECT hello.demo:80",
        "gateway → upstream  CONNECT hello.demo:80",
        "Proxy-Authorization: Negotiate <AP-REQ, ",
        "upstream → gateway  HTTP/1.1 200",
        "Proxy-Authenticate: Negotiate <AP-REP, ",
        "gateway → client    HTTP/1.1 200",
        "Hello from behind the proxy.",
        "ntlm_gateway_tunnels_opened_total: 0 → 1",
    ];
    assert_in_order(&output, &parts);
    assert!(!output.contains("HTTP/1.1 407") && !output.contains("battery"), "{output}");
}

#[test]
fn the_demo_with_tls_shows_that_the_logon_is_not_readable_on_the_wire() {
    let output = run_gateway(&["demo", "--tls", "--once"]).expect_success("demo --tls --once").text();
    let parts = [
        "requires and verifies NTLM is on https://127.0.0.1:",
        "client → gateway    CONNECT hello.demo:80",
        "gateway → upstream  TLS <handshake ",
        "upstream → gateway  TLS <handshake ",
        "encrypted ",
        "gateway → client    HTTP/1.1 200",
        "Hello from behind the proxy.",
    ];
    assert_in_order(&output, &parts);
    assert!(!output.contains("NEGOTIATE_MESSAGE,") && !output.contains("HTTP/1.1 407"), "{output}");
}

/// A start on these two addresses, which must fail.
fn failed_start(listen: &str, admin: &str) -> Finished {
    let scratch = Scratch::new("refused");
    let password = scratch.write("password", "x").display().to_string();
    let upstream = ["--upstream", "127.0.0.1:9", "--user", "a", "--password-file", &password];
    let finished = run_gateway(&[["run", "--listen", listen, "--admin", admin].as_slice(), &upstream].concat());
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    finished
}

#[test]
fn a_port_in_use_is_reported_as_one_clear_error() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = held.local_addr().expect("an address").to_string();
    for (listen, admin, flag) in [(address.as_str(), "127.0.0.1:0", "--listen"), ("127.0.0.1:0", &address, "--admin")] {
        let finished = failed_start(listen, admin);
        let errors: Vec<&str> = finished.stderr.lines().filter(|line| line.contains("ERROR")).collect();
        assert_eq!(errors.len(), 1, "{}", finished.stderr);
        assert!(
            errors[0].contains(&address) && errors[0].contains("another process is listening there"),
            "{}",
            errors[0]
        );
        assert!(errors[0].ends_with(&format!("with {flag}")), "{}", errors[0]);
    }
}

#[test]
fn listening_beyond_loopback_requires_allow_clients() {
    let finished = failed_start("0.0.0.0:0", "127.0.0.1:0");
    assert!(finished.stderr.contains("allow_clients"), "{}", finished.stderr);
}

/// Opens a tunnel and sends a malformed request; returns their lines in the access log.
fn access_log(format: &str, good_end: &str, bad_end: &str) -> (String, String) {
    let stub = stub();
    let mut options = GatewayOptions::through(stub.address());
    options.args = vec!["--log-format".into(), format.into()];
    let gateway = Gateway::start(&options);
    let tunnel = connect_name(gateway.address(), "echo.test:7").expect("a tunnel");
    assert_eq!(echo_through(&tunnel.stream, b"12345").expect("an echo"), b"12345");
    drop(tunnel);
    assert_eq!(connect_name(gateway.address(), "bad host:7").expect("an answer").status(), 400);
    let line =
        |part: &str| gateway.log().into_iter().find(|line| line.contains("tunnel closed") && line.contains(part));
    let good = wait_for(BOUND, || line(good_end)).expect("the line of the tunnel");
    let bad = wait_for(BOUND, || line(bad_end)).expect("the line of the fault");
    (good, bad)
}

#[test]
fn the_first_line_of_the_log_has_the_version() {
    let stub = stub();
    let gateway = Gateway::start(&GatewayOptions::through(stub.address()));
    let first = gateway.log().first().cloned().unwrap_or_default();
    assert!(first.ends_with(concat!(" INFO  ntlm-gateway ", env!("CARGO_PKG_VERSION"), " is starting")), "{first}");
}

#[test]
fn a_rejected_request_is_logged_with_its_method_and_target() {
    let (stub, scratch) = (stub(), Scratch::new("refused"));
    let secret = scratch.write("joe", "let me in").display().to_string();
    let file = scratch.write(
        "gateway.toml",
        format!(
            "[[routes]]\nhost = 'denied.test'\nto = 'deny'\n[[identities]]\nname = 'desk'\nuser = 'CORP\\alice'\n\
             password_file = '{secret}'\nproxy_user = 'joe'\nproxy_password_file = '{secret}'\n"
        ),
    );
    let mut options = GatewayOptions::through(stub.address());
    options.args = ["--config", &file.display().to_string()].map(String::from).into();
    let gateway = Gateway::start(&options);
    let wrong = "Proxy-Authorization: Basic am9lOng=\r\n";
    for (request, status, expected) in [
        ("CONNECT denied.test:443 HTTP/1.1\r\n", 403, "method=CONNECT target=denied.test:443 "),
        ("GET http://denied.test/a?token=1 HTTP/1.1\r\n", 403, "method=GET target=denied.test:80 "),
        (&format!("CONNECT a.test:443 HTTP/1.1\r\n{wrong}"), 407, "method=CONNECT target=a.test:443 "),
        (&format!("HEAD http://b.test/ HTTP/1.1\r\n{wrong}"), 407, "method=HEAD target=b.test:80 "),
        ("GET ftp://joe:secret@c.test/a HTTP/1.1\r\n", 501, "method=GET target=ftp://c.test "),
        ("GET http://d.test/ HTTP/1.1\r\nExpect: cake\r\n", 417, "method=GET target=d.test:80 "),
        ("PUT http://e.test/ HTTP/1.1\r\nContent-Length: 1, 2\r\n", 400, "method=PUT target=e.test:80 "),
        ("GET /f?token=1 HTTP/1.1\r\n", 400, "method=GET target=- "),
    ] {
        let answer = ask(gateway.address(), format!("{request}Host: x\r\n\r\n").as_bytes()).expect("an answer");
        assert_eq!(answer.status(), status, "{request}{}", answer.head);
        let line = gateway.wait_for_line(expected);
        assert!(line.contains(&format!(" status={status} ")), "{line}");
    }
    let log = gateway.log().join("\n");
    assert!(!log.contains("token=1") && !log.contains("secret@"), "{log}");
}

#[test]
fn a_failure_reason_names_the_upstreams_address_once() {
    let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], support::scratch::free_port()));
    let gateway = Gateway::start(&GatewayOptions::through(nobody));
    let ask = || connect_name(gateway.address(), "echo.test:7").expect("an answer").head;
    let heads: Vec<String> = (0..4).map(|_| ask()).collect();
    let head = &heads[3];
    let reason = format!("no upstream is up: {nobody}: Connection refused");
    assert!(head.contains(&reason), "{head}");
    let line = gateway.wait_for_line("is ejected: ");
    assert!(line.contains(&format!("upstream {nobody} is ejected: Connection refused")), "{line}");
    let (status, why) = gateway.admin("/readyz");
    assert!(status == 503 && why.contains(&format!("no upstream is up; {nobody}: Connection")), "{why}");
}

#[test]
fn the_access_log_has_a_line_for_each_tunnel_and_a_name_for_each_fault() {
    let (good, bad) = access_log("text", "end=finished", "end=request_malformed");
    for part in ["client=127.0.0.1:", "target=echo.test:7", "status=200", "legs=2", "bytes_up=5", "bytes_down=5"] {
        assert!(good.contains(part), "{part} in {good}");
    }
    assert!(bad.contains("status=400") && bad.contains("read_head"), "{bad}");
}

#[test]
fn the_access_log_is_json_on_request() {
    let (good, bad) = access_log("json", r#""end":"finished""#, r#""end":"request_malformed""#);
    let good: serde_json::Value = serde_json::from_str(&good).expect("JSON");
    assert_eq!((&good["target"], &good["bytes_up"], &good["legs"]), (&"echo.test:7".into(), &5.into(), &2.into()));
    let bad: serde_json::Value = serde_json::from_str(&bad).expect("JSON");
    assert_eq!(bad["status"], 400);
}

#[test]
fn check_lists_settings_with_their_positions_or_every_error() {
    let scratch = Scratch::new("check");
    let password = scratch.write("password", "S3cret-of-ci").display().to_string();
    let check = |text: &str| {
        let file = scratch.write("gateway.toml", text.replace("PASSWORD", &password)).display().to_string();
        (run_gateway(&["check", "--config", &file]), file)
    };
    let (good, file) = check(
        "[[identities]]\nname = 'ci'\nuser = 'CORP\\ci'\npassword_file = 'PASSWORD'\n\
         [[upstreams]]\nname = 'east'\naddress = ['east-1:8080', 'east-2:8080']\n\
         [[upstreams]]\naddress = 'west:8080'\ngroup = 'others'\n\
         [[routes]]\nhost = '.example'\nport = [443]\nto = 'others'\n",
    );
    let text = good.expect_success("check").text();
    let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        format!("identities[0].user = CORP\\ci ({file}:3:8)"),
        format!("upstreams[1].group = others ({file}:10:9)"),
        format!("routes[0].to = others ({file}:14:6)"),
        "upstream east: east-1:8080, east-2:8080 (group default)".into(),
        "upstream west:8080: west:8080 (group others)".into(),
        "identity ci: CORP\\ci with NTLMv2".into(),
    ] {
        assert!(squeezed.contains(&part), "{part:?} in\n{text}");
    }
    assert!(!text.contains("S3cret-of-ci"), "{text}");

    let (bad, file) = check(
        "user = 'CORP\\alice'\npassword_file = 'PASSWORD'\n\
         [[upstreams]]\naddress = 'no-port'\nidentity = 'nobody'\n\
         [[routes]]\nhost = 'a b/c'\nto = 'nowhere'\n[[routes]]\nprot = 1\n",
    );
    assert_eq!(bad.code, Some(1));
    for place in ["4:11", "5:12", "7:11", "10:1", "9:1"] {
        assert!(bad.stderr.contains(&format!("{file}:{place}: ")), "{place} in\n{}", bad.stderr);
    }
}

/// The CPU time that the gateway has used so far in milliseconds, from /proc, which counts ticks of 10 ms.
fn cpu_ms(gateway: &Gateway) -> u64 {
    let pid = gateway.pid().as_raw_nonzero();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the stat line of the process");
    let (_, fields) = stat.rsplit_once(')').expect("the end of the name");
    let ticks = fields.split_ascii_whitespace().skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<u64>().expect("ticks") * 10).sum()
}

#[test]
fn accepting_pauses_without_descriptors_and_resumes_when_some_are_free() {
    let stub = stub();
    let mut options = GatewayOptions::through(stub.address());
    options.setup = Some("ulimit -n 64".into());
    options.args = ["--shards", "2"].map(String::from).into();
    let mut gateway = Gateway::start(&options);
    let idle: Vec<TcpStream> =
        (0..150).map(|_| TcpStream::connect(gateway.address()).expect("a place in the accept queue")).collect();
    let pauses = || gateway.log().iter().filter(|line| line.contains("accepting pauses")).count();
    assert!(wait_for(BOUND, || (pauses() > 0).then_some(())).is_some());
    let before = cpu_ms(&gateway);
    std::thread::sleep(Duration::from_secs(1));
    let spent = cpu_ms(&gateway) - before;
    assert!(spent < 200, "{spent} ms of CPU in a second without descriptors: a busy loop");
    assert!(pauses() <= 2, "each event loop logs it once");
    drop(idle);
    let answered =
        wait_for(BOUND, || connect_name(gateway.address(), "echo.test:7").ok().filter(|answer| answer.status() == 200));
    let tunnel = answered.expect("a tunnel after the idle clients have gone");
    assert_eq!(echo_through(&tunnel.stream, b"back").expect("an echo"), b"back");
    assert!(gateway.is_running());
}

#[test]
fn the_addresses_of_a_name_are_tried_in_turn_until_one_answers() {
    if skip_without_mounts() {
        return;
    }
    let (domain, user, password) = ACCOUNT;
    let scratch = Scratch::new("hosts");
    let hosts = scratch.write("hosts", "127.0.0.9 proxy.test\n127.0.0.1 proxy.test\n::1 proxy.test\n");
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let options = StubOptions { listen: listen.parse().expect("an address"), ..StubOptions::default() };
        // A machine without IPv6 has only one of the two addresses.
        let Ok(stub) = StubServer::start(options.account(domain, user, password)) else { continue };
        let mut options = GatewayOptions::through(stub.address());
        options.upstreams = vec![format!("proxy.test:{}", stub.address().port())];
        options.mounts = vec![(hosts.clone(), "/etc/hosts")];
        options.args = ["--shards", "1", "--warm", "0"].map(String::from).into();
        let gateway = Gateway::start(&options);
        for _ in 0..3 {
            let answer = connect_name(gateway.address(), "echo.test:7").expect("an answer");
            assert_eq!(answer.status(), 200, "{listen}: {}\n{:?}", answer.head, gateway.log());
        }
        let dials = gateway.metric("ntlm_gateway_dials_total", &[]).expect("a counter");
        // Only the first client has to search for the address that answers.
        assert!((3.0..=5.0).contains(&dials), "{dials} dials");
    }
}

#[test]
fn health_depends_on_the_event_loops_and_readiness_on_the_upstream() {
    let stub = stub();
    let mut gateway = Gateway::start(&GatewayOptions::through(stub.address()));
    assert_eq!(gateway.admin("/healthz"), (200, "ok\n".into()));
    assert!(wait_for(BOUND, || (gateway.admin("/readyz").0 == 200).then_some(())).is_some());
    stub.set_password("CORP", "alice", "changed meanwhile");
    assert_eq!(connect_name(gateway.address(), "echo.test:7").expect("an answer").status(), 502);
    let (status, why) = gateway.admin("/readyz");
    assert!(status == 503 && why.contains("refuses the credentials"), "{status} {why}");
    assert_eq!(gateway.admin("/healthz").0, 200);
    assert!(gateway.is_running());
}

#[test]
fn a_second_sigterm_ends_the_drain_and_cuts_open_tunnels() {
    let stub = stub();
    let mut gateway = Gateway::start(&GatewayOptions::through(stub.address()));
    let mut tunnel = connect_name(gateway.address(), "echo.test:7").expect("a tunnel");
    gateway.signal(rustix::process::Signal::TERM);
    assert!(
        wait_for(BOUND, || gateway.log().iter().any(|line| line.contains("listeners closed")).then_some(())).is_some()
    );
    // By then another test may listen on the port, but it opens no tunnel.
    let late = connect_within(Duration::from_secs(2), gateway.address(), gateway.address(), b"");
    assert!(!late.is_ok_and(|answer| answer.status() == 200), "the port is closed while it drains");
    tunnel.stream.write_all(b"still").expect("a write");
    let mut back = [0; 5];
    tunnel.stream.read_exact(&mut back).expect("an echo while draining");
    gateway.signal(rustix::process::Signal::TERM);
    assert_eq!(gateway.wait(Duration::from_secs(10)).and_then(|status| status.code()), Some(0));
    gateway.wait_for_line("end=drained");
}

/// A directory with a password and a configuration that is valid apart from `further`.
fn write_config(test: &str, further: &str) -> (Scratch, String) {
    let scratch = Scratch::new(test);
    scratch.write("password", "S3cret-of-svc");
    let text = format!("upstream = '127.0.0.1:9'\nuser = 'CORP\\svc'\npassword_file = 'password'\n{further}");
    let file = scratch.write("gateway.toml", text).display().to_string();
    (scratch, file)
}

#[test]
fn check_prints_warnings_and_strict_makes_them_errors() {
    let (_scratch, file) = write_config("strict", "");
    let finished = run_gateway(&["check", "--strict", "--config", &file]).expect_success("check without warnings");
    assert_eq!(finished.stderr, "");
    for (user, warning) in [
        ("CORPsvc-egress", "--user: \"CORPsvc-egress\" has no domain"),
        ("CORP\\svc:S3cret", "--user: \"CORP\\\\svc\" is followed by a colon"),
        ("CORP\\svc ", "--user: has leading or trailing blanks"),
    ] {
        let finished =
            run_gateway(&["check", "--config", &file, "--user", user]).expect_success("check with a warning");
        assert!(finished.stderr.starts_with(&format!("warning: {warning}")), "{}", finished.stderr);
        let text = finished.text();
        assert!(text.starts_with("ok\n") && !text.contains("S3cret") && !finished.stderr.contains("S3cret"), "{text}");
        let finished = run_gateway(&["check", "--strict", "--config", &file, "--user", user]);
        assert_eq!(finished.code, Some(1));
        assert!(
            finished.stderr.contains(warning) && finished.text().is_empty(),
            "{}{}",
            finished.stderr,
            finished.text()
        );
    }
    let finished = run_gateway(&["check", "--config", &file, "--user", "CORP/svc"]);
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.starts_with("--user: the account has a slash") && finished.stderr.contains(r"'DOMAIN\name'"),
        "{}",
        finished.stderr
    );
}

#[test]
fn run_logs_warnings_at_the_start_and_only_new_ones_at_a_reload() {
    let stub = stub();
    let (scratch, file) = write_config("warnings", "");
    let mut options = GatewayOptions::through(stub.address());
    options.args =
        vec!["--config".into(), file, "--password-file".into(), scratch.join("password").display().to_string()];
    options.only_args = true;
    options.args.extend(["--user".into(), "CORPalice:S3cret".into()]);
    let gateway = Gateway::start(&options);
    let line = gateway.wait_for_line("--user: ");
    assert!(line.contains("WARN") && line.contains("\"CORPalice\" is followed by a colon"), "{line}");
    scratch.write("gateway.toml", "upstream = '127.0.0.1:9'\nallow_clients = ['127.0.0.0/8', '0.0.0.0/0']\n");
    let line = gateway.wait_for_line("allow_clients: 0.0.0.0/0");
    assert!(line.contains("WARN") && line.contains("gateway.toml:2:33"), "{line}");
    gateway.wait_for_line("configuration reloaded");
    let log = gateway.log();
    assert_eq!(
        log.iter().filter(|line| line.contains("is followed by a colon")).count(),
        1,
        "a reload must not repeat known warnings: {log:#?}"
    );
    assert!(!log.concat().contains("S3cret"), "{log:#?}");
}

#[test]
fn an_unknown_variable_is_an_error_that_suggests_the_nearest_name() {
    let (_scratch, file) = write_config("variables", "shards = 0\n");
    for command in ["check", "run", "probe"] {
        let finished = run(GATEWAY, BOUND, |process| {
            process.args([command, "--config", &file]).env_remove("RUST_LOG");
            process.env("NTLM_GATEWAY_UPSTREAMS", "S3cret").env("NTLM_GATEWAY_PASWORD_FILE", "S3cret");
            process.env("NTLM_GATEWAY_SERVICE_HOST", "10.0.0.1").env("NTLM_GATEWAY_PORT", "tcp://10.0.0.1:3128");
            process.env("NTLM_GATEWAY_PORT_3128_TCP_ADDR", "10.0.0.1").env("NTLM_GATEWAY_SERVICE_PORT_PROXY", "3128");
        });
        assert_eq!(finished.code, Some(1), "{command}");
        let lines: Vec<&str> = finished.stderr.lines().collect();
        assert_eq!(
            lines[..2],
            [
                "NTLM_GATEWAY_PASWORD_FILE: unknown setting; did you mean NTLM_GATEWAY_PASSWORD_FILE?",
                "NTLM_GATEWAY_UPSTREAMS: unknown setting; did you mean NTLM_GATEWAY_UPSTREAM?"
            ],
            "{command}"
        );
        assert!(lines.len() == 3 && lines[2].contains("gateway.toml:4:10: shards:"), "{}", finished.stderr);
    }
}

#[test]
fn the_configuration_file_is_accepted_as_a_positional_argument() {
    let (_scratch, file) = write_config("argument", "shards = 0\n");
    for command in ["check", "run", "probe"] {
        let finished = run_gateway(&[command, &file]);
        assert_eq!(finished.code, Some(1), "{command}");
        assert!(finished.stderr.contains("gateway.toml:4:10: shards:"), "{command}: {}", finished.stderr);
    }
    let (_scratch, file) = write_config("argument", "");
    let text = run_gateway(&["check", &file, "--shards", "3"]).expect_success("check").text();
    assert!(text.contains(&format!("= {file}")) && text.contains("(FILE)"), "{text}");
    let finished = run_gateway(&["check", "nowhere.toml"]);
    assert!(
        finished.stderr.contains("FILE: cannot read /") && finished.stderr.contains("/nowhere.toml: No such file"),
        "{}",
        finished.stderr
    );
    assert_eq!(run_gateway(&["check", &file, "--config", &file]).code, Some(2), "only one file is allowed");
}

#[test]
fn no_subcommand_prints_a_password_from_an_upstreams_url() {
    let (_scratch, file) = write_config("url", "");
    let url = r"http://CORP\svc:S3cret,w0rd@127.0.0.1:9";
    for command in ["check", "run", "probe"] {
        for args in [
            vec![command, &file, "--upstream", url],
            vec![command, &file, "--upstream", "a:1", "--upstream", url],
            vec![command, &file, "--listen", url],
            vec![command, &file, "--no-proxy", url],
            vec![command, url],
            vec![command, &file, url],
            vec![command, &file, "--upsteam", url],
        ] {
            let finished = run_gateway(&args);
            assert!(matches!(finished.code, Some(1 | 2)), "{args:?}: {:?}", finished.code);
            let text = format!("{}{}", finished.stderr, finished.text());
            assert!(!text.contains("S3cret") && !text.contains("w0rd") && text.contains(':'), "{args:?}: {text}");
        }
    }
    let finished = run_gateway(&["check", &file, "--check", "handshake", "--check-target", "https://127.0.0.1:9"]);
    assert!(finished.stderr.contains("https:// belongs in front of the address of an upstream"), "{}", finished.stderr);
}
