//! Sessions that wait for the same news.

use super::Key;

/// The keys of those that wait. Each is on the list at most once, however often it asks, as long as it keeps its
/// [`Seat`].
#[derive(Debug, Default)]
pub struct WaitList {
    waiting: Vec<Key>,
    /// How often the list has been called up.
    round: u64,
}

/// A session's place on a [`WaitList`], kept where the session waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// The round in which the session was last put on the list.
    round: Option<u64>,
}

impl WaitList {
    /// Puts a session on the list unless it is there already.
    pub fn join(&mut self, key: Key, seat: &mut Seat) {
        if seat.round != Some(self.round) {
            seat.round = Some(self.round);
            self.waiting.push(key);
        }
    }

    /// Empties the list and returns who was on it. Some of them may have ended since, or not wait any more.
    pub fn call_up(&mut self) -> Vec<Key> {
        self.round += 1;
        std::mem::take(&mut self.waiting)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Those that wait.
    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.waiting.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_on_the_list_once_a_round() {
        let [one, other] = [1, 2].map(|index| Key { index, generation: 1 });
        let (mut list, mut seat, mut others) = (WaitList::default(), Seat::default(), Seat::default());
        for _ in 0..3 {
            list.join(one, &mut seat);
            list.join(other, &mut others);
        }
        assert_eq!(list.call_up(), [one, other]);
        assert!(list.is_empty());
        list.join(other, &mut others);
        assert_eq!(list.call_up(), [other], "it waits for the next news");
    }
}
