//! Building the egress from the configuration, at the start and at each reload: what both configurations name alike lives on.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::auth::{Credentials, SpeaksNtlm};
use crate::config::{self, Check, Config, IdentityConfig, UpstreamConfig};
use crate::egress::{
    CurrentEgress, Egress, Guesses, Habits, Hop, KnownIdentity, ListenerUse, Logins, Member, Order, Unasked,
    check_by_handshake, probe,
};
use crate::event::Sender;
use crate::metrics::{Metrics, UpstreamMetrics};
use crate::shard::Message;
use crate::upstream::{
    Account, Accounts, Checker, Guard, GuardChange, GuardState, HealthChange, HostPort, OwnAddresses, Question,
    Resolution, Resolver, Upstream, without_name,
};

/// What the shards are told by; filled once they are there.
pub(super) type ShardNotifier = Arc<OnceLock<Vec<Sender<Message>>>>;

/// What every part of the egress is made with.
pub(super) struct Builder {
    pub metrics: Arc<Metrics>,
    pub bell: ShardNotifier,
    /// What was found out about accounts outlives every configuration.
    pub accounts: Accounts,
    /// When the process's clock began.
    pub epoch: Instant,
    /// The addresses that clients come in by, as configured at the start.
    pub listen: Vec<SocketAddr>,
    /// The ports that the gateway listens on.
    pub own_ports: Vec<u16>,
    /// Counts clients' wrong logins.
    pub guesses: Arc<Guesses>,
    /// The addresses that it listens on.
    pub own: OwnAddresses,
}

/// The egress, and what keeps it going.
pub(super) struct ManagedEgress {
    pub current: CurrentEgress,
    identities: Vec<OwnIdentity>,
    upstreams: Vec<OwnUpstream>,
}

struct OwnIdentity {
    config: IdentityConfig,
    guard: Arc<Guard>,
    /// Its guard has no say in logs and metrics any more.
    retired: Arc<AtomicBool>,
}

struct OwnUpstream {
    addresses: Vec<HostPort>,
    upstream: Arc<Upstream>,
    metrics: UpstreamMetrics,
    /// The handshake that a check does, if it does one.
    check: CheckSlot,
    /// Forgotten with the upstream: at a reload that changes its name or addresses.
    speaks_ntlm: Arc<SpeaksNtlm>,
    _resolvers: Vec<Resolver>,
}

/// As whom it is checked, and by a handshake for which target, if by one.
type CheckSlot = Arc<Mutex<Option<(Arc<Hop>, Option<String>)>>>;

/// The hop in the slot holds the upstream, whose checker holds the slot.
impl Drop for OwnUpstream {
    fn drop(&mut self) {
        *lock(&self.check) = None;
        self.upstream.health.retire();
    }
}

