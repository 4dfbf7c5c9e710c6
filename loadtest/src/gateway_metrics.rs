//! Compares the gateway's metrics with what the client saw.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::net::http_get;
use crate::results::{Check, RunResults};
use crate::scenario::Scenario;

/// How long the gateway may take to close what the client has closed.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
const OPEN: &str = "ntlm_gateway_tunnels_open";
const WARM: &str = "ntlm_gateway_warm_connections";
const REQUESTS: &str = "ntlm_gateway_requests_total{";
/// Counters of the stub that a correct gateway leaves at zero.
const VIOLATIONS: [&str; 4] =
    ["malformed", "unchallenged_authenticates", "misplaced_authenticates", "negotiates_with_body"];

/// Where to read the counters of the gateway and the stub.
#[derive(Clone, Copy, Debug, Default)]
pub struct CounterSources {
    /// The gateway's admin address.
    pub metrics: Option<SocketAddr>,
    /// The stub's control address.
    pub control: Option<SocketAddr>,
}

/// Values by series at one moment.
pub struct Snapshot {
    gateway: Option<HashMap<String, u64>>,
    stub: Option<HashMap<String, u64>>,
}

impl CounterSources {
    /// Reads both.
    ///
    /// # Errors
    /// If one of them does not answer.
    pub fn read(&self) -> io::Result<Snapshot> {
        let gateway = self.metrics.map(|address| http_get(address, "/metrics")).transpose()?;
        let stub = self.control.map(|address| http_get(address, "/counters")).transpose()?;
        let stub = stub.map(|text| serde_json::from_str(&text)).transpose()?;
        Ok(Snapshot { gateway: gateway.map(|text| parse(&text)), stub })
    }

    /// Adds the comparison to the results of a run.
    ///
    /// # Errors
    /// If one of them does not answer.
    pub fn add_checks(&self, before: &Snapshot, outcome: &mut RunResults) -> io::Result<()> {
        outcome.checks = self.compare(before, outcome)?;
        if let Some(requests) = &mut outcome.requests {
            let authenticates = |stub: &HashMap<String, u64>| sum(stub, "authenticates", "");
            let after = self.read()?;
            let pair = before.stub.as_ref().zip(after.stub.as_ref());
            requests.authentications = pair.map(|(old, new)| authenticates(new).saturating_sub(authenticates(old)));
        }
        Ok(())
    }

    /// Reads again and compares, until both sides agree or five seconds have passed: the gateway may still be closing
    /// connections, and pre-challenging others.
    ///
    /// # Errors
    /// If one of them does not answer.
    fn compare(&self, before: &Snapshot, outcome: &RunResults) -> io::Result<Vec<Check>> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let checks = checks(before, &self.read()?, outcome);
            if checks.iter().all(|check| check.holds) || Instant::now() >= deadline {
                return Ok(checks);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Snapshot {
    fn open(&self) -> u64 {
        self.gateway.as_ref().and_then(|series| series.get(OPEN)).copied().unwrap_or(0)
    }
}

/// Parses Prometheus' text format into values by series, labels included. Fractions are dropped: only counters are
/// compared.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters far below 2^53")]
fn parse(text: &str) -> HashMap<String, u64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse::<f64>().ok()? as u64))
        })
        .collect()
}

/// The sum over all series of a family whose labels contain `label`.
fn sum(series: &HashMap<String, u64>, family: &str, label: &str) -> u64 {
    let of_family = |name: &str| name.split('{').next() == Some(family) && name.contains(label);
    series.iter().filter(|(name, _)| of_family(name)).map(|(_, value)| value).sum()
}

struct Checks(Vec<Check>);

impl Checks {
    fn equal(&mut self, what: &str, expected: u64, got: u64) {
        self.push(what, expected.to_string(), got, expected == got);
    }

    fn within(&mut self, what: &str, (low, high): (u64, u64), got: u64) {
        self.push(what, format!("{low} to {high}"), got, (low..=high).contains(&got));
    }

    fn at_least(&mut self, what: &str, low: u64, got: u64) {
        self.push(what, format!("at least {low}"), got, got >= low);
    }

