//! The process: its limits, its signals, its files, its end; and what it tells the service manager of them.
//!
//! ```text
//!   signals ───────┐                       ┌─▶ gateway: reconfigure, drain, stop, list the tunnels
//!   files ─────────┼─▶ supervise (a poll) ─┼─▶ log, metrics
//!   ends of shards ┘                       └─▶ service manager: READY, RELOADING, STOPPING, STATUS
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

use crate::config::{Config, Sources, Warning, load};
use crate::gateway::Gateway;
use crate::limits;
use crate::notify::{Notifier, Watchdog};
use crate::watch::{Look, Watcher};

const SIGNALS: Token = Token(0);
const SHARD_ENDED: Token = Token(1);
const FILES: Token = Token(2);

/// How far the shutdown has come.
enum Phase {
    Serving,
    /// `/readyz` fails, everything else goes on.
    Announced {
        until: Instant,
    },
    /// The listeners are closed.
    Draining {
        until: Instant,
    },
    /// Everything is being closed.
    Stopping,
}

/// Runs the gateway until a signal ends it; 0 after an orderly end.
pub fn run(mut config: Config, sources: &Sources) -> ExitCode {
    log::info!("ntlm-gateway {} starts", env!("CARGO_PKG_VERSION"));
    forbid_core_dumps();
    fit_to_descriptors(&mut config);
    match supervise(config, sources) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn supervise(config: Config, sources: &Sources) -> Result<(), Box<dyn std::error::Error>> {
    warn_of(&config.warnings, &[]);
    let mut poll = Poll::new()?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    poll.registry().register(&mut signals, SIGNALS, mio::Interest::READABLE)?;
    // Before all that takes time: what changes from here on is noticed.
    let watcher = Watcher::new(poll.registry(), FILES, &config.files);
    // Kept here too: a waker that is dropped takes its unread wake-up with it.
    let waker = Arc::new(Waker::new(poll.registry(), SHARD_ENDED)?);
    let for_shards = Arc::clone(&waker);
    let gateway = Gateway::start(&config, move || {
        // It can fail only when the supervisor is gone.
        let _ = for_shards.wake();
    })?;
    announce(&gateway, &config);
    let notifier = Arc::new(Notifier::new(|name| std::env::var_os(name)));
    let _watchdog = Watchdog::start(&notifier, gateway.heartbeat())?;
    gateway.metrics().config.started(config.digest);
    notifier.ready(SERVING);
    let phase = Phase::Serving;
    let mut process = Process { gateway, config, sources, phase, watcher, notifier, refused: None, listing: None };
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
        // Serving on with a part of the shards would leave a part of the clients without an answer.
        return Err("a shard has ended; see the lines above".into());
    }
    gateway.join()?;
    log::info!("the gateway has ended");
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

/// Logs what is likely to be a mistake, but for what is known.
fn warn_of(warnings: &[Warning], known: &[Warning]) {
    for warning in warnings.iter().filter(|warning| known.iter().all(|known| !warning.says_as(known))) {
        log::warn!("{warning}");
    }
}

/// The service manager hears this while all is well.
const SERVING: &str = "serving";

struct Process<'a> {
    gateway: Gateway,
    config: Config,
    sources: &'a Sources,
    phase: Phase,
    watcher: Watcher,
    notifier: Arc<Notifier>,
    /// What was wrong with the last configuration that was read, if it was refused.
    refused: Option<String>,
    /// Writes the list of tunnels.
    listing: Option<JoinHandle<()>>,
}

