//! What is known of the upstreams beyond one connection: their names, their addresses, their health, whether they take our
//! identity.

mod checker;
mod guard;
mod health;
mod host_port;
mod member;
mod names;
mod own;
mod resolver;
mod shortage;

pub use checker::{Checker, Question};
pub use guard::{
    Account, Accounts, Answer, Asking, Confirmation, Entry, Guard, GuardChange, GuardPolicy, GuardState, KnownGood,
    Permission, Refusal, Scout, Ticket,
};
pub use health::{CheckFailure, Health, HealthChange};
pub use host_port::{HostPort, HostPortError};
pub use member::{Upstream, without_name};
pub use names::{Asked, Asker, Names};
pub use own::OwnAddresses;
pub use resolver::{Resolution, Resolver};
pub use shortage::{Shortage, Waiting};
