//! What it all comes to: one word, an exit code, advice, and the lines of configuration that follow.

use super::behaviours::{Behaviour, challenge, legs};
use super::conversation::{Conversation, Outcome};
use crate::config::{Config, FirstLeg};
use crate::fault::{Cause, Fault};
use crate::ntlm::ChallengeMessage;

/// The verdicts; each has its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Works,
    /// It works, and there is something to know or to set.
    WorksBut,
    LocalFailure,
    CredentialsRefused,
    Unreachable,
    /// NTLM is not offered.
    NotNtlm,
    /// The handshake cannot come to its end.
    HandshakeFails,
    /// The credentials were taken, the target was not.
    Declined,
}

impl Kind {
    /// The name for programs.
    pub(super) fn id(self) -> &'static str {
        match self {
            Kind::Works => "works",
            Kind::WorksBut => "works_but",
            Kind::LocalFailure => "local_failure",
            Kind::CredentialsRefused => "credentials_refused",
            Kind::Unreachable => "unreachable",
            Kind::NotNtlm => "not_ntlm",
            Kind::HandshakeFails => "handshake_fails",
            Kind::Declined => "declined",
        }
    }

    /// The words for people.
    pub(super) fn words(self) -> &'static str {
        match self {
            Kind::Works => "works",
            Kind::WorksBut => "works, but",
            Kind::LocalFailure => "this machine failed",
            Kind::CredentialsRefused => "credentials refused",
            Kind::Unreachable => "unreachable",
            Kind::NotNtlm => "not NTLM",
            Kind::HandshakeFails => "the handshake cannot work",
            Kind::Declined => "credentials taken, target declined",
        }
    }
}

#[derive(Debug)]
pub(super) struct Verdict {
    pub kind: Kind,
    /// What happened, in a sentence.
    pub summary: String,
    /// What to know or to do.
    pub advice: Vec<String>,
    /// Lines for the TOML file.
    pub settings: Vec<String>,
}

impl Verdict {
    pub(super) fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Works | Kind::WorksBut => 0,
            Kind::LocalFailure => 1,
            Kind::CredentialsRefused => 3,
            Kind::Unreachable => 4,
            Kind::NotNtlm | Kind::HandshakeFails => 5,
            Kind::Declined => 6,
        }
    }

    pub(super) fn of(config: &Config, target: &str, conversation: &Conversation, behaviours: &[Behaviour]) -> Verdict {
        let shows = |id: &str| behaviours.iter().any(|behaviour| behaviour.id == id);
        let (kind, summary) = judge(config, target, conversation);
        let mut verdict = Verdict { kind, summary, advice: Vec::new(), settings: Vec::new() };
        match kind {
            Kind::Works | Kind::Declined => verdict.lines(config, conversation, &shows),
            Kind::CredentialsRefused => verdict.doubts(config, conversation),
            Kind::HandshakeFails | Kind::NotNtlm => verdict.obstacles(conversation, &shows),
            _ => {}
        }
        if kind == Kind::Works && !verdict.advice.is_empty() {
            verdict.kind = Kind::WorksBut;
        }
        verdict
    }

    /// The lines to run with, and what is to be known of them.
    fn lines(&mut self, config: &Config, conversation: &Conversation, shows: &impl Fn(&str) -> bool) {
        self.settings.push(format!("upstream = \"{}\"", config.first_address()));
        self.settings.push(format!("user = '{}'", account(config)));
        let plain = conversation.first_leg == FirstLeg::Plain || shows("asks-first");
        if plain {
            self.settings.push("first_leg = \"plain\"".into());
        }
        if plain && config.first_upstream().first_leg != FirstLeg::Plain {
            self.advise("It takes a NEGOTIATE_MESSAGE only after it has asked for one: set first_leg = \"plain\".");
        }
        if shows("open") || shows("no-proof") {
            self.advise("The password has not been checked: the upstream granted the tunnel without a proof.");
        }
        if shows("clock-skew") {
            self.advise("Set the clock: domain controllers refuse proofs whose time is far from theirs.");
        }
    }

    /// What a refusal may come from.
    fn doubts(&mut self, config: &Config, conversation: &Conversation) {
        let account = account(config);
        self.advise(format!("Check the account {account}, its domain and its password. Do not try at random: each refusal counts towards a lock-out."));
        let message = challenge(&conversation.events).and_then(|carried| carried.message.as_deref());
        let domain = message.and_then(|message| ChallengeMessage::decode(message).ok()?.target_name_text().ok());
        let own = config.first_identity().domain();
        if let Some(domain) = domain.filter(|domain| !domain.is_empty() && !domain.eq_ignore_ascii_case(own)) {
            let own = if own.is_empty() { "no domain".to_owned() } else { format!("the domain {own:?}") };
            self.advise(format!("The upstream calls its domain {domain:?}, and the account is tried with {own}."));
        }
        self.advise("Some proxies answer the same to a target that their policy forbids: try another --target.");
    }

    /// What stands in the way.
    fn obstacles(&mut self, conversation: &Conversation, shows: &impl Fn(&str) -> bool) {
        if shows("transparent-401") {
            self.advise("The upstream intercepts traffic and poses as the origin. Ask for its explicit proxy port.");
        }
        if shows("squid-no-keep-alive") {
            self.advise("Set `auth_param ntlm keep_alive on` and `client_persistent_connections on` in squid.conf.");
        }
        if shows("challenge-with-close") {
            self.advise(
                "NTLM needs one connection for all its messages: switch persistent connections on at the upstream.",
            );
        }
        if shows("spnego-under-ntlm") {
            self.advise("Let the upstream offer plain NTLM, or Negotiate.");
        }
        let Outcome::Failed(fault) = &conversation.outcome else { return };
        match fault.cause {
            Cause::HandshakeTimeout if authenticated(conversation) => {
                self.advise("The proof was sent and not answered: the upstream may be waiting for the target. Try another --target.");
            }
            Cause::HandshakeTimeout if conversation.open => {
                self.advise(
                    "It answers a request without credentials and hangs on one with them: this target is exempt.",
                );
            }
            Cause::HandshakeTimeout => {
                self.advise("It takes connections and says nothing: check that the port is an HTTP proxy's.")
            }
            Cause::ResponseHeadTooLarge => {
                self.advise("Raise the limit on heads.");
                self.settings.push("limits.head = \"1MiB\"".into());
            }
            Cause::ResponseMalformed => self.advise("Check that the port is an HTTP proxy's, without TLS."),
            Cause::UpstreamClosed | Cause::UpstreamReset if !heard(conversation) => {
                self.advise("It closes connections without a word: check that this machine may use it, and that the port is an HTTP proxy's.");
            }
            Cause::SchemeNotOffered => self.advise("Let the upstream offer NTLM, or Negotiate with NTLM in it."),
            _ => {}
        }
    }

    fn advise(&mut self, text: impl Into<String>) {
        self.advice.push(text.into());
    }
}

