//! A connection whose records the kernel encrypts and decrypts, so that its bytes can be spliced.
//!
//! rustls makes the handshake. When the relay is about to splice, the keys go to the kernel: at a boundary of records,
//! because the kernel takes whole records only. From then on the socket's bytes are the caller's. What is left to do
//! here are records of other types: session tickets go to rustls, alerts become ends or errors.

use std::cell::Cell;
use std::io::{self, ErrorKind, Write as _};
use std::net::TcpStream;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::{AlertDescription, ContentType, Error, HandshakeKind, InvalidMessage, ProtocolVersion};

use super::engine::{Engine, Halt, MOST_STEPS, RECORD_BYTES, Task};
use super::kernel_socket::{self as socket, ALERT, Keys, RecordType};
use super::receive::INCOMING;
use super::{
    End, LEAST_READ_BYTES, MOST_INCOMPLETE_BYTES, Tls, WriteSide, excessive, failure, kernel_support, truncated,
};
use crate::tls::{TlsFailure, TlsFault};
use crate::transport::Stream;

/// At most so many records are encrypted with one key (RFC 8446 §5.5, and rustls' limit). The kernel does not count.
const MOST_RECORDS: u32 = 1 << 24;

const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const UNEXPECTED_MESSAGE: u8 = 10;
const USER_CANCELED: u8 = 90;
const NO_RENEGOTIATION: u8 = 100;

const HELLO_REQUEST: u8 = 0;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// How far a connection is on its way to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandOver {
    /// It stays in user space.
    Never,
    /// Once it has bulk data.
    WithBulk,
    /// At the next boundary of records.
    Soon,
}

/// What is kept of a connection that was handed over.
pub(super) struct Kernel {
    rustls: KernelConnection<ClientConnectionData>,
    is_resumed: bool,
    /// The beginning of a message of TLS itself that has not come whole, and its type.
    message: Vec<u8>,
    message_type: RecordType,
    /// The socket was not found empty.
    may_have_more: bool,
    /// How many records may still be encrypted.
    records_left: Cell<u32>,
}

/// What a message of TLS itself means for the connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Nothing,
    Ended,
    NeedsAnswer { level: u8, description: u8 },
}

