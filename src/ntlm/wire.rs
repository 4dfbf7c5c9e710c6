//! The elements common to all NTLM messages: signature, payload fields, strings, Version.
//!
//! A message consists of a fixed part and a payload. The fixed part refers to the payload by *payload fields* (length,
//! maximum length, offset). They are not trusted: every read goes through [`slice::get`], and a field that points
//! outside its message is an error.

use thiserror::Error;

/// The first eight bytes of every message (MS-NLMP 2.2.1).
pub(super) const SIGNATURE: [u8; 8] = *b"NTLMSSP\0";

/// Why bytes are not the expected NTLM message, or why a message cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MessageError {
    /// The message ends before the end of a field in its fixed part.
    #[error("the message has {length} bytes, but {field} needs {needed}")]
    Truncated {
        /// The incomplete field.
        field: &'static str,
        /// The length that the message needs to contain the field, in bytes.
        needed: usize,
        /// The length of the message, in bytes.
        length: usize,
    },
    /// The first eight bytes are not `NTLMSSP\0`.
    #[error("not an NTLM message: it does not begin with the signature NTLMSSP")]
    Signature,
    /// The message type is not the expected one, or does not exist.
    #[error("expected message type {expected}, got {got}")]
    Type {
        /// The expected type: 1, 2, 3, or a list of these.
        expected: &'static str,
        /// The type of the message.
        got: u32,
    },
    /// A payload field points outside the message, or into its fixed part.
    #[error("{field} has {length} bytes at offset {offset}, but the payload is within {start}..{end}")]
    OutOfBounds {
        /// The invalid field.
        field: &'static str,
        /// The length in the field, in bytes.
        length: usize,
        /// The offset in the field, in bytes.
        offset: usize,
        /// The smallest valid offset, in bytes.
        start: usize,
        /// The length of the message, in bytes.
        end: usize,
    },
    /// A UTF-16LE string has an odd number of bytes.
    #[error("{field} is UTF-16LE but has an odd length of {length} bytes")]
    OddLength {
        /// The name of the string.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// A value to be encoded is too long for a payload field, which allows 65,535 bytes.
    #[error("{field} has {length} bytes; a payload field holds at most 65535")]
    TooLong {
        /// The name of the value.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
}

/// The three message types (MS-NLMP 2.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    /// NEGOTIATE_MESSAGE, 1.
    Negotiate,
    /// CHALLENGE_MESSAGE, 2.
    Challenge,
    /// AUTHENTICATE_MESSAGE, 3.
    Authenticate,
}

impl MessageType {
    /// The type of `message`.
    ///
    /// # Errors
    /// [`MessageError::Truncated`], [`MessageError::Signature`], or [`MessageError::Type`] for a type other than 1 to
    /// 3.
    pub fn of(message: &[u8]) -> Result<Self, MessageError> {
        if read_array::<8>(message, 0, "Signature")? != SIGNATURE {
            return Err(MessageError::Signature);
        }
        match read_u32(message, 8, "MessageType")? {
            1 => Ok(Self::Negotiate),
            2 => Ok(Self::Challenge),
            3 => Ok(Self::Authenticate),
            got => Err(MessageError::Type { expected: "1, 2 or 3", got }),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Negotiate => 1,
            Self::Challenge => 2,
            Self::Authenticate => 3,
        }
    }

    /// Checks that `message` has this type.
    pub(super) fn expect(self, message: &[u8]) -> Result<(), MessageError> {
        let got = Self::of(message)?;
        if got == self {
            return Ok(());
        }
        let expected = match self {
            Self::Negotiate => "1",
            Self::Challenge => "2",
            Self::Authenticate => "3",
        };
        Err(MessageError::Type { expected, got: got.number() })
    }

    /// Appends the signature and the type, with which every message begins.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.beginning());
    }

    /// The signature and the type.
    pub(super) fn beginning(self) -> [u8; 12] {
        let mut beginning = [0; 12];
        let (signature, number) = beginning.split_at_mut(SIGNATURE.len());
        signature.copy_from_slice(&SIGNATURE);
        number.copy_from_slice(&self.number().to_le_bytes());
        beginning
    }
}

