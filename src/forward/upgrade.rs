//! The protocols of an Upgrade field (RFC 9110 §7.8).

use crate::http::Fields;

/// The protocols that the Upgrade fields name and that may be switched to through a proxy, as `a, b`; `None` when there
/// are none, or when Connection does not name Upgrade.
///
/// HTTP itself and TLS are left out: a switch to either (`h2c`, `HTTP/2.0`, `TLS/1.0`) concerns one connection, and
/// behind it requests would go past the gateway unseen.
pub(super) fn protocols(fields: &Fields<'_>) -> Option<Box<str>> {
    if !fields.has_token("connection", "upgrade") {
        return None;
    }
    let names = fields.list("upgrade").filter_map(|name| str::from_utf8(name).ok());
    let kept: Vec<&str> = names.filter(|name| is_protocol(name) && !is_for_one_connection(name)).collect();
    (!kept.is_empty()).then(|| kept.join(", ").into())
}

/// Whether every protocol of `answered` is one of `asked`; both as [`protocols`] gives them.
pub(super) fn all_asked(answered: &str, asked: &str) -> bool {
    answered.split(", ").all(|name| asked.split(", ").any(|asked| asked.eq_ignore_ascii_case(name)))
}

/// `name` or `name/version`, in characters of a token.
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
    fn only_what_was_asked_for_may_be_answered() {
        assert!(all_asked("WebSocket", "foo/2, websocket"));
        assert!(all_asked("foo/2, websocket", "websocket, foo/2"));
        assert!(!all_asked("foo/3", "foo/2, websocket"));
        assert!(!all_asked("websocket, bar", "websocket"));
    }
}
