//! Runs every command of the load-test harness briefly against a real gateway and the stub, to see that it works.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const LOADTEST: &str = env!("CARGO_BIN_EXE_ntlm-loadtest");
const ACCOUNT: &str = "CORP\\alice";
const PASSWORD: &str = "correct horse";

/// The gateway's binary next to the harness's. Cargo builds no binaries of other packages for a test, so it is run
/// here.
fn gateway_binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = Path::new(LOADTEST).parent().unwrap();
        let profile = if directory.ends_with("release") { "release" } else { "dev" };
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--bins", "--locked", "--profile", profile, "--target-dir"])
            .arg(directory.parent().unwrap())
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
            .status()
            .unwrap();
        assert!(status.success());
        directory.join("ntlm-gateway")
    })
}

/// A child process, killed by its own handle.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The addresses after the markers, in order. The remaining output is discarded, so that the process does not block.
fn address_after(from: impl Read + Send + 'static, markers: &[&str]) -> Vec<SocketAddr> {
    let mut lines = BufReader::new(from).lines();
    let found = markers
        .iter()
        .map(|marker| {
            let line = lines.by_ref().map(Result::unwrap).find(|line| line.contains(marker));
            let line = line.unwrap_or_else(|| panic!("no line with {marker:?}"));
            let text = line.split(marker).nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
            text.trim_start_matches("http://").trim_end_matches('/').parse().unwrap()
        })
        .collect();
    thread::spawn(move || lines.for_each(drop));
    found
}

struct Rig {
    _stub: Process,
    _gateway: Process,
    gateway_pid: String,
    scratch: PathBuf,
    proxy: String,
    metrics: String,
    control: String,
    /// Where the gateway's additional listener is.
    listener: Option<String>,
}

impl Rig {
    fn start(name: &str) -> Rig {
        Rig::start_with(name, None)
    }

    /// With a configuration file that has one listener.
    fn start_with(name: &str, file: Option<&str>) -> Rig {
        let scratch = scratch(name);
        let mut stub = Command::new(LOADTEST)
            .args(["upstream", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stub_out = stub.stdout.take().unwrap();
        let stub = Process(stub);
        let stub_addresses = address_after(stub_out, &["listening on ", "control on "]);
        let password = scratch.join("password");
        fs::write(&password, PASSWORD).unwrap();
        let mut gateway = Command::new(gateway_binary());
        // Variables of the caller's environment or the tests' own: the gateway rejects unknown ones with this prefix.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NTLM_GATEWAY_")) {
            gateway.env_remove(name);
        }
        gateway.args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "1", "--user", ACCOUNT]);
        if let Some(file) = file {
            let path = scratch.join("gateway.toml");
            fs::write(&path, file).unwrap();
            gateway.arg("--config").arg(path);
        }
        let mut gateway = gateway
            .args(["--upstream", &stub_addresses[0].to_string(), "--password-file"])
            .arg(password)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = gateway.stderr.take().unwrap();
        let gateway = Process(gateway);
        let listening = vec!["listening on "; 1 + usize::from(file.is_some())];
        let addresses = address_after(log, &[&listening[..], &["admin on "]].concat());
        Rig {
            _stub: stub,
            gateway_pid: gateway.0.id().to_string(),
            _gateway: gateway,
            scratch,
            proxy: addresses[0].to_string(),
            metrics: addresses[listening.len()].to_string(),
            listener: file.map(|_| addresses[1].to_string()),
            control: stub_addresses[1].to_string(),
        }
    }

    /// Runs a scenario, compared with the gateway's metrics; returns the results.
    fn run(&self, arguments: &[&str]) -> Value {
        self.run_at(&self.proxy, arguments)
    }

    /// The same, with clients that connect to another address.
    fn run_at(&self, proxy: &str, arguments: &[&str]) -> Value {
        let json = self.scratch.join("run.json");
        let output = Command::new(LOADTEST)
            .args(["run", "--proxy", proxy, "--metrics", &self.metrics, "--control", &self.control])
            .args(["--cap", "15", "--patience", "5", "--json"])
            .arg(&json)
            .args(arguments)
            .output()
            .unwrap();
        assert_success(&output, &format!("{arguments:?}"));
        serde_json::from_slice(&fs::read(json).unwrap()).unwrap()
    }
}

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

