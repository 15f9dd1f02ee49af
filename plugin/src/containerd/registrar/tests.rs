use std::path::Path;

use hawker_snapshotter::DiffId;
use tokio::net::UnixListener;

use super::*;
use crate::{
    containerd::{
        ContentMetrics,
        api::ContentServer,
        content::ContentService,
        doubles::{Containerd, NAMESPACE},
    },
    content::tests::{Bed, registry, temp},
    layers::{ImageName, tests::lone_index},
};

/// A containerd that keeps its content in `store`, until the test ends.
async fn containerd_over(store: &ContentStore, socket: &Path) -> Containerd {
    let listener = UnixListener::bind(socket).unwrap();
    let incoming = futures::stream::unfold(listener, |listener| async {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let service = ContentService::new(store.clone(), ContentMetrics::default());
    let server = tonic::transport::Server::builder().add_service(ContentServer::new(service));
    tokio::spawn(server.serve_with_incoming(incoming));
    Containerd::start_over(socket).await
}

fn info(of: &[u8], labels: &[(&str, String)]) -> Info {
    let owned = |(key, value): &(&str, String)| ((*key).to_owned(), value.clone());
    Info {
        digest: Digest::of(of).to_string(),
        labels: labels.iter().map(owned).collect(),
        ..Info::default()
    }
}

#[test]
fn only_layers_that_a_manifest_holds_and_that_are_not_there_are_missing() {
    let digest = |of: &[u8]| Digest::of(of).to_string();
    let manifest = info(
        b"manifest",
        &[
            ("containerd.io/gc.ref.content.config", digest(b"config")),
            ("containerd.io/gc.ref.content.l.0", digest(b"there")),
            ("containerd.io/gc.ref.content.l.1", digest(b"missing")),
            ("containerd.io/gc.ref.content.l.2", "sha512:00".to_owned()),
        ],
    );
    // Its client discards layers that are unpacked.
    let discarding = info(
        b"discarding",
        &[("containerd.io/gc.ref.content.config", digest(b"c"))],
    );
    let missing = missing(&[manifest, discarding, info(b"there", &[])]);
    assert_eq!(Vec::from_iter(missing), [Digest::of(b"missing")]);
}

#[test]
fn labels_are_those_of_containerds_clients() {
    let diff_id = DiffId::from(Digest::of(b"tar"));
    let image = |name: &str| ImageName::parse(name).unwrap();
    let story = LayerStory {
        size: Some(1),
        images: vec![image("r.io:5000/b"), image("r.io/a"), image("s.io/x")],
        diff_id: Some(diff_id),
    };
    let labels: BTreeMap<_, _> = labels(&story).into_iter().collect();
    let expected = [
        ("containerd.io/distribution.source.r.io", "a,b"),
        ("containerd.io/distribution.source.s.io", "x"),
        ("containerd.io/uncompressed", &diff_id.to_string()),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(labels, BTreeMap::from(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_is_told_of_content_without_a_byte_of_it() {
    let containerd = Containerd::start().await;
    let client = containerd.client();
    // The store has it, because another namespace does.
    containerd.commit_labelled("another", b"layer", &[]).await;
    let registration = Registration {
        digest: Digest::of(b"layer"),
        size: 5,
        // No manifest refers to it: containerd's collector runs just after the start.
        labels: HashMap::from([
            ("a".to_owned(), "b".to_owned()),
            ("containerd.io/gc.root".to_owned(), "now".to_owned()),
        ]),
    };
    client
        .register(NAMESPACE, registration.clone())
        .await
        .unwrap();
    let infos = client.list_content(NAMESPACE, &[]).await.unwrap();
    assert_eq!(infos.len(), 1);
    assert_eq!((infos[0].size, &infos[0].labels), (5, &registration.labels));
    let bytes = client
        .read_content(NAMESPACE, &registration.digest, 100)
        .await
        .unwrap();
    assert_eq!(bytes, b"layer");
    // Once more changes nothing.
    let again = client.register(NAMESPACE, registration).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    assert!(
        client
            .namespaces()
            .await
            .unwrap()
            .contains(&NAMESPACE.to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_the_store_does_not_have_is_not_begun() {
    let containerd = Containerd::start().await;
    let client = containerd.client();
    let register = async |size| {
        let registration = Registration {
            digest: Digest::of(b"layer"),
            size,
            labels: HashMap::new(),
        };
        client.register(NAMESPACE, registration).await.unwrap_err()
    };
    let refused = register(5).await;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    // With another length than the store's.
    containerd.commit_labelled("another", b"layer", &[]).await;
    let refused = register(6).await;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let infos = client.list_content(NAMESPACE, &[]).await.unwrap();
    assert!(infos.is_empty());
    let statuses = containerd_client::services::v1::ListStatusesRequest::default();
    let request = crate::containerd::client::within(NAMESPACE, statuses).unwrap();
    let statuses = client.content().list_statuses(request).await.unwrap();
    assert!(statuses.into_inner().statuses.is_empty(), "it was aborted");
}

#[tokio::test(flavor = "multi_thread")]
async fn layer_that_the_store_has_is_registered_where_a_manifest_holds_it() {
    let (dir, layer) = (temp(), bytes::Bytes::from_static(b"a layer"));
    let origin = registry(std::slice::from_ref(&layer)).await;
    let address = origin.address.to_string();
    let bed = Box::pin(Bed::open(dir.path(), &address)).await;
    let containerd = containerd_over(&bed.store, &dir.path().join("sock")).await;
    let (_index, images) = lone_index().await;
    let clerk = Clerk {
        client: containerd.client(),
        content: bed.store.clone(),
        images,
        patience: PATIENCE,
    };
    let digest = Digest::of(&layer);
    let held = format!("{LAYER}0");
    let text = digest.to_string();
    let labels = [(held.as_str(), text.as_str())];
    containerd
        .commit_labelled(NAMESPACE, b"a manifest", &labels)
        .await;
    let has = async |what: Digest| {
        let infos = clerk.client.list_content(NAMESPACE, &[]).await.unwrap();
        infos.iter().any(|info| info.digest == what.to_string())
    };
    // The store does not have it: there is nothing to register.
    clerk.complete_once(NAMESPACE).await.unwrap();
    assert!(has(Digest::of(b"a manifest")).await && !has(digest).await);
    bed.promise(&address, "team/app", &layer).await.unwrap();
    clerk.complete_once(NAMESPACE).await.unwrap();
    assert!(has(digest).await);
    let read = clerk.client.read_content(NAMESPACE, &digest, 100).await;
    assert_eq!(read.unwrap(), layer);
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_that_is_late_or_hangs_is_asked_again_for_what_was_left_undone() {
    let dir = temp();
    let bed = Box::pin(Bed::open(dir.path(), "127.0.0.1:1")).await;
    let (_index, images) = lone_index().await;
    let socket = dir.path().join("late");
    let clerk = Clerk {
        client: ContainerdClient::new(&socket),
        content: bed.store.clone(),
        images,
        patience: Duration::from_millis(100),
    };
    let told = Arc::new(Told::default());
    let noted = Arc::clone(&told);
    let pause = Duration::from_millis(10);
    let recalling = tokio::spawn(async move { clerk.recall(&noted, pause).await });
    sleep(pause * 3).await;
    // It takes the call and never answers.
    let hung = UnixListener::bind(&socket).unwrap();
    drop(hung.accept().await.unwrap());
    let (stream, _) = hung.accept().await.unwrap();
    sleep(pause * 20).await;
    assert!(!recalling.is_finished());
    drop((stream, hung));
    let containerd = Containerd::start().await;
    containerd.commit_labelled(NAMESPACE, b"x", &[]).await;
    std::fs::remove_file(&socket).unwrap();
    std::os::unix::fs::symlink(containerd.socket(), &socket).unwrap();
    timeout(Duration::from_secs(60), recalling)
        .await
        .unwrap()
        .unwrap();
    assert!(told.take().contains(NAMESPACE));
}
