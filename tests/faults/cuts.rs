//! An upstream whose connection is cut at every possible byte.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ntlm_gateway::stub::{StubServer, pattern_mismatch};

use crate::stub;
use crate::support::bytes::pseudo_random;
use crate::support::client::{Answered, ask};
use crate::support::cutter::{Cut, CutKind, Cutter, Direction};
use crate::support::gateway::{Gateway, GatewayOptions};
use crate::support::in_process;
use crate::support::vitals::{Vitals, assert_nothing_leaked};

/// Nothing here waits for a time-out of the gateway, so a pause this long means that it is stuck.
const STANDSTILL: Duration = Duration::from_secs(30);

const BODY_BYTES: u64 = 700;

/// What a client saw, if none of its bytes was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientResult {
    /// The complete response.
    Complete,
    /// An error status from the gateway itself.
    GatewayError(u16),
    /// A part of the response, then a reset.
    Reset,
    /// A part of the response, then an end of stream.
    Truncated,
}

type RunExchange = fn(SocketAddr) -> Result<ClientResult, String>;

fn gateway_fault(answer: &Answered) -> Result<ClientResult, String> {
    let reported = answer.field("proxy-status").unwrap_or_default();
    let honest = (502..=504).contains(&answer.status()) && reported.starts_with("ntlm-gateway; error=");
    if honest {
        Ok(ClientResult::GatewayError(answer.status()))
    } else {
        Err(format!("not a response of the gateway: {}", answer.head))
    }
}

/// Reads until the end or until `most` bytes have arrived. Returns the bytes, and how the stream ended if it did.
fn read_up_to(stream: &mut TcpStream, most: usize) -> Result<(Vec<u8>, Option<ClientResult>), String> {
    stream.set_read_timeout(Some(STANDSTILL)).map_err(|error| error.to_string())?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while bytes.len() < most {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((bytes, Some(ClientResult::Truncated))),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok((bytes, Some(ClientResult::Reset)));
            }
            Err(error) => return Err(format!("stalled after {} bytes: {error}", bytes.len())),
        }
    }
    Ok((bytes, None))
}

/// Sends bytes after the CONNECT head, which the origin echoes.
fn through_a_tunnel(gateway: SocketAddr) -> Result<ClientResult, String> {
    let sent = pseudo_random(7, 300);
    let request = [b"CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n".as_slice(), &sent].concat();
    // Whatever happens to the handshake, the client gets a response.
    let mut answer = ask(gateway, &request).map_err(|error| format!("no answer: {error}"))?;
    if answer.status() != 200 {
        return gateway_fault(&answer);
    }
    let (back, end) = read_up_to(&mut answer.stream, sent.len())?;
    match sent.starts_with(&back) {
        true => Ok(end.unwrap_or(ClientResult::Complete)),
        false => Err(format!("a wrong byte among {}", back.len())),
    }
}

fn through_plain_http(gateway: SocketAddr) -> Result<ClientResult, String> {
    let request = format!("GET http://source-{BODY_BYTES}.test/ HTTP/1.1\r\nHost: source-{BODY_BYTES}.test\r\n\r\n");
    let mut answer = ask(gateway, request.as_bytes()).map_err(|error| format!("no answer: {error}"))?;
    if answer.status() != 200 {
        return gateway_fault(&answer);
    }
    if answer.field("content-length") != Some(&BODY_BYTES.to_string()) {
        return Err(format!("a client cannot tell a cut body from a whole one: {}", answer.head));
    }
    let (body, end) = read_up_to(&mut answer.stream, usize::try_from(BODY_BYTES).expect("a length"))?;
    match pattern_mismatch(&body, 0) {
        None => Ok(end.unwrap_or(ClientResult::Complete)),
        Some(place) => Err(format!("byte {place} is wrong")),
    }
}

fn lengths(stub: &StubServer, exchange: RunExchange) -> (u64, u64) {
    let cutter = Cutter::start(stub.address());
    let gateway = in_process::gateway(&cutter.address().to_string(), &[("warm", "0"), ("keep", "0")]);
    assert_eq!(exchange(in_process::address(&gateway)), Ok(ClientResult::Complete));
    in_process::stop(gateway);
    cutter.moved()
}

