//! KRB-ERROR (RFC 4120 §5.9.1), with the names of its codes.

use std::fmt;

use crate::kerberos::der::{Reader, SEQUENCE, Writer, application, context};
use crate::kerberos::error::DecodeError;
use crate::kerberos::name::Principal;
use crate::kerberos::time::Timestamp;
use crate::limits;

/// An error code (RFC 4120 §7.5.9, RFC 6806, RFC 6113).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub i64);

/// Declares the codes with their names and what they mean for an operator.
macro_rules! codes {
    ($($constant:ident $number:literal $meaning:literal;)*) => {
        impl ErrorCode {
            $(#[doc = $meaning] pub const $constant: ErrorCode = ErrorCode($number);)*

            /// Its name in the RFCs; `None` for a number that has none here.
            pub fn name(self) -> Option<&'static str> {
                match self { $(ErrorCode::$constant => Some(stringify!($constant)),)* _ => None }
            }

            /// What it means, in a few words.
            pub fn meaning(self) -> Option<&'static str> {
                match self { $(ErrorCode::$constant => Some($meaning),)* _ => None }
            }
        }
    };
}

codes! {
    KDC_ERR_NAME_EXP 1 "the client's entry in the database has expired";
    KDC_ERR_SERVICE_EXP 2 "the service's entry in the database has expired";
    KDC_ERR_BAD_PVNO 3 "the KDC does not support this version of Kerberos";
    KDC_ERR_C_PRINCIPAL_UNKNOWN 6 "the KDC does not know the client";
    KDC_ERR_S_PRINCIPAL_UNKNOWN 7 "the KDC does not know the service";
    KDC_ERR_PRINCIPAL_NOT_UNIQUE 8 "several accounts have this name";
    KDC_ERR_NULL_KEY 9 "the client or the service has no key";
    KDC_ERR_NEVER_VALID 11 "the requested ticket would never be valid";
    KDC_ERR_POLICY 12 "the KDC's policy rejects the request";
    KDC_ERR_BADOPTION 13 "the KDC cannot grant what was requested";
    KDC_ERR_ETYPE_NOSUPP 14 "the KDC has no key of an etype that is allowed";
    KDC_ERR_SUMTYPE_NOSUPP 15 "the KDC does not support the checksum";
    KDC_ERR_PADATA_TYPE_NOSUPP 16 "the KDC does not support the pre-authentication";
    KDC_ERR_CLIENT_REVOKED 18 "the account is locked or disabled";
    KDC_ERR_SERVICE_REVOKED 19 "the service's account is locked or disabled";
    KDC_ERR_TGT_REVOKED 20 "the ticket-granting ticket was revoked";
    KDC_ERR_CLIENT_NOTYET 21 "the client's account is not valid yet";
    KDC_ERR_KEY_EXPIRED 23 "the password has expired";
    KDC_ERR_PREAUTH_FAILED 24 "the password or key is wrong";
    KDC_ERR_PREAUTH_REQUIRED 25 "the KDC asks for pre-authentication";
    KDC_ERR_SERVER_NOMATCH 26 "the ticket is not for the requested service";
    KDC_ERR_MUST_USE_USER2USER 27 "the service accepts user-to-user authentication only";
    KDC_ERR_PATH_NOT_ACCEPTED 28 "the KDC does not accept the path between the realms";
    KDC_ERR_SVC_UNAVAILABLE 29 "a service that the KDC needs is not available";
    KRB_AP_ERR_BAD_INTEGRITY 31 "what was sent was encrypted with another key";
    KRB_AP_ERR_TKT_EXPIRED 32 "the ticket has expired";
    KRB_AP_ERR_TKT_NYV 33 "the ticket is not valid yet";
    KRB_AP_ERR_REPEAT 34 "the request is a replay";
    KRB_AP_ERR_NOT_US 35 "the ticket is not for this service";
    KRB_AP_ERR_BADMATCH 36 "ticket and authenticator do not match";
    KRB_AP_ERR_SKEW 37 "the clocks differ too much";
    KRB_AP_ERR_BADADDR 38 "the ticket is for another address";
    KRB_AP_ERR_MSG_TYPE 40 "the message type is wrong";
    KRB_AP_ERR_MODIFIED 41 "the message was changed, or the service's key is another one";
    KRB_AP_ERR_BADKEYVER 44 "the service has no key of this version";
    KRB_AP_ERR_NOKEY 45 "the service has no key";
    KRB_AP_ERR_MUT_FAIL 46 "mutual authentication failed";
    KRB_AP_ERR_INAPP_CKSUM 50 "the checksum is not suitable";
    KRB_ERR_RESPONSE_TOO_BIG 52 "the reply is too long for UDP";
    KRB_ERR_GENERIC 60 "the KDC failed";
    KRB_ERR_FIELD_TOOLONG 61 "the request is too long";
    KDC_ERR_WRONG_REALM 68 "the client belongs to another realm";
    KDC_ERR_PREAUTH_EXPIRED 90 "the pre-authentication took too long";
    KDC_ERR_MORE_PREAUTH_DATA_REQUIRED 91 "the KDC asks for more pre-authentication";
}

