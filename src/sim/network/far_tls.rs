//! The peer's end of TLS: rustls' server with its buffered interface, so that the gateway's way of driving rustls meets
//! another one.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::{Error, ProtocolVersion, ServerConfig, ServerConnection};

use super::Network;
use super::wire::{Buffer, End, Wire};
use crate::sim::rng::Rng;

/// What is read from the network at once: rustls takes no more while decrypted bytes wait.
const PIECE_BYTES: usize = 4096;

/// How a server of a TLS connection behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsTraits {
    /// It takes notice of the client only at this time, in µs.
    pub begins_at_us: u64,
    /// It changes its keys once in this many writes.
    pub changes_keys: Option<u64>,
    pub oddity: Option<TlsOddity>,
}

/// How a server misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsOddity {
    /// Never answers the handshake.
    Silent,
    /// Ends the connection after this many bytes of its part of the handshake.
    CutsHandshake(usize, End),
    /// Does not speak TLS.
    SpeaksPlain,
    /// Ends its direction without saying so in TLS.
    Truncates,
    /// One in four of its records is changed on the way.
    Corrupts,
}

/// What happened with TLS, for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsCounts {
    pub new: u64,
    pub resumed: u64,
    pub failed: u64,
    pub truncated: u64,
    pub corrupted: u64,
    pub new_keys: u64,
}

impl TlsCounts {
    pub fn add(&mut self, more: &TlsCounts) {
        self.new += more.new;
        self.resumed += more.resumed;
        self.failed += more.failed;
        self.truncated += more.truncated;
        self.corrupted += more.corrupted;
        self.new_keys += more.new_keys;
    }
}

/// The peer's end of a connection.
#[derive(Debug)]
pub struct FarTls {
    connection: ServerConnection,
    traits: TlsTraits,
    is_established: bool,
    /// Decrypted and not read.
    plain: Buffer,
    /// The gateway has ended its direction.
    has_ended: bool,
    is_broken: bool,
    /// Some of what it has sent was changed on the way.
    is_corrupted: bool,
    /// What the gateway did wrong.
    pub wrong: Option<Error>,
}

impl FarTls {
    pub fn new(config: Arc<ServerConfig>, traits: TlsTraits) -> FarTls {
        FarTls {
            connection: ServerConnection::new(config).unwrap(),
            traits,
            is_established: false,
            plain: Buffer::default(),
            has_ended: false,
            is_broken: false,
            is_corrupted: false,
            wrong: None,
        }
    }

    fn truncates(&self) -> bool {
        self.traits.oddity == Some(TlsOddity::Truncates)
    }

    /// Processes one piece of what has arrived; `false` if there is none.
    fn take(&mut self, inbox: &mut Buffer) -> bool {
        let mut piece = inbox.front(PIECE_BYTES);
        if piece.is_empty() || self.is_broken || self.has_ended {
            return false;
        }
        let count = self.connection.read_tls(&mut piece).unwrap();
        inbox.drop_front(count);
        match self.connection.process_new_packets() {
            Ok(state) => self.has_ended |= state.peer_has_closed(),
            Err(error) => {
                self.is_broken = true;
                // The gateway says why it gives up.
                if !matches!(error, Error::AlertReceived(_)) {
                    self.wrong = Some(error);
                }
            }
        }
        let mut bytes = Vec::new();
        match self.connection.reader().read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            _ => self.plain.push(&bytes),
        }
        true
    }

    /// What rustls wants to send.
    fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Encrypts bytes.
    fn seal(&mut self, bytes: &[u8], rng: &mut Rng) -> bool {
        let may_change = self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let changes = may_change && self.traits.changes_keys.is_some_and(|times| rng.once_in(times));
        if changes {
            self.connection.refresh_traffic_keys().unwrap();
        }
        self.connection.writer().write_all(bytes).unwrap();
        changes
    }
}

impl Network {
    /// From now on the peer of a connection speaks TLS.
    pub fn secure(&mut self, id: usize, config: Arc<ServerConfig>, traits: TlsTraits) {
        self.wires[id].tls = Some(Box::new(FarTls::new(config, traits)));
        if traits.begins_at_us > self.now_us {
            self.wake_in(id, traits.begins_at_us - self.now_us);
        }
    }

    /// Whether the peer may say something: there is no TLS, or it is established. Advances its handshake.
    pub fn is_ready(&mut self, id: usize) -> bool {
        let Network { now_us, wires, tls_counts, .. } = self;
        let wire = &mut wires[id];
        let Some(tls) = &mut wire.tls else { return true };
        if tls.is_established {
            return true;
        }
        if wire.inbox_ended || wire.inbox_reset {
            if wire.sent_end.is_none() {
                self.peer_close(id);
            }
            return false;
        }
        if *now_us < tls.traits.begins_at_us || wire.sent_end.is_some() || tls.is_broken {
            return false;
        }
        let mut has_taken = false;
        while tls.connection.is_handshaking() && tls.take(&mut wire.inbox) {
            has_taken = true;
        }
        let (mut bytes, oddity) = (tls.outgoing(), tls.traits.oddity);
        let is_complete = !tls.connection.is_handshaking();
        let is_refused = tls.is_broken;
        let has_said_something = !bytes.is_empty();
        let mut end = None;
        match oddity {
            Some(TlsOddity::Silent) => bytes.clear(),
            Some(TlsOddity::SpeaksPlain) if has_said_something => {
                bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
                end = Some(End::Fin);
            }
            Some(TlsOddity::CutsHandshake(after, how)) if has_said_something => {
                bytes.truncate(after);
                end = Some(how);
            }
            _ if is_refused => end = Some(End::Fin),
            _ => {
                tls.is_established = is_complete;
                if is_complete {
                    let is_resumed = tls.connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
                    *(if is_resumed { &mut tls_counts.resumed } else { &mut tls_counts.new }) += 1;
                }
            }
        }
        let is_established = tls.is_established;
        self.send_raw(id, &bytes);
        if has_taken {
            self.carry_out(id);
        }
        if let Some(end) = end {
            self.tls_counts.failed += 1;
            self.end_raw(id, end);
        }
        is_established
    }

