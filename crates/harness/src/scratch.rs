//! The folders of a test: they vanish when it succeeds, and stay when it fails or `KEEP=1` asks for it.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
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
