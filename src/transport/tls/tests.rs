//! The transport's end of a connection against rustls' other end, whose bytes arrive as a test wants them.

#[path = "hostile_tests.rs"]
mod hostile;
#[path = "kernel_tests.rs"]
mod kernel;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, Error, SupportedProtocolVersion};

use super::engine::{Engine, Halt, Sink, Task};
use super::send::{MOST_EXPANSION_BYTES, SEALED_AT_ONCE_BYTES};
use super::testing::{Pair, client_settings, pair, server_config};
use super::{End, RECORD_BYTES, Tls};
use crate::tls::{TlsFailure, TlsFault};
use crate::transport::Stream;

const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];

/// The server's end: what it says stays in `outgoing` until the test delivers it.
struct Far {
    socket: TcpStream,
    engine: Engine,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    received: Vec<u8>,
    has_ended: bool,
}

impl Far {
    /// Takes in all that has arrived.
    fn listen(&mut self) -> Result<(), Error> {
        let mut piece = [0; 65_536];
        while let Ok(count @ 1..) = self.socket.read(&mut piece) {
            self.incoming.extend_from_slice(&piece[..count]);
        }
        match self.perform(Task::Receive) {
            Halt::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    fn perform(&mut self, task: Task<'_>) -> Halt {
        let mut sink = Sink::new(&mut [], &mut self.received);
        let (used, halt) = self.engine.advance(&mut self.incoming, task, &mut sink, &mut self.outgoing);
        self.has_ended |= sink.has_ended;
        self.incoming.drain(..used);
        halt
    }

    fn seal(&mut self, bytes: &[u8]) {
        let mut room = vec![0; bytes.len() * 2 + 1000];
        match self.perform(Task::Seal { bytes, room: &mut room }) {
            Halt::Done(count) => self.outgoing.extend_from_slice(&room[..count]),
            halt => panic!("{halt:?}"),
        }
    }

    fn close(&mut self) {
        assert!(matches!(self.perform(Task::Close), Halt::Done(_)));
    }

    fn deliver(&mut self) {
        let bytes = std::mem::take(&mut self.outgoing);
        self.socket.write_all(&bytes).unwrap();
    }
}

/// Both ends of a connection whose handshake has not begun.
fn ends(pair: &Pair) -> (Tls, Far) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    near.set_nodelay(true).unwrap();
    near.set_nonblocking(true).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    let engine = Engine::server(Arc::clone(&pair.server)).unwrap();
    let near = Tls::connecting(Stream::Tcp(near), &pair.client).unwrap();
    let (incoming, outgoing, received) = (Vec::new(), Vec::new(), Vec::new());
    (near, Far { socket, engine, incoming, outgoing, received, has_ended: false })
}

/// Both ends of an established connection, with the server's last messages delivered.
fn established(pair: &Pair) -> (Tls, Far) {
    let (mut near, mut far) = ends(pair);
    while !near.shake_hands().unwrap() || far.engine.is_handshaking() {
        far.listen().unwrap();
        far.deliver();
    }
    (near, far)
}

fn usual() -> Pair {
    Pair { client: client_settings(), server: server_config() }
}

/// Reads what there is.
fn read_available(near: &mut Tls) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), [0; 1000]);
    loop {
        match near.read(&mut piece) {
            Ok(0) => panic!("an end after {} bytes", all.len()),
            Ok(count) => all.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(31) ^ (index >> 8)).to_le_bytes()[0]).collect()
}

#[test]
fn every_byte_may_come_alone_while_this_end_writes() {
    // Short records split the messages of the handshake and the session tickets.
    for (versions, fragment_bytes) in [(VERSIONS[0], None), (VERSIONS[1], None), (VERSIONS[1], Some(64))] {
        let (mut near, mut far) = ends(&pair(versions, fragment_bytes));
        let mut is_complete = near.shake_hands().unwrap();
        let (mut received, mut sent, mut data) = (Vec::new(), 0_usize, pattern(300));
        for round in 0.. {
            far.listen().unwrap();
            if is_complete && !far.engine.is_handshaking() && !data.is_empty() {
                far.seal(&std::mem::take(&mut data));
                far.close();
            }
            for byte in std::mem::take(&mut far.outgoing) {
                far.socket.write_all(&[byte]).unwrap();
                if !is_complete {
                    is_complete = near.shake_hands().unwrap();
                    continue;
                }
                sent += near.write(b"x").unwrap();
                let mut piece = [0; 7];
                loop {
                    match near.read(&mut piece) {
                        Ok(0) => assert_eq!(received.len(), 300, "the end comes last"),
                        Ok(count) => received.extend_from_slice(&piece[..count]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => panic!("{error}"),
                    }
                    if !near.has_buffered() {
                        break;
                    }
                }
            }
            if is_complete && data.is_empty() && far.outgoing.is_empty() && round > 10 {
                break;
            }
        }
        far.listen().unwrap();
        assert_eq!(received, pattern(300));
        assert_eq!(far.received, vec![b'x'; sent]);
    }
}

#[test]
fn an_end_is_clean_only_with_the_whole_notice() {
    for versions in VERSIONS {
        let pair = pair(versions, None);
        let whole = {
            let (_near, mut far) = established(&pair);
            far.seal(b"data");
            far.close();
            far.outgoing.len()
        };
        for cut in 0..=whole {
            let (mut near, mut far) = established(&pair);
            far.seal(b"data");
            let data_bytes = far.outgoing.len();
            far.close();
            far.outgoing.truncate(cut);
            far.deliver();
            far.socket.shutdown(Shutdown::Write).unwrap();
            let mut buffer = [0; 100];
            if cut >= data_bytes {
                assert_eq!(near.read(&mut buffer).unwrap(), 4);
            }
            assert!(near.has_input());
            let end = near.read(&mut buffer);
            match cut == whole {
                true => assert_eq!(end.unwrap(), 0),
                false => assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof, "{cut} of {whole}"),
            }
            assert_eq!(near.held_bytes(), 0);
        }
    }
}