impl Kernel {
    /// Takes the keys out of rustls, which has nothing to send: those to encrypt with, and those to decrypt with.
    pub(super) fn new(client: UnbufferedClientConnection) -> io::Result<(Kernel, [Keys; 2])> {
        let is_resumed = client.handshake_kind() == Some(HandshakeKind::Resumed);
        let (secrets, rustls) = client.dangerous_into_kernel_connection().map_err(failure)?;
        let version = rustls.protocol_version();
        let keys = |(sequence, secrets)| Keys::new(version, sequence, &secrets).ok_or(ErrorKind::Unsupported);
        let kernel = Kernel {
            rustls,
            is_resumed,
            message: Vec::new(),
            message_type: RecordType::Handshake,
            may_have_more: true,
            records_left: Cell::new(MOST_RECORDS),
        };
        Ok((kernel, [keys(secrets.tx)?, keys(secrets.rx)?]))
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    pub(super) fn may_have_more(&self) -> bool {
        self.may_have_more
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.message.capacity()
    }

    pub(super) fn may_renegotiate(&self) -> bool {
        self.rustls.protocol_version() == ProtocolVersion::TLSv1_2
    }

    /// Takes a piece of a record that is not data, and handles the messages that it completes. Counts them in `steps`.
    pub(super) fn take(
        &mut self,
        record_type: RecordType,
        piece: &[u8],
        steps: &mut usize,
    ) -> Result<Message, io::Error> {
        if !self.message.is_empty() && self.message_type != record_type {
            return Err(misplaced());
        }
        self.message_type = record_type;
        let mut messages = std::mem::take(&mut self.message);
        messages.extend_from_slice(piece);
        let (mut used, mut outcome) = (0, Message::Nothing);
        while let Some((message, count)) = next_message(record_type, messages.get(used..).unwrap_or_default())? {
            *steps += 1;
            used += count;
            match self.handle(message)? {
                Message::Nothing => {}
                Message::Ended => return Ok(Message::Ended),
                answer => outcome = answer,
            }
        }
        if used < messages.len() {
            messages.drain(..used);
            self.message = messages;
        }
        Ok(outcome)
    }

    fn handle(&mut self, message: Told<'_>) -> Result<Message, io::Error> {
        match message {
            Told::Alert { description: CLOSE_NOTIFY, .. } => Ok(Message::Ended),
            // Warnings end nothing in TLS 1.2; TLS 1.3 has only this one.
            Told::Alert { level: WARNING, description } if self.may_renegotiate() || description == USER_CANCELED => {
                Ok(Message::Nothing)
            }
            Told::Alert { description, .. } => Err(failure(Error::AlertReceived(AlertDescription::from(description)))),
            Told::Handshake { kind: NEW_SESSION_TICKET, body } => {
                self.rustls.handle_new_session_ticket(body).map_err(failure)?;
                Ok(Message::Nothing)
            }
            Told::Handshake { kind: HELLO_REQUEST, .. } if self.may_renegotiate() => {
                Ok(Message::NeedsAnswer { level: WARNING, description: NO_RENEGOTIATION })
            }
            Told::Handshake { kind: KEY_UPDATE, .. } => Err(new_keys()),
            Told::Handshake { .. } => Err(misplaced()),
        }
    }

    fn count_sent(&self, bytes: usize) {
        // Each call ends a record.
        let records = u32::try_from(bytes / RECORD_BYTES + 1).unwrap_or(u32::MAX);
        self.records_left.set(self.records_left.get().saturating_sub(records));
    }
}

/// A message of TLS itself.
#[derive(Debug, PartialEq, Eq)]
enum Told<'a> {
    Alert { level: u8, description: u8 },
    Handshake { kind: u8, body: &'a [u8] },
}

/// The first message in the payload of records of a type, if it is complete, and its length with its header.
fn next_message(record_type: RecordType, payload: &[u8]) -> io::Result<Option<(Told<'_>, usize)>> {
    match (record_type, payload) {
        (RecordType::Alert, [level, description, ..]) => {
            Ok(Some((Told::Alert { level: *level, description: *description }, 2)))
        }
        (RecordType::Handshake, [kind, high, middle, low, rest @ ..]) => {
            let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
            if length > MOST_INCOMPLETE_BYTES {
                return Err(excessive());
            }
            Ok(rest.get(..length).map(|body| (Told::Handshake { kind: *kind, body }, 4 + length)))
        }
        (RecordType::Alert | RecordType::Handshake, _) => Ok(None),
        _ => Err(misplaced()),
    }
}

/// How many bytes are missing to the end of the record that has begun, or of its header; `None` if that is not known.
pub(super) fn bytes_to_boundary(incoming: &[u8]) -> Option<usize> {
    const HEADER_BYTES: usize = 5;
    match incoming {
        [_, _, _, high, low, rest @ ..] => {
            let missing = usize::from(u16::from_be_bytes([*high, *low])).checked_sub(rest.len())?;
            (missing > 0).then_some(missing)
        }
        _ => Some(HEADER_BYTES - incoming.len()),
    }
}

impl Tls {
    /// Whether the kernel has the keys, and nothing is left in user space.
    pub fn can_splice(&self) -> bool {
        match &self.engine {
            Engine::Kernel(_) => self.plain.is_empty(),
            _ => false,
        }
    }

    /// The caller has bulk data: hands the connection over to the kernel, now or at the next boundary of records.
    /// Returns whether it can be spliced.
    #[inline(never)]
    pub fn prepare_splice(&mut self) -> bool {
        if self.hand_over != HandOver::Never {
            // The kernel takes only connections that are open both ways.
            self.hand_over = if self.is_open() { HandOver::Soon } else { HandOver::Never };
        }
        self.perhaps_hand_over();
        self.can_splice() && !self.has_worn_keys()
    }

    /// No more may be encrypted. A write says so.
    fn has_worn_keys(&self) -> bool {
        matches!(&self.engine, Engine::Kernel(kernel) if kernel.records_left.get() == 0)
    }

