//! The machine runs short of names, descriptors, pipes, memory, files or time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::stub;
use crate::support::bytes::{assert_same, pseudo_random};
use crate::support::client::{Answered, connect_name, echo_through};
use crate::support::command::run;
use crate::support::gateway::{GATEWAY, Gateway, GatewayOptions};
use crate::support::process::Process;
use crate::support::scratch::{Scratch, wait_for};
use crate::support::tools::{find, skip, skip_for_want_of, skip_without_mounts, skip_without_root};
use crate::support::vitals::{Vitals, assert_nothing_leaked, watch};

pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// Descriptors of the empty pipes that a shard keeps, two each.
pub(crate) const PIPES_KEPT: u64 = 2 * 8;

pub(crate) fn tunnel(gateway: &Gateway) -> Option<Answered> {
    connect_name(gateway.address(), "echo.test:7").ok().filter(|answer| answer.status() == 200)
}

#[track_caller]
pub(crate) fn assert_flows(gateway: &Gateway) {
    let tunnel = wait_for(BOUND, || tunnel(gateway)).expect("a tunnel");
    assert_same(&echo_through(&tunnel.stream, b"flows").expect("an echo"), b"flows", "the echo");
}

pub(crate) fn vitals(gateway: &Gateway) -> Vitals {
    Vitals::of(gateway.admin_address()).expect("metrics")
}

#[test]
fn without_name_resolution_it_starts_reports_it_and_serves_once_names_resolve() {
    if skip_without_root() || skip_without_mounts() {
        return;
    }
    let (stub, scratch) = (stub(), Scratch::new("names"));
    let hosts = scratch.write("hosts", "127.0.0.1 localhost\n");
    // Nothing listens on that port of loopback, so every query to a name server fails at once.
    let servers = scratch.write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    let mut options = GatewayOptions::through(stub.address());
    options.upstreams = vec![format!("proxy.test:{}", stub.address().port())];
    options.mounts = vec![(hosts.clone(), "/etc/hosts"), (servers, "/etc/resolv.conf")];
    let mut gateway = Gateway::start(&options);
    let answer = connect_name(gateway.address(), "echo.test:7").expect("an answer");
    assert_eq!(answer.status(), 502, "{}", answer.head);
    assert!(
        answer.field("proxy-status").is_some_and(|reported| reported.contains("error=dns_error")),
        "{}",
        answer.head
    );
    assert_eq!((gateway.admin("/readyz").0, gateway.admin("/healthz").0), (503, 200));
    assert!(gateway.is_running());
    std::fs::write(&hosts, "127.0.0.1 localhost proxy.test\n").expect("names");
    assert_flows(&gateway);
    assert_eq!(gateway.admin("/readyz").0, 200);
}

/// A thousand clients at once, with descriptors for only a hundred.
#[test]
fn a_thousand_clients_are_served_rejected_or_queued_with_256_descriptors() {
    let stub = stub();
    let mut options = GatewayOptions::through(stub.address());
    options.setup = Some("ulimit -n 256".into());
    options.args = ["--shards", "2", "--head-timeout", "5s"].map(String::from).into();
    let mut gateway = Gateway::start(&options);
    assert_flows(&gateway);
    let before = vitals(&gateway);
    let request = b"CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n";
    // A connection that is accepted before its head has come is idle, and may be closed to make room for another.
    gateway.signal(Signal::STOP);
    let mut crowd: Vec<TcpStream> = (0..1000).map_while(|_| TcpStream::connect(gateway.address()).ok()).collect();
    assert_eq!(crowd.len(), 1000, "the kernel's queue has room for them");
    crowd.iter_mut().for_each(|client| client.write_all(request).expect("a head"));
    gateway.signal(Signal::CONT);
    let stop = AtomicBool::new(false);
    let (watched, statuses) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(gateway.admin_address(), "/healthz", &stop));
        let mut statuses = std::collections::BTreeMap::<String, usize>::new();
        // Each gets its response eventually, because earlier clients leave once they have theirs.
        for mut client in crowd {
            client.set_read_timeout(Some(BOUND)).expect("a time-out");
            let mut head = [0; 12];
            let status = match client.read_exact(&mut head) {
                Ok(()) => String::from_utf8_lossy(&head[9..]).into_owned(),
                Err(error) => format!("{:?}", error.kind()),
            };
            *statuses.entry(status).or_default() += 1;
        }
        stop.store(true, Ordering::Relaxed);
        (watcher.join().expect("the watcher"), statuses)
    });
    println!(
        "statuses {statuses:?}, /healthz p99 {:?}, of {} failed {:?}",
        watched.p99(),
        watched.took.len(),
        watched.failed
    );
    assert!(statuses.keys().all(|status| ["200", "503"].contains(&status.as_str())), "{statuses:?}");
    assert!(statuses.get("200").is_some_and(|count| *count >= 100), "{statuses:?}");
    assert!(gateway.is_running());
    assert_flows(&gateway);
    assert_nothing_leaked(gateway.admin_address(), before, 0);
}

