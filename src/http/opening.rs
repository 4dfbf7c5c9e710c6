//! The first bytes of a client that does not speak HTTP: told as soon as they cannot begin a request any more, and by name
//! where they are known.

use super::head_end::LEADING_BLANK_LINES_MAX;
use super::request_head::METHOD_LIMIT_BYTES;
use super::start_line::is_token_char;

/// The first byte of a TLS record that holds a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// How the signature of a binary PROXY header (version 2) begins; a request has no NUL there.
const PROXY_SIGNATURE_START: &[u8] = b"\r\n\r\n\0";

/// What cannot begin a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotHttp {
    /// A TLS ClientHello.
    Tls,
    /// SOCKS4 or SOCKS4a.
    Socks4,
    /// SOCKS5 (RFC 1928).
    Socks5,
    /// The header by which load balancers tell the client's address, of either version.
    ProxyHeader,
    /// RFC 4253 §4.2
    Ssh,
    /// None of those.
    Unknown,
}

impl NotHttp {
    /// What to tell the client and the operator.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Tls => {
                "the client speaks TLS to the gateway: the proxy's own URL must begin with http://, also for https:// sites"
            }
            Self::Socks4 => {
                "the client speaks SOCKS4; this is an HTTP proxy: the proxy's URL must begin with http://, not socks4://"
            }
            Self::Socks5 => {
                "the client speaks SOCKS5; this is an HTTP proxy: the proxy's URL must begin with http://, not socks5://"
            }
            Self::ProxyHeader => {
                "the connection begins with a PROXY header, which the gateway does not take: \
                 switch it off (send-proxy, proxy_protocol) at the load balancer"
            }
            Self::Ssh => "the client speaks SSH; this is an HTTP proxy",
            Self::Unknown => "the first bytes cannot begin an HTTP request",
        }
    }
}

/// Looks at the bytes of an unfinished head. Few of them are looked at, so that this may be asked again with each byte.
///
/// `None` says that a request may still come of them: empty lines ahead of it, too (RFC 9112 §2.2).
pub fn what_else(bytes: &[u8]) -> Option<NotHttp> {
    if bytes.starts_with(PROXY_SIGNATURE_START) {
        return Some(NotHttp::ProxyHeader);
    }
    let mut rest = bytes;
    for _ in 0..LEADING_BLANK_LINES_MAX {
        rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
    }
    let named = match rest {
        [] | [b'\r'] => return None,
        [TLS_HANDSHAKE, ..] => NotHttp::Tls,
        [4, ..] => NotHttp::Socks4,
        [5, ..] => NotHttp::Socks5,
        _ if [&b"PROXY TCP4 "[..], b"PROXY TCP6 ", b"PROXY UNKNOWN"].iter().any(|text| rest.starts_with(text)) => {
            NotHttp::ProxyHeader
        }
        _ if rest.starts_with(b"SSH-") => NotHttp::Ssh,
        _ => NotHttp::Unknown,
    };
    if named != NotHttp::Unknown {
        return Some(named);
    }
    let method = rest.get(..=METHOD_LIMIT_BYTES).unwrap_or(rest);
    let end = method.iter().position(|&byte| !is_token_char(byte));
    match end.map(|end| (end, method[end])) {
        // A line without a blank is refused when it has ended.
        None | Some((1.., b' ' | b'\r' | b'\n')) => None,
        Some(_) => Some(NotHttp::Unknown),
    }
}

/// Whether the bytes of an unfinished head have a longer method than is taken.
pub fn has_overlong_method(bytes: &[u8]) -> bool {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let method = bytes.get(start..=start + METHOD_LIMIT_BYTES);
    method.is_some_and(|method| method.iter().copied().all(is_token_char))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_request_is_told_at_its_first_bytes_by_name() {
        for (bytes, expected) in [
            (&b"\x16\x03\x01\x02\x00"[..], NotHttp::Tls),
            (b"\x04\x01\x00\x50", NotHttp::Socks4),
            (b"\x05\x01\x00", NotHttp::Socks5),
            (b"\x05", NotHttp::Socks5),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", NotHttp::ProxyHeader),
            (b"PROXY UNKNOWN\r\n", NotHttp::ProxyHeader),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", NotHttp::ProxyHeader),
            (b"\r\n\r\n\0", NotHttp::ProxyHeader),
            (b"SSH-2.0-OpenSSH_9.2\r\n", NotHttp::Ssh),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", NotHttp::Unknown),
            (b"\x80\x2e\x01", NotHttp::Unknown),
            (b"GE\x01T", NotHttp::Unknown),
            (b" GET / HTTP/1.1", NotHttp::Unknown),
            (b"\rGET", NotHttp::Unknown),
            (b"\r\n\x05\x01", NotHttp::Socks5),
            (b"G\xc3\x89T", NotHttp::Unknown),
        ] {
            assert_eq!(what_else(bytes), Some(expected), "{}", bytes.escape_ascii());
            // Once told, told with whatever comes behind it.
            let more = [bytes, b"\r\n\r\n"].concat();
            assert_eq!(what_else(&more), Some(expected), "{}", more.escape_ascii());
        }
    }

    #[test]
    fn no_beginning_of_a_request_is_taken_for_anything_else() {
        for request in [
            &b"CONNECT a.example:443 HTTP/1.1\r\n\r\n"[..],
            b"\r\n\r\nGET http://a/ HTTP/1.1\r\n\r\n",
            b"\r\n\r\n\r\n\r\nGET http://a/ HTTP/1.1\r\n\r\n",
            b"PROXY http://a/ HTTP/1.1\r\n\r\n",
            b"M-SEARCH * HTTP/1.1\r\n\r\n",
            b"S http://a/\x80 HTTP/1.1\r\n\r\n",
        ] {
            for length in 0..request.len() {
                let bytes = &request[..length];
                assert_eq!(what_else(bytes), None, "{}", bytes.escape_ascii());
                assert!(!has_overlong_method(bytes));
            }
        }
    }

    #[test]
    fn a_method_is_too_long_at_its_sixty_fifth_letter() {
        let letters = [b'A'; METHOD_LIMIT_BYTES + 1];
        assert!(!has_overlong_method(&letters[..METHOD_LIMIT_BYTES]));
        assert!(!has_overlong_method(&[&letters[..METHOD_LIMIT_BYTES], b" "].concat()));
        assert!(has_overlong_method(&letters));
        assert!(has_overlong_method(&[b"\r\n", &letters[..]].concat()));
        assert_eq!(what_else(&letters), None);
    }
}
