//! A response, ready to be forwarded to the client (RFC 9110 §7.6, §15.2; RFC 9112 §6, §9).

use super::body::BodyPump;
use super::{ForwardOptions, ForwardRequest, end_to_end, upgrade};
use crate::http::{self, BodyFraming, FieldKinds, FieldName, Fields, FramingError, ResponseHead, ResponseTo, Version};

/// Why a response is not forwarded. The client gets a 502 instead. The text contains no bytes from the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardResponseError {
    /// RFC 9112 §6.3
    #[error("{0}")]
    Framing(#[from] FramingError),
    /// A 101 response to a request without Upgrade (RFC 9110 §7.8).
    #[error("the upstream switches to another protocol although the request did not ask for it")]
    UnrequestedSwitch,
    /// A 101 response with no protocol, or with one that the request did not list (RFC 9110 §7.8).
    #[error("the upstream switches to a protocol that the request did not ask for")]
    UnexpectedProtocol,
}

/// The role of a response in its exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseKind {
    /// A 1xx response, which another response follows. The caller must limit their number.
    Interim {
        /// Whether to forward it: the client uses HTTP/1.1 and, for a 100, has asked for it (RFC 9110 §15.2).
        pass_on: bool,
    },
    /// A 101 response. After its head, both connections carry another protocol.
    Switching,
    /// The final response.
    Final,
}

/// A response that is forwarded to a client, borrowed from its head.
#[derive(Debug)]
pub struct ForwardResponse<'b> {
    head: ResponseHead<'b>,
    options: ForwardOptions<'b>,
    kind: ResponseKind,
    framing: BodyFraming,
    client_framing: BodyFraming,
    /// The Content-Length of a response without a body, which is that of a response to GET (RFC 9110 §8.6).
    announced_length: Option<u64>,
    client_version: Version,
    client_keeps_alive: bool,
    upgrade: Option<Box<str>>,
    upstream_keeps_alive: bool,
    authenticates_connection: bool,
}

impl<'b> ForwardResponse<'b> {
    /// Determines how a response to `request` is forwarded.
    ///
    /// # Errors
    /// [`ForwardResponseError`] if the response cannot be forwarded. The upstream's connection must be closed.
    pub fn of(
        head: &ResponseHead<'b>,
        request: &ForwardRequest,
        options: &ForwardOptions<'b>,
    ) -> Result<Self, ForwardResponseError> {
        let to = ResponseTo::method(request.method());
        let framing = head.forwarded_framing(to)?;
        let kind = kind(head, request);
        let upgrade = upgrade::protocols(&head.fields);
        if kind == ResponseKind::Switching {
            let offered = request.upgrade().ok_or(ForwardResponseError::UnrequestedSwitch)?;
            let was_offered = upgrade.as_deref().is_some_and(|chosen| upgrade::all_offered(chosen, offered));
            was_offered.then_some(()).ok_or(ForwardResponseError::UnexpectedProtocol)?;
        }
        let has_coding = head.fields.has(FieldName::TransferEncoding);
        let announces = (to == ResponseTo::Head || head.status == 304) && kind == ResponseKind::Final;
        let announced_length =
            if announces && head.status != 204 && !has_coding { head.content_length()? } else { None };
        // A 204 has no body, but an upstream that announces one may send it all the same.
        let is_dubious =
            head.status == 204 && (has_coding || head.fields.get(FieldName::ContentLength).is_some_and(|n| n != b"0"));
        let ends_connection = framing == BodyFraming::CloseDelimited || kind == ResponseKind::Switching || is_dubious;
        Ok(Self {
            head: *head,
            options: *options,
            kind,
            framing,
            client_framing: client_framing(framing, request.client_version()),
            announced_length,
            client_version: request.client_version(),
            client_keeps_alive: request.client_keeps_alive() && kind != ResponseKind::Switching,
            upgrade,
            upstream_keeps_alive: head.persists() && !ends_connection,
            authenticates_connection: authenticates_connection(&head.fields),
        })
    }

    /// The status, 100 to 999.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The role of the response in its exchange.
    pub fn kind(&self) -> ResponseKind {
        self.kind
    }

    /// The framing of the body as received.
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// The framing of the body as sent to the client. If its length is unknown, it is chunked for HTTP/1.1 clients and
    /// close-delimited for HTTP/1.0 clients.
    pub fn client_framing(&self) -> BodyFraming {
        self.client_framing
    }

    /// The pump for the body, from the upstream to the client. It is done from the start if there is no body.
    pub fn pump(&self) -> BodyPump {
        match (self.framing, self.client_framing) {
            (BodyFraming::CloseDelimited, BodyFraming::Chunked) => BodyPump::chunking(),
            (BodyFraming::Chunked, BodyFraming::CloseDelimited) => BodyPump::dechunking(),
            (framing, _) => BodyPump::same(framing),
        }
    }

