//! Proxies that share no code with the gateway: Squid, which serves TLS by GnuTLS, and HAProxy in front of Squid.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::support::bytes::{assert_same, pseudo_random};
use crate::support::certificates::{self, ECDSA_SHA384, Issued, RSA_SHA256};
use crate::support::client::{Answered, connect, echo_through};
use crate::support::gateway::{Gateway, GatewayOptions};
use crate::support::origin::echo_origin;
use crate::support::process::Process;
use crate::support::scratch::{Scratch, accepts, free_port, wait_for};
use crate::support::squid::{LoggedCredentials, Squid, SquidOptions};
use crate::support::tools::path_of;

const BOUND: Duration = Duration::from_secs(20);

/// If the peak memory of the gateway grew by more than this, in KiB, it held what it relays in memory.
const FLAT_KIB: u64 = 6 * 1024;

/// A proxy that serves TLS, and a gateway that uses it.
struct Rig {
    gateway: Gateway,
    squid: Squid,
    _haproxy: Option<Process>,
    _scratch: Scratch,
}

fn gateway_for(address: SocketAddr, certificate: &Issued) -> Gateway {
    let mut options = GatewayOptions::through(address);
    options.upstreams = vec![format!("https://{address}")];
    let ca = certificate.certificate.display().to_string();
    // A busy machine needs its time for two hundred handshakes at once.
    options.args = ["--tls-ca-file", &ca, "--tls-timeout=60s"].map(str::to_owned).into();
    Gateway::start(&options)
}

/// Squid itself serves TLS.
fn squid() -> Rig {
    let scratch = Scratch::new("squid-tls");
    let extensions = certificates::server("IP:127.0.0.1");
    let certificate = certificates::self_signed(&scratch, "squid", RSA_SHA256, &extensions, 30);
    let squid = Squid::start(&SquidOptions { tls: Some(certificate.clone()), ..SquidOptions::default() });
    let gateway = gateway_for(squid.address(), &certificate);
    Rig { gateway, squid, _haproxy: None, _scratch: scratch }
}

/// HAProxy serves TLS of at most this version in front of a Squid without.
fn haproxy(version: &str) -> Rig {
    let scratch = Scratch::new("haproxy-tls");
    let extensions = certificates::server("IP:127.0.0.1");
    let certificate = certificates::self_signed(&scratch, "haproxy", ECDSA_SHA384, &extensions, 30);
    let read = |path: &Path| std::fs::read_to_string(path).expect("a file of openssl's");
    let both = scratch.write("both.pem", read(&certificate.certificate) + &read(&certificate.key));
    let squid = Squid::start(&SquidOptions::default());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let conf = format!(
        "global\n    maxconn 1000\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n\
         frontend tls\n    bind {address} ssl crt {} ssl-max-ver {version}\n    default_backend squid\n\
         backend squid\n    server squid {}\n",
        both.display(),
        squid.address()
    );
    let mut command = Process::command(path_of("haproxy"));
    let process = Process::spawn("haproxy", command.arg("-db").arg("-f").arg(scratch.write("haproxy.cfg", conf)));
    assert!(wait_for(BOUND, || accepts(address).then_some(())).is_some(), "HAProxy does not start");
    let gateway = gateway_for(address, &certificate);
    Rig { gateway, squid, _haproxy: Some(process), _scratch: scratch }
}

fn open(rig: &Rig, origin: SocketAddr) -> Answered {
    let answer = connect(rig.gateway.address(), origin, b"").expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    answer
}

