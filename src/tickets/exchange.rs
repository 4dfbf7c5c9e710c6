//! Runs the exchanges of [`crate::kerberos`] against KDCs, step by step.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use thiserror::Error;

use super::ask::{AskError, Reply, ask};
use super::realms::Realms;
use crate::kerberos::{
    Credential, Delivery, ExchangeError, ExchangeInputs, InitialExchange, KdcRequest, KeyVersion, RequestKind,
    ServiceExchange, Step, Timestamp, Try,
};

/// Why there is no ticket.
#[derive(Debug, Error)]
pub enum TicketError {
    /// No KDC was reached.
    #[error("{0}")]
    Ask(#[from] AskError),
    /// The exchange failed.
    #[error("{0}")]
    Exchange(#[from] ExchangeError),
    /// The canonical name of the service's host is not known.
    #[error("cannot canonicalize the name of {host}: {why}")]
    Canonical {
        /// The host as configured.
        host: String,
        /// Why.
        why: String,
    },
    /// A logon attempt is not allowed now.
    #[error("no logon is attempted: {why}")]
    Held {
        /// Why.
        why: String,
        /// When to ask again.
        retry_after: std::time::Duration,
        /// Whether it is because the key was refused, so that an older one may be tried.
        is_refused: bool,
    },
    /// The system has no random numbers, which does not happen on Linux once it is up.
    #[error("the system has no random numbers")]
    NoRandomness,
}

/// How a logon attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogonOutcome {
    /// The KDC has accepted the key.
    Accepted,
    /// The KDC has refused the key.
    Refused,
    /// Nothing is known.
    Undecided,
}

/// What watches over the exchanges: it allows logon attempts and counts.
pub trait Watch {
    /// Asks to attempt a logon with this key, at a KDC of this realm.
    ///
    /// # Errors
    /// [`TicketError::Held`] if it must not be attempted now.
    fn may_log_on(&mut self, realm: &str, key: KeyVersion) -> Result<(), TicketError>;

    /// The attempt that was allowed last is over.
    fn logged_on(&mut self, outcome: LogonOutcome);

    /// A request was answered, or was not.
    fn asked(&mut self, realm: &str, kind: RequestKind, outcome: Result<(), &str>, since: Instant);
}

/// The present time by our own clock.
pub fn now() -> Timestamp {
    Timestamp::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(super) fn inputs() -> Result<ExchangeInputs, TicketError> {
    let mut confounder = [0; 16];
    getrandom::fill(&mut confounder).map_err(|_| TicketError::NoRandomness)?;
    let nonce = getrandom::u32().map_err(|_| TicketError::NoRandomness)?;
    Ok(ExchangeInputs { now: now(), nonce, confounder })
}

/// Gets a ticket-granting ticket. While the guard holds the newest key back because the KDC has refused it, the one
/// before it is tried.
///
/// # Errors
/// [`TicketError`]
pub fn log_on(
    exchange: &mut InitialExchange,
    realms: &Realms,
    watch: &mut dyn Watch,
) -> Result<Credential, TicketError> {
    let mut request = exchange.start(&inputs()?)?;
    let mut answered = None;
    let mut held_first = None;
    loop {
        let is_logon = match request.kind {
            RequestKind::Logon(key) => {
                if let Err(held) = watch.may_log_on(&request.realm, key) {
                    request = older_key(exchange, held, &mut held_first)?;
                    continue;
                }
                // The permission may have taken a while, but the time stamp is checked with minutes of tolerance.
                true
            }
            _ => false,
        };
        let reply = match deliver(&request, realms, answered, watch) {
            Ok(reply) => reply,
            Err(error) => {
                if is_logon {
                    watch.logged_on(LogonOutcome::Undecided);
                }
                return Err(error.into());
            }
        };
        answered = Some(reply.answered);
        let code = crate::kerberos::KrbError::decode(&reply.bytes).ok().map(|error| error.code);
        let step = exchange.receive(&reply.bytes, &inputs()?);
        if is_logon {
            watch.logged_on(match (code, &step) {
                (Some(code), _) if code.is_failed_logon() => LogonOutcome::Refused,
                (None, Ok(_)) => LogonOutcome::Accepted,
                _ => LogonOutcome::Undecided,
            });
        }
        match step? {
            Step::Done(credential) => return Ok(credential),
            Step::Send(next) => {
                // The KDC of another realm is another one.
                if next.realm != request.realm {
                    answered = None;
                }
                request = next;
            }
        }
    }
}

/// The request with the key before the one that is held back.
fn older_key(
    exchange: &mut InitialExchange,
    held: TicketError,
    first: &mut Option<TicketError>,
) -> Result<KdcRequest, TicketError> {
    let is_refused = matches!(held, TicketError::Held { is_refused: true, .. });
    let held = first.take().unwrap_or(held);
    let older = if is_refused { exchange.pass_over_key(&inputs()?) } else { None };
    match older {
        Some(request) => {
            *first = Some(held);
            Ok(request?)
        }
        // The KDC's refusal of the newest key explains more than the guard's hold on the older ones.
        None => Err(exchange.take_refusal().map_or(held, TicketError::Exchange)),
    }
}

/// Gets a ticket for a service, or renews one.
///
/// # Errors
/// [`TicketError`]
pub fn get_ticket(
    mut exchange: ServiceExchange,
    realms: &Realms,
    watch: &mut dyn Watch,
) -> Result<Credential, TicketError> {
    let mut request = exchange.start(&inputs()?);
    loop {
        let reply = deliver(&request, realms, None, watch)?;
        match exchange.receive(&reply.bytes, &inputs()?)? {
            Step::Done(credential) => return Ok(credential),
            Step::Send(next) => request = next,
        }
    }
}

/// `answered`: the try that a KDC has answered in this exchange.
fn deliver(
    request: &KdcRequest,
    realms: &Realms,
    answered: Option<Try>,
    watch: &mut dyn Watch,
) -> Result<Reply, AskError> {
    let since = Instant::now();
    let reply = find_and_ask(request, realms, answered);
    let outcome = match &reply {
        Ok(reply) => match crate::kerberos::KrbError::decode(&reply.bytes) {
            Ok(error) => Err(error.code.name().unwrap_or("error").to_owned()),
            Err(_) => Ok(()),
        },
        Err(AskError::NoKdc { .. }) => Err("no_kdc".to_owned()),
        Err(AskError::Silent { .. }) => Err("silent".to_owned()),
    };
    watch.asked(&request.realm, request.kind, outcome.as_ref().copied().map_err(String::as_str), since);
    reply
}

fn find_and_ask(request: &KdcRequest, realms: &Realms, answered: Option<Try>) -> Result<Reply, AskError> {
    let delivery = match (request.kind, answered) {
        (RequestKind::Logon(_), Some(answered)) => Delivery::to_one(answered),
        _ => Delivery::to_any(&realms.kdcs(&request.realm)?, request.bytes.len(), realms.delivery_options()),
    };
    ask(delivery, &request.bytes).map_err(|why| AskError::Silent { realm: request.realm.clone(), why })
}
