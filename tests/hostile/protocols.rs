//! Clients that speak SOCKS or begin with a PROXY header, and mean harm: slow, cut off, too long, or noise.

use crate::support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use support::bytes::pseudo_random;
use support::gateway::Gateway;
use support::scratch::{Scratch, free_port};
use support::socks::{login5, request4a, request5};

use super::clients::{meanwhile, start, stub};

const BOUND: Duration = Duration::from_secs(60);
const CONNECT: &[u8] = b"CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n";

/// 127.0.0.1:40000 to 127.0.0.1:443, with a TLV.
const HEADER_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x11\x7f\0\0\x01\x7f\0\0\x01\x9c\x40\x01\xbb\x01\x00\x02h2";

/// A listener that takes PROXY headers from everybody on this machine.
struct BehindLoadBalancer {
    address: SocketAddr,
    scratch: Scratch,
}

impl BehindLoadBalancer {
    fn new() -> Self {
        let (scratch, port) = (Scratch::new("listener"), free_port());
        let entry = format!("[[listeners]]\naddress = '127.0.0.1:{port}'\nproxy_protocol_from = '127.0.0.0/8'\n");
        scratch.write("gateway.toml", entry);
        Self { address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), scratch }
    }

    fn start(&self, stub: &ntlm_gateway::stub::StubServer, args: &[&str]) -> Gateway {
        let file = self.scratch.join("gateway.toml").display().to_string();
        start(stub, &[&["--config", &file], args].concat())
    }
}

/// What clients of each protocol send until they have their tunnel, and where to.
fn conversations(gateway: &Gateway, behind: &BehindLoadBalancer) -> Vec<(SocketAddr, Vec<u8>)> {
    let socks5 = [b"\x05\x01\x00", &request5(b"echo.test", 7)[..]].concat();
    let with_login = [b"\x05\x01\x02", &login5("joe", "secret")[..], &request5(b"echo.test", 7)].concat();
    let version_1 = [b"PROXY TCP4 127.0.0.1 127.0.0.1 40000 443\r\n", CONNECT].concat();
    vec![
        (gateway.address(), socks5.clone()),
        (gateway.address(), with_login),
        (gateway.address(), request4a(b"echo.test", 7)),
        (behind.address, version_1),
        (behind.address, [HEADER_2, &socks5].concat()),
    ]
}

/// All that comes until the end, or until the connection fails.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.set_read_timeout(Some(BOUND)).expect("a time-out");
    let _ = stream.read_to_end(&mut all);
    all
}

#[test]
fn socks_and_proxy_headers_cut_at_any_byte_leak_nothing() {
    let (stub, behind) = (stub(), BehindLoadBalancer::new());
    let mut gateway = behind.start(&stub, &[]);
    meanwhile("clients that go away", &mut gateway, |gateway| {
        for (address, bytes) in conversations(gateway, &behind) {
            for cut in 0..=bytes.len() {
                for by_reset in [false, true] {
                    let mut stream = TcpStream::connect(address).expect("a connection");
                    stream.write_all(&bytes[..cut]).expect("a part of a conversation");
                    if by_reset {
                        set_socket_linger(&stream, Some(Duration::ZERO)).expect("an option");
                    } else if cut % 3 == 0 {
                        let _ = stream.shutdown(Shutdown::Write);
                    }
                }
            }
        }
    });
}

