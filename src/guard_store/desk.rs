//! The orders of this process: which are open, how they change a document, and what to answer. Pure, apart from the
//! answers.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Weak;

use super::cell::{Kept, Reason, StoreFault};
use super::document::{Document, account_hash, fingerprint, place};
use super::record::{Actor, Known, Place, Purpose, Reserved, Shares};
use crate::limits::{self, millis};
use crate::upstream::{Account, AttemptEnd, GuardPolicy, Learned, Order, Reservation, SecretDigest, Unreserved, Where};

/// See the module.
#[derive(Debug)]
pub(super) struct Desk {
    policy: GuardPolicy,
    /// What processes may do while they cannot reach the store.
    shares: Shares,
    /// A random number of this process.
    owner: u64,
    /// By how much the clock of another process may be behind the one of this process, in ms.
    clock_error_ms: u64,
    /// The process ends.
    leaves: bool,
    accounts: HashMap<u64, Party>,
    /// What the accounts use.
    expected: Vec<Expected>,
    /// Settled attempts that the store does not know of yet, the oldest first.
    reports: Vec<Report>,
    /// Requests for reservations.
    requests: Vec<Request>,
    /// Reservations that may be unused, with when they were granted, in ms of the process's clock.
    unused: Vec<(Where, Reservation, u64)>,
}

/// An account.
#[derive(Debug)]
struct Party {
    domain: String,
    user: String,
    answers: Weak<Account>,
    secrets: HashMap<u64, Secret>,
    share: Share,
}

/// What an account may do while the store cannot be reached.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    /// Since when this process has a share, in ms of its clock; `None` if it has none.
    since_ms: Option<u64>,
    /// Whether it has asked for one.
    is_asked: bool,
    /// Attempts of this process that the store counts.
    counted: usize,
    /// Attempts that the store does not know of yet.
    unreported: usize,
}

/// A secret in use at an upstream.
#[derive(Debug)]
struct Expected {
    at: Where,
    /// What the account was told last.
    told: Known,
    /// Nothing is sent until then, in ms of the process's clock.
    held_until_ms: u64,
    /// What was denied until then.
    denied: Option<Purpose>,
}

#[derive(Debug)]
struct Secret {
    /// `None` once no identity uses it.
    digest: Option<SecretDigest>,
    /// With the salt that it was made with.
    fingerprint: Option<(String, String)>,
}

#[derive(Debug)]
enum Report {
    Settled(Where, Reservation, AttemptEnd),
    Noted(Where, Unreserved),
}

#[derive(Debug)]
struct Request {
    at: Where,
    purpose: Purpose,
    /// Nothing changes before then unless the document does, in ms of the process's clock.
    not_before_ms: u64,
}

/// The two clocks, read at the same moment, in ms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    /// The store's, since 1970.
    pub store_ms: u64,
    /// The process's, since its start.
    pub own_ms: u64,
}

impl Clocks {
    fn own(self, store_ms: u64) -> u64 {
        if store_ms >= self.store_ms {
            self.own_ms.saturating_add(store_ms - self.store_ms)
        } else {
            self.own_ms.saturating_sub(self.store_ms - store_ms)
        }
    }

    fn store(self, own_ms: u64) -> u64 {
        self.store_ms.saturating_sub(self.own_ms.saturating_sub(own_ms))
    }
}

/// The reservation of an attempt from the process's share, of which the store does not know.
const FROM_SHARE: Reservation = Reservation { number: 0, record: 0 };

/// What a document makes of the open orders. Nothing of it is true before the document has been stored.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    answers: Vec<(Where, Reserved)>,
    /// How many reports are in the document.
    reports: usize,
    record: u64,
}

impl Desk {
    pub(super) fn new(policy: GuardPolicy, shares: Shares, owner: u64, clock_error_ms: u64) -> Desk {
        Desk {
            policy,
            shares,
            owner,
            clock_error_ms,
            leaves: false,
            accounts: HashMap::new(),
            expected: Vec::new(),
            reports: Vec::new(),
            requests: Vec::new(),
            unused: Vec::new(),
        }
    }

    pub(super) fn policy(&self) -> &GuardPolicy {
        &self.policy
    }

