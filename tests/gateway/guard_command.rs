//! `ntlm-gateway guard show` and `guard reset` beside running gateways, and `probe` in the same budget.

use crate::support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use serde_json::Value;
use support::PASSWORD;
use support::client::{Answered, connect_name};
use support::command::{Finished, run};
use support::gateway::{GATEWAY, Gateway, GatewayOptions};
use support::in_process::ACCOUNT;
use support::kubernetes::KubernetesApi;
use support::scratch::{Scratch, wait_for};

const BOUND: Duration = Duration::from_secs(60);
const WRONG: [&str; 4] = ["Wr0ng-Horse", "Wr0ng-Cow", "Wr0ng-Sheep", "Wr0ng-Goat"];

/// A proxy, and a configuration with a store.
struct Rig {
    stub: StubServer,
    scratch: Scratch,
    environment: Vec<(String, String)>,
}

impl Rig {
    /// With a store in a directory.
    fn new() -> Rig {
        let scratch = Scratch::new("guard");
        let directory = scratch.join("guard").display().to_string();
        Rig::with(scratch, &format!("store = 'file'\ndirectory = '{directory}'\n"), Vec::new())
    }

    fn with(scratch: Scratch, guard: &str, environment: Vec<(String, String)>) -> Rig {
        let (domain, user, password) = ACCOUNT;
        let stub = StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub");
        let rig = Rig { stub, scratch, environment };
        rig.write_password(WRONG[0]);
        rig.configure("user = 'CORP\\alice'\npassword_file = './password'\n", guard);
        rig
    }

    fn configure(&self, identity: &str, guard: &str) {
        let upstream = self.stub.address();
        let toml = format!("warm = 0\nupstream = '{upstream}'\n{identity}\n[guard]\n{guard}");
        self.scratch.write("gateway.toml", toml);
    }

    fn write_password(&self, password: &str) {
        self.scratch.write("password", password);
    }

    fn config(&self) -> PathBuf {
        self.scratch.join("gateway.toml")
    }

    fn directory(&self) -> PathBuf {
        self.scratch.join("guard")
    }

    fn gateway(&self) -> Gateway {
        let mut options = GatewayOptions::through(self.stub.address());
        options.only_args = true;
        options.args = vec!["--config".into(), self.config().display().to_string()];
        options.env.clone_from(&self.environment);
        Gateway::start(&options)
    }

    /// Runs a subcommand on the configuration.
    fn run(&self, args: &[&str]) -> Finished {
        run(GATEWAY, BOUND, |command| {
            command.args(args).arg("--config").arg(self.config()).env_remove("RUST_LOG");
            command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        })
    }

    fn show(&self) -> Value {
        json(&self.run(&["guard", "show", "--json"]).expect_success("guard show"))
    }

    /// The only identity of `guard show`.
    fn identity(&self) -> Value {
        self.show()["identities"][0].clone()
    }

    fn state(&self) -> String {
        self.identity()["upstreams"][0]["state"].as_str().expect("a state").to_owned()
    }

    fn attempts(&self) -> u64 {
        self.stub.counters().authenticates
    }
}

fn json(finished: &Finished) -> Value {
    serde_json::from_slice(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}\n{}{}", finished.text(), finished.stderr))
}

fn request(gateway: &Gateway) -> Answered {
    connect_name(gateway.address(), "echo.test:7").expect("an answer")
}

/// Uses the budget of three up: each restart brings another wrong password.
fn use_up(rig: &Rig) {
    for password in &WRONG[..3] {
        rig.write_password(password);
        assert_eq!(request(&rig.gateway()).status(), 502);
    }
    assert_eq!(rig.attempts(), 3);
}

#[test]
fn a_running_gateway_tries_again_within_two_seconds_of_a_reset() {
    let rig = Rig::new();
    use_up(&rig);
    rig.write_password(WRONG[3]);
    let gateway = rig.gateway();
    assert_eq!(request(&gateway).status(), 502);
    assert_eq!(rig.attempts(), 3, "nothing is left");
    let identity = rig.identity();
    assert_eq!((&identity["attempts_left"], &identity["counted"]), (&0.into(), &3.into()), "{identity}");
    assert_eq!(identity["counted_with_other_secrets"], 3, "{identity}");
    assert_eq!(gateway.admin("/readyz").0, 503);
    let text = rig.run(&["guard", "reset", "--identity", "default"]).expect_success("guard reset").text();
    assert!(text.contains(r"CORP\alice: cleared; 3 attempts had been counted"), "{text}");
    let began = Instant::now();
    wait_for(BOUND, || {
        request(&gateway);
        (rig.attempts() > 3).then_some(())
    })
    .expect("a further attempt");
    // Two seconds, and what a busy machine adds. Without the reset it would be the pause after a refusal: a minute.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let identity = rig.identity();
    assert_eq!((&identity["attempts_left"], rig.state().as_str()), (&2.into(), "refused"), "{identity}");
    assert!(identity["cleared_at"].is_string(), "{identity}");
}

