//! Which parents have used certificates. Where either mechanism is allowed, such a parent is held to them from then on: who
//! takes its certificate out of its way does not come to a weaker mechanism. An operator who wants Kerberos says so.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use wardline_proto::Name;
use wardline_proto::event::Event;
use wardline_secrets::private;

use crate::journal;

/// The file in a group's folder.
const FILE: &str = "certificate-parents";

/// Which parents have used certificates.
#[derive(Debug, Default)]
pub struct Held {
    file: Option<PathBuf>,
    parents: Mutex<BTreeSet<Name>>,
    /// Held while the file is written: the last change is written last.
    writing: Mutex<()>,
}

impl Held {
    /// What is kept in a group's folder.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let file = folder.join(FILE);
        let text = match std::fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let parents: Result<_, _> = text.lines().map(str::parse).collect();
        let parents = parents.map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
        Ok(Self { file: Some(file), parents: Mutex::new(parents), writing: Mutex::default() })
    }

    fn parents(&self) -> MutexGuard<'_, BTreeSet<Name>> {
        self.parents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this parent is held to certificates.
    pub(crate) fn is(&self, parent: &Name) -> bool {
        self.parents().contains(parent)
    }

    /// This parent has used a certificate.
    pub(crate) fn hold(&self, parent: &Name) {
        self.change(|parents| parents.insert(parent.clone()));
    }

    /// An operator says otherwise.
    pub(crate) fn release(&self, parent: &Name) {
        self.change(|parents| parents.remove(parent));
    }

    fn change(&self, how: impl FnOnce(&mut BTreeSet<Name>) -> bool) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut parents = self.parents();
        if !how(&mut parents) {
            return;
        }
        let text: String = parents.iter().map(|parent| format!("{parent}\n")).collect();
        // Who asks does not wait for the disk.
        drop(parents);
        let Some(file) = &self.file else { return };
        if let Err(error) = private::write(file, text.as_bytes()) {
            let (path, reason) = (file.display().to_string(), error.to_string());
            journal::emit(Event::StateFolderInUse { path, reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::testing::{Scratch, name};

    #[test]
    fn a_parent_that_has_used_a_certificate_is_held_to_it_until_an_operator_says_otherwise() {
        let (scratch, gw1) = (Scratch::new(), name("gw1.test"));
        let open = || Held::open(&scratch.0).unwrap();
        assert!(!open().is(&gw1));
        open().hold(&gw1);
        assert!(open().is(&gw1) && !open().is(&name("gw2.test")));
        open().release(&gw1);
        assert!(!open().is(&gw1));
        std::fs::write(scratch.0.join(FILE), "no name!\n").unwrap();
        assert!(Held::open(&scratch.0).is_err());
    }

    #[test]
    fn what_is_written_at_once_is_all_kept() {
        let scratch = Scratch::new();
        let held = Held::open(&scratch.0).unwrap();
        for round in 0..50 {
            let parents = [0, 1, 2, 3].map(|i| name(&format!("gw{round}-{i}.test")));
            thread::scope(|scope| {
                for parent in &parents {
                    scope.spawn(|| held.hold(parent));
                }
            });
            let kept = Held::open(&scratch.0).unwrap();
            assert!(parents.iter().all(|parent| kept.is(parent)));
        }
    }
}
