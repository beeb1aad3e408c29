use std::process::Command;

use aws_lc_rs::agreement::PrivateKey;
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, KeyPair, SanType};

use super::*;
use crate::authority::IssuingAuthority;
use crate::authority::tests::{at, group, name};
use crate::certificate::{CHANNEL_USAGES, DUTY_URI, Fault};
use crate::private::Scratch;
use crate::signature::VerifyingKey;
use rustls_pki_types::CertificateDer;

const DAY: u64 = 24 * 3600;
const NOW: u64 = 1_900_000_000;
const YEAR: Validity = Validity::lasting(NOW, LIFETIME);

/// A sealing key of an agent of this name.
pub(crate) fn sealing_key(of: &str) -> (SealingKey, Zeroizing<String>) {
    SealingKey::generate(&name(of), Role::Agent, YEAR).unwrap()
}

/// What `openssl` printed in this folder; all words are split at spaces.
pub(crate) fn openssl(folder: &Scratch, words: &str) -> Vec<u8> {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(&folder.0).output().unwrap();
    assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn read(der: &[u8]) -> Result<SealingCertificate, SealingFault> {
    SealingCertificate::read(der, &name("web1.test"), Role::Agent, NOW)
}

/// Why a certificate is refused that says something else than it should.
fn refused(change: impl FnOnce(&mut CertificateParams)) -> SealingFault {
    let (pair, _) = Pair::generate().unwrap();
    let mut params = params(&pair, &name("web1.test"), Role::Agent, YEAR).unwrap();
    change(&mut params);
    read(params.self_signed(&pair).unwrap().der()).unwrap_err()
}

#[test]
fn a_sealing_key_comes_back_from_its_files_and_its_certificate_says_whose_it_is() {
    let (key, pem) = sealing_key("web1.test");
    let certificate = read(key.certificate().der()).unwrap();
    assert_eq!((certificate.name(), certificate.role()), (&name("web1.test"), Role::Agent));
    assert_eq!((certificate.id(), certificate.validity()), (key.id(), YEAR));
    let load = |pem: &[u8], der: &[u8]| SealingKey::load(pem, der, &name("web1.test"), Role::Agent);
    assert_eq!(load(pem.as_bytes(), certificate.der()).unwrap().id(), key.id());
    let (other, other_pem) = sealing_key("web1.test");
    assert_eq!(load(other_pem.as_bytes(), certificate.der()).unwrap_err(), SealingFault::OtherKey);
    assert!(matches!(load(b"", other.certificate().der()), Err(SealingFault::Private(_))));
    // A name that is too long for a common name stands where everybody looks.
    let long = format!("{}.test", "a".repeat(63));
    assert!(SealingKey::generate(&name(&long), Role::Gateway, YEAR).is_ok());
    assert!(!format!("{key:?}{certificate:?}").contains("PrivateKey"));
}

#[test]
fn openssl_finds_nothing_wrong_with_the_certificate() {
    let (scratch, (key, _)) = (Scratch::new(), sealing_key("web1.test"));
    std::fs::write(scratch.0.join("c.der"), key.certificate().der()).unwrap();
    let text = openssl(&scratch, "x509 -inform DER -in c.der -noout -text");
    let text = String::from_utf8(text).unwrap();
    for expected in ["Key Agreement", "DNS:web1.test, URI:urn:wardline:agent", "CA:FALSE", "CN = web1.test"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains("Digital Signature") && !text.contains("Extended Key Usage"), "{text}");
    openssl(&scratch, "x509 -inform DER -in c.der -out c.pem");
    openssl(&scratch, &format!("verify -check_ss_sig -attime {} -CAfile c.pem c.pem", NOW + 1));
}

#[test]
fn a_sealing_certificate_is_no_channel_certificate_and_the_other_way() {
    let group = group();
    let (trusted, now, days) = (group.trusted(), at(group.from), group.days());
    let good = group.issuing.channel(&name("web1.test"), Role::Agent, &public_of(&Pair::generate().unwrap().0), days);
    let chain = std::slice::from_ref(group.issuing.certificate());
    assert!(trusted.channel(&good.as_ref().unwrap().clone(), chain, now).is_ok());
    // Its own signature leads nowhere,
    let (key, _) = SealingKey::generate(&name("web1.test"), Role::Agent, days).unwrap();
    let refused = |der: &CertificateDer<'_>| trusted.channel(der, chain, now).unwrap_err();
    assert!(matches!(refused(key.certificate().der()), Fault::Chain(_)));
    assert!(matches!(trusted.duty(&[key.certificate().der().clone()], now), Err(Fault::Chain(_))));
    // and signed by the issuing authority itself it would still be good for no channel.
    let (pair, _) = Pair::generate().unwrap();
    let said = params(&pair, &name("web1.test"), Role::Agent, days).unwrap();
    let signed = issue(&group.issuing, said, &pair, days);
    assert!(matches!(refused(&signed), Fault::Usage(_) | Fault::Chain(_)), "{:?}", refused(&signed));
    // Nothing that an authority issues is sealed to.
    let from = days.from;
    let read = |der: &[u8]| SealingCertificate::read(der, &name("web1.test"), Role::Agent, from).unwrap_err();
    assert_eq!(read(&good.unwrap()), SealingFault::Signature);
    assert_eq!(read(&signed), SealingFault::Signature);
}

fn public_of(pair: &Pair) -> VerifyingKey {
    VerifyingKey::from_spki(&pair.subject_public_key_info()).unwrap()
}

fn issue(by: &IssuingAuthority, params: CertificateParams, key: &Pair, validity: Validity) -> CertificateDer<'static> {
    by.sign(params, &public_of(key), validity).unwrap()
}

