//! That nobody but root can have changed what a path leads to: every folder, every link and the file at its end are
//! root's, and nobody else may write them. Then nothing can be exchanged between the look and the use.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{Metadata, read_link, symlink_metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

/// The most links on the way to a file, as in the kernel.
const MOST_LINKS: usize = 40;
/// Owner of what is not to be changed by others.
const ROOT: u32 = 0;

/// Why a path is not root's alone.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// It cannot be looked at.
    #[error("{}: {why}", .path.display())]
    Look {
        /// What.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// Somebody else owns it.
    #[error("{} belongs to user {owner}, not to root", .path.display())]
    Owner {
        /// What.
        path: PathBuf,
        /// Who.
        owner: u32,
    },
    /// Others may write.
    #[error("{} can be written by others than root (mode {mode:04o})", .path.display())]
    Writable {
        /// What.
        path: PathBuf,
        /// Who may do what with it.
        mode: u32,
    },
    /// Not a program.
    #[error("{} is no regular file", .0.display())]
    NoFile(PathBuf),
    /// Links without end, or no absolute path.
    #[error("{} leads nowhere", .0.display())]
    Nowhere(PathBuf),
}

/// Whether folders on the way may be those that everybody makes files in, and only owners can rename and remove them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// As /tmp.
    Sticky,
    /// Not: what is asked for was not put there by root.
    No,
}

/// Where a program really is.
///
/// # Errors
/// Somebody else than root can have changed it, or it is none.
pub fn program(path: &Path) -> Result<PathBuf, Untrusted> {
    let (real, meta) = root_only(path, Shared::No)?;
    if meta.is_file() { Ok(real) } else { Err(Untrusted::NoFile(real)) }
}

/// Walks a path from the root, over links, and gives where it leads.
///
/// # Errors
/// Somebody else than root can have changed something on the way.
pub fn root_only(path: &Path, shared: Shared) -> Result<(PathBuf, Metadata), Untrusted> {
    let nowhere = || Untrusted::Nowhere(path.to_owned());
    let mut ahead = parts(path);
    if !path.is_absolute() || ahead.is_empty() {
        return Err(nowhere());
    }
    let mut here = PathBuf::from("/");
    let mut meta = look(&here, shared)?;
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            here.pop();
            meta = look(&here, shared)?;
            continue;
        }
        here.push(part);
        meta = look(&here, shared)?;
        if meta.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return Err(nowhere());
            }
            let target = read_link(&here).map_err(|why| Untrusted::Look { path: here.clone(), why })?;
            here =
                if target.is_absolute() { "/".into() } else { here.parent().map(Path::to_owned).unwrap_or_default() };
            for part in parts(&target).into_iter().rev() {
                ahead.push_front(part);
            }
        }
    }
    if meta.is_symlink() { Err(nowhere()) } else { Ok((here, meta)) }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

fn look(path: &Path, shared: Shared) -> Result<Metadata, Untrusted> {
    let meta = symlink_metadata(path).map_err(|why| Untrusted::Look { path: path.to_owned(), why })?;
    judge(path, &meta, shared)?;
    Ok(meta)
}

fn judge(path: &Path, meta: &Metadata, shared: Shared) -> Result<(), Untrusted> {
    if meta.uid() != ROOT {
        return Err(Untrusted::Owner { path: path.to_owned(), owner: meta.uid() });
    }
    // A link's mode says nothing, and a socket's only who may connect.
    let sticky = shared == Shared::Sticky && meta.is_dir() && meta.mode() & 0o1000 != 0;
    let writable = meta.mode() & 0o022 != 0 && !meta.is_symlink() && !meta.file_type().is_socket();
    if writable && !sticky {
        return Err(Untrusted::Writable { path: path.to_owned(), mode: meta.mode() & 0o7777 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn untrusted(path: &str, shared: Shared) -> String {
        root_only(Path::new(path), shared).unwrap_err().to_string()
    }

    #[test]
    fn a_path_that_only_root_can_change_is_walked_over_its_links() {
        let (real, meta) = root_only(Path::new("/bin/sh"), Shared::No).unwrap();
        assert_eq!(real, std::fs::canonicalize("/bin/sh").unwrap());
        assert!(meta.is_file());
        assert_eq!(program(Path::new("/usr/bin/../bin/id")).unwrap(), Path::new("/usr/bin/id"));
        assert_eq!(root_only(Path::new("/tmp"), Shared::Sticky).unwrap().0, Path::new("/tmp"));
    }

    #[test]
    fn what_somebody_else_can_change_is_named() {
        assert!(untrusted("/tmp", Shared::No).starts_with("/tmp can be written by others than root (mode 1777)"));
        assert!(untrusted("bin/sh", Shared::No).contains("leads nowhere"));
        assert!(untrusted("/usr/bin/no-such-program", Shared::No).contains("No such file"));
        assert!(matches!(program(Path::new("/usr/bin")), Err(Untrusted::NoFile(_))));
        let folder = std::env::temp_dir().join(format!("wardline-path-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let at = |name: &str| folder.join(name);
        std::os::unix::fs::symlink("/usr/bin/id", at("link")).unwrap();
        std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
        // The folder is under one that everybody can write.
        let shown = at("link").display().to_string();
        assert!(untrusted(&shown, Shared::No).contains("written by others"), "{}", untrusted(&shown, Shared::No));
        if nix::unistd::getuid().is_root() {
            assert_eq!(root_only(&at("link"), Shared::Sticky).unwrap().0, Path::new("/usr/bin/id"));
            assert!(untrusted(&at("loop").display().to_string(), Shared::Sticky).contains("leads nowhere"));
            nix::unistd::chown(&folder, Some(12345.into()), None).unwrap();
            let error = untrusted(&shown, Shared::Sticky);
            assert!(error.contains("belongs to user 12345, not to root"), "{error}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
