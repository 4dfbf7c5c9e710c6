//! Tokens of Kerberos, with the recorded ticket of a real KDC: what a shard does for each connection.
#![allow(clippy::unwrap_used, reason = "a bench that cannot set itself up has nothing to measure")]

mod support;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ntlm_gateway::kerberos::{
    ApInputs, ClientSecret, ClockSkew, Credential, EtypeSet, ExchangeInputs, ExchangeOptions, InitialExchange, Keytab,
    Principal, PrincipalName, ServiceExchange, Step, Timestamp, accept,
};
use support::{CpuTime, on_cpu_time};

const PREAUTH_REQUIRED: &[u8] = include_bytes!("../src/kerberos/tests/recorded/preauth_required.der");
const AS_REP: &[u8] = include_bytes!("../src/kerberos/tests/recorded/as_rep.der");
const TGS_REP: &[u8] = include_bytes!("../src/kerberos/tests/recorded/tgs_rep.der");
const KEYTAB: &[u8] = include_bytes!("../src/kerberos/tests/recorded/http.keytab");

fn now() -> Timestamp {
    Timestamp::from_seconds(1_795_858_407)
}

/// The recorded ticket: 0.5 KB, with keys of aes256-cts-hmac-sha384-192.
fn ticket() -> Credential {
    let inputs = ExchangeInputs { now: now(), nonce: 0x1234_5678, confounder: [9; 16] };
    let hours = Duration::from_secs(36_000);
    let options = ExchangeOptions { etypes: EtypeSet::new(false), lifetime: hours, renewable: hours };
    let client = Principal::parse("alice@EXAMPLE.TEST", None).unwrap();
    let secret = ClientSecret::password("SecREt01");
    let mut initial = InitialExchange::new(client, secret, options, ClockSkew::default());
    initial.start(&inputs).unwrap();
    initial.receive(PREAUTH_REQUIRED, &inputs).unwrap();
    let Ok(Step::Done(ticket_granting)) = initial.receive(AS_REP, &inputs) else { panic!("no ticket") };
    let service = PrincipalName::service("HTTP", "proxy.test").unwrap();
    let mut exchange = ServiceExchange::new(ticket_granting, service, None, options);
    exchange.start(&inputs);
    let Ok(Step::Done(ticket)) = exchange.receive(TGS_REP, &inputs) else { panic!("no service ticket") };
    ticket
}

fn inputs() -> ApInputs {
    ApInputs { time: now(), confounder: [1; 16], subkey: [2; 32], sequence_number: 3, channel_bindings: None }
}

fn tokens(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("kerberos");
    let (ticket, keytab) = (ticket(), Keytab::parse(KEYTAB).unwrap());
    group.bench_function("AP-REQ", |bencher| bencher.iter(|| black_box(&ticket).token(&inputs())));
    let token = ticket.token(&inputs());
    let accepted = accept(&token.bytes, &keytab, now(), &[4; 16]).unwrap();
    let reply = accepted.reply.unwrap();
    group.bench_function("verify AP-REP", |bencher| bencher.iter(|| token.expected.verify(black_box(&reply)).unwrap()));
    group.finish();
}

criterion_group! { name = kerberos; config = on_cpu_time(); targets = tokens }
criterion_main!(kerberos);
