//! Whole handshakes, fed at every split of every transcript.

use std::sync::Arc;

use super::*;
use crate::fault::{Cause, Fault};
use crate::forward::{ForwardOptions, ForwardRequest};
use crate::http::{BodyFraming, FieldStorage, RequestHead, decode_token, trace};
use crate::ntlm::{
    Account, FileTime, Identity, Method, NegotiateFlags, NegotiateOptions, NtHash, ServerChallengeOptions,
    VerifyOptions, Version, negotiate, verify,
};

const NONCES: Nonces = Nonces {
    client_challenge: [0xaa; 8],
    exported_session_key: [0x55; 16],
    now: FileTime::from_unix(1_700_000_000, 0),
};
const HEAD_LIMIT_BYTES: usize = 64 * 1024;

/// What the upstream does on one connection: it answers each request in turn, and may close after the last.
struct Connection {
    answers: Vec<Vec<u8>>,
    closes: bool,
}

fn keeps(answers: &[&str]) -> Connection {
    Connection { answers: answers.iter().map(|answer| answer.as_bytes().to_vec()).collect(), closes: false }
}

fn closes(answers: &[&str]) -> Connection {
    Connection { closes: true, ..keeps(answers) }
}

/// How a handshake ended, and all that was sent, a string a request.
#[derive(Debug)]
struct Ended {
    outcome: Result<Progress, Fault>,
    leftover: Vec<u8>,
    sent: Vec<String>,
    tally: Tally,
}

/// Drives a handshake against a script, cutting each answer into pieces of `sizes` bytes in turn.
fn drive(mut handshake: Handshake, script: &[Connection], nonces: &Nonces, sizes: &[usize]) -> Ended {
    let mut sent = Vec::new();
    let (mut outcome, mut leftover) = (Ok(Progress::Redial), Vec::new());
    for connection in script {
        assert!(matches!(outcome, Ok(Progress::Redial)), "a connection too many in the script: {outcome:?}");
        let mut out = Vec::new();
        handshake.begin(&mut out);
        sent.push(String::from_utf8(std::mem::take(&mut out)).unwrap());
        (outcome, leftover) = converse(&mut handshake, connection, nonces, sizes, &mut sent);
    }
    Ended { outcome, leftover, sent, tally: handshake.tally() }
}

fn converse(
    handshake: &mut Handshake,
    connection: &Connection,
    nonces: &Nonces,
    sizes: &[usize],
    sent: &mut Vec<String>,
) -> (Result<Progress, Fault>, Vec<u8>) {
    let mut sizes = sizes.iter().copied().cycle();
    let mut unused: Vec<u8> = Vec::new();
    for answer in &connection.answers {
        let mut rest = answer.as_slice();
        let mut asked = false;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(sizes.next().unwrap().clamp(1, rest.len()));
            rest = behind;
            unused.extend_from_slice(piece);
            let mut out = Vec::new();
            let (used, progress) = match handshake.receive(&unused, &mut out) {
                Ok(received) => received,
                Err(fault) => return (Err(fault), unused),
            };
            unused.drain(..used);
            match progress {
                Progress::More => {}
                Progress::Send => asked = true,
                Progress::Challenged => {
                    if let Err(fault) = handshake.authenticate(nonces, &mut out) {
                        return (Err(fault), unused);
                    }
                    asked = true;
                }
                ended => {
                    unused.extend_from_slice(rest);
                    return (Ok(ended), unused);
                }
            }
            if !out.is_empty() {
                sent.push(String::from_utf8(out).unwrap());
            }
            if asked && !rest.is_empty() {
                // More came than was asked for; the next round shows it to the handshake.
                asked = false;
            }
        }
    }
    match connection.closes {
        true => (handshake.closed(), unused),
        false => (Ok(Progress::More), unused),
    }
}

fn credentials(first_leg: FirstLeg) -> Arc<Credentials> {
    let account = Account::parse("Domain\\User", None).unwrap();
    let identity = Identity::new(account, "COMPUTER", NtHash::from_password("Password"), Method::NtlmV2, false);
    Arc::new(Credentials::new(identity, "proxy.test", first_leg))
}

fn request() -> Request {
    Request::connect("origin.test:443", b"User-Agent: t\r\n".to_vec())
}

