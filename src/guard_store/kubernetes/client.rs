//! Requests to the API about one Lease.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::http::{HeaderValue, Request, Response, header};
use ureq::{Agent, Body, BodyReader};

use super::super::cell::{Kept, Reason, StoreFault, Version};
use super::answer::{Answer, Verb};
use super::clock::{StoreClock, parse_http_date};
use super::in_cluster::InCluster;
use super::lease::Lease;
use super::timing::Timing;
use super::trust::Trust;
use crate::limits::KUBERNETES_ANSWER_BYTES;

/// Sends requests about one Lease. The store's thread and the watch share it, and with it the clock.
#[derive(Debug)]
pub(super) struct Client {
    cluster: InCluster,
    lease: String,
    timing: Timing,
    trust: Trust,
    clock: StoreClock,
    /// The Lease as it was read last, so that it can be replaced without being read again.
    last: Mutex<Option<Lease>>,
}

impl Client {
    pub(super) fn new(cluster: InCluster, lease: &str, timing: Timing) -> Self {
        let (trust, clock, last) = (Trust::new(timing.request), StoreClock::new(), Mutex::default());
        Self { cluster, lease: lease.to_owned(), timing, trust, clock, last }
    }

    pub(super) fn cluster(&self) -> &InCluster {
        &self.cluster
    }

    pub(super) fn lease_name(&self) -> &str {
        &self.lease
    }

    pub(super) fn timing(&self) -> Timing {
        self.timing
    }

