//! The process: resource limits, signals, watched files, reload and shutdown, and notifications to the service manager.
//!
//! ```text
//!   signals ──────┐                       ┌─▶ gateway: reconfigure, drain, stop, list the tunnels
//!   files ────────┼─▶ supervise (a poll) ─┼─▶ log, metrics
//!   ended shards ─┘                       └─▶ service manager: READY, RELOADING, STOPPING, STATUS
//! ```

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook_mio::v1_0::Signals;

use crate::config::{Config, Inputs, Warning, load};
use crate::gateway::Gateway;
use crate::limits;
use crate::notify::{Notifier, Watchdog};
use crate::watch::{Look, Watcher};

const SIGNALS: Token = Token(0);
const SHARD_ENDED: Token = Token(1);
const FILES: Token = Token(2);

/// The progress of the shutdown.
enum ShutdownPhase {
    Serving,
    /// `/readyz` fails, everything else continues.
    Announced {
        until: Instant,
    },
    /// The listeners are closed.
    Draining {
        until: Instant,
    },
    /// All remaining tunnels are being closed.
    Stopping,
}

/// Runs the gateway until a signal ends it. The exit code is 0 after an orderly shutdown.
pub fn run(mut config: Config, inputs: &Inputs) -> ExitCode {
    log::info!("ntlm-gateway {} is starting", env!("CARGO_PKG_VERSION"));
    forbid_core_dumps();
    fit_to_descriptors(&mut config);
    match supervise(config, inputs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn supervise(config: Config, inputs: &Inputs) -> Result<(), Box<dyn std::error::Error>> {
    log_warnings(&config.warnings, &[]);
    let mut poll = Poll::new()?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    poll.registry().register(&mut signals, SIGNALS, mio::Interest::READABLE)?;
    // First, so that changes during the start are noticed.
    let watcher = Watcher::new(poll.registry(), FILES, &config.files);
    // Kept until the end: dropping a waker discards its pending wake-up.
    let waker = Arc::new(Waker::new(poll.registry(), SHARD_ENDED)?);
    let for_shards = Arc::clone(&waker);
    let gateway = Gateway::start(&config, move || {
        // This fails only when the supervisor is gone.
        let _ = for_shards.wake();
    })?;
    announce(&gateway, &config);
    let notifier = Arc::new(Notifier::new(|name| std::env::var_os(name)));
    let _watchdog = Watchdog::start(&notifier, gateway.heartbeat())?;
    gateway.metrics().config.started(config.digest);
    notifier.ready(SERVING);
    let phase = ShutdownPhase::Serving;
    let mut process = Process { gateway, config, inputs, phase, watcher, notifier, rejected: None, listing: None };
    let mut events = Events::with_capacity(8);
    loop {
        match poll.poll(&mut events, process.time_to_wait()) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for signal in signals.pending() {
            process.on_signal(signal);
        }
        process.on_files();
        process.on_time();
        if process.gateway.has_ended() || process.gateway.is_broken() {
            break;
        }
    }
    let Process { gateway, .. } = process;
    if gateway.is_broken() {
        // With some of the shards missing, some of the clients would get no response.
        return Err("a shard has ended unexpectedly; see the lines above".into());
    }
    gateway.join()?;
    log::info!("the gateway has stopped");
    Ok(())
}

fn announce(gateway: &Gateway, config: &Config) {
    for address in gateway.listening() {
        log::info!("listening on {address}");
    }
    log::info!("admin on http://{}", gateway.admin_address());
    for upstream in &config.upstreams {
        let addresses: Vec<String> = upstream.addresses.iter().map(ToString::to_string).collect();
        log::info!("upstream {} at {}", upstream.name, addresses.join(", "));
    }
    for identity in &config.identities {
        log::info!("identity {}: {}", identity.name, identity.identity.account());
    }
    log::info!("shards: {}, tunnels at most: {}", config.shards, config.max_tunnels);
}

/// Logs the warnings of a configuration that are not among the `known` ones.
fn log_warnings(warnings: &[Warning], known: &[Warning]) {
    for warning in warnings.iter().filter(|warning| known.iter().all(|known| !warning.says_the_same_as(known))) {
        log::warn!("{warning}");
    }
}

/// The status for the service manager in normal operation.
const SERVING: &str = "serving";

struct Process<'a> {
    gateway: Gateway,
    config: Config,
    inputs: &'a Inputs,
    phase: ShutdownPhase,
    watcher: Watcher,
    notifier: Arc<Notifier>,
    /// The errors of the last configuration that was read, if it was rejected.
    rejected: Option<String>,
    /// The thread that logs the list of tunnels.
    listing: Option<JoinHandle<()>>,
}

impl Process<'_> {
    fn time_to_wait(&self) -> Option<Duration> {
        let until = match self.phase {
            ShutdownPhase::Announced { until } | ShutdownPhase::Draining { until } => Some(until),
            ShutdownPhase::Serving => self.watcher.due(),
            ShutdownPhase::Stopping => None,
        };
        until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    fn on_signal(&mut self, signal: i32) {
        match (signal, &self.phase) {
            (SIGUSR1, _) => self.list_tunnels(),
            (SIGHUP, ShutdownPhase::Serving) => {
                self.rejected = None;
                self.watcher.accept();
                self.reload();
            }
            (SIGHUP, _) => log::info!("already shutting down; not reloading"),
            (_, ShutdownPhase::Serving) => {
                self.gateway.announce_shutdown();
                let delay = self.config.timeouts.shutdown_delay;
                log::info!("shutting down: /readyz now fails; the listeners close in {} s", delay.as_secs_f64());
                self.notifier.stopping("shutting down");
                self.phase = ShutdownPhase::Announced { until: Instant::now() + delay };
            }
            _ => {
                log::info!("second signal: closing all tunnels now; tunnels open: {}", self.gateway.tunnels_open());
                self.gateway.stop();
                self.phase = ShutdownPhase::Stopping;
            }
        }
    }

    fn on_time(&mut self) {
        match self.phase {
            ShutdownPhase::Announced { until } if until <= Instant::now() => {
                self.gateway.drain();
                let timeout = self.config.timeouts.drain;
                let open = self.gateway.tunnels_open();
                log::info!("listeners closed; tunnels open: {open}, to be closed in {} s", timeout.as_secs_f64());
                self.notifier.status(&format!("draining; tunnels open: {open}"));
                self.phase = ShutdownPhase::Draining { until: Instant::now() + timeout };
            }
            ShutdownPhase::Draining { until } if until <= Instant::now() => {
                log::warn!("closing tunnels that did not end in time; tunnels open: {}", self.gateway.tunnels_open());
                self.gateway.stop();
                self.phase = ShutdownPhase::Stopping;
            }
            _ => {}
        }
    }

    /// Reloads if the content of a file has changed. While the last configuration is rejected, the reason may lie
    /// outside of the watched files, so it is retried at each regular look.
    fn on_files(&mut self) {
        let now = Instant::now();
        self.watcher.on_event(now);
        if !matches!(self.phase, ShutdownPhase::Serving) {
            return;
        }
        match self.watcher.look(now) {
            Look::Changed => {
                log::info!("the configuration's files have changed");
                self.rejected = None;
                self.reload();
            }
            Look::Unchanged if self.rejected.is_some() => self.reload(),
            Look::Unchanged | Look::NotYet => {}
        }
    }

    fn reload(&mut self) {
        self.notifier.reloading();
        match load(self.inputs) {
            Ok(fresh) => self.apply(fresh),
            Err(errors) => self.reject(errors.to_string()),
        }
        match self.rejected {
            None => self.notifier.ready(SERVING),
            Some(_) => {
                self.notifier.ready("serving with the previous configuration; the last one was rejected, see the log")
            }
        }
    }

    /// Keeps the old configuration. Errors that are the same as before are not logged again.
    fn reject(&mut self, errors: String) {
        if self.rejected.as_ref() != Some(&errors) {
            log::error!("the new configuration is rejected, the old one stays in force: {errors}");
            self.gateway.metrics().config.refused();
        }
        self.rejected = Some(errors);
    }

    /// Applies a valid configuration.
    fn apply(&mut self, mut fresh: Config) {
        log_warnings(&fresh.warnings, &self.config.warnings);
        for setting in keep_startup_settings(&self.config, &mut fresh) {
            log::warn!("{setting} has changed; this takes effect at the next start");
        }
        let secret_changed = match self.gateway.reconfigure(&fresh) {
            Ok(changed) => changed,
            Err(error) => {
                log::error!("the new configuration cannot be applied: {error}");
                return;
            }
        };
        match (secret_changed, self.gateway.credentials_held()) {
            (true, _) => log::info!("configuration reloaded, with new credentials"),
            (false, None) => log::info!("configuration reloaded; the credentials are unchanged"),
            (false, Some(rest)) => log::warn!(
                "configuration reloaded; the credentials are still the ones that the upstream refused; no further attempt for {} s",
                rest.as_secs()
            ),
        }
        self.gateway.metrics().config.applied(fresh.digest);
        self.watcher.follow(&fresh.files);
        self.config = fresh;
        self.rejected = None;
    }

    /// Logs the list of tunnels, unless that is already in progress.
    fn list_tunnels(&mut self) {
        if self.listing.as_ref().is_some_and(|listing| !listing.is_finished()) {
            return log::info!("the list of tunnels is already being written");
        }
        match self.gateway.log_tunnels() {
            Ok(listing) => self.listing = Some(listing),
            Err(error) => log::error!("the tunnels cannot be listed: {error}"),
        }
    }
}

/// Restores the settings that cannot change while the process runs; returns the names of those that were different.
fn keep_startup_settings(old: &Config, fresh: &mut Config) -> Vec<&'static str> {
    let mut changed = Vec::new();
    macro_rules! keep {
        ($($field:ident: $name:literal,)*) => {
            $(if fresh.$field != old.$field {
                fresh.$field = old.$field.clone();
                changed.push($name);
            })*
        };
    }
    keep! {
        listen: "listen",
        services: "protocols, target or transparent of [[listeners]]",
        trusted_proxies: "proxy_protocol_from of [[listeners]]",
        admin: "admin",
        allow_clients: "allow_clients",
        tunnels_per_client: "limits.tunnels_per_client",
        new_tunnels_per_client: "limits.new_tunnels_per_client",
        guard: "guard.attempts, guard.store, guard.directory, guard.lease or guard.max_replicas",
        shards: "shards",
        pipes_per_shard: "limits.pipes_per_shard",
        socket_buffer_bytes: "limits.socket_buffer",
        keep_alive: "timeouts.tcp_idle, timeouts.tcp_probe or limits.tcp_probes",
        log_format: "log_format",
        log_level: "log_level",
    }
    // It was reduced to what the descriptors allow, so it may differ from the configured value.
    fresh.max_tunnels = old.max_tunnels;
    changed
}

/// Core files would contain the secrets (invariant 5).
fn forbid_core_dumps() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        log::warn!("cannot disable core dumps: {error}");
    }
}

/// Raises RLIMIT_NOFILE to its hard limit, and reduces `max_tunnels` to what fits at two descriptors per tunnel.
fn fit_to_descriptors(config: &mut Config) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            log::warn!("cannot raise the limit of open files: {error}");
        }
    }
    let Some(descriptors) = getrlimit(Resource::Nofile).current else { return };
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let reserved = limits::RESERVED_DESCRIPTORS.min(descriptors / 4);
    let fits = ((descriptors - reserved) / 2).max(1);
    if config.max_tunnels > fits {
        let level = if config.max_tunnels == limits::MAX_TUNNELS { log::Level::Debug } else { log::Level::Warn };
        log::log!(
            level,
            "max_tunnels is reduced from {} to {fits}: RLIMIT_NOFILE is {descriptors}",
            config.max_tunnels
        );
        config.max_tunnels = fits;
    }
}
