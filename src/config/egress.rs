//! Identities, upstreams and routes, from the plain settings and from the entries of the file's tables.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Problem};
use super::parse::{FIRST_LEGS, METHODS, Placed, Reader, SOME_NETWORK, WARM_LIMIT, network, workstation};
use super::secrets::Secret;
use super::settings::{Entry, Setting, Source};
use super::tls::{CommonTls, OF_UPSTREAM};
use super::values::ValueError;
use super::warning::{self, Advice};
use super::{
    Check, FirstLeg, IdentityConfig, KerberosConfig, Mechanisms, PreviousSecret, ProxyLogin, SecretStore, Spn,
    UpstreamConfig, UpstreamOrder, secrets,
};
use crate::limits;
use crate::ntlm::{Account, Identity, Method, NtHash};
use crate::route::{Decision, Rule, Rules};
use crate::upstream::{HostPort, WarmSize};

const ORDERS: &[(&str, UpstreamOrder)] = &[("failover", UpstreamOrder::Failover), ("balance", UpstreamOrder::Balance)];
const WEIGHTS: std::ops::RangeInclusive<usize> = 1..=1000;

const SOME_HOST: Option<&str> = Some("give at least one HOST:PORT, for example proxy.corp.example:8080");
/// An empty list in a route is rejected: it could mean nothing or everything.
const SOME_PATTERN: Option<&str> = Some("leave the setting out, or give at least one entry");

/// The name of the identity from the plain settings, and of the default group.
const DEFAULT: &str = "default";

/// Defaults for the entries of `[[identities]]`, from the plain settings.
struct IdentityDefaults {
    workstation: String,
    method: Method,
    target_domain: bool,
    mechanisms: Mechanisms,
    /// Present if an identity uses Kerberos.
    kerberos: Option<KerberosConfig>,
}

/// Defaults for the entries of `[[upstreams]]`, from the plain settings. `None` if they could not be read.
struct CommonUpstream {
    first_leg: Option<FirstLeg>,
    warm: Option<WarmSize>,
    keep: Option<usize>,
    spn: Option<Spn>,
    tls: CommonTls,
}

/// The upstreams, and the names of their groups in the order in which they first appear.
struct Upstreams {
    all: Vec<UpstreamConfig>,
    groups: Vec<String>,
    /// See [`EgressConfig`].
    system_store: Option<PathBuf>,
}

/// Everything from the three tables and from the corresponding plain settings.
pub(super) struct EgressConfig {
    pub identities: Vec<IdentityConfig>,
    pub kerberos: Option<KerberosConfig>,
    pub upstreams: Vec<UpstreamConfig>,
    pub groups: Vec<String>,
    pub order: UpstreamOrder,
    pub check: Check,
    pub rules: Rules,
    /// The file with the CAs that the system trusts, if it is in use.
    pub system_store: Option<PathBuf>,
}

