//! Samba's domain controller as the KDC, and Squids that verify Kerberos: tickets with the group memberships of a real
//! domain, its names, its errors, and its lock-out.
//!
//! Samba's KDC is Heimdal's. It shares nothing with MIT's, which the other tests use. Both tests have a domain of their
//! own, whose start takes most of their time, and go through several cases with it.

use crate::support;

use std::time::Duration;

use ntlm_gateway::kerberos::Keytab;
use ntlm_gateway::stub::{StubOptions, StubServer};
use support::PASSWORD;
use support::client::connect_name;
use support::command::run;
use support::domain::{Domain, is_inside};
use support::gateway::{Gateway, GatewayOptions};
use support::listener::Listener;
use support::origin::echo_origin;
use support::scratch::{Scratch, wait_for};
use support::squid::{LoggedCredentials, Squid, SquidKerberos, SquidOptions};
use support::tap::Tap;
use support::tools::{path_of, say, skip_without_mounts};

use crate::proxy::{assert_logs, tunnel};

/// The name of the proxy, and another one for the same address.
const PROXY: &str = "proxy.corp.example";
const ALIAS: &str = "alias.corp.example";

const BOUND: Duration = Duration::from_secs(30);

/// msDS-SupportedEncryptionTypes: AES-128 and AES-256.
const AES: &str = "24";

/// msDS-SupportedEncryptionTypes: RC4.
const RC4: &str = "4";

/// How many clients press on a gateway at once.
const CLIENTS: usize = 40;

/// The domain, an origin, and a proxy.
struct Site {
    domain: Domain,
    origin: Listener,
    squid: Squid,
}

impl Site {
    /// A domain, and a proxy whose account has AES keys. It accepts NTLM as well if `with_ntlm`.
    fn start(with_ntlm: bool) -> Site {
        let domain = Domain::start();
        domain.create("svc-proxy", "Pr0xy-Pass");
        domain.set_attribute("svc-proxy", "msDS-SupportedEncryptionTypes", AES);
        domain.add_service(&format!("HTTP/{PROXY}"), "svc-proxy");
        let squid = squid(&domain, PROXY, with_ntlm);
        Site { domain, origin: echo_origin(), squid }
    }

    /// Options of a gateway that derives the service from the name of the proxy, and finds the KDC in DNS.
    fn options(&self, user: &str, auth: &str) -> GatewayOptions {
        let args = ["--auth", auth, "--kerberos-realm", "CORP.EXAMPLE", "--log-level", "debug"];
        GatewayOptions {
            upstreams: vec![format!("{PROXY}:{}", self.squid.address().port())],
            user: user.into(),
            args: args.map(str::to_owned).to_vec(),
            ..GatewayOptions::through(self.squid.address())
        }
    }

    /// Opens a tunnel with these options, and returns as whom this proxy logs it.
    #[track_caller]
    fn user_at(&self, squid: &Squid, options: &GatewayOptions) -> String {
        let before = granted(squid).len();
        let gateway = Gateway::start(options);
        assert_eq!(tunnel(&gateway, &self.origin), 200, "{}: {}", options.user, gateway.log().join("\n"));
        let logged = wait_for(BOUND, || granted(squid).get(before).cloned());
        let (user, credentials) = logged.expect("a line of Squid's log");
        assert_eq!(credentials, LoggedCredentials::Kerberos);
        user
    }

    /// Presses on a gateway with many clients at once. Returns the statuses.
    fn press(&self, gateway: &Gateway) -> Vec<u16> {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| tunnel(gateway, &self.origin))).collect();
            clients.into_iter().map(|client| client.join().expect("a client")).collect()
        })
    }

    /// Starts a gateway that gets no ticket, presses on it, and expects this text in its log.
    #[track_caller]
    fn start_rejected(&self, options: &GatewayOptions, text: &str) -> Gateway {
        let gateway = Gateway::start(options);
        let statuses = self.press(&gateway);
        assert!(statuses.iter().all(|status| *status >= 500), "{statuses:?}");
        assert_logs(&gateway, text);
        gateway
    }
}

