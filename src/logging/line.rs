//! Lines with fields of a few known types, which are written often.

use log::Record;
use log::kv::{Error, Key, Source, Value, VisitSource};

use super::format;
use crate::config::LogFormat;

/// The name of a field as text lines have it: ` status=`.
macro_rules! log_field_name {
    ($name:ident) => {
        concat!(" ", stringify!($name), "=")
    };
}
pub(crate) use log_field_name;

/// A field of a line.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Its name between a blank and `=`: names are constants, and text lines are put together from few pieces.
    framed_name: &'static str,
    value: FieldValue<'a>,
}

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub enum FieldValue<'a> {
    /// Whatever a peer or a configuration has put into it.
    Text(&'a str),
    /// A word of the program's own, which needs neither quotes nor escapes.
    Label(&'static str),
    /// A number.
    Number(u64),
    /// So many hundredths.
    Hundredths(u32),
}

impl<'a> Field<'a> {
    /// A field. `framed_name` is made by `log_field_name!`.
    pub const fn new(framed_name: &'static str, value: FieldValue<'a>) -> Field<'a> {
        Field { framed_name, value }
    }

    fn name(&self) -> &'static str {
        self.framed_name.get(1..self.framed_name.len() - 1).unwrap_or_default()
    }
}

/// Appends a line as [`format::line`] does.
pub(super) fn write(
    out: &mut Vec<u8>,
    format: LogFormat,
    time: &[u8],
    record: &Record<'_>,
    (message, fields): (&str, &[Field<'_>]),
) {
    format::begin(out, format, time, record, message);
    for field in fields {
        match format {
            LogFormat::Text => out.extend_from_slice(field.framed_name.as_bytes()),
            LogFormat::Json => {
                out.extend_from_slice(b",\"");
                out.extend_from_slice(field.name().as_bytes());
                out.extend_from_slice(b"\":");
            }
        }
        match (field.value, format) {
            (FieldValue::Number(number), _) => format::write_decimal(out, number),
            (FieldValue::Hundredths(number), _) => format::write_in_hundredths(out, number.into()),
            (FieldValue::Label(word), LogFormat::Text) => out.extend_from_slice(word.as_bytes()),
            (FieldValue::Text(text) | FieldValue::Label(text), _) => format::write_text(out, format, text),
        }
    }
    format::end(out, format);
}

/// The fields as other loggers read them.
pub(super) struct Pairs<'a>(pub &'a [Field<'a>]);

impl Source for Pairs<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), Error> {
        self.0.iter().try_for_each(|field| {
            let value = match field.value {
                FieldValue::Text(text) | FieldValue::Label(text) => Value::from(text),
                FieldValue::Number(number) => Value::from(number),
                FieldValue::Hundredths(number) => Value::from(f64::from(number) / 100.0),
            };
            visitor.visit_pair(Key::from_str(field.name()), value)
        })
    }

    fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    const TIME: &[u8] = b"2026-01-02T03:04:05.678Z";

    /// A line must not show which way it was written.
    #[test]
    fn a_line_is_what_it_would_be_by_the_general_way() {
        let long = "ü".repeat(40_000);
        let texts = ["", "-", "echo.test:443", "two words", "a=b", "\"\\", "line\nend", "ü", "\u{202e}", &long];
        let numbers = [0, 7, 200, u64::MAX];
        let mut fields = vec![Field::new(log_field_name!(connection), FieldValue::Label("cold"))];
        fields.extend(texts.map(|text| Field::new(log_field_name!(target), FieldValue::Text(text))));
        fields.extend(numbers.map(|number| Field::new(log_field_name!(legs), FieldValue::Number(number))));
        let hundredths = (0..1200).chain([12_345, u32::MAX]);
        fields.extend(hundredths.map(|number| Field::new(log_field_name!(ms), FieldValue::Hundredths(number))));
        let pairs = Pairs(&fields);
        let args = format_args!("tunnel closed");
        let record = Record::builder().args(args).level(Level::Info).target("access").key_values(&pairs).build();
        for log_format in [LogFormat::Text, LogFormat::Json] {
            let (mut general, mut direct) = (Vec::new(), Vec::new());
            format::line(&mut general, log_format, TIME, &record);
            write(&mut direct, log_format, TIME, &record, ("tunnel closed", &fields));
            assert_eq!(String::from_utf8(direct).unwrap(), String::from_utf8(general).unwrap());
        }
    }
}
