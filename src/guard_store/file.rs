//! A store in a directory of this machine: a journal of which the last line is the text.
//!
//! A line is the CRC-32 of the text, a space, and the text. It is written to the disk before [`Cell::replace`] returns,
//! so an attempt that was reserved is remembered wherever the process ends. A line that was not written to its end is
//! recognised by its checksum, and reported as damaged. The journal is replaced by one with its last line alone once it
//! has [`limits::GUARD_JOURNAL_BYTES`]. Processes that share the directory take turns by a lock on a file of its own,
//! which stays when the journal is replaced.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::cell::{Cell, Kept, Reason, Replaced, StoreFault, Version};
use crate::limits::{self, millis};

const JOURNAL: &str = "guard.journal";
const LOCK: &str = "guard.lock";
const FRESH: &str = "guard.journal.new";

/// How long another process may hold the lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How often the lock is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Debug)]
pub struct FileCell {
    directory: PathBuf,
    started: Instant,
    started_ms: u64,
}

/// The journal's last intact line.
struct Tail {
    text: Option<String>,
    /// Where it ends.
    end: u64,
    damaged: usize,
}

impl FileCell {
    /// A store in this directory, which is created on first use if only its last part is missing.
    pub fn new(directory: &Path) -> FileCell {
        let started_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis);
        FileCell { directory: directory.to_owned(), started: Instant::now(), started_ms }
    }

    /// The system's clock, without the steps that it makes while this process runs.
    fn now_ms(&self) -> u64 {
        self.started_ms.saturating_add(millis(self.started.elapsed()))
    }

    /// Takes the lock, until the file that is returned is dropped.
    fn lock(&self) -> Result<File, StoreFault> {
        let made = DirBuilder::new().mode(0o700).create(&self.directory);
        if let Err(error) = made
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(self.fault("create", &self.directory, &error));
        }
        let path = self.directory.join(LOCK);
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(|error| self.fault("open", &path, &error))?;
        self.give_to_owner(&file);
        let until = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOCK_INTERVAL),
                Err(TryLockError::WouldBlock) => {
                    let reason = format!("another process has held {} for {} s", path.display(), LOCK_WAIT.as_secs());
                    return Err(StoreFault::Unavailable(Reason(reason)));
                }
                Err(TryLockError::Error(error)) => return Err(self.fault("lock", &path, &error)),
            }
        }
    }

    /// The journal, opened for reading and appending; `None` if there is none.
    fn open(&self) -> Result<Option<File>, StoreFault> {
        let path = self.journal();
        let file = match OpenOptions::new().read(true).append(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.fault("open", &path, &error)),
        };
        let mode = file.metadata().map_err(|error| self.fault("examine", &path, &error))?.mode();
        if mode & 0o077 != 0 {
            let closed = file.set_permissions(Permissions::from_mode(0o600));
            closed.map_err(|error| self.fault("close to others", &path, &error))?;
        }
        Ok(Some(file))
    }

    fn load(&self, file: Option<&mut File>) -> Result<(Tail, Version), StoreFault> {
        let Some(file) = file else {
            return Ok((Tail { text: None, end: 0, damaged: 0 }, Version("none".into())));
        };
        let mut bytes = Vec::new();
        // Beyond the limits the journal is not ours.
        let most = 2 * (limits::GUARD_JOURNAL_BYTES + limits::GUARD_DOCUMENT_BYTES) as u64;
        file.take(most).read_to_end(&mut bytes).map_err(|error| self.fault("read", &self.journal(), &error))?;
        let inode = file.metadata().map_err(|error| self.fault("examine", &self.journal(), &error))?.ino();
        Ok((tail(&bytes), Version(format!("{inode}:{}", bytes.len()))))
    }

    /// Writes a line behind the last intact one.
    fn append(&self, file: &mut File, end: u64, line: &str) -> Result<(), StoreFault> {
        let path = self.journal();
        let written = (|| {
            if file.metadata()?.len() != end {
                file.set_len(end)?;
            }
            file.write_all(line.as_bytes())?;
            file.sync_all()
        })();
        written.map_err(|error| {
            // What was written of the line would count as an attempt at the next start.
            let _ = file.set_len(end);
            self.fault("write", &path, &error)
        })
    }

    /// Replaces the journal by one with this line alone.
    fn begin(&self, line: &str) -> Result<(), StoreFault> {
        let path = self.directory.join(FRESH);
        let written = (|| {
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path)?;
            self.give_to_owner(&file);
            file.write_all(line.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&path, self.journal())?;
            File::open(&self.directory)?.sync_all()
        })();
        written.map_err(|error| {
            let _ = std::fs::remove_file(&path);
            self.fault("write", &path, &error)
        })
    }

    /// A file that root creates, for example with `ntlm-gateway guard reset`, belongs to the directory's owner, so that
    /// the gateway can use it. Nobody else can give files away, and has no need to.
    fn give_to_owner(&self, file: &File) {
        let (Ok(directory), Ok(own)) = (std::fs::metadata(&self.directory), file.metadata()) else { return };
        if own.uid() != directory.uid() {
            let _ = std::os::unix::fs::fchown(file, Some(directory.uid()), Some(directory.gid()));
        }
    }

    fn journal(&self) -> PathBuf {
        self.directory.join(JOURNAL)
    }

    fn fault(&self, what: &str, path: &Path, error: &io::Error) -> StoreFault {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => "; the gateway's user must be able to write to guard.directory",
            ErrorKind::NotFound => "; create guard.directory, or choose another",
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "; no logon is attempted until there is room, because it could not be remembered"
            }
            ErrorKind::ReadOnlyFilesystem => "; guard.directory must be on a file system that can be written to",
            _ => "",
        };
        StoreFault::Refused(Reason(format!("cannot {what} {}: {error}{hint}", path.display())))
    }
}