/// A proxy with the keys of the service on `host`.
fn squid(domain: &Domain, host: &str, with_ntlm: bool) -> Squid {
    let service = format!("HTTP/{host}");
    let kerberos = SquidKerberos {
        keytab: domain.export_keytab(&service, &format!("{host}.keytab")),
        principal: format!("{service}@CORP.EXAMPLE"),
        krb5_conf: domain.krb5_conf(),
        with_ntlm,
    };
    Squid::start(&SquidOptions { kerberos: Some(kerberos), asks_domain: true, ..SquidOptions::default() })
}

/// The tunnels in a proxy's log: as whom and how.
fn granted(squid: &Squid) -> Vec<(String, LoggedCredentials)> {
    let log = squid.log().into_iter().filter(|line| line.status == "TCP_TUNNEL/200");
    log.map(|line| (line.user, line.credentials)).collect()
}

fn denied(squid: &Squid) -> usize {
    squid.log().iter().filter(|line| line.status.contains("DENIED")).count()
}

/// How many requests of a kind the gateway has sent to KDCs.
fn asked(gateway: &Gateway, kind: &str) -> f64 {
    gateway.metric("ntlm_gateway_kdc_exchanges_total", &[("kind", kind)]).unwrap_or(0.0)
}

macro_rules! require_domain {
    ($test:literal) => {
        require_tools!(
            "unshare",
            "mount",
            "sh",
            "ip",
            "squid",
            "ntlm_auth",
            "samba",
            "samba-tool",
            "wbinfo",
            "pdbedit"
        );
        if skip_without_mounts() || !is_inside(concat!("active_directory::", $test)) {
            return;
        }
    };
}

#[test]
#[ignore = "needs a domain controller; tests/long kerberos"]
fn all_kinds_of_names_keys_and_tickets_of_a_real_domain_work() {
    require_domain!("all_kinds_of_names_keys_and_tickets_of_a_real_domain_work");
    let site = Site::start(false);
    site.domain.create("svc-egress", PASSWORD);
    use_names(&site);
    use_keytab(&site);
    use_rc4_only_where_allowed(&site);
    use_large_ticket(&site);
    use_stub(&site);
    assert_eq!((site.domain.bad_passwords("svc-egress"), denied(&site.squid)), (0, 0));
}

fn use_names(site: &Site) {
    // Neither name is the account's own.
    site.domain.set_attribute("svc-egress", "userPrincipalName", "egress.gateway@partner.example");
    site.domain.create("svc-other", PASSWORD);
    site.domain.set_attribute("svc-other", "userPrincipalName", "other.name@corp.example");
    for (user, expected) in [
        (r"CORP\svc-egress", "svc-egress@CORP.EXAMPLE"),
        (r"CORP.EXAMPLE\svc-egress", "svc-egress@CORP.EXAMPLE"),
        ("svc-egress@corp.example", "svc-egress@CORP.EXAMPLE"),
        // The salt has the name as the domain writes it.
        ("SVC-Egress@Corp.Example", "SVC-Egress@CORP.EXAMPLE"),
        ("egress.gateway@partner.example", "svc-egress@CORP.EXAMPLE"),
        ("other.name@corp.example", "other.name@CORP.EXAMPLE"),
    ] {
        assert_eq!(site.user_at(&site.squid, &site.options(user, "kerberos")), expected, "{user}");
    }
}

fn use_keytab(site: &Site) {
    let keytab = site.domain.export_keytab("svc-egress", "client.keytab");
    let mut options = site.options("svc-egress@corp.example", "kerberos");
    options.args.extend(["--keytab".into(), keytab.display().to_string()]);
    options.password = "not used".into();
    assert_eq!(site.user_at(&site.squid, &options), "svc-egress@CORP.EXAMPLE");
}

