//! Decides which trailer fields are forwarded (RFC 9110 §6.5.1).

use crate::http;

/// Fields that are useless or dangerous in a trailer section: framing, routing, request modifiers, credentials and
/// content metadata. Hop-by-hop fields are excluded as well.
const FORBIDDEN: [&str; 22] = [
    "host",
    "content-length",
    "content-encoding",
    "content-type",
    "content-range",
    "authorization",
    "www-authenticate",
    "cookie",
    "set-cookie",
    "cache-control",
    "pragma",
    "expect",
    "max-forwards",
    "range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "via",
    "location",
    "vary",
];

/// Decides about each trailer field when its name is complete. Until then it buffers the name, of at most
/// [`TRAILER_LIMIT_BYTES`](http::TRAILER_LIMIT_BYTES).
#[derive(Debug, Default)]
pub(super) struct TrailerFilter {
    name: Vec<u8>,
    passes: bool,
}

impl TrailerFilter {
    /// Adds the next bytes of a name. The last byte of a name is its colon.
    pub(super) fn take_name(&mut self, bytes: &[u8]) {
        self.name.extend_from_slice(bytes);
        if let Some(name) = self.name.strip_suffix(b":") {
            self.passes = str::from_utf8(name).is_ok_and(may_pass);
            if !self.passes {
                self.name.clear();
            }
        }
    }

    /// Returns the name and colon of an accepted field once, otherwise nothing.
    pub(super) fn take_accepted_name(&mut self) -> Vec<u8> {
        if self.name.ends_with(b":") { std::mem::take(&mut self.name) } else { Vec::new() }
    }

    /// Whether the current field is accepted, so that its value is forwarded.
    pub(super) fn passes(&self) -> bool {
        self.passes
    }
}

fn may_pass(name: &str) -> bool {
    !http::is_hop_by_hop(name)
        && !http::resembles_hop_by_hop(name)
        && !FORBIDDEN.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_decided_when_its_name_is_complete() {
        let mut filter = TrailerFilter::default();
        filter.take_name(b"Ho");
        assert_eq!(filter.take_accepted_name(), b"");
        filter.take_name(b"st-Digest:");
        assert!(filter.passes());
        assert_eq!(filter.take_accepted_name(), b"Host-Digest:");
        assert_eq!(filter.take_accepted_name(), b"");
        filter.take_name(b"HOST:");
        assert!(!filter.passes());
        assert_eq!(filter.take_accepted_name(), b"");
        filter.take_name(b"ETag:");
        assert!(filter.passes());
        assert_eq!(filter.take_accepted_name(), b"ETag:");
    }

    #[test]
    fn framing_routing_and_credential_fields_are_not_forwarded() {
        for name in [
            "Transfer-Encoding",
            "content-length",
            "Trailer",
            "TE",
            "Host",
            "Proxy-Authorization",
            "Set-Cookie",
            "Content_Length",
        ] {
            assert!(!may_pass(name), "{name}");
        }
        for name in ["Server-Timing", "grpc-status", "Digest", "Authentication-Info"] {
            assert!(may_pass(name), "{name}");
        }
    }
}
