//! Helpers for addresses and HTTP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Longest answer that [`http_get`] accepts.
const BODY_LIMIT_BYTES: u64 = 4 << 20;

/// A port of 127.0.0.1 that was free just now.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

/// The body of `GET path`, or an error that contains the status. Waits at most five seconds for each read.
pub fn http_get(address: SocketAddr, path: &str) -> io::Result<String> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(BODY_LIMIT_BYTES).read_to_string(&mut answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("the answer's head is incomplete"))?;
    match head.split_ascii_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("GET {path}: {}", head.lines().next().unwrap_or_default()))),
    }
}

/// Waits until something accepts connections at `address`, at most until `deadline`.
pub fn wait_until_accepting(address: SocketAddr, deadline: Instant) -> io::Result<()> {
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