/// Proxies and accounts without AES keys.
fn use_rc4_only_where_allowed(site: &Site) {
    site.domain.create("svc-old", PASSWORD);
    site.domain.set_only_rc4_key("svc-old", PASSWORD);
    site.domain.create("svc-old-proxy", PASSWORD);
    site.domain.set_attribute("svc-old-proxy", "msDS-SupportedEncryptionTypes", RC4);
    site.domain.add_service(&format!("HTTP/{ALIAS}"), "svc-old-proxy");
    let proxy = squid(&site.domain, ALIAS, false);
    let at_old = format!("{ALIAS}:{}", proxy.address().port());
    let client_of_old =
        GatewayOptions { upstreams: vec![at_old], ..site.options("svc-egress@corp.example", "kerberos") };
    let old_client = site.options("svc-old@corp.example", "kerberos");
    let no_key = "the KDC has no key of an etype that is allowed (KDC_ERR_ETYPE_NOSUPP, 14)";
    for (mut options, squid, request) in [
        (client_of_old, &proxy, format!("the request for HTTP/{ALIAS}")),
        (old_client, &site.squid, "the logon of svc-old".to_owned()),
    ] {
        site.start_rejected(&options, &format!("{request}: {no_key}"));
        options.args.extend(["--allow-rc4", "true"].map(str::to_owned));
        site.user_at(squid, &options);
    }
}

fn use_large_ticket(site: &Site) {
    // More than the 1015 that Active Directory permits.
    const GROUPS: usize = 1400;
    site.domain.create("svc-large", PASSWORD);
    site.domain.add_to_groups("svc-large", GROUPS);
    let tap = Tap::start(site.squid.address());
    let options = GatewayOptions {
        upstreams: vec![format!("{PROXY}:{}", tap.address().port())],
        ..site.options("svc-large@corp.example", "kerberos")
    };
    let gateway = Gateway::start(&options);
    for _ in 0..3 {
        assert_eq!(tunnel(&gateway, &site.origin), 200, "{}", gateway.log().join("\n"));
    }
    let bytes = tap.bytes_sent();
    say(&format!("a request with a ticket for {GROUPS} groups has {bytes} bytes"));
    // In base64.
    assert!(bytes > 12 * 1024 * 4 / 3, "{bytes}");
}

/// The stub upstream verifies the same tickets as the Squid, and the gateway verifies its answers.
fn use_stub(site: &Site) {
    let path = site.domain.export_keytab(&format!("HTTP/{PROXY}"), "stub.keytab");
    let keytab = Keytab::parse(&std::fs::read(path).expect("the keytab")).expect("a keytab");
    let stub = StubServer::start(StubOptions::default().only_kerberos(keytab)).expect("a stub");
    let options = GatewayOptions {
        upstreams: vec![format!("{PROXY}:{}", stub.address().port())],
        ..site.options("svc-large@corp.example", "kerberos")
    };
    let gateway = Gateway::start(&options);
    for _ in 0..3 {
        let tunnel = connect_name(gateway.address(), "echo.test:7").expect("an answer");
        assert_eq!(tunnel.status(), 200, "{}", gateway.log().join("\n"));
    }
    let counts = stub.counters();
    assert_eq!((counts.tickets_accepted, counts.tickets_refused, counts.unprompted), (3, 0, 0), "{counts}");
}

#[test]
#[ignore = "needs a domain controller; tests/long kerberos"]
fn errors_of_a_real_domain_have_names_and_never_lock_the_account() {
    require_domain!("errors_of_a_real_domain_have_names_and_never_lock_the_account");
    let site = Site::start(true);
    site.domain.set_lockout_threshold(5);
    try_wrong_passwords(&site);
    use_unusable_accounts(&site);
    ask_for_unknown_service(&site);
    change_password(&site);
}

fn try_wrong_passwords(site: &Site) {
    let directory = Scratch::new("wrong");
    let previous = directory.write("previous", "wrong before");
    for (user, auth) in [("svc-one", "kerberos"), ("svc-two", "kerberos,ntlm")] {
        site.domain.create(user, PASSWORD);
        let mut options = GatewayOptions { password: "wrong".into(), ..site.options(&format!("CORP\\{user}"), auth) };
        options.args.extend(["--previous-password-file".into(), previous.display().to_string()]);
        let gateway = site.start_rejected(&options, "the password or key is wrong (KDC_ERR_PREAUTH_FAILED, 24)");
        site.press(&gateway);
        let first = site.domain.bad_passwords(user);
        // Another wrong one is tried at once.
        gateway.write_password("wrong, too");
        gateway.wait_for_line("configuration reloaded");
        let tried = wait_for(BOUND, || {
            site.press(&gateway);
            (site.domain.bad_passwords(user) > first).then_some(())
        });
        assert!(tried.is_some() || first == 3, "{user} with {auth}: {first}");
        site.press(&gateway);
        let count = site.domain.bad_passwords(user);
        say(&format!("{user} with {auth}: {first} and then {count} wrong passwords"));
        assert!(first >= 1 && count <= 3, "{user} with {auth}: {first}, {count}");
    }
}