/// Sends bulk data through many tunnels and checks every byte.
pub(crate) fn assert_bulk(gateway: &Gateway, tunnels: u64) {
    std::thread::scope(|scope| {
        for seed in 0..tunnels {
            scope.spawn(move || {
                let tunnel = connect_name(gateway.address(), "echo.test:7").expect("an answer");
                assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
                let bytes = pseudo_random(seed, 3 << 20);
                assert_same(&echo_through(&tunnel.stream, &bytes).expect("an echo"), &bytes, "bulk");
            });
        }
    });
}

#[test]
fn a_dozen_bulk_tunnels_with_one_pipe_lose_no_bytes_and_leak_no_pipe() {
    let stub = stub();
    let mut options = GatewayOptions::through(stub.address());
    options.args = ["--shards", "1", "--pipes-per-shard", "1"].map(String::from).into();
    let gateway = Gateway::start(&options);
    assert_flows(&gateway);
    let before = vitals(&gateway);
    assert_bulk(&gateway, 12);
    assert_nothing_leaked(gateway.admin_address(), before, PIPES_KEPT);
    let spliced = gateway.metric("ntlm_gateway_bytes_total", &[("way", "splice")]).unwrap_or_default();
    assert!(spliced > 0.0, "the only pipe was used");
}

/// `pipe-user-pages-soft` counts all pipes of a user; another process of that user takes them all.
#[test]
fn it_copies_while_another_process_holds_all_pipes_and_then_splices_again() {
    if skip_without_root() {
        return;
    }
    // The distribution's Python: another user cannot reach one that is installed for root.
    let python = std::path::Path::new("/usr/bin/python3");
    if !python.is_file() && skip_for_want_of("/usr/bin/python3") {
        return;
    }
    let Some(setpriv) = find("setpriv") else {
        skip_for_want_of("setpriv");
        return;
    };
    // A user with no other processes.
    let user = 100_000 + std::process::id() % 1_000_000;
    let become_user = format!("{} --reuid={user} --regid={user} --clear-groups", setpriv.display());
    let reach = run("sh", BOUND, |command| {
        command.args(["-c", &format!("{become_user} {GATEWAY} --version")]);
    });
    if reach.code != Some(0) {
        // The build may be out of their reach, for example below root's home: never required.
        skip(&format!("another user cannot run {GATEWAY}"));
        return;
    }
    let stub = stub();
    let mut options = GatewayOptions::through(stub.address());
    // The file belongs to root; the variable is this test's own password.
    options.setup = Some(format!("exec {become_user} \"$0\" \"$@\""));
    options.args = ["--shards", "1"].map(String::from).into();
    let scratch = Scratch::new("pipes");
    let readable = scratch.write("password", crate::support::PASSWORD);
    std::fs::set_permissions(&readable, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("chmod");
    options.password_file = Some(readable);
    let gateway = Gateway::start(&options);
    assert_flows(&gateway);
    let before = vitals(&gateway);
    // Large pipes while they last, then small ones until the kernel hands out pipes of two pages.
    let hog = r#"
import fcntl, os, sys
held, set_size, get_size = [], 1031, 1032
while len(held) < 400:
    held.append(os.pipe())
    try:
        fcntl.fcntl(held[-1][0], set_size, 1 << 20)
    except OSError:
        if fcntl.fcntl(held[-1][0], get_size) < 65536:
            break
os.write(1, b"%d\n" % len(held))
sys.stdin.read()
"#;
    let mut command = Process::command(&setpriv);
    command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()]);
    command.arg(python).args(["-c", hog]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut hog = Process::spawn("hog", &mut command);
    let mut said = [0; 4];
    let count = hog.leader().stdout.take().expect("its output").read(&mut said).expect("a line");
    let pipes: usize = String::from_utf8_lossy(&said[..count]).trim().parse().expect("a number of pipes");
    assert!(pipes >= 60, "{pipes} pipes of 1 MiB cause no shortage");

    let way = |way| gateway.metric("ntlm_gateway_bytes_total", &[("way", way)]).unwrap_or_default();
    assert_bulk(&gateway, 4);
    assert!(way("splice") < 0.01 * way("copy"), "spliced {} of {}", way("splice"), way("copy"));
    hog.stop(Duration::from_secs(5));
    let again = wait_for(BOUND, || {
        assert_bulk(&gateway, 4);
        (way("splice") > 1e6).then_some(())
    });
    assert!(again.is_some(), "it never splices again");
    assert_nothing_leaked(gateway.admin_address(), before, PIPES_KEPT);
}

