//! Reads and changes the document for a command: a caller that blocks, makes one change, and ends.

use std::thread;
use std::time::{Duration, Instant};

use super::cell::{Cell, Reason, Replaced, StoreFault};
use super::desk::{document_of, new_document};
use super::document::{Document, account_hash};
use super::record::{Actor, Shares};
use crate::limits::{self, millis};
use crate::upstream::GuardPolicy;

/// An account as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountName {
    /// Its domain; empty for a UPN.
    pub domain: String,
    /// Its user.
    pub user: String,
}

impl AccountName {
    /// The name under which a document with this salt keeps it.
    pub fn hash(&self, salt: &str) -> String {
        account_hash(salt, &self.domain, &self.user)
    }
}

/// A store without a thread. Every call blocks.
pub struct DirectStore {
    cell: Box<dyn Cell>,
    policy: GuardPolicy,
    shares: Shares,
    /// A random number, new for each command.
    owner: u64,
    /// The accounts in use, for which damaged lines of a journal count.
    accounts: Vec<AccountName>,
    /// How long a store that is out of reach is tried.
    patience: Duration,
}

/// A document as it was read.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The document, which is empty if the store has none.
    pub document: Document,
    /// The store's time, in ms since 1970.
    pub now_ms: u64,
}

/// What an attempt to replace the text led to.
enum Attempted<T> {
    Done(T),
    /// Somebody else was faster.
    Conflict,
    /// The text may have been stored or not.
    Unclear {
        text: String,
        result: T,
        fault: StoreFault,
    },
}

impl DirectStore {
    /// Nothing is read before the first call. `max_replicas` as for
    /// [`StoreThread::start`](super::StoreThread::start).
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(
        cell: Box<dyn Cell>,
        policy: GuardPolicy,
        max_replicas: usize,
        accounts: Vec<AccountName>,
    ) -> Result<DirectStore, getrandom::Error> {
        let (shares, owner) = (Shares::of(policy.attempts, max_replicas), getrandom::u64()?);
        Ok(DirectStore { cell, policy, shares, owner, accounts, patience: limits::GUARD_STORE_COMMAND_WAIT })
    }

    /// The same with another limit on how long a store that is out of reach is tried.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> DirectStore {
        DirectStore { patience, ..self }
    }

    /// Who acts on the records, at this time by the store's clock.
    pub fn actor(&self, now_ms: u64) -> Actor<'_> {
        let clock_error_ms = millis(self.cell.clock_error());
        Actor { owner: self.owner, policy: &self.policy, shares: self.shares, now_ms, clock_error_ms }
    }

    /// Reads the document.
    ///
    /// # Errors
    /// The store is out of reach, or what it holds is no document.
    pub fn read(&mut self) -> Result<Snapshot, StoreFault> {
        let mut retry = Retry::new(self.patience);
        loop {
            match self.cell.read() {
                Ok(kept) => {
                    let mut document = document_of(&kept)?;
                    self.assume_lost(&mut document, kept.damaged, kept.at_ms);
                    return Ok(Snapshot { document, now_ms: kept.at_ms });
                }
                Err(fault) => retry.pause(fault)?,
            }
        }
    }

    /// Changes the document, and returns what `act` returned once the change is stored. `act` is called
    /// again if others have changed the document meanwhile.
    ///
    /// # Errors
    /// As for [`DirectStore::read`]. The change may have been stored all the same.
    pub fn change<T>(&mut self, act: impl FnMut(&mut Document, &Actor<'_>) -> T) -> Result<T, StoreFault> {
        self.change_or(false, act)
    }

    /// The same, but begins a new document if what the store holds is none.
    ///
    /// # Errors
    /// The store is out of reach.
    pub fn change_or_begin<T>(&mut self, act: impl FnMut(&mut Document, &Actor<'_>) -> T) -> Result<T, StoreFault> {
        self.change_or(true, act)
    }

    fn change_or<T>(
        &mut self,
        begins: bool,
        mut act: impl FnMut(&mut Document, &Actor<'_>) -> T,
    ) -> Result<T, StoreFault> {
        let mut retry = Retry::new(self.patience);
        let mut unclear = None;
        let mut conflicts = 0;
        loop {
            match self.try_to_change(begins, &mut unclear, &mut act) {
                Ok(Attempted::Done(result)) => return Ok(result),
                Ok(Attempted::Conflict) if conflicts < limits::GUARD_STORE_CONFLICTS => conflicts += 1,
                Ok(Attempted::Conflict) => {
                    let reason = format!("others changed the guard's document {conflicts} times in a row");
                    return Err(StoreFault::Unavailable(Reason(reason)));
                }
                Ok(Attempted::Unclear { text, result, fault }) => {
                    unclear = Some((text, result));
                    retry.pause(fault)?;
                }
                Err(fault) => retry.pause(fault)?,
            }
        }
    }

    fn try_to_change<T>(
        &mut self,
        begins: bool,
        unclear: &mut Option<(String, T)>,
        act: &mut impl FnMut(&mut Document, &Actor<'_>) -> T,
    ) -> Result<Attempted<T>, StoreFault> {
        let kept = self.cell.read()?;
        if let Some((text, result)) = unclear.take()
            && kept.text.as_ref() == Some(&text)
        {
            return Ok(Attempted::Done(result));
        }
        let mut document = match document_of(&kept) {
            Err(_) if begins => new_document()?,
            document => document?,
        };
        self.assume_lost(&mut document, kept.damaged, kept.at_ms);
        let result = act(&mut document, &self.actor(kept.at_ms));
        let text = document.write(&self.policy, kept.at_ms);
        if kept.text.as_ref() == Some(&text) {
            return Ok(Attempted::Done(result));
        }
        Ok(match self.cell.replace(&text, &kept.version) {
            Ok(Replaced::Yes(_)) => Attempted::Done(result),
            Ok(Replaced::Conflict) => Attempted::Conflict,
            Err(fault) => Attempted::Unclear { text, result, fault },
        })
    }

    /// Counts what may have been in lines of a journal that were lost.
    fn assume_lost(&self, document: &mut Document, damaged: usize, now_ms: u64) {
        if damaged > 0 {
            let accounts: Vec<String> = self.accounts.iter().map(|account| account.hash(document.salt())).collect();
            document.assume_lost(&accounts, damaged.min(self.policy.attempts), now_ms);
        }
    }
}

/// The pauses between attempts to reach a store.
struct Retry {
    until: Instant,
    pause: Duration,
}

impl Retry {
    fn new(patience: Duration) -> Retry {
        Retry { until: Instant::now() + patience, pause: limits::GUARD_STORE_RETRY }
    }

    /// Waits before the next attempt, or returns the fault if there is none.
    fn pause(&mut self, fault: StoreFault) -> Result<(), StoreFault> {
        let pause = match &fault {
            StoreFault::Refused(_) => return Err(fault),
            StoreFault::Unavailable(_) => self.pause,
            StoreFault::Overloaded { pause_ms, .. } => self.pause.max(Duration::from_millis(*pause_ms)),
        };
        if Instant::now() + pause >= self.until {
            return Err(fault);
        }
        thread::sleep(pause);
        self.pause *= 2;
        Ok(())
    }
}
