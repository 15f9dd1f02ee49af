//! Who may sign, as every host sees it.

mod cluster;

use std::time::{Duration, SystemTime};

use cluster::{Cluster, DAY};
use hawker_identity::SignerError;
use hawker_model::Role;

#[test]
fn a_signature_tells_who_made_it() {
    let cluster = Cluster::new("prod");
    let seed = cluster.identity("seed-1", Role::Seed);
    let node = cluster.identity("node-1", Role::Node);
    let signature = seed.sign(b"values").signature;
    assert_eq!(signature.len(), 64);
    // The second time it comes from memory.
    for _ in 0..2 {
        let signer = node.verify_signer(&seed.certificate(), b"values", &signature);
        let signer = signer.unwrap();
        assert_eq!((signer.host.as_str(), signer.role), ("seed-1", Role::Seed));
        assert_eq!(signer.cluster, "prod");
    }
}

#[test]
fn another_message_or_signer_is_not_believed() {
    let cluster = Cluster::new("prod");
    let seed = cluster.identity("seed-1", Role::Seed);
    let node = cluster.identity("node-1", Role::Node);
    let signature = seed.sign(b"values").signature;
    let forged = SignerError::Signature("seed-1".to_owned());
    let check = |message: &[u8], signature: &[u8]| {
        node.verify_signer(&seed.certificate(), message, signature)
    };
    assert_eq!(check(b"valuez", &signature), Err(forged.clone()));
    assert_eq!(
        check(b"values", &node.sign(b"values").signature),
        Err(forged.clone())
    );
    assert_eq!(check(b"values", &signature[..63]), Err(forged.clone()));
    assert_eq!(check(b"values", b""), Err(forged));
}

#[test]
fn strangers_and_rubbish_do_not_sign() {
    let node = Cluster::new("prod").identity("node-1", Role::Node);
    // Same names, another authority.
    let stranger = Cluster::new("prod").identity("seed-1", Role::Seed);
    let signature = stranger.sign(b"values").signature;
    let error = node.verify_signer(&stranger.certificate(), b"values", &signature);
    let text = error.unwrap_err().to_string();
    assert!(text.contains("unknown authority"), "{text}");
    for rubbish in [&b""[..], b"\x30\x82", &[0x30; 600]] {
        let error = node.verify_signer(rubbish, b"values", &signature);
        assert!(matches!(error, Err(SignerError::Untrusted(_))));
    }
    let cut = &node.certificate()[..200];
    assert!(node.verify_signer(cut, b"values", &signature).is_err());
}

#[test]
fn a_remembered_signer_expires_all_the_same() {
    let cluster = Cluster::new("prod");
    let seed = cluster.identity("seed-1", Role::Seed);
    let node = cluster.identity("node-1", Role::Node);
    let signature = seed.sign(b"values").signature;
    let at = |now| node.verify_signer_at(&seed.certificate(), b"values", &signature, now);
    let now = SystemTime::now();
    assert!(at(now).is_ok());
    assert!(matches!(
        at(now + DAY * 31),
        Err(SignerError::NotNow { .. })
    ));
    assert!(matches!(
        at(now - Duration::from_secs(7200)),
        Err(SignerError::NotNow { .. })
    ));
    let fresh = cluster.identity("node-2", Role::Node);
    let late = fresh.verify_signer_at(&seed.certificate(), b"values", &signature, now + DAY * 31);
    let text = late.unwrap_err().to_string();
    assert!(text.contains("expired on"), "{text}");
}