impl Process<'_> {
    fn time_to_wait(&self) -> Option<Duration> {
        let until = match self.phase {
            Phase::Announced { until } | Phase::Draining { until } => Some(until),
            Phase::Serving => self.watcher.due(),
            Phase::Stopping => None,
        };
        until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    fn on_signal(&mut self, signal: i32) {
        match (signal, &self.phase) {
            (SIGUSR1, _) => self.list_tunnels(),
            (SIGHUP, Phase::Serving) => {
                self.refused = None;
                self.watcher.accept();
                self.reload();
            }
            (SIGHUP, _) => log::info!("shutting down already; no reload"),
            (_, Phase::Serving) => {
                self.gateway.announce_shutdown();
                let delay = self.config.timeouts.shutdown_delay;
                log::info!("shutting down: not ready from now on; the listeners close after {} s", delay.as_secs_f64());
                self.notifier.stopping("shutting down");
                self.phase = Phase::Announced { until: Instant::now() + delay };
            }
            _ => {
                log::info!("a second signal: closing everything at once; tunnels: {}", self.gateway.tunnels_open());
                self.gateway.stop();
                self.phase = Phase::Stopping;
            }
        }
    }

    fn on_time(&mut self) {
        match self.phase {
            Phase::Announced { until } if until <= Instant::now() => {
                self.gateway.drain();
                let patience = self.config.timeouts.drain;
                let left = self.gateway.tunnels_open();
                log::info!("listeners closed; tunnels open: {left}, which have {} s to end", patience.as_secs_f64());
                self.notifier.status(&format!("draining; tunnels open: {left}"));
                self.phase = Phase::Draining { until: Instant::now() + patience };
            }
            Phase::Draining { until } if until <= Instant::now() => {
                log::warn!("closing what did not end in time; tunnels: {}", self.gateway.tunnels_open());
                self.gateway.stop();
                self.phase = Phase::Stopping;
            }
            _ => {}
        }
    }

    /// Reloads if a file has other contents than before. While the last configuration is refused for a reason that may lie
    /// outside of the known files, it is tried again now and then.
    fn on_files(&mut self) {
        let now = Instant::now();
        self.watcher.on_event(now);
        if !matches!(self.phase, Phase::Serving) {
            return;
        }
        match self.watcher.look(now) {
            Look::Changed => {
                log::info!("the configuration's files have changed");
                self.refused = None;
                self.reload();
            }
            Look::Unchanged if self.refused.is_some() => self.reload(),
            Look::Unchanged | Look::NotYet => {}
        }
    }

    fn reload(&mut self) {
        self.notifier.reloading();
        match load(self.sources) {
            Ok(fresh) => self.apply(fresh),
            Err(errors) => self.refuse(errors.to_string()),
        }
        match self.refused {
            None => self.notifier.ready(SERVING),
            Some(_) => self.notifier.ready("serving; the last configuration that was read was refused, see the log"),
        }
    }

    /// The old configuration stays. The same errors again are no news.
    fn refuse(&mut self, errors: String) {
        if self.refused.as_ref() != Some(&errors) {
            log::error!("the configuration is not reloaded, the old one stays: {errors}");
            self.gateway.metrics().config.refused();
        }
        self.refused = Some(errors);
    }

    /// Takes a valid configuration over.
    fn apply(&mut self, mut fresh: Config) {
        warn_of(&fresh.warnings, &self.config.warnings);
        let unchanged = keep_what_needs_a_start(&self.config, &mut fresh);
        for setting in unchanged {
            log::warn!("{setting} has changed; that takes effect at the next start");
        }
        let secret_changed = match self.gateway.reconfigure(&fresh) {
            Ok(changed) => changed,
            Err(error) => {
                log::error!("the configuration cannot be taken over: {error}");
                return;
            }
        };
        match (secret_changed, self.gateway.credentials_held()) {
            (true, _) => log::info!("configuration reloaded, with new credentials"),
            (false, None) => log::info!("configuration reloaded; the credentials are the same"),
            (false, Some(rest)) => log::warn!(
                "configuration reloaded; the credentials are the same that the upstream refused, and are not tried for another {} s",
                rest.as_secs()
            ),
        }
        self.gateway.metrics().config.applied(fresh.digest);
        self.watcher.follow(&fresh.files);
        self.config = fresh;
        self.refused = None;
    }

    /// One list at a time, however often it is asked for.
    fn list_tunnels(&mut self) {
        if self.listing.as_ref().is_some_and(|listing| !listing.is_finished()) {
            return log::info!("the list of tunnels is being written already");
        }
        match self.gateway.log_tunnels() {
            Ok(listing) => self.listing = Some(listing),
            Err(error) => log::error!("the tunnels cannot be listed: {error}"),
        }
    }
}

/// Puts back what cannot change while the process runs; returns the names of the settings that would have.
fn keep_what_needs_a_start(old: &Config, fresh: &mut Config) -> Vec<&'static str> {
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
        admin: "admin",
        allow_clients: "allow_clients",
        tunnels_per_client: "limits.tunnels_per_client",
        new_tunnels_per_client: "limits.new_tunnels_per_client",
        guard_attempts: "guard.attempts",
        shards: "shards",
        pipes_per_shard: "limits.pipes_per_shard",
        socket_buffer_bytes: "limits.socket_buffer",
        keep_alive: "timeouts.tcp_idle, timeouts.tcp_probe or limits.tcp_probes",
        log_format: "log_format",
        log_level: "log_level",
    }
    // Cut to what the descriptors allow, it differs from what is written there.
    fresh.max_tunnels = old.max_tunnels;
    changed
}

/// Core files would hold the secret (invariant 5).
fn forbid_core_dumps() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        log::warn!("core dumps cannot be forbidden: {error}");
    }
}

/// Raises RLIMIT_NOFILE as far as it goes and cuts `max_tunnels` to what fits, two descriptors a tunnel.
fn fit_to_descriptors(config: &mut Config) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            log::warn!("the limit of open files cannot be raised: {error}");
        }
    }
    let Some(descriptors) = getrlimit(Resource::Nofile).current else { return };
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let reserved = limits::RESERVED_DESCRIPTORS.min(descriptors / 4);
    let fits = ((descriptors - reserved) / 2).max(1);
    if config.max_tunnels > fits {
        let level = if config.max_tunnels == limits::MAX_TUNNELS { log::Level::Debug } else { log::Level::Warn };
        log::log!(level, "max_tunnels {} is cut to {fits}: RLIMIT_NOFILE is {descriptors}", config.max_tunnels);
        config.max_tunnels = fits;
    }
}
