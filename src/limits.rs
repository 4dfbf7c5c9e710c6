//! Every limit and default of the gateway, in one place, with its unit and its reason.
//!
//! Nothing in the gateway grows without one of these limits (invariant 6 in `ARCHITECTURE.md`). Times are a
//! [`Duration`], sizes are in bytes and end in `_BYTES`; everything else is a count. Code that compares with a shard's
//! clock converts with [`millis`].

mod guard;
mod kerberos;

use std::time::Duration;

pub use guard::*;
pub use kerberos::*;

/// A duration in whole milliseconds, the unit of the shards' clocks. The result is capped so that it can be added to a
/// time without overflow.
#[allow(clippy::cast_possible_truncation, reason = "compared with the largest value first")]
pub const fn millis(duration: Duration) -> u64 {
    const MAX: u64 = u64::MAX / 4;
    let ms = duration.as_millis();
    if ms > MAX as u128 { MAX } else { ms as u64 }
}

// ---- The event loop: how much a session may do before the next one gets its turn ----

/// Size of the scratch buffer that each shard has once; the most that one read copies.
pub const SCRATCH_BYTES: usize = 64 * 1024;

/// Capacity that an empty buffer of a connection keeps for the next bytes.
pub const KEPT_CAPACITY_BYTES: usize = 4 * 1024;

/// Capacity of a spare buffer: room for a request with an AUTHENTICATE_MESSAGE, so that none grows for one.
pub const SPARE_BUFFER_BYTES: usize = 2 * 1024;

/// Keys of kept connections that have left, in addition to as many as are there, before the list of a hop is cleaned.
pub const KEYS_LEFT_BEHIND: usize = 64;

/// How many spare buffers a shard keeps.
pub const SPARE_BUFFERS: usize = 32;

/// Most bytes that one tunnel moves in a turn, in each direction, before it yields to the others.
pub const TURN_BYTES: usize = 1024 * 1024;

/// The same while small messages or requests are served, which wait for each turn of a bulk transfer: to splice 256 KiB
/// takes about as long as to relay ten messages.
pub const TURN_BYTES_BESIDE_MESSAGES: usize = 256 * 1024;

/// After a turn in which bulk data was moved and small messages or requests were served, bulk transfers pause for as
/// long as the turn took, but no longer than this for each message, so that few messages cost a transfer little.
pub const BULK_PAUSE_PER_MESSAGE: Duration = Duration::from_micros(50);

/// If nothing comes before the end of a pause, bulk transfers wait for this much longer, so as to move in the turn of
/// what comes next.
pub const BULK_PAUSE_SLACK: Duration = Duration::from_micros(100);

/// This many small messages that follow bulk data in a tunnel are a part of its transfer, such as the window updates of
/// HTTP/2 or the end of a burst, and no reason for a pause.
pub const MESSAGES_OF_BULK: u8 = 4;

/// Longest pause of bulk transfers, after a turn that took exceptionally long.
pub const BULK_PAUSE: Duration = Duration::from_millis(2);

/// For how long after a small message or a step of a request others are expected.
pub const MESSAGES_WINDOW: Duration = Duration::from_millis(10);

/// Reads of a head, or of bytes to discard, that a session makes in a turn. A peer that sends without end yields to the
/// others.
pub const READS_PER_TURN: usize = 1;

/// Reads in a turn while a connection is being pre-challenged: enough for the longest 407 body that is discarded.
pub const PRE_CHALLENGE_READS_PER_TURN: usize = 24;

/// Connections accepted in a turn, so that a burst of new clients does not starve the existing tunnels.
pub const ACCEPTS_PER_TURN: usize = 64;

/// A shard hands a connection that it accepts over to another one if it has this many more, …
pub const SHARD_IMBALANCE: usize = 8;

/// … and this part of the other's number more. Handing over costs a wake-up, so small differences stay.
pub const SHARD_IMBALANCE_PART: usize = 64;

