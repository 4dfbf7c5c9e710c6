//! What went wrong in TLS, and what to do about it: rustls's errors in the operator's terms.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible};

/// The longest list of names from a certificate that is shown.
const SHOWN_NAMES: usize = 5;
/// The longest text of a peer that is shown, in characters.
const SHOWN_CHARACTERS: usize = 200;

/// The kinds of failure that call for different remedies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The certificate is for another name.
    NameMismatch,
    /// The certificate is not issued by a CA that is trusted.
    UnknownIssuer,
    /// The certificate has expired.
    Expired,
    /// The certificate's key is not one of those that are pinned.
    PinMismatch,
    /// The certificate cannot be used for another reason.
    InvalidCertificate,
    /// There is no version or cipher suite that both sides support.
    NoCommonVersion,
    /// What the peer sends is not TLS.
    NotTls,
    /// The peer requires a client certificate, or rejects the one that it got.
    ClientCertificate,
    /// Anything else.
    Failed,
}

/// A failure of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFailure {
    /// The kind.
    pub fault: TlsFault,
    /// What happened and what to do, for people. Contains nothing unprintable.
    pub detail: String,
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.detail)
    }
}

impl StdError for TlsFailure {}

/// The key of the peer's certificate is not pinned. Carried through rustls by [`CertificateError::Other`].
#[derive(Debug)]
pub(super) struct PinMismatch {
    /// The pin of the key that the peer has.
    pub presented: String,
}

impl fmt::Display for PinMismatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the certificate's key is {}", self.presented)
    }
}

impl StdError for PinMismatch {}

/// What is known of the connection besides the error.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// Servers of this upstream have asked for a client certificate.
    pub is_asked_for_certificate: bool,
    /// One is configured.
    pub has_certificate: bool,
    /// The handshake is complete, in TLS 1.2: what comes now is not about its outcome.
    pub may_renegotiate: bool,
}

impl TlsFailure {
    /// The failure that an I/O error carries, if it is one of TLS.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Option<TlsFailure> {
        let inner = error.get_ref()?;
        let of_rustls = || inner.downcast_ref().map(|error| TlsFailure::of(error, Circumstances::default()));
        inner.downcast_ref::<TlsFailure>().cloned().or_else(of_rustls)
    }

    /// Classifies an error of rustls.
    #[must_use]
    pub fn of(error: &Error, circumstances: Circumstances) -> TlsFailure {
        let (fault, detail) = match error {
            Error::InvalidCertificate(error) => of_certificate(error),
            Error::AlertReceived(alert) => of_alert(*alert, circumstances),
            Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
                (TlsFault::NoCommonVersion, format!("the proxy speaks neither TLS 1.3 nor 1.2; {UPDATE_PROXY}"))
            }
            Error::PeerIncompatible(why) => (
                TlsFault::NoCommonVersion,
                format!("the proxy has no version or cipher suite in common with the gateway ({why:?}); {UPDATE_PROXY}"),
            ),
            Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => (
                TlsFault::NotTls,
                "the answer is not TLS: the port probably speaks plain HTTP; write http:// (or just HOST:PORT) in front \
                 of the upstream's address, or use the port on which the proxy speaks TLS"
                    .to_owned(),
            ),
            Error::NoApplicationProtocol => (
                TlsFault::NoCommonVersion,
                "the server does not speak HTTP/1.1 on this port (ALPN); use the proxy's own port".to_owned(),
            ),
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                (TlsFault::Failed, "the proxy sent a TLS message that does not belong here".to_owned())
            }
            other => (TlsFault::Failed, format!("TLS failed: {}", printable(&other.to_string()))),
        };
        TlsFailure { fault, detail }
    }
}

const UPDATE_PROXY: &str = "allow TLS 1.2 or 1.3 with AES-GCM or ChaCha20-Poly1305 and ECDHE on the proxy";