/// From far too little to enough: either it serves, or it exits and says why.
#[test]
fn with_little_memory_it_serves_or_exits_with_a_message_and_a_failure() {
    let stub = stub();
    let scratch = Scratch::new("memory");
    let password = scratch.write("password", crate::support::PASSWORD).display().to_string();
    let end_with = |kib: u64| {
        let log = scratch.join(&format!("log-{kib}"));
        let line = format!(
            "ulimit -v {kib}; exec {GATEWAY} run --listen 127.0.0.1:0 --admin 127.0.0.1:0 --upstream {} --user 'CORP\\alice' \
             --password-file {password} --shards 2",
            stub.address()
        );
        let mut command = Process::command("sh");
        command.args(["-c", &line]).env_remove("RUST_LOG").stdout(Stdio::null());
        let mut process =
            Process::spawn("gateway", command.stderr(std::fs::File::create(&log).expect("a file for its log")));
        let said = || std::fs::read_to_string(&log).expect("its log");
        let begun = || (process.exit_status().is_some() || said().contains("listening on")).then_some(());
        assert!(wait_for(BOUND, begun).is_some(), "{kib} KiB: it neither serves nor ends: {}", said());
        // One that ends soon after that has to say why as well.
        let status = wait_for(Duration::from_secs(1), || process.exit_status());
        let said_why = status.is_some_and(|status| !status.success()) && !said().trim().is_empty();
        assert!(status.is_none() || said_why, "{kib} KiB: {status:?}: {}", said());
        (kib, if status.is_none() { "serves" } else { "ends" })
    };
    // With less than the size of the program itself the kernel ends it before it can say anything.
    let limits = [18_000, 22_000, 30_000, 45_000, 90_000, 150_000, 400_000, 1_200_000];
    let ends: Vec<(u64, &str)> = std::thread::scope(|scope| {
        let runs: Vec<_> = limits
            .into_iter()
            .map(|kib| {
                scope.spawn({
                    let end_with = &end_with;
                    move || end_with(kib)
                })
            })
            .collect();
        runs.into_iter().map(|run| run.join().expect("a run")).collect()
    });
    println!("{ends:?}");
}

