//! Authentication with an upstream proxy, from the open connection to the answer: sans-IO.
//!
//! [`Handshake`] holds the conversation in 407 answers for one request. It knows which request goes out next and what
//! the answer means for the connection. What convinces the proxy is up to the [mechanisms](mechanism), which make and
//! read the tokens.
//!
//! ```text
//!               begin: first token                        407 with a challenge, its body read
//!   Ready ──────────────────▶ Awaiting(FirstToken) ─────────────────────────────▶ TokenDue
//!     ▲ └─────────────────────────────────────────────────────────────────────────▶  │
//!     │        begin: the mechanism needs no challenge                               │ authenticate
//!     │                           │    │ 2xx              2xx                        ▼
//!     │ no challenge, or a close: │    └───▶ Established ◀──────────── Awaiting(FinalToken)
//!     └───────── Redial ──────────┘                                                  │ 407: CredentialsRefused
//!                                    any other status: Declined ◀────────────────────┘
//! ```
//!
//! The first request may also carry nothing. A 407 that does not take the mechanism any further leads to its next
//! scheme or to the next mechanism in the list, on the same connection if that persists.
//!
//! The owner of the connection passes what it reads to [`Handshake::receive`] and sends what it finds in `out`. A
//! challenge is answered only on the connection that it came on (invariant 3): every other connection starts without
//! one. Random numbers and the time are arguments.

mod conversation;
mod credentials;
mod handshake;
mod mechanism;
mod nonces;
mod progress;
mod proxy_answer;
mod request;
mod spnego;
mod state;
mod verdict;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use credentials::{Credentials, FirstLeg};
pub use handshake::Handshake;
pub use mechanism::{Scheme, SpeaksNtlm};
pub use nonces::{NonceSource, Nonces};
pub use progress::{Declined, Due, Progress, Tally};
pub use proxy_answer::{carries_challenge, is_of_proxy};
pub use request::Request;
pub use verdict::{FinalAnswer, final_answer};

use crate::fault::{At, Cause, Fault};

fn fault(cause: Cause, detail: impl Into<Cow<'static, str>>) -> Fault {
    Fault::new(At::Authenticate, cause, detail)
}
