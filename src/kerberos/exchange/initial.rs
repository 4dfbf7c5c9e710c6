//! The AS exchange: a ticket-granting ticket, from a password or a keytab.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{ExchangeError, ExchangeInputs, ExchangeOptions, KdcRequest, RequestKind, Step};
use crate::kerberos::crypto::{Etype, Key, KeyUsage};
use crate::kerberos::der::Reader;
use crate::kerberos::error::DecodeError;
use crate::kerberos::keytab::{Keytab, KeytabEntry};
use crate::kerberos::message::kdc_reply::{AS_REP, KdcReply, ReplyPart};
use crate::kerberos::message::kdc_request::{RequestBody, as_req, options};
use crate::kerberos::message::pa_data::{
    EtypeInfo, PA_ETYPE_INFO2, PA_FX_COOKIE, PaData, encrypted_timestamp, read_pa_data,
};
use crate::kerberos::message::{ErrorCode, KrbError};
use crate::kerberos::name::{Principal, PrincipalName};
use crate::kerberos::ticket::{ClockSkew, Credential};
use crate::limits;

/// Which of a client's keys a logon uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyVersion {
    /// The present password.
    Password,
    /// The password before it.
    PreviousPassword,
    /// The keys with this version number in the keytab.
    Keytab(u32),
}

/// What the client's key comes from. No `Debug` shows it.
#[derive(Clone)]
pub enum ClientSecret {
    /// The present password, and the one before it, which is tried where the KDC does not know the present one yet.
    Password(Arc<Zeroizing<String>>, Option<Arc<Zeroizing<String>>>),
    /// The keys of a keytab.
    Keytab(Arc<Keytab>),
}

