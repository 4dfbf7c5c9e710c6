//! How long a ticket is valid, and the reply with it.

use super::{Denial, Kdc, KdcInputs};
use crate::kerberos::crypto::{Etype, Key, KeyUsage};
use crate::kerberos::message::kdc_reply::IssuedReply;
use crate::kerberos::message::kdc_request::options;
use crate::kerberos::message::pa_data::PaData;
use crate::kerberos::message::received_request::ReceivedBody;
use crate::kerberos::message::ticket_part::TicketPart;
use crate::kerberos::message::{ErrorCode, Ticket};
use crate::kerberos::name::Principal;
use crate::kerberos::time::Timestamp;

/// The key that encrypts a reply.
pub(super) struct ReplyKey {
    pub key: Key,
    pub usage: KeyUsage,
    /// The version of a client's own key.
    pub kvno: Option<u32>,
}

/// A ticket that is to be issued.
pub(super) struct Grant {
    /// The type of the reply.
    pub kind: u8,
    pub pa_data: Vec<PaData>,
    pub client: Principal,
    pub service: Principal,
    pub flags: u32,
    /// When the client logged on.
    pub authenticated: Timestamp,
    pub end: Timestamp,
    pub renew_till: Option<Timestamp>,
    pub session_etype: Etype,
    pub nonce: i64,
    pub reply_key: ReplyKey,
}

impl Kdc {
    /// When a ticket ends that is issued now, and until when it can be renewed. It ends at `latest` at the latest.
    pub(super) fn times(
        &self,
        body: &ReceivedBody,
        now: Timestamp,
        latest: Timestamp,
    ) -> Result<(Timestamp, Option<Timestamp>), Denial> {
        let end = now.plus(self.policy.lifetime).min(body.till.unwrap_or(Timestamp::MAX)).min(latest);
        if end <= now {
            return Err(ErrorCode::KDC_ERR_NEVER_VALID.into());
        }
        let renew_till = now.plus(self.policy.renewable).min(body.renew_till.unwrap_or(Timestamp::MAX));
        let is_asked_for = body.options & options::RENEWABLE != 0;
        Ok((end, Some(renew_till).filter(|till| is_asked_for && *till > end)))
    }

    /// The reply with a new ticket.
    pub(super) fn issue(&mut self, grant: Grant, inputs: &KdcInputs) -> Result<Vec<u8>, Denial> {
        let Grant { client, service, flags, authenticated, end, renew_till, .. } = grant;
        let etype = grant.session_etype;
        let session_key = Key::new(etype, &inputs.session_key[..etype.key_bytes()]);
        let session_key = session_key.ok_or(ErrorCode::KDC_ERR_ETYPE_NOSUPP)?;
        let part = TicketPart { flags, session_key, client, authenticated, start: inputs.now, end, renew_till };
        let account = self.principals.find(&service.name).ok_or(ErrorCode::KDC_ERR_S_PRINCIPAL_UNKNOWN)?;
        let key = account.random_keys().first().ok_or(ErrorCode::KDC_ERR_NULL_KEY)?;
        let [for_ticket, for_reply] = &inputs.confounders;
        let plain = part.encode(self.policy.ticket_padding_bytes);
        let cipher = key.encrypt(KeyUsage::TICKET, for_ticket, &plain);
        let ticket = Ticket::new(&service, key.etype(), account.kvno, &cipher);
        let reply = IssuedReply {
            kind: grant.kind,
            pa_data: &grant.pa_data,
            part: &part,
            service: &service,
            ticket: &ticket,
            nonce: grant.nonce,
            reply_key: &grant.reply_key.key,
            usage: grant.reply_key.usage,
            reply_kvno: grant.reply_key.kvno,
        };
        Ok(reply.encode(for_reply))
    }
}
