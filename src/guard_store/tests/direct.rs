//! A command's access to the document, with a store in memory that misbehaves as it is told.

use std::time::Duration;

use super::super::cell::Cell;
use super::super::direct::{AccountName, DirectStore};
use super::super::document::{Document, place};
use super::super::record::{Actor, Purpose, Reserved};
use super::policy;
use super::thread::MemoryCell;

const NOBODY_WAITS: Duration = Duration::ZERO;

fn account() -> AccountName {
    AccountName { domain: "CORP".into(), user: "svc".into() }
}

fn direct(cell: &MemoryCell) -> DirectStore {
    DirectStore::new(Box::new(cell.clone()), policy(3), 0, vec![account()]).unwrap().with_patience(NOBODY_WAITS)
}

/// Reserves an attempt, which is not settled.
fn reserve(document: &mut Document, actor: &Actor<'_>) -> Reserved {
    let salt = document.salt().to_owned();
    let record = document.record(&account().hash(&salt));
    record.reserve(&place(&salt, "secret", "proxy"), Purpose::default(), actor)
}

fn counted(store: &mut DirectStore) -> usize {
    let snapshot = store.read().unwrap();
    let record = snapshot.document.existing(&account().hash(snapshot.document.salt()));
    record.map_or(0, |record| record.counted(&policy(3), snapshot.now_ms))
}

#[test]
fn a_change_is_made_again_after_each_lost_race_and_stored_once() {
    let cell = MemoryCell::default();
    let mut store = direct(&cell);
    cell.lock().conflicts = 20;
    let mut calls = 0;
    let reserved = store.change(|document, actor| {
        calls += 1;
        reserve(document, actor)
    });
    assert!(matches!(reserved, Ok(Reserved::Granted(_))), "{reserved:?}");
    assert_eq!((calls, counted(&mut store)), (21, 1));
}

#[test]
fn races_that_are_always_lost_end_with_an_error() {
    let cell = MemoryCell::default();
    cell.lock().conflicts = usize::MAX;
    let fault = direct(&cell).change(reserve).unwrap_err().to_string();
    assert!(fault.contains("32 times in a row"), "{fault}");
}

#[test]
fn a_change_whose_answer_was_lost_is_not_made_twice() {
    let cell = MemoryCell::default();
    cell.lock().lies = 1;
    let mut store = direct(&cell).with_patience(Duration::from_secs(20));
    assert!(matches!(store.change(reserve), Ok(Reserved::Granted(1))));
    assert_eq!(counted(&mut store), 1);
}

#[test]
fn a_store_out_of_reach_is_reported_with_its_own_reason() {
    let cell = MemoryCell::default();
    cell.lock().is_down = true;
    let mut store = direct(&cell);
    assert_eq!(store.read().unwrap_err().to_string(), "it is down");
    assert_eq!(store.change(reserve).unwrap_err().to_string(), "it is down");
}

#[test]
fn only_a_change_that_may_begin_a_new_document_replaces_one_that_is_not_usable() {
    let mut cell = MemoryCell::default();
    let version = cell.read().unwrap().version;
    cell.replace("{\"form\":99,\"salt\":\"\",\"accounts\":{}}", &version).unwrap();
    let mut store = direct(&cell);
    for fault in [store.read().unwrap_err(), store.change(reserve).unwrap_err()] {
        let fault = fault.to_string();
        assert!(fault.contains("form 99") && fault.contains("guard reset --all"), "{fault}");
    }
    assert!(matches!(store.change_or_begin(reserve), Ok(Reserved::Granted(_))));
    assert_eq!(counted(&mut store), 1);
}

#[test]
fn damaged_lines_of_a_journal_count_for_the_accounts_in_use() {
    let cell = MemoryCell::default();
    cell.lock().damaged = 2;
    assert_eq!(counted(&mut direct(&cell)), 2, "although nothing else is known of the account");
}
