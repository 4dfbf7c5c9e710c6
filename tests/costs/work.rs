//! What is done through a gateway, and the gateways that it is done through.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ntlm_gateway::stub::{KdcOptions, StubKdc, StubOptions, StubServer};
use rustix::process::Signal;

use crate::support::PASSWORD;
use crate::support::client::{ask, connect_name, read_head};
use crate::support::gateway::{Gateway, GatewayOptions};
use crate::support::in_process::ACCOUNT;
use crate::support::scratch::Scratch;

const REALM: &str = "EXAMPLE.TEST";
const SERVICE: &str = "HTTP/proxy.test";

/// A program that counts makes everything slower.
const BOUND: Duration = Duration::from_secs(60);

/// Something that is done so many times through a gateway.
#[derive(Clone, Copy)]
pub enum Work {
    /// A message of this many bytes in one tunnel, there and back.
    Messages(usize),
    /// A tunnel: CONNECT, handshake, 1 KiB there and back, end.
    Tunnels,
    /// A tunnel of each of so many clients at once, through two shards.
    TunnelsAtOnce(usize),
    /// A plain request on kept connections.
    Requests,
    /// What this function does, through a gateway with this configuration file.
    Other { file: &'static str, work: Repeated },
}

/// Does something so many times through a gateway.
pub type Repeated = fn(SocketAddr, usize);

/// How the gateway authenticates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Ntlm,
    Kerberos,
}

/// Does something so many times through a gateway that a shell line with `$PROGRAM "$@"` at its end starts.
pub fn run(scheme: Scheme, setup: String, work: Work, times: usize) {
    let (domain, user, password) = ACCOUNT;
    let kdc = (scheme == Scheme::Kerberos)
        .then(|| StubKdc::start(KdcOptions::new(REALM).account("alice", PASSWORD).service(SERVICE)).expect("a KDC"));
    let stub = match &kdc {
        Some(kdc) => StubOptions::default().only_kerberos(kdc.keytab()),
        None => StubOptions::default().account(domain, user, password),
    };
    let stub = StubServer::start(stub).expect("an upstream");
    let mut options = GatewayOptions::through(stub.address());
    options.setup = Some(setup);
    let shards = if matches!(work, Work::TunnelsAtOnce(_)) { "2" } else { "1" };
    options.args = ["--shards", shards, "--warm", "0"].map(str::to_owned).to_vec();
    if let Some(kdc) = &kdc {
        options.user = "alice@example.test".into();
        let address = kdc.address().to_string();
        let further = ["--auth", "kerberos", "--kerberos-realm", REALM, "--kdc", &address, "--spn", SERVICE];
        options.args.extend(further.map(str::to_owned));
    }
    let scratch = Scratch::new("costs");
    if let Work::Other { file, .. } = work {
        options.args.extend(["--config".to_owned(), scratch.write("gateway.toml", file).display().to_string()]);
    }
    let mut gateway = Gateway::start(&options);
    work.repeat(gateway.address(), times);
    gateway.signal(Signal::TERM);
    gateway.wait(BOUND).expect("the gateway does not stop");
}

impl Work {
    fn repeat(self, gateway: SocketAddr, times: usize) {
        match self {
            Work::Messages(bytes) => {
                let mut tunnel = open_tunnel(gateway);
                (0..times).for_each(|_| send_and_receive(&mut tunnel, bytes));
            }
            Work::Tunnels => (0..times).for_each(|_| send_and_receive(&mut open_tunnel(gateway), 1024)),
            Work::TunnelsAtOnce(clients) => std::thread::scope(|scope| {
                for _ in 0..clients {
                    scope.spawn(|| Work::Tunnels.repeat(gateway, times));
                }
            }),
            Work::Requests => requests(gateway, times),
            Work::Other { work, .. } => work(gateway, times),
        }
    }
}

pub fn open_tunnel(gateway: SocketAddr) -> TcpStream {
    let answer = connect_name(gateway, "echo.test:443").expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    answer.stream.set_nodelay(true).expect("TCP_NODELAY");
    answer.stream
}

pub fn send_and_receive(tunnel: &mut TcpStream, bytes: usize) {
    let mut message = vec![7; bytes];
    tunnel.write_all(&message).expect("the tunnel takes a message");
    tunnel.read_exact(&mut message).expect("the message comes back");
}

fn requests(gateway: SocketAddr, times: usize) {
    let request = b"GET http://hello.test/ HTTP/1.1\r\nHost: hello.test\r\n\r\n";
    let mut client = ask(gateway, request).expect("an answer");
    for _ in 0..times {
        let length = client.field("Content-Length").and_then(|length| length.parse().ok()).expect("its length");
        assert_eq!(client.status(), 200, "{}", client.head);
        client.stream.read_exact(&mut vec![0; length]).expect("its body");
        client.stream.write_all(request).expect("the gateway takes a request");
        client.head = read_head(&mut client.stream).expect("an answer");
    }
}
