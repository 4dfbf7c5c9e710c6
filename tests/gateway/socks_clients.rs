//! Common programs that speak SOCKS, through the gateway and a real Squid.

use crate::support;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use support::bytes::{assert_same, pseudo_random};
use support::command::{curl, run};
use support::gateway::{Gateway, GatewayOptions};
use support::git::git;
use support::listener::Listener;
use support::origin::HttpOrigin;
use support::process::Process;
use support::scratch::{Scratch, accepts, free_port, wait_for};
use support::squid::{Squid, SquidOptions};
use support::tools::{path_of, python_with, skip_for_want_of};
use support::web::Web;

const MAX_TIME: Duration = Duration::from_secs(60);
const LENGTH_BYTES: usize = 300_000;

/// A gateway and the Squid that it uses.
struct Site {
    squid: Squid,
    gateway: Gateway,
}

impl Site {
    fn new() -> Self {
        let squid = Squid::start(&SquidOptions::default());
        let gateway = Gateway::start(&GatewayOptions::through(squid.address()));
        Self { squid, gateway }
    }

    /// Panics unless so many tunnels of this protocol went through Squid as the gateway's user.
    #[track_caller]
    fn expect_tunnels(&self, protocol: &str, count: f64) {
        let labels = [("protocol", protocol), ("kind", "connect"), ("status", "2xx")];
        assert_eq!(self.gateway.metric("ntlm_gateway_requests_total", &labels), Some(count), "{protocol}");
        let line = self.gateway.wait_for_line(&format!("protocol={protocol}"));
        assert!(line.contains("status=200") && line.contains("identity=default"), "{line}");
        let is_of_user = |line: &support::squid::LogLine| line.user == support::USER && line.method == "CONNECT";
        let log = self.squid.log_with_tunnels(1);
        assert!(log.iter().any(is_of_user), "{log:#?}");
    }
}

#[test]
fn curl_fetches_with_every_version_of_socks() {
    require_tools!("squid", "ntlm_auth", "curl", "openssl", "python3");
    let (site, origin) = (Site::new(), HttpOrigin::https());
    let (proxy, certificate) = (site.gateway.address().to_string(), origin.certificate());
    let path = format!("/bytes/{LENGTH_BYTES}?seed=3");
    let expected = curl(MAX_TIME, ["--cacert", &certificate, &origin.url(&path)]).expect_success("directly").stdout;
    let named = origin.url(&path).replace("127.0.0.1", "localhost");
    for (option, url) in [
        ("--socks4", origin.url(&path)),
        ("--socks4a", named.clone()),
        ("--socks5", origin.url(&path)),
        ("--socks5-hostname", named),
    ] {
        let got = curl(MAX_TIME, [option, &proxy, "--fail", "--cacert", &certificate, &url]).expect_success(option);
        assert_same(&got.stdout, &expected, option);
    }
    site.expect_tunnels("socks4", 2.0);
    site.expect_tunnels("socks5", 2.0);
    let named = |line: &support::squid::LogLine| line.target.starts_with("localhost:");
    let log = site.squid.log_with_tunnels(4);
    assert_eq!(log.iter().filter(|line| named(line) && line.status.ends_with("/200")).count(), 2, "{log:#?}");
}

