//! What `probe` and `decode` show of Kerberos, and what no command shows.

use crate::support;

use std::path::Path;
use std::time::Duration;

use support::PASSWORD;
use support::command::{Finished, run};
use support::gateway::{GATEWAY, Gateway};
use support::kdc::KdcOptions;
use support::origin::echo_origin;
use support::scratch::Scratch;

use crate::proxy::{Line, SERVICE, tunnel};

fn probe(line: &Line, password: &Path, arguments: &[&str]) -> Finished {
    run(GATEWAY, Duration::from_secs(60), |command| {
        command.args(["probe", "--upstream", &line.squid.address().to_string(), "--user", "alice@example.test"]);
        command.args(["--kerberos-realm", "EXAMPLE.TEST", "--kdc", &line.kdc.address().to_string(), "--spn", SERVICE]);
        command.arg("--password-file").arg(password).args(arguments);
    })
}

#[test]
fn probe_shows_how_the_ticket_was_obtained_and_what_is_in_it() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let line = Line::start(&KdcOptions::default(), false);
    let (scratch, origin) = (Scratch::new("probe"), echo_origin());
    let password = scratch.write("password", PASSWORD);
    let target = origin.address().to_string();
    let shown = probe(&line, &password, &["--auth", "kerberos", "--target", &target]).expect_success("probe").text();
    for text in [
        "asked a KDC: as EXAMPLE.TEST: ok",
        "asked a KDC: tgs EXAMPLE.TEST: ok",
        "ticket for HTTP/proxy.test@EXAMPLE.TEST",
        "for alice@EXAMPLE.TEST, until ",
        "kvno 2",
        "Negotiate <Kerberos, ",
        "Verdict: works",
    ] {
        assert!(shown.contains(text), "{text}:\n{shown}");
    }
    assert!(!shown.contains(PASSWORD) && !shown.contains("YII"), "{shown}");

    let wrong = scratch.write("wrong", "wrong");
    let refused = probe(&line, &wrong, &["--auth", "kerberos", "--json", "--target", &target]);
    let report: serde_json::Value = serde_json::from_str(&refused.text()).expect("JSON");
    assert_eq!((refused.code, &report["verdict"]["cause"]), (Some(3), &"credentials_refused".into()), "{report}");
    let kdc = |event: &&serde_json::Value| event["event"] == "kdc" && event["error"] == "KDC_ERR_PREAUTH_FAILED";
    assert_eq!(report["events"].as_array().expect("events").iter().filter(kdc).count(), 1, "{report}");
    assert_eq!(line.kdc.count(&["PREAUTH_FAILED"]), 1);
}

#[test]
fn no_log_line_at_any_level_shows_a_password_a_key_or_a_token() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let line = Line::start(&KdcOptions::default(), false);
    let keytab = line.kdc.add_with_keytab("svc-gateway", "", "client.keytab");
    let mut options = line.options("kerberos");
    options.args.extend(["--keytab", &keytab.display().to_string()].map(str::to_owned));
    options.env = vec![("RUST_LOG".into(), "trace".into())];
    options.user = "svc-gateway@example.test".into();
    let gateway = Gateway::start(&options);
    let origin = echo_origin();
    assert_eq!(tunnel(&gateway, &origin), 200);
    line.tunnels(1);
    let log = gateway.log().join("\n");
    assert!(log.contains("svc-gateway@EXAMPLE.TEST has a ticket for"), "{log}");
    // What begins a token in base64, and every key of the keytab in hexadecimal, in base64 or as a list of numbers.
    assert!(!log.contains("YII") && !log.contains(PASSWORD), "{log}");
    let file = std::fs::read(&keytab).expect("the keytab");
    let parsed = ntlm_gateway::kerberos::Keytab::parse(&file).expect("a keytab");
    assert!(!parsed.entries().is_empty());
    for entry in parsed.entries() {
        let start = &entry.key.reveal()[..6];
        let hex: String = start.iter().map(|byte| format!("{byte:02x}")).collect();
        let numbers = format!("{start:?}");
        let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, start);
        for shown in [hex.as_str(), numbers.trim_matches(['[', ']']), base64.as_str()] {
            assert!(!log.contains(shown), "{shown}");
        }
    }
}
