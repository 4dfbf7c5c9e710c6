//! The files in `deploy/` are valid, keep the promises of `deploy/README.md`, and refer only to things that exist.
//!
//! The checks are scripts in `tests/deploy/`. Most can be given faulty input, and a test shows that they report it.

use crate::support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use ntlm_gateway::config::keys;
use ntlm_gateway::stub::{StubOptions, StubServer};
use support::client::{ask, connect_name};
use support::command::run;
use support::gateway::GATEWAY;
use support::in_process::{self, ACCOUNT};
use support::scratch::{Scratch, wait_for};
use support::toolbox::{ROOT, script, toolbox};
use support::tools::{find, path_of, python_with, skip_for_want_of};

/// Runs one script and fails with its findings.
fn passes(toolbox: &Path, name: &str, arguments: &[&str]) {
    let finished = script(toolbox, name, arguments);
    assert_eq!(finished.code, Some(0), "{name}:\n{}{}", finished.text(), finished.stderr);
}

#[test]
fn the_manifests_are_valid_and_keep_the_documented_promises() {
    let Some(toolbox) = toolbox() else { return };
    passes(&toolbox, "tests/deploy/manifests.py", &[GATEWAY]);
}

#[test]
fn a_manifest_that_breaks_a_promise_is_reported() {
    let Some(toolbox) = toolbox() else { return };
    passes(&toolbox, "tests/deploy/manifests.py", &[GATEWAY, "--spoilt"]);
}

#[test]
fn the_examples_for_transparent_listeners_are_valid_and_agree_with_their_rules() {
    let Some(toolbox) = toolbox() else { return };
    passes(&toolbox, "tests/deploy/transparent.py", &[GATEWAY]);
}

#[test]
fn an_example_for_transparent_listeners_that_breaks_a_promise_is_reported() {
    let Some(toolbox) = toolbox() else { return };
    passes(&toolbox, "tests/deploy/transparent.py", &[GATEWAY, "--spoilt"]);
}

#[test]
fn the_chart_rejects_wrong_values_and_renders_the_same_as_kustomize() {
    let Some(toolbox) = toolbox() else { return };
    passes(&toolbox, "tests/deploy/chart.py", &[]);
}

#[test]
fn the_charts_own_test_passes_only_where_a_tunnel_opens() {
    let Some(toolbox) = toolbox() else { return };
    passes(&toolbox, "tests/deploy/helm_test.py", &[GATEWAY]);
}

#[test]
fn injection_policies_set_the_proxy_variables_and_overwrite_none() {
    let Some(toolbox) = toolbox() else { return };
    passes(&toolbox, "tests/deploy/injection.py", &[]);
}

#[test]
fn an_injection_policy_that_breaks_a_promise_is_reported() {
    let Some(toolbox) = toolbox() else { return };
    passes(&toolbox, "tests/deploy/injection.py", &["--spoilt"]);
}

#[test]
fn copies_of_the_chart_and_an_overlay_render_the_same_as_the_originals() {
    let Some(toolbox) = toolbox() else { return };
    passes(&toolbox, "tests/deploy/copies.py", &[]);
}

#[test]
fn each_alert_has_a_test_where_it_fires_and_one_where_it_does_not() {
    require_tools!("promtool");
    let Some(toolbox) = toolbox() else { return };
    passes(&toolbox, "tests/deploy/rules.py", &["tests", &path_of("promtool").display().to_string()]);
}

#[test]
fn each_comparison_of_a_burn_rate_alert_matters_to_a_test() {
    require_tools!("promtool");
    let Some(toolbox) = toolbox() else { return };
    passes(&toolbox, "tests/deploy/rules.py", &["slo", &path_of("promtool").display().to_string()]);
}

