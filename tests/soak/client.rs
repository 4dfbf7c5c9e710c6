//! A client's exchanges, with every byte checked.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use ntlm_gateway::stub::{Checksum, HELLO_PAGE, fill_pattern, pattern_mismatch, sink_line};
use rustix::net::sockopt::set_socket_linger;

use crate::support::bytes::pseudo_random;
use crate::support::client::read_head;

/// Longer than any fault lasts, plus the delays of a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How an exchange ended.
#[derive(Debug)]
pub enum ExchangeOutcome {
    /// All bytes arrived, this many, and all were correct.
    Fine(u64),
    /// The gateway reported an error.
    Refused,
    /// The connection was reset, or a body was shorter than announced.
    Broken,
    /// The client itself went away.
    Aborted,
    /// A violation.
    Wrong(String),
}

/// Random numbers derived from a seed.
pub struct Dice(pub u64);

impl Dice {
    /// Below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ word >> 31) % sides
    }

    fn length(&mut self, most: u64) -> usize {
        usize::try_from(self.roll(most) + 1).expect("a length")
    }
}

/// One exchange of a random kind.
pub fn exchange(gateway: SocketAddr, dice: &mut Dice) -> ExchangeOutcome {
    let outcome = match dice.roll(100) {
        0..40 => echo(gateway, dice),
        40..55 => source(gateway, dice),
        55..65 => sink(gateway, dice),
        65..80 => plain(gateway, dice),
        80..90 => long(gateway, dice),
        _ => vanish(gateway, dice),
    };
    outcome.unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ExchangeOutcome::Wrong(format!("stalled: {error}")),
        _ => ExchangeOutcome::Broken,
    })
}

/// The tunnel, or how the attempt ended.
fn tunnel(gateway: SocketAddr, origin: &str) -> io::Result<Result<TcpStream, ExchangeOutcome>> {
    let mut stream = dial(gateway)?;
    stream.write_all(format!("CONNECT {origin}:7 HTTP/1.1\r\nHost: {origin}:7\r\n\r\n").as_bytes())?;
    let head = read_head(&mut stream)?;
    Ok(match status(&head) {
        200 => Ok(stream),
        502..=504 if head.contains("Proxy-Status: ntlm-gateway; error=") => Err(ExchangeOutcome::Refused),
        _ => Err(ExchangeOutcome::Wrong(format!("an unexplained response: {head}"))),
    })
}

fn dial(gateway: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&gateway, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

macro_rules! granted {
    ($tunnel:expr) => {
        match $tunnel? {
            Ok(stream) => stream,
            Err(outcome) => return Ok(outcome),
        }
    };
}

fn echo(gateway: SocketAddr, dice: &mut Dice) -> io::Result<ExchangeOutcome> {
    let mut stream = granted!(tunnel(gateway, "echo.test"));
    let mut moved = 0;
    for _ in 0..=dice.roll(3) {
        let bytes = pseudo_random(dice.roll(u64::MAX), dice.length(64 * 1024));
        if let Some(wrong) = echo_exactly(&mut stream, &bytes)? {
            return Ok(wrong);
        }
        moved += 2 * bytes.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(end_of(&mut stream)?.unwrap_or(ExchangeOutcome::Fine(moved)))
}

/// Small messages with pauses, so that the tunnel is open while faults occur.
fn long(gateway: SocketAddr, dice: &mut Dice) -> io::Result<ExchangeOutcome> {
    let mut stream = granted!(tunnel(gateway, "echo.test"));
    let mut moved = 0;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(dice.roll(300)));
        let bytes = pseudo_random(dice.roll(u64::MAX), dice.length(2048));
        if let Some(wrong) = echo_exactly(&mut stream, &bytes)? {
            return Ok(wrong);
        }
        moved += 2 * bytes.len() as u64;
    }
    Ok(ExchangeOutcome::Fine(moved))
}

fn echo_exactly(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Option<ExchangeOutcome>> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    let mut filled = 0;
    while filled < back.len() {
        let count = stream.read(&mut back[filled..])?;
        if back[filled..filled + count] != bytes[filled..filled + count] {
            return Ok(Some(ExchangeOutcome::Wrong(format!("an echo differs after byte {filled}"))));
        }
        if count == 0 {
            return Ok(Some(ExchangeOutcome::Wrong(format!(
                "an echo ends in an orderly way after {filled} of {} bytes",
                bytes.len()
            ))));
        }
        filled += count;
    }
    Ok(None)
}

