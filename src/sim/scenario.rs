//! What a seed decides before a run.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::kerberos::KerberosPlan;
use super::network::{Address, Pace, PollTraits, Traits};
use super::plain::{self, HttpClientPlan};
use super::rng::Rng;
use super::routes::RouteScripts;
use super::tls::TlsPlan;
use crate::auth::FirstLeg;
use crate::session::TimeoutsMs;
use crate::stub::Personality;
use crate::upstream::WarmSize;

/// Everything that a seed decides.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What the listener serves.
    pub entrance: Entrance,
    /// Every peer behaves, an upstream is always reachable, and no time-out is short: every byte must arrive.
    pub strict: bool,
    pub clients: Vec<ClientPlan>,
    /// Plain HTTP clients; their numbers follow those of the others.
    pub http_clients: Vec<HttpClientPlan>,
    pub upstreams: Vec<UpstreamPlan>,
    /// Traits of the connections that the gateway opens.
    pub traits: Vec<Traits>,
    pub timeouts: TimeoutsMs,
    pub head_limit_bytes: usize,
    pub scratch_bytes: usize,
    pub pipes: usize,
    pub pipe_slots: Option<(usize, usize)>,
    pub warm: WarmSize,
    /// Authenticated connections that are kept per upstream.
    pub keep: usize,
    /// Every other client uses the second identity.
    pub two_identities: bool,
    pub first_leg: FirstLeg,
    pub balance: bool,
    pub max_tunnels: usize,
    pub poll: PollTraits,
    pub accept_fails: Option<u64>,
    /// The configured password is right.
    pub right_password: bool,
    /// When it stops being right.
    pub password_changes_at_us: Option<u64>,
    pub drain_at_us: Option<u64>,
    pub stop_at_us: Option<u64>,
    pub reload_at_us: Option<u64>,
    /// The reload lists the upstreams in the opposite order, with other credentials and other numbers for the groups.
    pub reload_reverses: bool,
    /// What the source of routes answers; `None`: the rules decide.
    pub routes: Option<RouteScripts>,
    /// How the address of an origin that is reached directly reacts.
    pub origin: Address,
    /// Names of origins resolve to this address instead.
    pub names_lead_to: Option<&'static str>,
    /// The identities authenticate with Kerberos first.
    pub kerberos: Option<KerberosPlan>,
}

/// Where a client wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To an origin, through an upstream.
    ViaUpstream,
    /// The same, but the destination is configured to need no credentials.
    WithoutCredentials,
    /// Directly, to an origin's address.
    DirectAddress,
    /// Directly, to an origin's name, which resolves after this many µs.
    DirectName(u64),
    /// To a destination that a rule denies.
    Denied,
    /// To the address of a metadata service.
    MetadataAddress,
}

/// One client that asks for a tunnel.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    pub from: SocketAddr,
    pub arrives_at_us: u64,
    pub traits: Traits,
    pub target: Target,
    /// Length of a filler field that makes the head longer.
    pub filler: usize,
    /// What it sends, and what its origin sends.
    pub up: FlowPlan,
    pub down: FlowPlan,
    /// How much of its data it sends before it has an answer.
    pub early: u64,
    pub oddity: Option<ClientOddity>,
    pub speaks: Speaks,
}

/// How a client asks for its tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaks {
    #[default]
    Http,
    Socks4a,
    Socks5,
    /// TLS to its origin.
    Tls,
    /// Something else to its origin.
    Tcp,
    /// Nothing but its data: the listener has a target.
    Nothing,
}

impl Speaks {
    /// Whether the gateway tells it that its tunnel is established.
    pub fn is_told(self) -> bool {
        matches!(self, Speaks::Http | Speaks::Socks4a | Speaks::Socks5)
    }
}

/// What is served where the clients connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entrance {
    /// HTTP and SOCKS.
    #[default]
    Ordinary,
    /// The same, after a PROXY header.
    ProxyHeader,
    /// Connections that were going to origins.
    Transparent,
    /// A fixed target.
    Forward,
}

