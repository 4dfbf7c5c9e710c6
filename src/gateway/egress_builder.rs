//! Builds the egress from the configuration, at the start and at each reload. Unchanged upstreams and identities keep
//! their state.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::guard_start::GuardStart;
use super::identity_guard::SecretRole;
use super::kerberos::{ManagedTickets, only_keytab};
use crate::auth::{Credentials, SpeaksNtlm, TicketSlot, TokenTimes};
use crate::config::{Check, Config, IdentityConfig, Logon, UpstreamConfig};
use crate::egress::{
    CurrentEgress, Egress, Guesses, Habits, Hop, KnownIdentity, ListenerUse, Logins, Member, ReportedChoice,
    Unchallenged, check_by_handshake, probe,
};
use crate::event::Sender;
use crate::limits::millis;
use crate::metrics::{CertificateOwner, Metrics, UpstreamMetrics};
use crate::shard::Message;
use crate::tls::TlsSettings;
use crate::transport::BlockingStream;
use crate::upstream::{
    Accounts, Checker, Guard, GuardState, HealthChange, HostPort, OwnAddresses, Question, Resolution, Resolver,
    Upstream, without_name,
};

/// The mailboxes through which the shards are notified; set once the shards exist.
pub(super) type ShardNotifier = Arc<OnceLock<Vec<Sender<Message>>>>;

/// What the parts of the egress are built with, for the life of the process.
pub(super) struct Builder {
    pub metrics: Arc<Metrics>,
    pub notifier: ShardNotifier,
    /// The guard's accounts outlive every configuration.
    pub accounts: Accounts,
    /// What is behind them.
    pub guard: GuardStart,
    /// The zero of the process's clock.
    pub epoch: Instant,
    /// The addresses for clients, as configured at the start.
    pub listen: Vec<SocketAddr>,
    /// Counts wrong logins of clients.
    pub guesses: Arc<Guesses>,
    /// The addresses that it listens on.
    pub own: OwnAddresses,
    /// Times of Kerberos tokens.
    pub token_times: Arc<TokenTimes>,
}

/// The egress, with its threads and what the next reload needs.
pub(super) struct ManagedEgress {
    pub current: CurrentEgress,
    identities: Vec<ManagedIdentity>,
    upstreams: Vec<ManagedUpstream>,
}

struct ManagedIdentity {
    config: IdentityConfig,
    guard: Arc<Guard>,
    /// That of the previous secret.
    previous: Option<Arc<Guard>>,
    /// Set when the identity is gone: its guards then no longer write logs and metrics.
    retired: Arc<AtomicBool>,
    /// Present if it uses Kerberos.
    tickets: Option<ManagedTickets>,
}

struct ManagedUpstream {
    addresses: Vec<HostPort>,
    upstream: Arc<Upstream>,
    metrics: UpstreamMetrics,
    check: CheckSlot,
    /// Lost with the upstream, at a reload that changes its name or addresses.
    speaks_ntlm: Arc<SpeaksNtlm>,
    _resolvers: Vec<Resolver>,
}

/// The identity for checks of an upstream, and the target if checks are handshakes.
type CheckSlot = Arc<Mutex<Option<(Arc<Hop>, Option<String>)>>>;

/// Breaks a cycle: the hop in the slot holds the upstream, whose checker holds the slot.
impl Drop for ManagedUpstream {
    fn drop(&mut self) {
        *lock(&self.check) = None;
        self.upstream.health.retire();
    }
}