#[test]
fn socks_and_proxy_headers_sent_slowly_time_out() {
    let (stub, behind) = (stub(), BehindLoadBalancer::new());
    let mut gateway = behind.start(&stub, &["--head-timeout", "1500ms"]);
    meanwhile("slow conversations", &mut gateway, |gateway| {
        let all = conversations(gateway, &behind);
        let began = Instant::now();
        let mut slow: Vec<(TcpStream, Vec<u8>)> = Vec::new();
        for (address, bytes) in all.iter().cycle().take(100) {
            let stream = TcpStream::connect(address).expect("a connection");
            stream.set_nodelay(true).expect("an option");
            slow.push((stream, bytes.clone()));
        }
        for sent in 0..30 {
            for (stream, bytes) in &mut slow {
                // Never the whole; some are closed meanwhile and refuse the byte.
                if sent + 1 < bytes.len() {
                    let _ = stream.write(&bytes[sent..=sent]);
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        for (stream, bytes) in &mut slow {
            let answer = read_to_end(stream);
            assert!(!answer.ends_with(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]), "{}", bytes.escape_ascii());
            let is_granted = answer.starts_with(b"\0\x5a") || answer.starts_with(b"HTTP/1.1 200");
            assert!(!is_granted, "{}", bytes.escape_ascii());
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    });
}

#[test]
fn noise_after_the_first_bytes_of_a_protocol_delays_no_other_client() {
    let (stub, behind) = (stub(), BehindLoadBalancer::new());
    let mut gateway = behind.start(&stub, &["--head-timeout", "1s"]);
    let ends = meanwhile("noise", &mut gateway, |gateway| {
        let beginnings: [(SocketAddr, &[u8]); 6] = [
            (gateway.address(), b"\x04\x01"),
            (gateway.address(), b"\x05\x01\x00"),
            (gateway.address(), b"\x05\x02\x00\x02\x05\x01\x00"),
            (gateway.address(), b"\x05\xff"),
            (behind.address, b"PROXY TCP4 "),
            (behind.address, &HEADER_2[..14]),
        ];
        let ends = Mutex::new(BTreeMap::<Vec<u8>, usize>::new());
        let until = Instant::now() + Duration::from_secs(3);
        std::thread::scope(|scope| {
            for seed in 0..4_u64 {
                let (ends, beginnings) = (&ends, &beginnings);
                scope.spawn(move || {
                    let mut round = seed << 32;
                    while Instant::now() < until {
                        round += 1;
                        let (address, beginning) = beginnings[usize::try_from(round % 6).expect("below 6")];
                        let Ok(mut stream) = TcpStream::connect(address) else { continue };
                        let _ = stream.write_all(&[beginning, &pseudo_random(round, 300)].concat());
                        let _ = stream.shutdown(Shutdown::Write);
                        let answer = read_to_end(&mut stream);
                        let kind = answer[..answer.len().min(9)].to_vec();
                        *ends.lock().expect("a lock").entry(kind).or_default() += 1;
                    }
                });
            }
        });
        ends.into_inner().expect("a lock")
    });
    let shown: Vec<String> = ends.iter().map(|(end, count)| format!("{} {count}", end.escape_ascii())).collect();
    println!("{shown:?}");
    // No answer, a method, a failure of SOCKS, or a status.
    let is_known = |end: &Vec<u8>| {
        end.is_empty() || [&b"\x05"[..], b"\0\x5b", b"HTTP/1.1 "].iter().any(|known| end.starts_with(known))
    };
    assert!(!ends.is_empty() && ends.keys().all(is_known), "{shown:?}");
}

#[test]
fn endless_texts_and_headers_are_rejected_at_their_bounds() {
    let (stub, behind) = (stub(), BehindLoadBalancer::new());
    let mut gateway = behind.start(&stub, &["--head-timeout", "600s", "--head-limit", "4KiB"]);
    let (before, _) = gateway.memory_kib();
    meanwhile("endless conversations", &mut gateway, |gateway| {
        let endless = vec![b'x'; 1 << 20];
        let beginnings: [(SocketAddr, &[u8], &[u8]); 4] = [
            (gateway.address(), b"\x04\x01\x00\x50\xc0\x00\x02\x01", b"\0\x5b"),
            (gateway.address(), b"\x04\x01\x00\x50\0\0\0\x01\0", b"\0\x5b"),
            (behind.address, b"PROXY UNKNOWN ", b"HTTP/1.1 400"),
            (behind.address, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", b"HTTP/1.1 431"),
        ];
        for (address, beginning, expected) in beginnings {
            let began = Instant::now();
            let mut stream = TcpStream::connect(address).expect("a connection");
            stream.write_all(beginning).expect("a beginning");
            // It may be rejected before all of it is written, and the answer may be lost to a reset.
            let whole = stream.write_all(&endless[..2000]).is_ok();
            let answer = read_to_end(&mut stream);
            let shown = answer.escape_ascii().to_string();
            assert!(answer.starts_with(expected) || (answer.is_empty() && !whole), "{shown}");
            assert!(began.elapsed() < Duration::from_secs(10), "it is not rejected at once");
        }
        for (address, beginning, _) in beginnings.iter().cycle().take(200) {
            let mut stream = TcpStream::connect(address).expect("a connection");
            let _ = stream.write_all(&[beginning, &endless[..]].concat());
        }
    });
    let (_, highest) = gateway.memory_kib();
    assert!(highest < before + 32 * 1024, "from {before} to {highest} KiB");
}

#[test]
fn clients_that_send_without_end_and_never_read_do_not_make_the_gateway_grow() {
    const CLIENTS: usize = 30;
    let (stub, behind) = (stub(), BehindLoadBalancer::new());
    let mut gateway = behind.start(&stub, &[]);
    let (before, _) = gateway.memory_kib();
    let sent = meanwhile("floods", &mut gateway, |gateway| {
        let flood = vec![b'x'; 64 * 1024];
        let conversations = conversations(gateway, &behind);
        let flooded = |(address, conversation): &(SocketAddr, Vec<u8>)| {
            let mut stream = TcpStream::connect(address).expect("a connection");
            stream.write_all(conversation).expect("a conversation");
            stream.set_write_timeout(Some(Duration::from_millis(100))).expect("a time-out");
            // What is echoed fills the buffers of the kernel; 4 MiB are enough.
            let written = (0..64).map_while(|_| stream.write(&flood).ok()).sum::<usize>();
            (stream, written)
        };
        let flooding: Vec<_> = conversations.iter().cycle().take(CLIENTS).map(flooded).collect();
        flooding.iter().map(|(_, written)| written).sum::<usize>()
    });
    let (_, highest) = gateway.memory_kib();
    println!("memory from {before} to {highest} KiB, after {} KiB", sent / 1024);
    // Otherwise the gateway could have held all of it.
    assert!(sent > 32 * 1024 * 1024, "they have sent only {sent} bytes");
    assert!(highest < before + 16 * 1024, "from {before} to {highest} KiB, after {sent} bytes");
}
