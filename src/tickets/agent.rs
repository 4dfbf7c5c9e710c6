//! The thread that keeps the tickets of one identity: gets them, replaces them before they end, keeps them while no KDC
//! answers.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::ask::AskError;
use super::exchange::{TicketError, Watch, get_ticket, log_on, now};
use super::realms::Realms;
use super::service::{Service, ServicePrincipal};
use crate::auth::TicketState;
use crate::fault::{At, Cause, Fault};
use crate::kerberos::{
    ClientSecret, ClockSkew, Credential, ExchangeOptions, InitialExchange, Principal, PrincipalName, ServiceExchange,
    Timestamp,
};
use crate::limits;

/// Whose tickets an agent keeps.
#[derive(Debug)]
pub struct AgentOptions {
    /// The client.
    pub client: Principal,
    /// Its key.
    pub secret: ClientSecret,
    /// What tickets are asked for.
    pub exchange: ExchangeOptions,
    /// Where the KDCs are.
    pub realms: Realms,
    /// The services.
    pub services: Vec<Service>,
    /// When a service whose ticket was refused for good gets another one: until then, other mechanisms are used.
    pub replaced_after_refusal: Duration,
}

/// What hears of an agent's tickets. It is called on the agent's thread.
pub trait AgentWatch: Watch + Send {
    /// The state of a service's ticket has changed.
    fn published(&mut self, service: &PrincipalName, state: &TicketState);

    /// There is a new ticket-granting ticket.
    fn logged_on_until(&mut self, end: Timestamp);
}

/// What an agent is told.
enum Message {
    /// A ticket was refused.
    LookAgain,
    Stop,
}

/// A line to an agent that may not run yet.
#[derive(Clone, Debug)]
pub struct AgentLine(mpsc::Sender<Message>);

impl AgentLine {
    /// Tells the agent that a slot wants another ticket.
    pub fn look_again(&self) {
        // It fails only once the agent has ended.
        let _ = self.0.send(Message::LookAgain);
    }
}

/// An agent that does not run yet.
pub struct NewAgent(mpsc::Receiver<Message>);

/// A running agent. Dropping it ends its thread, after the exchange that is under way.
#[derive(Debug)]
pub struct Agent(mpsc::Sender<Message>);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.send(Message::Stop);
    }
}

/// An agent, and the line to it for the slots of its services.
pub fn new_agent() -> (NewAgent, AgentLine) {
    let (sender, receiver) = mpsc::channel();
    (NewAgent(receiver), AgentLine(sender))
}

impl NewAgent {
    /// Starts the agent's thread, which gets the tickets at once.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(self, line: &AgentLine, options: AgentOptions, watch: Box<dyn AgentWatch>) -> io::Result<Agent> {
        let run = Run {
            ticket_granting: None,
            is_older_key: false,
            ticket_granting_due: Timestamp::default(),
            failures: 0,
            kept: options.services.iter().cloned().map(Kept::new).collect(),
            options,
            watch,
        };
        thread::Builder::new().name("tickets".into()).spawn(move || run.until_stopped(&self.0))?;
        Ok(Agent(line.0.clone()))
    }
}

/// A service with its ticket.
struct Kept {
    service: Service,
    ticket: Option<Arc<Credential>>,
    /// When it is to be replaced.
    due: Timestamp,
    failures: u32,
    /// Why it was not replaced, since it was got.
    failure: Option<Fault>,
    /// The name by which the KDC knew it last.
    principal: Option<ServicePrincipal>,
}

impl Kept {
    fn new(service: Service) -> Kept {
        // What another agent has got for the same client is used until it is replaced.
        let ticket = match service.slot.state() {
            TicketState::Ready(ticket) => Some(ticket),
            _ => None,
        };
        Kept { service, ticket, due: Timestamp::default(), failures: 0, failure: None, principal: None }
    }

    /// When its ticket ends, by our own clock.
    fn end(&self) -> Option<Timestamp> {
        self.ticket.as_ref().map(|ticket| ticket.skew.undo(ticket.end))
    }

    fn valid(&self, now: Timestamp) -> Option<&Arc<Credential>> {
        self.ticket.as_ref().filter(|ticket| ticket.is_valid(now))
    }
}

struct Run {
    options: AgentOptions,
    watch: Box<dyn AgentWatch>,
    ticket_granting: Option<Credential>,
    /// The ticket-granting ticket was obtained with an older key, because the KDC did not know the newest one yet.
    is_older_key: bool,
    ticket_granting_due: Timestamp,
    failures: u32,
    kept: Vec<Kept>,
}

