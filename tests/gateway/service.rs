//! The interface to service managers and operators: notifications, signals, health, exit codes.

use crate::support;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use ntlm_gateway::stub::{StubOptions, StubServer};
use rustix::process::Signal;
use support::client::{Answered, connect_name, echo_through};
use support::command::{curl, run};
use support::gateway::{GATEWAY, Gateway, GatewayOptions};
use support::in_process::ACCOUNT;
use support::scratch::{Scratch, wait_for};

const BOUND: Duration = Duration::from_secs(20);
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn stub() -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub")
}

fn start(stub: &StubServer, args: &[&str]) -> Gateway {
    let mut options = GatewayOptions::through(stub.address());
    options.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Gateway::start(&options)
}

fn open(gateway: &Gateway) -> Answered {
    let answer = connect_name(gateway.address(), "echo.test:7").expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    answer
}

/// The notification socket of a service manager.
struct ServiceManager {
    socket: UnixDatagram,
    scratch: Scratch,
}

impl ServiceManager {
    fn new() -> Self {
        let scratch = Scratch::new("notify");
        let socket = UnixDatagram::bind(scratch.join("notify")).expect("a socket");
        socket.set_read_timeout(Some(BOUND)).expect("a time-out");
        Self { socket, scratch }
    }

    fn path(&self) -> String {
        self.scratch.join("notify").display().to_string()
    }

    /// The next notification other than the watchdog's.
    fn next_status(&self) -> String {
        loop {
            let notification = self.next();
            if notification != "WATCHDOG=1" {
                return notification;
            }
        }
    }

    fn next(&self) -> String {
        let mut buffer = [0; 1024];
        let count = self.socket.recv(&mut buffer).expect("a notification");
        String::from_utf8(buffer[..count].to_vec()).expect("text")
    }
}

