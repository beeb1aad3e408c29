//! Private files of the programs under test, opened as they open them.

use std::path::Path;

use wardline_connector::home;
use wardline_secrets::protect::Vault;

/// What a private file in a group's folder holds, whether it is protected or not.
///
/// # Panics
/// It cannot be read, or does not open on this machine.
pub fn read(path: &Path) -> Vec<u8> {
    let name = path.file_name().and_then(|name| name.to_str()).expect("a file has a name");
    let description = home::protected_as(name).unwrap_or_else(|| name.to_owned());
    let read = vault(path).read(path, &description);
    read.unwrap_or_else(|error| panic!("{}: {error}", path.display())).to_vec()
}

/// The data protection of a file in a group's folder, to look only.
///
/// # Panics
/// It cannot be opened.
pub fn vault(path: &Path) -> Vault {
    let state = path.parent().and_then(Path::parent).expect("a group's folder is in a state folder");
    Vault::look(state).unwrap_or_else(|error| panic!("{error}"))
}
