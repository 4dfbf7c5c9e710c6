//! Tests that involve several files: a complete proxy conversation, and truncated and corrupted input.

use super::trace::{AUTHENTICATE, ESTABLISHED, FIRST_REFUSAL, NEGOTIATE, challenged};
use super::*;
use crate::sim::rng::Rng;

const LIMIT_BYTES: usize = 64 * 1024;

/// A CONNECT of the conversation. All but the first have a blank after the version.
fn connect(credentials: Option<&str>) -> String {
    let (blank, authorization) = match credentials {
        Some(token) => (" ", format!("proxy-Authorization: NTLM {token} \r\n")),
        None => ("", String::new()),
    };
    format!(
        "CONNECT server.domain.net:443 HTTP/1.0{blank}\r\n\
         User-Agent:Mozilla/4.0 (compatible; MSIE 5.5; Win32) \r\n\
         proxy-Connection: Keep-Alive \r\nPragma: no-cache \r\n{authorization}\r\n"
    )
}

fn response<T>(head: &str, check: impl FnOnce(ResponseHead<'_>) -> T) -> T {
    check(ResponseHead::parse(head.as_bytes(), &mut FieldStorage::new()).unwrap())
}

#[test]
fn the_requests_of_the_isa_conversation_are_parsed() {
    for credentials in [None, Some(NEGOTIATE), Some(AUTHENTICATE)] {
        let head = connect(credentials);
        let mut storage = FieldStorage::new();
        let head = RequestHead::parse(head.as_bytes(), &mut storage).unwrap();
        assert!(head.is_connect() && head.persists());
        assert_eq!(head.version, Version::Http10);
        assert_eq!(head.target_text, "server.domain.net:443");
        assert_eq!(head.fields.get("user-agent"), Some(&b"Mozilla/4.0 (compatible; MSIE 5.5; Win32)"[..]));
        let expected = credentials.map(|token| format!("NTLM {token}"));
        let got = head.fields.get("proxy-authorization");
        assert_eq!(got, expected.as_deref().map(str::as_bytes));
    }
}

#[test]
fn the_first_407_of_the_isa_conversation_closes_after_701_bytes() {
    response(FIRST_REFUSAL, |head| {
        assert_eq!(head.status, 407);
        assert!(!head.persists());
        assert_eq!(head.framing(ResponseTo::Connect), Ok(BodyFraming::Length(701)));
        assert_eq!(offered_schemes(&head.fields), "Negotiate, Kerberos, NTLM");
        assert!(find_challenge(&head.fields, "NTLM").unwrap().is_bare());
    });
}

#[test]
fn the_challenge_of_the_isa_conversation_keeps_the_connection_open() {
    response(&challenged(), |head| {
        assert!(head.persists());
        assert_eq!(head.framing(ResponseTo::Connect), Ok(BodyFraming::Length(0)));
        let token = find_challenge(&head.fields, "NTLM").unwrap().token68.unwrap();
        let message = decode_token(token).unwrap();
        assert_eq!(message.len(), 156);
        assert!(message.starts_with(b"NTLMSSP\0\x02"));
    });
}

#[test]
fn the_200_of_the_isa_conversation_ends_before_the_bytes_of_the_tunnel() {
    let buf = [ESTABLISHED.as_bytes(), b"\x16\x03\x01"].concat();
    let len = HeadEnd::response().find(&buf, LIMIT_BYTES).unwrap();
    assert_eq!(len, Some(ESTABLISHED.len()));
    response(ESTABLISHED, |head| {
        assert_eq!(head.status, 200);
        assert_eq!(head.framing(ResponseTo::Connect), Ok(BodyFraming::None));
        assert!(head.persists());
    });
}

#[test]
fn an_http_1_0_response_with_keep_alive_persists() {
    response("HTTP/1.0 407 x\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\n", |head| assert!(head.persists()));
}

#[test]
fn a_407_without_framing_is_close_delimited() {
    response("HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\n\r\n", |head| {
        assert_eq!(head.framing(ResponseTo::Connect), Ok(BodyFraming::CloseDelimited));
    });
}

#[test]
fn informational_responses_precede_the_final_one() {
    let mut buf = &b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"[..];
    let mut statuses = Vec::new();
    while let Some(len) = HeadEnd::response().find(buf, LIMIT_BYTES).unwrap() {
        let mut storage = FieldStorage::new();
        let head = ResponseHead::parse(&buf[..len], &mut storage).unwrap();
        statuses.push((head.status, head.is_informational()));
        buf = &buf[len..];
    }
    assert_eq!(statuses, [(100, true), (103, true), (200, false)]);
}

#[test]
fn bytes_after_a_discarded_body_are_not_consumed() {
    let mut discarder = BodyDiscarder::new(BodyFraming::Length(4), 1024);
    let discarded = discarder.feed(b"bodyHTTP/1.1 200 OK\r\n\r\n").unwrap();
    assert_eq!((discarded.consumed, discarded.done), (4, true));
}

#[test]
fn a_request_for_the_upstream_can_be_parsed_again() {
    let message = decode_token(NEGOTIATE).unwrap();
    let mut out = Vec::new();
    connect_request(
        &mut out,
        "server.domain.net:443",
        Version::Http10,
        b"",
        Some(ProxyAuthorization::of("NTLM", &message)),
    );
    let len = HeadEnd::request().find(&out, LIMIT_BYTES).unwrap();
    assert_eq!(len, Some(out.len()));
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(&out, &mut storage).unwrap();
    let credentials = format!("NTLM {NEGOTIATE}");
    assert_eq!(head.fields.get("proxy-authorization"), Some(credentials.as_bytes()));
    assert!(head.persists());
}

#[test]
fn a_truncated_head_is_neither_found_nor_accepted() {
    for whole in
        [connect(None), connect(Some(AUTHENTICATE)), FIRST_REFUSAL.to_owned(), challenged(), ESTABLISHED.to_owned()]
    {
        let whole = whole.as_bytes();
        let mut trickle = HeadEnd::request();
        for len in 0..whole.len() {
            let cut = &whole[..len];
            assert_eq!(trickle.find(cut, LIMIT_BYTES), Ok(None));
            assert!(RequestHead::parse(cut, &mut FieldStorage::new()).is_err());
            assert!(ResponseHead::parse(cut, &mut FieldStorage::new()).is_err());
        }
        assert_eq!(trickle.find(whole, LIMIT_BYTES), Ok(Some(whole.len())));
    }
}

#[test]
fn error_texts_contain_no_bytes_from_the_peer() {
    let head = b"GET http://sekrit@h/ HTTP/1.1\r\nHost: h\r\n\r\n";
    let error = RequestHead::parse(head, &mut FieldStorage::new()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("sekrit"));
    let head = b"GET http://h/ HTTP/1.1\r\nHost: h\r\nsekrit sekrit\r\n\r\n";
    let error = RequestHead::parse(head, &mut FieldStorage::new()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("sekrit"));
}

/// Changes, inserts, removes or duplicates a few bytes. Most new bytes are significant to the parsers.
fn corrupt(random: &mut Rng, bytes: &mut Vec<u8>) {
    const SIGNIFICANT: &[u8] = b"\r\n \t:,;=\"\\\0%[]@/?#0aF\x7f\x80\xff";
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let byte = match random.below(3) {
            0 => random.next().to_le_bytes()[0],
            _ => SIGNIFICANT[random.below(SIGNIFICANT.len())],
        };
        match random.below(5) {
            0 => bytes.insert(at, byte),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            3 => bytes.extend_from_within(at..),
            _ => bytes.get_mut(at).into_iter().for_each(|old| *old = byte),
        }
    }
}

