//! Writes request heads for the next hop and complete responses for clients.

use super::base64_engine;
use super::field_name::{FieldKinds, FieldName};
use super::fields::Fields;
use super::framing::BodyFraming;
use super::proxy_status::ProxyStatus;
use super::start_line::Version;
use std::io::Write as _;

/// The value of a Proxy-Authorization field.
#[derive(Clone, Copy)]
pub struct ProxyAuthorization<'a> {
    /// The auth-scheme.
    pub scheme: &'a str,
    /// Follows after a blank.
    pub token: Token<'a>,
}

impl<'a> ProxyAuthorization<'a> {
    /// A message that is still to be encoded.
    pub fn of(scheme: &'a str, message: &'a [u8]) -> ProxyAuthorization<'a> {
        ProxyAuthorization { scheme, token: Token::Message(message) }
    }
}

/// A message on its way into a field.
#[derive(Clone, Copy)]
pub enum Token<'a> {
    /// It is still to be encoded.
    Message(&'a [u8]),
    /// It is in base64 already.
    Base64(&'a str),
}

impl Token<'_> {
    /// The length in base64.
    fn encoded_bytes(&self) -> usize {
        match self {
            Token::Message(message) => message.len().div_ceil(3) * 4,
            Token::Base64(text) => text.len(),
        }
    }
}

/// The peer that a request is sent to.
#[derive(Clone, Copy)]
pub enum NextHop<'a> {
    /// A proxy. The request gets `Proxy-Connection: Keep-Alive` and, if there are credentials, a Proxy-Authorization
    /// field.
    Proxy(Option<ProxyAuthorization<'a>>),
    /// The origin itself. The request contains no fields for proxies.
    Origin,
}

/// A request for the next hop. Its texts must come from parsed heads or the configuration, never unparsed from a peer,
/// so that none can contain a CR or LF.
#[derive(Clone, Copy)]
pub struct UpstreamRequest<'a> {
    /// A token.
    pub method: &'a str,
    /// `host:port` for CONNECT, otherwise the absolute form for a proxy and the origin form for an origin.
    pub target: &'a str,
    /// The value of the Host field.
    pub host: &'a str,
    /// HTTP/1.1, unless the upstream is known not to support it.
    pub version: Version,
    /// Field lines. Each slice is empty or ends in CRLF; see [`copy_end_to_end_fields`].
    pub extra_fields: &'a [&'a [u8]],
    /// The framing of the body that follows. With [`BodyFraming::None`] no framing field is written; the NEGOTIATE leg
    /// of a request that has a body uses `Length(0)`. [`BodyFraming::CloseDelimited`] is not valid for requests, and no
    /// field is written for it.
    pub framing: BodyFraming,
    /// The peer that the request is sent to.
    pub next_hop: NextHop<'a>,
}

/// Appends a request head to `out`, with Host first and credentials last.
pub fn upstream_request(out: &mut Vec<u8>, request: &UpstreamRequest<'_>) {
    let UpstreamRequest { method, target, host, version, extra_fields, framing, next_hop } = *request;
    debug_assert!(
        ![method, target, host].iter().any(|text| text.contains(['\r', '\n', ' '])),
        "a part of the head could break out of its line"
    );
    debug_assert!(extra_fields.iter().all(|piece| piece.is_empty() || piece.ends_with(b"\r\n")));
    let token_bytes = match next_hop {
        NextHop::Proxy(Some(ProxyAuthorization { token, .. })) => token.encoded_bytes(),
        _ => 0,
    };
    let extra_bytes: usize = extra_fields.iter().map(|piece| piece.len()).sum();
    out.reserve(192 + target.len() + host.len() + extra_bytes + token_bytes);
    extend(out, &[method, " ", target, " ", version.as_str()]);
    extend(out, &["\r\nHost: ", host, "\r\n"]);
    for piece in extra_fields {
        out.extend_from_slice(piece);
    }
    framing_field(out, framing);
    if let NextHop::Proxy(credentials) = next_hop {
        extend(out, &["Proxy-Connection: Keep-Alive\r\n"]);
        if let Some(ProxyAuthorization { scheme, token }) = credentials {
            extend(out, &["Proxy-Authorization: ", scheme, " "]);
            match token {
                Token::Message(message) => base64_engine::append(out, message),
                Token::Base64(text) => extend(out, &[text]),
            }
            extend(out, &["\r\n"]);
        }
    }
    extend(out, &["\r\n"]);
}

/// Appends the field line that announces a body with this framing; none for [`BodyFraming::None`] and
/// [`BodyFraming::CloseDelimited`].
pub fn framing_field(out: &mut Vec<u8>, framing: BodyFraming) {
    match framing {
        BodyFraming::None | BodyFraming::CloseDelimited => {}
        BodyFraming::Length(length) => {
            extend(out, &["Content-Length: ", itoa::Buffer::new().format(length), "\r\n"]);
        }
        BodyFraming::Chunked => extend(out, &["Transfer-Encoding: chunked\r\n"]),
    }
}

