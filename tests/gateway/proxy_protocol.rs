//! PROXY headers: a load balancer names the client, which then counts in its place.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use ntlm_gateway::gateway::Gateway;
use support::client::{ask_from, connect_name_from, dial, echo_through, read_head};
use support::command::curl;
use support::gateway::{Gateway as GatewayProcess, GatewayOptions};
use support::in_process::{self, metric, stub_with_ci};
use support::origin::HttpOrigin;
use support::process::Process;
use support::scratch::{Scratch, accepts, free_port, wait_for};
use support::socks::{read_bytes, reply5, request5};
use support::squid::{Squid, SquidOptions};
use support::tools::{path_of, skip_for_want_of};

const BOUND: Duration = Duration::from_secs(20);
const CONNECT: &str = "CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n";

/// A gateway that takes PROXY headers from 127.0.0.1 at its second listener, and from nobody at its first.
fn behind_load_balancer(upstream: SocketAddr, top: &str, listener: &str) -> Gateway {
    in_process::gateway_of(&format!(
        "upstream = '{upstream}'\nuser = 'CORP\\alice'\nwarm = 0\n{top}\n\
         [[listeners]]\naddress = '127.0.0.1:0'\nproxy_protocol_from = '127.0.0.1'\n{listener}\n"
    ))
}

fn v1(client: &str) -> String {
    format!("PROXY TCP4 {client} 198.51.100.7 40000 443\r\n")
}

/// A header of version 2 with this command and rest, for TCP over IPv4.
fn v2(command: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("a short header").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, 0x11][..], &length, rest].concat()
}

/// The addresses of a header of version 2, from `client`.
fn addresses(client: [u8; 4]) -> Vec<u8> {
    [&client[..], &[198, 51, 100, 7, 0x9c, 0x40, 1, 0xbb]].concat()
}

/// The status of a CONNECT behind this header, and the tunnel.
fn connect(gateway: &Gateway, header: &[u8]) -> (u16, TcpStream) {
    let mut stream = dial(gateway.listening()[1]).expect("a connection");
    stream.write_all(&[header, CONNECT.as_bytes()].concat()).expect("a request");
    let head = read_head(&mut stream).expect("an answer");
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), stream)
}

#[test]
fn the_named_client_counts_for_allow_clients_and_not_the_load_balancer() {
    let stub = stub_with_ci();
    let gateway = behind_load_balancer(stub.address(), "allow_clients = ['10.0.0.0/8']", "");
    let status = |header: &[u8]| connect(&gateway, header).0;
    assert_eq!(status(v1("10.1.2.3").as_bytes()), 200);
    assert_eq!(status(b"PROXY TCP6 ::ffff:10.1.2.3 ::1 1 2\r\n"), 200);
    assert_eq!(status(&v2(0x21, &addresses([10, 1, 2, 3]))), 200);
    assert_eq!(status(v1("192.0.2.1").as_bytes()), 403);
    assert_eq!(status(v1("127.0.0.1").as_bytes()), 403);
    // Without a client it is the load balancer's own connection.
    assert_eq!(status(b"PROXY UNKNOWN\r\n"), 403);
    assert_eq!(status(&v2(0x20, b"")), 403);
    assert_eq!(metric(&gateway, "faults_total", &[("cause", "client_not_allowed")]), 4.0);
    in_process::stop(gateway);

    let gateway = behind_load_balancer(stub.address(), "allow_clients = ['127.0.0.1']", "");
    assert_eq!(connect(&gateway, b"PROXY UNKNOWN\r\n").0, 200);
    assert_eq!(connect(&gateway, &v2(0x20, &[7; 100])).0, 200);
    assert_eq!(connect(&gateway, v1("10.1.2.3").as_bytes()).0, 403);
    in_process::stop(gateway);
}

#[test]
fn the_named_client_has_its_own_limits_which_end_with_its_connections() {
    let stub = stub_with_ci();
    let top = "allow_clients = ['10.0.0.0/8']\nlimits.tunnels_per_client = 1";
    let gateway = behind_load_balancer(stub.address(), top, "");
    let (status, held) = connect(&gateway, v1("10.1.2.3").as_bytes());
    assert_eq!(status, 200);
    assert_eq!(connect(&gateway, v1("10.1.2.3").as_bytes()).0, 429);
    assert_eq!(connect(&gateway, v1("10.1.2.4").as_bytes()).0, 200);
    drop(held);
    for _ in 0..20 {
        let open = || (metric(&gateway, "tunnels_open", &[]) < 1.0).then_some(());
        assert!(wait_for(BOUND, open).is_some(), "tunnels stay open");
        assert_eq!(connect(&gateway, v1("10.1.2.3").as_bytes()).0, 200);
    }
    in_process::stop(gateway);
}

