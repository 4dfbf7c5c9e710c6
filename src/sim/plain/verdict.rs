//! What must be true of every client that speaks plain HTTP.

use std::collections::BTreeMap;

use super::http_client::{Answer, Caller};
use super::http_server::Request;
use super::message::Framing;
use crate::client_protocol;
use crate::fault::Cause;
use crate::limits;
use crate::sim::network::{Conclusion, with};
use crate::sim::scenario::{Scenario, Target};
use crate::stub::Personality;

/// Looks at a client and what became of it; returns how its connection ended.
pub fn judge(
    number: usize,
    caller: &Caller,
    scenario: &Scenario,
    carried_out: &BTreeMap<Request, usize>,
) -> (Option<&'static str>, Vec<String>) {
    let end = with(|network| network.wires[caller.wire].concluded);
    let mut view = View { number, caller, scenario, wrong: caller.wrong.clone() };
    view.look(end);
    view.look_at_repeats(carried_out);
    let say = |what| format!("caller {number}: {what}");
    (end.map(|end| end.label), view.wrong.into_iter().map(say).collect())
}

struct View<'a> {
    number: usize,
    caller: &'a Caller,
    scenario: &'a Scenario,
    wrong: Vec<String>,
}

impl View<'_> {
    fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    fn look(&mut self, end: Option<Conclusion>) {
        let caller = self.caller;
        let Some(end) = end else {
            let excused = !self.scenario.strict && self.scenario.accept_fails.is_some()
                || self.scenario.stop_at_us.is_some()
                || caller.is_late;
            return self.must(excused, || "it was never accepted, or its tunnel never ended".into());
        };
        for (place, answer) in caller.answers.iter().enumerate() {
            self.look_at_answer(place, answer);
        }
        if end.label == "gave_way" {
            return self.must(self.scenario.may_run_short(), || "it gave way though there was room".into());
        }
        if self.scenario.strict {
            self.look_at_strict(end.label);
        }
        if !caller.misbehaved {
            self.look_at_end(end.label);
        }
    }

    /// It is the answer to its request and has come whole, or does not pretend to.
    fn look_at_answer(&mut self, place: usize, answer: &Answer) {
        let plan = &self.caller.plan.requests[place];
        let own = Request { caller: self.number, number: place }.to_string();
        self.must(answer.tag.as_ref().is_none_or(|tag| *tag == own), || {
            format!("request {place} has the answer of {:?}", answer.tag)
        });
        let nothing = plan.answer.framing_to(plan.method) == Framing::Nothing;
        let bytes = if nothing { 0 } else { plan.answer.bytes as u64 };
        if answer.tag.is_some() {
            self.must(answer.status == plan.answer.status, || {
                format!("request {place} was answered {} and not {}", answer.status, plan.answer.status)
            });
            self.must(answer.body.bytes <= bytes, || format!("request {place}: too long an answer"));
            self.must(!answer.whole || answer.body.bytes == bytes, || {
                format!("request {place}: {} of {bytes} bytes are taken for the whole", answer.body.bytes)
            });
        }
        self.must(answer.fault.is_none() || answer.closes, || "the connection goes on behind a fault".into());
        let denied = self.caller.plan.target == Target::Denied;
        self.must(!denied || answer.tag.is_none(), || "it came where nobody may go".into());
    }

    /// Where everybody behaves, every request is answered.
    fn look_at_strict(&mut self, label: &str) {
        let caller = self.caller;
        // What has begun to go out with its body cannot be begun again where a proof does not last, or where one is asked for although the
        // destination is said to need none.
        let forgets = self.scenario.has(&[Personality::Forgets, Personality::PerRequestAuth]);
        let has_body = caller.answers.len().checked_sub(1).is_some_and(|last| caller.plan.requests[last].has_body());
        // Nor where an upstream that is known to ask for credentials before it has a body takes longer than that is waited for.
        let last_plan = caller.answers.len().checked_sub(1).map(|last| &caller.plan.requests[last]);
        let is_long = last_plan.is_some_and(|plan| match plan.framing {
            Framing::Length(length) => length > limits::BUFFERED_BODY_BYTES as u64,
            _ => true,
        });
        let excused = forgets || caller.plan.target == Target::Plainly || is_long;
        if label == "reauthentication" && has_body && excused {
            return;
        }
        self.must(label == "finished", || format!("ended as {label} though everybody behaves"));
        let own = caller.answers.iter().filter(|answer| answer.whole && answer.tag.is_some()).count();
        self.must(own == caller.answers.len(), || format!("not answered as planned: {:?}", caller.answers.last()));
        let last = caller.answers.len();
        if last < caller.plan.requests.len() {
            let plan = last.checked_sub(1).and_then(|last| caller.plan.requests.get(last));
            let told_off = caller.answers.last().is_some_and(|answer| answer.closes);
            let may_end = plan.is_some_and(|plan| {
                let to_close = caller.plan.http10 && !matches!(plan.answer.framing, Framing::Length(_));
                plan.closes || plan.answer.early.is_some() || to_close
            });
            self.must(told_off && may_end, || format!("the connection ended behind {last} answers"));
        }
    }

    /// Who has behaved hears what has become of its last request.
    fn look_at_end(&mut self, label: &str) {
        let caller = self.caller;
        let last = caller.answers.last();
        // A reset destroys what has not been read, and what is cut short ends in one.
        if label == "drained" || caller.heard_reset {
            return;
        }
        let traits = caller.plan.traits;
        if traits.tx_capacity.min(traits.inbox_capacity) < 200 && !self.scenario.strict {
            return;
        }
        let cause = Cause::ALL.iter().find(|cause| cause.label() == label);
        match cause.and_then(|cause| client_protocol::status(*cause)) {
            Some(status) => {
                let told = last.is_some_and(|last| last.fault.is_some() && last.whole && last.status == status);
                self.must(told, || format!("ended as {label}, and the client was told {last:?}"));
            }
            None if label == "finished" => {
                self.must(last.is_none_or(|last| last.whole), || "finished in the middle of an answer".into());
                self.must(last.is_some() || self.caller.writing == 0, || "finished without an answer".into());
            }
            None => {
                let excused = ["silent", "client_gone"].contains(&label);
                self.must(excused, || format!("ended as {label}, and the client was told {last:?}"));
            }
        }
    }

    /// What may not be done twice was not.
    fn look_at_repeats(&mut self, carried_out: &BTreeMap<Request, usize>) {
        for (place, plan) in self.caller.plan.requests.iter().enumerate() {
            let times = carried_out.get(&Request { caller: self.number, number: place }).copied().unwrap_or(0);
            let answered = self.caller.answers.get(place).is_some_and(|answer| answer.tag.is_some());
            self.must(!answered || times > 0, || format!("request {place} was answered and never made"));
            let once = plan.method == "POST";
            self.must(!once || times <= 1, || format!("request {place} was made {times} times"));
        }
    }
}
