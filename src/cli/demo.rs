//! `ntlm-gateway demo`: the gateway together with a proxy that requires NTLM or, with `--kerberos`, accepts only
//! Kerberos. It needs no other proxy, no KDC, no account and no files.

/// Prints a line on standard output. A reader that has gone away (`demo | head`) is not an error.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod legs;
mod peers;
mod tap;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::fail;
use crate::config::{self, Config, ConfigErrors, Inputs, LogFormat, Setting, Settings, Source, keys, secrets};
use crate::gateway::Gateway;
use crate::logging;
use legs::{Direction, Legs};
use peers::Peers;
use tap::{Piece, Tap};

const ANY_PORT: &str = "127.0.0.1:0";

/// The account of the demonstration, which only this process knows.
const USER: &str = "alice";
const PASSWORD: &str = "correct horse battery staple";

/// An origin that the stub simulates.
const HOST: &str = "hello.demo";

/// How long the demonstration waits for its own response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The options of the demonstration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Send one request through the gateway, show what happened, and exit.
    pub once: bool,
    /// Authenticate by Kerberos instead of NTLM.
    pub kerberos: bool,
    /// Reach the proxy with TLS.
    pub tls: bool,
    /// Where the gateway listens; port 0 for any free port.
    pub listen: SocketAddr,
    /// Where its metrics are served; port 0 for any free port.
    pub admin: SocketAddr,
}

pub(super) fn command() -> Command {
    let address = |name: &'static str, help| {
        let parser = value_parser!(SocketAddr);
        Arg::new(name).long(name).value_name("ADDR:PORT").default_value(ANY_PORT).value_parser(parser).help(help)
    };
    Command::new("demo")
        .about(
            "Try the gateway: starts it together with a proxy that requires NTLM or Kerberos; nothing else is needed",
        )
        .arg(
            Arg::new("once").long("once").action(ArgAction::SetTrue).help(
                "Send one request through the gateway, show what happened, and exit; otherwise, run until Ctrl-C",
            ),
        )
        .arg(Arg::new("kerberos").long("kerberos").action(ArgAction::SetTrue).help(
            "Show Kerberos instead of NTLM: the proxy accepts nothing else, and a KDC with the account is started, too",
        ))
        .arg(Arg::new("tls").long("tls").action(ArgAction::SetTrue).help(
            "Reach the proxy with TLS; its certificate is made for the demonstration, and nobody on the wire sees the logon",
        ))
        .arg(address("listen", "Where the gateway listens; port 0 for any free port"))
        .arg(address("admin", "Where /metrics, /healthz and /readyz are served; port 0 for any free port"))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    match logging::init(LogFormat::Text, log::LevelFilter::Warn) {
        Ok(_guard) => start(&options(matches)),
        Err(error) => fail(format_args!("cannot start logging: {error}")),
    }
}

fn options(matches: &ArgMatches) -> DemoOptions {
    let address = |name| matches.get_one(name).copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let [once, kerberos, tls] = ["once", "kerberos", "tls"].map(|name| matches.get_flag(name));
    DemoOptions { once, kerberos, tls, listen: address("listen"), admin: address("admin") }
}