impl ManagedEgress {
    /// Builds the egress of a configuration. Unchanged upstreams and guards are taken over from `old`.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(super) fn build(config: &Config, builder: &Builder, old: Option<ManagedEgress>) -> io::Result<ManagedEgress> {
        let listeners = uses_of_listeners(config, &builder.listen, old.as_ref().map(|old| &*old.current.listeners));
        let (mut old_identities, mut old_upstreams) =
            old.map_or_else(Default::default, |old| (old.identities, old.upstreams));
        let mut old_tickets: HashMap<String, ManagedTickets> =
            old_identities.iter_mut().filter_map(|old| Some((old.config.name.clone(), old.tickets.take()?))).collect();
        let mut identities: Vec<ManagedIdentity> =
            config.identities.iter().map(|identity| builder.identity(identity, &mut old_identities)).collect();
        for (place, identity) in identities.iter_mut().enumerate() {
            let old = old_tickets.remove(&identity.config.name);
            identity.tickets = ManagedTickets::of(config, place, &identity.guard, old, builder)?;
        }
        for gone in old_identities {
            gone.retired.store(true, Ordering::Relaxed);
            if !config.identities.iter().any(|identity| identity.name == gone.config.name) {
                builder.metrics.forget_identity(&gone.config.name);
            }
        }
        // DNS may be failing right now, so a changed upstream starts with the addresses known for its old names.
        let known: Vec<Arc<Upstream>> = old_upstreams.iter().map(|old| Arc::clone(&old.upstream)).collect();
        let mut upstreams = Vec::new();
        for upstream in &config.upstreams {
            upstreams.push(builder.upstream(upstream, &mut old_upstreams, &known)?);
        }
        for gone in old_upstreams {
            if !config.upstreams.iter().any(|upstream| *upstream.name == **gone.upstream.name()) {
                builder.metrics.forget_upstream(gone.upstream.name());
            }
        }
        for identity in &identities {
            for guard in identity.guards() {
                upstreams.iter().for_each(|upstream| guard.expect(upstream.upstream.name()));
            }
        }
        let egress = egress(config, builder, &identities, &upstreams, listeners);
        let egress = CurrentEgress::new(egress, logins(config), Arc::clone(&builder.guesses));
        for (member, upstream) in upstreams.iter().enumerate() {
            let hop = egress.hop(member, None).cloned();
            let target = match &config.check {
                Check::Tcp => None,
                Check::Handshake { target } => Some(target.clone()),
            };
            *lock(&upstream.check) = hop.map(|hop| (hop, target));
        }
        Ok(ManagedEgress { current: egress, identities, upstreams })
    }

    /// For how long no identity may be tried, if all of them were refused everywhere.
    pub(super) fn held(&self, now_ms: u64) -> Option<Duration> {
        let held = |identity: &ManagedIdentity, upstream: &ManagedUpstream| {
            let upstream = upstream.upstream.name();
            identity.guard_in_use(now_ms, upstream).held(now_ms, upstream)
        };
        let hops = self
            .identities
            .iter()
            .flat_map(|identity| self.upstreams.iter().map(move |upstream| held(identity, upstream)));
        let pauses: Option<Vec<Duration>> = hops.collect();
        pauses?.into_iter().min()
    }

    /// Whether some identity's secret is accepted by some upstream.
    pub(super) fn is_proven(&self) -> bool {
        let mut guards = self.identities.iter().flat_map(ManagedIdentity::guards);
        guards.any(|guard| guard.state() == GuardState::Proven)
    }

    /// Sets the metrics that change with time alone.
    pub(super) fn measure(&self, metrics: &Metrics, epoch: Instant) {
        let now_ms = millis(epoch.elapsed());
        let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        for managed in &self.upstreams {
            let (name, tls) = (managed.upstream.name(), managed.upstream.transport().tls());
            let (server, client) =
                (tls.and_then(TlsSettings::server_not_after), tls.and_then(TlsSettings::client_not_after));
            metrics.tls.certificate(name, CertificateOwner::Server, server);
            metrics.tls.certificate(name, CertificateOwner::Client, client);
        }
        for identity in &self.identities {
            let status = identity.guard.status(now_ms);
            let accepted = status.accepted_ms.map_or(0, |at_ms| now_seconds - (now_ms - at_ms) / 1000);
            metrics.guard.status(&identity.config.name, status, i64::try_from(accepted).unwrap_or(i64::MAX));
            let uses = |managed: &ManagedUpstream| identity.guard.uses_previous(now_ms, managed.upstream.name());
            let for_tickets = identity.tickets.as_ref().is_some_and(ManagedTickets::uses_previous_password);
            metrics.guard.previous_secret(&identity.config.name, for_tickets || self.upstreams.iter().any(uses));
        }
    }

    /// Why no client could be served now; `None` if clients can be served.
    pub(super) fn unready(&self) -> Option<String> {
        let mut why = String::new();
        for managed in &self.upstreams {
            match (managed.upstream.health.why_down(), managed.upstream.resolution()) {
                (Some(down), _) => {
                    let name = managed.upstream.name();
                    why = format!("no upstream is up; {name}: {}", without_name(name, &down));
                }
                (None, Some(Resolution::Addresses(_))) => return None,
                (None, _) => why = "the upstream's name is not resolved".into(),
            }
        }
        Some(why)
    }

    /// Whether a configuration has other secrets or accounts than this egress.
    pub(super) fn has_other_secrets(&self, config: &Config) -> bool {
        let same = |old: &ManagedIdentity, new: &IdentityConfig| is_same_account(&old.config, new);
        self.identities.len() != config.identities.len()
            || !self.identities.iter().zip(&config.identities).all(|(old, new)| same(old, new))
    }
}

