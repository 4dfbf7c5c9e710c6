//! Where the KDCs of a realm are: from the configuration, from krb5.conf, or from DNS. Blocking and bounded in time.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::ask::AskError;
use super::{dns, lookup};
use crate::kerberos::{DeliveryOptions, Include, KdcAddress, KdcPlace, Krb5Conf, Krb5ConfError};
use crate::limits;

/// What is known of realms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Realms {
    /// The realm of the configuration, and its KDCs. Without KDCs they are looked up.
    pub configured: Option<(String, Vec<KdcAddress>)>,
    /// krb5.conf.
    pub conf: Krb5Conf,
}

/// Why krb5.conf cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfFileError {
    /// It cannot be read.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    /// It is malformed.
    #[error("{0}")]
    Conf(#[from] Krb5ConfError),
}

impl Realms {
    /// The realm of names that have none.
    pub fn default_realm(&self) -> Option<&str> {
        let configured = self.configured.as_ref().map(|(realm, _)| realm.as_str());
        configured.or(self.conf.default_realm.as_deref())
    }

    /// The realm of a Windows domain: a name with a dot is the realm in another case, and `CORP` is the realm whose
    /// name begins with it.
    pub fn realm_of_domain(&self, domain: &str) -> Option<String> {
        let is_its = |realm: &&str| {
            realm.eq_ignore_ascii_case(domain)
                || realm.split('.').next().is_some_and(|label| label.eq_ignore_ascii_case(domain))
        };
        let known = self.default_realm().into_iter().chain(self.conf.realms());
        let mapped = || self.conf.realm_of_host(domain).filter(|_| domain.contains('.')).map(str::to_owned);
        known.filter(is_its).map(str::to_owned).next().or_else(mapped)
    }

    /// How requests are sent.
    pub fn delivery_options(&self) -> DeliveryOptions {
        let limit = self.conf.udp_preference_limit;
        DeliveryOptions { udp_preference_limit: limit.unwrap_or(limits::KDC_UDP_PREFERENCE_BYTES) }
    }

    /// The addresses of a realm's KDCs, in the order in which they are asked.
    pub(super) fn kdcs(&self, realm: &str) -> Result<Vec<KdcPlace>, AskError> {
        let no_kdc = |why: String| AskError::NoKdc { realm: realm.to_owned(), why };
        let configured = match &self.configured {
            Some((name, kdcs)) if name == realm => &kdcs[..],
            _ => &[],
        };
        let listed = if configured.is_empty() { self.conf.kdcs(realm) } else { configured };
        let found = match listed.is_empty() {
            false => listed.to_vec(),
            true if self.conf.dns_lookup_kdc == Some(false) => {
                return Err(no_kdc("none is configured, and krb5.conf forbids to ask DNS".into()));
            }
            true => dns::kdcs(realm).map_err(|why| no_kdc(format!("none is configured, and DNS has none: {why}")))?,
        };
        let found: Vec<KdcAddress> = found.into_iter().take(limits::KDCS_PER_REALM).collect();
        let hosts: Vec<&str> = found.iter().map(|address| address.host.as_str()).collect();
        let mut places = Vec::new();
        let mut why = String::new();
        for (address, resolved) in found.iter().zip(lookup::addresses(&hosts)) {
            match resolved {
                Ok(all) => {
                    let place = |ip| KdcPlace { address: ip, port: address.port, only: address.only };
                    places.extend(all.into_iter().map(place));
                }
                Err(error) => why = format!("cannot resolve {}: {error}", address.host),
            }
        }
        match places.is_empty() {
            true => Err(no_kdc(why)),
            false => Ok(places),
        }
    }
}

/// Reads a krb5.conf with what it includes. What an `include` names and cannot be read is left out, as an empty folder
/// would be.
///
/// # Errors
/// [`ConfFileError`] if the file itself cannot be used.
pub fn read_krb5_conf(path: &Path) -> Result<Krb5Conf, ConfFileError> {
    let text = read_bounded(path)?;
    Ok(Krb5Conf::parse(&text, &mut |include| match include {
        Include::File(path) => read_bounded(path).into_iter().collect(),
        Include::Folder(path) => files_of(path),
    })?)
}

pub(super) fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let limit = u64::try_from(limits::KRB5_CONF_BYTES).unwrap_or(u64::MAX);
    fs::File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// The files of a folder that `includedir` includes, by name.
fn files_of(folder: &Path) -> Vec<String> {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let counts = |path: &&std::path::PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        !name.starts_with('.') && (name.ends_with(".conf") || name.chars().all(is_plain))
    };
    paths.iter().filter(counts).filter_map(|path| read_bounded(path).ok()).collect()
}
