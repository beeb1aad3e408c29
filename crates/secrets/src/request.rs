//! Certificate signing requests (PKCS#10): how a host asks for its channel certificate, and how the issuing side reads
//! that. A request asks for one name and one role, exactly as the certificate will say it; anything else is refused.
//!
//! ```text
//!  subject     the name, or nothing when it is too long for a common name
//!  public key  the channel key's; its private half signs the request
//!  attribute   the wanted extensions: one DNS name and one role URI, digital signature, both ends of a channel
//! ```

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use der::oid::AssociatedOid as _;
use der::oid::db::{rfc5280, rfc5912};
use der::{Decode as _, Encode as _};
use wardline_proto::{Name, Role};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::request::{CertReq, ExtensionReq};

use crate::authority::{AuthorityError, made};
use crate::certificate::{CHANNEL_USAGES, COMMON_NAME_LIMIT, common_name, leaf};
use crate::pair::Pair;
use crate::signature::VerifyingKey;

/// The most bytes of a request that is looked at.
const REQUEST_LIMIT: usize = 4096;

/// Why a certificate signing request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a request.
    #[error("it cannot be decoded")]
    Encoding,
    /// Its key is none on P-256.
    #[error("its key is none on P-256")]
    Key,
    /// Who made it does not have the private key.
    #[error("its signature does not fit its key")]
    Signature,
    /// It asks for more or other than one name and role.
    #[error("it asks for more or other than a channel certificate for one name and role: {0}")]
    Asks(&'static str),
}

/// A request (PKCS#10, RFC 2986, in DER) for a channel certificate for this name and role, signed by the key (PKCS#8 in
/// PEM) that it is to be for.
///
/// # Errors
/// The key is none.
pub fn request(key: &[u8], name: &Name, role: Role) -> Result<Vec<u8>, AuthorityError> {
    let request = leaf(name, role.uri(), &CHANNEL_USAGES).map_err(made)?.serialize_request(&Pair::from_pem(key)?);
    Ok(request.map_err(made)?.der().to_vec())
}

/// What a request asks for, by somebody who has the private key. Whether they may have it is for the caller to decide.
#[derive(Clone, Debug)]
pub struct Request {
    /// The name.
    pub name: Name,
    /// The role.
    pub role: Role,
    /// The public key.
    pub key: VerifyingKey,
}

impl Request {
    /// Reads a request in DER.
    ///
    /// # Errors
    /// It is none, its signature does not fit, or it asks for anything but one name and role as [`request`] does.
    pub fn parse(der: &[u8]) -> Result<Self, RequestError> {
        let bounded = (der.len() <= REQUEST_LIMIT).then_some(der).ok_or(RequestError::Encoding)?;
        let request = CertReq::from_der(bounded).map_err(|_| RequestError::Encoding)?;
        let CertReq { info, algorithm, signature } = request;
        let spki = info.public_key.to_der().map_err(|_| RequestError::Key)?;
        let key = VerifyingKey::from_spki(&spki).map_err(|_| RequestError::Key)?;
        let signed = info.to_der().map_err(|_| RequestError::Encoding)?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.point());
        let fits = public.verify(&signed, signature.as_bytes().unwrap_or_default()).is_ok();
        if algorithm.oid != rfc5912::ECDSA_WITH_SHA_256 || algorithm.parameters.is_some() || !fits {
            return Err(RequestError::Signature);
        }
        let (name, role) = asked(&info.attributes).map_err(RequestError::Asks)?;
        let long = name.as_str().len() > COMMON_NAME_LIMIT;
        if common_name(&info.subject) != Some(name.as_str()) && !(long && info.subject.is_empty()) {
            return Err(RequestError::Asks("its subject is not the common name of that name"));
        }
        Ok(Self { name, role, key })
    }
}

