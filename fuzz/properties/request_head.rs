//! A client's request head: found however it is split, parsed as by `httparse`, and forwarded without a change of
//! meaning. The input is a byte that decides the split, and the bytes of the connection.

use httparse::{EMPTY_HEADER, Status};
use ntlm_gateway::http::{
    Authority, BodyFraming, FieldStorage, HeadEnd, HeadTooLarge, NextHop, ProxyAuthorization, RequestHead,
    RequestTarget, UpstreamRequest, Version, connect_request, copy_end_to_end_fields, upstream_request,
};

use super::pieces::Pieces;

/// Small, so that the fuzzer can exceed it.
pub const HEAD_LIMIT_BYTES: usize = 1024;

/// Fields that are never forwarded.
const HOP_BY_HOP: [&str; 6] =
    ["connection", "proxy-connection", "proxy-authorization", "keep-alive", "te", "transfer-encoding"];

/// Checks one connection's bytes.
pub fn check(input: &[u8]) {
    let Some((&seed, bytes)) = input.split_first() else {
        return;
    };
    let found = find_head(HeadEnd::request(), bytes, seed);
    check_first(bytes, found);
    let Ok(Some(length)) = found else {
        if found == Ok(None) {
            assert!(RequestHead::parse(bytes, &mut FieldStorage::new()).is_err(), "an incomplete head is accepted");
        }
        return;
    };
    let bytes = &bytes[..length];
    let mut storage = FieldStorage::new();
    match RequestHead::parse(bytes, &mut storage) {
        Ok(head) => {
            check_against_httparse(&head, bytes);
            check_framing(&head);
            check_target(&head);
            check_forwarded(&head);
        }
        Err(error) => {
            assert!(matches!(error.status(), 400 | 431 | 501 | 505));
            let text = error.to_string();
            assert!(
                text.is_ascii() && !text.contains(['\r', '\n']),
                "an error text for the peer contains control characters: {text}"
            );
        }
    }
}

/// What is parsed in one pass is what is found and then parsed.
fn check_first(bytes: &[u8], found: Result<Option<usize>, HeadTooLarge>) {
    let (mut storage, mut other_storage) = (FieldStorage::new(), FieldStorage::new());
    let window = &bytes[..bytes.len().min(HEAD_LIMIT_BYTES)];
    let first = RequestHead::parse_first(window, &mut storage);
    let whole = found.ok().flatten().map(|length| (&bytes[..length], length));
    let whole = whole.and_then(|(head, length)| Some((RequestHead::parse(head, &mut other_storage).ok()?, length)));
    let (Some((first, first_length)), Some((whole, whole_length))) = (first, whole) else {
        assert!(first.is_none(), "a head is only parsed in one pass");
        // Empty lines before a head, and blanks after its version, are left to the parser of whole heads.
        let is_usual = |head: &[u8]| {
            let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            !line.is_empty() && !line.ends_with(b" ") && !line.ends_with(b"\t")
        };
        assert!(whole.is_none_or(|(_, length)| !is_usual(&bytes[..length])), "a usual head is not parsed in one pass");
        return;
    };
    assert_eq!(first_length, whole_length);
    assert_eq!((first.method, first.target_text, first.version), (whole.method, whole.target_text, whole.version));
    assert_eq!((first.target, first.framing), (whole.target, whole.framing));
    assert!(first.fields.iter().eq(whole.fields.iter()));
}

/// Looks for the end of the head in one piece and in several: the results must be equal.
pub fn find_head(mut end: HeadEnd, bytes: &[u8], seed: u8) -> Result<Option<usize>, HeadTooLarge> {
    let mut trickle = end.clone();
    let whole = end.find(bytes, HEAD_LIMIT_BYTES);
    let mut so_far = Vec::new();
    let mut in_pieces = Ok(None);
    for piece in Pieces::new(bytes, seed) {
        so_far.extend_from_slice(piece);
        in_pieces = trickle.find(&so_far, HEAD_LIMIT_BYTES);
        if in_pieces != Ok(None) {
            break;
        }
    }
    assert_eq!(whole, in_pieces, "the end of the head depends on the split");
    if let Ok(Some(length)) = whole {
        assert!(length <= bytes.len().min(HEAD_LIMIT_BYTES));
        assert!(bytes[..length].ends_with(b"\n"));
    }
    whole
}

