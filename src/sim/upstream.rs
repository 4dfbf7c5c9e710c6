//! The far end of a connection that the gateway made: an upstream that verifies NTLM, or an origin.

use std::collections::VecDeque;

use super::network::{End, Network};
use super::plain::{Around, CallerPlan, Desk};
use super::pump::Pump;
use super::scenario::{FlowOddity, FlowPlan, UpstreamPlan};
use crate::ntlm::FileTime;
use crate::stub::{Counters, ProxyAction, ProxyContext, ProxySession, Setup};

/// What all of them share.
pub struct Shared<'a> {
    pub setup: &'a Setup,
    pub counters: &'a Counters,
    /// What the origins of the clients send.
    pub flows: &'a [FlowPlan],
    /// What the clients ask for that speak plain HTTP, whose numbers come behind the others'.
    pub callers: &'a [CallerPlan],
    /// Every other client is of another identity than the rest.
    pub two_identities: bool,
}

/// The far end of one connection.
pub struct Peer {
    pub wire: usize,
    stage: Stage,
    /// How the connection goes wrong before it is a tunnel.
    oddity: Option<FlowOddity>,
    /// Bytes written and read before it is a tunnel.
    written: u64,
    heard: u64,
    /// A connection that has served a request and lies idle for so many µs is closed.
    rest_us: Option<u64>,
    /// It may be closed when another request comes.
    slams: bool,
    pub desk: Desk,
}

enum Stage {
    Proxy(Box<Proxying>),
    Tunnel(usize, Pump),
    /// It has ended its direction and reads past what comes.
    Lingering,
    Done,
}

#[derive(Default)]
struct Proxying {
    /// None: it is an origin itself.
    session: Option<ProxySession>,
    steps: VecDeque<ProxyAction>,
    sent: usize,
    rests_until_us: Option<u64>,
    heard_us: u64,
}

impl Peer {
    /// An upstream that was just reached.
    pub fn upstream(wire: usize, plan: &UpstreamPlan, id: u64, oddity: Option<FlowOddity>) -> Peer {
        let (mut session, mut steps) = (ProxySession::new(plan.personality, id), VecDeque::new());
        session.open(&mut steps);
        let proxying = Proxying { session: Some(session), steps, ..Proxying::default() };
        Peer {
            wire,
            stage: Stage::Proxy(Box::new(proxying)),
            oddity,
            written: 0,
            heard: 0,
            rest_us: plan.rest_us,
            slams: plan.slams,
            // Not by connection: what one does is learnt, and expected of the others.
            desk: Desk::new(plan.personality as usize % 2 == 1),
        }
    }

    /// The origin of a client, reached straight.
    pub fn origin(wire: usize, client: usize, shared: &Shared<'_>) -> Peer {
        let stage = match shared.flows.get(client) {
            Some(flow) => Stage::Tunnel(client, Pump::new(wire, *flow, client, true)),
            None => Stage::Proxy(Box::default()),
        };
        Peer { wire, stage, oddity: None, written: 0, heard: 0, rest_us: None, slams: false, desk: Desk::default() }
    }

    /// The client and the end of its tunnel, once there is one.
    pub fn tunnel(&self) -> Option<(usize, &Pump)> {
        match &self.stage {
            Stage::Tunnel(client, pump) => Some((*client, pump)),
            _ => None,
        }
    }

    /// Does what can be done now.
    pub fn step(&mut self, network: &mut Network, shared: &Shared<'_>) {
        loop {
            match &mut self.stage {
                Stage::Done => return,
                Stage::Tunnel(_, pump) => return pump.step(network),
                Stage::Lingering => {
                    while network.peer_read(self.wire, 1 << 16, &mut Vec::new()) > 0 {}
                    let wire = &network.wires[self.wire];
                    if wire.inbox_ended || wire.inbox_reset {
                        network.peer_close(self.wire);
                        self.stage = Stage::Done;
                    }
                    return;
                }
                Stage::Proxy(_) => {
                    if !self.proxy(network, shared) {
                        return;
                    }
                }
            }
        }
    }

    /// One piece of the conversation; `false` when nothing more can be done now.
    fn proxy(&mut self, network: &mut Network, shared: &Shared<'_>) -> bool {
        if self.goes_wrong(network) {
            self.stage = Stage::Done;
            return false;
        }
        let Stage::Proxy(proxying) = &mut self.stage else { return true };
        match proxying.carry_out(self.wire, network, &mut self.written) {
            Carried::Waits => return false,
            Carried::Tunnel(early) => {
                let Some(client) = self.desk.asked_for else { panic!("a tunnel for nobody") };
                let pump = Pump::new(self.wire, shared.flows[client], client, true);
                let overtakes = !early.is_empty() || self.desk.has_leftover();
                assert!(!overtakes, "the client's bytes overtake its answer");
                self.stage = Stage::Tunnel(client, pump);
                return true;
            }
            Carried::Closed => {
                network.peer_end(self.wire, End::Fin);
                self.stage = Stage::Lingering;
                return true;
            }
            Carried::Reset => {
                network.peer_end(self.wire, End::Reset);
                self.stage = Stage::Done;
                return false;
            }
            Carried::All => self.desk.answered(network.wires[self.wire].inbox.len()),
        }
        self.listen(network, shared)
    }

