//! Whether the kernel of this machine can take over TLS connections: asked once for the process, and logged once.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::libc;
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

use super::kernel_socket::{Keys, attach};

/// How long a shard waits for each of two connections to itself. They take less than a millisecond, unless a filter
/// drops what goes over the loopback interface.
const PROBE_TIMEOUT: Duration = Duration::from_millis(50);

/// A connection could not be handed over although the kernel had accepted keys before.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Whether connections can be handed over to the kernel. The first call finds out, and logs the outcome.
pub fn is_available() -> bool {
    static IS_SUPPORTED: OnceLock<bool> = OnceLock::new();
    *IS_SUPPORTED.get_or_init(|| match probe() {
        Ok(()) => {
            log::info!("kernel TLS is available: bulk data of upstreams with tls.kernel is spliced");
            true
        }
        Err(error) => {
            log::warn!("{}", unavailable(&error));
            false
        }
    }) && !HAS_FAILED.load(Ordering::Relaxed)
}

/// No more connections are handed over: one was lost in it.
pub fn switch_off(error: &io::Error) {
    if !HAS_FAILED.swap(true, Ordering::Relaxed) {
        log::warn!("kernel TLS is not used any more, because the kernel rejected the keys of a connection: {error}");
    }
}

fn unavailable(error: &io::Error) -> String {
    // Without the module, or in a sandbox that has no such option.
    let is_missing = error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENOPROTOOPT);
    let remedy = if is_missing { "; load the kernel's module: modprobe tls" } else { "" };
    format!("kernel TLS is not available ({error}{remedy}): tls.kernel has no effect, and TLS is done in user space")
}

/// Whether the kernel accepts keys of both versions, for both directions, on a connection to itself. Both sizes of keys
/// are one algorithm of the kernel.
fn probe() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    for version in [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2] {
        let (key, iv) = (|| AeadKey::from([0; 32]), || Iv::from([0; 12]));
        let socket = TcpStream::connect_timeout(&listener.local_addr()?, PROBE_TIMEOUT)?;
        attach(&socket)?;
        let secrets = ConnectionTrafficSecrets::Aes256Gcm { key: key(), iv: iv() };
        let keys = Keys::new(version, 0, &secrets).ok_or(ErrorKind::Unsupported)?;
        keys.encrypt(&socket)?;
        keys.decrypt(&socket)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_the_module_is_named_with_the_remedy() {
        for missing in [libc::ENOENT, libc::ENOPROTOOPT] {
            let text = unavailable(&io::Error::from_raw_os_error(missing));
            assert!(text.contains("modprobe tls"), "{text}");
        }
        let text = unavailable(&io::Error::from_raw_os_error(libc::EPERM));
        assert!(!text.contains("modprobe") && text.contains("in user space"), "{text}");
    }

    #[test]
    fn the_answer_agrees_with_the_protocols_that_the_kernel_lists() {
        let listed = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
        if !listed.split_whitespace().any(|name| name == "tls") {
            assert!(!is_available());
        }
    }
}
