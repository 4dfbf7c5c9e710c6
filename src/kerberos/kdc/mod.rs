//! The side of a KDC for one realm, for the stub upstream and the tests: AS and TGS exchanges (RFC 4120 §3.1, §3.3).
//! Sans-IO: a request comes in, a reply goes out.
//!
//! Every account must pre-authenticate with an encrypted time stamp. There are no referrals, no postdated, forwarded or
//! proxy tickets, and no PAC.
//!
//! | file | subject |
//! |---|---|
//! | `principals` | accounts and services with their keys |
//! | `initial` | AS-REQ: a logon |
//! | `granting` | TGS-REQ: a ticket for a service, or a renewal |
//! | `grant` | how long a ticket is valid, and the reply with it |

mod grant;
mod granting;
mod initial;
mod principals;

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::acceptor::AcceptError;
use super::crypto::{Confounder, Etype};
use super::error::DecodeError;
use super::keytab::{Keytab, KeytabEntry};
use super::message::received_request::{AS_REQ, ReceivedBody, ReceivedRequest};
use super::message::{ErrorCode, ErrorReply};
use super::name::{NameError, Principal, PrincipalName};
use super::time::Timestamp;
use principals::{Account, Principals};

/// What a KDC grants.
#[derive(Clone, Debug)]
pub struct KdcPolicy {
    /// Its realm.
    pub realm: String,
    /// The etypes of its keys, the preferred one first.
    pub etypes: Vec<Etype>,
    /// The longest life of a ticket.
    pub lifetime: Duration,
    /// How long a ticket may be renewed at most.
    pub renewable: Duration,
    /// Bytes that every ticket contains in addition, as those of Active Directory contain group memberships.
    pub ticket_padding_bytes: usize,
}

/// What is new with each request.
#[derive(Clone, Copy)]
pub struct KdcInputs {
    /// The KDC's clock.
    pub now: Timestamp,
    /// Random; as much of it as the etype needs becomes the session key.
    pub session_key: [u8; 32],
    /// Random: for the ticket and for the reply.
    pub confounders: [Confounder; 2],
}

/// The answer to a request.
#[derive(Debug)]
pub struct KdcAnswer {
    /// The message.
    pub bytes: Vec<u8>,
    /// What it is.
    pub outcome: KdcOutcome,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KdcOutcome {
    /// An AS-REP.
    LoggedOn,
    /// A TGS-REP with a ticket for a service.
    Granted,
    /// A TGS-REP with a renewed ticket.
    Renewed,
    /// A KRB-ERROR.
    Denied(ErrorCode),
}

/// Why a request is answered with a KRB-ERROR.
#[derive(Debug)]
struct Denial {
    code: ErrorCode,
    /// METHOD-DATA, or empty.
    data: Vec<u8>,
}

impl From<ErrorCode> for Denial {
    fn from(code: ErrorCode) -> Denial {
        Denial { code, data: Vec::new() }
    }
}

impl From<AcceptError> for Denial {
    fn from(error: AcceptError) -> Denial {
        error.code().into()
    }
}

impl From<DecodeError> for Denial {
    fn from(_: DecodeError) -> Denial {
        ErrorCode::KRB_ERR_GENERIC.into()
    }
}

/// A KDC with its accounts and services.
#[derive(Debug)]
pub struct Kdc {
    policy: KdcPolicy,
    /// The ticket-granting service.
    service: Principal,
    principals: Principals,
}

impl Kdc {
    /// A KDC without accounts. `random` fills its arguments with random bytes.
    ///
    /// # Errors
    /// [`NameError`] if the realm's name is not allowed.
    pub fn new(policy: KdcPolicy, random: &mut dyn FnMut(&mut [u8])) -> Result<Kdc, NameError> {
        // Checks the realm.
        let Principal { realm, .. } = Principal::parse("krbtgt", Some(&policy.realm))?;
        let service = Principal { name: PrincipalName::ticket_granting(&realm), realm };
        let mut principals = Principals::default();
        principals.put(Account::with_random_keys(service.name.clone(), &policy.etypes, random));
        Ok(Kdc { policy, service, principals })
    }

    /// The realm.
    pub fn realm(&self) -> &str {
        &self.service.realm
    }

    /// Adds an account, or changes its password. The key gets the next version.
    ///
    /// # Errors
    /// [`NameError`] if the name is not allowed.
    pub fn set_password(&mut self, account: &str, password: &str) -> Result<(), NameError> {
        let principal = Principal::parse(account, Some(self.realm()))?;
        self.principals.put(Account::with_password(&principal, password));
        Ok(())
    }

    /// Adds a service, or gives it new keys of the next version.
    ///
    /// # Errors
    /// [`NameError`] if the name is not allowed.
    pub fn set_random_keys(&mut self, service: &str, random: &mut dyn FnMut(&mut [u8])) -> Result<(), NameError> {
        let principal = Principal::parse(service, Some(self.realm()))?;
        self.principals.put(Account::with_random_keys(principal.name, &self.policy.etypes, random));
        Ok(())
    }

    /// Locks an account, or unlocks it.
    ///
    /// # Errors
    /// [`NameError`] if the name is not allowed.
    pub fn set_revoked(&mut self, account: &str, is_revoked: bool) -> Result<(), NameError> {
        let principal = Principal::parse(account, Some(self.realm()))?;
        if let Some(account) = self.principals.find(&principal.name) {
            account.is_revoked = is_revoked;
        }
        Ok(())
    }

    /// The keys of the services that [`Kdc::set_random_keys`] has added.
    pub fn keytab(&self) -> Keytab {
        let services = self.principals.services().filter(|account| !account.name.is_same(&self.service.name));
        let entries = services.flat_map(|account| {
            account.random_keys().iter().map(|key| KeytabEntry {
                principal: Principal { name: account.name.clone(), realm: self.realm().to_owned() },
                kvno: account.kvno,
                written: Timestamp::default(),
                key: key.clone(),
            })
        });
        Keytab::new(entries.collect())
    }

    /// Answers a request. `None` if it is no request to a KDC.
    pub fn answer(&mut self, request: &[u8], inputs: &KdcInputs) -> Option<KdcAnswer> {
        let request = ReceivedRequest::read(request).ok()?;
        let answered = match request.kind {
            AS_REQ => self.log_on(&request, inputs),
            _ => self.grant(&request, inputs),
        };
        Some(answered.unwrap_or_else(|denial| KdcAnswer {
            bytes: self.error(denial.code, &denial.data, inputs.now),
            outcome: KdcOutcome::Denied(denial.code),
        }))
    }

    /// The answer by UDP that makes the client ask by TCP.
    pub fn too_long_for_udp(&self, now: Timestamp) -> Vec<u8> {
        self.error(ErrorCode::KRB_ERR_RESPONSE_TOO_BIG, &[], now)
    }

    fn error(&self, code: ErrorCode, data: &[u8], now: Timestamp) -> Vec<u8> {
        ErrorReply { code, now, service: &self.service, data }.encode()
    }

    /// The etypes that client and KDC have in common, in the order of the client.
    fn common_etypes(&self, body: &ReceivedBody) -> Result<Vec<Etype>, Denial> {
        let known = body.etypes.iter().filter_map(|number| Etype::of_number(*number));
        let common: Vec<Etype> = known.filter(|etype| self.policy.etypes.contains(etype)).collect();
        match common.is_empty() {
            true => Err(ErrorCode::KDC_ERR_ETYPE_NOSUPP.into()),
            false => Ok(common),
        }
    }

    fn is_own_realm(&self, realm: &str) -> bool {
        realm.eq_ignore_ascii_case(self.realm())
    }
}