fn assert_success(output: &Output, what: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{what}: {}\n{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn every_scenario_passes_and_matches_the_gateways_metrics() {
    let rig = Rig::start("scenarios");
    let setup = rig.run(&["setup", "--count", "200", "--concurrency", "16"]);
    assert_eq!(setup["tunnels"]["completed"], 200);
    assert_eq!((&setup["bytes_up"], &setup["bytes_down"]), (&(200 * 64).into(), &(200 * 64).into()));
    assert_eq!(setup["latencies"]["ready"]["count"], 200);

    let open = rig.run(&["setup", "--rate", "200", "--duration", "0.5"]);
    assert_eq!(open["tunnels"]["completed"], 100, "an open loop starts exactly what was scheduled");

    let hold = rig.run(&["hold", "--count", "100", "--duration", "0.2"]);
    assert_eq!((&hold["tunnels"]["completed"], &hold["messages"]), (&100.into(), &100.into()));

    let pingpong = rig.run(&["pingpong", "--count", "50", "--concurrency", "4"]);
    assert_eq!(pingpong["messages"], 200);

    let down = rig.run(&["bulk-down", "--bytes", "3000001", "--concurrency", "3", "--count", "3"]);
    assert_eq!(down["bytes_down"], 9_000_003);
    let up = rig.run(&["bulk-up", "--bytes", "3000001", "--concurrency", "3", "--count", "3"]);
    assert_eq!(up["bytes_up"], 9_000_003);

    let mixed = rig.run(&["mixed", "--count", "100", "--concurrency", "32"]);
    assert_eq!(mixed["tunnels"]["completed"], 100);

    let socks = rig.run(&["socks", "--count", "100", "--concurrency", "8"]);
    assert_eq!((&socks["tunnels"]["completed"], &socks["messages"]), (&100.into(), &100.into()));

    let churn = rig.run(&["churn", "--count", "300", "--concurrency", "16"]);
    assert_eq!((&churn["tunnels"]["completed"], &churn["tunnels"]["vanished"]), (&75.into(), &225.into()));
}

#[test]
fn tunnels_of_a_forward_match_the_gateways_metrics() {
    let rig =
        Rig::start_with("forward", Some("[[listeners]]\naddress = \"127.0.0.1:0\"\ntarget = \"echo.test:443\"\n"));
    let forward = rig.run_at(rig.listener.as_ref().unwrap(), &["forward", "--count", "100", "--concurrency", "8"]);
    assert_eq!((&forward["tunnels"]["completed"], &forward["messages"]), (&100.into(), &100.into()));
}

/// Set in the namespace in which a test runs again.
const INSIDE: &str = "SMOKE_INSIDE";

/// What `compare` needs for redirected connections.
fn can_redirect() -> bool {
    let script = "nft 'add table ip t' && echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse";
    let output = Command::new("unshare").args(["--net", "sh", "-ec", script]).output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn tunnels_of_redirected_clients_match_the_gateways_metrics() {
    const NAME: &str = "tunnels_of_redirected_clients_match_the_gateways_metrics";
    const PREPARATION: &str = "ip link set lo up
        ip address add 198.51.100.10/32 dev lo
        nft 'table ip smoke {
          chain output {
            type nat hook output priority -100
            ip daddr 198.51.100.10 tcp dport 443 redirect to :15001
          }
        }'
        exec \"$0\" \"$@\"";
    const FILE: &str = "allow_clients = [\"127.0.0.0/8\", \"198.51.100.10\"]
        [[listeners]]
        address = \"127.0.0.1:15001\"
        transparent = \"redirect\"";
    if std::env::var_os(INSIDE).is_none() {
        if !can_redirect() {
            eprintln!("SKIPPED redirected clients: they need a network namespace with nft");
            return;
        }
        gateway_binary();
        let mut inside = Command::new("unshare");
        inside.args(["--net", "sh", "-ec", PREPARATION]).arg(std::env::current_exe().unwrap());
        let output = inside.args(["--exact", NAME, "--nocapture"]).env(INSIDE, "1").output().unwrap();
        assert_success(&output, NAME);
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    let rig = Rig::start_with("transparent", Some(FILE));
    let redirected = rig.run_at("198.51.100.10:443", &["transparent", "--count", "100", "--concurrency", "8"]);
    assert_eq!((&redirected["tunnels"]["completed"], &redirected["messages"]), (&100.into(), &100.into()));
}

#[test]
fn plain_http_goes_over_few_authenticated_connections() {
    let rig = Rig::start("http");
    let answered = |outcome: &Value| outcome["requests"]["answered"].as_u64().unwrap();
    let closed = rig.run(&["http", "--seconds", "2", "--concurrency", "8", "--pid", &rig.gateway_pid]);
    assert!(answered(&closed) > 100, "{}", closed["requests"]);
    assert_eq!(closed["latencies"]["request"]["count"], answered(&closed));
    assert!(closed["requests"]["authentications"].as_u64().unwrap() <= 8, "{}", closed["requests"]);
    assert!(closed["proxy_cpu_s"].as_f64().unwrap() > 0.0);
    assert_eq!((&closed["tunnels"]["opened"], &closed["tunnels"]["failed"]), (&8.into(), &0.into()));

    let counted = rig.run(&["http", "--requests", "300", "--body-bytes", "5000", "--concurrency", "4"]);
    assert_eq!(answered(&counted), 300);

    let open = rig.run(&["http", "--rate", "200", "--seconds", "0.5", "--concurrency", "4"]);
    assert_eq!(answered(&open), 100, "an open loop starts exactly what was scheduled");
}

#[test]
fn a_run_through_a_silent_proxy_fails_in_time_and_says_why() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    let output = Command::new(LOADTEST)
        .args(["run", "setup", "--proxy", &mute.local_addr().unwrap().to_string()])
        .args(["--count", "3", "--patience", "0.3", "--cap", "5"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(begun.elapsed() < Duration::from_secs(5));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("3 × stood still waiting for the answer to CONNECT"), "{text}");
}

#[test]
fn the_cap_cuts_off_a_run_in_any_state() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    for scenario in ["hold", "setup", "pingpong", "http"] {
        let output = Command::new(LOADTEST)
            .args(["run", scenario, "--proxy", &mute.local_addr().unwrap().to_string()])
            .args(["--concurrency", "2", "--cap", "0.4"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && text.contains("cut off by the run's end"), "{scenario}: {text}");
    }
}

/// Runs `compare` for one short round in `directory`, and returns what it writes to `json`.
fn compare(directory: &Path, json: &Path, arguments: &[&str]) -> Value {
    let output = Command::new(LOADTEST)
        .args(["compare", "--quick", "--rounds", "1", "--seconds", "0.3"])
        .args(arguments)
        .arg("--gateway")
        .arg(gateway_binary())
        .arg("--scratch")
        .arg(directory)
        .arg("--json")
        .arg(json)
        .output()
        .unwrap();
    assert_success(&output, "compare");
    serde_json::from_slice(&fs::read(json).unwrap()).unwrap()
}

#[test]
fn compare_starts_its_candidates_and_the_report_shows_them() {
    let directory = scratch("compare");
    let (json, html) = (directory.join("compare.json"), directory.join("report.html"));
    let scenarios = "hold,setup:8,open:100,pingpong:1,http:4,http-post:4,bulk-down,bulk-up";
    let comparison = compare(
        &directory,
        &json,
        &["gateway", "direct", "--tunnels", "40", "--bytes", "1048576", "--scenarios", scenarios],
    );
    let sections = comparison["sections"].as_array().unwrap();
    assert_eq!(sections.len(), 8);
    for section in sections {
        let measured = section["measurements"].as_array().unwrap();
        assert_eq!(measured.len(), 2, "{}", section["name"]);
        assert!(measured[0]["cpu_us"].as_f64().unwrap() >= 0.0 && measured[1]["cpu_us"].is_null());
    }
    let output = Command::new(LOADTEST).arg("report").arg(&json).arg("--html").arg(&html).output().unwrap();
    assert_success(&output, "report");
    let page = fs::read_to_string(html).unwrap();
    assert!(page.contains("<svg") && page.ends_with("</html>\n"));
    let loads = ["src=", "href=", "url(", "@import", "NaN"];
    assert!(loads.iter().all(|word| !page.contains(word)), "the page must be self-contained");
}

#[test]
fn compare_gives_a_gateway_with_kerberos_its_tickets() {
    let directory = scratch("compare-kerberos");
    let json = directory.join("compare.json");
    let comparison =
        compare(&directory, &json, &["gateway-kerberos", "--scenarios", "setup:8", "--ticket-bytes", "4000"]);
    let checks = comparison["sections"][0]["measurements"][0]["outcome"]["checks"].as_array().unwrap();
    let counted = |what: &str| checks.iter().find(|check| check["what"] == what).map(|check| check["got"].as_u64());
    assert!(counted("tickets accepted by the upstream").flatten().is_some_and(|count| count > 0), "{checks:?}");
    assert_eq!(counted("407 of any kind"), Some(Some(0)));
}

#[test]
fn compare_measures_other_client_protocols_beside_connect() {
    let directory = scratch("compare-protocols");
    let json = directory.join("compare.json");
    let mut candidates =
        vec!["gateway", "gateway-socks", "gateway-socks-pipelined", "gateway-socks4", "gateway-forward"];
    if can_redirect() {
        candidates.push("gateway-transparent");
    } else {
        eprintln!("SKIPPED gateway-transparent: needs a network namespace with nft");
    }
    let arguments = ["--scenarios", "setup:8,hold,pingpong:2", "--tunnels", "20", "--base", "gateway"];
    let comparison = compare(&directory, &json, &[&candidates[..], &arguments].concat());
    for section in comparison["sections"].as_array().unwrap() {
        let figure = |key: &str| {
            let all = section["figures"].as_array().unwrap();
            all.iter().find(|figure| figure["key"] == key).map(|figure| &figure["cells"])
        };
        let measured = section["measurements"].as_array().unwrap();
        assert_eq!(measured.len(), candidates.len(), "{}", section["name"]);
        for (measurement, candidate) in measured.iter().zip(&candidates) {
            let outcome = &measurement["outcome"];
            assert!(outcome["messages"].as_u64().unwrap() > 0, "{candidate}: {outcome}");
            assert!(!outcome["checks"].as_array().unwrap().is_empty(), "{candidate}");
            assert_eq!(figure("failed").unwrap()[candidate]["median"], 0.0, "{candidate}");
        }
    }
}

#[test]
fn an_unknown_candidate_is_rejected_by_name() {
    let output = Command::new(LOADTEST).args(["compare", "gatewya"]).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("\"gatewya\"") && text.contains("haproxy-splice"), "{text}");
}
