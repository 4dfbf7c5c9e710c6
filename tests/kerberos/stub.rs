//! The stub upstream and its KDC, as MIT's clients and our gateway see them.

use crate::support;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ntlm_gateway::kerberos::{Etype, Key, Keytab, KeytabEntry};
use ntlm_gateway::stub::{HELLO_PAGE, KdcCounts, KdcOptions, Personality, StubKdc, StubOptions, StubServer};
use support::PASSWORD;
use support::client::{connect_name, echo_through};
use support::command::{Finished, curl, run};
use support::gateway::{GATEWAY, Gateway, GatewayOptions};
use support::kdc::Kdc;
use support::scratch::{Scratch, wait_for};
use support::tools::{path_of, python_with, skip_for_want_of};

const REALM: &str = "EXAMPLE.TEST";
const SERVICE: &str = "HTTP/proxy.test";
const BOUND: Duration = Duration::from_secs(30);

fn own_kdc() -> KdcOptions {
    KdcOptions::new(REALM).account("alice", PASSWORD).service(SERVICE)
}

/// MIT's programs with a configuration and a credential cache of their own.
struct MitClient {
    scratch: Scratch,
}

impl MitClient {
    fn new(kdc: SocketAddr, libdefaults: &str) -> MitClient {
        let scratch = Scratch::new("mit");
        let conf = format!(
            "[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n \
             dns_canonicalize_hostname = false\n rdns = false\n{libdefaults}\n[realms]\n {REALM} = {{\n  kdc = {kdc}\n \
             }}\n[domain_realm]\n proxy.test = {REALM}\n"
        );
        scratch.write("krb5.conf", conf);
        MitClient { scratch }
    }

    fn conf(&self) -> PathBuf {
        self.scratch.join("krb5.conf")
    }

    fn environment(&self, command: &mut Command) {
        command.env("KRB5_CONFIG", self.conf());
        command.env("KRB5CCNAME", format!("FILE:{}", self.scratch.join("cache").display()));
    }

    fn kinit(&self, arguments: &[&str], password: &str) -> Finished {
        let mut input = std::io::pipe().expect("a pipe");
        input.1.write_all(password.as_bytes()).expect("a password fits into a pipe");
        drop(input.1);
        run(path_of("kinit"), BOUND, |command| {
            self.environment(command);
            command.args(arguments).stdin(Stdio::from(input.0));
        })
    }

    fn kvno(&self, service: &str) -> Finished {
        run(path_of("kvno"), BOUND, |command| {
            self.environment(command);
            command.arg(service);
        })
    }

    /// Opens a tunnel, and another with the same token. Returns what became of each.
    fn tunnels(&self, python: &Path, proxy: SocketAddr, mechanism: &str) -> Vec<String> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kerberos/initiate.py");
        let finished = run(python, BOUND, |command| {
            self.environment(command);
            command.args([script, &proxy.to_string(), &format!("{SERVICE}@{REALM}"), mechanism, "repeat"]);
        });
        finished.expect_success("initiate.py").text().lines().map(str::to_owned).collect()
    }
}

#[test]
fn mits_clients_get_tickets_from_our_kdc_that_the_stub_accepts() {
    require_tools!("kinit", "kvno");
    let Some(python) = python_with("gssapi") else {
        skip_for_want_of("python3-gssapi");
        return;
    };
    for etype in [Etype::Aes128Sha1, Etype::Aes256Sha1, Etype::Aes128Sha256, Etype::Aes256Sha384] {
        let mut options = own_kdc();
        options.policy.etypes = vec![etype];
        let kdc = StubKdc::start(options).expect("a KDC");
        let stub = StubServer::start(StubOptions::default().only_kerberos(kdc.keytab())).expect("a stub");
        let client = MitClient::new(kdc.address(), &format!(" permitted_enctypes = {etype}\n"));
        client.kinit(&["-r", "1d", "alice"], PASSWORD).expect_success("kinit");
        assert!(client.kvno(SERVICE).expect_success("kvno").text().contains("kvno = 1"), "{etype}");
        client.kinit(&["-R"], "").expect_success("kinit -R");
        for mechanism in ["krb5", "spnego"] {
            let [first, repeated] = &client.tunnels(&python, stub.address(), mechanism)[..] else { panic!("two") };
            assert_eq!(first, "200 complete", "{etype} {mechanism}");
            assert!(repeated.starts_with("407 error "), "{etype} {mechanism}: {repeated}");
        }
        let counts = stub.counters();
        assert_eq!((counts.tickets_accepted, counts.tickets_refused, counts.tickets_repeated), (2, 2, 2), "{counts}");
        let counts = kdc.counts();
        assert_eq!((counts.logged_on, counts.renewed, counts.failed_logons), (1, 1, 0), "{etype}: {counts:?}");
    }
}

