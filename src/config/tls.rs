//! The settings of TLS to upstreams: the files that they name become the settings of connections.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use thiserror::Error;
use zeroize::Zeroizing;

use super::egress::boolean;
use super::error::Problem;
use super::exposure;
use super::parse::Reader;
use super::settings::Setting;
use super::warning::Advice;
use crate::limits;
use crate::tls::{
    self, ClientCertificate, PemError, Pin, Roots, TlsOptions, TlsOptionsError, TlsSettings, readable_certificates,
};
use crate::upstream::HostPort;

/// The settings of one upstream or of all: their names are these behind a prefix.
const NAMES: [&str; 6] = ["ca_file", "pin_sha256", "server_name", "client_cert_file", "client_key_file", "kernel"];

/// Those that name a file.
pub(super) const FILES: [&str; 3] = ["ca_file", "client_cert_file", "client_key_file"];

/// The prefixes of the plain settings, and of those of an entry of `[[upstreams]]`.
pub(super) const PLAIN: &str = "tls.";
pub(super) const OF_UPSTREAM: &str = "upstreams.tls_";

/// Where the distributions have the certificates of the CAs that they trust: Debian, Ubuntu, Arch and the distroless
/// images; Fedora and RHEL; openSUSE; Alpine.
const SYSTEM_STORES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why the settings of TLS are invalid.
#[derive(Debug, Error)]
pub enum TlsProblem {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; it must be a file that the gateway's user can read{help}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
        /// What a relative path is relative to, if it was one.
        help: &'static str,
    },
    /// A file does not have what it should have.
    #[error("{} {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PemError,
    },
    /// What a file has cannot be used.
    #[error("{} {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TlsOptionsError,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Options(TlsOptionsError),
    /// A file is too large.
    #[error("{} is larger than {} KiB", path.display(), limits::TLS_FILE_BYTES / 1024)]
    Large {
        /// The file.
        path: PathBuf,
    },
    /// Not a pin.
    #[error(
        "{text:?} is not the SHA-256 hash of a public key; write it in base64 or in hexadecimal digits: openssl x509 -in \
         CERTIFICATE -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64"
    )]
    Pin {
        /// The given value.
        text: String,
    },
    /// Not the name of a server.
    #[error("{text:?} is not the name or the IP address of a server; write it as it is in the proxy's certificate")]
    ServerName {
        /// The given value.
        text: String,
    },
    /// The system trusts no CA.
    #[error(
        "TLS to {host} needs the certificates of CAs, and the system has none ({}); set tls.ca_file to a file with that of \
         the proxy's CA",
        SYSTEM_STORES.join(", ")
    )]
    NoSystemStore {
        /// The upstream.
        host: String,
    },
    /// Addresses of one upstream with and without TLS.
    #[error("all addresses of an upstream must have https://, or none; make two upstreams of them")]
    MixedSchemes,
}

impl From<TlsProblem> for Problem {
    fn from(problem: TlsProblem) -> Problem {
        Problem::Tls(Box::new(problem))
    }
}

/// What one set of settings demands.
#[derive(Clone, Debug, Default)]
pub(super) struct TlsDemands {
    roots: Option<Roots>,
    pins: Vec<Pin>,
    server_name: Option<ServerName<'static>>,
    client: Option<Arc<ClientCertificate>>,
    kernel: Option<bool>,
}

impl TlsDemands {
    /// What an upstream's own settings demand, and `common` where they demand nothing.
    fn or(self, common: &TlsDemands) -> TlsDemands {
        let common = common.clone();
        TlsDemands {
            roots: self.roots.or(common.roots),
            pins: if self.pins.is_empty() { common.pins } else { self.pins },
            server_name: self.server_name.or(common.server_name),
            client: self.client.or(common.client),
            kernel: self.kernel.or(common.kernel),
        }
    }
}

/// The plain settings, and the system's store once it was needed.
#[derive(Clone, Debug, Default)]
pub(super) struct CommonTls {
    demands: TlsDemands,
    /// The file with the system's store, and what is in it.
    system: Option<(PathBuf, Roots)>,
}

impl CommonTls {
    /// The system's store, if it is in use.
    pub(super) fn system_store(&self) -> Option<&Path> {
        self.system.as_ref().map(|(path, _)| path.as_path())
    }

    fn system_roots(&mut self, host: &HostPort) -> Result<Roots, TlsProblem> {
        if self.system.is_none() {
            self.system = system_store();
        }
        let roots = self.system.as_ref().map(|(_, roots)| roots.clone());
        roots.ok_or_else(|| TlsProblem::NoSystemStore { host: host.to_string() })
    }
}

