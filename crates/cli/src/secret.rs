//! Where a secret is read from: a file, standard input, or a terminal that shows nothing of it. Each lies in one buffer,
//! which is wiped.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use wardline_connector::quiet::Quiet;
use wardline_sdk::{Kind as Why, Problem};
use wardline_secrets::account::{Kind, LIMIT, Secret, SecretError};
use zeroize::Zeroizing;

/// The most bytes of a line that somebody types: more does not fit into a terminal's line.
const LINE: usize = 4096;

/// The secret of an account: from a file, `-` is standard input, or asked for on the terminal. `login` is the name that
/// an account of kind basic logs on with.
///
/// # Errors
/// It cannot be read, or is none of this kind.
pub(crate) fn read(kind: Kind, login: Option<&str>, from: Option<&Path>) -> Result<Secret, Problem> {
    let next = "see `wardline account create --help`";
    let login = match (kind, login) {
        (Kind::Basic, Some(login)) => login.as_bytes(),
        (Kind::Basic, None) => {
            let detail = "an account of kind basic needs the name that it logs on with: `--user LOGIN`";
            return Err(Problem::new(Why::Invalid, detail, next));
        }
        (_, Some(_)) => {
            let detail = format!("an account of kind {kind} has no name to log on with: leave `--user` out");
            return Err(Problem::new(Why::Invalid, detail, next));
        }
        (_, None) => &[],
    };
    let given = match from {
        Some(path) => from_file(path)?,
        None if kind == Kind::Binary => {
            let detail = "an account of kind binary is read from a file: `--secret-file FILE`";
            return Err(Problem::new(Why::Invalid, detail, next));
        }
        None => asked(if kind == Kind::Basic { "password" } else { "community" })?,
    };
    let secret = match kind {
        Kind::Basic => Secret::basic(login, line(&given)),
        Kind::Community => Secret::community(line(&given)),
        Kind::Binary => Secret::binary(&given),
    };
    secret.map_err(|error| refused(&error))
}

fn refused(error: &SecretError) -> Problem {
    let next = "give another one; it was sent nowhere";
    Problem::new(Why::Invalid, format!("the secret is refused: {error}"), next).explained_by(7011)
}

/// Without the line break that an editor or `echo` puts at its end.
fn line(given: &[u8]) -> &[u8] {
    let given = given.strip_suffix(b"\n").unwrap_or(given);
    given.strip_suffix(b"\r").unwrap_or(given)
}

fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let unreadable = |error: io::Error| {
        let detail = format!("the secret cannot be read from {}: {error}", path.display());
        Problem::new(Why::Invalid, detail, "see that it is there and readable")
    };
    let file = if path == Path::new("-") { input() } else { File::open(path) };
    // Room for more than there may be: a growing buffer would leave copies behind.
    let most = LIMIT + 2;
    let mut given = Zeroizing::new(Vec::with_capacity(2 * most));
    file.and_then(|file| file.take(most as u64 + 1).read_to_end(&mut given)).map_err(unreadable)?;
    Ok(given)
}

/// Standard input without the buffer that the library keeps of it.
fn input() -> io::Result<File> {
    io::stdin().as_fd().try_clone_to_owned().map(File::from)
}

/// Asks twice on the terminal.
fn asked(what: &str) -> Result<Zeroizing<Vec<u8>>, Problem> {
    if !io::stdin().is_terminal() {
        let next = "have it read from standard input: `--secret-file -`; or from a file: `--secret-file FILE`";
        return Err(Problem::new(Why::Invalid, format!("there is no terminal to ask for the {what} on"), next));
    }
    let unreadable = |error: io::Error| {
        Problem::new(Why::Failed, format!("the {what} cannot be read: {error}"), "give it as `--secret-file FILE`")
    };
    let (mut terminal, own) = (input().map_err(unreadable)?, input().map_err(unreadable)?);
    // Before anything is asked: what is typed from then on is not shown.
    let quiet = Quiet::new(&own);
    let mut ask = |prompt: &str| {
        let _ = write!(io::stderr(), "{prompt}: ");
        let read = typed(&mut terminal);
        let _ = writeln!(io::stderr());
        read.map_err(unreadable)
    };
    let first = ask(what)?;
    let again = ask(&format!("the same {what} again"))?;
    drop(quiet);
    if *first != *again {
        return Err(Problem::new(Why::Invalid, format!("the two {what}s are not the same"), "run it again"));
    }
    Ok(first)
}

