//! Files that only their owner may read.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

/// The most bytes of a key or certificate file.
const LIMIT: u64 = 256 * 1024;

/// Reads a private file: a regular file of our own user (or root's) that nobody else can read or write.
///
/// # Errors
/// It cannot be read, or others could.
pub fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open(path)?;
    let meta = file.metadata()?;
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(io::Error::other(format!("its mode is {mode:04o}, others may use it; `chmod 600` it")));
    }
    contents(file, meta.len())
}

/// Reads a file that is not secret, but decides whom to trust: nobody but our own user (or root) may write it.
///
/// # Errors
/// It cannot be read, or others could write it.
pub fn read_public(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let meta = file.metadata()?;
    if meta.mode() & 0o022 != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(io::Error::other(format!("its mode is {mode:04o}, others may change it; `chmod go-w` it")));
    }
    contents(file, meta.len()).map(|bytes| bytes.to_vec())
}

fn open(path: &Path) -> io::Result<File> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW.bits() | nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let us = nix::unistd::geteuid().as_raw();
    if meta.uid() != us && meta.uid() != 0 {
        return Err(io::Error::other(format!("it belongs to user {}, not to {us} or root", meta.uid())));
    }
    Ok(file)
}

fn contents(file: File, length: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    if length > LIMIT {
        return Err(io::Error::other(format!("it has {length} bytes, more than {LIMIT}")));
    }
    // Room for all of it at once: a growing buffer would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}
