//! Kerberos 5 (RFC 4120) from the side of a client; a service and a KDC are there for the stub upstream and the tests.
//! Pure: bytes in, bytes out; time and random numbers are arguments.
//!
//! This module uses no socket, no clock and no random number generator, and knows nothing of HTTP or base64.
//!
//! ```text
//!   gateway                                     KDC                    upstream proxy
//!   AS-REQ, with a key from keytab or password ──►
//!                                    ◄── AS-REP: ticket-granting ticket
//!   TGS-REQ for HTTP/<proxy> ───────────────────►   (or a referral to another realm)
//!                                    ◄── TGS-REP: service ticket
//!   AP-REQ in a GSS-API token ────────────────────────────────────────────►
//!                                    ◄──────────────────────────── AP-REP
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `der` | ASN.1 DER, read within bounds and written |
//! | `time` | KerberosTime |
//! | `name` | names of clients and services |
//! | `crypto` | keys, encryption, checksums |
//! | `message` | the messages |
//! | `exchange` | AS and TGS exchanges, referrals, the order in which KDCs are asked |
//! | `gss` | the GSS-API tokens (RFC 4121) |
//! | `ticket` | a ticket as its owner uses it: the token for the service, the check of its answer |
//! | `acceptor`, `replay` | the side of a service |
//! | `kdc` | the side of a KDC |
//! | `keytab`, `krb5_conf` | files |
//! | `dns`, `srv`, `canonical` | DNS messages: SRV records and canonical names |
//! | `describe` | a token as readable text |

mod acceptor;
mod canonical;
mod crypto;
mod der;
mod describe;
mod dns;
mod error;
mod exchange;
mod gss;
mod kdc;
mod keytab;
mod krb5_conf;
mod message;
mod name;
mod replay;
mod srv;
mod ticket;
mod time;

#[cfg(test)]
pub(crate) mod tests;

pub use acceptor::{AcceptError, Accepted, accept, refusal};
pub use canonical::{canonical_query, read_canonical};
pub use crypto::{Confounder, Etype, EtypeSet, Key};
pub use describe::{DescribedMessage, describe, describe_message};
pub use dns::DnsError;
pub use error::{CryptoError, DecodeError};
pub use exchange::{
    ClientSecret, Delivery, DeliveryOptions, ExchangeError, ExchangeInputs, ExchangeOptions, InitialExchange, KdcPlace,
    KdcRequest, KeyVersion, RequestKind, ServiceExchange, Step, Try,
};
pub use gss::{TokenKind, read_token};
pub use kdc::{Kdc, KdcAnswer, KdcInputs, KdcOutcome, KdcPolicy};
pub use keytab::{Keytab, KeytabEntry, KeytabError};
pub use krb5_conf::{Include, KdcAddress, KdcTransport, Krb5Conf, Krb5ConfError};
pub use message::authenticator::ApReplyError;
pub use message::{ErrorCode, KrbError, Ticket, TicketSummary};
pub use name::{NameError, Principal, PrincipalName};
pub use replay::ReplayCache;
pub use srv::{SrvRecord, kdc_query, order, read_answer};
pub use ticket::{ApInputs, ClockSkew, Credential, ExpectedReply, ServiceReplyError, ServiceToken};
pub use time::Timestamp;
