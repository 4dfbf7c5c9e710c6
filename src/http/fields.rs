//! The header fields of a head (RFC 9110 §5, RFC 9112 §5).

use super::start_line::{is_blank, is_token_char, trim_blanks};
use httparse::{EMPTY_HEADER, Header, Status};
use std::fmt;

/// The most field lines that any head may have, whatever the limit of its [`FieldStorage`].
pub const FIELDS_MAX: usize = 10_000;

/// The most options in the Connection fields of a head. The limit bounds the work of [`Fields::end_to_end`].
pub const CONNECTION_OPTIONS_MAX: usize = 64;

/// Fields that are always hop-by-hop, whether Connection lists them or not (RFC 9110 §7.6.1, §11.7).
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The lengths of names, a bit for each. Most fields have none of the names that they are compared with, and this shows
/// it at once.
const fn lengths(names: &[&str]) -> u32 {
    let (mut lengths, mut place) = (0, 0);
    while place < names.len() {
        lengths |= 1 << names[place].len();
        place += 1;
    }
    lengths
}

fn has_length(name: &str, lengths: u32) -> bool {
    name.len() < 32 && lengths >> name.len() & 1 != 0
}

/// Whether a field with this name is hop-by-hop even if Connection does not list it (RFC 9110 §7.6.1, §11.7). Case is
/// ignored.
pub fn is_hop_by_hop(name: &str) -> bool {
    has_length(name, const { lengths(&HOP_BY_HOP) }) && HOP_BY_HOP.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Fields that determine where a message ends.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// Whether `name` differs from one of `names` only in its separators, so that lenient peers may take it for that one.
/// Behind a CGI-like interface, `Content_Length` and `Content.Length` become the same variable, `CONTENT_LENGTH`, as
/// `Content-Length`.
fn resembles(name: &str, names: &[&str]) -> bool {
    let normalize = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    let is_similar = |known: &&str| {
        known.len() == name.len() && known.bytes().eq(name.bytes().map(normalize)) && !known.eq_ignore_ascii_case(name)
    };
    names.iter().any(is_similar)
}

/// Whether a lenient peer may take this name for Content-Length or Transfer-Encoding although it is neither.
pub(super) fn resembles_framing(name: &str) -> bool {
    has_length(name, const { lengths(&FRAMING) }) && resembles(name, &FRAMING)
}

/// Whether a lenient peer may take this name for a hop-by-hop or framing field although it is none. Such fields are not
/// forwarded.
pub fn resembles_hop_by_hop(name: &str) -> bool {
    resembles_framing(name) || has_length(name, const { lengths(&HOP_BY_HOP) }) && resembles(name, &HOP_BY_HOP)
}

/// How many fields are stored inline, which is enough for most heads.
const INLINE_FIELDS_MAX: usize = 24;

/// Storage for the fields of one head, on the caller's stack. Only heads with more than 24 fields need an allocation.
pub struct FieldStorage<'b> {
    inline: [Header<'b>; INLINE_FIELDS_MAX],
    heap: Vec<Header<'b>>,
    limit: usize,
}

impl FieldStorage<'_> {
    /// Empty storage, about 1 KiB in size, for up to [`FIELDS_MAX`] field lines.
    pub fn new() -> Self {
        Self::with_limit(FIELDS_MAX)
    }

    /// Empty storage for up to `limit` field lines, but never more than [`FIELDS_MAX`]. Parsing a head with more lines
    /// fails with [`FieldError::TooManyFields`].
    pub fn with_limit(limit: usize) -> Self {
        Self { inline: [EMPTY_HEADER; INLINE_FIELDS_MAX], heap: Vec::new(), limit: limit.min(FIELDS_MAX) }
    }
}