/// One line.
fn typed(terminal: &mut impl io::Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut typed = Zeroizing::new(Vec::with_capacity(LINE));
    let mut part = Zeroizing::new([0; LINE]);
    loop {
        let count = terminal.read(part.as_mut())?;
        let part = part.get(..count).unwrap_or_default();
        if count == 0 && typed.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if typed.len() + count > LINE {
            return Err(io::Error::other(format!("a line that is typed has at most {LINE} bytes")));
        }
        typed.extend_from_slice(part);
        if count == 0 || part.ends_with(b"\n") {
            return Ok(typed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> std::path::PathBuf {
        let name = format!("wardline-secret-{:032x}", u128::from_be_bytes(wardline_secrets::signature::random()));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn given(kind: Kind, login: Option<&str>, content: &[u8]) -> Result<Secret, Problem> {
        let path = file(content);
        let secret = read(kind, login, Some(&path));
        std::fs::remove_file(path).unwrap();
        secret
    }

    #[test]
    fn one_line_break_at_the_end_is_none_of_a_password_and_every_byte_is_one_of_binary_data() {
        for (content, expected) in
            [(&b"secret\n"[..], &b"secret"[..]), (b"secret\r\n", b"secret"), (b"secret", b"secret"), (b" s \n", b" s ")]
        {
            let secret = given(Kind::Basic, Some("ada"), content).unwrap();
            assert_eq!(secret.field("password"), Some(expected));
            assert_eq!(secret.field("user"), Some(&b"ada"[..]));
            assert_eq!(given(Kind::Community, None, content).unwrap().field("community"), Some(expected));
            assert_eq!(given(Kind::Binary, None, content).unwrap().field("data"), Some(content));
        }
        assert!(given(Kind::Basic, Some("ada"), b"two\nlines\n").is_err());
        let most = vec![b'x'; LIMIT];
        assert!(given(Kind::Binary, None, &most).is_ok());
        assert!(given(Kind::Binary, None, &[&most[..], b"x"].concat()).is_err());
    }

    #[test]
    fn a_blank_secret_and_a_login_where_there_is_none_are_refused_with_what_to_do() {
        assert_eq!(given(Kind::Basic, Some("ada"), b"\n").unwrap_err().event, Some(7011));
        assert_eq!(given(Kind::Binary, None, b"").unwrap_err().event, Some(7011));
        assert!(given(Kind::Basic, None, b"x").unwrap_err().detail.contains("--user"));
        assert!(given(Kind::Community, Some("ada"), b"x").unwrap_err().detail.contains("--user"));
        assert!(read(Kind::Binary, None, None).unwrap_err().detail.contains("--secret-file"));
        let missing = read(Kind::Binary, None, Some(Path::new("/nonexistent/secret"))).unwrap_err();
        assert!(missing.detail.contains("/nonexistent/secret"), "{missing}");
    }

    #[test]
    fn a_line_is_read_up_to_its_end_and_no_line_is_an_error() {
        let all = |mut from: &[u8]| typed(&mut from).map(|line| line.to_vec());
        assert_eq!(all(b"secret\n").unwrap(), b"secret\n");
        assert_eq!(all(b"secret").unwrap(), b"secret");
        assert_eq!(all(b"").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(all(&[b'x'; LINE + 1]).is_err());
    }
}
