//! The TGS exchange: a ticket for a service, through the realms that lead there, or the renewal of a ticket-granting
//! ticket.

use super::{ExchangeError, ExchangeInputs, ExchangeOptions, KdcRequest, RequestKind, Step};
use crate::kerberos::crypto::KeyUsage;
use crate::kerberos::message::kdc_reply::{KdcReply, ReplyPart, TGS_REP};
use crate::kerberos::message::kdc_request::{RequestBody, options, tgs_req};
use crate::kerberos::message::{ErrorCode, KrbError};
use crate::kerberos::name::PrincipalName;
use crate::kerberos::ticket::{ClockSkew, Credential};
use crate::limits;

/// An exchange that ends with a ticket for a service, or with a renewed one.
#[derive(Clone, Debug)]
pub struct ServiceExchange {
    /// For the KDC that is asked.
    ticket_granting: Credential,
    goal: Goal,
    options: ExchangeOptions,
    /// The name that was asked for last.
    asked: PrincipalName,
    nonce: u32,
    is_skew_corrected: bool,
    /// The realms whose KDCs have been asked.
    realms: Vec<String>,
}

#[derive(Clone, Debug)]
enum Goal {
    Service {
        name: PrincipalName,
        /// Where it is, if that is known.
        realm: Option<String>,
    },
    Renewal,
}

impl ServiceExchange {
    /// For a service, beginning at the KDC that a ticket-granting ticket is for. `realm` is the service's realm if the
    /// configuration says so; otherwise the KDCs find it.
    pub fn new(
        ticket_granting: Credential,
        service: PrincipalName,
        realm: Option<String>,
        options: ExchangeOptions,
    ) -> ServiceExchange {
        ServiceExchange::with_goal(ticket_granting, Goal::Service { name: service, realm }, options)
    }

    /// For the renewal of a ticket-granting ticket.
    pub fn renewal(ticket_granting: Credential, options: ExchangeOptions) -> ServiceExchange {
        ServiceExchange::with_goal(ticket_granting, Goal::Renewal, options)
    }

    fn with_goal(ticket_granting: Credential, goal: Goal, options: ExchangeOptions) -> ServiceExchange {
        ServiceExchange {
            realms: vec![kdc_realm(&ticket_granting).to_owned()],
            asked: ticket_granting.service.name.clone(),
            ticket_granting,
            goal,
            options,
            nonce: 0,
            is_skew_corrected: false,
        }
    }

    /// The first request, or the same again with the present time.
    pub fn start(&mut self, inputs: &ExchangeInputs) -> KdcRequest {
        self.nonce = inputs.positive_nonce();
        let realm = kdc_realm(&self.ticket_granting).to_owned();
        let now = self.ticket_granting.skew.apply(inputs.now);
        let till = now.plus(self.options.lifetime);
        let (kind, flags, renew_till) = match &self.goal {
            Goal::Renewal => {
                (RequestKind::Renewal, options::RENEWABLE | options::RENEW, self.ticket_granting.renew_till)
            }
            Goal::Service { .. } => (RequestKind::Service, options::CANONICALIZE, None),
        };
        self.asked = match &self.goal {
            Goal::Renewal => self.ticket_granting.service.name.clone(),
            Goal::Service { realm: Some(target), .. } if *target != realm => PrincipalName::ticket_granting(target),
            Goal::Service { name, .. } => name.clone(),
        };
        let body = RequestBody {
            options: flags,
            client: None,
            realm: &realm,
            service: &self.asked,
            till,
            renew_till,
            nonce: self.nonce,
            etypes: self.options.etypes,
        };
        let Credential { client, ticket, session_key, .. } = &self.ticket_granting;
        let bytes = tgs_req(&body, client, ticket, session_key, now, &inputs.confounder);
        KdcRequest { realm, bytes, kind }
    }

    /// Takes the KDC's reply to the last request.
    ///
    /// # Errors
    /// Why there will be no ticket.
    pub fn receive(&mut self, reply: &[u8], inputs: &ExchangeInputs) -> Result<Step, ExchangeError> {
        let realm = kdc_realm(&self.ticket_granting).to_owned();
        if let Ok(error) = KrbError::decode(reply) {
            if error.code == ErrorCode::KRB_AP_ERR_SKEW && !self.is_skew_corrected {
                self.is_skew_corrected = true;
                self.ticket_granting.skew = ClockSkew::between(error.server_time, inputs.now);
                return Ok(Step::Send(self.start(inputs)));
            }
            let request = match self.goal {
                Goal::Renewal => "the renewal of a ticket".to_owned(),
                Goal::Service { .. } => format!("the request for {}", self.asked),
            };
            return Err(ExchangeError::Kdc { realm, request, error: error.into() });
        }
        let credential = self.read(reply, &realm)?;
        let referral = credential.service.name.ticket_granting_realm().map(str::to_owned);
        match (&self.goal, referral) {
            (Goal::Service { name, .. }, Some(to)) if !is_same_service(name, &credential.service.name) => {
                if self.realms.contains(&to) || self.realms.len() >= limits::KERBEROS_REFERRALS {
                    return Err(ExchangeError::Referrals { realm, to });
                }
                self.realms.push(to);
                self.ticket_granting = credential;
                Ok(Step::Send(self.start(inputs)))
            }
            _ => Ok(Step::Done(credential)),
        }
    }

    fn read(&self, reply: &[u8], realm: &str) -> Result<Credential, ExchangeError> {
        let malformed = |error| ExchangeError::Malformed { realm: realm.to_owned(), error };
        let mismatch = |what| Err(ExchangeError::Mismatch { realm: realm.to_owned(), what });
        let reply = KdcReply::read(reply, TGS_REP).map_err(malformed)?;
        let session_key = &self.ticket_granting.session_key;
        let plain = session_key
            .decrypt(KeyUsage::TGS_REP, reply.encrypted.etype, reply.encrypted.cipher)
            .map_err(|error| ExchangeError::Key { realm: realm.to_owned(), error })?;
        let part = ReplyPart::read(&plain).map_err(malformed)?;
        if part.nonce != i64::from(self.nonce) {
            return mismatch("the nonce");
        }
        if reply.client != self.ticket_granting.client {
            return mismatch("the client");
        }
        let is_referral = matches!(self.goal, Goal::Service { .. })
            && part.service.name.ticket_granting_realm().is_some_and(|to| to != realm);
        if part.service.realm != realm || !(is_referral || is_same_service(&self.asked, &part.service.name)) {
            return mismatch("the service");
        }
        let credential = Credential::of_reply(reply, part, self.options.etypes, self.ticket_granting.skew);
        credential.map_or_else(|| mismatch("the etype of the session key"), Ok)
    }
}

/// The realm whose KDC accepts a ticket-granting ticket.
fn kdc_realm(ticket_granting: &Credential) -> &str {
    ticket_granting.service.name.ticket_granting_realm().unwrap_or(&ticket_granting.service.realm)
}

/// Whether both are the same service. Active Directory ignores the case of names, and may answer with its own.
fn is_same_service(one: &PrincipalName, other: &PrincipalName) -> bool {
    one.components().len() == other.components().len()
        && one.components().iter().zip(other.components()).all(|(one, other)| one.eq_ignore_ascii_case(other))
}