#[test]
fn a_service_manager_is_notified_of_start_reload_drain_and_liveness() {
    let (stub, manager) = (stub(), ServiceManager::new());
    let mut options = GatewayOptions::through(stub.address());
    options.env = vec![("NOTIFY_SOCKET".into(), manager.path()), ("WATCHDOG_USEC".into(), "200000".into())];
    let mut gateway = Gateway::start(&options);
    assert_eq!(manager.next_status(), "READY=1\nSTATUS=serving");
    let began = Instant::now();
    assert_eq!((manager.next().as_str(), manager.next().as_str()), ("WATCHDOG=1", "WATCHDOG=1"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    gateway.signal(Signal::HUP);
    let reloading = manager.next_status();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(manager.next_status(), "READY=1\nSTATUS=serving");
    gateway.write_password("two\nlines");
    assert!(manager.next_status().starts_with("RELOADING=1\n"));
    let refused = manager.next_status();
    assert!(
        refused.starts_with("READY=1\nSTATUS=serving with the previous configuration; ")
            && refused.contains("rejected"),
        "{refused}"
    );

    let tunnel = open(&gateway);
    gateway.signal(Signal::TERM);
    assert_eq!(manager.next_status(), "STOPPING=1\nSTATUS=shutting down");
    assert_eq!(manager.next_status(), "STATUS=draining; tunnels open: 1");
    assert_eq!(manager.next(), "WATCHDOG=1", "the watchdog is served while draining");
    drop(tunnel);
    assert_eq!(gateway.wait(BOUND).and_then(|status| status.code()), Some(0));
}

#[test]
fn a_missing_service_manager_does_not_block_the_gateway() {
    let stub = stub();
    let mut options = GatewayOptions::through(stub.address());
    options.env = vec![("NOTIFY_SOCKET".into(), "/nowhere/notify".into())];
    let gateway = Gateway::start(&options);
    open(&gateway);
    gateway.wait_for_line("cannot send a notification");
}

/// systemd passes the device and the inode of the stream that it has connected to standard error (systemd.exec(5)).
#[test]
fn lines_for_the_journal_have_its_priorities_instead_of_a_second_time() {
    let stub = stub();
    let mut options = GatewayOptions::through(stub.address());
    let line_with = |options: &GatewayOptions, part: &str| Gateway::start(options).wait_for_line(part);
    options.setup = Some("export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/2)".into());
    assert_eq!(line_with(&options, "is starting"), format!("<6>INFO  ntlm-gateway {VERSION} is starting"));
    options.env = vec![("NOTIFY_SOCKET".into(), "/nowhere/notify".into())];
    let warning = line_with(&options, "cannot send a notification");
    assert!(warning.starts_with("<4>WARN  "), "{warning}");
    // Inherited from a service, while standard error goes elsewhere.
    options.setup = Some("export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/exe)".into());
    assert!(line_with(&options, "is starting").starts_with("20"));
}

/// The fields of a log line.
fn fields(line: &str) -> Vec<(&str, &str)> {
    line.split(' ').filter_map(|word| word.split_once('=')).collect()
}

#[test]
fn sigusr1_writes_a_line_for_each_open_tunnel() {
    let stub = stub();
    let gateway = start(&stub, &[]);
    let tunnels: Vec<Answered> = (0..3).map(|_| open(&gateway)).collect();
    assert_eq!(echo_through(&tunnels[1].stream, b"12345").expect("an echo"), b"12345");
    let mut waiting = std::net::TcpStream::connect(gateway.address()).expect("a connection");
    waiting.write_all(b"CONNECT half").expect("a write");
    assert!(
        wait_for(BOUND, || (gateway.metric("ntlm_gateway_tunnels_open", &[]) == Some(4.0)).then_some(())).is_some()
    );

    gateway.signal(Signal::USR1);
    gateway.wait_for_line("tunnels open: 4, listed: 4, left out: 0");
    let log = gateway.log();
    let lines: Vec<&String> = log.iter().filter(|line| line.contains(" tunnel open ")).collect();
    assert_eq!(lines.len(), 4, "{log:#?}");
    let of = |client: &std::net::TcpStream| {
        let client = client.local_addr().expect("an address").to_string();
        let line = lines.iter().find(|line| fields(line).contains(&("client", &client)));
        fields(line.unwrap_or_else(|| panic!("no line of {client} in {lines:#?}")))
    };
    let upstream = stub.address().to_string();
    for field in
        [("target", "echo.test:7"), ("upstream", &upstream), ("stage", "relay"), ("bytes_up", "5"), ("bytes_down", "5")]
    {
        assert!(of(&tunnels[1].stream).contains(&field), "{field:?} in {:?}", of(&tunnels[1].stream));
    }
    for field in [("target", "-"), ("stage", "read_head"), ("idle_ms", "-"), ("bytes_up", "0")] {
        assert!(of(&waiting).contains(&field), "{field:?} in {:?}", of(&waiting));
    }
    let number = |name| {
        let of = of(&tunnels[0].stream);
        of.iter().find(|field| field.0 == name).expect("the field").1.parse::<u64>().expect("a number")
    };
    assert!(number("idle_ms") <= number("age_ms"), "{:?}", of(&tunnels[0].stream));
    let keys: std::collections::BTreeSet<&str> = lines.iter().map(|line| fields(line)[0].1).collect();
    assert_eq!(keys.len(), 4, "{keys:?}");
}

#[test]
fn the_admin_address_lists_tunnels_only_if_enabled() {
    require_tools!("curl");
    let stub = stub();
    let gateway = start(&stub, &[]);
    let (status, why) = gateway.admin("/tunnels");
    assert!(status == 404 && why.contains("admin_tunnels"), "{status} {why}");

    let gateway = start(&stub, &["--admin-tunnels"]);
    let tunnel = open(&gateway);
    let url = format!("http://{}/tunnels", gateway.admin_address());
    let args = ["--include", "--compressed", &url];
    let answer = curl(BOUND, args).expect_success("/tunnels").text();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    assert!(head.contains("\r\nContent-Type: application/json\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Encoding: gzip\r\n"), "{head}");
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    assert_eq!((json["tunnels"].as_array().map(Vec::len), &json["left_out"]), (Some(1), &0.into()));
    let shown = &json["tunnels"][0];
    let client = tunnel.stream.local_addr().expect("an address").to_string();
    assert_eq!((&shown["client"], &shown["target"]), (&client.into(), &"echo.test:7".into()));
    assert_eq!((&shown["stage"], &shown["bytes_up"]), (&"relay".into(), &0.into()));
}

#[test]
fn metrics_are_compressed_on_request_with_the_same_content() {
    require_tools!("curl");
    let stub = stub();
    let gateway = start(&stub, &[]);
    let url = format!("http://{}/metrics", gateway.admin_address());
    let plain = curl(BOUND, ["--include", url.as_str()]).expect_success("/metrics").text();
    let compressed = curl(BOUND, ["--include", "--compressed", &url]).expect_success("/metrics").text();
    assert!(
        !plain.contains("Content-Encoding") && plain.contains("\r\nVary: Accept, Accept-Encoding\r\n"),
        "{plain:.300}"
    );
    assert!(compressed.contains("\r\nContent-Encoding: gzip\r\n"), "{compressed:.300}");
    for answer in [plain, compressed] {
        assert!(answer.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer:.300}");
        assert!(answer.ends_with('\n') && answer.contains("\nntlm_gateway_tunnels_open 0\n"), "{answer:.300}");
    }
}

#[test]
fn sigterm_ends_readiness_then_closes_listeners_then_cuts_tunnels() {
    let stub = stub();
    let args = ["--shards", "2", "--shutdown-delay", "4s", "--drain-timeout", "4s"];
    let mut gateway = start(&stub, &args);
    assert!(wait_for(BOUND, || (gateway.admin("/readyz").0 == 200).then_some(())).is_some());
    let mut old = open(&gateway);
    let began = Instant::now();
    gateway.signal(Signal::TERM);
    gateway.wait_for_line("shutting down: /readyz now fails");
    assert_eq!(gateway.admin("/readyz"), (503, "shutting down\n".into()));
    // The load balancer has not noticed yet, so new clients are still served.
    open(&gateway);
    gateway.wait_for_line("listeners closed");
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    // One of the event loops has no tunnel and has ended; that is not a failure.
    assert_eq!(gateway.admin("/healthz"), (200, "ok\n".into()));
    assert_eq!(gateway.admin("/readyz").0, 503);
    old.stream.write_all(b"still").expect("a write");
    let mut back = [0; 5];
    old.stream.read_exact(&mut back).expect("an echo while draining");

    assert_eq!(gateway.wait(BOUND).and_then(|status| status.code()), Some(0));
    assert!(began.elapsed() >= Duration::from_secs(8), "{:?}", began.elapsed());
    gateway.wait_for_line("closing tunnels that did not end in time; tunnels open: 1");
    gateway.wait_for_line("end=drained");
    assert!(!matches!(old.stream.read(&mut back), Ok(1..)), "the tunnel is cut");
}

#[test]
fn each_way_to_end_has_its_exit_code() {
    let stub = stub();
    for signal in [Signal::TERM, Signal::INT] {
        let mut gateway = start(&stub, &[]);
        gateway.signal(signal);
        assert_eq!(gateway.wait(BOUND).and_then(|status| status.code()), Some(0), "{signal:?}");
    }
    let code = |args: &[&str]| {
        let finished = run(GATEWAY, BOUND, |command| {
            command.args(args);
        });
        finished.code
    };
    assert_eq!(code(&["run", "--no-such-flag"]), Some(2));
    assert_eq!(code(&["run", "--upstream", "proxy.test"]), Some(1));
}
