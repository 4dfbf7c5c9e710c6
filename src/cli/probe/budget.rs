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
    at_proxy: Logon,
    /// If the identity uses Kerberos.
    at_kdc: Option<Logon>,
    /// How long the attempts of others are waited for.
    patience: Duration,
    reserved: Option<Reservation>,
    use_of_store: StoreUse,
}

/// Where a logon is made, as the store names it, and with what.
#[derive(Clone)]
struct Logon {
    upstream: String,
    secret: StoredSecret,
}

/// A logon that has not been settled.
struct Reservation {
    logon: Logon,
    number: u64,
    /// The salt of the document that has it.
    salt: String,
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
        let (open, identity) = (open_store(config)?, &config.identities[0]);
        let store = open.as_ref().map_or("memory", |open| open.kind);
        Ok(Budget {
            open,
            at_proxy: Logon { upstream: config.first_upstream().name.clone(), secret: StoredSecret::of(identity) },
            at_kdc: StoredSecret::for_kdc(identity).map(|(upstream, secret)| Logon { upstream, secret }),
            patience: config.timeouts.handshake,
            reserved: None,
            use_of_store: StoreUse { store, reserved: false, not_settled: None },
        })
    }

    /// Reserves the logon to the proxy. While others are trying the same secret it waits for their result.
    pub(super) fn reserve(&mut self) -> Result<(), Denial> {
        self.reserve_for(self.at_proxy.clone())
    }

    /// The same for the logon to the KDC.
    pub(super) fn reserve_at_kdc(&mut self) -> Result<(), Denial> {
        self.at_kdc.clone().map_or(Ok(()), |logon| self.reserve_for(logon))
    }

    fn reserve_for(&mut self, logon: Logon) -> Result<(), Denial> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let until = Instant::now() + self.patience;
        loop {
            let asked = ask(open, &logon);
            let Asked { answer, salt, now_ms, counted, attempts, fewer_at_ms } =
                asked.map_err(|fault| Denial::Store(fault.to_string()))?;
            let held = |until_ms| Denial::Held { until_ms, now_ms, counted, attempts };
            match answer {
                Reserved::Granted(number) => {
                    self.reserved = Some(Reservation { logon, number, salt });
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
        let (Some(open), Some(reserved)) = (&mut self.open, self.reserved.take()) else { return };
        let Reservation { logon: Logon { upstream, secret }, number, salt } = reserved;
        let settled = open.store.change(|document, actor| {
            let place = secret.place(document.salt(), &upstream);
            let is_same = document.salt() == salt;
            let record = document.record(&secret.account(document.salt()));
            let is_proven = record.status(&place, actor).state == GuardState::Proven;
            let is_known = record.is_known(&place.secret);
            let end = answer.map_or(AttemptEnd::Unused, |answer| AttemptEnd::of_single(answer, is_proven, is_known));
            match is_same {
                true => record.settle(&place, number, end, actor),
                false => record.settle_lost(&place, end, actor),
            }
        });
        if let Err(fault) = settled {
            self.use_of_store.not_settled = Some(fault.to_string());
        }
    }

    pub(super) fn use_of_store(&self) -> StoreUse {
        self.use_of_store.clone()
    }
}

fn ask(open: &mut OpenStore, Logon { upstream, secret }: &Logon) -> Result<Asked, StoreFault> {
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
