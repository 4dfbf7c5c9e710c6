//! Whole conversations with a session, without sockets and clocks.

use super::*;
use crate::ntlm::{Account, AuthenticateInputs, Identity, NegotiateOptions, NtHash, authenticate, negotiate};
use crate::stub::{Counts, ServerNames, StubAccount};

const PASSWORD: &str = "SecREt01";

/// What the connections of a stub share.
struct Bench {
    setup: Setup,
    counters: Counters,
}

/// How a client's attempt ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Tunnel,
    /// With this status and nothing more to try.
    Status(u16),
    /// The connection ended after this status; 0: without an answer.
    Closed(u16),
    Reset,
    /// No answer.
    Silence,
}

/// One connection: its session and the actions not performed yet.
struct Line<'b> {
    bench: &'b Bench,
    session: ProxySession,
    actions: VecDeque<ProxyAction>,
}

/// The text of a response, and the first action that is not about text.
struct Answer {
    text: String,
    end: Option<ProxyAction>,
}

impl Bench {
    fn new() -> Bench {
        let nt_hash = NtHash::from_password(PASSWORD);
        let alice = StubAccount { domain: "CORP".into(), user: "alice".into(), nt_hash };
        let setup = Setup::new(ServerNames::new("CORP", "PROXY"), vec![alice], Duration::ZERO);
        Bench { setup, counters: Counters::default() }
    }

    fn line(&self, personality: Personality, id: u64) -> Line<'_> {
        let (mut session, mut actions) = (ProxySession::new(personality, id), VecDeque::new());
        session.open(&mut actions);
        Line { bench: self, session, actions }
    }

    fn counts(&self) -> Counts {
        self.counters.counts()
    }
}

impl Line<'_> {
    fn send(&mut self, bytes: &str) -> Answer {
        let now = FileTime::from_unix(1_700_000_000, 0);
        let context = ProxyContext { setup: &self.bench.setup, counters: &self.bench.counters, now };
        self.session.receive(bytes.as_bytes(), &context, &mut self.actions);
        let mut answer = Answer { text: String::new(), end: None };
        while let Some(action) = self.actions.pop_front() {
            match action {
                ProxyAction::Send(bytes) | ProxyAction::Trickle(bytes) => {
                    answer.text += &String::from_utf8(bytes).unwrap()
                }
                ProxyAction::Wait(_) => {}
                end => answer.end = Some(end),
            }
        }
        answer
    }

    fn connect(&mut self, host: &str, token: Option<&[u8]>) -> Answer {
        self.connect_under("NTLM", host, token)
    }

    fn connect_under(&mut self, scheme: &str, host: &str, token: Option<&[u8]>) -> Answer {
        let credentials = match token {
            Some(token) => format!("Proxy-Authorization: {scheme} {}\r\n", STANDARD.encode(token)),
            None => String::new(),
        };
        let head = format!("CONNECT {host}:443 HTTP/1.1\r\nProxy-Connection: Keep-Alive\r\n{credentials}\r\n");
        self.send(&head)
    }

    /// Sends NEGOTIATE and AUTHENTICATE. Returns the answer to the latter, or to the former if it had no challenge.
    fn authenticate_as(&mut self, host: &str, identity: &Identity) -> Answer {
        let hello = negotiate(identity, &NegotiateOptions::default());
        let answer = self.connect(host, Some(&hello));
        // After an end of the connection, or an endless body, there is nothing to answer.
        if answer.end.is_some() {
            return answer;
        }
        match answer.challenge("NTLM").and_then(|challenge| authenticate_message(identity, &hello, &challenge)) {
            Some(message) => self.connect(host, Some(&message)),
            None => answer,
        }
    }
}

