//! Four gateways as processes of their own that share a store, clients that press on each of them, and an upstream that
//! counts failed logons.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ntlm_gateway::stub::{StubOptions, StubServer};
use rustix::process::{Pid, Signal, kill_process};

use super::crowd::Crowd;
use crate::support::USER;
use crate::support::gateway::{Gateway, GatewayOptions};
use crate::support::in_process::ACCOUNT;
use crate::support::kubernetes::{KubernetesApi, environment_of};
use crate::support::mount::Mount;
use crate::support::scratch::{free_port, wait_for};

/// How many gateways a fleet has.
pub const GATEWAYS: usize = 4;

/// How many clients press on each of them.
pub const CLIENTS: usize = 200;

/// The default of `guard.attempts`.
pub const BUDGET: u64 = 3;

/// Within this time all gateways use a right password, if the budget allows an attempt.
pub const RECOVERY: Duration = Duration::from_secs(2);

/// What log and `/readyz` say while the store is out of reach.
pub const OUT_OF_REACH: &str = "the guard's store is out of reach: ";

/// For what only has to happen at some time, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// For a while in which nothing may happen.
const WHILE: Duration = Duration::from_secs(1);

/// The keys of a Secret.
const PASSWORD: &str = "password";
const PREVIOUS: &str = "previous-password";

/// A gateway, its Secret, and its clients.
pub struct Member {
    options: GatewayOptions,
    // Before the clients, which wait for its answers.
    gateway: Option<Gateway>,
    pid: Option<Pid>,
    crowd: Crowd,
    secret: Mount,
}

/// Options of a gateway and its clients.
pub struct MemberOptions {
    pub upstream: SocketAddr,
    pub user: String,
    pub password: String,
    pub clients: usize,
    /// What the clients connect to; by default several ports of the stub's echo server.
    pub target: Option<String>,
    pub store: Store,
    /// Whether it uses a previous password, too.
    pub has_previous: bool,
    /// See [`GatewayOptions::setup`].
    pub setup: Option<String>,
}

/// See the module.
pub struct Fleet {
    pub members: Vec<Member>,
    pub upstream: StubServer,
}

/// An upstream that knows the account of [`ACCOUNT`] and answers after `delay`.
pub fn upstream(delay: Duration) -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions { delay, ..StubOptions::default().account(domain, user, password) }).expect("a stub")
}

/// Arguments for a store in a directory.
pub fn file_store(directory: &Path) -> Vec<String> {
    ["--guard-store", "file", "--guard-directory", &directory.display().to_string()].map(str::to_owned).into()
}

/// Arguments and environment for a store in a Lease of an API at this address.
pub fn lease_store(api: &KubernetesApi, address: SocketAddr) -> (Vec<String>, Vec<(String, String)>) {
    let directory = ("KUBERNETES_SERVICE_ACCOUNT_DIRECTORY".to_owned(), api.directory().display().to_string());
    let environment = environment_of(address).into_iter().chain([directory]).collect();
    (["--guard-store", "kubernetes"].map(str::to_owned).into(), environment)
}

impl MemberOptions {
    /// A gateway for the account of [`ACCOUNT`] with this password.
    pub fn new(upstream: SocketAddr, password: &str, clients: usize, store: Store) -> Self {
        let (user, password) = (USER.to_owned(), password.to_owned());
        Self { upstream, user, password, clients, target: None, store, has_previous: false, setup: None }
    }
}

impl Member {
    /// Starts a gateway with this password, and its clients.
    pub fn start(upstream: SocketAddr, password: &str, clients: usize, store: Store) -> Self {
        Self::start_with(MemberOptions::new(upstream, password, clients, store))
    }

    /// Starts a gateway and its clients.
    pub fn start_with(member: MemberOptions) -> Self {
        let secret = Mount::new(PASSWORD, &member.password);
        let file = secret.path();
        // For gateways of another user.
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("chmod");
        let mut options = GatewayOptions::through(member.upstream);
        (options.user, options.password_file, options.setup) = (member.user, Some(file), member.setup);
        options.listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        options.args = ["--shards", "1"].map(str::to_owned).into_iter().chain(member.store.0).collect();
        if member.has_previous {
            options.args.extend(["--previous-password-file".into(), secret.path_of(PREVIOUS).display().to_string()]);
        }
        options.env = member.store.1;
        let crowd = Crowd::start(options.listen, member.clients, member.target.as_deref());
        let mut member = Self { options, gateway: None, pid: None, crowd, secret };
        member.restart();
        member
    }

    /// The running gateway.
    pub fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("a running gateway")
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(pid) = self.pid.take() {
            kill_process(pid, Signal::KILL).expect("a process to kill");
        }
        self.gateway = None;
    }

    /// Ends it as the end of a pod does: SIGTERM, and time to finish.
    pub fn terminate(&mut self) {
        if let (Some(mut gateway), Some(_)) = (self.gateway.take(), self.pid.take()) {
            gateway.signal(Signal::TERM);
            assert!(gateway.wait(PATIENCE).is_some(), "the gateway does not end");
        }
    }

    /// Starts it on the same address, with the same settings.
    pub fn restart(&mut self) {
        // The last thread of a killed process closes its sockets, which may be after its end can be seen.
        let is_free = || TcpListener::bind(self.options.listen).is_ok().then_some(());
        assert!(wait_for(PATIENCE, is_free).is_some(), "{} is in use", self.options.listen);
        let gateway = Gateway::start(&self.options);
        self.pid = Some(gateway.pid());
        self.gateway = Some(gateway);
    }

    /// Replaces the password, and asks for a reload.
    pub fn set_password(&self, password: &str) {
        self.publish(&[(PASSWORD, password)]);
    }

    /// Replaces the password, and keeps the one before it.
    pub fn rotate(&self, password: &str, previous: &str) {
        self.publish(&[(PASSWORD, password), (PREVIOUS, previous)]);
    }

    fn publish(&self, keys: &[(&str, &str)]) {
        self.secret.publish_files(keys);
        if let Some(pid) = self.pid {
            kill_process(pid, Signal::HUP).expect("a process to reload");
        }
    }

    /// Its clients.
    pub fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// The state and the line of its `/readyz`.
    pub fn readyz(&self) -> (u16, String) {
        self.gateway().admin("/readyz")
    }

    /// Whether its store can be reached, by its metric.
    pub fn store_is_up(&self) -> bool {
        self.gateway().metric("ntlm_gateway_guard_store_up", &[]) == Some(1.0)
    }

    /// How often its log says this.
    pub fn says(&self, part: &str) -> usize {
        self.gateway().log().iter().filter(|line| line.contains(part)).count()
    }
}

