//! What happens around the hand-over of a connection to the kernel, as far as it needs no kernel that has TLS.

use std::time::{Duration, Instant};

use super::*;
use crate::tls::TlsSettings;
use crate::transport::tls::kernel::{HandOver, Kernel, Message, bytes_to_boundary};
use crate::transport::tls::kernel_socket::RecordType;
use crate::transport::tls::testing::{ServerTraits, kernel_pair, steady_pair};

/// An established connection whose settings leave bulk data to the kernel.
fn willing_ends(is_1_2: bool) -> (Tls, Far) {
    let traits = ServerTraits { is_1_2, tickets: 2, ..ServerTraits::default() };
    let (client, server) = kernel_pair(&traits);
    let (mut near, far) = established(&Pair { client, server });
    assert!(!near.has_input(), "session tickets are no input");
    (near, far)
}

/// What is kept of a connection that was handed over.
fn kernel(is_1_2: bool) -> Kernel {
    let (mut near, _far) = willing_ends(is_1_2);
    let Engine::Client(client) = std::mem::replace(&mut near.engine, Engine::Gone) else { panic!("not a client") };
    // Its end is not to be sent.
    near.reset_on_close();
    Kernel::new(client).unwrap().0
}

/// A connection that was handed over, on a socket without the kernel's TLS: the peer sees and sends the plain bytes.
fn handed_over() -> (Tls, Far) {
    let (mut near, far) = willing_ends(false);
    let Engine::Client(client) = std::mem::replace(&mut near.engine, Engine::Gone) else { panic!("not a client") };
    near.engine = Engine::Kernel(Box::new(Kernel::new(client).unwrap().0));
    (near, far)
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// A session ticket of TLS 1.3 (RFC 8446 §4.6.1).
fn ticket() -> Vec<u8> {
    let (lifetime, age_add, nonce, ticket, extensions) = ([0, 0, 1, 0], [0; 4], [1, 7], [0, 2, 8, 9], [0, 0]);
    handshake(4, &[&lifetime[..], &age_add, &nonce, &ticket, &extensions].concat())
}

#[test]
fn without_the_setting_bulk_data_is_not_left_to_the_kernel() {
    let (client, server) = steady_pair(&ServerTraits::default());
    let (mut near, _far) = established(&Pair { client, server });
    assert!(!near.has_input());
    assert!(!near.prepare_splice());
    assert_eq!(near.hand_over, HandOver::Never);
    assert!(matches!(near.engine, Engine::Client(_)), "rustls keeps the keys");
}

#[test]
fn a_connection_is_handed_over_only_at_a_boundary_of_records() {
    let (mut near, mut far) = willing_ends(false);
    let bytes = pattern(3 * RECORD_BYTES);
    far.seal(&bytes);
    let late = far.outgoing.split_off(RECORD_BYTES + 5_000);
    far.deliver();
    let mut received = vec![0; 5 * RECORD_BYTES];
    let mut filled = near.read(&mut received).unwrap();
    assert_eq!(filled, RECORD_BYTES);
    assert!(!near.prepare_splice());
    assert_eq!(near.hand_over, HandOver::Soon, "a record has begun");
    far.outgoing = late;
    far.deliver();
    // Only the rest of that record is read, and then it is tried.
    filled += near.read(&mut received[filled..]).unwrap();
    assert_eq!(filled, 2 * RECORD_BYTES);
    assert_eq!((near.incoming.len(), near.hand_over), (0, HandOver::Never));
    if matches!(near.engine, Engine::Client(_)) {
        // The kernel has no TLS, and the connection goes on as before.
        filled += near.read(&mut received[filled..]).unwrap();
        assert!(received[..filled] == bytes);
        assert_eq!(near.write(b"more").unwrap(), 4);
        far.listen().unwrap();
        assert_eq!(far.received, b"more");
    }
}

#[test]
fn a_connection_with_bytes_on_their_way_is_not_handed_over() {
    let (mut near, mut far) = willing_ends(false);
    while near.write(&pattern(100_000)).is_ok() {}
    assert!(!near.outgoing.is_empty());
    assert!(!near.prepare_splice());
    assert_eq!(near.hand_over, HandOver::Soon);
    far.listen().unwrap();
}

#[test]
fn a_connection_with_an_ended_direction_stays_in_user_space() {
    let (mut near, _far) = willing_ends(false);
    near.shutdown(Shutdown::Write).unwrap();
    assert!(!near.prepare_splice());
    assert_eq!(near.hand_over, HandOver::Never);
}

#[test]
fn an_answer_to_new_keys_is_sent_before_the_hand_over() {
    let (mut near, mut far) = willing_ends(false);
    far.engine.update_keys();
    far.listen().unwrap();
    far.deliver();
    assert!(!near.has_input());
    assert!(near.has_flushed_key_update());
    assert!(near.outgoing.is_empty());
    let mut record = [0; 100];
    assert!(far.socket.peek(&mut record).unwrap() > 0, "the answer is on its way");
    assert_eq!(near.write(b"data").unwrap(), 4);
    far.listen().unwrap();
    assert_eq!(far.received, b"data");
}

#[test]
fn keys_that_the_kernel_rejects_are_an_error_and_no_end() {
    let (mut near, mut far) = willing_ends(false);
    // The socket does not have the kernel's TLS.
    let error = near.give_keys().unwrap_err();
    near.end = End::Pending(Err(error));
    assert!(near.read(&mut [0; 10]).is_err());
    assert_eq!(near.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(near.write(b"data").unwrap_err().kind(), ErrorKind::BrokenPipe);
    drop(near);
    assert!(far.listen().is_ok() && !far.has_ended);
}

#[test]
fn session_tickets_are_taken_in_any_pieces() {
    let (mut kernel, two) = (kernel(false), [ticket(), ticket()].concat());
    let mut steps = 0;
    for piece in two.chunks(1) {
        assert_eq!(kernel.take(RecordType::Handshake, piece, &mut steps).unwrap(), Message::Nothing);
    }
    assert_eq!((steps, kernel.held_bytes()), (2, 0));
    assert_eq!(kernel.take(RecordType::Handshake, &two, &mut steps).unwrap(), Message::Nothing);
    assert_eq!(steps, 4);
}

#[test]
fn messages_of_tls_end_the_connection_or_fail_it_by_their_names() {
    for (is_1_2, record_type, bytes, expected) in [
        (false, RecordType::Alert, vec![1, 0], "ended"),
        (true, RecordType::Alert, vec![1, 0], "ended"),
        (false, RecordType::Alert, vec![1, 90], "nothing"),
        (true, RecordType::Alert, vec![1, 100], "nothing"),
        (false, RecordType::Alert, vec![2, 40], "HandshakeFailure"),
        (false, RecordType::Alert, vec![1, 40], "HandshakeFailure"),
        (true, RecordType::Handshake, handshake(0, b""), "answer"),
        (false, RecordType::Handshake, handshake(0, b""), "does not belong here"),
        (false, RecordType::Handshake, handshake(24, &[0]), "KeyUpdate"),
        (false, RecordType::Handshake, handshake(13, b"request"), "does not belong here"),
        (false, RecordType::Handshake, handshake(4, b"malformed"), "TLS failed"),
        (true, RecordType::Handshake, ticket(), "TLS failed"),
        (false, RecordType::Handshake, vec![4, 0xff, 0xff, 0xff], "too many or too long"),
        (false, RecordType::ChangeCipherSpec, vec![1], "does not belong here"),
        (false, RecordType::Unknown(99), vec![1], "does not belong here"),
    ] {
        let outcome = match kernel(is_1_2).take(record_type, &bytes, &mut 0) {
            Ok(Message::Nothing) => "nothing".to_owned(),
            Ok(Message::Ended) => "ended".to_owned(),
            Ok(Message::NeedsAnswer { .. }) => "answer".to_owned(),
            Err(error) => match TlsFailure::of_io(&error) {
                Some(failure) => failure.detail,
                None => error.to_string(),
            },
        };
        assert!(outcome.contains(expected), "{bytes:?}: {outcome}, not {expected}");
    }
}

#[test]
fn a_message_may_not_be_interrupted_by_one_of_another_type() {
    let mut kernel = kernel(false);
    kernel.take(RecordType::Handshake, &ticket()[..5], &mut 0).unwrap();
    assert!(kernel.take(RecordType::Alert, &[1, 0], &mut 0).is_err());
}

#[test]
fn the_rest_of_a_record_or_of_its_header_is_what_is_missing() {
    assert_eq!(bytes_to_boundary(b""), Some(5));
    assert_eq!(bytes_to_boundary(b"\x17\x03\x03\x00"), Some(1));
    assert_eq!(bytes_to_boundary(b"\x17\x03\x03\x01\x00"), Some(256));
    assert_eq!(bytes_to_boundary(b"\x17\x03\x03\x00\x02a"), Some(1));
    // A message of TLS that goes on in the next record.
    assert_eq!(bytes_to_boundary(b"\x17\x03\x03\x00\x02ab"), None);
    assert_eq!(bytes_to_boundary(b"\x17\x03\x03\x00\x02abc"), None);
}

#[test]
fn keys_are_given_away_by_rustls_only_with_the_setting() {
    let wanted: &TlsSettings = &kernel_pair(&ServerTraits::default()).0;
    let usual: &TlsSettings = &steady_pair(&ServerTraits::default()).0;
    assert_eq!((wanted.wants_kernel(), usual.wants_kernel()), (true, false));
}

#[test]
fn bytes_of_the_kernel_are_the_callers_and_an_end_without_notice_is_an_error() {
    let (mut near, mut far) = handed_over();
    assert!(near.prepare_splice());
    assert!(!near.has_input());
    let mut buffer = [0; 100];
    far.socket.write_all(b"data").unwrap();
    assert_eq!(near.read(&mut buffer).unwrap(), 4);
    assert!(near.has_buffered(), "a record of another type may have ended the read");
    assert_eq!(near.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(!near.has_buffered());
    far.socket.write_all(b"more").unwrap();
    assert!(near.has_input());
    assert!(!near.can_splice(), "what was looked at is read first");
    assert_eq!(near.read(&mut buffer).unwrap(), 4);
    assert!(near.can_splice());
    far.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(near.read(&mut buffer).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(near.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn the_notice_of_the_end_waits_for_room_in_the_socket() {
    let (mut near, mut far) = handed_over();
    let mut sent = 0;
    while let Ok(count) = near.write(&pattern(100_000)) {
        sent += count;
    }
    near.shutdown(Shutdown::Write).unwrap();
    assert!(near.is_ending());
    assert_eq!(near.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    let (mut received, mut piece) = (Vec::new(), vec![0; 100_000]);
    let until = Instant::now() + Duration::from_secs(20);
    while near.is_ending() || received.len() < sent + 2 {
        let count = far.socket.read(&mut piece).unwrap_or(0);
        received.extend_from_slice(&piece[..count]);
        near.go_on();
        assert!(Instant::now() < until, "{} of {sent} bytes", received.len());
    }
    assert_eq!(received[sent..], [1, 0]);
    assert!(near.carrier().is_connected());
}

#[test]
fn keys_that_have_encrypted_too_much_are_an_error_by_name() {
    let (mut near, _far) = handed_over();
    near.count_spliced(1_000_000);
    assert_eq!(near.write(b"data").unwrap(), 4);
    near.count_spliced(usize::MAX);
    assert!(!near.prepare_splice());
    let failure = TlsFailure::of_io(&near.write(b"data").unwrap_err()).unwrap();
    assert!(failure.detail.contains("as many records as one key may encrypt"), "{failure}");
}
