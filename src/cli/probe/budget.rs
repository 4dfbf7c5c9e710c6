//! The probe's logon in the guard's budget: it is reserved in the store before it is made, and settled afterwards.

use std::thread;
use std::time::{Duration, Instant};

use crate::cli::guard::{OpenStore, StoredSecret, open_store};
use crate::config::Config;
use crate::guard_store::{Purpose, Reserved, StoreFault};
use crate::limits::{self, millis};
use crate::upstream::{Answer, AttemptEnd, GuardState};

/// The budget, if there is a store besides the memory of each gateway.
pub(super) struct Budget {
    open: Option<OpenStore>,
    secret: StoredSecret,
    first_upstream: String,
    /// Where the logon is made that is reserved.
    upstream: String,
    /// How long the attempts of others are waited for.
    patience: Duration,
    /// The number of the reservation, and the salt of the document that has it.
    reserved: Option<(u64, String)>,
    use_of_store: StoreUse,
}

/// How the store was used.
#[derive(Clone, Debug)]
pub(super) struct StoreUse {
    /// As in `guard.store`.
    pub store: &'static str,
    /// A logon was reserved.
    pub reserved: bool,
    /// The result could not be stored, because of this.
    pub not_settled: Option<String>,
}

/// Why no logon may be made.
#[derive(Debug)]
pub(super) enum Denial {
    /// Not before then, in ms since 1970.
    Held { until_ms: u64, now_ms: u64, counted: usize, attempts: usize },
    /// The store cannot be used, because of this.
    Store(String),
}

/// The store's answer to a request for a reservation.
struct Asked {
    answer: Reserved,
    salt: String,
    now_ms: u64,
    counted: usize,
    attempts: usize,
    fewer_at_ms: Option<u64>,
}

impl Budget {
    /// The budget of the first identity at the first upstream. Nothing is read yet.
    pub(super) fn of(config: &Config) -> Result<Budget, String> {
        let open = open_store(config)?;
        let store = open.as_ref().map_or("memory", |open| open.kind);
        Ok(Budget {
            open,
            secret: StoredSecret::of(&config.identities[0]),
            first_upstream: config.first_upstream().name.clone(),
            upstream: String::new(),
            patience: config.timeouts.handshake,
            reserved: None,
            use_of_store: StoreUse { store, reserved: false, not_settled: None },
        })
    }

    /// Reserves the logon. While others are trying the same secret it waits for their result.
    pub(super) fn reserve(&mut self) -> Result<(), Denial> {
        self.reserve_at(&self.first_upstream.clone())
    }

    /// The same, for a logon elsewhere.
    pub(super) fn reserve_at(&mut self, upstream: &str) -> Result<(), Denial> {
        upstream.clone_into(&mut self.upstream);
        let Some(open) = &mut self.open else { return Ok(()) };
        let until = Instant::now() + self.patience;
        loop {
            let asked = ask(open, &self.secret, &self.upstream);
            let Asked { answer, salt, now_ms, counted, attempts, fewer_at_ms } =
                asked.map_err(|fault| Denial::Store(fault.to_string()))?;
            let held = |until_ms| Denial::Held { until_ms, now_ms, counted, attempts };
            match answer {
                Reserved::Granted(number) => {
                    self.reserved = Some((number, salt));
                    self.use_of_store.reserved = true;
                    return Ok(());
                }
                Reserved::Wait { until_ms } => {
                    let pause = Duration::from_millis(until_ms.saturating_sub(now_ms)).min(limits::GUARD_STORE_POLL);
                    if Instant::now() + pause > until {
                        return Err(held(until_ms));
                    }
                    thread::sleep(pause);
                }
                Reserved::Denied { until_ms } => return Err(held(until_ms)),
                Reserved::OnlySpare => return Err(held(fewer_at_ms.unwrap_or(now_ms + millis(limits::GUARD_WINDOW)))),
            }
        }
    }

    /// Stores how the logon ended; `None` if none was made.
    pub(super) fn settle(&mut self, answer: Option<Answer>) {
        let (Some(open), Some((number, salt))) = (&mut self.open, self.reserved.take()) else { return };
        let settled = open.store.change(|document, actor| {
            let place = self.secret.place(document.salt(), &self.upstream);
            let is_same = document.salt() == salt;
            let record = document.record(&self.secret.account(document.salt()));
            let is_proven = record.status(&place, actor).state == GuardState::Proven;
            let is_known = record.is_known(&place.secret);
            let end = answer.map_or(AttemptEnd::Unused, |answer| AttemptEnd::of_single(answer, is_proven, is_known));
            match is_same {
                true => record.settle(&place, number, end, actor),
                false => record.settle_lost(&place, end, actor),
            }
        });
        self.use_of_store.not_settled = settled.err().map(|fault| fault.to_string());
    }

    pub(super) fn use_of_store(&self) -> StoreUse {
        self.use_of_store.clone()
    }
}

fn ask(open: &mut OpenStore, secret: &StoredSecret, upstream: &str) -> Result<Asked, StoreFault> {
    open.store.change(|document, actor| {
        let salt = document.salt().to_owned();
        let place = secret.place(&salt, upstream);
        let record = document.record(&secret.account(&salt));
        let counted = record.counted_beside(&[&place.secret], actor);
        // As in a gateway, the last attempt is kept for a destination that is sure to give a verdict.
        let spare = usize::from(record.is_known(&place.secret));
        let answer = record.reserve(&place, Purpose { spare, first_confirmation: false }, actor);
        Asked {
            answer,
            salt,
            now_ms: actor.now_ms,
            counted: counted.all,
            attempts: actor.policy.attempts,
            fewer_at_ms: counted.fewer_at_ms,
        }
    })
}
