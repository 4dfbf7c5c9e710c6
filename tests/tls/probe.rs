//! What `probe` says of a proxy that is reached with TLS.

use std::time::Duration;

use serde_json::Value;

use crate::proxy::Proxy;
use crate::support::certificates::{self, ECDSA_SHA384, Issued};
use crate::support::command::run;
use crate::support::gateway::GATEWAY;
use crate::support::scratch::Scratch;
use crate::support::toolbox::toolbox;
use crate::support::{PASSWORD, USER};

/// The report, and the exit code.
fn probe(scratch: &Scratch, ca: &Issued, upstream: &str, further: &[&str]) -> (Value, Option<i32>) {
    let password = scratch.write("password", PASSWORD);
    let finished = run(GATEWAY, Duration::from_secs(30), |command| {
        command.args(["probe", "--json", "--upstream", upstream, "--user", USER]);
        command.arg("--tls-ca-file").arg(&ca.certificate).arg("--password-file").arg(password).args(further);
    });
    let report = serde_json::from_str(&finished.text()).unwrap_or_else(|_| panic!("{}", finished.stderr));
    (report, finished.code)
}

fn advice(report: &Value) -> Vec<&str> {
    let advice = report["verdict"]["advice"].as_array().expect("a list");
    advice.iter().filter_map(|advice| advice["id"].as_str()).collect()
}

#[test]
fn probe_finds_out_whether_a_proxy_checks_channel_bindings() {
    require_tools!("openssl");
    let Some(toolbox) = toolbox() else { return };
    let scratch = Scratch::new("tls-probe");
    let ca = certificates::ca(&scratch, "ca");
    let extensions = certificates::server("IP:127.0.0.1");
    let server = certificates::issued_by(&scratch, &ca, "server", ECDSA_SHA384, &extensions, 30);
    let wrong = ["--wrong-channel-bindings"];
    for (checks, arguments) in [(true, &[][..]), (false, &["--no-bindings"][..])] {
        let proxy = Proxy::start(&toolbox.join("bin/python"), &scratch, Some(&server), arguments);
        let upstream = format!("https://127.0.0.1:{}", proxy.port);
        let (report, code) = probe(&scratch, &ca, &upstream, &[]);
        assert_eq!(code, Some(0), "{report}");
        assert_eq!(report["mechanism"]["channel_bindings"], "right");
        assert_eq!(report["upstream"], upstream);
        assert_eq!(report["verdict"]["settings"]["upstream"], upstream);
        let (report, code) = probe(&scratch, &ca, &upstream, &wrong);
        assert_eq!(code, Some(if checks { 3 } else { 0 }), "{report}");
        assert_eq!(report["mechanism"]["channel_bindings"], "wrong");
        let expected = if checks { "bindings-wrong" } else { "bindings-unchecked" };
        assert!(advice(&report).contains(&expected), "{report}");
    }
}
