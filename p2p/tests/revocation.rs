//! What the revocation of a host means to those that are connected to it, or hold what it signed.

#![allow(clippy::unwrap_used)]

mod support;

use std::{sync::Arc, time::Duration};

use hawker_identity::Identity;
use hawker_model::{HostId, Role};
use hawker_p2p::{Node, NodeSettings, Security, SeedAddress};

use crate::support::{Cluster, Origin, content, fetch};

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

fn identity(settings: &NodeSettings) -> Arc<Identity> {
    match &settings.security {
        Security::Tls(identity) => Arc::clone(identity),
        Security::Plain { .. } => panic!("no TLS"),
    }
}

/// Tells `host` that `bad` is revoked.
fn revoke(cluster: &Cluster, host: &Identity, bad: &Identity) {
    let list = cluster.ca.revoke(&[bad.serial()], None).unwrap();
    let lists = cluster.ca.own_lists(list.as_bytes()).unwrap();
    host.learn(lists[0].der()).unwrap();
}

async fn peers(node: &Node) -> usize {
    node.status().await.unwrap().peers.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_peer_is_cut_and_the_origin_asked_instead() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(1, 3 * MIB);
    let (task, source) = origin.add(&data);
    let settings = cluster.settings("seed", Role::Seed);
    let bad = identity(&settings);
    let seed = Node::start(settings).await.unwrap();
    cluster.know("seed", &seed);
    let settings = cluster.settings("n1", Role::Node);
    let own = identity(&settings);
    let node = Node::start(settings).await.unwrap();
    assert_eq!(fetch(&node, task, &source).await.unwrap(), data);
    assert_eq!((peers(&node).await, node.bytes().origin), (1, 0));
    revoke(&cluster, &own, &bad);
    let cut = async {
        while peers(&node).await + peers(&seed).await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, cut).await.unwrap();
    // It is not let in again, and nothing more comes from it.
    let (task, source) = origin.add(&content(2, MIB));
    assert_eq!(fetch(&node, task, &source).await.unwrap(), content(2, MIB));
    assert_eq!(node.bytes().origin, MIB as u64);
    assert_eq!(peers(&node).await, 0);
    node.shutdown().await;
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_a_blob_vouches_for_it_when_its_signer_is_revoked() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(3, 3 * MIB);
    let (task, source) = origin.add(&data);
    let settings = cluster.settings("seed", Role::Seed);
    let bad = identity(&settings);
    let seed = Node::start(settings).await.unwrap();
    cluster.know("seed", &seed);
    let settings = cluster.settings("n1", Role::Node);
    let own = identity(&settings);
    let holder = Node::start(settings).await.unwrap();
    assert_eq!(fetch(&holder, task, &source).await.unwrap(), data);
    seed.shutdown().await;
    revoke(&cluster, &own, &bad);

    let mut settings = cluster.settings("n2", Role::Node);
    settings.seeds = vec![SeedAddress {
        host: HostId::parse("n1").unwrap(),
        address: holder.peer_address().unwrap().to_string(),
    }];
    revoke(&cluster, &identity(&settings), &bad);
    let node = Node::start(settings).await.unwrap();
    assert_eq!(fetch(&node, task, &source).await.unwrap(), data);
    assert_eq!(node.bytes().origin, 0);
    assert_eq!(origin.bytes(), data.len() as u64);
    node.shutdown().await;
    holder.shutdown().await;
}
