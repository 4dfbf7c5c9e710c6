//! Decides where a request goes: through a group of upstreams, directly to its origin, or nowhere.
//!
//! The input is the destination as the client wrote it. The rules from the configuration resolve no names, so their
//! networks match only destinations that are IP addresses.
//!
//! | file | subject |
//! |---|---|
//! | `pattern` | patterns for hosts and ports, and entries of NO_PROXY |
//! | `rules` | the ordered rules, and the decision |
//! | `source` | what a source of routes is asked, and how it answers |
//! | `plan` | its answer: ordered candidates |
//! | `metadata` | addresses of metadata services, which are denied unless a rule names them |

mod metadata;
mod pattern;
mod plan;
mod rules;
mod source;

pub use pattern::{HostPattern, NoProxyEntry, PatternError, PortRange};
pub use plan::{Candidate, Plan};
pub use rules::{Decision, Rule, Rules};
pub use source::{RouteAnswer, RouteQuestion, RouteReply, RouteSource, RouteTicket};
