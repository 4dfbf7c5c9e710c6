//! The process: its limits, its signals, its end.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::config::{Config, Sources, load};
use crate::gateway::Gateway;
use crate::limits;

const SIGNALS: Token = Token(0);
const SHARD_ENDED: Token = Token(1);

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
    let mut poll = Poll::new()?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    poll.registry().register(&mut signals, SIGNALS, mio::Interest::READABLE)?;
    // Kept here too: a waker that is dropped takes its unread wake-up with it.
    let waker = Arc::new(Waker::new(poll.registry(), SHARD_ENDED)?);
    let for_shards = Arc::clone(&waker);
    let gateway = Gateway::start(&config, move || {
        // It can fail only when the supervisor is gone.
        let _ = for_shards.wake();
    })?;
    announce(&gateway, &config);
    let mut process = Process { gateway, config, phase: Phase::Serving };
    let mut events = Events::with_capacity(8);
    loop {
        match poll.poll(&mut events, process.time_to_wait()) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for signal in signals.pending() {
            process.on_signal(signal, sources);
        }
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
    log::info!("ended");
    Ok(())
}

fn announce(gateway: &Gateway, config: &Config) {
    for address in gateway.listening() {
        log::info!("listening on {address}");
    }
    log::info!("admin on http://{}", gateway.admin_address());
    let (domain, user) = (config.identity.domain(), config.identity.user());
    let separator = if domain.is_empty() { "" } else { "\\" };
    log::info!(
        "{} shards, at most {} tunnels, upstream {} as {domain}{separator}{user}",
        config.shards,
        config.max_tunnels,
        config.upstream
    );
}

struct Process {
    gateway: Gateway,
    config: Config,
    phase: Phase,
}

impl Process {
    fn time_to_wait(&self) -> Option<Duration> {
        match self.phase {
            Phase::Announced { until } | Phase::Draining { until } => {
                Some(until.saturating_duration_since(Instant::now()))
            }
            Phase::Serving | Phase::Stopping => None,
        }
    }

    fn on_signal(&mut self, signal: i32, sources: &Sources) {
        match (signal, &self.phase) {
            (SIGHUP, Phase::Serving) => self.reload(sources),
            (SIGHUP, _) => log::info!("shutting down already; no reload"),
            (_, Phase::Serving) => {
                self.gateway.announce_shutdown();
                let delay = self.config.timeouts.shutdown_delay;
                log::info!("shutting down: not ready from now on, listeners close in {} s", delay.as_secs_f64());
                self.phase = Phase::Announced { until: Instant::now() + delay };
            }
            _ => {
                log::info!("a second signal: closing {} tunnels at once", self.gateway.tunnels_open());
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
                log::info!("listeners closed; {left} tunnels have {} s to end", patience.as_secs_f64());
                self.phase = Phase::Draining { until: Instant::now() + patience };
            }
            Phase::Draining { until } if until <= Instant::now() => {
                log::warn!("closing {} tunnels that did not end in time", self.gateway.tunnels_open());
                self.gateway.stop();
                self.phase = Phase::Stopping;
            }
            _ => {}
        }
    }

    /// Takes a new configuration over if it is valid; otherwise the old one stays.
    fn reload(&mut self, sources: &Sources) {
        let mut fresh = match load(sources) {
            Ok(fresh) => fresh,
            Err(errors) => {
                log::error!("the configuration is not reloaded, the old one stays: {errors}");
                return;
            }
        };
        fit_to_descriptors(&mut fresh);
        for (setting, changed) in [
            ("listen", fresh.listen != self.config.listen),
            ("admin", fresh.admin != self.config.admin),
            ("upstream", fresh.upstream != self.config.upstream),
            ("shards", fresh.shards != self.config.shards),
            ("max_tunnels", fresh.max_tunnels != self.config.max_tunnels),
            ("allow_clients", fresh.allow_clients != self.config.allow_clients),
        ] {
            if changed {
                log::warn!("{setting} has changed; it takes effect at the next start");
            }
        }
        let secret_changed = !same_secret(&self.config, &fresh);
        self.gateway.reconfigure(&fresh, secret_changed);
        let what = if secret_changed { "with new credentials" } else { "the credentials are the same" };
        log::info!("configuration reloaded; {what}");
        self.config = fresh;
    }
}

fn same_secret(old: &Config, new: &Config) -> bool {
    let (old, new) = (&old.identity, &new.identity);
    old.nt_hash().to_hex() == new.nt_hash().to_hex()
        && (old.domain(), old.user(), old.method()) == (new.domain(), new.user(), new.method())
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
        log::info!("max_tunnels {} is cut to {fits}: RLIMIT_NOFILE is {descriptors}", config.max_tunnels);
        config.max_tunnels = fits;
    }
}