#[test]
fn a_gateway_learns_of_a_reset_through_a_lease() {
    let api = KubernetesApi::start();
    let mut environment = api.environment().to_vec();
    let directory = api.directory().display().to_string();
    environment.push(("KUBERNETES_SERVICE_ACCOUNT_DIRECTORY".into(), directory));
    let rig = Rig::with(Scratch::new("guard"), "store = 'kubernetes'\n", environment);
    let gateway = rig.gateway();
    assert_eq!(request(&gateway).status(), 502);
    assert_eq!((rig.attempts(), rig.state().as_str()), (1, "refused"));
    rig.run(&["guard", "reset", "--all"]).expect_success("guard reset");
    wait_for(BOUND, || {
        request(&gateway);
        (rig.attempts() > 1).then_some(())
    })
    .expect("a further attempt");
}

#[test]
fn a_reset_of_an_account_without_a_record_succeeds() {
    let rig = Rig::new();
    std::fs::create_dir(rig.directory()).expect("a directory");
    let text = rig.run(&["guard", "reset", "--identity", "default"]).expect_success("guard reset").text();
    assert!(text.contains(r"CORP\alice: cleared; the store knew nothing of it"), "{text}");
    assert_eq!((rig.identity()["attempts_left"].as_u64(), rig.state().as_str()), (Some(3), "unproven"));
    let unknown = rig.run(&["guard", "reset", "--identity", "nobody"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("no identity \"nobody\"; the configured ones are default"), "{}", unknown.stderr);
}

#[test]
fn a_reset_of_one_identity_leaves_other_accounts_alone() {
    let rig = Rig::new();
    use_up(&rig);
    let directory = rig.directory().display().to_string();
    let guard = format!("store = 'file'\ndirectory = '{directory}'\n");
    let identity = |name: &str, user: &str, further: &str| {
        format!("[[identities]]\nname = '{name}'\nuser = 'CORP\\{user}'\npassword_file = './password'\n{further}\n")
    };
    let both = identity("one", "alice", "") + &identity("other", "bob", "clients = '192.0.2.0/24'");
    rig.configure(&both, &guard);
    rig.run(&["guard", "reset", "--identity", "other"]).expect_success("guard reset");
    let counted = |rig: &Rig| -> Vec<u64> {
        let shown = rig.show();
        let all = shown["identities"].as_array().expect("identities").iter();
        all.map(|identity| identity["counted"].as_u64().expect("a number")).collect()
    };
    assert_eq!(counted(&rig), [3, 0]);
    rig.configure("user = 'CORP\\bob'\npassword_file = './password'\n", &guard);
    let text = rig.run(&["guard", "reset", "--all"]).expect_success("guard reset").text();
    assert!(text.contains("accounts of other configurations: 1 cleared"), "{text}");
    rig.configure(&both, &guard);
    assert_eq!(counted(&rig), [0, 0]);
}

#[test]
fn a_document_that_is_not_usable_is_replaced_by_reset_all_alone() {
    let rig = Rig::new();
    let text = r#"{"form":99,"salt":"00","accounts":{}}"#;
    let mut crc = flate2::Crc::new();
    crc.update(text.as_bytes());
    std::fs::create_dir(rig.directory()).expect("a directory");
    rig.scratch.write("guard/guard.journal", format!("{:08x} {text}\n", crc.sum()));
    for args in [&["guard", "show"][..], &["guard", "reset", "--identity", "default"]] {
        let finished = rig.run(args);
        assert_eq!(finished.code, Some(1), "{args:?}");
        assert!(finished.stderr.contains("`ntlm-gateway guard reset --all` begins a new one"), "{}", finished.stderr);
    }
    rig.run(&["guard", "reset", "--all"]).expect_success("guard reset");
    assert_eq!(rig.identity()["counted"], 0);
}

#[test]
fn a_store_that_cannot_be_used_is_an_error_that_says_what_to_do() {
    let rig = Rig::new();
    let fails = |expected: &str| {
        for args in [&["guard", "show"][..], &["guard", "reset", "--all"]] {
            let finished = rig.run(args);
            assert_eq!((finished.code, finished.text().as_str()), (Some(1), ""), "{args:?}");
            assert!(finished.stderr.contains(expected), "{}", finished.stderr);
        }
    };
    fails("no gateway has counted there yet");
    assert!(!rig.directory().exists(), "it is not created for the user who runs the command");
    let identity = "user = 'CORP\\alice'\npassword_file = './password'\n";
    rig.configure(identity, "");
    fails("Restart the gateway to clear its count");
    rig.configure(identity, "store = 'kubernetes'\n");
    fails("KUBERNETES_SERVICE_HOST is not set");
    let directory = rig.directory().display().to_string();
    rig.configure(identity, &format!("store = 'file'\ndirectory = '{directory}'\n"));
    break_store(&rig.directory());
    fails("cannot open");
}

#[test]
fn show_lists_the_kdcs_of_an_identity_that_uses_kerberos() {
    let rig = Rig::new();
    let directory = rig.directory().display().to_string();
    std::fs::create_dir(rig.directory()).expect("a directory");
    rig.configure(
        "user = 'alice@corp.example'\npassword_file = './password'\nauth = ['kerberos', 'ntlm']\n[kerberos]\nrealm = 'CORP.EXAMPLE'\n",
        &format!("store = 'file'\ndirectory = '{directory}'\n"),
    );
    let identity = rig.identity();
    let names: Vec<&str> = identity["upstreams"]
        .as_array()
        .expect("upstreams")
        .iter()
        .filter_map(|upstream| upstream["name"].as_str())
        .collect();
    assert_eq!(names, [rig.stub.address().to_string().as_str(), "KDC of CORP.EXAMPLE"]);
}

/// Collects the paths of all keys, with `[]` for the entries of a list.
fn keys_of(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                found.insert(path.clone());
                keys_of(value, &path, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|entry| keys_of(entry, &format!("{path}[]"), found)),
        _ => {}
    }
}

