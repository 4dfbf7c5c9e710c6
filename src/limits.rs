//! Every bound and default of the gateway in one place, with its unit and its reason.
//!
//! Nothing in the gateway grows without one of these in front of it (invariant 6 of `ARCHITECTURE.md`).

use std::time::Duration;

/// A duration in whole milliseconds, as the shards' clocks count; what is too long for them is cut so that it can still be
/// added to a time.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

/// Longest request or response head, in bytes. Kerberos tickets of other clients make heads of 16 KiB and more; nothing
/// honest comes near 64 KiB.
pub const HEAD_LIMIT_BYTES: usize = 64 * 1024;

/// Most field lines of a request or response head. Pages that set a hundred cookies exist; what a thousand fields cost is
/// some 32 KiB while the head is read.
pub const FIELDS: usize = 1_000;

/// Longest body of a 407 that is read past to keep its connection, in bytes. Squid's page has 3 KB; what is longer is
/// not worth the connection it saves.
pub const DRAIN_LIMIT_BYTES: u64 = 256 * 1024;

/// Longest body of an upstream's own refusal (403, 503 …) that is passed on to the client, in bytes. Block pages carry
/// their pictures in line at times; the rest is cut.
pub const REFUSAL_BODY_LIMIT_BYTES: usize = 256 * 1024;

/// One read by copying, in bytes, and the size of the scratch buffer that each shard has once.
pub const SCRATCH_BYTES: usize = 64 * 1024;

/// Capacity asked of a relay pipe, in bytes: the most that an unprivileged process may have (`fs.pipe-max-size`). Against 512 KiB
/// it took a sixth to a fifth less CPU a GiB (`benches/RESULTS.md`).
pub const PIPE_BYTES: usize = 1024 * 1024;

/// A pipe that the kernel made smaller than this, in bytes, is not worth its two descriptors: past
/// `pipe-user-pages-soft` the kernel hands out pipes of two pages.
pub const PIPE_FLOOR_BYTES: usize = 64 * 1024;

/// Pipes that a shard lends out at once. A pipe is lent only while bulk bytes are in it. Two shards' worth of
/// [`PIPE_BYTES`] is what `fs.pipe-user-pages-soft` allows a user by default (16,384 pages); with more shards the pipes past it
/// are too small to be worth it, and their halves copy.
pub const PIPES_PER_SHARD: usize = 32;

/// Empty pipes that a shard keeps for the next borrower.
pub const PIPES_KEPT_PER_SHARD: usize = 8;

/// Bytes that one tunnel may move in one turn before it yields to the others, in bytes.
pub const TURN_BYTES: usize = 1024 * 1024;

/// One read while a head is waited for, in bytes: what comes behind it has to be kept, so that it bounds what a client that
/// pipelines makes the gateway hold.
pub const HEAD_READ_BYTES: usize = 16 * 1024;

/// Reads of a head, or of what nobody wants, that a tunnel may make in one turn: whoever sends without end yields to the others.
pub const READS_PER_TURN: usize = 1;

/// Reads on the way to a challenge that is fetched ahead, in one turn: enough for the longest 407 that is read past.
pub const WARM_READS_PER_TURN: usize = 24;

/// Connections accepted in one turn, so that a burst of new clients does not starve the tunnels that are there.
pub const ACCEPTS_PER_TURN: usize = 64;

/// Events taken from the kernel in one turn.
pub const EVENTS_PER_TURN: usize = 1024;

/// Clients over `max_tunnels` that are let in only to be told 503; past them accepting pauses. They take one descriptor
/// each.
pub const TURNED_AWAY_AT_ONCE: usize = 128;

/// A connection that has become idle gives way to others after this at the earliest: its request may be on its way.
pub const IDLE_GRACE: Duration = Duration::from_millis(250);

/// An unfinished head of at least so many bytes is closed, the oldest first, when memory runs short.
pub const HELD_MUCH_BYTES: usize = 4 * 1024;

/// Such heads that a shard closes in one turn.
pub const CLOSED_FOR_MEMORY: usize = 64;

/// How often a shard that has none of them asks the others to.
pub const ASK_FOR_MEMORY: Duration = Duration::from_millis(50);

