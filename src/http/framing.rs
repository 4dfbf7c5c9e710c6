//! Where the body of a message ends (RFC 9112 §6).

use super::field_name::{FieldKinds, FieldName};
use super::fields::Fields;
use super::start_line::{Version, trim_blanks};

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body.
    None,
    /// After this many bytes, less than 2^63.
    Length(u64),
    /// After the last chunk and the trailer section (RFC 9112 §7.1).
    Chunked,
    /// At the end of the connection, which therefore cannot be reused.
    CloseDelimited,
}

/// Why the framing of a body cannot be determined. The error contains no bytes from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Not a list of decimal numbers below 2^63. Larger numbers overflow in parsers that use signed integers.
    #[error("Content-Length is not a decimal number that fits into 63 bits")]
    InvalidContentLength,
    /// RFC 9112 §6.3, rule 5
    #[error("Content-Length is given more than once, with different values")]
    ConflictingContentLengths,
    /// Both fields are present, which is a sign of request smuggling (RFC 9112 §6.3, rule 3).
    #[error("Content-Length and Transfer-Encoding are both given")]
    LengthWithTransferEncoding,
    /// RFC 9112 §6.1
    #[error("Transfer-Encoding in an HTTP/1.0 message")]
    TransferEncodingInHttp10,
    /// `chunked` is missing, is not the last coding, or is applied twice.
    #[error("Transfer-Encoding does not end in a single chunked coding")]
    ChunkedNotLast,
    /// A coding other than `chunked`.
    #[error("a transfer coding other than chunked")]
    UnsupportedCoding,
    /// Transfer-Encoding lists no coding.
    #[error("Transfer-Encoding is empty")]
    EmptyTransferEncoding,
    /// A field such as `Content_Length`, which some parsers take for Content-Length.
    #[error("a field whose name some parsers take for Content-Length or Transfer-Encoding")]
    AmbiguousName,
}

/// What kind of request a response answers, as far as its framing depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseTo {
    /// CONNECT: a 2xx response has no body; the bytes after its head belong to the tunnel.
    Connect,
    /// HEAD: no response has a body.
    Head,
    /// Any other method.
    Other,
}

impl ResponseTo {
    /// For a request with this method. Methods are case-sensitive.
    pub fn method(method: &str) -> Self {
        match method {
            "CONNECT" => Self::Connect,
            "HEAD" => Self::Head,
            _ => Self::Other,
        }
    }
}

/// The framing of a request (RFC 9112 §6.3, rules 3 to 7). Anything that two parsers could interpret differently is an
/// error.
pub(super) fn request_framing(version: Version, fields: &Fields<'_>) -> Result<BodyFraming, FramingError> {
    if fields.has_any(FieldKinds::RESEMBLES_FRAMING) {
        return Err(FramingError::AmbiguousName);
    }
    Ok(announced_framing(version, fields)?.unwrap_or(BodyFraming::None))
}

/// The framing of a response that is forwarded (RFC 9112 §6.3). Anything that two parsers could interpret differently
/// is an error, as in a request, because the gateway generates the framing of the forwarded response.
///
/// If status or method exclude a body, the framing fields are ignored.
pub(super) fn forwarded_response_framing(
    version: Version,
    status: u16,
    fields: &Fields<'_>,
    response_to: ResponseTo,
) -> Result<BodyFraming, FramingError> {
    if is_bodiless(status, response_to) {
        return Ok(BodyFraming::None);
    }
    Ok(announced_framing(version, fields)?.unwrap_or(BodyFraming::CloseDelimited))
}

/// The framing that Content-Length or Transfer-Encoding announce; `None` if both are absent. Ambiguous framing is an
/// error.
fn announced_framing(version: Version, fields: &Fields<'_>) -> Result<Option<BodyFraming>, FramingError> {
    let length = content_length(fields)?;
    if !fields.has(FieldName::TransferEncoding) {
        return Ok(length.map(BodyFraming::Length));
    }
    if length.is_some() {
        return Err(FramingError::LengthWithTransferEncoding);
    }
    if version < Version::Http11 {
        return Err(FramingError::TransferEncodingInHttp10);
    }
    let codings = TransferCodings::of(fields)?;
    match codings {
        TransferCodings { others: 0, chunked: 1, chunked_last: true } => Ok(Some(BodyFraming::Chunked)),
        TransferCodings { chunked: 1, chunked_last: true, .. } => Err(FramingError::UnsupportedCoding),
        _ => Err(FramingError::ChunkedNotLast),
    }
}

