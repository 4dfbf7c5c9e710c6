//! What a seed decides about tickets and the upstreams that accept them.

use std::time::Duration;

use crate::kerberos::Etype;
use crate::sim::rng::Rng;
use crate::sim::scenario::Scenario;
use crate::stub::Personality;

/// Kerberos in a run.
#[derive(Clone, Debug)]
pub struct KerberosPlan {
    /// NTLM is listed behind Kerberos.
    pub ntlm: bool,
    pub etype: Etype,
    pub kdc: KdcPlan,
    /// The upstreams, in the scenario's order.
    pub proxies: Vec<ProxyPlan>,
}

/// The KDC.
#[derive(Clone, Debug)]
pub struct KdcPlan {
    /// How far its clock, which the upstreams share, is ahead of the gateway's.
    pub ahead_s: i64,
    pub lifetime_us: u64,
    /// How long an exchange takes: a time within these bounds, in µs.
    pub takes_us: (u64, u64),
    /// It answers nothing within these times, in µs.
    pub down: Vec<(u64, u64)>,
    /// It does not know the service of this upstream.
    pub unknown: Option<usize>,
}

impl KdcPlan {
    pub fn is_down(&self, now_us: u64) -> bool {
        self.down.iter().any(|(from_us, until_us)| (*from_us..*until_us).contains(&now_us))
    }
}

/// What an upstream offers in its 407.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offers {
    Negotiate,
    Both,
    /// It does not accept Kerberos.
    Ntlm,
}

/// Which tickets an upstream accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    All,
    /// Its key changes at this time, in µs: those that were issued earlier are refused from then on.
    IssuedSince(u64),
    Nothing,
}

/// What an upstream's own token is, in its answer to a token that it has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Nothing,
    Right,
    Wrong,
}

/// An upstream's side of Kerberos.
#[derive(Clone, Copy, Debug)]
pub struct ProxyPlan {
    pub offers: Offers,
    pub accepts: Accepts,
    /// Its 407 has a KRB-ERROR that says why it refuses a token.
    pub says_why: bool,
    /// It closes the connection with a refusal.
    pub closes: bool,
    /// Each request has to be authenticated.
    pub each_request: bool,
    pub reply: Reply,
    /// How long the verdict on a token takes, in µs.
    pub takes_us: u64,
}

impl ProxyPlan {
    /// Accepts every ticket and offers NTLM too.
    pub const GOOD: ProxyPlan = ProxyPlan {
        offers: Offers::Both,
        accepts: Accepts::All,
        says_why: false,
        closes: false,
        each_request: false,
        reply: Reply::Nothing,
        takes_us: 0,
    };

    pub fn takes(&self) -> Option<Duration> {
        (self.takes_us > 0).then(|| Duration::from_micros(self.takes_us))
    }
}

impl Scenario {
    /// The scenario of a seed with Kerberos: what it is without, and what another sequence decides in addition. So the
    /// meaning of a seed without Kerberos does not change.
    pub fn with_kerberos(seed: u64) -> Scenario {
        let mut scenario = Scenario::of(seed);
        let mut rng = Rng::new(seed ^ 0x6b72_6235);
        scenario.kerberos = Some(kerberos(&mut rng, &scenario));
        scenario.adapt(&mut rng);
        scenario
    }

    fn adapt(&mut self, rng: &mut Rng) {
        // Requests across the ends of tickets.
        let longest_us = rng.pick(&[0, 0, 2_000_000, 8_000_000]);
        for client in &mut self.clients {
            client.arrives_at_us += rng.within(0..=longest_us);
        }
        for client in &mut self.http_clients {
            client.arrives_at_us += rng.within(0..=longest_us);
        }
        // These would have to authenticate where their personality accepts NTLM only.
        if self.strict {
            for upstream in &mut self.upstreams {
                upstream.personality = rng.pick(BELOW_KERBEROS);
            }
        }
    }
}