/// Reads `N` bytes at `offset`.
pub(super) fn read_array<const N: usize>(
    message: &[u8],
    offset: usize,
    field: &'static str,
) -> Result<[u8; N], MessageError> {
    message.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(MessageError::Truncated {
        field,
        needed: offset.saturating_add(N),
        length: message.len(),
    })
}

/// Reads a little-endian `u32` at `offset`.
pub(super) fn read_u32(message: &[u8], offset: usize, field: &'static str) -> Result<u32, MessageError> {
    read_array(message, offset, field).map(u32::from_le_bytes)
}

/// Length, maximum length and offset of a value in the payload: the eight bytes that MS-NLMP calls `…Fields`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PayloadField {
    pub name: &'static str,
    pub length: usize,
    pub max_length: usize,
    pub offset: usize,
}

impl PayloadField {
    /// The size of the field itself in the fixed part.
    pub const SIZE: usize = 8;

    /// Reads the field at `at`. Length and offset are not checked before [`PayloadField::of`].
    pub fn read(message: &[u8], at: usize, name: &'static str) -> Result<Self, MessageError> {
        let [l0, l1, m0, m1, o0, o1, o2, o3] = read_array::<8>(message, at, name)?;
        Ok(Self {
            name,
            length: usize::from(u16::from_le_bytes([l0, l1])),
            max_length: usize::from(u16::from_le_bytes([m0, m1])),
            offset: usize::try_from(u32::from_le_bytes([o0, o1, o2, o3])).unwrap_or(usize::MAX),
        })
    }

    /// The offset of the value; `None` if the field is empty, because the offset of an empty field has no meaning.
    pub fn start(&self) -> Option<usize> {
        (self.length > 0).then_some(self.offset)
    }

    /// The bytes of the value, which must be within the message and after its fixed part of `fixed` bytes.
    pub fn of<'a>(&self, message: &'a [u8], fixed: usize) -> Result<&'a [u8], MessageError> {
        if self.length == 0 {
            return Ok(&[]);
        }
        let error = MessageError::OutOfBounds {
            field: self.name,
            length: self.length,
            offset: self.offset,
            start: fixed,
            end: message.len(),
        };
        if self.offset < fixed {
            return Err(error);
        }
        message.get(self.offset..).and_then(|rest| rest.get(..self.length)).ok_or(error)
    }

    /// Writes a field for `value` at offset `*cursor`, and advances the cursor by the length of the value.
    pub fn write(out: &mut Vec<u8>, cursor: &mut usize, value: &[u8], field: &'static str) -> Result<(), MessageError> {
        out.extend_from_slice(&Self::encoded(value.len(), *cursor, field)?);
        *cursor += value.len();
        Ok(())
    }

    /// The field of a value of this length at this offset.
    pub fn encoded(length: usize, offset: usize, field: &'static str) -> Result<[u8; Self::SIZE], MessageError> {
        let too_long = || MessageError::TooLong { field, length };
        let [l0, l1] = u16::try_from(length).map_err(|_| too_long())?.to_le_bytes();
        let [o0, o1, o2, o3] = u32::try_from(offset).map_err(|_| too_long())?.to_le_bytes();
        Ok([l0, l1, l0, l1, o0, o1, o2, o3])
    }

    /// Writes the field of an absent value: all zeros.
    pub fn write_absent(out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; Self::SIZE]);
    }
}

/// The charset of the strings in a message (NTLMSSP_NEGOTIATE_UNICODE, NTLM_NEGOTIATE_OEM).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// UTF-16LE.
    Unicode,
    /// The sender's OEM code page, which the messages do not specify.
    Oem,
}

impl Charset {
    /// Decodes a string. Lone surrogates, and OEM bytes beyond ASCII, whose code page is unknown, become U+FFFD.
    ///
    /// # Errors
    /// [`MessageError::OddLength`] if it is UTF-16LE with an odd number of bytes.
    pub fn decode(self, bytes: &[u8], field: &'static str) -> Result<String, MessageError> {
        match self {
            Self::Unicode => {
                let (units, rest) = bytes.as_chunks::<2>();
                if !rest.is_empty() {
                    return Err(MessageError::OddLength { field, length: bytes.len() });
                }
                let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
                Ok(char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
            }
            Self::Oem => Ok(bytes
                .iter()
                .map(|byte| if byte.is_ascii() { char::from(*byte) } else { char::REPLACEMENT_CHARACTER })
                .collect()),
        }
    }
}

/// `text` as UTF-16LE.
pub(super) fn utf16le(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 * text.len());
    push_utf16le(&mut bytes, text);
    bytes
}

