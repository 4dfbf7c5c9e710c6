//! What the forwarded heads of plain HTTP must contain, checked by an independent reader and not by the gateway's.

use ntlm_gateway::forward::{ForwardRequest, ForwardResponse, ForwardResponseError, HeadPurpose, ResponseKind};
use ntlm_gateway::http::{BodyFraming, PROXY_NAME, Version};

use super::forward::Options;
use super::messages::{Field, Framing, Head, Reader, is_hop_by_hop, is_one_of, is_token};

/// Fields that a trailer section must not contain, because they would change the message (RFC 9110 section 6.5.1).
const NO_TRAILERS: [&str; 22] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "set-cookie",
    "vary",
    "via",
    "www-authenticate",
];

/// A request as the client sent it.
pub struct ClientRequest {
    head: Head,
    options: Options,
    method: String,
    target: String,
    is_http11: bool,
    /// Where its body ends.
    pub framing: Framing,
}

/// An answer as the upstream sent it, and what the gateway makes of it.
pub struct UpstreamAnswer {
    head: Head,
    /// Its status.
    pub status: u16,
    /// Its role in the exchange.
    pub kind: ResponseKind,
    /// Where its body ends; `None` if that is ambiguous.
    pub framing: Option<Framing>,
    /// Whether the client is told that its connection stays open.
    pub keeps: bool,
    upstream_keeps: bool,
    authenticates: bool,
}

impl ClientRequest {
    /// An accepted request, by its head.
    pub fn of(head: Head, options: Options) -> ClientRequest {
        let [method, target, version] = head.words().try_into().expect("a request line has three words");
        let framing = head.announced().expect("ambiguous framing is rejected").unwrap_or(Framing::None);
        let is_http11 = version == "HTTP/1.1";
        assert!(is_http11 || framing != Framing::Chunked);
        ClientRequest { head, options, method, target, is_http11, framing }
    }

    fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::None | Framing::Length(0))
    }

    fn expects(&self) -> bool {
        self.head.says("expect", "100-continue") && self.has_body() && self.is_http11
    }

    fn upgrade(&self) -> Option<String> {
        protocols(&self.head).filter(|_| self.is_http11)
    }

    fn keeps(&self) -> bool {
        persists(&self.head, self.is_http11)
    }

    /// The authority, and what follows it.
    fn parts(&self) -> (&str, &str) {
        let rest = &self.target["http://".len()..];
        rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()))
    }
}

impl UpstreamAnswer {
    /// An accepted answer, by its head and what the gateway made of it.
    pub fn of(head: Head, response: &ForwardResponse<'_>, request: &ForwardRequest, keeps: bool) -> UpstreamAnswer {
        let status = response.status();
        let framing = framing_of(&head, request.method(), status);
        assert_eq!(framing.map(as_ours), Some(response.framing()), "the body ends elsewhere");
        UpstreamAnswer {
            head,
            status,
            kind: response.kind(),
            framing,
            keeps,
            upstream_keeps: response.upstream_keeps_alive(),
            authenticates: response.authenticates_connection(),
        }
    }
}

/// Checks every head that a request may be forwarded with.
pub fn check_request(client_request: &ClientRequest, request: &ForwardRequest) {
    assert_eq!((request.method(), request.target()), (client_request.method.as_str(), client_request.target.as_str()));
    assert!(client_request.target[..7].eq_ignore_ascii_case("http://"), "the target is not absolute");
    assert!(!client_request.method.eq_ignore_ascii_case("connect"));
    assert_eq!(request.framing(), as_ours(client_request.framing));
    assert_eq!(request.expects_continue(), client_request.expects());
    assert_eq!(request.upgrade().map(str::to_owned), client_request.upgrade());
    assert_eq!(request.client_keeps_alive(), client_request.keeps());
    assert_eq!(request.has_body(), client_request.has_body());
    assert_eq!(request.client_version() == Version::Http11, client_request.is_http11);
    let scheme = |value: &[u8]| String::from_utf8_lossy(value).split([' ', '\t']).next().map(str::to_lowercase);
    let schemes = client_request.head.all("authorization").into_iter().filter_map(scheme).collect::<Vec<_>>();
    assert_eq!(
        request.authenticates_connection(),
        schemes.iter().any(|scheme| ["ntlm", "negotiate"].contains(&scheme.as_str()))
    );
    let credentials = client_request.options.credentials();
    let write = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        let (head, length) = Head::read(&out, Reader::Strict).expect("the forwarded head can be parsed");
        assert_eq!(length, out.len(), "more than one head goes out");
        head
    };
    let real = write(&|out| request.write_head(out, credentials, HeadPurpose::Answer));
    to_proxy(client_request, &real, false);
    let probe = write(&|out| request.write_head(out, credentials, HeadPurpose::Challenge));
    to_proxy(client_request, &probe, client_request.has_body() || client_request.method == "HEAD");
    to_origin(client_request, &write(&|out| request.write_origin_head(out)));
}

