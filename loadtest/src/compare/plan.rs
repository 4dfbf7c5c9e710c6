//! What a comparison measures, by name: `setup`, `hold:3000`, `pingpong:1`.

use std::time::Duration;

use crate::arguments::CompareOptions;
use crate::scenario::{Load, Protocol, Scenario};

/// The simulated round trip of `legs`, in milliseconds.
pub const LEG_MS: u64 = 20;
/// Tunnels of a bulk measurement.
const BULK_TUNNELS: usize = 8;
/// `hold` comes first: connections in TIME_WAIT from other measurements would distort the kernel's memory.
pub const ALL: [&str; 11] = [
    "hold",
    "setup",
    "open",
    "legs",
    "pingpong",
    "pingpong:1",
    "http",
    "http-post",
    "bulk-down",
    "bulk-up",
    "fairness",
];
/// Bytes of a request's body in `http-post`.
const POST_BYTES: usize = 4096;

/// One measurement.
#[derive(Clone, Debug)]
pub struct Item {
    /// The name that was asked for.
    pub name: String,
    pub kind: ItemKind,
    pub title: String,
    pub load: Load,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    Hold,
    Setup,
    /// Setup in an open loop; the rate is set once it is known.
    Open,
    /// Setup with an upstream that answers after a round trip.
    Legs,
    Pingpong,
    /// Messages, then messages beside a bulk transfer.
    Fairness,
    /// Plain HTTP requests.
    Http,
    Bulk,
}

/// The sizes of all measurements.
struct Sizes {
    seconds: f64,
    concurrency: usize,
    tunnels: u64,
    bytes: u64,
    verify: bool,
}

impl Sizes {
    fn of(options: &CompareOptions) -> Result<Sizes, String> {
        let seconds = options.seconds.unwrap_or(if options.quick { 1.0 } else { 4.0 });
        if !(seconds > 0.0 && seconds <= 3600.0) {
            return Err("--seconds must be above 0 and at most 3600".to_owned());
        }
        Ok(Sizes {
            seconds,
            concurrency: options.concurrency.unwrap_or(64).max(1),
            tunnels: options.tunnels.unwrap_or(if options.quick { 500 } else { 9800 }).max(1),
            bytes: options.bytes.unwrap_or(if options.quick { 16 << 20 } else { 128 << 20 }).max(1),
            verify: !options.no_verify,
        })
    }
}

/// The measurements to run.
///
/// # Errors
/// A text that names an unknown measurement.
pub fn plan(options: &CompareOptions) -> Result<Vec<Item>, String> {
    let sizes = Sizes::of(options)?;
    if options.scenarios.is_empty() {
        return ALL.iter().map(|name| item(name, &sizes, options.rate)).collect();
    }
    options.scenarios.iter().map(|name| item(name, &sizes, options.rate)).collect()
}

/// The measurement of this name.
///
/// # Errors
/// If there is none.
pub fn one(name: &str, options: &CompareOptions) -> Result<Item, String> {
    item(name, &Sizes::of(options)?, options.rate)
}

