//! A report as one JSON object. Its keys are documented, and a test compares them with the documentation.
//!
//! Values are for programs: identifiers, numbers with their unit in the key, and texts as they were on the wire. Texts
//! for people have the key `text`.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::conversation::{Bindings, Event, What};
use super::message::{Answer, Carried, Sent};
use super::report::{Report, Rows, without_password};
use super::verdict::method_id;
use crate::cli::utc::rfc3339;
use crate::config::Mechanisms;
use crate::http::BodyFraming;
use crate::ntlm::{
    AuthenticateMessage, AvId, AvPairs, ChallengeMessage, MessageType, NegotiateFlags, NtResponseKind, Version,
};

/// Incremented when a key changes its meaning or is removed, but not when keys are added.
const SCHEMA: u32 = 1;

pub(super) fn render(report: &Report) -> String {
    let verdict = &report.verdict;
    let product = report.product.as_ref();
    let identity = &report.identity;
    let texts = |id: &str, text: &str| json!({"id": id, "text": text});
    let object = json!({
        "schema": SCHEMA,
        "upstream": report.upstream,
        "target": report.target,
        "identity": {
            "name": report.identity_name,
            "domain": without_password(identity.domain()),
            "user": without_password(identity.user()),
            "workstation": identity.workstation(),
            "method": method_id(identity.method()),
        },
        "secret": {"from": report.secret.id(), "path": report.secret.path()},
        "events": report.events.iter().map(event).collect::<Vec<_>>(),
        "mechanism": {
            "listed": listed(report.listed),
            "offered": report.offered,
            "used": report.used.as_ref().map(|used| used.mechanism.to_ascii_lowercase()),
            "text": report.used.as_ref().and_then(|used| used.why_not_first.as_ref()),
            "channel_bindings": match report.bindings {
                Bindings::None => None,
                Bindings::Right => Some("right"),
                Bindings::Wrong => Some("wrong"),
            },
        },
        "challenge": report.challenge.as_deref().map(challenge),
        "authenticate": report.authenticate.as_deref().map(authenticate),
        "proxy": {
            "id": product.map(|guess| identifier(guess.product)),
            "name": product.map(|guess| guess.product),
            "by": product.map(|guess| &guess.by),
            "fields": fields(&report.marks),
        },
        "behaviours": report.behaviours.iter().map(|seen| texts(seen.id, &seen.text)).collect::<Vec<_>>(),
        "verdict": {
            "id": verdict.kind.id(),
            "exit_code": verdict.exit_code(),
            "cause": verdict.cause.map(|cause| cause.label()),
            "text": verdict.summary,
            "advice": verdict.advice.iter().map(|advice| texts(advice.id, &advice.text)).collect::<Vec<_>>(),
            "settings": settings(report),
        },
        "guard": {
            "store": report.use_of_store.store,
            "reserved": report.use_of_store.reserved,
            "not_before": verdict.not_before_ms.map(rfc3339),
        },
        "took_ms": ms(report.took),
    });
    format!("{object}\n")
}

/// The mechanisms, as the configuration calls them.
fn listed(Mechanisms { kerberos, ntlm }: Mechanisms) -> Vec<&'static str> {
    [("kerberos", kerberos), ("ntlm", ntlm)]
        .into_iter()
        .filter(|(_, is_listed)| *is_listed)
        .map(|(name, _)| name)
        .collect()
}

/// The lines for the configuration, by their keys.
fn settings(report: &Report) -> Value {
    let value = |value: &toml::Value| match value {
        toml::Value::Boolean(truth) => json!(truth),
        toml::Value::String(text) => json!(text),
        toml::Value::Array(texts) => json!(texts.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>()),
        other => json!(other.to_string()),
    };
    let lines = report.verdict.settings.iter();
    Value::Object(lines.map(|line| (line.key.to_owned(), value(&line.value))).collect::<Map<_, _>>())
}

fn event(event: &Event) -> Value {
    let mut object = match &event.what {
        What::Resolved { addresses, took } => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            json!({"event": "resolved", "addresses": addresses, "took_ms": ms(*took)})
        }
        What::ResolveFailed { name, error, took } => {
            json!({"event": "resolve_failed", "name": name, "error": error, "took_ms": ms(*took)})
        }
        What::Connected { address, took } => {
            json!({"event": "connected", "address": address.to_string(), "took_ms": ms(*took)})
        }
        What::ConnectFailed { address, error, took } => {
            json!({"event": "connect_failed", "address": address.to_string(), "error": error, "took_ms": ms(*took)})
        }
        What::LogonAttempt => json!({"event": "logon_attempt"}),
        What::Kdc { name, error, took } => {
            json!({"event": "kdc", "name": name, "error": error, "took_ms": ms(*took)})
        }
        What::Ticket { service, line } => json!({"event": "ticket", "name": service, "line": line}),
        What::TicketFailed { error } => json!({"event": "ticket_failed", "error": error}),
        What::Sent(sent) => request(sent),
        What::Answered { answer, after } => response(answer, *after),
        What::Unanswered { after } => json!({"event": "unanswered", "after_ms": ms(*after)}),
        What::Closed { after } => json!({"event": "closed", "after_ms": ms(*after)}),
    };
    if let Some(object) = object.as_object_mut() {
        object.insert("at_ms".to_owned(), ms(event.at));
    }
    object
}

