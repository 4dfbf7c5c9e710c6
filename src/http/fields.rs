//! The header fields of a head (RFC 9110 §5, RFC 9112 §5).

use super::field_lines::{self, FieldStorage, Line, NoSection};
use super::field_name::{FieldKinds, FieldName, LookupName};
use super::start_line::{is_blank, is_token_char, trim_blanks};
use std::fmt;

/// The most options in the Connection fields of a head. The limit bounds the work of
/// [`Fields::copy_end_to_end`].
pub const CONNECTION_OPTIONS_MAX: usize = 64;

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

impl<'b> Field<'b> {
    fn of(section: &'b [u8]) -> impl Fn(&'b Line) -> Field<'b> {
        // A name is a token, and so ASCII.
        move |line| Field { name: str::from_utf8(line.name(section)).unwrap_or_default(), value: line.value(section) }
    }
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
    section: &'b [u8],
    lines: &'b [Line],
    kinds: FieldKinds,
}

impl<'b> Fields<'b> {
    /// Parses a complete field section including its final empty line. The caller must have checked the line endings.
    pub(super) fn parse(section: &'b [u8], storage: &'b mut FieldStorage) -> Result<Self, FieldError> {
        match field_lines::split(section, storage) {
            Ok(split) if split.length == section.len() => {
                let fields = Self { section, lines: storage.lines(), kinds: split.kinds };
                fields.check_connection_options()?;
                Ok(fields)
            }
            Ok(_) => Err(FieldError::Incomplete),
            Err(NoSection::TooManyLines) => Err(FieldError::TooManyFields { limit: storage.limit() }),
            Err(NoSection::Invalid) => Err(diagnose(section)),
        }
    }

    /// Parses a field section at the start of `bytes`, and returns its length. `None` if it is incomplete or invalid.
    pub(super) fn parse_first(bytes: &'b [u8], storage: &'b mut FieldStorage) -> Option<(Self, usize)> {
        let split = field_lines::split(bytes, storage).ok()?;
        let section = bytes.get(..split.length)?;
        let fields = Self { section, lines: storage.lines(), kinds: split.kinds };
        fields.check_connection_options().ok()?;
        Some((fields, split.length))
    }

    fn check_connection_options(&self) -> Result<(), FieldError> {
        let values = self.get_all(FieldName::Connection);
        let options = values.flat_map(|value| value.split(|&byte| byte == b',')).count();
        if options > CONNECTION_OPTIONS_MAX {
            return Err(FieldError::TooManyConnectionOptions);
        }
        Ok(())
    }

