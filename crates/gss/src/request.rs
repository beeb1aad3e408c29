//! What an AP-REQ says in the clear (RFC 4120, section 5.5.1), looked at before it is accepted: a ticket of a weak
//! encryption type is refused by its name, and without a key being used on it.

use crate::Enctype;
use crate::call::KRB5;

/// What an AP-REQ says in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Under which the service's key encrypts the ticket.
    pub ticket: Enctype,
    /// The version of that key.
    pub kvno: Option<u32>,
    /// Under which the session key encrypts the authenticator.
    pub authenticator: Enctype,
}

/// Reads an initial context token of Kerberos v5 (RFC 4121, section 4.1); `None` when it is none.
pub fn read(token: &[u8]) -> Option<Request> {
    // [APPLICATION 0] { the mechanism, 01 00, AP-REQ }
    let (frame, rest) = element(token, 0x60)?;
    let (mechanism, inner) = element(frame, 0x06)?;
    let inner = inner.strip_prefix(&[0x01, 0x00])?;
    if mechanism != KRB5 || !rest.is_empty() {
        return None;
    }
    // [APPLICATION 14] SEQUENCE { pvno [0], msg-type [1], ap-options [2], ticket [3], authenticator [4] }
    let (request, rest) = element(inner, 0x6e)?;
    let (fields, behind) = element(request, 0x30)?;
    let mut fields = (rest.is_empty() && behind.is_empty()).then_some(fields)?;
    for tag in [0xa0, 0xa1, 0xa2] {
        fields = element(fields, tag)?.1;
    }
    let (ticket, fields) = element(fields, 0xa3)?;
    let (authenticator, _) = element(fields, 0xa4)?;
    // [APPLICATION 1] SEQUENCE { tkt-vno [0], realm [1], sname [2], enc-part [3] }
    let mut ticket = element(element(ticket, 0x61)?.0, 0x30)?.0;
    for tag in [0xa0, 0xa1, 0xa2] {
        ticket = element(ticket, tag)?.1;
    }
    let (enctype, kvno) = encrypted(element(ticket, 0xa3)?.0)?;
    Some(Request { ticket: enctype, kvno, authenticator: encrypted(authenticator)?.0 })
}

/// EncryptedData: SEQUENCE { etype [0] Int32, kvno [1] UInt32 OPTIONAL, cipher [2] }.
fn encrypted(data: &[u8]) -> Option<(Enctype, Option<u32>)> {
    let (fields, _) = element(data, 0x30)?;
    let (enctype, fields) = element(fields, 0xa0)?;
    let enctype = i32::try_from(integer(enctype)?).ok()?;
    let kvno = match element(fields, 0xa1) {
        // Some write a large one as a negative number.
        Some((kvno, _)) => Some(u32::try_from(integer(kvno)? & 0xffff_ffff).ok()?),
        None => None,
    };
    Some((Enctype(enctype), kvno))
}

fn integer(field: &[u8]) -> Option<i64> {
    let (bytes, _) = element(field, 0x02)?;
    let (first, _) = bytes.split_first().filter(|_| bytes.len() <= 5)?;
    let sign = i64::from(first.cast_signed() >> 7);
    Some(bytes.iter().fold(sign, |number, byte| (number << 8) | i64::from(*byte)))
}

/// The content of an element with this tag at the beginning, and what follows it (X.690, section 8.1, definite lengths).
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let bytes = bytes.strip_prefix(&[tag])?;
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x83 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u8::try_from(content.len()).unwrap();
        let head = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
        [head, content].concat()
    }

    fn token(ticket: u8, authenticator: u8) -> Vec<u8> {
        let number = |tag: u8, value: &[u8]| wrap(tag, &[&wrap(0x02, &[value])]);
        let cipher = wrap(0xa2, &[&wrap(0x04, &[&[7; 40]])]);
        let data = |enctype: u8, kvno: &[u8]| wrap(0x30, &[&number(0xa0, &[enctype]), kvno, &cipher]);
        let kvno = number(0xa1, &[0x00, 0x90, 0x00]);
        let ticket = wrap(
            0x61,
            &[&wrap(
                0x30,
                &[
                    &number(0xa0, &[5]),
                    &wrap(0xa1, &[b"\x1b\x01A"]),
                    &wrap(0xa2, &[]),
                    &wrap(0xa3, &[&data(ticket, &kvno)]),
                ],
            )],
        );
        let request = wrap(
            0x30,
            &[
                &number(0xa0, &[5]),
                &number(0xa1, &[14]),
                &wrap(0xa2, &[&wrap(0x03, &[&[0, 0x20, 0, 0, 0]])]),
                &wrap(0xa3, &[&ticket]),
                &wrap(0xa4, &[&data(authenticator, &[])]),
            ],
        );
        wrap(0x60, &[&wrap(0x06, &[KRB5]), &[1, 0], &wrap(0x6e, &[&request])])
    }

    #[test]
    fn a_tickets_encryption_type_is_read_in_the_clear() {
        let read_of = |ticket, authenticator| read(&token(ticket, authenticator)).unwrap();
        let expected = Request { ticket: Enctype(23), kvno: Some(0x9000), authenticator: Enctype(20) };
        assert_eq!(read_of(23, 20), expected);
        assert!(!expected.ticket.is_aes() && expected.authenticator.is_aes());
    }

    #[test]
    fn what_is_no_such_token_is_none_wherever_it_is_cut() {
        let whole = token(20, 20);
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
        let mut spnego = whole.clone();
        spnego[5] ^= 1;
        assert_eq!(read(&spnego), None);
        assert_eq!(read(&[whole, vec![0]].concat()), None);
    }
}
