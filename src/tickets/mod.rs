//! Kerberos tickets: the threads that get them from KDCs before they are needed and renew them in time.
//!
//! The exchanges themselves are in [`crate::kerberos`], which knows no sockets. What is here blocks, so it never runs
//! on a shard: shards read the tickets from a [`TicketSlot`](crate::auth::TicketSlot).
//!
//! | file | subject |
//! |---|---|
//! | `ask` | delivers a request to a KDC, by UDP or TCP |
//! | `lookup` | the addresses of KDCs |
//! | `deadline` | reads from a TCP connection within a deadline |
//! | `dns` | what the system's resolver cannot look up: SRV records and canonical names |
//! | `realms` | where the KDCs of a realm are |
//! | `service` | a service that tickets are wanted for, under which name |
//! | `exchange` | runs an exchange to its end |
//! | `agent` | the thread that keeps the tickets of one identity |

mod agent;
mod ask;
mod deadline;
mod dns;
mod exchange;
mod lookup;
mod realms;
mod service;

#[cfg(test)]
mod tests;

pub use agent::{Agent, AgentLine, AgentOptions, AgentWatch, NewAgent, new_agent, ticket_fault};
pub use ask::{AskError, Reply};
pub use exchange::{LogonOutcome, TicketError, Watch, get_ticket, log_on, now};
pub use realms::{ConfFileError, Realms, read_krb5_conf};
pub use service::Service;