fn fresh() -> Handshake {
    Handshake::new(request(), credentials(FirstLeg::Negotiate), HEAD_LIMIT_BYTES)
}

/// A CHALLENGE_MESSAGE for the default NEGOTIATE_MESSAGE, in base64.
fn challenge() -> String {
    use base64::Engine as _;
    let options = ServerChallengeOptions { server_challenge: [7; 8], ..ServerChallengeOptions::default() };
    let message = crate::ntlm::challenge(&credentials(FirstLeg::Negotiate).negotiate, &options).unwrap();
    base64::engine::general_purpose::STANDARD.encode(message)
}

fn challenged(extra: &str, body: &str) -> String {
    format!("HTTP/1.1 407 Authenticate\r\nProxy-Authenticate: NTLM {}\r\n{extra}\r\n{body}", challenge())
}

const OK: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
const REFUSED: &str = "HTTP/1.1 407 Denied\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n";

/// The token of the last field of a request.
fn token(request: &str) -> Vec<u8> {
    let (_, rest) = request.split_once("Proxy-Authorization: NTLM ").expect("the request has credentials");
    decode_token(rest.trim()).unwrap()
}

/// Runs a script at many ways to cut it and checks that all come to the same; returns the outcome.
fn at_every_split(script: &[Connection]) -> Ended {
    let whole = drive(fresh(), script, &NONCES, &[usize::MAX]);
    for sizes in [&[1][..], &[2], &[3, 1], &[7], &[64, 1, 1], &[1000, 1]] {
        assert_same(&whole, &drive(fresh(), script, &NONCES, sizes), &format!("{sizes:?}"));
    }
    let longest = script.iter().flat_map(|connection| &connection.answers).map(Vec::len).max().unwrap_or(0);
    for split in 1..longest {
        assert_same(&whole, &drive(fresh(), script, &NONCES, &[split, usize::MAX]), &format!("split at {split}"));
    }
    whole
}

fn assert_same(whole: &Ended, cut: &Ended, how: &str) {
    assert_eq!(format!("{:?}", whole.outcome), format!("{:?}", cut.outcome), "{how}");
    assert_eq!(whole.sent, cut.sent, "{how}");
    assert_eq!(whole.tally, cut.tally, "{how}");
}

fn cause(ended: &Ended) -> Cause {
    match &ended.outcome {
        Err(fault) => fault.cause,
        other => panic!("expected a fault, got {other:?}"),
    }
}

#[test]
fn the_example_of_the_specification_is_replayed_byte_for_byte() {
    let account = Account::parse("LABSMOKE3\\_qa", None).unwrap();
    let identity = Identity::new(account, "LABSMOKE3", NtHash::from_password("qa"), Method::NtlmV1Ess, false);
    let options = NegotiateOptions {
        flags: NegotiateFlags::from_bits(0xe208_b2b7),
        version: Some(Version { major: 5, minor: 1, build: 2600, revision: 15 }),
        domain: Some("WORKGROUP".into()),
        workstation: Some("LABSMOKE3".into()),
    };
    let message_1 = negotiate(&identity, &options);
    let mut credentials = Credentials::new(identity, "spirit1b", FirstLeg::Plain);
    credentials.negotiate = message_1;
    let credentials = Arc::new(credentials);
    let fields = b"User-Agent: Mozilla/4.0 (compatible; MSIE 5.5; Win32)\r\nPragma: no-cache\r\n";
    let request = Request::connect("server.domain.net:443", fields.to_vec());
    let nonces = Nonces {
        client_challenge: [0xd0, 0xd2, 0xaa, 0xf0, 0x76, 0x18, 0x86, 0x3f],
        exported_session_key: 0xe90b_25d2_945b_70b0_5cd4_d2ab_2b2c_686d_u128.to_be_bytes(),
        now: FileTime(0),
    };
    let first = format!("{}{}", trace::FIRST_REFUSAL, "x".repeat(701));
    let established = format!("{}tunnel bytes", trace::ESTABLISHED);
    let script = [closes(&[&first]), keeps(&[&trace::challenged(), &established])];
    for sizes in [&[usize::MAX][..], &[1], &[5, 3], &[600]] {
        let handshake = Handshake::new(request.clone(), Arc::clone(&credentials), HEAD_LIMIT_BYTES);
        let ended = drive(handshake, &script, &nonces, sizes);
        assert!(matches!(ended.outcome, Ok(Progress::Established)), "{:?}", ended.outcome);
        assert!(ended.leftover.ends_with(b"tunnel bytes") || sizes.len() > 1 || sizes[0] < 100);
        let [plain, with_message_1, with_message_3] = ended.sent.as_slice() else { panic!("{:?}", ended.sent) };
        let common = "CONNECT server.domain.net:443 HTTP/1.1\r\nHost: server.domain.net:443\r\n\
            User-Agent: Mozilla/4.0 (compatible; MSIE 5.5; Win32)\r\nPragma: no-cache\r\nProxy-Connection: Keep-Alive\r\n";
        assert_eq!(*plain, format!("{common}\r\n"));
        assert_eq!(*with_message_1, format!("{common}Proxy-Authorization: NTLM {}\r\n\r\n", trace::NEGOTIATE));
        assert_eq!(*with_message_3, format!("{common}Proxy-Authorization: NTLM {}\r\n\r\n", trace::AUTHENTICATE));
        assert_eq!(ended.tally, Tally { unprompted: 1, challenge: 1, refused: 0, rechallenge: 0 });
    }
}