#[test]
fn the_manual_documents_every_key_of_guard_show() {
    let page = include_str!("../../docs/credential-guard.md");
    let (_, rest) = page.split_once("<!-- guard-json -->\n").expect("the table");
    let (table, _) = rest.split_once("<!-- /guard-json -->").expect("the end of the table");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let documented: BTreeSet<String> = rows.map(|(key, _)| key.to_owned()).collect();
    let rig = Rig::new();
    std::fs::create_dir(rig.directory()).expect("a directory");
    let mut found = BTreeSet::new();
    keys_of(&rig.show(), "", &mut found);
    assert_eq!(found, documented);
}

fn probe(rig: &Rig, args: &[&str]) -> Finished {
    rig.run(&[&["probe", "--target", "echo.test:7"], args].concat())
}

#[test]
fn a_wrong_password_at_probe_counts_in_the_budget_of_the_gateways() {
    let rig = Rig::new();
    assert_eq!(probe(&rig, &[]).code, Some(3));
    assert_eq!((rig.identity()["counted"].as_u64(), rig.state().as_str()), (Some(1), "refused"));
    let held = probe(&rig, &["--json"]);
    let report = json(&held);
    assert_eq!((held.code, &report["verdict"]["id"]), (Some(7), &"held".into()), "{report}");
    assert_eq!(report["guard"]["not_before"], rig.identity()["upstreams"][0]["not_before"], "{report}");
    assert_eq!(rig.attempts(), 1, "a password that was just rejected is not sent again");
    let gateway = rig.gateway();
    assert_eq!(request(&gateway).status(), 502);
    assert_eq!(rig.attempts(), 1, "nor by a gateway");
    for password in &WRONG[1..3] {
        rig.write_password(password);
        assert_eq!(probe(&rig, &[]).code, Some(3));
    }
    rig.write_password(WRONG[3]);
    let spent = probe(&rig, &[]);
    assert_eq!((spent.code, rig.attempts()), (Some(7), 3), "{}", spent.text());
    assert!(spent.text().contains("3 of its 3 attempts count"), "{}", spent.text());
    rig.run(&["guard", "reset", "--all"]).expect_success("guard reset");
    assert_eq!(probe(&rig, &[]).code, Some(3));
}

#[test]
fn a_password_that_is_accepted_at_probe_is_proven_for_the_gateways() {
    let rig = Rig::new();
    assert_eq!(probe(&rig, &[]).code, Some(3));
    rig.write_password(PASSWORD);
    probe(&rig, &[]).expect_success("probe");
    assert_eq!((rig.identity()["counted"].as_u64(), rig.state().as_str()), (Some(1), "proven"));
    let text = rig.run(&["guard", "show"]).expect_success("guard show").text();
    assert!(text.contains("1 with other secrets") && text.contains(": proven, accepted at "), "{text}");
}

#[test]
fn a_probe_that_makes_no_logon_takes_nothing_from_the_budget() {
    let rig = Rig::new();
    // Its challenge cannot be answered.
    rig.stub.set_personality(Personality::LyingLengths);
    let finished = probe(&rig, &["--json"]);
    let report = json(&finished);
    assert_eq!((finished.code, &report["guard"]["reserved"]), (Some(5), &true.into()), "{report}");
    assert_eq!((rig.identity()["counted"].as_u64(), rig.attempts()), (Some(0), 0));
}

#[test]
fn a_probe_without_its_store_makes_no_logon_and_says_why() {
    let rig = Rig::new();
    break_store(&rig.directory());
    let finished = probe(&rig, &[]);
    assert_eq!((finished.code, rig.attempts()), (Some(1), 0), "{}", finished.text());
    assert!(finished.text().contains("the guard's store is out of reach: cannot open"), "{}", finished.text());
}

/// Puts a directory where the store's lock has to be.
fn break_store(directory: &Path) {
    std::fs::create_dir_all(directory.join("guard.lock")).expect("a directory");
}
