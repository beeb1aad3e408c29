//! CMS AuthEnvelopedData (RFC 5083) in the one shape that is used here: one recipient by key agreement (RFC 5652,
//! section 6.2.2; RFC 5753, section 3.1), AES-256-GCM (RFC 5084), no attributes. DER, byte for byte; whatever else CMS
//! can say is refused.
//!
//! ```text
//!  ContentInfo          SEQUENCE  id-ct-authEnvelopedData, [0]
//!   AuthEnvelopedData    SEQUENCE  0
//!    recipients           SET       [1] 3
//!     originator                     [0] [1] SEQUENCE id-ecPublicKey, BIT STRING: ephemeral point 65
//!     agreement                      dhSinglePass-stdDH-sha256kdf-scheme, id-aes256-wrap
//!     recipient            SEQUENCE   SEQUENCE rid, OCTET STRING: wrapped content key 40
//!    content              SEQUENCE  id-data, SEQUENCE id-aes256-GCM, SEQUENCE nonce 12, 16; [0] ciphertext
//!    tag                  OCTET STRING 16
//! ```

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, ParsedPublicKey, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use aws_lc_rs::rand;
use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, OctetStringRef};
use der::{Decode as _, Reader as _, SliceReader, Tag, TagNumber, Tagged as _};
use zeroize::Zeroizing;

use super::Refusal;
use crate::signature::KeyId;

const AUTH_ENVELOPED: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.23");
const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ECDH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.1.11.1");
const AES256_WRAP: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.45");
const AES256_GCM: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.46");

const POINT: usize = 65;
const KEY: usize = 32;
const WRAPPED: usize = KEY + 8;
const TAG: usize = 16;

// What stands between the parts that differ from one to the next. All lengths up to the ciphertext are fixed.

/// id-ct-authEnvelopedData.
const ENVELOPED: [u8; 13] = [0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x01, 0x17];
/// The version of AuthEnvelopedData (RFC 5083, section 2.1).
const VERSION: [u8; 3] = [0x02, 0x01, 0x00];
/// The recipients, up to the ephemeral point.
const TO_POINT: [u8; 27] = [
    0x31, 0x81, 0xb2, 0xa1, 0x81, 0xaf, 0x02, 0x01, 0x03, 0xa0, 0x51, 0xa1, 0x4f, 0x30, 0x09, 0x06, 0x07, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x02, 0x01, 0x03, 0x42, 0x00,
];
/// How the key is agreed upon and wrapped, and up to the key identifier of the recipient.
const TO_RECIPIENT: [u8; 31] = [
    0x30, 0x15, 0x06, 0x06, 0x2b, 0x81, 0x04, 0x01, 0x0b, 0x01, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65,
    0x03, 0x04, 0x01, 0x2d, 0x30, 0x40, 0x30, 0x3e, 0xa0, 0x12, 0x04, 0x10,
];
/// Up to the wrapped content key.
const TO_WRAPPED: [u8; 2] = [0x04, 0x28];
/// id-data, id-aes256-GCM, up to the nonce.
const TO_NONCE: [u8; 28] = [
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01, 0x30, 0x1e, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
    0x65, 0x03, 0x04, 0x01, 0x2e, 0x30, 0x11, 0x04, 0x0c,
];
/// The length of the tag, up to the ciphertext.
const TO_CIPHERTEXT: [u8; 3] = [0x02, 0x01, 0x10];
/// Up to the tag.
const TO_TAG: [u8; 2] = [0x04, 0x10];
/// ECC-CMS-SharedInfo (RFC 5753, section 7.2): what the wrapping key is derived for. id-aes256-wrap, 256 bits.
const SHARED_INFO: [u8; 23] = [
    0x30, 0x15, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2d, 0xa2, 0x06, 0x04, 0x04,
    0x00, 0x00, 0x01, 0x00,
];

