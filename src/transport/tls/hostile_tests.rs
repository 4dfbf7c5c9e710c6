//! A peer that has a valid certificate and means harm, or sends so much that it might.

use super::*;
use crate::transport::tls::engine::MOST_STEPS;
use crate::transport::tls::testing::pair_with;
use crate::transport::tls::{MOST_INCOMPLETE_BYTES, STEP_BYTES};

/// Both ends of a connection with TLS 1.3 that is established, with the server's last messages delivered.
fn usual_ends() -> (Tls, Far) {
    let (mut near, far) = established(&pair(VERSIONS[1], None));
    assert!(!near.has_input());
    (near, far)
}

/// Delivers all that the server has said, while this end looks for input. Returns the first error.
fn deliver_all(near: &mut Tls, far: &mut Far) -> Option<std::io::Error> {
    let bytes = std::mem::take(&mut far.outgoing);
    let mut rest = bytes.as_slice();
    let mut buffer = [0; 100];
    loop {
        match far.socket.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let is_last = rest.is_empty();
        if near.has_input() {
            return Some(near.read(&mut buffer).unwrap_err());
        }
        if is_last {
            return None;
        }
    }
}

#[test]
fn records_of_one_byte_are_read_in_parts_and_count_as_more() {
    const RECORDS: usize = 3_000;
    let (mut near, mut far) = usual_ends();
    for byte in pattern(RECORDS) {
        far.seal(&[byte]);
    }
    far.deliver();
    let (mut received, mut calls, mut buffer) = (Vec::new(), 0, vec![0; 65_536]);
    while received.len() < RECORDS {
        let count = near.read(&mut buffer).unwrap();
        assert!(count <= MOST_STEPS, "{count} records at once");
        assert!(near.read_cost(count) >= count * STEP_BYTES);
        received.extend_from_slice(&buffer[..count]);
        // No event comes for what is left.
        assert!(near.has_buffered() || received.len() == RECORDS);
        assert!(near.held_bytes() <= 5 * RECORD_BYTES, "{}", near.held_bytes());
        calls += 1;
    }
    assert!(calls >= RECORDS / MOST_STEPS, "{calls} calls");
    assert!(received == pattern(RECORDS));
    assert_eq!(near.held_bytes(), 0);
    assert_eq!(near.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn whole_records_count_as_their_bytes() {
    let (mut near, mut far) = usual_ends();
    far.seal(&pattern(RECORD_BYTES));
    far.deliver();
    let mut buffer = vec![0; RECORD_BYTES];
    assert_eq!(near.read(&mut buffer).unwrap(), RECORD_BYTES);
    assert_eq!(near.read_cost(RECORD_BYTES), RECORD_BYTES);
}

#[test]
fn session_tickets_without_end_are_an_error() {
    let flooding = pair_with(VERSIONS[1], 1, |server| server.send_tls13_tickets = 2_000);
    let (mut near, mut far) = ends(&flooding);
    while !near.shake_hands().unwrap() {
        far.listen().unwrap();
        let tickets = far.outgoing.split_off(far.outgoing.len().min(4_000));
        far.deliver();
        far.outgoing = tickets;
    }
    far.listen().unwrap();
    assert!(far.outgoing.len() > 100_000, "{} bytes of tickets", far.outgoing.len());
    let error = deliver_all(&mut near, &mut far).expect("an error");
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    assert_eq!(near.held_bytes(), 0);
}

#[test]
fn changes_of_keys_without_end_are_an_error_and_some_are_not() {
    for (changes, is_an_error) in [(30, false), (40, true)] {
        let (mut near, mut far) = usual_ends();
        for _ in 0..changes {
            far.engine.update_keys();
            // Sends the message.
            far.perform(Task::Receive);
        }
        assert_eq!(deliver_all(&mut near, &mut far).is_some(), is_an_error, "{changes}");
        assert!(near.held_bytes() <= 100, "the answers do not add up: {} bytes", near.held_bytes());
    }
}

#[test]
fn a_certificate_chain_without_end_is_an_error_in_bounded_memory() {
    for (versions, fragment_bytes) in [(VERSIONS[0], None), (VERSIONS[1], None), (VERSIONS[1], Some(32))] {
        let endless = pair_with(versions, 400, |server| server.max_fragment_size = fragment_bytes);
        let (mut near, mut far) = ends(&endless);
        let mut most = 0;
        let error = loop {
            match near.shake_hands() {
                Ok(is_complete) => assert!(!is_complete),
                Err(error) => break error,
            }
            most = most.max(near.held_bytes());
            far.listen().unwrap();
            let rest = far.outgoing.split_off(far.outgoing.len().min(10_000));
            far.deliver();
            far.outgoing = rest;
        };
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        assert!(most <= MOST_INCOMPLETE_BYTES + 10_000, "{most} bytes were held");
    }
}

#[test]
fn empty_records_without_end_are_an_error() {
    for first in [&b"\x16\x03\x03\x00\x00"[..], b"\x17\x03\x03\x00\x00", b"\x15\x03\x03\x00\x00"] {
        let (mut near, mut far) = ends(&usual());
        assert!(!near.shake_hands().unwrap());
        far.socket.write_all(&first.repeat(100)).unwrap();
        assert_eq!(near.shake_hands().unwrap_err().kind(), ErrorKind::InvalidData);
    }
}

#[test]
fn a_message_that_never_ends_is_an_error_in_bounded_memory() {
    let (mut near, mut far) = ends(&usual());
    assert!(!near.shake_hands().unwrap());
    // A ServerHello of 16 MiB, in records of one byte and of 16 KiB.
    for piece in [1_usize, RECORD_BYTES] {
        let mut record = vec![0x16, 3, 3];
        record.extend_from_slice(&u16::try_from(piece).unwrap().to_be_bytes());
        record.resize(5 + piece, 0);
        let head = [0x16, 3, 3, 0, 4, 2, 0xff, 0xff, 0xff];
        far.outgoing = [head.as_slice(), &record.repeat(2_000_000 / record.len())].concat();
        let error = loop {
            let rest = far.outgoing.split_off(far.outgoing.len().min(3_000));
            far.deliver();
            far.outgoing = rest;
            if let Err(error) = near.shake_hands() {
                break error;
            }
            assert!(near.held_bytes() <= MOST_INCOMPLETE_BYTES + 10_000, "{}", near.held_bytes());
        };
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        (near, far) = ends(&usual());
        assert!(!near.shake_hands().unwrap());
    }
}
