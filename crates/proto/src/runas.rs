//! What the agent asks `wardline-runas` on this host, and what it is answered: one request and one answer for each
//! connection of a unix socket. Who asks is what the kernel says of the other end.
//!
//! ```text
//! request := length (u32, big endian) Request  the content of each credential, in the order of the request
//! answer  := length (u32, big endian) Answer   standard output, standard error
//! ```
//!
//! Secrets and output stand behind the protobuf, so that each can be read into memory of exactly its length.

use prost::Message as _;

/// The most bytes of the protobuf of a [`Request`].
pub const REQUEST_LIMIT: usize = 512 * 1024;
/// The most bytes of the protobuf of an [`Answer`].
pub const ANSWER_LIMIT: usize = 64 * 1024;
/// The most credentials of a request.
pub const CREDENTIALS: usize = 16;
/// The most bytes of all credentials of a request together.
pub const CREDENTIALS_LIMIT: usize = 512 * 1024;
/// The most bytes that a program may print, standard output and standard error together.
pub const OUTPUT_LIMIT: usize = 10 * 1024 * 1024;
/// The most bytes that are kept of standard error.
pub const STDERR_LIMIT: usize = 4 * 1024;
/// The longest that a program may run, milliseconds: an hour.
pub const TIME_LIMIT: u64 = 60 * 60 * 1000;
/// The longest that a request waits for a free user, milliseconds.
pub const WAIT_LIMIT: u64 = 30 * 1000;

/// In an argument it stands for the path of the folder with the credentials.
pub const FOLDER: &str = "{credentials}";

/// To run one program as another user.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// The name of a local user; empty: a number that nobody else has at that time.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The absolute path of the program. It is also the program's name for itself.
    #[prost(string, tag = "2")]
    pub program: String,
    /// Its arguments; no shell reads them. [`FOLDER`] in them stands for the folder with the credentials.
    #[prost(string, repeated, tag = "3")]
    pub arguments: Vec<String>,
    /// How long it may run, milliseconds.
    #[prost(uint64, tag = "4")]
    pub time: u64,
    /// How many bytes it may print.
    #[prost(uint64, tag = "5")]
    pub output: u64,
    /// The files that it finds in its folder of credentials; their contents follow the request.
    #[prost(message, repeated, tag = "6")]
    pub credentials: Vec<Credential>,
}

/// One file in the folder of credentials.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Credential {
    /// Its name, see [`is_file_name`].
    #[prost(string, tag = "1")]
    pub name: String,
    /// How many bytes it has.
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

/// What became of a request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Answer {
    /// How it ended.
    #[prost(enumeration = "Ended", tag = "1")]
    pub ended: i32,
    /// The exit code or the signal's number.
    #[prost(int32, tag = "2")]
    pub number: i32,
    /// What went wrong; empty where nothing did.
    #[prost(string, tag = "3")]
    pub text: String,
    /// How many bytes of standard output follow.
    #[prost(uint32, tag = "4")]
    pub stdout: u32,
    /// How many bytes of standard error follow.
    #[prost(uint32, tag = "5")]
    pub stderr: u32,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Ended {
    /// Says nothing.
    Unspecified = 0,
    /// The program ended by itself, with a code.
    Exit = 1,
    /// A signal ended it.
    Signal = 2,
    /// It was started and gave no result: it took too long, printed too much, or left something behind.
    Failed = 3,
    /// It was not started: it cannot be, or there is no free user.
    NotStarted = 4,
    /// The request is not allowed. Nothing was started.
    Refused = 5,
}

/// What is wrong with a request, whatever the policy says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Not the protobuf of a request.
    #[error("the request cannot be decoded")]
    Encoding,
    /// Its length is 0 or above [`REQUEST_LIMIT`].
    #[error("a request of {0} bytes; 1 to {REQUEST_LIMIT} are allowed")]
    Length(u32),
    /// No absolute path of a program.
    #[error("{0:?} is no absolute path without NUL and `..`")]
    Program(String),
    /// An argument that no program can have.
    #[error("the argument {0:?} has a NUL")]
    Argument(String),
    /// No time limit, or one that is too long.
    #[error("a time limit of {0} ms; 1 to {TIME_LIMIT} are allowed")]
    Time(u64),
    /// No output at all, or too much.
    #[error("{0} bytes of output; 1 to {OUTPUT_LIMIT} are allowed")]
    Output(u64),
    /// A name that is none, or twice the same.
    #[error("{0:?} is no name for a credential: 1 to 64 of a-z, A-Z, 0-9, `-`, `_`, `.`, no `.` in front, each once")]
    Name(String),
    /// Too many credentials, or too large ones.
    #[error("{0} credentials of {1} bytes; {CREDENTIALS} of {CREDENTIALS_LIMIT} are allowed")]
    Credentials(usize, usize),
}

