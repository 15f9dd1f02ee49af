//! Revoked certificates: lists, whose word counts, and who is refused.

#![allow(clippy::unwrap_used)]

mod cluster;

use std::{fs, sync::Arc};

use cluster::{Cluster, subject};
use hawker_identity::{
    CertificateId, CrlError, Distrust, Existing, Identity, IdentityError, Learned, MAX_CRLS,
    PeerCertificate, TlsFiles, explain_io, server_name, write_host, write_public,
};
use hawker_model::Role;
use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn der(pem: &str) -> Vec<u8> {
    let list = CertificateRevocationListDer::from_pem_slice(pem.as_bytes());
    list.unwrap().to_vec()
}

fn id(of: &Identity) -> CertificateId {
    PeerCertificate::parse(&of.certificate()).unwrap().id
}

/// A list that revokes `revoked`.
fn list(cluster: &Cluster, revoked: &Identity, before: Option<&str>) -> String {
    let before = before.map(str::as_bytes);
    cluster
        .authority
        .revoke(&[revoked.serial()], before)
        .unwrap()
}

#[test]
fn revoked_hosts_are_no_longer_believed() {
    let cluster = Cluster::new("prod");
    let (node, bad) = (
        cluster.identity("node-1", Role::Node),
        cluster.identity("seed-1", Role::Seed),
    );
    let signed = bad.sign(b"values");
    let verify = || node.verify_signer(&signed.certificate, b"values", &signed.signature);
    assert!(verify().is_ok());
    let mut changes = node.changes();
    assert!(!changes.has_changed().unwrap());
    let list = list(&cluster, &bad, None);
    assert_eq!(node.learn(&der(&list)), Ok(Learned::Newer));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(node.check(&id(&bad)), Err(Distrust::Revoked));
    assert_eq!(node.check(&id(&node)), Ok(()));
    let error = verify().unwrap_err().to_string();
    assert!(error.contains("it was revoked"), "{error}");
    assert_eq!(node.learn(&der(&list)), Ok(Learned::Known));
    assert!(!changes.has_changed().unwrap());
    assert_eq!(node.revoked_count(), 1);
}

#[test]
fn newer_lists_keep_what_was_revoked_and_older_ones_change_nothing() {
    let cluster = Cluster::new("prod");
    let [node, one, two] =
        ["node-1", "node-2", "node-3"].map(|host| cluster.identity(host, Role::Node));
    let first = list(&cluster, &one, None);
    let second = list(&cluster, &two, Some(&first));
    assert_eq!(node.learn(&der(&second)), Ok(Learned::Newer));
    assert_eq!(node.learn(&der(&first)), Ok(Learned::Known));
    for bad in [&one, &two] {
        assert_eq!(node.check(&id(bad)), Err(Distrust::Revoked));
    }
    let own = cluster.authority.own_lists(second.as_bytes()).unwrap();
    assert_eq!(own[0].revoked().count(), 2);
}

/// A host that was told `lists`, in this order.
fn told(cluster: &Cluster, lists: &[&String]) -> (tempfile::TempDir, TlsFiles, Identity) {
    let (dir, files, node) = installed(cluster);
    for list in lists {
        node.learn(&der(list)).unwrap();
    }
    (dir, files, node)
}

fn assert_revoked(node: &Identity, revoked: &[&Arc<Identity>]) {
    for bad in revoked {
        assert_eq!(node.check(&id(bad)), Err(Distrust::Revoked));
    }
    assert_eq!(node.revoked_count(), revoked.len());
}

#[test]
fn lists_of_two_who_do_not_know_of_each_other_both_count() {
    let cluster = Cluster::new("prod");
    let bad = [1, 2, 3].map(|n| cluster.identity(&format!("node-{n}"), Role::Node));
    let [one, two, three] = &bad;
    let (first, second) = (list(&cluster, one, None), list(&cluster, two, None));
    for order in [[&first, &second], [&second, &first]] {
        let (_dir, files, node) = told(&cluster, &order);
        assert_revoked(&node, &[one, two]);
        // Also for the next start, and for whoever is given the file.
        node.keep_lists().unwrap();
        assert_revoked(&Identity::load(&files).unwrap(), &[one, two]);
        let (_other_dir, other_files, other) = installed(&cluster);
        fs::copy(&files.crl, &other_files.crl).unwrap();
        assert!(other.reload().unwrap().revocations);
        assert_revoked(&other, &[one, two]);
        // The next list is of all of them, and all that is kept.
        let all = list(&cluster, three, node.crl_pem().as_deref());
        assert_eq!(node.learn(&der(&all)), Ok(Learned::Newer));
        assert_revoked(&node, &[one, two, three]);
        assert_eq!(node.crls().len(), 1);
        for older in order {
            assert_eq!(node.learn(&der(older)), Ok(Learned::Known));
        }
    }
}

