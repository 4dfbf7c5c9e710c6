//! A fleet whose Kubernetes API fails.

use std::time::Duration;

use ntlm_gateway::guard_store::kubernetes::{InCluster, KubernetesCell};
use ntlm_gateway::guard_store::{Cell as _, Document, Replaced};
use ntlm_gateway::upstream::GuardPolicy;

use super::fleet::{BUDGET, CLIENTS, Fleet, GATEWAYS, Member, OUT_OF_REACH, PATIENCE, lease_store};
use crate::support::PASSWORD;
use crate::support::kubernetes::{Fault, KubernetesApi, LoggedRequest};
use crate::support::scratch::wait_for;

/// The default of `guard.lease`.
const LEASE: &str = "ntlm-gateway-guard";

/// How long a fault lasts.
const FAULT: Duration = Duration::from_millis(1_500);

/// Enough to press; several fleets run at the same time.
const FEW: usize = 15;

const DELAY: Duration = Duration::from_millis(5);

/// What a fault means for a fleet that starts with a password that nobody knows.
struct Case {
    name: &'static str,
    begin: fn(&KubernetesApi),
    end: fn(&KubernetesApi),
    /// What log and `/readyz` say; empty if some writes succeed.
    reason: &'static str,
}

const fn lasting(name: &'static str, begin: fn(&KubernetesApi), reason: &'static str) -> Case {
    Case { name, begin, end: |api| api.set_fault(None), reason }
}

const CASES: &[Case] = &[
    lasting(
        "a conflict at each write",
        |api| api.set_fault(Fault::ConflictStorm),
        "others changed the guard's document",
    ),
    lasting("429", |api| api.set_fault(Fault::TooManyRequests(Some(1))), "too many requests (429)"),
    lasting("500", |api| api.set_fault(Fault::Status(500)), "the Kubernetes API failed (500)"),
    lasting("a slow API", |api| api.set_fault(Fault::Slow(Duration::from_secs(60))), "did not answer within"),
    lasting("connections that are cut", |api| api.set_fault(Fault::CutRequest), "the Kubernetes API"),
    lasting("answers that are cut", |api| api.set_fault(Fault::CutAnswer), ""),
    lasting("another CA", |api| api.set_fault(Fault::WrongCa), "does not verify"),
    Case {
        name: "an expired token",
        begin: |api| api.rotate_token("another", false),
        end: |api| api.rotate_token("another", true),
        reason: "401",
    },
];

fn a_fault_from_the_start(case: &Case) {
    let api = KubernetesApi::start();
    create_lease(&api);
    (case.begin)(&api);
    let fleet = Fleet::start(DELAY, "wrong", FEW, |_| lease_store(&api, api.address()));
    if case.reason.is_empty() {
        std::thread::sleep(FAULT);
    } else {
        let says = |member: &Member| member.readyz().1.contains(case.reason);
        let all = wait_for(PATIENCE, || fleet.members.iter().all(says).then_some(()));
        let states: Vec<_> = fleet.members.iter().map(Member::readyz).collect();
        assert!(all.is_some(), "{}: {states:?}", case.name);
        std::thread::sleep(FAULT);
        assert_eq!(fleet.upstream.counters().authenticates, 0, "{}", case.name);
        for member in &fleet.members {
            let (status, line) = member.readyz();
            assert!(
                status == 503 && line.contains(OUT_OF_REACH) && line.contains(case.reason),
                "{}: {line}",
                case.name
            );
            assert!(!member.store_is_up(), "{}", case.name);
            assert_eq!(member.says(OUT_OF_REACH), 1, "{}: {:#?}", case.name, member.gateway().log());
        }
    }
    (case.end)(&api);
    fleet.wait_until_all_hold();
    fleet.assert_failed_logons(1, case.name);
    let all_up = wait_for(PATIENCE, || fleet.members.iter().all(Member::store_is_up).then_some(()));
    assert!(all_up.is_some(), "{}", case.name);
    fleet.set_password(PASSWORD);
    fleet.wait_until_all_serve();
    fleet.assert_failed_logons(1, case.name);
}

/// Creates the Lease with a document in which no account is.
fn create_lease(api: &KubernetesApi) {
    let (host, port) = (api.address().ip().to_string(), api.address().port().to_string());
    let cluster = InCluster::new(&host, &port, api.directory()).expect("a cluster");
    let mut cell = KubernetesCell::new(cluster, LEASE).expect("a cell");
    let text = Document::new().expect("randomness").write(&GuardPolicy::default(), 0);
    let version = cell.read().expect("an answer").version;
    assert!(matches!(cell.replace(&text, &version), Ok(Replaced::Yes(_))));
}

#[test]
fn no_logon_is_attempted_while_the_api_fails_and_one_when_it_is_back() {
    // All at once would be too many processes for two cores.
    for cases in CASES.chunks(CASES.len().div_ceil(2)) {
        std::thread::scope(|scope| {
            for case in cases {
                scope.spawn(|| a_fault_from_the_start(case));
            }
        });
    }
}

