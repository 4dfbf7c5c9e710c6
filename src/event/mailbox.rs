//! Messages from other threads to a loop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use mio::{Registry, Token, Waker};

/// The loop's end of a mailbox.
pub struct Mailbox<T> {
    messages: mpsc::Receiver<T>,
    ringing: Arc<AtomicBool>,
}

/// The other threads' end; cloned freely. Sending never blocks.
pub struct Sender<T> {
    messages: mpsc::Sender<T>,
    ringing: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { messages: self.messages.clone(), ringing: Arc::clone(&self.ringing), waker: Arc::clone(&self.waker) }
    }
}

/// Makes a mailbox that wakes the poll of `registry` with `token` when a message arrives.
///
/// # Errors
/// When the kernel has no descriptor left for the waker.
pub fn mailbox<T>(registry: &Registry, token: Token) -> io::Result<(Sender<T>, Mailbox<T>)> {
    let (sender, receiver) = mpsc::channel();
    let ringing = Arc::new(AtomicBool::new(false));
    let waker = Arc::new(Waker::new(registry, token)?);
    Ok((Sender { messages: sender, ringing: Arc::clone(&ringing), waker }, Mailbox { messages: receiver, ringing }))
}

impl<T> Sender<T> {
    /// Sends a message and wakes the loop unless it has been woken already. If the loop has ended, the message is lost,
    /// which is no error.
    pub fn send(&self, message: T) {
        if self.messages.send(message).is_ok() && !self.ringing.swap(true, Ordering::AcqRel) {
            // This fails only on a closed descriptor, which means that the loop has ended.
            let _ = self.waker.wake();
        }
    }
}

impl<T> Mailbox<T> {
    /// Takes what has arrived. The flag is cleared first, so that a message sent meanwhile wakes the loop again.
    pub fn take(&self) -> impl Iterator<Item = T> + '_ {
        self.ringing.store(false, Ordering::Release);
        self.messages.try_iter()
    }

    /// Whether the loop has been woken and has not taken the messages yet.
    #[cfg(test)]
    pub fn is_ringing(&self) -> bool {
        self.ringing.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use std::time::Duration;

    #[test]
    fn a_message_wakes_the_loop_and_later_ones_wake_it_again() {
        let mut poll = Poll::new().unwrap();
        let (sender, mailbox) = mailbox(poll.registry(), Token(5)).unwrap();
        let mut events = Events::with_capacity(8);
        for round in 0..3 {
            let from_elsewhere = sender.clone();
            let thread = std::thread::spawn(move || {
                from_elsewhere.send(round);
                from_elsewhere.send(round + 100);
            });
            thread.join().unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
            assert!(events.iter().any(|event| event.token() == Token(5)), "round {round} did not wake the loop");
            assert_eq!(mailbox.take().collect::<Vec<_>>(), [round, round + 100]);
        }
    }
}
