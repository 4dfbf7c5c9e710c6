//! The exchanges with a real KDC, and our tokens as MIT's library judges them.

use crate::support;

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ntlm_gateway::auth::{TicketSlot, TicketState, TokenTimes};
use ntlm_gateway::kerberos::{
    ApInputs, ClientSecret, ClockSkew, Credential, Etype, EtypeSet, ExchangeOptions, InitialExchange, KeyVersion,
    Keytab, Principal, PrincipalName, RequestKind, ServiceExchange, Timestamp, accept,
};
use ntlm_gateway::tickets::{
    AgentOptions, AgentWatch, LogonOutcome, Realms, Service, TicketError, Watch, get_ticket, log_on, new_agent, now,
    read_krb5_conf,
};
use ntlm_gateway::tls::bindings::server_end_point;
use support::command::{Finished, run};
use support::kdc::{Kdc, KdcOptions};
use support::scratch::{free_port, wait_for};
use support::tools::{python_with, skip_for_want_of};
const REALM: &str = "EXAMPLE.TEST";
const PASSWORD: &str = "SecREt01";

/// Allows everything and notes it.
#[derive(Debug, Default)]
struct Noted {
    logons: Vec<LogonOutcome>,
    asked: Vec<(String, RequestKind, Result<(), String>)>,
}

impl Watch for Noted {
    fn may_log_on(&mut self, _: &str, _: KeyVersion) -> Result<(), TicketError> {
        Ok(())
    }

    fn logged_on(&mut self, outcome: LogonOutcome) {
        self.logons.push(outcome);
    }

    fn asked(&mut self, realm: &str, kind: RequestKind, outcome: Result<(), &str>, _: Instant) {
        self.asked.push((realm.to_owned(), kind, outcome.map_err(str::to_owned)));
    }
}

fn options(allow_rc4: bool) -> ExchangeOptions {
    let (lifetime, renewable) = (Duration::from_secs(36_000), Duration::from_secs(86_400));
    ExchangeOptions { etypes: EtypeSet::new(allow_rc4), lifetime, renewable }
}

fn realms(kdc: &Kdc) -> Realms {
    Realms { configured: None, conf: read_krb5_conf(&kdc.krb5_conf()).expect("krb5.conf") }
}

fn keytab(path: &Path) -> Arc<Keytab> {
    Arc::new(Keytab::parse(&std::fs::read(path).expect("the keytab")).expect("a keytab"))
}

fn log_on_as(kdc: &Kdc, name: &str, secret: ClientSecret, noted: &mut Noted) -> Result<Credential, TicketError> {
    let client = Principal::parse(name, Some(REALM)).expect("a name");
    log_on(&mut InitialExchange::new(client, secret, options(true), ClockSkew::default()), &realms(kdc), noted)
}

fn ticket_for(kdc: &Kdc, ticket_granting: Credential, noted: &mut Noted) -> Result<Credential, TicketError> {
    let service = PrincipalName::service("HTTP", "proxy.test").expect("a name");
    get_ticket(ServiceExchange::new(ticket_granting, service, None, options(true)), &realms(kdc), noted)
}

fn ap_inputs() -> ApInputs {
    ApInputs { time: now(), confounder: [1; 16], subkey: [2; 32], sequence_number: 0xffff_ffff, channel_bindings: None }
}

/// Has MIT's library accept tokens with the keys of a keytab.
fn accept_by_mit(python: &Path, kdc: &Kdc, keytab: &Path, tokens: &[&[u8]]) -> Vec<String> {
    accept_by_mit_with(python, kdc, keytab, tokens, None)
}

/// The same, with channel bindings to a certificate.
fn accept_by_mit_with(
    python: &Path,
    kdc: &Kdc,
    keytab: &Path,
    tokens: &[&[u8]],
    certificate: Option<&str>,
) -> Vec<String> {
    let lines: String = tokens.iter().map(|token| STANDARD.encode(token) + "\n").collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kerberos/accept.py");
    let mut file = std::io::pipe().expect("a pipe");
    file.1.write_all(lines.as_bytes()).expect("tokens fit into a pipe");
    drop(file.1);
    let finished: Finished = run(python, Duration::from_secs(30), |command| {
        command.arg(script).args(certificate).stdin(Stdio::from(file.0));
        command.env("KRB5_KTNAME", keytab).env("KRB5_CONFIG", kdc.krb5_conf()).env("KRB5RCACHETYPE", "none");
    });
    finished.expect_success("accept.py").text().lines().map(str::to_owned).collect()
}

