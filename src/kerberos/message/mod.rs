//! The messages of Kerberos (RFC 4120 §5), each in the direction that a client needs, and what the tests' other side
//! needs.
//!
//! | file | subject |
//! |---|---|
//! | `encrypted` | EncryptedData, EncryptionKey, Ticket |
//! | `kdc_request` | AS-REQ and TGS-REQ |
//! | `kdc_reply` | AS-REP and TGS-REP |
//! | `pa_data` | pre-authentication: ETYPE-INFO2, encrypted time stamps |
//! | `krb_error` | KRB-ERROR |
//! | `authenticator` | AP-REQ, AP-REP |

pub(super) mod authenticator;
mod encrypted;
pub(super) mod kdc_reply;
pub(super) mod kdc_request;
mod krb_error;
pub(super) mod pa_data;

pub(super) use encrypted::{EncryptedData, read_key, write_encrypted, write_key};
pub use encrypted::{Ticket, TicketSummary};
pub use krb_error::{ErrorCode, KrbError};