/// Appends the head of a CONNECT to `authority` (`host:port`) for a proxy. `extra_fields` are field lines that end in
/// CRLF.
pub fn connect_request(
    out: &mut Vec<u8>,
    authority: &str,
    version: Version,
    extra_fields: &[u8],
    credentials: Option<ProxyAuthorization<'_>>,
) {
    upstream_request(
        out,
        &UpstreamRequest {
            method: "CONNECT",
            target: authority,
            host: authority,
            version,
            extra_fields: &[extra_fields],
            framing: BodyFraming::None,
            next_hop: NextHop::Proxy(credentials),
        },
    );
}

/// Appends the client's end-to-end fields as field lines, except Host and Content-Length, which the gateway generates.
pub fn copy_end_to_end_fields(fields: &Fields<'_>, out: &mut Vec<u8>) {
    fields.copy_end_to_end(FieldKinds::of(&[FieldName::Host, FieldName::ContentLength]), out);
}

/// An error response that the gateway itself generates.
#[derive(Debug, Clone, Copy)]
pub struct ErrorResponse<'a> {
    /// 400 to 599.
    pub status: u16,
    /// The value of the Proxy-Status field.
    pub proxy_status: ProxyStatus<'a>,
    /// An explanation for people, used as the second line of the body. Control characters are replaced by `?`.
    pub detail: &'a str,
    /// Names and values of further fields, such as Retry-After or Allow. Must not come from a peer.
    pub extra_fields: &'a [(&'a str, &'a str)],
    /// Whether to omit the body, for responses to HEAD.
    pub omit_body: bool,
}

/// Appends a complete response that closes the connection. Its body is one or two lines of text.
pub fn error_response(out: &mut Vec<u8>, response: &ErrorResponse<'_>) {
    let reason = reason_phrase(response.status);
    let mut body = format!("{} {reason}\n", response.status);
    if !response.detail.is_empty() {
        body.push_str(response.proxy_status.name);
        body.push_str(": ");
        body.extend(response.detail.chars().map(|character| if character.is_control() { '?' } else { character }));
        body.push('\n');
    }
    let _ = write!(
        out,
        "HTTP/1.1 {} {reason}\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n\
         Cache-Control: no-store\r\n\
         Proxy-Status: {}\r\n",
        response.status,
        body.len(),
        response.proxy_status,
    );
    for (name, value) in response.extra_fields {
        debug_assert!(!name.contains(['\r', '\n', ':']) && !value.contains(['\r', '\n']));
        extend(out, &[name, ": ", value, "\r\n"]);
    }
    // Some clients of proxies look only at one of the two.
    extend(out, &["Connection: close\r\nProxy-Connection: close\r\n\r\n"]);
    if !response.omit_body {
        out.extend_from_slice(body.as_bytes());
    }
}

/// Appends the response that establishes a tunnel, without a body or framing fields (RFC 9110 §9.3.6).
pub fn established_response(out: &mut Vec<u8>) {
    extend(out, &["HTTP/1.1 200 Connection established\r\n\r\n"]);
}

/// The reason phrase for a status (RFC 9110 §15, RFC 6585), or the name of its class if the status is not in the table.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => match status / 100 {
            1 => "Informational",
            2 => "Successful",
            3 => "Redirection",
            4 => "Client Error",
            _ => "Server Error",
        },
    }
}

