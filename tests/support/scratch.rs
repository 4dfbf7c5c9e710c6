//! Temporary directories, free ports, and waiting with a bound.

use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A directory for one test; removed with its contents when dropped.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Creates the directory in the system's temporary directory, where a server that drops root privileges can reach
    /// it. A checkout under a home directory is often not accessible to other users.
    pub fn new(purpose: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("ntlm-gateway-{purpose}-{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => break path,
                // What a killed test with the same process id left behind, or a test in another process namespace uses.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("mkdir {}: {error}", path.display()),
            }
        };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod scratch directory");
        Self { path }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in the directory.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file that only its owner can read, and returns its path. A file with this name is replaced as a whole:
    /// a program that watches it never finds it empty, or with other permissions.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        let beside = path.with_extension("fresh");
        std::fs::write(&beside, contents).unwrap_or_else(|e| panic!("write {}: {e}", beside.display()));
        std::fs::set_permissions(&beside, PermissionsExt::from_mode(0o600)).expect("chmod scratch file");
        std::fs::rename(&beside, &path).unwrap_or_else(|e| panic!("rename to {}: {e}", path.display()));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove scratch directory {}: {error}", self.path.display());
        }
    }
}

/// A loopback port on which nothing listened a moment ago. Another process may take it first, so a server that cannot
/// choose its own port must retry its start with a new one.
///
/// It is below the range from which the kernel assigns ports (`net.ipv4.ip_local_port_range`), so no connection takes
/// it in the meantime.
pub fn free_port() -> u16 {
    static TRIED: AtomicU64 = AtomicU64::new(0);
    let hasher = RandomState::new();
    (0..1_000)
        .map(|_| {
            let number = hasher.hash_one((std::process::id(), TRIED.fetch_add(1, Ordering::Relaxed)));
            10_000 + u16::try_from(number % 22_000).expect("below 22,000")
        })
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free loopback port")
}

/// Polls `condition` until it returns a value or `bound` has passed.
pub fn wait_for<T>(bound: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether something accepts connections on `address`.
pub fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}