/// The framing of a response (RFC 9112 §6.3). If both are present, Transfer-Encoding overrides Content-Length (rule 3).
pub(super) fn response_framing(
    status: u16,
    fields: &Fields<'_>,
    response_to: ResponseTo,
) -> Result<BodyFraming, FramingError> {
    if is_bodiless(status, response_to) {
        return Ok(BodyFraming::None);
    }
    if fields.has(FieldName::TransferEncoding) {
        let codings = TransferCodings::of(fields)?;
        return match (codings.chunked, codings.chunked_last) {
            (0, _) => Ok(BodyFraming::CloseDelimited),
            (1, true) => Ok(BodyFraming::Chunked),
            _ => Err(FramingError::ChunkedNotLast),
        };
    }
    Ok(match content_length(fields)? {
        Some(length) => BodyFraming::Length(length),
        None => BodyFraming::CloseDelimited,
    })
}

/// Whether a response has no body, whatever its fields say (RFC 9112 §6.3, rules 1 and 2).
fn is_bodiless(status: u16, response_to: ResponseTo) -> bool {
    matches!(status, 100..=199 | 204 | 304)
        || response_to == ResponseTo::Head
        || (response_to == ResponseTo::Connect && matches!(status, 200..=299))
}

/// The codings in all Transfer-Encoding fields.
struct TransferCodings {
    others: usize,
    chunked: usize,
    chunked_last: bool,
}

impl TransferCodings {
    fn of(fields: &Fields<'_>) -> Result<Self, FramingError> {
        let mut codings = Self { others: 0, chunked: 0, chunked_last: false };
        for coding in fields.list(FieldName::TransferEncoding) {
            codings.chunked_last = coding.eq_ignore_ascii_case(b"chunked");
            if codings.chunked_last {
                codings.chunked += 1;
            } else {
                codings.others += 1;
            }
        }
        if codings.chunked + codings.others == 0 {
            return Err(FramingError::EmptyTransferEncoding);
        }
        Ok(codings)
    }
}

/// The single value of all Content-Length fields and list elements. Repeated equal values are allowed (RFC 9110 §8.6).
pub(super) fn content_length(fields: &Fields<'_>) -> Result<Option<u64>, FramingError> {
    let mut values = fields.get_all(FieldName::ContentLength);
    let Some(first) = values.next() else { return Ok(None) };
    // Nearly all heads have one number.
    if let (Some(length), None) = (parse_decimal(first), values.next()) {
        return Ok(Some(length));
    }
    let mut length = None;
    let elements = fields.get_all(FieldName::ContentLength).flat_map(|value| value.split(|&byte| byte == b','));
    for element in elements {
        let value = parse_decimal(trim_blanks(element)).ok_or(FramingError::InvalidContentLength)?;
        if length.is_some_and(|known| known != value) {
            return Err(FramingError::ConflictingContentLengths);
        }
        length = Some(value);
    }
    Ok(length)
}

fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit).filter(|&value| value <= LENGTH_MAX)
    })
}