fn request(sent: &Sent) -> Value {
    json!({
        "event": "sent",
        "line": sent.start_line,
        "scheme": sent.carried.as_ref().map(|carried| carried.scheme.as_str()),
        "message": sent.carried.as_ref().map(message),
    })
}

fn response(answer: &Answer, after: Duration) -> Value {
    let (framing, length_bytes) = match answer.framing {
        Some(BodyFraming::Length(length)) => (Some("length"), Some(length)),
        Some(BodyFraming::Chunked) => (Some("chunked"), None),
        Some(BodyFraming::CloseDelimited) => (Some("to_close"), None),
        Some(BodyFraming::None) => (Some("none"), None),
        None => (None, None),
    };
    json!({
        "event": "answered",
        "line": answer.start_line,
        "status": answer.status,
        "http_version": match (answer.status, answer.http10) {
            (0, _) => None,
            (_, true) => Some("1.0"),
            (_, false) => Some("1.1"),
        },
        "fields": fields(&answer.fields),
        "offers": answer.offers,
        "persists": answer.persists,
        "body": {"framing": framing, "length_bytes": length_bytes},
        "message": answer.carried.as_ref().map(message),
        "after_ms": ms(after),
    })
}

/// The type and size of a token. The token itself is not shown, because a password can be guessed from it.
fn message(carried: &Carried) -> Value {
    let of_ntlm = carried.message.as_deref().and_then(|message| MessageType::of(message).ok()).map(|kind| match kind {
        MessageType::Negotiate => "negotiate",
        MessageType::Challenge => "challenge",
        MessageType::Authenticate => "authenticate",
    });
    let kind = of_ntlm.or_else(|| carried.kerberos.then_some("kerberos"));
    let length_bytes = carried.message.as_ref().map_or(carried.token_bytes, Vec::len);
    json!({"type": kind, "length_bytes": length_bytes, "spnego": carried.spnego})
}

/// A CHALLENGE_MESSAGE without the server challenge, which would help to guess the password.
fn challenge(message: &[u8]) -> Value {
    let decoded = match ChallengeMessage::decode(message) {
        Ok(decoded) => decoded,
        Err(error) => return json!({"length_bytes": message.len(), "error": error.to_string()}),
    };
    let mut info = Map::new();
    for pair in decoded.target_info.into_iter().flat_map(AvPairs::new).flatten() {
        let key = match pair.id {
            AvId::NbDomainName => "nb_domain_name",
            AvId::NbComputerName => "nb_computer_name",
            AvId::DnsDomainName => "dns_domain_name",
            AvId::DnsComputerName => "dns_computer_name",
            AvId::DnsTreeName => "dns_tree_name",
            AvId::Timestamp => {
                info.insert("filetime".to_owned(), json!(pair.file_time().ok().map(|time| time.0)));
                continue;
            }
            _ => continue,
        };
        info.insert(key.to_owned(), json!(pair.text()));
    }
    json!({
        "length_bytes": message.len(),
        "flags": decoded.flags.bits(),
        "flag_names": decoded.flags.names().collect::<Vec<_>>(),
        "target_name": decoded.target_name_text().ok(),
        "target_info": decoded.target_info.map(|_| Value::Object(info)),
        "version": decoded.version.map(version),
    })
}

/// The names and types in an AUTHENTICATE_MESSAGE. A password can be guessed from the rest.
fn authenticate(message: &[u8]) -> Value {
    let decoded = match AuthenticateMessage::decode(message) {
        Ok(decoded) => decoded,
        Err(error) => return json!({"length_bytes": message.len(), "error": error.to_string()}),
    };
    let text = |bytes, name| text(decoded.flags, bytes, name);
    let response = match decoded.response_kind() {
        NtResponseKind::Anonymous => "anonymous",
        NtResponseKind::NtlmV1 => "ntlmv1",
        NtResponseKind::NtlmV1Ess => "ntlmv1-ess",
        NtResponseKind::NtlmV2 => "ntlmv2",
        NtResponseKind::Unknown => "unknown",
    };
    json!({
        "length_bytes": message.len(),
        "flags": decoded.flags.bits(),
        "flag_names": decoded.flags.names().collect::<Vec<_>>(),
        "domain": text(decoded.domain, "DomainName"),
        "user": text(decoded.user, "UserName"),
        "workstation": text(decoded.workstation, "Workstation"),
        "response": response,
        "mic": decoded.mic.is_some(),
    })
}

fn text(flags: NegotiateFlags, bytes: &[u8], name: &'static str) -> Option<String> {
    flags.charset().decode(bytes, name).ok().map(|text| without_password(&text))
}

fn version(version: Version) -> Value {
    json!({"major": version.major, "minor": version.minor, "build": version.build, "revision": version.revision})
}

/// An array, because fields may occur more than once.
fn fields(fields: &Rows) -> Value {
    fields.iter().map(|(name, value)| json!([name, value])).collect()
}

/// A name in lower case with dashes between the words: `symantec-blue-coat-proxysg`.
fn identifier(name: &str) -> String {
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

/// Milliseconds with a resolution of microseconds.
fn ms(duration: Duration) -> Value {
    json!(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX) as f64 / 1000.0)
}
