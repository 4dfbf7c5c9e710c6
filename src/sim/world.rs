//! A shard, its clients and its upstreams on one virtual clock, run until nothing is left to do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::client::{self, Client};
use super::kerberos::{self, AgentContext, Proxy, Tickets};
use super::network::{self, Address, Call, Network, Phase, with};
use super::opening;
use super::plain::HttpClient;
use super::rng::Rng;
use super::routes::ScriptedRoutes;
use super::scenario::{
    Entrance, FlowOddity, FlowPlan, ORIGINS, SECOND_IDENTITY_ADDRESS, Scenario, Target, USERS, UpstreamPlan,
};
use super::tls::{TlsEnds, TlsPlan};
use super::trace::Trace;
use super::upstream::{Peer, PeerContext};
use crate::auth::{Credentials, NonceSource};
use crate::client_protocol::{Redirection, Service};
use crate::egress::{
    CurrentEgress, Egress, Guesses, Habits, Hop, KnownIdentity, Logins, Member, ReportedChoice, Unchallenged,
    UpstreamOrder,
};
use crate::event::{Key, Sender};
use crate::metrics::Metrics;
use crate::ntlm::{Account, Identity, Method, NtHash};
use crate::route::{Decision, RouteSource, Rule, Rules};
use crate::session::SessionSettings;
use crate::shard::{Gate, GateRules, Message, Shard, ShardOptions};
use crate::stub::{Counters, ServerNames, Setup, StubAccount};
use crate::transport::Listener;
use crate::transport::Transport;
use crate::upstream::{
    Accounts, CheckFailure, Guard, HealthChange, HostPort, LookupClient, LookupReply, OriginResolver, OwnAddresses,
    Resolution, Upstream,
};

/// More turns than any run may need.
const MOST_TURNS: u64 = 400_000;

/// More virtual time than any run may need, in µs.
const LONGEST_US: u64 = 6_000_000_000;

/// Turns in a row in which the loop may be busy without doing anything.
const MOST_SPINS: u32 = 64;

// The world's timers: kind and index.
const CLIENT_ARRIVES: u64 = 1 << 32;
const UPSTREAM_RESOLVES: u64 = 2 << 32;
const CHECK_UPSTREAM: u64 = 3 << 32;
const LOOKUP_DONE: u64 = 4 << 32;
const DRAIN: u64 = 5 << 32;
const STOP: u64 = 6 << 32;
const RELOAD: u64 = 7 << 32;
const CHANGE_PASSWORD: u64 = 8 << 32;
const ROUTE_ANSWER: u64 = 9 << 32;
const AGENT: u64 = 10 << 32;
const TICKET_WANTED: u64 = 11 << 32;

thread_local! {
    /// Creating the metric families costs more than a run.
    static METRICS: RefCell<Option<Arc<Metrics>>> = const { RefCell::new(None) };
}

/// Discards the metrics, whose gauges a failed run may have left non-zero.
pub fn forget_metrics() {
    METRICS.set(None);
}

/// Its threads stay unused: look-ups go to the world.
static RESOLVER: OnceLock<OriginResolver> = OnceLock::new();

type Lookups = Arc<Mutex<Vec<(HostPort, Key)>>>;

/// Everything in one run.
pub struct World {
    pub scenario: Scenario,
    pub clients: Vec<Option<Client>>,
    pub http_clients: Vec<Option<HttpClient>>,
    pub peers: BTreeMap<usize, Peer>,
    pub egress: CurrentEgress,
    pub metrics: Arc<Metrics>,
    pub counters: Counters,
    settings: SessionSettings,
    setup: Setup,
    flows: Vec<FlowPlan>,
    preludes: Vec<Vec<u8>>,
    sender: Sender<Message>,
    lookups: Lookups,
    routes: Option<Arc<ScriptedRoutes>>,
    pub tickets: Option<Tickets>,
    /// Both ends' settings of TLS, for each upstream that serves it.
    tls: Vec<Option<TlsEnds>>,
    rng: Rng,
    draining: bool,
    /// Connections that upstreams have accepted, by the upstream's place.
    accepted: BTreeMap<usize, usize>,
    /// AUTHENTICATE_MESSAGEs counted before this run.
    authenticates_before: u64,
    /// When the password changed: logons refused so far, and AUTHENTICATE_MESSAGEs in flight.
    pub at_password_change: Option<(u64, u64)>,
}

