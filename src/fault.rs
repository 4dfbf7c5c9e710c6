//! Failures by name: which side, at which stage, for which cause.
//!
//! The client's status and `Proxy-Status` field, the log line and the metric's labels all come from the one [`Fault`]
//! (invariant 9 of `ARCHITECTURE.md`), so that they cannot contradict each other.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::http::{ErrorType, FieldError, ResponseError};

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Culprit {
    /// The client.
    Downstream,
    /// The parent proxy, or the way to it.
    Upstream,
    /// The gateway: its limits, its configuration, its machine.
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

/// The stage of a tunnel at which a fault happened, in the order of the way of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Reading the client's request head.
    ReadHead,
    /// Finding and dialling the upstream.
    Dial,
    /// The NTLM handshake.
    Authenticate,
    /// Answering the client.
    Reply,
    /// Moving bytes.
    Relay,
}

impl At {
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

/// Declares the causes with what the client and the operator get to see of each: label, status (0: nobody to tell), culprit, error type of RFC 9209.
macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident $label:literal $status:literal $culprit:ident $error:ident;)*) => {
        /// Why something failed; a closed set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $name,)* }

        impl Cause {
            /// All causes, in the order of the way of the data.
            pub const ALL: &'static [Cause] = &[$(Cause::$name,)*];

            /// The metric label.
            pub fn label(self) -> &'static str {
                match self { $(Cause::$name => $label,)* }
            }

            /// The status that the client gets where it can still be told.
            pub fn status(self) -> u16 {
                match self { $(Cause::$name => $status,)* }
            }

            /// Who is at fault.
            pub fn culprit(self) -> Culprit {
                match self { $(Cause::$name => Culprit::$culprit,)* }
            }

            /// The error type of RFC 9209 §2.3 that comes nearest.
            pub fn error_type(self) -> ErrorType {
                match self { $(Cause::$name => ErrorType::$error,)* }
            }
        }
    };
}

