//! A client's request, ready to be forwarded (RFC 9110 §7.6, RFC 9112 §3.2).

use super::body::BodyPump;
use super::{ForwardOptions, end_to_end, upgrade};
use crate::http::{
    self, Authority, BodyFraming, FieldKinds, FieldName, Fields, NextHop, ProxyAuthorization, RequestHead,
    RequestTarget, UpstreamRequest, Version,
};
use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

/// Why a request is not forwarded. The text contains no bytes from the client and may be shown to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// `GET /path` or `OPTIONS *`: the client takes the gateway for an origin (RFC 9112 §3.2.2).
    #[error(
        "this is a forward proxy: the request line must contain the whole URL, as in GET http://host/path; \
         use the gateway's address as HTTP_PROXY, not as the URL"
    )]
    NotAbsoluteForm,
    /// CONNECT, or a method that differs from it only in letter case, which another hop might take for CONNECT.
    #[error("CONNECT requests are tunnelled, not forwarded")]
    Connect,
    /// RFC 9110 §10.1.1
    #[error("an expectation other than 100-continue")]
    UnknownExpectation,
    /// RFC 9110 §9.3.8
    #[error("a TRACE request has no content")]
    TraceWithContent,
    /// RFC 9110 §7.6.2
    #[error("Max-Forwards is not a single decimal number")]
    InvalidMaxForwards,
    /// The gateway would have to respond itself (RFC 9110 §7.6.2), which is not implemented.
    #[error("Max-Forwards is 0, and the gateway itself answers neither TRACE nor OPTIONS")]
    LastRecipient,
}

impl ForwardError {
    /// The status of the response: 400, 417 or 501.
    pub fn status(&self) -> u16 {
        match self {
            Self::UnknownExpectation => 417,
            Self::LastRecipient => 501,
            _ => 400,
        }
    }
}

/// Why a head is sent to the upstream proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadPurpose {
    /// To get the response for the client. The body follows the head.
    Answer,
    /// To get a challenge. The request itself is sent or, if it has one, its
    /// [stand-in](ForwardRequest::has_stand_in), whose response does not go to the client.
    Challenge,
}

/// A parsed request that is forwarded. It owns its data, and its head can be written several times, as the handshake
/// requires.
pub struct ForwardRequest {
    texts: Texts,
    /// The position of the authority in the target, which is the value of the Host field.
    authority: Range<usize>,
    /// End-to-end field lines and Via.
    fields: Vec<u8>,
    /// Trailer field lines, for a chunked body only.
    trailer: Box<[u8]>,
    upgrade: Option<Box<str>>,
    framing: BodyFraming,
    client_version: Version,
    client_keeps_alive: bool,
    expects_continue: bool,
    authenticates_connection: bool,
    original: Option<SocketAddr>,
}

/// The texts of a request, in one allocation.
struct Texts {
    /// The method, the target as received, the origin, and the `traceparent` for the access log if there is one.
    all: String,
    method_end: usize,
    target_end: usize,
    origin_end: usize,
}

impl Texts {
    fn of(head: &RequestHead<'_>, authority: &Authority<'_>) -> Texts {
        let traceparent = http::traceparent(&head.fields).unwrap_or_default();
        let room = head.method.len() + 2 * head.target_text.len() + ":65535".len() + traceparent.len();
        let mut all = String::with_capacity(room);
        let method_end = head.method.len();
        all.push_str(head.method);
        all.push_str(head.target_text);
        let target_end = all.len();
        authority.append_to(&mut all);
        let origin_end = all.len();
        all.push_str(traceparent);
        Texts { all, method_end, target_end, origin_end }
    }

    fn method(&self) -> &str {
        self.all.get(..self.method_end).unwrap_or_default()
    }

    fn target(&self) -> &str {
        self.all.get(self.method_end..self.target_end).unwrap_or_default()
    }

    fn origin(&self) -> &str {
        self.all.get(self.target_end..self.origin_end).unwrap_or_default()
    }

    fn traceparent(&self) -> Option<&str> {
        self.all.get(self.origin_end..).filter(|text| !text.is_empty())
    }
}

impl ForwardRequest {
    /// Copies what is needed from a parsed head.
    ///
    /// # Errors
    /// [`ForwardError`]; respond to the client with its [`status`](ForwardError::status).
    pub fn of(head: &RequestHead<'_>, options: &ForwardOptions<'_>) -> Result<Self, ForwardError> {
        if head.method.eq_ignore_ascii_case("CONNECT") {
            return Err(ForwardError::Connect);
        }
        let RequestTarget::Absolute { authority, authority_text, path_and_query } = head.target else {
            return Err(ForwardError::NotAbsoluteForm);
        };
        let has_body = has_body(head.framing);
        if head.method == "TRACE" && has_body {
            return Err(ForwardError::TraceWithContent);
        }
        let expects_continue = expects_continue(&head.fields)? && has_body && head.version == Version::Http11;
        let authority_end = head.target_text.len() - path_and_query.len();
        let mut trailer = Vec::new();
        if head.framing == BodyFraming::Chunked {
            end_to_end::copy_trailer(&head.fields, &mut trailer);
        }
        Ok(Self {
            texts: Texts::of(head, &authority),
            authority: authority_end - authority_text.len()..authority_end,
            fields: end_to_end_fields(head, options)?,
            trailer: trailer.into(),
            upgrade: upgrade::protocols(&head.fields).filter(|_| head.version == Version::Http11),
            framing: head.framing,
            client_version: head.version,
            client_keeps_alive: head.persists(),
            expects_continue,
            authenticates_connection: authenticates_connection(&head.fields),
            original: None,
        })
    }

