//! What HTTP calls each cause.

use crate::fault::Cause;
use crate::http::ErrorType;

/// The status that a client gets; `None` where no client is left that could be told.
pub fn status(cause: Cause) -> Option<u16> {
    let (status, _) = in_http(cause);
    (status != UNTOLD).then_some(status)
}

/// The error type of RFC 9209 §2.3 that comes nearest.
pub fn error_type(cause: Cause) -> ErrorType {
    let (_, error_type) = in_http(cause);
    error_type
}

/// In place of a status: there is nobody to tell.
const UNTOLD: u16 = 0;

fn in_http(cause: Cause) -> (u16, ErrorType) {
    match cause {
        Cause::RequestMalformed => (400, ErrorType::HttpRequestError),
        Cause::RequestHeadTooLarge => (431, ErrorType::HttpRequestError),
        Cause::RequestFields => (431, ErrorType::HttpRequestError),
        Cause::RequestVersion => (505, ErrorType::HttpRequestError),
        Cause::MethodNotSupported => (501, ErrorType::HttpRequestError),
        Cause::AddressTypeNotSupported => (501, ErrorType::HttpRequestError),
        Cause::ExpectationFailed => (417, ErrorType::HttpRequestError),
        Cause::ForwardLoop => (508, ErrorType::ProxyLoopDetected),
        Cause::BodyTimeout => (408, ErrorType::HttpRequestError),
        Cause::HeadTimeout => (408, ErrorType::HttpRequestError),
        Cause::ClientNotAllowed => (403, ErrorType::HttpRequestDenied),
        Cause::DestinationDenied => (403, ErrorType::HttpRequestDenied),
        Cause::RouteUnavailable => (503, ErrorType::ProxyInternalError),
        Cause::LoginRequired => (407, ErrorType::HttpRequestDenied),
        Cause::LoginThrottled => (429, ErrorType::HttpRequestDenied),
        Cause::ListenerWithdrawn => (403, ErrorType::HttpRequestDenied),
        Cause::NoIdentity => (403, ErrorType::HttpRequestDenied),
        Cause::ClientLimit => (429, ErrorType::ConnectionLimitReached),
        Cause::TunnelLimit => (503, ErrorType::ConnectionLimitReached),
        Cause::GaveWay => (503, ErrorType::ConnectionLimitReached),
        Cause::MemoryLimit => (503, ErrorType::ConnectionLimitReached),
        Cause::ResourcesExhausted => (503, ErrorType::ProxyInternalError),
        Cause::UpstreamsDown => (502, ErrorType::DestinationUnavailable),
        Cause::ResolveFailed => (502, ErrorType::DnsError),
        Cause::ResolveTimeout => (504, ErrorType::DnsTimeout),
        Cause::ConnectRefused => (502, ErrorType::ConnectionRefused),
        Cause::ConnectUnreachable => (502, ErrorType::DestinationIpUnroutable),
        Cause::ConnectTimeout => (504, ErrorType::ConnectionTimeout),
        Cause::TlsNameMismatch => (502, ErrorType::TlsCertificateError),
        Cause::TlsUnknownIssuer => (502, ErrorType::TlsCertificateError),
        Cause::TlsCertificateExpired => (502, ErrorType::TlsCertificateError),
        Cause::TlsPinMismatch => (502, ErrorType::TlsCertificateError),
        Cause::TlsCertificateInvalid => (502, ErrorType::TlsCertificateError),
        Cause::TlsNoCommonVersion => (502, ErrorType::TlsProtocolError),
        Cause::TlsNotSpoken => (502, ErrorType::TlsProtocolError),
        Cause::TlsExpected => (502, ErrorType::ProxyConfigurationError),
        Cause::TlsClientCertificate => (502, ErrorType::ProxyConfigurationError),
        Cause::TlsFailed => (502, ErrorType::TlsProtocolError),
        Cause::UpstreamClosed => (502, ErrorType::ConnectionTerminated),
        Cause::UpstreamReset => (502, ErrorType::ConnectionTerminated),
        Cause::ResponseMalformed => (502, ErrorType::HttpProtocolError),
        Cause::ResponseHeadTooLarge => (502, ErrorType::HttpResponseHeaderSectionSize),
        Cause::ResponseFields => (502, ErrorType::HttpResponseHeaderSectionSize),
        Cause::InterimTooLarge => (502, ErrorType::HttpResponseHeaderSectionSize),
        Cause::ResponseBodyTooLarge => (502, ErrorType::HttpResponseBodySize),
        Cause::ChallengeTimeout => (504, ErrorType::HttpResponseTimeout),
        Cause::HandshakeTimeout => (504, ErrorType::HttpResponseTimeout),
        Cause::ResponseTimeout => (504, ErrorType::HttpResponseTimeout),
        Cause::Reauthentication => (502, ErrorType::HttpProtocolError),
        Cause::SchemeNotOffered => (502, ErrorType::ProxyConfigurationError),
        Cause::SchemeDowngraded => (502, ErrorType::ProxyConfigurationError),
        Cause::TransparentProxy => (502, ErrorType::HttpProtocolError),
        Cause::ChallengeMalformed => (502, ErrorType::HttpProtocolError),
        Cause::HandshakeBroken => (502, ErrorType::HttpProtocolError),
        Cause::CredentialsRefused => (502, ErrorType::ProxyConfigurationError),
        Cause::TicketUnavailable => (502, ErrorType::ProxyConfigurationError),
        Cause::KdcUnreachable => (503, ErrorType::ProxyInternalError),
        Cause::MutualAuthFailed => (502, ErrorType::HttpProtocolError),
        Cause::CredentialsHeld => (502, ErrorType::ProxyConfigurationError),
        Cause::CredentialsWithdrawn => (503, ErrorType::ProxyInternalError),
        Cause::DestinationHeld => (502, ErrorType::ProxyConfigurationError),
        Cause::GuardStoreUnavailable => (503, ErrorType::ProxyInternalError),
        Cause::GuardTimeout => (504, ErrorType::HttpResponseTimeout),
        Cause::ClientGone => (UNTOLD, ErrorType::ConnectionTerminated),
        Cause::IdleTimeout => (UNTOLD, ErrorType::ConnectionReadTimeout),
        Cause::HalfClosedTimeout => (UNTOLD, ErrorType::ConnectionReadTimeout),
        Cause::Drained => (UNTOLD, ErrorType::ConnectionTerminated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_login_to_the_gateway_is_answered_with_407() {
        for cause in Cause::ALL {
            let for_login = *cause == Cause::LoginRequired;
            assert_eq!(status(*cause) == Some(407), for_login, "{}: the client knows nothing of NTLM", cause.label());
            assert!(status(*cause).is_none_or(|status| (400..600).contains(&status)));
        }
    }
}
