//! How many attempts may be unanswered at once while the secret is accepted.

use super::GuardPolicy;
use crate::limits::{self, millis};

/// A limit on unanswered attempts that works like a congestion window: it doubles with each round trip that needed
/// more, and halves for every [`limits::GUARD_ROOM_HALF_LIFE`] without need, down to [`GuardPolicy::batch`]. So a burst
/// after a quiet time does not send many attempts before the first answer shows that the password has changed.
#[derive(Debug)]
pub(super) struct Room {
    /// In attempts.
    size: usize,
    /// When it was last too small, or was last halved, in ms.
    lacked_ms: Option<u64>,
}

impl Room {
    pub(super) fn new(policy: &GuardPolicy) -> Room {
        Room { size: policy.batch(), lacked_ms: None }
    }

    /// Whether one more attempt may join `unanswered` others. If not, the room grows with the answers to come.
    pub(super) fn has_place(&mut self, unanswered: usize, policy: &GuardPolicy, now_ms: u64) -> bool {
        self.shrink(policy, now_ms);
        let has_place = unanswered < self.size;
        if !has_place {
            self.lacked_ms = Some(now_ms);
        }
        has_place
    }

    /// Whether at least half of the room is free. Waiting requests are woken only then: waking all of them at every
    /// acceptance would take time quadratic in their number.
    pub(super) fn is_half_free(&self, unanswered: usize) -> bool {
        2 * unanswered <= self.size
    }

    /// An attempt that was sent at `sent_ms` went through. The room grows if it has been too small since.
    pub(super) fn grow(&mut self, sent_ms: u64) {
        if self.lacked_ms.is_some_and(|lacked_ms| sent_ms <= lacked_ms) {
            self.size += 1;
        }
    }

    fn shrink(&mut self, policy: &GuardPolicy, now_ms: u64) {
        let age_ms = millis(limits::GUARD_ROOM_HALF_LIFE);
        while self.size > policy.batch()
            && let Some(lacked_ms) = self.lacked_ms.filter(|lacked_ms| now_ms >= lacked_ms + age_ms)
        {
            self.size = (self.size / 2).max(policy.batch());
            self.lacked_ms = Some(lacked_ms + age_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_doubles_in_a_round_trip_that_needs_more_and_halves_when_unused() {
        let policy = GuardPolicy { attempts: 4, ..GuardPolicy::default() };
        let mut room = Room::new(&policy);
        assert!(room.has_place(1, &policy, 0) && !room.has_place(2, &policy, 0));
        (0..2).for_each(|_| room.grow(0));
        assert!(room.has_place(3, &policy, 1) && !room.has_place(4, &policy, 1));
        room.grow(2);
        assert!(!room.has_place(4, &policy, 1), "an attempt sent after the shortage adds nothing");
        let age_ms = millis(limits::GUARD_ROOM_HALF_LIFE);
        assert!(room.has_place(3, &policy, age_ms) && !room.has_place(2, &policy, 1 + age_ms));
        assert!(room.has_place(1, &policy, 100 * age_ms), "it never falls below one batch");
    }
}