    fn listen(&mut self, network: &mut Network, shared: &Shared<'_>) -> bool {
        let Stage::Proxy(proxying) = &mut self.stage else { return true };
        if matches!(self.oddity, Some(FlowOddity::GoesDeaf(after)) if self.heard >= after) {
            return false;
        }
        let mut bytes = Vec::new();
        let count = network.peer_read(self.wire, 1 << 16, &mut bytes);
        if count > 0 && self.slams && self.desk.is_quiet() && network.rng.once_in(2) {
            network.peer_end(self.wire, if count.is_multiple_of(2) { End::Reset } else { End::Fin });
            network.peer_close(self.wire);
            self.stage = Stage::Done;
            return false;
        }
        if count > 0 {
            let surroundings = ProxyContext {
                setup: shared.setup,
                counters: shared.counters,
                now: FileTime::from_unix(1_700_000_000, 0),
            };
            let around = Around {
                session: proxying.session.as_mut(),
                surroundings,
                callers: shared.callers,
                first: shared.flows.len(),
                two_identities: shared.two_identities,
            };
            self.desk.receive(&bytes, around, &mut proxying.steps);
            self.heard += count as u64;
            proxying.heard_us = network.now_us;
            return true;
        }
        let wire = &network.wires[self.wire];
        let idle_close = proxying.session.as_ref().and_then(ProxySession::idle_close);
        let limit_us = idle_close.map(|limit| u64::try_from(limit.as_micros()).unwrap());
        let limit_us = limit_us.or(self.rest_us.filter(|_| self.desk.is_quiet()));
        let idle = limit_us.is_some_and(|limit_us| network.now_us >= proxying.heard_us + limit_us);
        if wire.inbox_ended || wire.inbox_reset || idle {
            network.peer_close(self.wire);
            self.stage = Stage::Done;
        } else if let Some(limit_us) = limit_us {
            network.wake_in(self.wire, proxying.heard_us + limit_us - network.now_us);
        }
        false
    }

    fn goes_wrong(&mut self, network: &mut Network) -> bool {
        match self.oddity {
            Some(FlowOddity::Resets(after)) if self.written >= after && self.heard > 0 => {
                network.peer_end(self.wire, End::Reset);
                true
            }
            // Nobody could tell an early end from the end.
            Some(FlowOddity::Closes(after)) if self.written >= after && self.desk.lasts_to_close => {
                network.peer_end(self.wire, End::Reset);
                true
            }
            Some(FlowOddity::Closes(after)) if self.written >= after => {
                network.peer_close(self.wire);
                true
            }
            Some(FlowOddity::FallsSilent(after)) => self.written >= after,
            _ => false,
        }
    }
}

/// What came of carrying out steps.
enum Carried {
    All,
    Waits,
    Tunnel(Vec<u8>),
    Closed,
    Reset,
}

impl Proxying {
    fn carry_out(&mut self, id: usize, network: &mut Network, written: &mut u64) -> Carried {
        loop {
            let pause_us = match self.steps.front() {
                Some(ProxyAction::Wait(pause)) => u64::try_from(pause.as_micros()).unwrap(),
                Some(ProxyAction::Trickle(_)) => 1_000,
                _ => 0,
            };
            if pause_us > 0 {
                let until_us = *self.rests_until_us.get_or_insert_with(|| {
                    network.wake_in(id, pause_us);
                    network.now_us + pause_us
                });
                if network.now_us < until_us {
                    return Carried::Waits;
                }
                self.rests_until_us = None;
            }
            let done = match self.steps.front_mut() {
                None => return Carried::All,
                Some(ProxyAction::Wait(_)) => true,
                Some(ProxyAction::Send(bytes)) => {
                    let count = network.peer_write(id, &bytes[self.sent..]);
                    self.sent += count;
                    *written += count as u64;
                    self.sent == bytes.len()
                }
                Some(ProxyAction::Trickle(bytes)) => {
                    let count = network.peer_write(id, &bytes[self.sent..=self.sent]);
                    self.sent += count;
                    *written += count as u64;
                    if count == 1 && self.sent < bytes.len() {
                        continue;
                    }
                    self.sent == bytes.len()
                }
                Some(ProxyAction::Repeat { block, offset, bytes }) => {
                    let rest = &block[*offset..];
                    let most = rest.len().min(usize::try_from(*bytes).unwrap_or(usize::MAX));
                    let count = network.peer_write(id, &rest[..most]);
                    *offset = (*offset + count) % block.len();
                    *bytes = if *bytes == u64::MAX { u64::MAX } else { *bytes - count as u64 };
                    if count > 0 && *bytes > 0 {
                        continue;
                    }
                    *bytes == 0
                }
                Some(ProxyAction::Tunnel { .. }) => match self.steps.pop_front() {
                    Some(ProxyAction::Tunnel { early, .. }) => return Carried::Tunnel(early),
                    _ => unreachable!(),
                },
                Some(ProxyAction::Close) => return Carried::Closed,
                Some(ProxyAction::Reset) => return Carried::Reset,
            };
            if !done {
                // It is hopeless when nobody is there any more.
                let wire = &network.wires[id];
                return if wire.inbox_reset { Carried::Reset } else { Carried::Waits };
            }
            self.steps.pop_front();
            self.sent = 0;
        }
    }
}