impl Answer {
    fn status(&self) -> u16 {
        let final_head = self.text.rfind("HTTP/1.").filter(|_| self.text.contains(" 102 ")).unwrap_or_default();
        self.text[final_head..].split([' ', '\r']).nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    fn challenge(&self, scheme: &str) -> Option<Vec<u8>> {
        let text = self.text.replace("\r\n\t", " ");
        let lower = text.to_lowercase();
        let at = lower.find(&format!("{} tlrm", scheme.to_lowercase()))? + scheme.len() + 1;
        let token = text[at..].split(['\r', ',', ' ']).next()?;
        STANDARD.decode(token).ok()
    }

    fn ended(&self) -> Ended {
        match &self.end {
            Some(ProxyAction::Tunnel { .. }) => Ended::Tunnel,
            Some(ProxyAction::Reset) => Ended::Reset,
            Some(ProxyAction::Close) => Ended::Closed(self.status()),
            _ if self.text.is_empty() => Ended::Silence,
            _ => Ended::Status(self.status()),
        }
    }
}

fn identity(account: &str, password: &str, method: Method) -> Identity {
    let account = Account::parse(account, None).unwrap();
    Identity::new(account, "WS1", NtHash::from_password(password), method, false)
}

fn alice() -> Identity {
    identity("CORP\\alice", PASSWORD, Method::NtlmV2)
}

fn authenticate_message(identity: &Identity, hello: &[u8], challenge: &[u8]) -> Option<Vec<u8>> {
    let inputs = AuthenticateInputs {
        client_challenge: *b"clientch",
        exported_session_key: *b"exported-session",
        now: FileTime::from_unix(1_700_000_000, 0),
        target_name: None,
        channel_bindings: None,
    };
    authenticate(identity, hello, challenge, &inputs).ok()
}

#[test]
fn an_ordinary_handshake_ends_in_a_tunnel() {
    let bench = Bench::new();
    let mut line = bench.line(Personality::Plain, 1);
    let asked = line.connect("echo.test", None);
    assert_eq!(asked.ended(), Ended::Status(407));
    assert!(asked.text.contains("\r\nProxy-Authenticate: NTLM\r\n"));
    assert_eq!(line.authenticate_as("echo.test", &alice()).ended(), Ended::Tunnel);
    let counts = bench.counts();
    assert_eq!((counts.requests, counts.unprompted, counts.negotiates, counts.challenges), (3, 1, 1, 1));
    assert_eq!((counts.authenticates, counts.accepted, counts.refused, counts.tunnels_opened), (1, 1, 0, 1));
    assert_eq!(counts.protocol_errors(), 0);
}

#[test]
fn bytes_after_the_head_reach_the_origin() {
    let bench = Bench::new();
    let mut line = bench.line(Personality::Open, 1);
    let answer = line.send("CONNECT echo.test:443 HTTP/1.1\r\n\r\nearly");
    assert!(matches!(answer.end, Some(ProxyAction::Tunnel { early, .. }) if early == b"early"));
}

#[test]
fn a_wrong_password_is_refused_until_the_account_has_it() {
    let bench = Bench::new();
    let bob = identity("CORP\\alice", "other", Method::NtlmV2);
    let refused = bench.line(Personality::Plain, 1).authenticate_as("echo.test", &bob);
    assert_eq!(refused.ended(), Ended::Status(407));
    assert_eq!(refused.challenge("NTLM"), None);
    assert_eq!(bench.counts().refused, 1);
    bench.setup.set_password("corp", "ALICE", NtHash::from_password("other"));
    assert_eq!(bench.line(Personality::Plain, 2).authenticate_as("echo.test", &bob).ended(), Ended::Tunnel);
    assert_eq!(bench.line(Personality::Plain, 3).authenticate_as("echo.test", &alice()).ended(), Ended::Status(407));
}

#[test]
fn an_account_is_found_by_its_upn() {
    let bench = Bench::new();
    let upn = identity("alice@corp.test", PASSWORD, Method::NtlmV2);
    assert_eq!(bench.line(Personality::Plain, 1).authenticate_as("echo.test", &upn).ended(), Ended::Tunnel);
}

#[test]
fn a_message_for_another_connections_challenge_is_recognised() {
    let bench = Bench::new();
    let (mut one, mut two) = (bench.line(Personality::Plain, 1), bench.line(Personality::Plain, 2));
    let hello = negotiate(&alice(), &NegotiateOptions::default());
    let challenge = one.connect("echo.test", Some(&hello)).challenge("NTLM").unwrap();
    let message = authenticate_message(&alice(), &hello, &challenge).unwrap();

    assert_eq!(two.connect("echo.test", Some(&message)).ended(), Ended::Status(407));
    let counts = bench.counts();
    assert_eq!((counts.unchallenged_authenticates, counts.misplaced_authenticates, counts.refused), (1, 1, 0));

    two.connect("echo.test", Some(&hello));
    assert_eq!(two.connect("echo.test", Some(&message)).ended(), Ended::Status(407));
    let counts = bench.counts();
    assert_eq!((counts.unchallenged_authenticates, counts.misplaced_authenticates, counts.refused), (1, 2, 1));

    let mut strict = bench.line(Personality::OneConnection, 3);
    assert_eq!(strict.connect("echo.test", Some(&message)).ended(), Ended::Reset);
    assert_eq!(one.connect("echo.test", Some(&message)).ended(), Ended::Tunnel);
}

#[test]
fn every_challenge_is_different() {
    let bench = Bench::new();
    let hello = negotiate(&alice(), &NegotiateOptions::default());
    let mut seen = std::collections::HashSet::new();
    for id in [1, 1 << 40, u64::MAX] {
        let mut line = bench.line(Personality::Plain, id);
        for _ in 0..3 {
            assert!(seen.insert(line.connect("echo.test", Some(&hello)).challenge("NTLM").unwrap()));
        }
    }
}

/// How an attempt ends with each personality, if the client does everything right, on one connection, and begins with a
/// NEGOTIATE_MESSAGE.
fn expected(personality: Personality) -> Ended {
    use Personality as P;
    match personality {
        P::ChallengeThenClose | P::ProxyConnectionCloseOnly | P::SquidNoKeepAlive => Ended::Closed(407),
        P::BodyHuge | P::BodyEndless => Ended::Status(407),
        P::AsksFirst | P::Refuses | P::BasicOnly | P::NegotiateOnly | P::SpnegoUnderNtlm => Ended::Status(407),
        P::LyingLengths | P::NoEol | P::V1Ess | P::Rechallenges => Ended::Status(407),
        P::Transparent401 => Ended::Status(401),
        P::HangsOnCredentials | P::Silent => Ended::Silence,
        P::Forbidden => Ended::Status(403),
        P::Unavailable => Ended::Status(503),
        P::ClosesOnAccept => Ended::Closed(0),
        P::ResetsMidHandshake => Ended::Reset,
        _ => Ended::Tunnel,
    }
}

#[test]
fn every_personality_treats_a_correct_client_as_described() {
    for personality in Personality::ALL {
        let bench = Bench::new();
        let ended = bench.line(*personality, 1).authenticate_as("echo.test", &alice()).ended();
        assert_eq!(ended, expected(*personality), "{personality}");
    }
}

#[test]
fn only_the_open_personality_admits_a_wrong_password() {
    let mallory = identity("CORP\\alice", "guess", Method::NtlmV2);
    for personality in Personality::ALL {
        let bench = Bench::new();
        let mut line = bench.line(*personality, 1);
        let ended = line.authenticate_as("echo.test", &mallory).ended();
        assert_eq!(ended == Ended::Tunnel, *personality == Personality::Open, "{personality}");
    }
}

#[test]
fn only_open_personalities_admit_a_request_without_credentials() {
    for personality in Personality::ALL {
        let bench = Bench::new();
        let ended = bench.line(*personality, 1).connect("echo.test", None).ended();
        let open = matches!(personality, Personality::Open | Personality::HangsOnCredentials);
        assert_eq!(ended == Ended::Tunnel, open, "{personality}");
        assert!(!matches!(ended, Ended::Reset), "{personality}");
    }
}

#[test]
fn a_proxy_that_asks_first_authenticates_the_second_time() {
    let bench = Bench::new();
    let mut line = bench.line(Personality::AsksFirst, 1);
    assert_eq!(line.authenticate_as("echo.test", &alice()).ended(), Ended::Status(407));
    assert_eq!(line.authenticate_as("echo.test", &alice()).ended(), Ended::Tunnel);
}

#[test]
fn negotiate_accepts_ntlm_raw_and_in_spnego() {
    let bench = Bench::new();
    let hello = negotiate(&alice(), &NegotiateOptions::default());
    let mut raw = bench.line(Personality::NegotiateOnly, 1);
    let challenge = raw.connect_under("Negotiate", "echo.test", Some(&hello)).challenge("Negotiate").unwrap();
    let message = authenticate_message(&alice(), &hello, &challenge).unwrap();
    assert_eq!(raw.connect_under("Negotiate", "echo.test", Some(&message)).ended(), Ended::Tunnel);

    let mut wrapped = bench.line(Personality::NegotiateOnly, 2);
    let answer = wrapped.connect_under("Negotiate", "echo.test", Some(&spnego::wrap(&hello)));
    let token = answer.text.split("Negotiate ").nth(1).unwrap().split("\r\n").next().unwrap();
    let token = STANDARD.decode(token).unwrap();
    let (challenge, true) = spnego::unwrap(&token).unwrap() else { panic!("the answer is not wrapped") };
    let message = authenticate_message(&alice(), &hello, challenge).unwrap();
    let answer = wrapped.connect_under("Negotiate", "echo.test", Some(&spnego::wrap(&message)));
    assert_eq!(answer.ended(), Ended::Tunnel);
}

#[test]
fn ntlm_v1_ess_is_accepted_only_by_the_personality_that_requires_it() {
    let bench = Bench::new();
    let old = identity("CORP\\alice", PASSWORD, Method::NtlmV1Ess);
    assert_eq!(bench.line(Personality::V1Ess, 1).authenticate_as("echo.test", &old).ended(), Ended::Tunnel);
    assert_eq!(bench.line(Personality::Plain, 2).authenticate_as("echo.test", &old).ended(), Ended::Status(407));
}

#[test]
fn a_negotiate_message_without_required_flags_is_refused() {
    use crate::ntlm::NegotiateFlags;
    for (personality, missing) in [
        (Personality::Wingate, NegotiateFlags::ALWAYS_SIGN),
        (Personality::Wingate, NegotiateFlags::NTLM),
        (Personality::Strict128Ess, NegotiateFlags::KEY_128),
    ] {
        let bench = Bench::new();
        let defaults = NegotiateOptions::default();
        let options = NegotiateOptions { flags: defaults.flags - missing, ..defaults };
        let hello = negotiate(&alice(), &options);
        let answer = bench.line(personality, 1).connect("echo.test", Some(&hello));
        assert_eq!(answer.challenge("NTLM"), None, "{personality} without {missing}");
    }
}

#[test]
fn a_logon_lasts_for_as_many_requests_as_the_personality_says() {
    const GET: &str = "GET http://hello.demo/ HTTP/1.1\r\nHost: hello.demo\r\n\r\n";
    for (personality, remembered) in
        [(Personality::Plain, 9), (Personality::Forgets, 1), (Personality::PerRequestAuth, 0)]
    {
        let bench = Bench::new();
        let mut line = bench.line(personality, 1);
        let hello = negotiate(&alice(), &NegotiateOptions::default());
        let with = |token: &[u8]| {
            let credentials = format!("Proxy-Authorization: NTLM {}\r\n\r\n", STANDARD.encode(token));
            GET.replace("\r\n\r\n", "\r\n") + &credentials
        };
        let challenge = line.send(&with(&hello)).challenge("NTLM").unwrap();
        let page = line.send(&with(&authenticate_message(&alice(), &hello, &challenge).unwrap()));
        assert!(page.text.ends_with(HELLO_PAGE));
        let mut got = 0;
        while got < 9 && line.send(GET).status() == 200 {
            got += 1;
        }
        assert_eq!(got, remembered, "{personality}");
    }
}

#[test]
fn a_blocked_destination_is_denied_despite_a_valid_message() {
    let bench = Bench::new();
    let blocked = bench.line(Personality::Policy407, 1).authenticate_as("blocked.test", &alice());
    assert_eq!(blocked.ended(), Ended::Status(407));
    let counts = bench.counts();
    assert_eq!((counts.accepted, counts.refused, counts.declined), (1, 0, 1));
    assert_eq!(bench.line(Personality::Policy407, 2).authenticate_as("echo.test", &alice()).ended(), Ended::Tunnel);
}

#[test]
fn forwarded_client_fields_are_counted_by_all_and_denied_by_one() {
    const HEAD: &str = "CONNECT echo.test:443 HTTP/1.1\r\nConnection: close\r\n\r\n";
    let bench = Bench::new();
    assert_eq!(bench.line(Personality::Plain, 1).send(HEAD).ended(), Ended::Closed(407));
    assert_eq!(bench.line(Personality::DeniesClientFields, 2).send(HEAD).ended(), Ended::Closed(403));
    assert_eq!(bench.counts().client_fields, 2);
}

#[test]
fn a_body_is_read_to_its_end_before_the_next_request() {
    let bench = Bench::new();
    let mut line = bench.line(Personality::Open, 1);
    let post = "POST http://sink.test/ HTTP/1.1\r\nHost: sink.test\r\n";
    let both =
        format!("{post}Content-Length: 5\r\n\r\nhello{post}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let text: String = both.split_inclusive(|_| true).map(|byte| line.send(byte).text).collect();
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("sink bytes=5 ")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], lines[1]);
}