/// Expects the end of the stream and nothing before it.
fn end_of(stream: &mut TcpStream) -> io::Result<Option<ExchangeOutcome>> {
    Ok((stream.read(&mut [0])? != 0).then(|| ExchangeOutcome::Wrong("a byte too many".into())))
}

fn source(gateway: SocketAddr, dice: &mut Dice) -> io::Result<ExchangeOutcome> {
    let length = dice.roll(4 << 20) + 1;
    let mut stream = granted!(tunnel(gateway, &format!("source-{length}.test")));
    match pattern(&mut stream)? {
        Ok(moved) if moved == length => Ok(ExchangeOutcome::Fine(moved)),
        // Every failure is reported as a reset, so an orderly end means that the body is complete.
        Ok(moved) => Ok(ExchangeOutcome::Wrong(format!("{moved} of {length} bytes and then an orderly end"))),
        Err(wrong) => Ok(wrong),
    }
}

/// Reads the pattern to its end and returns its length.
fn pattern(stream: &mut TcpStream) -> io::Result<Result<u64, ExchangeOutcome>> {
    let (mut buffer, mut offset) = (vec![0; 64 * 1024], 0);
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(Ok(offset));
        }
        if let Some(place) = pattern_mismatch(&buffer[..count], offset) {
            return Ok(Err(ExchangeOutcome::Wrong(format!("byte {place} is wrong"))));
        }
        offset += count as u64;
    }
}

fn sink(gateway: SocketAddr, dice: &mut Dice) -> io::Result<ExchangeOutcome> {
    let length = dice.length(2 << 20);
    let mut stream = granted!(tunnel(gateway, "sink.test"));
    let (mut bytes, mut sum) = (vec![0; length], Checksum::default());
    fill_pattern(&mut bytes, dice.roll(1 << 20));
    sum.update(&bytes);
    stream.write_all(&bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut line = String::new();
    stream.read_to_string(&mut line)?;
    Ok(if line == sink_line(&sum) {
        ExchangeOutcome::Fine(length as u64)
    } else {
        ExchangeOutcome::Wrong(format!("sent {length} bytes, but the sink reports {line:?}"))
    })
}

/// Several requests on one connection.
fn plain(gateway: SocketAddr, dice: &mut Dice) -> io::Result<ExchangeOutcome> {
    let mut stream = dial(gateway)?;
    let mut moved = 0;
    for _ in 0..=dice.roll(4) {
        let length = dice.roll(100_000) + 1;
        let (host, large) =
            if dice.roll(2) == 0 { ("hello.test".into(), false) } else { (format!("source-{length}.test"), true) };
        stream.write_all(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
        let head = read_head(&mut stream)?;
        let body_bytes = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
        match (status(&head), body_bytes) {
            (200, Some(said)) => {
                let mut body = vec![0; said];
                stream.read_exact(&mut body)?;
                let right = match large {
                    false => body == HELLO_PAGE.as_bytes(),
                    true => said as u64 == length && pattern_mismatch(&body, 0).is_none(),
                };
                if !right {
                    return Ok(ExchangeOutcome::Wrong(format!("the wrong body for {host}, {said} bytes")));
                }
                moved += said as u64;
            }
            (502..=504, _) if head.contains("Proxy-Status: ntlm-gateway; error=") => {
                return Ok(ExchangeOutcome::Refused);
            }
            _ => return Ok(ExchangeOutcome::Wrong(format!("an unexplained response: {head}"))),
        }
    }
    Ok(ExchangeOutcome::Fine(moved))
}

/// Disconnects at some stage, with a FIN or an RST.
fn vanish(gateway: SocketAddr, dice: &mut Dice) -> io::Result<ExchangeOutcome> {
    let mut stream = dial(gateway)?;
    if dice.roll(2) == 0 {
        set_socket_linger(&stream, Some(Duration::ZERO))?;
    }
    let head = [
        "CONNECT stream.test:7 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://source-9000000.test/ HTTP/1.1\r\nHost: source-9000000.test\r\n\r\n",
    ];
    let head = head[usize::from(dice.roll(2) == 0)].as_bytes();
    match dice.roll(4) {
        0 => stream.write_all(&head[..dice.length(head.len() as u64 - 1)])?,
        1 => stream.write_all(head)?,
        2 => {
            stream.write_all(head)?;
            std::thread::sleep(Duration::from_millis(dice.roll(20)));
        }
        _ => {
            stream.write_all(head)?;
            read_head(&mut stream)?;
            let mut some = vec![0; dice.length(500_000)];
            let _ = stream.read(&mut some)?;
        }
    }
    Ok(ExchangeOutcome::Aborted)
}
