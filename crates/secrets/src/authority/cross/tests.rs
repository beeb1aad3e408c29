//! What a company's CA can make, once the root has taken it in, and what it cannot.

use std::time::SystemTime;

use rcgen::{
    CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm,
};
use wardline_proto::Role;

use super::super::tests::{GROUP, at, group, name, public};
use std::time::UNIX_EPOCH;

use super::*;
use crate::authority::certificates_pem;
use crate::certificate::{CHANNEL_USAGES, DUTY_URI, Fault, leaf};
use crate::trust::Root;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn params(from: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "Company");
    params.distinguished_name.push(DnType::CommonName, "Channel CA");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (UNIX_EPOCH + Duration::from_secs(from)).into();
    params.not_after = (UNIX_EPOCH + Duration::from_secs(from + 3600)).into();
    params
}

fn company(algorithm: &'static SignatureAlgorithm, change: impl Fn(&mut CertificateParams)) -> Issuer {
    let mut params = params(now() - 60);
    change(&mut params);
    CertifiedIssuer::self_signed(params, KeyPair::generate_for(algorithm).unwrap()).unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn taken(company: &Issuer) -> Result<OwnCa, CaFault> {
    OwnCa::from_pem(company.pem().as_bytes(), now())
}

/// What a CA issues for this name, with this URI.
fn issued(by: &Issuer, uri: &str) -> CertificateDer<'static> {
    let mut params = leaf(&name("web1.test"), uri, &CHANNEL_USAGES).unwrap();
    params.is_ca = IsCa::ExplicitNoCa;
    Validity::lasting(now() - 60, 600).write(&mut params).unwrap();
    params.signed_by(&public(), by).unwrap().into()
}

fn trusted(root: &RootAuthority) -> Root {
    Root::from_certificate(root.certificate(), GROUP, root.pin()).unwrap()
}

#[test]
fn a_company_ca_issues_channel_certificates_and_nothing_else() {
    let group = group();
    let (root, time) = (trusted(&group.root), at(now()));
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
        let company = company(algorithm, |_| ());
        let ca = taken(&company).unwrap();
        let cross = group.root.cross(&ca, ca.validity()).unwrap();
        let chain = std::slice::from_ref(&cross);
        let channel = issued(&company, Role::Agent.uri());
        assert_eq!(root.channel(&channel, chain, time).unwrap().name, name("web1.test"));
        // Only for a key that channels use.
        let mut wanted = leaf(&name("web1.test"), Role::Agent.uri(), &CHANNEL_USAGES).unwrap();
        wanted.is_ca = IsCa::ExplicitNoCa;
        let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let other = wanted.signed_by(&other, &company).unwrap().into();
        assert_eq!(root.channel(&other, chain, time), Err(Fault::Key));
        // Without the root's word for it the CA is nobody's.
        assert!(matches!(root.channel(&channel, &[], time), Err(Fault::Chain(_))));
        assert!(matches!(root.channel(&channel, &[company.der().clone()], time), Err(Fault::Chain(_))));
        // It ends with the certificate that the company has given it.
        assert!(matches!(root.channel(&channel, chain, at(now() + 4000)), Err(Fault::Validity(..))));
        // No duty certificate, in any order of the chain, and no channel certificate that says it is one.
        let duty = issued(&company, DUTY_URI);
        assert_eq!(root.channel(&duty, chain, time), Err(Fault::Role(DUTY_URI.into())));
        for chain in [vec![duty.clone()], vec![duty.clone(), cross.clone()], vec![cross.clone()]] {
            assert!(root.duty(&chain, time).is_err(), "{}", chain.len());
        }
        // No CA below it, and it is no leaf itself.
        let below = CertifiedIssuer::signed_by(params(now() - 60), KeyPair::generate().unwrap(), &company).unwrap();
        let deeper = issued(&below, Role::Agent.uri());
        assert!(matches!(root.channel(&deeper, &[below.der().clone(), cross.clone()], time), Err(Fault::Chain(_))));
        assert!(root.channel(&cross, &[], time).is_err());
    }
}

#[test]
fn what_the_company_allows_its_ca_to_name_holds_in_the_group() {
    let group = group();
    let constrained = company(&PKCS_ECDSA_P256_SHA256, |params| {
        let permitted_subtrees = vec![rcgen::GeneralSubtree::DnsName("corp.test".into())];
        params.name_constraints = Some(rcgen::NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    });
    let ca = taken(&constrained).unwrap();
    let cross = group.root.cross(&ca, ca.validity()).unwrap();
    let refused = trusted(&group.root).channel(&issued(&constrained, Role::Agent.uri()), &[cross], at(now()));
    assert!(matches!(refused, Err(Fault::Chain(_))), "{refused:?}");
}

#[test]
fn a_file_that_names_no_ca_is_refused_with_what_it_misses() {
    let group = group();
    let p256 = |change: fn(&mut CertificateParams)| company(&PKCS_ECDSA_P256_SHA256, change);
    let good = p256(|_| ());
    assert_eq!(taken(&good).unwrap().name(), "O=Company,CN=Channel CA");
    let refused = |company: &Issuer| taken(company).unwrap_err();
    assert_eq!(refused(&p256(|params| params.is_ca = IsCa::ExplicitNoCa)), CaFault::NoCa);
    assert_eq!(refused(&p256(|params| params.is_ca = IsCa::NoCa)), CaFault::NoCa);
    assert_eq!(refused(&p256(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign])), CaFault::NoCa);
    assert_eq!(refused(&p256(|params| *params = self::params(now() - 7200))), CaFault::Validity);
    assert_eq!(refused(&p256(|params| *params = self::params(now() + 60))), CaFault::Validity);
    assert_eq!(refused(&company(&PKCS_ED25519, |_| ())), CaFault::Key);
    let from = |pem: &str| OwnCa::from_pem(pem.as_bytes(), now()).unwrap_err();
    assert_eq!(from(""), CaFault::Encoding);
    assert_eq!(from(&good.pem().replace("MII", "AII")), CaFault::Encoding);
    assert_eq!(from(&certificates_pem(&[good.der(), good.der()]).unwrap()), CaFault::Several(2));
    let ca = taken(&good).unwrap();
    let beyond = Validity { from: now(), to: group.root.not_after() + 1 };
    assert!(matches!(group.root.cross(&ca, beyond), Err(AuthorityError::Outlives(_))));
}
