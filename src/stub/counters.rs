//! What the stub saw and did, in numbers.

use std::fmt;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes the counters, their snapshot and its text from one list.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one loop. Aligned to cache lines of its own: loops count often and must not share one.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// The counters at one moment, summed over the loops. Printed, it is a line `name value` for each.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// The values now. Each is right; together they may be of slightly different moments.
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
    /// Connections that ended, in whatever way.
    connections_closed,
    /// Whole request heads.
    requests,
    /// Requests without a token of the scheme that is spoken, on a connection that was not authenticated.
    unprompted,
    /// NEGOTIATE_MESSAGEs.
    negotiates,
    /// CHALLENGE_MESSAGEs sent.
    challenges,
    /// AUTHENTICATE_MESSAGEs.
    authenticates,
    /// Proofs that were right.
    accepted,
    /// Proofs that were wrong, or refused all the same: what a domain controller would count against the account.
    refused,
    /// Requests turned down in spite of a right proof.
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
    /// Heads, bodies and tokens that could not be read.
    malformed,
    /// AUTHENTICATE_MESSAGEs on a connection that had no CHALLENGE_MESSAGE to answer.
    unchallenged_authenticates,
    /// AUTHENTICATE_MESSAGEs that answer the CHALLENGE_MESSAGE of another connection.
    misplaced_authenticates,
    /// Requests with a field that a client meant for its own hop: a second Proxy-Authorization, a scheme that is not
    /// NTLM's, a `close` on a CONNECT.
    client_fields,
    /// NEGOTIATE_MESSAGEs that came with a request body.
    negotiates_with_body,
}

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts `amount`.
    pub fn add(&self, amount: u64) {
        // Nothing else is ordered by a counter.
        self.0.fetch_add(amount, Ordering::Relaxed);
    }
}

impl Counts {
    /// Connections open now.
    #[must_use]
    pub fn connections_open(&self) -> u64 {
        self.connections_opened.saturating_sub(self.connections_closed)
    }

    /// Tunnels open now.
    #[must_use]
    pub fn tunnels_open(&self) -> u64 {
        self.tunnels_opened.saturating_sub(self.tunnels_closed)
    }

    /// What a right gateway never causes, whatever the password.
    #[must_use]
    pub fn protocol_errors(&self) -> u64 {
        self.malformed
            + self.unchallenged_authenticates
            + self.misplaced_authenticates
            + self.client_fields
            + self.negotiates_with_body
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
