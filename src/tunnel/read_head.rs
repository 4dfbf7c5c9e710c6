//! The first stage: reading what the client wants.

use super::departure::{Departure, Way};
use super::inbox::{Got, Inbox};
use super::reply::Reply;
use super::{Came, Client, Context, End, Stage, Step};
use crate::event::Key;
use crate::fault::{At, Cause, Fault};
use crate::fleet::Fleet;
use crate::handshake::Request;
use crate::http::{self, FieldStorage, HeadEnd, RequestError, RequestHead, RequestTarget};

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
}

/// Waiting for a whole request head.
#[derive(Debug)]
pub(super) struct ReadHead {
    inbox: Inbox,
    head_end: HeadEnd,
    came: Came,
}

impl ReadHead {
    pub(super) fn new(came: Came) -> ReadHead {
        ReadHead { inbox: Inbox::default(), head_end: HeadEnd::request(), came }
    }

    pub(super) fn step(mut self, key: Key, client: &mut Client, context: &mut Context) -> Step {
        loop {
            if !client.endpoint.ready.readable() {
                return Step::Wait(Stage::ReadHead(self));
            }
            let limit_bytes = context.settings.head_limit_bytes;
            let (head_end, came, fleet) = (&mut self.head_end, &self.came, &context.settings.fleet);
            let got = self.inbox.read(&mut client.endpoint, &mut context.scratch, |bytes| {
                match head_end.find(bytes, limit_bytes) {
                    // Never a method's first byte; without this the client would wait for its time-out.
                    _ if bytes.first() == Some(&TLS_HANDSHAKE) => (0, Err(fault(Cause::RequestMalformed, SPEAKS_TLS))),
                    Ok(None) => (0, Ok(None)),
                    Ok(Some(length)) => (length, understand(&bytes[..length], came, fleet).map(Some)),
                    Err(error) => (0, Err(fault(Cause::RequestHeadTooLarge, error.to_string()))),
                }
            });
            match got {
                Ok(Got::Blocked) | Ok(Got::Bytes(Ok(None))) => {}
                Ok(Got::Bytes(Ok(Some((request, way))))) => {
                    client.record.target = request.authority.clone();
                    let leftover = self.inbox.into_leftover();
                    return Departure { request, way, leftover }.begin(key, client, context);
                }
                Ok(Got::Bytes(Err(fault))) => return Reply::to_fault(fault, client, context),
                Ok(Got::End) => {
                    return self.gone(context, "the client closed its connection in the middle of its request");
                }
                Err(error) => return self.gone(context, format!("the client's connection failed: {error}")),
            }
        }
    }

    pub(super) fn expired(self, client: &mut Client, context: &mut Context) -> Step {
        if self.inbox.is_empty() {
            return Step::end(End::Silent);
        }
        Reply::to_fault(fault(Cause::HeadTimeout, "the request head did not come to its end in time"), client, context)
    }

    fn gone(self, context: &Context, detail: impl Into<std::borrow::Cow<'static, str>>) -> Step {
        match self.inbox.is_empty() {
            true => Step::end(End::Silent),
            false => Step::end(context.fault(fault(Cause::ClientGone, detail))),
        }
    }
}

/// The first byte of a TLS connection (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;
const SPEAKS_TLS: &str =
    "the client speaks TLS to the gateway: the proxy's own URL must begin with http://, also for https:// sites";

/// Makes a request out of a whole head, or the fault that answers it.
fn understand(head: &[u8], came: &Came, fleet: &Fleet) -> Result<(Request, Way), Fault> {
    match came.admission {
        Admission::Welcome => {}
        Admission::Full => return Err(fault(Cause::TunnelLimit, "as many tunnels are open as max_tunnels allows")),
        Admission::NotAllowed => {
            return Err(fault(Cause::ClientNotAllowed, "the client's address is not among allow_clients"));
        }
    }
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(head, &mut storage).map_err(|error| malformed(&error))?;
    let RequestTarget::Authority(authority) = head.target else {
        let detail = "only CONNECT is served: set HTTPS_PROXY to this address, and reach plain http:// another way";
        return Err(fault(Cause::MethodNotSupported, detail));
    };
    let way = Way::find(fleet, &authority, &head.fields, came.listener, came.from.ip())?;
    let mut fields = Vec::new();
    http::copy_end_to_end_fields(&head.fields, &mut fields);
    Ok((Request { authority: authority.to_string().into(), fields: fields.into() }, way))
}

fn malformed(error: &RequestError) -> Fault {
    let cause = match error.status() {
        431 => Cause::RequestHeadTooLarge,
        501 => Cause::MethodNotSupported,
        505 => Cause::RequestVersion,
        _ => Cause::RequestMalformed,
    };
    fault(cause, error.to_string())
}

fn fault(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(At::ReadHead, cause, detail)
}
