//! Real clients without any setting for a proxy, and servers that speak first.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::network::{self, ORIGIN, ORIGIN_V6, Way, in_pod, is_inside};
use crate::support::USER;
use crate::support::bytes::assert_same;
use crate::support::command::run;
use crate::support::gateway::Gateway;
use crate::support::git::git;
use crate::support::process::Process;
use crate::support::scratch::{Scratch, wait_for};
use crate::support::squid::{LogLine, Squid};
use crate::support::tools::{find, path_of, python_with, skip};
use crate::support::wheel::{self, WHEEL};

const PATIENCE: Duration = Duration::from_secs(20);

/// HTTP on port 80 and HTTPS on port 443 of both addresses of `origin.test`, with a page and a git repository.
struct Origins {
    _servers: Vec<Process>,
    scratch: Scratch,
}

impl Origins {
    fn start() -> Self {
        let scratch = Scratch::new("origins");
        let (certificate, key) = (scratch.join("cert.pem"), scratch.join("key.pem"));
        run(path_of("openssl"), PATIENCE, |command| {
            command.args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
            command.args(["-days", "2", "-subj", "/CN=origin.test"]);
            command.args(["-addext", "subjectAltName=DNS:origin.test,IP:198.51.100.10,IP:2001:db8:51::10"]);
            command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        })
        .expect_success("make the origin's certificate");
        std::fs::create_dir(scratch.join("pages")).expect("mkdir");
        scratch.write("pages/page", "the page of the origin\n");
        repository(&scratch);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transparent/origin.py");
        let mut servers = Vec::new();
        for address in [ORIGIN, ORIGIN_V6] {
            for (port, certificate) in [("80", None), ("443", Some(&certificate))] {
                let mut command = Process::command(path_of("python3"));
                command.arg(script).args([address, port]).arg(scratch.join("pages"));
                command.args(certificate.into_iter().chain(certificate.map(|_| &key)));
                servers.push(Process::spawn("origin", command.stdout(Stdio::null())));
                let is_up = || TcpStream::connect((address, port.parse().expect("a port"))).ok();
                assert!(wait_for(PATIENCE, is_up).is_some(), "the origin at {address} port {port}");
            }
        }
        Self { _servers: servers, scratch }
    }

    fn certificate(&self) -> String {
        self.scratch.join("cert.pem").display().to_string()
    }
}

/// A repository that can be cloned from any web server.
fn repository(scratch: &Scratch) {
    git(scratch.path(), &["init", "-q", "work"]);
    git(scratch.path(), &["-C", "work", "commit", "-q", "--allow-empty", "-m", "first"]);
    git(scratch.path(), &["clone", "-q", "--bare", "work", "pages/project.git"]);
    git(scratch.path(), &["-C", "pages/project.git", "update-server-info"]);
}

const PAGE: &str = "the page of the origin\n";

/// What Squid has logged since `before` lines.
fn targets(squid: &Squid, before: usize) -> Vec<String> {
    let served = |line: &LogLine| line.user == USER && line.status.ends_with("/200");
    squid.log()[before..].iter().filter(|line| served(line)).map(|l| format!("{} {}", l.method, l.target)).collect()
}

/// Waits until Squid has logged a request for `target`.
#[track_caller]
fn expect_target(squid: &Squid, before: usize, target: &str) {
    let found = wait_for(PATIENCE, || targets(squid, before).iter().any(|seen| seen == target).then_some(()));
    assert!(found.is_some(), "{target} is not among {:?}", squid.log());
}

fn fetches(origins: &Origins, squid: &Squid, family: &str) {
    let certificate = origins.certificate();
    let ca = ["--cacert", &certificate];
    let fetch = |arguments: &[&str]| in_pod("curl", &[&["-q", "-sS", "--fail", family], arguments].concat());

    let before = squid.log().len();
    let page = fetch(&[&ca[..], &["https://origin.test/page"]].concat()).expect_success("curl, https");
    assert_eq!(page.text(), PAGE);
    expect_target(squid, before, "CONNECT origin.test:443");

    let before = squid.log().len();
    // One connection, three requests.
    let url = "http://origin.test/page";
    let pages = fetch(&["-v", url, url, url]).expect_success("curl, http");
    assert_eq!(pages.text(), PAGE.repeat(3));
    assert!(pages.stderr.contains("Re-using existing connection"), "{}", pages.stderr);
    expect_target(squid, before, "GET http://origin.test/page");
}

#[test]
fn clients_without_proxy_settings_reach_https_and_http_origins() {
    require_tools!(
        "unshare",
        "ip",
        "nft",
        "squid",
        "ntlm_auth",
        "curl",
        "openssl",
        "python3",
        "git",
        "wget",
        "sh",
        "env"
    );
    if !is_inside("clients::clients_without_proxy_settings_reach_https_and_http_origins") {
        return;
    }
    let (origins, squid) = (Origins::start(), network::squid());
    let gateway = network::gateway("");
    let direct = in_pod("curl", &["-q", "-sS", "--max-time", "3", "http://origin.test/page"]);
    assert_ne!(direct.code, Some(0), "the pod has a way around the gateway");
    for way in Way::ALL {
        way.open();
        for family in ["-4", "-6"] {
            fetches(&origins, &squid, family);
        }
        other_clients(&origins, &squid);
        without_server_name(&origins, &squid);
    }
    for protocol in ["tls", "http"] {
        let answered = gateway.metric("ntlm_gateway_requests_total", &[("protocol", protocol), ("status", "2xx")]);
        assert!(answered.is_some_and(|count| count >= 8.0), "{protocol}: {answered:?}");
    }
    for source in ["sni", "host", "address"] {
        gateway.wait_for_line(&format!("destination_source={source}"));
    }
}