/// A turn accepts one connection, and twice as many each time that so many turns in a row found as many as they asked
/// for. With fewer, a steady stream of single connections would often be asked for a second one in vain; with more, a
/// burst would take many turns.
pub const ACCEPT_BATCHES_BEFORE_GROWTH: u32 = 4;

/// Events taken from the kernel in a turn.
pub const EVENTS_PER_TURN: usize = 1024;

/// Longest wait for the shards to answer a question. A turn takes milliseconds.
pub const SHARD_REPLY_TIMEOUT: Duration = Duration::from_secs(2);

// ---- Heads and bodies ----

/// Longest request or response head. Clients that send Kerberos tickets produce heads of 16 KiB and more; no legitimate
/// head comes near 64 KiB.
pub const HEAD_LIMIT_BYTES: usize = 64 * 1024;

/// Most field lines of a request or response head. Some pages set a hundred cookies. A thousand fields cost about 32
/// KiB while the head is parsed.
pub const FIELD_LIMIT: usize = 1_000;

/// One read while a head is incomplete. Bytes behind the head have to be kept, so this limits how much a client can
/// make the gateway hold by pipelining.
pub const HEAD_READ_BYTES: usize = 16 * 1024;

/// Longest body of a 407 that is read and discarded to keep its connection. Squid's page has 3 KB; for a longer one the
/// connection is not worth it.
pub const DISCARD_LIMIT_BYTES: u64 = 256 * 1024;

/// Longest body that is passed on when an upstream declines a CONNECT (403, 503 …). Block pages sometimes contain
/// inline images; the rest is cut off.
pub const DECLINED_BODY_LIMIT_BYTES: usize = 256 * 1024;

/// Interim (1xx) responses that are skipped during a handshake. An upstream that sends more never gets to its final
/// response.
pub const HANDSHAKE_INTERIM_ANSWERS: u16 = 100;

/// Unsent interim responses for a client that does not read. Beyond that, the upstream is not read.
pub const INTERIM_UNSENT_BYTES: usize = 8 * 1024;

/// Longest request body that is buffered, and not held back, until it is known whether the upstream asks for
/// credentials.
pub const BUFFERED_BODY_BYTES: usize = 16 * 1024;

/// How long a request body is held back until the upstream has shown whether it asks for credentials, where that is not
/// known. An upstream that asks does so at once; one that does not waits silently for the body.
pub const HELD_BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// A client that moves less than this within [`BODY_TIMEOUT`] is too slow.
pub const BODY_PROGRESS_BYTES: u64 = 4 * 1024;

/// Requests on one connection of a client, so that clients eventually move to new gateways and upstreams.
pub const REQUESTS_PER_CONNECTION: u16 = 10_000;

// ---- Splicing ----

/// Requested capacity of a relay pipe: the most that an unprivileged process may have (`fs.pipe-max-size`). Compared
/// with 512 KiB it takes a sixth to a fifth less CPU per GiB (`benches/RESULTS.md`).
pub const PIPE_BYTES: usize = 1024 * 1024;

/// A pipe that the kernel made smaller than this is not worth its two descriptors. Beyond `pipe-user-pages-soft`, the
/// kernel creates pipes of two pages.
pub const PIPE_MIN_BYTES: usize = 64 * 1024;

/// Pipes that a shard lends at once. A pipe is lent only while bulk data is in it. Two shards' worth of [`PIPE_BYTES`]
/// is the default of `fs.pipe-user-pages-soft` for a user (16,384 pages). With more shards, pipes beyond that are too
/// small to be used, and those halves copy.
pub const PIPES_PER_SHARD: usize = 32;

/// Empty pipes that a shard keeps for the next borrower.
pub const SPARE_PIPES_PER_SHARD: usize = 8;

// ---- Admission: connections, memory, descriptors ----

/// Tunnels open at once in the whole process; reduced to what `RLIMIT_NOFILE` allows.
pub const MAX_TUNNELS: usize = 10_000;

/// Descriptors that tunnels cannot use: for listeners, pipes, the log, the administration address, lookups
/// ([`LOOKUP_THREADS`]) and [`REJECTIONS_AT_ONCE`].
pub const RESERVED_DESCRIPTORS: usize = 720;

