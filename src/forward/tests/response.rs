use super::{answer, get, request, response};
use crate::forward::{ForwardRequest, ForwardResponseError, ResponseKind};
use crate::http::{BodyFraming, FramingError};

fn old(fields: &str) -> ForwardRequest {
    request(&format!("GET http://h/ HTTP/1.0\r\n{fields}\r\n")).unwrap()
}

fn head_request() -> ForwardRequest {
    request("HEAD http://h/ HTTP/1.1\r\nHost: h\r\n\r\n").unwrap()
}

fn websocket() -> ForwardRequest {
    get("Connection: Upgrade\r\nUpgrade: websocket\r\n")
}

fn kind(request: &ForwardRequest, head: &str) -> ResponseKind {
    response(request, head, |response| response.unwrap().kind())
}

#[test]
fn hop_by_hop_fields_of_a_response_are_not_forwarded() {
    let head = "HTTP/1.1 200 Fine by me\r\nServer: s\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nProxy-Connection: close\r\n\
        Keep-Alive: timeout=5\r\nProxy-Authentication-Info: x\r\nUpgrade: h2c\r\nVia: 1.1 squid\r\n\
        Content-Length: 005\r\nTrailer: X\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n";
    let (text, keeps) = answer(&get(""), head, true);
    assert_eq!(
        text,
        "HTTP/1.1 200 Fine by me\r\nServer: s\r\nVia: 1.1 squid\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
         Via: 1.1 ntlm-gateway\r\nContent-Length: 5\r\n\r\n"
    );
    assert!(keeps);
    response(&get(""), head, |response| assert!(!response.unwrap().upstream_keeps_alive()));
}

#[test]
fn the_framing_suits_the_version_of_the_client() {
    use BodyFraming::{Chunked, CloseDelimited, Length, None as NoBody};
    let keeping = "Proxy-Connection: Keep-Alive\r\n";
    let chunked = "Transfer-Encoding: chunked\r\nTrailer: Digest\r\n";
    for (request, fields, framing, for_client, lines, keeps) in [
        (get(""), "Content-Length: 5\r\n", Length(5), Length(5), "Content-Length: 5\r\n", true),
        (get(""), chunked, Chunked, Chunked, "Transfer-Encoding: chunked\r\nTrailer: Digest\r\n", true),
        (get(""), "", CloseDelimited, Chunked, "Transfer-Encoding: chunked\r\n", true),
        (
            get("Connection: close\r\n"),
            "",
            CloseDelimited,
            Chunked,
            "Transfer-Encoding: chunked\r\nConnection: close\r\n",
            false,
        ),
        (old(""), "Content-Length: 5\r\n", Length(5), Length(5), "Content-Length: 5\r\nConnection: close\r\n", false),
        (
            old(keeping),
            "Content-Length: 5\r\n",
            Length(5),
            Length(5),
            "Content-Length: 5\r\nProxy-Connection: keep-alive\r\nConnection: keep-alive\r\n",
            true,
        ),
        (old(keeping), chunked, Chunked, CloseDelimited, "Connection: close\r\n", false),
        (old(keeping), "", CloseDelimited, CloseDelimited, "Connection: close\r\n", false),
        (head_request(), "Content-Length: 5\r\n", NoBody, NoBody, "Content-Length: 5\r\n", true),
        (head_request(), chunked, NoBody, NoBody, "", true),
        (head_request(), "", NoBody, NoBody, "", true),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        response(&request, &head, |response| {
            let response = response.unwrap();
            assert_eq!((response.framing(), response.client_framing()), (framing, for_client), "{fields}");
            assert_eq!(response.pump().is_done(), framing == NoBody);
            assert_eq!(response.upstream_keeps_alive(), framing != CloseDelimited);
        });
        let expected = format!("HTTP/1.1 200 OK\r\nVia: 1.1 ntlm-gateway\r\n{lines}\r\n");
        assert_eq!(answer(&request, &head, true), (expected, keeps), "{request:?} {fields}");
    }
}

#[test]
fn the_gateway_can_close_a_persistent_connection() {
    let (text, keeps) = answer(&get(""), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false);
    assert!(text.ends_with("Content-Length: 0\r\nConnection: close\r\n\r\n"), "{text}");
    assert!(!keeps);
}

#[test]
fn bodiless_statuses_have_no_framing_except_the_content_length_of_a_304() {
    for (status, fields, lines, upstream_keeps_alive) in [
        (204, "", "", true),
        (204, "Content-Length: 0\r\n", "", true),
        (204, "Content-Length: 5\r\n", "", false),
        (204, "Transfer-Encoding: chunked\r\n", "", false),
        (304, "Content-Length: 5\r\n", "Content-Length: 5\r\n", true),
        (304, "", "", true),
    ] {
        let head = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
        let (text, keeps) = answer(&get(""), &head, true);
        assert_eq!(text, format!("HTTP/1.1 {status} x\r\nVia: 1.1 ntlm-gateway\r\n{lines}\r\n"));
        assert!(keeps);
        response(&get(""), &head, |response| {
            let response = response.unwrap();
            assert!(response.pump().is_done());
            assert_eq!(response.upstream_keeps_alive(), upstream_keeps_alive, "{status} {fields}");
        });
    }
}

#[test]
fn a_204_to_a_head_has_no_content_length() {
    let (text, _) = answer(&head_request(), "HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n", true);
    assert_eq!(text, "HTTP/1.1 204 x\r\nVia: 1.1 ntlm-gateway\r\n\r\n");
}