fn of_certificate(error: &CertificateError) -> (TlsFault, String) {
    match error {
        CertificateError::NotValidForNameContext { expected, presented } => {
            let detail = format!(
                "the proxy's certificate is not for {}, but for {}; use one of these names in the upstream's address, or \
                 set tls.server_name to it",
                expected.to_str(),
                names(presented)
            );
            (TlsFault::NameMismatch, detail)
        }
        CertificateError::NotValidForName => (
            TlsFault::NameMismatch,
            "the proxy's certificate is for another name; set tls.server_name to the name in it".to_owned(),
        ),
        CertificateError::UnknownIssuer => (
            TlsFault::UnknownIssuer,
            "the proxy's certificate is not issued by a CA that is trusted; put the CA's certificate into a file for \
             tls.ca_file, and have the proxy send the intermediate certificates"
                .to_owned(),
        ),
        CertificateError::Expired => (TlsFault::Expired, format!("the proxy's certificate has expired; {RENEW}")),
        CertificateError::ExpiredContext { time, not_after } => {
            let hours = time.as_secs().saturating_sub(not_after.as_secs()) / 3600;
            let detail = format!("the proxy's certificate, or one above it, has expired {} ago; {RENEW}", span(hours));
            (TlsFault::Expired, detail)
        }
        CertificateError::NotValidYet => {
            (TlsFault::InvalidCertificate, format!("the proxy's certificate is not valid yet; {CHECK_CLOCK}"))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let hours = not_before.as_secs().saturating_sub(time.as_secs()) / 3600;
            let detail = format!("the proxy's certificate becomes valid only in {}; {CHECK_CLOCK}", span(hours));
            (TlsFault::InvalidCertificate, detail)
        }
        CertificateError::Other(OtherError(other)) => of_other(&**other),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            TlsFault::InvalidCertificate,
            "the proxy's certificate is not for servers (extended key usage); issue one with serverAuth".to_owned(),
        ),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => (
            TlsFault::InvalidCertificate,
            "the proxy's certificate, or one above it, is signed with an algorithm that is not accepted, for example \
             SHA-1; issue one with SHA-256 or better"
                .to_owned(),
        ),
        other => (
            TlsFault::InvalidCertificate,
            format!("the proxy's certificate is invalid: {}", printable(&other.to_string())),
        ),
    }
}

const RENEW: &str = "renew it on the proxy, and check the clock of this machine";
const CHECK_CLOCK: &str = "check the clocks of this machine and of the one that issued it";

fn of_other(error: &(dyn StdError + 'static)) -> (TlsFault, String) {
    if let Some(PinMismatch { presented }) = error.downcast_ref() {
        let detail = format!(
            "the key of the proxy's certificate is {presented}, which is not pinned; if the proxy's key was replaced on \
             purpose, add this value to tls.pin_sha256; otherwise somebody is between the gateway and the proxy"
        );
        return (TlsFault::PinMismatch, detail);
    }
    let text = error.to_string();
    let detail = match text.contains("CaUsedAsEndEntity") {
        true => "the proxy uses the certificate of a CA as its own; put this very certificate into the file of \
                 tls.ca_file, or issue one for the proxy"
            .to_owned(),
        false => format!("the proxy's certificate is invalid: {}", printable(&text)),
    };
    (TlsFault::InvalidCertificate, detail)
}

fn of_alert(alert: AlertDescription, circumstances: Circumstances) -> (TlsFault, String) {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => (TlsFault::ClientCertificate, certificate_required(circumstances)),
        Alert::HandshakeFailure if circumstances.may_renegotiate => (
            TlsFault::Failed,
            "the proxy wanted to renegotiate TLS 1.2, which the gateway does not do, and has given up; turn renegotiation \
             off on the proxy, or allow TLS 1.3"
                .to_owned(),
        ),
        Alert::HandshakeFailure if circumstances.is_asked_for_certificate && !circumstances.has_certificate => {
            (TlsFault::ClientCertificate, certificate_required(circumstances))
        }
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied
        | Alert::NoCertificate => {
            let detail = match circumstances.has_certificate {
                true => format!(
                    "the proxy rejects the client certificate ({alert:?}); check that tls.client_cert_file is current, \
                     contains its intermediate certificates and is issued by a CA that the proxy accepts"
                ),
                false => certificate_required(circumstances),
            };
            (TlsFault::ClientCertificate, detail)
        }
        Alert::ProtocolVersion | Alert::InsufficientSecurity => (
            TlsFault::NoCommonVersion,
            format!("the proxy accepts neither TLS 1.3 nor 1.2 ({alert:?}); {UPDATE_PROXY}"),
        ),
        Alert::HandshakeFailure => (
            TlsFault::NoCommonVersion,
            format!(
                "the proxy found no cipher suite or certificate in common with the gateway ({alert:?}); {UPDATE_PROXY}"
            ),
        ),
        Alert::NoApplicationProtocol => (
            TlsFault::NoCommonVersion,
            "the server does not speak HTTP/1.1 on this port (ALPN); use the proxy's own port".to_owned(),
        ),
        Alert::UnrecognisedName => (
            TlsFault::NameMismatch,
            "the proxy does not know the name that the gateway sent (SNI); set tls.server_name to its name".to_owned(),
        ),
        other => (TlsFault::Failed, format!("the proxy ended TLS with the alert {other:?}; its log has the reason")),
    }
}