impl Reader<'_> {
    pub(super) fn egress(&mut self, account: Option<Account>, secrets: &SecretStore) -> Option<EgressConfig> {
        let kerberos = match self.mentions_kerberos() {
            true => self.kerberos().map(Some),
            false => {
                let names = [
                    "kerberos.realm",
                    "kerberos.kdc",
                    "kerberos.krb5_conf",
                    "kerberos.allow_rc4",
                    "kerberos.canonicalize",
                ];
                self.warn_about_unused(&names.map(str::to_owned)).map(|()| None)
            }
        };
        let identities = kerberos.clone().and_then(|kerberos| self.identities(account, kerberos, secrets));
        let names: Option<Vec<&str>> =
            identities.as_ref().map(|all| all.iter().map(|identity| identity.name.as_str()).collect());
        let upstreams = self.upstreams(names.as_deref());
        let groups = upstreams.as_ref().map(|upstreams| upstreams.groups.clone());
        let order = self.choice("order", ORDERS);
        let check = self.check();
        let rules = self.rules(groups.as_deref());
        if let (Some(identities), Some(upstreams)) = (&identities, &upstreams) {
            self.reject_upstreams_without_mechanism(identities, &upstreams.all)?;
        }
        let upstreams = upstreams?;
        Some(EgressConfig {
            identities: identities?,
            kerberos: kerberos?,
            upstreams: upstreams.all,
            system_store: upstreams.system_store,
            groups: groups?,
            order: order?,
            check: check?,
            rules: rules?,
        })
    }

    fn identities(
        &mut self,
        account: Option<Account>,
        kerberos: Option<KerberosConfig>,
        secrets: &SecretStore,
    ) -> Option<Vec<IdentityConfig>> {
        let workstation = self.required("workstation", workstation);
        let method = self.choice("method", METHODS);
        let target_domain = self.flag("target_domain");
        let mechanisms = self.mechanisms("auth");
        let defaults = IdentityDefaults {
            workstation: workstation?,
            method: method?,
            target_domain: target_domain?,
            mechanisms: mechanisms?,
            kerberos,
        };
        let mut all = Vec::new();
        let mut names = Vec::new();
        let plain = self.settings.given("user");
        if plain.is_some() || self.settings.entries("identities").is_empty() {
            let source = plain.map_or(Source::Default, |setting| setting.source.clone());
            names.push(Placed { value: DEFAULT.into(), source });
            all.push(self.identity("", DEFAULT.into(), account, &defaults, secrets));
        }
        for entry in self.settings.entries("identities") {
            let identity = self.entry(entry, |reader| {
                let name = reader.required("identities.name", name);
                names.extend(name.clone().map(|name| entry.named("identities.name", name)));
                let domain = reader.optional("identities.domain", |text| Ok(text.to_owned()));
                let account = match domain {
                    Some(domain) => {
                        reader.required("identities.user", |text| Ok(Account::parse(text, domain.as_deref())?))
                    }
                    None => None,
                };
                reader.identity("identities.", name?, account, &defaults, secrets)
            });
            all.push(identity);
        }
        self.unique("identities", &names, limits::MAX_IDENTITIES)?;
        all.into_iter().collect()
    }

    /// Reads an identity from the settings that begin with `prefix`.
    fn identity(
        &mut self,
        prefix: &str,
        name: String,
        account: Option<Account>,
        defaults: &IdentityDefaults,
        secrets: &SecretStore,
    ) -> Option<IdentityConfig> {
        let key = |setting: &str| format!("{prefix}{setting}");
        let (workstation, method, target_domain) = match prefix {
            "" => (Some(None), Some(None), Some(None)),
            _ => (
                self.optional(&key("workstation"), workstation),
                self.optional_choice(&key("method"), METHODS),
                self.optional(&key("target_domain"), boolean),
            ),
        };
        let mechanisms = match self.settings.given(&key("auth")) {
            Some(_) => self.mechanisms(&key("auth"))?,
            None => defaults.mechanisms,
        };
        let is_keytab_enough = mechanisms.kerberos && !mechanisms.ntlm && self.settings.given(&key("keytab")).is_some();
        let nt_hash = match secrets.is_broken(self.settings, prefix) {
            true => None,
            false if is_keytab_enough && !secrets.is_given(self.settings, prefix) => Some(Secret::none()),
            false => secrets.secret(self.settings, prefix).map_err(|error| self.note_in_entry(*error)).ok(),
        };
        let nt_hash = nt_hash.map(|secret| self.hash_of(secret));
        let previous = self.previous(prefix);
        let is_replaced = target_domain.map(|own| own.unwrap_or(defaults.target_domain));
        if account.is_some() {
            self.warn_about_account(prefix, is_replaced == Some(true));
        }
        let allow_basic = self.flag(&key("allow_basic"));
        let basic = match (allow_basic, &nt_hash) {
            (Some(true), Some(_)) => self.basic_password(prefix, "password_file"),
            _ => Some(None),
        };
        let previous_basic = match (allow_basic, &previous) {
            (Some(true), Some(Some(_))) => self.basic_password(prefix, "previous_password_file"),
            _ => Some(None),
        };
        let kerberos = match (mechanisms.kerberos, &defaults.kerberos, &account) {
            (true, Some(common), Some(account)) => self.kerberos_identity(prefix, account, common).map(Some),
            // There is an error about what is missing.
            (true, ..) => None,
            (false, ..) => self.warn_about_unused(&[key("keytab"), key("principal")]).map(|()| None),
        };
        let (listen, clients, login) = match prefix {
            "" => (Some(Vec::new()), Some(Vec::new()), Some(None)),
            _ => (self.own_listeners(&name), self.list(&key("clients"), SOME_NETWORK, network).values(), self.login()),
        };
        let (account, nt_hash) = (account?, nt_hash?);
        let workstation = workstation?.unwrap_or_else(|| defaults.workstation.clone());
        let method = method?.unwrap_or(defaults.method);
        let target_domain = target_domain?.unwrap_or(defaults.target_domain);
        let identity = |hash| Identity::new(account.clone(), &workstation, hash, method, target_domain);
        // The same password twice is no previous one.
        let previous = previous?.filter(|previous| *previous != nt_hash);
        let basic_password = previous_basic?;
        let previous = previous.map(|hash| PreviousSecret { identity: identity(hash), basic_password });
        Some(IdentityConfig {
            name,
            identity: identity(nt_hash),
            mechanisms,
            kerberos: kerberos?,
            basic_password: basic?,
            previous,
            is_default: prefix.is_empty(),
            listen: listen?,
            clients: clients?,
            login: login?,
        })
    }

    /// The hash of the previous secret; the inner `None` if there is none.
    fn previous(&mut self, prefix: &str) -> Option<Option<NtHash>> {
        let previous = secrets::previous(self.settings, prefix).map_err(|error| self.note(*error)).ok()?;
        Some(previous.map(|secret| self.hash_of(secret)))
    }

    /// The hash of a secret; adds the warnings about it.
    fn hash_of(&mut self, secret: Secret) -> NtHash {
        for advice in secret.advice {
            self.warn(secret.source.clone(), &secret.key, advice);
        }
        secret.hash
    }

    fn warn_about_account(&mut self, prefix: &str, is_replaced: bool) {
        let settings = self.settings;
        let (user_key, domain_key) = (format!("{prefix}user"), format!("{prefix}domain"));
        let (user, domain) = (settings.given(&user_key), settings.given(&domain_key));
        if let Some(Setting { text, source, .. }) = domain {
            for advice in warning::of_domain(text) {
                self.warn(source.clone(), &domain_key, advice);
            }
        }
        if let Some(Setting { text, source, .. }) = user {
            for advice in warning::of_account(text, domain.is_some() || is_replaced) {
                self.warn(source.clone(), &user_key, advice);
            }
        }
    }

    /// The identity's own listening addresses, if any.
    fn own_listeners(&mut self, identity: &str) -> Option<Vec<SocketAddr>> {
        match self.settings.given("identities.listen") {
            Some(_) => self.listeners("identities.listen", identity),
            None => (!self.settings.is_broken("identities.listen")).then(Vec::new),
        }
    }

    /// Basic sends the password itself, so its hash is not enough.
    fn basic_password(&mut self, prefix: &str, password_file: &'static str) -> Option<Option<secrets::Password>> {
        let key = format!("{prefix}{password_file}");
        let Some(setting) = self.settings.given(&key).cloned() else {
            let needs_password = |_: &str| Err(Problem::BasicNeedsPassword(password_file));
            return self.required(&format!("{prefix}allow_basic"), needs_password).map(Some);
        };
        self.parse(&key, setting.clone(), |_| Ok(secrets::password_of_file(&setting)?)).map(Some)
    }

    fn login(&mut self) -> Option<Option<ProxyLogin>> {
        let user = self.optional("identities.proxy_user", |text| {
            name(text).ok().filter(|name| !name.contains(':')).ok_or(Problem::LoginName)
        })?;
        let Some(user) = user else {
            return self
                .optional("identities.proxy_password_file", |_| Err::<(), _>(Problem::Requires("proxy_user")))
                .map(|_| None);
        };
        let Some(setting) = self.settings.given("identities.proxy_password_file").cloned() else {
            if !self.settings.is_broken("identities.proxy_password_file") {
                self.required::<()>("identities.proxy_user", |_| Err(Problem::Requires("proxy_password_file")));
            }
            return None;
        };
        let key = "identities.proxy_password_file";
        let secret = self.parse(key, setting.clone(), |_| Ok(secrets::of_password_file(key, &setting)?))?;
        let password = self.hash_of(secret);
        Some(Some(ProxyLogin { user, password }))
    }

    /// The upstreams, their groups, and what they are reached with.
    fn upstreams(&mut self, identities: Option<&[&str]>) -> Option<Upstreams> {
        let first_leg = self.choice("first_leg", FIRST_LEGS);
        let spn = self.spn("spn")?;
        let warm = self.required("warm", warm_size);
        let keep = self.required("keep", |text| Ok(super::values::parse_integer(text, 0..=WARM_LIMIT)?));
        let table = self.settings.entries("upstreams");
        let mut tls = self.common_tls(self.mentions_tls())?;
        let mut groups = Vec::new();
        let mut names = Vec::new();
        let mut all = Vec::new();
        if table.is_empty() {
            groups.push(DEFAULT.to_owned());
            let hosts = self.list("upstream", SOME_HOST, proxy);
            let name = |host: &Placed<(HostPort, bool)>| {
                let (host, source) = (&host.value.0, host.source.clone());
                Placed { value: host.to_string(), source }
            };
            names.extend(hosts.entries.iter().map(name));
            all.push(hosts.values().and_then(|hosts| {
                let alone = |host: (HostPort, bool)| {
                    let tls = self.tls_of_upstream(None, "upstream", std::slice::from_ref(&host), &mut tls)?;
                    Some(UpstreamConfig {
                        name: host.0.to_string(),
                        addresses: vec![host.0],
                        group: 0,
                        weight: 1,
                        identity: None,
                        first_leg: first_leg.unwrap_or_default(),
                        auth: None,
                        spn: spn.clone(),
                        tls,
                        warm: warm.unwrap_or_default(),
                        keep: keep.unwrap_or_default(),
                    })
                };
                hosts.into_iter().map(alone).collect::<Option<Vec<_>>>()
            }));
        } else if self.settings.given("upstream").is_some() {
            let problem =
                |_: &str| Err::<(), _>(Problem::Together("move it into the file's [[upstreams]], or remove those"));
            self.required("upstream", problem);
            all.push(None);
        }
        let mut common = CommonUpstream { first_leg, warm, keep, spn, tls };
        for entry in table {
            let upstream = self.entry(entry, |reader| reader.upstream(&mut groups, identities, &mut common));
            names.extend(upstream.iter().map(|upstream| entry.named("upstreams.name", upstream.name.clone())));
            all.push(upstream.map(|upstream| vec![upstream]));
        }
        self.unique("upstreams", &names, limits::MAX_UPSTREAMS)?;
        let all: Vec<Vec<UpstreamConfig>> = all.into_iter().collect::<Option<_>>()?;
        let system_store = common.tls.system_store().map(Path::to_owned);
        let all = all.concat();
        self.warn_of_mixed_groups(&all, &names, if table.is_empty() { "upstream" } else { "upstreams.address" });
        Some(Upstreams { all, groups, system_store })
    }

    /// Warns of upstreams without TLS that take over from others that have it. `names` are theirs, in the same order.
    fn warn_of_mixed_groups(&mut self, all: &[UpstreamConfig], names: &[Placed<String>], key: &str) {
        for (upstream, name) in all.iter().zip(names) {
            let has_tls = |other: &UpstreamConfig| other.group == upstream.group && other.tls.is_some();
            if upstream.tls.is_none() && all.iter().any(has_tls) {
                self.warn(name.source.clone(), key, Advice::MixedGroup { upstream: name.value.clone() });
            }
        }
    }

    fn upstream(
        &mut self,
        groups: &mut Vec<String>,
        identities: Option<&[&str]>,
        common: &mut CommonUpstream,
    ) -> Option<UpstreamConfig> {
        let addresses = self.list("upstreams.address", SOME_HOST, proxy).values();
        let tls = addresses
            .as_ref()
            .and_then(|hosts| self.tls_of_upstream(Some(OF_UPSTREAM), "upstreams.address", hosts, &mut common.tls));
        let given_name = self.optional("upstreams.name", name);
        let group = self.required("upstreams.group", name);
        let weight = self.required("upstreams.weight", |text| Ok(super::values::parse_integer(text, WEIGHTS)?));
        let identity = self.identity_named("upstreams.identity", identities);
        let own_leg = self.optional_choice("upstreams.first_leg", FIRST_LEGS);
        let auth = self.optional_mechanisms("upstreams.auth");
        let own_spn = self.spn("upstreams.spn");
        let own_warm = self.optional("upstreams.warm", warm_size);
        let own_keep = self.optional("upstreams.keep", |text| Ok(super::values::parse_integer(text, 0..=WARM_LIMIT)?));
        let (group, addresses) = (group?, addresses?);
        let addresses: Vec<HostPort> = addresses.into_iter().map(|(host, _)| host).collect();
        let number = groups.iter().position(|known| *known == group).unwrap_or_else(|| {
            groups.push(group);
            groups.len() - 1
        });
        Some(UpstreamConfig {
            name: given_name?.unwrap_or_else(|| addresses.first().map(ToString::to_string).unwrap_or_default()),
            addresses,
            group: number,
            weight: u32::try_from(weight?).unwrap_or(1),
            identity: identity?,
            first_leg: own_leg?.or(common.first_leg)?,
            auth: auth?,
            spn: own_spn?.or_else(|| common.spn.clone()),
            tls: tls?,
            warm: own_warm?.or(common.warm)?,
            keep: own_keep?.or(common.keep)?,
        })
    }

    /// Whether some upstream is reached with TLS, as far as the settings can be read.
    fn mentions_tls(&self) -> bool {
        let is_tls = |setting: Option<&Setting>| {
            let parts = setting.map(Setting::parts).unwrap_or_default();
            parts.iter().any(|part| HostPort::of_proxy(&part.text).is_ok_and(|(_, is_tls)| is_tls))
        };
        let entries = self.settings.entries("upstreams").iter();
        is_tls(self.settings.given("upstream"))
            || entries.map(|entry| entry.settings.given("upstreams.address")).any(is_tls)
    }

    fn check(&mut self) -> Option<Check> {
        let target = self.optional("check_target", |text| Ok(text.parse::<HostPort>()?))?;
        let ways = [("tcp", false), ("handshake", true)];
        match (self.choice("check", &ways)?, target) {
            (false, _) => Some(Check::Tcp),
            (true, Some(target)) => Some(Check::Handshake { target: target.to_string() }),
            (true, None) => self.required("check", |_| Err(Problem::Requires("check_target"))),
        }
    }

    fn rules(&mut self, groups: Option<&[String]>) -> Option<Rules> {
        let names: Option<Vec<&str>> = groups.map(|groups| groups.iter().map(String::as_str).collect());
        let mut rules = Vec::new();
        for entry in self.settings.entries("routes") {
            rules.push(self.entry(entry, |reader| reader.rule(names.as_deref())));
        }
        let no_proxy = self.list("no_proxy", None, pattern).values();
        let without_credentials = self.list("without_credentials", None, pattern).values();
        Some(Rules {
            rules: rules.into_iter().collect::<Option<_>>()?,
            no_proxy: no_proxy?,
            without_credentials: without_credentials?,
        })
    }

    fn rule(&mut self, groups: Option<&[&str]>) -> Option<Rule> {
        let hosts = self.list("routes.host", SOME_PATTERN, pattern).values();
        let networks = self.list("routes.network", SOME_NETWORK, network).values();
        let ports = self.list("routes.port", SOME_PATTERN, pattern).values();
        let decision = self.required("routes.to", |text| match text {
            "direct" => Ok(Decision::Direct),
            "deny" => Ok(Decision::Deny),
            group => one_of(groups, group, ("groups", ", direct, deny")).map(Decision::Group),
        });
        Some(Rule { hosts: hosts?, networks: networks?, ports: ports?, decision: decision? })
    }

    /// The identity, by index, that an optional setting names.
    pub(super) fn identity_named(&mut self, setting: &str, identities: Option<&[&str]>) -> Option<Option<usize>> {
        self.optional(setting, |text| one_of(identities, text, ("identities", "")))
    }

    /// Reads the settings of one entry; its errors and warnings are added to the others.
    pub(super) fn entry<T>(&mut self, entry: &Entry, read: impl FnOnce(&mut Reader<'_>) -> Option<T>) -> Option<T> {
        let mut reader = Reader {
            settings: &entry.settings,
            entry: Some(&entry.source),
            is_open: self.is_open,
            addresses: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        };
        let value = read(&mut reader);
        self.addresses.append(&mut reader.addresses);
        self.errors.append(&mut reader.errors);
        self.warnings.append(&mut reader.warnings);
        value
    }

    /// The error about a missing secret has no place of its own; it then gets the place of the entry.
    fn note_in_entry(&mut self, mut error: ConfigError) {
        if let (Source::Default, Some(entry)) = (&error.source, self.entry) {
            error.source = entry.clone();
        }
        self.note(error);
    }

    /// Adds an error for each duplicate name, and for the first name beyond `max`.
    fn unique(&mut self, table: &str, names: &[Placed<String>], max: usize) -> Option<()> {
        let noted = self.errors.len();
        for (index, Placed { value, source }) in names.iter().enumerate() {
            let first = names.iter().take(index).find(|first| first.value == *value);
            let problem = match first {
                Some(first) => Problem::Twice { name: value.clone(), other: first.source.clone() },
                None if index == max => Problem::TooMany { max },
                None => continue,
            };
            self.note(ConfigError { source: source.clone(), key: table.into(), problem });
        }
        (self.errors.len() == noted).then_some(())
    }
}

