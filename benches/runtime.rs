//! The cost of queries while thousands of tunnels are open: a scrape of the metrics, and the list of tunnels.
//!
//! The list is measured with one shard that has all tunnels, including the round trip through its mailbox: the longest
//! that an event of another tunnel may have to wait for it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ntlm_gateway::config::{self, Inputs, Setting, Settings, Source, keys, secrets};
use ntlm_gateway::gateway::Gateway;
use ntlm_gateway::stub::{StubOptions, StubServer};

/// Each needs four descriptors in this one process, and many systems allow 20,000.
const TUNNELS: usize = 4_000;

fn gateway(upstream: SocketAddr) -> Gateway {
    let mut settings = Settings::default();
    for (name, text) in [
        ("listen", "127.0.0.1:0"),
        ("admin", "127.0.0.1:0"),
        ("upstream", &upstream.to_string()),
        ("user", "CORP\\alice"),
        ("shards", "1"),
    ] {
        let key = keys::find(name).expect("a setting");
        settings.give(key, Setting::new(text.to_owned(), Source::Default));
    }
    let lookup = |name: &str| (name == secrets::password_variable()).then(|| "SecREt01".into());
    let inputs = Inputs::new(settings, lookup).expect("settings");
    Gateway::start(&config::load(&inputs).expect("a configuration"), || {}).expect("a gateway")
}

fn open(gateway: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).expect("a connection");
    stream.write_all(b"CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n").expect("a request");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream
}

fn asked(criterion: &mut Criterion) {
    let stub = StubServer::start(StubOptions::default().account("CORP", "alice", "SecREt01")).expect("a stub");
    let gateway = gateway(stub.address());
    let address = *gateway.listening().first().expect("an address");
    let tunnels: Vec<TcpStream> = (0..TUNNELS).map(|_| open(address)).collect();
    assert_eq!(gateway.tunnels().len(), TUNNELS);
    let mut group = criterion.benchmark_group(format!("with {TUNNELS} tunnels"));
    group.measurement_time(Duration::from_secs(3)).sample_size(20);
    group.bench_function("encode the metrics", |bencher| bencher.iter(|| gateway.metrics().encode().expect("text")));
    group.bench_function("list the tunnels", |bencher| bencher.iter(|| gateway.tunnels()));
    let list = gateway.tunnels();
    group.bench_function("write the list as JSON", |bencher| bencher.iter(|| list.to_json()));
    group.finish();
    drop(tunnels);
    gateway.stop();
    gateway.join().expect("an end");
}

criterion_group!(benches, asked);
criterion_main!(benches);
