//! The agent of one identity: logs on, gets a ticket for each upstream, replaces it before it ends or when it was
//! refused. It does on virtual time what `tickets::Agent` does on a thread.

use std::sync::Arc;
use std::time::Duration;

use super::realm::Realm;
use super::wall_clock;
use crate::auth::{TicketSlot, TicketState};
use crate::fault::{At, Cause, Fault};
use crate::limits;
use crate::sim::rng::Rng;
use crate::upstream::{Answer, AttemptRequest, Confirmation, Guard, Refusal, SendPermission, Ticket};

/// What an agent needs from outside at each step.
pub struct AgentContext<'a> {
    pub realm: &'a mut Realm,
    pub guard: &'a Arc<Guard>,
    pub rng: &'a mut Rng,
    pub now_us: u64,
    /// The account's password is right.
    pub is_right: bool,
}

/// The agent of one identity.
pub struct Agent {
    identity: usize,
    kept: Vec<Kept>,
    step: Step,
    is_logged_on: bool,
    failures: u32,
    /// When to try to log on again.
    due_us: u64,
    /// The alarm that is set.
    alarm_us: u64,
}

struct Kept {
    slot: Arc<TicketSlot>,
    /// When its ticket ends.
    end_us: Option<u64>,
    due_us: u64,
    failures: u32,
    /// It is known that another ticket is wanted.
    is_asked: bool,
}

enum Step {
    Rests,
    /// Until the guard permits a logon.
    AsksGuard {
        until_us: u64,
    },
    LogsOn {
        permit: Box<Ticket>,
        _confirmation: Option<Confirmation>,
        until_us: u64,
    },
    GetsTicket {
        upstream: usize,
        until_us: u64,
    },
}

const GUARD_POLL_US: u64 = 200_000;

impl Agent {
    pub fn new(identity: usize, slots: Vec<Arc<TicketSlot>>) -> Agent {
        let kept = slots
            .into_iter()
            .map(|slot| Kept { slot, end_us: None, due_us: 0, failures: 0, is_asked: false })
            .collect();
        Agent { identity, kept, step: Step::Rests, is_logged_on: false, failures: 0, due_us: 0, alarm_us: 0 }
    }

    /// Whether a logon is under way.
    pub fn is_logging_on(&self) -> bool {
        matches!(self.step, Step::LogsOn { .. })
    }

    /// Does what is due. Returns when it has to be called again, at the latest, and whether it has published anything.
    pub fn step(&mut self, context: &mut AgentContext<'_>) -> (u64, bool) {
        if context.now_us >= self.alarm_us {
            self.alarm_us = u64::MAX;
        }
        let mut has_published = self.drop_expired(context);
        loop {
            let now_us = context.now_us;
            match std::mem::replace(&mut self.step, Step::Rests) {
                Step::Rests => match self.begin(context) {
                    Some(step) => self.step = step,
                    None => return (self.next_us(), has_published),
                },
                Step::AsksGuard { until_us } => match self.ask_guard(until_us, context) {
                    Ok(step @ Step::AsksGuard { .. }) => {
                        self.step = step;
                        return (now_us + GUARD_POLL_US, has_published);
                    }
                    Ok(step) => self.step = step,
                    Err((fault, rest)) => {
                        self.due_us = now_us + micros(rest.max(limits::KERBEROS_RETRY));
                        self.fail_all(&fault, now_us);
                        has_published = true;
                    }
                },
                step @ (Step::LogsOn { until_us, .. } | Step::GetsTicket { until_us, .. }) if now_us < until_us => {
                    self.step = step;
                    return (until_us, has_published);
                }
                Step::LogsOn { permit, _confirmation, .. } => has_published |= self.logged_on(*permit, context),
                Step::GetsTicket { upstream, .. } => {
                    self.got_ticket(upstream, context);
                    has_published = true;
                }
            }
        }
    }

    /// Whether another alarm is needed for it to be called at this time.
    pub fn is_called_earlier(&mut self, at_us: u64) -> bool {
        let is_earlier = at_us < self.alarm_us;
        if is_earlier {
            self.alarm_us = at_us;
        }
        is_earlier
    }

    /// Whether the service of an upstream has refused a ticket since the last one was published, or was tried to be.
    pub fn is_asked_for_another(&mut self, upstream: usize) -> bool {
        let kept = &mut self.kept[upstream];
        kept.slot.wants_another() && !std::mem::replace(&mut kept.is_asked, true)
    }

    /// Whether it does nothing that has to come to its end first.
    pub fn rests(&self) -> bool {
        matches!(self.step, Step::Rests)
    }

    fn next_us(&self) -> u64 {
        let due = self.kept.iter().map(|kept| kept.due_us).filter(|_| self.is_logged_on);
        let ends = self.kept.iter().filter_map(|kept| kept.end_us);
        let logon = (!self.is_logged_on).then_some(self.due_us);
        due.chain(ends).chain(logon).min().unwrap_or(u64::MAX)
    }

    fn begin(&mut self, context: &mut AgentContext<'_>) -> Option<Step> {
        let now_us = context.now_us;
        for kept in self.kept.iter_mut().filter(|kept| kept.slot.take_give_way()) {
            kept.due_us = kept.due_us.min(now_us + micros(limits::KERBEROS_REPLACED_AFTER_REFUSAL));
        }
        if !self.is_logged_on {
            let until_us = now_us + micros(limits::KDC_DELIVERY_TIMEOUT);
            return (now_us >= self.due_us).then_some(Step::AsksGuard { until_us });
        }
        let is_due = |kept: &Kept| now_us >= kept.due_us || kept.slot.wants_another();
        let upstream = self.kept.iter().position(is_due)?;
        Some(Step::GetsTicket { upstream, until_us: now_us + takes_us(context) })
    }

