//! Half of the maximum load: `ntlm-loadtest run mixed`, a separate process that checks every byte as well.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::gateway::Gateway;
use crate::support::process::{Process, bounded_command};
use crate::support::scratch::Scratch;

/// Concurrent tunnels while the maximum is measured; enough to keep all cores busy besides those that only pause.
const AT_ONCE_UNBRIDLED: &str = "400";

/// The most concurrent tunnels during the load: what accumulates when nothing responds for a second.
const AT_ONCE: &str = "2000";

/// Longer than any fault lasts.
const PATIENCE_SECONDS: &str = "60";

/// The program, if one is to be used; an ordinary test run has none.
pub fn program() -> Option<PathBuf> {
    std::env::var_os("NTLM_GATEWAY_SOAK_LOADTEST").map(PathBuf::from)
}

/// The final report of a run.
#[derive(Debug)]
pub struct LoadReport {
    /// Tunnels that completed with every byte correct, and those that failed.
    pub completed: u64,
    pub failed: u64,
    pub tunnels_per_second: f64,
    pub bytes: u64,
    /// Failures that no fault explains, and how often each occurred.
    pub wrong: Vec<String>,
}

impl LoadReport {
    /// Whether at least half of the tunnels due at `rate` a second over this time completed; the faults cut off or
    /// delay far fewer.
    #[allow(clippy::cast_precision_loss, reason = "tunnels of some hours are below 2^52")]
    pub fn is_load(&self, rate: f64, lasts: Duration) -> bool {
        self.completed > 0 && self.completed as f64 >= rate * lasts.as_secs_f64() / 2.0
    }
}

/// A run in progress.
pub struct Mixed {
    process: Process,
    scratch: Scratch,
}

/// A [`Mixed`] at a given rate for a given time.
pub struct HalfLoad {
    run: Mixed,
    /// Tunnels begun per second.
    rate: f64,
    lasts: Duration,
}

impl Mixed {
    fn start(program: &PathBuf, gateway: SocketAddr, lasts: Duration, pace: &[&str]) -> Self {
        let scratch = Scratch::new("soak-load");
        // The last tunnels need some time.
        let bound = lasts + Duration::from_secs(120);
        let (seconds, cap) = (lasts.as_secs().to_string(), (bound - Duration::from_secs(20)).as_secs().to_string());
        let mut command = bounded_command(program, bound);
        command.args(["run", "mixed", "--proxy", &gateway.to_string(), "--duration", &seconds, "--cap", &cap]);
        command.args(["--patience", PATIENCE_SECONDS, "--allow-failures", "1000000000", "--json"]);
        command.arg(scratch.join("report.json")).args(pace).stdout(Stdio::null()).stderr(Stdio::null());
        Self { process: Process::spawn("ntlm-loadtest", &mut command), scratch }
    }

    /// Waits for its end, which is due in `left`.
    fn end(mut self, left: Duration) -> LoadReport {
        let status = self.process.wait(left + Duration::from_secs(120)).expect("the load ends");
        assert!(status.success(), "the load ended with {status}");
        let report = std::fs::read(self.scratch.join("report.json")).expect("a report");
        report_of(&serde_json::from_slice(&report).expect("JSON"))
    }
}

impl HalfLoad {
    /// Starts half as many tunnels a second, for as long as it `lasts`, as completed in the `measured` time before.
    pub fn start(program: &PathBuf, gateway: &Gateway, measured: Duration, lasts: Duration) -> Self {
        let unbridled = ["--concurrency", AT_ONCE_UNBRIDLED];
        let most = Mixed::start(program, gateway.address(), measured, &unbridled).end(measured);
        assert!(most.wrong.is_empty(), "{most:?}");
        // Half of fewer would be no load, or a rate of 0.0.
        assert!(most.tunnels_per_second >= 1.0, "almost no tunnel completes: {most:?}");
        println!("at most {:.0} tunnels/s went through; half of that from now on", most.tunnels_per_second);
        let rate = most.tunnels_per_second / 2.0;
        let pace = ["--rate", &format!("{rate:.1}"), "--concurrency", AT_ONCE];
        Self { run: Mixed::start(program, gateway.address(), lasts, &pace), rate, lasts }
    }

    /// Waits for its end, which is due now. Panics if the load was too low.
    pub fn end(self) -> LoadReport {
        let report = self.run.end(Duration::ZERO);
        println!("{report:?}");
        assert!(report.is_load(self.rate, self.lasts), "due {:.1}/s for {:?}: {report:?}", self.rate, self.lasts);
        report
    }
}

#[allow(clippy::cast_precision_loss, reason = "tunnels of some hours are below 2^52")]
fn report_of(said: &Value) -> LoadReport {
    let count = |value: &Value| value.as_u64().expect("a count");
    let completed = count(&said["tunnels"]["completed"]);
    let errors = said["errors"].as_object().expect("errors by kind");
    LoadReport {
        completed,
        failed: count(&said["tunnels"]["failed"]),
        tunnels_per_second: completed as f64 / said["elapsed_s"].as_f64().expect("seconds"),
        bytes: count(&said["bytes_up"]) + count(&said["bytes_down"]),
        wrong: errors
            .iter()
            .filter(|(kind, _)| !is_reported(kind))
            .map(|(kind, times)| format!("{times} × {kind}"))
            .collect(),
    }
}

/// Whether the gateway reported the failure, by a status or by a reset; any other failure is a violation.
fn is_reported(kind: &str) -> bool {
    matches!(kind, "status 502" | "status 503" | "status 504")
        || kind.ends_with(": connection reset")
        || kind.ends_with(": broken pipe")
}

#[test]
fn only_reported_failures_are_excused() {
    let said = serde_json::json!({
        "tunnels": {"completed": 90, "failed": 10}, "elapsed_s": 9.0, "bytes_up": 5, "bytes_down": 6,
        "errors": {"status 502": 4, "in a download: connection reset": 3, "echo differs": 2, "stood still idling": 1},
    });
    let report = report_of(&said);
    assert_eq!((report.completed, report.failed, report.bytes), (90, 10, 11));
    assert!((report.tunnels_per_second - 10.0).abs() < 1e-9);
    assert_eq!(report.wrong, ["2 × echo differs", "1 × stood still idling"]);
}

#[test]
fn fewer_than_half_of_the_due_tunnels_or_none_at_all_are_no_load() {
    let completed =
        |completed| LoadReport { completed, failed: 0, tunnels_per_second: 0.0, bytes: 0, wrong: Vec::new() };
    let lasts = Duration::from_secs(60);
    assert!(completed(300).is_load(10.0, lasts));
    assert!(!completed(299).is_load(10.0, lasts));
    assert!(!completed(0).is_load(0.0, lasts));
}