#[test]
fn the_first_request_carries_negotiate_and_the_second_a_proof_that_a_server_accepts() {
    let ended = at_every_split(&[keeps(&[&challenged("Content-Length: 3\r\n", "abc"), OK])]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)));
    let (negotiate, authenticate) = (token(&ended.sent[0]), token(&ended.sent[1]));
    let challenge = decode_token(&challenge()).unwrap();
    let hash = NtHash::from_password("Password");
    let known = |user: &str, domain: &str| (user == "User" && domain == "Domain").then_some(&hash);
    verify(&authenticate, &negotiate, &challenge, known, &VerifyOptions::default()).unwrap();
}

#[test]
fn bytes_behind_the_200_are_left_for_the_tunnel() {
    let answer = format!("{OK}early");
    let ended = drive(fresh(), &[keeps(&[&challenged("Content-Length: 0\r\n", ""), &answer])], &NONCES, &[usize::MAX]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)));
    assert_eq!(ended.leftover, b"early");
}

#[test]
fn a_200_with_framing_fields_is_a_tunnel_all_the_same() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello";
    let ended = drive(fresh(), &[keeps(&[answer])], &NONCES, &[usize::MAX]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)));
    assert_eq!(ended.leftover, b"hello");
}

#[test]
fn every_framing_of_the_407s_body_is_read_past() {
    for (fields, body) in [
        ("Content-Length: 0\r\n", ""),
        ("Content-Length: 5\r\n", "12345"),
        ("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nTrailer: t\r\n\r\n"),
    ] {
        let ended = at_every_split(&[keeps(&[&challenged(fields, body), OK])]);
        assert!(matches!(ended.outcome, Ok(Progress::Established)), "{fields}: {:?}", ended.outcome);
        assert_eq!(ended.tally.challenge, 1);
    }
}

#[test]
fn an_http_1_0_challenge_with_keep_alive_goes_on_on_the_same_connection() {
    let answer =
        challenged("Proxy-Connection: Keep-Alive\r\nContent-Length: 0\r\n", "").replace("HTTP/1.1", "HTTP/1.0");
    let ended = at_every_split(&[keeps(&[&answer, OK])]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)));
}

#[test]
fn a_challenge_that_comes_with_a_close_is_never_answered_elsewhere() {
    for field in ["Connection: close\r\nContent-Length: 0\r\n", "Proxy-Connection: close\r\nContent-Length: 0\r\n", ""]
    {
        let script = || closes(&[&challenged(field, "")]);
        let ended = at_every_split(&[script(), script(), script()]);
        assert_eq!(cause(&ended), Cause::HandshakeBroken);
        assert_eq!(ended.sent.len(), 3);
        assert!(ended.sent.iter().all(|request| token(request)[8] == 1), "only NEGOTIATE_MESSAGEs");
    }
}

