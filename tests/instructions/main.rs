//! Counts the instructions that a shard of an optimised gateway executes in user space, under callgrind. Unlike times,
//! the counts are the same on a busy machine, so a change that makes anything slower fails here.
//!
//! `tests/long instructions` builds the program that is counted and names it in `NTLM_GATEWAY_TESTS_OPTIMISED`.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod protocols;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use ntlm_gateway::stub::{StubOptions, StubServer};
use rustix::process::Signal;
use support::client::{ask, connect_name, read_head};
use support::gateway::{Gateway, GatewayOptions};
use support::in_process::ACCOUNT;
use support::scratch::Scratch;
use support::tools::path_of;

/// What is counted, how often it is done, and how many instructions it takes once, with the compiler of `rust-version`
/// in Cargo.toml on x86-64.
const EXPECTED: [(&str, Work, usize, u64); 3] = [
    ("a message of 1 KiB in a tunnel, there and back", messages, 20_000, 1_792),
    ("a tunnel: CONNECT, handshake, 1 KiB there and back, end", tunnels, 4_000, 80_255),
    ("a plain request on kept connections", requests, 4_000, 42_268),
];

/// By how much a count may exceed the expected one, in percent. Runs differ by 1 %, because the shard sometimes
/// wakes the log's writer and sometimes finds it awake.
const TOLERANCE_PERCENT: u64 = 2;

/// Repetitions in a second run, which is subtracted to cancel the cost of start and stop. The thread that drops the
/// metrics last spends up to 330,000 instructions on it, and that may be the shard in only one of the runs; the many
/// repetitions of the first run make this negligible.
const FEW: usize = 50;

/// A file that only shards execute.
const OF_SHARDS: &str = "src/session/read_request.rs";

/// Does something so many times through a gateway.
type Work = fn(SocketAddr, usize);

/// Under callgrind a start takes longer than usual.
const BOUND: Duration = Duration::from_secs(60);

#[test]
#[ignore = "counts an optimised program: tests/long instructions"]
fn no_message_tunnel_or_request_takes_more_instructions_than_before() {
    require_tools!("valgrind");
    if !cfg!(target_arch = "x86_64") {
        support::tools::skip("the counts are for x86-64");
        return;
    }
    let mut wrong = Vec::new();
    for (what, work, times, expected) in EXPECTED {
        let counted = each(None, work, times);
        println!("{counted:>8} instructions for {what}, expected {expected}");
        let tolerance = expected * TOLERANCE_PERCENT / 100;
        if counted > expected + tolerance {
            wrong.push(format!("{counted} instructions for {what}, which is more than {expected}"));
        } else if counted + tolerance < expected {
            println!("         less than expected: please replace {expected} by {counted} in {}", file!());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The instructions of a shard for each of so many repetitions, with this configuration file besides the arguments.
fn each(file: Option<&str>, work: Work, times: usize) -> u64 {
    (total(file, work, FEW + times) - total(file, work, FEW)) / times as u64
}

/// The instructions of a shard in a run of the gateway in which something is done so many times.
fn total(file: Option<&str>, work: Work, times: usize) -> u64 {
    let program = std::env::var("NTLM_GATEWAY_TESTS_OPTIMISED").expect("NTLM_GATEWAY_TESTS_OPTIMISED names no program");
    let scratch = Scratch::new("instructions");
    let counts = scratch.path().join("counts");
    let (domain, user, password) = ACCOUNT;
    let stub = StubServer::start(StubOptions::default().account(domain, user, password)).expect("an upstream");
    let valgrind = path_of("valgrind");
    let mut options = GatewayOptions::through(stub.address());
    options.setup = Some(format!(
        "exec {} --tool=callgrind --separate-threads=yes --callgrind-out-file={} {program} \"$@\"",
        valgrind.display(),
        counts.display()
    ));
    options.args = ["--shards", "1", "--warm", "0"].map(str::to_owned).to_vec();
    if let Some(file) = file {
        options.args.extend(["--config".to_owned(), scratch.write("gateway.toml", file).display().to_string()]);
    }
    let mut gateway = Gateway::start(&options);
    work(gateway.address(), times);
    gateway.signal(Signal::TERM);
    gateway.wait(BOUND).expect("the gateway does not stop");
    of_the_shard(scratch.path()).expect("callgrind has counted no shard")
}

/// The sum in the file that callgrind has written for the shard's thread.
fn of_the_shard(folder: &Path) -> Option<u64> {
    let files = std::fs::read_dir(folder).ok()?.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    let counts = files.into_iter().find(|counts| counts.contains(OF_SHARDS))?;
    counts.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

fn messages(gateway: SocketAddr, times: usize) {
    let mut tunnel = open_tunnel(gateway);
    (0..times).for_each(|_| send_and_receive(&mut tunnel));
}

fn tunnels(gateway: SocketAddr, times: usize) {
    for _ in 0..times {
        let mut tunnel = open_tunnel(gateway);
        send_and_receive(&mut tunnel);
    }
}

fn open_tunnel(gateway: SocketAddr) -> TcpStream {
    let answer = connect_name(gateway, "echo.test:443").expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    answer.stream.set_nodelay(true).expect("TCP_NODELAY");
    answer.stream
}

fn send_and_receive(tunnel: &mut TcpStream) {
    let mut message = [7; 1024];
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