/// Arguments and environment of a gateway.
pub type Store = (Vec<String>, Vec<(String, String)>);

impl Fleet {
    /// Starts it. The store is asked for each gateway, by its number.
    pub fn start(delay: Duration, password: &str, clients: usize, store: impl Fn(usize) -> Store) -> Self {
        let upstream = upstream(delay);
        let member = |number| Member::start(upstream.address(), password, clients, store(number));
        Self { members: (0..GATEWAYS).map(member).collect(), upstream }
    }

    /// Failed logons so far, as a domain controller would count them.
    pub fn failed_logons(&self) -> u64 {
        self.upstream.counters().refused
    }

    /// Fails unless so many logons have failed, and shows what each gateway says of logons.
    #[track_caller]
    pub fn assert_failed_logons(&self, expected: u64, what: &str) {
        let failed = self.failed_logons();
        let about_logons =
            |line: &&String| ["refuses", "scheme=NTLM", "store", "guard"].iter().any(|part| line.contains(part));
        let says = |member: &Member| member.gateway().log().iter().filter(about_logons).cloned().collect::<Vec<_>>();
        assert!(
            failed == expected,
            "{what}: {failed} failed logons, {expected} expected: {:#?}",
            self.members.iter().map(says).collect::<Vec<_>>()
        );
    }

    /// Waits until so many logons have failed.
    #[track_caller]
    pub fn wait_for_failed_logons(&self, count: u64) {
        let reached = wait_for(PATIENCE, || (self.failed_logons() >= count).then_some(()));
        assert!(reached.is_some(), "{} failed logons, {count} expected", self.failed_logons());
    }

    /// Whether no gateway is ready because the secret is rejected.
    pub fn all_hold(&self) -> bool {
        self.members.iter().all(|member| member.readyz().1.contains("refuses the credentials"))
    }

    /// Ends all gateways at the same time.
    pub fn kill_all(&mut self) {
        for pid in self.members.iter_mut().filter_map(|member| member.pid.take()) {
            kill_process(pid, Signal::KILL).expect("a process to kill");
        }
        self.members.iter_mut().for_each(Member::kill);
    }

    /// Waits until every gateway is not ready because the secret is rejected.
    #[track_caller]
    pub fn wait_until_all_hold(&self) {
        let all = wait_for(PATIENCE, || self.all_hold().then_some(()));
        let states: Vec<_> = self.members.iter().map(Member::readyz).collect();
        assert!(all.is_some(), "{states:?}");
    }

    /// Gives all gateways another password.
    pub fn set_password(&self, password: &str) {
        self.members.iter().for_each(|member| member.set_password(password));
    }

    /// Gives all gateways another password, and waits until each of them uses it.
    #[track_caller]
    pub fn change_password(&self, password: &str) {
        let reloads = || self.members.iter().map(|member| member.says("reloaded, with new credentials"));
        let before: Vec<usize> = reloads().collect();
        self.set_password(password);
        let all = wait_for(PATIENCE, || reloads().zip(&before).all(|(now, before)| now > *before).then_some(()));
        assert!(all.is_some(), "before {before:?}, and now {:?}", reloads().collect::<Vec<_>>());
    }

    /// The AUTHENTICATE_MESSAGEs that arrive within [`WHILE`].
    pub fn logons_within_a_while(&self) -> u64 {
        let before = self.upstream.counters().authenticates;
        std::thread::sleep(WHILE);
        self.upstream.counters().authenticates - before
    }

    /// Gives all gateways other wrong passwords until none is tried any more: a slow machine may not have seen each of
    /// those before.
    #[track_caller]
    pub fn use_budget_up(&self) {
        let is_used_up = (0..=BUDGET).any(|number| {
            self.change_password(&format!("wrong too-{number}"));
            self.logons_within_a_while() == 0
        });
        assert!(is_used_up, "{} failed logons", self.failed_logons());
        self.wait_until_all_hold();
        assert!(self.failed_logons() <= BUDGET, "{} failed logons", self.failed_logons());
    }

    /// The requests of each gateway that were served so far.
    pub fn served(&self) -> Vec<usize> {
        self.members.iter().map(|member| member.crowd.served()).collect()
    }

    /// Waits until every gateway has served another request, and returns how long it took.
    #[track_caller]
    pub fn wait_until_all_serve(&self) -> Duration {
        let (begun, before) = (Instant::now(), self.served());
        let all = || self.served().iter().zip(&before).all(|(now, before)| now > before).then_some(());
        let done = wait_for(PATIENCE, all);
        assert!(done.is_some(), "served before {before:?}, and now {:?}", self.served());
        begun.elapsed()
    }
}
