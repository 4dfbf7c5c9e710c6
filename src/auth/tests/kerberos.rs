//! What the conversation does with Kerberos, with a recorded ticket of a real KDC and the service that it is for.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::mechanism::Kerberos;
use super::*;
use crate::kerberos::{
    ClientSecret, ClockSkew, Credential, EtypeSet, ExchangeInputs, ExchangeOptions, InitialExchange, Keytab, Principal,
    PrincipalName, ServiceExchange, Step, Timestamp, accept,
};

/// When the replies were recorded.
const RECORDED: u64 = 1_795_858_407;

const OFFERS: &str = "Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n";

/// The ticket for `HTTP/proxy.test@EXAMPLE.TEST`.
static TICKET: LazyLock<Credential> = LazyLock::new(|| {
    let inputs = ExchangeInputs { now: Timestamp::from_seconds(RECORDED), nonce: 0x1234_5678, confounder: [9; 16] };
    let hours = Duration::from_secs(36_000);
    let options = ExchangeOptions { etypes: EtypeSet::new(false), lifetime: hours, renewable: hours };
    let client = Principal::parse("alice@EXAMPLE.TEST", None).unwrap();
    let secret = ClientSecret::password("SecREt01");
    let mut initial = InitialExchange::new(client, secret, options, ClockSkew::default());
    initial.start(&inputs).unwrap();
    let recorded: [&[u8]; 3] = [
        include_bytes!("../../kerberos/tests/recorded/preauth_required.der"),
        include_bytes!("../../kerberos/tests/recorded/as_rep.der"),
        include_bytes!("../../kerberos/tests/recorded/tgs_rep.der"),
    ];
    initial.receive(recorded[0], &inputs).unwrap();
    let Ok(Step::Done(ticket_granting)) = initial.receive(recorded[1], &inputs) else { panic!("no ticket") };
    let service = PrincipalName::service("HTTP", "proxy.test").unwrap();
    let mut exchange = ServiceExchange::new(ticket_granting, service, None, options);
    exchange.start(&inputs);
    let Ok(Step::Done(ticket)) = exchange.receive(recorded[2], &inputs) else { panic!("no service ticket") };
    ticket
});

fn nonces(seconds: u64) -> Nonces {
    Nonces { now: FileTime::from_unix(RECORDED + seconds, 0), ..NONCES }
}

fn ready() -> TicketState {
    TicketState::Ready(Arc::new(TICKET.clone()))
}