/// A recipient that was checked, with its key ready to be sealed to.
#[derive(Clone)]
pub(crate) struct Recipient {
    /// The id of its key, which is also its certificate's subject key identifier.
    pub(crate) id: KeyId,
    /// IssuerAndSerialNumber of its certificate (RFC 5652, section 10.2.4), DER.
    pub(crate) issuer_and_serial: Vec<u8>,
    /// Its public key.
    pub(crate) key: ParsedPublicKey,
}

/// Seals parts, one after the other, to a recipient. One buffer of the right size is made, in which what is clear is
/// encrypted in place.
pub(super) fn seal(recipient: &Recipient, parts: &[&[u8]]) -> Result<Vec<u8>, Unspecified> {
    let length = parts.iter().map(|part| part.len()).sum();
    let ephemeral = PrivateKey::generate(&ECDH_P256)?;
    let point = ephemeral.compute_public_key()?;
    let mut fresh = Zeroizing::new([0; KEY + NONCE_LEN]);
    rand::fill(fresh.as_mut_slice())?;
    let (key, nonce) = fresh.split_first_chunk::<KEY>().ok_or(Unspecified)?;
    let mut wrapped = [0; WRAPPED];
    wrapping_key(&ephemeral, recipient.key.clone())?.wrap(key, &mut wrapped)?;

    let content = TO_NONCE.len() + NONCE_LEN + TO_CIPHERTEXT.len() + tlv(length);
    let recipients = TO_POINT.len() + POINT + TO_RECIPIENT.len() + recipient.id.0.len() + TO_WRAPPED.len() + WRAPPED;
    let enveloped = VERSION.len() + recipients + tlv(content) + TO_TAG.len() + TAG;
    let whole = ENVELOPED.len() + tlv(tlv(enveloped));
    let mut out = Zeroizing::new(Vec::with_capacity(tlv(whole)));
    begin(&mut out, 0x30, whole);
    out.extend_from_slice(&ENVELOPED);
    begin(&mut out, 0xa0, tlv(enveloped));
    begin(&mut out, 0x30, enveloped);
    let recipient = recipient.id.0.as_slice();
    for part in [&VERSION[..], &TO_POINT, point.as_ref(), &TO_RECIPIENT, recipient, &TO_WRAPPED, &wrapped] {
        out.extend_from_slice(part);
    }
    begin(&mut out, 0x30, content);
    [&TO_NONCE[..], nonce, &TO_CIPHERTEXT].iter().for_each(|part| out.extend_from_slice(part));
    begin(&mut out, 0x80, length);
    let clear = out.len();
    parts.iter().for_each(|part| out.extend_from_slice(part));
    let clear = out.get_mut(clear..).ok_or(Unspecified)?;
    let (key, nonce) = (UnboundKey::new(&AES_256_GCM, key)?, Nonce::try_assume_unique_for_key(nonce)?);
    let tag = LessSafeKey::new(key).seal_in_place_separate_tag(nonce, Aad::empty(), clear)?;
    [&TO_TAG[..], tag.as_ref()].iter().for_each(|part| out.extend_from_slice(part));
    Ok(std::mem::take(&mut *out))
}

/// How many bytes follow the first one of a length (X.690, section 8.1.3). Nothing here comes near 16 MiB.
const fn more(length: usize) -> u8 {
    if length < 0x80 {
        0
    } else if length < 0x100 {
        1
    } else if length < 0x1_0000 {
        2
    } else {
        3
    }
}

/// The bytes of an element with so many bytes in it.
const fn tlv(length: usize) -> usize {
    2 + more(length) as usize + length
}

/// The tag and the length of an element.
fn begin(out: &mut Vec<u8>, tag: u8, length: usize) {
    let [.., c, b, a] = length.to_be_bytes();
    match more(length) {
        0 => out.extend_from_slice(&[tag, a]),
        1 => out.extend_from_slice(&[tag, 0x81, a]),
        2 => out.extend_from_slice(&[tag, 0x82, b, a]),
        _ => out.extend_from_slice(&[tag, 0x83, c, b, a]),
    }
}