/// Builds the world of a scenario and its shard; the seed decides everything that the scenario leaves open.
pub fn build(scenario: Scenario, seed: u64, print: bool) -> (World, Shard) {
    let mut rng = Rng::new(!seed);
    network::install(Some(new_network(&scenario, rng.fork(), print)));
    let metrics =
        METRICS.with_borrow_mut(|kept| Arc::clone(kept.get_or_insert_with(|| Arc::new(Metrics::new().unwrap()))));
    let shard_sender: Arc<OnceLock<Sender<Message>>> = Arc::default();
    let routes = scenario.routes.clone().map(|scripts| Arc::new(ScriptedRoutes::new(scripts, ROUTE_ANSWER)));
    let identities = if scenario.two_identities { 2 } else { 1 };
    let tickets =
        scenario.kerberos.as_ref().map(|plan| Tickets::new(plan, scenario.upstreams.len(), identities, TICKET_WANTED));
    let tls: Vec<_> = scenario.upstreams.iter().map(|plan| plan.tls.as_ref().map(TlsPlan::ends)).collect();
    let egress = CurrentEgress::new(
        new_egress(&scenario, &metrics, &shard_sender, routes.clone(), tickets.as_ref(), &tls),
        Logins::default(),
        Arc::new(Guesses::new(metrics.logins())),
    );
    let settings = SessionSettings {
        egress: egress.clone(),
        services: services(&scenario),
        trusted_proxies: trusted_proxies(&scenario),
        timeouts: scenario.timeouts,
        head_limit_bytes: scenario.head_limit_bytes,
        field_limit: crate::limits::FIELD_LIMIT,
        socket_buffer_bytes: 0,
        memory_limit_bytes: 0,
        keep_alive: None,
        via: Some(crate::http::PROXY_NAME.into()),
    };
    let (mut shard, sender) = Shard::new(ShardOptions {
        number: 0,
        listeners: vec![Listener::Simulated(network::Listener)],
        gate: Gate::new(GateRules { max_tunnels: scenario.max_tunnels, ..GateRules::default() }, 1),
        settings: settings.clone(),
        pipes: scenario.pipes,
        names: RESOLVER.get_or_init(OriginResolver::default).clone(),
        metrics: Arc::clone(&metrics),
        epoch: Instant::now(),
    })
    .unwrap();
    shard_sender.set(sender.clone()).ok().unwrap();
    let lookups = Lookups::default();
    let context = shard.context();
    context.timers = crate::event::Timers::new(0);
    context.scratch = vec![0; scenario.scratch_bytes].into();
    context.look_up = resolve_in_world(Arc::clone(&lookups), &scenario);
    if tickets.is_some() {
        let mut drawn = seed << 20;
        context.nonces = NonceSource::scripted(move || {
            drawn += 1;
            kerberos::nonces(drawn)
        });
    }
    let account =
        |user: &str| StubAccount { domain: "CORP".into(), user: user.into(), nt_hash: NtHash::from_password("right") };
    let mut world = World {
        authenticates_before: 0,
        at_password_change: None,
        clients: scenario.clients.iter().map(|_| None).collect(),
        http_clients: scenario.http_clients.iter().map(|_| None).collect(),
        peers: BTreeMap::new(),
        egress,
        metrics,
        counters: Counters::default(),
        settings,
        setup: Setup::new(ServerNames::new("CORP", "PROXY"), USERS.map(account).into(), Duration::ZERO),
        flows: scenario.clients.iter().map(|client| client.down).collect(),
        preludes: scenario.clients.iter().enumerate().map(|(number, plan)| client::prelude(number, plan)).collect(),
        sender,
        lookups,
        routes,
        tickets,
        tls,
        rng,
        draining: false,
        accepted: BTreeMap::new(),
        scenario,
    };
    world.authenticates_before = world.authenticates_sent();
    world.set_alarms();
    (world, shard)
}

fn new_network(scenario: &Scenario, rng: Rng, print: bool) -> Network {
    let mut network = Network::new(rng, Trace::new(print));
    network.traits.clone_from(&scenario.traits);
    network.poll = scenario.poll;
    network.pipe_slots = scenario.pipe_slots;
    network.accept_fails = scenario.accept_fails;
    network.addresses.extend(scenario.upstreams.iter().flat_map(|upstream| upstream.addresses.iter().copied()));
    for number in 0..scenario.clients.len() + scenario.http_clients.len() {
        let address = |host: &str| SocketAddr::new(host.parse().unwrap(), 9_000 + u16::try_from(number).unwrap());
        network.addresses.insert(address(ORIGINS[0]), scenario.origin);
        network.addresses.insert(address(ORIGINS[1]), Address::DropsSyns);
    }
    network
}