#[test]
fn mits_library_accepts_our_channel_bindings_and_no_others() {
    require_tools!("krb5kdc", "kdb5_util", "kadmin.local");
    let Some(python) = python_with("gssapi") else {
        skip_for_want_of("python3-gssapi");
        return;
    };
    let kdc = Kdc::start(REALM, &KdcOptions::default());
    kdc.add_user("alice", PASSWORD, "");
    let service = kdc.add_with_keytab("HTTP/proxy.test", "", "http.keytab");
    let mut noted = Noted::default();
    let ticket_granting = log_on_as(&kdc, "alice", ClientSecret::password(PASSWORD), &mut noted).expect("a ticket");
    let credential = ticket_for(&kdc, ticket_granting, &mut noted).expect("a service ticket");
    let token_with = |channel_bindings| credential.token(&ApInputs { channel_bindings, ..ap_inputs() }).bytes;
    let certificate = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tls/recorded/ecdsa-sha384.der");
    let right = server_end_point(&std::fs::read(certificate).expect("the certificate"));
    assert!(right.is_some());
    let tokens = [token_with(right), token_with(Some([7; 16]))];
    let tokens = tokens.each_ref().map(Vec::as_slice);
    let judged = accept_by_mit_with(&python, &kdc, &service, &tokens, Some(certificate));
    assert!(judged[0].starts_with("alice@EXAMPLE.TEST"), "{judged:?}");
    assert!(judged[1].starts_with("error") && judged[1].contains("channel bindings"), "{judged:?}");
}

#[test]
fn a_password_becomes_a_token_that_mits_library_accepts_with_every_etype() {
    require_tools!("krb5kdc", "kdb5_util", "kadmin.local");
    let Some(python) = python_with("gssapi") else {
        skip_for_want_of("python3-gssapi");
        return;
    };
    for etype in Etype::ALL {
        let weak = if etype == Etype::Rc4 { " allow_weak_crypto = true\n allow_rc4 = true\n" } else { "" };
        let libdefaults = format!("{weak} permitted_enctypes = {etype}\n");
        let kdc =
            Kdc::start(REALM, &KdcOptions { etypes: format!("{etype}:normal"), libdefaults, ..KdcOptions::default() });
        kdc.add_user("alice", PASSWORD, "");
        let service = kdc.add_with_keytab("HTTP/proxy.test", "", "http.keytab");
        let mut noted = Noted::default();
        let ticket_granting = log_on_as(&kdc, "alice", ClientSecret::password(PASSWORD), &mut noted).expect("a ticket");
        assert_eq!(noted.logons, [LogonOutcome::Accepted], "{etype}");
        let credential = ticket_for(&kdc, ticket_granting, &mut noted).expect("a service ticket");
        assert_eq!(credential.session_etype(), etype);
        let token = credential.token(&ap_inputs());

        let accepted = accept_by_mit(&python, &kdc, &service, &[&token.bytes]);
        let words: Vec<&str> = accepted[0].split(' ').collect();
        assert_eq!((words[0], words[2]), ("alice@EXAMPLE.TEST", "True"), "{etype}: {accepted:?}");
        let reply = STANDARD.decode(words[1]).expect("base64");
        assert_eq!(token.expected.verify(&reply), Ok(()), "{etype}");

        // `decode` reads both, without their keys.
        for (token, texts) in
            [(&token.bytes, ["AP-REQ", "HTTP/proxy.test@EXAMPLE.TEST"]), (&reply, ["AP-REP", etype.name()])]
        {
            let decoded = run(support::gateway::GATEWAY, Duration::from_secs(10), |command| {
                command.args(["decode", &format!("Negotiate {}", STANDARD.encode(token))]);
            });
            let shown = decoded.expect_success("decode").text();
            assert!(texts.iter().all(|text| shown.contains(text)), "{shown}");
        }

        // Our own service agrees.
        let own = accept(&token.bytes, &keytab(&service), now(), &[3; 16]).expect("our own service accepts it");
        assert_eq!(own.client.to_string(), "alice@EXAMPLE.TEST");
        assert_eq!(token.expected.verify(&own.reply.expect("mutual")), Ok(()));
    }
}

