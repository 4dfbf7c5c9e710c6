//! One record is one line, whatever a peer has put into a value.

use std::fmt::{Display, Write as _};
use std::io::Write as _;

use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, Record};

use crate::config::LogFormat;
use crate::limits;

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineFormat {
    /// `2026-01-02T03:04:05.678Z INFO  tunnel closed client=10.1.2.3:40000 status=200`.
    Text,
    /// The same for systemd's journal, which has times of its own: `<6>INFO  tunnel closed …`. The number is the
    /// priority (sd-daemon(3)).
    Journal,
    /// An object with `time`, `level`, `logger` (the log's target, not the `target` of a tunnel), `message` and the
    /// record's fields. Numbers and booleans are not quoted.
    Json,
}

impl LineFormat {
    pub(super) fn new(format: LogFormat, is_for_journal: bool) -> LineFormat {
        match format {
            LogFormat::Text if is_for_journal => LineFormat::Journal,
            LogFormat::Text => LineFormat::Text,
            LogFormat::Json => LineFormat::Json,
        }
    }
}

/// Names in front of a record's own fields. A field with one of these names gets a trailing `_`.
const OWN_NAMES: [&str; 4] = ["time", "level", "logger", "message"];

/// Appends a record and a newline.
pub(super) fn line(out: &mut Vec<u8>, format: LineFormat, time: &[u8], record: &Record<'_>) {
    let mut fields = Fields { out, format, bounded: Bounded::new() };
    let message = match record.args().as_str() {
        Some(text) if text.len() <= limits::LOG_MESSAGE_BYTES => text,
        _ => fields.bounded.written(limits::LOG_MESSAGE_BYTES, record.args()),
    };
    begin(fields.out, format, time, (record.level(), record.target()), message);
    // If the formatting of a value fails, the fields up to there are written.
    let _ = record.key_values().visit(&mut fields);
    end(out, format);
}

/// Writes what is in front of a record's own fields.
pub(super) fn begin(out: &mut Vec<u8>, format: LineFormat, time: &[u8], (level, target): (Level, &str), message: &str) {
    let name = level.as_str();
    match format {
        LineFormat::Text | LineFormat::Journal => {
            if format == LineFormat::Journal {
                out.extend_from_slice(priority(level));
            } else {
                out.extend_from_slice(time);
                out.push(b' ');
            }
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&b"      "[..6_usize.saturating_sub(name.len())]);
            write_escaped(out, message);
        }
        LineFormat::Json => {
            out.extend_from_slice(b"{\"time\":\"");
            out.extend_from_slice(time);
            out.extend_from_slice(b"\",\"level\":\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\",\"logger\":");
            write_json(out, target);
            out.extend_from_slice(b",\"message\":");
            write_json(out, message);
        }
    }
}

/// What the journal takes off a line: its priority, as syslog(3) numbers it.
fn priority(level: Level) -> &'static [u8] {
    match level {
        Level::Error => b"<3>",
        Level::Warn => b"<4>",
        Level::Info => b"<6>",
        Level::Debug | Level::Trace => b"<7>",
    }
}

/// Ends a line.
pub(super) fn end(out: &mut Vec<u8>, format: LineFormat) {
    if let LineFormat::Json = format {
        out.push(b'}');
    }
    out.push(b'\n');
}

/// What a byte of text needs.
#[derive(Clone, Copy)]
struct Needs(u8);

impl Needs {
    /// Quotes in a text line.
    const QUOTES: u8 = 1;
    /// An escape in a JSON string, or a look at the character that it is part of.
    const JSON_ESCAPE: u8 = 2;

    const OF_BYTE: [u8; 256] = {
        let mut table = [Needs::QUOTES | Needs::JSON_ESCAPE; 256];
        let mut byte = b' ';
        while byte <= b'~' {
            table[byte as usize] = match byte {
                b' ' | b'=' => Needs::QUOTES,
                b'"' | b'\\' => Needs::QUOTES | Needs::JSON_ESCAPE,
                _ => 0,
            };
            byte += 1;
        }
        table
    };

    /// What some byte of the text needs. This decodes no characters, and is all that most texts need.
    fn of(text: &str) -> Needs {
        Needs(text.bytes().fold(0, |needs, byte| needs | Needs::OF_BYTE[usize::from(byte)]))
    }

