//! The stub on real sockets, also with curl as an independent client.

use super::*;
use crate::stub::{Checksum, HELLO_PAGE, StubCertificate, fill_pattern, pattern_mismatch, sink_line};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Output};
use std::time::Instant;

/// Far longer than anything here takes; reached only if something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> StubOptions {
    StubOptions::default().account("CORP", "alice", "SecREt01")
}

fn start(personality: Personality) -> StubServer {
    StubServer::start(options().personality(personality)).unwrap()
}

fn dial(server: &StubServer) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A tunnel through a stub that does not require authentication.
fn tunnel(server: &StubServer, host: &str) -> TcpStream {
    let mut stream = dial(server);
    write!(stream, "CONNECT {host}:443 HTTP/1.1\r\n\r\n").unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
    stream
}

/// Reads up to the empty line, and no further.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            break;
        }
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Runs curl through the stub. If there is no curl with NTLM, says so and returns `None`.
fn curl(server: &StubServer, password: &str, arguments: &[&str]) -> Option<Output> {
    let able = Command::new("curl").arg("--version").output();
    if !able.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains(" NTLM ")) {
        eprintln!("SKIPPED: no curl with NTLM");
        return None;
    }
    let proxy = format!("http://{}", server.address());
    let user = format!("CORP\\alice:{password}");
    let fixed = ["--disable", "--silent", "--show-error", "--noproxy", "", "--max-time", "20", "--proxy-ntlm"];
    Some(Command::new("curl").args(fixed).args(["-x", &proxy, "-U", &user]).args(arguments).output().unwrap())
}

#[test]
fn curl_is_served_over_tls_and_checks_the_certificate() {
    let certificate = StubCertificate::new(&["localhost", "127.0.0.1"]).unwrap();
    let server = StubServer::start(options().tls(certificate.server_config())).unwrap();
    let file = std::env::temp_dir().join(format!("ntlm-gateway-stub-{}.pem", std::process::id()));
    std::fs::write(&file, certificate.pem()).unwrap();
    let (proxy, ca) = (format!("https://{}", server.address()), file.to_string_lossy().into_owned());
    for way in [&["-p", "http://hello.demo/"][..], &["http://hello.demo/", "http://hello.demo/again"]] {
        let arguments = [&["-x", &proxy, "--proxy-cacert", &ca], way].concat();
        let Some(output) = curl(&server, "SecREt01", &arguments) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{way:?}: {said}");
        assert!(String::from_utf8_lossy(&output.stdout).ends_with(HELLO_PAGE));
    }
    let mistrusted = curl(&server, "SecREt01", &["-x", &proxy, "-p", "http://hello.demo/"]).unwrap();
    assert_eq!(mistrusted.status.code(), Some(60), "{}", String::from_utf8_lossy(&mistrusted.stderr));
    std::fs::remove_file(file).unwrap();
    let counts = server.stop();
    assert_eq!((counts.accepted, counts.protocol_errors()), (2, 0), "{counts}");
}

#[test]
fn curl_with_the_right_password_is_served() {
    let server = start(Personality::Plain);
    for way in [&["-p", "http://hello.demo/"][..], &["http://hello.demo/", "http://hello.demo/again"]] {
        let Some(output) = curl(&server, "SecREt01", way) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{way:?}: {said}");
        assert!(String::from_utf8_lossy(&output.stdout).ends_with(HELLO_PAGE));
    }
    let counts = server.stop();
    assert_eq!((counts.accepted, counts.refused, counts.tunnels_opened), (2, 0, 1));
    assert_eq!(counts.protocol_errors(), 0, "{counts}");
}

#[test]
fn curl_with_a_wrong_password_is_refused_until_the_account_has_it() {
    let server = start(Personality::Plain);
    let Some(output) = curl(&server, "secret01", &["-p", "http://hello.demo/"]) else { return };
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("407"));
    let counts = server.counters();
    assert_eq!((counts.authenticates, counts.accepted, counts.refused), (1, 0, 1));

    server.set_password("CORP", "alice", "secret01");
    let output = curl(&server, "secret01", &["-p", "http://hello.demo/"]).unwrap();
    assert!(output.status.success());
}

#[test]
fn curl_is_served_by_the_personalities_that_it_supports() {
    use Personality as P;
    let server = start(P::Plain);
    for personality in [
        P::Http10KeepAlive,
        P::BodyLength3k,
        P::BodyChunkedTrailers,
        P::NoReason,
        P::OddReason,
        P::OkWithContentLength,
        P::ByteAtATime,
        P::ChallengesAnyCase,
        P::ChallengesNotFirst,
        P::OtherSchemesBeside,
        P::Wingate,
        P::NoTargetInfo,
    ] {
        server.set_personality(personality);
        let Some(output) = curl(&server, "SecREt01", &["-p", "http://hello.demo/"]) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{personality}: {said}");
        assert_eq!(output.stdout, HELLO_PAGE.as_bytes(), "{personality}");
    }
}

