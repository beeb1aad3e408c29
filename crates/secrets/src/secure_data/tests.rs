use std::fs;

use super::*;
use crate::authority::tests::name;
use crate::private::Scratch;
use crate::sealing::tests::{openssl, sealing_key};

const SECRET: &[u8] = b"correct horse battery staple";

fn header() -> Header {
    Header {
        group: GroupId([1; 16]),
        recipient: name("web1.test"),
        account: [2; 16],
        version: 3,
        purpose: Purpose::RunAs,
    }
}

/// Key and certificate of web1.test, as files that `openssl` takes.
fn files() -> (Scratch, SealingKey) {
    let (scratch, (key, pem)) = (Scratch::new(), sealing_key("web1.test"));
    fs::write(scratch.0.join("k.pem"), pem.as_bytes()).unwrap();
    fs::write(scratch.0.join("c.der"), key.certificate().der()).unwrap();
    openssl(&scratch, "x509 -inform DER -in c.der -out c.pem");
    (scratch, key)
}

fn content(header: &Header, key: KeyId, secret: &[u8]) -> Vec<u8> {
    let header = encode(&header.to_wire(key));
    [&u16::try_from(header.len()).unwrap().to_be_bytes(), &header[..], secret].concat()
}

#[test]
fn what_is_sealed_is_opened_by_its_recipient_who_expects_it() {
    let (key, _) = sealing_key("web1.test");
    let sealed = seal(key.certificate(), &header(), SECRET).unwrap();
    assert_eq!(key.open(&sealed).unwrap().expect(&header()).unwrap().as_slice(), SECRET);
    assert_ne!(seal(key.certificate(), &header(), SECRET).unwrap(), sealed, "each time it looks different");
    // One of several keys is found by itself.
    let (older, newer) = (sealing_key("web1.test").0, sealing_key("web1.test").0);
    assert!(open([&older, &key, &newer], &sealed).is_ok());
    assert_eq!(open([&older, &newer], &sealed).unwrap_err(), Refusal::OtherKey);
    // The certificate must be the one of whom the header names.
    let other = Header { recipient: name("web2.test"), ..header() };
    let (found, expected) = (name("web1.test"), name("web2.test"));
    assert_eq!(seal(key.certificate(), &other, SECRET), Err(SealError::Recipient { found, expected }));
}

#[test]
fn openssl_opens_ours_with_the_recipients_key() {
    let (scratch, key) = files();
    for secret in [SECRET, b"", &[0; 300], &[7; 70_000]] {
        fs::write(scratch.0.join("sealed"), seal(key.certificate(), &header(), secret).unwrap()).unwrap();
        for more in ["", " -recip c.pem"] {
            let clear = openssl(&scratch, &format!("cms -decrypt -binary -inform DER -in sealed -inkey k.pem{more}"));
            assert_eq!(clear, content(&header(), key.id(), secret));
        }
    }
}

#[test]
fn our_decoder_reads_openssls_and_takes_it_for_secure_data_only_with_a_header() {
    let (scratch, key) = files();
    let encrypt = "cms -encrypt -binary -aes-256-gcm -recip c.pem -keyopt ecdh_kdf_md:sha256 -outform DER -in clear";
    for how in ["", " -keyid"] {
        for length in [0, 1, 100, 200, 300, 70_000] {
            let clear = vec![b'x'; length];
            fs::write(scratch.0.join("clear"), &clear).unwrap();
            let sealed = openssl(&scratch, &format!("{encrypt}{how}"));
            assert_eq!(*opened([&key], &sealed).unwrap().1, clear);
            assert_eq!(key.open(&sealed).unwrap_err(), Refusal::NoHeader, "{length} bytes{how}");
        }
        fs::write(scratch.0.join("clear"), content(&header(), key.id(), SECRET)).unwrap();
        let sealed = openssl(&scratch, &format!("{encrypt}{how}"));
        assert_eq!(key.open(&sealed).unwrap().expect(&header()).unwrap().as_slice(), SECRET);
    }
}

