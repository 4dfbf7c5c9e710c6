//! The rules of `deploy/kustomize/components`: a gateway beside the program, in the same pod, and one on its node.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use super::network::{self, in_pod, is_inside, run_in, start_gateway};
use crate::support::USER as ACCOUNT;
use crate::support::command::run;
use crate::support::gateway::GATEWAY;
use crate::support::scratch::{Scratch, wait_for};
use crate::support::squid::LogLine;
use crate::support::tools::{path_of, skip};

const PATIENCE: Duration = Duration::from_secs(10);

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kustomize/components/transparent/rules.nft");
const NODE_RULES: &str = include_str!("../../deploy/kustomize/components/transparent-node/rules.nft");

/// The gateway's user in the manifests and the rules.
const USER: &str = "31280";

/// Only the pod reaches loopback; its programs come from the pod's address.
const LISTENERS: &str = "allow_clients = [\"0.0.0.0/0\", \"::/0\"]

[[listeners]]
address = \"127.0.0.1:15001\"
transparent = \"redirect\"

[[listeners]]
address = \"[::1]:15001\"
transparent = \"redirect\"
";

/// Sends a datagram to UDP port 443, and says what became of it.
const QUIC: &str = "import socket, sys\n\
                    family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n\
                    peer = socket.socket(family, socket.SOCK_DGRAM)\n\
                    peer.settimeout(5)\n\
                    try:\n\
                    \x20   peer.connect((sys.argv[1], 443)); peer.send(b'x'); peer.recv(9)\n\
                    except TimeoutError: print('lost')\n\
                    except OSError as error: print('rejected', error.strerror)";

#[test]
fn a_sidecar_takes_the_connections_of_its_pod_but_not_its_own() {
    require_tools!("unshare", "ip", "nft", "squid", "ntlm_auth", "curl", "python3", "setpriv", "sysctl");
    if !is_inside("sidecar::a_sidecar_takes_the_connections_of_its_pod_but_not_its_own") {
        return;
    }
    // The pod has a way to the proxy, as its network's router allows it, and to nothing else.
    run_in("gateway", "sysctl", &["-qw", "net.ipv4.ip_forward=1"]).expect_success("sysctl");
    let only_squid = "table ip out { chain forward { type filter hook forward priority 0; policy drop; \
                      ip daddr 10.77.0.2 tcp dport 3128 accept; ip saddr 10.77.0.2 accept; }; }";
    run_in("gateway", "nft", &[only_squid]).expect_success("nft");
    run(path_of("ip"), PATIENCE, |command| {
        command.args(["route", "add", "10.66.0.0/24", "via", "10.77.0.1"]);
    })
    .expect_success("ip route");
    let squid = network::squid();
    for address in ["198.51.100.10:80", "[2001:db8:51::10]:80"] {
        serve(address);
    }
    let behind = format!("ip netns exec pod setpriv --reuid={USER} --regid={USER} --clear-groups");
    let reach = in_pod("setpriv", &["--reuid", USER, "--regid", USER, "--clear-groups", GATEWAY, "--version"]);
    if reach.code != Some(0) {
        skip("another user cannot run the gateway");
        return;
    }
    let gateway = start_gateway(&behind, "127.0.0.1", LISTENERS, "10.77.0.2:3128");
    run_in("pod", "nft", &["-f", RULES]).expect_success("the rules");
    for family in ["-4", "-6"] {
        let page = in_pod("curl", &["-q", "-sS", "--fail", family, "http://origin.test/"]);
        assert_eq!(page.expect_success("curl").text(), "page");
    }
    for address in ["198.51.100.10", "2001:db8:51::10"] {
        let said = in_pod("python3", &["-c", QUIC, address]).text();
        assert!(said.starts_with("rejected"), "{address}: {said}");
    }
    let served = |line: &LogLine| line.user == ACCOUNT && line.target == "http://origin.test/";
    let both = || (squid.log().iter().filter(|line| served(line)).count() == 2).then_some(());
    assert!(wait_for(PATIENCE, both).is_some(), "{:?}", squid.log());
    assert!(!gateway.log().iter().any(|line| line.contains("forward_loop")));
}

#[test]
fn the_rules_for_a_node_take_the_connections_of_its_pods() {
    require_tools!("unshare", "ip", "nft", "squid", "ntlm_auth", "curl", "python3", "sysctl");
    if !is_inside("sidecar::the_rules_for_a_node_take_the_connections_of_its_pods") {
        return;
    }
    let squid = network::squid();
    for address in ["198.51.100.10:80", "[2001:db8:51::10]:80"] {
        serve(address);
    }
    let gateway = network::gateway("");
    // A node forwards, so that nothing but the rules keeps the pod's packets back.
    for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        run_in("gateway", "sysctl", &["-qw", setting]).expect_success("sysctl");
    }
    run_in("gateway", "ip", &["route", "add", "198.51.100.0/24", "via", "10.77.0.2"]).expect_success("ip route");
    let scratch = Scratch::new("node");
    let rules = NODE_RULES.replace("10.244.0.0/16", "10.66.0.0/24").replace("fd00:10:244::/48", "fd66::/64");
    let rules = scratch.write("rules.nft", rules).display().to_string();
    for _ in 0..2 {
        run_in("gateway", "nft", &["-f", &rules]).expect_success("the rules");
    }
    for family in ["-4", "-6"] {
        let page = in_pod("curl", &["-q", "-sS", "--fail", family, "http://origin.test/"]);
        assert_eq!(page.expect_success("curl").text(), "page");
    }
    let said = in_pod("python3", &["-c", QUIC, "198.51.100.10"]).text();
    assert!(said.starts_with("rejected"), "{said}");
    let served = |line: &LogLine| line.user == ACCOUNT && line.target == "http://origin.test/";
    let both = || (squid.log().iter().filter(|line| served(line)).count() == 2).then_some(());
    assert!(wait_for(PATIENCE, both).is_some(), "{:?}", squid.log());
    gateway.wait_for_line("destination_source=host");
}

/// A web server with one page.
fn serve(address: &str) {
    let listener = TcpListener::bind(address).expect("bind the origin");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage");
        }
    });
}
