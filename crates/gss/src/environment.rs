//! What Kerberos and TLS libraries would read from the environment. A daemon's configuration says it instead, so that
//! nobody who starts it in an odd shell changes whom it trusts.

#![allow(
    unsafe_code,
    reason = "to change the environment is unsafe beside other threads; that there are none is checked"
)]

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What begins like this is taken out.
const PREFIXES: [&str; 4] = ["KRB5", "GSS", "SSL", "OPENSSL"];

/// Takes what Kerberos and TLS libraries would read out of this process's environment, and names the Kerberos
/// configuration. For the top of a program: there must be no second thread. Gives the names of what was taken out.
///
/// # Errors
/// There are other threads.
pub fn replace(krb5_conf: &Path) -> io::Result<Vec<String>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("the environment is changed only before the second thread begins"));
    }
    let names: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).filter(is_read).collect();
    for name in &names {
        // SAFETY: this is the only thread, as was just seen; nobody reads the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }
    // SAFETY: as above.
    unsafe { std::env::set_var("KRB5_CONFIG", krb5_conf) };
    Ok(names.iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

/// The Kerberos configuration, without links, which nobody but root and this process's user can change: it can name code
/// to be loaded. Where there is none they alone can make one.
///
/// # Errors
/// Somebody else can change or make it, or it cannot be looked at.
pub fn trusted(krb5_conf: &Path) -> io::Result<PathBuf> {
    let (path, found) = match krb5_conf.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => (krb5_conf.to_owned(), there(krb5_conf)?),
        path => (path?, None),
    };
    let at = found.as_deref().unwrap_or(&path);
    let own = std::fs::metadata("/proc/self")?.uid();
    for at in at.ancestors() {
        let meta = at.symlink_metadata()?;
        // In a folder with the sticky bit nobody takes away what is another's; but everybody makes what is not there.
        let kept = meta.is_dir() && meta.mode() & 0o1000 != 0 && found.as_deref() != Some(at);
        if ![0, own].contains(&meta.uid()) || (meta.mode() & 0o022 != 0 && !kept) {
            return Err(io::Error::other(format!(
                "others than root and this program's user can change {}, and with it what code is loaded",
                at.display()
            )));
        }
    }
    Ok(path)
}

/// The nearest folder above a file that is not there.
fn there(file: &Path) -> io::Result<Option<PathBuf>> {
    for at in file.ancestors() {
        match at.canonicalize() {
            Ok(folder) => return Ok(Some(folder)),
            Err(_) if at.symlink_metadata().is_err() => {}
            Err(error) => return Err(io::Error::other(format!("the link {}: {error}", at.display()))),
        }
    }
    Ok(None)
}

fn is_read(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_others_can_change_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("wardline-krb5-{}", std::process::id()));
        assert!(trusted(Path::new("/etc/there-is-none/krb5.conf")).is_ok());
        assert!(trusted(&path).is_err(), "everybody can make one there");
        std::fs::write(&path, "").unwrap();
        let said = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            trusted(&path)
        };
        assert_eq!(said(0o644).unwrap(), path.canonicalize().unwrap());
        let refused = [0o666, 0o664].map(said);
        std::fs::remove_file(&path).unwrap();
        assert!(refused.iter().all(Result::is_err), "{refused:?}");
    }

    #[test]
    fn the_environment_is_left_alone_beside_other_threads() {
        // The harness of this test is a thread of its own.
        let before: Vec<_> = std::env::vars_os().collect();
        assert!(replace(Path::new("/etc/krb5.conf")).is_err());
        assert_eq!(before, std::env::vars_os().collect::<Vec<_>>());
        assert!(is_read(&"KRB5_KTNAME".into()) && is_read(&"GSS_USE_PROXY".into()) && is_read(&"SSL_CERT_FILE".into()));
        assert!(!is_read(&"HOME".into()));
    }
}
