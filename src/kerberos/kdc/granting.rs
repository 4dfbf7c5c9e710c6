//! TGS-REQ: a ticket for a service, or the renewal of a ticket (RFC 4120 §3.3).

use super::grant::{Grant, ReplyKey};
use super::{Denial, Kdc, KdcAnswer, KdcInputs, KdcOutcome};
use crate::kerberos::acceptor::{AcceptError, Opened, open};
use crate::kerberos::crypto::{Etype, Key, KeyUsage};
use crate::kerberos::message::authenticator::ApRequest;
use crate::kerberos::message::kdc_reply::TGS_REP;
use crate::kerberos::message::kdc_request::options;
use crate::kerberos::message::pa_data::PA_TGS_REQ;
use crate::kerberos::message::received_request::ReceivedRequest;
use crate::kerberos::message::ticket_part::{TicketPart, flags};
use crate::kerberos::message::{EncryptedData, ErrorCode};
use crate::kerberos::name::Principal;
use crate::kerberos::time::Timestamp;

impl Kdc {
    pub(super) fn grant(&mut self, request: &ReceivedRequest<'_>, inputs: &KdcInputs) -> Result<KdcAnswer, Denial> {
        let body = &request.body;
        let Opened { ticket, authenticator } = self.open_request(request, inputs)?;
        if body.options & options::UNSUPPORTED != 0 {
            return Err(ErrorCode::KDC_ERR_BADOPTION.into());
        }
        if !self.is_own_realm(&body.realm) {
            return Err(ErrorCode::KDC_ERR_S_PRINCIPAL_UNKNOWN.into());
        }
        let etypes = self.common_etypes(body)?;
        let service = self.service_of(body.service.as_ref())?;
        let is_renewal = body.options & options::RENEW != 0;
        let (end, renew_till) = match is_renewal {
            true => self.renewed_times(&ticket, &service, inputs)?,
            false => (self.times(body, inputs.now, ticket.end)?.0, None),
        };
        let reply_key = match authenticator.subkey {
            Some(key) => ReplyKey { kvno: None, usage: KeyUsage::TGS_REP_SUBKEY, key },
            None => ReplyKey { kvno: None, usage: KeyUsage::TGS_REP, key: ticket.session_key },
        };
        let kept = flags::PRE_AUTHENTICATED | if is_renewal { flags::RENEWABLE } else { 0 };
        let grant = Grant {
            kind: TGS_REP,
            pa_data: Vec::new(),
            client: ticket.client,
            service,
            flags: ticket.flags & kept,
            authenticated: ticket.authenticated,
            end,
            renew_till,
            session_etype: etypes.first().copied().unwrap_or(reply_key.key.etype()),
            nonce: body.nonce,
            reply_key,
        };
        let outcome = if is_renewal { KdcOutcome::Renewed } else { KdcOutcome::Granted };
        Ok(KdcAnswer { bytes: self.issue(grant, inputs)?, outcome })
    }

    /// Decrypts the ticket-granting ticket and verifies that its owner has sent this request.
    fn open_request(&mut self, request: &ReceivedRequest<'_>, inputs: &KdcInputs) -> Result<Opened, Denial> {
        let ap_req = request.pa_data(PA_TGS_REQ).ok_or(ErrorCode::KDC_ERR_PADATA_TYPE_NOSUPP)?;
        let ap_req = ApRequest::read(ap_req)?;
        let key_of = |service: &Principal, sealed: &EncryptedData<'_>| self.own_key(service, sealed);
        let opened = open(&ap_req, KeyUsage::TGS_REQ_AUTHENTICATOR, inputs.now, key_of)?;
        let session_key = &opened.ticket.session_key;
        let expected = session_key.checksum(KeyUsage::TGS_REQ_CHECKSUM, request.encoded_body);
        match &opened.authenticator.checksum {
            Some((kind, _)) if *kind != session_key.etype().checksum_number() => Err(AcceptError::Checksum.into()),
            None => Err(AcceptError::Checksum.into()),
            Some((_, checksum)) if *checksum != expected => Err(ErrorCode::KRB_AP_ERR_MODIFIED.into()),
            Some(_) => Ok(opened),
        }
    }

    /// The key of the ticket-granting service with which a ticket is encrypted.
    fn own_key(&mut self, service: &Principal, sealed: &EncryptedData<'_>) -> Result<Key, AcceptError> {
        if !service.name.is_same(&self.service.name) || !self.is_own_realm(&service.realm) {
            return Err(AcceptError::OtherService);
        }
        let own = self.principals.find(&service.name).ok_or(AcceptError::OtherService)?;
        if sealed.kvno.is_some_and(|kvno| kvno != i64::from(own.kvno)) {
            return Err(AcceptError::KeyVersion);
        }
        Etype::of_number(sealed.etype).and_then(|etype| own.key(etype)).ok_or(AcceptError::NoKey)
    }

    /// When a renewed ticket ends, and until when it can be renewed again.
    fn renewed_times(
        &self,
        ticket: &TicketPart,
        service: &Principal,
        inputs: &KdcInputs,
    ) -> Result<(Timestamp, Option<Timestamp>), Denial> {
        let is_renewable = ticket.flags & flags::RENEWABLE != 0;
        let renew_till = ticket.renew_till.filter(|till| is_renewable && *till > inputs.now);
        match renew_till {
            _ if !service.name.is_same(&self.service.name) => Err(ErrorCode::KDC_ERR_SERVER_NOMATCH.into()),
            None => Err(ErrorCode::KDC_ERR_BADOPTION.into()),
            Some(till) => Ok((inputs.now.plus(ticket.end.since(ticket.start)).min(till), Some(till))),
        }
    }
}