/// The least that `limits.memory` may be, in bytes: some hundred requests.
pub const MEMORY_LEAST_BYTES: usize = 4 * 1024 * 1024;

/// Idle connections that are closed at once when the process runs out of descriptors.
pub const CLOSED_FOR_DESCRIPTORS: usize = 8;

/// Connections that wait for `accept` in the kernel, a listening socket. The kernel cuts it to `net.core.somaxconn`.
pub const LISTEN_BACKLOG: i32 = 4096;

/// How long accepting rests after the process ran out of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The log hears of such pauses this often at most.
pub const ACCEPT_PAUSE_TOLD: Duration = Duration::from_secs(10);

/// Where metrics and health are served. Not in the range 9100 to 9999, which Prometheus' exporters have divided among
/// themselves (9100 is node_exporter's), and below the ports that the system gives to outgoing connections.
pub const ADMIN_ADDRESS: &str = "127.0.0.1:8128";

/// Tunnels open at once in the whole process; cut to what `RLIMIT_NOFILE` allows.
pub const MAX_TUNNELS: usize = 10_000;

/// Descriptors kept back from tunnels: listeners, pipes, the log, the
/// administration address, look-ups ([`NAME_THREADS`]), and [`TURNED_AWAY_AT_ONCE`].
pub const RESERVED_DESCRIPTORS: usize = 720;

/// One connection attempt to one upstream address.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// From accept to a whole request head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// From the first upstream byte to the answer for the client. A proxy answers a CONNECT only when its own attempt at the
/// origin has ended, which takes a minute for a host that drops packets.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(75);

/// A tunnel on which nothing moves either way. WebSockets, database sessions and git over SSH rest for many minutes.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A tunnel of which one direction has ended.
pub const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(300);

/// From an error's answer to the close, while what the client still sends is read past: a close on unread bytes would
/// become a reset and destroy the answer on its way.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// From the end of the shutdown delay to the close of what is left.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// From SIGTERM, while `/readyz` already fails, to the close of the listeners.
pub const SHUTDOWN_DELAY: Duration = Duration::ZERO;

/// From an upstream's connection to its challenge, or to whatever else it answers to a request that needs no origin. A domain controller
/// answers in milliseconds; the rest is for a queue of helpers.
pub const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(10);

/// What an upstream serves without a challenge is remembered for this long: meanwhile a first leg may be waiting for its origin.
pub const UNASKED_AGE: Duration = Duration::from_secs(600);

/// Destinations that are remembered as challenged at an upstream that serves others without a challenge.
pub const CHALLENGED_KEPT: usize = 1024;

/// TCP keep-alive, towards clients and upstreams: rest before the first probe. Below the idle limits of most NAT boxes.
pub const TCP_IDLE: Duration = Duration::from_secs(60);

/// TCP keep-alive: between two probes. With [`TCP_PROBES`] a peer that is gone is noticed two minutes after its last word.
pub const TCP_PROBE: Duration = Duration::from_secs(15);

/// TCP keep-alive: probes without an answer after which the connection is given up.
pub const TCP_PROBES: u32 = 4;

/// Connections that one client request may use up in its handshake before the upstream is called at fault.
pub const HANDSHAKE_CONNECTIONS: u8 = 3;

/// Failed logons that one account may cause within [`GUARD_WINDOW`], over all its secrets, identities and upstreams. Active Directory
/// often locks at five, sometimes at three.
pub const GUARD_ATTEMPTS: usize = 3;

/// The window over which [`GUARD_ATTEMPTS`] counts; the usual observation window of an account lock-out policy.
pub const GUARD_WINDOW: Duration = Duration::from_secs(30 * 60);

/// Rest after a first refusal; each further one rests [`GUARD_BACKOFF_FACTOR`] times as long.
pub const GUARD_BACKOFF: Duration = Duration::from_secs(60);

/// See [`GUARD_BACKOFF`].
pub const GUARD_BACKOFF_FACTOR: u32 = 5;

/// A logon attempt that has had no answer for this long no longer holds the others up.
pub const GUARD_PATIENCE: Duration = Duration::from_secs(2);

/// Without an acceptance for this long, one logon goes first again.
pub const GUARD_PROOF_AGE: Duration = Duration::from_secs(60);