/// Clients beyond `max_tunnels` that are accepted only to be answered with 503. They take one descriptor each. Beyond
/// that, accepting pauses.
pub const REJECTIONS_AT_ONCE: usize = 128;

/// Length of the queue in which connections wait for `accept`, for each listening socket. The kernel caps it at
/// `net.core.somaxconn`.
pub const LISTEN_BACKLOG: i32 = 4096;

/// How long accepting pauses when the process is out of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Such pauses are logged at most this often.
pub const ACCEPT_PAUSE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A connection that has just become idle is not closed to make room for others before this has passed: its request may
/// be on the way.
pub const IDLE_GRACE: Duration = Duration::from_millis(250);

/// Idle connections that are closed at once when the process is out of descriptors.
pub const IDLE_CLOSED_FOR_DESCRIPTORS: usize = 8;

/// Smallest allowed value of `limits.memory`: a few hundred requests.
pub const MEMORY_MIN_BYTES: usize = 4 * 1024 * 1024;

/// An incomplete head of at least this size is closed when memory runs short, the oldest first.
pub const LARGE_HEAD_BYTES: usize = 4 * 1024;

/// Such heads that a shard closes in a turn.
pub const LARGE_HEADS_CLOSED_PER_TURN: usize = 64;

/// How often a shard that has no such heads asks the other shards to close theirs.
pub const MEMORY_REQUEST_INTERVAL: Duration = Duration::from_millis(50);

/// Client addresses that are tracked for per-client limits, in each of 16 parts.
pub const CLIENTS_REMEMBERED: usize = 1024;

/// Wrong logins to the gateway that an address may send in a burst. After that, one per [`LOGIN_INTERVAL`] is checked.
pub const LOGIN_ATTEMPTS: u32 = 5;

/// See [`LOGIN_ATTEMPTS`]. This allows 8,640 guesses a day, and is a short wait for a client whose password has just
/// been corrected.
pub const LOGIN_INTERVAL: Duration = Duration::from_secs(10);

/// Addresses that are remembered for wrong logins, about 40 bytes each.
pub const LOGIN_ADDRESSES: usize = 4096;

// ---- Time-outs of a session ----

/// From accept to a complete request head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// From the accept of a redirected connection to its first bytes, before the client is taken for one that waits for the
/// server to speak first. Long enough for the first segment of a client that is about to speak, and short enough to go
/// unnoticed in front of a mail server's greeting.
pub const SNIFF_TIMEOUT: Duration = Duration::from_millis(200);

/// One connection attempt to one upstream address.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The TLS handshake with one upstream address that has taken the connection: two round trips, and the signature of a
/// busy proxy.
pub const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// From an upstream's connection to its challenge, or to any other response to a request that needs no origin. A domain
/// controller answers within milliseconds; the rest is for a queue of helpers.
pub const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(10);

/// From the first upstream byte to the response for the client. A proxy responds to a CONNECT only when its own
/// connection attempt to the origin has ended, which takes a minute for a host that drops packets.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(75);

/// A tunnel on which nothing moves in either direction. WebSockets, database sessions and git over SSH are often idle
/// for many minutes.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A tunnel of which one direction has ended.
pub const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a client may take for the next [`BODY_PROGRESS_BYTES`] of its request body or its response.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// From the end of a request to the beginning of its response.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);

/// A client's connection between two requests.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// From an error response to the close. Meanwhile, whatever the client still sends is read and discarded: closing a
/// socket with unread bytes sends a reset, which would destroy the response on its way.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

// ---- Routes ----

/// How long a request waits for a source of routes that does not answer at once. A source computes its answer; what
/// takes longer hangs.
pub const ROUTE_TIMEOUT: Duration = Duration::from_secs(10);

/// Candidates of a route that are tried one after the other, each as long as its connection attempts take.
pub const ROUTE_CANDIDATES: usize = 8;

// ---- Connecting ----

/// The next address is tried in parallel if the previous one has not answered after this (RFC 8305 §5, Connection
/// Attempt Delay).
pub const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connection attempts that one session has under way at once.
pub const CONNECTION_ATTEMPTS: usize = 4;

