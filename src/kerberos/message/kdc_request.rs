//! AS-REQ and TGS-REQ (RFC 4120 §5.4.1).

use crate::kerberos::crypto::{Confounder, EtypeSet, Key, KeyUsage};
use crate::kerberos::der::{SEQUENCE, Writer, application, context};
use crate::kerberos::message::Ticket;
use crate::kerberos::message::authenticator::{ApOptions, Authenticator, ap_req};
use crate::kerberos::message::pa_data::{PA_TGS_REQ, PaData, write_pa_data};
use crate::kerberos::name::{Principal, PrincipalName};
use crate::kerberos::time::Timestamp;

/// KDCOptions, the first bit the highest.
pub(in crate::kerberos) mod options {
    const fn bit(number: u32) -> u32 {
        1 << (31 - number)
    }

    /// The ticket may be renewed.
    pub(in crate::kerberos) const RENEWABLE: u32 = bit(8);
    /// The KDC may answer with another name, or with a referral.
    pub(in crate::kerberos) const CANONICALIZE: u32 = bit(15);
    /// Renew the ticket that comes with the request.
    pub(in crate::kerberos) const RENEW: u32 = bit(30);
    /// What our own KDC does not do: forwarded, proxy and postdated tickets, tickets in another client's name or with
    /// another ticket's key, and validation.
    pub(in crate::kerberos) const UNSUPPORTED: u32 = bit(2) | bit(4) | bit(6) | bit(14) | bit(28) | bit(31);
}

/// KDC-REQ-BODY.
#[derive(Clone, Debug)]
pub(in crate::kerberos) struct RequestBody<'a> {
    pub options: u32,
    /// In an AS-REQ only.
    pub client: Option<&'a PrincipalName>,
    /// The realm of the KDC that is asked.
    pub realm: &'a str,
    pub service: &'a PrincipalName,
    pub till: Timestamp,
    pub renew_till: Option<Timestamp>,
    /// Below 2^31, because some KDCs read it as a signed number.
    pub nonce: u32,
    pub etypes: EtypeSet,
}

impl RequestBody<'_> {
    fn write(&self, out: &mut Writer) {
        out.element(SEQUENCE, |out| {
            out.flags(0, self.options);
            if let Some(client) = self.client {
                out.element(context(1), |out| client.write(out));
            }
            out.string(2, self.realm);
            out.element(context(3), |out| self.service.write(out));
            out.time(5, self.till);
            if let Some(renew_till) = self.renew_till {
                out.time(6, renew_till);
            }
            out.integer(7, self.nonce);
            out.element(context(8), |out| {
                out.element(SEQUENCE, |out| {
                    self.etypes.iter().for_each(|etype| out.plain_integer(etype.number()));
                });
            });
        });
    }
}

/// AS-REQ.
pub(in crate::kerberos) fn as_req(body: &RequestBody<'_>, pa_data: &[PaData]) -> Vec<u8> {
    kdc_req(10, pa_data, |out| body.write(out))
}

/// TGS-REQ with a ticket-granting ticket. `client` is the ticket's owner, `now` the KDC's time.
pub(in crate::kerberos) fn tgs_req(
    body: &RequestBody<'_>,
    client: &Principal,
    ticket: &Ticket,
    session_key: &Key,
    now: Timestamp,
    confounder: &Confounder,
) -> Vec<u8> {
    let mut encoded = Writer::with_capacity(512);
    body.write(&mut encoded);
    let encoded = encoded.into_bytes();
    let checksum = session_key.checksum(KeyUsage::TGS_REQ_CHECKSUM, &encoded);
    let authenticator = Authenticator {
        client,
        checksum_kind: session_key.etype().checksum_number(),
        checksum: &checksum,
        time: now,
        subkey: None,
        sequence_number: None,
    };
    let sealed = authenticator.seal(&session_key.for_usage(KeyUsage::TGS_REQ_AUTHENTICATOR), confounder);
    let value = ap_req(ApOptions::default(), ticket, session_key.etype(), &sealed);
    kdc_req(12, &[PaData { kind: PA_TGS_REQ, value }], |out| out.raw(&encoded))
}

/// `kind` is the message's type and the number of its tag.
fn kdc_req(kind: u8, pa_data: &[PaData], body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let capacity = 1024 + pa_data.iter().map(|data| data.value.len()).sum::<usize>();
    let mut out = Writer::with_capacity(capacity);
    out.element(application(kind), |out| {
        out.element(SEQUENCE, |out| {
            out.integer(1, 5);
            out.integer(2, kind);
            if !pa_data.is_empty() {
                out.element(context(3), |out| write_pa_data(out, pa_data));
            }
            out.element(context(4), body);
        });
    });
    out.into_bytes()
}
