//! The candidates of a comparison.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::namespace;
use crate::scenario::Protocol;

/// A candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub name: String,
    pub kind: Kind,
    /// How its clients ask for their tunnels.
    pub protocol: Protocol,
}

/// What a candidate is, and how it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ntlm-gateway` from this binary, with NTLM.
    Gateway(PathBuf),
    /// The same, with Kerberos.
    GatewayKerberos(PathBuf),
    /// The first one, with TLS to the upstream.
    GatewayTls(PathBuf),
    Cntlm,
    /// TCP relay without authentication.
    Haproxy {
        forced_splice: bool,
    },
    /// HTTP proxy without authentication.
    HaproxyHttp,
    /// Relay from TCP to TLS, without authentication.
    HaproxyTls,
    /// TCP relay without authentication.
    Nginx,
    /// HTTP proxy with a parent that demands no authentication: Squid cannot authenticate to a parent by NTLM.
    Squid,
    Px,
    /// No proxy: the client's CONNECT goes to the stub.
    Direct,
    /// Already running, with whatever upstream it has.
    Running {
        address: SocketAddr,
        pid: Option<u32>,
    },
}

/// What the stub behind a candidate demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamKind {
    Ntlm,
    Kerberos,
    /// Nothing.
    Open,
    /// NTLM, over TLS.
    NtlmTls,
    /// Nothing, over TLS.
    OpenTls,
}

impl Candidate {
    /// Parses `NAME`, `NAME=PATH` and `NAME=ADDR[@PID]`. `gateway` is the binary for the name `gateway`.
    ///
    /// # Errors
    /// A text that lists the alternatives.
    pub fn parse(text: &str, gateway: &Path) -> Result<Candidate, String> {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let kind = match (name, value) {
            (_, Some(value)) if value.contains('/') => Kind::Gateway(PathBuf::from(value)),
            (_, Some(value)) => running(value)?,
            (
                "gateway"
                | "gateway-socks"
                | "gateway-socks-pipelined"
                | "gateway-socks4"
                | "gateway-transparent"
                | "gateway-forward",
                None,
            ) => Kind::Gateway(gateway.to_owned()),
            ("gateway-kerberos", None) => Kind::GatewayKerberos(gateway.to_owned()),
            ("gateway-tls", None) => Kind::GatewayTls(gateway.to_owned()),
            ("cntlm", None) => Kind::Cntlm,
            ("haproxy", None) => Kind::Haproxy { forced_splice: false },
            ("haproxy-splice", None) => Kind::Haproxy { forced_splice: true },
            ("haproxy-http", None) => Kind::HaproxyHttp,
            ("haproxy-tls", None) => Kind::HaproxyTls,
            ("nginx", None) => Kind::Nginx,
            ("squid", None) => Kind::Squid,
            ("px", None) => Kind::Px,
            ("direct", None) => Kind::Direct,
            (name, None) => {
                return Err(format!(
                    "unknown candidate {name:?}; possible are gateway, gateway-socks, \
                     gateway-socks-pipelined, gateway-socks4, gateway-transparent, gateway-forward, gateway-kerberos, gateway-tls, cntlm, haproxy, haproxy-splice, haproxy-http, \
                     haproxy-tls, nginx, squid, px, direct, NAME=PATH for a gateway binary, and NAME=ADDR or \
                     NAME=ADDR@PID for a running proxy"
                ));
            }
        };
        let protocol = match (name, value) {
            ("gateway-socks", None) => Protocol::Socks,
            ("gateway-socks-pipelined", None) => Protocol::SocksPipelined,
            ("gateway-socks4", None) => Protocol::Socks4,
            ("gateway-transparent", None) => Protocol::Transparent,
            ("gateway-forward", None) => Protocol::Forward,
            _ => Protocol::Connect,
        };
        Ok(Candidate { name: name.to_owned(), kind, protocol })
    }

    /// Its upstream.
    pub fn upstream(&self) -> UpstreamKind {
        match self.kind {
            Kind::Gateway(_) | Kind::Cntlm | Kind::Px => UpstreamKind::Ntlm,
            Kind::GatewayKerberos(_) => UpstreamKind::Kerberos,
            Kind::GatewayTls(_) => UpstreamKind::NtlmTls,
            Kind::HaproxyTls => UpstreamKind::OpenTls,
            _ => UpstreamKind::Open,
        }
    }

    /// Whether it is the program under test.
    pub fn is_gateway(&self) -> bool {
        matches!(self.kind, Kind::Gateway(_) | Kind::GatewayKerberos(_) | Kind::GatewayTls(_))
    }

    /// Why it cannot take part; `None` if it can.
    pub fn missing(&self) -> Option<String> {
        let command = match &self.kind {
            Kind::Gateway(path) | Kind::GatewayKerberos(path) | Kind::GatewayTls(path) if path.is_file() => {
                return (self.protocol == Protocol::Transparent).then(namespace::missing).flatten();
            }
            Kind::Gateway(path) | Kind::GatewayKerberos(path) | Kind::GatewayTls(path) => {
                return Some(format!("{} does not exist; build it with `cargo build --release`", path.display()));
            }
            Kind::Direct | Kind::Running { .. } => return None,
            Kind::Cntlm => "cntlm",
            Kind::Haproxy { .. } | Kind::HaproxyHttp | Kind::HaproxyTls => "haproxy",
            Kind::Squid => "squid",
            Kind::Nginx => "nginx",
            Kind::Px => "px",
        };
        if find(command).is_none() {
            return Some(format!("{command} is not installed"));
        }
        if self.kind == Kind::Nginx && stream_module().is_none() {
            return Some("nginx has no stream module (Debian: libnginx-mod-stream)".to_owned());
        }
        None
    }

