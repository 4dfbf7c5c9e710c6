//! A real domain: Samba's domain controller, winbind's `ntlm_auth` behind Squid, and four gateways.
//!
//! Needs what `tests/support/domain.rs` lists.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::fleet::{GATEWAYS, Member, MemberOptions, PATIENCE, Store, file_store, lease_store};
use crate::support::PASSWORD;
use crate::support::domain::{Domain, is_inside};
use crate::support::kubernetes::KubernetesApi;
use crate::support::origin::echo_origin;
use crate::support::scratch::{Scratch, wait_for};
use crate::support::squid::{LogLine, LoggedCredentials, Squid, SquidOptions};
use crate::support::tools::{say, skip_without_mounts};

/// How long a new password may take to be used.
const NEW_PASSWORD_BOUND: Duration = Duration::from_secs(90);

const CLIENTS: usize = 50;

/// Clients where each of their requests is a logon that the domain controller has to check.
const FEW: usize = 15;

/// Four gateways for one account.
struct Gateways {
    members: Vec<Member>,
}

impl Gateways {
    fn start(options: impl Fn() -> MemberOptions) -> Self {
        Self { members: (0..GATEWAYS).map(|_| Member::start_with(options())).collect() }
    }

    fn set_password(&self, password: &str) {
        self.members.iter().for_each(|member| member.set_password(password));
    }

    #[track_caller]
    fn wait_until_all_hold(&self) {
        for member in &self.members {
            let holds = wait_for(PATIENCE, || member.readyz().1.contains("refuses the credentials").then_some(()));
            assert!(holds.is_some(), "{:?}", member.readyz());
        }
    }

    /// Kills two gateways, and replaces two.
    fn restart(&mut self) {
        for (number, member) in self.members.iter_mut().enumerate() {
            if number % 2 == 0 {
                member.kill()
            } else {
                member.terminate()
            }
            member.restart();
        }
    }

    /// Gives them a wrong password, and restarts all of them when they have tried it.
    fn try_wrong_password(&mut self, password: &str) {
        self.set_password(password);
        self.members.iter().for_each(|member| {
            member.gateway().wait_for_line("configuration reloaded");
        });
        self.wait_until_all_hold();
        self.restart();
        self.wait_until_all_hold();
    }

    #[track_caller]
    fn wait_for_line(&self, bound: Duration, part: &str) {
        for member in &self.members {
            let says = wait_for(bound, || (member.says(part) > 0).then_some(()));
            assert!(says.is_some(), "{part}: {:#?}", member.gateway().log());
        }
    }

    /// Requests that were not served so far.
    fn not_served(&self) -> usize {
        self.members.iter().map(|member| member.crowd().not_served()).sum()
    }

    #[track_caller]
    fn wait_until_all_serve(&self) -> Duration {
        let begun = Instant::now();
        let before: Vec<_> = self.members.iter().map(|member| member.crowd().served()).collect();
        for (member, before) in self.members.iter().zip(before) {
            let served = wait_for(PATIENCE, || (member.crowd().served() > before).then_some(()));
            assert!(served.is_some(), "{:?}", member.readyz());
        }
        begun.elapsed()
    }
}

/// Wrong passwords that the domain has seen.
fn rejected(squid: &Squid) -> usize {
    let is_rejected =
        |line: &&LogLine| line.credentials == LoggedCredentials::Authenticate && line.status == "TCP_DENIED/407";
    squid.log().iter().filter(is_rejected).count()
}

/// What four gateways do to an account of a domain that locks after `threshold` wrong passwords.
fn never_lock(domain: &Domain, squid: &Squid, user: &str, threshold: u32, attempts: u32, store: impl Fn() -> Store) {
    let before = rejected(squid);
    domain.set_lockout_threshold(threshold);
    domain.create(user, PASSWORD);
    let origin = echo_origin();
    let mut gateways = Gateways::start(|| {
        let (mut arguments, environment) = store();
        arguments.extend(["--guard-attempts".to_owned(), attempts.to_string()]);
        MemberOptions {
            user: format!("CORP\\{user}"),
            target: Some(origin.address().to_string()),
            ..MemberOptions::new(squid.address(), "wrong-0", CLIENTS, (arguments, environment))
        }
    });
    gateways.wait_until_all_hold();
    gateways.restart();
    gateways.wait_until_all_hold();
    for number in 1..attempts - 1 {
        gateways.try_wrong_password(&format!("wrong-{number}"));
    }
    assert_eq!(domain.bad_passwords(user), attempts - 1, "{user}: one attempt is left");

    gateways.set_password(PASSWORD);
    let took = gateways.wait_until_all_serve();
    say(&format!("four gateways use the right password of {user} after {took:.1?}"));
    // A controller on a busy machine takes a second for a logon.
    assert!(took < Duration::from_secs(10), "{user}: {took:?}");
    assert_eq!(domain.bad_passwords(user), 0, "{user}");

    // The domain has forgotten the wrong ones before, and the guard has not.
    gateways.restart();
    for number in 0..attempts {
        gateways.try_wrong_password(&format!("wrong-too-{number}"));
        // A gateway that had the right one a moment longer may have set the count back.
        assert!(domain.bad_passwords(user) <= 1, "{user}");
    }
    for number in 0..attempts {
        gateways.set_password(&format!("wrong-again-{number}"));
        gateways.restart();
    }
    gateways.wait_until_all_hold();
    assert!(domain.bad_passwords(user) <= 1, "{user}");
    assert_eq!(rejected(squid) - before, attempts as usize, "{user}: {:#?}", squid.log());
}

