//! What a source of routes answers: where a request may go.

use crate::limits;

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

/// Candidates in the order in which they are tried. The next one is tried only if the present one cannot be used at all
/// and nothing of the request has been sent. A denial ends the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    next: Option<Candidate>,
    /// Those after it, in reverse order.
    rest: Vec<Candidate>,
}

impl Plan {
    /// A plan with one candidate.
    pub fn only(candidate: Candidate) -> Plan {
        Plan { next: Some(candidate), rest: Vec::new() }
    }

    /// A plan with candidates in this order. Those after a denial are left out, as are those beyond
    /// [`limits::ROUTE_CANDIDATES`].
    pub fn of(candidates: impl IntoIterator<Item = Candidate>) -> Plan {
        let mut rest = Vec::new();
        for candidate in candidates.into_iter().take(limits::ROUTE_CANDIDATES) {
            rest.push(candidate);
            if candidate == Candidate::Deny {
                break;
            }
        }
        rest.reverse();
        Plan { next: rest.pop(), rest }
    }

    /// Takes the next candidate.
    pub fn take_next(&mut self) -> Option<Candidate> {
        std::mem::replace(&mut self.next, self.rest.pop())
    }

    /// The next candidate.
    pub fn next(&self) -> Option<Candidate> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: [Candidate; 2] = [
        Candidate::Group { group: 0, without_credentials: false },
        Candidate::Group { group: 1, without_credentials: false },
    ];

    fn drain(mut plan: Plan) -> Vec<Candidate> {
        std::iter::from_fn(|| plan.take_next()).collect()
    }

    #[test]
    fn candidates_come_in_their_order() {
        let candidates = [GROUPS[1], Candidate::Direct, GROUPS[0]];
        let plan = Plan::of(candidates);
        assert_eq!(plan.next(), Some(GROUPS[1]));
        assert_eq!(drain(plan), candidates);
        assert_eq!(drain(Plan::only(Candidate::Direct)), [Candidate::Direct]);
        assert_eq!(drain(Plan::of([])), []);
    }

    #[test]
    fn a_denial_ends_a_plan() {
        let plan = Plan::of([GROUPS[0], Candidate::Deny, Candidate::Direct]);
        assert_eq!(drain(plan), [GROUPS[0], Candidate::Deny]);
        assert_eq!(Plan::of([Candidate::Deny, Candidate::Direct]), Plan::only(Candidate::Deny));
    }

    #[test]
    fn the_number_of_candidates_is_bounded() {
        let endless = std::iter::repeat(Candidate::Direct);
        assert_eq!(drain(Plan::of(endless)).len(), limits::ROUTE_CANDIDATES);
    }
}
