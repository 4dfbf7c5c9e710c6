//! A change of the password without a failed request, whichever of the domain and the file has the new one first.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use support::client::{ask, connect_name, read_head};
use support::gateway::{Gateway, GatewayOptions};
use support::mount::Mount;
use support::scratch::{Scratch, wait_for};

const OLD: &str = "0ld-horse";
const NEW: &str = "N3w-battery";
const CLIENTS: usize = 8;
const BOUND: Duration = Duration::from_secs(20);
/// How long clients press on in each state.
const WHILE: Duration = Duration::from_millis(700);

/// The keys of the Secret.
const PASSWORD: &str = "password";
const PREVIOUS: &str = "previous-password";

fn stub(personality: Personality) -> StubServer {
    let options = StubOptions::default().account("CORP", "alice", OLD).personality(personality);
    StubServer::start(options).expect("a stub")
}

/// A gateway whose Secret has these keys.
fn gateway(upstreams: &[&StubServer], keys: &[(&'static str, &str)], further: &[&str]) -> (Gateway, Mount) {
    let mount = Mount::new(PASSWORD, "");
    mount.publish_files(keys);
    let mut options = GatewayOptions::through(upstreams[0].address());
    options.upstreams = upstreams.iter().map(|upstream| upstream.address().to_string()).collect();
    options.user = r"CORP\alice".into();
    options.password_file = Some(mount.path());
    let previous = mount.path_of(PREVIOUS).display().to_string();
    options.args = ["--previous-password-file", &previous].iter().chain(further).map(|arg| (*arg).to_owned()).collect();
    (Gateway::start(&options), mount)
}

/// Requests of all kinds, and what went wrong with them.
fn press(gateway: SocketAddr, client: usize, stop: &AtomicBool, answered: &AtomicUsize) -> Vec<String> {
    let (mut done, mut failed) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let host = format!("hello.host{}.test", (done + client) % 7);
        let answer = match done % 3 {
            0 => connect_name(gateway, &format!("{host}:443")),
            1 => ask(gateway, format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()),
            _ => ask(
                gateway,
                format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello").as_bytes(),
            ),
        };
        match answer {
            Ok(answer) if answer.status() == 200 => {}
            Ok(answer) => failed.push(answer.head),
            Err(error) => failed.push(error.to_string()),
        }
        done += 1;
        answered.fetch_add(1, Ordering::Relaxed);
    }
    failed
}

/// Clients press while `act` runs; no request of theirs may fail.
#[track_caller]
fn under_load(gateway: &Gateway, act: impl FnOnce()) {
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let done = || answered.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (address, stop, answered) = (gateway.address(), &stop, &answered);
                scope.spawn(move || press(address, client, stop, answered))
            })
            .collect();
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        // Otherwise this shows nothing.
        wait_for(BOUND, || (done() > CLIENTS).then_some(()));
        stop.store(true, Ordering::Relaxed);
        let results: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
        acted.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (failed, done): (Vec<&String>, usize) = (results.iter().flatten().collect(), done());
        let is_telling = |line: &String| !line.contains("status=200");
        let log: Vec<String> = gateway.log().into_iter().filter(is_telling).collect();
        assert!(
            failed.is_empty() && done > CLIENTS,
            "{} of {done} failed: {:#?}\n{log:#?}",
            failed.len(),
            failed.first()
        );
    });
}

/// Presses on for a while, with everything as it is.
fn press_on() {
    let until = Instant::now() + WHILE;
    while let Some(rest) = until.checked_duration_since(Instant::now()) {
        std::thread::sleep(rest);
    }
}

fn uses_previous(gateway: &Gateway) -> bool {
    gateway.metric("ntlm_gateway_guard_previous_secret_in_use", &[("identity", "default")]) == Some(1.0)
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    assert!(wait_for(BOUND, || condition().then_some(())).is_some(), "{what}");
}

