//! What the tunnels, or the plain HTTP clients, of a run do.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::arguments::LoadOptions;

/// The scenario of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Open a tunnel, echo 64 bytes, close it
    Setup,
    /// Keep thousands of tunnels idle, then check that each still works
    Hold,
    /// Upload: the client sends, and the origin reports what it received
    BulkUp,
    /// Download: the origin sends, and the client checks every byte
    BulkDown,
    /// Exchange small messages on tunnels that stay open
    Pingpong,
    /// As pingpong; in the second half of the time another tunnel receives as fast as it can
    Fairness,
    /// A mix as in a cluster: many short tunnels, some long ones, a few bulk transfers
    Mixed,
    /// Send plain HTTP requests, without tunnels, one after the other on keep-alive connections
    Http,
    /// Clients disappear at every stage, while some stay to check that the proxy still works
    Churn,
    /// Like setup, by SOCKS5
    Socks,
    /// Like setup, from clients that know of no proxy: a ClientHello instead of CONNECT, to an address (--proxy) from
    /// which the kernel redirects connections to the gateway
    Transparent,
    /// Like setup, to a listener with the fixed target echo.test:443
    Forward,
}

/// How clients ask for their tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// By CONNECT.
    #[default]
    Connect,
    /// By SOCKS5, without a login.
    Socks,
    /// The same, without waiting for the answer to the greeting.
    SocksPipelined,
    /// By SOCKS4a.
    Socks4,
    /// Not at all: they send a ClientHello to their origin.
    Transparent,
    /// Not at all: the listener has a target.
    Forward,
}

impl Protocol {
    /// Whether the tunnel's first message also opens it, because the proxy itself says nothing to the client.
    pub fn opens_by_echo(self) -> bool {
        matches!(self, Protocol::Transparent | Protocol::Forward)
    }
}

impl Scenario {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Setup => "setup",
            Scenario::Hold => "hold",
            Scenario::BulkUp => "bulk-up",
            Scenario::BulkDown => "bulk-down",
            Scenario::Pingpong => "pingpong",
            Scenario::Fairness => "fairness",
            Scenario::Mixed => "mixed",
            Scenario::Churn => "churn",
            Scenario::Http => "http",
            Scenario::Socks => "socks",
            Scenario::Transparent => "transparent",
            Scenario::Forward => "forward",
        }
    }

    /// How its clients ask for their tunnels.
    fn protocol(self) -> Protocol {
        match self {
            Scenario::Socks => Protocol::Socks,
            Scenario::Transparent => Protocol::Transparent,
            Scenario::Forward => Protocol::Forward,
            _ => Protocol::Connect,
        }
    }

    /// Whether it works with clients whose first message opens their tunnel: all that its tunnels do is to exchange
    /// messages.
    pub fn is_of_messages(self) -> bool {
        use Scenario::{Forward, Hold, Pingpong, Setup, Socks, Transparent};
        matches!(self, Setup | Hold | Pingpong | Socks | Transparent | Forward)
    }
}

/// The load of a run. It is bounded by time or count, and always by `cap`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    pub scenario: Scenario,
    #[serde(default)]
    pub protocol: Protocol,
    /// Concurrent tunnels; for hold, tunnels being opened at once; for http, connections.
    pub concurrency: usize,
    /// Tunnels started or requests sent per second; `None` for a closed loop.
    pub rate: Option<f64>,
    /// How long tunnels are started; for hold, how long they idle.
    pub duration: Option<Duration>,
    /// Total number of tunnels; for pingpong, messages per tunnel; for http, requests.
    pub count: Option<u64>,
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Bytes of a bulk transfer.
    pub bulk_bytes: u64,
    /// Bytes of a request's body; 0 for a GET.
    #[serde(default)]
    pub body_bytes: usize,
    /// How long a tunnel may make no progress.
    pub patience: Duration,
    /// When the run is cut off.
    pub cap: Duration,
    /// Check the content of bulk transfers.
    pub verify: bool,
    /// Source addresses to connect from; 0 leaves it to the system.
    pub sources: u8,
}

/// Largest message: a block of the pattern has at least this size.
pub const MESSAGE_LIMIT_BYTES: usize = 256 * 1024;

/// Most concurrent tunnels of one process. The usual limit of 20,000 descriptors constrains the gateway, which needs
/// two per tunnel.
const CONCURRENCY_LIMIT: usize = 60_000;

