//! NTLM as in MS-NLMP: pure, bytes in, bytes out; time and nonces are arguments.
//!
//! Nothing here opens a socket, reads a clock or draws a random number, and nothing here knows of HTTP or base64.
//! Three messages make a handshake, and both of its sides are here:
//!
//! ```text
//!   gateway                                          upstream proxy
//!   client::negotiate     ── NEGOTIATE_MESSAGE ──►
//!                           ◄─ CHALLENGE_MESSAGE ──  server::challenge
//!   client::authenticate  ─ AUTHENTICATE_MESSAGE ► verify::verify
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `wire` | bounds-checked reads, payload fields, strings, Version |
//! | `flags` | NegotiateFlags |
//! | `av_pair` | the AV_PAIR list of TargetInfo |
//! | `file_time` | FILETIME: 100 ns since 1601 |
//! | `negotiate`, `challenge`, `authenticate` | the three messages, decoded and encoded |
//! | `crypto` | hashes, responses, session keys |
//! | `credential` | accounts, password hashes, identities |
//! | `exchange` | the side that proves an identity |
//! | `server`, `verify` | the side that demands and checks the proof |
//! | `describe` | a message in words |

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
