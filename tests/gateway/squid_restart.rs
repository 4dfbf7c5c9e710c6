//! Squid stops under load and restarts. The gateway keeps running.

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
/// How long the gateway may take to use an upstream again after it accepts again.
const RECOVERY_BOUND: Duration = Duration::from_secs(40);

/// The result of one attempt to use a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TunnelResult {
    /// Established, and echoed its bytes.
    Intact,
    /// Not established; holds the head of the response.
    Refused(String),
    /// Failed before or after the response; holds the error.
    Broken(String),
}

/// One tunnel of one client.
#[derive(Clone, Debug)]
struct TunnelAttempt {
    client: usize,
    began: Instant,
    result: TunnelResult,
}

fn attempt(gateway: SocketAddr, origin: SocketAddr) -> io::Result<TunnelResult> {
    let answer = connect_within(Duration::from_secs(30), gateway, origin, b"")?;
    if answer.status() != 200 {
        return Ok(TunnelResult::Refused(answer.head));
    }
    let bytes = pseudo_random(5, 2000);
    let back = echo_through(&answer.stream, &bytes)?;
    Ok(if back == bytes { TunnelResult::Intact } else { TunnelResult::Broken("other bytes".to_owned()) })
}

/// Clients that open one tunnel after the other until the load ends.
struct TunnelLoad {
    attempts: Mutex<Vec<TunnelAttempt>>,
    ended: AtomicBool,
}

impl TunnelLoad {
    fn run(&self, client: usize, gateway: SocketAddr, origin: SocketAddr) {
        while !self.ended.load(Ordering::Acquire) {
            let began = Instant::now();
            let result = attempt(gateway, origin).unwrap_or_else(|error| TunnelResult::Broken(error.to_string()));
            if result != TunnelResult::Intact {
                // A client would wait a moment before it retries.
                std::thread::sleep(Duration::from_millis(20));
            }
            self.attempts.lock().unwrap_or_else(PoisonError::into_inner).push(TunnelAttempt { client, began, result });
        }
    }

    fn since(&self, begin: Instant) -> Vec<TunnelAttempt> {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.iter().filter(|attempt| attempt.began >= begin).cloned().collect()
    }

    /// Waits until every client has made `count` attempts that began after `begin` and satisfy `matches`.
    fn wait_for_each(
        &self,
        begin: Instant,
        count: usize,
        bound: Duration,
        matches: impl Fn(&TunnelResult) -> bool,
    ) -> bool {
        let all = || {
            let attempts = self.since(begin);
            (0..CLIENTS).all(|client| {
                let of_client = |attempt: &&TunnelAttempt| attempt.client == client && matches(&attempt.result);
                attempts.iter().filter(of_client).count() >= count
            })
        };
        wait_for(bound, || all().then_some(())).is_some()
    }
}

/// Ends the load even if the test panics; otherwise the scope would wait for its threads forever.
struct EndLoad<'a>(&'a TunnelLoad);

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
    let load = TunnelLoad { attempts: Mutex::new(Vec::new()), ended: AtomicBool::new(false) };
    let (listen, target) = (gateway.address(), origin.address());

    std::thread::scope(|scope| {
        let _end = EndLoad(&load);
        for client in 0..CLIENTS {
            let load = &load;
            scope.spawn(move || load.run(client, listen, target));
        }
        let intact = |result: &TunnelResult| *result == TunnelResult::Intact;
        let begun = Instant::now();
        assert!(load.wait_for_each(begun, 10, RECOVERY_BOUND, intact), "{:#?}", load.since(begun));
        let before: Vec<TunnelAttempt> = load.since(begun).into_iter().filter(|a| !intact(&a.result)).collect();
        assert!(before.is_empty(), "failed before Squid was stopped: {before:#?}");

        squid.stop();
        let down = Instant::now();
        let refused = |result: &TunnelResult| matches!(result, TunnelResult::Refused(_));
        assert!(load.wait_for_each(down, 3, RECOVERY_BOUND, refused), "{:#?}", load.since(down));
        let during = load.since(down);
        for attempt in &during {
            let TunnelResult::Refused(head) = &attempt.result else {
                panic!("with Squid down a client must receive an HTTP status: {attempt:?}");
            };
            let is_error = head.starts_with("HTTP/1.1 50") && head.to_ascii_lowercase().contains("\r\nproxy-status:");
            assert!(is_error, "{head}");
        }

        squid.restart();
        let up = Instant::now();
        assert!(load.wait_for_each(up, 1, RECOVERY_BOUND, intact), "no recovery: {:#?}", load.since(up).last());
        let recovered = Instant::now();
        assert!(load.wait_for_each(recovered, 20, RECOVERY_BOUND, |_| true), "{:#?}", load.since(recovered));
        let after: Vec<TunnelAttempt> = load.since(recovered).into_iter().filter(|a| !intact(&a.result)).collect();
        assert!(after.is_empty(), "failed after Squid had recovered: {after:#?}");
    });

    assert!(gateway.is_running());
    let refusals = gateway.metric("ntlm_gateway_407_total", &[("reason", "refused")]).unwrap_or(0.0);
    assert!(refusals.abs() < f64::EPSILON, "the restart was counted as {refusals} rejections of the password");
}
