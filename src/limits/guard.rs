//! The credential guard, and the store behind it.

use std::time::Duration;

/// Failed logons that one account may cause within [`GUARD_WINDOW`], over all its secrets, identities and upstreams.
/// Active Directory often locks an account at five, sometimes at three.
pub const GUARD_ATTEMPTS: usize = 3;

/// The window over which [`GUARD_ATTEMPTS`] counts: the usual observation window of an account lockout policy.
pub const GUARD_WINDOW: Duration = Duration::from_secs(30 * 60);

/// Pause after the first refusal. Each further refusal makes it [`GUARD_BACKOFF_FACTOR`] times as long.
pub const GUARD_BACKOFF: Duration = Duration::from_secs(60);

/// See [`GUARD_BACKOFF`].
pub const GUARD_BACKOFF_FACTOR: u32 = 5;

/// How long the gateway still listens for the answer to a logon attempt after the handshake's time is over: until then
/// the attempt counts as pending, and a refusal as refused. With the default time-outs an attempt is over before its
/// reservation in a store is ([`GUARD_RESERVATION_AGE`]).
pub const GUARD_LATE_VERDICT_WAIT: Duration = Duration::from_secs(30);

/// A logon attempt that is unanswered for this long no longer delays the others.
pub const GUARD_PENDING_WAIT: Duration = Duration::from_secs(2);

/// How long an acceptance counts. After that, one logon has to go first again.
pub const GUARD_ACCEPTANCE_AGE: Duration = Duration::from_secs(60);

/// For an account that was never accepted: after this many undecided answers within [`GUARD_WINDOW`], attempts are
/// spaced by [`GUARD_UNDECIDED_INTERVAL`], because such an answer may hide a failed logon. For an account that was
/// accepted, the secret is confirmed.
pub const GUARD_UNDECIDED: usize = 10;

/// See [`GUARD_UNDECIDED`].
pub const GUARD_UNDECIDED_INTERVAL: Duration = Duration::from_secs(60);

/// Accounts that a process remembers before it forgets those that no identity uses and that have no failures counted.
pub const GUARD_ACCOUNTS: usize = 256;

/// Secrets times upstreams that an account remembers before it forgets those that no identity uses and that have no
/// failures counted.
pub const GUARD_TRACKS: usize = 128;

/// Destinations per upstream that the guard remembers as refused while others were accepted.
pub const GUARD_SUSPECTS: usize = 256;

/// Accepted destinations per upstream that the guard remembers by name: enough to confirm the secret with one of them.
pub const GUARD_KNOWN_GOOD: usize = 4;

/// Destinations that the guard remembers as demanding authentication (per account) and as accepted (per upstream): a
/// hash and a time each.
pub const GUARD_RECENT: usize = 1024;

/// How long the guard remembers those destinations.
pub const GUARD_RECENT_AGE: Duration = Duration::from_secs(10 * 60);

/// Half-life of unused room for unanswered logons.
pub const GUARD_ROOM_HALF_LIFE: Duration = Duration::from_secs(30);

/// Shortest time between two handshakes that the gateway makes by itself to confirm a secret, if the first was
/// undecided.
pub const GUARD_CONFIRM_INTERVAL: Duration = Duration::from_secs(5);

/// After an upstream accepted no connection, closed connections say nothing about a secret for this long: they belong
/// to the same outage.
pub const GUARD_OUTAGE_GRACE: Duration = Duration::from_secs(2);

/// How often sessions that wait for the guard ask again, besides at each of its changes.
pub const GUARD_RECHECK_INTERVAL: Duration = Duration::from_millis(250);

// ---- The guard store in Kubernetes ----

/// Longest time for a request to the Kubernetes API: look-up, connection, TLS and the whole answer.
pub const KUBERNETES_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest answer of the Kubernetes API, and longest line of a watch. The annotations of an object have at most 256 KiB
/// together, which JSON may double; the rest is for what others have put there.
pub const KUBERNETES_ANSWER_BYTES: u64 = 1024 * 1024;

/// Longest part of the Kubernetes API's own explanation that is repeated in the log.
pub const KUBERNETES_MESSAGE_BYTES: usize = 300;