/// One gateway survives a cut at each byte and serves the next client completely each time.
fn one_cut_at_each_byte(stub: &StubServer, exchange: RunExchange, direction: Direction, kind: CutKind, bytes: u64) {
    let cutter = Cutter::start(stub.address());
    let mut options = GatewayOptions::through(cutter.address());
    options.args = ["--shards", "1", "--warm", "0", "--keep", "0", "--log-level", "info"].map(String::from).into();
    let mut gateway = Gateway::start(&options);
    assert_eq!(exchange(gateway.address()), Ok(ClientResult::Complete));
    let before = Vitals::of(gateway.admin_address()).expect("metrics");
    let mut seen = std::collections::BTreeMap::<String, u64>::new();
    for after in 0..=bytes {
        cutter.arm(Cut { direction, after, kind }, 1);
        let at = format!("{kind:?} after {after} of {bytes} bytes {direction:?}");
        let outcome = exchange(gateway.address()).unwrap_or_else(|why| panic!("{at}: {why}"));
        // Only the origin may end the stream, and this origin has not.
        assert!(
            kind != CutKind::Reset || outcome != ClientResult::Truncated,
            "{at}: a reset was passed on as an orderly end"
        );
        *seen.entry(format!("{outcome:?}")).or_default() += 1;
        cutter.disarm();
        assert_eq!(exchange(gateway.address()), Ok(ClientResult::Complete), "{at}: the next client");
    }
    println!("{kind:?} {direction:?}, {bytes} bytes: {seen:?}");
    assert!(gateway.is_running());
    assert_nothing_leaked(gateway.admin_address(), before, 0);
}

fn at_each_byte(exchange: RunExchange) {
    let stub = stub();
    let (up, down) = lengths(&stub, exchange);
    std::thread::scope(|scope| {
        for (direction, bytes) in [(Direction::Up, up), (Direction::Down, down)] {
            for kind in [CutKind::Reset, CutKind::Finish] {
                let stub = &stub;
                scope.spawn(move || one_cut_at_each_byte(stub, exchange, direction, kind, bytes));
            }
        }
    });
    assert_eq!(stub.counters().protocol_errors() - stub.counters().malformed, 0, "{}", stub.counters());
}

#[test]
fn a_tunnel_cut_at_any_byte_gets_an_error_or_reset_and_the_next_one_works() {
    at_each_byte(through_a_tunnel);
}

#[test]
fn a_plain_request_cut_at_any_byte_gets_an_error_or_reset_and_the_next_one_works() {
    at_each_byte(through_plain_http);
}

/// No attempt gets past that byte. Each byte needs a new gateway, because it ejects the upstream.
#[test]
fn an_upstream_always_cut_at_the_same_byte_gets_an_honest_error() {
    let stub = stub();
    for exchange in [through_a_tunnel as RunExchange, through_plain_http] {
        let (up, down) = lengths(&stub, exchange);
        for (direction, bytes) in [(Direction::Up, up), (Direction::Down, down)] {
            for (number, after) in (0..bytes).step_by(61).enumerate() {
                let kind = if number % 2 == 0 { CutKind::Reset } else { CutKind::Finish };
                let cutter = Cutter::start(stub.address());
                let gateway = in_process::gateway(&cutter.address().to_string(), &[]);
                cutter.arm(Cut { direction, after, kind }, usize::MAX);
                let at = format!("{kind:?} after {after} of {bytes} bytes {direction:?}");
                let outcome = exchange(in_process::address(&gateway)).unwrap_or_else(|why| panic!("{at}: {why}"));
                let in_mid_answer = matches!(outcome, ClientResult::Reset | ClientResult::Truncated);
                assert!(matches!(outcome, ClientResult::GatewayError(502)) || in_mid_answer, "{at}: {outcome:?}");
                assert!(cutter.accepted() <= 4, "{at}: {} dials for one request", cutter.accepted());
                in_process::stop(gateway);
            }
        }
    }
}

/// At some byte of each part of the exchange, the upstream stops sending and reading.
#[test]
fn an_upstream_that_stalls_at_any_byte_gets_504_in_time() {
    let stub = stub();
    // Not within the origin's bytes: once they flow, an error status can no longer be sent.
    for (exchange, of_origin) in [(through_a_tunnel as RunExchange, (300, 300)), (through_plain_http, (0, BODY_BYTES))]
    {
        let (up, down) = lengths(&stub, exchange);
        std::thread::scope(|scope| {
            for (direction, bytes) in [(Direction::Up, up - of_origin.0), (Direction::Down, down - of_origin.1)] {
                for after in (0..bytes).step_by(197) {
                    let stub = &stub;
                    scope.spawn(move || {
                        let cutter = Cutter::start(stub.address());
                        let short = [("timeouts.handshake", "1s"), ("timeouts.response", "1s")];
                        let gateway = in_process::gateway(&cutter.address().to_string(), &short);
                        cutter.arm(Cut { direction, after, kind: CutKind::Stall }, usize::MAX);
                        let outcome = exchange(in_process::address(&gateway));
                        assert!(
                            outcome == Ok(ClientResult::GatewayError(504)),
                            "after {after} of {bytes} bytes {direction:?}: {outcome:?}"
                        );
                        in_process::stop(gateway);
                    });
                }
            }
        });
    }
}
