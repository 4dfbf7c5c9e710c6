//! The store in a directory that is full, closed, in use, damaged or from another version.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ntlm_gateway::guard_store::{Cell as _, FileCell, Replaced};
use ntlm_gateway::stub::StubServer;

use super::fleet::{BUDGET, Member, MemberOptions, OUT_OF_REACH, PATIENCE, file_store, upstream};
use crate::support::PASSWORD;
use crate::support::command::run;
use crate::support::gateway::GATEWAY;
use crate::support::scratch::{Scratch, wait_for};
use crate::support::tools::{path_of, skip, skip_without_mounts};

const CLIENTS: usize = 10;

/// For a while in which nothing may happen.
const WHILE: Duration = Duration::from_millis(700);

fn journal(directory: &Scratch) -> PathBuf {
    directory.join("guard.journal")
}

fn start(upstream: &StubServer, directory: &Path, password: &str, setup: Option<String>) -> Member {
    let store = (file_store(directory), Vec::new());
    Member::start_with(MemberOptions { setup, ..MemberOptions::new(upstream.address(), password, CLIENTS, store) })
}

/// Waits until the store is out of reach for this reason; then nothing is sent.
#[track_caller]
fn expect_nothing_sent(member: &Member, upstream: &StubServer, reason: &str) {
    let says = wait_for(PATIENCE, || member.readyz().1.contains(reason).then_some(()));
    assert!(says.is_some(), "{:?}", member.readyz());
    let (status, line) = member.readyz();
    assert!(status == 503 && line.contains(OUT_OF_REACH), "{status} {line}");
    std::thread::sleep(WHILE);
    assert_eq!(upstream.counters().authenticates, 0);
    assert!(!member.store_is_up());
    let lines: Vec<_> = member.gateway().log().into_iter().filter(|line| line.contains(OUT_OF_REACH)).collect();
    assert!(lines.len() == 1 && lines[0].contains(reason), "{lines:#?}");
}

#[track_caller]
fn expect_served(member: &Member) {
    let served = wait_for(PATIENCE, || (member.crowd().served() > 0).then_some(()));
    assert!(served.is_some(), "{:?}", member.readyz());
    assert!(wait_for(PATIENCE, || member.store_is_up().then_some(())).is_some());
}

#[test]
fn a_full_disk_allows_no_attempt_until_there_is_room() {
    require_tools!("unshare", "mount");
    if skip_without_mounts() {
        return;
    }
    let (upstream, directory) = (upstream(Duration::ZERO), Scratch::new("full"));
    let place = directory.path().display();
    let fill = format!("mount -t tmpfs -o size=8k none {place}; head -c 8192 /dev/zero >{place}/filler");
    let setup = format!("exec unshare --mount sh -ec '{fill}; exec \"$0\" \"$@\"' \"$0\" \"$@\"");
    let member = start(&upstream, directory.path(), PASSWORD, Some(setup));
    expect_nothing_sent(&member, &upstream, "No space left on device");
    assert!(member.readyz().1.contains("no logon is attempted until there is room"), "{:?}", member.readyz());
    let filler = format!("/proc/{}/root{place}/filler", member.gateway().pid().as_raw_nonzero());
    std::fs::remove_file(filler).expect("room");
    expect_served(&member);
}

#[test]
fn a_directory_without_permission_allows_no_attempt() {
    require_tools!("setpriv");
    if !rustix::process::geteuid().is_root() {
        skip("needs root");
        return;
    }
    // A user who may do nothing here.
    let user = 100_000 + std::process::id() % 1_000_000;
    let become_user = format!("{} --reuid={user} --regid={user} --clear-groups", path_of("setpriv").display());
    let reach = run("sh", PATIENCE, |command| {
        command.args(["-c", &format!("{become_user} {GATEWAY} --version")]);
    });
    if reach.code != Some(0) {
        skip(&format!("another user cannot run {GATEWAY}"));
        return;
    }
    let (upstream, directory) = (upstream(Duration::ZERO), Scratch::new("closed"));
    let set_mode = |mode| {
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(mode)).expect("chmod");
    };
    set_mode(0o700);
    let setup = format!("exec {become_user} \"$0\" \"$@\"");
    let member = start(&upstream, directory.path(), PASSWORD, Some(setup));
    expect_nothing_sent(&member, &upstream, "Permission denied");
    let (_, line) = member.readyz();
    assert!(line.contains("the gateway's user must be able to write to guard.directory"), "{line}");
    set_mode(0o777);
    expect_served(&member);
}

