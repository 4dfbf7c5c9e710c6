//! A ClientHello out of TLS records (RFC 8446 §5.1): it may be fragmented over several, and come in pieces of any size.

use std::borrow::Cow;

use super::client_hello::{self, HelloError, ServerName};

/// Longest ClientHello; with the headers of its records it may have twice as much. One with post-quantum key shares has
/// about 2 KiB, and tickets add a few more.
pub const HELLO_LIMIT_BYTES: usize = 64 * 1024;

/// The content type of a handshake record.
const HANDSHAKE: u8 = 22;

/// The type of a ClientHello.
const CLIENT_HELLO: u8 = 1;

/// Type, version and length of a record.
const RECORD_HEADER_BYTES: usize = 5;

/// Type and length of a handshake message.
const MESSAGE_HEADER_BYTES: usize = 4;

/// The longest fragment that a record may have.
const FRAGMENT_LIMIT: usize = 1 << 14;

/// What is remembered of a ClientHello of which not all has come. Each byte is looked at once until it is complete.
#[derive(Clone, Copy, Debug, Default)]
pub struct HelloReader {
    /// Where the first record begins of which not all has come.
    record: usize,
    /// The bytes of the message in the records before it.
    seen: usize,
    /// As much of the message's header as has been seen.
    header: [u8; MESSAGE_HEADER_BYTES],
}

impl HelloReader {
    /// Looks at all bytes that have come. Returns the name that the client asks for; `None` while more must come.
    ///
    /// # Errors
    /// [`HelloError`] as soon as the bytes cannot become a ClientHello that names a host, or names none.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<ServerName>, HelloError> {
        loop {
            let record = bytes.get(self.record..).unwrap_or_default();
            let Some(length) = fragment_length(record)? else { return Ok(None) };
            let fragment = &record[RECORD_HEADER_BYTES..];
            let fragment = &fragment[..length.min(fragment.len())];
            let walked = self.after(fragment);
            if let Some(message_length) = walked.message_length()?
                && walked.seen >= message_length
            {
                let surplus = walked.seen - message_length;
                within_bounds(self.record + RECORD_HEADER_BYTES + fragment.len() - surplus)?;
                let message = message(bytes, message_length);
                return client_hello::server_name(&message[MESSAGE_HEADER_BYTES..]).map(Some);
            }
            if fragment.len() < length {
                return within_bounds(bytes.len()).map(|()| None);
            }
            let next = self.record + RECORD_HEADER_BYTES + length;
            within_bounds(next)?;
            *self = HelloReader { record: next, ..walked };
        }
    }

    /// The state after the bytes of a fragment.
    fn after(self, fragment: &[u8]) -> HelloReader {
        let mut walked = self;
        let header = walked.header.iter_mut().skip(self.seen);
        header.zip(fragment).for_each(|(to, from)| *to = *from);
        walked.seen += fragment.len();
        walked
    }

    /// The length of the message with its header, once that has been seen.
    fn message_length(&self) -> Result<Option<usize>, HelloError> {
        let [kind, a, b, c] = self.header;
        if self.seen > 0 && kind != CLIENT_HELLO {
            return Err(HelloError::OtherMessage(kind));
        }
        if self.seen < MESSAGE_HEADER_BYTES {
            return Ok(None);
        }
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let length = MESSAGE_HEADER_BYTES + length;
        match length <= HELLO_LIMIT_BYTES {
            true => Ok(Some(length)),
            false => Err(HelloError::TooLong),
        }
    }
}

/// The length of the fragment of a record, once its header has come.
fn fragment_length(record: &[u8]) -> Result<Option<usize>, HelloError> {
    match *record {
        [kind, ..] if kind != HANDSHAKE => return Err(HelloError::NotHandshake),
        // Up to TLS 1.3 every version has this number here.
        [_, major, ..] if major != 3 => return Err(HelloError::NotHandshake),
        _ => {}
    }
    let Some(&[_, _, _, high, low]) = record.first_chunk::<RECORD_HEADER_BYTES>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    match (1..=FRAGMENT_LIMIT).contains(&length) {
        true => Ok(Some(length)),
        false => Err(HelloError::RecordLength),
    }
}

/// Tiny records must not make the headers larger than the message.
fn within_bounds(bytes: usize) -> Result<(), HelloError> {
    match bytes <= 2 * HELLO_LIMIT_BYTES {
        true => Ok(()),
        false => Err(HelloError::TooLong),
    }
}

/// A message of this length, which has come. Copied if it is fragmented.
fn message(bytes: &[u8], length: usize) -> Cow<'_, [u8]> {
    let mut message = Vec::new();
    let mut rest = bytes;
    while let Ok(Some(fragment_length)) = fragment_length(rest) {
        let fragment = &rest[RECORD_HEADER_BYTES..];
        let missing = length - message.len();
        if missing <= fragment_length.min(fragment.len()) {
            if message.is_empty() {
                return Cow::Borrowed(&fragment[..missing]);
            }
            message.extend_from_slice(&fragment[..missing]);
            break;
        }
        let (fragment, next) = fragment.split_at(fragment_length.min(fragment.len()));
        message.extend_from_slice(fragment);
        rest = next;
    }
    Cow::Owned(message)
}
