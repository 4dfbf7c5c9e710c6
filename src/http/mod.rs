//! HTTP/1 on the proxy hop: pure, bytes in, bytes out (RFC 9110, 9112, 9209).
//!
//! Nothing here knows a socket or a clock, and nothing here reaches out to another module of the gateway.
//!
//! | file | subject |
//! |---|---|
//! | [`head_end`](HeadEnd) | where a head ends, found once however the bytes trickle in |
//! | `start_line` | [`Version`], line ends, splitting a head into start line and field section |
//! | `fields` | [`Fields`]: the header fields of a head, hop-by-hop and end-to-end |
//! | `authority` | [`Authority`]: host and port |
//! | `target` | [`RequestTarget`]: the four forms of a request target |
//! | `opening` | [`NotHttp`]: first bytes that cannot begin a request |
//! | `request_head` | [`RequestHead`]: what a client asks for, or the status it earns instead |
//! | `asked` | [`Asked`]: what a refused request asked for, for the log |
//! | `response_head` | [`ResponseHead`]: what an upstream proxy answers |
//! | `framing` | [`BodyFraming`]: how long a body is |
//! | `chunked` | [`ChunkedDecoder`]: where data and overhead lie in a chunked body |
//! | `drain` | [`BodyDrain`]: reads a body nobody wants, exactly and within a bound |
//! | `challenges` | [`Challenge`]: authentication challenges and their tokens |
//! | `encode` | heads and whole error responses to send |
//! | `proxy_status` | [`ProxyStatus`]: the name of a failure, for the client |
//!
//! Strictness is one-sided on purpose. A *request* head comes from a workload and decides where bytes go, so anything
//! two parsers could read in two ways is refused with a status. A *response* head comes from the organisation's
//! own proxy, which cannot be changed, so what real proxies send is accepted wherever its meaning is certain.

mod asked;
mod authority;
mod challenges;
mod chunked;
mod drain;
mod encode;
mod fields;
mod framing;
mod head_end;
mod opening;
mod proxy_status;
mod request_head;
mod response_head;
mod start_line;
mod target;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod trace;

pub use asked::Asked;
pub use authority::{Authority, AuthorityError, HOST_NAME_LIMIT_BYTES, Host};
pub use challenges::{
    Challenge, Challenges, TOKEN_LIMIT_BYTES, TokenError, challenges, challenges_in, decode_token, find_challenge,
    offered,
};
pub use chunked::{CHUNK_LINE_LIMIT_BYTES, ChunkError, ChunkPart, ChunkedDecoder, Run, Segment, TRAILER_LIMIT_BYTES};
pub use drain::{BodyDrain, DrainError, Drained};
pub use encode::{
    ErrorResponse, NextHop, UpstreamRequest, connect_request, copy_end_to_end_fields, error_response,
    established_response, framing_field, reason_phrase, upstream_request,
};
pub use fields::{
    CONNECTION_OPTIONS_MAX, FIELDS_MAX, Field, FieldError, FieldStorage, Fields, Values, is_hop_by_hop,
    resembles_hop_by_hop,
};
pub use framing::{BodyFraming, FramingError, ResponseTo};
pub use head_end::{HeadEnd, HeadTooLarge};
pub use opening::{NotHttp, has_overlong_method, what_else};
pub use proxy_status::{ErrorType, PROXY_NAME, ProxyStatus};
pub use request_head::{METHOD_LIMIT_BYTES, RequestError, RequestHead, check_request_line};
pub use response_head::{ResponseError, ResponseHead, unfold_field_lines};
pub use start_line::Version;
pub use target::{RequestTarget, TargetError};
