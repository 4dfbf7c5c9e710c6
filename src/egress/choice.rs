//! The choice of an upstream within a group.

use super::{Egress, Member};
use crate::limits;
use crate::upstream::without_name;

/// The order in which the upstreams of a group are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamOrder {
    /// As configured: the first one that is up.
    Failover,
    /// The one with the fewest tunnels for its weight first.
    Balance,
}

/// The members that a request has tried already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u64);

// One bit per member.
const _: () = assert!(limits::MAX_UPSTREAMS <= 64);

impl Tried {
    /// Adds a member.
    pub fn insert(&mut self, member: usize) {
        self.0 |= 1 << member;
    }

    /// Removes a member.
    pub fn remove(&mut self, member: usize) {
        self.0 &= !(1 << member);
    }

    /// Whether it contains a member.
    pub fn contains(self, member: usize) -> bool {
        self.0 & 1 << member != 0
    }
}

impl Egress {
    /// The next member of a group for a request, by index: one that is up and has not been tried. `None` if there is
    /// none.
    pub fn choose(&self, group: usize, tried: Tried) -> Option<usize> {
        let mut eligible = self.members.iter().enumerate().filter(|(index, member)| {
            member.group == group && !tried.contains(*index) && member.upstream.health.is_up()
        });
        match self.order {
            UpstreamOrder::Failover => eligible.next().map(|(index, _)| index),
            UpstreamOrder::Balance => {
                eligible.min_by(|(_, one), (_, other)| compare(one, other)).map(|(index, _)| index)
            }
        }
    }

    /// The member of a group, by index, to which a client may be sent although all members are ejected: the one with
    /// the lowest [`Health::trial_rank`](crate::upstream::Health::trial_rank), at a bounded rate. `None` while a member
    /// is up, or if no trial is due.
    pub fn choose_for_trial(&self, group: usize, destination: &str, now_ms: u64) -> Option<usize> {
        let of_group = || self.members.iter().enumerate().filter(|(_, member)| member.group == group);
        if of_group().any(|(_, member)| member.upstream.health.is_up()) {
            return None;
        }
        let ranked = of_group().filter_map(|(index, member)| Some((member.upstream.health.trial_rank()?, index)));
        let (_, best) = ranked.min()?;
        self.members.get(best)?.upstream.health.claim_trial(now_ms, destination).then_some(best)
    }

    /// Why no member of a group is up: each member's name and reason. Their next checks are brought forward.
    pub fn why_down(&self, group: usize) -> String {
        let members = self.members.iter().filter(|member| member.group == group);
        let reasons: Vec<String> = members
            .filter_map(|member| {
                member.upstream.health.hurry();
                let (name, why) = (member.upstream.name(), member.upstream.health.why_down()?);
                Some(format!("{name}: {}", without_name(name, &why)))
            })
            .collect();
        reasons.join("; ")
    }
}

/// Compares the tunnels per weight that two members would have with one more.
fn compare(one: &Member, other: &Member) -> std::cmp::Ordering {
    let load = |of: &Member, weight: u32| (of.upstream.open() as u64 + 1) * u64::from(weight);
    load(one, other.weight).cmp(&load(other, one.weight))
}