#[test]
fn a_newer_list_that_says_less_takes_nothing_back() {
    let cluster = Cluster::new("prod");
    let [one, two] = [1, 2].map(|n| cluster.identity(&format!("node-{n}"), Role::Node));
    let first = list(&cluster, &one, None);
    let both = list(&cluster, &two, Some(&first));
    // The same again has the higher number each time.
    let again = |before: String, _| list(&cluster, &one, Some(&before));
    let less = (0..5).fold(first, again);
    let (_dir, _files, node) = told(&cluster, &[&both]);
    let number = cluster.authority.own_lists(less.as_bytes()).unwrap()[0].number();
    assert!(number > node.crls()[0].number());
    assert_eq!(node.learn(&der(&less)), Ok(Learned::Known));
    assert_revoked(&node, &[&one, &two]);
}

#[test]
fn an_older_file_put_in_place_between_two_starts_takes_nothing_back() {
    let cluster = Cluster::new("prod");
    let [one, two] = [1, 2].map(|n| cluster.identity(&format!("node-{n}"), Role::Node));
    let first = list(&cluster, &one, None);
    let (_dir, files, node) = told(&cluster, &[&list(&cluster, &two, Some(&first))]);
    node.keep_lists().unwrap();
    write_public(&files.crl, &first).unwrap();
    let node = Identity::load(&files).unwrap();
    assert_revoked(&node, &[&one, &two]);
    fs::remove_file(&files.crl).unwrap();
    let node = Identity::load(&files).unwrap();
    assert_revoked(&node, &[&one, &two]);
    node.keep_lists().unwrap();
    assert_eq!(fs::read_to_string(&files.crl).ok(), node.crl_pem());
}

#[test]
fn a_file_that_nobody_has_read_is_not_written_over() {
    let cluster = Cluster::new("prod");
    let [one, two] = [1, 2].map(|n| cluster.identity(&format!("node-{n}"), Role::Node));
    let (_dir, files, node) = told(&cluster, &[&list(&cluster, &one, None)]);
    let copied = list(&cluster, &two, None);
    // Half of it is there.
    fs::write(&files.crl, &copied[..100]).unwrap();
    let error = node.keep_lists().unwrap_err();
    assert!(matches!(error, IdentityError::Crl { .. }), "{error}");
    assert_eq!(fs::read_to_string(&files.crl).unwrap(), copied[..100]);
    fs::write(&files.crl, &copied).unwrap();
    node.keep_lists().unwrap();
    assert_revoked(&node, &[&one, &two]);
    assert_eq!(fs::read_to_string(&files.crl).ok(), node.crl_pem());
}

#[test]
fn lists_that_each_name_another_certificate_are_kept_up_to_a_bound() {
    let cluster = Cluster::new("prod");
    let bad: Vec<_> = (0..=MAX_CRLS)
        .map(|n| cluster.identity(&format!("node-{n}"), Role::Node))
        .collect();
    let (_dir, files, node) = told(&cluster, &[]);
    for bad in &bad[1..] {
        node.learn(&der(&list(&cluster, bad, None))).unwrap();
    }
    let more = list(&cluster, &bad[0], None);
    assert_eq!(node.learn(&der(&more)), Err(CrlError::TooMany));
    assert_eq!(node.revoked_count(), MAX_CRLS);
    node.keep_lists().unwrap();
    assert_eq!(Identity::load(&files).unwrap().revoked_count(), MAX_CRLS);
    let all = list(&cluster, &bad[0], node.crl_pem().as_deref());
    assert_eq!(node.learn(&der(&all)), Ok(Learned::Newer));
    assert_eq!((node.revoked_count(), node.crls().len()), (bad.len(), 1));
}

#[test]
fn foreign_and_changed_lists_are_refused_and_the_old_one_is_kept() {
    let (cluster, other) = (Cluster::new("prod"), Cluster::new("prod"));
    let [node, bad] = ["node-1", "node-2"].map(|host| cluster.identity(host, Role::Node));
    let good = der(&list(&cluster, &bad, None));
    node.learn(&good).unwrap();
    let stranger = other.identity("node-1", Role::Node);
    let foreign = node.learn(&der(&list(&other, &stranger, None)));
    assert!(matches!(foreign, Err(CrlError::Foreign(_))), "{foreign:?}");
    let fresh = cluster.identity("node-4", Role::Node);
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert!(fresh.learn(&changed).is_err(), "byte {at}");
        assert!(fresh.learn(&good[..at]).is_err());
    }
    assert!(fresh.learn(&[&good[..], &[0]].concat()).is_err());
    assert_eq!(fresh.learn(&vec![0x30; 2 << 20]), Err(CrlError::TooLarge));
    assert_eq!(node.check(&id(&bad)), Err(Distrust::Revoked));
}

async fn meet(server: &Arc<Identity>, client: &Arc<Identity>) -> (String, String) {
    let (here, there) = duplex(64 << 10);
    let (here, there) = tokio::join!(
        TlsAcceptor::from(server.server_config(&[])).accept(here),
        TlsConnector::from(client.client_config(&[])).connect(server_name(), there),
    );
    let here = here.map(drop).map_err(|error| explain_io(&error));
    // A client hears of its refusal when it reads.
    let there = match there {
        Ok(mut stream) => stream.read(&mut [0]).await.map(drop),
        Err(error) => Err(error),
    };
    let there = there.map_err(|error| explain_io(&error));
    (here.unwrap_err(), there.unwrap_err())
}