impl Default for FieldStorage<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a field section is invalid. Lines are counted from 1, after the start line. The error contains no bytes from the
/// peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// A CR without LF, or a LF without CR (RFC 9112 §2.2).
    #[error("a CR or LF that is not part of a CRLF")]
    BareLineEnd,
    /// A field line that continues the one before it (RFC 9112 §5.2).
    #[error("field line {line} is folded (obs-fold)")]
    Folded {
        /// The line that begins with a blank.
        line: usize,
    },
    /// RFC 9112 §5.1
    #[error("field line {line} has a blank between name and colon")]
    BlankBeforeColon {
        /// The invalid line.
        line: usize,
    },
    /// RFC 9112 §5
    #[error("field line {line} has no colon")]
    MissingColon {
        /// The invalid line.
        line: usize,
    },
    /// The name is not a token (RFC 9110 §5.1).
    #[error("field line {line} has an empty or invalid name")]
    InvalidName {
        /// The invalid line.
        line: usize,
    },
    /// RFC 9110 §5.5
    #[error("field line {line} has a control character in its value")]
    InvalidValue {
        /// The invalid line.
        line: usize,
    },
    /// More than the limit of the [`FieldStorage`].
    #[error("more than {limit} field lines")]
    TooManyFields {
        /// The limit.
        limit: usize,
    },
    /// More than [`CONNECTION_OPTIONS_MAX`].
    #[error("more than {CONNECTION_OPTIONS_MAX} connection options")]
    TooManyConnectionOptions,
    /// The bytes are not exactly one complete head.
    #[error("the field section does not end at the end of the head")]
    Incomplete,
}

/// One field line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'b> {
    /// The name as sent, a token (RFC 9110 §5.1).
    pub name: &'b str,
    /// The value without leading and trailing blanks. It contains no control characters except HTAB.
    pub value: &'b [u8],
}

/// Prints only the name, because the value may be a secret.
impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The fields of a head, borrowed from its bytes, in their original order. Names are compared case-insensitively.
#[derive(Clone, Copy)]
pub struct Fields<'b> {
    headers: &'b [Header<'b>],
}

impl<'b> Fields<'b> {
    /// Parses a complete field section including its final empty line. The caller must have checked the line endings.
    pub(super) fn parse(section: &'b [u8], storage: &'b mut FieldStorage<'b>) -> Result<Self, FieldError> {
        let FieldStorage { inline, heap, limit } = storage;
        let limit = *limit;
        let parsed = match httparse::parse_headers(section, &mut inline[..limit.min(INLINE_FIELDS_MAX)]) {
            Err(httparse::Error::TooManyHeaders) => {
                let lines = section.iter().filter(|&&byte| byte == b'\n').count();
                heap.resize(lines.min(limit), EMPTY_HEADER);
                httparse::parse_headers(section, heap)
            }
            parsed => parsed,
        };
        match parsed {
            Ok(Status::Complete((len, headers))) if len == section.len() => {
                let fields = Self { headers };
                fields.check_connection_options()?;
                Ok(fields)
            }
            Ok(_) => Err(FieldError::Incomplete),
            Err(httparse::Error::TooManyHeaders) => Err(FieldError::TooManyFields { limit }),
            Err(_) => Err(diagnose(section)),
        }
    }

    fn check_connection_options(&self) -> Result<(), FieldError> {
        let options = self.get_all("connection").flat_map(|value| value.split(|&byte| byte == b',')).count();
        if options > CONNECTION_OPTIONS_MAX {
            return Err(FieldError::TooManyConnectionOptions);
        }
        Ok(())
    }

