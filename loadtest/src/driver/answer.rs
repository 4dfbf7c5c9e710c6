//! Parses answers to plain HTTP requests, as far as this client needs to.

use super::tally::Failure;

/// Longest head of an answer.
const HEAD_LIMIT_BYTES: usize = 16 * 1024;

/// A complete answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
    /// The connection can be reused.
    pub keeps: bool,
    /// Bytes that were read, including interim answers.
    pub bytes: usize,
}

/// Parses the answer at the front of `bytes`; `None` if it is incomplete.
///
/// # Errors
/// If it is not HTTP, or has no Content-Length.
pub fn read(bytes: &[u8]) -> Result<Option<Answer<'_>>, Failure> {
    let mut begin = 0;
    loop {
        let rest = bytes.get(begin..).unwrap_or_default();
        let Some(length) = rest.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
            return if rest.len() > HEAD_LIMIT_BYTES { Err(Failure::NoAnswer) } else { Ok(None) };
        };
        let head = rest.get(..length).and_then(|head| std::str::from_utf8(head).ok()).ok_or(Failure::NoAnswer)?;
        let (version, status) = status_line(head).ok_or(Failure::NoAnswer)?;
        if (100..200).contains(&status) {
            begin += length;
            continue;
        }
        let value = |name: &str| {
            let lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
            lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
        };
        let body: usize = value("content-length").and_then(|value| value.parse().ok()).ok_or(Failure::NoLength)?;
        let says = |word: &str| {
            ["connection", "proxy-connection"].iter().any(|name| {
                let value = value(name).unwrap_or_default();
                value.split(',').any(|option| option.trim().eq_ignore_ascii_case(word))
            })
        };
        let keeps = if version == "1.0" { says("keep-alive") } else { !says("close") };
        return Ok(rest.get(length..length + body).map(|body_bytes| Answer {
            status,
            body: body_bytes,
            keeps,
            bytes: begin + length + body,
        }));
    }
}

fn status_line(head: &str) -> Option<(&str, u16)> {
    let mut words = head.split("\r\n").next()?.strip_prefix("HTTP/")?.split(' ');
    Some((words.next()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_returned_once_its_body_is_complete() {
        let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\n\r\nhello!";
        for length in 0..bytes.len() - 1 {
            assert_eq!(read(&bytes[..length]).unwrap(), None, "{length}");
        }
        let answer = read(bytes).unwrap().unwrap();
        assert_eq!(answer, Answer { status: 200, body: b"hello", keeps: true, bytes: bytes.len() - 1 });
    }

    #[test]
    fn the_answer_decides_whether_the_connection_is_kept() {
        let keeps = |text: &str| read(text.as_bytes()).unwrap().unwrap().keeps;
        assert!(!keeps("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Upgrade, Close\r\n\r\n"));
        assert!(!keeps("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(keeps("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nProxy-Connection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn answers_without_a_length_or_not_http_are_errors() {
        assert!(matches!(read(b"HTTP/1.1 200 OK\r\n\r\n"), Err(Failure::NoLength)));
        assert!(matches!(read(b"SSH-2.0\r\n\r\n"), Err(Failure::NoAnswer)));
    }
}