/// The same keytab with another entry of a version that is higher by one, with a key that is wrong.
fn with_newer_key(path: &Path) -> Arc<Keytab> {
    let mut file = std::fs::read(path).expect("the keytab");
    let length = 4 + usize::try_from(i32::from_be_bytes(file[2..6].try_into().expect("a length"))).expect("no hole");
    let mut newer = file[2..2 + length].to_vec();
    // The entry ends with the key and the version of four bytes.
    newer[length - 1] += 1;
    newer[length - 5] ^= 1;
    file.extend(newer);
    Arc::new(Keytab::parse(&file).expect("a keytab"))
}

#[test]
fn a_keytab_that_is_ahead_of_the_kdc_logs_on_with_the_version_before() {
    require_tools!("krb5kdc", "kdb5_util", "kadmin.local");
    let kdc = Kdc::start(REALM, &KdcOptions::default());
    let path = kdc.add_with_keytab("svc-proxy", "", "client.keytab");
    let attempt = |keytab: Arc<Keytab>| {
        let mut noted = Noted::default();
        let outcome = log_on_as(&kdc, "svc-proxy", ClientSecret::Keytab(keytab), &mut noted);
        (outcome, noted.logons)
    };
    let (outcome, logons) = attempt(keytab(&path));
    outcome.expect("the only key");
    assert_eq!(logons, [LogonOutcome::Accepted]);
    let (outcome, logons) = attempt(with_newer_key(&path));
    outcome.expect("the older key");
    assert_eq!(logons, [LogonOutcome::Refused, LogonOutcome::Accepted]);
    // The KDC has newer keys than the keytab, and then others still.
    kdc.new_keys("svc-proxy", "client.keytab");
    let (outcome, logons) = attempt(keytab(&path));
    outcome.expect("the newest of two keys");
    assert_eq!(logons, [LogonOutcome::Accepted]);
    kdc.kadmin("cpw -randkey svc-proxy");
    let (outcome, logons) = attempt(with_newer_key(&path));
    assert!(matches!(outcome, Err(TicketError::Exchange(error)) if error.is_wrong_key()));
    assert_eq!(logons, [LogonOutcome::Refused; 2], "two versions of three are tried");
}

#[test]
fn errors_of_the_kdc_have_their_names() {
    require_tools!("krb5kdc", "kdb5_util", "kadmin.local");
    let kdc = Kdc::start(REALM, &KdcOptions::default());
    kdc.add_user("alice", PASSWORD, "");
    kdc.add_user("locked", PASSWORD, "-allow_tix");
    kdc.add_user("expired", PASSWORD, "-pwexpire 2001-01-01");
    let error = |name: &str, secret: &str| {
        let mut noted = Noted::default();
        let error =
            log_on_as(&kdc, name, ClientSecret::password(secret), &mut noted).expect_err("no ticket").to_string();
        (error, noted.logons)
    };
    for (name, secret, expected, logons) in [
        ("alice", "wrong", "KDC_ERR_PREAUTH_FAILED, 24", &[LogonOutcome::Refused][..]),
        ("nobody", PASSWORD, "KDC_ERR_C_PRINCIPAL_UNKNOWN, 6", &[]),
        ("locked", PASSWORD, "KDC_ERR_CLIENT_REVOKED, 18", &[]),
        ("expired", PASSWORD, "KDC_ERR_KEY_EXPIRED, 23", &[]),
    ] {
        let (error, seen) = error(name, secret);
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!(seen, logons, "{name}: {error}");
    }
    let mut noted = Noted::default();
    let ticket_granting = log_on_as(&kdc, "alice", ClientSecret::password(PASSWORD), &mut noted).expect("a ticket");
    let error = ticket_for(&kdc, ticket_granting, &mut noted).expect_err("no such service").to_string();
    assert!(error.contains("KDC_ERR_S_PRINCIPAL_UNKNOWN, 7"), "{error}");
}

