//! Method and target of a rejected request, as far as they can be read, for the access log.

use super::request_head::RequestLine;
use super::start_line::split_start_line;
use super::target::RequestTarget;

/// The longest target, in bytes. Longer targets are truncated.
const TARGET_LIMIT_BYTES: usize = 300;

/// A printable method and target. Either is empty if it could not be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RequestSummary {
    /// A token (RFC 9110 §5.6.2).
    pub method: Box<str>,
    /// `host:port` for CONNECT and for `http` URLs, `scheme://host` for other URLs, at most 300 bytes. Never contains
    /// path, query or user information, which may hold secrets.
    pub target: Box<str>,
}

impl RequestSummary {
    /// Reads the request line at the start of `head`, whatever is wrong with the rest. If the line is incomplete or
    /// invalid, both fields are empty.
    pub fn of(head: &[u8]) -> RequestSummary {
        let line = split_start_line(super::request_head::skip_blank_lines(head)).map(|(line, _)| line);
        let Some(Ok(line)) = line.map(RequestLine::parse) else { return RequestSummary::default() };
        RequestSummary { method: line.method.into(), target: cut(&target(line.method, line.target_text)) }
    }
}

fn target(method: &str, text: &str) -> String {
    match RequestTarget::parse(method, text) {
        Ok(RequestTarget::Authority(authority) | RequestTarget::Absolute { authority, .. }) => authority.to_string(),
        // Not a proxy request, so there is no host to log.
        Ok(RequestTarget::Origin(_) | RequestTarget::Asterisk) => String::new(),
        Err(_) => target_of_other_scheme(text).unwrap_or_default(),
    }
}

fn target_of_other_scheme(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let is_plain = scheme.bytes().all(is_scheme) && host.bytes().all(|byte| byte.is_ascii_graphic());
    (is_plain && !scheme.is_empty() && !host.is_empty()).then(|| format!("{scheme}://{host}"))
}

fn cut(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(TARGET_LIMIT_BYTES)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(head: &str) -> (String, String) {
        let summary = RequestSummary::of(head.as_bytes());
        (summary.method.into(), summary.target.into())
    }

    #[test]
    fn the_summary_omits_path_query_and_user_information() {
        for (line, method, target) in [
            ("CONNECT a.test:443 HTTP/1.1", "CONNECT", "a.test:443"),
            ("GET http://a.test/secret?token=1 HTTP/1.1", "GET", "a.test:80"),
            ("GET ftp://joe:secret@a.test:21/x HTTP/1.1", "GET", "ftp://a.test:21"),
            ("POST https://a.test?token=1 HTTP/1.1", "POST", "https://a.test"),
            ("GET /secret HTTP/1.1", "GET", ""),
            ("CONNECT 0x7f.1:80 HTTP/1.1", "CONNECT", ""),
            ("OPTIONS * HTTP/1.1", "OPTIONS", ""),
            ("nonsense", "", ""),
            ("GET", "", ""),
        ] {
            let found = summary(&format!("{line}\r\nHost: x\r\nNo colon\r\n\r\n"));
            assert_eq!(found, (method.to_owned(), target.to_owned()), "{line}");
        }
    }

    #[test]
    fn long_targets_are_truncated_and_unprintable_ones_omitted() {
        assert_eq!(summary(&format!("GET ftp://{}/ HTTP/1.1\r\n\r\n", "a".repeat(5000))).1.len(), TARGET_LIMIT_BYTES);
        assert_eq!(summary("GET ftp://a\u{1b}[2J/ HTTP/1.1\r\n\r\n").1, "");
    }
}
