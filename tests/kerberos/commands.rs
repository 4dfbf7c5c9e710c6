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
    assert!(shown.contains("as alice@example.test with Kerberos\n"), "{shown}");
    // The suggested configuration is enough to do the same again.
    let (_, suggested) = shown.split_once("\nSuggested configuration\n").expect("a suggestion");
    let suggested = scratch.write("suggested.toml", suggested);
    let again = run(GATEWAY, Duration::from_secs(60), |command| {
        command.arg("probe").arg(&suggested).args(["--target", &target]);
    });
    let again = again.expect_success("probe").text();
    assert!(again.contains("ticket for HTTP/proxy.test@EXAMPLE.TEST") && again.contains("Verdict: works"), "{again}");

    let wrong = scratch.write("wrong", "wrong");
    let refused = probe(&line, &wrong, &["--auth", "kerberos", "--json", "--target", &target]);
    let report: serde_json::Value = serde_json::from_str(&refused.text()).expect("JSON");
    assert_eq!((refused.code, &report["verdict"]["cause"]), (Some(3), &"credentials_refused".into()), "{report}");
    let kdc = |event: &&serde_json::Value| event["event"] == "kdc" && event["error"] == "KDC_ERR_PREAUTH_FAILED";
    assert_eq!(report["events"].as_array().expect("events").iter().filter(kdc).count(), 1, "{report}");
    assert_eq!(line.kdc.count(&["PREAUTH_FAILED"]), 1);
}

/// Runs a command with a configuration that has a guard's store, for a key of this account.
struct Guarded<'a> {
    line: &'a Line,
    scratch: Scratch,
    user: &'static str,
    key: &'static str,
}

impl Guarded<'_> {
    fn run(&self, command: &[&str], key: &Path) -> Finished {
        let config = format!(
            "upstream = '{upstream}'\nuser = '{user}'\n{setting} = '{key}'\nauth = 'kerberos'\nspn = '{SERVICE}'\n\
             [kerberos]\nrealm = 'EXAMPLE.TEST'\nkdc = '{kdc}'\n\
             [guard]\nstore = 'file'\ndirectory = '{directory}'\n",
            upstream = self.line.squid.address(),
            user = self.user,
            setting = self.key,
            key = key.display(),
            kdc = self.line.kdc.address(),
            directory = self.scratch.join("guard").display(),
        );
        let file = self.scratch.write("gateway.toml", config);
        run(GATEWAY, Duration::from_secs(60), |process| {
            process.args(command).arg("--config").arg(&file).env_remove("RUST_LOG");
        })
    }

    /// The exit code of a probe, whether it reserved a logon, and when the next one is allowed.
    fn probe(&self, key: &Path) -> (Option<i32>, bool, bool) {
        let finished = self.run(&["probe", "--json", "--target", "echo.test:7"], key);
        let report: serde_json::Value = serde_json::from_str(&finished.text()).expect("JSON");
        let guard = &report["guard"];
        assert_eq!(guard["store"], "file", "{report}");
        (finished.code, guard["reserved"] == true, !guard["not_before"].is_null())
    }

    /// The state of the key at the KDC, as the store has it.
    fn state(&self, key: &Path) -> String {
        let shown = self.run(&["guard", "show", "--json"], key).expect_success("guard show").text();
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        let upstreams = shown["identities"][0]["upstreams"].as_array().expect("upstreams").clone();
        let kdc = upstreams.iter().find(|upstream| upstream["name"] == "KDC of EXAMPLE.TEST");
        kdc.unwrap_or_else(|| panic!("no KDC: {shown}"))["state"].as_str().expect("a state").to_owned()
    }
}

#[test]
fn probe_reserves_its_logon_at_the_kdc_in_the_guards_store() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let line = Line::start(&KdcOptions::default(), false);
    let scratch = Scratch::new("reserve");
    let keytab = line.kdc.add_with_keytab("svc-gateway", "", "client.keytab");
    let old_keytab = scratch.write("old.keytab", std::fs::read(&keytab).expect("the keytab"));
    line.kdc.kadmin("cpw -randkey svc-gateway");
    std::fs::remove_file(&keytab).expect("the keytab");
    let keytab = line.kdc.new_keys("svc-gateway", "client.keytab");
    let (password, wrong) = (scratch.write("password", PASSWORD), scratch.write("wrong", "wrong"));
    let cases = [
        ("alice@example.test", "password_file", password, wrong),
        ("svc-gateway@example.test", "keytab", keytab, old_keytab),
    ];
    for (user, key, right, wrong) in cases {
        let guarded = Guarded { line: &line, scratch: Scratch::new("guarded"), user, key };
        let failed = || line.kdc.count(&["PREAUTH_FAILED"]);
        let before = failed();
        assert_eq!(guarded.probe(&wrong), (Some(3), true, false), "{key}");
        assert_eq!((failed(), guarded.state(&wrong).as_str()), (before + 1, "refused"), "{key}");
        // The next attempt with this key is not due yet, and no KDC is asked with it.
        assert_eq!(guarded.probe(&wrong), (Some(7), false, true), "{key}");
        assert_eq!(failed(), before + 1, "{key}");
        // Another key is.
        let (code, reserved, is_held) = guarded.probe(&right);
        assert!(reserved && !is_held && code != Some(7) && code != Some(3), "{key}: {code:?}");
        assert_eq!((failed(), guarded.state(&right).as_str()), (before + 1, "proven"), "{key}");
    }
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
    gateway.wait_for_line("svc-gateway@EXAMPLE.TEST has a ticket for");
    let log = gateway.log().join("\n");
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