#[test]
fn files_generated_from_others_are_up_to_date() {
    require_tools!("python3");
    let finished = run(path_of("python3"), Duration::from_secs(20), |command| {
        command.arg(format!("{ROOT}/deploy/make_copies.py")).arg("--check");
    });
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

#[test]
fn rules_and_dashboard_use_only_exported_metrics() {
    let Some(toolbox) = toolbox() else { return };
    let scratch = Scratch::new("metrics");
    let text = scratch.write("metrics", exported()[0].as_str());
    passes(&toolbox, "tests/deploy/rules.py", &["metrics", &text.display().to_string()]);
}

#[test]
fn openmetrics_is_valid_and_has_the_same_families_as_the_text_format() {
    let Some(toolbox) = toolbox() else { return };
    let scratch = Scratch::new("openmetrics");
    let [text, openmetrics] = exported();
    let (text, openmetrics) = (scratch.write("text", text), scratch.write("openmetrics", openmetrics));
    let arguments = [openmetrics.display().to_string(), text.display().to_string()];
    passes(&toolbox, "tests/deploy/openmetrics.py", &arguments.each_ref().map(String::as_str));
}

/// The responses of `/metrics` in both formats after a successful tunnel, a malformed request and a plain one.
fn exported() -> [String; 2] {
    let (domain, user, password) = ACCOUNT;
    let stub = StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub");
    let gateway = in_process::gateway(&stub.address().to_string(), &[]);
    let address = in_process::address(&gateway);
    assert_eq!(connect_name(address, "echo.test:7").expect("an answer").status(), 200);
    assert_eq!(ask(address, b"NONSENSE\r\n\r\n").expect("an answer").status(), 400);
    ask(address, b"GET http://hello.test/ HTTP/1.1\r\nHost: hello.test\r\n\r\n").expect("an answer");
    let closed = wait_for(Duration::from_secs(10), || (gateway.tunnels_open() == 0).then_some(()));
    assert!(closed.is_some(), "the tunnels stay open");
    let scrape = |accept: &str| {
        let mut stream = TcpStream::connect(gateway.admin_address()).expect("the administration address");
        write!(stream, "GET /metrics HTTP/1.0\r\nAccept: {accept}\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
    };
    let answers = ["text/plain", "application/openmetrics-text"].map(scrape);
    in_process::stop(gateway);
    answers
}

#[test]
fn systemd_accepts_the_unit_and_rates_it_hardened() {
    require_tools!("systemd-analyze");
    let scratch = Scratch::new("unit");
    let unit = std::fs::read_to_string(format!("{ROOT}/deploy/systemd/ntlm-gateway.service")).expect("the unit");
    let check = |text: &str, arguments: &[&str]| {
        let path = scratch.write("ntlm-gateway.service", text.replace("/usr/local/bin/ntlm-gateway", GATEWAY));
        let finished = run(path_of("systemd-analyze"), Duration::from_secs(30), |command| {
            command.args(arguments).arg(path);
        });
        (finished.code, finished.stderr.clone() + &finished.text())
    };
    let (code, said) = check(&unit, &["verify"]);
    // It also reports on the machine's other units.
    assert!(code == Some(0) && !said.contains("ntlm-gateway.service"), "{said}");
    let (_, said) = check(&unit.replace("Type=notify", "Type=notifi"), &["verify"]);
    assert!(said.contains("ntlm-gateway.service"), "a wrong unit is not reported: {said}");
    // In tenths: 0 is fully confined, 100 not at all.
    let (code, said) = check(&unit, &["security", "--offline=true", "--threshold=15", "--no-pager"]);
    assert_eq!(code, Some(0), "{said}");
}

/// The text of a file in the repository.
fn text_of(name: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{name}")).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_unit_starts_the_program_from_its_documented_path() {
    let (unit, document) = (text_of("deploy/systemd/ntlm-gateway.service"), text_of("deploy/README.md"));
    let program = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")?.split(' ').next()).expect("ExecStart");
    let directory = program.strip_suffix("ntlm-gateway").expect("the program's name");
    let install = format!("install -m 755 target/release/ntlm-gateway {directory}\n");
    assert!(document.contains(&install), "deploy/README.md does not say: {install}");
}

#[test]
fn load_tests_scrape_the_port_that_serves_metrics() {
    let default = keys::find("admin").and_then(|key| key.default.value()).expect("a default");
    let port_after = |text: &str, before: &str| -> String {
        let rest = text.split_once(before).unwrap_or_else(|| panic!("no {before}")).1;
        rest.chars().take_while(char::is_ascii_digit).collect()
    };
    let readme = port_after(&text_of("loadtest/README.md"), "--metrics 127.0.0.1:");
    assert!(default.ends_with(&format!(":{readme}")), "loadtest/README.md says {readme}, and it is {default}");
    let job = port_after(&text_of("deploy/loadtest/job.yaml"), "--metrics ntlm-gateway:");
    let service = port_after(&text_of("deploy/kustomize/base/service.yaml"), "{ name: admin, port: ");
    assert_eq!(job, service, "the Job's port and the Service's");
}

#[test]
fn the_bill_of_materials_lists_the_linked_crates_and_no_tools() {
    let Some(python) = python_with("tomllib") else {
        skip_for_want_of("python3 with tomllib");
        return;
    };
    let made = run(python, Duration::from_secs(60), |command| {
        command.arg(format!("{ROOT}/deploy/sbom.py"));
    })
    .expect_success("deploy/sbom.py");
    let bill: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
    let components = bill["components"].as_array().expect("components");
    let text = |component: &serde_json::Value, field: &str| component[field].as_str().unwrap_or_default().to_owned();
    let listed: BTreeSet<String> = components
        .iter()
        .map(|component| format!("{}-{}", text(component, "name"), text(component, "version")))
        .collect();
    for component in components {
        let (licence, hash) = (&component["licenses"][0]["expression"], &component["hashes"][0]["content"]);
        assert!(licence.is_string() && hash.as_str().is_some_and(|hash| hash.len() == 64), "{component}");
    }
    // The program's debug information names the source of each crate that contributes code.
    let program = std::fs::read(GATEWAY).expect("the program");
    let linked = crates_named_in(&String::from_utf8_lossy(&program));
    assert!(linked.len() > 20, "only {linked:?} were found");
    assert_eq!(linked.difference(&listed).collect::<Vec<_>>(), Vec::<&String>::new(), "not in the list");
    for kept_out in ["criterion-", "ntlmclient-", "syn-"] {
        assert!(!listed.iter().any(|name| name.starts_with(kept_out)), "{kept_out} is in the list");
    }
}

/// `name-version` of each path into Cargo's registry.
fn crates_named_in(text: &str) -> BTreeSet<String> {
    let paths = text.split("/registry/src/").skip(1).filter_map(|rest| rest.split('/').nth(1));
    let plausible =
        |name: &&str| name.len() < 60 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c));
    paths.filter(plausible).filter(|name| name.contains('-')).map(str::to_owned).collect()
}

#[test]
#[ignore = "builds the program in release mode inside of an image: some minutes"]
fn the_image_serves_on_a_read_only_root_without_privileges_and_drains() {
    require_tools!("buildah", "unshare", "setpriv", "cargo-auditable");
    if find("cargo").is_none() && skip_for_want_of("cargo") {
        return;
    }
    let finished = run("bash", Duration::from_secs(1800), |command| {
        command.arg(format!("{ROOT}/tests/deploy/image.sh")).arg(GATEWAY);
    });
    support::tools::say(&finished.text());
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.text(), finished.stderr);
}
