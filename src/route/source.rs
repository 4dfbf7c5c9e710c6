//! Sources of routes: they decide where requests go, at once or later from a thread of their own.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::plan::Plan;
use crate::http::Authority;

/// A source of routes.
pub trait RouteSource: fmt::Debug + Send + Sync {
    /// Answers a question, or takes a ticket with `ticket` and answers it later from another thread.
    ///
    /// It is called on a shard's thread, so it must not block: no files, no name resolution, no contended lock. What
    /// has to wait for its threads must be bounded, also for each client: beyond the bound the answer is a failure.
    fn route(&self, question: &RouteQuestion<'_>, ticket: &dyn Fn() -> RouteTicket) -> RouteReply;
}

/// What a source of routes is asked.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuestion<'a> {
    /// Where the client wants to go, as it named it.
    pub destination: Authority<'a>,
    /// The client's address.
    pub client: IpAddr,
    /// The client gives up after this.
    pub patience: Duration,
}

/// The plan, or why there is none: a sentence for people, without secrets.
pub type RouteAnswer = Result<Plan, Cow<'static, str>>;

/// What a source replies at once.
#[derive(Debug)]
pub enum RouteReply {
    /// The answer.
    Now(RouteAnswer),
    /// The ticket will be answered.
    Later,
}

/// The right to answer a question, once. A ticket that is dropped is answered with a failure, so that the client need
/// not wait for its time-out.
pub struct RouteTicket(Option<Box<dyn FnOnce(RouteAnswer) + Send>>);

impl RouteTicket {
    /// A ticket whose answer goes to `answer`.
    pub fn new(answer: impl FnOnce(RouteAnswer) + Send + 'static) -> RouteTicket {
        RouteTicket(Some(Box::new(answer)))
    }

    /// Answers the question. An answer that comes too late is ignored.
    pub fn answer(mut self, answer: RouteAnswer) {
        self.send(answer);
    }

    fn send(&mut self, answer: RouteAnswer) {
        if let Some(send) = self.0.take() {
            send(answer);
        }
    }
}

impl Drop for RouteTicket {
    fn drop(&mut self) {
        self.send(Err("the source of routes gave no answer".into()));
    }
}

impl fmt::Debug for RouteTicket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RouteTicket").field("answered", &self.0.is_none()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Candidate;
    use std::sync::mpsc;

    #[test]
    fn a_ticket_is_answered_exactly_once_even_if_it_is_dropped() {
        let (sender, answers) = mpsc::channel();
        let ticket = || {
            let sender = sender.clone();
            RouteTicket::new(move |answer| sender.send(answer).unwrap())
        };
        let plan = Plan::only(Candidate::Direct);
        ticket().answer(Ok(plan.clone()));
        assert_eq!(answers.try_iter().collect::<Vec<_>>(), [Ok(plan)]);
        drop(ticket());
        let [Err(_)] = answers.try_iter().collect::<Vec<_>>()[..] else { panic!("no failure") };
    }
}