fn extend(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{ErrorType, FieldStorage, HeadEnd, RequestHead, ResponseHead, ResponseTo, decode_token};

    fn text(out: Vec<u8>) -> String {
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_connect_is_written_with_all_its_fields() {
        let mut out = Vec::new();
        connect_request(
            &mut out,
            "h.example:443",
            Version::Http11,
            b"User-Agent: u\r\n",
            Some(ProxyAuthorization::of("NTLM", b"NTLMSSP\0")),
        );
        assert_eq!(
            text(out),
            "CONNECT h.example:443 HTTP/1.1\r\nHost: h.example:443\r\nUser-Agent: u\r\n\
             Proxy-Connection: Keep-Alive\r\nProxy-Authorization: NTLM TlRMTVNTUAA=\r\n\r\n"
        );
    }

    #[test]
    fn a_connect_without_credentials_is_appended_to_the_buffer() {
        let mut out = b"before".to_vec();
        connect_request(&mut out, "h:1", Version::Http10, b"", None);
        assert_eq!(text(out), "beforeCONNECT h:1 HTTP/1.0\r\nHost: h:1\r\nProxy-Connection: Keep-Alive\r\n\r\n");
    }

    #[test]
    fn the_framing_of_the_body_is_announced() {
        for (framing, line) in [
            (BodyFraming::None, ""),
            (BodyFraming::Length(0), "Content-Length: 0\r\n"),
            (BodyFraming::Chunked, "Transfer-Encoding: chunked\r\n"),
        ] {
            let mut out = Vec::new();
            upstream_request(
                &mut out,
                &UpstreamRequest {
                    method: "POST",
                    target: "http://h/a",
                    host: "h",
                    version: Version::Http11,
                    extra_fields: &[],
                    framing,
                    next_hop: NextHop::Proxy(None),
                },
            );
            assert_eq!(
                text(out),
                format!("POST http://h/a HTTP/1.1\r\nHost: h\r\n{line}Proxy-Connection: Keep-Alive\r\n\r\n")
            );
        }
    }

    #[test]
    fn a_request_to_an_origin_has_no_fields_for_proxies() {
        let mut out = Vec::new();
        let request = UpstreamRequest {
            method: "GET",
            target: "/a",
            host: "h",
            version: Version::Http11,
            extra_fields: &[b"A: b\r\n", b"", b"C: d\r\n"],
            framing: BodyFraming::None,
            next_hop: NextHop::Origin,
        };
        upstream_request(&mut out, &request);
        assert_eq!(text(out), "GET /a HTTP/1.1\r\nHost: h\r\nA: b\r\nC: d\r\n\r\n");
    }

    #[test]
    fn messages_of_every_length_are_encoded_correctly() {
        for len in 0..200u8 {
            let message: Vec<u8> = (0..len).map(|byte| byte ^ 0x5a).collect();
            let mut out = Vec::new();
            base64_engine::append(&mut out, &message);
            assert_eq!(decode_token(&text(out)).unwrap(), message);
        }
    }

    #[test]
    fn only_end_to_end_fields_are_copied() {
        let head = b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\nUser-Agent: u \r\nProxy-Authorization: Basic x\r\n\
            Proxy-Connection: close\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nContent-Length: 0\r\n\
            X-Latin: \xe4\r\n\r\n";
        let mut storage = FieldStorage::new();
        let head = RequestHead::parse(head, &mut storage).unwrap();
        let mut out = Vec::new();
        copy_end_to_end_fields(&head.fields, &mut out);
        assert_eq!(out, b"User-Agent: u\r\nX-Latin: \xe4\r\n");
    }

    fn error<'a>(detail: &'a str, omit_body: bool) -> ErrorResponse<'a> {
        ErrorResponse {
            status: 503,
            proxy_status: ProxyStatus::error(ErrorType::ConnectionLimitReached, detail),
            detail,
            extra_fields: &[("Retry-After", "5")],
            omit_body,
        }
    }

    #[test]
    fn an_error_response_is_a_complete_response() {
        let mut out = Vec::new();
        error_response(&mut out, &error("too many\r\nInjected: tunnels", false));
        let len = HeadEnd::response().find(&out, 4096).unwrap().unwrap();
        let mut storage = FieldStorage::new();
        let head = ResponseHead::parse(&out[..len], &mut storage).unwrap();
        let body = &out[len..];
        assert_eq!((head.status, head.reason), (503, &b"Service Unavailable"[..]));
        assert_eq!(head.framing(ResponseTo::Connect), Ok(BodyFraming::Length(body.len() as u64)));
        assert!(!head.persists());
        assert_eq!(head.fields.get("retry-after"), Some(&b"5"[..]));
        assert_eq!(head.fields.get("cache-control"), Some(&b"no-store"[..]));
        assert_eq!(head.fields.get("content-type"), Some(&b"text/plain; charset=utf-8"[..]));
        assert_eq!(
            head.fields.get("proxy-status"),
            Some(&b"ntlm-gateway; error=connection_limit_reached; details=\"too many??Injected: tunnels\""[..])
        );
        assert!(!head.fields.has("injected"));
        assert_eq!(body, b"503 Service Unavailable\nntlm-gateway: too many??Injected: tunnels\n");
    }

    #[test]
    fn the_error_response_to_a_head_request_has_no_body() {
        let (mut whole, mut head) = (Vec::new(), Vec::new());
        error_response(&mut whole, &error("", false));
        error_response(&mut head, &error("", true));
        assert!(head.ends_with(b"\r\n\r\n"));
        assert!(whole.starts_with(&head) && whole.len() > head.len());
    }

    #[test]
    fn the_response_that_establishes_a_tunnel_has_no_framing() {
        let mut out = Vec::new();
        established_response(&mut out);
        let mut storage = FieldStorage::new();
        let head = ResponseHead::parse(&out, &mut storage).unwrap();
        assert_eq!(head.status, 200);
        assert!(head.fields.is_empty());
    }
}