/// Answers without a verdict within [`GUARD_WINDOW`] after which the attempts of an account that was never accepted are spaced by
/// [`GUARD_UNDECIDED_REST`], because such an answer may hide a failed logon, and one that was is confirmed.
pub const GUARD_UNDECIDED: usize = 10;

/// See [`GUARD_UNDECIDED`].
pub const GUARD_UNDECIDED_REST: Duration = Duration::from_secs(60);

/// Accounts that a process remembers before it forgets those that no identity uses and nothing is counted against.
pub const GUARD_ACCOUNTS: usize = 256;

/// Secrets times upstreams that an account remembers before it forgets those that no identity uses and nothing is counted against.
pub const GUARD_TRACKS: usize = 128;

/// Destinations that the guard remembers as refused while others were accepted, an upstream.
pub const GUARD_SUSPECTS: usize = 256;

/// Accepted destinations that the guard remembers by name, an upstream: enough to confirm the secret with one of them.
pub const GUARD_KNOWN_GOOD: usize = 4;

/// Destinations that the guard remembers as demanding authentication, an account, and as accepted, an upstream. A hash and a time each.
pub const GUARD_RECENT: usize = 1024;

/// For how long it remembers them.
pub const GUARD_RECENT_AGE: Duration = Duration::from_secs(10 * 60);

/// Unused room for logons without an answer shrinks by half this often.
pub const GUARD_ROOM_AGE: Duration = Duration::from_secs(30);

/// After a handshake of the gateway's own that told nothing, the next one is not made before this.
pub const GUARD_CONFIRM_REST: Duration = Duration::from_secs(5);

/// After an upstream has taken no connection, ends of its connections say nothing of a secret for this long: they are the rest of its end.
pub const GUARD_DOWN: Duration = Duration::from_secs(2);

/// Connections a shard that wait for a verdict without a client. Past them a verdict that nobody waits for is lost, and counts as none.
pub const UNATTENDED_PER_SHARD: usize = 256;

/// Of them so many are kept for handshakes of the gateway's own.
pub const UNATTENDED_OWN: usize = 16;

/// How often those who wait for the guard ask again, besides at its changes.
pub const GUARD_LOOK: Duration = Duration::from_millis(250);

/// Longest wait for the name of an upstream whose port is one of the gateway's own, before it starts. What comes later is found by the
/// running gateway.
pub const OWN_NAME_TIMEOUT: Duration = Duration::from_secs(2);

/// Names are looked up again this often.
pub const RESOLVE_REFRESH: Duration = Duration::from_secs(30);

/// First rest after a look-up that failed; it doubles up to [`RESOLVE_REFRESH`].
pub const RESOLVE_RETRY: Duration = Duration::from_secs(1);

/// Log lines that wait for the writer; what comes past them is dropped and counted, because a log reader that stands
/// still must not stand a shard still.
pub const LOG_QUEUE_LINES: usize = 16 * 1024;

/// The same in bytes: peers choose how long a part of a line is.
pub const LOG_QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// Longest value of a field in a log line, in bytes; the rest is left out. Targets have up to 262.
pub const LOG_FIELD_BYTES: usize = 1024;

/// Longest message of a log line, in bytes: the errors of a configuration are one.
pub const LOG_MESSAGE_BYTES: usize = 16 * 1024;

/// Connections to the administration address that are served at once; a further one takes the place of the oldest that has
/// not sent its request or read its answer.
pub const ADMIN_CONNECTIONS: usize = 16;

/// Longest time that a client of the administration address may take for its request, and for reading its answer.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest request head on the administration address, in bytes.
pub const ADMIN_HEAD_LIMIT_BYTES: usize = 16 * 1024;

/// Warm connections that a shard keeps for its upstream at most. Squid holds one of its helpers (20 unless configured) for
/// each, over all shards and all replicas of the gateway.
pub const WARM_PER_SHARD: usize = 2;

/// A warm connection that is not used is closed after this: below the 10 s after which some proxies close an idle one.
pub const WARM_AGE: Duration = Duration::from_secs(8);

