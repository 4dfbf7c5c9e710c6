//! Authentication with an upstream proxy, from the open connection to the answer: sans-IO.
//!
//! [`Handshake`] holds the conversation in 407 answers for one request. It knows which request goes out next and what
//! the answer means for the connection. What convinces the proxy is up to the [mechanisms](mechanism), which make and
//! read the tokens.
//!
//! ```text
//!   Ready ──begin──▶ Awaiting(FirstToken) ──challenge──▶ TokenDue ──authenticate──▶ Awaiting(FinalToken)
//!     │                                                    ▲
//!     └────── begin, if the mechanism needs no challenge ──┘
//! ```
//!
//! | answer | to the first token | to the final token |
//! |---|---|---|
//! | 407 with a challenge | `TokenDue`, once its body has been read | `CredentialsRefused` |
//! | 407 without a challenge | the next scheme or mechanism is tried | `CredentialsRefused` |
//! | 2xx | `Established` | `Established` |
//! | any other status | `Declined` | `Declined` |
//! | a close | `Redial`, back to `Ready` | `UpstreamClosed` |
//!
//! The first request may also carry nothing, and is then answered like one with a first token. The next scheme is tried
//! on the same connection if that persists, otherwise after a `Redial`. A mechanism whose token was refused makes room
//! for the next one in the list if the token was no logon attempt. Plain HTTP is `Answered`, with the head left to the
//! caller.
//!
//! The owner of the connection passes what it reads to [`Handshake::receive`] and sends what it finds in `out`. A
//! challenge is answered only on the connection that it came on (invariant 3): every other connection starts without
//! one. Random numbers and the time are arguments.

mod conversation;
mod credentials;
mod fallback;
mod final_answer;
mod handshake;
mod mechanism;
mod nonces;
mod progress;
mod proxy_answer;
mod request;
mod spnego;
mod state;
mod tickets;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use credentials::{Credentials, FirstLeg};
pub use fallback::{Choice, Fallback};
pub use final_answer::{FinalAnswer, final_answer};
pub use handshake::Handshake;
pub use mechanism::{Scheme, SpeaksNtlm};
pub use nonces::{NonceSource, Nonces};
pub use progress::{Declined, Due, Progress, Tally};
pub use proxy_answer::{carries_challenge, is_of_proxy};
pub use request::Request;
pub use spnego::{NegState, NegTokenResp, initial_token, read_response};
pub use tickets::{TicketSlot, TicketState, TokenTimes};

use crate::fault::{At, Cause, Fault};

fn fault(cause: Cause, detail: impl Into<Cow<'static, str>>) -> Fault {
    Fault::new(At::Authenticate, cause, detail)
}
