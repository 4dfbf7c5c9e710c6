//! The sockets. What is in the messages is tested in `crate::kerberos`, and with MIT's clients in `tests/kerberos`.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};

use super::*;
use crate::kerberos::{
    ClientSecret, ClockSkew, EtypeSet, ExchangeInputs, ExchangeOptions, InitialExchange, KrbError, Principal, Timestamp,
};

const BOUND: Duration = Duration::from_secs(10);

/// An AS-REQ without pre-authentication.
fn request() -> Vec<u8> {
    let client = Principal::parse("alice@EXAMPLE.COM", None).unwrap();
    let (lifetime, renewable) = (Duration::from_secs(3600), Duration::ZERO);
    let options = ExchangeOptions { etypes: EtypeSet::new(false), lifetime, renewable };
    let mut exchange = InitialExchange::new(client, ClientSecret::password("x"), options, ClockSkew::default());
    let inputs = ExchangeInputs { now: Timestamp::from_seconds(1_800_000_000), nonce: 1, confounder: [1; 16] };
    exchange.start(&inputs).unwrap().bytes
}

fn started(udp_reply_bytes: usize) -> StubKdc {
    let options = KdcOptions { udp_reply_bytes, ..KdcOptions::new("EXAMPLE.COM") };
    StubKdc::start(options.account("alice", "x").service("HTTP/proxy.test")).unwrap()
}

fn connect(kdc: &StubKdc) -> TcpStream {
    let stream = TcpStream::connect(kdc.address()).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream
}

fn by_udp(kdc: &StubKdc, request: &[u8]) -> ErrorCode {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    socket.send_to(request, kdc.address()).unwrap();
    let mut reply = [0; 4096];
    let length = socket.recv(&mut reply).unwrap();
    KrbError::decode(&reply[..length]).unwrap().code
}

fn read_reply(stream: &mut TcpStream) -> ErrorCode {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let (length, reply) = all.split_first_chunk::<4>().unwrap();
    assert_eq!(usize::try_from(u32::from_be_bytes(*length)).unwrap(), reply.len());
    KrbError::decode(reply).unwrap().code
}

fn framed(request: &[u8]) -> Vec<u8> {
    [&u32::try_from(request.len()).unwrap().to_be_bytes()[..], request].concat()
}

#[test]
fn requests_are_answered_by_udp_and_by_tcp_in_any_pieces() {
    let (kdc, request) = (started(4096), request());
    assert_eq!(by_udp(&kdc, &request), ErrorCode::KDC_ERR_PREAUTH_REQUIRED);
    let framed = framed(&request);
    for piece in [1, 5, framed.len()] {
        let mut stream = connect(&kdc);
        stream.set_nodelay(true).unwrap();
        framed.chunks(piece).for_each(|bytes| stream.write_all(bytes).unwrap());
        assert_eq!(read_reply(&mut stream), ErrorCode::KDC_ERR_PREAUTH_REQUIRED);
    }
    assert_eq!(kdc.counts(), KdcCounts { unauthenticated: 4, ..KdcCounts::default() });
}

#[test]
fn a_reply_that_is_too_long_for_udp_is_left_to_tcp() {
    let (kdc, request) = (started(100), request());
    assert_eq!(by_udp(&kdc, &request), ErrorCode::KRB_ERR_RESPONSE_TOO_BIG);
    let mut stream = connect(&kdc);
    stream.write_all(&framed(&request)).unwrap();
    assert_eq!(read_reply(&mut stream), ErrorCode::KDC_ERR_PREAUTH_REQUIRED);
    assert_eq!(kdc.counts().unauthenticated, 1, "only what is delivered is counted");
}

#[test]
fn garbage_is_not_answered_and_many_silent_connections_lock_nobody_out_for_long() {
    let (kdc, request) = (started(4096), request());
    for garbage in [&b"\0\0\0\x03abc"[..], b"\xff\xff\xff\xff"] {
        let mut stream = connect(&kdc);
        stream.write_all(garbage).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
    }
    let silent: Vec<TcpStream> = (0..100).map(|_| connect(&kdc)).collect();
    assert_eq!(by_udp(&kdc, &request), ErrorCode::KDC_ERR_PREAUTH_REQUIRED, "datagrams have no connections");
    drop(silent);
    let mut stream = connect(&kdc);
    stream.write_all(&framed(&request)).unwrap();
    assert_eq!(read_reply(&mut stream), ErrorCode::KDC_ERR_PREAUTH_REQUIRED);
}

#[test]
fn the_keytab_has_the_services_keys_and_not_the_kdcs_own() {
    let kdc = started(4096);
    let names = |keytab: &Keytab| -> Vec<(String, u32)> {
        keytab.entries().iter().map(|entry| (entry.principal.to_string(), entry.kvno)).collect()
    };
    assert_eq!(names(&kdc.keytab()), vec![("HTTP/proxy.test@EXAMPLE.COM".to_owned(), 1); 4]);
    kdc.new_keys("HTTP/proxy.test").unwrap();
    assert_eq!(names(&kdc.keytab()), vec![("HTTP/proxy.test@EXAMPLE.COM".to_owned(), 2); 4]);
}
