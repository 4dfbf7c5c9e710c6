//! Conversations with a stub that accepts Kerberos, without sockets and clocks.

use std::collections::VecDeque;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::kerberos::{
    ApInputs, ClientSecret, ClockSkew, Credential, ErrorCode, Etype, EtypeSet, ExchangeInputs, ExchangeOptions,
    InitialExchange, Kdc, KdcInputs, KdcPolicy, Key, KeytabEntry, KrbError, Principal, PrincipalName, ServiceExchange,
    ServiceToken, Step, TokenKind, read_token,
};
use crate::ntlm::FileTime;
use crate::stub::{Counters, Counts, Personality, ProxyAction, ProxyContext, ProxySession, ServerNames, Setup};

const START: u64 = 1_800_000_000;
const REALM: &str = "EXAMPLE.TEST";
const SERVICE: &str = "HTTP/proxy.test";

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(START + seconds)
}

fn kdc() -> Kdc {
    let policy = KdcPolicy {
        realm: REALM.into(),
        etypes: vec![Etype::Aes128Sha1],
        lifetime: Duration::from_secs(3600),
        renewable: Duration::ZERO,
        ticket_padding_bytes: 0,
    };
    let mut kdc = Kdc::new(policy, &mut |bytes| bytes.fill(1)).unwrap();
    kdc.set_password("alice", "x").unwrap();
    kdc.set_random_keys(SERVICE, &mut |bytes| bytes.fill(2)).unwrap();
    kdc
}

/// A ticket of `alice` for the service.
fn ticket(kdc: &mut Kdc) -> Credential {
    let mut answer = |request: &[u8]| {
        let inputs = KdcInputs { now: at(0), session_key: [3; 32], confounders: [[4; 16]; 2] };
        kdc.answer(request, &inputs).unwrap().bytes
    };
    let (lifetime, renewable) = (Duration::from_secs(3600), Duration::ZERO);
    let options = ExchangeOptions { etypes: EtypeSet::new(false), lifetime, renewable };
    let inputs = ExchangeInputs { now: at(0), nonce: 5, confounder: [6; 16] };
    let alice = Principal::parse("alice", Some(REALM)).unwrap();
    let mut exchange = InitialExchange::new(alice, ClientSecret::password("x"), options, ClockSkew::default());
    let mut request = exchange.start(&inputs).unwrap();
    let ticket_granting = loop {
        match exchange.receive(&answer(&request.bytes), &inputs).unwrap() {
            Step::Send(next) => request = next,
            Step::Done(credential) => break credential,
        }
    };
    let service = PrincipalName::service("HTTP", "proxy.test").unwrap();
    let mut exchange = ServiceExchange::new(ticket_granting, service, None, options);
    let request = exchange.start(&inputs);
    let Ok(Step::Done(ticket)) = exchange.receive(&answer(&request.bytes), &inputs) else { panic!("no ticket") };
    ticket
}

/// A token that was made at that second.
fn token(ticket: &Credential, seconds: u64) -> Vec<u8> {
    token_and_check(ticket, seconds).bytes
}

fn token_and_check(ticket: &Credential, seconds: u64) -> ServiceToken {
    ticket.token(&ApInputs {
        time: at(seconds),
        confounder: [7; 16],
        subkey: [8; 32],
        sequence_number: 9,
        channel_bindings: None,
    })
}

/// A stub, and one client's connection to it.
struct Bench {
    setup: Setup,
    counters: Counters,
    session: ProxySession,
}

/// A response.
#[derive(Debug)]
struct Answer {
    status: String,
    /// The values of Proxy-Authenticate.
    challenges: Vec<String>,
}

impl Bench {
    fn new(keytab: Keytab, with_ntlm: bool, personality: Personality) -> Bench {
        let setup = Setup::new(ServerNames::new("CORP", "PROXY"), Vec::new(), Duration::ZERO);
        let setup = setup.with_kerberos(StubKerberos { keytab, with_ntlm });
        Bench { setup, counters: Counters::default(), session: ProxySession::new(personality, 1) }
    }

    /// Sends a request for a page, with a token under Negotiate if there is one.
    fn get(&mut self, token: Option<&[u8]>, seconds: u64) -> Answer {
        let field = token.map(|token| format!("Proxy-Authorization: Negotiate {}\r\n", STANDARD.encode(token)));
        let head = format!("GET http://hello.test/ HTTP/1.1\r\nHost: hello.test\r\n{}\r\n", field.unwrap_or_default());
        let now = FileTime::from_unix(START + seconds, 0);
        let context = ProxyContext { setup: &self.setup, counters: &self.counters, now };
        let mut actions = VecDeque::new();
        self.session.receive(head.as_bytes(), &context, &mut actions);
        let Some(ProxyAction::Send(bytes)) = actions.pop_front() else { panic!("no answer") };
        let text = String::from_utf8(bytes).unwrap();
        let prefix = "Proxy-Authenticate: ";
        let challenges = text.lines().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect();
        Answer { status: text.split(' ').nth(1).unwrap().to_owned(), challenges }
    }

    fn counts(&self) -> Counts {
        self.counters.counts()
    }
}

