//! Crockford's base32, for what people type: join tokens and the recovery key. Whatever passes through here may be a
//! secret, so it is wiped and never grows in memory.

use zeroize::Zeroizing;

/// The most characters of a text that is looked at.
const LIMIT: usize = 1024;
/// Crockford's base32: no I, L, O, U.
pub(crate) const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The same bits in values of `to` bits, not of `from` bits, neither more than 8; and what is left over: bits, how many.
pub(crate) fn regroup(
    values: impl Iterator<Item = u8>,
    from: u32,
    to: u32,
    room: usize,
) -> (Zeroizing<Vec<u8>>, u8, u32) {
    // Room for all of it at once: growing would leave copies behind.
    let mut all = Zeroizing::new(Vec::with_capacity(room));
    let (mut held, mut bits) = (0_u16, 0);
    for value in values {
        (held, bits) = (held << from | u16::from(value), bits + from);
        while bits >= to {
            bits -= to;
            all.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    (all, held as u8, bits)
}

pub(crate) fn symbol(alphabet: &[u8; 32], value: u8) -> u8 {
    alphabet.get(usize::from(value)).copied().unwrap_or_default()
}

/// Crockford's base32, the last symbol filled up with zero bits.
pub(crate) fn encode(bytes: &[u8]) -> Zeroizing<String> {
    let room = (bytes.len() * 8).div_ceil(5);
    let (mut values, left, bits) = regroup(bytes.iter().copied(), 8, 5, room);
    if bits > 0 {
        values.push(left << (5 - bits));
    }
    let mut text = Zeroizing::new(String::with_capacity(room));
    text.extend(values.iter().map(|value| char::from(symbol(CROCKFORD, *value))));
    text
}

/// The bytes of Crockford's base32 in any case, with white space and hyphens anywhere, O for 0, I and L for 1. What is
/// left over at the end must be zero bits, fewer than 5.
pub(crate) fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let value = |byte| {
        let byte = match byte {
            b'O' => b'0',
            b'I' | b'L' => b'1',
            other => other,
        };
        CROCKFORD.iter().position(|symbol| *symbol == byte).and_then(|value| u8::try_from(value).ok())
    };
    if text.len() > LIMIT || !plain(text).all(|byte| value(byte).is_some()) {
        return None;
    }
    let (bytes, left, bits) = regroup(plain(text).filter_map(value), 5, 8, text.len());
    (bits < 5 && left == 0).then_some(bytes)
}

/// In upper case, without white space and hyphens.
pub(crate) fn plain(text: &str) -> impl Iterator<Item = u8> {
    text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'-').map(|byte| byte.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back_however_it_is_typed() {
        for length in 0..=40_u8 {
            let bytes: Vec<_> = (0..length).map(|i| i.wrapping_mul(151) ^ 0xa5).collect();
            let text = encode(&bytes);
            assert_eq!(text.len(), (bytes.len() * 8).div_ceil(5));
            let typed: String = text.to_lowercase().replace('0', "o").chars().flat_map(|c| [' ', c, '-']).collect();
            for text in [text.as_str(), &typed, &text.replace('1', "I"), &text.replace('1', "l")] {
                assert_eq!(decode(text).as_deref(), Some(&bytes), "{text}");
            }
        }
        assert_eq!(encode(&[0, 0x44, 0x32, 0x14, 0xc7]).as_str(), "01234567");
        assert_eq!(encode(&[0xff]).as_str(), "ZW");
    }

    #[test]
    fn what_nothing_is_written_as_is_refused() {
        // A letter that is no symbol, bits left over, a whole symbol left over.
        for bad in ["U0", "0!", "é0", "ZX", "Z", "000"] {
            assert_eq!(decode(bad).as_deref(), None, "{bad}");
        }
        assert!(decode(&"0".repeat(LIMIT)).is_some());
        assert!(decode(&"0".repeat(LIMIT + 8)).is_none());
    }
}
