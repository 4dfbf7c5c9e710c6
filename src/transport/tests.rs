//! The contract between transports and their callers, over real loopback connections.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::framed::Framed;
use super::{BlockingStream, Endpoint, Readiness, SocketOptions, Transport};

const PATIENCE: Duration = Duration::from_secs(20);

/// Every transport, beside that of the simulated network.
fn all() -> [Transport; 3] {
    [Transport::Tcp, Transport::Framed, Transport::tls_for_tests()]
}

fn until() -> Instant {
    Instant::now() + PATIENCE
}

/// An end with a poll of its own, as a shard has it.
struct Near {
    poll: Poll,
    endpoint: Endpoint,
}

/// Two ends of a connection, the second one for a thread that may wait.
fn pair(transport: &Transport) -> (Near, BlockingStream) {
    let (listener, address) = listener();
    let for_far = transport.clone();
    let far = thread::spawn(move || for_far.complete_far(listener.accept().unwrap().0));
    let poll = Poll::new().unwrap();
    let endpoint = transport.connect(address, Token(0), &SocketOptions::default(), poll.registry()).unwrap();
    let mut near = Near { poll, endpoint };
    loop {
        match near.endpoint.connect_outcome() {
            Some(outcome) => break outcome.unwrap(),
            None => near.await_event(),
        }
    }
    (near, far.join().unwrap())
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

impl Near {
    fn await_event(&mut self) {
        assert!(self.event_within(PATIENCE), "no event came for {:?}", self.endpoint);
    }

    fn event_within(&mut self, patience: Duration) -> bool {
        let mut events = Events::with_capacity(8);
        self.poll.poll(&mut events, Some(patience)).unwrap();
        events.iter().for_each(|event| self.endpoint.learn(Readiness::of_event(event)));
        !events.is_empty()
    }

    /// Reads to the end in pieces of at most `piece_bytes`; waits only while the endpoint is not readable.
    fn read_to_end(&mut self, piece_bytes: usize) -> io::Result<Vec<u8>> {
        let (mut all, mut piece) = (Vec::new(), vec![0; piece_bytes]);
        loop {
            if !self.endpoint.ready.readable() {
                self.await_event();
            }
            match self.endpoint.read(&mut piece)? {
                Some(0) => return Ok(all),
                count => all.extend_from_slice(&piece[..count.unwrap_or(0)]),
            }
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(31) ^ (index >> 8)).to_le_bytes()[0]).collect()
}

fn read_to_end(far: &mut BlockingStream) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), vec![0; 4096]);
    loop {
        match far.read(&mut piece, until()).unwrap() {
            0 => return all,
            count => all.extend_from_slice(&piece[..count]),
        }
    }
}

#[test]
fn buffered_bytes_and_a_buffered_end_are_read_without_another_event() {
    for transport in all() {
        for piece_bytes in [1, 7, 999, 1_000, 65_536] {
            let (mut near, mut far) = pair(&transport);
            let bytes = pattern(if piece_bytes < 10 { 5_000 } else { 300_000 });
            let for_far = bytes.clone();
            let writer = thread::spawn(move || {
                far.write_all(&for_far, until()).unwrap();
                far.end().unwrap();
                // Still open the other way, so that no end of file of the socket announces the end.
                read_to_end(&mut far)
            });
            assert!(near.read_to_end(piece_bytes).unwrap() == bytes, "{transport:?} {piece_bytes}");
            assert_eq!(near.endpoint.held_bytes(), 0, "there are buffers without bytes in them");
            near.endpoint.stream.shutdown(Shutdown::Write).unwrap();
            writer.join().unwrap();
        }
    }
}

#[test]
fn bytes_and_the_end_arrive_though_the_socket_was_full() {
    for transport in all() {
        let (mut near, mut far) = pair(&transport);
        let bytes = pattern(20_000_000);
        let reader = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            read_to_end(&mut far)
        });
        let mut sent = 0;
        while sent < bytes.len() {
            if !near.endpoint.ready.writable() {
                near.await_event();
            }
            sent += near.endpoint.write(&bytes[sent..]).unwrap();
        }
        near.endpoint.stream.shutdown(Shutdown::Write).unwrap();
        // What the transport owes goes out with the events that come.
        while !reader.is_finished() {
            near.event_within(Duration::from_millis(20));
        }
        assert!(reader.join().unwrap() == bytes, "{transport:?}");
    }
}

