//! The whole line: the gateway, MIT's KDC, and a Squid that verifies Kerberos.

use crate::support;

use std::time::{Duration, Instant};

use support::PASSWORD;
use support::client::{connect, echo_through};
use support::command::curl;
use support::gateway::{Gateway, GatewayOptions};
use support::kdc::{Kdc, KdcOptions};
use support::listener::Listener;
use support::origin::{HttpOrigin, echo_origin};
use support::scratch::{Scratch, wait_for};
use support::squid::{LogLine, LoggedCredentials, Squid, SquidKerberos, SquidOptions};

pub const REALM: &str = "EXAMPLE.TEST";
pub const SERVICE: &str = "HTTP/proxy.test";
pub const BOUND: Duration = Duration::from_secs(30);

/// The KDC with the account `alice` and the proxy's service, and the Squid.
pub struct Line {
    /// The KDC.
    pub kdc: Kdc,
    /// The proxy.
    pub squid: Squid,
}

impl Line {
    /// Starts both. The Squid offers NTLM as well if `with_ntlm`.
    pub fn start(kdc_options: &KdcOptions, with_ntlm: bool) -> Line {
        let kdc = Kdc::start(REALM, kdc_options);
        kdc.add_user("alice", PASSWORD, "");
        let keytab = kdc.add_with_keytab(SERVICE, "", "http.keytab");
        let kerberos =
            SquidKerberos { keytab, principal: format!("{SERVICE}@{REALM}"), krb5_conf: kdc.krb5_conf(), with_ntlm };
        let squid = Squid::start(&SquidOptions { kerberos: Some(kerberos), ..SquidOptions::default() });
        Line { kdc, squid }
    }

    /// Options of a gateway as `alice`.
    pub fn options(&self, auth: &str) -> GatewayOptions {
        let args = [
            "--auth",
            auth,
            "--kerberos-realm",
            REALM,
            "--kdc",
            &self.kdc.address().to_string(),
            "--spn",
            SERVICE,
            "--log-level",
            "debug",
        ];
        GatewayOptions {
            user: "alice@example.test".into(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..GatewayOptions::through(self.squid.address())
        }
    }

    /// How many requests were not granted.
    fn denied(&self) -> usize {
        self.squid.log().iter().filter(|line| line.status.contains("DENIED")).count()
    }

    /// The lines of the tunnels in Squid's log, once there are so many.
    pub fn tunnels(&self, count: usize) -> Vec<LogLine> {
        let tunnels = || {
            let log = self.squid.log().into_iter().filter(|line| line.status == "TCP_TUNNEL/200");
            let tunnels: Vec<LogLine> = log.collect();
            (tunnels.len() >= count).then_some(tunnels)
        };
        wait_for(BOUND, tunnels).unwrap_or_else(|| panic!("not {count} tunnels in Squid's log"))
    }
}

/// Opens a tunnel and sends something through it. Returns the status.
pub fn tunnel(gateway: &Gateway, origin: &Listener) -> u16 {
    let tunnel = connect(gateway.address(), origin.address(), b"").expect("an answer");
    if tunnel.status() == 200 {
        assert_eq!(echo_through(&tunnel.stream, b"through").expect("an echo"), b"through");
    }
    tunnel.status()
}

/// Waits for a text in the gateway's log.
pub fn assert_logs(gateway: &Gateway, text: &str) {
    let logged = wait_for(BOUND, || gateway.log().iter().any(|line| line.contains(text)).then_some(()));
    assert!(logged.is_some(), "{text} is not in the log:\n{}", gateway.log().join("\n"));
}

#[test]
fn a_tunnel_opens_with_one_request_and_without_a_407() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let line = Line::start(&KdcOptions::default(), false);
    let gateway = Gateway::start(&line.options("kerberos"));
    let origin = echo_origin();
    for _ in 0..3 {
        assert_eq!(tunnel(&gateway, &origin), 200);
    }
    for logged in line.tunnels(3) {
        assert_eq!((logged.user.as_str(), logged.credentials), ("alice@EXAMPLE.TEST", LoggedCredentials::Kerberos));
    }
    assert_eq!(line.denied(), 0, "no 407");
    // One logon, one ticket.
    assert_eq!(line.kdc.count(&["AS_REQ", "ISSUE"]), 1);
    assert_eq!(line.kdc.count(&["TGS_REQ", "ISSUE"]), 1);
}