#[test]
fn a_response_with_ambiguous_framing_is_rejected() {
    use FramingError::*;
    for (version, fields, error) in [
        ("1.1", "Content-Length: 5\r\nContent-Length: 6\r\n", ConflictingContentLengths),
        ("1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", LengthWithTransferEncoding),
        ("1.1", "Content-Length: x\r\n", InvalidContentLength),
        ("1.1", "Transfer-Encoding: gzip\r\n", ChunkedNotLast),
        ("1.1", "Transfer-Encoding: gzip, chunked\r\n", UnsupportedCoding),
        ("1.1", "Transfer-Encoding: chunked, chunked\r\n", ChunkedNotLast),
        ("1.1", "Transfer-Encoding:\r\n", EmptyTransferEncoding),
        ("1.0", "Transfer-Encoding: chunked\r\n", TransferEncodingInHttp10),
    ] {
        response(&get(""), &format!("HTTP/{version} 200 OK\r\n{fields}\r\n"), |response| {
            assert_eq!(response.unwrap_err(), ForwardResponseError::Framing(error), "{fields}");
        });
    }
    response(&head_request(), "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n", |response| {
        assert_eq!(response.unwrap_err(), ForwardResponseError::Framing(ConflictingContentLengths));
    });
}

#[test]
fn interim_responses_go_to_http_1_1_clients_and_a_100_to_those_that_wait() {
    let waiting =
        request("POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n").unwrap();
    for (request, status, pass_on) in [
        (&waiting, 100, true),
        (&waiting, 103, true),
        (&get(""), 100, false),
        (&get(""), 102, true),
        (&get(""), 103, true),
        (&old(""), 100, false),
        (&old(""), 103, false),
    ] {
        let head = format!("HTTP/1.1 {status} x\r\n\r\n");
        assert_eq!(kind(request, &head), ResponseKind::Interim { pass_on }, "{status}");
    }
    let (text, _) = answer(&get(""), "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: close\r\n\r\n", false);
    assert_eq!(text, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nVia: 1.1 ntlm-gateway\r\n\r\n");
    assert_eq!(answer(&waiting, "HTTP/1.1 100\r\n\r\n", true).0, "HTTP/1.1 100 \r\nVia: 1.1 ntlm-gateway\r\n\r\n");
}

#[test]
fn a_switch_to_an_unrequested_protocol_is_rejected() {
    let switch =
        |protocol: &str| format!("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
    assert_eq!(kind(&websocket(), &switch("WebSocket")), ResponseKind::Switching);
    let (text, keeps) = answer(&websocket(), &switch("websocket"), true);
    assert_eq!(
        text,
        "HTTP/1.1 101 Switching\r\nVia: 1.1 ntlm-gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    assert!(!keeps);
    response(&websocket(), &switch("websocket"), |response| assert!(!response.unwrap().upstream_keeps_alive()));
    for (request, head, error) in [
        (get(""), switch("websocket"), ForwardResponseError::UnrequestedSwitch),
        (websocket(), switch("foo"), ForwardResponseError::UnexpectedProtocol),
        (websocket(), switch("h2c"), ForwardResponseError::UnexpectedProtocol),
        (websocket(), "HTTP/1.1 101 x\r\n\r\n".to_owned(), ForwardResponseError::UnexpectedProtocol),
    ] {
        response(&request, &head, |response| assert_eq!(response.unwrap_err(), error, "{head}"));
    }
}

#[test]
fn a_response_to_a_declined_upgrade_is_final() {
    let declined = "HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(kind(&websocket(), declined), ResponseKind::Final);
    assert!(!answer(&websocket(), declined, true).0.contains("Upgrade"));
    let required = "HTTP/1.1 426 x\r\nConnection: Upgrade\r\nUpgrade: foo/2\r\nContent-Length: 0\r\n\r\n";
    let (text, _) = answer(&get(""), required, true);
    assert!(text.ends_with("Content-Length: 0\r\nUpgrade: foo/2\r\nConnection: Upgrade\r\n\r\n"), "{text}");
}

#[test]
fn connection_based_authentication_by_the_origin_is_detected() {
    for (fields, expected) in [
        ("WWW-Authenticate: NTLM\r\n", true),
        ("WWW-Authenticate: Basic realm=\"a\", negotiate\r\n", true),
        ("WWW-Authenticate: NTLM TlRMTVNTUAAC\r\n", true),
        ("Persistent-Auth: true\r\n", true),
        ("Persistent-Auth: false\r\n", false),
        ("WWW-Authenticate: Basic realm=\"NTLM\"\r\n", false),
        ("", false),
    ] {
        let head = format!("HTTP/1.1 401 x\r\n{fields}Content-Length: 0\r\n\r\n");
        response(&get(""), &head, |response| {
            assert_eq!(response.unwrap().authenticates_connection(), expected, "{fields}");
        });
    }
}

#[test]
fn support_for_connection_based_authentication_is_announced_again() {
    let head = "HTTP/1.1 401 x\r\nWWW-Authenticate: NTLM\r\nProxy-Support: Session-Based-Authentication\r\n\
        Connection: Proxy-Support\r\nContent-Length: 0\r\n\r\n";
    let (text, _) = answer(&get("Connection: close\r\n"), head, true);
    assert_eq!(
        text,
        "HTTP/1.1 401 x\r\nWWW-Authenticate: NTLM\r\nVia: 1.1 ntlm-gateway\r\nContent-Length: 0\r\n\
         Proxy-Support: Session-Based-Authentication\r\nConnection: close, Proxy-Support\r\n\r\n"
    );
}

#[test]
fn an_http_1_0_upstream_connection_persists_if_it_says_keep_alive() {
    for (head, expected) in [
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nProxy-Connection: keep-alive\r\nContent-Length: 1\r\n\r\n", true),
    ] {
        response(&get(""), head, |response| assert_eq!(response.unwrap().upstream_keeps_alive(), expected));
        assert!(answer(&get(""), head, true).0.contains("\r\nVia: 1.0 ntlm-gateway\r\n"));
    }
}
