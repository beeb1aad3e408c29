use super::*;
use crate::account::Secret;
use crate::authority::tests::name;
use crate::private::Scratch;
use crate::sealing::tests::{openssl, sealing_key};
use std::fs;
#[test]
fn make_corpus() {
    let out = std::path::PathBuf::from(std::env::var("CORPUS").unwrap());
    let put = |target: &str, bytes: &[u8]| {
        let folder = out.join(target);
        fs::create_dir_all(&folder).unwrap();
        let name: String = crate::signature::sha256(&[bytes]).to_string()[..40].to_owned();
        fs::write(folder.join(name), bytes).unwrap();
    };
    let (scratch, (key, pem)) = (Scratch::new(), sealing_key("web1.test"));
    fs::write(scratch.0.join("k.pem"), pem.as_bytes()).unwrap();
    fs::write(scratch.0.join("c.der"), key.certificate().der()).unwrap();
    openssl(&scratch, "x509 -inform DER -in c.der -out c.pem");
    let header = Header {
        group: GroupId([1; 16]),
        recipient: name("web1.test"),
        account: [2; 16],
        version: 3,
        purpose: Purpose::RunAs,
    };
    let secrets = [
        Secret::basic(b"ada", b"secret").unwrap(),
        Secret::community(b"public").unwrap(),
        Secret::binary(&[0; 40]).unwrap(),
        Secret::binary(&[7; 300]).unwrap(),
    ];
    for secret in &secrets {
        put("secret", secret.as_bytes());
        let head = encode(&header.to_wire(key.id()));
        put("secret", &[&u16::try_from(head.len()).unwrap().to_be_bytes(), &head[..], secret.as_bytes()].concat());
        put("secure_data", &seal(key.certificate(), &header, secret.as_bytes()).unwrap());
    }
    put("secure_data", &seal(key.certificate(), &header, &vec![1; 70000]).unwrap());
    let other = Header { purpose: Purpose::Submit, version: u64::MAX, ..header };
    let head = encode(&other.to_wire(key.id()));
    put("secret", &[&u16::try_from(head.len()).unwrap().to_be_bytes(), &head[..]].concat());
    put("secret", &[0, 0]);
    put("secret", &[0xff, 0xff, 8]);
    put("secret", &[1, 0, 0, 0, 1, b'a', 0xff, 0xff, 0xff, 0xff]);
    put("secret", &[2, 0, 0, 0, 2, b'a', b'\n']);
    fs::write(scratch.0.join("clear"), b"hello").unwrap();
    openssl(&scratch, "req -x509 -nodes -keyout k2.pem -subj /CN=x -days 30 -newkey rsa:2048 -out rsa.pem");
    openssl(
        &scratch,
        "req -x509 -nodes -keyout k2.pem -subj /CN=x -days 30 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -out p384.pem",
    );
    let k = "-keyopt ecdh_kdf_md:sha256";
    for how in [
        format!("-aes-256-gcm -recip c.pem {k}"),
        format!("-aes-256-gcm -keyid -recip c.pem {k}"),
        "-aes-256-gcm -recip c.pem".into(),
        format!("-aes-128-gcm -recip c.pem {k}"),
        format!("-aes-256-cbc -recip c.pem {k}"),
        "-aes-256-gcm -recip rsa.pem".into(),
        format!("-aes-256-gcm -recip c.pem {k} -recip rsa.pem"),
        format!("-aes-256-gcm -recip c.pem {k} -recip c.pem {k}"),
        format!("-aes-256-gcm -recip p384.pem {k}"),
        format!("-aes-256-gcm -recip c.pem {k} -stream"),
    ] {
        put("secure_data", &openssl(&scratch, &format!("cms -encrypt -binary -outform DER -in clear {how}")));
    }
    let whole = seal(key.certificate(), &header, b"x").unwrap();
    put("secure_data", &whole[..100]);
    put("secure_data", &whole[..30]);
    put("secure_data", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]);
    put("secure_data", &[0x30, 0x80]);
    put("secure_data", &[0x30; 300]);
    put("sealing_certificate", key.certificate().der());
    put("sealing_certificate", &key.certificate().der()[..200]);
    for c in ["rsa.pem", "p384.pem"] {
        put("sealing_certificate", &openssl(&scratch, &format!("x509 -in {c} -outform DER")));
    }
    let days = crate::authority::tests::group();
    put("sealing_certificate", days.issuing.certificate());
    let (long, _) = sealing_key(&format!("{}.{}.{}.test", "a".repeat(63), "b".repeat(63), "c".repeat(63)));
    put("sealing_certificate", long.certificate().der());
}
