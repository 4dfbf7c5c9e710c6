//! A name server whose answers the test sets: an address, NXDOMAIN, a failure, or none.

use std::collections::HashMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The length of a DNS header (RFC 1035 §4.1.1).
const HEADER_BYTES: usize = 12;

/// The answer for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsAnswer {
    /// This address, with a TTL of one second.
    Address(Ipv4Addr),
    /// An alias of this name, which has this address.
    Alias(&'static str, Ipv4Addr),
    /// NXDOMAIN.
    NoSuchName,
    /// SERVFAIL.
    Failure,
    /// No answer.
    Silence,
}

/// Runs until dropped.
pub struct NameServer {
    address: Ipv4Addr,
    state: Arc<NameServerState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct NameServerState {
    names: Mutex<HashMap<String, DnsAnswer>>,
    /// Overrides the answers for all names.
    override_all: Mutex<Option<DnsAnswer>>,
    queries: AtomicUsize,
    ended: AtomicBool,
}

impl NameServer {
    /// Starts on an unused loopback address. `None` if this process may not bind the DNS port.
    pub fn start(names: &[(&str, DnsAnswer)]) -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [.., process, _] = (std::process::id() << 2).to_be_bytes();
        let addresses = (0..50).map(|_| Ipv4Addr::new(127, 54, process, NEXT.fetch_add(1, Ordering::Relaxed).max(1)));
        let (address, socket) = addresses
            .map(|address| (address, UdpSocket::bind((address, 53))))
            .find_map(|(address, socket)| Some((address, socket.ok()?)))?;
        let mut server = Self { address, state: Arc::default(), thread: None };
        server.serve_on(socket);
        names.iter().for_each(|(name, answer)| server.set(name, *answer));
        Some(server)
    }

    fn serve_on(&mut self, socket: UdpSocket) {
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
        self.state.ended.store(false, Ordering::SeqCst);
        let state = Arc::clone(&self.state);
        self.thread = Some(std::thread::spawn(move || state.serve(&socket)));
    }

    /// Stops the server and frees its port.
    pub fn stop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join);
    }

    /// Serves again after [`NameServer::stop`].
    pub fn start_again(&mut self) {
        self.serve_on(UdpSocket::bind((self.address, 53)).expect("the same port"));
    }

    /// For a `nameserver` line of resolv.conf.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Sets the answer for a name. Names that were never set do not exist.
    pub fn set(&self, name: &str, answer: DnsAnswer) {
        self.state.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), answer);
    }

    /// Overrides the answer for all names; `None` restores the individual answers.
    pub fn set_all(&self, answer: Option<DnsAnswer>) {
        *self.state.override_all.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// The number of queries so far.
    pub fn queries(&self) -> usize {
        self.state.queries.load(Ordering::SeqCst)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl NameServerState {
    fn serve(&self, socket: &UdpSocket) {
        let mut question = [0; 512];
        while !self.ended.load(Ordering::SeqCst) {
            let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
            self.queries.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = self.answer(&question[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    }

    /// RFC 1035 §4: repeats the question and appends the answer.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let name = name_of(question)?;
        let override_all = *self.override_all.lock().unwrap_or_else(PoisonError::into_inner);
        let own = || self.names.lock().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
        let outcome = override_all.or_else(own).unwrap_or(DnsAnswer::NoSuchName);
        let end = HEADER_BYTES + name.len() + 2 + 4;
        let mut answer = question.get(..end)?.to_vec();
        // There are no other records, such as IPv6 addresses.
        let address = match outcome {
            DnsAnswer::Address(address) | DnsAnswer::Alias(_, address) if answer.ends_with(&[0, 1, 0, 1]) => {
                Some(address)
            }
            _ => None,
        };
        let alias_of = match outcome {
            DnsAnswer::Alias(name, _) => Some(name),
            _ => None,
        };
        let code = match outcome {
            DnsAnswer::Address(_) | DnsAnswer::Alias(..) => 0,
            DnsAnswer::Failure => 2,
            DnsAnswer::NoSuchName => 3,
            DnsAnswer::Silence => return None,
        };
        // A response, recursion available.
        answer.get_mut(2..4)?.copy_from_slice(&[0x81, 0x80 | code]);
        let count = u8::from(address.is_some()) + u8::from(alias_of.is_some());
        answer.get_mut(6..12)?.copy_from_slice(&[0, count, 0, 0, 0, 0]);
        // The name in the question.
        let mut owner = 12;
        if let Some(name) = alias_of {
            answer.extend_from_slice(&[0xc0, owner, 0, 5, 0, 1, 0, 0, 0, 1, 0, u8::try_from(name.len() + 2).ok()?]);
            owner = u8::try_from(answer.len()).ok()?;
            for label in name.split('.') {
                answer.push(u8::try_from(label.len()).ok()?);
                answer.extend_from_slice(label.as_bytes());
            }
            answer.push(0);
        }
        if let Some(address) = address {
            answer.extend_from_slice(&[0xc0, owner, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            answer.extend_from_slice(&address.octets());
        }
        Some(answer)
    }
}

/// The name in the first question, in lower case.
fn name_of(question: &[u8]) -> Option<String> {
    let (mut labels, mut at) = (Vec::new(), HEADER_BYTES);
    loop {
        let length = usize::from(*question.get(at)?);
        if length == 0 {
            return Some(labels.join("."));
        }
        labels.push(String::from_utf8_lossy(question.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
}