#[test]
fn two_hundred_tunnels_at_once_each_have_a_token_of_their_own() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    const TUNNELS: usize = 200;
    let line = Line::start(&KdcOptions::default(), false);
    let gateway = Gateway::start(&line.options("kerberos"));
    let origin = echo_origin();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..TUNNELS).map(|_| scope.spawn(|| tunnel(&gateway, &origin))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    // A service takes two tokens with the same time for a replay.
    assert_eq!(statuses, [200; TUNNELS]);
    assert_eq!(line.tunnels(TUNNELS).len(), TUNNELS);
    assert_eq!((line.denied(), line.kdc.count(&["TGS_REQ", "ISSUE"])), (0, 1));
}

#[test]
fn plain_requests_with_and_without_a_body_are_authenticated() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local", "curl", "python3");
    let line = Line::start(&KdcOptions::default(), false);
    let gateway = Gateway::start(&line.options("kerberos"));
    let origin = HttpOrigin::http();
    let proxy = gateway.url();
    let get = curl(BOUND, ["--fail", "--proxy", &proxy, &origin.url("/bytes/100000?seed=7")]).expect_success("GET");
    let direct = curl(BOUND, ["--fail", "--noproxy", "*", &origin.url("/bytes/100000?seed=7")]).expect_success("GET");
    assert_eq!(get.stdout, direct.stdout);
    let post = ["--fail", "--proxy", &proxy, "--data-binary", "a body", &origin.url("/sink")];
    assert!(curl(BOUND, post).expect_success("POST").text().contains("\"length\": 6,"));
    let log = wait_for(BOUND, || Some(line.squid.log()).filter(|log| log.iter().any(|line| line.method == "POST")));
    let granted: Vec<LogLine> = log.expect("the POST").into_iter().filter(|line| line.user != "-").collect();
    assert!(granted.iter().all(|line| line.user == "alice@EXAMPLE.TEST"), "{granted:?}");
    assert_eq!(line.squid.count(LoggedCredentials::Authenticate), 0);
}

/// Posts a body of this many bytes through the gateway, without asking for permission first. Returns the status.
fn post(gateway: &Gateway, scratch: &Scratch, url: &str, length: usize) -> String {
    let body = scratch.write("body", vec![b'x'; length]);
    let body = format!("@{}", body.display());
    let proxy = gateway.url();
    let fixed = ["--proxy", &proxy, "--header", "Expect:", "--output", "/dev/null", "--write-out", "%{http_code}"];
    curl(BOUND, fixed.into_iter().chain(["--data-binary", &body, url])).text()
}

const SHORT_BODY: usize = 16 * 1024;
const LONG_BODY: usize = 1024 * 1024;