fn start(options: &DemoOptions) -> ExitCode {
    match demonstrate(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

/// Starts the proxy and the gateway, sends one request through both and shows what happened.
fn demonstrate(options: &DemoOptions) -> Result<(), Box<dyn std::error::Error>> {
    let peers = Peers::start(options.kerberos, options.tls)?;
    let gateway = Gateway::start(&config(options, &peers)?, || {})?;
    let before = gateway.metrics().encode()?;
    let listening = gateway.listening().first().copied().ok_or("the gateway has no address")?;
    peers.introduce();
    say!("The gateway is on {listening}, its metrics are on http://{}/metrics.\n", gateway.admin_address());
    peers.show_tickets()?;
    say!("One request of a client without {}:\n", peers.scheme());
    let page = fetch(reachable(listening), peers.upstream())?;
    say!("\nThe origin's page, received through the tunnel: {}\n", page.trim_end());
    say!("The metrics that have changed:\n");
    changed(&before, &gateway.metrics().encode()?).iter().for_each(|line| say!("  {line}"));
    if !options.once {
        let (proxy, admin) = (reachable(listening), reachable(gateway.admin_address()));
        say!("\nTry it yourself:\n\n  curl --proxytunnel -x http://{proxy} http://{HOST}/");
        say!("  curl http://{admin}/metrics\n");
        say!(
            "The demonstration has no access to the network: its proxy simulates the host {HOST} and reaches no others."
        );
        say!("It runs until Ctrl-C.");
        Signals::new([SIGINT, SIGTERM])?.forever().next();
    }
    gateway.stop();
    gateway.join()?;
    Ok(())
}

/// The configuration for the stub.
fn config(options: &DemoOptions, peers: &Peers) -> Result<Config, ConfigErrors> {
    let mut settings = Settings::default();
    for (name, text) in [
        ("listen", options.listen.to_string()),
        ("admin", options.admin.to_string()),
        // Required for listening beyond loopback. Every client is allowed, because only this process knows the account,
        // and the proxy reaches nothing.
        ("allow_clients", "0.0.0.0/0,::/0".into()),
        ("shards", "1".into()),
        ("max_tunnels", "1000".into()),
        // Pre-challenged connections would appear among the legs and the metrics of the one request.
        ("warm", "0".into()),
    ]
    .into_iter()
    .chain(peers.settings())
    {
        if let Some(key) = keys::find(name) {
            settings.give(key, Setting::new(text, Source::Default));
        }
    }
    let password = |name: &str| peers.password().filter(|_| name == secrets::password_variable()).map(Into::into);
    config::load(&Inputs::new(settings, password)?)
}

/// An address that a client on this machine can use: loopback if the gateway listens on all addresses.
fn reachable(listening: SocketAddr) -> SocketAddr {
    match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, listening.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, listening.port())),
        _ => listening,
    }
}

/// Sends the request like a client and prints each leg; returns the page.
fn fetch(gateway: SocketAddr, tap: &Tap) -> Result<String, Box<dyn std::error::Error>> {
    let mut legs = Legs::begin();
    let mut stream = TcpStream::connect(gateway)?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    let request = format!("CONNECT {HOST}:80 HTTP/1.1\r\nHost: {HOST}:80\r\n\r\n");
    legs.add(Direction::ClientToGateway, request.as_bytes());
    stream.write_all(request.as_bytes())?;
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer)?;
    let received = Instant::now();
    for Piece { at, direction, bytes } in tap.take() {
        legs.add_at(at, direction, &bytes);
    }
    legs.add_at(received, Direction::GatewayToClient, answer.get(..count).unwrap_or_default());
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err("the gateway did not open the tunnel; see the lines above".into());
    }
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or(page))
}

/// The gateway's own samples that differ, as `name: before → after`, without histogram buckets.
fn changed(before: &[u8], after: &[u8]) -> Vec<String> {
    let (before, after) = (String::from_utf8_lossy(before), String::from_utf8_lossy(after));
    let samples = |text: &str| -> Vec<(String, String)> {
        let relevant = |line: &&str| {
            let noise = ["_bucket{", "_count{", "loop_turn"];
            line.starts_with("ntlm_gateway_") && !noise.iter().any(|part| line.contains(part))
        };
        let ours = text.lines().filter(relevant);
        ours.filter_map(|line| line.rsplit_once(' ').map(|(name, value)| (name.into(), value.into()))).collect()
    };
    let old = samples(&before);
    let value_before =
        |name: &str| old.iter().find(|(known, _)| known == name).map_or("0", |(_, value)| value.as_str());
    let different = samples(&after).into_iter().filter(|(name, value)| value_before(name) != value);
    different.map(|(name, value)| format!("{name}: {} → {value}", value_before(&name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> DemoOptions {
        options(&command().no_binary_name(true).try_get_matches_from(line).unwrap())
    }

    #[test]
    fn the_demonstration_uses_free_ports_on_loopback_by_default() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        assert_eq!(parsed(&[]), DemoOptions { once: false, kerberos: false, tls: false, listen: any, admin: any });
        let listen = "127.0.0.1:3128".parse().unwrap();
        assert_eq!(
            parsed(&["--once", "--kerberos", "--tls", "--listen", "127.0.0.1:3128"]),
            DemoOptions { once: true, kerberos: true, tls: true, listen, admin: any }
        );
    }
}
