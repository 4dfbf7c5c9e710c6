//! One connection to the API: TLS, HTTP/1.1, routes, and what goes wrong on demand.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustls::{ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::discovery::discovered;
use super::rules::{Outcome, status};
use super::{Fault, LoggedRequest, NAMESPACE, Shared, State};

/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the Leases are.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/";

type Stream = StreamOwned<ServerConnection, TcpStream>;

struct Request {
    method: String,
    target: String,
    token: String,
    body: Vec<u8>,
}

/// What a path and a method ask for.
enum Route {
    Lease {
        verb: &'static str,
        namespace: String,
        name: String,
    },
    /// What the API says about itself.
    Discovery(Value),
    Unknown,
}

/// How an answer is sent.
struct Delivery {
    extra: String,
    has_date: bool,
    is_cut: bool,
}

pub fn serve(tcp: TcpStream, shared: &Shared, closing: &AtomicBool) -> io::Result<()> {
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    tcp.set_nodelay(true)?;
    let config = {
        let mut state = shared.state();
        let is_wrong = state.take_fault(|fault| *fault == Fault::WrongCa).is_some();
        Arc::clone(if is_wrong { &state.other_identity.config } else { &state.identity.config })
    };
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, tcp);
    let mut pending = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut pending)? {
        let index = log(shared, &request);
        if !answer(&mut stream, &request, index, shared, closing)? {
            break;
        }
    }
    stream.conn.send_close_notify();
    stream.flush()
}

/// Answers a request. Returns whether the connection stays open.
fn answer(
    stream: &mut Stream,
    request: &Request,
    index: usize,
    shared: &Shared,
    closing: &AtomicBool,
) -> io::Result<bool> {
    let route = route(request);
    let verb = match &route {
        Route::Lease { verb, .. } => *verb,
        Route::Discovery(_) | Route::Unknown => "",
    };
    let fault = shared.state().take_fault(|fault| concerns(fault, verb));
    let mut delivery = Delivery { extra: String::new(), has_date: true, is_cut: false };
    let outcome = match &fault {
        Some(Fault::CutRequest) => return Ok(false),
        Some(Fault::Status(code)) => Some(status(*code, "Fault", "", "", "as the test demands")),
        Some(Fault::Body(body)) => return send(stream, shared, index, 200, body.as_bytes(), &delivery),
        Some(Fault::Redirect(url)) => {
            let _ = write!(delivery.extra, "Location: {url}\r\n");
            Some(status(307, "Fault", "", "", "elsewhere"))
        }
        Some(Fault::TooManyRequests(retry_after)) => {
            if let Some(seconds) = retry_after {
                let _ = write!(delivery.extra, "Retry-After: {seconds}\r\n");
            }
            Some(status(429, "TooManyRequests", "", "", "too many requests, please try again later"))
        }
        Some(Fault::Slow(delay)) => {
            std::thread::sleep(*delay);
            None
        }
        Some(Fault::CutAnswer) => {
            delivery.is_cut = true;
            None
        }
        Some(Fault::NoDate) => {
            delivery.has_date = false;
            None
        }
        _ => None,
    };
    let outcome = outcome.or_else(|| forbidden(request, &route, fault.as_ref(), &shared.state()));
    if outcome.is_none() && verb == "watch" {
        return watch(stream, request, fault.as_ref(), index, shared, closing).map(|()| false);
    }
    let (code, body) = outcome.unwrap_or_else(|| act(request, route, fault.as_ref(), shared));
    send(stream, shared, index, code, body.to_string().as_bytes(), &delivery)
}

/// Whether a fault is about requests with this verb.
fn concerns(fault: &Fault, verb: &str) -> bool {
    match fault {
        Fault::WrongCa => false,
        Fault::ConflictStorm => verb == "update",
        Fault::Forbidden(forbidden) => *forbidden == verb,
        Fault::WatchGone | Fault::WatchSilent | Fault::WatchLongLine(_) => verb == "watch",
        _ => true,
    }
}