/// Bytes pass unchanged both ways, a half-close is one, and many tunnels are open at once.
fn assert_serves(rig: &Rig) {
    const TUNNELS: u64 = 200;
    let origin = echo_origin();
    let mut tunnel = open(rig, origin.address());
    let bytes = pseudo_random(1, 20 << 20);
    assert_same(&echo_through(&tunnel.stream, &bytes).expect("an echo"), &bytes, "20 MiB each way");
    tunnel.stream.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(tunnel.stream.read(&mut [0; 10]).expect("a clean end"), 0);

    std::thread::scope(|scope| {
        let one = |seed| {
            let origin = origin.address();
            scope.spawn(move || {
                let tunnel = open(rig, origin);
                let bytes = pseudo_random(seed, 100_000);
                assert_same(&echo_through(&tunnel.stream, &bytes).expect("an echo"), &bytes, "a tunnel's bytes");
                tunnel
            })
        };
        let threads: Vec<_> = (0..TUNNELS).map(one).collect();
        let tunnels: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("a client's thread")).collect();
        for (seed, tunnel) in (TUNNELS..).zip(&tunnels) {
            let bytes = pseudo_random(seed, 10_000);
            assert_same(&echo_through(&tunnel.stream, &bytes).expect("an echo"), &bytes, "while all are open");
        }
    });
    assert!(rig.squid.count(LoggedCredentials::Authenticate) > 0);
    assert_eq!(rig.gateway.metric("ntlm_gateway_faults_total", &[]).unwrap_or_default(), 0.0);
}

/// Squid does not: it sends no session tickets.
fn assert_resumes(rig: &Rig) {
    let resumed = rig.gateway.metric("ntlm_gateway_upstream_tls_handshakes_total", &[("session", "resumed")]);
    assert!(resumed > Some(0.0), "no session was resumed");
}

/// `NTLM_GATEWAY_TESTS_BULK_MIB` sets another length.
fn bulk_mib() -> u64 {
    let asked = std::env::var("NTLM_GATEWAY_TESTS_BULK_MIB").ok().and_then(|number| number.parse().ok());
    asked.unwrap_or(64)
}

#[test]
fn bulk_over_tls_arrives_unchanged_in_both_directions_in_bounded_memory() {
    require_tools!("squid", "ntlm_auth", "openssl");
    let rig = squid();
    let origin = echo_origin();
    // Allocates what every tunnel needs once.
    let warm_up = open(&rig, origin.address());
    echo_through(&warm_up.stream, &pseudo_random(1, 3 << 20)).expect("an echo");
    let tunnel = open(&rig, origin.address());
    let before = rig.gateway.memory_kib();
    std::thread::scope(|scope| {
        let mut writer = &tunnel.stream;
        scope.spawn(move || {
            for seed in 0..bulk_mib() {
                writer.write_all(&pseudo_random(seed, 1 << 20)).expect("a MiB");
            }
        });
        let (mut reader, mut piece) = (&tunnel.stream, vec![0; 1 << 20]);
        for seed in 0..bulk_mib() {
            reader.read_exact(&mut piece).expect("a MiB");
            assert_same(&piece, &pseudo_random(seed, 1 << 20), "the echo");
        }
        // Squid ends both directions when one ends.
        tunnel.stream.shutdown(Shutdown::Write).expect("the end");
        assert_eq!(reader.read(&mut piece).expect("a clean end"), 0);
    });
    let after = rig.gateway.memory_kib();
    assert!(after.1 <= before.1 + FLAT_KIB, "highest memory before and after: {before:?}, {after:?} KiB");
}

#[test]
fn squid_over_tls_carries_two_hundred_tunnels_and_bulk_both_ways() {
    require_tools!("squid", "ntlm_auth", "openssl");
    assert_serves(&squid());
}

#[test]
fn haproxy_with_tls_1_3_in_front_of_squid_carries_tunnels_and_bulk_both_ways() {
    require_tools!("squid", "ntlm_auth", "openssl", "haproxy");
    let rig = haproxy("TLSv1.3");
    assert_serves(&rig);
    assert_resumes(&rig);
}

#[test]
fn haproxy_with_tls_1_2_in_front_of_squid_carries_tunnels_and_bulk_both_ways() {
    require_tools!("squid", "ntlm_auth", "openssl", "haproxy");
    let rig = haproxy("TLSv1.2");
    assert_serves(&rig);
    assert_resumes(&rig);
}
