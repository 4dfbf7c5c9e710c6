//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ntlm_gateway::stub::Personality;

use crate::scenario::Scenario;

/// Load tests for an NTLM egress gateway: an upstream to test against, clients, and a comparison with other proxies.
#[derive(Parser)]
#[command(name = "ntlm-loadtest", version, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the stub upstream: a proxy that verifies NTLM and plays the origins itself
    Upstream(UpstreamOptions),
    /// Run one scenario through a proxy
    Run(RunOptions),
    /// Run scenarios through several candidates in turn and print their figures side by side
    Compare(CompareOptions),
    /// Make a self-contained HTML page from the output of `run --json` and `compare --json`
    Report(ReportOptions),
}

#[derive(Args)]
pub struct UpstreamOptions {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3128")]
    pub listen: SocketAddr,
    /// Address that serves the counters: GET /counters (JSON), GET /healthz
    #[arg(long, value_name = "ADDR")]
    pub control: Option<SocketAddr>,
    /// Number of event loops, each on its own thread
    #[arg(long, value_name = "N", default_value = "1")]
    pub threads: std::num::NonZeroUsize,
    /// Behaviour of the upstream; `list` prints all personalities
    #[arg(long, value_name = "NAME", default_value = "plain")]
    pub personality: String,
    /// Delay before every answer, in milliseconds, to simulate a round trip
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub delay_ms: u64,
    /// Account that may pass
    #[arg(long, value_name = "DOMAIN\\USER", default_value = DEFAULT_USER)]
    pub user: String,
    /// Password of the account; it protects nothing
    #[arg(long, value_name = "TEXT", default_value = DEFAULT_PASSWORD)]
    pub password: String,
    /// Lifetime of a connection in seconds, tunnels included [default: unlimited]
    #[arg(long, value_name = "SECONDS")]
    pub lifetime: Option<f64>,
    /// Serve TLS only, with a certificate for the address that is made at the start and written to this file
    #[arg(long, value_name = "FILE")]
    pub tls: Option<PathBuf>,
    /// With --tls: resume no session, so that every handshake is a full one
    #[arg(long, requires = "tls")]
    pub no_resumption: bool,
    #[command(flatten)]
    pub kerberos: UpstreamKerberos,
    /// Stop when standard input ends, so that it does not outlive the program that started it
    #[arg(long)]
    pub until_eof: bool,
}

/// Kerberos instead of NTLM.
#[derive(Args)]
pub struct UpstreamKerberos {
    /// Accept Kerberos only, and run a KDC of this realm that knows the account and the service
    #[arg(long, value_name = "REALM", conflicts_with = "keytab")]
    pub realm: Option<String>,
    /// Address of the KDC, by UDP and TCP; port 0 for any free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", requires = "realm")]
    pub kdc: SocketAddr,
    /// Service whose tickets the upstream accepts
    #[arg(long, value_name = "NAME", default_value = DEFAULT_SERVICE, requires = "realm")]
    pub service: String,
    /// Bytes that tickets contain in addition: those of Active Directory have several KB of group memberships
    #[arg(long, value_name = "BYTES", default_value_t = 0, requires = "realm")]
    pub ticket_bytes: usize,
    /// Accept Kerberos only, with the keys of this keytab; the KDC is another program
    #[arg(long, value_name = "FILE")]
    pub keytab: Option<PathBuf>,
    /// With --realm or --keytab: accept NTLM, too
    #[arg(long)]
    pub with_ntlm: bool,
}

/// The service of the stub.
pub const DEFAULT_SERVICE: &str = "HTTP/proxy.test";
/// The stub's default account.
pub const DEFAULT_USER: &str = "CORP\\alice";
/// Its password.
pub const DEFAULT_PASSWORD: &str = "correct horse";

#[derive(Args)]
pub struct RunOptions {
    /// Scenario to run
    pub scenario: Scenario,
    /// Proxies to connect to; connections are distributed among them in turn. For transparent, an address with port 443
    /// whose connections the kernel redirects to the gateway
    #[arg(long, value_name = "HOST:PORT", required = true, num_args = 1.., value_parser = resolve)]
    pub proxy: Vec<SocketAddr>,
    #[command(flatten)]
    pub load: LoadOptions,
    /// Total number of tunnels; for pingpong, messages per tunnel; for http, requests
    #[arg(long, value_name = "N", visible_alias = "requests")]
    pub count: Option<u64>,
    /// Open loop: tunnels started (http: requests sent) per second, however long the earlier ones take. Latencies are
    /// measured from the intended start
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Admin address of the gateway: its metrics are read before and after the run and must match the client's counts
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    pub metrics: Option<SocketAddr>,
    /// Control address of the stub: its counters are read before and after the run and must match as well
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    pub control: Option<SocketAddr>,
    /// Process ID of a proxy on this machine: the CPU time of it and its children is measured
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Write the results to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Number of tunnels that may fail before the exit status is 1
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub allow_failures: u64,
}

