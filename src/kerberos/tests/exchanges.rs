//! Exchanges with the recorded replies of a real KDC (MIT 1.20), whose account is `alice` with a known password.

use std::sync::Arc;

use super::super::exchange::{ClientSecret, ExchangeError, ExchangeInputs, RequestKind, Step};
use super::super::exchange::{InitialExchange, ServiceExchange};
use super::super::*;
use super::{recorded_inputs, recorded_options};

/// KRB-ERROR: pre-authentication is required, and how the password becomes a key.
const PREAUTH_REQUIRED: &[u8] = include_bytes!("recorded/preauth_required.der");
/// AS-REP to a request with [`super::RECORDED_NONCE`].
const AS_REP: &[u8] = include_bytes!("recorded/as_rep.der");
/// TGS-REP to a request with [`super::RECORDED_NONCE`].
const TGS_REP: &[u8] = include_bytes!("recorded/tgs_rep.der");
/// The keys of the service.
const KEYTAB: &[u8] = include_bytes!("recorded/http.keytab");
/// When they were recorded.
const RECORDED: u64 = 1_795_858_407;

fn inputs() -> ExchangeInputs {
    recorded_inputs(RECORDED)
}

fn exchange(password: &str) -> InitialExchange {
    let client = Principal::parse("alice@EXAMPLE.TEST", None).unwrap();
    let secret = ClientSecret::password(password);
    InitialExchange::new(client, secret, recorded_options(), ClockSkew::default())
}

/// An exchange that has sent its time stamp.
fn logging_on(password: &str) -> InitialExchange {
    let mut exchange = exchange(password);
    assert_eq!(exchange.start(&inputs()).unwrap().kind, RequestKind::Initial);
    let step = exchange.receive(PREAUTH_REQUIRED, &inputs()).unwrap();
    assert!(matches!(step, Step::Send(KdcRequest { kind: RequestKind::Logon(KeyVersion::Password), .. })), "{step:?}");
    exchange
}

fn ticket_granting() -> Credential {
    match logging_on("SecREt01").receive(AS_REP, &inputs()) {
        Ok(Step::Done(credential)) => credential,
        step => panic!("{step:?}"),
    }
}

fn service_exchange() -> ServiceExchange {
    let service = PrincipalName::service("HTTP", "proxy.test").unwrap();
    let mut exchange = ServiceExchange::new(ticket_granting(), service, None, recorded_options());
    assert_eq!(exchange.start(&inputs()).realm, "EXAMPLE.TEST");
    exchange
}

/// A KRB-ERROR with a code and the time when the replies were recorded, plus seconds.
fn error(code: u8, later: u64) -> Vec<u8> {
    use super::super::der::{SEQUENCE, Writer, application, context};
    let mut out = Writer::with_capacity(256);
    out.element(application(30), |out| {
        out.element(SEQUENCE, |out| {
            out.integer(0, 5);
            out.integer(1, 30);
            out.time(4, Timestamp::from_seconds(RECORDED + later));
            out.integer(5, 0);
            out.integer(6, code);
            out.string(7, "ELSEWHERE.TEST");
            out.string(9, "EXAMPLE.TEST");
            out.element(context(10), |out| PrincipalName::ticket_granting("EXAMPLE.TEST").write(out));
            out.string(11, "as the\nKDC says it\0");
        });
    });
    out.into_bytes()
}

#[test]
fn the_replies_of_a_real_kdc_lead_to_a_ticket_that_its_service_accepts() {
    let step = service_exchange().receive(TGS_REP, &inputs()).unwrap();
    let Step::Done(credential) = step else { panic!("{step:?}") };
    assert_eq!(credential.service.to_string(), "HTTP/proxy.test@EXAMPLE.TEST");
    assert_eq!(credential.summary().unwrap().kvno, Some(2));
    let token = credential.token(&super::inputs(RECORDED));
    let keytab = Keytab::parse(KEYTAB).unwrap();
    let accepted = accept(&token.bytes, &keytab, Timestamp::from_seconds(RECORDED), &[1; 16]).unwrap();
    assert_eq!(accepted.client.to_string(), "alice@EXAMPLE.TEST");
}

#[test]
fn a_changed_or_cut_reply_yields_no_ticket_or_the_same() {
    let (expected, exchange) = (ticket_granting(), logging_on("SecREt01"));
    for at in 0..AS_REP.len() {
        assert!(exchange.clone().receive(&AS_REP[..at], &inputs()).is_err());
        let mut changed = AS_REP.to_vec();
        changed[at] ^= 0x10;
        // What says how the password becomes a key may lead to another key, which takes a while to make.
        if at < 64 {
            continue;
        }
        if let Ok(Step::Done(credential)) = exchange.clone().receive(&changed, &inputs()) {
            // The ticket itself is not authenticated: a changed one is of no use to anybody.
            assert_eq!(credential.session_key, expected.session_key, "{at}");
            assert_eq!((credential.service, credential.end), (expected.service.clone(), expected.end));
        }
    }
    let exchange = service_exchange();
    for at in 0..TGS_REP.len() {
        assert!(exchange.clone().receive(&TGS_REP[..at], &inputs()).is_err());
    }
}