#[test]
fn an_end_during_the_handshake_is_an_error() {
    for versions in VERSIONS {
        let pair = pair(versions, None);
        for cut in [0, 1, 5, 100, 500] {
            let (mut near, mut far) = ends(&pair);
            assert!(!near.shake_hands().unwrap());
            far.listen().unwrap();
            far.outgoing.truncate(cut);
            far.deliver();
            far.socket.shutdown(Shutdown::Write).unwrap();
            assert_eq!(near.shake_hands().unwrap_err().kind(), ErrorKind::UnexpectedEof);
        }
    }
}

#[test]
fn each_direction_ends_by_itself() {
    for versions in VERSIONS {
        let (mut near, mut far) = established(&pair(versions, None));
        assert_eq!(near.write(b"question").unwrap(), 8);
        near.shutdown(Shutdown::Write).unwrap();
        far.listen().unwrap();
        assert_eq!((far.received.as_slice(), far.has_ended), (&b"question"[..], true));
        assert_eq!(far.socket.read(&mut [0; 10]).unwrap(), 0, "the socket's direction has ended, too");
        assert_eq!(near.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
        far.seal(&pattern(100_000));
        far.close();
        far.deliver();
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match near.read(&mut piece).unwrap() {
                0 => break,
                count => answer.extend_from_slice(&piece[..count]),
            }
        }
        assert!(answer == pattern(100_000));
        assert!(!near.has_buffered(), "an end is reported once");
    }
}

#[test]
fn session_tickets_and_new_keys_are_not_input_and_leave_no_buffer() {
    let (mut near, mut far) = established(&usual());
    assert!(!near.has_input(), "the server has sent session tickets");
    assert_eq!(near.held_bytes(), 0);
    for round in 0..3 {
        far.engine.update_keys();
        far.listen().unwrap();
        // The last byte is late.
        let last = far.outgoing.pop().unwrap();
        far.deliver();
        assert!(!near.has_input(), "{round}");
        far.socket.write_all(&[last]).unwrap();
        assert!(!near.has_input(), "{round}");
        assert_eq!((near.held_bytes(), near.has_buffered()), (0, false));
        assert_eq!(near.write(b"ping").unwrap(), 4);
        far.listen().unwrap();
        far.seal(b"pong");
        far.deliver();
        assert!(near.has_input());
        assert_eq!(read_available(&mut near), b"pong");
    }
    assert_eq!(far.received, b"pingpingping");
}

