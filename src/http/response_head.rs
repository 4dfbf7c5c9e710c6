//! Parses response heads (RFC 9112 §4).

use super::field_lines::FieldStorage;
use super::field_name::FieldName;
use super::fields::{FieldError, Fields};
use super::framing::{
    BodyFraming, FramingError, ResponseTo, content_length, forwarded_response_framing, response_framing,
};
use super::head_end::{HeadEnd, HeadTooLarge};
use super::request_head::persists;
use super::spans::value_length;
use super::start_line::{Version, check_line_ends, is_blank, split_start_line, trim_blanks};

/// Why a response head is rejected. The text contains no bytes from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Not `version SP status [SP reason]`.
    #[error("the status line is not version, status and reason")]
    InvalidStatusLine,
    /// Neither HTTP/1.0 nor HTTP/1.1: the peer may not be an HTTP proxy at all.
    #[error("the response does not begin with HTTP/1.0 or HTTP/1.1")]
    UnsupportedVersion,
    /// Not three digits, or less than 100.
    #[error("the status is not a number from 100 to 999")]
    InvalidStatus,
    /// RFC 9112 §5
    #[error("{0}")]
    Field(#[from] FieldError),
}

/// A response head, borrowed from its bytes.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'b> {
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// 100 to 999.
    pub status: u16,
    /// The reason phrase without leading and trailing blanks, in any encoding. It may be empty.
    pub reason: &'b [u8],
    /// The header fields.
    pub fields: Fields<'b>,
}

impl<'b> ResponseHead<'b> {
    /// Parses exactly one head, of the length that [`HeadEnd::find`](super::HeadEnd::find) returned. Does not allocate
    /// for heads of up to 24 fields.
    ///
    /// Any reason phrase is accepted, even a missing one. Folded lines are rejected, so call [`unfold_field_lines`]
    /// first.
    ///
    /// # Errors
    /// [`ResponseError`] if the status line or a field line is invalid.
    pub fn parse(bytes: &'b [u8], storage: &'b mut FieldStorage) -> Result<Self, ResponseError> {
        let (version, rest) = bytes.split_at_checked(8).unwrap_or((bytes, b""));
        let version = Version::parse(version).ok_or(ResponseError::UnsupportedVersion)?;
        check_line_ends(bytes).map_err(|_| FieldError::BareLineEnd)?;
        let (status_and_reason, section) = split_start_line(rest).ok_or(ResponseError::InvalidStatusLine)?;
        let (status, reason) = status_and_reason_of(status_and_reason)?;
        Ok(Self { version, status, reason, fields: Fields::parse(section, storage)? })
    }

    /// Parses the head at the start of `bytes`, which may be followed by anything, in one pass. Returns its length,
    /// too. `None` if the head is incomplete or rejected: then [`HeadEnd::find`] and [`ResponseHead::parse`] tell.
    /// Where this returns a head, they find the same.
    pub fn parse_first(bytes: &'b [u8], storage: &'b mut FieldStorage) -> Option<(Self, usize)> {
        let (version, rest) = bytes.split_at_checked(8)?;
        let version = Version::parse(version)?;
        let line_bytes = value_length(rest);
        let (line, rest) = rest.split_at_checked(line_bytes)?;
        let section = rest.strip_prefix(b"\r\n")?;
        let (status, reason) = status_and_reason_of(line).ok()?;
        let (fields, length) = Fields::parse_first(section, storage)?;
        Some((Self { version, status, reason, fields }, bytes.len() - section.len() + length))
    }

    /// Whether another response to the same request follows (RFC 9110 §15.2): true for 1xx except 101, after which the
    /// connection no longer carries HTTP.
    pub fn is_informational(&self) -> bool {
        matches!(self.status, 100..=199) && self.status != 101
    }

