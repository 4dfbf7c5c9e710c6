//! An upstream's own refusal of a CONNECT (403, 503 …): its page is collected, within a bound, and passed on.

use super::cx::Cx;
use super::respond;
use super::stage::{StageOps, Step};
use super::transition::{Declining, Transition};
use crate::auth::Declined;
use crate::fault::At;
use crate::http::{BodyFraming, ChunkError, ChunkedDecoder};
use crate::limits;
use crate::transport::Endpoint;

/// The longest page as it arrives, framing included, in bytes: honest framing does not double it.
const PAGE_LIMIT_BYTES: usize = 2 * limits::DECLINED_BODY_LIMIT_BYTES;

/// Collecting the page. It is kept whole because its length has to precede it: the client's connection ends with it,
/// and a truncated page must not look like a whole one.
#[derive(Debug)]
pub(super) struct Decline {
    declined: Declined,
    upstream: Endpoint,
    body: Vec<u8>,
    left: Left,
    /// Bytes that may still come, framing included: chunk extensions have no limit of their own.
    may_come_bytes: usize,
}

/// What of the body is still to come.
#[derive(Debug)]
enum Left {
    Length(u64),
    Chunked(ChunkedDecoder),
    ToClose,
}

impl Decline {
    pub(super) fn new(declining: Declining) -> Decline {
        let Declining { declined, upstream, leftover } = declining;
        let left = match declined.framing {
            BodyFraming::None => Left::Length(0),
            BodyFraming::Length(length) => Left::Length(length),
            BodyFraming::Chunked => Left::Chunked(ChunkedDecoder::new()),
            BodyFraming::CloseDelimited => Left::ToClose,
        };
        let mut stage = Decline { declined, upstream, body: Vec::new(), left, may_come_bytes: PAGE_LIMIT_BYTES };
        if stage.collect(&leftover).is_err() {
            stage.left = Left::Length(0);
        }
        stage
    }

    fn is_whole(&self) -> bool {
        let complete = match &self.left {
            Left::Length(left) => *left == 0,
            Left::Chunked(decoder) => decoder.is_done(),
            Left::ToClose => false,
        };
        complete || self.may_come_bytes == 0 || self.body.len() >= limits::DECLINED_BODY_LIMIT_BYTES
    }

    fn collect(&mut self, bytes: &[u8]) -> Result<(), ChunkError> {
        self.may_come_bytes = self.may_come_bytes.saturating_sub(bytes.len());
        match &mut self.left {
            Left::ToClose => keep(&mut self.body, bytes),
            Left::Length(left) => {
                let count = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                keep(&mut self.body, &bytes[..count]);
                *left -= count as u64;
            }
            Left::Chunked(decoder) => {
                let mut rest = bytes;
                while !decoder.is_done() {
                    let segment = decoder.decode(rest)?;
                    if segment.is_empty() {
                        break;
                    }
                    keep(&mut self.body, &rest[segment.overhead..segment.len()]);
                    rest = &rest[segment.len()..];
                }
            }
        }
        Ok(())
    }

    fn pass_on(&self, cx: &mut Cx<'_>) -> Transition {
        respond::declined(&self.declined, &self.body, cx)
    }
}

impl StageOps for Box<Decline> {
    fn label(&self) -> &'static str {
        "declined"
    }

    fn at(&self) -> At {
        At::Reply
    }

    fn held_bytes(&self) -> usize {
        self.upstream.held_bytes() + self.body.capacity() + self.declined.fields.capacity()
    }

    fn upstream(&mut self, _number: u8) -> Option<&mut Endpoint> {
        Some(&mut self.upstream)
    }

    fn step(mut self, cx: &mut Cx<'_>) -> Step<Self> {
        let mut reads_left = limits::READS_PER_TURN;
        // Where memory is short, as much of the page is passed on as is there.
        while !self.is_whole() && !cx.shard.is_out_of_memory() {
            if !self.upstream.ready.readable() {
                return Step::Wait(self);
            }
            if reads_left == 0 {
                return Step::Yield(self);
            }
            reads_left -= 1;
            match self.upstream.read(cx.shard.head_scratch()) {
                Ok(None) => {}
                // The page is whole, or as much of it as there will be: the status matters more, and it is known.
                Ok(Some(0)) | Err(_) => break,
                Ok(Some(count)) => {
                    if self.collect(&cx.shard.scratch[..count]).is_err() {
                        break;
                    }
                }
            }
        }
        Step::Go(self.pass_on(cx))
    }

    /// As much of the page is passed on as is there.
    fn expired(self, cx: &mut Cx<'_>) -> Step<Self> {
        Step::Go(self.pass_on(cx))
    }
}

/// Keeps what fits.
fn keep(body: &mut Vec<u8>, bytes: &[u8]) {
    let room = limits::DECLINED_BODY_LIMIT_BYTES.saturating_sub(body.len());
    body.extend_from_slice(&bytes[..bytes.len().min(room)]);
}