/// The name and role in the one attribute of a request, the wanted extensions (RFC 2985, section 5.4.2).
fn asked(attributes: &x509_cert::attr::Attributes) -> Result<(Name, Role), &'static str> {
    let [attribute] = attributes.as_slice() else { return Err("not exactly one attribute") };
    let [value] = attribute.values.as_slice() else { return Err("not exactly one value in its attribute") };
    if attribute.oid != ExtensionReq::OID {
        return Err("an attribute that wants no extensions");
    }
    let extensions = value.to_der().and_then(|der| Vec::<Extension>::from_der(&der));
    let extensions = extensions.map_err(|_| "extensions that cannot be read")?;
    let find = |oid| extensions.iter().find(|e| e.extn_id == oid).map(|e| e.extn_value.as_bytes());
    // Three that are all there are each there once.
    if extensions.len() != 3 {
        return Err("not exactly names, key usage and extended key usage");
    }
    let usage = find(rfc5280::ID_CE_KEY_USAGE).and_then(|der| KeyUsage::from_der(der).ok());
    if usage != Some(KeyUsage(KeyUsages::DigitalSignature.into())) {
        return Err("its key usage is not digital signature");
    }
    let usages = find(rfc5280::ID_CE_EXT_KEY_USAGE).and_then(|der| ExtendedKeyUsage::from_der(der).ok());
    if usages != Some(ExtendedKeyUsage(vec![rfc5280::ID_KP_SERVER_AUTH, rfc5280::ID_KP_CLIENT_AUTH])) {
        return Err("its extended key usage is not server and client authentication");
    }
    let names = find(rfc5280::ID_CE_SUBJECT_ALT_NAME).and_then(|der| SubjectAltName::from_der(der).ok());
    match names.as_ref().map(|SubjectAltName(names)| names.as_slice()) {
        Some([GeneralName::DnsName(dns), GeneralName::UniformResourceIdentifier(uri)]) => {
            let name = dns.as_str().parse().map_err(|_| "its DNS name is no host name")?;
            Ok((name, Role::from_uri(uri.as_str()).ok_or("its URI is no role")?))
        }
        _ => Err("its names are not one DNS name and one URI"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
        SanType,
    };
    use rustls::pki_types::ServerName;
    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::authority::certificates_pem;
    use crate::authority::tests::{GROUP, Group, group, name};
    use crate::certificate::DUTY_URI;
    use crate::private::{self, Scratch};
    use crate::protect::Vault;
    use crate::signature::SigningKey;
    use crate::tls;

    impl Group {
        /// As a host joins: with a key of its own and a request.
        fn joined(&self, host: &str, role: Role) -> tls::Channel {
            let (_, pem) = SigningKey::generate(GROUP).unwrap();
            let asked = Request::parse(&request(pem.as_bytes(), &name(host), role).unwrap()).unwrap();
            assert_eq!((&asked.name, asked.role), (&name(host), role));
            let leaf = self.issuing.channel(&asked.name, asked.role, &asked.key, self.days()).unwrap();
            let (scratch, chain) = (Scratch::new(), certificates_pem(&[&leaf, self.issuing.certificate()]).unwrap());
            private::write(&scratch.0.join("channel.pem"), chain.as_bytes()).unwrap();
            private::write(&scratch.0.join("channel.key"), pem.as_bytes()).unwrap();
            tls::Channel::load(&Vault::look(&scratch.0).unwrap(), &scratch.0, self.trusted(), &name(host), role)
                .unwrap()
        }
    }

    #[test]
    fn members_that_joined_by_request_finish_a_handshake_and_strangers_do_not() {
        let (north, other) = (group(), group());
        let long = ["a"; 60].join(".");
        let server = north.joined(&long, Role::Server);
        let shake = |child: &tls::Channel| {
            let dial = tls::Dial::new(&name(&long), Some(child), false).unwrap().config;
            let mut child = ClientConnection::new(dial, ServerName::try_from("unused").unwrap()).unwrap();
            let mut parent = ServerConnection::new(Arc::new(server.listen().unwrap())).unwrap();
            while child.is_handshaking() || parent.is_handshaking() {
                let mut bytes = vec![];
                child.write_tls(&mut bytes)?;
                parent.read_tls(&mut bytes.as_slice())?;
                parent.process_new_packets().map_err(std::io::Error::other)?;
                bytes.clear();
                parent.write_tls(&mut bytes)?;
                child.read_tls(&mut bytes.as_slice())?;
                child.process_new_packets().map_err(std::io::Error::other)?;
            }
            Ok::<_, std::io::Error>(server.peer(parent.peer_certificates()).unwrap().to_string())
        };
        assert_eq!(shake(&north.joined("web1.test", Role::Agent)).unwrap(), "agent web1.test");
        assert_eq!(shake(&north.joined("gw.test", Role::Gateway)).unwrap(), "gateway gw.test");
        assert!(shake(&other.joined("web1.test", Role::Agent)).is_err());
    }

    #[test]
    fn a_request_for_anything_but_one_name_and_role_is_refused() {
        let (key, _) = Pair::generate().unwrap();
        let bent = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = leaf(&name("web1.test"), Role::Agent.uri(), &CHANNEL_USAGES).unwrap();
            change(&mut params);
            Request::parse(params.serialize_request(&key).unwrap().der())
        };
        let other = |text: &str| SanType::DnsName(text.try_into().unwrap());
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        assert!(bent(&|_| ()).is_ok());
        let changes: [&dyn Fn(&mut CertificateParams); 16] = [
            &|p| p.subject_alt_names.push(other("other.test")),
            &|p| p.subject_alt_names.push(uri(Role::Server.uri())),
            &|p| p.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into())),
            &|p| p.subject_alt_names.truncate(1),
            &|p| p.subject_alt_names.clear(),
            &|p| p.subject_alt_names[0] = other("*.test"),
            &|p| p.subject_alt_names[0] = other("WEB1.test"),
            &|p| p.subject_alt_names[0] = other("web2.test"),
            &|p| p.subject_alt_names[1] = uri(DUTY_URI),
            &|p| p.extended_key_usages.truncate(1),
            &|p| p.extended_key_usages[0] = ExtendedKeyUsagePurpose::CodeSigning,
            &|p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::Any),
            &|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
            &|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            &|p| p.distinguished_name.push(DnType::OrganizationName, "root"),
            &|p| p.distinguished_name = DistinguishedName::new(),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            assert!(matches!(bent(change), Err(RequestError::Asks(_))), "{i}: {:?}", bent(change));
        }
    }

    #[test]
    fn a_request_with_any_bit_changed_is_refused() {
        let (_, pem) = SigningKey::generate(GROUP).unwrap();
        let good = request(pem.as_bytes(), &name("web1.test"), Role::Agent).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Request::parse(&bad).is_err(), "{bit}");
        }
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        assert_eq!(Request::parse(&bad).unwrap_err(), RequestError::Signature);
        for bad in [&[good.as_slice(), &[0]].concat(), &good[1..], &[], &[0x30; REQUEST_LIMIT + 1]] {
            assert_eq!(Request::parse(bad).unwrap_err(), RequestError::Encoding);
        }
    }
}
