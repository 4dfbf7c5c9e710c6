//! The side of a service: verifies AP-REQs with its keytab. The stub upstream and the tests use it.

use super::crypto::{Confounder, Key, KeyUsage};
use super::error::{CryptoError, DecodeError};
use super::gss::{self, TokenKind};
use super::keytab::Keytab;
use super::message::authenticator::{ApRequest, ReadAuthenticator, TicketPart, ap_rep};
use super::name::Principal;
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
    /// The ticket or the authenticator cannot be decrypted.
    #[error("the token cannot be decrypted: {0}")]
    Crypto(#[from] CryptoError),
    /// The keytab has no key for the ticket.
    #[error("there is no key for the ticket's service, etype and version")]
    NoKey,
    /// The ticket has expired, or is not valid yet.
    #[error("the ticket is not valid now")]
    Expired,
    /// The clocks differ too much.
    #[error("the clocks differ too much")]
    Skew,
    /// Ticket and authenticator name different clients.
    #[error("ticket and authenticator name different clients")]
    OtherClient,
    /// The checksum is not that of GSS-API.
    #[error("the authenticator has no checksum of GSS-API")]
    Checksum,
}

/// Verifies a GSS-API token at the time `now`. Replays are the caller's concern.
///
/// # Errors
/// [`AcceptError`] if the token does not authenticate a client.
pub fn accept(token: &[u8], keytab: &Keytab, now: Timestamp, confounder: &Confounder) -> Result<Accepted, AcceptError> {
    let (TokenKind::ApReq, message) = gss::read_token(token)? else { return Err(DecodeError::NoToken.into()) };
    let request = ApRequest::read(message)?;
    let (service, sealed) = request.ticket.parts()?;
    let is_key = |entry: &&super::keytab::KeytabEntry| {
        entry.principal.name.is_same(&service.name)
            && entry.principal.realm == service.realm
            && entry.key.etype().number() == sealed.etype
            && sealed.kvno.is_none_or(|kvno| kvno == i64::from(entry.kvno))
    };
    let entry = keytab.entries().iter().find(is_key).ok_or(AcceptError::NoKey)?;
    let plain = entry.key.decrypt(KeyUsage::TICKET, sealed.etype, sealed.cipher)?;
    let ticket = TicketPart::read(&plain)?;
    let session_key: Key = ticket.session_key.ok_or(AcceptError::NoKey)?;
    let sealed = request.authenticator;
    let plain = session_key.decrypt(KeyUsage::AP_REQ_AUTHENTICATOR, sealed.etype, sealed.cipher)?;
    let authenticator = ReadAuthenticator::read(&plain)?;
    if authenticator.client != ticket.client {
        return Err(AcceptError::OtherClient);
    }
    let skew = limits::KERBEROS_CLOCK_SKEW;
    if authenticator.time.plus(skew) < now || now.plus(skew) < authenticator.time {
        return Err(AcceptError::Skew);
    }
    if now.plus(skew) < ticket.start || ticket.end.plus(skew) < now {
        return Err(AcceptError::Expired);
    }
    let Some((gss::CHECKSUM_NUMBER, checksum)) = authenticator.checksum else { return Err(AcceptError::Checksum) };
    let (channel_bindings, _) = gss::read_checksum(&checksum)?;
    let reply = request
        .options
        .mutual
        .then(|| gss::token(TokenKind::ApRep, &ap_rep(&session_key, authenticator.time, confounder)));
    Ok(Accepted { client: ticket.client, time: authenticator.time, channel_bindings, end: ticket.end, reply })
}
