//! How long the body of a message is (RFC 9112 §6).

use super::fields::{Fields, resembles_framing};
use super::start_line::{Version, trim_blanks};

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body.
    None,
    /// That many bytes.
    Length(u64),
    /// By the last chunk and its trailers (RFC 9112 §7.1).
    Chunked,
    /// When the connection ends; it can carry nothing after it.
    ToClose,
}

/// Why the length of a body cannot be told. No bytes of the peer are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Not a list of decimal numbers below 2^63, above which parsers that count with a sign go astray.
    #[error("Content-Length is not a decimal number that fits into 63 bits")]
    InvalidContentLength,
    /// RFC 9112 §6.3, rule 5
    #[error("Content-Length is given more than once, with different values")]
    ConflictingContentLengths,
    /// A message with both: the mark of request smuggling (RFC 9112 §6.3, rule 3).
    #[error("Content-Length and Transfer-Encoding are both given")]
    LengthWithTransferEncoding,
    /// RFC 9112 §6.1
    #[error("Transfer-Encoding in an HTTP/1.0 message")]
    TransferEncodingInHttp10,
    /// `chunked` is missing or not the last coding, or is applied twice.
    #[error("Transfer-Encoding does not end in a single chunked coding")]
    ChunkedNotLast,
    /// A coding other than `chunked`.
    #[error("a transfer coding other than chunked")]
    UnsupportedCoding,
    /// A Transfer-Encoding field that names no coding.
    #[error("Transfer-Encoding is empty")]
    EmptyTransferEncoding,
    /// A field such as `Content_Length`, which some parsers take for the real one.
    #[error("a field whose name some parsers take for Content-Length or Transfer-Encoding")]
    LaxName,
}

/// The request a response answers, as far as its framing depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseTo {
    /// CONNECT: a 2xx ends at its head, and the tunnel follows.
    Connect,
    /// HEAD: there is never a body.
    Head,
    /// Any other method.
    Other,
}

impl ResponseTo {
    /// By method name; methods are case-sensitive.
    pub fn method(method: &str) -> Self {
        match method {
            "CONNECT" => Self::Connect,
            "HEAD" => Self::Head,
            _ => Self::Other,
        }
    }
}

/// The body of a request (RFC 9112 §6.3, rules 3 to 7), refused wherever two parsers could differ.
pub(super) fn request_framing(version: Version, fields: &Fields<'_>) -> Result<BodyFraming, FramingError> {
    if fields.iter().any(|field| resembles_framing(field.name)) {
        return Err(FramingError::LaxName);
    }
    Ok(announced_framing(version, fields)?.unwrap_or(BodyFraming::None))
}

/// The body of a response that is passed on (RFC 9112 §6.3): as [`response_framing`], but wherever two parsers could
/// differ it is refused as in a request, because what is passed on is framed anew from what was understood.
///
/// A response that has no body by its status or method has no framing to misread; its fields are not looked at.
pub(super) fn forwarded_response_framing(
    version: Version,
    status: u16,
    fields: &Fields<'_>,
    response_to: ResponseTo,
) -> Result<BodyFraming, FramingError> {
    if is_bodiless(status, response_to) {
        return Ok(BodyFraming::None);
    }
    Ok(announced_framing(version, fields)?.unwrap_or(BodyFraming::ToClose))
}