#[test]
fn out_of_memory_under_load_it_exits_with_a_message_or_keeps_serving() {
    let stub = stub();
    let mut options = GatewayOptions::through(stub.address());
    options.args = ["--shards", "2"].map(String::from).into();
    let mut gateway = Gateway::start(&options);
    assert_flows(&gateway);
    // Its current size and a little more: then the kernel refuses further pages of its heap.
    let pid = gateway.pid().as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let size = status.lines().find_map(|line| line.strip_prefix("VmData:")).expect("its size");
    let kib: u64 = size.split_whitespace().next().expect("a number").parse().expect("a number");
    let limit = rustix::process::Rlimit { current: Some((kib + 20_000) * 1024), maximum: None };
    rustix::process::prlimit(Some(gateway.pid()), rustix::process::Resource::Data, limit).expect("a limit");
    // Unfinished heads, each just below the limit, are the most memory that a client can make it hold.
    let head = [b"CONNECT echo.test:7 HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 60_000]].concat();
    let mut clients: Vec<TcpStream> = Vec::new();
    while clients.len() < 4_000 && gateway.is_running() {
        let Ok(mut client) = TcpStream::connect(gateway.address()) else { break };
        let _ = client.set_write_timeout(Some(Duration::from_secs(1)));
        let _ = client.write_all(&head);
        clients.push(client);
    }
    println!("clients: {}", clients.len());
    drop(clients);
    let is_ending = || {
        let has_ended = !gateway.is_running();
        (has_ended || tunnel(&gateway).is_some()).then_some(has_ended)
    };
    if wait_for(BOUND, is_ending).expect("an end, or a tunnel") {
        let status = gateway.wait(BOUND).expect("an end");
        assert!(!status.success(), "{status}");
        println!("{}", gateway.wait_for_line("memory allocation of"));
    } else {
        assert_flows(&gateway);
    }
}

#[test]
fn the_old_configuration_and_secret_stay_while_their_files_are_unreadable() {
    let (stub, scratch) = (stub(), Scratch::new("gone"));
    let text = |head: &str| format!("[timeouts]\nhead = \"{head}\"\n");
    let config = scratch.write("config.toml", text("20s"));
    let secret = scratch.write("secret", crate::support::PASSWORD);
    let mut options = GatewayOptions::through(stub.address());
    options.password_file = Some(secret.clone());
    options.args = vec!["--config".into(), config.display().to_string()];
    let mut gateway = Gateway::start(&options);
    assert_flows(&gateway);
    let before = vitals(&gateway);
    let hash = gateway.metric("ntlm_gateway_config_hash", &[]);
    let successful = || gateway.metric("ntlm_gateway_config_last_reload_successful", &[]);
    let refused = || assert!(wait_for(BOUND, || (successful() == Some(0.0)).then_some(())).is_some(), "not refused");
    let applied = || assert!(wait_for(BOUND, || (successful() == Some(1.0)).then_some(())).is_some(), "not applied");

    for file in [&config, &secret] {
        let away = file.with_extension("away");
        std::fs::rename(file, &away).expect("away");
        gateway.signal(Signal::HUP);
        refused();
        assert_flows(&gateway);
        assert_eq!(gateway.metric("ntlm_gateway_config_hash", &[]), hash);
        std::fs::rename(&away, file).expect("back");
        applied();
        // A directory in its place is as unreadable as a broken disk, even for root.
        std::fs::rename(file, &away).expect("away");
        std::fs::create_dir(file).expect("a directory");
        gateway.signal(Signal::HUP);
        refused();
        assert_flows(&gateway);
        std::fs::remove_dir(file).expect("no directory");
        std::fs::rename(&away, file).expect("back");
        applied();
    }
    assert!(gateway.is_running());
    std::fs::write(&config, text("21s")).expect("a new configuration");
    let changed = || (gateway.metric("ntlm_gateway_config_hash", &[]) != hash).then_some(());
    assert!(wait_for(BOUND, changed).is_some(), "later changes are read");
    assert_flows(&gateway);
    assert_nothing_leaked(gateway.admin_address(), before, 0);
}

#[test]
fn suspended_for_seconds_under_load_it_resumes_without_loss() {
    let stub = stub();
    let gateway = Gateway::start(&GatewayOptions::through(stub.address()));
    assert_flows(&gateway);
    let before = vitals(&gateway);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (gateway, over) = (&gateway, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let tunnel = tunnel(gateway).expect("a tunnel, however late");
                    let bytes = pseudo_random(seed, 200_000);
                    assert_same(&echo_through(&tunnel.stream, &bytes).expect("an echo"), &bytes, "the echo");
                }
            });
        }
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(500));
            gateway.signal(Signal::STOP);
            std::thread::sleep(Duration::from_millis(2_500));
            gateway.signal(Signal::CONT);
        }
        std::thread::sleep(Duration::from_millis(500));
        over.store(true, Ordering::Relaxed);
    });
    assert_flows(&gateway);
    assert_nothing_leaked(gateway.admin_address(), before, 2 * PIPES_KEPT);
}

/// A step of the wall clock moves no deadline, because deadlines use the monotonic clock. It changes only the time in
/// an AUTHENTICATE_MESSAGE, which the domain controller judges. Log lines have their time from the logger.
#[test]
fn system_time_is_read_only_where_messages_metrics_or_files_carry_it() {
    fn visit(directory: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && std::fs::read_to_string(&path).expect("a source").contains("SystemTime::now()")
            {
                found.push(path.display().to_string());
            }
        }
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");
    let mut found = Vec::new();
    visit(std::path::Path::new(source), &mut found);
    found.sort();
    let found: Vec<&str> = found.iter().map(|path| path.trim_start_matches(source)).collect();
    // For AUTHENTICATE_MESSAGEs and Kerberos tokens, to compare clocks in `probe`, for a metric, for a journal that
    // outlives the process, for lines of the log, for challenges of the stub, and for requests to a KDC.
    let known = [
        "auth/nonces.rs",
        "cli/probe/conversation.rs",
        "gateway/egress_builder.rs",
        "guard_store/file.rs",
        "logging/stamp.rs",
        "stub/event_loop.rs",
        "tickets/exchange.rs",
    ];
    assert_eq!(found, known);
}
