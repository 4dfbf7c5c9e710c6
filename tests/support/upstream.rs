//! An upstream proxy that asks for no proof and honours a half-close, which Squid does not: it closes both directions
//! when one ends. Its tunnels end in the test's own code, so that the test plays the origin.

use std::io::Write;
use std::net::TcpStream;

use super::client::read_head;
use super::listener::Listener;

/// Starts an upstream that answers every CONNECT with 200, `behind` in the same write, and lets `origin` play the
/// rest. A connection that asks for something else is a probe and ends at once.
pub fn open_upstream(behind: &'static [u8], origin: impl Fn(TcpStream) + Send + Sync + 'static) -> Listener {
    Listener::start(move |mut stream| {
        if read_head(&mut stream).is_ok_and(|head| head.starts_with("CONNECT ")) {
            let answer = [b"HTTP/1.1 200 Connection established\r\n\r\n", behind].concat();
            if stream.write_all(&answer).is_ok() {
                origin(stream);
            }
        }
    })
}
