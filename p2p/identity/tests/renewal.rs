//! Certificates that are exchanged while they are in use, and requests for new ones.

#![allow(clippy::unwrap_used)]

mod cluster;

use std::fs;

use cluster::{Cluster, subject};
use hawker_identity::{
    AuthorityPin, CertificateRequest, Existing, Identity, IdentityError, NewKey, PeerCertificate,
    RequestError, TlsFiles, other_names, replace_pair, write_host,
};
use hawker_model::Role;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tempfile::TempDir;

fn installed(cluster: &Cluster) -> (TempDir, TlsFiles, Identity) {
    let dir = tempfile::tempdir().unwrap();
    let issued = cluster.authority.issue(&subject("node-1", Role::Node), 30);
    let authority = cluster.authority.cert_pem();
    let files = write_host(dir.path(), authority, &issued.unwrap(), Existing::Keep).unwrap();
    let identity = Identity::load(&files).unwrap();
    (dir, files, identity)
}

#[test]
fn a_new_certificate_is_used_without_a_restart() {
    let cluster = Cluster::new("prod");
    let (dir, _files, node) = installed(&cluster);
    let before = node.sign(b"values");
    assert!(!node.reload().unwrap().certificate);
    let issued = cluster
        .authority
        .issue(&subject("node-1", Role::Node), 60)
        .unwrap();
    let authority = cluster.authority.cert_pem();
    write_host(dir.path(), authority, &issued, Existing::Replace).unwrap();
    let mut changes = node.changes();
    assert!(node.reload().unwrap().certificate);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(node.serial(), issued.serial);
    let after = node.sign(b"values");
    assert_ne!(before.certificate, after.certificate);
    let peer = cluster.identity("node-2", Role::Node);
    for signed in [before, after] {
        let verified = peer.verify_signer(&signed.certificate, b"values", &signed.signature);
        assert_eq!(verified.unwrap().host, *node.host());
    }
}

#[test]
fn wrong_files_change_nothing() {
    let cluster = Cluster::new("prod");
    let (dir, files, node) = installed(&cluster);
    let serial = node.serial();
    let authority = cluster.authority.cert_pem();
    for (host, role) in [("node-2", Role::Node), ("node-1", Role::Seed)] {
        let issued = cluster.authority.issue(&subject(host, role), 30).unwrap();
        write_host(dir.path(), authority, &issued, Existing::Replace).unwrap();
        let error = node.reload().unwrap_err();
        assert!(matches!(error, IdentityError::Changed { .. }), "{error}");
    }
    let stranger = Cluster::new("prod").authority;
    let issued = stranger.issue(&subject("node-1", Role::Node), 30).unwrap();
    write_host(dir.path(), authority, &issued, Existing::Replace).unwrap();
    let error = node.reload().unwrap_err();
    assert!(
        matches!(error, IdentityError::OtherAuthority { .. }),
        "{error}"
    );
    fs::remove_file(&files.key).unwrap();
    assert!(matches!(node.reload(), Err(IdentityError::Read { .. })));
    assert_eq!(node.serial(), serial);
}

#[test]
fn a_renewal_that_is_cut_short_anywhere_leaves_a_pair_that_fits() {
    let cluster = Cluster::new("prod");
    let (_dir, files, node) = installed(&cluster);
    let issued = cluster
        .authority
        .issue(&subject("node-1", Role::Node), 30)
        .unwrap();
    let next = files.key.with_file_name("key.pem.next");
    // Before the certificate: the old pair.
    fs::write(&next, &issued.key_pem).unwrap();
    assert_eq!(Identity::load(&files).unwrap().serial(), node.serial());
    // After it: the new pair.
    fs::write(&files.cert, &issued.cert_pem).unwrap();
    assert!(node.reload().unwrap().certificate);
    assert_eq!(node.serial(), issued.serial);
    assert!(!next.exists());
    assert_eq!(Identity::load(&files).unwrap().serial(), issued.serial);
    // The same at a start.
    let later = cluster
        .authority
        .issue(&subject("node-1", Role::Node), 30)
        .unwrap();
    fs::write(&next, &later.key_pem).unwrap();
    fs::write(&files.cert, &later.cert_pem).unwrap();
    assert_eq!(Identity::load(&files).unwrap().serial(), later.serial);
    // A next key that belongs to neither does no harm.
    fs::write(&next, &issued.key_pem).unwrap();
    assert_eq!(Identity::load(&files).unwrap().serial(), later.serial);
    fs::write(&files.cert, &issued.cert_pem).unwrap();
    fs::write(&next, "rubbish").unwrap();
    let error = Identity::load(&files).unwrap_err();
    assert!(
        matches!(error, IdentityError::KeyMismatch { .. }),
        "{error}"
    );
}

