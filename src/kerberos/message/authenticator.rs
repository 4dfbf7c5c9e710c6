//! AP-REQ and AP-REP (RFC 4120 §5.5), and the Authenticator in the former.

use zeroize::Zeroizing;

use crate::kerberos::crypto::{Confounder, Etype, Key, KeyUsage, UsageKey};
use crate::kerberos::der::{Reader, SEQUENCE, Writer, application, context};
use crate::kerberos::error::{CryptoError, DecodeError};
use crate::kerberos::message::{EncryptedData, Ticket, read_key, write_encrypted, write_key};
use crate::kerberos::name::{Principal, PrincipalName};
use crate::kerberos::time::Timestamp;

const AP_REQ: u8 = 14;
const AP_REP: u8 = 15;
/// `mutual-required`, the first bit the highest.
const MUTUAL_REQUIRED: u32 = 1 << (31 - 2);

/// What an AP-REQ asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::kerberos) struct ApOptions {
    /// The service is to answer with an AP-REP.
    pub mutual: bool,
}

/// An Authenticator that is made.
pub(in crate::kerberos) struct Authenticator<'a> {
    pub client: &'a Principal,
    pub checksum_kind: i64,
    pub checksum: &'a [u8],
    /// ctime and cusec.
    pub time: Timestamp,
    pub subkey: Option<&'a Key>,
    pub sequence_number: Option<u32>,
}

impl Authenticator<'_> {
    /// Encrypted with what the session key has for this usage.
    pub(in crate::kerberos) fn seal(&self, key: &UsageKey, confounder: &Confounder) -> Vec<u8> {
        let names: usize = self.client.name.components().iter().map(|component| component.len() + 8).sum();
        let mut out = Writer::with_capacity(256 + names + self.client.realm.len() + self.checksum.len());
        out.element(application(2), |out| {
            out.element(SEQUENCE, |out| {
                out.integer(0, 5);
                out.string(1, &self.client.realm);
                out.element(context(2), |out| self.client.name.write(out));
                out.element(context(3), |out| {
                    out.element(SEQUENCE, |out| {
                        out.integer(0, self.checksum_kind);
                        out.octets(1, self.checksum);
                    });
                });
                out.integer(4, self.time.subsec_micros());
                out.time(5, self.time);
                if let Some(subkey) = self.subkey {
                    out.element(context(6), |out| write_key(out, subkey));
                }
                if let Some(number) = self.sequence_number {
                    out.integer(7, number);
                }
            });
        });
        key.encrypt(confounder, &out.into_secret())
    }
}

/// AP-REQ.
pub(in crate::kerberos) fn ap_req(options: ApOptions, ticket: &Ticket, etype: Etype, sealed: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(ticket.as_bytes().len() + sealed.len() + 128);
    out.element(application(AP_REQ), |out| {
        out.element(SEQUENCE, |out| {
            out.integer(0, 5);
            out.integer(1, AP_REQ);
            out.flags(2, if options.mutual { MUTUAL_REQUIRED } else { 0 });
            out.element(context(3), |out| out.raw(ticket.as_bytes()));
            out.element(context(4), |out| write_encrypted(out, etype, sealed));
        });
    });
    out.into_bytes()
}

/// What can be read of an AP-REQ without a key.
pub(in crate::kerberos) struct ApRequest<'a> {
    pub options: ApOptions,
    pub ticket: Ticket,
    pub authenticator: EncryptedData<'a>,
}