#[test]
fn each_need_that_a_certificate_misses_is_named() {
    use SealingFault as F;
    let agreement = KeyUsagePurpose::KeyAgreement;
    assert_eq!(refused(|p| p.key_usages = vec![]), F::Usage);
    assert_eq!(refused(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]), F::Usage);
    assert_eq!(refused(|p| p.key_usages = vec![agreement, KeyUsagePurpose::DigitalSignature]), F::Usage);
    let extension = |fault| matches!(fault, F::Extension(_));
    assert!(extension(refused(|p| p.extended_key_usages = CHANNEL_USAGES.to_vec())));
    assert!(extension(refused(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection])));
    assert!(extension(refused(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))));
    assert_eq!(refused(|p| p.is_ca = IsCa::NoCa), F::KeyIdentifier);
    assert_eq!(refused(|p| p.key_identifier_method = KeyIdMethod::Sha256), F::KeyIdentifier);

    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let names = |names| refused(|p| p.subject_alt_names = names);
    assert_eq!(names(vec![]), F::Names(Fault::NoName));
    let (web, agent) = (dns("web1.test"), uri(Role::Agent.uri()));
    assert!(matches!(names(vec![web.clone(), dns("web2.test"), agent.clone()]), F::Names(Fault::Names(_))));
    assert!(matches!(names(vec![dns("*.test"), agent.clone()]), F::Names(Fault::Name(_))));
    assert_eq!(names(vec![web.clone(), uri(DUTY_URI)]), F::Names(Fault::Role(DUTY_URI.into())));
    assert!(matches!(names(vec![dns("web2.test"), agent]), F::Names(Fault::Other { .. })));
    assert!(matches!(names(vec![web, uri(Role::Server.uri())]), F::Names(Fault::Other { .. })));

    let valid = |from: u64, to: u64| {
        let (key, _) = SealingKey::generate(&name("web1.test"), Role::Agent, Validity { from, to }).unwrap();
        read(key.certificate().der()).err()
    };
    assert_eq!(valid(NOW, NOW + 1), None);
    assert_eq!(valid(NOW - 1, NOW), None);
    assert_eq!(valid(NOW + 1, NOW + 2), Some(F::NotYet(NOW + 1)));
    assert_eq!(valid(NOW - 2, NOW - 1), Some(F::Ended(NOW - 1)));
    let long = params(&Pair::generate().unwrap().0, &name("web1.test"), Role::Agent, YEAR).unwrap();
    let lasting = |seconds| {
        let (mut params, (pair, _)) = (long.clone(), Pair::generate().unwrap());
        params.key_identifier_method = KeyIdMethod::PreSpecified(public_of(&pair).id().0.to_vec());
        Validity::lasting(NOW, seconds).write(&mut params).unwrap();
        read(params.self_signed(&pair).unwrap().der()).err()
    };
    assert_eq!((lasting(400 * DAY), lasting(400 * DAY + 1)), (None, Some(F::Long(401))));
}

