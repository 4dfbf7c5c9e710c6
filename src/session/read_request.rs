//! The first stage: reading what the client wants.

use std::sync::Arc;

use super::reply::Reply;
use super::select_hop::{Departure, Way};
use super::{Came, Client, Context, End, SessionSettings, Stage, Step};
use crate::auth::Request;
use crate::egress::Hop;
use crate::event::{Endpoint, Got, HeadReader, Key};
use crate::fault::{At, Cause, Fault};
use crate::forward::{self, ForwardError, ForwardRequest};
use crate::http::{
    self, Authority, FieldStorage, HeadEnd, OtherProtocol, RequestError, RequestHead, RequestSummary, RequestTarget,
};
use crate::limits;

/// What was decided about a client when it was accepted. It is told after its head, because an answer that comes before
/// the question is lost when the connection closes on unread bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may ask.
    Welcome,
    /// As many tunnels are open as may be.
    Full,
    /// Its address is not among those allowed.
    NotAllowed,
    /// Its address has as many connections as one may have, or makes them too fast.
    TooMany,
}

/// Waiting for a whole request head.
#[derive(Debug)]
pub(super) struct ReadRequest {
    inbox: HeadReader,
    head_end: HeadEnd,
    came: Came,
    /// The request line has been looked at, though its head has not come to its end.
    line_checked: bool,
    /// What came behind the last request has not been looked at.
    unread: bool,
    /// Nothing of a further request has come.
    resting: bool,
    /// The upstream connection that only this client may use.
    pinned: Option<Box<Pinned>>,
}

/// An upstream connection that an origin has authenticated for this client.
#[derive(Debug)]
pub(super) struct Pinned {
    pub upstream: Endpoint,
    pub number: u8,
    /// `None` where it leads straight to its origin.
    pub hop: Option<Arc<Hop>>,
    /// `host:port`.
    pub origin: Box<str>,
}

impl ReadRequest {
    pub(super) fn new(came: Came) -> ReadRequest {
        ReadRequest {
            inbox: HeadReader::default(),
            head_end: HeadEnd::request(),
            came,
            line_checked: false,
            unread: false,
            resting: false,
            pinned: None,
        }
    }

    /// Waits for the client's next request on the same connection; `held` is what has come of it.
    pub(super) fn again(
        held: Vec<u8>,
        pinned: Option<Pinned>,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        let resting = held.is_empty();
        let timeouts = &context.settings.timeouts;
        let wait_ms = if resting { timeouts.keep_alive } else { timeouts.head };
        client.set_deadline(key, context, context.now_ms() + wait_ms);
        Step::Go(Stage::ReadRequest(ReadRequest {
            inbox: HeadReader::holding(held),
            head_end: HeadEnd::request(),
            came: Came {
                from: client.record.client,
                listener: client.record.listener.into(),
                admission: Admission::Welcome,
            },
            line_checked: false,
            unread: !resting,
            resting,
            pinned: pinned.map(Box::new),
        }))
    }

    /// Nothing of a request has come.
    pub(super) fn rests(&self) -> bool {
        self.inbox.is_empty()
    }