fn other_clients(origins: &Origins, squid: &Squid) {
    let certificate = origins.certificate();
    let before = squid.log().len();
    let ca = format!("--ca-certificate={certificate}");
    let page = in_pod("wget", &["-q", "-O", "-", "--tries=1", &ca, "https://origin.test/page"]);
    assert_eq!(page.expect_success("wget").text(), PAGE);
    let program = "import ssl, sys, urllib.request\n\
                   trust = ssl.create_default_context(cafile=sys.argv[1])\n\
                   sys.stdout.write(urllib.request.urlopen(sys.argv[2], context=trust).read().decode())";
    let page = in_pod("python3", &["-c", program, &certificate, "https://origin.test/page"]);
    assert_eq!(page.expect_success("Python").text(), PAGE);
    let ca = format!("GIT_SSL_CAINFO={certificate}");
    let git = path_of("git").display().to_string();
    for url in ["https://origin.test/project.git", "http://origin.test/project.git"] {
        let references = in_pod("env", &[&ca, &git, "ls-remote", url]).expect_success("git");
        assert!(references.text().contains("\tHEAD"), "{}", references.text());
    }
    expect_target(squid, before, "GET http://origin.test/project.git/HEAD");
    where_installed(origins);
}

/// Clients that the test does not insist on.
fn where_installed(origins: &Origins) {
    let certificate = origins.certificate();
    let apt = "/usr/lib/apt/apt-helper";
    if std::path::Path::new(apt).is_file() {
        let file = origins.scratch.join("fetched").display().to_string();
        let fetched = in_pod("env", &[apt, "download-file", "http://origin.test/page", &file]);
        fetched.expect_success("apt");
        assert_eq!(std::fs::read_to_string(&file).expect("apt's file"), PAGE);
    } else {
        skip("apt: apt-helper not found");
    }
    if let Some(python) = python_with("pip") {
        let pages = origins.scratch.join("pages");
        let wheel = wheel::index(&python, &pages);
        let into = Scratch::new("pip");
        let python = python.display().to_string();
        let home = format!("HOME={}", into.path().display());
        // The environment's authorities would replace those of --cert.
        let authorities = ["-u", "REQUESTS_CA_BUNDLE", "-u", "CURL_CA_BUNDLE"];
        let settings = ["PIP_CONFIG_FILE=/dev/null", &home, &python];
        let settings = authorities.into_iter().chain(settings).map(str::to_owned);
        let download = wheel::download("https://origin.test/simple", into.path());
        let trust = ["--cert".to_owned(), certificate.clone()];
        let arguments: Vec<String> = settings.chain(download).chain(trust).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        in_pod("env", &arguments).expect_success("pip");
        assert_same(&std::fs::read(into.join(WHEEL)).expect("pip's file"), &wheel, "the wheel");
    } else {
        skip("pip: Python's pip not found");
    }
    if let Some(node) = find("node") {
        let trust = format!("NODE_EXTRA_CA_CERTS={certificate}");
        let program = "fetch('https://origin.test/page').then(r => r.text()).then(t => process.stdout.write(t))";
        let page = in_pod("env", &[&trust, &node.display().to_string(), "-e", program]);
        assert_eq!(page.expect_success("Node").text(), PAGE);
    } else {
        skip("Node: node not found");
    }
    if let Some(java) = find("java") {
        let source = origins.scratch.write("Fetch.java", FETCH);
        let arguments = [&java.display().to_string(), &source.display().to_string(), "http://origin.test/page"];
        let page = in_pod("env", &arguments);
        assert_eq!(page.expect_success("Java").text(), PAGE);
    } else {
        skip("Java: java not found");
    }
}

const FETCH: &str = "import java.net.URL;
public class Fetch {
    public static void main(String[] arguments) throws Exception {
        try (var in = new URL(arguments[0]).openStream()) { System.out.write(in.readAllBytes()); System.out.flush(); }
    }
}
";

fn without_server_name(origins: &Origins, squid: &Squid) {
    let certificate = origins.certificate();
    let request = "printf 'GET /page HTTP/1.0\\r\\n\\r\\n' | \"$0\" s_client -quiet -CAfile $1 $2 $3 -connect $4";
    let openssl = path_of("openssl").display().to_string();
    for (arguments, address, target) in [
        (["-servername", "origin.test"], "198.51.100.10:443", "CONNECT origin.test:443"),
        (["-noservername", ""], "198.51.100.10:443", "CONNECT 198.51.100.10:443"),
        (["-noservername", ""], "[2001:db8:51::10]:443", "CONNECT [2001:db8:51::10]:443"),
    ] {
        let before = squid.log().len();
        let [flag, name] = arguments;
        let said = in_pod("sh", &["-c", request, &openssl, &certificate, flag, name, address]);
        assert!(said.text().contains(PAGE), "{target}: {}{}", said.text(), said.stderr);
        expect_target(squid, before, target);
    }
}