    /// Notes where the client's connection was going, if it was redirected.
    #[must_use]
    pub fn redirected_from(self, original: Option<SocketAddr>) -> Self {
        Self { original, ..self }
    }

    /// Where the client's connection was going, if it was redirected. Further requests on it were going there as well.
    pub fn original(&self) -> Option<SocketAddr> {
        self.original
    }

    /// The method, a token. Methods are case-sensitive.
    pub fn method(&self) -> &str {
        self.texts.method()
    }

    /// The target as received, in absolute form. Its path may contain secrets, so it must not be logged.
    pub fn target(&self) -> &str {
        self.texts.target()
    }

    /// The origin as `host:port`, with IPv6 addresses in brackets, as accepted by
    /// [`Authority::parse`](http::Authority::parse). For routing and logs.
    pub fn origin(&self) -> &str {
        self.texts.origin()
    }

    /// The trace that the client says the request belongs to, for the access log: a valid `traceparent` of W3C Trace
    /// Context.
    pub fn traceparent(&self) -> Option<&str> {
        self.texts.traceparent()
    }

    /// The framing of the body, both from the client and to the upstream; never [`BodyFraming::CloseDelimited`].
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// The pump for the body, from the client to the upstream.
    pub fn pump(&self) -> BodyPump {
        BodyPump::same(self.framing)
    }

    /// Whether there is a body that is not known to be empty.
    pub fn has_body(&self) -> bool {
        has_body(self.framing)
    }

    /// Whether the client waits for a 100 response before it sends the body (RFC 9110 §10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// The protocols that the client offers to switch to, as `a, b` (RFC 9110 §7.8).
    pub fn upgrade(&self) -> Option<&str> {
        self.upgrade.as_deref()
    }

    /// The HTTP version of the client's request.
    pub fn client_version(&self) -> Version {
        self.client_version
    }

    /// Whether the client keeps its connection open for another request (RFC 9112 §9.3).
    pub fn client_keeps_alive(&self) -> bool {
        self.client_keeps_alive
    }

    /// The memory held by the texts of the request, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.texts.all.capacity() + self.fields.capacity() + self.trailer.len()
    }

    /// Whether the method is idempotent (RFC 9110 §9.2.2), so that the request may be sent again if a kept connection
    /// closes before it is answered.
    pub fn is_idempotent(&self) -> bool {
        self.is_safe() || matches!(self.method(), "PUT" | "DELETE")
    }

    /// Whether the method is safe (RFC 9110 §9.2.1).
    fn is_safe(&self) -> bool {
        matches!(self.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE")
    }

    /// Whether a stand-in is sent in place of this request to get a challenge:
    ///
    /// - For a request with a body, the same request with an empty body (`Content-Length: 0`) and without expectation,
    ///   trailer and upgrade. If the request itself got a 407, its whole body would have to be sent before the
    ///   connection could be used again.
    /// - For HEAD, a GET, because some proxies send a body with their 407 even in response to HEAD.
    pub fn has_stand_in(&self) -> bool {
        self.has_body() || self.method() == "HEAD"
    }

    /// Whether the request has a body although its method defines no meaning for one (RFC 9110 §9.3). Some servers do
    /// not read such a body and take it for the next request, so the upstream's connection must not be reused.
    pub fn has_unexpected_body(&self) -> bool {
        let methods = ["GET", "HEAD", "OPTIONS", "DELETE", "TRACE"];
        self.has_body() && methods.iter().any(|method| method.eq_ignore_ascii_case(self.method()))
    }

    /// Whether the client authenticates to the origin with a scheme that authenticates a connection (NTLM, Negotiate).
    /// From then on, the upstream's connection may be used only for requests from this client's connection (RFC 4559
    /// §6).
    pub fn authenticates_connection(&self) -> bool {
        self.authenticates_connection
    }

    /// Appends the head for an upstream proxy, in absolute form, with the credentials if given.
    pub fn write_head(&self, out: &mut Vec<u8>, credentials: Option<ProxyAuthorization<'_>>, purpose: HeadPurpose) {
        if purpose == HeadPurpose::Challenge && self.has_stand_in() {
            let (method, framing) = match (self.method(), self.has_body()) {
                ("HEAD", _) => ("GET", BodyFraming::None),
                (method, _) => (method, BodyFraming::Length(0)),
            };
            return self.write(out, method, self.target(), &[], framing, NextHop::Proxy(credentials));
        }
        let mut own_fields = self.trailer.to_vec();
        self.append_expectation(&mut own_fields);
        if self.upgrade.is_some() {
            own_fields.extend_from_slice(b"Connection: Upgrade\r\n");
            self.append_upgrade(&mut own_fields);
        }
        self.write(out, self.method(), self.target(), &own_fields, self.framing, NextHop::Proxy(credentials));
    }

    /// Appends the head for the origin itself, in origin form and without fields for proxies (RFC 9112 §3.2.1).
    pub fn write_origin_head(&self, out: &mut Vec<u8>) {
        let mut own_fields = self.trailer.to_vec();
        self.append_expectation(&mut own_fields);
        match self.upgrade {
            Some(_) => own_fields.extend_from_slice(b"Connection: Upgrade\r\n"),
            None => own_fields.extend_from_slice(b"Connection: keep-alive\r\n"),
        }
        self.append_upgrade(&mut own_fields);
        self.write(out, self.method(), &self.origin_form(), &own_fields, self.framing, NextHop::Origin);
    }

    fn write(
        &self,
        out: &mut Vec<u8>,
        method: &str,
        target: &str,
        own_fields: &[u8],
        framing: BodyFraming,
        next_hop: NextHop<'_>,
    ) {
        let request = UpstreamRequest {
            method,
            target,
            host: self.target().get(self.authority.clone()).unwrap_or(self.origin()),
            version: Version::Http11,
            extra_fields: &[&self.fields, own_fields],
            framing,
            next_hop,
        };
        http::upstream_request(out, &request);
    }

    /// The target in origin form. An empty path becomes `/`, or `*` for OPTIONS (RFC 9112 §3.2.1, §3.2.4).
    fn origin_form(&self) -> Cow<'_, str> {
        let path_and_query = self.target().get(self.authority.end..).unwrap_or_default();
        match path_and_query {
            "" if self.method() == "OPTIONS" => Cow::Borrowed("*"),
            _ if path_and_query.starts_with('/') => Cow::Borrowed(path_and_query),
            _ => Cow::Owned(format!("/{path_and_query}")),
        }
    }

    fn append_expectation(&self, out: &mut Vec<u8>) {
        if self.expects_continue {
            end_to_end::line("Expect", b"100-continue", out);
        }
    }

    fn append_upgrade(&self, out: &mut Vec<u8>) {
        if let Some(protocols) = &self.upgrade {
            end_to_end::line("Upgrade", protocols.as_bytes(), out);
        }
    }
}