impl ManagedIdentity {
    /// The guards of its secrets.
    fn guards(&self) -> impl Iterator<Item = &Arc<Guard>> {
        [&self.guard].into_iter().chain(&self.previous)
    }

    /// The guard of the secret that clients use at an upstream.
    fn guard_in_use(&self, now_ms: u64, upstream: &Arc<str>) -> &Arc<Guard> {
        self.previous.as_ref().filter(|_| self.guard.uses_previous(now_ms, upstream)).unwrap_or(&self.guard)
    }
}

fn egress(
    config: &Config,
    builder: &Builder,
    identities: &[ManagedIdentity],
    upstreams: &[ManagedUpstream],
    listeners: Vec<ListenerUse>,
) -> Egress {
    let known: Vec<Arc<KnownIdentity>> =
        identities.iter().map(|managed| known_identity(managed, &managed.guard)).collect();
    let before: Vec<Option<Arc<KnownIdentity>>> = identities
        .iter()
        .map(|managed| managed.previous.as_ref().map(|guard| known_identity(managed, guard)))
        .collect();
    let (mut hops, mut previous_hops) = (Vec::new(), Vec::new());
    for (managed, of_config) in upstreams.iter().zip(&config.upstreams) {
        let hop = |number, identity: &Arc<KnownIdentity>, credentials: Credentials, previous| {
            Arc::new(Hop {
                number,
                upstream: Arc::clone(&managed.upstream),
                identity: Arc::clone(identity),
                credentials: Arc::new(credentials.with_knowledge(&managed.speaks_ntlm)),
                previous,
                metrics: builder.metrics.hop(managed.upstream.name(), &identity.name),
                upstream_metrics: managed.metrics.clone(),
                warm: of_config.warm,
                check_target: match &config.check {
                    Check::Tcp => None,
                    Check::Handshake { target } => Some(target.as_str().into()),
                },
                keep_cap: of_config.keep,
                habits: Habits::default(),
                reported: ReportedChoice::default(),
                unchallenged: Unchallenged::default(),
            })
        };
        for ((identity, known), before) in identities.iter().zip(&known).zip(&before) {
            let may_use_ntlm = of_config.mechanisms_of(&identity.config).ntlm;
            let previous = identity.config.previous().filter(|_| may_use_ntlm);
            let previous = previous.zip(before.as_ref()).map(|(logon, known)| {
                let number = upstreams.len() * identities.len() + previous_hops.len();
                hop(number, known, with_basic(ntlm_credentials(logon, of_config), logon), None)
            });
            previous_hops.extend(previous.clone());
            hops.push(hop(hops.len(), known, credentials(identity, of_config), previous));
        }
    }
    hops.append(&mut previous_hops);
    let member = |(managed, of_config): (&ManagedUpstream, &UpstreamConfig)| Member {
        upstream: Arc::clone(&managed.upstream),
        metrics: managed.metrics.clone(),
        group: of_config.group,
        weight: of_config.weight,
        identity: of_config.identity,
    };
    let rules = Arc::new(config.rules.clone());
    Egress {
        members: upstreams.iter().zip(&config.upstreams).map(member).collect(),
        identities: known,
        hops,
        order: config.order,
        routes: rules.clone(),
        rules,
        listeners,
        own: builder.own.clone(),
    }
}

fn known_identity(managed: &ManagedIdentity, guard: &Arc<Guard>) -> Arc<KnownIdentity> {
    Arc::new(KnownIdentity {
        name: managed.config.name.as_str().into(),
        guard: Arc::clone(guard),
        clients: managed.config.clients.clone(),
        has_listener: !managed.config.listen.is_empty() && !managed.config.is_default,
        has_login: managed.config.login.is_some(),
    })
}

/// What the present secret authenticates with at an upstream.
fn credentials(managed: &ManagedIdentity, upstream: &UpstreamConfig) -> Credentials {
    let identity = &managed.config;
    let listed = upstream.mechanisms_of(identity);
    let tickets = managed.tickets.as_ref().filter(|_| listed.kerberos);
    let slot = tickets.and_then(|tickets| tickets.slot(&upstream.service())).cloned();
    let ntlm = ntlm_credentials(identity.present(), upstream);
    let credentials = match slot {
        Some(slot) => ntlm.with_kerberos(slot, !listed.ntlm),
        None if listed.ntlm => ntlm,
        // The configuration's check guarantees that no client uses this identity at this upstream.
        None => {
            let why = "the configuration lists no mechanism for this identity at this upstream";
            return ntlm.with_kerberos(Arc::new(TicketSlot::without_ticket(why)), true);
        }
    };
    with_basic(credentials, identity.present())
}