impl ManagedEgress {
    /// Builds the egress of a configuration; upstreams and guards of `old` live on where nothing about them has changed.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn build(config: &Config, builder: &Builder, old: Option<ManagedEgress>) -> io::Result<ManagedEgress> {
        let listeners = uses_of_listeners(config, &builder.listen, old.as_ref().map(|old| &*old.current.listeners));
        let (mut old_identities, mut old_upstreams) =
            old.map_or_else(Default::default, |old| (old.identities, old.upstreams));
        let identities: Vec<OwnIdentity> =
            config.identities.iter().map(|identity| builder.identity(identity, &mut old_identities)).collect();
        for gone in old_identities {
            gone.retired.store(true, Ordering::Relaxed);
            if !config.identities.iter().any(|identity| identity.name == gone.config.name) {
                builder.metrics.forget_identity(&gone.config.name);
            }
        }
        // Names may be gone just now: what an upstream that was changed is known by, the new one is, too.
        let known: Vec<Arc<Upstream>> = old_upstreams.iter().map(|own| Arc::clone(&own.upstream)).collect();
        let mut upstreams = Vec::new();
        for upstream in &config.upstreams {
            upstreams.push(builder.upstream(upstream, &mut old_upstreams, &known)?);
        }
        for gone in old_upstreams {
            if !config.upstreams.iter().any(|upstream| *upstream.name == **gone.upstream.name()) {
                builder.metrics.forget_upstream(gone.upstream.name());
            }
        }
        let egress = egress(config, builder, &identities, &upstreams, listeners);
        let egress = CurrentEgress::new(egress, logins(config), Arc::clone(&builder.guesses));
        for (member, own) in upstreams.iter().enumerate() {
            let hop = egress.hop(member, None).cloned();
            let target = match &config.check {
                Check::Tcp => None,
                Check::Handshake { target } => Some(target.clone()),
            };
            *lock(&own.check) = hop.map(|hop| (hop, target));
        }
        Ok(ManagedEgress { current: egress, identities, upstreams })
    }

    /// How long no identity is tried any more, if all were refused.
    pub(super) fn held(&self, now_ms: u64) -> Option<Duration> {
        let held = |own: &OwnIdentity, upstream: &OwnUpstream| own.guard.held(now_ms, upstream.upstream.name());
        let ways =
            self.identities.iter().flat_map(|own| self.upstreams.iter().map(move |upstream| held(own, upstream)));
        let rests: Option<Vec<Duration>> = ways.collect();
        rests?.into_iter().min()
    }

    /// Why no client could be served now, if so.
    pub(super) fn unready(&self) -> Option<String> {
        let mut why = String::new();
        for own in &self.upstreams {
            match (own.upstream.health.why_down(), own.upstream.resolution()) {
                (Some(down), _) => {
                    let name = own.upstream.name();
                    why = format!("no upstream is up; {name}: {}", without_name(name, &down));
                }
                (None, Some(Resolution::Addresses(_))) => return None,
                (None, _) => why = "the upstream's name is not resolved".into(),
            }
        }
        Some(why)
    }

    /// Whether a configuration has other secrets or accounts than this was built of.
    pub(super) fn has_other_secrets(&self, config: &Config) -> bool {
        let same = |own: &OwnIdentity, new: &IdentityConfig| is_same_account(&own.config, new);
        self.identities.len() != config.identities.len()
            || !self.identities.iter().zip(&config.identities).all(|(own, new)| same(own, new))
    }
}

fn egress(
    config: &Config,
    builder: &Builder,
    identities: &[OwnIdentity],
    upstreams: &[OwnUpstream],
    listeners: Vec<ListenerUse>,
) -> Egress {
    let known: Vec<Arc<KnownIdentity>> = identities.iter().map(known_identity).collect();
    let mut hops = Vec::new();
    for (own, of_config) in upstreams.iter().zip(&config.upstreams) {
        for (identity, known) in identities.iter().zip(&known) {
            hops.push(Arc::new(Hop {
                number: hops.len(),
                upstream: Arc::clone(&own.upstream),
                identity: Arc::clone(known),
                credentials: Arc::new(credentials(&identity.config, of_config).with_knowledge(&own.speaks_ntlm)),
                metrics: builder.metrics.hop(own.upstream.name(), &known.name),
                upstream_metrics: own.metrics.clone(),
                warm_cap: of_config.warm,
                check_target: match &config.check {
                    Check::Tcp => None,
                    Check::Handshake { target } => Some(target.as_str().into()),
                },
                keep_cap: of_config.keep,
                habits: Habits::default(),
                unasked: Unasked::default(),
            }));
        }
    }
    let member = |(own, of_config): (&OwnUpstream, &UpstreamConfig)| Member {
        upstream: Arc::clone(&own.upstream),
        metrics: own.metrics.clone(),
        group: of_config.group,
        weight: of_config.weight,
        identity: of_config.identity,
    };
    Egress {
        members: upstreams.iter().zip(&config.upstreams).map(member).collect(),
        identities: known,
        hops,
        order: match config.order {
            config::Order::Failover => Order::Failover,
            config::Order::Balance => Order::Balance,
        },
        rules: config.rules.clone(),
        listeners,
        own_ports: builder.own_ports.clone(),
    }
}

fn known_identity(own: &OwnIdentity) -> Arc<KnownIdentity> {
    Arc::new(KnownIdentity {
        name: own.config.name.as_str().into(),
        guard: Arc::clone(&own.guard),
        clients: own.config.clients.clone(),
        has_listener: !own.config.listen.is_empty(),
        has_login: own.config.login.is_some(),
    })
}

