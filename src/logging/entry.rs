//! Lines that are written often: their fields are known, so they are put together without `fmt`.

use std::net::SocketAddr;

use log::kv::{Error, Key, Source, Value, VisitSource};
use log::{Level, Record};

use super::format::LineFormat;
use super::{address, format};

/// What a line says.
pub trait Entry {
    /// Passes all fields on, in their order. It must not log anything itself.
    fn write(&self, fields: &mut impl Fields);
}

/// Takes the fields of a line, one by one.
pub trait Fields {
    /// Whatever a peer or a configuration has put into it.
    fn text(&mut self, name: FieldName, text: &str);

    /// A word that needs neither quotes nor escapes.
    fn word(&mut self, name: FieldName, word: &str);

    /// An address with its port.
    fn address(&mut self, name: FieldName, address: SocketAddr);

    /// A number.
    fn number(&mut self, name: FieldName, number: u64);

    /// So many hundredths.
    fn hundredths(&mut self, name: FieldName, number: u32);
}

/// The name of a field, with what each format has around it: names are constants, and lines are put together from few
/// pieces.
#[derive(Clone, Copy, Debug)]
pub struct FieldName {
    plain: &'static str,
    in_text: &'static str,
    in_json: &'static str,
}

impl FieldName {
    /// Used by `log_field_name!`.
    pub const fn new(plain: &'static str, in_text: &'static str, in_json: &'static str) -> FieldName {
        FieldName { plain, in_text, in_json }
    }
}

/// The name of a field.
macro_rules! log_field_name {
    ($name:ident) => {{
        const NAME: $crate::logging::FieldName = $crate::logging::FieldName::new(
            stringify!($name),
            concat!(" ", stringify!($name), "="),
            concat!(",\"", stringify!($name), "\":"),
        );
        NAME
    }};
}
pub(crate) use log_field_name;

/// Appends the line of an entry.
pub(super) fn append(
    out: &mut Vec<u8>,
    format: LineFormat,
    time: &[u8],
    (level, target): (Level, &str),
    message: &str,
    entry: &impl Entry,
) {
    format::begin(out, format, time, (level, target), message);
    match format {
        LineFormat::Text | LineFormat::Journal => entry.write(&mut LineFields::<false>(out)),
        LineFormat::Json => entry.write(&mut LineFields::<true>(out)),
    }
    format::end(out, format);
}

/// Writes the fields of a line, as JSON or as text.
struct LineFields<'a, const JSON: bool>(&'a mut Vec<u8>);

impl<const JSON: bool> LineFields<'_, JSON> {
    const FORMAT: LineFormat = if JSON { LineFormat::Json } else { LineFormat::Text };

    #[inline]
    fn name(&mut self, name: FieldName) -> &mut Vec<u8> {
        self.0.extend_from_slice(if JSON { name.in_json } else { name.in_text }.as_bytes());
        self.0
    }

    /// Writes what needs no escapes.
    #[inline]
    fn plain(&mut self, name: FieldName, write: impl FnOnce(&mut Vec<u8>)) {
        let out = self.name(name);
        let quote: &[u8] = if JSON { b"\"" } else { b"" };
        out.extend_from_slice(quote);
        write(out);
        out.extend_from_slice(quote);
    }
}

impl<const JSON: bool> Fields for LineFields<'_, JSON> {
    #[inline]
    fn text(&mut self, name: FieldName, text: &str) {
        format::write_text(self.name(name), Self::FORMAT, text);
    }

    #[inline]
    fn word(&mut self, name: FieldName, word: &str) {
        self.plain(name, |out| out.extend_from_slice(word.as_bytes()));
    }

    #[inline]
    fn address(&mut self, name: FieldName, address: SocketAddr) {
        self.plain(name, |out| address::write(out, address));
    }

    #[inline]
    fn number(&mut self, name: FieldName, number: u64) {
        format::write_decimal(self.name(name), number);
    }

    #[inline]
    fn hundredths(&mut self, name: FieldName, number: u32) {
        format::write_in_hundredths(self.name(name), number.into());
    }
}

/// Logs an entry with whatever logger there is, at once.
pub(super) fn log(target: &'static str, level: Level, message: &'static str, entry: &impl Entry) {
    let mut pairs = Pairs::default();
    entry.write(&mut pairs);
    let args = format_args!("{message}");
    log::logger().log(&Record::builder().target(target).level(level).args(args).key_values(&pairs).build());
}

/// The fields as other loggers read them.
#[derive(Default)]
struct Pairs(Vec<(&'static str, PairValue)>);

enum PairValue {
    Text(String),
    Number(u64),
    Fraction(f64),
}

impl Fields for Pairs {
    fn text(&mut self, name: FieldName, text: &str) {
        self.0.push((name.plain, PairValue::Text(text.to_owned())));
    }

    fn word(&mut self, name: FieldName, word: &str) {
        self.text(name, word);
    }

    fn address(&mut self, name: FieldName, address: SocketAddr) {
        self.text(name, &address.to_string());
    }

    fn number(&mut self, name: FieldName, number: u64) {
        self.0.push((name.plain, PairValue::Number(number)));
    }

    fn hundredths(&mut self, name: FieldName, number: u32) {
        self.0.push((name.plain, PairValue::Fraction(f64::from(number) / 100.0)));
    }
}

impl Source for Pairs {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), Error> {
        self.0.iter().try_for_each(|(name, value)| {
            let value = match value {
                PairValue::Text(text) => Value::from(text.as_str()),
                PairValue::Number(number) => Value::from(*number),
                PairValue::Fraction(number) => Value::from(*number),
            };
            visitor.visit_pair(Key::from_str(name), value)
        })
    }

    fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &[u8] = b"2026-01-02T03:04:05.678Z";

    struct Everything;

    impl Entry for Everything {
        fn write(&self, fields: &mut impl Fields) {
            fields.word(log_field_name!(connection), "cold");
            for address in ["10.1.2.3:40000", "[fe80::1%3]:443"] {
                fields.address(log_field_name!(client), address.parse().unwrap());
            }
            let long = "ü".repeat(40_000);
            for text in ["", "-", "echo.test:443", "two words", "a=b", "\"\\", "line\nend", "ü", "\u{202e}", &long] {
                fields.text(log_field_name!(target), text);
            }
            [0, 7, 200, u64::MAX].into_iter().for_each(|number| fields.number(log_field_name!(legs), number));
            for number in (0..1200).chain([12_345, u32::MAX]) {
                fields.hundredths(log_field_name!(ms), number);
            }
        }
    }

    /// A line must not show which way it was written.
    #[test]
    fn a_line_is_what_it_would_be_by_the_general_way() {
        let mut pairs = Pairs::default();
        Everything.write(&mut pairs);
        let (target, level, message) = ("access", Level::Info, "tunnel closed");
        let args = format_args!("{message}");
        let record = Record::builder().args(args).level(level).target(target).key_values(&pairs).build();
        for line_format in [LineFormat::Text, LineFormat::Journal, LineFormat::Json] {
            let (mut general, mut direct) = (Vec::new(), Vec::new());
            format::line(&mut general, line_format, TIME, &record);
            append(&mut direct, line_format, TIME, (level, target), message, &Everything);
            assert_eq!(String::from_utf8(direct).unwrap(), String::from_utf8(general).unwrap());
        }
    }
}
