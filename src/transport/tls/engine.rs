//! rustls, at either end of a connection, working on memory that its caller lends it.

use std::fmt;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};
use rustls::{CipherSuite, Error, HandshakeKind, ProtocolVersion, ServerConfig};

use super::kernel::Kernel;
use crate::tls::TlsSettings;

/// The longest plaintext of a record.
pub(super) const RECORD_BYTES: usize = 16 * 1024;

/// Type, version and length.
const HEADER_BYTES: usize = 5;

/// By how much the shortest encryption lengthens a plaintext: the tag, and in TLS 1.3 the type.
const LEAST_EXPANSION_BYTES: usize = 16;

/// The room that a handshake's messages are offered first.
const MESSAGE_BYTES: usize = 512;

/// Steps of rustls, of which each record takes at least one, after which other connections get their turn: about half a
/// millisecond. A peer may send records of one byte.
pub(super) const MOST_STEPS: usize = 512;

/// One end of a connection.
pub(super) enum Engine {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
    /// The kernel has the keys.
    Kernel(Box<Kernel>),
    /// It was lost when it was to be handed over to the kernel.
    Gone,
}

/// What is to be done.
pub(super) enum Task<'a> {
    /// Take what has come.
    Receive,
    /// Encrypt the bytes into the room.
    Seal { bytes: &'a [u8], room: &'a mut [u8] },
    /// Add the notice that nothing follows to the outgoing messages.
    Close,
}

/// Why rustls has stopped.
#[derive(Debug)]
pub(super) enum Halt {
    /// All records are processed, as far as they are complete.
    Hungry,
    /// The reader has no room for the next record, which is complete, or there were many records.
    Full,
    /// The task is done; so many bytes of its room are used.
    Done(usize),
    /// The room of the task has to be as large as this.
    NeedsRoom(usize),
    Failed(Error),
}

/// Where decrypted bytes go: to the reader as far as it has room, the rest aside.
pub(super) struct Sink<'a> {
    pub buffer: &'a mut [u8],
    pub filled: usize,
    pub aside: &'a mut Vec<u8>,
    /// The peer has ended its direction.
    pub has_ended: bool,
    /// Steps that rustls has taken.
    pub steps: usize,
}

impl<'a> Sink<'a> {
    pub(super) fn new(buffer: &'a mut [u8], aside: &'a mut Vec<u8>) -> Sink<'a> {
        Sink { buffer, filled: 0, aside, has_ended: false, steps: 0 }
    }

    pub(super) fn space(&self) -> usize {
        self.buffer.len() - self.filled
    }

    fn take(&mut self, payload: &[u8]) {
        let (for_reader, rest) = payload.split_at(payload.len().min(self.space()));
        if let Some(room) = self.buffer.get_mut(self.filled..self.filled + for_reader.len()) {
            room.copy_from_slice(for_reader);
            self.filled += for_reader.len();
        }
        self.aside.extend_from_slice(rest);
    }

    /// Whether to leave the next record encrypted, because decrypting it would need memory of its own. At least one is
    /// decrypted for a reader, however little it asks for.
    fn leaves(&self, incoming: &[u8]) -> bool {
        let has_enough = self.filled > 0 || !self.aside.is_empty();
        !self.buffer.is_empty() && has_enough && plaintext_bytes(incoming).is_some_and(|bytes| bytes > self.space())
    }
}

/// About how many bytes are in the next record, if it is complete; at least one.
fn plaintext_bytes(incoming: &[u8]) -> Option<usize> {
    let [_, _, _, high, low, rest @ ..] = incoming else { return None };
    let bytes = usize::from(u16::from_be_bytes([*high, *low]));
    (rest.len() >= bytes).then(|| bytes.saturating_sub(LEAST_EXPANSION_BYTES + 1).max(1))
}

