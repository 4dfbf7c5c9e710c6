//! What a peer may choose, and what it costs: first bytes, methods, chunk sizes.

use crate::support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::client::{ask, read_head};
use support::gateway::{Gateway, GatewayOptions};
use support::listener::{Listener, Refusing};
use support::process::Process;
use support::scratch::{Scratch, wait_for};
use support::squid::{Squid, SquidOptions};
use support::tools::path_of;
use support::wire::Wire;

const BOUND: Duration = Duration::from_secs(30);

/// A gateway whose upstream is never used.
fn alone(args: &[&str]) -> (Gateway, Refusing) {
    let upstream = Refusing::new();
    let mut options = GatewayOptions::through(upstream.address);
    options.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    (Gateway::start(&options), upstream)
}

#[test]
fn first_bytes_that_cannot_begin_a_request_are_rejected_at_once() {
    let (gateway, _upstream) = alone(&["--head-timeout", "600s"]);
    for (bytes, name) in [
        (&b"\x16\x03\x01\x02\x00\x01"[..], "speaks TLS"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n", "begins with a PROXY header"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c", "begins with a PROXY header"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "speaks SSH"),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", "cannot begin an HTTP request: 00 00 00 08"),
        (b"\x80", "cannot begin an HTTP request: 80"),
        (b"EHLO there\r\n", "not a method, a target and a version"),
    ] {
        let answer = ask(gateway.address(), bytes).expect("an answer");
        let shown = bytes.escape_ascii();
        assert_eq!(answer.status(), 400, "{shown}: {}", answer.head);
        assert!(answer.field("proxy-status").is_some_and(|status| status.contains(name)), "{shown}: {}", answer.head);
        let line = gateway.wait_for_line(name);
        assert!(line.contains("end=request_malformed") && line.contains("client=127.0.0.1:"), "{line}");
    }
    // When bytes arrive one at a time, the deciding byte gets the error; empty lines before it do not count.
    let mut slow = TcpStream::connect(gateway.address()).expect("a connection");
    slow.set_nodelay(true).expect("an option");
    slow.set_read_timeout(Some(BOUND)).expect("a time-out");
    for byte in b"\r\n\r\nGET http://127.0.0.1:1/ HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n" {
        slow.write_all(&[*byte]).expect("a byte");
    }
    let head = read_head(&mut slow).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 502"), "{head}");
}

#[test]
fn a_method_gets_501_at_its_sixty_fifth_letter_and_a_short_log_line() {
    let (gateway, _upstream) = alone(&["--head-timeout", "600s"]);
    let answer = ask(gateway.address(), &[b'A'; 65]).expect("an answer");
    assert_eq!(answer.status(), 501, "{}", answer.head);
    let longest = format!("{} http://127.0.0.1:1/ HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n", "A".repeat(64));
    assert_eq!(ask(gateway.address(), longest.as_bytes()).expect("an answer").status(), 502);

    let (before, _) = gateway.memory_kib();
    let head = [&[b'A'; 64_000][..], b" http://127.0.0.1:1/ HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    let until = Instant::now() + Duration::from_secs(2);
    let asked: usize = std::thread::scope(|scope| {
        let attack = || {
            let mut asked = 0;
            while Instant::now() < until {
                let Ok(mut stream) = TcpStream::connect(gateway.address()) else { continue };
                // It may be rejected before all of it is written.
                let _ = stream.write_all(&head);
                let _ = stream.read(&mut [0; 512]);
                asked += 1;
            }
            asked
        };
        let attackers: Vec<_> = (0..4).map(|_| scope.spawn(attack)).collect();
        attackers.into_iter().map(|attacker| attacker.join().expect("an attacker")).sum()
    });
    let (_, highest) = gateway.memory_kib();
    println!("{asked} methods of 64,000 letters: from {before} KiB to {highest} KiB at most");
    assert!(asked > 20 && highest < before + 32 * 1024, "{asked} asked, from {before} to {highest} KiB");
    let longest = gateway.log().iter().map(String::len).max().unwrap_or_default();
    assert!(longest < 4096, "a line of {longest} bytes");
}

/// Counts the gateway's reads and writes of sockets while `act` runs.
fn count_calls(gateway: &Gateway, act: impl FnOnce()) -> (usize, usize) {
    let scratch = Scratch::new("strace");
    let calls = scratch.join("calls");
    let mut command = Process::command(path_of("strace"));
    command.args(["-f", "-qq", "-e", "signal=none", "-e", "trace=recvfrom,read,sendto,write,writev,sendmsg"]);
    command.arg("-o").arg(&calls).arg("-p").arg(gateway.pid().as_raw_nonzero().to_string());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut strace = Process::spawn("strace", &mut command);
    let tracer = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid().as_raw_nonzero())).ok()?;
        let line = status.lines().find(|line| line.starts_with("TracerPid:"))?;
        (!line.ends_with("\t0")).then_some(())
    };
    wait_for(BOUND, tracer).expect("strace is attached");
    act();
    strace.stop(Duration::from_secs(10));
    let text = String::from_utf8_lossy(&std::fs::read(&calls).expect("strace's output")).into_owned();
    let count = |name: &str| text.lines().filter(|line| line.contains(&format!(" {name}("))).count();
    (count("recvfrom"), count("sendto"))
}