    /// A short description for the report.
    pub fn what(&self) -> String {
        match &self.kind {
            Kind::Gateway(_) if self.protocol == Protocol::Socks => "ntlm-gateway: as gateway, by SOCKS5".to_owned(),
            Kind::Gateway(_) if self.protocol == Protocol::SocksPipelined => {
                "ntlm-gateway: as gateway, by SOCKS5 from clients that do not wait for the answer to their greeting"
                    .to_owned()
            }
            Kind::Gateway(_) if self.protocol == Protocol::Socks4 => "ntlm-gateway: as gateway, by SOCKS4a".to_owned(),
            Kind::Gateway(_) if self.protocol == Protocol::Transparent => {
                "ntlm-gateway: as gateway, by redirected connections with a ClientHello".to_owned()
            }
            Kind::Gateway(_) if self.protocol == Protocol::Forward => {
                "ntlm-gateway: as gateway, by a listener with a target".to_owned()
            }
            Kind::Gateway(_) => {
                "ntlm-gateway: a complete NTLMv2 handshake for every tunnel, kept connections for requests".to_owned()
            }
            Kind::GatewayKerberos(_) => {
                "ntlm-gateway: a ticket with the first request of every connection, kept connections for requests"
                    .to_owned()
            }
            Kind::GatewayTls(_) => {
                "ntlm-gateway: a complete NTLMv2 handshake for every tunnel, over TLS with resumed sessions".to_owned()
            }
            Kind::HaproxyTls => {
                "HAProxy, mode tcp, server ssl verify none: a relay to TLS without authentication".to_owned()
            }
            Kind::Cntlm => "Cntlm: NTLMv2 handshake, one thread per tunnel".to_owned(),
            Kind::Haproxy { forced_splice: false } => {
                "HAProxy, mode tcp, option splice-auto: a relay without authentication".to_owned()
            }
            Kind::Haproxy { forced_splice: true } => {
                "HAProxy, mode tcp, splicing forced, pipes of 512 KiB: a relay without authentication".to_owned()
            }
            Kind::HaproxyHttp => {
                "HAProxy, mode http, http-reuse always: forwards requests without authentication".to_owned()
            }
            Kind::Squid => {
                "Squid without a cache, with a parent that demands no authentication (it cannot use NTLM there)"
                    .to_owned()
            }
            Kind::Nginx => "nginx stream: a relay without authentication".to_owned(),
            Kind::Px => "Px: NTLM by libcurl, in Python".to_owned(),
            Kind::Direct => "no proxy: the client connects to an upstream that demands no authentication".to_owned(),
            Kind::Running { address, .. } => format!("a proxy already running at {address}"),
        }
    }
}

fn running(value: &str) -> Result<Kind, String> {
    let (address, pid) = value.split_once('@').map_or((value, None), |(address, pid)| (address, Some(pid)));
    let wrong =
        |error: &dyn std::fmt::Display| format!("{value:?} is neither a PATH with a slash nor ADDR[@PID]: {error}");
    let address = address.parse().map_err(|error| wrong(&error))?;
    let pid = pid.map(str::parse).transpose().map_err(|error| wrong(&error))?;
    Ok(Kind::Running { address, pid })
}

/// A command on the path, or in the directories of daemons, which are not on every user's path.
pub fn find(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(daemons).map(|directory| directory.join(command)).find(|file| file.is_file())
}

/// nginx's module for TCP; an empty path if it is built in.
pub fn stream_module() -> Option<PathBuf> {
    let places = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"];
    let module = places.iter().map(|place| Path::new(place).join("ngx_stream_module.so")).find(|file| file.is_file());
    module.or_else(|| {
        let output = std::process::Command::new(find("nginx")?).arg("-V").output().ok()?;
        let arguments = String::from_utf8_lossy(&output.stderr).into_owned();
        arguments.split_ascii_whitespace().any(|word| word == "--with-stream").then(PathBuf::new)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_parsed_as_names_paths_or_addresses() {
        let parse = |text| Candidate::parse(text, Path::new("/here/ntlm-gateway")).map(|candidate| candidate.kind);
        assert_eq!(parse("gateway"), Ok(Kind::Gateway("/here/ntlm-gateway".into())));
        assert_eq!(parse("gateway-socks"), Ok(Kind::Gateway("/here/ntlm-gateway".into())));
        assert_eq!(parse("gateway-kerberos"), Ok(Kind::GatewayKerberos("/here/ntlm-gateway".into())));
        assert_eq!(parse("gateway-tls"), Ok(Kind::GatewayTls("/here/ntlm-gateway".into())));
        assert_eq!(parse("old=./old/ntlm-gateway"), Ok(Kind::Gateway("./old/ntlm-gateway".into())));
        let address = "127.0.0.1:3128".parse().unwrap();
        assert_eq!(parse("mine=127.0.0.1:3128"), Ok(Kind::Running { address, pid: None }));
        assert_eq!(parse("mine=127.0.0.1:3128@77"), Ok(Kind::Running { address, pid: Some(77) }));
        assert!(parse("mine=localhost").unwrap_err().contains("localhost"));
        assert!(parse("sqiud").unwrap_err().contains("haproxy-splice"));
    }
}
