//! Watching files whose change calls for a reload: the configuration and the secret.
//!
//! ```text
//!   inotify on each directory of the way ─▶ settle ─┐
//!                                                   ├─▶ read, compare the hash ─▶ changed or not
//!   every 30 s ─────────────────────────────────────┘
//! ```
//!
//! Watched are directories, not files: a file is replaced by a rename more often than it is written. Kubernetes puts
//! a new version of a Secret into a directory of its own and renames the link `..data` to it; the way to
//! `password → ..data/password` then leads elsewhere without anything having happened to the file or its name. So each
//! directory that has a link of the way, or the file itself, is watched for the names on the way, and the way is walked
//! anew after each event.

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

/// What came of [`Watcher::look`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is not time to look yet.
    NotYet,
    /// The files are what they were.
    Unchanged,
    /// A file has other contents than before, or can be read only now or no longer.
    Changed,
}

/// The files of a configuration, and what they held when they were last looked at.
pub struct Watcher {
    /// `None` where it is not to be had: then a change is noticed within [`limits::WATCH_POLL`].
    inotify: Option<Inotify>,
    files: Vec<PathBuf>,
    /// Keys the hashes with random numbers of this process: they are made of secrets.
    keys: RandomState,
    /// A hash for each file; `None` for one that cannot be read, or is no regular file.
    seen: Vec<Option<u64>>,
    stirred: Option<Stirred>,
    poll_at: Instant,
}

/// Events came that were not looked after yet.
#[derive(Clone, Copy)]
struct Stirred {
    first: Instant,
    last: Instant,
}

impl Watcher {
    /// Begins to watch; its events come as `token`. What the files hold now is taken for known.
    pub fn new(registry: &Registry, token: Token, files: &[PathBuf]) -> Watcher {
        let inotify = Inotify::new(registry, token)
            .inspect_err(|error| {
                let seconds = limits::WATCH_POLL.as_secs();
                log::warn!("changes of files are noticed every {seconds} s only, for want of inotify: {error}");
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
            stirred: None,
            poll_at: now + limits::WATCH_POLL,
        };
        watcher.follow(files);
        watcher
    }

    /// Watches these files from now on. What a new one holds now is taken for known.
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

    /// Takes what the files hold now for known, because it is about to be read.
    pub fn accept(&mut self) {
        self.rearm();
        self.seen = self.files.iter().map(|file| self.hash(file)).collect();
        self.stirred = None;
    }

    /// Takes in the events that have come.
    pub fn on_event(&mut self, now: Instant) {
        if self.inotify.as_mut().is_some_and(Inotify::take_events) {
            let first = self.stirred.map_or(now, |stirred| stirred.first);
            self.stirred = Some(Stirred { first, last: now });
        }
    }

    /// When to [`look`](Watcher::look) next, whether events come or not; `None` when there is no file to look at.
    pub fn due(&self) -> Option<Instant> {
        let settled = |stirred: Stirred| {
            (stirred.last + limits::WATCH_SETTLE).min(stirred.first + limits::WATCH_SETTLE_MAX).min(self.poll_at)
        };
        (!self.files.is_empty()).then(|| self.stirred.map_or(self.poll_at, settled))
    }

    /// Reads the files if it is time to; what they hold is known from then on.
    pub fn look(&mut self, now: Instant) -> Look {
        if self.due().is_none_or(|due| now < due) {
            return Look::NotYet;
        }
        self.poll_at = now + limits::WATCH_POLL;
        let before = std::mem::take(&mut self.seen);
        self.accept();
        if before == self.seen { Look::Unchanged } else { Look::Changed }
    }

    /// The way first, the contents second: what changes in between makes an event.
    fn rearm(&mut self) {
        if let Some(inotify) = &mut self.inotify {
            inotify.watch(&places(&self.files));
        }
    }

    fn hash(&self, file: &Path) -> Option<u64> {
        hash(file, self.keys.build_hasher()).ok()
    }
}

/// The hash of what a regular file holds. Anything else is refused without waiting for it: a pipe would be read empty, or
/// hold the process up.
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

/// Directories, and the names in them that are on the way to a file.
type Places = BTreeMap<PathBuf, BTreeSet<OsString>>;

fn places(files: &[PathBuf]) -> Places {
    let mut places = Places::new();
    for file in files {
        walk(file, &mut places);
    }
    places
}

/// Walks the way to a file as the kernel does, link by link, and notes where a change would lead it elsewhere: at each link, at
/// the file itself, and where the way ends because something is missing.
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

/// The kernel's watch over directories.
struct Inotify {
    descriptor: OwnedFd,
    /// By watch descriptor: the names that matter there.
    watches: BTreeMap<i32, BTreeSet<OsString>>,
}

/// What can lead the way to a file elsewhere, or change it.
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

    /// Watches these places and no others. A directory that cannot be watched is left to the slow look.
    fn watch(&mut self, places: &Places) {
        let mut watches: BTreeMap<i32, BTreeSet<OsString>> = BTreeMap::new();
        for (directory, names) in places {
            match inotify::add_watch(&self.descriptor, directory, EVENTS) {
                // Two paths to one directory have one watch.
                Ok(watch) => watches.entry(watch).or_default().extend(names.iter().cloned()),
                Err(error) => log::debug!("{} cannot be watched: {error}", directory.display()),
            }
        }
        for watch in self.watches.keys().filter(|watch| !watches.contains_key(watch)) {
            // The kernel has removed it already if its directory is gone.
            let _ = inotify::remove_watch(&self.descriptor, *watch);
        }
        self.watches = watches;
    }

    /// Takes in all events; whether one of them matters.
    fn take_events(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.descriptor, &mut buffer);
        let mut matters = false;
        loop {
            match events.next() {
                Ok(event) => {
                    let names = self.watches.get(&event.wd());
                    matters |= match event.file_name() {
                        Some(name) => names.is_some_and(|names| names.contains(OsStr::from_bytes(name.to_bytes()))),
                        // Of the directory itself, or too many to be told one by one.
                        None => names.is_some() || event.events().contains(ReadFlags::QUEUE_OVERFLOW),
                    };
                }
                Err(Errno::INTR) => {}
                Err(_) => return matters,
            }
        }
    }
}

#[cfg(test)]
mod tests;
