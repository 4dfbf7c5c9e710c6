//! Which certificates and servers are accepted, and the cause and the remedy for each that is not, with curl as a
//! second opinion.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use ntlm_gateway::fault::{At, Cause};
use ntlm_gateway::gateway::Gateway;

use crate::proxy::Proxy;
use crate::support::certificates::{self, ECDSA_SHA384, ED25519, Issued, RSA_SHA256};
use crate::support::client::{Answered, ask, connect_name, echo_through};
use crate::support::command::curl;
use crate::support::in_process;
use crate::support::scratch::{Scratch, wait_for};
use crate::support::toolbox::toolbox;

/// A pin of no key.
const OTHER_PIN: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

const CURL_BOUND: Duration = Duration::from_secs(20);

struct Setup {
    scratch: Scratch,
    python: std::path::PathBuf,
    ca: Issued,
}

impl Setup {
    /// `None`, with a message, if a program is missing.
    fn new(purpose: &str) -> Option<Setup> {
        let python = toolbox()?.join("bin/python");
        let scratch = Scratch::new(purpose);
        let ca = certificates::ca(&scratch, "ca");
        Some(Setup { scratch, python, ca })
    }

    fn issue(&self, name: &str, extensions: &[String], days: i32) -> Issued {
        certificates::issued_by(&self.scratch, &self.ca, name, ECDSA_SHA384, extensions, days)
    }

    /// A certificate that is right in everything.
    fn good(&self) -> Issued {
        self.issue("good", &certificates::server("IP:127.0.0.1"), 30)
    }

    fn proxy(&self, certificate: Option<&Issued>, further: &[&str]) -> Proxy {
        Proxy::start(&self.python, &self.scratch, certificate, further)
    }

    /// A gateway that trusts the CA.
    fn gateway(&self, proxy: &Proxy, further: &[(&str, &str)]) -> Gateway {
        self.gateway_with(&self.ca, proxy, further)
    }

    fn gateway_with(&self, ca: &Issued, proxy: &Proxy, further: &[(&str, &str)]) -> Gateway {
        let ca = text(&ca.certificate);
        let settings = [&[("tls.ca_file", ca.as_str()), ("warm", "0")], further].concat();
        in_process::gateway(&format!("https://127.0.0.1:{}", proxy.port), &settings)
    }

