//! AV_PAIR lists, which TargetInfo and the NTLMv2 response contain (MS-NLMP 2.2.2.1).
//!
//! A list is a sequence of pairs (id, length, value) terminated by MsvAvEOL. Strings in it are always UTF-16LE,
//! whatever the charset of the message.

use std::fmt;

use thiserror::Error;

use super::file_time::FileTime;
use super::wire::{Charset, MessageError, push_utf16le, utf16le};

/// AvId and AvLen.
const PAIR_HEADER_BYTES: usize = 4;

/// The id of an AV_PAIR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AvId {
    /// MsvAvEOL, 0: terminates the list.
    Eol,
    /// MsvAvNbComputerName, 1.
    NbComputerName,
    /// MsvAvNbDomainName, 2.
    NbDomainName,
    /// MsvAvDnsComputerName, 3.
    DnsComputerName,
    /// MsvAvDnsDomainName, 4.
    DnsDomainName,
    /// MsvAvDnsTreeName, 5.
    DnsTreeName,
    /// MsvAvFlags, 6: 32 bits. 0x2 indicates that the AUTHENTICATE_MESSAGE has a MIC.
    Flags,
    /// MsvAvTimestamp, 7: the server's FILETIME.
    Timestamp,
    /// MsvAvSingleHost, 8.
    SingleHost,
    /// MsvAvTargetName, 9: the SPN of the server that the client intends to reach.
    TargetName,
    /// MsvAvChannelBindings, 10: an MD5 hash of the channel bindings.
    ChannelBindings,
    /// An id that the specification does not define.
    Other(u16),
}

impl AvId {
    /// The id with this number.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Eol,
            1 => Self::NbComputerName,
            2 => Self::NbDomainName,
            3 => Self::DnsComputerName,
            4 => Self::DnsDomainName,
            5 => Self::DnsTreeName,
            6 => Self::Flags,
            7 => Self::Timestamp,
            8 => Self::SingleHost,
            9 => Self::TargetName,
            10 => Self::ChannelBindings,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Eol => 0,
            Self::NbComputerName => 1,
            Self::NbDomainName => 2,
            Self::DnsComputerName => 3,
            Self::DnsDomainName => 4,
            Self::DnsTreeName => 5,
            Self::Flags => 6,
            Self::Timestamp => 7,
            Self::SingleHost => 8,
            Self::TargetName => 9,
            Self::ChannelBindings => 10,
            Self::Other(number) => number,
        }
    }

    /// Whether the value is a UTF-16LE string.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(
            self,
            Self::NbComputerName
                | Self::NbDomainName
                | Self::DnsComputerName
                | Self::DnsDomainName
                | Self::DnsTreeName
                | Self::TargetName
        )
    }
}

impl fmt::Display for AvId {
    /// The name in MS-NLMP, `MsvAv…`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(number) => write!(f, "AvId {number}"),
            Self::Eol => f.write_str("MsvAvEOL"),
            named => write!(f, "MsvAv{named:?}"),
        }
    }
}

/// Why an AV_PAIR list is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AvError {
    /// The list ends without MsvAvEOL.
    #[error("the AV_PAIR list ends at byte {at} without MsvAvEOL")]
    NoEol {
        /// The offset at which another pair was expected.
        at: usize,
    },
    /// A pair extends beyond the end of the list.
    #[error("{id} at byte {at} has length {length}, but only {left} bytes of the list are left")]
    Overrun {
        /// The id of the pair.
        id: AvId,
        /// The offset of the pair.
        at: usize,
        /// The length in its header, in bytes.
        length: usize,
        /// How many bytes follow its header.
        left: usize,
    },
    /// A value of fixed size has another size.
    #[error("{id} has {got} bytes, expected {expected}")]
    Length {
        /// The id of the pair.
        id: AvId,
        /// The size in the specification, in bytes.
        expected: usize,
        /// The actual size, in bytes.
        got: usize,
    },
}

/// One AV_PAIR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AvPair<'a> {
    /// The meaning of the value.
    pub id: AvId,
    /// The bytes of the value.
    pub value: &'a [u8],
}

impl AvPair<'_> {
    /// The value as text; `None` if the id is not that of a text, or the length is odd.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        if !self.id.is_text() {
            return None;
        }
        Charset::Unicode.decode(self.value, "AV_PAIR").ok()
    }

    fn array<const N: usize>(&self) -> Result<[u8; N], AvError> {
        self.value.try_into().map_err(|_| AvError::Length { id: self.id, expected: N, got: self.value.len() })
    }

    /// The value as a FILETIME (MsvAvTimestamp).
    ///
    /// # Errors
    /// [`AvError::Length`] unless it has 8 bytes.
    pub fn file_time(&self) -> Result<FileTime, AvError> {
        self.array().map(|bytes| FileTime(u64::from_le_bytes(bytes)))
    }

    /// The value as a 32-bit word (MsvAvFlags).
    ///
    /// # Errors
    /// [`AvError::Length`] unless it has 4 bytes.
    pub fn word(&self) -> Result<u32, AvError> {
        self.array().map(u32::from_le_bytes)
    }
}

/// Iterates over an AV_PAIR list up to MsvAvEOL, which is not yielded. An error ends the iteration.
#[derive(Debug, Clone)]
pub struct AvPairs<'a> {
    list: &'a [u8],
    at: usize,
    done: bool,
}

