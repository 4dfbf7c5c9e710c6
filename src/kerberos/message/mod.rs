//! The messages of Kerberos (RFC 4120 §5), each in the directions that a client, a service and a KDC need.
//!
//! | file | subject |
//! |---|---|
//! | `encrypted` | EncryptedData, EncryptionKey, Ticket |
//! | `kdc_request` | AS-REQ and TGS-REQ |
//! | `received_request` | the same, as a KDC reads them |
//! | `kdc_reply` | AS-REP and TGS-REP |
//! | `ticket_part` | what is encrypted in a ticket |
//! | `pa_data` | pre-authentication: ETYPE-INFO2, encrypted time stamps |
//! | `krb_error` | KRB-ERROR |
//! | `authenticator` | AP-REQ, AP-REP |

pub(super) mod authenticator;
mod encrypted;
pub(super) mod kdc_reply;
pub(super) mod kdc_request;
mod krb_error;
pub(super) mod pa_data;
pub(super) mod received_request;
pub(super) mod ticket_part;

pub(super) use encrypted::{EncryptedData, read_key, write_encrypted, write_encrypted_with, write_key};
pub use encrypted::{Ticket, TicketSummary};
pub(super) use krb_error::ErrorReply;
pub use krb_error::{ErrorCode, KrbError};