#[test]
fn curl_logs_on_with_socks5_and_reports_a_wrong_login() {
    require_tools!("squid", "ntlm_auth", "curl", "python3");
    let (squid, origin, scratch) = (Squid::start(&SquidOptions::default()), HttpOrigin::http(), Scratch::new("login"));
    let file = scratch.write(
        "gateway.toml",
        format!(
            "[[identities]]\nname = 'desk'\nuser = 'CORP\\alice'\npassword_file = '{}'\n\
             proxy_user = 'joe'\nproxy_password_file = '{}'\n",
            scratch.write("password", support::PASSWORD).display(),
            scratch.write("login", "let me: in\n").display()
        ),
    );
    let mut options = GatewayOptions::through(squid.address());
    options.only_args = true;
    options.args = ["--config", &file.display().to_string(), "--upstream", &squid.address().to_string()]
        .map(str::to_owned)
        .to_vec();
    let gateway = Gateway::start(&options);
    let proxy = format!("socks5h://{}", gateway.address());
    let url = origin.url("/bytes/1000");
    let fetch = |login: &[&str]| {
        curl(MAX_TIME, ["--proxy", &proxy, "--fail"].into_iter().chain(login.iter().copied()).chain([url.as_str()]))
    };
    let got = fetch(&["--proxy-user", "joe:let me: in"]).expect_success("the right login");
    assert_eq!(got.stdout.len(), 1000);
    let line = gateway.wait_for_line("protocol=socks5");
    assert!(line.contains("identity=desk"), "{line}");
    let wrong = fetch(&["--proxy-user", "joe:wrong"]);
    assert!(wrong.code == Some(97) && wrong.stderr.contains("User was rejected"), "{:?} {}", wrong.code, wrong.stderr);
    // Without a login there is no identity: reply code 2.
    let none = fetch(&[]);
    assert!(none.code == Some(97) && none.stderr.contains("(2)"), "{:?} {}", none.code, none.stderr);
    gateway.wait_for_line("end=login_required");
}

#[test]
fn netcat_and_proxychains_get_through() {
    require_tools!("squid", "ntlm_auth", "nc", "proxychains4", "curl", "python3");
    let (site, web) = (Site::new(), HttpOrigin::http());
    // Squid ends a tunnel of which one direction has ended, so the origin speaks.
    let origin = Listener::start(|mut stream| stream.write_all(&pseudo_random(4, 100_000)).unwrap_or_default());
    let scratch = Scratch::new("socks");
    let (proxy, port) = (site.gateway.address().to_string(), origin.address().port().to_string());
    for version in ["4", "5"] {
        let got = run(path_of("nc"), MAX_TIME, |command| {
            command.args(["-d", "-X", version, "-x", &proxy, "127.0.0.1", &port]);
        });
        assert_same(&got.expect_success("nc").stdout, &pseudo_random(4, 100_000), version);
    }
    let address = site.gateway.address();
    for kind in ["socks4", "socks5"] {
        let list = format!("strict_chain\nquiet_mode\n[ProxyList]\n{kind} {} {}\n", address.ip(), address.port());
        let config = scratch.write("proxychains.conf", list);
        let got = run(path_of("proxychains4"), MAX_TIME, |command| {
            command.arg("-f").arg(&config).arg(path_of("curl"));
            command.args(["-q", "-sS", "--fail", &web.url("/bytes/1000")]);
        });
        assert_eq!(got.expect_success(kind).stdout.len(), 1000, "{kind}");
    }
    site.expect_tunnels("socks4", 2.0);
    site.expect_tunnels("socks5", 2.0);
}

/// An SSH server for this user, with keys of its own.
struct Sshd {
    _process: Process,
    keys: Scratch,
    address: SocketAddr,
}

impl Sshd {
    fn start() -> Self {
        let keys = Scratch::new("sshd");
        for name in ["host", "user"] {
            run(path_of("ssh-keygen"), MAX_TIME, |command| {
                command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(keys.join(name));
            })
            .expect_success("ssh-keygen");
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let public = |name: &str| std::fs::read_to_string(keys.join(name)).expect("a public key");
        keys.write("known", format!("[127.0.0.1]:{} {}", address.port(), public("host.pub")));
        keys.write("authorized", public("user.pub"));
        let directory = keys.path().display();
        let config = keys.write(
            "config",
            format!(
                "ListenAddress {address}\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
                 PermitRootLogin prohibit-password\nPidFile none\n"
            ),
        );
        // It is there once the distribution's own server has been started.
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd").expect("mkdir");
        }
        let mut command = Process::command(path_of("sshd"));
        command.args(["-D", "-e", "-f"]).arg(config).stderr(std::process::Stdio::null());
        let process = Process::spawn("sshd", &mut command);
        assert!(wait_for(MAX_TIME, || accepts(address).then_some(())).is_some(), "sshd does not listen");
        Self { _process: process, keys, address }
    }
}