fn ntlm_credentials(logon: Logon<'_>, upstream: &UpstreamConfig) -> Credentials {
    let host = upstream.addresses.first().map(HostPort::host).unwrap_or_default();
    Credentials::new(logon.identity.clone(), host, upstream.first_leg)
}

fn with_basic(credentials: Credentials, logon: Logon<'_>) -> Credentials {
    credentials.with_basic(logon.basic.map(|password| password.reveal()))
}

fn logins(config: &Config) -> Logins {
    let mut logins = Logins::default();
    for (place, identity) in config.identities.iter().enumerate() {
        if let Some(login) = &identity.login {
            logins.add(&login.user, login.password.clone(), place);
        }
    }
    logins
}

/// Which identity the clients of each bound address use. `listen` are the addresses bound at the start; `before` are
/// their uses so far. Identities are matched by address, not by position, because a reload changes the identities but
/// not the listeners.
///
/// If an identity's own address is no longer in the configuration, or has another port, it must not become a common
/// address: its clients would silently use the default identity. A common address stays common until the next start.
fn uses_of_listeners(config: &Config, listen: &[SocketAddr], before: Option<&[ListenerUse]>) -> Vec<ListenerUse> {
    let use_of = |(place, address): (usize, &SocketAddr)| {
        let owner = config.identities.iter().position(|identity| identity.listen.contains(address));
        let before = before.and_then(|before| before.get(place)).copied();
        match (owner, before) {
            (Some(owner), _) => ListenerUse::Own(owner),
            (None, _) if config.common_listen.contains(address) => ListenerUse::Common,
            (None, Some(ListenerUse::Own(_))) => {
                log::warn!(
                    "{address} no longer belongs to an identity: requests there are refused until the next start"
                );
                ListenerUse::Withdrawn
            }
            (None, Some(ListenerUse::Withdrawn)) => ListenerUse::Withdrawn,
            (None, Some(ListenerUse::Common) | None) => ListenerUse::Common,
        }
    };
    listen.iter().enumerate().map(use_of).collect()
}

impl Builder {
    fn identity(&self, config: &IdentityConfig, old: &mut Vec<ManagedIdentity>) -> ManagedIdentity {
        let same = |old: &ManagedIdentity| old.config.name == config.name && is_same_account(&old.config, config);
        if let Some(place) = old.iter().position(same) {
            let kept = old.swap_remove(place);
            return ManagedIdentity { config: config.clone(), ..kept };
        }
        let retired = Arc::new(AtomicBool::new(false));
        let previous = config.previous().map(|logon| self.guard(config, SecretRole::Previous(logon), &retired));
        let role = if config.previous.is_some() { SecretRole::Present } else { SecretRole::Only };
        let guard = self.guard(config, role, &retired);
        self.metrics.guard.changed(&config.name, guard.state());
        self.metrics.guard.previous_secret(&config.name, false);
        ManagedIdentity { config: config.clone(), guard, previous, retired, tickets: None }
    }

    fn upstream(
        &self,
        config: &UpstreamConfig,
        old: &mut Vec<ManagedUpstream>,
        known: &[Arc<Upstream>],
    ) -> io::Result<ManagedUpstream> {
        let same = |old: &ManagedUpstream| {
            **old.upstream.name() == *config.name
                && old.addresses == config.addresses
                && *old.upstream.transport() == config.transport()
        };
        if let Some(place) = old.iter().position(same) {
            return Ok(old.swap_remove(place));
        }
        // A reload that only replaces a certificate must not forget that the upstream has used NTLM.
        let is_same_place =
            |old: &&ManagedUpstream| **old.upstream.name() == *config.name && old.addresses == config.addresses;
        let speaks_ntlm = old.iter().find(is_same_place).map(|old| Arc::clone(&old.speaks_ntlm)).unwrap_or_default();
        let metrics = self.metrics.upstream(&config.name);
        metrics.up.set(1);
        let (checker, wake_checker) = Checker::new();
        let (counted, name) = (metrics.clone(), config.name.clone());
        let upstream = Upstream::new(&config.name, config.addresses.clone(), config.transport(), move |change| {
            match change {
                HealthChange::Doubted => log::debug!("upstream {name} fails for some clients and is probed"),
                HealthChange::Ejected(why) => {
                    counted.up.set(0);
                    counted.ejections.inc();
                    let why = without_name(&name, why);
                    log::warn!("upstream {name} is ejected: {why}; it is checked until it answers again");
                }
                HealthChange::Returned => {
                    counted.up.set(1);
                    log::info!("upstream {name} answers again");
                }
            }
            // This fails only when the upstream is gone too.
            let _ = wake_checker.send(());
        });
        let check = CheckSlot::default();
        let slot = Arc::clone(&check);
        let epoch = self.epoch;
        checker.start(&upstream, epoch, move |stream: BlockingStream, question| {
            let slot = lock(&slot).clone();
            match (question, slot) {
                (Question::MayItReturn, Some((hop, Some(target)))) => {
                    check_by_handshake(hop.in_use(millis(epoch.elapsed())), &target, epoch, stream)
                }
                (Question::IsItAlive, Some((hop, _))) => probe(&hop, epoch, stream),
                _ => Ok(()),
            }
        })?;
        let mut resolvers = Vec::new();
        for (place, host) in config.addresses.iter().enumerate() {
            let initial = known_addresses(host, known);
            resolvers.push(self.resolver(host, place, initial, &upstream, &metrics)?);
        }
        Ok(ManagedUpstream {
            addresses: config.addresses.clone(),
            upstream,
            metrics,
            check,
            speaks_ntlm,
            _resolvers: resolvers,
        })
    }

