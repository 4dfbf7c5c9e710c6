//! The peers of the gateway in the demonstration: the proxy that it authenticates to and, for Kerberos, a KDC. Both run
//! in this process, and only they know the account.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::time::Instant;

use super::legs::{Direction, Legs};
use super::tap::Tap;
use super::{PASSWORD, RESPONSE_TIMEOUT, USER};
use crate::kerberos;
use crate::stub::{KdcOptions, StubCertificate, StubKdc, StubOptions, StubServer};

const DOMAIN: &str = "DEMO";
const REALM: &str = "DEMO.TEST";
const SERVICE: &str = "HTTP/proxy.demo.test";

/// The proxy and the KDC, each behind a listener that records what passes. They run until this is dropped.
pub(super) struct Peers {
    upstream: Tap,
    realm: Option<Realm>,
    /// The proxy's certificate, if it is reached with TLS.
    ca: Option<File>,
    began: Instant,
    _stub: StubServer,
}

/// What Kerberos needs besides the proxy.
struct Realm {
    kdc: Tap,
    /// The password: for Kerberos, the gateway reads it only from a file.
    password: File,
    _kdc: StubKdc,
}

impl Peers {
    /// Starts a proxy that requires NTLM or, `with_kerberos`, one that accepts only Kerberos, and a KDC.
    pub(super) fn start(with_kerberos: bool, with_tls: bool) -> Result<Peers, Box<dyn Error>> {
        let began = Instant::now();
        let (mut options, mut ca) = (StubOptions::default(), None);
        if with_tls {
            let certificate = StubCertificate::new(&["127.0.0.1"])?;
            options = options.tls(certificate.server_config());
            ca = Some(in_memory(&certificate.pem())?);
        }
        if !with_kerberos {
            let stub = StubServer::start(options.account(DOMAIN, USER, PASSWORD))?;
            let upstream = Tap::start(stub.address(), Direction::THROUGH_UPSTREAM)?;
            return Ok(Peers { upstream, realm: None, ca, began, _stub: stub });
        }
        let kdc = StubKdc::start(KdcOptions::new(REALM).account(USER, PASSWORD).service(SERVICE))?;
        let stub = StubServer::start(options.only_kerberos(kdc.keytab()))?;
        let upstream = Tap::start(stub.address(), Direction::THROUGH_UPSTREAM)?;
        let tap = Tap::start(kdc.address(), Direction::THROUGH_KDC)?;
        let realm = Realm { kdc: tap, password: in_memory(PASSWORD)?, _kdc: kdc };
        Ok(Peers { upstream, realm: Some(realm), ca, began, _stub: stub })
    }

    /// Where the gateway finds the proxy.
    pub(super) fn upstream(&self) -> &Tap {
        &self.upstream
    }

    /// The scheme that the proxy requires.
    pub(super) fn scheme(&self) -> &'static str {
        if self.realm.is_some() { "Kerberos" } else { "NTLM" }
    }

    /// The gateway's settings for this proxy.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let address = self.upstream.address();
        let mut settings = match &self.ca {
            None => vec![("upstream", address.to_string())],
            Some(ca) => vec![("upstream", format!("https://{address}")), ("tls.ca_file", path_of(ca))],
        };
        match &self.realm {
            None => settings.push(("user", format!("{DOMAIN}\\{USER}"))),
            Some(realm) => settings.extend([
                ("user", format!("{USER}@{REALM}")),
                ("password_file", path_of(&realm.password)),
                ("auth", "kerberos".into()),
                ("spn", SERVICE.into()),
                ("kerberos.realm", REALM.into()),
                // The listener in front of the KDC does not pass on datagrams.
                ("kerberos.kdc", format!("tcp/{}", realm.kdc.address())),
            ]),
        }
        settings
    }

    /// The password in the gateway's environment.
    pub(super) fn password(&self) -> Option<&'static str> {
        self.realm.is_none().then_some(PASSWORD)
    }

    /// Says what runs where.
    pub(super) fn introduce(&self) {
        let upstream = match &self.ca {
            None => self.upstream.address().to_string(),
            Some(_) => format!("https://{}", self.upstream.address()),
        };
        match &self.realm {
            None => {
                say!("An upstream proxy that requires and verifies NTLM is on {upstream}; it knows {DOMAIN}\\{USER}.")
            }
            Some(realm) => {
                say!("An upstream proxy that accepts and verifies only Kerberos is on {upstream}; it is {SERVICE}.");
                say!("A KDC of the realm {REALM} is on {}; it knows {USER}.", realm.kdc.address());
            }
        }
    }

    /// Shows how the gateway gets its ticket, which it does as soon as it starts.
    ///
    /// # Errors
    /// If it does not get one in time.
    pub(super) fn show_tickets(&self) -> Result<(), Box<dyn Error>> {
        let Some(realm) = &self.realm else { return Ok(()) };
        say!("The gateway gets a ticket for the proxy when it starts:\n");
        let is_done = |bytes: &[u8]| kerberos::describe_message(message(bytes)).is_some_and(|it| it.is_service_ticket);
        let pieces = realm.kdc.take_until(RESPONSE_TIMEOUT, is_done);
        let mut legs = Legs::begin_at(self.began);
        for piece in &pieces {
            let shown = match kerberos::describe_message(message(&piece.bytes)) {
                Some(described) => described.text,
                None => format!("{} bytes", piece.bytes.len()),
            };
            legs.add_lines(piece.at, piece.direction, &[shown]);
        }
        match pieces.last() {
            Some(last) if is_done(&last.bytes) => {
                say!("");
                Ok(())
            }
            _ => Err("the gateway has not got a ticket; see the lines above".into()),
        }
    }
}

/// A file in memory, which has no name.
fn in_memory(text: &str) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("demo", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// The path of such a file, in this process.
fn path_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A message of Kerberos on TCP, without its length.
fn message(bytes: &[u8]) -> &[u8] {
    bytes.get(4..).unwrap_or_default()
}