#[test]
fn faults_between_reloads_do_not_add_to_the_budget() {
    let api = KubernetesApi::start();
    let fleet = Fleet::start(DELAY, "wrong", CLIENTS, |_| lease_store(&api, api.address()));
    fleet.wait_for_failed_logons(1);
    let faults = [
        Fault::ConflictStorm,
        Fault::CutAnswer,
        Fault::Status(503),
        Fault::CutRequest,
        Fault::TooManyRequests(Some(1)),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        api.set_fault_times(fault, 6);
        fleet.set_password(&format!("wrong-{number}"));
        std::thread::sleep(Duration::from_millis(700));
        assert!(fleet.failed_logons() <= BUDGET, "{} failed logons", fleet.failed_logons());
    }
    api.set_fault(None);
    fleet.wait_until_all_hold();
    fleet.use_budget_up();
    fleet.assert_failed_logons(BUDGET, "faults between reloads");
}

#[test]
fn an_accepted_secret_is_used_while_the_api_is_down() {
    let api = KubernetesApi::start();
    let mut fleet = Fleet::start(DELAY, PASSWORD, CLIENTS, |_| lease_store(&api, api.address()));
    fleet.wait_until_all_serve();
    let of = |method: &str| {
        let is_one = |request: &&LoggedRequest| request.method == method && !request.target.contains("watch");
        api.requests().iter().filter(is_one).count()
    };
    let settled = wait_for(PATIENCE, || {
        let before = of("PUT");
        std::thread::sleep(Duration::from_millis(300));
        (of("PUT") == before).then_some(before)
    });
    let before = (settled.expect("nothing is written any more"), of("GET"));
    let served = fleet.served();
    fleet.wait_until_all_serve();
    // A gateway reads after each watch, which the API ends every 30 s.
    let now = (of("PUT"), of("GET"));
    assert!(now.0 == before.0 && now.1 <= before.1 + GATEWAYS, "{before:?}, {now:?}: {:#?}", api.requests());

    api.door().close();
    // One gateway knows nothing.
    fleet.members[3].kill();
    fleet.members[3].restart();
    let not_served: usize = fleet.members[..3].iter().map(|member| member.crowd().not_served()).sum();
    let serve = || {
        let now = fleet.served();
        (0..3).all(|number| now[number] > served[number] + 100).then_some(())
    };
    assert!(wait_for(PATIENCE, serve).is_some(), "before {served:?}, and now {:?}", fleet.served());
    assert_eq!(fleet.members[..3].iter().map(|member| member.crowd().not_served()).sum::<usize>(), not_served);
    let alone = &fleet.members[3];
    assert!(wait_for(PATIENCE, || (alone.says(OUT_OF_REACH) > 0).then_some(())).is_some());
    let (status, line) = alone.readyz();
    assert!(status == 503 && line.contains(OUT_OF_REACH) && line.contains("cannot be reached"), "{status} {line}");
    assert!(!alone.store_is_up());
    assert_eq!(alone.says(OUT_OF_REACH), 1);

    api.door().reopen();
    fleet.wait_until_all_serve();
    assert!(wait_for(PATIENCE, || fleet.members.iter().all(Member::store_is_up).then_some(())).is_some());
    // The log is written a moment after the metric.
    assert!(wait_for(PATIENCE, || (alone_says_back(&fleet) == 1).then_some(())).is_some());
    fleet.assert_failed_logons(0, "the right password");
}

fn alone_says_back(fleet: &Fleet) -> usize {
    fleet.members[3].says("the guard's store is back")
}

#[test]
fn a_gateway_without_the_api_sends_nothing_while_the_others_serve() {
    let api = KubernetesApi::start();
    let door = api.another_door();
    door.close();
    let address = |number| if number == 0 { door.address() } else { api.address() };
    let fleet = Fleet::start(DELAY, "wrong", CLIENTS, |number| lease_store(&api, address(number)));
    fleet.wait_for_failed_logons(1);
    for (number, member) in fleet.members.iter().enumerate() {
        let reason = if number == 0 { OUT_OF_REACH } else { "refuses the credentials" };
        let says = wait_for(PATIENCE, || member.readyz().1.contains(reason).then_some(()));
        assert!(says.is_some(), "{number}: {:?}", member.readyz());
    }
    fleet.set_password(PASSWORD);
    let served = wait_for(PATIENCE, || {
        let served = fleet.served();
        (1..GATEWAYS).all(|number| served[number] > CLIENTS).then_some(served)
    });
    assert_eq!(served.expect("the others serve")[0], 0, "it must not send what it does not know");
    fleet.assert_failed_logons(1, "one without the API");
    door.reopen();
    fleet.wait_until_all_serve();
    fleet.assert_failed_logons(1, "all with the API");
}