#[test]
fn mits_clients_understand_our_kdcs_errors_and_ask_again_by_tcp() {
    require_tools!("kinit", "kvno");
    let mut options = own_kdc();
    // Neither the reply with a ticket nor the demand for pre-authentication fits.
    options.udp_reply_bytes = 100;
    options.policy.ticket_padding_bytes = 12_000;
    let kdc = StubKdc::start(options).expect("a KDC");
    let client = MitClient::new(kdc.address(), "");
    client.kinit(&["alice"], PASSWORD).expect_success("kinit by TCP");
    client.kvno(SERVICE).expect_success("kvno by TCP");
    let error = |arguments: &[&str], password: &str| {
        let finished = client.kinit(arguments, password);
        assert_eq!(finished.code, Some(1), "{arguments:?}");
        finished.stderr
    };
    let wrong = error(&["alice"], "wrong");
    assert!(wrong.contains("Password incorrect") || wrong.contains("Preauthentication failed"), "{wrong}");
    let unknown = error(&["nobody"], PASSWORD);
    assert!(unknown.contains("not found in Kerberos database"), "{unknown}");
    kdc.set_revoked("alice", true).expect("a name");
    let locked = error(&["alice"], PASSWORD);
    assert!(locked.contains("have been revoked"), "{locked}");
    let unknown = client.kvno("HTTP/other.test").stderr;
    assert!(unknown.contains("not found in Kerberos database"), "{unknown}");
    assert_eq!(kdc.counts().failed_logons, 1);
}

/// The same keytab with keys that are wrong.
fn with_wrong_keys(keytab: &Keytab) -> Keytab {
    let wrong = |entry: &KeytabEntry| {
        let etype = entry.key.etype();
        let key = Key::new(etype, &vec![1; etype.key_bytes()]).expect("a key");
        KeytabEntry { key, ..entry.clone() }
    };
    Keytab::new(keytab.entries().iter().map(wrong).collect())
}

#[test]
fn tokens_with_a_real_kdcs_tickets_are_verified_and_errors_are_understood() {
    require_tools!("kinit", "kvno", "krb5kdc", "kdb5_util", "kadmin.local");
    let Some(python) = python_with("gssapi") else {
        skip_for_want_of("python3-gssapi");
        return;
    };
    let read = |path: PathBuf| Keytab::parse(&std::fs::read(path).expect("the keytab")).expect("a keytab");
    let kdc = Kdc::start(REALM, &support::kdc::KdcOptions::default());
    kdc.add_user("alice", PASSWORD, "");
    let keytab = read(kdc.add_with_keytab(SERVICE, "", "http.keytab"));
    let other = read(kdc.add_with_keytab("HTTP/other.test", "", "other.keytab"));
    let stub = StubServer::start(StubOptions::default().only_kerberos(keytab.clone())).expect("a stub");
    let client = MitClient::new(kdc.address(), "");
    client.kinit(&["alice"], PASSWORD).expect_success("kinit");
    for mechanism in ["krb5", "spnego"] {
        assert_eq!(client.tunnels(&python, stub.address(), mechanism)[0], "200 complete", "{mechanism}");
    }
    let refused_with = |keytab: Keytab| {
        stub.set_keytab(keytab);
        client.tunnels(&python, stub.address(), "krb5").swap_remove(0)
    };
    let newer = read(kdc.new_keys(SERVICE, "newer.keytab"));
    for (keytab, status, text) in [
        (keytab.clone(), "200", "complete"),
        (with_wrong_keys(&keytab), "407", "Message stream modified"),
        (newer, "407", "Key version is not available"),
        (other, "407", "The ticket isn't for us"),
    ] {
        let outcome = refused_with(keytab);
        assert!(outcome.starts_with(status) && outcome.contains(text), "{text}: {outcome}");
    }
    let repeated = {
        stub.set_keytab(keytab);
        client.tunnels(&python, stub.address(), "krb5").swap_remove(1)
    };
    assert!(repeated.starts_with("407") && repeated.contains("Request is a replay"), "{repeated}");
}

