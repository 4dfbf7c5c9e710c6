//! What a tunnel costs by SOCKS5, through a listener with a target, and for a redirected client, beside CONNECT. Each
//! tunnel carries 1 KiB there and back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::callgrind::instructions_each;
use crate::calls::{calls_each, is_wait, listed};
use crate::program;
use crate::support::client::dial;
use crate::support::namespaces::{self, Preparation, run_inside};
use crate::support::socks::{Replied, ask4, ask5, read_bytes, reply5, request4a, request5};
use crate::support::tools::{skip_without_mounts, skip_without_root};
use crate::work::{Repeated, Scheme, Work, open_tunnel, send_and_receive};

/// By how much a tunnel may exceed one of CONNECT, in percent.
const MOST_PERCENT: f64 = 5.0;

const TIMES: usize = 400;

/// By how many system calls. A connection may be accepted before its first bytes have come, which takes one more.
const TOLERANCE_CALLS: f64 = 0.5;

/// What each tunnel carries there and back.
const MESSAGE: usize = 1024;

/// How long all of it may take.
const BOUND: Duration = Duration::from_secs(600);

const FORWARD: &str = "127.0.0.1:15000";

/// Connections to it are redirected.
const ORIGIN: &str = "198.51.100.10:443";

const PREPARATION: &str = "ip link set lo up
ip address add 198.51.100.10/32 dev lo
nft 'table ip redirected {
  chain output {
    type nat hook output priority -100
    ip daddr 198.51.100.10 tcp dport 443 redirect to :15001
  }
}'";

const FILE: &str = "allow_clients = [\"127.0.0.0/8\", \"198.51.100.10\"]

[[listeners]]
address = \"127.0.0.1:15000\"
target = \"echo.test:443\"

[[listeners]]
address = \"127.0.0.1:15001\"
transparent = \"redirect\"
";

#[test]
fn a_tunnel_of_another_protocol_takes_at_most_5_percent_more_than_one_of_connect() {
    const NAME: &str = "protocols::a_tunnel_of_another_protocol_takes_at_most_5_percent_more_than_one_of_connect";
    require_tools!("valgrind", "unshare", "ip", "nft");
    if skip_without_root() || skip_without_mounts() {
        return;
    }
    if !namespaces::is_inside() {
        run_inside(NAME, &Preparation { script: PREPARATION, files: &[], harness: &[], bound: BOUND });
        return;
    }
    let Some(program) = program() else { return };
    let counted = |work, most| instructions_each(&program, Scheme::Ntlm, Work::Other { file: FILE, work }, TIMES, most);
    let connect = counted(connect, f64::INFINITY);
    let most = connect * (100.0 + MOST_PERCENT) / 100.0;
    println!("{connect:>10.1} instructions for a tunnel of CONNECT");
    let all: [(&str, Repeated); 3] = [("SOCKS5", socks), ("a forward", forward), ("a redirected client", redirected)];
    let mut wrong = Vec::new();
    for (what, work) in all {
        let counted = counted(work, most);
        println!("{counted:>10.1} instructions for a tunnel of {what}, {:.1} % of CONNECT", counted * 100.0 / connect);
        if counted > most {
            wrong.push(format!("{what}: {counted:.1}, and {connect:.1} for CONNECT"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A client that waits for the answer to its greeting costs a read and a write, and one that does not a write.
#[test]
fn socks_takes_no_system_calls_beyond_those_of_its_negotiation() {
    require_tools!("strace");
    let Some(program) = program() else { return };
    let counted = |what: &str, work| {
        let mut counts = calls_each(&program, Scheme::Ntlm, Work::Other { file: "", work });
        println!("{what}: {}", listed(&counts));
        // How many events a wake-up brings is chance.
        counts.retain(|name, _| !is_wait(name));
        counts.values().sum::<f64>()
    };
    let connect = counted("CONNECT", connect);
    let all: [(&str, Repeated, f64); 3] = [
        ("SOCKS4a", socks4, 0.0),
        ("SOCKS5, greeting and request at once", socks_at_once, 1.0),
        ("SOCKS5", socks, 2.0),
    ];
    let mut wrong = Vec::new();
    for (what, work, negotiation) in all {
        let more = counted(what, work) - connect;
        if more > negotiation + TOLERANCE_CALLS {
            wrong.push(format!("{what}: {more:.1} calls more than CONNECT"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn connect(gateway: SocketAddr, times: usize) {
    (0..times).for_each(|_| send_and_receive(&mut open_tunnel(gateway), MESSAGE));
}

fn socks4(gateway: SocketAddr, times: usize) {
    let ask = |stream| ask4(stream, &request4a(b"echo.test", 443));
    (0..times).for_each(|_| use_tunnel(ask(dial(gateway).expect("a connection")).expect("a reply"), 90));
}

fn socks_at_once(gateway: SocketAddr, times: usize) {
    let ask = |stream| ask5(stream, &request5(b"echo.test", 443));
    (0..times).for_each(|_| use_tunnel(ask(dial(gateway).expect("a connection")).expect("a reply"), 0));
}

fn use_tunnel(mut replied: Replied, success: u8) {
    assert_eq!(replied.code, success);
    send_and_receive(&mut replied.stream, MESSAGE);
}

/// With a greeting that is answered before the request goes out, as real clients send it.
fn socks(gateway: SocketAddr, times: usize) {
    for _ in 0..times {
        let mut stream = dial(gateway).expect("a connection");
        stream.write_all(b"\x05\x01\x00").expect("a greeting");
        assert_eq!(read_bytes(&mut stream, 2).expect("an answer"), [5, 0]);
        stream.write_all(&request5(b"echo.test", 443)).expect("a request");
        use_tunnel(reply5(stream).expect("a reply"), 0);
    }
}

fn forward(_: SocketAddr, times: usize) {
    (0..times).for_each(|_| send_and_receive(&mut connection(FORWARD), MESSAGE));
}

/// The message is a ClientHello.
fn redirected(_: SocketAddr, times: usize) {
    let hello = hello();
    for _ in 0..times {
        let mut origin = connection(ORIGIN);
        origin.write_all(&hello).expect("the tunnel takes a hello");
        let mut echo = vec![0; hello.len()];
        origin.read_exact(&mut echo).expect("the hello comes back");
        assert!(echo == hello, "the hello differs");
    }
}

fn connection(to: &str) -> TcpStream {
    dial(to.parse().expect("an address")).expect("a connection")
}

/// A ClientHello of 1 KiB for `echo.test`.
fn hello() -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).expect("short").to_be_bytes()[..], bytes].concat();
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &sized(content)].concat();
    let of_padding = |padding: usize| {
        let name = sized(&[&[0][..], &sized(b"echo.test")].concat());
        let extensions = [extension(0, &name), extension(21, &vec![0; padding])].concat();
        let body = [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 1]), &[1, 0], &sized(&extensions)].concat();
        [&[22, 3, 1][..], &sized(&[&[1, 0][..], &sized(&body)].concat())].concat()
    };
    of_padding(MESSAGE - of_padding(0).len())
}
