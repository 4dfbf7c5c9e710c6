//! Tests that involve several files: heads in both directions, whole exchanges at every split, and corrupted input.

mod exchange;
mod hostile;
mod request;
mod response;

use super::{BodyError, BodyPump, ForwardError, ForwardOptions, ForwardRequest, ForwardResponse, ForwardResponseError};
use crate::http::{FieldStorage, RequestError, RequestHead, ResponseHead};

/// The result of [`push`].
pub(super) struct Pushed {
    pub used: usize,
    pub done: bool,
}

/// Feeds all of `input` to `pump` and appends everything that is to be sent for it to `out`.
pub(super) fn push(pump: &mut BodyPump, input: &[u8], out: &mut Vec<u8>) -> Result<Pushed, BodyError> {
    let mut used = 0;
    loop {
        let piece = pump.step(&input[used..])?;
        piece.copy_rest(0, out);
        used += piece.used;
        if piece.done || piece.is_empty() {
            return Ok(Pushed { used, done: piece.done });
        }
    }
}

/// Parses a request head. An error is a status and a text.
fn request(head: &str) -> Result<ForwardRequest, (u16, String)> {
    let rejected = |error: RequestError| (error.status(), error.to_string());
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(head.as_bytes(), &mut storage).map_err(rejected)?;
    let rejected = |error: ForwardError| (error.status(), error.to_string());
    ForwardRequest::of(&head, &ForwardOptions::default()).map_err(rejected)
}

/// A GET with these fields.
fn get(fields: &str) -> ForwardRequest {
    request(&format!("GET http://h/ HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).unwrap()
}

/// Parses a response to `request` and passes the result to `look`.
fn response<T>(
    request: &ForwardRequest,
    head: &str,
    look: impl FnOnce(Result<ForwardResponse<'_>, ForwardResponseError>) -> T,
) -> T {
    let mut storage = FieldStorage::new();
    let head = ResponseHead::parse(head.as_bytes(), &mut storage).unwrap();
    look(ForwardResponse::of(&head, request, &ForwardOptions::default()))
}

/// The head that the client gets, and whether its connection stays open.
fn answer(request: &ForwardRequest, head: &str, keep_alive: bool) -> (String, bool) {
    response(request, head, |response| {
        let mut out = Vec::new();
        let keeps = response.unwrap().write_head(&mut out, keep_alive);
        (String::from_utf8(out).unwrap(), keeps)
    })
}
