//! What the client is told of its request, in its own protocol.

use super::cx::Cx;
use super::record::End;
use super::transition::{AfterAnswer, ClientAnswer, Halves, Transition};
use crate::auth::Declined;
use crate::client_protocol::Verdict;
use crate::fault::Fault;
use crate::relay::Half;
use crate::transport::Endpoint;

/// The tunnel is established. What the upstream sent after its 200 follows ours.
pub(super) fn established(
    upstream: Endpoint,
    from_upstream: Vec<u8>,
    from_client: Vec<u8>,
    cx: &mut Cx<'_>,
) -> Transition {
    let mut bytes = cx.shard.spare_buffers.take();
    if let Some(status) = cx.client.protocol.answer(&Verdict::Established, &mut bytes) {
        cx.answered(status);
    }
    let halves = Halves { upstream, up: Half::new(from_client), down: Half::new(from_upstream) };
    Transition::Reply(ClientAnswer { bytes, then: AfterAnswer::Relay(halves) })
}

/// The request failed, and its client is told if there is one left.
pub(super) fn failed(fault: Fault, cx: &mut Cx<'_>) -> Transition {
    failed_after(Vec::new(), fault, cx)
}

/// The same, after the interim answers that have not been sent yet.
pub(super) fn failed_after(mut bytes: Vec<u8>, fault: Fault, cx: &mut Cx<'_>) -> Transition {
    match append(&fault, &mut bytes, cx) {
        Some(status) if bytes.is_empty() => {
            cx.answered(status);
            end_without_answer(cx.end_by(fault), cx)
        }
        Some(status) => {
            cx.answered(status);
            Transition::Reply(ClientAnswer { bytes, then: AfterAnswer::Close(cx.end_by(fault)) })
        }
        None => Transition::End(cx.end_by(fault)),
    }
}

/// The request failed, and its connection is needed now: what it does not take at once is not told.
pub(super) fn failed_at_once(fault: Fault, cx: &mut Cx<'_>) -> End {
    let mut bytes = Vec::new();
    if let Some(status) = append(&fault, &mut bytes, cx) {
        cx.answered(status);
        let _ = cx.client.endpoint.write(&bytes);
    }
    cx.end_by(fault)
}

/// The upstream has refused a tunnel by itself, with this page.
pub(super) fn declined(declined: &Declined, body: &[u8], cx: &mut Cx<'_>) -> Transition {
    let mut bytes = Vec::new();
    let upstream = cx.client.record.upstream().unwrap_or_default();
    let verdict = Verdict::Declined { declined, body, upstream };
    if let Some(status) = cx.client.protocol.answer(&verdict, &mut bytes) {
        cx.answered(status);
    }
    let end = End::Declined(declined.status);
    if bytes.is_empty() {
        return end_without_answer(end, cx);
    }
    Transition::Reply(ClientAnswer { bytes, then: AfterAnswer::Close(end) })
}

/// The client's protocol has no answer, and a close alone would look like the end of the origin's data.
fn end_without_answer(end: End, cx: &Cx<'_>) -> Transition {
    cx.client.endpoint.stream.reset_on_close();
    Transition::End(end)
}

fn append(fault: &Fault, bytes: &mut Vec<u8>, cx: &Cx<'_>) -> Option<u16> {
    let record = &cx.client.record;
    let omit_body = record.method() == Some("HEAD");
    cx.client.protocol.answer(&Verdict::Failed { fault, upstream: record.upstream(), omit_body }, bytes)
}