impl Reader<'_> {
    /// The plain settings, if `is_used` says that an upstream is reached with TLS.
    pub(super) fn common_tls(&mut self, is_used: bool) -> Option<CommonTls> {
        Some(CommonTls { demands: self.tls_demands(PLAIN, is_used)?, system: None })
    }

    /// How an upstream is reached with TLS; the inner `None` if it is not. `hosts` are its addresses, each with whether
    /// it has TLS. `prefix` is [`OF_UPSTREAM`] in an entry.
    pub(super) fn tls_of_upstream(
        &mut self,
        prefix: Option<&str>,
        address: &str,
        hosts: &[(HostPort, bool)],
        common: &mut CommonTls,
    ) -> Option<Option<Arc<TlsSettings>>> {
        let is_used = hosts.iter().any(|(_, is_tls)| *is_tls);
        let own = match prefix {
            Some(prefix) => self.tls_demands(prefix, is_used)?,
            None => TlsDemands::default(),
        };
        if !is_used {
            return Some(None);
        }
        if hosts.iter().any(|(_, is_tls)| !is_tls) {
            return self.required(address, |_| Err(TlsProblem::MixedSchemes.into()));
        }
        let demands = own.or(&common.demands);
        self.required(address, |_| Ok(Some(Arc::new(settings(demands, hosts, common)?))))
    }

    fn tls_demands(&mut self, prefix: &str, is_used: bool) -> Option<TlsDemands> {
        let key = |name: &str| format!("{prefix}{name}");
        if !is_used {
            for name in NAMES.map(key) {
                if let Some(setting) = self.settings.given(&name) {
                    self.warn(setting.source.clone(), &name, Advice::WithoutTls);
                }
            }
            return Some(TlsDemands::default());
        }
        let roots = self.tls_file(&key("ca_file"), |path, bytes| {
            let certificates = pem(path, tls::certificates(bytes))?;
            Ok(Roots { certificates, are_given: true })
        });
        let pins = self.list(&key("pin_sha256"), None, |text| {
            Pin::parse(text).ok_or_else(|| TlsProblem::Pin { text: text.into() }.into())
        });
        let server_name = self.optional(&key("server_name"), |text| {
            ServerName::try_from(text.to_owned()).map_err(|_| TlsProblem::ServerName { text: text.into() }.into())
        });
        let client = self.client_certificate(&key("client_cert_file"), &key("client_key_file"));
        let kernel = self.optional(&key("kernel"), boolean);
        Some(TlsDemands {
            roots: roots?,
            pins: pins.values()?,
            server_name: server_name?,
            client: client?,
            kernel: kernel?,
        })
    }

    /// The certificate and its key, of which there are both or none.
    fn client_certificate(&mut self, cert_file: &str, key_file: &str) -> Option<Option<Arc<ClientCertificate>>> {
        let chain = self.tls_file(cert_file, |path, bytes| pem(path, tls::certificates(bytes)));
        if let Some(setting) = self.settings.given(key_file)
            && let Some(exposure) = exposure::of(&setting.path())
        {
            self.warn(setting.source.clone(), key_file, Advice::from(exposure));
        }
        let key = self.tls_file(key_file, |path, bytes| pem(path, tls::private_key(bytes)));
        match (chain?, key?) {
            (None, None) => Some(None),
            (Some(_), None) => self.required(cert_file, |_| Err(Problem::Requires("tls.client_key_file"))),
            (None, Some(_)) => self.required(key_file, |_| Err(Problem::Requires("tls.client_cert_file"))),
            (Some(chain), Some(key)) => {
                let client = ClientCertificate { chain, key };
                let path = self.settings.given(key_file).map(Setting::path).unwrap_or_default();
                self.required(key_file, |_| {
                    client.check().map_err(|source| TlsProblem::Unusable { path, source })?;
                    Ok(Some(Arc::new(client)))
                })
            }
        }
    }

    /// What `parse` makes of the file that a setting names, if it names one.
    fn tls_file<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&Path, &[u8]) -> Result<T, TlsProblem>,
    ) -> Option<Option<T>> {
        let Some(setting) = self.settings.given(name).cloned() else {
            return self.optional(name, |_| Ok(())).map(|_| None);
        };
        let (path, help) = (setting.path(), setting.path_help());
        self.parse(name, setting, |_| {
            let bytes = read(&path).map_err(|source| TlsProblem::File { path: path.clone(), source, help })?;
            match bytes.len() > limits::TLS_FILE_BYTES {
                true => Err(TlsProblem::Large { path }.into()),
                false => Ok(Some(parse(&path, &bytes)?)),
            }
        })
    }
}

fn settings(
    demands: TlsDemands,
    hosts: &[(HostPort, bool)],
    common: &mut CommonTls,
) -> Result<TlsSettings, TlsProblem> {
    let TlsDemands { roots, pins, server_name, client, kernel } = demands;
    let name_of = |host: &HostPort| {
        let problem = || TlsProblem::ServerName { text: host.host().into() };
        ServerName::try_from(host.host().to_owned()).map_err(|_| problem())
    };
    let names = match server_name {
        Some(name) => vec![name],
        None => hosts.iter().map(|(host, _)| name_of(host)).collect::<Result<_, _>>()?,
    };
    let roots = match (roots, hosts.first()) {
        (Some(roots), _) => roots,
        (None, Some((host, _))) => common.system_roots(host)?,
        (None, None) => Roots { certificates: Vec::new(), are_given: false },
    };
    let client = client.as_deref().map(ClientCertificate::copy);
    TlsSettings::new(TlsOptions { names, roots, pins, client, kernel: kernel.unwrap_or_default() })
        .map_err(TlsProblem::Options)
}

pub(super) fn system_store() -> Option<(PathBuf, Roots)> {
    SYSTEM_STORES.iter().map(PathBuf::from).find_map(|path| {
        let certificates = readable_certificates(&read(&path).ok()?);
        (!certificates.is_empty()).then_some((path, Roots { certificates, are_given: false }))
    })
}

/// Reads a file, up to one byte more than [`limits::TLS_FILE_BYTES`]. It may hold a private key, so the buffer is
/// wiped, and it is large enough from the beginning: growing would leave copies behind.
fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(limits::TLS_FILE_BYTES) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    let limit = u64::try_from(limits::TLS_FILE_BYTES).unwrap_or(u64::MAX);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn pem<T>(path: &Path, parsed: Result<T, PemError>) -> Result<T, TlsProblem> {
    parsed.map_err(|source| TlsProblem::Pem { path: path.into(), source })
}
