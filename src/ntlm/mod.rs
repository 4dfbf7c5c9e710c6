//! NTLM as specified in MS-NLMP. Pure: bytes in, bytes out; time and nonces are arguments.
//!
//! This module uses no socket, no clock and no random number generator, and knows nothing of HTTP or base64. It
//! implements both sides of the handshake, which consists of three messages:
//!
//! ```text
//!   gateway                                          upstream proxy
//!   client::negotiate       ── NEGOTIATE_MESSAGE ──►
//!                           ◄─ CHALLENGE_MESSAGE ──  server::challenge
//!   client::authenticate    ─ AUTHENTICATE_MESSAGE ► verify::verify
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `wire` | bounds-checked reads, payload fields, strings, Version |
//! | `flags` | NegotiateFlags |
//! | `av_pair` | the AV_PAIR list of TargetInfo |
//! | `file_time` | FILETIME: ticks of 100 ns since 1601 |
//! | `negotiate`, `challenge`, `authenticate` | the three messages, decoded and encoded |
//! | `crypto` | hashes, responses, session keys |
//! | `credential` | accounts, password hashes, identities |
//! | `client` | the side that authenticates |
//! | `server`, `verify` | the side that sends the challenge and verifies the response |
//! | `describe` | a message as readable text |

mod authenticate;
mod av_pair;
mod challenge;
mod client;
mod credential;
mod crypto;
mod describe;
mod file_time;
mod flags;
mod negotiate;
mod server;
mod verify;
mod wire;

#[cfg(test)]
mod tests;

pub use authenticate::{AuthenticateMessage, NtResponseKind, PayloadOrder};
pub use av_pair::{AvError, AvId, AvPair, AvPairs, TargetInfoBuilder};
pub use challenge::ChallengeMessage;
pub use client::{AuthenticateError, AuthenticateInputs, NegotiateOptions, authenticate, negotiate};
pub use credential::{Account, AccountError, Identity, Method, NtHash, NtHashError};
pub use describe::describe;
pub use file_time::FileTime;
pub use flags::NegotiateFlags;
pub use negotiate::NegotiateMessage;
pub use server::{ServerChallengeOptions, challenge};
pub use verify::{Verified, VerifyError, VerifyOptions, verify};
pub use wire::{Charset, MessageError, MessageType, Version};