#[test]
fn bytes_behind_the_drained_body_poison_the_connection() {
    let poisoned = challenged("Content-Length: 3\r\n", "abcHTTP/1.1 200 OK\r\n\r\n");
    let script = [keeps(&[&poisoned]), keeps(&[&challenged("Content-Length: 0\r\n", ""), OK])];
    let ended = drive(fresh(), &script, &NONCES, &[usize::MAX]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)), "{:?}", ended.outcome);
    assert_eq!(ended.sent.len(), 3);
}

#[test]
fn a_407_that_ignores_negotiate_and_closes_is_asked_again_on_a_new_connection() {
    let asks = "HTTP/1.1 407 Required\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\nConnection: close\r\n\r\nbody";
    let ended = at_every_split(&[closes(&[asks]), keeps(&[&challenged("Content-Length: 0\r\n", ""), OK])]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)));
    assert_eq!(ended.tally, Tally { unprompted: 1, challenge: 1, refused: 0, rechallenge: 0 });
}

#[test]
fn informational_answers_are_skipped_and_odd_reasons_accepted() {
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nLink: x\r\n\r\n";
    let script = [keeps(&[&format!("{early}{}", challenged("Content-Length: 0\r\n", "")), "HTTP/1.1 200\r\n\r\n"])];
    assert!(matches!(at_every_split(&script).outcome, Ok(Progress::Established)));
}

#[test]
fn folded_field_lines_are_understood() {
    let folded = challenged("X-Folded: a\r\n  b\r\nContent-Length: 0\r\n", "");
    assert!(matches!(at_every_split(&[keeps(&[&folded, OK])]).outcome, Ok(Progress::Established)));
}

#[test]
fn a_refusal_ends_it_at_once() {
    let ended = at_every_split(&[keeps(&[&challenged("Content-Length: 0\r\n", ""), REFUSED])]);
    assert_eq!(cause(&ended), Cause::CredentialsRefused);
    assert_eq!(ended.tally, Tally { unprompted: 0, challenge: 1, refused: 1, rechallenge: 0 });
}

#[test]
fn a_new_challenge_after_authenticate_is_a_refusal_too() {
    let again = challenged("Content-Length: 0\r\n", "");
    let ended = at_every_split(&[keeps(&[&again, &again])]);
    assert_eq!(cause(&ended), Cause::CredentialsRefused);
    assert_eq!(ended.tally.rechallenge, 1);
}

#[test]
fn a_proxy_without_ntlm_is_named_with_what_it_offers() {
    let answer = "HTTP/1.1 407 Required\r\nProxy-Authenticate: Basic realm=\"x, NTLM\"\r\nProxy-Authenticate: Digest nonce=a\r\nContent-Length: 0\r\n\r\n";
    let ended = at_every_split(&[keeps(&[answer])]);
    assert_eq!(cause(&ended), Cause::SchemeNotOffered);
    assert!(ended.outcome.unwrap_err().detail.contains("Basic, Digest"));
}

#[test]
fn an_upstream_that_has_refused_basic_is_asked_anew_what_it_offers() {
    const ASKS: &[u8] = b"HTTP/1.1 407 R\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
    let account = Account::parse("Domain\\User", None).unwrap();
    let identity = Identity::new(account, "COMPUTER", NtHash::from_password("Password"), Method::NtlmV2, false);
    let credentials = Credentials::new(identity, "proxy.test", FirstLeg::Negotiate).with_basic(Some("Password"));
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
    assert!(known.is_challenged() && nothing.is_empty(), "what it wants is known");
    assert_eq!(handshake.receive(ASKS, &mut out).unwrap_err().cause, Cause::CredentialsRefused);
    let (_, again) = begin();
    assert!(again.contains("Proxy-Authorization: NTLM "), "{again}");
}

#[test]
fn an_upstream_that_once_spoke_ntlm_gets_no_basic_for_any_identity() {
    const STRIPPED: &[u8] = b"HTTP/1.1 407 R\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
    let known = Arc::new(SpeaksNtlm::default());
    let [one, other] = ["One", "Other"].map(|user| {
        let account = Account::parse(&format!("Domain\\{user}"), None).unwrap();
        let identity = Identity::new(account, "COMPUTER", NtHash::from_password("Password"), Method::NtlmV2, false);
        let credentials = Credentials::new(identity, "proxy.test", FirstLeg::Negotiate);
        Arc::new(credentials.with_basic(Some("Password")).with_knowledge(&known))
    });
    let begin = |credentials: &Arc<Credentials>| {
        let (mut handshake, mut out) =
            (Handshake::new(request(), Arc::clone(credentials), HEAD_LIMIT_BYTES), Vec::new());
        handshake.begin(&mut out);
        handshake
    };
    // As long as it has offered nothing better, Basic it is.
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
    // Nor does one that was about to send it.
    let mut out = Vec::new();
    assert_eq!(waiting.authenticate(&NONCES, &mut out).unwrap_err().cause, Cause::SchemeDowngraded);
    assert!(out.is_empty());
}

