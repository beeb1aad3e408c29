//! Join tokens: what an operator carries from a server to a host that is to join the group, and the code that two people
//! compare to know that no third one stands between them.
//!
//! The text of a token is `wlt1-` and Crockford base32 of what follows. Base32, because tokens also get typed into
//! consoles that have no clipboard: its letters have no case and no lookalikes, at the price of 162 letters, not 135.
//!
//! ```text
//!  version 1 | group 16 | token id 16 | seed 32 | pin of the root 32 | the first 4 bytes of SHA-256 over all before
//! ```

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use aws_lc_rs::{constant_time, rand};
use wardline_proto::GroupId;
use wardline_proto::message::Digest;
use zeroize::Zeroizing;

use crate::base32::{decode, encode, plain, regroup, symbol};
use crate::signature::sha256;
use crate::trust::Pin;

const PREFIX: &str = "wlt1-";
const VERSION: u8 = 1;
/// What a token's key is derived for, and what every signature of one begins with.
const CONTEXT: &[u8] = b"wardline/token/1";
/// The symbols of a comparison code: no I, O, 0, 1.
const CODE: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin like one.
    #[error("it is no join token: one begins with {PREFIX}")]
    NotAToken,
    /// A character is wrong, missing or too many.
    #[error("it is mistyped or not complete: its checksum does not fit")]
    Mistyped,
    /// Made by another version of this program.
    #[error("it is a token of version {0}, which this program does not know")]
    Version(u8),
    /// No token can be made.
    #[error("the system has no randomness")]
    Randomness,
}

/// A join token. Who has it can sign as its bearer; who made it keeps only the public half of its key. Shown by its id.
pub struct Token {
    /// The group to join.
    pub group: GroupId,
    /// The token's id, 16 random bytes. It is no secret.
    pub id: [u8; 16],
    /// The pin of the group's root.
    pub pin: Pin,
    text: Zeroizing<String>,
    key: Ed25519KeyPair,
}

impl Token {
    /// A new token for a group with this root, and the public half of its key (Ed25519, RFC 8032, 32 bytes).
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn create(group: GroupId, pin: Pin) -> Result<(Self, [u8; 32]), TokenError> {
        let (mut id, mut seed) = ([0; 16], Zeroizing::new([0; 32]));
        rand::fill(&mut id).and_then(|()| rand::fill(seed.as_mut_slice())).map_err(|_| TokenError::Randomness)?;
        let token = Self::build(group, id, &seed, pin)?;
        let public = token.key.public_key().as_ref().try_into().map_err(|_| TokenError::Randomness)?;
        Ok((token, public))
    }

    /// From its text, in any case, with white space and hyphens anywhere after the prefix.
    ///
    /// # Errors
    /// It is no token, mistyped, or of an unknown version.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let parts = text.trim().split_at_checked(PREFIX.len());
        let (_, rest) = parts.filter(|(p, _)| p.eq_ignore_ascii_case(PREFIX)).ok_or(TokenError::NotAToken)?;
        let bytes = decode(rest).ok_or(TokenError::Mistyped)?;
        let (body, checksum) = bytes.split_last_chunk().ok_or(TokenError::Mistyped)?;
        if checksum_of(body) != *checksum {
            return Err(TokenError::Mistyped);
        }
        if let Some(&version) = body.first().filter(|version| **version != VERSION) {
            return Err(TokenError::Version(version));
        }
        Self::read(body).ok_or(TokenError::Mistyped)?
    }

    fn read(body: &[u8]) -> Option<Result<Self, TokenError>> {
        let (group, rest) = body.get(1..)?.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (seed, pin) = rest.split_first_chunk()?;
        let pin = <[u8; 32]>::try_from(pin).ok()?;
        Some(Self::build(GroupId(*group), *id, seed, pin.into()))
    }

    fn build(group: GroupId, id: [u8; 16], seed: &[u8; 32], pin: Pin) -> Result<Self, TokenError> {
        let pinned = pin.bytes();
        let body = Zeroizing::new([&[VERSION], group.0.as_slice(), &id, seed, pinned].concat());
        let whole = Zeroizing::new([body.as_slice(), &checksum_of(&body)].concat());
        let base32 = encode(&whole);
        let text = Zeroizing::new([PREFIX, &base32].concat());
        // Everything else in the token goes into its key, so that nobody can change any of it and still be believed.
        let mut secret = Zeroizing::new([0; 32]);
        let about = [CONTEXT, &[0, VERSION], &group.0, &id, pinned];
        let derived = Salt::new(HKDF_SHA256, &[]).extract(seed);
        derived
            .expand(&about, HKDF_SHA256)
            .and_then(|derived| derived.fill(secret.as_mut_slice()))
            .map_err(|_| TokenError::Randomness)?;
        let key = Ed25519KeyPair::from_seed_unchecked(secret.as_slice()).map_err(|_| TokenError::Randomness)?;
        Ok(Self { group, id, pin, text, key })
    }

    /// The text to hand over, a secret: 167 characters.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The bearer's signature over a transcript.
    pub fn sign(&self, transcript: &[u8]) -> [u8; 64] {
        // Signing does not fail with a key that was made; zeros fit no key that a token has.
        let signature = self.key.try_sign(&signed(transcript)).ok();
        signature.and_then(|signature| signature.as_ref().try_into().ok()).unwrap_or([0; 64])
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:032x})", u128::from_be_bytes(self.id))
    }
}

