//! What a handshake is for: a client's request, written once for each leg.

use std::borrow::Cow;
use std::sync::Arc;

use crate::forward::{ForwardOptions, ForwardRequest, HeadPurpose};
use crate::http::{self, FieldStorage, ProxyAuthorization, RequestHead, ResponseTo};

/// A client's request as it goes upstream.
#[derive(Clone, Debug)]
pub enum Request {
    /// A tunnel.
    Connect {
        /// `host:port` of the origin.
        authority: Arc<str>,
        /// The client's end-to-end fields, each with its CRLF; Host and what concerns one hop only are not among them.
        fields: Vec<u8>,
    },
    /// Plain HTTP. Its body does not go through the handshake: it follows the head of the last leg.
    Forward(Arc<ForwardRequest>),
}

impl Request {
    /// A tunnel to `authority`; `fields` as in [`Request::Connect`].
    pub fn connect(authority: impl Into<Arc<str>>, fields: impl Into<Vec<u8>>) -> Request {
        Request::Connect { authority: authority.into(), fields: fields.into() }
    }

    /// A GET of an origin's root that contains nothing from a client; `None` if `origin` is not `host:port`.
    pub fn bare_get(origin: &str) -> Option<Request> {
        let head = format!("GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n\r\n");
        let mut storage = FieldStorage::new();
        let head = RequestHead::parse(head.as_bytes(), &mut storage).ok()?;
        ForwardRequest::of(&head, &ForwardOptions { via: None }).ok().map(|request| Request::Forward(Arc::new(request)))
    }

    /// `host:port` of the origin.
    pub fn origin(&self) -> &str {
        match self {
            Request::Connect { authority, .. } => authority,
            Request::Forward(request) => request.origin(),
        }
    }

    /// The method.
    pub fn method(&self) -> &str {
        match self {
            Request::Connect { .. } => "CONNECT",
            Request::Forward(request) => request.method(),
        }
    }

    /// Plain HTTP, if it is.
    pub fn forward(&self) -> Option<&Arc<ForwardRequest>> {
        match self {
            Request::Connect { .. } => None,
            Request::Forward(request) => Some(request),
        }
    }

    /// The memory that it takes, in bytes.
    pub fn held_bytes(&self) -> usize {
        match self {
            Request::Connect { authority, fields } => authority.len() + fields.capacity(),
            Request::Forward(request) => request.held_bytes(),
        }
    }

    /// A body follows the head.
    pub fn has_body(&self) -> bool {
        match self {
            Request::Connect { .. } => false,
            Request::Forward(request) => request.has_body(),
        }
    }

    /// Whether it may be repeated although it may have been carried out already (RFC 9110 §9.2.2).
    pub fn is_idempotent(&self) -> bool {
        match self {
            Request::Connect { .. } => true,
            Request::Forward(request) => request.is_idempotent(),
        }
    }

    /// Whether another request is sent in its place to get a challenge ([`ForwardRequest::has_stand_in`]).
    pub fn has_stand_in(&self) -> bool {
        match self {
            Request::Connect { .. } => false,
            Request::Forward(request) => request.has_stand_in(),
        }
    }

    /// The key under which it is remembered whether the upstream asks for credentials: the destination, and for a HEAD
    /// the method too, because rules often treat it differently.
    pub fn demand_key(&self) -> Cow<'_, str> {
        match self.method() {
            "HEAD" => Cow::Owned(format!("HEAD {}", self.origin())),
            _ => Cow::Borrowed(self.origin()),
        }
    }

    /// How the answer to a head that was sent for this purpose is framed.
    pub(super) fn response_to(&self, purpose: HeadPurpose) -> ResponseTo {
        match purpose {
            HeadPurpose::Challenge if self.has_stand_in() => ResponseTo::Other,
            _ => ResponseTo::method(self.method()),
        }
    }

    pub(super) fn write(&self, credentials: Option<ProxyAuthorization<'_>>, purpose: HeadPurpose, out: &mut Vec<u8>) {
        match self {
            Request::Connect { authority, fields } => {
                http::connect_request(out, authority, http::Version::Http11, fields, credentials);
            }
            Request::Forward(request) => request.write_head(out, credentials, purpose),
        }
    }
}
