//! Which trailer fields are passed on (RFC 9110 §6.5.1).

use crate::http;

/// Fields that mean nothing, or something dangerous, behind the body they speak of: framing, routing, controls,
/// credentials, and the content's own description. Hop-by-hop fields come on top.
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

/// Decides on each trailer field once its name is complete. Until then it holds the name, which
/// [`TRAILER_LIMIT_BYTES`](http::TRAILER_LIMIT_BYTES) bounds.
#[derive(Debug, Default)]
pub(super) struct TrailerFilter {
    name: Vec<u8>,
    passes: bool,
}

impl TrailerFilter {
    /// Takes the next bytes of a name. The last of them is its colon.
    pub(super) fn take_name(&mut self, bytes: &[u8]) {
        self.name.extend_from_slice(bytes);
        if let Some(name) = self.name.strip_suffix(b":") {
            self.passes = str::from_utf8(name).is_ok_and(may_pass);
            if !self.passes {
                self.name.clear();
            }
        }
    }

    /// The name and colon of a field that passes, once.
    pub(super) fn take_owed(&mut self) -> Vec<u8> {
        if self.name.ends_with(b":") { std::mem::take(&mut self.name) } else { Vec::new() }
    }

    /// Whether the field passes whose value comes now.
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
    fn a_name_is_judged_when_it_is_whole() {
        let mut filter = TrailerFilter::default();
        filter.take_name(b"Ho");
        assert_eq!(filter.take_owed(), b"");
        filter.take_name(b"st-Digest:");
        assert!(filter.passes());
        assert_eq!(filter.take_owed(), b"Host-Digest:");
        assert_eq!(filter.take_owed(), b"");
        filter.take_name(b"HOST:");
        assert!(!filter.passes());
        assert_eq!(filter.take_owed(), b"");
        filter.take_name(b"ETag:");
        assert!(filter.passes());
        assert_eq!(filter.take_owed(), b"ETag:");
    }

    #[test]
    fn framing_routing_and_credentials_do_not_pass() {
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
