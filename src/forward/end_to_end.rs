//! Writes the field lines that are forwarded, and Via (RFC 9110 §7.6).

use super::ForwardOptions;
use crate::http::{FieldName, Fields, Version};

/// Appends the Trailer fields, for a body that stays chunked (RFC 9110 §6.6.2), unless Connection lists them.
pub(super) fn copy_trailer(fields: &Fields<'_>, out: &mut Vec<u8>) {
    if fields.has_token(FieldName::Connection, "trailer") {
        return;
    }
    for value in fields.get_all(FieldName::Trailer) {
        line("Trailer", value, out);
    }
}

/// The most bytes that the end-to-end fields of a message take, with Via.
pub fn room_for_fields(fields: &Fields<'_>, options: &ForwardOptions<'_>) -> usize {
    let via = options.via.map_or(0, |pseudonym| "Via: 1.1 \r\n".len() + pseudonym.len());
    // A colon may get a space after it.
    fields.section_bytes() + fields.len() + via
}

/// Appends a Via line for a message that was received in version `received` (RFC 9110 §7.6.3). It must follow the Via
/// lines that the message already has, because the order of the lines is the order of the recipients.
pub fn append_via(received: Version, options: &ForwardOptions<'_>, out: &mut Vec<u8>) {
    let received = match received {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
    };
    append_via_received(received, options, out);
}

/// As [`append_via`], for a request that came by another protocol: `received` is its name and version.
pub fn append_via_received(received: &str, options: &ForwardOptions<'_>, out: &mut Vec<u8>) {
    let Some(pseudonym) = options.via else {
        return;
    };
    debug_assert!(!pseudonym.is_empty() && pseudonym.bytes().all(|byte| byte.is_ascii_graphic() && byte != b','));
    // For a client of another protocol than HTTP, it is all there is.
    out.reserve(b"Via:  \r\n".len() + received.len() + pseudonym.len());
    out.extend_from_slice(b"Via: ");
    out.extend_from_slice(received.as_bytes());
    out.push(b' ');
    out.extend_from_slice(pseudonym.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Whether Via contains the gateway's pseudonym, so the message has already passed through a gateway with that
/// pseudonym.
pub fn via_names_gateway(fields: &Fields<'_>, options: &ForwardOptions<'_>) -> bool {
    let Some(pseudonym) = options.via else {
        return false;
    };
    if !fields.has(FieldName::Via) {
        return false;
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    fields.list(FieldName::Via).any(|element| {
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