#[test]
fn a_body_is_sent_again_with_the_new_ticket_where_it_is_still_held() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local", "curl", "python3");
    let mut line = Line::start(&KdcOptions::default(), false);
    let (scratch, origin) = (Scratch::new("bodies"), HttpOrigin::http());
    let next_key = |line: &mut Line, keytab: &str| {
        let keytab = line.kdc.new_keys(SERVICE, keytab);
        line.squid.set_keytab(&keytab);
        line.squid.restart();
    };
    let gateway = Gateway::start(&line.options("kerberos"));
    gateway.wait_for_line("has a ticket for");
    let tickets = |line: &Line| line.kdc.count(&["TGS_REQ", "ISSUE"]);
    // A ticket that was never accepted: the long body waits for the answer to the head.
    next_key(&mut line, "second.keytab");
    assert_eq!(post(&gateway, &scratch, &origin.url("/sink"), LONG_BODY), "200", "{:?}", gateway.log());
    assert_eq!(tickets(&line), 2);
    assert_eq!(post(&gateway, &scratch, &origin.url("/sink"), LONG_BODY), "200");
    drop(gateway);

    // One that has been accepted: a short body is kept, and a long one is gone.
    for (length, status, keytab) in [(SHORT_BODY, "200", "third.keytab"), (LONG_BODY, "502", "fourth.keytab")] {
        let gateway = Gateway::start(&line.options("kerberos"));
        assert_eq!(post(&gateway, &scratch, &origin.url("/sink"), length), "200");
        let before = tickets(&line);
        next_key(&mut line, keytab);
        assert_eq!(post(&gateway, &scratch, &origin.url("/sink"), length), status, "{:?}", gateway.log());
        if status != "200" {
            let fault = gateway.wait_for_line("end=reauthentication");
            assert!(fault.contains("refused the Kerberos token; the request cannot be repeated"), "{fault}");
        }
        assert_eq!(post(&gateway, &scratch, &origin.url("/sink"), length), "200", "with the new ticket");
        assert_eq!(tickets(&line), before + 1);
    }
}

#[test]
fn tunnels_open_across_the_end_of_a_ticket_and_while_no_kdc_answers() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let options = KdcOptions { libdefaults: " clockskew = 3\n".into(), ..KdcOptions::default() };
    let mut line = Line::start(&options, false);
    line.kdc.kadmin(&format!("modprinc -maxlife 12sec {SERVICE}"));
    let gateway = Gateway::start(&line.options("kerberos"));
    let origin = echo_origin();
    let began = Instant::now();
    let mut tunnels = 0;
    // Twice the life of a ticket. Each tunnel is on a connection of its own.
    while began.elapsed() < Duration::from_secs(24) {
        assert_eq!(tunnel(&gateway, &origin), 200, "after {:?}", began.elapsed());
        tunnels += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(tunnels > 20);
    assert!(line.kdc.count(&["TGS_REQ", "ISSUE"]) >= 2, "the ticket was replaced");
    // The ticket is kept while the KDC is down, and then the failure has a name.
    line.kdc.stop();
    assert_eq!(tunnel(&gateway, &origin), 200);
    let status = wait_for(BOUND, || Some(tunnel(&gateway, &origin)).filter(|status| *status != 200));
    assert_eq!(status, Some(503));
    assert_logs(&gateway, "end=kdc_unreachable");
    line.kdc.resume();
    let again = wait_for(Duration::from_secs(90), || Some(tunnel(&gateway, &origin)).filter(|status| *status == 200));
    assert_eq!(again, Some(200), "it recovers by itself");
    assert_eq!(line.kdc.count(&["PREAUTH_FAILED"]), 0);
}

#[test]
fn a_gateway_that_starts_before_its_kdc_serves_once_it_answers() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let mut line = Line::start(&KdcOptions::default(), false);
    line.kdc.stop();
    let gateway = Gateway::start(&line.options("kerberos"));
    let origin = echo_origin();
    assert_eq!(tunnel(&gateway, &origin), 503);
    line.kdc.resume();
    let status = wait_for(BOUND, || Some(tunnel(&gateway, &origin)).filter(|status| *status == 200));
    assert_eq!(status, Some(200));
}

#[test]
fn a_wrong_password_is_one_failed_logon_however_many_clients_press() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let line = Line::start(&KdcOptions::default(), true);
    // NTLM is listed too, with the same wrong password and the same budget.
    let options = GatewayOptions { password: "wrong".into(), ..line.options("kerberos,ntlm") };
    let gateway = Gateway::start(&options);
    let origin = echo_origin();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..60).map(|_| scope.spawn(|| tunnel(&gateway, &origin))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    assert!(statuses.iter().all(|status| *status >= 500), "{statuses:?}");
    let failed = line.kdc.count(&["PREAUTH_FAILED"]);
    let by_ntlm = line.squid.count(LoggedCredentials::Authenticate);
    assert!(failed == 1 && failed + by_ntlm <= 3, "{failed} at the KDC, {by_ntlm} at the proxy");
}