/// Whether a token with this public key signed the transcript (RFC 8032, section 5.1.7).
pub fn verify(public: &[u8; 32], transcript: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(&signed(transcript), signature).is_ok()
}

/// What is signed: the context string, a zero byte, the transcript.
fn signed(transcript: &[u8]) -> Vec<u8> {
    [CONTEXT, &[0], transcript].concat()
}

fn checksum_of(body: &[u8]) -> [u8; 4] {
    let Digest(hash) = sha256(&[body]);
    hash.first_chunk().copied().unwrap_or_default()
}

/// What two people compare by voice: 40 bits of a transcript's hash, as `ABCD-EFGH`.
///
/// 40 bits hold only where neither end can try many transcripts: the protocol must make each end commit itself before
/// it sees what the other one contributes.
#[derive(Clone, Copy, Debug)]
pub struct Code([u8; 8]);

/// It is no comparison code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a code is 8 letters and digits, none of them I, O, 0 or 1")]
pub struct NoCode;

/// What the confirmation is derived for.
const CONFIRMATION: &[u8] = b"wardline/confirmation/1\0";

/// The other code of a transcript, for the way back: who knows the first one does not know this one by it.
pub fn confirmation(transcript_hash: &Digest) -> Code {
    code(&sha256(&[CONFIRMATION, &transcript_hash.0]))
}

/// The code of a transcript.
pub fn code(transcript_hash: &Digest) -> Code {
    let (values, ..) = regroup(transcript_hash.0.into_iter().take(5), 8, 5, 8);
    let mut symbols = values.iter().map(|value| symbol(CODE, *value));
    Code(std::array::from_fn(|_| symbols.next().unwrap_or_default()))
}

impl PartialEq for Code {
    /// In a time that does not tell where they differ.
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Code {}

impl FromStr for Code {
    type Err = NoCode;