fn new_egress(
    scenario: &Scenario,
    metrics: &Arc<Metrics>,
    shard_sender: &Arc<OnceLock<Sender<Message>>>,
    scripted: Option<Arc<ScriptedRoutes>>,
    tickets: Option<&Tickets>,
    tls: &[Option<TlsEnds>],
) -> Egress {
    let count = if scenario.two_identities { 2 } else { 1 };
    let identities: Vec<_> = USERS.iter().take(count).map(|user| Arc::new(new_identity(user, shard_sender))).collect();
    let (mut members, mut hops) = (Vec::new(), Vec::new());
    for (place, (plan, tls)) in scenario.upstreams.iter().zip(tls).enumerate() {
        let name = format!("u{place}");
        let transport = tls.as_ref().map_or(Transport::Tcp, |ends| ends.gateway.clone());
        let upstream =
            Upstream::new(&name, vec![format!("{name}.test:3128").parse().unwrap()], transport, move |change| {
                if matches!(change, HealthChange::Ejected(_)) {
                    with(|network| {
                        network.ejected.push(place);
                        network.alarm(500_000, CHECK_UPSTREAM + place as u64);
                    });
                }
            });
        for identity in &identities {
            hops.push(new_hop(hops.len(), &upstream, identity, scenario, metrics, tickets));
        }
        if plan.resolves_after_us == 0 {
            upstream.resolved(0, addresses_of(scenario, place));
        }
        let metrics = metrics.upstream(&name);
        members.push(Member { upstream, metrics, group: plan.group, weight: 1, identity: None });
    }
    let order = if scenario.balance { UpstreamOrder::Balance } else { UpstreamOrder::Failover };
    let rules = Arc::new(rules());
    let routes: Arc<dyn RouteSource> = match scripted {
        Some(scripted) => scripted,
        None => rules.clone(),
    };
    Egress { members, identities, hops, order, routes, rules, listeners: Vec::new(), own: OwnAddresses::default() }
}

fn new_hop(
    number: usize,
    upstream: &Arc<Upstream>,
    known: &Arc<KnownIdentity>,
    scenario: &Scenario,
    metrics: &Metrics,
    tickets: Option<&Tickets>,
) -> Arc<Hop> {
    let account = Account::parse(&format!(r"CORP\{}", known.name), None).unwrap();
    let password = if scenario.right_password { "right" } else { "wrong" };
    let identity = Identity::new(account, "WS", NtHash::from_password(password), Method::NtlmV2, false);
    let mut credentials = Credentials::new(identity, "proxy.corp.test", scenario.first_leg);
    if let (Some(tickets), Some(plan)) = (tickets, &scenario.kerberos) {
        credentials = credentials.with_kerberos(tickets.slot(upstream.name(), &known.name), !plan.ntlm);
    }
    Arc::new(Hop {
        number,
        upstream: Arc::clone(upstream),
        identity: Arc::clone(known),
        credentials: Arc::new(credentials),
        metrics: metrics.hop(upstream.name(), &known.name),
        upstream_metrics: metrics.upstream(upstream.name()),
        warm: scenario.warm,
        keep_cap: scenario.keep,
        check_target: None,
        previous: None,
        habits: Habits::default(),
        reported: ReportedChoice::default(),
        unchallenged: Unchallenged::default(),
    })
}

/// The same upstreams and identities as a reload may list them: in the opposite order, with other credentials and other
/// numbers for the groups.
fn reversed_egress(old: &Egress, scenario: &Scenario, metrics: &Metrics, tickets: Option<&Tickets>) -> Egress {
    let last_group = old.members.iter().map(|member| member.group).max().unwrap_or(0);
    let (mut members, mut hops) = (Vec::new(), Vec::new());
    for Member { upstream, metrics: of_upstream, group, weight, identity } in old.members.iter().rev() {
        for identity in &old.identities {
            hops.push(new_hop(hops.len(), upstream, identity, scenario, metrics, tickets));
        }
        members.push(Member {
            upstream: Arc::clone(upstream),
            metrics: of_upstream.clone(),
            group: last_group - group,
            weight: *weight,
            identity: *identity,
        });
    }
    let (routes, rules) = (Arc::clone(&old.routes), Arc::clone(&old.rules));
    let (identities, order) = (old.identities.clone(), old.order);
    Egress { members, identities, hops, order, routes, rules, listeners: Vec::new(), own: OwnAddresses::default() }
}

