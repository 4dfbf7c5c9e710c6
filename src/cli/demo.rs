//! `ntlm-gateway demo`: the gateway together with a proxy that asks for NTLM, with no proxy, account or file to be had.

/// A line on standard output. Whoever reads it may have seen enough and gone (`demo | head`): that is no error.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod legs;
mod tap;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::fail;
use crate::config::{self, Config, ConfigErrors, LogFormat, Origin, Setting, Settings, Sources, keys, secrets};
use crate::gateway::Gateway;
use crate::logging;
use crate::stub::{StubOptions, StubServer};
use legs::{Legs, Way};
use tap::{Heard, Tap};

const ANY_PORT: &str = "127.0.0.1:0";

/// The account of the demonstration; it is known to nobody but the stub in this process.
const DOMAIN: &str = "DEMO";
const USER: &str = "alice";
const PASSWORD: &str = "correct horse battery staple";

/// An origin that the stub plays.
const HOST: &str = "hello.demo";

/// How long the demonstration waits for its own answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the demonstration is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Send one request through the gateway, show what happened, and end.
    pub once: bool,
    /// Where the gateway listens; port 0 for any that is free.
    pub listen: SocketAddr,
    /// Where its metrics are; port 0 for any that is free.
    pub admin: SocketAddr,
}

pub(super) fn command() -> Command {
    let address = |name: &'static str, help| {
        let parser = value_parser!(SocketAddr);
        Arg::new(name).long(name).value_name("ADDR:PORT").default_value(ANY_PORT).value_parser(parser).help(help)
    };
    Command::new("demo")
        .about("Try the gateway: it starts together with a proxy that asks for NTLM, and needs nothing else")
        .arg(
            Arg::new("once").long("once").action(ArgAction::SetTrue).help(
                "Send one request through the gateway, show what happened, and end; without it, run until Ctrl-C",
            ),
        )
        .arg(address("listen", "Where the gateway listens; port 0 takes any that is free"))
        .arg(address("admin", "Where /metrics, /healthz and /readyz are served; port 0 takes any that is free"))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    match logging::init(LogFormat::Text, log::LevelFilter::Warn) {
        Ok(_guard) => start(&options(matches)),
        Err(error) => fail(format_args!("cannot start logging: {error}")),
    }
}

fn options(matches: &ArgMatches) -> DemoOptions {
    let address = |name| matches.get_one(name).copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    DemoOptions { once: matches.get_flag("once"), listen: address("listen"), admin: address("admin") }
}

