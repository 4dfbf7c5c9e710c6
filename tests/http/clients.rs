//! Common clients over plain `http://`, through the gateway and a real Squid that verifies NTLM.

use crate::support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::bytes::{assert_same, pseudo_random};
use support::command::{Finished, curl, run};
use support::gateway::{Gateway, GatewayOptions};
use support::git::{git, git_with};
use support::scratch::{Scratch, wait_for};
use support::squid::{LoggedCredentials, Squid, SquidOptions};
use support::tools::{path_of, python_with, skip_for_want_of};
use support::web::Web;
use support::wheel::{self, WHEEL};
use support::wire::Wire;

const MAX_TIME: Duration = Duration::from_secs(90);

/// An origin, a Squid in front of it and the gateway in front of both.
struct ProxiedOrigin {
    squid: Squid,
    gateway: Gateway,
    origin: Web,
}

impl ProxiedOrigin {
    fn new() -> ProxiedOrigin {
        ProxiedOrigin::of(Web::origin(), "")
    }

    fn of(origin: Web, squid_conf: &str) -> ProxiedOrigin {
        let squid = Squid::start(&SquidOptions { extra: squid_conf.to_owned(), ..SquidOptions::default() });
        let gateway = Gateway::start(&GatewayOptions::through(squid.address()));
        ProxiedOrigin { squid, gateway, origin }
    }

    /// Runs a client with the gateway in its environment.
    fn run(&self, program: impl Into<PathBuf>, prepare: impl FnOnce(&mut Command)) -> Finished {
        run(program, MAX_TIME, |command| {
            command.env("http_proxy", self.gateway.url()).env("HTTP_PROXY", self.gateway.url());
            prepare(command);
        })
    }

    /// Panics unless Squid served at least this many requests for the gateway's user, with far fewer authentications.
    #[track_caller]
    fn expect_shared(&self, requests: usize, authentications: usize) {
        let served = || {
            let log = self.squid.log();
            log.iter().filter(|line| line.user == support::USER && !line.status.ends_with("/407")).count()
        };
        // Squid logs a request only after its client has received the whole response.
        wait_for(Duration::from_secs(10), || (served() >= requests).then_some(()));
        let (served, log) = (served(), self.squid.log());
        let authenticated = self.squid.count(LoggedCredentials::Authenticate);
        assert!(served >= requests, "{served} requests served, expected {requests}: {log:#?}");
        assert!(authenticated <= authentications, "{authenticated} authentications for {served} requests");
    }
}

#[test]
fn a_hundred_curls_at_once_share_a_few_connections() {
    require_tools!("squid", "ntlm_auth", "curl");
    let site = ProxiedOrigin::new();
    let scratch = Scratch::new("parallel");
    let mut config = String::new();
    for number in 0..100 {
        let (url, file) =
            (site.origin.url(&format!("/bytes/{}?seed={number}", 1000 * number)), scratch.join(&number.to_string()));
        let _ = writeln!(config, "url = \"{url}\"\noutput = \"{}\"", file.display());
    }
    let config = scratch.write("config", config).display().to_string();
    let proxy = site.gateway.url();
    let args =
        ["--noproxy", "", "--proxy", &proxy, "--parallel", "--parallel-immediate", "--parallel-max", "100", "--fail"];
    curl(MAX_TIME, args.into_iter().chain(["--config", &config])).expect_success("a hundred concurrent requests");
    for number in 0..100_u64 {
        let got = std::fs::read(scratch.join(&number.to_string())).unwrap_or_default();
        assert_same(&got, &pseudo_random(number, usize::try_from(number).unwrap() * 1000), &number.to_string());
    }
    // Again, one after the other: nothing has to authenticate again.
    let before = site.squid.count(LoggedCredentials::Authenticate);
    for number in 0..5 {
        let url = site.origin.url(&format!("/bytes/10?seed={number}"));
        curl(MAX_TIME, ["--noproxy", "", "--proxy", &proxy, "--fail", &url]).expect_success("one more");
    }
    assert_eq!(site.squid.count(LoggedCredentials::Authenticate), before, "the connections are shared between clients");
    site.expect_shared(105, 100);
}

#[test]
fn wget_fetches_a_tree() {
    require_tools!("squid", "ntlm_auth", "wget");
    let files = Scratch::new("tree");
    let mut index = String::new();
    for number in 0..30_u64 {
        files.write(&format!("{number}.bin"), pseudo_random(number, 5000));
        let _ = write!(index, "<a href=\"{number}.bin\">{number}</a>");
    }
    files.write("index.html", index);
    let site = ProxiedOrigin::of(Web::of_files(files.path().to_owned()), "");
    let into = Scratch::new("wget");
    let got = site.run(path_of("wget"), |command| {
        command.args(["--no-config", "--no-verbose", "--tries=1", "--recursive", "--level=1", "--no-parent"]);
        command.args(["--no-directories", "--execute", "robots=off", "--directory-prefix"]).arg(into.path());
        command.arg(site.origin.url("/files/"));
    });
    got.expect_success("wget");
    for number in 0..30_u64 {
        let got = std::fs::read(into.join(&format!("{number}.bin"))).unwrap_or_default();
        assert_same(&got, &pseudo_random(number, 5000), "wget's bytes");
    }
    site.expect_shared(31, 2);
}

