//! Gets the Kerberos ticket for the probe, as the gateway's own thread would, and records how.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::conversation::{Event, What};
use crate::auth::{TicketSlot, TicketState, TokenTimes};
use crate::config::{Config, KerberosConfig, KerberosIdentity};
use crate::fault::Fault;
use crate::kerberos::{
    ClockSkew, Credential, ExchangeOptions, InitialExchange, KeyVersion, RequestKind, ServiceExchange,
};
use crate::limits;
use crate::tickets::{LogonOutcome, Service, TicketError, Watch, get_ticket, log_on, now, ticket_fault};
use crate::upstream::Answer;

/// The ticket, and what its logon says about the secret.
pub(super) struct Got {
    pub slot: Arc<TicketSlot>,
    /// `None` if no logon was attempted.
    pub logon: Option<Answer>,
}

/// Gets the ticket for the first upstream as the first identity. `None` if the identity does not use Kerberos.
pub(super) fn get(config: &Config, began: Instant, events: &mut Vec<Event>) -> Option<Got> {
    let identity = config.identities.first()?.kerberos.as_ref()?;
    let common = config.kerberos.as_ref()?;
    let slot = Arc::new(TicketSlot::fixed(Arc::new(TokenTimes::new(0))));
    let mut recorder = Recorder { began, events, logon: None };
    let state = match exchange(config, identity, common, &slot, &mut recorder) {
        Ok(credential) => {
            recorder.note(What::Ticket { service: credential.service.to_string(), line: describe(&credential) });
            TicketState::Ready(Arc::new(credential))
        }
        Err(error) => {
            let fault: Fault = ticket_fault(&error, &identity.client);
            recorder.note(What::TicketFailed { error: fault.detail.to_string() });
            TicketState::Failed(fault)
        }
    };
    let logon = recorder.logon;
    slot.publish(state, now());
    Some(Got { slot, logon })
}

fn exchange(
    config: &Config,
    identity: &KerberosIdentity,
    common: &KerberosConfig,
    slot: &Arc<TicketSlot>,
    recorder: &mut Recorder<'_>,
) -> Result<Credential, TicketError> {
    let options = ExchangeOptions {
        etypes: common.etypes,
        lifetime: limits::KERBEROS_LIFETIME,
        renewable: limits::KERBEROS_RENEWABLE,
    };
    let (client, secret) = (identity.client.clone(), identity.secret.clone());
    let mut exchange = InitialExchange::new(client, secret, options, ClockSkew::default());
    let ticket_granting = log_on(&mut exchange, &common.realms, recorder)?;
    let spn = config.first_upstream().service();
    let canonicalize = spn.is_of_host && common.canonicalize;
    let service = Service { name: spn.name, realm: spn.realm, canonicalize, slot: Arc::clone(slot) };
    let (name, realm) = service.principal(&common.realms)?;
    get_ticket(ServiceExchange::new(ticket_granting, name, realm, options), &common.realms, recorder)
}

/// What is not secret of a ticket.
fn describe(credential: &Credential) -> String {
    let kvno = match credential.summary() {
        Ok(summary) => format!(
            "encrypted with etype {}, kvno {}, {} bytes",
            summary.etype,
            summary.kvno.map_or_else(|| "none".into(), |kvno| kvno.to_string()),
            summary.length
        ),
        Err(error) => error.to_string(),
    };
    let rest: Duration = credential.skew.undo(credential.end).since(now());
    let skew = match credential.skew.seconds() {
        0 => String::new(),
        seconds => format!("; the KDC's clock is {seconds} s ahead"),
    };
    format!(
        "for {}, until {} ({} min), {kvno}, session key {}{skew}",
        credential.client,
        credential.end,
        rest.as_secs() / 60,
        credential.session_etype()
    )
}

/// Records what is asked of KDCs, and allows one logon attempt.
struct Recorder<'a> {
    began: Instant,
    events: &'a mut Vec<Event>,
    logon: Option<Answer>,
}

impl Recorder<'_> {
    fn note(&mut self, what: What) {
        self.events.push(Event { at: self.began.elapsed(), what });
    }

    fn has_logged_on(&self) -> bool {
        self.events.iter().any(|event| matches!(event.what, What::LogonAttempt))
    }
}

impl Watch for Recorder<'_> {
    fn may_log_on(&mut self, _: &str, _: KeyVersion) -> Result<(), TicketError> {
        if self.has_logged_on() {
            let why = "a probe attempts one logon only".to_owned();
            return Err(TicketError::Held { why, retry_after: Duration::ZERO, is_refused: false });
        }
        self.note(What::LogonAttempt);
        Ok(())
    }

    fn logged_on(&mut self, outcome: LogonOutcome) {
        self.logon = Some(match outcome {
            LogonOutcome::Accepted => Answer::Status(200),
            LogonOutcome::Refused => Answer::Refused,
            LogonOutcome::Undecided => Answer::Nothing,
        });
    }

    fn asked(&mut self, realm: &str, kind: RequestKind, outcome: Result<(), &str>, since: Instant) {
        let name = format!("{} {realm}", kind.label());
        self.note(What::Kdc { name, error: outcome.err().map(str::to_owned), took: since.elapsed() });
    }
}
