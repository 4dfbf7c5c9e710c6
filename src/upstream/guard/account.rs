//! The accounts of a process: the lock of each, and the notification of its watchers. What is known of one is in its
//! [`Ledger`].

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::attempt::{Attempted, Effect};
use super::destination::{demand_hash, destination_hash};
use super::ledger::{At, Books, Ledger, Outgoing, Ruling};
use super::reservation::{AttemptEnd, Learned, Order, Reservation, SecretDigest, Store, Where};
use super::track::{Booking, Track};
use super::verdict::{self, Answer};
use super::{AttemptRequest, GuardPolicy, GuardState, GuardStatus, KnownGood, OnChange, Refusal};
use crate::limits::{self, millis};

/// The accounts of a process. An account outlives the secrets and identities that use it, so that failed logons are
/// remembered across a reload.
#[derive(Debug, Default)]
pub struct Accounts {
    policy: GuardPolicy,
    store: Option<Arc<dyn Store>>,
    known: Mutex<HashMap<(String, String), Arc<Account>>>,
    last_number: AtomicU64,
}

impl Accounts {
    /// Starts without accounts; each gets this policy.
    pub fn new(policy: GuardPolicy) -> Accounts {
        Accounts { policy, ..Accounts::default() }
    }

    /// The same with a store in which attempts are reserved, together with other processes.
    pub fn with_store(policy: GuardPolicy, store: Arc<dyn Store>) -> Accounts {
        Accounts { policy, store: Some(store), ..Accounts::default() }
    }

    /// The account of a user in a domain, both compared case-insensitively. Beyond [`limits::GUARD_ACCOUNTS`], accounts
    /// that no identity uses and that have no recent failures are forgotten.
    pub fn of(&self, domain: &str, user: &str) -> Arc<Account> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= limits::GUARD_ACCOUNTS {
            known.retain(|_, account| Arc::strong_count(account) > 1 || !account.lock().is_idle(&self.policy));
        }
        let name = (domain.to_lowercase(), user.to_lowercase());
        Arc::clone(known.entry(name).or_insert_with(|| self.account(domain, user)))
    }

    fn account(&self, domain: &str, user: &str) -> Arc<Account> {
        let number = self.last_number.fetch_add(1, Ordering::Relaxed);
        let account = Arc::new(Account::new(self.policy, number, self.store.clone()));
        if let Some(store) = &self.store {
            let (domain, user, answers) = (domain.to_owned(), user.to_owned(), Arc::downgrade(&account));
            store.order(Order::Account { account: number, domain, user, answers });
        }
        account
    }
}

/// One account, shared by all threads.
///
/// It is behind a mutex and not owned by a thread, because callers need the answer in order to go on. The mutex is held
/// for a few instructions, never over I/O.
pub struct Account {
    policy: GuardPolicy,
    /// In this process.
    number: u64,
    store: Option<Arc<dyn Store>>,
    hasher: RandomState,
    /// Some track refuses attempts, or may refuse one for its destination. Kept beside the ledger, because every
    /// request asks, and this is seldom so.
    may_refuse: AtomicBool,
    ledger: Mutex<Ledger>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Account").finish_non_exhaustive()
    }
}

/// Whether waiting requests may be able to go on.
type Frees = bool;

impl Account {
    fn new(policy: GuardPolicy, number: u64, store: Option<Arc<dyn Store>>) -> Account {
        let books = store.as_ref().map(|_| Books {
            account: number,
            is_reachable: true,
            counted: Vec::new(),
            orders: Vec::new(),
        });
        let mut ledger = Ledger::default();
        ledger.books = books;
        let ledger = Mutex::new(ledger);
        Account { policy, number, store, hasher: RandomState::new(), may_refuse: AtomicBool::new(false), ledger }
    }

