//! A real Prometheus scrapes a gateway under load, with the rules in `deploy/`, and answers the dashboard's queries.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ntlm_gateway::stub::{StubCertificate, StubOptions, StubServer};
use rustix::process::Signal;
use support::PASSWORD;
use support::client::{ask, connect_name, echo_through};
use support::command::{curl, run};
use support::gateway::{Gateway, GatewayOptions};
use support::kdc::{Kdc, KdcOptions};
use support::process::Process;
use support::scratch::{Scratch, free_port, wait_for};
use support::toolbox::{ROOT, script, toolbox};
use support::tools::path_of;

/// How long each query may take to return data: a few scrapes, and rates over 15 s of them.
const DATA_BOUND: Duration = Duration::from_secs(60);

/// The gateway, its upstreams, one of which serves TLS, and the Prometheus that scrapes it, in the order in which they
/// are dropped.
struct MonitoredGateway {
    prometheus: Prometheus,
    gateway: Gateway,
    _stubs: [StubServer; 2],
    _kdc: Kdc,
    _scratch: Scratch,
}

/// An identity that clients log on to, which lets a client use a wrong password, and one that has tickets. An identity
/// without clients would get none.
const IDENTITIES: &str = "[[identities]]\nname = 'own'\nuser = 'CORP\\alice'\npassword_file = 'password'\n\
    proxy_user = 'own'\nproxy_password_file = 'password'\n\
    [[identities]]\nname = 'tickets'\nclients = ['192.0.2.0/24']\nuser = 'bob@example.test'\n\
    password_file = 'password'\nauth = ['kerberos']\n";

const REALM: &str = "EXAMPLE.TEST";
const SERVICE: &str = "HTTP/proxy.test";

/// A KDC whose tickets are replaced every few seconds, so that the rate of its exchanges is never zero for long.
fn kdc_of_short_tickets() -> Kdc {
    let kdc = Kdc::start(REALM, &KdcOptions::default());
    kdc.add_user("bob", PASSWORD, "");
    kdc.kadmin(&format!("addprinc -randkey -maxlife 12sec {SERVICE}"));
    kdc
}

impl MonitoredGateway {
    fn start(delay: Duration) -> Self {
        let options = || StubOptions { delay, ..StubOptions::default() }.account("CORP", "alice", PASSWORD);
        let certificate = StubCertificate::new(&["127.0.0.1"]).expect("a certificate");
        let stub = StubServer::start(options()).expect("a stub");
        let with_tls = StubServer::start(options().tls(certificate.server_config())).expect("a stub");
        let mut options = GatewayOptions::through(stub.address());
        options.upstreams.push(format!("https://{}", with_tls.address()));
        let scratch = Scratch::new("identity");
        let ca = scratch.write("ca.pem", certificate.pem()).display().to_string();
        scratch.write("password", PASSWORD);
        let file = scratch.write("gateway.toml", IDENTITIES).display().to_string();
        let kdc = kdc_of_short_tickets();
        options.args = ["--max-tunnels=200", "--shards=2", "--warm-timeout=1s", "--config", &file]
            .into_iter()
            .chain(["--order", "balance", "--tls-ca-file", &ca])
            .chain(["--kerberos-realm", REALM, "--kdc", &kdc.address().to_string(), "--spn", SERVICE])
            .map(String::from)
            .collect();
        let gateway = Gateway::start(&options);
        let prometheus = Prometheus::start(gateway.admin_address());
        Self { prometheus, gateway, _stubs: [stub, with_tls], _kdc: kdc, _scratch: scratch }
    }
}

/// A Prometheus that scrapes one target every second.
struct Prometheus {
    _process: Process,
    url: String,
    _scratch: Scratch,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Self {
        let scratch = Scratch::new("prometheus");
        let rules = format!("{ROOT}/deploy/prometheus");
        let configuration = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: [{rules}/recording.yaml, {rules}/alerts.yaml, {rules}/slo.yaml]\n\
             scrape_configs:\n  - job_name: ntlm-gateway\n    static_configs: [{{ targets: ['{target}'] }}]\n"
        );
        let file = scratch.write("prometheus.yaml", configuration);
        // The port was free a moment ago; another process may have taken it.
        for _ in 0..3 {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            let log = std::fs::File::create(scratch.join("log")).expect("create Prometheus' log");
            let mut command = Process::command(path_of("prometheus"));
            command.arg(format!("--config.file={}", file.display()));
            command.arg(format!("--storage.tsdb.path={}", scratch.join("data").display()));
            command.arg(format!("--web.listen-address={address}")).arg("--log.level=warn");
            command.stdout(Stdio::null()).stderr(log);
            let mut process = Process::spawn("prometheus", &mut command);
            let url = format!("http://{address}");
            let ready = wait_for(Duration::from_secs(30), || {
                let ended = process.exit_status().is_some();
                let answer =
                    curl(Duration::from_secs(5), ["--fail", "--output", "/dev/null", &format!("{url}/-/ready")]);
                (ended || answer.code == Some(0)).then_some(!ended)
            });
            if ready == Some(true) {
                return Self { _process: process, url, _scratch: scratch };
            }
        }
        let log = std::fs::read_to_string(scratch.join("log")).unwrap_or_default();
        panic!("Prometheus did not start:\n{log}");
    }
}