/// Nothing is warmed for this long after an upstream failed to give a challenge ahead.
pub const WARM_REST: Duration = Duration::from_secs(30);

/// How often a warm connection looks whether clients stand still for want of a challenge, to give way to them; and the
/// shortest standstill that counts. In milliseconds.
pub const WARM_LOOK_MS: u64 = 200;

/// Log lines are gathered for this long and written together.
pub const LOG_GATHER: Duration = Duration::from_millis(20);

/// Challenges that take longer than this, in ms, and than four times the usual, come out of a queue at the upstream.
pub const WARM_QUEUE_MS: u64 = 50;

/// Upstreams that a configuration may name; a request remembers those it has tried in one word.
pub const UPSTREAMS: usize = 64;

/// Identities that a configuration may name.
pub const IDENTITIES: usize = 64;

/// Faults in a row that eject an upstream.
pub const EJECT_AFTER: u32 = 3;

/// Faults that may be about their destinations eject an upstream only when nothing has succeeded since the first of them for this long:
/// in a burst of requests for forbidden hosts the next success is still on its way.
pub const EJECT_DOUBT: Duration = Duration::from_secs(1);

/// Hosts that an upstream's health remembers as failed.
pub const HEALTH_SUSPECTS: usize = 32;

/// A destination for which an upstream ended connections before a challenge gets no pre-challenged one for this long.
pub const CUT_OFF_AGE: Duration = Duration::from_secs(600);

/// While a whole group is ejected, one client is sent to its best upstream this often.
pub const TRIAL_REST: Duration = Duration::from_millis(10);

/// As many of those clients may come at once.
pub const TRIALS_AT_ONCE: u32 = 10;

/// The same for each destination that has failed there.
pub const SUSPECT_TRIAL_REST: Duration = Duration::from_secs(1);

/// From an upstream's ejection to its first check; each that fails rests twice as long, up to [`CHECK_LONGEST_REST`].
pub const CHECK_REST: Duration = Duration::from_secs(1);

/// See [`CHECK_REST`].
pub const CHECK_LONGEST_REST: Duration = Duration::from_secs(30);

/// Longest wait of a check for a connection, and for each answer.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest check by a handshake: its answers may each come in pieces.
pub const CHECK_WHOLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The next address is tried beside one that has not answered for so long (RFC 8305 §5, Connection Attempt Delay).
pub const RACE_DELAY: Duration = Duration::from_millis(250);

/// Connections that one dial has under way at once.
pub const RACERS: usize = 4;

/// Threads that look up the names of origins that are reached without an upstream, at most. They are started as they are needed: a name
/// whose server does not answer keeps one for as long as the system waits (10 s and more), and others must not wait with it.
pub const NAME_THREADS: usize = 384;

/// A client may have this many times as many names looked up as there are threads left for others: alone 256, which leaves 128; each
/// further one that asks for as many as it can gets two thirds of the rest.
pub const NAME_SHARE: usize = 2;

/// A look-up that takes this long hangs: who asks for the name then is told so at once, and for [`NAME_HANGS_AGE`] after it has failed.
pub const NAME_HANGS: Duration = Duration::from_secs(5);

/// See [`NAME_HANGS`].
pub const NAME_HANGS_AGE: Duration = Duration::from_secs(10);

/// A thread that had no name to look up for this long ends.
pub const NAME_THREAD_REST: Duration = Duration::from_secs(10);

/// Names that wait for one of [`NAME_THREADS`], of all clients; past them, and past a client's share of them ([`NAME_SHARE`]), a request for
/// a further name is declined.
pub const NAME_QUEUE: usize = 1024;

/// Requests that wait for one name, and those that have given up since its look-up was asked for; past them a request for this name is
/// declined, and others are not. Each takes less than a hundred bytes.
pub const NAME_ASKERS: usize = 1024;

/// How long a name's addresses are remembered.
pub const NAME_AGE: Duration = Duration::from_secs(30);

/// Names that are remembered.
pub const NAMES_KEPT: usize = 4096;

/// From a file's change to the reload, so that a file that is being written is not read half; each further change
/// begins it anew.
pub const WATCH_SETTLE: Duration = Duration::from_millis(200);