#[test]
fn cms_of_another_kind_is_refused_by_its_name() {
    let (scratch, key) = files();
    fs::write(scratch.0.join("clear"), SECRET).unwrap();
    let certificate = "req -x509 -nodes -keyout k2.pem -subj /CN=x -days 30 -newkey";
    openssl(&scratch, &format!("{certificate} rsa:2048 -out rsa.pem"));
    openssl(&scratch, &format!("{certificate} ec -pkeyopt ec_paramgen_curve:P-384 -out p384.pem"));
    let sha256 = "-keyopt ecdh_kdf_md:sha256";
    for (how, expected) in [
        ("-aes-256-gcm -recip c.pem".to_owned(), "key agreement is not"),
        (format!("-aes-256-gcm -recip c.pem {sha256} -keyopt ecdh_cofactor_mode:1"), "key agreement is not"),
        (format!("-aes-128-gcm -recip c.pem {sha256}"), "key wrap is not"),
        (format!("-aes-256-cbc -recip c.pem {sha256}"), "type is not authenticated-enveloped"),
        ("-aes-256-gcm -recip rsa.pem".to_owned(), "does not agree on a key"),
        (format!("-aes-256-gcm -recip c.pem {sha256} -recip c.pem {sha256}"), "more than one recipient"),
        (format!("-aes-256-gcm -recip p384.pem {sha256}"), "not an uncompressed point of P-256"),
        (format!("-aes-256-gcm -recip c.pem {sha256} -stream"), "no secure data"),
    ] {
        let sealed = openssl(&scratch, &format!("cms -encrypt -binary -outform DER -in clear {how}"));
        let refusal = key.open(&sealed).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{how}: {refusal}");
    }
    let sealed = openssl(&scratch, &format!("cms -encrypt -binary -aes-256-gcm -in clear -recip c.pem {sha256}"));
    assert_eq!(key.open(&sealed).unwrap_err(), Refusal::Encoding, "as mail");
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let (key, _) = sealing_key("web1.test");
    let sealed = seal(key.certificate(), &header(), SECRET).unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(key.open(&changed).is_err(), "bit {bit}");
    }
}

#[test]
fn what_is_cut_anywhere_or_has_more_behind_it_is_no_secure_data() {
    let (key, _) = sealing_key("web1.test");
    let sealed = seal(key.certificate(), &header(), SECRET).unwrap();
    for end in 0..sealed.len() {
        assert_eq!(key.open(&sealed[..end]).unwrap_err(), Refusal::Encoding, "{end}");
        assert!(key.open(&sealed[end + 1..]).is_err(), "{end}");
    }
    assert_eq!(key.open(&[&sealed[..], &[0]].concat()).unwrap_err(), Refusal::Encoding);
    assert_eq!(key.open(&sealed.repeat(2)).unwrap_err(), Refusal::Encoding);
    assert_eq!(key.open(&vec![0x30; LIMIT + 1]).unwrap_err(), Refusal::Long(LIMIT + 1));
}

#[test]
fn one_for_another_group_recipient_account_version_or_purpose_is_refused() {
    let (key, _) = sealing_key("web1.test");
    for (what, other) in [
        ("group", Header { group: GroupId([9; 16]), ..header() }),
        ("recipient", Header { recipient: name("web2.test"), ..header() }),
        ("account", Header { account: [9; 16], ..header() }),
        ("version", Header { version: 2, ..header() }),
        ("version", Header { version: 4, ..header() }),
        ("purpose", Header { purpose: Purpose::Submit, ..header() }),
    ] {
        let sealed = cms::seal(key.certificate().recipient(), &[&content(&other, key.id(), SECRET)]).unwrap();
        assert_eq!(key.open(&sealed).unwrap().expect(&header()).unwrap_err(), Refusal::Other(what));
        assert_eq!(key.open(&sealed).unwrap().expect(&other).unwrap().as_slice(), SECRET);
    }
}

