//! A report as text.

use std::fmt::Write;
use std::time::Duration;

use super::conversation::{Bindings, Event, Used, What};
use super::message::{Answer, Sent};
use super::report::{Report, Rows, authenticate_rows, challenge_rows};
use crate::cli::terminal::{aligned, printable};

pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    let Report { upstream, target, identity, .. } = report;
    let (account, method, workstation) = (identity.account(), identity.method(), identity.workstation());
    let with = match (report.listed.kerberos, report.listed.ntlm) {
        (true, false) => "Kerberos".to_owned(),
        (true, true) => format!("Kerberos or {method}, workstation {workstation}"),
        (false, _) => format!("{method}, workstation {workstation}"),
    };
    line(&mut out, 0, &format!("Probe of {upstream} for {target}, as {account} with {with}"));
    out.push('\n');
    for event in &report.events {
        show_event(&mut out, event);
    }
    show_rows(&mut out, "Authentication", &choice_rows(report));
    show_rows(&mut out, "CHALLENGE_MESSAGE", &challenge_rows(report.challenge.as_deref()));
    let authenticate = authenticate_rows(report.authenticate.as_deref());
    show_rows(&mut out, "AUTHENTICATE_MESSAGE (without its responses)", &authenticate);
    show_product(&mut out, report);
    if !report.behaviours.is_empty() {
        out.push_str("\nBehaviour\n");
    }
    for behaviour in &report.behaviours {
        line(&mut out, 2, &format!("{:<21} {}", behaviour.id, behaviour.text));
    }
    show_verdict(&mut out, report);
    out
}

/// Writes a line. Writing to a string cannot fail.
fn line(out: &mut String, indent: usize, text: &str) {
    let _ = writeln!(out, "{:indent$}{}", "", printable(text));
}

fn show_event(out: &mut String, event: &Event) {
    let (first, further) = describe(&event.what);
    let _ = writeln!(out, "  {:>8} ms  {}", ms(event.at), printable(&first));
    for text in further {
        line(out, 17, &text);
    }
}

/// The first line of an event, and the lines below it.
fn describe(what: &What) -> (String, Vec<String>) {
    match what {
        What::Resolved { addresses, took } => {
            let mut ips: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            ips.dedup();
            (format!("resolved to {} in {} ms", ips.join(", "), ms(*took)), Vec::new())
        }
        What::ResolveFailed { name, error, took } => {
            (format!("no address for {name} after {} ms: {error}", ms(*took)), Vec::new())
        }
        What::Connected { address, took } => (format!("connected to {address} in {} ms", ms(*took)), Vec::new()),
        What::ConnectFailed { address, error, took } => {
            (format!("no connection to {address} after {} ms: {error}", ms(*took)), Vec::new())
        }
        What::LogonAttempt => ("attempts a logon at the KDC".to_owned(), Vec::new()),
        What::Kdc { name, error, took } => {
            let outcome = error.as_deref().unwrap_or("ok");
            (format!("asked a KDC: {name}: {outcome} in {} ms", ms(*took)), Vec::new())
        }
        What::Ticket { service, line } => (format!("ticket for {service}"), vec![line.clone()]),
        What::TicketFailed { error } => (error.clone(), Vec::new()),
        What::Sent(sent) => describe_request(sent),
        What::Answered { answer, after } => describe_answer(answer, *after),
        What::Unanswered { after } => (format!("no response within {} ms", ms(*after)), Vec::new()),
        What::Closed { after } => {
            (format!("the upstream closed the connection  ({} ms after the request)", ms(*after)), Vec::new())
        }
    }
}

fn describe_request(sent: &Sent) -> (String, Vec<String>) {
    let carried = sent.carried.iter();
    let fields = carried.map(|carried| format!("Proxy-Authorization: {} {}", carried.scheme, carried.shown()));
    (format!("→ {}", sent.start_line), fields.collect())
}

fn describe_answer(answer: &Answer, after: Duration) -> (String, Vec<String>) {
    let fields = answer.fields.iter().map(|(name, value)| format!("{name}: {value}"));
    (format!("← {}  (after {} ms)", answer.start_line, ms(after)), fields.collect())
}

/// What is listed, what is offered, and what was chosen.
fn choice_rows(report: &Report) -> Rows {
    let offered = report.offered.as_ref().map_or_else(|| "nothing: there was no 407".into(), |all| all.join(", "));
    let used = match &report.used {
        None => "nothing".to_owned(),
        Some(Used { mechanism, why_not_first: None }) => (*mechanism).to_owned(),
        Some(Used { mechanism, why_not_first: Some(why) }) => format!("{mechanism}, because {why}"),
    };
    let mut rows = vec![("listed", report.listed.to_string()), ("offered", offered), ("used", used)];
    match report.bindings {
        Bindings::None => {}
        Bindings::Right => rows.push(("channel bindings", "those of the upstream's certificate".to_owned())),
        Bindings::Wrong => rows.push(("channel bindings", "wrong ones on purpose".to_owned())),
    }
    rows.into_iter().map(|(name, value)| (name.to_owned(), printable(&value))).collect()
}

fn show_rows(out: &mut String, title: &str, rows: &Rows) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}");
    for row in aligned(rows).lines() {
        let _ = writeln!(out, "  {row}");
    }
}

fn show_product(out: &mut String, report: &Report) {
    if !report.events.iter().any(|event| matches!(event.what, What::Answered { .. })) {
        return;
    }
    out.push_str("\nProxy\n");
    match &report.product {
        Some(guess) => line(out, 2, &format!("{}, according to “{}”", guess.product, guess.by)),
        None => line(out, 2, "unknown product"),
    }
    for (name, value) in &report.marks {
        line(out, 2, &format!("{name}: {value}"));
    }
}

fn show_verdict(out: &mut String, report: &Report) {
    let verdict = &report.verdict;
    let _ =
        writeln!(out, "\nVerdict: {} (exit code {}, {} ms)", verdict.kind.text(), verdict.exit_code(), ms(report.took));
    line(out, 2, &verdict.summary);
    for advice in &verdict.advice {
        line(out, 2, &advice.text);
    }
    if !verdict.settings.is_empty() {
        out.push_str("\nSuggested configuration\n");
    }
    for setting in &verdict.settings {
        line(out, 2, &setting.to_string());
    }
}

fn ms(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1000.0)
}
