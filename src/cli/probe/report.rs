//! Everything that a probe found, before it is rendered as text or JSON.

use std::time::Duration;

use super::behaviours::{self, Behaviour};
use super::budget::StoreUse;
use super::conversation::{Bindings, Conversation, Event, Used, What};
use super::given::{Given, SecretPlace};
use super::message::Answer;
use super::product::{self, Guess};
use super::verdict::{self, Verdict};
use crate::config::{Config, Mechanisms};
use crate::ntlm::{self, Account, Identity};

/// The rows of an AUTHENTICATE_MESSAGE that are shown: names and types. A password can be guessed from the rest.
const AUTHENTICATE_ROWS: &[&str] =
    &["message", "length", "NegotiateFlags", "DomainName", "UserName", "Workstation", "response"];

pub(super) type Rows = Vec<(String, String)>;

#[derive(Debug)]
pub(super) struct Report {
    pub upstream: String,
    pub target: String,
    /// The identity that was used.
    pub identity: Identity,
    /// Its name in the configuration.
    pub identity_name: String,
    pub secret: SecretPlace,
    pub events: Vec<Event>,
    /// The mechanisms that the identity may use at the upstream.
    pub listed: Mechanisms,
    /// The schemes that the upstream offered in its first 407; `None` if it sent no 407.
    pub offered: Option<Vec<String>>,
    /// What authenticated.
    pub used: Option<Used>,
    pub bindings: Bindings,
    /// The last CHALLENGE_MESSAGE.
    pub challenge: Option<Vec<u8>>,
    /// The AUTHENTICATE_MESSAGE that was sent. Its responses must not be shown: a password can be guessed from them.
    pub authenticate: Option<Vec<u8>>,
    pub product: Option<Guess>,
    /// The fields that describe the proxy.
    pub marks: Rows,
    pub behaviours: Vec<Behaviour>,
    pub verdict: Verdict,
    pub use_of_store: StoreUse,
    pub took: Duration,
}

impl Report {
    pub(super) fn of(config: &Config, given: Given, target: &str, conversation: Conversation) -> Report {
        let answers = || conversation.events.iter().filter_map(answer);
        let product = product::guess(answers());
        let marks = product::marks(answers());
        let behaviours = behaviours::observe(&conversation);
        // A later one with a challenge has the scheme in use only.
        let mut demands = answers().filter(|answer| answer.status == 407);
        let offered = demands.next().map(|answer| answer.offers.clone());
        let verdict = Verdict::of(config, &given, target, &conversation, &behaviours);
        let authenticate = conversation.events.iter().rev().find_map(|event| match &event.what {
            What::Sent(sent) if sent.carries("AUTHENTICATE_MESSAGE") => sent.carried.as_ref(),
            _ => None,
        });
        Report {
            upstream: verdict::upstream(config),
            target: target.to_owned(),
            identity: config.first_identity().clone(),
            identity_name: config.identities.first().map(|identity| identity.name.clone()).unwrap_or_default(),
            secret: given.secret,
            challenge: behaviours::challenge(&conversation.events).and_then(|carried| carried.message.clone()),
            authenticate: authenticate.and_then(|carried| carried.message.clone()),
            product,
            marks,
            behaviours,
            verdict,
            use_of_store: conversation.use_of_store,
            took: conversation.took,
            listed: conversation.listed,
            offered,
            used: conversation.used,
            bindings: conversation.bindings,
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

fn described(message: Option<&[u8]>) -> Rows {
    let Some(message) = message else { return Rows::new() };
    ntlm::describe(message).unwrap_or_else(|error| vec![("error".to_owned(), error.to_string())])
}

/// All rows but the server challenge, which would help to guess the password.
pub(super) fn challenge_rows(message: Option<&[u8]>) -> Rows {
    let mut rows = described(message);
    rows.retain(|(name, _)| name != "ServerChallenge");
    rows
}

/// The names and types in an AUTHENTICATE_MESSAGE.
pub(super) fn authenticate_rows(message: Option<&[u8]>) -> Rows {
    let rows = described(message);
    let mic = rows.iter().find(|(name, _)| name == "MIC").map(|(_, value)| value != "none");
    let mut shown: Rows = rows.into_iter().filter(|(name, _)| AUTHENTICATE_ROWS.contains(&name.as_str())).collect();
    for (_, value) in shown.iter_mut().filter(|(name, _)| matches!(name.as_str(), "DomainName" | "UserName")) {
        *value = without_password(value);
    }
    if let Some(sent) = mic {
        shown.push(("MIC".to_owned(), if sent { "sent" } else { "none" }.to_owned()));
    }
    shown
}

/// A user name, without a password that may have been written behind it.
pub(super) fn without_password(name: &str) -> String {
    Account { domain: String::new(), user: name.to_owned() }.to_string()
}