    /// Whether the connection persists after this response (RFC 9112 §9.3). Proxy-Connection counts like Connection:
    /// `close` in either closes the connection, and `keep-alive` in either keeps an HTTP/1.0 connection open. An
    /// HTTP/1.0 response with Transfer-Encoding never persists (RFC 9112 §6.1).
    ///
    /// This does not consider the body; after a [`BodyFraming::CloseDelimited`] one, no connection persists.
    pub fn persists(&self) -> bool {
        let is_faulty = self.version == Version::Http10 && self.fields.has(FieldName::TransferEncoding);
        !is_faulty && persists(self.version, &self.fields)
    }

    /// The framing of the body (RFC 9112 §6.3). A 2xx response to CONNECT has no body, whatever its fields say.
    ///
    /// # Errors
    /// [`FramingError`] if the framing cannot be determined. The connection must be closed.
    pub fn framing(&self, response_to: ResponseTo) -> Result<BodyFraming, FramingError> {
        response_framing(self.status, &self.fields, response_to)
    }

    /// Like [`ResponseHead::framing`], but for a response that is forwarded. Anything that two parsers could interpret
    /// differently is an error: Content-Length together with Transfer-Encoding, codings other than a single `chunked`,
    /// and any coding in HTTP/1.0.
    ///
    /// # Errors
    /// [`FramingError`] if the framing is invalid or ambiguous. The connection must be closed.
    pub fn forwarded_framing(&self, response_to: ResponseTo) -> Result<BodyFraming, FramingError> {
        forwarded_response_framing(self.version, self.status, &self.fields, response_to)
    }

    /// The value of Content-Length, whether or not a body follows (RFC 9110 §8.6). In a response to HEAD, none does.
    ///
    /// # Errors
    /// [`FramingError`] if the value is invalid, or there are several different values.
    pub fn content_length(&self) -> Result<Option<u64>, FramingError> {
        content_length(&self.fields)
    }
}

/// Reads what follows the version in a status line.
fn status_and_reason_of(line: &[u8]) -> Result<(u16, &[u8]), ResponseError> {
    let (status, reason) = match line {
        [b' ', a, b, c] => ([*a, *b, *c], &b""[..]),
        [b' ', a, b, c, b' ' | b'\t', reason @ ..] => ([*a, *b, *c], reason),
        _ => return Err(ResponseError::InvalidStatusLine),
    };
    if value_length(reason) < reason.len() {
        return Err(ResponseError::InvalidStatusLine);
    }
    Ok((parse_status(status)?, trim_blanks(reason)))
}

fn parse_status(digits: [u8; 3]) -> Result<u16, ResponseError> {
    if !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' {
        return Err(ResponseError::InvalidStatus);
    }
    Ok(digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0')))
}

/// Unfolds folded field lines in place, as RFC 9112 §5.2 requires of a proxy before it interprets a response. The CRLF
/// of each fold becomes two spaces, so the length does not change. Returns whether any line was folded.
///
/// A blank directly after the status line continues no field. It is left as it is, and [`ResponseHead::parse`] rejects
/// it.
pub fn unfold_field_lines(head: &mut [u8]) -> bool {
    let Some(first_field) = split_start_line(head).map(|(line, _)| line.len() + 2) else {
        return false;
    };
    let mut folded = false;
    let section = head.get_mut(first_field..).unwrap_or_default();
    for index in 1..section.len().saturating_sub(2) {
        if let Some([cr @ b'\r', lf @ b'\n', next]) = section.get_mut(index..index + 3)
            && is_blank(*next)
        {
            *cr = b' ';
            *lf = b' ';
            folded = true;
        }
    }
    folded
}

/// A whole head that [`read_response_head`] has found.
pub struct HeadRead<T> {
    /// Its length in bytes.
    pub length: usize,
    /// What `look` has made of it.
    pub outcome: Result<T, ResponseError>,
}

