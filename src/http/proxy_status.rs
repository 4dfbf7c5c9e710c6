//! The Proxy-Status field (RFC 9209), which tells the client what failed, and at which hop.

use std::fmt;

/// The name by which the gateway identifies itself, a Structured Fields token (RFC 8941 §3.3.4).
pub const PROXY_NAME: &str = "ntlm-gateway";

/// The longest text in a parameter, in bytes before escaping. Longer texts are truncated.
const TEXT_LIMIT_BYTES: usize = 512;

macro_rules! error_types {
    ($($(#[$doc:meta])* $name:ident => $token:literal, $status:literal;)+) => {
        /// The error types of RFC 9209 §2.3 that can occur in a proxy that forwards to another proxy.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorType {
            $($(#[$doc])* $name,)+
        }

        impl ErrorType {
            /// All types.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The registered name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $token,)+ }
            }

            /// The status that RFC 9209 recommends; 400 for [`ErrorType::HttpRequestError`], which allows any 4xx.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }
        }
    };
}

error_types! {
    /// The next hop's name could not be resolved in time (§2.3.1).
    DnsTimeout => "dns_timeout", 504;
    /// The next hop's name could not be resolved (§2.3.2).
    DnsError => "dns_error", 502;
    /// No next hop is known for the request (§2.3.3).
    DestinationNotFound => "destination_not_found", 500;
    /// All next hops are considered unavailable (§2.3.4).
    DestinationUnavailable => "destination_unavailable", 503;
    /// The destination's address is prohibited (§2.3.5).
    DestinationIpProhibited => "destination_ip_prohibited", 502;
    /// No route to the destination's address (§2.3.6).
    DestinationIpUnroutable => "destination_ip_unroutable", 502;
    /// The next hop refused the connection (§2.3.7).
    ConnectionRefused => "connection_refused", 502;
    /// The next hop closed the connection before it answered (§2.3.8).
    ConnectionTerminated => "connection_terminated", 502;
    /// The connection was not established in time (§2.3.9).
    ConnectionTimeout => "connection_timeout", 504;
    /// The next hop sent no data in time (§2.3.10).
    ConnectionReadTimeout => "connection_read_timeout", 504;
    /// The next hop accepted no data in time (§2.3.11).
    ConnectionWriteTimeout => "connection_write_timeout", 504;
    /// A connection limit has been reached (§2.3.12).
    ConnectionLimitReached => "connection_limit_reached", 503;
    /// TLS with the next hop failed (§2.3.13).
    TlsProtocolError => "tls_protocol_error", 502;
    /// The next hop's certificate could not be verified (§2.3.14).
    TlsCertificateError => "tls_certificate_error", 502;
    /// The request is invalid (§2.3.16).
    HttpRequestError => "http_request_error", 400;
    /// Policy forbids the request (§2.3.17).
    HttpRequestDenied => "http_request_denied", 403;
    /// The response is incomplete (§2.3.18).
    HttpResponseIncomplete => "http_response_incomplete", 502;
    /// The header section of the response is too large (§2.3.19).
    HttpResponseHeaderSectionSize => "http_response_header_section_size", 502;
    /// The body of the response is too large (§2.3.21).
    HttpResponseBodySize => "http_response_body_size", 502;
    /// The transfer coding of the response cannot be decoded (§2.3.24).
    HttpResponseTransferCoding => "http_response_transfer_coding", 502;
    /// The response was not received in time (§2.3.26).
    HttpResponseTimeout => "http_response_timeout", 504;
    /// The next hop violated HTTP (§2.3.28).
    HttpProtocolError => "http_protocol_error", 502;
    /// This proxy generated the response, and nothing failed (§2.3.29).
    ProxyInternalResponse => "proxy_internal_response", 200;
    /// This proxy failed (§2.3.30).
    ProxyInternalError => "proxy_internal_error", 500;
    /// The configuration of this proxy is wrong (§2.3.31).
    ProxyConfigurationError => "proxy_configuration_error", 500;
    /// The request has passed through this proxy before (§2.3.32).
    ProxyLoopDetected => "proxy_loop_detected", 502;
}

/// One member of a Proxy-Status field. `Display` writes it in the syntax of the field.
///
/// ```
/// use ntlm_gateway::http::{ErrorType, ProxyStatus};
/// let status = ProxyStatus {
///     next_hop: Some("proxy.example:8080"),
///     ..ProxyStatus::error(ErrorType::ConnectionRefused, "")
/// };
/// assert_eq!(
///     status.to_string(),
///     r#"ntlm-gateway; error=connection_refused; next-hop="proxy.example:8080""#
/// );
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyStatus<'a> {
    /// The proxy that generated the response, a Structured Fields token.
    pub name: &'static str,
    /// What failed, if anything.
    pub error: Option<ErrorType>,
    /// An explanation for people; omitted if empty. Characters other than printable ASCII are replaced by `?`, and the
    /// text is truncated to 512 characters.
    pub details: &'a str,
    /// The upstream proxy, `host:port`.
    pub next_hop: Option<&'a str>,
    /// The status that the upstream proxy sent.
    pub received_status: Option<u16>,
}

impl<'a> ProxyStatus<'a> {
    /// A failure that this gateway reports.
    pub fn error(error: ErrorType, details: &'a str) -> Self {
        Self { name: PROXY_NAME, error: Some(error), details, next_hop: None, received_status: None }
    }
}

/// Written as an Item with Parameters (RFC 8941 §4.1.3).
impl fmt::Display for ProxyStatus<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(error) = self.error {
            write!(f, "; error={}", error.as_str())?;
        }
        if let Some(next_hop) = self.next_hop {
            write!(f, "; next-hop={}", QuotedString(next_hop))?;
        }
        if let Some(status) = self.received_status {
            write!(f, "; received-status={status}")?;
        }
        if !self.details.is_empty() {
            write!(f, "; details={}", QuotedString(self.details))?;
        }
        Ok(())
    }
}

