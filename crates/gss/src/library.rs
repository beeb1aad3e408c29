//! From where the library is loaded: a path that only root can change, all the way up.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::table::Table;

/// The name under which distributions lay it down, by what they call the machine.
const NAME: &str = "libgssapi_krb5.so.2";

/// Where it is looked for when no path is given.
pub fn default_paths() -> Vec<PathBuf> {
    let machine = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [machine.as_str(), "/usr/lib64", "/usr/lib"].map(|folder| Path::new(folder).join(NAME)).into()
}

/// Why the library is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It is nowhere.
    #[error("there is none at {}; install it (Debian: libgssapi-krb5-2), or say where it is", shown(.0))]
    Missing(Vec<PathBuf>),
    /// A path that does not begin at the root.
    #[error("{}: only an absolute path is taken", .0.display())]
    Relative(PathBuf),
    /// Others than root can change it.
    #[error("{}: {}", at.display(), reason)]
    Writable {
        /// The file or the folder.
        at: PathBuf,
        /// Who can.
        reason: String,
    },
    /// The file cannot be looked at or loaded.
    #[error("{}: {}", at.display(), reason)]
    Load {
        /// The file.
        at: PathBuf,
        /// Why.
        reason: String,
    },
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The library, loaded. It is never unloaded: contexts of it may outlive whoever loaded it.
#[derive(Clone)]
pub struct Library {
    pub(crate) table: Arc<Table>,
    path: PathBuf,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Library").field(&self.path).finish()
    }
}

impl Library {
    /// Loads it from this path, or from the first of [`default_paths`] where there is one. Call it before the first use of
    /// Kerberos and after [`crate::environment::replace`].
    ///
    /// # Errors
    /// Where it was looked for, or what is wrong with what is there.
    pub fn load(path: Option<&Path>) -> Result<Self, Unusable> {
        let candidates = path.map_or_else(default_paths, |path| vec![path.to_owned()]);
        let found = candidates.iter().find(|path| path.exists()).ok_or(Unusable::Missing(candidates.clone()))?;
        if !found.is_absolute() {
            return Err(Unusable::Relative(found.clone()));
        }
        let load = |reason: String| Unusable::Load { at: found.clone(), reason };
        let path = found.canonicalize().map_err(|error| load(error.to_string()))?;
        roots_alone(&path)?;
        let table = Table::load(&path).map_err(|error| load(error.to_string()))?;
        Ok(Self { table: Arc::new(table), path })
    }

    /// The file that was loaded.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether a file and every folder above it is root's, and nobody else may write there.
fn roots_alone(path: &Path) -> Result<(), Unusable> {
    for at in path.ancestors() {
        let writable = |reason: String| Unusable::Writable { at: at.to_owned(), reason };
        let meta = at.symlink_metadata().map_err(|error| writable(error.to_string()))?;
        if meta.uid() != 0 {
            return Err(writable(format!(
                "it belongs to user {}; code is loaded only from what is root's",
                meta.uid()
            )));
        }
        if meta.mode() & 0o022 != 0 {
            return Err(writable(format!(
                "its mode is {:04o}: others than root may write to it",
                meta.mode() & 0o7777
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_root_alone_can_change_is_loaded() {
        // The control: what every Unix has, whatever it is, is taken as far as it being no such library.
        let refused = |path: &str| Library::load(Some(Path::new(path))).unwrap_err();
        assert!(matches!(refused("/bin/sh"), Unusable::Load { .. }), "{}", refused("/bin/sh"));
        assert!(matches!(refused("/nowhere/libgssapi_krb5.so.2"), Unusable::Missing(_)));
        let folder = std::env::temp_dir().join(format!("wardline-gss-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let copy = folder.join("copy.so");
        std::fs::copy("/bin/sh", &copy).unwrap();
        let link = folder.join("link.so");
        std::os::unix::fs::symlink(&copy, &link).unwrap();
        let both = [&copy, &link].map(|path| refused(path.to_str().unwrap()));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(both.iter().all(|error| matches!(error, Unusable::Writable { .. })), "{both:?}");
    }
}