#[test]
fn a_python_requests_session_authenticates_once() {
    require_tools!("squid", "ntlm_auth");
    let Some(python) = python_with("requests") else {
        skip_for_want_of("Python's requests");
        return;
    };
    let site = ProxiedOrigin::new();
    let script = "import sys, requests\n\
        session = requests.Session()\n\
        base = sys.argv[1]\n\
        for number in range(60):\n    \
            answer = session.get(f'{base}/bytes/{number * 100}?seed={number}', timeout=30)\n    \
            assert answer.status_code == 200 and len(answer.content) == number * 100, number\n    \
            answer = session.post(f'{base}/sink', data=b'x' * number, timeout=30)\n    \
            assert answer.text.startswith(f'POST {number} '), answer.text\n\
        def pieces():\n    \
            for number in range(50): yield b'y' * 1000\n\
        assert session.post(f'{base}/sink', data=pieces(), timeout=30).text.startswith('POST 50000 ')\n\
        assert session.head(f'{base}/bytes/7', timeout=30).headers['Content-Length'] == '7'\n\
        assert session.get(f'{base}/status/204', timeout=30).status_code == 204\n\
        for number in range(5):\n    \
            assert requests.get(f'{base}/chunked/5000', timeout=30).status_code == 200\n\
        print('well done')\n";
    let base = site.origin.url("");
    let got = site.run(python, |command| {
        command.args(["-c", script, &base]);
    });
    assert_eq!(got.expect_success("requests").text(), "well done\n");
    site.expect_shared(128, 3);
}

#[test]
fn pip_downloads_from_an_index() {
    require_tools!("squid", "ntlm_auth");
    let Some(python) = python_with("pip") else {
        skip_for_want_of("Python's pip");
        return;
    };
    let index = Scratch::new("index");
    let wheel = wheel::index(&python, index.path());
    let site = ProxiedOrigin::of(Web::of_files(index.path().to_owned()), "");
    let into = Scratch::new("pip");
    let got = site.run(python, |command| {
        command.args(wheel::download(&site.origin.url("/files/simple"), into.path()));
        command.args(["--trusted-host", "127.0.0.1"]).env("PIP_CONFIG_FILE", "/dev/null").env("HOME", into.path());
    });
    got.expect_success("pip download");
    assert_same(&std::fs::read(into.join(WHEEL)).unwrap(), &wheel, "the wheel");
    site.expect_shared(2, 2);
}

/// Makes a flat, unsigned repository with one package.
fn make_repository(at: &Path) {
    let tree = at.join("tree");
    std::fs::create_dir_all(tree.join("DEBIAN")).expect("mkdir");
    std::fs::create_dir_all(tree.join("usr/share/gateway-test")).expect("mkdir");
    std::fs::write(tree.join("usr/share/gateway-test/data"), pseudo_random(4, 2 << 20)).expect("write the data");
    let control = "Package: gateway-test\nVersion: 1.0\nArchitecture: all\nMaintainer: Test <test@example.test>\nDescription: a test\n";
    std::fs::write(tree.join("DEBIAN/control"), control).expect("write control");
    let package = at.join("gateway-test_1.0_all.deb");
    run(path_of("dpkg-deb"), MAX_TIME, |command| {
        command.args(["--root-owner-group", "--build", "-Znone"]).arg(&tree).arg(&package);
    })
    .expect_success("dpkg-deb");
    let sum = run(path_of("sha256sum"), MAX_TIME, |command| {
        command.arg(&package);
    });
    let (sum, size) = (sum.text(), std::fs::metadata(&package).expect("the package").len());
    let sum = sum.split(' ').next().unwrap_or_default();
    let packages = format!("{control}Filename: ./gateway-test_1.0_all.deb\nSize: {size}\nSHA256: {sum}\n");
    std::fs::write(at.join("Packages"), packages).expect("write Packages");
}

