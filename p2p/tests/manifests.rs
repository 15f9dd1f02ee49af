//! Seeds that tell what registries give for manifests, true ones and liars: real sockets and TLS.

#![allow(clippy::unwrap_used)] // a test's helpers may fail as its assertions do

mod support;

use std::time::Duration;

use bytes::Bytes;
use hawker_model::{Digest, HostId, Role};
use hawker_p2p::{GivenManifest, ManifestWish, NoSeed, Node, NodeRequest, Race, Resolution};
use hawker_swarm::{Secret, Source};

use crate::support::Cluster;

const MANIFEST: &[u8] = b"{\"layers\":[]}";

fn wish(target: &str) -> ManifestWish {
    ManifestWish {
        source: Source {
            url: format!("https://registry.example/v2/a/manifests/{target}"),
            authorization: Some(Secret::new("Bearer t")),
        },
        accept: "a/b".to_owned(),
        whole: true,
    }
}

fn by_digest() -> ManifestWish {
    wish(&Digest::of(MANIFEST).to_string())
}

fn given(bytes: &'static [u8]) -> GivenManifest {
    GivenManifest {
        digest: Digest::of(bytes),
        media_type: "a/b".to_owned(),
        length: bytes.len() as u64,
        bytes: Some(Bytes::from_static(bytes)),
    }
}

/// Says this of every manifest.
fn tell(seed: &Node, resolution: Resolution) {
    let mut requests = seed.requests().unwrap();
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            if let NodeRequest::Resolve { reply, .. } = request {
                let _ = reply.send(resolution.clone());
            }
        }
    });
}

async fn ask(node: &Node, wish: &ManifestWish) -> Result<Resolution, NoSeed> {
    node.ask_manifest(wish, &Race::default()).await
}

/// As often as it takes on a busy machine, where a sign of life may come too late.
async fn ask_patiently(node: &Node, wish: &ManifestWish) -> Result<Resolution, NoSeed> {
    loop {
        match ask(node, wish).await {
            Err(NoSeed::Silent(_) | NoSeed::Unreachable(_)) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            told => return told,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_tells_of_manifests_as_it_judges_claims() {
    let mut cluster = Cluster::new();
    let seed = cluster.seed("seed").await;
    let node = cluster.node("node").await;
    let mut requests = seed.requests().unwrap();
    let asker = node.clone();
    let asking = tokio::spawn(async move { ask_patiently(&asker, &wish("v1")).await });
    let NodeRequest::Resolve {
        host,
        wish: heard,
        reply,
    } = requests.recv().await.unwrap()
    else {
        panic!("no wish");
    };
    assert_eq!((host.as_str(), heard), ("node", wish("v1")));
    reply.send(Resolution::Given(given(MANIFEST))).unwrap();
    let told = asking.await.unwrap();
    assert_eq!(told, Ok(Resolution::Given(given(MANIFEST))));
    assert_eq!(ask(&seed, &wish("v1")).await, Err(NoSeed::Ourselves));
    let mut endless = wish("v1");
    endless.accept = "x".repeat(5000);
    assert_eq!(ask(&node, &endless).await, Err(NoSeed::TooLong));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_gives_wrong_manifests_is_parted_with_and_the_next_one_is_asked() {
    let wrong_bytes = GivenManifest {
        digest: Digest::of(MANIFEST),
        ..given(b"{\"layers\":[1]}")
    };
    let without_bytes = GivenManifest {
        bytes: None,
        ..given(MANIFEST)
    };
    for lie in [given(b"another"), wrong_bytes, without_bytes] {
        let mut cluster = Cluster::new();
        let seeds = [cluster.seed("one").await, cluster.seed("two").await];
        let node = cluster.node("node").await;
        // Whichever is asked first.
        let mut requests = seeds.each_ref().map(|seed| seed.requests().unwrap());
        let [one, two] = &mut requests;
        let asker = node.clone();
        let asking = tokio::spawn(async move { ask_patiently(&asker, &by_digest()).await });
        let (first, request) = tokio::select! {
            request = one.recv() => (0, request),
            request = two.recv() => (1, request),
        };
        let Some(NodeRequest::Resolve { reply, .. }) = request else {
            panic!("no wish");
        };
        reply.send(Resolution::Given(lie)).unwrap();
        let Some(NodeRequest::Resolve { reply, .. }) = requests[1 - first].recv().await else {
            panic!("no wish");
        };
        reply.send(Resolution::Given(given(MANIFEST))).unwrap();
        let told = asking.await.unwrap();
        assert_eq!(told, Ok(Resolution::Given(given(MANIFEST))));
        let liar = HostId::parse(["one", "two"][first]).unwrap();
        let status = node.status().await.unwrap();
        assert_eq!(status.quarantined, [liar]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_network_tells_only_what_proves_itself_and_hears_no_credential() {
    let mut cluster = Cluster::new();
    let seed = cluster.plain("seed", Role::Seed).await;
    tell(&seed, Resolution::Given(given(MANIFEST)));
    cluster.know("seed", &seed);
    let node = cluster.plain("node", Role::Node).await;
    assert_eq!(ask(&node, &by_digest()).await, Err(NoSeed::Plain));
    let (mut tag, mut digest) = (wish("v1"), by_digest());
    (tag.source.authorization, digest.source.authorization) = (None, None);
    assert_eq!(ask(&node, &tag).await, Err(NoSeed::PlainWord));
    let told = ask_patiently(&node, &digest).await;
    assert_eq!(told, Ok(Resolution::Given(given(MANIFEST))));
    digest.whole = false;
    assert_eq!(ask(&node, &digest).await, Err(NoSeed::PlainWord));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_manifest_comes_whole_and_one_that_is_longer_not_at_all() {
    let mut cluster = Cluster::new();
    let seed = cluster.seed("seed").await;
    let node = cluster.node("node").await;
    let mut requests = seed.requests().unwrap();
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            let NodeRequest::Resolve { wish, reply, .. } = request else {
                continue;
            };
            let (_, length) = wish.source.url.rsplit_once('-').unwrap();
            let bytes = Bytes::from(vec![b' '; length.parse().unwrap()]);
            let manifest = GivenManifest {
                digest: Digest::of(&bytes),
                length: bytes.len() as u64,
                bytes: Some(bytes),
                ..given(MANIFEST)
            };
            let _ = reply.send(Resolution::Given(manifest));
        }
    });
    for (length, is_given) in [(256 << 10, true), ((256 << 10) + 1, false)] {
        let told = ask_patiently(&node, &wish(&format!("v-{length}"))).await;
        match told.unwrap() {
            Resolution::Given(manifest) => assert!(is_given && manifest.length == length),
            Resolution::Failed(_) => assert!(!is_given),
            other => panic!("{other:?}"),
        }
    }
}
