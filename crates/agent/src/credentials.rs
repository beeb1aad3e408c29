//! Where the credentials of checks come from, and how one becomes what a plugin is handed.

use std::fmt;

use wardline_packs::{ExtraOpts, Field, RunAs};
use wardline_proto::message::AccountId;
use wardline_proto::runas::FOLDER;
use zeroize::Zeroizing;

use crate::scrub::Scrubber;

/// The file that `--extra-opts` names.
const EXTRA_OPTS: &str = "extra-opts.ini";

/// One account, opened for a run. Whoever has it wipes it by dropping it.
pub struct Credential {
    /// The account's id.
    pub id: AccountId,
    /// Its name.
    pub account: String,
    /// Its version.
    pub version: u64,
    /// The local user that a plugin runs as with it; none: a user that nothing else has.
    pub user: Option<String>,
    /// Its fields: `user`, `password`, `community`, `data`.
    pub fields: Vec<(String, Zeroizing<Vec<u8>>)>,
}

/// Why there is no credential although there should be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// No account stands for the profile here.
    #[error("no account is assigned to it for this host")]
    Unassigned,
    /// The one that does is not distributed to this host.
    #[error("its account is not distributed to this host")]
    Undistributed,
    /// There is one, and it cannot be used.
    #[error("{0}")]
    Unusable(String),
}

/// The credentials of one management group on this host.
pub trait Credentials: fmt::Debug + Send + Sync {
    /// The account that is bound to a profile here; none: no account is.
    ///
    /// # Errors
    /// One is, and it cannot be used here: why not.
    fn of(&self, profile: &str) -> Result<Option<Credential>, Missing>;

    /// A workflow, named `pack/check`, has run a plugin with this version of an account.
    fn used(&self, account: AccountId, version: u64, workflow: &str);
}

/// A file in the folder of credentials.
pub struct File {
    /// Its name.
    pub name: String,
    /// What stands in it.
    pub content: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (account, version) = (&self.account, &self.version);
        f.debug_struct("Credential").field("account", account).field("version", version).finish_non_exhaustive()
    }
}

/// What a plugin is handed of a credential.
#[derive(Debug)]
pub struct Handed {
    /// The files in its folder.
    pub files: Vec<File>,
    /// What is added to its arguments.
    pub arguments: Vec<String>,
    /// Takes the secrets out of what it says.
    pub scrubber: Scrubber,
}

impl Credential {
    /// Fills in what a check asks for: each field becomes a file, and the options that it names a file of options.
    ///
    /// # Errors
    /// The account lacks a field, or a field cannot stand in a file of options.
    pub fn hand(self, run_as: Option<&RunAs>) -> Result<Handed, Missing> {
        let scrubber = Scrubber::new(&self.fields);
        let mut files = Vec::with_capacity(self.fields.len() + 1);
        let mut arguments = Vec::new();
        if let Some(extra) = run_as.and_then(|run_as| run_as.extra_opts.as_ref()) {
            files.push(File { name: EXTRA_OPTS.into(), content: self.options(extra)? });
            arguments.push(format!("--extra-opts={}@{FOLDER}/{EXTRA_OPTS}", extra.section));
        }
        files.extend(self.fields.into_iter().map(|(name, content)| File { name, content }));
        Ok(Handed { files, arguments, scrubber })
    }

    /// The file of options.
    fn options(&self, extra: &ExtraOpts) -> Result<Zeroizing<Vec<u8>>, Missing> {
        let head = format!("[{}]\n", extra.section);
        let mut parts: Vec<&[u8]> = vec![head.as_bytes()];
        for (name, value) in &extra.options {
            parts.extend([name.as_bytes(), b"="]);
            for piece in value.pieces() {
                parts.push(match piece {
                    Ok(text) => text.as_bytes(),
                    Err(field) => self.field(field)?,
                });
            }
            parts.push(b"\n");
        }
        // All at once: a buffer that grows would leave copies behind.
        let mut content = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
        parts.iter().for_each(|part| content.extend_from_slice(part));
        Ok(content)
    }

    /// A field as it can stand in a file of options: these have no quotes, end values with the line, and take the space
    /// at both ends away.
    fn field(&self, field: Field) -> Result<&[u8], Missing> {
        let found = self.fields.iter().find(|(name, _)| name == field.as_str());
        let (_, value) =
            found.ok_or_else(|| Missing::Unusable(format!("its account {} has no {field}", self.account)))?;
        let broken = value.iter().any(|byte| byte.is_ascii_control());
        if broken || value.trim_ascii().len() != value.len() || value.is_empty() {
            let why = "it has a control character, or a space at an end";
            return Err(Missing::Unusable(format!(
                "the {field} of its account {} cannot stand in a file of options: {why}",
                self.account
            )));
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use wardline_packs::{Pack, Probe};

    use super::*;

    fn run_as() -> RunAs {
        let pack = r#"
[pack]
name = "web"
[[check]]
name = "login"
program = ["/x"]
run_as = "web"
extra_opts = { section = "check_http", options = { authorization = "{user}:{password}", u = "/p" } }
"#;
        let check = Pack::parse("web", pack).unwrap().checks.remove(0);
        let Probe::Program { run_as: Some(run_as), .. } = check.probe else { panic!("it has none") };
        run_as
    }

    fn credential(fields: &[(&str, &str)]) -> Credential {
        let field = |&(name, value): &(&str, &str)| (name.to_owned(), Zeroizing::new(value.as_bytes().to_vec()));
        Credential {
            id: AccountId([7; 16]),
            account: "shop".into(),
            version: 3,
            user: None,
            fields: fields.iter().map(field).collect(),
        }
    }

    #[test]
    fn a_plugin_is_handed_files_and_the_name_of_one_with_its_options() {
        let handed = credential(&[("user", "ann"), ("password", "a b=c;#")]).hand(Some(&run_as())).unwrap();
        let files: Vec<_> = handed.files.iter().map(|file| (file.name.as_str(), file.content.as_slice())).collect();
        let options: &[u8] = b"[check_http]\nauthorization=ann:a b=c;#\nu=/p\n";
        assert_eq!(files, [("extra-opts.ini", options), ("user", b"ann"), ("password", b"a b=c;#")]);
        assert_eq!(handed.arguments, ["--extra-opts=check_http@{credentials}/extra-opts.ini"]);
        let shown = format!("{:?} {:?}", handed.files, credential(&[("password", "a b=c;#")]));
        assert!(!shown.contains("a b=c"), "{shown}");

        let handed = credential(&[("data", "\0\n")]).hand(None).unwrap();
        assert_eq!((handed.files.len(), handed.arguments.len()), (1, 0));
    }

    #[test]
    fn what_cannot_be_handed_over_is_named_without_the_secret() {
        let missing = |fields: &[(&str, &str)]| credential(fields).hand(Some(&run_as())).unwrap_err().to_string();
        assert_eq!(missing(&[("user", "ann")]), "its account shop has no password");
        for bad in ["se\ncret", "se\0cret", " secret", "secret ", ""] {
            let why = missing(&[("user", "ann"), ("password", bad)]);
            assert!(why.contains("the password of its account shop cannot stand") && !why.contains("cret"), "{why}");
        }
    }
}
