//! Where connections to upstreams come from.

/// Where the connection to an upstream came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionSource {
    /// It was dialled for this request.
    Cold,
    /// It was dialled and challenged before the request came.
    Warm,
    /// It was authenticated for an earlier request.
    Kept,
}
