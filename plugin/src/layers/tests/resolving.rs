//! What a seed says of manifests to other hosts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use hawker_p2p::{ManifestWish, Resolution, frame::MAX_MANIFEST_LEN};

use super::*;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

fn wish(origin: &Origin, target: &str, shown: Option<&str>) -> ManifestWish {
    ManifestWish {
        source: Source {
            url: format!("http://{}/v2/a/manifests/{target}", origin.address),
            authorization: shown.map(Secret::new),
        },
        accept: OCI.to_owned(),
        whole: true,
    }
}

fn told(bytes: &Bytes) -> Reply {
    let digest = Digest::of(bytes).to_string();
    Reply::bytes(bytes.clone())
        .with("content-type", OCI)
        .with("docker-content-digest", &digest)
}

fn is_denied(resolution: &Resolution) -> bool {
    matches!(resolution, Resolution::Denied { status: 401, .. })
}

#[tokio::test]
async fn a_seed_resolves_by_the_credential_shown_alone() {
    let bytes = Bytes::from_static(b"{}");
    let answer = bytes.clone();
    let origin = Origin::start(move |seen| match seen.header("authorization") {
        Some("Bearer a") => told(&answer),
        _ => Reply::status(401).with("www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let bed = Bed::start(&origin, "").await;
    let access = bed.layers.access();
    let digest = Digest::of(&bytes).to_string();
    for target in ["v1", &digest] {
        let resolution = access
            .resolve(&wish(&origin, target, Some("Bearer a")))
            .await;
        let Resolution::Given(given) = resolution else {
            panic!("{resolution:?}");
        };
        assert_eq!(
            (given.digest, given.bytes),
            (Digest::of(&bytes), Some(bytes.clone()))
        );
        assert_eq!((given.media_type.as_str(), given.length), (OCI, 2));
        let mut head = wish(&origin, target, Some("Bearer a"));
        head.whole = false;
        let resolution = access.resolve(&head).await;
        assert!(matches!(resolution, Resolution::Given(given) if given.bytes.is_none()));
        let other = wish(&origin, target, Some("Bearer b"));
        assert!(is_denied(&access.resolve(&other).await));
        // Nobody was refused a moment ago.
        let nobody = access.resolve(&wish(&origin, target, None)).await;
        assert!(matches!(nobody, Resolution::Failed(_)), "{nobody:?}");
    }
    let asked = origin.seen().len();
    for _ in 0..20 {
        access
            .resolve(&wish(&origin, &digest, Some("Bearer a")))
            .await;
    }
    assert_eq!(origin.seen().len(), asked);
    let basic = access
        .resolve(&wish(&origin, "v1", Some("Basic YTpi")))
        .await;
    assert!(matches!(basic, Resolution::Failed(_)));
    assert_eq!(origin.seen().len(), asked, "no password is taken");
}

#[tokio::test]
async fn what_a_registry_says_wrongly_is_not_handed_on() {
    let wanted = Bytes::from_static(b"{}");
    let named = Digest::of(&wanted).to_string();
    let other = Digest::of(b"other").to_string();
    let long = Bytes::from(vec![b' '; MAX_MANIFEST_LEN + 1]);
    let bare = || Reply::bytes("{}").with("content-type", OCI);
    // What is said, of what, to whom it is handed on: GET, HEAD.
    for (reply, target, is_given) in [
        (bare(), "v1", (true, false)),
        (bare(), named.as_str(), (true, true)),
        (bare(), other.as_str(), (false, true)),
        (told(&wanted), other.as_str(), (false, false)),
        (
            bare().with("docker-content-digest", &other),
            "v1",
            (false, true),
        ),
        (Reply::bytes("{}"), "v1", (false, false)),
        (told(&wanted).without_length(), "v1", (true, false)),
        (told(&long), "v1", (false, true)),
        (told(&long).without_length(), "v1", (false, false)),
        (Reply::status(503), "v1", (false, false)),
    ] {
        for (whole, is_given) in [(true, is_given.0), (false, is_given.1)] {
            let reply = reply.clone();
            let origin = Origin::start(move |_| reply.clone()).await;
            let bed = Bed::start(&origin, "").await;
            let wish = ManifestWish {
                whole,
                ..wish(&origin, target, None)
            };
            let resolution = bed.layers.access().resolve(&wish).await;
            match resolution {
                Resolution::Given(_) => assert!(is_given, "{target} {whole}"),
                Resolution::Failed(_) => assert!(!is_given, "{target} {whole}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn only_manifests_of_registries_are_resolved() {
    let origin = Origin::start(|_| told(&Bytes::from_static(b"{}"))).await;
    let bed = Bed::start(&origin, "").await;
    let at = |path: &str| format!("http://{}{path}", origin.address);
    for url in [
        at("/v2/a/blobs/v1"),
        at("/v2/a/manifests/v1?x=1"),
        at("/v2/a/manifests/v1#x"),
        at("/v2/A/manifests/v1"),
        at("/v2/a/../b/manifests/v1"),
        at("/v2/a/manifests/.."),
        at("/v2/a/manifests/"),
        at("/x?/v2/a/manifests/v1"),
        at("\\v2/v2/a/manifests/v1"),
        at("/files/manifests/v1"),
        "file:///v2/a/manifests/v1".to_owned(),
        String::new(),
    ] {
        let mut wish = wish(&origin, "v1", None);
        wish.source.url = url.clone();
        let resolution = bed.layers.access().resolve(&wish).await;
        assert!(matches!(resolution, Resolution::Failed(_)), "{url}");
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn a_seed_does_not_resolve_where_its_own_login_or_header_is_shown() {
    let origin = Origin::start(|_| told(&Bytes::from_static(b"{}"))).await;
    let (dir, certs_d) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let registry = certs_d.path().join(origin.address.to_string());
    fs::create_dir_all(&registry).unwrap();
    fs::write(registry.join("hosts.toml"), "[header]\nx-key = \"ours\"\n").unwrap();
    let text = settings(dir.path(), &origin);
    let list = format!("[origin]\ncerts_d = [{:?}]", certs_d.path());
    let bed = Bed::with(dir, &text.replace("[origin]", &list)).await;
    for shown in [None, Some("Bearer t")] {
        let resolution = bed
            .layers
            .access()
            .resolve(&wish(&origin, "v1", shown))
            .await;
        let reason = "the seed has a login, header or client certificate of its own there";
        assert_eq!(resolution, Resolution::Failed(reason.to_owned()));
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn what_nobody_is_given_is_asked_for_in_nobodys_name_once() {
    // Refused, hidden, and too much of it.
    for (status, again) in [(401, 0), (404, 1), (429, 0)] {
        let bytes = Bytes::from_static(b"{}");
        let origin = Origin::start(move |seen| match seen.header("authorization") {
            Some(_) => told(&bytes),
            None => Reply::status(status).with("retry-after", "600"),
        })
        .await;
        let bed = Bed::start(&origin, "").await;
        let access = bed.layers.access();
        let resolve = async |target: &str, shown: &str| {
            let resolution = access.resolve(&wish(&origin, target, Some(shown))).await;
            assert!(matches!(resolution, Resolution::Given(_)), "{resolution:?}");
        };
        let of_nobody = || {
            let seen = origin.seen();
            let nobodys = seen.iter().filter(|s| s.header("authorization").is_none());
            nobodys.count()
        };
        for number in 0..5 {
            resolve("v1", &format!("Bearer {number}")).await;
        }
        assert_eq!(of_nobody(), 1, "{status}");
        // What is hidden may be another tag alone.
        resolve("v2", "Bearer t").await;
        assert_eq!(of_nobody(), 1 + again, "{status}");
    }
}

#[tokio::test]
async fn a_registry_that_was_down_is_asked_in_nobodys_name_again() {
    let bytes = Bytes::from_static(b"{}");
    let (answer, up) = (bytes.clone(), Arc::new(AtomicBool::new(false)));
    let is_up = Arc::clone(&up);
    let origin = Origin::start(move |_| match is_up.load(Ordering::Relaxed) {
        true => told(&answer),
        false => Reply::status(503),
    })
    .await;
    let bed = Bed::start(&origin, "").await;
    let access = bed.layers.access();
    let digest = Digest::of(&bytes).to_string();
    let down = access
        .resolve(&wish(&origin, &digest, Some("Bearer a")))
        .await;
    assert!(matches!(down, Resolution::Failed(_)), "{down:?}");
    up.store(true, Ordering::Relaxed);
    let before = origin.seen().len();
    for token in ["Bearer a", "Bearer b", "Bearer c"] {
        let resolution = access.resolve(&wish(&origin, &digest, Some(token))).await;
        assert!(matches!(resolution, Resolution::Given(_)), "{resolution:?}");
    }
    let asked = &origin.seen()[before..];
    assert_eq!(asked.len(), 1);
    assert!(asked[0].header("authorization").is_none());
}

#[tokio::test]
async fn a_token_service_that_is_down_is_not_waited_for_with_each_manifest() {
    let bytes = Bytes::from_static(b"{}");
    // Nobody listens there.
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let challenge = format!(
        "Bearer realm=\"http://{}/token\"",
        service.local_addr().unwrap()
    );
    drop(service);
    let origin = Origin::start(move |seen| match seen.header("authorization") {
        Some(_) => told(&bytes),
        None => Reply::status(401).with("www-authenticate", &challenge),
    })
    .await;
    let bed = Bed::start(&origin, "").await;
    let access = bed.layers.access();
    for number in 0..5 {
        for target in ["v1", "v2"] {
            let shown = format!("Bearer {number}");
            let wish = wish(&origin, target, Some(&shown));
            let resolution = access.resolve(&wish).await;
            assert!(matches!(resolution, Resolution::Given(_)), "{resolution:?}");
        }
    }
    let seen = origin.seen();
    let of_nobody = seen.iter().filter(|s| s.header("authorization").is_none());
    assert_eq!(of_nobody.count(), 1);
}