#[test]
fn what_a_full_socket_does_not_take_is_bounded_and_sent_later() {
    let (mut near, mut far) = established(&usual());
    let bytes = pattern(40_000_000);
    let mut taken = 0;
    while let Ok(count) = near.write(&bytes[taken..]) {
        taken += count;
    }
    assert!(taken < bytes.len(), "nobody reads");
    let most = SEALED_AT_ONCE_BYTES + 4 * MOST_EXPANSION_BYTES;
    assert!((1..=most).contains(&near.held_bytes()), "{}", near.held_bytes());
    while taken < bytes.len() || near.has_unsent() {
        far.listen().unwrap();
        near.go_on();
        match near.write(&bytes[taken..]) {
            Ok(count) => taken += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert_eq!(near.held_bytes(), 0);
    near.shutdown(Shutdown::Write).unwrap();
    while !far.has_ended {
        far.listen().unwrap();
        near.go_on();
    }
    assert!(far.received == bytes);
}

#[test]
fn a_reader_with_room_for_whole_records_leaves_nothing_behind() {
    let (mut near, mut far) = established(&usual());
    assert!(!near.has_input());
    let bytes = pattern(RECORD_BYTES);
    let mut buffer = vec![0; bytes.len()];
    for _ in 0..5 {
        far.seal(&bytes);
        far.seal(&bytes);
        far.deliver();
        for _ in 0..2 {
            assert_eq!(near.read(&mut buffer).unwrap(), bytes.len());
            assert!(buffer == bytes);
            assert_eq!((near.held_bytes(), near.has_buffered()), (0, false));
        }
    }
}

#[test]
fn a_reader_with_little_room_gets_everything_and_what_waits_is_bounded() {
    let (mut near, mut far) = established(&usual());
    let bytes = pattern(300_000);
    far.seal(&bytes);
    let sealed = std::mem::take(&mut far.outgoing);
    let (mut received, mut delivered, mut buffer) = (Vec::new(), 0, [0; 1500]);
    while received.len() < bytes.len() {
        delivered += far.socket.write(&sealed[delivered..]).unwrap_or(0);
        match near.read(&mut buffer) {
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(near.held_bytes() <= 3 * RECORD_BYTES, "{}", near.held_bytes());
    }
    assert!(received == bytes);
    assert_eq!(near.held_bytes(), 0);
}

#[test]
fn an_idle_connection_holds_little_beside_what_rustls_holds() {
    for versions in VERSIONS {
        let (mut near, mut far) = established(&pair(versions, None));
        near.write(&pattern(100_000)).unwrap();
        far.listen().unwrap();
        far.seal(&pattern(100_000));
        far.deliver();
        assert_eq!(read_available(&mut near).len(), 100_000);
        assert!(!near.has_input());
        assert_eq!(near.held_bytes(), 0);
        let own = size_of::<Tls>() - size_of::<Engine>();
        assert!(own <= 256, "{own} bytes");
    }
}

#[test]
fn a_second_connection_resumes_the_first_ones_session() {
    for versions in VERSIONS {
        let pair = pair(versions, None);
        let (mut near, _far) = established(&pair);
        assert!(!near.is_resumed());
        // The tickets of TLS 1.3 come after the handshake.
        assert!(!near.has_input());
        let (mut near, mut far) = established(&pair);
        assert!(near.is_resumed());
        assert!(near.engine.peers_certificate().is_some(), "channel bindings need it");
        far.seal(b"data");
        far.deliver();
        assert_eq!(read_available(&mut near), b"data");
    }
}

#[test]
fn a_rejected_certificate_is_a_failure_of_tls_and_the_server_is_told() {
    for versions in VERSIONS {
        let strangers = Pair { server: pair(versions, None).server, client: client_settings() };
        let (mut near, mut far) = ends(&strangers);
        let error = loop {
            match near.shake_hands() {
                Ok(is_complete) => assert!(!is_complete),
                Err(error) => break error,
            }
            far.listen().unwrap();
            far.deliver();
        };
        let found = TlsFailure::of_io(&error).map(|failure| failure.fault);
        assert_eq!(found, Some(TlsFault::UnknownIssuer), "{error}");
        assert_eq!(far.listen().unwrap_err(), Error::AlertReceived(AlertDescription::UnknownCA));
    }
}

#[test]
fn a_server_that_speaks_no_tls_is_an_error() {
    let (mut near, mut far) = ends(&usual());
    assert!(!near.shake_hands().unwrap());
    far.socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    let error = near.shake_hands().unwrap_err();
    let found = TlsFailure::of_io(&error).map(|failure| failure.fault);
    assert_eq!(found, Some(TlsFault::NotTls), "{error}");
}

#[test]
fn a_changed_record_is_an_error_after_the_bytes_before_it() {
    for versions in VERSIONS {
        let (mut near, mut far) = established(&pair(versions, None));
        far.seal(b"good");
        far.seal(b"evil");
        *far.outgoing.last_mut().unwrap() ^= 1;
        far.seal(b"more");
        far.deliver();
        let mut buffer = [0; 100];
        assert_eq!(near.read(&mut buffer).unwrap(), 4);
        assert!(near.has_buffered());
        assert_eq!(near.read(&mut buffer).unwrap_err().kind(), ErrorKind::InvalidData);
        assert!(far.listen().is_err(), "the peer is told");
        assert_eq!(near.held_bytes(), 0);
    }
}

#[test]
fn closing_ends_the_direction_unless_it_is_a_reset() {
    for versions in VERSIONS {
        let pair = pair(versions, None);
        let (mut near, mut far) = established(&pair);
        near.write(b"data").unwrap();
        drop(near);
        far.listen().unwrap();
        assert_eq!((far.received.as_slice(), far.has_ended), (&b"data"[..], true));

        let (mut near, mut far) = established(&pair);
        near.write(b"data").unwrap();
        near.reset_on_close();
        drop(near);
        assert!(far.listen().is_ok() && !far.has_ended);

        // The peer's end without its notice is a failure, and not answered with this end's.
        let (mut near, mut far) = established(&pair);
        assert!(!near.has_input());
        far.socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(near.read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(near.read(&mut [0; 10]).unwrap(), 0);
        assert_eq!(near.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
        drop(near);
        assert!(far.listen().is_ok() && !far.has_ended);
    }
}
