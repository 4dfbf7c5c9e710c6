//! EncTicketPart (RFC 4120 §5.3): what is encrypted in a ticket, for its service only.

use zeroize::Zeroizing;

use crate::kerberos::crypto::Key;
use crate::kerberos::der::{OCTET_STRING, Reader, SEQUENCE, Writer, application, context};
use crate::kerberos::error::DecodeError;
use crate::kerberos::message::{read_key, write_key};
use crate::kerberos::name::{Principal, PrincipalName};
use crate::kerberos::time::Timestamp;

/// TicketFlags, the first bit the highest.
pub(in crate::kerberos) mod flags {
    /// The ticket may be renewed.
    pub(in crate::kerberos) const RENEWABLE: u32 = 1 << (31 - 8);
    /// It was issued by an AS exchange.
    pub(in crate::kerberos) const INITIAL: u32 = 1 << (31 - 9);
    /// The client has pre-authenticated.
    pub(in crate::kerberos) const PRE_AUTHENTICATED: u32 = 1 << (31 - 10);
}

/// An ad-type for local use (RFC 4120 §5.2.6), which services ignore.
const AD_PADDING: i64 = -1;

/// What a service learns from a ticket.
#[derive(Debug)]
pub(in crate::kerberos) struct TicketPart {
    pub flags: u32,
    pub session_key: Key,
    pub client: Principal,
    /// When the client logged on.
    pub authenticated: Timestamp,
    pub start: Timestamp,
    pub end: Timestamp,
    pub renew_till: Option<Timestamp>,
}

impl TicketPart {
    /// `None` if the session key has an etype that is not implemented.
    pub(in crate::kerberos) fn read(plain: &[u8]) -> Result<Option<TicketPart>, DecodeError> {
        let mut part = Reader::new(plain).enter(application(3))?.enter(SEQUENCE)?;
        let flags = part.flags(0)?;
        let session_key = read_key(part.enter(context(1))?)?;
        let realm = part.string(2)?.to_owned();
        let name = PrincipalName::read(part.enter(context(3))?)?;
        part.skip(4)?;
        let authenticated = part.time(5)?;
        let start = part.optional_time(6)?.unwrap_or(authenticated);
        let end = part.time(7)?;
        let renew_till = part.optional_time(8)?;
        let client = Principal { name, realm };
        let with_key = |session_key| TicketPart { flags, session_key, client, authenticated, start, end, renew_till };
        Ok(session_key.map(with_key))
    }

    /// The DER, with this many bytes of authorization data if there are any: a ticket of Active Directory has
    /// kilobytes.
    pub(in crate::kerberos) fn encode(&self, padding_bytes: usize) -> Zeroizing<Vec<u8>> {
        let mut out = Writer::with_capacity(2048 + padding_bytes);
        out.element(application(3), |out| {
            out.element(SEQUENCE, |out| {
                out.flags(0, self.flags);
                out.element(context(1), |out| write_key(out, &self.session_key));
                out.string(2, &self.client.realm);
                out.element(context(3), |out| self.client.name.write(out));
                // TransitedEncoding: the ticket has crossed no realm.
                out.element(context(4), |out| {
                    out.element(SEQUENCE, |out| {
                        out.integer(0, 1);
                        out.octets(1, &[]);
                    });
                });
                out.time(5, self.authenticated);
                out.time(6, self.start);
                out.time(7, self.end);
                if let Some(renew_till) = self.renew_till {
                    out.time(8, renew_till);
                }
                if padding_bytes > 0 {
                    write_padding(out, padding_bytes);
                }
            });
        });
        out.into_secret()
    }
}

/// AuthorizationData with one element.
fn write_padding(out: &mut Writer, bytes: usize) {
    out.element(context(10), |out| {
        out.element(SEQUENCE, |out| {
            out.element(SEQUENCE, |out| {
                out.integer(0, AD_PADDING);
                out.element(context(1), |out| out.bytes(OCTET_STRING, &vec![0; bytes]));
            });
        });
    });
}
