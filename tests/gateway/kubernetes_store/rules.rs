//! What the cell keeps, what it leaves alone, and who wins when several write.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use log::LevelFilter;
use serde_json::json;

use ntlm_gateway::config::LogFormat;
use ntlm_gateway::guard_store::cell::{Cell, Replaced, Version};
use ntlm_gateway::guard_store::kubernetes::{InCluster, KubernetesCell};
use ntlm_gateway::logging;

use super::{ADDITIONS, LEASE, add_from_four_threads, cell, create, read, refused, replaced};
use crate::support::kubernetes::{Fault, KubernetesApi};
use crate::support::process::bounded_command;
use crate::support::scratch::Scratch;

#[test]
fn a_missing_lease_is_created_and_read_by_others() {
    let api = KubernetesApi::start();
    let (mut first, mut second) = (cell(&api), cell(&api));
    let missing = read(&mut first);
    assert_eq!((missing.text, &missing.version), (None, &Version::default()));
    let version = create(&mut first, "{\"accounts\":\"ä\n\"}");
    let kept = read(&mut second);
    assert_eq!((kept.text.as_deref(), &kept.version), (Some("{\"accounts\":\"ä\n\"}"), &version));
    assert_eq!(api.lease_text().as_deref(), Some("{\"accounts\":\"ä\n\"}"));
}

#[test]
fn of_two_that_create_the_lease_one_is_told_of_a_conflict() {
    let api = KubernetesApi::start();
    let (mut first, mut second) = (cell(&api), cell(&api));
    create(&mut first, "first");
    assert_eq!(second.replace("second", &Version::default()), Ok(Replaced::Conflict));
    assert_eq!(api.lease_text().as_deref(), Some("first"));
}

#[test]
fn a_version_that_was_replaced_cannot_be_replaced_again() {
    let api = KubernetesApi::start();
    let (mut first, mut second) = (cell(&api), cell(&api));
    let old = create(&mut first, "1");
    let new = replaced(second.replace("2", &old));
    assert_eq!(first.replace("lost", &old), Ok(Replaced::Conflict));
    assert_eq!(api.lease_text().as_deref(), Some("2"));
    replaced(first.replace("3", &new));
    assert_eq!(api.lease_text().as_deref(), Some("3"));
}

#[test]
fn no_addition_is_lost_when_four_processes_write_at_once() {
    let api = KubernetesApi::start();
    add_from_four_threads(|| cell(&api));
    assert_eq!(api.lease_text(), Some(ADDITIONS.to_string()));
}

#[test]
fn everything_that_others_put_on_the_lease_stays() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    create(&mut cell, "1");
    api.edit_lease(|lease| {
        lease["metadata"]["labels"]["team"] = json!("network");
        lease["metadata"]["annotations"]["note"] = json!("do not delete");
        lease["metadata"]["managedFields"] = json!([{ "manager": "kubectl", "fieldsV1": { "f:metadata": {} } }]);
        lease["spec"] = json!({ "holderIdentity": "somebody", "leaseDurationSeconds": 15 });
    });
    let before = api.lease().expect("a Lease");
    let version = read(&mut cell).version;
    replaced(cell.replace("2", &version));
    let mut expected = before;
    let after = api.lease().expect("a Lease");
    expected["metadata"]["annotations"]["ntlm-gateway/guard"] = json!("2");
    expected["metadata"]["resourceVersion"] = after["metadata"]["resourceVersion"].clone();
    assert_eq!(after, expected);
}

#[test]
fn a_lease_that_somebody_else_made_gets_the_annotation() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    create(&mut cell, "1");
    api.edit_lease(|lease| drop(lease["metadata"].as_object_mut().expect("metadata").remove("annotations")));
    let kept = read(&mut cell);
    assert_eq!(kept.text, None);
    assert_ne!(kept.version, Version::default());
    replaced(cell.replace("2", &kept.version));
    assert_eq!(api.lease_text().as_deref(), Some("2"));
}

#[test]
fn a_lease_that_was_deleted_and_created_again_is_not_taken_for_the_old_one() {
    let api = KubernetesApi::start();
    let (mut first, mut second) = (cell(&api), cell(&api));
    let old = create(&mut first, "old");
    api.delete_lease();
    assert_eq!(first.replace("lost", &old), Ok(Replaced::Conflict));
    assert_eq!(read(&mut first).text, None);
    create(&mut second, "new");
    assert_eq!(first.replace("lost", &old), Ok(Replaced::Conflict));
    assert_eq!(api.lease_text().as_deref(), Some("new"));
}

#[test]
fn a_text_that_is_read_once_is_replaced_without_another_read() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    let mut version = create(&mut cell, "0");
    for number in 1..4 {
        version = replaced(cell.replace(&number.to_string(), &version));
    }
    let methods: Vec<_> = api.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["POST", "PUT", "PUT", "PUT"]);
}

