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
use crate::support::namespaces::{self, Preparation, run_inside};
use crate::support::scratch::Scratch;
use crate::support::squid::{Squid, SquidOptions};
use crate::support::tools::{path_of, skip, skip_without_mounts, skip_without_root};

/// How long a test may take.
const BOUND: Duration = Duration::from_secs(240);

/// How long a client may take.
const CLIENT_BOUND: Duration = Duration::from_secs(30);

/// Addresses of origins in the corporate network. Only `origin.test` and `other.test` have names.
pub const ORIGIN: &str = "198.51.100.10";
pub const ORIGIN_V6: &str = "2001:db8:51::10";

/// The gateway's address in the corporate network.
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
ip -n pod route add default via fd66::1";

/// Runs this test in namespaces of its own; `true` if this is there already. `false` ends the test: it was run there,
/// or it must be skipped.
pub fn is_inside(test: &str) -> bool {
    if namespaces::is_inside() {
        return true;
    }
    if !(skip_without_root() || skip_without_mounts() || lacks_namespaces()) {
        let files = [("hosts", HOSTS)];
        run_inside(test, &Preparation { script: PREPARATION, files: &files, harness: &[], bound: BOUND });
    }
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
        "allow_clients = [\"10.66.0.0/24\", \"fd66::/64\", \"10.77.0.0/24\"]".to_owned(),
        listener("0.0.0.0:15001", "redirect"),
        listener("[::]:15001", "redirect"),
        listener("0.0.0.0:15002", "tproxy"),
        listener("[::]:15002", "tproxy"),
        further.to_owned(),
    ]
    .join("\n");
    start_gateway("ip netns exec gateway", GATEWAY_INSIDE, &file, "10.77.0.2:3128")
}

/// What the peer of a connection from the pod says to `bytes`.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// What it sent.
    pub bytes: Vec<u8>,
    /// How it ended: `end`, `reset` or `timeout`.
    pub end: String,
}

/// Sends bytes from the pod to an address, and reads to the end.
pub fn say_in_pod(address: &str, port: u16, bytes: &[u8]) -> Said {
    const PROGRAM: &str = "import socket, sys\n\
        peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)\n\
        said, end = b'', 'end'\n\
        try:\n\
        \x20   peer.sendall(bytes.fromhex(sys.argv[3]))\n\
        \x20   while part := peer.recv(65536): said += part\n\
        except ConnectionResetError: end = 'reset'\n\
        except TimeoutError: end = 'timeout'\n\
        print(end, said.hex())";
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let said = in_pod("python3", &["-c", PROGRAM, address, &port.to_string(), &hex]).expect_success("a client").text();
    let (end, hex) = said.trim_end_matches('\n').split_once(' ').expect("two words");
    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    let bytes = digits.map(|pair| u8::from_str_radix(pair, 16).expect("a byte")).collect();
    Said { bytes, end: end.into() }
}

/// A ClientHello with this server name, or none.
pub fn hello(name: Option<&str>) -> Vec<u8> {
    hello_of(name, 0)
}

/// The same with a key share of this many bytes in front of the name, as post-quantum algorithms have it.
pub fn hello_of(name: Option<&str>, share: usize) -> Vec<u8> {
    let with_length = |bytes: &[u8]| [&u16::try_from(bytes.len()).expect("short").to_be_bytes()[..], bytes].concat();
    let extension = |number: u16, content: &[u8]| [&number.to_be_bytes()[..], &with_length(content)].concat();
    let entry = |name: &str| [&[0][..], &with_length(name.as_bytes())].concat();
    let mut extensions = extension(51, &vec![7; share]);
    extensions.extend(name.map(|name| extension(0, &with_length(&entry(name)))).unwrap_or_default());
    let suites = with_length(&[0x13, 0x01]);
    let body = [&[3, 3][..], &[9; 32], &[0], &suites, &[1, 0], &with_length(&extensions)].concat();
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    message.chunks(1 << 14).flat_map(|part| [&[22, 3, 1][..], &with_length(part)].concat()).collect()
}

/// Starts a gateway by way of a command, such as one that enters a namespace, with this configuration file.
pub fn start_gateway(through: &str, address: &str, file: &str, upstream: &str) -> Gateway {
    let scratch = Scratch::new("transparent");
    let config = scratch.write("gateway.toml", file);
    let password = scratch.write("password", PASSWORD);
    for path in [&config, &password] {
        // It may run as another user.
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("chmod");
    }
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
        setup: Some(format!("exec {through} \"$0\" \"$@\"")),
        ..GatewayOptions::through(SocketAddr::new(address, 1))
    };
    // It has read its files once it serves.
    Gateway::start(&options)
}