fn certificate_required(circumstances: Circumstances) -> String {
    match circumstances.has_certificate {
        true => {
            "the proxy requires a client certificate and did not accept the configured one: it is probably issued by \
                 another CA than those that the proxy asked for; check tls.client_cert_file"
                .to_owned()
        }
        false => "the proxy requires a client certificate; set tls.client_cert_file and tls.client_key_file".to_owned(),
    }
}

/// The names in a certificate. rustls gives each as `DnsName("proxy.example")` or `IpAddress(192.0.2.1)`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')'));
        printable(inner.trim_matches('"'))
    };
    match presented {
        [] => "no name at all (no subjectAltName)".to_owned(),
        all => {
            let shown: Vec<String> = all.iter().take(SHOWN_NAMES).map(bare).collect();
            let more = if all.len() > SHOWN_NAMES { " and others" } else { "" };
            format!("{}{more}", shown.join(", "))
        }
    }
}

/// A text that comes from the peer, on one line and without control characters.
fn printable(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect::<String>().replace("\\\"", "\"")
}

fn span(hours: u64) -> String {
    match hours {
        0 => "less than an hour".to_owned(),
        1..48 => format!("{hours} h"),
        _ => format!("{} days", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    fn classified(error: &Error) -> (TlsFault, String) {
        let TlsFailure { fault, detail } = TlsFailure::of(error, Circumstances::default());
        (fault, detail)
    }

    fn of_certificate_error(error: CertificateError) -> (TlsFault, String) {
        classified(&Error::InvalidCertificate(error))
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn a_wrong_name_is_told_with_the_names_of_the_certificate() {
        let wrong_name = |presented: &[&str]| {
            of_certificate_error(CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("proxy.example").unwrap(),
                presented: presented.iter().map(|name| (*name).to_owned()).collect(),
            })
        };
        let (fault, detail) = wrong_name(&["DnsName(\"gw.example\")", "IpAddress(192.0.2.1)"]);
        assert_eq!(fault, TlsFault::NameMismatch);
        assert!(detail.contains("not for proxy.example, but for gw.example, 192.0.2.1;"), "{detail}");
        let (_, detail) = wrong_name(&[]);
        assert!(detail.contains("for no name at all"), "{detail}");
        let (_, detail) = wrong_name(&["DnsName(\"a\")"; 9]);
        assert!(detail.contains("a, a, a, a, a and others;"), "{detail}");
        let (_, detail) = wrong_name(&["DnsName(\"a\r\n\u{1b}[2J\")"]);
        assert!(!detail.contains(char::is_control), "{detail:?}");
    }

    #[test]
    fn each_fault_of_a_certificate_has_its_kind_and_its_remedy() {
        for (error, fault, remedy) in [
            (CertificateError::UnknownIssuer, TlsFault::UnknownIssuer, "tls.ca_file"),
            (CertificateError::Expired, TlsFault::Expired, "renew it"),
            (
                CertificateError::ExpiredContext { time: at(1_000_000), not_after: at(1_000_000 - 73 * 3600) },
                TlsFault::Expired,
                "expired 3 days ago",
            ),
            (
                CertificateError::NotValidYetContext { time: at(0), not_before: at(7200) },
                TlsFault::InvalidCertificate,
                "only in 2 h; check the clocks",
            ),
            (CertificateError::NotValidForName, TlsFault::NameMismatch, "tls.server_name"),
            (CertificateError::InvalidPurpose, TlsFault::InvalidCertificate, "serverAuth"),
            (CertificateError::BadSignature, TlsFault::InvalidCertificate, "invalid"),
            (
                CertificateError::Other(OtherError(Arc::new(PinMismatch { presented: "sha256//AAAA".into() }))),
                TlsFault::PinMismatch,
                "is sha256//AAAA, which is not pinned",
            ),
        ] {
            let (found, detail) = of_certificate_error(error.clone());
            assert_eq!(found, fault, "{error:?}");
            assert!(detail.contains(remedy), "{detail}");
        }
    }

    #[test]
    fn a_peer_that_speaks_no_tls_is_told_from_one_without_a_common_version() {
        let (fault, detail) = classified(&Error::InvalidMessage(InvalidMessage::InvalidContentType));
        assert_eq!(fault, TlsFault::NotTls);
        assert!(detail.contains("http://"), "{detail}");
        for error in [
            Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13),
            Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
            Error::AlertReceived(AlertDescription::ProtocolVersion),
            Error::AlertReceived(AlertDescription::HandshakeFailure),
        ] {
            assert_eq!(classified(&error).0, TlsFault::NoCommonVersion, "{error:?}");
        }
        assert_eq!(classified(&Error::DecryptError).0, TlsFault::Failed);
    }

    #[test]
    fn a_handshake_failure_after_a_request_for_a_certificate_is_about_the_certificate() {
        let told = |alert, is_asked_for_certificate, has_certificate| {
            let circumstances = Circumstances { is_asked_for_certificate, has_certificate, ..Circumstances::default() };
            let TlsFailure { fault, detail } = TlsFailure::of(&Error::AlertReceived(alert), circumstances);
            (fault, detail)
        };
        let (fault, detail) = told(AlertDescription::HandshakeFailure, true, false);
        assert_eq!(fault, TlsFault::ClientCertificate);
        assert!(detail.contains("set tls.client_cert_file"), "{detail}");
        assert_eq!(told(AlertDescription::HandshakeFailure, true, true).0, TlsFault::NoCommonVersion);
        assert_eq!(told(AlertDescription::CertificateRequired, false, false).0, TlsFault::ClientCertificate);
        let (fault, detail) = told(AlertDescription::UnknownCA, true, true);
        assert_eq!(fault, TlsFault::ClientCertificate);
        assert!(detail.contains("rejects the client certificate (UnknownCA)"), "{detail}");
    }

    #[test]
    fn a_handshake_failure_on_an_established_connection_is_about_renegotiation() {
        let established =
            Circumstances { is_asked_for_certificate: true, may_renegotiate: true, has_certificate: false };
        let TlsFailure { fault, detail } =
            TlsFailure::of(&Error::AlertReceived(AlertDescription::HandshakeFailure), established);
        assert_eq!(fault, TlsFault::Failed);
        assert!(detail.contains("turn renegotiation off"), "{detail}");
    }

    #[test]
    fn the_failure_in_an_io_error_is_found_and_others_are_left_alone() {
        let of_rustls =
            io::Error::new(io::ErrorKind::InvalidData, Error::InvalidCertificate(CertificateError::Expired));
        assert_eq!(TlsFailure::of_io(&of_rustls).map(|failure| failure.fault), Some(TlsFault::Expired));
        let failure = TlsFailure { fault: TlsFault::ClientCertificate, detail: "why".into() };
        assert_eq!(TlsFailure::of_io(&io::Error::other(failure.clone())), Some(failure));
        assert_eq!(TlsFailure::of_io(&io::Error::other("something else")), None);
        assert_eq!(TlsFailure::of_io(&io::ErrorKind::ConnectionReset.into()), None);
    }
}
