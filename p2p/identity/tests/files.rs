//! Certificate files: how they are written, and what is said of bad ones.

#![allow(clippy::unwrap_used)]

mod cluster;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use cluster::{Cluster, DAY, subject};
use hawker_identity::{
    AuthorityFiles, Existing, Identity, TlsFiles, Validity, WriteError, write_authority, write_host,
};
use hawker_model::Role;
use tempfile::TempDir;

/// A cluster with the files of node-1 in a directory.
fn installed() -> (Cluster, TempDir, TlsFiles) {
    let (cluster, dir) = (Cluster::new("prod"), TempDir::new().unwrap());
    let issued = cluster.authority.issue(&subject("node-1", Role::Node), 30);
    let authority = cluster.authority.cert_pem();
    let files = write_host(dir.path(), authority, &issued.unwrap(), Existing::Keep).unwrap();
    (cluster, dir, files)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn refusal(files: &TlsFiles) -> String {
    Identity::load(files).unwrap_err().to_string()
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn a_host_loads_what_was_written() {
    let (_cluster, dir, files) = installed();
    assert_eq!(files, TlsFiles::in_dir(dir.path()));
    let identity = Identity::load(&files).unwrap();
    assert_eq!(identity.host().as_str(), "node-1");
    assert_eq!((identity.role(), identity.cluster()), (Role::Node, "prod"));
    let left = identity
        .not_after()
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(left > DAY * 29 && left <= DAY * 30);
    assert_eq!(mode(&files.key), 0o600);
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        3,
        "no drafts stay"
    );
}

#[test]
fn an_authority_survives_its_files() {
    let dir = TempDir::new().unwrap();
    let made = Cluster::new("prod").authority;
    let within = dir.path().join("new/dir");
    let files = write_authority(&within, &made, Existing::Keep).unwrap();
    assert_eq!(mode(&files.key), 0o600);
    assert_eq!(files, AuthorityFiles::in_dir(&within));
    let authority = files.load().unwrap();
    assert_eq!(authority.cluster(), "prod");
    let (made, authority) = (Cluster { authority: made }, Cluster { authority });
    // What one issues, hosts of the other believe.
    let (seed, node) = (
        authority.identity("seed-1", Role::Seed),
        made.identity("node-1", Role::Node),
    );
    let signature = seed.sign(b"values").signature;
    node.verify_signer(&seed.certificate(), b"values", &signature)
        .unwrap();
}

#[test]
fn nothing_is_overwritten_unless_forced() {
    let (cluster, dir, files) = installed();
    let before = fs::read(&files.key).unwrap();
    let issued = cluster
        .authority
        .issue(&subject("node-1", Role::Node), 30)
        .unwrap();
    let authority = cluster.authority.cert_pem();
    let again = write_host(dir.path(), authority, &issued, Existing::Keep).unwrap_err();
    assert!(
        matches!(&again, WriteError::Exists(path) if *path == files.key),
        "{again}"
    );
    assert_eq!(fs::read(&files.key).unwrap(), before);
    fs::remove_file(&files.key).unwrap();
    let half = write_host(dir.path(), authority, &issued, Existing::Keep).unwrap_err();
    assert!(
        matches!(&half, WriteError::Exists(path) if *path == files.cert),
        "{half}"
    );
    assert!(!files.key.exists(), "all or nothing");
    write_host(dir.path(), authority, &issued, Existing::Replace).unwrap();
    assert_eq!(fs::read_to_string(&files.key).unwrap(), issued.key_pem);
    Identity::load(&files).unwrap();
    let other = write_authority(dir.path(), &cluster.authority, Existing::Keep).unwrap_err();
    assert!(
        matches!(other, WriteError::Exists(_)),
        "ca.pem is the hosts' one"
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = write_authority(&file, &Cluster::new("prod").authority, Existing::Keep);
    assert_says(&error.unwrap_err().to_string(), &[file.to_str().unwrap()]);
}

#[test]
fn missing_and_foreign_files_are_named_with_the_remedy() {
    let (_cluster, _dir, files) = installed();
    for (file, name) in [
        (&files.ca, "ca.pem"),
        (&files.cert, "cert.pem"),
        (&files.key, "key.pem"),
    ] {
        let before = fs::read(file).unwrap();
        fs::remove_file(file).unwrap();
        assert_says(&refusal(&files), &[name, "No such file", "hawker ca"]);
        for rubbish in [
            "",
            "hello",
            "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        ] {
            fs::write(file, rubbish).unwrap();
            assert_says(&refusal(&files), &[name, "PEM", "hawker ca"]);
        }
        fs::write(file, before).unwrap();
    }
    // Certificate and key exchanged.
    let swapped = TlsFiles {
        cert: files.key.clone(),
        key: files.cert.clone(),
        ..files.clone()
    };
    assert_says(&refusal(&swapped), &["key.pem", "no certificate"]);
    Identity::load(&files).unwrap();
}

#[test]
fn certificates_that_are_no_certificates_are_named() {
    let (_cluster, _dir, files) = installed();
    let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let before = fs::read(&files.ca).unwrap();
    fs::write(&files.ca, rubbish).unwrap();
    assert_says(&refusal(&files), &["ca.pem", "copy the cluster's ca.pem"]);
    fs::write(&files.ca, before).unwrap();
    fs::write(&files.cert, rubbish).unwrap();
    assert_says(&refusal(&files), &["cert.pem", "no X.509", "hawker ca"]);
}

#[test]
fn a_key_of_another_certificate_is_told() {
    let (cluster, _dir, files) = installed();
    let other = cluster
        .authority
        .issue(&subject("node-1", Role::Node), 30)
        .unwrap();
    fs::write(&files.key, other.key_pem).unwrap();
    assert_says(
        &refusal(&files),
        &["key.pem", "cert.pem", "does not belong"],
    );
}

#[test]
fn keys_of_another_kind_are_told() {
    let (_cluster, _dir, files) = installed();
    let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    fs::write(&files.key, ecdsa.serialize_pem()).unwrap();
    assert_says(&refusal(&files), &["key.pem", "not Ed25519", "hawker ca"]);
}

#[test]
fn another_authority_is_told() {
    let (_cluster, _dir, files) = installed();
    fs::write(&files.ca, Cluster::new("prod").authority.cert_pem()).unwrap();
    assert_says(
        &refusal(&files),
        &["cert.pem", "ca.pem", "was not issued by"],
    );
}

#[test]
fn both_authorities_are_believed_while_one_is_replaced() {
    let (cluster, _dir, files) = installed();
    let next = Cluster::new("prod");
    let both = [next.authority.cert_pem(), cluster.authority.cert_pem()].concat();
    fs::write(&files.ca, both).unwrap();
    let node = Identity::load(&files).unwrap();
    for seed in [
        cluster.identity("old", Role::Seed),
        next.identity("new", Role::Seed),
    ] {
        let signature = seed.sign(b"values").signature;
        node.verify_signer(&seed.certificate(), b"values", &signature)
            .unwrap();
    }
}

#[test]
fn time_outside_the_validity_is_told() {
    let (cluster, _dir, files) = installed();
    let now = SystemTime::now();
    let write = |not_before, not_after| {
        let validity = Validity {
            not_before,
            not_after,
        };
        let issued = cluster
            .authority
            .issue_for(&subject("node-1", Role::Node), validity)
            .unwrap();
        fs::write(&files.cert, issued.cert_pem).unwrap();
        fs::write(&files.key, issued.key_pem).unwrap();
        refusal(&files)
    };
    let expired = write(now - DAY * 2, now - DAY);
    assert_says(&expired, &["cert.pem expired on 20", "UTC", "hawker ca"]);
    let early = write(now + DAY, now + DAY * 2);
    assert_says(
        &early,
        &[
            "cert.pem is not valid before 20",
            "clock says 20",
            "set the clock",
        ],
    );
}

#[test]
fn certificates_of_others_are_told() {
    let (_cluster, _dir, files) = installed();
    // As an operator's own tools would make it: fine, but without a role.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let write = |names: &[&str]| {
        let mut params = rcgen::CertificateParams::default();
        let uri = |name: &&str| rcgen::SanType::URI((*name).try_into().unwrap());
        params.subject_alt_names = names.iter().map(uri).collect();
        fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        refusal(&files)
    };
    assert_says(
        &write(&[]),
        &["cert.pem", "carries no Hawker role", "hawker ca"],
    );
    assert_says(&write(&["https://node-1"]), &["carries no Hawker role"]);
    let unknown = "spiffe://prod/hawker/admin/a";
    assert_says(&write(&[unknown]), &["\"admin\"", "node, seed, scheduler"]);
    assert_says(
        &write(&["spiffe://prod/web"]),
        &["spiffe://prod/web", "form"],
    );
    let host = "spiffe://prod/hawker/node/a";
    assert_says(&write(&[host, host]), &["more than one"]);
    // Signed by itself.
    assert_says(&write(&[host]), &["was not issued by the authority in"]);
}

#[test]
fn an_authority_that_does_not_fit_is_told() {
    let one = Cluster::new("prod").authority;
    let other = Cluster::new("prod").authority;
    let load = |cert: &str, key: &str| {
        hawker_identity::ClusterCa::load(cert, key)
            .unwrap_err()
            .to_string()
    };
    assert_says(
        &load(one.cert_pem(), &other.key_pem()),
        &["does not belong"],
    );
    assert_says(&load("", &one.key_pem()), &["certificate cannot be read"]);
    assert_says(&load(one.cert_pem(), "rubbish"), &["key cannot be read"]);
    let host = one.issue(&subject("node-1", Role::Node), 1).unwrap();
    assert_says(
        &load(&host.cert_pem, &host.key_pem),
        &["may not sign others"],
    );
    let debug = format!("{one:?} {host:?}");
    assert!(!debug.contains("PRIVATE"), "{debug}");
}

#[test]
fn certificates_end_with_their_authority() {
    let authority = hawker_identity::ClusterCa::create("prod", 10).unwrap();
    let cluster = Cluster { authority };
    let node = cluster.identity("node-1", Role::Node);
    let early = cluster
        .authority
        .not_after()
        .duration_since(node.not_after())
        .unwrap();
    assert!(early < Duration::from_secs(1));
}

#[test]
fn impossible_certificates_are_refused() {
    use hawker_identity::{CaError, ClusterCa};
    for name in ["", "Prod", "a b", "a/b", &"x".repeat(129)] {
        assert!(matches!(
            ClusterCa::create(name, 1),
            Err(CaError::ClusterName(_))
        ));
    }
    assert!(matches!(
        ClusterCa::create("prod", 0),
        Err(CaError::Days(0))
    ));
    let authority = ClusterCa::create("prod", 1).unwrap();
    for days in [0, u32::MAX] {
        let issued = authority.issue(&subject("node-1", Role::Node), days);
        assert!(matches!(issued, Err(CaError::Days(_))));
    }
    let mut subject = subject(&"x".repeat(128), Role::Scheduler);
    subject.names = vec![
        "sched.example".into(),
        "*.example".into(),
        "10.0.0.1".into(),
        "::1".into(),
    ];
    authority.issue(&subject, 1).unwrap();
    let now = SystemTime::now();
    let (not_before, not_after) = (now, now - DAY);
    let backwards = authority.issue_for(
        &subject,
        Validity {
            not_before,
            not_after,
        },
    );
    assert!(matches!(backwards, Err(CaError::Backwards)));
    subject.names = vec!["not a name".into()];
    assert!(matches!(
        authority.issue(&subject, 1),
        Err(CaError::Name(_))
    ));
}