fn use_unusable_accounts(site: &Site) {
    let domain = &site.domain;
    for user in ["svc-locked", "svc-disabled", "svc-expired"] {
        domain.create(user, PASSWORD);
    }
    // Somebody else locks it.
    for _ in 0..5 {
        run(path_of("wbinfo"), BOUND, |command| {
            command.args(["-a", "CORP\\svc-locked%wrong"]);
        });
    }
    let locked = domain.bad_passwords_and_lockout("svc-locked");
    assert!(locked.1 > 0, "{locked:?}");
    domain.disable("svc-disabled");
    // The user has to change it at the next logon.
    domain.set_attribute("svc-expired", "pwdLastSet", "0");
    for (user, error) in [
        ("svc-locked", "the account is locked or disabled (KDC_ERR_CLIENT_REVOKED, 18)"),
        ("svc-disabled", "the account is locked or disabled (KDC_ERR_CLIENT_REVOKED, 18)"),
        ("svc-expired", "the password has expired (KDC_ERR_KEY_EXPIRED, 23)"),
        ("svc-nobody", "the KDC does not know the client (KDC_ERR_C_PRINCIPAL_UNKNOWN, 6)"),
    ] {
        let options = site.options(&format!("{user}@corp.example"), "kerberos");
        let gateway = site.start_rejected(&options, error);
        site.press(&gateway);
        let logons = asked(&gateway, "as");
        // Each after one request that says who asks.
        assert!(logons <= 2.0, "{user}: {logons} requests to the KDC");
        assert_logs(&gateway, "end=ticket_unavailable");
    }
    assert_eq!(domain.bad_passwords_and_lockout("svc-locked"), locked);
}

fn ask_for_unknown_service(site: &Site) {
    site.domain.create("svc-egress", PASSWORD);
    let mut options = site.options("svc-egress@corp.example", "kerberos");
    options.args.extend(["--spn", "HTTP/unknown.corp.example"].map(str::to_owned));
    let error = "the KDC does not know the service (KDC_ERR_S_PRINCIPAL_UNKNOWN, 7)";
    let gateway = site.start_rejected(&options, error);
    site.press(&gateway);
    assert_eq!((asked(&gateway, "as"), asked(&gateway, "tgs")), (2.0, 1.0));
}

/// The domain and the gateway get a new password, in either order.
fn change_password(site: &Site) {
    const NEW: &str = "N3w-battery";
    let directory = Scratch::new("previous");
    for (user, is_domain_first) in [("svc-three", true), ("svc-four", false)] {
        site.domain.create(user, PASSWORD);
        let previous = directory.write("previous", "");
        let mut options = site.options(&format!("{user}@corp.example"), "kerberos");
        options.args.extend(["--previous-password-file".into(), previous.display().to_string()]);
        let gateway = Gateway::start(&options);
        assert_eq!(site.press(&gateway), [200; CLIENTS], "{user}");
        let change_here = || {
            directory.write("previous", PASSWORD);
            gateway.write_password(NEW);
            gateway.wait_for_line("configuration reloaded");
            assert_eq!(site.press(&gateway), [200; CLIENTS], "{user}");
        };
        let change_in_domain = || {
            site.domain.set_password(user, NEW);
            assert_eq!(site.press(&gateway), [200; CLIENTS], "{user}");
        };
        if is_domain_first {
            change_in_domain();
            change_here();
            assert_eq!(site.domain.bad_passwords(user), 0);
        } else {
            change_here();
            // One that starts now has no ticket. The domain has forgotten the new password, which both have tried
            // first, when it accepts the previous one.
            let late = Gateway::start(&GatewayOptions { password: NEW.into(), ..options });
            assert_eq!(site.press(&late), [200; CLIENTS], "{user}");
            assert_eq!(site.domain.bad_passwords(user), 0);
            change_in_domain();
        }
    }
}