/// What upstreams are like whose peculiarities have nothing to do with the number of their connections.
const BELOW_KERBEROS: &[Personality] = &[
    Personality::Plain,
    Personality::Plain,
    Personality::Http10KeepAlive,
    Personality::BodyLength3k,
    Personality::BodyChunkedTrailers,
    Personality::NoReason,
    Personality::ChallengesJoined,
    Personality::ChallengesNotFirst,
    Personality::TimestampMic,
    Personality::KeyExchange,
    Personality::OneConnection,
    Personality::Slow,
];

fn kerberos(rng: &mut Rng, scenario: &Scenario) -> KerberosPlan {
    let strict = scenario.strict;
    let ntlm = rng.once_in(2);
    // A request whose body has begun to go out is not repeated after a refusal.
    let has_body = scenario.http_clients.iter().flat_map(|client| &client.requests).any(|plan| plan.has_body());
    let may_refuse = !strict || !has_body;
    let kdc = kdc(rng, strict, ntlm, scenario.upstreams.len());
    let needs_kerberos = strict && !ntlm;
    let needs_ntlm = strict && !(kdc.down.is_empty() && kdc.unknown.is_none());
    let mut proxy = || {
        let mut plan = proxy(rng, strict);
        if !may_refuse {
            (plan.accepts, plan.each_request) = (Accepts::All, false);
        }
        if needs_kerberos && plan.accepts == Accepts::Nothing {
            plan.accepts = Accepts::All;
        }
        let offers_wrong = match plan.offers {
            Offers::Ntlm => needs_kerberos || !may_refuse,
            Offers::Negotiate => needs_ntlm || (strict && plan.accepts == Accepts::Nothing),
            Offers::Both => false,
        };
        if offers_wrong {
            plan.offers = Offers::Both;
        }
        plan
    };
    let proxies = scenario.upstreams.iter().map(|_| proxy()).collect();
    let etype = rng.pick(&[Etype::Aes256Sha384, Etype::Aes256Sha1, Etype::Aes128Sha256, Etype::Aes128Sha1]);
    KerberosPlan { ntlm, etype, kdc, proxies }
}

fn kdc(rng: &mut Rng, strict: bool, ntlm: bool, upstreams: usize) -> KdcPlan {
    let ahead_s = rng.pick(&[0, 0, 3, -3, 7_200, -7_200, 86_400 * 365]);
    let lifetime_us = rng.pick(&[36_000_000_000, 300_000, 1_000_000, 3_000_000]);
    let slowest_us = rng.pick(&[300, 5_000, 40_000]).min(lifetime_us / 20);
    let takes_us = (slowest_us / 3, slowest_us);
    // Without NTLM and without a ticket requests fail.
    let mut down = Vec::new();
    if (ntlm || !strict) && rng.once_in(2) {
        let mut from_us = if rng.once_in(2) { 0 } else { rng.within(0..=2_000_000) };
        for _ in 0..rng.within(1..=2) {
            let until_us = from_us + rng.within(10_000..=3_000_000);
            down.push((from_us, until_us));
            from_us = until_us + rng.within(10_000..=3_000_000);
        }
    }
    let unknown = ((ntlm || !strict) && rng.once_in(12)).then(|| rng.below(upstreams));
    KdcPlan { ahead_s, lifetime_us, takes_us, down, unknown }
}

fn proxy(rng: &mut Rng, strict: bool) -> ProxyPlan {
    let change = Accepts::IssuedSince(rng.within(1..=3_000_000));
    ProxyPlan {
        offers: rng.pick(&[Offers::Negotiate, Offers::Both, Offers::Both, Offers::Ntlm]),
        accepts: rng.pick(&[Accepts::All, Accepts::All, Accepts::All, change, Accepts::Nothing]),
        says_why: rng.once_in(2),
        closes: rng.once_in(3),
        each_request: rng.once_in(5),
        reply: match rng.within(0..=3) {
            0 => Reply::Nothing,
            1 if !strict => Reply::Wrong,
            _ => Reply::Right,
        },
        takes_us: if rng.once_in(3) { rng.within(0..=if strict { 50_000 } else { 4_000_000 }) } else { 0 },
    }
}
