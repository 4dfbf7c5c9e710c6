//! NTLM messages, key derivations and whole authentications, compared with the crate `ntlmclient` where it does the
//! same.
//!
//! The messages resemble those of a Windows domain: five AV_PAIRs with names of ordinary length. The crate `sspi` is
//! not measured: even without optional features it needs 137 crates, among them release candidates of RSA and Kerberos
//! code, which every test run would build and every release would have to audit.
#![allow(clippy::unwrap_used, reason = "a bench that cannot set itself up has nothing to measure")]

mod support;

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main};
use ntlm_gateway::ntlm::{
    self, Account, AuthenticateInputs, AuthenticateMessage, ChallengeMessage, FileTime, Identity, Method,
    NegotiateFlags, NegotiateMessage, NegotiateOptions, NtHash, PayloadOrder, ServerChallengeOptions, VerifyOptions,
};
use support::{CpuTime, on_cpu_time};

type Group<'c> = BenchmarkGroup<'c, CpuTime>;

const PASSWORD: &str = "correct horse battery staple";
const USER: &str = "svc-egress";
const DOMAIN: &str = "CORP";
const WORKSTATION: &str = "GATEWAY-7F9C4D";
const NOW: FileTime = FileTime(0x01dc_5bd0_1234_5678);

/// The three messages of a handshake, and the identity that it authenticates.
struct Handshake {
    identity: Identity,
    negotiate: Vec<u8>,
    challenge: Vec<u8>,
    authenticate: Vec<u8>,
}

impl Handshake {
    fn new(method: Method, server_time: Option<FileTime>, target_domain: bool, key_exchange: bool) -> Handshake {
        let identity = Identity::new(account(), WORKSTATION, NtHash::from_password(PASSWORD), method, target_domain);
        let negotiate = ntlm::negotiate(&identity, &NegotiateOptions::default());
        let names = ("EMEA", "PROXY01", "emea.corp.example.com", "proxy01.emea.corp.example.com");
        let target_info =
            ServerChallengeOptions::target_info_of(names.0, names.1, names.2, names.3, server_time).unwrap();
        let options = ServerChallengeOptions {
            server_challenge: *b"\x01\x23\x45\x67\x89\xab\xcd\xef",
            target_name: names.0.to_owned(),
            target_is_domain: true,
            target_info: Some(target_info),
            insisted: if key_exchange { NegotiateFlags::KEY_EXCH } else { NegotiateFlags::default() },
            ..ServerChallengeOptions::default()
        };
        let challenge = ntlm::challenge(&negotiate, &options).unwrap();
        let authenticate = ntlm::authenticate(&identity, &negotiate, &challenge, &inputs()).unwrap();
        Handshake { identity, negotiate, challenge, authenticate }
    }

    fn prove(&self) -> Vec<u8> {
        let (negotiate, challenge) = (black_box(&self.negotiate), black_box(&self.challenge));
        ntlm::authenticate(&self.identity, negotiate, challenge, &inputs()).unwrap()
    }

    fn verify(&self, hash: &NtHash) {
        let options = VerifyOptions { allow_v1_ess: true, require_mic: false };
        let authenticate = black_box(&self.authenticate);
        black_box(ntlm::verify(authenticate, &self.negotiate, &self.challenge, |_, _| Some(hash), &options).unwrap());
    }
}

fn account() -> Account {
    Account { domain: DOMAIN.to_owned(), user: USER.to_owned() }
}

fn inputs() -> AuthenticateInputs<'static> {
    AuthenticateInputs {
        client_challenge: [0xaa; 8],
        exported_session_key: [0x55; 16],
        now: NOW,
        target_name: Some("HTTP/proxy01.emea.corp.example.com"),
        channel_bindings: None,
    }
}

fn messages(criterion: &mut Criterion<CpuTime>) {
    let handshake = Handshake::new(Method::NtlmV2, Some(NOW), false, false);
    let mut group = criterion.benchmark_group("message");
    negotiate_message(&mut group, &handshake);
    challenge_message(&mut group, &handshake);
    authenticate_message(&mut group, &handshake);
    group.finish();
}

fn negotiate_message(group: &mut Group<'_>, handshake: &Handshake) {
    let bytes = &handshake.negotiate;
    group.bench_function("negotiate/encode", |bench| {
        let options = NegotiateOptions::default();
        bench.iter(|| ntlm::negotiate(black_box(&handshake.identity), &options));
    });
    group.bench_function("negotiate/decode", |bench| {
        bench.iter(|| NegotiateMessage::decode(black_box(bytes)).unwrap());
    });
    let peer = ntlmclient::Message::Negotiate(ntlmclient::NegotiateMessage {
        flags: ntlmclient::Flags::from_bits_truncate(NegotiateOptions::DEFAULT_FLAGS.bits()),
        supplied_domain: String::new(),
        supplied_workstation: String::new(),
        os_version: ntlmclient::OsVersion::default(),
    });
    group.bench_function("negotiate/encode/ntlmclient", |bench| bench.iter(|| black_box(&peer).to_bytes().unwrap()));
}

