//! Changes of real files, with and without inotify.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mio::{Events, Poll};

use super::*;

struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ntlm-gateway-watch-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Directory(path.canonicalize().unwrap())
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, contents: &str) -> PathBuf {
        std::fs::write(self.join(name), contents).unwrap();
        self.join(name)
    }

    /// Publishes a new version of a mounted Secret as the kubelet does: a directory, a link next to it, a rename.
    fn publish(&self, version: &str, contents: &str) {
        std::fs::create_dir(self.join(version)).unwrap();
        self.write(&format!("{version}/password"), contents);
        let old = std::fs::read_link(self.join("..data")).ok();
        symlink(version, self.join("..data_tmp")).unwrap();
        std::fs::rename(self.join("..data_tmp"), self.join("..data")).unwrap();
        if let Some(old) = old {
            std::fs::remove_dir_all(self.join(&old.to_string_lossy())).unwrap();
        } else {
            symlink("..data/password", self.join("password")).unwrap();
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A watcher, and the poll that receives its events. Regular polling is disabled.
struct Watched {
    poll: Poll,
    watcher: Watcher,
}

impl Watched {
    fn new(files: &[PathBuf]) -> Watched {
        let poll = Poll::new().unwrap();
        let mut watcher = Watcher::new(poll.registry(), Token(0), files);
        assert!(watcher.inotify.is_some());
        watcher.poll_at += Duration::from_secs(24 * 3600);
        Watched { poll, watcher }
    }

    /// The result after the files have settled; `NotYet` if there was no relevant event.
    fn look(&mut self) -> Look {
        let mut events = Events::with_capacity(8);
        self.poll.poll(&mut events, Some(Duration::from_millis(50))).unwrap();
        self.watcher.on_event(Instant::now());
        let look = self.watcher.look(Instant::now() + limits::WATCH_SETTLE);
        self.watcher.poll_at += Duration::from_secs(24 * 3600);
        look
    }
}

#[test]
fn every_way_to_change_a_file_is_noticed() {
    let directory = Directory::new();
    let file = directory.write("config", "one");
    let mut watched = Watched::new(std::slice::from_ref(&file));
    assert_eq!(watched.look(), Look::NotYet);
    // In place.
    directory.write("config", "two");
    assert_eq!(watched.look(), Look::Changed);
    // By a rename over it.
    std::fs::rename(directory.write("config.new", "three"), &file).unwrap();
    assert_eq!(watched.look(), Look::Changed);
    // Deleted and created again.
    std::fs::remove_file(&file).unwrap();
    assert_eq!(watched.look(), Look::Changed);
    directory.write("config", "three");
    assert_eq!(watched.look(), Look::Changed);
    assert_eq!(watched.look(), Look::NotYet);
}

#[test]
fn every_link_swap_of_a_kubernetes_secret_is_noticed() {
    let directory = Directory::new();
    directory.publish("..2026_01", "one");
    let mut watched = Watched::new(&[directory.join("password")]);
    for (version, contents) in [("..2026_02", "two"), ("..2026_03", "three")] {
        directory.publish(version, contents);
        assert_eq!(watched.look(), Look::Changed, "{version}");
    }
    // A new version with the same content is not a change.
    directory.publish("..2026_04", "three");
    assert_eq!(watched.look(), Look::Unchanged);
}

#[test]
fn a_link_to_a_file_elsewhere_is_watched_at_both_ends() {
    let (one, other) = (Directory::new(), Directory::new());
    let target = other.write("secret", "one");
    symlink(&target, one.join("secret")).unwrap();
    let mut watched = Watched::new(&[one.join("secret")]);
    other.write("secret", "two");
    assert_eq!(watched.look(), Look::Changed);
    std::fs::remove_file(one.join("secret")).unwrap();
    symlink(other.write("another", "three"), one.join("secret")).unwrap();
    assert_eq!(watched.look(), Look::Changed);
    other.write("another", "four");
    assert_eq!(watched.look(), Look::Changed, "the new target is watched too");
}

#[test]
fn a_file_is_noticed_when_its_directory_is_created_later() {
    let directory = Directory::new();
    let mut watched = Watched::new(&[directory.join("mount/secret")]);
    std::fs::create_dir(directory.join("mount")).unwrap();
    assert_eq!(watched.look(), Look::Unchanged);
    directory.write("mount/secret", "one");
    assert_eq!(watched.look(), Look::Changed);
}

#[test]
fn changes_of_other_files_in_the_directory_are_ignored() {
    let directory = Directory::new();
    let file = directory.write("config", "one");
    let mut watched = Watched::new(&[file]);
    directory.write("other", "one");
    assert_eq!(watched.look(), Look::NotYet);
    directory.write("config", "one");
    assert_eq!(watched.look(), Look::Unchanged, "written, but with the same content");
}

#[test]
fn a_file_that_keeps_changing_is_read_after_a_limited_time() {
    let directory = Directory::new();
    let begin = Instant::now();
    let mut watcher = Watcher::with(None, &[directory.write("config", "one")], begin);
    directory.write("config", "two");
    let (first, ms) = (begin + Duration::from_secs(1), Duration::from_millis);
    watcher.pending = Some(Pending { first, last: first });
    assert_eq!(watcher.look(first + ms(199)), Look::NotYet);
    watcher.pending = Some(Pending { first, last: first + ms(150) });
    assert_eq!(watcher.look(first + ms(300)), Look::NotYet);
    watcher.pending = Some(Pending { first, last: first + ms(1_950) });
    assert_eq!(watcher.look(first + ms(1_999)), Look::NotYet);
    assert_eq!(watcher.look(first + ms(2_000)), Look::Changed);
}

#[test]
fn without_inotify_a_change_is_noticed_by_polling() {
    let directory = Directory::new();
    let begin = Instant::now();
    let mut watcher = Watcher::with(None, &[directory.write("config", "one")], begin);
    directory.write("config", "two");
    assert_eq!(watcher.look(begin + limits::WATCH_POLL / 2), Look::NotYet);
    assert_eq!(watcher.look(begin + limits::WATCH_POLL), Look::Changed);
    assert_eq!(watcher.look(begin + limits::WATCH_POLL * 2), Look::Unchanged);
}

#[test]
fn a_pipe_is_not_read_and_does_not_block() {
    let directory = Directory::new();
    let pipe = directory.join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let begin = Instant::now();
    let mut watcher = Watcher::with(None, &[pipe], begin);
    assert_eq!(watcher.look(begin + limits::WATCH_POLL), Look::Unchanged);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_cycle_of_links_terminates_and_without_files_no_look_is_due() {
    let directory = Directory::new();
    symlink("b", directory.join("a")).unwrap();
    symlink("a", directory.join("b")).unwrap();
    let names: BTreeSet<OsString> = ["a".into(), "b".into()].into();
    assert_eq!(places(&[directory.join("a")]), Places::from([(directory.0.clone(), names)]));
    assert!(Watcher::with(None, &[], Instant::now()).due().is_none());
}

#[test]
fn after_a_change_of_the_file_list_only_the_new_files_are_watched() {
    let directory = Directory::new();
    let (old, new) = (directory.write("old", "one"), directory.write("new", "one"));
    let mut watched = Watched::new(std::slice::from_ref(&old));
    watched.watcher.follow(&[new]);
    assert_eq!(watched.look(), Look::NotYet);
    directory.write("old", "two");
    assert_eq!(watched.look(), Look::NotYet);
    directory.write("new", "two");
    assert_eq!(watched.look(), Look::Changed);
}

#[test]
fn a_flood_of_events_is_read_in_parts_and_hides_no_change() {
    let directory = Directory::new();
    let file = directory.write("password", "one");
    let mut watched = Watched::new(std::slice::from_ref(&file));
    // Each write of another name is an event of its own, and more than one.
    for number in 0..limits::WATCH_EVENTS_AT_ONCE {
        directory.write(["log.0", "log.1"][number % 2], "a line");
    }
    let inotify = watched.watcher.inotify.as_mut().unwrap();
    assert!(inotify.take_events(), "what is left over may matter");
    let mut parts = 1;
    while inotify.take_events() {
        parts += 1;
        assert!(parts < 20, "the events never end");
    }
    assert_eq!(watched.look(), Look::NotYet, "none of them was about the file");

    for number in 0..limits::WATCH_EVENTS_AT_ONCE {
        directory.write(["log.0", "log.1"][number % 2], "a line");
    }
    directory.write("password", "two");
    assert_eq!(watched.look(), Look::Changed, "although the event about it was not read yet");
}
