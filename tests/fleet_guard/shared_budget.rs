//! A wrong password, and then the right one, while gateways are killed, replaced and reloaded.

use std::time::{Duration, Instant};

use ntlm_gateway::limits;

use super::fleet::{BUDGET, CLIENTS, Fleet, GATEWAYS, Member, PATIENCE, RECOVERY, Store, file_store, lease_store};
use crate::support::PASSWORD;
use crate::support::kubernetes::KubernetesApi;
use crate::support::scratch::{Scratch, wait_for};

/// How long an answer of the upstream takes.
const DELAY: Duration = Duration::from_millis(20);

/// A store for a whole fleet.
enum Shared {
    File(Scratch),
    Lease(KubernetesApi),
}

impl Shared {
    fn of_member(&self) -> Store {
        match self {
            Shared::File(directory) => (file_store(directory.path()), Vec::new()),
            Shared::Lease(api) => lease_store(api, api.address()),
        }
    }

    fn fleet(&self, delay: Duration, password: &str) -> Fleet {
        Fleet::start(delay, password, CLIENTS, |_| self.of_member())
    }
}

fn kills_rolls_and_reloads(store: &Shared) {
    let mut fleet = store.fleet(DELAY, "wrong-0");
    fleet.wait_for_failed_logons(1);
    for round in 1..=GATEWAYS {
        let (killed, rolled) = (round % GATEWAYS, (round + 1) % GATEWAYS);
        fleet.members[killed].kill();
        fleet.members[rolled].terminate();
        fleet.set_password(&format!("wrong-{round}"));
        fleet.members[killed].restart();
        fleet.members[rolled].restart();
        assert!(fleet.failed_logons() <= BUDGET, "{} failed logons in round {round}", fleet.failed_logons());
    }
    fleet.wait_until_all_hold();
    // An attempt that a killed gateway has reserved and not made counts as well.
    let failed = fleet.failed_logons();
    assert!((1..=BUDGET).contains(&failed), "{failed} failed logons");
    fleet.use_budget_up();
    // Even for the right one.
    fleet.change_password(PASSWORD);
    assert_eq!(fleet.logons_within_a_while(), 0);
    assert_eq!(fleet.members.iter().map(|member| member.readyz().0).collect::<Vec<_>>(), [503; GATEWAYS]);
    assert_eq!(fleet.upstream.counters().protocol_errors(), 0, "{}", fleet.upstream.counters());
}

#[test]
fn kills_rolls_and_reloads_of_four_gateways_cost_one_budget_with_a_directory() {
    kills_rolls_and_reloads(&Shared::File(Scratch::new("guard")));
}

#[test]
fn kills_rolls_and_reloads_of_four_gateways_cost_one_budget_with_a_lease() {
    kills_rolls_and_reloads(&Shared::Lease(KubernetesApi::start()));
}

fn killed_in_each_attempt(store: &Shared) {
    // On most machines longer than it takes to notice an attempt and to kill four processes.
    let mut fleet = store.fleet(Duration::from_millis(700), "wrong-0");
    let (mut kills, mut seen) = (0, 0);
    loop {
        // Nobody waits for attempts that have lost their gateways.
        let is_made = wait_for(PATIENCE, || {
            let is_made = fleet.upstream.counters().authenticates > seen;
            (is_made || fleet.all_hold()).then_some(is_made)
        });
        if !is_made.expect("an attempt, or none any more") {
            break;
        }
        fleet.kill_all();
        (kills, seen) = (kills + 1, fleet.upstream.counters().authenticates);
        // A new password, in case the answer came before the kill.
        fleet.set_password(&format!("wrong-{kills}"));
        fleet.members.iter_mut().for_each(Member::restart);
    }
    // One that is reserved and not sent counts as well.
    let sent = fleet.upstream.counters().authenticates;
    assert!((1..=BUDGET).contains(&sent) && kills > 0, "{sent} attempts, {kills} kills");
    // Nothing is left for the right one.
    fleet.change_password(PASSWORD);
    assert_eq!(fleet.logons_within_a_while(), 0);
}

