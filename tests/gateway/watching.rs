//! Files that change while the gateway runs: no signal, no restart, and open tunnels stay.

use crate::support;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ntlm_gateway::stub::{StubOptions, StubServer};
use support::client::{Answered, connect_name, echo_through};
use support::gateway::{Gateway, GatewayOptions};
use support::in_process::ACCOUNT;
use support::metrics;
use support::mount::Mount;
use support::scratch::{Scratch, wait_for};

const BOUND: Duration = Duration::from_secs(20);

fn stub() -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub")
}

fn open(gateway: &Gateway) -> Answered {
    connect_name(gateway.address(), "echo.test:7").expect("an answer")
}

#[track_caller]
fn expect_echo(tunnel: &Answered) {
    assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
    assert_eq!(echo_through(&tunnel.stream, b"still here").expect("an echo"), b"still here");
}

/// The metrics of the configuration: reloads applied, reloads refused, success of the last one, the hash.
fn reloads(gateway: &Gateway) -> (f64, f64, f64, f64) {
    let text = gateway.metrics();
    let value = |name: &str, labels: &[(&str, &str)]| {
        metrics::sum(&text, &format!("ntlm_gateway_config_{name}"), labels).expect("a sample")
    };
    let outcome = |label| value("reloads_total", &[("outcome", label)]);
    (outcome("applied"), outcome("refused"), value("last_reload_successful", &[]), value("hash", &[]))
}

#[track_caller]
fn wait_for_reloads(gateway: &Gateway, applied: f64, refused: f64) -> (f64, f64) {
    let reached = || {
        let (now_applied, now_refused, successful, hash) = reloads(gateway);
        assert!(
            now_applied <= applied && now_refused <= refused,
            "too many: {now_applied} applied, {now_refused} refused"
        );
        ((now_applied, now_refused) == (applied, refused)).then_some((successful, hash))
    };
    wait_for(BOUND, reached)
        .unwrap_or_else(|| panic!("{:?} instead of {applied} applied, {refused} refused", reloads(gateway)))
}

#[test]
fn a_replaced_secret_is_used_at_once_and_keeps_open_tunnels() {
    let stub = stub();
    let mount = Mount::new("password", ACCOUNT.2);
    let mut options = GatewayOptions::through(stub.address());
    options.password_file = Some(mount.path());
    let gateway = Gateway::start(&options);
    let tunnel = open(&gateway);
    expect_echo(&tunnel);
    let (_, _, successful, hash) = reloads(&gateway);
    assert_eq!(successful, 1.0);

    mount.publish("N0t-the-secret");
    wait_for_reloads(&gateway, 1.0, 0.0);
    assert_eq!(open(&gateway).status(), 502, "the new secret is in use");
    expect_echo(&tunnel);

    mount.publish(ACCOUNT.2);
    assert_eq!(wait_for_reloads(&gateway, 2.0, 0.0), (1.0, hash), "the secret is not part of the hash");
    expect_echo(&open(&gateway));
    expect_echo(&tunnel);
}

struct ConfiguredGateway {
    gateway: Gateway,
    _stub: StubServer,
    scratch: Scratch,
    file: PathBuf,
}

const GOOD: &str = "timeouts.idle = '10m'\n";

/// A gateway with a configuration file that holds [`GOOD`].
fn configured() -> ConfiguredGateway {
    let stub = stub();
    let scratch = Scratch::new("watching");
    let file = scratch.write("gateway.toml", GOOD);
    let mut options = GatewayOptions::through(stub.address());
    options.args = vec!["--config".into(), file.display().to_string()];
    let gateway = Gateway::start(&options);
    ConfiguredGateway { gateway, _stub: stub, scratch, file }
}

#[test]
fn an_invalid_file_is_rejected_once_and_its_correction_applied() {
    let ConfiguredGateway { gateway, _stub, scratch, .. } = configured();
    let tunnel = open(&gateway);
    let hash = reloads(&gateway).3;
    scratch.write("gateway.toml", "timeouts.idle = 'soon'\n");
    assert_eq!(wait_for_reloads(&gateway, 0.0, 1.0), (0.0, hash));
    let line = gateway.wait_for_line("the new configuration is rejected");
    assert!(line.contains("ERROR") && line.contains("timeouts.idle") && line.contains("soon"), "{line}");
    expect_echo(&open(&gateway));

    scratch.write("gateway.toml", "timeouts.idle = '11m'\n");
    let (successful, other_hash) = wait_for_reloads(&gateway, 1.0, 1.0);
    assert_eq!(successful, 1.0);
    assert_ne!(other_hash, hash);
    scratch.write("gateway.toml", GOOD);
    assert_eq!(wait_for_reloads(&gateway, 2.0, 1.0), (1.0, hash), "equal settings have equal hashes");
    expect_echo(&tunnel);
}

#[test]
fn a_deleted_file_is_rejected_and_applied_when_it_is_restored() {
    let ConfiguredGateway { gateway, _stub, scratch, file } = configured();
    std::fs::rename(&file, scratch.join("away")).expect("a rename");
    assert_eq!(wait_for_reloads(&gateway, 0.0, 1.0).0, 0.0);
    expect_echo(&open(&gateway));
    std::fs::rename(scratch.join("away"), &file).expect("a rename");
    assert_eq!(wait_for_reloads(&gateway, 1.0, 1.0).0, 1.0);
}

/// Overwrites a file with a text of the same length: at once, so that the gateway never finds a part of it.
fn write_in_place(file: &Path, text: &str) {
    assert_eq!(std::fs::metadata(file).expect("the file").len(), text.len() as u64);
    let mut file = std::fs::OpenOptions::new().write(true).open(file).expect("the file");
    file.write_all(text.as_bytes()).expect("a write");
}

#[test]
fn a_file_rewritten_with_the_same_contents_causes_no_reload() {
    let ConfiguredGateway { gateway, _stub, scratch, file } = configured();
    write_in_place(&file, GOOD);
    std::fs::rename(scratch.write("same", GOOD), &file).expect("a rename");
    // Well past the time within which a change is noticed.
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(reloads(&gateway).0, 0.0);
    std::fs::rename(scratch.write("other", "timeouts.idle = '11m'\n"), &file).expect("a rename");
    wait_for_reloads(&gateway, 1.0, 0.0);
    write_in_place(&file, GOOD);
    wait_for_reloads(&gateway, 2.0, 0.0);
}

#[test]
fn a_relative_password_file_is_resolved_against_its_configuration_file() {
    let stub = stub();
    let scratch = Scratch::new("relative");
    scratch.write("password", ACCOUNT.2);
    let upstream = stub.address();
    let text = format!("upstream = '{upstream}'\nuser = 'CORP\\alice'\npassword_file = 'password'\n");
    let file = scratch.write("gateway.toml", text);
    // The working directory of the tests is another one.
    let mut options = GatewayOptions::through(upstream);
    options.only_args = true;
    options.args = vec!["--config".into(), file.display().to_string()];
    let gateway = Gateway::start(&options);
    expect_echo(&open(&gateway));
    scratch.write("password", "N0t-the-secret");
    wait_for_reloads(&gateway, 1.0, 0.0);
    assert_eq!(open(&gateway).status(), 502, "the new secret is in use");
}
