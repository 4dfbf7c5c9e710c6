//! Whether users other than the gateway's can read or replace a secret's file.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A secret's file that others can access.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{} can be {what} by {who} (mode {mode:04o}); {remedy}", path.display())]
pub struct Exposure {
    /// The file.
    path: PathBuf,
    /// Its permissions.
    mode: u32,
    what: &'static str,
    who: &'static str,
    remedy: &'static str,
}

/// Whether more users than necessary can access a secret's file. Only regular files are checked.
pub(super) fn of(path: &Path) -> Option<Exposure> {
    // A file that does not exist is an error elsewhere.
    let metadata = std::fs::metadata(path).ok().filter(Metadata::is_file)?;
    let mode = metadata.permissions().mode() & 0o7777;
    let (who, remedy) = judge(mode, metadata.uid(), metadata.gid(), rustix::process::geteuid().as_raw())?;
    let what = if mode & 0o022 == 0 { "read" } else { "read or replaced" };
    Some(Exposure { path: path.into(), mode, what, who, remedy })
}

/// Who can access a file, and the remedy.
///
/// Group access usually exists for the gateway itself: a Kubernetes volume with `fsGroup` is `root:GROUP 0440`, a
/// package's file is `root:ntlm-gateway 0640`. If the gateway's own user owns the file, group access is unnecessary and
/// therefore suspicious, unless the group is the user's private group, which usually has the same number. As root,
/// group access is not checked, because root may run `check` on files of a service that runs as another user.
fn judge(mode: u32, owner: u32, group: u32, user: u32) -> Option<(&'static str, &'static str)> {
    if mode & 0o006 != 0 {
        return Some((
            "every user of this machine",
            "remove access for others: chmod o= FILE, or defaultMode: 0440 with fsGroup for a Kubernetes Secret",
        ));
    }
    let is_shared = mode & 0o060 != 0 && owner == user && user != 0 && group != user;
    is_shared.then_some(("the members of its group", "only the owner needs access: chmod 600 FILE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_every_user_can_read_or_write_is_exposed() {
        for (mode, owner, group, user) in [
            (0o644, 0, 0, 0),
            (0o604, 1000, 1000, 1000),
            (0o666, 0, 0, 1000),
            (0o602, 0, 0, 0),
            (0o444, 0, 31280, 31280),
        ] {
            assert_eq!(
                judge(mode, owner, group, user).map(|(who, _)| who),
                Some("every user of this machine"),
                "{mode:o}"
            );
        }
    }

    #[test]
    fn group_access_for_the_gateway_is_not_warned_about() {
        for (what, mode, owner, group, user) in [
            ("the owner's alone", 0o600, 1000, 1000, 1000),
            ("a Kubernetes volume with fsGroup", 0o440, 0, 31280, 31280),
            ("the same for a pod that runs as root", 0o440, 0, 31280, 0),
            ("a package's file", 0o640, 0, 998, 998),
            ("a package's file that root checks", 0o640, 0, 998, 0),
            ("a private group", 0o660, 1000, 1000, 1000),
        ] {
            assert_eq!(judge(mode, owner, group, user), None, "{what}");
        }
        assert!(judge(0o640, 1000, 100, 1000).is_some(), "the gateway's own file, readable by the group `users`");
    }
}
