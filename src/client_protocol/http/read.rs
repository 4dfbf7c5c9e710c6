//! From the bytes of a head to what its client wants.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::auth::Request;
use crate::client_protocol::{Demand, DestinationSource, ReadOptions, Reading, Rejected, ShownLogin, Target};
use crate::fault::{At, Cause, Fault};
use crate::forward::{self, ForwardError, ForwardRequest};
use crate::http::{
    self, FieldStorage, HeadEnd, OtherProtocol, RequestError, RequestHead, RequestSummary, RequestTarget,
};

/// An unfinished request head.
#[derive(Debug)]
pub struct RequestReader {
    head_end: HeadEnd,
    /// The request line has been looked at already.
    line_checked: bool,
    /// What has come belongs to another protocol.
    is_foreign: bool,
}

impl Default for RequestReader {
    fn default() -> Self {
        RequestReader { head_end: HeadEnd::request(), line_checked: false, is_foreign: false }
    }
}

impl RequestReader {
    /// See [`crate::client_protocol::RequestReader::read`].
    pub fn read(&mut self, bytes: &[u8], options: &ReadOptions<'_>) -> (usize, Result<Reading, Box<Rejected>>) {
        self.read_from(bytes, options, None)
    }

    /// The same for a client whose connection was going to `original`, and which takes the gateway for its origin.
    pub fn read_redirected(
        &mut self,
        bytes: &[u8],
        options: &ReadOptions<'_>,
        original: SocketAddr,
    ) -> (usize, Result<Reading, Box<Rejected>>) {
        self.read_from(bytes, options, Some(original))
    }

    fn read_from(
        &mut self,
        bytes: &[u8],
        options: &ReadOptions<'_>,
        original: Option<SocketAddr>,
    ) -> (usize, Result<Reading, Box<Rejected>>) {
        let mut storage = FieldStorage::with_limit(options.field_limit);
        let (used, outcome) = match self.parse_first(bytes, options, &mut storage) {
            Some((head, length)) => (length, understand(&head, options, original)),
            None => match self.head_end.find(bytes, options.head_limit_bytes) {
                Ok(None) => {
                    let beginning = self.check_beginning(bytes).map(|()| Reading::More);
                    return (0, beginning.map_err(|fault| self.rejected(bytes, fault)));
                }
                Ok(Some(length)) => {
                    let head = RequestHead::parse(&bytes[..length], &mut storage).map_err(|error| malformed(&error));
                    (length, head.and_then(|head| understand(&head, options, original)))
                }
                Err(error) => (0, Err(At::ReadHead.fault(Cause::RequestHeadTooLarge, error.to_string()))),
            },
        };
        let outcome = outcome.map_err(|fault| self.rejected(bytes, by_protocol(bytes, fault)));
        (used, outcome.map(Reading::Demand))
    }

    /// Parses a head that has arrived whole, as most do.
    fn parse_first<'b>(
        &self,
        bytes: &'b [u8],
        options: &ReadOptions<'_>,
        storage: &'b mut FieldStorage,
    ) -> Option<(RequestHead<'b>, usize)> {
        if !self.head_end.is_new() {
            return None;
        }
        RequestHead::parse_first(&bytes[..bytes.len().min(options.head_limit_bytes)], storage)
    }

    #[cold]
    fn rejected(&mut self, bytes: &[u8], fault: Fault) -> Box<Rejected> {
        self.is_foreign = http::detect_other_protocol(bytes).is_some();
        Box::new(Rejected { fault, asked: RequestSummary::of(bytes) })
    }

    /// Whether what has come is not HTTP.
    pub fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    /// Rejects an unfinished head that cannot become a valid one, so that its client need not wait for a time-out.
    fn check_beginning(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if let Some(other) = http::detect_other_protocol(bytes) {
            return Err(not_http(other, bytes));
        }
        if http::has_overlong_method(bytes) {
            return Err(malformed(&RequestError::MethodTooLong));
        }
        match self.head_end.start_line(bytes) {
            Some(line) if !std::mem::replace(&mut self.line_checked, true) => {
                http::check_request_line(line).map_err(|error| malformed(&error))
            }
            _ => Ok(()),
        }
    }
}

