//! A source of routes that answers as a script says.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::network::with;
use crate::route::{Plan, RouteQuestion, RouteReply, RouteSource, RouteTicket};

/// The answer to one question.
#[derive(Clone, Debug)]
pub enum RouteScript {
    AtOnce(Plan),
    /// Later, after so many µs; more than one of them if the source is mistaken.
    Later(Vec<(u64, Plan)>),
    /// The question is forgotten.
    Never,
    /// The ticket is dropped.
    GivesUp,
}

/// The answers to each client's questions, in order. The last one is given again.
pub type RouteScripts = BTreeMap<usize, Vec<RouteScript>>;

/// The source.
#[derive(Debug)]
pub struct ScriptedRoutes {
    scripts: Mutex<RouteScripts>,
    /// What is to be answered, by the number of its alarm.
    due: Mutex<Vec<Option<(RouteTicket, Plan)>>>,
    /// The kind of its alarms.
    alarm: u64,
}

impl ScriptedRoutes {
    pub fn new(scripts: RouteScripts, alarm: u64) -> ScriptedRoutes {
        ScriptedRoutes { scripts: Mutex::new(scripts), due: Mutex::default(), alarm }
    }

    /// An alarm has come.
    pub fn answer(&self, number: usize) {
        let due = self.due.lock().unwrap_or_else(PoisonError::into_inner)[number].take();
        let (ticket, plan) = due.expect("an alarm comes once");
        ticket.answer(Ok(plan));
    }

    fn script_for(&self, client: usize) -> RouteScript {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_client = scripts.get_mut(&client).expect("every client that asks has a script");
        if of_client.len() > 1 { of_client.remove(0) } else { of_client[0].clone() }
    }
}

impl RouteSource for ScriptedRoutes {
    fn route(&self, question: &RouteQuestion<'_>, ticket: &dyn Fn() -> RouteTicket) -> RouteReply {
        match self.script_for(usize::from(question.destination.port) - 9_000) {
            RouteScript::AtOnce(plan) => return RouteReply::Now(Ok(plan)),
            RouteScript::Later(answers) => {
                let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
                for (after_us, plan) in answers {
                    with(|network| network.alarm(after_us, self.alarm + due.len() as u64));
                    due.push(Some((ticket(), plan)));
                }
            }
            RouteScript::Never => {}
            RouteScript::GivesUp => drop(ticket()),
        }
        RouteReply::Later
    }
}