/// Omits field values and the path, because both may be secrets.
impl fmt::Debug for ForwardRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardRequest")
            .field("method", &self.method())
            .field("origin", &self.origin())
            .field("framing", &self.framing)
            .field("client_version", &self.client_version)
            .finish_non_exhaustive()
    }
}

fn has_body(framing: BodyFraming) -> bool {
    !matches!(framing, BodyFraming::None | BodyFraming::Length(0))
}

fn end_to_end_fields(head: &RequestHead<'_>, options: &ForwardOptions<'_>) -> Result<Vec<u8>, ForwardError> {
    // HTTP2-Settings belongs to `Upgrade: h2c`, which is not forwarded. The others are generated.
    const NOT_COPIED: FieldKinds =
        FieldKinds::of(&[FieldName::Host, FieldName::ContentLength, FieldName::Expect, FieldName::Http2Settings]);
    const OF_LIMITED: FieldKinds = NOT_COPIED.and(FieldKinds::of(&[FieldName::MaxForwards]));
    let is_limited = matches!(head.method, "TRACE" | "OPTIONS");
    let mut out = Vec::with_capacity(end_to_end::room_for_fields(&head.fields, options));
    head.fields.copy_end_to_end(if is_limited { OF_LIMITED } else { NOT_COPIED }, &mut out);
    if is_limited && let Some(forwards) = max_forwards(&head.fields)? {
        let left = forwards.checked_sub(1).ok_or(ForwardError::LastRecipient)?;
        end_to_end::line("Max-Forwards", left.to_string().as_bytes(), &mut out);
    }
    end_to_end::append_via(head.version, options, &mut out);
    Ok(out)
}

fn max_forwards(fields: &Fields<'_>) -> Result<Option<u64>, ForwardError> {
    let mut values = fields.get_all(FieldName::MaxForwards);
    let Some(value) = values.next() else {
        return Ok(None);
    };
    // `u64::from_str` alone would accept a sign.
    let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    match (number, values.next()) {
        (Some(number), None) => Ok(Some(number)),
        _ => Err(ForwardError::InvalidMaxForwards),
    }
}

fn expects_continue(fields: &Fields<'_>) -> Result<bool, ForwardError> {
    if !fields.has(FieldName::Expect) {
        return Ok(false);
    }
    let mut expects = false;
    for expectation in fields.list(FieldName::Expect) {
        if !expectation.eq_ignore_ascii_case(b"100-continue") {
            return Err(ForwardError::UnknownExpectation);
        }
        expects = true;
    }
    Ok(expects)
}

fn authenticates_connection(fields: &Fields<'_>) -> bool {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    fields.get_all(FieldName::Authorization).any(|credentials| {
        let scheme = credentials.split(is_blank).next().unwrap_or_default();
        [&b"NTLM"[..], b"Negotiate"].iter().any(|known| known.eq_ignore_ascii_case(scheme))
    })
}