/// The first identity serves everybody; the second one serves the clients at its address.
fn new_identity(user: &str, shard_sender: &Arc<OnceLock<Sender<Message>>>) -> KnownIdentity {
    let shard_sender = Arc::clone(shard_sender);
    let guard = Guard::of(Accounts::default().of("CORP", user), 0, move |_| {
        shard_sender.get().into_iter().for_each(|sender| sender.send(Message::GuardChanged));
    });
    let clients = if user == USERS[0] { Vec::new() } else { vec![IpAddr::V4(SECOND_IDENTITY_ADDRESS).into()] };
    KnownIdentity { name: user.into(), guard, clients, has_listener: false, has_login: false }
}

fn addresses_of(scenario: &Scenario, member: usize) -> Resolution {
    Resolution::Addresses(scenario.upstreams[member].addresses.iter().map(|(address, _)| *address).collect())
}

/// What the listener serves.
fn services(scenario: &Scenario) -> Arc<[Service]> {
    let service = match (scenario.entrance, scenario.clients.first()) {
        (Entrance::Transparent, _) => Service::Transparent(Redirection::Redirect),
        (Entrance::Forward, Some(plan)) => {
            Service::forward(&format!("{}:{}", client::host(0, plan.target), opening::port(0))).unwrap()
        }
        (Entrance::Ordinary | Entrance::ProxyHeader | Entrance::Forward, _) => Service::DEFAULT,
    };
    [service].into()
}

/// The networks from which the listener takes PROXY headers.
fn trusted_proxies(scenario: &Scenario) -> Arc<[Vec<IpNet>]> {
    let is_trusted = scenario.entrance == Entrance::ProxyHeader;
    [is_trusted.then(|| "127.0.0.0/8".parse().unwrap()).into_iter().collect()].into()
}

fn rules() -> Rules {
    let rule = |hosts: &[&str], networks: &[&str], decision| Rule {
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        ports: Vec::new(),
        decision,
    };
    Rules {
        rules: vec![
            rule(&[".direct"], &["10.7.0.0/16"], Decision::Direct),
            rule(&[".denied", "2001:db8::66"], &["10.66.0.0/16", "127.0.0.0/8"], Decision::Deny),
        ],
        no_proxy: Vec::new(),
        without_credentials: vec![".open".parse().unwrap()],
    }
}

/// The world resolves names, after the time in the client's plan.
fn resolve_in_world(
    lookups: Lookups,
    scenario: &Scenario,
) -> Box<dyn Fn(HostPort, Key, LookupClient) -> LookupReply + Send> {
    let targets = scenario.clients.iter().map(|client| client.target);
    let delays: Vec<u64> = targets
        .chain(scenario.http_clients.iter().map(|client| client.target))
        .map(|target| if let Target::DirectName(after_us) = target { after_us } else { 0 })
        .collect();
    Box::new(move |host, key, _| {
        let mut lookups = lookups.lock().unwrap();
        let delay_us = delays[usize::from(host.port()) - 9_000];
        with(|network| network.alarm(delay_us, LOOKUP_DONE + lookups.len() as u64));
        lookups.push((host, key));
        LookupReply::Accepted
    })
}

impl World {
    fn set_alarms(&self) {
        let scenario = &self.scenario;
        with(|network| {
            let times = scenario.clients.iter().map(|plan| plan.arrives_at_us);
            for (number, at_us) in times.chain(scenario.http_clients.iter().map(|plan| plan.arrives_at_us)).enumerate()
            {
                network.alarm(at_us, CLIENT_ARRIVES + number as u64);
            }
            for (member, plan) in scenario.upstreams.iter().enumerate().filter(|(_, plan)| plan.resolves_after_us > 0) {
                network.alarm(plan.resolves_after_us, UPSTREAM_RESOLVES + member as u64);
            }
            for identity in 0..self.tickets.as_ref().map_or(0, |tickets| tickets.agents.len()) {
                network.alarm(0, AGENT + identity as u64);
            }
            for (at_us, what) in [
                (scenario.drain_at_us, DRAIN),
                (scenario.stop_at_us, STOP),
                (scenario.reload_at_us, RELOAD),
                (scenario.password_changes_at_us, CHANGE_PASSWORD),
            ] {
                at_us.into_iter().for_each(|at_us| network.alarm(at_us, what));
            }
        });
    }

