//! AS-REQ and TGS-REQ (RFC 4120 §5.4.1) as a KDC reads them.

use crate::kerberos::der::{INTEGER, Reader, SEQUENCE, application, context, integer};
use crate::kerberos::error::DecodeError;
use crate::kerberos::message::pa_data::{PaData, read_pa_data};
use crate::kerberos::name::PrincipalName;
use crate::kerberos::time::Timestamp;
use crate::limits;

/// The type of AS-REQ, and the number of its tag.
pub(in crate::kerberos) const AS_REQ: u8 = 10;
/// The type of TGS-REQ, and the number of its tag.
pub(in crate::kerberos) const TGS_REQ: u8 = 12;

/// A KDC-REQ.
#[derive(Debug)]
pub(in crate::kerberos) struct ReceivedRequest<'a> {
    /// [`AS_REQ`] or [`TGS_REQ`].
    pub kind: u8,
    pub pa_data: Vec<PaData>,
    /// The encoding of the body, for its checksum.
    pub encoded_body: &'a [u8],
    pub body: ReceivedBody,
}

/// A KDC-REQ-BODY.
#[derive(Debug)]
pub(in crate::kerberos) struct ReceivedBody {
    pub options: u32,
    pub client: Option<PrincipalName>,
    pub realm: String,
    pub service: Option<PrincipalName>,
    /// `None`: as long as possible.
    pub till: Option<Timestamp>,
    pub renew_till: Option<Timestamp>,
    pub nonce: i64,
    /// The numbers of the etypes that the client accepts, the preferred one first.
    pub etypes: Vec<i64>,
}

impl<'a> ReceivedRequest<'a> {
    pub(in crate::kerberos) fn read(bytes: &'a [u8]) -> Result<ReceivedRequest<'a>, DecodeError> {
        let mut message = Reader::new(bytes);
        let (kind, message) = match message.enter_optional(application(AS_REQ))? {
            Some(message) => (AS_REQ, message),
            None => (TGS_REQ, message.enter(application(TGS_REQ))?),
        };
        let mut request = { message }.enter(SEQUENCE)?;
        request.integer(1)?;
        let got = request.integer(2)?;
        if got != i64::from(kind) {
            return Err(DecodeError::MessageType { expected: kind, got });
        }
        let pa_data = match request.enter_optional(context(3))? {
            Some(field) => read_pa_data(field)?,
            None => Vec::new(),
        };
        let encoded_body = request.element(context(4))?;
        Ok(ReceivedRequest { kind, pa_data, encoded_body, body: ReceivedBody::read(encoded_body)? })
    }

    /// The value of the first PA-DATA of a kind.
    pub(in crate::kerberos) fn pa_data(&self, kind: i64) -> Option<&[u8]> {
        self.pa_data.iter().find(|data| data.kind == kind).map(|data| &data.value[..])
    }
}

impl ReceivedBody {
    fn read(encoded: &[u8]) -> Result<ReceivedBody, DecodeError> {
        let mut body = Reader::new(encoded).enter(SEQUENCE)?;
        let options = body.flags(0)?;
        let client = body.enter_optional(context(1))?.map(PrincipalName::read).transpose()?;
        let realm = body.string(2)?.to_owned();
        let service = body.enter_optional(context(3))?.map(PrincipalName::read).transpose()?;
        body.skip(4)?;
        let till = Some(body.time(5)?).filter(|till| *till > Timestamp::default());
        let renew_till = body.optional_time(6)?;
        let nonce = body.integer(7)?;
        let mut list = body.enter(context(8))?.enter(SEQUENCE)?;
        let mut etypes = Vec::new();
        while !list.is_empty() {
            if etypes.len() == limits::KERBEROS_LIST_ENTRIES {
                return Err(DecodeError::TooMuch { what: "etypes" });
            }
            etypes.push(integer(list.element(INTEGER)?)?);
        }
        Ok(ReceivedBody { options, client, realm, service, till, renew_till, nonce, etypes })
    }
}
