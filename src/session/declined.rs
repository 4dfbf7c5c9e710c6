//! An upstream's own refusal of a CONNECT (403, 503 …): its page is collected, within a bound, and passed on.

use std::io::Write as _;

use super::reply::Reply;
use super::{Client, Context, End, Stage, Step};
use crate::auth::Declined;
use crate::event::Endpoint;
use crate::http::{BodyFraming, ChunkError, ChunkedDecoder, ProxyStatus};
use crate::limits;

/// The longest page as it comes, framing included, in bytes: honest framing does not double it.
const PAGE_LIMIT_BYTES: usize = 2 * limits::DECLINED_BODY_LIMIT_BYTES;

/// Collecting the page. It is kept whole because its length must be told before it: the client's connection ends with
/// it, and a page that is cut short must not pass for a whole one.
#[derive(Debug)]
pub(super) struct DeclinedPage {
    declined: Declined,
    upstream: Endpoint,
    body: Vec<u8>,
    left: Left,
    /// Bytes that may still come, framing included: chunk extensions have no end of their own.
    may_come_bytes: usize,
}

/// What of the body is still to come.
#[derive(Debug)]
enum Left {
    Length(u64),
    Chunked(ChunkedDecoder),
    ToClose,
}

impl DeclinedPage {
    /// `leftover` is what came behind the head.
    pub(super) fn new(declined: Declined, upstream: Endpoint, leftover: Vec<u8>) -> DeclinedPage {
        let left = match declined.framing {
            BodyFraming::None => Left::Length(0),
            BodyFraming::Length(length) => Left::Length(length),
            BodyFraming::Chunked => Left::Chunked(ChunkedDecoder::new()),
            BodyFraming::CloseDelimited => Left::ToClose,
        };
        let mut page = DeclinedPage { declined, upstream, body: Vec::new(), left, may_come_bytes: PAGE_LIMIT_BYTES };
        if page.collect(&leftover).is_err() {
            page.left = Left::Length(0);
        }
        page
    }

    /// What its buffers take, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.body.capacity() + self.declined.fields.capacity()
    }

    pub(super) fn endpoint(&mut self) -> &mut Endpoint {
        &mut self.upstream
    }

    pub(super) fn step(mut self: Box<Self>, client: &mut Client, context: &mut Context) -> Step {
        let mut reads_left = limits::READS_PER_TURN;
        // Of a page that there is no room for, what there is of it is passed on.
        while !self.is_whole() && !context.is_out_of_memory() {
            if !self.upstream.ready.readable() {
                return Step::Wait(Stage::Declined(self));
            }
            if reads_left == 0 {
                return Step::Yield(Stage::Declined(self));
            }
            reads_left -= 1;
            match self.upstream.read(context.head_scratch()) {
                Ok(None) => {}
                // The end, or what there is of it: the status is what matters, and it is known.
                Ok(Some(0)) | Err(_) => break,
                Ok(Some(count)) => {
                    if self.collect(&context.scratch[..count]).is_err() {
                        break;
                    }
                }
            }
        }
        self.pass_on(client, context)
    }

    /// Out of time: what is there of the page is passed on.
    pub(super) fn expired(self, client: &mut Client, context: &mut Context) -> Step {
        self.pass_on(client, context)
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

    fn pass_on(self, client: &mut Client, context: &mut Context) -> Step {
        let status = self.declined.status;
        let upstream_name = client.record.upstream().to_owned();
        let proxy_status = ProxyStatus {
            name: crate::http::PROXY_NAME,
            error: None,
            details: "the upstream declined the request",
            next_hop: Some(&upstream_name),
            received_status: Some(status),
        };
        let mut answer = Vec::with_capacity(self.body.len() + self.declined.fields.len() + 256);
        // Writing to a Vec cannot fail.
        let _ = write!(answer, "HTTP/1.1 {status} {}\r\n", self.declined.reason);
        answer.extend_from_slice(&self.declined.fields);
        let _ = write!(
            answer,
            "Content-Length: {}\r\nProxy-Status: {proxy_status}\r\nConnection: close\r\nProxy-Connection: close\r\n\r\n",
            self.body.len()
        );
        answer.extend_from_slice(&self.body);
        Reply::page("connect", answer, status, End::Declined(status), client, context)
    }
}

/// Keeps what fits.
fn keep(body: &mut Vec<u8>, bytes: &[u8]) {
    let room = limits::DECLINED_BODY_LIMIT_BYTES.saturating_sub(body.len());
    body.extend_from_slice(&bytes[..bytes.len().min(room)]);
}
