//! A running gateway: starts and stops its shards, its egress and its administration address.
//!
//! The process runs one; the demo, the tests and the benches run one in their own process.

mod egress_builder;
pub(crate) mod guard_start;
mod identity_guard;
mod kerberos;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::admin::{Admin, Status};
use crate::config::{self, Config};
use crate::egress::{CurrentEgress, Guesses};
use crate::event::Sender;
use crate::inspect::TunnelList;
use crate::limits;
use crate::logging;
use crate::metrics::Metrics;
use crate::session::{SessionSettings, pseudonym};
use crate::shard::{self, Gate, GateRules, Message, Shard, ShardOptions};
use crate::transport::KeepAlive;
use crate::upstream::{OriginResolver, OwnAddresses};
use egress_builder::{Builder, ManagedEgress, ShardNotifier};
use guard_start::GuardStart;
pub(crate) use identity_guard::secret_digest;
pub(crate) use kerberos::kdc_logon;

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listening address is not available.
    #[error("cannot listen on {address}: {source}{}", hint(source, "--listen"))]
    Listen {
        /// The address as configured.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The administration address is not available.
    #[error("cannot serve metrics on {address}: {source}{}", hint(source, "--admin"))]
    Admin {
        /// The address as configured.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// A thread, a poll or a descriptor is not available.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A metric family is invalid: a bug.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// What to do about an address that is not available; `flag` is the flag that sets it.
fn hint(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "; another process is listening there (another gateway?): stop it or choose another port with {flag}"
            )
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need the capability NET_BIND_SERVICE".into(),
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address".into(),
        _ => String::new(),
    }
}

/// Access to the running shards and to the egress, shared with the administration address.
struct Controls {
    shards: Vec<Sender<Message>>,
    builder: Builder,
    /// `None` only while it is being replaced, or after its replacement has failed.
    egress: Mutex<Option<ManagedEgress>>,
    shutting_down: AtomicBool,
    /// Whether `/tunnels` is enabled.
    shows_tunnels: AtomicBool,
    /// The process's name in Via fields, unless the configuration sets one.
    pseudonym: Arc<str>,
}

/// A running gateway.
pub struct Gateway {
    controls: Arc<Controls>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// Shards that have ended. `JoinHandle::is_finished` is of no use here: a thread that announces its end is still
    /// running.
    ended: Arc<AtomicUsize>,
    listening: Vec<SocketAddr>,
    admin: Admin,
}

