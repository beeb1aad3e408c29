//! The folders of a test: they vanish when it succeeds, and stay when it fails or `KEEP=1` asks for it.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of its own, mode 0700.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// On disk.
    pub fn new() -> Self {
        Self::under(&std::env::temp_dir())
    }

    /// In memory, where programs keep what must never reach a disk.
    pub fn in_memory() -> Self {
        Self::under(Path::new("/dev/shm"))
    }

    fn under(parent: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Another process of the same number may have left its folder behind.
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("wardline-{}-{count}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Self { path },
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("KEEP").is_some_and(|keep| keep == "1") {
            eprintln!("kept: {}", self.path.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            panic!("{} cannot be removed: {error}", self.path.display());
        }
    }
}

/// Writes a file that has its mode before it has its content.
///
/// # Panics
/// It cannot be written.
pub fn write(path: &Path, content: impl AsRef<[u8]>, mode: u32) {
    let attempt = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content.as_ref())
    };
    attempt().unwrap_or_else(|error: std::io::Error| panic!("{}: {error}", path.display()));
}

/// The files in a folder and below it; none where there is no folder.
pub fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("a folder can be read").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { BTreeSet::from([path]) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_vanishes_with_everything_in_it() {
        let scratch = Scratch::new();
        let path = scratch.path().to_owned();
        std::fs::write(path.join("file"), "text").unwrap();
        assert_ne!(Scratch::new().path(), path);
        drop(scratch);
        assert!(!path.exists());
    }
}