/// TCP keep-alive for clients and upstreams: idle time before the first probe. Below the idle limit of most NAT
/// devices.
pub const TCP_IDLE: Duration = Duration::from_secs(60);

/// TCP keep-alive: time between two probes. With [`TCP_PROBES`], a vanished peer is noticed two minutes after its last
/// byte.
pub const TCP_PROBE: Duration = Duration::from_secs(15);

/// TCP keep-alive: unanswered probes after which the connection is closed.
pub const TCP_PROBES: u32 = 4;

/// Connections that the handshake of one client request may use before the upstream counts as failed.
pub const HANDSHAKE_CONNECTIONS: u8 = 3;

/// Tokens of the same mechanism that may follow a refused one: with the ticket that has come in the meantime, and with
/// the one that is requested if that one is refused as well.
pub const TOKEN_RETRIES: u8 = 2;

// ---- Connection pools ----

/// Authenticated connections that a shard keeps for each upstream and identity.
pub const KEEP_PER_SHARD: usize = 256;

/// An authenticated upstream connection between two requests. Below the 10 s after which some proxies close an idle
/// connection.
pub const KEEP_AGE: Duration = Duration::from_secs(8);

/// A request that must not be sent twice uses a pooled connection only if that was last used within this time.
/// Upstreams that close idle connections do so after several seconds, and a request that meets such a close is lost.
pub const KEPT_FRESH: Duration = Duration::from_secs(1);

/// Pre-challenged connections that a shard keeps for an upstream and an identity at most, if their number follows the
/// demand. A thousand tunnels a second at a proxy 40 ms away need 40. Squid occupies one of its helpers for each, over
/// all shards and all replicas of the gateway; [`WARM_LIMIT_RECOVERY`] is about that.
pub const WARM_MOST: usize = 64;

/// With fewer requests than this for each connection, within the age at which it is too old, too many would be dialled
/// for nothing.
pub const REQUESTS_PER_WARM: usize = 4;

/// Assumed for the time from dialling to a challenge until the first one has been measured.
pub const CHALLENGE_TIME_UNKNOWN: Duration = Duration::from_millis(100);

/// When clients had to wait because an upstream was short of helpers, half of the connections that were pre-challenged
/// at that moment are allowed from then on, and after this time as many as before. It grows on at the same rate.
pub const WARM_LIMIT_RECOVERY: Duration = Duration::from_secs(600);

/// An unused pre-challenged connection is closed after this. Below the 10 s after which some proxies close an idle
/// connection.
pub const WARM_AGE: Duration = Duration::from_secs(8);

/// No connection is pre-challenged for this long after an upstream failed to send such a challenge.
pub const PRE_CHALLENGE_PAUSE: Duration = Duration::from_secs(30);

/// A connection to an upstream or an origin that is older than this gets the options that it needs only if it lasts:
/// those of TCP keep-alive. Most tunnels for one request do not become that old, and save four system calls.
pub const LASTING_CONNECTION_AGE: Duration = Duration::from_secs(2);

/// How often a pre-challenged connection checks whether clients are stalled for lack of a challenge, to give way to
/// them. Also the shortest stall that counts.
pub const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// A challenge that takes longer than this, and longer than four times the usual, has waited in a queue at the
/// upstream.
pub const CHALLENGE_QUEUE_DELAY: Duration = Duration::from_millis(50);

/// Connections per shard that wait for a verdict after their client has left. Beyond that, such a verdict is lost and
/// counts as undecided.
pub const VERDICT_WAITS_PER_SHARD: usize = 256;

/// Of [`VERDICT_WAITS_PER_SHARD`], the number reserved for handshakes that the gateway makes by itself.
pub const VERDICT_WAITS_RESERVED: usize = 16;

// ---- Upstreams: health and habits ----

/// Upstreams that a configuration may name. A request records the ones it has tried in one word.
pub const MAX_UPSTREAMS: usize = 64;

