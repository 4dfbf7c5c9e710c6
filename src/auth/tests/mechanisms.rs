//! Which mechanism and scheme is used, and how long its secret is borrowed.

use super::*;

#[test]
fn an_upstream_that_refused_basic_is_asked_again_what_it_offers() {
    const ASKS: &[u8] = b"HTTP/1.1 407 R\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
    let credentials =
        Credentials::new(identity("Domain\\User"), "proxy.test", FirstLeg::Negotiate).with_basic(Some("Password"));
    let credentials = Arc::new(credentials);
    let begin = || {
        let mut handshake = Handshake::new(request(), Arc::clone(&credentials), HEAD_LIMIT_BYTES);
        let mut out = Vec::new();
        handshake.begin(&mut out);
        (handshake, String::from_utf8(out).unwrap())
    };
    let (mut handshake, first) = begin();
    assert!(first.contains("Proxy-Authorization: NTLM "), "{first}");
    let mut out = Vec::new();
    assert!(matches!(handshake.receive(ASKS, &mut out), Ok((_, Progress::Challenged))));
    handshake.authenticate(&NONCES, &mut out).unwrap();
    assert!(String::from_utf8(out.clone()).unwrap().contains("Proxy-Authorization: Basic "));
    let (known, nothing) = begin();
    assert!(known.is_challenged() && nothing.is_empty(), "what it wants is remembered");
    assert_eq!(handshake.receive(ASKS, &mut out).unwrap_err().cause, Cause::CredentialsRefused);
    let (_, again) = begin();
    assert!(again.contains("Proxy-Authorization: NTLM "), "{again}");
}

#[test]
fn an_upstream_that_once_spoke_ntlm_is_never_sent_basic_for_any_identity() {
    const STRIPPED: &[u8] = b"HTTP/1.1 407 R\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
    let known = Arc::new(SpeaksNtlm::default());
    let [one, other] = ["One", "Other"].map(|user| {
        let credentials = Credentials::new(identity(&format!("Domain\\{user}")), "proxy.test", FirstLeg::Negotiate);
        Arc::new(credentials.with_basic(Some("Password")).with_knowledge(&known))
    });
    let begin = |credentials: &Arc<Credentials>| {
        let (mut handshake, mut out) =
            (Handshake::new(request(), Arc::clone(credentials), HEAD_LIMIT_BYTES), Vec::new());
        handshake.begin(&mut out);
        handshake
    };
    // Basic is used as long as the upstream has offered nothing better.
    let mut waiting = begin(&one);
    assert!(matches!(waiting.receive(STRIPPED, &mut Vec::new()), Ok((_, Progress::Challenged))));
    assert!(one.needs_no_challenge());

    let mut better = begin(&other);
    assert!(matches!(
        better.receive(challenged_under_ntlm().as_bytes(), &mut Vec::new()),
        Ok((_, Progress::Challenged))
    ));
    assert!(known.is_known());
    for credentials in [&one, &other] {
        let mut handshake = begin(credentials);
        let fault = handshake.receive(STRIPPED, &mut Vec::new()).unwrap_err();
        assert_eq!(fault.cause, Cause::SchemeDowngraded, "{fault}");
        assert!(!credentials.needs_no_challenge());
    }
    // Nor does the one that was about to send it.
    let mut out = Vec::new();
    assert_eq!(waiting.authenticate(&NONCES, &mut out).unwrap_err().cause, Cause::SchemeDowngraded);
    assert!(out.is_empty());
}

#[test]
fn the_scheme_that_worked_is_used_again_after_a_first_leg_without_credentials() {
    const OFFER: &str = "HTTP/1.1 407 R\r\nProxy-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n";
    let challenged = challenged_under_ntlm().replace("NTLM ", "Negotiate ");
    let credentials = credentials(FirstLeg::Plain);
    for round in 0..2 {
        let mut handshake = Handshake::new(request(), Arc::clone(&credentials), HEAD_LIMIT_BYTES);
        let mut out = Vec::new();
        handshake.begin(&mut out);
        out.clear();
        assert!(matches!(handshake.receive(OFFER.as_bytes(), &mut out), Ok((_, Progress::Send))));
        // Base64 of "NTLMSSP\0" and the first byte of MessageType 1: raw, not in SPNEGO.
        let second = String::from_utf8(out.clone()).unwrap();
        assert!(second.contains("Proxy-Authorization: Negotiate TlRMTVNTUAAB"), "{round}: {second}");
        assert!(matches!(handshake.receive(challenged.as_bytes(), &mut out), Ok((_, Progress::Challenged))));
    }
}

