//! What a client speaks that thinks it talks to its origin.

use crate::http;

/// What the first bytes of a connection show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// Too little has come.
    Unclear,
    /// A TLS handshake.
    Tls,
    /// An HTTP/1 request.
    Http,
    /// Neither.
    Other,
}

/// The type of a handshake record and the major version of all TLS records.
const TLS: [u8; 2] = [22, 3];

/// Looks at the first bytes, as few as possible: a client of another protocol may wait for an answer to them.
pub(super) fn spoken(bytes: &[u8]) -> Spoken {
    if let Some(spoken) = begins(bytes, &TLS, Spoken::Tls) {
        return spoken;
    }
    // RFC 9112 §2.2: an empty line before a request is skipped.
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    if bytes.is_empty() || bytes == b"\r" {
        return Spoken::Unclear;
    }
    let is_method_byte = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-' || *byte == b'_';
    let length = bytes.iter().position(|byte| !is_method_byte(byte)).unwrap_or(bytes.len());
    let (method, rest) = bytes.split_at(length);
    match rest {
        _ if length == 0 || length > http::METHOD_LIMIT_BYTES => Spoken::Other,
        // It could go on like a request, whose reader would take it for SSH or not as it happens to be split.
        _ if method.starts_with(b"SSH-") => Spoken::Other,
        [] => Spoken::Unclear,
        [b' ', target @ ..] => spoken_by_target(method, target),
        _ => Spoken::Other,
    }
}

/// By what follows the method: other protocols have words in capitals, too.
fn spoken_by_target(method: &[u8], target: &[u8]) -> Spoken {
    match (method, target) {
        // The beginning of HTTP/2 (RFC 9113 §3.4), which is not read.
        (b"PRI", _) => Spoken::Other,
        (b"CONNECT", _) => Spoken::Http,
        (_, []) => Spoken::Unclear,
        (_, [b'/', ..]) | (b"OPTIONS", [b'*', ..]) => Spoken::Http,
        _ => begins(&target.to_ascii_lowercase(), b"http://", Spoken::Http).unwrap_or(Spoken::Other),
    }
}

/// Whether bytes begin with a prefix, as far as both go; `None` if they do not.
fn begins(bytes: &[u8], prefix: &[u8], spoken: Spoken) -> Option<Spoken> {
    match bytes.len() >= prefix.len() {
        true => bytes.starts_with(prefix).then_some(spoken),
        false => prefix.starts_with(bytes).then_some(Spoken::Unclear),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_recognised_by_as_few_bytes_as_possible() {
        for (text, needed, expected) in [
            (&b"\x16\x03\x01\x02\0"[..], 2, Spoken::Tls),
            (b"\x16\x02", 2, Spoken::Other),
            (b"GET / HTTP/1.1\r\n", 5, Spoken::Http),
            (b"\r\nGET /", 7, Spoken::Http),
            (b"M-SEARCH http://a/", 16, Spoken::Http),
            (b"OPTIONS * HTTP/1.1", 9, Spoken::Http),
            (b"GET HTTP://a.example/", 11, Spoken::Http),
            (b"CONNECT a.example:443", 8, Spoken::Http),
            // Redis, FTP, SMTP, IMAP, HTTP/2, SSH, git, PostgreSQL, AMQP, and a TLS client before TLS.
            (b"SET key value\r\n", 5, Spoken::Other),
            (b"SET httpd 1\r\n", 9, Spoken::Other),
            (b"PING\r\n", 5, Spoken::Other),
            (b"USER me\r\n", 6, Spoken::Other),
            (b"EHLO me\r\n", 6, Spoken::Other),
            (b"a1 LOGIN x\r\n", 1, Spoken::Other),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 4, Spoken::Other),
            (b"SSH-2.0-OpenSSH_9.2\r\n", 4, Spoken::Other),
            (b"SSH-X http://a/ HTTP/1.1\r\n", 4, Spoken::Other),
            (b"0032git-upload-pack /project\0host=a\0", 1, Spoken::Other),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", 1, Spoken::Other),
            (b"AMQP\0\0\x09\x01", 5, Spoken::Other),
            (b"\x80\x2e\x01\0\x02", 1, Spoken::Other),
            (b"\x05\x01\0", 1, Spoken::Other),
            (b"\r\n\r\n\0\r\nQUIT\n", 4, Spoken::Other),
        ] {
            for length in 0..=text.len() {
                let expected = if length < needed { Spoken::Unclear } else { expected };
                assert_eq!(spoken(&text[..length]), expected, "{} at {length}", text.escape_ascii());
            }
        }
    }

    #[test]
    fn a_word_longer_than_a_method_is_not_http() {
        let letters = [b'A'; http::METHOD_LIMIT_BYTES + 1];
        assert_eq!(spoken(&letters[1..]), Spoken::Unclear);
        assert_eq!(spoken(&letters), Spoken::Other);
    }
}
