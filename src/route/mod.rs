//! Where a request goes: through a group of upstreams, straight to its origin, or nowhere.
//!
//! Pure: a destination as the client named it, and rules from the configuration. No name is looked up here; networks match
//! addresses that are written out.
//!
//! | file | subject |
//! |---|---|
//! | `pattern` | what a rule may say of a host, a port, a network |
//! | `rules` | the ordered rules, and what they decide |
//! | `plan` | what a source of routes answers: ordered candidates |
//! | `metadata` | addresses of metadata services, which are denied unless a rule names them |

mod metadata;
mod pattern;
mod plan;
mod rules;

pub use metadata::metadata_network;
pub use pattern::{HostPattern, NoProxyEntry, PatternError, PortRange};
pub use plan::{Candidate, Plan};
pub use rules::{Decision, Rule, Rules};