    /// Runs the shard until it ends.
    ///
    /// # Errors
    /// If it does not end.
    pub fn run(&mut self, shard: &mut Shard) -> Result<(), String> {
        let mut spins = 0;
        for _ in 0..MOST_TURNS {
            self.run_due();
            let (now_us, calls, events) = with(|network| (network.now_us, network.calls, network.poll_events()));
            let quiet = events.is_empty() && !shard.is_called();
            let with_messages = !self.rng.once_in(3);
            if shard.drive(now_us, events, with_messages) {
                return Ok(());
            }
            let busy = shard.patience() == Some(Duration::ZERO);
            let did_nothing = calls == with(|network| network.calls);
            spins = if busy && quiet && did_nothing { spins + 1 } else { 0 };
            if spins > MOST_SPINS {
                return Err("the loop spins without doing anything".into());
            }
            if now_us > LONGEST_US {
                return Err("the tunnels never end".into());
            }
            self.end_when_all_is_over(shard);
            if !self.advance(shard) {
                return Err("nothing is scheduled any more, but the shard has not ended".into());
            }
        }
        Err("the shard never ends".into())
    }

    /// Runs what is still scheduled after the shard has ended.
    ///
    /// # Errors
    /// If that never ends.
    pub fn settle(&mut self) -> Result<(), String> {
        for _ in 0..MOST_TURNS {
            self.run_due();
            let Some(next_us) = with(|network| network.next_us()) else { return Ok(()) };
            with(|network| network.now_us = next_us);
        }
        Err("the peers never finish".into())
    }

    /// Runs everything that is due.
    fn run_due(&mut self) {
        while let Some(call) = with(Network::run_due) {
            match call {
                None => {}
                Some(Call::Peer(wire)) => self.call_peer(wire),
                Some(Call::Alarm(what)) => self.alarm(what),
            }
        }
    }

    fn call_peer(&mut self, wire: usize) {
        if let Some(client) = self.clients.iter_mut().flatten().find(|client| client.wire == wire) {
            with(|network| client.step(network));
            return;
        }
        if let Some(client) = self.http_clients.iter_mut().flatten().find(|client| client.wire == wire) {
            with(|network| client.step(network));
            return;
        }
        if !self.peers.contains_key(&wire) {
            let Some(address) =
                with(|network| (network.wires[wire].phase == Phase::Open).then(|| network.dialled[&wire]))
            else {
                return;
            };
            let peer = self.new_peer(wire, address);
            self.peers.insert(wire, peer);
        }
        if !with(|network| network.is_ready(wire)) {
            return;
        }
        let Some(mut peer) = self.peers.remove(&wire) else { return };
        with(|network| peer.step(network, &self.peer_context()));
        self.peers.insert(wire, peer);
    }