#[test]
fn a_key_of_the_wrong_type_or_a_weak_one_is_named() {
    let scratch = Scratch::new();
    let ours = |algorithm: &str| {
        let names = "subjectAltName=DNS:web1.test,URI:urn:wardline:agent";
        let request = "req -x509 -nodes -keyout k.pem -subj /CN=web1.test -days 300 -outform DER";
        let usage = "-addext keyUsage=critical,keyAgreement";
        openssl(&scratch, &format!("{request} -newkey {algorithm} -addext {names} {usage}"))
    };
    for (algorithm, expected) in [
        ("rsa:2048", "RSA of 2048 bits"),
        ("rsa:1024", "RSA of 1024 bits"),
        ("ec -pkeyopt ec_paramgen_curve:P-384", "on P-384"),
        ("ec -pkeyopt ec_paramgen_curve:secp256k1", "on the curve 1.3.132.0.10"),
        ("ed25519", "of type 1.3.101.112"),
        ("ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit", "of type 1.2.840.10045.2.1"),
    ] {
        assert_eq!(read(&ours(algorithm)).unwrap_err(), SealingFault::Key(expected.into()), "{algorithm}");
    }
    // A key of the right kind comes as far as to what OpenSSL says of its own accord: that it is an authority.
    assert!(matches!(read(&ours("ec -pkeyopt ec_paramgen_curve:P-256")), Err(SealingFault::Extension(_))));
    // The private key is 1.
    let mut one = [0; 32];
    one[31] = 1;
    let one = PrivateKey::from_private_key(&ECDH_P256, &one).unwrap();
    let der: Pkcs8V1Der<'_> = one.as_der().unwrap();
    let pem = der::pem::encode_string("PRIVATE KEY", der::pem::LineEnding::LF, der.as_ref()).unwrap();
    let pair = Pair::from_pem(pem.as_bytes()).unwrap();
    let certificate = params(&pair, &name("web1.test"), Role::Agent, YEAR).unwrap().self_signed(&pair).unwrap();
    assert_eq!(
        read(certificate.der()).unwrap_err(),
        SealingFault::Key("one whose private half everybody knows".into())
    );
    // Whoever has a public key cannot have it certified without the private one.
    let (theirs, ours) = (Pair::generate().unwrap().0, KeyPair::generate().unwrap());
    let params = params(&theirs, &name("web1.test"), Role::Agent, YEAR).unwrap();
    let forged = params.signed_by(&theirs, &rcgen::Issuer::from_params(&params, &ours)).unwrap();
    assert_eq!(read(forged.der()).unwrap_err(), SealingFault::Signature);
}

#[test]
fn a_certificate_that_was_cut_or_changed_is_refused() {
    let (key, _) = sealing_key("web1.test");
    let whole = key.certificate().der().to_vec();
    assert!(read(&whole).is_ok());
    for end in 0..whole.len() {
        assert_eq!(read(&whole[..end]).unwrap_err(), SealingFault::Encoding, "{end}");
    }
    assert_eq!(read(&[&whole[..], &[0]].concat()).unwrap_err(), SealingFault::Encoding);
    assert_eq!(read(&vec![0; 1 << 20]).unwrap_err(), SealingFault::Encoding);
    for bit in 0..whole.len() * 8 {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&changed).is_err(), "bit {bit}");
    }
}