/// One direction of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct FlowPlan {
    pub bytes: u64,
    pub piece: usize,
    pub pause_us: u64,
    /// It ends only after the other direction has.
    pub ends_last: bool,
    pub oddity: Option<FlowOddity>,
}

/// How an end of a tunnel misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowOddity {
    /// Resets the connection after writing this many bytes.
    Resets(u64),
    /// Closes it then, with unread data or not.
    Closes(u64),
    /// Stops reading after this many bytes.
    StopsReading(u64),
    /// Stops writing after this many bytes, and does not end its direction.
    StopsWriting(u64),
}

/// How a client misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOddity {
    /// Connects and closes.
    ClosesAtOnce,
    /// Connects and sends nothing.
    StaysSilent,
    /// Sends part of a head and then nothing.
    SendsHalfAHead,
    /// Sends part of a head and closes.
    ClosesInHead,
    /// Sends a TLS ClientHello.
    SpeaksTls,
    /// Sends something that is no request.
    SendsGarbage,
    /// Resets its connection after this many µs.
    Resets(u64),
    /// Closes its connection after this many µs.
    Closes(u64),
}

/// One upstream.
#[derive(Clone, Debug)]
pub struct UpstreamPlan {
    pub personality: Personality,
    pub addresses: Vec<(SocketAddr, Address)>,
    /// The group that it belongs to.
    pub group: usize,
    /// Its name resolves after this many µs; 0: it is known from the start.
    pub resolves_after_us: u64,
    /// One in this many of its connections misbehaves.
    pub odd_once_in: Option<u64>,
    /// A connection that has served a request is closed after this many idle µs.
    pub idle_close_us: Option<u64>,
    /// Closes every other connection that has served a request just as the next one arrives.
    pub closes_on_reuse: bool,
    /// How its first connections misbehave, in their order; for scenarios written by hand.
    pub first_oddities: Vec<Option<FlowOddity>>,
    /// It serves TLS.
    pub tls: Option<TlsPlan>,
}

/// Personalities with which a handshake always succeeds.
const GOOD: &[Personality] = &[
    Personality::Plain,
    Personality::Plain,
    Personality::Plain,
    Personality::IsaFirst407Closes,
    Personality::Http10KeepAlive,
    Personality::Http10,
    Personality::BodyLength3k,
    Personality::BodyChunkedTrailers,
    Personality::BodyToClose,
    Personality::InformationalFirst,
    Personality::NoReason,
    Personality::OddReason,
    Personality::FoldedLines,
    Personality::OkWithContentLength,
    Personality::OkWithTransferEncoding,
    Personality::ByteAtATime,
    Personality::OneConnection,
    Personality::AsksFirst,
    Personality::Open,
    Personality::ChallengesJoined,
    Personality::ChallengesAnyCase,
    Personality::ChallengesNotFirst,
    Personality::OtherSchemesBeside,
    Personality::Forgets,
    Personality::PerRequestAuth,
    Personality::DeniesClientFields,
    Personality::NegotiateOnly,
    Personality::Wingate,
    Personality::Strict128Ess,
    Personality::TimestampMic,
    Personality::KeyExchange,
    Personality::NoTargetInfo,
    Personality::OemOnly,
    Personality::Slow,
];

/// Address of the second identity's clients.
pub const SECOND_IDENTITY_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The accounts of both identities.
pub const USERS: [&str; 2] = ["alice", "bob"];

/// The origins that are reached directly.
pub const ORIGINS: [&str; 2] = ["10.7.0.1", "10.7.0.2"];

