//! Our own client and our own KDC. `tests/kerberos` has MIT's clients.

use std::time::Duration;

use super::*;
use crate::kerberos::exchange::{
    ClientSecret, ExchangeError, ExchangeInputs, ExchangeOptions, InitialExchange, KdcRequest, ServiceExchange, Step,
};
use crate::kerberos::{ApInputs, ClockSkew, Credential, EtypeSet, accept};

const SERVICE: &str = "HTTP/proxy.test";
const PASSWORD: &str = "SecREt01";

fn now() -> Timestamp {
    Timestamp::from_seconds(1_800_000_000)
}

fn policy(etypes: &[Etype]) -> KdcPolicy {
    KdcPolicy {
        realm: "EXAMPLE.COM".into(),
        etypes: etypes.into(),
        lifetime: Duration::from_secs(3600),
        renewable: Duration::from_secs(86_400),
        ticket_padding_bytes: 0,
    }
}

/// A KDC that knows `alice` and the service.
fn kdc_with(policy: KdcPolicy) -> Kdc {
    let mut next = 0;
    let mut random = |bytes: &mut [u8]| {
        next += 1;
        bytes.fill(next);
    };
    let mut kdc = Kdc::new(policy, &mut random).unwrap();
    kdc.set_password("alice", PASSWORD).unwrap();
    kdc.set_random_keys(SERVICE, &mut random).unwrap();
    kdc
}

fn kdc() -> Kdc {
    kdc_with(policy(&[Etype::Aes256Sha1, Etype::Aes128Sha1]))
}

fn kdc_inputs(now: Timestamp) -> KdcInputs {
    KdcInputs { now, session_key: [0x77; 32], confounders: [[1; 16], [2; 16]] }
}

fn client_inputs(now: Timestamp) -> ExchangeInputs {
    ExchangeInputs { now, nonce: 0x8765_4321, confounder: [3; 16] }
}

fn options() -> ExchangeOptions {
    let (lifetime, renewable) = (Duration::from_secs(86_400), Duration::from_secs(30 * 86_400));
    ExchangeOptions { etypes: EtypeSet::new(false), lifetime, renewable }
}

fn initial(client: &str, password: &str) -> InitialExchange {
    let client = Principal::parse(client, Some("EXAMPLE.COM")).unwrap();
    InitialExchange::new(client, ClientSecret::password(password), options(), ClockSkew::default())
}

fn service_exchange(ticket_granting: Credential, service: &str) -> ServiceExchange {
    let name = Principal::parse(service, Some("EXAMPLE.COM")).unwrap().name;
    ServiceExchange::new(ticket_granting, name, None, options())
}

/// Passes requests and replies on until the exchange ends.
fn carry(
    kdc: &mut Kdc,
    first: KdcRequest,
    mut receive: impl FnMut(&[u8]) -> Result<Step, ExchangeError>,
    now: Timestamp,
) -> Result<Credential, ErrorCode> {
    let mut request = first;
    for _ in 0..4 {
        let answer = kdc.answer(&request.bytes, &kdc_inputs(now)).unwrap();
        match receive(&answer.bytes) {
            Ok(Step::Done(credential)) => return Ok(credential),
            Ok(Step::Send(next)) => request = next,
            Err(error) => return Err(error.code().unwrap_or_else(|| panic!("{error}"))),
        }
    }
    panic!("the exchange does not end");
}

fn log_on(kdc: &mut Kdc, client: &str, password: &str) -> Result<Credential, ErrorCode> {
    let (mut exchange, inputs) = (initial(client, password), client_inputs(now()));
    let first = exchange.start(&inputs).unwrap();
    carry(kdc, first, |reply| exchange.receive(reply, &inputs), now())
}

fn get_ticket(kdc: &mut Kdc, mut exchange: ServiceExchange, now: Timestamp) -> Result<Credential, ErrorCode> {
    let inputs = client_inputs(now);
    let first = exchange.start(&inputs);
    carry(kdc, first, |reply| exchange.receive(reply, &inputs), now)
}

fn ap_inputs() -> ApInputs {
    ApInputs { time: now(), confounder: [5; 16], subkey: [6; 32], sequence_number: 7, channel_bindings: None }
}

