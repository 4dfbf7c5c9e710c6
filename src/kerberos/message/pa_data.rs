//! Pre-authentication (RFC 4120 §5.2.7): what the KDC says about keys, and the encrypted time stamp.

use crate::kerberos::crypto::{Confounder, Etype, Key, KeyUsage};
use crate::kerberos::der::{GENERAL_STRING, OCTET_STRING, Reader, SEQUENCE, Writer, context};
use crate::kerberos::error::DecodeError;
use crate::kerberos::message::write_encrypted;
use crate::kerberos::time::Timestamp;
use crate::limits;

pub(in crate::kerberos) const PA_TGS_REQ: i64 = 1;
pub(in crate::kerberos) const PA_ENC_TIMESTAMP: i64 = 2;
pub(in crate::kerberos) const PA_ETYPE_INFO2: i64 = 19;
/// PA-FX-COOKIE (RFC 6113 §5.2): what a KDC wants to have back.
pub(in crate::kerberos) const PA_FX_COOKIE: i64 = 133;

/// One PA-DATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kerberos) struct PaData {
    pub kind: i64,
    pub value: Vec<u8>,
}

impl PaData {
    pub(in crate::kerberos) fn write(&self, out: &mut Writer) {
        out.element(SEQUENCE, |out| {
            out.integer(1, self.kind);
            out.octets(2, &self.value);
        });
    }
}

/// Writes METHOD-DATA.
pub(in crate::kerberos) fn write_pa_data(out: &mut Writer, all: &[PaData]) {
    out.element(SEQUENCE, |out| all.iter().for_each(|one| one.write(out)));
}

/// Reads METHOD-DATA: a sequence of PA-DATA.
pub(in crate::kerberos) fn read_pa_data(mut field: Reader<'_>) -> Result<Vec<PaData>, DecodeError> {
    let mut list = field.enter(SEQUENCE)?;
    let mut all = Vec::new();
    while !list.is_empty() {
        if all.len() == limits::KERBEROS_LIST_ENTRIES {
            return Err(DecodeError::TooMuch { what: "kinds of pre-authentication" });
        }
        let mut one = list.enter(SEQUENCE)?;
        let kind = one.integer(1)?;
        all.push(PaData { kind, value: one.octets(2)?.to_vec() });
    }
    Ok(all)
}

/// How a password becomes the key of an etype, as the KDC says it (ETYPE-INFO2-ENTRY).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kerberos) struct EtypeInfo {
    pub etype: i64,
    /// `None`: the default salt.
    pub salt: Option<Vec<u8>>,
    /// `None`: the etype's default.
    pub iterations: Option<u32>,
}

impl EtypeInfo {
    /// Reads an ETYPE-INFO2. Entries of unknown etypes are kept, entries with unknown parameters are left out.
    pub(in crate::kerberos) fn read_all(bytes: &[u8]) -> Result<Vec<EtypeInfo>, DecodeError> {
        let mut list = Reader::new(bytes).enter(SEQUENCE)?;
        let mut all = Vec::new();
        while !list.is_empty() {
            if all.len() == limits::KERBEROS_LIST_ENTRIES {
                return Err(DecodeError::TooMuch { what: "etypes" });
            }
            let mut entry = list.enter(SEQUENCE)?;
            let etype = entry.integer(0)?;
            let salt = match entry.enter_optional(context(1))? {
                Some(mut field) => Some(field.element(GENERAL_STRING)?),
                None => None,
            };
            let parameters = match entry.enter_optional(context(2))? {
                Some(mut field) => Some(field.element(OCTET_STRING)?),
                None => None,
            };
            if salt.is_some_and(|salt| salt.len() > limits::KERBEROS_SALT_BYTES) {
                return Err(DecodeError::TooMuch { what: "bytes of a salt" });
            }
            let iterations = match parameters {
                None => None,
                Some(parameters) => match <[u8; 4]>::try_from(parameters) {
                    Ok(number) => Some(u32::from_be_bytes(number)),
                    Err(_) => continue,
                },
            };
            all.push(EtypeInfo { etype, salt: salt.map(<[u8]>::to_vec), iterations });
        }
        Ok(all)
    }

    /// Writes ETYPE-INFO2.
    pub(in crate::kerberos) fn write_all(all: &[EtypeInfo]) -> Vec<u8> {
        let mut out = Writer::with_capacity(256);
        out.element(SEQUENCE, |out| {
            for info in all {
                out.element(SEQUENCE, |out| {
                    out.integer(0, info.etype);
                    if let Some(salt) = &info.salt {
                        out.element(context(1), |out| out.bytes(GENERAL_STRING, salt));
                    }
                    if let Some(iterations) = info.iterations {
                        out.octets(2, &iterations.to_be_bytes());
                    }
                });
            }
        });
        out.into_bytes()
    }

    /// The iterations of string-to-key; `None` if the KDC names more or fewer than are allowed. Zero stands for 2^32.
    pub(in crate::kerberos) fn allowed_iterations(&self, etype: Etype) -> Option<u32> {
        let iterations = self.iterations.unwrap_or(etype.default_iterations());
        let is_allowed = etype == Etype::Rc4 || limits::KERBEROS_ITERATIONS.contains(&iterations);
        is_allowed.then_some(iterations)
    }
}

/// PA-ENC-TIMESTAMP: shows that the client has the key.
pub(in crate::kerberos) fn encrypted_timestamp(key: &Key, confounder: &Confounder, now: Timestamp) -> PaData {
    let mut plain = Writer::with_capacity(64);
    plain.element(SEQUENCE, |out| {
        out.time(0, now);
        out.integer(1, now.subsec_micros());
    });
    let cipher = key.encrypt(KeyUsage::PA_ENC_TIMESTAMP, confounder, &plain.into_secret());
    let mut out = Writer::with_capacity(cipher.len() + 32);
    write_encrypted(&mut out, key.etype(), &cipher);
    PaData { kind: PA_ENC_TIMESTAMP, value: out.into_bytes() }
}

/// The time in a PA-ENC-TIMESTAMP, once it is decrypted.
pub(in crate::kerberos) fn read_timestamp(plain: &[u8]) -> Result<Timestamp, DecodeError> {
    let mut part = Reader::new(plain).enter(SEQUENCE)?;
    let seconds = part.time(0)?;
    let micros = part.optional_integer(1)?.unwrap_or_default();
    let micros = u32::try_from(micros).ok().filter(|micros| *micros < 1_000_000).ok_or(DecodeError::Integer)?;
    Ok(seconds.with_subsec_micros(micros))
}
