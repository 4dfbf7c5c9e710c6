//! Our own KDC issues a ticket only to a client that has the key, and only the ticket that this client asked for. The
//! input is a request.

use std::sync::LazyLock;
use std::time::Duration;

use ntlm_gateway::kerberos::{
    ClientSecret, ClockSkew, Credential, Etype, EtypeSet, ExchangeInputs, ExchangeOptions, InitialExchange, Kdc,
    KdcInputs, KdcOutcome, KdcPolicy, KdcRequest, Principal, PrincipalName, ServiceExchange, Step, Timestamp,
};

/// A changed request does not contain this many protected bytes by chance.
const SEALED_BYTES: usize = 32;

fn now() -> Timestamp {
    Timestamp::from_seconds(1_795_858_407)
}

fn kdc() -> Kdc {
    let policy = KdcPolicy {
        realm: "EXAMPLE.TEST".into(),
        etypes: vec![Etype::Aes256Sha1],
        lifetime: Duration::from_secs(3600),
        renewable: Duration::from_secs(7200),
        ticket_padding_bytes: 0,
    };
    let mut kdc = Kdc::new(policy, &mut |bytes| bytes.fill(1)).expect("a realm");
    kdc.set_password("alice", "SecREt01").expect("a name");
    kdc.set_random_keys("HTTP/proxy.test", &mut |bytes| bytes.fill(2)).expect("a name");
    kdc
}

fn kdc_inputs() -> KdcInputs {
    KdcInputs { now: now(), session_key: [3; 32], confounders: [[4; 16], [5; 16]] }
}

fn inputs() -> ExchangeInputs {
    ExchangeInputs { now: now(), nonce: 6, confounder: [7; 16] }
}

fn options() -> ExchangeOptions {
    let hours = Duration::from_secs(7200);
    ExchangeOptions { etypes: EtypeSet::new(false), lifetime: hours, renewable: hours }
}

/// The requests of a client with the right password, in order: without a key, with one, for the service, for renewal.
static REQUESTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let (mut kdc, mut requests) = (kdc(), Vec::new());
    let mut answer = |request: KdcRequest| {
        let answer = kdc.answer(&request.bytes, &kdc_inputs()).expect("it is a request").bytes;
        requests.push(request.bytes);
        answer
    };
    let alice = Principal::parse("alice@EXAMPLE.TEST", None).expect("a name");
    let secret = ClientSecret::password("SecREt01");
    let mut initial = InitialExchange::new(alice, secret, options(), ClockSkew::default());
    let first = initial.start(&inputs()).expect("a password is always usable");
    let Ok(Step::Send(second)) = initial.receive(&answer(first), &inputs()) else { panic!("it asks for the key") };
    let Ok(Step::Done(ticket)) = initial.receive(&answer(second), &inputs()) else { panic!("the key is right") };
    let ticket: Credential = ticket;
    let service = PrincipalName::service("HTTP", "proxy.test").expect("a name");
    answer(ServiceExchange::new(ticket.clone(), service, None, options()).start(&inputs()));
    answer(ServiceExchange::renewal(ticket, options()).start(&inputs()));
    requests
});

/// A KDC that has made the key of the account, which takes a while.
static READY: LazyLock<std::sync::Mutex<Kdc>> = LazyLock::new(|| {
    let mut kdc = kdc();
    let outcome = kdc.answer(&REQUESTS[1], &kdc_inputs()).expect("it is a request").outcome;
    assert_eq!(outcome, KdcOutcome::LoggedOn);
    std::sync::Mutex::new(kdc)
});

/// Checks one request.
pub fn check(input: &[u8]) {
    let mut kdc = READY.lock().expect("no check has panicked");
    let Some(answer) = kdc.answer(input, &kdc_inputs()) else { return };
    let requests = &*REQUESTS;
    // The input contains the end of what only the client could make: in an AS-REQ the time stamp, which precedes the
    // body, and in a TGS-REQ the body.
    let contains_end = |sealed: &[u8]| {
        let end = &sealed[sealed.len() - SEALED_BYTES..];
        input.windows(SEALED_BYTES).any(|window| window == end)
    };
    match answer.outcome {
        KdcOutcome::LoggedOn => {
            let both = requests[1].iter().rev().zip(requests[0].iter().rev());
            let body = both.take_while(|(one, other)| one == other).count();
            assert!(contains_end(&requests[1][..requests[1].len() - body]));
        }
        KdcOutcome::Granted => assert!(contains_end(&requests[2])),
        KdcOutcome::Renewed => assert!(contains_end(&requests[3])),
        KdcOutcome::Denied(code) => assert!(code.0 > 0),
    }
}

/// The requests of a client, and one that is cut.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = REQUESTS.clone();
    let mut cut = seeds[2].clone();
    cut.pop();
    seeds.push(cut);
    seeds
}