#[test]
fn a_challenge_that_is_none_does_not_keep_basic_from_an_upstream() {
    let known = Arc::new(SpeaksNtlm::default());
    let account = Account::parse("Domain\\User", None).unwrap();
    let identity = Identity::new(account, "COMPUTER", NtHash::from_password("Password"), Method::NtlmV2, false);
    let credentials = Credentials::new(identity, "proxy.test", FirstLeg::Negotiate).with_knowledge(&known);
    let mut handshake = Handshake::new(request(), Arc::new(credentials), HEAD_LIMIT_BYTES);
    let mut out = Vec::new();
    handshake.begin(&mut out);
    // The signature alone.
    let answer = "HTTP/1.1 407 R\r\nProxy-Authenticate: NTLM TlRMTVNTUAA=\r\nContent-Length: 0\r\n\r\n";
    let _ = handshake.receive(answer.as_bytes(), &mut out);
    assert!(!known.is_known());
}

/// How many others hold the secret.
fn borrowers(credentials: &Credentials) -> usize {
    Arc::strong_count(&credentials.secret().unwrap()) - 2
}

#[test]
fn a_secret_is_borrowed_until_the_authenticate_message_is_made() {
    let credentials = credentials(FirstLeg::Negotiate);
    let mut handshake = Handshake::new(request(), Arc::clone(&credentials), HEAD_LIMIT_BYTES);
    assert_eq!(borrowers(&credentials), 0, "nothing is under way");
    let (mut out, challenged) = (Vec::new(), challenged_under_ntlm());
    handshake.begin(&mut out);
    assert_eq!(borrowers(&credentials), 1);
    assert!(matches!(handshake.receive(challenged.as_bytes(), &mut out), Ok((_, Progress::Challenged))));
    handshake.authenticate(&NONCES, &mut out).unwrap();
    assert_eq!(borrowers(&credentials), 0, "the answer may take hours");

    // An upstream that asks for no proof.
    let mut handshake = Handshake::new(request(), Arc::clone(&credentials), HEAD_LIMIT_BYTES);
    handshake.begin(&mut out);
    assert!(matches!(handshake.receive(OK.as_bytes(), &mut out), Ok((_, Progress::Established))));
    assert_eq!(borrowers(&credentials), 0);
}

#[test]
fn a_withdrawn_secret_serves_the_handshakes_under_way_and_no_others() {
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
fn where_only_negotiate_is_offered_ntlm_goes_raw_under_it_and_is_remembered() {
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
    let wrapped = Scheme::NegotiateSpnego.wrap_answer(&challenge).unwrap();
    // It takes nothing raw: asked again, the NEGOTIATE_MESSAGE goes wrapped, too.
    let script = [keeps(&[NEGOTIATE_ONLY, NEGOTIATE_ONLY, &challenged_under_negotiate(&wrapped), OK])];
    let ended = drive(fresh(), &script, &NONCES, &[usize::MAX]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)), "{:?}", ended.outcome);
    assert_eq!(negotiate_token(&ended.sent[2])[0], 0x60);
    let answer = negotiate_token(&ended.sent[3]);
    let message = scheme::response_token(&answer).expect("a wrapped AUTHENTICATE_MESSAGE");
    let (hash, negotiate) = (NtHash::from_password("Password"), token(&ended.sent[0]));
    verify(message, &negotiate, &challenge, |_, _| Some(&hash), &VerifyOptions::default()).unwrap();
}

#[test]
fn a_spnego_token_under_ntlm_is_named() {
    let answer = "HTTP/1.1 407 R\r\nProxy-Authenticate: NTLM YIIBhgYGKwYBBQUC\r\nContent-Length: 0\r\n\r\n";
    let ended = at_every_split(&[keeps(&[answer])]);
    assert_eq!(cause(&ended), Cause::ChallengeMalformed);
    assert!(ended.outcome.unwrap_err().detail.contains("SPNEGO"));
}

