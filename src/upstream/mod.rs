//! What is known of the upstreams beyond one connection: their names, their addresses, their health, whether they take our
//! identity.

mod checker;
mod guard;
mod health;
mod host_port;
mod member;
mod names;
mod resolver;
mod shortage;

pub use checker::Checker;
pub use guard::{
    Account, Accounts, Answer, Asking, Confirmation, Entry, Guard, GuardChange, GuardPolicy, GuardState, KnownGood,
    Permission, Refusal, Scout, Ticket,
};
pub use health::{Health, HealthChange};
pub use host_port::{HostPort, HostPortError};
pub use member::{Upstream, without_name};
pub use names::Names;
pub use resolver::{Resolution, Resolver};
pub use shortage::{Shortage, Waiting};