    /// The exit code of curl for a request to the same server, which answers 407. A request *through* it would say
    /// less: curl sends no channel bindings, and ignores a pin for a proxy (7.88).
    fn curl(&self, ca: &Issued, proxy: &Proxy, further: &[&str]) -> Option<i32> {
        let (address, ca) = (format!("https://127.0.0.1:{}/", proxy.port), text(&ca.certificate));
        let arguments = [&["--cacert", ca.as_str()], further, &[&address]].concat();
        curl(CURL_BOUND, arguments).code
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn connect(gateway: &Gateway) -> Answered {
    connect_name(in_process::address(gateway), "echo.test:7").expect("an answer")
}

/// The gateway rejects the proxy with this cause, and its detail has this text.
#[track_caller]
fn assert_rejected(gateway: Gateway, cause: Cause, detail: &str) {
    let answer = connect(&gateway);
    assert_eq!(answer.status(), 502, "{}", answer.head);
    let told = answer.field("proxy-status").unwrap_or_default().to_owned();
    assert!(told.contains(detail), "{told}");
    // With TLS 1.3 the proxy judges a client certificate only after the handshake.
    let stages = [At::Dial, At::Authenticate];
    let counted = || stages.map(|at| gateway.metrics().faults(at, cause)).iter().sum::<u64>();
    let found = wait_for(Duration::from_secs(5), || (counted() == 1).then_some(()));
    assert!(found.is_some(), "{} is not counted once: {told}", cause.label());
    in_process::stop(gateway);
}

#[test]
fn tunnels_open_through_tls_with_channel_bindings_that_the_proxy_demands() {
    require_tools!("openssl", "curl");
    let Some(setup) = Setup::new("tls-bindings") else { return };
    for algorithm in [RSA_SHA256, ECDSA_SHA384, ED25519] {
        let extensions = certificates::server("IP:127.0.0.1");
        let issued = certificates::issued_by(&setup.scratch, &setup.ca, algorithm.name, algorithm, &extensions, 30);
        // The CA signs by its own algorithm, so these are self-signed for the hash to differ.
        let own =
            certificates::self_signed(&setup.scratch, &format!("own-{}", algorithm.name), algorithm, &extensions, 30);
        for (certificate, ca) in [(&issued, &setup.ca), (&own, &own)] {
            let mut proxy = setup.proxy(Some(certificate), &[]);
            assert_eq!(setup.curl(ca, &proxy, &[]), Some(0), "{}", algorithm.name);
            let gateway = setup.gateway_with(ca, &proxy, &[]);
            let tunnel = connect(&gateway);
            assert_eq!(tunnel.status(), 200, "{}: {}", algorithm.name, tunnel.head);
            assert_eq!(proxy.line(), r"accepted CORP\alice", "{}", algorithm.name);
            assert_eq!(echo_through(&tunnel.stream, b"through TLS").expect("an echo"), b"through TLS");
            in_process::stop(gateway);
        }
    }
}

#[test]
fn a_certificate_for_another_name_is_rejected_with_the_names_that_it_has() {
    require_tools!("openssl", "curl");
    let Some(setup) = Setup::new("tls-name") else { return };
    let other = setup.issue("other", &certificates::server("DNS:other.example"), 30);
    let proxy = setup.proxy(Some(&other), &[]);
    assert_eq!(setup.curl(&setup.ca, &proxy, &[]), Some(60));
    assert_rejected(setup.gateway(&proxy, &[]), Cause::TlsNameMismatch, "but for other.example");
    let gateway = setup.gateway(&proxy, &[("tls.server_name", "other.example")]);
    assert_eq!(connect(&gateway).status(), 200);
    in_process::stop(gateway);
}

#[test]
fn certificates_of_other_cas_expired_ones_and_other_keys_are_rejected_by_cause() {
    require_tools!("openssl", "curl");
    let Some(setup) = Setup::new("tls-trust") else { return };
    let good = setup.good();
    let proxy = setup.proxy(Some(&good), &[]);
    let other_ca = certificates::ca(&setup.scratch, "other-ca");
    assert_eq!(setup.curl(&other_ca, &proxy, &[]), Some(60));
    assert_rejected(setup.gateway_with(&other_ca, &proxy, &[]), Cause::TlsUnknownIssuer, "tls.ca_file");
    let pin = format!("sha256//{OTHER_PIN}");
    assert_eq!(setup.curl(&setup.ca, &proxy, &["--pinnedpubkey", &pin]), Some(90));
    assert_rejected(setup.gateway(&proxy, &[("tls.pin_sha256", &pin)]), Cause::TlsPinMismatch, "is not pinned");
    drop(proxy);

    let expired = setup.issue("expired", &certificates::server("IP:127.0.0.1"), -1);
    let proxy = setup.proxy(Some(&expired), &[]);
    assert_eq!(setup.curl(&setup.ca, &proxy, &[]), Some(60));
    assert_rejected(setup.gateway(&proxy, &[]), Cause::TlsCertificateExpired, "has expired");
}

#[test]
fn a_self_signed_certificate_is_trusted_by_its_own_copy_alone() {
    require_tools!("openssl", "curl");
    let Some(setup) = Setup::new("tls-self-signed") else { return };
    // openssl makes it that of a CA, which a server's certificate must not be otherwise.
    let extensions = ["subjectAltName=IP:127.0.0.1".to_owned()];
    let own = certificates::self_signed(&setup.scratch, "own", ECDSA_SHA384, &extensions, 30);
    let same_name = certificates::self_signed(&setup.scratch, "other", ECDSA_SHA384, &extensions, 30);
    let proxy = setup.proxy(Some(&own), &[]);
    assert_eq!(setup.curl(&own, &proxy, &[]), Some(0));
    let gateway = setup.gateway_with(&own, &proxy, &[]);
    assert_eq!(connect(&gateway).status(), 200);
    in_process::stop(gateway);
    assert_eq!(setup.curl(&same_name, &proxy, &[]), Some(60));
    let gateway = setup.gateway_with(&same_name, &proxy, &[]);
    let answer = connect(&gateway);
    assert_eq!(answer.status(), 502, "{}", answer.head);
    in_process::stop(gateway);
    let other_name = setup.gateway_with(&own, &proxy, &[("tls.server_name", "proxy.example")]);
    assert_rejected(other_name, Cause::TlsNameMismatch, "but for 127.0.0.1");
}

#[test]
fn a_pinned_key_is_accepted_by_the_pin_that_the_fault_names() {
    require_tools!("openssl");
    let Some(setup) = Setup::new("tls-pin") else { return };
    let good = setup.good();
    let proxy = setup.proxy(Some(&good), &[]);
    let gateway = setup.gateway(&proxy, &[("tls.pin_sha256", OTHER_PIN)]);
    let told = connect(&gateway).field("proxy-status").unwrap_or_default().to_owned();
    in_process::stop(gateway);
    let pin = told.split("sha256//").nth(1).and_then(|rest| rest.split(',').next()).expect("a pin");
    let gateway = setup.gateway(&proxy, &[("tls.pin_sha256", &format!("{OTHER_PIN},{pin}"))]);
    assert_eq!(connect(&gateway).status(), 200);
    in_process::stop(gateway);
}

#[test]
fn a_server_without_tls_and_one_with_old_versions_only_are_told_apart() {
    require_tools!("openssl", "curl");
    let Some(setup) = Setup::new("tls-versions") else { return };
    let good = setup.good();
    let proxy = setup.proxy(Some(&good), &["--highest", "1.1"]);
    assert_eq!(setup.curl(&setup.ca, &proxy, &[]), Some(35));
    assert_rejected(setup.gateway(&proxy, &[]), Cause::TlsNoCommonVersion, "neither TLS 1.3 nor 1.2");
    drop(proxy);
    let answers = setup.proxy(None, &[]);
    assert_eq!(setup.curl(&setup.ca, &answers, &[]), Some(35));
    assert_rejected(setup.gateway(&answers, &[]), Cause::TlsNotSpoken, "the answer is not TLS");
}

#[test]
fn a_port_that_expects_tls_is_recognised_by_its_alert_and_suspected_by_its_close() {
    require_tools!("openssl");
    let Some(setup) = Setup::new("tls-expected") else { return };
    // OpenSSL closes the connection when it sees HTTP.
    let proxy = setup.proxy(Some(&setup.good()), &[]);
    let gateway = in_process::gateway(&format!("127.0.0.1:{}", proxy.port), &[("warm", "0")]);
    assert_rejected(gateway, Cause::UpstreamClosed, "if the port expects TLS, write https://");

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            // Fatal: protocol_version.
            let _ = stream.write_all(&[21, 3, 1, 0, 2, 2, 70]);
        }
    });
    let gateway = in_process::gateway(&address, &[("warm", "0")]);
    assert_rejected(gateway, Cause::TlsExpected, "write https://");
    let gateway = in_process::gateway(&address, &[("warm", "0")]);
    let request = b"GET http://echo.test/ HTTP/1.1\r\nHost: echo.test\r\n\r\n";
    let answer = ask(in_process::address(&gateway), request).expect("an answer");
    let told = answer.field("proxy-status").unwrap_or_default().to_owned();
    assert!(answer.status() == 502 && told.contains("write https://"), "{told}");
    in_process::stop(gateway);
}