impl<'a> ApRequest<'a> {
    pub(in crate::kerberos) fn read(bytes: &'a [u8]) -> Result<ApRequest<'a>, DecodeError> {
        let mut request = enter(bytes, AP_REQ)?;
        let mutual = request.flags(2)? & MUTUAL_REQUIRED != 0;
        let ticket = Ticket::read(&mut request.enter(context(3))?)?;
        let authenticator = EncryptedData::read(request.enter(context(4))?)?;
        Ok(ApRequest { options: ApOptions { mutual }, ticket, authenticator })
    }
}

/// An Authenticator that was received.
#[derive(Debug)]
pub(in crate::kerberos) struct ReadAuthenticator {
    pub client: Principal,
    pub checksum: Option<(i64, Vec<u8>)>,
    pub time: Timestamp,
    /// `None` also if its etype is not implemented.
    pub subkey: Option<Key>,
}

impl ReadAuthenticator {
    pub(in crate::kerberos) fn read(plain: &[u8]) -> Result<ReadAuthenticator, DecodeError> {
        let mut part = Reader::new(plain).enter(application(2))?.enter(SEQUENCE)?;
        part.integer(0)?;
        let realm = part.string(1)?.to_owned();
        let name = PrincipalName::read(part.enter(context(2))?)?;
        let checksum = match part.enter_optional(context(3))? {
            Some(mut field) => {
                let mut checksum = field.enter(SEQUENCE)?;
                Some((checksum.integer(0)?, checksum.octets(1)?.to_vec()))
            }
            None => None,
        };
        let micros = part.integer(4)?;
        let time = with_micros(part.time(5)?, micros)?;
        let subkey = match part.enter_optional(context(6))? {
            Some(field) => read_key(field)?,
            None => None,
        };
        Ok(ReadAuthenticator { client: Principal { name, realm }, checksum, time, subkey })
    }
}

/// AP-REP for an AP-REQ whose authenticator has this time.
pub(in crate::kerberos) fn ap_rep(session_key: &Key, time: Timestamp, confounder: &Confounder) -> Vec<u8> {
    let mut plain = Writer::with_capacity(64);
    plain.element(application(27), |out| {
        out.element(SEQUENCE, |out| {
            out.time(0, time);
            out.integer(1, time.subsec_micros());
        });
    });
    let cipher = session_key.encrypt(KeyUsage::AP_REP, confounder, &plain.into_secret());
    let mut out = Writer::with_capacity(cipher.len() + 64);
    out.element(application(AP_REP), |out| {
        out.element(SEQUENCE, |out| {
            out.integer(0, 5);
            out.integer(1, AP_REP);
            out.element(context(2), |out| write_encrypted(out, session_key.etype(), &cipher));
        });
    });
    out.into_bytes()
}

/// Why an AP-REP does not authenticate the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApReplyError {
    /// It cannot be read.
    #[error("the AP-REP cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// It was not encrypted with the session key.
    #[error("the AP-REP cannot be decrypted: {0}")]
    Crypto(#[from] CryptoError),
    /// It answers another AP-REQ.
    #[error("the AP-REP answers another AP-REQ")]
    OtherRequest,
}

/// What is encrypted in an AP-REP.
pub(in crate::kerberos) fn read_ap_rep(bytes: &[u8]) -> Result<EncryptedData<'_>, DecodeError> {
    EncryptedData::read(enter(bytes, AP_REP)?.enter(context(2))?)
}

/// Verifies that an AP-REP answers the AP-REQ whose authenticator had this time.
pub(in crate::kerberos) fn verify_ap_rep(bytes: &[u8], key: &UsageKey, time: Timestamp) -> Result<(), ApReplyError> {
    let encrypted = read_ap_rep(bytes)?;
    let plain: Zeroizing<Vec<u8>> = key.decrypt(encrypted.etype, encrypted.cipher)?;
    let mut part = Reader::new(&plain).enter(application(27))?.enter(SEQUENCE)?;
    let seconds = part.time(0)?;
    match with_micros(seconds, part.integer(1)?)? == time {
        true => Ok(()),
        false => Err(ApReplyError::OtherRequest),
    }
}

/// Enters a message of this type, behind its version and type.
fn enter(bytes: &[u8], kind: u8) -> Result<Reader<'_>, DecodeError> {
    let mut message = Reader::new(bytes).enter(application(kind))?.enter(SEQUENCE)?;
    message.integer(0)?;
    let got = message.integer(1)?;
    match got == i64::from(kind) {
        true => Ok(message),
        false => Err(DecodeError::MessageType { expected: kind, got }),
    }
}

fn with_micros(seconds: Timestamp, micros: i64) -> Result<Timestamp, DecodeError> {
    let micros = u32::try_from(micros).ok().filter(|micros| *micros < 1_000_000).ok_or(DecodeError::Integer)?;
    Ok(seconds.with_subsec_micros(micros))
}