#[test]
fn a_ticket_is_renewed_without_a_logon() {
    require_tools!("krb5kdc", "kdb5_util", "kadmin.local");
    let kdc = Kdc::start(REALM, &KdcOptions::default());
    kdc.add_user("alice", PASSWORD, "-maxlife 10min -maxrenewlife 1h");
    kdc.kadmin(&format!("modprinc -maxrenewlife 1h krbtgt/{REALM}"));
    let mut noted = Noted::default();
    let first = log_on_as(&kdc, "alice", ClientSecret::password(PASSWORD), &mut noted).expect("a ticket");
    assert!(first.renew_till.is_some_and(|till| till > first.end), "{first:?}");
    let renewed = get_ticket(ServiceExchange::renewal(first.clone(), options(true)), &realms(&kdc), &mut noted);
    let renewed = renewed.expect("a renewed ticket");
    assert_eq!((renewed.client, renewed.service), (first.client, first.service));
    assert_eq!(noted.logons.len(), 1);
    assert_eq!(noted.asked.last().map(|(_, kind, _)| *kind), Some(RequestKind::Renewal));
}

#[test]
fn a_wrong_clock_is_corrected_by_the_kdcs_time() {
    require_tools!("krb5kdc", "kdb5_util", "kadmin.local");
    let kdc = Kdc::start(REALM, &KdcOptions::default());
    kdc.add_user("alice", PASSWORD, "");
    kdc.add_with_keytab("HTTP/proxy.test", "", "http.keytab");
    // What was believed of the KDC's clock is an hour off.
    let hour = Duration::from_secs(3600);
    let wrong = ClockSkew::between(now().plus(hour), now());
    let client = Principal::parse("alice", Some(REALM)).expect("a name");
    let mut exchange = InitialExchange::new(client, ClientSecret::password(PASSWORD), options(false), wrong);
    let mut noted = Noted::default();
    let ticket_granting = log_on(&mut exchange, &realms(&kdc), &mut noted).expect("a ticket");
    // Not the hour, but what a busy machine may need for the answer.
    assert!(ticket_granting.skew.seconds().abs() <= 60, "{:?}", ticket_granting.skew);
    assert!(kdc.count(&["Clock skew too great"]) >= 1, "{}", kdc.log());
    ticket_for(&kdc, ticket_granting, &mut noted).expect("a service ticket");
}

#[test]
fn a_referral_leads_to_a_service_in_another_realm() {
    require_tools!("krb5kdc", "kdb5_util", "kadmin.local");
    let other = "OTHER.TEST";
    let addresses = [free_port(), free_port()].map(|port| std::net::SocketAddr::from(([127, 0, 0, 1], port)));
    let with = |realm: &str, address| KdcOptions {
        other_realms: vec![(realm.to_owned(), address)],
        // The KDC refers clients by the host's name.
        conf_extra: format!("[domain_realm]\n proxy.test = {other}\n"),
        ..KdcOptions::default()
    };
    let here = Kdc::start_at(REALM, addresses[0], &with(other, addresses[1]));
    let there = Kdc::start_at(other, addresses[1], &with(REALM, addresses[0]));
    here.add_user("alice", PASSWORD, "");
    for kdc in [&here, &there] {
        kdc.kadmin(&format!("addprinc -pw trust krbtgt/{other}@{REALM}"));
    }
    let service = there.add_with_keytab("HTTP/proxy.test", "", "http.keytab");
    let mut noted = Noted::default();
    let ticket_granting = log_on_as(&here, "alice", ClientSecret::password(PASSWORD), &mut noted).expect("a ticket");
    for realm in [None, Some(other.to_owned())] {
        let name = PrincipalName::service("HTTP", "proxy.test").expect("a name");
        let exchange = ServiceExchange::new(ticket_granting.clone(), name, realm, options(false));
        // Without the mapping, which the client does not use.
        let credential = get_ticket(exchange, &realms(&here), &mut noted).expect("a ticket of the other realm");
        assert_eq!(credential.service.to_string(), "HTTP/proxy.test@OTHER.TEST");
        let token = credential.token(&ap_inputs());
        let accepted = accept(&token.bytes, &keytab(&service), now(), &[3; 16]).expect("the service accepts it");
        assert_eq!(accepted.client.to_string(), "alice@EXAMPLE.TEST");
    }
}