impl<'a> AvPairs<'a> {
    /// Iterates over `list`. Bytes after MsvAvEOL are ignored; the NTLMv2 response has padding there.
    #[must_use]
    pub const fn new(list: &'a [u8]) -> Self {
        Self { list, at: 0, done: false }
    }

    fn step(&mut self) -> Result<Option<AvPair<'a>>, AvError> {
        let rest = self.list.get(self.at..).unwrap_or_default();
        let Some(([i0, i1, l0, l1], rest)) = rest.split_first_chunk::<4>() else {
            return Err(AvError::NoEol { at: self.at });
        };
        let id = AvId::from_number(u16::from_le_bytes([*i0, *i1]));
        if id == AvId::Eol {
            return Ok(None);
        }
        let length = usize::from(u16::from_le_bytes([*l0, *l1]));
        let value = rest.get(..length).ok_or(AvError::Overrun { id, at: self.at, length, left: rest.len() })?;
        self.at += 4 + length;
        Ok(Some(AvPair { id, value }))
    }
}

impl<'a> Iterator for AvPairs<'a> {
    type Item = Result<AvPair<'a>, AvError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step();
        self.done = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}

/// The first pair with `id`, or `Ok(None)` if a valid list has none.
pub(super) fn find<'a>(list: &'a [u8], id: AvId) -> Result<Option<AvPair<'a>>, AvError> {
    for pair in AvPairs::new(list) {
        let pair = pair?;
        if pair.id == id {
            return Ok(Some(pair));
        }
    }
    Ok(None)
}

/// Appends one pair.
pub(super) fn push(out: &mut Vec<u8>, id: AvId, value: &[u8]) -> Result<(), MessageError> {
    let length =
        u16::try_from(value.len()).map_err(|_| MessageError::TooLong { field: "AV_PAIR", length: value.len() })?;
    out.extend_from_slice(&id.number().to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(value);
    Ok(())
}

/// Appends one pair whose value is `text` in UTF-16LE.
///
/// # Errors
/// [`MessageError::TooLong`].
pub(super) fn push_text(out: &mut Vec<u8>, id: AvId, text: &str) -> Result<(), MessageError> {
    let start = out.len();
    push(out, id, &[])?;
    push_utf16le(out, text);
    let length = out.len() - start - PAIR_HEADER_BYTES;
    let length = u16::try_from(length).map_err(|_| MessageError::TooLong { field: "AV_PAIR", length })?;
    out[start + 2..start + PAIR_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Appends MsvAvEOL.
pub(super) fn push_eol(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 4]);
}

/// Builds a TargetInfo pair by pair, in the order of the calls.
#[derive(Debug, Clone, Default)]
pub struct TargetInfoBuilder {
    list: Vec<u8>,
}

impl TargetInfoBuilder {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pair with this value.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] if the value has more than 65,535 bytes.
    pub fn bytes(mut self, id: AvId, value: &[u8]) -> Result<Self, MessageError> {
        push(&mut self.list, id, value)?;
        Ok(self)
    }

    /// Adds a pair with this text as UTF-16LE.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] if the encoded text has more than 65,535 bytes.
    pub fn text(self, id: AvId, value: &str) -> Result<Self, MessageError> {
        self.bytes(id, &utf16le(value))
    }

    /// Terminates the list with MsvAvEOL.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        push_eol(&mut self.list);
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built() -> Vec<u8> {
        TargetInfoBuilder::new()
            .text(AvId::NbDomainName, "Domain")
            .and_then(|list| list.bytes(AvId::Flags, &2_u32.to_le_bytes()))
            .map(TargetInfoBuilder::finish)
            .unwrap()
    }

    #[test]
    fn the_iterator_reads_what_the_builder_writes() {
        let list = built();
        let pairs: Vec<_> = AvPairs::new(&list).collect::<Result<_, _>>().unwrap();
        assert_eq!(pairs.len(), 2);
        assert_eq!(pairs[0].text().as_deref(), Some("Domain"));
        assert_eq!(pairs[1].word(), Ok(2));
        assert_eq!(pairs[1].file_time(), Err(AvError::Length { id: AvId::Flags, expected: 8, got: 4 }));
    }

    #[test]
    fn a_list_without_eol_is_an_error_after_its_pairs() {
        let mut list = built();
        list.truncate(list.len() - 4);
        let items: Vec<_> = AvPairs::new(&list).collect();
        assert_eq!(items.len(), 3);
        assert_eq!(items[2], Err(AvError::NoEol { at: list.len() }));
        assert_eq!(AvPairs::new(&[]).next(), Some(Err(AvError::NoEol { at: 0 })));
    }

    #[test]
    fn a_pair_that_exceeds_the_list_ends_the_iteration() {
        let items: Vec<_> = AvPairs::new(&[1, 0, 0xff, 0xff, 0, 0]).collect();
        assert_eq!(items, [Err(AvError::Overrun { id: AvId::NbComputerName, at: 0, length: 65_535, left: 2 })]);
    }

    #[test]
    fn bytes_after_eol_are_ignored() {
        assert_eq!(AvPairs::new(&[0, 0, 0, 0, 9, 9, 9, 9, 9]).count(), 0);
    }

    #[test]
    fn ids_have_the_names_of_the_specification() {
        assert_eq!(AvId::NbDomainName.to_string(), "MsvAvNbDomainName");
        assert_eq!(AvId::Eol.to_string(), "MsvAvEOL");
        assert_eq!(AvId::from_number(4711).to_string(), "AvId 4711");
        for number in 0..20 {
            assert_eq!(AvId::from_number(number).number(), number);
        }
    }
}