    /// A fingerprint of a secret, valid in this process only.
    pub fn fingerprint(&self, secret: impl Hash) -> u64 {
        self.hasher.hash_one(secret)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watch(&self, secret: u64, previous: Option<u64>, on_change: OnChange) -> u64 {
        self.lock().watch(secret, previous, on_change)
    }

    pub(super) fn unwatch(&self, number: u64) {
        let mut ledger = self.lock();
        ledger.unwatch(number);
        self.send_orders(&mut ledger);
    }

    pub(super) fn destination(&self, method: &str, destination: &str) -> u64 {
        destination_hash(&self.hasher, method == "CONNECT", destination)
    }

    /// Why nothing may be sent for a destination yet, if so. What changes at the same time counts as later: a request
    /// is asked about again before it is dialled for.
    pub(super) fn refuses(&self, at: At<'_>, now_ms: u64, method: &str, destination: &str) -> Option<Refusal> {
        if !self.may_refuse.load(Ordering::Relaxed) {
            return None;
        }
        self.lock().refuses(at, self.destination(method, destination), now_ms)
    }

    /// Whether a request may be dialled for; with the number of its scout if it has to be one.
    pub(super) fn enter(&self, at: At<'_>, now_ms: u64, method: &str, destination: &str) -> Ruling<Option<u64>> {
        let hash = || self.destination(method, destination);
        self.change(at, now_ms, |ledger, index| (ledger.enter(index, hash, &self.policy), false))
    }

    /// As [`Account::enter`], for a request that was refused with the counterpart of the secret.
    pub(super) fn enter_after_refusal(&self, at: At<'_>, now_ms: u64, destination: u64) -> Ruling<()> {
        self.change(at, now_ms, |ledger, index| (ledger.enter_after_refusal(index, destination, &self.policy), false))
    }

    /// Whether clients use the previous secret.
    pub(super) fn uses_previous(&self, at: At<'_>, previous: u64, now_ms: u64) -> bool {
        self.lock().uses_previous(at, previous, &self.policy, now_ms)
    }

    /// Has the gateway try the secret while clients use the previous one.
    pub(super) fn try_present(&self, at: At<'_>, previous: u64, now_ms: u64) {
        self.change(at, now_ms, |ledger, index| (ledger.try_present(index, previous, &self.policy), false));
    }

    /// Whether an attempt may go out now.
    pub(super) fn ask(&self, at: At<'_>, now_ms: u64, request: &AttemptRequest<'_>) -> Ruling<Outgoing> {
        let destination = self.destination(request.method, request.destination);
        let demand = demand_hash(&self.hasher, at.upstream, request.method, destination);
        self.change(at, now_ms, |ledger, index| {
            if request.challenged {
                ledger.demanding.note(demand, now_ms);
            }
            let demands = request.challenged || ledger.demanding.contains(demand, now_ms);
            let ruling = ledger.ask(index, destination, request.confirms, &self.policy);
            let outgoing = |(number, sent_while_accepted, reservation)| Outgoing {
                number,
                destination,
                known_good: ledger.tracks[index].known_good_name(destination),
                demands,
                sent_while_accepted,
                reservation,
            };
            (ruling.map(outgoing), false)
        })
    }

    /// An attempt is over. `demands` as in [`Outgoing`].
    pub(super) fn settle(
        &self,
        at: At<'_>,
        now_ms: u64,
        attempt: &Attempted,
        answer: Answer,
        demands: bool,
        good: &KnownGood,
    ) {
        self.change(at, now_ms, |ledger, index| {
            let verdict = verdict::of(answer, demands, attempt.challenged);
            let was_proven = ledger.tracks[index].state() == GuardState::Proven;
            let strike = ledger.settle(index, attempt, verdict, good, &self.policy);
            let track = &mut ledger.tracks[index];
            let failed_by_close = track.take_failure();
            let is_proven = track.state() == GuardState::Proven;
            ledger.report(index, attempt, Effect { verdict, strike, failed_by_close, is_proven, was_proven });
            let is_accepted = ledger.is_accepted(index, &self.policy);
            ((), !is_accepted || ledger.tracks[index].has_much_room())
        });
    }

    /// An attempt was abandoned without an answer, at an unknown time.
    pub(super) fn abandon(&self, at: At<'_>, attempt: &Attempted) {
        let now_ms = self.lock().now_ms;
        self.change(at, now_ms, |ledger, index| {
            ledger.undecided(index, attempt, &self.policy);
            if let Some(reservation) = attempt.reservation {
                ledger.give_back(self.place(at), reservation, AttemptEnd::Undecided);
            }
            ((), true)
        });
    }

    /// See [`Guard::unreachable`](super::Guard::unreachable).
    pub(super) fn unreachable(&self, at: At<'_>) {
        if self.lock().existing(at).is_some() {
            let now_ms = self.lock().now_ms;
            self.change(at, now_ms, |ledger, index| (ledger.tracks[index].unreachable(now_ms), true));
        }
    }

    /// An attempt was not sent after all.
    pub(super) fn take_back(&self, at: At<'_>, attempt: &Attempted) {
        let now_ms = self.lock().now_ms;
        self.change(at, now_ms, |ledger, index| {
            ledger.tracks[index].forget(attempt.number);
            if let Some(reservation) = attempt.reservation {
                ledger.give_back(self.place(at), reservation, AttemptEnd::Unused);
            }
            ((), true)
        });
    }

    /// A scout is over, with or without an attempt.
    pub(super) fn end_scout(&self, at: At<'_>, number: u64) {
        let now_ms = self.lock().now_ms;
        self.change(at, now_ms, |ledger, index| ((), ledger.tracks[index].end_scout(number)));
    }

    /// Begins a wanted confirmation, unless one with the same secret is running at another upstream.
    pub(super) fn take_confirmation(&self, at: At<'_>, now_ms: u64) -> Option<KnownGood> {
        let ledger = self.lock();
        let is_running = ledger.tracks.iter().any(|track| track.secret == at.secret && track.is_running());
        let may_begin = !is_running
            && !ledger.is_paused(at.secret)
            && ledger.existing(at).is_some_and(|track| track.may_confirm(now_ms));
        drop(ledger);
        if !may_begin {
            return None;
        }
        self.change(at, now_ms, |ledger, index| {
            let is_booked = ledger.is_booked_for_confirmation(index);
            (if is_booked { ledger.tracks[index].take_confirmation(now_ms) } else { None }, false)
        })
    }

    pub(super) fn end_confirmation(&self, at: At<'_>) {
        let now_ms = self.lock().now_ms;
        self.change(at, now_ms, |ledger, index| {
            ledger.tracks[index].end_confirmation();
            ((), true)
        });
    }

    pub(super) fn is_accepted(&self, at: At<'_>, now_ms: u64) -> bool {
        let ledger = self.lock();
        let index = ledger.tracks.iter().position(|track| track.is_of(at.secret, at.upstream));
        index.is_some_and(|index| ledger.is_accepted_at(index, &self.policy, now_ms))
    }

    /// See [`Guard::status`](super::Guard::status).
    pub(super) fn status(&self, secret: u64, now_ms: u64) -> GuardStatus {
        let mut ledger = self.lock();
        ledger.now_ms = ledger.now_ms.max(now_ms);
        ledger.status(secret, &self.policy)
    }

    /// Says what a secret is, so that the store can recognise it in other processes.
    pub fn introduce(&self, secret: u64, digest: SecretDigest) {
        let mut ledger = self.lock();
        if let Some(books) = &mut ledger.books {
            books.orders.push(Order::Secret { account: books.account, secret, digest });
        }
        self.send_orders(&mut ledger);
    }

    /// See [`Guard::expect`](super::Guard::expect).
    pub(super) fn expect(&self, at: At<'_>) {
        let now_ms = self.lock().now_ms;
        self.change(at, now_ms, |ledger, _| {
            let place = self.place(at);
            ledger.books.iter_mut().for_each(|books| books.orders.push(Order::Expect(place.clone())));
            ((), false)
        });
    }

    /// The store has reserved an attempt.
    pub fn granted(&self, now_ms: u64, at: &Where, reservation: Reservation) {
        self.change(At { secret: at.secret, upstream: &at.upstream }, now_ms, |ledger, index| {
            let booking = &mut ledger.tracks[index].booking;
            let is_wanted = *booking == Booking::Asked;
            if is_wanted {
                *booking = Booking::Held(reservation);
            } else {
                ledger.give_back(at.clone(), reservation, AttemptEnd::Unused);
            }
            ((), is_wanted)
        });
    }

    /// The store grants nothing before then, in ms of the process's clock.
    pub fn denied(&self, now_ms: u64, at: &Where, until_ms: u64) {
        self.change(At { secret: at.secret, upstream: &at.upstream }, now_ms, |ledger, index| {
            ledger.tracks[index].denied(until_ms);
            ((), true)
        });
    }

    /// The attempts that are left in the store are reserved for destinations that are sure to give a verdict.
    pub fn only_spare(&self, now_ms: u64, at: &Where) {
        self.change(At { secret: at.secret, upstream: &at.upstream }, now_ms, |ledger, index| {
            if ledger.has_serving_counterpart(index) {
                // It can wait, and nothing is sure to clear the failures before their time.
                ledger.tracks[index].denied(now_ms + millis(self.policy.rest(2)));
                return ((), true);
            }
            let track = &mut ledger.tracks[index];
            track.booking = Booking::None;
            track.want_confirmation(now_ms);
            ((), false)
        });
    }

    /// Takes a reservation back that was granted and is not used.
    pub fn release(&self, now_ms: u64, at: &Where, reservation: Reservation) {
        self.change(At { secret: at.secret, upstream: &at.upstream }, now_ms, |ledger, index| {
            if ledger.tracks[index].booking == Booking::Held(reservation) {
                ledger.tracks[index].booking = Booking::None;
                ledger.give_back(at.clone(), reservation, AttemptEnd::Unused);
            }
            ((), false)
        });
    }

    /// Other processes have used the secret.
    pub fn learn(&self, now_ms: u64, at: &Where, learned: Learned) {
        self.change(At { secret: at.secret, upstream: &at.upstream }, now_ms, |ledger, index| {
            ledger.tracks[index].learn(learned, now_ms);
            ((), true)
        });
    }

    /// An operator has cleared what was counted.
    pub fn forgive(&self, now_ms: u64, at: &Where) {
        self.change(At { secret: at.secret, upstream: &at.upstream }, now_ms, |ledger, index| {
            ledger.forgive(index);
            ((), true)
        });
    }

    /// Whether the store can be reached.
    pub fn store_is(&self, reachable: bool, now_ms: u64, at: &Where) {
        self.change(At { secret: at.secret, upstream: &at.upstream }, now_ms, |ledger, _| {
            ledger.books.iter_mut().for_each(|books| books.is_reachable = reachable);
            ((), !reachable)
        });
    }

    pub(super) fn lacks_store(&self) -> bool {
        self.lock().books.as_ref().is_some_and(|books| !books.is_reachable)
    }

    /// How many attempts of the account count against the budget in the store, and until when, in ms of the process's
    /// clock: at first, after that, and so on until none does.
    pub fn counted(&self, attempts: Vec<(u64, usize)>) {
        if let Some(books) = &mut self.lock().books {
            books.counted = attempts;
        }
    }

    fn place(&self, at: At<'_>) -> Where {
        Where { account: self.number, secret: at.secret, upstream: Arc::clone(at.upstream) }
    }

    /// Under the lock, so that the store gets the orders in the sequence of the changes.
    fn send_orders(&self, ledger: &mut Ledger) {
        if let (Some(store), Some(books)) = (&self.store, &mut ledger.books) {
            books.orders.drain(..).for_each(|order| store.order(order));
        }
    }

    /// Changes a track under the lock; once it is released, tells the watchers of the secret what has changed.
    fn change<T>(&self, at: At<'_>, now_ms: u64, act: impl FnOnce(&mut Ledger, usize) -> (T, Frees)) -> T {
        let mut ledger = self.lock();
        ledger.now_ms = ledger.now_ms.max(now_ms);
        let index = ledger.track(at, &self.policy);
        let (before, wanted) = (ledger.tracks[index].state(), ledger.tracks[index].wants_confirmation());
        let (outcome, frees) = act(&mut ledger, index);
        let change = ledger.change_since(index, before, wanted, frees);
        self.send_orders(&mut ledger);
        self.may_refuse.store(ledger.tracks.iter().any(Track::may_refuse), Ordering::Relaxed);
        let callbacks = if change.is_some() { ledger.callbacks(at.secret) } else { Vec::new() };
        drop(ledger);
        if let Some(change) = change {
            callbacks.iter().for_each(|on_change| on_change(&change));
        }
        outcome
    }
}