    fn peer_context(&self) -> PeerContext<'_> {
        let http_clients = &self.scenario.http_clients;
        let two_identities = self.scenario.two_identities;
        PeerContext {
            setup: &self.setup,
            counters: &self.counters,
            flows: &self.flows,
            preludes: &self.preludes,
            http_clients,
            two_identities,
        }
    }

    fn new_peer(&mut self, wire: usize, address: SocketAddr) -> Peer {
        let has_address = |plan: &UpstreamPlan| plan.addresses.iter().any(|configured| configured.0 == address);
        let member = self.scenario.upstreams.iter().enumerate().find(|(_, plan)| has_address(plan));
        let Some((place, plan)) = member else {
            let number = usize::from(address.port()) - 9_000;
            return Peer::origin(wire, number, &self.peer_context());
        };
        let odd = plan.odd_once_in.is_some_and(|times| self.rng.once_in(times));
        let after = self.rng.within(0..=3_000);
        let kinds = [FlowOddity::Resets, FlowOddity::Closes, FlowOddity::StopsReading, FlowOddity::StopsWriting];
        let oddity = odd.then(|| self.rng.pick(&kinds)(after));
        let accepted = self.accepted.entry(place).or_default();
        let oddity = plan.first_oddities.get(*accepted).copied().unwrap_or(oddity);
        if let (Some(plan), Some(ends)) = (&plan.tls, &self.tls[place]) {
            let traits = plan.traits(*accepted, with(|network| network.now_us), &mut self.rng);
            with(|network| network.secure(wire, Arc::clone(&ends.server), traits));
        }
        *accepted += 1;
        let (id, personality) = (self.rng.next(), plan.personality);
        let proxy = match &self.tickets {
            Some(tickets) => Proxy::kerberos(personality, id, place, &tickets.realm),
            None => Proxy::ntlm(personality, id),
        };
        Peer::upstream(wire, plan, proxy, oddity)
    }

    fn alarm(&mut self, what: u64) {
        let index = usize::try_from(what & 0xffff_ffff).unwrap();
        let entrance = self.scenario.entrance;
        match what & !0xffff_ffff {
            CLIENT_ARRIVES if index >= self.clients.len() => {
                let place = index - self.clients.len();
                let plan = self.scenario.http_clients[place].clone();
                self.http_clients[place] = Some(with(|network| HttpClient::connect(index, plan, entrance, network)));
            }
            CLIENT_ARRIVES => {
                let plan = self.scenario.clients[index].clone();
                self.clients[index] = Some(with(|network| Client::connect(index, plan, entrance, network)));
            }
            UPSTREAM_RESOLVES => {
                self.upstream(index).resolved(0, addresses_of(&self.scenario, index));
                self.sender.send(Message::UpstreamResolved);
            }
            CHECK_UPSTREAM => self.check(index),
            LOOKUP_DONE => self.lookup_done(index),
            DRAIN => self.drain(),
            STOP => {
                self.draining = true;
                self.sender.send(Message::Stop);
            }
            RELOAD => self.reload(),
            CHANGE_PASSWORD => self.change_password(),
            // What an agent has begun it ends, but then the run may end, too.
            AGENT if self.draining && self.tickets.as_ref().is_some_and(|it| it.agents[index].rests()) => {}
            AGENT => self.step_agent(index),
            TICKET_WANTED => self.ticket_wanted(index),
            ROUTE_ANSWER => self.routes.iter().for_each(|routes| routes.answer(index)),
            _ => unreachable!("a timer of the world's"),
        }
    }

    /// An upstream by its place in the scenario.
    pub fn upstream(&self, place: usize) -> &Arc<Upstream> {
        let name = format!("u{place}");
        let mut upstreams = self.egress.members.iter().map(|member| &member.upstream);
        upstreams.find(|upstream| **upstream.name() == *name).expect("a reload takes no upstream away")
    }

    fn reload(&mut self) {
        if self.scenario.reload_reverses {
            let egress = reversed_egress(&self.egress, &self.scenario, &self.metrics, self.tickets.as_ref());
            let guesses = Arc::new(Guesses::new(self.metrics.logins()));
            self.egress = CurrentEgress::new(egress, Logins::default(), guesses);
            self.settings.egress = self.egress.clone();
        }
        self.sender.send(Message::Settings(Box::new(self.settings.clone())));
    }

    fn authenticates_sent(&self) -> u64 {
        self.egress.hops.iter().map(|hop| hop.metrics.authenticates.get()).sum()
    }

    /// Logons that were refused, by upstreams and by the KDC.
    pub fn refused_logons(&self) -> u64 {
        let by_kdc = self.tickets.as_ref().map_or(0, |tickets| tickets.realm.borrow().counts.wrong_logons);
        self.counters.counts().refused + by_kdc
    }

    fn logons_to_kdc(&self) -> u64 {
        let agents = self.tickets.iter().flat_map(|tickets| &tickets.agents);
        agents.filter(|agent| agent.is_logging_on()).count() as u64
    }

    fn change_password(&mut self) {
        let counts = self.counters.counts();
        let sent = self.authenticates_sent() - self.authenticates_before;
        let in_flight = sent.saturating_sub(counts.authenticates) + self.logons_to_kdc();
        self.at_password_change = Some((self.refused_logons(), in_flight));
        let changed = NtHash::from_password("changed");
        USERS.iter().for_each(|user| self.setup.set_password("CORP", user, changed.clone()));
    }

    fn step_agent(&mut self, identity: usize) {
        let Some(tickets) = &mut self.tickets else { return };
        let now_us = with(|network| network.now_us);
        let has_changed = self.scenario.password_changes_at_us.is_some_and(|at_us| now_us >= at_us);
        let mut context = AgentContext {
            realm: &mut tickets.realm.borrow_mut(),
            guard: &self.egress.identities[identity].guard,
            rng: &mut self.rng,
            now_us,
            is_right: self.scenario.right_password && !has_changed,
        };
        let agent = &mut tickets.agents[identity];
        let (next_us, has_published) = agent.step(&mut context);
        if next_us != u64::MAX && !(self.draining && agent.rests()) && agent.is_called_earlier(next_us) {
            with(|network| network.alarm(next_us.saturating_sub(now_us), AGENT + identity as u64));
        }
        if has_published {
            self.sender.send(Message::GuardChanged);
        }
    }

    fn ticket_wanted(&mut self, slot: usize) {
        let Some(tickets) = &mut self.tickets else { return };
        let (upstream, identity) = (slot / tickets.agents.len(), slot % tickets.agents.len());
        if tickets.agents[identity].is_asked_for_another(upstream) {
            let number = tickets.slots[&(upstream, identity)].number();
            let now_us = with(|network| network.now_us);
            tickets.realm.borrow_mut().asked_for_another(upstream, identity, number, now_us);
        }
        self.step_agent(identity);
    }

    fn drain(&mut self) {
        self.draining = true;
        self.sender.send(Message::Drain);
    }

    /// What an upstream's checker thread does.
    fn check(&self, member: usize) {
        let health = &self.upstream(member).health;
        let now_ms = with(|network| network.now_us) / 1000;
        let Some(rest_ms) = health.next_check_in_ms(now_ms) else { return };
        if rest_ms == 0 {
            let takes = |address: &(SocketAddr, Address)| matches!(address.1, Address::Accepts(..));
            let answers = self.scenario.upstreams[member].addresses.iter().any(takes);
            let failure = || CheckFailure { why: "no address accepts".into(), answers: false };
            health.checked(now_ms, answers.then_some(()).ok_or_else(failure));
        }
        // Not for ever: the run ends when nothing is scheduled any more.
        if !self.draining {
            with(|network| network.alarm(1_000_000, CHECK_UPSTREAM + member as u64));
        }
    }

    /// A name has been looked up.
    fn lookup_done(&self, index: usize) {
        let (host, key) = self.lookups.lock().unwrap()[index].clone();
        let address = |origin: &str| SocketAddr::new(origin.parse().unwrap(), host.port());
        // The first of the two addresses does not answer.
        let mut lookup_done = vec![address(ORIGINS[1]), address(ORIGINS[0])];
        if let Some(elsewhere) = self.scenario.names_lead_to {
            lookup_done = vec![address(elsewhere)];
        }
        let number = usize::from(host.port()) - 9_000;
        let own_name = |target| *host.host() == *client::host(number, target);
        assert!(own_name(Target::DirectName(0)) || own_name(Target::ViaUpstream), "{host}");
        self.sender.send(Message::OriginResolved(key, Resolution::Addresses(lookup_done.into())));
    }

    /// Drains the shard once every client has arrived and no tunnel is left, sometimes after a delay.
    fn end_when_all_is_over(&mut self, shard: &Shard) {
        let all_came = self.clients.iter().all(Option::is_some) && self.http_clients.iter().all(Option::is_some);
        if self.draining || !all_came || shard.tunnels() > 0 || with(|network| network.unaccepted()) > 0 {
            return;
        }
        self.draining = true;
        let after_us = if self.rng.once_in(3) { self.rng.within(0..=4_000_000) } else { 0 };
        with(|network| network.alarm(after_us, DRAIN));
    }

    /// Moves the clock to the next event; `false` if there is none.
    fn advance(&mut self, shard: &Shard) -> bool {
        let soon_us = self.rng.within(0..=40);
        let patience_us = shard.patience().map(|patience| u64::try_from(patience.as_micros()).unwrap());
        let called = shard.is_called();
        with(|network| {
            let now_us = network.now_us;
            let soon = (called || network.has_edge()).then(|| now_us + soon_us);
            let in_time = patience_us.map(|patience_us| now_us + patience_us);
            let Some(next_us) = [soon, in_time, network.next_us()].into_iter().flatten().min() else { return false };
            // A turn takes time itself.
            network.now_us = next_us.max(now_us) + soon_us % 4;
            true
        })
    }
}