/// Files that never come to rest are read after this all the same.
pub const WATCH_SETTLE_MAX: Duration = Duration::from_secs(2);

/// The watched files are read this often without a sign of change: some mounts (NFS, FUSE) give none.
pub const WATCH_POLL: Duration = Duration::from_secs(30);

/// As much of a watched file tells whether it has changed, in bytes: no configuration is longer.
pub const WATCH_FILE_BYTES: u64 = 1024 * 1024;

/// Symbolic links followed on the way to a watched file, as many as the kernel follows.
pub const WATCH_LINKS: usize = 40;

/// Tunnels that are described at once, in the log or at `/tunnels`; of further ones only the number is told.
pub const DESCRIBED_TUNNELS: usize = 10_000;

/// Longest wait for the shards' answers to a question: a loop's turn takes milliseconds.
pub const SHARD_PATIENCE: Duration = Duration::from_secs(2);

/// Longest wait for the service manager to take a notification.
pub const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// Requests on one connection of a client, so that connections move over to new gateways and upstreams in the end.
pub const REQUESTS_PER_CONNECTION: u32 = 10_000;

/// Interim (1xx) answers that are passed over in a handshake; an upstream that sends more never comes to its answer.
pub const HANDSHAKE_INTERIM_ANSWERS: u16 = 100;

/// Interim answers that wait for a client that does not read, in bytes; past them the upstream is not read.
pub const INTERIM_UNSENT_BYTES: usize = 8 * 1024;

/// How long the body of a request is held back until the upstream has shown whether it asks for credentials, where that is
/// not known. An upstream that asks says so at once; one that does not waits for the body without a word.
pub const BODY_HELD_BACK: Duration = Duration::from_secs(2);

/// A body of at most so many bytes is not held back but kept until the upstream has shown that.
pub const KEPT_BODY_BYTES: usize = 16 * 1024;

/// What must move within [`BODY_TIMEOUT`] while a client is waited for, in bytes, or it is too slow.
pub const BODY_FLOOR_BYTES: u64 = 4 * 1024;

/// How long a client may take for the next [`BODY_FLOOR_BYTES`] of its body or its answer.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// From the end of a request to the beginning of its answer.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);

/// A client's connection between two requests.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// An authenticated upstream connection between two requests: below the 10 s after which some proxies close an idle one.
pub const KEEP_AGE: Duration = Duration::from_secs(8);

/// Authenticated upstream connections that a shard keeps for an upstream and an identity.
pub const KEEP_PER_SHARD: usize = 256;

/// Wrong logins to the gateway that an address may show at once; then one in each [`LOGIN_REST`].
pub const LOGIN_TRIES: u32 = 5;

/// From one wrong login of an address past [`LOGIN_TRIES`] to the next that is looked at: 8,640 guesses a day, and a short
/// wait for a client whose password was just corrected.
pub const LOGIN_REST: Duration = Duration::from_secs(10);

/// Addresses that are remembered for their wrong logins. Some 40 bytes each.
pub const LOGIN_ADDRESSES: usize = 4096;

/// A request that must not be made twice goes on a kept connection only if that was used within this time, in ms: an
/// upstream that closes idle connections does so after some seconds, and a request that meets the close is lost.
pub const KEPT_FRESH_MS: u64 = 1_000;

/// Addresses of clients that are remembered for their limits, in each of 16 parts.
pub const CLIENTS_REMEMBERED: usize = 1024;

/// An upstream that asked for authentication again so often in a row, on connections that it had authenticated, and then
/// served the same destination on a fresh one, is taken to authenticate single requests: its connections are not kept.
pub const FORGETS: u32 = 3;

/// Requests in a row that an upstream has to grant without asking for authentication before clients no longer wait until it has accepted one.
pub const UNASKED: u32 = 3;

/// What was learnt of an upstream's habits is forgotten after this and learnt again.
pub const HABIT_AGE: Duration = Duration::from_secs(10 * 60);

/// An upstream that has been heard of within this time is not taken for mute: a short body goes to it at once.
pub const HEARD_AGE: Duration = Duration::from_secs(60);

/// Destinations of which it is remembered whether the upstream asks for credentials there.
pub const DESTINATIONS_REMEMBERED: usize = 1024;
