//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ntlm_gateway::stub::Personality;

use crate::scenario::Scenario;

/// Load tests of an NTLM egress gateway: an upstream to test against, clients, and comparisons with its peers.
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
    /// Run scenarios through several candidates in turn and set their figures side by side
    Compare(CompareOptions),
    /// Make a self-contained HTML page of what `run --json` and `compare --json` wrote
    Report(ReportOptions),
}

#[derive(Args)]
pub struct UpstreamOptions {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3128")]
    pub listen: SocketAddr,
    /// Where to serve the counters: GET /counters (JSON), GET /healthz
    #[arg(long, value_name = "ADDR")]
    pub control: Option<SocketAddr>,
    /// Loops, each on a thread of its own
    #[arg(long, value_name = "N", default_value = "1")]
    pub threads: std::num::NonZeroUsize,
    /// How it behaves; `list` prints all personalities
    #[arg(long, value_name = "NAME", default_value = "plain")]
    pub personality: String,
    /// Milliseconds before every answer, to stand for a round trip
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub delay_ms: u64,
    /// Who may pass
    #[arg(long, value_name = "DOMAIN\\USER", default_value = DEFAULT_USER)]
    pub user: String,
    /// The account's password; it protects nothing
    #[arg(long, value_name = "TEXT", default_value = DEFAULT_PASSWORD)]
    pub password: String,
    /// Seconds after which a connection ends, tunnels included [default: never]
    #[arg(long, value_name = "SECONDS")]
    pub lifetime: Option<f64>,
    /// Stop when standard input ends, so that it does not outlive the program that started it
    #[arg(long)]
    pub until_eof: bool,
}

/// The account of the stub unless told otherwise.
pub const DEFAULT_USER: &str = "CORP\\alice";
/// Its password.
pub const DEFAULT_PASSWORD: &str = "correct horse";

#[derive(Args)]
pub struct RunOptions {
    /// What the tunnels do; for http, the clients
    pub scenario: Scenario,
    /// The proxies; tunnels are dealt out to them in turn
    #[arg(long, value_name = "HOST:PORT", required = true, num_args = 1.., value_parser = resolve)]
    pub proxy: Vec<SocketAddr>,
    #[command(flatten)]
    pub load: LoadOptions,
    /// Tunnels that the scenario comes to, all in all; for pingpong, messages per tunnel; for http, requests
    #[arg(long, value_name = "N", visible_alias = "requests")]
    pub count: Option<u64>,
    /// Open loop: tunnels begun (http: requests sent) per second, however the earlier ones fare. Latencies count from the intended start
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// The gateway's admin address: its metrics are read before and after and must agree with the client
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    pub metrics: Option<SocketAddr>,
    /// The stub's control address: its counters are read before and after and must agree, too
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    pub control: Option<SocketAddr>,
    /// The proxy's process, on this machine: its CPU and its children's is measured
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Write the outcome there as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Tunnels that may fail before the exit status says so
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub allow_failures: u64,
}

/// What shapes the load of one run.
#[derive(Args, Clone)]
pub struct LoadOptions {
    /// Tunnels at once (closed loop); at most so many open at once (open loop); for hold, being opened at once; for http,
    /// connections
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// Seconds that it lasts; for hold, seconds of idleness
    #[arg(long, value_name = "SECONDS", visible_alias = "seconds")]
    pub duration: Option<f64>,
    /// Bytes of one echoed message
    #[arg(long, value_name = "BYTES")]
    pub size: Option<usize>,
    /// Bytes of one bulk transfer
    #[arg(long, value_name = "BYTES")]
    pub bytes: Option<u64>,
    /// Bytes of the body of each request (http): with 0 it is a GET, otherwise a POST
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub body_bytes: usize,
    /// Seconds that a tunnel may stand still before it counts as failed
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0)]
    pub patience: f64,
    /// Seconds after which the run is cut off, whatever its state
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    pub cap: f64,
    /// Do not check the bytes of bulk transfers, only their number
    #[arg(long)]
    pub no_verify: bool,
    /// Source addresses 127.0.0.2 and up to connect from, if one runs out of ports; 0 leaves it to the system
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub sources: u8,
}

#[derive(Args)]
pub struct CompareOptions {
    /// gateway, cntlm, haproxy, haproxy-splice, haproxy-http, nginx, squid, px, direct; or NAME=PATH, another gateway binary; or NAME=ADDR or
    /// NAME=ADDR@PID, a proxy that runs already
    #[arg(required = true, value_name = "NAME[=PATH|=ADDR[@PID]]")]
    pub candidates: Vec<String>,
    /// What to measure [default: all of them]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub scenarios: Vec<String>,
    /// Rounds; each measures every candidate once
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Shards of the gateway and threads of the peers that have such a setting
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub shards: usize,
    /// Threads of the stub
    #[arg(long, value_name = "N", default_value = "1")]
    pub stub_threads: std::num::NonZeroUsize,
    /// A smaller load and two rounds, to see that everything works
    #[arg(long)]
    pub quick: bool,
    /// Tunnels that `hold` holds [default: 9800, quick: 500]
    #[arg(long, value_name = "N")]
    pub tunnels: Option<u64>,
    /// Tunnels at once in `setup` and `pingpong` [default: 64]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// Seconds that a measurement lasts where time ends it [default: 4, quick: 1]
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// Bytes of one bulk transfer; there are 8 [default: 134217728, quick: 16777216]
    #[arg(long, value_name = "BYTES")]
    pub bytes: Option<u64>,
    /// Tunnels begun per second in `open` [default: half of the first candidate's rate in a short closed loop]
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// The candidate that the others' figures are divided by [default: haproxy if it takes part, else the first]
    #[arg(long, value_name = "NAME")]
    pub base: Option<String>,
    /// The gateway's binary [default: beside this one]
    #[arg(long, value_name = "PATH")]
    pub gateway: Option<PathBuf>,
    /// One more argument for the gateway's `run`; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub gateway_arg: Vec<String>,
    /// Do not check the bytes of bulk transfers, only their number
    #[arg(long)]
    pub no_verify: bool,
    /// Where to write the figures
    #[arg(long, value_name = "FILE", default_value = "compare.json")]
    pub json: PathBuf,
    /// Where configuration files and logs of the candidates go [default: a new directory under the system's temporary one]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
}

#[derive(Args)]
pub struct ReportOptions {
    /// What `run --json` and `compare --json` wrote
    #[arg(required = true, value_name = "FILE.json")]
    pub files: Vec<PathBuf>,
    /// Where to write the page
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub html: PathBuf,
    /// Take a picture of the page, too; needs Chromium
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,
}

/// The first address of `HOST:PORT`; in a cluster, services are known by name.
fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| error.to_string())?;
    addresses.next().ok_or_else(|| "the name has no address".to_owned())
}

impl UpstreamOptions {
    /// The personality, unless the name asks for the list.
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
