//! The names of the fields that the gateway interprets. They are recognised once, when a head is parsed.

macro_rules! field_names {
    ($($name:ident $text:literal)*) => {
        /// A field that the gateway interprets.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is named after its field")]
        pub enum FieldName {
            $($name,)*
        }

        impl FieldName {
            #[cfg(test)]
            const ALL: &[FieldName] = &[$(FieldName::$name),*];

            /// The name in lower case.
            pub const fn text(self) -> &'static str {
                match self {
                    $(FieldName::$name => $text,)*
                }
            }
        }
    };
}

field_names! {
    Authorization "authorization"
    Connection "connection"
    ContentLength "content-length"
    Expect "expect"
    Host "host"
    Http2Settings "http2-settings"
    KeepAlive "keep-alive"
    MaxForwards "max-forwards"
    PersistentAuth "persistent-auth"
    ProxyAuthenticate "proxy-authenticate"
    ProxyAuthenticationInfo "proxy-authentication-info"
    ProxyAuthorization "proxy-authorization"
    ProxyConnection "proxy-connection"
    ProxySupport "proxy-support"
    Te "te"
    Traceparent "traceparent"
    Trailer "trailer"
    TransferEncoding "transfer-encoding"
    Upgrade "upgrade"
    Via "via"
    WwwAuthenticate "www-authenticate"
}

use FieldName::*;

impl FieldName {
    /// The only name with this length and this first letter.
    fn candidate(name: &[u8]) -> Option<FieldName> {
        Some(match (name.len(), name.first()?.to_ascii_lowercase()) {
            (2, b't') => Te,
            (3, b'v') => Via,
            (4, b'h') => Host,
            (6, b'e') => Expect,
            (7, b't') => Trailer,
            (7, b'u') => Upgrade,
            (10, b'c') => Connection,
            (10, b'k') => KeepAlive,
            (11, b't') => Traceparent,
            (12, b'm') => MaxForwards,
            (13, b'a') => Authorization,
            (13, b'p') => ProxySupport,
            (14, b'c') => ContentLength,
            (14, b'h') => Http2Settings,
            (15, b'p') => PersistentAuth,
            (16, b'p') => ProxyConnection,
            (16, b'w') => WwwAuthenticate,
            (17, b't') => TransferEncoding,
            (18, b'p') => ProxyAuthenticate,
            (19, b'p') => ProxyAuthorization,
            (25, b'p') => ProxyAuthenticationInfo,
            _ => return None,
        })
    }
}

/// Kinds of fields: a bit for each name, and two for names that lenient peers may take for another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldKinds(u32);

impl FieldKinds {
    /// Fields with other names.
    pub const OTHER: FieldKinds = FieldKinds(0);

    /// Names that a lenient peer may take for Content-Length or Transfer-Encoding although they are neither. Behind a
    /// CGI-like interface, `Content_Length` and `Content.Length` become the same variable, `CONTENT_LENGTH`, as
    /// `Content-Length`.
    pub const RESEMBLES_FRAMING: FieldKinds = FieldKinds(1 << 30);

    /// Names that a lenient peer may take for another hop-by-hop field although they are none.
    const RESEMBLES_HOP_BY_HOP: FieldKinds = FieldKinds(1 << 31);

    /// Fields that are always hop-by-hop, whether Connection lists them or not (RFC 9110 §7.6.1, §11.7).
    const HOP_BY_HOP: FieldKinds = FieldKinds::of(&[
        Connection,
        ProxyConnection,
        KeepAlive,
        ProxyAuthorization,
        ProxyAuthenticate,
        ProxyAuthenticationInfo,
        Te,
        Trailer,
        TransferEncoding,
        Upgrade,
    ]);

    /// Fields that determine where a message ends.
    const FRAMING: FieldKinds = FieldKinds::of(&[ContentLength, TransferEncoding]);

    /// What is never forwarded: hop-by-hop fields, and those that a lenient peer may take for a hop-by-hop or framing
    /// field.
    pub const NOT_FORWARDED: FieldKinds = Self::HOP_BY_HOP.and(Self::RESEMBLES_FRAMING).and(Self::RESEMBLES_HOP_BY_HOP);

    /// Those with these names.
    pub const fn of(names: &[FieldName]) -> FieldKinds {
        let (mut bits, mut place) = (0, 0);
        while place < names.len() {
            bits |= 1 << names[place] as u32;
            place += 1;
        }
        FieldKinds(bits)
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, other: FieldKinds) -> FieldKinds {
        FieldKinds(self.0 | other.0)
    }

    /// Whether any of these is among those.
    pub const fn intersects(self, other: FieldKinds) -> bool {
        self.0 & other.0 != 0
    }

