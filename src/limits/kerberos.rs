//! Kerberos: messages, tickets, KDCs.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Longest message of a KDC. A ticket with the group memberships of Active Directory has up to 64 KB.
pub const KDC_MESSAGE_BYTES: usize = 128 * 1024;

/// Longest ticket that is kept. Its token must fit into a request head ([`HEAD_LIMIT_BYTES`]), in base64.
pub const KERBEROS_TICKET_BYTES: usize = 96 * 1024;

/// Components of a name of Kerberos.
pub const KERBEROS_NAME_COMPONENTS: usize = 16;

/// Longest component of a name, and longest realm.
pub const KERBEROS_NAME_BYTES: usize = 1024;

/// Entries of the lists that a KDC sends: kinds of pre-authentication, etypes.
pub const KERBEROS_LIST_ENTRIES: usize = 64;

/// Longest salt that a KDC may name: realm and name of an account.
pub const KERBEROS_SALT_BYTES: usize = 4096;

/// Iterations of string-to-key that a KDC may ask for. Fewer would help somebody who poses as a KDC to guess the
/// password from what the gateway sends; more would occupy the ticket thread for more than a second or two.
pub const KERBEROS_ITERATIONS: RangeInclusive<u32> = 4096..=1_000_000;

/// Longest text of a KDC's error that is shown.
pub const KERBEROS_ERROR_TEXT_CHARACTERS: usize = 200;

/// Difference between clocks that services tolerate, as everywhere.
pub const KERBEROS_CLOCK_SKEW: Duration = Duration::from_secs(300);

/// How long tickets are asked to be valid. KDCs grant less, usually ten hours.
pub const KERBEROS_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// For how long ticket-granting tickets are asked to be renewable. KDCs grant less, usually a week.
pub const KERBEROS_RENEWABLE: Duration = Duration::from_secs(30 * 24 * 3600);

/// A ticket that an upstream refuses is replaced at most this often. One that is refused again shows that the
/// upstream's key is wrong, which a new ticket does not change.
pub const KERBEROS_REPLACEMENT_INTERVAL: Duration = Duration::from_secs(30);

/// After a ticket was refused for good, another mechanism is used until there is another ticket, which is requested
/// after this time: by then the upstream may have its key.
pub const KERBEROS_REPLACED_AFTER_REFUSAL: Duration = Duration::from_secs(600);

/// The part of a ticket's life after which it is replaced, in percent; a random part of [`KERBEROS_JITTER_PERCENT`]
/// less, so that the gateways of a deployment do not all ask at once.
pub const KERBEROS_REPLACED_AFTER_PERCENT: u32 = 85;

/// See [`KERBEROS_REPLACED_AFTER_PERCENT`].
pub const KERBEROS_JITTER_PERCENT: u32 = 15;

/// From a failure to get a ticket to the next try; doubled with each further failure, up to
/// [`KERBEROS_RETRY_MAX`].
pub const KERBEROS_RETRY: Duration = Duration::from_secs(1);

/// See [`KERBEROS_RETRY`]. A failure that only an administrator can end is retried at this interval at once.
pub const KERBEROS_RETRY_MAX: Duration = Duration::from_secs(60);

/// After a logon with an older key, because the KDC did not know the newest one yet, the newest key is tried again
/// after this time. It is longer than the guard's window, so the earlier attempt no longer counts.
pub const KERBEROS_NEWEST_KEY_AGAIN: Duration = Duration::from_secs(31 * 60);

/// How often a thread that waits for the credential guard asks it again.
pub const KERBEROS_GUARD_POLL: Duration = Duration::from_millis(200);

/// Differences between our clock and the KDC's that are ignored unless the KDC complains.
pub const KERBEROS_SKEW_IGNORED_SECONDS: i64 = 30;

/// Realms that one exchange may lead through.
pub const KERBEROS_REFERRALS: usize = 8;

/// Longer requests to a KDC go by TCP first, as with MIT's library.
pub const KDC_UDP_PREFERENCE_BYTES: usize = 1465;

/// The next KDC is asked if one has not answered, or accepted a connection, within this.
pub const KDC_NEXT_AFTER: Duration = Duration::from_secs(1);

/// Longest wait for a KDC that has accepted a connection, or for a late datagram.
pub const KDC_REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for the delivery of one request, over all KDCs.
pub const KDC_DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest datagram.
pub const KDC_DATAGRAM_BYTES: usize = 64 * 1024;

/// Name servers of resolv.conf that are asked for KDCs, as many as the C library asks.
pub const DNS_SERVERS: usize = 3;

/// Domains of resolv.conf that are tried behind a name.
pub const DNS_SEARCH_DOMAINS: usize = 6;

/// Longest wait for a name server.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for all name servers together.
pub const DNS_TOTAL_TIMEOUT: Duration = Duration::from_secs(6);

/// Longest wait for the addresses of KDCs that are given by name. If another KDC is given by its address, or an address
/// is known from before, names are waited for no longer than [`KDC_NEXT_AFTER`].
pub const KDC_LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Names of KDCs whose addresses are remembered, and threads that look names up.
pub const KDC_NAMES: usize = 256;

/// Attempts to deliver a request to the KDCs of a realm.
pub const KDC_TRIES: usize = 16;

/// The port of a KDC.
pub const KDC_PORT: u16 = 88;

/// KDCs of one realm that are known.
pub const KDCS_PER_REALM: usize = 32;

/// Authenticators that a service remembers in one generation of its replay cache, of which there are two. Only the stub
/// upstream has such a cache.
pub const KERBEROS_REPLAYS: usize = 256 * 1024;

/// Longest keytab.
pub const KEYTAB_BYTES: usize = 1024 * 1024;

/// Longest file with certificates or a key for TLS. The store of a distribution has about 220 KiB.
pub const TLS_FILE_BYTES: usize = 1024 * 1024;

/// Keys of a keytab.
pub const KEYTAB_ENTRIES: usize = 4096;

/// Longest krb5.conf, with what it includes.
pub const KRB5_CONF_BYTES: usize = 1024 * 1024;

/// How deeply files of krb5.conf include each other, and how deeply braces are nested.
pub const KRB5_CONF_INCLUDE_DEPTH: usize = 8;
