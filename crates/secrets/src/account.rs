//! What a Run As account holds. A secret lies in one buffer from its making to its end, which is wiped then; nothing
//! here shows it.
//!
//! ```text
//!  kind 1 | for each field of the kind: length 4, big endian | the field
//! ```

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

/// The most bytes of all fields of a secret together.
pub const LIMIT: usize = 64 * 1024;
/// The most fields of a kind.
const FIELDS: usize = 2;

/// What kind of account it is: which fields there are, and what may be in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A user and a password.
    Basic,
    /// A community string.
    Community,
    /// Any bytes.
    Binary,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Basic, Self::Community, Self::Binary];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Community => "community",
            Self::Binary => "binary",
        }
    }

    /// The names of its fields, in their order.
    pub const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Basic => &["user", "password"],
            Self::Community => &["community"],
            Self::Binary => &["data"],
        }
    }

    /// Its number in bytes. A number is never used again for another kind.
    const fn number(self) -> u8 {
        match self {
            Self::Basic => 1,
            Self::Community => 2,
            Self::Binary => 3,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(SecretError::Kind)
    }
}

/// Why there is no secret. Says nothing of what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// No kind that this program knows.
    #[error("its kind is none of basic, community, binary")]
    Kind,
    /// A field has nothing in it.
    #[error("its {0} is blank, which is refused")]
    Blank(&'static str),
    /// A field would break the line that it stands on, in a file that a plugin reads.
    #[error(
        "its {0} has a line break or a NUL in it, which no plugin reads; an account of kind binary takes any bytes"
    )]
    Line(&'static str),
    /// More than [`LIMIT`].
    #[error("it has {0} bytes, more than {LIMIT}")]
    Long(usize),
    /// Not the bytes of a secret.
    #[error("it cannot be decoded")]
    Encoding,
}

/// The secret of an account.
pub struct Secret {
    kind: Kind,
    /// As described above; checked.
    bytes: Zeroizing<Vec<u8>>,
}

impl Secret {
    /// A user and a password.
    ///
    /// # Errors
    /// One is blank, has a line break or a NUL in it, or both are too long.
    pub fn basic(user: &[u8], password: &[u8]) -> Result<Self, SecretError> {
        Self::new(Kind::Basic, &[user, password])
    }

    /// A community string.
    ///
    /// # Errors
    /// As for [`Self::basic`].
    pub fn community(community: &[u8]) -> Result<Self, SecretError> {
        Self::new(Kind::Community, &[community])
    }

    /// Any bytes.
    ///
    /// # Errors
    /// There are none, or too many.
    pub fn binary(data: &[u8]) -> Result<Self, SecretError> {
        Self::new(Kind::Binary, &[data])
    }

    fn new(kind: Kind, values: &[&[u8]]) -> Result<Self, SecretError> {
        let length: usize = values.iter().map(|value| value.len()).sum();
        if length > LIMIT {
            return Err(SecretError::Long(length));
        }
        // Room for all of it at once: a growing buffer would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + 4 * FIELDS + length));
        bytes.push(kind.number());
        for value in values {
            bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(value);
        }
        Self::from_bytes(bytes)
    }

    /// From its bytes, which are kept where they are.
    ///
    /// # Errors
    /// They are no secret, or one that would not have been made.
    pub fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Result<Self, SecretError> {
        let number = *bytes.first().ok_or(SecretError::Encoding)?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.number() == number).ok_or(SecretError::Kind)?;
        let secret = Self { kind, bytes };
        let (mut count, mut length) = (0, 0);
        for (name, value) in secret.fields() {
            (count, length) = (count + 1, length + value.len());
            check(kind, name, value)?;
        }
        if count != kind.fields().len() || secret.bytes.len() != 1 + 4 * count + length {
            return Err(SecretError::Encoding);
        }
        if length > LIMIT {
            return Err(SecretError::Long(length));
        }
        Ok(secret)
    }

    /// Its kind.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// All of it as bytes, for [`Self::from_bytes`].
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The name and value of each field, in order: what the files that a plugin finds are named, and what stands in
    /// them.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let mut rest = self.bytes.get(1..).unwrap_or_default();
        self.kind.fields().iter().map_while(move |name| {
            let (length, behind) = rest.split_first_chunk()?;
            let (value, behind) = behind.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            rest = behind;
            Some((*name, value))
        })
    }

    /// One field.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|(one, _)| *one == name).map(|(_, value)| value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.kind)
    }
}