#[test]
fn a_proxy_that_requires_a_client_certificate_gets_it_or_is_named() {
    require_tools!("openssl", "curl");
    let Some(setup) = Setup::new("tls-client") else { return };
    let good = setup.good();
    let ca = text(&setup.ca.certificate);
    let client = ["extendedKeyUsage=clientAuth".to_owned()];
    let own = setup.issue("own", &client, 30);
    let other_ca = certificates::ca(&setup.scratch, "other-ca");
    let foreign = certificates::issued_by(&setup.scratch, &other_ca, "foreign", ECDSA_SHA384, &client, 30);
    for highest in [&[][..], &["--highest", "1.2"]] {
        let arguments = [&["--client-ca", ca.as_str()][..], highest].concat();
        let mut proxy = setup.proxy(Some(&good), &arguments);
        let files = |issued: &Issued| (text(&issued.certificate), text(&issued.key));
        let (certificate, key) = files(&own);
        assert!(matches!(setup.curl(&setup.ca, &proxy, &[]), Some(35 | 55 | 56)), "curl is rejected as well");
        let curl_with = ["--cert", &certificate, "--key", &key];
        assert_eq!(setup.curl(&setup.ca, &proxy, &curl_with), Some(0));
        assert_rejected(setup.gateway(&proxy, &[]), Cause::TlsClientCertificate, "set tls.client_cert_file");
        let with = [("tls.client_cert_file", certificate.as_str()), ("tls.client_key_file", key.as_str())];
        let gateway = setup.gateway(&proxy, &with);
        assert_eq!(connect(&gateway).status(), 200);
        in_process::stop(gateway);
        let (certificate, key) = files(&foreign);
        let with = [("tls.client_cert_file", certificate.as_str()), ("tls.client_key_file", key.as_str())];
        assert_rejected(setup.gateway(&proxy, &with), Cause::TlsClientCertificate, "certificate");
        assert_eq!(proxy.line(), r"accepted CORP\alice own");
    }
}
