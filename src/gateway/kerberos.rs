//! The Kerberos tickets of identities: their threads, the guard that their logons ask, what is logged and counted.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::egress_builder::{Builder, ShardNotifier, notify};
use super::identity_guard::secret_digest;
use crate::auth::{TicketSlot, TicketState, TokenTimes};
use crate::config::{Config, IdentityConfig, KerberosConfig, KerberosIdentity, Spn, UpstreamConfig};
use crate::kerberos::{ClientSecret, ExchangeOptions, KeyVersion, KeytabEntry, PrincipalName, RequestKind, Timestamp};
use crate::limits::{self, millis};
use crate::metrics::{KerberosMetrics, TicketMetric};
use crate::shard::Message;
use crate::tickets::{Agent, AgentOptions, AgentWatch, LogonOutcome, Service, TicketError, Watch, new_agent};
use crate::upstream::{
    Account, Answer, AttemptRequest, Confirmation, Guard, GuardChange, Refusal, SecretDigest, SendPermission, Ticket,
};

/// The tickets of one identity.
pub(super) struct ManagedTickets {
    wanted: Wanted,
    services: Vec<Service>,
    /// The last logon was made with the previous password.
    uses_previous: Arc<AtomicBool>,
    _agent: Agent,
}

/// What the tickets depend on.
#[derive(Clone, PartialEq)]
struct Wanted {
    identity: KerberosIdentity,
    common: KerberosConfig,
    services: Vec<Spn>,
}

impl ManagedTickets {
    /// Starts the thread that gets the tickets of the identity with the index `place`, or keeps the `old` one if
    /// nothing has changed. `None` if the identity uses Kerberos at no upstream.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn of(
        config: &Config,
        place: usize,
        guard: &Arc<Guard>,
        old: Option<ManagedTickets>,
        builder: &Builder,
    ) -> io::Result<Option<ManagedTickets>> {
        let identity = &config.identities[place];
        let (Some(kerberos), Some(common)) = (&identity.kerberos, &config.kerberos) else { return Ok(None) };
        let may_use = |upstream: &&UpstreamConfig| {
            upstream.mechanisms_of(identity).kerberos && config.is_used_at(place, upstream)
        };
        let mut services: Vec<Spn> = Vec::new();
        for spn in config.upstreams.iter().filter(may_use).map(UpstreamConfig::service) {
            if !services.contains(&spn) {
                services.push(spn);
            }
        }
        if services.is_empty() {
            return Ok(None);
        }
        let wanted = Wanted { identity: kerberos.clone(), common: common.clone(), services };
        match old {
            Some(old) if old.wanted == wanted => Ok(Some(old)),
            old => ManagedTickets::start(identity, wanted, guard, old.as_ref(), builder).map(Some),
        }
    }

    fn start(
        identity: &IdentityConfig,
        wanted: Wanted,
        guard: &Arc<Guard>,
        old: Option<&ManagedTickets>,
        builder: &Builder,
    ) -> io::Result<ManagedTickets> {
        let (new, line) = new_agent();
        builder.metrics.kerberos.forget(&identity.name);
        let service = |spn: &Spn| {
            let line = line.clone();
            let slot = TicketSlot::new(Arc::clone(&builder.token_times), move || line.look_again());
            // A changed key does not make the tickets worse that were got with the old one.
            let known = old.filter(|old| old.wanted.identity.client == wanted.identity.client);
            if let Some(TicketState::Ready(ticket)) = known.and_then(|old| old.slot(spn)).map(|slot| slot.state()) {
                slot.publish(TicketState::Ready(ticket), crate::tickets::now());
            }
            builder.metrics.kerberos.ticket(&identity.name, &spn.name.to_string(), TicketMetric::Pending);
            Service {
                name: spn.name.clone(),
                realm: spn.realm.clone(),
                canonicalize: spn.is_of_host && wanted.common.canonicalize,
                slot: Arc::new(slot),
            }
        };
        let services: Vec<Service> = wanted.services.iter().map(service).collect();
        let options = AgentOptions {
            client: wanted.identity.client.clone(),
            secret: wanted.identity.secret.clone(),
            exchange: ExchangeOptions {
                etypes: wanted.common.etypes,
                lifetime: limits::KERBEROS_LIFETIME,
                renewable: limits::KERBEROS_RENEWABLE,
            },
            realms: wanted.common.realms.clone(),
            services: services.clone(),
            replaced_after_refusal: limits::KERBEROS_REPLACED_AFTER_REFUSAL,
        };
        let uses_previous = Arc::default();
        let watch = IdentityWatch {
            name: identity.name.clone(),
            client: wanted.identity.client.to_string(),
            metrics: builder.metrics.kerberos.clone(),
            notifier: Arc::clone(&builder.notifier),
            epoch: builder.epoch,
            guards: builder.guards_of(identity, &wanted.identity, guard),
            allowed: None,
            uses_previous: Arc::clone(&uses_previous),
            said: HashMap::new(),
        };
        let agent = new.start(&line, options, Box::new(watch))?;
        Ok(ManagedTickets { wanted, services, uses_previous, _agent: agent })
    }

    /// Whether the KDC does not know the present password yet, and has accepted the previous one.
    pub(super) fn uses_previous_password(&self) -> bool {
        self.uses_previous.load(Ordering::Relaxed)
    }

    /// Where the ticket for a service is published.
    pub(super) fn slot(&self, spn: &Spn) -> Option<&Arc<TicketSlot>> {
        let place = self.wanted.services.iter().position(|service| service == spn)?;
        self.services.get(place).map(|service| &service.slot)
    }
}

