//! Recognises clients that do not speak HTTP by their first bytes, as soon as those cannot begin a request.

use super::head_end::LEADING_BLANK_LINES_MAX;
use super::request_head::METHOD_LIMIT_BYTES;
use super::start_line::is_token_char;

/// The first byte of a TLS alert record.
const TLS_ALERT: u8 = 21;
/// The first byte of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// The start of a PROXY protocol version 2 signature. No request has a NUL there.
const PROXY_SIGNATURE_START: &[u8] = b"\r\n\r\n\0";

/// A protocol other than HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherProtocol {
    /// A TLS ClientHello.
    Tls,
    /// SOCKS4 or SOCKS4a.
    Socks4,
    /// SOCKS5 (RFC 1928).
    Socks5,
    /// A PROXY protocol header, version 1 or 2, in which load balancers pass on the client's address.
    ProxyHeader,
    /// SSH (RFC 4253 §4.2).
    Ssh,
    /// None of the above.
    Unknown,
}

impl OtherProtocol {
    /// An explanation for the client and the operator.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Tls => {
                "the client speaks TLS to the gateway: the proxy URL must begin with http://, even for https:// sites"
            }
            Self::Socks4 => {
                "the client speaks SOCKS4, but only HTTP is served here: \
                 the proxy URL must begin with http://, not socks4://"
            }
            Self::Socks5 => {
                "the client speaks SOCKS5, but only HTTP is served here: \
                 the proxy URL must begin with http://, not socks5://"
            }
            Self::ProxyHeader => {
                "the connection begins with a PROXY header, which is accepted only from the networks in \
                 proxy_protocol_from of the listener: add the load balancer's, or turn it off there (send-proxy)"
            }
            Self::Ssh => {
                "the client speaks SSH to the gateway itself: it has to ask for a tunnel to its server, \
                 for example with ssh's ProxyCommand"
            }
            Self::Unknown => "the first bytes cannot begin an HTTP request",
        }
    }
}

/// Whether the bytes of a response begin with a record of TLS, such as the alert with which a server that expects TLS
/// answers plain HTTP.
pub fn is_tls_record(bytes: &[u8]) -> bool {
    matches!(bytes, [TLS_ALERT | TLS_HANDSHAKE, 3, ..])
}

/// Checks whether the bytes received so far can still become an HTTP request, possibly after empty lines
/// (RFC 9112 §2.2). Returns `None` if they can.
///
/// Looks at no more than the first [`METHOD_LIMIT_BYTES`] or so, so that it is cheap to call after every read.
pub fn detect_other_protocol(bytes: &[u8]) -> Option<OtherProtocol> {
    if bytes.starts_with(PROXY_SIGNATURE_START) {
        return Some(OtherProtocol::ProxyHeader);
    }
    let mut rest = bytes;
    for _ in 0..LEADING_BLANK_LINES_MAX {
        rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
    }
    let named = match rest {
        [] | [b'\r'] => return None,
        [TLS_HANDSHAKE, ..] => OtherProtocol::Tls,
        [4, ..] => OtherProtocol::Socks4,
        [5, ..] => OtherProtocol::Socks5,
        _ if [&b"PROXY TCP4 "[..], b"PROXY TCP6 ", b"PROXY UNKNOWN"].iter().any(|text| rest.starts_with(text)) => {
            OtherProtocol::ProxyHeader
        }
        _ if rest.starts_with(b"SSH-") => OtherProtocol::Ssh,
        _ => OtherProtocol::Unknown,
    };
    if named != OtherProtocol::Unknown {
        return Some(named);
    }
    let method = rest.get(..=METHOD_LIMIT_BYTES).unwrap_or(rest);
    let end = method.iter().position(|&byte| !is_token_char(byte));
    match end.map(|end| (end, method[end])) {
        // A request line without a space is rejected when it is complete.
        None | Some((1.., b' ' | b'\r' | b'\n')) => None,
        Some(_) => Some(OtherProtocol::Unknown),
    }
}

/// The first bytes in hexadecimal, for an explanation of what nothing could be made of.
pub fn first_bytes(bytes: &[u8]) -> String {
    let shown: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    shown.join(" ")
}

/// Whether the bytes received so far begin with a method longer than [`METHOD_LIMIT_BYTES`].
pub fn has_overlong_method(bytes: &[u8]) -> bool {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let method = bytes.get(start..=start + METHOD_LIMIT_BYTES);
    method.is_some_and(|method| method.iter().copied().all(is_token_char))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_recognised_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b"\x16\x03\x01\x02\x00"[..], OtherProtocol::Tls),
            (b"\x04\x01\x00\x50", OtherProtocol::Socks4),
            (b"\x05\x01\x00", OtherProtocol::Socks5),
            (b"\x05", OtherProtocol::Socks5),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", OtherProtocol::ProxyHeader),
            (b"PROXY UNKNOWN\r\n", OtherProtocol::ProxyHeader),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", OtherProtocol::ProxyHeader),
            (b"\r\n\r\n\0", OtherProtocol::ProxyHeader),
            (b"SSH-2.0-OpenSSH_9.2\r\n", OtherProtocol::Ssh),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", OtherProtocol::Unknown),
            (b"\x80\x2e\x01", OtherProtocol::Unknown),
            (b"GE\x01T", OtherProtocol::Unknown),
            (b" GET / HTTP/1.1", OtherProtocol::Unknown),
            (b"\rGET", OtherProtocol::Unknown),
            (b"\r\n\x05\x01", OtherProtocol::Socks5),
            (b"G\xc3\x89T", OtherProtocol::Unknown),
        ] {
            assert_eq!(detect_other_protocol(bytes), Some(expected), "{}", bytes.escape_ascii());
            // More bytes do not change the result.
            let more = [bytes, b"\r\n\r\n"].concat();
            assert_eq!(detect_other_protocol(&more), Some(expected), "{}", more.escape_ascii());
        }
    }

    #[test]
    fn no_prefix_of_a_request_is_taken_for_another_protocol() {
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
                assert_eq!(detect_other_protocol(bytes), None, "{}", bytes.escape_ascii());
                assert!(!has_overlong_method(bytes));
            }
        }
    }

    #[test]
    fn a_method_of_more_than_64_bytes_is_too_long() {
        let letters = [b'A'; METHOD_LIMIT_BYTES + 1];
        assert!(!has_overlong_method(&letters[..METHOD_LIMIT_BYTES]));
        assert!(!has_overlong_method(&[&letters[..METHOD_LIMIT_BYTES], b" "].concat()));
        assert!(has_overlong_method(&letters));
        assert!(has_overlong_method(&[b"\r\n", &letters[..]].concat()));
        assert_eq!(detect_other_protocol(&letters), None);
    }
}