fn credentials(identity: &IdentityConfig, upstream: &UpstreamConfig) -> Credentials {
    let host = upstream.addresses.first().map(HostPort::host).unwrap_or_default();
    Credentials::new(identity.identity.clone(), host, upstream.first_leg)
        .with_basic(identity.basic_password.as_ref().map(|password| password.reveal()))
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

/// Whose clients come in by each of the addresses that were bound at the start, `listen`; `before` says whose they were until
/// now. By the addresses and not by their order, for a reload changes the identities and leaves the listeners as they are.
///
/// An address that was an identity's and is mentioned no more, or as another port, must not become everybody's: its clients
/// would use the default identity without a word. One that was everybody's stays so until the next start.
fn uses_of_listeners(config: &Config, listen: &[SocketAddr], before: Option<&[ListenerUse]>) -> Vec<ListenerUse> {
    let use_of = |(place, address): (usize, &SocketAddr)| {
        let owner = config.identities.iter().position(|identity| identity.listen.contains(address));
        let before = before.and_then(|before| before.get(place)).copied();
        match (owner, before) {
            (Some(owner), _) => ListenerUse::Own(owner),
            (None, _) if config.common_listen.contains(address) => ListenerUse::Common,
            (None, Some(ListenerUse::Own(_))) => {
                log::warn!(
                    "{address} is no identity's listening address any more: requests there are refused until the next start"
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
    fn identity(&self, config: &IdentityConfig, old: &mut Vec<OwnIdentity>) -> OwnIdentity {
        let same = |own: &OwnIdentity| own.config.name == config.name && is_same_account(&own.config, config);
        if let Some(place) = old.iter().position(same) {
            let kept = old.swap_remove(place);
            return OwnIdentity { config: config.clone(), ..kept };
        }
        let retired = Arc::new(AtomicBool::new(false));
        let guard = self.guard(config, Arc::clone(&retired));
        OwnIdentity { config: config.clone(), guard, retired }
    }

    /// A guard whose changes are counted, logged and told to all shards. The account keeps what was counted against it, whatever the
    /// configuration makes of its secret.
    fn guard(&self, config: &IdentityConfig, retired: Arc<AtomicBool>) -> Arc<Guard> {
        let (bell, metrics, name) = (Arc::clone(&self.bell), Arc::clone(&self.metrics), config.name.clone());
        let account = self.accounts.of(config.identity.domain(), config.identity.user());
        let secret = fingerprint(&account, config);
        let shown = account_of(config);
        let latest = AtomicU64::new(0);
        let guard = Guard::of(account, secret, move |change| {
            if retired.load(Ordering::Relaxed) {
                return;
            }
            if let GuardChange::State { upstream, at_upstream, overall, rest, number } = change {
                if latest.fetch_max(*number, Ordering::Relaxed) < *number {
                    metrics.guard_changed(&name, *overall);
                }
                log_guard(&shown, upstream, *at_upstream, *rest);
            }
            tell(&bell, || Message::GuardChanged);
        });
        self.metrics.guard_changed(&config.name, guard.state());
        guard
    }

    fn upstream(
        &self,
        config: &UpstreamConfig,
        old: &mut Vec<OwnUpstream>,
        known: &[Arc<Upstream>],
    ) -> io::Result<OwnUpstream> {
        let same = |own: &OwnUpstream| **own.upstream.name() == *config.name && own.addresses == config.addresses;
        if let Some(place) = old.iter().position(same) {
            return Ok(old.swap_remove(place));
        }
        let metrics = self.metrics.upstream(&config.name);
        metrics.up.set(1);
        let (checker, call) = Checker::new();
        let (told, name) = (metrics.clone(), config.name.clone());
        let upstream = Upstream::new(&config.name, config.addresses.clone(), move |change| {
            match change {
                HealthChange::Doubted => log::debug!("upstream {name} fails some clients and is probed"),
                HealthChange::Ejected(why) => {
                    told.up.set(0);
                    told.ejections.inc();
                    let why = without_name(&name, why);
                    log::warn!("upstream {name} is ejected: {why}; it is checked until it answers again");
                }
                HealthChange::Returned => {
                    told.up.set(1);
                    log::info!("upstream {name} answers again");
                }
            }
            // The checker is gone only when the upstream is.
            let _ = call.send(());
        });
        let check = CheckSlot::default();
        let slot = Arc::clone(&check);
        let epoch = self.epoch;
        checker.start(&upstream, epoch, move |stream: TcpStream, question| {
            let slot = lock(&slot).clone();
            match (question, slot) {
                (Question::MayItReturn, Some((hop, Some(target)))) => check_by_handshake(&hop, &target, epoch, stream),
                (Question::IsItAlive, Some((hop, _))) => probe(&hop, epoch, stream),
                _ => Ok(()),
            }
        })?;
        let mut resolvers = Vec::new();
        for (place, host) in config.addresses.iter().enumerate() {
            let from_before = known_addresses(host, known);
            resolvers.push(self.resolver(host, place, from_before, &upstream, &metrics)?);
        }
        Ok(OwnUpstream {
            addresses: config.addresses.clone(),
            upstream,
            metrics,
            check,
            speaks_ntlm: Arc::default(),
            _resolvers: resolvers,
        })
    }

    fn resolver(
        &self,
        host: &HostPort,
        place: usize,
        from_before: Option<Resolution>,
        upstream: &Arc<Upstream>,
        metrics: &UpstreamMetrics,
    ) -> io::Result<Resolver> {
        let (of_upstream, addresses) = (Arc::downgrade(upstream), metrics.addresses.clone());
        let (bell, own, name) = (Arc::clone(&self.bell), self.own.clone(), host.clone());
        let take_note = move |resolution| {
            let Some(upstream) = of_upstream.upgrade() else { return };
            let (resolution, left_out) = own.strip(resolution);
            for address in left_out {
                log::error!("upstream {name} is {address}, where the gateway itself listens: it is left out");
            }
            let count = upstream.resolved(place, resolution);
            addresses.set(i64::try_from(count).unwrap_or(i64::MAX));
            tell(&bell, || Message::Resolved);
        };
        from_before.iter().cloned().for_each(&take_note);
        Resolver::start(host.clone(), from_before, take_note)
    }
}

/// What a host's name resolved to for any of those upstreams, with its own port. The rest of each address stays, as an IPv6 one's scope.
fn known_addresses(host: &HostPort, upstreams: &[Arc<Upstream>]) -> Option<Resolution> {
    let mut found =
        upstreams.iter().map(|upstream| upstream.addresses_of_host(host.host())).find(|found| !found.is_empty())?;
    found.iter_mut().for_each(|address| address.set_port(host.port()));
    Some(Resolution::Addresses(found.into()))
}

fn tell(bell: &ShardNotifier, message: impl Fn() -> Message) {
    for shard in bell.get().into_iter().flatten() {
        shard.send(message());
    }
}

fn log_guard(account: &str, upstream: &str, state: GuardState, rest: Duration) {
    match state {
        GuardState::Proven => log::info!("upstream {upstream} accepts the credentials of {account}"),
        GuardState::Unproven => {
            log::debug!("the credentials of {account} are to be checked again at upstream {upstream}")
        }
        GuardState::Refused => log::error!(
            "upstream {upstream} refuses the credentials of {account}: no further attempt for {} min, so that the account is not \
             locked; correct the password: a changed one is tried at once while the account has attempts left",
            rest.as_secs().div_ceil(60)
        ),
    }
}

/// Of everything that an upstream could tell apart from another secret.
fn fingerprint(account: &Account, config: &IdentityConfig) -> u64 {
    let identity = &config.identity;
    let method = format!("{:?}", identity.method());
    let basic = config.basic_password.as_ref().map(|password| password.reveal());
    account.fingerprint((identity.nt_hash().to_hex().as_str(), basic, method, identity.target_domain()))
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
    old.name == new.name
        && old.identity.nt_hash() == new.identity.nt_hash()
        && old.basic_password == new.basic_password
        && account(old) == account(new)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv6Addr, SocketAddrV6};

    #[test]
    fn a_known_address_takes_the_new_port_and_keeps_its_scope() {
        let hosts = ["proxy.test:3128", "proxy.test:8080"].map(|host| host.parse::<HostPort>().unwrap());
        let scoped = |host: &HostPort| {
            let address = SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), host.port(), 7, 3);
            Resolution::Addresses([address.into()].into())
        };
        let upstream = Upstream::new("before", vec![hosts[0].clone()], |_| {});
        assert_eq!(known_addresses(&hosts[1], &[Arc::clone(&upstream)]), None);
        upstream.resolved(0, scoped(&hosts[0]));
        assert_eq!(known_addresses(&hosts[1], &[upstream]), Some(scoped(&hosts[1])));
    }
}