#[test]
fn tsocks_makes_programs_use_the_gateway_by_socks() {
    // It always connects to loopback by itself, so its origin has another address.
    require_tools!("unshare", "ip", "nft", "squid", "ntlm_auth", "curl", "openssl", "python3", "git", "env", "tsocks");
    if !is_inside("clients::tsocks_makes_programs_use_the_gateway_by_socks") {
        return;
    }
    let (_origins, squid) = (Origins::start(), network::squid());
    let gateway = network::gateway("");
    let scratch = Scratch::new("tsocks");
    let (tsocks, curl) = (path_of("tsocks").display().to_string(), path_of("curl").display().to_string());
    for version in ["4", "5"] {
        let before = squid.log().len();
        let settings = format!(
            "local = 10.77.0.0/255.255.255.0\nserver = 10.77.0.1\nserver_port = 3128\nserver_type = {version}\n"
        );
        let file = format!("TSOCKS_CONF_FILE={}", scratch.write("tsocks.conf", settings).display());
        let page = in_pod("env", &[&file, &tsocks, &curl, "-q", "-sS", "--fail", "-4", "http://origin.test/page"]);
        assert_eq!(page.expect_success("tsocks").text(), PAGE);
        expect_target(&squid, before, "CONNECT 198.51.100.10:80");
        gateway.wait_for_line(&format!("protocol=socks{version}"));
    }
}

/// A server that greets each client, and answers a line with it.
fn greeting_server(address: &str, greeting: &'static str) -> Arc<Mutex<Vec<String>>> {
    let listener = TcpListener::bind(address).expect("bind the server");
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&lines);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
            stream.write_all(greeting.as_bytes()).expect("the greeting");
            let mut line = Vec::new();
            let mut byte = [0];
            while stream.read(&mut byte).is_ok_and(|count| count == 1) && byte != *b"\n" {
                line.extend(byte);
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            let _ = stream.write_all(format!("you said {line}\n").as_bytes());
            seen.lock().expect("the lines").push(line);
        }
    });
    lines
}

/// Reads a line, sends one, and prints both that came.
const POLITE: &str = "import socket, sys\n\
                      peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)\n\
                      lines = peer.makefile('rw', newline='\\n')\n\
                      sys.stdout.write(lines.readline())\n\
                      lines.write(sys.argv[3] + '\\n'); lines.flush()\n\
                      sys.stdout.write(lines.readline())";

#[test]
fn servers_that_speak_first_are_reached_by_their_address() {
    require_tools!("unshare", "ip", "nft", "squid", "ntlm_auth", "python3", "ssh");
    if !is_inside("clients::servers_that_speak_first_are_reached_by_their_address") {
        return;
    }
    let squid = network::squid();
    let gateway = network::gateway("[timeouts]\nsniff = \"300ms\"");
    greeting_server("198.51.100.10:25", "220 mail.origin.test ESMTP\r\n");
    greeting_server("[2001:db8:51::10]:25", "220 mail.origin.test ESMTP\r\n");
    let ssh = greeting_server("198.51.100.10:22", "SSH-2.0-Greeter_1.0\r\n");
    for way in Way::ALL {
        way.open();
        for (address, target) in [(ORIGIN, "CONNECT 198.51.100.10:25"), (ORIGIN_V6, "CONNECT [2001:db8:51::10]:25")] {
            let (before, started) = (squid.log().len(), Instant::now());
            let said = in_pod("python3", &["-c", POLITE, address, "25", "EHLO pod"]).expect_success("SMTP").text();
            assert_eq!(said, "220 mail.origin.test ESMTP\r\nyou said EHLO pod\n");
            assert!(started.elapsed() >= Duration::from_millis(300));
            expect_target(&squid, before, target);
        }
        // It sends its own version at once, and gives up because the server knows nothing more.
        let before = squid.log().len();
        let options =
            ["-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=10", "-o", "BatchMode=yes", "-F", "none"];
        let said = in_pod("ssh", &[&["-v"], &options[..], &["nobody@198.51.100.10"]].concat());
        assert!(said.stderr.contains("remote software version Greeter_1.0"), "{}", said.stderr);
        expect_target(&squid, before, "CONNECT 198.51.100.10:22");
    }
    let versions = ssh.lock().expect("the lines").clone();
    assert!(versions.len() == 2 && versions.iter().all(|line| line.starts_with("SSH-2.0-OpenSSH")), "{versions:?}");
    by_address(&gateway, 6.0);
}

/// So many tunnels were opened by address.
#[track_caller]
fn by_address(gateway: &Gateway, expected: f64) {
    let labels = [("protocol", "tcp"), ("status", "2xx")];
    assert_eq!(gateway.metric("ntlm_gateway_requests_total", &labels), Some(expected));
}
