//! An upstream proxy without authentication that supports half-closes. Squid does not: it closes both directions when
//! one ends. Its tunnels end in the test's own code, so the test plays the origin.

use std::io::Write;
use std::net::TcpStream;

use super::client::read_head;
use super::listener::Listener;

/// Starts an upstream that answers every CONNECT with 200, with `leftover` in the same write, and passes the
/// connection to `origin`. A connection with any other request is a check and is closed at once.
pub fn open_upstream(leftover: &'static [u8], origin: impl Fn(TcpStream) + Send + Sync + 'static) -> Listener {
    Listener::start(move |mut stream| {
        if read_head(&mut stream).is_ok_and(|head| head.starts_with("CONNECT ")) {
            let answer = [b"HTTP/1.1 200 Connection established\r\n\r\n", leftover].concat();
            if stream.write_all(&answer).is_ok() {
                origin(stream);
            }
        }
    })
}
