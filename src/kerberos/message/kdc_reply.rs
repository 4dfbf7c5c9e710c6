//! AS-REP and TGS-REP (RFC 4120 §5.4.2).

use crate::kerberos::crypto::Key;
use crate::kerberos::der::{Reader, SEQUENCE, application, context};
use crate::kerberos::error::DecodeError;
use crate::kerberos::message::pa_data::{PaData, read_pa_data};
use crate::kerberos::message::{EncryptedData, Ticket, read_key};
use crate::kerberos::name::{Principal, PrincipalName};
use crate::kerberos::time::Timestamp;

/// The type of AS-REP, and the number of its tag.
pub(in crate::kerberos) const AS_REP: u8 = 11;
/// The type of TGS-REP, and the number of its tag.
pub(in crate::kerberos) const TGS_REP: u8 = 13;

/// What can be read of a KDC-REP without a key.
#[derive(Debug)]
pub(in crate::kerberos) struct KdcReply<'a> {
    pub pa_data: Vec<PaData>,
    pub client: Principal,
    pub ticket: Ticket,
    pub encrypted: EncryptedData<'a>,
}

impl<'a> KdcReply<'a> {
    /// Reads a message of type `kind`.
    pub(in crate::kerberos) fn read(bytes: &'a [u8], kind: u8) -> Result<KdcReply<'a>, DecodeError> {
        let mut reply = Reader::new(bytes).enter(application(kind))?.enter(SEQUENCE)?;
        reply.integer(0)?;
        let got = reply.integer(1)?;
        if got != i64::from(kind) {
            return Err(DecodeError::MessageType { expected: kind, got });
        }
        let pa_data = match reply.enter_optional(context(2))? {
            Some(field) => read_pa_data(field)?,
            None => Vec::new(),
        };
        let realm = reply.string(3)?.to_owned();
        let name = PrincipalName::read(reply.enter(context(4))?)?;
        let ticket = Ticket::read(&mut reply.enter(context(5))?)?;
        let encrypted = EncryptedData::read(reply.enter(context(6))?)?;
        Ok(KdcReply { pa_data, client: Principal { name, realm }, ticket, encrypted })
    }
}

/// EncKDCRepPart.
#[derive(Debug)]
pub(in crate::kerberos) struct ReplyPart {
    /// `None` if its etype is not implemented.
    pub session_key: Option<Key>,
    pub nonce: i64,
    pub start: Timestamp,
    pub end: Timestamp,
    pub renew_till: Option<Timestamp>,
    pub service: Principal,
}

impl ReplyPart {
    pub(in crate::kerberos) fn read(plain: &[u8]) -> Result<ReplyPart, DecodeError> {
        let mut reader = Reader::new(plain);
        // An AS-REP may contain the part of a TGS-REP (RFC 4120 §5.4.2).
        let part = match reader.enter_optional(application(25))? {
            Some(part) => Some(part),
            None => reader.enter_optional(application(26))?,
        };
        let mut part = part.ok_or(DecodeError::Missing { tag: application(25) })?.enter(SEQUENCE)?;
        let session_key = read_key(part.enter(context(0))?)?;
        part.skip(1)?;
        let nonce = part.integer(2)?;
        part.skip(3)?;
        part.skip(4)?;
        let authenticated = part.time(5)?;
        let start = part.optional_time(6)?.unwrap_or(authenticated);
        let end = part.time(7)?;
        let renew_till = part.optional_time(8)?;
        let realm = part.string(9)?.to_owned();
        let name = PrincipalName::read(part.enter(context(10))?)?;
        Ok(ReplyPart { session_key, nonce, start, end, renew_till, service: Principal { name, realm } })
    }
}
