//! What is known of the upstream beyond one connection: its name, its addresses, whether it takes our identity.

mod guard;
mod host_port;
mod resolver;

pub use guard::{Guard, GuardPolicy, GuardState, Permission, Ticket};
pub use host_port::{HostPort, HostPortError};
pub use resolver::{Resolution, Resolver};