/// Times of tokens, for the process.
pub(super) fn token_times() -> Arc<TokenTimes> {
    Arc::new(TokenTimes::new(getrandom::u32().unwrap_or_default()))
}

/// The guards of an identity's keys.
pub(super) struct KeyGuards {
    pub account: Arc<Account>,
    pub kerberos: KerberosIdentity,
    pub on_change: Arc<dyn Fn(&GuardChange) + Send + Sync>,
    pub known: HashMap<KeyVersion, Arc<Guard>>,
}

impl KeyGuards {
    fn of(&mut self, key: KeyVersion) -> Arc<Guard> {
        let KeyGuards { account, kerberos, on_change, known } = self;
        Arc::clone(known.entry(key).or_insert_with(|| {
            let material = key_material(kerberos, key);
            let (secret, on_change) = (account.fingerprint(&*material), Arc::clone(on_change));
            account.introduce(secret, SecretDigest::of(&[&material]));
            Guard::of(Arc::clone(account), secret, move |change| on_change(change))
        }))
    }
}

/// The keytab of an identity that has no password, and its newest keys.
pub(super) fn only_keytab(config: &IdentityConfig) -> Option<(&KerberosIdentity, KeyVersion)> {
    let kerberos = config.kerberos.as_ref().filter(|_| !config.mechanisms.ntlm)?;
    keys_of(kerberos, None).first().map(|entry| (kerberos, KeyVersion::Keytab(entry.kvno)))
}

/// To the guard, the KDCs of a realm are another upstream, of this name.
fn kdc_upstream(realm: &str) -> String {
    format!("KDC of {realm}")
}

/// Where and with what an identity logs on for its tickets, as the guard's store knows it; `None` without Kerberos.
pub(crate) fn kdc_logon(config: &IdentityConfig) -> Option<(String, SecretDigest)> {
    let kerberos = config.kerberos.as_ref()?;
    let digest = match keys_of(kerberos, None).first() {
        Some(newest) => SecretDigest::of(&[&key_material(kerberos, KeyVersion::Keytab(newest.kvno))]),
        None => secret_digest(config),
    };
    Some((kdc_upstream(&kerberos.client.realm), digest))
}

/// The keys of a version in the keytab, one after the other: a secret.
pub(super) fn key_material(kerberos: &KerberosIdentity, version: KeyVersion) -> Zeroizing<Vec<u8>> {
    let keys = keys_of(kerberos, Some(version));
    // Growing would leave copies behind that are not wiped.
    let mut material = Zeroizing::new(Vec::with_capacity(keys.len() * 32));
    keys.iter().for_each(|entry| material.extend_from_slice(entry.key.reveal()));
    material
}

fn keys_of(kerberos: &KerberosIdentity, version: Option<KeyVersion>) -> Vec<&KeytabEntry> {
    let ClientSecret::Keytab(keytab) = &kerberos.secret else { return Vec::new() };
    let all = keytab.keys_of(&kerberos.client, crate::kerberos::EtypeSet::new(true));
    all.into_iter().filter(|entry| version.is_none_or(|version| version == KeyVersion::Keytab(entry.kvno))).collect()
}