#[test]
fn ntlm_is_used_only_where_it_is_listed() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let line = Line::start(&KdcOptions::default(), false);
    let ntlm_only = Squid::start(&SquidOptions::default());
    let origin = echo_origin();
    let through_ntlm = |auth: &str| GatewayOptions {
        upstreams: vec![ntlm_only.address().to_string()],
        user: support::USER.into(),
        ..line.options(auth)
    };
    let strict = Gateway::start(&through_ntlm("kerberos"));
    assert_eq!(tunnel(&strict, &origin), 502);
    drop(strict);
    let refused = wait_for(BOUND, || (ntlm_only.count(LoggedCredentials::Kerberos) == 1).then_some(()));
    assert!(refused.is_some(), "{:?}", ntlm_only.log());
    assert_eq!(ntlm_only.count(LoggedCredentials::Negotiate), 0);
    let lenient = Gateway::start(&through_ntlm("kerberos,ntlm"));
    assert_eq!(tunnel(&lenient, &origin), 200);
    // The Squid logs a tunnel when it closes.
    let used = wait_for(BOUND, || (ntlm_only.count(LoggedCredentials::Authenticate) == 1).then_some(()));
    assert!(used.is_some(), "{:?}", ntlm_only.log());
}

#[test]
fn a_proxy_that_refuses_the_ticket_gets_ntlm_where_it_is_listed() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let mut line = Line::start(&KdcOptions::default(), true);
    line.squid.set_keytab(&line.kdc.add_with_keytab("HTTP/other.test", "", "other.keytab"));
    line.squid.restart();
    let origin = echo_origin();
    // The Squid knows `CORP\alice`, and the KDC the account behind it.
    let with = |auth: &str| GatewayOptions { user: support::USER.into(), ..line.options(auth) };
    let strict = Gateway::start(&with("kerberos"));
    assert_eq!(tunnel(&strict, &origin), 502);
    assert_logs(&strict, "end=credentials_refused");
    let lenient = Gateway::start(&with("kerberos,ntlm"));
    assert_eq!(tunnel(&lenient, &origin), 200, "{}", lenient.log().join("\n"));
    drop((strict, lenient));
    assert_eq!(line.tunnels(1)[0].user, support::USER);
    // Each has requested exactly one other ticket.
    assert_eq!(line.kdc.count(&["TGS_REQ", "ISSUE"]), 4);
}

#[test]
fn a_proxy_with_a_new_key_gets_a_new_ticket_once() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let mut line = Line::start(&KdcOptions::default(), false);
    let gateway = Gateway::start(&line.options("kerberos"));
    let origin = echo_origin();
    assert_eq!(tunnel(&gateway, &origin), 200);
    // The new keytab has only the new key.
    let keytab = line.kdc.new_keys(SERVICE, "new.keytab");
    line.squid.set_keytab(&keytab);
    line.squid.restart();
    assert_eq!(tunnel(&gateway, &origin), 200);
    assert_eq!(line.kdc.count(&["TGS_REQ", "ISSUE"]), 2);
    // A proxy whose key is wrong refuses every ticket.
    line.kdc.new_keys(SERVICE, "unused.keytab");
    line.squid.set_keytab(&line.kdc.add_with_keytab("HTTP/other.test", "", "other.keytab"));
    line.squid.restart();
    for _ in 0..10 {
        assert_eq!(tunnel(&gateway, &origin), 502);
    }
    assert!(line.kdc.count(&["TGS_REQ", "ISSUE"]) <= 3, "not a ticket for each request");
}