    /// What its buffers take, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.inbox.held_bytes()
    }

    pub(super) fn endpoint(&mut self, number: u8) -> Option<&mut Endpoint> {
        self.pinned.as_mut().filter(|pinned| pinned.number == number).map(|pinned| &mut pinned.upstream)
    }

    pub(super) fn step(mut self, key: Key, client: &mut Client, context: &mut Context) -> Step {
        loop {
            let (came, settings) = (&self.came, &context.settings);
            let (head_end, line_checked) = (&mut self.head_end, &mut self.line_checked);
            let now_ms = context.now_us / 1000;
            let look = |bytes: &[u8]| look_at(bytes, head_end, line_checked, came, settings, now_ms);
            let got = if std::mem::take(&mut self.unread) {
                self.inbox.look(look).map_or(Ok(Got::Blocked), |outcome| Ok(Got::Bytes(outcome)))
            } else if client.endpoint.ready.readable() {
                self.inbox.read(&mut client.endpoint, &mut context.scratch, look)
            } else {
                return Step::Wait(Stage::ReadRequest(self));
            };
            match got {
                Ok(Got::Blocked) => {}
                Ok(Got::Bytes(Ok(None)))
                    if context.is_out_of_memory() && self.held_bytes() >= limits::LARGE_HEAD_BYTES =>
                {
                    return Reply::to_fault(out_of_memory(), client, context);
                }
                Ok(Got::Bytes(Ok(None))) => self.begun(key, client, context),
                Ok(Got::Bytes(Ok(Some((request, way))))) => {
                    client.record.target = request.origin().into();
                    client.record.method = request.method().into();
                    if context.is_out_of_memory() {
                        return Reply::to_fault(out_of_memory(), client, context);
                    }
                    let (leftover, pinned) = (self.inbox.into_leftover(), self.pinned);
                    if request.has_body() && leftover.is_empty() {
                        hasten_body(client);
                    }
                    return Departure { request, way, leftover, pinned }.begin(key, client, context);
                }
                Ok(Got::Bytes(Err(refused))) => {
                    (client.record.method, client.record.target) = (refused.asked.method, refused.asked.target);
                    return Reply::to_fault(refused.fault, client, context);
                }
                Ok(Got::End) => {
                    return self.gone(client, context, "the client closed its connection in the middle of its request");
                }
                Err(error) => return self.gone(client, context, format!("the client's connection failed: {error}")),
            }
        }
    }

    /// The next request on a connection has begun: from here on it has the time of a head.
    fn begun(&mut self, key: Key, client: &mut Client, context: &mut Context) {
        if std::mem::take(&mut self.resting) {
            let at_ms = context.now_ms() + context.settings.timeouts.head;
            client.set_deadline(key, context, at_ms);
        }
    }

    pub(super) fn expired(self, client: &mut Client, context: &mut Context) -> Step {
        if self.inbox.is_empty() {
            let end = if client.record.is_between_requests() { End::Finished } else { End::Silent };
            return Step::end(end);
        }
        Reply::to_fault(fault(Cause::HeadTimeout, "the request head did not come to its end in time"), client, context)
    }

    fn gone(self, client: &Client, context: &Context, detail: impl Into<std::borrow::Cow<'static, str>>) -> Step {
        match self.inbox.is_empty() {
            true if client.record.is_between_requests() => Step::end(End::Finished),
            true => Step::end(End::Silent),
            false => Step::end(context.fault(fault(Cause::ClientGone, detail))),
        }
    }
}

/// Acknowledges the head at once. Clients that leave Nagle's algorithm on hold the body back until then, and the kernel would
/// wait 40 ms for something to send along.
fn hasten_body(client: &Client) {
    client.endpoint.stream.acknowledge();
}

/// A head that is answered with a fault, and what it asked for as far as it can be told.
struct Refused {
    fault: Fault,
    asked: RequestSummary,
}

/// What the bytes that have come amount to; `None` when the head is not whole yet.
type Look = Result<Option<(Request, Way)>, Box<Refused>>;

/// What the bytes that have come amount to, and how many of them were used.
fn look_at(
    bytes: &[u8],
    head_end: &mut HeadEnd,
    line_checked: &mut bool,
    came: &Came,
    settings: &SessionSettings,
    now_ms: u64,
) -> (usize, Look) {
    let (used, outcome) = match head_end.find(bytes, settings.head_limit_bytes) {
        Ok(None) => (0, look_at_beginning(bytes, head_end, line_checked, came).map(|()| None)),
        Ok(Some(length)) => {
            let understood = understand(&bytes[..length], came, settings, now_ms);
            (length, understood.map(Some).map_err(|fault| by_name(bytes, fault)))
        }
        Err(error) => (0, Err(by_name(bytes, fault(Cause::RequestHeadTooLarge, error.to_string())))),
    };
    (used, outcome.map_err(|fault| Box::new(Refused { fault, asked: RequestSummary::of(bytes) })))
}