impl Load {
    /// The scenario, with its own defaults for everything that was not given.
    ///
    /// # Errors
    /// A text that names the option that is out of bounds.
    pub fn new(
        scenario: Scenario,
        options: &LoadOptions,
        count: Option<u64>,
        rate: Option<f64>,
    ) -> Result<Load, String> {
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value).map_err(|error| format!("--{name} {value}: {error}"))
        };
        let defaults = Defaults::of(scenario);
        let duration = options.duration.map(|value| seconds("duration", value)).transpose()?;
        // A count is an end by itself; the default duration applies only if neither is given.
        let duration = match (duration, count, scenario) {
            (None, Some(_), Scenario::Hold) | (None, None, _) => defaults.duration,
            (duration, ..) => duration,
        };
        let load = Load {
            scenario,
            protocol: scenario.protocol(),
            concurrency: options.concurrency.unwrap_or(match scenario {
                Scenario::Http => defaults.concurrency,
                _ if rate.is_some() => 8192,
                _ => defaults.concurrency,
            }),
            rate,
            duration,
            count: count.or(defaults.count.filter(|_| options.duration.is_none() || scenario == Scenario::Hold)),
            message_bytes: options.size.unwrap_or(defaults.message_bytes),
            bulk_bytes: options.bytes.unwrap_or(64 << 20),
            body_bytes: options.body_bytes,
            patience: seconds("patience", options.patience)?,
            cap: seconds("cap", options.cap)?,
            verify: !options.no_verify,
            sources: options.sources,
        };
        load.check()?;
        Ok(load)
    }

    fn check(&self) -> Result<(), String> {
        let must = |holds: bool, text: &str| if holds { Ok(()) } else { Err(text.to_owned()) };
        must((1..=MESSAGE_LIMIT_BYTES).contains(&self.message_bytes), "--size must be 1 to 262144")?;
        must((1..=CONCURRENCY_LIMIT).contains(&self.concurrency), "--concurrency must be 1 to 60000")?;
        must(self.bulk_bytes > 0, "--bytes must not be 0")?;
        must(self.body_bytes <= MESSAGE_LIMIT_BYTES, "--body-bytes must be at most 262144")?;
        must(self.body_bytes == 0 || self.scenario == Scenario::Http, "--body-bytes is only valid for http")?;
        must(self.count != Some(0), "--count must not be 0")?;
        must(self.rate.is_none_or(|rate| rate > 0.0 && rate <= 1e6), "--rate must be above 0 and at most 1000000")?;
        let together = matches!(self.scenario, Scenario::Hold | Scenario::Pingpong | Scenario::Fairness);
        must(!together || self.rate.is_none(), "--rate is not valid for hold, pingpong and fairness")
    }

    /// Whether all tunnels are opened before they do their work.
    pub fn opens_all_first(&self) -> bool {
        matches!(self.scenario, Scenario::Hold | Scenario::Pingpong | Scenario::Fairness | Scenario::Http)
    }
}

struct Defaults {
    concurrency: usize,
    duration: Option<Duration>,
    count: Option<u64>,
    message_bytes: usize,
}

impl Defaults {
    fn of(scenario: Scenario) -> Defaults {
        let ten_seconds = Some(Duration::from_secs(10));
        match scenario {
            Scenario::Setup
            | Scenario::Mixed
            | Scenario::Churn
            | Scenario::Http
            | Scenario::Socks
            | Scenario::Transparent
            | Scenario::Forward => Defaults { concurrency: 64, duration: ten_seconds, count: None, message_bytes: 64 },
            Scenario::Hold => Defaults { concurrency: 64, duration: ten_seconds, count: Some(1000), message_bytes: 64 },
            Scenario::BulkUp | Scenario::BulkDown => {
                Defaults { concurrency: 8, duration: None, count: Some(8), message_bytes: 64 }
            }
            Scenario::Pingpong | Scenario::Fairness => {
                Defaults { concurrency: 64, duration: ten_seconds, count: None, message_bytes: 1024 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> LoadOptions {
        LoadOptions {
            concurrency: None,
            duration: None,
            size: None,
            bytes: None,
            body_bytes: 0,
            patience: 5.0,
            cap: 60.0,
            no_verify: false,
            sources: 0,
        }
    }

    #[test]
    fn every_scenario_ends_without_options() {
        for scenario in Scenario::value_variants() {
            let load = Load::new(*scenario, &options(), None, None).unwrap();
            assert!(load.duration.is_some() || load.count.is_some(), "{scenario:?}");
            let possible = scenario.to_possible_value().unwrap();
            assert_eq!(possible.get_name(), scenario.name());
        }
    }

    #[test]
    fn values_out_of_bounds_are_rejected_by_option_name() {
        let error = |change: fn(&mut LoadOptions)| {
            let mut options = options();
            change(&mut options);
            Load::new(Scenario::Setup, &options, None, None).unwrap_err()
        };
        assert!(error(|options| options.size = Some(0)).contains("--size"));
        assert!(error(|options| options.concurrency = Some(0)).contains("--concurrency"));
        assert!(error(|options| options.patience = -1.0).contains("--patience"));
        assert!(Load::new(Scenario::Hold, &options(), None, Some(5.0)).unwrap_err().contains("--rate"));
    }
}
