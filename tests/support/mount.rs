//! A directory like the kubelet's mount of a Secret or ConfigMap: each version in its own directory, behind a link.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::scratch::Scratch;

/// A mounted volume. Its first file is the one that it was made with.
pub struct Mount {
    scratch: Scratch,
    name: &'static str,
    versions: AtomicU32,
}

impl Mount {
    /// A volume whose file `name` has this content.
    pub fn new(name: &'static str, contents: &str) -> Self {
        let mount = Self { scratch: Scratch::new("mount"), name, versions: AtomicU32::new(0) };
        mount.publish(contents);
        mount
    }

    /// The path at which programs open the file.
    pub fn path(&self) -> PathBuf {
        self.scratch.join(self.name)
    }

    /// The path of another file, whether or not the volume has it now.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Replaces the content atomically: the file is never missing or half written.
    pub fn publish(&self, contents: &str) {
        self.publish_files(&[(self.name, contents)]);
    }

    /// Replaces all files at once, as a change of several keys does.
    pub fn publish_files(&self, files: &[(&str, &str)]) {
        let version = format!("..version_{}", self.versions.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir(self.scratch.join(&version)).expect("the version's directory");
        for (name, contents) in files {
            self.scratch.write(&format!("{version}/{name}"), contents);
            // It may be there from an earlier version.
            let _ = symlink(format!("..data/{name}"), self.path_of(name));
        }
        let data = self.scratch.join("..data");
        let old = std::fs::read_link(&data).ok();
        symlink(&version, self.scratch.join("..data_tmp")).expect("the new link");
        std::fs::rename(self.scratch.join("..data_tmp"), data).expect("the swap of the links");
        if let Some(old) = old {
            std::fs::remove_dir_all(self.scratch.path().join(old)).expect("removal of the old version");
        }
    }
}
