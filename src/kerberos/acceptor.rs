//! The side of a service: verifies AP-REQs with its keytab. The stub upstream and the tests use it; a KDC verifies
//! TGS-REQs in the same way.

use super::crypto::{Confounder, Key, KeyUsage};
use super::error::{CryptoError, DecodeError};
use super::gss::{self, TokenKind};
use super::keytab::{Keytab, KeytabEntry};
use super::message::authenticator::{ApRequest, ReadAuthenticator, ap_rep};
use super::message::ticket_part::TicketPart;
use super::message::{EncryptedData, ErrorCode, ErrorReply};
use super::name::{Principal, PrincipalName};
use super::time::Timestamp;
use crate::limits;

/// A client whose token was verified.
#[derive(Debug)]
pub struct Accepted {
    /// Who it is.
    pub client: Principal,
    /// The time in its authenticator, by which replays are recognised.
    pub time: Timestamp,
    /// The MD5 hash of its channel bindings, or zeros.
    pub channel_bindings: [u8; 16],
    /// Until when its ticket is valid.
    pub end: Timestamp,
    /// The token that authenticates the service in turn, if the client asks for it.
    pub reply: Option<Vec<u8>>,
}

/// Why a token was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// It cannot be read.
    #[error("the token cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The keytab has no key of the service that the ticket is for.
    #[error("the ticket is for another service")]
    OtherService,
    /// The keytab has no key of the ticket's etype.
    #[error("there is no key of the ticket's etype")]
    NoKey,
    /// The keytab has only keys of other versions.
    #[error("there is no key of the ticket's version")]
    KeyVersion,
    /// The ticket cannot be decrypted.
    #[error("the ticket cannot be decrypted: {0}")]
    Ticket(CryptoError),
    /// The authenticator cannot be decrypted.
    #[error("the authenticator cannot be decrypted: {0}")]
    Authenticator(CryptoError),
    /// The ticket has expired.
    #[error("the ticket has expired")]
    Expired,
    /// The ticket is not valid yet.
    #[error("the ticket is not valid yet")]
    NotYetValid,
    /// The clocks differ too much.
    #[error("the clocks differ too much")]
    Skew,
    /// Ticket and authenticator name different clients.
    #[error("ticket and authenticator name different clients")]
    OtherClient,
    /// The checksum is not the one that is required.
    #[error("the authenticator does not have the required checksum")]
    Checksum,
    /// The same authenticator was received before.
    #[error("the token was received before")]
    Repeated,
}

impl AcceptError {
    /// The error code for the client.
    pub fn code(self) -> ErrorCode {
        match self {
            AcceptError::Decode(_) => ErrorCode::KRB_AP_ERR_MSG_TYPE,
            AcceptError::OtherService => ErrorCode::KRB_AP_ERR_NOT_US,
            AcceptError::NoKey => ErrorCode::KRB_AP_ERR_NOKEY,
            AcceptError::KeyVersion => ErrorCode::KRB_AP_ERR_BADKEYVER,
            AcceptError::Ticket(_) => ErrorCode::KRB_AP_ERR_MODIFIED,
            AcceptError::Authenticator(_) => ErrorCode::KRB_AP_ERR_BAD_INTEGRITY,
            AcceptError::Expired => ErrorCode::KRB_AP_ERR_TKT_EXPIRED,
            AcceptError::NotYetValid => ErrorCode::KRB_AP_ERR_TKT_NYV,
            AcceptError::Skew => ErrorCode::KRB_AP_ERR_SKEW,
            AcceptError::OtherClient => ErrorCode::KRB_AP_ERR_BADMATCH,
            AcceptError::Checksum => ErrorCode::KRB_AP_ERR_INAPP_CKSUM,
            AcceptError::Repeated => ErrorCode::KRB_AP_ERR_REPEAT,
        }
    }
}