    /// All fields.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'b>> + use<'b> {
        self.headers.iter().map(|header| Field { name: header.name, value: header.value })
    }

    /// How many field lines there are.
    pub fn len(&self) -> usize {
        self.headers.len()
    }

    /// Whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// The value of the first field with this name.
    pub fn get(&self, name: &str) -> Option<&'b [u8]> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// Whether there is a field with this name.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The values of all fields with this name, in order.
    pub fn get_all(&self, name: &'static str) -> Values<'b> {
        Values { headers: self.headers.iter(), name }
    }

    /// The elements of a comma-separated list field, over all its lines (RFC 9110 §5.6.1). Elements are trimmed and
    /// empty ones omitted. Not for lists whose elements may contain quoted commas.
    pub fn list(&self, name: &'static str) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        self.get_all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(trim_blanks)
            .filter(|element| !element.is_empty())
    }

    /// Whether the list field `name` contains `token`. Case is ignored.
    pub fn has_token(&self, name: &'static str, token: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The end-to-end fields: all except hop-by-hop fields and those that Connection lists (RFC 9110 §7.6.1).
    ///
    /// Fields that a lenient peer may take for a hop-by-hop field ([`resembles_hop_by_hop`]) are omitted too.
    pub fn end_to_end(&self) -> impl Iterator<Item = Field<'b>> + use<'b> {
        // Collected once: a head may have thousands of fields, each of which is compared with every option.
        let options: Vec<&[u8]> = self.list("connection").collect();
        let is_option = move |name: &str| options.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes()));
        self.iter().filter(move |field| {
            !is_hop_by_hop(field.name) && !resembles_hop_by_hop(field.name) && !is_option(field.name)
        })
    }
}

/// Prints only the names, because values may be secrets.
impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// An iterator over the values of all fields with one name; see [`Fields::get_all`].
#[derive(Clone)]
pub struct Values<'b> {
    headers: std::slice::Iter<'b, Header<'b>>,
    name: &'static str,
}

impl<'b> Iterator for Values<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let name = self.name;
        self.headers.find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }
}

