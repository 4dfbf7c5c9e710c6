//! Answers of the API, and what an answer other than success means for the store.

use serde_json::Value;

use super::super::cell::{Reason, StoreFault};
use super::in_cluster::InCluster;
use crate::limits::{KUBERNETES_MESSAGE_BYTES, KUBERNETES_PAUSE, KUBERNETES_PAUSE_MAX};

/// What is asked of the API, by the names that a Role uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Create,
    Update,
    Watch,
}

impl Verb {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Create => "create",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }

    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Get | Self::Watch => "GET",
            Self::Create => "POST",
            Self::Update => "PUT",
        }
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `Retry-After`, if it has the form of a number of seconds.
    pub(super) retry_after_s: Option<u64>,
    /// The store's clock when the answer arrived, unless the answer has no `Date`.
    pub(super) at_ms: Option<u64>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// Whether a 404 is about the Lease, and not about its namespace or the whole API.
    pub(super) fn says_that_the_lease_is_missing(&self) -> bool {
        self.status == 404 && {
            let status = self.status_object();
            status["kind"] == "Status" && status["details"]["kind"] != "namespaces"
        }
    }

    /// What an answer without success means. 404 and 409 for a request whose caller knows more are left to it.
    pub(super) fn fault(&self, verb: Verb, cluster: &InCluster, lease: &str) -> StoreFault {
        let namespace = cluster.namespace();
        let said = self.said();
        let refused = |text: String| StoreFault::Refused(Reason(text + &said));
        match self.status {
            401 => refused(format!(
                "the Kubernetes API at {} does not accept the token in {} (401): is it of this cluster, and does the \
                 service account still exist?",
                cluster.origin(),
                cluster.token_file().display(),
            )),
            403 => refused(format!(
                "the pod's service account may not {} the Lease {lease} in the namespace {namespace} (403): it needs a \
                 Role that permits create, get, update and watch, as the manifests contain it",
                verb.name(),
            )),
            404 if verb == Verb::Create => refused(format!(
                "the Kubernetes API cannot create the Lease {lease} in the namespace {namespace} (404): does the \
                 namespace exist?"
            )),
            404 => refused(format!(
                "{} does not serve coordination.k8s.io/v1 (404): is this the Kubernetes API?",
                cluster.origin(),
            )),
            300..=399 => refused(format!(
                "{} redirects, which is not followed ({}): is this the Kubernetes API?",
                cluster.origin(),
                self.status
            )),
            408 | 429 | 500.. => self.postponed(),
            _ => refused(format!(
                "the Kubernetes API does not {} the Lease {lease} in the namespace {namespace} ({})",
                verb.name(),
                self.status,
            )),
        }
    }

    /// An answer that a later attempt may turn into success.
    fn postponed(&self) -> StoreFault {
        let reason = match self.status {
            429 => format!("the Kubernetes API has too many requests (429){}", self.said()),
            status => format!("the Kubernetes API failed ({status}){}", self.said()),
        };
        let pause = KUBERNETES_PAUSE.as_secs();
        let asked = self.retry_after_s.or((self.status == 429).then_some(pause));
        match asked {
            None => StoreFault::Unavailable(Reason(reason)),
            Some(seconds) => StoreFault::Overloaded {
                reason: Reason(reason),
                pause_ms: seconds.clamp(pause, KUBERNETES_PAUSE_MAX.as_secs()) * 1000,
            },
        }
    }

    /// The API's own explanation, as the end of a sentence; empty if there is none.
    fn said(&self) -> String {
        said(&self.status_object())
    }

    fn status_object(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// The message of a `Status` object, as the end of a sentence; empty if there is none.
pub(super) fn said(status: &Value) -> String {
    let message = status["message"].as_str().unwrap_or_default().trim();
    if message.is_empty() {
        return String::new();
    }
    let end = message.floor_char_boundary(KUBERNETES_MESSAGE_BYTES);
    let plain: String = message[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("; it says: {plain}{}", if end < message.len() { " …" } else { "" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster() -> InCluster {
        let (process, thread) = (std::process::id(), std::thread::current().id());
        let directory = std::env::temp_dir().join(format!("ntlm-gateway-answer-{process}-{thread:?}"));
        std::fs::create_dir_all(&directory).expect("a directory");
        std::fs::write(directory.join("namespace"), "egress").expect("a file");
        let cluster = InCluster::new("10.96.0.1", "443", &directory).expect("a cluster");
        std::fs::remove_dir_all(&directory).expect("removed");
        cluster
    }

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, retry_after_s: None, at_ms: None, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn a_403_names_the_verb_the_lease_the_namespace_and_what_a_role_needs() {
        let body = json!({ "kind": "Status", "message": "leases \"guard\" is forbidden" }).to_string();
        for (verb, name) in [(Verb::Get, "get"), (Verb::Create, "create"), (Verb::Update, "update")] {
            let StoreFault::Refused(Reason(text)) = answer(403, &body).fault(verb, &cluster(), "guard") else {
                panic!("not refused");
            };
            assert!(text.contains(&format!("may not {name} the Lease guard in the namespace egress")), "{text}");
            assert!(text.contains("it needs a Role that permits create, get, update and watch"), "{text}");
            assert!(text.ends_with("; it says: leases \"guard\" is forbidden"), "{text}");
        }
    }

    #[test]
    fn statuses_that_need_a_change_are_refused_and_others_are_not() {
        for status in [301, 307, 400, 401, 403, 404, 405, 413, 415, 422] {
            let fault = answer(status, "").fault(Verb::Get, &cluster(), "guard");
            assert!(matches!(fault, StoreFault::Refused(_)), "{status}: {fault:?}");
        }
        for status in [408, 500, 502, 503, 504] {
            let fault = answer(status, "<html>").fault(Verb::Get, &cluster(), "guard");
            assert!(matches!(fault, StoreFault::Unavailable(_)), "{status}: {fault:?}");
        }
    }

    #[test]
    fn a_pause_is_kept_within_its_bounds() {
        for (status, retry_after_s, expected_ms) in [
            (429, None, 1_000),
            (429, Some(0), 1_000),
            (429, Some(7), 7_000),
            (429, Some(86_400), 60_000),
            (503, Some(3), 3_000),
        ] {
            let fault = Answer { retry_after_s, ..answer(status, "") }.fault(Verb::Update, &cluster(), "guard");
            let StoreFault::Overloaded { pause_ms, .. } = fault else { panic!("{status}: {fault:?}") };
            assert_eq!(pause_ms, expected_ms, "{status}, {retry_after_s:?}");
        }
    }

    #[test]
    fn only_a_404_about_the_lease_says_that_it_is_missing() {
        let missing = json!({ "kind": "Status", "code": 404, "details": { "name": "guard", "kind": "leases" } });
        assert!(answer(404, &missing.to_string()).says_that_the_lease_is_missing());
        let namespace = json!({ "kind": "Status", "code": 404, "details": { "name": "egress", "kind": "namespaces" } });
        for body in [namespace.to_string(), "404 page not found\n".to_owned(), "{}".to_owned(), String::new()] {
            assert!(!answer(404, &body).says_that_the_lease_is_missing(), "{body}");
        }
        assert!(!answer(403, &missing.to_string()).says_that_the_lease_is_missing());
    }

    #[test]
    fn a_message_is_shortened_and_has_no_control_characters() {
        assert_eq!(said(&json!({ "message": "a\nb\u{1b}[31m" })), "; it says: a b [31m");
        assert_eq!(said(&json!({})), "");
        let long = said(&json!({ "message": "ä".repeat(1000) }));
        assert!(long.len() < KUBERNETES_MESSAGE_BYTES + 30 && long.ends_with(" …"), "{long}");
    }
}