#[test]
#[ignore = "needs a domain controller; tests/long fleet"]
fn four_gateways_with_wrong_passwords_never_lock_an_account_of_a_real_domain() {
    require_tools!("unshare", "mount", "sh", "ip", "squid", "ntlm_auth", "samba", "samba-tool", "wbinfo");
    if skip_without_mounts()
        || !is_inside("domain::four_gateways_with_wrong_passwords_never_lock_an_account_of_a_real_domain")
    {
        return;
    }
    let domain = Domain::start();
    let squid = Squid::start(&SquidOptions { asks_domain: true, ..SquidOptions::default() });
    let directory = Scratch::new("guard");
    never_lock(&domain, &squid, "alice", 5, 3, || (file_store(directory.path()), Vec::new()));
    let api = KubernetesApi::start();
    never_lock(&domain, &squid, "bob", 3, 2, || lease_store(&api, api.address()));
    let log = squid.log();
    let accepted = log.iter().filter(|line| line.user.ends_with("alice") && line.status == "TCP_TUNNEL/200").count();
    assert!(accepted > 0 && squid.count(LoggedCredentials::Authenticate) > accepted, "{:#?}", log.last());
}

const OLD: &str = "0ld-horse";
const NEW: &str = "N3w-battery";

/// How long clients press on in each state.
const WHILE: Duration = Duration::from_secs(3);

/// Four gateways that use an account of the domain with its password, which is [`OLD`].
fn gateways_to_rotate(domain: &Domain, squid: &Squid, user: &str, origin: SocketAddr, api: &KubernetesApi) -> Gateways {
    domain.create(user, OLD);
    let gateways = Gateways::start(|| MemberOptions {
        user: format!("CORP\\{user}"),
        target: Some(origin.to_string()),
        has_previous: true,
        ..MemberOptions::new(squid.address(), OLD, FEW, lease_store(api, api.address()))
    });
    gateways.wait_until_all_serve();
    gateways
}

fn rotate_gateways_first(domain: &Domain, squid: &Squid, origin: SocketAddr) {
    let api = KubernetesApi::start();
    let gateways = gateways_to_rotate(domain, squid, "carol", origin, &api);
    let (not_served, before) = (gateways.not_served(), rejected(squid));
    gateways.members.iter().for_each(|member| member.rotate(NEW, OLD));
    gateways.wait_for_line(PATIENCE, "refuses the present password of CORP\\carol");
    std::thread::sleep(WHILE);
    assert_eq!(gateways.not_served(), not_served);
    domain.set_password("carol", NEW);
    // The new password was tried a moment too early, and is tried again a minute later.
    gateways.wait_for_line(NEW_PASSWORD_BOUND, "accepts the present password of CORP\\carol");
    gateways.wait_until_all_serve();
    std::thread::sleep(WHILE);
    assert_eq!(gateways.not_served(), not_served);
    assert_eq!(rejected(squid) - before, 1, "the new password, once: {:#?}", squid.log());
    assert!(domain.bad_passwords("carol") <= 1);
}

fn rotate_domain_first(domain: &Domain, squid: &Squid, origin: SocketAddr) {
    let api = KubernetesApi::start();
    let gateways = gateways_to_rotate(domain, squid, "dave", origin, &api);
    let (not_served, before) = (gateways.not_served(), rejected(squid));
    // It takes the old one for another hour.
    domain.set_password("dave", NEW);
    std::thread::sleep(WHILE);
    gateways.wait_until_all_serve();
    gateways.members.iter().for_each(|member| member.rotate(NEW, OLD));
    gateways.wait_for_line(PATIENCE, "accepts the present password of CORP\\dave");
    std::thread::sleep(WHILE);
    gateways.wait_until_all_serve();
    assert_eq!(gateways.not_served(), not_served);
    assert_eq!(rejected(squid), before, "{:#?}", squid.log());
    assert_eq!(domain.bad_passwords("dave"), 0);
}

#[test]
#[ignore = "needs a domain controller; tests/long fleet"]
fn a_rotation_in_either_order_fails_no_request_with_a_real_domain() {
    require_tools!("unshare", "mount", "sh", "ip", "squid", "ntlm_auth", "samba", "samba-tool", "wbinfo");
    if skip_without_mounts() || !is_inside("domain::a_rotation_in_either_order_fails_no_request_with_a_real_domain") {
        return;
    }
    let domain = Domain::start();
    domain.set_lockout_threshold(3);
    let squid = Squid::start(&SquidOptions { asks_domain: true, ..SquidOptions::default() });
    let origin = echo_origin();
    rotate_domain_first(&domain, &squid, origin.address());
    rotate_gateways_first(&domain, &squid, origin.address());
}