#[test]
fn a_malformed_challenge_does_not_rule_basic_out() {
    let known = Arc::new(SpeaksNtlm::default());
    let credentials =
        Credentials::new(identity("Domain\\User"), "proxy.test", FirstLeg::Negotiate).with_knowledge(&known);
    let mut handshake = Handshake::new(request(), Arc::new(credentials), HEAD_LIMIT_BYTES);
    let mut out = Vec::new();
    handshake.begin(&mut out);
    // The signature alone.
    let answer = "HTTP/1.1 407 R\r\nProxy-Authenticate: NTLM TlRMTVNTUAA=\r\nContent-Length: 0\r\n\r\n";
    let _ = handshake.receive(answer.as_bytes(), &mut out);
    assert!(!known.is_known());
}

#[test]
fn a_logon_is_tied_to_the_connection_that_it_is_sent_on() {
    use base64::Engine as _;
    const BINDINGS: [u8; 16] = *b"of a connection.";
    // Bindings go into the list of pairs, which the client sends if the server sent one.
    let options = ServerChallengeOptions { target_info: Some(vec![0; 4]), ..ServerChallengeOptions::default() };
    let offer = negotiate(&identity("Domain\\User"), &NegotiateOptions::default());
    let message = crate::ntlm::challenge(&offer, &options).unwrap();
    let challenge = base64::engine::general_purpose::STANDARD.encode(message);
    let challenged = format!("HTTP/1.1 407 R\r\nProxy-Authenticate: NTLM {challenge}\r\nContent-Length: 0\r\n\r\n");
    let mut handshake = fresh();
    let mut logon = |bindings: Option<[u8; 16]>| {
        let mut out = Vec::new();
        handshake.begin(&mut out);
        assert!(matches!(handshake.receive(challenged.as_bytes(), &mut out), Ok((_, Progress::Challenged))));
        bindings.into_iter().for_each(|bindings| handshake.bind_to_channel(Some(bindings)));
        out.clear();
        handshake.authenticate(&NONCES, &mut out).unwrap();
        token(std::str::from_utf8(&out).unwrap()).windows(16).any(|part| part == BINDINGS)
    };
    assert!(logon(Some(BINDINGS)));
    assert!(!logon(None), "the next connection does not inherit them");
}

/// How many others hold the secrets.
fn borrowers(credentials: &Credentials) -> usize {
    Arc::strong_count(&credentials.secrets().unwrap()) - 2
}

#[test]
fn a_secret_is_borrowed_until_the_final_token_is_made() {
    let credentials = credentials(FirstLeg::Negotiate);
    let mut handshake = Handshake::new(request(), Arc::clone(&credentials), HEAD_LIMIT_BYTES);
    assert_eq!(borrowers(&credentials), 0, "nothing is under way");
    let (mut out, challenged) = (Vec::new(), challenged_under_ntlm());
    handshake.begin(&mut out);
    assert_eq!(borrowers(&credentials), 1);
    assert!(matches!(handshake.receive(challenged.as_bytes(), &mut out), Ok((_, Progress::Challenged))));
    handshake.authenticate(&NONCES, &mut out).unwrap();
    assert_eq!(borrowers(&credentials), 0, "the answer may take hours");

    // An upstream that does not ask for authentication.
    let mut handshake = Handshake::new(request(), Arc::clone(&credentials), HEAD_LIMIT_BYTES);
    handshake.begin(&mut out);
    assert!(matches!(handshake.receive(OK.as_bytes(), &mut out), Ok((_, Progress::Established))));
    assert_eq!(borrowers(&credentials), 0);
}

