//! Plain HTTP: clients, and the server at the far end of an upstream connection or of a direct one.
//!
//! Each request and answer carries its client's tag and number, and each body is its own stretch of the test
//! pattern, so that anything delivered to the wrong place is noticed there.
//!
//! | file | subject |
//! |---|---|
//! | `plan` | what a seed decides about requests and answers |
//! | `message` | heads and bodies, written and read strictly |
//! | `http_client` | a client |
//! | `http_server` | reads requests and answers them |
//! | `invariants` | what must be true of every client |

mod http_client;
mod http_server;
mod invariants;
mod message;
mod plan;

pub use http_client::HttpClient;
pub use http_server::{HttpServer, ServerContext};
pub use invariants::check;
pub use message::Framing;
pub use plan::{AnswerOddity, HttpClientOddity};
pub use plan::{HttpClientPlan, http_clients};