#[test]
fn a_reply_too_long_for_a_datagram_comes_by_tcp_and_a_dead_kdc_is_passed_over() {
    require_tools!("krb5kdc", "kdb5_util", "kadmin.local");
    let options = KdcOptions { extra: " kdc_max_dgram_reply_size = 300\n".into(), ..KdcOptions::default() };
    let kdc = Kdc::start(REALM, &options);
    kdc.add_user("alice", PASSWORD, "");
    // One that answers nothing, and one where nobody listens.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = |text: String| ntlm_gateway::kerberos::KdcAddress::parse(&text).expect("an address");
    let kdcs = [
        format!("udp/{}", silent.local_addr().expect("its address")),
        format!("127.0.0.1:{}", free_port()),
        kdc.address().to_string(),
    ];
    let realms = Realms { configured: Some((REALM.into(), kdcs.map(address).to_vec())), conf: Default::default() };
    let client = Principal::parse("alice", realms.default_realm()).expect("a name");
    let mut noted = Noted::default();
    let began = Instant::now();
    let mut exchange =
        InitialExchange::new(client, ClientSecret::password(PASSWORD), self::options(false), ClockSkew::default());
    log_on(&mut exchange, &realms, &mut noted).expect("a ticket");
    assert_eq!(noted.logons, [LogonOutcome::Accepted]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// Notes nothing.
struct Quiet;

impl Watch for Quiet {
    fn may_log_on(&mut self, _: &str, _: KeyVersion) -> Result<(), TicketError> {
        Ok(())
    }

    fn logged_on(&mut self, _: LogonOutcome) {}

    fn asked(&mut self, _: &str, _: RequestKind, _: Result<(), &str>, _: Instant) {}
}

impl AgentWatch for Quiet {
    fn published(&mut self, _: &PrincipalName, _: &TicketState) {}

    fn logged_on_until(&mut self, _: Timestamp) {}
}

#[test]
fn a_ticket_that_was_refused_for_good_is_replaced_within_the_given_time() {
    require_tools!("krb5kdc", "kdb5_util", "kadmin.local");
    const BOUND: Duration = Duration::from_secs(20);
    let kdc = Kdc::start(REALM, &KdcOptions::default());
    kdc.add_user("alice", PASSWORD, "");
    kdc.add_with_keytab("HTTP/proxy.test", "", "http.keytab");
    let (agent, line) = new_agent();
    let to_agent = line.clone();
    let slot = Arc::new(TicketSlot::new(Arc::new(TokenTimes::new(0)), move || to_agent.look_again()));
    let service = Service {
        name: PrincipalName::service("HTTP", "proxy.test").expect("a name"),
        realm: None,
        canonicalize: false,
        slot: Arc::clone(&slot),
    };
    let options = AgentOptions {
        client: Principal::parse("alice", Some(REALM)).expect("a name"),
        secret: ClientSecret::password(PASSWORD),
        exchange: options(false),
        realms: realms(&kdc),
        services: vec![service],
        replaced_after_refusal: Duration::from_secs(2),
    };
    let agent = agent.start(&line, options, Box::new(Quiet)).expect("a thread");
    let number_is = |number: u64| wait_for(BOUND, || (slot.number() == number).then_some(()));
    assert_eq!(number_is(1), Some(()), "the first ticket");
    let refused = Instant::now();
    slot.give_way();
    slot.give_way();
    assert_eq!(number_is(2), Some(()), "another one");
    // The ticket lasts for hours.
    assert!(refused.elapsed() >= Duration::from_secs(1), "not at once: {:?}", refused.elapsed());
    assert_eq!(kdc.count(&["TGS_REQ", "ISSUE"]), 2);
    assert_eq!(kdc.count(&["AS_REQ", "ISSUE"]), 1);
    drop(agent);
}
