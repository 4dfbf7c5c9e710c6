//! A SOCKS client that writes its messages itself, to control the exact bytes.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// A connection to a proxy, and the reply code with which it answered the request.
pub struct Replied {
    /// The connection; after a success, the tunnel.
    pub stream: TcpStream,
    /// 0 or, with SOCKS4, 90 for a success.
    pub code: u8,
}

/// Reads exactly as many bytes.
pub fn read_bytes(stream: &mut TcpStream, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A text after a byte with its length.
fn counted(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short text")][..], text].concat()
}

/// A SOCKS5 request for a host by name.
pub fn request5(name: &[u8], port: u16) -> Vec<u8> {
    [b"\x05\x01\x00\x03", &counted(name)[..], &port.to_be_bytes()].concat()
}

/// The login of RFC 1929.
pub fn login5(user: &str, password: &str) -> Vec<u8> {
    [&[1][..], &counted(user.as_bytes()), &counted(password.as_bytes())].concat()
}

/// A SOCKS4a request for a host by name.
pub fn request4a(name: &[u8], port: u16) -> Vec<u8> {
    [b"\x04\x01", &port.to_be_bytes()[..], b"\0\0\0\x01joe\0", name, b"\0"].concat()
}

/// Reads the reply to a SOCKS5 request.
pub fn reply5(mut stream: TcpStream) -> io::Result<Replied> {
    let reply = read_bytes(&mut stream, 10)?;
    assert_eq!((reply[0], &reply[2..]), (5, &[0, 1, 0, 0, 0, 0, 0, 0][..]), "{reply:?}");
    Ok(Replied { stream, code: reply[1] })
}

/// Sends a SOCKS5 greeting without authentication and this request in one write.
pub fn ask5(mut stream: TcpStream, request: &[u8]) -> io::Result<Replied> {
    stream.write_all(&[b"\x05\x01\x00", request].concat())?;
    assert_eq!(read_bytes(&mut stream, 2)?, [5, 0]);
    reply5(stream)
}

/// Sends a SOCKS4 request.
pub fn ask4(mut stream: TcpStream, request: &[u8]) -> io::Result<Replied> {
    stream.write_all(request)?;
    let reply = read_bytes(&mut stream, 8)?;
    assert_eq!((reply[0], &reply[2..]), (0, &[0; 6][..]), "{reply:?}");
    Ok(Replied { stream, code: reply[1] })
}
