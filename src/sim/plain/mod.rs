//! Clients that speak plain HTTP, and what answers them: at the far end of an upstream connection or at an origin itself.
//!
//! Every request and every answer bears the tag of its client and its number, and its body is a stretch of the pattern that
//! nobody else's is, so that whatever gets to the wrong place is seen there.
//!
//! | file | subject |
//! |---|---|
//! | `plan` | what a seed decides of requests and their answers |
//! | `message` | heads and bodies, written and read strictly |
//! | `caller` | a client |
//! | `desk` | what reads requests and answers them |
//! | `verdict` | what must be true of every client |

mod http_client;
mod http_server;
mod message;
mod plan;
mod verdict;

pub use http_client::Caller;
pub use http_server::{Around, Desk};
pub use message::Framing;
pub use plan::CallerOddity;
pub use plan::{CallerPlan, callers};
pub use verdict::judge;
