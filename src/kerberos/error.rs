//! Why bytes are not what they should be.

use thiserror::Error;

/// Why a message or a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A field is missing, or another one is in its place.
    #[error("an element with the tag {tag:#04x} is missing")]
    Missing {
        /// The tag that was expected.
        tag: u8,
    },
    /// A length is wrong.
    #[error("a length is wrong")]
    Length,
    /// An integer is too long, or out of its range.
    #[error("an integer is out of range")]
    Integer,
    /// A time is not one.
    #[error("a time is malformed")]
    Time,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Text,
    /// The message is not of the type that was expected.
    #[error("it is a message of type {got}, not {expected}")]
    MessageType {
        /// The type that was expected.
        expected: u8,
        /// The type that it has.
        got: i64,
    },
    /// There is more of something than allowed.
    #[error("there are too many of {what}, or one is too long")]
    TooMuch {
        /// What it is.
        what: &'static str,
    },
    /// It is no GSS-API token of Kerberos.
    #[error("it is no GSS-API token of Kerberos")]
    NoToken,
}

/// Why encrypted data cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CryptoError {
    /// The key is of another etype than the data.
    #[error("it is encrypted with etype {got}, and the key is for {key}")]
    Etype {
        /// The etype of the data.
        got: i64,
        /// The etype of the key.
        key: i64,
    },
    /// The data is shorter than confounder and checksum.
    #[error("the encrypted data is too short")]
    Short,
    /// The checksum is wrong: it is the wrong key, or the data was changed.
    #[error("it was not encrypted with this key")]
    Integrity,
}
