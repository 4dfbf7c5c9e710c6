//! What it all comes to: one word, an exit code, advice, and the lines of configuration that follow.

use super::advice::{Advice, Line};
use super::behaviours::{Behaviour, challenge, legs};
use super::conversation::{Conversation, Outcome};
use super::secret::SecretPlace;
use super::web_server;
use crate::config::{Config, FirstLeg};
use crate::fault::{Cause, Fault};
use crate::ntlm::{ChallengeMessage, Method};

/// The verdicts; each has its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Works,
    /// It works, and there is something to know or to set.
    WorksBut,
    LocalFailure,
    CredentialsRefused,
    Unreachable,
    /// Something answers that is no proxy.
    NotAProxy,
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
            Kind::NotAProxy => "not_a_proxy",
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
            Kind::NotAProxy => "not a proxy",
            Kind::NotNtlm => "not NTLM",
            Kind::HandshakeFails => "the handshake cannot work",
            Kind::Declined => "credentials taken, target declined",
        }
    }
}

#[derive(Debug)]
pub(super) struct Verdict {
    pub kind: Kind,
    /// The fault's cause, where it failed.
    pub cause: Option<Cause>,
    /// What happened, in a sentence.
    pub summary: String,
    pub advice: Vec<Advice>,
    /// Lines for the TOML file.
    pub settings: Vec<Line>,
}

impl Verdict {
    pub(super) fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Works | Kind::WorksBut => 0,
            Kind::LocalFailure => 1,
            Kind::CredentialsRefused => 3,
            Kind::Unreachable => 4,
            Kind::NotAProxy | Kind::NotNtlm | Kind::HandshakeFails => 5,
            Kind::Declined => 6,
        }
    }

    pub(super) fn of(
        config: &Config,
        secret: &SecretPlace,
        target: &str,
        conversation: &Conversation,
        behaviours: &[Behaviour],
    ) -> Verdict {
        let shows = |id: &str| behaviours.iter().any(|behaviour| behaviour.id == id);
        let (kind, summary) = judge(config, target, conversation);
        let cause = match &conversation.outcome {
            Outcome::Failed(fault) => Some(fault.cause),
            _ => None,
        };
        let mut verdict = Verdict { kind, cause, summary, advice: Vec::new(), settings: Vec::new() };
        match kind {
            Kind::Works | Kind::Declined => verdict.lines(config, secret, conversation, &shows),
            Kind::CredentialsRefused => verdict.doubts(config, conversation),
            Kind::NotAProxy => verdict.what_else(conversation),
            Kind::HandshakeFails | Kind::NotNtlm => verdict.obstacles(config, secret, conversation, &shows),
            _ => {}
        }
        if kind == Kind::Works && !verdict.advice.is_empty() {
            verdict.kind = Kind::WorksBut;
        }
        verdict
    }

    /// The lines that name the proxy and the account.
    fn party_lines(&mut self, config: &Config, secret: &SecretPlace) {
        self.settings.push(Line::new("upstream", config.first_address().to_string()));
        self.settings.push(Line::new("user", account(config)));
        // One from the environment or a descriptor has no line.
        self.settings.extend(secret.line());
        if config.first_identity().method() == Method::NtlmV1Ess {
            self.settings.push(Line::new("method", method_id(Method::NtlmV1Ess)));
        }
        if config.first_identity().target_domain() {
            self.settings.push(Line::new("target_domain", true));
        }
    }

    /// The lines to run with, and what is to be known of them.
    fn lines(
        &mut self,
        config: &Config,
        secret: &SecretPlace,
        conversation: &Conversation,
        shows: &impl Fn(&str) -> bool,
    ) {
        self.party_lines(config, secret);
        let plain = conversation.first_leg == FirstLeg::Plain || shows("asks-first");
        if plain {
            self.settings.push(Line::new("first_leg", "plain"));
        }
        if plain && config.first_upstream().first_leg != FirstLeg::Plain {
            self.advise(
                "set-first-leg",
                "It takes a NEGOTIATE_MESSAGE only after it has asked for one: set first_leg = \"plain\".",
            );
        }
        if shows("open") || shows("no-proof") {
            self.advise(
                "password-unchecked",
                "The password has not been checked: the upstream granted the tunnel without authentication.",
            );
        }
        if shows("clock-skew") {
            self.advise("set-clock", "Set the clock: domain controllers refuse proofs whose time is far from theirs.");
        }
    }

    /// What answers instead of a proxy.
    fn what_else(&mut self, conversation: &Conversation) {
        if web_server::recognise(&legs(&conversation.events)).is_some_and(web_server::wants_tls) {
            self.advise("tls-port", "The port expects TLS. Name the port where the proxy takes plain HTTP.");
        }
        self.advise(
            "check-port",
            "Check the host and the port of upstream: proxies often listen on 8080, 3128 or 8000.",
        );
    }

    /// What a refusal may come from.
    fn doubts(&mut self, config: &Config, conversation: &Conversation) {
        let account = account(config);
        self.advise("check-account", format!("Check the account {account}, its domain and its password. Do not try at random: each refusal counts towards a lock-out."));
        let message = challenge(&conversation.events).and_then(|carried| carried.message.as_deref());
        let domain = message.and_then(|message| ChallengeMessage::decode(message).ok()?.target_name_text().ok());
        let own = config.first_identity().domain();
        if let Some(domain) = domain.filter(|domain| !domain.is_empty() && !domain.eq_ignore_ascii_case(own)) {
            let own = if own.is_empty() { "no domain".to_owned() } else { format!("the domain {own:?}") };
            self.advise(
                "domain-differs",
                format!("The upstream calls its domain {domain:?}, and the account is tried with {own}."),
            );
        }
        self.advise(
            "try-another-target",
            "Some proxies answer the same to a target that their policy forbids: try another --target.",
        );
    }

    /// What stands in the way.
    fn obstacles(
        &mut self,
        config: &Config,
        secret: &SecretPlace,
        conversation: &Conversation,
        shows: &impl Fn(&str) -> bool,
    ) {
        if shows("transparent-401") {
            self.advise(
                "use-explicit-port",
                "The upstream intercepts traffic and poses as the origin. Ask for its explicit proxy port.",
            );
        }
        if shows("squid-no-keep-alive") {
            self.advise(
                "squid-keep-alive",
                "Set `auth_param ntlm keep_alive on` and `client_persistent_connections on` in squid.conf.",
            );
        }
        if shows("challenge-with-close") {
            self.advise(
                "keep-connections",
                "NTLM needs one connection for all its messages: switch persistent connections on at the upstream.",
            );
        }
        if shows("spnego-under-ntlm") {
            self.advise("offer-plain-ntlm", "Let the upstream offer plain NTLM, or Negotiate.");
        }
        let Outcome::Failed(fault) = &conversation.outcome else { return };
        match fault.cause {
            Cause::HandshakeTimeout if authenticated(conversation) => {
                self.advise("try-another-target", "The proof was sent and not answered: the upstream may be waiting for the target. Try another --target.");
            }
            Cause::HandshakeTimeout if conversation.open => {
                self.advise(
                    "target-exempt",
                    "It answers a request without credentials and hangs on one with them: this target is exempt.",
                );
            }
            Cause::HandshakeTimeout => {
                self.advise(
                    "check-port",
                    "It takes connections and says nothing: check that the port is an HTTP proxy's.",
                );
            }
            Cause::ResponseHeadTooLarge => {
                self.advise("raise-head-limit", "Raise the limit on heads.");
                self.settings.push(Line::new("limits.head", "1MiB"));
            }
            Cause::ResponseMalformed => {
                self.advise("check-port", "Check that the port is an HTTP proxy's, without TLS.")
            }
            Cause::UpstreamClosed | Cause::UpstreamReset if !heard(conversation) => {
                self.advise("check-port", "It closes connections without a word: check that this machine may use it, and that the port is an HTTP proxy's.");
            }
            Cause::SchemeNotOffered if legs(&conversation.events).iter().any(|leg| leg.answer.offers("Basic")) => {
                self.basic(config, secret);
            }
            Cause::SchemeNotOffered => {
                self.advise("offer-ntlm", "Let the upstream offer NTLM, or Negotiate with NTLM in it.");
            }
            _ => {}
        }
    }

    /// Basic is all that is offered.
    fn basic(&mut self, config: &Config, secret: &SecretPlace) {
        if config.identities.first().is_some_and(|identity| identity.basic_password.is_some()) {
            return self.advise(
                "basic-allowed",
                "It offers Basic, which allow_basic lets the gateway send. A probe never sends it, so whether the password is right is not known.",
            );
        }
        self.advise(
            "allow-basic",
            "It offers Basic. The gateway sends that only with allow_basic = true and the password itself in a password_file; \
             whoever sees the connection to the proxy can then read the password.",
        );
        self.party_lines(config, secret);
        if !matches!(secret, SecretPlace::PasswordFile(_)) {
            self.advise(
                "put-password-into-file",
                "Basic needs the password itself: put it into a file, and name that with password_file.",
            );
        }
        self.settings.push(Line::new("allow_basic", true));
    }

    fn advise(&mut self, id: &'static str, text: impl Into<String>) {
        self.advice.push(Advice { id, text: text.into() });
    }
}