#[test]
fn a_logon_leads_to_a_ticket_that_the_service_accepts_with_every_etype() {
    for etype in [Etype::Aes128Sha1, Etype::Aes256Sha1, Etype::Aes128Sha256, Etype::Aes256Sha384] {
        let mut kdc = kdc_with(KdcPolicy { ticket_padding_bytes: 12_000, ..policy(&[etype]) });
        let ticket_granting = log_on(&mut kdc, "alice", PASSWORD).unwrap();
        assert_eq!(ticket_granting.end, now().plus(Duration::from_secs(3600)), "the policy's longest life");
        let ticket = get_ticket(&mut kdc, service_exchange(ticket_granting, SERVICE), now()).unwrap();
        let summary = ticket.summary().unwrap();
        assert_eq!((summary.etype, summary.kvno), (etype.number(), Some(1)));
        assert!(summary.length > 12_000);
        let token = ticket.token(&ap_inputs());
        let accepted = accept(&token.bytes, &kdc.keytab(), now(), &[8; 16]).unwrap();
        assert_eq!(accepted.client.to_string(), "alice@EXAMPLE.COM");
        assert_eq!(token.expected.verify(&accepted.reply.unwrap()), Ok(()));
    }
}

#[test]
fn each_reason_to_deny_a_logon_has_its_code() {
    let mut kdc = kdc();
    let log_on = |kdc: &mut Kdc, client: &str, password: &str| log_on(kdc, client, password).map(|_| ());
    assert_eq!(log_on(&mut kdc, "alice", "wrong"), Err(ErrorCode::KDC_ERR_PREAUTH_FAILED));
    assert_eq!(log_on(&mut kdc, "nobody", PASSWORD), Err(ErrorCode::KDC_ERR_C_PRINCIPAL_UNKNOWN));
    assert_eq!(log_on(&mut kdc, "alice@OTHER.COM", PASSWORD), Err(ErrorCode::KDC_ERR_C_PRINCIPAL_UNKNOWN));
    kdc.set_revoked("alice", true).unwrap();
    assert_eq!(log_on(&mut kdc, "alice", PASSWORD), Err(ErrorCode::KDC_ERR_CLIENT_REVOKED));
    kdc.set_revoked("alice", false).unwrap();
    assert_eq!(log_on(&mut kdc, "alice@example.com@EXAMPLE.COM", PASSWORD), Ok(()), "an enterprise name");
    kdc.set_password("alice", "new").unwrap();
    assert_eq!(log_on(&mut kdc, "alice", PASSWORD), Err(ErrorCode::KDC_ERR_PREAUTH_FAILED));
    assert_eq!(log_on(&mut kdc, "alice", "new"), Ok(()));
    let mut rc4 = kdc_with(policy(&[Etype::Rc4]));
    assert_eq!(log_on(&mut rc4, "alice", PASSWORD), Err(ErrorCode::KDC_ERR_ETYPE_NOSUPP));
}

#[test]
fn a_time_stamp_that_is_too_old_is_rejected_with_the_kdcs_time() {
    let (mut kdc, later) = (kdc(), now().plus(Duration::from_secs(301)));
    let mut exchange = initial("alice", PASSWORD);
    let request = exchange.start(&client_inputs(now())).unwrap();
    let demand = kdc.answer(&request.bytes, &kdc_inputs(later)).unwrap();
    assert_eq!(demand.outcome, KdcOutcome::Denied(ErrorCode::KDC_ERR_PREAUTH_REQUIRED));
    let Ok(Step::Send(request)) = exchange.receive(&demand.bytes, &client_inputs(now())) else { panic!("no request") };
    let skewed = kdc.answer(&request.bytes, &kdc_inputs(later)).unwrap();
    assert_eq!(skewed.outcome, KdcOutcome::Denied(ErrorCode::KRB_AP_ERR_SKEW));
    // Our client corrects its clock by the error.
    let Ok(Step::Send(request)) = exchange.receive(&skewed.bytes, &client_inputs(now())) else { panic!("no request") };
    assert_eq!(kdc.answer(&request.bytes, &kdc_inputs(later)).unwrap().outcome, KdcOutcome::LoggedOn);
}