impl Gateway {
    /// Binds all addresses before it starts any thread, so that a failure comes before the first client is served.
    ///
    /// `on_shard_end` is called on a shard's thread when the shard ends, for whatever reason.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start(config: &Config, on_shard_end: impl Fn() + Send + Sync + 'static) -> Result<Gateway, StartError> {
        let keep_alive = keep_alive(config);
        let (listeners, listening) =
            shard::bind(&places(config), config.shards, config.socket_buffer_bytes, keep_alive)
                .map_err(|(address, source)| StartError::Listen { address, source })?;
        let admin_listener = std::net::TcpListener::bind(config.admin)
            .map_err(|source| StartError::Admin { address: config.admin, source })?;
        let metrics = Arc::new(Metrics::new()?);
        let admin_address = admin_listener.local_addr().unwrap_or(config.admin);
        let own: Vec<SocketAddr> = listening.iter().copied().chain([admin_address]).collect();
        let epoch = Instant::now();
        let guard = GuardStart::new(&config.guard, epoch, &metrics)?;
        let builder = Builder {
            metrics: Arc::clone(&metrics),
            notifier: ShardNotifier::default(),
            accounts: guard.accounts(),
            guard,
            epoch,
            listen: config.listen.clone(),
            own: OwnAddresses::new(own),
            token_times: kerberos::token_times(),
            guesses: Arc::new(Guesses::new(metrics.logins())),
        };
        let egress = ManagedEgress::build(config, &builder, None)?;
        builder.guard.learn();
        let rules = GateRules {
            allow_clients: config.allow_clients.clone(),
            max_tunnels: config.max_tunnels,
            per_client: config.tunnels_per_client,
            per_client_second: config.new_tunnels_per_client,
        };
        let gate = Gate::new(rules, config.shards);
        metrics.buffered_bytes_max.set(i64::try_from(config.memory_limit_bytes).unwrap_or(i64::MAX));
        metrics.tunnels_max.set(i64::try_from(config.max_tunnels).unwrap_or(i64::MAX));
        let pseudonym = pseudonym()?;
        let settings = settings(config, &egress.current, &pseudonym);
        let names = OriginResolver::default();
        let mut shards = Vec::new();
        for (number, listeners) in listeners.into_iter().enumerate() {
            let (gate, settings, metrics) = (Arc::clone(&gate), settings.clone(), Arc::clone(&metrics));
            let (pipes, names, epoch) = (config.pipes_per_shard, names.clone(), builder.epoch);
            let options = ShardOptions { number, listeners, gate, settings, pipes, names, metrics, epoch };
            shards.push(Shard::new(options)?);
        }
        let senders: Vec<Sender<Message>> = shards.iter().map(|(_, sender)| sender.clone()).collect();
        gate.set_shards(senders.clone());
        let _ = builder.notifier.set(senders.clone());
        // Names may have been resolved before the shards could be notified.
        senders.iter().for_each(|shard| shard.send(Message::UpstreamResolved));
        let controls = Arc::new(Controls {
            shards: senders,
            builder,
            egress: Mutex::new(Some(egress)),
            shutting_down: AtomicBool::new(false),
            shows_tunnels: AtomicBool::new(config.admin_tunnels),
            pseudonym,
        });
        let ended = Arc::new(AtomicUsize::new(0));
        let threads = start_threads(shards, &ended, on_shard_end)?;
        let admin = Admin::start(admin_listener, Arc::clone(&controls) as Arc<dyn Status>)
            .map_err(|source| StartError::Admin { address: config.admin, source })?;
        Ok(Gateway { controls, threads, ended, listening, admin })
    }

    /// The addresses that workloads use, with the actual ports where port 0 was configured.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// The administration address.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// All metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.controls.builder.metrics
    }

    /// Applies a new configuration to new sessions; existing tunnels are not affected. Unchanged upstreams and
    /// credential guards keep their state; listeners and shards stay as they were at the start. Returns whether an
    /// account or a secret has changed.
    ///
    /// # Errors
    /// A thread for a new upstream cannot be started.
    pub fn reconfigure(&self, config: &Config) -> io::Result<bool> {
        let mut egress = self.controls.egress();
        let secrets_changed = egress.as_ref().is_none_or(|old| old.has_other_secrets(config));
        let fresh = ManagedEgress::build(config, &self.controls.builder, egress.take())?;
        let settings = settings(config, &fresh.current, &self.controls.pseudonym);
        *egress = Some(fresh);
        self.controls.shows_tunnels.store(config.admin_tunnels, Ordering::Relaxed);
        let memory_limit = i64::try_from(config.memory_limit_bytes).unwrap_or(i64::MAX);
        self.metrics().buffered_bytes_max.set(memory_limit);
        self.controls.send_to_all(|| Message::Settings(Box::new(settings.clone())));
        self.controls.send_to_all(|| Message::GuardChanged);
        self.controls.send_to_all(|| Message::UpstreamResolved);
        Ok(secrets_changed)
    }

    /// For how long the credentials are not tried, if they were refused.
    pub fn credentials_held(&self) -> Option<Duration> {
        self.controls.credentials_held()
    }

    /// From now on `/readyz` fails; everything else continues.
    pub fn announce_shutdown(&self) {
        self.controls.shutting_down.store(true, Ordering::Relaxed);
    }

    /// Closes the listeners; tunnels continue.
    pub fn drain(&self) {
        self.announce_shutdown();
        self.controls.send_to_all(|| Message::Drain);
    }

    /// Closes everything that is still open.
    pub fn stop(&self) {
        self.announce_shutdown();
        self.controls.send_to_all(|| Message::Stop);
    }

    /// The number of open tunnels.
    pub fn tunnels_open(&self) -> i64 {
        self.controls.builder.metrics.tunnels_open.get()
    }

    /// Whether all shards have ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) == self.threads.len()
    }

    /// Whether a shard has ended without a shutdown.
    pub fn is_broken(&self) -> bool {
        !self.controls.shutting_down.load(Ordering::Relaxed) && self.ended.load(Ordering::Acquire) != 0
    }

    /// Waits until all shards have ended.
    ///
    /// # Errors
    /// The first failure of a shard.
    pub fn join(self) -> io::Result<()> {
        let controls = Arc::clone(&self.controls);
        let mut result = Ok(());
        for thread in self.threads {
            let of_shard = thread.join().unwrap_or_else(|_| Err(io::Error::other("a shard's thread panicked")));
            result = result.and(of_shard);
        }
        controls.builder.guard.close();
        result
    }

    /// The check behind `/healthz`, for use on another thread: whether all event loops respond. It waits up to
    /// [`limits::SHARD_REPLY_TIMEOUT`].
    pub fn heartbeat(&self) -> impl Fn() -> bool + Send + 'static {
        let controls = Arc::clone(&self.controls);
        move || controls.alive().is_ok()
    }

    /// The state of all open tunnels. It waits up to [`limits::SHARD_REPLY_TIMEOUT`].
    pub fn tunnels(&self) -> TunnelList {
        self.controls.describe()
    }

    /// Starts to log one line per tunnel, on a separate thread, because this waits for the shards.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn log_tunnels(&self) -> io::Result<JoinHandle<()>> {
        let controls = Arc::clone(&self.controls);
        thread::Builder::new().name("tunnels".into()).spawn(move || controls.describe().log())
    }
}

impl Controls {
    fn send_to_all(&self, message: impl Fn() -> Message) {
        for shard in &self.shards {
            shard.send(message());
        }
    }

    fn credentials_held(&self) -> Option<Duration> {
        self.egress().as_ref()?.held(limits::millis(self.builder.epoch.elapsed()))
    }

