//! Watches the files whose change requires a reload: the configuration and the secrets.
//!
//! ```text
//!   inotify on each directory of the path ─▶ settle ─┐
//!                                                    ├─▶ read, compare the hash ─▶ changed or not
//!   every 30 s ──────────────────────────────────────┘
//! ```
//!
//! Directories are watched, not files: a file is replaced by a rename more often than it is written in place.
//! Kubernetes puts a new version of a Secret into a new directory and renames the link `..data` to it. The path
//! `password → ..data/password` then leads to another file, although neither the old file nor its name has changed. So
//! every directory that contains a link of the path, or the file itself, is watched for the names on the path, and the
//! path is resolved again after each event.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::limits;

/// The result of [`Watcher::look`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is too early to look.
    NotYet,
    /// The files have not changed.
    Unchanged,
    /// The content of a file has changed, or a file has become readable or unreadable.
    Changed,
}

/// The files of a configuration, and hashes of their last known contents.
pub struct Watcher {
    /// `None` if inotify is not available; a change is then noticed within [`limits::WATCH_POLL`].
    inotify: Option<Inotify>,
    files: Vec<PathBuf>,
    /// Random keys of this process for the hashes, because secrets are hashed.
    keys: RandomState,
    /// The hash of each file; `None` for one that cannot be read or is not a regular file.
    seen: Vec<Option<u64>>,
    pending: Option<Pending>,
    poll_at: Instant,
}

/// The times of events after which the files have not been looked at yet.
#[derive(Clone, Copy)]
struct Pending {
    first: Instant,
    last: Instant,
}

impl Watcher {
    /// Starts to watch. Its events have `token`. The current contents count as known.
    pub fn new(registry: &Registry, token: Token, files: &[PathBuf]) -> Watcher {
        let inotify = Inotify::new(registry, token)
            .inspect_err(|error| {
                let seconds = limits::WATCH_POLL.as_secs();
                log::warn!("inotify is not available, so files are only checked every {seconds} s: {error}");
            })
            .ok();
        Watcher::with(inotify, files, Instant::now())
    }

    fn with(inotify: Option<Inotify>, files: &[PathBuf], now: Instant) -> Watcher {
        let mut watcher = Watcher {
            inotify,
            files: Vec::new(),
            keys: RandomState::new(),
            seen: Vec::new(),
            pending: None,
            poll_at: now + limits::WATCH_POLL,
        };
        watcher.follow(files);
        watcher
    }

    /// Watches these files from now on. The current content of a new one counts as known.
    pub fn follow(&mut self, files: &[PathBuf]) {
        if self.files == files {
            return;
        }
        let old = std::mem::replace(&mut self.files, files.to_vec());
        let known: BTreeMap<PathBuf, Option<u64>> = old.into_iter().zip(std::mem::take(&mut self.seen)).collect();
        self.rearm();
        let seen = |file: &PathBuf| known.get(file).copied().unwrap_or_else(|| self.hash(file));
        self.seen = self.files.iter().map(seen).collect();
    }

    /// Marks the current contents as known, because they are about to be read.
    pub fn accept(&mut self) {
        self.rearm();
        self.seen = self.files.iter().map(|file| self.hash(file)).collect();
        self.pending = None;
    }

    /// Processes the events that have arrived.
    pub fn on_event(&mut self, now: Instant) {
        if self.inotify.as_mut().is_some_and(Inotify::take_events) {
            let first = self.pending.map_or(now, |pending| pending.first);
            self.pending = Some(Pending { first, last: now });
        }
    }

    /// When to call [`look`](Watcher::look) next, even without further events; `None` if there is no file to watch.
    pub fn due(&self) -> Option<Instant> {
        let settled = |pending: Pending| {
            (pending.last + limits::WATCH_SETTLE).min(pending.first + limits::WATCH_SETTLE_MAX).min(self.poll_at)
        };
        (!self.files.is_empty()).then(|| self.pending.map_or(self.poll_at, settled))
    }

    /// Reads the files if it is time to. The contents then count as known.
    pub fn look(&mut self, now: Instant) -> Look {
        if self.due().is_none_or(|due| now < due) {
            return Look::NotYet;
        }
        self.poll_at = now + limits::WATCH_POLL;
        let before = std::mem::take(&mut self.seen);
        self.accept();
        if before == self.seen { Look::Unchanged } else { Look::Changed }
    }