causes! {
    /// The request breaks the syntax of RFC 9112.
    RequestMalformed "request_malformed" 400 Downstream HttpRequestError;
    /// The request head is longer than the limit.
    RequestHeadTooLarge "request_head_too_large" 431 Downstream HttpRequestError;
    /// The request head has more field lines than the limit.
    RequestFields "request_fields" 431 Downstream HttpRequestError;
    /// HTTP of a version that is not 1.0 or 1.1.
    RequestVersion "request_version" 505 Downstream HttpRequestError;
    /// A request that is not for a proxy, or for a scheme that goes through a tunnel.
    MethodNotSupported "method_not_supported" 501 Downstream HttpRequestError;
    /// The client expects something that the gateway does not know.
    ExpectationFailed "expectation_failed" 417 Downstream HttpRequestError;
    /// The request has been through this gateway already.
    ForwardLoop "forward_loop" 508 Downstream ProxyLoopDetected;
    /// The client sends its body, or reads its answer, too slowly.
    BodyTimeout "body_timeout" 408 Downstream HttpRequestError;
    /// The client did not finish its head in time.
    HeadTimeout "head_timeout" 408 Downstream HttpRequestError;
    /// The client's address is not among those allowed.
    ClientNotAllowed "client_not_allowed" 403 Downstream HttpRequestDenied;
    /// The routes deny the destination.
    DestinationDenied "destination_denied" 403 Downstream HttpRequestDenied;
    /// The client showed no login, or one that nobody has, and needs one.
    LoginRequired "login_required" 407 Downstream HttpRequestDenied;
    /// The client's address showed too many wrong logins; this one was not looked at.
    LoginThrottled "login_throttled" 429 Downstream HttpRequestDenied;
    /// The client came in by a listening address that a reload took away from its identity.
    ListenerWithdrawn "listener_withdrawn" 403 Gateway HttpRequestDenied;
    /// No identity is configured for the client.
    NoIdentity "no_identity" 403 Gateway HttpRequestDenied;
    /// The client has as many tunnels open as one client may, or opens them too fast.
    ClientLimit "client_limit" 429 Downstream ConnectionLimitReached;
    /// As many tunnels are open as may be.
    TunnelLimit "tunnel_limit" 503 Gateway ConnectionLimitReached;
    /// The request's head had not come whole when others needed the place.
    GaveWay "gave_way" 503 Gateway ConnectionLimitReached;
    /// Requests and answers on their way hold as much memory as they may.
    MemoryLimit "memory_limit" 503 Gateway ConnectionLimitReached;
    /// The process has no descriptor or memory left for another connection.
    ResourcesExhausted "resources_exhausted" 503 Gateway ProxyInternalError;
    /// Every upstream that would do is ejected for its faults.
    UpstreamsDown "upstreams_down" 502 Upstream DestinationUnavailable;
    /// The upstream's name does not resolve.
    ResolveFailed "resolve_failed" 502 Upstream DnsError;
    /// The upstream's name was not resolved in time.
    ResolveTimeout "resolve_timeout" 504 Upstream DnsTimeout;
    /// The upstream refused the TCP connection.
    ConnectRefused "connect_refused" 502 Upstream ConnectionRefused;
    /// The upstream's address cannot be reached.
    ConnectUnreachable "connect_unreachable" 502 Upstream DestinationIpUnroutable;
    /// The TCP connection was not made in time.
    ConnectTimeout "connect_timeout" 504 Upstream ConnectionTimeout;
    /// The upstream closed the connection before its answer was complete.
    UpstreamClosed "upstream_closed" 502 Upstream ConnectionTerminated;
    /// The upstream reset the connection, or a write to it failed.
    UpstreamReset "upstream_reset" 502 Upstream ConnectionTerminated;
    /// The upstream's answer breaks the syntax of RFC 9112.
    ResponseMalformed "response_malformed" 502 Upstream HttpProtocolError;
    /// The upstream's head is longer than the limit.
    ResponseHeadTooLarge "response_head_too_large" 502 Upstream HttpResponseHeaderSectionSize;
    /// The upstream's head has more field lines than the limit.
    ResponseFields "response_fields" 502 Upstream HttpResponseHeaderSectionSize;
    /// The upstream's interim answers are together longer than a head may be.
    InterimTooLarge "interim_too_large" 502 Upstream HttpResponseHeaderSectionSize;
    /// The body of a 407 is longer than is read past.
    ResponseBodyTooLarge "response_body_too_large" 502 Upstream HttpResponseBodySize;
    /// The upstream did not answer a request that needs no origin: it sends no challenge.
    ChallengeTimeout "challenge_timeout" 504 Upstream HttpResponseTimeout;
    /// The upstream did not answer in time.
    HandshakeTimeout "handshake_timeout" 504 Upstream HttpResponseTimeout;
    /// The upstream did not begin its answer to a plain HTTP request, or go on with it, in time.
    ResponseTimeout "response_timeout" 504 Upstream HttpResponseTimeout;
    /// The upstream asked for authentication anew in the middle of a request that cannot be repeated.
    Reauthentication "reauthentication" 502 Upstream HttpProtocolError;
    /// The upstream asks for authentication but not for NTLM.
    SchemeNotOffered "scheme_not_offered" 502 Upstream ProxyConfigurationError;
    /// The upstream spoke NTLM before and now offers only Basic, which is allowed for upstreams that never offered better.
    SchemeDowngraded "scheme_downgraded" 502 Upstream ProxyConfigurationError;
    /// The upstream asks with 401, as an origin would: it is set up as a transparent proxy.
    TransparentProxy "transparent_proxy" 502 Upstream HttpProtocolError;
    /// The CHALLENGE_MESSAGE is none, or cannot be answered.
    ChallengeMalformed "challenge_malformed" 502 Upstream HttpProtocolError;
    /// The upstream keeps closing the connection in the middle of the handshake, or never comes to an end with it.
    HandshakeBroken "handshake_broken" 502 Upstream HttpProtocolError;
    /// The upstream refused the AUTHENTICATE_MESSAGE.
    CredentialsRefused "credentials_refused" 502 Gateway ProxyConfigurationError;
    /// No AUTHENTICATE_MESSAGE was sent, because the credential guard is closed.
    CredentialsHeld "credentials_held" 502 Gateway ProxyConfigurationError;
    /// A reload took the credentials out of force while the request was under way, and has no others for it.
    CredentialsWithdrawn "credentials_withdrawn" 503 Gateway ProxyInternalError;
    /// No AUTHENTICATE_MESSAGE was sent, because the upstream refused the credentials for this destination and takes them for others.
    DestinationHeld "destination_held" 502 Upstream ProxyConfigurationError;
    /// The credential guard let another handshake go first, and that one took too long.
    GuardTimeout "guard_timeout" 504 Gateway HttpResponseTimeout;
    /// The client closed or reset its connection.
    ClientGone "client_gone" 0 Downstream ConnectionTerminated;
    /// Nothing moved for too long.
    IdleTimeout "idle_timeout" 0 Gateway ConnectionReadTimeout;
    /// One direction had ended and the other did not come to an end in time.
    HalfClosedTimeout "half_closed_timeout" 0 Gateway ConnectionReadTimeout;
    /// The gateway is shutting down.
    Drained "drained" 0 Gateway ConnectionTerminated;
}