    fn push(&mut self, what: &str, expected: String, got: u64, holds: bool) {
        self.0.push(Check { what: what.to_owned(), expected, got, holds });
    }
}

/// Compares tunnels. If clients disappeared or tunnels failed, the two sides cannot have seen the same bytes, and only
/// bounds are checked.
fn checks(before: &Snapshot, after: &Snapshot, outcome: &RunResults) -> Vec<Check> {
    if let Some(requests) = &outcome.requests {
        return request_checks(before, after, outcome, requests.answered + requests.around);
    }
    let mut checks = Checks(Vec::new());
    let tunnels = &outcome.tunnels;
    let exact = tunnels.failed == 0 && tunnels.vanished == 0 && outcome.load.scenario != Scenario::Churn;
    if let (Some(old), Some(new)) = (&before.gateway, &after.gateway) {
        let delta = |family: &str, label: &str| sum(new, family, label).saturating_sub(sum(old, family, label));
        let opened = delta("ntlm_gateway_tunnels_opened_total", "");
        let up = delta("ntlm_gateway_bytes_total", "direction=\"up\"");
        let down = delta("ntlm_gateway_bytes_total", "direction=\"down\"");
        checks.within("tunnels open afterwards", (0, before.open()), after.open());
        if exact {
            checks.equal("tunnels opened", tunnels.opened, opened);
            checks.equal("bytes up", outcome.bytes_up, up);
            checks.equal("bytes down", outcome.bytes_down, down);
        } else {
            checks.within("tunnels opened", (tunnels.opened, tunnels.begun), opened);
            checks.within("bytes up", (0, outcome.bytes_up), up);
            checks.at_least("bytes down", outcome.bytes_down, down);
        }
        let of_reason = |reason: &str| delta("ntlm_gateway_407_total", &format!("reason=\"{reason}\""));
        // Since the gateway's start: a tunnel may use a connection that was challenged before the run.
        let ever = |family: &str, label: &str| sum(new, family, label);
        let challenged = ever("ntlm_gateway_407_total", "reason=\"challenge\"");
        // Tickets need no challenge.
        let with_tickets = after.stub.as_ref().map_or(0, |stub| sum(stub, "tickets_accepted", ""));
        if with_tickets == 0 {
            checks.at_least(
                "407 with a challenge, since the start",
                ever("ntlm_gateway_tunnels_opened_total", ""),
                challenged,
            );
        }
        // The client never sees a 407; a refusal appears as a failed tunnel.
        checks.within("407 with a refusal", (0, tunnels.failed), of_reason("refused") + of_reason("rechallenge"));
        if let (Some(earlier), Some(now)) = (&before.stub, &after.stub) {
            let counted = |name: &str| sum(now, name, "").saturating_sub(sum(earlier, name, ""));
            if exact {
                // Pre-challenged connections are counted either when they are challenged or when a tunnel uses them.
                let unused = sum(new, WARM, "") + delta("ntlm_gateway_warm_discarded_total", "");
                let challenges = counted("challenges");
                let bounds = (challenges.saturating_sub(unused), challenges + sum(old, WARM, ""));
                checks.within("407 with a challenge, as the upstream counts", bounds, of_reason("challenge"));
                let authenticates = delta("ntlm_gateway_authenticate_messages_total", "");
                checks.equal("AUTHENTICATE_MESSAGEs, as the upstream counts", counted("authenticates"), authenticates);
            }
            if with_tickets > 0 && exact {
                checks.equal("tickets accepted by the upstream", tunnels.opened, counted("tickets_accepted"));
                checks.equal("407 of any kind", 0, delta("ntlm_gateway_407_total", ""));
            }
            checks.equal("logons refused by the upstream", 0, counted("refused"));
            checks.equal("tickets refused by the upstream", 0, counted("tickets_refused"));
            checks.equal(
                "protocol violations seen by the upstream",
                0,
                VIOLATIONS.iter().map(|name| counted(name)).sum(),
            );
        }
    }
    checks.0
}

