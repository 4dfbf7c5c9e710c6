//! A pod, a gateway and a corporate network, each in a network namespace of its own.
//!
//! ```text
//!   pod ──── 10.66.0.0/24, fd66::/64 ──── gateway ──── 10.77.0.0/24, fd77::/64 ──── corporate: Squid, origins
//! ```
//!
//! The test starts itself again in namespaces, which become the corporate network; nothing outlives them. The gateway
//! does not forward packets and has no route to the origins, so that nothing but Squid reaches them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::support::PASSWORD;
use crate::support::USER;
use crate::support::command::{Finished, run};
use crate::support::gateway::{Gateway, GatewayOptions};
use crate::support::scratch::Scratch;
use crate::support::squid::{Squid, SquidOptions};
use crate::support::tools::{path_of, skip, skip_without_mounts, skip_without_root};

/// Set in the namespaces.
const INSIDE: &str = "TRANSPARENT_INSIDE";

/// How long a test may take.
const BOUND: Duration = Duration::from_secs(240);

/// How long a client may take.
const CLIENT_BOUND: Duration = Duration::from_secs(30);

/// Addresses of origins in the corporate network. Only `origin.test` and `other.test` have names.
pub const ORIGIN: &str = "198.51.100.10";
pub const ORIGIN_V6: &str = "2001:db8:51::10";

/// Where the gateway is for the corporate network.
const GATEWAY_INSIDE: &str = "10.77.0.1";

const HOSTS: &str = "127.0.0.1 localhost\n\
                     198.51.100.10 origin.test\n\
                     2001:db8:51::10 origin.test\n\
                     198.51.100.11 other.test denied.test\n";

/// What is prepared before the test starts again.
const PREPARATION: &str = "mkdir -p /run/netns
mount -t tmpfs none /run/netns
mount -t tmpfs none /dev/shm
mount --bind $TMPDIR/hosts /etc/hosts
ip link set lo up
for address in 198.51.100.10/32 198.51.100.11/32 203.0.113.5/32 2001:db8:51::10/128; do
    ip address add $address dev lo
done
ip netns add gateway
ip netns add pod
ip link add corp type veth peer name corp netns gateway
ip address add 10.77.0.2/24 dev corp
ip address add fd77::2/64 dev corp nodad
ip link set corp up
ip -n gateway link set lo up
ip -n gateway address add 10.77.0.1/24 dev corp
ip -n gateway address add fd77::1/64 dev corp nodad
ip -n gateway link set corp up
ip -n gateway link add pod type veth peer name eth0 netns pod
ip -n gateway address add 10.66.0.1/24 dev pod
ip -n gateway address add fd66::1/64 dev pod nodad
ip -n gateway link set pod up
ip -n pod link set lo up
ip -n pod address add 10.66.0.2/24 dev eth0
ip -n pod address add fd66::2/64 dev eth0 nodad
ip -n pod link set eth0 up
ip -n pod route add default via 10.66.0.1
ip -n pod route add default via fd66::1
\"$0\" \"$@\"";

/// Runs this test in namespaces of its own; `true` if this is there already. `false` ends the test: it was run there,
/// or it must be skipped.
pub fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if skip_without_root() || skip_without_mounts() || lacks_namespaces() {
        return false;
    }
    let scratch = Scratch::new("network");
    scratch.write("hosts", HOSTS);
    std::fs::set_permissions(scratch.join("hosts"), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .expect("chmod hosts");
    let myself = std::env::current_exe().expect("this program");
    let inside = run(path_of("unshare"), BOUND, |command| {
        command.args(["-m", "-n", "-p", "-f", "--kill-child", "--mount-proc", "sh", "-ec", PREPARATION]).arg(myself);
        command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").env("TMPDIR", scratch.path());
    });
    let (said, errors) = (inside.text(), &inside.stderr);
    assert!(inside.code == Some(0) && said.contains("1 passed"), "{said}\n{errors}");
    false
}