/// One named failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where on the way of the data.
    pub at: At,
    /// Why.
    pub cause: Cause,
    /// What more there is to say, for a person. Never holds a secret, or bytes of a peer that were not made printable.
    pub detail: Cow<'static, str>,
}

impl Fault {
    /// Names a failure.
    pub fn new(at: At, cause: Cause, detail: impl Into<Cow<'static, str>>) -> Fault {
        Fault { at, cause, detail: detail.into() }
    }

    /// Names what the system said of a downstream connection.
    pub fn downstream_io(at: At, error: &io::Error) -> Fault {
        Fault::new(at, Cause::ClientGone, format!("the client's connection failed: {error}"))
    }

    /// Names what the system said of an upstream connection that stood.
    pub fn upstream_io(at: At, error: &io::Error) -> Fault {
        Fault::new(at, Cause::UpstreamReset, format!("the connection to the upstream failed: {error}"))
    }

    /// Names what is wrong with the head of an upstream's answer.
    pub fn malformed_response(at: At, error: &ResponseError) -> Fault {
        let cause = match error {
            ResponseError::Field(FieldError::TooManyFields { .. }) => Cause::ResponseFields,
            _ => Cause::ResponseMalformed,
        };
        Fault::new(at, cause, format!("the upstream's answer is malformed: {error}"))
    }

    /// Names what the system said of an attempt to connect to an upstream's address.
    pub fn dial_io(address: SocketAddr, error: &io::Error) -> Fault {
        let cause = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Cause::ConnectRefused,
            io::ErrorKind::TimedOut => Cause::ConnectTimeout,
            _ if is_exhaustion(error) => Cause::ResourcesExhausted,
            _ => Cause::ConnectUnreachable,
        };
        Fault::new(At::Dial, cause, format!("{address}: {error}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at {}: {}", self.cause.label(), self.at.label(), self.detail)
    }
}

/// Whether an error says that the process or the system has run out of descriptors, ports or memory.
pub fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_login_to_the_gateway_is_told_as_407_and_labels_are_unique() {
        let mut labels = std::collections::HashSet::new();
        for cause in Cause::ALL {
            let for_login = *cause == Cause::LoginRequired;
            assert_eq!(cause.status() == 407, for_login, "{}: the client knows nothing of NTLM", cause.label());
            assert!(cause.status() == 0 || (400..600).contains(&cause.status()));
            assert!(labels.insert(cause.label()), "{} twice", cause.label());
        }
    }
}
