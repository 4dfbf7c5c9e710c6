//! Counts of what the stub received and did.

use std::fmt;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

/// Generates the counters, their snapshot and its text from one list.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one event loop. Loops count often, so each has cache lines of its own.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// A snapshot of the counters, summed over the loops. Its text has a line `name value` for each.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// The current values. They are read one after another, so they may be of slightly different moments.
            #[must_use]
            pub fn counts(&self) -> Counts {
                Counts { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }

        impl AddAssign for Counts {
            fn add_assign(&mut self, other: Counts) {
                $(self.$name += other.$name;)*
            }
        }

        impl fmt::Display for Counts {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(writeln!(f, "{} {}", stringify!($name), self.$name)?;)*
                Ok(())
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_opened,
    /// Connections that ended, for whatever reason.
    connections_closed,
    /// Requests whose head and body have been received completely.
    requests,
    /// Requests without a token of the supported scheme, on a connection that was not authenticated.
    unprompted,
    /// NEGOTIATE_MESSAGEs.
    negotiates,
    /// CHALLENGE_MESSAGEs sent.
    challenges,
    /// AUTHENTICATE_MESSAGEs.
    authenticates,
    /// Valid AUTHENTICATE_MESSAGEs.
    accepted,
    /// AUTHENTICATE_MESSAGEs that were invalid or refused regardless: what a domain controller would count as failed
    /// logons.
    refused,
    /// Requests denied in spite of a valid AUTHENTICATE_MESSAGE.
    declined,
    /// Tunnels opened.
    tunnels_opened,
    /// Tunnels that ended.
    tunnels_closed,
    /// Bytes read from clients.
    bytes_received,
    /// Bytes written to clients.
    bytes_sent,
    /// Bytes of request bodies, chunk framing included.
    body_bytes,
    /// Malformed heads, bodies and tokens.
    malformed,
    /// AUTHENTICATE_MESSAGEs on a connection on which no CHALLENGE_MESSAGE was pending.
    unchallenged_authenticates,
    /// AUTHENTICATE_MESSAGEs that answer a CHALLENGE_MESSAGE of another connection.
    misplaced_authenticates,
    /// Requests with a hop-by-hop field of the client: a second Proxy-Authorization, a scheme other than NTLM's, a
    /// `close` on a CONNECT.
    client_fields,
    /// NEGOTIATE_MESSAGEs in a request with a body.
    negotiates_with_body,
    /// Tokens of Kerberos that were accepted.
    tickets_accepted,
    /// Tokens of Kerberos that were refused.
    tickets_refused,
    /// Those of them that had been accepted before.
    tickets_repeated,
}

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        // Relaxed: no other memory access depends on a counter.
        self.0.fetch_add(amount, Ordering::Relaxed);
    }
}

impl Counts {
    /// Open connections.
    #[must_use]
    pub fn connections_open(&self) -> u64 {
        self.connections_opened.saturating_sub(self.connections_closed)
    }

    /// Open tunnels.
    #[must_use]
    pub fn tunnels_open(&self) -> u64 {
        self.tunnels_opened.saturating_sub(self.tunnels_closed)
    }

    /// Errors that a correct gateway never causes, whatever the password.
    #[must_use]
    pub fn protocol_errors(&self) -> u64 {
        self.malformed
            + self.unchallenged_authenticates
            + self.misplaced_authenticates
            + self.client_fields
            + self.negotiates_with_body
            + self.tickets_repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_several_loops_are_added_and_printed_by_name() {
        let (one, two) = (Counters::default(), Counters::default());
        one.tunnels_opened.add(5);
        two.tunnels_opened.increment();
        two.tunnels_closed.add(2);
        let mut counts = one.counts();
        counts += two.counts();
        assert_eq!(counts.tunnels_open(), 4);
        assert!(counts.to_string().contains("\ntunnels_opened 6\ntunnels_closed 2\n"), "{counts}");
    }
}