#[test]
fn a_lock_that_another_process_holds_allows_no_attempt_until_it_is_released() {
    let (upstream, directory) = (upstream(Duration::ZERO), Scratch::new("locked"));
    let lock = File::create(directory.join("guard.lock")).expect("a lock");
    lock.lock().expect("the lock");
    let member = start(&upstream, directory.path(), PASSWORD, None);
    expect_nothing_sent(&member, &upstream, "another process has held");
    drop(lock);
    expect_served(&member);
}

#[test]
fn a_journal_of_another_version_allows_no_attempt() {
    let (upstream, directory) = (upstream(Duration::ZERO), Scratch::new("version"));
    let mut cell = FileCell::new(directory.path());
    let version = cell.read().expect("a directory").version;
    let text = r#"{"form":2,"salt":"00112233445566778899aabbccddeeff","accounts":{}}"#;
    assert!(matches!(cell.replace(text, &version), Ok(Replaced::Yes(_))));
    let member = start(&upstream, directory.path(), PASSWORD, None);
    expect_nothing_sent(&member, &upstream, "it has form 2, which this version of the gateway does not know");
    let kept = cell.read().expect("a journal");
    assert_eq!((kept.text.as_deref(), kept.damaged), (Some(text), 0), "the other version can go on");
    let place = directory.path().display();
    let config = directory.write(
        "gateway.toml",
        format!(
            "user = 'CORP\\alice'\npassword_file = 'password'\nupstream = '{}'\n[guard]\nstore = 'file'\ndirectory = '{place}'\n",
            upstream.address()
        ),
    );
    directory.write("password", PASSWORD);
    run(GATEWAY, PATIENCE, |command| {
        command.args(["guard", "reset", "--all"]).arg(config);
    })
    .expect_success("a new document");
    expect_served(&member);
}

/// Gives a gateway one wrong password after the other until the budget is used up, and returns how many were tried.
fn attempts_left(directory: &Scratch) -> u64 {
    let upstream = upstream(Duration::ZERO);
    let member = start(&upstream, directory.path(), "wrong-0", None);
    for number in 1..=3 {
        let holds = wait_for(PATIENCE, || member.readyz().1.contains("refuses the credentials").then_some(()));
        assert!(holds.is_some(), "{:?}", member.readyz());
        member.set_password(&format!("wrong-{number}"));
        let reloads = || (member.says("configuration reloaded") >= number).then_some(());
        assert!(wait_for(PATIENCE, reloads).is_some(), "no reload");
    }
    let spent = wait_for(PATIENCE, || (member.says("no further attempt for 3") > 0).then_some(()));
    assert!(spent.is_some(), "{:#?}", member.gateway().log());
    upstream.counters().refused
}

#[test]
fn each_damaged_line_of_a_journal_counts_as_an_attempt() {
    let garbage = b"\x00\xffno line of a journal\n\n\xf0\x9f".as_slice();
    for (name, contents, left) in [
        ("no journal", &b""[..], BUDGET),
        ("a part of a line", b"0a1b2c3d {\"form\":1,\"sa", BUDGET - 1),
        ("a line that is changed", b"0a1b2c3d {\"form\":1}\n0", BUDGET - 2),
        ("garbage", garbage, 0),
    ] {
        let directory = Scratch::new("garbage");
        if !contents.is_empty() {
            std::fs::write(journal(&directory), contents).expect("a journal");
        }
        assert_eq!(attempts_left(&directory), left, "{name}");
    }
}

#[test]
fn a_torn_tail_is_cut_and_its_attempt_stays_counted() {
    let (upstream, directory) = (upstream(Duration::from_millis(500)), Scratch::new("torn"));
    let mut member = start(&upstream, directory.path(), "wrong", None);
    let sent = wait_for(PATIENCE, || (upstream.counters().authenticates > 0).then_some(()));
    assert!(sent.is_some(), "no attempt is made");
    member.kill();
    let reserved = std::fs::read(journal(&directory)).expect("a journal");
    for length in [1, reserved.len() / 2, reserved.len() - 1] {
        std::fs::write(journal(&directory), &reserved[..length]).expect("a torn journal");
        assert_eq!(attempts_left(&directory), BUDGET - 1, "cut to {length} of {} bytes", reserved.len());
        let journal = std::fs::read_to_string(journal(&directory)).expect("a journal without damage");
        assert!(journal.lines().all(|line| line.ends_with('}')), "{journal}");
    }
}