#[test]
fn requests_prove_their_key_and_nothing_else_of_them_counts() {
    let cluster = Cluster::new("prod");
    let (_dir, files, node) = installed(&cluster);
    let key = NewKey::generate(node.host()).unwrap();
    assert!(!format!("{key:?}").contains("PRIVATE"));
    let request = CertificateRequest::from_pem(&key.request_pem).unwrap();
    let mut seed = subject("node-1", Role::Node);
    seed.names = vec!["a.example".into(), "10.0.0.1".into(), "2001:db8::1".into()];
    let certified = cluster.authority.issue_to(&request, &seed, 30).unwrap();
    replace_pair(&files, &certified.cert_pem, &key.key_pem).unwrap();
    assert!(node.reload().unwrap().certificate);
    assert_eq!(node.serial(), certified.serial);
    assert_eq!(other_names(&node.certificate()).unwrap(), seed.names);
}

#[test]
fn changed_requests_are_refused_and_never_panic() {
    let host = hawker_model::HostId::parse("node-1").unwrap();
    let good = NewKey::generate(&host).unwrap().request_pem;
    for at in 0..good.len() {
        let mut changed = good.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        // The label's end and the padding bits of base64 are not signed.
        let _ = CertificateRequest::from_pem(&changed);
        let _ = CertificateRequest::from_pem(&good[..at]);
    }
    let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let params = rcgen::CertificateParams::default();
    let pem = params.serialize_request(&ecdsa).unwrap().pem().unwrap();
    let error = CertificateRequest::from_pem(&pem).unwrap_err();
    assert!(matches!(error, RequestError::Algorithm), "{error}");
    let long = "A".repeat(10_000);
    assert!(matches!(
        CertificateRequest::from_pem(&long),
        Err(RequestError::TooLarge)
    ));
    // Signed by another key.
    let (one, two) = (
        NewKey::generate(&host).unwrap(),
        NewKey::generate(&host).unwrap(),
    );
    let mixed = swap_signature(&one.request_pem, &two.request_pem);
    let error = CertificateRequest::from_pem(&mixed).unwrap_err();
    assert!(matches!(error, RequestError::Signature), "{error}");
}

/// The request `one` with the signature of `two`: the last 64 bytes.
fn swap_signature(one: &str, two: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let der = |pem: &str| {
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        STANDARD.decode(body).unwrap()
    };
    let (mut one, two) = (der(one), der(two));
    let at = one.len() - 64;
    one[at..].copy_from_slice(&two[two.len() - 64..]);
    let label = "CERTIFICATE REQUEST";
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(one)
    )
}

#[test]
fn pins_name_the_key_of_an_authority() {
    let cluster = Cluster::new("prod");
    let pem = cluster.authority.cert_pem();
    let pin = AuthorityPin::of_pem(pem).unwrap();
    assert_eq!(pin.to_string().parse(), Ok(pin));
    let node = cluster.identity("node-1", Role::Node);
    assert_eq!(node.authority_pins(), [pin]);
    assert_ne!(
        AuthorityPin::of_pem(Cluster::new("prod").authority.cert_pem()),
        Some(pin)
    );
    assert_eq!(AuthorityPin::of(b"rubbish"), None);
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    assert_eq!(AuthorityPin::of(&der), Some(pin));
    assert!(PeerCertificate::parse(&der).is_err());
    for wrong in ["", "ab", &"g".repeat(64), &"é".repeat(32)] {
        assert!(wrong.parse::<AuthorityPin>().is_err(), "{wrong}");
    }
}