/// A slot, and how often another ticket was asked for.
fn slot(state: TicketState) -> (Arc<TicketSlot>, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let slot = TicketSlot::new(Arc::new(TokenTimes::new(0)), move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    slot.publish(state, Timestamp::from_seconds(RECORDED));
    (Arc::new(slot), asked)
}

fn credentials(slot: &Arc<TicketSlot>, is_alone: bool) -> Arc<Credentials> {
    let ntlm = Credentials::new(identity("Domain\\User"), "proxy.test", FirstLeg::Negotiate);
    Arc::new(ntlm.with_kerberos(Arc::clone(slot), is_alone))
}

fn begun(credentials: &Arc<Credentials>) -> Handshake {
    let mut handshake = Handshake::new(request(), Arc::clone(credentials), HEAD_LIMIT_BYTES);
    handshake.begin(&mut Vec::new());
    handshake
}

/// What a handshake uses, and why.
fn choice(handshake: &Handshake) -> String {
    handshake.choice().expect("more than one mechanism is listed").to_string()
}

/// Sends the final token, and returns it.
fn sent(handshake: &mut Handshake, seconds: u64) -> Vec<u8> {
    let mut out = Vec::new();
    handshake.authenticate(&nonces(seconds), &mut out).unwrap();
    let sent = String::from_utf8(out).unwrap();
    match sent.split_once("Proxy-Authorization: Negotiate ") {
        Some((_, rest)) => decode_token(rest.split("\r\n").next().unwrap()).unwrap(),
        None => token(&sent),
    }
}

/// The token of the service that answers this token of a client.
fn reply_of_service(token: &[u8]) -> String {
    let keytab = Keytab::parse(include_bytes!("../../kerberos/tests/recorded/http.keytab")).unwrap();
    let token = initial_token(token).expect("SPNEGO");
    let accepted = accept(token, &keytab, Timestamp::from_seconds(RECORDED), &[4; 16]).unwrap();
    assert_eq!(accepted.client.to_string(), "alice@EXAMPLE.TEST");
    STANDARD.encode(spnego::response(&accepted.reply.unwrap()))
}

#[test]
fn the_first_request_carries_a_token_that_the_service_accepts() {
    let (slot, _) = slot(ready());
    let mut handshake = begun(&credentials(&slot, true));
    assert_eq!((handshake.due(), handshake.scheme().label()), (Some(Due::Token), "Kerberos"));
    let token = sent(&mut handshake, 0);
    reply_of_service(&token);
    assert!(matches!(handshake.receive(OK.as_bytes(), &mut Vec::new()), Ok((_, Progress::Established))));
}

#[test]
fn the_services_own_token_is_verified_where_it_sends_one() {
    for field in ["Proxy-Authenticate", "Proxy-Authentication-Info"] {
        for is_right in [true, false] {
            let (slot, _) = slot(ready());
            let credentials = credentials(&slot, true);
            let mut handshake = begun(&credentials);
            let token = sent(&mut handshake, 0);
            // The answer to another client's token authenticates nobody here.
            let answered = if is_right { token } else { sent(&mut begun(&credentials), 1) };
            let answer = format!("HTTP/1.1 200 OK\r\n{field}: Negotiate {}\r\n\r\n", reply_of_service(&answered));
            match handshake.receive(answer.as_bytes(), &mut Vec::new()) {
                Ok((_, Progress::Established)) => assert!(is_right, "{field}"),
                Err(fault) => assert!(!is_right && fault.cause == Cause::MutualAuthFailed, "{fault}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_handshake_waits_for_the_first_ticket_and_fails_by_name_without_one() {
    let (slot, _) = slot(TicketState::Pending);
    let credentials = credentials(&slot, true);
    assert!(!credentials.begins_with_logon());
    let mut handshake = begun(&credentials);
    assert_eq!(handshake.due(), Some(Due::Pending));
    let fault = Fault::new(At::Authenticate, Cause::KdcUnreachable, "no KDC answers");
    slot.publish(TicketState::Failed(fault), Timestamp::from_seconds(RECORDED));
    assert_eq!(handshake.due(), Some(Due::Token));
    let failed = handshake.authenticate(&nonces(0), &mut Vec::new()).unwrap_err();
    assert_eq!(failed.cause, Cause::KdcUnreachable);
    slot.publish(ready(), Timestamp::from_seconds(RECORDED));
    let late = begun(&credentials).authenticate(&nonces(11 * 3600), &mut Vec::new()).unwrap_err();
    assert_eq!(late.cause, Cause::TicketUnavailable, "an expired ticket is not sent");
}

#[test]
fn without_a_ticket_ntlm_begins_where_it_is_listed_and_kerberos_again_later() {
    let fault = Fault::new(At::Authenticate, Cause::KdcUnreachable, "no KDC answers");
    let (slot, _) = slot(TicketState::Failed(fault));
    let credentials = credentials(&slot, false);
    assert!(credentials.begins_with_logon(), "the guard is asked before NTLM");
    let mut handshake = begun(&credentials);
    let message = sent(&mut handshake, 0);
    assert!(message.starts_with(b"NTLMSSP\0"));
    assert_eq!(choice(&handshake), "NTLM instead of Kerberos: no KDC answers");
    let answer = challenged("Content-Length: 0\r\n", "");
    assert!(matches!(handshake.receive(answer.as_bytes(), &mut Vec::new()), Ok((_, Progress::Challenged))));
    slot.publish(ready(), Timestamp::from_seconds(RECORDED));
    assert_eq!(begun(&credentials).scheme().label(), "Kerberos");
}

#[test]
fn a_refused_ticket_is_replaced_once_and_then_the_next_mechanism_has_its_turn() {
    let refusal = format!("HTTP/1.1 407 R\r\n{OFFERS}Content-Length: 0\r\n\r\n");
    for is_alone in [true, false] {
        let (slot, asked) = slot(ready());
        let mut handshake = begun(&credentials(&slot, is_alone));
        sent(&mut handshake, 5);
        let mut out = Vec::new();
        assert!(matches!(handshake.receive(refusal.as_bytes(), &mut out), Ok((_, Progress::Redial))));
        handshake.begin(&mut out);
        assert_eq!((handshake.due(), asked.load(Ordering::Relaxed)), (Some(Due::Pending), 1));
        slot.publish(ready(), Timestamp::from_seconds(RECORDED + 6));
        assert_eq!(handshake.due(), Some(Due::Token));
        sent(&mut handshake, 7);
        match handshake.receive(refusal.as_bytes(), &mut out) {
            Err(fault) => {
                let detail = "the upstream refused the credentials: 407 R; it was sent a Kerberos token and offers: \
                              Negotiate, NTLM";
                assert_eq!((is_alone, fault.cause, &*fault.detail), (true, Cause::CredentialsRefused, detail));
                assert!(handshake.choice().is_none());
            }
            Ok((_, Progress::Redial)) => {
                assert!(!is_alone);
                let why = "the upstream refused the Kerberos token: 407 R; it offers: Negotiate, NTLM";
                assert_eq!(choice(&handshake), format!("NTLM instead of Kerberos: {why}"));
                handshake.begin(&mut out);
                assert_eq!(token(&String::from_utf8(out).unwrap())[8], 1, "a NEGOTIATE_MESSAGE");
            }
            other => panic!("{other:?}"),
        }
        // With NTLM in its turn, the thread is told that the ticket has been refused for good.
        assert_eq!((asked.load(Ordering::Relaxed), slot.take_give_way()), (1 + usize::from(!is_alone), !is_alone));
        assert!(!slot.wants_another(), "no second ticket within the interval");
    }
}

#[test]
fn after_a_refusal_ntlm_is_remembered_until_there_is_another_ticket() {
    let (slot, asked) = slot(ready());
    let credentials = credentials(&slot, false);
    let mut handshake = begun(&credentials);
    sent(&mut handshake, 0);
    // An upstream that offers no Negotiate would refuse another ticket, too.
    let only_ntlm = "HTTP/1.1 407 R\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n";
    let mut out = Vec::new();
    assert!(matches!(handshake.receive(only_ntlm.as_bytes(), &mut out), Ok((_, Progress::Redial))));
    handshake.begin(&mut out);
    let answer = challenged("Content-Length: 0\r\n", "");
    assert!(matches!(handshake.receive(answer.as_bytes(), &mut out), Ok((_, Progress::Challenged))));
    assert_eq!((asked.load(Ordering::Relaxed), slot.wants_another()), (1, false), "another one is not due at once");
    let why = "NTLM instead of Kerberos: the upstream does not offer Negotiate; it offers: NTLM";
    assert_eq!(choice(&handshake), why);
    let mut next = begun(&credentials);
    assert_eq!((next.scheme(), choice(&next)), (Scheme::Ntlm, why.to_owned()), "the reason is remembered too");
    // A fault says it as well.
    next.receive(answer.as_bytes(), &mut out).unwrap();
    next.authenticate(&nonces(1), &mut out).unwrap();
    let fault = next.receive(REFUSED.as_bytes(), &mut out).unwrap_err();
    assert!(fault.detail.starts_with("the upstream refused the credentials: 407 "), "{fault}");
    assert!(fault.detail.ends_with(&format!("; it used {why}")), "{fault}");
    slot.publish(slot.state(), Timestamp::from_seconds(RECORDED + 1));
    assert_eq!(begun(&credentials).scheme(), Scheme::Ntlm, "it is the same ticket");
    slot.publish(ready(), Timestamp::from_seconds(RECORDED + 2));
    assert_eq!(begun(&credentials).scheme(), Scheme::Kerberos);
}

#[test]
fn a_new_ticket_does_not_take_over_the_refusal_of_the_one_before_it() {
    let (slot, _) = slot(ready());
    slot.give_way();
    slot.publish(slot.state(), Timestamp::from_seconds(RECORDED + 1));
    slot.publish(ready(), Timestamp::from_seconds(RECORDED + 2));
    assert!(!slot.take_give_way());
    slot.give_way();
    slot.publish(slot.state(), Timestamp::from_seconds(RECORDED + 3));
    assert!(slot.take_give_way(), "it is the same ticket");
}

/// The upstream's key changes after the ticket was replaced, while the first token is on its way.
#[test]
fn a_ticket_that_came_in_the_meantime_may_be_refused_before_another_is_requested() {
    let refusal = format!("HTTP/1.1 407 R\r\n{OFFERS}Content-Length: 0\r\n\r\n");
    let (slot, asked) = slot(ready());
    let mut handshake = begun(&credentials(&slot, true));
    sent(&mut handshake, 1);
    slot.publish(ready(), Timestamp::from_seconds(RECORDED + 2));
    for (number, requested) in [(3, 0), (6, 1)] {
        let answer = handshake.receive(refusal.as_bytes(), &mut Vec::new());
        assert!(matches!(answer, Ok((_, Progress::Redial))), "{answer:?}");
        assert_eq!(asked.load(Ordering::Relaxed), requested);
        slot.publish(ready(), Timestamp::from_seconds(RECORDED + number));
        handshake.begin(&mut Vec::new());
        sent(&mut handshake, number + 1);
    }
    assert!(matches!(handshake.receive(OK.as_bytes(), &mut Vec::new()), Ok((_, Progress::Established))));
}

/// With `first_leg = "plain"`, to an upstream that closes the connection with each 407.
#[test]
fn refused_tickets_leave_enough_connections_for_ntlm() {
    let (slot, _) = slot(ready());
    let ntlm = Credentials::new(identity("Domain\\User"), "proxy.test", FirstLeg::Plain);
    let credentials = Arc::new(ntlm.with_kerberos(Arc::clone(&slot), false));
    let asks = format!("HTTP/1.1 407 R\r\n{OFFERS}Connection: close\r\nContent-Length: 0\r\n\r\n");
    let challenges = challenged("Content-Length: 0\r\n", "");
    for tokens in [2, 0] {
        let mut handshake = Handshake::new(request(), Arc::clone(&credentials), HEAD_LIMIT_BYTES);
        let answer = |handshake: &mut Handshake, answer: &str| {
            handshake.receive(answer.as_bytes(), &mut Vec::new()).map(|(_, progress)| progress).unwrap()
        };
        handshake.begin(&mut Vec::new());
        assert!(matches!(answer(&mut handshake, &asks), Progress::Redial));
        for number in 0..tokens {
            handshake.begin(&mut Vec::new());
            slot.publish(ready(), Timestamp::from_seconds(RECORDED + 10 * number));
            sent(&mut handshake, 10 * number + 1);
            assert!(matches!(answer(&mut handshake, &asks), Progress::Redial), "{number}");
        }
        handshake.begin(&mut Vec::new());
        assert_eq!(handshake.scheme(), Scheme::Ntlm);
        assert!(matches!(answer(&mut handshake, &challenges), Progress::Challenged));
    }
}

#[test]
fn what_the_service_says_about_a_refused_token_is_in_the_fault() {
    let (slot, _) = slot(ready());
    let slot_without_thread = TicketSlot::fixed(Arc::new(TokenTimes::new(0)));
    slot_without_thread.publish(slot.state(), Timestamp::from_seconds(RECORDED));
    let mut handshake = begun(&credentials(&Arc::new(slot_without_thread), true));
    sent(&mut handshake, 0);
    // A KRB-ERROR in the framing of GSS-API, which the KDC's error stands in for.
    let error: &[u8] = include_bytes!("../../kerberos/tests/recorded/preauth_required.der");
    let oid = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02, 3, 0];
    let length = u16::try_from(oid.len() + error.len()).unwrap().to_be_bytes();
    let framed = [&[0x60, 0x82][..], &length, &oid, error].concat();
    let text = STANDARD.encode(spnego::response(&framed));
    let refusal = format!("HTTP/1.1 407 R\r\nProxy-Authenticate: Negotiate {text}\r\nContent-Length: 0\r\n\r\n");
    let fault = handshake.receive(refusal.as_bytes(), &mut Vec::new()).unwrap_err();
    assert!(fault.detail.contains("KDC_ERR_PREAUTH_REQUIRED"), "{fault}");
}

#[test]
fn withdrawn_credentials_hold_no_ticket() {
    let (slot, _) = slot(ready());
    let credentials = credentials(&slot, true);
    let mut handshake = begun(&credentials);
    assert_eq!(Arc::strong_count(&slot), 2);
    credentials.withdraw();
    assert_eq!(Arc::strong_count(&slot), 1);
    let fault = handshake.authenticate(&nonces(0), &mut Vec::new()).unwrap_err();
    assert_eq!(fault.cause, Cause::CredentialsWithdrawn);
}

#[test]
fn every_token_has_a_time_of_its_own() {
    let (slot, _) = slot(ready());
    let mechanism = Kerberos::new(Arc::clone(&slot));
    assert!(!mechanism::Mechanism::counts_as_logon(&mechanism));
    let credentials = credentials(&slot, true);
    let tokens: Vec<Vec<u8>> = (0..3).map(|_| sent(&mut begun(&credentials), 0)).collect();
    let keytab = Keytab::parse(include_bytes!("../../kerberos/tests/recorded/http.keytab")).unwrap();
    let times: Vec<Timestamp> = tokens
        .iter()
        .map(|token| {
            let token = initial_token(token).unwrap();
            accept(token, &keytab, Timestamp::from_seconds(RECORDED), &[4; 16]).unwrap().time
        })
        .collect();
    assert!(times.is_sorted_by(|one, next| one < next), "{times:?}");
}

#[test]
fn a_refused_ticket_is_not_sent_again_after_a_plain_first_leg() {
    let (slot, _) = slot(ready());
    let ntlm = Credentials::new(identity("Domain\\User"), "proxy.test", FirstLeg::Plain);
    let credentials = Arc::new(ntlm.with_kerberos(Arc::clone(&slot), false));
    let offers = format!("HTTP/1.1 407 R\r\n{OFFERS}Content-Length: 0\r\n\r\n");
    let asked = |credentials: &Arc<Credentials>| {
        let mut handshake = begun(credentials);
        let (_, progress) = handshake.receive(offers.as_bytes(), &mut Vec::new()).unwrap();
        (handshake, progress)
    };
    let (mut handshake, progress) = asked(&credentials);
    assert!(matches!(progress, Progress::Challenged), "the ticket is due: {progress:?}");
    sent(&mut handshake, 0);
    let none = "HTTP/1.1 407 R\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n";
    assert!(matches!(handshake.receive(none.as_bytes(), &mut Vec::new()), Ok((_, Progress::Redial))));
    handshake.begin(&mut Vec::new());
    let answer = challenged("Content-Length: 0\r\n", "");
    handshake.receive(answer.as_bytes(), &mut Vec::new()).unwrap();

    let (handshake, progress) = asked(&credentials);
    assert!(matches!(progress, Progress::Send), "NTLM begins: {progress:?}");
    assert_eq!(handshake.scheme(), Scheme::Ntlm);
    slot.publish(ready(), Timestamp::from_seconds(RECORDED + 1));
    assert!(matches!(asked(&credentials).1, Progress::Challenged), "with another ticket Kerberos is used again");
}

#[test]
fn a_token_is_doubtful_until_one_was_accepted_and_again_after_a_refusal() {
    let (slot, _) = slot(ready());
    let credentials = credentials(&slot, true);
    let is_doubtful = |handshake: &mut Handshake| {
        sent(handshake, 0);
        handshake.is_token_doubtful()
    };
    let mut handshake = begun(&credentials);
    handshake.was_granted();
    assert!(is_doubtful(&mut handshake), "no token was out yet");
    handshake.was_granted();
    let mut handshake = begun(&credentials);
    assert!(!is_doubtful(&mut handshake));
    let none = "HTTP/1.1 407 R\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n";
    handshake.receive(none.as_bytes(), &mut Vec::new()).unwrap_err();
    assert!(is_doubtful(&mut begun(&credentials)));
}
