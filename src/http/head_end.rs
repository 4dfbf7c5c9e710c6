//! Finds the end of a head, scanning every byte only once.

use memchr::memchr;

/// How many empty lines before a request line are skipped (RFC 9112 §2.2 requires at least one).
pub(super) const LEADING_BLANK_LINES_MAX: u8 = 4;

/// The head does not end within the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the head does not end within {limit_bytes} bytes")]
pub struct HeadTooLarge {
    /// The limit, in bytes.
    pub limit_bytes: usize,
}

/// Looks for the empty line that ends a head. It remembers how far it has scanned, so a head that arrives one byte at a
/// time costs no more than one that arrives whole.
///
/// An empty line that ends in a bare LF ends the head too. The parsers reject such a head, and finding its end here
/// lets them do so at once instead of leaving the peer to a timeout.
#[derive(Debug, Clone)]
pub struct HeadEnd {
    /// Where the start line begins, after any empty lines that were skipped.
    start: u8,
    /// Invariant: every LF before this index has been examined, and none of them ended the head.
    scanned: usize,
    blank_lines_left: u8,
    /// The index after the LF of the start line; 0 until that has arrived.
    line_end: usize,
}

impl HeadEnd {
    /// For a request: skips up to four empty lines before the request line (RFC 9112 §2.2).
    pub fn request() -> Self {
        Self { start: 0, scanned: 0, blank_lines_left: LEADING_BLANK_LINES_MAX, line_end: 0 }
    }

    /// For a response, which must begin with its status line.
    pub fn response() -> Self {
        Self { start: 0, scanned: 0, blank_lines_left: 0, line_end: 0 }
    }

    /// Whether it has not looked at anything.
    pub fn is_new(&self) -> bool {
        self.start == 0 && self.scanned == 0
    }

    /// Returns the length in bytes of the head at the start of `buf`, including its final empty line and any skipped
    /// empty lines before it, or `None` if more bytes are needed. Bytes after the head are leftover.
    ///
    /// `buf` must be the buffer of the previous call, with bytes appended only.
    ///
    /// # Errors
    /// [`HeadTooLarge`] if `buf` holds at least `limit_bytes` and the head does not end within them.
    pub fn find(&mut self, buf: &[u8], limit_bytes: usize) -> Result<Option<usize>, HeadTooLarge> {
        let window = &buf[..buf.len().min(limit_bytes)];
        self.skip_blank_lines(window);
        while let Some(step) = window.get(self.scanned..).and_then(|unseen| memchr(b'\n', unseen)) {
            let line_feed = self.scanned + step;
            self.scanned = line_feed + 1;
            if self.line_end == 0 {
                self.line_end = line_feed + 1;
            }
            if self.ends_head(window, line_feed) {
                return Ok(Some(line_feed + 1));
            }
        }
        self.scanned = self.scanned.max(window.len());
        if buf.len() >= limit_bytes {
            return Err(HeadTooLarge { limit_bytes });
        }
        Ok(None)
    }

    /// The start line with its line ending, as soon as [`HeadEnd::find`] has seen it, even if the head is incomplete.
    pub fn start_line<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        buf.get(usize::from(self.start)..self.line_end).filter(|line| !line.is_empty())
    }

    fn skip_blank_lines(&mut self, window: &[u8]) {
        while self.blank_lines_left > 0 {
            match window.get(usize::from(self.start)..) {
                Some([b'\r', b'\n', ..]) => {
                    self.start += 2;
                    self.scanned = self.scanned.max(self.start.into());
                    self.blank_lines_left -= 1;
                }
                Some([] | [b'\r']) | None => return,
                Some(_) => self.blank_lines_left = 0,
            }
        }
    }

    fn ends_head(&self, window: &[u8], line_feed: usize) -> bool {
        match window.get(usize::from(self.start)..line_feed) {
            Some([.., b'\n', b'\r'] | [.., b'\n']) => true,
            // An empty start line is invalid, whatever follows.
            Some([b'\r'] | []) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";

    #[test]
    fn finds_the_end_before_leftover_bytes() {
        let mut buf = HEAD.to_vec();
        buf.extend_from_slice(b"\x16\x03\x01\r\n\r\n");
        assert_eq!(HeadEnd::request().find(&buf, 1024), Ok(Some(HEAD.len())));
    }

    #[test]
    fn finds_the_end_at_every_split() {
        for split in 0..HEAD.len() {
            let mut end = HeadEnd::request();
            assert_eq!(end.find(&HEAD[..split], 1024), Ok(None), "at {split}");
            assert_eq!(end.find(HEAD, 1024), Ok(Some(HEAD.len())), "from {split}");
        }
    }

    #[test]
    fn finds_the_end_when_bytes_come_one_at_a_time() {
        for head in [HEAD, b"\r\n\r\nGET / HTTP/1.0\r\n\r\n"] {
            let mut end = HeadEnd::request();
            for len in 0..head.len() {
                assert_eq!(end.find(&head[..len], 1024), Ok(None));
            }
            assert_eq!(end.find(head, 1024), Ok(Some(head.len())));
        }
    }

    #[test]
    fn scans_every_byte_once() {
        let buf = vec![b'a'; 300];
        let mut end = HeadEnd::response();
        for len in 0..buf.len() {
            assert_eq!(end.find(&buf[..len], 1024), Ok(None));
            assert_eq!(end.scanned, len);
        }
    }

    #[test]
    fn the_start_line_is_available_before_the_head_is_complete() {
        let head = b"\r\nGET / HTTP/1.0\r\nA: b\r\n";
        for length in 0..=head.len() {
            let mut end = HeadEnd::request();
            assert_eq!(end.find(&head[..length], 1024), Ok(None));
            let expected = (length >= 18).then_some(&b"GET / HTTP/1.0\r\n"[..]);
            assert_eq!(end.start_line(&head[..length]), expected, "{length}");
        }
    }

    #[test]
    fn a_few_blank_lines_are_skipped_before_a_request_only() {
        let head = b"\r\n\r\nGET / HTTP/1.0\r\n\r\n";
        assert_eq!(HeadEnd::request().find(head, 1024), Ok(Some(head.len())));
        assert_eq!(HeadEnd::response().find(head, 1024), Ok(Some(2)));
        let blank = b"\r\n".repeat(usize::from(LEADING_BLANK_LINES_MAX) + 1);
        assert_eq!(HeadEnd::request().find(&blank, 1024), Ok(Some(blank.len())));
    }

    #[test]
    fn bare_line_feeds_end_a_head_too() {
        let head = b"GET / HTTP/1.0\nA: b\n\n";
        assert_eq!(HeadEnd::request().find(head, 1024), Ok(Some(head.len())));
    }

    #[test]
    fn the_limit_is_exact() {
        let len = HEAD.len();
        assert_eq!(HeadEnd::request().find(HEAD, len), Ok(Some(len)));
        assert_eq!(HeadEnd::request().find(HEAD, len - 1), Err(HeadTooLarge { limit_bytes: len - 1 }));
        assert!(HeadEnd::request().find(&HEAD[..8], 8).is_err());
        assert_eq!(HeadEnd::request().find(&HEAD[..8], 9), Ok(None));
    }
}