/// Makes a demand out of a whole head.
fn understand(
    head: &RequestHead<'_>,
    options: &ReadOptions<'_>,
    original: Option<SocketAddr>,
) -> Result<Demand, Fault> {
    if forward::via_names_gateway(&head.fields, &options.forward) {
        return Err(At::ReadHead.fault(
            Cause::ForwardLoop,
            "the request has already been through this gateway: the path leads back to it",
        ));
    }
    let login = ShownLogin::read(&head.fields);
    match &head.target {
        RequestTarget::Authority(authority) => {
            let mut fields = Vec::with_capacity(forward::room_for_fields(&head.fields, &options.forward));
            http::copy_end_to_end_fields(&head.fields, &mut fields);
            forward::append_via(head.version, &options.forward, &mut fields);
            let request = Request::connect(authority.to_text(), fields);
            Ok(Demand { request, target: Target::of(authority), login, source: DestinationSource::Request, original })
        }
        RequestTarget::Absolute { authority, .. } => {
            let request = ForwardRequest::of(head, &options.forward).map_err(|error| unforwardable(&error))?;
            let request = Request::Forward(Arc::new(request.redirected_from(original)));
            Ok(Demand { request, target: Target::of(authority), login, source: DestinationSource::Request, original })
        }
        RequestTarget::Origin(_) | RequestTarget::Asterisk => match original {
            Some(original) => understand_redirected(head, login, options, original),
            None => Err(unforwardable(&ForwardError::NotAbsoluteForm)),
        },
    }
}

/// Makes a demand out of a request to an origin: its host and path become a URL.
fn understand_redirected(
    head: &RequestHead<'_>,
    login: ShownLogin,
    options: &ReadOptions<'_>,
    original: SocketAddr,
) -> Result<Demand, Fault> {
    let url = http::url_of_redirected(head, original.port()).map_err(|error| malformed(&error))?;
    let target = RequestTarget::parse(head.method, &url).map_err(|error| malformed(&error.into()))?;
    let RequestTarget::Absolute { authority, .. } = target else {
        return Err(unforwardable(&ForwardError::NotAbsoluteForm));
    };
    let head = RequestHead { target, target_text: &url, ..*head };
    let request = ForwardRequest::of(&head, &options.forward).map_err(|error| unforwardable(&error))?;
    Ok(Demand {
        request: Request::Forward(Arc::new(request.redirected_from(Some(original)))),
        target: Target::of(&authority),
        login,
        source: DestinationSource::Host,
        original: Some(original),
    })
}

/// A head that is malformed because it belongs to another protocol is reported as that.
fn by_protocol(bytes: &[u8], fault: Fault) -> Fault {
    match fault.cause {
        Cause::RequestMalformed | Cause::RequestHeadTooLarge => {
            http::detect_other_protocol(bytes).map_or(fault, |other| not_http(other, bytes))
        }
        _ => fault,
    }
}

fn not_http(other: OtherProtocol, bytes: &[u8]) -> Fault {
    match other {
        OtherProtocol::Unknown => {
            let detail = format!("{}: {}", other.describe(), http::first_bytes(bytes));
            At::ReadHead.fault(Cause::RequestMalformed, detail)
        }
        _ => At::ReadHead.fault(Cause::RequestMalformed, other.describe()),
    }
}

fn unforwardable(error: &ForwardError) -> Fault {
    let cause = match error.status() {
        417 => Cause::ExpectationFailed,
        501 => Cause::MethodNotSupported,
        _ => Cause::RequestMalformed,
    };
    At::ReadHead.fault(cause, error.to_string())
}

fn malformed(error: &RequestError) -> Fault {
    let cause = match error.status() {
        431 => Cause::RequestFields,
        501 => Cause::MethodNotSupported,
        505 => Cause::RequestVersion,
        _ => Cause::RequestMalformed,
    };
    At::ReadHead.fault(cause, error.to_string())
}