/// What Content-Length and Transfer-Encoding say where they can be read in one way only; `None` when neither is there.
fn announced_framing(version: Version, fields: &Fields<'_>) -> Result<Option<BodyFraming>, FramingError> {
    let length = content_length(fields)?;
    if !fields.has("transfer-encoding") {
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

/// The body of a response (RFC 9112 §6.3). Where Transfer-Encoding and Content-Length are both there, the former
/// counts (rule 3).
pub(super) fn response_framing(
    status: u16,
    fields: &Fields<'_>,
    response_to: ResponseTo,
) -> Result<BodyFraming, FramingError> {
    if is_bodiless(status, response_to) {
        return Ok(BodyFraming::None);
    }
    if fields.has("transfer-encoding") {
        let codings = TransferCodings::of(fields)?;
        return match (codings.chunked, codings.chunked_last) {
            (0, _) => Ok(BodyFraming::ToClose),
            (1, true) => Ok(BodyFraming::Chunked),
            _ => Err(FramingError::ChunkedNotLast),
        };
    }
    Ok(match content_length(fields)? {
        Some(length) => BodyFraming::Length(length),
        None => BodyFraming::ToClose,
    })
}

/// Whether a response ends at its head whatever its fields say (RFC 9112 §6.3, rules 1 and 2).
fn is_bodiless(status: u16, response_to: ResponseTo) -> bool {
    matches!(status, 100..=199 | 204 | 304)
        || response_to == ResponseTo::Head
        || (response_to == ResponseTo::Connect && matches!(status, 200..=299))
}

/// What Transfer-Encoding names, over all its lines.
struct TransferCodings {
    others: usize,
    chunked: usize,
    chunked_last: bool,
}

impl TransferCodings {
    fn of(fields: &Fields<'_>) -> Result<Self, FramingError> {
        let mut codings = Self { others: 0, chunked: 0, chunked_last: false };
        for coding in fields.list("transfer-encoding") {
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

/// The one value of all Content-Length fields and list elements; equal repetitions count as one (RFC 9110 §8.6).
pub(super) fn content_length(fields: &Fields<'_>) -> Result<Option<u64>, FramingError> {
    let mut length = None;
    let elements = fields.get_all("content-length").flat_map(|value| value.split(|&byte| byte == b','));
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

/// The longest body that can be announced, in bytes.
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
    fn a_request_has_no_body_unless_it_says_so() {
        let framing = |section| request(Version::Http11, section);
        assert_eq!(framing(""), Ok(BodyFraming::None));
        assert_eq!(framing("Content-Length: 5 \r\n"), Ok(BodyFraming::Length(5)));
        assert_eq!(framing("transfer-encoding: Chunked\r\n"), Ok(BodyFraming::Chunked));
    }

    #[test]
    fn a_request_of_two_readings_is_refused() {
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
            ("Content_Length: 5\r\n", LaxName),
            ("content.length: 5\r\nContent-Length: 5\r\n", LaxName),
            ("TRANSFER_ENCODING: chunked\r\n", LaxName),
        ] {
            assert_eq!(request(Version::Http11, section), Err(error), "{section}");
        }
        assert_eq!(request(Version::Http10, "Transfer-Encoding: chunked\r\n"), Err(TransferEncodingInHttp10));
    }

    #[test]
    fn equal_lengths_count_as_one() {
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
    fn a_200_to_connect_has_no_body_whatever_it_says() {
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
    fn statuses_without_a_body_have_none() {
        for status in [100, 101, 103, 199, 204, 304] {
            assert_eq!(response(status, ResponseTo::Other, "Content-Length: 9\r\n"), Ok(BodyFraming::None));
        }
        assert_eq!(response(407, ResponseTo::Head, "Content-Length: 9\r\n"), Ok(BodyFraming::None));
    }

    #[test]
    fn a_response_is_framed_by_the_rules_in_their_order() {
        let framing = |section| response(407, ResponseTo::Connect, section);
        assert_eq!(framing(""), Ok(BodyFraming::ToClose));
        assert_eq!(framing("Content-Length: 0   \r\n"), Ok(BodyFraming::Length(0)));
        assert_eq!(framing("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), Ok(BodyFraming::Chunked));
        assert_eq!(framing("Transfer-Encoding: gzip, chunked\r\n"), Ok(BodyFraming::Chunked));
        assert_eq!(framing("Transfer-Encoding: gzip\r\n"), Ok(BodyFraming::ToClose));
        assert_eq!(framing("Transfer-Encoding: chunked, gzip\r\n"), Err(FramingError::ChunkedNotLast));
        assert_eq!(framing("Content-Length: 1\r\nContent-Length: 2\r\n"), Err(FramingError::ConflictingContentLengths));
        assert_eq!(framing("Content-Length: many\r\n"), Err(FramingError::InvalidContentLength));
    }

    #[test]
    fn a_response_to_pass_on_is_refused_where_two_parsers_could_differ() {
        use FramingError::*;
        let framing = |version, status, section: &str| {
            let section = format!("{section}\r\n");
            let mut storage = FieldStorage::new();
            let fields = Fields::parse(section.as_bytes(), &mut storage).unwrap();
            forwarded_response_framing(version, status, &fields, ResponseTo::Other)
        };
        let both = "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n";
        for (version, status, section, expected) in [
            (Version::Http11, 200, "", Ok(BodyFraming::ToClose)),
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
    fn the_method_decides_what_a_response_answers() {
        assert_eq!(ResponseTo::method("CONNECT"), ResponseTo::Connect);
        assert_eq!(ResponseTo::method("HEAD"), ResponseTo::Head);
        assert_eq!(ResponseTo::method("head"), ResponseTo::Other);
    }
}