impl Scenario {
    /// The scenario of a seed.
    pub fn of(seed: u64) -> Scenario {
        let mut rng = Rng::new(seed);
        let rng = &mut rng;
        let strict = rng.once_in(2);
        // More data than one turn may move, so that tunnels have to yield to each other.
        let bulky = rng.once_in(40);
        let traits: Vec<Traits> = (0..rng.size(1..=3)).map(|_| traits(rng, bulky)).collect();
        let upstreams = upstreams(rng, strict, &traits);
        let resolved_late = upstreams.iter().any(|upstream| upstream.resolves_after_us > 0);
        let clients: Vec<ClientPlan> =
            (0..rng.size(1..=6)).map(|number| client(rng, strict, bulky, number, &traits, resolved_late)).collect();
        let lenient =
            |rng: &mut Rng, times: u64, most_us: u64| (!strict && rng.once_in(times)).then(|| rng.within(0..=most_us));
        let mut scenario = Scenario {
            entrance: Entrance::Ordinary,
            strict,
            traits,
            upstreams,
            clients,
            http_clients: Vec::new(),
            timeouts: if strict { LONG_TIMEOUTS } else { short_timeouts(rng) },
            head_limit_bytes: if strict || rng.once_in(2) { 64 * 1024 } else { rng.size(150..=2_000) },
            scratch_bytes: if bulky { 65_536 } else { rng.pick(&[64, 64, 300, 300, 1_500, 4_096, 16_384, 65_536]) },
            pipes: rng.pick(&[0, 1, 2, 32]),
            pipe_slots: rng.pick(&[None, Some((16, 16)), Some((2, 3)), Some((1, 40)), Some((256, 256))]),
            warm: rng.pick(&[WarmSize::Fixed(0), WarmSize::Auto, WarmSize::Fixed(1), WarmSize::Fixed(3)]),
            keep: 0,
            two_identities: false,
            first_leg: if rng.once_in(4) { FirstLeg::Plain } else { FirstLeg::Negotiate },
            balance: rng.once_in(3),
            max_tunnels: if strict || rng.once_in(2) { 100 } else { rng.size(1..=4) },
            poll: PollTraits { delays: rng.pick(&[0, 2, 4, 10]), noise: rng.pick(&[0, 2, 10]) },
            accept_fails: rng.once_in(4).then(|| rng.within(2..=4)),
            right_password: strict || !rng.once_in(6),
            drain_at_us: lenient(rng, 4, 1_000_000),
            stop_at_us: lenient(rng, 5, 3_000_000),
            reload_at_us: rng.once_in(6).then(|| rng.within(0..=300_000)),
            reload_reverses: false,
            routes: None,
            origin: Address::Accepts(0, 5_000),
            names_lead_to: None,
            kerberos: None,
            password_changes_at_us: None,
        };
        if rng.once_in(if bulky { 3 } else { 5 }) {
            scenario.add_plain_http(rng, bulky, resolved_late);
        }
        if !strict && scenario.right_password && rng.once_in(3) {
            scenario.password_changes_at_us = Some(rng.within(0..=400_000));
        }
        scenario
    }

    /// The scenario of a seed with SOCKS clients in place of those that send a CONNECT. It draws nothing, so the seeds
    /// mean the same as without it.
    pub fn with_socks(seed: u64) -> Scenario {
        let mut scenario = Scenario::of(seed);
        for (number, client) in scenario.clients.iter_mut().enumerate() {
            client.speaks = if number % 2 == 0 { Speaks::Socks5 } else { Speaks::Socks4a };
        }
        scenario
    }

    /// The same for clients whose connections are redirected.
    pub fn with_transparent_clients(seed: u64) -> Scenario {
        let mut scenario = Scenario::of(seed);
        scenario.entrance = Entrance::Transparent;
        let has_http = !scenario.http_clients.is_empty();
        if has_http {
            // One that pauses within its first word would be taken for a client that waits for its server.
            scenario.timeouts.sniff = LONG_TIMEOUTS.head;
        }
        for (number, client) in scenario.clients.iter_mut().enumerate() {
            client.speaks = if number % 3 == 2 && !has_http { Speaks::Tcp } else { Speaks::Tls };
            if client.speaks == Speaks::Tcp
                && matches!(client.target, Target::DirectName(_) | Target::WithoutCredentials)
            {
                // It has no names.
                client.target = Target::ViaUpstream;
            }
        }
        scenario
    }

