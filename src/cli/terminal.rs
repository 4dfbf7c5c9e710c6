//! Text from peers, made safe for a terminal.

use std::fmt::Write;

use crate::ntlm::MessageType;

/// Rows of names and values in two columns.
pub(super) fn aligned(rows: &[(String, String)]) -> String {
    let widest = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let mut out = String::new();
    for (name, value) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:widest$}  {}", printable(name), printable(value));
    }
    out
}

/// Escapes control characters: the text may come from a peer, and a terminal would interpret them.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => out.extend(character.escape_default()),
            false => out.push(character),
        }
    }
    out
}

/// The name of an NTLM message in MS-NLMP.
pub(super) fn message_name(message: &[u8]) -> &'static str {
    match MessageType::of(message) {
        Ok(MessageType::Negotiate) => "NEGOTIATE_MESSAGE",
        Ok(MessageType::Challenge) => "CHALLENGE_MESSAGE",
        Ok(MessageType::Authenticate) => "AUTHENTICATE_MESSAGE",
        Err(_) => "not an NTLM message",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_aligned() {
        let fields = [("a".to_owned(), "1".to_owned()), ("long".to_owned(), "x\n\u{1b}[2J".to_owned())];
        assert_eq!(aligned(&fields), "a     1\nlong  x\\n\\u{1b}[2J\n");
    }
}