#[test]
fn a_connection_is_not_writable_while_bytes_that_it_has_taken_wait_for_room() {
    for transport in all() {
        let (mut near, mut far) = pair(&transport);
        let bytes = pattern(20_000_000);
        let mut taken = 0;
        while near.endpoint.ready.writable() {
            taken += near.endpoint.write(&bytes[taken..]).unwrap();
        }
        assert!(taken < bytes.len(), "nobody reads");
        assert_eq!(near.endpoint.stream.has_unsent(), transport != Transport::Tcp, "a record is taken as a whole");
        // As if room had been reported, which there hardly is.
        near.endpoint.learn(Readiness::HOPEFUL);
        assert_eq!(near.endpoint.ready.writable(), !near.endpoint.stream.has_unsent());
        near.endpoint.stream.shutdown(Shutdown::Write).unwrap();
        let reader = thread::spawn(move || read_to_end(&mut far));
        while !reader.is_finished() {
            near.event_within(Duration::from_millis(20));
        }
        assert!(reader.join().unwrap() == bytes[..taken], "{transport:?}");
        assert!(!near.endpoint.stream.has_unsent());
    }
}

#[test]
fn messages_of_the_transport_itself_are_not_input() {
    let (mut near, mut far) = pair(&Transport::Framed);
    assert!(near.endpoint.is_at_rest());
    far.framed().send_ticket().unwrap();
    near.await_event();
    assert!(!near.endpoint.has_input() && near.endpoint.is_at_rest());
    far.framed().send_ticket().unwrap();
    far.write_all(b"bytes", until()).unwrap();
    while !near.endpoint.has_input() {
        near.await_event();
    }
    assert!(!near.endpoint.is_at_rest());
    far.end().unwrap();
    assert_eq!(near.read_to_end(100).unwrap(), b"bytes");
}

#[test]
fn an_unread_end_is_input() {
    for transport in all() {
        let (mut near, mut far) = pair(&transport);
        assert!(near.endpoint.is_at_rest(), "{transport:?}");
        far.end().unwrap();
        near.await_event();
        assert!(near.endpoint.has_input() && !near.endpoint.is_at_rest(), "{transport:?}");
    }
}

#[test]
fn a_transport_has_the_channel_bindings_of_its_connection_and_tcp_has_none() {
    for (transport, bindings) in [(Transport::Tcp, None), (Transport::Framed, Some(Framed::CHANNEL_BINDINGS))] {
        let (near, far) = pair(&transport);
        assert_eq!((near.endpoint.channel_bindings(), far.channel_bindings()), (bindings, bindings));
        assert_eq!(near.endpoint.stream.can_splice(), transport == Transport::Tcp);
    }
}

#[test]
fn a_blocking_read_ends_when_its_time_is_up() {
    for transport in all() {
        let (mut near, mut far) = pair(&transport);
        let error = far.read(&mut [0; 10], Instant::now() + Duration::from_millis(30)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        near.endpoint.write(b"late").unwrap();
        assert_eq!(far.read(&mut [0; 10], until()).unwrap(), 4, "the connection is still good");
    }
}

#[test]
fn connecting_includes_the_transports_own_handshake_and_its_time_is_bounded() {
    let (_listener, address) = listener();
    let short = Duration::from_millis(50);
    BlockingStream::connect(&Transport::Tcp, address, short).unwrap();
    // The kernel accepts, and nobody says hello.
    for transport in [Transport::Framed, Transport::tls_for_tests()] {
        let error = BlockingStream::connect(&transport, address, short).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::TimedOut, "connection timed out"));
    }
}

#[test]
fn a_refused_connection_is_an_error_at_once() {
    let (listener, address) = listener();
    drop(listener);
    for transport in all() {
        let error = BlockingStream::connect(&transport, address, PATIENCE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}
