//! An HTTP origin with exactly defined responses, and a proxy that plays it after an unverified NTLM handshake.
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N?seed=S` | N pseudo-random bytes with a Content-Length |
//! | `/chunked/N?seed=S`, `/close/N?seed=S` | the same, chunked; delimited by the close |
//! | `/huge/N` | N zeros, not held in memory |
//! | `/status/N` | that status and a short page |
//! | `/sink` | the method, and the length and checksum of the body |
//! | `/swallow` | the length of the body, which is not held in memory |
//! | `/headers` | the request's head |
//! | `/encoded` | a `Content-Encoding` that nothing may decode |
//! | `/trailers`, `/hints` | chunk extensions and trailers; a 103 before the response |
//! | `/early` | 413 before the body is read |
//! | `/truncated/N` | a tenth of N bytes, then the end |
//! | `/events/N` | server-sent events, each with the time at which it was sent |
//! | `/pause/MS` | a page after this many milliseconds |
//! | `/ntlm` | a page on an authenticated connection; otherwise 401 |
//! | `/echo-upgrade` | 101, then echoes every byte |
//! | `/files/…` | a file of the directory of [`Web::of_files`] |
//! | `/git/…` | `git http-backend` on the repositories in that directory |

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::bytes::pseudo_random;
use super::cgi;
use super::listener::Listener;
use super::wire::{Wire, field};

/// The time between two server-sent events.
pub const EVENT_PAUSE: Duration = Duration::from_millis(150);

/// Sent because a proxy adds a Date of its own if there is none.
const DATE: &str = "Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n";

/// The requests that a server has received.
#[derive(Default)]
pub struct ReceivedRequests {
    heads: Mutex<Vec<String>>,
    /// Connections accepted.
    pub connections: AtomicUsize,
    /// NEGOTIATE_MESSAGEs, if it authenticates.
    pub negotiates: AtomicUsize,
    /// AUTHENTICATE_MESSAGEs, if it authenticates.
    pub authenticates: AtomicUsize,
    files: OnceLock<PathBuf>,
}

impl ReceivedRequests {
    /// The heads of all requests except those of handshakes.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of requests except those of handshakes.
    pub fn requests(&self) -> usize {
        self.heads().len()
    }
}

/// A running origin or proxy.
pub struct Web {
    listener: Listener,
    /// What it has received.
    pub seen: Arc<ReceivedRequests>,
}

/// The handler of a server: receives each request after the handshake; `true` keeps the connection open.
pub type Handler = dyn Fn(&mut Wire, &WebRequest<'_>) -> io::Result<bool> + Send + Sync;

/// A request whose head has been read.
pub struct WebRequest<'a> {
    /// The whole head.
    pub head: &'a str,
    /// The method.
    pub method: &'a str,
    /// The path and query.
    pub path: &'a str,
    /// The number of earlier requests on the connection, without those of the handshake.
    pub before: usize,
    /// The number of the connection.
    pub connection: usize,
    seen: &'a ReceivedRequests,
}

impl Web {
    /// An origin.
    pub fn origin() -> Web {
        Web::start(false, respond)
    }

    /// An origin with a handler of the test.
    pub fn origin_with(
        handler: impl Fn(&mut Wire, &WebRequest<'_>) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Web {
        Web::start(false, handler)
    }

    /// An origin that also serves the files and repositories of a directory.
    pub fn of_files(directory: PathBuf) -> Web {
        let web = Web::origin();
        web.seen.files.get_or_init(|| directory);
        web
    }

    /// A proxy that requires NTLM on each connection, accepts any credentials, and answers like the origin.
    pub fn proxy() -> Web {
        Web::start(true, respond)
    }

    /// A proxy with a handler of the test.
    pub fn proxy_with(handler: impl Fn(&mut Wire, &WebRequest<'_>) -> io::Result<bool> + Send + Sync + 'static) -> Web {
        Web::start(true, handler)
    }

    fn start(
        authenticates_clients: bool,
        handler: impl Fn(&mut Wire, &WebRequest<'_>) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Web {
        let seen = Arc::new(ReceivedRequests::default());
        let shared = Arc::clone(&seen);
        let listener = Listener::start(move |stream| {
            // The other side may close at any time.
            let _ = serve(stream, authenticates_clients, &shared, &handler);
        });
        Web { listener, seen }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// The head of a request for this path through a proxy.
    pub fn request(&self, method: &str, path: &str, fields: &str) -> String {
        request(method, &self.url(path), fields)
    }
}

/// A request head in the form for a proxy.
pub fn request(method: &str, url: &str, fields: &str) -> String {
    let authority = url.split('/').nth(2).unwrap_or_default();
    format!("{method} {url} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n")
}

/// Milliseconds since the first call in this process.
pub fn moment_ms() -> u128 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed().as_millis()
}

/// A checksum that reveals lost, duplicated and misplaced bytes (FNV-1a).
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn serve(stream: TcpStream, authenticates_clients: bool, seen: &ReceivedRequests, handler: &Handler) -> io::Result<()> {
    let connection = seen.connections.fetch_add(1, Ordering::Relaxed);
    let mut wire = Wire::on(stream);
    let (mut authenticated, mut before) = (!authenticates_clients, 0);
    while let Some(head) = wire.head()? {
        if !authenticated || field(&head, "proxy-authorization").is_some() {
            let credentials = field(&head, "proxy-authorization").unwrap_or_default();
            if !credentials.contains("TlRMTVNTUAAD") {
                wire.request_body(&head)?;
                seen.negotiates.fetch_add(1, Ordering::Relaxed);
                wire.send(demand(407, "Proxy-Authenticate", credentials.contains("TlRMTVNTUAAB")))?;
                continue;
            }
            seen.authenticates.fetch_add(1, Ordering::Relaxed);
            authenticated = true;
        }
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = match target.strip_prefix("http://") {
            Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
            None => target,
        };
        seen.heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        let asked = WebRequest { head: &head, method, path, before, connection, seen };
        if !handler(&mut wire, &asked)? {
            // Not closed at once: with unread bytes the close would become a reset and discard the response.
            wire.stream.shutdown(std::net::Shutdown::Write)?;
            wire.wait_at_most(Duration::from_secs(5));
            wire.rest()?;
            return Ok(());
        }
        before += 1;
    }
    Ok(())
}

/// A 401 or 407, with a CHALLENGE_MESSAGE if `challenged`.
pub fn demand(status: u16, field: &str, challenged: bool) -> String {
    // MS-NLMP 2.2.1.2: no TargetName, no TargetInfo; the flags are UNICODE, REQUEST_TARGET, NTLM, ALWAYS_SIGN and
    // EXTENDED_SESSIONSECURITY.
    let mut challenge = b"NTLMSSP\0\x02\0\0\0".to_vec();
    challenge.extend([0, 0, 0, 0, 48, 0, 0, 0]);
    challenge.extend(0x0008_8205_u32.to_le_bytes());
    challenge.extend(*b"\x01\x23\x45\x67\x89\xab\xcd\xef");
    challenge.extend([0; 8]);
    challenge.extend([0, 0, 0, 0, 48, 0, 0, 0]);
    let token = if challenged { format!(" {}", STANDARD.encode(challenge)) } else { String::new() };
    format!("HTTP/1.1 {status} Authenticate\r\n{field}: NTLM{token}\r\nContent-Length: 0\r\n\r\n")
}

/// The responses in the table above.
pub fn respond(wire: &mut Wire, asked: &WebRequest<'_>) -> io::Result<bool> {
    let (path, query) = asked.path.split_once('?').unwrap_or((asked.path, ""));
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let (kind, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let number: usize = rest.parse().unwrap_or(0);
    let seed = query.strip_prefix("seed=").and_then(|seed| seed.parse().ok()).unwrap_or(1);
    match kind {
        "early" => return early(wire),
        "git" => return cgi::git(wire, asked, files(asked), rest, query),
        "echo-upgrade" if field(asked.head, "upgrade").is_some() => return upgrade(wire, asked.head),
        "swallow" => {
            let length = field(asked.head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            wire.skip(length)?;
            page(wire, asked, 200, "", format!("{length}\n").as_bytes())?;
            return Ok(true);
        }
        "sink" if field(asked.head, "expect").is_some() => wire.send("HTTP/1.1 100 Continue\r\n\r\n")?,
        _ => {}
    }
    let body = wire.request_body(asked.head)?;
    match kind {
        "bytes" => page(wire, asked, 200, "", &pseudo_random(seed, number))?,
        "status" => page(wire, asked, u16::try_from(number).unwrap_or(500), "", b"a page\n")?,
        "headers" => page(wire, asked, 200, "", asked.head.as_bytes())?,
        "encoded" => page(
            wire,
            asked,
            200,
            "Content-Encoding: gzip\r\nETag: \"1\"\r\nX-Two: a\r\nX-Two: b\r\n",
            b"\x1f\x8bno gzip",
        )?,
        "sink" => {
            let text = format!("{} {} {:016x}\n", asked.method, body.len(), checksum(&body));
            page(wire, asked, 200, "", text.as_bytes())?;
        }
        "pause" => {
            std::thread::sleep(Duration::from_millis(number as u64));
            page(wire, asked, 200, "", b"at last\n")?;
        }
        "hints" => {
            wire.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")?;
            page(wire, asked, 200, "", b"hinted\n")?;
        }
        "ntlm" => origin_authentication(wire, asked)?,
        "files" => file(wire, asked, rest)?,
        "chunked" | "close" | "huge" | "trailers" | "truncated" | "events" => {
            return stream(wire, asked, kind, number, seed);
        }
        _ => page(wire, asked, 404, "", b"no such page\n")?,
    }
    Ok(true)
}

fn files<'a>(asked: &WebRequest<'a>) -> &'a std::path::Path {
    asked.seen.files.get().map_or(std::path::Path::new("/nonexistent"), PathBuf::as_path)
}

fn page(wire: &mut Wire, asked: &WebRequest<'_>, status: u16, fields: &str, body: &[u8]) -> io::Result<()> {
    let mut answer = format!("HTTP/1.1 {status} Said\r\n{DATE}{fields}").into_bytes();
    let bodiless = matches!(status, 204 | 304);
    if !bodiless {
        write!(answer, "Content-Length: {}\r\n", body.len())?;
    }
    answer.extend_from_slice(b"\r\n");
    if asked.method != "HEAD" && !bodiless {
        answer.extend_from_slice(body);
    }
    wire.send(answer)
}

fn file(wire: &mut Wire, asked: &WebRequest<'_>, name: &str) -> io::Result<()> {
    let path = files(asked).join(name);
    let path = if path.is_dir() { path.join("index.html") } else { path };
    match std::fs::read(path) {
        Ok(bytes) if !name.contains("..") => {
            let kind = if name.ends_with('/') { "Content-Type: text/html\r\n" } else { "" };
            page(wire, asked, 200, kind, &bytes)
        }
        _ => page(wire, asked, 404, "", b"no such file\n"),
    }
}

/// Responds before the body has arrived, and closes.
fn early(wire: &mut Wire) -> io::Result<bool> {
    wire.send("HTTP/1.1 413 Too much\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo much\n")?;
    Ok(false)
}

fn upgrade(wire: &mut Wire, head: &str) -> io::Result<bool> {
    let protocol = field(head, "upgrade").unwrap_or_default();
    wire.send(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\nhello "))?;
    loop {
        let bytes = wire.some()?;
        if bytes.is_empty() {
            return Ok(false);
        }
        wire.send(bytes)?;
    }
}

/// Responses that test framing.
fn stream(wire: &mut Wire, asked: &WebRequest<'_>, kind: &str, number: usize, seed: u64) -> io::Result<bool> {
    let head = match kind {
        "chunked" | "events" => "Transfer-Encoding: chunked\r\n".to_owned(),
        "trailers" => "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n".to_owned(),
        "close" => "Connection: close\r\n".to_owned(),
        _ => format!("Content-Length: {number}\r\n"),
    };
    let kind_of_content = if kind == "events" { "text/event-stream" } else { "application/octet-stream" };
    wire.send(format!("HTTP/1.1 200 OK\r\n{DATE}Content-Type: {kind_of_content}\r\n{head}\r\n"))?;
    if asked.method == "HEAD" {
        return Ok(kind != "close");
    }
    match kind {
        "chunked" => {
            for piece in pseudo_random(seed, number).chunks(1000) {
                wire.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())?;
            }
            wire.send("0\r\n\r\n")?;
        }
        "trailers" => {
            wire.send("5;name=\"a;b\"\r\nhello\r\n6\r\n world\r\n0;last\r\nX-Sum: 11\r\nContent-Length: 4\r\n\r\n")?;
        }
        "close" => {
            wire.send(pseudo_random(seed, number))?;
            return Ok(false);
        }
        "truncated" => {
            wire.send(vec![b'x'; number / 10])?;
            return Ok(false);
        }
        "events" => {
            for event in 0..number {
                let text = format!("data: {event} {}\n\n", moment_ms());
                wire.send(format!("{:x}\r\n{text}\r\n", text.len()))?;
                std::thread::sleep(EVENT_PAUSE);
            }
            wire.send("0\r\n\r\n")?;
        }
        _ => {
            let zeros = vec![0; 256 * 1024];
            for start in (0..number).step_by(zeros.len()) {
                wire.send(&zeros[..zeros.len().min(number - start)])?;
            }
        }
    }
    Ok(true)
}

/// An origin that authenticates connections. The page has the number of the connection and its user.
fn origin_authentication(wire: &mut Wire, asked: &WebRequest<'_>) -> io::Result<()> {
    static AUTHENTICATED: Mutex<Vec<(SocketAddr, usize, String)>> = Mutex::new(Vec::new());
    let here = (wire.stream.local_addr()?, asked.connection);
    let credentials = field(asked.head, "authorization").unwrap_or_default();
    let mut authenticated = AUTHENTICATED.lock().unwrap_or_else(PoisonError::into_inner);
    if credentials.contains("TlRMTVNTUAAD") {
        authenticated.retain(|(address, connection, _)| (*address, *connection) != here);
        authenticated.push((here.0, here.1, user_of(credentials)));
    }
    let known = authenticated.iter().find(|(address, connection, _)| (*address, *connection) == here).cloned();
    drop(authenticated);
    match known {
        Some((_, connection, user)) => {
            let mut text = String::new();
            let _ = writeln!(text, "connection {connection} user {user}");
            page(wire, asked, 200, "", text.as_bytes())
        }
        None => wire.send(demand(401, "WWW-Authenticate", credentials.contains("TlRMTVNTUAAB"))),
    }
}

/// The UserName of an AUTHENTICATE_MESSAGE (MS-NLMP 2.2.1.3), in ASCII.
fn user_of(credentials: &str) -> String {
    let token = credentials.split(' ').nth(1).unwrap_or_default();
    let message = STANDARD.decode(token).unwrap_or_default();
    let number = |at: usize| message.get(at).map_or(0, |byte| usize::from(*byte));
    let (length, offset) = (number(36) + 256 * number(37), number(40) + 256 * number(41));
    let name = message.get(offset..offset + length).unwrap_or_default();
    name.iter().filter(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
}
