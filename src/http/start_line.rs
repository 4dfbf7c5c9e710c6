//! What request heads and response heads have in common: version, line endings, start line.

/// The HTTP version of a message. Only these two are supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

impl Version {
    /// The version as written in a message.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"HTTP/1.0" => Some(Self::Http10),
            b"HTTP/1.1" => Some(Self::Http11),
            _ => None,
        }
    }
}

/// Whether `text` has the syntax of an HTTP version (RFC 9112 §2.3), supported or not.
pub(super) fn looks_like_version(text: &[u8]) -> bool {
    matches!(text, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// A CR without LF, or a LF without CR (RFC 9112 §2.2). Parsers disagree on whether it ends a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BareLineEnd;

/// Rejects heads in which a CR or LF is not part of a CRLF.
///
/// It compares all pairs of adjacent bytes without an early exit, so that the compiler can vectorise the loop.
pub(super) fn check_line_ends(head: &[u8]) -> Result<(), BareLineEnd> {
    let at_edge = head.first() == Some(&b'\n') || head.last() == Some(&b'\r');
    let next = head.get(1..).unwrap_or_default();
    let inside =
        head.iter().zip(next).fold(false, |bare, (first, second)| bare | ((*first == b'\r') != (*second == b'\n')));
    if at_edge || inside { Err(BareLineEnd) } else { Ok(()) }
}

/// Splits a head into the start line, without its CRLF, and the field section. `None` if the first line does not end in
/// CRLF.
pub(super) fn split_start_line(head: &[u8]) -> Option<(&[u8], &[u8])> {
    let line_feed = memchr::memchr(b'\n', head)?;
    let (line, section) = head.split_at_checked(line_feed + 1)?;
    Some((line.strip_suffix(b"\r\n")?, section))
}

/// Whether `byte` is SP or HTAB, the whitespace of OWS and BWS (RFC 9110 §5.6.3).
pub(super) fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Whether `byte` may occur in a token (RFC 9110 §5.6.2).
#[inline]
pub(super) fn is_token_char(byte: u8) -> bool {
    IS_TOKEN_CHAR[usize::from(byte)]
}

const IS_TOKEN_CHAR: [bool; 256] = table_of(b"!#$%&'*+-.^_`|~");

/// A table of the letters, the digits and these marks, by their bytes.
pub(super) const fn table_of(marks: &[u8]) -> [bool; 256] {
    let (mut table, mut byte) = ([false; 256], 0_u8);
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut place = 0;
    while place < marks.len() {
        table[marks[place] as usize] = true;
        place += 1;
    }
    table
}

/// `text` without leading and trailing blanks.
pub(super) fn trim_blanks(text: &[u8]) -> &[u8] {
    let text = trim_blanks_start(text);
    let len = text.iter().rposition(|&byte| !is_blank(byte)).map_or(0, |last| last + 1);
    text.get(..len).unwrap_or_default()
}

/// `text` without leading blanks.
pub(super) fn trim_blanks_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&byte| !is_blank(byte)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_cr_or_lf_is_rejected() {
        assert_eq!(check_line_ends(b"a\r\nb\r\n\r\n"), Ok(()));
        assert_eq!(check_line_ends(b""), Ok(()));
        for bad in [&b"a\nb\r\n"[..], b"a\rb\r\n", b"\na", b"a\r", b"\r\r\n", b"\n\r"] {
            assert_eq!(check_line_ends(bad), Err(BareLineEnd), "{bad:?}");
        }
    }

    #[test]
    fn token_characters_are_those_of_rfc_9110() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token_char(byte), expected, "{byte}");
        }
    }

    #[test]
    fn blanks_are_trimmed_at_both_ends() {
        assert_eq!(trim_blanks(b" \t a b \t"), b"a b");
        assert_eq!(trim_blanks(b" \t "), b"");
        assert_eq!(trim_blanks(b""), b"");
    }

    #[test]
    fn versions_are_recognised_by_their_syntax() {
        assert!(looks_like_version(b"HTTP/2.0"));
        assert!(!looks_like_version(b"HTTP/2"));
        assert!(!looks_like_version(b"http/1.1"));
        assert_eq!(Version::parse(b"HTTP/1.1"), Some(Version::Http11));
        assert_eq!(Version::parse(b"HTTP/1.2"), None);
    }
}
