//! The time-outs that the configuration sets, as it reads them and as the shards use them.
//!
//! A time-out is one line in the table below. Its key in the file is `timeouts.` and its name here.

use std::time::Duration;

use crate::limits;

/// Makes both structs, and reading and converting them, from one table.
macro_rules! timeouts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How long each stage may take, from a millisecond to a week.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Timeouts {
            $($(#[$doc])* pub $name: Duration,)*
            /// From SIGTERM to the close of the listeners; may be zero.
            pub shutdown_delay: Duration,
            /// From the end of the shutdown delay to the close of the remaining tunnels; may be zero.
            pub drain: Duration,
        }

        /// The time-outs of a session in milliseconds, the unit of the shards' clocks.
        #[derive(Clone, Copy, Debug)]
        pub struct TimeoutsMs {
            $($(#[$doc])* pub $name: u64,)*
            /// From an error response to the close, while the client's remaining bytes are discarded.
            pub linger: u64,
        }

        impl Timeouts {
            /// Reads every time-out with `read`, which gets the key and the shortest valid value. `None` if one of them
            /// cannot be read; the others are read anyway, so that all errors are found.
            pub fn read(mut read: impl FnMut(&'static str, Duration) -> Option<Duration>) -> Option<Timeouts> {
                $(let $name = read(concat!("timeouts.", stringify!($name)), Duration::from_millis(1));)*
                let shutdown_delay = read("timeouts.shutdown_delay", Duration::ZERO);
                let drain = read("timeouts.drain", Duration::ZERO);
                Some(Timeouts { $($name: $name?,)* shutdown_delay: shutdown_delay?, drain: drain? })
            }

            /// The part that sessions use.
            #[must_use]
            pub fn to_ms(&self) -> TimeoutsMs {
                TimeoutsMs { $($name: limits::millis(self.$name),)* linger: limits::millis(limits::LINGER_TIMEOUT) }
            }
        }
    };
}

timeouts! {
    /// One connection attempt to one address.
    connect,
    /// The TLS handshake with one address that has taken the connection.
    tls,
    /// From accept to a complete request head.
    head,
    /// From the accept of a redirected connection to the first bytes of a client that speaks first.
    sniff,
    /// From an upstream's connection to its challenge.
    challenge,
    /// From the first connection attempt to the response for the client.
    handshake,
    /// A tunnel on which nothing moves.
    idle,
    /// An unused pre-challenged connection.
    warm,
    /// The next few KiB of a client's request body, or of its response.
    body,
    /// From the end of a plain HTTP request to the beginning of its response.
    response,
    /// A client's connection between two requests.
    keep_alive,
    /// An authenticated upstream connection between two requests.
    keep,
    /// A tunnel of which one direction has ended.
    half_closed,
}

impl Timeouts {
    /// How long establishing one connection may take, with its TLS handshake if it has one.
    #[must_use]
    pub fn establish(&self, has_tls: bool) -> Duration {
        self.connect + if has_tls { self.tls } else { Duration::ZERO }
    }
}

impl TimeoutsMs {
    /// How long establishing one connection may take, with its TLS handshake if it has one.
    #[must_use]
    pub fn establish(&self, has_tls: bool) -> u64 {
        self.connect + if has_tls { self.tls } else { 0 }
    }
}