#[test]
fn apt_updates_and_downloads() {
    require_tools!("squid", "ntlm_auth", "apt-get", "dpkg-deb", "sha256sum");
    let repository = Scratch::new("repository");
    make_repository(repository.path());
    let site = ProxiedOrigin::of(Web::of_files(repository.path().to_owned()), "");
    let apt = Scratch::new("apt");
    for directory in ["state/lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/trusted.gpg.d"] {
        std::fs::create_dir_all(apt.join(directory)).unwrap();
    }
    apt.write("status", "");
    let source = format!("deb [trusted=yes] {} ./\n", site.origin.url("/files"));
    apt.write("etc/sources.list", source);
    let proxy = site.gateway.url();
    let root = apt.path().display().to_string();
    let conf = format!(
        "Dir::Etc \"{root}/etc\";\nDir::Etc::SourceParts \"/dev/null\";\nDir::State \"{root}/state\";\n\
         Dir::State::status \"{root}/status\";\nDir::Cache \"{root}/cache\";\nDir::Log \"{root}\";\n\
         APT::Sandbox::User \"root\";\nAPT::Architecture \"amd64\";\nAcquire::Languages \"none\";\nAcquire::Retries \"0\";\n\
         Acquire::http::Proxy \"{proxy}\";\nDebug::NoLocking \"true\";\n"
    );
    let conf = apt.write("apt.conf", conf);
    let run_apt = |args: &[&str]| {
        site.run(path_of("apt-get"), |command| {
            command.args(args).env("APT_CONFIG", &conf).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        })
        .expect_success("apt-get")
    };
    let said = run_apt(&["--error-on=any", "update"]);
    assert!(said.text().contains("Packages"), "{}", said.text());
    run_apt(&["install", "--download-only", "--yes", "gateway-test"]);
    let got = std::fs::read(apt.join("cache/archives/gateway-test_1.0_all.deb")).expect("the package");
    assert_same(&got, &std::fs::read(repository.join("gateway-test_1.0_all.deb")).unwrap(), "the package");
    site.expect_shared(3, 3);
}

/// Runs git with the site's gateway as its proxy.
fn git_through(site: &ProxiedOrigin, home: &Path, args: &[&str]) {
    git_with(home, args, |command| {
        command.env("http_proxy", site.gateway.url());
    });
}

#[test]
fn git_clones_and_pushes_over_http() {
    require_tools!("squid", "ntlm_auth", "git");
    let served = Scratch::new("served");
    let home = Scratch::new("home");
    let bare = served.join("repository.git").display().to_string();
    git(home.path(), &["init", "--quiet", "--bare", &bare]);
    git(home.path(), &["-C", &bare, "config", "http.receivepack", "true"]);
    let site = ProxiedOrigin::of(Web::of_files(served.path().to_owned()), "");
    let smart = site.origin.url("/git/repository.git");
    git_through(&site, home.path(), &["clone", "--quiet", &smart, "first"]);
    std::fs::write(home.join("first/small"), "a line\n").unwrap();
    // Larger than http.postBuffer, so that the push uses chunks of unknown total length.
    std::fs::write(home.join("first/large"), pseudo_random(6, 3 << 20)).unwrap();
    git(home.path(), &["-C", "first", "add", "--all"]);
    git(home.path(), &["-C", "first", "commit", "--quiet", "--message", "one"]);
    git_through(&site, home.path(), &["-C", "first", "push", "--quiet", "origin", "HEAD:refs/heads/main"]);
    git(home.path(), &["-C", &bare, "symbolic-ref", "HEAD", "refs/heads/main"]);
    git(home.path(), &["-C", &bare, "update-server-info"]);
    for (name, url) in [("smart", smart.clone()), ("dumb", site.origin.url("/files/repository.git"))] {
        git_through(&site, home.path(), &["clone", "--quiet", &url, name]);
        let got = std::fs::read(home.join(name).join("large")).unwrap();
        assert_same(&got, &pseudo_random(6, 3 << 20), name);
    }
    let log = site.squid.log();
    assert!(log.iter().any(|line| line.method == "POST" && line.target.ends_with("/git-receive-pack")), "{log:#?}");
    assert!(
        log.iter().any(|line| line.method == "GET" && line.target.contains("/files/repository.git/objects/")),
        "{log:#?}"
    );
    site.expect_shared(10, 8);
}

#[test]
fn a_web_socket_works_through_squid() {
    require_tools!("squid", "ntlm_auth");
    let site = ProxiedOrigin::of(Web::origin(), "http_upgrade_request_protocols websocket allow all");
    let mut client = Wire::connect(site.gateway.address());
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let answer = client.ask(site.origin.request("GET", "/echo-upgrade", fields)).unwrap();
    assert_eq!(answer.status(), 101, "{}", answer.head);
    assert_eq!(answer.field("upgrade"), Some("websocket"), "{}", answer.head);
    assert_eq!(client.exactly(6).unwrap(), b"hello ");
    // A masked text frame (RFC 6455 §5.7), followed by bulk data.
    let frame = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    client.send(frame).unwrap();
    assert_eq!(client.exactly(frame.len()).unwrap(), frame);
    let bulk = pseudo_random(8, 1 << 20);
    let back = support::client::echo_through(&client.stream, &bulk).unwrap();
    assert_same(&back, &bulk, "through the web socket");
}