fn to_proxy(client_request: &ClientRequest, sent: &Head, is_probe: bool) {
    let method = if is_probe && client_request.method == "HEAD" { "GET" } else { &client_request.method };
    assert_eq!(sent.words(), [method, &client_request.target, "HTTP/1.1"]);
    let credentials = client_request.options.credentials().map(|_| "NTLM TlRMTVNTUAA=".to_owned());
    assert_eq!(sent.only("proxy-authorization"), credentials, "not the gateway's credentials");
    assert_eq!(sent.only("proxy-connection").as_deref(), Some("Keep-Alive"));
    let upgrade = client_request.upgrade().filter(|_| !is_probe);
    assert_eq!(sent.only("connection").as_deref(), upgrade.as_ref().map(|_| "Upgrade"));
    to_either(client_request, sent, is_probe);
}

fn to_origin(client_request: &ClientRequest, sent: &Head) {
    let (_, path) = client_request.parts();
    let target = match path {
        "" if client_request.method == "OPTIONS" => "*".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    assert_eq!(sent.words(), [client_request.method.as_str(), &target, "HTTP/1.1"]);
    assert_eq!(sent.only("proxy-authorization"), None, "credentials for the proxy reach the origin");
    assert_eq!(sent.only("proxy-connection"), None);
    let connection = client_request.upgrade().map_or("keep-alive", |_| "Upgrade");
    assert_eq!(sent.only("connection").as_deref(), Some(connection));
    to_either(client_request, sent, false);
}

fn to_either(client_request: &ClientRequest, sent: &Head, is_probe: bool) {
    assert_eq!(sent.only("host").as_deref(), Some(client_request.parts().0), "Host and target differ");
    let framing = match is_probe {
        true if client_request.method == "HEAD" => Framing::None,
        true => Framing::Length(0),
        false => client_request.framing,
    };
    assert_eq!(sent.announced(), Ok((framing != Framing::None).then_some(framing)));
    let expect = (client_request.expects() && !is_probe).then(|| "100-continue".to_owned());
    assert_eq!(sent.only("expect"), expect);
    assert_eq!(sent.only("upgrade"), client_request.upgrade().filter(|_| !is_probe));
    let trailers = framing == Framing::Chunked && !client_request.head.says("connection", "trailer");
    assert_eq!(sent.all("trailer"), if trailers { client_request.head.all("trailer") } else { vec![] });
    let is_limited = ["TRACE", "OPTIONS"].contains(&client_request.method.as_str());
    if is_limited {
        let left = |number: &[u8]| str::from_utf8(number).ok()?.parse::<u64>().ok()?.checked_sub(1);
        let given = client_request
            .head
            .all("max-forwards")
            .first()
            .map(|number| left(number).expect("Max-Forwards: 0 is not forwarded"));
        assert_eq!(sent.only("max-forwards"), given.map(|left| left.to_string()));
    }
    let mut own = vec!["host", "content-length", "expect", "http2-settings"];
    own.extend(is_limited.then_some("max-forwards"));
    end_to_end(&client_request.head, sent, &own, client_request.options, client_request.is_http11);
    assert!(sent.all("te").is_empty() && sent.all("keep-alive").is_empty());
}

/// End-to-end fields arrive unchanged, in order, and without additions; Via names the gateway.
fn end_to_end(given: &Head, sent: &Head, own: &[&str], options: Options, is_http11: bool) {
    let mut given = given.end_to_end(own);
    if options.forward().via.is_some() {
        let version = if is_http11 { "1.1" } else { "1.0" };
        given.push(("Via".to_owned(), format!("{version} {PROXY_NAME}").into_bytes()));
    }
    let is_own = |name: &str| is_one_of(name, own) || is_hop_by_hop(name);
    let sent: Vec<Field> = sent.fields.iter().filter(|field| !is_own(&field.0)).cloned().collect();
    assert_eq!(sent, given, "the end-to-end fields differ");
}

/// Checks the head of an answer as the client receives it.
pub fn check_answer(client_request: &ClientRequest, answer: &UpstreamAnswer, out: &[u8]) {
    let (sent, length) = Head::read(out, Reader::Strict).expect("the forwarded head can be parsed");
    assert_eq!(length, out.len(), "more than one head goes out");
    let (version, status, reason) = answer.head.status_line();
    assert_eq!(status, answer.status.to_string().as_bytes());
    assert_eq!(sent.start, [b"HTTP/1.1 ", status, b" ", reason].concat());
    let is_http11 = version == b"HTTP/1.1";
    end_to_end(&answer.head, &sent, &["content-length", "proxy-support"], client_request.options, is_http11);
    assert!(
        ["te", "keep-alive", "proxy-authenticate", "proxy-authorization"].iter().all(|name| sent.all(name).is_empty())
    );
    match answer.kind {
        ResponseKind::Interim { pass_on } => {
            assert!((100..=199).contains(&answer.status) && answer.status != 101);
            assert_eq!(pass_on, client_request.is_http11 && (answer.status != 100 || client_request.expects()));
            assert_eq!(sent.announced(), Ok(None), "an interim answer has no body");
            assert_eq!(sent.only("connection"), None);
        }
        ResponseKind::Switching => {
            assert_eq!(answer.status, 101);
            let offered = client_request.upgrade().expect("an unrequested switch").to_lowercase();
            let granted = protocols(&answer.head).expect("a switch to nothing");
            let was_offered = |name: &str| offered.split(", ").any(|offer| offer == name.to_lowercase());
            assert!(granted.split(", ").all(was_offered), "{granted} is not among {offered}");
            assert_eq!(sent.only("upgrade"), Some(granted));
            assert_eq!(sent.only("connection").as_deref(), Some("Upgrade"));
            assert_eq!(sent.announced(), Ok(None));
            assert!(!answer.upstream_keeps && !answer.keeps);
        }
        ResponseKind::Final => is_final(client_request, answer, &sent, is_http11),
    }
    authenticates(answer);
}

fn is_final(client_request: &ClientRequest, answer: &UpstreamAnswer, sent: &Head, is_http11: bool) {
    assert!(answer.status >= 200);
    let framing = answer.framing.expect("ambiguous framing is rejected");
    let goes = match framing {
        Framing::Chunked | Framing::ToClose if client_request.is_http11 => Framing::Chunked,
        Framing::Chunked | Framing::ToClose => Framing::ToClose,
        other => other,
    };
    assert_eq!(client_reads(client_request, sent, answer.status), goes, "the client sees a different end of the body");
    if answer.status == 204 || (framing == Framing::None && !answer.head.all("transfer-encoding").is_empty()) {
        assert_eq!(sent.announced(), Ok(None), "an answer without content announces some");
    } else if framing == Framing::None {
        assert_eq!(sent.announced(), answer.head.announced(), "the announced length of an omitted body differs");
    }
    let keeps = client_request.options.keeps() && client_request.keeps() && goes != Framing::ToClose;
    assert_eq!(answer.keeps, keeps);
    assert_eq!(sent.says("connection", "close"), !keeps);
    assert_eq!(sent.says("connection", "keep-alive"), keeps && !client_request.is_http11);
    assert_eq!(sent.only("proxy-connection"), (keeps && !client_request.is_http11).then(|| "keep-alive".to_owned()));
    assert!(keeps == persists(sent, client_request.is_http11), "the head contradicts whether the connection is kept");
    let trailers = framing == Framing::Chunked && goes == framing && !answer.head.says("connection", "trailer");
    assert_eq!(sent.all("trailer"), if trailers { answer.head.all("trailer") } else { vec![] });
    let upgrade = protocols(&answer.head).filter(|_| answer.status == 426 && client_request.is_http11);
    assert_eq!(sent.says("connection", "upgrade"), upgrade.is_some());
    assert_eq!(sent.only("upgrade"), upgrade);
    let session = answer.head.says("proxy-support", "Session-Based-Authentication");
    assert_eq!(sent.says("connection", "Proxy-Support"), session);
    assert_eq!(sent.only("proxy-support").is_some(), session);
    let known = ["close", "keep-alive", "upgrade", "proxy-support"];
    assert!(sent.list("connection").iter().all(|option| is_one_of(option, &known)));
    if answer.upstream_keeps {
        assert!(
            persists(&answer.head, is_http11) && framing != Framing::ToClose,
            "the connection cannot be reused after this answer"
        );
        let has_coding = !answer.head.all("transfer-encoding").is_empty();
        assert!(!has_coding || (is_http11 && answer.status != 204));
        let lengths = answer.head.all("content-length");
        assert!(answer.status != 204 || lengths.iter().all(|length| **length == b"0"[..]), "a 204 with a body");
    }
}

fn authenticates(answer: &UpstreamAnswer) {
    let asks = answer.head.all("www-authenticate");
    let names = |value: &[u8], name: &str| String::from_utf8_lossy(value).to_lowercase().contains(name);
    let might = asks.iter().any(|value| names(value, "ntlm") || names(value, "negotiate"));
    let has = answer.head.says("persistent-auth", "true");
    assert!(!answer.authenticates || might || has, "authentication is assumed without a field for it");
    let must = asks.iter().any(|value| is_one_of(&String::from_utf8_lossy(value), &["ntlm", "negotiate"]));
    assert!(answer.authenticates || !(must || has), "connection-bound authentication is missed");
}

/// Asserts that a rejected answer could not have been forwarded.
pub fn check_rejection(given: &Head, request: &ForwardRequest, error: &ForwardResponseError) {
    let text = error.to_string();
    assert!(text.is_ascii() && !text.contains(['\r', '\n']));
    let status = str::from_utf8(given.status_line().1).ok().and_then(|status| status.parse().ok()).unwrap_or_default();
    match error {
        ForwardResponseError::Framing(_) => {
            let framing = framing_of(given, request.method(), status);
            assert!(framing.is_none() || given.announced().is_err(), "{framing:?}: {text}");
        }
        ForwardResponseError::UnrequestedSwitch => assert_eq!((status, request.upgrade()), (101, None)),
        ForwardResponseError::UnexpectedProtocol => assert_eq!(status, 101),
    }
}

/// Where a client sees the end of an answer's body (RFC 9112 section 6.3).
pub fn client_reads(client_request: &ClientRequest, sent: &Head, status: u16) -> Framing {
    let framing = framing_of(sent, &client_request.method, status).expect("forwarded framing is unambiguous");
    assert!(client_request.is_http11 || framing != Framing::Chunked, "chunks for HTTP/1.0");
    framing
}

/// The trailer fields that may be forwarded.
pub fn allowed_trailers(given: &[Field]) -> Vec<Field> {
    let passes = |name: &str| !is_hop_by_hop(name) && !is_one_of(name, &NO_TRAILERS);
    given.iter().filter(|field| passes(&field.0)).cloned().collect()
}

/// Where the body of an answer ends; `None` if that is ambiguous.
fn framing_of(head: &Head, method: &str, status: u16) -> Option<Framing> {
    if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
        return Some(Framing::None);
    }
    let framing = head.announced().ok()?.unwrap_or(Framing::ToClose);
    let is_http11 = head.start.starts_with(b"HTTP/1.1");
    (is_http11 || head.all("transfer-encoding").is_empty()).then_some(framing)
}