    /// The same for the clients of a listener with a target. The target is one client's, so there is only one.
    pub fn with_forward(seed: u64) -> Scenario {
        let mut scenario = Scenario::of(seed);
        scenario.entrance = Entrance::Forward;
        scenario.http_clients.clear();
        scenario.clients.truncate(1);
        scenario.clients.iter_mut().for_each(|client| client.speaks = Speaks::Nothing);
        scenario
    }

    /// The same for clients that a load balancer names.
    pub fn with_proxy_headers(seed: u64) -> Scenario {
        Scenario { entrance: Entrance::ProxyHeader, ..Scenario::of(seed) }
    }

    /// Adds plain HTTP clients and the reuse of connections.
    fn add_plain_http(&mut self, rng: &mut Rng, bulky: bool, resolved_late: bool) {
        self.clients.truncate(rng.size(0..=3));
        let first = self.clients.len();
        self.http_clients = plain::http_clients(rng, self.strict, bulky, &self.traits, first, resolved_late);
        self.keep = rng.pick(&[0, 1, 2, 8]);
        self.two_identities = rng.once_in(2);
        if self.two_identities {
            let clients = self.clients.iter_mut().map(|client| &mut client.from);
            for (number, from) in clients.chain(self.http_clients.iter_mut().map(|client| &mut client.from)).enumerate()
            {
                if number % 2 == 1 && from.ip().is_loopback() {
                    from.set_ip(SECOND_IDENTITY_ADDRESS.into());
                }
            }
        }
        // This personality reads `Authorization`, where these clients authenticate to their origins.
        if self.has(&[Personality::Transparent401]) {
            self.http_clients
                .iter_mut()
                .flat_map(|client| &mut client.requests)
                .for_each(|plan| plan.pins_connection = false);
        }
        if !self.strict {
            let timeouts = &mut self.timeouts;
            timeouts.body = rng.within(100..=6_000);
            timeouts.response = rng.within(100..=6_000);
            timeouts.keep_alive = rng.within(50..=6_000);
            timeouts.keep = rng.within(50..=6_000);
        }
        // A request that must not be repeated is lost if its kept connection is closed just before it.
        let repeatable = self.http_clients.iter().flat_map(|client| &client.requests).all(|plan| plan.is_repeatable());
        if !self.strict || repeatable {
            for upstream in &mut self.upstreams {
                upstream.idle_close_us = rng.once_in(2).then(|| rng.within(0..=200_000));
                upstream.closes_on_reuse = rng.once_in(4);
            }
        }
    }
}

impl Scenario {
    /// Whether some upstream has one of these personalities.
    pub fn has(&self, personalities: &[Personality]) -> bool {
        self.upstreams.iter().any(|upstream| personalities.contains(&upstream.personality))
    }

    /// Whether idle connections may have to give way.
    pub fn may_run_short(&self) -> bool {
        self.accept_fails.is_some() || self.clients.len() + self.http_clients.len() > self.max_tunnels
    }
}

const LONG_TIMEOUTS: TimeoutsMs = TimeoutsMs {
    head: 600_000,
    sniff: 200,
    connect: 60_000,
    tls: 60_000,
    challenge: 500_000,
    handshake: 1_000_000,
    idle: 2_000_000,
    warm: 2_000,
    half_closed: 2_000_000,
    linger: 2_000,
    body: 60_000,
    response: 300_000,
    keep_alive: 60_000,
    keep: 8_000,
};

fn short_timeouts(rng: &mut Rng) -> TimeoutsMs {
    let (head, connect) = (rng.within(100..=3_000), rng.within(50..=2_000));
    TimeoutsMs {
        head,
        connect,
        challenge: 2 * connect,
        handshake: rng.within(100..=6_000),
        idle: rng.within(50..=5_000),
        warm: rng.within(50..=2_000),
        half_closed: rng.within(50..=3_000),
        linger: rng.within(2_000..=4_000),
        ..LONG_TIMEOUTS
    }
}