    fn from_str(text: &str) -> Result<Self, NoCode> {
        let symbols: Vec<_> = plain(text).take(9).map(|byte| if CODE.contains(&byte) { byte } else { 0 }).collect();
        <[u8; 8]>::try_from(symbols).ok().filter(|symbols| !symbols.contains(&0)).map(Self).ok_or(NoCode)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i] = self.0.map(char::from);
        write!(f, "{a}{b}{c}{d}-{e}{g}{h}{i}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base32::CROCKFORD;

    const GROUP: GroupId = GroupId([7; 16]);

    fn pin(byte: u8) -> Pin {
        [byte; 32].into()
    }

    fn made(group: GroupId, id: u8, seed: u8, pinned: u8) -> Token {
        Token::build(group, [id; 16], &[seed; 32], pin(pinned)).unwrap()
    }

    #[test]
    fn a_token_survives_its_text_in_any_case_and_grouping() {
        let (token, public) = Token::create(GROUP, pin(0xa5)).unwrap();
        assert_eq!((token.text().len(), token.text().starts_with("wlt1-04")), (167, true));
        let broken = token.text().to_lowercase().replace('0', "o").replace('1', "l").replacen("wltl-", " WLT1-", 1);
        let (head, tail) = broken.split_at(80);
        for text in [token.text(), &format!("{head}\r\n  {tail}\n")] {
            let again = Token::parse(text).unwrap();
            assert_eq!((again.group, again.id, again.pin), (GROUP, token.id, pin(0xa5)));
            assert!(again.text() == token.text());
            assert!(verify(&public, b"transcript", &again.sign(b"transcript")));
        }
    }

    #[test]
    fn every_single_mistyped_character_is_told_as_mistyped() {
        let (token, _) = Token::create(GROUP, pin(1)).unwrap();
        let text = token.text();
        for at in 0..text.len() {
            let expected = if at < PREFIX.len() { TokenError::NotAToken } else { TokenError::Mistyped };
            for wrong in CROCKFORD.iter().chain(b"U!").map(|byte| char::from(*byte)) {
                if !text[at..].starts_with(wrong) && !text[at..].starts_with(wrong.to_ascii_lowercase()) {
                    let mistyped = format!("{}{wrong}{}", &text[..at], &text[at + 1..]);
                    assert_eq!(Token::parse(&mistyped).err(), Some(expected), "{at} {wrong}");
                }
            }
            let missing = format!("{}{}", &text[..at], &text[at + 1..]);
            assert_eq!(Token::parse(&missing).err(), Some(expected), "{at} left out");
        }
        assert_eq!(Token::parse(&text.repeat(9)).err(), Some(TokenError::Mistyped));
        for other in ["", "wlt1", "wlt2-00", "sha256:00", "wlté1-"] {
            assert_eq!(Token::parse(other).err(), Some(TokenError::NotAToken), "{other}");
        }
    }

    #[test]
    fn a_later_version_is_told_as_such_and_a_short_body_is_refused() {
        let parse = |body: &[u8]| Token::parse(&[PREFIX, &encode(&[body, &checksum_of(body)].concat())].concat());
        assert_eq!(parse(&[2, 1, 2, 3]).err(), Some(TokenError::Version(2)));
        for length in [0, 1, 96, 98] {
            assert_eq!(parse(&[1].repeat(length)).err(), Some(TokenError::Mistyped), "{length}");
        }
        assert!(parse(&[1; 97]).is_ok());
    }

    #[test]
    fn a_token_that_differs_in_anything_does_not_verify() {
        let token = made(GROUP, 1, 2, 3);
        let public: [u8; 32] = token.key.public_key().as_ref().try_into().unwrap();
        let signature = token.sign(b"transcript");
        assert!(verify(&public, b"transcript", &signature));
        assert!(!verify(&public, b"Transcript", &signature));
        assert!(!verify(&public, b"transcript", &signature[..63]));
        assert!(!verify(&public, b"transcript", &[0; 64]));
        let others =
            [made(GroupId([8; 16]), 1, 2, 3), made(GROUP, 9, 2, 3), made(GROUP, 1, 9, 3), made(GROUP, 1, 2, 9)];
        for other in others {
            assert!(!verify(&public, b"transcript", &other.sign(b"transcript")), "{other:?}");
        }
    }

    #[test]
    fn debug_shows_the_id_and_nothing_else() {
        // There is no Display: who wants the text must ask for it.
        assert_eq!(format!("{:?}", made(GROUP, 0xab, 2, 3)), format!("Token({})", "ab".repeat(16)));
    }

    #[test]
    fn a_code_shows_exactly_the_first_40_bits_and_is_read_however_it_is_spoken() {
        let hash = Digest(std::array::from_fn(|i| [0x00, 0x44, 0x32, 0x14, 0xdf].get(i).copied().unwrap_or(9)));
        assert_eq!(code(&hash).to_string(), "ABCD-EFG9");
        for heard in ["ABCD-EFG9", "abcdefg9", " a b c d - e f g 9 "] {
            assert_eq!(heard.parse(), Ok(code(&hash)), "{heard}");
        }
        for bit in 0..256 {
            let mut other = hash;
            other.0[bit / 8] ^= 0x80 >> (bit % 8);
            assert_eq!(code(&other) != code(&hash), bit < 40, "{bit}");
        }
        // The one for the way back depends on every bit.
        let back = confirmation(&hash);
        assert!(back != code(&hash));
        for bit in 0..256 {
            let mut other = hash;
            other.0[bit / 8] ^= 0x80 >> (bit % 8);
            assert!(confirmation(&other) != back, "{bit}");
        }
        for bad in ["", "ABCD-EFG", "ABCD-EFGHJ", "ABCD-EFG0", "ABCD-EFGI", "ABCD-EFGO", "ABCD-EFG1", "ABCD-EFGé"] {
            assert_eq!(bad.parse::<Code>(), Err(NoCode), "{bad}");
        }
    }
}
