//! AS-REP and TGS-REP (RFC 4120 §5.4.2).

use crate::kerberos::crypto::{Confounder, Key, KeyUsage};
use crate::kerberos::der::{Reader, SEQUENCE, Writer, application, context};
use crate::kerberos::error::DecodeError;
use crate::kerberos::message::pa_data::{PaData, read_pa_data, write_pa_data};
use crate::kerberos::message::ticket_part::TicketPart;
use crate::kerberos::message::{EncryptedData, Ticket, read_key, write_encrypted_with, write_key};
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

/// A KDC-REP that a KDC sends.
pub(in crate::kerberos) struct IssuedReply<'a> {
    /// [`AS_REP`] or [`TGS_REP`].
    pub kind: u8,
    pub pa_data: &'a [PaData],
    /// What the ticket contains.
    pub part: &'a TicketPart,
    pub service: &'a Principal,
    pub ticket: &'a Ticket,
    pub nonce: i64,
    /// The key that encrypts the client's part, what it is used for, and its version if it is the client's own.
    pub reply_key: &'a Key,
    pub usage: KeyUsage,
    pub reply_kvno: Option<u32>,
}

impl IssuedReply<'_> {
    pub(in crate::kerberos) fn encode(&self, confounder: &Confounder) -> Vec<u8> {
        let cipher = self.reply_key.encrypt(self.usage, confounder, &self.client_part().into_secret());
        let mut out = Writer::with_capacity(1024 + self.ticket.as_bytes().len() + cipher.len());
        out.element(application(self.kind), |out| {
            out.element(SEQUENCE, |out| {
                out.integer(0, 5);
                out.integer(1, self.kind);
                if !self.pa_data.is_empty() {
                    out.element(context(2), |out| write_pa_data(out, self.pa_data));
                }
                out.string(3, &self.part.client.realm);
                out.element(context(4), |out| self.part.client.name.write(out));
                out.element(context(5), |out| out.raw(self.ticket.as_bytes()));
                out.element(context(6), |out| {
                    write_encrypted_with(out, self.reply_key.etype(), self.reply_kvno, &cipher);
                });
            });
        });
        out.into_bytes()
    }

    /// EncASRepPart or EncTGSRepPart.
    fn client_part(&self) -> Writer {
        let part = self.part;
        let mut out = Writer::with_capacity(2048);
        out.element(application(if self.kind == AS_REP { 25 } else { 26 }), |out| {
            out.element(SEQUENCE, |out| {
                out.element(context(0), |out| write_key(out, &part.session_key));
                // LastReq, which says nothing.
                out.element(context(1), |out| {
                    out.element(SEQUENCE, |out| {
                        out.element(SEQUENCE, |out| {
                            out.integer(0, 0);
                            out.time(1, part.authenticated);
                        });
                    });
                });
                out.integer(2, self.nonce);
                out.flags(4, part.flags);
                out.time(5, part.authenticated);
                out.time(6, part.start);
                out.time(7, part.end);
                if let Some(renew_till) = part.renew_till {
                    out.time(8, renew_till);
                }
                out.string(9, &self.service.realm);
                out.element(context(10), |out| self.service.name.write(out));
            });
        });
        out
    }
}
