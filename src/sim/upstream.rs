//! The far end of a connection that the gateway opened: an upstream that verifies credentials, or an origin.

use std::collections::VecDeque;

use super::kerberos::{Proxy, ProxySurroundings};
use super::network::{End, Network};
use super::plain::{HttpClientPlan, HttpServer, ServerContext};
use super::pump::Pump;
use super::scenario::{FlowOddity, FlowPlan, UpstreamPlan};
use crate::ntlm::FileTime;
use crate::stub::{Counters, ProxyAction, ProxyContext, Setup};

/// What all peers share.
pub struct PeerContext<'a> {
    pub setup: &'a Setup,
    pub counters: &'a Counters,
    /// What each client's origin sends.
    pub flows: &'a [FlowPlan],
    /// What each client says to its origin before its data.
    pub preludes: &'a [Vec<u8>],
    /// The plain HTTP clients; their numbers follow those of the others.
    pub http_clients: &'a [HttpClientPlan],
    /// Every other client uses the second identity.
    pub two_identities: bool,
}

impl PeerContext<'_> {
    /// The origin's end of a client's tunnel.
    fn origin(&self, wire: usize, client: usize) -> Pump {
        Pump::new(wire, self.flows[client], client, true).after(self.preludes[client].clone())
    }
}

/// The far end of one connection.
pub struct Peer {
    pub wire: usize,
    state: PeerState,
    /// How the connection misbehaves before it is a tunnel.
    oddity: Option<FlowOddity>,
    /// Bytes written and received before it is a tunnel.
    written: u64,
    received: u64,
    /// A connection that has served a request is closed after this many idle µs.
    idle_close_us: Option<u64>,
    /// A connection that has served a request may be closed when the next one arrives.
    closes_on_reuse: bool,
    pub http: HttpServer,
}

enum PeerState {
    Proxy(Box<Conversation>),
    Tunnel(usize, Pump),
    /// It has ended its direction and discards what arrives.
    Lingering,
    Done,
}

#[derive(Default)]
struct Conversation {
    /// `None` for an origin.
    proxy: Option<Proxy>,
    steps: VecDeque<ProxyAction>,
    sent: usize,
    paused_until_us: Option<u64>,
    last_received_us: u64,
}

impl Peer {
    /// An upstream that has just accepted a connection.
    pub fn upstream(wire: usize, plan: &UpstreamPlan, mut proxy: Proxy, oddity: Option<FlowOddity>) -> Peer {
        let mut steps = VecDeque::new();
        proxy.open(&mut steps);
        let conversation = Conversation { proxy: Some(proxy), steps, ..Conversation::default() };
        Peer {
            wire,
            state: PeerState::Proxy(Box::new(conversation)),
            oddity,
            written: 0,
            received: 0,
            idle_close_us: plan.idle_close_us,
            closes_on_reuse: plan.closes_on_reuse,
            // Per upstream, not per connection: the gateway learns it and expects it of later connections.
            http: HttpServer::new(plan.personality as usize % 2 == 1),
        }
    }

    /// A client's origin, reached directly.
    pub fn origin(wire: usize, client: usize, context: &PeerContext<'_>) -> Peer {
        let state = match context.flows.get(client) {
            Some(_) => PeerState::Tunnel(client, context.origin(wire, client)),
            None => PeerState::Proxy(Box::default()),
        };
        Peer {
            wire,
            state,
            oddity: None,
            written: 0,
            received: 0,
            idle_close_us: None,
            closes_on_reuse: false,
            http: HttpServer::default(),
        }
    }

    /// The client and the end of its tunnel, once there is one.
    pub fn tunnel(&self) -> Option<(usize, &Pump)> {
        match &self.state {
            PeerState::Tunnel(client, pump) => Some((*client, pump)),
            _ => None,
        }
    }

    /// Does everything that is possible now.
    pub fn step(&mut self, network: &mut Network, context: &PeerContext<'_>) {
        loop {
            match &mut self.state {
                PeerState::Done => return,
                PeerState::Tunnel(_, pump) => return pump.step(network),
                PeerState::Lingering => {
                    while network.peer_read(self.wire, 1 << 16, &mut Vec::new()) > 0 {}
                    if network.sees_end(self.wire) || network.sees_reset(self.wire) {
                        network.peer_close(self.wire);
                        self.state = PeerState::Done;
                    }
                    return;
                }
                PeerState::Proxy(_) => {
                    if !self.proxy(network, context) {
                        return;
                    }
                }
            }
        }
    }

