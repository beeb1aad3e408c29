//! The programs under test: those that cargo built beside the test, and none that is older than its sources; and what
//! they say when they have ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// The path of a program that cargo built.
///
/// # Panics
/// It was not built, or one of the sources that went into it has changed since.
pub fn find(name: &str) -> PathBuf {
    // Once found it is good for this test: looking at hundreds of sources costs more than to run it.
    static FOUND: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let found = || FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = found().get(name) {
        return path.clone();
    }
    let path = own(name);
    if let Err(why) = fresh(&path, &path.with_extension("d")) {
        panic!("{}: {why}; run `cargo build --workspace --bins` first", path.display());
    }
    found().insert(name.to_owned(), path.clone());
    path
}

/// All that a program has said: what it printed, then its errors.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What a program that has succeeded has printed.
///
/// # Panics
/// It has failed.
#[track_caller]
pub fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, said(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// That a program has failed, with these words.
///
/// # Panics
/// It has succeeded, or failed with other words.
#[track_caller]
pub fn fails(output: &Output, words: &str) {
    let said = said(output);
    assert!(!output.status.success() && said.contains(words), "{}, {words:?} expected: {said}", output.status);
}

/// The path of one of the harness's own programs, which cargo builds together with its tests.
pub(crate) fn own(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own path");
    let folder = exe.parent().expect("a program is in a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("`deps` is in a folder") } else { folder };
    folder.join(name)
}

/// Whether a program is newer than everything that cargo's dependency file says went into it.
fn fresh(program: &Path, dependencies: &Path) -> Result<(), String> {
    let built = modified(program).ok_or("it was not built")?;
    let list = std::fs::read_to_string(dependencies).map_err(|error| format!("{}: {error}", dependencies.display()))?;
    for source in sources(&list) {
        match modified(&source) {
            None => return Err(format!("its source {} is gone", source.display())),
            Some(changed) if changed > built => return Err(format!("it is older than {}", source.display())),
            Some(_) => {}
        }
    }
    Ok(())
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|meta| meta.modified()).ok()
}

/// The prerequisites of the one rule in a dependency file. Spaces in paths are escaped by a backslash.
fn sources(list: &str) -> Vec<PathBuf> {
    let Some((_, prerequisites)) = list.lines().next().and_then(|rule| rule.split_once(": ")) else {
        return Vec::new();
    };
    let unescaped = prerequisites.replace("\\ ", "\0");
    unescaped.split(' ').filter(|path| !path.is_empty()).map(|path| path.replace('\0', " ").into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;
    use std::fs::{File, write};
    use std::time::Duration;

    #[test]
    fn a_program_older_than_a_source_is_refused() {
        let scratch = Scratch::new();
        let at = |name: &str| scratch.path().join(name);
        let (program, list, old, new) = (at("program"), at("program.d"), at("old one.rs"), at("new.rs"));
        assert_eq!(fresh(&program, &list), Err("it was not built".into()));
        for path in [&program, &old, &new] {
            write(path, "").unwrap();
        }
        let escaped = old.to_str().unwrap().replace(' ', "\\ ");
        write(&list, format!("{}: {escaped} {}\n", program.display(), new.display())).unwrap();
        let now = SystemTime::now();
        let touch = |path: &Path, age| File::open(path).unwrap().set_modified(now - Duration::from_secs(age)).unwrap();
        touch(&program, 10);
        touch(&old, 20);
        touch(&new, 15);
        assert_eq!(fresh(&program, &list), Ok(()));
        touch(&new, 5);
        assert_eq!(fresh(&program, &list), Err(format!("it is older than {}", new.display())));
        std::fs::remove_file(&old).unwrap();
        assert_eq!(fresh(&program, &list), Err(format!("its source {} is gone", old.display())));
    }
}
