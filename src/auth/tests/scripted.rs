//! What the conversation does with a mechanism that needs no challenge, waits for another thread, and is the first of
//! several.

use std::sync::Mutex;

use super::mechanism::scripted::{Prepared, Scripted};
use super::*;

/// `ticket` in base64.
const TOKEN: &str = "Proxy-Authorization: Scripted dGlja2V0\r\n";

/// A handshake whose list of mechanisms is the scripted one, and NTLM behind it if `with_ntlm`.
fn begun(prepared: Prepared, with_ntlm: bool) -> (Handshake, Arc<Mutex<Prepared>>) {
    let prepared = Arc::new(Mutex::new(prepared));
    let identity = identity("Domain\\User");
    let mut mechanisms: Vec<Box<dyn mechanism::Mechanism>> = vec![Box::new(Scripted(Arc::clone(&prepared)))];
    if with_ntlm {
        mechanisms.push(Box::new(Ntlm::new(&identity, "proxy.test", &Arc::default())));
    }
    let credentials = Credentials::with_mechanisms(mechanisms, Secrets { identity, basic: None }, FirstLeg::Negotiate);
    assert!(credentials.needs_no_challenge());
    let mut handshake = Handshake::new(request(), Arc::new(credentials), HEAD_LIMIT_BYTES);
    let mut out = Vec::new();
    handshake.begin(&mut out);
    assert!(out.is_empty() && handshake.is_challenged() && handshake.needs_no_challenge());
    (handshake, prepared)
}

