//! A name server that answers, denies, fails or stays silent as told.

use std::collections::HashMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The bytes of a DNS message before its first question (RFC 1035 §4.1.1).
const HEADER_BYTES: usize = 12;

/// What is said of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has this address, for a second.
    Address(Ipv4Addr),
    /// There is no such name (NXDOMAIN).
    NoSuchName,
    /// The server cannot say (SERVFAIL).
    Failure,
    /// Nothing.
    Silence,
}

/// Runs until dropped.
pub struct NameServer {
    address: Ipv4Addr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    names: Mutex<HashMap<String, Answer>>,
    /// For all names.
    instead: Mutex<Option<Answer>>,
    asked: AtomicUsize,
    ended: AtomicBool,
}

impl NameServer {
    /// On an address of loopback that no other has. `None` where its port may not be taken.
    pub fn start(names: &[(&str, Answer)]) -> Option<Self> {
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

    /// From now on nobody listens on its port.
    pub fn stop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join);
    }

    /// Serves again after [`NameServer::stop`].
    pub fn start_again(&mut self) {
        self.serve_on(UdpSocket::bind((self.address, 53)).expect("the port that it had"));
    }

    /// For a `nameserver` line of resolv.conf.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What is said of a name from now on; of names that were never set it is said that they are none.
    pub fn set(&self, name: &str, answer: Answer) {
        self.state.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), answer);
    }

    /// What is said of all names from now on; `None`: of each its own.
    pub fn set_all(&self, answer: Option<Answer>) {
        *self.state.instead.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn serve(&self, socket: &UdpSocket) {
        let mut question = [0; 512];
        while !self.ended.load(Ordering::SeqCst) {
            let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
            self.asked.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = self.answer(&question[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    }

    /// RFC 1035 §4: the question again, with what is known.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let name = name_of(question)?;
        let instead = *self.instead.lock().unwrap_or_else(PoisonError::into_inner);
        let own = || self.names.lock().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
        let known = instead.or_else(own).unwrap_or(Answer::NoSuchName);
        let end = HEADER_BYTES + name.len() + 2 + 4;
        let mut answer = question.get(..end)?.to_vec();
        // Other records, such as the other family's addresses, are none.
        let address = match known {
            Answer::Address(address) if answer.ends_with(&[0, 1, 0, 1]) => Some(address),
            _ => None,
        };
        let code = match known {
            Answer::Address(_) => 0,
            Answer::Failure => 2,
            Answer::NoSuchName => 3,
            Answer::Silence => return None,
        };
        // A response, recursion available.
        answer.get_mut(2..4)?.copy_from_slice(&[0x81, 0x80 | code]);
        answer.get_mut(6..12)?.copy_from_slice(&[0, u8::from(address.is_some()), 0, 0, 0, 0]);
        if let Some(address) = address {
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            answer.extend_from_slice(&address.octets());
        }
        Some(answer)
    }
}

/// The name of the first question, in small letters.
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
