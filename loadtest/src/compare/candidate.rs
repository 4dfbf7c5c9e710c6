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
    /// `ntlm-gateway` from this binary, which authenticates as its upstream demands.
    Gateway { program: PathBuf, upstream: UpstreamKind },
    /// Another proxy.
    Peer(Peer),
    /// No proxy: the client's CONNECT goes to the stub.
    Direct,
    /// Already running, with whatever upstream it has.
    Running { address: SocketAddr, pid: Option<u32> },
}

/// Another proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
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

/// A candidate that has a name of its own.
struct Known {
    name: &'static str,
    kind: KnownKind,
    /// A short description for the report.
    what: &'static str,
}

enum KnownKind {
    Gateway(UpstreamKind, Protocol),
    Peer(Peer),
    Direct,
}

const fn gateway(name: &'static str, upstream: UpstreamKind, protocol: Protocol, what: &'static str) -> Known {
    Known { name, kind: KnownKind::Gateway(upstream, protocol), what }
}

const fn peer(name: &'static str, peer: Peer, what: &'static str) -> Known {
    Known { name, kind: KnownKind::Peer(peer), what }
}

/// All of them.
const KNOWN: [Known; 17] = [
    gateway(
        "gateway",
        UpstreamKind::Ntlm,
        Protocol::Connect,
        "ntlm-gateway: a complete NTLMv2 handshake for every tunnel, kept connections for requests",
    ),
    gateway("gateway-socks", UpstreamKind::Ntlm, Protocol::Socks, "ntlm-gateway: as gateway, by SOCKS5"),
    gateway(
        "gateway-socks-pipelined",
        UpstreamKind::Ntlm,
        Protocol::SocksPipelined,
        "ntlm-gateway: as gateway, by SOCKS5 from clients that do not wait for the answer to their greeting",
    ),
    gateway("gateway-socks4", UpstreamKind::Ntlm, Protocol::Socks4, "ntlm-gateway: as gateway, by SOCKS4a"),
    gateway(
        "gateway-transparent",
        UpstreamKind::Ntlm,
        Protocol::Transparent,
        "ntlm-gateway: as gateway, by redirected connections with a ClientHello",
    ),
    gateway(
        "gateway-forward",
        UpstreamKind::Ntlm,
        Protocol::Forward,
        "ntlm-gateway: as gateway, by a listener with a target",
    ),
    gateway(
        "gateway-kerberos",
        UpstreamKind::Kerberos,
        Protocol::Connect,
        "ntlm-gateway: a ticket with the first request of every connection, kept connections for requests",
    ),
    gateway(
        "gateway-tls",
        UpstreamKind::NtlmTls,
        Protocol::Connect,
        "ntlm-gateway: a complete NTLMv2 handshake for every tunnel, over TLS with resumed sessions",
    ),
    peer("cntlm", Peer::Cntlm, "Cntlm: NTLMv2 handshake, one thread per tunnel"),
    peer(
        "haproxy",
        Peer::Haproxy { forced_splice: false },
        "HAProxy, mode tcp, option splice-auto: a relay without authentication",
    ),
    peer(
        "haproxy-splice",
        Peer::Haproxy { forced_splice: true },
        "HAProxy, mode tcp, splicing forced, pipes of 512 KiB: a relay without authentication",
    ),
    peer(
        "haproxy-http",
        Peer::HaproxyHttp,
        "HAProxy, mode http, http-reuse always: forwards requests without authentication",
    ),
    peer(
        "haproxy-tls",
        Peer::HaproxyTls,
        "HAProxy, mode tcp, server ssl verify none: a relay to TLS without authentication",
    ),
    peer("nginx", Peer::Nginx, "nginx stream: a relay without authentication"),
    peer(
        "squid",
        Peer::Squid,
        "Squid without a cache, with a parent that demands no authentication (it cannot use NTLM there)",
    ),
    peer("px", Peer::Px, "Px: NTLM by libcurl, in Python"),
    Known {
        name: "direct",
        kind: KnownKind::Direct,
        what: "no proxy: the client connects to an upstream that demands no authentication",
    },
];