/// Identities that a configuration may name.
pub const MAX_IDENTITIES: usize = 64;

/// Consecutive faults that eject an upstream.
pub const EJECT_AFTER: u32 = 3;

/// Faults that may be about their destinations eject an upstream only if nothing has succeeded for this long since the
/// first of them: in a burst of requests for forbidden hosts, the next success is still on its way.
pub const EJECT_DOUBTFUL_AFTER: Duration = Duration::from_secs(1);

/// Failed hosts that an upstream's health remembers.
pub const HEALTH_SUSPECTS: usize = 32;

/// No pre-challenged connection is used for this long for a destination for which an upstream closed connections before
/// a challenge.
pub const CUT_OFF_AGE: Duration = Duration::from_secs(600);

/// While a whole group is ejected, one client is sent to its best upstream this often.
pub const TRIAL_INTERVAL: Duration = Duration::from_millis(10);

/// How many of those clients may come in a burst.
pub const TRIAL_BURST: u32 = 10;

/// The same as [`TRIAL_INTERVAL`], for each destination that has failed at that upstream.
pub const SUSPECT_TRIAL_INTERVAL: Duration = Duration::from_secs(1);

/// From an upstream's ejection to its first check. Each failed check doubles the delay, up to [`CHECK_MAX_DELAY`].
pub const CHECK_DELAY: Duration = Duration::from_secs(1);

/// See [`CHECK_DELAY`].
pub const CHECK_MAX_DELAY: Duration = Duration::from_secs(30);

/// Longest time that a check waits for a connection, and for each response.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest check by a handshake. Its responses may each arrive in pieces.
pub const CHECK_TOTAL_TIMEOUT: Duration = Duration::from_secs(10);

/// An upstream that asked for authentication again this many times in a row on authenticated connections, and then
/// served the same destination on a fresh one, is assumed to authenticate single requests: its connections are not
/// kept.
pub const REAUTHENTICATIONS: u32 = 3;

/// After this many requests in a row that an upstream served without a challenge, clients no longer wait for the first
/// acceptance.
pub const UNCHALLENGED_REQUESTS: u32 = 3;

/// How long it is remembered that an upstream serves some destinations without a challenge. Meanwhile, a first leg may
/// be waiting for its origin.
pub const UNCHALLENGED_AGE: Duration = Duration::from_secs(600);

/// Destinations that are remembered as challenged, at an upstream that serves others without a challenge.
pub const CHALLENGED_DESTINATIONS: usize = 1024;

/// What was learned about an upstream's habits is forgotten after this, and learned again.
pub const HABIT_AGE: Duration = Duration::from_secs(10 * 60);

/// An upstream that answered within this time counts as responsive: a short body is sent to it at once.
pub const RESPONSIVE_AGE: Duration = Duration::from_secs(60);

/// Destinations for which it is remembered whether the upstream asks for credentials.
pub const DESTINATIONS_REMEMBERED: usize = 1024;

// ---- Name resolution ----

/// How often the upstreams' names are resolved again.
pub const RESOLVE_REFRESH: Duration = Duration::from_secs(30);

/// Delay after the first failed lookup of an upstream's name. It doubles up to [`RESOLVE_REFRESH`].
pub const RESOLVE_RETRY: Duration = Duration::from_secs(1);

/// Before the start: longest wait for the name of an upstream whose port is one of the gateway's own. If it resolves
/// later, the running gateway notices.
pub const OWN_NAME_TIMEOUT: Duration = Duration::from_secs(2);

/// Most threads that resolve the names of origins on direct routes. They are started on demand. A name whose server
/// does not answer occupies one for as long as the system waits (10 s and more), and others must not wait with it.
pub const LOOKUP_THREADS: usize = 384;

/// A client may have this many times as many lookups as there are threads left for others. A single client gets 256,
/// which leaves 128; each further greedy client gets two thirds of the rest.
pub const LOOKUP_SHARE: usize = 2;

/// A lookup that takes this long hangs. Requests for that name then fail at once, and for [`LOOKUP_HUNG_AGE`] after the
/// lookup has failed.
pub const LOOKUP_HUNG_AFTER: Duration = Duration::from_secs(5);

