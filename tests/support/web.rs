//! An HTTP origin whose every byte is the test's own, and a proxy that plays it behind an NTLM handshake it does not verify.
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N?seed=S` | N pseudo-random bytes with their length |
//! | `/chunked/N?seed=S`, `/close/N?seed=S` | the same in chunks; up to the close |
//! | `/huge/N` | N zeros that are stored nowhere |
//! | `/status/N` | that status and a short page |
//! | `/sink` | what came: method, length and checksum of the body |
//! | `/swallow` | the length of a body that is stored nowhere |
//! | `/headers` | the request's head |
//! | `/encoded` | a `Content-Encoding` that nobody must undo |
//! | `/trailers`, `/hints` | chunk extensions and trailers; a 103 before the answer |
//! | `/early` | 413 before the body was read |
//! | `/truncated/N` | a tenth of N bytes, then the end |
//! | `/events/N` | server-sent events, each with the moment at which it was sent |
//! | `/pause/MS` | nothing for so long, then a page |
//! | `/ntlm` | a page for a connection that was authenticated; otherwise 401 |
//! | `/echo-upgrade` | 101, then every byte back |
//! | `/files/…` | a file of the directory that it was given |
//! | `/git/…` | `git http-backend` on the repositories there |

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

/// Between two server-sent events.
pub const EVENT_PAUSE: Duration = Duration::from_millis(150);

/// Given, because a proxy adds its own where there is none.
const DATE: &str = "Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n";

/// What was asked for, and how often.
#[derive(Default)]
pub struct Seen {
    heads: Mutex<Vec<String>>,
    /// Connections accepted.
    pub connections: AtomicUsize,
    /// NEGOTIATE_MESSAGEs, where proofs are asked for.
    pub negotiates: AtomicUsize,
    /// AUTHENTICATE_MESSAGEs, likewise.
    pub authenticates: AtomicUsize,
    files: OnceLock<PathBuf>,
}

impl Seen {
    /// The heads of all requests, those of handshakes left out.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.heads().len()
    }
}

/// A running origin or proxy.
pub struct Web {
    listener: Listener,
    /// What it has seen.
    pub seen: Arc<Seen>,
}

/// How a proxy's part is played: gets each request behind the handshake; `true` keeps the connection.
pub type Part = dyn Fn(&mut Wire, &Asked<'_>) -> io::Result<bool> + Send + Sync;

/// A request whose head was read.
pub struct Asked<'a> {
    /// The head, whole.
    pub head: &'a str,
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// How many requests came on the connection before it, those of the handshake left out.
    pub before: usize,
    /// The number of the connection.
    pub connection: usize,
    seen: &'a Seen,
}

impl Web {
    /// An origin.
    pub fn origin() -> Web {
        Web::start(false, web_part)
    }

    /// An origin with a part written in the test.
    pub fn origin_with(part: impl Fn(&mut Wire, &Asked<'_>) -> io::Result<bool> + Send + Sync + 'static) -> Web {
        Web::start(false, part)
    }

    /// An origin that serves the files and the repositories of a directory, too.
    pub fn of_files(directory: PathBuf) -> Web {
        let web = Web::origin();
        web.seen.files.get_or_init(|| directory);
        web
    }

    /// A proxy that asks for a proof on each connection, believes any, and answers as the origin itself.
    pub fn proxy() -> Web {
        Web::start(true, web_part)
    }

    /// A proxy with a part written in the test.
    pub fn proxy_with(part: impl Fn(&mut Wire, &Asked<'_>) -> io::Result<bool> + Send + Sync + 'static) -> Web {
        Web::start(true, part)
    }

    fn start(asks: bool, part: impl Fn(&mut Wire, &Asked<'_>) -> io::Result<bool> + Send + Sync + 'static) -> Web {
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let listener = Listener::start(move |stream| {
            // The other side may end whenever it likes.
            let _ = serve(stream, asks, &shared, &part);
        });
        Web { listener, seen }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// A request line and Host for a proxy.
    pub fn request(&self, method: &str, path: &str, fields: &str) -> String {
        request(method, &self.url(path), fields)
    }
}

/// A request head for a proxy.
pub fn request(method: &str, url: &str, fields: &str) -> String {
    let authority = url.split('/').nth(2).unwrap_or_default();
    format!("{method} {url} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n")
}

/// Milliseconds since the first call in this process.
pub fn moment_ms() -> u128 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed().as_millis()
}

/// A checksum that shows lost, doubled and misplaced bytes (FNV-1a).
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn serve(stream: TcpStream, asks: bool, seen: &Seen, part: &Part) -> io::Result<()> {
    let connection = seen.connections.fetch_add(1, Ordering::Relaxed);
    let mut wire = Wire::on(stream);
    let (mut proven, mut before) = (!asks, 0);
    while let Some(head) = wire.head()? {
        if !proven || field(&head, "proxy-authorization").is_some() {
            let proof = field(&head, "proxy-authorization").unwrap_or_default();
            if !proof.contains("TlRMTVNTUAAD") {
                wire.request_body(&head)?;
                seen.negotiates.fetch_add(1, Ordering::Relaxed);
                wire.send(demand(407, "Proxy-Authenticate", proof.contains("TlRMTVNTUAAB")))?;
                continue;
            }
            seen.authenticates.fetch_add(1, Ordering::Relaxed);
            proven = true;
        }
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = match target.strip_prefix("http://") {
            Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
            None => target,
        };
        seen.heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        let asked = Asked { head: &head, method, path, before, connection, seen };
        if !part(&mut wire, &asked)? {
            // Not at once: a close on unread bytes would become a reset and destroy the answer.
            wire.stream.shutdown(std::net::Shutdown::Write)?;
            wire.wait_at_most(Duration::from_secs(5));
            wire.rest()?;
            return Ok(());
        }
        before += 1;
    }
    Ok(())
}

/// A demand for a proof, with a challenge if it is answered.
pub fn demand(status: u16, field: &str, challenged: bool) -> String {
    // MS-NLMP 2.2.1.2: no TargetName, no TargetInfo; UNICODE, REQUEST_TARGET, NTLM, ALWAYS_SIGN, EXTENDED_SESSIONSECURITY.
    let mut challenge = b"NTLMSSP\0\x02\0\0\0".to_vec();
    challenge.extend([0, 0, 0, 0, 48, 0, 0, 0]);
    challenge.extend(0x0008_8205_u32.to_le_bytes());
    challenge.extend(*b"\x01\x23\x45\x67\x89\xab\xcd\xef");
    challenge.extend([0; 8]);
    challenge.extend([0, 0, 0, 0, 48, 0, 0, 0]);
    let token = if challenged { format!(" {}", STANDARD.encode(challenge)) } else { String::new() };
    format!("HTTP/1.1 {status} Prove yourself\r\n{field}: NTLM{token}\r\nContent-Length: 0\r\n\r\n")
}

/// The answers of the table above.
pub fn web_part(wire: &mut Wire, asked: &Asked<'_>) -> io::Result<bool> {
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
        "ntlm" => origin_proof(wire, asked)?,
        "files" => file(wire, asked, rest)?,
        "chunked" | "close" | "huge" | "trailers" | "truncated" | "events" => {
            return stream(wire, asked, kind, number, seed);
        }
        _ => page(wire, asked, 404, "", b"no such page\n")?,
    }
    Ok(true)
}

fn files<'a>(asked: &Asked<'a>) -> &'a std::path::Path {
    asked.seen.files.get().map_or(std::path::Path::new("/nonexistent"), PathBuf::as_path)
}

fn page(wire: &mut Wire, asked: &Asked<'_>, status: u16, fields: &str, body: &[u8]) -> io::Result<()> {
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

fn file(wire: &mut Wire, asked: &Asked<'_>, name: &str) -> io::Result<()> {
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

/// Answers before the body is there, and means it.
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

/// Answers whose framing is the point of them.
fn stream(wire: &mut Wire, asked: &Asked<'_>, kind: &str, number: usize, seed: u64) -> io::Result<bool> {
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

/// An origin that authenticates connections: one that was proven stays so, and says which it is and as whom.
fn origin_proof(wire: &mut Wire, asked: &Asked<'_>) -> io::Result<()> {
    static PROVEN: Mutex<Vec<(SocketAddr, usize, String)>> = Mutex::new(Vec::new());
    let here = (wire.stream.local_addr()?, asked.connection);
    let proof = field(asked.head, "authorization").unwrap_or_default();
    let mut proven = PROVEN.lock().unwrap_or_else(PoisonError::into_inner);
    if proof.contains("TlRMTVNTUAAD") {
        proven.retain(|(address, connection, _)| (*address, *connection) != here);
        proven.push((here.0, here.1, user_of(proof)));
    }
    let known = proven.iter().find(|(address, connection, _)| (*address, *connection) == here).cloned();
    drop(proven);
    match known {
        Some((_, connection, user)) => {
            let mut text = String::new();
            let _ = writeln!(text, "connection {connection} user {user}");
            page(wire, asked, 200, "", text.as_bytes())
        }
        None => wire.send(demand(401, "WWW-Authenticate", proof.contains("TlRMTVNTUAAB"))),
    }
}

/// UserName of an AUTHENTICATE_MESSAGE (MS-NLMP 2.2.1.3), in ASCII.
fn user_of(credentials: &str) -> String {
    let token = credentials.split(' ').nth(1).unwrap_or_default();
    let message = STANDARD.decode(token).unwrap_or_default();
    let number = |at: usize| message.get(at).map_or(0, |byte| usize::from(*byte));
    let (length, offset) = (number(36) + 256 * number(37), number(40) + 256 * number(41));
    let name = message.get(offset..offset + length).unwrap_or_default();
    name.iter().filter(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
}