/// The key that wraps the content key: ECDH, then one block of the KDF of ANSI X9.63 (SEC 1, section 3.6.1) with
/// SHA-256.
fn wrapping_key(ours: &PrivateKey, theirs: impl TryInto<ParsedPublicKey>) -> Result<AesKek, Unspecified> {
    agree(ours, theirs, Unspecified, |shared| {
        let mut context = digest::Context::new(&SHA256);
        [shared, &[0, 0, 0, 1], &SHARED_INFO].iter().for_each(|part| context.update(part));
        AesKek::new(&AES_256, context.finish().as_ref())
    })
}

/// For whom an envelope is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rid<'a> {
    /// By its certificate: IssuerAndSerialNumber, DER.
    Certificate(&'a [u8]),
    /// By its subject key identifier.
    Key(&'a [u8]),
}

/// What was sealed, taken apart and not opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope<'a> {
    rid: Rid<'a>,
    point: &'a [u8],
    wrapped: &'a [u8; WRAPPED],
    nonce: &'a [u8; NONCE_LEN],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG],
}

impl<'a> Envelope<'a> {
    /// Takes apart what is exactly one envelope.
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, Refusal> {
        let mut whole = SliceReader::new(der)?;
        let envelope = inside(&mut whole, Tag::Sequence, |info| {
            is(info, AUTH_ENVELOPED, "its type is not authenticated-enveloped data")?;
            inside(info, context(0, true), |explicit| inside(explicit, Tag::Sequence, enveloped))
        })?;
        whole.finish()?;
        Ok(envelope)
    }

    /// Whether it is for this recipient.
    pub(super) fn is_for(&self, recipient: &Recipient) -> bool {
        match self.rid {
            Rid::Certificate(issuer_and_serial) => issuer_and_serial == recipient.issuer_and_serial,
            Rid::Key(id) => id == recipient.id.0,
        }
    }

    /// What is in it, by the recipient's private key.
    pub(super) fn open(&self, key: &PrivateKey) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        self.decrypted(key).map_err(|_| Refusal::Damaged)
    }

    fn decrypted(&self, key: &PrivateKey) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
        let mut content_key = Zeroizing::new([0; KEY]);
        let point = UnparsedPublicKey::new(&ECDH_P256, self.point);
        wrapping_key(key, point)?.unwrap(self.wrapped, content_key.as_mut_slice())?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, content_key.as_slice())?);
        let mut clear = Zeroizing::new(vec![0; self.ciphertext.len()]);
        let nonce = Nonce::assume_unique_for_key(*self.nonce);
        key.open_separate_gather(nonce, Aad::empty(), self.ciphertext, self.tag, &mut clear)?;
        Ok(clear)
    }
}

fn enveloped<'a>(reader: &mut SliceReader<'a>) -> Result<Envelope<'a>, Refusal> {
    version(reader, 0)?;
    let (point, (rid, wrapped)) = inside(reader, Tag::Set, |set| {
        if Tag::peek(set)? != context(1, true) {
            return Err(Refusal::Unsupported("its recipient does not agree on a key"));
        }
        let recipient = inside(set, context(1, true), recipient)?;
        set.is_finished().then_some(recipient).ok_or(Refusal::Unsupported("it has more than one recipient"))
    })?;
    let (nonce, ciphertext) = inside(reader, Tag::Sequence, content)?;
    if Tag::peek(reader)? == context(1, true) {
        return Err(Refusal::Unsupported("it has attributes"));
    }
    let tag = fixed(reader)?;
    // Attributes that are not authenticated would stand here.
    Ok(Envelope { rid, point, wrapped, nonce, ciphertext, tag })
}

type Wrapped<'a> = (Rid<'a>, &'a [u8; WRAPPED]);

