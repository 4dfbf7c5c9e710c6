//! The first stage: reading what the client wants.

use std::net::{Ipv4Addr, SocketAddr};

use super::admission::{Admission, LoginCheck, admitted};
use super::context::SessionSettings;
use super::cx::Cx;
use super::pinned::Pinned;
use super::record::{End, Record};
use super::respond;
use super::stage::{Idle, StageOps, Step};
use super::transition::{NextRequest, Received, Transition};
use crate::client_protocol::{Demand, ReadOptions, Reading, Redirected, Rejected, RequestReader, Service};
use crate::event::{HeadReader, ReadOutcome};
use crate::fault::{At, Cause, Fault};
use crate::limits;
use crate::transport::Endpoint;

/// Waiting for a whole request head.
#[derive(Debug)]
pub(super) struct ReadRequest {
    input: HeadReader,
    reader: RequestReader,
    /// What is still to be written of an answer that the client waits for before it goes on.
    unsent: &'static [u8],
    /// The client that a PROXY header has named, until it is admitted.
    named: Option<Box<SocketAddr>>,
    admission: Admission,
    /// What came after the last request has not been looked at.
    unread: bool,
    /// Nothing of a further request has come, or nothing that shows the protocol of a client that may never speak.
    resting: bool,
    pinned: Option<Box<Pinned>>,
}

impl ReadRequest {
    /// Waits for a connection's first request.
    ///
    /// With `awaits_proxy_header`, its client is not known before a PROXY header has come.
    pub(super) fn first(admission: Admission, awaits_proxy_header: bool, cx: &mut Cx<'_>) -> ReadRequest {
        let reader = match awaits_proxy_header {
            true => RequestReader::proxy_header(service(cx)),
            false => RequestReader::first(service(cx), || redirected(cx)),
        };
        let is_sniffing = reader.is_sniffing();
        cx.set_deadline_in(if is_sniffing { cx.timeouts().sniff } else { cx.timeouts().head });
        ReadRequest {
            input: HeadReader::default(),
            reader,
            unsent: &[],
            named: None,
            admission,
            unread: false,
            resting: is_sniffing,
            pinned: None,
        }
    }

    /// Waits for the next request on the same connection.
    pub(super) fn next(next: NextRequest, cx: &mut Cx<'_>) -> ReadRequest {
        let resting = next.held.is_empty();
        cx.set_deadline_in(if resting { cx.timeouts().keep_alive } else { cx.timeouts().head });
        ReadRequest {
            input: HeadReader::holding(next.held),
            // The kernel is asked once for a connection.
            reader: RequestReader::next(service(cx), || match next.original {
                Some(original) => redirected_from(original, cx),
                None => redirected(cx),
            }),
            unsent: &[],
            named: None,
            admission: Admission::Welcome,
            unread: !resting,
            resting,
            pinned: next.pinned,
        }
    }

    /// The client that a PROXY header has named.
    pub(super) fn take_named(&mut self) -> Option<SocketAddr> {
        self.named.take().map(|client| *client)
    }

    /// Whether a PROXY header has named the client just now.
    pub(super) fn has_named(&self) -> bool {
        self.named.is_some()
    }

    /// The client that a PROXY header has named was admitted, or not; its request follows.
    pub(super) fn admit(&mut self, admission: Admission, cx: &mut Cx<'_>) {
        self.admission = admission;
        self.reader = RequestReader::first(service(cx), || redirected(cx));
        self.unread = !self.input.is_empty();
    }

    /// Looks at what has come, after one more read if that is needed; `None` when nothing can be read now.
    fn read(&mut self, cx: &mut Cx<'_>) -> std::io::Result<Option<ReadOutcome<Look>>> {
        let (settings, record) = (&cx.shard.settings, &cx.client.record);
        let logins = login_check(settings, record, self.admission, cx.shard.now_ms());
        let options = read_options(settings, &logins);
        let reader = &mut self.reader;
        let needs_no_bytes = reader.needs_no_bytes();
        let mut look = |bytes: &[u8]| reader.read(bytes, &options);
        let outcome = if needs_no_bytes {
            Ok(Some(ReadOutcome::Bytes(look(&[]).1)))
        } else if std::mem::take(&mut self.unread) {
            Ok(self.input.look(look).map(ReadOutcome::Bytes).or(Some(ReadOutcome::Blocked)))
        } else if cx.client.endpoint.ready.readable() {
            self.input.read(&mut cx.client.endpoint, &mut cx.shard.scratch, look).map(Some)
        } else {
            Ok(None)
        };
        cx.client.protocol = self.reader.protocol();
        outcome
    }

