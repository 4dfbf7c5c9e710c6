//! What carries bytes to a client, an upstream or an origin.
//!
//! A [`Transport`] makes connections. An [`Endpoint`] is one connection together with what is known of its readiness; a
//! [`BlockingStream`] is one for a thread that may wait. Nothing outside of this folder distinguishes transports. It
//! asks:
//!
//! | question | TCP | a transport that encrypts |
//! |---|---|---|
//! | [`Stream::can_splice`]: may a pipe carry its bytes? | yes | only if the kernel has the keys |
//! | [`Stream::prepare_splice`]: may one carry them from now on? | yes | if the kernel takes the keys |
//! | [`Stream::has_buffered`]: can a read succeed without an edge? | no | after one that left decrypted bytes |
//! | [`Stream::channel_bindings`]: what ties a logon to it? | nothing | a hash of the server's certificate |
//! | [`Endpoint::connect_outcome`]: is it connected? | once accepted | once its handshake is complete, too |
//! | [`Endpoint::has_input`]: has the peer sent anything? | if readable | if it is more than its own messages |
//! | [`Stream::held_bytes`]: how large are its buffers? | there are none | as large as what is in them |
//!
//! To add a transport: a file beside `tcp`, an arm in [`Transport`] and [`Stream`], and whatever the configuration
//! needs to select it. The contract of an arm is at [`Stream`]. `framed`, a transport for tests, shows all of it.
//!
//! | file | subject |
//! |---|---|
//! | `stream` | a connection: one arm for each transport |
//! | `tcp` | socket options, and what is asked of a TCP socket |
//! | `tls` | TLS over TCP |
//! | `endpoint` | a connection with its readiness |
//! | `readiness` | what edge-triggered events have reported |
//! | `connect` | how connections are made |
//! | `blocking` | a connection for a thread that may wait |
//! | `listener` | a listening socket |
//! | `pipe` | the kernel's pipes, for splicing |

mod blocking;
mod connect;
mod endpoint;
#[cfg(test)]
mod framed;
mod listener;
mod pipe;
mod readiness;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;

pub use blocking::BlockingStream;
pub use connect::{SocketOptions, Transport};
pub use endpoint::Endpoint;
pub use listener::Listener;
pub use pipe::Pipe;
pub use readiness::{Readiness, Signs};
pub use stream::Stream;
pub use tcp::{KeepAlive, accept_foreign_addresses, bound_buffers, keep_alive};
#[cfg(test)]
pub(crate) use tls::testing;