    /// Takes an order.
    pub(super) fn take(&mut self, order: Order) {
        match order {
            Order::Account { account, domain, user, answers } => {
                self.forget_ended();
                self.accounts
                    .insert(account, Party { domain, user, answers, secrets: HashMap::new(), share: Share::default() });
            }
            Order::Secret { account, secret, digest } => {
                if let Some(party) = self.accounts.get_mut(&account) {
                    party.secrets.entry(secret).or_insert(Secret { digest: None, fingerprint: None }).digest =
                        Some(digest);
                }
            }
            Order::Forget { account, secret } => self.forget(account, secret),
            Order::Expect(at) => self.expect(&at),
            Order::Reserve { at, spare, first_confirmation } => {
                self.expect(&at);
                let purpose = Purpose { spare, first_confirmation };
                self.requests.push(Request { at, purpose, not_before_ms: 0 });
            }
            Order::Settle { at, reservation, end } => {
                self.unused.retain(|(place, other, _)| *place != at || *other != reservation);
                if reservation == FROM_SHARE && end == AttemptEnd::Unused {
                    if let Some(party) = self.accounts.get_mut(&at.account) {
                        party.share.unreported = party.share.unreported.saturating_sub(1);
                    }
                    return;
                }
                self.reports.push(Report::Settled(at, reservation, end));
            }
            Order::Note { at, event } => self.reports.push(Report::Noted(at, event)),
        }
    }

    fn expect(&mut self, at: &Where) {
        if !self.expected.iter().any(|expected| expected.at == *at) {
            let (at, told) = (at.clone(), Known::default());
            self.expected.push(Expected { at, told, held_until_ms: 0, denied: None });
        }
    }

    /// No identity uses the secret any more. Its fingerprint is kept for attempts that are under way.
    fn forget(&mut self, account: u64, secret: u64) {
        self.expected.retain(|expected| (expected.at.account, expected.at.secret) != (account, secret));
        self.requests.retain(|request| (request.at.account, request.at.secret) != (account, secret));
        if let Some(party) = self.accounts.get_mut(&account) {
            party.secrets.entry(secret).and_modify(|secret| secret.digest = None);
            if party.secrets.len() > limits::GUARD_STORED_PLACES {
                party.secrets.retain(|_, secret| secret.digest.is_some());
            }
        }
    }

    /// Forgets accounts that no longer exist in the process.
    fn forget_ended(&mut self) {
        self.accounts.retain(|_, party| party.answers.strong_count() > 0);
        let accounts = &self.accounts;
        self.expected.retain(|expected| accounts.contains_key(&expected.at.account));
        self.requests.retain(|request| accounts.contains_key(&request.at.account));
    }

    /// Whether something has to be read or written now.
    pub(super) fn is_due(&self, own_ms: u64) -> bool {
        !self.reports.is_empty() || self.has_request_due(own_ms) || self.leaves || self.has_to_join()
    }

    /// Whether an account has not asked for its share yet.
    fn has_to_join(&self) -> bool {
        self.shares.attempts > 0 && self.accounts.values().any(|party| !party.share.is_asked)
    }

    /// The process ends: its shares are free for others.
    pub(super) fn leave(&mut self) {
        self.leaves = self.shares.attempts > 0;
        self.shares = Shares::default();
    }

    pub(super) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Whether some request can be answered now.
    pub(super) fn has_request_due(&self, own_ms: u64) -> bool {
        self.requests.iter().any(|request| request.not_before_ms <= own_ms)
    }

    /// Whether nothing may be sent with some secret in use, which others may change.
    pub(super) fn has_held(&self, own_ms: u64) -> bool {
        self.expected.iter().any(|expected| own_ms < expected.held_until_ms)
    }

    /// When the next thing is due if nothing happens before, in ms of the process's clock.
    pub(super) fn next_ms(&self) -> Option<u64> {
        let requests = self.requests.iter().map(|request| request.not_before_ms);
        let unused = self.unused.iter().map(|(.., since_ms)| since_ms + millis(limits::GUARD_UNUSED_RESERVATION));
        requests.chain(unused).min()
    }

    /// Carries all open orders out on a document. `damaged`: so many later documents were lost.
    pub(super) fn apply(&mut self, document: &mut Document, damaged: usize, clocks: Clocks) -> Outcome {
        self.assume_lost(document, damaged, clocks.store_ms);
        let salt = document.salt().to_owned();
        let mut outcome = Outcome { record: record_number(&salt), reports: self.reports.len(), ..Outcome::default() };
        let (policy, now_ms) = (self.policy, clocks.store_ms);
        let actor = self.actor(&policy, now_ms);
        self.join(document, &actor);
        for report in &self.reports {
            let (Report::Settled(at, ..) | Report::Noted(at, _)) = report;
            let Some((account, place)) = resolve(&mut self.accounts, at, &salt) else { continue };
            let record = document.record(&account);
            match *report {
                Report::Settled(_, reservation, end) if reservation.record == outcome.record => {
                    record.settle(&place, reservation.number, end, &actor);
                }
                Report::Settled(_, _, end) => record.settle_lost(&place, end, &actor),
                Report::Noted(_, Unreserved::Accepted { sent_ms }) => {
                    let event = Unreserved::Accepted { sent_ms: clocks.store(sent_ms) };
                    record.note(&place, event, &actor);
                }
                Report::Noted(_, event) => record.note(&place, event, &actor),
            }
        }
        for request in &self.requests {
            let answer = match resolve(&mut self.accounts, &request.at, &salt) {
                Some((account, place)) => document.record(&account).reserve(&place, request.purpose, &actor),
                None => Reserved::Wait { until_ms: now_ms + millis(limits::GUARD_STORE_POLL) },
            };
            outcome.answers.push((request.at.clone(), answer));
        }
        outcome
    }