#[test]
fn one_for_another_key_is_refused_whoever_is_named_outside() {
    let ((ours, _), (theirs, _)) = (sealing_key("web1.test"), sealing_key("web2.test"));
    let sealed = seal(ours.certificate(), &header(), SECRET).unwrap();
    assert_eq!(theirs.open(&sealed).unwrap_err(), Refusal::OtherKey);
    let at = sealed.windows(16).position(|window| window == ours.id().0).unwrap();
    let named = [&sealed[..at], &theirs.id().0, &sealed[at + 16..]].concat();
    assert_eq!(theirs.open(&named).unwrap_err(), Refusal::Damaged);
    // What its recipient sealed on to somebody else, header and all.
    let passed = cms::seal(theirs.certificate().recipient(), &[&content(&header(), ours.id(), SECRET)]).unwrap();
    assert_eq!(theirs.open(&passed).unwrap_err(), Refusal::Other("key"));
}

#[test]
fn a_header_that_is_not_written_like_one_is_refused() {
    let (key, _) = sealing_key("web1.test");
    let good = header().to_wire(key.id());
    let read = |content: &[u8]| Header::read(content).map(|(header, ..)| header);
    let framed = |header: &[u8]| [&u16::try_from(header.len()).unwrap().to_be_bytes(), header].concat();
    let wire = |change: fn(&mut wire::Header)| {
        let mut header = good.clone();
        change(&mut header);
        read(&framed(&encode(&header)))
    };
    assert_eq!(wire(|_| ()), Ok(header()));
    assert_eq!(wire(|h| h.format = 2), Err(Refusal::Format(2)));
    for change in [
        (|h| h.format = 0) as fn(&mut wire::Header),
        |h| h.purpose = 0,
        |h| h.purpose = 9,
        |h| h.purpose = -1,
        |h| h.group = h.group.slice(1..),
        |h| h.account = [0; 17].to_vec().into(),
        |h| h.key = Bytes::new(),
        |h| h.recipient = "Web1.test".into(),
        |h| h.recipient = String::new(),
    ] {
        assert_eq!(wire(change), Err(Refusal::NoHeader));
    }
    let bytes = encode(&good);
    let unknown = [&bytes[..], &[0x40, 1]].concat();
    let twice = [&bytes[..], &bytes[..]].concat();
    for bad in [unknown, twice, vec![], vec![0xff; 100]] {
        assert_eq!(read(&framed(&bad)), Err(Refusal::NoHeader));
    }
    let whole = framed(&bytes);
    for end in 0..whole.len() {
        assert_eq!(read(&whole[..end]), Err(Refusal::NoHeader), "{end}");
    }
    assert_eq!(read(&[&[0xff, 0xff], &vec![0; 70_000][..]].concat()), Err(Refusal::NoHeader));
}

#[test]
fn secrets_of_every_length_come_back_as_they_were() {
    let (key, _) = sealing_key("web1.test");
    let seeds: u64 = std::env::var("SEEDS").map_or(200, |text| text.parse().unwrap());
    // Every length up to one that needs another byte for each length in the DER, then any.
    let edges = (0..300).chain(65_100..65_120).chain(65_530..65_540);
    let random = (0..seeds).map(|seed| crate::signature::sha256(&[&seed.to_be_bytes()]).0);
    let random = random.map(|hash| usize::from(u16::from_be_bytes([hash[0], hash[1]])) + usize::from(hash[2]) * 17);
    for length in edges.chain(random).chain([SECRET_LIMIT]) {
        let secret: Vec<u8> = (0..length).map(|i| (i * 31 + length) as u8).collect();
        let header = Header { version: length as u64, ..header() };
        let sealed = seal(key.certificate(), &header, &secret).unwrap();
        assert!(sealed.len() <= LIMIT && sealed.capacity() == sealed.len(), "one buffer, of the right size");
        assert_eq!(*key.open(&sealed).unwrap().expect(&header).unwrap(), secret, "{length}");
    }
    let long = vec![0; SECRET_LIMIT + 1];
    assert_eq!(seal(key.certificate(), &header(), &long), Err(SealError::Long(SECRET_LIMIT + 1)));
}
