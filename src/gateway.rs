//! A running gateway: its shards, its resolver, its administration address, put together and taken apart.
//!
//! This is what the process runs, and what the demo, the tests and the benches run inside another.

mod egress_builder;

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
use crate::event::{KeepAlive, Sender};
use crate::inspect::TunnelList;
use crate::limits;
use crate::logging;
use crate::metrics::Metrics;
use crate::session::{SessionSettings, TimeoutsMs, pseudonym};
use crate::shard::{self, Gate, GateRules, Message, Shard, ShardOptions};
use crate::upstream::{Accounts, GuardPolicy, OriginResolver, OwnAddresses};
use egress_builder::{Builder, ManagedEgress, ShardNotifier};

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listening address is not to be had.
    #[error("cannot listen on {address}: {source}{}", hint(source, "--listen"))]
    Listen {
        /// The address as configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The administration address is not to be had.
    #[error("cannot serve metrics on {address}: {source}{}", hint(source, "--admin"))]
    Admin {
        /// The address as configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A thread, a poll or a descriptor is not to be had.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A metric family breaks the rules: a mistake of the program.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// What to do about an address that is not to be had; `flag` chooses another.
fn hint(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; another process listens there (another gateway?): stop it, or choose another port with {flag}")
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need the capability NET_BIND_SERVICE".into(),
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address".into(),
        _ => String::new(),
    }
}

/// What reaches into the running shards, and what is asked about them.
struct Controls {
    shards: Vec<Sender<Message>>,
    builder: Builder,
    /// `None` only while it is being replaced, or after that has failed.
    egress: Mutex<Option<ManagedEgress>>,
    shutting_down: AtomicBool,
    /// Whether `/tunnels` is served.
    shows_tunnels: AtomicBool,
    /// The process's name in Via fields, unless the configuration gives it one.
    pseudonym: Arc<str>,
}

/// A gateway that is running.
pub struct Gateway {
    controls: Arc<Controls>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// Shards that have ended; a thread is not "finished" yet when it tells of its end.
    ended: Arc<AtomicUsize>,
    listening: Vec<SocketAddr>,
    admin: Admin,
}

impl Gateway {
    /// Binds everything, then starts every thread: what can fail fails before anybody is served.
    ///
    /// `on_shard_end` is called from a shard's thread when it ends, for whatever reason.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start(config: &Config, on_shard_end: impl Fn() + Send + Sync + 'static) -> Result<Gateway, StartError> {
        let keep_alive = keep_alive(config);
        let (listeners, listening) = shard::bind(&config.listen, config.shards, config.socket_buffer_bytes, keep_alive)
            .map_err(|(address, source)| StartError::Listen { address, source })?;
        let admin_listener = std::net::TcpListener::bind(config.admin)
            .map_err(|source| StartError::Admin { address: config.admin, source })?;
        let metrics = Arc::new(Metrics::new()?);
        let admin_address = admin_listener.local_addr().unwrap_or(config.admin);
        let own: Vec<SocketAddr> = listening.iter().copied().chain([admin_address]).collect();
        let builder = Builder {
            metrics: Arc::clone(&metrics),
            bell: ShardNotifier::default(),
            accounts: Accounts::new(GuardPolicy { attempts: config.guard_attempts, ..GuardPolicy::default() }),
            epoch: Instant::now(),
            listen: config.listen.clone(),
            own_ports: own.iter().map(SocketAddr::port).collect(),
            own: OwnAddresses::new(own),
            guesses: Arc::new(Guesses::new(metrics.logins())),
        };
        let egress = ManagedEgress::build(config, &builder, None)?;
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
        let _ = builder.bell.set(senders.clone());
        // What was resolved before the shards were there to be told.
        senders.iter().for_each(|shard| shard.send(Message::Resolved));
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

    /// The addresses that workloads use, with the ports that came of port 0.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// The administration address.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// All counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.controls.builder.metrics
    }

    /// New tunnels go by the new configuration; those that stand are not touched. Upstreams and credential guards of which
    /// nothing has changed live on; listeners and shards stay as they were at the start. Says whether an account or a
    /// secret has changed.
    ///
    /// # Errors
    /// When a thread for a new upstream cannot be started.
    pub fn reconfigure(&self, config: &Config) -> io::Result<bool> {
        let mut egress = self.controls.egress();
        let secrets_changed = egress.as_ref().is_none_or(|old| old.has_other_secrets(config));
        let fresh = ManagedEgress::build(config, &self.controls.builder, egress.take())?;
        let settings = settings(config, &fresh.current, &self.controls.pseudonym);
        *egress = Some(fresh);
        self.controls.shows_tunnels.store(config.admin_tunnels, Ordering::Relaxed);
        let memory_limit = i64::try_from(config.memory_limit_bytes).unwrap_or(i64::MAX);
        self.metrics().buffered_bytes_max.set(memory_limit);
        self.controls.tell_all(|| Message::Settings(Box::new(settings.clone())));
        self.controls.tell_all(|| Message::GuardChanged);
        self.controls.tell_all(|| Message::Resolved);
        Ok(secrets_changed)
    }

    /// How long the credentials are not tried any more, if they were refused.
    pub fn credentials_held(&self) -> Option<Duration> {
        self.controls.credentials_held()
    }

    /// From now on `/readyz` fails, while everything else goes on.
    pub fn announce_shutdown(&self) {
        self.controls.shutting_down.store(true, Ordering::Relaxed);
    }

    /// Closes the listeners; tunnels live on.
    pub fn drain(&self) {
        self.announce_shutdown();
        self.controls.tell_all(|| Message::Drain);
    }

    /// Closes whatever is left.
    pub fn stop(&self) {
        self.announce_shutdown();
        self.controls.tell_all(|| Message::Stop);
    }

    /// Tunnels that are open.
    pub fn tunnels_open(&self) -> i64 {
        self.controls.builder.metrics.tunnels_open.get()
    }

    /// Whether all shards have ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) == self.threads.len()
    }

    /// Whether a shard has ended although nobody asked it to.
    pub fn is_broken(&self) -> bool {
        !self.controls.shutting_down.load(Ordering::Relaxed) && self.ended.load(Ordering::Acquire) != 0
    }

    /// Waits until all shards have ended; the first failure of one.
    ///
    /// # Errors
    /// What ended a shard that was not asked to end.
    pub fn join(self) -> io::Result<()> {
        let mut outcome = Ok(());
        for thread in self.threads {
            let result = thread.join().unwrap_or_else(|_| Err(io::Error::other("a shard's thread panicked")));
            outcome = outcome.and(result);
        }
        outcome
    }

    /// What `/healthz` asks, for another thread: whether the event loops turn. It waits up to
    /// [`limits::SHARD_REPLY_TIMEOUT`].
    pub fn heartbeat(&self) -> impl Fn() -> bool + Send + 'static {
        let controls = Arc::clone(&self.controls);
        move || controls.alive().is_ok()
    }

    /// What all tunnels are doing. It waits up to [`limits::SHARD_REPLY_TIMEOUT`].
    pub fn tunnels(&self) -> TunnelList {
        self.controls.describe()
    }

    /// Begins to write a line a tunnel into the log, on a thread of its own, for it waits for the shards.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn log_tunnels(&self) -> io::Result<JoinHandle<()>> {
        let controls = Arc::clone(&self.controls);
        thread::Builder::new().name("tunnels".into()).spawn(move || controls.describe().log())
    }
}

