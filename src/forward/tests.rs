//! Tests across files: heads one way and the other, whole exchanges at every split, and corruption.

mod exchange;
mod hostile;
mod request;
mod response;

use super::{ForwardError, ForwardOptions, ForwardRequest, ForwardResponse, ForwardResponseError};
use crate::http::{FieldStorage, RequestError, RequestHead, ResponseHead};

/// A request head as text, parsed and understood; a refusal as its status and words.
fn request(head: &str) -> Result<ForwardRequest, (u16, String)> {
    let refused = |error: RequestError| (error.status(), error.to_string());
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(head.as_bytes(), &mut storage).map_err(refused)?;
    let refused = |error: ForwardError| (error.status(), error.to_string());
    ForwardRequest::of(&head, &ForwardOptions::default()).map_err(refused)
}

/// A GET with these fields.
fn get(fields: &str) -> ForwardRequest {
    request(&format!("GET http://h/ HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).unwrap()
}

/// The answer as understood for `request`.
fn response<T>(
    request: &ForwardRequest,
    head: &str,
    look: impl FnOnce(Result<ForwardResponse<'_>, ForwardResponseError>) -> T,
) -> T {
    let mut storage = FieldStorage::new();
    let head = ResponseHead::parse(head.as_bytes(), &mut storage).unwrap();
    look(ForwardResponse::of(&head, request, &ForwardOptions::default()))
}

/// The head that the client gets, and whether its connection is kept.
fn answer(request: &ForwardRequest, head: &str, keep_alive: bool) -> (String, bool) {
    response(request, head, |response| {
        let mut out = Vec::new();
        let keeps = response.unwrap().write_head(&mut out, keep_alive);
        (String::from_utf8(out).unwrap(), keeps)
    })
}
