//! Byte streams and half-closes through a tunnel. The test plays both the upstream and the origin.

use crate::support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use support::bytes::{assert_same, pseudo_random};
use support::client::{Answered, PATIENCE, connect};
use support::gateway::{Gateway, GatewayOptions};
use support::listener::Listener;
use support::upstream::open_upstream;

/// Never contacted: the upstream plays the origin.
const ORIGIN: ([u8; 4], u16) = ([192, 0, 2, 1], 443);

fn tunnel_through(upstream: &Listener) -> (Gateway, Answered) {
    let gateway = Gateway::start(&GatewayOptions::through(upstream.address()));
    let answer = connect(gateway.address(), ORIGIN.into(), b"").expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    (gateway, answer)
}

fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("bytes, then a clean end of stream");
    bytes
}

#[test]
fn a_client_can_half_close_and_still_receive_the_whole_response() {
    let (request, response) = (pseudo_random(1, 3 << 20), pseudo_random(2, 5 << 20));
    let (sender, received) = mpsc::channel();
    let reply = response.clone();
    let upstream = open_upstream(b"", move |mut stream| {
        // Returns only at the end of the stream.
        let mut bytes = Vec::new();
        if stream.read_to_end(&mut bytes).is_ok() && stream.write_all(&reply).is_ok() {
            let _ = sender.send(bytes);
        }
    });
    let (_gateway, mut tunnel) = tunnel_through(&upstream);
    tunnel.stream.write_all(&request).expect("write the request");
    tunnel.stream.shutdown(Shutdown::Write).expect("half-close");
    assert_same(&read_all(&mut tunnel.stream), &response, "the response after the half-close");
    assert_same(&received.recv_timeout(PATIENCE).expect("the request"), &request, "the request");
}

#[test]
fn a_client_can_still_send_after_the_origin_half_closes() {
    let (greeting, late) = (pseudo_random(3, 2 << 20), pseudo_random(4, 2 << 20));
    let (sender, received) = mpsc::channel();
    let sent = greeting.clone();
    let upstream = open_upstream(b"", move |mut stream| {
        let mut bytes = Vec::new();
        if stream.write_all(&sent).and_then(|()| stream.shutdown(Shutdown::Write)).is_ok()
            && stream.read_to_end(&mut bytes).is_ok()
        {
            let _ = sender.send(bytes);
        }
    });
    let (_gateway, mut tunnel) = tunnel_through(&upstream);
    assert_same(&read_all(&mut tunnel.stream), &greeting, "the greeting");
    tunnel.stream.write_all(&late).expect("write after the origin's half-close");
    tunnel.stream.shutdown(Shutdown::Write).expect("close the other half");
    assert_same(&received.recv_timeout(PATIENCE).expect("the late bytes"), &late, "the late bytes");
}

#[test]
fn bytes_in_the_same_segment_as_the_200_reach_the_client() {
    let upstream = open_upstream(b"banner first, ", |mut stream| {
        let _ = stream.write_all(b"then the rest");
    });
    let (_gateway, mut tunnel) = tunnel_through(&upstream);
    assert_same(&read_all(&mut tunnel.stream), b"banner first, then the rest", "the origin's bytes");
}

#[test]
fn a_client_that_reads_late_receives_every_byte() {
    let bytes = pseudo_random(5, 20 << 20);
    let sent = bytes.clone();
    let upstream = open_upstream(b"", move |mut stream| {
        let _ = stream.write_all(&sent);
    });
    let (_gateway, mut tunnel) = tunnel_through(&upstream);
    // Long enough to fill every buffer on the path.
    std::thread::sleep(Duration::from_millis(500));
    assert_same(&read_all(&mut tunnel.stream), &bytes, "the origin's bytes");
}
