//! What a request that is not served asked for, as far as it can be told: for the log.

use super::request_head::RequestLine;
use super::start_line::split_start_line;
use super::target::RequestTarget;

/// The longest target, in bytes. What is longer is cut.
const TARGET_LIMIT_BYTES: usize = 300;

/// A method and a target, printable; either is empty where it could not be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// A token.
    pub method: Box<str>,
    /// `host:port` of a CONNECT or an `http` URL, `scheme://host` of another URL. No path and no user, which may hold secrets.
    pub target: Box<str>,
}

impl Asked {
    /// Reads the first line of a whole head, whatever is wrong with the rest.
    pub fn of(head: &[u8]) -> Asked {
        let line = split_start_line(super::request_head::skip_blank_lines(head)).map(|(line, _)| line);
        let Some(Ok(line)) = line.map(RequestLine::parse) else { return Asked::default() };
        Asked { method: line.method.into(), target: cut(&target(line.method, line.target_text)) }
    }
}

fn target(method: &str, text: &str) -> String {
    match RequestTarget::parse(method, text) {
        Ok(RequestTarget::Authority(authority) | RequestTarget::Absolute { authority, .. }) => authority.to_string(),
        // The client takes the gateway for an origin.
        Ok(RequestTarget::Origin(_) | RequestTarget::Asterisk) => String::new(),
        Err(_) => of_other_scheme(text).unwrap_or_default(),
    }
}

fn of_other_scheme(text: &str) -> Option<String> {
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

    fn asked(head: &str) -> (String, String) {
        let asked = Asked::of(head.as_bytes());
        (asked.method.into(), asked.target.into())
    }

    #[test]
    fn method_and_target_are_told_without_what_may_be_secret() {
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
            let found = asked(&format!("{line}\r\nHost: x\r\nNo colon\r\n\r\n"));
            assert_eq!(found, (method.to_owned(), target.to_owned()), "{line}");
        }
    }

    #[test]
    fn what_is_long_is_cut_and_what_is_not_printable_is_left_out() {
        assert_eq!(asked(&format!("GET ftp://{}/ HTTP/1.1\r\n\r\n", "a".repeat(5000))).1.len(), TARGET_LIMIT_BYTES);
        assert_eq!(asked("GET ftp://a\u{1b}[2J/ HTTP/1.1\r\n\r\n").1, "");
    }
}