/// From 1 up to `most`, with every magnitude equally likely.
pub fn magnitude(rng: &mut Rng, most: usize) -> usize {
    let bits = rng.size(0..=most.ilog2() as usize);
    rng.size(1 << bits..=(2 << bits) - 1).min(most)
}

pub fn traits(rng: &mut Rng, bulky: bool) -> Traits {
    if bulky {
        let (pace, large) = (rng.pick(&[Pace::AT_ONCE, Pace::BURSTS]), 4 << 20);
        let (rx_capacity, tx_capacity) = (large, rng.pick(&[large, 100_000]));
        let reset_discards = rng.once_in(2);
        return Traits { pace, rx_capacity, tx_capacity, inbox_capacity: large, sent_capacity: large, reset_discards };
    }
    let pace = if rng.once_in(12) { Pace::CRUMBS } else { rng.pick(&Pace::ALL[1..]) };
    let mut capacity = || {
        let least = if rng.once_in(30) { 1 } else { 200 };
        magnitude(rng, 300_000).max(least)
    };
    let (rx_capacity, tx_capacity, inbox_capacity, sent_capacity) = (capacity(), capacity(), capacity(), capacity());
    Traits { pace, rx_capacity, tx_capacity, inbox_capacity, sent_capacity, reset_discards: rng.once_in(2) }
}

/// How many bytes such a connection carries in an acceptable number of steps.
pub fn bearable(traits: &Traits) -> usize {
    let by_pace = match traits.pace.piece.1 {
        ..10 => 200,
        10..2_000 => 60_000,
        2_000..100_000 => 200_000,
        _ if traits.rx_capacity > 1 << 20 => 3_000_000,
        _ => 500_000,
    };
    let least = [traits.rx_capacity, traits.tx_capacity, traits.inbox_capacity, traits.sent_capacity];
    by_pace.min(60 * least.into_iter().min().unwrap_or(1))
}

fn flow(rng: &mut Rng, most: usize, strict: bool) -> FlowPlan {
    let most = if rng.once_in(4) { most } else { most.min(50_000) };
    let bytes = if rng.once_in(6) { 0 } else { magnitude(rng, most) };
    // At most forty pieces.
    let piece = magnitude(rng, bytes.max(1)).max(bytes / 40 + 1);
    let pause_us = if rng.once_in(2) { 0 } else { rng.within(0..=10_000) };
    let bytes = bytes as u64;
    let oddity = (!strict && rng.once_in(3)).then(|| {
        let after = rng.within(0..=bytes);
        let deaf = FlowOddity::StopsReading;
        let odd = [FlowOddity::Resets, FlowOddity::Closes, deaf, deaf, FlowOddity::StopsWriting];
        rng.pick(&odd)(after)
    });
    FlowPlan { bytes, piece, pause_us, ends_last: false, oddity }
}