/// The answer to a request that is not authenticated or not permitted.
fn forbidden(request: &Request, route: &Route, fault: Option<&Fault>, state: &State) -> Option<Outcome> {
    if !state.tokens.contains(&request.token) {
        return Some(status(401, "Unauthorized", "", "", "Unauthorized"));
    }
    let Route::Lease { verb, name, namespace } = route else { return None };
    let denied = || {
        let message = format!(
            "leases.coordination.k8s.io {name:?} is forbidden: User \"system:serviceaccount:{NAMESPACE}:ntlm-gateway\" \
             cannot {verb} resource \"leases\" in API group \"coordination.k8s.io\" in the namespace {namespace:?}"
        );
        Some(status(403, "Forbidden", "leases", name, &message))
    };
    if matches!(fault, Some(Fault::Forbidden(_))) || namespace != NAMESPACE {
        return denied();
    }
    // A Role that names its Lease permits a watch only for that name.
    if *verb == "watch" && !request.target.contains("fieldSelector=metadata.name%3D") {
        return denied();
    }
    None
}

fn act(request: &Request, route: Route, fault: Option<&Fault>, shared: &Shared) -> Outcome {
    let (verb, namespace, name) = match route {
        Route::Lease { verb, namespace, name } => (verb, namespace, name),
        Route::Discovery(body) => return (200, body),
        Route::Unknown => return status(404, "NotFound", "", "", "the server could not find the requested resource"),
    };
    let mut state = shared.state();
    if verb == "get" {
        return state.leases.get(&name);
    }
    if verb == "list" {
        return (200, state.leases.list());
    }
    let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
        return status(400, "BadRequest", "leases", &name, "the body is not JSON");
    };
    if fault == Some(&Fault::ConflictStorm) && state.leases.only().is_some() {
        let storm = state.leases.version();
        state.leases.edit(|lease| lease["metadata"]["labels"]["storm"] = json!(storm.to_string()));
    }
    let outcome = match verb {
        "create" => state.leases.create(&namespace, body),
        _ => state.leases.update(&namespace, &name, body),
    };
    shared.changed.notify_all();
    outcome
}

/// Streams changes until the time that the client has asked for is over.
fn watch(
    stream: &mut Stream,
    request: &Request,
    fault: Option<&Fault>,
    index: usize,
    shared: &Shared,
    closing: &AtomicBool,
) -> io::Result<()> {
    let parameter = |name: &str| {
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|pair| pair.0 == name)
            .map(|pair| pair.1.to_owned())
    };
    let seconds = parameter("timeoutSeconds").and_then(|value| value.parse().ok()).unwrap_or(3600);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let name = parameter("fieldSelector").and_then(|value| value.strip_prefix("metadata.name%3D").map(str::to_owned));
    let head = head(200, "Transfer-Encoding: chunked\r\n", true, shared);
    stream.write_all(head.as_bytes())?;
    stream.flush()?;
    shared.state().requests[index].status = 200;
    match fault {
        Some(Fault::WatchGone) => {
            let (_, gone) = status(410, "Expired", "", "", "too old resource version: 3 (1000)");
            write_chunk(stream, &format!("{}\n", json!({ "type": "ERROR", "object": gone })))?;
            return write_chunk(stream, "");
        }
        Some(Fault::WatchLongLine(bytes)) => write_chunk(stream, &"x".repeat(*bytes))?,
        _ => {}
    }
    let is_named = |object: &Value| name.as_deref().is_none_or(|name| object["metadata"]["name"] == name);
    // Without a version, the present state comes first.
    let mut seen = parameter("resourceVersion").and_then(|version| version.parse().ok());
    loop {
        let mut lines = String::new();
        {
            let mut state = shared.state();
            let after = *seen.get_or_insert_with(|| {
                let present = state.leases.only().filter(|lease| is_named(lease));
                lines = present.map(|lease| line("ADDED", lease)).unwrap_or_default();
                state.leases.version()
            });
            let is_silent = |state: &State| matches!(state.fault, Some((Fault::WatchSilent, _)));
            while lines.is_empty() && !is_over(deadline, closing) {
                let changes = if is_silent(&state) { Vec::new() } else { state.changes_after(after) };
                let named = changes.iter().filter(|change| is_named(&change.object));
                lines = named.map(|change| line(change.kind, &change.object)).collect();
                if !lines.is_empty() {
                    seen = changes.last().map(|change| change.version);
                    break;
                }
                let wait = Duration::from_millis(500);
                state = shared.changed.wait_timeout(state, wait).map_or_else(|e| e.into_inner().0, |(state, _)| state);
            }
        }
        if lines.is_empty() {
            return write_chunk(stream, "");
        }
        write_chunk(stream, &lines)?;
    }
}

