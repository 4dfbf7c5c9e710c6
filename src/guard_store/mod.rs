//! The store behind the credential guard: one budget of failed logons for all processes that use an account, which
//! survives their ends.
//!
//! ```text
//!   Account ── Order ──▶ Worker ── Document ──▶ Cell    a thread of its own; shards never wait
//!      ▲                   │                     │
//!      └─ granted, denied, learn ◀── Kept ───────┘      read, replaced if unchanged, watched
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `record` | the rules: what is known of an account, and how attempts are reserved and settled |
//! | `document` | the records of all accounts as one text, and its hashes |
//! | `desk` | the orders of this process: which are open, and what to answer |
//! | `worker` | the thread that carries orders out |
//! | `direct` | one change by a caller that blocks, such as a command |
//! | `cell` | what a store has to be able to do |
//! | `file` | a store in a directory of this machine |
//! | `kubernetes` | a store in a Lease that the replicas of a deployment share |
//!
//! Every logon attempt of a secret that is not accepted is reserved in the document before it is sent. The document is
//! replaced only if nobody else has replaced it since it was read, so no two processes can take the last attempt of a
//! budget. A reservation that is never settled counts as a failed logon.

pub mod cell;
mod desk;
mod direct;
mod document;
mod file;
pub mod kubernetes;
mod record;
#[cfg(test)]
mod tests;
mod worker;

pub use cell::{Cell, Kept, Reason, Replaced, StoreFault, Version, Watch};
pub use direct::{AccountName, DirectStore, Snapshot};
pub use document::{Document, DocumentError, account_hash, fingerprint, place};
pub use file::FileCell;
pub use record::{Actor, Counted, Known, Place, PlaceStatus, Purpose, Record, Reserved, Shares};
pub use worker::{Observer, StoreThread};