/// Looks for a head at the start of what has come so far and passes it, with its length, to `look`. `None` if it is not
/// whole. `end` is new at first, and again after each head; in between, `bytes` only grows.
///
/// # Errors
/// [`HeadTooLarge`] if the head does not end within `head_limit_bytes`.
pub fn read_response_head<T>(
    end: &mut HeadEnd,
    bytes: &[u8],
    head_limit_bytes: usize,
    field_limit: usize,
    look: impl FnOnce(&ResponseHead<'_>, usize) -> T,
) -> Result<Option<HeadRead<T>>, HeadTooLarge> {
    // Most heads arrive whole.
    if end.is_new() {
        let window = &bytes[..bytes.len().min(head_limit_bytes)];
        if let Some((head, length)) = ResponseHead::parse_first(window, &mut FieldStorage::with_limit(field_limit)) {
            return Ok(Some(HeadRead { length, outcome: Ok(look(&head, length)) }));
        }
    }
    let Some(length) = end.find(bytes, head_limit_bytes)? else { return Ok(None) };
    *end = HeadEnd::response();
    let outcome = with_response_head(&bytes[..length], field_limit, |head| look(head, length));
    Ok(Some(HeadRead { length, outcome }))
}

/// Parses exactly one head of at most `field_limit` field lines and passes it to `look`. Folded field lines are
/// unfolded first; the head is copied only if there are any or it is invalid.
///
/// # Errors
/// [`ResponseError`], as [`ResponseHead::parse`].
pub fn with_response_head<T>(
    bytes: &[u8],
    field_limit: usize,
    look: impl FnOnce(&ResponseHead<'_>) -> T,
) -> Result<T, ResponseError> {
    let error = match ResponseHead::parse(bytes, &mut FieldStorage::with_limit(field_limit)) {
        Ok(head) => return Ok(look(&head)),
        Err(error) => error,
    };
    let mut unfolded = bytes.to_vec();
    match unfold_field_lines(&mut unfolded) {
        true => Ok(look(&ResponseHead::parse(&unfolded, &mut FieldStorage::with_limit(field_limit))?)),
        false => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(head: &[u8], check: impl FnOnce(Result<ResponseHead<'_>, ResponseError>) -> T) -> T {
        check(ResponseHead::parse(head, &mut FieldStorage::new()))
    }

    #[test]
    fn any_reason_phrase_is_accepted() {
        for (line, status, reason) in [
            (&b"HTTP/1.1 200 Connection established"[..], 200, &b"Connection established"[..]),
            (b"HTTP/1.1 200", 200, b""),
            (b"HTTP/1.1 200 ", 200, b""),
            (b"HTTP/1.1 200    OK  ", 200, b"OK"),
            (b"HTTP/1.0 407 Acc\xe8s refus\xe9", 407, b"Acc\xe8s refus\xe9"),
            (b"HTTP/1.1 407 a\tb: (c). \"d\"", 407, b"a\tb: (c). \"d\""),
            (b"HTTP/1.1 999 ", 999, b""),
        ] {
            let head = [line, b"\r\n\r\n"].concat();
            with(&head, |head| {
                let head = head.unwrap();
                assert_eq!((head.status, head.reason), (status, reason));
            });
        }
    }

    #[test]
    fn invalid_responses_are_rejected() {
        use ResponseError::*;
        for (head, error) in [
            (&b"HTTP/2.0 200 OK\r\n\r\n"[..], UnsupportedVersion),
            (b"ICY 200 OK\r\n\r\n", UnsupportedVersion),
            (b"SSH-2.0-x\r\n\r\n", UnsupportedVersion),
            (b"\r\n\r\n", UnsupportedVersion),
            (b"", UnsupportedVersion),
            (b"HTTP/1.1\r\n\r\n", InvalidStatusLine),
            (b"HTTP/1.1  200 OK\r\n\r\n", InvalidStatusLine),
            (b"HTTP/1.1 20 OK\r\n\r\n", InvalidStatusLine),
            (b"HTTP/1.1 2000 OK\r\n\r\n", InvalidStatusLine),
            (b"HTTP/1.1 099 OK\r\n\r\n", InvalidStatus),
            (b"HTTP/1.1 2x0 OK\r\n\r\n", InvalidStatus),
            (b"HTTP/1.1 +20 OK\r\n\r\n", InvalidStatus),
            (b"HTTP/1.1 200 O\0K\r\n\r\n", InvalidStatusLine),
            (b"HTTP/1.1 200 OK\nA: b\r\n\r\n", Field(FieldError::BareLineEnd)),
            (b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", Field(FieldError::BareLineEnd)),
            (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Field(FieldError::BlankBeforeColon { line: 1 })),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n", Field(FieldError::Incomplete)),
        ] {
            with(head, |got| assert_eq!(got.unwrap_err(), error, "{head:?}"));
        }
    }

    #[test]
    fn folded_lines_are_rejected_unless_unfolded_first() {
        let mut head =
            b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\n\trealm=\"a\"\r\n \r\nContent-Length:\r\n 5\r\n\r\n"
                .to_vec();
        let len = head.len();
        with(&head, |got| {
            assert_eq!(got.unwrap_err(), ResponseError::Field(FieldError::Folded { line: 2 }));
        });
        assert!(unfold_field_lines(&mut head));
        assert_eq!(head.len(), len);
        with(&head, |got| {
            let head = got.unwrap();
            let challenge = head.fields.get("proxy-authenticate").unwrap();
            assert_eq!(challenge, b"Basic  \trealm=\"a\"");
            assert_eq!(head.framing(ResponseTo::Connect), Ok(BodyFraming::Length(5)));
        });
    }

    #[test]
    fn unfolding_does_not_change_a_head_without_folded_lines() {
        let whole = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
        let mut head = whole.to_vec();
        assert!(!unfold_field_lines(&mut head));
        assert_eq!(head, whole);
        let mut head = b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n".to_vec();
        assert!(!unfold_field_lines(&mut head));
        with(&head, |got| assert!(got.is_err()));
    }

    #[test]
    fn persistence_depends_on_version_and_connection_options() {
        for (version, fields, expected) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "proxy-Connection: close\r\n", false),
            ("1.1", "Connection: Keep-Alive\r\nProxy-Connection: close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Proxy-Connection: keep-alive\r\n", true),
            ("1.0", "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n", false),
        ] {
            let head = format!("HTTP/{version} 407 x\r\n{fields}\r\n");
            with(head.as_bytes(), |head| {
                assert_eq!(head.unwrap().persists(), expected, "{version} {fields}");
            });
        }
    }

    #[test]
    fn responses_before_the_final_one_are_informational() {
        for (status, expected) in [(100, true), (103, true), (101, false), (200, false)] {
            let head = format!("HTTP/1.1 {status} x\r\n\r\n");
            with(head.as_bytes(), |head| {
                assert_eq!(head.unwrap().is_informational(), expected);
            });
        }
    }

    #[test]
    fn a_head_is_read_with_its_folded_lines_joined() {
        let status = |head: &ResponseHead<'_>| (head.status, head.fields.get("a").map(<[u8]>::to_vec));
        for (lines, value) in [("A: b\r\n", &b"b"[..]), ("A: b\r\n c\r\n", b"b   c")] {
            let head = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
            assert_eq!(with_response_head(head.as_bytes(), 2, status), Ok((200, Some(value.to_vec()))));
        }
        let error = |lines: &str, field_limit| {
            with_response_head(format!("HTTP/1.1 200 OK\r\n{lines}\r\n").as_bytes(), field_limit, status).unwrap_err()
        };
        assert_eq!(error("A : b\r\n", 2), ResponseError::Field(FieldError::BlankBeforeColon { line: 1 }));
        let too_many = error("A: b\r\n c\r\nD: e\r\nF: g\r\n", 2);
        assert!(matches!(too_many, ResponseError::Field(FieldError::TooManyFields { .. })), "{too_many:?}");
    }
}
