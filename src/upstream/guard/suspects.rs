//! Destinations that the upstream's policy may forbid.

use super::{GuardPolicy, rest_until};
use crate::limits::{self, millis};

/// Destinations that were refused while others were accepted, the oldest first; at most [`limits::GUARD_SUSPECTS`].
#[derive(Debug, Default)]
pub(super) struct Suspects(Vec<Suspect>);

#[derive(Clone, Copy, Debug)]
struct Suspect {
    destination: u64,
    /// Refusals in a row.
    refusals: u32,
    /// Nothing is sent for it before this time, in ms.
    until_ms: u64,
    /// The number of its latest refused attempt.
    number: u64,
}

impl Suspects {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, destination: u64) -> bool {
        self.find(destination).is_some()
    }

    /// How long nothing may be sent for a destination, in ms; `None` if an attempt may go out now.
    pub(super) fn rest_ms(&self, destination: u64, now_ms: u64) -> Option<u64> {
        rest_until(self.find(destination)?.until_ms, now_ms)
    }

    /// Makes a destination a suspect because attempt `number` was refused for it, or prolongs its rest. The first retry
    /// may follow at once if it was accepted recently: the refusal may be about that single request.
    pub(super) fn add(
        &mut self,
        destination: u64,
        number: u64,
        was_accepted_recently: bool,
        policy: &GuardPolicy,
        now_ms: u64,
    ) {
        let known = self.0.iter().position(|suspect| suspect.destination == destination);
        let first = u32::from(!was_accepted_recently);
        let refusals = known.map_or(first, |index| self.0.remove(index).refusals.saturating_add(1));
        let until_ms = if refusals == 0 { now_ms } else { now_ms + millis(policy.rest(refusals)) };
        self.0.push(Suspect { destination, refusals, until_ms, number });
        let surplus = self.0.len().saturating_sub(limits::GUARD_SUSPECTS);
        self.0.drain(..surplus);
    }

    /// The destination was accepted.
    pub(super) fn clear(&mut self, destination: u64) {
        self.0.retain(|suspect| suspect.destination != destination);
    }

    /// The secret was the reason, and not the destinations that were refused since attempt `accepted_number`.
    pub(super) fn clear_refused_since(&mut self, accepted_number: u64) {
        self.0.retain(|suspect| suspect.number < accepted_number);
    }

    fn find(&self, destination: u64) -> Option<&Suspect> {
        self.0.iter().find(|suspect| suspect.destination == destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_rests_longer_with_each_refusal() {
        let (policy, mut suspects) = (GuardPolicy::default(), Suspects::default());
        suspects.add(1, 1, true, &policy, 0);
        assert_eq!((suspects.contains(1), suspects.rest_ms(1, 0)), (true, None), "the first retry may follow at once");
        for minutes in [1, 5, 25, 30, 30] {
            suspects.add(1, 2, true, &policy, 0);
            assert_eq!(suspects.rest_ms(1, 0), Some(minutes * 60_000));
        }
        suspects.add(2, 3, false, &policy, 0);
        assert_eq!(suspects.rest_ms(2, 0), Some(60_000), "never accepted");
        suspects.clear_refused_since(3);
        assert!(suspects.contains(1) && !suspects.contains(2));
    }

    #[test]
    fn suspects_are_bounded_and_the_oldest_is_forgotten_first() {
        let (policy, mut suspects) = (GuardPolicy::default(), Suspects::default());
        let surplus = limits::GUARD_SUSPECTS as u64;
        (0..=surplus).for_each(|number| suspects.add(number, number, true, &policy, 0));
        assert_eq!(suspects.0.len(), limits::GUARD_SUSPECTS);
        assert!(!suspects.contains(0) && suspects.contains(surplus));
    }
}