    fn has(self, need: u8) -> bool {
        self.0 & need != 0
    }
}

/// Text with a maximum length. Longer text is cut off and ends in an ellipsis. The buffer is reused for all values of a
/// record.
struct Bounded {
    text: String,
    limit_bytes: usize,
    cut: bool,
}

impl Bounded {
    fn new() -> Bounded {
        Bounded { text: String::new(), limit_bytes: 0, cut: false }
    }

    /// What a value displays. If its own formatting fails, the text up to there.
    fn written(&mut self, limit_bytes: usize, value: impl Display) -> &str {
        self.text.clear();
        (self.limit_bytes, self.cut) = (limit_bytes, false);
        let _ = write!(self, "{value}");
        &self.text
    }
}

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, more: &str) -> std::fmt::Result {
        if self.cut {
            return Ok(());
        }
        let room = self.limit_bytes.saturating_sub(self.text.len());
        self.text.push_str(&more[..more.floor_char_boundary(room)]);
        if more.len() > room {
            self.cut = true;
            self.text.push('…');
        }
        Ok(())
    }
}

/// Whether text without quotes could be mistaken for the end of its field, or for a missing value.
fn needs_quotes(text: &str) -> bool {
    let special = |character: char| character.is_whitespace() || matches!(character, '"' | '\\' | '=');
    text.is_empty() || text.contains(|character| special(character) || is_unprintable(character))
}

/// Characters that could end a line, move the cursor, or change the reading direction.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn write_escaped(out: &mut Vec<u8>, text: &str) {
    // Most messages are ASCII, and this test decodes no characters. It has no early exit, so that the compiler can
    // vectorise it.
    if text.bytes().fold(true, |printable, byte| printable & matches!(byte, b' '..=b'~')) {
        return out.extend_from_slice(text.as_bytes());
    }
    let mut rest = text;
    while let Some(at) = rest.find(is_unprintable) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let mut characters = tail.chars();
        if let Some(character) = characters.next() {
            // Writing to memory cannot fail.
            let _ = write!(out, "{}", character.escape_default());
        }
        rest = characters.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

fn write_json(out: &mut Vec<u8>, text: &str) {
    if Needs::of(text).has(Needs::JSON_ESCAPE) {
        // Writing text to memory cannot fail.
        let _ = serde_json::to_writer(out, text);
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Writes the fields of a record.
struct Fields<'a> {
    out: &'a mut Vec<u8>,
    format: LineFormat,
    bounded: Bounded,
}

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let name = key.as_str();
        match self.format {
            LineFormat::Text | LineFormat::Journal => {
                self.out.push(b' ');
                // Names come from the source, not from a peer.
                self.out.extend_from_slice(name.as_bytes());
                self.out.push(b'=');
            }
            LineFormat::Json => {
                self.out.push(b',');
                match OWN_NAMES.contains(&name) {
                    true => write_json(self.out, &format!("{name}_")),
                    false => write_json(self.out, name),
                }
                self.out.push(b':');
            }
        }
        value.visit(self)
    }
}

