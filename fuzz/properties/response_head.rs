//! An upstream's response head: found however it is split, parsed as by `httparse`, and framed unambiguously. The input
//! is a byte that decides the split, and the bytes of the connection.

use httparse::{EMPTY_HEADER, Status};
use ntlm_gateway::http::{
    BodyFraming, FieldStorage, HeadEnd, HeadTooLarge, ResponseHead, ResponseTo, Version, copy_end_to_end_fields,
    unfold_field_lines,
};

use super::request_head::{HEAD_LIMIT_BYTES, find_head};
use super::trace;

/// Checks one connection's bytes.
pub fn check(input: &[u8]) {
    let Some((&seed, bytes)) = input.split_first() else {
        return;
    };
    let found = find_head(HeadEnd::response(), bytes, seed);
    check_first(bytes, found);
    let Ok(Some(length)) = found else {
        if found == Ok(None) {
            assert!(ResponseHead::parse(bytes, &mut FieldStorage::new()).is_err(), "an incomplete head is accepted");
        }
        return;
    };
    let bytes = &bytes[..length];
    let mut unfolded = bytes.to_vec();
    let folded = unfold_field_lines(&mut unfolded);
    assert_eq!(folded, unfolded != bytes);
    assert_eq!(unfolded.len(), bytes.len(), "unfolding changes the length");
    assert!(!unfold_field_lines(&mut unfolded.clone()), "unfolding leaves a fold");
    if folded {
        assert!(ResponseHead::parse(bytes, &mut FieldStorage::new()).is_err(), "a folded line is accepted unchanged");
    }
    let mut storage = FieldStorage::new();
    if let Ok(head) = ResponseHead::parse(&unfolded, &mut storage) {
        check_against_httparse(&head, &unfolded);
        assert!((100..=999).contains(&head.status));
        assert!(!head.reason.iter().any(|&byte| byte == b'\r' || byte == b'\n'));
        assert!(!(head.is_informational() && head.status == 101));
        for response_to in [ResponseTo::Connect, ResponseTo::Head, ResponseTo::Other] {
            check_framing(&head, response_to);
        }
        check_forwarded(&head);
    }
}

/// What is parsed in one pass is what is found and then parsed.
fn check_first(bytes: &[u8], found: Result<Option<usize>, HeadTooLarge>) {
    let (mut storage, mut other_storage) = (FieldStorage::new(), FieldStorage::new());
    let window = &bytes[..bytes.len().min(HEAD_LIMIT_BYTES)];
    let first = ResponseHead::parse_first(window, &mut storage);
    let whole = found.ok().flatten().map(|length| (&bytes[..length], length));
    let whole = whole.and_then(|(head, length)| Some((ResponseHead::parse(head, &mut other_storage).ok()?, length)));
    assert_eq!(first.is_some(), whole.is_some(), "a head is parsed only in one pass, or only in two");
    if let (Some((first, first_length)), Some((whole, whole_length))) = (first, whole) {
        assert_eq!(first_length, whole_length);
        assert_eq!((first.version, first.status, first.reason), (whole.version, whole.status, whole.reason));
        assert!(first.fields.iter().eq(whole.fields.iter()));
    }
}

/// If both accept a head, they agree on it. Each of the two is lenient in different places.
fn check_against_httparse(head: &ResponseHead<'_>, bytes: &[u8]) {
    let mut headers = [EMPTY_HEADER; 256];
    let mut other = httparse::Response::new(&mut headers);
    let Ok(Status::Complete(length)) = other.parse(bytes) else {
        return;
    };
    assert_eq!(length, bytes.len());
    assert_eq!(other.code, Some(head.status));
    assert_eq!(other.version, Some(if head.version == Version::Http11 { 1 } else { 0 }));
    assert_eq!(other.headers.len(), head.fields.len());
    for (field, header) in head.fields.iter().zip(other.headers.iter()) {
        assert_eq!((field.name, field.value), (header.name, header.value));
    }
}

fn check_framing(head: &ResponseHead<'_>, response_to: ResponseTo) {
    let elements = |name: &'static str| -> Vec<String> {
        let values = head.fields.get_all(name).flat_map(|value| value.split(|&byte| byte == b','));
        values.map(|element| String::from_utf8_lossy(element.trim_ascii()).to_lowercase()).collect()
    };
    let (lengths, codings) = (elements("content-length"), elements("transfer-encoding"));
    let chunked = codings.iter().filter(|coding| *coding == "chunked").count();
    let Ok(framing) = head.framing(response_to) else {
        assert!(!lengths.is_empty() || !codings.is_empty(), "a head without a length is rejected");
        return;
    };
    let tunnel = response_to == ResponseTo::Connect && matches!(head.status, 200..=299);
    let bodiless = tunnel || response_to == ResponseTo::Head || matches!(head.status, 100..=199 | 204 | 304);
    assert_eq!(framing == BodyFraming::None, bodiless);
    match framing {
        BodyFraming::None => {}
        BodyFraming::Length(length) => {
            assert!(codings.is_empty() && !lengths.is_empty());
            assert!(lengths.iter().all(|text| text.parse() == Ok(length)), "{lengths:?}");
        }
        BodyFraming::Chunked => assert_eq!(chunked, 1),
        BodyFraming::CloseDelimited => assert!(chunked == 0 && (lengths.is_empty() || !codings.is_empty())),
    }
}

/// Forwarded fields are complete lines, and none of them is hop-by-hop.
fn check_forwarded(head: &ResponseHead<'_>) {
    let mut fields = Vec::new();
    copy_end_to_end_fields(&head.fields, &mut fields);
    let text = [b"HTTP/1.1 200 OK\r\n", fields.as_slice(), b"\r\n"].concat();
    let mut storage = FieldStorage::new();
    let passed = ResponseHead::parse(&text, &mut storage).expect("the forwarded head can be parsed");
    assert!(passed.fields.len() <= head.fields.len());
    for name in ["connection", "proxy-authenticate", "proxy-connection", "transfer-encoding"] {
        assert!(!passed.fields.has(name), "{name} is forwarded");
    }
}

/// Answers from the trace, and oddities of proxies.
pub fn seeds() -> Vec<Vec<u8>> {
    let heads = [
        trace::FIRST_REFUSAL.to_owned(),
        trace::challenged(),
        trace::ESTABLISHED.to_owned(),
        "HTTP/1.0 407 \r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Basic realm=\"a, b\"\r\n\
         Connection: keep-alive\r\nContent-Length: 0\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 407 x\r\nProxy-Authenticate: Negotiate,\r\n NTLM\r\n\tTransfer\r\n\
         Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 100\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 403\tForbidden \u{e4}\r\nContent-Length: 7, 7\r\nX: \u{e4}\r\n\r\n".to_owned(),
        "HTTP/1.1 304 y\r\nConnection: close, X\r\nX: 1\r\n\r\n".to_owned(),
        "HTTP/1.1 500 n\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(),
        "HTTP/2 200\r\n\r\n".to_owned(),
        "ICY 200 OK\r\n\r\n".to_owned(),
    ];
    heads.iter().zip([0, 7, 255].into_iter().cycle()).map(|(head, seed)| [&[seed], head.as_bytes()].concat()).collect()
}