#[test]
fn curl_authenticates_to_the_stub_by_negotiate() {
    require_tools!("kinit", "curl");
    if !curl(BOUND, ["-V"]).text().contains("SPNEGO") {
        skip_for_want_of("a curl with SPNEGO");
        return;
    }
    let kdc = StubKdc::start(own_kdc()).expect("a KDC");
    let stub = StubServer::start(StubOptions::default().kerberos_too(kdc.keytab())).expect("a stub");
    let client = MitClient::new(kdc.address(), "");
    client.kinit(&["alice"], PASSWORD).expect_success("kinit");
    let port = stub.address().port();
    for tunnel in [None, Some("--proxytunnel")] {
        let finished = run(path_of("curl"), BOUND, |command| {
            client.environment(command);
            command.args(["-q", "-sS", "--fail", "--proxy-negotiate", "--proxy-user", ":"]).args(tunnel);
            command.args(["--proxy", &format!("http://proxy.test:{port}")]);
            command.args(["--resolve", &format!("proxy.test:{port}:127.0.0.1"), "http://hello.test/"]);
        });
        assert_eq!(finished.expect_success("curl").text(), HELLO_PAGE);
    }
    let counts = stub.counters();
    assert_eq!((counts.tickets_accepted, counts.protocol_errors()), (2, 0), "{counts}");
}

/// A gateway in front of the stub, with our own KDC.
fn gateway(kdc: &StubKdc, stub: &StubServer, auth: &str) -> Gateway {
    let address = kdc.address().to_string();
    let args = ["--auth", auth, "--kerberos-realm", REALM, "--kdc", &address, "--spn", SERVICE];
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Gateway::start(&GatewayOptions {
        user: "alice@example.test".into(),
        args,
        ..GatewayOptions::through(stub.address())
    })
}

#[test]
fn probe_does_not_take_a_ticket_for_ntlm_in_negotiate() {
    let kdc = StubKdc::start(own_kdc()).expect("a KDC");
    let stub = StubServer::start(StubOptions::default().only_kerberos(kdc.keytab())).expect("a stub");
    let scratch = Scratch::new("probe");
    let password = scratch.write("password", PASSWORD);
    let finished = run(GATEWAY, BOUND, |command| {
        command.args(["probe", "--upstream", &stub.address().to_string(), "--user", "alice@example.test"]);
        command.args(["--kerberos-realm", REALM, "--kdc", &kdc.address().to_string(), "--spn", SERVICE]);
        command.args(["--auth", "kerberos", "--target", "echo.test:7", "--password-file"]).arg(password);
    });
    let shown = finished.expect_success("probe").text();
    assert!(shown.contains("negotiate-only") && !shown.contains("ntlm-in-negotiate"), "{shown}");
}

fn tunnel(gateway: &Gateway) -> u16 {
    let tunnel = connect_name(gateway.address(), "echo.test:7").expect("an answer");
    if tunnel.status() == 200 {
        assert_eq!(echo_through(&tunnel.stream, b"through").expect("an echo"), b"through");
    }
    tunnel.status()
}

#[test]
fn the_gateway_opens_tunnels_without_a_407_and_without_outside_software() {
    let mut options = own_kdc();
    // As large as with a thousand groups in Active Directory.
    options.policy.ticket_padding_bytes = 12_000;
    let kdc = StubKdc::start(options).expect("a KDC");
    let stub = StubServer::start(StubOptions::default().only_kerberos(kdc.keytab())).expect("a stub");
    let gateway = gateway(&kdc, &stub, "kerberos");
    for _ in 0..20 {
        assert_eq!(tunnel(&gateway), 200, "{}", gateway.log().join("\n"));
    }
    let counts = stub.counters();
    assert_eq!((counts.requests, counts.tickets_accepted), (20, 20), "one request for each tunnel: {counts}");
    assert_eq!(counts.protocol_errors(), 0, "{counts}");
    assert_eq!(kdc.counts(), KdcCounts { logged_on: 1, granted: 1, unauthenticated: 1, ..KdcCounts::default() });
}

