//! A client that asks for a tunnel, uses it, and records what it is told.

use super::network::{End, Network};
use super::opening;
use super::pump::Pump;
use super::scenario::{ClientOddity, ClientPlan, Entrance, Speaks, Target};
use crate::stub::pattern_block;

/// The type of an alert record of TLS.
const ALERT: u8 = 21;

/// A client that has connected.
#[derive(Debug)]
pub struct Client {
    pub plan: ClientPlan,
    pub wire: usize,
    head: Vec<u8>,
    head_sent: usize,
    /// The answer's head, followed by the error page if there is one.
    pub answer: Vec<u8>,
    pub status: Option<u16>,
    pub pump: Pump,
    /// The listener was already closed.
    pub found_no_listener: bool,
    waits_for_server: bool,
    since_us: u64,
}

impl Client {
    /// Connects.
    pub fn connect(number: usize, plan: ClientPlan, entrance: Entrance, network: &mut Network) -> Client {
        let (from, proxy_header) = opening::proxied(entrance, number, plan.from);
        let wire = network.client_connects(plan.traits, from);
        let found_no_listener = !network.wires[wire].held;
        if entrance == Entrance::Transparent {
            let by_address = opening::is_denied_by_address(number, &plan);
            opening::redirect(number, wire, plan.target, by_address, network);
        }
        let mut pump = Pump::new(wire, plan.up, number, false);
        pump.allowed = if plan.speaks.is_told() { plan.early } else { u64::MAX };
        let head = opening::head(number, &plan, &proxy_header);
        let waits_for_server = opening::waits_for_server(number, &plan);
        let first_byte = pattern_block(super::pump::base(number, true))[0];
        assert_ne!(first_byte, ALERT, "the first byte of client {number}'s origin looks like an alert");
        if let Some(ClientOddity::Resets(after_us) | ClientOddity::Closes(after_us)) = plan.oddity {
            network.wake_in(wire, after_us);
        }
        network.wake_in(wire, 0);
        let since_us = network.now_us;
        Client {
            wire,
            head,
            head_sent: 0,
            answer: Vec::new(),
            status: None,
            pump,
            since_us,
            plan,
            found_no_listener,
            waits_for_server,
        }
    }

    /// The connection is over, at either side.
    pub fn is_done(&self) -> bool {
        self.pump.is_done()
    }

    /// Does everything that is possible now.
    pub fn step(&mut self, network: &mut Network) {
        if self.is_done() || self.misbehaves(network) {
            return;
        }
        if self.head_sent < self.head.len() {
            self.head_sent += network.peer_write(self.wire, &self.head[self.head_sent..]);
            if self.head_sent < self.head.len() {
                return self.read_answer(network);
            }
        }
        if !self.plan.speaks.is_told() {
            return self.step_untold(network);
        }
        if self.status.is_none() {
            self.read_answer(network);
        }
        match self.status {
            Some(200) => self.pump.allowed = u64::MAX,
            // Read the error page to its end.
            Some(_) => return self.read_answer(network),
            None => {}
        }
        if self.status.is_some() {
            self.pump.step(network);
        } else if !self.pump.is_done() && !self.waits() {
            // Reading now would take the answer for tunnel data.
            self.pump.write_ahead(network);
        }
    }

    /// Steps a client that talks to its origin, as far as it knows. All that it may get of the gateway itself is an
    /// alert.
    fn step_untold(&mut self, network: &mut Network) {
        let wire = &network.wires[self.wire];
        let speaks_tls = self.plan.speaks == Speaks::Tls || self.plan.oddity == Some(ClientOddity::SpeaksTls);
        let is_alert = speaks_tls && self.pump.received == 0 && wire.inbox.front(1) == [ALERT];
        if is_alert || !self.answer.is_empty() || self.waits() {
            return self.read_answer(network);
        }
        if self.waits_for_server {
            if wire.inbox.is_empty() && !wire.inbox_ended && !wire.inbox_reset {
                return;
            }
            self.waits_for_server = false;
        }
        self.pump.step(network);
    }

    /// Whether its tunnel is established, as far as it knows.
    pub fn is_open(&self) -> bool {
        match self.plan.speaks.is_told() {
            true => self.status == Some(200),
            false => self.answer.is_empty(),
        }
    }

    /// How many bytes before its data belong to its tunnel.
    pub fn prelude(&self) -> u64 {
        if self.plan.speaks.is_told() { 0 } else { self.head_sent as u64 }
    }