impl Fields<'_> {
    /// A value that is written as it is, without quotes.
    fn bare(&mut self, value: impl Display) -> Result<(), kv::Error> {
        let text = self.bounded.written(limits::LOG_FIELD_BYTES, value);
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// A value that is text, at most [`limits::LOG_FIELD_BYTES`] of it.
fn write_value(out: &mut Vec<u8>, format: LineFormat, text: &str) {
    match format {
        LineFormat::Json => write_json(out, text),
        _ if !text.is_empty() && !Needs::of(text).has(Needs::QUOTES) => {
            out.extend_from_slice(text.as_bytes());
        }
        _ if needs_quotes(text) => {
            out.push(b'"');
            write_escaped(out, &text.replace('\\', "\\\\").replace('"', "\\\""));
            out.push(b'"');
        }
        _ => write_escaped(out, text),
    }
}

/// A value that is text, of any length.
pub(super) fn write_text(out: &mut Vec<u8>, format: LineFormat, text: &str) {
    match text.len() <= limits::LOG_FIELD_BYTES {
        true => write_value(out, format, text),
        false => write_value(out, format, Bounded::new().written(limits::LOG_FIELD_BYTES, text)),
    }
}

/// A number without the machinery of `fmt`, which takes ten times as long.
pub(super) fn write_decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writes a number that is a whole number of hundredths, as `Display` does; `None` for another.
fn write_hundredths(out: &mut Vec<u8>, number: f64) -> Option<()> {
    let hundredths = (number * 100.0).round();
    if !(0.0..1e12).contains(&hundredths) || number.is_sign_negative() || hundredths / 100.0 != number {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let hundredths = hundredths as u64;
    write_in_hundredths(out, hundredths);
    Some(())
}

/// Writes so many hundredths, without zeros at the end.
pub(super) fn write_in_hundredths(out: &mut Vec<u8>, hundredths: u64) {
    write_decimal(out, hundredths / 100);
    let (tenth, hundredth) = (hundredths / 10 % 10, hundredths % 10);
    if tenth + hundredth > 0 {
        out.push(b'.');
        write_decimal(out, tenth);
        if hundredth > 0 {
            write_decimal(out, hundredth);
        }
    }
}

impl<'v> VisitValue<'v> for &mut Fields<'_> {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        let text = self.bounded.written(limits::LOG_FIELD_BYTES, value);
        write_value(self.out, self.format, text);
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        let text = match value.len() <= limits::LOG_FIELD_BYTES {
            true => value,
            false => self.bounded.written(limits::LOG_FIELD_BYTES, value),
        };
        write_value(self.out, self.format, text);
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.bare("null")
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        write_decimal(self.out, value);
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.bare(value)
    }

    fn visit_u128(&mut self, value: u128) -> Result<(), kv::Error> {
        self.bare(value)
    }

    fn visit_i128(&mut self, value: i128) -> Result<(), kv::Error> {
        self.bare(value)
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        match write_hundredths(self.out, value) {
            Some(()) => Ok(()),
            None if value.is_finite() => self.bare(value),
            // JSON has no infinity.
            None => self.bare("null"),
        }
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.bare(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TIME: &str = "2026-01-02T03:04:05.678Z";

    fn written(format: LineFormat, message: &str, fields: &[(&str, Value<'_>)]) -> String {
        let mut out = Vec::new();
        let args = format_args!("{message}");
        let record = Record::builder().args(args).level(Level::Info).target("access").key_values(&fields).build();
        line(&mut out, format, TIME.as_bytes(), &record);
        String::from_utf8(out).unwrap()
    }

    fn text(message: &str, fields: &[(&str, Value<'_>)]) -> String {
        written(LineFormat::Text, message, fields)
    }

    fn json(message: &str, fields: &[(&str, Value<'_>)]) -> serde_json::Value {
        let line = written(LineFormat::Json, message, fields);
        assert_eq!(line.find('\n'), Some(line.len() - 1), "{line}");
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn a_text_line_has_time_level_message_and_fields() {
        let fields = [("client", Value::from("10.1.2.3:40000")), ("status", Value::from(200))];
        assert_eq!(
            text("tunnel closed", &fields),
            "2026-01-02T03:04:05.678Z INFO  tunnel closed client=10.1.2.3:40000 status=200\n"
        );
    }

    #[test]
    fn a_line_for_the_journal_has_its_priority_instead_of_the_time() {
        let fields = [("status", Value::from(200))];
        assert_eq!(written(LineFormat::Journal, "tunnel closed", &fields), "<6>INFO  tunnel closed status=200\n");
        let priorities = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace].map(priority);
        assert_eq!(priorities, [b"<3>", b"<4>", b"<6>", b"<7>", b"<7>"]);
        let formats = [(LogFormat::Text, true), (LogFormat::Text, false), (LogFormat::Json, true)];
        let expected = [LineFormat::Journal, LineFormat::Text, LineFormat::Json];
        assert_eq!(formats.map(|(format, is_for_journal)| LineFormat::new(format, is_for_journal)), expected);
    }

    #[test]
    fn a_lines_length_is_limited_whatever_a_peer_puts_into_its_fields() {
        let long = "ü".repeat(40_000);
        let fields =
            [("method", Value::from(long.as_str())), ("detail", Value::from_display(&long)), ("end", "x".into())];
        for format in [LineFormat::Text, LineFormat::Json] {
            let line = written(format, &long, &fields);
            assert!(line.len() < limits::LOG_MESSAGE_BYTES + 2 * limits::LOG_FIELD_BYTES + 200, "{}", line.len());
            assert_eq!(line.matches('…').count(), 3);
        }
        let line = text("closed", &fields);
        let method = line.split("method=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        assert_eq!(method.len(), limits::LOG_FIELD_BYTES + '…'.len_utf8());
        assert!(line.ends_with(" end=x\n"), "the fields behind it are still there: {}", &line[line.len() - 20..]);
        let fits = "x".repeat(limits::LOG_FIELD_BYTES);
        assert!(text("closed", &[("target", Value::from(fits.as_str()))]).ends_with(&format!("={fits}\n")));
    }

    #[test]
    fn a_json_line_has_numbers_as_numbers() {
        let fields = [
            ("target", Value::from("origin.example:443")),
            ("bytes_up", Value::from(u64::MAX)),
            ("lag", Value::from(-1)),
            ("handshake_ms", Value::from(1.5)),
            ("endless", Value::from(f64::INFINITY)),
            ("warm", Value::from(true)),
            ("client", Value::from_display(&std::net::Ipv4Addr::LOCALHOST)),
        ];
        let expected = json!({
            "time": TIME, "level": "INFO", "logger": "access", "message": "tunnel \"closed\"",
            "target": "origin.example:443", "bytes_up": u64::MAX, "lag": -1, "handshake_ms": 1.5, "endless": null,
            "warm": true, "client": "127.0.0.1",
        });
        assert_eq!(json("tunnel \"closed\"", &fields), expected);
    }

    #[test]
    fn numbers_are_written_as_display_writes_them() {
        let mut out = Vec::new();
        for number in [0, 7, 10, 99, 12_345, u64::MAX] {
            out.clear();
            write_decimal(&mut out, number);
            assert_eq!(str::from_utf8(&out).unwrap(), number.to_string());
        }
        let hundredths =
            (0..2_000).chain([99_999, 100_000, 41_588, 429_496_729]).map(|number| f64::from(number) / 100.0);
        for number in hundredths.chain([0.125, 1e12, -1.5, -0.0, 1.0 / 3.0, f64::MAX, f64::MIN_POSITIVE]) {
            let line = text("m", &[("number", Value::from(number))]);
            assert!(line.ends_with(&format!(" m number={number}\n")), "{number}: {line}");
        }
        assert!(text("m", &[("number", Value::from(f64::NAN))]).ends_with(" m number=null\n"));
    }

    #[test]
    fn a_value_with_a_newline_stays_on_its_line() {
        let forged = "a\n2026-01-02T03:04:05.678Z INFO  forged\r\u{1b}[2J\u{85}\u{2028}\u{202e}";
        for line in [text("m", &[("target", Value::from(forged))]), text(forged, &[])] {
            assert_eq!(line.find('\n'), Some(line.len() - 1), "{line:?}");
            let unprintable = line.trim_end_matches('\n').find(is_unprintable);
            assert_eq!(unprintable, None, "{line:?}");
            assert!(line.contains(r"a\n2026"), "{line:?}");
        }
        assert_eq!(json("m", &[("target", Value::from(forged))])["target"], forged);
        assert_eq!(json(forged, &[])["message"], forged);
    }

    #[test]
    fn a_value_cannot_be_mistaken_for_another_field() {
        let line = text(
            "m",
            &[("target", Value::from("x status=200")), ("agent", Value::from("a\"b\\")), ("none", Value::from(""))],
        );
        assert!(line.ends_with("m target=\"x status=200\" agent=\"a\\\"b\\\\\" none=\"\"\n"), "{line}");
    }

    #[test]
    fn a_field_does_not_hide_the_records_own_fields() {
        let fields = [("time", Value::from("x")), ("message", Value::from("y"))];
        let object = json("m", &fields);
        assert_eq!((&object["time"], &object["message"]), (&json!(TIME), &json!("m")));
        assert_eq!((&object["time_"], &object["message_"]), (&json!("x"), &json!("y")));
    }
}