#[test]
fn a_reply_to_another_request_or_for_another_password_is_rejected() {
    let mut exchange = logging_on("wrong");
    assert!(matches!(exchange.receive(AS_REP, &inputs()), Err(ExchangeError::Key { .. })));
    let mut exchange = self::exchange("SecREt01");
    let other = ExchangeInputs { nonce: 7, ..inputs() };
    exchange.start(&other).unwrap();
    exchange.receive(PREAUTH_REQUIRED, &other).unwrap();
    let error = exchange.receive(AS_REP, &other).unwrap_err();
    assert!(matches!(error, ExchangeError::Mismatch { what: "the nonce", .. }), "{error}");
    // The reply for the other kind of exchange.
    assert!(matches!(service_exchange().receive(AS_REP, &inputs()), Err(ExchangeError::Malformed { .. })));
}

#[test]
fn a_wrong_clock_is_corrected_once() {
    let mut exchange = logging_on("SecREt01");
    let step = exchange.receive(&error(37, 3600), &inputs()).unwrap();
    assert!(matches!(step, Step::Send(KdcRequest { kind: RequestKind::Logon(_), .. })));
    let again = exchange.receive(&error(37, 3600), &inputs()).unwrap_err();
    assert_eq!(again.code(), Some(ErrorCode::KRB_AP_ERR_SKEW));
    let mut exchange = service_exchange();
    assert!(matches!(exchange.receive(&error(37, 3600), &inputs()), Ok(Step::Send(_))));
    assert!(exchange.receive(&error(37, 3600), &inputs()).is_err());
}

#[test]
fn an_error_is_shown_with_its_name_and_the_kdcs_words_in_one_line() {
    let error = logging_on("SecREt01").receive(&error(18, 0), &inputs()).unwrap_err();
    assert!(error.is_revoked());
    let shown = error.to_string();
    assert!(shown.ends_with("the account is locked or disabled (KDC_ERR_CLIENT_REVOKED, 18): \"as theKDC says it\""));
    assert!(!shown.contains('\n'));
}

#[test]
fn a_second_demand_for_pre_authentication_ends_the_exchange() {
    let error = logging_on("SecREt01").receive(PREAUTH_REQUIRED, &inputs()).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::KDC_ERR_PREAUTH_REQUIRED));
}

#[test]
fn an_enterprise_name_is_followed_to_its_realm_and_not_in_a_circle() {
    let client = Principal::parse("alice@mail.test@EXAMPLE.TEST", None).unwrap();
    let secret = ClientSecret::password("x");
    let mut exchange = InitialExchange::new(client, secret, recorded_options(), ClockSkew::default());
    exchange.start(&inputs()).unwrap();
    match exchange.receive(&error(68, 0), &inputs()) {
        Ok(Step::Send(request)) => assert_eq!(request.realm, "ELSEWHERE.TEST"),
        step => panic!("{step:?}"),
    }
    let circle = exchange.receive(&error(68, 0), &inputs());
    assert!(matches!(circle, Err(ExchangeError::Referrals { .. })), "{circle:?}");
}

#[test]
fn iterations_and_etypes_out_of_bounds_send_no_key() {
    use super::super::message::pa_data::EtypeInfo;
    let info = |iterations| EtypeInfo { etype: 18, salt: None, iterations };
    for (iterations, allowed) in [
        (None, Some(4096)),
        (Some(4095), None),
        (Some(4096), Some(4096)),
        (Some(1_000_000), Some(1_000_000)),
        (Some(1_000_001), None),
        // 2^32.
        (Some(0), None),
    ] {
        assert_eq!(info(iterations).allowed_iterations(Etype::Aes256Sha1), allowed);
    }
}

#[test]
fn a_keytab_without_a_fitting_key_sends_nothing() {
    let client = Principal::parse("alice@EXAMPLE.TEST", None).unwrap();
    let secret = ClientSecret::Keytab(Arc::new(Keytab::parse(KEYTAB).unwrap()));
    let mut exchange = InitialExchange::new(client, secret, recorded_options(), ClockSkew::default());
    let error = exchange.start(&inputs()).unwrap_err();
    assert!(error.to_string().contains("no key for alice@EXAMPLE.TEST"), "{error}");
}