fn persists(head: &Head, is_http11: bool) -> bool {
    let says = |option| head.says("connection", option) || head.says("proxy-connection", option);
    !says("close") && (is_http11 || says("keep-alive"))
}

/// The protocols that an upgrade may offer: none that would hide further requests from the gateway.
fn protocols(head: &Head) -> Option<String> {
    let is_protocol = |text: &str| text.splitn(2, '/').all(is_token);
    let hides = |text: &str| is_one_of(text.split('/').next().unwrap_or_default(), &["h2", "h2c", "http", "tls"]);
    let mut names = head.list("upgrade");
    names.retain(|name| is_protocol(name) && !hides(name));
    (head.says("connection", "upgrade") && !names.is_empty()).then(|| names.join(", "))
}

fn as_ours(framing: Framing) -> BodyFraming {
    match framing {
        Framing::None => BodyFraming::None,
        Framing::Length(length) => BodyFraming::Length(length),
        Framing::Chunked => BodyFraming::Chunked,
        Framing::ToClose => BodyFraming::CloseDelimited,
    }
}

/// Options, what a client sends, and what an upstream sends.
pub const SEEDS: &[(u8, &str, &str)] = &[
    (
        0,
        "POST http://h.example:81/s3cr3t?b HTTP/1.1\r\nHost: h\r\nConnection: close, X-Mine\r\nX-Mine: y\r\nCookie: s3cr3t\r\n\
         Proxy-Authorization: Basic s3cr3t\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\n\
         Expect: 100-continue\r\n\r\n5;ext=1\r\nhello\r\n0A  \r\n0123456789\r\n0\r\nDigest: x\r\nHost: evil\r\nT:\r\n\r\nGET http://h/2",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Server-Timing\r\n\
         Keep-Alive: timeout=5\r\n\r\nA \r\n0123456789\r\n1\r\nx\r\n00\r\nSet-Cookie: no\r\nServer-Timing: x\r\n\r\npoison",
    ),
    (
        1,
        "GET http://[::1] HTTP/1.0\r\nProxy-Connection: keep-alive\r\nVia: 1.1 a\r\nContent-Length: 5\r\n\r\nhelloGET",
        "HTTP/1.0 200 OK\r\n\r\n0\r\n\r\nto the close",
    ),
    (
        0,
        "GET http://h/ HTTP/1.1\r\nHost: other\r\nAuthorization: NTLM s3cr3t\r\nTE: trailers\r\nVia: 1.1 ntlm-gateway\r\n\r\nGET /",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate\r\n\
         Proxy-Support: Session-Based-Authentication\r\nContent-Length: 5, 5\r\nConnection: close, X\r\nX: 1\r\n\r\nhello behind",
    ),
    (
        1,
        "OPTIONS http://h HTTP/1.1\r\nHost: h\r\nMax-Forwards: 5\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c, websocket, b/1, TLS/1.0\r\nHTTP2-Settings: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: B/1\r\nContent-Length: 5\r\n\r\ntunnel",
    ),
    (
        1,
        "GET http://h/ HTTP/1.0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nA: b\r\n\r\n",
    ),
    (1, "GET http://h?q HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200\r\nX: a\r\n folded\r\n\r\n0\r\n\r\nhello"),
    (4, "HEAD http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbehind"),
    (16, "", "HTTP/1.0 304 x\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello"),
    (2, "", "HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\nhello"),
    (48, "", "HTTP/1.1 426 x\r\nConnection: Upgrade\r\nUpgrade: b/1, h2c\r\nContent-Length: 0\r\n\r\n"),
    (0, "", "HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\nContent-Length: 2\r\n\r\nno"),
    (0, "", "HTTP/1.1 200 x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (32, "", "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\nPersistent-Auth: true\r\n\r\n0\r\n\r\n"),
    (0, "POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""),
    (0, "POST http://h/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n", ""),
    (0, "POST http://h/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", ""),
    (8, "TRACE http://h/ HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n", ""),
    (
        8,
        "PUT HTTP://h:8080//a/../b?c://d HTTP/1.1 \r\nHost: h\r\nContent-Length: 007\r\nConnection: Via, Trailer, Host, Content-Length\r\nVia: 1.0 a\r\nTrailer: x\r\n\r\n0123456789",
        "",
    ),
    (0, "CONNECT h:443 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 x\r\nContent-Length: x\r\n\r\n"),
    (0, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: b\r\n\r\n"),
    (0, "POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: tea\r\n\r\nx", "HTTP/2 200\r\n\r\n"),
    (
        1,
        "POST http://h/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n0\r\n\
         Transfer-Encoding: chunked\r\nA: b\r\nKeep-Alive: x\r\nProxy-Authorization: s3cr3t\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\nC:d \r\n\r\n",
    ),
    (48, "", "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: b/1, c\r\n\r\n"),
    (
        17,
        "",
        "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n20;a=b\r\n0123456789abcdef0123456789abcdef\r\n\
         10\r\n0123456789abcdef\r\n0\r\nA: b\r\n\r\nbehind",
    ),
];
