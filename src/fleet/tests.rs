//! Who goes where, and as whom.

use std::sync::Arc;

use super::*;
use crate::handshake::{Credentials, FirstLeg};
use crate::limits;
use crate::metrics::Metrics;
use crate::ntlm::{Account, Identity, Method, NtHash};
use crate::upstream::{Guard, GuardPolicy};

fn identity(name: &str, clients: &[&str], login: Option<(&str, &str)>, has_listener: bool) -> Arc<KnownIdentity> {
    Arc::new(KnownIdentity {
        name: name.into(),
        guard: Guard::new(GuardPolicy::default(), |_, _| {}),
        clients: clients.iter().map(|network| network.parse().unwrap()).collect(),
        has_listener,
        login: login.map(|(user, password)| (user.to_owned(), NtHash::from_password(password))),
    })
}

/// Upstreams by group and weight, and the identities to go by.
fn fleet(order: Order, upstreams: &[(usize, u32)], identities: Vec<Arc<KnownIdentity>>) -> Fleet {
    let metrics = Metrics::new().unwrap();
    let account = Account::parse(r"CORP\alice", None).unwrap();
    let mut members = Vec::new();
    let mut hops = Vec::new();
    for (place, (group, weight)) in upstreams.iter().enumerate() {
        let name = format!("u{place}");
        let upstream = Upstream::new(&name, vec!["localhost:1".parse().unwrap()], |_| {});
        for known in &identities {
            let proved = Identity::new(account.clone(), "WS", NtHash::from_password("x"), Method::NtlmV2, false);
            hops.push(Arc::new(Hop {
                number: hops.len(),
                upstream: Arc::clone(&upstream),
                identity: Arc::clone(known),
                credentials: Arc::new(Credentials::new(proved, "localhost", FirstLeg::Negotiate)),
                metrics: metrics.hop(&name, &known.name),
                upstream_metrics: metrics.upstream(&name),
                warm_cap: 0,
                keep_cap: 0,
                habits: Habits::default(),
            }));
        }
        let metrics = metrics.upstream(&name);
        members.push(Member { upstream, metrics, group: *group, weight: *weight, identity: None });
    }
    let by_listener = vec![None, Some(0)];
    Fleet { members, identities, hops, order, rules: Rules::default(), by_listener, own_ports: vec![3128] }
}

fn for_all() -> Vec<Arc<KnownIdentity>> {
    vec![identity("default", &[], None, false)]
}

fn eject(fleet: &Fleet, member: usize) {
    (0..limits::EJECT_AFTER).for_each(|_| fleet.members[member].upstream.health.failed(0, "refused"));
}

#[test]
fn failover_takes_the_first_that_is_up_and_not_tried() {
    let fleet = fleet(Order::Failover, &[(0, 1), (1, 1), (0, 1), (0, 1)], for_all());
    let mut tried = Tried::default();
    assert_eq!(fleet.choose(0, tried), Some(0));
    assert_eq!(fleet.choose(1, tried), Some(1));
    tried.insert(0);
    assert_eq!(fleet.choose(0, tried), Some(2));
    eject(&fleet, 2);
    assert_eq!(fleet.choose(0, tried), Some(3));
    tried.insert(3);
    assert_eq!(fleet.choose(0, tried), None);
    assert_eq!(fleet.why_down(0), "u2: refused");
}

#[test]
fn balance_gives_each_its_share_by_weight() {
    let fleet = fleet(Order::Balance, &[(0, 1), (0, 3)], for_all());
    let mut on = Vec::new();
    for _ in 0..40 {
        let member = fleet.choose(0, Tried::default()).unwrap();
        on.push(OnHop::new(fleet.hop(member, None).unwrap()));
    }
    let open: Vec<usize> = fleet.members.iter().map(|member| member.upstream.open()).collect();
    assert_eq!(open, [10, 30]);
    on.clear();
    assert!(fleet.members.iter().all(|member| member.upstream.open() == 0));
}

#[test]
fn a_login_comes_before_the_listener_and_that_before_the_address() {
    let identities = vec![
        identity("listener", &[], None, true),
        identity("network", &["10.1.0.0/16"], None, false),
        identity("login", &[], Some(("ci", "s3cret:with colon")), false),
        identity("everybody", &[], None, false),
    ];
    let fleet = fleet(Order::Failover, &[(0, 1)], identities);
    let login = |user, password| Some(Login { user, password });
    let inside = "10.1.2.3".parse().unwrap();
    let mapped = "::ffff:10.1.2.3".parse().unwrap();
    let outside = "10.2.2.3".parse().unwrap();
    assert_eq!(fleet.identity_of(0, inside, None), Ok(Some(1)));
    assert_eq!(fleet.identity_of(0, mapped, None), Ok(Some(1)));
    assert_eq!(fleet.identity_of(1, inside, None), Ok(Some(0)));
    assert_eq!(fleet.identity_of(1, inside, login("ci", "s3cret:with colon")), Ok(Some(2)));
    assert_eq!(fleet.identity_of(0, inside, login("ci", "wrong")), Err(LoginError));
    assert_eq!(fleet.identity_of(0, inside, login("nobody", "s3cret:with colon")), Err(LoginError));
    assert_eq!(fleet.identity_of(0, outside, None), Ok(None));
    assert_eq!(&*fleet.hop(0, None).unwrap().identity.name, "everybody");
    assert_eq!(&*fleet.hop(0, Some(1)).unwrap().identity.name, "network");
}

#[test]
fn who_is_nobodys_gets_no_hop_when_every_identity_is_somebodys() {
    let fleet = fleet(Order::Failover, &[(0, 1)], vec![identity("network", &["10.1.0.0/16"], None, false)]);
    assert!(fleet.hop(0, None).is_none());
    assert!(fleet.hop(0, Some(0)).is_some());
}

#[test]
fn a_login_is_not_looked_at_where_none_is_configured() {
    let fleet = fleet(Order::Failover, &[(0, 1)], for_all());
    let login = Some(Login { user: "x", password: "y" });
    assert_eq!(fleet.identity_of(0, "127.0.0.1".parse().unwrap(), login), Ok(None));
}
