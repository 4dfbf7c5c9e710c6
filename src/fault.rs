//! Named failures: the stage, the cause, and who is at fault.
//!
//! The response to the client, the log line and the metric labels are all derived from one [`Fault`] (invariant 9 in
//! `ARCHITECTURE.md`), so they cannot contradict each other.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::http::{FieldError, ResponseError};
use crate::tls::{TlsFailure, TlsFault};

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Culprit {
    /// The client.
    Downstream,
    /// The upstream proxy, or the network between gateway and upstream.
    Upstream,
    /// The gateway: its limits, its configuration or its machine.
    Gateway,
}

impl Culprit {
    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Culprit::Downstream => "downstream",
            Culprit::Upstream => "upstream",
            Culprit::Gateway => "gateway",
        }
    }
}

/// The stage at which a fault occurred, in the order in which a session passes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Reading the client's request head.
    ReadHead,
    /// Selecting and connecting to the upstream or the origin.
    Dial,
    /// Authenticating to the upstream.
    Authenticate,
    /// Sending the response to the client.
    Reply,
    /// Relaying bytes, or forwarding a plain HTTP exchange.
    Relay,
}

impl At {
    /// A failure here.
    pub fn fault(self, cause: Cause, detail: impl Into<Cow<'static, str>>) -> Fault {
        Fault { at: self, cause, detail: detail.into() }
    }

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            At::ReadHead => "read_head",
            At::Dial => "dial",
            At::Authenticate => "authenticate",
            At::Reply => "reply",
            At::Relay => "relay",
        }
    }
}

/// Declares the causes with their labels and culprits. What a client is told is its protocol's matter
/// ([`crate::client_protocol`]).
macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident $label:literal $culprit:ident;)*) => {
        /// Why something failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $name,)* }

        impl Cause {
            /// All causes, roughly in the order of the stages.
            pub const ALL: &'static [Cause] = &[$(Cause::$name,)*];

            /// The metric label.
            pub fn label(self) -> &'static str {
                match self { $(Cause::$name => $label,)* }
            }

            /// Who is at fault.
            pub fn culprit(self) -> Culprit {
                match self { $(Cause::$name => Culprit::$culprit,)* }
            }
        }
    };
}