    /// All fields.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'b>> + use<'b> {
        self.lines.iter().map(Field::of(self.section))
    }

    /// How many field lines there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether there is a field of one of these kinds.
    #[inline]
    pub(crate) fn has_any(&self, kinds: FieldKinds) -> bool {
        self.kinds.intersects(kinds)
    }

    /// The value of the first field with this name.
    #[inline]
    pub fn get<'n>(&self, name: impl Into<LookupName<'n>>) -> Option<&'b [u8]> {
        let name = name.into();
        let mut lines = self.lines_that_may_have(name).iter();
        lines.find(|line| has_name(line, self.section, name)).map(|line| line.value(self.section))
    }

    /// Whether there is a field with this name.
    #[inline]
    pub fn has<'n>(&self, name: impl Into<LookupName<'n>>) -> bool {
        match name.into() {
            LookupName::Known(name) => self.has_any(FieldKinds::of(&[name])),
            name => self.get(name).is_some(),
        }
    }

    /// The values of all fields with this name, in order.
    #[inline]
    pub fn get_all(&self, name: impl Into<LookupName<'static>>) -> Values<'b> {
        let name = name.into();
        Values { section: self.section, lines: self.lines_that_may_have(name).iter(), name }
    }

    /// None if it is known that no line has this name.
    #[inline]
    fn lines_that_may_have(&self, name: LookupName<'_>) -> &'b [Line] {
        match name {
            LookupName::Known(name) if !self.has_any(FieldKinds::of(&[name])) => &[],
            _ => self.lines,
        }
    }

    /// The elements of a comma-separated list field, over all its lines (RFC 9110 §5.6.1). Elements are trimmed and
    /// empty ones omitted. Not for lists whose elements may contain quoted commas.
    pub fn list<N>(&self, name: N) -> impl Iterator<Item = &'b [u8]> + use<'b, N>
    where
        N: Into<LookupName<'static>>,
    {
        self.get_all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(trim_blanks)
            .filter(|element| !element.is_empty())
    }

    /// Whether the list field `name` contains `token`. Case is ignored.
    #[inline]
    pub fn has_token(&self, name: impl Into<LookupName<'static>>, token: &str) -> bool {
        let name = name.into();
        !self.lines_that_may_have(name).is_empty() && self.finds_token(name, token)
    }

    fn finds_token(&self, name: LookupName<'static>, token: &str) -> bool {
        let token = token.as_bytes();
        // Most values have one element.
        self.get_all(name).any(|value| {
            value.eq_ignore_ascii_case(token)
                || (value.contains(&b',')
                    && value.split(|byte| *byte == b',').any(|item| trim_blanks(item).eq_ignore_ascii_case(token)))
        })
    }

    /// Appends the end-to-end fields as field lines: all except hop-by-hop fields, those that Connection lists
    /// (RFC 9110 §7.6.1), and those of the kinds in `except`.
    ///
    /// Fields that a lenient peer may take for a hop-by-hop field
    /// ([`resembles_hop_by_hop`](super::resembles_hop_by_hop)) are omitted too.
    pub fn copy_end_to_end(&self, except: FieldKinds, out: &mut Vec<u8>) {
        let options = self.connection_options();
        // Lines that follow each other are copied together.
        let mut together = 0..0;
        let copy = |range: std::ops::Range<usize>, out: &mut Vec<u8>| {
            out.extend_from_slice(self.section.get(range).unwrap_or_default());
        };
        for line in self.lines_to_forward(except, options) {
            match line.plain() {
                Some(plain) if plain.start == together.end => together.end = plain.end,
                Some(plain) => copy(std::mem::replace(&mut together, plain), out),
                None => {
                    copy(std::mem::take(&mut together), out);
                    out.extend_from_slice(line.name(self.section));
                    out.extend_from_slice(b": ");
                    out.extend_from_slice(line.value(self.section));
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
        copy(together, out);
    }

    fn lines_to_forward(&self, except: FieldKinds, options: Vec<&'b [u8]>) -> impl Iterator<Item = &'b Line> + use<'b> {
        let (section, except) = (self.section, except.and(FieldKinds::NOT_FORWARDED));
        let is_option = move |name: &[u8]| options.iter().any(|option| option.eq_ignore_ascii_case(name));
        self.lines.iter().filter(move |line| !line.kind.intersects(except) && !is_option(line.name(section)))
    }

    /// The fields that Connection lists, except for those that are not forwarded anyway. Collected once: a head may
    /// have thousands of fields, each of which is compared with every option.
    fn connection_options(&self) -> Vec<&'b [u8]> {
        match self.has(FieldName::Connection) {
            true => self.options_to_omit(),
            false => Vec::new(),
        }
    }

    fn options_to_omit(&self) -> Vec<&'b [u8]> {
        let mut options = Vec::new();
        let is_omitted_anyway = |option| FieldKinds::of_name(option).intersects(FieldKinds::NOT_FORWARDED);
        for value in self.get_all(FieldName::Connection) {
            // Most values have one option.
            if is_omitted_anyway(value) {
                continue;
            }
            for option in value.split(|byte| *byte == b',').map(trim_blanks) {
                if !option.is_empty() && !is_omitted_anyway(option) {
                    options.push(option);
                }
            }
        }
        options
    }

    /// The size of the field section in bytes. What [`Fields::copy_end_to_end`] appends is at most one byte a line
    /// longer.
    pub fn section_bytes(&self) -> usize {
        self.section.len()
    }
}

#[inline]
fn has_name(line: &Line, section: &[u8], name: LookupName<'_>) -> bool {
    match name {
        LookupName::Known(name) => line.kind == FieldKinds::of(&[name]),
        LookupName::Text(text) => line.name(section).eq_ignore_ascii_case(text.as_bytes()),
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
    section: &'b [u8],
    lines: std::slice::Iter<'b, Line>,
    name: LookupName<'static>,
}

impl<'b> Iterator for Values<'b> {
    type Item = &'b [u8];

    #[inline]
    fn next(&mut self) -> Option<&'b [u8]> {
        let (section, name) = (self.section, self.name);
        self.lines.find(|line| has_name(line, section, name)).map(|line| line.value(section))
    }
}

/// Finds out what is wrong with a field section that was not split.
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
    use crate::http::FIELDS_MAX;

    fn forwarded(fields: &Fields<'_>) -> String {
        let mut out = Vec::new();
        fields.copy_end_to_end(FieldKinds::OTHER, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_forwarded_in_their_usual_form() {
        let section =
            b"A: 1\r\nB:2\r\nC:  3 \r\nD: 4\r\nHost: h\r\nE: 5\r\nF: 6\r\nConnection: f\r\nG:\t\r\nH: 8\r\n\r\n";
        with(section, |fields| {
            let fields = fields.unwrap();
            let all = "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nHost: h\r\nE: 5\r\nG: \r\nH: 8\r\n";
            assert_eq!(forwarded(&fields), all);
            let mut out = b"x".to_vec();
            fields.copy_end_to_end(FieldKinds::of(&[FieldName::Host]), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("x{}", all.replace("Host: h\r\n", "")));
        });
    }

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
            assert_eq!(forwarded(&fields.unwrap()), "Host: a\r\nUser-Agent: u\r\nX-Other: 2\r\n");
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
            let kept = "content_type: kept\r\nX-Content_Length: kept\r\nContentLength: kept\r\n";
            assert_eq!(forwarded(&fields.unwrap()), kept);
        });
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
