//! Whole handshakes, fed at every split of every transcript.

mod kerberos;
mod mechanisms;
mod plain_http;
mod scripted;

use std::sync::Arc;

use super::mechanism::{Ntlm, Secrets};
use super::*;
use crate::http::{BodyFraming, decode_token, trace};
use crate::ntlm::{
    Account, FileTime, Identity, Method, NegotiateFlags, NegotiateOptions, NtHash, ServerChallengeOptions,
    VerifyOptions, Version, negotiate, verify,
};

const NONCES: Nonces = Nonces {
    client_challenge: [0xaa; 8],
    exported_session_key: [0x55; 16],
    subkey: [0x33; 32],
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

/// Runs a handshake against a script. Each answer is cut into pieces of `sizes` bytes in turn.
fn drive(mut handshake: Handshake, script: &[Connection], nonces: &Nonces, sizes: &[usize]) -> Ended {
    let mut sent = Vec::new();
    let (mut outcome, mut leftover) = (Ok(Progress::Redial), Vec::new());
    for connection in script {
        assert!(matches!(outcome, Ok(Progress::Redial)), "the script has too many connections: {outcome:?}");
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
                // More came than was asked for; the next round passes it to the handshake.
                asked = false;
            }
        }
    }
    match connection.closes {
        true => (handshake.closed(), unused),
        false => (Ok(Progress::More), unused),
    }
}

fn identity(account: &str) -> Identity {
    let account = Account::parse(account, None).unwrap();
    Identity::new(account, "COMPUTER", NtHash::from_password("Password"), Method::NtlmV2, false)
}

fn credentials(first_leg: FirstLeg) -> Arc<Credentials> {
    Arc::new(Credentials::new(identity("Domain\\User"), "proxy.test", first_leg))
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
    let offer = negotiate(&identity("Domain\\User"), &NegotiateOptions::default());
    let message = crate::ntlm::challenge(&offer, &options).unwrap();
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

/// Cuts a script in many ways and checks that the outcome is always the same; returns it.
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
    let ntlm = Ntlm::new(&identity, "spirit1b", &Arc::default()).with_negotiate(message_1);
    let secrets = Secrets { identity, basic: None };
    let credentials = Arc::new(Credentials::with_mechanisms(vec![Box::new(ntlm)], secrets, FirstLeg::Plain));
    let fields = b"User-Agent: Mozilla/4.0 (compatible; MSIE 5.5; Win32)\r\nPragma: no-cache\r\n";
    let request = Request::connect("server.domain.net:443", fields.to_vec());
    let nonces = Nonces {
        client_challenge: [0xd0, 0xd2, 0xaa, 0xf0, 0x76, 0x18, 0x86, 0x3f],
        exported_session_key: 0xe90b_25d2_945b_70b0_5cd4_d2ab_2b2c_686d_u128.to_be_bytes(),
        subkey: [0; 32],
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
fn the_first_request_carries_negotiate_and_the_second_what_a_server_accepts() {
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
fn a_407_body_of_any_framing_is_skipped() {
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
fn an_http_1_0_challenge_with_keep_alive_is_answered_on_the_same_connection() {
    let answer =
        challenged("Proxy-Connection: Keep-Alive\r\nContent-Length: 0\r\n", "").replace("HTTP/1.1", "HTTP/1.0");
    let ended = at_every_split(&[keeps(&[&answer, OK])]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)));
}

#[test]
fn a_challenge_that_comes_with_a_close_is_never_answered_on_another_connection() {
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
fn bytes_behind_a_discarded_body_poison_the_connection() {
    let poisoned = challenged("Content-Length: 3\r\n", "abcHTTP/1.1 200 OK\r\n\r\n");
    let script = [keeps(&[&poisoned]), keeps(&[&challenged("Content-Length: 0\r\n", ""), OK])];
    let ended = drive(fresh(), &script, &NONCES, &[usize::MAX]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)), "{:?}", ended.outcome);
    assert_eq!(ended.sent.len(), 3);
}

#[test]
fn after_a_407_without_challenge_and_a_close_a_new_connection_is_used() {
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
fn a_refusal_ends_the_handshake_at_once() {
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
fn an_error_page_of_the_upstream_is_passed_on_with_its_fields_and_framing() {
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
fn a_connection_that_ends_in_the_middle_is_retried_a_limited_number_of_times() {
    let cut = || closes(&["HTTP/1.1 407 Requ"]);
    let ended = at_every_split(&[cut(), cut(), cut()]);
    assert_eq!(cause(&ended), Cause::UpstreamClosed);
    let ended = at_every_split(&[cut(), keeps(&[&challenged("Content-Length: 0\r\n", ""), OK])]);
    assert!(matches!(ended.outcome, Ok(Progress::Established)));
}

#[test]
fn a_close_after_authenticate_is_not_retried() {
    let ended = at_every_split(&[closes(&[&challenged("Content-Length: 0\r\n", "")])]);
    assert_eq!(cause(&ended), Cause::UpstreamClosed);
    assert_eq!(ended.sent.len(), 2);
}

#[test]
fn an_endless_body_and_an_endless_head_are_faults() {
    let body = challenged("Transfer-Encoding: chunked\r\n", "80000\r\n") + &"x".repeat(400_000);
    let ended = drive(fresh(), &[keeps(&[&body])], &NONCES, &[16_384]);
    assert_eq!(cause(&ended), Cause::ResponseBodyTooLarge);
    let announced = challenged("Content-Length: 99999999\r\n", "x");
    assert_eq!(cause(&drive(fresh(), &[keeps(&[&announced])], &NONCES, &[100])), Cause::ResponseBodyTooLarge);
    let head = format!("HTTP/1.1 407 R\r\nX: {}", "x".repeat(HEAD_LIMIT_BYTES));
    assert_eq!(cause(&drive(fresh(), &[keeps(&[&head])], &NONCES, &[8_192])), Cause::ResponseHeadTooLarge);
}

#[test]
fn bytes_that_are_not_http_are_a_named_fault() {
    let ended = at_every_split(&[keeps(&["SSH-2.0-OpenSSH_9.2\r\n\r\n"])]);
    assert_eq!(cause(&ended), Cause::ResponseMalformed);
}
