//! The folders of secrets, in memory: one for each run, gone when the run is over. They stay root's: who runs in one can
//! make, rename or nest nothing there, so that it always can be removed.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, remove_dir_all, set_permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{FsType, fstatfs};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::path::{self, Shared};
use crate::policy::Target;

/// The file systems that are in memory: tmpfs and ramfs, by their magic numbers (statfs(2)).
const IN_MEMORY: [FsType; 2] = [FsType(0x0102_1994), FsType(0x8584_58f6)];

/// The folder of the folders.
#[derive(Debug)]
pub struct Runtime {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Runtime {
    /// Makes it, or takes what is there, and removes what an earlier process has left in it: how many.
    ///
    /// # Errors
    /// It is not in memory, others may write it, or another process has it.
    pub fn open(path: &Path) -> Result<(Self, usize), String> {
        let told = |error: io::Error| format!("{}: {error}", path.display());
        match path.parent() {
            Some(parent) => DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(told)?,
            None => return Err(format!("{}: it is no folder of secrets", path.display())),
        }
        match DirBuilder::new().mode(0o711).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(told(error)),
            _ => {}
        }
        path::root_only(path, Shared::Sticky).map_err(|error| error.to_string())?;
        let folder = File::open(path).map_err(told)?;
        let kind = fstatfs(&folder).map_err(|error| told(error.into()))?.filesystem_type();
        if !IN_MEMORY.contains(&kind) {
            return Err(format!("{} is on a disk: secrets need a tmpfs or ramfs", path.display()));
        }
        let lock = Flock::lock(folder, FlockArg::LockExclusiveNonblock)
            .map_err(|_| format!("{}: another wardline-runas works in it", path.display()))?;
        let left = path.read_dir().and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(told)?;
        // Whoever names a folder that is in use must not lose it.
        if let Some(other) = left.iter().find(|entry| !is_ours(&entry.file_name())) {
            let other = other.file_name().display().to_string();
            return Err(format!("{} has something else in it, {other}: it needs a folder of its own", path.display()));
        }
        // Others pass through it to their own folder, and do not see which there are.
        set_permissions(path, Permissions::from_mode(0o711)).map_err(told)?;
        left.iter().try_for_each(|entry| remove_dir_all(entry.path())).map_err(told)?;
        Ok((Self { path: path.to_owned(), _lock: lock }, left.len()))
    }

    /// Makes a folder with these files, which this user, and nobody else but root, can read. Its group sees their names.
    ///
    /// # Errors
    /// It cannot be made; nothing of it is left.
    pub fn folder(&self, target: Target, files: &[(String, Zeroizing<Vec<u8>>)]) -> io::Result<Folder> {
        let path = self.path.join(Uuid::now_v7().simple().to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        let mut folder = Folder { path, files: Vec::with_capacity(files.len()) };
        let (user, group) = (Some(target.uid.as_raw()), Some(target.gid.as_raw()));
        for (name, content) in files {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(folder.path.join(name))?;
            file.write_all(content)?;
            file.set_permissions(Permissions::from_mode(0o400))?;
            fchown(&file, user, group)?;
            folder.files.push((file, content.len()));
        }
        chown(&folder.path, None, group)?;
        set_permissions(&folder.path, Permissions::from_mode(0o750))?;
        Ok(folder)
    }
}

/// The folder of one run. It vanishes with this.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Each with its length, open: so they can be wiped, whatever became of their names.
    files: Vec<(File, usize)>,
}

impl Folder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for (file, length) in &self.files {
            // Where it fails the file is gone all the same, only its memory is not wiped before somebody else gets it.
            let _ = file.write_all_at(&vec![0; *length], 0);
        }
        // A start after this one removes what is left.
        let _ = remove_dir_all(&self.path);
    }
}

/// Whether a folder has the name of one that was made for a run.
fn is_ours(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