    /// Must come before the contents are read, so that a change in between causes an event.
    fn rearm(&mut self) {
        if let Some(inotify) = &mut self.inotify {
            inotify.watch(&places(&self.files));
        }
    }

    fn hash(&self, file: &Path) -> Option<u64> {
        hash(file, self.keys.build_hasher()).ok()
    }
}

/// The hash of a regular file's content. Anything else is rejected without waiting for it: reading a pipe would consume
/// its content, or block the process.
fn hash(file: &Path, mut hasher: impl Hasher) -> io::Result<u64> {
    let descriptor = rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    let file = File::from(descriptor);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut contents = file.take(limits::WATCH_FILE_BYTES);
    let mut buffer = Zeroizing::new([0; 4096]);
    loop {
        match contents.read(buffer.as_mut_slice()) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => hasher.write(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Directories, and the names in them that are on the path to a file.
type Places = BTreeMap<PathBuf, BTreeSet<OsString>>;

fn places(files: &[PathBuf]) -> Places {
    let mut places = Places::new();
    for file in files {
        walk(file, &mut places);
    }
    places
}

/// Resolves a path as the kernel does, link by link, and records every place where a change would make it lead
/// elsewhere: at each link, at the file itself, and where the path ends because something is missing.
fn walk(file: &Path, places: &mut Places) {
    let Ok(file) = std::path::absolute(file) else { return };
    let mut at = PathBuf::from("/");
    let mut ahead: VecDeque<OsString> = names(&file);
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let target = std::fs::read_link(&next).ok();
        if target.is_some() || ahead.is_empty() || !next.exists() {
            places.entry(at.clone()).or_default().insert(name);
        }
        let Some(target) = target else {
            at = next;
            continue;
        };
        links += 1;
        if links > limits::WATCH_LINKS {
            return;
        }
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for name in names(&target).into_iter().rev() {
            ahead.push_front(name);
        }
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

/// The inotify instance.
struct Inotify {
    descriptor: OwnedFd,
    /// The relevant names, by watch descriptor.
    watches: BTreeMap<i32, BTreeSet<OsString>>,
}

/// Events that can make a path lead elsewhere, or change a file.
const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

impl Inotify {
    fn new(registry: &Registry, token: Token) -> io::Result<Inotify> {
        let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        registry.register(&mut SourceFd(&descriptor.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Inotify { descriptor, watches: BTreeMap::new() })
    }

    /// Watches these places and no others. Changes in a directory that cannot be watched are found by polling.
    fn watch(&mut self, places: &Places) {
        let mut watches: BTreeMap<i32, BTreeSet<OsString>> = BTreeMap::new();
        for (directory, names) in places {
            match inotify::add_watch(&self.descriptor, directory, EVENTS) {
                // Two paths to the same directory share a watch.
                Ok(watch) => watches.entry(watch).or_default().extend(names.iter().cloned()),
                Err(error) => log::debug!("{} cannot be watched: {error}", directory.display()),
            }
        }
        for watch in self.watches.keys().filter(|watch| !watches.contains_key(watch)) {
            // This fails if the directory is gone: the kernel has then already removed the watch.
            let _ = inotify::remove_watch(&self.descriptor, *watch);
        }
        self.watches = watches;
    }

    /// Reads the events; returns whether one of them is relevant. If there are too many, those left over may be: they
    /// were caused before the files are looked at, and the next event brings them up again.
    fn take_events(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.descriptor, &mut buffer);
        let mut matters = false;
        for _ in 0..limits::WATCH_EVENTS_AT_ONCE {
            match events.next() {
                Ok(event) => {
                    let names = self.watches.get(&event.wd());
                    matters |= match event.file_name() {
                        Some(name) => names.is_some_and(|names| names.contains(OsStr::from_bytes(name.to_bytes()))),
                        // About the directory itself, or an overflow of the event queue.
                        None => names.is_some() || event.events().contains(ReadFlags::QUEUE_OVERFLOW),
                    };
                }
                Err(Errno::INTR) => {}
                Err(_) => return matters,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