impl Cell for FileCell {
    fn poll_interval(&self) -> Duration {
        limits::GUARD_STORE_POLL_LOCAL
    }

    fn read(&mut self) -> Result<Kept, StoreFault> {
        let _lock = self.lock()?;
        let mut file = self.open()?;
        let (tail, version) = self.load(file.as_mut())?;
        Ok(Kept { text: tail.text, version, at_ms: self.now_ms(), damaged: tail.damaged })
    }

    fn replace(&mut self, text: &str, version: &Version) -> Result<Replaced, StoreFault> {
        let _lock = self.lock()?;
        let mut file = self.open()?;
        let (tail, present) = self.load(file.as_mut())?;
        if present != *version {
            return Ok(Replaced::Conflict);
        }
        let line = format!("{:08x} {text}\n", checksum(text.as_bytes()));
        match &mut file {
            Some(file) if tail.end + line.len() as u64 <= limits::GUARD_JOURNAL_BYTES as u64 => {
                self.append(file, tail.end, &line)?;
            }
            _ => self.begin(&line)?,
        }
        let (_, version) = self.load(self.open()?.as_mut())?;
        Ok(Replaced::Yes(version))
    }
}

/// Finds the last intact line. What follows it is damaged: lines, or the beginning of one.
fn tail(bytes: &[u8]) -> Tail {
    let (mut end, mut damaged) = (bytes.len(), 0);
    while end > 0 {
        let begin = bytes[..end - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        if let Some(text) = intact(&bytes[begin..end]) {
            return Tail { text: Some(text.to_owned()), end: end as u64, damaged };
        }
        damaged += 1;
        end = begin;
    }
    Tail { text: None, end: 0, damaged }
}

/// The text of a line, if the line is whole.
fn intact(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (digits, text) = line.split_once(' ')?;
    (u32::from_str_radix(digits, 16).ok()? == checksum(text.as_bytes())).then_some(text)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is removed with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("ntlm-gateway-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn replace(cell: &mut FileCell, text: &str) -> Replaced {
        let version = cell.read().unwrap().version;
        cell.replace(text, &version).unwrap()
    }

    #[test]
    fn a_text_is_replaced_only_by_those_who_have_read_it() {
        let scratch = Scratch::new("cell");
        let [mut one, mut other] = [0, 1].map(|_| FileCell::new(&scratch.0.join("guard")));
        assert_eq!(one.read().unwrap().text, None);
        let empty = other.read().unwrap().version;
        assert!(matches!(replace(&mut one, "a"), Replaced::Yes(_)));
        assert_eq!(other.replace("b", &empty), Ok(Replaced::Conflict));
        assert_eq!(other.read().unwrap().text.as_deref(), Some("a"));
        let Replaced::Yes(version) = replace(&mut other, "b") else { panic!("no conflict") };
        assert_eq!(other.read().unwrap().version, version);
        let mode = std::fs::metadata(one.journal()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "nobody else may read it");
    }

    #[test]
    fn a_journal_cut_at_any_byte_keeps_the_line_before_and_reports_the_damage() {
        let scratch = Scratch::new("torn");
        let mut cell = FileCell::new(&scratch.0);
        replace(&mut cell, "first");
        let first = std::fs::read(cell.journal()).unwrap();
        replace(&mut cell, "second");
        let both = std::fs::read(cell.journal()).unwrap();
        for cut in first.len()..=both.len() {
            std::fs::write(cell.journal(), &both[..cut]).unwrap();
            let kept = cell.read().unwrap();
            let expected = match cut {
                _ if cut == first.len() => ("first", 0),
                _ if cut == both.len() => ("second", 0),
                _ => ("first", 1),
            };
            assert_eq!((kept.text.as_deref(), kept.damaged), (Some(expected.0), expected.1), "{cut}");
            assert!(matches!(replace(&mut cell, "third"), Replaced::Yes(_)));
            let kept = cell.read().unwrap();
            assert_eq!((kept.text.as_deref(), kept.damaged), (Some("third"), 0), "{cut}");
        }
        for cut in 1..first.len() {
            std::fs::write(cell.journal(), &first[..cut]).unwrap();
            let kept = cell.read().unwrap();
            assert_eq!((kept.text, kept.damaged), (None, 1), "{cut}");
        }
    }

    #[test]
    fn a_changed_byte_is_noticed_by_the_checksum() {
        let scratch = Scratch::new("changed");
        let mut cell = FileCell::new(&scratch.0);
        replace(&mut cell, "first");
        replace(&mut cell, "second");
        let path = cell.journal();
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let kept = cell.read().unwrap();
        assert_eq!((kept.text.as_deref(), kept.damaged), (Some("first"), 1));
    }

    #[test]
    fn a_journal_stays_within_its_limit() {
        let scratch = Scratch::new("bounded");
        let mut cell = FileCell::new(&scratch.0);
        let text = "x".repeat(limits::GUARD_DOCUMENT_BYTES);
        for _ in 0..20 {
            assert!(matches!(replace(&mut cell, &text), Replaced::Yes(_)));
            let length = std::fs::metadata(cell.journal()).unwrap().len();
            assert!(length <= limits::GUARD_JOURNAL_BYTES as u64, "{length}");
        }
        assert_eq!(cell.read().unwrap().text, Some(text));
    }

    /// Only root can give files away, so this shows something only if root runs it.
    #[test]
    fn files_that_root_creates_belong_to_the_owner_of_the_directory() {
        let scratch = Scratch::new("owner");
        let owner = if std::os::unix::fs::chown(&scratch.0, Some(7), Some(7)).is_ok() {
            7
        } else {
            std::fs::metadata(&scratch.0).unwrap().uid()
        };
        let mut cell = FileCell::new(&scratch.0);
        replace(&mut cell, "a");
        for name in [JOURNAL, LOCK] {
            assert_eq!(std::fs::metadata(scratch.0.join(name)).unwrap().uid(), owner, "{name}");
        }
    }

    #[test]
    fn a_missing_directory_is_named_with_what_to_do() {
        let scratch = Scratch::new("missing");
        let fault = FileCell::new(&scratch.0.join("no/such")).read().unwrap_err().to_string();
        assert!(fault.contains("no/such") && fault.contains("create guard.directory"), "{fault}");
    }
}
