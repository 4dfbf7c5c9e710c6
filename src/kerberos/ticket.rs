//! A ticket with its session key, as its owner uses it: the token for the service, and the check of the answer.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::crypto::{Confounder, Etype, EtypeSet, Key, KeyUsage, UsageKey};
use super::error::DecodeError;
use super::gss::{self, TokenKind};
use super::message::authenticator::{ApOptions, ApReplyError, Authenticator, ap_req, verify_ap_rep};
use super::message::kdc_reply::{KdcReply, ReplyPart};
use super::message::{KrbError, Ticket, TicketSummary};
use super::name::Principal;
use super::time::Timestamp;

/// How far a KDC's clock is ahead of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockSkew {
    micros: i64,
}

impl ClockSkew {
    /// From both clocks, read at the same time.
    pub fn between(kdc: Timestamp, ours: Timestamp) -> ClockSkew {
        let micros = i128::from(kdc.micros()) - i128::from(ours.micros());
        ClockSkew { micros: i64::try_from(micros).unwrap_or_default() }
    }

    /// The KDC's time.
    pub fn apply(self, ours: Timestamp) -> Timestamp {
        Timestamp::from_micros(ours.micros().saturating_add_signed(self.micros))
    }

    /// Our time.
    pub fn undo(self, kdc: Timestamp) -> Timestamp {
        Timestamp::from_micros(kdc.micros().saturating_add_signed(self.micros.saturating_neg()))
    }

    /// In seconds, rounded towards zero.
    pub fn seconds(self) -> i64 {
        self.micros / 1_000_000
    }
}

/// A ticket with its session key. The key and the ticket are overwritten when their last owner drops them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// Whose ticket it is.
    pub client: Principal,
    /// The service that accepts it.
    pub service: Principal,
    /// From when on it is valid, by the KDC's clock.
    pub start: Timestamp,
    /// Until when it is valid, by the KDC's clock.
    pub end: Timestamp,
    /// Until when it can be renewed, by the KDC's clock.
    pub renew_till: Option<Timestamp>,
    /// The KDC's clock.
    pub skew: ClockSkew,
    pub(super) ticket: Ticket,
    pub(super) session_key: Key,
    pub(super) token_key: TokenKey,
}

/// What the session key has for tokens and their answers, derived once for the ticket. Deriving it takes about as long
/// as the rest of a token.
#[derive(Clone, Default)]
pub(super) struct TokenKey(Arc<Derived>);

#[derive(Default)]
struct Derived {
    /// For tokens.
    request: OnceLock<UsageKey>,
    /// For the service's own tokens.
    reply: OnceLock<UsageKey>,
}

impl TokenKey {
    fn request(&self, session_key: &Key) -> &UsageKey {
        self.0.request.get_or_init(|| session_key.for_usage(KeyUsage::AP_REQ_AUTHENTICATOR))
    }

    fn reply(&self, session_key: &Key) -> &UsageKey {
        self.0.reply.get_or_init(|| session_key.for_usage(KeyUsage::AP_REP))
    }
}

/// It follows from the session key.
impl PartialEq for TokenKey {
    fn eq(&self, _: &TokenKey) -> bool {
        true
    }
}

impl Eq for TokenKey {}

impl Credential {
    /// The ticket in a KDC's reply, of which `part` was encrypted. `None` if the etype of its session key is not
    /// allowed.
    pub(super) fn of_reply(
        reply: KdcReply<'_>,
        part: ReplyPart,
        allowed: EtypeSet,
        skew: ClockSkew,
    ) -> Option<Credential> {
        let session_key = part.session_key.filter(|key| allowed.contains(key.etype()))?;
        Some(Credential {
            client: reply.client,
            service: part.service,
            start: part.start,
            end: part.end,
            renew_till: part.renew_till,
            skew,
            ticket: reply.ticket,
            session_key,
            token_key: TokenKey::default(),
        })
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Credential({} for {} until {})", self.client, self.service, self.end)
    }
}

/// What a token needs that is new each time.
#[derive(Clone, Copy)]
pub struct ApInputs {
    /// By the KDC's clock. No other token with the same ticket may have the same time.
    pub time: Timestamp,
    /// Random.
    pub confounder: Confounder,
    /// Random; as much of it as the session key's etype needs becomes the subkey.
    pub subkey: [u8; 32],
    /// Random.
    pub sequence_number: u32,
    /// The MD5 hash of the connection's channel bindings, if its transport has any.
    pub channel_bindings: Option<[u8; 16]>,
}

/// A token that was made for a service.
#[derive(Debug)]
pub struct ServiceToken {
    /// The GSS-API token with the AP-REQ.
    pub bytes: Vec<u8>,
    /// Checks the service's answer.
    pub expected: ExpectedReply,
}

impl Credential {
    /// The token that authenticates the client to the service and asks the service to authenticate too.
    pub fn token(&self, inputs: &ApInputs) -> ServiceToken {
        let etype = self.session_key.etype();
        let subkey = Key::new(etype, &inputs.subkey[..etype.key_bytes()]);
        let checksum = gss::checksum(inputs.channel_bindings, gss::MUTUAL | gss::REPLAY);
        let authenticator = Authenticator {
            client: &self.client,
            checksum_kind: gss::CHECKSUM_NUMBER,
            checksum: &checksum,
            time: inputs.time,
            subkey: subkey.as_ref(),
            // Some services read it as a signed number.
            sequence_number: Some(inputs.sequence_number >> 2),
        };
        let sealed = authenticator.seal(self.token_key.request(&self.session_key), &inputs.confounder);
        let request = ap_req(ApOptions { mutual: true }, &self.ticket, etype, &sealed);
        let expected = ExpectedReply {
            session_key: self.session_key.clone(),
            token_key: self.token_key.clone(),
            time: inputs.time,
        };
        ServiceToken { bytes: gss::token(TokenKind::ApReq, &request), expected }
    }

    /// Whether it is valid at a time of our own clock.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.skew.apply(now) < self.end
    }

    /// The etype of its session key.
    pub fn session_etype(&self) -> Etype {
        self.session_key.etype()
    }

    /// What is not encrypted in the ticket.
    ///
    /// # Errors
    /// [`DecodeError`], which does not happen for a ticket that was read.
    pub fn summary(&self) -> Result<TicketSummary, DecodeError> {
        self.ticket.summary()
    }
}

/// What the service's answer to a token must be.
#[derive(Clone)]
pub struct ExpectedReply {
    session_key: Key,
    token_key: TokenKey,
    time: Timestamp,
}

impl fmt::Debug for ExpectedReply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ExpectedReply")
    }
}

/// Why a service's token does not authenticate it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceReplyError {
    /// It is no token of Kerberos.
    #[error("the service's token cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The AP-REP is wrong.
    #[error("{0}")]
    Reply(#[from] ApReplyError),
    /// The service has sent an error.
    #[error("the service rejects the ticket: {0}")]
    Error(KrbError),
}

impl ExpectedReply {
    /// Verifies the service's GSS-API token.
    ///
    /// # Errors
    /// [`ServiceReplyError`] if it does not authenticate the service.
    pub fn verify(&self, token: &[u8]) -> Result<(), ServiceReplyError> {
        match gss::read_token(token)? {
            (TokenKind::ApRep, message) => {
                Ok(verify_ap_rep(message, self.token_key.reply(&self.session_key), self.time)?)
            }
            (TokenKind::Error, message) => Err(ServiceReplyError::Error(KrbError::decode(message)?)),
            (TokenKind::ApReq, _) => Err(DecodeError::NoToken.into()),
        }
    }
}