/// Compares plain HTTP requests. Byte counts differ between the two sides of a proxy, because it rewrites heads.
fn request_checks(before: &Snapshot, after: &Snapshot, outcome: &RunResults, answered: u64) -> Vec<Check> {
    let mut checks = Checks(Vec::new());
    let most = answered + outcome.tunnels.failed;
    let (Some(old), Some(new)) = (&before.gateway, &after.gateway) else { return checks.0 };
    let delta = |family: &str, label: &str| sum(new, family, label).saturating_sub(sum(old, family, label));
    checks.within("connections open afterwards", (0, before.open()), after.open());
    let of_http = |series: &HashMap<String, u64>| -> u64 {
        let is_http = |name: &str| name.starts_with(REQUESTS) && name.contains("\"http\"") && name.contains("\"2xx\"");
        series.iter().filter(|(name, _)| is_http(name)).map(|(_, value)| value).sum()
    };
    checks.within("requests answered", (answered, most), of_http(new).saturating_sub(of_http(old)));
    let refused = delta("ntlm_gateway_407_total", "reason=\"refused\"");
    checks.within("407 with a refusal", (0, outcome.tunnels.failed), refused);
    if let (Some(earlier), Some(now)) = (&before.stub, &after.stub) {
        let counted = |name: &str| sum(now, name, "").saturating_sub(sum(earlier, name, ""));
        let asked = counted("requests").saturating_sub(counted("negotiates") + counted("unprompted"));
        checks.within("requests, as the upstream counts", (answered, most), asked);
        let authenticates = delta("ntlm_gateway_authenticate_messages_total", "");
        checks.equal("AUTHENTICATE_MESSAGEs, as the upstream counts", counted("authenticates"), authenticates);
        checks.equal("logons refused by the upstream", 0, counted("refused"));
        checks.equal("protocol violations seen by the upstream", 0, VIOLATIONS.iter().map(|name| counted(name)).sum());
    }
    checks.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Tunnels;
    use crate::scenario::Load;

    fn outcome() -> RunResults {
        let load = Load {
            scenario: Scenario::Setup,
            protocol: Default::default(),
            concurrency: 1,
            rate: None,
            duration: None,
            count: Some(3),
            message_bytes: 64,
            bulk_bytes: 1,
            body_bytes: 0,
            patience: SETTLE_LIMIT,
            cap: SETTLE_LIMIT,
            verify: true,
            sources: 0,
        };
        RunResults {
            load,
            elapsed_s: 1.0,
            work_s: 1.0,
            tunnels: Tunnels { begun: 3, opened: 3, completed: 3, ..Tunnels::default() },
            errors: Default::default(),
            bytes_up: 192,
            bytes_down: 192,
            messages: 3,
            requests: None,
            latencies: Default::default(),
            client_cpu_s: 0.0,
            proxy_cpu_s: None,
            checks: Vec::new(),
        }
    }

    fn snapshot(opened: u64, up_spliced: u64) -> Snapshot {
        let text = format!(
            "# HELP x y\nntlm_gateway_tunnels_opened_total {opened}\nntlm_gateway_tunnels_open 0\n\
             ntlm_gateway_bytes_total{{direction=\"up\",way=\"copy\"}} {}\n\
             ntlm_gateway_bytes_total{{direction=\"up\",way=\"splice\"}} {up_spliced}\n\
             ntlm_gateway_bytes_total{{direction=\"down\",way=\"copy\"}} {}\n\
             ntlm_gateway_407_total{{reason=\"challenge\",upstream=\"u\"}} {opened}\n",
            opened * 60,
            opened * 64,
        );
        Snapshot { gateway: Some(parse(&text)), stub: None }
    }

    #[test]
    fn matching_metrics_pass_and_one_extra_byte_fails() {
        let broken = |after: &Snapshot| -> Vec<String> {
            let checks = checks(&snapshot(0, 0), after, &outcome());
            checks.into_iter().filter(|check| !check.holds).map(|check| check.what).collect()
        };
        assert_eq!(broken(&snapshot(3, 12)), Vec::<String>::new());
        assert_eq!(broken(&snapshot(3, 13)), ["bytes up"]);
        assert_eq!(broken(&snapshot(4, 0)), ["tunnels opened", "bytes up", "bytes down"]);
    }
}