#[test]
fn a_proxy_that_authenticates_each_request_gets_a_ticket_with_each() {
    require_tools!("curl");
    let kdc = StubKdc::start(own_kdc()).expect("a KDC");
    let options = StubOptions::default().only_kerberos(kdc.keytab()).personality(Personality::PerRequestAuth);
    let stub = StubServer::start(options).expect("a stub");
    let gateway = gateway(&kdc, &stub, "kerberos");
    let urls = ["http://hello.test/"; 5];
    let proxy = gateway.url();
    let pages = curl(BOUND, ["--fail", "--proxy", &proxy].into_iter().chain(urls)).expect_success("curl").text();
    assert_eq!(pages, HELLO_PAGE.repeat(5));
    let counts = stub.counters();
    assert_eq!((counts.tickets_accepted, counts.protocol_errors()), (5, 0), "{counts}");
}

#[test]
fn a_service_with_new_keys_refuses_the_old_ticket_once() {
    let kdc = StubKdc::start(own_kdc()).expect("a KDC");
    let stub = StubServer::start(StubOptions::default().only_kerberos(kdc.keytab())).expect("a stub");
    let gateway = gateway(&kdc, &stub, "kerberos");
    assert_eq!(tunnel(&gateway), 200);
    kdc.new_keys(SERVICE).expect("a name");
    stub.set_keytab(kdc.keytab());
    for _ in 0..3 {
        assert_eq!(tunnel(&gateway), 200, "{}", gateway.log().join("\n"));
    }
    let counts = stub.counters();
    assert_eq!((counts.tickets_accepted, counts.tickets_refused), (4, 1), "{counts}");
    assert_eq!((kdc.counts().logged_on, kdc.counts().granted), (1, 2));
}

#[test]
fn ntlm_is_used_where_the_stub_does_not_accept_the_ticket_and_it_is_listed() {
    let kdc = StubKdc::start(own_kdc()).expect("a KDC");
    let wrong = with_wrong_keys(&kdc.keytab());
    let options =
        StubOptions { names: ntlm_gateway::stub::ServerNames::new("EXAMPLE", "PROXY"), ..StubOptions::default() };
    let options = options.account("EXAMPLE", "alice", PASSWORD).kerberos_too(wrong);
    let stub = StubServer::start(options).expect("a stub");
    let strict = gateway(&kdc, &stub, "kerberos");
    assert_eq!(tunnel(&strict), 502);
    drop(strict);
    assert_eq!(stub.counters().authenticates, 0, "no NTLM that is not listed");
    let lenient = gateway(&kdc, &stub, "kerberos,ntlm");
    assert_eq!(tunnel(&lenient), 200, "{}", lenient.log().join("\n"));
    let counts = stub.counters();
    assert_eq!((counts.accepted, counts.tickets_accepted, counts.protocol_errors()), (1, 0, 0), "{counts}");
}

#[test]
fn a_wrong_password_is_tried_at_most_three_times_at_our_kdc() {
    let kdc = StubKdc::start(own_kdc()).expect("a KDC");
    let stub = StubServer::start(StubOptions::default().only_kerberos(kdc.keytab())).expect("a stub");
    kdc.set_password("alice", "another").expect("a name");
    let gateway = gateway(&kdc, &stub, "kerberos");
    let refused = wait_for(BOUND, || (kdc.counts().failed_logons > 0).then_some(()));
    assert!(refused.is_some(), "{:?}", kdc.counts());
    for _ in 0..20 {
        assert!(tunnel(&gateway) >= 500);
    }
    assert!(kdc.counts().failed_logons <= 3, "{:?}", kdc.counts());
    assert_eq!(stub.counters().tickets_accepted, 0);
}
