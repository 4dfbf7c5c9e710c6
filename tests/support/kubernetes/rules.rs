//! What the API server does with Leases: versions, conflicts, and the changes that a watch reports.

use serde_json::{Value, json};

/// The limit on all annotations of an object together.
const ANNOTATIONS_BYTES: usize = 256 * 1024;

/// A change as a watch reports it.
#[derive(Clone, Debug)]
pub struct Change {
    pub version: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub kind: &'static str,
    pub object: Value,
}

/// The Lease of a namespace. There is at most one, because the tests need no more.
pub struct Leases {
    namespace: String,
    lease: Option<Value>,
    version: u64,
    changes: Vec<Change>,
}

/// A status and a body.
pub type Outcome = (u16, Value);

impl Leases {
    pub fn new(namespace: &str) -> Self {
        // Versions are those of the whole cluster, so a Lease does not begin with 1.
        Self { namespace: namespace.to_owned(), lease: None, version: 1000, changes: Vec::new() }
    }

    pub fn only(&self) -> Option<&Value> {
        self.lease.as_ref()
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn get(&self, name: &str) -> Outcome {
        match self.named(name) {
            Some(lease) => (200, lease.clone()),
            None => not_found(name),
        }
    }

    pub fn list(&self) -> Value {
        json!({
            "kind": "LeaseList",
            "apiVersion": "coordination.k8s.io/v1",
            "metadata": { "resourceVersion": self.version.to_string() },
            "items": self.lease.iter().collect::<Vec<_>>(),
        })
    }

    pub fn create(&mut self, namespace: &str, mut lease: Value) -> Outcome {
        if namespace != self.namespace {
            return status(404, "NotFound", "namespaces", namespace, &format!("namespaces {namespace:?} not found"));
        }
        let name = lease["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if let Some(invalid) = invalid(&lease, &name, namespace) {
            return invalid;
        }
        if !lease["metadata"]["resourceVersion"].is_null() {
            let message = "resourceVersion should not be set on objects to be created";
            return status(500, "InternalError", "leases", &name, message);
        }
        if self.named(&name).is_some() {
            let message = format!("leases.coordination.k8s.io {name:?} already exists");
            return status(409, "AlreadyExists", "leases", &name, &message);
        }
        self.version += 1;
        lease["metadata"]["namespace"] = json!(namespace);
        lease["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        lease["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        self.commit("ADDED", lease.clone());
        (201, self.lease.clone().expect("just created"))
    }

    pub fn update(&mut self, namespace: &str, name: &str, mut lease: Value) -> Outcome {
        if let Some(invalid) = invalid(&lease, name, namespace) {
            return invalid;
        }
        let sent = lease["metadata"].clone();
        let Some(current) = self.named(name).cloned() else {
            // A Lease may be created by PUT. A uid prevents it.
            return if sent["uid"].is_null() {
                self.create(namespace, lease)
            } else {
                uid_conflict(name, &sent["uid"])
            };
        };
        let Some(version) = sent["resourceVersion"].as_str() else {
            let message = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update";
            return status(422, "Invalid", "leases", name, message);
        };
        if !sent["uid"].is_null() && sent["uid"] != current["metadata"]["uid"] {
            return uid_conflict(name, &sent["uid"]);
        }
        if version != current["metadata"]["resourceVersion"] {
            let message = format!(
                "Operation cannot be fulfilled on leases.coordination.k8s.io {name:?}: the object has been modified; \
                 please apply your changes to the latest version and try again"
            );
            return status(409, "Conflict", "leases", name, &message);
        }
        for field in ["uid", "creationTimestamp", "namespace"] {
            lease["metadata"][field] = current["metadata"][field].clone();
        }
        if lease == current {
            // A write that changes nothing is none.
            return (200, current);
        }
        self.version += 1;
        self.commit("MODIFIED", lease);
        (200, self.lease.clone().expect("just replaced"))
    }

    /// A change by somebody else.
    pub fn edit(&mut self, edit: impl FnOnce(&mut Value)) {
        let mut lease = self.lease.clone().expect("a Lease to edit");
        edit(&mut lease);
        self.version += 1;
        self.commit("MODIFIED", lease);
    }

    pub fn delete(&mut self) {
        let mut lease = self.lease.take().expect("a Lease to delete");
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.changes.push(Change { version: self.version, kind: "DELETED", object: lease });
    }

    pub fn changes_after(&self, version: u64) -> Vec<Change> {
        self.changes.iter().filter(|change| change.version > version).cloned().collect()
    }

    fn named(&self, name: &str) -> Option<&Value> {
        self.lease.as_ref().filter(|lease| lease["metadata"]["name"] == name)
    }

    fn commit(&mut self, kind: &'static str, mut lease: Value) {
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.changes.push(Change { version: self.version, kind, object: lease.clone() });
        self.lease = Some(lease);
    }
}

/// A `Status`, which the API answers instead of an object.
pub fn status(code: u16, reason: &str, kind: &str, name: &str, message: &str) -> Outcome {
    let body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": { "name": name, "group": "coordination.k8s.io", "kind": kind },
        "code": code,
    });
    (code, body)
}

fn not_found(name: &str) -> Outcome {
    status(404, "NotFound", "leases", name, &format!("leases.coordination.k8s.io {name:?} not found"))
}

fn uid_conflict(name: &str, uid: &Value) -> Outcome {
    let message = format!("StorageError: invalid object, Code: 4, Precondition failed: UID in precondition: {uid}");
    status(409, "Conflict", "leases", name, &message)
}

/// What is wrong with a Lease that was sent.
fn invalid(lease: &Value, name: &str, namespace: &str) -> Option<Outcome> {
    let bad = |message: &str| Some(status(400, "BadRequest", "leases", name, message));
    if lease["kind"] != "Lease" || lease["apiVersion"] != "coordination.k8s.io/v1" {
        return bad("the object provided is unrecognized");
    }
    if name.is_empty() || lease["metadata"]["name"] != name {
        return bad("the name of the object does not match the name on the URL");
    }
    let sent_namespace = &lease["metadata"]["namespace"];
    if !sent_namespace.is_null() && sent_namespace != namespace {
        return bad("the namespace of the provided object does not match the namespace sent on the request");
    }
    let annotations = lease["metadata"]["annotations"].as_object();
    let length = annotations.into_iter().flatten().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len));
    if length.sum::<usize>() > ANNOTATIONS_BYTES {
        let message = format!("metadata.annotations: Too long: may not be more than {ANNOTATIONS_BYTES} bytes");
        return Some(status(422, "Invalid", "leases", name, &message));
    }
    None
}
