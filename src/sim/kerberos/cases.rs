//! Hand-written scenarios with Kerberos.

use super::plan::{Accepts, KdcPlan, KerberosPlan, Offers, ProxyPlan, Reply};
use super::realm::RealmCounts;
use crate::auth::FirstLeg;
use crate::kerberos::Etype;
use crate::sim::RunSummary;
use crate::sim::cases::{play, scenario_with_one_plain_client, scenario_with_tunnels};
use crate::sim::plain::Framing;
use crate::sim::scenario::Scenario;
use crate::stub::Personality;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;

/// A KDC that answers within a millisecond.
fn kdc(lifetime_us: u64) -> KdcPlan {
    KdcPlan { ahead_s: 7_200, lifetime_us, takes_us: (300, 1_000), down: Vec::new(), unknown: None }
}

fn tickets(ntlm: bool, proxy: ProxyPlan) -> Option<KerberosPlan> {
    Some(KerberosPlan { ntlm, etype: Etype::Aes256Sha1, kdc: kdc(3_600 * SECOND), proxies: vec![proxy] })
}

/// Clients that ask one upstream for a tunnel at these times, in µs.
fn tunnels(times_us: &[u64], kerberos: Option<KerberosPlan>) -> Scenario {
    Scenario { kerberos, ..scenario_with_tunnels(1, times_us) }
}

fn kerberos(scenario: &mut Scenario) -> &mut KerberosPlan {
    scenario.kerberos.as_mut().expect("a scenario with Kerberos")
}

fn all(summary: &RunSummary, end: &str) -> bool {
    summary.ends.iter().all(|other| *other == end)
}

#[test]
fn every_tunnel_costs_one_connection_across_the_ends_of_tickets() {
    let times: Vec<u64> = (0..40).map(|number| 50 * MS + number * 50 * MS).collect();
    let mut scenario = tunnels(&times, tickets(false, ProxyPlan { reply: Reply::Right, ..ProxyPlan::GOOD }));
    kerberos(&mut scenario).kdc.lifetime_us = 300 * MS;
    let summary = play(Scenario { strict: true, ..scenario }, 0);
    let RealmCounts { issued, accepted, refused, ntlm, .. } = summary.tickets;
    assert_eq!((summary.dialled, accepted, refused, ntlm), (40, 40, 0, 0));
    assert!((7..20).contains(&issued), "{issued}");
}

#[test]
fn without_a_kdc_requests_wait_for_the_first_answer_and_then_fail_until_it_is_back() {
    let times = [0, 1_500 * MS, 6 * SECOND];
    let mut scenario = tunnels(&times, tickets(false, ProxyPlan::GOOD));
    kerberos(&mut scenario).kdc.down = vec![(0, 2 * SECOND)];
    let summary = play(scenario.clone(), 0);
    assert_eq!(summary.ends, ["kdc_unreachable", "kdc_unreachable", "finished"]);
    assert_eq!(summary.tickets.ntlm, 0);
    kerberos(&mut scenario).ntlm = true;
    let summary = play(scenario, 0);
    assert!(all(&summary, "finished"), "{summary:?}");
    // Two messages for each of the first two.
    assert_eq!((summary.tickets.ntlm, summary.tickets.accepted), (4, 1));
}

#[test]
fn many_clients_whose_ticket_is_refused_get_one_new_ticket_together() {
    let times: Vec<u64> = (0..20).map(|number| 400 * MS + number * 10).collect();
    let changed = ProxyPlan { accepts: Accepts::IssuedSince(200 * MS), says_why: true, ..ProxyPlan::GOOD };
    for closes in [false, true] {
        let summary = play(tunnels(&times, tickets(false, ProxyPlan { closes, ..changed })), 0);
        assert!(all(&summary, "finished"), "{summary:?}");
        let RealmCounts { issued, accepted, replaced, ntlm, .. } = summary.tickets;
        assert_eq!((issued, accepted, replaced, ntlm), (2, 20, 1, 0));
    }
}

#[test]
fn an_upstream_that_refuses_every_ticket_gets_two_and_then_what_is_listed_next() {
    let refuses = ProxyPlan { accepts: Accepts::Nothing, closes: true, ..ProxyPlan::GOOD };
    for first_leg in [FirstLeg::Negotiate, FirstLeg::Plain] {
        let alone = tunnels(&[100 * MS, 200 * MS, 300 * MS], tickets(false, refuses));
        let summary = play(Scenario { first_leg, ..alone }, 0);
        assert!(all(&summary, "credentials_refused"), "{summary:?}");
        // The first request tries both of its tickets, the others one each.
        let RealmCounts { refused, replaced, ntlm, .. } = summary.tickets;
        assert_eq!((refused, replaced, ntlm), (4, 1, 0));
        let with_ntlm = tunnels(&[100 * MS, 200 * MS, 300 * MS], tickets(true, refuses));
        let summary = play(Scenario { first_leg, ..with_ntlm }, 0);
        assert!(all(&summary, "finished"), "{first_leg:?}: {summary:?}");
        assert_eq!((summary.tickets.refused, summary.tickets.ntlm), (2, 6), "{first_leg:?}");
    }
}

