//! What the routes deny stays denied, whatever name or address a client gives.

use std::net::SocketAddr;
use std::time::Duration;

use super::network::{self, Said, Way, hello, is_inside, say_in_pod};
use crate::support::command::run;
use crate::support::gateway::{GATEWAY, Gateway, GatewayOptions};
use crate::support::scratch::{Scratch, wait_for};
use crate::support::squid::LogLine;
use crate::support::tools::{path_of, skip, skip_without_root};

/// How long the gateway may take to end because of an error.
const BOUND: Duration = Duration::from_secs(20);

/// A fatal alert: access denied (RFC 8446 §6.2).
const ACCESS_DENIED: &[u8] = &[21, 3, 3, 0, 2, 2, 49];
const INTERNAL_ERROR: &[u8] = &[21, 3, 3, 0, 2, 2, 80];

const ROUTES: &str = "[[routes]]
host = [\"denied.test\"]
to = \"deny\"

[[routes]]
host = [\"origin.test\"]
to = \"default\"

[[routes]]
network = [\"203.0.113.0/24\", \"2001:db8:dead::/48\"]
to = \"deny\"
";

fn request(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

#[track_caller]
fn is_status(said: &Said, status: &str) {
    let text = String::from_utf8_lossy(&said.bytes);
    assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
}

#[track_caller]
fn is_alert(said: &Said, alert: &[u8]) {
    assert_eq!(said.bytes, alert, "{said:?}");
}

#[test]
fn denied_names_and_addresses_stay_denied_under_any_other_name_or_address() {
    require_tools!("unshare", "ip", "nft", "squid", "ntlm_auth", "python3");
    if !is_inside("policy::denied_names_and_addresses_stay_denied_under_any_other_name_or_address") {
        return;
    }
    let squid = network::squid();
    let gateway = network::gateway(ROUTES);
    for way in Way::ALL {
        way.open();
        for name in ["denied.test", "DENIED.test", "denied.test."] {
            is_alert(&say_in_pod("198.51.100.10", 443, &hello(Some(name))), ACCESS_DENIED);
            is_status(&say_in_pod("198.51.100.10", 80, &request(name)), "403");
        }
        for address in ["203.0.113.5", "2001:db8:dead::1"] {
            is_alert(&say_in_pod(address, 443, &hello(Some("origin.test"))), ACCESS_DENIED);
            is_alert(&say_in_pod(address, 443, &hello(None)), ACCESS_DENIED);
            is_status(&say_in_pod(address, 80, &request("origin.test")), "403");
            let silent = say_in_pod(address, 25, b"");
            assert_eq!((silent.bytes.as_slice(), silent.end.as_str()), (&b""[..], "reset"));
        }
        // Metadata services.
        is_status(&say_in_pod("169.254.169.254", 80, &request("origin.test")), "403");
        is_status(&say_in_pod("169.254.169.254", 80, &request("169.254.169.254")), "403");
        is_status(&say_in_pod("198.51.100.10", 80, &request("169.254.169.254")), "403");
        is_alert(&say_in_pod("169.254.169.254", 443, &hello(Some("origin.test"))), ACCESS_DENIED);
        let conflicting = b"GET / HTTP/1.1\r\nHost: origin.test\r\nHost: denied.test\r\n\r\n";
        is_status(&say_in_pod("198.51.100.10", 80, conflicting), "400");
        is_status(&say_in_pod("198.51.100.10", 80, &request("origin.test:8080")), "400");
    }
    let denied = gateway.metric("ntlm_gateway_faults_total", &[("cause", "destination_denied")]);
    assert_eq!(denied, Some(2.0 * (6.0 + 8.0 + 4.0)));
    let past = |line: &LogLine| !line.target.contains("ntlm-gateway.invalid") && line.target.contains("test");
    assert!(!squid.log().iter().any(past), "{:?}", squid.log());
}

#[test]
fn a_connection_that_leads_back_to_the_gateway_is_rejected_as_a_loop() {
    require_tools!("unshare", "ip", "nft", "squid", "ntlm_auth", "python3");
    if !is_inside("policy::a_connection_that_leads_back_to_the_gateway_is_rejected_as_a_loop") {
        return;
    }
    let _squid = network::squid();
    let gateway = network::gateway("");
    Way::Redirect.open();
    for (address, port) in [("10.66.0.1", 15001), ("fd66::1", 15001), ("10.66.0.1", 15002)] {
        is_status(&say_in_pod(address, port, &request("origin.test")), "508");
        is_alert(&say_in_pod(address, port, &hello(Some("origin.test"))), INTERNAL_ERROR);
        assert_eq!(say_in_pod(address, port, b"").end, "reset");
    }
    let loops = || gateway.metric("ntlm_gateway_faults_total", &[("cause", "forward_loop")]);
    assert!(wait_for(Duration::from_secs(5), || (loops() == Some(9.0)).then_some(())).is_some(), "{:?}", loops());

    // The gateway's own connections come back to it. Its requests are recognised by their Via.
    let rules = "table ip back { chain output { type nat hook output priority -100; \
                 ip daddr 10.77.0.2 tcp dport 3128 redirect to :15001; }; }";
    network::run_in("gateway", "nft", &[rules]).expect_success("nft");
    let said = say_in_pod("198.51.100.10", 80, &request("origin.test"));
    assert!(String::from_utf8_lossy(&said.bytes).contains("already been through this gateway"), "{said:?}");
    let sessions = gateway.metric("ntlm_gateway_accepted_total", &[]);
    assert!(sessions.is_some_and(|count| count < 40.0), "{sessions:?}");
}

/// A listener for TPROXY, for a gateway that runs as another user with these options of `setpriv`.
fn unprivileged(upstream: &str, options: &str) -> (GatewayOptions, Scratch) {
    let scratch = Scratch::new("tproxy");
    let readable = |name: &str, content: &str| {
        let path = scratch.write(name, content);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("chmod");
        path.display().to_string()
    };
    let config = readable("gateway.toml", "[[listeners]]\naddress = \"127.0.0.1:0\"\ntransparent = \"tproxy\"\n");
    let password = readable("password", "unused");
    let args = ["--config", &config, "--user", r"CORP\alice", "--password-file", &password, "--upstream", upstream];
    let setpriv = path_of("setpriv").display().to_string();
    let options = GatewayOptions {
        only_args: true,
        args: args.map(str::to_owned).to_vec(),
        setup: Some(format!("exec {setpriv} --reuid=31280 --regid=31280 --clear-groups {options} \"$0\" \"$@\"")),
        ..GatewayOptions::through(SocketAddr::from(([127, 0, 0, 1], 1)))
    };
    (options, scratch)
}

#[test]
fn a_tproxy_listener_names_the_capability_that_it_lacks() {
    require_tools!("setpriv");
    if skip_without_root() {
        return;
    }
    let user = ["--reuid=31280", "--regid=31280", "--clear-groups"];
    let reach = run(path_of("setpriv"), BOUND, |command| {
        command.args(user).args([GATEWAY, "--version"]);
    });
    if reach.code != Some(0) {
        skip("another user cannot run the gateway");
        return;
    }
    let (options, _files) = unprivileged("192.0.2.1:3128", "--bounding-set=-all");
    let said = run(path_of("setpriv"), BOUND, |command| {
        command.args(user).args(["--bounding-set=-all", GATEWAY, "run", "--listen", "127.0.0.1:0"]);
        command.args(["--admin", "127.0.0.1:0"]).args(&options.args);
    });
    assert!(said.code.is_some_and(|code| code != 0), "it ends by itself");
    assert!(said.stderr.contains("needs the capability CAP_NET_RAW or CAP_NET_ADMIN"), "{}", said.stderr);
    // It has bound its listeners once it serves.
    let (options, _files) = unprivileged("192.0.2.1:3128", "--inh-caps=+net_raw --ambient-caps=+net_raw");
    let gateway = Gateway::start(&options);
    assert_eq!(gateway.log().iter().filter(|line| line.contains("listening on 127.0.0.1:")).count(), 2);
}
