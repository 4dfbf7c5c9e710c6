//! The field `traceparent` of a request (W3C Trace Context, level 1), for the access log.

use super::field_name::FieldName;
use super::fields::Fields;

/// The length of version 00, which begins all later versions.
const LENGTH: usize = 55;

/// The value of a request's `traceparent`, if it has one that is valid: `version-trace-parent-flags`. Of a later
/// version, only what version 00 defines is left.
///
/// The client chooses it, so it identifies nothing and decides nothing.
pub fn traceparent<'b>(fields: &Fields<'b>) -> Option<&'b str> {
    let mut values = fields.get_all(FieldName::Traceparent);
    let value = values.next().filter(|_| values.next().is_none())?;
    valid(value)
}

fn valid(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value.get(..LENGTH)?).ok()?;
    let [version, trace, parent, flags] = split(text)?;
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_set = |part: &str| part.bytes().any(|byte| byte != b'0');
    let ends = match value.get(LENGTH) {
        None => true,
        Some(next) => version != "00" && *next == b'-',
    };
    let is_valid = ends
        && version != "ff"
        && [version, trace, parent, flags].into_iter().all(is_hex)
        && is_set(trace)
        && is_set(parent);
    is_valid.then_some(text)
}

/// The four parts, if each has its length.
fn split(text: &str) -> Option<[&str; 4]> {
    let mut parts = text.split('-');
    let all = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let has_lengths = all.iter().zip([2, 32, 16, 2]).all(|(part, length)| part.len() == length);
    (has_lengths && parts.next().is_none()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{FieldStorage, RequestHead};

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_valid_values_are_taken() {
        assert_eq!(valid(VALID.as_bytes()), Some(VALID));
        let later = format!("cc{}-what-comes", &VALID[2..]);
        assert_eq!(valid(later.as_bytes()), Some(&later[..LENGTH]), "a later version");
        for bad in [
            String::new(),
            VALID[..54].to_owned(),
            format!("{VALID}-more"),
            format!("{VALID}0"),
            format!("cc{}.", &VALID[2..]),
            format!("ff{}", &VALID[2..]),
            VALID.to_uppercase(),
            VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
            VALID.replacen('-', "_", 1),
            VALID.replace('b', "\u{e9}"),
            VALID.replacen("00-0", "0-00", 1),
        ] {
            assert_eq!(valid(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn of_two_fields_neither_is_taken() {
        for (lines, expected) in [(1, Some(VALID)), (2, None), (0, None)] {
            let field = format!("Traceparent: {VALID}\r\n").repeat(lines);
            let head = format!("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n{field}\r\n");
            let mut storage = FieldStorage::new();
            let head = RequestHead::parse(head.as_bytes(), &mut storage).unwrap();
            assert_eq!(traceparent(&head.fields), expected, "{lines}");
        }
    }
}
