//! The header fields of a head (RFC 9110 §5, RFC 9112 §5).

use super::start_line::{is_blank, is_token_char, trim_blanks};
use httparse::{EMPTY_HEADER, Header, Status};
use std::fmt;

/// The most field lines that any head may have, whatever a [`FieldStorage`] was asked to hold.
pub const FIELDS_MAX: usize = 10_000;

/// The most options the Connection fields of a head may name; it bounds the work of [`Fields::end_to_end`].
pub const CONNECTION_OPTIONS_MAX: usize = 64;

/// Fields that speak of one connection only, whether Connection names them or not (RFC 9110 §7.6.1, §11.7).
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

/// Whether a field of this name, in any letter case, speaks of one connection only, even where Connection does not name
/// it (RFC 9110 §7.6.1, §11.7).
pub fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Fields that say where a message ends.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// Whether a lax peer may take this name for one of `names`: `Content_Length` and `Content.Length` become the variable
/// `CONTENT_LENGTH` behind a CGI-like interface, as `Content-Length` does.
fn is_lax_spelling(name: &str, names: &[&str]) -> bool {
    let letter = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    let is_lax = |known: &&str| {
        known.len() == name.len() && known.bytes().eq(name.bytes().map(letter)) && !known.eq_ignore_ascii_case(name)
    };
    names.iter().any(is_lax)
}

/// Whether a lax peer may take this name for Content-Length or Transfer-Encoding although it is neither.
pub(super) fn resembles_framing(name: &str) -> bool {
    is_lax_spelling(name, &FRAMING)
}

/// Whether a lax peer may take this name for a field that frames a message or speaks of one connection only although it
/// is none: such a field is not passed on.
pub fn resembles_hop_by_hop(name: &str) -> bool {
    resembles_framing(name) || is_lax_spelling(name, &HOP_BY_HOP)
}

/// How many fields the usual head has at most: room for them costs next to nothing to prepare.
const USUAL_FIELDS_MAX: usize = 24;

/// Room for the fields of one head, on the caller's stack. Parsing a usual head allocates nothing; the rare head that has
/// more fields gets as much room as it needs, up to the bound.
pub struct FieldStorage<'b> {
    usual: [Header<'b>; USUAL_FIELDS_MAX],
    many: Vec<Header<'b>>,
    most: usize,
}

impl FieldStorage<'_> {
    /// Empty room, about 1 KiB, for up to [`FIELDS_MAX`] field lines.
    pub fn new() -> Self {
        Self::for_at_most(FIELDS_MAX)
    }

    /// Empty room for up to `most` field lines, and never more than [`FIELDS_MAX`]; a head that has more is
    /// [`FieldError::TooManyFields`].
    pub fn for_at_most(most: usize) -> Self {
        Self { usual: [EMPTY_HEADER; USUAL_FIELDS_MAX], many: Vec::new(), most: most.min(FIELDS_MAX) }
    }
}

impl Default for FieldStorage<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// What is wrong with a field section. Lines are counted from 1 behind the start line; no bytes of the peer are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// RFC 9112 §2.2
    #[error("a CR or LF that is not part of a CRLF")]
    BareLineEnd,
    /// RFC 9112 §5.2
    #[error("field line {line} is folded (obs-fold)")]
    Folded {
        /// The line that begins with a blank.
        line: usize,
    },
    /// RFC 9112 §5.1
    #[error("field line {line} has a blank between name and colon")]
    BlankBeforeColon {
        /// The line at fault.
        line: usize,
    },
    /// RFC 9112 §5
    #[error("field line {line} has no colon")]
    MissingColon {
        /// The line at fault.
        line: usize,
    },
    /// RFC 9110 §5.1
    #[error("field line {line} has an empty or invalid name")]
    InvalidName {
        /// The line at fault.
        line: usize,
    },
    /// RFC 9110 §5.5
    #[error("field line {line} has a control character in its value")]
    InvalidValue {
        /// The line at fault.
        line: usize,
    },
    /// More than the [`FieldStorage`] was to hold.
    #[error("more than {most} field lines")]
    TooManyFields {
        /// The bound.
        most: usize,
    },
    /// More than [`CONNECTION_OPTIONS_MAX`].
    #[error("more than {CONNECTION_OPTIONS_MAX} connection options")]
    TooManyConnectionOptions,
    /// The bytes are not exactly one head.
    #[error("the field section does not end at the end of the head")]
    Incomplete,
}

/// One field line: its name as sent, its value without blanks around it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'b> {
    /// A token (RFC 9110 §5.1), in the sender's letter case.
    pub name: &'b str,
    /// Any bytes but controls; HTAB may stand inside.
    pub value: &'b [u8],
}

/// Prints the name only: a value may be a secret.
impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The fields of a head, borrowed from its bytes, in their order. Names match in any letter case.
#[derive(Clone, Copy)]
pub struct Fields<'b> {
    headers: &'b [Header<'b>],
}