/// Sets a flag when dropped, so that even a panic ends the threads that read it.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Traffic of every kind that the dashboard shows, from `clients` clients, until `ended` is set.
fn load(gateway: &Gateway, clients: &AtomicUsize, ended: &AtomicBool) {
    let address = gateway.address();
    std::thread::scope(|scope| {
        for number in 0..16 {
            scope.spawn(move || {
                let mut round = number;
                while !ended.load(Ordering::Relaxed) {
                    if number < clients.load(Ordering::Relaxed) {
                        one_client(address, round);
                        round += 1;
                    }
                    // A pace, not a wait for anything: two cores have more to do.
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let mut reloaded = Instant::now();
        while !ended.load(Ordering::Relaxed) {
            if reloaded.elapsed() > Duration::from_secs(3) {
                gateway.signal(Signal::HUP);
                reloaded = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

/// The name of the first of [`IDENTITIES`] with a wrong password.
const WRONG_LOGIN: &[u8] =
    b"CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\nProxy-Authorization: Basic b3duOndyb25n\r\n\r\n";

/// Ignores failures: the gateway counts them.
fn one_client(gateway: SocketAddr, round: usize) {
    match round % 24 {
        0 => drop(ask(gateway, b"NONSENSE\r\n\r\n")),
        1 => drop(ask(gateway, b"GET http://hello.test/ HTTP/1.1\r\nHost: hello.test\r\n\r\n")),
        2 => drop(ask(gateway, WRONG_LOGIN)),
        _ => {
            if let Ok(answered) = connect_name(gateway, "echo.test:7") {
                let bytes = vec![7; if round.is_multiple_of(5) { 4 << 20 } else { 16 << 10 }];
                drop(echo_through(&answered.stream, &bytes));
            }
        }
    }
}

#[test]
fn every_dashboard_query_returns_data() {
    require_tools!("prometheus", "curl", "krb5kdc", "kdb5_util", "kadmin.local");
    let Some(toolbox) = toolbox() else { return };
    let setup = MonitoredGateway::start(Duration::ZERO);
    let (clients, ended) = (AtomicUsize::new(4), AtomicBool::new(false));
    let asked = std::thread::scope(|scope| {
        let _end = EndOnDrop(&ended);
        scope.spawn(|| load(&setup.gateway, &clients, &ended));
        let bound = DATA_BOUND.as_secs().to_string();
        script(&toolbox, "tests/deploy/live.py", &[&setup.prometheus.url, &bound])
    });
    assert_eq!(asked.code, Some(0), "{}{}", asked.text(), asked.stderr);
}

#[test]
#[ignore = "writes deploy/grafana/dashboard.png: four minutes of load, and a picture"]
fn the_dashboard_picture_is_drawn() {
    require_tools!("prometheus", "curl", "krb5kdc", "kdb5_util", "kadmin.local");
    let Some(toolbox) = toolbox() else { return };
    let setup = MonitoredGateway::start(Duration::from_millis(3));
    let (clients, ended) = (AtomicUsize::new(2), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _end = EndOnDrop(&ended);
        scope.spawn(|| load(&setup.gateway, &clients, &ended));
        let held: Vec<TcpStream> = (0..40).filter_map(|_| hold(setup.gateway.address())).collect();
        for now in [2, 4, 8, 12, 16, 12, 6, 3] {
            clients.store(now, Ordering::Relaxed);
            std::thread::sleep(Duration::from_secs(25));
        }
        draw(&toolbox, &setup.prometheus.url);
        drop(held);
    });
}

/// A tunnel that stays open and is idle.
fn hold(gateway: SocketAddr) -> Option<TcpStream> {
    let mut stream = connect_name(gateway, "echo.test:7").ok()?.stream;
    stream.write_all(b"x").ok()?;
    stream.read_exact(&mut [0]).ok()?;
    Some(stream)
}

fn draw(toolbox: &Path, url: &str) {
    let picture = format!("{ROOT}/deploy/grafana/dashboard.png");
    run(toolbox.join("bin/python"), Duration::from_secs(120), |command| {
        command.env("PYTHONDONTWRITEBYTECODE", "1").arg(format!("{ROOT}/deploy/grafana/render.py"));
        command.args(["--minutes", "3", url, &picture]);
    })
    .expect_success("render.py");
}
