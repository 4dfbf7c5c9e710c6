//! Hellos that are slow, cut, huge or untrue. The test redirects its own connections, and plays the origin.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::network::{hello, hello_of, is_inside, start_gateway};
use crate::support::client::read_head;
use crate::support::command::run;
use crate::support::gateway::Gateway;
use crate::support::listener::Listener;
use crate::support::scratch::wait_for;
use crate::support::tools::path_of;

const PATIENCE: Duration = Duration::from_secs(10);

/// What each tunnel of the upstream was asked for, and what came through it.
type Tunnels = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A gateway to which connections to 192.0.2.0/24 are redirected, and an upstream that answers `ready` in a tunnel and
/// reads to its end.
fn redirected(further: &str) -> (Gateway, Listener, Tunnels) {
    let tunnels = Tunnels::default();
    let seen = Arc::clone(&tunnels);
    let upstream = Listener::start(move |mut stream| {
        let Ok(head) = read_head(&mut stream) else { return };
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\nready");
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        seen.lock().expect("the tunnels").push((target, bytes));
    });
    let rules = "add table ip own; add chain ip own out { type nat hook output priority -100; }; \
                 add rule ip own out ip daddr 192.0.2.0/24 meta l4proto tcp redirect to :15001";
    for (program, arguments) in [("ip", &["route", "add", "192.0.2.0/24", "dev", "lo"][..]), ("nft", &[rules])] {
        run(path_of(program), PATIENCE, |command| {
            command.args(arguments);
        })
        .expect_success(program);
    }
    let file = format!(
        "allow_clients = \"198.51.100.10/32\"\n[[listeners]]\naddress = \"127.0.0.1:15001\"\ntransparent = \"redirect\"\n{further}"
    );
    let gateway = start_gateway("env", "127.0.0.1", &file, &upstream.address().to_string());
    (gateway, upstream, tunnels)
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a redirected connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// Reads until the tunnel is established.
#[track_caller]
fn expect_ready(stream: &mut TcpStream) {
    let mut ready = [0; 5];
    stream.read_exact(&mut ready).expect("the tunnel");
    assert_eq!(&ready, b"ready");
}

/// Ends a tunnel, and returns what the upstream saw of it.
#[track_caller]
fn finish(stream: TcpStream, tunnels: &Tunnels) -> (String, Vec<u8>) {
    stream.shutdown(Shutdown::Write).expect("half-close");
    wait_for(PATIENCE, || tunnels.lock().expect("the tunnels").pop()).expect("the tunnel's end")
}

/// What the gateway says at the end.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

#[test]
fn slow_cut_huge_and_untrue_hellos_are_read_within_their_bounds() {
    require_tools!("unshare", "ip", "nft", "env");
    if !is_inside("hostile::slow_cut_huge_and_untrue_hellos_are_read_within_their_bounds") {
        return;
    }
    let (gateway, _upstream, tunnels) = redirected("[timeouts]\nhead = \"6s\"\nsniff = \"500ms\"");
    let faults = |cause: &str| {
        gateway.metric("ntlm_gateway_faults_total", &[("cause", cause), ("protocol", "tls")]).unwrap_or_default()
    };

    // Byte by byte, and slower than the time-out for clients that do not speak.
    let mut slow = connect("192.0.2.7:8443");
    let said = hello(Some("slow.test"));
    let started = Instant::now();
    for byte in said.chunks(1) {
        slow.write_all(byte).expect("a byte");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(started.elapsed() > Duration::from_millis(500), "{:?}", started.elapsed());
    expect_ready(&mut slow);
    assert_eq!(finish(slow, &tunnels), ("slow.test:8443".into(), said));

    // Several records and many segments; the largest that is read, and one that is longer.
    for share in [1216, 20_000, 65_000] {
        let mut large = connect("192.0.2.7:443");
        let said = hello_of(Some("large.test"), share);
        large.write_all(&said).expect("a large hello");
        expect_ready(&mut large);
        assert_eq!(finish(large, &tunnels), ("large.test:443".into(), said), "{share}");
    }
    let mut huge = connect("192.0.2.7:443");
    let mut said = hello_of(Some("huge.test"), 65_000);
    said[6..9].copy_from_slice(&[0x01, 0x00, 0x00]);
    huge.write_all(&said).expect("a huge hello");
    assert_eq!(rest(huge), [21, 3, 3, 0, 2, 2, 50], "an alert: decode error");

    // Cut at any byte: nothing goes upstream.
    let said = hello(Some("cut.test"));
    for length in (1..said.len()).step_by(7) {
        let mut cut = connect("192.0.2.7:443");
        cut.write_all(&said[..length]).expect("a part");
        cut.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(rest(cut), b"", "{length}");
    }
    // Never finished: the time of a head.
    let mut stalled = connect("192.0.2.7:443");
    let started = Instant::now();
    stalled.write_all(&said[..said.len() - 1]).expect("most of it");
    assert_eq!(rest(stalled), [21, 3, 3, 0, 2, 2, 80], "an alert: internal error");
    assert!((Duration::from_secs(6)..Duration::from_secs(20)).contains(&started.elapsed()));
    assert_eq!(faults("head_timeout"), 1.0);

    // A name that is none, and one that the address does not have: the name is what is connected to.
    let mut invalid = connect("192.0.2.7:443");
    invalid.write_all(&hello(Some("a b"))).expect("a hello");
    assert_eq!(rest(invalid), [21, 3, 3, 0, 2, 2, 50]);
    let mut untrue = connect("192.0.2.8:443");
    untrue.write_all(&hello(Some("elsewhere.test"))).expect("a hello");
    expect_ready(&mut untrue);
    assert_eq!(finish(untrue, &tunnels).0, "elsewhere.test:443");
    assert_eq!(faults("request_malformed"), 2.0);
    assert!(tunnels.lock().expect("the tunnels").is_empty(), "the cut ones did not get there");
}

#[test]
fn clients_that_say_nothing_wait_only_where_servers_speak_first() {
    require_tools!("unshare", "ip", "nft", "env");
    if !is_inside("hostile::clients_that_say_nothing_wait_only_where_servers_speak_first") {
        return;
    }
    let (gateway, _upstream, tunnels) = redirected("[timeouts]\nhead = \"1s\"\nsniff = \"100ms\"");
    let mut silent = connect("192.0.2.7:25");
    expect_ready(&mut silent);
    assert_eq!(finish(silent, &tunnels), ("192.0.2.7:25".into(), Vec::new()));

    let browser = connect("192.0.2.7:443");
    assert_eq!(rest(browser), b"", "closed after the time of a head");

    // What began is not lost when the server speaks first after all.
    let mut begun = connect("192.0.2.7:26");
    begun.write_all(b"HE").expect("a part of a word");
    expect_ready(&mut begun);
    begun.write_all(b"LO\r\n").expect("the rest");
    assert_eq!(finish(begun, &tunnels), ("192.0.2.7:26".into(), b"HELO\r\n".to_vec()));
    let opened = gateway.metric("ntlm_gateway_requests_total", &[("protocol", "tcp"), ("status", "2xx")]);
    assert_eq!(opened, Some(2.0));
}
