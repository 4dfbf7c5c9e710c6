//! A report as one JSON object.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::conversation::{Event, What};
use super::message::{Answer, Carried, Sent};
use super::report::{Report, Rows};

pub(super) fn render(report: &Report) -> String {
    let verdict = &report.verdict;
    let product = report.product.as_ref();
    let behaviours = report.behaviours.iter();
    let object = json!({
        "upstream": report.upstream,
        "target": report.target,
        "account": report.account,
        "method": report.method,
        "workstation": report.workstation,
        "events": report.events.iter().map(event).collect::<Vec<_>>(),
        "challenge": rows(&report.challenge),
        "authenticate": rows(&report.authenticate),
        "proxy": {
            "guess": product.map(|guess| guess.product),
            "by": product.map(|guess| &guess.by),
            "fields": fields(&report.marks),
        },
        "behaviours": behaviours.map(|seen| json!({"id": seen.id, "what": seen.what})).collect::<Vec<_>>(),
        "verdict": {
            "id": verdict.kind.id(),
            "exit_code": verdict.exit_code(),
            "summary": verdict.summary,
            "advice": verdict.advice,
            "settings": verdict.settings,
        },
        "took_ms": ms(report.took),
    });
    format!("{object}\n")
}

fn event(event: &Event) -> Value {
    let mut object = match &event.what {
        What::Resolved { addresses, took } => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            json!({"event": "resolved", "addresses": addresses, "took_ms": ms(*took)})
        }
        What::Connected { address, took } => {
            json!({"event": "connected", "address": address.to_string(), "took_ms": ms(*took)})
        }
        What::ConnectFailed { address, error, took } => {
            json!({"event": "connect_failed", "address": address.to_string(), "error": error, "took_ms": ms(*took)})
        }
        What::Sent(sent) => request(sent),
        What::Answered { answer, after } => response(answer, *after),
        What::Closed => json!({"event": "closed"}),
    };
    if let Some(object) = object.as_object_mut() {
        object.insert("at_ms".to_owned(), ms(event.at));
    }
    object
}

fn request(sent: &Sent) -> Value {
    let scheme = sent.carried.as_ref().map(|carried| carried.scheme.as_str());
    json!({
        "event": "sent",
        "line": sent.start_line,
        "scheme": scheme,
        "message": sent.carried.as_ref().map(Carried::shown),
    })
}

fn response(answer: &Answer, after: Duration) -> Value {
    json!({
        "event": "answered",
        "line": answer.start_line,
        "status": answer.status,
        "fields": fields(&answer.fields),
        "offers": answer.offers,
        "persists": answer.persists,
        "message": answer.carried.as_ref().map(Carried::shown),
        "after_ms": ms(after),
    })
}

/// Rows of a message; a name stands once in it.
fn rows(rows: &Rows) -> Value {
    match rows.is_empty() {
        true => Value::Null,
        false => Value::Object(rows.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>()),
    }
}

/// Fields may stand more than once.
fn fields(fields: &Rows) -> Value {
    fields.iter().map(|(name, value)| json!([name, value])).collect()
}

/// Milliseconds, to the microsecond.
fn ms(duration: Duration) -> Value {
    json!(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX) as f64 / 1000.0)
}
