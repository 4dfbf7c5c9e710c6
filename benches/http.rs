//! Heads between gateway and upstream: finding their end, parsing, and writing them.
#![allow(clippy::unwrap_used, reason = "a bench that cannot set itself up has nothing to measure")]

mod support;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ntlm_gateway::http::{
    ErrorResponse, ErrorType, FieldStorage, HeadEnd, ProxyAuthorization, ProxyStatus, RequestHead, ResponseHead,
    Version, challenges, connect_request, decode_token, error_response, established_response, find_challenge,
    offered_schemes, unfold_field_lines,
};
use ntlm_gateway::limits::HEAD_LIMIT_BYTES;
use support::{CpuTime, on_cpu_time};

/// What curl sends.
const CONNECT: &str = "CONNECT registry.example.com:443 HTTP/1.1\r\nHost: registry.example.com:443\r\n\
    User-Agent: curl/8.14.1\r\nProxy-Connection: Keep-Alive\r\n\r\n";

/// What a browser sends for plain HTTP.
const GET: &str = "GET http://www.example.com/assets/app.js?v=20261122 HTTP/1.1\r\nHost: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nReferer: http://www.example.com/\r\n\
    Cookie: session=0f8fad5bd9cb469fa16570867728950e; theme=dark; consent=1\r\nDNT: 1\r\n\
    Proxy-Connection: keep-alive\r\nPriority: u=2\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\r\n";

/// The CHALLENGE_MESSAGE of MS-NLMP's proxy example.
const CHALLENGE: &str = "TlRMTVNTUAACAAAAEAAQADgAAAA1goriluCDYHcYI/sAAAAAAAAAAFQAVABIAAAABQLODgAAAA9TAFAASQBSAEkAVAAxAEIA\
    AgAQAFMAUABJAFIASQBUADEAQgABABAAUwBQAEkAUgBJAFQAMQBCAAQAEABzAHAAaQByAGkAdAAxAGIAAwAQAHMAcABpAHIAaQB0ADEAYgAAAAAA";

const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy01\r\n\r\n";

/// The first 407, which lists the schemes.
fn refusal() -> String {
    "HTTP/1.1 407 Proxy Authentication Required\r\nVia: 1.1 PROXY01\r\nProxy-Authenticate: Negotiate\r\n\
     Proxy-Authenticate: Kerberos\r\nProxy-Authenticate: NTLM\r\n\
     Proxy-Authenticate: Basic realm=\"proxy, \\\"inner\\\"\"\r\nConnection: Keep-Alive\r\n\
     Proxy-Connection: Keep-Alive\r\nPragma: no-cache\r\nCache-Control: no-cache\r\nContent-Type: text/html\r\n\
     Content-Length: 701\r\n\r\n"
        .to_owned()
}

/// The second 407, which carries the CHALLENGE_MESSAGE.
fn challenged() -> String {
    format!(
        "HTTP/1.1 407 Proxy Authentication Required\r\nVia: 1.1 PROXY01\r\nProxy-Authenticate: NTLM {CHALLENGE}\r\n\
         Connection: Keep-Alive\r\nProxy-Connection: Keep-Alive\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\
         Content-Type: text/html\r\nContent-Length: 0\r\n\r\n"
    )
}

fn bytes_of(text: &str) -> Throughput {
    Throughput::Bytes(text.len() as u64)
}

