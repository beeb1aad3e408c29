//! Takes secrets out of what a plugin has printed, before anything else looks at it: as they are, and as programs that
//! mean no harm show them: base64, hexadecimal, URL-encoded, with backslashes. Who wants to say a secret finds a way that
//! is not among these.

use std::fmt;

use zeroize::Zeroizing;

/// What stands where a secret stood.
const MARK: &[u8] = b"***";
/// The shortest text of an encoding that is looked for: shorter ones are parts of words.
const SHORTEST: usize = 5;
/// The two alphabets of base64.
const ALPHABETS: [&[u8; 64]; 2] = [
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
];

/// Takes the secrets of one credential out of texts.
#[derive(Default)]
pub struct Scrubber {
    /// Secrets as they are, longest first.
    plain: Vec<Zeroizing<Vec<u8>>>,
    /// Texts that are found as they stand, longest first.
    encoded: Vec<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrubber").finish_non_exhaustive()
    }
}

impl Scrubber {
    /// Of the fields of a credential. The user's name is no secret.
    pub fn new(fields: &[(String, Zeroizing<Vec<u8>>)]) -> Self {
        let mut scrubber = Self::default();
        for (_, value) in fields.iter().filter(|(name, value)| name != "user" && !value.is_empty()) {
            scrubber.plain.push(value.clone());
            // A shell takes the line breaks off the end of what it reads.
            let trimmed = value.trim_ascii();
            if !trimmed.is_empty() && trimmed.len() < value.len() {
                scrubber.plain.push(Zeroizing::new(trimmed.to_vec()));
            }
        }
        let field = |name| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
        if let (Some(user), Some(password)) = (field("user"), field("password")) {
            // As HTTP's Basic authentication has it (RFC 7617).
            scrubber.encode(&concat(&[user, b":", password]));
        }
        for secret in scrubber.plain.clone() {
            scrubber.encode(&secret);
        }
        let longest_first = |texts: &mut Vec<Zeroizing<Vec<u8>>>| {
            texts.retain(|text| !text.is_empty());
            texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        };
        longest_first(&mut scrubber.plain);
        longest_first(&mut scrubber.encoded);
        scrubber
    }

    /// Adds what a secret becomes in base64, alone and wherever it stands in something longer.
    fn encode(&mut self, secret: &[u8]) {
        for alphabet in ALPHABETS {
            self.add(base64(secret, 0, alphabet, false));
            (0..3).for_each(|offset| self.add(base64(secret, offset, alphabet, true)));
        }
    }

    fn add(&mut self, text: Zeroizing<Vec<u8>>) {
        if text.len() >= SHORTEST && !self.encoded.iter().any(|other| **other == *text) {
            self.encoded.push(text);
        }
    }

    /// Takes the secrets out of a text.
    pub fn scrub(&self, text: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
        if self.plain.is_empty() {
            return text;
        }
        // What stands for a secret is longer than it only where that is shorter than the mark.
        let shortest = self.plain.last().map_or(MARK.len(), |secret| secret.len()).min(MARK.len());
        let most = text.len().div_ceil(shortest.max(1)).saturating_mul(MARK.len()).max(text.len());
        let mut clean = Zeroizing::new(Vec::with_capacity(most));
        let mut rest = text.as_slice();
        while let Some((first, after)) = rest.split_first() {
            match self.longest(rest) {
                0 => {
                    clean.push(*first);
                    rest = after;
                }
                length => {
                    clean.extend_from_slice(MARK);
                    rest = rest.get(length..).unwrap_or_default();
                }
            }
        }
        clean
    }

    /// How many bytes at the beginning of a text are a secret.
    fn longest(&self, text: &[u8]) -> usize {
        let encoded = self.encoded.iter().find(|form| text.starts_with(form)).map_or(0, |form| form.len());
        let plain = self.plain.iter().map(|secret| shown(text, secret).max(hex(text, secret)));
        plain.fold(encoded, usize::max)
    }
}

/// How many bytes at the beginning of a text are a secret, each byte as it is, URL-encoded (RFC 3986, and `+` for a space)
/// or behind a backslash; 0 if they are not.
fn shown(text: &[u8], secret: &[u8]) -> usize {
    let mut rest = text;
    for byte in secret {
        rest = match rest {
            [b'%', high, low, after @ ..] if pair(*high, *low) == Some(*byte) => after,
            [b'+', after @ ..] if *byte == b' ' => after,
            [first, after @ ..] if first == byte => after,
            [b'\\', first, after @ ..] if first == byte => after,
            _ => return 0,
        };
    }
    text.len() - rest.len()
}

/// How many bytes at the beginning of a text are a secret in hexadecimal digits; 0 if they are not.
fn hex(text: &[u8], secret: &[u8]) -> usize {
    let length = secret.len().saturating_mul(2);
    let digits = text.get(..length).filter(|_| length >= SHORTEST).unwrap_or_default();
    let (pairs, _) = digits.as_chunks::<2>();
    let is = !pairs.is_empty() && pairs.iter().zip(secret).all(|([high, low], byte)| pair(*high, *low) == Some(*byte));
    if is { length } else { 0 }
}

/// The byte that two hexadecimal digits say.
fn pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// Base64 (RFC 4648) of bytes that stand `offset` bytes into a longer text: `inner` leaves out the characters that also
/// say something of their neighbours. Without padding, which follows whatever it is.
fn base64(bytes: &[u8], offset: usize, alphabet: &[u8; 64], inner: bool) -> Zeroizing<Vec<u8>> {
    let bits = bytes.len().saturating_mul(8);
    // The first of the characters that begins within the bytes.
    let first = if inner { (offset * 8).div_ceil(6) * 6 - offset * 8 } else { 0 };
    let mut text = Zeroizing::new(Vec::with_capacity(bits / 6 + 1));
    let mut at = first;
    while if inner { at + 6 <= bits } else { at < bits } {
        let byte = |index: usize| u16::from(bytes.get(index).copied().unwrap_or_default());
        let two = byte(at / 8) << 8 | byte(at / 8 + 1);
        let character = alphabet.get(usize::from(two >> (10 - at % 8) & 63)).copied();
        text.extend(character);
        at += 6;
    }
    text
}

