//! Squid goes away under load and comes back; the gateway stays.

use crate::support;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use support::bytes::pseudo_random;
use support::client::{connect_within, echo_through};
use support::gateway::{Gateway, GatewayOptions};
use support::origin::echo_origin;
use support::scratch::wait_for;
use support::squid::{Squid, SquidOptions};

const CLIENTS: usize = 4;
/// How long the gateway may take to use an upstream again that accepts again.
const RECOVERY_BOUND: Duration = Duration::from_secs(40);

/// What became of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// Opened, and returned its bytes.
    Whole,
    /// Not opened; the head of the answer.
    Refused(String),
    /// Cut before or after the answer.
    Broken(String),
}

/// One client's one tunnel.
#[derive(Clone, Debug)]
struct Attempt {
    client: usize,
    began: Instant,
    outcome: Outcome,
}

fn attempt(gateway: SocketAddr, origin: SocketAddr) -> io::Result<Outcome> {
    let answer = connect_within(Duration::from_secs(30), gateway, origin, b"")?;
    if answer.status() != 200 {
        return Ok(Outcome::Refused(answer.head));
    }
    let bytes = pseudo_random(5, 2000);
    let back = echo_through(&answer.stream, &bytes)?;
    Ok(if back == bytes { Outcome::Whole } else { Outcome::Broken("other bytes".to_owned()) })
}

/// Clients that open one tunnel after the other until told to end.
struct Load {
    attempts: Mutex<Vec<Attempt>>,
    ended: AtomicBool,
}

impl Load {
    fn run(&self, client: usize, gateway: SocketAddr, origin: SocketAddr) {
        while !self.ended.load(Ordering::Acquire) {
            let began = Instant::now();
            let outcome = attempt(gateway, origin).unwrap_or_else(|error| Outcome::Broken(error.to_string()));
            if outcome != Outcome::Whole {
                // As a client would: a moment before the next try.
                std::thread::sleep(Duration::from_millis(20));
            }
            self.attempts.lock().unwrap_or_else(PoisonError::into_inner).push(Attempt { client, began, outcome });
        }
    }

    fn since(&self, begin: Instant) -> Vec<Attempt> {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.iter().filter(|attempt| attempt.began >= begin).cloned().collect()
    }

    /// Waits until every client has made `count` attempts that began after `begin` and satisfy `counts`.
    fn wait_for_each(&self, begin: Instant, count: usize, bound: Duration, counts: impl Fn(&Outcome) -> bool) -> bool {
        let all = || {
            let attempts = self.since(begin);
            (0..CLIENTS).all(|client| {
                let of_client = |attempt: &&Attempt| attempt.client == client && counts(&attempt.outcome);
                attempts.iter().filter(of_client).count() >= count
            })
        };
        wait_for(bound, || all().then_some(())).is_some()
    }
}

/// Ends the load even when the test panics; the scope would wait for its threads for ever.
struct EndLoad<'a>(&'a Load);

impl Drop for EndLoad<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

#[test]
fn tunnels_fail_only_while_squid_is_down() {
    require_tools!("squid", "ntlm_auth");
    let mut squid = Squid::start(&SquidOptions::default());
    let mut gateway = Gateway::start(&GatewayOptions::through(squid.address()));
    let origin = echo_origin();
    let load = Load { attempts: Mutex::new(Vec::new()), ended: AtomicBool::new(false) };
    let (listen, target) = (gateway.address(), origin.address());

    std::thread::scope(|scope| {
        let _end = EndLoad(&load);
        for client in 0..CLIENTS {
            let load = &load;
            scope.spawn(move || load.run(client, listen, target));
        }
        let whole = |outcome: &Outcome| *outcome == Outcome::Whole;
        let begun = Instant::now();
        assert!(load.wait_for_each(begun, 10, RECOVERY_BOUND, whole), "{:#?}", load.since(begun));
        let before: Vec<Attempt> = load.since(begun).into_iter().filter(|a| !whole(&a.outcome)).collect();
        assert!(before.is_empty(), "failed before Squid went away: {before:#?}");

        squid.stop();
        let down = Instant::now();
        let refused = |outcome: &Outcome| matches!(outcome, Outcome::Refused(_));
        assert!(load.wait_for_each(down, 3, RECOVERY_BOUND, refused), "{:#?}", load.since(down));
        let during = load.since(down);
        for attempt in &during {
            let Outcome::Refused(head) = &attempt.outcome else {
                panic!("with Squid down a client must hear an HTTP status: {attempt:?}");
            };
            let honest = head.starts_with("HTTP/1.1 50") && head.to_ascii_lowercase().contains("\r\nproxy-status:");
            assert!(honest, "{head}");
        }

        squid.restart();
        let up = Instant::now();
        assert!(load.wait_for_each(up, 1, RECOVERY_BOUND, whole), "no recovery: {:#?}", load.since(up).last());
        let recovered = Instant::now();
        assert!(load.wait_for_each(recovered, 20, RECOVERY_BOUND, |_| true), "{:#?}", load.since(recovered));
        let after: Vec<Attempt> = load.since(recovered).into_iter().filter(|a| !whole(&a.outcome)).collect();
        assert!(after.is_empty(), "failed after Squid was back: {after:#?}");
    });

    assert!(gateway.is_running());
    let refusals = gateway.metric("ntlm_gateway_407_total", &[("reason", "refused")]).unwrap_or(0.0);
    assert!(refusals.abs() < f64::EPSILON, "the restart counted as {refusals} refusals of the password");
}
