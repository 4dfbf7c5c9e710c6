//! AS-REQ: a logon (RFC 4120 §3.1).

use super::grant::{Grant, ReplyKey};
use super::principals::Account;
use super::{Denial, Kdc, KdcAnswer, KdcInputs, KdcOutcome};
use crate::kerberos::crypto::{Etype, Key, KeyUsage};
use crate::kerberos::der::{Reader, Writer};
use crate::kerberos::message::kdc_reply::AS_REP;
use crate::kerberos::message::pa_data::{
    EtypeInfo, PA_ENC_TIMESTAMP, PA_ETYPE_INFO2, PaData, read_timestamp, write_pa_data,
};
use crate::kerberos::message::received_request::ReceivedRequest;
use crate::kerberos::message::ticket_part::flags;
use crate::kerberos::message::{EncryptedData, ErrorCode};
use crate::kerberos::name::{Principal, PrincipalName};
use crate::kerberos::time::Timestamp;
use crate::limits;

impl Kdc {
    pub(super) fn log_on(&mut self, request: &ReceivedRequest<'_>, inputs: &KdcInputs) -> Result<KdcAnswer, Denial> {
        let body = &request.body;
        let asked = body.client.as_ref().ok_or(ErrorCode::KDC_ERR_C_PRINCIPAL_UNKNOWN)?;
        if !self.is_own_realm(&body.realm) {
            return Err(ErrorCode::KDC_ERR_C_PRINCIPAL_UNKNOWN.into());
        }
        let etypes = self.common_etypes(body)?;
        let name = self.canonical(asked);
        let service = self.service_of(body.service.as_ref())?;
        let account = self.principals.find(&name).ok_or(ErrorCode::KDC_ERR_C_PRINCIPAL_UNKNOWN)?;
        if account.is_revoked {
            return Err(ErrorCode::KDC_ERR_CLIENT_REVOKED.into());
        }
        let reply_key = pre_authenticated(account, request, &etypes, inputs.now)?;
        let info = etype_info(account, &[reply_key.etype()]);
        let reply_key = ReplyKey { kvno: Some(account.kvno), usage: KeyUsage::AS_REP, key: reply_key };
        let (end, renew_till) = self.times(body, inputs.now, Timestamp::MAX)?;
        let renewable = if renew_till.is_some() { flags::RENEWABLE } else { 0 };
        let grant = Grant {
            kind: AS_REP,
            pa_data: vec![PaData { kind: PA_ETYPE_INFO2, value: info }],
            client: Principal { name, realm: self.realm().to_owned() },
            service,
            flags: flags::INITIAL | flags::PRE_AUTHENTICATED | renewable,
            authenticated: inputs.now,
            end,
            renew_till,
            session_etype: etypes.first().copied().unwrap_or(reply_key.key.etype()),
            nonce: body.nonce,
            reply_key,
        };
        Ok(KdcAnswer { bytes: self.issue(grant, inputs)?, outcome: KdcOutcome::LoggedOn })
    }

    /// The account's own name for an enterprise name whose suffix is the realm.
    fn canonical(&self, asked: &PrincipalName) -> PrincipalName {
        let own = |suffix: &str| self.is_own_realm(suffix);
        match asked.components() {
            [whole] if asked.is_enterprise() => match whole.rsplit_once('@') {
                Some((user, suffix)) if own(suffix) => PrincipalName::of_user(user),
                _ => asked.clone(),
            },
            _ => asked.clone(),
        }
    }

    /// The service that a request names.
    pub(super) fn service_of(&mut self, asked: Option<&PrincipalName>) -> Result<Principal, Denial> {
        let known = asked.filter(|name| self.principals.find(name).is_some_and(|found| found.salt().is_none()));
        let name = known.ok_or(ErrorCode::KDC_ERR_S_PRINCIPAL_UNKNOWN)?.clone();
        Ok(Principal { name, realm: self.realm().to_owned() })
    }
}

/// The client's key, if the request shows that the client has it.
fn pre_authenticated(
    account: &mut Account,
    request: &ReceivedRequest<'_>,
    etypes: &[Etype],
    now: Timestamp,
) -> Result<Key, Denial> {
    let Some(stamp) = request.pa_data(PA_ENC_TIMESTAMP) else {
        return Err(Denial { code: ErrorCode::KDC_ERR_PREAUTH_REQUIRED, data: method_data(account, etypes) });
    };
    let sealed = EncryptedData::read(Reader::new(stamp))?;
    let etype = etypes.iter().find(|etype| etype.number() == sealed.etype).ok_or(ErrorCode::KDC_ERR_ETYPE_NOSUPP)?;
    let key = account.key(*etype).ok_or(ErrorCode::KDC_ERR_ETYPE_NOSUPP)?;
    let plain = key.decrypt(KeyUsage::PA_ENC_TIMESTAMP, sealed.etype, sealed.cipher);
    let plain = plain.map_err(|_| ErrorCode::KDC_ERR_PREAUTH_FAILED)?;
    let time = read_timestamp(&plain)?;
    let skew = limits::KERBEROS_CLOCK_SKEW;
    match time.plus(skew) < now || now.plus(skew) < time {
        true => Err(ErrorCode::KRB_AP_ERR_SKEW.into()),
        false => Ok(key),
    }
}

/// METHOD-DATA: how the client is to pre-authenticate.
fn method_data(account: &Account, etypes: &[Etype]) -> Vec<u8> {
    let data = [
        PaData { kind: PA_ETYPE_INFO2, value: etype_info(account, etypes) },
        PaData { kind: PA_ENC_TIMESTAMP, value: Vec::new() },
    ];
    let mut out = Writer::with_capacity(512);
    write_pa_data(&mut out, &data);
    out.into_bytes()
}

/// ETYPE-INFO2: how the client's password becomes its keys.
fn etype_info(account: &Account, etypes: &[Etype]) -> Vec<u8> {
    let info = |etype: &Etype| EtypeInfo {
        etype: etype.number(),
        salt: account.salt().map(<[u8]>::to_vec),
        iterations: account.salt().is_some().then(|| etype.default_iterations()),
    };
    EtypeInfo::write_all(&etypes.iter().map(info).collect::<Vec<_>>())
}
