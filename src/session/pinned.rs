//! Upstream connections that belong to one client, because an origin has authenticated them (NTLM, Negotiate).

use std::sync::Arc;

use super::cx::Cx;
use crate::egress::Hop;
use crate::transport::Endpoint;

/// A connection that nobody but this client may use.
#[derive(Debug)]
pub(super) struct Pinned {
    pub upstream: Endpoint,
    pub number: u8,
    /// `None` where it leads straight to its origin.
    pub hop: Option<Arc<Hop>>,
    /// `host:port`.
    pub origin: Box<str>,
}

/// The client's own connection, if it leads to the same origin in the same way and is still open. Any other is closed,
/// and the client's next connection may be shared again.
pub(super) fn fitting(
    pinned: Option<Box<Pinned>>,
    origin: &str,
    hop: Option<&Arc<Hop>>,
    cx: &mut Cx<'_>,
) -> Option<Pinned> {
    let mut pinned = *pinned?;
    let same_way = match (&pinned.hop, hop) {
        (Some(own), Some(hop)) => own.is_same_way(hop),
        (None, None) => true,
        _ => false,
    };
    let fits = same_way && *pinned.origin == *origin && pinned.upstream.is_at_rest();
    cx.client.record.pinned = fits;
    fits.then_some(pinned)
}
