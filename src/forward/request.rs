//! What a client asks for, ready to be sent on (RFC 9110 §7.6, RFC 9112 §3.2).

use super::body::BodyPump;
use super::{ForwardOptions, end_to_end, upgrade};
use crate::http::{self, BodyFraming, Fields, NextHop, RequestHead, RequestTarget, UpstreamRequest, Version};
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// Why a request is not forwarded. Its text holds no bytes of the peer and may be shown to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// `GET /path` or `OPTIONS *`: the client takes the gateway for an origin (RFC 9112 §3.2.2).
    #[error(
        "this is a forward proxy: the request line must name a whole URL, as in GET http://host/path; \
         set the proxy's address as HTTP_PROXY, not as the URL"
    )]
    NotAbsoluteForm,
    /// A CONNECT, or a method that differs from it in letter case only: another hop might take it for one.
    #[error("a CONNECT is not forwarded but tunnelled")]
    Connect,
    /// RFC 9110 §10.1.1
    #[error("an expectation other than 100-continue")]
    UnknownExpectation,
    /// RFC 9110 §9.3.8
    #[error("a TRACE request has no content")]
    TraceWithContent,
    /// RFC 9110 §7.6.2
    #[error("Max-Forwards is not one decimal number")]
    InvalidMaxForwards,
    /// RFC 9110 §7.6.2: the gateway is the last recipient, and answers no such request by itself.
    #[error("Max-Forwards is 0, and the gateway answers neither TRACE nor OPTIONS by itself")]
    LastRecipient,
}

impl ForwardError {
    /// The status that answers the request: 400, 417 or 501.
    pub fn status(&self) -> u16 {
        match self {
            Self::UnknownExpectation => 417,
            Self::LastRecipient => 501,
            _ => 400,
        }
    }
}

/// What a head is sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadFor {
    /// The client's answer: the body follows.
    Answer,
    /// A challenge: the request itself, or its [stand-in](ForwardRequest::has_stand_in), whose answer is not the client's.
    Challenge,
}

/// A request on its way from a client to an upstream: what was understood of its head, owned, and ready to be written as
/// often as the handshake needs it.
pub struct ForwardRequest {
    method: Box<str>,
    /// As received.
    target: Box<str>,
    /// Where in `target` the authority is: the value of Host.
    authority: Range<usize>,
    origin: Box<str>,
    /// End-to-end field lines and Via.
    fields: Box<[u8]>,
    /// Trailer field lines, which go along with a chunked body only.
    trailer: Box<[u8]>,
    upgrade: Option<Box<str>>,
    framing: BodyFraming,
    client_version: Version,
    client_keeps_alive: bool,
    expects_continue: bool,
    authenticates_connection: bool,
    has_been_here: bool,
}

