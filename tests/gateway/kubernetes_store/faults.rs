//! What the cell says and does when the API fails, and that it works again afterwards.

use std::time::{Duration, Instant};

use ntlm_gateway::guard_store::cell::{Cell, Replaced, StoreFault};
use ntlm_gateway::guard_store::kubernetes::Timing;

use super::{LEASE, TIMING, cell, cell_through, create, read, refused, replaced, unavailable};
use crate::support::kubernetes::{Fault, KubernetesApi};

#[test]
fn each_write_in_a_storm_is_a_conflict_and_the_first_after_it_succeeds() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    create(&mut cell, "1");
    api.set_fault_times(Fault::ConflictStorm, 5);
    for _ in 0..5 {
        let version = read(&mut cell).version;
        assert_eq!(cell.replace("2", &version), Ok(Replaced::Conflict));
    }
    assert_eq!(api.lease_text().as_deref(), Some("1"));
    let version = read(&mut cell).version;
    replaced(cell.replace("2", &version));
    assert_eq!((api.count("PUT", 409), api.count("PUT", 200)), (5, 1));
}

#[test]
fn a_429_asks_for_the_pause_that_it_names() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    let version = create(&mut cell, "1");
    for (retry_after, expected_ms) in [(Some(7), 7_000), (None, 1_000)] {
        api.set_fault(Fault::TooManyRequests(retry_after));
        for outcome in [cell.read().map(drop), cell.replace("2", &version).map(drop)] {
            let Err(StoreFault::Overloaded { reason, pause_ms }) = outcome else { panic!("{outcome:?}") };
            assert_eq!(pause_ms, expected_ms);
            assert!(reason.0.contains("too many requests (429)"), "{reason}");
        }
    }
    api.set_fault(None);
    replaced(cell.replace("2", &version));
}

#[test]
fn a_500_is_a_fault_that_passes() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    let version = create(&mut cell, "1");
    for status in [500, 503, 504] {
        api.set_fault(Fault::Status(status));
        let text = unavailable(cell.read());
        assert_eq!(text, format!("the Kubernetes API failed ({status}); it says: as the test demands"));
        unavailable(cell.replace("2", &version));
    }
    api.set_fault(None);
    assert_eq!(api.lease_text().as_deref(), Some("1"));
    replaced(cell.replace("2", &version));
}

#[test]
fn a_slow_api_is_given_up_after_the_time_limit() {
    let api = KubernetesApi::start();
    let mut cell = cell_through(api.door(), &api, Timing { request: Duration::from_secs(3), ..TIMING });
    api.set_fault_times(Fault::Slow(Duration::from_secs(20)), 1);
    let begun = Instant::now();
    let text = unavailable(cell.read());
    assert!(text.ends_with("did not answer within 3 s"), "{text}");
    let took = begun.elapsed();
    assert!((Duration::from_millis(2_900)..Duration::from_secs(12)).contains(&took), "{took:?}");
    assert_eq!(read(&mut cell).text, None);
}

#[test]
fn a_write_whose_answer_was_cut_may_have_happened_and_is_read_again() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    let old = create(&mut cell, "1");
    api.set_fault_times(Fault::CutAnswer, 1);
    unavailable(cell.replace("2", &old));
    assert_eq!(api.lease_text().as_deref(), Some("2"));
    // The old version must not be replaced a second time.
    assert_eq!(cell.replace("3", &old), Ok(Replaced::Conflict));
    let kept = read(&mut cell);
    assert_eq!(kept.text.as_deref(), Some("2"));
    replaced(cell.replace("3", &kept.version));
}

#[test]
fn a_connection_that_is_cut_before_the_answer_is_a_fault_that_passes() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    let version = create(&mut cell, "1");
    api.set_fault_times(Fault::CutRequest, 2);
    let text = unavailable(cell.read());
    assert!(text.contains(&api.address().to_string()), "{text}");
    unavailable(cell.replace("2", &version));
    assert_eq!(api.lease_text().as_deref(), Some("1"));
    replaced(cell.replace("2", &version));
}

#[test]
fn an_api_that_is_down_is_used_again_when_it_is_back() {
    let api = KubernetesApi::start();
    let door = api.another_door();
    let (mut cut_off, mut other) = (cell_through(&door, &api, TIMING), cell(&api));
    let version = create(&mut cut_off, "1");
    door.close();
    let text = unavailable(cut_off.read());
    assert!(text.contains("cannot be reached") || text.contains("no valid answer"), "{text}");
    let text = unavailable(cut_off.read());
    assert!(text.contains("cannot be reached: ") && text.contains("refused"), "{text}");
    // Only this one was cut off.
    let new = replaced(other.replace("2", &version));
    door.reopen();
    let kept = read(&mut cut_off);
    assert_eq!((kept.text.as_deref(), &kept.version), (Some("2"), &new));
}

