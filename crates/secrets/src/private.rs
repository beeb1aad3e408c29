//! Files that only their owner may read.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

/// The most bytes of a key or certificate file.
const LIMIT: u64 = 256 * 1024;

/// Reads a private file: a regular file of our own user (or root's) that nobody else can read or write.
///
/// # Errors
/// It cannot be read, or others could.
pub fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    read_up_to(path, LIMIT)
}

/// Reads a private file that may have so many bytes.
///
/// # Errors
/// As for [`read`].
pub fn read_up_to(path: &Path, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open(path)?;
    let meta = file.metadata()?;
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(io::Error::other(format!("its mode is {mode:04o}, others may use it; `chmod 600` it")));
    }
    contents(file, meta.len(), limit)
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
    contents(file, meta.len(), LIMIT).map(|bytes| bytes.to_vec())
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

fn contents(file: File, length: u64, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    if length > limit {
        return Err(io::Error::other(format!("it has {length} bytes, more than {limit}")));
    }
    // Room for all of it at once: a growing buffer would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a private file, in place of what is there: mode 0600 from its first byte, and after a power cut either all of
/// the old or all of the new.
///
/// # Errors
/// It cannot be written. What was there is still there then.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no file name"))?;
    let folder = folder_of(path);
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:032x}", u128::from_be_bytes(crate::signature::random())));
    let temporary = folder.join(temporary);
    let attempt = || {
        // The umask can only take away from this mode; what it took is given back before anything is written.
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    attempt().inspect_err(|error| {
        if error.kind() != io::ErrorKind::AlreadyExists {
            let _ = fs::remove_file(&temporary);
        }
    })
}

/// Removes what interrupted [`write`]s have left in a folder: it may be half of a key. Nobody else may be writing there.
///
/// # Errors
/// The folder cannot be read, or such a file not be removed.
pub fn sweep(folder: &Path) -> io::Result<()> {
    for file in fs::read_dir(folder)? {
        let file = file?;
        if file.file_name().to_str().is_some_and(is_half_written) {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

/// Whether a name is one that [`write`] gives what it has not finished.
fn is_half_written(name: &str) -> bool {
    let parts = name.strip_prefix('.').and_then(|name| name.rsplit_once('.'));
    parts.is_some_and(|(name, random)| {
        !name.is_empty() && random.len() == 32 && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Makes a folder that only its owner may use, mode 0700. One that is there already and is like that is fine.
///
/// # Errors
/// It cannot be made, or something else is there: no folder, another user's, or one that others may use.
pub fn create_folder(path: &Path) -> io::Result<()> {
    let made = match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    let flags = nix::fcntl::OFlag::O_NOFOLLOW.bits() | nix::fcntl::OFlag::O_DIRECTORY.bits();
    let folder = File::options().read(true).custom_flags(flags).open(path)?;
    if made {
        folder.set_permissions(Permissions::from_mode(0o700))?;
        return File::open(folder_of(path))?.sync_all();
    }
    let (meta, us) = (folder.metadata()?, nix::unistd::geteuid().as_raw());
    if meta.uid() != us {
        return Err(io::Error::other(format!("it belongs to user {}, not to {us}", meta.uid())));
    }
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(io::Error::other(format!("its mode is {mode:04o}, others may use it; `chmod 700` it")));
    }
    Ok(())
}

/// The folder that a path is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A folder of one test, gone with the value.
#[cfg(test)]
pub(crate) struct Scratch(pub(crate) std::path::PathBuf);

#[cfg(test)]
impl Scratch {
    pub(crate) fn new() -> Self {
        let name = format!("wardline-secrets-{:032x}", u128::from_be_bytes(crate::signature::random()));
        let path = std::env::temp_dir().join(name);
        create_folder(&path).unwrap();
        Self(path)
    }
}

#[cfg(test)]
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_written_file_is_the_owners_alone_and_replaces_what_was_there() {
        let scratch = Scratch::new();
        let (path, elsewhere) = (scratch.0.join("a.key"), scratch.0.join("elsewhere"));
        write(&path, b"first").unwrap();
        assert_eq!((mode(&path), read(&path).unwrap().as_slice()), (0o600, b"first".as_slice()));
        // Neither a wide mode nor a link that lies there is taken over.
        fs::write(&elsewhere, b"untouched").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        write(&path, b"second").unwrap();
        assert_eq!((mode(&path), read(&path).unwrap().as_slice()), (0o600, b"second".as_slice()));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        write(&path, b"third").unwrap();
        assert_eq!((mode(&path), fs::read(&elsewhere).unwrap().as_slice()), (0o600, b"untouched".as_slice()));
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2, "no temporary file is left");
        // One that a power cut has left is swept, and nothing else.
        let half = scratch.0.join(format!(".a.key.{}", "0f".repeat(16)));
        write(&half, b"half").unwrap();
        write(&scratch.0.join(".join-0f0f0f0f"), b"").unwrap();
        sweep(&scratch.0).unwrap();
        assert_eq!((half.exists(), fs::read_dir(&scratch.0).unwrap().count()), (false, 3));
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let scratch = Scratch::new();
        let path = scratch.0.join("folder");
        create_folder(&path).unwrap();
        assert!(write(&path, b"over a folder").is_err());
        assert!(write(&scratch.0.join("missing/a.key"), b"").is_err());
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_others_may_use_is_refused() {
        let scratch = Scratch::new();
        let path = scratch.0.join("keys");
        create_folder(&path).unwrap();
        create_folder(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        assert!(create_folder(&path).unwrap_err().to_string().contains("0750"));
        let link = scratch.0.join("link");
        std::os::unix::fs::symlink(&scratch.0, &link).unwrap();
        assert!(create_folder(&link).is_err());
        write(&scratch.0.join("file"), b"").unwrap();
        assert!(create_folder(&scratch.0.join("file")).is_err());
    }
}