    fn ask_guard(&self, until_us: u64, context: &mut AgentContext<'_>) -> Result<Step, (Fault, Duration)> {
        let (now_ms, upstream) = (context.now_us / 1000, Arc::from("KDC"));
        let confirmation = context.guard.take_confirmation(now_ms, &upstream);
        let asking = AttemptRequest {
            upstream: &upstream,
            method: "AS-REQ",
            destination: "CORP.TEST",
            challenged: true,
            confirms: confirmation.is_some(),
        };
        match context.guard.ask(now_ms, &asking) {
            SendPermission::Go(permit) => {
                let until_us = context.now_us + takes_us(context);
                Ok(Step::LogsOn { permit: Box::new(permit), _confirmation: confirmation, until_us })
            }
            SendPermission::Wait if context.now_us < until_us => Ok(Step::AsksGuard { until_us }),
            SendPermission::Wait => Err((failure(Cause::CredentialsHeld), limits::KERBEROS_RETRY)),
            SendPermission::No(Refusal::Held(rest) | Refusal::Barred(rest)) => {
                Err((failure(Cause::CredentialsHeld), rest))
            }
        }
    }

    /// The KDC has answered an AS-REQ, or has not.
    fn logged_on(&mut self, permit: Ticket, context: &mut AgentContext<'_>) -> bool {
        let now_us = context.now_us;
        let is_down = context.realm.plan().kdc.is_down(now_us);
        let (answer, cause) = match (is_down, context.is_right) {
            (true, _) => (Answer::Nothing, Some(Cause::KdcUnreachable)),
            (false, true) => (Answer::Status(200), None),
            (false, false) => (Answer::Refused, Some(Cause::CredentialsRefused)),
        };
        permit.settle(now_us / 1000, answer);
        let Some(cause) = cause else {
            context.realm.counts.logons += 1;
            (self.is_logged_on, self.failures) = (true, 0);
            return false;
        };
        context.realm.counts.wrong_logons += u64::from(cause == Cause::CredentialsRefused);
        self.failures += 1;
        let rest = if is_down { growing(self.failures) } else { limits::KERBEROS_RETRY_MAX };
        self.due_us = now_us + micros(rest);
        self.fail_all(&failure(cause), now_us);
        true
    }

    fn got_ticket(&mut self, upstream: usize, context: &mut AgentContext<'_>) {
        let now_us = context.now_us;
        let kdc = &context.realm.plan().kdc;
        let cause = if kdc.is_down(now_us) {
            Some(Cause::KdcUnreachable)
        } else if kdc.unknown == Some(upstream) {
            Some(Cause::TicketUnavailable)
        } else {
            None
        };
        let lifetime_us = kdc.lifetime_us;
        let kept = &mut self.kept[upstream];
        kept.is_asked = false;
        let Some(cause) = cause else {
            let credential = context.realm.issue(upstream, self.identity, now_us);
            kept.failures = 0;
            kept.end_us = Some(now_us + lifetime_us);
            kept.due_us = now_us + lifetime_us * context.rng.within(70..=85) / 100;
            kept.slot.publish(TicketState::Ready(Arc::new(credential)), wall_clock(now_us));
            return;
        };
        kept.failures += 1;
        let is_down = cause == Cause::KdcUnreachable;
        let rest = if is_down { growing(kept.failures) } else { limits::KERBEROS_RETRY_MAX };
        kept.due_us = now_us + micros(rest);
        kept.fail(&failure(cause), now_us);
    }

    fn fail_all(&mut self, fault: &Fault, now_us: u64) {
        self.kept.iter_mut().for_each(|kept| kept.fail(fault, now_us));
    }

    fn drop_expired(&mut self, context: &AgentContext<'_>) -> bool {
        let now_us = context.now_us;
        let mut has_published = false;
        for kept in &mut self.kept {
            if kept.end_us.is_some_and(|end_us| now_us >= end_us) {
                kept.end_us = None;
                kept.fail(&failure(Cause::TicketUnavailable), now_us);
                has_published = true;
            }
        }
        has_published
    }
}

impl Kept {
    /// A valid ticket is kept.
    fn fail(&mut self, fault: &Fault, now_us: u64) {
        self.is_asked = false;
        let state = match self.slot.state() {
            TicketState::Ready(ticket) if self.end_us.is_some() => TicketState::Ready(ticket),
            _ => TicketState::Failed(fault.clone()),
        };
        self.slot.publish(state, wall_clock(now_us));
    }
}

fn takes_us(context: &mut AgentContext<'_>) -> u64 {
    let (least, most) = context.realm.plan().kdc.takes_us;
    // A KDC that is down is noticed later.
    match context.realm.plan().kdc.is_down(context.now_us) {
        true => 20 * most,
        false => context.rng.within(least..=most),
    }
}

fn growing(failures: u32) -> Duration {
    (limits::KERBEROS_RETRY * 2_u32.pow(failures.saturating_sub(1).min(10))).min(limits::KERBEROS_RETRY_MAX)
}

fn failure(cause: Cause) -> Fault {
    Fault::new(At::Authenticate, cause, "the KDC gives no ticket")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