/// Refuses an unfinished head that cannot become a good one, so that its client need not wait for a time-out.
fn look_at_beginning(bytes: &[u8], head_end: &HeadEnd, line_checked: &mut bool, came: &Came) -> Result<(), Fault> {
    let refused = if let Some(other) = http::detect_other_protocol(bytes) {
        Err(not_http(other, bytes))
    } else if http::has_overlong_method(bytes) {
        Err(malformed(&RequestError::MethodTooLong))
    } else if let Some(line) = head_end.start_line(bytes).filter(|_| !std::mem::replace(line_checked, true)) {
        http::check_request_line(line).map_err(|error| malformed(&error))
    } else {
        Ok(())
    };
    refused.map_err(|fault| admitted(came).err().unwrap_or(fault))
}

/// A head that is malformed because it is something else is told as that.
fn by_name(bytes: &[u8], fault: Fault) -> Fault {
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
            let shown: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            fault(Cause::RequestMalformed, format!("{}: {}", other.describe(), shown.join(" ")))
        }
        _ => fault(Cause::RequestMalformed, other.describe()),
    }
}

/// What was decided when the connection was accepted.
fn admitted(came: &Came) -> Result<(), Fault> {
    match came.admission {
        Admission::Welcome => Ok(()),
        Admission::Full => Err(fault(Cause::TunnelLimit, "as many tunnels are open as max_tunnels allows")),
        Admission::TooMany => {
            let detail = "this client's address has too many connections, or opens them too fast";
            Err(fault(Cause::ClientLimit, detail))
        }
        Admission::NotAllowed => Err(fault(Cause::ClientNotAllowed, "the client's address is not among allow_clients")),
    }
}

/// Makes a request out of a whole head, or the fault that answers it.
fn understand(head: &[u8], came: &Came, settings: &SessionSettings, now_ms: u64) -> Result<(Request, Way), Fault> {
    admitted(came)?;
    let mut storage = FieldStorage::with_limit(settings.field_limit);
    let head = RequestHead::parse(head, &mut storage).map_err(|error| malformed(&error))?;
    let find = |destination: &Authority<'_>| {
        Way::find(&settings.egress, destination, &head.fields, came.listener, came.from.ip(), now_ms)
    };
    let options = settings.forward_options();
    if forward::via_names_gateway(&head.fields, &options) {
        return Err(fault(Cause::ForwardLoop, "the request has been through this gateway already: the way leads back"));
    }
    if let RequestTarget::Authority(authority) = &head.target {
        let way = find(authority)?;
        let mut fields = Vec::new();
        http::copy_end_to_end_fields(&head.fields, &mut fields);
        forward::append_via(head.version, &options, &mut fields);
        return Ok((Request::connect(authority.to_string(), fields), way));
    }
    let request = ForwardRequest::of(&head, &options).map_err(|error| unforwardable(&error))?;
    let origin = Authority::parse(request.origin())
        .map_err(|error| fault(Cause::RequestMalformed, format!("the request's target: {error}")))?;
    let way = find(&origin)?;
    Ok((Request::Forward(Arc::new(request)), way))
}

fn unforwardable(error: &ForwardError) -> Fault {
    let cause = match error.status() {
        417 => Cause::ExpectationFailed,
        501 => Cause::MethodNotSupported,
        _ => Cause::RequestMalformed,
    };
    fault(cause, error.to_string())
}

fn malformed(error: &RequestError) -> Fault {
    let cause = match error.status() {
        431 => Cause::RequestFields,
        501 => Cause::MethodNotSupported,
        505 => Cause::RequestVersion,
        _ => Cause::RequestMalformed,
    };
    fault(cause, error.to_string())
}

fn out_of_memory() -> Fault {
    fault(Cause::MemoryLimit, "requests and answers on their way hold as much memory as limits.memory allows")
}

fn fault(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(At::ReadHead, cause, detail)
}
