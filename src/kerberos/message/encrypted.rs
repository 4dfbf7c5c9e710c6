//! EncryptedData, EncryptionKey (RFC 4120 §5.2.9) and Ticket (§5.3).

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::kerberos::crypto::{Etype, Key};
use crate::kerberos::der::{Reader, SEQUENCE, Writer, application, context};
use crate::kerberos::error::DecodeError;
use crate::kerberos::name::{Principal, PrincipalName};
use crate::limits;

/// EncryptedData.
#[derive(Clone, Copy, Debug)]
pub(in crate::kerberos) struct EncryptedData<'a> {
    pub etype: i64,
    /// The version of the key.
    pub kvno: Option<i64>,
    pub cipher: &'a [u8],
}

impl<'a> EncryptedData<'a> {
    /// Reads the content of a `[number] EncryptedData`.
    pub(in crate::kerberos) fn read(mut field: Reader<'a>) -> Result<EncryptedData<'a>, DecodeError> {
        let mut data = field.enter(SEQUENCE)?;
        Ok(EncryptedData { etype: data.integer(0)?, kvno: data.optional_integer(1)?, cipher: data.octets(2)? })
    }
}

/// Writes an EncryptedData without a version of the key.
pub(in crate::kerberos) fn write_encrypted(out: &mut Writer, etype: Etype, cipher: &[u8]) {
    write_encrypted_with(out, etype, None, cipher);
}

/// Writes an EncryptedData, with the version of a long-term key.
pub(in crate::kerberos) fn write_encrypted_with(out: &mut Writer, etype: Etype, kvno: Option<u32>, cipher: &[u8]) {
    out.element(SEQUENCE, |out| {
        out.integer(0, etype.number());
        if let Some(kvno) = kvno {
            out.integer(1, kvno);
        }
        out.octets(2, cipher);
    });
}

/// Reads the content of a `[number] EncryptionKey`; `None` if its etype is not implemented.
pub(in crate::kerberos) fn read_key(mut field: Reader<'_>) -> Result<Option<Key>, DecodeError> {
    let mut key = field.enter(SEQUENCE)?;
    let (etype, bytes) = (key.integer(0)?, key.octets(1)?);
    let Some(etype) = Etype::of_number(etype) else { return Ok(None) };
    Key::new(etype, bytes).map(Some).ok_or(DecodeError::Length)
}

pub(in crate::kerberos) fn write_key(out: &mut Writer, key: &Key) {
    out.element(SEQUENCE, |out| {
        out.integer(0, key.etype().number());
        out.octets(1, key.bytes());
    });
}

/// A ticket as the KDC encoded it. It is overwritten when its last owner drops it; no `Debug` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket(Arc<Zeroizing<Vec<u8>>>);

/// What can be read of a ticket without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketSummary {
    /// The service and its realm.
    pub service: Principal,
    /// The number of the etype of the service's key.
    pub etype: i64,
    /// The version of the service's key.
    pub kvno: Option<i64>,
    /// The length of the ticket in bytes.
    pub length: usize,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Ticket({} bytes)", self.0.len())
    }
}

impl Ticket {
    /// Reads the ticket at the beginning of `field`.
    pub(in crate::kerberos) fn read(field: &mut Reader<'_>) -> Result<Ticket, DecodeError> {
        let whole = field.encoding(application(1))?;
        if whole.len() > limits::KERBEROS_TICKET_BYTES {
            return Err(DecodeError::TooMuch { what: "bytes of a ticket" });
        }
        let ticket = Ticket(Arc::new(Zeroizing::new(whole.to_vec())));
        ticket.summary()?;
        Ok(ticket)
    }

    /// Its DER.
    pub(in crate::kerberos) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads what is not encrypted.
    pub(in crate::kerberos) fn summary(&self) -> Result<TicketSummary, DecodeError> {
        let (service, encrypted) = self.parts()?;
        Ok(TicketSummary { service, etype: encrypted.etype, kvno: encrypted.kvno, length: self.0.len() })
    }

    /// The service, and what only the service can read.
    pub(in crate::kerberos) fn parts(&self) -> Result<(Principal, EncryptedData<'_>), DecodeError> {
        let mut ticket = Reader::new(&self.0).enter(application(1))?.enter(SEQUENCE)?;
        ticket.integer(0)?;
        let realm = ticket.string(1)?.to_owned();
        let name = PrincipalName::read(ticket.enter(context(2))?)?;
        Ok((Principal { name, realm }, EncryptedData::read(ticket.enter(context(3))?)?))
    }

    /// A ticket as a KDC makes it.
    pub(in crate::kerberos) fn new(service: &Principal, etype: Etype, kvno: u32, cipher: &[u8]) -> Ticket {
        let mut out = Writer::with_capacity(cipher.len() + 256);
        out.element(application(1), |out| {
            out.element(SEQUENCE, |out| {
                out.integer(0, 5);
                out.string(1, &service.realm);
                out.element(context(2), |out| service.name.write(out));
                out.element(context(3), |out| write_encrypted_with(out, etype, Some(kvno), cipher));
            });
        });
        Ticket(Arc::new(out.into_secret()))
    }
}