/// See [`LOOKUP_HUNG_AFTER`].
pub const LOOKUP_HUNG_AGE: Duration = Duration::from_secs(10);

/// A lookup thread that has been idle for this long ends.
pub const LOOKUP_THREAD_IDLE: Duration = Duration::from_secs(10);

/// Names of all clients that wait for one of [`LOOKUP_THREADS`]. Beyond that, and beyond a client's share
/// ([`LOOKUP_SHARE`]), a request for a further name is declined.
pub const LOOKUP_QUEUE: usize = 1024;

/// Requests that wait for one name, including those that gave up since its lookup began. Beyond that, requests for this
/// name are declined; others are not. Each takes less than a hundred bytes.
pub const LOOKUP_WAITERS: usize = 1024;

/// How long the addresses of an origin's name are remembered.
pub const RESOLVED_AGE: Duration = Duration::from_secs(30);

/// Names of origins that are remembered.
pub const RESOLVED_NAMES: usize = 4096;

// ---- The administration address ----

/// Where metrics and health are served. Not in the range 9100 to 9999, which the Prometheus exporters have divided
/// among themselves (9100 is node_exporter's), and below the ports that the system uses for outgoing connections.
pub const ADMIN_ADDRESS: &str = "127.0.0.1:8128";

/// Connections to the administration address that are served at once. A further one replaces the oldest that has not
/// sent its request or has not read its response.
pub const ADMIN_CONNECTIONS: usize = 16;

/// Longest time that a client of the administration address may take to send its request, and to read its response.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest request head on the administration address.
pub const ADMIN_HEAD_LIMIT_BYTES: usize = 16 * 1024;

/// Tunnels that are listed, in the log or at `/tunnels`. Further ones are only counted.
pub const LISTED_TUNNELS: usize = 10_000;

// ---- Logging ----

/// Bytes of log lines that wait to be written. Beyond that, lines are dropped and counted, because a log reader that
/// stalls must not stall a shard.
pub const LOG_WAITING_BYTES: usize = 4 * 1024 * 1024;

/// Capacity that a thread's buffer of log lines keeps when they are written.
pub const LOG_BUFFER_BYTES: usize = 256 * 1024;

/// Longest value of a field in a log line; the rest is cut off. Targets have up to 262 bytes.
pub const LOG_FIELD_BYTES: usize = 1024;

/// Longest message of a log line: all errors of a configuration are one message.
pub const LOG_MESSAGE_BYTES: usize = 16 * 1024;

/// Log lines are collected for this long and written together.
pub const LOG_BATCH_DELAY: Duration = Duration::from_millis(20);

/// How often the writer looks for lines before it sleeps until one wakes it. To look costs about as much as to be
/// woken.
pub const LOG_POLLS: usize = 4;

// ---- The process: shutdown, files, service manager ----

/// From SIGTERM, when `/readyz` begins to fail, to the close of the listeners.
pub const SHUTDOWN_DELAY: Duration = Duration::ZERO;

/// From the end of the shutdown delay to the close of the remaining tunnels.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// From a file's change to the reload, so that a half-written file is not read. Each further change restarts it.
pub const WATCH_SETTLE: Duration = Duration::from_millis(200);

/// Files that keep changing are read after this anyway.
pub const WATCH_SETTLE_MAX: Duration = Duration::from_secs(2);

/// How often the watched files are read without a notification: some file systems (NFS, FUSE) send none.
pub const WATCH_POLL: Duration = Duration::from_secs(30);

/// How much of a watched file is read to detect a change. No configuration is longer.
pub const WATCH_FILE_BYTES: u64 = 1024 * 1024;

/// Events about files taken from the kernel at once. Another process may cause them faster than they are read.
pub const WATCH_EVENTS_AT_ONCE: usize = 1024;

/// Symbolic links followed on the way to a watched file, as many as the kernel follows.
pub const WATCH_LINKS: usize = 40;

/// Longest time that the service manager may take to accept a notification.
pub const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);