#[test]
fn no_request_fails_if_the_file_has_the_new_password_first() {
    let stub = stub(Personality::Plain);
    let (gateway, mount) = gateway(&[&stub], &[(PASSWORD, OLD)], &[]);
    under_load(&gateway, || {
        press_on();
        assert!(!uses_previous(&gateway));
        mount.publish_files(&[(PASSWORD, NEW), (PREVIOUS, OLD)]);
        gateway.wait_for_line("configuration reloaded, with new credentials");
        gateway.wait_for_line("refuses the present password of CORP\\alice");
        press_on();
        assert!(uses_previous(&gateway));
        assert_eq!(gateway.admin("/readyz").0, 200);
        assert_eq!(stub.counters().refused, 1, "the new password, once");
        // The domain gets it, and rejects the previous one at once.
        stub.set_password("CORP", "alice", NEW);
        gateway.wait_for_line("accepts the present password of CORP\\alice");
        press_on();
        assert!(!uses_previous(&gateway));
    });
    // The new password once, what was on its way with the previous one, and one handshake to make sure.
    let refused = stub.counters().refused;
    assert!((3..=2 + CLIENTS as u64 + 2).contains(&refused), "{refused}");
}

#[test]
fn no_logon_fails_if_the_domain_still_takes_the_previous_password() {
    let stub = stub(Personality::Plain);
    let (gateway, mount) = gateway(&[&stub], &[(PASSWORD, OLD)], &[]);
    under_load(&gateway, || {
        press_on();
        stub.add_password("CORP", "alice", NEW);
        press_on();
        mount.publish_files(&[(PASSWORD, NEW), (PREVIOUS, OLD)]);
        gateway.wait_for_line("accepts the present password of CORP\\alice");
        press_on();
        // The domain's hour is over.
        stub.set_password("CORP", "alice", NEW);
        press_on();
        assert!(!uses_previous(&gateway));
    });
    assert_eq!(stub.counters().refused, 0, "{}", stub.counters());
}

#[test]
fn a_gateway_that_starts_amid_a_change_fails_no_request() {
    for valid in [OLD, NEW] {
        let stub = stub(Personality::Plain);
        stub.set_password("CORP", "alice", valid);
        let (gateway, _mount) = gateway(&[&stub], &[(PASSWORD, NEW), (PREVIOUS, OLD)], &[]);
        under_load(&gateway, press_on);
        assert_eq!(uses_previous(&gateway), valid == OLD);
        assert_eq!(stub.counters().refused, u64::from(valid == OLD), "{valid}: {}", stub.counters());
    }
}

#[test]
fn a_request_with_a_body_is_the_first_after_a_start_amid_a_change() {
    for length in [10, 16_000] {
        let stub = stub(Personality::Plain);
        let (gateway, _mount) = gateway(&[&stub], &[(PASSWORD, NEW), (PREVIOUS, OLD)], &[]);
        let mut stream = TcpStream::connect(gateway.address()).expect("the gateway");
        stream.set_read_timeout(Some(BOUND)).expect("a time-out");
        write!(stream, "POST http://hello.test/ HTTP/1.1\r\nHost: hello.test\r\nContent-Length: {length}\r\n\r\n")
            .expect("a head");
        stream.write_all(&vec![b'x'; length]).expect("a body");
        let head = read_head(&mut stream).expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{length}: {head}");
        assert!(stub.counters().body_bytes >= length as u64);
        assert_eq!(stub.counters().refused, 1);
    }
}

#[test]
fn two_wrong_passwords_cost_no_more_logons_than_the_budget() {
    let stub = stub(Personality::Plain);
    stub.set_password("CORP", "alice", "a third one");
    let (gateway, mount) = gateway(&[&stub], &[(PASSWORD, NEW), (PREVIOUS, OLD)], &[]);
    for number in 0..40 {
        let answer = connect_name(gateway.address(), &format!("echo.host{number}.test:443")).expect("an answer");
        assert_eq!(answer.status(), 502, "{}", answer.head);
    }
    assert!((2..=3).contains(&stub.counters().refused), "{}", stub.counters());
    assert!(!uses_previous(&gateway));
    assert_eq!(gateway.admin("/readyz").0, 503);
    mount.publish_files(&[(PASSWORD, "a third one"), (PREVIOUS, NEW)]);
    wait_until("the right password is not used", || {
        connect_name(gateway.address(), "echo.test:443").expect("an answer").status() == 200
    });
    assert!(stub.counters().refused <= 3, "{}", stub.counters());
}