fn head_end(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("head_end");
    for (name, head) in [("connect", CONNECT), ("get", GET)] {
        let head = head.as_bytes();
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(format!("{name}/whole"), |bench| {
            bench.iter(|| HeadEnd::request().find(black_box(head), HEAD_LIMIT_BYTES).unwrap());
        });
        // However the bytes arrive, the cost per byte must not grow with the length of the head.
        group.bench_function(format!("{name}/byte_by_byte"), |bench| {
            bench.iter(|| {
                let mut end = HeadEnd::request();
                (1..=head.len()).find_map(|seen| end.find(black_box(&head[..seen]), HEAD_LIMIT_BYTES).unwrap())
            });
        });
    }
    let longest = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(HEAD_LIMIT_BYTES - 64));
    group.throughput(bytes_of(&longest));
    group.bench_function("64_KiB/byte_by_byte", |bench| {
        let head = longest.as_bytes();
        bench.iter(|| {
            let mut end = HeadEnd::request();
            (1..=head.len()).find_map(|seen| end.find(black_box(&head[..seen]), HEAD_LIMIT_BYTES).unwrap())
        });
    });
    group.finish();
}

fn parse(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("parse");
    for (name, head) in [("request/connect", CONNECT), ("request/get", GET)] {
        group.throughput(bytes_of(head));
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let mut storage = FieldStorage::new();
                black_box(RequestHead::parse(black_box(head.as_bytes()), &mut storage).unwrap());
            });
        });
    }
    for (name, head) in [
        ("response/407_offers", refusal()),
        ("response/407_challenge", challenged()),
        ("response/200", ESTABLISHED.to_owned()),
    ] {
        group.throughput(bytes_of(&head));
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let mut storage = FieldStorage::new();
                black_box(ResponseHead::parse(black_box(head.as_bytes()), &mut storage).unwrap());
            });
        });
    }
    let mut head = refusal().into_bytes();
    group.bench_function("response/look_for_folded_lines", |bench| {
        bench.iter(|| unfold_field_lines(black_box(&mut head)));
    });
    group.finish();
}

fn authentication(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("challenges");
    let (refusal, challenged) = (refusal(), challenged());
    let (mut first, mut second) = (FieldStorage::new(), FieldStorage::new());
    let offers = ResponseHead::parse(refusal.as_bytes(), &mut first).unwrap().fields;
    let challenge = ResponseHead::parse(challenged.as_bytes(), &mut second).unwrap().fields;
    group.bench_function("all_of_four", |bench| bench.iter(|| challenges(black_box(&offers)).count()));
    group.bench_function("find_challenge/bare", |bench| {
        bench.iter(|| find_challenge(black_box(&offers), "NTLM").unwrap())
    });
    group.bench_function("find_challenge/token", |bench| {
        bench.iter(|| find_challenge(black_box(&challenge), "NTLM").unwrap())
    });
    group.bench_function("offered", |bench| bench.iter(|| offered_schemes(black_box(&offers))));
    group.bench_function("decode_token", |bench| bench.iter(|| decode_token(black_box(CHALLENGE)).unwrap()));
    group.finish();
}

fn encode(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("encode");
    let target = "registry.example.com:443";
    let mut out = Vec::with_capacity(4096);
    // As long as an AUTHENTICATE_MESSAGE with names of ordinary length.
    let message = [0x5a; 480];
    let authenticate = Some(ProxyAuthorization::of("NTLM", &message));
    for (name, credentials) in [("connect/bare", None), ("connect/authenticate", authenticate)] {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                out.clear();
                connect_request(&mut out, black_box(target), Version::Http11, b"", black_box(credentials));
                out.len()
            });
        });
    }
    group.bench_function("established", |bench| {
        bench.iter(|| {
            out.clear();
            established_response(&mut out);
            out.len()
        });
    });
    let error = ErrorResponse {
        status: 502,
        proxy_status: ProxyStatus {
            next_hop: Some("proxy01.corp.example.com:8080"),
            received_status: Some(407),
            ..ProxyStatus::error(ErrorType::ConnectionRefused, "connection refused by every address")
        },
        detail: "connection refused by every address",
        extra_fields: &[("Retry-After", "5")],
        omit_body: false,
    };
    group.bench_function("error_response", |bench| {
        bench.iter(|| {
            out.clear();
            error_response(&mut out, black_box(&error));
            out.len()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = on_cpu_time();
    targets = head_end, parse, authentication, encode
}
criterion_main!(benches);
