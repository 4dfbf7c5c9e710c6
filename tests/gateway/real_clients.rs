//! Common client programs, which know the gateway only from `https_proxy`, through it and a real Squid.

use crate::support;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use support::bytes::assert_same;
use support::command::{Finished, curl, run};
use support::gateway::{Gateway, GatewayOptions};
use support::origin::HttpOrigin;
use support::scratch::wait_for;
use support::squid::{Squid, SquidOptions};
use support::tools::{path_of, python_with, skip_for_want_of};

const MAX_TIME: Duration = Duration::from_secs(60);
const LENGTH_BYTES: usize = 300_000;

/// A gateway, the Squid that it uses, and an origin.
struct Site {
    squid: Squid,
    gateway: Gateway,
    origin: HttpOrigin,
}

impl Site {
    fn new(origin: HttpOrigin) -> Self {
        let squid = Squid::start(&SquidOptions::default());
        let gateway = Gateway::start(&GatewayOptions::through(squid.address()));
        Self { squid, gateway, origin }
    }

    /// The URL of the bytes that [`Site::expected`] returns.
    fn url(&self) -> String {
        self.origin.url(&format!("/bytes/{LENGTH_BYTES}?seed=3"))
    }

    fn expected(&self) -> Vec<u8> {
        let args = ["--noproxy", "*", "--insecure", "--fail"];
        let url = self.url();
        let bytes = curl(MAX_TIME, args.into_iter().chain([url.as_str()])).expect_success("a direct request").stdout;
        assert_eq!(bytes.len(), LENGTH_BYTES);
        bytes
    }

    /// Runs a client with the gateway in its environment.
    fn run(&self, program: impl Into<PathBuf>, prepare: impl FnOnce(&mut Command)) -> Finished {
        run(program, MAX_TIME, |command| {
            command.env("https_proxy", self.gateway.url()).env("http_proxy", self.gateway.url());
            prepare(command);
        })
    }

    /// Panics unless Squid has served a request with this method for the gateway's user.
    #[track_caller]
    fn expect_in_log(&self, method: &str) {
        let is_served = |line: &support::squid::LogLine| {
            line.user == support::USER && line.method == method && line.status.ends_with("/200")
        };
        let seen = wait_for(Duration::from_secs(10), || self.squid.log().iter().any(is_served).then_some(()));
        assert!(seen.is_some(), "no {method} of {} in {:#?}", support::USER, self.squid.log());
    }
}

#[test]
fn curl_fetches_over_https() {
    require_tools!("squid", "ntlm_auth", "curl", "openssl", "python3");
    let site = Site::new(HttpOrigin::https());
    let got = site.run(path_of("curl"), |command| {
        command.args(["-q", "-sS", "--fail", "--cacert", &site.origin.certificate(), &site.url()]);
    });
    assert_same(&got.expect_success("curl").stdout, &site.expected(), "curl's bytes");
    site.expect_in_log("CONNECT");
}

#[test]
fn wget_fetches_over_https() {
    require_tools!("squid", "ntlm_auth", "curl", "openssl", "python3", "wget");
    let site = Site::new(HttpOrigin::https());
    let got = site.run(path_of("wget"), |command| {
        command.args(["--no-config", "--no-verbose", "--tries=1", "--output-document=-"]);
        command.arg(format!("--ca-certificate={}", site.origin.certificate())).arg(site.url());
    });
    assert_same(&got.expect_success("wget").stdout, &site.expected(), "wget's bytes");
    site.expect_in_log("CONNECT");
}

#[test]
fn python_requests_fetches_over_https_repeatedly() {
    require_tools!("squid", "ntlm_auth", "curl", "openssl", "python3");
    let Some(python) = python_with("requests") else {
        skip_for_want_of("Python's requests");
        return;
    };
    let site = Site::new(HttpOrigin::https());
    let script = "import sys, requests\n\
                  session = requests.Session()\n\
                  for _ in range(3):\n    \
                      answer = session.get(sys.argv[1], timeout=30)\n    \
                      answer.raise_for_status()\n    \
                      requests.get(sys.argv[1], timeout=30).raise_for_status()\n\
                  sys.stdout.buffer.write(answer.content)\n";
    let got = site.run(python, |command| {
        command.args(["-c", script, &site.url()]).env("REQUESTS_CA_BUNDLE", site.origin.certificate());
    });
    assert_same(&got.expect_success("requests").stdout, &site.expected(), "requests' bytes");
    site.expect_in_log("CONNECT");
}

#[test]
fn openssl_s_client_opens_a_tunnel_with_http_1_0() {
    require_tools!("squid", "ntlm_auth", "curl", "openssl", "python3");
    let site = Site::new(HttpOrigin::https());
    let got = site.run(path_of("openssl"), |command| {
        let (gateway, origin) = (site.gateway.address().to_string(), site.origin.address().to_string());
        command.args(["s_client", "-brief", "-verify_return_error", "-verify_ip", "127.0.0.1"]);
        command.args(["-proxy", &gateway, "-connect", &origin, "-CAfile", &site.origin.certificate()]);
    });
    let output = format!("{}{}", got.text(), got.stderr);
    got.expect_success("openssl s_client");
    assert!(output.contains("Verification: OK"), "{output}");
    site.expect_in_log("CONNECT");
}

/// With `--proxytunnel`, curl requests even an `http://` URL through a tunnel.
#[test]
fn curl_fetches_plain_http_through_a_tunnel() {
    require_tools!("squid", "ntlm_auth", "curl", "python3");
    let site = Site::new(HttpOrigin::http());
    let got = site.run(path_of("curl"), |command| {
        command.args(["-q", "-sS", "--fail", "--proxytunnel", &site.url(), &site.url()]);
    });
    assert_same(&got.expect_success("curl").stdout, &site.expected().repeat(2), "curl's bytes");
    site.expect_in_log("CONNECT");
}

#[test]
fn a_clients_own_credentials_reach_neither_squid_nor_the_origin() {
    require_tools!("squid", "ntlm_auth", "curl", "python3");
    let site = Site::new(HttpOrigin::http());
    let got = site.run(path_of("curl"), |command| {
        command.args(["-q", "-sS", "--fail", "--proxytunnel", "--proxy-user", "someone:else", "--proxy-basic"]);
        command.arg(site.origin.url("/headers"));
    });
    let headers = got.expect_success("curl").text();
    assert!(!headers.contains("proxy-"), "{headers}");
    let squid_log = site.squid.log();
    assert!(
        squid_log.iter().all(|line| line.credentials != support::squid::LoggedCredentials::Other),
        "{squid_log:#?}"
    );
    site.expect_in_log("CONNECT");
}
