//! Parses request heads (RFC 9112 §3).

use super::field_lines::FieldStorage;
use super::field_name::FieldName;
use super::fields::{FieldError, Fields};
use super::framing::{BodyFraming, FramingError, request_framing};
use super::head_end::LEADING_BLANK_LINES_MAX;
use super::spans::{target_length, token_length};
use super::start_line::{
    Version, check_line_ends, is_blank, is_token_char, looks_like_version, split_start_line, table_of, trim_blanks,
};
use super::target::{RequestTarget, TargetError};

/// The longest method, in bytes. The longest registered method, UPDATEREDIRECTREF, has 17.
pub const METHOD_LIMIT_BYTES: usize = 64;

/// Why a request head is rejected. The text contains no bytes from the client and may be shown to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not `method SP target SP version`.
    #[error("the request line is not a method, a target and a version separated by single spaces")]
    InvalidRequestLine,
    /// RFC 9110 §9.1
    #[error("the method is not a token")]
    InvalidMethod,
    /// Longer than [`METHOD_LIMIT_BYTES`].
    #[error("the method is longer than {METHOD_LIMIT_BYTES} bytes")]
    MethodTooLong,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the HTTP version is neither 1.0 nor 1.1")]
    UnsupportedVersion,
    /// RFC 9112 §3.2
    #[error("{0}")]
    Target(#[from] TargetError),
    /// RFC 9112 §5
    #[error("{0}")]
    Field(#[from] FieldError),
    /// RFC 9112 §6
    #[error("{0}")]
    Framing(#[from] FramingError),
    /// HTTP/1.1 requires a Host field (RFC 9112 §3.2). CONNECT is exempt here, because its target contains the host.
    #[error("an HTTP/1.1 request without a Host field")]
    MissingHost,
    /// A redirected request, whose Host is all that names its origin.
    #[error("a redirected request without a Host field")]
    NoHost,
    /// Of a redirected request.
    #[error("the Host field names another port than the one that the client connected to")]
    OtherPort,
    /// RFC 9112 §3.2
    #[error("more than one Host field")]
    DuplicateHost,
    /// RFC 9112 §3.2
    #[error("the Host field contains an invalid character")]
    InvalidHost,
    /// RFC 9110 §9.3.6
    #[error("a CONNECT request has no content")]
    ConnectWithContent,
}

impl RequestError {
    /// The status of the response: 400, 431, 501 or 505.
    pub fn status(&self) -> u16 {
        match self {
            Self::UnsupportedVersion => 505,
            Self::Field(FieldError::TooManyFields { .. }) => 431,
            Self::MethodTooLong
            | Self::Target(TargetError::UnsupportedScheme)
            | Self::Framing(FramingError::UnsupportedCoding) => 501,
            _ => 400,
        }
    }
}

/// A request head, borrowed from its bytes.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'b> {
    /// A token. Methods are case-sensitive.
    pub method: &'b str,
    /// The parsed target.
    pub target: RequestTarget<'b>,
    /// The target as received, visible ASCII only.
    pub target_text: &'b str,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// The header fields.
    pub fields: Fields<'b>,
    /// The framing of the body, never [`BodyFraming::CloseDelimited`].
    pub framing: BodyFraming,
}

impl<'b> RequestHead<'b> {
    /// Parses exactly one head, of the length that [`HeadEnd::find`](super::HeadEnd::find) returned. Does not allocate
    /// for heads of up to 24 fields.
    ///
    /// Blanks after the version are ignored, as RFC 9112 §3 allows. Anything else that two parsers could interpret
    /// differently is rejected.
    ///
    /// # Errors
    /// [`RequestError`]; respond to the client with its [`status`](RequestError::status).
    pub fn parse(bytes: &'b [u8], storage: &'b mut FieldStorage) -> Result<Self, RequestError> {
        let bytes = skip_blank_lines(bytes);
        check_line_ends(bytes).map_err(|_| FieldError::BareLineEnd)?;
        let (line, section) = split_start_line(bytes).ok_or(RequestError::InvalidRequestLine)?;
        let line = RequestLine::parse(line)?;
        let target = RequestTarget::parse(line.method, line.target_text)?;
        Self::of(&line, target, Fields::parse(section, storage)?)
    }

    /// Parses the head at the start of `bytes`, which may be followed by anything, in one pass. Returns its length,
    /// too. `None` if the head is incomplete, rejected, or only unusual: then [`HeadEnd::find`](super::HeadEnd::find)
    /// and [`RequestHead::parse`] tell. Where this returns a head, they find the same.
    pub fn parse_first(bytes: &'b [u8], storage: &'b mut FieldStorage) -> Option<(Self, usize)> {
        let (line, rest) = RequestLine::parse_first(bytes)?;
        let target = RequestTarget::parse_plain(line.method, line.target_text).ok()?;
        let (fields, length) = Fields::parse_first(rest, storage)?;
        let head = Self::of(&line, target, fields).ok()?;
        Some((head, bytes.len() - rest.len() + length))
    }

    fn of(line: &RequestLine<'b>, target: RequestTarget<'b>, fields: Fields<'b>) -> Result<Self, RequestError> {
        let RequestLine { method, target_text, version } = *line;
        let framing = request_framing(version, &fields)?;
        let head = Self { method, target, target_text, version, fields, framing };
        head.check_host()?;
        if head.is_connect() && !matches!(framing, BodyFraming::None | BodyFraming::Length(0)) {
            return Err(RequestError::ConnectWithContent);
        }
        Ok(head)
    }

    /// Whether this is a request for a tunnel.
    pub fn is_connect(&self) -> bool {
        self.method == "CONNECT"
    }

    /// Whether the client may send another request on this connection (RFC 9112 §9.3).
    pub fn persists(&self) -> bool {
        persists(self.version, &self.fields)
    }

    fn check_host(&self) -> Result<(), RequestError> {
        const IS_HOST_BYTE: [bool; 256] = table_of(b"-._~%!$&'()*+;=:[]");
        let mut hosts = self.fields.get_all(FieldName::Host);
        let Some(host) = hosts.next() else {
            let optional = self.version == Version::Http10 || self.is_connect();
            return if optional { Ok(()) } else { Err(RequestError::MissingHost) };
        };
        if hosts.next().is_some() {
            return Err(RequestError::DuplicateHost);
        }
        if !host.iter().all(|byte| IS_HOST_BYTE[usize::from(*byte)]) {
            return Err(RequestError::InvalidHost);
        }
        Ok(())
    }
}

/// Checks a request line, given with its line ending, before the rest of the head has arrived.
///
/// # Errors
/// As [`RequestHead::parse`], for errors in the request line.
pub fn check_request_line(line: &[u8]) -> Result<(), RequestError> {
    let line = line.strip_suffix(b"\r\n").ok_or(FieldError::BareLineEnd)?;
    let RequestLine { method, target_text, .. } = RequestLine::parse(line)?;
    RequestTarget::parse(method, target_text)?;
    Ok(())
}

/// Whether the connection persists after this message (RFC 9112 §9.3). Proxy-Connection counts like Connection, because
/// proxies and their clients use it that way.
pub(super) fn persists(version: Version, fields: &Fields<'_>) -> bool {
    let (mut closes, mut keeps) = (false, version == Version::Http11);
    let mut note = |option: &[u8]| {
        let (is_close, is_keep) = (option.eq_ignore_ascii_case(b"close"), option.eq_ignore_ascii_case(b"keep-alive"));
        (closes, keeps) = (closes || is_close, keeps || is_keep);
        is_close || is_keep
    };
    for name in [FieldName::Connection, FieldName::ProxyConnection] {
        for value in fields.get_all(name) {
            // Most values have one option.
            if note(value) {
                continue;
            }
            for option in value.split(|&byte| byte == b',').map(trim_blanks) {
                note(option);
            }
        }
    }
    keeps && !closes
}

pub(super) struct RequestLine<'b> {
    pub method: &'b str,
    pub target_text: &'b str,
    version: Version,
}

