//! systemd's journal as the reader of the log.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// Whether standard error is a stream to the journal: JOURNAL_STREAM names its device and inode (systemd.exec(5)). The
/// variable alone does not tell, because it is inherited by programs whose standard error goes elsewhere.
pub(super) fn has_standard_error() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    io::stderr().as_fd().try_clone_to_owned().is_ok_and(|stderr| is_named(&named, &stderr.into()))
}

/// Whether `named`, a device and an inode in decimal, is this file.
fn is_named(named: &str, file: &File) -> bool {
    let found = named.split_once(':').and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    match (found, file.metadata()) {
        (Some((device, inode)), Ok(metadata)) => (metadata.dev(), metadata.ino()) == (device, inode),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_file_of_this_device_and_inode_is_the_journals() {
        let [ours, other] = ["Cargo.toml", "README.md"]
            .map(|name| File::open(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap());
        let metadata = ours.metadata().unwrap();
        let (device, inode) = (metadata.dev(), metadata.ino());
        assert!(is_named(&format!("{device}:{inode}"), &ours));
        assert!(!is_named(&format!("{device}:{inode}"), &other));
        for named in [format!("{}:{inode}", device + 1), format!("{device}"), "a:b".into(), ":".into(), String::new()] {
            assert!(!is_named(&named, &ours), "{named}");
        }
    }
}