    /// Writes what the client waits for, as far as it takes it; `true` when nothing is left.
    fn send_answer(&mut self, cx: &mut Cx<'_>) -> std::io::Result<bool> {
        while !self.unsent.is_empty() && cx.client.endpoint.ready.writable() {
            let count = cx.client.endpoint.write(self.unsent)?;
            self.unsent = self.unsent.get(count..).unwrap_or_default();
        }
        Ok(self.unsent.is_empty())
    }

    /// Nothing of a request has come.
    fn is_silent(&self) -> bool {
        self.input.is_empty() && !self.reader.is_under_way()
    }

    /// A whole request has come.
    fn received(self, demand: Demand, cx: &mut Cx<'_>) -> Transition {
        cx.client.record.asked_for(&demand.request);
        cx.client.record.destination_source = Some(demand.source);
        if let Err(fault) = admitted(self.admission) {
            return respond::failed(fault, cx);
        }
        if cx.shard.is_out_of_memory() {
            return respond::failed(out_of_memory(), cx);
        }
        let leftover = self.input.into_leftover();
        if demand.request.has_body() && leftover.is_empty() {
            // Clients that use Nagle's algorithm hold the body back until the head is acknowledged, and the kernel
            // would wait 40 ms for something to send along.
            cx.client.endpoint.stream.acknowledge();
        }
        Transition::ChooseRoute(Received { demand, leftover, pinned: self.pinned })
    }

    /// The client waits for the server to speak first, if its listener serves such clients.
    fn after_silence(&mut self, cx: &mut Cx<'_>) -> Option<Result<Demand, Box<Rejected>>> {
        let (settings, record) = (&cx.shard.settings, &cx.client.record);
        let logins = login_check(settings, record, self.admission, cx.shard.now_ms());
        let outcome = self.reader.after_silence(&read_options(settings, &logins));
        cx.client.protocol = self.reader.protocol();
        outcome
    }

    /// The client asks for something that is not served.
    fn rejected(self, rejected: Rejected, cx: &mut Cx<'_>) -> Transition {
        cx.client.record.asked_in_vain(&rejected.asked.method, &rejected.asked.target);
        let fault = admitted(self.admission).err().unwrap_or(rejected.fault);
        respond::failed(fault, cx)
    }

    /// A request has begun: from here on it has the time of a head.
    fn begun(&mut self, cx: &mut Cx<'_>) {
        if !self.reader.is_sniffing() && std::mem::take(&mut self.resting) {
            cx.set_deadline_in(cx.timeouts().head);
        }
    }

    fn gone(self, detail: impl Into<std::borrow::Cow<'static, str>>, cx: &Cx<'_>) -> Transition {
        Transition::End(match self.is_silent() {
            true => silent(cx),
            false => cx.end_by(At::ReadHead.fault(Cause::ClientGone, detail)),
        })
    }
}

