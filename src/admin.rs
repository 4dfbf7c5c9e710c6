//! Metrics and health, on a separate address and separate threads.
//!
//! Each connection has a thread; there are few of them, each with a time limit, so nothing here can delay an event
//! loop. This is not a library because it must keep answering when the process is out of descriptors, which the
//! available small HTTP servers do not.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::http::{FieldStorage, HeadEnd, RequestHead, RequestTarget, reason_phrase};
use crate::limits;
use connections::{Connection, Connections};

mod connections;
mod encoding;
mod openmetrics;

/// What the administration server needs from the gateway.
pub trait Status: Send + Sync {
    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// The metrics cannot be encoded.
    fn metrics(&self) -> Result<Vec<u8>, String>;

    /// Whether all event loops respond.
    ///
    /// # Errors
    /// How many of them do not.
    fn alive(&self) -> Result<(), String>;

    /// Whether new tunnels can be expected to succeed.
    ///
    /// # Errors
    /// The reason why not.
    fn ready(&self) -> Result<String, String>;

    /// The open tunnels as JSON; `None` if `/tunnels` is disabled.
    fn tunnels(&self) -> Option<String>;
}

/// The administration server; it stops when it is dropped.
pub struct Admin {
    address: SocketAddr,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves `/metrics`, `/healthz`, `/readyz` and `/tunnels` on a listener.
    ///
    /// # Errors
    /// The listener has no address, or the thread cannot be started.
    pub fn start(listener: TcpListener, status: Arc<dyn Status>) -> io::Result<Admin> {
        let address = listener.local_addr()?;
        let ending = Arc::new(AtomicBool::new(false));
        let for_thread = Arc::clone(&ending);
        let thread =
            thread::Builder::new().name("admin".into()).spawn(move || serve(&listener, &status, &for_thread))?;
        Ok(Admin { address, ending, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // Wakes the thread from `accept`. If that fails, the thread ends with the process.
        let woken = TcpStream::connect_timeout(&self.address, limits::ADMIN_TIMEOUT).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, status: &Arc<dyn Status>, ending: &AtomicBool) {
    let connections = Arc::new(Connections::default());
    while !ending.load(Ordering::Acquire) {
        let Ok((stream, _)) = listener.accept() else {
            // Most likely out of descriptors; retrying at once would not help.
            thread::sleep(limits::ACCEPT_PAUSE);
            continue;
        };
        let Some(connection) = connections.admit(stream) else { continue };
        let (status, for_removal) = (Arc::clone(status), Arc::clone(&connections));
        let for_thread = Arc::clone(&connection);
        let spawned = thread::Builder::new().name("admin-client".into()).spawn(move || {
            // A client that has gone away or is too slow needs no response.
            let _ = answer(&for_thread, &*status);
            for_removal.remove(&for_thread);
        });
        if spawned.is_err() {
            connections.remove(&connection);
        }
    }
}

fn answer(connection: &Connection, status: &dyn Status) -> io::Result<()> {
    let answer = match read_head(connection)? {
        Some(head) => {
            connection.is_waited_for.store(false, Ordering::Release);
            respond(&head, status)
        }
        None => Answer::text(400, "the request is malformed or too long"),
    };
    let bytes = answer.into_bytes()?;
    connection.is_waited_for.store(true, Ordering::Release);
    connection.write(&bytes)
}

/// The response to a request.
struct Answer {
    code: u16,
    content_type: &'static str,
    body: Vec<u8>,
    /// Whether to compress a long body, as the client prefers; `None` for a body that is never compressed.
    gzip: Option<bool>,
}

impl Answer {
    fn text(code: u16, line: &str) -> Answer {
        Answer { code, content_type: TEXT, body: format!("{line}\n").into_bytes(), gzip: None }
    }

    fn into_bytes(self) -> io::Result<Vec<u8>> {
        let (body, coding) = match self.gzip {
            None => (self.body, ""),
            Some(false) => (self.body, "Vary: Accept, Accept-Encoding\r\n"),
            Some(true) => (encoding::gzip(&self.body)?, "Content-Encoding: gzip\r\nVary: Accept, Accept-Encoding\r\n"),
        };
        let (code, reason, content_type) = (self.code, reason_phrase(self.code), self.content_type);
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {code} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{coding}Connection: close\r\n\r\n",
        );
        Ok([head.as_bytes(), &body].concat())
    }
}

/// Reads up to the empty line; `None` for a head that is too long.
fn read_head(connection: &Connection) -> io::Result<Option<Vec<u8>>> {
    let (mut head, mut end) = (Vec::new(), HeadEnd::request());
    let mut buffer = [0; 2048];
    let until = Instant::now() + limits::ADMIN_TIMEOUT;
    loop {
        let count = connection.read(&mut buffer, until)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(buffer.get(..count).unwrap_or_default());
        match end.find(&head, limits::ADMIN_HEAD_LIMIT_BYTES) {
            Ok(None) => {}
            Ok(Some(length)) => {
                head.truncate(length);
                return Ok(Some(head));
            }
            Err(_) => return Ok(None),
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

fn respond(head: &[u8], status: &dyn Status) -> Answer {
    let mut storage = FieldStorage::new();
    let Ok(head) = RequestHead::parse(head, &mut storage) else {
        return Answer::text(400, "the request is malformed");
    };
    let RequestTarget::Origin(target) = head.target else {
        return Answer::text(400, "this is the administration address; the proxy listens on another address");
    };
    if head.method != "GET" {
        return Answer::text(405, "only GET is supported");
    }
    let long = |content_type, body| {
        let gzip = Some(encoding::prefers_gzip(head.fields.get_all("accept-encoding")));
        Answer { code: 200, content_type, body, gzip }
    };
    let prefers_openmetrics = || openmetrics::is_preferred(head.fields.get_all("accept"));
    match target.split('?').next().unwrap_or_default() {
        "/metrics" => match status.metrics() {
            Ok(text) if prefers_openmetrics() => {
                let converted = openmetrics::from_text(&String::from_utf8_lossy(&text));
                long(openmetrics::CONTENT_TYPE, converted.into_bytes())
            }
            Ok(text) => long(PROMETHEUS, text),
            Err(error) => Answer::text(500, &error),
        },
        "/healthz" => health(status.alive().map(|()| "ok".into())),
        "/readyz" => health(status.ready()),
        "/tunnels" => match status.tunnels() {
            Some(json) => long(JSON, json.into_bytes()),
            None => Answer::text(404, "/tunnels is available only with admin_tunnels = true"),
        },
        _ => Answer::text(404, "available: /metrics, /healthz, /readyz and, with admin_tunnels = true, /tunnels"),
    }
}

fn health(state: Result<String, String>) -> Answer {
    match state {
        Ok(lines) => Answer::text(200, &lines),
        Err(why) => Answer::text(503, &why),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    use super::*;

    struct Fixed;

    impl Status for Fixed {
        fn metrics(&self) -> Result<Vec<u8>, String> {
            Ok(b"up 1\n".to_vec())
        }
        fn alive(&self) -> Result<(), String> {
            Ok(())
        }
        fn ready(&self) -> Result<String, String> {
            Err("not yet".into())
        }
        fn tunnels(&self) -> Option<String> {
            None
        }
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn each_path_has_its_response_and_the_server_stops_when_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let status: Arc<dyn Status> = Arc::new(Fixed);
        let admin = Admin::start(listener, Arc::clone(&status)).unwrap();
        for (request, status, body) in [
            ("GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n", 200, "up 1\n"),
            ("GET /healthz?x HTTP/1.0\r\n\r\n", 200, "ok\n"),
            ("GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n", 503, "not yet\n"),
            (
                "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
                404,
                "available: /metrics, /healthz, /readyz and, with admin_tunnels = true, /tunnels\n",
            ),
            ("GET /tunnels HTTP/1.1\r\nHost: h\r\n\r\n", 404, "/tunnels is available only with admin_tunnels = true\n"),
            ("POST /metrics HTTP/1.1\r\nHost: h\r\n\r\n", 405, "only GET is supported\n"),
            (
                "CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n",
                400,
                "this is the administration address; the proxy listens on another address\n",
            ),
            ("nonsense\r\n\r\n", 400, "the request is malformed\n"),
        ] {
            let answer = ask(admin.address(), request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{request}: {answer}");
        }
        drop(admin);
        // The thread of the last client may still be ending.
        let ended = Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&status) > 1 && Instant::now() < ended {
            thread::yield_now();
        }
        assert_eq!(Arc::strong_count(&status), 1, "its threads have ended");
    }

    fn silent(address: SocketAddr, count: usize) -> Vec<TcpStream> {
        (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
    }

    #[test]
    fn silent_connections_do_not_block_a_probe() {
        let admin = Admin::start(TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(Fixed)).unwrap();
        let held = silent(admin.address(), 3 * limits::ADMIN_CONNECTIONS);
        let began = Instant::now();
        for _ in 0..20 {
            let answer = ask(admin.address(), "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        assert!(began.elapsed() < limits::ADMIN_TIMEOUT, "{:?}: the probes had to wait", began.elapsed());
        drop(held);
    }

    #[test]
    fn a_head_that_arrives_a_byte_at_a_time_times_out() {
        let admin = Admin::start(TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(Fixed)).unwrap();
        let mut stream = TcpStream::connect(admin.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let began = Instant::now();
        // Each byte arrives well within the time-out of one read, so only a limit on the whole head ends this.
        while stream.write_all(b"G").is_ok() && !matches!(stream.read(&mut [0]), Ok(0)) {
            assert!(began.elapsed() < 4 * limits::ADMIN_TIMEOUT, "still reading after {:?}", began.elapsed());
        }
    }

    #[test]
    fn a_scraper_that_prefers_openmetrics_gets_it() {
        let head = "GET /metrics HTTP/1.1\r\nHost: h\r\nAccept: application/openmetrics-text, text/plain;q=0.5\r\n\r\n";
        let answer = String::from_utf8(respond(head.as_bytes(), &Fixed).into_bytes().unwrap()).unwrap();
        assert!(
            answer.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\nup 1\n# EOF\n"), "{answer}");
    }

    #[test]
    fn a_scraper_that_asks_for_gzip_gets_it() {
        let head = |accept: &str| format!("GET /metrics HTTP/1.1\r\nHost: h\r\nAccept-Encoding: {accept}\r\n\r\n");
        let answered = |accept: &str| respond(head(accept).as_bytes(), &Fixed).into_bytes().unwrap();
        let split = |answer: Vec<u8>| {
            let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end..].to_vec())
        };
        let (head, body) = split(answered("deflate, gzip;q=0.9"));
        assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
        assert!(head.contains("Content-Encoding: gzip\r\nVary: Accept, Accept-Encoding\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        let mut text = String::new();
        flate2::read::GzDecoder::new(body.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "up 1\n");
        let (head, body) = split(answered("gzip;q=0"));
        assert!(!head.contains("Content-Encoding") && head.contains("Vary: Accept, Accept-Encoding\r\n"), "{head}");
        assert_eq!(body, b"up 1\n");
    }
}
