//! The guard store in a Lease, against a Kubernetes API on TLS.

mod emulator;
mod faults;
mod kubectl;
mod process;
mod rules;
mod watches;

use std::time::Duration;

use ntlm_gateway::guard_store::cell::{Cell, Kept, Replaced, StoreFault, Version};
use ntlm_gateway::guard_store::kubernetes::{InCluster, KubernetesCell, Timing};

use crate::support::kubernetes::{Door, KubernetesApi};

/// The Lease's name.
const LEASE: &str = "ntlm-gateway-guard";

/// As the default, except that the watch has an end that a test can wait for, and that a busy machine has time.
const TIMING: Timing = Timing {
    request: Duration::from_secs(10),
    watch_age: Duration::from_secs(2),
    watch_short: Duration::from_millis(500),
    watch_silence: Duration::from_secs(6),
};

fn cell(api: &KubernetesApi) -> KubernetesCell {
    cell_through(api.door(), api, TIMING)
}

fn cell_through(door: &Door, api: &KubernetesApi, timing: Timing) -> KubernetesCell {
    let port = door.address().port().to_string();
    let cluster = InCluster::new("127.0.0.1", &port, api.directory()).expect("a cluster");
    KubernetesCell::with_timing(cluster, LEASE, timing).expect("a cell")
}

/// Puts a first text into the Lease.
fn create(cell: &mut impl Cell, text: &str) -> Version {
    replaced(cell.replace(text, &Version::default()))
}

fn replaced(outcome: Result<Replaced, StoreFault>) -> Version {
    match outcome {
        Ok(Replaced::Yes(version)) => version,
        other => panic!("not replaced: {other:?}"),
    }
}

fn read(cell: &mut impl Cell) -> Kept {
    cell.read().expect("a Lease that can be read")
}

/// What a fault says, if a later attempt may succeed.
fn unavailable<T: std::fmt::Debug>(outcome: Result<T, StoreFault>) -> String {
    match outcome {
        Err(StoreFault::Unavailable(reason)) => reason.0,
        other => panic!("not unavailable: {other:?}"),
    }
}

/// What a fault says, if somebody has to change something.
fn refused<T: std::fmt::Debug>(outcome: Result<T, StoreFault>) -> String {
    match outcome {
        Err(StoreFault::Refused(reason)) => reason.0,
        other => panic!("not refused: {other:?}"),
    }
}

/// What [`add_from_four_threads`] adds up to.
const ADDITIONS: usize = 60;

/// Four threads add one to the number in the Lease again and again, each through a cell of its own.
fn add_from_four_threads(cell: impl Fn() -> KubernetesCell + Sync) {
    let add = |cell: &mut KubernetesCell| {
        loop {
            let kept = read(cell);
            let number: usize = kept.text.map_or(0, |text| text.parse().expect("a number"));
            match cell.replace(&(number + 1).to_string(), &kept.version).expect("an answer") {
                Replaced::Yes(_) => return,
                Replaced::Conflict => {}
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut cell = cell();
                (0..ADDITIONS / 4).for_each(|_| add(&mut cell));
            });
        }
    });
}
