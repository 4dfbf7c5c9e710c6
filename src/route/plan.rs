//! What a source of routes answers: where a request may go.

/// Where a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// Through one of the upstreams of a group.
    Group {
        /// The group's number.
        group: usize,
        /// The upstream is asked without credentials first.
        without_credentials: bool,
    },
    /// Straight to its origin.
    Direct,
    /// Nowhere: it is rejected.
    Deny,
}

/// Candidates in the order in which they are tried. The configuration's rules answer with exactly one; a source that
/// answers with several (`PROXY a; PROXY b; DIRECT`) would keep them here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan(Candidate);

impl Plan {
    /// A plan with one candidate.
    pub fn only(candidate: Candidate) -> Plan {
        Plan(candidate)
    }

    /// The candidate to begin with.
    pub fn first(&self) -> Candidate {
        self.0
    }
}