#[test]
fn a_keytab_that_is_replaced_while_clients_connect_loses_no_request() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let line = Line::start(&KdcOptions::default(), false);
    let first = line.kdc.add_with_keytab("svc-gateway", "", "first.keytab");
    let directory = Scratch::new("keytab");
    let place = directory.write("keytab", std::fs::read(&first).expect("the keytab"));
    let mut options = line.options("kerberos");
    options.args.extend(["--keytab".into(), place.display().to_string()]);
    options.args.extend(["--user".into(), "svc-gateway@example.test".into()]);
    options.args.extend(["--upstream".into(), line.squid.address().to_string()]);
    options.only_args = true;
    let gateway = Gateway::start(&options);
    let origin = echo_origin();
    assert_eq!(tunnel(&gateway, &origin), 200);
    let second = line.kdc.new_keys("svc-gateway", "second.keytab");
    let replacement = directory.write("keytab.new", std::fs::read(&second).expect("the keytab"));
    std::fs::rename(replacement, &place).expect("the new keytab");
    let logons = || line.kdc.count(&["AS_REQ", "ISSUE", "svc-gateway"]);
    let logged_on = wait_for(BOUND, || {
        assert_eq!(tunnel(&gateway, &origin), 200);
        (logons() == 2).then_some(())
    });
    assert!(logged_on.is_some(), "the new key is used: {}", gateway.log().join("\n"));
    assert_eq!(tunnel(&gateway, &origin), 200);
    assert_eq!((line.denied(), line.kdc.count(&["PREAUTH_FAILED"])), (0, 0));
}

/// Starts a gateway whose newest key the KDC does not know, and which tries it at most once in its store's memory.
fn start_with_older_key(line: &Line, options: &GatewayOptions, origin: &Listener) -> Gateway {
    let gateway = Gateway::start(options);
    assert_eq!(tunnel(&gateway, origin), 200, "{}", gateway.log().join("\n"));
    assert_eq!(gateway.metric("ntlm_gateway_guard_previous_secret_in_use", &[]), Some(1.0));
    assert_eq!(gateway.admin("/readyz").0, 200);
    assert_eq!(line.kdc.count(&["PREAUTH_FAILED"]), 1);
    gateway
}

#[test]
fn an_older_key_gets_tickets_while_the_kdc_does_not_know_the_newest() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    const NEW: &str = "N3w-battery";
    let line = Line::start(&KdcOptions::default(), false);
    let origin = echo_origin();
    let scratch = Scratch::new("older");
    let previous = scratch.write("previous", PASSWORD);
    let mut options = GatewayOptions { password: NEW.into(), ..line.options("kerberos") };
    let store = scratch.join("store");
    std::fs::create_dir(&store).expect("a directory");
    for (flag, path) in [("--previous-password-file", &previous), ("--guard-directory", &store)] {
        options.args.extend([flag.to_owned(), path.display().to_string()]);
    }
    options.args.extend(["--guard-store", "file"].map(str::to_owned));
    // The second one reads in the store that the new password was refused, and does not try it.
    let gateways: Vec<Gateway> = (0..2).map(|_| start_with_older_key(&line, &options, &origin)).collect();
    assert_logs(&gateways[0], "accepts the previous password of alice@example.test");
    // The KDC gets the new one. A gateway that starts then uses it once the store permits it.
    line.kdc.kadmin(&format!("cpw -pw {NEW} alice"));
    assert_eq!(tunnel(&gateways[0], &origin), 200);
    options.args.retain(|arg| !arg.starts_with("--guard") && *arg != "file" && *arg != store.display().to_string());
    let fresh = Gateway::start(&options);
    assert_eq!(tunnel(&fresh, &origin), 200);
    assert_eq!(fresh.metric("ntlm_gateway_guard_previous_secret_in_use", &[]), Some(0.0));
    assert_eq!(line.kdc.count(&["PREAUTH_FAILED"]), 1);
}
