//! The verdict: its kind, an exit code, advice, and lines for the configuration.

use super::advice::{Advice, Line};
use super::behaviours::{Behaviour, challenge, legs};
use super::budget::Denial;
use super::conversation::{Bindings, Conversation, Outcome, Used};
use super::given::{Given, SecretPlace};
use super::web_server;
use crate::cli::utc::relative;
use crate::config::{Config, FirstLeg};
use crate::fault::{Cause, Fault};
use crate::ntlm::{ChallengeMessage, Method};

/// The verdicts; each has its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Works,
    /// It works, but there is advice.
    WorksBut,
    LocalFailure,
    CredentialsRefused,
    Unreachable,
    /// Something else than a proxy answers.
    NotAProxy,
    /// NTLM is not offered.
    NotNtlm,
    /// The handshake cannot be completed.
    HandshakeFails,
    /// The credentials were accepted, but the target was declined.
    Declined,
    /// The guard allows no logon now.
    Held,
}

impl Kind {
    /// The identifier for programs.
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
            Kind::Held => "held",
        }
    }

    /// The text for people.
    pub(super) fn text(self) -> &'static str {
        match self {
            Kind::Works => "works",
            Kind::WorksBut => "works, but",
            Kind::LocalFailure => "this machine failed",
            Kind::CredentialsRefused => "credentials refused",
            Kind::Unreachable => "unreachable",
            Kind::NotAProxy => "not a proxy",
            Kind::NotNtlm => "not NTLM",
            Kind::HandshakeFails => "the handshake fails",
            Kind::Declined => "credentials accepted, target declined",
            Kind::Held => "held by the credential guard",
        }
    }
}