impl<'b> RequestLine<'b> {
    /// Reads a request line with its CRLF from the start of `bytes`, and returns what follows it. `None` unless it has
    /// its usual form, without blanks after the version. The target contains only characters of targets.
    fn parse_first(bytes: &'b [u8]) -> Option<(Self, &'b [u8])> {
        let method_bytes = token_length(bytes);
        if !(1..=METHOD_LIMIT_BYTES).contains(&method_bytes) {
            return None;
        }
        let target = bytes.get(method_bytes..)?.strip_prefix(b" ")?;
        let target_bytes = target_length(target);
        if target_bytes == 0 {
            return None;
        }
        let (version, rest) = target.get(target_bytes..)?.split_at_checked(b" HTTP/1.1\r\n".len())?;
        let version = Version::parse(version.strip_prefix(b" ")?.strip_suffix(b"\r\n")?)?;
        let text = str::from_utf8(bytes.get(..method_bytes + 1 + target_bytes)?).ok()?;
        let (method, target_text) = (text.get(..method_bytes)?, text.get(method_bytes + 1..)?);
        Some((Self { method, target_text, version }, rest))
    }

    pub fn parse(line: &'b [u8]) -> Result<Self, RequestError> {
        let end = line.iter().rposition(|&byte| !is_blank(byte)).map_or(0, |last| last + 1);
        let mut words = line[..end].split(|&byte| byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(RequestError::InvalidRequestLine);
        };
        if method.len() > METHOD_LIMIT_BYTES && method.iter().copied().all(is_token_char) {
            return Err(RequestError::MethodTooLong);
        }
        if method.is_empty() || !method.iter().copied().all(is_token_char) {
            return Err(RequestError::InvalidMethod);
        }
        let Some(version) = Version::parse(version) else {
            return Err(if looks_like_version(version) {
                RequestError::UnsupportedVersion
            } else {
                RequestError::InvalidRequestLine
            });
        };
        let as_text = |bytes: &'b [u8]| str::from_utf8(bytes).ok().filter(|text| !text.is_empty());
        Ok(Self {
            method: as_text(method).ok_or(RequestError::InvalidMethod)?,
            target_text: as_text(target).ok_or(TargetError::InvalidCharacter)?,
            version,
        })
    }
}