/// A gateway in front of a real Squid, or `None` without the tools.
fn before_squid() -> (Gateway, Squid) {
    let squid = Squid::start(&SquidOptions::default());
    let mut options = GatewayOptions::through(squid.address());
    options.args = ["--shards", "1"].map(String::from).into();
    (Gateway::start(&options), squid)
}

const CHUNKS: usize = 50_000;

/// The gateway's reads and writes while a client receives a response of tiny chunks with this framing.
fn calls_for_a_response(gateway: &Gateway, chunk: &'static [u8]) -> (usize, usize) {
    let origin = Listener::start(move |mut stream| {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        let chunks = [&answer[..], &chunk.repeat(CHUNKS), b"0\r\n\r\n"].concat();
        let _ = read_head(&mut stream).and_then(|_| stream.write_all(&chunks));
    });
    let address = origin.address();
    count_calls(gateway, || {
        let mut wire = Wire::connect(gateway.address());
        wire.send(format!("GET http://{address}/ HTTP/1.1\r\nHost: {address}\r\n\r\n")).expect("a request");
        let answer = wire.answer("GET").expect("an answer");
        assert_eq!((answer.status(), answer.body.len()), (200, CHUNKS), "{}", answer.head);
    })
}

#[test]
fn tiny_chunks_of_a_response_cost_one_write_per_read() {
    require_tools!("strace");
    let (gateway, _upstream) = alone(&["--shards", "1", "--no-proxy", "127.0.0.1"]);
    let (reads, writes) = calls_for_a_response(&gateway, b"1;\r\na\r\n");
    println!("{CHUNKS} chunks: {reads} reads, {writes} writes");
    assert!(writes <= reads + 20, "{reads} reads, {writes} writes");
}

#[test]
fn tiny_chunks_of_a_response_cost_one_write_per_read_through_squid() {
    require_tools!("squid", "ntlm_auth", "strace");
    let (gateway, _squid) = before_squid();
    // Squid rejects an extension without a name.
    let (reads, writes) = calls_for_a_response(&gateway, b"1;n=v\r\na\r\n");
    println!("{CHUNKS} chunks: {reads} reads, {writes} writes");
    assert!(writes <= reads + 20, "{reads} reads, {writes} writes");
}

#[test]
fn tiny_chunks_of_a_request_cost_one_write_per_read_through_squid() {
    require_tools!("squid", "ntlm_auth", "strace");
    let (gateway, _squid) = before_squid();
    let origin = Listener::start(|stream| {
        let mut wire = Wire::on(stream);
        let Ok(Some(head)) = wire.head() else { return };
        let Ok(body) = wire.request_body(&head) else { return };
        let length = body.len().to_string();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{length}", length.len());
        let _ = wire.send(answer);
    });
    let address = origin.address();
    let (reads, writes) = count_calls(&gateway, || {
        let mut wire = Wire::connect(gateway.address());
        let head = format!("POST http://{address}/ HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\n\r\n");
        wire.send([head.as_bytes(), &b"1;\r\na\r\n".repeat(CHUNKS), b"0\r\n\r\n"].concat()).expect("a request");
        let answer = wire.answer("POST").expect("an answer");
        assert_eq!((answer.status(), answer.body), (200, CHUNKS.to_string().into_bytes()), "{}", answer.head);
    });
    println!("{CHUNKS} chunks: {reads} reads, {writes} writes");
    assert!(writes <= reads + 20, "{reads} reads, {writes} writes");
}
