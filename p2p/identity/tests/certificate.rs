//! The certificates' profile, as `p2p/docs/wire.md` has it, and parsing of others'.

#![allow(clippy::unwrap_used)]

mod cluster;

use cluster::{Cluster, subject};
use hawker_identity::PeerCertificate;
use hawker_model::Role;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

#[test]
fn certificates_have_the_documented_profile() {
    let authority = Cluster::new("prod").authority;
    let mut seed = subject("seed-1", Role::Seed);
    seed.names = vec!["seed.example".into(), "10.0.0.1".into()];
    let issued = authority.issue(&seed, 30).unwrap();
    let pems = [authority.cert_pem(), &issued.cert_pem];
    let [root, host] = pems.map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
    let (_, root) = X509Certificate::from_der(&root).unwrap();
    let constraints = root.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = root.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());

    let (_, host) = X509Certificate::from_der(&host).unwrap();
    assert!(!host.is_ca());
    assert_eq!(host.issuer(), root.subject());
    assert!(host.subject().to_string().contains("CN=seed-1"));
    let usage = host.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let extended = host.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    let names = host.subject_alternative_name().unwrap().unwrap().value;
    let expected = [
        GeneralName::URI("spiffe://prod/hawker/seed/seed-1"),
        GeneralName::DNSName("seed.example"),
        GeneralName::IPAddress(&[10, 0, 0, 1]),
    ];
    assert_eq!(names.general_names, expected);
    for certificate in [&root, &host] {
        let algorithm = &certificate.public_key().algorithm.algorithm;
        assert_eq!(algorithm.to_id_string(), "1.3.101.112");
    }
}

#[test]
fn changed_certificates_are_refused_or_read_and_never_panic() {
    let node = Cluster::new("prod").identity("node-1", Role::Node);
    let der = node.certificate();
    assert_eq!(PeerCertificate::parse(&der).unwrap().host, *node.host());
    let (message, signature) = (b"values", node.sign(b"values").signature);
    for at in 0..der.len() {
        for value in [0x00, 0x30, 0x7f, 0x80, 0xff, der[at] ^ 1] {
            let mut changed = der.to_vec();
            changed[at] = value;
            let _ = PeerCertificate::parse(&changed);
            let believed = node.verify_signer(&changed, message, &signature).is_ok();
            assert!(!believed || value == der[at], "byte {at} = {value:#x}");
        }
        assert!(PeerCertificate::parse(&der[..at]).is_err());
    }
    let longer = [&der[..], &[0]].concat();
    assert!(PeerCertificate::parse(&longer).is_err());
}
