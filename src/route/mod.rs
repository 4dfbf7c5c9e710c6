//! Decides where a request goes: through a group of upstreams, directly to its origin, or nowhere.
//!
//! Pure: the input is the destination as the client wrote it and the rules from the configuration. Names are not
//! resolved, so networks match only destinations that are IP addresses.
//!
//! | file | subject |
//! |---|---|
//! | `pattern` | patterns for hosts and ports, and entries of NO_PROXY |
//! | `rules` | the ordered rules, and the decision |
//! | `plan` | the answer of a route source: ordered candidates |
//! | `metadata` | addresses of metadata services, which are denied unless a rule names them |

mod metadata;
mod pattern;
mod plan;
mod rules;

pub use metadata::metadata_network;
pub use pattern::{HostPattern, NoProxyEntry, PatternError, PortRange};
pub use plan::{Candidate, Plan};
pub use rules::{Decision, Rule, Rules};