#[test]
fn a_header_may_come_in_pieces_and_with_everything_that_follows() {
    let stub = stub_with_ci();
    let gateway = behind_load_balancer(stub.address(), "allow_clients = ['10.0.0.0/8']", "");
    let address = gateway.listening()[1];
    let mut slow = dial(address).expect("a connection");
    for byte in [v2(0x21, &addresses([10, 1, 2, 3])), CONNECT.into()].concat() {
        slow.write_all(&[byte]).expect("a byte");
    }
    assert!(read_head(&mut slow).expect("an answer").starts_with("HTTP/1.1 200"));
    assert_eq!(echo_through(&slow, b"slowly").expect("an echo"), b"slowly");
    let mut at_once = dial(address).expect("a connection");
    let all = [v1("10.1.2.3").as_bytes(), b"\x05\x01\x00", &request5(b"echo.test", 7), b"early"].concat();
    at_once.write_all(&all).expect("a request");
    assert_eq!(read_bytes(&mut at_once, 2).expect("a method"), [5, 0]);
    let mut replied = reply5(at_once).expect("a reply");
    assert_eq!((replied.code, read_bytes(&mut replied.stream, 5).expect("the echo")), (0, b"early".to_vec()));
    in_process::stop(gateway);
}

#[test]
fn headers_from_others_and_connections_without_one_are_refused() {
    let stub = stub_with_ci();
    let gateway = behind_load_balancer(stub.address(), "allow_clients = ['127.0.0.0/8', '10.0.0.0/8']", "");
    let (plain, trusting) = (gateway.listening()[0], gateway.listening()[1]);
    let other: IpAddr = Ipv4Addr::new(127, 0, 0, 2).into();
    for (from, address) in [(other, trusting), (other, plain), (Ipv4Addr::LOCALHOST.into(), plain)] {
        for header in [v1("10.1.2.3").into_bytes(), v2(0x21, &addresses([10, 1, 2, 3]))] {
            let answer = ask_from(from, address, &[&header[..], CONNECT.as_bytes()].concat()).expect("an answer");
            assert!(answer.status() == 400 && answer.head.contains("proxy_protocol_from"), "{}", answer.head);
        }
        // Others need none.
        let answer = connect_name_from(from, address, "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
    }
    let served = stub.counters().accepted;
    let wrong_sum = v2(0x21, &[&addresses([10, 1, 2, 3])[..], &[3, 0, 4, 0, 0, 0, 0]].concat());
    for header in [
        &b""[..],
        b"\x05\x01\x00",
        b"PROXY TCP4 10.1.2.3 nowhere 1 2\r\n",
        &v2(0x21, &addresses([10, 1, 2, 3])[..5]),
        &v2(0x23, &addresses([10, 1, 2, 3])),
        &wrong_sum,
    ] {
        assert_eq!(connect(&gateway, header).0, 400, "{}", header.escape_ascii());
    }
    assert_eq!(stub.counters().accepted, served);
    let faults = [("cause", "request_malformed"), ("protocol", "unknown")];
    assert_eq!(metric(&gateway, "faults_total", &faults), 12.0);
    in_process::stop(gateway);
}

#[test]
fn a_forward_behind_a_load_balancer_resets_what_has_no_header() {
    let stub = stub_with_ci();
    let gateway = behind_load_balancer(stub.address(), "allow_clients = ['10.0.0.0/8']", "target = 'echo.test:7'");
    let mut stream = dial(gateway.listening()[1]).expect("a connection");
    stream.write_all(&[v1("10.1.2.3").as_bytes(), b"payload"].concat()).expect("bytes");
    assert_eq!(read_bytes(&mut stream, 7).expect("the echo"), b"payload");
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0"] {
        let mut stream = dial(gateway.listening()[1]).expect("a connection");
        stream.write_all(bytes).expect("bytes");
        let error = stream.read(&mut [0; 64]).expect_err("no answer, but a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    in_process::stop(gateway);
}

/// Connections on which no header comes must not keep the others out.
#[test]
fn connections_that_wait_for_their_header_give_way() {
    let stub = stub_with_ci();
    let top = "allow_clients = ['10.0.0.0/8']\nmax_tunnels = 3\ntimeouts.head = '600s'";
    let gateway = behind_load_balancer(stub.address(), top, "");
    let silent: Vec<TcpStream> = (0..3).map(|_| dial(gateway.listening()[1]).expect("a connection")).collect();
    // Connections are protected for a moment after they were opened.
    let served = wait_for(BOUND, || (connect(&gateway, v1("10.1.2.3").as_bytes()).0 == 200).then_some(()));
    assert!(served.is_some(), "no place becomes free");
    assert!(metric(&gateway, "tunnels_closed_total", &[("cause", "gave_way")]) >= 1.0);
    drop(silent);
    in_process::stop(gateway);
}

/// HAProxy with a port for each option of its server, which is the gateway.
fn haproxy(gateway: SocketAddr, options: &[&str]) -> (Process, Scratch, Vec<SocketAddr>) {
    let scratch = Scratch::new("haproxy");
    let mut text =
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n".to_owned();
    let mut ports = Vec::new();
    for (number, option) in options.iter().enumerate() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        text += &format!("listen port{number}\n  bind {address}\n  server gateway {gateway} {option}\n");
        ports.push(address);
    }
    let file = scratch.write("haproxy.cfg", text);
    let mut command = Process::command(path_of("haproxy"));
    command.arg("-db").arg("-q").arg("-f").arg(file);
    let process = Process::spawn("haproxy", &mut command);
    for address in &ports {
        assert!(wait_for(BOUND, || accepts(*address).then_some(())).is_some(), "haproxy does not listen");
    }
    (process, scratch, ports)
}

/// A gateway that takes PROXY headers, with an identity for a client's address, through load balancers that
/// `balancers` starts for it.
fn clients_are_named<Held>(balancers: impl FnOnce(SocketAddr) -> (Held, Vec<SocketAddr>)) {
    let (stub, scratch) = (stub_with_ci(), Scratch::new("proxy"));
    let identity = format!(
        "[[identities]]\nname = 'ci'\nuser = 'CORP\\ci'\npassword_file = '{}'\nclients = '127.0.0.9'\n",
        scratch.write("ci", "ci-Secr3t\n").display()
    );
    let gateway = behind_load_balancer(stub.address(), "allow_clients = ['127.0.0.9', '127.0.0.10']", &identity);
    let (_held, ports) = balancers(gateway.listening()[1]);
    let by = |last: u8| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    for port in &ports {
        let answer = connect_name_from(by(9), *port, "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        assert_eq!(echo_through(&answer.stream, b"as ci").expect("an echo"), b"as ci");
        assert_eq!(connect_name_from(by(10), *port, "echo.test:7").expect("an answer").status(), 200);
        assert_eq!(connect_name_from(by(11), *port, "echo.test:7").expect("an answer").status(), 403);
    }
    let logons = |name| metric(&gateway, "authenticate_messages_total", &[("identity", name)]);
    let expected = f64::from(u32::try_from(ports.len()).expect("few ports"));
    assert_eq!((logons("ci"), logons("default")), (expected, expected));
    in_process::stop(gateway);
}

#[test]
fn haproxy_names_the_client_in_every_version() {
    require_tools!("haproxy");
    let options = ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"];
    clients_are_named(|gateway| {
        let (process, files, ports) = haproxy(gateway, &options);
        ((process, files), ports)
    });
}

/// The modules of the distribution's package.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

#[test]
fn nginx_names_the_client() {
    require_tools!("nginx");
    if !Path::new(NGINX_STREAM).is_file() {
        skip_for_want_of(NGINX_STREAM);
        return;
    }
    clients_are_named(|gateway| {
        let (scratch, port) = (Scratch::new("nginx"), SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let directory = scratch.path().display();
        let config = format!(
            "load_module {NGINX_STREAM};\ndaemon off;\nmaster_process off;\npid {directory}/pid;\n\
             error_log {directory}/error.log;\nevents {{}}\n\
             stream {{ server {{ listen {port}; proxy_pass {gateway}; proxy_protocol on; }} }}\n"
        );
        let config = scratch.write("nginx.conf", config);
        let mut command = Process::command(path_of("nginx"));
        command.arg("-p").arg(scratch.path()).arg("-c").arg(config).arg("-e").arg(scratch.join("error.log"));
        let process = Process::spawn("nginx", &mut command);
        assert!(wait_for(BOUND, || accepts(port).then_some(())).is_some(), "nginx does not listen");
        ((process, scratch), vec![port])
    });
}

#[test]
fn curl_sends_a_header_to_a_forward_and_the_log_names_the_client() {
    require_tools!("squid", "ntlm_auth", "curl", "python3");
    let (squid, origin, scratch) = (Squid::start(&SquidOptions::default()), HttpOrigin::http(), Scratch::new("proxy"));
    let port = free_port();
    let file = scratch.write(
        "gateway.toml",
        format!(
            "[[listeners]]\naddress = '127.0.0.1:{port}'\ntarget = '{}'\nproxy_protocol_from = '127.0.0.0/8'\n",
            origin.address()
        ),
    );
    let mut options = GatewayOptions::through(squid.address());
    options.args = vec!["--config".into(), file.display().to_string()];
    let gateway = GatewayProcess::start(&options);
    let url = format!("http://127.0.0.1:{port}/bytes/1000");
    let got = curl(BOUND, ["--fail", "--haproxy-protocol", &url]).expect_success("curl --haproxy-protocol");
    assert_eq!(got.stdout.len(), 1000);
    let mut stream = dial(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).expect("a connection");
    stream.write_all(v1("10.1.2.3").as_bytes()).expect("a header");
    let line = gateway.wait_for_line("client=10.1.2.3:40000");
    assert!(line.contains("end=client_not_allowed"), "{line}");
}