    fn resolver(
        &self,
        host: &HostPort,
        place: usize,
        initial: Option<Resolution>,
        upstream: &Arc<Upstream>,
        metrics: &UpstreamMetrics,
    ) -> io::Result<Resolver> {
        let (of_upstream, addresses) = (Arc::downgrade(upstream), metrics.addresses.clone());
        let (notifier, own, name) = (Arc::clone(&self.notifier), self.own.clone(), host.clone());
        let on_resolution = move |resolution| {
            let Some(upstream) = of_upstream.upgrade() else { return };
            let (resolution, left_out) = own.strip(resolution);
            for address in left_out {
                log::error!(
                    "upstream {name} resolves to {address}, where the gateway itself listens; this address is not used"
                );
            }
            let count = upstream.resolved(place, resolution);
            addresses.set(i64::try_from(count).unwrap_or(i64::MAX));
            notify(&notifier, || Message::UpstreamResolved);
        };
        initial.iter().cloned().for_each(&on_resolution);
        Resolver::start(host.clone(), initial, on_resolution)
    }
}

/// The addresses of a host as known to one of the upstreams, with the host's port. The rest of an address, such as an
/// IPv6 scope, is kept.
fn known_addresses(host: &HostPort, upstreams: &[Arc<Upstream>]) -> Option<Resolution> {
    let mut found =
        upstreams.iter().map(|upstream| upstream.addresses_of_host(host.host())).find(|found| !found.is_empty())?;
    found.iter_mut().for_each(|address| address.set_port(host.port()));
    Some(Resolution::Addresses(found.into()))
}

pub(super) fn notify(notifier: &ShardNotifier, message: impl Fn() -> Message) {
    for shard in notifier.get().into_iter().flatten() {
        shard.send(message());
    }
}

/// `DOMAIN\user`, or the user alone.
pub(super) fn account_of(config: &IdentityConfig) -> String {
    config.identity.account().to_string()
}

fn is_same_account(old: &IdentityConfig, new: &IdentityConfig) -> bool {
    let account = |config: &IdentityConfig| {
        let identity = &config.identity;
        (identity.domain().to_owned(), identity.user().to_owned(), identity.method(), identity.target_domain())
    };
    let previous = |config: &IdentityConfig| {
        let secret = config.previous.as_ref();
        secret.map(|secret| (secret.identity.nt_hash().clone(), secret.basic_password.clone()))
    };
    old.name == new.name
        && old.identity.nt_hash() == new.identity.nt_hash()
        && old.basic_password == new.basic_password
        && only_keytab(old) == only_keytab(new)
        && previous(old) == previous(new)
        && account(old) == account(new)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Transport;
    use std::net::{Ipv6Addr, SocketAddrV6};

    #[test]
    fn a_known_address_takes_the_new_port_and_keeps_its_scope() {
        let hosts = ["proxy.test:3128", "proxy.test:8080"].map(|host| host.parse::<HostPort>().unwrap());
        let scoped = |host: &HostPort| {
            let address = SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), host.port(), 7, 3);
            Resolution::Addresses([address.into()].into())
        };
        let upstream = Upstream::new("before", vec![hosts[0].clone()], Transport::Tcp, |_| {});
        assert_eq!(known_addresses(&hosts[1], &[Arc::clone(&upstream)]), None);
        upstream.resolved(0, scoped(&hosts[0]));
        assert_eq!(known_addresses(&hosts[1], &[upstream]), Some(scoped(&hosts[1])));
    }
}