fn check_against_httparse(head: &RequestHead<'_>, bytes: &[u8]) {
    let mut headers = [EMPTY_HEADER; 256];
    let mut other = httparse::Request::new(&mut headers);
    // `httparse` accepts no blanks after the version.
    let line = bytes.trim_ascii_start().split(|&byte| byte == b'\r').next().unwrap_or_default();
    if line.last().is_some_and(|byte| byte.is_ascii_whitespace()) {
        return;
    }
    match other.parse(bytes) {
        Ok(Status::Complete(length)) => assert_eq!(length, bytes.len()),
        refused => panic!("accepted here but not by httparse: {refused:?}"),
    }
    assert_eq!(other.method, Some(head.method));
    assert_eq!(other.path, Some(head.target_text));
    assert_eq!(other.version, Some(if head.version == Version::Http11 { 1 } else { 0 }));
    assert_eq!(other.headers.len(), head.fields.len());
    for (field, header) in head.fields.iter().zip(other.headers.iter()) {
        assert_eq!((field.name, field.value), (header.name, header.value));
    }
}

/// Content-Length and Transfer-Encoding are consistent with the framing.
fn check_framing(head: &RequestHead<'_>) {
    let elements = |name: &'static str| -> Vec<String> {
        let values = head.fields.get_all(name).flat_map(|value| value.split(|&byte| byte == b','));
        values.map(|element| String::from_utf8_lossy(element.trim_ascii()).to_lowercase()).collect()
    };
    let (lengths, codings) = (elements("content-length"), elements("transfer-encoding"));
    match head.framing {
        BodyFraming::None => assert!(lengths.is_empty() && codings.is_empty()),
        BodyFraming::Length(length) => {
            assert!(codings.is_empty() && !lengths.is_empty());
            assert!(lengths.iter().all(|text| text.parse() == Ok(length)), "{lengths:?}");
        }
        BodyFraming::Chunked => {
            assert!(lengths.is_empty() && head.version == Version::Http11);
            assert!(codings.iter().filter(|coding| !coding.is_empty()).eq(["chunked"]), "{codings:?}");
        }
        BodyFraming::CloseDelimited => panic!("a request cannot end at the close"),
    }
    assert!(!head.is_connect() || matches!(head.framing, BodyFraming::None | BodyFraming::Length(0)));
    assert!(head.fields.get_all("host").count() <= 1);
}

fn check_target(head: &RequestHead<'_>) {
    match head.target {
        RequestTarget::Authority(authority) => {
            assert!(head.is_connect());
            assert_ne!(authority.port, 0);
            assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
        }
        RequestTarget::Absolute { authority, authority_text, path_and_query } => {
            let scheme = head.target_text.len() - authority_text.len() - path_and_query.len();
            assert!(head.target_text[..scheme].eq_ignore_ascii_case("http://"));
            assert!(head.target_text.ends_with(&format!("{authority_text}{path_and_query}")));
            assert_eq!(Authority::parse_with_default_port(authority_text, 80), Ok(authority));
        }
        RequestTarget::Origin(path) => assert!(path.starts_with('/')),
        RequestTarget::Asterisk => assert_eq!(head.target_text, "*"),
    }
}