causes! {
    /// The request violates the syntax of RFC 9112.
    RequestMalformed "request_malformed" Downstream;
    /// The request head exceeds the size limit.
    RequestHeadTooLarge "request_head_too_large" Downstream;
    /// The request head has too many field lines.
    RequestFields "request_fields" Downstream;
    /// The HTTP version is neither 1.0 nor 1.1.
    RequestVersion "request_version" Downstream;
    /// The gateway does not support the method or the form of the request.
    MethodNotSupported "method_not_supported" Downstream;
    /// A SOCKS5 request has an unknown type of address.
    AddressTypeNotSupported "address_type_not_supported" Downstream;
    /// The request has an Expect field that the gateway does not support.
    ExpectationFailed "expectation_failed" Downstream;
    /// The request has already passed through this gateway.
    ForwardLoop "forward_loop" Downstream;
    /// The client sends the request body, or reads the response, too slowly.
    BodyTimeout "body_timeout" Downstream;
    /// The client did not complete the request head in time.
    HeadTimeout "head_timeout" Downstream;
    /// The client's address is not allowed.
    ClientNotAllowed "client_not_allowed" Downstream;
    /// The routes deny the destination.
    DestinationDenied "destination_denied" Downstream;
    /// The source of routes gave no answer, or none in time.
    RouteUnavailable "route_unavailable" Gateway;
    /// The client must log in and sent no valid login.
    LoginRequired "login_required" Downstream;
    /// The client's address sent too many invalid logins, so this one was not checked.
    LoginThrottled "login_throttled" Downstream;
    /// The client connected to a listening address that a reload has removed from its identity.
    ListenerWithdrawn "listener_withdrawn" Gateway;
    /// No identity is configured for the client.
    NoIdentity "no_identity" Gateway;
    /// The client has reached its limit of open tunnels, or opens them too fast.
    ClientLimit "client_limit" Downstream;
    /// The limit of open tunnels has been reached.
    TunnelLimit "tunnel_limit" Gateway;
    /// The request head was incomplete when other connections needed the place.
    GaveWay "gave_way" Gateway;
    /// Requests and responses in progress have reached the memory limit.
    MemoryLimit "memory_limit" Gateway;
    /// The process has no descriptor, port or memory left for another connection.
    ResourcesExhausted "resources_exhausted" Gateway;
    /// All suitable upstreams have been ejected.
    UpstreamsDown "upstreams_down" Upstream;
    /// The name of the upstream or origin cannot be resolved.
    ResolveFailed "resolve_failed" Upstream;
    /// The name of the upstream or origin was not resolved in time.
    ResolveTimeout "resolve_timeout" Upstream;
    /// The upstream refused the TCP connection.
    ConnectRefused "connect_refused" Upstream;
    /// The upstream's address cannot be reached.
    ConnectUnreachable "connect_unreachable" Upstream;
    /// The TCP connection was not established in time.
    ConnectTimeout "connect_timeout" Upstream;
    /// The upstream's certificate is for another name.
    TlsNameMismatch "tls_name_mismatch" Upstream;
    /// The upstream's certificate is not issued by a CA that is trusted.
    TlsUnknownIssuer "tls_unknown_issuer" Upstream;
    /// The upstream's certificate has expired.
    TlsCertificateExpired "tls_certificate_expired" Upstream;
    /// The key of the upstream's certificate is not pinned.
    TlsPinMismatch "tls_pin_mismatch" Upstream;
    /// The upstream's certificate cannot be used for another reason.
    TlsCertificateInvalid "tls_certificate_invalid" Upstream;
    /// The upstream supports no version or cipher suite of TLS that the gateway supports.
    TlsNoCommonVersion "tls_no_common_version" Upstream;
    /// The upstream is to be reached with TLS and answers with something else.
    TlsNotSpoken "tls_not_spoken" Upstream;
    /// The upstream is to be reached without TLS and answers with a TLS record.
    TlsExpected "tls_expected" Upstream;
    /// The upstream requires a client certificate, or rejects the gateway's.
    TlsClientCertificate "tls_client_certificate" Gateway;
    /// TLS to the upstream failed in another way.
    TlsFailed "tls_failed" Upstream;
    /// The upstream closed the connection before its response was complete.
    UpstreamClosed "upstream_closed" Upstream;
    /// The upstream reset the connection, or a write to it failed.
    UpstreamReset "upstream_reset" Upstream;
    /// The upstream's response violates the syntax of RFC 9112.
    ResponseMalformed "response_malformed" Upstream;
    /// The upstream's response head exceeds the size limit.
    ResponseHeadTooLarge "response_head_too_large" Upstream;
    /// The upstream's response head has too many field lines.
    ResponseFields "response_fields" Upstream;
    /// The upstream's interim responses together exceed the size limit of a head.
    InterimTooLarge "interim_too_large" Upstream;
    /// The body of a 407 response is too large to be discarded.
    ResponseBodyTooLarge "response_body_too_large" Upstream;
    /// The upstream sent no challenge in time, although it needs no origin for that.
    ChallengeTimeout "challenge_timeout" Upstream;
    /// The upstream did not respond in time.
    HandshakeTimeout "handshake_timeout" Upstream;
    /// The upstream did not begin or continue its response to a plain HTTP request in time.
    ResponseTimeout "response_timeout" Upstream;
    /// The upstream requested authentication again during a request that cannot be retried.
    Reauthentication "reauthentication" Upstream;
    /// The upstream requests authentication, but offers no supported scheme.
    SchemeNotOffered "scheme_not_offered" Upstream;
    /// The upstream used NTLM before and now offers only Basic, which is allowed only for upstreams that never offered
    /// anything better.
    SchemeDowngraded "scheme_downgraded" Upstream;
    /// The upstream requests authentication with 401, like an origin, so it is configured as a transparent proxy.
    TransparentProxy "transparent_proxy" Upstream;
    /// The CHALLENGE_MESSAGE is malformed or cannot be answered.
    ChallengeMalformed "challenge_malformed" Upstream;
    /// The upstream repeatedly closes the connection during the handshake, or never completes it.
    HandshakeBroken "handshake_broken" Upstream;
    /// The upstream rejected the credentials.
    CredentialsRefused "credentials_refused" Gateway;
    /// There is no Kerberos ticket for the upstream: the KDC grants none, or none was got in time.
    TicketUnavailable "ticket_unavailable" Gateway;
    /// There is no Kerberos ticket for the upstream, because no KDC answers.
    KdcUnreachable "kdc_unreachable" Gateway;
    /// The upstream has sent a token that does not authenticate it.
    MutualAuthFailed "mutual_auth_failed" Upstream;
    /// No credentials were sent, because the credential guard is closed.
    CredentialsHeld "credentials_held" Gateway;
    /// A reload withdrew the credentials while the request was in progress and provides no others for it.
    CredentialsWithdrawn "credentials_withdrawn" Gateway;
    /// No credentials were sent, because the upstream rejects them for this destination but accepts them for others.
    DestinationHeld "destination_held" Upstream;
    /// The credential guard made this request wait for another handshake, which took too long.
    GuardTimeout "guard_timeout" Gateway;
    /// The secret is not known to be accepted, and the store in which a logon is reserved could not be reached in time.
    GuardStoreUnavailable "guard_store_unavailable" Gateway;
    /// The client closed or reset its connection.
    ClientGone "client_gone" Downstream;
    /// No bytes were transferred for too long.
    IdleTimeout "idle_timeout" Gateway;
    /// One direction had ended, and the other did not end in time.
    HalfClosedTimeout "half_closed_timeout" Gateway;
    /// The gateway is shutting down.
    Drained "drained" Gateway;
}

/// What an upstream does that ends the connection before TLS is established.
const TLS_CLOSED: &str = "the upstream closed the connection during the TLS handshake; if the port speaks plain HTTP, \
                          remove https:// from its address";