/// Runs a head through all parsers. An accepted authority must not change when it is formatted and parsed again.
fn exercise(bytes: &[u8]) {
    let mut end = HeadEnd::request();
    let len = end.find(bytes, LIMIT_BYTES).ok().flatten();
    let head = &bytes[..len.unwrap_or(bytes.len())];
    let mut storage = FieldStorage::new();
    if let Ok(request) = RequestHead::parse(head, &mut storage) {
        let mut out = Vec::new();
        copy_end_to_end_fields(&request.fields, &mut out);
        assert!(request.framing != BodyFraming::CloseDelimited);
        if let RequestTarget::Authority(authority) = request.target {
            let text = authority.to_string();
            assert_eq!(Authority::parse(&text), Ok(authority));
        }
    }
    let mut head = head.to_vec();
    unfold_field_lines(&mut head);
    let mut storage = FieldStorage::new();
    if let Ok(response) = ResponseHead::parse(&head, &mut storage) {
        for challenge in challenges(&response.fields) {
            assert!(!challenge.scheme.is_empty());
            if let Some(token) = challenge.token68 {
                let _ = decode_token(token);
            }
        }
        let _ = (find_challenge(&response.fields, "NTLM"), offered_schemes(&response.fields));
        let _ = (response.persists(), response.framing(ResponseTo::Other));
    }
}

#[test]
fn corrupted_heads_never_panic() {
    let seeds = [
        connect(Some(AUTHENTICATE)),
        FIRST_REFUSAL.to_owned(),
        challenged(),
        "POST http://[::1]:80/a?b HTTP/1.1\r\nHost: [::1]\r\nConnection: close, X\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 407 \r\nProxy-Authenticate: Basic realm=\"a, \\\"b\", NTLM TlRM==,\r\n Digest a=b\r\n\
         Content-Length: 5, 5\r\n\r\n"
            .to_owned(),
    ];
    let mut random = Rng::new(1);
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].clone().into_bytes();
        corrupt(&mut random, &mut bytes);
        exercise(&bytes);
    }
}

#[test]
fn discarding_corrupted_chunks_never_panics_nor_depends_on_the_splitting() {
    let seed = b"5;a=\"b\"\r\nhello\r\n0A  \r\n0123456789\r\n0\r\nT: v\r\n\r\nleftover";
    let discard = |bytes: &[u8], step: usize| {
        let mut discarder = BodyDiscarder::new(BodyFraming::Chunked, 4096);
        let mut consumed = 0;
        for piece in bytes.chunks(step.max(1)) {
            let discarded = discarder.feed(piece)?;
            consumed += discarded.consumed;
            if discarded.done {
                break;
            }
        }
        Ok::<_, DiscardError>((consumed, discarder.is_done()))
    };
    let mut random = Rng::new(2);
    for _ in 0..20_000 {
        let mut bytes = seed.to_vec();
        corrupt(&mut random, &mut bytes);
        let whole = discard(&bytes, bytes.len());
        let step = 1 + random.below(9);
        assert_eq!(whole, discard(&bytes, step), "{bytes:?} in steps of {step}");
    }
}