/// What goes upstream is one head for the same request, with the gateway's credentials and no others.
fn check_forwarded(head: &RequestHead<'_>) {
    let mut fields = Vec::new();
    copy_end_to_end_fields(&head.fields, &mut fields);
    let (target, host, mut out) = match head.target {
        RequestTarget::Authority(authority) => {
            let text = authority.to_string();
            let mut out = Vec::new();
            connect_request(
                &mut out,
                &text,
                Version::Http11,
                &fields,
                Some(ProxyAuthorization::of("NTLM", b"NTLMSSP\0")),
            );
            (text.clone(), text, out)
        }
        RequestTarget::Absolute { authority_text, .. } => {
            (head.target_text.to_owned(), authority_text.to_owned(), Vec::new())
        }
        _ => return,
    };
    if out.is_empty() {
        let request = UpstreamRequest {
            method: head.method,
            target: &target,
            host: &host,
            version: Version::Http11,
            extra_fields: &[&fields],
            framing: head.framing,
            next_hop: NextHop::Proxy(Some(ProxyAuthorization::of("NTLM", b"NTLMSSP\0"))),
        };
        upstream_request(&mut out, &request);
    }
    if head.fields.len() > 120 {
        // The few added fields might exceed the limit of our own parser.
        return;
    }
    assert_eq!(HeadEnd::request().find(&out, usize::MAX), Ok(Some(out.len())), "more than one head goes out");
    let mut storage = FieldStorage::new();
    let sent = RequestHead::parse(&out, &mut storage).expect("the forwarded head can be parsed");
    assert_eq!((sent.method, sent.target_text), (head.method, target.as_str()));
    assert_eq!(sent.fields.get("host"), Some(host.as_bytes()));
    assert!(sent.fields.get_all("proxy-authorization").eq([b"NTLM TlRMTVNTUAA="]));
    assert!(head.is_connect() || sent.framing == head.framing);
    let ours = |name: &str| matches!(name, "Host" | "Proxy-Connection" | "Proxy-Authorization");
    for field in sent.fields.iter().filter(|field| !ours(field.name)) {
        let framing = ["Content-Length", "Transfer-Encoding"].contains(&field.name);
        assert!(framing || !HOP_BY_HOP.iter().any(|name| name.eq_ignore_ascii_case(field.name)), "{}", field.name);
        assert!(framing || head.fields.iter().any(|given| given == field), "{} was added", field.name);
    }
}

/// Requests from the trace, from curl, and malicious ones.
pub fn seeds() -> Vec<Vec<u8>> {
    let heads = [
        "CONNECT server.domain.net:443 HTTP/1.0 \r\nUser-Agent:Mozilla/4.0 (compatible; MSIE 5.5; Win32) \r\n\
         proxy-Connection: Keep-Alive \r\nPragma: no-cache \r\n\r\n",
        "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nUser-Agent: curl/8.14.1\r\n\
         Proxy-Authorization: Basic eDp5\r\nProxy-Connection: Keep-Alive\r\n\r\n\x16\x03\x01",
        "\r\n\r\nCONNECT [2001:db8::1]:8443 HTTP/1.1\r\n\r\n",
        "GET http://example.com:8080/a?b=c HTTP/1.1\r\nHost: example.com:8080\r\nConnection: close, X-Mine\r\n\
         X-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nAccept: */*\r\n\r\n",
        "POST HTTP://h?q HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n0\r\n\r\n",
        "PUT http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n\r\nhello",
        "POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /path HTTP/1.1\r\nHost: origin\r\n\r\n",
        "GE(T http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "CONNECT 127.1:80 HTTP/1.1\r\n\r\n",
        "CONNECT h:443 HTTP/2.0\r\n\r\n",
        "CONNECT h:443 HTTP/1.1\r\nA : b\r\n\r\n",
        "CONNECT h:443 HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        "CONNECT h:443 HTTP/1.1\nHost: h\n\n",
    ];
    heads
        .iter()
        .zip([0, 3, 255, 1].into_iter().cycle())
        .map(|(head, seed)| [&[seed], head.as_bytes()].concat())
        .collect()
}