impl PartialEq for ClientSecret {
    fn eq(&self, other: &ClientSecret) -> bool {
        match (self, other) {
            (ClientSecret::Password(one, one_before), ClientSecret::Password(other, other_before)) => {
                one == other && one_before == other_before
            }
            (ClientSecret::Keytab(one), ClientSecret::Keytab(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for ClientSecret {}

impl ClientSecret {
    /// A copy of a password.
    pub fn password(text: &str) -> ClientSecret {
        ClientSecret::passwords(text, None)
    }

    /// Copies of the present password and, if there is one, of the previous one.
    pub fn passwords(present: &str, previous: Option<&str>) -> ClientSecret {
        let copy = |text: &str| Arc::new(Zeroizing::new(text.to_owned()));
        ClientSecret::Password(copy(present), previous.map(copy))
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            ClientSecret::Password(..) => "ClientSecret::Password",
            ClientSecret::Keytab(_) => "ClientSecret::Keytab",
        })
    }
}

/// An exchange that ends with a ticket-granting ticket.
#[derive(Clone, Debug)]
pub struct InitialExchange {
    client: Principal,
    secret: ClientSecret,
    options: ExchangeOptions,
    skew: ClockSkew,
    nonce: u32,
    /// How the password becomes a key, as the KDC has said.
    etype_info: Vec<EtypeInfo>,
    /// The key of the password, with what it was made from: making it takes a while.
    key_of_password: Option<(EtypeInfo, Key)>,
    cookie: Option<PaData>,
    /// How many versions of the key were passed over, because the KDC has refused them now or lately.
    refused_versions: usize,
    /// What the KDC said to the newest version.
    refusal: Option<ExchangeError>,
    /// A time stamp has been sent.
    has_shown_key: bool,
    is_skew_corrected: bool,
    /// The realms that have been asked.
    realms: Vec<String>,
}

impl InitialExchange {
    /// An exchange for `client` that has not begun. `skew` is what is known of the KDC's clock.
    pub fn new(client: Principal, secret: ClientSecret, options: ExchangeOptions, skew: ClockSkew) -> InitialExchange {
        InitialExchange {
            realms: vec![client.realm.clone()],
            client,
            secret,
            options,
            skew,
            nonce: 0,
            etype_info: Vec::new(),
            key_of_password: None,
            cookie: None,
            refused_versions: 0,
            refusal: None,
            has_shown_key: false,
            is_skew_corrected: false,
        }
    }

    /// The first request.
    ///
    /// # Errors
    /// [`ExchangeError::NoKey`] if the keytab has no key for the client.
    pub fn start(&mut self, inputs: &ExchangeInputs) -> Result<KdcRequest, ExchangeError> {
        if let ClientSecret::Keytab(keytab) = &self.secret
            && keytab.keys_of(&self.client, self.options.etypes).is_empty()
        {
            return Err(self.no_key());
        }
        Ok(self.request(&[], RequestKind::Initial, inputs))
    }

    /// Takes the KDC's reply to the last request.
    ///
    /// # Errors
    /// Why there will be no ticket.
    pub fn receive(&mut self, reply: &[u8], inputs: &ExchangeInputs) -> Result<Step, ExchangeError> {
        match KrbError::decode(reply) {
            Ok(error) => self.receive_error(error, inputs).map(Step::Send),
            Err(_) => self.receive_reply(reply, inputs).map(Step::Done),
        }
    }

    /// Writes a request to the KDC of the client's realm.
    fn request(&mut self, pa_data: &[PaData], kind: RequestKind, inputs: &ExchangeInputs) -> KdcRequest {
        self.nonce = inputs.positive_nonce();
        let now = self.skew.apply(inputs.now);
        let canonicalize = if self.client.name.is_enterprise() { options::CANONICALIZE } else { 0 };
        let body = RequestBody {
            options: options::RENEWABLE | canonicalize,
            client: Some(&self.client.name),
            realm: &self.client.realm,
            service: &PrincipalName::ticket_granting(&self.client.realm),
            till: now.plus(self.options.lifetime),
            renew_till: Some(now.plus(self.options.renewable)),
            nonce: self.nonce,
            etypes: self.options.etypes,
        };
        KdcRequest { realm: self.client.realm.clone(), bytes: as_req(&body, pa_data), kind }
    }

    fn receive_error(&mut self, error: KrbError, inputs: &ExchangeInputs) -> Result<KdcRequest, ExchangeError> {
        match error.code {
            ErrorCode::KDC_ERR_PREAUTH_REQUIRED if !self.has_shown_key => {
                self.learn(&error.data).map_err(|error| self.malformed(error))?;
                self.show_key(inputs)
            }
            ErrorCode::KRB_AP_ERR_SKEW if !self.is_skew_corrected => {
                self.is_skew_corrected = true;
                self.skew = ClockSkew::between(error.server_time, inputs.now);
                match self.has_shown_key {
                    true => self.show_key(inputs),
                    false => Ok(self.request(&[], RequestKind::Initial, inputs)),
                }
            }
            code if code.is_failed_logon() && self.has_shown_key && self.has_older_key() => {
                let refusal = self.rejected(error);
                self.refusal.get_or_insert(refusal);
                self.show_older_key(inputs)
            }
            ErrorCode::KDC_ERR_WRONG_REALM if self.client.name.is_enterprise() => self.follow(error, inputs),
            _ => Err(self.rejected(error)),
        }
    }

    /// The request with an older version of the key, instead of the last one, which was not sent; `None` if there is no
    /// older one.
    pub fn pass_over_key(&mut self, inputs: &ExchangeInputs) -> Option<Result<KdcRequest, ExchangeError>> {
        self.has_older_key().then(|| self.show_older_key(inputs))
    }

    fn show_older_key(&mut self, inputs: &ExchangeInputs) -> Result<KdcRequest, ExchangeError> {
        self.refused_versions += 1;
        self.key_of_password = None;
        self.show_key(inputs)
    }

    /// What the KDC said to the newest version of the key, if it has refused it in this exchange.
    pub fn take_refusal(&mut self) -> Option<ExchangeError> {
        self.refusal.take()
    }

    /// Whether the last request was made with an older version of the key than the newest.
    pub fn uses_older_key(&self) -> bool {
        self.refused_versions > 0
    }

    /// The client belongs to another realm.
    fn follow(&mut self, error: KrbError, inputs: &ExchangeInputs) -> Result<KdcRequest, ExchangeError> {
        let Some(to) = error.client_realm.clone().filter(|to| !to.is_empty()) else {
            return Err(self.rejected(error));
        };
        let realm = self.client.realm.clone();
        if self.realms.contains(&to) || self.realms.len() >= limits::KERBEROS_REFERRALS {
            return Err(ExchangeError::Referrals { realm, to });
        }
        self.realms.push(to.clone());
        self.client.realm = to;
        self.has_shown_key = false;
        self.cookie = None;
        self.key_of_password = None;
        Ok(self.request(&[], RequestKind::Initial, inputs))
    }

    /// Takes over what METHOD-DATA says about keys.
    fn learn(&mut self, method_data: &[u8]) -> Result<(), DecodeError> {
        for data in read_pa_data(Reader::new(method_data))? {
            match data.kind {
                PA_ETYPE_INFO2 => self.etype_info = EtypeInfo::read_all(&data.value)?,
                PA_FX_COOKIE => self.cookie = Some(data),
                _ => {}
            }
        }
        Ok(())
    }

    /// The request with a time stamp.
    fn show_key(&mut self, inputs: &ExchangeInputs) -> Result<KdcRequest, ExchangeError> {
        let (key, version) = self.key_for_kdc()?;
        let stamp = encrypted_timestamp(&key, &inputs.confounder, self.skew.apply(inputs.now));
        let pa_data: Vec<PaData> = self.cookie.iter().cloned().chain([stamp]).collect();
        self.has_shown_key = true;
        Ok(self.request(&pa_data, RequestKind::Logon(version), inputs))
    }

    /// The key of an etype that the KDC has named, with its version.
    fn key_for_kdc(&mut self) -> Result<(Key, KeyVersion), ExchangeError> {
        // A KDC that names no etype leaves the choice to us, with the default salt.
        let unnamed = |etype: Etype| EtypeInfo { etype: etype.number(), salt: None, iterations: None };
        let entries: Vec<EtypeInfo> = match self.etype_info.is_empty() {
            true => self.options.etypes.iter().map(unnamed).collect(),
            false => self.etype_info.clone(),
        };
        for etype in self.options.etypes.iter() {
            let Some(entry) = entries.iter().find(|entry| entry.etype == etype.number()) else { continue };
            if let Some(found) = self.key_of(etype, entry)? {
                return Ok(found);
            }
        }
        let offered: Vec<String> = entries.iter().map(|entry| entry.etype.to_string()).collect();
        Err(ExchangeError::NoEtype { realm: self.client.realm.clone(), offered: offered.join(", ") })
    }

    /// The key of an etype; `None` if the keytab has none of the version whose turn it is.
    fn key_of(&mut self, etype: Etype, entry: &EtypeInfo) -> Result<Option<(Key, KeyVersion)>, ExchangeError> {
        match &self.secret {
            ClientSecret::Password(present, previous) => {
                let (password, version) = match (self.refused_versions, previous) {
                    (0, _) | (_, None) => (present, KeyVersion::Password),
                    (_, Some(previous)) => (previous, KeyVersion::PreviousPassword),
                };
                let Some(iterations) = entry.allowed_iterations(etype) else {
                    let realm = self.client.realm.clone();
                    return Err(ExchangeError::Iterations { realm, iterations: entry.iterations.unwrap_or_default() });
                };
                if let Some((made_from, key)) = &self.key_of_password
                    && made_from == entry
                {
                    return Ok(Some((key.clone(), version)));
                }
                let salt = entry.salt.clone().unwrap_or_else(|| self.client.default_salt());
                let key = Key::of_password(etype, password, &salt, iterations);
                self.key_of_password = Some((entry.clone(), key.clone()));
                Ok(Some((key, version)))
            }
            ClientSecret::Keytab(keytab) => {
                let kvno = self.versions(keytab).into_iter().nth(self.refused_versions);
                let is_it = |entry: &&KeytabEntry| Some(entry.kvno) == kvno && entry.key.etype() == etype;
                let keys = keytab.keys_of(&self.client, self.options.etypes);
                Ok(keys.into_iter().find(is_it).map(|entry| (entry.key.clone(), KeyVersion::Keytab(entry.kvno))))
            }
        }
    }

    /// The versions of the client's keys, the newest first. Two at most are tried: the present key, and the one before
    /// it while the KDC does not know the present one yet.
    fn versions(&self, keytab: &Keytab) -> Vec<u32> {
        let mut versions: Vec<u32> =
            keytab.keys_of(&self.client, self.options.etypes).iter().map(|entry| entry.kvno).collect();
        versions.dedup();
        versions.truncate(2);
        versions
    }

    fn has_older_key(&self) -> bool {
        match &self.secret {
            ClientSecret::Password(_, previous) => self.refused_versions == 0 && previous.is_some(),
            ClientSecret::Keytab(keytab) => self.refused_versions + 1 < self.versions(keytab).len(),
        }
    }

    fn receive_reply(&mut self, reply: &[u8], inputs: &ExchangeInputs) -> Result<Credential, ExchangeError> {
        let reply = KdcReply::read(reply, AS_REP).map_err(|error| self.malformed(error))?;
        if let Some(info) = reply.pa_data.iter().find(|data| data.kind == PA_ETYPE_INFO2) {
            self.etype_info = EtypeInfo::read_all(&info.value).map_err(|error| self.malformed(error))?;
        }
        let key = self.key_of_reply(&reply)?;
        let realm = || self.client.realm.clone();
        let plain = key
            .decrypt(KeyUsage::AS_REP, reply.encrypted.etype, reply.encrypted.cipher)
            .map_err(|error| ExchangeError::Key { realm: realm(), error })?;
        let part = ReplyPart::read(&plain).map_err(|error| self.malformed(error))?;
        let mismatch = |what| Err(ExchangeError::Mismatch { realm: realm(), what });
        if part.nonce != i64::from(self.nonce) {
            return mismatch("the nonce");
        }
        let is_own_realm = |realm: &str| realm.eq_ignore_ascii_case(&self.client.realm);
        let is_same_name = self.client.name.is_enterprise() || reply.client.name.is_same(&self.client.name);
        if !is_same_name || !is_own_realm(&reply.client.realm) {
            return mismatch("the client");
        }
        let is_ticket_granting = part.service.name.ticket_granting_realm().is_some_and(is_own_realm);
        if !is_ticket_granting || !is_own_realm(&part.service.realm) {
            return mismatch("the service");
        }
        let measured = ClockSkew::between(part.start, inputs.now);
        // The KDC's time has whole seconds, so a small difference says nothing.
        let skew = if measured.seconds().abs() > limits::KERBEROS_SKEW_IGNORED_SECONDS { measured } else { self.skew };
        let credential = Credential::of_reply(reply, part, self.options.etypes, skew);
        credential.map_or_else(|| mismatch("the etype of the session key"), Ok)
    }

    /// The key with which the reply is encrypted.
    fn key_of_reply(&mut self, reply: &KdcReply<'_>) -> Result<Key, ExchangeError> {
        let number = reply.encrypted.etype;
        let no_etype = ExchangeError::NoEtype { realm: self.client.realm.clone(), offered: number.to_string() };
        let etype = Etype::of_number(number).filter(|etype| self.options.etypes.contains(*etype));
        let Some(etype) = etype else { return Err(no_etype) };
        if let ClientSecret::Keytab(keytab) = &self.secret
            && !self.has_shown_key
        {
            let is_it = |entry: &&KeytabEntry| {
                let has_version = reply.encrypted.kvno.is_none_or(|kvno| kvno == i64::from(entry.kvno));
                entry.key.etype() == etype && has_version
            };
            let keys = keytab.keys_of(&self.client, self.options.etypes);
            return keys.into_iter().find(is_it).map(|entry| entry.key.clone()).ok_or_else(|| self.no_key());
        }
        let unnamed = EtypeInfo { etype: number, salt: None, iterations: None };
        let entry = self.etype_info.iter().find(|entry| entry.etype == number).cloned().unwrap_or(unnamed);
        self.key_of(etype, &entry)?.map(|(key, _)| key).ok_or(no_etype)
    }

    fn rejected(&self, error: KrbError) -> ExchangeError {
        let request = format!("the logon of {}", self.client.name);
        ExchangeError::Kdc { realm: self.client.realm.clone(), request, error: error.into() }
    }

    fn malformed(&self, error: DecodeError) -> ExchangeError {
        ExchangeError::Malformed { realm: self.client.realm.clone(), error }
    }

    fn no_key(&self) -> ExchangeError {
        ExchangeError::NoKey { client: self.client.to_string() }
    }
}