fn start(options: &DemoOptions) -> ExitCode {
    match demonstrate(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

/// Starts the proxy and the gateway, sends one request through both and shows what happened.
fn demonstrate(options: &DemoOptions) -> Result<(), Box<dyn std::error::Error>> {
    let stub = StubServer::start(StubOptions::default().account(DOMAIN, USER, PASSWORD))?;
    let tap = Tap::start(stub.address())?;
    let gateway = Gateway::start(&config(options, tap.address())?, || {})?;
    let listening = gateway.listening().first().copied().ok_or("the gateway has no address")?;
    say!("An upstream proxy that demands NTLM, and verifies it, is on {}; it knows {DOMAIN}\\{USER}.", tap.address());
    say!("The gateway is on {listening}, its metrics on http://{}/metrics.\n", gateway.admin_address());
    say!("One request of a client that knows nothing of NTLM:\n");
    let before = gateway.metrics().encode()?;
    let page = fetch(reachable(listening), &tap)?;
    say!("\nThrough the tunnel came the origin's page: {}\n", page.trim_end());
    say!("What it changed in the metrics:\n");
    changed(&before, &gateway.metrics().encode()?).iter().for_each(|line| say!("  {line}"));
    if !options.once {
        let (proxy, admin) = (reachable(listening), reachable(gateway.admin_address()));
        say!("\nNow you:\n\n  curl --proxytunnel -x http://{proxy} http://{HOST}/");
        say!("  curl http://{admin}/metrics\n");
        say!(
            "There is no way out of the demonstration: its proxy plays the host {HOST} itself, and others it does not reach."
        );
        say!("It serves until Ctrl-C.");
        Signals::new([SIGINT, SIGTERM])?.forever().next();
    }
    gateway.stop();
    gateway.join()?;
    Ok(())
}

/// The configuration that a user would write for the stub.
fn config(options: &DemoOptions, upstream: SocketAddr) -> Result<Config, ConfigErrors> {
    let mut settings = Settings::default();
    let account = format!("{DOMAIN}\\{USER}");
    for (name, text) in [
        ("listen", options.listen.to_string()),
        ("admin", options.admin.to_string()),
        ("upstream", upstream.to_string()),
        ("user", account),
        // Beyond loopback a gateway must be told who may come. Here all may: the account is known to this process alone, and the proxy
        // reaches nothing.
        ("allow_clients", "0.0.0.0/0,::/0".into()),
        ("shards", "1".into()),
        ("max_tunnels", "1000".into()),
        // What is challenged ahead would stand among the legs and the metrics of the one request.
        ("warm", "0".into()),
    ] {
        if let Some(key) = keys::find(name) {
            settings.give(key, Setting::new(text, Origin::Default));
        }
    }
    let password = |name: &str| (name == secrets::password_variable()).then(|| PASSWORD.into());
    config::load(&Sources::new(settings, password)?)
}

/// An address that a client on this machine can use: where all are listened on, that of loopback.
fn reachable(listening: SocketAddr) -> SocketAddr {
    match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, listening.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, listening.port())),
        _ => listening,
    }
}

/// Sends the request as a client does, printing each leg; returns the page that came back.
fn fetch(gateway: SocketAddr, tap: &Tap) -> Result<String, Box<dyn std::error::Error>> {
    let mut legs = Legs::begin();
    let mut stream = TcpStream::connect(gateway)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("CONNECT {HOST}:80 HTTP/1.1\r\nHost: {HOST}:80\r\n\r\n");
    legs.add(Way::ClientToGateway, request.as_bytes());
    stream.write_all(request.as_bytes())?;
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer)?;
    let came = Instant::now();
    for Heard { at, way, bytes } in tap.take() {
        legs.add_at(at, way, &bytes);
    }
    legs.add_at(came, Way::GatewayToClient, answer.get(..count).unwrap_or_default());
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err("the gateway did not open the tunnel; the lines above say why".into());
    }
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or(page))
}

/// The gateway's own sample lines that differ, as `name: before → after`; histogram buckets are left out.
fn changed(before: &[u8], after: &[u8]) -> Vec<String> {
    let (before, after) = (String::from_utf8_lossy(before), String::from_utf8_lossy(after));
    let samples = |text: &str| -> Vec<(String, String)> {
        let telling = |line: &&str| {
            let noise = ["_bucket{", "_count{", "loop_turn"];
            line.starts_with("ntlm_gateway_") && !noise.iter().any(|part| line.contains(part))
        };
        let ours = text.lines().filter(telling);
        ours.filter_map(|line| line.rsplit_once(' ').map(|(name, value)| (name.into(), value.into()))).collect()
    };
    let old = samples(&before);
    let value_before =
        |name: &str| old.iter().find(|(known, _)| known == name).map_or("0", |(_, value)| value.as_str());
    let news = samples(&after).into_iter().filter(|(name, value)| value_before(name) != value);
    news.map(|(name, value)| format!("{name}: {} → {value}", value_before(&name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> DemoOptions {
        options(&command().no_binary_name(true).try_get_matches_from(line).unwrap())
    }

    #[test]
    fn the_demonstration_takes_free_ports_of_loopback_unless_told_otherwise() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        assert_eq!(parsed(&[]), DemoOptions { once: false, listen: any, admin: any });
        let listen = "127.0.0.1:3128".parse().unwrap();
        assert_eq!(parsed(&["--once", "--listen", "127.0.0.1:3128"]), DemoOptions { once: true, listen, admin: any });
    }
}