    /// Adds bytes to what the peer has sent, whether there is room or not: TLS adds some to what a peer writes.
    fn send_raw(&mut self, id: usize, bytes: &[u8]) {
        let wire = &mut self.wires[id];
        if !bytes.is_empty() && wire.sent_end.is_none() {
            wire.sent.push(bytes);
            self.trace.note(self.now_us, "peer writes", id, bytes.len());
            self.carry_in(id);
        }
    }

    /// Sends what the peer's rustls has to say.
    fn send_tls(&mut self, id: usize) {
        let bytes = self.wires[id].tls.as_mut().map(|tls| tls.outgoing()).unwrap_or_default();
        self.send_raw(id, &bytes);
    }

    /// A peer with TLS writes; returns how many bytes it could.
    pub(super) fn write_secured(&mut self, id: usize, bytes: &[u8]) -> usize {
        let Network { wires, rng, tls_counts, .. } = self;
        let wire = &mut wires[id];
        let room = wire.traits.sent_capacity.saturating_sub(wire.sent.len());
        let count = bytes.len().min(room).min(PIECE_BYTES * 4);
        let Some(tls) = &mut wire.tls else { return 0 };
        if count == 0 || !tls.is_established || tls.is_broken || wire.sent_end.is_some() {
            return 0;
        }
        tls_counts.new_keys += u64::from(tls.seal(&bytes[..count], rng));
        let mut sealed = tls.outgoing();
        if tls.traits.oddity == Some(TlsOddity::Corrupts)
            && rng.once_in(4)
            && let Some(last) = sealed.last_mut()
        {
            *last ^= 1;
            tls.is_corrupted = true;
            tls_counts.corrupted += 1;
        }
        self.send_raw(id, &sealed);
        count
    }

    /// A peer with TLS reads at most `most` bytes.
    pub(super) fn read_secured(&mut self, id: usize, most: usize, into: &mut Vec<u8>) -> usize {
        let Wire { tls: Some(tls), inbox, .. } = &mut self.wires[id] else { return 0 };
        let before = inbox.len();
        while tls.plain.is_empty() && tls.take(inbox) {}
        let has_taken = inbox.len() < before;
        let bytes = tls.plain.front(most);
        let count = bytes.len();
        into.extend_from_slice(bytes);
        tls.plain.drop_front(count);
        if has_taken {
            self.trace.note(self.now_us, "peer reads", id, count);
            self.send_tls(id);
            self.carry_out(id);
        }
        count
    }

    /// Says in TLS that the peer's direction ends.
    pub(super) fn say_goodbye(&mut self, id: usize) {
        let Some(tls) = &mut self.wires[id].tls else { return };
        if tls.is_established && !tls.is_broken && !tls.truncates() {
            tls.connection.send_close_notify();
            self.send_tls(id);
        } else {
            self.tls_counts.truncated += u64::from(tls.is_established);
        }
    }

    /// Whether the gateway's direction has ended cleanly, with TLS's notice if there is TLS, and the peer has read all.
    pub fn sees_end(&self, id: usize) -> bool {
        let wire = &self.wires[id];
        match &wire.tls {
            None => wire.inbox_ended && wire.inbox.is_empty() && !wire.inbox_reset,
            Some(tls) => tls.has_ended && tls.plain.is_empty() && !wire.inbox_reset,
        }
    }

    /// Whether the connection was reset, or has ended without TLS's notice, and the peer has read all.
    pub fn sees_reset(&self, id: usize) -> bool {
        let wire = &self.wires[id];
        match &wire.tls {
            None => wire.inbox_reset && wire.inbox.is_empty(),
            Some(tls) => {
                let is_over = wire.inbox_reset || wire.inbox_ended && !tls.has_ended;
                tls.plain.is_empty() && (tls.is_broken || wire.inbox.is_empty() && is_over)
            }
        }
    }

    /// Bytes that have come and that the peer has not read.
    pub fn unread(&self, id: usize) -> usize {
        let wire = &self.wires[id];
        wire.tls.as_ref().map_or(wire.inbox.len(), |tls| tls.plain.len())
    }

    /// Whether the end of the peer's direction is a clean one.
    pub fn ends_cleanly(&self, id: usize) -> bool {
        self.wires[id].tls.as_ref().is_none_or(|tls| !tls.truncates() && !tls.is_corrupted)
    }

    /// What the gateway did wrong in TLS.
    pub fn wrong_in_tls(&self) -> impl Iterator<Item = (usize, &Error)> {
        let wires = self.wires.iter().enumerate();
        wires.filter_map(|(id, wire)| Some((id, wire.tls.as_ref()?.wrong.as_ref()?)))
    }
}