fn judge(config: &Config, target: &str, conversation: &Conversation) -> (Kind, String) {
    let account = account(config);
    match &conversation.outcome {
        Outcome::Established if authenticated(conversation) => {
            (Kind::Works, format!("The upstream took {account} and opened a tunnel to {target}."))
        }
        Outcome::Established => (Kind::Works, format!("The upstream opened a tunnel to {target}.")),
        Outcome::Declined { status, reason } if authenticated(conversation) => {
            (Kind::Declined, format!("The upstream took {account}, and answered {target} with {status} {reason}."))
        }
        Outcome::Declined { status, reason } => {
            (Kind::HandshakeFails, format!("The upstream answered {status} {reason} before anything was proved."))
        }
        Outcome::Failed(fault) => (kind_of(fault.cause), sentence(fault)),
    }
}

fn kind_of(cause: Cause) -> Kind {
    match cause {
        Cause::ResolveFailed
        | Cause::ResolveTimeout
        | Cause::ConnectRefused
        | Cause::ConnectUnreachable
        | Cause::ConnectTimeout => Kind::Unreachable,
        Cause::ResourcesExhausted => Kind::LocalFailure,
        Cause::CredentialsRefused => Kind::CredentialsRefused,
        Cause::SchemeNotOffered | Cause::TransparentProxy => Kind::NotNtlm,
        _ => Kind::HandshakeFails,
    }
}

/// A fault's detail as a sentence, with its cause for the tables of the README.
fn sentence(fault: &Fault) -> String {
    let mut letters = fault.detail.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{} ({}).", letters.as_str(), fault.cause.label())
}

fn authenticated(conversation: &Conversation) -> bool {
    use super::conversation::What;
    let sent = |what: &What| matches!(what, What::Sent(sent) if sent.carries("AUTHENTICATE_MESSAGE"));
    conversation.events.iter().any(|event| sent(&event.what))
}

fn heard(conversation: &Conversation) -> bool {
    !legs(&conversation.events).is_empty()
}

/// The account as it is written in the settings.
pub(super) fn account(config: &Config) -> String {
    config.first_identity().account().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_the_kind_that_scripts_expect() {
        for (cause, kind) in [
            (Cause::ConnectRefused, Kind::Unreachable),
            (Cause::ResolveTimeout, Kind::Unreachable),
            (Cause::CredentialsRefused, Kind::CredentialsRefused),
            (Cause::SchemeNotOffered, Kind::NotNtlm),
            (Cause::HandshakeTimeout, Kind::HandshakeFails),
            (Cause::ResourcesExhausted, Kind::LocalFailure),
        ] {
            assert_eq!(kind_of(cause), kind, "{}", cause.label());
        }
    }

    #[test]
    fn a_fault_becomes_a_sentence() {
        let fault = Fault::new(crate::fault::At::Dial, Cause::ResolveFailed, "no such name");
        assert_eq!(sentence(&fault), "No such name (resolve_failed).");
    }
}