    /// The Lease as it was read last, if it has this version.
    pub(super) fn remembered(&self, version: &Version) -> Option<Lease> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone().filter(|lease| lease.version() == version.0)
    }

    /// Whether this is older than the Lease as it was read last. A watch may report a change late, when this process
    /// has read or written the next one already. Versions are numbers since Kubernetes 1.35, and were before in every
    /// server with etcd; one that is no number counts as new.
    pub(super) fn is_outdated(&self, lease: &Lease) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |lease: &Lease| lease.version().parse::<u128>().ok();
        last.as_ref().and_then(number).zip(number(lease)).is_some_and(|(last, other)| other < last)
    }

    pub(super) fn remember(&self, lease: Option<Lease>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = lease;
    }

    /// Reads the Lease.
    pub(super) fn read(&self) -> Result<Kept, StoreFault> {
        self.remember(None);
        let answer = self.send(Verb::Get, &self.url_of_lease(), None)?;
        let lease = match answer.status {
            200 => Some(self.lease_in(&answer)?),
            404 if answer.says_that_the_lease_is_missing() => None,
            _ => return Err(self.fault(&answer, Verb::Get)),
        };
        self.kept(lease, answer.at_ms)
    }

    /// Remembers the Lease, and returns what the store's callers see of it.
    pub(super) fn kept(&self, lease: Option<Lease>, at_ms: Option<u64>) -> Result<Kept, StoreFault> {
        let at_ms =
            at_ms.ok_or_else(|| self.unavailable("answered without a valid Date, which is the store's clock"))?;
        let kept = Kept {
            text: lease.as_ref().and_then(Lease::text).map(str::to_owned),
            version: Version(lease.as_ref().map(Lease::version).unwrap_or_default().to_owned()),
            at_ms,
            damaged: 0,
        };
        self.remember(lease);
        Ok(kept)
    }

    /// The store's time now; `None` before the first answer.
    pub(super) fn now_ms(&self) -> Option<u64> {
        self.clock.now()
    }

    /// The Lease in the body of an answer.
    pub(super) fn lease_in(&self, answer: &Answer) -> Result<Lease, StoreFault> {
        Lease::parse(&answer.body, &self.lease).map_err(|what| self.unavailable(&format!("answered with {what}")))
    }

    /// What an answer without success means.
    pub(super) fn fault(&self, answer: &Answer, verb: Verb) -> StoreFault {
        answer.fault(verb, &self.cluster, &self.lease)
    }

    /// A fault that names the API. A later attempt may succeed.
    pub(super) fn unavailable(&self, what: &str) -> StoreFault {
        StoreFault::Unavailable(Reason(format!("the Kubernetes API at {} {what}", self.cluster.origin())))
    }

    pub(super) fn url_of_lease(&self) -> String {
        format!("{}/{}", self.url_of_leases(), self.lease)
    }

    pub(super) fn url_of_leases(&self) -> String {
        let (origin, namespace) = (self.cluster.origin(), self.cluster.namespace());
        format!("{origin}/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
    }

    /// Sends a request, and reads the whole answer.
    pub(super) fn send(&self, verb: Verb, url: &str, body: Option<&Value>) -> Result<Answer, StoreFault> {
        let (response, at_ms) = self.exchange(verb, url, body)?;
        self.read_answer(response, at_ms)
    }

    /// Begins to watch the Lease, from its present state on.
    pub(super) fn open_watch(&self) -> Result<BodyReader<'static>, StoreFault> {
        // Without a resourceVersion, the first event is the Lease's present state. The version that was read last would
        // do only for as long as the server remembers it, which is minutes, and the Lease may rest for months.
        let url = format!(
            "{}?watch=true&fieldSelector=metadata.name%3D{}&timeoutSeconds={}",
            self.url_of_leases(),
            self.lease,
            self.timing.watch_age.as_secs(),
        );
        let (response, at_ms) = self.exchange(Verb::Watch, &url, None)?;
        if response.status().as_u16() == 200 {
            Ok(response.into_body().into_reader())
        } else {
            let answer = self.read_answer(response, at_ms)?;
            Err(self.fault(&answer, Verb::Watch))
        }
    }

    fn read_answer(&self, response: Response<Body>, at_ms: Option<u64>) -> Result<Answer, StoreFault> {
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after_s = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let status = response.status().as_u16();
        let body = response.into_body().into_with_config().limit(KUBERNETES_ANSWER_BYTES).read_to_vec();
        let body = body.map_err(|error| self.transport_fault(&error))?;
        Ok(Answer { status, retry_after_s, at_ms, body })
    }

    /// Sends a request, and returns the answer's head with the store's time.
    fn exchange(
        &self,
        verb: Verb,
        url: &str,
        body: Option<&Value>,
    ) -> Result<(Response<Body>, Option<u64>), StoreFault> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let exchanged = self.attempt(verb, url, &body)?;
        if exchanged.0.status().as_u16() == 401 {
            // The token may have been replaced since it was read.
            return self.attempt(verb, url, &body);
        }
        Ok(exchanged)
    }

    fn attempt(&self, verb: Verb, url: &str, body: &[u8]) -> Result<(Response<Body>, Option<u64>), StoreFault> {
        let mut agent = self.trust.agent(&self.cluster)?;
        let mut is_first = true;
        loop {
            let sent = Instant::now();
            match self.run(&agent, self.request(verb, url, body)?, verb) {
                Ok(response) => {
                    let date = response.headers().get(header::DATE);
                    let date_ms = date.and_then(|value| parse_http_date(value.to_str().ok()?));
                    let at_ms = date_ms.map(|date_ms| self.clock.observe(date_ms, sent, Instant::now()));
                    return Ok((response, at_ms));
                }
                Err(error) if is_first && tls_error(&error).is_some() => {
                    let Some(changed) = self.trust.agent_if_changed(&self.cluster)? else {
                        return Err(self.transport_fault(&error));
                    };
                    (agent, is_first) = (changed, false);
                }
                Err(error) => return Err(self.transport_fault(&error)),
            }
        }
    }

    fn run(&self, agent: &Agent, request: Request<Vec<u8>>, verb: Verb) -> Result<Response<Body>, ureq::Error> {
        match verb {
            Verb::Get => agent.run(request.map(|_| ())),
            Verb::Create | Verb::Update => agent.run(request),
            Verb::Watch => {
                let timeout = Some(self.timing.request);
                let configured = agent.configure_request(request.map(|_| ()));
                let configured = configured.timeout_global(None).timeout_resolve(timeout).timeout_connect(timeout);
                let configured = configured.timeout_send_request(timeout).timeout_recv_response(timeout);
                agent.run(configured.timeout_per_read(Some(self.timing.watch_silence)).build())
            }
        }
    }

    fn request(&self, verb: Verb, url: &str, body: &[u8]) -> Result<Request<Vec<u8>>, StoreFault> {
        let token = self.cluster.token()?;
        let invalid = |error: &dyn std::fmt::Display| StoreFault::Refused(Reason(format!("cannot ask {url}: {error}")));
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", *token)).map_err(|error| invalid(&error))?;
        bearer.set_sensitive(true);
        let mut request = Request::builder().method(verb.method()).uri(url).header(header::AUTHORIZATION, bearer);
        if verb == Verb::Watch {
            // Otherwise its connection would be kept for other requests, just when the server may close it.
            request = request.header(header::CONNECTION, "close");
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request.body(body.to_vec()).map_err(|error| invalid(&error))
    }

    /// What it means that no valid answer arrived.
    pub(super) fn transport_fault(&self, error: &ureq::Error) -> StoreFault {
        let ca_file = self.cluster.ca_file();
        if let Some(error) = tls_error(error) {
            return match error {
                rustls::Error::InvalidCertificate(why) => self.unavailable(&format!(
                    "has a certificate that {} does not verify ({why:?}): is the file of this cluster?",
                    ca_file.display(),
                )),
                other => self.unavailable(&format!("fails in TLS: {other}")),
            };
        }
        match error {
            ureq::Error::Timeout(ureq::Timeout::PerRead) => {
                self.unavailable(&format!("was silent for {}", seconds(self.timing.watch_silence)))
            }
            ureq::Error::Timeout(_) => {
                self.unavailable(&format!("did not answer within {}", seconds(self.timing.request)))
            }
            ureq::Error::BodyExceedsLimit(limit) => StoreFault::Refused(Reason(format!(
                "the Lease {} in the namespace {}, or what the API says about it, has more than {limit} bytes",
                self.lease,
                self.cluster.namespace(),
            ))),
            ureq::Error::Io(error) => self.unavailable(&format!("cannot be reached: {error}")),
            other => self.unavailable(&format!("gave no valid answer: {other}")),
        }
    }
}

fn tls_error(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}