fn recipient<'a>(kari: &mut SliceReader<'a>) -> Result<(&'a [u8], Wrapped<'a>), Refusal> {
    version(kari, 3)?;
    let point = inside(kari, context(0, true), |originator| inside(originator, context(1, true), ephemeral))?;
    inside(kari, Tag::Sequence, |agreement| {
        is(agreement, ECDH_SHA256, "its key agreement is not dhSinglePass-stdDH-sha256kdf-scheme")?;
        inside(agreement, Tag::Sequence, |wrap| is(wrap, AES256_WRAP, "its key wrap is not AES-256"))
    })?;
    let wrapped = inside(kari, Tag::Sequence, |recipients| {
        inside(recipients, Tag::Sequence, |one| Ok((rid(one)?, fixed(one)?)))
    })?;
    Ok((point, wrapped))
}

fn ephemeral<'a>(originator: &mut SliceReader<'a>) -> Result<&'a [u8], Refusal> {
    inside(originator, Tag::Sequence, |algorithm| is(algorithm, EC_PUBLIC_KEY, "its key is not on an elliptic curve"))?;
    let point = BitStringRef::decode(originator)?.as_bytes().ok_or(Refusal::Encoding)?;
    // Uncompressed, for a curve of 256 bits; whether it is on P-256 is seen when it is used.
    let right = point.len() == POINT && point.first() == Some(&4);
    right.then_some(point).ok_or(Refusal::Unsupported("its key is not an uncompressed point of P-256"))
}

fn rid<'a>(reader: &mut SliceReader<'a>) -> Result<Rid<'a>, Refusal> {
    if Tag::peek(reader)? == context(0, true) {
        return inside(reader, context(0, true), |rid| Ok(Rid::Key(<&OctetStringRef>::decode(rid)?.as_bytes())));
    }
    reader.tlv_bytes().map(Rid::Certificate).map_err(Into::into)
}

fn content<'a>(reader: &mut SliceReader<'a>) -> Result<(&'a [u8; NONCE_LEN], &'a [u8]), Refusal> {
    is(reader, DATA, "its content is not plain data")?;
    let nonce = inside(reader, Tag::Sequence, |algorithm| {
        is(algorithm, AES256_GCM, "its content is not encrypted by AES-256-GCM")?;
        inside(algorithm, Tag::Sequence, |parameters| {
            let nonce = fixed(parameters)?;
            let right = u8::decode(parameters)? == 16;
            right.then_some(nonce).ok_or(Refusal::Unsupported("its tag does not have 16 bytes"))
        })
    })?;
    let ciphertext = AnyRef::decode(reader)?;
    let right = ciphertext.tag() == context(0, false);
    right.then_some((nonce, ciphertext.value())).ok_or(Refusal::Encoding)
}

const fn context(number: u32, constructed: bool) -> Tag {
    Tag::ContextSpecific { constructed, number: TagNumber(number) }
}

/// What is in an element of this tag, which has nothing else in it.
fn inside<'a, T>(
    reader: &mut SliceReader<'a>,
    tag: Tag,
    read: impl FnOnce(&mut SliceReader<'a>) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let element = AnyRef::decode(reader)?;
    if element.tag() != tag {
        return Err(Refusal::Encoding);
    }
    let mut inner = SliceReader::new(element.value())?;
    let value = read(&mut inner)?;
    inner.finish()?;
    Ok(value)
}

fn is(reader: &mut SliceReader<'_>, wanted: ObjectIdentifier, otherwise: &'static str) -> Result<(), Refusal> {
    let found = ObjectIdentifier::decode(reader)?;
    (found == wanted).then_some(()).ok_or(Refusal::Unsupported(otherwise))
}

fn version(reader: &mut SliceReader<'_>, wanted: u8) -> Result<(), Refusal> {
    let found = u8::decode(reader)?;
    (found == wanted).then_some(()).ok_or(Refusal::Unsupported("it is of another version of CMS"))
}

/// An octet string of a fixed length.
fn fixed<'a, const N: usize>(reader: &mut SliceReader<'a>) -> Result<&'a [u8; N], Refusal> {
    <&OctetStringRef>::decode(reader)?.as_bytes().try_into().map_err(|_| Refusal::Encoding)
}