#[test]
fn an_upstreams_own_refusal_is_passed_on_with_its_fields_and_framing() {
    let answer =
        "HTTP/1.1 403 Not for you\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: 4\r\n\r\npage";
    let ended = drive(fresh(), &[keeps(&[&challenged("Content-Length: 0\r\n", ""), answer])], &NONCES, &[usize::MAX]);
    let Ok(Progress::Declined(declined)) = ended.outcome else { panic!("{:?}", ended.outcome) };
    assert_eq!((declined.status, declined.reason.as_str()), (403, "Not for you"));
    assert_eq!(declined.fields, b"Content-Type: text/html\r\n");
    assert_eq!(declined.framing, BodyFraming::Length(4));
    assert_eq!(ended.leftover, b"page");
}

#[test]
fn a_connection_that_ends_in_the_middle_is_tried_again_but_not_for_ever() {
    let cut = || closes(&["HTTP/1.1 407 Requ"]);
    let ended = at_every_split(&[cut(), cut(), cut()]);
    assert_eq!(cause(&ended), Cause::UpstreamClosed);
    let ended = at_every_split(&[cut(), keeps(&[&challenged("Content-Length: 0\r\n", ""), OK])]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)));
}

#[test]
fn a_close_after_authenticate_is_not_tried_again() {
    let ended = at_every_split(&[closes(&[&challenged("Content-Length: 0\r\n", "")])]);
    assert_eq!(cause(&ended), Cause::UpstreamClosed);
    assert_eq!(ended.sent.len(), 2);
}

#[test]
fn an_endless_body_and_an_endless_head_are_given_up() {
    let body = challenged("Transfer-Encoding: chunked\r\n", "80000\r\n") + &"x".repeat(400_000);
    let ended = drive(fresh(), &[keeps(&[&body])], &NONCES, &[16_384]);
    assert_eq!(cause(&ended), Cause::ResponseBodyTooLarge);
    let announced = challenged("Content-Length: 99999999\r\n", "x");
    assert_eq!(cause(&drive(fresh(), &[keeps(&[&announced])], &NONCES, &[100])), Cause::ResponseBodyTooLarge);
    let head = format!("HTTP/1.1 407 R\r\nX: {}", "x".repeat(HEAD_LIMIT_BYTES));
    assert_eq!(cause(&drive(fresh(), &[keeps(&[&head])], &NONCES, &[8_192])), Cause::ResponseHeadTooLarge);
}

#[test]
fn what_is_no_http_is_a_named_fault() {
    let ended = at_every_split(&[keeps(&["SSH-2.0-OpenSSH_9.2\r\n\r\n"])]);
    assert_eq!(cause(&ended), Cause::ResponseMalformed);
}

#[test]
fn a_body_is_promised_to_an_upstream_that_asks_for_no_proof_once_it_has_shown_that() {
    let head = b"POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n";
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(head, &mut storage).unwrap();
    let request = ForwardRequest::of(&head, &ForwardOptions::default()).unwrap();
    let request = Arc::new(request);
    for first_leg in [FirstLeg::Negotiate, FirstLeg::Plain] {
        let request = Request::Forward(Arc::clone(&request));
        let mut handshake = Handshake::new(request, credentials(first_leg), HEAD_LIMIT_BYTES);
        let mut out = Vec::new();
        handshake.begin(&mut out);
        let sent = String::from_utf8_lossy(&out);
        assert!(sent.starts_with("POST http://h/ ") && sent.contains("\r\nContent-Length: 0\r\n"), "{sent}");
        assert!(!handshake.awaits_body());
        out.clear();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let (used, progress) = handshake.receive(answer, &mut out).unwrap();
        assert!(matches!(progress, Progress::Send) && used == answer.len());
        let sent = String::from_utf8_lossy(&out);
        assert!(sent.contains("\r\nContent-Length: 5\r\n") && !sent.contains("Proxy-Authorization"), "{sent}");
        assert!(handshake.awaits_body());
    }
}

