//! The protocols in an Upgrade field (RFC 9110 §7.8).

use crate::http::{FieldName, Fields};

/// The protocols in the Upgrade fields that a client and an origin may switch to through a proxy, as `a, b`. `None` if
/// there are none, or if Connection does not list Upgrade.
///
/// HTTP and TLS are excluded: a switch to one of them (`h2c`, `HTTP/2.0`, `TLS/1.0`) applies to a single connection,
/// and the gateway could no longer see the requests that follow it.
pub(super) fn protocols(fields: &Fields<'_>) -> Option<Box<str>> {
    if !fields.has(FieldName::Upgrade) || !fields.has_token(FieldName::Connection, "upgrade") {
        return None;
    }
    let names = fields.list(FieldName::Upgrade).filter_map(|name| str::from_utf8(name).ok());
    let kept: Vec<&str> = names.filter(|name| is_protocol(name) && !is_for_one_connection(name)).collect();
    (!kept.is_empty()).then(|| kept.join(", ").into())
}

/// Whether every protocol in `chosen` is also in `offered`. Both have the form that [`protocols`] returns.
pub(super) fn all_offered(chosen: &str, offered: &str) -> bool {
    chosen.split(", ").all(|name| offered.split(", ").any(|offered| offered.eq_ignore_ascii_case(name)))
}

/// Whether `text` is `name` or `name/version`, both tokens.
fn is_protocol(text: &str) -> bool {
    let is_token = |part: &str| {
        let in_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !part.is_empty() && part.bytes().all(in_token)
    };
    match text.split_once('/') {
        Some((name, version)) => is_token(name) && is_token(version),
        None => is_token(text),
    }
}

fn is_for_one_connection(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or(protocol);
    ["h2", "h2c", "http", "tls"].iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_a_name_with_or_without_a_version() {
        for (text, expected) in [
            ("websocket", true),
            ("foo/2", true),
            ("foo/", false),
            ("/2", false),
            ("", false),
            ("a b", false),
            ("a/b/c", false),
            ("a\"", false),
        ] {
            assert_eq!(is_protocol(text), expected, "{text:?}");
        }
    }

    #[test]
    fn only_offered_protocols_may_be_chosen() {
        assert!(all_offered("WebSocket", "foo/2, websocket"));
        assert!(all_offered("foo/2, websocket", "websocket, foo/2"));
        assert!(!all_offered("foo/3", "foo/2, websocket"));
        assert!(!all_offered("websocket, bar", "websocket"));
    }
}