fn challenge_message(group: &mut Group<'_>, handshake: &Handshake) {
    let bytes = &handshake.challenge;
    let decoded = ChallengeMessage::decode(bytes).unwrap();
    group.bench_function("challenge/encode", |bench| bench.iter(|| black_box(&decoded).encode().unwrap()));
    group.bench_function("challenge/decode", |bench| {
        bench.iter(|| ChallengeMessage::decode(black_box(bytes)).unwrap());
    });
    let peer = ntlmclient::Message::try_from(bytes.as_slice()).unwrap();
    group.bench_function("challenge/encode/ntlmclient", |bench| bench.iter(|| black_box(&peer).to_bytes().unwrap()));
    group.bench_function("challenge/decode/ntlmclient", |bench| {
        bench.iter(|| ntlmclient::Message::try_from(black_box(bytes.as_slice())).unwrap());
    });
}

fn authenticate_message(group: &mut Group<'_>, handshake: &Handshake) {
    let bytes = &handshake.authenticate;
    let decoded = AuthenticateMessage::decode(bytes).unwrap();
    group.bench_function("authenticate/encode", |bench| {
        bench.iter(|| black_box(&decoded).encode(PayloadOrder::NamesFirst).unwrap());
    });
    group.bench_function("authenticate/decode", |bench| {
        bench.iter(|| AuthenticateMessage::decode(black_box(bytes)).unwrap());
    });
    group.bench_function("authenticate/describe", |bench| bench.iter(|| ntlm::describe(black_box(bytes)).unwrap()));
}

/// From the bytes of the CHALLENGE_MESSAGE to those of the AUTHENTICATE_MESSAGE: the cost of one tunnel.
fn proofs(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("prove");
    let cases = [
        ("v2", Handshake::new(Method::NtlmV2, None, false, false)),
        ("v2+mic", Handshake::new(Method::NtlmV2, Some(NOW), false, false)),
        ("v2+mic+key_exchange", Handshake::new(Method::NtlmV2, Some(NOW), false, true)),
        // NTOWFv2 cannot be precomputed if the server names the domain.
        ("v2+mic+target_domain", Handshake::new(Method::NtlmV2, Some(NOW), true, false)),
        ("v1_ess", Handshake::new(Method::NtlmV1Ess, None, false, false)),
    ];
    for (name, handshake) in &cases {
        group.bench_function(*name, |bench| bench.iter(|| handshake.prove()));
    }
    let (_, handshake) = &cases[0];
    group.bench_function("v2/from_password", |bench| {
        bench.iter(|| {
            let hash = NtHash::from_password(black_box(PASSWORD));
            let identity = Identity::new(account(), WORKSTATION, hash, Method::NtlmV2, false);
            ntlm::authenticate(&identity, &handshake.negotiate, &handshake.challenge, &inputs()).unwrap()
        });
    });
    // `ntlmclient` keeps no hash between handshakes, has no MIC, and draws its client challenge itself.
    group.bench_function("v2/from_password/ntlmclient", |bench| bench.iter(|| prove_by_ntlmclient(handshake)));
    group.finish();
}

fn prove_by_ntlmclient(handshake: &Handshake) -> Vec<u8> {
    let message = ntlmclient::Message::try_from(black_box(handshake.challenge.as_slice())).unwrap();
    let ntlmclient::Message::Challenge(challenge) = message else { panic!("the message is a challenge") };
    let target_info: Vec<u8> = challenge.target_information.iter().flat_map(|pair| pair.to_bytes()).collect();
    let credentials = ntlmclient::Credentials {
        username: USER.to_owned(),
        password: black_box(PASSWORD).to_owned(),
        domain: DOMAIN.to_owned(),
    };
    let now = i64::try_from(NOW.0).unwrap();
    ntlmclient::respond_challenge_ntlm_v2(challenge.challenge, &target_info, now, &credentials)
        .to_message(&credentials, WORKSTATION, challenge.flags)
        .to_bytes()
        .unwrap()
}

/// The server's side, which recomputes NTOWFv2 every time.
fn verification(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("verify");
    let hash = NtHash::from_password(PASSWORD);
    for (name, method, server_time) in
        [("v2", Method::NtlmV2, None), ("v2+mic", Method::NtlmV2, Some(NOW)), ("v1_ess", Method::NtlmV1Ess, None)]
    {
        let handshake = Handshake::new(method, server_time, false, false);
        group.bench_function(name, |bench| bench.iter(|| handshake.verify(&hash)));
    }
    group.finish();
}

/// What is computed once per identity: NTOWFv1 from the password; NTOWFv2 and the names in UTF-16LE from NTOWFv1.
fn derivations(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("derive");
    group.bench_function("nt_hash", |bench| bench.iter(|| NtHash::from_password(black_box(PASSWORD))));
    group.bench_function("nt_hash/ntlmclient", |bench| {
        bench.iter(|| ntlmclient::ntlm_v1_password_func(black_box(PASSWORD)));
    });
    let hash = NtHash::from_password(PASSWORD);
    group.bench_function("identity", |bench| {
        bench.iter_batched(
            || (account(), hash.clone()),
            |(account, hash)| Identity::new(account, WORKSTATION, hash, Method::NtlmV2, false),
            BatchSize::SmallInput,
        );
    });
    let credentials =
        ntlmclient::Credentials { username: USER.to_owned(), password: PASSWORD.to_owned(), domain: DOMAIN.to_owned() };
    // Starts from the password, so it includes NTOWFv1.
    group.bench_function("ntowf_v2/from_password/ntlmclient", |bench| {
        bench.iter(|| ntlmclient::ntlm_v2_password_func(black_box(&credentials)));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = on_cpu_time();
    targets = messages, proofs, verification, derivations
}
criterion_main!(benches);