/// The detail of [`Cause::TlsExpected`].
pub const TLS_EXPECTED: &str = "the upstream expects TLS on this port; write https:// in front of its address, or use the \
                                port on which it speaks plain HTTP";

/// One named failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The stage.
    pub at: At,
    /// The cause.
    pub cause: Cause,
    /// Details for people. Must not contain secrets, or bytes from a peer unless they were made printable.
    pub detail: Cow<'static, str>,
}

impl Fault {
    /// Creates a fault.
    pub fn new(at: At, cause: Cause, detail: impl Into<Cow<'static, str>>) -> Fault {
        Fault { at, cause, detail: detail.into() }
    }

    /// The fault for an I/O error on a client's connection.
    pub fn downstream_io(at: At, error: &io::Error) -> Fault {
        Fault::new(at, Cause::ClientGone, format!("the client's connection failed: {error}"))
    }

    /// The fault for an I/O error on an established upstream connection.
    pub fn upstream_io(at: At, error: &io::Error) -> Fault {
        if let Some(TlsFailure { fault, detail }) = TlsFailure::of_io(error) {
            return Fault::new(at, cause_of(fault), detail);
        }
        Fault::new(at, Cause::UpstreamReset, format!("the connection to the upstream failed: {error}"))
    }

    /// Whether an I/O error is a failure of TLS, which another connection would meet again.
    pub fn is_of_tls(error: &io::Error) -> bool {
        TlsFailure::of_io(error).is_some()
    }

    /// The fault for an invalid response head.
    pub fn malformed_response(at: At, error: &ResponseError) -> Fault {
        let cause = match error {
            ResponseError::Field(FieldError::TooManyFields { .. }) => Cause::ResponseFields,
            _ => Cause::ResponseMalformed,
        };
        Fault::new(at, cause, format!("the upstream's response is malformed: {error}"))
    }

    /// The fault for a failed attempt to connect to `address`.
    pub fn dial_io(address: SocketAddr, error: &io::Error) -> Fault {
        if let Some(TlsFailure { fault, detail }) = TlsFailure::of_io(error) {
            return Fault::new(At::Dial, cause_of(fault), format!("{address}: {detail}"));
        }
        let cause = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Cause::ConnectRefused,
            io::ErrorKind::TimedOut => Cause::ConnectTimeout,
            // Only TLS reads anything while it connects.
            io::ErrorKind::UnexpectedEof => {
                let detail = format!("{address}: {TLS_CLOSED}");
                return Fault::new(At::Dial, Cause::TlsFailed, detail);
            }
            _ if is_exhaustion(error) => Cause::ResourcesExhausted,
            _ => Cause::ConnectUnreachable,
        };
        Fault::new(At::Dial, cause, format!("{address}: {error}"))
    }
}

fn cause_of(fault: TlsFault) -> Cause {
    match fault {
        TlsFault::NameMismatch => Cause::TlsNameMismatch,
        TlsFault::UnknownIssuer => Cause::TlsUnknownIssuer,
        TlsFault::Expired => Cause::TlsCertificateExpired,
        TlsFault::PinMismatch => Cause::TlsPinMismatch,
        TlsFault::InvalidCertificate => Cause::TlsCertificateInvalid,
        TlsFault::NoCommonVersion => Cause::TlsNoCommonVersion,
        TlsFault::NotTls => Cause::TlsNotSpoken,
        TlsFault::ClientCertificate => Cause::TlsClientCertificate,
        TlsFault::Failed => Cause::TlsFailed,
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at {}: {}", self.cause.label(), self.at.label(), self.detail)
    }
}

/// Whether an error means that the process or the system has run out of descriptors, ports or memory.
pub fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_tls_keeps_its_kind_and_its_text_at_every_stage() {
        let failure = TlsFailure { fault: TlsFault::PinMismatch, detail: "another key".into() };
        let error = io::Error::other(failure);
        let address: SocketAddr = "192.0.2.1:8443".parse().unwrap();
        let dialled = Fault::dial_io(address, &error);
        assert_eq!((dialled.at, dialled.cause), (At::Dial, Cause::TlsPinMismatch));
        assert_eq!(dialled.detail, "192.0.2.1:8443: another key");
        let later = Fault::upstream_io(At::Authenticate, &error);
        assert_eq!((later.cause, &*later.detail), (Cause::TlsPinMismatch, "another key"));
        assert_eq!(Fault::dial_io(address, &io::Error::other("?")).cause, Cause::ConnectUnreachable);
        let closed = Fault::dial_io(address, &io::ErrorKind::UnexpectedEof.into());
        assert_eq!(closed.cause, Cause::TlsFailed);
        assert!(closed.detail.contains("remove https://"), "{closed}");
    }

    #[test]
    fn labels_are_unique() {
        let mut labels = std::collections::HashSet::new();
        for cause in Cause::ALL {
            assert!(labels.insert(cause.label()), "{} twice", cause.label());
        }
    }
}