    /// Neither direction has ended.
    fn is_open(&self) -> bool {
        matches!(self.end, End::Open) && self.write == WriteSide::Open
    }

    /// So many bytes were spliced to the socket.
    #[inline(never)]
    pub fn count_spliced(&self, bytes: usize) {
        if let Engine::Kernel(kernel) = &self.engine {
            kernel.count_sent(bytes);
        }
    }

    /// Hands the connection over if that is wanted and both directions are at a boundary of records.
    #[inline]
    pub(super) fn perhaps_hand_over(&mut self) {
        if self.hand_over == HandOver::Soon {
            self.try_hand_over();
        }
    }

    #[cold]
    fn try_hand_over(&mut self) {
        let has_nothing = self.incoming.is_empty() && self.plain.is_empty() && self.outgoing.is_empty();
        let is_open = self.is_established && self.is_open();
        if !has_nothing || !is_open {
            return;
        }
        let Stream::Tcp(socket) = &self.carrier else { return self.hand_over = HandOver::Never };
        if !self.engine.fits_kernel() || !kernel_support::is_available() || socket::attach(socket).is_err() {
            return self.hand_over = HandOver::Never;
        }
        if !self.has_flushed_key_update() {
            return;
        }
        self.hand_over = HandOver::Never;
        if let Err(error) = self.give_keys() {
            self.end = End::Pending(Err(error));
        }
    }

    /// An answer to the peer's KeyUpdate waits in rustls for the next data. It would be lost, and what follows it is
    /// encrypted with new keys. Data that does not fit into its room brings it out.
    pub(super) fn has_flushed_key_update(&mut self) -> bool {
        let is_as_expected = matches!(self.perform(Task::Seal { bytes: b"\0", room: &mut [] }), Halt::NeedsRoom(_))
            && matches!(self.perform(Task::Receive), Halt::Hungry);
        if !is_as_expected {
            self.hand_over = HandOver::Never;
        }
        is_as_expected && self.send().is_ok()
    }

    /// From here on the connection cannot stay in user space, because rustls gives away what it has.
    pub(super) fn give_keys(&mut self) -> io::Result<()> {
        let Engine::Client(client) = std::mem::replace(&mut self.engine, Engine::Gone) else {
            return Err(ErrorKind::Unsupported.into());
        };
        let Stream::Tcp(socket) = &self.carrier else { return Err(ErrorKind::Unsupported.into()) };
        let (kernel, [encrypting, decrypting]) = Kernel::new(client)?;
        if let Err(error) = encrypting.encrypt(socket).and_then(|()| decrypting.decrypt(socket)) {
            kernel_support::switch_off(&error);
            return Err(error);
        }
        self.engine = Engine::Kernel(Box::new(kernel));
        Ok(())
    }

