//! Field lines that are passed on, and Via (RFC 9110 §7.6).

use super::ForwardOptions;
use crate::http::{Fields, Version};

/// Appends the end-to-end fields as field lines, but for those named in `skip`, which are written anew or not at all.
pub(super) fn copy_but(fields: &Fields<'_>, skip: &[&str], out: &mut Vec<u8>) {
    for field in fields.end_to_end() {
        if !skip.iter().any(|name| name.eq_ignore_ascii_case(field.name)) {
            line(field.name, field.value, out);
        }
    }
}

/// Appends the Trailer fields, which go along with a body that stays chunked (RFC 9110 §6.6.2), unless Connection
/// names them.
pub(super) fn copy_trailer(fields: &Fields<'_>, out: &mut Vec<u8>) {
    if fields.has_token("connection", "trailer") {
        return;
    }
    for value in fields.get_all("trailer") {
        line("Trailer", value, out);
    }
}

/// Appends a Via line for a message that came in `received` (RFC 9110 §7.6.3). It stands behind those that are there, and
/// lines of one list field count in their order.
pub fn append_via(received: Version, options: &ForwardOptions<'_>, out: &mut Vec<u8>) {
    let Some(pseudonym) = options.via else {
        return;
    };
    debug_assert!(!pseudonym.is_empty() && pseudonym.bytes().all(|byte| byte.is_ascii_graphic() && byte != b','));
    let version = received.as_str().trim_start_matches("HTTP/");
    out.extend_from_slice(b"Via: ");
    out.extend_from_slice(version.as_bytes());
    out.push(b' ');
    out.extend_from_slice(pseudonym.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Whether Via says that the message has been with somebody of our pseudonym.
pub fn via_names_us(fields: &Fields<'_>, options: &ForwardOptions<'_>) -> bool {
    let Some(pseudonym) = options.via else {
        return false;
    };
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    fields.list("via").any(|element| {
        let mut words = element.split(is_blank).filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|received_by| received_by.eq_ignore_ascii_case(pseudonym.as_bytes()))
    })
}

/// Appends one field line.
pub(super) fn line(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
