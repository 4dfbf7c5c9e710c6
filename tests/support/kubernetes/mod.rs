//! A Kubernetes API on TLS that keeps one Lease, by the rules of the real one, and misbehaves on demand.

mod certificates;
mod connection;
mod discovery;
mod door;
mod rules;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::scratch::Scratch;
pub use certificates::Identity;
pub use door::Door;
use rules::{Change, Leases};

/// The namespace of the pods.
pub const NAMESPACE: &str = "egress";

/// What the service account's token is at first.
pub const FIRST_TOKEN: &str = "first-token";

/// The annotation with the text.
pub const ANNOTATION: &str = "ntlm-gateway/guard";

/// How the API misbehaves.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Somebody else changes the Lease just before each PUT, which therefore conflicts.
    ConflictStorm,
    /// It answers 429, with `Retry-After` if there is a number of seconds.
    TooManyRequests(Option<u64>),
    /// It answers this status, and does nothing.
    Status(u16),
    /// It redirects to this URL.
    Redirect(String),
    /// It waits for this long before it does anything.
    Slow(Duration),
    /// It does what it is asked, and closes the connection in the middle of its answer.
    CutAnswer,
    /// It closes the connection when it has read the request, and does nothing.
    CutRequest,
    /// It presents a certificate of another CA to new connections.
    WrongCa,
    /// It answers 200 with this body, and does nothing.
    Body(String),
    /// It does what it is asked, and answers without `Date`.
    NoDate,
    /// It forbids this verb of a Role (403).
    Forbidden(&'static str),
    /// It answers each watch with an ERROR event about an old version.
    WatchGone,
    /// It reports no change in a watch, and does not end it either, as if the connection were dead.
    WatchSilent,
    /// It sends a line of this many bytes, which does not end, in each watch.
    WatchLongLine(usize),
}

/// A request, as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRequest {
    /// Such as `PUT`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
}

/// A running API. It ends, with its connections, when dropped.
pub struct KubernetesApi {
    shared: Arc<Shared>,
    door: Door,
    directory: Scratch,
    trusted: Identity,
}

/// What the connections share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    leases: Leases,
    fault: Option<(Fault, usize)>,
    requests: Vec<LoggedRequest>,
    tokens: Vec<String>,
    clock_offset_s: i64,
    /// What the API presents, and what it presents with [`Fault::WrongCa`].
    identity: Identity,
    other_identity: Identity,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KubernetesApi {
    /// Starts it on a free loopback port, with a directory of a service account that it accepts.
    pub fn start() -> Self {
        let trusted = Identity::new();
        let state = State {
            leases: Leases::new(NAMESPACE),
            fault: None,
            requests: Vec::new(),
            tokens: vec![FIRST_TOKEN.to_owned()],
            clock_offset_s: 0,
            identity: trusted.clone(),
            other_identity: Identity::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let directory = Scratch::new("service-account");
        directory.write("namespace", NAMESPACE);
        directory.write("token", FIRST_TOKEN);
        directory.write("ca.crt", &trusted.ca_pem);
        let door = Door::open(&shared);
        Self { shared, door, directory, trusted }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// A further address of the same API, which can be closed separately, to cut off its clients.
    pub fn another_door(&self) -> Door {
        Door::open(&self.shared)
    }

    /// The door at [`KubernetesApi::address`].
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// The directory with `token`, `ca.crt` and `namespace`.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The variables that Kubernetes sets in a pod.
    pub fn environment(&self) -> [(String, String); 2] {
        environment_of(self.address())
    }

    /// Misbehaves from now on; `None` ends it.
    pub fn set_fault(&self, fault: impl Into<Option<Fault>>) {
        self.shared.state().fault = fault.into().map(|fault| (fault, usize::MAX));
        self.shared.changed.notify_all();
    }

    /// Misbehaves for so many requests.
    pub fn set_fault_times(&self, fault: Fault, times: usize) {
        self.shared.state().fault = (times > 0).then_some((fault, times));
        self.shared.changed.notify_all();
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.shared.state().requests.clone()
    }

    /// How many requests of this method were answered with this status.
    pub fn count(&self, method: &str, status: u16) -> usize {
        let is_counted = |request: &&LoggedRequest| request.method == method && request.status == status;
        self.shared.state().requests.iter().filter(is_counted).count()
    }

    /// The text in the annotation of the only Lease.
    pub fn lease_text(&self) -> Option<String> {
        self.lease()?["metadata"]["annotations"][ANNOTATION].as_str().map(str::to_owned)
    }

    /// The only Lease.
    pub fn lease(&self) -> Option<Value> {
        self.shared.state().leases.only().cloned()
    }

    /// Changes the only Lease as somebody else would do it.
    pub fn edit_lease(&self, edit: impl FnOnce(&mut Value)) {
        self.shared.state().leases.edit(edit);
        self.shared.changed.notify_all();
    }

    /// Deletes the only Lease.
    pub fn delete_lease(&self) {
        self.shared.state().leases.delete();
        self.shared.changed.notify_all();
    }

    /// Accepts this token and no other. It is put into the service account's directory if `is_published`.
    pub fn rotate_token(&self, token: &str, is_published: bool) {
        self.shared.state().tokens = vec![token.to_owned()];
        if is_published {
            self.publish("token", token);
        }
    }

    /// Presents a certificate of a new CA to new connections. It is put into the directory if `is_published`.
    pub fn rotate_ca(&mut self, is_published: bool) {
        self.trusted = Identity::new();
        self.shared.state().identity = self.trusted.clone();
        if is_published {
            self.publish_ca();
        }
    }

    /// Puts the CA of the present certificate into the directory.
    pub fn publish_ca(&self) {
        self.publish("ca.crt", &self.trusted.ca_pem);
    }

    /// Moves the clock behind `Date`.
    pub fn set_clock_offset_s(&self, seconds: i64) {
        self.shared.state().clock_offset_s = seconds;
    }

    fn publish(&self, name: &str, contents: &str) {
        // As the kubelet does it: nobody reads half a file.
        let fresh: PathBuf = self.directory.write(&format!("{name}.new"), contents);
        std::fs::rename(fresh, self.directory.join(name)).expect("rename");
    }
}

/// The variables that Kubernetes sets in a pod, for an API at this address.
pub fn environment_of(api: SocketAddr) -> [(String, String); 2] {
    [
        ("KUBERNETES_SERVICE_HOST".to_owned(), api.ip().to_string()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), api.port().to_string()),
    ]
}

impl State {
    /// The fault for this request, which is counted.
    fn take_fault(&mut self, concerns: impl FnOnce(&Fault) -> bool) -> Option<Fault> {
        let (fault, times) = self.fault.as_mut().filter(|(fault, _)| concerns(fault))?;
        let taken = fault.clone();
        *times -= 1;
        if *times == 0 {
            self.fault = None;
        }
        Some(taken)
    }

    fn changes_after(&self, version: u64) -> Vec<Change> {
        self.leases.changes_after(version)
    }
}
