//! Splits a field section into lines in one pass (RFC 9112 §5), and finds its end by that.

use super::field_name::FieldKinds;
use super::spans::{token_length, value_length};
use super::start_line::is_blank;

/// The most field lines that any head may have, whatever the limit of its [`FieldStorage`].
pub const FIELDS_MAX: usize = 10_000;

/// How many lines are stored inline, which is enough for most heads.
const INLINE_LINES_MAX: usize = 24;

/// A field line, as positions in its section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    start: u32,
    /// Where the colon is.
    name_end: u32,
    value_start: u32,
    value_end: u32,
    pub(super) kind: FieldKinds,
    /// One space is between colon and value, and only the CRLF follows the value.
    is_plain: bool,
}

impl Line {
    const EMPTY: Line =
        Line { start: 0, name_end: 0, value_start: 0, value_end: 0, kind: FieldKinds::OTHER, is_plain: false };

    pub(super) fn name<'b>(&self, section: &'b [u8]) -> &'b [u8] {
        section.get(self.start as usize..self.name_end as usize).unwrap_or_default()
    }

    pub(super) fn value<'b>(&self, section: &'b [u8]) -> &'b [u8] {
        section.get(self.value_start as usize..self.value_end as usize).unwrap_or_default()
    }

    /// The whole line with its CRLF, if that is the name, a colon, one space and the value.
    pub(super) fn plain(&self) -> Option<std::ops::Range<usize>> {
        self.is_plain.then(|| self.start as usize..self.value_end as usize + 2)
    }
}

/// Storage for the field lines of one head, on the caller's stack. Only heads with more than 24 fields need an
/// allocation.
pub struct FieldStorage {
    inline: [Line; INLINE_LINES_MAX],
    /// All lines, once there are more than fit inline.
    heap: Vec<Line>,
    count: usize,
    limit: usize,
}

impl FieldStorage {
    /// Empty storage, about half a KiB in size, for up to [`FIELDS_MAX`] field lines.
    pub fn new() -> Self {
        Self::with_limit(FIELDS_MAX)
    }

    /// Empty storage for up to `limit` field lines, but never more than [`FIELDS_MAX`]. Parsing a head with more lines
    /// fails with [`FieldError::TooManyFields`](super::FieldError::TooManyFields).
    pub fn with_limit(limit: usize) -> Self {
        Self { inline: [Line::EMPTY; INLINE_LINES_MAX], heap: Vec::new(), count: 0, limit: limit.min(FIELDS_MAX) }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn lines(&self) -> &[Line] {
        if self.heap.is_empty() { &self.inline[..self.count] } else { &self.heap }
    }

    fn clear(&mut self) {
        self.heap.clear();
        self.count = 0;
    }

    /// Adds a line; `false` if there are too many.
    #[inline]
    fn push(&mut self, line: Line) -> bool {
        if self.count >= self.limit {
            return false;
        }
        match self.inline.get_mut(self.count) {
            Some(place) => *place = line,
            None => self.push_to_heap(line),
        }
        self.count += 1;
        true
    }

    #[cold]
    fn push_to_heap(&mut self, line: Line) {
        if self.heap.is_empty() {
            self.heap.extend_from_slice(&self.inline);
        }
        self.heap.push(line);
    }
}

impl Default for FieldStorage {
    fn default() -> Self {
        Self::new()
    }
}

/// A field section that was split into lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    /// Its length with the empty line that ends it.
    pub length: usize,
    /// The kinds of its fields.
    pub kinds: FieldKinds,
}

/// Why a field section is not split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoSection {
    /// A line is invalid, or the section is not complete.
    Invalid,
    /// There are more lines than the storage takes.
    TooManyLines,
}

/// Splits the field section at the start of `bytes`. All its lines end in CRLF; names are tokens, and values contain no
/// control characters except HTAB.
pub(super) fn split(bytes: &[u8], storage: &mut FieldStorage) -> Result<Section, NoSection> {
    // Positions have 32 bits.
    if u32::try_from(bytes.len()).is_err() {
        return Err(NoSection::TooManyLines);
    }
    storage.clear();
    let (mut start, mut kinds) = (0, FieldKinds::OTHER);
    loop {
        let rest = &bytes[start..];
        if rest.starts_with(b"\r\n") {
            return Ok(Section { length: start + 2, kinds });
        }
        let name_bytes = token_length(rest);
        let (name, after_name) = rest.split_at(name_bytes);
        let value = after_name.strip_prefix(b":").filter(|_| name_bytes > 0).ok_or(NoSection::Invalid)?;
        let blanks = match value {
            [b' ', next, ..] if !is_blank(*next) => 1,
            _ => value.iter().take_while(|byte| is_blank(**byte)).count(),
        };
        let length = value_length(value);
        if value.get(length..length + 2) != Some(b"\r\n") {
            return Err(NoSection::Invalid);
        }
        let value_start = start + name_bytes + 1;
        let trailing = match value[blanks..length] {
            [.., last] if is_blank(last) => trailing_blanks(&value[blanks..length]),
            _ => 0,
        };
        let kind = FieldKinds::of_name(name);
        #[allow(clippy::cast_possible_truncation, reason = "the section is shorter than 4 GiB")]
        let line = Line {
            start: start as u32,
            name_end: (start + name_bytes) as u32,
            value_start: (value_start + blanks) as u32,
            value_end: (value_start + length - trailing) as u32,
            kind,
            is_plain: blanks == 1 && trailing == 0 && value.first() == Some(&b' '),
        };
        if !storage.push(line) {
            return Err(NoSection::TooManyLines);
        }
        kinds = kinds.and(kind);
        start = value_start + length + 2;
    }
}

#[cold]
fn trailing_blanks(value: &[u8]) -> usize {
    value.iter().rev().take_while(|byte| is_blank(**byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_at_its_empty_line() {
        let mut storage = FieldStorage::new();
        let bytes = b"A:  b\t \r\nHost: c\r\n\r\nD: e\r\n\r\n";
        let section = split(bytes, &mut storage).unwrap();
        assert_eq!(section.length, b"A:  b\t \r\nHost: c\r\n\r\n".len());
        let lines: Vec<_> = storage.lines().iter().map(|line| (line.name(bytes), line.value(bytes))).collect();
        assert_eq!(lines, [(&b"A"[..], &b"b"[..]), (b"Host", b"c")]);
        let plain: Vec<_> = storage.lines().iter().map(|line| line.plain().map(|range| &bytes[range])).collect();
        assert_eq!(plain, [None, Some(&b"Host: c\r\n"[..])]);
        for cut in 0..section.length {
            assert_eq!(split(&bytes[..cut], &mut storage).unwrap_err(), NoSection::Invalid, "{cut}");
        }
    }

    #[test]
    fn storage_takes_as_many_lines_as_its_limit_and_no_more() {
        for limit in [0, 1, INLINE_LINES_MAX, INLINE_LINES_MAX + 1, 100] {
            let mut storage = FieldStorage::with_limit(limit);
            let section = |lines: usize| ["A: b\r\n".repeat(lines), "\r\n".to_owned()].concat();
            assert!(split(section(limit).as_bytes(), &mut storage).is_ok());
            assert_eq!(storage.lines().len(), limit);
            assert_eq!(split(section(limit + 1).as_bytes(), &mut storage).unwrap_err(), NoSection::TooManyLines);
        }
    }
}