/// Verifies a GSS-API token at the time `now`. Replays are the caller's concern; see [`super::ReplayCache`].
///
/// # Errors
/// [`AcceptError`] if the token does not authenticate a client.
pub fn accept(token: &[u8], keytab: &Keytab, now: Timestamp, confounder: &Confounder) -> Result<Accepted, AcceptError> {
    let (TokenKind::ApReq, message) = gss::read_token(token)? else { return Err(DecodeError::NoToken.into()) };
    let request = ApRequest::read(message)?;
    let key_of = |service: &Principal, sealed: &EncryptedData<'_>| key_of(keytab, service, sealed);
    let Opened { ticket, authenticator } = open(&request, KeyUsage::AP_REQ_AUTHENTICATOR, now, key_of)?;
    let Some((gss::CHECKSUM_NUMBER, checksum)) = authenticator.checksum else { return Err(AcceptError::Checksum) };
    let (channel_bindings, _) = gss::read_checksum(&checksum)?;
    let time = authenticator.time;
    let reply =
        request.options.mutual.then(|| gss::token(TokenKind::ApRep, &ap_rep(&ticket.session_key, time, confounder)));
    Ok(Accepted { client: ticket.client, time, channel_bindings, end: ticket.end, reply })
}

/// The GSS-API token with the KRB-ERROR that says why `token` was not accepted.
pub fn refusal(token: &[u8], error: AcceptError, now: Timestamp) -> Vec<u8> {
    let ticket = gss::read_token(token).and_then(|(_, message)| ApRequest::read(message)?.ticket.summary());
    // If the token names no service, the error has an empty service name.
    let nobody = || Principal { name: PrincipalName::of_service("", ""), realm: String::new() };
    let service = ticket.map_or_else(|_| nobody(), |ticket| ticket.service);
    gss::token(TokenKind::Error, &ErrorReply { code: error.code(), now, service: &service, data: &[] }.encode())
}

/// What an AP-REQ contains, once ticket and authenticator are decrypted.
pub(super) struct Opened {
    pub ticket: TicketPart,
    pub authenticator: ReadAuthenticator,
}

/// Decrypts an AP-REQ and verifies that its parts belong together and are valid now. The checksum is not looked at.
pub(super) fn open(
    request: &ApRequest<'_>,
    usage: KeyUsage,
    now: Timestamp,
    key_of: impl FnOnce(&Principal, &EncryptedData<'_>) -> Result<Key, AcceptError>,
) -> Result<Opened, AcceptError> {
    let (service, sealed) = request.ticket.parts()?;
    let plain = key_of(&service, &sealed)?
        .decrypt(KeyUsage::TICKET, sealed.etype, sealed.cipher)
        .map_err(AcceptError::Ticket)?;
    let ticket = TicketPart::read(&plain)?.ok_or(AcceptError::NoKey)?;
    let sealed = request.authenticator;
    let plain = ticket.session_key.decrypt(usage, sealed.etype, sealed.cipher).map_err(AcceptError::Authenticator)?;
    let authenticator = ReadAuthenticator::read(&plain)?;
    let is_same_name = authenticator.client.name.is_same(&ticket.client.name);
    if !is_same_name || authenticator.client.realm != ticket.client.realm {
        return Err(AcceptError::OtherClient);
    }
    let skew = limits::KERBEROS_CLOCK_SKEW;
    if authenticator.time.plus(skew) < now || now.plus(skew) < authenticator.time {
        return Err(AcceptError::Skew);
    }
    if now.plus(skew) < ticket.start {
        return Err(AcceptError::NotYetValid);
    }
    if ticket.end.plus(skew) < now {
        return Err(AcceptError::Expired);
    }
    Ok(Opened { ticket, authenticator })
}

/// The key of a keytab with which a ticket is encrypted.
fn key_of(keytab: &Keytab, service: &Principal, sealed: &EncryptedData<'_>) -> Result<Key, AcceptError> {
    let is_service =
        |entry: &&KeytabEntry| entry.principal.name.is_same(&service.name) && entry.principal.realm == service.realm;
    let has_etype = |entry: &&&KeytabEntry| entry.key.etype().number() == sealed.etype;
    let keys: Vec<&KeytabEntry> = keytab.entries().iter().filter(is_service).collect();
    if keys.is_empty() {
        return Err(AcceptError::OtherService);
    }
    let mut keys = keys.iter().filter(has_etype).peekable();
    keys.peek().ok_or(AcceptError::NoKey)?;
    let is_version = |entry: &&&KeytabEntry| sealed.kvno.is_none_or(|kvno| kvno == i64::from(entry.kvno));
    keys.find(is_version).map(|entry| entry.key.clone()).ok_or(AcceptError::KeyVersion)
}
