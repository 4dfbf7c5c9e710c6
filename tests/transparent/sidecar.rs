//! The rules of `deploy/kustomize/components`: a gateway beside the program, in the same pod, and one on its node.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use super::network::{self, in_pod, is_inside, run_in};
use crate::support::USER as ACCOUNT;
use crate::support::gateway::{GATEWAY, Gateway, GatewayOptions};
use crate::support::scratch::{Scratch, wait_for};
use crate::support::squid::{LogLine, Squid};
use crate::support::tools::skip;

const PATIENCE: Duration = Duration::from_secs(10);

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kustomize/components/transparent/rules.nft");
const NODE_RULES: &str = include_str!("../../deploy/kustomize/components/transparent-node/rules.nft");

/// The gateway's user in the manifests and the rules.
const USER: &str = "31280";

/// The sidecar's own file, with another address of the gateway that has the account.
fn sidecar_file() -> String {
    let file = include_str!("../../deploy/kustomize/components/transparent/gateway.toml");
    let upstream = "ntlm-gateway.egress.svc.cluster.local:3128";
    assert!(file.contains(upstream), "the component names another upstream");
    file.replace(upstream, "10.77.0.1:3128")
}

/// Sends a datagram to UDP port 443, and says what became of it.
const QUIC: &str = "import socket, sys\n\
                    family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n\
                    peer = socket.socket(family, socket.SOCK_DGRAM)\n\
                    peer.settimeout(5)\n\
                    try:\n\
                    \x20   peer.connect((sys.argv[1], 443)); peer.send(b'x'); peer.recv(9)\n\
                    except TimeoutError: print('lost')\n\
                    except OSError as error: print('rejected', error.strerror)";

/// Web servers with one page at both addresses of `origin.test`.
fn origins() {
    for address in ["198.51.100.10:80", "[2001:db8:51::10]:80"] {
        let listener = TcpListener::bind(address).expect("bind the origin");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage");
            }
        });
    }
}

/// The pod gets the page over both families through Squid, as the account's user, and no answer by UDP.
#[track_caller]
fn is_taken(squid: &Squid) {
    for (family, address) in [("-4", "198.51.100.10"), ("-6", "2001:db8:51::10")] {
        let page = in_pod("curl", &["-q", "-sS", "--fail", family, "http://origin.test/"]);
        assert_eq!(page.expect_success("curl").text(), "page");
        let said = in_pod("python3", &["-c", QUIC, address]).text();
        assert!(said.starts_with("rejected"), "{address}: {said}");
    }
    let served = |line: &LogLine| line.user == ACCOUNT && line.target == "http://origin.test/";
    let both = || (squid.log().iter().filter(|line| served(line)).count() == 2).then_some(());
    assert!(wait_for(PATIENCE, both).is_some(), "{:?}", squid.log());
}

#[test]
fn a_sidecar_takes_the_connections_of_its_pod_but_not_its_own() {
    require_tools!("unshare", "ip", "nft", "squid", "ntlm_auth", "curl", "python3", "setpriv");
    if !is_inside("sidecar::a_sidecar_takes_the_connections_of_its_pod_but_not_its_own") {
        return;
    }
    let squid = network::squid();
    origins();
    let user = format!("--reuid={USER} --regid={USER} --clear-groups");
    let reach = in_pod("setpriv", &["--reuid", USER, "--regid", USER, "--clear-groups", GATEWAY, "--version"]);
    if reach.code != Some(0) {
        skip("another user cannot run the gateway");
        return;
    }
    // The gateway with the account is the only one that reaches Squid.
    let with_account = network::gateway("");
    let without_account = Scratch::new("sidecar");
    let config = without_account.write("gateway.toml", sidecar_file());
    std::fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("chmod");
    let sidecar = Gateway::start(&GatewayOptions {
        only_args: true,
        listen: "127.0.0.1:3128".parse().expect("an address"),
        admin: "127.0.0.1:9090".parse().expect("an address"),
        args: vec!["--config".into(), config.display().to_string()],
        // As in the component: the gateway that it uses asks for none.
        env: vec![("NTLM_GATEWAY_PASSWORD".into(), "unused".into())],
        setup: Some(format!("exec ip netns exec pod setpriv {user} \"$0\" \"$@\"")),
        ..GatewayOptions::through(SocketAddr::from(([127, 0, 0, 1], 1)))
    });
    run_in("pod", "nft", &["-f", RULES]).expect_success("the rules");
    is_taken(&squid);
    let sources = ["\"destination_source\":\"host\"", "destination_source=request"];
    for (gateway, source) in [&sidecar, &with_account].into_iter().zip(sources) {
        gateway.wait_for_line(source);
        assert!(!gateway.log().iter().any(|line| line.contains("forward_loop")));
    }
}

#[test]
fn the_rules_for_a_node_take_the_connections_of_its_pods() {
    require_tools!("unshare", "ip", "nft", "squid", "ntlm_auth", "curl", "python3", "sysctl");
    if !is_inside("sidecar::the_rules_for_a_node_take_the_connections_of_its_pods") {
        return;
    }
    let squid = network::squid();
    origins();
    let gateway = network::gateway("");
    // A node forwards, so that nothing but the rules keeps the pod's packets back.
    for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        run_in("gateway", "sysctl", &["-qw", setting]).expect_success("sysctl");
    }
    run_in("gateway", "ip", &["route", "add", "198.51.100.0/24", "via", "10.77.0.2"]).expect_success("ip route");
    run_in("gateway", "ip", &["-6", "route", "add", "2001:db8:51::/64", "via", "fd77::2"]).expect_success("ip route");
    let scratch = Scratch::new("node");
    let rules = NODE_RULES.replace("10.244.0.0/16", "10.66.0.0/24").replace("fd00:10:244::/48", "fd66::/64");
    let rules = scratch.write("rules.nft", rules).display().to_string();
    for _ in 0..2 {
        run_in("gateway", "nft", &["-f", &rules]).expect_success("the rules");
    }
    is_taken(&squid);
    gateway.wait_for_line("destination_source=host");
}
