//! A client that asks for a tunnel, uses it, and records what it is told.

use super::network::{End, Network};
use super::pump::Pump;
use super::scenario::{ClientOddity, ClientPlan, Speaks, Target};

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
    since_us: u64,
}

impl Client {
    /// Connects.
    pub fn connect(number: usize, plan: ClientPlan, network: &mut Network) -> Client {
        let wire = network.client_connects(plan.traits, plan.from);
        let found_no_listener = !network.wires[wire].held;
        let mut pump = Pump::new(wire, plan.up, number, false);
        pump.allowed = plan.early;
        let head = head(number, &plan);
        if let Some(ClientOddity::Resets(after_us) | ClientOddity::Closes(after_us)) = plan.oddity {
            network.wake_in(wire, after_us);
        }
        network.wake_in(wire, 0);
        let since_us = network.now_us;
        Client { wire, head, head_sent: 0, answer: Vec::new(), status: None, pump, since_us, plan, found_no_listener }
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
            (Speaks::Socks4a | Speaks::Socks5, _) => None,
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
            Some(ClientOddity::SpeaksTls | ClientOddity::SendsGarbage) => Speaks::Http,
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

fn head(number: usize, plan: &ClientPlan) -> Vec<u8> {
    // The port identifies the client to its origin.
    let authority = format!("{}:{}", host(number, plan.target), 9_000 + number);
    let head = match plan.speaks {
        Speaks::Http => http_head(&authority, plan.filler),
        Speaks::Socks4a | Speaks::Socks5 => socks_request(number, plan),
    };
    match plan.oddity {
        Some(ClientOddity::ClosesAtOnce | ClientOddity::StaysSilent) => Vec::new(),
        Some(ClientOddity::SendsHalfAHead | ClientOddity::ClosesInHead) => head[..head.len().min(21) - 1].to_vec(),
        Some(ClientOddity::SpeaksTls) => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec(),
        Some(ClientOddity::SendsGarbage) => b"what is this?\r\n\r\n".to_vec(),
        _ => head,
    }
}

fn http_head(authority: &str, filler: usize) -> Vec<u8> {
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: sim\r\n");
    if filler > 0 {
        head += &format!("X-Filler: {}\r\n", "f".repeat(filler));
    }
    head += "\r\n";
    head.into_bytes()
}

/// A SOCKS5 greeting with its request behind it, or a SOCKS4a request.
fn socks_request(number: usize, plan: &ClientPlan) -> Vec<u8> {
    let host = host(number, plan.target);
    let port = u16::try_from(9_000 + number).unwrap().to_be_bytes();
    match plan.speaks {
        Speaks::Socks5 => {
            let length = u8::try_from(host.len()).unwrap();
            [b"\x05\x01\x00\x05\x01\x00\x03", &[length][..], host.as_bytes(), &port].concat()
        }
        _ => [b"\x04\x01", &port[..], b"\0\0\0\x01sim\0", host.as_bytes(), b"\0"].concat(),
    }
}

/// The status for a reply code: 200 for a success, the code itself for a failure.
fn status_of_code(code: u8) -> u16 {
    match code {
        0 | 90 => 200,
        code => code.into(),
    }
}