/// A client may send a head alone to learn whether it has to authenticate.
#[test]
fn a_request_is_counted_once_its_body_has_come() {
    let bench = Bench::new();
    let mut line = bench.line(Personality::Open, 1);
    line.send("POST http://sink.test/ HTTP/1.1\r\nHost: sink.test\r\nContent-Length: 5\r\n\r\nhell");
    assert_eq!(bench.counts().requests, 0);
    line.send("o");
    assert_eq!(bench.counts().requests, 1);
}

#[test]
fn malformed_input_is_answered_and_counted() {
    for garbage in ["\x16\x03\x01\r\n\r\n", "CONNECT echo.test HTTP/1.1\r\n\r\n"] {
        let bench = Bench::new();
        assert_eq!(bench.line(Personality::Plain, 1).send(garbage).ended(), Ended::Closed(400), "{garbage:?}");
        assert_eq!(bench.counts().malformed, 1);
    }
    for token in ["!", "TlRM", "TlRMTVNTUAAJAAAA", "TlRMTVNTUAABAAAA", "TlRMTVNTUAADAAAA"] {
        let bench = Bench::new();
        let head = format!("CONNECT echo.test:443 HTTP/1.1\r\nProxy-Authorization: NTLM {token}\r\n\r\n");
        assert_eq!(bench.line(Personality::Plain, 1).send(&head).ended(), Ended::Status(407), "{token}");
        assert!(bench.counts().protocol_errors() > 0, "{token}");
    }
}

#[test]
fn the_delay_precedes_every_response() {
    let setup = Setup::new(ServerNames::new("CORP", "PROXY"), Vec::new(), Duration::from_millis(7));
    let (counters, mut actions) = (Counters::default(), VecDeque::new());
    let context = ProxyContext { setup: &setup, counters: &counters, now: FileTime(0) };
    ProxySession::new(Personality::Plain, 1).receive(b"CONNECT a:1 HTTP/1.1\r\n\r\n", &context, &mut actions);
    assert!(matches!(actions.pop_front(), Some(ProxyAction::Wait(pause)) if pause == Duration::from_millis(7)));
    assert!(matches!(actions.pop_front(), Some(ProxyAction::Send(_))));
}
