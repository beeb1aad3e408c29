//! Heads of the trust log in files of their own, `SIZE ROOT VERSION`: the newest that this server has seen, by which a
//! database that was put back to an earlier state is noticed, and beside it the highest that an agent has shown of a log
//! that this one does not continue.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use wardline_proto::message::Digest;
use wardline_secrets::head::Reach;
use wardline_secrets::merkle::Head;
use wardline_secrets::protect::Vault;

/// The file with the newest head, in the group's folder.
pub(super) const FILE: &str = "head";

/// Reads the head; nothing when there is no file.
pub(super) fn read(vault: &Vault, path: &Path) -> io::Result<Option<Reach>> {
    let bytes = match vault.read(path, &description(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let head = std::str::from_utf8(&bytes).ok().and_then(parse);
    head.map(Some).ok_or_else(|| io::Error::other("it is no head of a log: a number, 64 hex digits and a number"))
}

/// Writes the head in place of the one before: after a power cut either is there.
pub(super) fn write(vault: &Vault, path: &Path, reach: &Reach) -> io::Result<()> {
    let Reach { head, version } = reach;
    let mut text = String::with_capacity(112);
    let _ = writeln!(text, "{} {} {version}", head.size, head.root);
    vault.write(path, &description(path), text.as_bytes())
}

/// What a file is protected as: its name.
fn description(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn parse(text: &str) -> Option<Reach> {
    let (size, rest) = text.strip_suffix('\n')?.split_once(' ')?;
    // Before there were versions of their own they were the size.
    let (root, version) = rest.split_once(' ').unwrap_or((rest, size));
    let mut hash = [0; 32];
    if root.len() != 64 || !root.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(root.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    let head = Head { size: size.parse().ok()?, root: Digest(hash) };
    Some(Reach { head, version: version.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wardline_secrets::private;

    use crate::store::tests::Folder;

    #[test]
    fn a_head_comes_back_as_it_was_written_and_nothing_else_is_taken_for_one() {
        let folder = Folder::new();
        let path = folder.path().join("head");
        let vault = Vault::open(folder.path(), 1).unwrap();
        let (read, write) = (|path: &Path| read(&vault, path), |path: &Path, reach: &Reach| write(&vault, path, reach));
        assert_eq!(read(&path).unwrap(), None);
        let reach = Reach { head: Head { size: 7, root: Digest([0xab; 32]) }, version: 12 };
        write(&path, &reach).unwrap();
        assert_eq!(read(&path).unwrap(), Some(reach));
        private::write(&path, format!("7 {}\n", "ab".repeat(32)).as_bytes()).unwrap();
        assert_eq!(read(&path).unwrap(), Some(Reach { version: 7, ..reach }));
        for bad in [
            "",
            "7\n",
            "7 ab\n",
            &format!("x {}\n", "ab".repeat(32)),
            &format!("7 {}", "ab".repeat(32)),
            &format!("7 {} \n", "ab".repeat(32)),
        ] {
            private::write(&path, bad.as_bytes()).unwrap();
            assert!(read(&path).is_err(), "{bad:?}");
        }
    }
}
