//! One record is one line, whatever a peer has put into a value.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};

use log::Record;
use log::kv::{self, Key, Value, VisitSource, VisitValue};

use crate::config::LogFormat;
use crate::limits;

/// Names in front of a record's own fields. A field with one of these names gets a trailing `_`.
const OWN_NAMES: [&str; 4] = ["time", "level", "logger", "message"];

/// Writes a record and a newline.
///
/// Text: `2026-01-02T03:04:05.678Z INFO  tunnel closed client=10.1.2.3:40000 status=200`.
///
/// JSON: an object with `time`, `level`, `logger` (the log's target, not the `target` of a tunnel), `message` and the
/// record's fields. Numbers and booleans are not quoted.
pub(super) fn line(out: &mut impl Write, format: LogFormat, time: &dyn Display, record: &Record<'_>) -> io::Result<()> {
    match format {
        LogFormat::Text => {
            write!(out, "{time} {:<5} ", record.level())?;
            write_escaped(out, &message(record))?;
            visit(record, |name, value| write_text_field(out, name, value))?;
        }
        LogFormat::Json => {
            write!(out, "{{\"time\":\"{time}\",\"level\":\"{}\",\"logger\":", record.level())?;
            write_json(out, record.target())?;
            out.write_all(b",\"message\":")?;
            write_json(out, &message(record))?;
            visit(record, |name, value| write_json_field(out, name, value))?;
            out.write_all(b"}")?;
        }
    }
    out.write_all(b"\n")
}

fn message(record: &Record<'_>) -> String {
    let mut bounded = Bounded::new(0, limits::LOG_MESSAGE_BYTES);
    // `Bounded` cannot fail. If a value's own formatting does, the text up to there is used.
    let _ = bounded.write_fmt(*record.args());
    bounded.text
}

/// Text with a maximum length. Longer text is cut off and ends in an ellipsis.
struct Bounded {
    text: String,
    limit_bytes: usize,
    cut: bool,
}

impl Bounded {
    fn new(capacity: usize, limit_bytes: usize) -> Bounded {
        Bounded { text: String::with_capacity(capacity), limit_bytes, cut: false }
    }

    fn clear(&mut self) {
        self.text.clear();
        self.cut = false;
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

fn write_text_field(out: &mut impl Write, name: &str, value: &Field) -> io::Result<()> {
    out.write_all(b" ")?;
    write_escaped(out, name)?;
    out.write_all(b"=")?;
    let text = &value.bounded.text;
    if value.is_bare || is_plain(text) {
        out.write_all(text.as_bytes())
    } else if needs_quotes(text) {
        out.write_all(b"\"")?;
        write_escaped(out, &text.replace('\\', "\\\\").replace('"', "\\\""))?;
        out.write_all(b"\"")
    } else {
        write_escaped(out, text)
    }
}

/// Whether a value needs neither quotes nor escapes. Most values do not, and this test decodes no characters.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'='))
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

fn write_escaped(out: &mut impl Write, text: &str) -> io::Result<()> {
    // Names and most messages are ASCII, and this test decodes no characters.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return out.write_all(text.as_bytes());
    }
    let mut rest = text;
    while let Some(at) = rest.find(is_unprintable) {
        let (plain, tail) = rest.split_at(at);
        out.write_all(plain.as_bytes())?;
        let mut characters = tail.chars();
        if let Some(character) = characters.next() {
            write!(out, "{}", character.escape_default())?;
        }
        rest = characters.as_str();
    }
    out.write_all(rest.as_bytes())
}

fn write_json_field(out: &mut impl Write, name: &str, value: &Field) -> io::Result<()> {
    out.write_all(b",")?;
    match OWN_NAMES.contains(&name) {
        true => write_json(out, &format!("{name}_"))?,
        false => write_json(out, name)?,
    }
    out.write_all(b":")?;
    match value.is_bare {
        true => out.write_all(value.bounded.text.as_bytes()),
        false => write_json(out, &value.bounded.text),
    }
}

fn write_json(out: &mut impl Write, text: &str) -> io::Result<()> {
    serde_json::to_writer(out, text).map_err(io::Error::other)
}

/// A field's value. The buffer is reused for all fields of a record.
struct Field {
    bounded: Bounded,
    /// Written without quotes in JSON.
    is_bare: bool,
}

fn visit(record: &Record<'_>, write: impl FnMut(&str, &Field) -> io::Result<()>) -> io::Result<()> {
    struct Fields<W>(W, Field);

    impl<'kvs, W: FnMut(&str, &Field) -> io::Result<()>> VisitSource<'kvs> for Fields<W> {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
            self.1.bounded.clear();
            self.1.is_bare = false;
            value.visit(&mut self.1)?;
            (self.0)(key.as_str(), &self.1).map_err(kv::Error::from)
        }
    }

    let bounded = Bounded::new(128, limits::LOG_FIELD_BYTES);
    let room = Field { bounded, is_bare: false };
    record.key_values().visit(&mut Fields(write, room)).map_err(io::Error::other)
}

impl Field {
    fn bare(&mut self, value: impl Display) -> Result<(), kv::Error> {
        self.is_bare = true;
        write!(self.bounded, "{value}").map_err(kv::Error::boxed)
    }
}

impl<'v> VisitValue<'v> for &mut Field {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        write!(self.bounded, "{value}").map_err(kv::Error::boxed)
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        self.bounded.write_str(value).map_err(kv::Error::boxed)
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.bare("null")
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.bare(value)
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
        // JSON has no infinity.
        if value.is_finite() { self.bare(value) } else { self.bare("null") }
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.bare(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;
    use serde_json::json;

    const TIME: &str = "2026-01-02T03:04:05.678Z";

    fn written(format: LogFormat, message: &str, fields: &[(&str, Value<'_>)]) -> String {
        let mut out = Vec::new();
        let args = format_args!("{message}");
        let record = Record::builder().args(args).level(Level::Info).target("access").key_values(&fields).build();
        line(&mut out, format, &TIME, &record).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn text(message: &str, fields: &[(&str, Value<'_>)]) -> String {
        written(LogFormat::Text, message, fields)
    }

    fn json(message: &str, fields: &[(&str, Value<'_>)]) -> serde_json::Value {
        let line = written(LogFormat::Json, message, fields);
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
    fn a_lines_length_is_limited_whatever_a_peer_puts_into_its_fields() {
        let long = "ü".repeat(40_000);
        let fields =
            [("method", Value::from(long.as_str())), ("detail", Value::from_display(&long)), ("end", "x".into())];
        for format in [LogFormat::Text, LogFormat::Json] {
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