impl Run {
    fn until_stopped(mut self, messages: &mpsc::Receiver<Message>) {
        loop {
            self.get_what_is_due();
            let rest = self.next_due().since(now());
            // Not before the next tick of the clock in which something is due.
            let rest = rest.max(Duration::from_millis(10));
            match messages.recv_timeout(rest) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Message::LookAgain) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn next_due(&self) -> Timestamp {
        // Without a ticket-granting ticket there is nothing to ask for with.
        let services = self.kept.iter().map(|kept| kept.due).filter(|_| self.ticket_granting.is_some());
        let ends = self.kept.iter().filter_map(Kept::end);
        services.chain(ends).chain([self.ticket_granting_due]).min().unwrap_or(self.ticket_granting_due)
    }

    fn get_what_is_due(&mut self) {
        self.drop_expired();
        if now() >= self.ticket_granting_due {
            self.replace_ticket_granting();
        }
        let replaced_after_refusal = self.options.replaced_after_refusal;
        for kept in self.kept.iter_mut().filter(|kept| kept.service.slot.take_give_way()) {
            kept.due = kept.due.min(now().plus(replaced_after_refusal));
        }
        for place in 0..self.kept.len() {
            let Some(ticket_granting) = self.ticket_granting.clone() else { return };
            let kept = &self.kept[place];
            if now() >= kept.due || kept.service.slot.wants_another() {
                self.replace(place, ticket_granting);
            }
        }
    }

    /// Tickets that could not be replaced in time.
    fn drop_expired(&mut self) {
        for place in 0..self.kept.len() {
            let kept = &mut self.kept[place];
            if kept.end().is_some_and(|end| now() >= end) {
                kept.ticket = None;
                let expired =
                    || Fault::new(At::Authenticate, Cause::TicketUnavailable, "the Kerberos ticket has expired");
                let fault = kept.failure.clone().unwrap_or_else(expired);
                self.publish(place, TicketState::Failed(fault));
            }
        }
    }

    /// Renews the ticket-granting ticket, or logs on.
    fn replace_ticket_granting(&mut self) {
        match self.renewed().map_or_else(|| self.logged_on(), Ok) {
            Ok(credential) => {
                self.failures = 0;
                self.watch.logged_on_until(credential.skew.undo(credential.end));
                self.ticket_granting_due = replaced_at(&credential, now());
                if self.is_older_key {
                    let newest_again = now().plus(limits::KERBEROS_NEWEST_KEY_AGAIN);
                    self.ticket_granting_due = self.ticket_granting_due.min(newest_again);
                }
                self.ticket_granting = Some(credential);
                // No ticket for a service lasts longer than the ticket-granting ticket that it was got with.
                self.kept.iter_mut().for_each(|kept| kept.due = Timestamp::default());
            }
            Err(error) => {
                self.failures += 1;
                self.ticket_granting_due = now().plus(retry_after(&error, self.failures));
                if self.ticket_granting.as_ref().is_some_and(|credential| !credential.is_valid(now())) {
                    self.ticket_granting = None;
                }
                let fault = ticket_fault(&error, &self.options.client);
                for place in 0..self.kept.len() {
                    self.publish_failure(place, fault.clone());
                }
            }
        }
    }

    /// A renewed ticket-granting ticket; `None` if there is none to renew, or the KDC renews it no more.
    fn renewed(&mut self) -> Option<Credential> {
        let old = self.ticket_granting.as_ref().filter(|credential| credential.is_valid(now()))?;
        if self.is_older_key {
            return None;
        }
        old.renew_till.filter(|till| *till > old.end)?;
        let exchange = ServiceExchange::renewal(old.clone(), self.options.exchange);
        let renewed = get_ticket(exchange, &self.options.realms, &mut *self.watch);
        renewed.inspect_err(|error| log::debug!("{}: cannot renew: {error}", self.options.client)).ok()
    }

    fn logged_on(&mut self) -> Result<Credential, TicketError> {
        let skew = self.ticket_granting.as_ref().map_or_else(ClockSkew::default, |credential| credential.skew);
        let AgentOptions { client, secret, exchange, realms, .. } = &self.options;
        let mut exchange = InitialExchange::new(client.clone(), secret.clone(), *exchange, skew);
        let credential = log_on(&mut exchange, realms, &mut *self.watch)?;
        self.is_older_key = exchange.uses_older_key();
        Ok(credential)
    }

    fn replace(&mut self, place: usize, ticket_granting: Credential) {
        let got = self.principal(place).and_then(|(name, realm)| {
            let exchange = ServiceExchange::new(ticket_granting, name, realm, self.options.exchange);
            get_ticket(exchange, &self.options.realms, &mut *self.watch)
        });
        let kept = &mut self.kept[place];
        match got {
            Ok(credential) => {
                (kept.failures, kept.failure) = (0, None);
                kept.due = replaced_at(&credential, now());
                let ticket = Arc::new(credential);
                kept.ticket = Some(Arc::clone(&ticket));
                self.publish(place, TicketState::Ready(ticket));
            }
            Err(error) => {
                kept.failures += 1;
                kept.due = now().plus(retry_after(&error, kept.failures));
                if is_stale(&error) {
                    // The KDC takes the ticket-granting ticket no more.
                    self.ticket_granting = None;
                    self.ticket_granting_due = now().plus(retry_after(&error, self.failures + 1));
                }
                self.publish_failure(place, ticket_fault(&error, &self.options.client));
            }
        }
    }

    /// The name by which the KDC knows a service; the one that was found last while the name servers fail.
    fn principal(&mut self, place: usize) -> Result<ServicePrincipal, TicketError> {
        let kept = &mut self.kept[place];
        match (kept.service.principal(&self.options.realms), &kept.principal) {
            (Ok(found), _) => {
                kept.principal = Some(found.clone());
                Ok(found)
            }
            (Err(error), Some(known)) => {
                log::debug!("{}: {error}; {} is used as before", self.options.client, known.0);
                Ok(known.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// A valid ticket is kept whatever happens.
    fn publish_failure(&mut self, place: usize, fault: Fault) {
        self.kept[place].failure = Some(fault.clone());
        let state = match self.kept[place].valid(now()) {
            Some(ticket) => {
                log::debug!("{}: the ticket is kept: {}", self.options.client, fault.detail);
                TicketState::Ready(Arc::clone(ticket))
            }
            None => TicketState::Failed(fault),
        };
        self.publish(place, state);
    }

    fn publish(&mut self, place: usize, state: TicketState) {
        let service = &self.kept[place].service;
        service.slot.publish(state.clone(), now());
        self.watch.published(&service.name, &state);
    }
}

/// When a ticket is to be replaced, by our own clock.
fn replaced_at(credential: &Credential, now: Timestamp) -> Timestamp {
    let life = credential.skew.undo(credential.end).since(now);
    let jitter = getrandom::u32().unwrap_or_default() % (limits::KERBEROS_JITTER_PERCENT + 1);
    now.plus((life * (limits::KERBEROS_REPLACED_AFTER_PERCENT - jitter) / 100).max(limits::KERBEROS_RETRY))
}

/// From a failure to the next try.
fn retry_after(error: &TicketError, failures: u32) -> Duration {
    let growing = || limits::KERBEROS_RETRY * 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
    let rest = match error {
        TicketError::Held { retry_after, .. } => return (*retry_after).max(limits::KERBEROS_RETRY),
        TicketError::Ask(_) | TicketError::Canonical { .. } | TicketError::NoRandomness => growing(),
        TicketError::Exchange(error) if error.is_temporary() => growing(),
        // Nobody but an administrator can change it.
        TicketError::Exchange(_) => limits::KERBEROS_RETRY_MAX,
    };
    let rest = rest.min(limits::KERBEROS_RETRY_MAX);
    // Some earlier, so that the gateways of a deployment do not all ask at once.
    rest * (100 - getrandom::u32().unwrap_or_default() % 20) / 100
}

fn is_stale(error: &TicketError) -> bool {
    matches!(error, TicketError::Exchange(error) if error.is_stale_ticket())
}

/// What a request fails with for want of a ticket.
pub fn ticket_fault(error: &TicketError, client: &Principal) -> Fault {
    let cause = match error {
        TicketError::Ask(AskError::NoKdc { .. } | AskError::Silent { .. }) => Cause::KdcUnreachable,
        TicketError::Exchange(error) if error.is_wrong_key() => Cause::CredentialsRefused,
        TicketError::Held { .. } => Cause::CredentialsHeld,
        TicketError::Exchange(_) | TicketError::Canonical { .. } | TicketError::NoRandomness => {
            Cause::TicketUnavailable
        }
    };
    Fault::new(At::Authenticate, cause, format!("no Kerberos ticket for {client}: {error}"))
}
