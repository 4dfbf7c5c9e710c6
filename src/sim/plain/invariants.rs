//! What must be true of every plain HTTP client.

use std::collections::BTreeMap;

use super::http_client::{Answer, HttpClient};
use super::http_server::RequestId;
use super::message::Framing;
use crate::client_protocol;
use crate::fault::Cause;
use crate::limits;
use crate::sim::network::{Conclusion, with};
use crate::sim::scenario::{Scenario, Target};
use crate::stub::Personality;

/// Checks a client after the run; returns how its connection ended and what was wrong.
pub fn check(
    number: usize,
    client: &HttpClient,
    scenario: &Scenario,
    carried_out: &BTreeMap<RequestId, usize>,
) -> (Option<&'static str>, Vec<String>) {
    let end = with(|network| network.wires[client.wire].concluded);
    let mut view = Checker { number, client, scenario, wrong: client.wrong.clone() };
    view.look(end);
    view.check_repeats(carried_out);
    let say = |what| format!("client {number}: {what}");
    (end.map(|end| end.label), view.wrong.into_iter().map(say).collect())
}

struct Checker<'a> {
    number: usize,
    client: &'a HttpClient,
    scenario: &'a Scenario,
    wrong: Vec<String>,
}

impl Checker<'_> {
    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    fn look(&mut self, end: Option<Conclusion>) {
        let client = self.client;
        let Some(end) = end else {
            let excused = !self.scenario.strict && self.scenario.accept_fails.is_some()
                || self.scenario.stop_at_us.is_some()
                || client.found_no_listener;
            return self.require(excused, || "it was never accepted, or its tunnel never ended".into());
        };
        for (place, answer) in client.answers.iter().enumerate() {
            self.check_answer(place, answer);
        }
        if end.label == "gave_way" {
            return self.require(self.scenario.may_run_short(), || "it gave way although there was room".into());
        }
        if self.scenario.strict {
            self.check_strict(end.label);
        }
        if !client.misbehaved {
            self.check_end(end.label);
        }
    }

    /// The answer belongs to its request and is complete, or is recognisably incomplete.
    fn check_answer(&mut self, place: usize, answer: &Answer) {
        let plan = &self.client.plan.requests[place];
        let expected = RequestId { client: self.number, number: place }.to_string();
        self.require(answer.tag.as_ref().is_none_or(|tag| *tag == expected), || {
            format!("request {place} received the answer to {:?}", answer.tag)
        });
        let nothing = plan.answer.framing_to(plan.method) == Framing::Nothing;
        let bytes = if nothing { 0 } else { plan.answer.bytes as u64 };
        if answer.tag.is_some() {
            self.require(answer.status == plan.answer.status, || {
                format!("request {place} was answered {} and not {}", answer.status, plan.answer.status)
            });
            self.require(answer.body.bytes <= bytes, || format!("request {place}: the answer is too long"));
            self.require(!answer.whole || answer.body.bytes == bytes, || {
                format!("request {place}: taken for complete after {} of {bytes} bytes", answer.body.bytes)
            });
        }
        self.require(answer.fault.is_none() || answer.closes, || "the connection stays open after a fault".into());
        let denied = self.client.plan.target == Target::Denied;
        self.require(!denied || answer.tag.is_none(), || "it reached a denied destination".into());
    }

    /// If every peer behaves, every request is answered.
    fn check_strict(&mut self, label: &str) {
        let client = self.client;
        // A request whose body has begun to go out cannot be repeated if the authentication does not last, or if the
        // upstream demands it although the destination is configured to need none.
        let forgets = self.scenario.has(&[Personality::Forgets, Personality::PerRequestAuth]);
        let has_body = client.answers.len().checked_sub(1).is_some_and(|last| client.plan.requests[last].has_body());
        // Nor if the upstream is known to demand it and the body is too long to be kept for a second attempt.
        let last_plan = client.answers.len().checked_sub(1).map(|last| &client.plan.requests[last]);
        let is_long = last_plan.is_some_and(|plan| match plan.framing {
            Framing::Length(length) => length > limits::BUFFERED_BODY_BYTES as u64,
            _ => true,
        });
        let excused = forgets || client.plan.target == Target::WithoutCredentials || is_long;
        if label == "reauthentication" && has_body && excused {
            return;
        }
        self.require(label == "finished", || format!("ended as {label} although every peer behaves"));
        let expected = client.answers.iter().filter(|answer| answer.whole && answer.tag.is_some()).count();
        self.require(expected == client.answers.len(), || {
            format!("not answered as planned: {:?}", client.answers.last())
        });
        let last = client.answers.len();
        if last < client.plan.requests.len() {
            let plan = last.checked_sub(1).and_then(|last| client.plan.requests.get(last));
            let told_to_close = client.answers.last().is_some_and(|answer| answer.closes);
            let may_end = plan.is_some_and(|plan| {
                let to_close = client.plan.http10 && !matches!(plan.answer.framing, Framing::Length(_));
                plan.closes || plan.answer.early.is_some() || to_close
            });
            self.require(told_to_close && may_end, || format!("the connection ended after {last} answers"));
        }
    }

    /// A client that behaves learns how its last request ended.
    fn check_end(&mut self, label: &str) {
        let client = self.client;
        let last = client.answers.last();
        // A reset discards unread data, and a truncated answer ends in a reset.
        if label == "drained" || client.saw_reset {
            return;
        }
        let traits = client.plan.traits;
        if traits.tx_capacity.min(traits.inbox_capacity) < 200 && !self.scenario.strict {
            return;
        }
        let cause = Cause::ALL.iter().find(|cause| cause.label() == label);
        match cause.and_then(|cause| client_protocol::status(*cause)) {
            Some(status) => {
                let reported = last.is_some_and(|last| last.fault.is_some() && last.whole && last.status == status);
                self.require(reported, || format!("ended as {label}, but the client received {last:?}"));
            }
            None if label == "finished" => {
                self.require(last.is_none_or(|last| last.whole), || "finished in the middle of an answer".into());
                self.require(last.is_some() || self.client.writing == 0, || "finished without an answer".into());
            }
            None => {
                let excused = ["silent", "client_gone"].contains(&label);
                self.require(excused, || format!("ended as {label}, but the client received {last:?}"));
            }
        }
    }

    /// A request that must not be repeated was sent at most once.
    fn check_repeats(&mut self, carried_out: &BTreeMap<RequestId, usize>) {
        for (place, plan) in self.client.plan.requests.iter().enumerate() {
            let times = carried_out.get(&RequestId { client: self.number, number: place }).copied().unwrap_or(0);
            let answered = self.client.answers.get(place).is_some_and(|answer| answer.tag.is_some());
            self.require(!answered || times > 0, || format!("request {place} was answered but never carried out"));
            let once = plan.method == "POST";
            self.require(!once || times <= 1, || format!("request {place} was carried out {times} times"));
        }
    }
}
