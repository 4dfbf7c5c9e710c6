//! The settings of Kerberos: an identity's name and key, an upstream's service, and where the KDCs are.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use zeroize::Zeroizing;

use super::error::Problem;
use super::mechanisms::Mechanisms;
use super::parse::Reader;
use super::settings::Setting;
use super::warning::Advice;
use super::{exposure, secrets};
use crate::kerberos::{ClientSecret, EtypeSet, KdcAddress, Keytab, KeytabError, NameError, Principal, PrincipalName};
use crate::limits;
use crate::ntlm::Account;
use crate::tickets::{ConfFileError, Realms, read_krb5_conf};

/// Where krb5.conf is, unless the configuration says something else.
const KRB5_CONF: &str = "/etc/krb5.conf";

/// What identities with Kerberos have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KerberosConfig {
    /// The realms and their KDCs.
    pub realms: Realms,
    /// The etypes that may be used.
    pub etypes: EtypeSet,
    /// Whether the host name in the name of an upstream's service is canonicalized.
    pub canonicalize: bool,
}

/// An identity as a client of Kerberos.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KerberosIdentity {
    /// Its name.
    pub client: Principal,
    /// Its key.
    pub secret: ClientSecret,
}

/// Why the settings of Kerberos are invalid.
#[derive(Debug, Error)]
pub enum KerberosProblem {
    /// Not a mechanism.
    #[error("{text:?} is not one of kerberos, ntlm")]
    Mechanism {
        /// The given value.
        text: String,
    },
    /// The weaker mechanism comes first.
    #[error("kerberos must come before ntlm: the first is used where it can be, and the second otherwise")]
    Order,
    /// An upstream that allows nothing of what an identity may use.
    #[error(
        "clients of the identity {identity} could not authenticate here: it may use {of_identity}, and the upstream \
         allows only {of_upstream}; list a mechanism of the identity"
    )]
    NothingLeft {
        /// The identity.
        identity: String,
        /// What it may use.
        of_identity: Mechanisms,
        /// What the upstream allows.
        of_upstream: Mechanisms,
    },
    /// Kerberos without a key.
    #[error("kerberos requires a keytab, or the password itself in a file: set keytab or password_file")]
    NoKey,
    /// The keytab cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is no keytab.
    #[error("{}: {source}", path.display())]
    Keytab {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeytabError,
    },
    /// The keytab has no key for the client.
    #[error("{} has no key for {client} of an etype that is allowed; it has keys for: {others}", path.display())]
    NoSuchKey {
        /// The file.
        path: PathBuf,
        /// The client.
        client: String,
        /// The principals that it has keys for.
        others: String,
    },
    /// Not a principal.
    #[error("{0}; write name@REALM or service/host@REALM, and set kerberos.realm if the account has no realm")]
    Name(#[from] NameError),
    /// Not the address of a KDC.
    #[error("{text:?} is not the address of a KDC; write HOST, HOST:PORT, tcp/HOST or udp/HOST")]
    Kdc {
        /// The given value.
        text: String,
    },
    /// KDCs without a realm.
    #[error("the KDCs are those of kerberos.realm: set it")]
    KdcWithoutRealm,
    /// Not the name of a service.
    #[error(
        "{text:?} is not the name of a service; write SERVICE/HOST or SERVICE/HOST@REALM, as in HTTP/proxy.corp.example"
    )]
    Spn {
        /// The given value.
        text: String,
    },
    /// krb5.conf cannot be used.
    #[error("{}: {source}", path.display())]
    Krb5Conf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfFileError,
    },
}

/// The name of a service, with its realm if it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spn {
    /// Its name.
    pub name: PrincipalName,
    /// Its realm.
    pub realm: Option<String>,
    /// It follows from the host name of the upstream, and is not given.
    pub is_of_host: bool,
}