#[test]
fn only_the_verbs_and_the_path_that_the_role_allows_are_used() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    create(&mut cell, "1");
    let version = read(&mut cell).version;
    replaced(cell.replace("2", &version));
    cell.watch().expect("a watch").next().expect("the present state");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/egress/leases";
    let targets: Vec<_> = api.requests().into_iter().map(|it| format!("{} {}", it.method, it.target)).collect();
    assert_eq!(
        targets,
        [
            format!("POST {leases}?fieldManager=ntlm-gateway"),
            format!("GET {leases}/{LEASE}"),
            format!("PUT {leases}/{LEASE}?fieldManager=ntlm-gateway"),
            format!("GET {leases}?watch=true&fieldSelector=metadata.name%3D{LEASE}&timeoutSeconds=2"),
        ]
    );
}

#[test]
fn the_clock_is_the_servers_and_never_runs_backwards() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    create(&mut cell, "1");
    let now_ms = || u64::try_from(SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_millis()).expect("ms");
    api.set_clock_offset_s(3600);
    let before_ms = now_ms();
    let ahead = read(&mut cell).at_ms;
    // `Date` cuts off the fraction of its second.
    let range = before_ms + 3_600_000 - 1_000..=now_ms() + 3_600_000;
    assert!(range.contains(&ahead), "{ahead} is not in {range:?}");
    api.set_clock_offset_s(-3600);
    let back = read(&mut cell).at_ms;
    assert!(back >= ahead, "{back} after {ahead}");
}

#[test]
fn a_name_that_would_change_the_path_is_refused() {
    let api = KubernetesApi::start();
    let port = api.address().port().to_string();
    let cluster = InCluster::new("127.0.0.1", &port, api.directory()).expect("a cluster");
    for name in ["", "a/b", "a?watch=1", "UPPER", ".."] {
        let text = refused(KubernetesCell::new(cluster.clone(), name).map(drop));
        assert!(text.contains("not a valid name of a Lease"), "{text}");
    }
}

/// Runs in a process of its own, started by the following tests.
#[test]
#[ignore = "is started by other tests"]
fn reads_the_lease_of_its_environment() {
    let log = logging::init(LogFormat::Text, LevelFilter::Info).expect("a log");
    let directory = std::env::var_os("SERVICE_ACCOUNT_DIRECTORY").expect("a directory");
    let cluster = InCluster::from_environment(directory.as_ref()).expect("a cluster");
    let mut cell = KubernetesCell::new(cluster, LEASE).expect("a cell");
    log::info!("the text is {:?}", cell.read().map(|kept| kept.text));
    drop(log);
}

/// What a process logs that reads the Lease with these variables.
fn log_of_a_reader(api: &KubernetesApi, variables: &[(&str, &str)]) -> String {
    let scratch = Scratch::new("reader");
    let log = scratch.join("log");
    let mut command = bounded_command(std::env::current_exe().expect("this program"), Duration::from_secs(60));
    command.args([
        "kubernetes_store::rules::reads_the_lease_of_its_environment",
        "--exact",
        "--ignored",
        "--nocapture",
    ]);
    command.env_remove("RUST_LOG").envs(api.environment()).env("SERVICE_ACCOUNT_DIRECTORY", api.directory());
    command.envs(variables.iter().copied());
    command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).expect("a file"));
    assert!(command.status().expect("it runs").success());
    let log = std::fs::read_to_string(&log).expect("its log");
    assert!(log.contains("the text is Ok(Some(\"from the API\"))"), "{log}");
    log
}

#[test]
fn the_environments_proxies_are_not_used_for_the_api() {
    let api = KubernetesApi::start();
    create(&mut cell(&api), "from the API");
    // Nothing listens there.
    let names = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"];
    log_of_a_reader(&api, &names.map(|name| (name, "http://127.0.0.1:1")));
}

#[test]
fn the_token_is_in_no_log_line_at_any_level() {
    let api = KubernetesApi::start();
    create(&mut cell(&api), "from the API");
    let token: String = (0..16).map(|number| format!("{number:x}Zq7")).collect();
    api.rotate_token(&token, true);
    let log = log_of_a_reader(&api, &[("RUST_LOG", "trace,ureq=trace,ureq_proto=trace,ureq_proto::util=trace")]);
    assert!(log.contains("TRACE Sending ClientHello") && log.contains("DEBUG GET https:"), "{log}");
    // Libraries may log bytes in rows.
    for part in 0..token.len() - 6 {
        assert!(!log.contains(&token[part..part + 6]), "{} is in {log}", &token[part..part + 6]);
    }
}

#[test]
fn a_text_beyond_what_annotations_may_have_is_refused_by_name() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    let version = create(&mut cell, "small");
    let text = refused(cell.replace(&"x".repeat(256 * 1024), &version));
    assert!(text.contains("(422)") && text.contains("metadata.annotations: Too long"), "{text}");
    assert_eq!(api.lease_text().as_deref(), Some("small"));
    let version = read(&mut cell).version;
    // As long as the store ever writes it, with characters that JSON has to escape.
    let long = "\"\\".repeat(64 * 1024);
    replaced(cell.replace(&long, &version));
    assert_eq!(read(&mut cell).text, Some(long));
}

#[test]
fn an_annotation_that_the_api_does_not_keep_is_noticed() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    let version = create(&mut cell, "1");
    let other = api.lease().expect("a Lease").to_string();
    api.set_fault_times(Fault::Body(other), 1);
    let text = refused(cell.replace("2", &version));
    assert!(text.contains("did not keep the annotation"), "{text}");
}