#[test]
fn ssh_logs_on_to_a_server_through_netcat() {
    require_tools!("squid", "ntlm_auth", "nc", "ssh", "ssh-keygen", "sshd", "id");
    let (site, server) = (Site::new(), Sshd::start());
    let sent = pseudo_random(8, 1 << 20);
    let file = server.keys.join("file");
    std::fs::write(&file, &sent).unwrap();
    let user = run(path_of("id"), MAX_TIME, |command| {
        command.arg("-un");
    });
    let user = user.expect_success("id").text().trim().to_owned();
    let (keys, port) = (server.keys.path().display(), server.address.port());
    for version in ["5", "4"] {
        let proxy = format!("{} -X {version} -x {} %h %p", path_of("nc").display(), site.gateway.address());
        let got = run(path_of("ssh"), MAX_TIME, |command| {
            command.args(["-n", "-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
            command.args(["-o", &format!("UserKnownHostsFile={keys}/known"), "-i", &format!("{keys}/user")]);
            command.args(["-o", &format!("ProxyCommand={proxy}"), "-p", &port.to_string()]);
            command.arg(format!("{user}@127.0.0.1")).arg(format!("cat {}", file.display()));
        });
        assert_same(&got.expect_success("ssh").stdout, &sent, version);
    }
    site.expect_tunnels("socks5", 1.0);
    site.expect_tunnels("socks4", 1.0);
}

#[test]
fn python_requests_fetches_through_socks() {
    require_tools!("squid", "ntlm_auth", "python3");
    let Some(python) = python_with("requests, socks") else {
        skip_for_want_of("Python's requests with PySocks");
        return;
    };
    let (site, origin) = (Site::new(), HttpOrigin::http());
    let script = "import sys, requests\n\
                  for scheme in ('socks4', 'socks4a', 'socks5', 'socks5h'):\n    \
                      proxy = scheme + '://' + sys.argv[1]\n    \
                      answer = requests.get(sys.argv[2], proxies={'http': proxy}, timeout=30)\n    \
                      answer.raise_for_status()\n    \
                      print(len(answer.content))\n";
    let got = run(python, MAX_TIME, |command| {
        command.args(["-c", script, &site.gateway.address().to_string(), &origin.url("/bytes/1000")]);
    });
    assert_eq!(got.expect_success("requests").text(), "1000\n".repeat(4));
    site.expect_tunnels("socks4", 2.0);
    site.expect_tunnels("socks5", 2.0);
}

#[test]
fn git_clones_through_socks() {
    require_tools!("squid", "ntlm_auth", "git");
    let (served, home) = (Scratch::new("served"), Scratch::new("home"));
    let bare = served.join("repository.git").display().to_string();
    git(home.path(), &["init", "--quiet", "first"]);
    let large = pseudo_random(6, 1 << 20);
    std::fs::write(home.join("first/large"), &large).unwrap();
    git(home.path(), &["-C", "first", "add", "--all"]);
    git(home.path(), &["-C", "first", "commit", "--quiet", "--message", "one"]);
    git(home.path(), &["clone", "--quiet", "--bare", "first", &bare]);
    let (site, web) = (Site::new(), Web::of_files(served.path().to_owned()));
    let proxy = format!("http.proxy=socks5h://{}", site.gateway.address());
    git(home.path(), &["-c", &proxy, "clone", "--quiet", &web.url("/git/repository.git"), "second"]);
    assert_same(&std::fs::read(home.join("second/large")).unwrap(), &large, "the clone");
    let line = site.gateway.wait_for_line("protocol=socks5");
    assert!(line.contains("status=200"), "{line}");
}