#[test]
fn curl_uploads_a_body_once() {
    let server = start(Personality::Plain);
    let body = "x".repeat(100_000);
    let Some(output) = curl(&server, "SecREt01", &["--data", &body, "http://sink.test/"]) else { return };
    let mut sum = Checksum::default();
    sum.update(body.as_bytes());
    assert_eq!(String::from_utf8_lossy(&output.stdout), sink_line(&sum));
    let counts = server.stop();
    assert_eq!((counts.body_bytes, counts.negotiates_with_body), (100_000, 0));
}

#[test]
fn a_source_sends_its_bytes_and_then_ends() {
    let server = start(Personality::Open);
    let mut stream = tunnel(&server, "source-3000000.test");
    let bytes = read_all(&mut stream);
    assert_eq!(bytes.len(), 3_000_000);
    assert_eq!(pattern_mismatch(&bytes, 0), None);
}

#[test]
fn a_sink_reads_to_the_end_and_reports_what_it_received() {
    let server = start(Personality::Open);
    let mut stream = tunnel(&server, "sink.test");
    let mut bytes = vec![0; 2_000_003];
    fill_pattern(&mut bytes, 0);
    stream.write_all(&bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut sum = Checksum::default();
    sum.update(&bytes);
    assert_eq!(String::from_utf8(read_all(&mut stream)).unwrap(), sink_line(&sum));
}

#[test]
fn an_echo_returns_more_than_the_socket_buffers_hold() {
    let server = start(Personality::Open);
    let mut stream = tunnel(&server, "echo.test");
    let mut bytes = vec![0; 16 * 1024 * 1024];
    fill_pattern(&mut bytes, 0);
    let mut writer = stream.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let back = read_all(&mut stream);
    thread.join().unwrap();
    assert_eq!(back.len(), 16 * 1024 * 1024);
    assert_eq!(pattern_mismatch(&back, 0), None);
}

#[test]
fn first_bytes_come_with_the_200_and_the_others_follow() {
    let server = start(Personality::OkWithTunnelBytes);
    let Some(output) = curl(&server, "SecREt01", &["-p", "http://source-5000.test/", "--http0.9", "-o", "-"]) else {
        return;
    };
    assert_eq!(pattern_mismatch(&output.stdout, 0), None, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.len(), 5_000);
}

#[test]
fn the_delay_passes_before_each_response() {
    let delay = Duration::from_millis(30);
    let server = StubServer::start(StubOptions { delay, ..options().personality(Personality::Open) }).unwrap();
    let before = Instant::now();
    tunnel(&server, "echo.test");
    assert!(before.elapsed() >= delay);
}

#[test]
fn a_connection_ends_after_its_lifetime() {
    // Enough to open the tunnel on a busy machine.
    let lifetime = Some(Duration::from_secs(2));
    let server = StubServer::start(StubOptions { lifetime, ..options().personality(Personality::Open) }).unwrap();
    let mut stream = tunnel(&server, "silent.test");
    assert_eq!(read_all(&mut stream), b"");
    let counts = server.stop();
    assert_eq!((counts.connections_open(), counts.tunnels_open()), (0, 0), "{counts}");
}

#[test]
fn idle_connections_are_closed_if_the_personality_says_so() {
    let server = start(Personality::ClosesIdle);
    let mut stream = dial(&server);
    assert_eq!(read_all(&mut stream), b"");
}

#[test]
fn a_reset_arrives_as_a_reset_and_a_close_as_an_end() {
    let server = start(Personality::ClosesOnAccept);
    assert_eq!(read_all(&mut dial(&server)), b"");
    server.set_personality(Personality::OneConnection);
    let mut stream = dial(&server);
    // An AUTHENTICATE_MESSAGE, according to its type field.
    stream.write_all(b"CONNECT a:1 HTTP/1.1\r\nProxy-Authorization: NTLM TlRMTVNTUAADAAAA\r\n\r\n").unwrap();
    let error = stream.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn an_endless_body_does_not_block_other_connections() {
    let server = start(Personality::BodyEndless);
    let mut greedy = dial(&server);
    greedy.write_all(b"CONNECT a:1 HTTP/1.1\r\n\r\n").unwrap();
    assert!(read_head(&mut greedy).contains("chunked"));
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        (0..200).map(|_| greedy.read(&mut buffer).unwrap()).sum::<usize>()
    });
    server.set_personality(Personality::Open);
    let mut stream = tunnel(&server, "echo.test");
    stream.write_all(b"ping").unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"ping");
    assert!(reader.join().unwrap() > 0);
}

#[test]
fn several_loops_share_one_port() {
    let threads = NonZeroUsize::new(3).unwrap();
    let server = StubServer::start(StubOptions { threads, ..options().personality(Personality::Open) }).unwrap();
    let mut streams: Vec<_> = (0..200).map(|_| tunnel(&server, "echo.test")).collect();
    for stream in &mut streams {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    assert!(server.counters.iter().all(|counters| counters.counts().tunnels_opened > 0));
    assert_eq!(server.counters().tunnels_open(), 200);
    // Do not connect to its port to find out: another test may have got that port meanwhile.
    drop(server);
    for stream in &mut streams {
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "its connections must end with it");
    }
}
