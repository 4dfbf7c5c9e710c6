//! A logon attempt from its sending to its end.

use super::reservation::{AttemptEnd, Reservation, Unreserved};
use super::verdict::{self, Answer, Verdict};

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
    /// Its reservation in the store, if there is one.
    pub reservation: Option<Reservation>,
}

/// What the end of an attempt changed at its track.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effect {
    pub verdict: Verdict,
    pub strike: Strike,
    /// It counts as a failed logon; with whether that is because a connection was closed on a client.
    pub failed_by_close: Option<bool>,
    /// The secret is accepted now.
    pub is_proven: bool,
    /// It was accepted before.
    pub was_proven: bool,
}

impl Effect {
    /// How a reserved attempt ended, for the store.
    pub(super) fn end(self) -> AttemptEnd {
        match self.verdict {
            _ if self.failed_by_close.is_some() => AttemptEnd::Refused { strike: self.strike != Strike::None },
            Verdict::Accepted if self.is_proven => AttemptEnd::Accepted,
            Verdict::Undecided => AttemptEnd::Undecided,
            _ => AttemptEnd::Unused,
        }
    }

    /// What the store has to know of an attempt without a reservation, if anything.
    pub(super) fn event(self, sent_ms: u64) -> Option<Unreserved> {
        match self.failed_by_close {
            Some(by_close) => Some(Unreserved::Failed { by_close, strike: self.strike != Strike::None }),
            None => (self.is_proven && !self.was_proven).then_some(Unreserved::Accepted { sent_ms }),
        }
    }
}

impl AttemptEnd {
    /// How a single attempt ended that no gateway made, for a request that the upstream had challenged. `is_proven`:
    /// nothing speaks against the secret at this upstream; `is_known`: some upstream has accepted it at some time.
    ///
    /// Such an attempt can close the guard only for a secret that is not accepted: whether the secret or the
    /// destination is the reason for a rejection takes a second attempt, which the gateways make if they need one.
    pub fn of_single(answer: Answer, is_proven: bool, is_known: bool) -> AttemptEnd {
        match verdict::of(answer, true, true) {
            Verdict::Accepted => AttemptEnd::Accepted,
            Verdict::Refused | Verdict::Stale => AttemptEnd::Refused { strike: !is_proven },
            Verdict::Closed if !is_known => AttemptEnd::Refused { strike: true },
            Verdict::Closed | Verdict::Passed | Verdict::Undecided => AttemptEnd::Undecided,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_attempt_closes_the_guard_only_for_a_secret_that_is_not_accepted() {
        let end = |answer, is_proven| AttemptEnd::of_single(answer, is_proven, is_proven);
        assert_eq!(end(Answer::Refused, false), AttemptEnd::Refused { strike: true });
        assert_eq!(end(Answer::Refused, true), AttemptEnd::Refused { strike: false });
        assert_eq!(end(Answer::Closed, false), AttemptEnd::Refused { strike: true });
        assert_eq!(end(Answer::Closed, true), AttemptEnd::Undecided);
        for (status, expected) in
            [(200, AttemptEnd::Accepted), (404, AttemptEnd::Accepted), (503, AttemptEnd::Undecided)]
        {
            assert_eq!(end(Answer::Status(status), false), expected, "{status}");
        }
        assert_eq!(end(Answer::Nothing, false), AttemptEnd::Undecided);
    }
}
