//! A logon attempt from its sending to its end.

/// An unanswered attempt, or a scout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub number: u64,
    pub at_ms: u64,
    /// 0 for a scout, which has not asked for anything yet.
    pub destination: u64,
    /// The secret was accepted at the time.
    pub sent_while_accepted: bool,
}

/// A failed attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub at_ms: u64,
    /// The highest number that the account had assigned at the time.
    pub after: u64,
    /// It had been sent before the secret stopped being accepted.
    pub sent_while_accepted: bool,
    /// A client's connection ended without an answer.
    pub by_close: bool,
}

/// What the account knows when an attempt fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccountView {
    /// The highest number that was assigned.
    pub newest: u64,
    /// Failures of the same secret at other upstreams in the same batch.
    pub in_batch: usize,
    /// Some upstream has accepted the secret at some time.
    pub is_known: bool,
    /// Some upstream has recently accepted it for this destination.
    pub is_known_good: bool,
}

/// An attempt that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempted {
    pub number: u64,
    pub sent_ms: u64,
    pub destination: u64,
    /// It was sent while the secret was accepted.
    pub sent_while_accepted: bool,
    /// It was the gateway's own, to confirm the secret.
    pub confirms: bool,
    /// The request itself had been answered with a challenge.
    pub challenged: bool,
}

/// Whether an answer closes the guard at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
    None,
    /// By a 407.
    Refused,
    /// By a connection that ended without an answer.
    Closed,
}