fn judge(config: &Config, target: &str, conversation: &Conversation) -> (Kind, String) {
    let account = account(config);
    if let Some(answer) = web_server::recognise(&legs(&conversation.events)) {
        let by = answer.values("server").next().map(|server| format!(" ({server})")).unwrap_or_default();
        let upstream = config.first_address();
        let line = &answer.start_line;
        let summary = format!("{upstream} answers a CONNECT with “{line}”, as a web server does{by}: it is no proxy.");
        return (Kind::NotAProxy, summary);
    }
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

/// A fault's detail as a sentence, with its cause for the tables of `docs/errors.md`. A name at its beginning stays as it is.
fn sentence(fault: &Fault) -> String {
    let begins_with_a_word =
        fault.detail.split(' ').next().is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()));
    let mut letters = fault.detail.chars();
    let first = match (begins_with_a_word, letters.next()) {
        (true, Some(letter)) => letter.to_uppercase().to_string(),
        (_, letter) => letter.map(String::from).unwrap_or_default(),
    };
    format!("{first}{} ({}).", letters.as_str(), fault.cause.label())
}

/// A method as the setting names it.
pub(super) fn method_id(method: Method) -> &'static str {
    match method {
        Method::NtlmV2 => "ntlmv2",
        Method::NtlmV1Ess => "ntlmv1-ess",
    }
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
        let fault = Fault::new(crate::fault::At::Dial, Cause::ResolveFailed, "proxy.test:8080: no such name");
        assert_eq!(sentence(&fault), "proxy.test:8080: no such name (resolve_failed).");
    }
}