impl StageOps for ReadRequest {
    fn label(&self) -> &'static str {
        "read_head"
    }

    fn at(&self) -> At {
        At::ReadHead
    }

    fn held_bytes(&self) -> usize {
        self.input.held_bytes()
    }

    fn upstream(&mut self, number: u8) -> Option<&mut Endpoint> {
        self.pinned.as_mut().filter(|pinned| pinned.number == number).map(|pinned| &mut pinned.upstream)
    }

    fn idle(&self) -> Option<Idle> {
        Some(if self.is_silent() { Idle::Silent } else { Idle::Begun })
    }

    fn step(mut self, cx: &mut Cx<'_>) -> Step<Self> {
        loop {
            match self.send_answer(cx) {
                Ok(true) => {}
                Ok(false) => return Step::Wait(self),
                Err(error) => return Step::Go(self.gone(format!("the client's connection failed: {error}"), cx)),
            }
            match self.read(cx) {
                Ok(None) => return Step::Wait(self),
                Ok(Some(ReadOutcome::Blocked)) => {}
                Ok(Some(ReadOutcome::Bytes(Ok(Reading::Answer(bytes))))) => {
                    self.unsent = bytes;
                    self.unread = true;
                }
                Ok(Some(ReadOutcome::Bytes(Ok(Reading::Client(client))))) => {
                    let named = client.map(|(address, port)| SocketAddr::new(address, port));
                    self.named = Some(Box::new(named.unwrap_or(cx.client.record.client())));
                    return Step::Yield(self);
                }
                Ok(Some(ReadOutcome::Bytes(Ok(Reading::More)))) => {
                    if cx.shard.is_out_of_memory() && self.held_bytes() >= limits::LARGE_HEAD_BYTES {
                        return Step::Go(respond::failed(out_of_memory(), cx));
                    }
                    self.begun(cx);
                }
                Ok(Some(ReadOutcome::Bytes(Ok(Reading::Demand(demand))))) => {
                    return Step::Go(self.received(demand, cx));
                }
                Ok(Some(ReadOutcome::Bytes(Err(rejected)))) => return Step::Go(self.rejected(*rejected, cx)),
                Ok(Some(ReadOutcome::End)) => {
                    return Step::Go(self.gone("the client closed its connection in the middle of its request", cx));
                }
                Err(error) => return Step::Go(self.gone(format!("the client's connection failed: {error}"), cx)),
            }
        }
    }

    fn expired(mut self, cx: &mut Cx<'_>) -> Step<Self> {
        match self.after_silence(cx) {
            Some(Ok(demand)) => return Step::Go(self.received(demand, cx)),
            Some(Err(rejected)) => return Step::Go(self.rejected(*rejected, cx)),
            None => {}
        }
        Step::Go(match self.is_silent() {
            true => Transition::End(silent(cx)),
            false => {
                respond::failed(At::ReadHead.fault(Cause::HeadTimeout, "the request head was not complete in time"), cx)
            }
        })
    }

    fn give_way(self, cx: &mut Cx<'_>) -> End {
        match self.is_silent() {
            true => End::GaveWay,
            false => respond::failed_at_once(
                At::ReadHead.fault(
                    Cause::GaveWay,
                    "no connection slot, file descriptor or memory is left, and connections with incomplete requests give way to new ones",
                ),
                cx,
            ),
        }
    }
}

/// What is served where the client connected.
fn service<'a>(cx: &'a Cx<'_>) -> &'a Service {
    static DEFAULT: Service = Service::DEFAULT;
    cx.shard.settings.services.get(usize::from(cx.client.record.listener)).unwrap_or(&DEFAULT)
}

/// Where a redirected client was going. One whose connection has ended is going nowhere.
fn redirected(cx: &Cx<'_>) -> Redirected {
    match cx.client.endpoint.stream.original_destination() {
        Ok(original) => redirected_from(original, cx),
        Err(_) => Redirected { original: (Ipv4Addr::UNSPECIFIED, 0).into(), is_gateway: true },
    }
}

fn redirected_from(original: SocketAddr, cx: &Cx<'_>) -> Redirected {
    Redirected { original, is_gateway: cx.shard.settings.egress.own.contains(original) }
}

fn login_check<'a>(
    settings: &'a SessionSettings,
    record: &Record,
    admission: Admission,
    now_ms: u64,
) -> LoginCheck<'a> {
    let (listener, client) = (record.listener.into(), record.client().ip());
    LoginCheck { egress: &settings.egress, admission, listener, client, now_ms }
}

fn read_options<'a>(settings: &'a SessionSettings, logins: &'a LoginCheck<'_>) -> ReadOptions<'a> {
    ReadOptions {
        head_limit_bytes: settings.head_limit_bytes,
        field_limit: settings.field_limit,
        forward: settings.forward_options(),
        logins,
    }
}

/// What the bytes that have come amount to.
type Look = Result<Reading, Box<Rejected>>;

/// How a connection ends on which nothing of a request has come.
fn silent(cx: &Cx<'_>) -> End {
    if cx.client.record.is_between_requests() { End::Finished } else { End::Silent }
}

fn out_of_memory() -> Fault {
    At::ReadHead
        .fault(Cause::MemoryLimit, "requests and answers in progress hold as much memory as limits.memory allows")
}