/// A Structured Fields String (RFC 8941 §4.1.6).
struct QuotedString<'a>(&'a str);

impl fmt::Display for QuotedString<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        f.write_char('"')?;
        for character in self.0.chars().take(TEXT_LIMIT_BYTES) {
            match character {
                '"' | '\\' => {
                    f.write_char('\\')?;
                    f.write_char(character)?;
                }
                ' '..='~' => f.write_char(character)?,
                _ => f.write_char('?')?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parameters_are_written() {
        let status = ProxyStatus {
            name: PROXY_NAME,
            error: Some(ErrorType::HttpProtocolError),
            details: "bad head",
            next_hop: Some("proxy:8080"),
            received_status: Some(407),
        };
        assert_eq!(
            status.to_string(),
            "ntlm-gateway; error=http_protocol_error; next-hop=\"proxy:8080\"; received-status=407; details=\"bad head\""
        );
    }

    #[test]
    fn absent_parameters_are_omitted() {
        let status = ProxyStatus { error: None, ..ProxyStatus::error(ErrorType::DnsError, "") };
        assert_eq!(status.to_string(), "ntlm-gateway");
        assert_eq!(ProxyStatus::error(ErrorType::DnsError, "").to_string(), "ntlm-gateway; error=dns_error");
    }

    #[test]
    fn texts_are_escaped_and_truncated() {
        let status = ProxyStatus::error(ErrorType::DnsError, "a \"b\" \\ \u{e4}\r\nX: y");
        assert_eq!(status.to_string(), r#"ntlm-gateway; error=dns_error; details="a \"b\" \\ ???X: y""#);
        let long = "a".repeat(10_000);
        let length = ProxyStatus::error(ErrorType::DnsError, &long).to_string().len();
        assert!(length < 600, "{length}");
    }

    #[test]
    fn every_type_has_a_token_and_a_status() {
        for error in ErrorType::ALL {
            let token = error.as_str();
            assert!(token.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            assert!(matches!(error.status(), 200 | 400 | 403 | 500..=504), "{token}");
        }
    }
}