#[test]
fn a_withdrawn_secret_serves_only_the_handshakes_under_way() {
    let credentials = credentials(FirstLeg::Negotiate);
    let mut handshake = Handshake::new(request(), Arc::clone(&credentials), HEAD_LIMIT_BYTES);
    let (mut out, challenged) = (Vec::new(), challenged_under_ntlm());
    handshake.begin(&mut out);
    credentials.withdraw();
    assert!(matches!(handshake.receive(challenged.as_bytes(), &mut out), Ok((_, Progress::Challenged))));
    handshake.authenticate(&NONCES, &mut out).unwrap();

    let mut late = Handshake::new(request(), Arc::clone(&credentials), HEAD_LIMIT_BYTES);
    late.begin(&mut out);
    assert!(matches!(late.receive(challenged.as_bytes(), &mut out), Ok((_, Progress::Challenged))));
    assert_eq!(late.authenticate(&NONCES, &mut out).unwrap_err().cause, Cause::CredentialsWithdrawn);
}

const NEGOTIATE_ONLY: &str = "HTTP/1.1 407 R\r\nProxy-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n";

/// A 407 whose challenge comes under NTLM.
fn challenged_under_ntlm() -> String {
    format!("HTTP/1.1 407 R\r\nProxy-Authenticate: NTLM {}\r\nContent-Length: 0\r\n\r\n", challenge())
}

/// A 407 whose challenge comes under Negotiate.
fn challenged_under_negotiate(token: &[u8]) -> String {
    use base64::Engine as _;
    let token = base64::engine::general_purpose::STANDARD.encode(token);
    format!("HTTP/1.1 407 R\r\nProxy-Authenticate: Negotiate {token}\r\nContent-Length: 0\r\n\r\n")
}

fn negotiate_token(request: &str) -> Vec<u8> {
    let (_, rest) = request.split_once("Proxy-Authorization: Negotiate ").expect("credentials under Negotiate");
    decode_token(rest.trim()).unwrap()
}

#[test]
fn if_only_negotiate_is_offered_ntlm_is_sent_raw_under_it_and_that_is_remembered() {
    let challenge = decode_token(&challenge()).unwrap();
    let answer = challenged_under_negotiate(&challenge);
    let ended = at_every_split(&[keeps(&[NEGOTIATE_ONLY, &answer, OK])]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)), "{:?}", ended.outcome);
    assert!(ended.sent[0].contains("Proxy-Authorization: NTLM "));
    assert!(negotiate_token(&ended.sent[1]).starts_with(b"NTLMSSP\0\x01"));
    assert!(negotiate_token(&ended.sent[2]).starts_with(b"NTLMSSP\0\x03"));

    let credentials = credentials(FirstLeg::Negotiate);
    let handshake = || Handshake::new(request(), Arc::clone(&credentials), HEAD_LIMIT_BYTES);
    drive(handshake(), &[keeps(&[NEGOTIATE_ONLY, &answer, OK])], &NONCES, &[usize::MAX]);
    let next = drive(handshake(), &[keeps(&[&answer, OK])], &NONCES, &[usize::MAX]);
    assert!(matches!(next.outcome, Ok(Progress::Established)), "{:?}", next.outcome);
    assert_eq!(next.sent.len(), 2, "the second handshake begins with what the first found out");
}

#[test]
fn a_challenge_in_spnego_is_answered_in_spnego() {
    let challenge = decode_token(&challenge()).unwrap();
    let wrapped = spnego::response(&challenge);
    // The upstream takes nothing raw: when it asks again, the NEGOTIATE_MESSAGE is wrapped as well.
    let script = [keeps(&[NEGOTIATE_ONLY, NEGOTIATE_ONLY, &challenged_under_negotiate(&wrapped), OK])];
    let ended = drive(fresh(), &script, &NONCES, &[usize::MAX]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)), "{:?}", ended.outcome);
    assert_eq!(negotiate_token(&ended.sent[2])[0], 0x60);
    let answer = negotiate_token(&ended.sent[3]);
    let message = spnego::response_token(&answer).expect("a wrapped AUTHENTICATE_MESSAGE");
    let (hash, negotiate) = (NtHash::from_password("Password"), token(&ended.sent[0]));
    verify(message, &negotiate, &challenge, |_, _| Some(&hash), &VerifyOptions::default()).unwrap();
}

#[test]
fn a_spnego_token_under_ntlm_is_a_named_fault() {
    let answer = "HTTP/1.1 407 R\r\nProxy-Authenticate: NTLM YIIBhgYGKwYBBQUC\r\nContent-Length: 0\r\n\r\n";
    let ended = at_every_split(&[keeps(&[answer])]);
    assert_eq!(cause(&ended), Cause::ChallengeMalformed);
    assert!(ended.outcome.unwrap_err().detail.contains("SPNEGO"));
}