    /// The kind of a field with this name, a token. Case is ignored.
    pub fn of_name(name: &[u8]) -> FieldKinds {
        let Some(candidate) = FieldName::candidate(name) else { return FieldKinds::OTHER };
        let kind = FieldKinds::of(&[candidate]);
        let known = candidate.text().as_bytes();
        match () {
            () if is_same(name, known) => kind,
            () if !resembles(name, known) => FieldKinds::OTHER,
            () if kind.intersects(FieldKinds::FRAMING) => FieldKinds::RESEMBLES_FRAMING,
            () if kind.intersects(FieldKinds::HOP_BY_HOP) => FieldKinds::RESEMBLES_HOP_BY_HOP,
            () => FieldKinds::OTHER,
        }
    }
}

/// The bit of each byte of a word in which small letters differ from capitals.
const CASE_BITS: u64 = u64::MAX / 255 * 0x20;

/// Whether a token is the name `known`, which has the same length, in any letter case.
fn is_same(name: &[u8], known: &[u8]) -> bool {
    // Among the bytes of tokens, only a letter in the other case becomes equal by this bit.
    let is_equal = |byte: &u8, known: &u8| byte | 0x20 == *known;
    let Some((last, known_last)) = name.last_chunk().zip(known.last_chunk()) else {
        return name.iter().zip(known).all(|(byte, known)| is_equal(byte, known));
    };
    let lower = |word: &[u8; 8]| u64::from_le_bytes(*word) | CASE_BITS;
    let ((words, _), (known_words, _)) = (name.as_chunks(), known.as_chunks());
    // The last word overlaps the one before it.
    lower(last) == u64::from_le_bytes(*known_last)
        && words.iter().zip(known_words).all(|(word, known)| lower(word) == u64::from_le_bytes(*known))
}

/// Whether `name` differs from `known`, which has the same length, at most in letter case and separators.
#[cold]
fn resembles(name: &[u8], known: &[u8]) -> bool {
    let normalize = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    name.iter().map(normalize).eq(known.iter().copied())
}

/// Whether a field with this name is hop-by-hop even if Connection does not list it (RFC 9110 §7.6.1, §11.7). Case is
/// ignored.
pub fn is_hop_by_hop(name: &str) -> bool {
    FieldKinds::of_name(name.as_bytes()).intersects(FieldKinds::HOP_BY_HOP)
}

/// Whether a lenient peer may take this name for a hop-by-hop or framing field although it is none. Such fields are not
/// forwarded.
pub fn resembles_hop_by_hop(name: &str) -> bool {
    let resembling = FieldKinds::RESEMBLES_FRAMING.and(FieldKinds::RESEMBLES_HOP_BY_HOP);
    FieldKinds::of_name(name.as_bytes()).intersects(resembling)
}

/// What fields are looked up by.
#[derive(Clone, Copy, Debug)]
pub enum LookupName<'n> {
    /// A name that is recognised when a head is parsed.
    Known(FieldName),
    /// Any other.
    Text(&'n str),
}

impl From<FieldName> for LookupName<'_> {
    fn from(name: FieldName) -> Self {
        LookupName::Known(name)
    }
}

impl<'n> From<&'n str> for LookupName<'n> {
    fn from(name: &'n str) -> Self {
        LookupName::Text(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::start_line::is_token_char;

    #[test]
    fn every_name_is_recognised_in_any_letter_case() {
        for name in FieldName::ALL {
            let kind = FieldKinds::of(&[*name]);
            for text in [name.text().to_owned(), name.text().to_ascii_uppercase()] {
                assert_eq!(FieldKinds::of_name(text.as_bytes()), kind, "{text}");
            }
            assert_eq!(FieldName::ALL.iter().filter(|other| other.text() == name.text()).count(), 1);
        }
    }

    #[test]
    fn a_name_that_differs_in_one_byte_is_another() {
        let tokens = (0..=u8::MAX).filter(|byte| is_token_char(*byte));
        for (name, byte) in FieldName::ALL.iter().flat_map(|name| tokens.clone().map(move |byte| (name, byte))) {
            for place in 0..name.text().len() {
                let mut text = name.text().as_bytes().to_vec();
                text[place] = byte;
                let is_same = text.eq_ignore_ascii_case(name.text().as_bytes());
                assert_eq!(FieldKinds::of_name(&text) == FieldKinds::of(&[*name]), is_same, "{}", text.escape_ascii());
            }
        }
        for text in [&b""[..], b"t", b"te-", b"hos", b"hosts", b"x-host"] {
            assert_eq!(FieldKinds::of_name(text), FieldKinds::OTHER);
        }
    }

    #[test]
    fn names_with_other_separators_resemble_what_is_not_forwarded() {
        for (text, kind) in [
            ("Content_Length", FieldKinds::RESEMBLES_FRAMING),
            ("content.length", FieldKinds::RESEMBLES_FRAMING),
            ("TRANSFER_ENCODING", FieldKinds::RESEMBLES_FRAMING),
            ("Proxy_Authorization", FieldKinds::RESEMBLES_HOP_BY_HOP),
            ("keep+alive", FieldKinds::RESEMBLES_HOP_BY_HOP),
            ("Max_Forwards", FieldKinds::OTHER),
        ] {
            assert_eq!(FieldKinds::of_name(text.as_bytes()), kind, "{text}");
        }
    }
}
