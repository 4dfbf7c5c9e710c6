//! What a source of routes answers: where a request may go, in order.

/// Where a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// Through one of the upstreams of this group, by the group's number.
    Group {
        /// The group.
        group: usize,
        /// The upstream is asked without credentials first.
        without_credentials: bool,
    },
    /// Straight to its origin.
    Direct,
    /// Nowhere: it is rejected.
    Deny,
}

/// Candidates in the order in which they are tried; at least one.
///
/// The rules of the configuration answer with one. A source that answers with several (a PAC file's
/// `PROXY a; PROXY b; DIRECT`) adds them with [`Plan::or`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    first: Candidate,
    rest: Vec<Candidate>,
}

impl Plan {
    /// A plan with one candidate.
    pub fn only(candidate: Candidate) -> Plan {
        Plan { first: candidate, rest: Vec::new() }
    }

    /// The candidate to begin with.
    pub fn first(&self) -> Candidate {
        self.first
    }
}
