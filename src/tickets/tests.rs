//! Delivery to KDCs that misbehave. Exchanges with a real KDC are in `tests/kerberos`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::ask::ask;
use crate::kerberos::{Delivery, DeliveryOptions, KdcPlace, KdcTransport};
use crate::limits;

/// KRB-ERROR of MIT's KDC with another code.
fn error(code: u8) -> Vec<u8> {
    let mut error = include_bytes!("../kerberos/tests/recorded/preauth_required.der").to_vec();
    let at = error.windows(5).position(|part| part == [0xa6, 3, 2, 1, 25]).expect("the code");
    error[at + 4] = code;
    error
}

fn place(address: SocketAddr, only: KdcTransport) -> KdcPlace {
    KdcPlace { address: address.ip(), port: address.port(), only: Some(only) }
}

fn delivery(places: &[KdcPlace]) -> Delivery {
    Delivery::to_any(places, 7, DeliveryOptions::default())
}

/// A KDC that answers one request by UDP.
fn by_udp(reply: Vec<u8>) -> KdcPlace {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let (length, from) = socket.recv_from(&mut [0; 100]).unwrap();
        assert_eq!(length, 7);
        socket.send_to(&reply, from).unwrap();
    });
    place(address, KdcTransport::Udp)
}

/// A KDC that takes one connection.
fn by_tcp(serve: impl FnOnce(TcpStream) + Send + 'static) -> KdcPlace {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || serve(listener.accept().unwrap().0));
    place(address, KdcTransport::Tcp)
}

fn framed(reply: &[u8]) -> Vec<u8> {
    [&u32::try_from(reply.len()).unwrap().to_be_bytes()[..], reply].concat()
}

#[test]
fn a_request_by_tcp_has_its_length_in_front_and_the_reply_may_come_in_pieces() {
    let kdc = by_tcp(|mut stream| {
        let mut request = [0; 11];
        stream.read_exact(&mut request).unwrap();
        assert_eq!(&request, b"\0\0\0\x07request");
        for byte in framed(b"reply") {
            stream.write_all(&[byte]).unwrap();
        }
    });
    let reply = ask(delivery(&[kdc]), b"request").unwrap();
    assert_eq!((reply.bytes.as_slice(), reply.answered.transport), (&b"reply"[..], KdcTransport::Tcp));
}

#[test]
fn a_kdc_that_is_not_available_is_passed_over_but_its_error_is_kept() {
    let (unavailable, other) = (error(29), error(6));
    let kdcs = [by_udp(unavailable.clone()), by_udp(other.clone())];
    assert_eq!(ask(delivery(&kdcs), b"request").unwrap().bytes, other);
    let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let kdcs = [by_udp(unavailable.clone()), place(gone, KdcTransport::Udp)];
    assert_eq!(ask(delivery(&kdcs), b"request").unwrap().bytes, unavailable);
}

#[test]
fn a_reply_too_long_for_udp_is_fetched_by_tcp() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        let (_, from) = socket.recv_from(&mut [0; 100]).unwrap();
        socket.send_to(&error(52), from).unwrap();
        listener.accept().unwrap().0.write_all(&framed(b"long")).unwrap();
    });
    let kdc = KdcPlace { address: address.ip(), port: address.port(), only: None };
    let reply = ask(delivery(&[kdc]), b"request").unwrap();
    assert_eq!((reply.bytes.as_slice(), reply.answered.transport), (&b"long"[..], KdcTransport::Tcp));
}

#[test]
fn a_slow_kdc_is_still_heard_after_the_next_one_was_asked() {
    let slow = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let kdcs = [slow.local_addr().unwrap(), silent.local_addr().unwrap()];
    thread::spawn(move || {
        let (_, from) = slow.recv_from(&mut [0; 100]).unwrap();
        // Answers when the next one has its request.
        silent.recv_from(&mut [0; 100]).unwrap();
        slow.send_to(b"late", from).unwrap();
        drop(silent);
    });
    let reply = ask(delivery(&kdcs.map(|address| place(address, KdcTransport::Udp))), b"request").unwrap();
    assert_eq!((reply.bytes.as_slice(), reply.answered.place.port), (&b"late"[..], kdcs[0].port()));
}

#[test]
fn endless_and_truncated_replies_are_errors_within_bounds() {
    let began = Instant::now();
    let long = by_tcp(|mut stream| stream.write_all(&[0x7f, 0xff, 0xff, 0xff, 0]).unwrap());
    let error = ask(delivery(&[long]), b"request").unwrap_err();
    assert!(error.contains("too long"), "{error}");
    let cut = by_tcp(|mut stream| {
        stream.read_exact(&mut [0; 11]).unwrap();
        stream.write_all(&framed(b"reply")[..7]).unwrap();
    });
    assert!(ask(delivery(&[cut]), b"request").is_err());
    // A byte now and then buys no time.
    let slow = by_tcp(|mut stream| {
        let _ = stream.write_all(&[0, 0, 1, 0]);
        while stream.write_all(&[0]).is_ok() {
            thread::sleep(Duration::from_millis(200));
        }
    });
    assert!(ask(delivery(&[slow]), b"request").is_err());
    assert!(began.elapsed() < limits::KDC_REPLY_TIMEOUT + Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(ask(delivery(&[]), b"request").unwrap_err(), "there is none to ask");
}
