//! What an upstream answers, as this client is to get it (RFC 9110 §7.6, §15.2; RFC 9112 §6, §9).

use super::body::BodyPump;
use super::{ForwardOptions, ForwardRequest, end_to_end, upgrade};
use crate::http::{self, BodyFraming, Fields, FramingError, ResponseHead, ResponseTo, Version};
use std::io::Write as _;

/// Why an answer is not passed on: the client gets a 502 instead. Its text holds no bytes of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardResponseError {
    /// RFC 9112 §6.3
    #[error("{0}")]
    Framing(#[from] FramingError),
    /// RFC 9110 §7.8: a 101 to a request that asked for no switch.
    #[error("the upstream switches to another protocol unasked")]
    UnaskedSwitch,
    /// RFC 9110 §7.8: a 101 that names no protocol, or one that was not asked for.
    #[error("the upstream switches to a protocol that was not asked for")]
    OtherProtocol,
}

/// What an answer is to the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseKind {
    /// 1xx: another answer follows. How many is for the caller to bound.
    Interim {
        /// The client is to get it: it speaks HTTP/1.1 and, for a 100, waits for one (RFC 9110 §15.2).
        pass_on: bool,
    },
    /// 101: behind this head both connections carry another protocol.
    Switching,
    /// The answer.
    Final,
}

/// An answer on its way to a client, borrowed from its head.
#[derive(Debug)]
pub struct ForwardResponse<'b> {
    head: ResponseHead<'b>,
    options: ForwardOptions<'b>,
    kind: ResponseKind,
    framing: BodyFraming,
    client_framing: BodyFraming,
    /// Content-Length of an answer that has no body: what a GET would have got (RFC 9110 §8.6).
    announced_length: Option<u64>,
    client_version: Version,
    client_keeps_alive: bool,
    upgrade: Option<Box<str>>,
    upstream_keeps_alive: bool,
    authenticates_connection: bool,
}

impl<'b> ForwardResponse<'b> {
    /// Decides how an answer to `request` goes to the client.
    ///
    /// A folded line must have been joined before the head was parsed
    /// ([`unfold_field_lines`](http::unfold_field_lines)).
    ///
    /// # Errors
    /// [`ForwardResponseError`]: neither the answer nor the connection it came on is of any use.
    pub fn of(
        head: &ResponseHead<'b>,
        request: &ForwardRequest,
        options: &ForwardOptions<'b>,
    ) -> Result<Self, ForwardResponseError> {
        let to = ResponseTo::method(request.method());
        let framing = head.framing_to_pass_on(to)?;
        let kind = kind(head, request);
        let upgrade = upgrade::protocols(&head.fields);
        if kind == ResponseKind::Switching {
            let asked = request.upgrade().ok_or(ForwardResponseError::UnaskedSwitch)?;
            let granted = upgrade.as_deref().is_some_and(|granted| upgrade::all_asked(granted, asked));
            granted.then_some(()).ok_or(ForwardResponseError::OtherProtocol)?;
        }
        let has_coding = head.fields.has("transfer-encoding");
        let announces = (to == ResponseTo::Head || head.status == 304) && kind == ResponseKind::Final;
        let announced_length =
            if announces && head.status != 204 && !has_coding { head.content_length()? } else { None };
        // A body behind a 204 is no body, but somebody meant to send one.
        let dubious =
            head.status == 204 && (has_coding || head.fields.get("content-length").is_some_and(|n| n != b"0"));
        let ends_connection = framing == BodyFraming::ToClose || kind == ResponseKind::Switching || dubious;
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

    /// 100 to 999.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// What it is to the exchange.
    pub fn kind(&self) -> ResponseKind {
        self.kind
    }

    /// Whether the upstream proxy asks the gateway for a proof: never for the client.
    pub fn is_407(&self) -> bool {
        self.head.status == 407
    }

    /// How the body comes.
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// How the body goes to the client: in chunks to HTTP/1.1, to the close to HTTP/1.0, where its length is not known.
    pub fn client_framing(&self) -> BodyFraming {
        self.client_framing
    }

    /// Moves the body from the upstream to the client; done from the start where there is none.
    pub fn pump(&self) -> BodyPump {
        match (self.framing, self.client_framing) {
            (BodyFraming::ToClose, BodyFraming::Chunked) => BodyPump::chunking(),
            (BodyFraming::Chunked, BodyFraming::ToClose) => BodyPump::dechunking(),
            (framing, _) => BodyPump::same(framing),
        }
    }

    /// Whether the upstream's connection may carry another request behind this answer's body, provided that the
    /// request's body was sent to its end and that nothing comes behind the answer's.
    pub fn upstream_keeps_alive(&self) -> bool {
        self.upstream_keeps_alive
    }

    /// Whether the origin proves the client by a scheme that proves a whole connection: as
    /// [`ForwardRequest::authenticates_connection`].
    pub fn authenticates_connection(&self) -> bool {
        self.authenticates_connection
    }

    /// Appends the head for the client, in HTTP/1.1 whatever came. `keep_alive` is whether the gateway would keep the
    /// client's connection: it must not when it is to drain, or when the request's body is not all there yet.
    ///
    /// Returns whether the client was told that its connection carries another request behind this answer; if not, close
    /// it behind the body. Behind an interim answer and a 101 that says nothing.
    pub fn write_head(&self, out: &mut Vec<u8>, keep_alive: bool) -> bool {
        let keeps = keep_alive && self.client_keeps_alive && self.client_framing != BodyFraming::ToClose;
        out.reserve(512);
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/1.1 {} ", self.head.status);
        out.extend_from_slice(self.head.reason);
        out.extend_from_slice(b"\r\n");
        end_to_end::copy_but(&self.head.fields, &["content-length", "proxy-support"], out);
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

    /// What belongs to the client's connection.
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
        // Some clients prove a connection to an origin only through proxies that say they bear it (RFC 4559 §6).
        if self.head.fields.has_token("proxy-support", SESSION_BASED) {
            options.push("Proxy-Support");
            end_to_end::line("Proxy-Support", SESSION_BASED.as_bytes(), out);
        }
        // A 426 must say what to upgrade to (RFC 9110 §15.5.22).
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
        (BodyFraming::Chunked | BodyFraming::ToClose, Version::Http11) => BodyFraming::Chunked,
        (BodyFraming::Chunked | BodyFraming::ToClose, Version::Http10) => BodyFraming::ToClose,
        (BodyFraming::None | BodyFraming::Length(_), _) => framing,
    }
}

fn authenticates_connection(fields: &Fields<'_>) -> bool {
    http::challenges_in(fields, "www-authenticate").any(|challenge| challenge.is("NTLM") || challenge.is("Negotiate"))
        || fields.has_token("persistent-auth", "true")
}
