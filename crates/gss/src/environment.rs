//! What Kerberos and TLS libraries would read from the environment. A daemon's configuration says it instead, so that
//! nobody who starts it in an odd shell changes whom it trusts.

#![allow(
    unsafe_code,
    reason = "to change the environment is unsafe beside other threads; that there are none is checked"
)]

use std::ffi::OsString;
use std::io;
use std::path::Path;

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

fn is_read(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

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