#[test]
fn each_reason_to_deny_a_ticket_has_its_code() {
    let mut kdc = kdc();
    let ticket_granting = log_on(&mut kdc, "alice", PASSWORD).unwrap();
    let mut get = |service: &str, now: Timestamp| {
        get_ticket(&mut kdc, service_exchange(ticket_granting.clone(), service), now).map(|_| ())
    };
    assert_eq!(get("HTTP/other.test", now()), Err(ErrorCode::KDC_ERR_S_PRINCIPAL_UNKNOWN));
    assert_eq!(get("alice", now()), Err(ErrorCode::KDC_ERR_S_PRINCIPAL_UNKNOWN), "it is no service");
    let late = now().plus(Duration::from_secs(3600 + 301));
    assert_eq!(get(SERVICE, late), Err(ErrorCode::KRB_AP_ERR_TKT_EXPIRED));
    let mut other = kdc_with(policy(&[Etype::Aes256Sha384, Etype::Aes256Sha1]));
    let foreign = log_on(&mut other, "alice", PASSWORD).unwrap();
    let denied = get_ticket(&mut kdc, service_exchange(foreign, SERVICE), now()).map(|_| ());
    assert_eq!(denied, Err(ErrorCode::KRB_AP_ERR_NOKEY), "a ticket of another KDC");
}

#[test]
fn a_ticket_is_renewed_as_long_as_it_may_be() {
    let mut kdc = kdc();
    let ticket_granting = log_on(&mut kdc, "alice", PASSWORD).unwrap();
    assert_eq!(ticket_granting.renew_till, Some(now().plus(Duration::from_secs(86_400))));
    let later = now().plus(Duration::from_secs(3000));
    let renewed = get_ticket(&mut kdc, ServiceExchange::renewal(ticket_granting.clone(), options()), later).unwrap();
    assert_eq!((renewed.end, renewed.renew_till), (later.plus(Duration::from_secs(3600)), ticket_granting.renew_till));
    let service = get_ticket(&mut kdc, service_exchange(ticket_granting, SERVICE), now()).unwrap();
    assert_eq!(service.renew_till, None);
    let mut short = kdc_with(KdcPolicy { renewable: Duration::ZERO, ..policy(&[Etype::Aes256Sha1]) });
    let final_one = log_on(&mut short, "alice", PASSWORD).unwrap();
    let denied = get_ticket(&mut short, ServiceExchange::renewal(final_one, options()), now()).map(|_| ());
    assert_eq!(denied, Err(ErrorCode::KDC_ERR_BADOPTION));
}

#[test]
fn new_keys_of_a_service_have_the_next_version() {
    let mut kdc = kdc();
    let before = kdc.keytab();
    kdc.set_random_keys(SERVICE, &mut |bytes| bytes.fill(99)).unwrap();
    let ticket_granting = log_on(&mut kdc, "alice", PASSWORD).unwrap();
    let ticket = get_ticket(&mut kdc, service_exchange(ticket_granting, SERVICE), now()).unwrap();
    let token = ticket.token(&ap_inputs()).bytes;
    assert!(accept(&token, &kdc.keytab(), now(), &[8; 16]).is_ok());
    assert_eq!(accept(&token, &before, now(), &[8; 16]).unwrap_err(), AcceptError::KeyVersion);
}

#[test]
fn requests_that_are_cut_or_changed_grant_nothing_else_and_never_panic() {
    let mut kdc = kdc();
    let ticket_granting = log_on(&mut kdc, "alice", PASSWORD).unwrap();
    let mut exchange = service_exchange(ticket_granting, SERVICE);
    let request = exchange.start(&client_inputs(now())).bytes;
    for at in 0..request.len() {
        let cut = kdc.answer(&request[..at], &kdc_inputs(now()));
        assert!(cut.is_none(), "{at}");
        let mut changed = request.clone();
        changed[at] ^= 0x20;
        if let Some(answer) = kdc.answer(&changed, &kdc_inputs(now()))
            && answer.outcome == KdcOutcome::Granted
        {
            // The numbers of versions say nothing.
            let step = exchange.receive(&answer.bytes, &client_inputs(now()));
            assert!(matches!(step, Ok(Step::Done(_))), "{at}: {step:?}");
        }
    }
    assert!(kdc.answer(b"", &kdc_inputs(now())).is_none());
}

#[test]
fn debug_shows_no_keys_and_no_passwords() {
    let shown = format!("{:?}", kdc());
    assert!(shown.contains("alice") && !shown.contains(PASSWORD) && !shown.contains("1, 1, 1"), "{shown}");
}