fn check(kind: Kind, name: &'static str, value: &[u8]) -> Result<(), SecretError> {
    let text = kind != Kind::Binary;
    if value.is_empty() || (text && value.trim_ascii().is_empty()) {
        return Err(SecretError::Blank(name));
    }
    if text && value.iter().any(|byte| matches!(byte, b'\0' | b'\n' | b'\r')) {
        return Err(SecretError::Line(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(secret: &Secret) -> Result<Secret, SecretError> {
        Secret::from_bytes(Zeroizing::new(secret.as_bytes().to_vec()))
    }

    #[test]
    fn a_secret_comes_back_from_its_bytes_with_its_fields() {
        let cases = [
            (Secret::basic(b"ada", b"p\xff w=\"x\" "), vec![("user", &b"ada"[..]), ("password", b"p\xff w=\"x\" ")]),
            (Secret::community(b"public"), vec![("community", b"public")]),
            (Secret::binary(b"\0\n\xff"), vec![("data", b"\0\n\xff")]),
        ];
        for (secret, fields) in cases {
            let back = again(&secret.unwrap()).unwrap();
            assert_eq!(back.fields().collect::<Vec<_>>(), fields);
            assert_eq!(back.kind().fields(), fields.iter().map(|(name, _)| *name).collect::<Vec<_>>());
            assert_eq!((back.field(fields[0].0), back.field("other")), (Some(fields[0].1), None));
            assert_eq!(back.kind().as_str().parse(), Ok(back.kind()));
        }
        assert_eq!("snmpv3".parse::<Kind>(), Err(SecretError::Kind));
    }

    #[test]
    fn what_is_blank_broken_into_lines_or_too_long_is_refused_with_the_reason() {
        for blank in [&b""[..], b" ", b"\t ", b"\n"] {
            assert_eq!(Secret::basic(b"ada", blank).unwrap_err(), SecretError::Blank("password"));
            assert_eq!(Secret::basic(blank, b"x").unwrap_err(), SecretError::Blank("user"));
            assert_eq!(Secret::community(blank).unwrap_err(), SecretError::Blank("community"));
        }
        assert_eq!(Secret::binary(b"").unwrap_err(), SecretError::Blank("data"));
        assert!(Secret::binary(b" ").is_ok());
        for lines in [&b"a\nb"[..], b"a\rb", b"a\0b", b"a\n"] {
            assert_eq!(Secret::basic(b"ada", lines).unwrap_err(), SecretError::Line("password"));
            assert_eq!(Secret::basic(lines, b"x").unwrap_err(), SecretError::Line("user"));
            assert_eq!(Secret::community(lines).unwrap_err(), SecretError::Line("community"));
        }
        let most = vec![b'x'; LIMIT];
        assert!(again(&Secret::binary(&most).unwrap()).is_ok());
        assert!(again(&Secret::basic(b"u", &most[1..]).unwrap()).is_ok());
        assert_eq!(Secret::basic(b"u", &most).unwrap_err(), SecretError::Long(LIMIT + 1));
    }

    #[test]
    fn bytes_that_are_no_secret_are_refused_and_so_is_what_would_not_have_been_made() {
        let whole = Secret::basic(b"ada", b"secret").unwrap();
        let read = |bytes: &[u8]| Secret::from_bytes(Zeroizing::new(bytes.to_vec())).map(|_| ()).unwrap_err();
        for end in 0..whole.as_bytes().len() {
            assert_eq!(read(&whole.as_bytes()[..end]), SecretError::Encoding, "{end}");
        }
        assert_eq!(read(&[whole.as_bytes(), &[0]].concat()), SecretError::Encoding);
        assert_eq!(read(&[9, 0, 0, 0, 1, b'x']), SecretError::Kind);
        assert_eq!(read(&[2, 0, 0, 0, 1, b'\n']), SecretError::Blank("community"));
        assert_eq!(read(&[2, 0, 0, 0, 2, b'a', b'\n']), SecretError::Line("community"));
        assert_eq!(read(&[2, 0xff, 0xff, 0xff, 0xff, b'a']), SecretError::Encoding);
        let long = [&[3, 0, 1, 0, 1][..], &vec![0; LIMIT + 1]].concat();
        assert_eq!(read(&long), SecretError::Long(LIMIT + 1));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::basic(b"ada", b"hidden").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(basic)");
    }
}
