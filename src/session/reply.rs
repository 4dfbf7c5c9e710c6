//! The fourth stage: telling the client what came of its request.

use super::linger::Linger;
use super::relay::Relay;
use super::{Client, Context, End, Stage, Step};
use crate::event::{Endpoint, Key};
use crate::fault::{At, Cause, Fault};
use crate::http::{self, ErrorResponse, ProxyStatus};
use crate::relay::Half;

/// Writing an answer to the client.
#[derive(Debug)]
pub(super) struct Reply {
    answer: Vec<u8>,
    sent: usize,
    /// The client did not take it at once, and has a deadline now.
    bounded: bool,
    then: Then,
}

#[derive(Debug)]
enum Then {
    /// The tunnel stands; the halves hold what came behind the heads.
    Relay { upstream: Endpoint, up: Half, down: Half },
    /// The answer is all that there is.
    Close(End),
}

impl Reply {
    /// Opens the tunnel. What the upstream sent behind its 200 goes out behind ours.
    pub(super) fn established(
        upstream: Endpoint,
        from_upstream: Vec<u8>,
        from_client: Vec<u8>,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        client.record.status = 200;
        context.metrics.request("connect", 200);
        let mut answer = Vec::new();
        http::established_response(&mut answer);
        let then = Then::Relay { upstream, up: Half::new(from_client), down: Half::new(from_upstream) };
        Step::Go(Stage::Reply(Box::new(Reply { answer, sent: 0, bounded: false, then })))
    }

    /// Turns an exchange into a tunnel (RFC 9110 §7.8): `answer` is the 101 for the client.
    pub(super) fn relay(answer: Vec<u8>, upstream: Endpoint, from_upstream: Vec<u8>, from_client: Vec<u8>) -> Step {
        let then = Then::Relay { upstream, up: Half::new(from_client), down: Half::new(from_upstream) };
        Step::Go(Stage::Reply(Box::new(Reply { answer, sent: 0, bounded: false, then })))
    }

    /// Answers with a fault, if its cause is one that the client can be told.
    pub(super) fn to_fault(fault: Fault, client: &mut Client, context: &mut Context) -> Step {
        Reply::to_fault_behind(Vec::new(), fault, client, context)
    }

    /// The same behind what is still to be sent of interim answers.
    pub(super) fn to_fault_behind(
        mut answer: Vec<u8>,
        fault: Fault,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        let status = fault.cause.status();
        if status == 0 {
            return Step::end(context.fault(fault));
        }
        let kind = match &*client.record.method {
            "CONNECT" => "connect",
            "" => "other",
            _ => "http",
        };
        fault_answer(&fault, client.record.upstream(), &*client.record.method == "HEAD", &mut answer);
        let end = context.fault(fault);
        Reply::page(kind, answer, status, end, client, context)
    }

    /// Sends a whole answer to a request of some kind, and closes the connection behind it.
    pub(super) fn page(
        kind: &str,
        answer: Vec<u8>,
        status: u16,
        end: End,
        client: &mut Client,
        context: &Context,
    ) -> Step {
        client.record.status = status;
        context.metrics.request(kind, status);
        Step::Go(Stage::Reply(Box::new(Reply { answer, sent: 0, bounded: false, then: Then::Close(end) })))
    }

    /// What its buffers take, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let behind = match &self.then {
            Then::Relay { up, down, .. } => up.held_bytes() + down.held_bytes(),
            Then::Close(_) => 0,
        };
        self.answer.capacity() + behind
    }

    pub(super) fn endpoint(&mut self) -> Option<&mut Endpoint> {
        match &mut self.then {
            Then::Relay { upstream, .. } => Some(upstream),
            Then::Close(_) => None,
        }
    }

    pub(super) fn step(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        while self.sent < self.answer.len() {
            if !client.endpoint.ready.writable() {
                self.bound_the_wait(key, client, context);
                return Step::Wait(Stage::Reply(self));
            }
            match client.endpoint.write(&self.answer[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) => return Step::end(self.unsent(Fault::downstream_io(At::Reply, &error), context)),
            }
        }
        match self.then {
            Then::Relay { upstream, up, down } => Relay::begin(upstream, up, down, key, client, context),
            Then::Close(end) => Linger::begin(end, key, client, context),
        }
    }

    /// A client that does not read its answer has as long as one that does not write its request.
    fn bound_the_wait(&mut self, key: Key, client: &mut Client, context: &mut Context) {
        if !self.bounded {
            self.bounded = true;
            let at_ms = context.now_ms() + context.settings.timeouts.head;
            client.set_deadline(key, context, at_ms);
        }
    }

    /// Out of time.
    pub(super) fn expired(self, context: &Context) -> Step {
        Step::end(self.unsent(Fault::new(At::Reply, Cause::ClientGone, "the client does not read its answer"), context))
    }

    /// How the tunnel ended when its answer could not be sent: the fault that was to be told, if there was one.
    fn unsent(self, fault: Fault, context: &Context) -> End {
        match self.then {
            Then::Close(end @ End::Fault(_)) => end,
            _ => context.fault(fault),
        }
    }
}

/// Tells a client whose request has not come to the end of its head that it gives way to others.
pub(super) fn give_way(client: &mut Client, context: &Context) -> End {
    let detail = "the gateway is short of connections, descriptors or memory, and closes connections with incomplete requests first";
    let fault = Fault::new(At::ReadHead, Cause::GaveWay, detail);
    client.record.status = fault.cause.status();
    context.metrics.request("other", fault.cause.status());
    // Its place is needed now: what the connection does not take at once is not told.
    let mut answer = Vec::new();
    fault_answer(&fault, "-", false, &mut answer);
    let _ = client.endpoint.write(&answer);
    context.fault(fault)
}

/// Appends the response that names a fault to the client.
fn fault_answer(fault: &Fault, upstream_name: &str, omit_body: bool, answer: &mut Vec<u8>) {
    let reached_out = upstream_name != "-" && (fault.at == At::Dial || fault.at == At::Authenticate);
    let next_hop = reached_out.then_some(upstream_name);
    let received_status = (fault.cause == Cause::CredentialsRefused).then_some(407);
    let error = ProxyStatus::error(fault.cause.error_type(), &fault.detail);
    let extra_fields: &[(&str, &str)] = match fault.cause {
        Cause::LoginRequired => &[("Proxy-Authenticate", "Basic realm=\"ntlm-gateway\", charset=\"UTF-8\"")],
        Cause::TunnelLimit | Cause::GaveWay | Cause::MemoryLimit | Cause::ClientLimit | Cause::ResourcesExhausted => {
            &[("Retry-After", "5")]
        }
        // As long as until the next login is looked at.
        Cause::LoginThrottled => &[("Retry-After", "10")],
        _ => &[],
    };
    let response = ErrorResponse {
        status: fault.cause.status(),
        proxy_status: ProxyStatus { next_hop, received_status, ..error },
        detail: &fault.detail,
        extra_fields,
        omit_body,
    };
    http::error_response(answer, &response);
}
