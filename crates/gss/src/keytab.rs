//! What is in a keytab, without its keys: for whoever has to say why it does not fit. The format is that of MIT Kerberos,
//! version 5.2 (0x0502), which all write.

use std::io;
use std::path::Path;

use zeroize::Zeroizing;

use crate::Enctype;

/// A key of a keytab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The principal, with its realm.
    pub principal: String,
    /// The version of its key.
    pub kvno: u32,
    /// What the key is for.
    pub enctype: Enctype,
}

/// Reads a keytab.
///
/// # Errors
/// The file cannot be read, or is no keytab.
pub fn read(path: &Path) -> io::Result<Vec<Entry>> {
    parse(&Zeroizing::new(std::fs::read(path)?))
}

/// What stands in a keytab.
///
/// # Errors
/// It is none.
pub fn parse(bytes: &[u8]) -> io::Result<Vec<Entry>> {
    let Some(mut rest) = bytes.strip_prefix(&[5, 2]) else {
        return Err(io::Error::other(if bytes.is_empty() { "it is empty" } else { "it is no keytab of version 5.2" }));
    };
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let damaged = || io::Error::other("it is damaged, or cut short");
        let length = i32::from_be_bytes(take(&mut rest).ok_or_else(damaged)?);
        let size = usize::try_from(length.unsigned_abs()).map_err(|_| damaged())?;
        let (entry, behind) = rest.split_at_checked(size).ok_or_else(damaged)?;
        rest = behind;
        // A negative length is a hole where a key was.
        if length > 0 {
            entries.push(one(entry).ok_or_else(damaged)?);
        }
    }
    Ok(entries)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*head)
}

fn counted<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u16::from_be_bytes(take(rest)?);
    let (head, behind) = rest.split_at_checked(usize::from(length))?;
    *rest = behind;
    Some(head)
}

fn one(mut rest: &[u8]) -> Option<Entry> {
    let components = u16::from_be_bytes(take(&mut rest)?);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let realm = text(counted(&mut rest)?);
    let names: Option<Vec<_>> = (0..components).map(|_| counted(&mut rest).map(text)).collect();
    let (_kind, _time): ([u8; 4], [u8; 4]) = (take(&mut rest)?, take(&mut rest)?);
    let [short] = take(&mut rest)?;
    let enctype = i32::from(i16::from_be_bytes(take(&mut rest)?));
    counted(&mut rest)?;
    // The version in 32 bits is there when there is room for it.
    let long = take(&mut rest).map(u32::from_be_bytes).filter(|long| *long != 0);
    let principal = format!("{}@{realm}", names?.join("/"));
    Some(Entry { principal, kvno: long.unwrap_or(u32::from(short)), enctype: Enctype(enctype) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kvno: u8, long: &[u8]) -> Vec<u8> {
        let names: Vec<u8> = [&b"A.TEST"[..], b"host", b"web1.test"]
            .iter()
            .flat_map(|text| [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat())
            .collect();
        let entry = [&[0, 2][..], &names, &[0; 8], &[kvno, 0, 20, 0, 2, 7, 7], long].concat();
        [&i32::try_from(entry.len()).unwrap().to_be_bytes()[..], &entry].concat()
    }

    #[test]
    fn keys_are_listed_with_their_versions_and_holes_are_passed_over() {
        let hole = [&(-3_i32).to_be_bytes()[..], &[9, 9, 9]].concat();
        let whole = [&[5, 2][..], &entry(3, &[]), &hole, &entry(44, &[0, 0, 1, 44])].concat();
        let found = parse(&whole).unwrap();
        let expected = |kvno| Entry { principal: "host/web1.test@A.TEST".into(), kvno, enctype: Enctype(20) };
        assert_eq!(found, [expected(3), expected(300)]);
        let refused = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
        assert_eq!(refused(&[]), "it is empty");
        assert_eq!(refused(b"no keytab"), "it is no keytab of version 5.2");
        assert_eq!(refused(&whole[..whole.len() - 1]), "it is damaged, or cut short");
    }
}