/// A name as used in logs, metrics and routes.
fn name(text: &str) -> Result<String, Problem> {
    let fits = (1..=64).contains(&text.len()) && text.chars().all(|letter| letter.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err(Problem::Name { text: text.into() }) }
}

pub(super) fn boolean(text: &str) -> Result<bool, Problem> {
    text.parse().map_err(|_| Problem::Choice { text: text.into(), choices: "true, false".into() })
}

/// The address of a proxy, and whether it is reached with TLS.
fn proxy(text: &str) -> Result<(HostPort, bool), Problem> {
    Ok(HostPort::of_proxy(text)?)
}

fn warm_size(text: &str) -> Result<WarmSize, Problem> {
    if text == "auto" {
        return Ok(WarmSize::Auto);
    }
    let number = super::values::parse_integer(text, 0..=WARM_LIMIT);
    let neither = || ValueError::AutoOrInteger { text: text.into(), max: WARM_LIMIT };
    Ok(WarmSize::Fixed(number.map_err(|_| neither())?))
}

fn pattern<T: std::str::FromStr>(text: &str) -> Result<T, Problem>
where
    Problem: From<T::Err>,
{
    Ok(text.parse()?)
}

/// The index of a name among the known ones, which `what` names; `further` are other allowed words. If the known names
/// could not be read, there are other errors already, and any name is accepted.
fn one_of(known: Option<&[&str]>, text: &str, (what, further): (&str, &str)) -> Result<usize, Problem> {
    let Some(known) = known else { return Ok(0) };
    known.iter().position(|name| *name == text).ok_or_else(|| Problem::Choice {
        text: text.into(),
        choices: format!("the {what} ({}){further}", known.join(", ")),
    })
}

impl Reader<'_> {
    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        self.required(name, boolean)
    }
}
