//! The far end of a connection that the gateway made: an upstream that verifies NTLM, or an origin.

use std::collections::VecDeque;

use super::network::{End, Network};
use super::pump::Pump;
use super::scenario::{FlowOddity, FlowPlan};
use crate::ntlm::FileTime;
use crate::stub::{Counters, Personality, Session, Setup, Step, Surroundings};

/// What all of them share.
pub struct Shared<'a> {
    pub setup: &'a Setup,
    pub counters: &'a Counters,
    /// What the origins of the clients send.
    pub flows: &'a [FlowPlan],
}

/// The far end of one connection.
pub struct Peer {
    pub wire: usize,
    stage: Stage,
    /// How the connection goes wrong before it is a tunnel.
    oddity: Option<FlowOddity>,
    /// Bytes written and read before it is a tunnel.
    written: u64,
    heard: Vec<u8>,
}

enum Stage {
    Proxy(Box<Proxying>),
    Tunnel(usize, Pump),
    /// It has ended its direction and reads past what comes.
    Lingering,
    Done,
}

struct Proxying {
    session: Session,
    steps: VecDeque<Step>,
    sent: usize,
    rests_until_us: Option<u64>,
    heard_us: u64,
}

impl Peer {
    /// An upstream that was just reached.
    pub fn upstream(wire: usize, personality: Personality, id: u64, oddity: Option<FlowOddity>) -> Peer {
        let (mut session, mut steps) = (Session::new(personality, id), VecDeque::new());
        session.open(&mut steps);
        let proxying = Proxying { session, steps, sent: 0, rests_until_us: None, heard_us: 0 };
        Peer { wire, stage: Stage::Proxy(Box::new(proxying)), oddity, written: 0, heard: Vec::new() }
    }

    /// The origin of a client, reached straight.
    pub fn origin(wire: usize, client: usize, flow: FlowPlan) -> Peer {
        let pump = Pump::new(wire, flow, client, true);
        Peer { wire, stage: Stage::Tunnel(client, pump), oddity: None, written: 0, heard: Vec::new() }
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
                    while network.peer_read(self.wire, 1 << 16, &mut self.heard) > 0 {}
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
                let Some(client) = asked_for(&self.heard) else { panic!("a tunnel for nobody") };
                let mut pump = Pump::new(self.wire, shared.flows[client], client, true);
                assert!(early.is_empty(), "the client's bytes overtake its answer");
                pump.check(&early);
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
            Carried::All => {}
        }
        self.listen(network, shared)
    }

    fn listen(&mut self, network: &mut Network, shared: &Shared<'_>) -> bool {
        let Stage::Proxy(proxying) = &mut self.stage else { return true };
        if matches!(self.oddity, Some(FlowOddity::GoesDeaf(after)) if self.heard.len() as u64 >= after) {
            return false;
        }
        let before = self.heard.len();
        if network.peer_read(self.wire, 1 << 16, &mut self.heard) > 0 {
            let around = Surroundings {
                setup: shared.setup,
                counters: shared.counters,
                now: FileTime::from_unix(1_700_000_000, 0),
            };
            proxying.session.receive(&self.heard[before..], &around, &mut proxying.steps);
            proxying.heard_us = network.now_us;
            return true;
        }
        let wire = &network.wires[self.wire];
        let limit_us = proxying.session.idle_close().map(|limit| u64::try_from(limit.as_micros()).unwrap());
        let idle = limit_us.is_some_and(|limit_us| network.now_us >= proxying.heard_us + limit_us);
        if wire.inbox_ended || wire.inbox_reset || idle {
            network.peer_close(self.wire);
            self.stage = Stage::Done;
        } else if let Some(limit_us) = limit_us {
            network.wake_in(self.wire, limit_us);
        }
        false
    }

    fn goes_wrong(&mut self, network: &mut Network) -> bool {
        match self.oddity {
            Some(FlowOddity::Resets(after)) if self.written >= after && !self.heard.is_empty() => {
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
                Some(Step::Wait(pause)) => u64::try_from(pause.as_micros()).unwrap(),
                Some(Step::Trickle(_)) => 1_000,
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
                Some(Step::Wait(_)) => true,
                Some(Step::Send(bytes)) => {
                    let count = network.peer_write(id, &bytes[self.sent..]);
                    self.sent += count;
                    *written += count as u64;
                    self.sent == bytes.len()
                }
                Some(Step::Trickle(bytes)) => {
                    let count = network.peer_write(id, &bytes[self.sent..=self.sent]);
                    self.sent += count;
                    *written += count as u64;
                    if count == 1 && self.sent < bytes.len() {
                        continue;
                    }
                    self.sent == bytes.len()
                }
                Some(Step::Repeat { block, offset, bytes }) => {
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
                Some(Step::Tunnel { .. }) => match self.steps.pop_front() {
                    Some(Step::Tunnel { early, .. }) => return Carried::Tunnel(early),
                    _ => unreachable!(),
                },
                Some(Step::Close) => return Carried::Closed,
                Some(Step::Reset) => return Carried::Reset,
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

/// The client that a request is for: the last one's, as many as there were.
fn asked_for(heard: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(heard);
    let (_, request) = text.rsplit_once("CONNECT ")?;
    let (authority, _) = request.split_once(' ')?;
    let (_, port) = authority.rsplit_once(':')?;
    Some(port.parse::<usize>().ok()? - 9_000)
}
