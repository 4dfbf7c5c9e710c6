//! A proxy that wants a second handshake on an established connection, which TLS 1.2 has.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use crate::support::certificates::{self, ECDSA_SHA384};
use crate::support::client::connect_name;
use crate::support::in_process::{self, metric};
use crate::support::process::Process;
use crate::support::scratch::{Scratch, accepts, free_port, wait_for};
use crate::support::tools::path_of;

const BOUND: Duration = Duration::from_secs(20);

#[test]
fn a_proxy_that_wants_to_renegotiate_is_refused_once_and_loses_only_its_tunnel() {
    require_tools!("openssl");
    let scratch = Scratch::new("tls-renegotiation");
    let extensions = certificates::server("IP:127.0.0.1");
    let own = certificates::self_signed(&scratch, "own", ECDSA_SHA384, &extensions, 30);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut command = Process::command(path_of("openssl"));
    command.args(["s_server", "-tls1_2", "-crlf", "-accept", &format!("{address}")]);
    command.arg("-cert").arg(&own.certificate).arg("-key").arg(&own.key);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = Process::spawn("openssl s_server", &mut command);
    let mut typed = server.leader().stdin.take().expect("its input");
    let mut shown = BufReader::new(server.leader().stdout.take().expect("its output"));
    let mut line = String::new();
    while !line.starts_with("ACCEPT") {
        line.clear();
        assert!(shown.read_line(&mut line).expect("a line") > 0, "it does not listen");
    }
    let ca = own.certificate.display().to_string();
    let gateway = in_process::gateway(&format!("https://{address}"), &[("tls.ca_file", ca.as_str()), ("warm", "0")]);
    let listener = in_process::address(&gateway);
    let client = std::thread::spawn(move || connect_name(listener, "echo.test:7").expect("an answer"));
    while !line.starts_with("Proxy-Authorization") {
        line.clear();
        assert!(shown.read_line(&mut line).expect("a line") > 0, "no request comes");
    }
    // It asks for no authentication. A line that begins with r is a command.
    typed.write_all(b"HTTP/1.1 200 OK\n\n").expect("an answer");
    let mut tunnel = client.join().expect("the client's thread");
    assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
    typed.write_all(b"r\n").expect("a command");
    let error = tunnel.stream.read(&mut [0; 10]).expect_err("no clean end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let failed = || metric(&gateway, "faults_total", &[("cause", "tls_failed"), ("stage", "relay")]);
    assert!(wait_for(BOUND, || (failed() == 1.0).then_some(())).is_some(), "{} failures", failed());
    assert!(accepts(listener), "the gateway goes on");
    in_process::stop(gateway);
}