fn is_over(deadline: Instant, closing: &AtomicBool) -> bool {
    Instant::now() >= deadline || closing.load(Ordering::Acquire)
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": object }))
}

fn write_chunk(stream: &mut Stream, data: &str) -> io::Result<()> {
    write!(stream, "{:x}\r\n{data}\r\n", data.len())?;
    stream.flush()
}

fn send(
    stream: &mut Stream,
    shared: &Shared,
    index: usize,
    code: u16,
    body: &[u8],
    delivery: &Delivery,
) -> io::Result<bool> {
    shared.state().requests[index].status = code;
    let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n{}", body.len(), delivery.extra);
    let mut whole = head(code, &fields, delivery.has_date, shared).into_bytes();
    whole.extend_from_slice(body);
    if delivery.is_cut {
        whole.truncate(whole.len() - body.len() / 2);
    }
    stream.write_all(&whole)?;
    stream.flush()?;
    Ok(!delivery.is_cut)
}

fn head(code: u16, fields: &str, has_date: bool, shared: &Shared) -> String {
    let mut head = format!("HTTP/1.1 {code} Answer\r\nAudit-Id: 1\r\n{fields}");
    if has_date {
        let _ = write!(head, "Date: {}\r\n", http_date(shared.state().clock_offset_s));
    }
    head + "\r\n"
}

/// The time, with an offset, as a `Date` has it.
fn http_date(offset_s: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let seconds = now.checked_add_signed(offset_s).expect("a time");
    let (day, of_day) = (seconds / 86_400, seconds % 86_400);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][usize::try_from(day % 7).expect("below 7")];
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut year, mut left) = (1970, day);
    while left >= if is_leap(year) { 366 } else { 365 } {
        left -= if is_leap(year) { 366 } else { 365 };
        year += 1;
    }
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{weekday}, {:02} {} {year} {hour:02}:{minute:02}:{second:02} GMT", left + 1, months[month])
}

fn log(shared: &Shared, request: &Request) -> usize {
    let requests = &mut shared.state().requests;
    requests.push(LoggedRequest { method: request.method.clone(), target: request.target.clone(), status: 0 });
    requests.len() - 1
}

fn route(request: &Request) -> Route {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    if let Some(body) = discovered(path) {
        return Route::Discovery(body);
    }
    let Some((namespace, rest)) = path.strip_prefix(LEASES).and_then(|rest| rest.split_once("/leases")) else {
        return Route::Unknown;
    };
    let name = rest.strip_prefix('/').unwrap_or(rest);
    let is_watch = query.split('&').any(|pair| pair == "watch=1" || pair == "watch=true");
    let verb = match (request.method.as_str(), name.is_empty()) {
        ("GET", true) if is_watch => "watch",
        // By kubectl. The gateway's Role does not permit it.
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", true) => "create",
        ("PUT", false) => "update",
        _ => return Route::Unknown,
    };
    Route::Lease { verb, namespace: namespace.to_owned(), name: name.to_owned() }
}

/// Reads a request; `None` if the client has closed the connection.
fn read_request(stream: &mut Stream, pending: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let end = loop {
        if let Some(end) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if !read_more(stream, pending)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&pending[..end]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let field = |name: &str| {
        let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|field| field.0.eq_ignore_ascii_case(name)).map(|field| field.1.trim().to_owned())
    };
    let length: usize = field("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    while pending.len() < end + 4 + length {
        if !read_more(stream, pending)? {
            return Ok(None);
        }
    }
    let token = field("authorization").and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned));
    let body = pending[end + 4..end + 4 + length].to_vec();
    let request =
        Request { method: method.to_owned(), target: target.to_owned(), token: token.unwrap_or_default(), body };
    pending.drain(..end + 4 + length);
    Ok(Some(request))
}

fn read_more(stream: &mut Stream, pending: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 16 * 1024];
    let length = stream.read(&mut piece)?;
    pending.extend_from_slice(&piece[..length]);
    Ok(length > 0)
}