#[test]
fn an_upstream_that_does_not_offer_negotiate_gets_ntlm_only_where_it_is_listed() {
    let proxy = ProxyPlan { offers: Offers::Ntlm, ..ProxyPlan::GOOD };
    let summary = play(tunnels(&[100 * MS, 200 * MS], tickets(false, proxy)), 0);
    assert!(all(&summary, "scheme_not_offered") && summary.tickets.ntlm == 0, "{summary:?}");
    let summary = play(tunnels(&[100 * MS, 200 * MS], tickets(true, proxy)), 0);
    assert!(all(&summary, "finished") && summary.tickets.ntlm == 4, "{summary:?}");
    // It may have the key for another ticket, but has not said so.
    assert_eq!(summary.tickets.replaced, 0);
}

/// A scenario with one client that sends three requests, which the gateway may repeat.
fn requests(proxy: ProxyPlan) -> Scenario {
    let scenario = scenario_with_one_plain_client(&[Personality::Plain]);
    let mut scenario =
        Scenario { kerberos: tickets(false, proxy), keep: 2, first_leg: FirstLeg::Negotiate, ..scenario };
    scenario.http_clients[0].arrives_at_us = 100 * MS;
    scenario
}

#[test]
fn the_client_gets_nothing_of_an_answer_from_an_upstream_that_did_not_authenticate() {
    let mut scenario = requests(ProxyPlan { reply: Reply::Wrong, ..ProxyPlan::GOOD });
    scenario.strict = false;
    scenario.http_clients[0].requests.truncate(1);
    for (interim_answers, bytes) in [(0, 0), (0, 700), (2, 700)] {
        let answer = &mut scenario.http_clients[0].requests[0].answer;
        (answer.framing, answer.bytes) = (Framing::Length(bytes), usize::try_from(bytes).unwrap());
        answer.interim_answers = interim_answers;
        for seed in 0..10 {
            let summary = play(scenario.clone(), seed);
            assert_eq!(summary.ends, ["mutual_auth_failed", "answer: fault"]);
        }
    }
}

#[test]
fn an_upstream_that_asks_for_each_request_is_served_with_a_token_for_each() {
    let summary = play(requests(ProxyPlan { each_request: true, reply: Reply::Right, ..ProxyPlan::GOOD }), 0);
    assert_eq!(summary.ends[1..], ["answer: complete"; 3]);
    assert_eq!((summary.tickets.accepted, summary.tickets.refused), (3, 0));
    let summary = play(requests(ProxyPlan::GOOD), 0);
    assert_eq!((summary.tickets.accepted, summary.dialled), (1, 1), "the connection is authenticated");
}

#[test]
fn a_body_is_repeated_after_a_refusal_only_if_it_was_kept() {
    let changed = ProxyPlan { accepts: Accepts::IssuedSince(50 * MS), ..ProxyPlan::GOOD };
    for (framing, is_kept) in [(Framing::Length(2_000), true), (Framing::Chunked, false)] {
        let mut scenario = requests(changed);
        scenario.strict = false;
        scenario.http_clients[0].requests.truncate(1);
        let request = &mut scenario.http_clients[0].requests[0];
        (request.method, request.framing, request.bytes) = ("POST", framing, 2_000);
        for seed in 0..10 {
            let summary = play(scenario.clone(), seed);
            let expected = if is_kept { "answer: complete" } else { "answer: fault" };
            assert_eq!(summary.ends[1..], [expected], "{framing:?}: {summary:?}");
        }
    }
}

#[test]
fn a_wrong_password_costs_the_budget_once_for_the_kdc_and_the_upstream_together() {
    let times: Vec<u64> = (0..30).map(|number| number * 20 * SECOND).collect();
    let mut scenario = tunnels(&times, tickets(true, ProxyPlan::GOOD));
    scenario.right_password = false;
    let summary = play(scenario, 0);
    assert!(summary.tickets.wrong_logons > 0, "{summary:?}");
    let is_told_of = |end: &&str| ["credentials_refused", "credentials_held"].contains(end);
    assert!(summary.ends.iter().all(is_told_of), "{summary:?}");
}