/// Appends `text` as UTF-16LE.
pub(super) fn push_utf16le(out: &mut Vec<u8>, text: &str) {
    match text.is_ascii() {
        true => out.extend(text.bytes().flat_map(|byte| [byte, 0])),
        false => out.extend(text.encode_utf16().flat_map(u16::to_le_bytes)),
    }
}

/// The VERSION structure (MS-NLMP 2.2.2.10), for debugging only. It must not affect processing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Version {
    /// ProductMajorVersion.
    pub major: u8,
    /// ProductMinorVersion.
    pub minor: u8,
    /// ProductBuild.
    pub build: u16,
    /// NTLMRevisionCurrent: 0x0f (NTLMSSP_REVISION_W2K3) on all current systems.
    pub revision: u8,
}

impl Version {
    /// The size of the structure in bytes.
    pub(super) const SIZE: usize = 8;

    /// Windows 10 22H2, a version that appliances which log it expect.
    pub const WINDOWS_10: Self = Self { major: 10, minor: 0, build: 19_045, revision: 0x0f };

    pub(super) fn read(message: &[u8], at: usize) -> Result<Self, MessageError> {
        let [major, minor, b0, b1, _, _, _, revision] = read_array::<8>(message, at, "Version")?;
        Ok(Self { major, minor, build: u16::from_le_bytes([b0, b1]), revision })
    }

    pub(super) fn to_bytes(self) -> [u8; Self::SIZE] {
        let [b0, b1] = self.build.to_le_bytes();
        [self.major, self.minor, b0, b1, 0, 0, 0, self.revision]
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{} build {}, NTLM revision {}", self.major, self.minor, self.build, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(length: usize, offset: usize) -> PayloadField {
        PayloadField { name: "X", length, max_length: length, offset }
    }

    #[test]
    fn a_field_may_end_with_the_message_and_not_after_it() {
        let message = [7; 20];
        assert_eq!(field(4, 16).of(&message, 12), Ok(&[7; 4][..]));
        assert!(matches!(field(5, 16).of(&message, 12), Err(MessageError::OutOfBounds { end: 20, .. })));
        assert!(field(1, usize::MAX).of(&message, 12).is_err());
        assert!(field(1, 20).of(&message, 12).is_err());
    }

    #[test]
    fn a_field_may_not_point_into_the_fixed_part() {
        assert!(field(1, 11).of(&[7; 20], 12).is_err());
    }

    #[test]
    fn an_empty_field_may_have_any_offset() {
        assert_eq!(field(0, usize::MAX).of(&[], 12), Ok(&[][..]));
        assert_eq!(field(0, 3).start(), None);
    }

    #[test]
    fn odd_utf16_is_an_error_and_oem_beyond_ascii_is_replaced() {
        assert_eq!(Charset::Unicode.decode(b"a\0b", "X"), Err(MessageError::OddLength { field: "X", length: 3 }));
        assert_eq!(Charset::Unicode.decode(b"a\0\0\xd8", "X").as_deref(), Ok("a\u{fffd}"));
        assert_eq!(Charset::Oem.decode(b"a\xe4", "X").as_deref(), Ok("a\u{fffd}"));
    }

    #[test]
    fn the_type_is_read_only_after_a_valid_signature() {
        assert_eq!(MessageType::of(b"NTLMSSP\0\x02\0\0\0"), Ok(MessageType::Challenge));
        assert_eq!(MessageType::of(b"NTLMSSP\0\x04\0\0\0"), Err(MessageError::Type { expected: "1, 2 or 3", got: 4 }));
        assert_eq!(MessageType::of(b"NTLMSSP!\x02\0\0\0"), Err(MessageError::Signature));
        assert!(matches!(MessageType::of(b"NTLMSSP\0\x02"), Err(MessageError::Truncated { .. })));
    }
}
