//! Waiting for changes of the Lease.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use ntlm_gateway::guard_store::cell::{Cell, Kept, StoreFault, Version, Watch};
use ntlm_gateway::guard_store::kubernetes::Timing;

use super::{TIMING, cell, cell_through, create, read, replaced, unavailable};
use crate::support::kubernetes::{Fault, KubernetesApi};

/// Above all that these tests wait for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A watch that does not end by itself during a test.
const LONG: Timing = Timing { watch_age: Duration::from_secs(60), watch_silence: Duration::from_secs(70), ..TIMING };

fn watch(cell: &impl Cell) -> Box<dyn Watch> {
    cell.watch().expect("a watch")
}

/// The outcomes of a watch on a thread of its own, until it fails.
fn follow(mut watch: Box<dyn Watch>) -> mpsc::Receiver<Result<Kept, StoreFault>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        loop {
            let next = watch.next();
            let has_failed = next.is_err();
            if sender.send(next).is_err() || has_failed {
                return;
            }
        }
    });
    receiver
}

fn next_text(events: &mpsc::Receiver<Result<Kept, StoreFault>>) -> Option<String> {
    events.recv_timeout(PATIENCE).expect("an event").expect("a state").text
}

#[test]
fn a_watch_begins_with_the_present_state() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    let version = create(&mut cell, "1");
    let kept = watch(&cell).next().expect("a state");
    assert_eq!((kept.text.as_deref(), &kept.version), (Some("1"), &version));
    // On the same clock as the reads.
    assert!(kept.at_ms.abs_diff(read(&mut cell).at_ms) < 10_000);
}

#[test]
fn a_change_by_another_process_arrives_within_two_seconds() {
    let api = KubernetesApi::start();
    let (mut writer, reader) = (cell(&api), cell_through(api.door(), &api, LONG));
    let mut version = create(&mut writer, "0");
    let events = follow(watch(&reader));
    assert_eq!(next_text(&events).as_deref(), Some("0"));
    let mut delays = Vec::new();
    for number in 1..5 {
        let text = number.to_string();
        version = replaced(writer.replace(&text, &version));
        let begun = Instant::now();
        assert_eq!(next_text(&events), Some(text));
        delays.push(begun.elapsed());
    }
    // A busy machine may delay one, but not each.
    assert!(delays.iter().any(|delay| *delay < Duration::from_secs(2)), "{delays:?}");
    assert_eq!(api.count("GET", 200), 1, "more than one watch");
}

#[test]
fn a_state_from_a_watch_can_be_replaced() {
    let api = KubernetesApi::start();
    let (mut writer, mut reader) = (cell(&api), cell(&api));
    create(&mut writer, "1");
    let kept = watch(&reader).next().expect("a state");
    replaced(reader.replace("2", &kept.version));
    assert_eq!(api.lease_text().as_deref(), Some("2"));
    assert_eq!(api.count("GET", 200), 1, "it was read again");
}

#[test]
fn creation_and_deletion_are_reported() {
    let api = KubernetesApi::start();
    let mut cell = cell_through(api.door(), &api, LONG);
    let events = follow(watch(&cell));
    // The watch may begin before or after this. It reports the Lease in both cases.
    create(&mut cell, "1");
    assert_eq!(next_text(&events).as_deref(), Some("1"));
    api.delete_lease();
    let gone = events.recv_timeout(PATIENCE).expect("an event").expect("a state");
    assert_eq!((gone.text, gone.version), (None, Version::default()));
}

#[test]
fn a_watch_that_the_api_ends_returns_the_state_and_begins_again() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    let mut watch = watch(&cell);
    let version = create(&mut cell, "1");
    assert_eq!(watch.next().expect("a state").text.as_deref(), Some("1"));
    // Its time is over after two seconds.
    assert_eq!(watch.next().expect("a state").text.as_deref(), Some("1"));
    assert_eq!(watch.next().expect("a state").text.as_deref(), Some("1"));
    replaced(cell.replace("2", &version));
    assert_eq!(watch.next().expect("a state").text.as_deref(), Some("2"));
}

#[test]
fn a_watch_that_ends_at_once_is_a_fault_and_not_a_busy_loop() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    create(&mut cell, "1");
    api.set_fault(Fault::WatchGone);
    let mut watch = watch(&cell);
    for _ in 0..2 {
        let text = unavailable(watch.next());
        assert!(text.contains("(410); it says: too old resource version"), "{text}");
    }
    api.set_fault(None);
    assert_eq!(watch.next().expect("a state").text.as_deref(), Some("1"));
}

#[test]
fn a_dead_connection_of_a_watch_is_noticed() {
    let api = KubernetesApi::start();
    let silence = Duration::from_secs(3);
    let mut cell = cell_through(api.door(), &api, Timing { watch_silence: silence, ..LONG });
    let version = create(&mut cell, "1");
    let mut watch = watch(&cell);
    watch.next().expect("the present state");
    api.set_fault(Fault::WatchSilent);
    replaced(cell.replace("2", &version));
    let begun = Instant::now();
    let text = unavailable(watch.next());
    assert!(text.ends_with("was silent for 3 s"), "{text}");
    assert!(begun.elapsed() < PATIENCE);
    api.set_fault(None);
    assert_eq!(watch.next().expect("a state").text.as_deref(), Some("2"));
}

#[test]
fn a_watch_fails_while_the_api_is_down_and_goes_on_afterwards() {
    let api = KubernetesApi::start();
    let door = api.another_door();
    let (mut writer, reader) = (cell(&api), cell_through(&door, &api, LONG));
    let version = create(&mut writer, "1");
    let mut watch = watch(&reader);
    watch.next().expect("the present state");
    door.close();
    unavailable(watch.next());
    unavailable(watch.next());
    replaced(writer.replace("2", &version));
    door.reopen();
    assert_eq!(watch.next().expect("a state").text.as_deref(), Some("2"));
}

#[test]
fn a_change_that_is_reported_late_is_left_out() {
    let api = KubernetesApi::start();
    let (mut writer, mut reader) = (cell(&api), cell_through(api.door(), &api, LONG));
    let version = create(&mut writer, "1");
    let mut watch = watch(&reader);
    watch.next().expect("the present state");
    api.set_fault(Fault::WatchSilent);
    let version = replaced(writer.replace("2", &version));
    replaced(writer.replace("3", &version));
    assert_eq!(read(&mut reader).text.as_deref(), Some("3"));
    // Both changes are reported now.
    api.set_fault(None);
    assert_eq!(watch.next().expect("a state").text.as_deref(), Some("3"));
}

#[test]
fn a_line_without_an_end_is_not_read_for_ever() {
    let api = KubernetesApi::start();
    let mut cell = cell(&api);
    create(&mut cell, "1");
    api.set_fault_times(Fault::WatchLongLine(3 * 1024 * 1024), 1);
    let mut watch = watch(&cell);
    let text = unavailable(watch.next());
    assert!(text.contains("a line that is too long"), "{text}");
    assert_eq!(watch.next().expect("a state").text.as_deref(), Some("1"));
}
