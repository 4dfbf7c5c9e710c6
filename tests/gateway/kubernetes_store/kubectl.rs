//! The Lease as others see it: kubectl, which knows the real API's rules, and Kubernetes' schema.

use std::path::PathBuf;
use std::time::Duration;

use ntlm_gateway::guard_store::cell::{Cell, Replaced};

use super::{LEASE, cell, create, read, replaced};
use crate::support::command::{Finished, run};
use crate::support::kubernetes::{FIRST_TOKEN, KubernetesApi, NAMESPACE};
use crate::support::scratch::Scratch;
use crate::support::toolbox::{script, toolbox};

/// kubectl, with access to an API.
struct Kubectl<'a> {
    program: PathBuf,
    api: &'a KubernetesApi,
    home: Scratch,
}

impl<'a> Kubectl<'a> {
    /// `None` if it cannot be installed; reports SKIPPED.
    fn new(api: &'a KubernetesApi) -> Option<Self> {
        Some(Self { program: toolbox()?.join("kubectl"), api, home: Scratch::new("kubectl") })
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        run(&self.program, Duration::from_secs(60), |command| {
            command.env("HOME", self.home.path()).arg("--server").arg(format!("https://{}", self.api.address()));
            command.arg("--certificate-authority").arg(self.api.directory().join("ca.crt"));
            command.args(["--token", FIRST_TOKEN, "--namespace", NAMESPACE]).args(arguments);
        })
    }
}

#[test]
fn kubectl_reads_what_the_gateway_wrote() {
    let api = KubernetesApi::start();
    let Some(kubectl) = Kubectl::new(&api) else { return };
    create(&mut cell(&api), "{\"a\": 1}");
    let path = r"jsonpath={.metadata.annotations.ntlm-gateway/guard}";
    let shown = kubectl.run(&["get", "lease", LEASE, "--output", path]);
    assert_eq!((shown.code, shown.text().as_str()), (Some(0), "{\"a\": 1}"), "{}", shown.stderr);
}

#[test]
fn the_lease_matches_the_schema_of_each_supported_version() {
    let api = KubernetesApi::start();
    let Some(toolbox) = toolbox() else { return };
    let mut cell = cell(&api);
    let version = create(&mut cell, "1");
    replaced(cell.replace("2", &version));
    let scratch = Scratch::new("lease");
    let validate = |lease: &serde_json::Value| {
        let file = scratch.write("lease.json", lease.to_string());
        script(&toolbox, "tests/deploy/lease.py", &[file.to_str().expect("a path")])
    };
    let mut lease = api.lease().expect("a Lease");
    let valid = validate(&lease);
    assert_eq!(valid.code, Some(0), "{}{}", valid.text(), valid.stderr);
    lease["metadata"]["annotations"]["ntlm-gateway/guard"] = 2.into();
    assert_eq!(validate(&lease).code, Some(1), "a number where text belongs was not found");
}

#[test]
fn of_kubectl_and_the_gateway_the_second_to_write_has_a_conflict() {
    let api = KubernetesApi::start();
    let Some(kubectl) = Kubectl::new(&api) else { return };
    let mut cell = cell(&api);
    let first = create(&mut cell, "1");
    let shown = kubectl.run(&["get", "lease", LEASE, "--output", "json"]).expect_success("kubectl get").text();
    let labelled = shown.replace("\"labels\": {", "\"labels\": { \"by\": \"kubectl\",");
    let file = kubectl.home.write("lease.json", labelled);
    let replace = || kubectl.run(&["replace", "--validate=false", "--filename", file.to_str().expect("a path")]);
    replace().expect_success("kubectl replace");
    assert_eq!(cell.replace("lost", &first), Ok(Replaced::Conflict));

    let version = read(&mut cell).version;
    replaced(cell.replace("2", &version));
    let late = replace();
    assert!(late.stderr.contains("(Conflict)"), "{:?}: {}", late.code, late.stderr);
    let lease = api.lease().expect("a Lease");
    assert_eq!((api.lease_text().as_deref(), &lease["metadata"]["labels"]["by"]), (Some("2"), &"kubectl".into()));
}

#[test]
fn a_watch_by_kubectl_sees_what_the_gateway_writes() {
    let api = KubernetesApi::start();
    let Some(kubectl) = Kubectl::new(&api) else { return };
    let mut cell = cell(&api);
    let version = create(&mut cell, "text 1");
    let seen = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let path = "jsonpath={.metadata.annotations}{'\\n'}";
            kubectl.run(&["get", "lease", LEASE, "--watch", "--request-timeout=5s", "--output", path]).text()
        });
        // As soon as it watches.
        let watches = || api.requests().iter().any(|request| request.target.contains("watch=true")).then_some(());
        crate::support::scratch::wait_for(Duration::from_secs(30), watches).expect("a watch");
        replaced(cell.replace("text 2", &version));
        watch.join().expect("its output")
    });
    assert!(seen.contains("text 1") && seen.contains("text 2"), "{seen}");
}
