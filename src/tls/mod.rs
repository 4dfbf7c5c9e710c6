//! TLS to upstreams: what a connection needs to know before it is made, and what is said when it fails.
//!
//! | file | subject |
//! |---|---|
//! | `settings` | what the configuration demands, ready for connections |
//! | `verifier` | which servers are trusted: chain, name and pin |
//! | `certificate` | what is read of a certificate besides: its algorithm, times and key |
//! | `bindings` | channel bindings, which tie a logon to the server's certificate |
//! | `faults` | rustls's errors in the operator's terms |
//! | `pem` | certificates and keys in files |
//!
//! Everything here is pure: bytes in, bytes out. `config` reads the files, `transport` makes the connections.

pub mod bindings;
pub mod certificate;
mod faults;
mod pem;
mod settings;
mod verifier;

pub use faults::{Circumstances, TlsFailure, TlsFault};
pub use pem::{PemError, certificates, private_key, readable_certificates};
pub use settings::{ClientCertificate, Roots, TlsOptions, TlsOptionsError, TlsSettings};
pub use verifier::Pin;