impl Candidate {
    /// Parses `NAME`, `NAME=PATH` and `NAME=ADDR[@PID]`. `program` is the gateway of names without a path.
    ///
    /// # Errors
    /// A text that lists the alternatives.
    pub fn parse(text: &str, program: &Path) -> Result<Candidate, String> {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let ntlm = |program: &Path| Kind::Gateway { program: program.to_owned(), upstream: UpstreamKind::Ntlm };
        let (kind, protocol) = match value {
            Some(value) if value.contains('/') => (ntlm(Path::new(value)), Protocol::Connect),
            Some(value) => (running(value)?, Protocol::Connect),
            None => {
                let known = KNOWN.iter().find(|known| known.name == name).ok_or_else(|| unknown(name))?;
                match known.kind {
                    KnownKind::Gateway(upstream, protocol) => {
                        (Kind::Gateway { program: program.to_owned(), upstream }, protocol)
                    }
                    KnownKind::Peer(peer) => (Kind::Peer(peer), Protocol::Connect),
                    KnownKind::Direct => (Kind::Direct, Protocol::Connect),
                }
            }
        };
        Ok(Candidate { name: name.to_owned(), kind, protocol })
    }

    /// Its upstream.
    pub fn upstream(&self) -> UpstreamKind {
        match self.kind {
            Kind::Gateway { upstream, .. } => upstream,
            Kind::Peer(Peer::Cntlm | Peer::Px) => UpstreamKind::Ntlm,
            Kind::Peer(Peer::HaproxyTls) => UpstreamKind::OpenTls,
            Kind::Peer(_) | Kind::Direct | Kind::Running { .. } => UpstreamKind::Open,
        }
    }

    /// Whether it is the program under test.
    pub fn is_gateway(&self) -> bool {
        matches!(self.kind, Kind::Gateway { .. })
    }

    /// Why it cannot take part; `None` if it can.
    pub fn missing(&self) -> Option<String> {
        let peer = match &self.kind {
            Kind::Gateway { program, .. } if program.is_file() => {
                return (self.protocol == Protocol::Transparent).then(namespace::missing).flatten();
            }
            Kind::Gateway { program, .. } => {
                return Some(format!("{} does not exist; build it with `cargo build --release`", program.display()));
            }
            Kind::Direct | Kind::Running { .. } => return None,
            Kind::Peer(peer) => *peer,
        };
        let command = peer.command();
        if find(command).is_none() {
            return Some(format!("{command} is not installed"));
        }
        if peer == Peer::Nginx && stream_module().is_none() {
            return Some("nginx has no stream module (Debian: libnginx-mod-stream)".to_owned());
        }
        None
    }

    /// A short description for the report.
    pub fn what(&self) -> String {
        if let Kind::Running { address, .. } = &self.kind {
            return format!("a proxy already running at {address}");
        }
        // A gateway from a path is one like `gateway`.
        let known = KNOWN.iter().find(|known| known.name == self.name).or(KNOWN.first());
        known.map(|known| known.what.to_owned()).unwrap_or_default()
    }
}

impl Peer {
    /// Its program.
    fn command(self) -> &'static str {
        match self {
            Peer::Cntlm => "cntlm",
            Peer::Haproxy { .. } | Peer::HaproxyHttp | Peer::HaproxyTls => "haproxy",
            Peer::Squid => "squid",
            Peer::Nginx => "nginx",
            Peer::Px => "px",
        }
    }
}

fn unknown(name: &str) -> String {
    let names: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
    format!(
        "unknown candidate {name:?}; possible are {}, NAME=PATH for a gateway binary, and NAME=ADDR or NAME=ADDR@PID for \
         a running proxy",
        names.join(", ")
    )
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
        let gateway = |program: &str, upstream| Ok(Kind::Gateway { program: program.into(), upstream });
        assert_eq!(parse("gateway"), gateway("/here/ntlm-gateway", UpstreamKind::Ntlm));
        assert_eq!(parse("gateway-socks"), gateway("/here/ntlm-gateway", UpstreamKind::Ntlm));
        assert_eq!(parse("gateway-kerberos"), gateway("/here/ntlm-gateway", UpstreamKind::Kerberos));
        assert_eq!(parse("gateway-tls"), gateway("/here/ntlm-gateway", UpstreamKind::NtlmTls));
        assert_eq!(parse("haproxy-splice"), Ok(Kind::Peer(Peer::Haproxy { forced_splice: true })));
        assert_eq!(parse("old=./old/ntlm-gateway"), gateway("./old/ntlm-gateway", UpstreamKind::Ntlm));
        let address = "127.0.0.1:3128".parse().unwrap();
        assert_eq!(parse("mine=127.0.0.1:3128"), Ok(Kind::Running { address, pid: None }));
        assert_eq!(parse("mine=127.0.0.1:3128@77"), Ok(Kind::Running { address, pid: Some(77) }));
        assert!(parse("mine=localhost").unwrap_err().contains("localhost"));
        assert!(parse("sqiud").unwrap_err().contains("haproxy-splice"));
    }
}