/// The largest valid Content-Length, in bytes.
const LENGTH_MAX: u64 = u64::MAX >> 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::FieldStorage;

    fn request(version: Version, section: &str) -> Result<BodyFraming, FramingError> {
        let section = format!("{section}\r\n");
        let mut storage = FieldStorage::new();
        let fields = Fields::parse(section.as_bytes(), &mut storage).unwrap();
        request_framing(version, &fields)
    }

    fn response(status: u16, to: ResponseTo, section: &str) -> Result<BodyFraming, FramingError> {
        let section = format!("{section}\r\n");
        let mut storage = FieldStorage::new();
        let fields = Fields::parse(section.as_bytes(), &mut storage).unwrap();
        response_framing(status, &fields, to)
    }

    #[test]
    fn a_request_without_framing_fields_has_no_body() {
        let framing = |section| request(Version::Http11, section);
        assert_eq!(framing(""), Ok(BodyFraming::None));
        assert_eq!(framing("Content-Length: 5 \r\n"), Ok(BodyFraming::Length(5)));
        assert_eq!(framing("transfer-encoding: Chunked\r\n"), Ok(BodyFraming::Chunked));
    }

    #[test]
    fn a_request_with_ambiguous_framing_is_rejected() {
        use FramingError::*;
        for (section, error) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", LengthWithTransferEncoding),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", ConflictingContentLengths),
            ("Content-Length: 5, 6\r\n", ConflictingContentLengths),
            ("Content-Length: +5\r\n", InvalidContentLength),
            ("Content-Length: -5\r\n", InvalidContentLength),
            ("Content-Length: 0x5\r\n", InvalidContentLength),
            ("Content-Length: 5 5\r\n", InvalidContentLength),
            ("Content-Length: 5,\r\n", InvalidContentLength),
            ("Content-Length:\r\n", InvalidContentLength),
            ("Content-Length: 9223372036854775808\r\n", InvalidContentLength),
            ("Content-Length: 18446744073709551621\r\n", InvalidContentLength),
            ("Transfer-Encoding: gzip\r\n", ChunkedNotLast),
            ("Transfer-Encoding: chunked, gzip\r\n", ChunkedNotLast),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", ChunkedNotLast),
            ("Transfer-Encoding: gzip, chunked\r\n", UnsupportedCoding),
            ("Transfer-Encoding:\r\n", EmptyTransferEncoding),
            ("Content_Length: 5\r\n", AmbiguousName),
            ("content.length: 5\r\nContent-Length: 5\r\n", AmbiguousName),
            ("TRANSFER_ENCODING: chunked\r\n", AmbiguousName),
        ] {
            assert_eq!(request(Version::Http11, section), Err(error), "{section}");
        }
        assert_eq!(request(Version::Http10, "Transfer-Encoding: chunked\r\n"), Err(TransferEncodingInHttp10));
    }

    #[test]
    fn repeated_equal_lengths_are_accepted() {
        assert_eq!(
            request(Version::Http11, "Content-Length: 5, 5\r\nContent-Length: 5\r\n"),
            Ok(BodyFraming::Length(5))
        );
        assert_eq!(
            request(Version::Http11, "Content-Length: 9223372036854775807\r\n"),
            Ok(BodyFraming::Length(LENGTH_MAX))
        );
    }

    #[test]
    fn a_2xx_response_to_connect_has_no_body_whatever_its_fields_say() {
        for section in
            ["Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 1\r\nContent-Length: 2\r\n"]
        {
            for status in [200, 204, 299] {
                assert_eq!(response(status, ResponseTo::Connect, section), Ok(BodyFraming::None));
            }
        }
        assert_eq!(response(407, ResponseTo::Connect, "Content-Length: 701\r\n"), Ok(BodyFraming::Length(701)));
    }

    #[test]
    fn bodiless_statuses_have_no_body_whatever_their_fields_say() {
        for status in [100, 101, 103, 199, 204, 304] {
            assert_eq!(response(status, ResponseTo::Other, "Content-Length: 9\r\n"), Ok(BodyFraming::None));
        }
        assert_eq!(response(407, ResponseTo::Head, "Content-Length: 9\r\n"), Ok(BodyFraming::None));
    }

    #[test]
    fn transfer_encoding_takes_precedence_over_content_length_in_a_response() {
        let framing = |section| response(407, ResponseTo::Connect, section);
        assert_eq!(framing(""), Ok(BodyFraming::CloseDelimited));
        assert_eq!(framing("Content-Length: 0   \r\n"), Ok(BodyFraming::Length(0)));
        assert_eq!(framing("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), Ok(BodyFraming::Chunked));
        assert_eq!(framing("Transfer-Encoding: gzip, chunked\r\n"), Ok(BodyFraming::Chunked));
        assert_eq!(framing("Transfer-Encoding: gzip\r\n"), Ok(BodyFraming::CloseDelimited));
        assert_eq!(framing("Transfer-Encoding: chunked, gzip\r\n"), Err(FramingError::ChunkedNotLast));
        assert_eq!(framing("Content-Length: 1\r\nContent-Length: 2\r\n"), Err(FramingError::ConflictingContentLengths));
        assert_eq!(framing("Content-Length: many\r\n"), Err(FramingError::InvalidContentLength));
    }

    #[test]
    fn a_forwarded_response_with_ambiguous_framing_is_rejected() {
        use FramingError::*;
        let framing = |version, status, section: &str| {
            let section = format!("{section}\r\n");
            let mut storage = FieldStorage::new();
            let fields = Fields::parse(section.as_bytes(), &mut storage).unwrap();
            forwarded_response_framing(version, status, &fields, ResponseTo::Other)
        };
        let both = "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n";
        for (version, status, section, expected) in [
            (Version::Http11, 200, "", Ok(BodyFraming::CloseDelimited)),
            (Version::Http10, 200, "Content-Length: 3\r\n", Ok(BodyFraming::Length(3))),
            (Version::Http11, 200, "Transfer-Encoding: chunked\r\n", Ok(BodyFraming::Chunked)),
            (Version::Http11, 304, both, Ok(BodyFraming::None)),
            (Version::Http11, 200, both, Err(LengthWithTransferEncoding)),
            (Version::Http11, 200, "Content-Length: 3\r\nContent-Length: 4\r\n", Err(ConflictingContentLengths)),
            (Version::Http11, 200, "Transfer-Encoding: gzip\r\n", Err(ChunkedNotLast)),
            (Version::Http11, 200, "Transfer-Encoding: gzip, chunked\r\n", Err(UnsupportedCoding)),
            (Version::Http10, 200, "Transfer-Encoding: chunked\r\n", Err(TransferEncodingInHttp10)),
        ] {
            assert_eq!(framing(version, status, section), expected, "{version:?} {status} {section}");
        }
    }

    #[test]
    fn the_method_determines_the_kind_of_response() {
        assert_eq!(ResponseTo::method("CONNECT"), ResponseTo::Connect);
        assert_eq!(ResponseTo::method("HEAD"), ResponseTo::Head);
        assert_eq!(ResponseTo::method("head"), ResponseTo::Other);
    }
}