/// Finds out what is wrong with a field section that `httparse` has rejected.
fn diagnose(section: &[u8]) -> FieldError {
    let lines = section.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    for (index, text) in lines.enumerate() {
        let line = index + 1;
        if text.is_empty() {
            break;
        }
        if text.first().copied().is_some_and(is_blank) {
            return FieldError::Folded { line };
        }
        let mut parts = text.splitn(2, |&byte| byte == b':');
        let name = parts.next().unwrap_or_default();
        let Some(value) = parts.next() else {
            return FieldError::MissingColon { line };
        };
        if name.last().copied().is_some_and(is_blank) {
            return FieldError::BlankBeforeColon { line };
        }
        if name.is_empty() || !name.iter().copied().all(is_token_char) {
            return FieldError::InvalidName { line };
        }
        if value.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
            return FieldError::InvalidValue { line };
        }
    }
    FieldError::Incomplete
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(section: &[u8], check: impl FnOnce(Result<Fields<'_>, FieldError>) -> T) -> T {
        check(Fields::parse(section, &mut FieldStorage::new()))
    }

    #[test]
    fn names_are_case_insensitive_and_values_are_trimmed() {
        with(b"proxy-Connection: Keep-Alive \r\nUser-Agent:Mozilla/4.0\r\nEmpty:\r\nX:\t a\tb \t\r\n\r\n", |fields| {
            let fields = fields.unwrap();
            assert_eq!(fields.get("Proxy-Connection"), Some(&b"Keep-Alive"[..]));
            assert_eq!(fields.get("USER-AGENT"), Some(&b"Mozilla/4.0"[..]));
            assert_eq!(fields.get("empty"), Some(&b""[..]));
            assert_eq!(fields.get("x"), Some(&b"a\tb"[..]));
            assert_eq!(fields.get("y"), None);
            assert_eq!(fields.len(), 4);
        });
    }

    #[test]
    fn a_list_spans_all_lines_and_skips_empty_elements() {
        with(b"Connection: , Keep-Alive ,\tX-Secret\r\nOther: close\r\nconnection: Close\r\n\r\n", |fields| {
            let fields = fields.unwrap();
            let options: Vec<_> = fields.list("connection").collect();
            assert_eq!(options, [&b"Keep-Alive"[..], b"X-Secret", b"Close"]);
            assert!(fields.has_token("connection", "close"));
            assert!(!fields.has_token("connection", "keep"));
            assert_eq!(fields.get_all("connection").count(), 2);
        });
    }

    #[test]
    fn end_to_end_fields_exclude_hop_by_hop_fields() {
        let section = b"Host: a\r\nConnection: close, x-mine\r\nX-Mine: 1\r\nProxy-Connection: Keep-Alive\r\n\
            Keep-Alive: timeout=5\r\nProxy-Authorization: Basic c2VjcmV0\r\nProxy-Authenticate: NTLM\r\n\
            Proxy-Authentication-Info: x\r\nTE: trailers\r\nTrailer: A\r\nTransfer-Encoding: chunked\r\n\
            Upgrade: h2c\r\nUser-Agent: u\r\nX-Other: 2\r\n\r\n";
        with(section, |fields| {
            let names: Vec<_> = fields.unwrap().end_to_end().map(|field| field.name).collect();
            assert_eq!(names, ["Host", "User-Agent", "X-Other"]);
        });
    }

    #[test]
    fn errors_report_the_invalid_line() {
        let cases: [(&[u8], FieldError); 10] = [
            (b"A: b\r\n c\r\n\r\n", FieldError::Folded { line: 2 }),
            (b" A: b\r\n\r\n", FieldError::Folded { line: 1 }),
            (b"A : b\r\n\r\n", FieldError::BlankBeforeColon { line: 1 }),
            (b"A: b\r\nC\t: b\r\n\r\n", FieldError::BlankBeforeColon { line: 2 }),
            (b"A\r\n\r\n", FieldError::MissingColon { line: 1 }),
            (b": b\r\n\r\n", FieldError::InvalidName { line: 1 }),
            (b"A b: c\r\n\r\n", FieldError::InvalidName { line: 1 }),
            (b"A: b\0\r\n\r\n", FieldError::InvalidValue { line: 1 }),
            (b"A: b\x7f\r\n\r\n", FieldError::InvalidValue { line: 1 }),
            (b"A: b\r\n", FieldError::Incomplete),
        ];
        for (section, error) in cases {
            with(section, |fields| assert_eq!(fields.unwrap_err(), error, "{section:?}"));
        }
        with(b"A: b\r\n\r\nC: d\r\n\r\n", |fields| {
            assert_eq!(fields.unwrap_err(), FieldError::Incomplete);
        });
    }

    #[test]
    fn the_number_of_fields_is_limited_by_the_storage() {
        for limit in [1, 24, 25, 128, 1000, FIELDS_MAX] {
            for (count, fits) in [(limit, true), (limit + 1, false)] {
                let mut section = b"A: b\r\n".repeat(count);
                section.extend_from_slice(b"\r\n");
                let mut storage = FieldStorage::with_limit(limit);
                match Fields::parse(&section, &mut storage) {
                    Ok(fields) => assert!(fits && fields.len() == count, "{count} of {limit}"),
                    Err(error) => assert!(!fits && error == FieldError::TooManyFields { limit }, "{count} of {limit}"),
                }
            }
        }
    }

    #[test]
    fn fields_that_resemble_framing_or_hop_by_hop_fields_are_not_end_to_end() {
        let section = b"Content_Length: 5\r\nTransfer.Encoding: chunked\r\nProxy_Authorization: x\r\nKeep_Alive: 1\r\n\
            content_type: kept\r\nX-Content_Length: kept\r\nContentLength: kept\r\n\r\n";
        with(section, |fields| {
            let names: Vec<&str> = fields.unwrap().end_to_end().map(|field| field.name).collect();
            assert_eq!(names, ["content_type", "X-Content_Length", "ContentLength"]);
        });
        assert!(!resembles_hop_by_hop("Content-Length") && !resembles_hop_by_hop("connection"));
    }

    #[test]
    fn the_number_of_connection_options_is_limited() {
        for (options, fits) in [(CONNECTION_OPTIONS_MAX, true), (CONNECTION_OPTIONS_MAX + 1, false)] {
            let section = format!("Connection: {}\r\n\r\n", vec!["a"; options].join(","));
            with(section.as_bytes(), |fields| {
                assert_eq!(fields.is_ok(), fits);
            });
        }
    }

    #[test]
    fn debug_output_contains_no_values() {
        with(b"Proxy-Authorization: Basic c2VjcmV0\r\n\r\n", |fields| {
            let text = format!("{:?}", fields.unwrap());
            assert_eq!(text, "[Proxy-Authorization]");
        });
    }
}