impl Reader<'_> {
    /// What identities with Kerberos have in common.
    pub(super) fn kerberos(&mut self) -> Option<KerberosConfig> {
        let realm = self.optional("kerberos.realm", |text| {
            let parsed = Principal::parse("client", Some(text)).map_err(KerberosProblem::from)?;
            Ok(parsed.realm)
        });
        let kdcs = self.list("kerberos.kdc", None, |text| {
            KdcAddress::parse(text).ok_or_else(|| KerberosProblem::Kdc { text: text.into() }.into())
        });
        let allow_rc4 = self.flag("kerberos.allow_rc4");
        let canonicalize = self.flag("kerberos.canonicalize");
        let given = self.settings.given("kerberos.krb5_conf").cloned();
        let conf = match given {
            Some(setting) => {
                let path = setting.path();
                self.parse("kerberos.krb5_conf", setting, |_| {
                    Ok(read_krb5_conf(&path).map_err(|source| KerberosProblem::Krb5Conf { path, source })?)
                })
            }
            // That there is none is normal.
            None => Some(read_krb5_conf(Path::new(KRB5_CONF)).unwrap_or_default()),
        };
        let (realm, kdcs) = (realm?, kdcs.values()?);
        if realm.is_none() && !kdcs.is_empty() {
            return self.required("kerberos.kdc", |_| Err(KerberosProblem::KdcWithoutRealm.into()));
        }
        let realms = Realms { configured: realm.map(|realm| (realm, kdcs)), conf: conf? };
        Some(KerberosConfig { realms, etypes: EtypeSet::new(allow_rc4?), canonicalize: canonicalize? })
    }

    /// Warns about settings that matter only to Kerberos, which is not used.
    pub(super) fn warn_about_unused(&mut self, names: &[String]) -> Option<()> {
        for name in names {
            self.optional(name, |_| Ok(()))?;
            if let Some(setting) = self.settings.given(name) {
                self.warn(setting.source.clone(), name, Advice::WithoutKerberos);
            }
        }
        Some(())
    }

    /// An identity as a client, from the settings that begin with `prefix`.
    pub(super) fn kerberos_identity(
        &mut self,
        prefix: &str,
        account: &Account,
        common: &KerberosConfig,
    ) -> Option<KerberosIdentity> {
        let key = |setting: &str| format!("{prefix}{setting}");
        let realm = common.realms.default_realm().map(str::to_owned);
        let given = self.settings.given(&key("principal")).map(|_| key("principal"));
        let named = given.unwrap_or_else(|| key("user"));
        let client = self.required(&named, |text| {
            let client = match named.ends_with("principal") {
                true => Principal::parse(text, realm.as_deref()),
                false => {
                    let of_domain = |domain: &str| common.realms.realm_of_domain(domain);
                    Principal::of_account(&account.domain, &account.user, realm.as_deref(), of_domain)
                }
            };
            Ok(client.map_err(KerberosProblem::from)?)
        })?;
        let (keytab, password) = (key("keytab"), key("password_file"));
        if let Some(setting) = self.settings.given(&keytab).cloned() {
            let path = setting.path();
            if let Some(exposure) = exposure::of(&path) {
                self.warn(setting.source.clone(), &keytab, Advice::from(exposure));
            }
            let keytab = self.parse(&keytab, setting, |_| Ok(keytab_of(&path, &client, common.etypes)?))?;
            return Some(KerberosIdentity { client, secret: ClientSecret::Keytab(Arc::new(keytab)) });
        }
        let Some(setting) = self.settings.given(&password).cloned() else {
            return self.required(&named, |_| Err(KerberosProblem::NoKey.into()));
        };
        let previous = self.previous_password(&key("previous_password_file"))?;
        let secret = self.parse(&password, setting.clone(), |_| {
            let password = secrets::password_of_file(&setting)?;
            // The same password twice is no previous one.
            let previous = previous.as_ref().map(secrets::Password::reveal).filter(|text| *text != password.reveal());
            Ok(ClientSecret::passwords(password.reveal(), previous))
        })?;
        Some(KerberosIdentity { client, secret })
    }

    /// The previous password itself, if there is one.
    fn previous_password(&mut self, key: &str) -> Option<Option<secrets::Password>> {
        let Some(setting) = self.settings.given(key).cloned() else { return Some(None) };
        self.parse(key, setting.clone(), |_| match secrets::password_of_file(&setting) {
            Ok(password) => Ok(Some(password)),
            // An error is reported with the other secrets.
            Err(_) => Ok(None),
        })
    }

    /// The name of an upstream's service, if it is given.
    pub(super) fn spn(&mut self, name: &str) -> Option<Option<Spn>> {
        self.optional(name, |text| {
            let problem = || KerberosProblem::Spn { text: text.into() };
            let (name, realm) = match text.split_once('@') {
                Some((name, realm)) => (name, Some(realm)),
                None => (text, None),
            };
            let (service, host) = name.split_once('/').ok_or_else(problem)?;
            let is_word = |text: &str| !text.contains(|letter: char| letter.is_whitespace() || letter == '/');
            let name = PrincipalName::service(service, host).ok().filter(|_| is_word(service) && is_word(host));
            if realm.is_some_and(str::is_empty) {
                return Err(problem().into());
            }
            Ok(Spn { name: name.ok_or_else(problem)?, realm: realm.map(str::to_owned), is_of_host: false })
        })
    }

    /// Whether any identity is to use Kerberos, as far as the settings can be read.
    pub(super) fn mentions_kerberos(&self) -> bool {
        let mentions = |setting: Option<&Setting>| setting.is_some_and(|setting| setting.text.contains("kerberos"));
        let entries = self.settings.entries("identities").iter();
        mentions(self.settings.given("auth"))
            || entries.map(|entry| entry.settings.given("identities.auth")).any(mentions)
    }
}

fn keytab_of(path: &Path, client: &Principal, etypes: EtypeSet) -> Result<Keytab, KerberosProblem> {
    let read = File::open(path).and_then(|file| {
        // It has this size from the beginning: growing would leave copies behind that are not wiped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(limits::KEYTAB_BYTES + 1));
        let limit = u64::try_from(limits::KEYTAB_BYTES).unwrap_or(u64::MAX);
        file.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let bytes = read.map_err(|source| KerberosProblem::File { path: path.into(), source })?;
    let keytab = Keytab::parse(&bytes).map_err(|source| KerberosProblem::Keytab { path: path.into(), source })?;
    if keytab.keys_of(client, etypes).is_empty() {
        let mut others: Vec<String> = keytab.entries().iter().map(|entry| entry.principal.to_string()).collect();
        others.dedup();
        others.truncate(8);
        let others = if others.is_empty() { "nobody".to_owned() } else { others.join(", ") };
        return Err(KerberosProblem::NoSuchKey { path: path.into(), client: client.to_string(), others });
    }
    Ok(keytab)
}

impl From<KerberosProblem> for Problem {
    fn from(problem: KerberosProblem) -> Problem {
        Problem::Kerberos(Box::new(problem))
    }
}