/// Pause after the Kubernetes API answered 429 without saying for how long. Also the shortest that it can ask for.
pub const KUBERNETES_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause that the Kubernetes API can ask for.
pub const KUBERNETES_PAUSE_MAX: Duration = Duration::from_secs(60);

/// After this, the Kubernetes API ends a watch, and the gateway begins the next one.
pub const KUBERNETES_WATCH_AGE: Duration = Duration::from_secs(30);

/// A watch that brought nothing for this long, not even its end, has lost its connection. Above
/// [`KUBERNETES_WATCH_AGE`].
pub const KUBERNETES_WATCH_SILENCE: Duration = Duration::from_secs(35);

/// A watch that ends earlier than this has failed.
pub const KUBERNETES_WATCH_SHORT: Duration = Duration::from_secs(1);

/// A connection to the Kubernetes API is reused within this time. A write on a connection that the server is closing
/// has an unknown outcome.
pub const KUBERNETES_KEPT: Duration = Duration::from_secs(1);

/// How often the file with the Kubernetes API's CA is read again, besides after each failure of TLS.
pub const KUBERNETES_CA_AGE: Duration = Duration::from_secs(60);

/// Longest file of a service account.
pub const SERVICE_ACCOUNT_FILE_BYTES: u64 = 256 * 1024;

// ---- The store behind the guard ----

/// How long a reserved logon attempt may be under way. After that its process has ended, and it counts as failed.
pub const GUARD_RESERVATION_AGE: Duration = Duration::from_secs(2 * 60);

/// How long requests wait for the outcome of reserved attempts that use the budget up. After that the attempts have
/// probably lost their processes, and requests are rejected at once until an outcome is recorded.
pub const GUARD_OUTCOME_WAIT: Duration = Duration::from_secs(10);

/// A reservation that nobody has used for this long is given back.
pub const GUARD_UNUSED_RESERVATION: Duration = Duration::from_secs(10);

/// How far the clocks may be apart by which processes read and write one store. Attempts count for that much longer.
pub const GUARD_CLOCK_MARGIN: Duration = Duration::from_secs(5);

/// Attempts that a store keeps for an account. More than a budget, because some count only for their upstream.
pub const GUARD_STORED_ATTEMPTS: usize = 128;

/// Secrets times upstreams that a store keeps for an account.
pub const GUARD_STORED_PLACES: usize = 64;

/// Most bytes of a store's document. The annotations of a Kubernetes object may have 256 KiB in all.
pub const GUARD_DOCUMENT_BYTES: usize = 128 * 1024;

/// Most bytes of a store's journal before it is written again with its last line alone.
pub const GUARD_JOURNAL_BYTES: usize = 1024 * 1024;

/// How often a store is read while requests wait for it, or while the secret is rejected.
pub const GUARD_STORE_POLL: Duration = Duration::from_secs(1);

/// The same for the first case where reading it costs next to nothing.
pub const GUARD_STORE_POLL_LOCAL: Duration = Duration::from_millis(200);

/// The same for the second case where the store announces its changes.
pub const GUARD_STORE_POLL_WATCHED: Duration = Duration::from_secs(10);

/// The first pause after a store could not be reached; each further one is twice as long.
pub const GUARD_STORE_RETRY: Duration = Duration::from_millis(250);

/// The longest of these pauses.
pub const GUARD_STORE_RETRY_MAX: Duration = Duration::from_secs(5);

/// How often a change is tried again at once because others have changed the store meanwhile.
pub const GUARD_STORE_CONFLICTS: usize = 32;

/// Rounds of the function that makes the fingerprint of a secret. One guess costs that much more than with NTLM.
pub const GUARD_FINGERPRINT_ROUNDS: u32 = 20_000;

/// How long a start waits to learn from the store whether the secrets are rejected.
pub const GUARD_STORE_START_WAIT: Duration = Duration::from_secs(2);

/// How long a command such as `guard reset` retries while the store is out of reach.
pub const GUARD_STORE_COMMAND_WAIT: Duration = Duration::from_secs(5);