    /// Whether the upstream's connection can carry another request after this response, provided that the whole request
    /// body has been sent and that nothing follows the response body.
    pub fn upstream_keeps_alive(&self) -> bool {
        self.upstream_keeps_alive
    }

    /// Whether the origin authenticates the client with a scheme that authenticates a connection; see
    /// [`ForwardRequest::authenticates_connection`].
    pub fn authenticates_connection(&self) -> bool {
        self.authenticates_connection
    }

    /// Appends the head for the client, always as HTTP/1.1. `keep_alive` says whether the gateway is willing to keep
    /// the client's connection open; it is not while it shuts down, or while part of the request body is missing.
    ///
    /// Returns whether the head tells the client that the connection stays open. If it does not, close the connection
    /// after the body. Ignore the result for interim responses and for 101.
    pub fn write_head(&self, out: &mut Vec<u8>, keep_alive: bool) -> bool {
        let keeps = keep_alive && self.client_keeps_alive && self.client_framing != BodyFraming::CloseDelimited;
        const GENERATED: FieldKinds = FieldKinds::of(&[FieldName::ContentLength, FieldName::ProxySupport]);
        out.reserve(self.head.fields.section_bytes() + ROOM_BYTES);
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(itoa::Buffer::new().format(self.head.status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.head.reason);
        out.extend_from_slice(b"\r\n");
        self.head.fields.copy_end_to_end(GENERATED, out);
        end_to_end::append_via(self.head.version, &self.options, out);
        match self.kind {
            ResponseKind::Interim { .. } => {}
            ResponseKind::Switching => {
                out.extend_from_slice(b"Connection: Upgrade\r\n");
                self.append_upgrade(out);
            }
            ResponseKind::Final => self.append_final_fields(out, keeps),
        }
        out.extend_from_slice(b"\r\n");
        keeps
    }

    /// Appends the framing and hop-by-hop fields of a final response.
    fn append_final_fields(&self, out: &mut Vec<u8>, keeps: bool) {
        let announced = self.announced_length.map_or(self.client_framing, BodyFraming::Length);
        http::framing_field(out, announced);
        if self.framing == BodyFraming::Chunked && self.client_framing == BodyFraming::Chunked {
            end_to_end::copy_trailer(&self.head.fields, out);
        }
        let mut options = Vec::new();
        match (keeps, self.client_version) {
            (false, _) => options.push("close"),
            (true, Version::Http10) => {
                options.push("keep-alive");
                end_to_end::line("Proxy-Connection", b"keep-alive", out);
            }
            (true, Version::Http11) => {}
        }
        // Some clients use connection-based authentication only through proxies that announce support (RFC 4559 §6).
        if self.head.fields.has_token(FieldName::ProxySupport, SESSION_BASED) {
            options.push("Proxy-Support");
            end_to_end::line("Proxy-Support", SESSION_BASED.as_bytes(), out);
        }
        // A 426 must list the protocols to upgrade to (RFC 9110 §15.5.22).
        if self.head.status == 426 && self.client_version == Version::Http11 && self.upgrade.is_some() {
            options.push("Upgrade");
            self.append_upgrade(out);
        }
        if !options.is_empty() {
            end_to_end::line("Connection", options.join(", ").as_bytes(), out);
        }
    }

    fn append_upgrade(&self, out: &mut Vec<u8>) {
        if let Some(protocols) = &self.upgrade {
            end_to_end::line("Upgrade", protocols.as_bytes(), out);
        }
    }
}

/// Room for a status line and the fields that are generated.
const ROOM_BYTES: usize = 192;

const SESSION_BASED: &str = "Session-Based-Authentication";

fn kind(head: &ResponseHead<'_>, request: &ForwardRequest) -> ResponseKind {
    let is_http11 = request.client_version() == Version::Http11;
    match head.status {
        101 => ResponseKind::Switching,
        100 => ResponseKind::Interim { pass_on: is_http11 && request.expects_continue() },
        102..=199 => ResponseKind::Interim { pass_on: is_http11 },
        _ => ResponseKind::Final,
    }
}

fn client_framing(framing: BodyFraming, client_version: Version) -> BodyFraming {
    match (framing, client_version) {
        (BodyFraming::Chunked | BodyFraming::CloseDelimited, Version::Http11) => BodyFraming::Chunked,
        (BodyFraming::Chunked | BodyFraming::CloseDelimited, Version::Http10) => BodyFraming::CloseDelimited,
        (BodyFraming::None | BodyFraming::Length(_), _) => framing,
    }
}

fn authenticates_connection(fields: &Fields<'_>) -> bool {
    const SAYING: FieldKinds = FieldKinds::of(&[FieldName::WwwAuthenticate, FieldName::PersistentAuth]);
    if !fields.has_any(SAYING) {
        return false;
    }
    http::challenges_in(fields, FieldName::WwwAuthenticate)
        .any(|challenge| challenge.is("NTLM") || challenge.is("Negotiate"))
        || fields.has_token(FieldName::PersistentAuth, "true")
}