#[test]
fn a_fleet_that_is_killed_in_each_attempt_makes_no_more_than_the_budget() {
    std::thread::scope(|scope| {
        scope.spawn(|| killed_in_each_attempt(&Shared::File(Scratch::new("guard"))));
        scope.spawn(|| killed_in_each_attempt(&Shared::Lease(KubernetesApi::start())));
    });
}

/// How long clients press in `tests/long fleet`.
fn long_press() -> Duration {
    let seconds =
        std::env::var("NTLM_GATEWAY_FLEET_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(75))
}

fn press_for_long(store: &Shared) {
    let (mut fleet, begun) = (store.fleet(DELAY, "wrong"), Instant::now());
    let mut restarts = 0;
    while begun.elapsed() < long_press() {
        std::thread::sleep(Duration::from_secs(7));
        fleet.members[restarts % GATEWAYS].kill();
        fleet.members[restarts % GATEWAYS].restart();
        restarts += 1;
        let (failed, after) = (fleet.failed_logons(), begun.elapsed());
        assert!(failed <= BUDGET || after > limits::GUARD_WINDOW, "{failed} failed logons after {after:?}");
        // The second one comes after a minute, the third one after five more.
        assert!(failed >= 2 || after < limits::GUARD_BACKOFF * 5 / 4, "{failed} failed logons after {after:?}");
        assert!(failed >= 3 || after < limits::GUARD_BACKOFF * 7, "{failed} failed logons after {after:?}");
    }
    let most = BUDGET * (begun.elapsed().as_secs() / limits::GUARD_WINDOW.as_secs() + 1);
    assert!(fleet.failed_logons() <= most, "{} failed logons", fleet.failed_logons());
}

#[test]
#[ignore = "takes minutes; tests/long fleet"]
fn a_wrong_password_costs_one_budget_for_as_long_as_clients_press() {
    std::thread::scope(|scope| {
        scope.spawn(|| press_for_long(&Shared::File(Scratch::new("guard"))));
        scope.spawn(|| press_for_long(&Shared::Lease(KubernetesApi::start())));
    });
}

/// How long it takes until all gateways of a fleet serve with it.
fn the_right_password_serves(store: &Shared) -> Duration {
    let mut fleet = store.fleet(DELAY, "wrong");
    fleet.wait_until_all_hold();
    fleet.assert_failed_logons(1, "the others learn of it");
    // It knows the password as rejected from its first moment on.
    fleet.members[0].kill();
    fleet.members[0].restart();
    let (status, line) = fleet.members[0].readyz();
    assert_eq!((status, line.contains("refuses the credentials")), (503, true), "{line}");
    // The log is written a moment later.
    let said =
        wait_for(PATIENCE, || (fleet.members[0].says("refuses the credentials of CORP\\alice") > 0).then_some(()));
    assert!(said.is_some(), "{:#?}", fleet.members[0].gateway().log());
    assert_eq!(fleet.logons_within_a_while(), 0);

    fleet.set_password(PASSWORD);
    let took = fleet.wait_until_all_serve();
    fleet.assert_failed_logons(1, "the right password");
    for member in &fleet.members {
        assert_eq!(member.readyz(), (200, "ok\n".into()));
        assert!(member.store_is_up());
    }
    took
}

#[test]
fn the_right_password_serves_at_all_four_gateways_within_two_seconds() {
    let stores = [|| Shared::File(Scratch::new("guard")), || Shared::Lease(KubernetesApi::start())];
    for store in stores {
        let took = the_right_password_serves(&store());
        // A busy machine may be too slow once.
        let again = (took > RECOVERY).then(|| the_right_password_serves(&store()));
        assert!(again.unwrap_or(took) <= RECOVERY, "{took:?}, {again:?}");
    }
}