#[derive(Debug)]
pub(super) struct Verdict {
    pub kind: Kind,
    /// The cause of a failure.
    pub cause: Option<Cause>,
    /// What happened, in one sentence.
    pub summary: String,
    pub advice: Vec<Advice>,
    /// Lines for the TOML file.
    pub settings: Vec<Line>,
    /// When the guard allows a logon again, in ms since 1970.
    pub not_before_ms: Option<u64>,
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
            Kind::Held => 7,
        }
    }

    pub(super) fn of(
        config: &Config,
        given: &Given,
        target: &str,
        conversation: &Conversation,
        behaviours: &[Behaviour],
    ) -> Verdict {
        let shows = |id: &str| behaviours.iter().any(|behaviour| behaviour.id == id);
        let (kind, summary) = judge(config, target, conversation);
        let cause = match &conversation.outcome {
            Outcome::Failed(fault) => Some(fault.cause),
            Outcome::Denied(Denial::Held { .. }) => Some(Cause::CredentialsHeld),
            _ => None,
        };
        let not_before_ms = match &conversation.outcome {
            Outcome::Denied(Denial::Held { until_ms, .. }) => Some(*until_ms),
            _ => None,
        };
        let mut verdict = Verdict { kind, cause, summary, advice: Vec::new(), settings: Vec::new(), not_before_ms };
        match kind {
            Kind::Works | Kind::Declined => verdict.suggest_settings(config, given, conversation, &shows),
            Kind::CredentialsRefused => verdict.explain_refusal(config, conversation),
            Kind::NotAProxy => verdict.explain_web_server(conversation),
            Kind::Held => verdict.advise(
                "guard-reset",
                "`ntlm-gateway guard show` says what was counted. If the account has been unlocked in the domain since, \
                 `ntlm-gateway guard reset` clears it.",
            ),
            Kind::HandshakeFails | Kind::NotNtlm => verdict.explain_failure(config, given, conversation, &shows),
            _ => {}
        }
        match (conversation.bindings, kind) {
            (Bindings::Wrong, Kind::Works | Kind::Declined) => verdict.advise(
                "bindings-unchecked",
                "The upstream accepted a logon with wrong channel bindings: it does not check them.",
            ),
            (Bindings::Wrong, Kind::CredentialsRefused) => verdict.advise(
                "bindings-wrong",
                "The logon was made with wrong channel bindings. If it succeeds without --wrong-channel-bindings, the \
                 upstream checks them.",
            ),
            _ => {}
        }
        if let Some(Used { mechanism, why_not_first: Some(why) }) = &conversation.used {
            verdict.advise("fallback", format!("{mechanism} was used and not the mechanism listed first: {why}."));
        }
        if kind == Kind::Works && !verdict.advice.is_empty() {
            verdict.kind = Kind::WorksBut;
        }
        verdict
    }

    /// Adds the lines for the proxy and the account.
    fn suggest_account(&mut self, config: &Config, given: &Given) {
        self.settings.push(Line::new("upstream", upstream(config)));
        self.settings.push(Line::new("user", account(config)));
        // A secret from the environment or a descriptor has no line.
        self.settings.extend(given.secret.line());
        self.settings.extend_from_slice(&given.kerberos);
        if config.first_identity().method() == Method::NtlmV1Ess {
            self.settings.push(Line::new("method", method_id(Method::NtlmV1Ess)));
        }
        if config.first_identity().target_domain() {
            self.settings.push(Line::new("target_domain", true));
        }
    }

    /// Adds the lines for this proxy, and advice about them.
    fn suggest_settings(
        &mut self,
        config: &Config,
        given: &Given,
        conversation: &Conversation,
        shows: &impl Fn(&str) -> bool,
    ) {
        self.suggest_account(config, given);
        let plain = conversation.first_leg == FirstLeg::Plain || shows("asks-first");
        if plain {
            self.settings.push(Line::new("first_leg", "plain"));
        }
        if plain && config.first_upstream().first_leg != FirstLeg::Plain {
            self.advise(
                "set-first-leg",
                "The upstream accepts a NEGOTIATE_MESSAGE only after it has sent a 407: set first_leg = \"plain\".",
            );
        }
        if shows("open") || shows("no-proof") {
            self.advise(
                "password-unchecked",
                "The password has not been checked: the upstream opened the tunnel without authentication.",
            );
        }
        if shows("clock-skew") {
            self.advise("set-clock", "Set the clock: domain controllers refuse logons if the clocks differ too much.");
        }
    }

    /// Advice if a web server answers instead of a proxy.
    fn explain_web_server(&mut self, conversation: &Conversation) {
        if web_server::recognise(&legs(&conversation.events)).is_some_and(web_server::wants_tls) {
            self.advise("tls-port", "The port expects TLS. Write https:// in front of its address.");
        }
        self.advise(
            "check-port",
            "Check the host and the port of upstream: proxies often listen on 8080, 3128 or 8000.",
        );
    }

    /// Advice about possible reasons for a refusal.
    fn explain_refusal(&mut self, config: &Config, conversation: &Conversation) {
        let account = account(config);
        self.advise("check-account", format!("Check the account {account}, its domain and its password. Do not guess: each refusal counts towards a lockout of the account."));
        let message = challenge(&conversation.events).and_then(|carried| carried.message.as_deref());
        let domain = message.and_then(|message| ChallengeMessage::decode(message).ok()?.target_name_text().ok());
        let own = config.first_identity().domain();
        if let Some(domain) = domain.filter(|domain| !domain.is_empty() && !domain.eq_ignore_ascii_case(own)) {
            let own = if own.is_empty() { "no domain".to_owned() } else { format!("the domain {own:?}") };
            self.advise(
                "domain-differs",
                format!("The upstream's domain is {domain:?}, but the account was used with {own}."),
            );
        }
        self.advise(
            "try-another-target",
            "Some proxies give the same response if their policy forbids the target: try another --target.",
        );
    }

    /// Advice about what prevents a handshake.
    fn explain_failure(
        &mut self,
        config: &Config,
        given: &Given,
        conversation: &Conversation,
        shows: &impl Fn(&str) -> bool,
    ) {
        if shows("transparent-401") {
            self.advise(
                "use-explicit-port",
                "The upstream intercepts traffic and poses as the origin. Ask its administrators for the explicit proxy port.",
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
                "NTLM needs one connection for all its messages: enable persistent connections at the upstream.",
            );
        }
        if shows("spnego-under-ntlm") {
            self.advise("offer-plain-ntlm", "Configure the upstream to offer plain NTLM, or Negotiate.");
        }
        let Outcome::Failed(fault) = &conversation.outcome else { return };
        match fault.cause {
            Cause::HandshakeTimeout if authenticated(conversation) => {
                self.advise("try-another-target", "The AUTHENTICATE_MESSAGE was not answered: the upstream may be waiting for the target. Try another --target.");
            }
            Cause::HandshakeTimeout if conversation.open => {
                self.advise(
                    "target-exempt",
                    "The upstream answers a request without credentials and does not answer one with them: this target is exempt.",
                );
            }
            Cause::HandshakeTimeout => {
                self.advise(
                    "check-port",
                    "The upstream accepts connections but does not respond: check that the port is that of an HTTP proxy.",
                );
            }
            Cause::ResponseHeadTooLarge => {
                self.advise("raise-head-limit", "Raise the limit on the length of heads.");
                self.settings.push(Line::new("limits.head", "1MiB"));
            }
            Cause::ResponseMalformed => self.advise("check-port", "Check that the port is that of an HTTP proxy."),
            Cause::UpstreamClosed | Cause::UpstreamReset if !responded(conversation) => {
                self.advise("check-port", "The upstream closes connections without a response: check that this machine may use it, and that the port is that of an HTTP proxy.");
            }
            Cause::SchemeNotOffered if legs(&conversation.events).iter().any(|leg| leg.answer.offers("Basic")) => {
                self.explain_basic(config, given);
            }
            Cause::SchemeNotOffered => {
                self.advise("offer-ntlm", "Configure the upstream to offer NTLM, or Negotiate with NTLM.");
            }
            _ => {}
        }
    }

    /// Advice if only Basic is offered.
    fn explain_basic(&mut self, config: &Config, given: &Given) {
        if config.identities.first().is_some_and(|identity| identity.basic_password.is_some()) {
            return self.advise(
                "basic-allowed",
                "The upstream offers Basic, which allow_basic lets the gateway use. A probe never sends it, so the password has not been checked.",
            );
        }
        self.advise(
            "allow-basic",
            "The upstream offers Basic. The gateway uses it only with allow_basic = true and the password itself in a password_file; \
             everyone who can see the connection to the proxy can then read the password.",
        );
        self.suggest_account(config, given);
        if !matches!(given.secret, SecretPlace::PasswordFile(_)) {
            self.advise(
                "put-password-into-file",
                "Basic needs the password itself: put it into a file, and set password_file to its path.",
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
        let summary =
            format!("{upstream} responds to a CONNECT with “{line}”, like a web server{by}: it is not a proxy.");
        return (Kind::NotAProxy, summary);
    }
    match &conversation.outcome {
        Outcome::Established if authenticated(conversation) => {
            (Kind::Works, format!("The upstream accepted {account} and opened a tunnel to {target}."))
        }
        Outcome::Established => (Kind::Works, format!("The upstream opened a tunnel to {target}.")),
        Outcome::Declined { status, reason } if authenticated(conversation) => (
            Kind::Declined,
            format!("The upstream accepted {account}, but responded with {status} {reason} for {target}."),
        ),
        Outcome::Declined { status, reason } => {
            (Kind::HandshakeFails, format!("The upstream responded with {status} {reason} before authentication."))
        }
        Outcome::Failed(fault) => (kind_of(fault.cause), sentence(fault)),
        Outcome::Denied(Denial::Held { until_ms, now_ms, counted, attempts }) => (
            Kind::Held,
            format!(
                "No logon was made: the guard allows none for {account} before {}. {counted} of its {attempts} attempts count.",
                relative(*until_ms, *now_ms)
            ),
        ),
        Outcome::Denied(Denial::Store(why)) => {
            (Kind::LocalFailure, format!("No logon was made: the guard's store is out of reach: {why}."))
        }
    }
}

fn kind_of(cause: Cause) -> Kind {
    match cause {
        Cause::ResolveFailed
        | Cause::ResolveTimeout
        | Cause::ConnectRefused
        | Cause::ConnectUnreachable
        | Cause::ConnectTimeout
        | Cause::KdcUnreachable => Kind::Unreachable,
        Cause::ResourcesExhausted => Kind::LocalFailure,
        Cause::CredentialsRefused => Kind::CredentialsRefused,
        Cause::SchemeNotOffered | Cause::TransparentProxy => Kind::NotNtlm,
        _ => Kind::HandshakeFails,
    }
}

/// A fault's detail as a sentence, with its cause in parentheses. A name at its beginning keeps its case.
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

/// A method as in the setting.
pub(super) fn method_id(method: Method) -> &'static str {
    match method {
        Method::NtlmV2 => "ntlmv2",
        Method::NtlmV1Ess => "ntlmv1-ess",
    }
}

fn authenticated(conversation: &Conversation) -> bool {
    use super::conversation::What;
    let sent = |what: &What| matches!(what, What::Sent(sent) if sent.authenticates());
    conversation.events.iter().any(|event| sent(&event.what))
}

fn responded(conversation: &Conversation) -> bool {
    !legs(&conversation.events).is_empty()
}

/// The upstream as written in the settings.
pub(super) fn upstream(config: &Config) -> String {
    let scheme = if config.first_upstream().tls.is_some() { "https://" } else { "" };
    format!("{scheme}{}", config.first_address())
}

/// The account as written in the settings.
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