impl Request {
    /// Reads the protobuf of a request, and checks it as [`Self::check`] does.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadRequest> {
        let request = Self::decode(bytes).map_err(|_| BadRequest::Encoding)?;
        request.check().map(|()| request)
    }

    /// Checks what can be checked without a policy.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), BadRequest> {
        let program = &self.program;
        if !program.starts_with('/') || program.contains('\0') || program.split('/').any(|part| part == "..") {
            return Err(BadRequest::Program(program.clone()));
        }
        if let Some(argument) = self.arguments.iter().find(|argument| argument.contains('\0')) {
            return Err(BadRequest::Argument(argument.clone()));
        }
        if !(1..=TIME_LIMIT).contains(&self.time) {
            return Err(BadRequest::Time(self.time));
        }
        if !(1..=OUTPUT_LIMIT as u64).contains(&self.output) {
            return Err(BadRequest::Output(self.output));
        }
        let lengths = self.credentials.iter().map(|credential| credential.length as usize);
        let total = lengths.fold(0, usize::saturating_add);
        if self.credentials.len() > CREDENTIALS || total > CREDENTIALS_LIMIT {
            return Err(BadRequest::Credentials(self.credentials.len(), total));
        }
        for (i, Credential { name, .. }) in self.credentials.iter().enumerate() {
            let before = self.credentials.iter().take(i);
            if !is_file_name(name) || before.map(|other| &other.name).any(|other| other == name) {
                return Err(BadRequest::Name(name.clone()));
            }
        }
        Ok(())
    }
}

/// Whether a credential may have this name: 1 to 64 of `a-z`, `A-Z`, `0-9`, `-`, `_`, `.`, no `.` in front.
pub fn is_file_name(name: &str) -> bool {
    let fits = matches!(name.len(), 1..=64) && !name.starts_with('.');
    fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Request {
        Request {
            user: String::new(),
            program: "/usr/bin/true".into(),
            arguments: vec!["-H".into(), "{credentials}".into()],
            time: 1000,
            output: 1024,
            credentials: vec![
                Credential { name: "password".into(), length: 7 },
                Credential { name: "extra-opts.ini".into(), length: 0 },
            ],
        }
    }

    #[test]
    fn a_request_that_nobody_should_send_is_refused_by_what_is_wrong_with_it() {
        assert_eq!(Request::parse(&good().encode_to_vec()), Ok(good()));
        assert_eq!(Request::parse(b"\xff"), Err(BadRequest::Encoding));
        let bad = |change: fn(&mut Request)| {
            let mut request = good();
            change(&mut request);
            request.check().unwrap_err().to_string()
        };
        for program in ["", "true", "./true", "/usr/../bin/true", "/usr/bin/..", "/a\0b"] {
            let request = Request { program: program.into(), ..good() };
            assert_eq!(request.check(), Err(BadRequest::Program(program.into())));
        }
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a\0", "ä", &"x".repeat(65), "password"] {
            let mut request = good();
            request.credentials[1].name = name.into();
            assert_eq!(request.check(), Err(BadRequest::Name(name.into())));
        }
        assert!(bad(|r| r.arguments[0] = "a\0".into()).contains("NUL"));
        assert!(bad(|r| r.time = 0).contains("0 ms"));
        assert!(bad(|r| r.time = TIME_LIMIT + 1).contains("ms"));
        assert!(bad(|r| r.output = 0).contains("output"));
        assert!(bad(|r| r.output = u64::MAX).contains("output"));
        assert!(bad(|r| r.credentials[0].length = u32::MAX).contains("2 credentials"));
        assert!(bad(|r| r.credentials = vec![Credential::default(); 17]).contains("17 credentials"));
    }
}