fn plain_http(method: &str, fields: &str) -> Handshake {
    let head = format!("{method} http://h/ HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(head.as_bytes(), &mut storage).unwrap();
    let request = Request::Forward(Arc::new(ForwardRequest::of(&head, &ForwardOptions::default()).unwrap()));
    Handshake::new(request, credentials(FirstLeg::Negotiate), HEAD_LIMIT_BYTES)
}

#[test]
fn a_request_for_an_exempt_destination_goes_at_once_body_and_all() {
    for (method, fields, has_body) in
        [("POST", "Content-Length: 5\r\n", true), ("DELETE", "", false), ("HEAD", "", true), ("POST", "", false)]
    {
        let mut handshake = plain_http(method, fields);
        handshake.ask_plainly();
        let mut out = Vec::new();
        handshake.begin(&mut out);
        assert!(out.starts_with(format!("{method} ").as_bytes()), "{method}");
        assert_eq!(handshake.awaits_body(), has_body, "{method}");
        let whole = String::from_utf8(std::mem::take(&mut out)).unwrap();
        assert!(whole.contains(fields) && !whole.contains("Proxy-Authorization"), "{whole}");
        if method == "POST" && !has_body {
            assert!(handshake.closed().is_err(), "it may have been carried out");
            continue;
        }
        // A connection that closes asks for no credentials.
        assert!(matches!(handshake.closed(), Ok(Progress::Redial)), "{method}");
        handshake.begin(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), whole, "{method}");
    }
}

#[test]
fn a_body_held_back_is_asked_for_with_credentials_once_the_upstream_has_said_407() {
    let mut handshake = plain_http("POST", "Content-Length: 5\r\n");
    handshake.ask_tentatively();
    let mut out = Vec::new();
    handshake.begin(&mut out);
    assert!(handshake.awaits_body() && handshake.is_trial());
    out.clear();
    handshake.begin(&mut out);
    let sent = String::from_utf8(out).unwrap();
    assert!(sent.contains("\r\nContent-Length: 0\r\n") && sent.contains("Proxy-Authorization: NTLM "), "{sent}");
    assert!(!handshake.awaits_body() && !handshake.is_trial());
}

#[test]
fn what_must_not_be_made_twice_is_not_sent_again_when_its_connection_closes_unanswered() {
    for (method, fields, may_be_again) in
        [("POST", "", false), ("PATCH", "", false), ("POST", "Content-Length: 5\r\n", true), ("PUT", "", true)]
    {
        let mut handshake = plain_http(method, fields);
        handshake.begin(&mut Vec::new());
        assert_eq!(handshake.may_be_under_way(), !may_be_again, "{method} {fields}");
        assert_eq!(handshake.closed().is_ok(), may_be_again, "{method} {fields}");
    }
}

#[test]
fn the_challenge_for_a_head_is_got_with_a_get_because_some_proxies_send_a_page_behind_their_407() {
    let mut handshake = plain_http("HEAD", "");
    let mut out = Vec::new();
    handshake.begin(&mut out);
    assert!(out.starts_with(b"GET http://h/ HTTP/1.1\r\n"));
    out.clear();
    let answer = challenged("Content-Length: 4\r\n", "page");
    let (used, progress) = handshake.receive(answer.as_bytes(), &mut out).unwrap();
    assert!(used == answer.len() && matches!(progress, Progress::Challenged), "{progress:?}");
    handshake.authenticate(&NONCES, &mut out).unwrap();
    assert!(out.starts_with(b"HEAD http://h/ HTTP/1.1\r\n"));
}

#[test]
fn an_answer_to_an_empty_body_that_is_too_long_to_read_past_costs_a_connection_and_no_more() {
    for fields in ["Content-Length: 99999999\r\n", "", "Content-Length: 5\r\nConnection: close\r\n"] {
        let mut handshake = plain_http("POST", "Content-Length: 5\r\n");
        handshake.begin(&mut Vec::new());
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\nx");
        let (_, progress) = handshake.receive(answer.as_bytes(), &mut Vec::new()).unwrap();
        assert!(matches!(progress, Progress::Redial), "{fields}: {progress:?}");
        let mut out = Vec::new();
        handshake.begin(&mut out);
        let sent = String::from_utf8(out).unwrap();
        assert!(sent.contains("\r\nContent-Length: 5\r\n") && !sent.contains("Proxy-Authorization"), "{sent}");
    }
}