fn item(name: &str, sizes: &Sizes, rate: Option<f64>) -> Result<Item, String> {
    let (word, number) = match name.split_once(':') {
        Some((word, number)) => {
            let number = number.parse::<usize>().map_err(|error| format!("{name:?}: {error}"))?;
            (word, Some(number.max(1)))
        }
        None => (name, None),
    };
    let (kind, scenario) = match word {
        "hold" => (ItemKind::Hold, Scenario::Hold),
        "setup" => (ItemKind::Setup, Scenario::Setup),
        "open" => (ItemKind::Open, Scenario::Setup),
        "legs" => (ItemKind::Legs, Scenario::Setup),
        "pingpong" => (ItemKind::Pingpong, Scenario::Pingpong),
        "fairness" => (ItemKind::Fairness, Scenario::Fairness),
        "http" | "http-post" => (ItemKind::Http, Scenario::Http),
        "bulk-down" => (ItemKind::Bulk, Scenario::BulkDown),
        "bulk-up" => (ItemKind::Bulk, Scenario::BulkUp),
        _ => {
            return Err(format!(
                "unknown measurement {name:?}; possible are {}; setup, hold, legs, \
            pingpong, fairness and bulk take a number of tunnels, as in hold:3000, http takes a number of clients, and open a rate",
                ALL.join(", ")
            ));
        }
    };
    let duration = Duration::from_secs_f64(sizes.seconds);
    let mut load = Load {
        scenario,
        protocol: Protocol::Connect,
        concurrency: number.unwrap_or(sizes.concurrency),
        rate: None,
        duration: Some(duration),
        count: None,
        message_bytes: if matches!(scenario, Scenario::Pingpong | Scenario::Fairness) { 1024 } else { 64 },
        bulk_bytes: sizes.bytes,
        body_bytes: if word == "http-post" { POST_BYTES } else { 0 },
        patience: Duration::from_secs(5),
        cap: duration * 2 + Duration::from_secs(20),
        verify: sizes.verify,
        sources: 0,
    };
    match kind {
        ItemKind::Hold => {
            load.concurrency = 64;
            load.count = Some(number.map_or(sizes.tunnels, |number| number as u64));
            load.cap += Duration::from_secs(60);
        }
        ItemKind::Open => {
            load.concurrency = 1024;
            #[allow(clippy::cast_precision_loss, reason = "rates are small")]
            let asked = number.map(|number| number as f64);
            load.rate = asked.or(rate);
        }
        // Enough to fill the round trips without making the machine the limit.
        ItemKind::Legs => load.concurrency = number.unwrap_or(16),
        ItemKind::Bulk => {
            load.concurrency = number.unwrap_or(BULK_TUNNELS);
            load.count = Some(load.concurrency as u64);
            load.duration = None;
            load.cap += Duration::from_secs(60);
        }
        // Checking the bulk data would take the client's time from the messages.
        ItemKind::Fairness => load.verify = false,
        ItemKind::Setup | ItemKind::Pingpong | ItemKind::Http => {}
    }
    Ok(Item { name: name.to_owned(), kind, title: String::new(), load }.titled())
}

impl Item {
    /// Adds a title that describes the load.
    pub fn titled(mut self) -> Item {
        let Load { concurrency, bulk_bytes, count, .. } = &self.load;
        let mib = bulk_bytes >> 20;
        self.title = match self.kind {
            ItemKind::Hold => format!("{} idle tunnels, then a check that each still works", count.unwrap_or_default()),
            ItemKind::Setup => {
                format!("tunnels that are opened, echo 64 bytes and are closed; {concurrency} at a time")
            }
            ItemKind::Open => match self.load.rate {
                Some(rate) => format!("tunnels started at {rate:.0} per second, regardless of the earlier ones"),
                None => "tunnels started at a fixed rate, regardless of the earlier ones".to_owned(),
            },
            ItemKind::Legs => {
                format!("tunnels through an upstream that is {LEG_MS} ms away; {concurrency} at a time")
            }
            ItemKind::Pingpong => format!("1 KiB messages back and forth; tunnels that stay open: {concurrency}"),
            ItemKind::Fairness => format!(
                "1 KiB messages back and forth on {concurrency} tunnels, first alone, then beside one endless download"
            ),
            ItemKind::Http if self.load.body_bytes > 0 => format!(
                "plain HTTP requests with {} bytes of body, one after the other; keep-alive clients: {concurrency}",
                self.load.body_bytes
            ),
            ItemKind::Http => {
                format!("plain HTTP requests for a small page, one after the other; keep-alive clients: {concurrency}")
            }
            ItemKind::Bulk if self.load.scenario == Scenario::BulkDown => {
                format!("{concurrency} downloads of {mib} MiB at once")
            }
            ItemKind::Bulk => format!("{concurrency} uploads of {mib} MiB at once"),
        };
        self
    }
}