impl Answer {
    /// The status, and the code of the KRB-ERROR beside it.
    fn refusal(&self) -> (&str, Option<ErrorCode>) {
        let code = self.token().map(|token| match read_token(&token).unwrap() {
            (TokenKind::Error, message) => KrbError::decode(message).unwrap().code,
            (kind, _) => panic!("{kind:?}"),
        });
        (&self.status, code)
    }

    fn token(&self) -> Option<Vec<u8>> {
        let text = self.challenges.iter().find_map(|challenge| challenge.strip_prefix("Negotiate "))?;
        Some(STANDARD.decode(text).unwrap())
    }
}

#[test]
fn a_ticket_authenticates_the_connection_or_each_request() {
    let (mut kdc, mut second) = (kdc(), 0);
    let ticket = ticket(&mut kdc);
    for (personality, without_token) in [(Personality::Plain, "200"), (Personality::PerRequestAuth, "407")] {
        let mut bench = Bench::new(kdc.keytab(), false, personality);
        assert_eq!(bench.get(None, 0).challenges, ["Negotiate"], "only Kerberos is offered");
        second += 1;
        let token = token_and_check(&ticket, second);
        let answer = bench.get(Some(&token.bytes), second);
        assert_eq!(answer.status, "200");
        assert_eq!(token.expected.verify(&answer.token().unwrap()), Ok(()), "the service authenticates, too");
        assert_eq!(bench.get(None, second).status, without_token, "{personality}");
        assert_eq!((bench.counts().tickets_accepted, bench.counts().tickets_refused), (1, 0));
    }
}

#[test]
fn each_reason_to_refuse_a_ticket_is_sent_as_a_krb_error() {
    let mut kdc = kdc();
    let ticket = ticket(&mut kdc);
    let mut bench = Bench::new(kdc.keytab(), false, Personality::Plain);
    let mut refused = |token: &[u8], seconds: u64| {
        let answer = bench.get(Some(token), seconds);
        let (status, code) = answer.refusal();
        assert_eq!(status, "407");
        code
    };
    let fresh = token(&ticket, 0);
    assert_eq!(refused(&fresh, 301), Some(ErrorCode::KRB_AP_ERR_SKEW));
    assert_eq!(refused(&token(&ticket, 3901), 3901), Some(ErrorCode::KRB_AP_ERR_TKT_EXPIRED));
    let mut changed = fresh.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&changed, 0), Some(ErrorCode::KRB_AP_ERR_BAD_INTEGRITY));
    assert_eq!(refused(b"garbage", 0), None);
    // NTLM is not offered, so it is not accepted in Negotiate either.
    assert_eq!(refused(b"NTLMSSP\0\x01\0\0\0", 0), None);
    assert_eq!((bench.counts().tickets_refused, bench.counts().tickets_accepted), (5, 0));

    let wrong = |change: fn(&mut KeytabEntry)| {
        let mut entries = kdc.keytab().entries().to_vec();
        entries.iter_mut().for_each(change);
        let mut bench = Bench::new(Keytab::new(entries), false, Personality::Plain);
        bench.get(Some(&fresh), 0).refusal().1
    };
    assert_eq!(wrong(|entry| entry.kvno += 1), Some(ErrorCode::KRB_AP_ERR_BADKEYVER));
    assert_eq!(wrong(|entry| entry.principal.realm = "OTHER".into()), Some(ErrorCode::KRB_AP_ERR_NOT_US));
    assert_eq!(
        wrong(|entry| entry.key = Key::new(Etype::Aes128Sha1, &[9; 16]).unwrap()),
        Some(ErrorCode::KRB_AP_ERR_MODIFIED)
    );
    assert_eq!(
        wrong(|entry| entry.key = Key::new(Etype::Aes128Sha256, &[9; 16]).unwrap()),
        Some(ErrorCode::KRB_AP_ERR_NOKEY)
    );
}

#[test]
fn a_token_is_accepted_once_over_all_connections() {
    let mut kdc = kdc();
    let ticket = ticket(&mut kdc);
    let mut bench = Bench::new(kdc.keytab(), false, Personality::Plain);
    let once = token(&ticket, 1);
    assert_eq!(bench.get(Some(&once), 1).status, "200");
    bench.session = ProxySession::new(Personality::Plain, 2);
    assert_eq!(bench.get(Some(&once), 2).refusal(), ("407", Some(ErrorCode::KRB_AP_ERR_REPEAT)));
    assert_eq!((bench.counts().tickets_repeated, bench.counts().protocol_errors()), (1, 1));
    assert_eq!(bench.get(Some(&token(&ticket, 2)), 2).status, "200");
}

#[test]
fn ntlm_is_offered_beside_kerberos_if_it_is_accepted() {
    let mut kdc = kdc();
    let ticket = ticket(&mut kdc);
    let mut bench = Bench::new(kdc.keytab(), true, Personality::OtherSchemesBeside);
    let offered = bench.get(None, 0).challenges;
    assert_eq!(offered, ["Negotiate", "NTLM", "Basic realm=\"proxy\""]);
    assert_eq!(bench.get(Some(&token(&ticket, 1)), 1).status, "200");
}