    fn actor<'a>(&self, policy: &'a GuardPolicy, now_ms: u64) -> Actor<'a> {
        let (owner, shares, clock_error_ms) = (self.owner, self.shares, self.clock_error_ms);
        Actor { owner, policy, shares, now_ms, clock_error_ms }
    }

    /// Renews the shares of this process, or gives them back.
    fn join(&mut self, document: &mut Document, actor: &Actor<'_>) {
        if self.shares.attempts == 0 && !self.leaves {
            return;
        }
        let salt = document.salt().to_owned();
        for party in self.accounts.values_mut() {
            let record = document.record(&account_hash(&salt, &party.domain, &party.user));
            if self.leaves {
                record.leave(self.owner);
            } else {
                record.join(actor);
            }
        }
    }

    /// The document has been stored: which shares this process has.
    fn joined(&mut self, document: &Document, clocks: Clocks) {
        for party in self.accounts.values_mut() {
            let record = document.existing(&account_hash(document.salt(), &party.domain, &party.user));
            let has_share = record.is_some_and(|record| record.has_joined(self.owner));
            let counted = record.map_or(0, |record| record.counted_of(self.owner, &self.policy, clocks.store_ms));
            party.share =
                Share { since_ms: has_share.then_some(clocks.own_ms), is_asked: true, counted, unreported: 0 };
        }
        self.leaves = false;
    }

    /// Grants what may be sent from the shares of this process, because the store cannot be reached.
    pub(super) fn grant_from_shares(&mut self, own_ms: u64) {
        let (window_ms, most) = (millis(self.policy.window), self.shares.attempts);
        let mut index = 0;
        while index < self.requests.len() {
            let at = self.requests[index].at.clone();
            let is_held = self.expected.iter().any(|expected| expected.at == at && own_ms < expected.held_until_ms);
            let party = self.accounts.get_mut(&at.account).filter(|party| {
                let is_valid = party.share.since_ms.is_some_and(|since_ms| own_ms < since_ms + window_ms);
                is_valid && party.share.counted + party.share.unreported < most && !is_held
            });
            let Some((party, account)) =
                party.and_then(|party| party.answers.upgrade().map(|account| (party, account)))
            else {
                index += 1;
                continue;
            };
            party.share.unreported += 1;
            self.requests.remove(index);
            self.unused.push((at.clone(), FROM_SHARE, own_ms));
            account.granted(own_ms, &at, FROM_SHARE);
        }
    }

    /// Counts what may have been in documents that were lost.
    fn assume_lost(&mut self, document: &mut Document, damaged: usize, now_ms: u64) {
        if damaged > 0 {
            let parties = self.accounts.values();
            let accounts: Vec<String> =
                parties.map(|party| account_hash(document.salt(), &party.domain, &party.user)).collect();
            document.assume_lost(&accounts, damaged.min(self.policy.attempts), now_ms);
        }
    }

    /// The document has been stored: what follows from it is true.
    pub(super) fn stored(&mut self, outcome: Outcome, document: &Document, clocks: Clocks) {
        self.reports.drain(..outcome.reports);
        self.joined(document, clocks);
        for (at, answer) in outcome.answers {
            let Some(index) = self.requests.iter().position(|request| request.at == at) else { continue };
            if let Reserved::Wait { until_ms } = answer {
                self.requests[index].not_before_ms = clocks.own(until_ms).max(clocks.own_ms + 1);
                continue;
            }
            let Request { purpose, .. } = self.requests.remove(index);
            let account = self.accounts.get(&at.account).and_then(|party| party.answers.upgrade());
            match (account, answer) {
                (Some(account), Reserved::Granted(number)) => {
                    let reservation = Reservation { number, record: outcome.record };
                    self.unused.push((at.clone(), reservation, clocks.own_ms));
                    account.granted(clocks.own_ms, &at, reservation);
                }
                (None, Reserved::Granted(number)) => {
                    let reservation = Reservation { number, record: outcome.record };
                    self.reports.push(Report::Settled(at, reservation, AttemptEnd::Unused));
                }
                (Some(account), Reserved::Denied { until_ms }) => {
                    let until_ms = clocks.own(until_ms);
                    account.denied(clocks.own_ms, &at, until_ms);
                    if let Some(expected) = self.expected.iter_mut().find(|expected| expected.at == at) {
                        (expected.held_until_ms, expected.denied) = (until_ms, Some(purpose));
                    }
                }
                (Some(account), Reserved::OnlySpare) => account.only_spare(clocks.own_ms, &at),
                (None, _) | (_, Reserved::Wait { .. }) => {}
            }
        }
    }

    /// Tells the accounts what is new in a document that is in the store.
    pub(super) fn tell(&mut self, document: &Document, clocks: Clocks) {
        let salt = document.salt().to_owned();
        let policy = self.policy;
        let actor = self.actor(&policy, clocks.store_ms);
        for Expected { at, told, held_until_ms, denied } in &mut self.expected {
            let Some((account_name, place)) = resolve(&mut self.accounts, at, &salt) else { continue };
            let Some(account) = self.accounts.get(&at.account).and_then(|party| party.answers.upgrade()) else {
                continue;
            };
            let record = document.existing(&account_name);
            let known = record.map(|record| record.known(&place)).unwrap_or_default();
            let counted = record.map(|record| record.counted_until(&self.policy, clocks.store_ms));
            account.counted(
                counted.into_iter().flatten().map(|(until_ms, count)| (clocks.own(until_ms), count)).collect(),
            );
            if let Some(purpose) = *denied {
                let mut record = record.cloned().unwrap_or_default();
                let answer = record.reserve(&place, purpose, &actor);
                if !matches!(answer, Reserved::Denied { .. }) {
                    (*held_until_ms, *denied) = (0, None);
                    account.forgive(clocks.own_ms, at);
                }
            }
            if known == *told {
                continue;
            }
            *held_until_ms = (*held_until_ms).max(clocks.own(known.until_ms));
            if known.reset_ms > told.reset_ms && told.reset_ms + told.accepted_ms + told.struck_ms > 0 {
                account.forgive(clocks.own_ms, at);
            }
            let refused = (known.struck_ms > 0).then(|| (clocks.own(known.struck_ms), clocks.own(known.until_ms)));
            let accepted_ms = (known.accepted_ms > 0).then(|| clocks.own(known.accepted_ms));
            account.learn(clocks.own_ms, at, Learned { accepted_ms, refused });
            *told = known;
        }
        // What is new may let a request go.
        self.requests.iter_mut().for_each(|request| request.not_before_ms = 0);
    }

    /// Tells the accounts whether the store can be reached.
    pub(super) fn tell_reachable(&self, is_reachable: bool, own_ms: u64) {
        for Expected { at, .. } in &self.expected {
            if let Some(account) = self.accounts.get(&at.account).and_then(|party| party.answers.upgrade()) {
                account.store_is(is_reachable, own_ms, at);
            }
        }
    }

    /// Takes back what was granted before `since_ms` and may be unused.
    pub(super) fn release(&mut self, since_ms: u64, own_ms: u64) {
        let (old, fresh) = std::mem::take(&mut self.unused).into_iter().partition(|(.., at_ms)| *at_ms <= since_ms);
        self.unused = fresh;
        for (at, reservation, _) in old {
            if let Some(account) = self.accounts.get(&at.account).and_then(|party| party.answers.upgrade()) {
                account.release(own_ms, &at, reservation);
            }
        }
    }
}