/// Reports SKIPPED where the kernel or the container does not allow what the tests need.
fn lacks_namespaces() -> bool {
    let rules = "add table inet t; add chain inet t n { type nat hook prerouting priority dstnat; }; \
                 add chain inet t m { type filter hook prerouting priority mangle; }; \
                 add rule inet t n tcp dport 1 redirect to :2; \
                 add rule inet t m meta l4proto tcp tproxy to :2";
    let tried = run(path_of("unshare"), CLIENT_BOUND, |command| {
        command.args(["-m", "-n", "-p", "-f"]).arg(path_of("nft")).arg(rules);
    });
    tried.code != Some(0) && skip("needs a network namespace with nft's redirect and tproxy")
}

/// How connections get to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Redirect,
    Tproxy,
}

impl Way {
    pub const ALL: [Way; 2] = [Way::Redirect, Way::Tproxy];

    /// The rules of the gateway's namespace. Nothing but TCP is taken, and nothing for the gateway itself.
    fn rules(self) -> &'static str {
        match self {
            Way::Redirect => {
                "flush ruleset
                 table inet gateway {
                   chain prerouting {
                     type nat hook prerouting priority dstnat;
                     iifname \"pod\" fib daddr type != local meta l4proto tcp redirect to :15001
                   }
                 }"
            }
            Way::Tproxy => {
                "flush ruleset
                 table inet gateway {
                   chain prerouting {
                     type filter hook prerouting priority mangle;
                     iifname \"pod\" fib daddr type != local meta l4proto tcp tproxy to :15002 meta mark set 1 accept
                   }
                 }"
            }
        }
    }

    /// Makes it the way of the pod's connections.
    pub fn open(self) {
        run_in("gateway", "nft", &[self.rules()]).expect_success("nft");
    }
}

/// Runs a program in a namespace.
pub fn run_in(namespace: &str, program: &str, arguments: &[&str]) -> Finished {
    let program = path_of(program);
    run(path_of("ip"), CLIENT_BOUND, |command| {
        command.args(["netns", "exec", namespace]).arg(program).args(arguments);
    })
}

/// Runs a client in the pod.
pub fn in_pod(program: &str, arguments: &[&str]) -> Finished {
    run_in("pod", program, arguments)
}

/// The corporate network's Squid.
pub fn squid() -> Squid {
    Squid::start(&SquidOptions { extra: "http_port 10.77.0.2:3128".into(), ..SquidOptions::default() })
}

/// A gateway in its namespace, with transparent listeners for both ways and both families, and what `further` adds to
/// its file.
pub fn gateway(further: &str) -> Gateway {
    // What is marked for TPROXY is delivered here, whatever its address.
    for family in ["-4", "-6"] {
        run_in("gateway", "ip", &[family, "rule", "add", "fwmark", "1", "lookup", "100"]).expect_success("ip rule");
        let route = [family, "route", "add", "local", "default", "dev", "lo", "table", "100"];
        run_in("gateway", "ip", &route).expect_success("ip route");
    }
    let listener =
        |address: &str, way: &str| format!("[[listeners]]\naddress = \"{address}\"\ntransparent = \"{way}\"\n");
    let file = [
        "allow_clients = [\"10.66.0.0/24\", \"fd66::/64\"]".to_owned(),
        listener("0.0.0.0:15001", "redirect"),
        listener("[::]:15001", "redirect"),
        listener("0.0.0.0:15002", "tproxy"),
        listener("[::]:15002", "tproxy"),
        further.to_owned(),
    ]
    .join("\n");
    start_gateway("gateway", GATEWAY_INSIDE, &file, "10.77.0.2:3128")
}

/// Starts a gateway in a namespace with this configuration file.
pub fn start_gateway(namespace: &str, address: &str, file: &str, upstream: &str) -> Gateway {
    let scratch = Scratch::new("transparent");
    let config = scratch.write("gateway.toml", file);
    let password = scratch.write("password", PASSWORD);
    let address: IpAddr = address.parse().expect("an address");
    let text = |path: &Path| path.display().to_string();
    let options = GatewayOptions {
        only_args: true,
        listen: SocketAddr::new(address, 3128),
        admin: SocketAddr::new(address, 9090),
        args: [
            ["--config", &text(&config)],
            ["--user", USER],
            ["--password-file", &text(&password)],
            ["--upstream", upstream],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect(),
        setup: Some(format!("exec {} netns exec {namespace} \"$0\" \"$@\"", path_of("ip").display())),
        ..GatewayOptions::through(SocketAddr::new(address, 1))
    };
    // It has read its files once it serves.
    Gateway::start(&options)
}
