//! Tokens of Kerberos: what a shard does for each connection. The tickets are those of the stub's KDC.
#![allow(clippy::unwrap_used, reason = "a bench that cannot set itself up has nothing to measure")]

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ntlm_gateway::auth::{Credentials, FirstLeg, Handshake, Nonces, Request, TicketSlot, TicketState, TokenTimes};
use ntlm_gateway::kerberos::{
    ApInputs, ClientSecret, ClockSkew, Credential, Etype, EtypeSet, ExchangeInputs, ExchangeOptions, InitialExchange,
    Kdc, KdcInputs, KdcPolicy, Keytab, Principal, PrincipalName, ServiceExchange, Step, Timestamp, accept,
};
use ntlm_gateway::ntlm::{Account, FileTime, Identity, Method, NtHash};
use support::{CpuTime, on_cpu_time};

const NOW_SECONDS: u64 = 1_800_000_000;
const REALM: &str = "EXAMPLE.TEST";

/// What the memberships of a user in Active Directory add to a ticket.
const PAC_BYTES: usize = 12 * 1024;

const ETYPES: [Etype; 4] = [Etype::Aes128Sha1, Etype::Aes256Sha1, Etype::Aes128Sha256, Etype::Aes256Sha384];

fn now() -> Timestamp {
    Timestamp::from_seconds(NOW_SECONDS)
}

/// A ticket whose session key has this etype, and the keytab of its service.
fn ticket(etype: Etype, ticket_padding_bytes: usize) -> (Credential, Keytab) {
    let hours = Duration::from_secs(36_000);
    let (lifetime, renewable) = (hours, hours);
    let policy = KdcPolicy { realm: REALM.into(), etypes: vec![etype], lifetime, renewable, ticket_padding_bytes };
    let mut kdc = Kdc::new(policy, &mut |bytes| bytes.fill(7)).unwrap();
    kdc.set_password("alice", "SecREt01").unwrap();
    kdc.set_random_keys("HTTP/proxy.test", &mut |bytes| bytes.fill(8)).unwrap();
    let mut ask = |request: &[u8]| {
        let inputs = KdcInputs { now: now(), session_key: [5; 32], confounders: [[1; 16], [2; 16]] };
        kdc.answer(request, &inputs).unwrap().bytes
    };
    let inputs = ExchangeInputs { now: now(), nonce: 0x1234_5678, confounder: [9; 16] };
    let options = ExchangeOptions { etypes: EtypeSet::new(false), lifetime, renewable };
    let client = Principal::parse(&format!("alice@{REALM}"), None).unwrap();
    let secret = ClientSecret::password("SecREt01");
    let mut initial = InitialExchange::new(client, secret, options, ClockSkew::default());
    let mut request = initial.start(&inputs).unwrap();
    let ticket_granting = loop {
        match initial.receive(&ask(&request.bytes), &inputs).unwrap() {
            Step::Send(next) => request = next,
            Step::Done(ticket_granting) => break ticket_granting,
        }
    };
    let service = PrincipalName::service("HTTP", "proxy.test").unwrap();
    let mut exchange = ServiceExchange::new(ticket_granting, service, None, options);
    let request = exchange.start(&inputs);
    let Ok(Step::Done(ticket)) = exchange.receive(&ask(&request.bytes), &inputs) else { panic!("no ticket") };
    assert_eq!(ticket.session_etype(), etype);
    (ticket, kdc.keytab())
}

fn inputs() -> ApInputs {
    ApInputs { time: now(), confounder: [1; 16], subkey: [2; 32], sequence_number: u32::MAX, channel_bindings: None }
}

fn tokens(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("kerberos");
    for etype in ETYPES {
        let (ticket, keytab) = ticket(etype, 0);
        let number = etype.number();
        group
            .bench_function(format!("AP-REQ/{number}"), |bencher| bencher.iter(|| black_box(&ticket).token(&inputs())));
        let token = ticket.token(&inputs());
        let reply = accept(&token.bytes, &keytab, now(), &[4; 16]).unwrap().reply.unwrap();
        group.bench_function(format!("verify AP-REP/{number}"), |bencher| {
            bencher.iter(|| token.expected.verify(black_box(&reply)).unwrap());
        });
        group.bench_function(format!("request/{number}"), |bencher| {
            with_credentials(&ticket, |credentials| {
                bencher.iter(|| request(black_box(credentials)));
            })
        });
    }
    let (large, _) = ticket(Etype::Aes256Sha1, PAC_BYTES);
    group.bench_function("AP-REQ/18 with a PAC of 12 KiB", |bencher| {
        bencher.iter(|| black_box(&large).token(&inputs()))
    });
    group.bench_function("request/18 with a PAC of 12 KiB", |bencher| {
        with_credentials(&large, |credentials| {
            bencher.iter(|| request(black_box(credentials)));
        })
    });
    group.finish();
}

/// Credentials that use this ticket.
fn with_credentials(ticket: &Credential, measure: impl FnOnce(&Arc<Credentials>)) {
    let slot = TicketSlot::fixed(Arc::new(TokenTimes::new(0)));
    slot.publish(TicketState::Ready(Arc::new(ticket.clone())), now());
    let account = Account::parse("CORP\\alice", None).unwrap();
    let identity = Identity::new(account, "WS", NtHash::from_password("SecREt01"), Method::NtlmV2, false);
    let ntlm = Credentials::new(identity, "proxy.test", FirstLeg::Negotiate);
    measure(&Arc::new(ntlm.with_kerberos(Arc::new(slot), true)));
}

/// All that is made for a CONNECT: the token, in SPNEGO and base64, in the head of the request.
fn request(credentials: &Arc<Credentials>) -> Vec<u8> {
    let request = Request::connect("origin.test:443", Vec::new());
    let mut handshake = Handshake::new(request, Arc::clone(credentials), 64 * 1024);
    let mut out = Vec::new();
    handshake.begin(&mut out);
    let now = FileTime::from_unix(NOW_SECONDS, 0);
    let nonces = Nonces { client_challenge: [0xaa; 8], exported_session_key: [1; 16], subkey: [2; 32], now };
    handshake.authenticate(&nonces, &mut out).unwrap();
    out
}

criterion_group! { name = kerberos; config = on_cpu_time(); targets = tokens }
criterion_main!(kerberos);