impl ErrorCode {
    /// Whether a KDC has refused the key of a logon attempt.
    pub fn is_failed_logon(self) -> bool {
        matches!(self, ErrorCode::KDC_ERR_PREAUTH_FAILED | ErrorCode::KRB_AP_ERR_BAD_INTEGRITY)
    }
}

/// The name and the number, and what it means.
impl fmt::Display for ErrorCode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.meaning()) {
            (Some(name), Some(meaning)) => write!(out, "{meaning} ({name}, {})", self.0),
            _ => write!(out, "error {}", self.0),
        }
    }
}

/// A KRB-ERROR. Nothing in it is authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KrbError {
    /// The code.
    pub code: ErrorCode,
    /// The sender's time.
    pub server_time: Timestamp,
    /// The client's realm: where to ask instead, with [`ErrorCode::KDC_ERR_WRONG_REALM`].
    pub client_realm: Option<String>,
    /// The sender's own text, without control characters, cut to a line.
    pub text: String,
    /// e-data: what belongs to the code.
    pub(in crate::kerberos) data: Vec<u8>,
}

impl KrbError {
    /// Reads a KRB-ERROR.
    ///
    /// # Errors
    /// [`DecodeError`] if it is none.
    pub fn decode(bytes: &[u8]) -> Result<KrbError, DecodeError> {
        let mut error = Reader::new(bytes).enter(application(30))?.enter(SEQUENCE)?;
        error.integer(0)?;
        let got = error.integer(1)?;
        if got != 30 {
            return Err(DecodeError::MessageType { expected: 30, got });
        }
        error.skip(2)?;
        error.skip(3)?;
        let seconds = error.time(4)?;
        let micros = u32::try_from(error.integer(5)?).ok().filter(|micros| *micros < 1_000_000);
        let server_time = seconds.with_subsec_micros(micros.ok_or(DecodeError::Integer)?);
        let code = ErrorCode(error.integer(6)?);
        let client_realm = error.enter_optional(context(7))?.map(realm_text).transpose()?;
        error.skip(8)?;
        error.skip(9)?;
        error.skip(10)?;
        let text = match error.enter_optional(context(11))? {
            // Some KDCs end it with a zero, and not all send UTF-8.
            Some(mut field) => printable(field.element(crate::kerberos::der::GENERAL_STRING)?),
            None => String::new(),
        };
        let data = match error.enter_optional(context(12))? {
            Some(mut field) => field.element(crate::kerberos::der::OCTET_STRING)?.to_vec(),
            None => Vec::new(),
        };
        Ok(KrbError { code, server_time, client_realm, text, data })
    }
}

/// A KRB-ERROR that a KDC or a service sends.
pub(in crate::kerberos) struct ErrorReply<'a> {
    pub code: ErrorCode,
    /// The sender's time.
    pub now: Timestamp,
    /// The sender.
    pub service: &'a Principal,
    /// METHOD-DATA, or empty.
    pub data: &'a [u8],
}

impl ErrorReply<'_> {
    pub(in crate::kerberos) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(256 + self.data.len());
        out.element(application(30), |out| {
            out.element(SEQUENCE, |out| {
                out.integer(0, 5);
                out.integer(1, 30);
                out.time(4, self.now);
                out.integer(5, self.now.subsec_micros());
                out.integer(6, self.code.0);
                out.string(9, &self.service.realm);
                out.element(context(10), |out| self.service.name.write(out));
                out.string(11, self.code.meaning().unwrap_or_default());
                if !self.data.is_empty() {
                    out.octets(12, self.data);
                }
            });
        });
        out.into_bytes()
    }
}

fn realm_text(mut field: Reader<'_>) -> Result<String, DecodeError> {
    let realm = crate::kerberos::der::text(field.element(crate::kerberos::der::GENERAL_STRING)?)?;
    match realm.len() > limits::KERBEROS_NAME_BYTES {
        true => Err(DecodeError::TooMuch { what: "bytes of a realm" }),
        false => Ok(realm.to_owned()),
    }
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|letter| !letter.is_control()).take(limits::KERBEROS_ERROR_TEXT_CHARACTERS).collect()
}

impl fmt::Display for KrbError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.code)?;
        if !self.text.is_empty() {
            write!(out, ": {:?}", self.text)?;
        }
        Ok(())
    }
}