    fn waits(&self) -> bool {
        matches!(
            self.plan.oddity,
            Some(ClientOddity::SendsHalfAHead | ClientOddity::StaysSilent | ClientOddity::ClosesInHead)
        )
    }

    fn misbehaves(&mut self, network: &mut Network) -> bool {
        let Some(oddity) = self.plan.oddity else { return false };
        self.pump.misbehaved = true;
        let after_us = network.now_us - self.since_us;
        match oddity {
            ClientOddity::ClosesAtOnce => self.pump.close(network),
            ClientOddity::ClosesInHead if self.head_sent == self.head.len() => self.pump.close(network),
            ClientOddity::Resets(at_us) if after_us >= at_us => self.pump.reset(network),
            ClientOddity::Closes(at_us) if after_us >= at_us => self.pump.close(network),
            _ => return false,
        }
        true
    }

    /// Reads to the end of the answer's head; what follows belongs to the tunnel or is the error page.
    fn read_answer(&mut self, network: &mut Network) {
        let is_in_hello = !self.plan.speaks.is_told() && self.head_sent < self.head.len();
        if is_in_hello && network.wires[self.wire].inbox.front(1) != [ALERT] {
            // It may be the origin's, of which nothing is read before everything is said.
            return self.pump.note_ends(network);
        }
        while network.peer_read(self.wire, 1 << 16, &mut self.answer) > 0 {}
        if self.status.is_none()
            && let Some((status, length)) = self.told()
        {
            self.status = Some(status);
            if status == 200 {
                let tunnel = self.answer.split_off(length);
                self.pump.check(&tunnel);
            }
        }
        self.pump.note_ends(network);
        if self.pump.saw_end && self.status != Some(200) {
            self.pump.ended = Some(End::Fin);
            network.peer_close(self.wire);
        }
    }

    /// The status in the answer and the length of its head, once that has come. In SOCKS a success counts as 200, and a
    /// failure as its code.
    fn told(&self) -> Option<(u16, usize)> {
        match (self.speaks(), self.answer.as_slice()) {
            (Speaks::Socks4a, [0, code, _, _, _, _, _, _, ..]) => Some((status_of_code(*code), 8)),
            (Speaks::Socks5, [5, 0, 5, code, _, _, _, _, _, _, _, _, ..]) => Some((status_of_code(*code), 12)),
            // It had to give way before it had the whole greeting.
            (Speaks::Socks5, [5, 0xff, ..]) => Some((1, 2)),
            (Speaks::Tls, [ALERT, 3, 3, 0, 2, 2, code, ..]) => Some(((*code).into(), 7)),
            (Speaks::Socks4a | Speaks::Socks5 | Speaks::Tls | Speaks::Tcp | Speaks::Nothing, _) => None,
            (Speaks::Http, answer) => {
                let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
                let line = String::from_utf8_lossy(&answer[..end]).into_owned();
                let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
                Some((status.unwrap_or(0), end + 4))
            }
        }
    }

    /// What it speaks, unless that is something else altogether, which is answered in HTTP.
    pub fn speaks(&self) -> Speaks {
        match self.plan.oddity {
            Some(ClientOddity::SpeaksTls | ClientOddity::SendsGarbage) if self.plan.speaks.is_told() => Speaks::Http,
            _ => self.plan.speaks,
        }
    }

    /// The error page, if it is complete.
    pub fn page(&self) -> Option<&[u8]> {
        let end = self.answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&self.answer[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(str::parse);
        let page = &self.answer[end..];
        (length == Some(Ok(page.len()))).then_some(page)
    }
}

/// What client `number` sends before its data that reaches its origin.
pub fn prelude(number: usize, plan: &ClientPlan) -> Vec<u8> {
    if plan.speaks.is_told() { Vec::new() } else { opening::head(number, plan, b"") }
}

/// The host that a client asks for.
pub fn host(number: usize, target: Target) -> String {
    match target {
        Target::ViaUpstream => format!("silent.c{number}.test"),
        Target::WithoutCredentials => format!("silent.c{number}.open"),
        Target::DirectAddress => super::scenario::ORIGINS[0].to_owned(),
        Target::DirectName(_) => format!("c{number}.direct"),
        Target::Denied => "nowhere.denied".to_owned(),
        Target::MetadataAddress => "169.254.169.254".to_owned(),
    }
}

/// The status for a reply code: 200 for a success, the code itself for a failure.
fn status_of_code(code: u8) -> u16 {
    match code {
        0 | 90 => 200,
        code => code.into(),
    }
}