fn client(
    rng: &mut Rng,
    strict: bool,
    bulky: bool,
    number: usize,
    connections: &[Traits],
    resolved_late: bool,
) -> ClientPlan {
    let traits = traits(rng, bulky);
    let most = connections.iter().chain([&traits]).map(bearable).min().unwrap_or(1);
    let (mut up, mut down) = (flow(rng, most, strict), flow(rng, most, strict));
    match rng.within(0..=3) {
        0 => up.ends_last = true,
        1 => down.ends_last = true,
        _ => {}
    }
    let stranger = !strict && rng.once_in(20);
    let ip = if stranger { Ipv4Addr::new(10, 1, 1, 1) } else { Ipv4Addr::LOCALHOST };
    let port = 40_000 + u16::try_from(number).unwrap();
    let oddity = (!strict && rng.once_in(4)).then(|| {
        let after_us = rng.within(0..=200_000);
        rng.pick(&[
            ClientOddity::ClosesAtOnce,
            ClientOddity::StaysSilent,
            ClientOddity::SendsHalfAHead,
            ClientOddity::ClosesInHead,
            ClientOddity::SpeaksTls,
            ClientOddity::SendsGarbage,
            ClientOddity::Resets(after_us),
            ClientOddity::Resets(after_us),
            ClientOddity::Closes(after_us),
            ClientOddity::Closes(after_us),
        ])
    });
    let target = target(rng, strict);
    let at_first = resolved_late || rng.once_in(3);
    ClientPlan {
        from: SocketAddr::new(IpAddr::V4(ip), port),
        arrives_at_us: rng.within(0..=if at_first { 2_000 } else { 600_000 }),
        traits,
        target,
        filler: if rng.once_in(3) { rng.size(0..=if most > 1_000 { 6_000 } else { 60 }) } else { 0 },
        early: if rng.once_in(2) { rng.within(0..=up.bytes.min(80_000)) } else { 0 },
        up,
        down,
        oddity,
        speaks: Speaks::Http,
    }
}

/// Where a client wants to go.
pub fn target(rng: &mut Rng, strict: bool) -> Target {
    match rng.within(0..=11) {
        0 => Target::WithoutCredentials,
        1 => Target::DirectAddress,
        2 => Target::DirectName(rng.within(0..=50_000)),
        3 if !strict => Target::Denied,
        _ => Target::ViaUpstream,
    }
}

fn upstreams(rng: &mut Rng, strict: bool, traits: &[Traits]) -> Vec<UpstreamPlan> {
    let fast = traits.iter().all(|traits| bearable(traits) > 100_000);
    let count = rng.size(1..=3);
    let mut plans: Vec<UpstreamPlan> = (0..count)
        .map(|member| UpstreamPlan {
            personality: personality(rng, strict, fast),
            addresses: (0..rng.size(1..=3))
                .map(|place| (upstream_address(member, place), address(rng, strict)))
                .collect(),
            group: 0,
            resolves_after_us: if rng.once_in(6) && (count == 1 || !strict) { rng.within(1..=400_000) } else { 0 },
            odd_once_in: (!strict && rng.once_in(2)).then(|| rng.within(1..=4)),
            idle_close_us: None,
            closes_on_reuse: false,
            first_oddities: Vec::new(),
            tls: None,
        })
        .collect();
    if strict && let Some(last) = plans.last_mut().and_then(|plan| plan.addresses.last_mut()) {
        last.1 = Address::Accepts(0, rng.pick(&[0, 100, 30_000]));
    }
    plans
}

fn upstream_address(member: usize, place: usize) -> SocketAddr {
    let octet = |number: usize| u8::try_from(number + 1).unwrap();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, octet(member), octet(place))), 3128)
}

fn personality(rng: &mut Rng, strict: bool, fast: bool) -> Personality {
    if strict || rng.once_in(3) {
        return rng.pick(GOOD);
    }
    use Personality::{BigTargetInfo, BodyEndless, BodyHuge, BytesAfterBody, HugeTargetInfo};
    loop {
        let chosen = rng.pick(Personality::ALL);
        // Bytes behind an answered request's body are indistinguishable from the answer to the next one.
        if chosen == BytesAfterBody {
            continue;
        }
        if fast || !matches!(chosen, BigTargetInfo | BodyEndless | BodyHuge | HugeTargetInfo) {
            return chosen;
        }
    }
}

fn address(rng: &mut Rng, strict: bool) -> Address {
    match rng.within(0..=11) {
        0 => Address::Refuses(rng.within(0..=300_000)),
        1 => Address::Unreachable,
        2 => Address::DropsSyns,
        3 if !strict => Address::OutOfDescriptors,
        4 => Address::Accepts(0, 600_000),
        5 | 6 => Address::Accepts(0, 0),
        _ => Address::Accepts(0, rng.within(1..=50_000)),
    }
}
