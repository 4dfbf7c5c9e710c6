//! The NTLM handshake of one CONNECT with an upstream proxy: sans-IO, from the open connection to the answer.
//!
//! ```text
//!               begin                                     407 with a token, body drained
//!   Ready ──────────────▶ Awaiting(Negotiate) ─────────────────────────────────▶ Challenged
//!     ▲                      │    │                                                  │ authenticate
//!     │ 407 without a token, │    │ 2xx                    2xx                       ▼
//!     │ or a close: Redial   │    └──────▶ Established ◀─────────────── Awaiting(Authenticate)
//!     └──────────────────────┘                                                       │ 407: CredentialsRefused
//!                                 any other status: Declined ◀───────────────────────┘
//! ```
//!
//! The owner of the connection feeds what it reads to [`Handshake::receive`] and sends what it finds in `out`. An
//! AUTHENTICATE_MESSAGE is made only for the challenge that came on the same connection (invariant 3): dialling anew forgets it.
//! Random numbers and the time are arguments.

mod credentials;
mod decision;
mod nonces;
mod request;
mod scheme;
mod state;
mod verdict;

#[cfg(test)]
mod tests;

pub use credentials::{Credentials, FirstLeg};
pub use decision::is_of_proxy;
pub use nonces::NonceSource;
pub use request::Request;
pub use scheme::{Scheme, SpeaksNtlm};
pub use state::{Declined, Handshake, Nonces, Progress, Tally};
pub use verdict::{FinalAnswer, final_answer};