#[test]
fn a_certificate_of_another_ca_is_named_and_gets_no_request() {
    let api = KubernetesApi::start();
    api.set_fault(Fault::WrongCa);
    let text = unavailable(cell(&api).read());
    let file = api.directory().join("ca.crt");
    assert!(text.contains(&format!("a certificate that {} does not verify (", file.display())), "{text}");
    assert_eq!(api.requests(), []);
    api.set_fault(None);
    assert_eq!(read(&mut cell(&api)).text, None);
}

#[test]
fn a_new_ca_is_followed_without_a_restart() {
    let mut api = KubernetesApi::start();
    let door = api.another_door();
    let mut cell = cell_through(&door, &api, TIMING);
    create(&mut cell, "1");
    api.rotate_ca(false);
    // The open connection is still the old one.
    door.close();
    door.reopen();
    assert!(unavailable(cell.read()).contains("does not verify"));
    api.publish_ca();
    assert_eq!(read(&mut cell).text.as_deref(), Some("1"));
}

#[test]
fn a_ca_file_without_a_certificate_is_refused_by_name() {
    let api = KubernetesApi::start();
    let file = api.directory().join("ca.crt");
    for contents in ["", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&file, contents).expect("a file");
        let text = refused(cell(&api).read());
        assert!(text.contains("contains no certificate"), "{text}");
    }
    std::fs::remove_file(&file).expect("removed");
    let text = refused(cell(&api).read());
    assert!(text.contains(&format!("cannot read {}", file.display())), "{text}");
}

#[test]
fn a_token_is_used_as_soon_as_it_is_replaced() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    create(&mut cell, "1");
    api.rotate_token("second-token", true);
    assert_eq!(read(&mut cell).text.as_deref(), Some("1"));
    assert_eq!(api.count("GET", 401), 0);
}

#[test]
fn a_401_is_asked_once_more_and_then_refused_with_a_hint() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    create(&mut cell, "1");
    api.rotate_token("second-token", false);
    let text = refused(cell.read());
    assert!(text.contains("does not accept the token in") && text.contains("(401)"), "{text}");
    assert!(!text.contains("first-token"), "{text}");
    assert_eq!(api.count("GET", 401), 2);
    // Replaced in between.
    api.rotate_token("third-token", true);
    api.set_fault_times(Fault::Status(401), 1);
    assert_eq!(read(&mut cell).text.as_deref(), Some("1"));
    assert_eq!(api.count("GET", 401), 3);
}

#[test]
fn a_missing_permission_is_named_by_its_verb() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    let expect = |text: String, verb: &str| {
        assert!(text.contains(&format!("may not {verb} the Lease {LEASE} in the namespace egress (403)")), "{text}");
        assert!(text.contains("it needs a Role that permits create, get, update and watch"), "{text}");
    };
    api.set_fault(Fault::Forbidden("create"));
    expect(refused(cell.replace("1", &Default::default())), "create");
    api.set_fault(None);
    let version = create(&mut cell, "1");
    api.set_fault(Fault::Forbidden("update"));
    expect(refused(cell.replace("2", &version)), "update");
    api.set_fault(Fault::Forbidden("get"));
    expect(refused(cell.read()), "get");
    api.set_fault(Fault::Forbidden("watch"));
    expect(refused(cell.watch().expect("a watch").next()), "watch");
}

#[test]
fn a_redirect_is_not_followed() {
    let (api, elsewhere) = (KubernetesApi::start(), KubernetesApi::start());
    api.set_fault(Fault::Redirect(format!("https://{}/", elsewhere.address())));
    let text = refused(cell(&api).read());
    assert!(text.contains("redirects, which is not followed (307)"), "{text}");
    assert_eq!(elsewhere.requests(), []);
}

#[test]
fn answers_that_are_no_lease_are_described() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    create(&mut cell, "1");
    api.set_fault(Fault::Body("<html>sign in</html>".to_owned()));
    assert!(unavailable(cell.read()).contains("answered with something that is not JSON"));
    api.set_fault(Fault::Body("{\"kind\":\"LeaseList\"}".to_owned()));
    assert!(unavailable(cell.read()).contains("an object of the kind \"LeaseList\" instead of a Lease"));
    api.set_fault(Fault::Body(" ".repeat(2 * 1024 * 1024)));
    let text = refused(cell.read());
    assert!(text.contains(LEASE) && text.contains("more than 1048576 bytes"), "{text}");
    api.set_fault(Fault::NoDate);
    assert!(unavailable(cell.read()).contains("answered without a valid Date"));
    api.set_fault(None);
    assert_eq!(read(&mut cell).text.as_deref(), Some("1"));
}