impl ForwardRequest {
    /// Takes from a parsed head what is needed later; the head's bytes may go.
    ///
    /// # Errors
    /// [`ForwardError`], whose [`status`](ForwardError::status) answers the client.
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
            method: head.method.into(),
            target: head.target_text.into(),
            authority: authority_end - authority_text.len()..authority_end,
            origin: authority.to_string().into(),
            fields: end_to_end_fields(head, options)?.into(),
            trailer: trailer.into(),
            upgrade: upgrade::protocols(&head.fields).filter(|_| head.version == Version::Http11),
            framing: head.framing,
            client_version: head.version,
            client_keeps_alive: head.persists(),
            expects_continue,
            authenticates_connection: authenticates_connection(&head.fields),
            has_been_here: end_to_end::via_names_us(&head.fields, options),
        })
    }

    /// A token; methods are case-sensitive.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The absolute form as received. Its path may hold secrets: for the upstream, not for logs.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Host and port of the origin, `host:port`, an IPv6 address in its brackets: for routing and logs, and what
    /// [`Authority::parse`](http::Authority::parse) reads.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How the client's body comes and how it goes to the upstream; never [`BodyFraming::ToClose`].
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// Moves the body from the client to the upstream.
    pub fn pump(&self) -> BodyPump {
        BodyPump::same(self.framing)
    }

    /// Whether there is a body, be it of unknown length.
    pub fn has_body(&self) -> bool {
        has_body(self.framing)
    }

    /// Whether the client waits for a 100 before it sends its body (RFC 9110 §10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// The protocols that the client would switch to, as `a, b` (RFC 9110 §7.8).
    pub fn upgrade(&self) -> Option<&str> {
        self.upgrade.as_deref()
    }

    /// The version of the client's request.
    pub fn client_version(&self) -> Version {
        self.client_version
    }

    /// Whether the client means to send another request behind this one (RFC 9112 §9.3).
    pub fn client_keeps_alive(&self) -> bool {
        self.client_keeps_alive
    }

    /// What it takes, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.target.len() + self.origin.len() + self.fields.len() + self.trailer.len()
    }

    /// Whether sending it twice does no more than sending it once (RFC 9110 §9.2.2), so that it may be sent again
    /// when a kept connection closes under it.
    pub fn is_idempotent(&self) -> bool {
        self.is_safe() || matches!(&*self.method, "PUT" | "DELETE")
    }

    /// RFC 9110 §9.2.1
    fn is_safe(&self) -> bool {
        matches!(&*self.method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
    }

    /// Whether something else is sent in its place to get its challenge:
    ///
    /// - for a request with a body the same with an empty one (`Content-Length: 0`), and without what belongs to the body:
    ///   expectation, trailer and upgrade. A body that is answered with 407 would have to be sent whole before the connection
    ///   could go on.
    /// - for a HEAD a GET: some proxies send the page of their 407 behind a HEAD as well.
    pub fn has_stand_in(&self) -> bool {
        self.has_body() || &*self.method == "HEAD"
    }

    /// Whether it has a body although its method gives a body no meaning (RFC 9110 §9.3). Some servers do not read such a
    /// body and take it for the next request; the connection it went on is not used again.
    pub fn has_unexpected_body(&self) -> bool {
        let methods = ["GET", "HEAD", "OPTIONS", "DELETE", "TRACE"];
        self.has_body() && methods.iter().any(|method| method.eq_ignore_ascii_case(&self.method))
    }

    /// Whether the client proves itself to the origin by a scheme that proves a whole connection (NTLM, Negotiate):
    /// from now on its connection and the upstream's belong together, and to nobody else (RFC 4559 §6).
    pub fn authenticates_connection(&self) -> bool {
        self.authenticates_connection
    }

    /// Whether Via says that the request has been with somebody of our pseudonym: with this gateway, should it be its own
    /// upstream, or with another of its name.
    pub fn has_been_here(&self) -> bool {
        self.has_been_here
    }

    /// Appends the head for an upstream proxy, in absolute form, with these credentials (scheme and message) if any.
    pub fn write_head(&self, out: &mut Vec<u8>, credentials: Option<(&str, &[u8])>, purpose: HeadFor) {
        if purpose == HeadFor::Challenge && self.has_stand_in() {
            let (method, framing) = match (&*self.method, self.has_body()) {
                ("HEAD", _) => ("GET", BodyFraming::None),
                (method, _) => (method, BodyFraming::Length(0)),
            };
            return self.write(out, method, &self.target, &[], framing, NextHop::Proxy(credentials));
        }
        let mut own_fields = self.trailer.to_vec();
        self.append_expectation(&mut own_fields);
        if self.upgrade.is_some() {
            own_fields.extend_from_slice(b"Connection: Upgrade\r\n");
            self.append_upgrade(&mut own_fields);
        }
        self.write(out, &self.method, &self.target, &own_fields, self.framing, NextHop::Proxy(credentials));
    }

    /// Appends the head for the origin itself, in origin form: nothing in it is meant for proxies (RFC 9112 §3.2.1).
    pub fn write_origin_head(&self, out: &mut Vec<u8>) {
        let mut own_fields = self.trailer.to_vec();
        self.append_expectation(&mut own_fields);
        match self.upgrade {
            Some(_) => own_fields.extend_from_slice(b"Connection: Upgrade\r\n"),
            None => own_fields.extend_from_slice(b"Connection: keep-alive\r\n"),
        }
        self.append_upgrade(&mut own_fields);
        self.write(out, &self.method, &self.origin_form(), &own_fields, self.framing, NextHop::Origin);
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
            host: self.target.get(self.authority.clone()).unwrap_or(&self.origin),
            version: Version::Http11,
            extra_fields: &[&self.fields, own_fields],
            framing,
            next_hop,
        };
        http::upstream_request(out, &request);
    }

    /// The path and query of the target; RFC 9112 §3.2.1 and §3.2.4 say what stands for an empty path.
    fn origin_form(&self) -> Cow<'_, str> {
        let path_and_query = self.target.get(self.authority.end..).unwrap_or_default();
        match path_and_query {
            "" if &*self.method == "OPTIONS" => Cow::Borrowed("*"),
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

/// Prints neither field values nor the path: both may be secrets.
impl fmt::Debug for ForwardRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardRequest")
            .field("method", &self.method)
            .field("origin", &self.origin)
            .field("framing", &self.framing)
            .field("client_version", &self.client_version)
            .finish_non_exhaustive()
    }
}

fn has_body(framing: BodyFraming) -> bool {
    !matches!(framing, BodyFraming::None | BodyFraming::Length(0))
}

fn end_to_end_fields(head: &RequestHead<'_>, options: &ForwardOptions<'_>) -> Result<Vec<u8>, ForwardError> {
    // HTTP2-Settings goes with `Upgrade: h2c`, which is not passed on.
    const WRITTEN_ANEW: [&str; 5] = ["host", "content-length", "expect", "http2-settings", "max-forwards"];
    let is_limited = matches!(head.method, "TRACE" | "OPTIONS");
    let skip = if is_limited { &WRITTEN_ANEW[..] } else { &WRITTEN_ANEW[..4] };
    let mut out = Vec::with_capacity(512);
    end_to_end::copy_but(&head.fields, skip, &mut out);
    if is_limited && let Some(forwards) = max_forwards(&head.fields)? {
        let left = forwards.checked_sub(1).ok_or(ForwardError::LastRecipient)?;
        end_to_end::line("Max-Forwards", left.to_string().as_bytes(), &mut out);
    }
    end_to_end::append_via(head.version, options, &mut out);
    Ok(out)
}

fn max_forwards(fields: &Fields<'_>) -> Result<Option<u64>, ForwardError> {
    let mut values = fields.get_all("max-forwards");
    let Some(value) = values.next() else {
        return Ok(None);
    };
    // `u64::from_str` alone would take a sign.
    let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    match (number, values.next()) {
        (Some(number), None) => Ok(Some(number)),
        _ => Err(ForwardError::InvalidMaxForwards),
    }
}

fn expects_continue(fields: &Fields<'_>) -> Result<bool, ForwardError> {
    let mut expects = false;
    for expectation in fields.list("expect") {
        if !expectation.eq_ignore_ascii_case(b"100-continue") {
            return Err(ForwardError::UnknownExpectation);
        }
        expects = true;
    }
    Ok(expects)
}

fn authenticates_connection(fields: &Fields<'_>) -> bool {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    fields.get_all("authorization").any(|credentials| {
        let scheme = credentials.split(is_blank).next().unwrap_or_default();
        [&b"NTLM"[..], b"Negotiate"].iter().any(|known| known.eq_ignore_ascii_case(scheme))
    })
}
