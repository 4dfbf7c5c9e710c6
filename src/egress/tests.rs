//! Which upstream a request goes to, and with which identity.

use std::sync::Arc;

use super::*;
use crate::auth::{Credentials, FirstLeg};
use crate::client_protocol::ShownLogin;
use crate::limits;
use crate::metrics::Metrics;
use crate::ntlm::{Account, Identity, Method, NtHash};
use crate::transport::Transport;
use crate::upstream::{Accounts, Guard, WarmSize};

fn identity(name: &str, clients: &[&str], has_login: bool, has_listener: bool) -> Arc<KnownIdentity> {
    Arc::new(KnownIdentity {
        name: name.into(),
        guard: Guard::of(Accounts::default().of("", name), 0, |_| {}),
        clients: clients.iter().map(|network| network.parse().unwrap()).collect(),
        has_listener,
        has_login,
    })
}

/// An egress of upstreams, each with a group and a weight, and of identities.
fn egress(order: UpstreamOrder, upstreams: &[(usize, u32)], identities: Vec<Arc<KnownIdentity>>) -> Egress {
    let metrics = Metrics::new().unwrap();
    let account = Account::parse(r"CORP\alice", None).unwrap();
    let mut members = Vec::new();
    let mut hops = Vec::new();
    for (index, (group, weight)) in upstreams.iter().enumerate() {
        let name = format!("u{index}");
        let upstream = Upstream::new(&name, vec!["localhost:1".parse().unwrap()], Transport::Tcp, |_| {});
        for known in &identities {
            let identity = Identity::new(account.clone(), "WS", NtHash::from_password("x"), Method::NtlmV2, false);
            hops.push(Arc::new(Hop {
                number: hops.len(),
                upstream: Arc::clone(&upstream),
                identity: Arc::clone(known),
                credentials: Arc::new(Credentials::new(identity, "localhost", FirstLeg::Negotiate)),
                previous: None,
                metrics: metrics.hop(&name, &known.name),
                upstream_metrics: metrics.upstream(&name),
                warm: WarmSize::Fixed(0),
                keep_cap: 0,
                check_target: None,
                habits: Habits::default(),
                reported: ReportedChoice::default(),
                unchallenged: Unchallenged::default(),
            }));
        }
        let metrics = metrics.upstream(&name);
        members.push(Member { upstream, metrics, group: *group, weight: *weight, identity: None });
    }
    let listeners = vec![ListenerUse::Common, ListenerUse::Own(0), ListenerUse::Withdrawn];
    let rules = Arc::new(Rules::default());
    let routes = rules.clone();
    Egress {
        members,
        identities,
        hops,
        order,
        routes,
        rules,
        listeners,
        own: OwnAddresses::new(vec!["127.0.0.1:3128".parse().unwrap()]),
    }
}

fn current(egress: Egress, logins: Logins) -> CurrentEgress {
    CurrentEgress::new(egress, logins, Arc::new(Guesses::new(Metrics::new().unwrap().logins())))
}

fn login(user: &str, password: &str) -> ShownLogin {
    ShownLogin::Login { user: user.to_owned().into(), password: password.to_owned().into() }
}

fn for_all() -> Vec<Arc<KnownIdentity>> {
    vec![identity("default", &[], false, false)]
}

fn eject(egress: &Egress, member: usize) {
    (0..limits::EJECT_AFTER).for_each(|_| egress.members[member].upstream.health.failed(0, "refused"));
}

#[test]
fn failover_takes_the_first_upstream_that_is_up_and_not_tried() {
    let egress = egress(UpstreamOrder::Failover, &[(0, 1), (1, 1), (0, 1), (0, 1)], for_all());
    let mut tried = Tried::default();
    assert_eq!(egress.choose(0, tried), Some(0));
    assert_eq!(egress.choose(1, tried), Some(1));
    tried.insert(0);
    assert_eq!(egress.choose(0, tried), Some(2));
    eject(&egress, 2);
    assert_eq!(egress.choose(0, tried), Some(3));
    tried.insert(3);
    assert_eq!(egress.choose(0, tried), None);
    assert_eq!(egress.why_down(0), "u2: refused");
}

#[test]
fn balance_gives_each_upstream_its_share_by_weight() {
    let egress = egress(UpstreamOrder::Balance, &[(0, 1), (0, 3)], for_all());
    let mut on = Vec::new();
    for _ in 0..40 {
        let member = egress.choose(0, Tried::default()).unwrap();
        on.push(HopLease::new(egress.hop(member, None).unwrap()));
    }
    let open: Vec<usize> = egress.members.iter().map(|member| member.upstream.open()).collect();
    assert_eq!(open, [10, 30]);
    on.clear();
    assert!(egress.members.iter().all(|member| member.upstream.open() == 0));
}

#[test]
fn the_login_takes_precedence_over_the_listener_and_that_over_the_address() {
    let identities = vec![
        identity("listener", &[], false, true),
        identity("network", &["10.1.0.0/16"], false, false),
        identity("login", &[], true, false),
        identity("everybody", &[], false, false),
    ];
    let mut logins = Logins::default();
    logins.add("ci", NtHash::from_password("s3cret:with colon"), 2);
    let egress = current(egress(UpstreamOrder::Failover, &[(0, 1)], identities), logins);
    let ask = |listener, client, shown| egress.identity_of(listener, client, &shown, 0);
    let inside = "10.1.2.3".parse().unwrap();
    let mapped = "::ffff:10.1.2.3".parse().unwrap();
    let outside = "10.2.2.3".parse().unwrap();
    let wrong = Err(ClientError::Login(LoginError::Wrong));
    assert_eq!(ask(0, inside, ShownLogin::Nothing), Ok(Some(1)));
    assert_eq!(ask(0, mapped, ShownLogin::Nothing), Ok(Some(1)));
    assert_eq!(ask(1, inside, ShownLogin::Nothing), Ok(Some(0)));
    assert_eq!(ask(1, inside, login("ci", "s3cret:with colon")), Ok(Some(2)));
    assert_eq!(ask(0, inside, login("ci", "wrong")), wrong);
    assert_eq!(ask(0, inside, login("nobody", "s3cret:with colon")), wrong);
    assert_eq!(ask(0, outside, ShownLogin::Nothing), Ok(None));
    assert_eq!(ask(2, inside, ShownLogin::Nothing), Err(ClientError::ListenerWithdrawn));
    assert_eq!(ask(2, inside, login("ci", "s3cret:with colon")), Err(ClientError::ListenerWithdrawn));
    assert_eq!(&*egress.hop(0, None).unwrap().identity.name, "everybody");
    assert_eq!(&*egress.hop(0, Some(1)).unwrap().identity.name, "network");
}

#[test]
fn a_client_without_identity_gets_no_hop_if_no_identity_is_for_all() {
    let egress = egress(UpstreamOrder::Failover, &[(0, 1)], vec![identity("network", &["10.1.0.0/16"], false, false)]);
    assert!(egress.hop(0, None).is_none());
    assert!(egress.hop(0, Some(0)).is_some());
}

#[test]
fn a_clients_login_is_ignored_if_no_logins_are_configured() {
    let egress = current(egress(UpstreamOrder::Failover, &[(0, 1)], for_all()), Logins::default());
    let client = "127.0.0.1".parse().unwrap();
    assert_eq!(egress.identity_of(0, client, &login("x", "y"), 0), Ok(None));
    assert_eq!(egress.identity_of(0, client, &ShownLogin::Unreadable, 0), Ok(None));
}
