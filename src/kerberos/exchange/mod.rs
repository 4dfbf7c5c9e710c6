//! Exchanges with a KDC: AS (RFC 4120 §3.1), TGS (§3.3), referrals to other realms (RFC 6806 §8), renewals. Sans-IO: an
//! exchange hands out a request, takes the reply, and hands out the next request or the result.
//!
//! ```text
//!   InitialExchange: AS-REQ ─▶ KDC_ERR_PREAUTH_REQUIRED ─▶ AS-REQ with a time stamp ─▶ AS-REP
//!   ServiceExchange: TGS-REQ ─▶ (TGS-REP with a ticket for another realm's KDC ─▶ TGS-REQ there ─▶ …) TGS-REP
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `initial` | a ticket-granting ticket, from a password or a keytab |
//! | `service` | a ticket for a service, or the renewal of a ticket-granting ticket |
//! | `delivery` | which KDC is asked, in which order and how |

mod delivery;
mod initial;
mod service;

use std::time::Duration;

use thiserror::Error;

use super::crypto::{Confounder, EtypeSet};
use super::error::{CryptoError, DecodeError};
use super::message::{ErrorCode, KrbError};
use super::ticket::Credential;
use super::time::Timestamp;

pub use delivery::{Delivery, DeliveryOptions, KdcPlace, Try};
pub use initial::{ClientSecret, InitialExchange, KeyVersion};
pub use service::ServiceExchange;

/// What all exchanges of a client have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeOptions {
    /// The etypes that may be used.
    pub etypes: EtypeSet,
    /// How long tickets are to be valid. The KDC grants less.
    pub lifetime: Duration,
    /// For how long ticket-granting tickets are to be renewable. The KDC may grant less.
    pub renewable: Duration,
}

/// What is new with each request.
#[derive(Clone, Copy)]
pub struct ExchangeInputs {
    /// Our own clock.
    pub now: Timestamp,
    /// Random.
    pub nonce: u32,
    /// Random.
    pub confounder: Confounder,
}

impl ExchangeInputs {
    /// Some KDCs read it as a signed number.
    fn positive_nonce(&self) -> u32 {
        self.nonce >> 1
    }
}

/// A request for a KDC.
#[derive(Debug)]
pub struct KdcRequest {
    /// The realm whose KDC is to be asked.
    pub realm: String,
    /// The message.
    pub bytes: Vec<u8>,
    /// What it is.
    pub kind: RequestKind,
}

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// AS-REQ without a key: it says who asks.
    Initial,
    /// AS-REQ with an encrypted time stamp: a logon attempt, which a KDC counts if the key is wrong. It goes to one KDC
    /// only, the one that has asked for it.
    Logon(KeyVersion),
    /// TGS-REQ for a service.
    Service,
    /// TGS-REQ for a renewal.
    Renewal,
}

impl RequestKind {
    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            RequestKind::Initial | RequestKind::Logon(_) => "as",
            RequestKind::Service => "tgs",
            RequestKind::Renewal => "renewal",
        }
    }
}

/// What follows a reply.
#[derive(Debug)]
pub enum Step {
    /// Another request is to be sent.
    Send(KdcRequest),
    /// The ticket.
    Done(Credential),
}

/// Why an exchange ended without a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExchangeError {
    /// The KDC's error.
    #[error("the KDC of {realm} answers {request}: {error}")]
    Kdc {
        /// The realm of the KDC that was asked.
        realm: String,
        /// Which request it answers: most errors are about the client or about the service.
        request: String,
        /// What it says.
        error: Box<KrbError>,
    },
    /// The reply is malformed.
    #[error("the reply of the KDC of {realm} cannot be read: {error}")]
    Malformed {
        /// The realm of the KDC that was asked.
        realm: String,
        /// What is wrong.
        error: DecodeError,
    },
    /// The reply was encrypted with another key than ours.
    #[error("the reply of the KDC of {realm} cannot be decrypted, so the password or key is wrong: {error}")]
    Key {
        /// The realm of the KDC that was asked.
        realm: String,
        /// What is wrong.
        error: CryptoError,
    },
    /// The reply answers something else.
    #[error("the reply of the KDC of {realm} does not fit the request: {what} differs")]
    Mismatch {
        /// The realm of the KDC that was asked.
        realm: String,
        /// What differs.
        what: &'static str,
    },
    /// The keytab has no key for the client.
    #[error("the keytab has no key for {client} of an etype that is allowed")]
    NoKey {
        /// The client.
        client: String,
    },
    /// The KDC accepts only keys of other etypes.
    #[error("the KDC of {realm} accepts only keys of etypes that are not allowed or not in the keytab: {offered}")]
    NoEtype {
        /// The realm of the KDC that was asked.
        realm: String,
        /// The numbers of the etypes that it accepts.
        offered: String,
    },
    /// Iterations of string-to-key out of bounds.
    #[error("the KDC of {realm} asks for {iterations} iterations of string-to-key, which is out of bounds")]
    Iterations {
        /// The realm of the KDC that was asked.
        realm: String,
        /// What it asks for.
        iterations: u32,
    },
    /// Referrals lead nowhere.
    #[error("the KDC of {realm} refers to {to}, which leads in a circle or too far")]
    Referrals {
        /// The realm of the KDC that was asked last.
        realm: String,
        /// The realm that it refers to.
        to: String,
    },
}

impl ExchangeError {
    /// The KDC's code, if it has sent an error.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ExchangeError::Kdc { error, .. } => Some(error.code),
            _ => None,
        }
    }

    /// Whether the KDC has refused the key: a failed logon.
    pub fn is_wrong_key(&self) -> bool {
        self.code().is_some_and(ErrorCode::is_failed_logon)
    }

    /// Whether the account is locked or disabled.
    pub fn is_revoked(&self) -> bool {
        self.code() == Some(ErrorCode::KDC_ERR_CLIENT_REVOKED)
    }

    /// Whether the ticket-granting ticket is of no more use, so that a new one may help.
    pub fn is_stale_ticket(&self) -> bool {
        let codes = [
            ErrorCode::KRB_AP_ERR_TKT_EXPIRED,
            ErrorCode::KRB_AP_ERR_TKT_NYV,
            ErrorCode::KRB_AP_ERR_BAD_INTEGRITY,
            ErrorCode::KRB_AP_ERR_BADKEYVER,
            ErrorCode::KRB_AP_ERR_MODIFIED,
            ErrorCode::KDC_ERR_TGT_REVOKED,
            ErrorCode::KRB_AP_ERR_BADMATCH,
        ];
        self.code().is_some_and(|code| codes.contains(&code))
    }

    /// Whether another try may end differently although nobody has changed the configuration.
    pub fn is_temporary(&self) -> bool {
        let codes = [ErrorCode::KDC_ERR_SVC_UNAVAILABLE, ErrorCode::KRB_ERR_GENERIC];
        self.is_stale_ticket() || self.code().is_some_and(|code| codes.contains(&code))
    }
}