#[tokio::test]
async fn both_sides_learn_that_a_certificate_was_revoked() {
    let cluster = Cluster::new("prod");
    let (seed, node) = (
        cluster.identity("seed-1", Role::Seed),
        cluster.identity("node-1", Role::Node),
    );
    let (ours, theirs) = (
        "we refused the peer's certificate: it was revoked",
        "the peer refused our certificate: it was revoked",
    );
    seed.learn(&der(&list(&cluster, &node, None))).unwrap();
    let (here, there) = meet(&seed, &node).await;
    assert!(
        here.contains(ours) && there.contains(theirs),
        "{here}; {there}"
    );
    let (here, there) = meet(&node, &seed).await;
    assert!(
        here.contains(theirs) && there.contains(ours),
        "{here}; {there}"
    );
}

fn installed(cluster: &Cluster) -> (tempfile::TempDir, TlsFiles, Identity) {
    let dir = tempfile::tempdir().unwrap();
    let issued = cluster.authority.issue(&subject("node-1", Role::Node), 30);
    let authority = cluster.authority.cert_pem();
    let files = write_host(dir.path(), authority, &issued.unwrap(), Existing::Keep).unwrap();
    let identity = Identity::load(&files).unwrap();
    (dir, files, identity)
}

#[test]
fn lists_are_read_from_the_file_and_bad_ones_leave_all_as_it_was() {
    let cluster = Cluster::new("prod");
    let (_dir, files, node) = installed(&cluster);
    let bad = cluster.identity("node-2", Role::Node);
    assert!(!node.reload().unwrap().revocations);
    write_public(&files.crl, &list(&cluster, &bad, None)).unwrap();
    assert!(node.reload().unwrap().revocations);
    assert_eq!(node.check(&id(&bad)), Err(Distrust::Revoked));
    // What was learned can be written back.
    let text = node.crl_pem().unwrap();
    assert_eq!(Identity::load(&files).unwrap().crl_pem().unwrap(), text);

    fs::write(&files.crl, "rubbish").unwrap();
    let reloaded = node.reload().unwrap();
    assert_eq!((reloaded.revocations, reloaded.refused.len()), (false, 1));
    assert_eq!(node.check(&id(&bad)), Err(Distrust::Revoked));
    let error = Identity::load(&files).unwrap_err();
    assert!(matches!(error, IdentityError::Crl { .. }), "{error}");

    let other = Cluster::new("prod");
    let stranger = other.identity("node-1", Role::Node);
    write_public(&files.crl, &list(&other, &stranger, None)).unwrap();
    assert_eq!(node.reload().unwrap().refused.len(), 1);
    assert_eq!(Identity::load(&files).unwrap().revoked_count(), 0);
}

#[test]
fn a_revoked_host_does_not_start() {
    let cluster = Cluster::new("prod");
    let (_dir, files, node) = installed(&cluster);
    write_public(&files.crl, &list(&cluster, &node, None)).unwrap();
    node.reload().unwrap();
    assert_eq!(node.check_own(), Err(Distrust::Revoked));
    let error = Identity::load(&files).unwrap_err().to_string();
    assert!(
        error.contains("was revoked") && error.contains("cert.pem"),
        "{error}"
    );
}

#[test]
fn an_authority_that_is_taken_out_is_no_longer_believed() {
    let (old, new) = (Cluster::new("prod"), Cluster::new("prod"));
    let (_dir, files, node) = installed(&old);
    let peers = [&old, &new].map(|cluster| cluster.identity("seed-1", Role::Seed));
    assert_eq!(node.check(&id(&peers[1])), Err(Distrust::Authority));
    let both = [old.authority.cert_pem(), new.authority.cert_pem()].concat();
    write_public(&files.ca, &both).unwrap();
    assert!(node.reload().unwrap().authorities);
    for peer in &peers {
        assert_eq!(node.check(&id(peer)), Ok(()));
    }
    // The host's own certificate is of the old one: it cannot part with that yet.
    write_public(&files.ca, new.authority.cert_pem()).unwrap();
    let error = node.reload().unwrap_err();
    assert!(
        matches!(error, IdentityError::OtherAuthority { .. }),
        "{error}"
    );
    assert_eq!(node.check(&id(&peers[0])), Ok(()));
    let issued = new.authority.issue(&subject("node-1", Role::Node), 30);
    let authority = new.authority.cert_pem();
    let dir = files.ca.parent().unwrap();
    write_host(dir, authority, &issued.unwrap(), Existing::Replace).unwrap();
    let reloaded = node.reload().unwrap();
    assert!(reloaded.certificate && reloaded.authorities);
    assert_eq!(node.check(&id(&peers[0])), Err(Distrust::Authority));
    assert_eq!(node.check(&id(&peers[1])), Ok(()));
}
