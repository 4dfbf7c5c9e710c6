//! A client that writes CONNECT requests itself, to control the exact bytes.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a client waits for bytes unless its test sets another bound.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The longest response head that is accepted.
const HEAD_LIMIT_BYTES: usize = 64 * 1024;

/// A connection to a proxy after its response head.
pub struct Answered {
    /// The connection; after a 200 to CONNECT, the tunnel.
    pub stream: TcpStream,
    /// The response head, including its empty line.
    pub head: String,
}

impl Answered {
    /// The status code; 0 if there is none.
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// The first value of a field; its name is case-insensitive.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// A connection on which every wait is bounded by [`PATIENCE`].
pub fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    dial_within(PATIENCE, to)
}

/// [`dial`] with another bound.
pub fn dial_within(patience: Duration, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Requests a tunnel to `origin` from `proxy`, with `leftover` after the head in the same write.
pub fn connect(proxy: SocketAddr, origin: SocketAddr, leftover: &[u8]) -> io::Result<Answered> {
    connect_within(PATIENCE, proxy, origin, leftover)
}

/// [`connect`] with another bound on every wait.
pub fn connect_within(
    patience: Duration,
    proxy: SocketAddr,
    origin: SocketAddr,
    leftover: &[u8],
) -> io::Result<Answered> {
    let mut stream = dial_within(patience, proxy)?;
    let mut request = format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n").into_bytes();
    request.extend_from_slice(leftover);
    stream.write_all(&request)?;
    let head = read_head(&mut stream)?;
    Ok(Answered { stream, head })
}

/// Sends `bytes` unchanged and returns the response.
pub fn ask(proxy: SocketAddr, bytes: &[u8]) -> io::Result<Answered> {
    let mut stream = TcpStream::connect_timeout(&proxy, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    let head = read_head(&mut stream)?;
    Ok(Answered { stream, head })
}

/// Requests a tunnel to a host by name, `host:port`, from the given local address.
pub fn connect_name_from(source: IpAddr, proxy: SocketAddr, authority: &str) -> io::Result<Answered> {
    ask_from(source, proxy, format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes())
}

/// [`ask`] from the given local address.
pub fn ask_from(source: IpAddr, proxy: SocketAddr, bytes: &[u8]) -> io::Result<Answered> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::new(source, 0))?;
    connect(&socket, &proxy)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    let head = read_head(&mut stream)?;
    Ok(Answered { stream, head })
}

/// Requests a tunnel to a host by name, `host:port`, from `proxy`.
pub fn connect_name(proxy: SocketAddr, authority: &str) -> io::Result<Answered> {
    ask(proxy, format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes())
}

/// Reads up to the empty line and no further, so that the tunnel's bytes stay in the socket.
pub fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_LIMIT_BYTES {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Sends `bytes` through a tunnel to an echo server and returns what comes back. Writes and reads at the same time;
/// otherwise more bytes than the buffers on the path hold would block both.
pub fn echo_through(stream: &TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut reader = stream.try_clone()?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(bytes)
        });
        let mut back = vec![0; bytes.len()];
        reader.read_exact(&mut back)?;
        writer.join().expect("the writing thread")?;
        Ok(back)
    })
}