fn authenticated(handshake: &mut Handshake) -> Result<String, Fault> {
    let mut out = Vec::new();
    handshake.authenticate(&NONCES, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn a_token_of_another_thread_is_waited_for_and_sent_with_the_first_request() {
    let (mut handshake, prepared) = begun(Prepared::NotYet, false);
    assert_eq!(handshake.due(), Some(Due::Pending));
    *prepared.lock().unwrap() = Prepared::Token;
    assert_eq!(handshake.due(), Some(Due::Token));
    assert!(authenticated(&mut handshake).unwrap().contains(TOKEN));
    assert!(handshake.awaits_verdict() && handshake.awaits_body() && handshake.due().is_none());
    assert_eq!(handshake.legs(), 1);
    assert!(matches!(handshake.receive(OK.as_bytes(), &mut Vec::new()), Ok((_, Progress::Established))));
}

#[test]
fn a_token_that_is_asked_for_too_early_is_a_named_fault() {
    let (mut handshake, _) = begun(Prepared::NotYet, false);
    assert_eq!(authenticated(&mut handshake).unwrap_err().cause, Cause::CredentialsHeld);
}

#[test]
fn the_next_mechanism_in_the_list_begins_if_the_first_cannot_make_its_token() {
    let (mut handshake, _) = begun(Prepared::Nothing, true);
    assert_eq!(handshake.due(), Some(Due::Token));
    let sent = authenticated(&mut handshake).unwrap();
    assert_eq!(token(&sent)[8], 1, "a NEGOTIATE_MESSAGE");
    assert!(!handshake.awaits_verdict());
    let answer = challenged("Content-Length: 0\r\n", "");
    assert!(matches!(handshake.receive(answer.as_bytes(), &mut Vec::new()), Ok((_, Progress::Challenged))));
    assert_eq!(handshake.due(), Some(Due::LogonAttempt));
    assert_eq!(token(&authenticated(&mut handshake).unwrap())[8], 3, "an AUTHENTICATE_MESSAGE");
}

#[test]
fn the_next_mechanism_in_the_list_is_used_if_the_upstream_refuses_the_first() {
    let (mut handshake, _) = begun(Prepared::Token, true);
    authenticated(&mut handshake).unwrap();
    let offers =
        "HTTP/1.1 407 R\r\nProxy-Authenticate: Scripted\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n";
    let mut out = Vec::new();
    // On another connection, because some upstreams accept nothing more on one with a refused token.
    assert!(matches!(handshake.receive(offers.as_bytes(), &mut out), Ok((_, Progress::Redial))));
    handshake.begin(&mut out);
    assert_eq!(token(&String::from_utf8(out).unwrap())[8], 1, "a NEGOTIATE_MESSAGE");
    // Asked again, it does not go back to the mechanism that was refused.
    let mut out = Vec::new();
    assert!(matches!(handshake.receive(offers.as_bytes(), &mut out), Ok((_, Progress::Send))));
    assert_eq!(token(&String::from_utf8(out).unwrap())[8], 1, "a NEGOTIATE_MESSAGE");
}

#[test]
fn a_mechanism_that_is_not_listed_is_not_used() {
    let (mut handshake, _) = begun(Prepared::Nothing, false);
    assert_eq!(authenticated(&mut handshake).unwrap_err().cause, Cause::CredentialsHeld);

    let (mut handshake, _) = begun(Prepared::Token, false);
    authenticated(&mut handshake).unwrap();
    let refused = handshake.receive(REFUSED.as_bytes(), &mut Vec::new()).unwrap_err();
    assert_eq!(refused.cause, Cause::SchemeNotOffered, "NTLM is offered, and nothing else");

    let (mut handshake, _) = begun(Prepared::Token, false);
    authenticated(&mut handshake).unwrap();
    let both = REFUSED.replacen("\r\n", "\r\nProxy-Authenticate: Scripted\r\n", 1);
    let refused = handshake.receive(both.as_bytes(), &mut Vec::new()).unwrap_err();
    assert_eq!(refused.cause, Cause::CredentialsRefused);
}

#[test]
fn a_token_that_is_no_logon_attempt_is_sent_without_a_demand() {
    let (mut handshake, _) = begun(Prepared::Token, false);
    handshake.await_demand();
    handshake.ask_at_once();
    handshake.begin(&mut Vec::new());
    assert_eq!(handshake.due(), Some(Due::Token));
}

#[test]
fn every_connection_gets_a_token_of_its_own() {
    let (mut handshake, _) = begun(Prepared::Token, false);
    for _ in 0..2 {
        let poison = handshake.receive(b"HTTP/1.1 200 OK\r\n\r\n", &mut Vec::new());
        assert!(matches!(poison, Ok((_, Progress::Redial))), "{poison:?}");
        handshake.begin(&mut Vec::new());
        assert_eq!(handshake.due(), Some(Due::Token));
    }
    assert!(authenticated(&mut handshake).unwrap().contains(TOKEN));
}

#[test]
fn an_upstream_that_must_authenticate_too_is_accepted_only_with_its_own_token() {
    let own = "HTTP/1.1 200 OK\r\nProxy-Authenticate: Scripted bXV0dWFs\r\n\r\n";
    for (answer, is_accepted) in [(own, true), (OK, false), (&own.replace("bXV0", "AAAA"), false)] {
        let (mut handshake, _) = begun(Prepared::MutualToken, false);
        authenticated(&mut handshake).unwrap();
        match handshake.receive(answer.as_bytes(), &mut Vec::new()) {
            Ok((_, Progress::Established)) => assert!(is_accepted, "{answer}"),
            other => assert!(!is_accepted && other.is_err(), "{answer}: {other:?}"),
        }
    }
}

#[test]
fn what_checks_an_answer_is_forgotten_with_the_connection() {
    let (mut handshake, prepared) = begun(Prepared::MutualToken, false);
    authenticated(&mut handshake).unwrap();
    *prepared.lock().unwrap() = Prepared::Token;
    handshake.ask_at_once();
    handshake.begin(&mut Vec::new());
    authenticated(&mut handshake).unwrap();
    assert!(matches!(handshake.receive(OK.as_bytes(), &mut Vec::new()), Ok((_, Progress::Established))));
}