#[test]
fn forbidden_destinations_do_not_use_up_the_attempts_of_the_new_password() {
    let stub = stub(Personality::Policy407);
    let (gateway, mount) = gateway(&[&stub], &[(PASSWORD, OLD)], &[]);
    let status = |host: &str| connect_name(gateway.address(), host).expect("an answer").status();
    assert_eq!(status("echo.test:443"), 200);
    mount.publish_files(&[(PASSWORD, NEW), (PREVIOUS, OLD)]);
    gateway.wait_for_line("configuration reloaded, with new credentials");
    assert_eq!(status("echo.test:443"), 200);
    gateway.wait_for_line("refuses the present password of CORP\\alice");
    for number in 0..5 {
        assert_eq!(status(&format!("blocked.test:{}", 400 + number)), 502);
        assert_eq!(status("echo.test:443"), 200);
    }
    assert!(uses_previous(&gateway));
    assert_eq!(stub.counters().refused, 1, "the new password, once");
    stub.set_password("CORP", "alice", NEW);
    assert_eq!(status("echo.test:443"), 200, "the request that finds the previous password rejected is served");
    gateway.wait_for_line("accepts the present password of CORP\\alice");
}

#[test]
fn the_previous_password_is_used_only_where_the_new_one_is_rejected() {
    let (behind, ahead) = (stub(Personality::Plain), stub(Personality::Plain));
    ahead.set_password("CORP", "alice", NEW);
    let keys = [(PASSWORD, NEW), (PREVIOUS, OLD)];
    let (gateway, _mount) = gateway(&[&behind, &ahead], &keys, &["--order", "balance", "--warm", "0"]);
    under_load(&gateway, press_on);
    assert!(behind.counters().accepted > 0 && ahead.counters().accepted > 0);
    assert!(behind.counters().refused <= 2, "{}", behind.counters());
    assert_eq!(ahead.counters().refused, 0, "{}", ahead.counters());
}

#[test]
fn a_previous_password_that_comes_later_is_used_without_a_restart() {
    let stub = stub(Personality::Plain);
    let (gateway, mount) = gateway(&[&stub], &[(PASSWORD, NEW)], &[]);
    let tunnel = || connect_name(gateway.address(), "echo.test:7").expect("an answer");
    assert_eq!(tunnel().status(), 502);
    mount.publish_files(&[(PASSWORD, NEW), (PREVIOUS, OLD)]);
    gateway.wait_for_line("configuration reloaded, with new credentials");
    wait_until("the previous password is not used", || {
        connect_name(gateway.address(), "echo.test:7").expect("an answer").status() == 200
    });
    let mut answer = tunnel();
    answer.stream.write_all(b"12345").expect("a tunnel");
    let mut echo = [0; 5];
    answer.stream.read_exact(&mut echo).expect("an echo");
    assert_eq!((&echo, stub.counters().refused), (b"12345", 1));
}

#[test]
fn gateways_that_share_a_store_try_the_new_password_together_no_more_often() {
    let stub = stub(Personality::Plain);
    let store = Scratch::new("shared-store");
    let directory = store.path().display().to_string();
    let further = ["--guard-store", "file", "--guard-directory", &directory];
    let gateways: Vec<_> = (0..3).map(|_| gateway(&[&stub], &[(PASSWORD, OLD)], &further)).collect();
    let tunnel = |gateway: &Gateway| connect_name(gateway.address(), "echo.test:7").expect("an answer").status();
    gateways.iter().for_each(|(gateway, _)| assert_eq!(tunnel(gateway), 200));
    gateways.iter().for_each(|(_, mount)| mount.publish_files(&[(PASSWORD, NEW), (PREVIOUS, OLD)]));
    for (gateway, _) in &gateways {
        gateway.wait_for_line("configuration reloaded, with new credentials");
        under_load(gateway, || {
            gateway.wait_for_line("refuses the present password of CORP\\alice");
            press_on();
        });
        assert!(uses_previous(gateway));
        assert_eq!(gateway.admin("/readyz").0, 200);
    }
    assert_eq!(stub.counters().refused, 1, "{}", stub.counters());
}
