//! Everything that a probe found, before it is put into words or JSON.

use std::time::Duration;

use super::behaviours::{self, Behaviour};
use super::conversation::{Conversation, Event, What};
use super::message::{Answer, Carried};
use super::product::{self, Guess};
use super::verdict::{Verdict, account};
use crate::config::Config;
use crate::ntlm::{self, Account};

/// What is shown of an AUTHENTICATE_MESSAGE: names and kinds. A password can be guessed from the rest.
const AUTHENTICATE_ROWS: &[&str] =
    &["message", "length", "NegotiateFlags", "DomainName", "UserName", "Workstation", "response"];

pub(super) type Rows = Vec<(String, String)>;

#[derive(Debug)]
pub(super) struct Report {
    pub upstream: String,
    pub target: String,
    pub account: String,
    pub method: String,
    pub workstation: String,
    pub events: Vec<Event>,
    /// The essential rows of the CHALLENGE_MESSAGE.
    pub challenge: Rows,
    /// The harmless rows of the AUTHENTICATE_MESSAGE.
    pub authenticate: Rows,
    pub product: Option<Guess>,
    /// Fields by which the proxy tells of itself.
    pub marks: Rows,
    pub behaviours: Vec<Behaviour>,
    pub verdict: Verdict,
    pub took: Duration,
}

impl Report {
    pub(super) fn of(config: &Config, target: &str, conversation: Conversation) -> Report {
        let answers = || conversation.events.iter().filter_map(answer);
        let product = product::guess(answers());
        let marks = product::marks(answers());
        let behaviours = behaviours::observe(&conversation);
        let verdict = Verdict::of(config, target, &conversation, &behaviours);
        let proof = conversation.events.iter().rev().find_map(|event| match &event.what {
            What::Sent(sent) if sent.carries("AUTHENTICATE_MESSAGE") => sent.carried.as_ref(),
            _ => None,
        });
        Report {
            upstream: config.first_address().to_string(),
            target: target.to_owned(),
            account: account(config),
            method: config.first_identity().method().to_string(),
            workstation: config.first_identity().workstation().to_owned(),
            challenge: challenge_rows(behaviours::challenge(&conversation.events)),
            authenticate: authenticate_rows(proof),
            product,
            marks,
            behaviours,
            verdict,
            took: conversation.events.last().map(|event| event.at).unwrap_or_default(),
            events: conversation.events,
        }
    }
}

fn answer(event: &Event) -> Option<&Answer> {
    match &event.what {
        What::Answered { answer, .. } => Some(answer),
        _ => None,
    }
}

fn described(carried: Option<&Carried>) -> Rows {
    let Some(message) = carried.and_then(|carried| carried.message.as_deref()) else {
        return Rows::new();
    };
    ntlm::describe(message).unwrap_or_else(|error| vec![("error".to_owned(), error.to_string())])
}

/// All but the challenge itself, which says nothing to a person and helps to guess at the response to it.
fn challenge_rows(carried: Option<&Carried>) -> Rows {
    let mut rows = described(carried);
    rows.retain(|(name, _)| name != "ServerChallenge");
    rows
}

fn authenticate_rows(carried: Option<&Carried>) -> Rows {
    let rows = described(carried);
    let mic = rows.iter().find(|(name, _)| name == "MIC").map(|(_, value)| value != "none");
    let mut shown: Rows = rows.into_iter().filter(|(name, _)| AUTHENTICATE_ROWS.contains(&name.as_str())).collect();
    for (_, value) in shown.iter_mut().filter(|(name, _)| matches!(name.as_str(), "DomainName" | "UserName")) {
        // A password that was written behind the name.
        *value = Account { domain: String::new(), user: std::mem::take(value) }.to_string();
    }
    if let Some(sent) = mic {
        shown.push(("MIC".to_owned(), if sent { "sent" } else { "none" }.to_owned()));
    }
    shown
}