impl Controls {
    fn tell_all(&self, message: impl Fn() -> Message) {
        for shard in &self.shards {
            shard.send(message());
        }
    }

    fn credentials_held(&self) -> Option<Duration> {
        self.egress().as_ref()?.held(limits::millis(self.builder.epoch.elapsed()))
    }

    /// What all tunnels are doing.
    fn describe(&self) -> TunnelList {
        let (answer, answers) = mpsc::channel();
        self.tell_all(|| Message::Describe(answer.clone()));
        drop(answer);
        let until = Instant::now() + limits::SHARD_REPLY_TIMEOUT;
        let mut list = TunnelList::default();
        for heard in 0..self.shards.len() {
            match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(described) => list.add(described),
                // One that has ended has no tunnels.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    list.without_shards(self.shards.len() - heard);
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
        metrics.log_lines_dropped.inc_by(logging::dropped_lines().saturating_sub(counted));
        metrics.encode().map_err(|error| error.to_string())
    }

    fn alive(&self) -> Result<(), String> {
        let (answer, answers) = mpsc::channel();
        self.tell_all(|| Message::Ping(answer.clone()));
        drop(answer);
        let until = Instant::now() + limits::SHARD_REPLY_TIMEOUT;
        for heard in 0..self.shards.len() {
            match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                // The others have ended; in a shutdown that is what they are to do when their last tunnel has.
                Err(RecvTimeoutError::Disconnected) if self.shutting_down.load(Ordering::Relaxed) => break,
                Err(_) => {
                    let silent = self.shards.len() - heard;
                    return Err(format!("{silent} of {} event loops do not turn", self.shards.len()));
                }
            }
        }
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        if self.shutting_down.load(Ordering::Relaxed) {
            return Err("shutting down".into());
        }
        if let Some(why) = self.egress().as_ref().and_then(ManagedEgress::unready) {
            return Err(why);
        }
        match self.credentials_held() {
            Some(rest) => {
                Err(format!("the upstream refuses the credentials; not tried again for {} s", rest.as_secs()))
            }
            None => Ok(()),
        }
    }

    fn tunnels(&self) -> Option<String> {
        self.shows_tunnels.load(Ordering::Relaxed).then(|| self.describe().to_json())
    }
}

fn keep_alive(config: &Config) -> Option<KeepAlive> {
    config.keep_alive.map(|config::KeepAlive { idle, probe, probes }| KeepAlive { idle, probe, probes })
}

fn settings(config: &Config, egress: &CurrentEgress, pseudonym: &Arc<str>) -> SessionSettings {
    SessionSettings {
        egress: egress.clone(),
        timeouts: TimeoutsMs {
            head: limits::millis(config.timeouts.head),
            connect: limits::millis(config.timeouts.connect),
            challenge: limits::millis(config.timeouts.challenge),
            handshake: limits::millis(config.timeouts.handshake),
            idle: limits::millis(config.timeouts.idle),
            warm: limits::millis(config.timeouts.warm),
            body: limits::millis(config.timeouts.body),
            response: limits::millis(config.timeouts.response),
            keep_alive: limits::millis(config.timeouts.keep_alive),
            keep: limits::millis(config.timeouts.keep),
            half_closed: limits::millis(config.timeouts.half_closed),
            linger: limits::millis(limits::LINGER_TIMEOUT),
        },
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
        let told = Told { ended: Arc::clone(ended), on_end: Arc::clone(&on_end) };
        thread::Builder::new().name(format!("shard-{number}")).spawn(move || {
            let _told = told;
            shard.run()
        })
    };
    shards.into_iter().enumerate().map(start).collect()
}

/// Tells of a shard's end when it is dropped, also when it panics.
struct Told<F: Fn()> {
    ended: Arc<AtomicUsize>,
    on_end: Arc<F>,
}

impl<F: Fn()> Drop for Told<F> {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::Release);
        (self.on_end)();
    }
}
