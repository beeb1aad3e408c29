//! `wardline-server export-root`: the root's key leaves the server, to lie where no network leads.

use std::fs::{self, File};
use std::path::Path;

use wardline_connector::journal;
use wardline_proto::event::Event;
use wardline_secrets::authority::RootAuthority;
use wardline_secrets::private;
use wardline_secrets::protect::Vault;

use super::{ROOT_KEY, authority_event, missing, shown};

/// Writes the root's key into a file that is not there yet, as PKCS#8 in PEM that any machine can read, and removes the
/// protected one when that is on disk. The server may run.
///
/// # Errors
/// One event: the key is not there or not the root's, or the file cannot be written. The key is still where it was then.
pub fn export_root(vault: &Vault, folder: &Path, to: &Path) -> Result<(), Event> {
    let (certificate, key) = (folder.join("root.pem"), folder.join(ROOT_KEY));
    let pem = private::read_public(&certificate).map_err(|error| missing(&certificate, &error.to_string()))?;
    let bytes = vault.read(&key, ROOT_KEY).map_err(|error| missing(&key, &error.to_string()))?;
    let root = RootAuthority::open(&pem, &bytes).map_err(|error| authority_event(&certificate, &error))?;
    let refused = |reason: String| Event::RootNotExported { path: shown(to), reason };
    if fs::symlink_metadata(to).is_ok() {
        return Err(refused("there is a file of that name already".into()));
    }
    private::write(to, &bytes).map_err(|error| refused(error.to_string()))?;
    // Nothing is removed before what was written can be read.
    let again = private::read(to).map_err(|error| refused(error.to_string()))?;
    RootAuthority::open(&pem, &again).map_err(|error| refused(error.to_string()))?;
    let removed = fs::remove_file(&key).and_then(|()| File::open(folder)?.sync_all());
    removed.map_err(|error| refused(format!("it was written, but {} cannot be removed: {error}", shown(&key))))?;
    journal::emit(Event::RootExported { path: shown(to), pin: root.pin().to_string() });
    Ok(())
}