/// How many bytes of the record that has begun are missing, as far as its header is there.
pub(super) fn missing_bytes(incoming: &[u8]) -> usize {
    match incoming {
        [_, _, _, high, low, rest @ ..] => usize::from(u16::from_be_bytes([*high, *low])).saturating_sub(rest.len()),
        _ => HEADER_BYTES,
    }
}

impl Engine {
    pub(super) fn client(settings: &TlsSettings) -> Result<Engine, Error> {
        let name = settings.server_name.clone();
        UnbufferedClientConnection::new(Arc::clone(&settings.config), name).map(Engine::Client)
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Engine, Error> {
        UnbufferedServerConnection::new(config).map(Engine::Server)
    }

    /// Works through `incoming`, as it was read from the socket, and returns how many bytes at its front are done with.
    /// What is not stays as it is now, changed in place, for the next call. Messages of TLS itself are added to
    /// `outgoing`.
    pub(super) fn advance(
        &mut self,
        incoming: &mut [u8],
        mut task: Task<'_>,
        sink: &mut Sink<'_>,
        outgoing: &mut Vec<u8>,
    ) -> (usize, Halt) {
        let mut used = 0;
        loop {
            let rest = incoming.get_mut(used..).unwrap_or_default();
            let has_enough = sink.leaves(rest) || sink.steps >= MOST_STEPS && !rest.is_empty();
            if matches!(task, Task::Receive) && has_enough {
                return (used, Halt::Full);
            }
            sink.steps += 1;
            let (done_with, halt) = match self {
                Engine::Client(client) => step(client.process_tls_records(rest), &mut task, sink, outgoing),
                Engine::Server(server) => step(server.process_tls_records(rest), &mut task, sink, outgoing),
                Engine::Kernel(_) | Engine::Gone => (0, Some(Halt::Failed(Error::HandshakeNotComplete))),
            };
            used += done_with;
            if let Some(halt) = halt {
                return (used, halt);
            }
        }
    }

    /// Adds the alert that tells the peer of a failure, if there is one; to be called once after [`Halt::Failed`], with
    /// what is left of the same bytes.
    pub(super) fn alert(&mut self, incoming: &mut [u8], outgoing: &mut Vec<u8>) {
        let mut aside = Vec::new();
        let (mut task, sink) = (Task::Receive, &mut Sink::new(&mut [], &mut aside));
        match self {
            Engine::Client(client) => step(client.process_tls_records(incoming), &mut task, sink, outgoing),
            Engine::Server(server) => step(server.process_tls_records(incoming), &mut task, sink, outgoing),
            Engine::Kernel(_) | Engine::Gone => (0, None),
        };
    }

    pub(super) fn is_handshaking(&self) -> bool {
        match self {
            Engine::Client(client) => client.is_handshaking(),
            Engine::Server(server) => server.is_handshaking(),
            Engine::Kernel(_) | Engine::Gone => false,
        }
    }

    /// Whether the protocol, once it is negotiated, knows renegotiation.
    pub(super) fn may_renegotiate(&self) -> bool {
        let version = match self {
            Engine::Client(client) => client.protocol_version(),
            Engine::Server(server) => server.protocol_version(),
            Engine::Kernel(kernel) => return kernel.may_renegotiate(),
            Engine::Gone => None,
        };
        version == Some(ProtocolVersion::TLSv1_2)
    }

    pub(super) fn is_resumed(&self) -> bool {
        let kind = match self {
            Engine::Client(client) => client.handshake_kind(),
            Engine::Server(server) => server.handshake_kind(),
            Engine::Kernel(kernel) => return kernel.is_resumed(),
            Engine::Gone => None,
        };
        kind == Some(HandshakeKind::Resumed)
    }

    /// The certificate of the other end.
    pub(super) fn peers_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Engine::Client(client) => client.peer_certificates()?.first(),
            Engine::Server(server) => server.peer_certificates()?.first(),
            Engine::Kernel(_) | Engine::Gone => None,
        }
    }

    /// Whether the kernel can take over what was negotiated: a client's end with AES-GCM.
    pub(super) fn fits_kernel(&self) -> bool {
        let Engine::Client(client) = self else { return false };
        let suite = client.negotiated_cipher_suite().map(|suite| suite.suite());
        matches!(
            suite,
            Some(
                CipherSuite::TLS13_AES_128_GCM_SHA256
                    | CipherSuite::TLS13_AES_256_GCM_SHA384
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                    | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
            )
        )
    }

    /// Asks rustls for new keys of this end, and the peer for its own.
    #[cfg(test)]
    pub(super) fn update_keys(&mut self) {
        fn refresh<Data>(status: UnbufferedStatus<'_, '_, Data>) {
            match status.state {
                Ok(ConnectionState::WriteTraffic(traffic)) => traffic.refresh_traffic_keys().unwrap(),
                other => panic!("{other:?}"),
            }
        }
        match self {
            Engine::Client(client) => refresh(client.process_tls_records(&mut [])),
            Engine::Server(server) => refresh(server.process_tls_records(&mut [])),
            Engine::Kernel(_) | Engine::Gone => panic!("rustls does not have the keys"),
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Engine::Client(_) => "Client",
            Engine::Server(_) => "Server",
            Engine::Kernel(_) => "Kernel",
            Engine::Gone => "Gone",
        })
    }
}