pub(super) fn skip_blank_lines(mut bytes: &[u8]) -> &[u8] {
    for _ in 0..LEADING_BLANK_LINES_MAX {
        let Some(rest) = bytes.strip_prefix(b"\r\n") else {
            break;
        };
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Authority, AuthorityError, Host};

    fn with<T>(head: &[u8], check: impl FnOnce(Result<RequestHead<'_>, RequestError>) -> T) -> T {
        check(RequestHead::parse(head, &mut FieldStorage::new()))
    }

    fn rejected(head: &[u8]) -> RequestError {
        with(head, |head| head.map(|_| ()).unwrap_err())
    }

    #[test]
    fn a_connect_is_parsed() {
        with(b"\r\nCONNECT h.example:443 HTTP/1.1\r\nHost: h.example:443\r\nUser-Agent:Mozilla \r\n\r\n", |head| {
            let head = head.unwrap();
            assert!(head.is_connect());
            assert_eq!(head.version, Version::Http11);
            assert_eq!(head.target_text, "h.example:443");
            assert_eq!(head.target, RequestTarget::Authority(Authority { host: Host::Name("h.example"), port: 443 }));
            assert_eq!(head.fields.get("user-agent"), Some(&b"Mozilla"[..]));
            assert_eq!(head.framing, BodyFraming::None);
            assert!(head.persists());
        });
    }

    #[test]
    fn the_framing_of_a_post_is_parsed() {
        with(b"POST http://h/a HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\n", |head| {
            assert_eq!(head.unwrap().framing, BodyFraming::Length(12))
        });
    }

    #[test]
    fn blanks_after_the_version_are_ignored() {
        with(b"CONNECT h:1 HTTP/1.0 \t\r\n\r\n", |head| {
            assert_eq!(head.unwrap().version, Version::Http10);
        });
    }

    #[test]
    fn an_invalid_request_line_is_rejected() {
        use RequestError::*;
        for (head, error, status) in [
            (&b"GET /\r\n\r\n"[..], InvalidRequestLine, 400),
            (b"GET  / HTTP/1.1\r\n\r\n", InvalidRequestLine, 400),
            (b" GET / HTTP/1.1\r\n\r\n", InvalidRequestLine, 400),
            (b"GET / a HTTP/1.1\r\n\r\n", InvalidRequestLine, 400),
            (b"GET / HTTP/x.1\r\n\r\n", InvalidRequestLine, 400),
            (b"GET\t/\tHTTP/1.1\r\n\r\n", InvalidRequestLine, 400),
            (b" / HTTP/1.1\r\n\r\n", InvalidMethod, 400),
            (b"\r\n\r\n\r\n\r\n\r\n", InvalidRequestLine, 400),
            (b"", InvalidRequestLine, 400),
            (b"G\"T / HTTP/1.1\r\n\r\n", InvalidMethod, 400),
            (b"G\xffT / HTTP/1.1\r\n\r\n", InvalidMethod, 400),
            (b"GET / HTTP/2.0\r\n\r\n", UnsupportedVersion, 505),
            (b"PRI * HTTP/2.0\r\n\r\n", UnsupportedVersion, 505),
            (b"GET / HTTP/1.2\r\n\r\n", UnsupportedVersion, 505),
            (b"GET / HTTP/0.9\r\n\r\n", UnsupportedVersion, 505),
            (b"GET  HTTP/1.1\r\n\r\n", TargetError::InvalidCharacter.into(), 400),
            (b"GET /\xff HTTP/1.1\r\n\r\n", TargetError::InvalidCharacter.into(), 400),
            (b"GET /\0 HTTP/1.1\r\n\r\n", TargetError::InvalidCharacter.into(), 400),
            (b"GET https://h/ HTTP/1.1\r\n\r\n", TargetError::UnsupportedScheme.into(), 501),
            (b"CONNECT h HTTP/1.1\r\n\r\n", TargetError::from(AuthorityError::MissingPort).into(), 400),
        ] {
            let got = rejected(head);
            assert_eq!(got, error, "{head:?}");
            assert_eq!(got.status(), status, "{head:?}");
        }
    }

    #[test]
    fn invalid_fields_are_rejected() {
        use FieldError::*;
        for (fields, error) in [
            ("A: b\nC: d\r\n", BareLineEnd),
            ("A: b\rC: d\r\n", BareLineEnd),
            ("A: b\r\n c\r\n", Folded { line: 2 }),
            ("A : b\r\n", BlankBeforeColon { line: 1 }),
            ("A: b\0c\r\n", InvalidValue { line: 1 }),
            (": b\r\n", InvalidName { line: 1 }),
            ("A\r\n", MissingColon { line: 1 }),
        ] {
            let head = format!("CONNECT h:1 HTTP/1.1\r\n{fields}\r\n");
            let got = rejected(head.as_bytes());
            assert_eq!(got, RequestError::Field(error), "{fields:?}");
            assert_eq!(got.status(), 400);
        }
        let many = "A: b\r\n".repeat(crate::http::FIELDS_MAX + 1);
        let got = rejected(format!("CONNECT h:1 HTTP/1.1\r\n{many}\r\n").as_bytes());
        assert_eq!(got.status(), 431);
    }

    #[test]
    fn a_connect_with_content_is_rejected() {
        let connect = |fields: &str| {
            let head = format!("CONNECT h:1 HTTP/1.1\r\n{fields}\r\n");
            with(head.as_bytes(), |head| head.map(|head| head.framing))
        };
        assert_eq!(connect("Content-Length: 0\r\n"), Ok(BodyFraming::Length(0)));
        for fields in ["Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n"] {
            assert_eq!(connect(fields), Err(RequestError::ConnectWithContent));
        }
        let both = "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n";
        assert_eq!(connect(both).unwrap_err().status(), 400);
        let coding = RequestError::from(FramingError::UnsupportedCoding);
        assert_eq!(coding.status(), 501);
    }

    #[test]
    fn host_is_required_in_http_1_1_except_for_connect() {
        assert_eq!(rejected(b"GET http://h/ HTTP/1.1\r\n\r\n"), RequestError::MissingHost);
        with(b"GET http://h/ HTTP/1.0\r\n\r\n", |head| assert!(head.is_ok()));
        with(b"CONNECT h:1 HTTP/1.1\r\n\r\n", |head| assert!(head.is_ok()));
        with(b"CONNECT h:1 HTTP/1.1\r\nHost:\r\n\r\n", |head| assert!(head.is_ok()));
        assert_eq!(rejected(b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\nhost: h\r\n\r\n"), RequestError::DuplicateHost);
        assert_eq!(rejected(b"CONNECT h:1 HTTP/1.1\r\nHost: h, i\r\n\r\n"), RequestError::InvalidHost);
    }

    #[test]
    fn persistence_depends_on_version_and_connection_options() {
        for (version, fields, expected) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Proxy-Connection: Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Proxy-Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let head = format!("CONNECT h:1 HTTP/{version}\r\n{fields}\r\n");
            with(head.as_bytes(), |head| {
                assert_eq!(head.unwrap().persists(), expected, "{version} {fields}");
            });
        }
    }
}