/// How the document names an account and a secret of it at an upstream; `None` if they are not known here.
fn resolve(accounts: &mut HashMap<u64, Party>, at: &Where, salt: &str) -> Option<(String, Place)> {
    let party = accounts.get_mut(&at.account)?;
    let account = account_hash(salt, &party.domain, &party.user);
    let secret = party.secrets.get_mut(&at.secret)?;
    let made = match &secret.fingerprint {
        Some((with, made)) if with == salt => made.clone(),
        _ => {
            let made = fingerprint(secret.digest.as_ref()?, salt, &account);
            secret.fingerprint = Some((salt.to_owned(), made.clone()));
            made
        }
    };
    Some((account, place(salt, &made, &at.upstream)))
}

/// A number that distinguishes documents with different salts.
fn record_number(salt: &str) -> u64 {
    u64::from_str_radix(salt.get(..16).unwrap_or_default(), 16).unwrap_or(0)
}

/// The document in a text that was read, or a new one.
pub(super) fn document_of(kept: &Kept) -> Result<Document, StoreFault> {
    let unusable = |error: &dyn Display| {
        StoreFault::Refused(Reason(format!(
            "the guard's document is not usable: {error}; `ntlm-gateway guard reset --all` begins a new one"
        )))
    };
    match &kept.text {
        Some(text) => Document::read(text).map_err(|error| unusable(&error)),
        None => new_document(),
    }
}

/// An empty document.
pub(super) fn new_document() -> Result<Document, StoreFault> {
    let no_randomness = |error| StoreFault::Unavailable(Reason(format!("the system has no randomness: {error}")));
    Document::new().map_err(no_randomness)
}