/// Handles one state of rustls; returns the bytes that are done with, and why to stop, if it has to.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    task: &mut Task<'_>,
    sink: &mut Sink<'_>,
    outgoing: &mut Vec<u8>,
) -> (usize, Option<Halt>) {
    let UnbufferedStatus { mut discard, state } = status;
    let halt = match state {
        Err(error) => Some(Halt::Failed(error)),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    sink.take(record.payload);
                    discard += record.discard;
                }
                Some(Err(error)) => break Some(Halt::Failed(error)),
                None => break None,
            }
        },
        Ok(ConnectionState::EncodeTlsData(message)) => encode(message, outgoing),
        // It is among the outgoing messages, which are sent in order.
        Ok(ConnectionState::TransmitTlsData(message)) => {
            message.done();
            None
        }
        Ok(ConnectionState::PeerClosed) => {
            sink.has_ended = true;
            None
        }
        Ok(ConnectionState::WriteTraffic(mut traffic)) => Some(match task {
            Task::Receive => Halt::Hungry,
            Task::Seal { bytes, room } => match traffic.encrypt(bytes, room) {
                Ok(count) => Halt::Done(count),
                Err(EncryptError::InsufficientSize(error)) => Halt::NeedsRoom(error.required_size),
                Err(EncryptError::EncryptExhausted) => Halt::Failed(Error::EncryptError),
            },
            Task::Close => {
                let start = outgoing.len();
                outgoing.resize(start + MESSAGE_BYTES, 0);
                let written = traffic.queue_close_notify(outgoing.get_mut(start..).unwrap_or_default());
                outgoing.truncate(start + written.as_ref().map_or(0, |count| *count));
                written.map_or(Halt::Failed(Error::EncryptError), Halt::Done)
            }
        }),
        Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Some(Halt::Hungry),
        // Early data, which no configuration of ours allows.
        Ok(_) => Some(Halt::Failed(Error::General("unexpected state".into()))),
    };
    (discard, halt)
}

/// Appends a handshake message to `outgoing`.
fn encode<Data>(mut message: EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) -> Option<Halt> {
    let (start, mut room) = (outgoing.len(), MESSAGE_BYTES);
    loop {
        outgoing.resize(start + room, 0);
        match message.encode(outgoing.get_mut(start..).unwrap_or_default()) {
            Ok(count) => {
                outgoing.truncate(start + count);
                return None;
            }
            Err(EncodeError::InsufficientSize(error)) if error.required_size > room => room = error.required_size,
            Err(error) => return Some(Halt::Failed(Error::General(error.to_string()))),
        }
    }
}