/// The load of one run.
#[derive(Args, Clone)]
pub struct LoadOptions {
    /// Concurrent tunnels (closed loop), or their upper limit (open loop); for hold, tunnels being opened at once; for
    /// http, connections
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// Duration in seconds; for hold, the idle time
    #[arg(long, value_name = "SECONDS", visible_alias = "seconds")]
    pub duration: Option<f64>,
    /// Size of an echoed message, in bytes
    #[arg(long, value_name = "BYTES")]
    pub size: Option<usize>,
    /// Size of a bulk transfer, in bytes
    #[arg(long, value_name = "BYTES")]
    pub bytes: Option<u64>,
    /// Size of each request's body, in bytes (http): 0 sends GET requests, anything else POST requests
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub body_bytes: usize,
    /// Seconds without progress after which a tunnel has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0)]
    pub patience: f64,
    /// Seconds after which the run is cut off, whatever its state
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    pub cap: f64,
    /// Check only the length of bulk transfers, not their content
    #[arg(long)]
    pub no_verify: bool,
    /// Number of source addresses to use, from 127.0.0.2 on, if one runs out of ports; 0 leaves it to the system
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub sources: u8,
}

#[derive(Args)]
pub struct CompareOptions {
    /// Candidates: gateway, gateway-socks, gateway-socks-pipelined, gateway-socks4, gateway-transparent,
    /// gateway-forward, gateway-kerberos, gateway-tls, cntlm, haproxy, haproxy-splice, haproxy-http, haproxy-tls, nginx,
    /// squid, px, direct; or NAME=PATH for another gateway binary; or NAME=ADDR or NAME=ADDR@PID for a proxy that is
    /// already running. With gateway-transparent, which needs root, unshare, ip and nft, the whole comparison runs in a
    /// network namespace of its own, where nft redirects connections to the gateway
    #[arg(required = true, value_name = "NAME[=PATH|=ADDR[@PID]]")]
    pub candidates: Vec<String>,
    /// Measurements to run [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub scenarios: Vec<String>,
    /// Number of rounds; each round measures every candidate once
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Shards of the gateway, and threads of the other proxies that have such a setting
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub shards: usize,
    /// Threads of the stub
    #[arg(long, value_name = "N", default_value = "1")]
    pub stub_threads: std::num::NonZeroUsize,
    /// Use a smaller load and two rounds, to see that everything works
    #[arg(long)]
    pub quick: bool,
    /// Number of tunnels that `hold` keeps open [default: 9800, quick: 500]
    #[arg(long, value_name = "N")]
    pub tunnels: Option<u64>,
    /// Concurrent tunnels in `setup` and `pingpong` [default: 64]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// Duration of a timed measurement, in seconds [default: 4, quick: 1]
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// Size of a bulk transfer, in bytes; there are 8 [default: 134217728, quick: 16777216]
    #[arg(long, value_name = "BYTES")]
    pub bytes: Option<u64>,
    /// Tunnels started per second in `open` [default: half of the first candidate's rate in a short closed loop]
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Candidate that the others are compared with [default: haproxy if it takes part, else the first]
    #[arg(long, value_name = "NAME")]
    pub base: Option<String>,
    /// Path of the gateway's binary [default: in the directory of this one]
    #[arg(long, value_name = "PATH")]
    pub gateway: Option<PathBuf>,
    /// Bytes that tickets contain in addition (gateway-kerberos): those of Active Directory have several KB of group
    /// memberships
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub ticket_bytes: usize,
    /// Let the stubs with TLS resume no session, so that every handshake is a full one
    #[arg(long)]
    pub no_resumption: bool,
    /// Additional argument for the gateway's `run`; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub gateway_arg: Vec<String>,
    /// Check only the length of bulk transfers, not their content
    #[arg(long)]
    pub no_verify: bool,
    /// File to write the figures to
    #[arg(long, value_name = "FILE", default_value = "compare.json")]
    pub json: PathBuf,
    /// Directory for the candidates' configuration files and logs [default: a new directory below the temporary one]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
}

#[derive(Args)]
pub struct ReportOptions {
    /// Files written by `run --json` and `compare --json`
    #[arg(required_unless_present = "costs", value_name = "FILE.json")]
    pub files: Vec<PathBuf>,
    /// Also show the history of the instruction counts, from tests/costs/history.tsv
    #[arg(long, value_name = "FILE.tsv")]
    pub costs: Option<PathBuf>,
    /// File to write the page to
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub html: PathBuf,
    /// Also write a screenshot of the page to this file; needs Chromium
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,
}

/// The first address of `HOST:PORT`; in a cluster, services are known by name.
fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| error.to_string())?;
    addresses.next().ok_or_else(|| "the name has no address".to_owned())
}

impl UpstreamOptions {
    /// The personality; `None` if the list was asked for.
    pub fn personality(&self) -> Result<Option<Personality>, ntlm_gateway::stub::UnknownPersonality> {
        if self.personality == "list" { Ok(None) } else { self.personality.parse().map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn proxies_may_be_given_by_name() {
        assert_eq!(resolve("localhost:3128").map(|address| address.port()), Ok(3128));
        assert!(resolve("localhost").is_err());
    }
}
