//! An upstream proxy that really verifies NTLM, with the odd behaviours of real ones.
//!
//! It serves `ntlm-gateway demo`, the tests, the benches and the load test, so it is built like the gateway itself:
//! non-blocking loops over edge-triggered sockets, a few hundred bytes for an idle tunnel.
//!
//! | file | subject |
//! |---|---|
//! | `personality` | the names of the behaviours |
//! | `behaviour`, `catalogue` | what each of them is made of: data |
//! | `session` | one connection up to the tunnel: pure, bytes in, steps out |
//! | `request`, `body`, `answer`, `challenger`, `spnego` | the session's parts |
//! | `setup` | accounts and names; challenges given lately |
//! | `origin`, `hello`, `pattern` | the origins it plays itself, and what they send |
//! | `server`, `event_loop`, `connection`, `tunnel` | the same on real sockets |
//! | `counters` | what it saw and did |
//!
//! [`StubServer`] is the whole of it; [`Session`] alone serves tests on virtual time.

mod answer;
mod behaviour;
mod body;
mod catalogue;
mod challenger;
mod connection;
mod counters;
mod event_loop;
mod hello_origin;
mod origin;
mod pattern;
mod personality;
mod request;
mod server;
mod session;
mod setup;
mod spnego;
mod tunnel;

pub use answer::Step;
pub use counters::{Counter, Counters, Counts};
pub use hello_origin::HELLO_PAGE;
pub use origin::{GREETING, Origin, Reaction, sink_line};
pub use pattern::{Checksum, PATTERN_PERIOD_BYTES, fill_pattern, pattern_at, pattern_block, pattern_mismatch};
pub use personality::{Personality, UnknownPersonality};
pub use server::{StubOptions, StubServer};
pub use session::{REQUEST_HEAD_LIMIT_BYTES, Session, Surroundings};
pub use setup::{ServerNames, Setup, StubAccount};