/// Watches over the tickets of one identity.
struct IdentityWatch {
    name: String,
    client: String,
    metrics: KerberosMetrics,
    notifier: ShardNotifier,
    epoch: Instant,
    guards: KeyGuards,
    /// The logon attempt that is under way, and its key.
    allowed: Option<(Ticket, Option<Confirmation>, KeyVersion)>,
    /// See [`ManagedTickets`].
    uses_previous: Arc<AtomicBool>,
    /// What was logged last about each service.
    said: HashMap<String, String>,
}

impl IdentityWatch {
    fn now_ms(&self) -> u64 {
        millis(self.epoch.elapsed())
    }
}

impl Watch for IdentityWatch {
    fn may_log_on(&mut self, realm: &str, key: KeyVersion) -> Result<(), TicketError> {
        let guard = self.guards.of(key);
        let upstream: Arc<str> = kdc_upstream(realm).into();
        let until = Instant::now() + limits::KDC_DELIVERY_TIMEOUT;
        loop {
            let now_ms = self.now_ms();
            let confirmation = guard.take_confirmation(now_ms, &upstream);
            let asking = AttemptRequest {
                upstream: &upstream,
                method: "AS-REQ",
                destination: realm,
                // A KDC that asks for pre-authentication demands the key.
                challenged: true,
                confirms: confirmation.is_some(),
            };
            let (why, retry_after, is_refused) = match guard.ask(now_ms, &asking) {
                SendPermission::Go(ticket) => {
                    self.allowed = Some((ticket, confirmation, key));
                    return Ok(());
                }
                SendPermission::No(Refusal::Held(rest) | Refusal::Barred(rest)) => {
                    let why = format!("the KDC refused the key; the next attempt is in {} s", rest.as_secs().max(1));
                    (why, rest, true)
                }
                SendPermission::Wait if Instant::now() < until => {
                    drop(confirmation);
                    thread::sleep(limits::KERBEROS_GUARD_POLL);
                    continue;
                }
                SendPermission::Wait => {
                    ("another logon with this account goes first".to_owned(), limits::KERBEROS_RETRY, false)
                }
            };
            return Err(TicketError::Held { why, retry_after, is_refused });
        }
    }

    fn logged_on(&mut self, outcome: LogonOutcome) {
        let Some((ticket, _confirmation, key)) = self.allowed.take() else { return };
        if outcome == LogonOutcome::Accepted {
            self.uses_previous.store(key == KeyVersion::PreviousPassword, Ordering::Relaxed);
        }
        let answer = match outcome {
            LogonOutcome::Accepted => Answer::Status(200),
            LogonOutcome::Refused => Answer::Refused,
            LogonOutcome::Undecided => Answer::Nothing,
        };
        ticket.settle(self.now_ms(), answer);
    }

    fn asked(&mut self, realm: &str, kind: RequestKind, outcome: Result<(), &str>, since: Instant) {
        let took = since.elapsed();
        self.metrics.asked(kind.label(), outcome.err(), took);
        log::debug!(
            "{}: {} to the KDC of {realm}: {} in {} ms",
            self.client,
            kind.label(),
            outcome.err().unwrap_or("ok"),
            took.as_millis()
        );
    }
}

impl AgentWatch for IdentityWatch {
    fn published(&mut self, service: &PrincipalName, state: &TicketState) {
        let service = service.to_string();
        let (metric, text) = match state {
            TicketState::Pending => (TicketMetric::Pending, String::new()),
            TicketState::Ready(ticket) => {
                let end = ticket.skew.undo(ticket.end);
                (TicketMetric::Ready(end.seconds()), String::new())
            }
            TicketState::Failed(fault) => (TicketMetric::Failed, fault.detail.to_string()),
        };
        self.metrics.ticket(&self.name, &service, metric);
        let before = self.said.insert(service.clone(), text.clone());
        match state {
            TicketState::Failed(_) if before.as_ref() != Some(&text) => {
                log::error!("identity {}: no ticket for {service}: {text}", self.name);
            }
            TicketState::Ready(ticket) if before.is_none_or(|before| !before.is_empty()) => {
                log::info!(
                    "identity {}: {} has a ticket for {} until {}",
                    self.name,
                    self.client,
                    ticket.service,
                    ticket.end
                );
            }
            _ => {}
        }
        notify(&self.notifier, || Message::GuardChanged);
    }

    fn logged_on_until(&mut self, end: Timestamp) {
        let rest: Duration = end.since(crate::tickets::now());
        log::debug!("{}: logged on for {} s", self.client, rest.as_secs());
    }
}