    /// The socket of a connection that was handed over.
    fn kernel_socket(&self) -> io::Result<&TcpStream> {
        match (&self.engine, &self.carrier) {
            (Engine::Kernel(_), Stream::Tcp(socket)) => Ok(socket),
            _ => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// As [`Tls::work`] with the goal to read, for a connection that was handed over.
    pub(super) fn read_from_kernel(&mut self, room: &mut [u8]) -> usize {
        let mut steps = 0;
        let mut count = 0;
        while matches!(self.end, End::Open) {
            match self.kernel_socket().and_then(|socket| socket::receive(socket, room)) {
                Ok((RecordType::ApplicationData, 0)) => self.end = End::Pending(Err(truncated())),
                Ok((RecordType::ApplicationData, some)) => {
                    self.set_may_have_more(true);
                    count = some;
                    break;
                }
                Ok((record_type, some)) => {
                    steps += 1;
                    self.take_message(record_type, room.get(..some).unwrap_or_default(), &mut steps);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.set_may_have_more(false);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.end = End::Pending(Err(named(error))),
            }
        }
        self.steps = u16::try_from(steps).unwrap_or(u16::MAX);
        count
    }

    /// Reads a little, to know whether there is anything.
    pub(super) fn look_at_kernel(&mut self) {
        INCOMING.with_borrow_mut(|room| {
            let room = super::make_room(room, LEAST_READ_BYTES);
            let count = self.read_from_kernel(room);
            self.plain = room.get(..count).unwrap_or_default().to_vec();
        });
    }

    fn set_may_have_more(&mut self, may_have_more: bool) {
        if let Engine::Kernel(kernel) = &mut self.engine {
            kernel.may_have_more = may_have_more;
        }
    }

    fn take_message(&mut self, record_type: RecordType, piece: &[u8], steps: &mut usize) {
        let Engine::Kernel(kernel) = &mut self.engine else { return };
        let outcome = kernel.take(record_type, piece, steps);
        let may_renegotiate = kernel.may_renegotiate();
        match outcome {
            Ok(_) if *steps >= MOST_STEPS => self.end = End::Pending(Err(excessive())),
            Ok(Message::Nothing) => {}
            Ok(Message::Ended) => self.end = End::Pending(Ok(())),
            Ok(Message::NeedsAnswer { level, description }) => self.send_alert(level, description),
            Err(error) => {
                let of_rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
                if !matches!(of_rustls, Some(Error::AlertReceived(_))) {
                    self.send_alert(FATAL, UNEXPECTED_MESSAGE);
                }
                let error = match (of_rustls, &self.settings) {
                    (Some(of_rustls), Some(settings)) => settings.failure(of_rustls, may_renegotiate),
                    _ => error,
                };
                self.end = End::Pending(Err(error));
            }
        }
    }

    /// Best effort: the peer may be gone, or read nothing.
    fn send_alert(&self, level: u8, description: u8) {
        if let Ok(socket) = self.kernel_socket() {
            let _ = socket::send_record(socket, ALERT, &[level, description]);
        }
    }

    pub(super) fn write_to_kernel(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.write != WriteSide::Open || self.is_broken() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let Engine::Kernel(kernel) = &self.engine else { return Err(ErrorKind::NotConnected.into()) };
        if self.has_worn_keys() {
            return Err(worn_keys());
        }
        let count = self.carrier.write(bytes)?;
        kernel.count_sent(count);
        Ok(count)
    }

    /// Sends the notice that this direction ends, if the socket has room for it.
    ///
    /// The kernel may still hold a record that the socket did not take. It goes out before the notice, and is lost if
    /// the socket is shut down or closed before. So the notice waits for room, and is what ends this direction: the
    /// socket's own end follows when it is closed.
    pub(super) fn end_at_kernel(&mut self) -> io::Result<()> {
        let socket = self.kernel_socket()?;
        if !socket::has_room(socket) {
            return Err(ErrorKind::WouldBlock.into());
        }
        socket::send_record(socket, ALERT, &[WARNING, CLOSE_NOTIFY])?;
        self.write = WriteSide::Ended;
        Ok(())
    }
}

fn misplaced() -> io::Error {
    let expect_types = vec![ContentType::ApplicationData];
    failure(Error::InappropriateMessage { expect_types, got_type: ContentType::Handshake })
}

fn of_kernel(detail: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, TlsFailure { fault: TlsFault::Failed, detail: detail.to_owned() })
}

/// The kernel cannot change the keys of a connection before Linux 6.14, and does not ask for it.
fn new_keys() -> io::Error {
    of_kernel(
        "the proxy has changed its keys (a KeyUpdate of TLS 1.3), which is not possible with kernel TLS; set tls.kernel \
         to false",
    )
}

fn worn_keys() -> io::Error {
    of_kernel(
        "the connection has sent as many records as one key may encrypt, and kernel TLS cannot change it; for such long \
         transfers set tls.kernel to false",
    )
}

/// The kernel's errors that are about a record.
fn named(error: io::Error) -> io::Error {
    use nix::libc::{EBADMSG, EINVAL, EMSGSIZE};
    match error.raw_os_error() {
        Some(EBADMSG) => failure(Error::DecryptError),
        Some(EMSGSIZE | EINVAL) => failure(InvalidMessage::MessageTooLarge.into()),
        _ => error,
    }
}