    /// What the state of the guard's store means for clients. Secrets that were accepted are used without it.
    fn ready_with_store(&self) -> Result<String, String> {
        let Some(fault) = self.builder.guard.fault() else { return Ok("ok".into()) };
        let is_proven = self.egress().as_ref().is_some_and(ManagedEgress::is_proven);
        let line = format!("the guard's store is out of reach: {fault}");
        if is_proven { Ok(format!("ok\n{line}")) } else { Err(line) }
    }

    /// The state of all open tunnels.
    fn describe(&self) -> TunnelList {
        let (answer, answers) = mpsc::channel();
        self.send_to_all(|| Message::Describe(answer.clone()));
        drop(answer);
        let until = Instant::now() + limits::SHARD_REPLY_TIMEOUT;
        let mut list = TunnelList::default();
        for answered in 0..self.shards.len() {
            match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(described) => list.add(described),
                // The remaining shards have ended and have no tunnels.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    list.without_shards(self.shards.len() - answered);
                    break;
                }
            }
        }
        list
    }

    fn egress(&self) -> std::sync::MutexGuard<'_, Option<ManagedEgress>> {
        self.egress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Status for Controls {
    fn metrics(&self) -> Result<Vec<u8>, String> {
        let metrics = &self.builder.metrics;
        let counted = metrics.log_lines_dropped.get();
        if let Some(egress) = self.egress().as_ref() {
            egress.measure(metrics, self.builder.epoch);
        }
        metrics.log_lines_dropped.inc_by(logging::dropped_lines().saturating_sub(counted));
        metrics.encode().map_err(|error| error.to_string())
    }

    fn alive(&self) -> Result<(), String> {
        let (answer, answers) = mpsc::channel();
        self.send_to_all(|| Message::Ping(answer.clone()));
        drop(answer);
        let until = Instant::now() + limits::SHARD_REPLY_TIMEOUT;
        for answered in 0..self.shards.len() {
            match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                // The remaining shards have ended, as they should in a shutdown once their last tunnel is closed.
                Err(RecvTimeoutError::Disconnected) if self.shutting_down.load(Ordering::Relaxed) => break,
                Err(_) => {
                    let silent = self.shards.len() - answered;
                    return Err(format!("{silent} of {} event loops do not respond", self.shards.len()));
                }
            }
        }
        Ok(())
    }

    fn ready(&self) -> Result<String, String> {
        if self.shutting_down.load(Ordering::Relaxed) {
            return Err("shutting down".into());
        }
        if let Some(why) = self.egress().as_ref().and_then(ManagedEgress::unready) {
            return Err(why);
        }
        match self.credentials_held() {
            Some(rest) => {
                Err(format!("the upstream refuses the credentials; no further attempt for {} s", rest.as_secs()))
            }
            None => self.ready_with_store(),
        }
    }

    fn tunnels(&self) -> Option<String> {
        self.shows_tunnels.load(Ordering::Relaxed).then(|| self.describe().to_json())
    }
}

/// The addresses for clients, with what their sockets need.
fn places(config: &Config) -> Vec<shard::Place> {
    let listeners = config.listen.iter().zip(&config.services);
    listeners
        .map(|(address, service)| shard::Place { address: *address, takes_foreign: service.takes_foreign() })
        .collect()
}

fn keep_alive(config: &Config) -> Option<KeepAlive> {
    config.keep_alive.map(|config::KeepAlive { idle, probe, probes }| KeepAlive { idle, probe, probes })
}

fn settings(config: &Config, egress: &CurrentEgress, pseudonym: &Arc<str>) -> SessionSettings {
    SessionSettings {
        egress: egress.clone(),
        services: config.services.as_slice().into(),
        trusted_proxies: config.trusted_proxies.as_slice().into(),
        timeouts: config.timeouts.to_ms(),
        head_limit_bytes: config.head_limit_bytes,
        field_limit: config.field_limit,
        socket_buffer_bytes: config.socket_buffer_bytes,
        memory_limit_bytes: config.memory_limit_bytes,
        keep_alive: keep_alive(config),
        via: config.via.then(|| config.via_name.as_deref().map_or_else(|| Arc::clone(pseudonym), Arc::from)),
    }
}

fn start_threads(
    shards: Vec<(Shard, Sender<Message>)>,
    ended: &Arc<AtomicUsize>,
    on_end: impl Fn() + Send + Sync + 'static,
) -> io::Result<Vec<JoinHandle<io::Result<()>>>> {
    let on_end = Arc::new(on_end);
    let start = |(number, (shard, _)): (usize, (Shard, Sender<Message>))| {
        let end_notice = EndNotice { ended: Arc::clone(ended), on_end: Arc::clone(&on_end) };
        thread::Builder::new().name(format!("shard-{number}")).spawn(move || {
            let _end_notice = end_notice;
            shard.run()
        })
    };
    shards.into_iter().enumerate().map(start).collect()
}

/// Announces a shard's end when it is dropped, also after a panic.
struct EndNotice<F: Fn()> {
    ended: Arc<AtomicUsize>,
    on_end: Arc<F>,
}

impl<F: Fn()> Drop for EndNotice<F> {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::Release);
        (self.on_end)();
    }
}
