//! HTTP/1 messages between client, gateway and upstream proxy (RFC 9110, 9112, 9209).
//!
//! Everything here is pure: bytes in, bytes out. This module uses no socket, no clock and no other module of the
//! gateway.
//!
//! | file | subject |
//! |---|---|
//! | `head_end` | [`HeadEnd`]: finds the end of a head that does not arrive whole, without scanning any byte twice |
//! | `spans` | how far names, targets and values go, in words of eight bytes |
//! | `start_line` | [`Version`], line endings, splitting a head into start line and field section |
//! | `field_name` | [`FieldName`]: the names that the gateway interprets, and kinds of fields |
//! | `field_lines` | [`FieldStorage`]: splits a field section into lines, in one pass |
//! | `fields` | [`Fields`]: the header fields of a head, hop-by-hop and end-to-end |
//! | `authority` | [`Authority`]: host and port |
//! | `target` | [`RequestTarget`]: the four forms of a request target |
//! | `other_protocol` | [`OtherProtocol`]: recognises clients that do not speak HTTP by their first bytes |
//! | `request_head` | [`RequestHead`]: a parsed request head, or the status that rejects it |
//! | `request_summary` | [`RequestSummary`]: method and target of a rejected request, for the log |
//! | `response_head` | [`ResponseHead`]: a parsed response head |
//! | `framing` | [`BodyFraming`]: where a body ends |
//! | `chunked` | [`ChunkedDecoder`]: separates data from framing in a chunked body |
//! | `discard` | [`BodyDiscarder`]: reads to the end of an unwanted body, up to a size limit |
//! | `challenges` | [`Challenge`]: authentication challenges and their tokens |
//! | `base64_engine` | base64 with vector instructions |
//! | `encode` | heads and complete error responses to send |
//! | `proxy_status` | [`ProxyStatus`]: the Proxy-Status field, which names a failure for the client |
//!
//! The two parsers are deliberately not equally strict. A *request* head comes from a workload and decides where bytes
//! go, so anything that two parsers could interpret differently is rejected. A *response* head comes from the
//! organisation's own proxy, which cannot be changed, so whatever real proxies send is accepted as long as its meaning
//! is unambiguous.

mod authority;
mod base64_engine;
mod challenges;
mod chunked;
mod discard;
mod encode;
mod field_lines;
mod field_name;
mod fields;
mod framing;
mod head_end;
mod other_protocol;
mod proxy_status;
mod redirected;
mod request_head;
mod request_summary;
mod response_head;
mod spans;
mod start_line;
mod target;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod trace;
mod traceparent;

pub use authority::{Authority, AuthorityError, HOST_NAME_LIMIT_BYTES, Host};
pub use challenges::{
    Challenge, Challenges, TOKEN_LIMIT_BYTES, TokenError, challenges, challenges_in, decode_token, encode_token,
    find_challenge, offered_schemes,
};
pub use chunked::{CHUNK_LINE_LIMIT_BYTES, ChunkError, ChunkPart, ChunkedDecoder, Run, Segment, TRAILER_LIMIT_BYTES};
pub use discard::{BodyDiscarder, DiscardError, Discarded};
pub use encode::{
    ErrorResponse, NextHop, ProxyAuthorization, Token, UpstreamRequest, connect_request, copy_end_to_end_fields,
    error_response, established_response, framing_field, reason_phrase, upstream_request,
};
pub use field_lines::{FIELDS_MAX, FieldStorage};
pub use field_name::{FieldKinds, FieldName, LookupName, is_hop_by_hop, resembles_hop_by_hop};
pub use fields::{CONNECTION_OPTIONS_MAX, Field, FieldError, Fields, Values};
pub use framing::{BodyFraming, FramingError, ResponseTo};
pub use head_end::{HeadEnd, HeadTooLarge};
pub use other_protocol::{OtherProtocol, detect_other_protocol, first_bytes, has_overlong_method, is_tls_record};
pub use proxy_status::{ErrorType, PROXY_NAME, ProxyStatus};
pub use redirected::url_of_redirected;
pub use request_head::{METHOD_LIMIT_BYTES, RequestError, RequestHead, check_request_line};
pub use request_summary::RequestSummary;
pub use response_head::{
    HeadRead, ResponseError, ResponseHead, read_response_head, unfold_field_lines, with_response_head,
};
pub use start_line::Version;
pub use target::{RequestTarget, TargetError};
pub use traceparent::traceparent;
