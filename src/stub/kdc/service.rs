//! The sockets of a KDC (RFC 4120 §7.2): datagrams, and messages behind their length on connections. One thread, which
//! never blocks, so that a slow client delays no other.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::Shared;
use crate::event::{Mailbox, Sender, mailbox};
use crate::kerberos::{KdcInputs, Timestamp};
use crate::limits;
use crate::stub::event_loop::{ACCEPT_PAUSE, file_time, is_of_one_connection};

const LISTENER: Token = Token(0);
const DATAGRAMS: Token = Token(1);
const MAILBOX: Token = Token(2);
/// The token of the connection in slot 0.
const FIRST_CONNECTION: usize = 3;

const EVENTS_PER_TURN: usize = 64;
/// Connections at once. Further ones are closed at once.
const CONNECTIONS: usize = 64;
/// How long a connection may take.
const CONNECTION_LIFE: Duration = Duration::from_secs(5);
/// How often a pair of free ports is looked for.
const PORT_TRIES: usize = 20;

/// The only message to the thread.
pub(super) struct Stop;

/// The thread's state.
pub(super) struct Service {
    poll: Poll,
    listener: TcpListener,
    datagrams: UdpSocket,
    mailbox: Mailbox<Stop>,
    address: SocketAddr,
    udp_reply_bytes: usize,
    shared: Arc<Mutex<Shared>>,
    connections: Slab<Connection>,
    /// When to accept again after a failure.
    accept_at: Option<Instant>,
    scratch: Vec<u8>,
}

/// A client's connection, for one request.
struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// What is left to send, once the request is answered.
    reply: Option<Vec<u8>>,
    until: Instant,
}

/// How a request arrived.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Udp,
    Tcp,
}

impl Service {
    /// Binds both sockets, and returns the sender that stops the thread.
    pub(super) fn new(
        listen: SocketAddr,
        udp_reply_bytes: usize,
        shared: Arc<Mutex<Shared>>,
    ) -> io::Result<(Service, Sender<Stop>)> {
        let (mut listener, mut datagrams) = bind(listen)?;
        let address = listener.local_addr()?;
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        poll.registry().register(&mut datagrams, DATAGRAMS, Interest::READABLE)?;
        let (stop, mailbox) = mailbox(poll.registry(), MAILBOX)?;
        let (connections, scratch) = (Slab::with_capacity(CONNECTIONS), vec![0; limits::KDC_DATAGRAM_BYTES]);
        let service = Service {
            poll,
            listener,
            datagrams,
            mailbox,
            address,
            udp_reply_bytes,
            shared,
            connections,
            accept_at: None,
            scratch,
        };
        Ok((service, stop))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        loop {
            if let Err(error) = self.poll.poll(&mut events, self.poll_timeout())
                && error.kind() != io::ErrorKind::Interrupted
            {
                return;
            }
            if self.mailbox.take().next().is_some() {
                return;
            }
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(now),
                    DATAGRAMS => self.answer_datagrams(),
                    MAILBOX => {}
                    Token(number) => self.turn(number - FIRST_CONNECTION),
                }
            }
            if self.accept_at.is_some_and(|moment| moment <= now) {
                self.accept(now);
            }
            self.connections.retain(|_, connection| connection.until > now);
        }
    }

    fn poll_timeout(&self) -> Option<Duration> {
        let ends = self.connections.iter().map(|(_, connection)| connection.until);
        let first = ends.chain(self.accept_at).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    fn accept(&mut self, now: Instant) {
        self.accept_at = None;
        loop {
            match self.listener.accept() {
                // A connection that cannot be registered, or is one too many, is dropped and so closed.
                Ok((stream, _)) if self.connections.len() < CONNECTIONS => drop(self.admit(stream, now)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => {
                    self.accept_at = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, mut stream: TcpStream, now: Instant) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let slot = self.connections.vacant_entry();
        let key = slot.key();
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(FIRST_CONNECTION + key), both)?;
        slot.insert(Connection { stream, received: Vec::new(), reply: None, until: now + CONNECTION_LIFE });
        self.turn(key);
        Ok(())
    }

    fn answer_datagrams(&mut self) {
        loop {
            let (length, client) = match self.datagrams.recv_from(&mut self.scratch) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The client of an earlier reply is gone.
                Err(_) => continue,
            };
            let request = self.scratch.get(..length).unwrap_or_default();
            if let Some(reply) = answer(&self.shared, request, Carrier::Udp, self.udp_reply_bytes) {
                // The client asks again if this reply is lost.
                let _ = self.datagrams.send_to(&reply, client);
            }
        }
    }

    /// Does what can be done on a connection, and drops it when it is over.
    fn turn(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if let Ok(false) = connection.advance(&self.shared, &mut self.scratch) {
            return;
        }
        self.connections.remove(key);
    }
}

impl Connection {
    /// Whether it is over.
    fn advance(&mut self, shared: &Mutex<Shared>, scratch: &mut [u8]) -> io::Result<bool> {
        if self.reply.is_none() && !self.read(scratch)? {
            return Ok(false);
        }
        let reply = match &mut self.reply {
            Some(reply) => reply,
            None => {
                let request = self.received.get(4..).unwrap_or_default();
                let Some(reply) = answer(shared, request, Carrier::Tcp, usize::MAX) else { return Ok(true) };
                let length = u32::try_from(reply.len()).map_err(io::Error::other)?;
                self.reply.insert([&length.to_be_bytes()[..], &reply].concat())
            }
        };
        while !reply.is_empty() {
            match self.stream.write(reply) {
                Ok(count) => drop(reply.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether the request is complete.
    fn read(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        loop {
            if let Some(length) = self.received.first_chunk::<4>() {
                let length = usize::try_from(u32::from_be_bytes(*length)).map_err(io::Error::other)?;
                if length > limits::KDC_MESSAGE_BYTES {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if self.received.len() >= 4 + length {
                    self.received.truncate(4 + length);
                    return Ok(true);
                }
            }
            match self.stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(scratch.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The reply to a request; `None` if it is no request, or the system has no randomness.
fn answer(shared: &Mutex<Shared>, request: &[u8], carrier: Carrier, longest_bytes: usize) -> Option<Vec<u8>> {
    let now = Timestamp::from_micros(file_time().unix_micros());
    let mut inputs = KdcInputs { now, session_key: [0; 32], confounders: [[0; 16]; 2] };
    getrandom::fill(&mut inputs.session_key).ok()?;
    getrandom::fill(inputs.confounders.as_flattened_mut()).ok()?;
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let answer = shared.kdc.answer(request, &inputs)?;
    if carrier == Carrier::Udp && answer.bytes.len() > longest_bytes {
        // The client asks again by TCP, and that is what counts.
        return Some(shared.kdc.too_long_for_udp(now));
    }
    shared.counts.count(answer.outcome);
    Some(answer.bytes)
}

/// A listener and a socket for datagrams on the same port.
fn bind(listen: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    let mut tries = PORT_TRIES;
    loop {
        let listener = TcpListener::bind(listen)?;
        match UdpSocket::bind(listener.local_addr()?) {
            Ok(datagrams) => return Ok((listener, datagrams)),
            // The system chose a port that is free for TCP only.
            Err(_) if listen.port() == 0 && tries > 0 => tries -= 1,
            Err(error) => return Err(error),
        }
    }
}