    /// One step of the conversation; `false` when nothing more is possible now.
    fn proxy(&mut self, network: &mut Network, context: &PeerContext<'_>) -> bool {
        if self.misbehaves(network) {
            self.state = PeerState::Done;
            return false;
        }
        let PeerState::Proxy(conversation) = &mut self.state else { return true };
        match conversation.run_steps(self.wire, network, &mut self.written) {
            StepsOutcome::Blocked => return false,
            StepsOutcome::Tunnel(early) => {
                let Some(client) = self.http.tunnel_for else { panic!("a tunnel that no client asked for") };
                // A redirected HTTP client that stopped within its first word: it is taken for one that waits.
                if client >= context.flows.len() {
                    network.peer_end(self.wire, End::Fin);
                    self.state = PeerState::Lingering;
                    return true;
                }
                let pump = context.origin(self.wire, client);
                let overtakes = !early.is_empty() || self.http.has_leftover();
                assert!(!overtakes, "the client's data arrived before its answer");
                self.state = PeerState::Tunnel(client, pump);
                return true;
            }
            StepsOutcome::Closed => {
                network.peer_end(self.wire, End::Fin);
                self.state = PeerState::Lingering;
                return true;
            }
            StepsOutcome::Reset => {
                network.peer_end(self.wire, End::Reset);
                self.state = PeerState::Done;
                return false;
            }
            StepsOutcome::AllDone => self.http.answered(network.unread(self.wire)),
        }
        self.read_requests(network, context)
    }

    fn read_requests(&mut self, network: &mut Network, context: &PeerContext<'_>) -> bool {
        let PeerState::Proxy(conversation) = &mut self.state else { return true };
        if matches!(self.oddity, Some(FlowOddity::StopsReading(after)) if self.received >= after) {
            return false;
        }
        let mut bytes = Vec::new();
        let count = network.peer_read(self.wire, 1 << 16, &mut bytes);
        if count > 0 && self.closes_on_reuse && self.http.is_idle() && network.rng.once_in(2) {
            network.peer_end(self.wire, if count.is_multiple_of(2) { End::Reset } else { End::Fin });
            network.peer_close(self.wire);
            self.state = PeerState::Done;
            return false;
        }
        if count > 0 {
            let surroundings = ProxySurroundings {
                stub: ProxyContext {
                    setup: context.setup,
                    counters: context.counters,
                    now: FileTime::from_unix(1_700_000_000, 0),
                },
                now_us: network.now_us,
            };
            let http_context = ServerContext {
                proxy: conversation.proxy.as_mut(),
                surroundings,
                http_clients: context.http_clients,
                first: context.flows.len(),
                two_identities: context.two_identities,
            };
            self.http.receive(&bytes, http_context, &mut conversation.steps);
            self.received += count as u64;
            conversation.last_received_us = network.now_us;
            return true;
        }
        let idle_close = conversation.proxy.as_ref().and_then(Proxy::idle_close);
        let limit_us = idle_close.map(|limit| u64::try_from(limit.as_micros()).unwrap());
        let limit_us = limit_us.or(self.idle_close_us.filter(|_| self.http.is_idle()));
        let idle = limit_us.is_some_and(|limit_us| network.now_us >= conversation.last_received_us + limit_us);
        if network.sees_end(self.wire) || network.sees_reset(self.wire) || idle {
            network.peer_close(self.wire);
            self.state = PeerState::Done;
        } else if let Some(limit_us) = limit_us {
            network.wake_in(self.wire, conversation.last_received_us + limit_us - network.now_us);
        }
        false
    }

    fn misbehaves(&mut self, network: &mut Network) -> bool {
        match self.oddity {
            Some(FlowOddity::Resets(after)) if self.written >= after && self.received > 0 => {
                network.peer_end(self.wire, End::Reset);
                true
            }
            // An early close would look like the end of the body.
            Some(FlowOddity::Closes(after)) if self.written >= after && self.http.ends_at_close => {
                network.peer_end(self.wire, End::Reset);
                true
            }
            Some(FlowOddity::Closes(after)) if self.written >= after => {
                network.peer_close(self.wire);
                true
            }
            Some(FlowOddity::StopsWriting(after)) => self.written >= after,
            _ => false,
        }
    }
}

/// How far the steps got.
enum StepsOutcome {
    AllDone,
    Blocked,
    Tunnel(Vec<u8>),
    Closed,
    Reset,
}

impl Conversation {
    fn run_steps(&mut self, id: usize, network: &mut Network, written: &mut u64) -> StepsOutcome {
        loop {
            let pause_us = match self.steps.front() {
                Some(ProxyAction::Wait(pause)) => u64::try_from(pause.as_micros()).unwrap(),
                Some(ProxyAction::Trickle(_)) => 1_000,
                _ => 0,
            };
            if pause_us > 0 {
                let until_us = *self.paused_until_us.get_or_insert_with(|| {
                    network.wake_in(id, pause_us);
                    network.now_us + pause_us
                });
                if network.now_us < until_us {
                    return StepsOutcome::Blocked;
                }
                self.paused_until_us = None;
            }
            let done = match self.steps.front_mut() {
                None => return StepsOutcome::AllDone,
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
                    Some(ProxyAction::Tunnel { early, .. }) => return StepsOutcome::Tunnel(early),
                    _ => unreachable!(),
                },
                Some(ProxyAction::Close) => return StepsOutcome::Closed,
                Some(ProxyAction::Reset) => return StepsOutcome::Reset,
            };
            if !done {
                // If the other side is gone, the rest can never be sent.
                return if network.wires[id].inbox_reset { StepsOutcome::Reset } else { StepsOutcome::Blocked };
            }
            self.steps.pop_front();
            self.sent = 0;
        }
    }
}
