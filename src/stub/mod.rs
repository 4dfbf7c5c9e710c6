//! An upstream proxy that really verifies NTLM and Kerberos, and imitates the peculiarities of real proxies.
//!
//! `ntlm-gateway demo`, the tests, the benches and the load test use it, so it is built like the gateway: non-blocking
//! event loops over edge-triggered sockets, and a few hundred bytes for an idle tunnel.
//!
//! | file | subject |
//! |---|---|
//! | `personality` | the names of the behaviours |
//! | `behaviour`, `catalogue` | what each of them does, as data |
//! | `proxy_session` | one connection up to the tunnel: pure, bytes in, actions out |
//! | `request`, `body`, `response`, `challenger`, `spnego` | its parts |
//! | `setup` | accounts, names and recent challenges |
//! | `kerberos` | Kerberos: the keytab, replays, the answers |
//! | `kdc` | a KDC, so that Kerberos needs no other software |
//! | `origin`, `hello_origin`, `pattern` | the built-in origins, and what they send |
//! | `server`, `event_loop`, `connection`, `tunnel` | all of it on real sockets |
//! | `certificate` | a certificate for TLS, made at once |
//! | `counters` | counts of what it received and did |
//!
//! [`StubServer`] is the whole server. [`ProxySession`] alone is for tests on virtual time.

mod behaviour;
mod body;
mod catalogue;
mod certificate;
mod challenger;
mod connection;
mod counters;
mod event_loop;
mod hello_origin;
mod kdc;
mod kerberos;
mod origin;
mod pattern;
mod personality;
mod proxy_session;
mod request;
mod response;
mod server;
mod setup;
mod spnego;
mod tunnel;

pub use certificate::StubCertificate;
pub use counters::{Counter, Counters, Counts};
pub use hello_origin::HELLO_PAGE;
pub use kdc::{KdcCounts, KdcOptions, StubKdc};
pub use kerberos::StubKerberos;
pub use origin::{GREETING, Origin, Reaction, sink_line};
pub use pattern::{Checksum, PATTERN_PERIOD_BYTES, fill_pattern, pattern_at, pattern_block, pattern_mismatch};
pub use personality::{Personality, UnknownPersonality};
pub use proxy_session::{ProxyContext, ProxySession, REQUEST_HEAD_LIMIT_BYTES};
pub use response::ProxyAction;
pub use server::{StubOptions, StubServer};
pub use setup::{ServerNames, Setup, StubAccount};