fn concat(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut whole = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeroizing(text: &[u8]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(text.to_vec())
    }

    fn of(fields: &[(&str, &[u8])]) -> Scrubber {
        let field = |&(name, value): &(&str, &[u8])| (name.to_owned(), zeroizing(value));
        Scrubber::new(&fields.iter().map(field).collect::<Vec<_>>())
    }

    fn scrubbed(scrubber: &Scrubber, text: &[u8]) -> String {
        String::from_utf8_lossy(&scrubber.scrub(zeroizing(text))).into_owned()
    }

    /// A simple generator of numbers (xorshift), the same in every run.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % limit as u64).unwrap()
        }

        fn bytes(&mut self, length: usize) -> Vec<u8> {
            (0..length).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
        }
    }

    /// Base64 by another way than the one under test.
    fn base64_of(bytes: &[u8], url: bool) -> String {
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let number = chunk.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for place in 0..=chunk.len() {
                let index = usize::try_from(number >> (18 - 6 * place) & 63).unwrap();
                text.push(char::from(ALPHABETS[usize::from(url)][index]));
            }
            text.push_str(&"=".repeat(3 - chunk.len()));
        }
        text
    }

    fn hex_of(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn url_of(bytes: &[u8], numbers: &mut Numbers) -> Vec<u8> {
        let mut text = Vec::new();
        for byte in bytes {
            match (byte, numbers.below(3)) {
                (b' ', 0) => text.push(b'+'),
                (byte, 1) if *byte != b'%' => text.push(*byte),
                (byte, 2) => text.extend(format!("%{byte:02x}").bytes()),
                (byte, _) => text.extend(format!("%{byte:02X}").bytes()),
            }
        }
        text
    }

    #[test]
    fn what_the_other_way_says_base64_is() {
        assert_eq!(base64_of(b"any carnal pleas", false), "YW55IGNhcm5hbCBwbGVhcw==");
    }

    #[test]
    fn whatever_the_secret_is_and_wherever_it_stands_it_is_taken_out() {
        let mut numbers = Numbers(0x5eed);
        for round in 0..2000 {
            let length = 8 + numbers.below(24);
            let (user, password) = (numbers.bytes(5), numbers.bytes(length));
            let scrubber = of(&[("user", &user), ("password", &password)]);
            let (before, after) = (numbers.below(7), numbers.below(7));
            let around = |middle: &[u8]| [&b"-".repeat(before)[..], middle, &b"-".repeat(after)[..]].concat();
            let basic = [&user[..], b":", &password].concat();
            // A secret inside of something longer that is encoded: of it no three bytes in a row may be left.
            for (form, text) in [
                ("plain", password.clone()),
                ("hex", hex_of(&password).into_bytes()),
                ("HEX", hex_of(&password).to_uppercase().into_bytes()),
                ("url", url_of(&password, &mut numbers)),
                ("base64", base64_of(&password, false).trim_end_matches('=').into()),
                ("base64url", base64_of(&password, true).trim_end_matches('=').into()),
                ("basic", base64_of(&basic, false).trim_end_matches('=').into()),
            ] {
                let clean = scrubber.scrub(zeroizing(&around(&text)));
                assert_eq!(*clean, around(MARK), "{form}, round {round}");
            }
            let longer = [numbers.bytes(before), password.clone(), numbers.bytes(after)].concat();
            let text = base64_of(&longer, false);
            let clean = scrubbed(&scrubber, text.as_bytes());
            assert!(clean.contains("***") && clean.len() <= text.len() - password.len() * 8 / 6 + 3 + 2, "{clean}");
        }
    }

    #[test]
    fn what_is_no_secret_stays_as_it_is() {
        let scrubber = of(&[("user", b"ann"), ("password", b"tr0ub4dor")]);
        let text = "HTTP OK - ann, 200 in 0.1 s\\n | time=0.1s;;;0 tr0ub4do dHIwdWI %74r0";
        assert_eq!(scrubbed(&scrubber, text.as_bytes()), text);
        assert_eq!(scrubbed(&Scrubber::default(), text.as_bytes()), text);
        // A user's name is none, and nothing at all is none.
        assert_eq!(scrubbed(&of(&[("user", b"ann"), ("password", b"")]), b"ann"), "ann");
    }

    #[test]
    fn each_kind_of_account_and_each_place_is_scrubbed() {
        let scrubber = of(&[("community", b"pub lic\"1")]);
        for text in ["pub lic\"1", "pub+lic%221", "pub%20lic%221", "pub lic\\\"1", "707562206c69632231"] {
            assert_eq!(scrubbed(&scrubber, format!("<{text}> {text}").as_bytes()), "<***> ***");
        }
        let scrubber = of(&[("data", &[0, 1, 2, 0xff])]);
        assert_eq!(scrubbed(&scrubber, b"x\0\x01\x02\xffy 000102ff"), "x***y ***");
        // A short secret grows the text.
        assert_eq!(scrubbed(&of(&[("password", b"a")]), b"aaa"), "*********");
        // Of two that begin alike the longer one is taken out.
        let scrubber = of(&[("password", b"secret"), ("community", b"secret-2")]);
        assert_eq!(scrubbed(&scrubber, b"secret-2 secret secret-"), "*** *** ***-");
    }
}