impl<'b> Fields<'b> {
    /// Parses a whole field section, its closing empty line included, whose line ends were checked before.
    pub(super) fn parse(section: &'b [u8], storage: &'b mut FieldStorage<'b>) -> Result<Self, FieldError> {
        let FieldStorage { usual, many, most } = storage;
        let most = *most;
        let parsed = match httparse::parse_headers(section, &mut usual[..most.min(USUAL_FIELDS_MAX)]) {
            Err(httparse::Error::TooManyHeaders) => {
                let lines = section.iter().filter(|&&byte| byte == b'\n').count();
                many.resize(lines.min(most), EMPTY_HEADER);
                httparse::parse_headers(section, many)
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
            Err(httparse::Error::TooManyHeaders) => Err(FieldError::TooManyFields { most }),
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

    /// Every field.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'b>> + use<'b> {
        self.headers.iter().map(|header| Field { name: header.name, value: header.value })
    }

    /// How many field lines there are.
    pub fn len(&self) -> usize {
        self.headers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// The value of the first field of that name.
    pub fn get(&self, name: &str) -> Option<&'b [u8]> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// Whether there is a field of that name.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The values of all fields of that name, in order.
    pub fn get_all(&self, name: &'static str) -> Values<'b> {
        Values { headers: self.headers.iter(), name }
    }

    /// The elements of a comma-separated list field over all its lines, blanks and empty elements left out
    /// (RFC 9110 §5.6.1). Not for lists whose elements may hold quoted commas.
    pub fn list(&self, name: &'static str) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        self.get_all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(trim_blanks)
            .filter(|element| !element.is_empty())
    }

    /// Whether the list field `name` holds `token`, in any letter case.
    pub fn has_token(&self, name: &'static str, token: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The fields that belong to the message and not to the connection it came on: all but the hop-by-hop ones and
    /// those that Connection names (RFC 9110 §7.6.1).
    ///
    /// Fields that a lax peer may take for one of these ([`resembles_hop_by_hop`]) are left out, too.
    pub fn end_to_end(&self) -> impl Iterator<Item = Field<'b>> + use<'b> {
        // Looked up once: a head may have a thousand fields and name [`CONNECTION_OPTIONS_MAX`] options.
        let options: Vec<&[u8]> = self.list("connection").collect();
        let is_named = move |name: &str| options.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes()));
        self.iter().filter(move |field| {
            !is_hop_by_hop(field.name) && !resembles_hop_by_hop(field.name) && !is_named(field.name)
        })
    }
}

/// Prints names only: a value may be a secret.
impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The values of all fields of one name; see [`Fields::get_all`].
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

/// Names what `httparse` refused; only walked when it did.
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
    fn names_match_in_any_case_and_values_are_trimmed() {
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
    fn lists_run_over_lines_and_skip_empty_elements() {
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
    fn end_to_end_leaves_out_what_belongs_to_the_connection() {
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
    fn faults_are_named_with_their_line() {
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
    fn the_number_of_fields_is_bounded_by_the_storage() {
        for most in [1, 24, 25, 128, 1000, FIELDS_MAX] {
            for (count, fits) in [(most, true), (most + 1, false)] {
                let mut section = b"A: b\r\n".repeat(count);
                section.extend_from_slice(b"\r\n");
                let mut storage = FieldStorage::for_at_most(most);
                match Fields::parse(&section, &mut storage) {
                    Ok(fields) => assert!(fits && fields.len() == count, "{count} of {most}"),
                    Err(error) => assert!(!fits && error == FieldError::TooManyFields { most }, "{count} of {most}"),
                }
            }
        }
    }

    #[test]
    fn names_that_a_lax_peer_reads_as_framing_or_connection_fields_are_not_passed_on() {
        let section = b"Content_Length: 5\r\nTransfer.Encoding: chunked\r\nProxy_Authorization: x\r\nKeep_Alive: 1\r\n\
            content_type: kept\r\nX-Content_Length: kept\r\nContentLength: kept\r\n\r\n";
        with(section, |fields| {
            let names: Vec<&str> = fields.unwrap().end_to_end().map(|field| field.name).collect();
            assert_eq!(names, ["content_type", "X-Content_Length", "ContentLength"]);
        });
        assert!(!resembles_hop_by_hop("Content-Length") && !resembles_hop_by_hop("connection"));
    }

    #[test]
    fn the_number_of_connection_options_is_bounded() {
        for (options, fits) in [(CONNECTION_OPTIONS_MAX, true), (CONNECTION_OPTIONS_MAX + 1, false)] {
            let section = format!("Connection: {}\r\n\r\n", vec!["a"; options].join(","));
            with(section.as_bytes(), |fields| {
                assert_eq!(fields.is_ok(), fits);
            });
        }
    }

    #[test]
    fn debug_prints_no_values() {
        with(b"Proxy-Authorization: Basic c2VjcmV0\r\n\r\n", |fields| {
            let text = format!("{:?}", fields.unwrap());
            assert_eq!(text, "[Proxy-Authorization]");
        });
    }
}
